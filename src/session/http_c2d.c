/**
 * Cloud-to-device messages over HTTP: devices take and settle them (http-hub.md section 18), services send by our own
 * API, purge, and read feedback (sections 7 and 15).
 */
#include "session/http_device.h"
#include "session/http_message.h"

#include "base/alloc.h"
#include "codec/base64.h"
#include "codec/ids.h"
#include "core/devices.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>

#define LOCK_SECONDS_MAX 300u
#define HEADERS_MAX      (512u << 10)

/* ---- GET /devices/{d}/messages/deviceBound --------------------------------------------------------------------- */

typedef struct take_op {
    nv_http_exchange *x;
    nv_c2d_take take;
} take_op;

static void take_free(void *arg)
{
    take_op *op = arg;
    nv_c2d_message_unref(op->take.message);
    free(op);
}

static void send_message(nv_http_exchange *x, const nv_c2d_message *message)
{
    nv_buf headers;
    nv_buf_init(&headers, HEADERS_MAX);
    nv_err err = nv_http_write_properties(message, x->hub->limits.c2d_ttl_s * NV_US_PER_S, &headers);
    err = err == NV_OK ? nv_buf_append(&headers, nv_span_of("", 1)) : err;
    if (err != NV_OK) {
        nv_http_fail(x, NV_HUB_ERROR_ServerError, "the properties of the message do not fit into headers");
    } else {
        nv_http_send(x, &(nv_http_reply){.status = 200,
                                         .content_type = "application/octet-stream",
                                         .etag = nv_span_str(message->lock_token),
                                         .headers = (const char *)nv_buf_span(&headers).ptr,
                                         .body = message->body});
    }
    nv_buf_deinit(&headers);
}

/* The device is authenticated: what it is told about itself is what 401 would say (http-hub.md section 2.5). */
static nv_hub_error error_for_device(nv_hub_error error)
{
    return error == NV_HUB_ERROR_DeviceNotFound ? NV_HUB_ERROR_IotHubUnauthorizedAccess : error;
}

static void taken(nv_c2d_take *take)
{
    take_op *op = take->arg;
    nv_http_exchange *x = op->x;
    if (take->error != NV_HUB_ERROR_NONE) {
        nv_http_fail(x, error_for_device(take->error), NULL);
    } else if (!take->message) {
        nv_http_send(x, &(nv_http_reply){.status = 204});
    } else {
        send_message(x, take->message);
    }
}

/* The CLI says it in a header, C# in the query; what is no number of seconds up to 300 means the hub's own. */
static int64_t wanted_lock_us(const nv_http_exchange *x)
{
    char text[16];
    nv_span value = NV_SPAN_EMPTY;
    uint64_t seconds = 0;
    bool given = nv_http_find_header(x->request, "iothub-messagelocktimeout", &value) ||
                 nv_http_query(x, "iothub-messagelocktimeout", text, sizeof(text), &value);
    bool usable = given && nv_span_to_u64(value, &seconds) && seconds > 0 && seconds <= LOCK_SECONDS_MAX;
    return usable ? (int64_t)seconds * NV_US_PER_S : 0;
}

void nv_http_device_take(nv_http_exchange *x)
{
    if (nv_http_device_faulty(x)) {
        return;
    }
    if (x->request->method == NV_HTTP_HEAD) { /* it would lock a message that nobody sees */
        nv_http_fail(x, NV_HUB_ERROR_MethodNotAllowed, NULL);
        return;
    }
    take_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    op->take = (nv_c2d_take){.device_id = x->device->device_id, .lock_us = wanted_lock_us(x), .done = taken, .arg = op};
    x->op = op;
    x->op_free = take_free;
    nv_device_active(x->loop, x->device);
    nv_c2d_take_do(x->loop, &op->take);
}

/* ---- complete, reject, abandon --------------------------------------------------------------------------------- */

typedef struct settle_op {
    nv_http_exchange *x;
    nv_c2d_settle settle;
} settle_op;

