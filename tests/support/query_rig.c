#include "support/query_rig.h"

#include "core/registry.h"
#include "core/twin.h"

#include <json-c/json.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static nv_hub_loop *loop_of(real_core *core)
{
    nv_exec_queue_adopt(&core->queues[0]);
    nv_exec_queue_adopt(&core->queues[1]);
    return &core->hub->loops[0];
}

/* Both loops' work is done by this thread. */
static void run_until(real_core *core, const bool *done)
{
    while (!*done) {
        for (size_t i = 0; i < REAL_LOOPS; i++) {
            nv_exec_queue_run(&core->queues[i]);
        }
        (void)sched_yield();
    }
}

/* ---- identities and twins ----------------------------------------------------------------------------------- */

static void set_flag(nv_registry_request *request)
{
    *(bool *)request->arg = true;
}

static void registry(real_core *core, nv_registry_request *request)
{
    bool done = false;
    request->done = set_flag;
    request->arg = &done;
    nv_registry_do(loop_of(core), request);
    run_until(core, &done);
    if (request->error != NV_HUB_ERROR_NONE) {
        fail_msg("%s: %s", nv_hub_error_info_of(request->error)->name, request->detail);
    }
    nv_identity_unref(request->identity);
}

void rig_device(real_core *core, const char *device, const char *module)
{
    nv_registry_request request = {
        .verb = NV_REGISTRY_PUT,
        .spec = {.device_id = nv_span_str(device), .module_id = nv_span_str(module), .enabled = true}};
    registry(core, &request);
}

void rig_delete(real_core *core, const char *device, const char *module)
{
    nv_registry_request request = {.verb = NV_REGISTRY_DELETE,
                                   .spec = {.device_id = nv_span_str(device), .module_id = nv_span_str(module)},
                                   .precondition = NV_IF_ANY};
    registry(core, &request);
}

static void twin_done(nv_twin_request *request)
{
    *(bool *)request->arg = true;
}

static void twin(real_core *core, nv_twin_verb verb, const char *device, const char *module, const char *json)
{
    bool done = false;
    nv_twin_request request = {.verb = verb,
                               .device_id = nv_span_str(device),
                               .module_id = nv_span_str(module),
                               .body = nv_span_str(json),
                               .done = twin_done,
                               .arg = &done};
    nv_twin_do(loop_of(core), &request);
    run_until(core, &done);
    if (request.error != NV_HUB_ERROR_NONE) {
        fail_msg("%s: %s", nv_hub_error_info_of(request.error)->name, request.detail);
    }
    nv_twin_unref(request.twin);
}

void rig_patch(real_core *core, const char *device, const char *module, const char *json)
{
    twin(core, NV_TWIN_PATCH, device, module, json);
}

void rig_report(real_core *core, const char *device, const char *module, const char *json)
{
    twin(core, NV_TWIN_REPORTED, device, module, json);
}

/* ---- queries ------------------------------------------------------------------------------------------------ */

static void query_done(nv_query_request *request)
{
    *(bool *)request->arg = true;
}

rig_page rig_query_page(real_core *core, const char *text, uint32_t page, const char *continuation)
{
    bool done = false;
    nv_query_request request = {.text = nv_span_str(text),
                                .page = page,
                                .continuation = nv_span_str(continuation),
                                .done = query_done,
                                .arg = &done};
    nv_query_do(loop_of(core), &request);
    assert_false(done); /* never from within the call */
    run_until(core, &done);
    rig_page out = {.error = request.error,
                    .item = request.item,
                    .rows = nv_span_dup(nv_buf_span(&request.rows)),
                    .next = nv_span_dup(nv_buf_span(&request.next))};
    memcpy(out.detail, request.detail, sizeof(out.detail));
    nv_buf_deinit(&request.rows);
    nv_buf_deinit(&request.next);
    return out;
}

void rig_page_free(rig_page *page)
{
    free(page->rows);
    free(page->next);
}

char *rig_query(real_core *core, const char *text, uint32_t page)
{
    nv_buf all;
    nv_buf_init(&all, 64u << 20);
    char *continuation = nv_span_dup(NV_SPAN_EMPTY);
    do {
        rig_page got = rig_query_page(core, text, page, continuation);
        if (got.error != NV_HUB_ERROR_NONE) {
            fail_msg("%s: %s", text, got.detail);
        }
        nv_span rows = nv_span_str(got.rows);
        assert_true(rows.len >= 2 && rows.ptr[0] == '[' && rows.ptr[rows.len - 1] == ']');
        if (nv_buf_len(&all) > 0 && rows.len > 2) {
            assert_int_equal(nv_buf_append_str(&all, ","), NV_OK);
        }
        assert_int_equal(nv_buf_append(&all, nv_span_of(rows.ptr + 1, rows.len - 2)), NV_OK);
        free(continuation);
        continuation = nv_span_dup(nv_span_str(got.next));
        rig_page_free(&got);
    } while (continuation[0]);
    free(continuation);
    nv_buf text_out;
    nv_buf_init(&text_out, 65u << 20);
    assert_int_equal(nv_buf_printf(&text_out, "[%.*s]", NV_SPAN_ARG(nv_buf_span(&all))), NV_OK);
    char *out = nv_span_dup(nv_buf_span(&text_out));
    nv_buf_deinit(&text_out);
    nv_buf_deinit(&all);
    return out;
}

void rig_ids(const char *rows, char *out, size_t size)
{
    struct json_object *tree = json_tokener_parse(rows);
    assert_true(json_object_is_type(tree, json_type_array));
    size_t len = 0;
    out[0] = '\0';
    for (size_t i = 0; i < json_object_array_length(tree); i++) {
        struct json_object *row = json_object_array_get_idx(tree, i);
        const char *device = json_object_get_string(json_object_object_get(row, "deviceId"));
        const char *module = json_object_get_string(json_object_object_get(row, "moduleId"));
        assert_non_null(device);
        len += (size_t)snprintf(out + len, size - len, "%s%s%s%s", i ? " " : "", device, module ? "/" : "",
                                module ? module : "");
    }
    json_object_put(tree);
}
