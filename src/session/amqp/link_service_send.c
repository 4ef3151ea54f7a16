/*
 * Services send to devices: /messages/devicebound (amqp.md section 4.1). Each message is a send of the core, settled
 * when it is committed; many are in flight, those to one device in order.
 */
#include "session/amqp/server_internal.h"

#include "base/alloc.h"
#include "core/c2d.h"

#include <stdio.h>
#include <stdlib.h>

#define CREDIT         1000u
#define PROPERTIES_MAX (64u << 10) /* a message with more is too large whatever its body */

typedef struct service_link {
    nv_amqp_link *link; /* NULL: gone; the sends in flight have no one to tell */
    amqp_server *server;
    uint32_t sends;
} service_link;

/** One message on its way into a queue. */
typedef struct sending {
    nv_c2d_send send; /* first member */
    service_link *from;
    uint32_t id; /* of the delivery */
    bool settled;
    nv_buf properties;
    nv_buf body;
    char device_id[NV_ID_MAX];
} sending;

/* ---- answers ------------------------------------------------------------------------------------------------ */

static void reject(nv_amqp_link *link, uint32_t id, nv_amqp_condition condition, nv_hub_error error, const char *detail)
{
    char text[AMQP_DESCRIPTION];
    amqp_describe(amqp_server_of(link), error, detail, text);
    nv_amqp_outcome outcome = {.kind = NV_AMQP_OUT_REJECTED,
                               .problem = {.condition = condition, .description = nv_span_str(text)}};
    nv_amqp_link_settle(link, id, &outcome);
}

static void service_link_release(service_link *self)
{
    if (!self->link && self->sends == 0) {
        free(self);
    }
}

static void sending_free(sending *op)
{
    nv_buf_deinit(&op->properties);
    nv_buf_deinit(&op->body);
    free(op);
}

/* Which device there is not. */
static const char *detail_of(sending *op)
{
    bool unknown = op->send.error == NV_HUB_ERROR_DeviceNotFound && op->send.detail[0] == '\0';
    if (unknown) {
        (void)snprintf(op->send.detail, sizeof(op->send.detail), "no device \"%.*s\" is registered",
                       NV_SPAN_ARG(op->send.device_id));
    }
    return op->send.detail;
}

static void sent(nv_c2d_send *send)
{
    sending *op = (sending *)(void *)send;
    service_link *self = op->from;
    amqp_server *s = self->server;
    if (self->link && !op->settled) {
        if (send->error == NV_HUB_ERROR_NONE) {
            nv_amqp_link_accept_delivery(self->link, op->id);
        } else {
            reject(self->link, op->id, amqp_condition_of(send->error), send->error, detail_of(op));
        }
    }
    sending_free(op);
    self->sends--;
    service_link_release(self);
    amqp_operation_end(s);
}

/* ---- messages ----------------------------------------------------------------------------------------------- */

/** A message for the core, or what is wrong with it. */
typedef struct reading {
    sending *op;
    nv_amqp_condition condition;
    nv_hub_error error;
    const char *wrong; /* NULL: nothing */
} reading;

static void fail(reading *r, nv_amqp_condition condition, nv_hub_error error, const char *wrong)
{
    r->condition = condition;
    r->error = error;
    r->wrong = wrong;
}

static void fail_argument(reading *r, const char *wrong)
{
    fail(r, NV_AMQP_ERR_ARGUMENT_ERROR, NV_HUB_ERROR_ArgumentInvalid, wrong);
}

static void fail_size(reading *r, const char *wrong)
{
    fail(r, NV_AMQP_ERR_MESSAGE_SIZE_EXCEEDED, NV_HUB_ERROR_MessageTooLarge, wrong);
}

static void read_to(reading *r, const nv_amqp_message *message)
{
    nv_span to = nv_amqp_text_of(message->properties.to);
    amqp_address address;
    if (to.len == 0) {
        fail_argument(r, "the property `to` is missing: /devices/{id}/messages/devicebound");
        return;
    }
    nv_err err = amqp_address_parse(to, false, &address);
    bool of_device = err == NV_OK && address.node == AMQP_NODE_DEVICEBOUND;
    if (err == NV_OK && address.module_id.len > 0) {
        fail(r, NV_AMQP_ERR_NOT_ALLOWED, NV_HUB_ERROR_InvalidOperation, "messages go to devices, not to modules");
    } else if (!of_device || address.device_id.len > sizeof(r->op->device_id)) {
        fail_argument(r, "the property `to` is /devices/{id}/messages/devicebound");
    } else {
        memcpy(r->op->device_id, address.device_id.ptr, address.device_id.len);
        r->op->send.device_id = nv_span_of(r->op->device_id, address.device_id.len);
    }
}

static bool is_ack(const nv_property *property)
{
    return property->id == NV_PROP_ACK ||
           (property->id == NV_PROP_APPLICATION && nv_span_eq_str(property->name, "iothub-ack"));
}

