/* What became of the messages: the stored queues and feedback against the story of each message. */
#include "core/model_c2d.h"

#include "store/state_c2d.h"

#include <stdlib.h>
#include <string.h>

#define BIT(status) (1u << (status))

/* ---- what is stored ---- */

typedef struct snapshot {
    nv_state_op op;
    model *w;
    bool done;
    bool last_look; /* the reference knows which devices are there */
    uint32_t slot;  /* being read */
    uint64_t last;
    uint64_t depth[MODEL_SLOTS];
    const char *wrong;
    uint64_t wrong_number;
} snapshot;

static nv_err wrong_row(snapshot *self, const char *what, uint64_t number)
{
    self->wrong = what;
    self->wrong_number = number;
    return NV_E_INVALID;
}

static nv_err see_message(void *arg, const nv_c2d_row *row)
{
    snapshot *self = arg;
    nv_value id;
    uint64_t number = 0;
    (void)nv_span_to_u64(row->body, &number);
    message *m = message_numbered(self->w, number);
    self->depth[self->slot]++;
    if (!m && nv_property_find(row->properties, NV_PROP_MESSAGE_ID, &id)) {
        (void)nv_span_to_u64(id.bytes, &number); /* the body may be left out */
        m = message_numbered(self->w, number);
    }
    if (!m || m->slot != self->slot) {
        return wrong_row(self, "nobody sent it there", number);
    }
    bool unordered = row->sequence <= self->last;
    self->last = row->sequence;
    m->stored = true;
    bool counts = m->state == MESSAGE_QUEUED && !m->handed && !m->loose && !m->unseen && m->before == MESSAGE_QUEUED;
    return unordered                                     ? wrong_row(self, "its sequence is out of order", number)
           : m->before == MESSAGE_GONE                   ? wrong_row(self, "it was gone", number)
           : m->sequence && m->sequence != row->sequence ? wrong_row(self, "its sequence changed", number)
           : self->last_look && row->generation != self->w->slots[self->slot].generation
               ? wrong_row(self, "its device was deleted", number)
           : counts && row->deliveries != m->deliveries ? wrong_row(self, "its count is wrong", number)
                                                        : NV_OK;
}

static nv_err see_record(void *arg, const nv_feedback_row *row)
{
    snapshot *self = arg;
    model_queues *q = self->w->c2d;
    uint64_t number = 0;
    (void)nv_span_to_u64(row->message_id, &number);
    const message *m = message_numbered(self->w, number);
    for (size_t i = 0; i < q->record_count; i++) {
        record *known = &q->records[i];
        if (known->number == number) {
            known->seen = true;
            return known->gone                    ? wrong_row(self, "its feedback comes again", number)
                   : known->status != row->status ? wrong_row(self, "its feedback changed", number)
                                                  : NV_OK;
        }
    }
    if (!m || m->before == MESSAGE_GONE || m->stored) {
        return wrong_row(self, "it did not end, and there is feedback", number);
    }
    q->records = nv_realloc(q->records, (q->record_count + 1) * sizeof(*q->records));
    q->records[q->record_count++] =
        (record){.number = number,
                 .slot = m->slot,
                 .status = (nv_feedback_status)row->status,
                 .expires_us = row->expires_us,
                 .expires_to_us = model_wall(self->w) + self->w->hub->limits.feedback_ttl_s * NV_US_PER_S,
                 .seen = true};
    return NV_OK;
}

static nv_err take_snapshot(nv_state_op *op, nv_txn *txn)
{
    snapshot *self = nv_container_of(op, snapshot, op);
    nv_err err = NV_OK;
    for (self->slot = 0; err == NV_OK && self->slot < MODEL_DEVICES; self->slot++) {
        self->last = 0;
        err = nv_txn_c2d_load(txn, nv_span_str(self->w->slots[self->slot].device), 0, 1000, see_message, self);
    }
    return err == NV_OK ? nv_txn_feedback_walk(txn, see_record, self) : err;
}

static void snapshot_done(nv_state_op *op)
{
    nv_container_of(op, snapshot, op)->done = true;
}

