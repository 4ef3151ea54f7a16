#include "session/amqp/engine_impl.h"

#include "base/alloc.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- the budget --------------------------------------------------------------------------------------------- */

static bool over_budget(const nv_amqp_conn *conn)
{
    const nv_amqp_conn_private *p = conn->_p;
    size_t max = conn->config.max_unsettled_bytes;
    return max > 0 && p->unsettled_bytes + p->partial_bytes > max;
}

void engine_look_at_budget(nv_amqp_conn *conn)
{
    nv_amqp_conn_private *p = conn->_p;
    if (p->stops & ENGINE_STOP_BUDGET) {
        /* with nothing left to settle only reading on can help */
        if (!over_budget(conn) || p->unsettled == 0) {
            engine_go(conn, ENGINE_STOP_BUDGET);
        }
    } else if (NV_UNLIKELY(over_budget(conn) && p->unsettled > 0)) {
        engine_stop(conn, ENGINE_STOP_BUDGET);
    }
}

void engine_release(nv_amqp_conn *conn, const engine_entry *entry)
{
    conn->_p->unsettled--;
    conn->_p->unsettled_bytes -= entry->size;
}

/* ---- credit ------------------------------------------------------------------------------------------------- */

void engine_give_credit(engine_link *l)
{
    uint32_t used = l->ring.live;
    l->pub.credit = l->window > used ? l->window - used : 0;
    uint32_t limit = l->delivery_count + l->pub.credit;
    if (engine_before(l->limit, limit)) {
        l->limit = limit;
    }
    engine_send_flow(engine_link_session(l), l, false);
}

void engine_top_up(engine_link *l)
{
    uint32_t used = l->ring.live + l->pub.credit;
    if (l->window > used && l->window - used >= (l->window + 1) / 2) {
        engine_give_credit(l);
    }
}

void nv_amqp_link_set_credit(nv_amqp_link *link, uint32_t credit)
{
    engine_link *l = engine_link_of(link);
    if (link->sender || l->window == credit) {
        return;
    }
    l->window = credit;
    if (l->state != ENGINE_LINK_ATTACHED || !engine_is_open(link->conn)) {
        return;
    }
    engine_enter(link->conn);
    engine_give_credit(l);
    engine_leave(link->conn);
}

void engine_on_sender_flow(engine_link *l, const nv_amqp_flow *flow)
{
    /* It has used credit up without a transfer: drain. Its link-credit is of no interest (amqp.md section 2.1). */
    if (NV_AMQP_HAS(flow, flow, delivery_count) && l->state == ENGINE_LINK_ATTACHED) {
        uint32_t used = flow->delivery_count - l->delivery_count;
        if (used <= l->limit - l->delivery_count) {
            l->delivery_count += used;
            l->pub.credit -= used < l->pub.credit ? used : l->pub.credit;
        }
    }
}

/* ---- deliveries --------------------------------------------------------------------------------------------- */

void engine_partial_drop(engine_link *l)
{
    if (l->partial) {
        l->pub.conn->_p->partial_bytes -= nv_buf_len(&l->partial->bytes);
        nv_buf_deinit(&l->partial->bytes);
        free(l->partial);
        l->partial = NULL;
    }
}

static void count_frame(engine_session *s)
{
    s->next_incoming_id++;
    s->incoming_left--;
    if (NV_UNLIKELY(s->incoming_left < ENGINE_WINDOW / 2) && s->state == ENGINE_SESSION_BEGUN &&
        engine_is_open(s->pub.conn) && !(s->pub.conn->_p->stops & ENGINE_STOP_BUDGET)) {
        engine_send_flow(s, NULL, false);
    }
}

/* One of the credit is used, and a number. */
static void count_delivery(engine_link *l, uint32_t id)
{
    engine_session *s = engine_link_session(l);
    s->last_delivery = id;
    s->has_delivery = true;
    l->delivery_count++;
    if (l->pub.credit > 0) {
        l->pub.credit--;
    }
}

