/** What a query text says: semantics.md sections 2.2 and 2.3. Internal to core/query*.c. */
#ifndef NV_CORE_QUERY_TREE_H
#define NV_CORE_QUERY_TREE_H

#include "core/expr.h"

#define NV_QUERY_COLUMNS_MAX 100u

typedef enum nv_query_from { NV_FROM_DEVICES, NV_FROM_MODULES, NV_FROM_JOBS } nv_query_from;

typedef enum nv_aggregate {
    NV_AGGREGATE_NONE, /* the property itself */
    NV_AGGREGATE_COUNT,
    NV_AGGREGATE_AVG,
    NV_AGGREGATE_SUM,
    NV_AGGREGATE_MIN,
    NV_AGGREGATE_MAX
} nv_aggregate;

/** One item of the list behind SELECT. */
typedef struct nv_query_column {
    nv_aggregate aggregate;
    const nv_expr_path *path; /* NULL: COUNT of rows */
    nv_span name;             /* in the answer */
    nv_expr_pos pos;
} nv_query_column;

typedef struct nv_query_tree {
    nv_query_from from;
    bool all; /* SELECT *: no columns */
    bool has_top;
    uint32_t top;
    nv_query_column *columns;
    uint32_t column_count;
    const nv_expr *where; /* NULL: every row */
    const nv_expr_path **group_by;
    uint32_t group_by_count;
    bool grouped; /* by GROUP BY or by an aggregate: a row of the answer stands for many */
    nv_expr_path *paths;
    uint32_t path_count;
} nv_query_tree;

#define NV_QUERY_DETAIL_SIZE 200u

/**
 * Parse and check. Names of root fields are bound (core/query_row.h).
 * @param text    outlives the tree
 * @param arena   holds the tree
 * @param detail  on failure "The query is invalid: <what>, line L, column C"
 * @return false: refused
 */
bool nv_query_parse(nv_span text, nv_arena *arena, nv_query_tree *tree, char detail[NV_QUERY_DETAIL_SIZE]);

#endif
