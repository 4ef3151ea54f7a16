#include "session/amqp/engine_impl.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "core/hub.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define OUTPUT_MARK_DEFAULT 65536u

/* ---- errors ------------------------------------------------------------------------------------------------- */

static const char *const condition_names[] = {
#define X(id, symbol) symbol,
    NV_AMQP_CONDITION_TABLE(X)
#undef X
};

const char *nv_amqp_condition_name(nv_amqp_condition condition)
{
    return condition_names[condition];
}

static nv_amqp_condition condition_of(nv_span symbol)
{
    for (size_t i = 1; i < NV_COUNT_OF(condition_names); i++) {
        if (nv_span_eq_str(symbol, condition_names[i])) {
            return (nv_amqp_condition)i;
        }
    }
    return NV_AMQP_ERR_NONE;
}

nv_amqp_problem engine_problem(nv_amqp_condition condition, const char *description)
{
    return (nv_amqp_problem){.condition = condition,
                             .symbol = nv_span_str(nv_amqp_condition_name(condition)),
                             .description = nv_span_str(description)};
}

nv_amqp_problem engine_problem_of(nv_span any)
{
    nv_amqp_performative p;
    if (any.len == 0 || nv_amqp_decode_span(any, &p) != NV_OK || p.code != NV_AMQP_ERROR) {
        return (nv_amqp_problem){.condition = NV_AMQP_ERR_NONE};
    }
    return (nv_amqp_problem){.condition = condition_of(p.error.condition),
                             .symbol = p.error.condition,
                             .description = p.error.description,
                             .info = p.error.info};
}

/* ---- states ------------------------------------------------------------------------------------------------- */

static bool may_follow(nv_amqp_conn_state from, nv_amqp_conn_state to)
{
    switch (to) {
    case NV_AMQP_CONN_HEADER:
        return from == NV_AMQP_CONN_SASL;
    case NV_AMQP_CONN_SASL:
    case NV_AMQP_CONN_OPENING:
        return from == NV_AMQP_CONN_HEADER;
    case NV_AMQP_CONN_OPENED:
        return from == NV_AMQP_CONN_OPENING;
    case NV_AMQP_CONN_CLOSING:
        return from == NV_AMQP_CONN_OPENING || from == NV_AMQP_CONN_OPENED;
    case NV_AMQP_CONN_CLOSED:
        return from < NV_AMQP_CONN_CLOSED;
    }
    return false;
}

void engine_set_state(nv_amqp_conn *conn, nv_amqp_conn_state state)
{
    assert(may_follow(conn->state, state));
    conn->state = state;
}

int64_t engine_now(const nv_amqp_conn *conn)
{
    return nv_mono_us(conn->_p->clock);
}

