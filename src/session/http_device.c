/**
 * Telemetry over the device HTTP API (http-hub.md section 17): one message, or a batch of them, answered when the log
 * has them. Also the faults that a device may order (core/fault.h), for the whole device API.
 */
#include "session/http_device.h"
#include "session/http_exchange.h"
#include "session/http_message.h"

#include "base/alloc.h"
#include "codec/base64.h"
#include "core/devices.h"
#include "core/telemetry.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>

#define PROPERTIES_MAX (256u << 10)
/* In a batch: more than the 256 KB of text that the SDKs keep to can hold of messages with three members each. */
#define BATCH_VALUES 32768u

/* ---- faults --------------------------------------------------------------------------------------------------- */

bool nv_http_device_faulty(nv_http_exchange *x)
{
    int64_t until_us = 0;
    if (!x->hub->faults) {
        return false;
    }
    switch (nv_faults_get(x->hub->faults, x->device_id, NV_SPAN_EMPTY, nv_mono_us(x->hub->clock), &until_us)) {
    case NV_FAULT_KILL_TCP:
        nv_http_cut(x);
        return true;
    case NV_FAULT_THROTTLE:
        nv_http_fail(x, NV_HUB_ERROR_ThrottlingException, NULL);
        return true;
    case NV_FAULT_QUOTA:
        nv_http_fail(x, NV_HUB_ERROR_IotHubQuotaExceeded, NULL);
        return true;
    case NV_FAULT_AUTH:
        nv_http_fail(x, NV_HUB_ERROR_IotHubUnauthorizedAccess, NULL);
        return true;
    case NV_FAULT_NONE:
    case NV_FAULT_SHUT_DOWN_MQTT:
    case NV_FAULT_SHUT_DOWN_AMQP:
    case NV_FAULT_AMQP_CONNECTION:
    case NV_FAULT_AMQP_SESSION:
    case NV_FAULT_AMQP_CBS_REQUEST:
    case NV_FAULT_AMQP_CBS_RESPONSE:
    case NV_FAULT_AMQP_D2C:
    case NV_FAULT_AMQP_C2D:
    case NV_FAULT_AMQP_TWIN_REQUEST:
    case NV_FAULT_AMQP_TWIN_RESPONSE:
    case NV_FAULT_AMQP_METHOD_REQUEST:
    case NV_FAULT_AMQP_METHOD_RESPONSE:
        break;
    }
    return false;
}

static void plan_fault(nv_http_exchange *x, nv_span properties)
{
    nv_fault_order order;
    if (x->hub->faults && nv_fault_read(properties, &order)) {
        int64_t from_us = nv_mono_us(x->hub->clock) + order.delay_us;
        nv_faults_plan(x->hub->faults, x->device_id, NV_SPAN_EMPTY, order.kind, from_us, from_us + order.duration_us);
    }
}

/* ---- messages on their way to the log ------------------------------------------------------------------------- */

typedef struct d2c_message {
    nv_buf properties;
    nv_span body; /* in the request, in the tree, or own */
    uint8_t *own; /* decoded */
} d2c_message;

typedef struct d2c_op {
    nv_http_exchange *x;
    nv_telemetry_client client; /* not initialised before the first send: stamp is NULL then */
    uint8_t *stamp;
    struct json_object *tree; /* of a batch */
    d2c_message *messages;
    size_t count;
    size_t sent;
    nv_err failed;
} d2c_op;

static void d2c_free(void *arg)
{
    d2c_op *op = arg;
    nv_telemetry_client_deinit(&op->client);
    for (size_t i = 0; i < op->count; i++) {
        nv_buf_deinit(&op->messages[i].properties);
        free(op->messages[i].own);
    }
    free(op->messages);
    free(op->stamp);
    json_object_put(op->tree);
    free(op);
}

static void finish(d2c_op *op)
{
    nv_http_exchange *x = op->x;
    if (op->failed == NV_E_TOO_BIG) {
        nv_http_fail(x, NV_HUB_ERROR_MessageTooLarge, NULL);
    } else if (op->failed != NV_OK) {
        nv_http_fail(x, NV_HUB_ERROR_ServiceUnavailable, NULL);
    } else {
        for (size_t i = 0; i < op->count; i++) {
            plan_fault(x, nv_buf_span(&op->messages[i].properties));
        }
        nv_http_send(x, &(nv_http_reply){.status = 204});
    }
}

/* As many as the log takes; stored() goes on. @return false: the exchange is over */
static bool send_more(d2c_op *op)
{
    nv_telemetry *telemetry = op->x->loop->telemetry;
    while (op->sent < op->count && op->failed == NV_OK) {
        const d2c_message *m = &op->messages[op->sent];
        nv_err err =
            nv_telemetry_send(telemetry, &op->client, NV_SOURCE_TELEMETRY, nv_buf_span(&m->properties), m->body);
        if (err == NV_E_AGAIN) {
            return true; /* told when there is room */
        }
        op->failed = err;
        op->sent += err == NV_OK ? 1 : 0;
    }
    if (op->client.pending == 0) {
        finish(op);
        return false;
    }
    return true;
}

static void stored(nv_telemetry_client *client, uint32_t count, nv_err status)
{
    d2c_op *op = nv_container_of(client, d2c_op, client);
    (void)count;
    op->failed = op->failed == NV_OK ? status : op->failed;
    if (op->sent < op->count || client->pending == 0) {
        (void)send_more(op);
    }
}

static void begin(d2c_op *op)
{
    nv_http_exchange *x = op->x;
    size_t len = 0;
    op->stamp = nv_telemetry_stamp_new(x->device, NV_SPAN_EMPTY, x->auth.scope, x->auth.type, &len);
    nv_telemetry_client_init(x->loop->telemetry, &op->client, x->device->device_id, nv_span_of(op->stamp, len));
    op->client.stored = stored;
    nv_device_active(x->loop, x->device);
    (void)send_more(op);
}

