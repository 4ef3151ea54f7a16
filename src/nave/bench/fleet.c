#include "nave/bench/fleet.h"

#include "base/alloc.h"
#include "codec/mqtt.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#define READ_BYTES     ((size_t)64 * 1024)
#define EVENTS         256
#define OPENING_LIMIT  64u /* connections being opened at the same time */
#define MAX_FILTERS    4u
#define MAX_FILTER_LEN 192u

/* ---- failures --------------------------------------------------------------------------------------------- */

static const char *const failure_names[] = {
#define X(id, name) [NV_FLEET_##id] = (name),
    NV_FLEET_FAILURES(X)
#undef X
};
_Static_assert(NV_COUNT_OF(failure_names) <= NV_BENCH_FAILURE_KINDS, "each kind has its count");

static void set_state(nv_fleet *fleet, nv_client *client, nv_client_state state)
{
    bool was_opening = client->state != NV_CLIENT_CLOSED && client->state != NV_CLIENT_READY;
    bool is_opening = state != NV_CLIENT_CLOSED && state != NV_CLIENT_READY;
    fleet->opening += (uint32_t)is_opening - (uint32_t)was_opening;
    fleet->ready += (uint32_t)(state == NV_CLIENT_READY) - (uint32_t)(client->state == NV_CLIENT_READY);
    client->state = state;
}

static void close_client(nv_fleet *fleet, nv_client *client)
{
    nv_link_close(&client->link);
    free(client->rest);
    client->rest = NULL;
    free(client->held);
    client->held = NULL;
    client->rest_len = client->rest_at = client->skip = client->held_len = 0;
    client->part_len = 0;
    client->watching_write = false;
    set_state(fleet, client, NV_CLIENT_CLOSED);
}

void nv_fleet_fail(nv_fleet *fleet, nv_client *client, nv_fleet_failure failure, const char *words)
{
    char text[160];
    nv_link_error(&client->link, text, sizeof(text));
    nv_bench_failures_add(&fleet->failures, failure, "%s: %s (connection %u)", failure_names[failure],
                          words ? words : text, client->index);
    close_client(fleet, client);
    if (fleet->hooks->failed) {
        fleet->hooks->failed(fleet, client);
    }
}

/* The stream ended: what that means depends on how far the connection was. */
static void lost(nv_fleet *fleet, nv_client *client)
{
    nv_fleet_failure failure = NV_FLEET_CLOSED;
    if (client->state == NV_CLIENT_CONNECTING) {
        bool tcp = !client->link.ssl || client->link.error == ECONNREFUSED || client->link.error == ETIMEDOUT;
        failure = tcp ? NV_FLEET_TCP : NV_FLEET_TLS;
    } else if (client->state == NV_CLIENT_GREETING) {
        failure = NV_FLEET_CLOSED_EARLY;
    }
    nv_fleet_fail(fleet, client, failure, NULL);
}

/* ---- writing ---------------------------------------------------------------------------------------------- */

static void watch(nv_fleet *fleet, nv_client *client, bool write)
{
    if (client->watching_write != write) {
        struct epoll_event event = {.events = EPOLLIN | (write ? (uint32_t)EPOLLOUT : 0u), .data.ptr = &client->source};
        (void)epoll_ctl(fleet->epoll, EPOLL_CTL_MOD, client->link.fd, &event);
        client->watching_write = write;
    }
}

static void keep_rest(nv_fleet *fleet, nv_client *client, const uint8_t *bytes, size_t len)
{
    size_t old = client->rest_len - client->rest_at;
    uint8_t *rest = nv_malloc(old + len);
    if (old) {
        memcpy(rest, client->rest + client->rest_at, old);
    }
    memcpy(rest + old, bytes, len);
    free(client->rest);
    client->rest = rest;
    client->rest_at = 0;
    client->rest_len = old + len;
    watch(fleet, client, true);
}

/* @return bytes written; the client may be closed when fewer than len */
static size_t write_some(nv_fleet *fleet, nv_client *client, const uint8_t *bytes, size_t len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t put = nv_link_write(&client->link, bytes + done, len - done);
        if (put == NV_LINK_AGAIN) {
            break;
        }
        if (put < 0) {
            lost(fleet, client);
            break;
        }
        done += (size_t)put;
    }
    return done;
}

