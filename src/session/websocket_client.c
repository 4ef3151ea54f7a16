#include "session/websocket_client.h"

#include "base/alloc.h"
#include "codec/websocket.h"

#include <stdio.h>
#include <stdlib.h>

#define HEAD_MAX    8192u
#define MESSAGE_MAX ((size_t)64 << 20)
#define TIMEOUT_US  (30 * NV_US_PER_S)
#define HTTPS_PORT  443

typedef struct websocket_client {
    nv_session session; /* first member */
    nv_websocket_client_config config;
    char key[NV_WEBSOCKET_KEY_SIZE];
    bool over; /* handed over, or failed() was called */
} websocket_client;

static websocket_client *client_of(nv_session *session)
{
    return nv_container_of(session, websocket_client, session);
}

static void fail(websocket_client *c, const char *why)
{
    c->session.closing = true;
    if (!c->over) {
        c->over = true;
        c->config.failed(c->config.arg, why);
    }
}

/* ---- asking ---- */

static nv_websocket_offer offer_of(const websocket_client *c)
{
    return (nv_websocket_offer){
        .path = nv_span_str(c->config.path), .protocol = nv_span_str(c->config.protocol), .key = nv_span_str(c->key)};
}

static void ask(websocket_client *c)
{
    char host[300];
    uint8_t text[HEAD_MAX];
    nv_websocket_offer offer = offer_of(c);
    nv_writer w = nv_writer_of(text, sizeof(text));
    (void)snprintf(host, sizeof(host), c->config.port == HTTPS_PORT ? "%s" : "%s:%u", c->config.host, c->config.port);
    offer.host = nv_span_str(host);
    nv_websocket_write_request(&w, &offer);
    if (w.err != NV_OK || nv_buf_append(c->session.out, nv_writer_span(&w)) != NV_OK) {
        fail(c, "the request for a WebSocket is too long");
    }
}

/* ---- the answer ---- */

static void hand_over(websocket_client *c)
{
    nv_upgrade to = {.make = c->config.make,
                     .dropped = c->config.dropped,
                     .arg = c->config.arg,
                     .max_message_bytes = c->config.max_message_bytes ? c->config.max_message_bytes : MESSAGE_MAX,
                     .client = true};
    c->over = true;
    c->session.reading = false;
    c->session.deadline_us = INT64_MAX;
    c->session.carrier->upgrade(c->session.carrier, &to);
}

static size_t input(nv_session *session, nv_span bytes, int64_t now_us)
{
    (void)now_us;
    websocket_client *c = client_of(session);
    nv_websocket_offer offer = offer_of(c);
    size_t taken = 0;
    unsigned status = 0;
    const char *wrong = "";
    char why[200];
    nv_err err = nv_websocket_read_answer(&offer, bytes, &taken, &status, &wrong);
    if (err == NV_OK) {
        hand_over(c);
        return taken;
    }
    if (err == NV_E_MORE) {
        return 0;
    }
    if (err == NV_E_UNSUPPORTED) {
        (void)snprintf(why, sizeof(why), "it answers %u to a WebSocket at %s", status, c->config.path);
    } else {
        (void)snprintf(why, sizeof(why), "its answer to a WebSocket at %s is none: %s", c->config.path, wrong);
    }
    fail(c, why);
    return 0;
}

static void tick(nv_session *session, int64_t now_us)
{
    if (now_us >= session->deadline_us) {
        session->deadline_us = INT64_MAX;
        fail(client_of(session), "it does not answer to a WebSocket in time");
    }
}

static void lost(nv_session *session, const char *why, int64_t now_us)
{
    (void)now_us;
    session->done = true;
    fail(client_of(session), why);
}

static void drain(nv_session *session, int64_t now_us)
{
    (void)now_us;
    session->closing = true;
}

static void client_free(nv_session *session)
{
    free(client_of(session));
}

nv_session *nv_websocket_client_new(nv_carrier *carrier, const nv_websocket_client_config *config)
{
    static const nv_session_ops ops = {.input = input, .tick = tick, .lost = lost, .drain = drain, .free = client_free};
    websocket_client *c = nv_calloc(1, sizeof(*c));
    const nv_clock *clock = config->clock ? config->clock : nv_clock_system();
    c->config = *config;
    c->session = (nv_session){.ops = &ops,
                              .carrier = carrier,
                              .out = carrier->out,
                              .deadline_us = nv_mono_us(clock) + (config->timeout_us ? config->timeout_us : TIMEOUT_US),
                              .max_pending = HEAD_MAX,
                              .reading = true};
    nv_websocket_make_key(nv_rng_system(), c->key);
    ask(c);
    return &c->session;
}