static void settled(nv_c2d_settle *settle)
{
    settle_op *op = settle->arg;
    if (settle->error != NV_HUB_ERROR_NONE) {
        nv_http_fail(op->x, error_for_device(settle->error), NULL);
    } else {
        nv_http_send(op->x, &(nv_http_reply){.status = 204});
    }
}

static void settle(nv_http_exchange *x, nv_c2d_outcome outcome)
{
    if (nv_http_device_faulty(x)) {
        return;
    }
    settle_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    op->settle = (nv_c2d_settle){
        .device_id = x->device->device_id, .lock_token = x->lock_token, .outcome = outcome, .done = settled, .arg = op};
    x->op = op;
    x->op_free = free;
    nv_device_active(x->loop, x->device);
    nv_c2d_settle_do(x->loop, &op->settle);
}

/* `reject`, `reject=` and `reject=true` alike. */
void nv_http_device_settle(nv_http_exchange *x)
{
    char text[16];
    nv_span value = NV_SPAN_EMPTY;
    nv_err err = nv_http_query_get(x, "reject", text, sizeof(text), &value);
    bool reject = err == NV_OK && !nv_span_eq_nocase(value, nv_span_str("false"));
    settle(x, reject ? NV_C2D_REJECT : NV_C2D_COMPLETE);
}

void nv_http_device_abandon(nv_http_exchange *x)
{
    settle(x, NV_C2D_ABANDON);
}

/* ---- DELETE /devices/{d}/commands ------------------------------------------------------------------------------ */

typedef struct purge_op {
    nv_http_exchange *x;
    nv_c2d_purge purge;
} purge_op;

static void purged(nv_c2d_purge *purge)
{
    purge_op *op = purge->arg;
    if (purge->error != NV_HUB_ERROR_NONE) {
        nv_http_fail(op->x, purge->error, NULL);
        return;
    }
    nv_buf body;
    nv_buf_init(&body, 4096);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_json_begin_object(&w);
    nv_json_key(&w, "deviceId");
    nv_json_string(&w, op->x->device_id);
    nv_json_key(&w, "moduleId");
    nv_json_null(&w);
    nv_json_key(&w, "totalMessagesPurged");
    nv_json_uint(&w, purge->purged);
    nv_json_end_object(&w);
    nv_http_send_json(op->x, &w, NV_SPAN_EMPTY);
    nv_buf_deinit(&body);
}

void nv_http_purge(nv_http_exchange *x)
{
    if (!nv_http_ids_valid(x)) {
        return;
    }
    purge_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    op->purge = (nv_c2d_purge){.device_id = x->device_id, .done = purged, .arg = op};
    x->op = op;
    x->op_free = free;
    nv_c2d_purge_do(x->loop, &op->purge);
}

/* ---- feedback --------------------------------------------------------------------------------------------------- */

typedef struct feedback_op {
    nv_http_exchange *x;
    nv_feedback_take take;
    nv_feedback_settle settle;
} feedback_op;

static void feedback_free(void *arg)
{
    feedback_op *op = arg;
    nv_buf_deinit(&op->take.records);
    free(op);
}

static feedback_op *feedback_op_new(nv_http_exchange *x)
{
    feedback_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    x->op = op;
    x->op_free = feedback_free;
    return op;
}

static void feedback_taken(nv_feedback_take *take)
{
    feedback_op *op = take->arg;
    if (take->error != NV_HUB_ERROR_NONE) {
        nv_http_fail(op->x, take->error, NULL);
    } else if (nv_buf_len(&take->records) == 0) {
        nv_http_send(op->x, &(nv_http_reply){.status = 204});
    } else {
        nv_http_send(op->x, &(nv_http_reply){.status = 200,
                                             .etag = nv_span_str(take->lock_token),
                                             .body = nv_buf_span(&take->records)});
    }
}

void nv_http_feedback_take(nv_http_exchange *x)
{
    if (x->request->method == NV_HTTP_HEAD) {
        nv_http_fail(x, NV_HUB_ERROR_MethodNotAllowed, NULL);
        return;
    }
    feedback_op *op = feedback_op_new(x);
    op->take.done = feedback_taken;
    op->take.arg = op;
    nv_feedback_take_do(x->loop, &op->take);
}

