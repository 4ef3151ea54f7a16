#include "session/http_conn.h"

#include "base/alloc.h"
#include "base/diag.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* Queued output beyond which no further request is taken from this peer. */
#define BACKLOG_BYTES (256u << 10)
/* Read chunks of the carrier that may wait unread behind a request: it stops reading before that. */
#define MAX_PENDING (256u << 10)

static const nv_http_config *configured;

void nv_http_setup(const nv_http_config *config)
{
    configured = config;
}

const nv_http_config *nv_http_configured(void)
{
    static const nv_http_config none = {0};
    return configured ? configured : &none;
}

static nv_http_conn *conn_of(nv_session *session)
{
    return (nv_http_conn *)(void *)session;
}

static nv_hub *hub_of(const nv_http_conn *conn)
{
    return conn->session.carrier->loop->hub;
}

static int64_t now_of(const nv_http_conn *conn)
{
    return nv_mono_us(hub_of(conn)->clock);
}

/* ---- state -------------------------------------------------------------------------------------------------- */

static bool reads_now(const nv_http_conn *conn)
{
    switch (conn->state) {
    case NV_HTTP_IDLE:
    case NV_HTTP_IN_HEAD:
    case NV_HTTP_IN_BODY:
    case NV_HTTP_STREAM: /* to hear that the peer is gone; what it sends waits */
        return true;
    case NV_HTTP_BUSY:
        return conn->exchange && conn->exchange->peer_gone;
    case NV_HTTP_AUTH:
    case NV_HTTP_CLOSED:
    case NV_HTTP_UPGRADED:
        break;
    }
    return false;
}

/** A handler has the word: what the peer sends is not looked at. */
static bool waits_for_handler(const nv_http_conn *conn)
{
    return conn->state == NV_HTTP_STREAM || conn->state == NV_HTTP_BUSY;
}

static void update_reading(nv_http_conn *conn)
{
    const nv_limits *limits = &hub_of(conn)->limits;
    size_t queued = nv_http_conn_queued(conn);
    conn->unsent = queued ? conn->unsent : 0;
    bool room =
        waits_for_handler(conn) || (queued < BACKLOG_BYTES && conn->unsent < limits->http_requests_per_connection);
    conn->session.reading = reads_now(conn) && room;
}

static bool may_follow(nv_http_state from, nv_http_state to)
{
    static const uint8_t next[] = {
        [NV_HTTP_IDLE] = 1 << NV_HTTP_IN_HEAD,
        [NV_HTTP_IN_HEAD] = 1 << NV_HTTP_AUTH | 1 << NV_HTTP_IN_BODY,
        [NV_HTTP_AUTH] = 1 << NV_HTTP_IN_BODY | 1 << NV_HTTP_IDLE,
        [NV_HTTP_IN_BODY] = 1 << NV_HTTP_BUSY | 1 << NV_HTTP_IDLE,
        [NV_HTTP_BUSY] = 1 << NV_HTTP_STREAM | 1 << NV_HTTP_IDLE | 1 << NV_HTTP_UPGRADED,
        [NV_HTTP_STREAM] = 1 << NV_HTTP_IDLE,
        [NV_HTTP_CLOSED] = 0,
        [NV_HTTP_UPGRADED] = 0,
    };
    return to == NV_HTTP_CLOSED || next[from] & 1 << to;
}

/** How long to wait for a request. Refused ones win a stranger no time, or it could hold its place for ever. */
static int64_t idle_until_us(const nv_http_conn *conn)
{
    int64_t until_us = now_of(conn) + hub_of(conn)->limits.http_idle_s * NV_US_PER_S;
    bool stranger = !conn->session.authenticated && conn->stranger_until_us < until_us;
    return stranger ? conn->stranger_until_us : until_us;
}

/** The only writer of the state. Deadlines: IDLE waits for a request, IN_HEAD and IN_BODY share one. */
static void set_state(nv_http_conn *conn, nv_http_state state)
{
    assert(conn->state == state ? state == NV_HTTP_CLOSED : may_follow(conn->state, state));
    bool from_head = conn->state == NV_HTTP_IN_HEAD;
    conn->state = state;
    const nv_limits *limits = &hub_of(conn)->limits;
    if (state == NV_HTTP_IDLE) {
        conn->session.deadline_us = idle_until_us(conn);
    } else if (state == NV_HTTP_IN_HEAD || (state == NV_HTTP_IN_BODY && !from_head)) {
        conn->session.deadline_us = now_of(conn) + limits->http_request_s * NV_US_PER_S;
    } else if (state != NV_HTTP_IN_BODY) {
        conn->session.deadline_us = INT64_MAX;
    }
    update_reading(conn);
}

