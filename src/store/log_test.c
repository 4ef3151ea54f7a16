/** The log as its callers see it: what goes in comes out, by every start position, across restarts. */
#include "support/log_testkit.h"

#include "base/alloc.h"
#include "base/diag.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static log_kit kit;

static int set_up(void **state)
{
    (void)state;
    kit_init(&kit, 42);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kit_deinit(&kit);
    return 0;
}

static void first_steps(void **state)
{
    (void)state;
    kit_open(&kit);
    assert_int_equal(kit_count(&kit), 0);
    assert_int_equal(kit_append(&kit, 0, "dev1", "one"), NV_OK);
    nv_manual_clock_advance(&kit.clock, 1000);
    assert_int_equal(kit_append(&kit, 1, "dev2", "two"), NV_OK);
    assert_int_equal(kit_append(&kit, 0, "dev1", "three"), NV_OK);
    nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING};
    log_kit_records got = kit_read(&kit, &options);
    assert_int_equal(got.count, 3);
    assert_string_equal(got.rows[0].body, "one");
    assert_string_equal(got.rows[1].device, "dev2");
    assert_string_equal(got.rows[2].body, "three");
    assert_int_equal(got.rows[2].sequence, 1);
    assert_int_equal(got.rows[2].offset, 11);
    free(got.rows);
    kit_close(&kit);
    kit_open(&kit);
    assert_int_equal(kit_count(&kit), 3);
    assert_int_equal(kit_append(&kit, 0, "dev1", "four"), NV_OK);
    assert_int_equal(kit_count(&kit), 4);
}

/* ---- reading ---------------------------------------------------------------------------------------------- */

static void start_positions(void **state)
{
    (void)state;
    kit_open(&kit);
    int64_t start = kit_fill_sixty(&kit);
    const struct {
        nv_log_read_options options;
        size_t count;
        const char *first;
        size_t gone;
    } rows[] = {
        {{.from = NV_LOG_FROM_BEGINNING}, 60, "m0", 0},
        {{.from = NV_LOG_FROM_NOW}, 0, "", 0},
        {{.from = NV_LOG_FROM_BEGINNING, .partitions = 2}, 30, "m1", 0},
        {{.from = NV_LOG_FROM_BEGINNING, .device_id = NV_SPAN_LIT("d2")}, 20, "m2", 0},
        {{.from = NV_LOG_FROM_BEGINNING, .device_id = NV_SPAN_LIT("d2"), .partitions = 1}, 10, "m2", 0},
        {{.from = NV_LOG_FROM_BEGINNING, .device_id = NV_SPAN_LIT("d")}, 0, "", 0},
        {{.from = NV_LOG_FROM_TIME, .time_us = start + 10000}, 50, "m10", 0},
        {{.from = NV_LOG_FROM_TIME, .time_us = start + 10001}, 49, "m11", 0},
        {{.from = NV_LOG_FROM_TIME, .time_us = INT64_MAX}, 0, "", 0},
        {{.from = NV_LOG_FROM_TIME, .time_us = 0}, 60, "m0", 0},
        {{.from = NV_LOG_FROM_SEQUENCE, .partitions = 1, .sequence = 0}, 30, "m0", 0},
        {{.from = NV_LOG_FROM_SEQUENCE, .partitions = 2, .sequence = 29}, 1, "m59", 0},
        {{.from = NV_LOG_FROM_SEQUENCE, .partitions = 2, .sequence = 30}, 0, "", 0},
        {{.from = NV_LOG_FROM_SEQUENCE, .partitions = 2, .sequence = 7, .chunk_bytes = 1}, 23, "m15", 0},
        {{.from = NV_LOG_FROM_OFFSET, .partitions = 2, .offset = 0}, 30, "m1", 0},
        {{.from = NV_LOG_FROM_OFFSET, .partitions = 2, .offset = 1}, 29, "m3", 0},
        {{.from = NV_LOG_FROM_OFFSET, .partitions = 2, .offset = 50}, 25, "m11", 0},
        {{.from = NV_LOG_FROM_OFFSET, .partitions = 2, .offset = 51, .chunk_bytes = 1}, 24, "m13", 0},
        {{.from = NV_LOG_FROM_OFFSET, .partitions = 2, .offset = 314}, 1, "m59", 0},
        {{.from = NV_LOG_FROM_OFFSET, .partitions = 2, .offset = 315}, 0, "", 0},
        {{.from = NV_LOG_FROM_OFFSET, .partitions = 2, .offset = UINT64_MAX}, 0, "", 0},
    };
    for (int restart = 0; restart < 3; restart++) { /* fresh, recovered by scan, and packed with a footer */
        for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
            log_kit_records got = kit_read(&kit, &rows[i].options);
            assert_int_equal(got.end, NV_E_EOF);
            assert_int_equal(got.count, rows[i].count);
            assert_string_equal(got.count ? got.rows[0].body : "", rows[i].first);
            assert_int_equal(got.gone, rows[i].gone);
            free(got.rows);
        }
        kit_close(&kit);
        kit_open(&kit);
        if (restart == 1) {
            nv_log_janitor_run(kit.log);
        }
    }
    nv_log_partition_info info;
    assert_int_equal(nv_log_get_partition(kit.log, 1, &info), NV_OK);
    assert_true(info.first_sequence == 0 && info.next_sequence == 30 && info.last_enqueued_us == start + 59000);
    assert_int_equal(info.last_offset, (uint64_t)(5 * 10 + 24 * 11));
    assert_int_equal(nv_log_get_partition(kit.log, 2, &info), NV_E_INVALID);
    nv_log_reader *reader = NULL;
    nv_log_read_options bad = {.from = NV_LOG_FROM_SEQUENCE, .partitions = 3};
    assert_int_equal(nv_log_reader_open(&reader, kit.log, &bad, &kit.exec.exec), NV_E_INVALID);
    bad = (nv_log_read_options){.partitions = 4};
    assert_int_equal(nv_log_reader_open(&reader, kit.log, &bad, &kit.exec.exec), NV_E_INVALID);
}

