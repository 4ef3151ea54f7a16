/* The life of a connection, from its socket to the last free(), and the end of each turn. Its bytes: conn_io.c. */
#include "net/conn.h"

#include "base/alloc.h"
#include "base/metrics.h"
#include "net/net_impl.h"
#include "net/tls_impl.h"
#include "net/websocket_layer.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

/* How long a session may leave a due deadline where it is before tick() runs again. */
#define OVERDUE_US (10 * NV_US_PER_MS)
/* The wait for the peer's end after ours, within the close deadline. */
#define LINGER_US (2 * NV_US_PER_S)

static const nv_net_limits *limits_of(const nv_conn *conn)
{
    return &conn->loop->net->limits;
}

nv_subject nv_conn_subject(const nv_conn *conn)
{
    return (nv_subject){.connection = conn->peer.connection_id, .peer = conn->peer.address};
}

static void set_state(nv_conn *conn, nv_conn_state state)
{
    assert(state > conn->state);
    conn->state = state;
}

/* ---- deadlines ---- */

static int64_t deadline_of(const nv_conn *conn)
{
    return conn->state == NV_CONN_OPEN ? conn->session->deadline_us : conn->state_by_us;
}

/* Only a deadline that comes nearer moves the timer; one that goes away is compared when the timer fires. */
static void update_deadline(nv_conn *conn)
{
    int64_t due_us = deadline_of(conn);
    if (due_us > conn->loop->now_us) {
        conn->overdue = false;
    }
    if (due_us < conn->timer.due_us && !conn->overdue) {
        nv_timer_set(conn->loop, &conn->timer, due_us);
    }
}

static const char *late_text(nv_conn_state state)
{
    switch (state) {
    case NV_CONN_CONNECTING:
        return "no connection in time";
    case NV_CONN_HANDSHAKE:
        return "no TLS handshake in time";
    case NV_CONN_OPEN:
    case NV_CONN_CLOSING:
        return "the peer does not read";
    case NV_CONN_LINGER:
    case NV_CONN_GONE:
        return "closed";
    }
    return "closed";
}

static void on_deadline(nv_timer *timer, int64_t now_us)
{
    nv_conn *conn = nv_container_of(timer, nv_conn, timer);
    if (conn->state == NV_CONN_GONE) {
        return;
    }
    if (deadline_of(conn) > now_us) {
        update_deadline(conn);
        return;
    }
    if (conn->state != NV_CONN_OPEN) {
        nv_conn_end(conn, conn->why ? conn->why : late_text(conn->state));
        return;
    }
    conn->session->ops->tick(conn->session, now_us);
    if (conn->session->deadline_us <= now_us) {
        conn->overdue = true;
        nv_timer_set(conn->loop, timer, now_us + OVERDUE_US);
    }
    nv_conn_wake(conn);
}

/* ---- life ---- */

static void carrier_wake(nv_carrier *carrier)
{
    nv_conn_wake(nv_container_of(carrier, nv_conn, carrier));
}

static void carrier_upgrade(nv_carrier *carrier, const nv_upgrade *to)
{
    nv_conn *conn = nv_container_of(carrier, nv_conn, carrier);
    assert(!conn->next);
    conn->next = nv_ws_layer_new(to);
    nv_conn_wake(conn);
}

void nv_conn_wake(nv_conn *conn)
{
    assert(nv_loop_current() == conn->loop);
    if (!nv_list_linked(&conn->woken)) {
        nv_list_push_back(&conn->loop->woken, &conn->woken);
    }
}

nv_conn *nv_conn_new(nv_loop *loop, nv_origin *origin, const struct sockaddr *address)
{
    char text[64]; /* "[v6]:port" */
    nv_address_format(address, text, sizeof(text));
    size_t size = strlen(text) + 1;
    nv_conn *conn = nv_calloc(1, offsetof(nv_conn, address) + size);
    memcpy(conn->address, text, size);
    conn->peer.address = nv_span_of(conn->address, size - 1);
    (void)uv_tcp_init(&loop->uv, &conn->tcp); /* without a family it makes no socket and cannot fail */
    conn->tcp.data = conn;
    conn->loop = loop;
    conn->origin = origin;
    conn->state_by_us = INT64_MAX;
    conn->peer.connection_id = nv_net_next_id(loop->net);
    conn->peer.tls = origin->tls_server != NULL || origin->tls_client != NULL;
    conn->carrier =
        (nv_carrier){.peer = &conn->peer, .loop = loop->hub, .wake = carrier_wake, .upgrade = carrier_upgrade};
    nv_timer_init(&conn->timer, on_deadline);
    nv_buf_init(&conn->wire, loop->net->limits.max_output_bytes);
    nv_list_push_back(origin->counted ? &loop->strangers : &loop->conns, &conn->link);
    nv_list_init(&conn->woken);
    return conn;
}

