#include "session/amqp/engine_impl.h"

#include "base/alloc.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

engine_session *engine_session_find(const nv_amqp_conn *conn, uint16_t channel)
{
    return engine_index_get(&conn->_p->by_remote, channel);
}

static engine_session *session_new(nv_amqp_conn *conn, uint16_t channel)
{
    engine_session *s = nv_calloc(1, sizeof(*s));
    s->pub.conn = conn;
    s->pub.channel = channel;
    s->incoming_left = ENGINE_WINDOW;
    s->peer_handle_max = UINT32_MAX;
    nv_list_init(&s->pub.links);
    nv_list_init(&s->gone);
    nv_list_init(&s->waiting);
    nv_list_init(&s->pending);
    nv_list_init(&s->receiving);
    nv_list_push_back(&conn->sessions, &s->pub._node);
    engine_index_put(&conn->_p->by_local, channel, s);
    conn->_p->session_count++;
    return s;
}

static void send_begin(engine_session *s)
{
    nv_amqp_conn *conn = s->pub.conn;
    nv_amqp_performative p = {.code = NV_AMQP_BEGIN};
    if (s->has_remote) {
        NV_AMQP_SET(&p.begin, begin, remote_channel, s->remote_channel);
    }
    NV_AMQP_SET(&p.begin, begin, next_outgoing_id, s->next_outgoing_id);
    NV_AMQP_SET(&p.begin, begin, incoming_window, ENGINE_WINDOW);
    NV_AMQP_SET(&p.begin, begin, outgoing_window, ENGINE_OUTGOING);
    NV_AMQP_SET(&p.begin, begin, handle_max, conn->config.handle_max);
    (void)engine_write(conn, NV_AMQP_FRAME_AMQP, s->pub.channel, &p, 0);
}

static void take_begin(engine_session *s, uint16_t channel, const nv_amqp_begin *begin)
{
    s->has_remote = true;
    s->remote_channel = channel;
    s->next_incoming_id = begin->next_outgoing_id;
    s->remote_window = begin->incoming_window;
    s->peer_handle_max = NV_AMQP_HAS(begin, begin, handle_max) ? begin->handle_max : UINT32_MAX;
    engine_index_put(&s->pub.conn->_p->by_remote, channel, s);
}

/* The answer to our BEGIN. */
static void on_begin_answer(nv_amqp_conn *conn, uint16_t channel, const nv_amqp_begin *begin)
{
    engine_session *s = engine_index_get(&conn->_p->by_local, begin->remote_channel);
    if (!s || s->has_remote) {
        engine_fail(conn, NV_AMQP_ERR_NOT_ALLOWED, "begin answers channel %u, which did not ask",
                    begin->remote_channel);
        return;
    }
    take_begin(s, channel, begin);
    s->remote_window -= s->next_outgoing_id < s->remote_window ? s->next_outgoing_id : s->remote_window;
}

static uint16_t choose_channel(const nv_amqp_conn *conn, uint16_t wanted)
{
    const nv_amqp_conn_private *p = conn->_p;
    bool can = wanted <= p->peer_channel_max && !engine_index_get(&p->by_local, wanted);
    return can ? wanted : (uint16_t)engine_index_gap(&p->by_local);
}

static bool may_begin(nv_amqp_conn *conn)
{
    const nv_amqp_conn_private *p = conn->_p;
    if (engine_index_gap(&p->by_local) > p->peer_channel_max) {
        return false;
    }
    return p->session_count < conn->config.sessions || (conn->ops->crowded && conn->ops->crowded(conn));
}

void engine_on_begin(nv_amqp_conn *conn, uint16_t channel, const nv_amqp_begin *begin)
{
    if (channel > conn->config.channel_max) {
        engine_fail(conn, NV_AMQP_ERR_FRAMING_ERROR, "channel %u is above channel-max %u", channel,
                    conn->config.channel_max);
    } else if (engine_session_find(conn, channel)) {
        engine_fail(conn, NV_AMQP_ERR_NOT_ALLOWED, "channel %u has a session already", channel);
    } else if (NV_AMQP_HAS(begin, begin, remote_channel)) {
        on_begin_answer(conn, channel, begin);
    } else if (!may_begin(conn)) {
        engine_fail(conn, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED, "more than %" PRIu32 " sessions", conn->config.sessions);
    } else {
        engine_session *s = session_new(conn, choose_channel(conn, channel));
        take_begin(s, channel, begin);
        send_begin(s);
    }
}

