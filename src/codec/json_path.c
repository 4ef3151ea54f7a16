#include "codec/json_path.h"

#include <stdlib.h>

/* ---- skipping: from the first byte of something to behind its last ------------------------------------------ */

static const uint8_t *skip_space(const uint8_t *at, const uint8_t *limit)
{
    while (at < limit && *at <= ' ') { /* checked text has nothing else below it there */
        at++;
    }
    return at;
}

/* From the opening quote. An escaped quote has an odd number of backslashes in front of it. */
static const uint8_t *skip_string(const uint8_t *at, const uint8_t *limit)
{
    const uint8_t *inner = at + 1;
    const uint8_t *from = inner;
    while (from < limit) {
        const uint8_t *quote = memchr(from, '"', (size_t)(limit - from));
        if (!quote) {
            return limit;
        }
        const uint8_t *back = quote;
        while (back > inner && back[-1] == '\\') {
            back--;
        }
        if (((size_t)(quote - back) & 1) == 0) {
            return quote + 1;
        }
        from = quote + 1;
    }
    return limit;
}

typedef enum structure { PLAIN = 0, QUOTE, OPEN, CLOSE } structure;
static const uint8_t structures[256] = {['"'] = QUOTE, ['{'] = OPEN, ['['] = OPEN, ['}'] = CLOSE, [']'] = CLOSE};

/* From the opening bracket. Checked text has its brackets in pairs, so that counting them is enough. */
static const uint8_t *skip_container(const uint8_t *at, const uint8_t *limit)
{
    size_t depth = 0;
    while (at < limit) {
        uint8_t what = structures[*at];
        if (NV_LIKELY(what == PLAIN)) {
            at++;
        } else if (what == QUOTE) {
            at = skip_string(at, limit);
        } else {
            at++;
            depth = what == OPEN ? depth + 1 : depth - 1;
            if (depth == 0) {
                return at;
            }
        }
    }
    return limit;
}

static const uint8_t *skip_scalar(const uint8_t *at, const uint8_t *limit)
{
    while (at<limit && * at> ' ' && *at != ',' && *at != '}' && *at != ']') {
        at++;
    }
    return at;
}

/* @p at < @p limit */
static const uint8_t *skip_value(const uint8_t *at, const uint8_t *limit)
{
    uint8_t what = structures[*at];
    return what == QUOTE ? skip_string(at, limit) : what == OPEN ? skip_container(at, limit) : skip_scalar(at, limit);
}

/* ---- finding ------------------------------------------------------------------------------------------------ */

static bool name_is_escaped(nv_span inner, nv_span name)
{
    if (inner.len <= name.len || nv_json_is_plain(inner) || inner.len > 6 * name.len + 6) {
        return false; /* an escape is longer than what it means, and at most six times */
    }
    uint8_t small[256];
    uint8_t *out = inner.len <= sizeof(small) ? small : malloc(inner.len);
    if (!out) {
        return false;
    }
    bool same = nv_span_eq(nv_span_of(out, nv_json_unescape(inner, out)), name);
    if (out != small) {
        free(out);
    }
    return same;
}

static bool name_is(nv_span inner, nv_span name)
{
    return (inner.len == name.len && memcmp(inner.ptr, name.ptr, name.len) == 0) || name_is_escaped(inner, name);
}

/* The next member of an object or element of an array, from behind its bracket or the value before. NULL: the end. */
static const uint8_t *to_next(const uint8_t *at, const uint8_t *limit)
{
    at = skip_space(at, limit);
    if (at < limit && *at == ',') {
        at = skip_space(at + 1, limit);
    }
    return at < limit && structures[*at] != CLOSE ? at : NULL;
}

/* From the quote of a name to the value. NULL: there is none. */
static const uint8_t *to_member_value(const uint8_t *at, const uint8_t *limit, nv_span *inner)
{
    if (*at != '"') {
        return NULL;
    }
    const uint8_t *end = skip_string(at, limit);
    size_t len = (size_t)(end - at);
    *inner = nv_span_of(at + 1, len >= 2 ? len - 2 : 0);
    at = skip_space(end, limit);
    if (at >= limit || *at != ':') {
        return NULL;
    }
    at = skip_space(at + 1, limit);
    return at < limit && structures[*at] != CLOSE && *at != ',' ? at : NULL;
}

static const uint8_t *find_member(const uint8_t *at, const uint8_t *limit, nv_span name)
{
    nv_span inner;
    for (at = to_next(at, limit); at; at = to_next(skip_value(at, limit), limit)) {
        at = to_member_value(at, limit, &inner);
        if (!at || name_is(inner, name)) {
            return at;
        }
    }
    return NULL;
}

static const uint8_t *find_element(const uint8_t *at, const uint8_t *limit, uint32_t index)
{
    for (at = to_next(at, limit); at && *at != ','; at = to_next(skip_value(at, limit), limit)) {
        if (index-- == 0) {
            return at;
        }
    }
    return NULL;
}

nv_span nv_json_find(nv_span json, const nv_json_step *steps, size_t count)
{
    if (json.len == 0) {
        return NV_SPAN_EMPTY;
    }
    const uint8_t *limit = json.ptr + json.len;
    const uint8_t *at = skip_space(json.ptr, limit);
    for (size_t i = 0; at && at < limit && i < count; i++) {
        const nv_json_step *step = &steps[i];
        if (step->name.ptr) {
            at = *at == '{' ? find_member(at + 1, limit, step->name) : NULL;
        } else {
            at = *at == '[' ? find_element(at + 1, limit, step->index) : NULL;
        }
    }
    return at && at < limit ? nv_span_of(at, (size_t)(skip_value(at, limit) - at)) : NV_SPAN_EMPTY;
}