static void feedback_settled(nv_feedback_settle *settled_one)
{
    feedback_op *op = settled_one->arg;
    if (settled_one->error != NV_HUB_ERROR_NONE) {
        nv_http_fail(op->x, settled_one->error, NULL);
    } else {
        nv_http_send(op->x, &(nv_http_reply){.status = 204});
    }
}

static void settle_feedback(nv_http_exchange *x, bool complete)
{
    feedback_op *op = feedback_op_new(x);
    op->settle =
        (nv_feedback_settle){.lock_token = x->lock_token, .complete = complete, .done = feedback_settled, .arg = op};
    nv_feedback_settle_do(x->loop, &op->settle);
}

void nv_http_feedback_complete(nv_http_exchange *x)
{
    settle_feedback(x, true);
}

void nv_http_feedback_abandon(nv_http_exchange *x)
{
    settle_feedback(x, false);
}

/* ---- POST /nave/v1/devices/{d}/messages (docs/messages-api.md) -------------------------------------------------- */

typedef struct send_op {
    nv_http_exchange *x;
    nv_c2d_send send;
    struct json_object *tree;
    nv_buf properties;
    nv_span message_id;
    uint8_t *body; /* decoded */
} send_op;

static void send_free(void *arg)
{
    send_op *op = arg;
    json_object_put(op->tree);
    nv_buf_deinit(&op->properties);
    free(op->body);
    free(op);
}

static void sent(nv_c2d_send *send)
{
    send_op *op = send->arg;
    if (send->error != NV_HUB_ERROR_NONE) {
        nv_http_fail(op->x, send->error, send->detail);
        return;
    }
    nv_buf body;
    nv_buf_init(&body, 1 << 20);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_json_begin_object(&w);
    nv_json_key(&w, "sequenceNumber");
    nv_json_uint(&w, send->sequence);
    nv_json_key(&w, "messageId");
    nv_span id = send->message_id[0] ? nv_span_str(send->message_id) : op->message_id;
    if (id.len > 0) {
        nv_json_string(&w, id);
    } else {
        nv_json_null(&w);
    }
    nv_json_end_object(&w);
    nv_http_send(op->x, &(nv_http_reply){.status = 201, .body = nv_buf_span(&body)});
    nv_buf_deinit(&body);
}

/* A text member into a system property; absent and null are nothing. @return false: it is no text */
static bool read_system(send_op *op, const char *name, nv_system_property id, nv_span *value)
{
    struct json_object *member = nv_json_member(op->tree, name);
    *value = NV_SPAN_EMPTY;
    if (!member) {
        return true;
    }
    nv_property property = {.id = (uint8_t)id};
    if (!nv_json_as_string(member, value)) {
        return false;
    }
    property.value = nv_value_string(*value);
    return nv_property_put(&op->properties, &property) == NV_OK;
}

static const char *read_systems(send_op *op)
{
    static const struct {
        const char *name;
        nv_system_property id;
    } rows[] = {{"messageId", NV_PROP_MESSAGE_ID},
                {"correlationId", NV_PROP_CORRELATION_ID},
                {"userId", NV_PROP_USER_ID},
                {"contentType", NV_PROP_CONTENT_TYPE},
                {"contentEncoding", NV_PROP_CONTENT_ENCODING}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_span value;
        if (!read_system(op, rows[i].name, rows[i].id, &value)) {
            return "messageId, correlationId, userId, contentType and contentEncoding are strings";
        }
        op->message_id = i == 0 ? value : op->message_id;
    }
    return NULL;
}

static const char *read_applications(send_op *op)
{
    static const char wrong[] = "properties is an object whose values are strings or null";
    struct json_object *properties = nv_json_member(op->tree, "properties");
    if (!properties) {
        return NULL;
    }
    if (!json_object_is_type(properties, json_type_object)) {
        return wrong;
    }
    struct json_object_iterator it = json_object_iter_begin(properties);
    struct json_object_iterator end = json_object_iter_end(properties);
    for (; !json_object_iter_equal(&it, &end); json_object_iter_next(&it)) {
        struct json_object *value = json_object_iter_peek_value(&it);
        nv_span text = NV_SPAN_EMPTY;
        nv_property property = {.id = NV_PROP_APPLICATION, .name = nv_span_str(json_object_iter_peek_name(&it))};
        if (value && !nv_json_as_string(value, &text)) {
            return wrong;
        }
        property.value = value ? nv_value_string(text) : (nv_value){.type = NV_VALUE_NULL};
        if (nv_property_put(&op->properties, &property) != NV_OK) {
            return "the properties are too long";
        }
    }
    return NULL;
}

