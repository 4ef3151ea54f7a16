/*
 * Listening sockets. One loop (the first) accepts for all of them with accept4() and hands the descriptor to the loop
 * that has the fewest connections; what the connection is, is decided there. Options that accepted sockets inherit
 * (keep-alive, no delay) are set once, on the listening socket.
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "net/conn.h"
#include "net/net_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MAX_SOCKETS       8
#define BACKLOG           4096
#define ACCEPTS_PER_EVENT 64
#define FREE_PORT_TRIES   16
/* Strangers beyond their cap, beside a quarter of it, while loops are still closing the oldest. */
#define UNSETTLED 64

typedef struct listening {
    uv_poll_t poll;
    nv_listener *listener;
    int fd; /* -1: closed */
} listening;

struct nv_listener {
    nv_origin origin;
    nv_net *net;
    nv_list link;    /* net->listeners */
    nv_list on_loop; /* loop->listeners */
    nv_task start_task;
    char *name;
    nv_acceptor *acceptors;
    size_t acceptor_count;
    size_t max_connections;
    bool apart;
    uint16_t port;
    int socket_count;
    listening sockets[MAX_SOCKETS];
    int reserve_fd; /* given up for a moment when descriptors run out */
    _Atomic size_t open;
};

uint16_t nv_listener_port(const nv_listener *listener)
{
    return listener->port;
}

nv_listener *nv_listener_of(nv_list *node)
{
    return nv_container_of(node, nv_listener, link);
}

static nv_listener *listener_of(nv_origin *origin)
{
    return nv_container_of(origin, nv_listener, origin);
}

/* ---- origin: what the connection asks ---- */

static const nv_acceptor *find_acceptor(const nv_listener *listener, nv_span alpn)
{
    for (size_t i = 0; i < listener->acceptor_count; i++) {
        const char *row = listener->acceptors[i].alpn;
        if (alpn.len ? row && nv_span_eq_str(alpn, row) : !row) {
            return &listener->acceptors[i];
        }
    }
    return &listener->acceptors[0];
}

static nv_session *origin_accept(nv_origin *origin, nv_conn *conn, nv_span alpn)
{
    const nv_acceptor *acceptor = find_acceptor(listener_of(origin), alpn);
    return acceptor->accept(acceptor->arg, &conn->carrier);
}

/* @p offered is the list as it stands in the ClientHello: length-prefixed names */
static nv_span find_offered(nv_span offered, const char *name)
{
    nv_span wanted = nv_span_str(name);
    while (offered.len > 0 && offered.len > offered.ptr[0]) {
        nv_span one = nv_span_of(offered.ptr + 1, offered.ptr[0]);
        if (nv_span_eq(one, wanted)) {
            return one;
        }
        offered = nv_span_skip(offered, one.len + 1);
    }
    return NV_SPAN_EMPTY;
}

static nv_span origin_choose_alpn(nv_origin *origin, nv_span offered)
{
    const nv_listener *listener = listener_of(origin);
    for (size_t i = 0; i < listener->acceptor_count; i++) {
        if (listener->acceptors[i].alpn) {
            nv_span found = find_offered(offered, listener->acceptors[i].alpn);
            if (found.len) {
                return found;
            }
        }
    }
    return NV_SPAN_EMPTY;
}

static void uncount(nv_listener *listener, nv_loop *loop, bool known)
{
    atomic_fetch_sub(&listener->open, 1);
    atomic_fetch_sub(&listener->net->open, 1);
    if (!known) {
        nv_net_known(loop);
    }
    nv_metric_add(NV_M_CONNECTIONS_OPEN, -1);
}

static void origin_ended(nv_origin *origin, nv_conn *conn, const char *why)
{
    nv_listener *listener = listener_of(origin);
    if (nv_diag_on(NV_LEVEL_DEBUG)) {
        nv_subject subject = nv_conn_subject(conn);
        nv_diag(NV_LEVEL_DEBUG, "net", &subject, "%s connection closed: %s", listener->name, why);
    }
    uncount(listener, conn->loop, conn->known);
}

/* ---- accepting ---- */

typedef struct handoff {
    nv_task task;
    nv_listener *listener;
    nv_loop *loop;
    int fd;
    struct sockaddr_storage address;
} handoff;

