/**
 * Twins in the state store: sections as compact JSON text, versions, and what is found by tags. Like all of the store
 * it knows no rules: which text stands in a row is core/twin.h's concern.
 *
 * An identity that nobody wrote a twin for has no row here; what is handed out for it is the initial twin. Rows go with
 * their identity (nv_txn_identity_delete).
 */
#ifndef NV_STORE_STATE_TWIN_H
#define NV_STORE_STATE_TWIN_H

#include "store/state.h"

/** One twin. Spans as those of state.h: until run() returns, or until visit() does. */
typedef struct nv_twin_row {
    bool stored;         /* false: nobody wrote it, this is the initial one */
    uint64_t generation; /* of its identity */
    uint64_t version;
    uint64_t etag;
    uint64_t desired_version;
    uint64_t reported_version;
    nv_span model_id;
    nv_span tags; /* the three sections: JSON objects, "{}" when empty */
    nv_span desired;
    nv_span reported;
    nv_span desired_metadata; /* bytes of core/twin_metadata.h; empty as long as nobody wrote, and in walks */
    nv_span reported_metadata;
} nv_twin_row;

/** The twin of an identity that nobody wrote (semantics.md section 1.2). */
static inline nv_twin_row nv_twin_row_initial(uint64_t generation)
{
    const nv_span empty = NV_SPAN_LIT("{}");
    return (nv_twin_row){.generation = generation,
                         .version = 2,
                         .etag = 1,
                         .desired_version = 1,
                         .reported_version = 1,
                         .tags = empty,
                         .desired = empty,
                         .reported = empty};
}

/* Thread, spans and errors of these: as those of state.h. */

/** @return NV_E_NOT_FOUND no such identity */
NV_NODISCARD nv_err nv_txn_twin_get(nv_txn *txn, nv_span device_id, nv_span module_id, nv_twin_row *row);
/**
 * Store @p row, which nv_txn_twin_get gave and the caller changed: row->stored tells whether it is there already.
 * @param metadata  whether the metadata changed too; with a row that is not there yet it is stored in any case
 */
NV_NODISCARD nv_err nv_txn_twin_put(nv_txn *txn, nv_span device_id, nv_span module_id, const nv_twin_row *row,
                                    bool metadata);

/** Make the twin findable by a tag, or no longer. Path and value are opaque bytes here (core/twin_index.h). */
NV_NODISCARD nv_err nv_txn_twin_tag_put(nv_txn *txn, nv_span device_id, nv_span module_id, nv_span path, nv_span value);
NV_NODISCARD nv_err nv_txn_twin_tag_delete(nv_txn *txn, nv_span device_id, nv_span module_id, nv_span path,
                                           nv_span value);

/** Which twins, and from where: those behind (after_device, after_module) in byte order of the ids. */
typedef struct nv_twin_walk {
    bool modules; /* of all devices; false: devices */
    nv_span after_device;
    nv_span after_module; /* with modules */
    uint32_t limit;       /* at most this many */
} nv_twin_walk;

/** Anything but NV_OK ends the walk and is returned. The visited rows have no metadata. */
typedef nv_err (*nv_twin_visit)(void *arg, const nv_identity_row *identity, const nv_twin_row *twin);
/** All identities with their twins. */
NV_NODISCARD nv_err nv_txn_twins_walk(nv_txn *txn, const nv_twin_walk *walk, nv_twin_visit visit, void *arg);
/** The modules of one name, of all devices behind after_device: the cost grows with the answer. */
NV_NODISCARD nv_err nv_txn_twins_of_module(nv_txn *txn, nv_span module_id, nv_span after_device, uint32_t limit,
                                           nv_twin_visit visit, void *arg);
/** Only those found by a tag: the cost grows with the answer. */
NV_NODISCARD nv_err nv_txn_twins_by_tag(nv_txn *txn, nv_span path, nv_span value, const nv_twin_walk *walk,
                                        nv_twin_visit visit, void *arg);

#endif