typedef struct follow {
    nv_log_reader *reader;
    size_t records;
    size_t calls;
} follow;

static void on_follow(void *arg, nv_err status, nv_log_chunk *chunk)
{
    follow *f = arg;
    nv_record record;
    assert_int_equal(status, NV_OK);
    while (nv_log_chunk_next(chunk, &record)) {
        f->records++;
    }
    nv_log_chunk_release(chunk);
    f->calls++;
    nv_log_reader_next(f->reader, on_follow, f);
}

static void followers(void **state)
{
    (void)state;
    kit_open(&kit);
    follow all = {NULL, 0, 0};
    follow one = {NULL, 0, 0};
    nv_log_read_options options = {.from = NV_LOG_FROM_NOW, .follow = true};
    assert_int_equal(nv_log_reader_open(&all.reader, kit.log, &options, &kit.exec.exec), NV_OK);
    options.device_id = nv_span_str("d1");
    assert_int_equal(nv_log_reader_open(&one.reader, kit.log, &options, &kit.exec.exec), NV_OK);
    nv_log_reader_next(all.reader, on_follow, &all);
    nv_log_reader_next(one.reader, on_follow, &one);
    (void)kit_fill_sixty(&kit);
    while (all.records < 60 || one.records < 20) {
        nv_exec_queue_run_wait(&kit.exec);
    }
    assert_true(all.records == 60 && one.records == 20);
    size_t calls = all.calls;
    nv_log_reader_close(all.reader); /* with a request out: it never fires again */
    nv_log_reader_close(one.reader);
    assert_int_equal(kit_append(&kit, 0, "d1", "late"), NV_OK);
    nv_exec_queue_run(&kit.exec);
    assert_int_equal(all.calls, calls);
}

