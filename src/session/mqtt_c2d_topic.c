#include "session/mqtt_c2d_topic.h"

#include "base/clock.h"
#include "codec/bag.h"
#include "codec/hex.h"
#include "core/identity.h"

#include <inttypes.h>
#include <stdio.h>

#define VALUE_TEXT_MAX 64u

/* ---- values as text -------------------------------------------------------------------------------------------- */

static double double_of(const nv_value *value)
{
    double d = 0;
    float f = 0;
    uint32_t low = (uint32_t)value->u;
    if (value->type == NV_VALUE_DOUBLE) {
        memcpy(&d, &value->u, sizeof(d));
        return d;
    }
    memcpy(&f, &low, sizeof(f));
    return (double)f;
}

static nv_span uuid_text(nv_span bytes, char *scratch)
{
    char hex[32];
    nv_writer digits = nv_writer_of(hex, sizeof(hex));
    nv_hex_encode(bytes, &digits);
    if (bytes.len != 16 || digits.err != NV_OK) {
        return bytes;
    }
    int len =
        snprintf(scratch, VALUE_TEXT_MAX, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
    return nv_span_of(scratch, (size_t)len);
}

static nv_span time_text(int64_t wall_us, char *scratch)
{
    nv_time_format(wall_us, scratch);
    return nv_span_str(scratch);
}

static nv_span char_text(uint64_t c, char *scratch)
{
    size_t more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const uint8_t lead[] = {0, 0xC0, 0xE0, 0xF0};
    size_t len = 0;
    scratch[len++] = (char)(lead[more] | (c >> (6 * more) & 0x7F));
    while (more-- > 0) {
        scratch[len++] = (char)(0x80 | (c >> (6 * more) & 0x3F));
    }
    return nv_span_of(scratch, len);
}

static nv_span formatted(int len, const char *scratch)
{
    return nv_span_of(scratch, len > 0 ? (size_t)len : 0);
}

/* Not for nulls. The result points into the value or into @p scratch. */
static nv_span text_of(const nv_value *value, char scratch[VALUE_TEXT_MAX])
{
    switch (value->type) {
    case NV_VALUE_NULL:
        return NV_SPAN_EMPTY;
    case NV_VALUE_BOOL:
        return nv_span_str(value->boolean ? "true" : "false");
    case NV_VALUE_UBYTE:
    case NV_VALUE_USHORT:
    case NV_VALUE_UINT:
    case NV_VALUE_ULONG:
        return formatted(snprintf(scratch, VALUE_TEXT_MAX, "%" PRIu64, value->u), scratch);
    case NV_VALUE_BYTE:
    case NV_VALUE_SHORT:
    case NV_VALUE_INT:
    case NV_VALUE_LONG:
        return formatted(snprintf(scratch, VALUE_TEXT_MAX, "%" PRId64, value->i), scratch);
    case NV_VALUE_FLOAT:
        return formatted(snprintf(scratch, VALUE_TEXT_MAX, "%.9g", double_of(value)), scratch);
    case NV_VALUE_DOUBLE:
        return formatted(snprintf(scratch, VALUE_TEXT_MAX, "%.17g", double_of(value)), scratch);
    case NV_VALUE_CHAR:
        return char_text(value->u, scratch);
    case NV_VALUE_TIMESTAMP:
        if (value->i > INT64_MAX / NV_US_PER_MS || value->i < INT64_MIN / NV_US_PER_MS) {
            return formatted(snprintf(scratch, VALUE_TEXT_MAX, "%" PRId64, value->i), scratch);
        }
        return time_text(value->i * NV_US_PER_MS, scratch);
    case NV_VALUE_UUID:
        return uuid_text(value->bytes, scratch);
    case NV_VALUE_BINARY:
    case NV_VALUE_STRING:
    case NV_VALUE_SYMBOL:
        return value->bytes;
    }
    return NV_SPAN_EMPTY; /* a type of a newer version */
}

static void put_value(nv_bag_writer *bag, nv_span name, const nv_value *value)
{
    char scratch[VALUE_TEXT_MAX];
    if (value->type == NV_VALUE_NULL) {
        nv_bag_put_null(bag, name);
    } else {
        nv_bag_put(bag, name, text_of(value, scratch));
    }
}

/* ---- the bag --------------------------------------------------------------------------------------------------- */

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
        nv_bag_put(bag, nv_span_str("$.exp"), time_text(message->expires_us, text));
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
