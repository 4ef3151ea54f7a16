/* The state store on real files: operations, transactions, start and refusals to start. */
#include "store/state.h"

#include "base/attrs.h"
#include "store/state_groups.h"
#include "support/temp_dir.h"

#include <fcntl.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#define S(text) nv_span_str(text)

typedef struct world {
    char dir[64];
    nv_manual_clock clock;
    nv_state *state;
    nv_exec_queue queue;
    size_t pending;
    char why[512];
} world;

static nv_err open_state(world *w, uint32_t queue_max)
{
    nv_buf why;
    nv_buf_init(&why, sizeof(w->why) - 1);
    nv_state_config config = {.dir = w->dir, .clock = &w->clock.clock, .rng = nv_rng_system(), .queue_max = queue_max};
    nv_err err = nv_state_open(&w->state, &config, &why);
    memset(w->why, 0, sizeof(w->why));
    if (nv_buf_len(&why)) {
        memcpy(w->why, nv_buf_span(&why).ptr, nv_buf_len(&why));
    }
    nv_buf_deinit(&why);
    return err;
}

static int setup(void **state)
{
    world *w = calloc(1, sizeof(*w));
    temp_dir_make(w->dir, sizeof(w->dir), NULL);
    nv_manual_clock_init(&w->clock, INT64_C(1700000000) * NV_US_PER_S);
    nv_exec_queue_init(&w->queue);
    assert_int_equal(open_state(w, 0), NV_OK);
    *state = w;
    return 0;
}

static char *path_in(const world *w, const char *name, char out[128])
{
    (void)snprintf(out, 128, "%s/%s", w->dir, name);
    return out;
}

static void remove_files(const world *w)
{
    const char *const names[] = {"state.db", "state.db-wal", "state.db-shm", "state.lock"};
    char path[128];
    for (size_t i = 0; i < NV_COUNT_OF(names); i++) {
        (void)unlink(path_in(w, names[i], path));
    }
}

static int teardown(void **state)
{
    world *w = *state;
    nv_state_close(w->state);
    nv_exec_queue_deinit(&w->queue);
    temp_dir_remove(w->dir);
    free(w);
    return 0;
}

/* ---- one operation as a function ---- */

typedef nv_err (*work_fn)(nv_txn *txn, void *arg);

typedef struct job {
    nv_state_op op;
    world *w;
    work_fn fn;
    void *arg;
} job;

static nv_err run_work(nv_state_op *op, nv_txn *txn)
{
    job *self = nv_container_of(op, job, op);
    return self->fn(txn, self->arg);
}

static void work_done(nv_state_op *op)
{
    nv_container_of(op, job, op)->w->pending--;
}

static nv_err start(world *w, job *work, bool write, work_fn fn, void *arg)
{
    *work =
        (struct job){.op = {.exec = &w->queue.exec, .run = run_work, .done = work_done}, .w = w, .fn = fn, .arg = arg};
    nv_err err = write ? nv_state_write(w->state, &work->op) : nv_state_read(w->state, &work->op);
    w->pending += err == NV_OK ? 1 : 0;
    return err;
}

static void settle(world *w)
{
    while (w->pending) {
        nv_exec_queue_run_wait(&w->queue);
    }
}

static nv_err do_write(world *w, work_fn fn, void *arg)
{
    job work;
    assert_int_equal(start(w, &work, true, fn, arg), NV_OK);
    settle(w);
    return work.op.status;
}

static nv_err do_read(world *w, work_fn fn, void *arg)
{
    job work;
    assert_int_equal(start(w, &work, false, fn, arg), NV_OK);
    settle(w);
    return work.op.status;
}

/* ---- rows ---- */

