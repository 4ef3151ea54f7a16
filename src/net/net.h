/**
 * The network: loops, listeners and connections. net/ is the carrier of sessions (session/session.h): it owns sockets,
 * TLS and buffers, and knows no protocol above them.
 *
 *   nv_net_new -> nv_loop_set_hub, nv_loop_add_turn_hook per loop -> nv_net_start -> nv_net_listen ...
 *   ... nv_net_stop (a signal, any thread) -> nv_net_wait (the main thread) -> close log and store -> nv_net_free
 *
 * What is bounded, and what happens beyond:
 *   connections, those of one listener  -> closed at accept, counted, said once a second
 *   unauthenticated connections         -> the oldest makes room: a crowd of strangers cannot lock out who has a key
 *   bytes of an incomplete unit (nv_session.max_pending)      -> the connection is closed
 *   output queued for a peer that does not read               -> reading from it stops, then appends fail (the session
 *                                                                closes), then the close deadline ends it
 *   bytes read at once: 16 KiB before nv_session.authenticated, 256 KiB after; a TLS object exists from the first byte
 *   that looks like a handshake, and for handshake_us at most without completing it
 */
#ifndef NV_NET_NET_H
#define NV_NET_NET_H

#include "base/attrs.h"
#include "base/clock.h"
#include "base/err.h"
#include "net/loop.h"
#include "session/session.h"

/** Room for one sentence of explanation; functions that take `why` write at most this much, NUL-terminated. */
#define NV_NET_WHY_SIZE 512

typedef struct nv_net nv_net;
typedef struct nv_listener nv_listener;
typedef struct nv_tls_server nv_tls_server;

typedef struct nv_net_limits {
    size_t max_connections;     /* accepted and open; default 100,000 */
    size_t max_unauthenticated; /* of these, without nv_session.authenticated, on all loops; default 5,000 */
    size_t max_output_bytes;    /* queued for one connection; default 1 MiB */
    size_t pause_output_bytes;  /* beyond this reading stops, below half of it reading resumes; default 256 KiB */
    int64_t handshake_us;       /* TLS handshake, from accept; default 30 s (modem-class devices are slow) */
    int64_t close_us;           /* flush and goodbye of a closing connection; default 5 s */
    int64_t spin_us;            /* a busy loop looks so long for events before it sleeps; default 0 */
} nv_net_limits;

nv_net_limits nv_net_limits_default(void);

typedef struct nv_net_config {
    unsigned loops;        /* 0: one per core */
    const nv_clock *clock; /* NULL: the system's */
    nv_net_limits limits;
} nv_net_config;

/** Creates the loops without starting their threads. @return NV_E_IO or NV_E_LIMIT (file descriptors) with @p why */
NV_NODISCARD nv_err nv_net_new(const nv_net_config *config, nv_net **out, char why[NV_NET_WHY_SIZE]);

unsigned nv_net_loops(const nv_net *net);
nv_loop *nv_net_loop(nv_net *net, unsigned index);

/** Start one thread per loop; SIGPIPE is ignored from here on. Call once. */
NV_NODISCARD nv_err nv_net_start(nv_net *net, char why[NV_NET_WHY_SIZE]);

/** Accepted connections that are open now. Thread: any. */
size_t nv_net_connections(const nv_net *net);

/**
 * Makes the session of a new connection, on its loop. For TLS it is called after the handshake, so carrier->peer is
 * complete. The factory may write to carrier->out at once; the carrier sets session->carrier and session->out when it
 * returns. @return NULL to refuse: the connection is closed
 */
typedef nv_session *(*nv_accept_fn)(void *arg, nv_carrier *carrier);

typedef struct nv_acceptor {
    const char *alpn; /* NULL: whatever the peer offers, also nothing */
    nv_accept_fn accept;
    void *arg;
} nv_acceptor;

typedef struct nv_listener_config {
    const char *name; /* for logs: "mqtts" */
    /**
     * "*", "" or NULL: every address, IPv6 and IPv4 on one socket, IPv4 alone where IPv6 is absent. "loopback" or
     * "localhost": 127.0.0.1 and ::1. Otherwise a literal address ("[::1]" too) or a name that resolves to some.
     */
    const char *address;
    uint16_t port;      /* 0: a free one, the same for all sockets of the listener */
    nv_tls_server *tls; /* borrowed, outlives the net; NULL: plain */
    /**
     * Rows in order of preference, copied. Over TLS the first row whose alpn the peer offers is selected; when none
     * matches nothing is selected, the handshake goes on, and the first row without alpn takes the connection (the
     * first row of all if there is none). Plain: the same without an offer.
     */
    const nv_acceptor *acceptors;
    size_t acceptor_count;
    size_t max_connections; /* open ones of this listener; 0: no cap of its own */
    bool apart;             /* the caps of nv_net_limits do not keep anybody out here: health is asked under load */
} nv_listener_config;

/**
 * Bind and listen, with a socket per address, never SO_REUSEPORT. Blocks only when a name must be resolved.
 * Thread: any; at any time before nv_net_stop(). The listener belongs to the net.
 * @return NV_E_IN_USE another program has the port; NV_E_PERMISSION the port needs a privilege; NV_E_NOT_FOUND no such
 *         address here; NV_E_INVALID; NV_E_IO. @p why says it in one sentence that names address and port.
 */
NV_NODISCARD nv_err nv_net_listen(nv_net *net, const nv_listener_config *config, nv_listener **out,
                                  char why[NV_NET_WHY_SIZE]);

/** The port in use, also when 0 was asked for. */
uint16_t nv_listener_port(const nv_listener *listener);

/**
 * Graceful stop: close the listening sockets, drain() every session, and after @p grace_us close what is still open.
 * Thread: any, also a signal callback. Blocks: never. A second call may only shorten the grace.
 */
void nv_net_stop(nv_net *net, int64_t grace_us);

/**
 * Block until nv_net_stop() was called and every connection is gone, at most 5 s past the grace. Thread: not a loop's.
 * @return how many sessions are not done yet (0 unless their appends were never confirmed)
 */
size_t nv_net_wait(nv_net *net);

/**
 * Stop and join the threads, run what is still posted, free everything. Sessions that are not done are freed here: stop
 * whoever could still post their completions first. Thread: not a loop's.
 */
void nv_net_free(nv_net *net);

#endif
