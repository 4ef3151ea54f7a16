/** One HTTP connection: the state machine between the carrier and the exchanges. */
#ifndef NV_SESSION_HTTP_CONN_H
#define NV_SESSION_HTTP_CONN_H

#include "session/http_exchange.h"

typedef enum nv_http_state {
    NV_HTTP_IDLE, /* between requests: no memory but this structure and the parser */
    NV_HTTP_IN_HEAD,
    NV_HTTP_AUTH, /* head complete, a device's credential is being checked */
    NV_HTTP_IN_BODY,
    NV_HTTP_BUSY,    /* a handler works on it */
    NV_HTTP_STREAM,  /* an answer without an end of its own is going out */
    NV_HTTP_CLOSED,  /* what is queued goes out, nothing is read any more */
    NV_HTTP_UPGRADED /* the connection is another protocol's; the carrier ends this session */
} nv_http_state;

typedef struct nv_http_conn {
    nv_session session; /* first member: ops get it and cast back */
    const nv_http_routes *routes;
    nv_http_parser *parser;
    nv_http_exchange *exchange; /* AUTH, IN_BODY, BUSY, STREAM; NULL otherwise */
    nv_buf tail;                /* output that does not fit into session.out yet */
    int64_t stranger_until_us;  /* monotonic: a peer that no request made known is waited for until then */
    nv_http_state state;
    bool close_after; /* this exchange is the last */
    bool lost;        /* the transport is gone: only a handler's completion is awaited */
    bool chunked;     /* the stream's framing; false: its end is the end of the connection */
    bool head_only;   /* the answer to HEAD */
    int64_t unsent;   /* answers since the output was last empty */
} nv_http_conn;

/** Queue output. Dropped when the transport is gone; beyond the bound the connection closes. */
void nv_http_conn_write(nv_http_conn *conn, nv_span bytes);
/** Bytes queued. */
size_t nv_http_conn_queued(const nv_http_conn *conn);
/** The exchange is over: release it, then read the next request or close. */
void nv_http_conn_finish(nv_http_conn *conn);
/** The exchange is over, and so is the connection: nothing more is sent. */
void nv_http_conn_cut(nv_http_conn *conn);
/** The answer becomes a stream. */
void nv_http_conn_stream(nv_http_conn *conn);
/** The exchange is over, with a 101, and so is HTTP on this connection. */
void nv_http_conn_upgrade(nv_http_conn *conn, const nv_upgrade *to);
/** While a handler works: read on, to hear that the peer is gone. */
void nv_http_conn_watch(nv_http_conn *conn);

/** Render and queue a reply; the exchange goes on living. */
void nv_http_write_reply(nv_http_conn *conn, const nv_http_reply *reply);
typedef struct nv_http_error {
    nv_http_shape shape;
    nv_hub_error error;
    const char *detail;  /* instead of the error's own sentence; NULL or "": that */
    const char *headers; /* further lines, or NULL */
    const char *info;    /* JSON, of shape E3; NULL: null */
} nv_http_error;
/** The same for an error. */
void nv_http_write_error(nv_http_conn *conn, const nv_http_error *e);
/** Head of an answer of unknown length. */
void nv_http_write_stream_head(nv_http_conn *conn, const char *content_type);

#endif
