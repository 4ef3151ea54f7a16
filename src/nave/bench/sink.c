/*
 * The in-tree reference: the least an MQTT server can do. One thread, one epoll; it reads, finds the packets, answers,
 * and forgets. No authentication, no sessions, no routing, nothing stored. What it costs is what the kernel and OpenSSL
 * cost on this machine, so it is the ceiling of the generator and the floor of every server.
 */
#include "nave/bench/sink.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "nave/bench/link.h"
#include "nave/bench/options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define IN_BYTES   ((size_t)256 * 1024)
#define OUT_BYTES  ((size_t)128 * 1024)
#define MAX_PACKET ((size_t)300 * 1024)
#define EVENTS     256

typedef struct sink_conn {
    nv_link link;
    bool shaken; /* TLS is through, or there is none */
    bool ended;  /* a DISCONNECT, or bytes that are not MQTT */
    bool watching_write;
    uint8_t *kept; /* the incomplete packet at the end of the last read; owned */
    size_t kept_len;
    uint8_t *unsent; /* owned; while there is some, nothing more is read */
    size_t unsent_len;
} sink_conn;

typedef struct sink {
    int epoll;
    int listener;
    SSL_CTX *tls;
    uint8_t in[MAX_PACKET + IN_BYTES];
    uint8_t out[OUT_BYTES];
    size_t out_len;
} sink;

typedef struct sink_options {
    uint64_t port;
    const char *cert;
    const char *key;
} sink_options;

static volatile sig_atomic_t stop_asked;

static void on_signal(int number)
{
    (void)number;
    stop_asked = 1;
}

static void drop(sink_conn *conn)
{
    nv_link_close(&conn->link);
    free(conn->kept);
    free(conn->unsent);
    free(conn);
}

static void answer(sink *s, const void *bytes, size_t len)
{
    if (len <= OUT_BYTES - s->out_len) {
        memcpy(s->out + s->out_len, bytes, len);
        s->out_len += len;
    }
}

static void answer_ack(sink *s, uint8_t type, const uint8_t *id)
{
    uint8_t ack[4] = {type, 2, id[0], id[1]};
    answer(s, ack, sizeof(ack));
}

/* SUBACK granting QoS 0 to each filter. */
static void answer_subscribe(sink *s, const uint8_t *body, size_t len)
{
    uint8_t ack[64] = {0x90, 2, body[0], body[1]};
    size_t used = 4;
    for (size_t at = 2; at + 2 <= len && used < sizeof(ack); used++) {
        at += 2 + (size_t)nv_load_u16_be(body + at) + 1;
    }
    ack[1] = (uint8_t)(used - 2);
    answer(s, ack, used);
}

/* @return false when the connection is over */
static bool on_packet(sink *s, uint8_t first, const uint8_t *body, size_t len)
{
    static const uint8_t connack[] = {0x20, 2, 0, 0};
    static const uint8_t pingresp[] = {0xd0, 0};
    switch (first >> 4) {
    case 1:
        answer(s, connack, sizeof(connack));
        return true;
    case 3: {
        size_t topic = len >= 2 ? nv_load_u16_be(body) : 0;
        if (!(first & 0x06)) {
            return true;
        }
        if (2 + topic + 2 > len) {
            return false;
        }
        answer_ack(s, 0x40, body + 2 + topic);
        return true;
    }
    case 8:
        if (len < 2) {
            return false;
        }
        answer_subscribe(s, body, len);
        return true;
    case 12:
        answer(s, pingresp, sizeof(pingresp));
        return true;
    default:
        return false;
    }
}

/* Handle whole packets, as long as there is room for their answers. @return bytes used; conn->ended tells of the end */
static size_t parse(sink *s, sink_conn *conn, const uint8_t *at, size_t len)
{
    size_t used = 0;
    while (len - used >= 2 && !conn->ended && s->out_len + 64 <= OUT_BYTES) {
        size_t body = 0;
        size_t header = 1;
        for (unsigned shift = 0;; shift += 7) {
            if (used + header >= len) {
                return used;
            }
            uint8_t digit = at[used + header++];
            body |= (size_t)(digit & 0x7f) << shift;
            if (!(digit & 0x80)) {
                break;
            }
            if (shift == 21) {
                conn->ended = true;
                return used;
            }
        }
        if (header + body > MAX_PACKET) {
            conn->ended = true;
        } else if (len - used < header + body) {
            break;
        } else {
            conn->ended = !on_packet(s, at[used], at + used + header, body);
            used += header + body;
        }
    }
    return used;
}

static void watch(const sink *s, sink_conn *conn, bool write)
{
    if (conn->watching_write != write) {
        struct epoll_event event = {.events = write ? (uint32_t)EPOLLOUT : (uint32_t)EPOLLIN, .data.ptr = conn};
        (void)epoll_ctl(s->epoll, EPOLL_CTL_MOD, conn->link.fd, &event);
        conn->watching_write = write;
    }
}

/* Write @p len bytes; the rest is kept. @return false when the connection failed */
static bool put(const sink *s, sink_conn *conn, const uint8_t *bytes, size_t len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = nv_link_write(&conn->link, bytes + done, len - done);
        if (n == NV_LINK_AGAIN) {
            break;
        }
        if (n < 0) {
            return false;
        }
        done += (size_t)n;
    }
    uint8_t *rest = NULL;
    if (done < len) {
        rest = nv_malloc(len - done);
        memcpy(rest, bytes + done, len - done);
    }
    free(conn->unsent);
    conn->unsent = rest;
    conn->unsent_len = len - done;
    watch(s, conn, rest != NULL);
    return true;
}