nv_amqp_session *nv_amqp_session_begin(nv_amqp_conn *conn)
{
    nv_amqp_conn_private *p = conn->_p;
    uint32_t channel = engine_index_gap(&p->by_local);
    if (!engine_is_open(conn) || channel > p->peer_channel_max || channel > conn->config.channel_max) {
        return NULL;
    }
    engine_enter(conn);
    engine_session *s = session_new(conn, (uint16_t)channel);
    send_begin(s);
    engine_leave(conn);
    return &s->pub;
}

/* ---- END ---------------------------------------------------------------------------------------------------- */

static void send_end(engine_session *s, const nv_amqp_problem *problem)
{
    nv_amqp_conn *conn = s->pub.conn;
    uint8_t error[ENGINE_ERROR_ROOM];
    nv_amqp_performative p = {.code = NV_AMQP_END};
    p.end.error = engine_put_problem(conn, problem, error);
    (void)engine_write(conn, NV_AMQP_FRAME_AMQP, s->pub.channel, &p, p.end.error.len);
}

void engine_end_sessions(nv_amqp_conn *conn, const nv_amqp_problem *problem)
{
    nv_amqp_problem detach = *problem;
    if (problem->condition == NV_AMQP_ERR_CONNECTION_FORCED) {
        detach.condition =
            NV_AMQP_ERR_DETACH_FORCED; /* "try again later" to Node's SDK, which does not know the other */
        detach.symbol = nv_span_str(nv_amqp_condition_name(detach.condition));
    }
    for (nv_list *node = conn->sessions.next; node != &conn->sessions; node = node->next) {
        engine_session *s = engine_session_of(nv_container_of(node, nv_amqp_session, _node));
        if (s->state == ENGINE_SESSION_BEGUN) {
            send_end(s, &detach);
        }
    }
}

static void kill_links(nv_list *links, const nv_amqp_problem *problem)
{
    while (!nv_list_empty(links)) {
        nv_amqp_link *link = nv_container_of(links->next, nv_amqp_link, _node);
        engine_link_kill(engine_link_of(link), problem);
    }
}

void engine_session_kill(engine_session *s, const nv_amqp_problem *problem)
{
    nv_amqp_conn_private *p = s->pub.conn->_p;
    s->state = ENGINE_SESSION_DEAD;
    nv_list_remove(&s->pub._node);
    engine_index_remove(&p->by_local, s->pub.channel);
    if (s->has_remote) {
        engine_index_remove(&p->by_remote, s->remote_channel);
    }
    p->session_count--;
    nv_list_push_back(&p->dead_sessions, &s->pub._node);
    kill_links(&s->pub.links, problem);
    kill_links(&s->gone, problem);
}

static void end_session(engine_session *s, const nv_amqp_problem *problem)
{
    send_end(s, problem);
    s->state = ENGINE_SESSION_ENDING;
    kill_links(&s->pub.links, problem);
    kill_links(&s->gone, problem);
}

void engine_session_fail(engine_session *s, nv_amqp_condition condition, const char *fmt, ...)
{
    char text[ENGINE_DESCRIPTION];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    nv_amqp_problem problem = engine_problem(condition, text);
    if (s->pub.conn->ops->broken) {
        s->pub.conn->ops->broken(s->pub.conn, "session", &problem);
    }
    end_session(s, &problem);
}

void nv_amqp_session_end(nv_amqp_session *session, nv_amqp_condition condition, const char *description)
{
    engine_session *s = engine_session_of(session);
    nv_amqp_conn *conn = session->conn;
    if (s->state != ENGINE_SESSION_BEGUN || !engine_is_open(conn)) {
        return;
    }
    engine_enter(conn);
    nv_amqp_problem problem = {.condition = NV_AMQP_ERR_NONE};
    if (condition != NV_AMQP_ERR_NONE) {
        problem = engine_problem(condition, description);
    }
    end_session(s, &problem);
    engine_leave(conn);
}

