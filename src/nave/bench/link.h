/** One non-blocking TCP connection of the generator, with or without TLS. */
#ifndef NV_NAVE_BENCH_LINK_H
#define NV_NAVE_BENCH_LINK_H

#include "nave/bench/mqtt_options.h"

#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/types.h>

#define NV_LINK_AGAIN  ((ssize_t)-1) /* nothing now; link.want_write says which readiness is missing */
#define NV_LINK_CLOSED ((ssize_t)-2) /* the peer ended the stream in order */
#define NV_LINK_FAILED ((ssize_t)-3) /* reset, or a TLS error: see nv_link_error */

typedef struct nv_link {
    int fd;          /* -1 = none */
    SSL *ssl;        /* NULL = plain; owned */
    bool want_write; /* TLS asked to wait for writability in the last call */
    int error;       /* errno of the last failure, 0 for a TLS failure */
} nv_link;

/**
 * Start a connection. @p spread n > 0 binds to 127.0.0.(1 + n % 8) when the target is on 127/8, so that a storm of
 * short connections does not run out of ports that wait for their time to pass.
 * @return false when the system refused at once (link->error)
 */
NV_NODISCARD bool nv_link_start(nv_link *link, const struct sockaddr_storage *to, socklen_t to_len, uint32_t spread);
/** Put TLS on it, as client or as server. @p host NULL = no name to verify; @p session NULL = full handshake. */
void nv_link_add_tls(nv_link *link, SSL_CTX *ctx, const char *host, SSL_SESSION *session, bool server);
/** Run the handshake. @return 1 done, NV_LINK_AGAIN, NV_LINK_CLOSED or NV_LINK_FAILED */
ssize_t nv_link_handshake(nv_link *link);
/** @return bytes read, or a NV_LINK_ value */
ssize_t nv_link_read(nv_link *link, void *out, size_t len);
/** @return bytes written (may be fewer), or a NV_LINK_ value */
ssize_t nv_link_write(nv_link *link, const void *bytes, size_t len);
/** True when TLS holds bytes the socket will not announce again. */
static inline bool nv_link_pending(const nv_link *link)
{
    return link->ssl && SSL_has_pending(link->ssl);
}
/** Close and free. A closed link may be started again. */
void nv_link_close(nv_link *link);
/** What failed, in words. @p out is NUL-terminated. */
void nv_link_error(const nv_link *link, char *out, size_t size);

/* ---- for all links of a run ------------------------------------------------------------------------------ */

/** Where o->host and o->port are. @return false after one sentence on stderr */
NV_NODISCARD bool nv_link_resolve(const nv_bench_mqtt_options *o, struct sockaddr_storage *to, socklen_t *to_len);
/** A client's context: one cipher and one curve for every server. @param lean  buffers are given back when they are
 * empty, for connections that wait. Owned by the caller. @return NULL after one sentence on stderr */
SSL_CTX *nv_link_tls_new(const nv_bench_mqtt_options *o, bool lean);
/** Monotonic. */
int64_t nv_bench_now_ns(void);

#endif
