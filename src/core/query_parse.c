/*
 *   query   = SELECT [ TOP n ] ( * | item { , item } ) FROM collection [ WHERE condition ] [ GROUP BY path { , path } ]
 *   item    = ( path | COUNT ( [ * | path ] ) | ( AVG | SUM | MIN | MAX ) ( path ) ) [ AS name ]
 */
#include "core/expr_parse.h"
#include "core/query_row.h"
#include "core/query_tree.h"

#include <stdio.h>

static const struct {
    const char *keyword;
    const char *name; /* in the answer when there is no AS */
    nv_aggregate aggregate;
} aggregates[] = {{"COUNT", "count", NV_AGGREGATE_COUNT},
                  {"AVG", "avg", NV_AGGREGATE_AVG},
                  {"SUM", "sum", NV_AGGREGATE_SUM},
                  {"MIN", "min", NV_AGGREGATE_MIN},
                  {"MAX", "max", NV_AGGREGATE_MAX}};

/* ---- the list behind SELECT --------------------------------------------------------------------------------- */

static const nv_expr_path *bound_path(nv_parser *p)
{
    nv_expr_path *path = nv_parser_path(p);
    if (path) {
        nv_query_bind(path);
    }
    return path;
}

/* At its opening parenthesis. */
static void take_aggregate(nv_parser *p, nv_query_column *column)
{
    nv_parser_advance(p);
    bool counts = column->aggregate == NV_AGGREGATE_COUNT;
    if (counts && (nv_parser_at_symbol(p, ")") || nv_parser_take_symbol(p, "*"))) {
        column->path = NULL;
    } else {
        column->path = bound_path(p);
    }
    nv_parser_need_symbol(p, ")");
}

static bool at_call(const nv_parser *p)
{
    nv_parser ahead = *p;
    nv_parser_advance(&ahead);
    return p->token.kind == NV_TOKEN_WORD && nv_parser_at_symbol(&ahead, "(");
}

static void take_call(nv_parser *p, nv_query_column *column)
{
    for (size_t i = 0; i < NV_COUNT_OF(aggregates); i++) {
        if (nv_parser_take_word(p, aggregates[i].keyword)) {
            column->aggregate = aggregates[i].aggregate;
            column->name = nv_span_str(aggregates[i].name);
            take_aggregate(p, column);
            return;
        }
    }
    nv_parser_expected(p, "a property or COUNT, AVG, SUM, MIN, MAX");
}

static nv_query_column take_column(nv_parser *p)
{
    nv_query_column column = {.pos = p->token.pos};
    if (at_call(p)) {
        take_call(p, &column);
    } else {
        column.path = bound_path(p);
        column.name = column.path ? nv_query_path_name(column.path) : NV_SPAN_EMPTY;
    }
    if (nv_parser_take_word(p, "AS")) {
        if (p->token.kind != NV_TOKEN_WORD) {
            nv_parser_expected(p, "a name behind AS");
        }
        column.name = p->token.text;
        nv_parser_advance(p);
    }
    return column;
}

static void add_column(nv_parser *p, nv_query_tree *tree, nv_query_column column)
{
    if (tree->column_count == NV_QUERY_COLUMNS_MAX) {
        nv_parser_fail(p, column.pos, "more than %u columns", NV_QUERY_COLUMNS_MAX);
    }
    for (uint32_t i = 0; !p->failed && i < tree->column_count; i++) {
        const nv_query_column *other = &tree->columns[i];
        if (nv_span_eq(other->name, column.name)) {
            if (other->aggregate == column.aggregate && other->path == column.path) {
                return; /* the same thing twice: once is enough */
            }
            nv_parser_fail(p, column.pos, "two columns would be called '%.*s', rename one with AS",
                           (int)(column.name.len < 40 ? column.name.len : 40), (const char *)column.name.ptr);
        }
    }
    if (!p->failed) {
        tree->columns[tree->column_count++] = column;
    }
}

static void take_select(nv_parser *p, nv_query_tree *tree)
{
    nv_parser_need_word(p, "SELECT");
    if (nv_parser_at_word(p, "TOP") && !p->failed) {
        nv_parser_advance(p);
        uint64_t top = 0;
        if (p->token.kind != NV_TOKEN_NUMBER || !nv_span_to_u64(p->token.text, &top) || top > INT32_MAX) {
            nv_parser_expected(p, "a whole number behind TOP");
        }
        tree->has_top = true;
        tree->top = (uint32_t)top;
        nv_parser_advance(p);
    }
    tree->all = nv_parser_take_symbol(p, "*");
    if (tree->all || p->failed) {
        return;
    }
    tree->columns = nv_arena_alloc(p->arena, NV_QUERY_COLUMNS_MAX * sizeof(*tree->columns));
    do {
        add_column(p, tree, take_column(p));
    } while (nv_parser_take_symbol(p, ","));
}

