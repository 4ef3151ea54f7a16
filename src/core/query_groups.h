/** Aggregates and GROUP BY: one accumulator per group and column, all groups bounded. Internal to core/query*.c. */
#ifndef NV_CORE_QUERY_GROUPS_H
#define NV_CORE_QUERY_GROUPS_H

#include "base/buf.h"
#include "base/map.h"
#include "core/query_tree.h"

#define NV_QUERY_GROUPS_MAX      10000u
#define NV_QUERY_GROUP_BYTES_MAX ((size_t)16 << 20) /* of keys and accumulators of one query */

typedef struct nv_query_group nv_query_group;

typedef struct nv_query_groups {
    const nv_query_tree *tree; /* borrowed */
    nv_map map;                /* by key */
    nv_arena arena;            /* groups and what they point at */
    size_t bytes;
    nv_buf key;              /* of the row at hand */
    nv_query_group **sorted; /* by number, once the first page was written: nothing is added from then on */
} nv_query_groups;

void nv_query_groups_init(nv_query_groups *groups, const nv_query_tree *tree);
void nv_query_groups_deinit(nv_query_groups *groups);

/**
 * Add one row.
 * @return NV_E_LIMIT more groups than the bounds allow; NV_E_NO_MEMORY
 */
NV_NODISCARD nv_err nv_query_groups_add(nv_query_groups *groups, const nv_expr_env *env);

/** What they hold in memory, about. */
size_t nv_query_groups_bytes(const nv_query_groups *groups);

/**
 * Write at most @p limit groups as elements of an array, in an order that does not depend on what other groups there
 * are, so that pages of later runs continue where this one ended.
 * @param after  a group's number; NULL: from the first on
 * @param last   the number of the last one written
 * @return how many were written; *more tells whether there are others behind them
 */
uint32_t nv_query_groups_write(nv_query_groups *groups, const uint64_t *after, uint32_t limit, struct nv_json_writer *w,
                               uint64_t *last, bool *more);

/** One row of the answer that is not grouped: the columns as an object; what is not there is left out. */
void nv_query_columns_write(const nv_query_tree *tree, const nv_expr_env *env, struct nv_json_writer *w);

#endif
