/** Twins of devices and modules over REST (http-hub.md section 8): the rules are core/twin.h's. */
#include "session/http_twin.h"

#include "base/alloc.h"
#include "session/http_identity.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct twin_op {
    nv_http_exchange *x;
    nv_twin_request request;
} twin_op;

void nv_http_twin_if_match(const nv_http_exchange *x, nv_twin_request *request)
{
    nv_span text = NV_SPAN_EMPTY;
    nv_span bare;
    if (!nv_http_find_header(x->request, "if-match", &text)) {
        return;
    }
    request->precondition = nv_if_match_parse(text, &bare);
    if (request->precondition == NV_IF_ETAG && !nv_twin_etag_parse(bare, &request->etag)) {
        request->etag = UINT64_MAX; /* no twin counts that far */
    }
}

void nv_http_twin_fail(nv_http_exchange *x, const nv_twin_request *request)
{
    char detail[200];
    nv_hub_error error = request->error;
    (void)snprintf(detail, sizeof(detail), "%s", request->detail);
    if (error == NV_HUB_ERROR_PreconditionFailed) {
        (void)snprintf(detail, sizeof(detail), "ETag mismatch for device ID '%.*s'", NV_SPAN_ARG(x->device_id));
    } else if (error == NV_HUB_ERROR_ModuleNotFound) {
        error = NV_HUB_ERROR_DeviceNotFound; /* twins of missing modules have the same name (http-hub.md section 4.2) */
    }
    nv_http_fail(x, error, detail);
}

static void twin_op_free(void *arg)
{
    twin_op *op = arg;
    nv_twin_unref(op->request.twin);
    free(op);
}

static void twin_done(nv_twin_request *request)
{
    twin_op *op = request->arg;
    if (request->error != NV_HUB_ERROR_NONE) {
        nv_http_twin_fail(op->x, request);
        return;
    }
    char etag[NV_TWIN_ETAG_SIZE];
    nv_twin_etag_text(request->twin->etag, etag);
    nv_buf body;
    nv_buf_init(&body, NV_HTTP_REPLY_MAX);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_twin_write_service(request->twin, &w);
    nv_http_send_json(op->x, &w, nv_span_str(etag));
    nv_buf_deinit(&body);
}

static void start(nv_http_exchange *x, nv_twin_verb verb)
{
    if (!nv_http_ids_valid(x)) {
        return;
    }
    twin_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    op->request.verb = verb;
    op->request.device_id = x->device_id;
    op->request.module_id = x->module_id;
    op->request.body = nv_buf_span(&x->request->body);
    op->request.done = twin_done;
    op->request.arg = op;
    if (verb != NV_TWIN_GET) {
        nv_http_twin_if_match(x, &op->request);
    }
    x->op = op;
    x->op_free = twin_op_free;
    nv_twin_do(x->loop, &op->request);
}

void nv_http_twin_get(nv_http_exchange *x)
{
    start(x, NV_TWIN_GET);
}

void nv_http_twin_patch(nv_http_exchange *x)
{
    start(x, NV_TWIN_PATCH);
}

void nv_http_twin_put(nv_http_exchange *x)
{
    start(x, NV_TWIN_REPLACE);
}
