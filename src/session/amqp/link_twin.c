/*
 * Twins over AMQP (amqp.md section 3.6). A request is copied, asked of the core and answered when that is done; answers
 * need not come in the order of the requests, each has its correlation-id.
 */
#include "session/amqp/link_pair.h"

#include "base/alloc.h"
#include "core/twin.h"
#include "session/twin_answer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define CORRELATION_MAX 1024u      /* encoded; the longest that any SDK sends has 60 bytes */
#define ANSWER_MAX      (8u << 20) /* bytes of JSON; the limits of twins keep it far smaller */
#define READ_RESERVE    65536u     /* what the answer to a GET may take of the memory of one device */
#define ERROR_MAX       4096u
#define HEAD_MAX        (CORRELATION_MAX + 256u)

struct amqp_twin {
    amqp_pair pair; /* first member */
    uint32_t requests;
    size_t bytes;    /* what these hold, and what their answers may become */
    bool blocked;    /* a delivery was not taken */
    bool subscribed; /* between PUT and DELETE */
};

typedef struct twin_request {
    nv_twin_request request; /* first member */
    struct amqp_twin *twin;
    size_t cost;
    size_t correlation_len;
    uint8_t bytes[]; /* correlation-id as encoded, body */
} twin_request;

static struct amqp_twin *twin_of(amqp_pair *pair)
{
    return (struct amqp_twin *)(void *)pair;
}

/* ---- answering -----------------------------------------------------------------------------------------------------
 */

typedef struct answer {
    nv_span correlation; /* encoded; empty: none */
    int32_t status;      /* 0: a notification */
    bool has_version;
    uint64_t version;
} answer;

/* Everything before the body: annotations, correlation-id, the head of the data section. */
static nv_span write_head(uint8_t head[HEAD_MAX], const answer *a, size_t body_len)
{
    nv_writer w = nv_writer_of(head, HEAD_MAX);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_MESSAGE_ANNOTATIONS);
    nv_amqp_put_symbol_of(&w, a->status != 0 ? "status" : "resource");
    if (a->status != 0) {
        nv_amqp_put_int(&w, a->status);
    } else {
        nv_amqp_put_string_of(&w, "/properties/desired");
    }
    if (a->has_version) {
        nv_amqp_put_symbol_of(&w, "version");
        nv_amqp_put_long(&w, (int64_t)a->version);
    }
    nv_amqp_end_map(&w, mark, a->has_version ? 4 : 2);
    if (a->correlation.len > 0) {
        nv_amqp_properties properties = {.correlation_id = a->correlation};
        nv_amqp_put_properties_section(&w, &properties);
    }
    nv_amqp_put_data_head(&w, body_len);
    return nv_writer_span(&w);
}

static void send_answer(struct amqp_twin *t, const answer *a, nv_span body)
{
    uint8_t head[HEAD_MAX];
    amqp_pair_send(&t->pair, write_head(head, a, body.len), body);
}

static void send_error(struct amqp_twin *t, nv_span correlation, nv_hub_error error, const char *detail)
{
    answer a = {.correlation = correlation, .status = (int32_t)nv_hub_error_info_of(error)->http_status};
    nv_buf body;
    nv_buf_init(&body, ERROR_MAX);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_twin_answer_error(amqp_hub(t->pair.device->server), &w, error, detail);
    send_answer(t, &a, nv_buf_span(&body));
    nv_buf_deinit(&body);
}

static void send_twin(struct amqp_twin *t, nv_span correlation, const nv_twin *twin)
{
    answer a = {.correlation = correlation, .status = 200};
    nv_buf body;
    nv_buf_init(&body, ANSWER_MAX);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_twin_write_device(twin, &w);
    if (w.err == NV_OK) {
        send_answer(t, &a, nv_buf_span(&body));
    } else {
        send_error(t, correlation, NV_HUB_ERROR_ServerError, "");
    }
    nv_buf_deinit(&body);
}

