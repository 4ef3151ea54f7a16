/** Unit tests of the base library. */
#include "base/alloc.h"
#include "base/buf.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/cursor.h"
#include "base/diag.h"
#include "base/guid.h"
#include "base/map.h"
#include "base/rng.h"
#include "base/task.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void span_trim(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t len;
        const char *trimmed;
    } rows[] = {{"", 0, ""},          {" \t ", 3, ""},    {"a", 1, "a"},
                {" a b\t", 5, "a b"}, {"\ra ", 3, "\ra"}, {"a\0 ", 3, NULL}}; /* NUL is no space */
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_span out = nv_span_trim(nv_span_of(rows[i].text, rows[i].len), " \t");
        assert_true(rows[i].trimmed ? nv_span_eq_str(out, rows[i].trimmed) : out.len == 2);
    }
}

static void span_numbers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool ok;
        uint64_t value;
    } rows[] = {{"0", true, 0},
                {"18446744073709551615", true, UINT64_MAX},
                {"18446744073709551616", false, 0},
                {"", false, 0},
                {"-1", false, 0},
                {"1 ", false, 0}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint64_t value = 0;
        assert_int_equal(nv_span_to_u64(nv_span_str(rows[i].text), &value), rows[i].ok);
        assert_true(!rows[i].ok || value == rows[i].value);
    }
}

static void buf_respects_its_maximum(void **state)
{
    (void)state;
    nv_buf buf;
    nv_buf_init(&buf, SIZE_MAX);
    assert_int_equal(buf.max, UINT32_MAX);
    nv_buf_init(&buf, 100);
    uint8_t block[60] = {1};
    assert_int_equal(nv_buf_append(&buf, nv_span_of(block, 60)), NV_OK);
    assert_int_equal(nv_buf_append(&buf, nv_span_of(block, 60)), NV_E_TOO_BIG);
    assert_int_equal(nv_buf_len(&buf), 60);
    nv_buf_consume(&buf, 50);
    assert_int_equal(nv_buf_append(&buf, nv_span_of(block, 60)), NV_OK);
    assert_int_equal(nv_buf_len(&buf), 70);
    nv_buf_truncate(&buf, 30);
    assert_int_equal(nv_buf_len(&buf), 30);
    nv_buf_set_max(&buf, 20); /* below what is there */
    assert_int_equal(nv_buf_append(&buf, nv_span_of(block, 1)), NV_E_TOO_BIG);
    nv_buf_consume(&buf, 11);
    assert_int_equal(nv_buf_append(&buf, nv_span_of(block, 1)), NV_OK);
    nv_buf_deinit(&buf);
}

static void integers_in_both_orders(void **state)
{
    (void)state;
    /* 0x80 and above in each place: no byte is taken for a signed one; at every alignment */
    static const uint8_t wire[] = {0xf1, 0x82, 0x93, 0xa4, 0xb5, 0xc6, 0xd7, 0xe8};
    for (size_t skew = 0; skew < 8; skew++) {
        uint8_t in[16] = {0};
        memcpy(in + skew, wire, sizeof(wire));
        assert_int_equal(nv_load_u16_be(in + skew), 0xf182);
        assert_int_equal(nv_load_u16_le(in + skew), 0x82f1);
        assert_int_equal(nv_load_u32_be(in + skew), 0xf18293a4);
        assert_int_equal(nv_load_u32_le(in + skew), 0xa49382f1);
        assert_true(nv_load_u64_be(in + skew) == UINT64_C(0xf18293a4b5c6d7e8));
        assert_true(nv_load_u64_le(in + skew) == UINT64_C(0xe8d7c6b5a49382f1));
        uint8_t out[17];
#define STORES(bits, value_be, value_le)                                                                               \
    do {                                                                                                               \
        memset(out, 0x55, sizeof(out));                                                                                \
        nv_store_u##bits##_be(out + 1 + skew, value_be);                                                               \
        assert_memory_equal(out + 1 + skew, wire, (bits) / 8);                                                         \
        nv_store_u##bits##_le(out + 1 + skew, value_le);                                                               \
        assert_memory_equal(out + 1 + skew, wire, (bits) / 8);                                                         \
        assert_int_equal(out[skew], 0x55);                                                                             \
        assert_true(1 + skew + (bits) / 8 == sizeof(out) || out[1 + skew + (bits) / 8] == 0x55);                       \
    } while (0)
        STORES(16, 0xf182, 0x82f1);
        STORES(32, 0xf18293a4, 0xa49382f1);
        STORES(64, UINT64_C(0xf18293a4b5c6d7e8), UINT64_C(0xe8d7c6b5a49382f1));
#undef STORES
    }
}

