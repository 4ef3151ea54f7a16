#include "session/amqp/engine_impl.h"

#include "base/bytes.h"

#include <assert.h>
#include <stdlib.h>

/* ---- the head of a TRANSFER, written by hand ------------------------------------------------------------------ */

#define HEAD_MAX   80u
#define FRAME_MOST 65536u /* whatever the peer would take: a frame goes into the output whole */

/** Frame header and performative; the payload follows. */
typedef struct transfer_head {
    uint8_t bytes[HEAD_MAX];
    uint32_t len;
    uint32_t more_at;
} transfer_head;

static inline uint8_t *put32(uint8_t *at, uint32_t value)
{
    nv_store_u32_be(at, value);
    return at + 4;
}

static inline uint8_t *put_uint(uint8_t *at, uint32_t value)
{
    if (value == 0) {
        *at++ = 0x43;
        return at;
    }
    if (value <= UINT8_MAX) {
        *at++ = 0x52;
        *at++ = (uint8_t)value;
        return at;
    }
    *at++ = 0x70;
    return put32(at, value);
}

static inline uint8_t *put_boolean(uint8_t *at, bool value)
{
    *at++ = value ? 0x41 : 0x42;
    return at;
}

/* All eleven fields (amqp.md section 7.6), `more` false. */
static inline transfer_head make_head(const engine_link *l, const engine_head *head)
{
    transfer_head out;
    uint8_t *at = out.bytes;
    nv_amqp_write_frame_header(at, NV_AMQP_FRAME_AMQP, l->pub.session->channel, 0);
    at += NV_AMQP_FRAME_HEADER_SIZE;
    static const uint8_t list[] = {0x00, 0x53, NV_AMQP_TRANSFER, 0xc0, 0, NV_AMQP_COUNT_OF_transfer};
    memcpy(at, list, sizeof(list));
    uint8_t *size_at = at + 4;
    at += sizeof(list);
    at = put_uint(at, l->handle);
    at = put_uint(at, head->id);
    *at++ = 0xa0;
    *at++ = head->tag_len;
    memcpy(at, head->tag, head->tag_len);
    at += head->tag_len;
    at = put_uint(at, head->format);
    at = put_boolean(at, head->settled);
    out.more_at = (uint32_t)(at - out.bytes);
    at = put_boolean(at, false);
    static const uint8_t rest[] = {0x40, 0x40, 0x40, 0x40,
                                   0x40}; /* rcv-settle-mode, state, resume, aborted, batchable */
    memcpy(at, rest, sizeof(rest));
    at += sizeof(rest);
    out.len = (uint32_t)(at - out.bytes);
    *size_at = (uint8_t)(at - size_at - 1);
    return out;
}

/* ---- frames ------------------------------------------------------------------------------------------------- */

/** A message in two pieces, sent from `at` on. */
typedef struct outgoing {
    nv_span head;
    nv_span body;
    size_t at;
} outgoing;

static size_t left_of(const outgoing *m)
{
    return m->head.len + m->body.len - m->at;
}

static void copy_out(outgoing *m, uint8_t *to, size_t len)
{
    if (m->at < m->head.len) {
        size_t part = m->head.len - m->at < len ? m->head.len - m->at : len;
        memcpy(to, m->head.ptr + m->at, part);
        m->at += part;
        to += part;
        len -= part;
    }
    if (len > 0) {
        memcpy(to, m->body.ptr + (m->at - m->head.len), len);
        m->at += len;
    }
}