static void look(model *w, snapshot *self, bool last_look)
{
    *self = (snapshot){
        .last_look = last_look, .op = {.exec = w->execs[0], .run = take_snapshot, .done = snapshot_done}, .w = w};
    for (size_t i = 0; i < w->c2d->count; i++) {
        w->c2d->messages[i].stored = false;
    }
    for (size_t i = 0; i < w->c2d->record_count; i++) {
        w->c2d->records[i].seen = false;
    }
    if (nv_state_read(w->state, &self->op) != NV_OK) {
        model_fail(w, "the store takes nothing");
    }
    model_quiet(w);
    if (self->wrong) {
        model_fail(w, "message %llu as stored: %s", (unsigned long long)self->wrong_number, self->wrong);
    }
    if (!self->done || self->op.status != NV_OK) {
        model_fail(w, "the queues cannot be read");
    }
}

/* ---- one message ---- */

static bool lock_is_over(const model *w, const message *m)
{
    return model_now(w) >= m->locked_from_us + m->lock_us;
}

static uint32_t causes_of(const model *w, const message *m)
{
    uint32_t causes = m->causes;
    bool handed_back = m->unseen > 0 || m->state == MESSAGE_UNKNOWN || m->freed || m->loose ||
                       (m->state == MESSAGE_LOCKED && lock_is_over(w, m));
    causes |=
        m->deliveries + m->unseen >= MODEL_DELIVERIES && handed_back ? BIT(NV_FEEDBACK_DELIVERY_COUNT_EXCEEDED) : 0;
    causes |= model_wall(w) >= m->expires_us ? BIT(NV_FEEDBACK_EXPIRED) : 0;
    causes |= w->c2d->purging[m->slot] ? BIT(NV_FEEDBACK_PURGED) : 0;
    return causes;
}

static bool failing(const model *w)
{
    return w->injected || model_now(w) < w->c2d->failing_until_us;
}

/* @return why it cannot be there any more; NULL: it can */
static const char *overdue(const model *w, const message *m)
{
    if (m->ends) {
        return "it was completed or rejected";
    }
    if (failing(w) || m->state == MESSAGE_UNKNOWN) {
        return NULL;
    }
    bool counted_out = m->deliveries >= MODEL_DELIVERIES && !m->loose;
    return model_wall(w) >= m->expires_to_us ? "it expired"
           : counted_out && (m->abandoned || (m->state == MESSAGE_LOCKED && lock_is_over(w, m)))
               ? "it came back too often"
               : NULL;
}

static bool wants(nv_c2d_ack ack, uint32_t causes)
{
    bool good = ack == NV_ACK_POSITIVE || ack == NV_ACK_FULL;
    bool bad = ack == NV_ACK_NEGATIVE || ack == NV_ACK_FULL;
    return (good && (causes & BIT(NV_FEEDBACK_SUCCESS))) || (bad && (causes & ~BIT(NV_FEEDBACK_SUCCESS)));
}

/* It is gone: feedback as it wanted. */
static void check_feedback(model *w, const message *m, uint64_t number, uint32_t causes)
{
    const record *found = NULL;
    for (size_t i = 0; i < w->c2d->record_count; i++) {
        found = w->c2d->records[i].number == number ? &w->c2d->records[i] : found;
    }
    bool stirred = w->slots[m->slot].stirred;
    if (found && !((causes & BIT(found->status)) && wants(m->ack, BIT(found->status)))) {
        model_fail(w, "message %llu: feedback %d, and it ended by one of %x with ack %s", (unsigned long long)number,
                   (int)found->status, causes, nv_c2d_ack_name(m->ack));
    }
    bool must = causes != 0;
    for (uint32_t status = 0; status <= NV_FEEDBACK_PURGED; status++) {
        must = must && (!(causes & BIT(status)) || wants(m->ack, BIT(status)));
    }
    bool over = model_wall(w) >= m->expires_us + w->hub->limits.feedback_ttl_s * NV_US_PER_S ||
                model_now(w) - w->c2d->from_us >= w->hub->limits.feedback_ttl_s * NV_US_PER_S;
    if (!found && must && !stirred && !over) {
        model_fail(w, "message %llu with ack %s is gone (%x), and there is no feedback", (unsigned long long)number,
                   nv_c2d_ack_name(m->ack), causes);
    }
}