/* What other partitions get does not wake a reader, and does not lead it astray either. */
static void followers_of_a_partition(void **state)
{
    (void)state;
    kit_open(&kit);
    follow second = {NULL, 0, 0};
    nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING, .follow = true, .partitions = 2};
    assert_int_equal(nv_log_reader_open(&second.reader, kit.log, &options, &kit.exec.exec), NV_OK);
    nv_log_reader_next(second.reader, on_follow, &second);
    for (size_t round = 1; round <= 20; round++) {
        for (int i = 0; i < 40; i++) {
            assert_int_equal(kit_append_many(&kit, 0, 20, 1000), NV_OK); /* some 16 MB in all: it leaves the tail */
        }
        assert_int_equal(kit_append(&kit, 1, "d1", "for it"), NV_OK);
        while (second.records < round) {
            nv_exec_queue_run_wait(&kit.exec);
        }
        assert_int_equal(second.records, round);
        assert_int_equal(second.calls, round);
    }
    nv_log_reader_close(second.reader);
}

/* ---- batches ---------------------------------------------------------------------------------------------- */

static void ignore_done(nv_log_batch *batch, nv_err status, void *arg)
{
    (void)batch;
    *(nv_err *)arg = status;
}

static void batch_limits(void **state)
{
    (void)state;
    kit_open(&kit);
    nv_err status = NV_E_MORE;
    nv_log_batch *batch = nv_log_batch_new(kit.log, &kit.exec.exec, ignore_done, &status);
    nv_log_stamp stamp = kit_stamp("d1");
    size_t size = (1 << 20) + 1;
    uint8_t *body = nv_calloc(1, size);
    nv_span whole = nv_span_of(body, size);
    nv_span most = nv_span_of(body, size - 1);
    nv_span none = NV_SPAN_EMPTY;
    assert_int_equal(nv_log_batch_add(batch, 0, &stamp, NV_SOURCE_TELEMETRY, NV_BODY_DATA, none, whole), NV_E_TOO_BIG);
    assert_int_equal(
        nv_log_batch_add(batch, 0, &stamp, NV_SOURCE_TELEMETRY, NV_BODY_DATA, nv_span_first(most, 65536), none),
        NV_E_TOO_BIG);
    assert_int_equal(nv_log_batch_add(batch, 2, &stamp, NV_SOURCE_TELEMETRY, NV_BODY_DATA, none, none), NV_E_INVALID);
    assert_int_equal(nv_log_batch_bytes(batch), 0);
    uint32_t added = 0;
    while (nv_log_batch_add(batch, 0, &stamp, NV_SOURCE_TWIN_CHANGE, NV_BODY_AMQP_VALUE, nv_span_first(most, 65535),
                            nv_span_first(most, 900000)) == NV_OK) {
        added++;
    }
    assert_true(added == 2 && nv_log_batch_count(batch) == 2);
    assert_true(nv_log_batch_bytes(batch) <= NV_LOG_BATCH_MAX);
    nv_log_batch_set_outbox_row(batch, 77);
    assert_int_equal(nv_log_submit(batch), NV_OK); /* larger than a whole segment of 1 MiB */
    while (status == NV_E_MORE) {
        nv_exec_queue_run_wait(&kit.exec);
    }
    assert_int_equal(status, NV_OK);
    nv_log_batch_clear(batch);
    assert_int_equal(nv_log_batch_add(batch, 1, &stamp, NV_SOURCE_TELEMETRY, NV_BODY_DATA, none, most), NV_OK);
    status = NV_E_MORE;
    assert_int_equal(nv_log_submit(batch), NV_OK);
    while (status == NV_E_MORE) {
        nv_exec_queue_run_wait(&kit.exec);
    }
    nv_log_batch_free(batch);
    free(body);
    kit_close(&kit);
    kit_open(&kit);
    assert_int_equal(kit_count(&kit), 3);
    nv_log_status now;
    nv_log_get_status(kit.log, &now);
    assert_int_equal(now.outbox_row, 77);
}

