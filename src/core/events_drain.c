/*
 * From the outbox into the log. Loop 0 owns the drainer; one batch is on its way at a time, so that rows stand in the
 * log in their order, and what is committed meanwhile goes together with the next.
 *
 *   nv_events_committed -> loop 0: READING (rows behind the last one drained; state reader)
 *                          -> APPENDING (own batch, with the last row's id in the commit) -> IDLE, or READING again
 *   the log or the store refuses: WAITING for a second
 *
 * Exactly once: a row is in the log if and only if the id in the log's last commit is not smaller, whenever the hub
 * dies; that is where the next life begins. Rows that are drained are deleted later, many at once.
 */
#include "core/events_drain.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "base/metrics.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define RETRY_US        NV_US_PER_S
#define DELETE_LATER_US (5 * NV_US_PER_S)
#define DELETE_AT_ONCE  1024u      /* so many drained rows do not wait for it */
#define READ_ROWS       1024u      /* at once */
#define READ_BYTES      (1u << 20) /* about as much at once */
#define PROPERTIES_MAX  UINT16_MAX /* of the log */

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static void drain(nv_events *ev);

static nv_err keep_row(void *arg, const nv_outbox_row *row)
{
    nv_events *ev = arg;
    ev->more = ev->row_count == READ_ROWS || ev->row_bytes >= READ_BYTES;
    if (ev->more) {
        return NV_E_AGAIN;
    }
    nv_outbox_row *kept = &ev->rows[ev->row_count++];
    *kept = *row;
    kept->device_id = nv_arena_copy(&ev->arena, row->device_id);
    kept->module_id = nv_arena_copy(&ev->arena, row->module_id);
    kept->properties = nv_arena_copy(&ev->arena, row->properties);
    kept->body = nv_arena_copy(&ev->arena, row->body);
    ev->row_bytes += row->properties.len + row->body.len;
    return NV_OK;
}

static nv_err run_read(nv_state_op *op, nv_txn *txn)
{
    nv_events *ev = nv_container_of(op, nv_events, read);
    ev->row_count = 0;
    ev->row_bytes = 0;
    ev->more = false;
    nv_arena_reset(&ev->arena);
    nv_err err = nv_txn_outbox_read(txn, ev->drained, keep_row, ev);
    return err == NV_E_AGAIN && ev->more ? NV_OK : err;
}

/* ---- the end, as far as it can be reached ------------------------------------------------------------------------ */

static void delete_drained(nv_events *ev);

static void look_whether_settled(nv_events *ev)
{
    if (!ev->settling || ev->closed || ev->deleting || (ev->state != NV_DRAIN_IDLE && ev->state != NV_DRAIN_WAITING)) {
        return;
    }
    if (ev->undeleted > 0 && ev->state == NV_DRAIN_IDLE) {
        delete_drained(ev);
        return;
    }
    ev->closed = true;
    nv_timers_clear(&ev->loop->timers, &ev->retry);
    nv_timers_clear(&ev->loop->timers, &ev->deletion);
    sem_post(ev->settling);
}

static void idle(nv_events *ev)
{
    ev->state = NV_DRAIN_IDLE;
    if (ev->again) {
        drain(ev);
    } else {
        look_whether_settled(ev);
    }
}

static void wait_a_while(nv_events *ev)
{
    ev->state = NV_DRAIN_WAITING;
    nv_timers_set(&ev->loop->timers, &ev->retry, nv_mono_us(ev->hub->clock) + RETRY_US);
    look_whether_settled(ev);
}

/* Rows must not pile up in the state store while the log is full: see nv_events_put(). */
static void wait_for_log(nv_events *ev)
{
    if (!atomic_exchange_explicit(&ev->refused, true, memory_order_relaxed)) {
        nv_diag(NV_LEVEL_WARN, "events", NULL,
                "the log takes no events: changes that must tell one are refused until it does; see /healthz");
    }
    wait_a_while(ev);
}

static void try_again(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    nv_events *ev = nv_container_of(timer, nv_events, retry);
    ev->state = NV_DRAIN_IDLE;
    drain(ev);
}

/* ---- deleting what is drained ------------------------------------------------------------------------------------ */

