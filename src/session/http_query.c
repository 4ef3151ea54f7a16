/** POST /devices/query (http-hub.md section 11): one page of an answer; core/query.h knows the language. */
#include "session/http_exchange.h"

#include "base/alloc.h"
#include "core/query.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>

#define INVALID "The query is invalid: "

typedef struct query_op {
    nv_http_exchange *x;
    nv_query_request request;
    struct json_object *tree;
} query_op;

static void query_op_free(void *arg)
{
    query_op *op = arg;
    nv_buf_deinit(&op->request.rows);
    nv_buf_deinit(&op->request.next);
    json_object_put(op->tree);
    free(op);
}

static void query_done(nv_query_request *request)
{
    query_op *op = request->arg;
    nv_http_exchange *x = op->x;
    if (request->error != NV_HUB_ERROR_NONE) {
        nv_http_fail(x, request->error, request->detail);
        return;
    }
    static const char *const items[] = {
        [NV_QUERY_TWIN] = "Twin", [NV_QUERY_RAW] = "Raw", [NV_QUERY_DEVICE_JOB] = "DeviceJob"};
    nv_buf headers;
    nv_buf_init(&headers, 16u << 10);
    nv_err err = nv_buf_printf(&headers, "x-ms-item-type: %s\r\n", items[request->item]);
    if (err == NV_OK && nv_buf_len(&request->next) > 0) { /* absent on the last page: an empty one makes Node loop */
        err = nv_buf_printf(&headers, "x-ms-continuation: %.*s\r\n", NV_SPAN_ARG(nv_buf_span(&request->next)));
    }
    err = err == NV_OK ? nv_buf_append(&headers, nv_span_of("", 1)) : err;
    if (err == NV_OK) {
        nv_http_send(x, &(nv_http_reply){.status = 200,
                                         .headers = (const char *)nv_buf_span(&headers).ptr,
                                         .body = nv_buf_span(&request->rows)});
    } else {
        nv_http_fail(x, NV_HUB_ERROR_ServerError, NULL);
    }
    nv_buf_deinit(&headers);
}

static void peer_gone(nv_http_exchange *x)
{
    query_op *op = x->op;
    nv_query_cancel(&op->request);
}

/** Missing, zero and what is no size mean the default; the core bounds the rest. @return false: not a number */
static bool read_page_size(const nv_http_exchange *x, uint32_t *page)
{
    nv_span text = NV_SPAN_EMPTY;
    uint64_t number = 0;
    if (!nv_http_find_header(x->request, "x-ms-max-item-count", &text) || text.len == 0 || nv_span_eq_str(text, "-1")) {
        return true;
    }
    if (!nv_span_to_u64(text, &number)) {
        return false;
    }
    *page = number > NV_QUERY_PAGE_MAX ? NV_QUERY_PAGE_MAX : (uint32_t)number;
    return true;
}

static query_op *query_op_new(nv_http_exchange *x, struct json_object *tree)
{
    query_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    op->tree = tree;
    op->request.done = query_done;
    op->request.arg = op;
    x->op = op;
    x->op_free = query_op_free;
    return op;
}

void nv_http_query_devices(nv_http_exchange *x)
{
    struct json_object *tree = NULL;
    if (!nv_http_body_json(x, &tree)) {
        return;
    }
    query_op *op = query_op_new(x, tree);
    nv_span continuation = NV_SPAN_EMPTY;
    if (!nv_json_as_string(nv_json_member(tree, "query"), &op->request.text)) {
        nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid, INVALID "the request body is {\"query\":\"SELECT ...\"}");
    } else if (!read_page_size(x, &op->request.page)) {
        nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid, "x-ms-max-item-count is a number of rows");
    } else {
        (void)nv_http_find_header(x->request, "x-ms-continuation", &continuation);
        op->request.continuation = continuation;
        nv_http_watch_peer(x, peer_gone);
        nv_query_do(x->loop, &op->request);
    }
}