void engine_on_end(nv_amqp_conn *conn, engine_session *s, const nv_amqp_end *end)
{
    (void)conn;
    nv_amqp_problem problem = engine_problem_of(end->error);
    if (s->state == ENGINE_SESSION_BEGUN) {
        send_end(s, &(nv_amqp_problem){.condition = NV_AMQP_ERR_NONE});
    }
    engine_session_kill(s, &problem);
}

void engine_bury(nv_amqp_conn *conn)
{
    nv_amqp_conn_private *p = conn->_p;
    nv_list *node;
    while ((node = nv_list_pop_front(&p->dead_links)) != NULL) {
        engine_link_free(engine_link_of(nv_container_of(node, nv_amqp_link, _node)));
    }
    nv_list kept;
    nv_list_init(&kept);
    while ((node = nv_list_pop_front(&p->dead_sessions)) != NULL) {
        engine_session *s = engine_session_of(nv_container_of(node, nv_amqp_session, _node));
        NV_KNOWN(p->dead_sessions.next != node);
        if (s->owed > 0) {
            nv_list_push_back(&kept, node);
            continue;
        }
        if (p->tail.session == &s->pub) {
            p->tail.session = NULL;
        }
        engine_index_deinit(&s->by_handle);
        engine_index_deinit(&s->by_local);
        free(s);
    }
    nv_list_splice(&p->dead_sessions, &kept);
}

/* ---- FLOW --------------------------------------------------------------------------------------------------- */

void engine_send_flow(engine_session *s, engine_link *link, bool drain)
{
    nv_amqp_conn *conn = s->pub.conn;
    if (!(conn->_p->stops & ENGINE_STOP_BUDGET)) {
        s->incoming_left = ENGINE_WINDOW;
    }
    nv_amqp_performative p = {.code = NV_AMQP_FLOW};
    nv_amqp_flow *flow = &p.flow;
    if (s->has_remote) {
        NV_AMQP_SET(flow, flow, next_incoming_id, s->next_incoming_id);
    }
    NV_AMQP_SET(flow, flow, incoming_window, s->incoming_left);
    NV_AMQP_SET(flow, flow, next_outgoing_id, s->next_outgoing_id);
    NV_AMQP_SET(flow, flow, outgoing_window, ENGINE_OUTGOING);
    if (link) {
        NV_AMQP_SET(flow, flow, handle, link->handle);
        NV_AMQP_SET(flow, flow, delivery_count, link->delivery_count);
        NV_AMQP_SET(flow, flow, link_credit, link->pub.credit);
        NV_AMQP_SET(flow, flow, available, 0);
        NV_AMQP_SET(flow, flow, drain, drain);
    }
    NV_AMQP_SET(flow, flow, echo, false);
    (void)engine_write(conn, NV_AMQP_FRAME_AMQP, s->pub.channel, &p, 0);
}

static void take_window(engine_session *s, const nv_amqp_flow *flow)
{
    /* before the peer saw our BEGIN it counts from its beginning, which is 0 */
    uint32_t seen = NV_AMQP_HAS(flow, flow, next_incoming_id) ? flow->next_incoming_id : 0;
    uint32_t in_flight = s->next_outgoing_id - seen;
    if (in_flight > INT32_MAX) {
        in_flight = 0; /* it has seen what we did not send: take its word for the window */
    }
    s->remote_window = flow->incoming_window > in_flight ? flow->incoming_window - in_flight : 0;
}

void engine_on_flow(nv_amqp_conn *conn, engine_session *s, const nv_amqp_flow *flow)
{
    take_window(s, flow);
    bool echo = flow->echo;
    if (NV_AMQP_HAS(flow, flow, handle)) {
        engine_link *l = engine_index_get(&s->by_handle, flow->handle);
        if (l && l->state <= ENGINE_LINK_ATTACHED) { /* others: it crossed a DETACH (amqp.md section 5.1) */
            if (l->pub.sender) {
                engine_on_receiver_flow(l, flow);
            } else {
                engine_on_sender_flow(l, flow);
            }
            if (echo && l->state == ENGINE_LINK_ATTACHED && engine_is_open(conn)) {
                engine_send_flow(s, l, l->pub.sender && flow->drain);
            }
        }
    } else if (echo) {
        engine_send_flow(s, NULL, false);
    }
    if (s->state == ENGINE_SESSION_BEGUN) {
        engine_session_room(s);
    }
}
