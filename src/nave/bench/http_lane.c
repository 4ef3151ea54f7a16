#include "nave/bench/http_lane.h"

#include "base/alloc.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <strings.h>

static void fail(nv_http_lane *lane, const char *words)
{
    nv_fleet *fleet = lane->lanes->fleet;
    char text[160];
    nv_link_error(&lane->link, text, sizeof(text));
    nv_bench_failures_add(&fleet->failures, NV_FLEET_HTTP, "https: %s (connection %u)", words ? words : text,
                          lane->index);
    lane->lanes->open -= lane->open ? 1 : 0;
    lane->open = lane->busy = false;
    nv_link_close(&lane->link);
}

static void watch(nv_http_lane *lane, bool write)
{
    struct epoll_event event = {.events = EPOLLIN | (write ? (uint32_t)EPOLLOUT : 0u), .data.ptr = &lane->source};
    (void)epoll_ctl(lane->lanes->fleet->epoll, EPOLL_CTL_MOD, lane->link.fd, &event);
}

static void flush(nv_http_lane *lane)
{
    while (lane->out_at < lane->out_len) {
        ssize_t put = nv_link_write(&lane->link, lane->out + lane->out_at, lane->out_len - lane->out_at);
        if (put == NV_LINK_AGAIN) {
            watch(lane, true);
            return;
        }
        if (put < 0) {
            fail(lane, NULL);
            return;
        }
        lane->out_at += (size_t)put;
        if (lane->out_at == lane->out_len && lane->out_at != (size_t)put) {
            watch(lane, false);
        }
    }
}

void nv_http_lane_send(nv_http_lane *lane, uint64_t tag, int64_t since_ns, const char *method, const char *path,
                       const char *body)
{
    const nv_bench_credentials *c = &lane->lanes->fleet->credentials;
    int len = snprintf(lane->out, NV_HTTP_LANE_BYTES,
                       "%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nContent-Type: application/json\r\n"
                       "Content-Length: %zu\r\n\r\n%s",
                       method, path, c->host, c->service, strlen(body), body);
    lane->busy = true;
    lane->tag = tag;
    lane->since_ns = since_ns;
    lane->out_at = 0;
    lane->out_len = (size_t)len;
    if (lane->out_len >= NV_HTTP_LANE_BYTES) {
        fail(lane, "the request is too long");
        return;
    }
    flush(lane);
}

/* The value of Content-Length in the head, or 0. */
static size_t content_length(const char *head, const char *end)
{
    static const char name[] = "\r\ncontent-length:";
    for (const char *at = head; at + sizeof(name) < end; at++) {
        if (*at == '\r' && strncasecmp(at, name, sizeof(name) - 1) == 0) {
            return (size_t)strtoul(at + sizeof(name) - 1, NULL, 10);
        }
    }
    return 0;
}

/* @return false: the rest is still to come */
static bool take_answer(nv_http_lane *lane)
{
    lane->in[lane->in_len] = '\0';
    const char *end = strstr(lane->in, "\r\n\r\n");
    if (!end) {
        return false;
    }
    size_t head = (size_t)(end - lane->in) + 4;
    size_t body = content_length(lane->in, end + 2);
    if (head + body > lane->in_len) {
        return false;
    }
    unsigned status = lane->in_len > 12 ? (unsigned)strtoul(lane->in + 9, NULL, 10) : 0;
    if (!lane->busy || head + body != lane->in_len) {
        fail(lane, "an answer that was not asked for");
        return true;
    }
    lane->busy = false;
    lane->in_len = 0;
    lane->lanes->answered(lane, status, nv_span_of(lane->in + head, body));
    return true;
}

static void on_readable(nv_http_lane *lane)
{
    for (;;) {
        if (lane->in_len + 1 == NV_HTTP_LANE_BYTES) {
            fail(lane, "an answer is too long");
            return;
        }
        ssize_t got = nv_link_read(&lane->link, lane->in + lane->in_len, NV_HTTP_LANE_BYTES - 1 - lane->in_len);
        if (got == NV_LINK_AGAIN) {
            return;
        }
        if (got < 0) {
            fail(lane, got == NV_LINK_CLOSED ? "closed by the server" : NULL);
            return;
        }
        lane->in_len += (size_t)got;
        lane->lanes->fleet->now_ns = nv_bench_now_ns();
        if (take_answer(lane) && lane->link.fd < 0) {
            return;
        }
    }
}

static void shake_hands(nv_http_lane *lane)
{
    ssize_t done = nv_link_handshake(&lane->link);
    if (done == NV_LINK_AGAIN) {
        watch(lane, lane->link.want_write);
    } else if (done < 0) {
        fail(lane, NULL);
    } else {
        watch(lane, false);
        lane->open = true;
        lane->lanes->open++;
    }
}

static void on_event(nv_fleet *fleet, nv_source *source, uint32_t events)
{
    nv_http_lane *lane = (nv_http_lane *)source;
    (void)fleet;
    if (lane->link.fd < 0) {
        return;
    }
    if (!lane->open) {
        shake_hands(lane);
    } else if (events & EPOLLOUT && lane->out_at < lane->out_len) {
        flush(lane);
    }
    if (lane->open) {
        on_readable(lane);
    }
}

static void start(nv_http_lanes *lanes, nv_http_lane *lane, uint32_t index)
{
    const nv_bench_mqtt_options *o = lanes->fleet->o;
    *lane = (nv_http_lane){.source.event = on_event, .lanes = lanes, .link.fd = -1, .index = index};
    lane->out = nv_malloc(NV_HTTP_LANE_BYTES);
    lane->in = nv_malloc(NV_HTTP_LANE_BYTES);
    if (!nv_link_start(&lane->link, &lanes->to, lanes->fleet->to_len, 0)) {
        fail(lane, NULL);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = &lane->source};
    (void)epoll_ctl(lanes->fleet->epoll, EPOLL_CTL_ADD, lane->link.fd, &event);
    nv_link_add_tls(&lane->link, lanes->tls, o->ca ? o->host : NULL, NULL, false);
}

bool nv_http_lanes_init(nv_http_lanes *lanes, nv_fleet *fleet,
                        void (*answered)(nv_http_lane *lane, unsigned status, nv_span body))
{
    *lanes = (nv_http_lanes){.fleet = fleet, .count = (uint32_t)fleet->o->requests, .answered = answered};
    lanes->lanes = nv_calloc(lanes->count, sizeof(*lanes->lanes));
    lanes->tls = fleet->tls;
    lanes->to = fleet->to;
    uint16_t port = htons((uint16_t)fleet->o->https_port);
    if (lanes->to.ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)&lanes->to)->sin6_port = port;
    } else {
        ((struct sockaddr_in *)&lanes->to)->sin_port = port;
    }
    int64_t end = nv_bench_now_ns() + (int64_t)(fleet->o->setup_s * 1e9);
    for (uint32_t i = 0; i < lanes->count; i++) {
        start(lanes, &lanes->lanes[i], i);
    }
    while (lanes->open < lanes->count && fleet->failures.counts[NV_FLEET_HTTP] == 0 && nv_bench_now_ns() < end) {
        nv_fleet_poll(fleet, end - nv_bench_now_ns());
    }
    return lanes->open == lanes->count;
}

void nv_http_lanes_deinit(nv_http_lanes *lanes)
{
    for (uint32_t i = 0; i < lanes->count; i++) {
        nv_link_close(&lanes->lanes[i].link);
        free(lanes->lanes[i].out);
        free(lanes->lanes[i].in);
    }
    free(lanes->lanes);
    *lanes = (nv_http_lanes){0};
}