static void end_message(model *w, message *m, uint64_t number, uint64_t *unexplained)
{
    uint32_t causes = m->ends ? m->ends : causes_of(w, m);
    if (!causes && !w->slots[m->slot].stirred) {
        model_fail(w, "message %llu is gone for no reason", (unsigned long long)number);
    }
    check_feedback(w, m, number, causes);
    unexplained[m->slot] += causes & BIT(NV_FEEDBACK_PURGED) ? 1 : 0;
    w->done[DID_EXPIRED] += causes == BIT(NV_FEEDBACK_EXPIRED) ? 1 : 0;
    w->done[DID_DEAD] += causes == BIT(NV_FEEDBACK_DELIVERY_COUNT_EXCEEDED) ? 1 : 0;
    m->state = MESSAGE_GONE;
}

static message_state state_of(model *w, message *m)
{
    if (m->state == MESSAGE_UNKNOWN) {
        bool known = !failing(w) && model_now(w) >= m->unknown_us + 302 * NV_US_PER_S;
        m->later_causes = known ? 0 : m->later_causes;
        m->loose = true;
        return known ? MESSAGE_QUEUED : MESSAGE_UNKNOWN;
    }
    if (m->state != MESSAGE_LOCKED) {
        return MESSAGE_QUEUED;
    }
    bool over = lock_is_over(w, m);
    if ((m->freed || over) && (failing(w) || m->later_causes)) {
        m->unknown_us = model_now(w);
        return MESSAGE_UNKNOWN;
    }
    return m->freed || over ? MESSAGE_QUEUED : MESSAGE_LOCKED;
}

static void check_message(model *w, message *m, uint64_t number, uint64_t *unexplained)
{
    if (m->state == MESSAGE_GONE) {
        return;
    }
    m->expires_to_us = m->expires_to_us ? m->expires_to_us : m->expires_us + model_now(w) - w->c2d->from_us;
    if (!m->stored && (m->sent || m->handed)) {
        end_message(w, m, number, unexplained);
    } else if (!m->stored) {
        m->state = MESSAGE_GONE; /* its send failed */
    } else if (!m->sent) {
        model_fail(w, "message %llu is stored, and its sender was not told so", (unsigned long long)number);
    } else if (overdue(w, m)) {
        model_fail(w, "message %llu is stored, and %s", (unsigned long long)number, overdue(w, m));
    } else {
        m->loose = m->loose || failing(w);
        m->state = state_of(w, m);
    }
}

/* ---- requests ---- */

static uint64_t depth_before(const model *w, uint32_t slot)
{
    uint64_t depth = 0;
    for (size_t i = 0; i < w->c2d->count; i++) {
        const message *m = &w->c2d->messages[i];
        depth += m->slot == slot && m->before != MESSAGE_GONE && m->before != MESSAGE_SENDING ? 1 : 0;
    }
    return depth;
}

static const char *wrong_send(model *w, const request *r)
{
    bool maybe_absent = w->slots[r->slot].stirred || !w->slots[r->slot].exists;
    switch ((int)r->error) {
    case NV_HUB_ERROR_NONE:
        return r->bad ? "it is not valid" : NULL;
    case NV_HUB_ERROR_ArgumentInvalid:
        return r->bad ? NULL : "it is valid";
    case NV_HUB_ERROR_DeviceNotFound:
        return maybe_absent ? NULL : "the device is there";
    case NV_HUB_ERROR_DeviceMaximumQueueDepthExceeded:
        w->done[DID_FULL]++;
        return depth_before(w, r->slot) + w->c2d->sends[r->slot] > MODEL_DEPTH ? NULL : "the queue is not full";
    default:
        return model_store_failed(w, r->error) ? NULL : "no such answer is known";
    }
}

