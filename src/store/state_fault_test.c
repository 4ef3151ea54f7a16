/* A full disk and failing calls: operations say so, reads go on, and the store works again when the disk does. */
#include "store/state.h"

#include "base/attrs.h"
#include "base/diag.h"
#include "support/fault_disk.h"
#include "support/fault_vfs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define FILLER 3000u

typedef struct world {
    nv_fault_disk *disk;
    nv_fault_vfs *vfs;
    nv_state *state;
    nv_exec_queue queue;
    nv_manual_clock clock;
    int errors_logged;
} world;

static void count_errors(void *arg, nv_level level, const char *line, size_t len)
{
    (void)line;
    (void)len;
    ((world *)arg)->errors_logged += level == NV_LEVEL_ERROR ? 1 : 0;
}

static nv_err open_state(world *w)
{
    nv_buf why;
    nv_buf_init(&why, 512);
    nv_state_config config = {
        .dir = "/data", .vfs = "nave-fault", .clock = &w->clock.clock, .rng = nv_rng_system(), .checkpoint_pages = 50};
    nv_err err = nv_state_open(&w->state, &config, &why);
    assert_true(err == NV_OK || nv_buf_len(&why) > 0); /* a failure has its sentence */
    nv_buf_deinit(&why);
    return err;
}

static int setup(void **state)
{
    world *w = calloc(1, sizeof(*w));
    w->disk = nv_fault_disk_new(7);
    nv_disk *disk = nv_fault_disk_disk(w->disk);
    w->vfs = nv_fault_vfs_new(disk, "nave-fault");
    assert_int_equal(nv_disk_make_dir(disk, "/data"), NV_OK);
    assert_int_equal(nv_disk_sync_dir(disk, "/"), NV_OK);
    nv_manual_clock_init(&w->clock, INT64_C(1700000000) * NV_US_PER_S);
    nv_exec_queue_init(&w->queue);
    nv_diag_set_sink(count_errors, w);
    assert_int_equal(open_state(w), NV_OK);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    nv_state_close(w->state);
    nv_diag_set_sink(NULL, NULL);
    nv_exec_queue_deinit(&w->queue);
    nv_fault_vfs_free(w->vfs);
    nv_fault_disk_free(w->disk);
    free(w);
    return 0;
}

/* ---- one device with a number ---- */

typedef struct job {
    nv_state_op op;
    world *w;
    uint64_t number;
    uint64_t found;
    bool done;
} job;

static nv_err run_put(nv_state_op *op, nv_txn *txn)
{
    job *self = nv_container_of(op, job, op);
    char filler[FILLER];
    char id[24];
    memset(filler, 'x', sizeof(filler));
    (void)snprintf(id, sizeof(id), "d%d", (int)(self->number % 50));
    nv_identity_row row = {.device_id = nv_span_str(id),
                           .generation = nv_txn_generation(txn),
                           .etag = self->number,
                           .attributes = nv_span_of(filler, sizeof(filler))};
    return nv_txn_identity_put(txn, &row);
}

static nv_err run_get(nv_state_op *op, nv_txn *txn)
{
    job *self = nv_container_of(op, job, op);
    char id[24];
    nv_identity_row row;
    (void)snprintf(id, sizeof(id), "d%d", (int)(self->number % 50));
    nv_err err = nv_txn_identity_get(txn, nv_span_str(id), NV_SPAN_EMPTY, &row);
    self->found = err == NV_OK ? row.etag : 0;
    return err;
}

static void job_done(nv_state_op *op)
{
    nv_container_of(op, job, op)->done = true;
}

static nv_err put(world *w, uint64_t number)
{
    job one = {.op = {.exec = &w->queue.exec, .run = run_put, .done = job_done}, .w = w, .number = number};
    assert_int_equal(nv_state_write(w->state, &one.op), NV_OK);
    while (!one.done) {
        nv_exec_queue_run_wait(&w->queue);
    }
    return one.op.status;
}

static void expect(world *w, uint64_t number)
{
    job one = {.op = {.exec = &w->queue.exec, .run = run_get, .done = job_done}, .w = w, .number = number};
    assert_int_equal(nv_state_read(w->state, &one.op), NV_OK);
    while (!one.done) {
        nv_exec_queue_run_wait(&w->queue);
    }
    assert_int_equal(one.op.status, NV_OK);
    assert_true(one.found == number);
}

/* The power goes and comes: what was acknowledged is there. */
static void expect_after_power_cut(world *w, uint64_t number)
{
    nv_fault_disk_cut(w->disk);
    nv_state_close(w->state);
    nv_fault_disk_power_on(w->disk);
    assert_int_equal(open_state(w), NV_OK);
    expect(w, number);
}

