#include "session/amqp/device_links.h"

#include <stdio.h>

void amqp_reject(nv_amqp_link *link, const nv_amqp_delivery *delivery, nv_amqp_condition condition,
                 const char *description)
{
    nv_amqp_outcome outcome = {.kind = NV_AMQP_OUT_REJECTED,
                               .problem = {.condition = condition, .description = nv_span_str(description)}};
    if (!delivery->settled) {
        nv_amqp_link_settle(link, delivery->id, &outcome);
    }
}

void amqp_reject_unreadable(nv_amqp_link *link, const nv_amqp_delivery *delivery, nv_err err)
{
    if (err == NV_E_TOO_BIG) {
        amqp_reject(link, delivery, NV_AMQP_ERR_MESSAGE_SIZE_EXCEEDED,
                    "the properties are larger than a message may be");
    } else if (err == NV_E_LIMIT) {
        amqp_reject(link, delivery, NV_AMQP_ERR_ARGUMENT_OUT_OF_RANGE, "a message has at most 256 properties");
    } else if (err == NV_E_UNSUPPORTED) {
        amqp_reject(link, delivery, NV_AMQP_ERR_ARGUMENT_ERROR,
                    "values of properties are primitives: no list, map, array, decimal or described value");
    } else {
        amqp_reject(link, delivery, NV_AMQP_ERR_DECODE_ERROR, "the bytes are no message of AMQP 1.0");
    }
}

nv_span amqp_link_property(const nv_amqp_link *link, const char *name)
{
    nv_amqp_value properties;
    nv_amqp_value value;
    if (!link->attach || !link->attach->properties.ptr) {
        return NV_SPAN_EMPTY;
    }
    nv_reader r = nv_reader_of(link->attach->properties);
    if (nv_amqp_read(&r, &properties) && nv_amqp_map_find(&properties, name, &value) && nv_amqp_is_text(&value)) {
        return value.bytes;
    }
    return NV_SPAN_EMPTY;
}