static void start_conn(nv_loop *loop, nv_listener *listener, int fd, const struct sockaddr *address)
{
    if (loop->stopping) {
        (void)close(fd);
        uncount(listener, loop, false);
        atomic_fetch_sub_explicit(&loop->load, 1, memory_order_relaxed);
        return;
    }
    nv_conn *conn = nv_conn_new(loop, &listener->origin, address);
    conn->state_by_us = loop->now_us + listener->net->limits.handshake_us;
    int rc = uv_tcp_open(&conn->tcp, fd);
    if (rc != 0) {
        (void)close(fd);
        nv_conn_end(conn, uv_strerror(rc));
        return;
    }
    nv_conn_begin(conn);
}

static void run_handoff(nv_task *task)
{
    handoff *hand = nv_container_of(task, handoff, task);
    start_conn(hand->loop, hand->listener, hand->fd, (const struct sockaddr *)&hand->address);
    free(hand);
}

static nv_loop *least_loaded(nv_net *net)
{
    nv_loop *best = &net->loops[0];
    size_t least = SIZE_MAX;
    for (unsigned i = 0; i < net->loop_count; i++) {
        size_t load = atomic_load_explicit(&net->loops[i].load, memory_order_relaxed);
        if (load < least) {
            least = load;
            best = &net->loops[i];
        }
    }
    return best;
}

/* Refusals and displacements, once a second: what happened to how many. */
static void say_full(nv_listener *listener, const char *what, const char *cause, const char *cure)
{
    nv_net *net = listener->net;
    size_t unsaid = atomic_fetch_add(&net->refused_unsaid, 1) + 1;
    int64_t second = nv_mono_us(net->clock) / NV_US_PER_S;
    if (atomic_exchange(&net->refused_second, second) == second) {
        return;
    }
    atomic_fetch_sub(&net->refused_unsaid, unsaid);
    nv_diag(NV_LEVEL_WARN, "net", NULL, "%s %zu connection%s, the last for %s (port %u): %s; %s", what, unsaid,
            unsaid == 1 ? "" : "s", listener->name, listener->port, cause, cure);
}

static void say_refused(nv_listener *listener, const char *cause, const char *cure)
{
    nv_metric_add(NV_M_CONNECTIONS_REFUSED, 1);
    say_full(listener, "refused", cause, cure);
}

/* The oldest stranger of the loop that has most of them goes. */
static void make_room(nv_listener *listener)
{
    nv_net *net = listener->net;
    nv_loop *fullest = &net->loops[0];
    for (unsigned i = 1; i < net->loop_count; i++) {
        if (atomic_load(&net->loops[i].strange) > atomic_load(&fullest->strange)) {
            fullest = &net->loops[i];
        }
    }
    if (atomic_fetch_add(&fullest->displace, 1) == 0) {
        nv_post(&fullest->exec, &fullest->displace_task);
    }
    say_full(listener, "closed", "more peers without a known identity than allowed, so the oldest made room",
             "raise limits.unauthenticated_connections, or see who holds them");
}

/* @return NULL when there is room; the place is taken then */
static const char *take_place(nv_listener *listener)
{
    nv_net *net = listener->net;
    const char *full = NULL;
    size_t unknown = atomic_load(&net->unknown);
    size_t allowed = net->limits.max_unauthenticated;
    bool crowded = !listener->apart && unknown >= allowed;
    if (!listener->apart && atomic_load(&net->open) >= net->limits.max_connections) {
        full = "as many connections are open as allowed";
    } else if (crowded && unknown - allowed > allowed / 4 + UNSETTLED) {
        full = "more peers without a known identity come than can be closed";
    } else if (listener->max_connections && atomic_load(&listener->open) >= listener->max_connections) {
        full = "as many connections are open on this listener as allowed";
    } else {
        atomic_fetch_add(&net->open, 1);
        atomic_fetch_add(&net->unknown, 1);
        atomic_fetch_add(&listener->open, 1);
        nv_metric_add(NV_M_CONNECTIONS_OPEN, 1);
        nv_metric_add(NV_M_CONNECTIONS_TOTAL, 1);
        if (crowded) {
            make_room(listener);
        }
    }
    return full;
}

