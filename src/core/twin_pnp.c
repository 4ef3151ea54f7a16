/*
 * Digital twin changes (semantics.md section 4.3): what a change of desired or reported properties is to a device with
 * a model, as JSON Patch (RFC 6902). Components are objects marked "__t": "c"; a reported {"value", "ac", "av", "ad"}
 * is the answer to a writable property.
 *
 *   reported p            /p, or of an answer: /p, /$metadata/p/ackCode, .../ackVersion, .../ackDescription
 *   desired p             /$metadata/p/desiredValue, .../desiredVersion
 *   in a component c      the same below /c
 */
#include "core/twin_update.h"

#include "base/alloc.h"
#include "codec/json.h"
#include "core/twin_json.h"

#include <stdlib.h>

/* A component's name, a property's, and what is added to them; escapes of JSON pointers can double a name. */
#define PATH_MAX_BYTES (2u * 2u * NV_TWIN_KEY_MAX + 64u)

typedef struct member {
    nv_span name; /* with quotes */
    nv_span value;
} member;

typedef struct members {
    member *items;
    size_t count;
} members;

typedef struct differ {
    nv_json_writer *w;
    bool desired;
    uint64_t version; /* of desired */
    size_t count;     /* of operations */
    nv_buf path;      /* of the component */
} differ;

/* ---- objects as sorted members ---- */

static int compare(const void *a, const void *b)
{
    return nv_span_cmp(((const member *)a)->name, ((const member *)b)->name);
}

static members members_of(nv_span object)
{
    members out = {0};
    size_t capacity = 0;
    nv_twin_cursor c = nv_twin_cursor_of(object);
    member one;
    if (nv_twin_peek(&c) != '{') {
        return out;
    }
    c.at++;
    while (nv_twin_next_member(&c, &one.name)) {
        one.value = nv_twin_take_value(&c, NULL);
        if (!c.at) {
            break;
        }
        if (out.count == capacity) {
            capacity = capacity ? 2 * capacity : 16;
            out.items = nv_realloc(out.items, capacity * sizeof(*out.items));
        }
        out.items[out.count++] = one;
    }
    if (out.count) {
        qsort(out.items, out.count, sizeof(*out.items), compare);
    }
    return out;
}

/* Empty: there is none. */
static nv_span value_of(nv_span object, const char *quoted_name)
{
    nv_twin_cursor c = nv_twin_cursor_of(object);
    nv_span name;
    if (nv_twin_peek(&c) != '{') {
        return NV_SPAN_EMPTY;
    }
    c.at++;
    while (nv_twin_next_member(&c, &name)) {
        nv_span value = nv_twin_take_value(&c, NULL);
        if (c.at && nv_span_eq_str(name, quoted_name)) {
            return value;
        }
    }
    return NV_SPAN_EMPTY;
}

static bool is_component(nv_span value)
{
    return nv_span_eq_str(value_of(value, "\"__t\""), "\"c\"");
}

static bool is_answer(nv_span value)
{
    return value_of(value, "\"ac\"").len && value_of(value, "\"av\"").len;
}

/* ---- operations ---- */

/* A name as a token of a JSON pointer (RFC 6901). */
static void append_token(nv_buf *path, nv_span quoted_name)
{
    uint8_t name[NV_TWIN_KEY_MAX];
    size_t len = nv_twin_unescape(quoted_name, name, sizeof(name));
    nv_ignore(nv_buf_append_str(path, "/"));
    for (size_t i = 0; i < len; i++) {
        bool special = name[i] == '~' || name[i] == '/';
        nv_ignore(special ? nv_buf_append_str(path, name[i] == '~' ? "~0" : "~1")
                          : nv_buf_append(path, nv_span_of(&name[i], 1)));
    }
}

