/** Disks that fill up, fail or lose something under the log, and what it says of files that it cannot use. */
#include "support/log_testkit.h"

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

static void disk_full_and_back(void **state)
{
    (void)state;
    kit_open(&kit);
    nv_log_janitor_run(kit.log);
    nv_fault_disk_set_capacity(kit.fault, nv_fault_disk_counts(kit.fault).bytes);
    size_t kept = 0;
    nv_err err = NV_OK;
    for (int i = 0; i < 100 && err == NV_OK; i++) {
        err = kit_append_many(&kit, 0, 100, 1000);
        kept += err == NV_OK ? 100 : 0;
    }
    assert_int_equal(err, NV_E_NO_SPACE);
    assert_int_equal(kit_health(&kit), NV_LOG_FULL);
    nv_log_status status;
    nv_log_get_status(kit.log, &status);
    assert_non_null(strstr(status.reason, "free space"));
    assert_int_equal(kit_append(&kit, 0, "d", "x"), NV_E_NO_SPACE);
    assert_int_equal(kit_count(&kit), kept); /* reading goes on */
    nv_fault_disk_set_capacity(kit.fault, UINT64_MAX);
    kit_wait_health(&kit, NV_LOG_OK);
    assert_int_equal(kit_append(&kit, 0, "d", "x"), NV_OK);
    assert_int_equal(kit_count(&kit), kept + 1);
    kit_close(&kit);
    kit_open(&kit);
    assert_int_equal(kit_count(&kit), kept + 1);
}

/** A failed write or sync: the batch is refused, its numbers are used again, and it never comes back. */
static void fail_and_reopen(bool direct, nv_durability durability)
{
    nv_fault_disk_set_direct(kit.fault, direct);
    kit.config.durability = durability;
    kit_open(&kit);
    nv_log_janitor_run(kit.log); /* its own writes come before the one to fail */
    assert_int_equal(kit_append(&kit, 0, "d", "kept"), NV_OK);
    nv_log_janitor_run(kit.log);
    if (direct || durability == NV_DURABILITY_OS) {
        nv_fault_disk_fail_writes(kit.fault, 1, 1, NV_E_IO);
    } else {
        nv_fault_disk_fail_syncs(kit.fault, 1, 1, NV_E_IO);
    }
    assert_int_equal(kit_append(&kit, 0, "d", "lost"), NV_E_IO);
    kit_wait_health(&kit, NV_LOG_OK);
    assert_int_equal(kit_append(&kit, 0, "d", "next"), NV_OK);
    for (int restart = 0; restart < 2; restart++) {
        nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING};
        log_kit_records got = kit_read(&kit, &options);
        bool os = durability == NV_DURABILITY_OS && got.count == 1; /* "kept" was not synced yet */
        assert_int_equal(got.count, os ? 1 : 2);
        assert_string_equal(got.rows[os ? 0 : 1].body, "next");
        assert_int_equal(got.rows[os ? 0 : 1].sequence, os ? 0 : 1);
        free(got.rows);
        kit_close(&kit);
        if (durability == NV_DURABILITY_COMMIT) {
            nv_fault_disk_power_on(kit.fault);
        }
        kit_open(&kit);
    }
}

static void failed_direct_write(void **state)
{
    (void)state;
    fail_and_reopen(true, NV_DURABILITY_COMMIT);
}

static void failed_sync(void **state)
{
    (void)state;
    fail_and_reopen(false, NV_DURABILITY_COMMIT);
}

static void failed_os_write(void **state)
{
    (void)state;
    fail_and_reopen(true, NV_DURABILITY_OS);
}

static uint64_t rollbacks(void)
{
    pthread_mutex_lock(&kit.log->lock);
    uint64_t count = kit.log->rollbacks;
    pthread_mutex_unlock(&kit.log->lock);
    return count;
}

