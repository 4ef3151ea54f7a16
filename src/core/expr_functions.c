#include "core/expr_functions.h"

#include <math.h>

/* ---- types -------------------------------------------------------------------------------------------------- */

static nv_datum is_defined(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    (void)scratch;
    return nv_datum_of_bool(args[0].kind != NV_DATUM_UNDEFINED);
}

static nv_datum is_null(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    (void)scratch;
    return nv_datum_of_bool(args[0].kind == NV_DATUM_NULL);
}

static nv_datum is_bool(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    (void)scratch;
    return nv_datum_of_bool(args[0].kind == NV_DATUM_BOOL);
}

static nv_datum is_number(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    (void)scratch;
    return nv_datum_of_bool(args[0].kind == NV_DATUM_NUMBER && isfinite(nv_datum_number(&args[0])));
}

static nv_datum is_string(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    (void)scratch;
    return nv_datum_of_bool(args[0].kind == NV_DATUM_STRING);
}

static nv_datum is_array(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    (void)scratch;
    return nv_datum_of_bool(args[0].kind == NV_DATUM_ARRAY);
}

static nv_datum is_object(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    (void)scratch;
    return nv_datum_of_bool(args[0].kind == NV_DATUM_OBJECT);
}

static nv_datum is_primitive(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    (void)scratch;
    return nv_datum_of_bool(args[0].kind >= NV_DATUM_NULL && args[0].kind <= NV_DATUM_STRING);
}

/* ---- numbers ------------------------------------------------------------------------------------------------ */

#define NUMBER_FUNCTION(name, formula)                                                                                 \
    static nv_datum name(const nv_datum *args, uint32_t count, nv_arena *scratch)                                      \
    {                                                                                                                  \
        (void)count;                                                                                                   \
        (void)scratch;                                                                                                 \
        double x = nv_datum_number(&args[0]);                                                                          \
        return nv_datum_of_number(formula);                                                                            \
    }
NUMBER_FUNCTION(fn_abs, fabs(x))
NUMBER_FUNCTION(fn_exp, exp(x))
NUMBER_FUNCTION(fn_square, x *x)
NUMBER_FUNCTION(fn_ceiling, ceil(x))
NUMBER_FUNCTION(fn_floor, floor(x))
NUMBER_FUNCTION(fn_sign, (x > 0 ? 1.0 : x < 0 ? -1.0 : x))
NUMBER_FUNCTION(fn_sqrt, sqrt(x))
NUMBER_FUNCTION(fn_power, pow(x, nv_datum_number(&args[1])))
#undef NUMBER_FUNCTION

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static size_t count_digits(nv_span text, size_t at)
{
    size_t start = at;
    while (at < text.len && is_digit(text.ptr[at])) {
        at++;
    }
    return at - start;
}

/* [sign] digits [. digits] [e [sign] digits], one digit at least in front of the exponent. */
static bool is_decimal(nv_span text)
{
    size_t at = text.len && (text.ptr[0] == '-' || text.ptr[0] == '+') ? 1 : 0;
    size_t whole = count_digits(text, at);
    size_t decimals = 0;
    at += whole;
    if (at < text.len && text.ptr[at] == '.') {
        decimals = count_digits(text, at + 1);
        at += 1 + decimals;
    }
    if (whole + decimals == 0) {
        return false;
    }
    if (at < text.len && (text.ptr[at] | 0x20) == 'e') {
        at++;
        at += at < text.len && (text.ptr[at] == '-' || text.ptr[at] == '+') ? 1 : 0;
        size_t exponent = count_digits(text, at);
        at += exponent;
        return exponent > 0 && at == text.len;
    }
    return at == text.len;
}

static nv_span trimmed(nv_span text)
{
    static const char space[] = " \t\r\n\v\f";
    while (text.len && text.ptr[0] && strchr(space, text.ptr[0])) {
        text = nv_span_skip(text, 1);
    }
    while (text.len && text.ptr[text.len - 1] && strchr(space, text.ptr[text.len - 1])) {
        text.len--;
    }
    return text;
}

static nv_datum as_number(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    if (args[0].kind == NV_DATUM_NUMBER) {
        return args[0];
    }
    nv_span text = args[0].kind == NV_DATUM_STRING ? trimmed(args[0].text) : NV_SPAN_EMPTY;
    if (!is_decimal(text)) {
        return NV_DATUM_OF_NOTHING;
    }
    /* As JSON writes it: no plus, a digit in front of the point. */
    uint8_t *json = nv_arena_alloc(scratch, text.len + 2);
    size_t len = 0;
    bool negative = text.ptr[0] == '-';
    text = nv_span_skip(text, is_digit(text.ptr[0]) || text.ptr[0] == '.' ? 0 : 1);
    json[len++] = '-';
    json[len++] = '0';
    memcpy(json + len, text.ptr, text.len);
    double number = 0;
    nv_span digits = nv_span_of(json + (negative ? 0 : 1), len + text.len - (negative ? 0 : 1));
    return nv_json_number(digits, &number) ? nv_datum_of_number(number) : NV_DATUM_OF_NOTHING;
}

