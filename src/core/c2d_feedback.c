/*
 * Feedback: what became of messages whose sender asked. Records lie in the store, put there by the transaction that
 * ended the message; a batch of them is locked in memory on the first loop while a service has it.
 *
 *   takers -> read the oldest that no batch holds -> batch, locked --complete--> gone
 *      ^                                               | abandon, lock over: counted, back; too often: gone
 *      +-- told that records were added, or that the oldest is 15 s old
 */
#include "core/c2d_queue.h"

#include "base/alloc.h"
#include "codec/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define BATCHES_MAX     64u
#define BATCH_BYTES_MAX (256u << 10)
#define DELIVERIES_MAX  10u

typedef struct batch {
    nv_list link;
    nv_feedback *feedback;
    nv_timer timer;
    bool busy; /* its settlement is in flight */
    uint64_t ids[NV_FEEDBACK_BATCH];
    size_t count;
    char lock_token[NV_GUID_TEXT_SIZE];
    /* of the settlement */
    nv_state_op op;
    bool complete;
    nv_feedback_settle *settle; /* NULL: the lock was over */
} batch;

struct nv_feedback {
    nv_hub_loop *loop;
    nv_list takers; /* nv_feedback_take._link */
    nv_list batches;
    size_t batch_count;
    uint32_t ops;
    bool reading;
    bool again;     /* something changed that the read under way may not have seen */
    nv_timer timer; /* the oldest record becomes old */
    _Atomic bool wanted;
    _Atomic bool told;
    nv_task tell;
    _Atomic uint64_t numbers;
};

static void serve(nv_feedback *feedback);

static int64_t lock_us_of(const nv_feedback *feedback)
{
    return feedback->loop->hub->limits.c2d_lock_s * NV_US_PER_S;
}

static bool is_closed(const nv_feedback *feedback)
{
    return feedback->loop->c2d->closed;
}

/* ---- answering ------------------------------------------------------------------------------------------------ */

static void take_on_loop(nv_task *task)
{
    nv_feedback_take *take = nv_container_of(task, nv_feedback_take, _task);
    take->done(take);
}

static void answer(nv_feedback_take *take, nv_hub_error error)
{
    nv_list_remove(&take->_link);
    take->error = error;
    take->_task.run = take_on_loop;
    nv_post(take->_loop->exec, &take->_task);
}

static nv_feedback_take *taker_of(nv_list *link)
{
    return nv_container_of(link, nv_feedback_take, _link);
}

static nv_feedback_take *first_taker(nv_feedback *feedback, bool waits)
{
    for (nv_list *link = feedback->takers.next; link != &feedback->takers; link = link->next) {
        if (taker_of(link)->wait == waits) {
            return taker_of(link);
        }
    }
    return NULL;
}

/* ---- batches -------------------------------------------------------------------------------------------------- */

static void settle_on_loop(nv_task *task)
{
    nv_feedback_settle *settle = nv_container_of(task, nv_feedback_settle, _task);
    settle->done(settle);
}

static void post_settle(nv_feedback_settle *settle, nv_hub_error error)
{
    if (settle) {
        settle->error = error;
        settle->_task.run = settle_on_loop;
        nv_post(settle->_loop->exec, &settle->_task);
    }
}

static nv_err run_settle(nv_state_op *op, nv_txn *txn)
{
    batch *b = nv_container_of(op, batch, op);
    nv_err err = NV_OK;
    for (size_t i = 0; err == NV_OK && i < b->count; i++) {
        err = b->complete ? nv_txn_feedback_delete(txn, b->ids[i])
                          : nv_txn_feedback_return(txn, b->ids[i], DELIVERIES_MAX);
    }
    return err;
}

static void settled(batch *b, nv_err status)
{
    nv_feedback *feedback = b->feedback;
    nv_hub *hub = feedback->loop->hub;
    post_settle(b->settle, nv_c2d_error_of(status));
    b->settle = NULL;
    b->busy = false;
    if (status == NV_OK) {
        nv_list_remove(&b->link);
        feedback->batch_count--;
        free(b);
        serve(feedback);
    } else {
        nv_timers_set(&feedback->loop->timers, &b->timer, nv_mono_us(hub->clock) + lock_us_of(feedback));
    }
}

static void settle_done(nv_state_op *op)
{
    batch *b = nv_container_of(op, batch, op);
    b->feedback->ops--;
    settled(b, op->status);
}