/* Send frames while window and output allow. @return true: the last one is out */
static bool send_frames(engine_link *l, const engine_head *head, outgoing *m)
{
    nv_amqp_conn *conn = l->pub.conn;
    engine_session *s = engine_link_session(l);
    transfer_head t = make_head(l, head);
    uint32_t frame = conn->peer_max_frame < FRAME_MOST ? conn->peer_max_frame : FRAME_MOST;
    size_t most = frame - t.len;
    for (;;) {
        size_t left = left_of(m);
        size_t len = left < most ? left : most;
        if (s->remote_window == 0 ||
            (m->at > 0 && nv_buf_len(conn->session.out) > conn->config.output_mark + ENGINE_OUTPUT_SLACK)) {
            return false;
        }
        uint8_t *room = engine_reserve(conn, t.len + len);
        if (!room) {
            return true; /* the connection ends */
        }
        bool more = len < left;
        t.bytes[t.more_at] = more ? 0x41 : 0x42;
        (void)put32(t.bytes, (uint32_t)(t.len + len));
        memcpy(room, t.bytes, t.len);
        copy_out(m, room + t.len, len);
        engine_commit(conn, t.len + len);
        s->next_outgoing_id++;
        s->remote_window--;
        if (!more) {
            return true;
        }
    }
}

static nv_err keep_rest(engine_link *l, const engine_head *head, outgoing *m)
{
    size_t len = left_of(m);
    engine_rest *rest = malloc(sizeof(*rest) + len);
    if (!rest) {
        return NV_E_NO_MEMORY;
    }
    rest->head = *head;
    rest->at = 0;
    rest->len = len;
    copy_out(m, rest->bytes, len);
    l->rest = rest;
    return NV_OK;
}

/* ---- room --------------------------------------------------------------------------------------------------- */

static void wait_in(nv_list *list, engine_link *l)
{
    nv_list_remove(&l->wait);
    nv_list_push_back(list, &l->wait);
}

/* Note what a sender waits for. Credit: its FLOW tells it. */
static void wait_for_room(engine_link *l)
{
    engine_session *s = engine_link_session(l);
    if (l->rest || l->pub.credit > 0) {
        wait_in(s->remote_window == 0 ? &s->waiting : &l->pub.conn->_p->waiting, l);
    }
    l->wants_room = true;
}

static bool has_output(const nv_amqp_conn *conn)
{
    return nv_buf_len(conn->session.out) <= conn->config.output_mark;
}

static bool can_send(const engine_link *l)
{
    return l->state == ENGINE_LINK_ATTACHED && engine_is_open(l->pub.conn) && !l->rest && l->pub.credit > 0 &&
           engine_link_session(l)->remote_window > 0 && l->ring.live < ENGINE_TRACKED_MAX && has_output(l->pub.conn);
}

bool nv_amqp_link_room(nv_amqp_link *link)
{
    engine_link *l = engine_link_of(link);
    if (NV_LIKELY(can_send(l))) {
        return true;
    }
    if (l->state == ENGINE_LINK_ATTACHED && engine_is_open(link->conn)) {
        wait_for_room(l);
    }
    return false;
}

/* The rest of a message first, then the owner. */
static void offer_room(engine_link *l)
{
    if (l->rest) {
        engine_rest *rest = l->rest;
        outgoing m = {.body = nv_span_of(rest->bytes, rest->len), .at = rest->at};
        bool done = send_frames(l, &rest->head, &m);
        rest->at = m.at;
        if (!done) {
            wait_for_room(l);
            return;
        }
        l->rest = NULL;
        free(rest);
    }
    bool wanted = l->wants_room || l->pub.drain;
    if (wanted && (can_send(l) || l->pub.drain)) {
        l->wants_room = false;
        if (l->pub.ops && l->pub.ops->room) {
            l->pub.ops->room(&l->pub);
        } else if (l->pub.drain) {
            nv_amqp_link_drained(&l->pub);
        }
    } else if (wanted) {
        wait_for_room(l);
    }
}

void engine_room_later(engine_link *l)
{
    nv_amqp_conn_private *p = l->pub.conn->_p;
    l->wants_room = true;
    wait_in(&p->waiting, l);
    p->pump = true;
}

void engine_session_room(engine_session *s)
{
    nv_list todo;
    nv_list_init(&todo);
    nv_list_splice(&todo, &s->waiting);
    nv_list *node;
    while (s->remote_window > 0 && (node = nv_list_pop_front(&todo)) != NULL) {
        offer_room(nv_container_of(node, engine_link, wait));
    }
    nv_list_splice(&todo, &s->waiting); /* those that did not get their turn come first */
    nv_list_splice(&s->waiting, &todo);
}

