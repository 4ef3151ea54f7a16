/*
 * Direct methods over MQTT (mqtt.md section 9). The $rid of a request is the number of the call, in decimal: to most
 * clients it is any text, but some read a number (Go's iothub does).
 */
#include "session/mqtt_device_internal.h"

#include "core/method.h"

#include <inttypes.h>
#include <stdio.h>

void mqtt_send_method(mqtt_device *m, const nv_delivery *delivery)
{
    char topic[NV_METHOD_NAME_MAX + 64];
    if (mqtt_subscription_qos(m, NV_FILTER_METHODS) < 0) {
        return; /* unsubscribed while it was on its way: the caller's time runs out */
    }
    int len = snprintf(topic, sizeof(topic), "$iothub/methods/POST/%.*s/?$rid=%" PRIu64,
                       NV_SPAN_ARG(nv_span_first(delivery->name, NV_METHOD_NAME_MAX)), delivery->call);
    static const nv_span null = NV_SPAN_LIT("null"); /* Node answers 400 to an empty body */
    mqtt_send(m, nv_span_of(topic, (size_t)len), delivery->body.len > 0 ? delivery->body : null);
}

void mqtt_on_method_answer(mqtt_device *m, const nv_topic *topic, nv_span payload)
{
    uint64_t call = 0;
    if (nv_span_to_u64(topic->rid, &call)) {
        nv_method_answer(&m->claim, call, topic->status, payload);
        return;
    }
    nv_subject subject = mqtt_subject(m);
    nv_diag(NV_LEVEL_DEBUG, "mqtt", &subject, "answer to a method that was never called ignored (status %" PRId64 ")",
            topic->status);
}
