/*
 * Feedback of messages to devices: /messages/serviceBound/feedback (amqp.md section 4.2). A batch is one delivery,
 * locked until the service settles it; receivers compete for batches. What is not settled goes back.
 */
#include "session/amqp/server_internal.h"

#include "base/alloc.h"
#include "base/guid.h"
#include "base/timers.h"
#include "core/c2d.h"

#include <stdlib.h>

#define RETRY_US (1 * NV_US_PER_S) /* after the hub had to answer a wait with nothing */
#define HEAD_MAX 1024u

typedef struct feedback_link {
    nv_amqp_link *link; /* NULL: gone */
    amqp_server *server;
    nv_feedback_take take;
    bool taking;
    bool cancelled;
    nv_list batches; /* handed out, not settled */
    nv_timer retry;
    uint32_t settling; /* batches */
} feedback_link;

/** A batch that the peer has. */
typedef struct batch {
    nv_feedback_settle settle; /* first member */
    nv_list node;
    feedback_link *from;
    uint32_t id; /* of the delivery */
    bool settling;
    bool answer; /* the peer waits for our settled disposition */
    nv_amqp_outcome_kind outcome;
    char lock_token[37];
} batch;

static void take_next(feedback_link *self);

/** The link is gone: the connection lives until nothing of it is under way. */
static void release(feedback_link *self)
{
    if (!self->link && !self->taking && self->settling == 0) {
        amqp_server *s = self->server;
        free(self);
        amqp_operation_end(s);
    }
}

/* ---- settling ----------------------------------------------------------------------------------------------- */

static void settled(nv_feedback_settle *settle)
{
    batch *b = (batch *)(void *)settle;
    feedback_link *self = b->from;
    if (self->link && b->answer) { /* also when the lock was lost: the batch is somebody else's, the delivery is over */
        nv_amqp_link_settle(self->link, b->id, &(nv_amqp_outcome){.kind = b->outcome, .settled = true});
    }
    amqp_server *s = self->server;
    free(b);
    self->settling--;
    release(self);
    amqp_operation_end(s); /* a hub that stops may close the connection here, and end the link */
}

static void settle(batch *b, bool complete)
{
    nv_list_remove(&b->node);
    b->settling = true;
    b->settle = (nv_feedback_settle){.lock_token = nv_span_str(b->lock_token), .complete = complete, .done = settled};
    b->from->settling++;
    amqp_operation_begin(b->from->server);
    nv_feedback_settle_do(amqp_loop(b->from->server), &b->settle);
}

static void on_outcome(nv_amqp_link *link, uint32_t id, uint64_t cookie, const nv_amqp_outcome *outcome)
{
    (void)cookie;
    feedback_link *self = link->owner;
    for (nv_list *node = self->batches.next; node != &self->batches; node = node->next) {
        batch *b = nv_container_of(node, batch, node);
        if (b->id == id) {
            b->answer = !outcome->settled;
            b->outcome = outcome->kind;
            /* accepted: done; rejected: it is dropped too; anything else: it goes back */
            settle(b, outcome->kind == NV_AMQP_OUT_ACCEPTED || outcome->kind == NV_AMQP_OUT_REJECTED);
            return;
        }
    }
    if (!outcome->settled) { /* said twice */
        nv_amqp_link_settle(link, id, &(nv_amqp_outcome){.kind = outcome->kind, .settled = true});
    }
}

/* ---- taking ------------------------------------------------------------------------------------------------- */

static nv_span hub_name(const nv_hub *hub)
{
    nv_span host = hub->host_names[0];
    nv_span label = nv_span_first(host, nv_span_find(host, '.'));
    uint64_t number;
    return nv_span_to_u64(label, &number) || nv_span_find(host, ':') < host.len ? host : label;
}

static void put_head(nv_writer *w, const nv_hub *hub, const nv_feedback_take *take)
{
    size_t mark = nv_amqp_begin_map_section(w, NV_AMQP_MESSAGE_ANNOTATIONS);
    nv_amqp_put_symbol_of(w, "iothub-enqueuedtime");
    nv_amqp_put_timestamp(w, take->enqueued_us / NV_US_PER_MS);
    nv_amqp_end_map(w, mark, 2);
    nv_amqp_properties properties = {.user_id = hub_name(hub),
                                     .content_type = nv_span_str(NV_FEEDBACK_CONTENT_TYPE),
                                     .content_encoding = nv_span_str("utf-8")};
    nv_amqp_put_properties_section(w, &properties);
    nv_amqp_put_data_head(w, nv_buf_len(&take->records));
}

