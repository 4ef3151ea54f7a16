/** Start positions of event readers: the text of every client, and what is refused. */
#include "session/amqp/filter.h"

#include "base/attrs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#define OFFSET   "amqp.annotation.x-opt-offset"
#define SEQUENCE "amqp.annotation.x-opt-sequence-number"
#define TIME     "amqp.annotation.x-opt-enqueued-time"

/* conformance: amqp.md 48 */
static void texts(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        amqp_position want;
    } rows[] = {
        {OFFSET " > '-1'", {.kind = AMQP_FROM_BEGINNING}},
        {OFFSET " > -1", {.kind = AMQP_FROM_BEGINNING}},
        {OFFSET " >= '-1'", {.kind = AMQP_FROM_BEGINNING}},
        {OFFSET " > '@latest'", {.kind = AMQP_FROM_LATEST}},
        {OFFSET " > @latest", {.kind = AMQP_FROM_LATEST}},
        {OFFSET " > '0'", {.kind = AMQP_FROM_OFFSET, .first = 1}},
        {OFFSET " > '4294967296'", {.kind = AMQP_FROM_OFFSET, .first = 4294967297}},
        {OFFSET " >= '17'", {.kind = AMQP_FROM_OFFSET, .first = 17}},
        {OFFSET ">'17'", {.kind = AMQP_FROM_OFFSET, .first = 18}},
        {OFFSET ">=17", {.kind = AMQP_FROM_OFFSET, .first = 17}},
        {" \t" OFFSET "  >  ' 17 ' ", {.kind = AMQP_FROM_OFFSET, .first = 18}},
        {"AMQP.Annotation.X-Opt-Offset > '17'", {.kind = AMQP_FROM_OFFSET, .first = 18}},
        {SEQUENCE " > '42'", {.kind = AMQP_FROM_SEQUENCE, .first = 43}},
        {SEQUENCE " >= '42'", {.kind = AMQP_FROM_SEQUENCE, .first = 42}},
        {SEQUENCE " > 2995", {.kind = AMQP_FROM_SEQUENCE, .first = 2996}},
        {SEQUENCE " > '-1'", {.kind = AMQP_FROM_BEGINNING}},
        {SEQUENCE " > '9223372036854775807'", {.kind = AMQP_FROM_SEQUENCE, .first = UINT64_C(1) << 63}},
        {TIME " > '1700000000000'", {.kind = AMQP_FROM_TIME, .time_us = 1700000000001000}},
        {TIME " >= '1700000000000'", {.kind = AMQP_FROM_TIME, .time_us = 1700000000000000}},
        {TIME " > '1700000000000.25'", {.kind = AMQP_FROM_TIME, .time_us = 1700000000001000}},
        {TIME " > '9223372036854775807'", {.kind = AMQP_FROM_TIME, .time_us = INT64_MAX}},
        {TIME " > '-62135596800000'", {.kind = AMQP_FROM_BEGINNING}},
        {"amqp.annotation.x-opt-enqueuedtimeutc > 1700000000000",
         {.kind = AMQP_FROM_TIME, .time_us = 1700000000001000}},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char why[AMQP_FILTER_WHY] = "";
        amqp_position got;
        assert_int_equal(amqp_filter_parse(nv_span_str(rows[i].text), &got, why), NV_OK);
        assert_int_equal(got.kind, rows[i].want.kind);
        assert_int_equal(got.first, rows[i].want.first);
        assert_int_equal(got.time_us, rows[i].want.time_us);
        assert_string_equal(why, "");
    }
}

static void refused_texts(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *says;
    } rows[] = {
        {"", "it is amqp.annotation."},
        {"x-opt-offset > '1'", "it is amqp.annotation."},
        {"amqp.annotation.x-opt-partition-key > '1'", "near \"amqp.annotation.x-opt-partition-key"},
        {"amqp.annotation.x-opt-offsets > '1'", "it is amqp.annotation."},
        {"amqp.annotation.x-opt-offset", "it is amqp.annotation."},
        {OFFSET " < '1'", "the operator is > or >=, near \"< '1'\""},
        {OFFSET " = '1'", "the operator"},
        {OFFSET " >", "one value"},
        {OFFSET " > ''", "one value"},
        {OFFSET " > '1", "one value"},
        {OFFSET " > 1'", "one value"},
        {OFFSET " > '1' and " SEQUENCE " > '2'", "one value"},
        {OFFSET " > 1 2", "one value"},
        {OFFSET " > 'abc'", "an offset is a number, '-1' or '@latest', near \"abc\""},
        {OFFSET " > '1.5'", "an offset"},
        {OFFSET " > '9223372036854775808'", "an offset"},
        {OFFSET " > '99999999999999999999'", "an offset"},
        {OFFSET " > '--1'", "an offset"},
        {OFFSET " > '-'", "an offset"},
        {OFFSET " > '\x01\xff'", "near \"??\""},
        {SEQUENCE " > '1e3'", "an integer of 64 bits"},
        {SEQUENCE " > '1.0'", "an integer of 64 bits"},
        {TIME " > '2024-05-01T10:20:30Z'", "milliseconds since 1970"},
        {TIME " > '1.'", "milliseconds"},
        {TIME " > '1.x'", "milliseconds"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char why[AMQP_FILTER_WHY] = "";
        amqp_position got;
        assert_int_equal(amqp_filter_parse(nv_span_str(rows[i].text), &got, why), NV_E_SYNTAX);
        assert_non_null(strstr(why, rows[i].says));
    }
}

