#include "net/net_test_util.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_S 90

void hub_init(hub *h)
{
    *h = (hub){.limits = nv_net_limits_default()};
}

void hub_start(hub *h, unsigned loops, const nv_clock *clock, nv_tls_server *tls)
{
    char why[NV_NET_WHY_SIZE] = "";
    nv_net_config config = {.loops = loops, .clock = clock, .limits = h->limits};
    assert_int_equal(nv_net_new(&config, &h->net, why), NV_OK);
    nv_acceptor echo = {NULL, echo_accept, &h->echo};
    nv_listener_config listener = {.name = "test",
                                   .address = h->address ? h->address : "127.0.0.1",
                                   .tls = tls,
                                   .acceptors = h->acceptors ? h->acceptors : &echo,
                                   .acceptor_count = h->acceptors ? h->acceptor_count : 1,
                                   .max_connections = h->listener_cap};
    assert_int_equal(nv_net_start(h->net, why), NV_OK);
    nv_err err = nv_net_listen(h->net, &listener, &h->listener, why);
    if (err != NV_OK) {
        fail_msg("%s", why);
    }
}

uint16_t hub_port(const hub *h)
{
    return nv_listener_port(h->listener);
}

typedef struct call {
    nv_task task;
    nv_session *session;
    nv_loop *loop;
    int again;
    _Atomic int done;
} call;

static void run_release(nv_task *task)
{
    call *c = nv_container_of(task, call, task);
    echo_release(c->session);
    atomic_store(&c->done, 1);
}

void hub_release_last(hub *h)
{
    /* Read here, on another thread than the session's: it is held, so it cannot go away. */
    call c = {.task.run = run_release, .session = atomic_load(&h->echo.last)};
    nv_post(nv_loop_exec(nv_net_loop(h->net, 0)), &c.task);
    await_count(&c.done, 1);
}

/* A turn repeats a few times for tasks, but closes handles only at its end: more of these than it has rounds. */
#define OVER_A_TURN 10

static void run_nothing(nv_task *task)
{
    call *c = nv_container_of(task, call, task);
    if (c->again-- > 0) {
        nv_post(nv_loop_exec(c->loop), task);
        return;
    }
    atomic_store(&c->done, 1);
}

void hub_settle(hub *h)
{
    for (int turn = 0; turn < 2; turn++) {
        for (unsigned i = 0; i < nv_net_loops(h->net); i++) {
            call c = {.task.run = run_nothing, .loop = nv_net_loop(h->net, i), .again = OVER_A_TURN};
            nv_post(nv_loop_exec(c.loop), &c.task);
            await_count(&c.done, 1);
        }
    }
}

void hub_stop(hub *h)
{
    nv_net_stop(h->net, 0);
    assert_int_equal(nv_net_wait(h->net), 0);
    nv_net_free(h->net);
    assert_int_equal(atomic_load(&h->echo.counts.freed), atomic_load(&h->echo.counts.made));
    assert_int_equal(atomic_load(&h->echo.counts.lost), atomic_load(&h->echo.counts.made));
    assert_int_equal(atomic_load(&h->echo.counts.changed) + atomic_load(&h->echo.counts.dropped),
                     atomic_load(&h->echo.counts.upgrades));
}

static void pause_a_little(int *left)
{
    if (--*left == 0) {
        fail_msg("waited in vain");
    }
    struct timespec ms = {.tv_nsec = 1000000};
    (void)nanosleep(&ms, NULL);
}

void await_count(_Atomic int *count, int least)
{
    for (int left = PATIENCE_S * 1000; atomic_load(count) < least;) {
        pause_a_little(&left);
    }
}

void await_no_connections(const nv_net *net)
{
    for (int left = PATIENCE_S * 1000; nv_net_connections(net) > 0;) {
        pause_a_little(&left);
    }
}

/* ---- blocking sockets ---- */

