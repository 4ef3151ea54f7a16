/** The bytes of the format: exact vectors, every bit of a commit protected, and headers that must be refused. */
#include "store/log_format.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* One run of two records "hi" and "x" with a property, partition 3, stamp "S". */
static const uint8_t payload[] = {
    61,   0,    0, 0, 3, 0, 1, 0, 2,   0,   0, 0,               /* run: bytes, partition, stamp bytes, records */
    5,    0,    0, 0, 0, 0, 0, 0, 100, 0,   0, 0, 0,   0, 0, 0, /* first sequence 5, first offset 100 */
    0x10, 0x27, 0, 0, 0, 0, 0, 0, 10,  0,   0, 0, 'S',          /* enqueued 10,000 us, last record at 10, stamp */
    10,   0,    0, 0, 0, 0, 0, 0, 'h', 'i',                     /* telemetry, data */
    10,   0,    0, 0, 3, 1, 1, 0, 'p', 'x',                     /* twin change, AMQP value, one property byte */
};
static const uint8_t commit_header[NV_COMMIT_HEADER] = {
    'N', 'V', 'C', '1', 0xea, 0xb5, 0x7e, 0xc3, 7,    0,    0, 0, 0, 0, 0, 0, 61, 0, 0, 0, 112, 0, 0, 0,
    1,   0,   0,   0,   2,    0,    0,    0,    0x10, 0x27, 0, 0, 0, 0, 0, 0, 9,  0, 0, 0, 0,   0, 0, 0,
};
static const uint64_t generation = UINT64_C(0x1122334455667788);

static void make_commit(uint8_t out[112])
{
    memset(out, 0, 112);
    memcpy(out + NV_COMMIT_HEADER, payload, sizeof(payload));
    nv_commit commit = {.index = 7,
                        .payload_bytes = sizeof(payload),
                        .disk_bytes = 112,
                        .runs = 1,
                        .records = 2,
                        .wall_us = 10000,
                        .outbox_row = 9};
    nv_commit_encode(out, &commit, generation, 4096);
}

static void commit_vector(void **state)
{
    (void)state;
    uint8_t bytes[112];
    make_commit(bytes);
    for (size_t i = 0; i < NV_COMMIT_HEADER; i++) {
        if (bytes[i] != commit_header[i]) {
            fprintf(stderr, "byte %zu is %02x\n", i, bytes[i]);
        }
    }
    assert_memory_equal(bytes, commit_header, NV_COMMIT_HEADER);
    nv_commit commit;
    assert_int_equal(nv_commit_decode(nv_span_of(bytes, 112), generation, 4096, &commit), NV_OK);
    nv_log_point point = {.next_commit = 7};
    point.parts[3] = (nv_part_point){5, 100, 0, 0};
    nv_log_point twice = point;
    assert_int_equal(nv_log_point_advance(&point, &commit, 4), NV_OK);
    assert_true(point.parts[3].next_sequence == 7 && point.parts[3].next_offset == 120);
    assert_true(point.parts[3].last_offset == 110 && point.parts[3].last_time_us == 10000);
    assert_true(point.next_commit == 8 && point.outbox_row == 9 && point.last_time_us == 10000);
    assert_int_equal(nv_log_point_advance(&point, &commit, 4), NV_E_CORRUPT); /* does not continue itself */
    assert_int_equal(nv_log_point_advance(&twice, &commit, 3), NV_E_CORRUPT); /* no partition 3 of 3 */
}

static void commit_damage(void **state)
{
    (void)state;
    uint8_t bytes[112];
    nv_commit commit;
    for (size_t bit = 0; bit < (NV_COMMIT_HEADER + sizeof(payload)) * 8; bit++) {
        make_commit(bytes);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(nv_commit_decode(nv_span_of(bytes, 112), generation, 4096, &commit), NV_OK);
    }
    make_commit(bytes);
    assert_int_equal(nv_commit_decode(nv_span_of(bytes, 112), generation + 1, 4096, &commit), NV_E_CORRUPT);
    assert_int_equal(nv_commit_decode(nv_span_of(bytes, 112), generation, 8192, &commit), NV_E_CORRUPT);
    for (size_t cut = 0; cut < 112; cut++) {
        assert_int_equal(nv_commit_decode(nv_span_of(bytes, cut), generation, 4096, &commit), NV_E_MORE);
    }
}