/* ---- retention, recycling, packing ------------------------------------------------------------------------ */

static void retention_by_bytes_recycles(void **state)
{
    (void)state;
    kit.config.retention_bytes = 4 << 20;
    kit_open(&kit);
    size_t total = 0;
    for (int i = 0; i < 200; i++) {
        assert_int_equal(kit_append_many(&kit, 0, 100, 1000), NV_OK);
        total += 100;
        if (i % 10 == 0) {
            nv_log_janitor_run(kit.log);
        }
    }
    nv_log_janitor_run(kit.log);
    nv_log_status status;
    nv_log_get_status(kit.log, &status);
    assert_true(status.stored_bytes <= 6 << 20);
    nv_log_partition_info info;
    assert_int_equal(nv_log_get_partition(kit.log, 0, &info), NV_OK);
    assert_true(info.first_sequence > 0 && info.next_sequence == total);
    nv_log_read_options options = {.from = NV_LOG_FROM_SEQUENCE, .partitions = 1, .sequence = 1};
    log_kit_records got = kit_read(&kit, &options);
    assert_int_equal(got.gone, 1);
    assert_int_equal(got.rows[0].sequence, info.first_sequence);
    assert_int_equal(got.count, total - info.first_sequence);
    uint64_t oldest = got.rows[0].offset;
    free(got.rows);
    const struct {
        uint64_t offset;
        size_t gone;
        uint64_t first;
    } rows[] = {{0, 1, 0}, {oldest - 1, 0, 0}, {oldest, 0, 0}, {oldest + 1, 0, 1}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        options = (nv_log_read_options){.from = NV_LOG_FROM_OFFSET, .partitions = 1, .offset = rows[i].offset};
        got = kit_read(&kit, &options);
        assert_int_equal(got.gone, rows[i].gone);
        assert_int_equal(got.rows[0].sequence, info.first_sequence + rows[i].first);
        free(got.rows);
    }
    kit_close(&kit); /* recycled files are full of commits of a former life: none may come back */
    kit_open(&kit);
    assert_true(kit_count(&kit) >= total - info.first_sequence - 2000 && kit_count(&kit) <= total);
    assert_int_equal(kit_append(&kit, 0, "d", "x"), NV_OK);
    assert_int_equal(nv_log_get_partition(kit.log, 0, &info), NV_OK);
    assert_int_equal(info.next_sequence, total + 1);
}

static void retention_by_time(void **state)
{
    (void)state;
    kit.config.retention_us = 3600 * NV_US_PER_S;
    kit_open(&kit);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(kit_append_many(&kit, 0, 100, 1000), NV_OK);
    }
    nv_log_janitor_run(kit.log);
    assert_int_equal(kit_count(&kit), 3000);
    nv_manual_clock_advance(&kit.clock, 2 * 3600 * NV_US_PER_S);
    nv_log_janitor_run(kit.log);
    size_t left = kit_count(&kit);
    assert_int_equal(left, 0);
    assert_int_equal(kit_append(&kit, 0, "d", "x"), NV_OK);
    assert_int_equal(kit_count(&kit), left + 1);
}

