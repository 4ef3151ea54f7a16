/*
 * The two writes that end a hand-out: back to the queue (the delivery count), or gone (with its feedback). What could
 * not be stored rests for a moment and is tried again.
 */
#include "core/c2d_queue.h"

#include "base/alloc.h"

#include <stdlib.h>

static nv_hub *hub_of(const nv_c2d_queue *queue)
{
    return queue->c2d->loop->hub;
}

/* ---- back to the queue -------------------------------------------------------------------------------------- */

typedef struct return_op {
    nv_state_op op;
    nv_c2d_queue *queue;
    nv_c2d_entry *entry;
    nv_c2d_settle *settle;
    uint64_t generation;
    uint64_t sequence;
    uint32_t deliveries;
} return_op;

static nv_err run_return(nv_state_op *op, nv_txn *txn)
{
    return_op *self = nv_container_of(op, return_op, op);
    return nv_txn_c2d_deliveries_put(txn, nv_c2d_queue_id(self->queue), self->generation, self->sequence,
                                     self->deliveries);
}

/* What could not be stored is tried again in a moment, as what its state was. */
static void rest(nv_c2d_entry *entry)
{
    nv_c2d *c2d = entry->queue->c2d;
    entry->state = NV_C2D_RESTING;
    entry->locked_until_us = nv_mono_us(c2d->loop->hub->clock) + NV_C2D_RETRY_US;
    nv_timers_set(&c2d->loop->timers, &entry->timer, entry->locked_until_us);
    nv_c2d_queue_answer_takes(entry->queue, NV_HUB_ERROR_ServiceUnavailable);
}

static void returned(return_op *self)
{
    nv_c2d_queue *queue = self->queue;
    nv_c2d_entry *entry = self->entry;
    bool good = self->op.status == NV_OK;
    if (queue->gone) {
        nv_c2d_entry_free(entry);
    } else if (good) {
        entry->deliveries = self->deliveries;
        nv_c2d_entry_set_queued(entry);
    } else {
        rest(entry);
    }
    if (self->settle) {
        nv_c2d_post_settle(self->settle, nv_c2d_error_of(self->op.status));
    }
    free(self);
}

static void return_done(nv_state_op *op)
{
    return_op *self = nv_container_of(op, return_op, op);
    nv_c2d_queue *queue = self->queue;
    nv_c2d_written(queue);
    returned(self);
    nv_c2d_queue_settle(queue);
}

static void write_return(nv_c2d_entry *entry, nv_c2d_settle *settle)
{
    nv_c2d_queue *queue = entry->queue;
    return_op *self = nv_calloc(1, sizeof(*self));
    *self = (return_op){.op = {.run = run_return, .done = return_done},
                        .queue = queue,
                        .entry = entry,
                        .settle = settle,
                        .generation = queue->generation,
                        .sequence = entry->message->sequence,
                        .deliveries = entry->deliveries + 1};
    if (!nv_c2d_write(queue, &self->op)) {
        returned(self);
    }
}

void nv_c2d_entry_return(nv_c2d_entry *entry, nv_c2d_settle *settle)
{
    const nv_limits *limits = &hub_of(entry->queue)->limits;
    if ((int64_t)entry->deliveries + 1 >= limits->c2d_max_deliveries) {
        nv_c2d_entry_end(entry, NV_FEEDBACK_DELIVERY_COUNT_EXCEEDED, settle);
        return;
    }
    nv_c2d_entry_unlock(entry, NV_C2D_RETURNING);
    write_return(entry, settle);
}

/* ---- gone --------------------------------------------------------------------------------------------------- */

typedef struct end_op {
    nv_state_op op;
    nv_c2d_queue *queue;
    nv_c2d_entry *entry;
    nv_c2d_settle *settle;
    uint64_t generation;
    uint64_t sequence;
    nv_feedback_status status;
    nv_c2d_state before;
    bool newest;
    bool wanted; /* feedback is */
    bool told;   /* feedback was put */
} end_op;

static nv_err run_end(nv_state_op *op, nv_txn *txn)
{
    end_op *self = nv_container_of(op, end_op, op);
    nv_span id = nv_c2d_queue_id(self->queue);
    self->told = false;
    if (!self->wanted) {
        return nv_txn_c2d_delete(txn, id, self->generation, self->sequence, self->newest);
    }
    nv_err err = nv_c2d_end_in_txn(txn, hub_of(self->queue), id, self->generation, self->sequence, self->status,
                                   self->newest, &self->told);
    return err == NV_E_NOT_FOUND ? NV_OK : err;
}

/* It did not end: what was locked is locked still, and its device may say so again. */
static void not_ended(end_op *self)
{
    nv_c2d_entry *entry = self->entry;
    nv_c2d *c2d = self->queue->c2d;
    if (self->before == NV_C2D_LOCKED) {
        entry->state = NV_C2D_LOCKED;
        nv_map_put(&c2d->locks, nv_span_of(entry->lock_token, NV_GUID_TEXT_SIZE - 1), entry);
        nv_timers_set(&c2d->loop->timers, &entry->timer, entry->locked_until_us);
    } else {
        rest(entry);
    }
}

static void ended(end_op *self)
{
    nv_c2d_queue *queue = self->queue;
    if (queue->gone) {
        nv_c2d_entry_free(self->entry);
    } else if (self->op.status == NV_OK) {
        nv_c2d_entry_free(self->entry);
        queue->depth--;
    } else {
        not_ended(self);
    }
    if (self->settle) {
        nv_c2d_post_settle(self->settle, nv_c2d_error_of(self->op.status));
    }
    if (self->op.status == NV_OK && self->told) {
        nv_feedback_added(hub_of(queue));
    }
    free(self);
}

static void end_done(nv_state_op *op)
{
    end_op *self = nv_container_of(op, end_op, op);
    nv_c2d_queue *queue = self->queue;
    nv_c2d_written(queue);
    ended(self);
    nv_c2d_queue_settle(queue);
}

void nv_c2d_entry_end(nv_c2d_entry *entry, nv_feedback_status status, nv_c2d_settle *settle)
{
    nv_c2d_queue *queue = entry->queue;
    nv_c2d *c2d = queue->c2d;
    nv_c2d_state before = entry->state;
    if (before == NV_C2D_QUEUED) {
        nv_c2d_entry_unset_queued(entry);
    } else if (settle) {
        /* The receiver's place stays taken until the commit, and the lock would come back with a failure. */
        nv_timers_clear(&c2d->loop->timers, &entry->timer);
        nv_map_remove(&c2d->locks, nv_span_of(entry->lock_token, NV_GUID_TEXT_SIZE - 1));
    } else {
        nv_c2d_entry_unlock(entry, NV_C2D_ENDING);
        before = NV_C2D_QUEUED; /* time or the number of deliveries ended the lock: it is not given back */
    }
    entry->state = NV_C2D_ENDING;
    end_op *self = nv_calloc(1, sizeof(*self));
    *self = (end_op){.op = {.run = run_end, .done = end_done},
                     .queue = queue,
                     .entry = entry,
                     .settle = settle,
                     .generation = queue->generation,
                     .sequence = entry->message->sequence,
                     .status = status,
                     .before = before,
                     .newest = entry->message->sequence >= queue->newest,
                     .wanted = nv_c2d_ack_wants(entry->message->ack, status)};
    if (!nv_c2d_write(queue, &self->op)) {
        ended(self);
    }
}
