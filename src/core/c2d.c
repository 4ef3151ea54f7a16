/*
 * What sessions ask: each request goes to the shard of its device and comes back to the loop that asked.
 *
 *   asking loop: check -> shard: head of the queue, depth, sequence -> store -> shard: window, receivers -> asking loop
 */
#include "core/c2d.h"

#include "base/alloc.h"
#include "core/c2d_queue.h"
#include "core/device_table.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define LOCK_MAX_US (300 * NV_US_PER_S)

nv_c2d *nv_c2d_of(nv_hub *hub, nv_span device_id)
{
    return nv_hub_shard_loop(hub, device_id)->c2d;
}

void nv_c2d_post_to_shard(nv_hub_loop *loop, nv_span device_id, nv_task *task, void (*run)(nv_task *task))
{
    task->run = run;
    nv_post(nv_hub_shard_loop(loop->hub, device_id)->exec, task);
}

bool nv_c2d_id_possible(nv_span device_id)
{
    return device_id.len > 0 && device_id.len <= NV_ID_MAX;
}

/* ---- sending ------------------------------------------------------------------------------------------------ */

typedef struct send_op {
    nv_state_op op;
    nv_c2d_waiter waiter;
    nv_c2d_send *send;
    nv_c2d_queue *queue;
    nv_c2d_message *message;
    uint64_t generation;
} send_op;

static void send_on_loop(nv_task *task)
{
    nv_c2d_send *send = nv_container_of(task, nv_c2d_send, _task);
    send->done(send);
}

static void post_send(nv_c2d_send *send, nv_hub_error error)
{
    send->error = error;
    send->_task.run = send_on_loop;
    nv_post(send->_loop->exec, &send->_task);
}

static nv_err run_put(nv_state_op *op, nv_txn *txn)
{
    send_op *self = nv_container_of(op, send_op, op);
    const nv_c2d_message *m = self->message;
    nv_c2d_row row = {.sequence = m->sequence,
                      .generation = self->generation,
                      .enqueued_us = m->enqueued_us,
                      .expires_us = m->expires_us,
                      .ack = (uint8_t)m->ack,
                      .body_kind = (uint8_t)m->body_kind,
                      .properties = m->properties,
                      .body = m->body};
    return nv_txn_c2d_put(txn, nv_c2d_queue_id(self->queue), &row);
}

static void put_done(nv_state_op *op)
{
    send_op *self = nv_container_of(op, send_op, op);
    nv_c2d_queue *queue = self->queue;
    nv_c2d_written(queue);
    if (op->status == NV_OK && !queue->gone) {
        nv_c2d_sweep_expect(queue->c2d->loop->hub, self->message->expires_us);
        self->send->sequence = self->message->sequence;
        nv_c2d_queue_stored(queue, self->message);
        post_send(self->send, NV_HUB_ERROR_NONE);
    } else {
        queue->depth--;
        nv_c2d_message_unref(self->message);
        post_send(self->send, queue->gone ? NV_HUB_ERROR_DeviceNotFound : nv_c2d_error_of(op->status));
    }
    free(self);
    nv_c2d_queue_settle(queue);
}

static nv_hub_error make_message(send_op *self, nv_c2d_queue *queue)
{
    nv_c2d_send *send = self->send;
    const nv_hub *hub = queue->c2d->loop->hub;
    int64_t now_us = nv_wall_us(hub->clock);
    nv_c2d_row row = {.sequence = queue->next_sequence,
                      .enqueued_us = now_us,
                      .expires_us = send->expires_us ? send->expires_us : now_us + hub->limits.c2d_ttl_s * NV_US_PER_S,
                      .ack = (uint8_t)send->ack,
                      .body_kind = (uint8_t)send->body_kind,
                      .properties = send->properties,
                      .body = send->body};
    self->message = nv_c2d_message_new(send->device_id, nv_span_str(send->message_id), &row);
    return self->message ? NV_HUB_ERROR_NONE : NV_HUB_ERROR_ArgumentInvalid;
}

static nv_hub_error put(send_op *self, nv_c2d_queue *queue)
{
    if ((int64_t)queue->depth >= queue->c2d->loop->hub->limits.c2d_depth) {
        return NV_HUB_ERROR_DeviceMaximumQueueDepthExceeded;
    }
    nv_hub_error error = make_message(self, queue);
    if (error != NV_HUB_ERROR_NONE) {
        return error;
    }
    self->queue = queue;
    self->generation = queue->generation;
    self->op.run = run_put;
    self->op.done = put_done;
    if (!nv_c2d_write(queue, &self->op)) {
        nv_c2d_message_unref(self->message);
        return nv_c2d_error_of(self->op.status);
    }
    queue->next_sequence++;
    queue->depth++;
    return NV_HUB_ERROR_NONE;
}