/* A log with few messages: no file of it is ever full. */
static void retention_by_time_of_an_open_segment(void **state)
{
    (void)state;
    const int64_t minute = 60 * NV_US_PER_S;
    nv_log_partition_info info;
    kit.config.retention_us = 60 * minute;
    kit_open(&kit);
    assert_int_equal(kit_append(&kit, 0, "d", "one"), NV_OK);
    nv_manual_clock_advance(&kit.clock, 50 * minute);
    assert_int_equal(kit_append(&kit, 0, "d", "two"), NV_OK);
    nv_manual_clock_advance(&kit.clock, 30 * minute);
    nv_log_janitor_run(kit.log);
    assert_int_equal(kit_count(&kit), 2); /* of one file, which ends here */
    assert_int_equal(kit_append(&kit, 0, "d", "three"), NV_OK);
    nv_manual_clock_advance(&kit.clock, 40 * minute);
    nv_log_janitor_run(kit.log);
    assert_int_equal(kit_count(&kit), 1);
    nv_manual_clock_advance(&kit.clock, 61 * minute);
    nv_log_janitor_run(kit.log);
    assert_int_equal(kit_count(&kit), 0); /* though nothing came any more */
    for (int i = 0; i < 3; i++) {         /* an empty file has nothing that is old */
        uint64_t number = kit.log->tip.segment;
        nv_manual_clock_advance(&kit.clock, 300 * minute);
        nv_log_janitor_run(kit.log);
        assert_int_equal(kit.log->tip.segment, number);
    }
    kit_close(&kit);
    kit_open(&kit);
    assert_int_equal(nv_log_get_partition(kit.log, 0, &info), NV_OK);
    assert_int_equal(info.first_sequence, 3);
    assert_int_equal(info.next_sequence, 3);
    assert_int_equal(kit_append(&kit, 0, "d", "four"), NV_OK);
    kit_close(&kit);
    kit_open(&kit);
    nv_manual_clock_advance(&kit.clock, 61 * minute);
    nv_log_janitor_run(kit.log);
    assert_int_equal(kit_count(&kit), 0); /* of a file that the last start left behind, too */
    assert_int_equal(nv_log_get_partition(kit.log, 0, &info), NV_OK);
    assert_int_equal(info.first_sequence, 4);
    assert_int_equal(info.next_sequence, 4);
}

static void packing_sheds_padding(void **state)
{
    (void)state;
    kit_open(&kit);
    for (int i = 0; i < 300; i++) { /* one message a commit: 4 KiB each */
        assert_int_equal(kit_append(&kit, (uint32_t)i % 2, "dev", "small"), NV_OK);
    }
    nv_log_status before;
    nv_log_get_status(kit.log, &before);
    assert_true(before.stored_bytes >= 300 * 4096);
    kit_close(&kit);
    kit_open(&kit);
    nv_log_janitor_run(kit.log);
    nv_log_status after;
    nv_log_get_status(kit.log, &after);
    uint64_t spares = (uint64_t)kit.log->spare_count << 20; /* ready besides */
    assert_true(after.stored_bytes - spares < 300 * 400 + 2 * 5 * 4096);
    assert_int_equal(kit_count(&kit), 300);
    kit_close(&kit);
    kit_open(&kit);
    assert_int_equal(kit_count(&kit), 300);
}

/* In the janitor's rename of a dense copy: what does who reads just then get? */
static struct {
    nv_disk_ops ops;
    const nv_disk_ops *real;
    _Atomic bool armed; /* the log's own threads use the disk all the time */
    int reads;
    size_t least;
    nv_err end;
} during;

static nv_err rename_and_read(nv_disk *disk, const char *from, const char *to)
{
    nv_err err = during.real->rename(disk, from, to);
    if (err == NV_OK && strstr(from, "pack.tmp") && atomic_load(&during.armed)) {
        nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING};
        log_kit_records got = kit_read(&kit, &options);
        during.reads++;
        during.least = got.count < during.least ? got.count : during.least;
        during.end = got.end == NV_E_EOF ? during.end : got.end;
        free(got.rows);
    }
    return err;
}