static const char *read_body(send_op *op)
{
    struct json_object *body = nv_json_member(op->tree, "body");
    struct json_object *base64 = nv_json_member(op->tree, "bodyBase64");
    nv_span text = NV_SPAN_EMPTY;
    if (body && base64) {
        return "give body or bodyBase64, not both";
    }
    if (body) {
        return nv_json_as_string(body, &op->send.body) ? NULL : "body is a string; other bytes go into bodyBase64";
    }
    if (!base64) {
        return NULL;
    }
    size_t len = 0;
    if (!nv_json_as_string(base64, &text)) {
        return "bodyBase64 is a base64 string";
    }
    op->body = nv_malloc(NV_BASE64_MAX_BYTES(text.len) + 1);
    if (nv_base64_decode(text, op->body, NV_BASE64_MAX_BYTES(text.len), &len) != NV_OK) {
        return "bodyBase64 is a base64 string";
    }
    op->send.body = nv_span_of(op->body, len);
    return NULL;
}

static const char *read_life(send_op *op)
{
    struct json_object *until = nv_json_member(op->tree, "expiryTimeUtc");
    struct json_object *ttl = nv_json_member(op->tree, "ttlSeconds");
    int64_t now_us = nv_wall_us(op->x->hub->clock);
    nv_span text = NV_SPAN_EMPTY;
    if (until && ttl) {
        return "give expiryTimeUtc or ttlSeconds, not both";
    }
    if (until && !(nv_json_as_string(until, &text) && nv_http_read_time(text, &op->send.expires_us))) {
        return "expiryTimeUtc is a time such as 2024-05-01T10:20:30Z";
    }
    if (ttl) {
        int64_t seconds = json_object_is_type(ttl, json_type_int) ? json_object_get_int64(ttl) : 0;
        if (seconds <= 0 || seconds > INT32_MAX) {
            return "ttlSeconds is a positive whole number";
        }
        op->send.expires_us = now_us + seconds * NV_US_PER_S;
    }
    return op->send.expires_us && op->send.expires_us <= now_us ? "the message has expired already" : NULL;
}

static const char *read_ack(send_op *op)
{
    struct json_object *ack = nv_json_member(op->tree, "ack");
    nv_span text = NV_SPAN_EMPTY;
    if (ack && !(nv_json_as_string(ack, &text) && nv_c2d_ack_parse(text, &op->send.ack))) {
        return "ack is none, positive, negative or full";
    }
    return NULL;
}

static const char *read_message(send_op *op)
{
    if (!json_object_is_type(op->tree, json_type_object)) {
        return "the request is a JSON object; see docs/messages-api.md";
    }
    static const char *(*const parts[])(send_op *) = {read_systems, read_applications, read_body, read_life, read_ack};
    const char *wrong = NULL;
    for (size_t i = 0; !wrong && i < NV_COUNT_OF(parts); i++) {
        wrong = parts[i](op);
    }
    return wrong;
}

void nv_http_message_send(nv_http_exchange *x)
{
    if (!nv_http_ids_valid(x)) {
        return;
    }
    send_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    nv_buf_init(&op->properties, HEADERS_MAX);
    x->op = op;
    x->op_free = send_free;
    if (!nv_http_body_json(x, &op->tree)) {
        return;
    }
    const char *wrong = read_message(op);
    if (wrong) {
        nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid, wrong);
        return;
    }
    op->send.device_id = x->device_id;
    op->send.properties = nv_buf_span(&op->properties);
    op->send.done = sent;
    op->send.arg = op;
    nv_c2d_send_do(x->loop, &op->send);
}
