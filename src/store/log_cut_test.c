/**
 * The power-cut ring: the power goes at a random operation of the disk while several batches are under way; what was
 * not synced is forgotten or torn. Afterwards nothing acknowledged may be missing, no number skipped or used twice, no
 * order changed, no byte altered, no batch there in part. The same log is cut several times over.
 *
 * NV_CUTS=n in the environment sets the number of cuts. The seed of a failing run is printed; threads make the moment
 * of the cut vary a little between runs of one seed.
 */
#include "support/log_testkit.h"

#include "base/alloc.h"
#include "base/diag.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { OWNERS = 3, ROUNDS = 4, MAX_BATCHES = 4096, BODY_MAX = 60000 };

typedef enum fate { FATE_PENDING, FATE_KEPT, FATE_FAILED } fate;

typedef struct model_batch {
    unsigned owner;
    uint32_t first; /* counter of its first record */
    uint32_t count;
    uint32_t seen; /* in the verification under way */
    fate fate;
} model_batch;

typedef struct owner {
    nv_log_batch *batch;
    int in_flight; /* index of its model batch, or -1 */
    uint32_t next; /* counter of the next record */
} owner;

static struct {
    log_kit kit;
    owner owners[OWNERS];
    model_batch batches[MAX_BATCHES];
    int batch_count;
    uint32_t partitions;
    bool os;
    bool recycle; /* much data and little retention: files are used again and again */
    bool aging;   /* with it: files end because of their age, full or not */
    uint64_t seed;
    nv_seeded_rng dice;
    uint8_t body[BODY_MAX];
} t;

static uint64_t roll(uint64_t below)
{
    return nv_rng_u64(&t.dice.rng) % below;
}

/** Body of a record: owner, counter, then bytes that follow from them. @return its length */
static size_t make_body(unsigned owner_index, uint32_t counter, bool large, uint8_t *out)
{
    nv_seeded_rng rng;
    nv_seeded_rng_init(&rng, (uint64_t)owner_index << 32 | counter);
    size_t len = 8 + (size_t)(nv_rng_u64(&rng.rng) % (large ? BODY_MAX - 8 : 300));
    out[0] = (uint8_t)owner_index;
    out[1] = large;
    memcpy(out + 2, &counter, 4);
    memset(out + 6, (int)(counter * 7 + owner_index), len - 6);
    return len;
}

static void on_done(nv_log_batch *batch, nv_err status, void *arg)
{
    (void)batch;
    owner *o = arg;
    assert_true(o->in_flight >= 0);
    t.batches[o->in_flight].fate = status == NV_OK ? FATE_KEPT : FATE_FAILED;
    o->in_flight = -1;
}

/** Fill and submit a batch. @return false when the log refuses */
static bool submit(unsigned index)
{
    owner *o = &t.owners[index];
    char device[16];
    (void)snprintf(device, sizeof(device), "dev%u", index);
    nv_log_stamp stamp = kit_stamp(device);
    bool large = roll(t.recycle ? 2 : 6) == 0;
    uint32_t count = large ? 2 : 1 + (uint32_t)roll(20);
    nv_log_batch_clear(o->batch);
    for (uint32_t i = 0; i < count; i++) {
        size_t len = make_body(index, o->next + i, large, t.body);
        assert_int_equal(nv_log_batch_add(o->batch, (index + i / 3) % t.partitions, &stamp, NV_SOURCE_TELEMETRY,
                                          NV_BODY_DATA, NV_SPAN_EMPTY, nv_span_of(t.body, len)),
                         NV_OK);
    }
    assert_true(t.batch_count < MAX_BATCHES);
    t.batches[t.batch_count] = (model_batch){index, o->next, count, 0, FATE_PENDING};
    o->in_flight = t.batch_count++;
    o->next += count;
    if (nv_log_submit(o->batch) != NV_OK) {
        t.batches[o->in_flight].fate = FATE_FAILED;
        o->in_flight = -1;
        return false;
    }
    return true;
}

/* ---- checking --------------------------------------------------------------------------------------------- */

typedef struct check {
    uint64_t next_sequence[NV_LOG_MAX_PARTITIONS];
    bool started[NV_LOG_MAX_PARTITIONS];
    int64_t last_us;
    uint32_t next_counter[OWNERS];
    bool fired;
    nv_err status;
} check;

static model_batch *find_batch(unsigned owner_index, uint32_t counter)
{
    for (int i = 0; i < t.batch_count; i++) {
        model_batch *b = &t.batches[i];
        if (b->owner == owner_index && counter - b->first < b->count) {
            return b;
        }
    }
    return NULL;
}