void nv_conn_push_layer(nv_conn *conn, nv_layer *layer)
{
    layer->conn = conn;
    layer->below = conn->top;
    nv_buf_init(&layer->out, limits_of(conn)->max_output_bytes);
    if (conn->top) {
        conn->top->above = layer;
    } else {
        /* The layers see to their bounds by nv_conn_room(); a record more must always fit. */
        nv_buf_set_max(&conn->wire, limits_of(conn)->pause_output_bytes + NV_SCRATCH_SIZE);
    }
    conn->top = layer;
}

void nv_conn_begin(nv_conn *conn)
{
    const char *why = NULL;
    if (conn->peer.tls) {
        set_state(conn, NV_CONN_HANDSHAKE);
        /* The server's layer waits for the first byte: a peer that says nothing costs no TLS object. */
        why = conn->origin->tls_client ? nv_tls_layer_client(conn) : NULL;
    } else {
        why = nv_conn_ready(conn, NV_SPAN_EMPTY);
    }
    if (why) {
        nv_conn_end(conn, why);
        return;
    }
    nv_conn_update_reading(conn);
    nv_conn_wake(conn);
}

/* @return NULL, or why the connection must end */
static const char *take_session(nv_conn *conn, nv_session *session)
{
    if (!session) {
        return "refused";
    }
    session->carrier = &conn->carrier;
    session->out = conn->carrier.out;
    conn->session = session;
    nv_buf_init(&conn->rest, session->max_pending + NV_SCRATCH_SIZE);
    return NULL;
}

const char *nv_conn_ready(nv_conn *conn, nv_span alpn)
{
    conn->carrier.out = conn->top ? &conn->top->out : &conn->wire;
    const char *why = take_session(conn, conn->origin->accept(conn->origin, conn, alpn));
    if (why) {
        return why;
    }
    set_state(conn, NV_CONN_OPEN);
    nv_conn_wake(conn);
    return NULL;
}

static void free_session(nv_conn *conn)
{
    nv_session *session = conn->session;
    conn->session = NULL;
    nv_loop_trim_later(conn->loop, session->guests);
    session->ops->free(session);
}

static void conn_free(nv_conn *conn)
{
    if (conn->next) {
        conn->next->ops->free(conn->next);
    }
    while (conn->top) {
        nv_layer *layer = conn->top;
        conn->top = layer->below;
        nv_buf_deinit(&layer->out);
        layer->ops->free(layer);
    }
    nv_loop *loop = conn->loop;
    nv_list_remove(&conn->link);
    nv_list_remove(&conn->woken);
    nv_timer_clear(conn->loop, &conn->timer);
    nv_buf_deinit(&conn->wire);
    nv_buf_deinit(&conn->rest);
    free((void *)(size_t)conn->peer.certificate);
    free(conn);
    nv_loop_trim_later(loop, 1);
    atomic_fetch_sub_explicit(&loop->load, 1, memory_order_relaxed);
    if (loop->stopping && nv_list_empty(&loop->conns) && nv_list_empty(&loop->strangers)) {
        nv_net_loop_empty(loop);
    }
}

/* After lost(): free the session when it allows, then the connection. @return true when the connection is gone */
static bool release(nv_conn *conn)
{
    if (conn->session && conn->lost) {
        nv_buf_clear(conn->session->out); /* nobody will read it */
        if (conn->session->done) {
            free_session(conn);
        }
    }
    if (conn->closed && !conn->session) {
        conn_free(conn);
        return true;
    }
    return false;
}

static void lose(nv_conn *conn, const char *why)
{
    if (conn->session && !conn->lost) {
        conn->lost = true;
        conn->session->ops->lost(conn->session, why, conn->loop->now_us);
    }
    nv_buf_deinit(&conn->rest);
}

static void on_closed(uv_handle_t *handle)
{
    nv_conn *conn = handle->data;
    conn->closed = true;
    (void)release(conn);
}