static nv_err run_delete(nv_state_op *op, nv_txn *txn)
{
    return nv_txn_outbox_delete(txn, nv_container_of(op, nv_events, delete)->delete_row);
}

static void deleted(nv_state_op *op)
{
    nv_events *ev = nv_container_of(op, nv_events, delete);
    ev->deleting = false; /* failed: the next one takes these rows along, in this life or another */
    look_whether_settled(ev);
}

static void delete_drained(nv_events *ev)
{
    ev->undeleted = 0;
    ev->delete_row = ev->drained;
    ev->deleting = nv_state_write(ev->hub->state, &ev->delete) == NV_OK;
    nv_timers_clear(&ev->loop->timers, &ev->deletion);
    if (!ev->deleting) {
        look_whether_settled(ev);
    }
}

static void time_to_delete(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    nv_events *ev = nv_container_of(timer, nv_events, deletion);
    if (!ev->closed && !ev->deleting) {
        delete_drained(ev);
    }
}

static void plan_deletion(nv_events *ev, size_t more)
{
    ev->undeleted += more;
    if (ev->undeleted >= DELETE_AT_ONCE && !ev->deleting) {
        delete_drained(ev);
    } else if (ev->deletion.due_us == INT64_MAX) {
        nv_timers_set(&ev->loop->timers, &ev->deletion, nv_mono_us(ev->hub->clock) + DELETE_LATER_US);
    }
}

/* ---- appending --------------------------------------------------------------------------------------------------- */

static bool same_sender(const nv_outbox_row *a, const nv_outbox_row *b)
{
    return nv_span_eq(a->device_id, b->device_id) && nv_span_eq(a->module_id, b->module_id) &&
           a->generation == b->generation;
}

static nv_err make_stamp(nv_events *ev, const nv_outbox_row *row)
{
    char generation[24];
    int len = row->generation ? snprintf(generation, sizeof(generation), "%" PRIu64, row->generation) : 0;
    nv_stamp stamp = {.device_id = row->device_id,
                      .module_id = row->module_id,
                      .generation_id = nv_span_of(generation, (size_t)len),
                      .scope = NV_AUTH_SCOPE_HUB};
    nv_buf_clear(&ev->stamp);
    return nv_stamp_encode(&ev->stamp, &stamp);
}

/* As many rows as the batch takes. @return how many, those that no log could ever take included */
static size_t fill_batch(nv_events *ev)
{
    nv_log *log = ev->hub->log;
    nv_log_stamp stamp = {0};
    size_t i = 0;
    for (; i < ev->row_count; i++) {
        const nv_outbox_row *row = &ev->rows[i];
        nv_err err = NV_OK;
        if (i == 0 || !same_sender(row, row - 1)) {
            err = make_stamp(ev, row);
            stamp = (nv_log_stamp){nv_hub_next_stamp_id(ev->hub), nv_buf_span(&ev->stamp)};
        }
        if (err == NV_OK) {
            err = nv_log_batch_add(ev->batch, nv_log_partition_of(log, row->device_id), &stamp, (nv_source)row->source,
                                   NV_BODY_DATA, row->properties, row->body);
        }
        if (err == NV_E_AGAIN) {
            break;
        }
        if (err != NV_OK) {
            nv_subject subject = {.device = row->device_id, .module = row->module_id};
            nv_diag(NV_LEVEL_ERROR, "events", &subject, "an event of %zu bytes is dropped: %s", row->body.len,
                    nv_err_text(err));
        }
        ev->filled = row->row;
    }
    ev->more = ev->more || i < ev->row_count;
    return i;
}

static void append(nv_events *ev)
{
    size_t count = fill_batch(ev);
    ev->state = NV_DRAIN_APPENDING;
    if (nv_log_batch_count(ev->batch) == 0) { /* none that could be kept */
        ev->drained = ev->filled;
        ev->again = ev->again || ev->more;
        plan_deletion(ev, count);
        idle(ev);
        return;
    }
    nv_log_batch_set_outbox_row(ev->batch, ev->filled);
    if (nv_log_submit(ev->batch) != NV_OK) {
        nv_log_batch_clear(ev->batch);
        wait_for_log(ev);
    }
}

