/*
 * Direct methods over AMQP (amqp.md section 3.7). The correlation-id of a request is a uuid, because the C SDK takes no
 * other: the hub's run and the number of the call, so that an answer to a call of an earlier run finds nobody.
 */
#include "session/amqp/link_pair.h"

#include "codec/hex.h"
#include "core/method.h"

#include <inttypes.h>

#define UUID_SIZE 16u
#define HEAD_MAX  (NV_METHOD_NAME_MAX + 256u)

/* ---- ids of calls --------------------------------------------------------------------------------------------------
 */

static void write_id(const nv_hub *hub, uint64_t call, uint8_t out[UUID_SIZE])
{
    nv_writer w = nv_writer_of(out, UUID_SIZE);
    nv_write_u64_be(&w, hub->run);
    nv_write_u64_be(&w, call);
}

/* 32 hexadecimal digits, dashes anywhere between them. */
static bool parse_uuid(nv_span text, uint8_t out[UUID_SIZE])
{
    size_t digits = 0;
    for (size_t i = 0; i < text.len; i++) {
        int digit = nv_hex_digit(text.ptr[i]);
        if (text.ptr[i] == '-') {
            continue;
        }
        if (digit < 0 || digits == (size_t)2 * UUID_SIZE) {
            return false;
        }
        uint8_t high = (uint8_t)((digits & 1) == 0 ? 0 : out[digits / 2] << 4);
        out[digits / 2] = (uint8_t)(high | digit);
        digits++;
    }
    return digits == (size_t)2 * UUID_SIZE;
}

/* A uuid, or its text or bytes. @return false: not the id of a call of this hub */
static bool read_id(const nv_hub *hub, nv_span encoded, uint64_t *call)
{
    uint8_t bytes[UUID_SIZE] = {0};
    nv_amqp_value value;
    nv_reader r = nv_reader_of(encoded);
    if (!encoded.ptr || !nv_amqp_read(&r, &value)) {
        return false;
    }
    bool raw = value.type == NV_AMQP_UUID || value.type == NV_AMQP_BINARY;
    if (raw && value.bytes.len == UUID_SIZE) {
        memcpy(bytes, value.bytes.ptr, UUID_SIZE);
    } else if (!nv_amqp_is_text(&value) || !parse_uuid(value.bytes, bytes)) {
        return false;
    }
    nv_reader id = nv_reader_of(nv_span_of(bytes, UUID_SIZE));
    uint64_t run = nv_read_u64_be(&id);
    *call = nv_read_u64_be(&id);
    return run == hub->run;
}

/* ---- calls to the device -------------------------------------------------------------------------------------------
 */

static nv_span write_head(uint8_t head[HEAD_MAX], const nv_hub *hub, const nv_delivery *delivery, size_t body_len)
{
    uint8_t id[UUID_SIZE];
    uint8_t encoded[UUID_SIZE + 1];
    nv_writer correlation = nv_writer_of(encoded, sizeof(encoded));
    nv_writer w = nv_writer_of(head, HEAD_MAX);
    write_id(hub, delivery->call, id);
    nv_amqp_put_uuid(&correlation, id);
    nv_amqp_properties properties = {.correlation_id = nv_writer_span(&correlation)};
    nv_amqp_put_properties_section(&w, &properties);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&w, "IoThub-methodname");
    nv_amqp_put_string(&w, nv_span_first(delivery->name, NV_METHOD_NAME_MAX));
    nv_amqp_end_map(&w, mark, 2);
    nv_amqp_put_data_head(&w, body_len);
    return nv_writer_span(&w);
}

void amqp_method_deliver(amqp_device *device, const nv_delivery *delivery)
{
    static const nv_span null = NV_SPAN_LIT("null");
    uint8_t head[HEAD_MAX];
    nv_span body = delivery->body.len > 0 ? delivery->body : null;
    if (!device->methods || !device->methods->out) {
        return; /* gone while it was on its way: the caller's time runs out */
    }
    amqp_device_active(device);
    amqp_pair_send(device->methods, write_head(head, amqp_hub(device->server), delivery, body.len), body);
}

/* ---- answers of the device -----------------------------------------------------------------------------------------
 */

/* @return false: it is no answer */
static bool read_status(const nv_amqp_message *message, int64_t *status)
{
    nv_amqp_value value;
    return nv_amqp_map_find(&message->application_properties, "IoThub-status", &value) &&
           nv_amqp_to_i64(&value, status);
}

static void on_answer(amqp_device *device, const nv_amqp_message *message, int64_t status, nv_span body)
{
    uint64_t call = 0;
    amqp_device_active(device);
    if (message->has_properties && read_id(amqp_hub(device->server), message->properties.correlation_id, &call)) {
        nv_method_answer(&device->claim, call, status, body);
        return;
    }
    nv_subject subject = amqp_device_subject(device);
    nv_diag(NV_LEVEL_DEBUG, "amqp", &subject, "answer to a method that was never called ignored (status %" PRId64 ")",
            status);
}

static bool on_delivery(amqp_pair *pair, nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    nv_amqp_message message;
    nv_span body = NV_SPAN_EMPTY;
    int64_t status = 0;
    nv_buf scratch;
    nv_buf_init(&scratch, delivery->bytes.len);
    if (!amqp_pair_read(link, delivery, &message, &scratch, &body)) {
        /* rejected */
    } else if (!read_status(&message, &status)) {
        amqp_reject(link, delivery, NV_AMQP_ERR_ARGUMENT_ERROR,
                    "the answer to a method has the application property IoThub-status, an int");
    } else {
        on_answer(pair->device, &message, status, body);
        amqp_accept_one(link, delivery);
    }
    nv_buf_deinit(&scratch);
    return true;
}

/* ---- links ---------------------------------------------------------------------------------------------------------
 */

/* It listens while its receiver is open with credit (amqp.md section 3.7). */
static void changed(amqp_pair *pair)
{
    amqp_device_want(pair->device, NV_WANTS_METHODS, pair->out && pair->out->base.link->credit > 0);
}

static void end_link(amqp_device_link *self)
{
    amqp_pair_end(self);
}

static const amqp_pair_kind kind = {.end = end_link, .delivery = on_delivery, .changed = changed};

void amqp_open_methods(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)s;
    (void)address;
    if (!device->methods) {
        device->methods = amqp_pair_new(sizeof(amqp_pair), device, &kind);
    }
    amqp_pair_open(device->methods, link);
}
