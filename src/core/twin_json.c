#include "core/twin_json.h"

#include <stdint.h>

/* Costs of values by the formula. */
#define COST_NUMBER  8u
#define COST_BOOLEAN 4u

static void damage(nv_twin_cursor *c)
{
    c->at = NULL;
}

bool nv_twin_take(nv_twin_cursor *c, uint8_t byte)
{
    if (!byte || nv_twin_peek(c) != byte) {
        damage(c);
        return false;
    }
    c->at++;
    return true;
}

/* Behind the closing quote of the string that opens at @p at; NULL: there is none. */
static const uint8_t *behind_string(const uint8_t *at, const uint8_t *limit)
{
    for (at++; at < limit; at++) {
        if (*at == '"') {
            return at + 1;
        }
        at += *at == '\\' ? 1 : 0;
    }
    return NULL;
}

nv_span nv_twin_take_string(nv_twin_cursor *c)
{
    const uint8_t *start = c->at;
    if (nv_twin_peek(c) != '"') {
        damage(c);
        return NV_SPAN_EMPTY;
    }
    c->at = behind_string(start, c->limit);
    return c->at ? nv_span_of(start, (size_t)(c->at - start)) : NV_SPAN_EMPTY;
}

/* Behind the container that opens at @p at. */
static const uint8_t *behind_container(const uint8_t *at, const uint8_t *limit, size_t *members)
{
    size_t depth = 0;
    size_t arrays = 0;
    size_t count = 0;
    while (at && at < limit) {
        switch (*at) {
        case '"':
            at = behind_string(at, limit);
            continue;
        case '[':
            arrays++;
            depth++;
            break;
        case '{':
            depth++;
            break;
        case ']':
            arrays -= arrays ? 1 : 0;
            depth--;
            break;
        case '}':
            depth--;
            break;
        case ':':
            count += arrays ? 0 : 1;
            break;
        default:
            break;
        }
        at++;
        if (depth == 0) {
            *members += count;
            return at;
        }
    }
    return NULL;
}

static const uint8_t *behind_literal(const uint8_t *at, const uint8_t *limit)
{
    const uint8_t *start = at;
    while (at < limit && *at != ',' && *at != '}' && *at != ']') {
        at++;
    }
    return at > start ? at : NULL;
}

nv_span nv_twin_take_value(nv_twin_cursor *c, size_t *members)
{
    size_t ignored = 0;
    const uint8_t *start = c->at;
    uint8_t first = nv_twin_peek(c);
    if (first == '{' || first == '[') {
        c->at = behind_container(start, c->limit, members ? members : &ignored);
    } else if (first == '"') {
        c->at = behind_string(start, c->limit);
    } else {
        c->at = first ? behind_literal(start, c->limit) : NULL;
    }
    return c->at ? nv_span_of(start, (size_t)(c->at - start)) : NV_SPAN_EMPTY;
}

bool nv_twin_next_member(nv_twin_cursor *c, nv_span *key)
{
    uint8_t next = nv_twin_peek(c);
    if (next == '}') {
        c->at++;
        return false;
    }
    if (next == ',') {
        c->at++;
    }
    *key = nv_twin_take_string(c);
    return c->at && nv_twin_take(c, ':');
}

/* ---- size ---- */

/* Characters of a string in normal form, controls left out: code points, whatever their number of bytes. */
static size_t count_characters(nv_span quoted)
{
    size_t count = 0;
    for (size_t i = 1; i + 1 < quoted.len; i++) {
        uint8_t c = quoted.ptr[i];
        if (c == '\\') {
            uint8_t escaped = quoted.ptr[++i];
            count += escaped == '"' || escaped == '\\' ? 1 : 0;
            i += escaped == 'u' ? 4 : 0;
        } else if (c == 0xc2 && i + 2 < quoted.len && quoted.ptr[i + 1] < 0xa0) {
            i++; /* C1 */
        } else {
            count += (c & 0xc0) != 0x80 && c != 0x7f ? 1 : 0;
        }
    }
    return count;
}

size_t nv_twin_size(nv_span text)
{
    nv_twin_cursor c = nv_twin_cursor_of(text);
    size_t size = 0;
    while (c.at && c.at < c.limit) {
        uint8_t first = *c.at;
        if (first == '"') {
            size += count_characters(nv_twin_take_string(&c)); /* a key or a value: both cost their characters */
        } else if (strchr("{}[],:", first)) {
            c.at++;
        } else {
            size += first == 't' || first == 'f' ? COST_BOOLEAN : COST_NUMBER;
            c.at = behind_literal(c.at, c.limit);
        }
    }
    return c.at ? size : SIZE_MAX;
}

/* ---- strings ---- */

static uint8_t hex_digit(uint8_t c)
{
    return (uint8_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
}

static size_t utf8_len(uint8_t lead)
{
    return lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
}

size_t nv_twin_unescape(nv_span quoted, uint8_t *out, size_t max)
{
    static const char from[] = "bfnrt";
    static const char to[] = "\b\f\n\r\t";
    size_t len = 0;
    for (size_t i = 1; i + 1 < quoted.len;) {
        const uint8_t *at = quoted.ptr + i;
        size_t left = quoted.len - 1 - i;
        size_t taken = *at == '\\' ? (left > 5 && at[1] == 'u' ? 6 : 2) : utf8_len(*at);
        size_t given = *at == '\\' ? 1 : taken;
        if (taken > left || len + given > max) {
            break;
        }
        if (*at != '\\') {
            memcpy(out + len, at, given);
        } else {
            const char *known = at[1] ? strchr(from, at[1]) : NULL;
            out[len] = taken == 6 ? (uint8_t)(hex_digit(at[4]) << 4 | hex_digit(at[5]))
                       : known    ? (uint8_t)to[known - from]
                                  : at[1];
        }
        len += given;
        i += taken;
    }
    return len;
}