static nv_identity_row full_row(const char *device, const char *module)
{
    return (nv_identity_row){
        .device_id = S(device),
        .module_id = S(module),
        .generation = 638000000000000000,
        .etag = 241791198,
        .enabled = true,
        .status_reason = S("caf\xc3\xa9"),
        .status_updated_us = 17,
        .auth = 1,
        .primary_key = nv_span_of("0123456789abcdef\0\xff", 18),
        .secondary_key = S("fedcba9876543210"),
        .primary_thumbprint = S("aA"),
        .secondary_thumbprint = S("bB"),
        .iot_edge = true,
        .device_scope = S("scope"),
        .parent_scopes = S("[\"x\"]"),
        .managed_by = S("me"),
        .attributes = S("{\"a\":1}"),
        .connection_updated_us = 1,
        .last_activity_us = 2,
    };
}

static nv_err put_row(nv_txn *txn, void *arg)
{
    return nv_txn_identity_put(txn, arg);
}

static nv_err delete_row(nv_txn *txn, void *arg)
{
    const nv_identity_row *row = arg;
    return nv_txn_identity_delete(txn, row->device_id, row->module_id);
}

static void assert_span(nv_span got, nv_span want)
{
    assert_int_equal(got.len, want.len);
    assert_true(nv_span_eq(got, want));
}

static nv_err expect_row(nv_txn *txn, void *arg)
{
    const nv_identity_row *want = arg;
    nv_identity_row got;
    nv_err err = nv_txn_identity_get(txn, want->device_id, want->module_id, &got);
    if (err != NV_OK) {
        return err;
    }
    const nv_span *const a[] = {&got.device_id,
                                &got.module_id,
                                &got.status_reason,
                                &got.primary_key,
                                &got.secondary_key,
                                &got.primary_thumbprint,
                                &got.secondary_thumbprint,
                                &got.device_scope,
                                &got.parent_scopes,
                                &got.managed_by,
                                &got.attributes};
    const nv_span *const b[] = {&want->device_id,
                                &want->module_id,
                                &want->status_reason,
                                &want->primary_key,
                                &want->secondary_key,
                                &want->primary_thumbprint,
                                &want->secondary_thumbprint,
                                &want->device_scope,
                                &want->parent_scopes,
                                &want->managed_by,
                                &want->attributes};
    for (size_t i = 0; i < NV_COUNT_OF(a); i++) {
        assert_span(*a[i], *b[i]);
    }
    assert_true(got.generation == want->generation && got.etag == want->etag && got.enabled == want->enabled);
    assert_true(got.status_updated_us == want->status_updated_us && got.auth == want->auth);
    assert_true(got.iot_edge == want->iot_edge && got.connection_updated_us == want->connection_updated_us);
    assert_true(got.last_activity_us == want->last_activity_us);
    return NV_OK;
}

static void rows_come_back_whole(void **state)
{
    world *w = *state;
    nv_identity_row row = full_row("d1", "");
    nv_identity_row bare = {.device_id = S("d2"), .generation = 1, .etag = 1};
    assert_int_equal(do_read(w, expect_row, &row), NV_E_NOT_FOUND);
    assert_int_equal(do_write(w, put_row, &row), NV_OK);
    assert_int_equal(do_write(w, put_row, &bare), NV_OK);
    assert_int_equal(do_read(w, expect_row, &row), NV_OK);
    assert_int_equal(do_read(w, expect_row, &bare), NV_OK);
    /* an update replaces all but the times */
    row.etag++;
    row.status_reason = NV_SPAN_EMPTY;
    row.connection_updated_us = row.last_activity_us = 99;
    assert_int_equal(do_write(w, put_row, &row), NV_OK);
    row.connection_updated_us = 1;
    row.last_activity_us = 2;
    assert_int_equal(do_read(w, expect_row, &row), NV_OK);
    /* and survives a restart */
    nv_state_close(w->state);
    assert_int_equal(open_state(w, 0), NV_OK);
    assert_int_equal(do_read(w, expect_row, &row), NV_OK);
    assert_int_equal(nv_state_counts_now(w->state).devices, 2);
    assert_int_equal(nv_state_counts_now(w->state).devices_enabled, 1);
}

