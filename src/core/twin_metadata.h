/**
 * $metadata of desired and reported properties (semantics.md section 1.6): when each was last written, and for desired
 * by which version.
 *
 * It is kept beside the section's text, one entry for the section and then one per member in the order of the text,
 * members of objects behind their object; what is inside of an array has none. So it needs no names, and an entry is
 * found by counting members. An entry is 8 bytes, the time in microseconds since 1970; in the metadata of desired
 * properties 8 more, the version, 0 = none. Little-endian. No entry at all: the section is as the twin was created.
 */
#ifndef NV_CORE_TWIN_METADATA_H
#define NV_CORE_TWIN_METADATA_H

#include "base/buf.h"

struct nv_json_writer;

/** What an update stamps on what it touches. */
typedef struct nv_twin_stamp {
    int64_t us;       /* wall */
    bool versions;    /* of desired properties: entries carry the version */
    uint64_t version; /* 0: none */
} nv_twin_stamp;

static inline size_t nv_twin_entry_size(bool versions)
{
    return versions ? 16 : 8;
}

/** Append one entry. */
NV_NODISCARD nv_err nv_twin_entry_put(nv_buf *out, const nv_twin_stamp *stamp);

/**
 * The value of $metadata.
 * @param text      the section
 * @param metadata  its entries; where they are missing, @p created_us is shown
 */
void nv_twin_metadata_write(struct nv_json_writer *w, nv_span text, nv_span metadata, bool versions,
                            int64_t created_us);

/** {"$lastUpdated":...,"$lastUpdatedVersion":... of one stamp; the object stays open. */
void nv_twin_stamp_begin(struct nv_json_writer *w, const nv_twin_stamp *stamp);
/** A name that is JSON already, with its quotes. */
void nv_twin_name_write(struct nv_json_writer *w, nv_span quoted);

#endif