/* Give a whole delivery to the owner. @return false: not now */
static bool hand_over(engine_link *l, const nv_amqp_delivery *delivery)
{
    nv_amqp_conn *conn = l->pub.conn;
    nv_amqp_conn_private *p = conn->_p;
    const nv_amqp_link_ops *ops = l->pub.ops;
    if (!delivery->settled) {
        engine_entry entry = {.id = delivery->id, .size = (uint32_t)delivery->bytes.len & ENGINE_MESSAGE_MASK};
        if (!engine_ring_push(&l->ring, &entry)) {
            engine_fail(conn, NV_AMQP_ERR_INTERNAL_ERROR, "out of memory");
            return true;
        }
        p->unsettled++;
        p->unsettled_bytes += entry.size;
        if (!nv_list_linked(&l->pending)) {
            nv_list_push_back(&engine_link_session(l)->receiving, &l->pending);
        }
    }
    bool taken = !ops || !ops->delivery || ops->delivery(&l->pub, delivery);
    if (NV_LIKELY(taken)) {
        return true;
    }
    if (l->state == ENGINE_LINK_ATTACHED && engine_is_open(conn)) {
        engine_entry entry = {.size = (uint32_t)delivery->bytes.len & ENGINE_MESSAGE_MASK};
        if (!delivery->settled && engine_ring_unpush(&l->ring, delivery->id)) {
            engine_release(conn, &entry);
            if (l->ring.live == 0) {
                nv_list_remove(&l->pending);
            }
        }
        engine_stop(conn, ENGINE_STOP_DELIVERY);
        return false;
    }
    return true;
}

static void after_delivery(engine_link *l, bool settled)
{
    engine_look_at_budget(l->pub.conn);
    if (settled && l->state == ENGINE_LINK_ATTACHED && engine_is_open(l->pub.conn)) {
        engine_top_up(l);
    }
}

/* A transfer that is a delivery. */
static bool take_single(engine_link *l, const nv_amqp_transfer *t, nv_span payload)
{
    engine_session *s = engine_link_session(l);
    bool had = s->has_delivery;
    uint32_t last = s->last_delivery;
    uint32_t credit = l->pub.credit;
    nv_amqp_delivery delivery = {.id = t->delivery_id,
                                 .tag = t->delivery_tag,
                                 .format = t->message_format,
                                 .settled = t->settled,
                                 .bytes = payload};
    count_delivery(l, t->delivery_id);
    if (NV_UNLIKELY(!hand_over(l, &delivery))) {
        l->delivery_count--;
        l->pub.credit = credit;
        s->has_delivery = had;
        s->last_delivery = last;
        return false;
    }
    after_delivery(l, t->settled);
    return true;
}

static void begin_partial(engine_link *l, const nv_amqp_transfer *t)
{
    engine_partial *partial = nv_calloc(1, sizeof(*partial));
    nv_buf_init(&partial->bytes, l->max_message < SIZE_MAX ? (size_t)l->max_message : SIZE_MAX);
    partial->id = t->delivery_id;
    partial->format = t->message_format;
    partial->tag_len = (uint8_t)t->delivery_tag.len;
    if (t->delivery_tag.len > 0) {
        memcpy(partial->tag, t->delivery_tag.ptr, t->delivery_tag.len);
    }
    l->partial = partial;
    count_delivery(l, t->delivery_id);
}

/* The last frame is here. @return false: not now */
static bool complete(engine_link *l, size_t last_len)
{
    nv_amqp_conn_private *p = l->pub.conn->_p;
    engine_partial *partial = l->partial;
    nv_amqp_delivery delivery = {.id = partial->id,
                                 .tag = nv_span_of(partial->tag, partial->tag_len),
                                 .format = partial->format,
                                 .settled = partial->settled,
                                 .bytes = nv_buf_span(&partial->bytes)};
    l->partial = NULL; /* the owner may detach the link meanwhile */
    p->partial_bytes -= delivery.bytes.len;
    if (!hand_over(l, &delivery)) {
        l->partial = partial;
        nv_buf_truncate(&partial->bytes, nv_buf_len(&partial->bytes) - last_len); /* the frame comes again */
        p->partial_bytes += nv_buf_len(&partial->bytes);
        return false;
    }
    after_delivery(l, partial->settled);
    nv_buf_deinit(&partial->bytes);
    free(partial);
    return true;
}

