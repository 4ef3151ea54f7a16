/** Readers that follow: served from memory while they keep up, from the disk when they do not, never with a hole. */
#include "support/log_testkit.h"

#include "base/alloc.h"
#include "base/diag.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static log_kit kit;

static int set_up(void **state)
{
    (void)state;
    kit_init(&kit, 7);
    kit.config.segment_bytes = 16 << 20;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kit_deinit(&kit);
    return 0;
}

typedef struct follow {
    nv_log_reader *reader;
    uint64_t next; /* sequence of partition 0 that is expected; it has all the records */
    size_t records;
    bool idle;           /* no request is out */
    bool pause;          /* make none after the next chunk */
    nv_log_chunk *first; /* kept beyond everything */
} follow;

static void on_follow(void *arg, nv_err status, nv_log_chunk *chunk)
{
    follow *f = arg;
    nv_record record;
    assert_int_equal(status, NV_OK);
    while (nv_log_chunk_next(chunk, &record)) {
        assert_true(record.sequence == f->next);
        f->next++;
        f->records++;
    }
    if (!f->first) {
        nv_log_chunk_ref(chunk);
        f->first = chunk;
    }
    nv_log_chunk_release(chunk);
    f->idle = true;
    if (!f->pause) {
        f->idle = false;
        nv_log_reader_next(f->reader, on_follow, f);
    }
}

static void start(follow *f, nv_log_from from)
{
    nv_log_read_options options = {.from = from, .follow = true};
    assert_int_equal(nv_log_reader_open(&f->reader, kit.log, &options, &kit.exec.exec), NV_OK);
    nv_log_reader_next(f->reader, on_follow, f);
}

static void go_on(follow *f)
{
    f->pause = false;
    if (f->idle) {
        f->idle = false;
        nv_log_reader_next(f->reader, on_follow, f);
    }
}

static void catch_up(follow *f, uint64_t next)
{
    while (f->next < next) {
        nv_exec_queue_run_wait(&kit.exec);
    }
    assert_true(f->next == next);
}

static size_t held(void)
{
    pthread_mutex_lock(&kit.log->lock);
    size_t bytes = kit.log->tail.held;
    pthread_mutex_unlock(&kit.log->lock);
    return bytes;
}

static unsigned users(void)
{
    return atomic_load(&kit.log->tail.users);
}

static void keeps_up(void **state)
{
    (void)state;
    for (int durability = NV_DURABILITY_COMMIT; durability <= NV_DURABILITY_OS; durability++) {
        kit.config.durability = (nv_durability)durability;
        kit_open(&kit);
        assert_int_equal(kit_append_many(&kit, 0, 10, 100), NV_OK);
        assert_int_equal(held(), 0); /* nobody follows */
        nv_log_partition_info info;
        assert_int_equal(nv_log_get_partition(kit.log, 0, &info), NV_OK);
        follow f = {.next = info.next_sequence};
        start(&f, NV_LOG_FROM_NOW);
        uint64_t expect = info.next_sequence;
        for (int i = 0; i < 100; i++) { /* small commits, and some larger than a block */
            size_t count = i % 10 == 9 ? 400 : 1 + (size_t)i % 3;
            assert_int_equal(kit_append_many(&kit, 0, count, 1000), NV_OK);
            expect += count;
            catch_up(&f, expect);
        }
        assert_int_equal(users(), 1);
        assert_true(held() > 0 && held() <= NV_TAIL_BYTES);
        nv_log_reader_close(f.reader);
        assert_int_equal(users(), 0);
        assert_int_equal(kit_append_many(&kit, 0, 1, 100), NV_OK);
        assert_int_equal(held(), 0);
        kit_close(&kit);
        nv_record record; /* a chunk outlives reader, tail and log */
        nv_log_chunk_rewind(f.first);
        assert_true(nv_log_chunk_next(f.first, &record) && record.sequence == info.next_sequence);
        nv_log_chunk_release(f.first);
    }
}

static void falls_behind(void **state)
{
    (void)state;
    kit_open(&kit);
    follow f = {.next = 0};
    start(&f, NV_LOG_FROM_BEGINNING);
    assert_int_equal(kit_append_many(&kit, 0, 10, 100), NV_OK);
    catch_up(&f, 10);
    uint64_t expect = 10;
    for (int round = 0; round < 3; round++) {
        f.pause = true;
        for (int i = 0; i < 60; i++) { /* 6 MB: more than the tail holds, the first of it in a chunk already */
            assert_int_equal(kit_append_many(&kit, 0, 100, 1000), NV_OK);
        }
        assert_true(held() <= NV_TAIL_BYTES);
        expect += 6000;
        go_on(&f);
        catch_up(&f, expect);
        assert_int_equal(kit_append_many(&kit, 0, 1, 100), NV_OK);
        catch_up(&f, ++expect);
        assert_int_equal(users(), 1);
    }
    nv_log_reader_close(f.reader);
    nv_log_chunk_release(f.first);
}

static void see_before_it_fails(follow *f, uint64_t next)
{
    while (f->next < next && kit_health(&kit) == NV_LOG_OK) {
        (void)nv_exec_queue_run(&kit.exec);
        (void)sched_yield();
    }
}

/** The commits that a failed background sync takes back were seen by followers; what replaces them is seen as well. */
static void rolled_back(void **state)
{
    (void)state;
    kit.config.durability = NV_DURABILITY_OS;
    kit_open(&kit);
    follow f = {.next = 0};
    start(&f, NV_LOG_FROM_BEGINNING);
    for (bool seen = false; !seen;) { /* again where the sync, a second later, was faster than the follower */
        nv_fault_disk_fail_syncs(kit.fault, 1, UINT64_MAX / 2, NV_E_IO);
        assert_int_equal(kit_append_many(&kit, 0, 20, 100), NV_OK);
        see_before_it_fails(&f, 20);
        kit_wait_health(&kit, NV_LOG_FAILED);
        assert_int_equal(held(), 0);
        nv_fault_disk_fail_syncs(kit.fault, 1, 0, NV_OK);
        kit_wait_health(&kit, NV_LOG_OK);
        (void)nv_exec_queue_run(&kit.exec);
        seen = f.next == 20;
        f.next = 0; /* the numbers are used again */
    }
    assert_int_equal(kit_append_many(&kit, 0, 5, 100), NV_OK);
    catch_up(&f, 5);
    assert_int_equal(kit_append_many(&kit, 0, 5, 100), NV_OK);
    catch_up(&f, 10);
    assert_int_equal(f.records, 30);
    nv_log_reader_close(f.reader);
    nv_log_chunk_release(f.first);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    const struct CMUnitTest tests[] = {TEST(keeps_up), TEST(falls_behind), TEST(rolled_back)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