static void close_conn(nv_http_conn *conn)
{
    set_state(conn, NV_HTTP_CLOSED);
    if (nv_buf_len(&conn->tail) == 0) {
        conn->session.closing = true;
    } else {
        conn->session.deadline_us = now_of(conn) + hub_of(conn)->limits.http_idle_s * NV_US_PER_S;
    }
    conn->session.carrier->wake(conn->session.carrier);
}

/** The peer gets nothing more than what is in the carrier's buffer. */
static void abort_conn(nv_http_conn *conn)
{
    nv_buf_deinit(&conn->tail);
    close_conn(conn);
}

/* ---- output ------------------------------------------------------------------------------------------------- */

size_t nv_http_conn_queued(const nv_http_conn *conn)
{
    return nv_buf_len(conn->session.out) + nv_buf_len(&conn->tail);
}

void nv_http_conn_write(nv_http_conn *conn, nv_span bytes)
{
    if (conn->lost || conn->session.closing) {
        return;
    }
    if (nv_buf_len(&conn->tail) == 0) {
        nv_buf *out = conn->session.out;
        size_t room = out->max - nv_buf_len(out);
        nv_span first = nv_span_first(bytes, room);
        if (nv_buf_append(out, first) == NV_OK) {
            bytes = nv_span_skip(bytes, first.len);
        }
    }
    if (nv_buf_append(&conn->tail, bytes) != NV_OK) {
        nv_subject who = {.connection = conn->session.carrier->peer->connection_id};
        nv_diag(NV_LEVEL_WARN, "http", &who, "closed: %s", nv_refusal_info_of(NV_REFUSAL_SLOW_READER)->cause);
        conn->session.closing = true;
    }
}

static void move_tail(nv_http_conn *conn)
{
    nv_buf *out = conn->session.out;
    nv_span part = nv_span_first(nv_buf_span(&conn->tail), out->max - nv_buf_len(out));
    if (part.len > 0 && nv_buf_append(out, part) == NV_OK) {
        nv_buf_consume(&conn->tail, part.len);
        if (nv_buf_len(&conn->tail) == 0) {
            nv_buf_deinit(&conn->tail);
        }
    }
}

/* ---- exchanges ---------------------------------------------------------------------------------------------- */

static void authorized(nv_http_exchange *x);

static nv_http_exchange *exchange_new(nv_http_conn *conn)
{
    nv_http_exchange *x = nv_calloc(1, sizeof(*x));
    x->conn = conn;
    x->loop = conn->session.carrier->loop;
    x->hub = x->loop->hub;
    x->request = nv_http_parser_request(conn->parser);
    x->auth.peer = conn->session.carrier->peer;
    x->authorized = authorized;
    return x;
}

static void exchange_free(nv_http_exchange *x)
{
    if (x && x->op_free) {
        x->op_free(x->op);
    }
    if (x) {
        nv_identity_unref(x->device);
        free(x->path.text);
    }
    free(x);
}

void nv_http_conn_finish(nv_http_conn *conn)
{
    exchange_free(conn->exchange);
    conn->exchange = NULL;
    conn->unsent++;
    nv_http_parser_done(conn->parser);
    if (conn->lost) {
        conn->session.done = true;
        conn->session.carrier->wake(conn->session.carrier);
    } else if (conn->close_after || conn->session.closing) {
        close_conn(conn);
    } else {
        set_state(conn, NV_HTTP_IDLE);
        conn->session.carrier->wake(conn->session.carrier);
    }
}

void nv_http_conn_cut(nv_http_conn *conn)
{
    conn->close_after = true;
    nv_buf_deinit(&conn->tail);
    nv_http_conn_finish(conn);
}

void nv_http_conn_stream(nv_http_conn *conn)
{
    set_state(conn, NV_HTTP_STREAM);
    conn->session.carrier->wake(conn->session.carrier);
}

void nv_http_conn_upgrade(nv_http_conn *conn, const nv_upgrade *to)
{
    exchange_free(conn->exchange);
    conn->exchange = NULL;
    nv_http_parser_done(conn->parser);
    if (nv_buf_len(&conn->tail) > 0) {
        abort_conn(conn); /* it asked behind answers that it does not read: no client does */
        return;
    }
    set_state(conn, NV_HTTP_UPGRADED);
    conn->session.carrier->upgrade(conn->session.carrier, to);
}

void nv_http_body_done(nv_http_exchange *x)
{
    nv_http_parser_drop_body(x->conn->parser);
}

void nv_http_conn_watch(nv_http_conn *conn)
{
    update_reading(conn);
    conn->session.carrier->wake(conn->session.carrier);
}

/** Answer something that never became a request, and close. */
static void refuse_bytes(nv_http_conn *conn, nv_hub_error error, const char *detail)
{
    conn->close_after = true;
    conn->head_only = false;
    nv_http_write_error(conn, &(nv_http_error){.shape = NV_HTTP_E2, .error = error, .detail = detail});
    exchange_free(conn->exchange);
    conn->exchange = NULL;
    nv_http_parser_done(conn->parser);
    close_conn(conn);
}