/* Known, or gone: nobody whose place a newer connection could have. */
static void no_stranger(nv_conn *conn)
{
    nv_list_remove(&conn->link);
    nv_list_push_back(&conn->loop->conns, &conn->link);
}

void nv_conn_end(nv_conn *conn, const char *why)
{
    if (conn->state == NV_CONN_GONE) {
        return;
    }
    const char *cause = conn->why ? conn->why : why;
    if (conn->state == NV_CONN_HANDSHAKE && conn->top) {
        nv_layer *bottom = nv_layer_bottom(conn->top);
        bottom->ops->abandoned(bottom, cause);
    }
    conn->origin->ended(conn->origin, conn, cause);
    conn->origin = NULL;
    set_state(conn, NV_CONN_GONE);
    no_stranger(conn);
    nv_timer_clear(conn->loop, &conn->timer);
    lose(conn, cause);
    uv_close((uv_handle_t *)&conn->tcp, on_closed);
    nv_conn_wake(conn);
}

static void begin_closing(nv_conn *conn, const char *why)
{
    set_state(conn, NV_CONN_CLOSING);
    conn->why = why;
    conn->state_by_us = conn->loop->now_us + limits_of(conn)->close_us;
}

void nv_conn_fail(nv_conn *conn, const char *why)
{
    if (conn->state < NV_CONN_CLOSING) {
        begin_closing(conn, why);
        nv_conn_wake(conn);
        nv_conn_update_reading(conn);
    }
}

void nv_conn_drain(nv_conn *conn)
{
    switch (conn->state) {
    case NV_CONN_CONNECTING:
    case NV_CONN_HANDSHAKE:
        nv_conn_end(conn, "the hub stops");
        break;
    case NV_CONN_OPEN:
        conn->session->ops->drain(conn->session, conn->loop->now_us);
        nv_conn_wake(conn);
        break;
    case NV_CONN_CLOSING:
    case NV_CONN_LINGER:
    case NV_CONN_GONE:
        break;
    }
}

/* ---- closing ---- */

/* The peer often hangs up right behind its last word: then there is nothing to wait for, and nobody to say goodbye to.
 * Bytes that came first are left to the reading. */
static void look_for_end(nv_conn *conn, uv_os_fd_t fd)
{
    uint8_t byte;
    if (!conn->eof && recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
        conn->eof = true;
    }
}

/* Everything is out. @return an error text when the connection must end at once */
static const char *finish_closing(nv_conn *conn)
{
    uv_os_fd_t fd = -1;
    if (uv_fileno((const uv_handle_t *)&conn->tcp, &fd) != 0) {
        return conn->why;
    }
    look_for_end(conn, fd);
    if (!conn->said_goodbye) {
        conn->said_goodbye = true;
        const char *why = NULL;
        for (nv_layer *layer = conn->top; layer && !why; layer = layer->below) {
            layer->ops->goodbye(layer);
            why = nv_conn_encode(conn); /* what it said goes through those below before they say theirs */
        }
        why = why ? why : nv_conn_flush(conn);
        if (why) {
            return why;
        }
    }
    if (nv_conn_queued(conn) > 0) {
        return NULL;
    }
    if (conn->eof) {
        return conn->why;
    }
    lose(conn, conn->why);
    set_state(conn, NV_CONN_LINGER);
    conn->state_by_us = conn->loop->now_us + LINGER_US;
    /* Not uv_shutdown(), which waits for the socket to be writable: nothing is queued. */
    return shutdown(fd, SHUT_WR) == 0 ? NULL : conn->why;
}

/* ---- the end of the turn ---- */

static void note_known(nv_conn *conn)
{
    if (!conn->known && conn->session->authenticated) {
        conn->known = true;
        if (conn->origin->counted) {
            nv_net_known(conn->loop);
            no_stranger(conn);
        }
    }
}

/* The session has handed the connection over: what it has left unread are the first frames. */
static const char *change_session(nv_conn *conn)
{
    nv_layer *layer = conn->next;
    nv_buf frames = conn->rest;
    conn->next = NULL;
    conn->rest = (nv_buf){.max = 0};
    conn->held = false;
    conn->session->ops->lost(conn->session, "handed over", conn->loop->now_us);
    assert(conn->session->done);
    free_session(conn);
    nv_conn_push_layer(conn, layer);
    conn->carrier.out = &layer->out;
    const char *why = take_session(conn, nv_ws_layer_session(layer, &conn->carrier));
    if (!why) {
        why = layer->ops->input(layer, nv_buf_span(&frames));
    }
    if (!why && conn->loop->stopping) {
        conn->session->ops->drain(conn->session, conn->loop->now_us);
    }
    nv_buf_deinit(&frames);
    return why;
}

