/* Messages: immutable bytes in one piece, shared by reference. */
#include "base/alloc.h"
#include "core/c2d_queue.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const ack_names[] = {
    [NV_ACK_NONE] = "none", [NV_ACK_POSITIVE] = "positive", [NV_ACK_NEGATIVE] = "negative", [NV_ACK_FULL] = "full"};

const char *nv_c2d_ack_name(nv_c2d_ack ack)
{
    return (size_t)ack < NV_COUNT_OF(ack_names) ? ack_names[ack] : "none";
}

bool nv_c2d_ack_parse(nv_span text, nv_c2d_ack *ack)
{
    for (size_t i = 0; i < NV_COUNT_OF(ack_names); i++) {
        if (nv_span_eq_nocase(text, nv_span_str(ack_names[i]))) {
            *ack = (nv_c2d_ack)i;
            return true;
        }
    }
    return false;
}

bool nv_c2d_ack_wants(nv_c2d_ack ack, nv_feedback_status status)
{
    switch (ack) {
    case NV_ACK_NONE:
        return false;
    case NV_ACK_POSITIVE:
        return status == NV_FEEDBACK_SUCCESS;
    case NV_ACK_NEGATIVE:
        return status != NV_FEEDBACK_SUCCESS;
    case NV_ACK_FULL:
        return true;
    }
    return false;
}

void nv_c2d_message_ref(nv_c2d_message *message)
{
    atomic_fetch_add_explicit(&message->_refs, 1, memory_order_relaxed);
}

void nv_c2d_message_unref(nv_c2d_message *message)
{
    if (message && atomic_fetch_sub_explicit(&message->_refs, 1, memory_order_acq_rel) == 1) {
        free(message);
    }
}

static nv_c2d_message *allocate(size_t properties_len, size_t body_len, uint8_t **bytes)
{
    nv_c2d_message *message = nv_malloc(sizeof(*message) + properties_len + body_len);
    *message = (nv_c2d_message){._refs = 1};
    *bytes = (uint8_t *)(message + 1);
    message->properties = nv_span_of(*bytes, properties_len);
    message->body = nv_span_of(*bytes + properties_len, body_len);
    return message;
}

static void copy(uint8_t *to, nv_span from)
{
    if (from.len > 0) {
        memcpy(to, from.ptr, from.len);
    }
}

/* What the hub says itself stands in the message, not in its properties. */
static bool is_stamped(uint8_t id)
{
    return id == NV_PROP_TO || id == NV_PROP_ACK || id == NV_PROP_EXPIRY || id == NV_PROP_ABSOLUTE_EXPIRY;
}

/* `to` first, then what the sender gave but for what is stamped. */
static nv_err stamp_properties(nv_span device_id, nv_span message_id, nv_span given, nv_buf *out)
{
    char to[NV_ID_MAX + 40];
    int len = snprintf(to, sizeof(to), "/devices/%.*s/messages/deviceBound", NV_SPAN_ARG(device_id));
    nv_property property = {.id = NV_PROP_TO, .value = nv_value_string(nv_span_of(to, (size_t)len))};
    nv_err err = nv_property_put(out, &property);
    if (err == NV_OK && message_id.len > 0) {
        property = (nv_property){.id = NV_PROP_MESSAGE_ID, .value = nv_value_string(message_id)};
        err = nv_property_put(out, &property);
    }
    nv_reader r = nv_reader_of(given);
    while (err == NV_OK && nv_property_next(&r, &property)) {
        err = is_stamped(property.id) ? NV_OK : nv_property_put(out, &property);
    }
    return err == NV_OK ? r.err : err;
}

nv_c2d_message *nv_c2d_message_of(const nv_c2d_row *row)
{
    uint8_t *bytes;
    nv_c2d_message *message = allocate(row->properties.len, row->body.len, &bytes);
    copy(bytes, row->properties);
    copy(bytes + row->properties.len, row->body);
    message->sequence = row->sequence;
    message->enqueued_us = row->enqueued_us;
    message->expires_us = row->expires_us;
    message->ack = (nv_c2d_ack)row->ack;
    message->body_kind = (nv_body_kind)row->body_kind;
    return message;
}

nv_c2d_message *nv_c2d_message_new(nv_span device_id, nv_span message_id, const nv_c2d_row *row)
{
    nv_buf stamped;
    nv_buf_init(&stamped, row->properties.len + message_id.len + NV_ID_MAX + 64);
    nv_c2d_message *message = NULL;
    if (stamp_properties(device_id, message_id, row->properties, &stamped) == NV_OK) {
        nv_c2d_row own = *row;
        own.properties = nv_buf_span(&stamped);
        message = nv_c2d_message_of(&own);
    }
    nv_buf_deinit(&stamped);
    return message;
}

nv_c2d_message *nv_c2d_message_own(nv_c2d_message *message)
{
    if (atomic_load_explicit(&message->_refs, memory_order_acquire) == 1) {
        return message;
    }
    uint8_t *bytes;
    nv_c2d_message *own = allocate(message->properties.len, message->body.len, &bytes);
    copy(bytes, message->properties);
    copy(bytes + message->properties.len, message->body);
    own->sequence = message->sequence;
    own->enqueued_us = message->enqueued_us;
    own->expires_us = message->expires_us;
    own->ack = message->ack;
    own->body_kind = message->body_kind;
    nv_c2d_message_unref(message);
    return own;
}