void engine_output_room(nv_amqp_conn *conn)
{
    nv_amqp_conn_private *p = conn->_p;
    nv_list todo;
    nv_list_init(&todo);
    nv_list_splice(&todo, &p->waiting);
    nv_list *node;
    while (has_output(conn) && engine_is_open(conn) && (node = nv_list_pop_front(&todo)) != NULL) {
        offer_room(nv_container_of(node, engine_link, wait));
    }
    nv_list_splice(&todo, &p->waiting);
    nv_list_splice(&p->waiting, &todo);
}

void engine_on_receiver_flow(engine_link *l, const nv_amqp_flow *flow)
{
    if (NV_AMQP_HAS(flow, flow, link_credit)) {
        uint32_t seen = NV_AMQP_HAS(flow, flow, delivery_count) ? flow->delivery_count : 0;
        uint32_t in_flight = engine_before(seen, l->delivery_count) ? l->delivery_count - seen : 0;
        l->pub.credit = flow->link_credit > in_flight ? flow->link_credit - in_flight : 0;
    }
    l->pub.drain = flow->drain;
    if (l->state == ENGINE_LINK_ATTACHED && (l->pub.credit > 0 || l->pub.drain)) {
        l->wants_room = true;
        nv_list_remove(&l->wait);
        offer_room(l);
    }
}

void nv_amqp_link_drained(nv_amqp_link *link)
{
    engine_link *l = engine_link_of(link);
    if (!link->drain || !link->sender || l->state != ENGINE_LINK_ATTACHED || !engine_is_open(link->conn) || l->rest) {
        return;
    }
    engine_enter(link->conn);
    link->drain = false;
    l->delivery_count += link->credit;
    link->credit = 0;
    engine_send_flow(engine_link_session(l), l, true);
    engine_leave(link->conn);
}

/* ---- send --------------------------------------------------------------------------------------------------- */

static void name_delivery(engine_head *head, uint32_t id, nv_span tag)
{
    head->id = id;
    if (tag.len > 0) {
        head->tag_len = (uint8_t)tag.len;
        memcpy(head->tag, tag.ptr, tag.len);
    } else {
        (void)put32(head->tag, id);
        head->tag_len = 4;
    }
}

nv_err nv_amqp_link_send(nv_amqp_link *link, const nv_amqp_send *send, uint32_t *id)
{
    engine_link *l = engine_link_of(link);
    nv_amqp_conn *conn = link->conn;
    if (link->peer_max_message > 0 && send->head.len + send->body.len > link->peer_max_message) {
        return NV_E_TOO_BIG;
    }
    if (!nv_amqp_link_room(link)) {
        return NV_E_AGAIN;
    }
    assert(send->tag.len <= ENGINE_TAG_MAX && link->sender);
    engine_session *s = engine_link_session(l);
    engine_head head = {.format = send->format, .settled = send->settled};
    head.settled = link->snd_settle_mode == 1 || (send->settled && link->snd_settle_mode != 0);
    name_delivery(&head, s->next_delivery, send->tag);
    engine_entry entry = {.id = head.id, .cookie = send->cookie};
    bool track = send->track && !head.settled;
    if (track && !engine_ring_push(&l->ring, &entry)) {
        return NV_E_NO_MEMORY;
    }
    engine_enter(conn);
    if (track && !nv_list_linked(&l->pending)) {
        nv_list_push_back(&s->pending, &l->pending);
    }
    s->next_delivery++;
    l->delivery_count++;
    link->credit--;
    *id = head.id;
    outgoing m = {.head = send->head, .body = send->body};
    if (!send_frames(l, &head, &m)) {
        if (keep_rest(l, &head, &m) != NV_OK) {
            conn->_p->overflow = true; /* half a message is out: the connection cannot go on */
            conn->_p->pump = true;
        }
        wait_for_room(l);
    }
    engine_leave(conn);
    return NV_OK;
}