static int64_t add_us(int64_t at_us, int64_t delta_us)
{
    return delta_us < INT64_MAX - at_us ? at_us + delta_us : INT64_MAX;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

uint32_t engine_max_frame(const nv_amqp_conn *conn)
{
    uint32_t max = conn->config.max_frame_size;
    if (conn->state <= NV_AMQP_CONN_SASL) {
        return ENGINE_SASL_FRAME;
    }
    if (!conn->_p->authenticated && conn->config.unauthenticated_frame > 0 &&
        conn->config.unauthenticated_frame < max) {
        return (uint32_t)conn->config.unauthenticated_frame;
    }
    return max;
}

void engine_stop(nv_amqp_conn *conn, uint8_t why)
{
    conn->_p->stops |= why;
    conn->session.reading = false;
}

void engine_go(nv_amqp_conn *conn, uint8_t why)
{
    conn->_p->stops &= (uint8_t)~why;
    conn->session.reading = conn->_p->stops == 0;
}

static void update(nv_amqp_conn *conn)
{
    nv_amqp_conn_private *p = conn->_p;
    if (conn->state == NV_AMQP_CONN_CLOSED) {
        conn->session.deadline_us = INT64_MAX;
        return;
    }
    conn->session.max_pending = engine_max_frame(conn);
    int64_t deadline = conn->state < NV_AMQP_CONN_OPENED ? p->open_by_us : INT64_MAX;
    deadline = earlier(deadline, p->close_by_us);
    if (conn->state == NV_AMQP_CONN_OPENED) {
        deadline = earlier(deadline, earlier(p->idle_us, p->beat_us));
    }
    deadline = earlier(deadline, p->owner_us);
    conn->session.deadline_us = p->pump ? 0 : deadline;
}

void engine_leave(nv_amqp_conn *conn)
{
    nv_amqp_conn_private *p = conn->_p;
    if (--p->depth > 0) {
        return;
    }
    if (!nv_list_empty(&p->dead_links) || !nv_list_empty(&p->dead_sessions)) {
        engine_bury(conn);
    }
    update(conn);
    conn->session.carrier->wake(conn->session.carrier);
}

/* ---- OPEN and CLOSE ----------------------------------------------------------------------------------------- */

void engine_send_open(nv_amqp_conn *conn)
{
    const nv_amqp_config *c = &conn->config;
    nv_amqp_performative p = {.code = NV_AMQP_OPEN};
    p.open.container_id = nv_span_str(c->container_id);
    p.open.hostname = conn->server ? NV_SPAN_EMPTY : nv_span_str(c->hostname);
    NV_AMQP_SET(&p.open, open, max_frame_size, c->max_frame_size);
    NV_AMQP_SET(&p.open, open, channel_max, c->channel_max);
    if (c->idle_time_out_ms > 0) {
        NV_AMQP_SET(&p.open, open, idle_time_out, c->idle_time_out_ms);
    }
    conn->_p->open_sent = true;
    (void)engine_write(conn, NV_AMQP_FRAME_AMQP, 0, &p, p.open.container_id.len + p.open.hostname.len);
}

static void send_close(nv_amqp_conn *conn, const nv_amqp_problem *problem)
{
    if (!conn->_p->open_sent) {
        engine_send_open(conn); /* CLOSE without OPEN is no conversation (part 2 section 2.4.3) */
    }
    uint8_t error[ENGINE_ERROR_ROOM];
    nv_amqp_performative p = {.code = NV_AMQP_CLOSE};
    p.close.error = engine_put_problem(conn, problem, error);
    (void)engine_write(conn, NV_AMQP_FRAME_AMQP, 0, &p, p.close.error.len);
    engine_set_state(conn, NV_AMQP_CONN_CLOSING);
    conn->_p->close_by_us = add_us(engine_now(conn), ENGINE_CLOSE_US);
}

static void kill_sessions(nv_amqp_conn *conn, const nv_amqp_problem *problem)
{
    while (!nv_list_empty(&conn->sessions)) {
        nv_amqp_session *session = nv_container_of(conn->sessions.next, nv_amqp_session, _node);
        engine_session_kill(engine_session_of(session), problem);
    }
}

void engine_finish(nv_amqp_conn *conn, const nv_amqp_problem *problem)
{
    nv_amqp_conn_private *p = conn->_p;
    if (p->told) {
        return;
    }
    p->told = true;
    engine_set_state(conn, NV_AMQP_CONN_CLOSED);
    engine_stop(conn, ENGINE_STOP_END);
    p->pump = false;
    kill_sessions(conn, problem);
    conn->session.closing = true;
    if (conn->ops->ended) {
        conn->ops->ended(conn, problem);
    }
}

void engine_fail(nv_amqp_conn *conn, nv_amqp_condition condition, const char *fmt, ...)
{
    char text[ENGINE_DESCRIPTION];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    nv_amqp_problem problem = engine_problem(condition, text);
    if (conn->state == NV_AMQP_CONN_OPENING || conn->state == NV_AMQP_CONN_OPENED) {
        send_close(conn, &problem);
    }
    engine_finish(conn, &problem);
}

void nv_amqp_conn_close(nv_amqp_conn *conn, nv_amqp_condition condition, const char *description)
{
    if (conn->state >= NV_AMQP_CONN_CLOSING) {
        return;
    }
    engine_enter(conn);
    nv_amqp_problem problem = {.condition = NV_AMQP_ERR_NONE};
    if (condition != NV_AMQP_ERR_NONE) {
        problem = engine_problem(condition, description);
    }
    if (conn->state < NV_AMQP_CONN_OPENING) {
        engine_finish(conn, &problem);
    } else {
        engine_end_sessions(conn, &problem);
        send_close(conn, &problem);
        kill_sessions(conn, &problem);
        engine_go(conn, ENGINE_STOP_SASL | ENGINE_STOP_DELIVERY | ENGINE_STOP_ATTACH | ENGINE_STOP_BUDGET);
    }
    engine_leave(conn);
}

void nv_amqp_conn_abort(nv_amqp_conn *conn)
{
    if (conn->_p->told) {
        return;
    }
    engine_enter(conn);
    conn->_p->silent = true;
    nv_buf_clear(conn->session.out);
    nv_amqp_problem problem = engine_problem(NV_AMQP_ERR_CONNECTION_FORCED, "cut by this end");
    engine_finish(conn, &problem);
    engine_leave(conn);
}

void nv_amqp_conn_done(nv_amqp_conn *conn)
{
    conn->session.done = true;
    conn->session.carrier->wake(conn->session.carrier);
}

void nv_amqp_conn_authenticated(nv_amqp_conn *conn)
{
    conn->_p->authenticated = true;
    conn->session.authenticated = true;
    conn->session.max_pending = engine_max_frame(conn);
}

void nv_amqp_conn_set_deadline(nv_amqp_conn *conn, int64_t at_us)
{
    engine_enter(conn);
    conn->_p->owner_us = at_us;
    engine_leave(conn);
}

void nv_amqp_conn_resume(nv_amqp_conn *conn)
{
    engine_enter(conn);
    engine_go(conn, ENGINE_STOP_DELIVERY);
    engine_leave(conn);
}

/* ---- frames ------------------------------------------------------------------------------------------------- */

/* @return false: the connection is refused */
static bool take_open(nv_amqp_conn *conn, const nv_amqp_open *open)
{
    nv_amqp_conn_private *p = conn->_p;
    uint32_t max_frame = NV_AMQP_HAS(open, open, max_frame_size) ? open->max_frame_size : UINT32_MAX;
    uint32_t idle_ms = NV_AMQP_HAS(open, open, idle_time_out) ? open->idle_time_out : 0;
    if (max_frame < NV_AMQP_MIN_MAX_FRAME) {
        engine_fail(conn, NV_AMQP_ERR_INVALID_FIELD, "max-frame-size is below %u", NV_AMQP_MIN_MAX_FRAME);
        return false;
    }
    conn->peer_max_frame = max_frame;
    p->peer_channel_max = NV_AMQP_HAS(open, open, channel_max) ? open->channel_max : UINT16_MAX;
    if (idle_ms > 0 && idle_ms < conn->config.min_peer_idle_ms) {
        engine_fail(conn, NV_AMQP_ERR_NOT_ALLOWED, "idle-time-out of %" PRIu32 " ms is below %" PRIu32 " ms", idle_ms,
                    conn->config.min_peer_idle_ms);
        return false;
    }
    p->open_seen = true;
    if (idle_ms > 0) { /* looked at four times in it, so that never more than half passes in silence */
        p->beat_every_us = (int64_t)idle_ms * NV_US_PER_MS / 4;
        p->beat_written = p->written;
        p->beat_us = add_us(engine_now(conn), p->beat_every_us);
    }
    return true;
}

static void on_open(nv_amqp_conn *conn, const nv_amqp_open *open)
{
    nv_amqp_conn_private *p = conn->_p;
    if (!take_open(conn, open)) {
        return;
    }
    if (!conn->server) {
        engine_set_state(conn, NV_AMQP_CONN_OPENED);
    }
    if (conn->ops->opened) {
        conn->ops->opened(conn, open);
    }
    if (conn->server && conn->state == NV_AMQP_CONN_OPENING) {
        engine_send_open(conn);
        engine_set_state(conn, NV_AMQP_CONN_OPENED);
    }
    if (conn->state == NV_AMQP_CONN_OPENED && conn->config.idle_time_out_ms > 0) {
        p->idle_us = add_us(engine_now(conn), (int64_t)conn->config.idle_time_out_ms * NV_US_PER_MS);
    }
}

static void on_close(nv_amqp_conn *conn, const nv_amqp_close *close)
{
    nv_amqp_problem problem = engine_problem_of(close->error);
    if (conn->state < NV_AMQP_CONN_CLOSING) {
        nv_amqp_problem none = {.condition = NV_AMQP_ERR_NONE};
        send_close(conn, &none);
    }
    engine_finish(conn, &problem);
}

static const char *name_of(const nv_amqp_performative *p)
{
    const char *name = nv_amqp_name((uint64_t)p->code);
    return name ? name : "unknown";
}

/* pyamqp detaches on a channel that has ended, others settle there: nobody is harmed (amqp.md section 1.3). */
static void on_stray(nv_amqp_conn *conn, uint16_t channel, const nv_amqp_performative *p)
{
    if (p->code == NV_AMQP_ATTACH || p->code == NV_AMQP_TRANSFER) {
        engine_fail(conn, NV_AMQP_ERR_NOT_ALLOWED, "%s on channel %u, which has no session", name_of(p), channel);
    }
}

/* @return false: not now, the frame stays */
static bool on_session_frame(nv_amqp_conn *conn, uint16_t channel, nv_amqp_performative *p, nv_span body,
                             nv_span payload)
{
    engine_session *s = engine_session_find(conn, channel);
    if (!s) {
        on_stray(conn, channel, p);
        return true;
    }
    if (s->state != ENGINE_SESSION_BEGUN && p->code != NV_AMQP_END) {
        return true; /* our END is out: what crossed it is of no interest (part 2 section 2.5.5) */
    }
    if (p->code == NV_AMQP_TRANSFER) {
        return engine_on_transfer(conn, s, &p->transfer, payload);
    }
    if (payload.len > 0) {
        engine_fail(conn, NV_AMQP_ERR_DECODE_ERROR, "bytes behind %s", name_of(p));
        return true;
    }
    switch ((int)p->code) {
    case NV_AMQP_ATTACH:
        return engine_on_attach(conn, s, &p->attach, body);
    case NV_AMQP_DETACH:
        return engine_on_detach(conn, s, &p->detach);
    case NV_AMQP_FLOW:
        engine_on_flow(conn, s, &p->flow);
        return true;
    case NV_AMQP_DISPOSITION:
        engine_on_disposition(conn, s, &p->disposition);
        return true;
    default:
        if (engine_must_wait(s)) {
            engine_stop(conn, ENGINE_STOP_ATTACH); /* END waits for the owner's answer */
            return false;
        }
        engine_on_end(conn, s, &p->end);
        return true;
    }
}

static bool must_wait(const nv_amqp_conn *conn)
{
    if (conn->_p->unanswered == 0) {
        return false;
    }
    for (nv_list *at = conn->sessions.next; at != &conn->sessions; at = at->next) {
        if (engine_must_wait(engine_session_of(nv_container_of(at, nv_amqp_session, _node)))) {
            return true;
        }
    }
    return false;
}

static bool on_opened_frame(nv_amqp_conn *conn, uint16_t channel, nv_amqp_performative *p, nv_span body,
                            nv_span payload)
{
    switch ((int)p->code) {
    case NV_AMQP_BEGIN:
        engine_on_begin(conn, channel, &p->begin);
        return true;
    case NV_AMQP_ATTACH:
    case NV_AMQP_FLOW:
    case NV_AMQP_TRANSFER:
    case NV_AMQP_DISPOSITION:
    case NV_AMQP_DETACH:
    case NV_AMQP_END:
        return on_session_frame(conn, channel, p, body, payload);
    case NV_AMQP_CLOSE:
        if (must_wait(conn)) {
            engine_stop(conn, ENGINE_STOP_ATTACH);
            return false;
        }
        on_close(conn, &p->close);
        return true;
    default:
        engine_fail(conn, NV_AMQP_ERR_NOT_ALLOWED, "%s is out of place", name_of(p));
        return true;
    }
}

/* @return false: not now, the frame stays */
static bool on_frame(nv_amqp_conn *conn, const nv_amqp_frame *frame)
{
    if (frame->body.len == 0) {
        return true; /* a heartbeat */
    }
    nv_reader r = nv_reader_of(frame->body);
    nv_amqp_performative p;
    nv_err err = nv_amqp_decode(&r, &p);
    if (NV_UNLIKELY(err != NV_OK)) {
        engine_fail(conn, NV_AMQP_ERR_DECODE_ERROR,
                    err == NV_E_UNSUPPORTED ? "a frame of an unknown kind" : "a frame that cannot be decoded");
        return true;
    }
    nv_span payload = nv_span_of(r.at, nv_reader_left(&r));
    if (NV_LIKELY(conn->state == NV_AMQP_CONN_OPENED)) {
        return on_opened_frame(conn, frame->channel, &p, frame->body, payload);
    }
    if (conn->state == NV_AMQP_CONN_CLOSING) {
        if (p.code == NV_AMQP_CLOSE) {
            on_close(conn, &p.close);
        }
    } else if (p.code == NV_AMQP_OPEN) {
        on_open(conn, &p.open);
    } else if (p.code == NV_AMQP_CLOSE && conn->_p->open_sent) {
        on_close(conn, &p.close);
    } else {
        engine_fail(conn, NV_AMQP_ERR_NOT_ALLOWED, "%s before open", name_of(&p));
    }
    return true;
}

/* Take one frame. @return its size; 0: it is incomplete, or must wait */
static size_t take_frame(nv_amqp_conn *conn, nv_span bytes)
{
    nv_amqp_frame frame;
    uint32_t max = engine_max_frame(conn);
    nv_err err = nv_amqp_read_frame(bytes, max, &frame);
    if (err == NV_E_MORE) {
        return 0;
    }
    if (NV_UNLIKELY(err != NV_OK)) {
        if (err == NV_E_TOO_BIG) {
            engine_fail(conn, NV_AMQP_ERR_FRAMING_ERROR, "a frame of %zu bytes where at most %" PRIu32 " are allowed",
                        frame.size, max);
        } else {
            engine_fail(conn, NV_AMQP_ERR_FRAMING_ERROR, "malformed frame");
        }
        return bytes.len;
    }
    bool sasl = conn->state == NV_AMQP_CONN_SASL;
    if (sasl != (frame.type == NV_AMQP_FRAME_SASL)) {
        engine_fail(conn, NV_AMQP_ERR_FRAMING_ERROR, "a frame of the wrong type");
        return bytes.len;
    }
    if (sasl) {
        engine_on_sasl(conn, frame.body);
        return frame.size;
    }
    return on_frame(conn, &frame) ? frame.size : 0;
}

/* ---- the verbs of the carrier ------------------------------------------------------------------------------- */

/* What waits for a call from below, where callbacks are expected. */
static void end_verb(nv_amqp_conn *conn)
{
    nv_amqp_conn_private *p = conn->_p;
    if (p->overflow && !p->told) {
        nv_amqp_problem problem = engine_problem(NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED, "the peer does not read");
        engine_finish(conn, &problem);
    }
    if (p->pump) {
        p->pump = false;
        engine_tell_late(conn, false);
        engine_output_room(conn);
    }
    engine_leave(conn);
}

static size_t input(nv_session *session, nv_span bytes, int64_t now_us)
{
    nv_amqp_conn *conn = (nv_amqp_conn *)(void *)session;
    nv_amqp_conn_private *p = conn->_p;
    p->heard_us = now_us;
    engine_enter(conn);
    nv_span left = bytes;
    while (p->stops == 0 && left.len > 0) {
        size_t taken = conn->state == NV_AMQP_CONN_HEADER ? engine_on_header(conn, left) : take_frame(conn, left);
        if (taken == 0) {
            break;
        }
        left = nv_span_skip(left, taken);
    }
    end_verb(conn);
    return bytes.len - left.len;
}

static void sent(nv_session *session, int64_t now_us)
{
    nv_amqp_conn *conn = (nv_amqp_conn *)(void *)session;
    engine_enter(conn);
    engine_output_room(conn);
    if (!session->reading || nv_buf_len(session->out) > conn->config.output_mark) {
        conn->_p->heard_us = now_us; /* it takes what it gets, and nobody may be listening: a slow line is no silence */
    }
    end_verb(conn);
}

/* Rings that a burst has made. Nobody is called. */
static void trim(nv_amqp_conn *conn)
{
    for (nv_list *at = conn->sessions.next; at != &conn->sessions; at = at->next) {
        nv_amqp_session *session = nv_container_of(at, nv_amqp_session, _node);
        for (nv_list *node = session->links.next; node != &session->links; node = node->next) {
            engine_ring_trim(&engine_link_of(nv_container_of(node, nv_amqp_link, _node))->ring);
        }
    }
}

static void look_at_silence(nv_amqp_conn *conn, int64_t now_us)
{
    nv_amqp_conn_private *p = conn->_p;
    int64_t limit_us = (int64_t)conn->config.idle_time_out_ms * NV_US_PER_MS;
    if (!conn->session.reading) {
        p->heard_us = now_us;
    }
    if (now_us - p->heard_us >= limit_us) {
        engine_fail(conn, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED, "nothing was heard for %" PRIu32 " ms",
                    conn->config.idle_time_out_ms);
        return;
    }
    if (now_us - p->heard_us >= limit_us / 4) {
        trim(conn);
    }
    p->idle_us = add_us(p->heard_us, limit_us);
}

static void look_at_heartbeat(nv_amqp_conn *conn, int64_t now_us)
{
    nv_amqp_conn_private *p = conn->_p;
    if (p->written == p->beat_written) {
        engine_send_heartbeat(conn);
    }
    p->beat_written = p->written;
    p->beat_us = add_us(now_us, p->beat_every_us);
}

static void tick_closing(nv_amqp_conn *conn, int64_t now_us)
{
    if (now_us >= conn->_p->close_by_us) {
        nv_amqp_problem problem = {.description = nv_span_str("the peer did not answer CLOSE")};
        engine_finish(conn, &problem);
    }
}

static void tick(nv_session *session, int64_t now_us)
{
    nv_amqp_conn *conn = (nv_amqp_conn *)(void *)session;
    nv_amqp_conn_private *p = conn->_p;
    engine_enter(conn);
    if (conn->state == NV_AMQP_CONN_CLOSING) {
        tick_closing(conn, now_us);
    } else if (conn->state < NV_AMQP_CONN_OPENED && now_us >= p->open_by_us) {
        engine_fail(conn, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED, "no OPEN in time");
    }
    if (engine_is_open(conn) && now_us >= p->idle_us) {
        look_at_silence(conn, now_us);
    }
    if (engine_is_open(conn) && now_us >= p->beat_us) {
        look_at_heartbeat(conn, now_us);
    }
    if (!p->told && now_us >= p->owner_us) {
        p->owner_us = INT64_MAX;
        if (conn->ops->tick) {
            conn->ops->tick(conn, now_us);
        }
    }
    end_verb(conn);
}

static void lost(nv_session *session, const char *why, int64_t now_us)
{
    (void)now_us;
    nv_amqp_conn *conn = (nv_amqp_conn *)(void *)session;
    engine_enter(conn);
    conn->_p->silent = true;
    nv_amqp_problem problem = {.description = nv_span_str(why)};
    engine_finish(conn, &problem);
    engine_leave(conn);
}

static void drain(nv_session *session, int64_t now_us)
{
    (void)now_us;
    nv_amqp_conn *conn = (nv_amqp_conn *)(void *)session;
    if (conn->_p->told) {
        return;
    }
    engine_enter(conn);
    if (conn->ops->drain) {
        conn->ops->drain(conn);
    } else {
        nv_amqp_conn_close(conn, NV_AMQP_ERR_CONNECTION_FORCED, "the hub stops");
    }
    engine_leave(conn);
}

static void free_session(nv_session *session)
{
    nv_amqp_conn *conn = (nv_amqp_conn *)(void *)session;
    conn->ops->free(conn);
}

static const nv_session_ops verbs = {
    .input = input, .sent = sent, .tick = tick, .lost = lost, .drain = drain, .free = free_session};

/* ---- life --------------------------------------------------------------------------------------------------- */

static const nv_clock *clock_of(const nv_carrier *carrier)
{
    return carrier->loop && carrier->loop->hub ? carrier->loop->hub->clock : nv_clock_system();
}

static void init(nv_amqp_conn *conn, nv_carrier *carrier, const nv_amqp_conn_ops *ops, const nv_amqp_config *config,
                 bool server)
{
    nv_amqp_conn_private *p = nv_calloc(1, sizeof(*p));
    p->clock = clock_of(carrier);
    int64_t now_us = nv_mono_us(p->clock);
    nv_list_init(&p->waiting);
    nv_list_init(&p->dead_links);
    nv_list_init(&p->dead_sessions);
    nv_list_init(&p->owed);
    p->heard_us = now_us;
    p->open_by_us = config->open_deadline_us > 0 ? add_us(now_us, config->open_deadline_us) : INT64_MAX;
    p->close_by_us = p->idle_us = p->owner_us = p->beat_us = INT64_MAX;
    *conn = (nv_amqp_conn){.ops = ops,
                           .config = *config,
                           .state = NV_AMQP_CONN_HEADER,
                           .server = server,
                           .peer_max_frame = ENGINE_SASL_FRAME,
                           ._p = p};
    conn->session = (nv_session){.ops = &verbs, .carrier = carrier, .out = carrier->out, .reading = true};
    conn->config.sasl_response = NV_SPAN_EMPTY;
    if (conn->config.max_frame_size < NV_AMQP_MIN_MAX_FRAME) {
        conn->config.max_frame_size = NV_AMQP_MIN_MAX_FRAME;
    }
    if (conn->config.output_mark == 0) {
        conn->config.output_mark = OUTPUT_MARK_DEFAULT;
    }
    nv_list_init(&conn->sessions);
    update(conn);
}

void nv_amqp_server_init(nv_amqp_conn *conn, nv_carrier *carrier, const nv_amqp_conn_ops *ops,
                         const nv_amqp_config *config)
{
    init(conn, carrier, ops, config, true);
}

void nv_amqp_client_init(nv_amqp_conn *conn, nv_carrier *carrier, const nv_amqp_conn_ops *ops,
                         const nv_amqp_config *config)
{
    init(conn, carrier, ops, config, false);
    if (config->sasl_response.len > 0) {
        conn->_p->sasl_response = nv_malloc(config->sasl_response.len);
        memcpy(conn->_p->sasl_response, config->sasl_response.ptr, config->sasl_response.len);
        conn->_p->sasl_response_len = config->sasl_response.len;
    }
    nv_amqp_conn_authenticated(conn); /* it dialled: the peer is whom it wants */
    engine_client_start(conn);
}

void nv_amqp_conn_deinit(nv_amqp_conn *conn)
{
    nv_amqp_conn_private *p = conn->_p;
    if (!p) {
        return;
    }
    engine_enter(conn);
    p->told = true; /* nobody is called any more */
    conn->state = NV_AMQP_CONN_CLOSED;
    kill_sessions(conn, &(nv_amqp_problem){.condition = NV_AMQP_ERR_NONE});
    engine_tell_late(conn, true);
    engine_bury(conn);
    engine_index_deinit(&p->by_remote);
    engine_index_deinit(&p->by_local);
    if (p->named) {
        nv_map_deinit(&p->names);
    }
    if (p->sasl_response) {
        nv_wipe(p->sasl_response, p->sasl_response_len);
        free(p->sasl_response);
    }
    free(p);
    conn->_p = NULL;
}