/* ---- strings: positions and lengths count UTF-16 units, as the service does ----------------------------------- */

static bool ends_with(nv_span text, nv_span end)
{
    return text.len >= end.len && nv_span_starts_with(nv_span_skip(text, text.len - end.len), end);
}

static const uint8_t *search(nv_span text, nv_span part)
{
    return part.len ? memmem(text.ptr, text.len, part.ptr, part.len) : text.ptr ? text.ptr : (const uint8_t *)"";
}

static nv_datum fn_starts_with(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    (void)scratch;
    return nv_datum_of_bool(nv_span_starts_with(args[0].text, args[1].text));
}

static nv_datum fn_ends_with(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    (void)scratch;
    return nv_datum_of_bool(ends_with(args[0].text, args[1].text));
}

static nv_datum fn_contains(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    (void)scratch;
    return nv_datum_of_bool(search(args[0].text, args[1].text) != NULL);
}

static nv_datum concat(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    size_t len = 0;
    for (uint32_t i = 0; i < count; i++) {
        len += args[i].text.len;
    }
    if (len > NV_EXPR_STRING_MAX) {
        return NV_DATUM_OF_NOTHING;
    }
    uint8_t *out = nv_arena_alloc(scratch, len ? len : 1);
    size_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (args[i].text.len) {
            memcpy(out + at, args[i].text.ptr, args[i].text.len);
            at += args[i].text.len;
        }
    }
    return nv_datum_of_string(nv_span_of(out, len));
}

/* A character beyond U+FFFF is two units. */
static size_t units_at(uint8_t first)
{
    return (first & 0xc0) == 0x80 ? 0 : first >= 0xf0 ? 2 : 1;
}

static size_t units_of(nv_span text)
{
    size_t units = 0;
    for (size_t i = 0; i < text.len; i++) {
        units += units_at(text.ptr[i]);
    }
    return units;
}

static nv_datum length(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    (void)scratch;
    return nv_datum_of_number((double)units_of(args[0].text));
}

/* ASCII letters only; others stay as they are. */
static nv_datum change_case(nv_span text, nv_arena *scratch, uint8_t from, uint8_t to)
{
    if (text.len > NV_EXPR_STRING_MAX) {
        return NV_DATUM_OF_NOTHING;
    }
    uint8_t *out = nv_arena_alloc(scratch, text.len ? text.len : 1);
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.ptr[i];
        out[i] = c >= from && c < from + 26 ? (uint8_t)(c - from + to) : c;
    }
    return nv_datum_of_string(nv_span_of(out, text.len));
}

static nv_datum lower(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    return change_case(args[0].text, scratch, 'A', 'a');
}

static nv_datum upper(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    return change_case(args[0].text, scratch, 'a', 'A');
}

/* Bytes in front of unit @p units. @return SIZE_MAX: beyond the end or in the middle of a character */
static size_t bytes_before(nv_span text, double units)
{
    size_t passed = 0;
    size_t at = 0;
    while (at < text.len && ((double)passed < units || units_at(text.ptr[at]) == 0)) {
        passed += units_at(text.ptr[at++]);
    }
    return (double)passed == units ? at : SIZE_MAX;
}

/* (s, start): start from 0 to the length; (s, start, len): start below the length, len no further than the end. */
static nv_datum substring(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)scratch;
    nv_span text = args[0].text;
    size_t from = bytes_before(text, nv_datum_number(&args[1]));
    if (from == SIZE_MAX || (count == 3 && from == text.len)) {
        return NV_DATUM_OF_NOTHING;
    }
    nv_span rest = nv_span_skip(text, from);
    size_t len = count == 3 ? bytes_before(rest, nv_datum_number(&args[2])) : rest.len;
    return len == SIZE_MAX ? NV_DATUM_OF_NOTHING : nv_datum_of_string(nv_span_first(rest, len));
}

static nv_datum index_of(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    (void)scratch;
    const uint8_t *at = search(args[0].text, args[1].text);
    if (!at) {
        return nv_datum_of_number(-1);
    }
    return nv_datum_of_number(
        args[1].text.len ? (double)units_of(nv_span_first(args[0].text, (size_t)(at - args[0].text.ptr))) : 0);
}

/* ---- arrays ------------------------------------------------------------------------------------------------- */

static nv_datum array_contains(const nv_datum *args, uint32_t count, nv_arena *scratch)
{
    (void)count;
    nv_json_walk walk = nv_json_walk_of(args[0].text);
    while (nv_json_walk_next(&walk)) {
        nv_datum element = nv_datum_of_json(walk.value, scratch);
        if (nv_datum_same(&element, &args[1])) {
            return nv_datum_of_bool(true);
        }
    }
    return nv_datum_of_bool(false);
}

