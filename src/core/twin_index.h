/**
 * The index of tags: which twins have a scalar at a path below `tags` (store/state_twin.h). A path is the names joined
 * by dots (names hold none); a value is a letter for its type and its text, so that equal values have equal keys:
 * numbers however they are written, strings by their first bytes. What is found is therefore to be compared again.
 */
#ifndef NV_CORE_TWIN_INDEX_H
#define NV_CORE_TWIN_INDEX_H

#include "store/state_twin.h"

/* Longer paths are not in the index. */
#define NV_TWIN_INDEX_PATH_MAX 256u
/* Of a string, this much is in the key: cut between two characters, and in front of a NUL. */
#define NV_TWIN_INDEX_TEXT_MAX 128u
/* Room for any key. */
#define NV_TWIN_INDEX_VALUE_MAX (1u + NV_TWIN_INDEX_TEXT_MAX)

/** The key of a value; @return its length */
size_t nv_twin_index_string(nv_span text, uint8_t out[NV_TWIN_INDEX_VALUE_MAX]);
size_t nv_twin_index_number(double value, uint8_t out[NV_TWIN_INDEX_VALUE_MAX]);
size_t nv_twin_index_bool(bool value, uint8_t out[NV_TWIN_INDEX_VALUE_MAX]);

/** Bring the index from the tags @p before to the tags @p after (sections as stored). Within the same transaction. */
NV_NODISCARD nv_err nv_twin_index_update(nv_txn *txn, nv_span device_id, nv_span module_id, nv_span before,
                                         nv_span after);

#endif