/* ---- the rest ----------------------------------------------------------------------------------------------- */

static void take_from(nv_parser *p, nv_query_tree *tree)
{
    if (!nv_parser_take_word(p, "FROM")) {
        nv_parser_expected(p, tree->all ? "FROM" : "',', AS or FROM");
    }
    if (!nv_parser_take_word(p, "devices")) {
        nv_parser_expected(p, "devices, devices.modules or devices.jobs");
    }
    if (!nv_parser_take_symbol(p, ".")) {
        tree->from = NV_FROM_DEVICES;
    } else if (nv_parser_take_word(p, "modules")) {
        tree->from = NV_FROM_MODULES;
    } else if (nv_parser_take_word(p, "jobs")) {
        tree->from = NV_FROM_JOBS;
    } else {
        nv_parser_expected(p, "modules or jobs");
    }
}

static void take_group_by(nv_parser *p, nv_query_tree *tree)
{
    nv_parser_need_word(p, "BY");
    tree->group_by = nv_arena_alloc(p->arena, NV_QUERY_COLUMNS_MAX * sizeof(nv_expr_path *));
    do {
        const nv_expr_path *path = bound_path(p);
        if (path && tree->group_by_count == NV_QUERY_COLUMNS_MAX) {
            nv_parser_fail(p, path->pos, "more than %u properties to group by", NV_QUERY_COLUMNS_MAX);
        } else if (path) {
            tree->group_by[tree->group_by_count++] = path;
        }
    } while (nv_parser_take_symbol(p, ","));
}

static bool is_grouped_by(const nv_query_tree *tree, const nv_expr_path *path)
{
    for (uint32_t i = 0; i < tree->group_by_count; i++) {
        if (nv_query_same_path(tree->group_by[i], path)) {
            return true;
        }
    }
    return false;
}

static void check_groups(nv_parser *p, nv_query_tree *tree, nv_expr_pos group_pos)
{
    bool aggregate = false;
    for (uint32_t i = 0; i < tree->column_count; i++) {
        aggregate = aggregate || tree->columns[i].aggregate != NV_AGGREGATE_NONE;
    }
    tree->grouped = aggregate || tree->group_by_count > 0;
    if (tree->group_by_count > 0 && tree->all) {
        nv_parser_fail(p, group_pos, "SELECT * cannot be grouped");
    }
    for (uint32_t i = 0; tree->grouped && i < tree->column_count; i++) {
        const nv_query_column *column = &tree->columns[i];
        if (column->aggregate == NV_AGGREGATE_NONE && !is_grouped_by(tree, column->path)) {
            nv_parser_fail(p, column->pos, "'%.*s' is neither an aggregate nor in GROUP BY",
                           (int)(column->name.len < 40 ? column->name.len : 40), (const char *)column->name.ptr);
        }
    }
}

static void check_jobs(nv_parser *p, const nv_query_tree *tree, nv_expr_pos select_pos)
{
    if (tree->from == NV_FROM_JOBS && (!tree->all || tree->grouped)) {
        nv_parser_fail(p, select_pos, "devices.jobs gives nothing but SELECT *");
    }
}

static void take_query(nv_parser *p, nv_query_tree *tree)
{
    nv_expr_pos select_pos = p->token.pos;
    take_select(p, tree);
    take_from(p, tree);
    bool where = nv_parser_take_word(p, "WHERE");
    if (where) {
        tree->where = nv_parser_condition(p);
    }
    nv_expr_pos group_pos = p->token.pos;
    bool group = nv_parser_take_word(p, "GROUP");
    if (group) {
        take_group_by(p, tree);
    }
    if (p->token.kind != NV_TOKEN_END) {
        nv_parser_expected(p, group   ? "',' or the end of the text"
                              : where ? "an operator, GROUP BY or the end of the text"
                                      : "WHERE, GROUP BY or the end of the text");
    }
    if (!p->failed) {
        check_groups(p, tree, group_pos);
        check_jobs(p, tree, select_pos);
    }
}

bool nv_query_parse(nv_span text, nv_arena *arena, nv_query_tree *tree, char detail[NV_QUERY_DETAIL_SIZE])
{
    nv_parser parser;
    nv_parser_init(&parser, text, arena);
    *tree = (nv_query_tree){0};
    take_query(&parser, tree);
    tree->paths = parser.paths;
    tree->path_count = parser.path_count;
    for (nv_expr_path *path = tree->paths; path; path = path->next) {
        nv_query_bind(path);
    }
    if (parser.failed) {
        (void)snprintf(detail, NV_QUERY_DETAIL_SIZE, "The query is invalid: %s, line %u, column %u", parser.error,
                       parser.error_pos.line, parser.error_pos.column);
    }
    return !parser.failed;
}