static const char *wrong_take(model *w, const request *r)
{
    bool maybe_absent = w->slots[r->slot].stirred || !w->slots[r->slot].exists;
    if (r->error == NV_HUB_ERROR_DeviceNotFound) {
        return maybe_absent ? NULL : "the device is there";
    }
    if (r->error != NV_HUB_ERROR_NONE) {
        return model_store_failed(w, r->error) ? NULL : "no such answer is known";
    }
    for (size_t i = 0; i < w->c2d->count && !r->take.message && !maybe_absent && !failing(w); i++) {
        const message *m = &w->c2d->messages[i];
        if (m->slot == r->slot && m->state == MESSAGE_UNKNOWN) {
            return NULL; /* what is behind it may wait */
        }
        if (m->slot == r->slot && m->before == MESSAGE_QUEUED && m->state == MESSAGE_QUEUED && !m->handed &&
            !m->unseen) {
            return "a message was there all the time";
        }
    }
    return NULL;
}

static const char *wrong_settle(model *w, const request *r)
{
    const message *m = message_numbered(w, r->number);
    bool overtaken =
        w->slots[r->slot].stirred || failing(w) || model_wall(w) >= m->expires_us || model_now(w) != w->c2d->from_us;
    if (r->error == NV_HUB_ERROR_DeviceMessageLockLost) {
        w->done[DID_LOCK_LOST]++;
        return r->certain && !overtaken ? "its lock was held" : NULL;
    }
    if (r->error == NV_HUB_ERROR_NONE) {
        w->done[DID_SETTLED]++;
        return r->lost ? "its lock was lost" : NULL;
    }
    return model_store_failed(w, r->error) ? NULL : "no such answer is known";
}

static const char *wrong_purge(model *w, const request *r)
{
    if (r->error == NV_HUB_ERROR_DeviceNotFound) {
        return w->slots[r->slot].stirred || !w->slots[r->slot].exists ? NULL : "the device is there";
    }
    return r->error == NV_HUB_ERROR_NONE || model_store_failed(w, r->error) ? NULL : "no such answer is known";
}

static void check_requests(model *w)
{
    static const char *const names[] = {"send", "take", "settle", "purge"};
    static const char *(*const checks[])(model * w, const request *r) = {wrong_send, wrong_take, wrong_settle,
                                                                         wrong_purge};
    for (size_t i = 0; i < w->c2d->request_count; i++) {
        const request *r = w->c2d->requests[i];
        const char *wrong = r->done ? checks[r->kind](w, r) : "there is no answer";
        if (wrong) {
            model_fail(w, "%s of %s (message %llu) is answered %s: %s", names[r->kind], w->slots[r->slot].device,
                       (unsigned long long)r->number, nv_hub_error_info_of(r->error)->name, wrong);
        }
    }
}

/* ---- order and liveness ---- */

/* Nothing is handed out before what stood in front of it all the time. */
static void check_order(model *w)
{
    const model_queues *q = w->c2d;
    for (size_t i = 0; i < q->count; i++) {
        const message *waits = &q->messages[i];
        bool all_the_time =
            waits->before == MESSAGE_QUEUED && waits->state == MESSAGE_QUEUED && !waits->handed && !waits->unseen;
        for (size_t k = 0; k < q->count && all_the_time && !failing(w); k++) {
            const message *m = &q->messages[k];
            if (m->slot == waits->slot && m->handed && m->sequence > waits->sequence && !w->slots[m->slot].stirred) {
                model_fail(w, "message %zu is handed out before message %zu, which was there", k + 1, i + 1);
            }
        }
    }
}

static uint32_t locked_by(const model *w, uint64_t conn)
{
    uint32_t count = 0;
    for (size_t i = 0; i < w->c2d->count; i++) {
        const message *m = &w->c2d->messages[i];
        count += m->state == MESSAGE_LOCKED && m->conn == conn ? 1 : 0;
    }
    return count;
}

static bool some_are(const model *w, uint32_t slot, message_state state)
{
    for (size_t i = 0; i < w->c2d->count; i++) {
        if (w->c2d->messages[i].slot == slot && w->c2d->messages[i].state == state) {
            return true;
        }
    }
    return false;
}