static nv_err put_session(nv_txn *txn, void *arg)
{
    const nv_identity_row *row = arg;
    return nv_txn_session_put(txn, row->device_id, row->module_id, row->generation, S("subscriptions"));
}

static nv_err get_session(nv_txn *txn, void *arg)
{
    const nv_identity_row *row = arg;
    nv_span blob;
    nv_err err = nv_txn_session_get(txn, row->device_id, row->module_id, row->generation, &blob);
    if (err == NV_OK) {
        assert_span(blob, S("subscriptions"));
    }
    return err;
}

/* conformance: http-hub.md 12 */
static void what_belongs_to_an_identity_goes_with_it(void **state)
{
    world *w = *state;
    nv_identity_row device = full_row("d1", "");
    nv_identity_row module = full_row("d1", "m");
    nv_identity_row other = full_row("d10", "");
    assert_int_equal(do_write(w, put_row, &module), NV_E_NOT_FOUND); /* no device */
    assert_int_equal(do_write(w, put_session, &device), NV_E_NOT_FOUND);
    nv_identity_row *const rows[] = {&device, &module, &other};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        assert_int_equal(do_write(w, put_row, rows[i]), NV_OK);
        assert_int_equal(do_read(w, get_session, rows[i]), NV_E_NOT_FOUND);
        assert_int_equal(do_write(w, put_session, rows[i]), NV_OK);
        assert_int_equal(do_read(w, get_session, rows[i]), NV_OK);
    }
    nv_state_counts counts = nv_state_counts_now(w->state);
    assert_true(counts.devices == 2 && counts.devices_enabled == 2 && counts.modules == 1);
    /* a disabled device disables its modules */
    device.enabled = false;
    assert_int_equal(do_write(w, put_row, &device), NV_OK);
    module.enabled = false;
    assert_int_equal(do_read(w, expect_row, &module), NV_OK);
    assert_int_equal(nv_state_counts_now(w->state).devices_enabled, 1);

    assert_int_equal(do_write(w, delete_row, &device), NV_OK);
    assert_int_equal(do_write(w, delete_row, &device), NV_OK); /* absent is fine */
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(do_read(w, expect_row, rows[i]), NV_E_NOT_FOUND);
        assert_int_equal(do_read(w, get_session, rows[i]), NV_E_NOT_FOUND);
    }
    assert_int_equal(do_read(w, get_session, &other), NV_OK);
    counts = nv_state_counts_now(w->state);
    assert_true(counts.devices == 1 && counts.devices_enabled == 1 && counts.modules == 0);

    /* a late store for the deleted identity does not reach its successor */
    nv_identity_row again = device;
    again.generation++;
    assert_int_equal(do_write(w, put_row, &again), NV_OK);
    assert_int_equal(do_write(w, put_session, &device), NV_E_NOT_FOUND);
    assert_int_equal(do_read(w, get_session, &again), NV_E_NOT_FOUND);
}

static nv_err save_times(nv_txn *txn, void *arg)
{
    const nv_identity_row *row = arg;
    return nv_txn_seen_put(txn, row->device_id, row->module_id, row->generation, 1000, 2000);
}

static void times_follow_the_generation(void **state)
{
    world *w = *state;
    nv_identity_row row = full_row("d1", "");
    nv_identity_row former = row;
    former.generation--;
    assert_int_equal(do_write(w, put_row, &row), NV_OK);
    assert_int_equal(do_write(w, save_times, &former), NV_OK);
    assert_int_equal(do_read(w, expect_row, &row), NV_OK);
    assert_int_equal(do_write(w, save_times, &row), NV_OK);
    row.connection_updated_us = 1000;
    row.last_activity_us = 2000;
    assert_int_equal(do_read(w, expect_row, &row), NV_OK); /* same etag */
}

/* ---- transactions ---- */

typedef struct gate {
    sem_t entered;
    sem_t open;
} gate;

