#include "session/amqp/engine_impl.h"

#include "base/bytes.h"

/* ---- our DISPOSITION ---------------------------------------------------------------------------------------- */

#define RANGE_AT 16u /* of `first` in the frame of a plain one; `last` is 5 bytes behind it */

/* What can share a DISPOSITION has the same code. 0: nothing else can */
static uint8_t share_code(const nv_amqp_outcome *outcome)
{
    switch (outcome->kind) {
    case NV_AMQP_OUT_NONE:
        return 1;
    case NV_AMQP_OUT_ACCEPTED:
        return 2;
    case NV_AMQP_OUT_RELEASED:
        return 3;
    case NV_AMQP_OUT_MODIFIED:
        return (uint8_t)(4 + outcome->delivery_failed + 2 * outcome->undeliverable_here);
    case NV_AMQP_OUT_REJECTED:
    case NV_AMQP_OUT_OTHER:
        return 0;
    }
    return 0;
}

static void put_state(nv_amqp_conn *conn, nv_writer *w, const nv_amqp_outcome *outcome)
{
    uint8_t error[ENGINE_ERROR_ROOM];
    nv_amqp_performative p = {.code = NV_AMQP_ACCEPTED};
    switch (outcome->kind) {
    case NV_AMQP_OUT_NONE:
    case NV_AMQP_OUT_OTHER:
        nv_amqp_put_null(w);
        return;
    case NV_AMQP_OUT_ACCEPTED:
        break;
    case NV_AMQP_OUT_REJECTED:
        p.code = NV_AMQP_REJECTED;
        p.rejected.error = engine_put_problem(conn, &outcome->problem, error);
        break;
    case NV_AMQP_OUT_RELEASED:
        p.code = NV_AMQP_RELEASED;
        break;
    case NV_AMQP_OUT_MODIFIED:
        p.code = NV_AMQP_MODIFIED;
        NV_AMQP_SET(&p.modified, modified, delivery_failed, outcome->delivery_failed);
        NV_AMQP_SET(&p.modified, modified, undeliverable_here, outcome->undeliverable_here);
        break;
    }
    nv_amqp_encode(w, &p);
}

/* The last thing in the output is a DISPOSITION that these can join. */
static bool join_last(nv_amqp_conn *conn, const engine_session *s, uint8_t role, uint8_t code, uint32_t first,
                      uint32_t last)
{
    nv_amqp_conn_private *p = conn->_p;
    nv_buf *out = conn->session.out;
    if (p->tail.at != p->written || p->tail.session != &s->pub || p->tail.role != role || p->tail.state != code ||
        nv_buf_len(out) < p->tail.size) {
        return false;
    }
    uint8_t *frame = out->data + out->end - p->tail.size;
    if (first == p->tail.last + 1) {
        p->tail.last = last;
    } else if (last + 1 == p->tail.first) {
        p->tail.first = first;
    } else {
        return false;
    }
    nv_store_u32_be(frame + RANGE_AT, p->tail.first);
    nv_store_u32_be(frame + RANGE_AT + 5, p->tail.last);
    return true;
}