static void add_message(d2c_op *op)
{
    d2c_message *m = &op->messages[op->count++];
    *m = (d2c_message){0};
    nv_buf_init(&m->properties, PROPERTIES_MAX);
}

/* One message or all of a batch, by the formula of the service. */
static size_t size_of(const d2c_op *op)
{
    size_t total = 0;
    for (size_t i = 0; i < op->count; i++) {
        size_t size = 0;
        nv_ignore(nv_record_size(nv_buf_span(&op->messages[i].properties), op->messages[i].body, &size));
        total += size;
    }
    return total;
}

static void start(d2c_op *op)
{
    size_t size = size_of(op);
    int64_t limit = op->x->hub->limits.message_bytes;
    if ((int64_t)size <= limit) {
        begin(op);
    } else {
        char detail[120];
        (void)snprintf(detail, sizeof(detail), "%s %zu bytes with properties, of %" PRId64 " (limits.message_bytes)",
                       op->count > 1 ? "The batch has" : "The message has", size, limit);
        nv_http_fail(op->x, NV_HUB_ERROR_MessageTooLarge, detail);
    }
}

/* ---- a batch -------------------------------------------------------------------------------------------------- */

static bool read_properties(struct json_object *properties, nv_buf *out)
{
    if (!properties) {
        return true;
    }
    if (!json_object_is_type(properties, json_type_object)) {
        return false;
    }
    struct json_object_iterator it = json_object_iter_begin(properties);
    struct json_object_iterator end = json_object_iter_end(properties);
    for (; !json_object_iter_equal(&it, &end); json_object_iter_next(&it)) {
        nv_span name = nv_span_str(json_object_iter_peek_name(&it));
        struct json_object *value = json_object_iter_peek_value(&it);
        nv_span text = NV_SPAN_EMPTY;
        if (value && !nv_json_as_string(value, &text)) {
            text = nv_span_str(json_object_to_json_string(value)); /* numbers and the like, as written */
        }
        if (nv_http_read_property(name, text, out) != NV_OK) {
            return false;
        }
    }
    return true;
}

static bool read_body(struct json_object *item, d2c_message *m)
{
    struct json_object *encoded = nv_json_member(item, "base64Encoded");
    bool plain = encoded && json_object_is_type(encoded, json_type_boolean) && !json_object_get_boolean(encoded);
    nv_span text = NV_SPAN_EMPTY;
    if (!nv_json_as_string(nv_json_member(item, "body"), &text)) {
        return false;
    }
    m->body = text;
    if (!plain) {
        size_t capacity = NV_BASE64_MAX_BYTES(text.len);
        size_t len = 0;
        m->own = nv_malloc(capacity ? capacity : 1);
        if (nv_base64_decode(text, m->own, capacity, &len) != NV_OK) {
            return false;
        }
        m->body = nv_span_of(m->own, len);
    }
    return true;
}

/* @return what is wrong, or NULL */
static const char *read_message(struct json_object *item, d2c_message *m)
{
    if (!item || !json_object_is_type(item, json_type_object) || !read_body(item, m)) {
        return "it needs a body (base64, or text with base64Encoded false)";
    }
    return read_properties(nv_json_member(item, "properties"), &m->properties)
               ? NULL
               : "its properties are an object of names and texts that fit into a message";
}

/* Each empty object of a batch costs the hub a thousand bytes until the log has them all: bounded by their number. */
static bool parse_batch(d2c_op *op)
{
    nv_http_exchange *x = op->x;
    nv_err err = nv_json_parse(nv_buf_span(&x->request->body), NV_HTTP_JSON_DEPTH, BATCH_VALUES, &op->tree);
    if (err == NV_OK && op->tree) {
        return true;
    }
    if (err == NV_E_TOO_BIG) {
        nv_http_fail(x, NV_HUB_ERROR_MessageTooLarge, "A batch holds at most 32,768 JSON values, 32 levels deep");
    } else {
        nv_http_fail(x, NV_HUB_ERROR_IotHubFormatError, NULL);
    }
    return false;
}

static void start_batch(d2c_op *op)
{
    nv_http_exchange *x = op->x;
    if (!parse_batch(op)) {
        return;
    }
    size_t count = json_object_is_type(op->tree, json_type_array) ? json_object_array_length(op->tree) : 0;
    if (count == 0) {
        nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid, "The body of a batch is an array of one or more messages");
        return;
    }
    op->messages = nv_calloc(count, sizeof(*op->messages));
    for (size_t i = 0; i < count; i++) {
        add_message(op);
        const char *wrong = read_message(json_object_array_get_idx(op->tree, i), &op->messages[i]);
        if (wrong) {
            char detail[120];
            (void)snprintf(detail, sizeof(detail), "Message %zu of the batch: %s", i, wrong);
            nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid, detail);
            return;
        }
    }
    start(op);
}

static void start_one(d2c_op *op)
{
    nv_http_exchange *x = op->x;
    op->messages = nv_calloc(1, sizeof(*op->messages));
    add_message(op);
    op->messages[0].body = nv_buf_span(&x->request->body);
    if (nv_http_read_properties(x->request, &op->messages[0].properties) != NV_OK) {
        nv_http_fail(x, NV_HUB_ERROR_MessageTooLarge, NULL);
        return;
    }
    start(op);
}

void nv_http_device_events(nv_http_exchange *x)
{
    if (nv_http_device_faulty(x)) {
        return;
    }
    d2c_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    x->op = op;
    x->op_free = d2c_free;
    if (nv_http_is_batch(x->request)) {
        start_batch(op);
    } else {
        start_one(op);
    }
}