static void check_receivers(model *w)
{
    for (nv_list *node = w->conns.next; node != &w->conns; node = node->next) {
        const model_conn *conn = nv_container_of(node, model_conn, link);
        const model_receiver *receiver = conn->receiver;
        if (!receiver || !receiver->attached) {
            continue;
        }
        uint32_t locked = locked_by(w, conn->number);
        bool unknown = failing(w) || some_are(w, conn->slot, MESSAGE_UNKNOWN);
        if (locked > receiver->credit) {
            model_fail(w, "conn %llu has %u messages, and credit for %u", (unsigned long long)conn->number, locked,
                       receiver->credit);
        }
        if (!unknown && locked < receiver->credit && some_are(w, conn->slot, MESSAGE_QUEUED)) {
            model_fail(w, "conn %llu has credit for %u messages and %u of them, and others wait",
                       (unsigned long long)conn->number, receiver->credit, locked);
        }
    }
}

/* ---- all of it ---- */

static void check_records(model *w)
{
    for (size_t i = 0; i < w->c2d->record_count; i++) {
        record *r = &w->c2d->records[i];
        bool over = model_wall(w) >= r->expires_us;
        if (r->gone) {
            continue;
        }
        if (r->seen && model_wall(w) >= r->expires_to_us && !failing(w) && r->locked_until_us <= model_now(w)) {
            model_fail(w, "feedback of message %llu is there, and expired", (unsigned long long)r->number);
        }
        bool reason = over || w->slots[r->slot].stirred || r->deliveries >= 10;
        if (!r->seen && !reason) {
            model_fail(w, "feedback of message %llu is gone for no reason", (unsigned long long)r->number);
        }
        r->gone = !r->seen;
    }
}

/* Its lock may be over or not: some time later it is. @return how much later; 0: it is not in doubt */
static int64_t doubt_us(const model *w, const message *m)
{
    int64_t surely_us = m->locked_to_us + m->lock_us - model_now(w);
    return m->state == MESSAGE_LOCKED && !m->freed && lock_is_over(w, m) && surely_us > 0 ? surely_us : 0;
}

/* What the hub tries again a second later: after the store failed, or when something else was on its way. */
static bool is_late(const model *w)
{
    bool late = false;
    for (size_t i = 0; i < w->c2d->request_count && failing(w); i++) {
        late = late || !w->c2d->requests[i]->done;
    }
    for (size_t i = 0; i < w->c2d->count; i++) {
        const message *m = &w->c2d->messages[i];
        bool over = m->expires_to_us && model_wall(w) >= m->expires_to_us;
        late = late || (m->stored && m->state != MESSAGE_GONE && over);
    }
    for (size_t i = 0; i < w->c2d->record_count; i++) {
        const record *r = &w->c2d->records[i];
        late = late || (r->seen && model_wall(w) >= r->expires_to_us);
    }
    return late;
}

static void resolve_doubts(model *w)
{
    for (size_t i = 0; i < w->c2d->count; i++) {
        int64_t us = doubt_us(w, &w->c2d->messages[i]);
        if (us > 0) {
            model_advance(w, us);
            model_quiet(w);
            model_conn_settle(w);
            i = 0;
        }
    }
}

void model_c2d_settle(model *w)
{
    snapshot all;
    resolve_doubts(w);
    look(w, &all, false);
    for (int i = 0; i < 3 && is_late(w); i++) {
        model_advance(w, 1100000);
        model_quiet(w);
        model_conn_settle(w);
        resolve_doubts(w);
        look(w, &all, false);
    }
}

void model_c2d_check(model *w)
{
    snapshot all;
    uint64_t maybe_purged[MODEL_SLOTS] = {0};
    look(w, &all, true);
    for (size_t i = 0; i < w->c2d->count; i++) {
        check_message(w, &w->c2d->messages[i], i + 1, maybe_purged);
    }
    for (uint32_t i = 0; i < MODEL_DEVICES; i++) {
        bool stirred = w->slots[i].stirred;
        if (all.depth[i] > MODEL_DEPTH) {
            model_fail(w, "%s has %llu messages", w->slots[i].device, (unsigned long long)all.depth[i]);
        }
        if (w->c2d->purged[i] > maybe_purged[i] && !stirred) {
            model_fail(w, "%s: %llu were purged, and %llu are gone", w->slots[i].device,
                       (unsigned long long)w->c2d->purged[i], (unsigned long long)maybe_purged[i]);
        }
    }
    check_records(w);
    check_requests(w);
    check_order(w);
    check_receivers(w);
}