static nv_err send_batch(feedback_link *self, batch *b)
{
    uint8_t tag[16];
    uint8_t memory[HEAD_MAX];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    put_head(&w, amqp_hub(self->server), &self->take);
    nv_amqp_send send = {.track = true, .head = nv_writer_span(&w), .body = nv_buf_span(&self->take.records)};
    if (nv_guid_to_net_bytes(b->lock_token, tag)) {
        send.tag = nv_span_of(tag, sizeof(tag));
    }
    return w.err == NV_OK ? nv_amqp_link_send(self->link, &send, &b->id) : w.err;
}

/** Nothing of the link is used any more: what it had goes back. */
static void end(feedback_link *self)
{
    amqp_operation_begin(self->server);
    self->link = NULL;
    nv_timers_clear(&amqp_loop(self->server)->timers, &self->retry);
    while (!nv_list_empty(&self->batches)) {
        settle(nv_container_of(self->batches.next, batch, node), false);
    }
    if (self->taking && !self->cancelled) {
        self->cancelled = true;
        nv_feedback_take_cancel(&self->take);
    }
}

static void hand_over(feedback_link *self)
{
    batch *b = nv_calloc(1, sizeof(*b));
    b->from = self;
    memcpy(b->lock_token, self->take.lock_token, sizeof(b->lock_token));
    nv_list_push_back(&self->batches, &b->node);
    nv_err err = self->link ? send_batch(self, b) : NV_E_CLOSED;
    if (err != NV_OK) {
        settle(b, false);
    }
    if (err == NV_E_TOO_BIG) { /* it would be handed out and come back until it counts as undeliverable */
        nv_amqp_link *link = self->link;
        end(self);
        nv_amqp_link_detach(link, NV_AMQP_ERR_MESSAGE_SIZE_EXCEEDED,
                            "a batch of feedback is larger than the max-message-size of this link");
    }
}

static void on_retry(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    feedback_link *self = nv_container_of(timer, feedback_link, retry);
    take_next(self);
}

static void taken(nv_feedback_take *take)
{
    feedback_link *self = nv_container_of(take, feedback_link, take);
    bool empty = nv_buf_len(&take->records) == 0;
    bool cancelled = self->cancelled;
    self->taking = self->cancelled = false;
    if (!empty) {
        hand_over(self);
    }
    nv_buf_deinit(&take->records);
    bool drained = empty && !take->wait;
    if (self->link && self->link->drain && (drained || self->link->credit == 0)) {
        nv_amqp_link_drained(self->link);
    } else if (self->link && empty && !cancelled && !self->link->drain) {
        nv_hub_loop *loop = amqp_loop(self->server);
        nv_timers_set(&loop->timers, &self->retry, nv_mono_us(loop->hub->clock) + RETRY_US);
    } else {
        take_next(self);
    }
    release(self);
}

static void take_next(feedback_link *self)
{
    if (self->taking || !self->link || self->server->draining || !nv_amqp_link_room(self->link)) {
        return;
    }
    nv_timers_clear(&amqp_loop(self->server)->timers, &self->retry);
    self->take = (nv_feedback_take){.wait = !self->link->drain, .done = taken};
    self->taking = true;
    nv_feedback_take_do(amqp_loop(self->server), &self->take);
}

static void on_room(nv_amqp_link *link)
{
    feedback_link *self = link->owner;
    if (link->drain && self->taking && self->take.wait && !self->cancelled) {
        self->cancelled = true;
        nv_feedback_take_cancel(&self->take);
    }
    if (link->drain && link->credit == 0) {
        nv_amqp_link_drained(link);
    }
    take_next(self);
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    (void)problem;
    feedback_link *self = link->owner;
    end(self);
    release(self);
}

static const nv_amqp_link_ops ops = {.room = on_room, .outcome = on_outcome, .detached = on_detached};

void amqp_open_feedback(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)device;
    (void)address;
    feedback_link *self = nv_calloc(1, sizeof(*self));
    self->link = link;
    self->server = s;
    nv_list_init(&self->batches);
    nv_timer_init(&self->retry, on_retry);
    nv_amqp_link_accept(link, &(nv_amqp_accept){.ops = &ops, .owner = self});
}