/* @param leaf  NULL: the property itself; else a member of its metadata. An empty value is none. */
static void put_operation(differ *d, nv_span name, const char *leaf, nv_span before, nv_span after)
{
    if (nv_span_eq(before, after)) {
        return;
    }
    nv_buf path;
    nv_buf_init(&path, PATH_MAX_BYTES);
    nv_ignore(nv_buf_append(&path, nv_buf_span(&d->path)));
    if (leaf) {
        nv_ignore(nv_buf_append_str(&path, "/$metadata"));
    }
    append_token(&path, name);
    if (leaf) {
        nv_ignore(nv_buf_append_str(&path, leaf));
    }
    nv_json_begin_object(d->w);
    nv_json_key(d->w, "op");
    nv_json_str(d->w, !after.len ? "remove" : before.len ? "replace" : "add");
    nv_json_key(d->w, "path");
    nv_json_string(d->w, nv_buf_span(&path));
    if (after.len) {
        nv_json_key(d->w, "value");
        nv_json_raw(d->w, after);
    }
    nv_json_end_object(d->w);
    nv_buf_deinit(&path);
    d->count++;
}

static void put_desired(differ *d, nv_span name, nv_span before, nv_span after)
{
    if (nv_span_eq(before, after)) {
        return;
    }
    char text[24];
    nv_buf version;
    nv_buf_init(&version, sizeof(text));
    nv_ignore(nv_buf_printf(&version, "%llu", (unsigned long long)d->version));
    put_operation(d, name, "/desiredValue", before, after);
    nv_span was = before.len ? nv_span_str("0") : NV_SPAN_EMPTY; /* some other version */
    put_operation(d, name, "/desiredVersion", was, after.len ? nv_buf_span(&version) : NV_SPAN_EMPTY);
    nv_buf_deinit(&version);
}

static void put_reported(differ *d, nv_span name, nv_span before, nv_span after)
{
    static const struct {
        const char *member;
        const char *leaf;
    } parts[] = {{"\"value\"", NULL}, {"\"ac\"", "/ackCode"}, {"\"av\"", "/ackVersion"}, {"\"ad\"", "/ackDescription"}};
    bool answered = is_answer(before);
    bool answers = is_answer(after);
    for (size_t i = 0; i < NV_COUNT_OF(parts); i++) {
        bool itself = parts[i].leaf == NULL;
        nv_span old = answered ? value_of(before, parts[i].member) : itself ? before : NV_SPAN_EMPTY;
        nv_span new = answers ? value_of(after, parts[i].member) : itself ? after : NV_SPAN_EMPTY;
        put_operation(d, name, parts[i].leaf, old, new);
    }
}

static void diff_objects(differ *d, nv_span before, nv_span after, bool root);

static void diff_member(differ *d, nv_span name, nv_span before, nv_span after, bool root)
{
    if (root && (is_component(after) || (!after.len && is_component(before)))) {
        append_token(&d->path, name);
        diff_objects(d, is_component(before) ? before : NV_SPAN_EMPTY, after, false);
        nv_buf_clear(&d->path);
    } else if (!root && nv_span_eq_str(name, "\"__t\"")) {
        return; /* the marker of the component */
    } else if (d->desired) {
        put_desired(d, name, before, after);
    } else {
        put_reported(d, name, before, after);
    }
}

static void diff_objects(differ *d, nv_span before, nv_span after, bool root)
{
    members old = members_of(before);
    members new = members_of(after);
    for (size_t i = 0, j = 0; i < old.count || j < new.count;) {
        int order = i == old.count ? 1 : j == new.count ? -1 : compare(&old.items[i], &new.items[j]);
        nv_span name = order <= 0 ? old.items[i].name : new.items[j].name;
        diff_member(d, name, order <= 0 ? old.items[i].value : NV_SPAN_EMPTY,
                    order >= 0 ? new.items[j].value : NV_SPAN_EMPTY, root);
        i += order <= 0 ? 1 : 0;
        j += order >= 0 ? 1 : 0;
    }
    free(old.items);
    free(new.items);
}

bool nv_twin_pnp_write(const nv_twin_row *before, const nv_twin_row *after, nv_json_writer *w)
{
    differ d = {.w = w, .version = after->desired_version};
    nv_buf_init(&d.path, PATH_MAX_BYTES);
    nv_json_begin_array(w);
    diff_objects(&d, before->reported, after->reported, true);
    d.desired = true;
    diff_objects(&d, before->desired, after->desired, true);
    nv_json_end_array(w);
    nv_buf_deinit(&d.path);
    return d.count > 0;
}