static nv_err wait_at_gate(nv_txn *txn, void *arg)
{
    (void)txn;
    gate *g = arg;
    sem_post(&g->entered);
    while (sem_wait(&g->open) != 0) {
    }
    return NV_OK;
}

static nv_err put_then_fail(nv_txn *txn, void *arg)
{
    nv_err err = nv_txn_identity_put(txn, arg);
    assert_int_equal(err, NV_OK);
    (void)nv_txn_generation(txn);
    assert_int_equal(nv_txn_counts(txn).devices, 2);
    return NV_E_PRECONDITION;
}

/* One bad operation between two good ones of the same transaction. */
static void a_failing_operation_undoes_only_itself(void **state)
{
    world *w = *state;
    nv_identity_row a = full_row("a", "");
    nv_identity_row b = full_row("b", "");
    nv_identity_row c = full_row("c", "");
    gate g;
    sem_init(&g.entered, 0, 0);
    sem_init(&g.open, 0, 0);
    job works[4];
    assert_int_equal(start(w, &works[0], true, wait_at_gate, &g), NV_OK);
    while (sem_wait(&g.entered) != 0) { /* the rest is collected for the next transaction */
    }
    assert_int_equal(start(w, &works[1], true, put_row, &a), NV_OK);
    assert_int_equal(start(w, &works[2], true, put_then_fail, &b), NV_OK);
    assert_int_equal(start(w, &works[3], true, put_row, &c), NV_OK);
    sem_post(&g.open);
    settle(w);
    assert_int_equal(works[1].op.status, NV_OK);
    assert_int_equal(works[2].op.status, NV_E_PRECONDITION);
    assert_int_equal(works[3].op.status, NV_OK);
    assert_int_equal(do_read(w, expect_row, &a), NV_OK);
    assert_int_equal(do_read(w, expect_row, &b), NV_E_NOT_FOUND);
    assert_int_equal(do_read(w, expect_row, &c), NV_OK);
    assert_int_equal(nv_state_counts_now(w->state).devices, 2);
    sem_destroy(&g.entered);
    sem_destroy(&g.open);
}

static void a_full_queue_refuses_and_close_finishes_the_rest(void **state)
{
    world *w = *state;
    nv_state_close(w->state);
    assert_int_equal(open_state(w, 2), NV_OK);
    gate g;
    sem_init(&g.entered, 0, 0);
    sem_init(&g.open, 0, 0);
    nv_identity_row a = full_row("a", "");
    job works[4];
    assert_int_equal(start(w, &works[0], true, wait_at_gate, &g), NV_OK);
    while (sem_wait(&g.entered) != 0) {
    }
    assert_int_equal(start(w, &works[1], true, put_row, &a), NV_OK);
    assert_int_equal(start(w, &works[2], true, save_times, &a), NV_OK);
    assert_int_equal(start(w, &works[3], true, put_row, &a), NV_E_AGAIN);
    sem_post(&g.open);
    nv_state_close(w->state);
    w->state = NULL;
    settle(w);
    assert_int_equal(works[2].op.status, NV_OK);
    assert_int_equal(open_state(w, 0), NV_OK);
    a.connection_updated_us = 1000;
    a.last_activity_us = 2000;
    assert_int_equal(do_read(w, expect_row, &a), NV_OK);
    sem_destroy(&g.entered);
    sem_destroy(&g.open);
}

static nv_err next_generation(nv_txn *txn, void *arg)
{
    *(uint64_t *)arg = nv_txn_generation(txn);
    return NV_OK;
}

static void generations_only_grow(void **state)
{
    world *w = *state;
    uint64_t first = 0;
    uint64_t second = 0;
    assert_int_equal(do_write(w, next_generation, &first), NV_OK);
    assert_true(first == UINT64_C(621355968000000000) + UINT64_C(17000000000000000));
    assert_int_equal(do_write(w, next_generation, &second), NV_OK);
    assert_true(second == first + 1);
    nv_manual_clock_advance(&w->clock, -3600 * NV_US_PER_S); /* the clock goes back, and the hub starts again */
    nv_state_close(w->state);
    assert_int_equal(open_state(w, 0), NV_OK);
    assert_int_equal(do_write(w, next_generation, &first), NV_OK);
    assert_true(first == second + 1);
}

