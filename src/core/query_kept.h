/**
 * Groups of answers that have further pages: kept for a minute, so that the pages of one answer cost one look at the
 * fleet and are of one moment. Only memory is saved by forgetting them: a page that finds none makes them anew.
 * Internal to core/query*.c. One of these per loop; everything is on that loop.
 */
#ifndef NV_CORE_QUERY_KEPT_H
#define NV_CORE_QUERY_KEPT_H

#include "core/hub.h"
#include "core/query_groups.h"

#define NV_QUERY_KEPT_US    (60 * NV_US_PER_S)
#define NV_QUERY_KEPT_BYTES ((size_t)16 << 20) /* of all answers that a loop keeps */
#define NV_QUERY_KEPT_COUNT 16u

typedef struct nv_query_kept nv_query_kept;

/** What the groups are made of; what it owns moves as a whole. */
typedef struct nv_query_result {
    nv_arena arena; /* of the tree */
    nv_query_tree tree;
    nv_query_groups groups;
} nv_query_result;
void nv_query_result_deinit(nv_query_result *result);

nv_query_kept *nv_query_kept_new(nv_hub_loop *loop);
/** NULL is fine. */
void nv_query_kept_free(nv_query_kept *kept);
/** Keep @p result, which is taken over (it is freed at once when it is too large), as what @p text gives now. */
void nv_query_kept_put(nv_query_kept *kept, nv_span text, nv_query_result *result);
/**
 * The groups of @p text, as they were less than NV_QUERY_KEPT_US ago; valid until the next call of these functions.
 * @return NULL: there are none
 */
nv_query_groups *nv_query_kept_get(nv_query_kept *kept, nv_span text);

#endif
