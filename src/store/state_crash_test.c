/*
 * The power goes, again and again, while operations are written: nothing acknowledged is lost, nothing is half there,
 * nothing that was refused appears, and what is there is a prefix of what was asked. The disk forgets or tears whatever
 * was not synced; with "lying" it reports syncs that it does not do, and then this program must find a loss.
 *
 *   state_crash_test honest|lying CUTS
 */
#include "store/state.h"

#include "base/attrs.h"
#include "base/diag.h"
#include "store/state_groups.h"
#include "support/fault_disk.h"
#include "support/fault_vfs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define KEYS          6u
#define OPS_MAX       4096u
#define BATCH_MAX     8u
#define CUTS_PER_DISK 4u
#define ROUNDS        40u
#define FILLER_MAX    6000u

typedef enum kind { NOTHING, PUT, DELETE, ABORT } kind;

typedef struct world world;

typedef struct step {
    nv_state_op op;
    world *w;
    uint32_t number; /* 1.. */
    uint32_t key;
    kind kind;
    uint64_t generation;
} step;

struct world {
    nv_fault_disk *disk;
    nv_state *state;
    nv_exec_queue queue;
    nv_manual_clock clock;
    nv_seeded_rng rng;
    step steps[OPS_MAX]; /* by number; what is void after a cut becomes NOTHING */
    uint32_t count;
    uint32_t acknowledged[KEYS]; /* number of the last one answered NV_OK */
    uint64_t generation;         /* the largest acknowledged */
    uint32_t visible[KEYS];      /* what the check found */
    size_t pending;
    uint64_t total;
    char fault[256]; /* what is wrong, "" = nothing */
};

static uint64_t roll(world *w, uint64_t below)
{
    return nv_rng_u64(&w->rng.rng) % below;
}

static void complain(world *w, const char *what, uint32_t key, uint64_t got, uint64_t want)
{
    if (w->fault[0] == '\0') {
        (void)snprintf(w->fault, sizeof(w->fault), "key %u: %s: %" PRIu64 ", expected %" PRIu64, key, what, got, want);
    }
}

/* ---- what an operation writes ---- */

static nv_span name_of(char *out, size_t size, char letter, uint32_t number)
{
    return nv_span_of(out, (size_t)snprintf(out, size, "%c%u", letter, number));
}

static nv_span filler_of(char *out, uint32_t number)
{
    size_t len = (size_t)number * 7919u % FILLER_MAX;
    for (size_t i = 0; i < len; i++) {
        out[i] = (char)('a' + (number + i) % 26);
    }
    return nv_span_of(out, len);
}

static nv_err put_all(step *self, nv_txn *txn, nv_span id)
{
    char filler[FILLER_MAX];
    char text[16];
    nv_span number = name_of(text, sizeof(text), 'n', self->number);
    nv_identity_row row = {.device_id = id,
                           .generation = self->generation = nv_txn_generation(txn),
                           .etag = self->number,
                           .enabled = self->number % 2 == 0,
                           .attributes = filler_of(filler, self->number)};
    nv_err err = nv_txn_identity_put(txn, &row);
    err = err == NV_OK ? nv_txn_session_put(txn, id, NV_SPAN_EMPTY, row.generation, number) : err;
    row.module_id = nv_span_str("m");
    return err == NV_OK ? nv_txn_identity_put(txn, &row) : err;
}

/* A consumer group of each present device, as old as the operation is new. */
static nv_err put_group(const step *self, nv_txn *txn)
{
    char text[16];
    nv_group_row row = {name_of(text, sizeof(text), 'G', self->key), self->number};
    nv_err err = nv_txn_group_delete(txn, row.name);
    return err == NV_OK && self->kind != DELETE ? nv_txn_group_put(txn, &row) : err;
}

