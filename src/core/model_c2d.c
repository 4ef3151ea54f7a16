/*
 * Messages to devices. While a step runs, hand-outs and answers are only written down; when all is quiet the stored
 * queues are read, and every message must be where its story puts it: still there, or gone for one of the causes that
 * the step gave it.
 */
#include "core/model_c2d.h"

#include <stdlib.h>
#include <string.h>

/* ---- life ---- */

void model_c2d_open(model *w)
{
    w->c2d = nv_calloc(1, sizeof(*w->c2d));
}

static void end_request(request *r)
{
    nv_c2d_message_unref(r->take.message);
    nv_buf_deinit(&r->properties);
    free(r);
}

void model_c2d_begin(model *w)
{
    model_queues *q = w->c2d;
    for (size_t i = 0; i < q->request_count; i++) {
        end_request(q->requests[i]);
    }
    q->request_count = 0;
    q->from_us = model_now(w);
    memset(q->purging, 0, sizeof(q->purging));
    memset(q->purged, 0, sizeof(q->purged));
    memset(q->sends, 0, sizeof(q->sends));
    for (size_t i = 0; i < q->count; i++) {
        message *m = &q->messages[i];
        m->before = m->state;
        m->causes = m->later_causes;
        m->ends = 0;
        m->settled = m->handed = m->freed = m->abandoned = m->lost = false;
    }
}

void model_c2d_close(model *w)
{
    model_c2d_begin(w);
    free(w->c2d->messages);
    free(w->c2d->requests);
    free(w->c2d->records);
    free(w->c2d);
}

void model_c2d_slot_gone(model *w, uint32_t slot)
{
    (void)w;
    (void)slot; /* the stored queues tell */
}

void model_c2d_restarted(model *w)
{
    model_queues *q = w->c2d;
    for (size_t i = 0; i < q->count; i++) {
        message *m = &q->messages[i];
        m->loose = m->loose || m->state == MESSAGE_LOCKED || m->state == MESSAGE_UNKNOWN;
        m->state = m->state == MESSAGE_GONE ? MESSAGE_GONE : MESSAGE_QUEUED;
        m->later_causes = 0;
    }
    for (size_t i = 0; i < q->record_count; i++) {
        q->records[i].locked_until_us = q->records[i].doubtful_until_us = 0;
    }
}

void model_c2d_failed(model *w)
{
    model_queues *q = w->c2d;
    q->failing_until_us = model_now(w) + 2 * NV_US_PER_S;
    for (size_t i = 0; i < q->record_count; i++) {
        q->records[i].doubtful_until_us = q->records[i].taken ? model_now(w) + 122 * NV_US_PER_S : 0;
    }
}

bool model_c2d_resting(const model *w)
{
    return w->batch_us < w->c2d->failing_until_us;
}

uint64_t model_c2d_depth(model *w, uint32_t slot)
{
    uint64_t depth = 0;
    for (size_t i = 0; i < w->c2d->count; i++) {
        depth += w->c2d->messages[i].slot == slot && w->c2d->messages[i].state != MESSAGE_GONE ? 1 : 0;
    }
    return depth;
}

/* ---- hand-outs ---- */