static void settle_batch(batch *b, bool complete, nv_feedback_settle *settle)
{
    nv_feedback *feedback = b->feedback;
    nv_timers_clear(&feedback->loop->timers, &b->timer);
    b->busy = true;
    b->complete = complete;
    b->settle = settle;
    b->op = (nv_state_op){.exec = feedback->loop->exec, .run = run_settle, .done = settle_done};
    nv_err err = nv_state_write(feedback->loop->hub->state, &b->op);
    if (err == NV_OK) {
        feedback->ops++;
    } else {
        settled(b, err);
    }
}

static void lock_over(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    batch *b = nv_container_of(timer, batch, timer);
    if (!is_closed(b->feedback)) {
        settle_batch(b, false, NULL);
    }
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

typedef struct read_op {
    nv_state_op op;
    nv_feedback *feedback;
    uint64_t *locked; /* ascending */
    size_t locked_count;
    int64_t now_us;
    batch *batch;
    nv_buf records;
    nv_json_writer writer;
    int64_t oldest_us;
    bool full;
} read_op;

static const struct {
    const char *name;
    const char *description;
} statuses[] = {
#define X(id, name, description) [NV_FEEDBACK_##id] = {name, description},
    NV_FEEDBACK_TABLE(X)
#undef X
};

static void write_record(nv_json_writer *w, const nv_feedback_row *row)
{
    char text[NV_TIME_TEXT_SIZE];
    size_t status = row->status < NV_COUNT_OF(statuses) ? row->status : 0;
    nv_json_begin_object(w);
    nv_json_key(w, "originalMessageId");
    nv_json_string(w, row->message_id);
    nv_json_key(w, "description");
    nv_json_str(w, statuses[status].description);
    nv_json_key(w, "deviceGenerationId");
    (void)snprintf(text, sizeof(text), "%" PRIu64, row->generation);
    nv_json_str(w, text);
    nv_json_key(w, "deviceId");
    nv_json_string(w, row->device_id);
    nv_json_key(w, "enqueuedTimeUtc");
    nv_time_format(row->enqueued_us, text);
    nv_json_str(w, text);
    nv_json_key(w, "statusCode");
    nv_json_str(w, statuses[status].name);
    nv_json_end_object(w);
}

static int compare_ids(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

static nv_err visit(void *arg, const nv_feedback_row *row)
{
    read_op *self = arg;
    batch *b = self->batch;
    if (row->expires_us <= self->now_us ||
        bsearch(&row->id, self->locked, self->locked_count, sizeof(*self->locked), compare_ids)) {
        return NV_OK;
    }
    if (b->count == NV_FEEDBACK_BATCH || nv_buf_len(&self->records) > BATCH_BYTES_MAX) {
        self->full = true;
        return NV_E_EOF;
    }
    if (b->count == 0) {
        self->oldest_us = row->enqueued_us;
    }
    b->ids[b->count++] = row->id;
    write_record(&self->writer, row);
    return self->writer.err;
}

static nv_err run_read(nv_state_op *op, nv_txn *txn)
{
    read_op *self = nv_container_of(op, read_op, op);
    nv_buf_clear(&self->records);
    self->writer = nv_json_writer_of(&self->records);
    self->batch->count = 0;
    self->full = false;
    nv_json_begin_array(&self->writer);
    nv_err err = nv_txn_feedback_walk(txn, visit, self);
    nv_json_end_array(&self->writer);
    self->full = self->full || self->batch->count == NV_FEEDBACK_BATCH;
    return err == NV_OK ? self->writer.err : err;
}

/* The batch goes to @p take, locked. */
static void hand_over(read_op *self, nv_feedback_take *take)
{
    nv_feedback *feedback = self->feedback;
    nv_hub *hub = feedback->loop->hub;
    batch *b = self->batch;
    self->batch = NULL;
    b->feedback = feedback;
    nv_guid_make(hub->rng, b->lock_token);
    nv_timer_init(&b->timer, lock_over);
    nv_timers_set(&feedback->loop->timers, &b->timer, nv_mono_us(hub->clock) + lock_us_of(feedback));
    nv_list_push_back(&feedback->batches, &b->link);
    feedback->batch_count++;
    memcpy(take->lock_token, b->lock_token, sizeof(take->lock_token));
    take->records = self->records;
    take->enqueued_us = self->oldest_us;
    self->records = (nv_buf){0};
    answer(take, NV_HUB_ERROR_NONE);
}

static void answer_empty(nv_feedback *feedback, nv_hub_error error)
{
    nv_feedback_take *take;
    while ((take = first_taker(feedback, false))) {
        answer(take, error);
    }
}

/* Who waits gets a batch that is full or old; else wait for it to become old. */
static void give(read_op *self)
{
    nv_feedback *feedback = self->feedback;
    nv_hub *hub = feedback->loop->hub;
    nv_feedback_take *now = first_taker(feedback, false);
    nv_feedback_take *waits = first_taker(feedback, true);
    int64_t old_in_us = self->oldest_us + NV_FEEDBACK_WAIT_US - nv_wall_us(hub->clock);
    if (self->batch->count == 0) {
        answer_empty(feedback, NV_HUB_ERROR_NONE);
    } else if (now || (waits && (self->full || old_in_us <= 0))) {
        hand_over(self, now ? now : waits);
        serve(feedback);
    } else if (waits) {
        nv_timers_set(&feedback->loop->timers, &feedback->timer, nv_mono_us(hub->clock) + old_in_us);
    }
}

static void read_free(read_op *self)
{
    nv_buf_deinit(&self->records);
    free(self->batch);
    free(self->locked);
    free(self);
}

static void read_done(nv_state_op *op)
{
    read_op *self = nv_container_of(op, read_op, op);
    nv_feedback *feedback = self->feedback;
    bool again = feedback->again;
    feedback->reading = feedback->again = false;
    feedback->ops--;
    if (op->status == NV_OK && !is_closed(feedback)) {
        give(self);
    } else {
        answer_empty(feedback, is_closed(feedback) ? NV_HUB_ERROR_ServiceUnavailable : nv_c2d_error_of(op->status));
    }
    read_free(self);
    if (again && !feedback->reading) {
        serve(feedback);
    }
}

static void note_locked(read_op *self)
{
    nv_feedback *feedback = self->feedback;
    self->locked =
        nv_calloc(feedback->batch_count ? feedback->batch_count : 1, NV_FEEDBACK_BATCH * sizeof(*self->locked));
    for (nv_list *link = feedback->batches.next; link != &feedback->batches; link = link->next) {
        const batch *b = nv_container_of(link, batch, link);
        memcpy(self->locked + self->locked_count, b->ids, b->count * sizeof(*self->locked));
        self->locked_count += b->count;
    }
    qsort(self->locked, self->locked_count, sizeof(*self->locked), compare_ids);
}

static void serve(nv_feedback *feedback)
{
    atomic_store(&feedback->wanted, !nv_list_empty(&feedback->takers));
    feedback->again = feedback->reading;
    if (feedback->reading || nv_list_empty(&feedback->takers) || is_closed(feedback)) {
        return;
    }
    if (feedback->batch_count >= BATCHES_MAX) {
        answer_empty(feedback, NV_HUB_ERROR_NONE); /* who waits is served when one of them is settled */
        return;
    }
    read_op *self = nv_calloc(1, sizeof(*self));
    self->feedback = feedback;
    self->batch = nv_calloc(1, sizeof(*self->batch));
    self->now_us = nv_wall_us(feedback->loop->hub->clock);
    self->op = (nv_state_op){.exec = feedback->loop->exec, .run = run_read, .done = read_done};
    nv_buf_init(&self->records, 8u << 20);
    note_locked(self);
    nv_err err = nv_state_read(feedback->loop->hub->state, &self->op);
    if (err != NV_OK) {
        read_free(self);
        answer_empty(feedback, nv_c2d_error_of(err));
        return;
    }
    feedback->reading = true;
    feedback->ops++;
}

static void on_time(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    serve(nv_container_of(timer, nv_feedback, timer));
}

/* ---- asking --------------------------------------------------------------------------------------------------- */

static nv_feedback *feedback_of(nv_hub *hub)
{
    return hub->loops[0].c2d->feedback;
}

static void take_on_owner(nv_task *task)
{
    nv_feedback_take *take = nv_container_of(task, nv_feedback_take, _task);
    nv_feedback *feedback = feedback_of(take->_loop->hub);
    nv_list_push_back(&feedback->takers, &take->_link);
    if (is_closed(feedback)) {
        answer(take, NV_HUB_ERROR_ServiceUnavailable);
    } else {
        serve(feedback);
    }
}

void nv_feedback_take_do(nv_hub_loop *loop, nv_feedback_take *take)
{
    nv_feedback *feedback = feedback_of(loop->hub);
    take->_loop = loop;
    take->_number = atomic_fetch_add(&feedback->numbers, 1) + 1;
    take->error = NV_HUB_ERROR_NONE;
    take->records = (nv_buf){0};
    take->lock_token[0] = '\0';
    nv_list_init(&take->_link);
    take->_task.run = take_on_owner;
    nv_post(feedback->loop->exec, &take->_task);
}

/* By number: the take may be answered, and its memory gone, before this arrives. */
typedef struct cancel_op {
    nv_task task;
    nv_feedback *feedback;
    uint64_t number;
} cancel_op;

static void cancel_on_owner(nv_task *task)
{
    cancel_op *self = nv_container_of(task, cancel_op, task);
    nv_feedback *feedback = self->feedback;
    for (nv_list *link = feedback->takers.next; link != &feedback->takers; link = link->next) {
        if (taker_of(link)->_number == self->number) {
            answer(taker_of(link), NV_HUB_ERROR_NONE);
            break;
        }
    }
    free(self);
}

void nv_feedback_take_cancel(nv_feedback_take *take)
{
    cancel_op *self = nv_calloc(1, sizeof(*self));
    self->feedback = feedback_of(take->_loop->hub);
    self->number = take->_number;
    self->task.run = cancel_on_owner;
    nv_post(self->feedback->loop->exec, &self->task);
}

static void settle_on_owner(nv_task *task)
{
    nv_feedback_settle *settle = nv_container_of(task, nv_feedback_settle, _task);
    nv_feedback *feedback = feedback_of(settle->_loop->hub);
    if (is_closed(feedback)) {
        post_settle(settle, NV_HUB_ERROR_ServiceUnavailable);
        return;
    }
    for (nv_list *link = feedback->batches.next; link != &feedback->batches; link = link->next) {
        batch *b = nv_container_of(link, batch, link);
        if (!b->busy && nv_span_eq_str(settle->lock_token, b->lock_token)) {
            settle_batch(b, settle->complete, settle);
            return;
        }
    }
    post_settle(settle, NV_HUB_ERROR_DeviceMessageLockLost);
}

void nv_feedback_settle_do(nv_hub_loop *loop, nv_feedback_settle *settle)
{
    settle->_loop = loop;
    settle->_task.run = settle_on_owner;
    nv_post(feedback_of(loop->hub)->loop->exec, &settle->_task);
}

/* ---- for the queues and the hub ------------------------------------------------------------------------------- */

static void tell_on_owner(nv_task *task)
{
    nv_feedback *feedback = nv_container_of(task, nv_feedback, tell);
    atomic_store(&feedback->told, false);
    serve(feedback);
}

void nv_feedback_added(nv_hub *hub)
{
    nv_feedback *feedback = feedback_of(hub);
    nv_c2d_sweep_expect(hub, nv_wall_us(hub->clock) + hub->limits.feedback_ttl_s * NV_US_PER_S);
    if (atomic_load(&feedback->wanted) && !atomic_exchange(&feedback->told, true)) {
        nv_post(feedback->loop->exec, &feedback->tell);
    }
}

nv_feedback *nv_feedback_new(nv_hub_loop *loop)
{
    nv_feedback *feedback = nv_calloc(1, sizeof(*feedback));
    feedback->loop = loop;
    nv_list_init(&feedback->takers);
    nv_list_init(&feedback->batches);
    nv_timer_init(&feedback->timer, on_time);
    feedback->tell.run = tell_on_owner;
    return feedback;
}

void nv_feedback_turn_end(nv_feedback *feedback)
{
    while (!nv_list_empty(&feedback->takers)) {
        answer(taker_of(feedback->takers.next), NV_HUB_ERROR_ServiceUnavailable);
    }
}

bool nv_feedback_idle(const nv_feedback *feedback)
{
    return feedback->ops == 0;
}

void nv_feedback_free(nv_feedback *feedback)
{
    if (!feedback) {
        return;
    }
    while (!nv_list_empty(&feedback->batches)) {
        batch *b = nv_container_of(nv_list_pop_front(&feedback->batches), batch, link);
        nv_timers_clear(&feedback->loop->timers, &b->timer);
        free(b);
    }
    nv_timers_clear(&feedback->loop->timers, &feedback->timer);
    free(feedback);
}
