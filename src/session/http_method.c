/**
 * Direct methods over REST (http-hub.md section 9). The request waits as long as the device may take, ten minutes at
 * most, and holds of its own no more than a name meanwhile; a caller that goes changes nothing for a device that was
 * asked.
 */
#include "session/http_method.h"

#include "base/alloc.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct method_op {
    nv_http_exchange *x;
    nv_method_call call;
    nv_buf name;
    void (*answered)(nv_http_exchange *x, const nv_method_call *call);
} method_op;

static void method_op_free(void *arg)
{
    method_op *op = arg;
    nv_buf_deinit(&op->call.answer);
    nv_buf_deinit(&op->name);
    free(op);
}

/* ---- refusals ----------------------------------------------------------------------------------------------- */

static void fail(nv_http_exchange *x, nv_hub_error error, const char *detail)
{
    nv_http_fail_as(x, NV_HTTP_E3, error, detail);
}

static void call_failed(nv_http_exchange *x, const nv_method_call *call)
{
    char info[40];
    int64_t s = call->connect_timeout_us / NV_US_PER_S;
    (void)snprintf(info, sizeof(info), "{\"timeout\":\"%02d:%02d:%02d\"}", (int)(s / 3600), (int)(s / 60 % 60),
                   (int)(s % 60));
    bool offline = call->error == NV_HUB_ERROR_DeviceNotOnline;
    nv_http_fail_info(x, NV_HTTP_E3, call->error, call->detail, offline ? info : NULL);
}

/* ---- the call ----------------------------------------------------------------------------------------------- */

static void call_done(nv_method_call *call)
{
    method_op *op = call->arg;
    if (call->error != NV_HUB_ERROR_NONE) {
        call_failed(op->x, call);
    } else {
        op->answered(op->x, call);
    }
}

static void peer_gone(nv_http_exchange *x)
{
    method_op *op = x->op;
    nv_method_cancel(&op->call);
}

void nv_http_method_start(nv_http_exchange *x, const nv_http_method_ask *ask)
{
    method_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    op->answered = ask->answered;
    x->op = op;
    x->op_free = method_op_free;
    nv_buf_init(&op->name, ask->name.len);
    if (nv_buf_append(&op->name, ask->name) != NV_OK) {
        fail(x, NV_HUB_ERROR_ServerError, NULL);
        return;
    }
    op->call.device_id = x->device_id;
    op->call.module_id = x->module_id;
    op->call.name = nv_buf_span(&op->name);
    op->call.payload = ask->payload;
    op->call.response_timeout_us = ask->response_s * NV_US_PER_S;
    op->call.connect_timeout_us = ask->connect_s * NV_US_PER_S;
    op->call.done = call_done;
    op->call.arg = op;
    nv_method_invoke(x->loop, &op->call);
    nv_http_body_done(x);
    nv_http_watch_peer(x, peer_gone);
}

/* ---- POST /twins/{d}[/modules/{m}]/methods ------------------------------------------------------------------- */

static void send_answer(nv_http_exchange *x, const nv_method_call *call)
{
    nv_buf body;
    nv_buf_init(&body, NV_HTTP_REPLY_MAX);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_json_begin_object(&w);
    nv_json_key(&w, "status");
    nv_json_int(&w, call->status);
    nv_json_key(&w, "payload");
    nv_json_raw(&w, nv_buf_span(&call->answer));
    nv_json_end_object(&w);
    nv_http_send_json(x, &w, NV_SPAN_EMPTY);
    nv_buf_deinit(&body);
}

/** A member that is a number of seconds, or null. @return false: something else */
static bool read_seconds(nv_span value, int64_t *seconds)
{
    uint64_t number = 0;
    if (nv_span_eq_str(value, "null")) {
        return true;
    }
    if (!nv_span_to_u64(value, &number) || number > INT32_MAX) {
        return false;
    }
    *seconds = (int64_t)number;
    return true;
}

/** Members in any case; of several with one name the last counts. @return NULL, or what is wrong */
static const char *read_body(nv_span body, nv_http_method_ask *ask, struct json_object **name)
{
    size_t at = 0;
    nv_span member;
    nv_span value;
    if (body.len == 0 || body.ptr[0] != '{') {
        return "The request body is an object with methodName and payload";
    }
    while (nv_json_next_member(body, &at, &member, &value)) {
        if (nv_span_eq_nocase(member, nv_span_str("methodName"))) {
            json_object_put(*name);
            if (nv_json_parse(value, 1, 1, name) != NV_OK || !nv_json_as_string(*name, &ask->name)) {
                return "methodName is a string";
            }
        } else if (nv_span_eq_nocase(member, nv_span_str("payload"))) {
            ask->payload = value;
        } else if (nv_span_eq_nocase(member, nv_span_str("responseTimeoutInSeconds"))) {
            if (!read_seconds(value, &ask->response_s)) {
                return "responseTimeoutInSeconds is 5 to 300";
            }
        } else if (nv_span_eq_nocase(member, nv_span_str("connectTimeoutInSeconds"))) {
            if (!read_seconds(value, &ask->connect_s)) {
                return "connectTimeoutInSeconds is 0 to 300";
            }
        }
    }
    return ask->name.len > 0 ? NULL : "methodName is missing";
}

void nv_http_method_invoke(nv_http_exchange *x)
{
    if (!nv_http_ids_valid(x)) {
        return;
    }
    nv_span text = nv_buf_span(&x->request->body);
    nv_buf body;
    nv_buf_init(&body, text.len + 1);
    nv_http_method_ask ask = {
        .payload = nv_span_str("null"), .response_s = NV_HTTP_METHOD_RESPONSE_S, .answered = send_answer};
    struct json_object *name = NULL;
    nv_err err = nv_json_compact(text, NV_JSON_MAX_DEPTH, NV_HTTP_JSON_VALUES, &body);
    const char *wrong = err == NV_OK ? read_body(nv_buf_span(&body), &ask, &name) : NULL;
    if (err != NV_OK) {
        fail(x, NV_HUB_ERROR_IotHubFormatError,
             err == NV_E_TOO_BIG ? "The request body is nested too deeply or holds too many values" : NULL);
    } else if (wrong) {
        fail(x, NV_HUB_ERROR_ArgumentInvalid, wrong);
    } else {
        nv_http_method_start(x, &ask);
    }
    json_object_put(name);
    nv_buf_deinit(&body);
}
