#include "session/amqp/filter.h"

#include "base/attrs.h"
#include "base/clock.h"

#include <stdio.h>

#define FILTER_NAME "apache.org:selector-filter:string"
#define FILTER_CODE UINT64_C(0x0000468C00000004)

#define GRAMMAR                                                                                                        \
    "amqp.annotation.<name> > '<value>' with the name x-opt-offset, x-opt-sequence-number or x-opt-enqueued-time"

/* ---- the expression ----------------------------------------------------------------------------------------- */

static bool is_space(uint8_t c)
{
    return c == ' ' || c == '\t';
}

static void skip_spaces(nv_span *at)
{
    while (at->len > 0 && is_space(at->ptr[0])) {
        *at = nv_span_skip(*at, 1);
    }
}

static nv_span trimmed(nv_span text)
{
    return nv_span_trim(text, " \t");
}

static bool skip(nv_span *at, const char *word)
{
    nv_span want = nv_span_str(word);
    if (at->len < want.len || !nv_span_eq_nocase(nv_span_first(*at, want.len), want)) {
        return false;
    }
    *at = nv_span_skip(*at, want.len);
    return true;
}

/** What the peer wrote, as it can stand in a sentence. */
static void excerpt(nv_span text, char out[64])
{
    size_t len = text.len < 60 ? text.len : 60;
    for (size_t i = 0; i < len; i++) {
        out[i] = text.ptr[i] >= 0x20 && text.ptr[i] < 0x7f ? (char)text.ptr[i] : '?';
    }
    out[len] = '\0';
}

static nv_err wrong(char why[AMQP_FILTER_WHY], const char *what, nv_span text)
{
    char shown[64];
    excerpt(text, shown);
    (void)snprintf(why, AMQP_FILTER_WHY, "The filter is not valid: %s, near \"%s\"", what, shown);
    return NV_E_SYNTAX;
}

/** The kind that a name stands for; BEGINNING: none. */
static amqp_position_kind read_name(nv_span *at)
{
    static const struct {
        const char *name;
        amqp_position_kind kind;
    } names[] = {
        {"x-opt-offset", AMQP_FROM_OFFSET},
        {"x-opt-sequence-number", AMQP_FROM_SEQUENCE},
        {"x-opt-enqueuedtimeutc", AMQP_FROM_TIME},
        {"x-opt-enqueued-time", AMQP_FROM_TIME},
    };
    nv_span name = *at;
    if (!skip(&name, "amqp.annotation.")) {
        return AMQP_FROM_BEGINNING;
    }
    for (size_t i = 0; i < NV_COUNT_OF(names); i++) {
        nv_span rest = name;
        if (skip(&rest, names[i].name) && rest.len > 0 && (is_space(rest.ptr[0]) || rest.ptr[0] == '>')) {
            *at = rest;
            return names[i].kind;
        }
    }
    return AMQP_FROM_BEGINNING;
}

/** A value with or without quotes, and nothing behind it. */
static bool read_value(nv_span at, nv_span *out)
{
    at = trimmed(at);
    if (at.len > 0 && at.ptr[0] == '\'') {
        at = nv_span_skip(at, 1);
        size_t quote = nv_span_find(at, '\'');
        if (quote + 1 != at.len) {
            return false; /* not closed, or something follows */
        }
        at = trimmed(nv_span_first(at, quote));
    }
    *out = at;
    for (size_t i = 0; i < at.len; i++) {
        if (is_space(at.ptr[i]) || at.ptr[i] == '\'') {
            return false;
        }
    }
    return at.len > 0;
}

/** An integer; a fraction, as some write times, is cut off. */
static bool read_number(nv_span text, bool fraction, bool *negative, uint64_t *out)
{
    *negative = text.len > 0 && text.ptr[0] == '-';
    text = nv_span_skip(text, *negative);
    size_t point = nv_span_find(text, '.');
    if (point < text.len) {
        uint64_t ignored;
        nv_span digits = nv_span_first(nv_span_skip(text, point + 1), 18);
        if (!fraction || digits.len == 0 || !nv_span_to_u64(digits, &ignored)) {
            return false;
        }
    }
    return nv_span_to_u64(nv_span_first(text, point), out) && *out <= INT64_MAX;
}