static void take_connection(nv_loop *here, nv_listener *listener, int fd, const struct sockaddr_storage *address)
{
    const char *full = take_place(listener);
    if (full) {
        say_refused(listener, full, "raise the limit (limits.connections, ulimit -n), or see who holds them");
        (void)close(fd);
        return;
    }
    nv_loop *loop = least_loaded(listener->net);
    atomic_fetch_add_explicit(&loop->load, 1, memory_order_relaxed);
    atomic_fetch_add(&loop->strange, 1);
    if (loop == here) {
        start_conn(loop, listener, fd, (const struct sockaddr *)address);
        return;
    }
    handoff *hand = nv_malloc(sizeof(*hand));
    *hand = (handoff){{.run = run_handoff}, listener, loop, fd, *address};
    nv_post(&loop->exec, &hand->task);
}

/* Out of descriptors: the one kept in reserve lets us take the caller and hang up, or it would wait for ever and the
 * socket would stay readable. */
static void refuse_for_want_of_fds(nv_listener *listener, int listening_fd)
{
    if (listener->reserve_fd >= 0) {
        (void)close(listener->reserve_fd);
    }
    int fd = accept4(listening_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        (void)close(fd);
    }
    listener->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    say_refused(listener, "the process has no file descriptor left", "raise its limit (ulimit -n, LimitNOFILE)");
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    listening *socket = poll->data;
    nv_listener *listener = socket->listener;
    nv_loop *here = poll->loop->data;
    nv_loop_enter(here);
    for (int i = 0; i < ACCEPTS_PER_EVENT; i++) {
        struct sockaddr_storage address;
        socklen_t len = sizeof(address);
        int fd = accept4(socket->fd, (struct sockaddr *)&address, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            take_connection(here, listener, fd, &address);
        } else if (errno == EMFILE || errno == ENFILE) {
            refuse_for_want_of_fds(listener, socket->fd);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
    }
}

static void start_listening(nv_task *task)
{
    nv_listener *listener = nv_container_of(task, nv_listener, start_task);
    nv_loop *loop = nv_loop_current();
    if (loop->stopping) {
        return; /* the descriptors are closed with the listener */
    }
    nv_list_push_back(&loop->listeners, &listener->on_loop);
    for (int i = 0; i < listener->socket_count; i++) {
        listening *socket = &listener->sockets[i];
        socket->poll.data = socket;
        int rc = uv_poll_init(&loop->uv, &socket->poll, socket->fd);
        if (rc == 0) {
            rc = uv_poll_start(&socket->poll, UV_READABLE, on_readable);
        }
        if (rc != 0) {
            nv_diag(NV_LEVEL_ERROR, "net", NULL, "cannot accept on %s (port %u): %s", listener->name, listener->port,
                    uv_strerror(rc));
        }
    }
}

static void close_sockets(nv_listener *listener)
{
    for (int i = 0; i < listener->socket_count; i++) {
        if (listener->sockets[i].fd >= 0) {
            (void)close(listener->sockets[i].fd);
            listener->sockets[i].fd = -1;
        }
    }
    if (listener->reserve_fd >= 0) {
        (void)close(listener->reserve_fd);
        listener->reserve_fd = -1;
    }
}

void nv_listener_close_all(nv_loop *loop)
{
    for (nv_list *node = nv_list_pop_front(&loop->listeners); node; node = nv_list_pop_front(&loop->listeners)) {
        nv_listener *listener = nv_container_of(node, nv_listener, on_loop);
        for (int i = 0; i < listener->socket_count; i++) {
            uv_close((uv_handle_t *)&listener->sockets[i].poll, NULL);
        }
        close_sockets(listener);
    }
}

void nv_listener_free(nv_listener *listener)
{
    close_sockets(listener);
    for (size_t i = 0; i < listener->acceptor_count; i++) {
        free((void *)(size_t)listener->acceptors[i].alpn);
    }
    free(listener->acceptors);
    free(listener->name);
    free(listener);
}

/* ---- binding ---- */

static uint16_t port_of(const struct sockaddr_storage *address)
{
    uint16_t port;
    size_t at = address->ss_family == AF_INET6 ? offsetof(struct sockaddr_in6, sin6_port)
                                               : offsetof(struct sockaddr_in, sin_port);
    memcpy(&port, (const uint8_t *)address + at, sizeof(port));
    return ntohs(port);
}

static void set_port(struct sockaddr_storage *address, uint16_t port)
{
    if (address->ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)address)->sin6_port = htons(port);
    } else {
        ((struct sockaddr_in *)address)->sin_port = htons(port);
    }
}

