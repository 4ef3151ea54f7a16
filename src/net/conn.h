/**
 * A connection, for net/ alone: a socket below, layers (TLS, WebSocket) on it, one session on top.
 *
 *   session  --- session.out ---> [ top layer ... bottom layer ] --- wire ---> socket
 *            <-- input(window) --                                <-- read_buf --
 *
 * Without a layer session.out is the wire itself and the socket reads straight into the session's window, so a plain
 * connection copies nothing but the rest of an incomplete unit.
 *
 * States, one way:   CONNECTING -> HANDSHAKE -> OPEN -> CLOSING -> LINGER -> GONE       (any may go to GONE at once)
 *   CLOSING  flush, goodbye of the layers, lost(), shutdown      LINGER  wait for the peer's end, so that what was
 *   sent is not lost to a reset                                  GONE    socket closed; waits for session.done
 */
#ifndef NV_NET_CONN_H
#define NV_NET_CONN_H

#include "base/attrs.h"
#include "base/buf.h"
#include "base/diag.h"
#include "base/err.h"
#include "net/loop_impl.h"
#include "net/net.h"
#include "net/tls.h"
#include "session/session.h"

#include <uv.h>

typedef struct nv_conn nv_conn;
typedef struct nv_layer nv_layer;
typedef struct nv_origin nv_origin;

/** Functions that return a const char * give NULL, or static text that says why the connection must end. */
typedef struct nv_layer_ops {
    /** Bytes from below: take all of them, hand decoded ones up by nv_layer_up(). */
    const char *(*input)(nv_layer *layer, nv_span bytes);
    /** Encode layer->out into nv_layer_below() until it is empty or nv_layer_room() is used up. */
    const char *(*output)(nv_layer *layer);
    /** Everything was sent: write the layer's goodbye below. Once. */
    void (*goodbye)(nv_layer *layer);
    /** The socket goes away during the handshake. */
    void (*abandoned)(nv_layer *layer, const char *why);
    void (*free)(nv_layer *layer);
} nv_layer_ops;

struct nv_layer {
    const nv_layer_ops *ops;
    nv_conn *conn;
    nv_layer *above; /* NULL: the session */
    nv_layer *below; /* NULL: the socket */
    nv_buf out;      /* what the one above wrote */
};

/** Where a connection comes from: a listener or an outgoing attempt. */
struct nv_origin {
    bool counted;              /* its connections count in nv_net_limits */
    nv_tls_server *tls_server; /* at most one of these */
    nv_tls_client *tls_client;
    /** The transport stands: make the session. @p alpn is what was negotiated, or empty */
    nv_session *(*accept)(nv_origin *origin, nv_conn *conn, nv_span alpn);
    /** Which of the offered ALPN protocols to take. @return an element of @p offered, or empty */
    nv_span (*choose_alpn)(nv_origin *origin, nv_span offered);
    /** The socket is gone (called once, before the connection is freed). @p why is static text */
    void (*ended)(nv_origin *origin, nv_conn *conn, const char *why);
};

typedef enum nv_conn_state {
    NV_CONN_CONNECTING,
    NV_CONN_HANDSHAKE,
    NV_CONN_OPEN,
    NV_CONN_CLOSING,
    NV_CONN_LINGER,
    NV_CONN_GONE,
} nv_conn_state;

typedef struct nv_write nv_write;

struct nv_conn {
    uv_tcp_t tcp;
    nv_carrier carrier;
    nv_peer peer;
    nv_list link;  /* in loop->strangers, or in loop->conns */
    nv_list woken; /* in loop->woken while there is something to do */
    nv_timer timer;
    nv_buf wire; /* bytes for the socket */
    nv_buf rest; /* what the session has not taken yet */
    nv_layer *top;
    nv_layer *next; /* to be put on top at the end of the turn, with a session of its own */
    nv_session *session;
    nv_loop *loop;
    nv_origin *origin;
    nv_write *write;     /* in flight, with its own bytes */
    const char *why;     /* set when CLOSING begins */
    int64_t state_by_us; /* deadline of every state but OPEN */
    nv_conn_state state : 4;
    bool reading : 1;      /* the socket is being read */
    bool held : 1;         /* rest holds bytes that the session did not want to see yet */
    bool sent : 1;         /* bytes went out since the session was last told */
    bool paused : 1;       /* too much output: not reading */
    bool eof : 1;          /* the peer sends no more */
    bool ended : 1;        /* a layer heard the peer's goodbye: nothing more comes up */
    bool lost : 1;         /* lost() was called */
    bool said_goodbye : 1; /* the layers did */
    bool known : 1;        /* session->authenticated was seen */
    bool overdue : 1;      /* tick() left a deadline in the past */
    bool closed : 1;       /* libuv has let go of the handle */
    char address[];        /* what peer.address is, with a NUL: most are half as long as the longest */
};