static bool take_part(engine_link *l, const nv_amqp_transfer *t, nv_span payload)
{
    nv_amqp_conn *conn = l->pub.conn;
    nv_amqp_conn_private *p = conn->_p;
    if (NV_AMQP_HAS(t, transfer, delivery_id) && t->delivery_id != l->partial->id) {
        engine_session_fail(engine_link_session(l), NV_AMQP_ERR_NOT_ALLOWED,
                            "delivery %" PRIu32 " begins inside of %" PRIu32, t->delivery_id, l->partial->id);
        return true;
    }
    if (t->aborted) {
        engine_partial_drop(l);
        after_delivery(l, true);
        return true;
    }
    if (nv_buf_len(&l->partial->bytes) + payload.len > l->max_message) {
        engine_link_fail(l, NV_AMQP_ERR_MESSAGE_SIZE_EXCEEDED, "a message of more than %" PRIu64 " bytes",
                         l->max_message);
        return true;
    }
    if (nv_buf_append(&l->partial->bytes, payload) != NV_OK) {
        engine_link_fail(l, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED, "out of memory for a message");
        return true;
    }
    p->partial_bytes += payload.len;
    l->partial->settled = l->partial->settled || t->settled;
    if (!t->more) {
        return complete(l, payload.len);
    }
    if (over_budget(conn) && p->unsettled == 0) { /* nothing that is settled can make room */
        engine_link_fail(l, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED, "too many bytes of incomplete messages");
    } else {
        engine_look_at_budget(conn);
    }
    return true;
}

/* The rules for the first frame of a delivery. @return false: broken, the link or its session has been told */
static bool may_begin(engine_link *l, const nv_amqp_transfer *t)
{
    engine_session *s = engine_link_session(l);
    if (!NV_AMQP_HAS(t, transfer, delivery_id)) {
        engine_link_fail(l, NV_AMQP_ERR_INVALID_FIELD, "transfer: a delivery begins without delivery-id");
        return false;
    }
    if (s->has_delivery && !engine_before(s->last_delivery, t->delivery_id)) {
        engine_session_fail(s, NV_AMQP_ERR_INVALID_FIELD, "delivery-id %" PRIu32 " after %" PRIu32, t->delivery_id,
                            s->last_delivery);
        return false;
    }
    if (t->delivery_tag.len > ENGINE_TAG_MAX) {
        engine_link_fail(l, NV_AMQP_ERR_INVALID_FIELD, "delivery-tag of more than %u bytes", ENGINE_TAG_MAX);
        return false;
    }
    if (t->resume) { /* the unsettled map of our ATTACH was empty (part 2 section 2.6.13) */
        engine_link_fail(l, NV_AMQP_ERR_ILLEGAL_STATE, "no delivery can be resumed here");
        return false;
    }
    if (!engine_before(l->delivery_count, l->limit)) {
        engine_link_fail(l, NV_AMQP_ERR_TRANSFER_LIMIT_EXCEEDED, "a delivery without credit");
        return false;
    }
    return true;
}

static bool take_transfer(engine_link *l, const nv_amqp_transfer *t, nv_span payload)
{
    if (l->partial) {
        return take_part(l, t, payload);
    }
    if (!may_begin(l, t)) {
        return true;
    }
    if (t->aborted) {
        count_delivery(l, t->delivery_id);
        after_delivery(l, true);
        return true;
    }
    if (payload.len > l->max_message) {
        engine_link_fail(l, NV_AMQP_ERR_MESSAGE_SIZE_EXCEEDED, "a message of more than %" PRIu64 " bytes",
                         l->max_message);
        return true;
    }
    if (t->more) {
        begin_partial(l, t);
        return take_part(l, t, payload);
    }
    return take_single(l, t, payload);
}

bool engine_on_transfer(nv_amqp_conn *conn, engine_session *s, const nv_amqp_transfer *transfer, nv_span payload)
{
    if (NV_UNLIKELY(s->incoming_left == 0)) {
        engine_session_fail(s, NV_AMQP_ERR_WINDOW_VIOLATION, "a transfer outside of the session's window");
        return true;
    }
    engine_link *l = engine_index_get(&s->by_handle, transfer->handle);
    if (NV_UNLIKELY(!l)) {
        engine_session_fail(s, NV_AMQP_ERR_UNATTACHED_HANDLE, "a transfer on handle %" PRIu32 ", which is not attached",
                            transfer->handle);
        return true;
    }
    if (NV_UNLIKELY(l->held != NULL)) {
        engine_stop(conn, ENGINE_STOP_ATTACH);
        return false;
    }
    if (NV_LIKELY(l->state == ENGINE_LINK_ATTACHED)) {
        if (l->pub.sender) {
            engine_link_fail(l, NV_AMQP_ERR_NOT_ALLOWED, "a transfer to the sender");
        } else if (!take_transfer(l, transfer, payload)) {
            return false;
        }
    } else if (NV_AMQP_HAS(transfer, transfer, delivery_id)) {
        s->last_delivery = transfer->delivery_id; /* it crossed our DETACH */
        s->has_delivery = true;
    }
    count_frame(s);
    return true;
}