static void send_ready(nv_c2d_waiter *waiter, nv_c2d_queue *queue, nv_hub_error error)
{
    send_op *self = nv_container_of(waiter, send_op, waiter);
    error = error == NV_HUB_ERROR_NONE ? put(self, queue) : error;
    if (error != NV_HUB_ERROR_NONE) {
        post_send(self->send, error);
        free(self);
    }
}

static void send_on_shard(nv_task *task)
{
    nv_c2d_send *send = nv_container_of(task, nv_c2d_send, _task);
    nv_c2d *c2d = nv_c2d_of(send->_loop->hub, send->device_id);
    if (c2d->closed) {
        post_send(send, NV_HUB_ERROR_ServiceUnavailable);
        return;
    }
    send_op *self = nv_calloc(1, sizeof(*self));
    self->send = send;
    self->waiter.ready = send_ready;
    nv_c2d_queue *queue = nv_c2d_queue_of(c2d, send->device_id);
    nv_c2d_queue_need(queue, &self->waiter);
    nv_c2d_queue_settle(queue);
}

static nv_hub_error refuse(nv_c2d_send *send, nv_hub_error error, const char *detail)
{
    (void)snprintf(send->detail, sizeof(send->detail), "%s", detail);
    return error;
}

/*
 * Feedback names the message that it is about, so one without an id gets one: .NET's and Java's tutorials ask for
 * feedback and set none. @return false: the id is none that a record could tell
 */
static bool identify(nv_c2d_send *send)
{
    nv_value id;
    send->message_id[0] = '\0';
    if (send->ack == NV_ACK_NONE) {
        return true;
    }
    if (nv_property_find(send->properties, NV_PROP_MESSAGE_ID, &id)) {
        return id.type == NV_VALUE_STRING && id.bytes.len > 0;
    }
    nv_guid_make(send->_loop->hub->rng, send->message_id);
    return true;
}

static nv_hub_error check_send(nv_c2d_send *send)
{
    const nv_hub *hub = send->_loop->hub;
    const nv_limits *limits = &hub->limits;
    size_t size = 0;
    if (!nv_c2d_id_possible(send->device_id)) {
        return NV_HUB_ERROR_DeviceNotFound;
    }
    if (nv_record_size(send->properties, send->body, &size) != NV_OK) {
        return refuse(send, NV_HUB_ERROR_ArgumentInvalid, "The properties cannot be read");
    }
    if ((int64_t)size > limits->c2d_bytes) {
        (void)snprintf(send->detail, sizeof(send->detail), "The message has %zu bytes with its properties, of %lld",
                       size, (long long)limits->c2d_bytes);
        return NV_HUB_ERROR_MessageTooLarge;
    }
    if (!identify(send)) {
        return refuse(send, NV_HUB_ERROR_ArgumentInvalid, "Feedback needs a message id that is a text");
    }
    if (send->expires_us > nv_wall_us(hub->clock) + limits->c2d_ttl_max_s * NV_US_PER_S) {
        (void)snprintf(send->detail, sizeof(send->detail), "The message expires too far ahead: at most %lld s from now",
                       (long long)limits->c2d_ttl_max_s);
        return NV_HUB_ERROR_ArgumentInvalid;
    }
    return NV_HUB_ERROR_NONE;
}

void nv_c2d_send_do(nv_hub_loop *loop, nv_c2d_send *send)
{
    send->_loop = loop;
    send->detail[0] = '\0';
    send->sequence = 0;
    nv_hub_error error = check_send(send);
    if (error != NV_HUB_ERROR_NONE) {
        post_send(send, error);
        return;
    }
    nv_c2d_post_to_shard(loop, send->device_id, &send->_task, send_on_shard);
}

/* ---- taking ------------------------------------------------------------------------------------------------- */

typedef struct take_op {
    nv_c2d_waiter waiter;
    nv_c2d_take *take;
} take_op;

static void take_on_loop(nv_task *task)
{
    nv_c2d_take *take = nv_container_of(task, nv_c2d_take, _task);
    take->done(take);
}

void nv_c2d_post_take(nv_c2d_take *take)
{
    take->_task.run = take_on_loop;
    nv_post(take->_loop->exec, &take->_task);
}

static void take_ready(nv_c2d_waiter *waiter, nv_c2d_queue *queue, nv_hub_error error)
{
    take_op *self = nv_container_of(waiter, take_op, waiter);
    if (error == NV_HUB_ERROR_NONE) {
        nv_c2d_queue_take(queue, self->take);
    } else {
        self->take->error = error;
        nv_c2d_post_take(self->take);
    }
    free(self);
}

