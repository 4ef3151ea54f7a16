/*
 * The hub under test. Its calls of the state store are caught here (the linker's --wrap), so that the test decides when
 * they happen: writes wait in a row and are committed in runs of random length, reads happen at random moments between
 * them, and a run can be made to fail by failing the disk's syncs. Completions come back through the loops' queues, of
 * which the test runs a few tasks at a time. So everything happens in one order, which the seed decides.
 */
#include "core/model.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "core/c2d.h"

#include <stdlib.h>
#include <string.h>

static model *world; /* there is one */

struct model_held {
    nv_state_op op;
    nv_state_op *from; /* the hub's own */
    nv_task task;
    bool done;
    model_held *next;
};

/* ---- loops ---- */

static void exec_post(nv_exec *exec, nv_task *task)
{
    model_exec *self = nv_container_of(exec, model_exec, exec);
    pthread_mutex_lock(&self->lock);
    task->_next = NULL;
    *(self->tail ? &self->tail->_next : &self->head) = task;
    self->tail = task;
    pthread_mutex_unlock(&self->lock);
}

static bool exec_is_current(const nv_exec *exec)
{
    (void)exec;
    return true;
}

static bool exec_run_one(model_exec *self)
{
    pthread_mutex_lock(&self->lock);
    nv_task *task = self->head;
    if (task) {
        self->head = task->_next;
        self->tail = self->head ? self->tail : NULL;
    }
    pthread_mutex_unlock(&self->lock);
    if (task) {
        task->run(task);
    }
    return task != NULL;
}

nv_hub_loop *model_loop(model *w)
{
    return &w->hub->loops[model_below(w, MODEL_LOOPS)];
}

/* ---- the store's operations ---- */

nv_err __real_nv_state_write(nv_state *state, nv_state_op *op);
nv_err __real_nv_state_read(nv_state *state, nv_state_op *op);
nv_err __wrap_nv_state_write(nv_state *state, nv_state_op *op);
nv_err __wrap_nv_state_read(nv_state *state, nv_state_op *op);

static nv_err held_run(nv_state_op *op, nv_txn *txn)
{
    nv_state_op *from = nv_container_of(op, model_held, op)->from;
    return from->run(from, txn);
}

static void held_done(nv_state_op *op)
{
    nv_container_of(op, model_held, op)->done = true;
}

static void held_told(nv_task *task)
{
    model_held *held = nv_container_of(task, model_held, task);
    nv_state_op *from = held->from;
    free(held);
    from->done(from);
}

static nv_err hold(model_held **list, nv_state_op *op)
{
    model_held *held = nv_calloc(1, sizeof(*held));
    held->from = op;
    held->op = (nv_state_op){.exec = &world->store.exec, .run = held_run, .done = held_done};
    held->task.run = held_told;
    while (*list) {
        list = &(*list)->next;
    }
    *list = held;
    return NV_OK;
}

nv_err __wrap_nv_state_write(nv_state *state, nv_state_op *op)
{
    return world->holding ? hold(&world->writes, op) : __real_nv_state_write(state, op);
}

nv_err __wrap_nv_state_read(nv_state *state, nv_state_op *op)
{
    return world->holding ? hold(&world->reads, op) : __real_nv_state_read(state, op);
}

static void let_go(model *w, model_held **list, uint32_t count, nv_err (*submit)(nv_state *state, nv_state_op *op))
{
    model_held *first = *list;
    model_held *last = first;
    if (!first || count == 0) {
        return;
    }
    for (model_held *held = first; held && count > 0; held = held->next, count--) {
        if (submit(w->state, &held->op) != NV_OK) {
            model_fail(w, "the store takes nothing");
        }
        last = held;
    }
    while (!last->done) {
        (void)nv_exec_queue_run_wait(&w->store);
    }
    model_held *rest = last->next;
    *list = rest;
    while (first != rest) {
        model_held *next = first->next;
        first->from->status = first->op.status;
        nv_post(first->from->exec, &first->task);
        first = next;
    }
}

