/**
 * Merging what a client sent into a section of a twin (semantics.md section 1.5), and its metadata with it. Text that
 * is not touched is copied in runs without being understood. Internal to the core's twins; pure.
 */
#ifndef NV_CORE_TWIN_MERGE_H
#define NV_CORE_TWIN_MERGE_H

#include "core/twin_metadata.h"
#include "core/twin_patch.h"

/** A section as stored, or as it becomes. */
typedef struct nv_twin_section {
    nv_buf text;
    nv_buf metadata;
} nv_twin_section;

/** Allocates nothing. */
void nv_twin_section_init(nv_twin_section *section);
void nv_twin_section_deinit(nv_twin_section *section);

/**
 * Merge node @p index, an object, into @p text and @p metadata. What is named in the patch is stamped, and what it
 * stands in; the rest keeps its stamps.
 * @param metadata  entries of @p text; empty: the section is as created, {}
 * @param stamp     NULL: the section keeps no metadata (tags)
 * @param out       receives the result; cleared first
 * @return NV_E_CORRUPT text and metadata are none that this wrote; NV_E_NO_MEMORY
 */
NV_NODISCARD nv_err nv_twin_merge(nv_twin_patch *patch, uint32_t index, nv_span text, nv_span metadata,
                                  const nv_twin_stamp *stamp, nv_twin_section *out);

/** The section becomes what node @p index holds; null or 0: nothing. Everything is stamped. */
NV_NODISCARD nv_err nv_twin_replace(const nv_twin_patch *patch, uint32_t index, const nv_twin_stamp *stamp,
                                    nv_twin_section *out);

/** The node as the client sent it, in normal form, nulls included. */
NV_NODISCARD nv_err nv_twin_node_write(const nv_twin_patch *patch, uint32_t index, nv_buf *out);

/** $metadata of what node @p index changed: the nodes that are not null, all with this stamp. */
void nv_twin_node_metadata_write(const nv_twin_patch *patch, uint32_t index, const nv_twin_stamp *stamp,
                                 struct nv_json_writer *w);

#endif
