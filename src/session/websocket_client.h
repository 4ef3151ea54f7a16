/**
 * The client's side of the change from HTTP to WebSocket (RFC 6455 section 4.1): asks, reads the answer, and hands the
 * connection over to whoever speaks behind it.
 *
 * Thread: the loop of the carrier. Nothing blocks.
 */
#ifndef NV_SESSION_WEBSOCKET_CLIENT_H
#define NV_SESSION_WEBSOCKET_CLIENT_H

#include "session/session.h"

typedef struct nv_websocket_client_config {
    /* texts and arg live until one of the functions is called */
    const char *host;
    uint16_t port;
    const char *path; /* "/..." */
    const char *protocol;
    size_t max_message_bytes; /* that the peer may send; 0: 64 MiB */
    int64_t timeout_us;       /* for the answer; 0: 30 s */
    const nv_clock *clock;    /* NULL: the system's */
    /** Exactly one of these is called. The first makes the session behind the WebSocket. */
    nv_session *(*make)(void *arg, nv_carrier *carrier);
    void (*failed)(void *arg, const char *why); /* one clause without a period, valid during the call */
    void (*dropped)(void *arg);                 /* the connection ended right behind an answer that was good */
    void *arg;
} nv_websocket_client_config;

/** For nv_client_config.connected: a session that has asked. It frees itself as any other. */
nv_session *nv_websocket_client_new(nv_carrier *carrier, const nv_websocket_client_config *config);

#endif
