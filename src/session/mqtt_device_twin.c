/*
 * Twins, methods and certificates over MQTT (mqtt.md sections 8 and 9). Their topics are understood; what stands behind
 * them is not there yet, and the answer says so in the way every SDK can tell its application.
 */
#include "session/mqtt_device_internal.h"

#include "base/diag.h"

#include <inttypes.h>
#include <stdio.h>

#define STATUS_UNAVAILABLE 501
#define RID_MAX            1024u

/* The error body of section 8.3. */
static size_t error_body(const mqtt_device *m, char *out, size_t size)
{
    nv_hub *hub = mqtt_hub(m);
    char now[NV_TIME_TEXT_SIZE];
    uint8_t id[16];
    nv_time_format(nv_wall_us(hub->clock), now);
    nv_rng_fill(hub->rng, id, sizeof(id));
    int len = snprintf(out, size,
                       "{\"errorCode\":%d,\"message\":\"Twins are not available in this version of the hub\","
                       "\"trackingId\":\"%02x%02x%02x%02x-%02x%02x-4%x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x\","
                       "\"timestampUtc\":\"%s\"}",
                       STATUS_UNAVAILABLE * 1000, id[0], id[1], id[2], id[3], id[4], id[5], id[6] & 0x0F, id[7],
                       0x80 | (id[8] & 0x3F), id[9], id[10], id[11], id[12], id[13], id[14], id[15], now);
    return len > 0 && (size_t)len < size ? (size_t)len : 0;
}

static void answer_unavailable(mqtt_device *m, nv_span rid)
{
    if (mqtt_subscription_qos(m, NV_FILTER_TWIN_RESPONSES) < 0 || rid.len > RID_MAX) {
        return; /* without a subscription nothing is delivered (mqtt.md section 4) */
    }
    char body[512];
    char topic[64 + RID_MAX];
    int topic_len =
        snprintf(topic, sizeof(topic), "$iothub/twin/res/%d/?$rid=%.*s", STATUS_UNAVAILABLE, NV_SPAN_ARG(rid));
    nv_mqtt_publish publish = {.topic = nv_span_of(topic, (size_t)topic_len),
                               .payload = nv_span_of(body, error_body(m, body, sizeof(body)))};
    size_t size = nv_mqtt_publish_size(publish.topic.len, publish.payload.len, 0);
    uint8_t *room = mqtt_reserve(m, size);
    if (room) {
        nv_writer w = nv_writer_of(room, size);
        nv_mqtt_write_publish(&w, &publish);
        nv_buf_commit(m->session.out, w.err == NV_OK ? nv_writer_len(&w) : 0);
    }
}

void mqtt_on_request(mqtt_device *m, const nv_topic *topic)
{
    nv_subject subject = mqtt_subject(m);
    switch (topic->kind) {
    case NV_TOPIC_TWIN_GET:
    case NV_TOPIC_TWIN_REPORTED:
        nv_diag(NV_LEVEL_DEBUG, "mqtt", &subject, "twin request answered with %d: twins are not available yet",
                STATUS_UNAVAILABLE);
        answer_unavailable(m, topic->rid);
        return;
    case NV_TOPIC_METHOD_RESPONSE: /* no request is ever pending: late or unknown, which is ignored (section 9) */
        nv_diag(NV_LEVEL_DEBUG, "mqtt", &subject, "answer to an unknown method request ignored (status %" PRId64 ")",
                topic->status);
        return;
    case NV_TOPIC_CREDENTIALS:
        nv_diag(NV_LEVEL_DEBUG, "mqtt", &subject, "certificate request ignored: not available");
        return;
    case NV_TOPIC_NONE:
    case NV_TOPIC_TELEMETRY:
        return;
    }
}