static void appended(nv_log_batch *batch, nv_err status, void *arg)
{
    nv_events *ev = arg;
    size_t count = nv_log_batch_count(batch);
    nv_log_batch_clear(batch);
    if (status != NV_OK) {
        wait_for_log(ev); /* none of them is in the log, nor ever will be */
        return;
    }
    atomic_store_explicit(&ev->refused, false, memory_order_relaxed);
    nv_metric_add(NV_M_EVENTS_MESSAGES, (int64_t)count);
    ev->drained = ev->filled;
    ev->again = ev->again || ev->more;
    plan_deletion(ev, count);
    idle(ev);
}

static void rows_read(nv_state_op *op)
{
    nv_events *ev = nv_container_of(op, nv_events, read);
    if (op->status != NV_OK) {
        wait_a_while(ev);
    } else if (ev->row_count == 0) {
        idle(ev);
    } else {
        append(ev);
    }
}

static void drain(nv_events *ev)
{
    if (ev->closed) {
        return;
    }
    if (ev->state != NV_DRAIN_IDLE) {
        ev->again = true; /* looked at when this round ends */
        return;
    }
    ev->again = false;
    ev->state = NV_DRAIN_READING;
    if (nv_state_read(ev->hub->state, &ev->read) != NV_OK) {
        wait_a_while(ev);
    }
}

static void drain_on_loop(nv_task *task)
{
    nv_events *ev = nv_container_of(task, nv_events, task);
    atomic_store_explicit(&ev->posted, false, memory_order_release);
    drain(ev);
}

void nv_events_turn_end(nv_events *events)
{
    if (!events->started) { /* what a former life left */
        events->started = true;
        plan_deletion(events, 1);
        drain(events);
    }
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

/* The hub's name is the first label of its host name; an address has no labels. */
static void name_hub(nv_events *ev)
{
    nv_span host = ev->hub->host_names[0];
    bool address = nv_span_find(host, ':') < host.len;
    nv_span label = nv_span_first(host, nv_span_find(host, '.'));
    uint64_t number = 0;
    address = address || nv_span_to_u64(label, &number);
    (void)snprintf(ev->hub_name, sizeof(ev->hub_name), "%.*s", NV_SPAN_ARG(address ? host : label));
}

nv_events *nv_events_new(nv_hub *hub, const nv_events_config *config)
{
    nv_events *ev = nv_calloc(1, sizeof(*ev));
    ev->hub = hub;
    ev->config = *config;
    ev->loop = &hub->loops[0];
    name_hub(ev);
    ev->rows = nv_calloc(READ_ROWS, sizeof(*ev->rows));
    ev->read = (nv_state_op){.exec = ev->loop->exec, .run = run_read, .done = rows_read};
    ev->delete = (nv_state_op){.exec = ev->loop->exec, .run = run_delete, .done = deleted};
    ev->batch = nv_log_batch_new(hub->log, ev->loop->exec, appended, ev);
    ev->task.run = drain_on_loop;
    nv_buf_init(&ev->stamp, PROPERTIES_MAX);
    nv_timer_init(&ev->retry, try_again);
    nv_timer_init(&ev->deletion, time_to_delete);
    nv_log_status status;
    nv_log_get_status(hub->log, &status);
    ev->drained = status.outbox_row;
    return ev;
}

void nv_events_free(nv_events *events)
{
    if (!events) {
        return;
    }
    assert(!events->deleting && (events->state == NV_DRAIN_IDLE || events->state == NV_DRAIN_WAITING));
    nv_log_batch_free(events->batch);
    nv_buf_deinit(&events->stamp);
    nv_arena_deinit(&events->arena);
    free(events->rows);
    free(events);
}

static void settle_on_loop(nv_task *task)
{
    nv_events *ev = nv_container_of(task, nv_events, settle_task);
    ev->settling = ev->settled_to;
    if (ev->state == NV_DRAIN_WAITING) {
        nv_timers_clear(&ev->loop->timers, &ev->retry);
        ev->state = NV_DRAIN_IDLE;
    }
    drain(ev); /* ends in idle() or wait_a_while(), which look whether all is settled */
}

void nv_events_settle(nv_events *events, sem_t *settled)
{
    events->settled_to = settled;
    events->settle_task.run = settle_on_loop;
    nv_post(events->loop->exec, &events->settle_task);
}