static void cursor_keeps_the_orders(void **state)
{
    (void)state;
    uint8_t bytes[28];
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    nv_write_u16_be(&w, 0xf182);
    nv_write_u32_be(&w, 0xf18293a4);
    nv_write_u64_be(&w, UINT64_C(0xf18293a4b5c6d7e8));
    nv_write_u64_le(&w, UINT64_C(0xf18293a4b5c6d7e8));
    nv_write_u32_le(&w, 0xf18293a4);
    nv_write_u16_le(&w, 0xf182);
    assert_int_equal(w.err, NV_OK);
    static const uint8_t wire[] = {0xf1, 0x82, 0xf1, 0x82, 0x93, 0xa4, 0xf1, 0x82, 0x93, 0xa4, 0xb5, 0xc6, 0xd7, 0xe8,
                                   0xe8, 0xd7, 0xc6, 0xb5, 0xa4, 0x93, 0x82, 0xf1, 0xa4, 0x93, 0x82, 0xf1, 0x82, 0xf1};
    assert_int_equal(nv_writer_len(&w), sizeof(wire));
    assert_memory_equal(bytes, wire, sizeof(wire));
    nv_reader r = nv_reader_of(nv_span_of(wire, sizeof(wire)));
    assert_int_equal(nv_read_u16_be(&r), 0xf182);
    assert_int_equal(nv_read_u32_be(&r), 0xf18293a4);
    assert_true(nv_read_u64_be(&r) == UINT64_C(0xf18293a4b5c6d7e8));
    assert_true(nv_read_u64_le(&r) == UINT64_C(0xf18293a4b5c6d7e8));
    assert_int_equal(nv_read_u32_le(&r), 0xf18293a4);
    assert_int_equal(nv_read_u16_le(&r), 0xf182);
    assert_int_equal(nv_reader_left(&r), 0);
    assert_int_equal(r.err, NV_OK);
}

static void cursor_errors_stick(void **state)
{
    (void)state;
    uint8_t bytes[6] = {0x12, 0x34, 1, 2, 3, 4};
    nv_reader r = nv_reader_of(nv_span_of(bytes, sizeof(bytes)));
    assert_int_equal(nv_read_u16_be(&r), 0x1234);
    assert_int_equal(nv_read_u32_le(&r), 0x04030201);
    assert_int_equal(nv_read_u8(&r), 0);
    assert_int_equal(r.err, NV_E_SYNTAX);
    nv_writer w = nv_writer_of(bytes, 3);
    nv_write_u16_le(&w, 0xabcd);
    nv_write_u16_le(&w, 1);
    nv_write_u8(&w, 1);
    assert_int_equal(w.err, NV_E_TOO_BIG);
    assert_int_equal(nv_writer_len(&w), 2);
    assert_int_equal(bytes[0], 0xcd);
}

static void map_survives_churn(void **state)
{
    (void)state;
    nv_map map;
    nv_map_init(&map, 7);
    static char keys[500][8];
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 500; i++) {
            (void)snprintf(keys[i], sizeof(keys[i]), "k%d", i);
            assert_null(nv_map_put(&map, nv_span_str(keys[i]), keys[i]));
        }
        for (int i = 0; i < 500; i++) {
            assert_ptr_equal(nv_map_get(&map, nv_span_str(keys[i])), keys[i]);
        }
        for (int i = 0; i < 500; i++) {
            assert_ptr_equal(nv_map_remove(&map, nv_span_str(keys[i])), keys[i]);
        }
        assert_int_equal(map.count, 0);
    }
    assert_true(map.capacity <= 2048);
    nv_map_deinit(&map);
}

static uint32_t crc32c_bitwise(const uint8_t *bytes, size_t count)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < count; i++) {
        crc ^= bytes[i];
        for (int k = 0; k < 8; k++) {
            crc = crc & 1 ? crc >> 1 ^ UINT32_C(0x82f63b78) : crc >> 1;
        }
    }
    return ~crc;
}

/* Lengths on both sides of those from which the sum is made in parts. */
static void crc32c_lengths(void **state)
{
    (void)state;
    enum { MOST = 20000 };
    uint8_t *bytes = nv_calloc(1, MOST);
    for (size_t i = 0; i < MOST; i++) {
        bytes[i] = (uint8_t)(i * i >> 3 ^ i * 37);
    }
    static const size_t lengths[] = {0,   1,   7,    8,    255,  256,  767,  768,   769,   775,   776,
                                     800, 999, 1535, 1536, 6143, 6144, 6145, 12287, 12288, 13061, 19990};
    for (size_t i = 0; i < NV_COUNT_OF(lengths); i++) {
        for (size_t from = 0; from < 9; from += 3) {
            size_t count = lengths[i];
            uint32_t whole = nv_crc32c(0, nv_span_of(bytes + from, count));
            assert_int_equal(whole, crc32c_bitwise(bytes + from, count));
            size_t half = count / 2;
            uint32_t part = nv_crc32c(0, nv_span_of(bytes + from, half));
            assert_int_equal(nv_crc32c(part, nv_span_of(bytes + from + half, count - half)), whole);
        }
    }
    free(bytes);
}