/** With durability os a failed background sync takes back what was written since the last good one, over segments. */
static void failed_background_sync(void **state)
{
    (void)state;
    kit.config.durability = NV_DURABILITY_OS;
    kit_open(&kit);
    assert_int_equal(kit_append(&kit, 0, "d", "kept"), NV_OK);
    kit_close(&kit);
    kit_open(&kit);
    nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING};
    nv_fault_disk_fail_syncs(kit.fault, 1, UINT64_MAX / 2, NV_E_IO);
    for (int i = 0; i < 30 && kit_append_many(&kit, 0, 100, 1000) == NV_OK; i++) {
    }
    for (int i = 0; i < 60000 && rollbacks() == 0; i++) {
        struct timespec ms = {0, 1000000};
        nanosleep(&ms, NULL);
    }
    assert_int_equal(kit_count(&kit), 1);
    assert_int_equal(kit_append(&kit, 0, "d", "refused"), NV_E_IO);
    nv_fault_disk_fail_syncs(kit.fault, 1, 0, NV_OK);
    kit_wait_health(&kit, NV_LOG_OK);
    assert_int_equal(kit_append(&kit, 0, "d", "next"), NV_OK);
    for (int restart = 0; restart < 2; restart++) {
        log_kit_records got = kit_read(&kit, &options);
        assert_int_equal(got.count, 2);
        assert_string_equal(got.rows[0].body, "kept");
        assert_string_equal(got.rows[1].body, "next");
        assert_int_equal(got.rows[1].sequence, 1);
        free(got.rows);
        kit_close(&kit);
        kit_open(&kit);
    }
}

static void damage_in_the_middle(void **state)
{
    (void)state;
    nv_fault_disk_set_direct(kit.fault, false);
    kit_open(&kit);
    nv_log_janitor_run(kit.log); /* the first prepared file is number 1, and the first used */
    (void)kit_fill_sixty(&kit);
    kit_close(&kit);
    kit_open(&kit);
    assert_int_equal(kit_append(&kit, 0, "d", "after"), NV_OK);
    nv_log_janitor_run(kit.log);
    kit_close(&kit);
    uint8_t bit = 0xff;
    nv_fault_disk_poke(kit.fault, "d/00000000000000000001.seg", &bit, 1, 4096 + 1000);
    kit_open(&kit);
    nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING};
    log_kit_records got = kit_read(&kit, &options);
    assert_int_equal(got.end, NV_E_CORRUPT); /* never wrong bytes */
    free(got.rows);
    assert_int_equal(kit_append(&kit, 0, "d", "still writing"), NV_OK);
}

/** 3,000 records over several segments, each with a footer, and one that follows. @return the middle one's number */
static uint64_t fill_segments(void)
{
    kit_open(&kit);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(kit_append_many(&kit, 0, 100, 1000), NV_OK);
    }
    nv_log_janitor_run(kit.log);
    assert_true(kit.log->segment_count >= 3);
    uint64_t number = kit.log->segments[1]->header.number;
    kit_close(&kit);
    return number;
}

/** Read everything: one hole, told once, behind it the rest in order, and writing goes on. @return records lost */
static size_t read_over_hole(void)
{
    nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING};
    log_kit_records got = kit_read(&kit, &options);
    assert_int_equal(got.end, NV_E_EOF);
    assert_int_equal(got.gone, 1);
    size_t lost = 0;
    for (size_t i = 1; i < got.count; i++) {
        assert_true(got.rows[i].sequence > got.rows[i - 1].sequence);
        size_t step = (size_t)(got.rows[i].sequence - got.rows[i - 1].sequence - 1);
        assert_true(step == 0 || lost == 0);
        lost += step;
    }
    assert_true(got.count > 0 && got.rows[0].sequence == 0 && got.rows[got.count - 1].sequence == got.count + lost - 1);
    free(got.rows);
    return lost;
}

