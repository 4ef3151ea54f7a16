/*
 * Twins over MQTT (mqtt.md section 8), and what the other topics below $iothub/ lead to. A request is copied, asked of
 * the core and answered when that is done; answers need not come in the order of the requests, each has its $rid.
 */
#include "session/mqtt_device_internal.h"

#include "base/alloc.h"
#include "codec/json.h"
#include "core/twin.h"
#include "session/twin_answer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* Longer ones would cost the answers room that nobody needs: the longest that any SDK sends has 36 bytes. */
#define RID_MAX      1024u
#define TOPIC_MAX    (RID_MAX + 96u)
#define ANSWER_MAX   (8u << 20) /* bytes of JSON; the limits of twins keep it far smaller */
#define READ_RESERVE 65536u     /* what the answer to a GET may take of the memory of one connection */
#define ERROR_MAX    4096u

typedef struct mqtt_twin_request {
    nv_twin_request request; /* first member */
    mqtt_device *owner;
    size_t cost; /* in m->twin_bytes */
    size_t rid_len;
    uint8_t bytes[]; /* rid, body */
} mqtt_twin_request;

bool mqtt_twins_full(const mqtt_device *m)
{
    const nv_limits *limits = &mqtt_hub(m)->limits;
    return (int64_t)m->twin_requests >= limits->twin_inflight || (int64_t)m->twin_bytes >= limits->inflight_bytes;
}

/* ---- answering ------------------------------------------------------------------------------------------------- */

/* $rid is the first key and comes back byte for byte, $version the second (section 8.2). */
static void send_response(mqtt_device *m, unsigned status, nv_span rid, const uint64_t *version, nv_span body)
{
    char topic[TOPIC_MAX];
    if (mqtt_subscription_qos(m, NV_FILTER_TWIN_RESPONSES) < 0) {
        return; /* without a subscription nothing is delivered (mqtt.md section 4) */
    }
    int len = snprintf(topic, sizeof(topic), "$iothub/twin/res/%03u/?$rid=%.*s", status, NV_SPAN_ARG(rid));
    if (version) {
        len += snprintf(topic + len, sizeof(topic) - (size_t)len, "&$version=%" PRIu64, *version);
    }
    mqtt_send(m, nv_span_of(topic, (size_t)len), body);
}

static void send_error(mqtt_device *m, nv_span rid, nv_hub_error error, const char *detail)
{
    nv_buf body;
    nv_buf_init(&body, ERROR_MAX);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_twin_answer_error(mqtt_hub(m), &w, error, detail);
    send_response(m, nv_hub_error_info_of(error)->http_status, rid, NULL, nv_buf_span(&body));
    nv_buf_deinit(&body);
}

static void send_twin(mqtt_device *m, nv_span rid, const nv_twin *twin)
{
    nv_buf body;
    nv_buf_init(&body, ANSWER_MAX);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_twin_write_device(twin, &w);
    if (w.err == NV_OK) {
        send_response(m, 200, rid, NULL, nv_buf_span(&body));
    } else {
        send_error(m, rid, NV_HUB_ERROR_ServerError, "");
    }
    nv_buf_deinit(&body);
}

static void done(nv_twin_request *request)
{
    mqtt_twin_request *r = nv_container_of(request, mqtt_twin_request, request);
    mqtt_device *m = r->owner;
    nv_span rid = nv_span_of(r->bytes, r->rid_len);
    m->twin_requests--;
    m->twin_bytes -= r->cost;
    if (m->lost) {
        /* nobody is there to be told */
    } else if (request->error != NV_HUB_ERROR_NONE) {
        send_error(m, rid, request->error, request->detail);
    } else if (request->verb == NV_TWIN_REPORTED) {
        send_response(m, 204, rid, &request->reported_version, NV_SPAN_EMPTY);
    } else {
        send_twin(m, rid, request->twin);
    }
    nv_twin_unref(request->twin);
    free(r);
    mqtt_operation_done(m);
}

/* ---- asking ---------------------------------------------------------------------------------------------------- */

