/** Readers that catch up: what they cost, in bytes read from the disk, and that sharing shows nobody anything wrong. */
#include "support/log_testkit.h"

#include "base/alloc.h"
#include "base/diag.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

enum { PARTITIONS = 8, EMPTY = 5, ROUNDS = 240, RECORDS = 10, BODY = 1000 };

static log_kit kit;

static int set_up(void **state)
{
    (void)state;
    kit_init(&kit, 11);
    kit.config.partitions = PARTITIONS;
    kit.config.segment_bytes = 4 << 20;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kit_deinit(&kit);
    return 0;
}

/** Some 22 MB in seven of the partitions, the eighth of them with three times as much; then a restart. */
static void fill(void)
{
    kit_open(&kit);
    for (int i = 0; i < ROUNDS; i++) {
        for (uint32_t k = 0; k < PARTITIONS; k++) {
            size_t count = k == EMPTY ? 0 : k == PARTITIONS - 1 ? 3 * RECORDS : RECORDS;
            if (count) {
                assert_int_equal(kit_append_many(&kit, k, count, BODY), NV_OK);
            }
        }
    }
    kit_close(&kit);
    kit_open(&kit);
    nv_log_janitor_run(kit.log);
}

static uint64_t expected(uint32_t partition)
{
    return partition == EMPTY ? 0 : (partition == PARTITIONS - 1 ? 3u : 1u) * (uint64_t)(ROUNDS * RECORDS);
}

static uint64_t read_bytes(void)
{
    return nv_fault_disk_counts(kit.fault).read_bytes;
}

static unsigned users(void)
{
    pthread_mutex_lock(&kit.log->lock);
    unsigned count = kit.log->cache.users;
    pthread_mutex_unlock(&kit.log->lock);
    return count;
}

typedef struct catcher {
    nv_log_reader *reader;
    uint32_t partition;
    uint64_t next;
    bool idle; /* no request is out */
    nv_err end;
    char first; /* of the body of the last record */
} catcher;

static void on_chunk(void *arg, nv_err status, nv_log_chunk *chunk)
{
    catcher *c = arg;
    nv_record record;
    c->idle = true;
    c->end = status;
    while (chunk && nv_log_chunk_next(chunk, &record)) {
        assert_int_equal(record.partition, c->partition);
        assert_true(record.sequence == c->next);
        c->next++;
        c->first = (char)record.body.ptr[0];
    }
    nv_log_chunk_release(chunk);
}

static void start(catcher *c, uint32_t partition, size_t chunk_bytes)
{
    nv_log_read_options options = {.partitions = UINT32_C(1) << partition, .chunk_bytes = chunk_bytes};
    *c = (catcher){.partition = partition, .idle = true};
    assert_int_equal(nv_log_reader_open(&c->reader, kit.log, &options, &kit.exec.exec), NV_OK);
}

static void ask(catcher *c)
{
    c->idle = false;
    nv_log_reader_next(c->reader, on_chunk, c);
}

static void step(catcher *c)
{
    ask(c);
    while (!c->idle) {
        nv_exec_queue_run_wait(&kit.exec);
    }
}

/** @return whether any of them owes an answer */
static bool any_busy(const catcher *all)
{
    for (uint32_t k = 0; k < PARTITIONS; k++) {
        if (!all[k].idle) {
            return true;
        }
    }
    return false;
}

/** Ask for all that are idle and not at their end. @return whether any of them owes an answer */
static bool ask_all(catcher *all)
{
    for (uint32_t k = 0; k < PARTITIONS; k++) {
        if (all[k].idle && all[k].end == NV_OK) {
            ask(&all[k]);
        }
    }
    return any_busy(all);
}

/** Every partition to its end. @param together  nobody asks again before all have their answers. @return bytes read */
static uint64_t catch_up(bool together)
{
    catcher all[PARTITIONS];
    uint64_t before = read_bytes();
    for (uint32_t k = 0; k < PARTITIONS; k++) {
        start(&all[k], k, 0);
    }
    while (ask_all(all)) {
        do {
            nv_exec_queue_run_wait(&kit.exec);
        } while (together && any_busy(all));
    }
    for (uint32_t k = 0; k < PARTITIONS; k++) {
        assert_int_equal(all[k].end, NV_E_EOF);
        assert_true(all[k].next == expected(k));
        nv_log_reader_close(all[k].reader);
    }
    assert_int_equal(users(), 0);
    return read_bytes() - before;
}

static void one_pass_for_all(void **state)
{
    (void)state;
    fill();
    catcher all = {.idle = true};
    uint64_t before = read_bytes();
    start(&all, 0, 0);
    while (all.end == NV_OK) {
        step(&all);
    }
    nv_log_reader_close(all.reader);
    uint64_t once = read_bytes() - before;
    assert_true(once > 2 * NV_LOG_CACHE_BYTES);
    assert_in_range(catch_up(true), once - once / 4, once + once / 4);
    assert_in_range(catch_up(false), once - once / 4, 3 * once); /* about one, too, where the threads get their turns */
}

