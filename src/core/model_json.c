/* Random documents, and the merge of semantics.md section 1.5 in the plainest way. */
#include "core/model.h"

#include <stdlib.h>
#include <string.h>

typedef struct text {
    char at[4096];
    size_t len;
} text;

static void put(text *t, const char *what)
{
    size_t len = strlen(what);
    if (t->len + len < sizeof(t->at)) {
        memcpy(t->at + t->len, what, len + 1);
        t->len += len;
    }
}

/* ---- making ---- */

static const char *const names[] = {"a", "b", "c", "temp", "x-y", "_z"};
static const char *const scalars[] = {"0",
                                      "1",
                                      "-7",
                                      "4503599627370495",
                                      "-4503599627370496",
                                      "21.7",
                                      "1.0",
                                      "0.10",
                                      "1e3",
                                      "true",
                                      "false",
                                      "\"\"",
                                      "\"warm\"",
                                      "\"a b.c$d\"",
                                      "\"\\u00e9\\\"\\\\\"",
                                      "-0.5e-7",
                                      "12345.678901234567"};

static void put_value(model *w, text *t, uint32_t depth, bool nulls);

static void put_object(model *w, text *t, uint32_t depth, bool nulls)
{
    bool first = true;
    put(t, "{");
    for (size_t i = 0; i < NV_COUNT_OF(names); i++) {
        if (!model_one_in(w, depth == 0 ? 3 : 4)) {
            continue;
        }
        put(t, first ? "\"" : ",\"");
        put(t, names[i]);
        put(t, "\":");
        put_value(w, t, depth + 1, nulls);
        first = false;
    }
    put(t, "}");
}

static void put_array(model *w, text *t, uint32_t depth)
{
    uint32_t count = model_below(w, 4);
    put(t, "[");
    for (uint32_t i = 0; i < count; i++) {
        put(t, i ? "," : "");
        put_value(w, t, depth + 1, false);
    }
    put(t, "]");
}

static void put_value(model *w, text *t, uint32_t depth, bool nulls)
{
    uint32_t kind = model_below(w, 10);
    if (kind < 3 && depth < 4) {
        put_object(w, t, depth, nulls);
    } else if (kind == 3 && depth < 4) {
        put_array(w, t, depth);
    } else if (kind <= 5 && nulls) {
        put(t, "null");
    } else if (kind == 6 && model_one_in(w, 4)) {
        put(t, "\"long long long long long long long long long long long long long long long long long long long\"");
    } else {
        put(t, scalars[model_below(w, NV_COUNT_OF(scalars))]);
    }
}

char *model_json_random(model *w, bool nulls)
{
    text t = {.len = 0};
    put_object(w, &t, 0, nulls);
    return strdup(t.at);
}

char *model_json_bad(model *w)
{
    static const char *const bad[] = {
        "{\"a.b\":1}",
        "{\"$a\":1}",
        "{\"a b\":1}",
        "{\"b\":[1,null]}",
        "{\"a\":",
        "{\"a\":1}x",
        "{\"a\":4503599627370496}",
        "{\"a\":{\"b\":-4503599627370497}}",
        "[1]",
        "{\"\\u0001\":1}",
        "7",
        "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}}}}}}}"};
    return strdup(bad[model_below(w, NV_COUNT_OF(bad))]);
}

/* ---- comparing ---- */

json_object *model_json_parse(const char *at, size_t len)
{
    json_tokener *tokener = json_tokener_new();
    json_object *value = json_tokener_parse_ex(tokener, at, (int)len);
    if (json_tokener_get_error(tokener) == json_tokener_continue) {
        value = json_tokener_parse_ex(tokener, "", 1); /* a number may go on until something ends it */
    }
    json_tokener_free(tokener);
    return value;
}

const char *model_json_text(const json_object *value)
{
    json_object *any = (json_object *)(size_t)value; /* json-c caches the text in the object */
    return json_object_to_json_string_ext(any, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
}

static bool objects_eq(const json_object *a, const json_object *b)
{
    if (json_object_object_length(a) != json_object_object_length(b)) {
        return false;
    }
    json_object_object_foreach((json_object *)(size_t)a, name, value)
    {
        json_object *other;
        if (!json_object_object_get_ex(b, name, &other) || !model_json_eq(value, other)) {
            return false;
        }
    }
    return true;
}

bool model_json_eq(const json_object *a, const json_object *b)
{
    enum json_type type = json_object_get_type(a);
    if (type != json_object_get_type(b)) {
        return false;
    }
    if (type == json_type_object) {
        return objects_eq(a, b);
    }
    if (type != json_type_array) {
        return strcmp(model_json_text(a), model_json_text(b)) == 0; /* numbers keep their text */
    }
    size_t len = json_object_array_length(a);
    bool same = len == json_object_array_length(b);
    for (size_t i = 0; same && i < len; i++) {
        same = model_json_eq(json_object_array_get_idx(a, i), json_object_array_get_idx(b, i));
    }
    return same;
}

/* ---- merging ---- */

json_object *model_json_copy(const json_object *from)
{
    const char *at = model_json_text(from);
    return model_json_parse(at, strlen(at));
}

void model_json_merge(json_object *base, const json_object *patch)
{
    json_object_object_foreach((json_object *)(size_t)patch, name, value)
    {
        json_object *old;
        if (!value) {
            json_object_object_del(base, name);
        } else if (json_object_is_type(value, json_type_object)) {
            if (!json_object_object_get_ex(base, name, &old) || !json_object_is_type(old, json_type_object)) {
                old = json_object_new_object();
                json_object_object_add(base, name, old);
            }
            model_json_merge(old, value);
        } else {
            json_object_object_add(base, name, model_json_copy(value));
        }
    }
}

json_object *model_json_nulls(const json_object *from)
{
    json_object *nulls = json_object_new_object();
    json_object_object_foreach((json_object *)(size_t)from, name, value)
    {
        (void)value;
        json_object_object_add(nulls, name, NULL);
    }
    return nulls;
}

/* ---- sizes ---- */

static size_t characters(const char *at)
{
    size_t count = 0;
    for (; *at; at++) {
        count += ((uint8_t)*at & 0xc0) != 0x80 && (uint8_t)*at >= 0x20 ? 1 : 0;
    }
    return count;
}

static size_t size_of(const json_object *value)
{
    size_t size = 0;
    switch (json_object_get_type(value)) {
    case json_type_object: {
        json_object_object_foreach((json_object *)(size_t)value, name, member)
        {
            size += characters(name) + size_of(member);
        }
        return size;
    }
    case json_type_array:
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            size += size_of(json_object_array_get_idx(value, i));
        }
        return size;
    case json_type_string:
        return characters(json_object_get_string((json_object *)(size_t)value));
    case json_type_boolean:
        return 4;
    case json_type_int:
    case json_type_double:
        return 8;
    case json_type_null:
        break;
    }
    return 0;
}

bool model_json_fits(const json_object *value, size_t limit)
{
    return strlen(model_json_text(value)) <= limit || size_of(value) <= limit;
}