/* ---- lists, facts, policies ---- */

typedef struct seen {
    char text[256];
    size_t stop_after;
} seen;

static nv_err note_row(void *arg, const nv_identity_row *row)
{
    seen *s = arg;
    nv_span id = row->module_id.len ? row->module_id : row->device_id;
    size_t len = strlen(s->text);
    (void)snprintf(s->text + len, sizeof(s->text) - len, "%.*s%s ", NV_SPAN_ARG(id), row->enabled ? "" : "!");
    return s->stop_after && --s->stop_after == 0 ? NV_E_GONE : NV_OK;
}

static nv_err list_devices(nv_txn *txn, void *arg)
{
    return nv_txn_devices(txn, NV_SPAN_EMPTY, 1000, note_row, arg);
}

static nv_err list_two_after_a(nv_txn *txn, void *arg)
{
    return nv_txn_devices(txn, S("A"), 2, note_row, arg);
}

static nv_err list_modules(nv_txn *txn, void *arg)
{
    uint64_t count = 0;
    assert_int_equal(nv_txn_module_count(txn, S("a"), &count), NV_OK);
    assert_int_equal(count, 3);
    return nv_txn_modules(txn, S("a"), S("$edgeAgent"), 10, note_row, arg);
}

static void lists_are_ordered_and_bounded(void **state)
{
    world *w = *state;
    const char *const ids[] = {"b", "A", "a", "$x", "a%"};
    for (size_t i = 0; i < NV_COUNT_OF(ids); i++) {
        nv_identity_row row = full_row(ids[i], "");
        row.enabled = i != 0;
        assert_int_equal(do_write(w, put_row, &row), NV_OK);
    }
    const char *const modules[] = {"m", "$edgeHub", "$edgeAgent"};
    for (size_t i = 0; i < NV_COUNT_OF(modules); i++) {
        nv_identity_row row = full_row("a", modules[i]);
        assert_int_equal(do_write(w, put_row, &row), NV_OK);
    }
    seen all = {0};
    seen some = {0};
    seen two = {0};
    seen stopped = {.stop_after = 2};
    assert_int_equal(do_read(w, list_devices, &all), NV_OK);
    assert_string_equal(all.text, "$x A a a% b! ");
    assert_int_equal(do_read(w, list_two_after_a, &two), NV_OK);
    assert_string_equal(two.text, "a a% ");
    assert_int_equal(do_read(w, list_modules, &some), NV_OK);
    assert_string_equal(some.text, "$edgeHub m ");
    assert_int_equal(do_read(w, list_devices, &stopped), NV_E_GONE);
    assert_string_equal(stopped.text, "$x A ");
}

static nv_err put_fact(nv_txn *txn, void *arg)
{
    return nv_txn_meta_put(txn, S("created"), S((const char *)arg));
}

static nv_err expect_fact(nv_txn *txn, void *arg)
{
    nv_span value;
    nv_err err = nv_txn_meta_get(txn, S("created"), &value);
    if (err == NV_OK) {
        assert_span(value, S((const char *)arg));
    }
    return err;
}

static void facts_are_kept(void **state)
{
    world *w = *state;
    char one[] = "one";
    char two[] = "two";
    assert_int_equal(do_read(w, expect_fact, one), NV_E_NOT_FOUND);
    assert_int_equal(do_write(w, put_fact, one), NV_OK);
    assert_int_equal(do_read(w, expect_fact, one), NV_OK);
    assert_int_equal(do_write(w, put_fact, two), NV_OK);
    assert_int_equal(do_read(w, expect_fact, two), NV_OK);
}