static void handed_out(model *w, uint32_t slot, uint64_t conn, int64_t lock_us, const nv_c2d_message *from)
{
    model_queues *q = w->c2d;
    uint64_t number = 0;
    if (!nv_span_to_u64(from->body, &number) || !message_numbered(w, number)) {
        model_fail(w, "%s is handed a message that nobody sent", w->slots[slot].device);
    }
    message *m = message_numbered(w, number);
    model_note(w, "  %s hands message %llu (sequence %llu, delivery %u) to %llu, lock %.8s", w->slots[slot].device,
               (unsigned long long)number, (unsigned long long)from->sequence, from->delivery_count,
               (unsigned long long)conn, from->lock_token);
    w->done[DID_HANDOUTS]++;
    uint32_t least = m->deliveries + (m->loose || w->injected ? 0 : 1);
    bool counted = from->delivery_count >= least && from->delivery_count <= m->deliveries + m->unseen + 1;
    bool locked = m->state == MESSAGE_LOCKED && !m->freed && model_now(w) < m->locked_from_us + m->lock_us;
    bool stirred = w->slots[slot].stirred;
    const char *wrong = m->slot != slot                            ? "to another device"
                        : m->before == MESSAGE_GONE                ? "after its end"
                        : locked && !stirred                       ? "while it is locked"
                        : !counted                                 ? "with a wrong delivery count"
                        : from->delivery_count > MODEL_DELIVERIES  ? "too often"
                        : m->sent && m->sequence != from->sequence ? "with another sequence"
                        : m->expires_to_us && model_wall(w) >= m->expires_to_us && model_now(w) == q->from_us
                            ? "after it expired"
                        : from->ack != m->ack ? "with another ack"
                                              : NULL;
    if (wrong) {
        model_fail(w, "message %llu is handed out %s (deliveries %u, now %u)", (unsigned long long)number, wrong,
                   m->deliveries, from->delivery_count);
    }
    m->deliveries = from->delivery_count;
    m->unseen = 0;
    m->handed = true;
    m->loose = m->freed = m->settled = m->abandoned = m->lost = false;
    m->sequence = from->sequence;
    m->state = MESSAGE_LOCKED;
    m->conn = conn;
    m->lock_us = lock_us;
    m->locked_from_us = q->from_us;
    m->locked_to_us = model_now(w);
    (void)snprintf(m->old_lock, sizeof(m->old_lock), "%s", m->lock);
    (void)snprintf(m->lock, sizeof(m->lock), "%s", from->lock_token);
}

static void on_message(nv_c2d_receiver *receiver, nv_c2d_message *from)
{
    model_receiver *self = nv_container_of(receiver, model_receiver, receiver);
    if (!self->attached) {
        model_fail(self->conn->w, "a message comes after the receiver was detached");
    }
    handed_out(self->conn->w, self->conn->slot, self->conn->number, 60 * NV_US_PER_S, from);
}

/* ---- receivers ---- */

static void detached(nv_c2d_receiver *receiver)
{
    model_receiver *self = nv_container_of(receiver, model_receiver, receiver);
    model_conn *conn = self->conn;
    conn->receiver = NULL;
    bool leaves = self->leaves;
    free(self);
    if (leaves) {
        model_conn_release(conn);
    }
}

static void detach(model_conn *conn)
{
    model_queues *q = conn->w->c2d;
    model_note(conn->w, "  conn %llu receives no more", (unsigned long long)conn->number);
    conn->receiver->attached = false;
    for (size_t i = 0; i < q->count; i++) {
        message *m = &q->messages[i];
        m->unseen += m->slot == conn->slot && m->state != MESSAGE_GONE ? 1 : 0;
        m->freed = m->freed || (m->state == MESSAGE_LOCKED && m->conn == conn->number);
    }
    nv_c2d_detach(&conn->receiver->receiver, detached);
}

bool model_c2d_leave(model_conn *conn)
{
    if (!conn->receiver) {
        return true;
    }
    conn->receiver->leaves = true;
    if (conn->receiver->attached) {
        detach(conn);
    }
    return false;
}

static void receive(model *w)
{
    model_conn *conn = model_conn_any(w);
    if (!conn || conn->slot >= MODEL_DEVICES) {
        return;
    }
    model_receiver *receiver = conn->receiver;
    if (!receiver) {
        receiver = conn->receiver = nv_calloc(1, sizeof(*receiver));
        *receiver = (model_receiver){.conn = conn, .attached = true, .credit = model_below(w, 4)};
        receiver->receiver =
            (nv_c2d_receiver){.identity = conn->identity, .credit = receiver->credit, .message = on_message};
        model_note(w, "conn %llu receives, credit %u", (unsigned long long)conn->number, receiver->credit);
        nv_c2d_attach(conn->loop, &receiver->receiver);
    } else if (receiver->attached && model_one_in(w, 3)) {
        detach(conn);
    } else if (receiver->attached) {
        uint32_t more = 1 + model_below(w, 2);
        receiver->credit += more;
        model_note(w, "conn %llu gives %u credit more", (unsigned long long)conn->number, more);
        nv_c2d_credit(&receiver->receiver, more);
    }
}

/* ---- requests ---- */

static request *request_new(model *w, request_kind kind, uint32_t slot)
{
    model_queues *q = w->c2d;
    request *r = nv_calloc(1, sizeof(*r));
    *r = (request){.w = w, .kind = kind, .slot = slot};
    nv_buf_init(&r->properties, 4096);
    q->requests = nv_realloc(q->requests, (q->request_count + 1) * sizeof(*q->requests));
    q->requests[q->request_count++] = r;
    return r;
}

