#include "core/query_plan.h"

#include "core/expr_functions.h"
#include "core/query_row.h"

#include <stdlib.h>

/* ---- conditions that name values: `path = constant` and `path IN [constants]` --------------------------------- */

/* The path that must equal a constant for @p expr to be true, and that constant. NULL: it is none of this form. */
static const nv_expr_path *equality(const nv_expr *expr, const nv_datum **value)
{
    if (expr->op != NV_EXPR_EQ) {
        return NULL;
    }
    for (uint32_t i = 0; i < 2; i++) {
        const nv_expr *path = expr->args[i];
        const nv_expr *constant = expr->args[1 - i];
        if (path->op == NV_EXPR_PATH && constant->op == NV_EXPR_CONSTANT) {
            *value = &constant->constant;
            return path->path;
        }
    }
    return NULL;
}

static bool is_field(const nv_expr_path *path, nv_query_field field)
{
    return path && path->binding == (uint32_t)field && path->bound_steps == path->count;
}

/* ---- ids ---------------------------------------------------------------------------------------------------- */

typedef struct id_list {
    nv_span *items;
    uint32_t count;
} id_list;

static int compare_ids(const void *a, const void *b)
{
    return nv_span_cmp(*(const nv_span *)a, *(const nv_span *)b);
}

static void sort_ids(id_list *list)
{
    qsort(list->items, list->count, sizeof(*list->items), compare_ids);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        if (kept == 0 || !nv_span_eq(list->items[kept - 1], list->items[i])) {
            list->items[kept++] = list->items[i];
        }
    }
    list->count = kept;
}

/* What is no id equals none. */
static void add_id(id_list *list, const nv_datum *value)
{
    if (value->kind == NV_DATUM_STRING && value->text.len > 0 && value->text.len <= NV_ID_MAX) {
        list->items[list->count++] = value->text;
    }
}

static bool ids_of_membership(const nv_expr *expr, nv_query_field field, nv_arena *arena, id_list *out)
{
    if (expr->op != NV_EXPR_IN || expr->args[0]->op != NV_EXPR_PATH || !is_field(expr->args[0]->path, field)) {
        return false;
    }
    *out = (id_list){.items = nv_arena_alloc(arena, expr->count * sizeof(nv_span))};
    for (uint32_t i = 1; i < expr->count; i++) {
        add_id(out, &expr->args[i]->constant);
    }
    return true;
}

/* deviceId = 'a' OR deviceId = 'b' ... */
static bool ids_of_alternatives(const nv_expr *expr, nv_query_field field, nv_arena *arena, id_list *out)
{
    if (expr->op != NV_EXPR_OR) {
        return false;
    }
    *out = (id_list){.items = nv_arena_alloc(arena, expr->count * sizeof(nv_span))};
    for (uint32_t i = 0; i < expr->count; i++) {
        const nv_datum *value = NULL;
        if (!is_field(equality(expr->args[i], &value), field)) {
            return false;
        }
        add_id(out, value);
    }
    return true;
}

/* The values that the field must have one of for @p expr to be true. @return false: it does not say */
static bool ids_of(const nv_expr *expr, nv_query_field field, nv_arena *arena, id_list *out)
{
    const nv_datum *value = NULL;
    if (is_field(equality(expr, &value), field)) {
        *out = (id_list){.items = nv_arena_alloc(arena, sizeof(nv_span))};
        add_id(out, value);
    } else if (!ids_of_membership(expr, field, arena, out) && !ids_of_alternatives(expr, field, arena, out)) {
        return false;
    }
    sort_ids(out);
    return true;
}

/* ---- tags --------------------------------------------------------------------------------------------------- */

/* @return false: paths of this form are not in the index */
static bool tag_path(const nv_expr_path *path, nv_query_plan *plan)
{
    if (path->binding != NV_FIELD_TAGS || path->bound_steps == path->count) {
        return false;
    }
    size_t len = 0;
    for (uint32_t i = path->bound_steps; i < path->count; i++) {
        nv_span name = path->steps[i].name;
        size_t dot = i > path->bound_steps ? 1 : 0;
        if (!name.ptr || name.len + dot > sizeof(plan->tag_path) - len) {
            return false;
        }
        if (dot) {
            plan->tag_path[len++] = '.';
        }
        memcpy(plan->tag_path + len, name.ptr, name.len);
        len += name.len;
    }
    plan->tag_path_len = len;
    return true;
}