/* ---- ready-made sessions ---- */

typedef struct session_call {
    nv_state_session session;
    world *w;
} session_call;

static void session_call_done(nv_state_op *op)
{
    nv_container_of(op, session_call, session.op)->w->pending--;
}

static session_call call_of(world *w, uint64_t generation, bool clear, const char *blob)
{
    session_call call = {.session = {.op = {.exec = &w->queue.exec, .done = session_call_done},
                                     .device_id = S("d1"),
                                     .generation = generation,
                                     .clear = clear,
                                     .len = strlen(blob)},
                         .w = w};
    memcpy(call.session.blob, blob, strlen(blob));
    return call;
}

static void load(world *w, session_call *call)
{
    w->pending++;
    assert_int_equal(nv_state_session_load(w->state, &call->session), NV_OK);
    settle(w);
    assert_int_equal(call->session.op.status, NV_OK);
}

static nv_err store(world *w, uint64_t generation, const char *blob)
{
    session_call call = call_of(w, generation, false, blob);
    w->pending++;
    assert_int_equal(nv_state_session_store(w->state, &call.session), NV_OK);
    settle(w);
    return call.session.op.status;
}

static void sessions_are_stored_and_forgotten(void **state)
{
    world *w = *state;
    nv_identity_row row = full_row("d1", "");
    assert_int_equal(store(w, row.generation, "x"), NV_E_NOT_FOUND);
    assert_int_equal(do_write(w, put_row, &row), NV_OK);
    session_call none = call_of(w, row.generation, false, "");
    load(w, &none);
    assert_false(none.session.present);
    assert_int_equal(store(w, row.generation, "x"), NV_OK);
    assert_int_equal(store(w, row.generation, "yz"), NV_OK);
    session_call kept = call_of(w, row.generation, false, "");
    load(w, &kept);
    assert_true(kept.session.present);
    assert_span(nv_span_of(kept.session.blob, kept.session.len), S("yz"));
    session_call cleared = call_of(w, row.generation, true, "");
    load(w, &cleared);
    assert_true(cleared.session.present);
    load(w, &kept);
    assert_false(kept.session.present);
    /* present although empty */
    assert_int_equal(store(w, row.generation, ""), NV_OK);
    load(w, &kept);
    assert_true(kept.session.present);
    assert_int_equal(kept.session.len, 0);
    session_call big = call_of(w, row.generation, false, "");
    big.session.len = NV_STATE_SESSION_MAX + 1;
    assert_int_equal(nv_state_session_store(w->state, &big.session), NV_E_TOO_BIG);
}

/* ---- start ---- */