static void crc32c_vectors(void **state)
{
    (void)state;
    /* RFC 3720, appendix B.4 */
    uint8_t zeros[32] = {0};
    uint8_t ones[32];
    memset(ones, 0xff, sizeof(ones));
    assert_int_equal(nv_crc32c(0, nv_span_of(zeros, 32)), 0x8a9136aa);
    assert_int_equal(nv_crc32c(0, nv_span_of(ones, 32)), 0x62a8ab43);
    assert_int_equal(nv_crc32c(0, nv_span_str("123456789")), 0xe3069283);
    uint32_t part = nv_crc32c(0, nv_span_str("1234"));
    assert_int_equal(nv_crc32c(part, nv_span_str("56789")), 0xe3069283);
}

static void time_has_seven_digits(void **state)
{
    (void)state;
    char text[NV_TIME_TEXT_SIZE];
    nv_time_format(INT64_C(1714558830123456), text);
    assert_string_equal(text, "2024-05-01T10:20:30.1234560Z");
    nv_time_format(0, text);
    assert_string_equal(text, "1970-01-01T00:00:00.0000000Z");
}

static char last_line[512];
static void keep_line(void *arg, nv_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    (void)snprintf(last_line, sizeof(last_line), "%.*s", (int)len, line);
}

static void diag_cannot_be_forged(void **state)
{
    (void)state;
    nv_diag_set_sink(keep_line, NULL);
    nv_subject who = {.connection = 7, .device = nv_span_str("a\nb\"c")};
    nv_diag_setup(NV_LEVEL_INFO, true, 2);
    nv_diag(NV_LEVEL_WARN, "mqtt", &who, "refused");
    assert_non_null(strstr(last_line, "\"conn\":\"7\",\"device\":\"a\\u000ab\\u0022c\"}\n"));
    nv_diag_setup(NV_LEVEL_INFO, false, 2);
    nv_diag(NV_LEVEL_WARN, "mqtt", &who, "refused");
    assert_non_null(strstr(last_line, " warn mqtt: refused conn=7 device=a\\u000ab\"c\n"));
    /* A character cut in two, bytes that are none, a surrogate, an overlong form, a C1 control. */
    nv_diag(NV_LEVEL_WARN, "mqtt", NULL,
            "\xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80 \xff \xed\xa0\x80 \xc0\xaf \xc2\x9b \xf4\x90\x80\x80 \xc3");
    assert_non_null(strstr(last_line, " warn mqtt: \xc3\xbc \xe2\x82\xac \xf0\x9f\x98\x80 \\ufffd "
                                      "\\ufffd\\ufffd\\ufffd \\ufffd\\ufffd \\u009b "
                                      "\\ufffd\\ufffd\\ufffd\\ufffd \\ufffd\n"));
    nv_diag_set_sink(NULL, NULL);
}

struct counted {
    nv_task task;
    int *order;
    int id;
};

static void note(nv_task *task)
{
    struct counted *c = nv_container_of(task, struct counted, task);
    *c->order = *c->order * 10 + c->id;
}

static void tasks_run_in_order(void **state)
{
    (void)state;
    nv_exec_queue queue;
    nv_exec_queue_init(&queue);
    int order = 0;
    struct counted a = {{NULL, note}, &order, 1};
    struct counted b = {{NULL, note}, &order, 2};
    nv_post(&queue.exec, &a.task);
    nv_post(&queue.exec, &b.task);
    assert_int_equal(order, 0);
    assert_int_equal(nv_exec_queue_run(&queue), 2);
    assert_int_equal(order, 12);
    assert_true(nv_exec_is_current(&queue.exec));
    nv_exec_queue_stop(&queue);
    assert_false(nv_exec_queue_run_wait(&queue));
    nv_exec_queue_deinit(&queue);
}

static void guid_as_dotnet_has_it(void **state)
{
    (void)state;
    static const uint8_t want[16] = {0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66,
                                     0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};
    uint8_t got[16];
    assert_true(nv_guid_to_net_bytes("00112233-4455-6677-8899-aabbccddeeff", got));
    assert_memory_equal(got, want, sizeof(want));
    assert_true(nv_guid_to_net_bytes("00112233-4455-6677-8899-AABBCCDDEEFF", got));
    static const char *const wrong[] = {"",
                                        "00112233-4455-6677-8899-aabbccddeef",
                                        "00112233-4455-6677-8899-aabbccddeeff0",
                                        "00112233+4455-6677-8899-aabbccddeeff",
                                        "0011223-34455-6677-8899-aabbccddeeff",
                                        "00112233-4455-6677-8899-aabbccddeefg"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_false(nv_guid_to_net_bytes(wrong[i], got));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(span_numbers),
        cmocka_unit_test(span_trim),
        cmocka_unit_test(buf_respects_its_maximum),
        cmocka_unit_test(integers_in_both_orders),
        cmocka_unit_test(cursor_keeps_the_orders),
        cmocka_unit_test(cursor_errors_stick),
        cmocka_unit_test(map_survives_churn),
        cmocka_unit_test(crc32c_vectors),
        cmocka_unit_test(crc32c_lengths),
        cmocka_unit_test(time_has_seven_digits),
        cmocka_unit_test(diag_cannot_be_forged),
        cmocka_unit_test(tasks_run_in_order),
        cmocka_unit_test(guid_as_dotnet_has_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