static bool tag_of(const nv_expr *expr, nv_query_plan *plan)
{
    const nv_datum *value = NULL;
    const nv_expr_path *path = equality(expr, &value);
    if (!path || !tag_path(path, plan)) {
        return false;
    }
    switch ((int)value->kind) {
    case NV_DATUM_BOOL:
        plan->tag_value_len = nv_twin_index_bool(value->boolean, plan->tag_value);
        return true;
    case NV_DATUM_NUMBER:
        plan->tag_value_len = nv_twin_index_number(nv_datum_number(value), plan->tag_value);
        return true;
    case NV_DATUM_STRING:
        plan->tag_value_len = nv_twin_index_string(value->text, plan->tag_value);
        return true;
    default:
        return false;
    }
}

/* ---- beginnings of ids -------------------------------------------------------------------------------------- */

/* Characters of ids are printable ASCII: one less is one too, or a space, and 0x7f stands behind all of them. */
static bool is_prefix(nv_span text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] <= ' ' || text.ptr[i] >= 0x7f) {
            return false;
        }
    }
    return text.len > 0 && text.len < NV_ID_MAX;
}

static bool prefix_of(const nv_expr *expr, nv_span *out)
{
    if (expr->op != NV_EXPR_CALL || (expr->function != nv_expr_function_of(nv_span_str("STARTSWITH")) &&
                                     expr->function != nv_expr_function_of(nv_span_str("STARTS_WITH")))) {
        return false;
    }
    const nv_expr *path = expr->args[0];
    const nv_expr *text = expr->args[1];
    if (path->op != NV_EXPR_PATH || !is_field(path->path, NV_FIELD_DEVICE_ID) || text->op != NV_EXPR_CONSTANT ||
        text->constant.kind != NV_DATUM_STRING || !is_prefix(text->constant.text)) {
        return false;
    }
    *out = text->constant.text;
    return true;
}

size_t nv_query_plan_before(const nv_query_plan *plan, uint8_t out[NV_ID_MAX])
{
    size_t len = plan->prefix.len;
    memcpy(out, plan->prefix.ptr, len);
    out[len - 1]--;
    out[len] = 0x7f;
    return len + 1;
}

/* ---- the best of what must be true -------------------------------------------------------------------------- */

/* Fewer rows first: ids, a module's name, a tag, the beginning of an id. */
static bool better(nv_plan_kind a, nv_plan_kind b)
{
    static const int ranks[] = {
        [NV_PLAN_SCAN] = 0, [NV_PLAN_PREFIX] = 1, [NV_PLAN_TAG] = 2, [NV_PLAN_MODULE] = 3, [NV_PLAN_IDS] = 4};
    return ranks[a] > ranks[b];
}

static void consider(nv_query_plan *plan, const nv_expr *expr, nv_arena *arena)
{
    id_list ids;
    nv_query_plan tagged = {.kind = NV_PLAN_TAG, .modules = plan->modules};
    if (better(NV_PLAN_IDS, plan->kind) && ids_of(expr, NV_FIELD_DEVICE_ID, arena, &ids)) {
        plan->kind = NV_PLAN_IDS;
        plan->ids = ids.items;
        plan->id_count = ids.count;
    } else if (plan->modules && better(NV_PLAN_MODULE, plan->kind) && ids_of(expr, NV_FIELD_MODULE_ID, arena, &ids) &&
               ids.count == 1) {
        plan->kind = NV_PLAN_MODULE;
        plan->module_id = ids.items[0];
    } else if (better(NV_PLAN_TAG, plan->kind) && tag_of(expr, &tagged)) {
        *plan = tagged;
    } else if (better(NV_PLAN_PREFIX, plan->kind) && prefix_of(expr, &plan->prefix)) {
        plan->kind = NV_PLAN_PREFIX;
    }
}

void nv_query_plan_make(nv_query_plan *plan, const nv_query_tree *tree, nv_arena *arena)
{
    *plan = (nv_query_plan){.kind = NV_PLAN_SCAN, .modules = tree->from == NV_FROM_MODULES};
    const nv_expr *where = tree->where;
    if (where && where->op == NV_EXPR_AND) {
        for (uint32_t i = 0; i < where->count; i++) {
            consider(plan, where->args[i], arena);
        }
    } else if (where) {
        consider(plan, where, arena);
    }
}