static void reading_while_a_copy_takes_its_place(void **state)
{
    (void)state;
    nv_disk *disk = nv_fault_disk_disk(kit.fault);
    during.real = disk->ops;
    during.ops = *disk->ops;
    during.ops.rename = rename_and_read;
    during.reads = 0;
    during.least = SIZE_MAX;
    during.end = NV_E_EOF;
    disk->ops = &during.ops; /* before there is a thread that reads it, and until the disk goes */
    kit_open(&kit);
    for (int i = 0; i < 600; i++) { /* nobody has read these segments yet: their files are not open for reading */
        assert_int_equal(kit_append(&kit, (uint32_t)i % 2, "dev", "small"), NV_OK);
    }
    atomic_store(&during.armed, true);
    nv_log_janitor_run(kit.log);
    atomic_store(&during.armed, false);
    assert_true(during.reads >= 1);
    assert_int_equal(during.end, NV_E_EOF);
    assert_int_equal(during.least, 600);
    assert_int_equal(kit_count(&kit), 600);
}

/* ---- modes ------------------------------------------------------------------------------------------------ */

static void modes_change_between_starts(void **state)
{
    (void)state;
    static const struct {
        bool direct;
        nv_durability durability;
        const char *name;
    } rows[] = {{true, NV_DURABILITY_COMMIT, "direct"},
                {false, NV_DURABILITY_COMMIT, "fdatasync"},
                {true, NV_DURABILITY_OS, "os"},
                {true, NV_DURABILITY_COMMIT, "direct"},
                {true, NV_DURABILITY_OS, "os"}};
    size_t total = 0;
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_fault_disk_set_direct(kit.fault, rows[i].direct);
        kit.config.durability = rows[i].durability;
        kit_open(&kit);
        nv_log_status status;
        nv_log_get_status(kit.log, &status);
        assert_string_equal(status.mode, rows[i].name);
        for (int k = 0; k < 15; k++) {
            assert_int_equal(kit_append_many(&kit, (uint32_t)k % 2, 100, 1000), NV_OK);
            total += 100;
        }
        nv_log_janitor_run(kit.log);
        assert_int_equal(kit_count(&kit), total);
        kit_close(&kit);
        nv_fault_disk_power_on(kit.fault); /* closing made everything durable, in every mode */
    }
    kit_open(&kit);
    assert_int_equal(kit_count(&kit), total);
}

/* ---- threads ---------------------------------------------------------------------------------------------- */

enum { WRITERS = 4, PER_WRITER = 60 };

static void *write_some(void *arg)
{
    log_kit mine = {.log = arg}; /* a loop of its own over the shared log */
    nv_exec_queue_init(&mine.exec);
    for (int i = 0; i < PER_WRITER; i++) {
        assert_int_equal(kit_append_many(&mine, (uint32_t)i % 2, 20, 300), NV_OK);
    }
    nv_exec_queue_deinit(&mine.exec);
    return NULL;
}

static void several_loops(void **state)
{
    (void)state;
    for (int durability = NV_DURABILITY_COMMIT; durability <= NV_DURABILITY_OS; durability++) {
        kit.config.durability = (nv_durability)durability;
        kit_open(&kit);
        size_t before = kit_count(&kit);
        pthread_t threads[WRITERS];
        for (int i = 0; i < WRITERS; i++) {
            assert_int_equal(pthread_create(&threads[i], NULL, write_some, kit.log), 0);
        }
        size_t seen = before;
        while (seen < before + WRITERS * PER_WRITER * 20) {
            seen = kit_count(&kit); /* reading meanwhile: never a hole, never less than before */
        }
        for (int i = 0; i < WRITERS; i++) {
            pthread_join(threads[i], NULL);
        }
        kit_close(&kit);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    const struct CMUnitTest tests[] = {
        TEST(first_steps),
        TEST(start_positions),
        TEST(followers),
        TEST(followers_of_a_partition),
        TEST(batch_limits),
        TEST(retention_by_bytes_recycles),
        TEST(retention_by_time),
        TEST(retention_by_time_of_an_open_segment),
        TEST(packing_sheds_padding),
        TEST(reading_while_a_copy_takes_its_place),
        TEST(modes_change_between_starts),
        TEST(several_loops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