/**
 * A connection with the peer at @p address, without a socket yet, in state CONNECTING; joins the loop's list.
 * Thread: the loop's, as all of this.
 */
nv_conn *nv_conn_new(nv_loop *loop, nv_origin *origin, const struct sockaddr *address);
/** The socket stands (conn->tcp is open): handshake, or session at once. */
void nv_conn_begin(nv_conn *conn);
/** The layers stand: make the session. @return NULL, or why the connection must end */
const char *nv_conn_ready(nv_conn *conn, nv_span alpn);
/** Put a layer on the socket, or on the present top one. */
void nv_conn_push_layer(nv_conn *conn, nv_layer *layer);
/** The peer is wrong: flush what says so, then close. Who finds it logs it. */
void nv_conn_fail(nv_conn *conn, const char *why);
/** End now: lost(), close the socket. The connection frees itself later. */
void nv_conn_end(nv_conn *conn, const char *why);
/** See to it at the end of the turn. */
void nv_conn_wake(nv_conn *conn);
/** The hub stops: drain a session, end what has none. */
void nv_conn_drain(nv_conn *conn);
/** Whom log lines concern. */
nv_subject nv_conn_subject(const nv_conn *conn);

/** How many bytes may still be put into conn->wire before the peer must read. */
size_t nv_conn_room(const nv_conn *conn);
/** How many bytes a layer may still put into the buffer below. */
size_t nv_layer_room(const nv_layer *layer);

/** @p scratch is one of the loop's buffers, one that the bytes do not come from. */
nv_window nv_conn_window(nv_conn *conn, uint8_t *scratch);
/** @p len bytes were written to the window: let the session eat. */
const char *nv_conn_input(nv_conn *conn, const nv_window *window, size_t len);
/** The same for a layer: whoever is above it, a layer or the session, eats. */
nv_window nv_layer_window(nv_layer *layer, uint8_t *scratch);
const char *nv_layer_up(nv_layer *layer, const nv_window *window, size_t len);

/** The one on the socket, from any above it. */
static inline nv_layer *nv_layer_bottom(nv_layer *layer)
{
    while (layer->below) {
        layer = layer->below;
    }
    return layer;
}

static inline nv_buf *nv_layer_below(nv_layer *layer)
{
    return layer->below ? &layer->below->out : &layer->conn->wire;
}

/* ---- conn_io.c for conn.c ---- */

/** The one place that decides whether the socket is read. */
void nv_conn_update_reading(nv_conn *conn);
/** Let the session eat what it has left before. */
const char *nv_conn_feed_rest(nv_conn *conn);
/** Bytes that the socket has not taken yet, in all layers. */
size_t nv_conn_queued(const nv_conn *conn);
/** What is above goes down through the layers, as far as there is room. */
const char *nv_conn_encode(nv_conn *conn);
/** The same, and to the socket: one write for all that the turn produced. */
const char *nv_conn_flush(nv_conn *conn);

/* ---- for the loop ---- */

/** Task of a loop: end as many of its oldest strangers as loop->displace says. */
void nv_conn_displace(nv_task *task);
/** Call for every connection of the loop; it may end, not free them. Some are called for twice. */
void nv_conn_for_each(nv_loop *loop, void (*call)(nv_conn *conn));

/** End of turn: flush what was woken. */
void nv_conn_service_woken(nv_loop *loop);
/** The last resort when the loop is freed: sessions that are not done are freed too. */
void nv_conn_free_all(nv_loop *loop);

#endif