static void take_on_shard(nv_task *task)
{
    nv_c2d_take *take = nv_container_of(task, nv_c2d_take, _task);
    nv_c2d *c2d = nv_c2d_of(take->_loop->hub, take->device_id);
    if (c2d->closed) {
        take->error = NV_HUB_ERROR_ServiceUnavailable;
        nv_c2d_post_take(take);
        return;
    }
    take_op *self = nv_calloc(1, sizeof(*self));
    self->take = take;
    self->waiter.ready = take_ready;
    nv_c2d_queue *queue = nv_c2d_queue_of(c2d, take->device_id);
    nv_c2d_queue_need(queue, &self->waiter);
    nv_c2d_queue_settle(queue);
}

void nv_c2d_take_do(nv_hub_loop *loop, nv_c2d_take *take)
{
    take->_loop = loop;
    take->error = NV_HUB_ERROR_NONE;
    take->message = NULL;
    take->lock_us = take->lock_us > LOCK_MAX_US ? LOCK_MAX_US : take->lock_us;
    if (!nv_c2d_id_possible(take->device_id)) {
        take->error = NV_HUB_ERROR_DeviceNotFound;
        nv_c2d_post_take(take);
        return;
    }
    nv_c2d_post_to_shard(loop, take->device_id, &take->_task, take_on_shard);
}

/* ---- settling ----------------------------------------------------------------------------------------------- */

static void settle_on_loop(nv_task *task)
{
    nv_c2d_settle *settle = nv_container_of(task, nv_c2d_settle, _task);
    settle->done(settle);
}

void nv_c2d_post_settle(nv_c2d_settle *settle, nv_hub_error error)
{
    settle->error = error;
    settle->_task.run = settle_on_loop;
    nv_post(settle->_loop->exec, &settle->_task);
}

static bool lock_holds(const nv_c2d_entry *entry, nv_span device_id)
{
    const nv_hub *hub = entry->queue->c2d->loop->hub;
    return entry->state == NV_C2D_LOCKED && nv_span_eq(nv_c2d_queue_id(entry->queue), device_id) &&
           entry->locked_until_us > nv_mono_us(hub->clock) && entry->message->expires_us > nv_wall_us(hub->clock);
}

/* Also while the hub stops: what a device has done should not be asked of it again. */
static void settle_on_shard(nv_task *task)
{
    nv_c2d_settle *settle = nv_container_of(task, nv_c2d_settle, _task);
    nv_c2d *c2d = nv_c2d_of(settle->_loop->hub, settle->device_id);
    nv_c2d_entry *entry = nv_map_get(&c2d->locks, settle->lock_token);
    if (!entry || !lock_holds(entry, settle->device_id)) {
        nv_c2d_post_settle(settle, NV_HUB_ERROR_DeviceMessageLockLost); /* its timer is about to say so */
        return;
    }
    nv_c2d_queue *queue = entry->queue;
    switch (settle->outcome) {
    case NV_C2D_COMPLETE:
        nv_c2d_entry_end(entry, NV_FEEDBACK_SUCCESS, settle);
        break;
    case NV_C2D_REJECT:
        nv_c2d_entry_end(entry, NV_FEEDBACK_REJECTED, settle);
        break;
    case NV_C2D_ABANDON:
        nv_c2d_entry_return(entry, settle);
        break;
    }
    nv_c2d_queue_settle(queue);
}

void nv_c2d_settle_do(nv_hub_loop *loop, nv_c2d_settle *settle)
{
    settle->_loop = loop;
    nv_c2d_post_to_shard(loop, settle->device_id, &settle->_task, settle_on_shard);
}

/* ---- counting ----------------------------------------------------------------------------------------------- */

typedef struct depths_op {
    nv_state_op op;
    nv_c2d_depths *depths;
} depths_op;

static void depths_on_loop(nv_task *task)
{
    nv_c2d_depths *depths = nv_container_of(task, nv_c2d_depths, _task);
    depths->done(depths);
}

static nv_err run_depths(nv_state_op *op, nv_txn *txn)
{
    nv_c2d_depths *depths = nv_container_of(op, depths_op, op)->depths;
    nv_err err = NV_OK;
    for (size_t i = 0; err == NV_OK && i < depths->count; i++) {
        err = nv_txn_c2d_depth(txn, depths->device_ids[i], &depths->depths[i]);
    }
    return err;
}