static void refuse_body(nv_http_conn *conn)
{
    char detail[100];
    (void)snprintf(detail, sizeof(detail), "The body is longer than %" PRId64 " bytes (limits.http_body_bytes)",
                   hub_of(conn)->limits.http_body_bytes);
    refuse_bytes(conn, NV_HUB_ERROR_MessageTooLarge, detail);
}

/** From the head to the decision whether the body is wanted. */
static void look_up(nv_http_conn *conn, nv_http_exchange *x)
{
    const nv_http_request *request = x->request;
    if (nv_http_path_parse(nv_http_target(request), &x->path) != NV_OK) {
        nv_http_refuse(x, NV_HTTP_E2, NV_HUB_ERROR_ArgumentInvalid, "the path is not valid");
        return;
    }
    nv_hub_error error = nv_http_route_find(conn->routes, x);
    if (error != NV_HUB_ERROR_NONE) {
        nv_http_refuse(x, NV_HTTP_E2, error, NULL);
        return;
    }
    char text[32];
    nv_span version;
    bool known = nv_http_query(x, "api-version", text, sizeof(text), &version) && nv_http_api_version_valid(version);
    if (x->route->flags & NV_HTTP_API_VERSION && !known) {
        nv_http_refuse(x, NV_HTTP_E1, NV_HUB_ERROR_InvalidProtocolVersion, NULL);
    }
}

/** Everything about the head is known: read the body, or throw it away if the request is refused. */
static void want_body(nv_http_conn *conn)
{
    nv_http_exchange *x = conn->exchange;
    set_state(conn, NV_HTTP_IN_BODY);
    if (x->refused != NV_HUB_ERROR_NONE) {
        nv_http_parser_discard_body(conn->parser);
        if (x->request->expect_continue) {
            /* It waits for leave to send a body that nobody wants: the answer is the answer, and the last. */
            conn->close_after = true;
            nv_http_fail_as(x, x->refused_shape, x->refused, x->refused_detail);
        }
        return;
    }
    if (!(x->route->flags & NV_HTTP_OPEN)) {
        conn->session.authenticated = true;
    }
    if (x->request->expect_continue && x->request->has_body) {
        nv_http_conn_write(conn, nv_span_str("HTTP/1.1 100 Continue\r\n\r\n"));
    }
}

static void authorized(nv_http_exchange *x)
{
    nv_http_conn *conn = x->conn;
    if (conn->lost || conn->state != NV_HTTP_AUTH) {
        nv_http_conn_finish(conn);
        return;
    }
    want_body(conn);
    conn->session.carrier->wake(conn->session.carrier);
}

static void on_head(nv_http_conn *conn)
{
    nv_http_exchange *x = conn->exchange = exchange_new(conn);
    conn->close_after = conn->close_after || !x->request->keep_alive || x->request->upgrade;
    conn->head_only = x->request->method == NV_HTTP_HEAD;
    look_up(conn, x);
    if (x->refused == NV_HUB_ERROR_NONE && nv_http_authorize(x) == NV_HTTP_PENDING) {
        set_state(conn, NV_HTTP_AUTH);
        return;
    }
    want_body(conn);
}

static void on_request(nv_http_conn *conn)
{
    nv_http_exchange *x = conn->exchange;
    NV_KNOWN(x); /* the head came first */
    if (x->refused != NV_HUB_ERROR_NONE) {
        nv_http_fail_as(x, x->refused_shape, x->refused, x->refused_detail);
        return;
    }
    set_state(conn, NV_HTTP_BUSY);
    x->route->handler(x);
}

/* ---- the session's verbs ------------------------------------------------------------------------------------ */

static void on_event(nv_http_conn *conn, nv_http_event event, const char *why)
{
    switch (event) {
    case NV_HTTP_MORE:
        break;
    case NV_HTTP_HEAD_END:
        on_head(conn);
        break;
    case NV_HTTP_END:
        on_request(conn);
        break;
    case NV_HTTP_BAD:
        refuse_bytes(conn, NV_HUB_ERROR_IotHubFormatError, why);
        break;
    case NV_HTTP_HEAD_BIG:
        refuse_bytes(conn, NV_HUB_ERROR_RequestHeadTooLarge, NULL);
        break;
    case NV_HTTP_BODY_BIG:
        refuse_body(conn);
        break;
    }
}