static void answer_done(struct amqp_twin *t, const twin_request *r)
{
    const nv_twin_request *request = &r->request;
    nv_span correlation = nv_span_of(r->bytes, r->correlation_len);
    if (request->error != NV_HUB_ERROR_NONE) {
        send_error(t, correlation, request->error, request->detail);
    } else if (request->verb == NV_TWIN_REPORTED) {
        answer a = {
            .correlation = correlation, .status = 200, .has_version = true, .version = request->reported_version};
        send_answer(t, &a, NV_SPAN_EMPTY);
    } else {
        send_twin(t, correlation, request->twin);
    }
}

static void done(nv_twin_request *request)
{
    twin_request *r = nv_container_of(request, twin_request, request);
    struct amqp_twin *t = r->twin;
    amqp_device *device = t->pair.device;
    t->requests--;
    t->bytes -= r->cost;
    answer_done(t, r);
    nv_twin_unref(request->twin);
    free(r);
    if (t->blocked) {
        t->blocked = false;
        nv_amqp_conn_resume(&device->server->conn);
    }
    amqp_device_operation_end(device); /* the device may be gone */
}

/* ---- asking --------------------------------------------------------------------------------------------------------
 */

static void ask(struct amqp_twin *t, nv_twin_verb verb, nv_span correlation, nv_span body)
{
    amqp_device *device = t->pair.device;
    const nv_identity *identity = device->identity;
    twin_request *r = nv_calloc(1, sizeof(*r) + correlation.len + body.len);
    if (correlation.len > 0) {
        memcpy(r->bytes, correlation.ptr, correlation.len);
    }
    if (body.len > 0) {
        memcpy(r->bytes + correlation.len, body.ptr, body.len);
    }
    r->twin = t;
    r->correlation_len = correlation.len;
    r->cost = sizeof(*r) + correlation.len + body.len + (verb == NV_TWIN_GET ? READ_RESERVE : 0);
    r->request = (nv_twin_request){.verb = verb,
                                   .device_id = identity->device_id,
                                   .module_id = identity->module_id,
                                   .body = nv_span_of(r->bytes + correlation.len, body.len),
                                   .told = &device->claim.twin_told,
                                   .done = done};
    if (!nv_span_to_u64(identity->generation_id, &r->request.generation)) {
        r->request.generation = 0;
    }
    t->requests++;
    t->bytes += r->cost;
    amqp_device_operation_begin(device);
    nv_twin_do(amqp_loop(device->server), &r->request);
}

static void report(struct amqp_twin *t, nv_span correlation, nv_span resource, nv_span body)
{
    char detail[120];
    const nv_hub *hub = amqp_hub(t->pair.device->server);
    if (!nv_span_eq_nocase(resource, nv_span_str("/properties/reported"))) {
        send_error(t, correlation, NV_HUB_ERROR_ArgumentInvalid, "PATCH is for the resource /properties/reported");
    } else if (body.len > nv_twin_answer_longest_patch(hub)) {
        (void)snprintf(detail, sizeof(detail), "The patch has %zu bytes; reported properties are limited to %" PRId64,
                       body.len, hub->limits.twin_reported_bytes);
        send_error(t, correlation, NV_HUB_ERROR_ArgumentInvalid, detail);
    } else {
        ask(t, NV_TWIN_REPORTED, correlation, body);
    }
}

static void follow(struct amqp_twin *t)
{
    amqp_device_want(t->pair.device, NV_WANTS_DESIRED, t->subscribed && t->pair.out);
}

static void subscribe(struct amqp_twin *t, nv_span correlation, nv_span resource, bool wanted)
{
    answer a = {.correlation = correlation, .status = 200};
    if (!nv_span_eq_nocase(resource, nv_span_str("/notifications/twin/properties/desired"))) {
        send_error(t, correlation, NV_HUB_ERROR_ArgumentInvalid,
                   "PUT and DELETE are for the resource /notifications/twin/properties/desired");
        return;
    }
    amqp_device *device = t->pair.device;
    amqp_device_operation_begin(device);
    t->subscribed = wanted;
    follow(t);
    send_answer(t, &a, NV_SPAN_EMPTY);
    amqp_device_operation_end(device);
}

static nv_span annotation(const nv_amqp_message *message, const char *name)
{
    nv_amqp_value value;
    bool found = nv_amqp_map_find(&message->message_annotations, name, &value) && nv_amqp_is_text(&value);
    return found ? value.bytes : NV_SPAN_EMPTY;
}