static void check_record(check *c, const nv_record *record)
{
    if (t.recycle && !c->started[record->partition]) {
        c->next_sequence[record->partition] = record->sequence; /* retention took what was before */
    }
    c->started[record->partition] = true;
    assert_true(record->sequence == c->next_sequence[record->partition]); /* no hole, no repetition */
    c->next_sequence[record->partition]++;
    assert_true(record->enqueued_us >= c->last_us);
    c->last_us = record->enqueued_us;
    assert_true(record->body.len >= 8);
    unsigned owner_index = record->body.ptr[0];
    assert_true(owner_index < OWNERS);
    uint32_t counter;
    memcpy(&counter, record->body.ptr + 2, 4);
    static uint8_t expect[BODY_MAX];
    size_t len = make_body(owner_index, counter, record->body.ptr[1], expect);
    assert_true(nv_span_eq(record->body, nv_span_of(expect, len)));
    assert_true(counter >= c->next_counter[owner_index]); /* order of each sender, once each */
    c->next_counter[owner_index] = counter + 1;
    model_batch *batch = find_batch(owner_index, counter);
    assert_non_null(batch);
    if (batch) {
        batch->seen++;
    }
}

static void on_chunk(void *arg, nv_err status, nv_log_chunk *chunk)
{
    check *c = arg;
    c->fired = true;
    c->status = status;
    nv_record record;
    while (chunk && nv_log_chunk_next(chunk, &record)) {
        check_record(c, &record);
    }
    nv_log_chunk_release(chunk);
}

static void verify(bool after_cut)
{
    check c = {.status = NV_OK};
    nv_log_reader *reader = NULL;
    nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING};
    for (int i = 0; i < t.batch_count; i++) {
        t.batches[i].seen = 0;
    }
    assert_int_equal(nv_log_reader_open(&reader, t.kit.log, &options, &t.kit.exec.exec), NV_OK);
    while (c.status == NV_OK || (c.status == NV_E_GONE && t.recycle)) {
        if (c.status == NV_E_GONE) { /* retention went on while this read: what counts is what is left */
            c = (check){.status = NV_OK};
            for (int i = 0; i < t.batch_count; i++) {
                t.batches[i].seen = 0;
            }
        }
        c.fired = false;
        nv_log_reader_next(reader, on_chunk, &c);
        while (!c.fired) {
            nv_exec_queue_run_wait(&t.kit.exec);
        }
    }
    nv_log_reader_close(reader);
    assert_int_equal(c.status, NV_E_EOF);
    for (uint32_t p = 0; p < t.partitions; p++) {
        nv_log_partition_info info;
        assert_int_equal(nv_log_get_partition(t.kit.log, p, &info), NV_OK);
        assert_true(info.next_sequence == c.next_sequence[p] || (t.recycle && !c.started[p]));
    }
    bool lost[OWNERS] = {false};
    bool begun[OWNERS] = {false};
    for (int i = 0; i < t.batch_count; i++) {
        model_batch *b = &t.batches[i];
        assert_true(b->seen == 0 || b->seen == b->count); /* whole or not at all */
        if (t.os && after_cut) {
            assert_false(b->seen && b->fate == FATE_KEPT && lost[b->owner]); /* only an end may be missing */
            lost[b->owner] |= !b->seen && b->fate == FATE_KEPT;
        } else if (t.recycle && !begun[b->owner]) {
            begun[b->owner] = b->seen; /* from the first that retention left, none may be missing */
        } else {
            assert_true(b->seen || b->fate != FATE_KEPT); /* nothing acknowledged is lost */
        }
        b->fate = b->seen ? FATE_KEPT : FATE_FAILED; /* what was read once stays */
    }
}

/* ---- the ring --------------------------------------------------------------------------------------------- */

static void run_until_cut(void)
{
    nv_fault_disk_cut_after(t.kit.fault, 1 + roll(t.recycle ? 250 : 60));
    for (unsigned i = 0; i < OWNERS; i++) {
        t.owners[i].batch = nv_log_batch_new(t.kit.log, &t.kit.exec.exec, on_done, &t.owners[i]);
        t.owners[i].in_flight = -1;
    }
    bool accepted = true;
    for (int step = 0; accepted && step < 400 && !nv_fault_disk_is_cut(t.kit.fault); step++) {
        unsigned index = (unsigned)roll(OWNERS);
        while (t.owners[index].in_flight >= 0) {
            nv_exec_queue_run_wait(&t.kit.exec);
        }
        nv_manual_clock_advance(&t.kit.clock, (int64_t)roll(2000) - 500); /* the wall clock may go back */
        if (t.aging && roll(12) == 0) {
            nv_manual_clock_advance(&t.kit.clock, t.kit.config.retention_us);
            nv_log_janitor_run(t.kit.log);
        }
        accepted = submit(index);
    }
    nv_fault_disk_cut(t.kit.fault);
    for (unsigned i = 0; i < OWNERS; i++) {
        while (t.owners[i].in_flight >= 0) {
            nv_exec_queue_run_wait(&t.kit.exec);
        }
        nv_log_batch_free(t.owners[i].batch);
    }
}