static nv_err run_step(nv_state_op *op, nv_txn *txn)
{
    step *self = nv_container_of(op, step, op);
    char id_text[16];
    char fact_text[16];
    char value_text[16];
    nv_span id = name_of(id_text, sizeof(id_text), 'd', self->key);
    nv_err err = self->kind == DELETE ? nv_txn_identity_delete(txn, id, NV_SPAN_EMPTY) : put_all(self, txn, id);
    err = err == NV_OK ? put_group(self, txn) : err;
    err = err == NV_OK ? nv_txn_meta_put(txn, name_of(fact_text, sizeof(fact_text), 'f', self->key),
                                         name_of(value_text, sizeof(value_text), 'n', self->number))
                       : err;
    return err == NV_OK && self->kind == ABORT ? NV_E_PRECONDITION : err;
}

static void step_done(nv_state_op *op)
{
    step *self = nv_container_of(op, step, op);
    world *w = self->w;
    w->pending--;
    if (op->status == NV_OK) {
        w->acknowledged[self->key] = self->number;
        w->generation = self->kind == PUT && self->generation > w->generation ? self->generation : w->generation;
        w->total++;
    }
}

static void settle(world *w)
{
    while (w->pending) {
        nv_exec_queue_run_wait(&w->queue);
    }
}

static void write_batch(world *w)
{
    for (uint64_t left = 1 + roll(w, BATCH_MAX); left > 0 && w->count + 1 < OPS_MAX; left--) {
        uint32_t number = ++w->count;
        uint64_t dice = roll(w, 10);
        w->steps[number] = (step){.op = {.exec = &w->queue.exec, .run = run_step, .done = step_done},
                                  .w = w,
                                  .number = number,
                                  .key = (uint32_t)roll(w, KEYS),
                                  .kind = dice < 7   ? PUT
                                          : dice < 9 ? DELETE
                                                     : ABORT};
        w->pending++;
        if (nv_state_write(w->state, &w->steps[number].op) != NV_OK) {
            abort();
        }
    }
    settle(w);
}

/* ---- what must be there ---- */

typedef struct check {
    nv_state_op op;
    world *w;
    uint64_t devices;
    uint64_t enabled;
    uint64_t modules;
} check;

static void expect_group(world *w, nv_txn *txn, uint32_t key, uint32_t number)
{
    char text[16];
    nv_group_row row = {0};
    nv_err err = nv_txn_group_get(txn, name_of(text, sizeof(text), 'g', key), &row);
    uint64_t found = err == NV_OK ? (uint64_t)row.created_us : 0;
    if (found != number) {
        complain(w, "the consumer group is not the device's", key, found, number);
    }
}

static nv_err expect_present(world *w, nv_txn *txn, nv_span id, uint32_t key, uint32_t number)
{
    char filler[FILLER_MAX];
    char text[16];
    nv_identity_row row;
    nv_span blob;
    nv_err err = nv_txn_identity_get(txn, id, NV_SPAN_EMPTY, &row);
    if (err != NV_OK || row.etag != number || !nv_span_eq(row.attributes, filler_of(filler, number))) {
        complain(w, "the device is not whole", key, err == NV_OK ? row.etag : 0, number);
        return err;
    }
    err = nv_txn_session_get(txn, id, NV_SPAN_EMPTY, row.generation, &blob);
    if (err != NV_OK || !nv_span_eq(blob, name_of(text, sizeof(text), 'n', number))) {
        complain(w, "the session is not the device's", key, 0, number);
    }
    err = nv_txn_identity_get(txn, id, nv_span_str("m"), &row);
    if (err != NV_OK || row.etag != number) {
        complain(w, "the module is not the device's", key, err == NV_OK ? row.etag : 0, number);
    }
    return err;
}

static nv_err expect_absent(world *w, nv_txn *txn, nv_span id, uint32_t key)
{
    nv_identity_row row;
    uint64_t modules = 0;
    nv_err err = nv_txn_identity_get(txn, id, NV_SPAN_EMPTY, &row);
    if (err != NV_E_NOT_FOUND) {
        complain(w, "a deleted device is there", key, row.etag, 0);
    }
    err = nv_txn_module_count(txn, id, &modules);
    if (modules) {
        complain(w, "a deleted device has modules", key, modules, 0);
    }
    return err;
}

