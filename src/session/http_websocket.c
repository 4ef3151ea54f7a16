/** Upgrades to WebSocket (RFC 6455 section 4.2): who speaks there follows from the path and the sub-protocol. */
#include "session/http_conn.h"

#include "base/diag.h"
#include "base/metrics.h"
#include "codec/websocket.h"
#include "session/amqp/server.h"
#include "session/mqtt_device.h"

#include <stdio.h>

typedef nv_session *(*session_maker)(void *arg, nv_carrier *carrier);

static nv_session *make_mqtt(void *arg, nv_carrier *carrier)
{
    (void)arg;
    return nv_mqtt_device_new(carrier);
}

static nv_session *make_amqp(void *arg, nv_carrier *carrier)
{
    (void)arg;
    return nv_amqp_server_new(carrier);
}

/* Matched in any case, since the C SDK writes MQTT, and echoed as offered (mqtt.md section 1, amqp.md section 1.1). */
static const struct {
    const char *path; /* that of the route */
    const char *protocol;
    session_maker make;
} speakers[] = {
    {"/$iothub/websocket", "mqtt", make_mqtt},
    {"/$iothub/websocket", "AMQPWSB10", make_amqp},
    {"/$servicebus/websocket", "AMQPWSB10", make_amqp},
};

/* For the first of the offered sub-protocols that is spoken at this path. NULL: none is */
static session_maker find_speaker(const nv_http_exchange *x, nv_span *offered)
{
    nv_http_tokens tokens = {.request = x->request, .name = "sec-websocket-protocol"};
    while (nv_http_next_token(&tokens, offered)) {
        for (size_t i = 0; i < NV_COUNT_OF(speakers); i++) {
            if (strcmp(speakers[i].path, x->route->path) == 0 &&
                nv_span_eq_nocase(*offered, nv_span_str(speakers[i].protocol))) {
                return speakers[i].make;
            }
        }
    }
    return NULL;
}

static void refuse(nv_http_exchange *x, nv_hub_error error, const char *detail)
{
    if (nv_hub_may_say_refusal(x->hub)) {
        const nv_peer *peer = x->auth.peer;
        nv_subject who = {.connection = peer->connection_id, .peer = peer->address};
        nv_diag(NV_LEVEL_INFO, "http", &who, "refused WebSocket at %s: %s", x->route->path, detail);
    }
    nv_http_fail_as(x, NV_HTTP_E2, error, detail);
}

static bool asks_for_websocket(const nv_http_exchange *x)
{
    return x->request->upgrade && !x->request->http_1_0 && x->request->method == NV_HTTP_GET &&
           nv_http_has_token(x->request, "upgrade", "websocket");
}

void nv_http_websocket(nv_http_exchange *x)
{
    if (!asks_for_websocket(x)) {
        (void)snprintf(x->refused_headers, sizeof(x->refused_headers), "Upgrade: websocket\r\nConnection: Upgrade\r\n");
        nv_http_fail_as(x, NV_HTTP_E2, NV_HUB_ERROR_UpgradeRequired, NULL);
        return;
    }
    nv_span version = NV_SPAN_EMPTY;
    nv_span key = NV_SPAN_EMPTY;
    nv_span protocol = NV_SPAN_EMPTY;
    char accept[NV_WEBSOCKET_ACCEPT_SIZE];
    if (!nv_http_find_header(x->request, "sec-websocket-version", &version) || !nv_span_eq_str(version, "13")) {
        (void)snprintf(x->refused_headers, sizeof(x->refused_headers), "Sec-WebSocket-Version: 13\r\n");
        refuse(x, NV_HUB_ERROR_UpgradeRequired,
               "This hub speaks version 13 of WebSocket: send Sec-WebSocket-Version: 13");
        return;
    }
    if (!nv_http_find_header(x->request, "sec-websocket-key", &key) || nv_websocket_accept(key, accept) != NV_OK) {
        refuse(x, NV_HUB_ERROR_ArgumentInvalid, "Sec-WebSocket-Key is not 16 bytes in base64");
        return;
    }
    nv_upgrade to = {.make = find_speaker(x, &protocol),
                     .max_message_bytes = (size_t)x->hub->limits.websocket_frame_bytes};
    if (!to.make) {
        char detail[160];
        (void)snprintf(detail, sizeof(detail),
                       "No WebSocket sub-protocol that is spoken here was offered: send Sec-WebSocket-Protocol: %s",
                       strcmp(x->route->path, "/$servicebus/websocket") == 0 ? "AMQPWSB10" : "mqtt or AMQPWSB10");
        refuse(x, NV_HUB_ERROR_ArgumentInvalid, detail);
        return;
    }
    char lines[200];
    (void)snprintf(lines, sizeof(lines),
                   "Upgrade: websocket\r\nSec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: %.*s\r\n", accept,
                   NV_SPAN_ARG(protocol));
    nv_metric_add(NV_M_WEBSOCKETS, 1);
    nv_http_switch(x, lines, &to);
}