static void files_are_private_and_the_store_keeps_its_id(void **state)
{
    world *w = *state;
    const char *const names[] = {"state.db", "state.db-wal", "state.db-shm", "state.lock"};
    char path[128];
    char fact[] = "x";
    assert_int_equal(do_write(w, put_fact, fact), NV_OK);
    for (size_t i = 0; i < NV_COUNT_OF(names); i++) {
        struct stat st;
        assert_int_equal(stat(path_in(w, names[i], path), &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    char id[33] = {0};
    assert_int_equal(nv_state_id(w->state).len, 32);
    memcpy(id, nv_state_id(w->state).ptr, 32);
    nv_state_close(w->state);
    assert_int_equal(open_state(w, 0), NV_OK);
    assert_span(nv_state_id(w->state), S(id));
}

static void a_second_hub_on_the_same_data_is_refused(void **state)
{
    world *w = *state;
    nv_state *first = w->state;
    assert_int_equal(open_state(w, 0), NV_E_IN_USE);
    assert_null(w->state);
    assert_non_null(strstr(w->why, "another hub is running on the data folder"));
    w->state = first;
    nv_identity_row row = full_row("d1", "");
    assert_int_equal(do_write(w, put_row, &row), NV_OK); /* the first is not disturbed */
}

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
}

static void sql(const char *path, const char *text)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void what_is_not_our_store_is_refused(void **state)
{
    world *w = *state;
    char path[128];
    nv_state_close(w->state);
    sql(path_in(w, "state.db", path), "PRAGMA user_version = 1000");
    assert_int_equal(open_state(w, 0), NV_E_UNSUPPORTED);
    assert_non_null(strstr(w->why, "newer version of Nave (schema 1000"));

    remove_files(w);
    sql(path, "CREATE TABLE somebody (x)");
    assert_int_equal(open_state(w, 0), NV_E_CORRUPT);
    assert_non_null(strstr(w->why, "another program"));

    remove_files(w);
    write_file(path, "This is a letter, and by no means a database of any kind; at least not one with that header.");
    assert_int_equal(open_state(w, 0), NV_E_CORRUPT);
    assert_non_null(strstr(w->why, "not a state file of Nave"));

    remove_files(w);
    assert_int_equal(open_state(w, 0), NV_OK);
}

typedef struct group_look {
    size_t count;
    int64_t created_us;
} group_look;

static nv_err look_at_group(void *arg, const nv_group_row *row)
{
    group_look *look = arg;
    look->count++;
    look->created_us = row->created_us;
    return nv_span_eq_str(row->name, "$Default") ? NV_OK : NV_E_CORRUPT;
}

static nv_err look_at_groups(nv_txn *txn, void *arg)
{
    return nv_txn_groups(txn, look_at_group, arg);
}

static void an_older_store_is_migrated(void **state)
{
    world *w = *state;
    char path[128];
    nv_state_close(w->state);
    sql(path_in(w, "state.db", path), "DROP TABLE consumer_groups; DELETE FROM schema_migrations WHERE version > 2;"
                                      "UPDATE schema_migrations SET applied_us = 123456; PRAGMA user_version = 2");
    assert_int_equal(open_state(w, 0), NV_OK);
    group_look look = {.count = 0};
    assert_int_equal(do_write(w, look_at_groups, &look), NV_OK);
    assert_int_equal(look.count, 1);
    assert_int_equal(look.created_us, 123456); /* as old as the store */
}

static void a_folder_without_permission_is_refused(void **state)
{
    world *w = *state;
    nv_state_close(w->state);
    w->state = NULL;
    remove_files(w);
    assert_int_equal(chmod(w->dir, 0500), 0);
    uid_t before = geteuid();
    if (before == 0) {
        assert_int_equal(seteuid(65534), 0); /* root may do everything */
    }
    nv_err err = open_state(w, 0);
    assert_int_equal(seteuid(before), 0);
    assert_int_equal(chmod(w->dir, 0700), 0);
    assert_int_equal(err, NV_E_PERMISSION);
    assert_non_null(strstr(w->why, "choose another data folder"));

    char inside[32];
    (void)snprintf(inside, sizeof(inside), "%.30s", w->dir);
    (void)snprintf(w->dir, sizeof(w->dir), "%.30s/no/such", inside);
    assert_int_equal(open_state(w, 0), NV_E_NOT_FOUND);
    assert_non_null(strstr(w->why, "cannot create the data folder"));
    (void)snprintf(w->dir, sizeof(w->dir), "%s", inside);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rows_come_back_whole),
        TEST(what_belongs_to_an_identity_goes_with_it),
        TEST(times_follow_the_generation),
        TEST(a_failing_operation_undoes_only_itself),
        TEST(a_full_queue_refuses_and_close_finishes_the_rest),
        TEST(generations_only_grow),
        TEST(lists_are_ordered_and_bounded),
        TEST(facts_are_kept),
        TEST(sessions_are_stored_and_forgotten),
        TEST(files_are_private_and_the_store_keeps_its_id),
        TEST(a_second_hub_on_the_same_data_is_refused),
        TEST(what_is_not_our_store_is_refused),
        TEST(an_older_store_is_migrated),
        TEST(a_folder_without_permission_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