/* What has nothing for a reader is not even read. */
static void nothing_for_it(void **state)
{
    (void)state;
    fill();
    catcher c;
    start(&c, EMPTY, 0);
    uint64_t before = read_bytes();
    step(&c);
    assert_int_equal(c.end, NV_E_EOF);
    assert_true(read_bytes() == before);
    nv_log_reader_close(c.reader);
    assert_int_equal(kit_append_many(&kit, EMPTY, 3, BODY), NV_OK);
    start(&c, EMPTY, 0);
    step(&c);
    assert_int_equal(c.end, NV_OK);
    assert_true(c.next == 3);
    assert_true(read_bytes() - before < 1 << 20);
    nv_log_reader_close(c.reader);
}

/* The one in front lets others come closer, but not one that has stopped reading. */
static void waits_not_for_ever(void **state)
{
    (void)state;
    fill();
    catcher stopped;
    catcher going;
    start(&stopped, 0, 0);
    start(&going, 1, 0);
    step(&going);
    step(&stopped);
    while (going.end == NV_OK) {
        step(&going);
    }
    assert_int_equal(going.end, NV_E_EOF);
    assert_true(going.next == expected(1));
    while (stopped.end == NV_OK) {
        step(&stopped);
    }
    assert_true(stopped.next == expected(0));
    nv_log_reader_close(stopped.reader);
    nv_log_reader_close(going.reader);
}

/* Closed in any state: what waits for it goes on. */
static void closed_while_waiting(void **state)
{
    (void)state;
    fill();
    catcher stopped;
    start(&stopped, 0, 0);
    for (int i = 0; i < 30; i++) {
        catcher going;
        start(&going, 1, 0);
        step(&stopped);
        step(&going);
        for (int k = 0; k < i; k++) {
            step(&going);
        }
        ask(&going);
        nv_log_reader_close(going.reader); /* with a request out, waiting perhaps */
        if (i % 3 == 2) {
            nv_log_reader_close(stopped.reader);
            start(&stopped, 0, 0);
        }
    }
    nv_log_reader_close(stopped.reader);
    assert_int_equal(users(), 0);
}

/** A chunk that shares its bytes outlives the cache, the reader and the log. */
static void keep_chunk(void *arg, nv_err status, nv_log_chunk *chunk)
{
    assert_int_equal(status, NV_OK);
    *(nv_log_chunk **)arg = chunk;
}

static void chunk_outlives(void **state)
{
    (void)state;
    fill();
    catcher a;
    catcher b;
    nv_log_chunk *chunk = NULL;
    start(&a, 0, 0);
    start(&b, 7, 0);
    step(&a);
    nv_log_reader_next(b.reader, keep_chunk, &chunk);
    while (!chunk) {
        nv_exec_queue_run_wait(&kit.exec);
    }
    nv_log_reader_close(a.reader);
    nv_log_reader_close(b.reader);
    kit_close(&kit);
    nv_record record;
    uint64_t next = 0;
    while (nv_log_chunk_next(chunk, &record)) {
        assert_true(record.sequence == next++ && record.partition == 7 && record.body.len == BODY);
    }
    assert_true(next > 0);
    nv_log_chunk_release(chunk);
}

/* Commits that were read and then taken back are not shown to who comes later: their numbers are used again. */
static void rolled_back(void **state)
{
    (void)state;
    kit.config.durability = NV_DURABILITY_OS;
    kit_open(&kit);
    nv_fault_disk_fail_syncs(kit.fault, 1, UINT64_MAX / 2, NV_E_IO);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(kit_append_many(&kit, 0, 1, 100), NV_OK); /* bodies of 'a' */
    }
    catcher first;
    start(&first, 0, 1); /* least: 4 KiB, so it stays in the middle and the cache is kept */
    for (int i = 0; i < 100; i++) {
        if (kit_append_many(&kit, 0, 1, 4000) != NV_OK) {
            break;
        }
    }
    step(&first);
    assert_int_equal(users(), first.end == NV_OK ? 1 : 0);
    kit_wait_health(&kit, NV_LOG_FAILED);
    nv_fault_disk_fail_syncs(kit.fault, 1, 0, NV_OK);
    kit_wait_health(&kit, NV_LOG_OK);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(kit_append(&kit, 0, "d", "b"), NV_OK);
    }
    catcher second;
    start(&second, 0, 0);
    while (second.end == NV_OK) {
        step(&second);
        assert_true(second.first == 'b');
    }
    assert_true(second.next == 4);
    nv_log_reader_close(first.reader);
    nv_log_reader_close(second.reader);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    const struct CMUnitTest tests[] = {TEST(one_pass_for_all),     TEST(nothing_for_it), TEST(waits_not_for_ever),
                                       TEST(closed_while_waiting), TEST(chunk_outlives), TEST(rolled_back)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
