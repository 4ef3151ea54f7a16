/*
 * Ends that no device asked for. One sweeper for the whole hub, on the first loop, sleeps until the first message or
 * feedback in the store expires; what it finds is ended on the shard of its device, so that hand-outs and expiry of one
 * queue never race. Nothing polls: who stores something that expires earlier than all says so.
 *
 *   timer -> store: what is due, when is the next -> shards: end it (a queue in memory knows better) -> timer
 */
#include "core/c2d_queue.h"

#include "base/alloc.h"

#include <stdlib.h>

#define SWEEP_MAX 256u

typedef struct due_item {
    nv_task task;
    nv_c2d_waiter waiter;
    nv_c2d_sweep *sweep;
    uint64_t generation;
    uint64_t sequence;
    bool again; /* still there: look in a moment */
    size_t id_len;
    char id[NV_ID_MAX];
} due_item;

struct nv_c2d_sweep {
    nv_hub_loop *loop;
    nv_timer timer;
    _Atomic int64_t expected_us; /* wall: nothing in the store expires earlier, as far as is known */
    bool busy;
    bool again;         /* something is due still: look in a moment */
    bool more;          /* look at once */
    int64_t earlier_us; /* told of while it was busy */
    uint32_t pending;   /* items on the shards */
    /* of the read in flight */
    nv_state_op read;
    int64_t now_us;
    int64_t next_us;
    int64_t next_feedback_us;
    uint32_t count;
    due_item *items[SWEEP_MAX];
    nv_state_op expire;
};

/* ---- one message ends within a transaction -------------------------------------------------------------------- */

nv_err nv_c2d_end_in_txn(nv_txn *txn, nv_hub *hub, nv_span device_id, uint64_t generation, uint64_t sequence,
                         nv_feedback_status status, bool newest, bool *told)
{
    nv_c2d_row row;
    nv_value id;
    nv_err err = nv_txn_c2d_get(txn, device_id, sequence, &row);
    if (err == NV_OK && row.generation != generation) {
        err = NV_E_NOT_FOUND;
    }
    if (err != NV_OK) {
        return err;
    }
    if (nv_c2d_ack_wants((nv_c2d_ack)row.ack, status) && nv_property_find(row.properties, NV_PROP_MESSAGE_ID, &id) &&
        id.type == NV_VALUE_STRING) {
        int64_t now_us = nv_wall_us(hub->clock);
        nv_feedback_row feedback = {.enqueued_us = now_us,
                                    .expires_us = now_us + hub->limits.feedback_ttl_s * NV_US_PER_S,
                                    .status = (uint8_t)status,
                                    .device_id = device_id,
                                    .generation = generation,
                                    .message_id = id.bytes};
        err = nv_txn_feedback_put(txn, &feedback);
        *told = true;
    }
    return err == NV_OK ? nv_txn_c2d_delete(txn, device_id, generation, sequence, newest) : err;
}

/* ---- on the shard --------------------------------------------------------------------------------------------- */

typedef struct expire_op {
    nv_state_op op;
    nv_c2d_queue *queue;
    due_item *item;
    bool newest;
    bool told;
} expire_op;

static void item_on_sweep(nv_task *task);

static void item_done(due_item *item, bool again)
{
    item->again = again;
    item->task.run = item_on_sweep;
    nv_post(item->sweep->loop->exec, &item->task);
}

static nv_err run_expire(nv_state_op *op, nv_txn *txn)
{
    expire_op *self = nv_container_of(op, expire_op, op);
    const due_item *item = self->item;
    self->told = false;
    return nv_c2d_end_in_txn(txn, self->queue->c2d->loop->hub, nv_c2d_queue_id(self->queue), item->generation,
                             item->sequence, NV_FEEDBACK_EXPIRED, self->newest, &self->told);
}

static void expire_done(nv_state_op *op)
{
    expire_op *self = nv_container_of(op, expire_op, op);
    nv_c2d_queue *queue = self->queue;
    nv_c2d_written(queue);
    nv_c2d_queue_release(queue);
    if (op->status == NV_OK && !queue->gone) {
        queue->depth--;
    }
    if (op->status == NV_OK && self->told) {
        nv_feedback_added(queue->c2d->loop->hub);
    }
    item_done(self->item, op->status != NV_OK && op->status != NV_E_NOT_FOUND);
    free(self);
    nv_c2d_queue_settle(queue);
}

/* In the store only. */
static void expire_stored(nv_c2d_queue *queue, due_item *item)
{
    expire_op *self = nv_calloc(1, sizeof(*self));
    *self = (expire_op){.op = {.run = run_expire, .done = expire_done},
                        .queue = queue,
                        .item = item,
                        .newest = item->sequence >= queue->newest};
    nv_c2d_queue_hold(queue);
    if (!nv_c2d_write(queue, &self->op)) {
        nv_c2d_queue_release(queue);
        free(self);
        item_done(item, true);
    }
}