static void service_open(nv_conn *conn)
{
    if (conn->next) {
        const char *why = change_session(conn);
        if (why) {
            begin_closing(conn, why);
            return;
        }
    }
    nv_session *session = conn->session;
    if (conn->held && session->reading && !session->closing) {
        conn->held = false;
        const char *why = nv_conn_feed_rest(conn);
        if (why) {
            begin_closing(conn, why);
            return;
        }
    }
    note_known(conn);
    if (session->closing) {
        begin_closing(conn, "closed by the hub");
    } else if ((conn->eof || conn->ended) && !conn->held && session->reading) {
        begin_closing(conn, "the peer closed the connection");
    }
}

/* What it writes now is flushed in the next round. */
static void tell_sent(nv_conn *conn)
{
    nv_session *session = conn->session;
    if (conn->sent && conn->state == NV_CONN_OPEN && session->ops->sent && !session->closing) {
        session->ops->sent(session, conn->loop->now_us);
        bool reads_again = conn->held && session->reading;
        if (session->closing || nv_buf_len(session->out) > 0 || reads_again) {
            nv_conn_wake(conn);
        }
    }
    conn->sent = false;
}

/* A peer whose first packet is being judged: what the handshake has left to send (a ticket) goes out with the answer,
 * if that comes within the turn. */
static bool answer_may_follow(const nv_conn *conn)
{
    return !conn->known && conn->state == NV_CONN_OPEN && conn->loop->rounds_left > 1 && !conn->session->reading &&
           !conn->session->closing && !conn->write && nv_buf_len(&conn->wire) > 0 &&
           nv_buf_len(conn->session->out) == 0;
}

static void service(nv_conn *conn)
{
    if (conn->state == NV_CONN_GONE) {
        (void)release(conn);
        return;
    }
    if (conn->state == NV_CONN_OPEN) {
        service_open(conn);
    }
    if (answer_may_follow(conn)) {
        nv_conn_wake(conn);
        return;
    }
    const char *why = conn->state == NV_CONN_CONNECTING ? NULL : nv_conn_flush(conn);
    if (!why && conn->state == NV_CONN_CLOSING && nv_conn_queued(conn) == 0) {
        why = finish_closing(conn);
    }
    if (why) {
        nv_conn_end(conn, why);
        return;
    }
    tell_sent(conn);
    nv_conn_update_reading(conn);
    update_deadline(conn);
    if (conn->lost) {
        (void)release(conn);
    }
}

void nv_conn_service_woken(nv_loop *loop)
{
    nv_list now;
    nv_list_init(&now);
    nv_list_splice(&now, &loop->woken);
    for (nv_list *node = nv_list_pop_front(&now); node; node = nv_list_pop_front(&now)) {
        service(nv_container_of(node, nv_conn, woken));
    }
}

void nv_conn_displace(nv_task *task)
{
    nv_loop *loop = nv_container_of(task, nv_loop, displace_task);
    for (size_t left = atomic_exchange(&loop->displace, 0); left > 0 && !nv_list_empty(&loop->strangers); left--) {
        nv_metric_add(NV_M_CONNECTIONS_DISPLACED, 1);
        nv_conn_end(nv_container_of(loop->strangers.next, nv_conn, link), "a newer connection needed the place");
    }
}

static void for_each_in(nv_list *list, void (*call)(nv_conn *conn))
{
    for (nv_list *node = list->next, *next = NULL; node != list; node = next) {
        next = node->next;
        call(nv_container_of(node, nv_conn, link));
    }
}

void nv_conn_for_each(nv_loop *loop, void (*call)(nv_conn *conn))
{
    for_each_in(&loop->strangers, call); /* who ends goes over to the others */
    for_each_in(&loop->conns, call);
}

static void end_unconditionally(nv_conn *conn)
{
    nv_conn_end(conn, "the hub stops");
    if (conn->session) {
        free_session(conn);
    }
    if (conn->closed) {
        conn_free(conn);
    }
}

void nv_conn_free_all(nv_loop *loop)
{
    nv_conn_for_each(loop, end_unconditionally);
}