static bool keep(sink_conn *conn, const uint8_t *bytes, size_t len)
{
    free(conn->kept);
    conn->kept = NULL;
    conn->kept_len = len;
    if (len) {
        conn->kept = nv_malloc(len);
        memcpy(conn->kept, bytes, len);
    }
    return true;
}

/* @return false when the connection is over */
static bool on_readable(sink *s, sink_conn *conn)
{
    bool more = true;
    while (more && conn->unsent_len == 0) {
        size_t kept = conn->kept_len;
        if (kept) {
            memcpy(s->in, conn->kept, kept);
        }
        ssize_t got = nv_link_read(&conn->link, s->in + kept, IN_BYTES);
        if (got == NV_LINK_AGAIN) {
            return true;
        }
        if (got < 0) {
            return false;
        }
        size_t len = kept + (size_t)got;
        size_t used = 0;
        size_t step;
        do {
            s->out_len = 0;
            step = parse(s, conn, s->in + used, len - used);
            used += step;
            if (s->out_len && !put(s, conn, s->out, s->out_len)) {
                return false;
            }
        } while (step && !conn->ended && conn->unsent_len == 0);
        if (conn->ended || len - used > MAX_PACKET || !keep(conn, s->in + used, len - used)) {
            return false;
        }
        more = nv_link_pending(&conn->link);
    }
    return true;
}

static bool on_event(sink *s, sink_conn *conn)
{
    if (!conn->shaken) {
        ssize_t done = nv_link_handshake(&conn->link);
        if (done == NV_LINK_AGAIN) {
            watch(s, conn, conn->link.want_write);
            return true;
        }
        if (done < 0) {
            return false;
        }
        conn->shaken = true;
        watch(s, conn, false);
    }
    if (conn->unsent_len && !put(s, conn, conn->unsent, conn->unsent_len)) {
        return false;
    }
    return on_readable(s, conn);
}

static void on_accept(sink *s)
{
    for (;;) {
        int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            return;
        }
        int on = 1;
        sink_conn *conn = nv_calloc(1, sizeof(*conn));
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        conn->link.fd = fd;
        conn->shaken = s->tls == NULL;
        if (s->tls) {
            nv_link_add_tls(&conn->link, s->tls, NULL, NULL, true);
        }
        if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
            drop(conn);
        }
    }
}

static bool init_tls(sink *s, const sink_options *o)
{
    SSL_CTX *ctx = s->tls = SSL_CTX_new(TLS_server_method());
    if (!ctx || SSL_CTX_use_certificate_chain_file(ctx, o->cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(ctx, o->key ? o->key : o->cert, SSL_FILETYPE_PEM) != 1) {
        fprintf(stderr, "nave bench: certificate or key cannot be read\n");
        return false;
    }
    SSL_CTX_set_mode(ctx,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* tickets carry the sessions */
    SSL_CTX_set_num_tickets(ctx, 1);
    SSL_CTX_set_quiet_shutdown(ctx, 1);
    return true;
}

static bool init(sink *s, const sink_options *o)
{
    int on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)o->port)};
    socklen_t len = sizeof(at);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    (void)setsockopt(s->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (s->listener < 0 || s->epoll < 0 || bind(s->listener, (struct sockaddr *)&at, sizeof(at)) < 0 ||
        listen(s->listener, 4096) < 0 || epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->listener, &event) < 0 ||
        getsockname(s->listener, (struct sockaddr *)&at, &len) < 0) {
        fprintf(stderr, "nave bench: cannot listen on 127.0.0.1:%u: %s\n", (unsigned)o->port, strerror(errno));
        return false;
    }
    printf("listening %u\n", (unsigned)ntohs(at.sin_port));
    fflush(stdout);
    return true;
}

static void run(sink *s)
{
    struct epoll_event events[EVENTS];
    while (!stop_asked) {
        int count = epoll_wait(s->epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (!events[i].data.ptr) {
                on_accept(s);
            } else if (!on_event(s, events[i].data.ptr)) {
                drop(events[i].data.ptr);
            }
        }
    }
}

static const nv_bench_opt rows[] = {
    {"--port", NV_BENCH_OPT_UINT, offsetof(sink_options, port), 0, 65535, NULL, "0 or absent: any free port"},
    {"--cert", NV_BENCH_OPT_TEXT, offsetof(sink_options, cert), 0, 0, NULL, "PEM chain; with it TLS is spoken"},
    {"--key", NV_BENCH_OPT_TEXT, offsetof(sink_options, key), 0, 0, NULL, "PEM key, when not in the same file"},
};
static const nv_bench_opts opts = {rows, NV_COUNT_OF(rows), NULL};

void nv_bench_sink_usage(FILE *to)
{
    fprintf(to, "usage: nave bench sink [options]\n");
    nv_bench_opts_print(&opts, to);
}

int nv_bench_sink_main(int argc, char **argv)
{
    sink_options o = {0};
    if (!nv_bench_opts_parse(&opts, &o, argc, argv, 2)) {
        fprintf(stderr, "see: nave bench sink --help\n");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    struct sigaction action = {.sa_handler = on_signal};
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    sink *s = nv_calloc(1, sizeof(*s));
    int code = 1;
    if ((!o.cert || init_tls(s, &o)) && init(s, &o)) {
        run(s);
        code = 0;
    }
    SSL_CTX_free(s->tls);
    free(s);
    return code;
}
