/** Digital twins over REST (http-hub.md section 10): another view of the same twins and methods. */
#include "session/http_digital_twin.h"

#include "base/alloc.h"
#include "codec/percent.h"
#include "session/http_method.h"
#include "session/http_twin.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>

/* Somebody else's writes between reading and writing the twin are tried again this often. */
#define ATTEMPTS_MAX 16u

typedef struct digital_op {
    nv_http_exchange *x;
    nv_twin_request read;
    nv_twin_request write;
    /* PATCH */
    struct json_object *patch; /* as received */
    nv_buf merge;
    bool has_etag; /* the caller's If-Match names one */
    uint64_t etag;
    unsigned attempts;
} digital_op;

static void digital_op_free(void *arg)
{
    digital_op *op = arg;
    nv_twin_unref(op->read.twin);
    nv_twin_unref(op->write.twin);
    json_object_put(op->patch);
    nv_buf_deinit(&op->merge);
    free(op);
}

/** The twin as services see it, as a tree; the caller's. NULL: it is larger than any can be. */
static struct json_object *tree_of(const nv_twin *twin)
{
    nv_buf text;
    nv_buf_init(&text, NV_HTTP_REPLY_MAX);
    nv_json_writer w = nv_json_writer_of(&text);
    nv_twin_write_service(twin, &w);
    struct json_object *tree = NULL;
    if (w.err != NV_OK || nv_json_parse(nv_buf_span(&text), NV_JSON_MAX_DEPTH, UINT32_MAX, &tree) != NV_OK) {
        tree = NULL;
    }
    nv_buf_deinit(&text);
    return tree;
}

static digital_op *digital_op_new(nv_http_exchange *x, void (*seen)(nv_twin_request *request))
{
    digital_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    op->read.verb = NV_TWIN_GET;
    op->read.device_id = x->device_id;
    op->read.done = seen;
    op->read.arg = op;
    nv_buf_init(&op->merge, NV_HTTP_REPLY_MAX);
    x->op = op;
    x->op_free = digital_op_free;
    return op;
}

/* ---- GET ----------------------------------------------------------------------------------------------------- */

static void show(nv_twin_request *request)
{
    digital_op *op = request->arg;
    if (request->error != NV_HUB_ERROR_NONE) {
        nv_http_twin_fail(op->x, request);
        return;
    }
    struct json_object *tree = tree_of(request->twin);
    char etag[NV_TWIN_ETAG_SIZE];
    nv_twin_etag_text(request->twin->etag, etag);
    nv_buf body;
    nv_buf_init(&body, NV_HTTP_REPLY_MAX);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_digital_twin_write(&w, tree);
    nv_http_send_json(op->x, &w, nv_span_str(etag));
    nv_buf_deinit(&body);
    json_object_put(tree);
}

void nv_http_digital_twin_get(nv_http_exchange *x)
{
    if (nv_http_ids_valid(x)) {
        nv_twin_do(x->loop, &digital_op_new(x, show)->read);
    }
}

/* ---- PATCH: read the twin, work out the merge patch, write it if nobody wrote in between ---------------------- */

static void accepted(digital_op *op)
{
    nv_http_exchange *x = op->x;
    char etag[NV_TWIN_ETAG_SIZE];
    char location[600];
    char id[3 * NV_ID_MAX + 1];
    nv_writer w = nv_writer_of(id, sizeof(id));
    nv_percent_encode(x->device_id, &w);
    nv_twin_etag_text(op->write.twin->etag, etag);
    (void)snprintf(location, sizeof(location), "Location: /digitaltwins/%.*s\r\n", NV_SPAN_ARG(nv_writer_span(&w)));
    nv_http_send(x, &(nv_http_reply){.status = 202, .etag = nv_span_str(etag), .headers = location});
}

static void written(nv_twin_request *request)
{
    digital_op *op = request->arg;
    bool outrun = request->error == NV_HUB_ERROR_PreconditionFailed && !op->has_etag;
    if (request->error == NV_HUB_ERROR_NONE) {
        accepted(op);
    } else if (outrun && ++op->attempts < ATTEMPTS_MAX) {
        nv_twin_unref(op->read.twin);
        op->read.twin = NULL;
        nv_twin_do(op->x->loop, &op->read);
    } else {
        nv_http_twin_fail(op->x, request);
    }
}