static nv_err check_key(check *self, nv_txn *txn, uint32_t key)
{
    world *w = self->w;
    char id_text[16];
    char fact_text[16];
    nv_span value;
    nv_err err = nv_txn_meta_get(txn, name_of(fact_text, sizeof(fact_text), 'f', key), &value);
    uint64_t number = 0;
    if (err == NV_OK && (!nv_span_to_u64(nv_span_skip(value, 1), &number) || number > w->count)) {
        complain(w, "a fact that nobody wrote", key, number, w->count);
        return NV_OK;
    }
    if (err != NV_OK && err != NV_E_NOT_FOUND) {
        return err;
    }
    const step *last = &w->steps[number];
    w->visible[key] = (uint32_t)number;
    if (number && ((last->kind != PUT && last->kind != DELETE) || last->key != key)) {
        complain(w, "what was refused, or lost before, is there", key, number, w->acknowledged[key]);
    }
    nv_span id = name_of(id_text, sizeof(id_text), 'd', key);
    if (last->kind == PUT) {
        self->devices++;
        self->modules++;
        self->enabled += number % 2 == 0 ? 1 : 0;
        expect_group(w, txn, key, (uint32_t)number);
        return expect_present(w, txn, id, key, (uint32_t)number);
    }
    expect_group(w, txn, key, 0);
    return expect_absent(w, txn, id, key);
}

static nv_err run_check(nv_state_op *op, nv_txn *txn)
{
    check *self = nv_container_of(op, check, op);
    nv_err err = NV_OK;
    for (uint32_t key = 0; err == NV_OK && key < KEYS; key++) {
        err = check_key(self, txn, key);
    }
    return err;
}

static void check_done(nv_state_op *op)
{
    nv_container_of(op, check, op)->w->pending--;
}

/* Of each key the last operation up to the newest visible one: a prefix of what was asked. */
static void check_prefix(world *w)
{
    uint32_t newest = 0;
    uint32_t want[KEYS] = {0};
    for (uint32_t key = 0; key < KEYS; key++) {
        newest = w->visible[key] > newest ? w->visible[key] : newest;
        if (w->visible[key] < w->acknowledged[key]) {
            complain(w, "an acknowledged operation is lost", key, w->visible[key], w->acknowledged[key]);
        }
    }
    for (uint32_t number = 1; number <= newest; number++) {
        if (w->steps[number].kind == PUT || w->steps[number].kind == DELETE) {
            want[w->steps[number].key] = number;
        }
    }
    for (uint32_t key = 0; key < KEYS; key++) {
        if (w->visible[key] != want[key]) {
            complain(w, "an earlier operation is missing", key, w->visible[key], want[key]);
        }
        w->acknowledged[key] = w->visible[key];
    }
    for (uint32_t number = newest + 1; number <= w->count; number++) {
        w->steps[number].kind = NOTHING; /* it never was, and must not come back */
    }
}

static nv_err next_generation(nv_state_op *op, nv_txn *txn)
{
    check *self = nv_container_of(op, check, op);
    self->devices = nv_txn_generation(txn);
    return NV_E_CANCELED; /* looked at only */
}

static void do_check(world *w)
{
    check look = {.op = {.exec = &w->queue.exec, .run = run_check, .done = check_done}, .w = w};
    w->pending++;
    if (nv_state_read(w->state, &look.op) != NV_OK) {
        abort();
    }
    settle(w);
    if (look.op.status != NV_OK && look.op.status != NV_E_NOT_FOUND) {
        complain(w, nv_err_name(look.op.status), 0, 0, 0);
    }
    nv_state_counts counts = nv_state_counts_now(w->state);
    if (counts.devices != look.devices || counts.modules != look.modules || counts.devices_enabled != look.enabled) {
        complain(w, "the counts are not those of the rows", 0, counts.devices, look.devices);
    }
    check_prefix(w);
    check next = {.op = {.exec = &w->queue.exec, .run = next_generation, .done = check_done}, .w = w};
    w->pending++;
    if (nv_state_write(w->state, &next.op) != NV_OK) {
        abort();
    }
    settle(w);
    if (next.devices <= w->generation) {
        complain(w, "a generation is given twice", 0, next.devices, w->generation);
    }
}

/* ---- cutting ---- */