static void set_position(amqp_position *out, amqp_position_kind kind, uint64_t value, bool inclusive)
{
    const uint64_t latest_ms = INT64_MAX / NV_US_PER_MS;
    *out = (amqp_position){.kind = kind};
    if (kind != AMQP_FROM_TIME) {
        out->first = inclusive ? value : value + 1;
    } else if (value >= latest_ms) {
        out->time_us = INT64_MAX;
    } else {
        /* Readers see milliseconds: an event is behind one when it is behind all of its microseconds. */
        out->time_us = (int64_t)(inclusive ? value : value + 1) * NV_US_PER_MS;
    }
}

nv_err amqp_filter_parse(nv_span text, amqp_position *out, char why[AMQP_FILTER_WHY])
{
    *out = (amqp_position){.kind = AMQP_FROM_BEGINNING};
    nv_span at = trimmed(text);
    nv_span name = at;
    amqp_position_kind kind = read_name(&at);
    if (kind == AMQP_FROM_BEGINNING) {
        return wrong(why, "it is " GRAMMAR, name);
    }
    skip_spaces(&at);
    nv_span operation = at;
    if (!skip(&at, ">")) {
        return wrong(why, "the operator is > or >=", operation);
    }
    bool inclusive = skip(&at, "=");
    nv_span value;
    if (!read_value(at, &value)) {
        return wrong(why, "one value follows the operator, quoted by ' or not", at);
    }
    if (nv_span_eq_nocase(value, nv_span_str("@latest"))) {
        out->kind = AMQP_FROM_LATEST;
        return NV_OK;
    }
    bool negative;
    uint64_t number;
    if (!read_number(value, kind == AMQP_FROM_TIME, &negative, &number)) {
        return wrong(why,
                     kind == AMQP_FROM_OFFSET     ? "an offset is a number, '-1' or '@latest'"
                     : kind == AMQP_FROM_SEQUENCE ? "a sequence number is an integer of 64 bits"
                                                  : "a time is a number of milliseconds since 1970",
                     value);
    }
    if (!negative) {
        set_position(out, kind, number, inclusive);
    }
    return NV_OK;
}

/* ---- the filter map ----------------------------------------------------------------------------------------- */

static nv_err invalid(char why[AMQP_FILTER_WHY], const char *what)
{
    (void)snprintf(why, AMQP_FILTER_WHY, "The filter of the source is not valid: %s", what);
    return NV_E_INVALID;
}

static bool is_selector(const nv_amqp_value *value)
{
    return value->code_known ? value->code == FILTER_CODE : nv_span_eq_str(value->symbol, FILTER_NAME);
}

nv_err amqp_filter_read(nv_span filter, amqp_position *out, char why[AMQP_FILTER_WHY])
{
    *out = (amqp_position){.kind = AMQP_FROM_BEGINNING};
    if (filter.len == 0) {
        return NV_OK;
    }
    nv_reader r = nv_reader_of(filter);
    nv_amqp_value map;
    if (!nv_amqp_read(&r, &map) || (map.type != NV_AMQP_MAP && map.type != NV_AMQP_NULL)) {
        return invalid(why, "it is a map");
    }
    nv_amqp_value value;
    if (map.type == NV_AMQP_NULL || !nv_amqp_map_find(&map, FILTER_NAME, &value)) {
        return NV_OK;
    }
    if (value.type == NV_AMQP_DESCRIBED) {
        if (!is_selector(&value)) {
            return invalid(why, "its value is described by " FILTER_NAME " or 0x0000468C00000004");
        }
        nv_reader inner = nv_reader_of(value.bytes);
        if (!nv_amqp_read(&inner, &value)) {
            return invalid(why, "its value is malformed");
        }
    }
    if (!nv_amqp_is_text(&value)) {
        return invalid(why, "its value is a string");
    }
    return amqp_filter_parse(value.bytes, out, why);
}
