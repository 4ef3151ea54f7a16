#include "codec/duration.h"

#include "base/clock.h"

typedef struct unit {
    const char *name;
    int64_t us;
} unit;

#define MINUTE_US (60 * NV_US_PER_S)
#define HOUR_US   (60 * MINUTE_US)
#define DAY_US    (24 * HOUR_US)
#define WEEK_US   (7 * DAY_US)

/* In the order in which they may follow each other; each once. */
static const unit plain_units[] = {{"w", WEEK_US},   {"d", DAY_US},      {"h", HOUR_US},
                                   {"m", MINUTE_US}, {"s", NV_US_PER_S}, {"ms", NV_US_PER_MS}};
static const unit iso_dates[] = {{"W", WEEK_US}, {"D", DAY_US}};
static const unit iso_times[] = {{"H", HOUR_US}, {"M", MINUTE_US}, {"S", NV_US_PER_S}};

static bool is_digit(nv_span text)
{
    return text.len > 0 && text.ptr[0] >= '0' && text.ptr[0] <= '9';
}

static nv_err take_number(nv_span *text, int64_t *value)
{
    if (!is_digit(*text)) {
        return NV_E_SYNTAX;
    }
    for (*value = 0; is_digit(*text); *text = nv_span_skip(*text, 1)) {
        if (*value > (INT64_MAX - 9) / 10) {
            return NV_E_RANGE;
        }
        *value = *value * 10 + (text->ptr[0] - '0');
    }
    return NV_OK;
}

/* Decimals of seconds, down to microseconds. ISO 8601 allows a comma too. */
static nv_err take_fraction(nv_span *text, int64_t *us)
{
    *us = 0;
    if (text->len == 0 || (text->ptr[0] != '.' && text->ptr[0] != ',')) {
        return NV_OK;
    }
    *text = nv_span_skip(*text, 1);
    if (!is_digit(*text)) {
        return NV_E_SYNTAX;
    }
    for (int64_t place = NV_US_PER_S / 10; is_digit(*text); *text = nv_span_skip(*text, 1), place /= 10) {
        *us += place * (text->ptr[0] - '0');
    }
    return NV_OK;
}

static nv_span unit_name(nv_span text)
{
    size_t len = 0;
    while (len < text.len && ((text.ptr[len] | 0x20) >= 'a' && (text.ptr[len] | 0x20) <= 'z') && text.ptr[len] != 'T') {
        len++;
    }
    return nv_span_first(text, len);
}

/* One "number unit". @p at is the first unit that may still come, and moves. */
static nv_err take_part(nv_span *text, const unit *units, size_t count, size_t *at, int64_t *us)
{
    int64_t value = 0;
    int64_t fraction_us = 0;
    nv_err err = take_number(text, &value);
    err = err == NV_OK ? take_fraction(text, &fraction_us) : err;
    nv_span name = unit_name(*text);
    if (err != NV_OK) {
        return err;
    }
    while (*at < count && !nv_span_eq_str(name, units[*at].name)) {
        (*at)++;
    }
    if (*at == count || (fraction_us && units[*at].us != NV_US_PER_S)) {
        return NV_E_SYNTAX;
    }
    const unit *found = &units[(*at)++];
    if (value > (INT64_MAX - *us - fraction_us) / found->us) {
        return NV_E_RANGE;
    }
    *us += value * found->us + fraction_us;
    *text = nv_span_skip(*text, name.len);
    return NV_OK;
}

static nv_err take_parts(nv_span *text, const unit *units, size_t count, int64_t *us)
{
    size_t at = 0;
    nv_err err = NV_OK;
    while (err == NV_OK && is_digit(*text)) {
        err = take_part(text, units, count, &at, us);
    }
    return err;
}

static nv_err parse_iso(nv_span text, int64_t *us)
{
    nv_span all = text;
    nv_err err = take_parts(&text, iso_dates, NV_COUNT_OF(iso_dates), us);
    if (err == NV_OK && text.len > 0 && text.ptr[0] == 'T') {
        text = nv_span_skip(text, 1);
        err = is_digit(text) ? take_parts(&text, iso_times, NV_COUNT_OF(iso_times), us) : NV_E_SYNTAX;
    }
    return err == NV_OK && (text.len > 0 || all.len == 0) ? NV_E_SYNTAX : err;
}

nv_err nv_duration_parse(nv_span text, int64_t *us)
{
    *us = 0;
    if (text.len > 0 && text.ptr[0] == 'P') {
        return parse_iso(nv_span_skip(text, 1), us);
    }
    nv_err err = is_digit(text) ? take_parts(&text, plain_units, NV_COUNT_OF(plain_units), us) : NV_E_SYNTAX;
    return err == NV_OK && text.len > 0 ? NV_E_SYNTAX : err;
}