static void runs_that_do_not_add_up(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint8_t value;
    } rows[] = {{0, 60}, {0, 62}, {0, 0}, {1, 1}, {6, 30}, {3, 0xff}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint8_t bytes[sizeof(payload)];
        memcpy(bytes, payload, sizeof(bytes));
        bytes[rows[i].at] = rows[i].value;
        nv_span left = nv_span_of(bytes, sizeof(bytes));
        nv_run run;
        while (nv_run_next(&left, &run)) {
        }
        assert_null(left.ptr);
    }
}

static void headers(void **state)
{
    (void)state;
    uint8_t block[NV_LOG_BLOCK];
    nv_segment_header h = {.number = 5, .generation = 77, .partitions = 32, .align = 8, .start_was_durable = true};
    h.start = (nv_log_point){.segment = 4, .position = 8192, .next_commit = 11, .outbox_row = 3, .last_time_us = 99};
    h.start.parts[31] = (nv_part_point){1, 2, 3, 4};
    memset(h.uuid, 0xab, sizeof(h.uuid));
    nv_segment_header_encode(&h, block);
    assert_memory_equal(block, "NVS1", 4);
    nv_segment_header back;
    memset(&back, 0, sizeof(back));
    assert_int_equal(nv_segment_header_decode(block, &back), NV_OK);
    assert_true(back.number == 5 && back.generation == 77 && back.partitions == 32 && back.align == 8);
    assert_true(back.start_was_durable && !back.prewritten && back.start.segment == 4);
    assert_memory_equal(&back.start, &h.start, sizeof(h.start));
    for (size_t i = 4; i < NV_LOG_BLOCK; i += 37) {
        block[i] ^= 1;
        assert_int_equal(nv_segment_header_decode(block, &back), NV_E_CORRUPT);
        block[i] ^= 1;
    }
    block[0] = 0;
    assert_int_equal(nv_segment_header_decode(block, &back), NV_E_NOT_FOUND);
    const nv_segment_header bad[] = {
        {.number = 0, .partitions = 1, .align = 8},
        {.number = 1, .partitions = 0, .align = 8},
        {.number = 1, .partitions = 33, .align = 8},
        {.number = 1, .partitions = 1, .align = 16},
        {.number = 1, .partitions = 1, .align = 8, .start = {.segment = 1}},
    };
    for (size_t i = 0; i < NV_COUNT_OF(bad); i++) {
        nv_segment_header_encode(&bad[i], block);
        assert_int_equal(nv_segment_header_decode(block, &back), NV_E_CORRUPT);
    }
}

static void footers(void **state)
{
    (void)state;
    nv_segment_header h = {.number = 5, .generation = 77, .partitions = 3, .align = 8};
    nv_index_entry index[100];
    for (size_t i = 0; i < 100; i++) {
        index[i] = (nv_index_entry){i * 1000, i, (int64_t)i, {i, 2 * i, 3 * i}};
    }
    nv_segment_footer f = {.end = {.segment = 5, .position = 12345, .next_commit = 100, .last_time_us = 9},
                           .first_time_us = 1,
                           .commits = 90,
                           .records = 900,
                           .padding = 7,
                           .index_count = 100};
    size_t bytes = nv_footer_bytes(3, 100);
    assert_int_equal(bytes, 8192 + 4096); /* 4,800 bytes of index take two blocks, the tail one */
    uint8_t *out = malloc(bytes);
    nv_footer_encode(&h, &f, index, out);
    const uint8_t *tail = out + bytes - NV_LOG_BLOCK;
    nv_segment_footer back;
    assert_int_equal(nv_footer_decode(&h, tail, &back), NV_OK);
    assert_true(back.end.position == 12345 && back.end.next_commit == 100 && back.commits == 90 && back.padding == 7);
    size_t entries = 100 * nv_index_entry_bytes(3);
    assert_true(nv_index_valid(&h, tail, nv_span_of(out, entries)));
    nv_index_entry entry;
    nv_index_decode(3, out, 50, &entry);
    assert_true(entry.position == 50000 && entry.commit == 50 && entry.next_sequence[2] == 150);
    out[10] ^= 1;
    assert_false(nv_index_valid(&h, tail, nv_span_of(out, entries)));
    h.generation = 78; /* the file was used again since */
    assert_int_equal(nv_footer_decode(&h, tail, &back), NV_E_CORRUPT);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commit_vector), cmocka_unit_test(commit_damage), cmocka_unit_test(runs_that_do_not_add_up),
        cmocka_unit_test(headers),       cmocka_unit_test(footers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