static size_t conn_input(nv_session *session, nv_span bytes, int64_t now_us)
{
    (void)now_us;
    nv_http_conn *conn = conn_of(session);
    size_t used = 0;
    if (waits_for_handler(conn)) {
        session->reading = false; /* the next request waits where it is */
        return 0;
    }
    while (used < bytes.len && session->reading && !waits_for_handler(conn)) {
        size_t taken = 0;
        const char *why = NULL;
        nv_http_event event = nv_http_parser_feed(conn->parser, nv_span_skip(bytes, used), &taken, &why);
        used += taken;
        if (conn->state == NV_HTTP_IDLE && nv_http_parser_request(conn->parser)) {
            set_state(conn, NV_HTTP_IN_HEAD);
        }
        on_event(conn, event, why);
    }
    return used;
}

static void conn_sent(nv_session *session, int64_t now_us)
{
    nv_http_conn *conn = conn_of(session);
    move_tail(conn);
    if (conn->state == NV_HTTP_CLOSED) {
        session->closing = session->closing || nv_buf_len(&conn->tail) == 0;
    } else if (conn->state == NV_HTTP_STREAM) {
        conn->exchange->stream_sent(conn->exchange, now_us);
    } else {
        update_reading(conn);
    }
}

static void conn_tick(nv_session *session, int64_t now_us)
{
    nv_http_conn *conn = conn_of(session);
    if (now_us < session->deadline_us) {
        return;
    }
    switch (conn->state) {
    case NV_HTTP_IDLE:
    case NV_HTTP_CLOSED:
        abort_conn(conn);
        break;
    case NV_HTTP_IN_HEAD:
    case NV_HTTP_IN_BODY:
        refuse_bytes(conn, NV_HUB_ERROR_RequestTimeout, NULL);
        break;
    case NV_HTTP_STREAM:
        conn->exchange->stream_tick(conn->exchange, now_us);
        break;
    case NV_HTTP_AUTH:
    case NV_HTTP_BUSY:
    case NV_HTTP_UPGRADED:
        break;
    }
}

static void conn_lost(nv_session *session, const char *why, int64_t now_us)
{
    (void)why;
    (void)now_us;
    nv_http_conn *conn = conn_of(session);
    conn->lost = true;
    conn->session.reading = false;
    conn->session.deadline_us = INT64_MAX;
    nv_buf_deinit(&conn->tail);
    if (conn->state == NV_HTTP_STREAM) {
        conn->exchange->stream_stop(conn->exchange, true);
    } else if (conn->state == NV_HTTP_BUSY && conn->exchange->peer_gone) {
        conn->exchange->peer_gone(conn->exchange);
    } else if (conn->state != NV_HTTP_AUTH && conn->state != NV_HTTP_BUSY) {
        session->done = true;
    }
}

static void conn_drain(nv_session *session, int64_t now_us)
{
    (void)now_us;
    nv_http_conn *conn = conn_of(session);
    conn->close_after = true;
    switch (conn->state) {
    case NV_HTTP_IDLE:
    case NV_HTTP_IN_HEAD:
        close_conn(conn);
        break;
    case NV_HTTP_STREAM:
        conn->exchange->stream_stop(conn->exchange, false);
        break;
    case NV_HTTP_AUTH:
    case NV_HTTP_IN_BODY:
    case NV_HTTP_BUSY:
    case NV_HTTP_CLOSED:
    case NV_HTTP_UPGRADED:
        break;
    }
}

static void conn_free(nv_session *session)
{
    nv_http_conn *conn = conn_of(session);
    exchange_free(conn->exchange);
    nv_http_parser_free(conn->parser);
    nv_buf_deinit(&conn->tail);
    free(conn);
}

static const nv_session_ops conn_ops = {.input = conn_input,
                                        .sent = conn_sent,
                                        .tick = conn_tick,
                                        .lost = conn_lost,
                                        .drain = conn_drain,
                                        .free = conn_free};

static nv_session *conn_new(nv_carrier *carrier, const nv_http_routes *routes)
{
    nv_http_conn *conn = nv_calloc(1, sizeof(*conn));
    const nv_limits *limits = &carrier->loop->hub->limits;
    conn->session = (nv_session){
        .ops = &conn_ops, .carrier = carrier, .out = carrier->out, .max_pending = MAX_PENDING, .reading = true};
    conn->session.deadline_us = nv_mono_us(carrier->loop->hub->clock) + limits->connect_deadline_s * NV_US_PER_S;
    conn->stranger_until_us = conn->session.deadline_us;
    conn->routes = routes;
    conn->parser = nv_http_parser_new((size_t)limits->unauthenticated_bytes, (size_t)limits->http_body_bytes);
    nv_buf_init(&conn->tail, NV_HTTP_REPLY_MAX + 4096);
    return &conn->session;
}

nv_session *nv_http_service_new(nv_carrier *carrier)
{
    return conn_new(carrier, &nv_http_service_routes);
}

nv_session *nv_http_admin_new(nv_carrier *carrier)
{
    nv_session *session = conn_new(carrier, &nv_http_admin_routes);
    session->authenticated = true;
    return session;
}