static void commit(model *w)
{
    uint32_t count = 1 + model_below(w, 6);
    bool fail = !w->restarting && model_one_in(w, 60);
    if (fail) {
        model_note(w, "the next %u writes fail", count);
        w->injected = true;
        model_c2d_failed(w);
        w->done[DID_FAILED]++;
        nv_fault_disk_fail_syncs(w->disk, 1, UINT64_MAX / 2, NV_E_IO);
    }
    let_go(w, &w->writes, count, __real_nv_state_write);
    if (fail) {
        nv_fault_disk_fail_syncs(w->disk, 1, 0, NV_OK);
    }
}

bool model_store_failed(model *w, nv_hub_error error)
{
    bool failed = error == NV_HUB_ERROR_ServiceUnavailable || error == NV_HUB_ERROR_ServerError;
    if (failed && !w->injected && !w->restarting && !model_c2d_resting(w)) {
        model_fail(w, "an answer says that the store failed (%s), and it did not", nv_hub_error_info_of(error)->name);
    }
    return failed;
}

/* ---- turns ---- */

static void run_loop(model *w, uint32_t index)
{
    uint32_t count = 1 + model_below(w, 5);
    while (count > 0 && exec_run_one(&w->loops[index])) {
        count--;
    }
    if (model_one_in(w, 2)) {
        nv_hub_loop_turn_end(&w->hub->loops[index]);
    }
}

static bool is_idle(const model *w)
{
    bool idle = !w->writes && !w->reads;
    for (uint32_t i = 0; i < MODEL_LOOPS; i++) {
        idle = idle && !w->loops[i].head;
    }
    return idle;
}

/* The loops go to sleep, or their timers are due. */
static bool end_turns(model *w)
{
    for (uint32_t i = 0; i < MODEL_LOOPS; i++) {
        nv_hub_loop *loop = &w->hub->loops[i];
        nv_hub_loop_turn_end(loop);
        if (nv_hub_loop_due(loop) <= model_now(w)) {
            nv_hub_loop_tick(loop, model_now(w));
            return true;
        }
    }
    return !is_idle(w);
}

bool model_turn(model *w)
{
    if (is_idle(w)) {
        return end_turns(w);
    }
    for (;;) {
        uint32_t which = model_below(w, MODEL_LOOPS + 2);
        if (which < MODEL_LOOPS && w->loops[which].head) {
            run_loop(w, which);
            return true;
        }
        if (which == MODEL_LOOPS && w->writes) {
            commit(w);
            return true;
        }
        if (which == MODEL_LOOPS + 1 && w->reads) {
            let_go(w, &w->reads, 1 + model_below(w, 3), __real_nv_state_read);
            return true;
        }
    }
}

void model_quiet(model *w)
{
    for (uint32_t turns = 0; model_turn(w); turns++) {
        if (turns > 200000) {
            model_fail(w, "the hub does not come to rest");
        }
    }
}

void model_advance(model *w, int64_t us)
{
    model_note(w, "%lld.%03lld s pass", (long long)(us / NV_US_PER_S), (long long)(us / 1000 % 1000));
    nv_manual_clock_advance(&w->clock, us);
}

/* ---- its life ---- */

static void must(model *w, nv_err err, const char *what, nv_buf *why)
{
    if (err != NV_OK) {
        model_fail(w, "%s: %s: %.*s", what, nv_err_text(err), NV_SPAN_ARG(nv_buf_span(why)));
    }
}