static void set_options(int fd, int family, bool dual)
{
    int on = 1;
    int v6only = dual ? 0 : 1;
    int idle_s = 60;
    /* REUSEADDR lets a restart bind while old connections are in TIME_WAIT; it never shares a listening port. */
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
#ifdef TCP_KEEPIDLE
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
#endif
    if (family == AF_INET6) {
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only));
    }
}

/* @return the descriptor, or -errno */
static int listen_on(const struct sockaddr_storage *address, bool dual)
{
    socklen_t len = address->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    int fd = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    set_options(fd, address->ss_family, dual);
    if (bind(fd, (const struct sockaddr *)address, len) != 0 || listen(fd, BACKLOG) != 0) {
        int error = errno;
        (void)close(fd);
        return -error;
    }
    return fd;
}

typedef struct target {
    struct sockaddr_storage address;
    bool dual;
    bool optional; /* may be absent from this machine */
} target;

static nv_err explain(int error, const nv_listener_config *config, const struct sockaddr_storage *address, char *why)
{
    char where[80];
    nv_address_format((const struct sockaddr *)address, where, sizeof(where));
    char *colon = strrchr(where, ':'); /* the port is named first */
    if (colon) {
        *colon = '\0';
    }
    switch (error) {
    case EADDRINUSE:
        (void)snprintf(why, NV_NET_WHY_SIZE, "port %u on %s is in use by another program", config->port, where);
        return NV_E_IN_USE;
    case EACCES:
    case EPERM:
        (void)snprintf(why, NV_NET_WHY_SIZE,
                       "port %u on %s needs a privilege that this user does not have (cap_net_bind_service)",
                       config->port, where);
        return NV_E_PERMISSION;
    case EADDRNOTAVAIL:
        (void)snprintf(why, NV_NET_WHY_SIZE, "cannot listen on port %u: %s is not an address of this machine",
                       config->port, where);
        return NV_E_NOT_FOUND;
    default:
        (void)snprintf(why, NV_NET_WHY_SIZE, "cannot listen on port %u on %s: %s", config->port, where,
                       strerror(error));
        return nv_err_from_errno(error);
    }
}

static bool is_absent(int error)
{
    return error == EADDRNOTAVAIL || error == EAFNOSUPPORT || error == EPROTONOSUPPORT;
}

static void add_target(target *targets, int *count, const char *literal, bool dual, bool optional)
{
    target *t = &targets[(*count)++];
    *t = (target){.dual = dual, .optional = optional};
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&t->address;
    struct sockaddr_in *v4 = (struct sockaddr_in *)&t->address;
    if (strchr(literal, ':')) {
        v6->sin6_family = AF_INET6;
        (void)uv_inet_pton(AF_INET6, literal, &v6->sin6_addr);
    } else {
        v4->sin_family = AF_INET;
        (void)uv_inet_pton(AF_INET, literal, &v4->sin_addr);
    }
}

static nv_err resolve(const char *address, target *targets, int *count, char *why)
{
    char name[256];
    size_t len = strlen(address);
    bool bracketed = len > 2 && address[0] == '[' && address[len - 1] == ']';
    (void)snprintf(name, sizeof(name), "%.*s", (int)(bracketed ? len - 2 : len), address + (bracketed ? 1 : 0));
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *list = NULL;
    int rc = getaddrinfo(name, NULL, &hints, &list);
    if (rc != 0) {
        (void)snprintf(why, NV_NET_WHY_SIZE, "cannot listen on %s: %s", address, gai_strerror(rc));
        return NV_E_NOT_FOUND;
    }
    for (struct addrinfo *info = list; info && *count < MAX_SOCKETS; info = info->ai_next) {
        if (info->ai_addrlen <= sizeof(targets[0].address)) {
            targets[*count] = (target){.optional = false};
            memcpy(&targets[*count].address, info->ai_addr, info->ai_addrlen);
            (*count)++;
        }
    }
    freeaddrinfo(list);
    return NV_OK;
}