static void expire_entry(nv_c2d_queue *queue, nv_c2d_entry *entry)
{
    switch (entry->state) {
    case NV_C2D_QUEUED:
        if (queue->holds == 0) { /* else a purge may have it */
            nv_c2d_entry_end(entry, NV_FEEDBACK_EXPIRED, NULL);
        }
        break;
    case NV_C2D_LOCKED:
        nv_c2d_entry_end(entry, NV_FEEDBACK_EXPIRED, NULL);
        break;
    case NV_C2D_RETURNING:
    case NV_C2D_ENDING:
    case NV_C2D_RESTING:
        break; /* something is happening to it already */
    }
}

static void item_ready(nv_c2d_waiter *waiter, nv_c2d_queue *queue, nv_hub_error error)
{
    due_item *item = nv_container_of(waiter, due_item, waiter);
    if (error != NV_HUB_ERROR_NONE || queue->generation != item->generation) {
        item_done(item, error != NV_HUB_ERROR_DeviceNotFound && error != NV_HUB_ERROR_NONE);
        return;
    }
    nv_c2d_entry *entry = nv_c2d_queue_find(queue, item->sequence);
    if (entry) {
        expire_entry(queue, entry);
        item_done(item, true);
    } else if (item->sequence <= queue->loaded_to) {
        item_done(item, false); /* it ended since */
    } else {
        expire_stored(queue, item);
    }
}

static void item_on_shard(nv_task *task)
{
    due_item *item = nv_container_of(task, due_item, task);
    nv_span id = nv_span_of(item->id, item->id_len);
    nv_c2d *c2d = nv_hub_shard_loop(item->sweep->loop->hub, id)->c2d;
    if (c2d->closed) {
        item_done(item, true);
        return;
    }
    nv_c2d_queue *queue = nv_c2d_queue_of(c2d, id);
    item->waiter.ready = item_ready;
    nv_c2d_queue_need(queue, &item->waiter);
    nv_c2d_queue_settle(queue);
}

/* ---- the sweeper ---------------------------------------------------------------------------------------------- */

static bool is_closed(const nv_c2d_sweep *sweep)
{
    return sweep->loop->c2d->closed;
}

static void arm(nv_c2d_sweep *sweep, int64_t wall_us)
{
    nv_hub *hub = sweep->loop->hub;
    int64_t ahead_us = wall_us == INT64_MAX ? INT64_MAX : wall_us - nv_wall_us(hub->clock);
    atomic_store(&sweep->expected_us, wall_us);
    if (ahead_us == INT64_MAX) {
        nv_timers_clear(&sweep->loop->timers, &sweep->timer);
    } else {
        nv_timers_set(&sweep->loop->timers, &sweep->timer, nv_mono_us(hub->clock) + (ahead_us > 0 ? ahead_us : 0));
    }
}

static void look(nv_c2d_sweep *sweep);

static void finish(nv_c2d_sweep *sweep)
{
    sweep->busy = false;
    int64_t next_us = sweep->next_us < sweep->next_feedback_us ? sweep->next_us : sweep->next_feedback_us;
    next_us = sweep->earlier_us < next_us ? sweep->earlier_us : next_us;
    sweep->earlier_us = INT64_MAX;
    if (is_closed(sweep)) {
        return;
    }
    if (sweep->again) {
        arm(sweep, nv_wall_us(sweep->loop->hub->clock) + NV_C2D_RETRY_US);
    } else if (sweep->more) {
        look(sweep);
    } else {
        arm(sweep, next_us);
    }
}

static void item_on_sweep(nv_task *task)
{
    due_item *item = nv_container_of(task, due_item, task);
    nv_c2d_sweep *sweep = item->sweep;
    sweep->again = sweep->again || item->again;
    free(item);
    if (--sweep->pending == 0) {
        finish(sweep);
    }
}

static nv_err run_feedback_expire(nv_state_op *op, nv_txn *txn)
{
    nv_c2d_sweep *sweep = nv_container_of(op, nv_c2d_sweep, expire);
    return nv_txn_feedback_expire(txn, sweep->now_us);
}

static void feedback_expired(nv_state_op *op)
{
    nv_c2d_sweep *sweep = nv_container_of(op, nv_c2d_sweep, expire);
    sweep->again = sweep->again || op->status != NV_OK;
    sweep->more = true; /* when does the next one go? */
    if (--sweep->pending == 0) {
        finish(sweep);
    }
}

static nv_err collect(void *arg, nv_span device_id, uint64_t generation, uint64_t sequence)
{
    nv_c2d_sweep *sweep = arg;
    due_item *item = nv_calloc(1, sizeof(*item));
    item->sweep = sweep;
    item->generation = generation;
    item->sequence = sequence;
    item->id_len = device_id.len < sizeof(item->id) ? device_id.len : sizeof(item->id);
    memcpy(item->id, device_id.ptr, item->id_len);
    sweep->items[sweep->count++] = item;
    return NV_OK;
}

static void drop_items(nv_c2d_sweep *sweep)
{
    while (sweep->count > 0) {
        free(sweep->items[--sweep->count]);
    }
}