static void a_full_disk_refuses_writes_and_serves_reads(void **state)
{
    world *w = *state;
    uint64_t number = 1;
    assert_int_equal(put(w, number), NV_OK);
    for (int round = 0; round < 3; round++) {
        nv_fault_disk_set_capacity(w->disk, nv_fault_disk_counts(w->disk).bytes + 20000);
        nv_err err = NV_OK;
        while (err == NV_OK) {
            err = put(w, ++number); /* some fit: the log is reused, then room ends */
            assert_true(number < 1000);
        }
        assert_int_equal(err, NV_E_NO_SPACE);
        assert_int_equal(put(w, number), NV_E_NO_SPACE);
        assert_int_equal(nv_state_health(w->state), NV_E_NO_SPACE);
        assert_int_equal(w->errors_logged, round + 1); /* once, not per commit */
        expect(w, number - 1);
        nv_fault_disk_set_capacity(w->disk, UINT64_MAX);
        assert_int_equal(put(w, number), NV_OK);
        assert_int_equal(nv_state_health(w->state), NV_OK);
        expect(w, number);
        expect(w, number - 1);
    }
    expect_after_power_cut(w, number);
    assert_int_equal(nv_state_counts_now(w->state).devices, number < 50 ? number : 50);
}

/* Every write of a commit in turn: the header of the log, a frame, a page of the file during a checkpoint. */
static void failing_writes_fail_the_operation_only(void **state)
{
    world *w = *state;
    uint64_t last = 0;
    int failures = 0;
    for (uint64_t number = 1; number <= 400; number++) {
        nv_fault_disk_fail_writes(w->disk, 1 + number % 23, 1, NV_E_IO);
        nv_err err = put(w, number);
        assert_true(err == NV_OK || err == NV_E_IO);
        failures += err == NV_E_IO ? 1 : 0;
        nv_fault_disk_fail_writes(w->disk, 1, 0, NV_OK);
        last = err == NV_OK ? number : last;
        if (last) {
            expect(w, last);
        }
    }
    assert_true(failures > 50 && last > 0);
    assert_int_equal(put(w, 401), NV_OK);
    expect_after_power_cut(w, 401);
}

static void a_failed_sync_fails_the_commit(void **state)
{
    world *w = *state;
    uint64_t last = 0;
    int failures = 0;
    for (uint64_t number = 1; number <= 400; number++) {
        nv_fault_disk_fail_syncs(w->disk, 1 + number % 3, 1, NV_E_IO);
        nv_err err = put(w, number);
        assert_true(err == NV_OK || err == NV_E_IO);
        failures += err == NV_E_IO ? 1 : 0;
        nv_fault_disk_fail_syncs(w->disk, 1, 0, NV_OK);
        last = err == NV_OK ? number : last;
        if (number % 40 == 0 && last + 50 > number) { /* no later, failed one of the same device */
            expect_after_power_cut(w, last);
        }
    }
    assert_true(failures > 100 && last > 0);
    assert_int_equal(put(w, 401), NV_OK);
    expect_after_power_cut(w, 401);
}

/* The first write, the second, ... fails while the store is created or opened: a sentence, and then it opens. */
static void every_failure_at_start_is_survived(void **state)
{
    world *w = *state;
    nv_state_close(w->state);
    w->state = NULL;
    nv_disk *disk = nv_fault_disk_disk(w->disk);
    const nv_err errors[] = {NV_E_IO, NV_E_NO_SPACE};
    for (uint64_t n = 1; n < 120; n++) {
        nv_ignore(nv_disk_remove(disk, "/data/state.db"));
        nv_ignore(nv_disk_remove(disk, "/data/state.db-wal"));
        nv_ignore(nv_disk_remove(disk, "/data/state.db-journal"));
        if (n % 3 == 0) {
            nv_fault_disk_fail_syncs(w->disk, n / 3, 1, NV_E_IO);
        } else {
            nv_fault_disk_fail_writes(w->disk, n, 1, errors[n % 2]);
        }
        nv_err err = open_state(w);
        assert_true(err == NV_OK || err == NV_E_IO || err == NV_E_NO_SPACE);
        nv_fault_disk_fail_writes(w->disk, 1, 0, NV_OK);
        nv_fault_disk_fail_syncs(w->disk, 1, 0, NV_OK);
        if (err != NV_OK) {
            assert_null(w->state);
            assert_int_equal(open_state(w), NV_OK);
        }
        assert_int_equal(put(w, n), NV_OK);
        nv_state_close(w->state);
        w->state = NULL;
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_full_disk_refuses_writes_and_serves_reads),
        TEST(failing_writes_fail_the_operation_only),
        TEST(a_failed_sync_fails_the_commit),
        TEST(every_failure_at_start_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
