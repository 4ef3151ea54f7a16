#include "core/query_groups.h"

#include "base/hash.h"
#include "codec/json.h"

#include <stdlib.h>

/* What a column has seen of its group. */
typedef struct sums {
    uint64_t count; /* COUNT: rows; others: numbers */
    double sum;
    double min;
    double max;
    nv_datum value; /* of a plain column */
} sums;

struct nv_query_group {
    nv_span key;
    uint64_t number; /* hash of the key: its place in the order */
    sums columns[];
};

void nv_query_groups_init(nv_query_groups *groups, const nv_query_tree *tree)
{
    *groups = (nv_query_groups){.tree = tree};
    nv_map_init(&groups->map, 0x6e617665);
    nv_buf_init(&groups->key, NV_QUERY_GROUP_BYTES_MAX);
}

void nv_query_groups_deinit(nv_query_groups *groups)
{
    nv_map_deinit(&groups->map);
    nv_arena_deinit(&groups->arena);
    nv_buf_deinit(&groups->key);
    free(groups->sorted);
    groups->sorted = NULL;
}

size_t nv_query_groups_bytes(const nv_query_groups *groups)
{
    return groups->bytes + groups->map.capacity * sizeof(nv_map_slot) + groups->map.count * sizeof(nv_query_group *);
}

/*
 * ---- keys: the kinds of all values, then their contents, so that equal keys are equal values. The length of a text
 * stands behind it, for keys to sort like their texts ----
 */

static nv_err put_bytes(nv_buf *key, const void *bytes, size_t len)
{
    return nv_buf_append(key, nv_span_of(bytes, len));
}

static nv_err put_kind(nv_buf *key, const nv_datum *value)
{
    uint8_t kind = (uint8_t)value->kind;
    return put_bytes(key, &kind, 1);
}

static nv_err put_content(nv_buf *key, const nv_datum *value)
{
    if (value->kind == NV_DATUM_BOOL) {
        uint8_t boolean = value->boolean ? 1 : 0;
        return put_bytes(key, &boolean, 1);
    }
    if (value->kind == NV_DATUM_NUMBER) {
        double number = nv_datum_number(value) + 0.0; /* -0 is 0 */
        return put_bytes(key, &number, sizeof(number));
    }
    uint64_t len = value->text.len;
    nv_err err = nv_buf_append(key, value->text);
    err = err == NV_OK ? put_bytes(key, "", 1) : err;
    return err == NV_OK ? put_bytes(key, &len, sizeof(len)) : err;
}

static nv_err make_key(nv_query_groups *groups, const nv_expr_env *env)
{
    const nv_query_tree *tree = groups->tree;
    nv_buf_clear(&groups->key);
    nv_err err = put_bytes(&groups->key, "", 1); /* so that there is a key without GROUP BY too */
    for (uint32_t i = 0; err == NV_OK && i < tree->group_by_count; i++) {
        nv_datum value = env->resolve(env->arg, tree->group_by[i]);
        err = put_kind(&groups->key, &value);
    }
    for (uint32_t i = 0; err == NV_OK && i < tree->group_by_count; i++) {
        nv_datum value = env->resolve(env->arg, tree->group_by[i]);
        err = put_content(&groups->key, &value);
    }
    return err == NV_E_TOO_BIG ? NV_E_LIMIT : err;
}

/* ---- adding ------------------------------------------------------------------------------------------------- */

static nv_datum kept(nv_query_groups *groups, nv_datum value)
{
    groups->bytes += value.text.len;
    value.text = nv_arena_copy(&groups->arena, value.text);
    return value;
}

static nv_query_group *add_group(nv_query_groups *groups, const nv_expr_env *env)
{
    const nv_query_tree *tree = groups->tree;
    size_t size = sizeof(nv_query_group) + tree->column_count * sizeof(sums);
    groups->bytes += size + nv_buf_len(&groups->key);
    if (groups->map.count >= NV_QUERY_GROUPS_MAX || groups->bytes > NV_QUERY_GROUP_BYTES_MAX) {
        return NULL;
    }
    nv_query_group *group = nv_arena_alloc(&groups->arena, size);
    memset(group, 0, size);
    group->key = nv_arena_copy(&groups->arena, nv_buf_span(&groups->key));
    group->number = nv_hash_stable(group->key);
    for (uint32_t i = 0; i < tree->column_count; i++) {
        if (tree->columns[i].aggregate == NV_AGGREGATE_NONE) {
            group->columns[i].value = kept(groups, env->resolve(env->arg, tree->columns[i].path));
        }
    }
    nv_map_put(&groups->map, group->key, group);
    return groups->bytes <= NV_QUERY_GROUP_BYTES_MAX ? group : NULL;
}

static void add_number(sums *column, double number)
{
    column->min = column->count == 0 || number < column->min ? number : column->min;
    column->max = column->count == 0 || number > column->max ? number : column->max;
    column->sum += number;
    column->count++;
}

static void add_to_column(sums *sum, const nv_query_column *column, const nv_expr_env *env)
{
    if (column->aggregate == NV_AGGREGATE_NONE) {
        return;
    }
    nv_datum value = column->path ? env->resolve(env->arg, column->path) : nv_datum_of_bool(true);
    if (column->aggregate == NV_AGGREGATE_COUNT) {
        sum->count += value.kind != NV_DATUM_UNDEFINED ? 1 : 0;
    } else if (value.kind == NV_DATUM_NUMBER) {
        add_number(sum, nv_datum_number(&value));
    }
}