static nv_err run_look(nv_state_op *op, nv_txn *txn)
{
    nv_c2d_sweep *sweep = nv_container_of(op, nv_c2d_sweep, read);
    drop_items(sweep);
    nv_err err = nv_txn_c2d_due(txn, sweep->now_us, SWEEP_MAX, collect, sweep, &sweep->next_us);
    return err == NV_OK ? nv_txn_feedback_next_expiry(txn, &sweep->next_feedback_us) : err;
}

static void post_items(nv_c2d_sweep *sweep)
{
    for (uint32_t i = 0; i < sweep->count; i++) {
        due_item *item = sweep->items[i];
        item->task.run = item_on_shard;
        nv_post(nv_hub_shard_loop(sweep->loop->hub, nv_span_of(item->id, item->id_len))->exec, &item->task);
    }
}

static void look_done(nv_state_op *op)
{
    nv_c2d_sweep *sweep = nv_container_of(op, nv_c2d_sweep, read);
    sweep->again = op->status != NV_OK;
    if (op->status != NV_OK || is_closed(sweep)) {
        drop_items(sweep);
        finish(sweep);
        return;
    }
    sweep->more = sweep->count == SWEEP_MAX;
    sweep->pending = sweep->count + 1; /* this function itself */
    post_items(sweep);
    if (sweep->next_feedback_us <= sweep->now_us) {
        sweep->expire = (nv_state_op){.exec = sweep->loop->exec, .run = run_feedback_expire, .done = feedback_expired};
        bool taken = nv_state_write(sweep->loop->hub->state, &sweep->expire) == NV_OK;
        sweep->pending += taken ? 1 : 0;
        sweep->again = sweep->again || !taken;
    }
    if (--sweep->pending == 0) {
        finish(sweep);
    }
}

static void look(nv_c2d_sweep *sweep)
{
    if (sweep->busy || is_closed(sweep)) {
        return;
    }
    sweep->busy = true;
    sweep->again = sweep->more = false;
    sweep->count = 0;
    sweep->now_us = nv_wall_us(sweep->loop->hub->clock);
    sweep->next_us = sweep->next_feedback_us = INT64_MAX;
    /* What is committed from here on may be missing in what is read: whatever it is, let it be told (earlier_us). */
    atomic_store(&sweep->expected_us, INT64_MAX);
    sweep->read = (nv_state_op){.exec = sweep->loop->exec, .run = run_look, .done = look_done};
    if (nv_state_read(sweep->loop->hub->state, &sweep->read) != NV_OK) {
        sweep->again = true;
        finish(sweep);
    }
}

static void on_time(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    look(nv_container_of(timer, nv_c2d_sweep, timer));
}

/* Something that expires earlier than what the timer waits for. */
typedef struct earlier {
    nv_task task;
    nv_c2d_sweep *sweep;
    int64_t expires_us;
} earlier;

static void earlier_on_sweep(nv_task *task)
{
    earlier *self = nv_container_of(task, earlier, task);
    nv_c2d_sweep *sweep = self->sweep;
    nv_hub *hub = sweep->loop->hub;
    int64_t due_us = nv_mono_us(hub->clock) + (self->expires_us - nv_wall_us(hub->clock));
    if (sweep->busy) {
        sweep->earlier_us = self->expires_us < sweep->earlier_us ? self->expires_us : sweep->earlier_us;
    } else if (!is_closed(sweep) && due_us < sweep->timer.due_us) {
        arm(sweep, self->expires_us);
    }
    free(self);
}

void nv_c2d_sweep_expect(nv_hub *hub, int64_t expires_us)
{
    nv_c2d_sweep *sweep = hub->loops[0].c2d->sweep;
    int64_t expected_us = atomic_load(&sweep->expected_us);
    while (expires_us < expected_us) {
        if (atomic_compare_exchange_weak(&sweep->expected_us, &expected_us, expires_us)) {
            earlier *self = nv_calloc(1, sizeof(*self));
            *self = (earlier){.task = {.run = earlier_on_sweep}, .sweep = sweep, .expires_us = expires_us};
            nv_post(sweep->loop->exec, &self->task);
            return;
        }
    }
}

nv_c2d_sweep *nv_c2d_sweep_new(nv_hub_loop *loop)
{
    nv_c2d_sweep *sweep = nv_calloc(1, sizeof(*sweep));
    sweep->loop = loop;
    sweep->earlier_us = INT64_MAX;
    atomic_init(&sweep->expected_us, INT64_MAX);
    nv_timer_init(&sweep->timer, on_time);
    return sweep;
}

void nv_c2d_sweep_start(nv_c2d_sweep *sweep)
{
    arm(sweep, nv_wall_us(sweep->loop->hub->clock));
}

bool nv_c2d_sweep_idle(const nv_c2d_sweep *sweep)
{
    return !sweep->busy;
}

void nv_c2d_sweep_free(nv_c2d_sweep *sweep)
{
    if (sweep) {
        nv_timers_clear(&sweep->loop->timers, &sweep->timer);
        free(sweep);
    }
}
