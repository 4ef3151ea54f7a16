/*
 * One queue on its shard: reading its head and its window, and handing out in order.
 */
#include "core/c2d_queue.h"

#include "base/alloc.h"
#include "core/device_table.h"

#include <assert.h>
#include <stdlib.h>

nv_hub_error nv_c2d_error_of(nv_err err)
{
    switch ((int)err) {
    case NV_OK:
        return NV_HUB_ERROR_NONE;
    case NV_E_NOT_FOUND:
        return NV_HUB_ERROR_DeviceNotFound;
    case NV_E_AGAIN:
        return NV_HUB_ERROR_ThrottlingException;
    case NV_E_CORRUPT:
        return NV_HUB_ERROR_ServerError;
    default:
        return NV_HUB_ERROR_ServiceUnavailable;
    }
}

static nv_hub *hub_of(const nv_c2d_queue *queue)
{
    return queue->c2d->loop->hub;
}

/* ---- in flight ---------------------------------------------------------------------------------------------- */

bool nv_c2d_write(nv_c2d_queue *queue, nv_state_op *op)
{
    op->exec = queue->c2d->loop->exec;
    nv_err err = nv_state_write(hub_of(queue)->state, op);
    if (err != NV_OK) {
        op->status = err; /* else it is the store's from here on */
        return false;
    }
    queue->ops++;
    queue->c2d->ops++;
    return true;
}

void nv_c2d_written(nv_c2d_queue *queue)
{
    queue->ops--;
    queue->c2d->ops--;
}

/* ---- the queue itself --------------------------------------------------------------------------------------- */

static void read_again(nv_timer *timer, int64_t now_us);

void nv_c2d_queue_add_receiver(nv_c2d_queue *queue, nv_c2d_receiver *receiver)
{
    receiver->_queue = queue;
    nv_list_push_back(&queue->receivers, &receiver->_link);
}

nv_c2d_queue *nv_c2d_queue_of(nv_c2d *c2d, nv_span device_id)
{
    nv_c2d_queue *queue = nv_map_get(&c2d->queues, device_id);
    if (queue) {
        if (nv_list_linked(&queue->idle)) {
            nv_list_remove(&queue->idle);
            c2d->idle_count--;
        }
        return queue;
    }
    queue = nv_calloc(1, sizeof(*queue) + device_id.len);
    queue->c2d = c2d;
    nv_list_init(&queue->idle);
    nv_list_init(&queue->entries);
    nv_list_init(&queue->receivers);
    nv_list_init(&queue->takes);
    nv_list_init(&queue->waiting);
    nv_timer_init(&queue->retry, read_again);
    queue->id_len = device_id.len;
    memcpy(queue->id, device_id.ptr, device_id.len);
    nv_map_put(&c2d->queues, nv_c2d_queue_id(queue), queue);
    nv_c2d_receiver *standing = nv_device_take_receiver(c2d->loop, device_id);
    if (standing) {
        nv_c2d_queue_add_receiver(queue, standing);
    }
    return queue;
}

static nv_c2d_entry *entry_of(nv_list *link)
{
    return nv_container_of(link, nv_c2d_entry, link);
}

/* Of its receivers at most one is left: it stands with the device. */
static void queue_free(nv_c2d_queue *queue)
{
    nv_timers_clear(&queue->c2d->loop->timers, &queue->retry);
    nv_list *link = nv_list_pop_front(&queue->receivers);
    if (link) {
        nv_c2d_receiver *receiver = nv_container_of(link, nv_c2d_receiver, _link);
        receiver->_queue = NULL;
        nv_device_keep_receiver(queue->c2d->loop, nv_c2d_queue_id(queue), receiver);
    }
    if (!queue->gone) {
        nv_map_remove(&queue->c2d->queues, nv_c2d_queue_id(queue));
    }
    free(queue);
}

