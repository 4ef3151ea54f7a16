#include "core/twin_index.h"

#include "base/alloc.h"
#include "base/arena.h"
#include "core/twin_json.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- keys of values ---- */

static bool is_continuation(uint8_t c)
{
    return (c & 0xc0) == 0x80;
}

size_t nv_twin_index_string(nv_span text, uint8_t out[NV_TWIN_INDEX_VALUE_MAX])
{
    size_t len = text.len;
    if (len > NV_TWIN_INDEX_TEXT_MAX) {
        len = NV_TWIN_INDEX_TEXT_MAX;
        while (len > 0 && is_continuation(text.ptr[len])) {
            len--;
        }
    }
    len = nv_span_find(nv_span_first(text, len), '\0');
    out[0] = 's';
    if (len) {
        memcpy(out + 1, text.ptr, len);
    }
    return 1 + len;
}

size_t nv_twin_index_number(double value, uint8_t out[NV_TWIN_INDEX_VALUE_MAX])
{
    /* Adding zero makes of -0 the 0 that it equals. */
    int len = snprintf((char *)out, NV_TWIN_INDEX_VALUE_MAX, "n%.17g", value + 0.0);
    return (size_t)len;
}

size_t nv_twin_index_bool(bool value, uint8_t out[NV_TWIN_INDEX_VALUE_MAX])
{
    out[0] = 'b';
    out[1] = value ? '1' : '0';
    return 2;
}

/* @return 0: not a scalar */
static size_t key_of(nv_span json, uint8_t out[NV_TWIN_INDEX_VALUE_MAX])
{
    uint8_t text[NV_TWIN_INDEX_TEXT_MAX];
    char number[64];
    switch (json.len ? json.ptr[0] : 0) {
    case '"':
        return nv_twin_index_string(nv_span_of(text, nv_twin_unescape(json, text, sizeof(text))), out);
    case 't':
    case 'f':
        return nv_twin_index_bool(json.ptr[0] == 't', out);
    case '{':
    case '[':
    case 0:
        return 0;
    default:
        break;
    }
    if (json.len < sizeof(number)) {
        memcpy(number, json.ptr, json.len);
        number[json.len] = '\0';
        return nv_twin_index_number(strtod(number, NULL), out);
    }
    char *copy = nv_span_dup(json);
    size_t len = nv_twin_index_number(strtod(copy, NULL), out);
    free(copy);
    return len;
}

/* ---- leaves ---- */

typedef struct leaf {
    nv_span path;
    nv_span value;
} leaf;

typedef struct leaves {
    nv_arena *arena;
    leaf *items;
    size_t count;
    size_t capacity;
    nv_twin_cursor text;
    size_t path_len;
    uint8_t path[NV_TWIN_INDEX_PATH_MAX];
} leaves;

static void add_leaf(leaves *self, nv_span json)
{
    uint8_t key[NV_TWIN_INDEX_VALUE_MAX];
    size_t len = key_of(json, key);
    if (len == 0) {
        return;
    }
    if (self->count == self->capacity) {
        self->capacity = self->capacity ? 2 * self->capacity : 16;
        self->items = nv_realloc(self->items, self->capacity * sizeof(*self->items));
    }
    self->items[self->count++] = (leaf){nv_arena_copy(self->arena, nv_span_of(self->path, self->path_len)),
                                        nv_arena_copy(self->arena, nv_span_of(key, len))};
}

/* @return false: the path is too long for the index */
static bool extend_path(leaves *self, nv_span quoted_name, bool first)
{
    uint8_t name[NV_TWIN_INDEX_PATH_MAX + 4]; /* what is cut at a character is still too long */
    size_t len = nv_twin_unescape(quoted_name, name, sizeof(name));
    if (len + (first ? 0 : 1) > sizeof(self->path) - self->path_len) {
        return false;
    }
    if (!first) {
        self->path[self->path_len++] = '.';
    }
    memcpy(self->path + self->path_len, name, len);
    self->path_len += len;
    return true;
}

static void collect_object(leaves *self, uint32_t depth)
{
    nv_span name;
    size_t len = self->path_len;
    (void)nv_twin_take(&self->text, '{');
    while (self->text.at && nv_twin_next_member(&self->text, &name)) {
        bool fits = extend_path(self, name, depth == 0);
        if (fits && nv_twin_peek(&self->text) == '{' && depth < NV_TWIN_DEPTH_MAX) {
            collect_object(self, depth + 1);
        } else {
            nv_span json = nv_twin_take_value(&self->text, NULL);
            if (fits) {
                add_leaf(self, json);
            }
        }
        self->path_len = len;
    }
}

static int compare(const void *a, const void *b)
{
    const leaf *x = a;
    const leaf *y = b;
    int order = nv_span_cmp(x->path, y->path);
    return order ? order : nv_span_cmp(x->value, y->value);
}

static void collect(leaves *self, nv_arena *arena, nv_span tags)
{
    *self = (leaves){.arena = arena, .text = nv_twin_cursor_of(tags)};
    collect_object(self, 0);
    if (self->count) {
        qsort(self->items, self->count, sizeof(*self->items), compare);
    }
}

nv_err nv_twin_index_update(nv_txn *txn, nv_span device_id, nv_span module_id, nv_span before, nv_span after)
{
    if (nv_span_eq(before, after)) {
        return NV_OK;
    }
    nv_arena arena = {0};
    leaves old;
    leaves new;
    collect(&old, &arena, before);
    collect(&new, &arena, after);
    nv_err err = old.text.at && new.text.at ? NV_OK : NV_E_CORRUPT;
    for (size_t i = 0, j = 0; err == NV_OK && (i < old.count || j < new.count);) {
        int order = i == old.count ? 1 : j == new.count ? -1 : compare(&old.items[i], &new.items[j]);
        if (order < 0) {
            err = nv_txn_twin_tag_delete(txn, device_id, module_id, old.items[i].path, old.items[i].value);
        } else if (order > 0) {
            err = nv_txn_twin_tag_put(txn, device_id, module_id, new.items[j].path, new.items[j].value);
        }
        i += order <= 0 ? 1 : 0;
        j += order >= 0 ? 1 : 0;
    }
    free(old.items);
    free(new.items);
    nv_arena_deinit(&arena);
    return err;
}
