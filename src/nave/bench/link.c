#include "nave/bench/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SPREAD_ADDRESSES 8u

static void bind_spread(int fd, const struct sockaddr_storage *to, uint32_t spread)
{
    const struct sockaddr_in *target = (const struct sockaddr_in *)(const void *)to;
    if (spread == 0 || to->ss_family != AF_INET || ntohl(target->sin_addr.s_addr) >> 24 != 127) {
        return;
    }
    int on = 1;
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + spread % SPREAD_ADDRESSES);
    (void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
    (void)bind(fd, (const struct sockaddr *)&from, sizeof(from)); /* without it the default address serves */
}

bool nv_link_start(nv_link *link, const struct sockaddr_storage *to, socklen_t to_len, uint32_t spread)
{
    *link = (nv_link){.fd = socket(to->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)};
    if (link->fd < 0) {
        link->error = errno;
        return false;
    }
    int on = 1;
    (void)setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    bind_spread(link->fd, to, spread);
    if (connect(link->fd, (const struct sockaddr *)to, to_len) < 0 && errno != EINPROGRESS) {
        link->error = errno;
        return false;
    }
    return true;
}

void nv_link_add_tls(nv_link *link, SSL_CTX *ctx, const char *host, SSL_SESSION *session, bool server)
{
    link->ssl = SSL_new(ctx);
    if (!link->ssl) {
        return; /* the handshake reports it */
    }
    SSL_set_fd(link->ssl, link->fd);
    if (server) {
        SSL_set_accept_state(link->ssl);
        return;
    }
    SSL_set_connect_state(link->ssl);
    unsigned char address[sizeof(struct in6_addr)];
    if (host && inet_pton(AF_INET, host, address) != 1 && inet_pton(AF_INET6, host, address) != 1) {
        SSL_set1_host(link->ssl, host);
        /* What SSL_set_tlsext_host_name() does, without its cast from const. */
        SSL_ctrl(link->ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, (void *)(uintptr_t)host);
    } else if (host) {
        X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(link->ssl), host);
    }
    if (session) {
        SSL_set_session(link->ssl, session);
    }
}

/* Turn the outcome of an SSL call into ours. */
static ssize_t tls_outcome(nv_link *link, int rc)
{
    switch (SSL_get_error(link->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
        return NV_LINK_AGAIN;
    case SSL_ERROR_WANT_WRITE:
        link->want_write = true;
        return NV_LINK_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return NV_LINK_CLOSED;
    case SSL_ERROR_SYSCALL:
        link->error = errno;
        return errno ? NV_LINK_FAILED : NV_LINK_CLOSED;
    default:
        link->error = 0;
        return NV_LINK_FAILED;
    }
}

static ssize_t plain_outcome(nv_link *link, bool writing)
{
    if (errno == EAGAIN || errno == EINPROGRESS || errno == ENOTCONN) {
        link->want_write = writing;
        return NV_LINK_AGAIN;
    }
    link->error = errno;
    return NV_LINK_FAILED;
}

ssize_t nv_link_handshake(nv_link *link)
{
    link->want_write = false;
    if (!link->ssl) {
        return NV_LINK_FAILED;
    }
    ERR_clear_error();
    errno = 0;
    int rc = SSL_do_handshake(link->ssl);
    if (rc == 1) {
        return 1;
    }
    ssize_t outcome = tls_outcome(link, rc);
    if (outcome == NV_LINK_FAILED && (link->error == ENOTCONN || link->error == EINPROGRESS)) {
        link->want_write = true; /* TCP is not there yet */
        return NV_LINK_AGAIN;
    }
    return outcome;
}

ssize_t nv_link_read(nv_link *link, void *out, size_t len)
{
    link->want_write = false;
    if (link->ssl) {
        ERR_clear_error();
        errno = 0;
        int got = SSL_read(link->ssl, out, (int)len);
        return got > 0 ? got : tls_outcome(link, got);
    }
    ssize_t got = recv(link->fd, out, len, 0);
    if (got > 0) {
        return got;
    }
    return got == 0 ? NV_LINK_CLOSED : plain_outcome(link, false);
}

ssize_t nv_link_write(nv_link *link, const void *bytes, size_t len)
{
    link->want_write = false;
    if (link->ssl) {
        ERR_clear_error();
        errno = 0;
        int put = SSL_write(link->ssl, bytes, (int)len);
        return put > 0 ? put : tls_outcome(link, put);
    }
    ssize_t put = send(link->fd, bytes, len, MSG_NOSIGNAL);
    return put >= 0 ? put : plain_outcome(link, true);
}

void nv_link_close(nv_link *link)
{
    if (link->ssl) {
        /* Sends nothing (quiet shutdown is set on the context) but keeps the session fit for resumption. */
        SSL_shutdown(link->ssl);
        SSL_free(link->ssl);
        ERR_clear_error();
    }
    if (link->fd >= 0) {
        close(link->fd);
    }
    *link = (nv_link){.fd = -1};
}

void nv_link_error(const nv_link *link, char *out, size_t size)
{
    unsigned long code = link->error ? 0 : ERR_peek_error();
    if (code) {
        ERR_error_string_n(code, out, size);
        return;
    }
    char text[128];
    const char *words = link->error ? strerror_r(link->error, text, sizeof(text)) : "the peer closed the connection";
    (void)snprintf(out, size, "%s", words);
}

/* ---- for all links of a run ------------------------------------------------------------------------------ */

bool nv_link_resolve(const nv_bench_mqtt_options *o, struct sockaddr_storage *to, socklen_t *to_len)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    char port[16];
    (void)snprintf(port, sizeof(port), "%u", (unsigned)o->port);
    int rc = getaddrinfo(o->host, port, &hints, &found);
    if (rc != 0) {
        fprintf(stderr, "nave bench: %s: %s\n", o->host, gai_strerror(rc));
        return false;
    }
    memcpy(to, found->ai_addr, found->ai_addrlen);
    *to_len = found->ai_addrlen;
    freeaddrinfo(found);
    return true;
}

SSL_CTX *nv_link_tls_new(const nv_bench_mqtt_options *o, bool lean)
{
    int version = o->tls_version == 0 ? TLS1_3_VERSION : TLS1_2_VERSION;
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    /* One cipher and one curve for every server, so that they differ in themselves only. */
    if (!ctx || !SSL_CTX_set_min_proto_version(ctx, version) || !SSL_CTX_set_max_proto_version(ctx, version) ||
        !SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") ||
        !SSL_CTX_set_cipher_list(ctx, "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256") ||
        !SSL_CTX_set1_groups_list(ctx, "X25519:P-256")) {
        fprintf(stderr, "nave bench: OpenSSL cannot be set up\n");
        SSL_CTX_free(ctx);
        return NULL;
    }
    if (o->ca && !SSL_CTX_load_verify_locations(ctx, o->ca, NULL)) {
        fprintf(stderr, "nave bench: %s holds no certificates that can be read\n", o->ca);
        SSL_CTX_free(ctx);
        return NULL;
    }
    SSL_CTX_set_verify(ctx, o->ca ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (lean) {
        SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    } else {
        SSL_CTX_set_read_ahead(ctx, 1);
    }
    SSL_CTX_set_quiet_shutdown(ctx, 1);
    return ctx;
}

int64_t nv_bench_now_ns(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}
