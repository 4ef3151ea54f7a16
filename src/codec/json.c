#include "codec/json.h"

#include "codec/base64.h"

#include <json-c/json.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <strings.h>

/* ---- writing ---------------------------------------------------------------------------------------------- */

static void put(nv_json_writer *w, nv_span text)
{
    if (w->err == NV_OK) {
        w->err = nv_buf_append(w->out, text);
    }
}

static void put_char(nv_json_writer *w, char c)
{
    put(w, nv_span_of(&c, 1));
}

/** In front of each value. */
static void separate(nv_json_writer *w)
{
    if (w->comma) {
        put_char(w, ',');
    }
    w->comma = true;
}

static void begin(nv_json_writer *w, char bracket)
{
    separate(w);
    put_char(w, bracket);
    w->comma = false;
}

static void end(nv_json_writer *w, char bracket)
{
    put_char(w, bracket);
    w->comma = true;
}

void nv_json_begin_object(nv_json_writer *w)
{
    begin(w, '{');
}

void nv_json_end_object(nv_json_writer *w)
{
    end(w, '}');
}

void nv_json_begin_array(nv_json_writer *w)
{
    begin(w, '[');
}

void nv_json_end_array(nv_json_writer *w)
{
    end(w, ']');
}

/** Bytes of the well-formed UTF-8 sequence at @p at, or 0 (RFC 3629 section 4). */
static size_t utf8_step(const uint8_t *at, const uint8_t *limit)
{
    size_t left = (size_t)(limit - at);
    uint8_t c = at[0];
    if (c < 0x80) {
        return 1;
    }
    size_t len = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (c < 0xc2 || c > 0xf4 || left < len) {
        return 0;
    }
    uint8_t low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    uint8_t high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (at[1] < low || at[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < len; i++) {
        if (at[i] < 0x80 || at[i] > 0xbf) {
            return 0;
        }
    }
    return len;
}

static void put_escape(nv_json_writer *w, uint8_t c)
{
    static const char hex[] = "0123456789abcdef";
    const char *from = "\b\f\n\r\t\"\\";
    const char *to = "bfnrt\"\\";
    const char *at = c ? strchr(from, c) : NULL;
    if (at) {
        char pair[2] = {'\\', to[at - from]};
        put(w, nv_span_of(pair, 2));
        return;
    }
    char text[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
    put(w, nv_span_of(text, 6));
}

static void put_quoted(nv_json_writer *w, nv_span text)
{
    static const nv_span replacement = NV_SPAN_LIT("\xef\xbf\xbd");
    put_char(w, '"');
    const uint8_t *at = text.ptr;
    const uint8_t *limit = text.ptr ? text.ptr + text.len : NULL;
    const uint8_t *run = at;
    while (at < limit && w->err == NV_OK) {
        uint8_t c = *at;
        size_t len = c >= 0x20 && c < 0x7f && c != '"' && c != '\\' ? 1 : c >= 0x80 ? utf8_step(at, limit) : 0;
        if (len > 0) {
            at += len;
            continue;
        }
        put(w, nv_span_of(run, (size_t)(at - run)));
        if (c >= 0x80) {
            put(w, replacement);
        } else {
            put_escape(w, c);
        }
        run = ++at;
    }
    put(w, nv_span_of(run, (size_t)(at - run)));
    put_char(w, '"');
}

void nv_json_name(nv_json_writer *w, nv_span name)
{
    separate(w);
    put_quoted(w, name);
    put_char(w, ':');
    w->comma = false;
}

void nv_json_string(nv_json_writer *w, nv_span text)
{
    separate(w);
    put_quoted(w, text);
}

static void put_number(nv_json_writer *w, const char *text, int len)
{
    separate(w);
    put(w, nv_span_of(text, (size_t)len));
}

void nv_json_int(nv_json_writer *w, int64_t value)
{
    char text[24];
    put_number(w, text, snprintf(text, sizeof(text), "%lld", (long long)value));
}

void nv_json_uint(nv_json_writer *w, uint64_t value)
{
    char text[24];
    put_number(w, text, snprintf(text, sizeof(text), "%llu", (unsigned long long)value));
}

void nv_json_double(nv_json_writer *w, double value)
{
    if (!isfinite(value)) {
        nv_json_str(w, isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
        return;
    }
    char text[40];
    put_number(w, text, snprintf(text, sizeof(text), "%.17g", value));
}

void nv_json_bool(nv_json_writer *w, bool value)
{
    nv_json_raw(w, nv_span_str(value ? "true" : "false"));
}

void nv_json_null(nv_json_writer *w)
{
    nv_json_raw(w, nv_span_str("null"));
}

void nv_json_raw(nv_json_writer *w, nv_span json)
{
    separate(w);
    put(w, json);
}

void nv_json_base64(nv_json_writer *w, nv_span bytes)
{
    separate(w);
    put_char(w, '"');
    size_t len = NV_BASE64_LEN(bytes.len);
    uint8_t *to = w->err == NV_OK ? nv_buf_reserve(w->out, len) : NULL;
    if (!to) {
        w->err = w->err == NV_OK ? NV_E_TOO_BIG : w->err;
        return;
    }
    nv_writer encoder = nv_writer_of(to, len);
    nv_base64_encode(bytes, &encoder);
    nv_buf_commit(w->out, nv_writer_len(&encoder));
    put_char(w, '"');
}

/* ---- checking --------------------------------------------------------------------------------------------- */

/** What may stand next. */
typedef enum expectation {
    EXPECT_VALUE,
    EXPECT_VALUE_OR_END, /* behind [ */
    EXPECT_NAME,         /* behind a comma in an object */
    EXPECT_NAME_OR_END,  /* behind { */
    EXPECT_COLON,
    EXPECT_COMMA_OR_END,
    EXPECT_NOTHING
} expectation;

typedef struct scanner {
    const uint8_t *at;
    const uint8_t *limit;
    nv_buf *out;
    const uint8_t *run; /* start of what is not yet copied to out */
    uint64_t objects;   /* one bit per open bracket: it is an object */
    uint32_t depth;
    uint32_t max_depth;
    uint32_t values_left;
    nv_err err;
} scanner;

static void flush_run(scanner *s)
{
    if (s->out && s->at > s->run && nv_buf_append(s->out, nv_span_of(s->run, (size_t)(s->at - s->run))) != NV_OK) {
        s->err = NV_E_TOO_BIG;
    }
}

static bool is_space(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void skip_space(scanner *s)
{
    if (s->at < s->limit && is_space(*s->at)) {
        flush_run(s);
        while (s->at < s->limit && is_space(*s->at)) {
            s->at++;
        }
        s->run = s->at;
    }
}

static bool is_hex(uint8_t c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/** Behind a backslash. */
static bool scan_escape(scanner *s)
{
    uint8_t c = s->at < s->limit ? *s->at++ : 0;
    if (c == 'u') {
        for (int i = 0; i < 4; i++) {
            if (s->at >= s->limit || !is_hex(*s->at)) {
                return false;
            }
            s->at++;
        }
        return true;
    }
    return c && strchr("\"\\/bfnrt", c);
}

static bool scan_string(scanner *s)
{
    s->at++;
    while (s->at < s->limit) {
        uint8_t c = *s->at;
        if (c == '"') {
            s->at++;
            return true;
        }
        if (c == '\\') {
            s->at++;
            if (!scan_escape(s)) {
                return false;
            }
            continue;
        }
        size_t len = c < 0x20 ? 0 : utf8_step(s->at, s->limit);
        if (len == 0) {
            return false;
        }
        s->at += len;
    }
    return false;
}

static bool scan_digits(scanner *s)
{
    const uint8_t *start = s->at;
    while (s->at < s->limit && *s->at >= '0' && *s->at <= '9') {
        s->at++;
    }
    return s->at > start;
}

static bool scan_number(scanner *s)
{
    s->at += *s->at == '-';
    if (s->at < s->limit && *s->at == '0') {
        s->at++;
    } else if (!scan_digits(s)) {
        return false;
    }
    if (s->at < s->limit && *s->at == '.') {
        s->at++;
        if (!scan_digits(s)) {
            return false;
        }
    }
    if (s->at < s->limit && (*s->at | 0x20) == 'e') {
        s->at++;
        s->at += s->at < s->limit && (*s->at == '+' || *s->at == '-');
        return scan_digits(s);
    }
    return true;
}

static bool scan_literal(scanner *s, const char *word)
{
    nv_span text = nv_span_str(word);
    if (!nv_span_starts_with(nv_span_of(s->at, (size_t)(s->limit - s->at)), text)) {
        return false;
    }
    s->at += text.len;
    return true;
}

static expectation after_value(const scanner *s)
{
    return s->depth > 0 ? EXPECT_COMMA_OR_END : EXPECT_NOTHING;
}

static expectation fail(scanner *s, nv_err err)
{
    s->err = s->err == NV_OK ? err : s->err;
    return EXPECT_NOTHING;
}

static expectation open_bracket(scanner *s, bool object)
{
    if (s->depth >= s->max_depth) {
        return fail(s, NV_E_TOO_BIG);
    }
    s->objects = s->objects << 1 | (object ? 1u : 0u);
    s->depth++;
    s->at++;
    return object ? EXPECT_NAME_OR_END : EXPECT_VALUE_OR_END;
}

static expectation close_bracket(scanner *s)
{
    s->objects >>= 1;
    s->depth--;
    s->at++;
    return after_value(s);
}

static expectation scan_value(scanner *s)
{
    if (s->values_left == 0) {
        return fail(s, NV_E_TOO_BIG);
    }
    s->values_left--;
    uint8_t c = *s->at;
    bool good = false;
    if (c == '{' || c == '[') {
        return open_bracket(s, c == '{');
    }
    if (c == '"') {
        good = scan_string(s);
    } else if (c == '-' || (c >= '0' && c <= '9')) {
        good = scan_number(s);
    } else {
        good = scan_literal(s, c == 't' ? "true" : c == 'f' ? "false" : "null");
    }
    return good ? after_value(s) : fail(s, NV_E_SYNTAX);
}

static expectation scan_name(scanner *s)
{
    return *s->at == '"' && scan_string(s) ? EXPECT_COLON : fail(s, NV_E_SYNTAX);
}

static expectation scan_comma_or_end(scanner *s)
{
    bool object = s->objects & 1;
    if (*s->at == ',') {
        s->at++;
        return object ? EXPECT_NAME : EXPECT_VALUE;
    }
    return *s->at == (object ? '}' : ']') ? close_bracket(s) : fail(s, NV_E_SYNTAX);
}

static expectation scan_one(scanner *s, expectation expected)
{
    switch (expected) {
    case EXPECT_VALUE_OR_END:
        return *s->at == ']' ? close_bracket(s) : scan_value(s);
    case EXPECT_VALUE:
        return scan_value(s);
    case EXPECT_NAME_OR_END:
        return *s->at == '}' ? close_bracket(s) : scan_name(s);
    case EXPECT_NAME:
        return scan_name(s);
    case EXPECT_COLON:
        if (*s->at != ':') {
            return fail(s, NV_E_SYNTAX);
        }
        s->at++;
        return EXPECT_VALUE;
    case EXPECT_COMMA_OR_END:
        return scan_comma_or_end(s);
    case EXPECT_NOTHING:
        break;
    }
    return fail(s, NV_E_SYNTAX);
}

nv_err nv_json_compact(nv_span text, uint32_t max_depth, uint32_t max_values, nv_buf *out)
{
    if (text.len == 0) {
        return NV_E_SYNTAX;
    }
    scanner s = {.at = text.ptr,
                 .limit = text.ptr + text.len,
                 .out = out,
                 .run = text.ptr,
                 .max_depth = max_depth < NV_JSON_MAX_DEPTH ? max_depth : NV_JSON_MAX_DEPTH,
                 .values_left = max_values};
    size_t before = out ? nv_buf_len(out) : 0;
    expectation expected = EXPECT_VALUE;
    skip_space(&s);
    while (s.err == NV_OK && s.at < s.limit) {
        expected = scan_one(&s, expected);
        skip_space(&s);
    }
    flush_run(&s);
    if (s.err == NV_OK && expected != EXPECT_NOTHING) {
        s.err = NV_E_SYNTAX;
    }
    if (s.err != NV_OK && out) {
        nv_buf_truncate(out, before);
    }
    return s.err;
}

nv_err nv_json_parse(nv_span text, uint32_t max_depth, uint32_t max_values, struct json_object **out)
{
    *out = NULL;
    nv_err err = nv_json_check(text, max_depth, max_values);
    if (err != NV_OK) {
        return err;
    }
    if (text.len > INT_MAX) {
        return NV_E_TOO_BIG;
    }
    struct json_tokener *tokener = json_tokener_new_ex((int)NV_JSON_MAX_DEPTH + 2);
    if (!tokener) {
        return NV_E_NO_MEMORY;
    }
    *out = json_tokener_parse_ex(tokener, (const char *)text.ptr, (int)text.len);
    if (json_tokener_get_error(tokener) == json_tokener_continue) {
        /* A number at the very end: only a byte behind it tells json-c that it is complete. */
        *out = json_tokener_parse_ex(tokener, "", 1);
    }
    err = json_tokener_get_error(tokener) == json_tokener_success ? NV_OK : NV_E_SYNTAX;
    json_tokener_free(tokener);
    return err;
}

/* ---- reading text ------------------------------------------------------------------------------------------ */

/** Bytes of the string at the front of @p text, with its quotes; 0: there is none. */
static size_t string_len(nv_span text)
{
    if (text.len == 0 || text.ptr[0] != '"') {
        return 0;
    }
    for (size_t i = 1; i < text.len; i++) {
        if (text.ptr[i] == '"') {
            return i + 1;
        }
        i += text.ptr[i] == '\\';
    }
    return 0;
}

/** Bytes of the value at the front of @p text, up to the comma or bracket behind it; 0: there is none. */
static size_t value_len(nv_span text)
{
    size_t depth = 0;
    for (size_t i = 0; i < text.len;) {
        uint8_t c = text.ptr[i];
        size_t string = string_len(nv_span_skip(text, i));
        if (c == '"' && string == 0) {
            return 0;
        }
        if (depth == 0 && (c == ',' || c == '}' || c == ']')) {
            return i;
        }
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        i += string ? string : 1;
    }
    return depth == 0 ? text.len : 0;
}

bool nv_json_next_member(nv_span object, size_t *at, nv_span *name, nv_span *value)
{
    nv_span rest = nv_span_skip(object, *at);
    if (rest.len == 0 || rest.ptr[0] != (*at == 0 ? '{' : ',')) {
        return false;
    }
    rest = nv_span_skip(rest, 1);
    size_t quoted = string_len(rest);
    if (quoted == 0 || quoted == rest.len || rest.ptr[quoted] != ':') {
        return false;
    }
    *name = nv_span_of(rest.ptr + 1, quoted - 2);
    rest = nv_span_skip(rest, quoted + 1);
    *value = nv_span_first(rest, value_len(rest));
    *at = (size_t)(value->ptr + value->len - object.ptr);
    return value->len > 0;
}

/* ---- reading ---------------------------------------------------------------------------------------------- */

struct json_object *nv_json_member(struct json_object *object, const char *name)
{
    struct json_object *value = NULL;
    if (!object || !json_object_is_type(object, json_type_object)) {
        return NULL;
    }
    if (json_object_object_get_ex(object, name, &value)) {
        return value;
    }
    struct json_object_iterator it = json_object_iter_begin(object);
    struct json_object_iterator last = json_object_iter_end(object);
    for (; !json_object_iter_equal(&it, &last); json_object_iter_next(&it)) {
        if (strcasecmp(json_object_iter_peek_name(&it), name) == 0) {
            return json_object_iter_peek_value(&it);
        }
    }
    return NULL;
}

bool nv_json_as_string(struct json_object *value, nv_span *out)
{
    if (!value || !json_object_is_type(value, json_type_string)) {
        return false;
    }
    *out = nv_span_of(json_object_get_string(value), (size_t)json_object_get_string_len(value));
    return true;
}