static void ask(mqtt_device *m, const nv_topic *topic, nv_twin_verb verb, nv_span body)
{
    mqtt_twin_request *r = nv_calloc(1, sizeof(*r) + topic->rid.len + body.len);
    memcpy(r->bytes, topic->rid.ptr, topic->rid.len);
    if (body.len > 0) {
        memcpy(r->bytes + topic->rid.len, body.ptr, body.len);
    }
    r->owner = m;
    r->rid_len = topic->rid.len;
    r->cost = sizeof(*r) + topic->rid.len + body.len + (verb == NV_TWIN_GET ? READ_RESERVE : 0);
    r->request = (nv_twin_request){.verb = verb,
                                   .device_id = m->identity->device_id,
                                   .module_id = m->identity->module_id,
                                   .body = nv_span_of(r->bytes + topic->rid.len, body.len),
                                   .has_version = verb == NV_TWIN_REPORTED && topic->has_version,
                                   .version = topic->version,
                                   .told = &m->claim.twin_told,
                                   .done = done};
    if (!nv_span_to_u64(m->identity->generation_id, &r->request.generation)) {
        r->request.generation = 0;
    }
    m->operations++;
    m->twin_requests++;
    m->twin_bytes += r->cost;
    nv_twin_do(m->session.carrier->loop, &r->request);
    mqtt_update_reading(m);
}

static void on_twin_request(mqtt_device *m, const nv_topic *topic, nv_span payload)
{
    bool patch = topic->kind == NV_TOPIC_TWIN_REPORTED;
    if (topic->rid.len > RID_MAX) {
        mqtt_end_for(m, NV_REFUSAL_TOPIC, "$rid is longer than 1,024 bytes");
    } else if (m->fault && m->fault->active && m->fault->order.kind == NV_FAULT_THROTTLE) {
        send_error(m, topic->rid, NV_HUB_ERROR_ThrottlingException, "");
    } else if (patch && payload.len > nv_twin_answer_longest_patch(mqtt_hub(m))) {
        char detail[120];
        (void)snprintf(detail, sizeof(detail), "The patch has %zu bytes; reported properties are limited to %" PRId64,
                       payload.len, mqtt_hub(m)->limits.twin_reported_bytes);
        send_error(m, topic->rid, NV_HUB_ERROR_ArgumentInvalid, detail);
    } else {
        ask(m, topic, patch ? NV_TWIN_REPORTED : NV_TWIN_GET, patch ? payload : NV_SPAN_EMPTY);
    }
}

void mqtt_on_request(mqtt_device *m, const nv_topic *topic, nv_span payload)
{
    switch (topic->kind) {
    case NV_TOPIC_TWIN_GET:
    case NV_TOPIC_TWIN_REPORTED:
        on_twin_request(m, topic, payload);
        return;
    case NV_TOPIC_METHOD_RESPONSE:
        mqtt_on_method_answer(m, topic, payload);
        return;
    case NV_TOPIC_CREDENTIALS:
        nv_diag(NV_LEVEL_DEBUG, "mqtt", &(nv_subject){.connection = m->session.carrier->peer->connection_id},
                "certificate request ignored: not available");
        return;
    case NV_TOPIC_NONE:
    case NV_TOPIC_TELEMETRY:
        return;
    }
}

/* ---- desired properties ------------------------------------------------------------------------------------------ */

/* Clients need $version in the topic (Java, azure-sdk-for-c) and in the body (Python), section 8.2. */
static void send_desired(mqtt_device *m, const nv_delivery *delivery)
{
    char topic[96];
    char version[NV_TWIN_VERSION_SIZE];
    nv_span body = delivery->body;
    if (mqtt_subscription_qos(m, NV_FILTER_DESIRED) < 0 || body.len < 2) {
        return;
    }
    int topic_len =
        snprintf(topic, sizeof(topic), "$iothub/twin/PATCH/properties/desired/?$version=%" PRIu64, delivery->version);
    nv_span head = NV_SPAN_EMPTY;
    nv_span tail = nv_twin_answer_desired(delivery, &head, version);
    size_t payload_len = head.len + tail.len;
    size_t size = nv_mqtt_publish_size((size_t)topic_len, payload_len, 0);
    uint8_t *room = mqtt_reserve(m, size);
    if (room) {
        nv_mqtt_publish publish = {.topic = nv_span_of(topic, (size_t)topic_len),
                                   .payload = nv_span_of(NULL, payload_len)};
        nv_writer w = nv_writer_of(room, size);
        nv_mqtt_write_publish_header(&w, &publish);
        nv_write_span(&w, head);
        nv_write_span(&w, tail);
        nv_buf_commit(m->session.out, w.err == NV_OK ? nv_writer_len(&w) : 0);
    }
}

void mqtt_on_delivery(nv_claim *claim, const nv_delivery *delivery)
{
    mqtt_device *m = nv_container_of(claim, mqtt_device, claim);
    if (m->state != MQTT_OPEN) {
        return;
    }
    mqtt_operated(m);
    switch (delivery->kind) {
    case NV_DELIVER_DESIRED:
        send_desired(m, delivery);
        break;
    case NV_DELIVER_METHOD:
        mqtt_send_method(m, delivery);
        break;
    }
    m->session.carrier->wake(m->session.carrier);
}