/** All properties but iothub-ack, which is for the hub. */
static void read_properties(reading *r, const nv_amqp_message *message)
{
    nv_buf all;
    nv_buf_init(&all, PROPERTIES_MAX);
    nv_err err = amqp_properties_of_message(message, &all);
    nv_reader at = nv_reader_of(nv_buf_span(&all));
    nv_property property;
    while (err == NV_OK && !r->wrong && nv_property_next(&at, &property)) {
        if (!is_ack(&property)) {
            err = nv_property_put(&r->op->properties, &property);
            continue;
        }
        bool text = property.value.type == NV_VALUE_STRING || property.value.type == NV_VALUE_SYMBOL;
        if (!text || !nv_c2d_ack_parse(property.value.bytes, &r->op->send.ack)) {
            fail_argument(r, "iothub-ack is none, positive, negative or full");
        }
    }
    if (err == NV_E_TOO_BIG) {
        fail_size(r, "the properties are larger than a message may be");
    } else if (err != NV_OK) {
        fail_argument(r, err == NV_E_LIMIT ? "too many properties" : "a property is not a value of a primitive type");
    }
    nv_buf_deinit(&all);
}

/** What is bytes to the sender is bytes to the device, in whatever kind of section it came; devices know nothing else.
 */
static void read_body(reading *r, const nv_amqp_message *message)
{
    sending *op = r->op;
    nv_span bytes = NV_SPAN_EMPTY;
    nv_buf scratch;
    nv_buf_init(&scratch, NV_LOG_MESSAGE_MAX);
    nv_err err = nv_amqp_message_bytes(message, &scratch, &bytes);
    op->send.body_kind = NV_BODY_DATA;
    err = err == NV_OK ? nv_buf_append(&op->body, bytes) : err;
    if (err == NV_E_TOO_BIG) {
        fail_size(r, "the body is larger than a message may be");
    } else if (err == NV_E_UNSUPPORTED) {
        fail_argument(r, "the body is bytes or text, because devices take nothing else");
    } else if (err != NV_OK) {
        fail(r, NV_AMQP_ERR_DECODE_ERROR, NV_HUB_ERROR_IotHubFormatError, "the body cannot be decoded");
    }
    nv_buf_deinit(&scratch);
}

static void read_expiry(reading *r, const nv_amqp_message *message)
{
    if (!NV_AMQP_HAS(&message->properties, properties, absolute_expiry_time)) {
        return;
    }
    int64_t ms = message->properties.absolute_expiry_time;
    if (ms <= nv_wall_us(amqp_hub(r->op->from->server)->clock) / NV_US_PER_MS) {
        fail_argument(r, "the message has expired: its absolute-expiry-time is not ahead of the hub's clock");
        return;
    }
    r->op->send.expires_us = ms > INT64_MAX / NV_US_PER_MS ? INT64_MAX : ms * NV_US_PER_MS;
}

static void read_message(reading *r, const nv_amqp_delivery *delivery)
{
    nv_amqp_message message;
    if (delivery->format == NV_AMQP_FORMAT_BATCH) {
        fail(r, NV_AMQP_ERR_NOT_IMPLEMENTED, NV_HUB_ERROR_InvalidOperation,
             "messages to devices are sent one by one, not in batches");
    } else if (nv_amqp_message_read(delivery->bytes, &message) != NV_OK) {
        fail(r, NV_AMQP_ERR_DECODE_ERROR, NV_HUB_ERROR_IotHubFormatError, "the message cannot be decoded");
    } else {
        static void (*const parts[])(reading *, const nv_amqp_message *) = {read_to, read_expiry, read_properties,
                                                                            read_body};
        for (size_t i = 0; i < NV_COUNT_OF(parts) && !r->wrong; i++) {
            parts[i](r, &message);
        }
    }
}

static bool on_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    service_link *self = link->owner;
    if (self->server->draining) {
        return false;
    }
    sending *op = nv_calloc(1, sizeof(*op));
    op->from = self;
    op->id = delivery->id;
    op->settled = delivery->settled;
    nv_buf_init(&op->properties, PROPERTIES_MAX);
    nv_buf_init(&op->body, (size_t)amqp_hub(self->server)->limits.c2d_bytes);
    reading r = {.op = op};
    read_message(&r, delivery);
    if (r.wrong) {
        if (!delivery->settled) {
            reject(link, delivery->id, r.condition, r.error, r.wrong);
        }
        sending_free(op);
        return true;
    }
    op->send.properties = nv_buf_span(&op->properties);
    op->send.body = nv_buf_span(&op->body);
    op->send.done = sent;
    self->sends++;
    amqp_operation_begin(self->server);
    nv_c2d_send_do(amqp_loop(self->server), &op->send);
    return true;
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    (void)problem;
    service_link *self = link->owner;
    self->link = NULL;
    service_link_release(self);
}

static const nv_amqp_link_ops ops = {.delivery = on_delivery, .detached = on_detached};

void amqp_open_service_send(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)device;
    (void)address;
    service_link *self = nv_calloc(1, sizeof(*self));
    self->link = link;
    self->server = s;
    nv_amqp_link_accept(link, &(nv_amqp_accept){.ops = &ops, .owner = self, .credit = CREDIT});
}