nv_err nv_query_groups_add(nv_query_groups *groups, const nv_expr_env *env)
{
    nv_err err = make_key(groups, env);
    if (err != NV_OK) {
        return err;
    }
    nv_query_group *group = nv_map_get(&groups->map, nv_buf_span(&groups->key));
    if (!group && !(group = add_group(groups, env))) {
        return NV_E_LIMIT;
    }
    for (uint32_t i = 0; i < groups->tree->column_count; i++) {
        add_to_column(&group->columns[i], &groups->tree->columns[i], env);
    }
    return NV_OK;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

static nv_datum result_of(const sums *sum, nv_aggregate aggregate)
{
    switch (aggregate) {
    case NV_AGGREGATE_NONE:
        return sum->value;
    case NV_AGGREGATE_COUNT:
        return nv_datum_of_number((double)sum->count);
    case NV_AGGREGATE_SUM:
        return nv_datum_of_number(sum->sum);
    case NV_AGGREGATE_AVG:
        return sum->count ? nv_datum_of_number(sum->sum / (double)sum->count) : NV_DATUM_OF_NOTHING;
    case NV_AGGREGATE_MIN:
        return sum->count ? nv_datum_of_number(sum->min) : NV_DATUM_OF_NOTHING;
    case NV_AGGREGATE_MAX:
        return sum->count ? nv_datum_of_number(sum->max) : NV_DATUM_OF_NOTHING;
    }
    return NV_DATUM_OF_NOTHING;
}

static void write_column(nv_json_writer *w, const nv_query_column *column, nv_datum value)
{
    if (value.kind != NV_DATUM_UNDEFINED) {
        nv_json_name(w, column->name);
        nv_datum_write(&value, w);
    }
}

static void write_group(const nv_query_tree *tree, const nv_query_group *group, nv_json_writer *w)
{
    static const sums nothing = {0};
    nv_json_begin_object(w);
    for (uint32_t i = 0; i < tree->column_count; i++) {
        const nv_query_column *column = &tree->columns[i];
        write_column(w, column, result_of(group ? &group->columns[i] : &nothing, column->aggregate));
    }
    nv_json_end_object(w);
}

static int by_number(const void *a, const void *b)
{
    const nv_query_group *x = *(nv_query_group *const *)a;
    const nv_query_group *y = *(nv_query_group *const *)b;
    return x->number != y->number ? (x->number < y->number ? -1 : 1) : nv_span_cmp(x->key, y->key);
}

static int by_key(const void *a, const void *b)
{
    const nv_query_group *x = *(nv_query_group *const *)a;
    const nv_query_group *y = *(nv_query_group *const *)b;
    return nv_span_cmp(x->key, y->key);
}

static bool sort(nv_query_groups *groups)
{
    if (groups->sorted) {
        return true;
    }
    size_t count = 0;
    size_t pos = 0;
    nv_query_group **out = calloc(groups->map.count + 1, sizeof(nv_query_group *));
    if (!out) {
        return false;
    }
    for (nv_query_group *g = nv_map_next(&groups->map, &pos); g; g = nv_map_next(&groups->map, &pos)) {
        out[count++] = g;
    }
    qsort(out, count, sizeof(nv_query_group *), by_number); /* NOLINT(bugprone-sizeof-expression): of a pointer */
    groups->sorted = out;
    return true;
}

/* The place of the first group behind @p number. */
static size_t place_behind(const nv_query_groups *groups, uint64_t number)
{
    size_t low = 0;
    size_t high = groups->map.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (groups->sorted[middle]->number > number) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

/* Without GROUP BY there is one group, also of no rows at all: COUNT is 0 then. */
static bool write_empty(nv_query_groups *groups, const uint64_t *after, uint32_t limit, nv_json_writer *w)
{
    bool empty = groups->tree->group_by_count == 0 && groups->map.count == 0 && !after && limit > 0;
    if (empty) {
        write_group(groups->tree, NULL, w);
    }
    return empty;
}

/* Within a page in the order of their keys. */
static void write_page(const nv_query_tree *tree, nv_query_group *const *groups, size_t count, nv_json_writer *w)
{
    nv_query_group **sorted = calloc(count + 1, sizeof(nv_query_group *));
    if (!sorted) {
        w->err = NV_E_NO_MEMORY;
        return;
    }
    memcpy(sorted, groups, count * sizeof(nv_query_group *)); /* NOLINT(bugprone-sizeof-expression): of a pointer */
    qsort(sorted, count, sizeof(nv_query_group *), by_key);   /* NOLINT(bugprone-sizeof-expression): of a pointer */
    for (size_t i = 0; i < count; i++) {
        write_group(tree, sorted[i], w);
    }
    free(sorted);
}

uint32_t nv_query_groups_write(nv_query_groups *groups, const uint64_t *after, uint32_t limit, nv_json_writer *w,
                               uint64_t *last, bool *more)
{
    *more = false;
    if (write_empty(groups, after, limit, w)) {
        *last = 0;
        return 1;
    }
    if (!sort(groups)) {
        w->err = NV_E_NO_MEMORY;
        return 0;
    }
    size_t first = after ? place_behind(groups, *after) : 0;
    nv_query_group **from = groups->sorted + first;
    size_t count = groups->map.count - first;
    size_t page = count < limit ? count : limit;
    while (page > 0 && page < count && from[page]->number == from[page - 1]->number) {
        page++; /* two keys with one number stay together */
    }
    *more = page < count;
    *last = page > 0 ? from[page - 1]->number : 0;
    write_page(groups->tree, from, page, w);
    return (uint32_t)page;
}

void nv_query_columns_write(const nv_query_tree *tree, const nv_expr_env *env, nv_json_writer *w)
{
    nv_json_begin_object(w);
    for (uint32_t i = 0; i < tree->column_count; i++) {
        write_column(w, &tree->columns[i], env->resolve(env->arg, tree->columns[i].path));
    }
    nv_json_end_object(w);
}