/* @p role  0x42: we are the sender of the deliveries, 0x41: their receiver */
static void send_disposition(engine_session *s, uint8_t role, uint32_t first, uint32_t last,
                             const nv_amqp_outcome *outcome)
{
    nv_amqp_conn *conn = s->pub.conn;
    nv_amqp_conn_private *p = conn->_p;
    uint8_t code = share_code(outcome);
    if (code != 0 && join_last(conn, s, role, code, first, last)) {
        return;
    }
    uint8_t state[ENGINE_ERROR_ROOM + 64];
    nv_writer w = nv_writer_of(state, sizeof(state));
    put_state(conn, &w, outcome);
    size_t len = nv_writer_len(&w);
    engine_frame f;
    if (!engine_frame_begin(&f, conn, NV_AMQP_FRAME_AMQP, s->pub.channel, 64 + len)) {
        return;
    }
    if (code == 0) {
        nv_amqp_disposition d = {.state = nv_writer_span(&w)};
        NV_AMQP_SET(&d, disposition, role, role == 0x41);
        NV_AMQP_SET(&d, disposition, first, first);
        NV_AMQP_SET(&d, disposition, last, last);
        NV_AMQP_SET(&d, disposition, settled, true);
        NV_AMQP_SET(&d, disposition, batchable, false);
        nv_amqp_encode_disposition(&f.w, &d);
        (void)engine_frame_end(&f);
        return;
    }
    /* by hand, with wide numbers: what is settled next may change them */
    const uint8_t head[] = {0x00, 0x53, NV_AMQP_DISPOSITION, 0xc0, (uint8_t)(1 + 1 + 5 + 5 + 1 + len + 1), 6, role};
    nv_write_span(&f.w, nv_span_of(head, sizeof(head)));
    nv_write_u8(&f.w, 0x70);
    nv_write_u32_be(&f.w, first);
    nv_write_u8(&f.w, 0x70);
    nv_write_u32_be(&f.w, last);
    nv_write_u8(&f.w, 0x41);
    nv_write_span(&f.w, nv_writer_span(&w));
    nv_write_u8(&f.w, 0x42);
    if (engine_frame_end(&f)) {
        p->tail.at = p->written;
        p->tail.session = &s->pub;
        p->tail.first = first;
        p->tail.last = last;
        p->tail.size = (uint32_t)nv_writer_len(&f.w);
        p->tail.role = role;
        p->tail.state = code;
    }
}

/* The owner is done with it. */
static void settle_entry(engine_link *l, engine_entry *entry)
{
    if (!l->pub.sender) {
        engine_release(l->pub.conn, entry);
    }
    engine_ring_settle(&l->ring, entry);
    if (l->ring.live == 0) {
        nv_list_remove(&l->pending);
    }
}

void nv_amqp_link_settle(nv_amqp_link *link, uint32_t id, const nv_amqp_outcome *outcome)
{
    engine_link *l = engine_link_of(link);
    nv_amqp_conn *conn = link->conn;
    engine_entry *entry = l->state == ENGINE_LINK_ATTACHED ? engine_ring_find(&l->ring, id) : NULL;
    if (!entry || !engine_is_open(conn)) {
        return;
    }
    engine_enter(conn);
    settle_entry(l, entry);
    send_disposition(engine_link_session(l), link->sender ? 0x42 : 0x41, id, id, outcome);
    if (!link->sender) {
        engine_look_at_budget(conn);
        engine_top_up(l);
    }
    engine_leave(conn);
}

void nv_amqp_link_settle_oldest(nv_amqp_link *link, uint32_t count, const nv_amqp_outcome *outcome)
{
    engine_link *l = engine_link_of(link);
    nv_amqp_conn *conn = link->conn;
    if (l->state != ENGINE_LINK_ATTACHED || !engine_is_open(conn) || link->sender) {
        return;
    }
    engine_enter(conn);
    engine_session *s = engine_link_session(l);
    uint32_t left = count;
    while (left > 0 && l->ring.live > 0) {
        /* one run of consecutive ids; the head of the ring is never a settled one */
        uint32_t first = engine_ring_at(&l->ring, 0)->id;
        uint32_t next = first;
        while (left > 0 && l->ring.count > 0 && engine_ring_at(&l->ring, 0)->id == next) {
            settle_entry(l, engine_ring_at(&l->ring, 0));
            next++;
            left--;
        }
        send_disposition(s, 0x41, first, next - 1, outcome);
    }
    engine_look_at_budget(conn);
    engine_top_up(l);
    engine_leave(conn);
}

/* ---- the peer's DISPOSITION --------------------------------------------------------------------------------- */

