/** Outgoing connections on the same loops: the load generator, the edge, tests. */
#ifndef NV_NET_CLIENT_H
#define NV_NET_CLIENT_H

#include "net/net.h"
#include "net/tls.h"

typedef struct nv_client_config {
    const char *host; /* literal address or name; all its addresses are tried in turn */
    uint16_t port;
    nv_tls_client *tls;      /* NULL: plain; outlives the net */
    const char *server_name; /* SNI and the name the certificate must have; NULL: host */
    const char *alpn;        /* one protocol to offer, or NULL */
    int64_t timeout_us;      /* connect and handshake together; 0: 30 s */
    /** Exactly one of these two is called, on the loop. */
    nv_accept_fn connected; /* makes the session that is carried; may write to carrier->out at once */
    void (*failed)(void *arg, nv_err err, const char *why);
    void *arg;
} nv_client_config;

/**
 * Connect and carry a session on @p loop. Strings are copied. Thread: any. Blocks: never.
 * Not counted among the accepted connections; drained and closed by nv_net_stop() like them. When the net stops before
 * the connection stands, failed() gets NV_E_CANCELED.
 */
void nv_client_connect(nv_loop *loop, const nv_client_config *config);

#endif