static nv_err open_state(world *w)
{
    char memory[512];
    nv_buf why;
    nv_buf_init(&why, sizeof(memory));
    nv_state_config config = {.dir = "/data",
                              .vfs = "nave-fault",
                              .clock = &w->clock.clock,
                              .rng = &w->rng.rng,
                              .checkpoint_pages = 4 + (uint32_t)roll(w, 100)};
    nv_err err = nv_state_open(&w->state, &config, &why);
    if (err != NV_OK && !nv_fault_disk_is_cut(w->disk)) {
        (void)snprintf(w->fault, sizeof(w->fault), "it does not open: %.*s", NV_SPAN_ARG(nv_buf_span(&why)));
    }
    nv_buf_deinit(&why);
    return err;
}

static void one_cut(world *w)
{
    nv_fault_disk_cut_after(w->disk, 1 + roll(w, roll(w, 4) == 0 ? 80 : 4000));
    if (open_state(w) == NV_OK) {
        for (uint32_t round = 0; round < ROUNDS && !nv_fault_disk_is_cut(w->disk); round++) {
            write_batch(w);
            if (roll(w, 25) == 0) {
                nv_state_close(w->state); /* folds the write-ahead log in, or is cut doing so */
                w->state = NULL;
                if (open_state(w) != NV_OK) {
                    break;
                }
            }
        }
    }
    if (!nv_fault_disk_is_cut(w->disk)) {
        nv_fault_disk_cut(w->disk);
    }
    nv_state_close(w->state);
    w->state = NULL;
    nv_fault_disk_power_on(w->disk);
    nv_fault_disk_cut_after(w->disk, 0);
    if (open_state(w) == NV_OK) {
        do_check(w);
        nv_state_close(w->state);
        w->state = NULL;
    }
}

/* @return cuts made */
static uint32_t one_disk(world *w, uint64_t seed, bool lying, uint32_t cuts)
{
    nv_seeded_rng_init(&w->rng, seed * 2 + 1);
    w->count = 0;
    w->generation = 0;
    w->steps[0] = (step){.kind = NOTHING};
    memset(w->acknowledged, 0, sizeof(w->acknowledged));
    w->disk = nv_fault_disk_new(seed);
    nv_disk *disk = nv_fault_disk_disk(w->disk);
    nv_fault_vfs *vfs = nv_fault_vfs_new(disk, "nave-fault");
    nv_ignore(nv_disk_make_dir(disk, "/data"));
    nv_ignore(nv_disk_sync_dir(disk, "/"));
    nv_fault_disk_set_ignore_syncs(w->disk, lying);
    uint32_t made = 0;
    for (; made < cuts && made < CUTS_PER_DISK && w->fault[0] == '\0'; made++) {
        one_cut(w);
    }
    nv_fault_vfs_free(vfs);
    nv_fault_disk_free(w->disk);
    return made;
}

static void swallow(void *arg, nv_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    (void)line;
    (void)len;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        (void)fprintf(stderr, "usage: state_crash_test honest|lying CUTS\n");
        return 2;
    }
    world *w = calloc(1, sizeof(*w));
    bool lying = strcmp(argv[1], "lying") == 0;
    uint32_t cuts = (uint32_t)strtoul(argv[2], NULL, 10);
    nv_diag_set_sink(swallow, NULL); /* each cut is a failed commit */
    nv_manual_clock_init(&w->clock, INT64_C(1700000000) * NV_US_PER_S);
    nv_exec_queue_init(&w->queue);
    uint32_t made = 0;
    uint64_t seed = 0;
    while (made < cuts && w->fault[0] == '\0') {
        made += one_disk(w, ++seed, lying, cuts - made);
    }
    bool failed = w->fault[0] != '\0';
    if (failed) {
        (void)printf("seed %" PRIu64 ": %s\n", seed, w->fault);
    }
    (void)printf("%u cuts, %" PRIu64 " acknowledged, %s\n", made, w->total, failed ? "FAILED" : "lost 0");
    nv_exec_queue_deinit(&w->queue);
    free(w);
    return failed ? 1 : 0;
}