/** Open, cutting the power within recovery too now and then. */
static void open_log(void)
{
    nv_buf why;
    nv_buf_init(&why, 1024);
    for (int i = 0; roll(4) == 0 && i < 3; i++) {
        nv_fault_disk_cut_after(t.kit.fault, 1 + roll(8));
        nv_err err = kit_try_open(&t.kit, &why);
        assert_true(err == NV_OK || err == NV_E_IO);
        kit_close(&t.kit);
        nv_fault_disk_power_on(t.kit.fault);
    }
    nv_err err = kit_try_open(&t.kit, &why);
    if (err != NV_OK) {
        fprintf(stderr, "open: %s %.*s\n", nv_err_name(err), NV_SPAN_ARG(nv_buf_span(&why)));
    }
    nv_buf_deinit(&why);
    assert_int_equal(err, NV_OK);
}

static int run_seed(uint64_t seed)
{
    memset(&t, 0, sizeof(t));
    t.seed = seed;
    kit_init(&t.kit, seed);
    nv_seeded_rng_init(&t.dice, seed * 977);
    t.partitions = t.kit.config.partitions = 1 + (uint32_t)roll(4);
    nv_fault_disk_set_direct(t.kit.fault, roll(3) != 0);
    uint64_t kind = roll(8);
    t.recycle = kind < 2;
    t.aging = kind == 1;
    if (t.recycle) {
        t.kit.config.retention_bytes = 3 << 20;
    }
    if (t.aging) {
        t.kit.config.retention_us = 10000;
    } else if (t.recycle) {
        nv_fault_disk_set_direct(t.kit.fault, true);
    }
    nv_fault_disk_set_short_writes(t.kit.fault, roll(4) == 0);
    t.os = !t.recycle && roll(5) == 0;
    t.kit.config.durability = t.os ? NV_DURABILITY_OS : NV_DURABILITY_COMMIT;
    for (int round = 0; round < ROUNDS; round++) {
        open_log();
        verify(round > 0);
        run_until_cut();
        kit_close(&t.kit);
        nv_fault_disk_power_on(t.kit.fault);
    }
    open_log();
    verify(true);
    if (roll(2)) { /* packing and footers must not change what is there */
        nv_log_janitor_run(t.kit.log);
        verify(false);
        kit_close(&t.kit);
        nv_fault_disk_power_on(t.kit.fault);
        kit_open(&t.kit);
        verify(false);
    }
    kit_deinit(&t.kit);
    return ROUNDS;
}

static void power_cuts(void **state)
{
    (void)state;
    const char *text = getenv("NV_CUTS");
    const char *first = getenv("NV_CUT_SEED");
    int wanted = text ? atoi(text) : 1000;
    uint64_t seed = first ? strtoull(first, NULL, 10) : 1;
    int cuts = 0;
    int kept = 0;
    while (cuts < wanted) {
        cuts += run_seed(seed++);
        for (int i = 0; i < t.batch_count; i++) {
            kept += t.batches[i].fate == FATE_KEPT;
        }
    }
    printf("%d power cuts, %d batches kept, seeds up to %llu\n", cuts, kept, (unsigned long long)seed - 1);
    assert_true(kept > cuts || wanted < 100); /* the ring does something */
}

/** What the log says of its failures matters only when a check fails: keep the last lines. */
static char last_lines[8][256];
static _Atomic unsigned line_count;

static void keep_line(void *arg, nv_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    char *out = last_lines[atomic_fetch_add(&line_count, 1) % NV_COUNT_OF(last_lines)];
    (void)snprintf(out, sizeof(last_lines[0]), "%.*s", (int)len, line);
}

static void explain_failure(void)
{
    fprintf(stderr, "power-cut ring: failed with seed %llu\n", (unsigned long long)t.seed);
    unsigned count = atomic_load(&line_count);
    for (unsigned i = count < 8 ? 0 : count - 8; i < count; i++) {
        fputs(last_lines[i % NV_COUNT_OF(last_lines)], stderr);
    }
}

int main(void)
{
    nv_diag_set_sink(keep_line, NULL);
    const struct CMUnitTest tests[] = {cmocka_unit_test(power_cuts)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed) {
        explain_failure();
    }
    return failed;
}