static nv_err find_targets(const char *address, target *targets, int *count, char *why)
{
    if (!address || !*address || strcmp(address, "*") == 0) {
        add_target(targets, count, "::", true, true);
        add_target(targets, count, "0.0.0.0", false, false);
        return NV_OK;
    }
    if (strcmp(address, "loopback") == 0 || strcmp(address, "localhost") == 0) {
        add_target(targets, count, "127.0.0.1", false, true);
        add_target(targets, count, "::1", false, true);
        return NV_OK;
    }
    return resolve(address, targets, count, why);
}

static uint16_t bound_port(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t len = sizeof(address);
    return getsockname(fd, (struct sockaddr *)&address, &len) == 0 ? port_of(&address) : 0;
}

/* All sockets of the listener on one port. @return 0 or errno, with the address that failed in *at */
static int bind_all(nv_listener *listener, target *targets, int count, uint16_t port, int *at)
{
    int absent = 0;
    listener->port = port;
    for (int i = 0; i < count; i++) {
        set_port(&targets[i].address, listener->port);
        int fd = listen_on(&targets[i].address, targets[i].dual);
        *at = i;
        if (fd < 0 && targets[i].optional && is_absent(-fd)) {
            absent = -fd;
            continue;
        }
        if (fd < 0) {
            close_sockets(listener);
            listener->socket_count = 0;
            return -fd;
        }
        listener->sockets[listener->socket_count++] = (listening){.listener = listener, .fd = fd};
        listener->port = bound_port(fd);
        if (targets[i].dual) {
            break; /* it takes IPv4 too */
        }
    }
    return listener->socket_count ? 0 : absent;
}

static nv_err bind_listener(nv_listener *listener, const nv_listener_config *config, char *why)
{
    target targets[MAX_SOCKETS];
    int count = 0;
    nv_err err = find_targets(config->address, targets, &count, why);
    if (err != NV_OK) {
        return err;
    }
    int at = 0;
    int error = EADDRINUSE;
    /* A free port of the first address may be taken on the second: then another. */
    for (int i = 0; i < (config->port ? 1 : FREE_PORT_TRIES) && error == EADDRINUSE; i++) {
        error = bind_all(listener, targets, count, config->port, &at);
    }
    return error ? explain(error, config, &targets[at].address, why) : NV_OK;
}

static nv_listener *listener_new(nv_net *net, const nv_listener_config *config)
{
    nv_listener *listener = nv_calloc(1, sizeof(*listener));
    listener->origin = (nv_origin){.counted = true,
                                   .tls_server = config->tls,
                                   .accept = origin_accept,
                                   .choose_alpn = origin_choose_alpn,
                                   .ended = origin_ended};
    listener->net = net;
    listener->name = nv_strdup(config->name ? config->name : "listener");
    listener->max_connections = config->max_connections;
    listener->apart = config->apart;
    listener->acceptor_count = config->acceptor_count;
    listener->acceptors = nv_calloc(config->acceptor_count, sizeof(nv_acceptor));
    for (size_t i = 0; i < config->acceptor_count; i++) {
        listener->acceptors[i] = config->acceptors[i];
        if (config->acceptors[i].alpn) {
            listener->acceptors[i].alpn = nv_strdup(config->acceptors[i].alpn);
        }
    }
    listener->start_task.run = start_listening;
    nv_list_init(&listener->link);
    nv_list_init(&listener->on_loop);
    listener->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return listener;
}

nv_err nv_net_listen(nv_net *net, const nv_listener_config *config, nv_listener **out, char why[NV_NET_WHY_SIZE])
{
    if (config->acceptor_count == 0) {
        (void)snprintf(why, NV_NET_WHY_SIZE, "a listener needs somebody who accepts");
        return NV_E_INVALID;
    }
    nv_listener *listener = listener_new(net, config);
    nv_err err = bind_listener(listener, config, why);
    if (err != NV_OK) {
        nv_listener_free(listener);
        return err;
    }
    pthread_mutex_lock(&net->lock);
    nv_list_push_back(&net->listeners, &listener->link);
    pthread_mutex_unlock(&net->lock);
    nv_post(&net->loops[0].exec, &listener->start_task);
    if (out) {
        *out = listener;
    }
    return NV_OK;
}
