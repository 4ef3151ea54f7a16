#include "session/mqtt_c2d_topic.h"

#include "base/clock.h"
#include "codec/bag.h"
#include "core/identity.h"

#include <stdio.h>

/* ---- the bag --------------------------------------------------------------------------------------------------- */

static void put_value(nv_bag_writer *bag, nv_span name, const nv_value *value)
{
    char scratch[NV_VALUE_TEXT_SIZE];
    if (value->type == NV_VALUE_NULL) {
        nv_bag_put_null(bag, name);
    } else {
        nv_bag_put(bag, name, nv_value_text(value, scratch));
    }
}

static void put_to(nv_bag_writer *bag, nv_span device_id)
{
    char to[NV_ID_MAX + 40];
    int len = snprintf(to, sizeof(to), "/devices/%.*s/messages/deviceBound",
                       NV_SPAN_ARG(nv_span_first(device_id, NV_ID_MAX)));
    nv_bag_put(bag, nv_span_str("$.to"), nv_span_of(to, (size_t)len));
}

static bool put_found(nv_bag_writer *bag, nv_span section, nv_system_property id, const char *key)
{
    nv_value value;
    if (!nv_property_find(section, id, &value) || value.type == NV_VALUE_NULL) {
        return false;
    }
    put_value(bag, nv_span_str(key), &value);
    return true;
}

/* Always in the service's own form: .NET takes no other. */
static void put_expiry(nv_bag_writer *bag, const nv_c2d_message *message, int64_t default_ttl_us)
{
    char text[NV_TIME_TEXT_SIZE];
    nv_value value;
    bool asked = nv_property_find(message->properties, NV_PROP_EXPIRY, &value) ||
                 nv_property_find(message->properties, NV_PROP_ABSOLUTE_EXPIRY, &value) ||
                 message->expires_us - message->enqueued_us != default_ttl_us;
    if (asked) {
        nv_time_format(message->expires_us, text);
        nv_bag_put(bag, nv_span_str("$.exp"), nv_span_str(text));
    }
}

/* Those that a message to a device may have; others are of telemetry, or of AMQP alone. */
static void put_system(nv_bag_writer *bag, const nv_c2d_message *message, int64_t default_ttl_us)
{
    nv_span section = message->properties;
    put_found(bag, section, NV_PROP_MESSAGE_ID, "$.mid");
    put_expiry(bag, message, default_ttl_us);
    put_found(bag, section, NV_PROP_CORRELATION_ID, "$.cid");
    put_found(bag, section, NV_PROP_USER_ID, "$.uid");
    put_found(bag, section, NV_PROP_CONTENT_TYPE, "$.ct");
    put_found(bag, section, NV_PROP_CONTENT_ENCODING, "$.ce");
    if (!put_found(bag, section, NV_PROP_CREATION_TIME, "$.ctime")) {
        put_found(bag, section, NV_PROP_CREATION_TIME_AMQP, "$.ctime");
    }
    put_found(bag, section, NV_PROP_OPERATION, "iothub-operation"); /* mqtt.md section 6: by its plain name */
    if (message->ack != NV_ACK_NONE) {
        nv_bag_put(bag, nv_span_str("iothub-ack"), nv_span_str(nv_c2d_ack_name(message->ack)));
    }
}

/* A sender's property cannot pass for one of the service. */
static bool is_reserved(nv_span name)
{
    return nv_span_eq_str(name, "iothub-ack") || nv_system_property_of_mqtt(name) != NV_PROP_APPLICATION;
}

void mqtt_write_c2d_topic(nv_writer *w, nv_span device_id, const nv_c2d_message *message, int64_t default_ttl_us)
{
    nv_write_span(w, nv_span_str("devices/"));
    nv_write_span(w, device_id);
    nv_write_span(w, nv_span_str("/messages/devicebound/"));
    nv_bag_writer bag = nv_bag_writer_of(w);
    put_to(&bag, device_id);
    put_system(&bag, message, default_ttl_us);
    nv_reader r = nv_reader_of(message->properties);
    nv_property property;
    while (nv_property_next(&r, &property)) {
        if (property.id == NV_PROP_APPLICATION && !is_reserved(property.name)) {
            put_value(&bag, property.name, &property.value);
        }
    }
}