static socklen_t fill(struct sockaddr_storage *address, const char *text, uint16_t port)
{
    memset(address, 0, sizeof(*address));
    if (strchr(text, ':')) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        (void)inet_pton(AF_INET6, text, &v6->sin6_addr);
        return sizeof(*v6);
    }
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    (void)inet_pton(AF_INET, text, &v4->sin_addr);
    return sizeof(*v4);
}

static int try_connect(int fd, const char *address, uint16_t port)
{
    struct sockaddr_storage to;
    socklen_t len = fill(&to, address, port);
    struct timeval patience = {.tv_sec = PATIENCE_S};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    return connect(fd, (struct sockaddr *)&to, len);
}

int try_dial_tcp(const char *address, uint16_t port)
{
    int fd = socket(strchr(address, ':') ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && try_connect(fd, address, port) != 0) {
        int error = errno;
        (void)close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

void connect_tcp(int fd, const char *address, uint16_t port)
{
    assert_int_equal(try_connect(fd, address, port), 0);
}

int dial_tcp(const char *address, uint16_t port)
{
    int fd = try_dial_tcp(address, port);
    assert_true(fd >= 0);
    return fd;
}

uint16_t bind_free_port(int fd)
{
    struct sockaddr_storage address;
    socklen_t len = fill(&address, "127.0.0.1", 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

void say_bytes(int fd, const void *bytes, size_t len)
{
    for (size_t sent = 0; sent < len;) {
        ssize_t n = send(fd, (const char *)bytes + sent, len - sent, MSG_NOSIGNAL);
        assert_true(n > 0);
        sent += (size_t)n;
    }
}

void say(int fd, const char *text)
{
    say_bytes(fd, text, strlen(text));
}

void expect_bytes(int fd, const void *bytes, size_t len)
{
    char *got = malloc(len);
    for (size_t have = 0; have < len;) {
        ssize_t n = recv(fd, got + have, len - have, 0);
        assert_true(n > 0);
        have += (size_t)n;
    }
    assert_memory_equal(got, bytes, len);
    free(got);
}

void expect(int fd, const char *text)
{
    expect_bytes(fd, text, strlen(text));
}

void expect_end(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, 0);
    assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
}

void expect_silence(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&poll_fd, 1, 50), 0);
}

size_t skip_bytes(int fd, size_t most)
{
    static char block[65536];
    size_t count = 0;
    while (count < most) {
        size_t left = most - count;
        ssize_t n = recv(fd, block, left < sizeof(block) ? left : sizeof(block), 0);
        assert_true(n >= 0);
        if (n == 0) {
            break;
        }
        count += (size_t)n;
    }
    return count;
}

size_t skip_to_end(int fd)
{
    return skip_bytes(fd, SIZE_MAX);
}

size_t send_until_stuck(int fd)
{
    static const char block[65536];
    size_t count = 0;
    struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
    while (poll(&poll_fd, 1, 300) == 1) {
        ssize_t n = send(fd, block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            count += (size_t)n;
        } else {
            assert_true(errno == EAGAIN);
        }
    }
    return count;
}

void close_with_reset(int fd)
{
    struct linger reset = {.l_onoff = 1};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    (void)close(fd);
}

/* ---- the probe ---- */

static probe *probe_of(nv_session *session)
{
    return nv_container_of(session, probe, session);
}

static void probe_set(probe *p, bool *flag)
{
    pthread_mutex_lock(&p->lock);
    *flag = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static size_t probe_input(nv_session *session, nv_span bytes, int64_t now_us)
{
    (void)now_us;
    probe *p = probe_of(session);
    pthread_mutex_lock(&p->lock);
    nv_err err = nv_buf_append(&p->got, bytes);
    assert_int_equal(err, NV_OK);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    return bytes.len;
}

static void probe_tick(nv_session *session, int64_t now_us)
{
    (void)session;
    (void)now_us;
}

static void probe_lost(nv_session *session, const char *why, int64_t now_us)
{
    (void)now_us;
    probe *p = probe_of(session);
    (void)snprintf(p->why, sizeof(p->why), "%s", why);
    session->done = true;
}

static void probe_drain(nv_session *session, int64_t now_us)
{
    (void)now_us;
    session->closing = true;
}

static void probe_free(nv_session *session)
{
    probe *p = probe_of(session);
    probe_set(p, &p->ended);
}

static const nv_session_ops probe_ops = {probe_input, NULL, probe_tick, probe_lost, probe_drain, probe_free};

static nv_session *probe_connected(void *arg, nv_carrier *carrier)
{
    probe *p = arg;
    (void)carrier;
    p->session = (nv_session){.ops = &probe_ops,
                              .carrier = carrier,
                              .out = carrier->out,
                              .deadline_us = INT64_MAX,
                              .max_pending = 1,
                              .reading = true};
    probe_set(p, &p->connected);
    return &p->session;
}

static void probe_failed(void *arg, nv_err err, const char *why)
{
    probe *p = arg;
    p->err = err;
    (void)snprintf(p->why, sizeof(p->why), "%s", why);
    probe_set(p, &p->failed);
}

static void probe_await(probe *p, const bool *a, const bool *b)
{
    struct timespec by;
    (void)clock_gettime(CLOCK_REALTIME, &by);
    by.tv_sec += PATIENCE_S;
    pthread_mutex_lock(&p->lock);
    while (!*a && !*b) {
        assert_int_equal(pthread_cond_timedwait(&p->changed, &p->lock, &by), 0);
    }
    pthread_mutex_unlock(&p->lock);
}

void probe_connect_config(probe *p, hub *h, nv_client_config config)
{
    *p = (probe){.loop = nv_net_loop(h->net, 0)};
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    nv_buf_init(&p->got, (size_t)64 * 1024 * 1024);
    config.connected = probe_connected;
    config.failed = probe_failed;
    config.arg = p;
    nv_client_connect(p->loop, &config);
    probe_await(p, &p->connected, &p->failed);
}

void probe_connect(probe *p, hub *h, const char *host, uint16_t port, nv_tls_client *tls)
{
    probe_connect_config(p, h, (nv_client_config){.host = host, .port = port, .tls = tls});
}

void probe_await_failed(probe *p)
{
    probe_await(p, &p->failed, &p->failed);
}

void probe_await_end(probe *p)
{
    probe_await(p, &p->ended, &p->ended);
}

typedef struct saying {
    nv_task task;
    probe *p;
    const char *text; /* NULL: close */
    _Atomic int done;
} saying;

static void run_say(nv_task *task)
{
    saying *s = nv_container_of(task, saying, task);
    nv_session *session = &s->p->session;
    if (s->text) {
        assert_int_equal(nv_buf_append_str(session->out, s->text), NV_OK);
    } else {
        session->closing = true;
    }
    session->carrier->wake(session->carrier);
    atomic_store(&s->done, 1);
}

static void probe_do(probe *p, const char *text)
{
    saying s = {.task.run = run_say, .p = p, .text = text};
    nv_post(nv_loop_exec(p->loop), &s.task);
    await_count(&s.done, 1);
}

void probe_say(probe *p, const char *text)
{
    assert_true(p->connected);
    probe_do(p, text);
}

void probe_expect(probe *p, const char *text)
{
    size_t len = strlen(text);
    struct timespec by;
    (void)clock_gettime(CLOCK_REALTIME, &by);
    by.tv_sec += PATIENCE_S;
    pthread_mutex_lock(&p->lock);
    while (nv_buf_len(&p->got) < len) {
        assert_int_equal(pthread_cond_timedwait(&p->changed, &p->lock, &by), 0);
    }
    assert_memory_equal(nv_buf_span(&p->got).ptr, text, len);
    nv_buf_consume(&p->got, len);
    pthread_mutex_unlock(&p->lock);
}

void probe_close(probe *p)
{
    probe_do(p, NULL);
    probe_await_end(p);
    probe_deinit(p);
}

void probe_deinit(probe *p)
{
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    nv_buf_deinit(&p->got);
}