static const char *const request_names[] = {"send", "take", "settle", "purge"};

static void answered(request *r, nv_hub_error error)
{
    if (r->done) {
        model_fail(r->w, "a request is answered twice");
    }
    r->done = true;
    r->error = error;
    model_note(r->w, "  %s of %s: %s", request_names[r->kind], r->w->slots[r->slot].device,
               nv_hub_error_info_of(error)->name);
}

static void send_done(nv_c2d_send *send)
{
    request *r = nv_container_of(send, request, send);
    message *m = message_numbered(r->w, r->number);
    answered(r, send->error);
    if (send->error == NV_HUB_ERROR_NONE) {
        if (m->handed && m->sequence != send->sequence) {
            model_fail(r->w, "message %llu was handed out with another sequence", (unsigned long long)r->number);
        }
        m->sent = true;
        m->sequence = send->sequence;
    }
}

static void send_one(model *w)
{
    static const int64_t lives_s[] = {0, 0, 0, 5, 30, 100, 7200, 172800};
    model_queues *q = w->c2d;
    request *r = request_new(w, REQUEST_SEND, model_below(w, MODEL_DEVICES));
    int64_t life_s = lives_s[model_below(w, NV_COUNT_OF(lives_s))];
    r->number = q->count + 1;
    r->bad = model_one_in(w, 25);
    q->messages = nv_realloc(q->messages, (q->count + 1) * sizeof(*q->messages));
    message *m = &q->messages[q->count++];
    *m = (message){.slot = r->slot,
                   .state = MESSAGE_SENDING,
                   .before = MESSAGE_SENDING,
                   .ack = (nv_c2d_ack)model_below(w, 4),
                   .expires_us = model_wall(w) + (life_s ? life_s : 3600) * NV_US_PER_S};
    (void)snprintf(r->text, sizeof(r->text), "%llu", (unsigned long long)r->number);
    nv_property id = {.id = NV_PROP_MESSAGE_ID, .value = nv_value_string(nv_span_str(r->text))};
    r->send = (nv_c2d_send){.device_id = nv_span_str(w->slots[r->slot].device),
                            .ack = m->ack,
                            .expires_us = life_s ? m->expires_us : 0,
                            .body_kind = NV_BODY_DATA,
                            .body = nv_span_str(r->text),
                            .done = send_done};
    if (r->bad && m->ack == NV_ACK_NONE) {
        r->send.expires_us = model_wall(w) + 172801 * NV_US_PER_S;
    } else {
        id.value = r->bad ? nv_value_string(NV_SPAN_EMPTY) : id.value; /* no id to tell of */
        if (nv_property_put(&r->properties, &id) != NV_OK) {
            model_fail(w, "a property does not fit");
        }
    }
    r->send.properties = nv_buf_span(&r->properties);
    model_note(w, "message %llu to %s ack %s life %lld%s", (unsigned long long)r->number, w->slots[r->slot].device,
               nv_c2d_ack_name(m->ack), (long long)life_s, r->bad ? " bad" : "");
    w->done[DID_SENDS]++;
    q->sends[r->slot]++;
    nv_c2d_send_do(model_loop(w), &r->send);
}

static void take_done(nv_c2d_take *take)
{
    request *r = nv_container_of(take, request, take);
    answered(r, take->error);
    if (take->message) {
        handed_out(r->w, r->slot, 0, take->lock_us ? take->lock_us : 60 * NV_US_PER_S, take->message);
    }
}

static void take(model *w)
{
    static const int64_t locks_s[] = {0, 0, 5, 300};
    request *r = request_new(w, REQUEST_TAKE, model_below(w, MODEL_DEVICES));
    r->take = (nv_c2d_take){.device_id = nv_span_str(w->slots[r->slot].device),
                            .lock_us = locks_s[model_below(w, 4)] * NV_US_PER_S,
                            .done = take_done};
    model_note(w, "take from %s for %lld s", w->slots[r->slot].device, (long long)(r->take.lock_us / NV_US_PER_S));
    nv_c2d_take_do(model_loop(w), &r->take);
}