/* Known to be empty, and one receives at most: the store's next put is told here first. */
static bool can_rest(const nv_c2d_queue *queue)
{
    return queue->known && !queue->gone && nv_list_empty(&queue->entries) && queue->holds == 0 &&
           queue->loaded_to >= queue->newest && queue->receivers.next == queue->receivers.prev;
}

/* Nobody receives: the messages are in the store. What is locked or in flight stays. */
static void forget_window(nv_c2d_queue *queue)
{
    for (nv_list *link = queue->entries.next; link != &queue->entries;) {
        nv_c2d_entry *entry = entry_of(link);
        link = link->next;
        if (entry->state != NV_C2D_QUEUED) {
            return; /* the window is whole or not at all */
        }
    }
    nv_list *link;
    while ((link = nv_list_pop_front(&queue->entries))) {
        nv_c2d_entry_free(entry_of(link));
    }
    queue->loaded_to = 0;
}

static void keep_idle(nv_c2d_queue *queue)
{
    nv_c2d *c2d = queue->c2d;
    nv_list_push_back(&c2d->idle, &queue->idle);
    if (++c2d->idle_count > NV_C2D_IDLE_QUEUES) {
        nv_c2d_queue *oldest = nv_container_of(c2d->idle.next, nv_c2d_queue, idle);
        nv_list_remove(&oldest->idle);
        c2d->idle_count--;
        queue_free(oldest);
    }
}