static void finish_depths(nv_c2d_depths *depths, nv_err status)
{
    depths->status = status;
    for (size_t i = 0; status != NV_OK && i < depths->count; i++) {
        depths->depths[i] = 0;
    }
}

static void depths_done(nv_state_op *op)
{
    depths_op *self = nv_container_of(op, depths_op, op);
    nv_c2d_depths *depths = self->depths;
    finish_depths(depths, op->status);
    free(self);
    depths->done(depths);
}

void nv_c2d_depths_get(nv_hub_loop *loop, nv_c2d_depths *depths)
{
    depths->_loop = loop;
    depths_op *self = nv_calloc(1, sizeof(*self));
    *self = (depths_op){.op = {.exec = loop->exec, .run = run_depths, .done = depths_done}, .depths = depths};
    nv_err err = nv_state_read(loop->hub->state, &self->op);
    if (err != NV_OK) {
        free(self);
        finish_depths(depths, err);
        depths->_task.run = depths_on_loop;
        nv_post(loop->exec, &depths->_task);
    }
}

/* ---- for the hub -------------------------------------------------------------------------------------------- */

nv_c2d *nv_c2d_new(nv_hub_loop *loop)
{
    nv_c2d *c2d = nv_calloc(1, sizeof(*c2d));
    c2d->loop = loop;
    nv_list_init(&c2d->idle);
    nv_map_init(&c2d->queues, nv_rng_u64(loop->hub->rng));
    nv_map_init(&c2d->locks, nv_rng_u64(loop->hub->rng));
    if (loop->index == 0) {
        c2d->sweep = nv_c2d_sweep_new(loop);
        c2d->feedback = nv_feedback_new(loop);
    }
    return c2d;
}

void nv_c2d_start(nv_hub *hub)
{
    nv_c2d_sweep_start(hub->loops[0].c2d->sweep);
}

void nv_c2d_free(nv_c2d *c2d)
{
    if (!c2d) {
        return;
    }
    size_t pos = 0;
    for (nv_c2d_queue *queue = nv_map_next(&c2d->queues, &pos); queue; queue = nv_map_next(&c2d->queues, &pos)) {
        assert(queue->ops == 0 && nv_list_empty(&queue->receivers) && nv_list_empty(&queue->takes));
        while (!nv_list_empty(&queue->entries)) {
            nv_c2d_entry_free(nv_container_of(queue->entries.next, nv_c2d_entry, link));
        }
        nv_timers_clear(&c2d->loop->timers, &queue->retry);
        free(queue);
    }
    nv_map_deinit(&c2d->queues);
    nv_map_deinit(&c2d->locks);
    nv_c2d_sweep_free(c2d->sweep);
    nv_feedback_free(c2d->feedback);
    free(c2d);
}

static void answer_takes(nv_c2d *c2d)
{
    size_t pos = 0;
    for (nv_c2d_queue *queue = nv_map_next(&c2d->queues, &pos); queue; queue = nv_map_next(&c2d->queues, &pos)) {
        nv_c2d_queue_pump(queue); /* closed: it only answers */
    }
}

void nv_c2d_turn_end(nv_c2d *c2d)
{
    if (!c2d->closed && atomic_load_explicit(&c2d->loop->hub->_stopping, memory_order_relaxed)) {
        c2d->closed = true;
        answer_takes(c2d);
        if (c2d->feedback) {
            nv_feedback_turn_end(c2d->feedback);
        }
    }
}

bool nv_c2d_idle(const nv_c2d *c2d)
{
    return c2d->ops == 0 && (!c2d->sweep || (nv_c2d_sweep_idle(c2d->sweep) && nv_feedback_idle(c2d->feedback)));
}

void nv_c2d_device_gone(nv_hub_loop *shard, nv_span device_id)
{
    nv_c2d *c2d = shard->c2d;
    nv_c2d_queue *queue = nv_map_get(&c2d->queues, device_id);
    if (!queue) {
        (void)nv_device_take_receiver(shard, device_id); /* it gets nothing any more, until it is detached */
        return;
    }
    queue = nv_c2d_queue_of(c2d, device_id); /* no longer idle */
    nv_map_remove(&c2d->queues, device_id);
    queue->gone = true;
    for (nv_list *link = queue->entries.next; link != &queue->entries;) {
        nv_c2d_entry *entry = nv_container_of(link, nv_c2d_entry, link);
        link = link->next;
        if (entry->state != NV_C2D_RETURNING && entry->state != NV_C2D_ENDING) {
            nv_c2d_entry_free(entry); /* the others go when their write is told */
        }
    }
    nv_c2d_queue_settle(queue);
}