nv_json_kind nv_json_kind_of(nv_span value)
{
    switch (value.len ? *value.ptr : 0) {
    case '{':
        return NV_JSON_OBJECT;
    case '[':
        return NV_JSON_ARRAY;
    case '"':
        return NV_JSON_STRING;
    case 't':
        return NV_JSON_TRUE;
    case 'f':
        return NV_JSON_FALSE;
    case 'n':
        return NV_JSON_NULL;
    case '-':
        return NV_JSON_NUMBER;
    default:
        return value.len && *value.ptr >= '0' && *value.ptr <= '9' ? NV_JSON_NUMBER : NV_JSON_ABSENT;
    }
}

/* ---- walking ------------------------------------------------------------------------------------------------ */

nv_json_walk nv_json_walk_of(nv_span value)
{
    nv_json_kind kind = nv_json_kind_of(value);
    if (kind != NV_JSON_ARRAY && kind != NV_JSON_OBJECT) {
        return (nv_json_walk){0};
    }
    return (nv_json_walk){._at = value.ptr + 1, ._limit = value.ptr + value.len, ._object = kind == NV_JSON_OBJECT};
}

bool nv_json_walk_next(nv_json_walk *walk)
{
    const uint8_t *at = walk->_at ? to_next(walk->_at, walk->_limit) : NULL;
    if (at && walk->_object) {
        at = to_member_value(at, walk->_limit, &walk->name);
    } else if (at && *at == ',') {
        at = NULL;
    }
    walk->_at = at ? skip_value(at, walk->_limit) : NULL;
    if (at) {
        walk->value = nv_span_of(at, (size_t)(walk->_at - at));
    }
    return at != NULL;
}

/* ---- strings ------------------------------------------------------------------------------------------------ */

nv_span nv_json_string_inner(nv_span value)
{
    return value.len >= 2 ? nv_span_of(value.ptr + 1, value.len - 2) : NV_SPAN_EMPTY;
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The code unit of a \uXXXX at @p at, or -1. */
static int32_t code_unit(const uint8_t *at, const uint8_t *limit)
{
    if (limit - at < 6 || at[0] != '\\' || at[1] != 'u') {
        return -1;
    }
    int32_t unit = 0;
    for (int i = 2; i < 6; i++) {
        int digit = hex_digit(at[i]);
        if (digit < 0) {
            return -1;
        }
        unit = unit * 16 + digit;
    }
    return unit;
}

static size_t put_utf8(uint8_t *out, uint32_t c)
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xc0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xe0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
    out[3] = (uint8_t)(0x80 | (c & 0x3f));
    return 4;
}

/* From a \uXXXX; moves *at behind what was used. */
static size_t put_unicode(const uint8_t **at, const uint8_t *limit, int32_t unit, uint8_t *out)
{
    *at += 6;
    if (unit < 0xd800 || unit > 0xdfff) {
        return put_utf8(out, (uint32_t)unit);
    }
    int32_t low = unit < 0xdc00 ? code_unit(*at, limit) : -1;
    if (low < 0xdc00 || low > 0xdfff) {
        return put_utf8(out, 0xfffd);
    }
    *at += 6;
    return put_utf8(out, 0x10000 + (((uint32_t)unit - 0xd800) << 10) + ((uint32_t)low - 0xdc00));
}

static uint8_t simple_escape(uint8_t c)
{
    switch (c) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    default:
        return c;
    }
}

size_t nv_json_unescape(nv_span inner, uint8_t *out)
{
    const uint8_t *at = inner.ptr;
    const uint8_t *limit = inner.len ? inner.ptr + inner.len : at;
    size_t len = 0;
    while (at < limit) {
        int32_t unit = *at == '\\' ? code_unit(at, limit) : -1;
        if (unit >= 0) {
            len += put_unicode(&at, limit, unit, out + len);
        } else if (*at == '\\' && limit - at >= 2) {
            out[len++] = simple_escape(at[1]);
            at += 2;
        } else {
            out[len++] = *at++;
        }
    }
    return len;
}

/* ---- numbers ------------------------------------------------------------------------------------------------ */

/* Powers of ten that a double holds exactly. */
static const double exact_powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/*
 * Digits with at most one point: below 2^53 and with an exact power of ten the quotient of the two is the nearest
 * double, as strtod would say. @return false: leave it to strtod
 */
static bool short_number(nv_span text, double *out)
{
    size_t at = text.len && text.ptr[0] == '-' ? 1 : 0;
    uint64_t digits = 0;
    size_t point = text.len;
    size_t first = at;
    for (; at < text.len; at++) {
        uint8_t c = text.ptr[at];
        if (c == '.' && point == text.len && at > first) {
            point = at;
        } else if (c >= '0' && c <= '9' && digits < UINT64_C(900719925474099)) {
            digits = digits * 10 + (uint64_t)(c - '0');
        } else {
            return false;
        }
    }
    size_t decimals = point < text.len ? text.len - point - 1 : 0;
    if (at == first || (point < text.len && decimals == 0) || decimals >= NV_COUNT_OF(exact_powers)) {
        return false;
    }
    double value = (double)digits / exact_powers[decimals];
    *out = first ? -value : value;
    return true;
}

bool nv_json_number(nv_span text, double *out)
{
    if (short_number(text, out)) {
        return true;
    }
    char small[64];
    char *copy = text.len < sizeof(small) ? small : malloc(text.len + 1);
    if (nv_json_kind_of(text) != NV_JSON_NUMBER || !copy) {
        if (copy != small) {
            free(copy);
        }
        return false;
    }
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = '\0';
    char *end;
    *out = strtod(copy, &end);
    /* strtod knows hexadecimal too, JSON does not */
    bool good = end == copy + text.len && end != copy && !strpbrk(copy, "xX");
    if (copy != small) {
        free(copy);
    }
    return good;
}
