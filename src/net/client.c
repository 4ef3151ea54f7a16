/*
 * Outgoing connections. A dial is the origin of its connection: it resolves the name, tries one address after another
 * until one stands, and hears how the attempt ended. It is freed when its connection has ended.
 */
#include "net/client.h"

#include "base/alloc.h"
#include "net/conn.h"
#include "net/dial.h"
#include "net/net_impl.h"
#include "net/tls_impl.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>

#define DEFAULT_TIMEOUT_US (30 * NV_US_PER_S)

typedef struct dial {
    nv_origin origin;
    nv_task task;
    nv_loop *loop;
    nv_client_config config; /* its strings are owned */
    int64_t by_us;
    bool answered; /* connected() or failed() was called */
    uv_getaddrinfo_t lookup;
    struct addrinfo *addresses; /* from the lookup */
    struct addrinfo *next;
    char why[NV_NET_WHY_SIZE];
} dial;

static void try_next(dial *d);

static dial *dial_of(nv_origin *origin)
{
    return nv_container_of(origin, dial, origin);
}

const char *nv_dial_server_name(nv_origin *origin)
{
    dial *d = dial_of(origin);
    return d->config.server_name ? d->config.server_name : d->config.host;
}

const char *nv_dial_alpn(nv_origin *origin)
{
    return dial_of(origin)->config.alpn;
}

void nv_dial_explain(nv_origin *origin, const char *why)
{
    (void)snprintf(dial_of(origin)->why, NV_NET_WHY_SIZE, "%s", why);
}

static void dial_free(dial *d)
{
    uv_freeaddrinfo(d->addresses);
    free((void *)(size_t)d->config.host);
    free((void *)(size_t)d->config.server_name);
    free((void *)(size_t)d->config.alpn);
    free(d);
}

static void answer_failed(dial *d, nv_err err, const char *why)
{
    if (!d->answered) {
        d->answered = true;
        char text[NV_NET_WHY_SIZE + 320];
        (void)snprintf(text, sizeof(text), "cannot connect to %s port %u: %s", d->config.host, d->config.port,
                       d->why[0] ? d->why : why);
        d->config.failed(d->config.arg, err, text);
    }
}

static nv_session *origin_accept(nv_origin *origin, nv_conn *conn, nv_span alpn)
{
    (void)alpn;
    dial *d = dial_of(origin);
    d->answered = true;
    return d->config.connected(d->config.arg, &conn->carrier);
}

static void origin_ended(nv_origin *origin, nv_conn *conn, const char *why)
{
    dial *d = dial_of(origin);
    if (!d->answered && conn->state == NV_CONN_CONNECTING && d->next && !d->loop->stopping &&
        d->loop->now_us < d->by_us) {
        try_next(d);
        return;
    }
    answer_failed(d, d->loop->stopping ? NV_E_CANCELED : NV_E_IO, why);
    dial_free(d);
}

static void on_connected(uv_connect_t *req, int status)
{
    nv_conn *conn = req->handle->data;
    free(req);
    nv_loop_enter(conn->loop);
    if (status == UV_ECANCELED) {
        return; /* the connection has ended; the dial may be gone or busy with the next address */
    }
    if (status < 0) {
        nv_conn_end(conn, uv_strerror(status));
        return;
    }
    (void)uv_tcp_nodelay(&conn->tcp, 1);
    nv_conn_begin(conn);
}

static void try_next(dial *d)
{
    struct addrinfo *address = d->next;
    d->next = address->ai_next;
    nv_conn *conn = nv_conn_new(d->loop, &d->origin, address->ai_addr);
    atomic_fetch_add_explicit(&d->loop->load, 1, memory_order_relaxed);
    conn->state_by_us = d->by_us;
    uv_connect_t *req = nv_malloc(sizeof(*req)); /* on its own: closing the socket cancels it later */
    int rc = uv_tcp_connect(req, &conn->tcp, address->ai_addr, on_connected);
    if (rc != 0) {
        free(req);
        nv_conn_end(conn, uv_strerror(rc));
        return;
    }
    nv_conn_wake(conn); /* for its deadline */
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *addresses)
{
    dial *d = nv_container_of(req, dial, lookup);
    nv_loop_enter(d->loop);
    d->addresses = d->next = addresses;
    if (status < 0 || !addresses || d->loop->stopping) {
        answer_failed(d, d->loop->stopping ? NV_E_CANCELED : NV_E_NOT_FOUND,
                      status < 0 ? uv_strerror(status) : "no address");
        dial_free(d);
        return;
    }
    try_next(d);
}

static void start_dial(nv_task *task)
{
    dial *d = nv_container_of(task, dial, task);
    int64_t timeout_us = d->config.timeout_us ? d->config.timeout_us : DEFAULT_TIMEOUT_US;
    d->by_us = d->loop->now_us + timeout_us;
    if (d->loop->stopping) {
        answer_failed(d, NV_E_CANCELED, "the program stops");
        dial_free(d);
        return;
    }
    char port[8];
    (void)snprintf(port, sizeof(port), "%u", d->config.port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    if (getaddrinfo(d->config.host, port, &hints, &list) == 0) { /* a literal address never blocks */
        on_resolved(&d->lookup, 0, list);
        return;
    }
    hints.ai_flags = AI_NUMERICSERV;
    int rc = uv_getaddrinfo(&d->loop->uv, &d->lookup, on_resolved, d->config.host, port, &hints);
    if (rc != 0) {
        on_resolved(&d->lookup, rc, NULL);
    }
}

void nv_client_connect(nv_loop *loop, const nv_client_config *config)
{
    dial *d = nv_calloc(1, sizeof(*d));
    d->origin = (nv_origin){.tls_client = config->tls, .accept = origin_accept, .ended = origin_ended};
    d->loop = loop;
    d->config = *config;
    d->config.host = nv_strdup(config->host);
    d->config.server_name = config->server_name ? nv_strdup(config->server_name) : NULL;
    d->config.alpn = config->alpn ? nv_strdup(config->alpn) : NULL;
    d->task.run = start_dial;
    nv_post(&loop->exec, &d->task);
}