static nv_amqp_outcome outcome_of(const nv_amqp_disposition *d)
{
    nv_amqp_outcome outcome = {.kind = NV_AMQP_OUT_NONE, .settled = d->settled};
    nv_amqp_performative p;
    if (d->state.len == 0) {
        return outcome;
    }
    outcome.kind = NV_AMQP_OUT_OTHER;
    if (nv_amqp_decode_span(d->state, &p) != NV_OK) {
        return outcome;
    }
    switch ((int)p.code) {
    case NV_AMQP_ACCEPTED:
        outcome.kind = NV_AMQP_OUT_ACCEPTED;
        break;
    case NV_AMQP_REJECTED:
        outcome.kind = NV_AMQP_OUT_REJECTED;
        outcome.problem = engine_problem_of(p.rejected.error);
        break;
    case NV_AMQP_RELEASED:
        outcome.kind = NV_AMQP_OUT_RELEASED;
        break;
    case NV_AMQP_MODIFIED:
        outcome.kind = NV_AMQP_OUT_MODIFIED;
        outcome.delivery_failed = p.modified.delivery_failed;
        outcome.undeliverable_here = p.modified.undeliverable_here;
        break;
    default:
        break;
    }
    return outcome;
}

/* It says that it is done with what it sent: nothing is left to settle. */
static void on_sender_settled(engine_session *s, uint32_t first, uint32_t last)
{
    nv_amqp_conn *conn = s->pub.conn;
    for (nv_list *node = s->receiving.next; node != &s->receiving;) {
        engine_link *l = nv_container_of(node, engine_link, pending);
        node = node->next; /* one that has nothing left leaves the list */
        engine_entry *entry;
        while ((entry = engine_ring_from(&l->ring, first)) != NULL && !engine_before(last, entry->id)) {
            settle_entry(l, entry);
        }
        engine_top_up(l);
    }
    engine_look_at_budget(conn);
}

/* Outcomes for what one link sent. The owner may end anything meanwhile. @return whether the range named any */
static bool tell_outcomes(engine_link *l, uint32_t first, uint32_t last, const nv_amqp_outcome *outcome)
{
    bool any = false;
    uint32_t next = first;
    engine_entry *entry;
    while (l->state == ENGINE_LINK_ATTACHED && engine_is_open(l->pub.conn) &&
           (entry = engine_ring_from(&l->ring, next)) != NULL && !engine_before(last, entry->id)) {
        any = true;
        uint32_t id = entry->id;
        uint64_t cookie = entry->cookie;
        next = id + 1;
        if (outcome->settled) {
            settle_entry(l, entry);
        }
        if (l->pub.ops && l->pub.ops->outcome) {
            l->pub.ops->outcome(&l->pub, id, cookie, outcome);
        } else if (!outcome->settled) {
            nv_amqp_link_settle(&l->pub, id, outcome);
        }
    }
    return any;
}

static void on_receiver_settled(engine_session *s, uint32_t first, uint32_t last, const nv_amqp_outcome *outcome)
{
    if (outcome->kind == NV_AMQP_OUT_OTHER && !outcome->settled) {
        return; /* a state on the way */
    }
    bool any = false;
    nv_list todo;
    nv_list_init(&todo);
    nv_list_splice(&todo, &s->pending);
    nv_list *node;
    while ((node = nv_list_pop_front(&todo)) != NULL) {
        engine_link *l = nv_container_of(node, engine_link, pending);
        nv_list_push_back(&s->pending, node);
        any = tell_outcomes(l, first, last, outcome) || any;
    }
    /* nobody waits to hear of it, or it was settled before: it is settled back, so that the peer can forget it */
    if (!any && !outcome->settled && s->state == ENGINE_SESSION_BEGUN && engine_is_open(s->pub.conn) &&
        engine_before(last, s->next_delivery)) {
        send_disposition(s, 0x42, first, last, outcome);
    }
}

void engine_on_disposition(nv_amqp_conn *conn, engine_session *s, const nv_amqp_disposition *d)
{
    (void)conn;
    uint32_t last = NV_AMQP_HAS(d, disposition, last) ? d->last : d->first;
    if (engine_before(last, d->first)) {
        engine_session_fail(s, NV_AMQP_ERR_INVALID_FIELD, "disposition: last is before first");
        return;
    }
    if (d->role) {
        nv_amqp_outcome outcome = outcome_of(d);
        on_receiver_settled(s, d->first, last, &outcome);
    } else if (d->settled) {
        on_sender_settled(s, d->first, last);
    }
}