static void missing_segment(void **state)
{
    (void)state;
    uint64_t number = fill_segments();
    char path[64];
    (void)snprintf(path, sizeof(path), "d/%020llu.seg", (unsigned long long)number);
    assert_int_equal(nv_disk_remove(kit.config.disk, path), NV_OK);
    size_t lost = 0;
    for (int restart = 0; restart < 2; restart++) {
        kit_open(&kit);
        lost = read_over_hole();
        assert_true(lost > 500 && lost < 1500);
        assert_int_equal(kit_append(&kit, 0, "d", "still writing"), NV_OK);
        assert_int_equal(read_over_hole(), lost);
        kit_close(&kit);
    }
    /* A start within the hole, by sequence: the first record behind it. */
    kit_open(&kit);
    nv_log_read_options options = {.from = NV_LOG_FROM_SEQUENCE, .partitions = 1, .sequence = 1200};
    log_kit_records got = kit_read(&kit, &options);
    assert_true(got.end == NV_E_EOF && got.count > 0 && got.rows[0].sequence > 1200);
    free(got.rows);
}

static void short_scan(void **state)
{
    (void)state;
    uint64_t number = fill_segments();
    char path[64];
    (void)snprintf(path, sizeof(path), "d/%020llu.seg", (unsigned long long)number);
    nv_file *file = NULL;
    uint64_t size = 0;
    assert_int_equal(nv_disk_open(kit.config.disk, path, NV_OPEN_READ, &file), NV_OK);
    assert_int_equal(nv_file_size(file, &size), NV_OK);
    nv_file_close(file);
    uint8_t bits[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    nv_fault_disk_poke(kit.fault, path, bits, sizeof(bits), size - 4096); /* so that it has to be scanned */
    nv_fault_disk_poke(kit.fault, path, bits, sizeof(bits), 500000);
    size_t lost = 0;
    for (int restart = 0; restart < 3; restart++) {
        kit_open(&kit);
        size_t now = read_over_hole();
        assert_true(now > 300 && now < 900 && (restart == 0 || now == lost));
        lost = now;
        assert_int_equal(kit_append(&kit, 0, "d", "still writing"), NV_OK);
        nv_log_janitor_run(kit.log); /* footer and packing of what is left of it */
        assert_int_equal(read_over_hole(), lost);
        kit_close(&kit);
    }
    kit_open(&kit);
}

static void refusals_at_open(void **state)
{
    (void)state;
    kit_open(&kit);
    nv_log_janitor_run(kit.log);
    assert_int_equal(kit_append(&kit, 0, "d", "x"), NV_OK);
    nv_log *first = kit.log;
    nv_buf why;
    nv_buf_init(&why, 1024);
    assert_int_equal(kit_try_open(&kit, &why), NV_E_IN_USE);
    assert_non_null(strstr((const char *)nv_buf_span(&why).ptr, "another process"));
    kit.log = first;
    kit_close(&kit);
    nv_log_config good = kit.config;
    const nv_log_config bad[] = {
        {.partitions = 0, .segment_bytes = 1 << 20},
        {.partitions = 33, .segment_bytes = 1 << 20},
        {.partitions = 1, .segment_bytes = 1000},
    };
    for (size_t i = 0; i < NV_COUNT_OF(bad); i++) {
        kit.config.partitions = bad[i].partitions;
        kit.config.segment_bytes = bad[i].segment_bytes;
        assert_int_equal(kit_try_open(&kit, &why), NV_E_INVALID);
        kit.config = good;
    }
    uint8_t header[NV_LOG_BLOCK];
    assert_int_equal(nv_fault_disk_peek(kit.fault, "d/00000000000000000001.seg", header, sizeof(header), 0), 4096);
    uint8_t version = 9; /* a newer version, its checksum right */
    header[8] = version;
    nv_segment_header decoded;
    assert_int_equal(nv_segment_header_decode(header, &decoded), NV_E_CORRUPT);
    nv_buf_deinit(&why);
    kit.config.partitions = 7; /* an existing log keeps its own */
    kit_open(&kit);
    assert_int_equal(nv_log_partitions(kit.log), 2);
    assert_int_equal(nv_log_partition_of(kit.log, nv_span_str("dev1")),
                     nv_log_partition_of(kit.log, nv_span_str("dev1")));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    const struct CMUnitTest tests[] = {
        TEST(disk_full_and_back),     TEST(failed_direct_write),  TEST(failed_sync),     TEST(failed_os_write),
        TEST(failed_background_sync), TEST(damage_in_the_middle), TEST(missing_segment), TEST(short_scan),
        TEST(refusals_at_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