static void on_request(struct amqp_twin *t, const nv_amqp_message *message, nv_span correlation, nv_span body)
{
    nv_span operation = annotation(message, "operation");
    nv_span resource = annotation(message, "resource");
    if (amqp_fault_now(t->pair.device) == NV_FAULT_THROTTLE) {
        send_error(t, correlation, NV_HUB_ERROR_ThrottlingException, "");
    } else if (nv_span_eq_nocase(operation, nv_span_str("GET"))) {
        ask(t, NV_TWIN_GET, correlation, NV_SPAN_EMPTY);
    } else if (nv_span_eq_nocase(operation, nv_span_str("PATCH"))) {
        report(t, correlation, resource, body);
    } else if (nv_span_eq_nocase(operation, nv_span_str("PUT"))) {
        subscribe(t, correlation, resource, true);
    } else if (nv_span_eq_nocase(operation, nv_span_str("DELETE"))) {
        subscribe(t, correlation, resource, false);
    } else {
        send_error(t, correlation, NV_HUB_ERROR_InvalidOperation,
                   "The annotation operation is GET, PATCH, PUT or DELETE");
    }
}

static bool is_full(struct amqp_twin *t)
{
    const nv_limits *limits = &amqp_hub(t->pair.device->server)->limits;
    return (int64_t)t->requests >= limits->twin_inflight || (int64_t)t->bytes >= limits->inflight_bytes;
}

static bool on_delivery(amqp_pair *pair, nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    struct amqp_twin *t = twin_of(pair);
    nv_amqp_message message;
    nv_span body;
    if (is_full(t)) {
        t->blocked = true;
        return false;
    }
    nv_buf scratch;
    nv_buf_init(&scratch, delivery->bytes.len);
    if (!amqp_pair_read(link, delivery, &message, &scratch, &body)) {
        /* rejected */
    } else if (message.properties.correlation_id.len > CORRELATION_MAX) {
        amqp_reject_unreadable(link, delivery, NV_E_SYNTAX);
    } else if (amqp_pair_is_full(pair)) {
        amqp_reject(link, delivery, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED,
                    "the answers to earlier requests are not read");
    } else {
        amqp_accept_one(link, delivery); /* before the answer, always */
        amqp_device_active(pair->device);
        on_request(t, &message, message.properties.correlation_id, body);
    }
    nv_buf_deinit(&scratch);
    return true;
}

/* ---- desired properties --------------------------------------------------------------------------------------------
 */

void amqp_twin_deliver(amqp_device *device, const nv_delivery *delivery)
{
    struct amqp_twin *t = twin_of(device->twin);
    uint8_t head_bytes[HEAD_MAX];
    char version[NV_TWIN_VERSION_SIZE];
    nv_span first = NV_SPAN_EMPTY;
    if (!t || !t->pair.out || !t->subscribed || delivery->body.len < 2) {
        return; /* no longer wanted */
    }
    nv_span tail = nv_twin_answer_desired(delivery, &first, version);
    answer a = {.has_version = true, .version = delivery->version};
    nv_span head = write_head(head_bytes, &a, first.len + tail.len);
    uint8_t *body = nv_malloc(first.len + tail.len);
    memcpy(body, first.ptr, first.len);
    memcpy(body + first.len, tail.ptr, tail.len);
    amqp_device_active(device);
    amqp_pair_send(&t->pair, head, nv_span_of(body, first.len + tail.len));
    free(body);
}

/* ---- links ---------------------------------------------------------------------------------------------------------
 */

static void changed(amqp_pair *pair)
{
    struct amqp_twin *t = twin_of(pair);
    if (!pair->out) {
        t->subscribed = false;
    }
    follow(t);
}

static void end_link(amqp_device_link *self)
{
    amqp_pair_end(self);
}

static const amqp_pair_kind kind = {.end = end_link, .delivery = on_delivery, .changed = changed};

void amqp_open_twin(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)s;
    (void)address;
    if (!device->twin) {
        device->twin = amqp_pair_new(sizeof(struct amqp_twin), device, &kind);
    }
    amqp_pair_open(device->twin, link);
}