static void open_hub(model *w)
{
    static const char *const host_names[] = {"hub.example.net"};
    nv_limits limits = nv_limits_open;
    limits.twin_tags_bytes = limits.twin_desired_bytes = limits.twin_reported_bytes = MODEL_SECTION;
    limits.c2d_depth = MODEL_DEPTH;
    limits.c2d_max_deliveries = MODEL_DELIVERIES;
    nv_buf why;
    nv_buf_init(&why, 512);
    nv_state_config state = {
        .dir = "/data", .vfs = "nave-model", .clock = &w->clock.clock, .rng = &w->rng.rng, .checkpoint_pages = 200};
    must(w, nv_state_open(&w->state, &state, &why), "nv_state_open", &why);
    nv_log_config log = {.dir = "/log",
                         .partitions = 1,
                         .segment_bytes = 1u << 20,
                         .disk = nv_fault_disk_disk(w->log_disk),
                         .clock = &w->clock.clock,
                         .rng = nv_rng_system()};
    must(w, nv_log_open(&w->log, &log, &why), "nv_log_open", &why);
    nv_hub_config hub = {.host_names = host_names,
                         .host_name_count = 1,
                         .limits = &limits,
                         .log = w->log,
                         .state = w->state,
                         .clock = &w->clock.clock,
                         .rng = &w->rng.rng,
                         .loops = w->execs,
                         .loop_count = MODEL_LOOPS};
    must(w, nv_hub_new(&w->hub, &hub, &why), "nv_hub_new", &why);
    nv_buf_deinit(&why);
    w->holding = true;
    nv_c2d_start(w->hub);
}

static void close_hub(model *w, bool cut)
{
    w->restarting = true;
    nv_hub_stop(w->hub);
    model_conn_leave_all(w);
    model_quiet(w);
    for (uint32_t i = 0; i < MODEL_LOOPS; i++) {
        nv_device_table_close(w->hub->loops[i].devices);
    }
    model_quiet(w);
    w->holding = false;
    if (cut) {
        nv_fault_disk_cut(w->disk);
    }
    nv_state_close(w->state);
    nv_hub_free(w->hub);
    nv_log_close(w->log);
    if (cut) {
        nv_fault_disk_power_on(w->disk);
    }
    w->restarting = false;
}

void model_restart(model *w, bool cut)
{
    model_note(w, cut ? "the power goes" : "restart");
    w->done[DID_RESTARTS]++;
    close_hub(w, cut);
    model_call_close(w);
    model_advance(w, (int64_t)model_below(w, 20) * NV_US_PER_S);
    open_hub(w);
    model_c2d_restarted(w);
}

static void say_nothing(void *arg, nv_level level, const char *line, size_t len)
{
    const model *w = arg;
    if (w->verbose) {
        (void)fprintf(stderr, "    hub: %d %.*s\n", (int)level, (int)len, line);
    }
}

void model_open(model *w)
{
    world = w;
    nv_diag_set_sink(say_nothing, w);
    w->disk = nv_fault_disk_new(w->seed);
    w->log_disk = nv_fault_disk_new(w->seed);
    w->vfs = nv_fault_vfs_new(nv_fault_disk_disk(w->disk), "nave-model");
    nv_buf why = {0};
    must(w, nv_disk_make_dir(nv_fault_disk_disk(w->disk), "/data"), "make_dir", &why);
    must(w, nv_disk_sync_dir(nv_fault_disk_disk(w->disk), "/"), "sync_dir", &why);
    nv_manual_clock_init(&w->clock, INT64_C(1700000000) * NV_US_PER_S);
    nv_seeded_rng_init(&w->rng, w->seed ^ 0x6e617665);
    nv_exec_queue_init(&w->store);
    for (uint32_t i = 0; i < MODEL_LOOPS; i++) {
        w->loops[i] = (model_exec){.exec = {exec_post, exec_is_current}};
        pthread_mutex_init(&w->loops[i].lock, NULL);
        w->execs[i] = &w->loops[i].exec;
    }
    open_hub(w);
}

void model_close(model *w)
{
    close_hub(w, false);
    model_call_close(w);
    for (uint32_t i = 0; i < MODEL_LOOPS; i++) {
        pthread_mutex_destroy(&w->loops[i].lock);
    }
    nv_exec_queue_deinit(&w->store);
    nv_fault_vfs_free(w->vfs);
    nv_fault_disk_free(w->disk);
    nv_fault_disk_free(w->log_disk);
    nv_diag_set_sink(NULL, NULL);
}