/** Whatever a peer writes, the sentence is bounded and printable. */
static void long_texts(void **state)
{
    (void)state;
    char text[4000];
    memset(text, 'x', sizeof(text));
    char why[AMQP_FILTER_WHY];
    amqp_position got;
    assert_int_equal(amqp_filter_parse(nv_span_of(text, sizeof(text)), &got, why), NV_E_SYNTAX);
    assert_true(strlen(why) < AMQP_FILTER_WHY);
}

#define KEY "apache.org:selector-filter:string"

typedef enum descriptor { SYMBOL, CODE, WRONG_CODE, WRONG_SYMBOL, NONE } descriptor;

static nv_span make_map(uint8_t *memory, size_t size, bool key_is_string, descriptor described, const char *text)
{
    nv_writer w = nv_writer_of(memory, size);
    size_t mark = nv_amqp_begin_map(&w);
    nv_amqp_put_symbol_of(&w, "another:filter");
    nv_amqp_put_string_of(&w, "not ours");
    if (key_is_string) {
        nv_amqp_put_string_of(&w, KEY);
    } else {
        nv_amqp_put_symbol_of(&w, KEY);
    }
    switch (described) {
    case SYMBOL:
    case WRONG_SYMBOL:
        nv_write_u8(&w, 0);
        nv_amqp_put_symbol_of(&w, described == SYMBOL ? KEY : "apache.org:legacy-amqp-topic-binding:string");
        break;
    case CODE:
    case WRONG_CODE:
        nv_amqp_put_descriptor(&w, described == CODE ? UINT64_C(0x468C00000004) : 4);
        break;
    case NONE:
        break;
    }
    if (text) {
        nv_amqp_put_string_of(&w, text);
    } else {
        nv_amqp_put_long(&w, 1);
    }
    nv_amqp_end_map(&w, mark, 4);
    assert_int_equal(w.err, NV_OK);
    return nv_writer_span(&w);
}

/* conformance: amqp.md 49 */
static void maps(void **state)
{
    (void)state;
    static const struct {
        bool key_is_string;
        descriptor described;
        const char *text;
        nv_err err;
        const char *says;
    } rows[] = {
        {false, SYMBOL, OFFSET " > '5'", NV_OK, ""},
        {false, CODE, OFFSET " > '5'", NV_OK, ""},
        {true, SYMBOL, OFFSET " > '5'", NV_OK, ""},
        {false, NONE, OFFSET " > '5'", NV_OK, ""},
        {false, WRONG_CODE, OFFSET " > '5'", NV_E_INVALID, "described by"},
        {false, WRONG_SYMBOL, OFFSET " > '5'", NV_E_INVALID, "described by"},
        {false, SYMBOL, NULL, NV_E_INVALID, "its value is a string"},
        {false, CODE, "nonsense", NV_E_SYNTAX, "near \"nonsense\""},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint8_t memory[400];
        char why[AMQP_FILTER_WHY] = "";
        amqp_position got;
        nv_span map = make_map(memory, sizeof(memory), rows[i].key_is_string, rows[i].described, rows[i].text);
        assert_int_equal(amqp_filter_read(map, &got, why), rows[i].err);
        assert_non_null(strstr(why, rows[i].says));
        if (rows[i].err == NV_OK) {
            assert_true(got.kind == AMQP_FROM_OFFSET && got.first == 6);
        }
        for (size_t cut = 0; cut < map.len; cut++) { /* broken anywhere: an answer, never a crash */
            (void)!amqp_filter_read(nv_span_first(map, cut), &got, why);
        }
    }
}

static void no_selector(void **state)
{
    (void)state;
    uint8_t memory[64];
    char why[AMQP_FILTER_WHY];
    amqp_position got = {.kind = AMQP_FROM_LATEST};
    assert_int_equal(amqp_filter_read(NV_SPAN_EMPTY, &got, why), NV_OK);
    assert_int_equal(got.kind, AMQP_FROM_BEGINNING);
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_end_map(&w, nv_amqp_begin_map(&w), 0);
    assert_int_equal(amqp_filter_read(nv_writer_span(&w), &got, why), NV_OK);
    w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_put_null(&w);
    assert_int_equal(amqp_filter_read(nv_writer_span(&w), &got, why), NV_OK);
    w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_put_string_of(&w, "a string");
    assert_int_equal(amqp_filter_read(nv_writer_span(&w), &got, why), NV_E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts), cmocka_unit_test(refused_texts), cmocka_unit_test(long_texts),
        cmocka_unit_test(maps),  cmocka_unit_test(no_selector),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