static bool make_merge(digital_op *op, char detail[200])
{
    struct json_object *tree = tree_of(op->read.twin);
    struct json_object *merge = nv_digital_twin_patch(op->patch, tree, detail);
    json_object_put(tree);
    if (!merge) {
        return false;
    }
    const char *text = json_object_to_json_string_ext(merge, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    nv_buf_clear(&op->merge);
    bool good = nv_buf_append_str(&op->merge, text) == NV_OK;
    json_object_put(merge);
    if (!good) {
        (void)snprintf(detail, 200, "The patch is larger than any twin");
    }
    return good;
}

static void write_back(nv_twin_request *read)
{
    digital_op *op = read->arg;
    nv_http_exchange *x = op->x;
    char detail[200] = "";
    if (read->error != NV_HUB_ERROR_NONE) {
        nv_http_twin_fail(x, read);
        return;
    }
    if (op->has_etag && op->etag != read->twin->etag) {
        read->error = NV_HUB_ERROR_PreconditionFailed;
        nv_http_twin_fail(x, read);
        return;
    }
    if (!make_merge(op, detail)) {
        nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid, detail);
        return;
    }
    op->write = (nv_twin_request){.verb = NV_TWIN_PATCH,
                                  .device_id = x->device_id,
                                  .body = nv_buf_span(&op->merge),
                                  .precondition = NV_IF_ETAG,
                                  .etag = read->twin->etag,
                                  .done = written,
                                  .arg = op};
    nv_twin_do(x->loop, &op->write);
}

void nv_http_digital_twin_patch(nv_http_exchange *x)
{
    struct json_object *patch = NULL;
    if (!nv_http_ids_valid(x) || !nv_http_body_json(x, &patch)) {
        return;
    }
    digital_op *op = digital_op_new(x, write_back);
    op->patch = patch;
    nv_http_twin_if_match(x, &op->write);
    op->has_etag = op->write.precondition == NV_IF_ETAG;
    op->etag = op->write.etag;
    nv_twin_do(x->loop, &op->read);
}

/* ---- POST .../commands/{n} ------------------------------------------------------------------------------------ */

static void send_payload(nv_http_exchange *x, const nv_method_call *call)
{
    char status[64];
    (void)snprintf(status, sizeof(status), "x-ms-command-statuscode: %lld\r\n", (long long)call->status);
    nv_http_send(x, &(nv_http_reply){.status = 200, .headers = status, .body = nv_buf_span(&call->answer)});
}

/** @return false: not a number */
static bool seconds_of(const nv_http_exchange *x, const char *name, int64_t *seconds)
{
    char text[16];
    nv_span value;
    uint64_t number = 0;
    nv_err err = nv_http_query_get(x, name, text, sizeof(text), &value);
    if (err == NV_E_NOT_FOUND) {
        return true;
    }
    if (err != NV_OK || !nv_span_to_u64(value, &number) || number > INT32_MAX) {
        return false;
    }
    *seconds = (int64_t)number;
    return true;
}

void nv_http_digital_twin_command(nv_http_exchange *x)
{
    if (!nv_http_ids_valid(x)) {
        return;
    }
    nv_http_method_ask ask = {
        .payload = nv_buf_span(&x->request->body), .response_s = NV_HTTP_METHOD_RESPONSE_S, .answered = send_payload};
    char name[2 * NV_METHOD_NAME_MAX + 3];
    int len =
        snprintf(name, sizeof(name), "%.*s%s%.*s", NV_SPAN_ARG(nv_span_first(x->component, NV_METHOD_NAME_MAX + 1)),
                 x->component.len > 0 ? "*" : "", NV_SPAN_ARG(nv_span_first(x->command, NV_METHOD_NAME_MAX + 1)));
    ask.name = nv_span_of(name, (size_t)len);
    if (!seconds_of(x, "responseTimeoutInSeconds", &ask.response_s) ||
        !seconds_of(x, "connectTimeoutInSeconds", &ask.connect_s)) {
        nv_http_fail_as(x, NV_HTTP_E3, NV_HUB_ERROR_ArgumentInvalid, "A timeout is a number of seconds");
        return;
    }
    nv_http_method_start(x, &ask);
}