static void settle_done(nv_c2d_settle *settle)
{
    request *r = nv_container_of(settle, request, settle);
    message *m = &r->w->c2d->messages[r->number - 1];
    bool present = strcmp(r->text, m->lock) == 0;
    bool failed = settle->error != NV_HUB_ERROR_NONE && settle->error != NV_HUB_ERROR_DeviceMessageLockLost;
    answered(r, settle->error);
    uint32_t end = settle->outcome == NV_C2D_COMPLETE ? 1u << NV_FEEDBACK_SUCCESS
                   : settle->outcome == NV_C2D_REJECT ? 1u << NV_FEEDBACK_REJECTED
                                                      : 0;
    m->causes |= settle->error != NV_HUB_ERROR_DeviceMessageLockLost ? end : 0;
    m->later_causes |= failed ? end : 0;
    m->ends |= settle->error == NV_HUB_ERROR_NONE ? end : 0;
    m->abandoned = m->abandoned || (present && settle->error == NV_HUB_ERROR_NONE && !end);
    m->lost = m->lost || (present && settle->error == NV_HUB_ERROR_DeviceMessageLockLost);
}

/* Locks that are held, were lost, or never were. */
static void settle(model *w)
{
    static const nv_c2d_outcome outcomes[] = {NV_C2D_COMPLETE, NV_C2D_COMPLETE, NV_C2D_ABANDON, NV_C2D_ABANDON,
                                              NV_C2D_REJECT};
    model_queues *q = w->c2d;
    message *m = NULL;
    bool held = !model_one_in(w, 4);
    for (size_t i = q->count; i > 0 && q->count - i < 100 && (!m || model_one_in(w, 2)); i--) {
        message *here = &q->messages[i - 1];
        m = *here->lock && (!held || here->state == MESSAGE_LOCKED) ? here : m;
    }
    if (!m) {
        return;
    }
    request *r = request_new(w, REQUEST_SETTLE, m->slot);
    bool old = *m->old_lock && model_one_in(w, 8);
    r->number = (uint64_t)(m - q->messages) + 1;
    r->certain = !old && m->state == MESSAGE_LOCKED && !m->freed && !m->settled;
    r->lost = old || (m->state != MESSAGE_LOCKED && m->state != MESSAGE_UNKNOWN && !m->handed && !m->settled);
    (void)snprintf(r->text, sizeof(r->text), "%s", old ? m->old_lock : m->lock);
    r->settle = (nv_c2d_settle){.device_id = nv_span_str(w->slots[m->slot].device),
                                .lock_token = nv_span_str(r->text),
                                .outcome = outcomes[model_below(w, NV_COUNT_OF(outcomes))],
                                .done = settle_done};
    m->settled = m->settled || !old;
    m->freed = m->freed || !old;
    static const char *const words[] = {"complete", "abandon", "reject"};
    model_note(w, "%s %.8s of message %llu%s", words[r->settle.outcome], r->text, (unsigned long long)r->number,
               r->certain ? ""
               : r->lost  ? ", lost"
                          : ", perhaps");
    for (uint32_t times = model_one_in(w, 10) ? 2 : 1; times > 0; times--) {
        request *again = times == 2 ? request_new(w, REQUEST_SETTLE, m->slot) : r;
        if (again != r) {
            again->number = r->number;
            memcpy(again->text, r->text, sizeof(r->text));
            again->settle = r->settle;
            again->settle.lock_token = nv_span_str(again->text);
            r->certain = false;
        }
        nv_c2d_settle_do(model_loop(w), &again->settle);
    }
}

static void purge_done(nv_c2d_purge *purge)
{
    request *r = nv_container_of(purge, request, purge);
    answered(r, purge->error);
    if (purge->error == NV_HUB_ERROR_NONE) {
        r->w->c2d->purged[r->slot] += purge->purged;
        r->w->done[DID_PURGED] += purge->purged;
    }
}

static void purge(model *w)
{
    request *r = request_new(w, REQUEST_PURGE, model_below(w, MODEL_DEVICES));
    r->purge = (nv_c2d_purge){.device_id = nv_span_str(w->slots[r->slot].device), .done = purge_done};
    w->c2d->purging[r->slot] = true;
    model_note(w, "purge %s", w->slots[r->slot].device);
    nv_c2d_purge_do(model_loop(w), &r->purge);
}

void model_c2d_do(model *w)
{
    uint32_t which = model_below(w, 40);
    if (which < 15) {
        send_one(w);
    } else if (which < 20) {
        receive(w);
    } else if (which < 26) {
        take(w);
    } else if (which < 39) {
        settle(w);
    } else {
        purge(w);
    }
}