/* ---- the table ---------------------------------------------------------------------------------------------- */

#define ANY                                                                                                            \
    {                                                                                                                  \
        NV_PARAM_ANY, NV_PARAM_ANY, NV_PARAM_ANY                                                                       \
    }
#define NUMBERS                                                                                                        \
    {                                                                                                                  \
        NV_PARAM_NUMBER, NV_PARAM_NUMBER, NV_PARAM_NUMBER                                                              \
    }
#define STRINGS                                                                                                        \
    {                                                                                                                  \
        NV_PARAM_STRING, NV_PARAM_STRING, NV_PARAM_STRING                                                              \
    }
#define PROPERTY                                                                                                       \
    {                                                                                                                  \
        NV_PARAM_PROPERTY, NV_PARAM_PROPERTY, NV_PARAM_PROPERTY                                                        \
    }

static const nv_expr_function functions[] = {
    /* name, arguments, their types, result, undefined too, body */
    {"IS_DEFINED", 1, 1, PROPERTY, NV_TYPE_BOOL, true, is_defined},
    {"IS_NULL", 1, 1, ANY, NV_TYPE_BOOL, true, is_null},
    {"IS_BOOL", 1, 1, ANY, NV_TYPE_BOOL, true, is_bool},
    {"IS_NUMBER", 1, 1, ANY, NV_TYPE_BOOL, true, is_number},
    {"IS_STRING", 1, 1, ANY, NV_TYPE_BOOL, true, is_string},
    {"IS_ARRAY", 1, 1, ANY, NV_TYPE_BOOL, true, is_array},
    {"IS_OBJECT", 1, 1, ANY, NV_TYPE_BOOL, true, is_object},
    {"IS_PRIMITIVE", 1, 1, ANY, NV_TYPE_BOOL, true, is_primitive},
    {"ABS", 1, 1, NUMBERS, NV_TYPE_NUMBER, false, fn_abs},
    {"EXP", 1, 1, NUMBERS, NV_TYPE_NUMBER, false, fn_exp},
    {"SQUARE", 1, 1, NUMBERS, NV_TYPE_NUMBER, false, fn_square},
    {"CEILING", 1, 1, NUMBERS, NV_TYPE_NUMBER, false, fn_ceiling},
    {"FLOOR", 1, 1, NUMBERS, NV_TYPE_NUMBER, false, fn_floor},
    {"SIGN", 1, 1, NUMBERS, NV_TYPE_NUMBER, false, fn_sign},
    {"SQRT", 1, 1, NUMBERS, NV_TYPE_NUMBER, false, fn_sqrt},
    {"POWER", 2, 2, NUMBERS, NV_TYPE_NUMBER, false, fn_power},
    {"AS_NUMBER", 1, 1, ANY, NV_TYPE_NUMBER, false, as_number},
    {"CONCAT", 2, UINT32_MAX, STRINGS, NV_TYPE_STRING, false, concat},
    {"LENGTH", 1, 1, STRINGS, NV_TYPE_NUMBER, false, length},
    {"LOWER", 1, 1, STRINGS, NV_TYPE_STRING, false, lower},
    {"UPPER", 1, 1, STRINGS, NV_TYPE_STRING, false, upper},
    {"SUBSTRING", 2, 3, {NV_PARAM_STRING, NV_PARAM_NUMBER, NV_PARAM_NUMBER}, NV_TYPE_STRING, false, substring},
    {"INDEX_OF", 2, 2, STRINGS, NV_TYPE_NUMBER, false, index_of},
    {"STARTSWITH", 2, 2, STRINGS, NV_TYPE_BOOL, false, fn_starts_with},
    {"STARTS_WITH", 2, 2, STRINGS, NV_TYPE_BOOL, false, fn_starts_with},
    {"ENDSWITH", 2, 2, STRINGS, NV_TYPE_BOOL, false, fn_ends_with},
    {"ENDS_WITH", 2, 2, STRINGS, NV_TYPE_BOOL, false, fn_ends_with},
    {"CONTAINS", 2, 2, STRINGS, NV_TYPE_BOOL, false, fn_contains},
    {"ARRAY_CONTAINS", 2, 2, {NV_PARAM_ARRAY, NV_PARAM_ANY, NV_PARAM_ANY}, NV_TYPE_BOOL, false, array_contains},
};

const nv_expr_function *nv_expr_function_of(nv_span name)
{
    for (size_t i = 0; i < NV_COUNT_OF(functions); i++) {
        if (nv_span_eq_nocase(name, nv_span_str(functions[i].name))) {
            return &functions[i];
        }
    }
    return NULL;
}