bool nv_fleet_write(nv_fleet *fleet, nv_client *client, const uint8_t *bytes, size_t len)
{
    uint32_t generation = client->generation;
    size_t done = client->rest_len ? 0 : write_some(fleet, client, bytes, len);
    if (done == len) {
        return true;
    }
    if (client->generation == generation && client->state != NV_CLIENT_CLOSED) {
        keep_rest(fleet, client, bytes + done, len - done);
    }
    return false;
}

static void flush_rest(nv_fleet *fleet, nv_client *client)
{
    uint32_t generation = client->generation;
    size_t len = client->rest_len - client->rest_at;
    size_t done = write_some(fleet, client, client->rest + client->rest_at, len);
    if (client->generation != generation || client->state == NV_CLIENT_CLOSED) {
        return;
    }
    client->rest_at += done;
    if (client->rest_at == client->rest_len) {
        free(client->rest);
        client->rest = NULL;
        client->rest_at = client->rest_len = 0;
        watch(fleet, client, false);
    }
}

void nv_fleet_stop(nv_fleet *fleet, nv_client *client)
{
    static const uint8_t disconnect[] = {NV_MQTT_DISCONNECT << 4, 0};
    if (client->state == NV_CLIENT_READY && client->rest_len == 0) {
        (void)nv_link_write(&client->link, disconnect, sizeof(disconnect)); /* best effort: the stream ends anyway */
    }
    close_client(fleet, client);
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

/* TCP (and TLS) are through, as far as one can tell before the first write: greet. */
static void advance(nv_fleet *fleet, nv_client *client)
{
    if (client->link.ssl) {
        ssize_t done = nv_link_handshake(&client->link);
        if (done == NV_LINK_AGAIN) {
            watch(fleet, client, client->link.want_write);
            return;
        }
        if (done < 0) {
            lost(fleet, client);
            return;
        }
        client->resumed = SSL_session_reused(client->link.ssl) == 1;
        (void)snprintf(fleet->cipher, sizeof(fleet->cipher), "%s", SSL_get_cipher_name(client->link.ssl));
    }
    nv_span hello = fleet->credentials.connects[client->device];
    ssize_t put = nv_link_write(&client->link, hello.ptr, hello.len);
    if (put == NV_LINK_AGAIN) {
        watch(fleet, client, true);
    } else if (put != (ssize_t)hello.len) {
        lost(fleet, client); /* a fresh socket takes a CONNECT whole or not at all */
    } else {
        watch(fleet, client, false);
        set_state(fleet, client, NV_CLIENT_GREETING);
    }
}

void nv_fleet_start(nv_fleet *fleet, nv_client *client, uint32_t device)
{
    uint32_t spread = fleet->o->mode == NV_BENCH_STORM ? (uint32_t)(fleet->starts++ % 8) + 1 : 0;
    client->generation++;
    client->device = device;
    client->resumed = false;
    client->started_ns = nv_bench_now_ns();
    set_state(fleet, client, NV_CLIENT_CONNECTING);
    if (!nv_link_start(&client->link, &fleet->to, fleet->to_len, spread)) {
        lost(fleet, client);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &client->source};
    if (epoll_ctl(fleet->epoll, EPOLL_CTL_ADD, client->link.fd, &event) < 0) {
        client->link.error = errno;
        lost(fleet, client);
        return;
    }
    if (fleet->tls) {
        bool verify = fleet->o->ca != NULL;
        nv_link_add_tls(&client->link, fleet->tls, verify ? fleet->o->host : NULL,
                        fleet->keep_sessions ? client->session : NULL, false);
        if (client->link.ssl) {
            SSL_set_app_data(client->link.ssl, client);
        }
    }
    advance(fleet, client);
}

bool nv_fleet_open_all(nv_fleet *fleet)
{
    uint32_t wanted = (uint32_t)fleet->o->connections;
    uint32_t next = 0;
    int64_t end = nv_bench_now_ns() + (int64_t)(fleet->o->setup_s * 1e9);
    while ((next < wanted || fleet->opening) && nv_bench_now_ns() < end) {
        while (next < wanted && fleet->opening < OPENING_LIMIT) {
            nv_fleet_start(fleet, &fleet->clients[next], next);
            next++;
        }
        nv_fleet_poll(fleet, end - nv_bench_now_ns());
    }
    for (uint32_t i = 0; i < wanted; i++) {
        if (i >= next || (fleet->clients[i].state != NV_CLIENT_READY && fleet->clients[i].state != NV_CLIENT_CLOSED)) {
            nv_fleet_fail(fleet, &fleet->clients[i], NV_FLEET_SETUP, "no CONNACK in time");
        }
    }
    return fleet->ready == wanted;
}

static void subscribe(nv_fleet *fleet, nv_client *client)
{
    const char *id = fleet->credentials.ids[client->device];
    const char *prefix = fleet->o->anonymous ? id : "";
    char text[MAX_FILTERS][MAX_FILTER_LEN];
    nv_mqtt_filter filters[MAX_FILTERS];
    uint8_t packet[1024];
    size_t count = 0;
    uint8_t qos = fleet->hooks->message ? 1 : 0;
    (void)snprintf(text[0], MAX_FILTER_LEN, "devices/%s/messages/devicebound/#", id);
    (void)snprintf(text[1], MAX_FILTER_LEN, "%s$iothub/methods/POST/#", prefix);
    (void)snprintf(text[2], MAX_FILTER_LEN, "%s$iothub/twin/res/#", prefix);
    (void)snprintf(text[3], MAX_FILTER_LEN, "%s$iothub/twin/PATCH/properties/desired/#", prefix);
    for (size_t i = 0; i < MAX_FILTERS; i++) {
        if (fleet->filters & 1u << i) {
            filters[count++] = (nv_mqtt_filter){nv_span_str(text[i]), i == 0 ? qos : 0};
        }
    }
    nv_writer w = nv_writer_of(packet, sizeof(packet));
    nv_mqtt_write_subscribe(&w, 1, filters, count);
    set_state(fleet, client, NV_CLIENT_SUBSCRIBING);
    (void)nv_fleet_write(fleet, client, packet, nv_writer_len(&w)); /* the rest is kept */
}

/* ---- reading ---------------------------------------------------------------------------------------------- */

static void enter_ready(nv_fleet *fleet, nv_client *client)
{
    set_state(fleet, client, NV_CLIENT_READY);
    if (fleet->hooks->ready) {
        fleet->hooks->ready(fleet, client);
    }
}

static void on_connack(nv_fleet *fleet, nv_client *client, uint8_t code)
{
    if (code != NV_MQTT_ACCEPTED) {
        nv_fleet_failure which = code <= 5 ? (nv_fleet_failure)(NV_FLEET_CONNACK_1 + code - 1) : NV_FLEET_CONNACK_OTHER;
        nv_fleet_fail(fleet, client, which, "the server refused the connection");
    } else if (fleet->filters) {
        subscribe(fleet, client);
    } else {
        enter_ready(fleet, client);
    }
}

static void on_suback(nv_fleet *fleet, nv_client *client, nv_span codes)
{
    for (size_t i = 0; i < codes.len; i++) {
        if (codes.ptr[i] & 0x80) {
            nv_fleet_fail(fleet, client, NV_FLEET_SUBSCRIBE, "a filter was refused");
            return;
        }
    }
    enter_ready(fleet, client);
}

/* Any packet but the PUBACKs of a running test. */
static void on_packet(nv_fleet *fleet, nv_client *client, const nv_mqtt_packet *packet)
{
    if (packet->type == NV_MQTT_CONNACK && client->state == NV_CLIENT_GREETING) {
        on_connack(fleet, client, packet->u.connack.code);
    } else if (packet->type == NV_MQTT_SUBACK && client->state == NV_CLIENT_SUBSCRIBING) {
        on_suback(fleet, client, packet->u.suback.codes);
    } else if (packet->type == NV_MQTT_PINGRESP && client->state == NV_CLIENT_READY && fleet->hooks->pong) {
        fleet->hooks->pong(fleet, client);
    } else if (packet->type == NV_MQTT_PUBLISH && fleet->hooks->message) {
        fleet->hooks->message(fleet, client, &packet->u.publish);
    } else if (packet->type != NV_MQTT_PUBLISH) {
        nv_fleet_fail(fleet, client, NV_FLEET_PROTOCOL, nv_mqtt_type_name((uint8_t)packet->type));
    }
}

static size_t count_pubacks(const uint8_t *at, size_t len)
{
    size_t count = 0;
    while (len - 4 * count >= 4 && at[4 * count] == NV_MQTT_PUBACK << 4 && at[4 * count + 1] == 2) {
        count++;
    }
    return count;
}

/* What is left of the bytes: keep a short packet in parts, pass over a long one. */
static void keep_part(nv_fleet *fleet, nv_client *client, const uint8_t *at, size_t len, size_t packet_size)
{
    if (fleet->hooks->message && len <= NV_CLIENT_HELD_MAX && packet_size <= NV_CLIENT_HELD_MAX) {
        uint8_t *held = nv_malloc(len);
        memcpy(held, at, len);
        free(client->held);
        client->held = held;
        client->held_len = len;
    } else if (len <= NV_CLIENT_PART_MAX && packet_size <= NV_CLIENT_PART_MAX) {
        memcpy(client->part, at, len);
        client->part_len = (uint8_t)len;
    } else if (packet_size > len) {
        client->skip = packet_size - len;
    } else {
        nv_fleet_fail(fleet, client, NV_FLEET_PROTOCOL, "a packet without end");
    }
}

static void consume(nv_fleet *fleet, nv_client *client, const uint8_t *at, size_t len)
{
    uint32_t generation = client->generation;
    size_t skip = client->skip < len ? client->skip : len;
    client->skip -= skip;
    at += skip;
    len -= skip;
    while (len && client->generation == generation && client->state != NV_CLIENT_CLOSED) {
        size_t acks = client->state == NV_CLIENT_READY && fleet->hooks->acked ? count_pubacks(at, len) : 0;
        size_t used = acks * NV_MQTT_ACK_SIZE;
        if (acks) {
            fleet->hooks->acked(fleet, client, at, acks);
        } else {
            nv_mqtt_packet packet = {0};
            const char *why = NULL;
            nv_err err = nv_mqtt_decode(nv_span_of(at, len), SIZE_MAX, &packet, &used, &why);
            if (err == NV_E_MORE) {
                keep_part(fleet, client, at, len, packet.size);
                return;
            }
            if (err != NV_OK) {
                nv_fleet_fail(fleet, client, NV_FLEET_PROTOCOL, why);
                return;
            }
            on_packet(fleet, client, &packet);
        }
        at += used;
        len -= used;
    }
}

static void on_readable(nv_fleet *fleet, nv_client *client)
{
    uint32_t generation = client->generation;
    for (;;) {
        size_t kept = client->held_len ? client->held_len : client->part_len;
        memcpy(fleet->in, client->held_len ? client->held : client->part, kept);
        ssize_t got = nv_link_read(&client->link, fleet->in + kept, READ_BYTES);
        if (got == NV_LINK_AGAIN) {
            break;
        }
        if (got < 0) {
            lost(fleet, client);
            return;
        }
        client->part_len = 0;
        client->held_len = 0;
        fleet->now_ns = nv_bench_now_ns();
        consume(fleet, client, fleet->in, kept + (size_t)got);
        if (client->generation != generation || client->state == NV_CLIENT_CLOSED) {
            return;
        }
        if (got < (ssize_t)READ_BYTES && !nv_link_pending(&client->link)) {
            break;
        }
    }
    if (client->state == NV_CLIENT_READY && fleet->hooks->turn) {
        fleet->hooks->turn(fleet, client);
    }
}

static void on_event(nv_fleet *fleet, nv_source *source, uint32_t events)
{
    nv_client *client = (nv_client *)source;
    uint32_t generation = client->generation;
    if (client->state == NV_CLIENT_CONNECTING) {
        advance(fleet, client);
        if (client->generation != generation || client->state == NV_CLIENT_CONNECTING ||
            !nv_link_pending(&client->link)) {
            return;
        }
        events = EPOLLIN; /* TLS already holds what the socket will not announce again */
    }
    if (client->state == NV_CLIENT_CLOSED) {
        return;
    }
    if (client->rest_len && events & EPOLLOUT) {
        flush_rest(fleet, client);
        if (client->generation != generation || client->state == NV_CLIENT_CLOSED) {
            return;
        }
        if (client->rest_len == 0 && client->state == NV_CLIENT_READY && fleet->hooks->turn) {
            fleet->hooks->turn(fleet, client);
        }
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && client->generation == generation &&
        client->state != NV_CLIENT_CLOSED) {
        on_readable(fleet, client);
    }
}

void nv_fleet_poll(nv_fleet *fleet, int64_t timeout_ns)
{
    struct epoll_event events[EVENTS];
    int64_t wait = timeout_ns > 0 ? timeout_ns : 0;
    struct timespec ts = {.tv_sec = (time_t)(wait / 1000000000), .tv_nsec = (long)(wait % 1000000000)};
    int count = epoll_pwait2(fleet->epoll, events, EVENTS, &ts, NULL);
    fleet->now_ns = nv_bench_now_ns();
    for (int i = 0; i < count; i++) {
        nv_source *source = events[i].data.ptr;
        source->event(fleet, source, events[i].events);
    }
}

/* ---- whole ------------------------------------------------------------------------------------------------ */

static int on_ticket(SSL *ssl, SSL_SESSION *session)
{
    nv_client *client = SSL_get_app_data(ssl);
    SSL_SESSION_free(client->session);
    client->session = session;
    return 1; /* the reference is ours now */
}

static bool init_tls(nv_fleet *fleet)
{
    SSL_CTX *ctx = fleet->tls = nv_link_tls_new(fleet->o, fleet->o->mode == NV_BENCH_IDLE);
    if (!ctx) {
        return false;
    }
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    if (fleet->o->resume) {
        fleet->keep_sessions = true;
        SSL_CTX_sess_set_new_cb(ctx, on_ticket);
    }
    return true;
}

static unsigned filters_of(const nv_bench_mqtt_options *o)
{
    switch ((nv_bench_mode)o->mode) {
    case NV_BENCH_IDLE:
        return o->subscribe == NV_BENCH_SUBSCRIBE_YES || (o->subscribe == NV_BENCH_SUBSCRIBE_AUTO && !o->anonymous)
                   ? NV_FLEET_FILTER_ALL
                   : 0;
    case NV_BENCH_TWIN:
        return NV_FLEET_FILTER_TWIN;
    case NV_BENCH_METHOD:
        return NV_FLEET_FILTER_METHODS;
    case NV_BENCH_DESIRED:
        return NV_FLEET_FILTER_DESIRED;
    case NV_BENCH_C2D:
        return NV_FLEET_FILTER_DEVICEBOUND;
    case NV_BENCH_PUBLISH:
    case NV_BENCH_STORM:
        break;
    }
    return 0;
}

bool nv_fleet_init(nv_fleet *fleet, const nv_bench_mqtt_options *o, const nv_fleet_hooks *hooks, void *mode)
{
    *fleet = (nv_fleet){.o = o,
                        .hooks = hooks,
                        .mode = mode,
                        .epoll = epoll_create1(EPOLL_CLOEXEC),
                        .failures = {.names = failure_names, .kinds = NV_FLEET_FAILURE_COUNT}};
    (void)prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); /* open loop: due times are microseconds apart */
    fleet->in = nv_malloc(NV_CLIENT_HELD_MAX + READ_BYTES);
    fleet->clients = nv_calloc(o->connections, sizeof(*fleet->clients));
    for (uint32_t i = 0; i < o->connections; i++) {
        fleet->clients[i].source.event = on_event;
        fleet->clients[i].index = i;
        fleet->clients[i].link.fd = -1;
    }
    fleet->filters = filters_of(o);
    return fleet->epoll >= 0 && nv_bench_credentials_init(&fleet->credentials, o) == NV_OK &&
           nv_link_resolve(o, &fleet->to, &fleet->to_len) && (!o->tls || init_tls(fleet));
}

void nv_fleet_deinit(nv_fleet *fleet)
{
    for (uint32_t i = 0; i < fleet->o->connections; i++) {
        nv_fleet_stop(fleet, &fleet->clients[i]);
        SSL_SESSION_free(fleet->clients[i].session);
    }
    nv_bench_credentials_deinit(&fleet->credentials);
    SSL_CTX_free(fleet->tls);
    if (fleet->epoll >= 0) {
        close(fleet->epoll);
    }
    free(fleet->clients);
    free(fleet->in);
}
