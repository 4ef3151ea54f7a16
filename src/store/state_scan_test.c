/* Scans: beside reads, one behind the other without a pause, and the write-ahead log stays short. */
#include "store/state.h"

#include "base/attrs.h"
#include "support/temp_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <cmocka.h>

#define WRITES      2000
#define VALUE_BYTES 40000u
#define SCANS       3u
#define LOG_MAX     (16u << 20) /* of 80 MB that are written; four times the 1,000 pages it has at rest */

typedef struct world {
    char dir[64];
    nv_state *state;
    nv_exec_queue queue;
} world;

typedef struct scan {
    nv_state_op op;
    world *w;
    uint32_t done;
    bool stop;
    bool over;
} scan;

typedef struct write_op {
    nv_state_op op;
    uint32_t number;
    bool done;
} write_op;

static int setup(void **state)
{
    world *w = calloc(1, sizeof(*w));
    temp_dir_make(w->dir, sizeof(w->dir), NULL);
    nv_exec_queue_init(&w->queue);
    nv_buf why;
    nv_buf_init(&why, 512);
    nv_state_config config = {.dir = w->dir, .clock = nv_clock_system(), .rng = nv_rng_system()};
    assert_int_equal(nv_state_open(&w->state, &config, &why), NV_OK);
    nv_buf_deinit(&why);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    nv_state_close(w->state);
    nv_exec_queue_run(&w->queue);
    nv_exec_queue_deinit(&w->queue);
    temp_dir_remove(w->dir);
    free(w);
    return 0;
}

/* Keeps its view for some milliseconds. */
static nv_err run_scan(nv_state_op *op, nv_txn *txn)
{
    (void)op;
    int64_t until_us = nv_mono_us(nv_clock_system()) + 5 * NV_US_PER_MS;
    nv_err err = NV_OK;
    while (err == NV_OK && nv_mono_us(nv_clock_system()) < until_us) {
        nv_span value;
        err = nv_txn_meta_get(txn, nv_span_str("id"), &value);
    }
    return err;
}

static void scan_done(nv_state_op *op)
{
    scan *self = nv_container_of(op, scan, op);
    assert_int_equal(op->status, NV_OK);
    self->done++;
    self->over = self->stop || nv_state_scan(self->w->state, op) != NV_OK;
}

static nv_err run_write(nv_state_op *op, nv_txn *txn)
{
    static uint8_t value[VALUE_BYTES];
    uint32_t number = nv_container_of(op, write_op, op)->number;
    char name[16];
    int len = snprintf(name, sizeof(name), "key-%u", number % 16);
    memset(value, (int)(number & 0xff), sizeof(value)); /* what does not change is not written */
    return nv_txn_meta_put(txn, nv_span_of(name, (size_t)len), nv_span_of(value, sizeof(value)));
}

static void write_done(nv_state_op *op)
{
    nv_container_of(op, write_op, op)->done = true;
}

static off_t log_bytes(const world *w)
{
    char path[128];
    struct stat st;
    (void)snprintf(path, sizeof(path), "%s/state.db-wal", w->dir);
    return stat(path, &st) == 0 ? st.st_size : 0;
}

static void the_log_stays_short(void **state)
{
    world *w = *state;
    scan scans[SCANS];
    for (size_t i = 0; i < SCANS; i++) {
        scans[i] = (scan){.op = {.exec = &w->queue.exec, .run = run_scan, .done = scan_done}, .w = w};
        assert_int_equal(nv_state_scan(w->state, &scans[i].op), NV_OK);
    }
    off_t longest = 0;
    for (uint32_t i = 0; i < WRITES; i++) {
        write_op write = {.op = {.exec = &w->queue.exec, .run = run_write, .done = write_done}, .number = i};
        assert_int_equal(nv_state_write(w->state, &write.op), NV_OK);
        while (!write.done) {
            (void)nv_exec_queue_run_wait(&w->queue);
        }
        assert_int_equal(write.op.status, NV_OK);
        longest = log_bytes(w) > longest ? log_bytes(w) : longest;
    }
    for (size_t i = 0; i < SCANS; i++) {
        scans[i].stop = true;
    }
    while (!scans[0].over || !scans[1].over || !scans[2].over) {
        (void)nv_exec_queue_run_wait(&w->queue);
    }
    print_message("log at most %lld bytes, %u scans\n", (long long)longest, scans[0].done + scans[1].done);
    assert_true(longest > 0 && longest <= 2 * (off_t)LOG_MAX);
    assert_true(scans[0].done > 0 && scans[1].done > 0 && scans[2].done > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_log_stays_short, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