void nv_c2d_queue_settle(nv_c2d_queue *queue)
{
    nv_c2d_queue_pump(queue);
    bool received = !nv_list_empty(&queue->receivers);
    bool busy = !nv_list_empty(&queue->takes) || !nv_list_empty(&queue->waiting) || queue->ops > 0;
    if (busy || nv_list_linked(&queue->idle) || (received && !can_rest(queue))) {
        return;
    }
    if (!received) {
        forget_window(queue);
    }
    if (!nv_list_empty(&queue->entries)) {
        return;
    }
    if (queue->gone || !queue->known || (received && !queue->used)) {
        queue_free(queue);
    } else {
        keep_idle(queue);
    }
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

typedef struct head_read {
    nv_state_op op;
    nv_c2d_queue *queue;
    nv_c2d_head head;
} head_read;

static nv_err run_head(nv_state_op *op, nv_txn *txn)
{
    head_read *self = nv_container_of(op, head_read, op);
    return nv_txn_c2d_head(txn, nv_c2d_queue_id(self->queue), &self->head);
}

static void tell_waiting(nv_c2d_queue *queue, nv_hub_error error)
{
    nv_list told;
    nv_list_init(&told);
    nv_list_splice(&told, &queue->waiting);
    queue->ops++; /* it stays until all are told */
    for (nv_list *node = nv_list_pop_front(&told); node; node = nv_list_pop_front(&told)) {
        nv_c2d_waiter *waiter = nv_container_of(node, nv_c2d_waiter, link);
        waiter->ready(waiter, queue, error);
    }
    queue->ops--;
}

/* Who receives is told by nothing else that the store works again. */
static void read_later(nv_c2d_queue *queue)
{
    nv_c2d *c2d = queue->c2d;
    if (!nv_list_empty(&queue->receivers)) {
        nv_timers_set(&c2d->loop->timers, &queue->retry, nv_mono_us(c2d->loop->hub->clock) + NV_C2D_RETRY_US);
    }
}

static void head_done(nv_state_op *op)
{
    head_read *self = nv_container_of(op, head_read, op);
    nv_c2d_queue *queue = self->queue;
    nv_c2d_written(queue);
    queue->reading = false;
    nv_hub_error error = queue->gone ? NV_HUB_ERROR_DeviceNotFound : nv_c2d_error_of(op->status);
    if (error == NV_HUB_ERROR_NONE) {
        queue->known = true;
        queue->generation = self->head.generation;
        queue->next_sequence = self->head.next_sequence;
        queue->newest = self->head.next_sequence - 1;
        queue->depth = self->head.depth;
    }
    free(self);
    tell_waiting(queue, error);
    if (!queue->gone && error != NV_HUB_ERROR_NONE && error != NV_HUB_ERROR_DeviceNotFound) {
        read_later(queue);
    }
    nv_c2d_queue_settle(queue);
}

static nv_err read_store(nv_c2d_queue *queue, nv_state_op *op)
{
    op->exec = queue->c2d->loop->exec;
    nv_err err = nv_state_read(hub_of(queue)->state, op);
    if (err == NV_OK) {
        queue->reading = true;
        queue->ops++;
        queue->c2d->ops++;
    }
    return err;
}

static void read_head(nv_c2d_queue *queue)
{
    if (queue->reading) {
        return;
    }
    head_read *self = nv_calloc(1, sizeof(*self));
    self->queue = queue;
    self->op.run = run_head;
    self->op.done = head_done;
    nv_err err = read_store(queue, &self->op);
    if (err != NV_OK) {
        free(self);
        tell_waiting(queue, nv_c2d_error_of(err));
        read_later(queue);
    }
}

static void read_again(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    nv_c2d_queue *queue = nv_container_of(timer, nv_c2d_queue, retry);
    if (queue->c2d->closed || queue->gone) {
        return;
    }
    if (!queue->known) {
        read_head(queue);
    }
    nv_c2d_queue_settle(queue);
}

void nv_c2d_queue_need(nv_c2d_queue *queue, nv_c2d_waiter *waiter)
{
    if (queue->known) {
        waiter->ready(waiter, queue, NV_HUB_ERROR_NONE);
        return;
    }
    nv_list_push_back(&queue->waiting, &waiter->link);
    read_head(queue);
}

/* Some more of the window. */
typedef struct window_read {
    nv_state_op op;
    nv_c2d_queue *queue;
    uint64_t after;
    uint64_t newest; /* when it was asked: the store holds nothing newer that was told to be committed */
    size_t bytes;
    size_t count;
    bool cut; /* there is more */
    nv_c2d_entry *entries[NV_C2D_WINDOW_ROWS];
} window_read;

static void entry_release(nv_c2d_entry *entry)
{
    nv_c2d_message_unref(entry->message);
    free(entry);
}

static void lock_over(nv_timer *timer, int64_t now_us);

static nv_c2d_entry *entry_new(nv_c2d_queue *queue, nv_c2d_message *message, uint32_t deliveries)
{
    nv_c2d_entry *entry = nv_calloc(1, sizeof(*entry));
    nv_list_init(&entry->link);
    nv_timer_init(&entry->timer, lock_over);
    entry->queue = queue;
    entry->message = message;
    entry->deliveries = deliveries;
    return entry;
}

static nv_err load_one(void *arg, const nv_c2d_row *row)
{
    window_read *self = arg;
    if (self->count == NV_C2D_WINDOW_ROWS || (self->count > 0 && self->bytes + row->body.len > NV_C2D_WINDOW_BYTES)) {
        self->cut = true;
        return NV_E_EOF;
    }
    nv_c2d_message *message = nv_c2d_message_of(row);
    self->entries[self->count++] = entry_new(self->queue, message, row->deliveries);
    self->bytes += row->body.len + row->properties.len;
    return NV_OK;
}

static nv_err run_window(nv_state_op *op, nv_txn *txn)
{
    window_read *self = nv_container_of(op, window_read, op);
    while (self->count > 0) {
        entry_release(self->entries[--self->count]);
    }
    self->bytes = 0;
    self->cut = false;
    nv_err err =
        nv_txn_c2d_load(txn, nv_c2d_queue_id(self->queue), self->after, NV_C2D_WINDOW_ROWS + 1, load_one, self);
    return err == NV_E_EOF ? NV_OK : err;
}

void nv_c2d_entry_set_queued(nv_c2d_entry *entry)
{
    entry->state = NV_C2D_QUEUED;
    entry->queue->queued++;
    entry->queue->queued_bytes += entry->message->properties.len + entry->message->body.len;
}

void nv_c2d_entry_unset_queued(nv_c2d_entry *entry)
{
    entry->queue->queued--;
    entry->queue->queued_bytes -= entry->message->properties.len + entry->message->body.len;
}

static void append_entry(nv_c2d_queue *queue, nv_c2d_entry *entry)
{
    nv_list_push_back(&queue->entries, &entry->link);
    nv_c2d_entry_set_queued(entry);
    queue->loaded_to = entry->message->sequence;
}

static void window_done(nv_state_op *op)
{
    window_read *self = nv_container_of(op, window_read, op);
    nv_c2d_queue *queue = self->queue;
    nv_c2d_written(queue);
    queue->reading = false;
    bool stale = queue->stale;
    bool failed = false;
    bool good = op->status == NV_OK && !queue->gone && !stale;
    queue->stale = false;
    for (size_t i = 0; i < self->count; i++) {
        if (good) {
            append_entry(queue, self->entries[i]);
        } else {
            entry_release(self->entries[i]);
        }
    }
    if (good && !self->cut && queue->loaded_to < self->newest) {
        queue->loaded_to = self->newest;
    }
    if (!good && !stale) {
        failed = !queue->gone;
        nv_c2d_queue_answer_takes(queue, queue->gone ? NV_HUB_ERROR_NONE : nv_c2d_error_of(op->status));
    }
    free(self);
    if (failed && !nv_list_empty(&queue->receivers)) {
        read_later(queue); /* not at once again */
    } else {
        nv_c2d_queue_settle(queue);
    }
}

static void read_window(nv_c2d_queue *queue)
{
    window_read *self = nv_calloc(1, sizeof(*self));
    self->queue = queue;
    self->after = queue->loaded_to;
    self->newest = queue->newest;
    self->op.run = run_window;
    self->op.done = window_done;
    nv_err err = read_store(queue, &self->op);
    if (err != NV_OK) {
        free(self);
        nv_c2d_queue_answer_takes(queue, nv_c2d_error_of(err));
        read_later(queue);
    }
}

void nv_c2d_queue_hold(nv_c2d_queue *queue)
{
    queue->holds++;
    queue->stale = queue->reading && queue->known;
}

void nv_c2d_queue_release(nv_c2d_queue *queue)
{
    queue->holds--;
}

/* ---- the window --------------------------------------------------------------------------------------------- */

void nv_c2d_queue_stored(nv_c2d_queue *queue, nv_c2d_message *message)
{
    bool up_to_date = queue->loaded_to >= queue->newest && !queue->reading;
    bool room = queue->queued < NV_C2D_WINDOW_ROWS && queue->queued_bytes < NV_C2D_WINDOW_BYTES;
    bool received = !nv_list_empty(&queue->receivers) || !nv_list_empty(&queue->takes);
    bool loaded = message->sequence <= queue->loaded_to; /* a read saw the commit before we were told */
    queue->newest = message->sequence > queue->newest ? message->sequence : queue->newest;
    queue->used = true;
    if (up_to_date && room && received && !loaded) {
        append_entry(queue, entry_new(queue, message, 0));
    } else {
        nv_c2d_message_unref(message);
    }
}

nv_c2d_entry *nv_c2d_queue_find(nv_c2d_queue *queue, uint64_t sequence)
{
    for (nv_list *link = queue->entries.next; link != &queue->entries; link = link->next) {
        if (entry_of(link)->message->sequence == sequence) {
            return entry_of(link);
        }
    }
    return NULL;
}

void nv_c2d_entry_unlock(nv_c2d_entry *entry, nv_c2d_state state)
{
    nv_c2d *c2d = entry->queue->c2d;
    nv_timers_clear(&c2d->loop->timers, &entry->timer);
    if (entry->state == NV_C2D_LOCKED) {
        nv_map_remove(&c2d->locks, nv_span_of(entry->lock_token, NV_GUID_TEXT_SIZE - 1));
    }
    if (entry->receiver) {
        entry->receiver->_locked--;
        entry->receiver = NULL;
    }
    entry->state = state;
}

void nv_c2d_entry_free(nv_c2d_entry *entry)
{
    if (entry->state == NV_C2D_QUEUED) {
        nv_c2d_entry_unset_queued(entry);
    } else {
        nv_c2d_entry_unlock(entry, entry->state);
    }
    nv_list_remove(&entry->link);
    entry_release(entry);
}

/* ---- locks -------------------------------------------------------------------------------------------------- */

static bool is_over(const nv_c2d_queue *queue, const nv_c2d_message *message)
{
    return message->expires_us <= nv_wall_us(hub_of(queue)->clock);
}

static void lock_over(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    nv_c2d_entry *entry = nv_container_of(timer, nv_c2d_entry, timer);
    nv_c2d_queue *queue = entry->queue;
    if (queue->c2d->closed) {
        return; /* the next start finds it Enqueued */
    }
    if (is_over(queue, entry->message)) {
        nv_c2d_entry_end(entry, NV_FEEDBACK_EXPIRED, NULL);
    } else {
        nv_c2d_entry_return(entry, NULL);
    }
    nv_c2d_queue_settle(queue);
}

static nv_c2d_message *lock_entry(nv_c2d_entry *entry, nv_c2d_receiver *receiver, int64_t lock_us)
{
    nv_c2d *c2d = entry->queue->c2d;
    nv_hub *hub = c2d->loop->hub;
    nv_c2d_entry_unset_queued(entry);
    entry->state = NV_C2D_LOCKED;
    entry->receiver = receiver;
    nv_guid_make(hub->rng, entry->lock_token);
    nv_map_put(&c2d->locks, nv_span_of(entry->lock_token, NV_GUID_TEXT_SIZE - 1), entry);
    entry->locked_until_us = nv_mono_us(hub->clock) + lock_us;
    nv_timers_set(&c2d->loop->timers, &entry->timer, entry->locked_until_us);
    nv_c2d_message *message = entry->message = nv_c2d_message_own(entry->message);
    memcpy(message->lock_token, entry->lock_token, sizeof(message->lock_token));
    message->delivery_count = entry->deliveries + 1;
    nv_c2d_message_ref(message);
    return message;
}

/* ---- handing out -------------------------------------------------------------------------------------------- */

typedef enum finding { FOUND, NOTHING, BLOCKED } finding;

/* The oldest message that may be handed out. What has expired ends on the way. */
static finding first_queued(nv_c2d_queue *queue, nv_c2d_entry **out)
{
    for (nv_list *link = queue->entries.next; link != &queue->entries;) {
        nv_c2d_entry *entry = entry_of(link);
        link = link->next;
        bool over = is_over(queue, entry->message);
        bool unlocking = entry->state == NV_C2D_LOCKED && entry->locked_until_us <= nv_mono_us(hub_of(queue)->clock);
        if (entry->state == NV_C2D_RETURNING || unlocking || (entry->state == NV_C2D_RESTING && !over)) {
            return BLOCKED; /* it comes before the others, in a moment */
        }
        if (entry->state != NV_C2D_QUEUED) {
            continue;
        }
        if (!over) {
            *out = entry;
            return FOUND;
        }
        nv_c2d_entry_end(entry, NV_FEEDBACK_EXPIRED, NULL);
    }
    return NOTHING;
}

typedef struct delivery {
    nv_task task;
    nv_c2d_receiver *receiver;
    nv_c2d_message *message;
} delivery;

static void deliver_on_loop(nv_task *task)
{
    delivery *d = nv_container_of(task, delivery, task);
    if (!d->receiver->_detached) {
        d->receiver->message(d->receiver, d->message);
    }
    nv_c2d_message_unref(d->message);
    free(d);
}

static void hand_to_receiver(nv_c2d_entry *entry, nv_c2d_receiver *receiver)
{
    nv_c2d_queue *queue = entry->queue;
    delivery *d = nv_malloc(sizeof(*d));
    receiver->_locked++;
    if (receiver->pulls) {
        ((nv_c2d_puller *)(void *)receiver)->_handed++;
    }
    *d = (delivery){.task = {.run = deliver_on_loop}, .receiver = receiver};
    d->message = lock_entry(entry, receiver, hub_of(queue)->limits.c2d_lock_s * NV_US_PER_S);
    nv_post(receiver->_loop->exec, &d->task);
}

static bool pulls_more(nv_c2d_receiver *receiver)
{
    const nv_c2d_puller *puller = (const nv_c2d_puller *)(void *)receiver;
    return !receiver->pulls || (int32_t)(puller->_limit - puller->_handed) > 0;
}

static nv_c2d_receiver *receiver_with_room(nv_c2d_queue *queue)
{
    for (nv_list *link = queue->receivers.next; link != &queue->receivers; link = link->next) {
        nv_c2d_receiver *receiver = nv_container_of(link, nv_c2d_receiver, _link);
        if (receiver->_locked < receiver->_window && pulls_more(receiver)) {
            return receiver;
        }
    }
    return NULL;
}

/* A take waits in queue->takes by its task's place; see nv_c2d_take_do. */
typedef struct take_link {
    nv_list link;
    nv_c2d_take *take;
} take_link;

static nv_c2d_take *pop_take(nv_c2d_queue *queue)
{
    take_link *waiting = nv_container_of(nv_list_first(&queue->takes), take_link, link);
    nv_list_remove(&waiting->link);
    nv_c2d_take *take = waiting->take;
    free(waiting);
    return take;
}

void nv_c2d_queue_answer_takes(nv_c2d_queue *queue, nv_hub_error error)
{
    while (!nv_list_empty(&queue->takes)) {
        nv_c2d_take *take = pop_take(queue);
        take->error = error;
        nv_c2d_post_take(take);
    }
}

void nv_c2d_queue_take(nv_c2d_queue *queue, nv_c2d_take *take)
{
    take_link *waiting = nv_malloc(sizeof(*waiting));
    waiting->take = take;
    nv_list_push_back(&queue->takes, &waiting->link);
}

static void hand_to_take(nv_c2d_entry *entry)
{
    nv_c2d_queue *queue = entry->queue;
    nv_c2d_take *take = pop_take(queue);
    int64_t lock_us = take->lock_us > 0 ? take->lock_us : hub_of(queue)->limits.c2d_lock_s * NV_US_PER_S;
    take->message = lock_entry(entry, NULL, lock_us);
    nv_c2d_post_take(take);
}

void nv_c2d_queue_pump(nv_c2d_queue *queue)
{
    if (queue->gone || queue->c2d->closed) {
        nv_c2d_queue_answer_takes(queue, queue->gone ? NV_HUB_ERROR_NONE : NV_HUB_ERROR_ServiceUnavailable);
        return;
    }
    if (!queue->known || queue->holds > 0) {
        return;
    }
    for (;;) {
        nv_c2d_receiver *receiver = receiver_with_room(queue);
        bool takes = !nv_list_empty(&queue->takes);
        nv_c2d_entry *entry = NULL;
        if (!receiver && !takes) {
            return;
        }
        finding found = first_queued(queue, &entry);
        if (found == BLOCKED) {
            return;
        }
        if (found == FOUND && takes) {
            hand_to_take(entry);
        } else if (found == FOUND) {
            hand_to_receiver(entry, receiver);
        } else {
            break;
        }
    }
    if (queue->reading) {
        return;
    }
    if (queue->loaded_to < queue->newest) {
        read_window(queue);
    } else {
        nv_c2d_queue_answer_takes(queue, NV_HUB_ERROR_NONE);
    }
}
