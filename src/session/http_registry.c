/** Devices and modules over REST (http-hub.md sections 5 and 6), lists and statistics. */
#include "session/http_exchange.h"
#include "session/http_identity.h"

#include "base/alloc.h"
#include "codec/ids.h"
#include "core/c2d.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- one identity: [device first] -> registry -> presence -> answer ----------------------------------------- */

typedef struct identity_op {
    nv_http_exchange *x;
    nv_registry_request request;
    nv_registry_request device; /* module operations look at their device first */
    nv_presence_request presence;
    nv_c2d_depths depths;
    uint64_t depth;
    struct json_object *tree;
} identity_op;

static void identity_op_free(void *arg)
{
    identity_op *op = arg;
    nv_identity_unref(op->request.identity);
    nv_identity_unref(op->device.identity);
    nv_wipe(&op->request.spec, sizeof(op->request.spec));
    json_object_put(op->tree);
    free(op);
}

static void show_identity(nv_c2d_depths *depths)
{
    identity_op *op = nv_container_of(depths, identity_op, depths);
    const nv_identity *identity = op->request.identity;
    char etag[NV_ETAG_TEXT_SIZE];
    nv_etag_format(identity->etag, etag);
    nv_buf body;
    nv_buf_init(&body, NV_HTTP_REPLY_MAX);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_identity_write_json(&w, identity, &op->presence.presence, op->depth);
    nv_http_send_json(op->x, &w, nv_span_str(etag));
    nv_buf_deinit(&body);
}

static void presence_told(nv_presence_request *presence)
{
    identity_op *op = nv_container_of(presence, identity_op, presence);
    const nv_identity *identity = op->request.identity;
    op->depths =
        (nv_c2d_depths){.device_ids = &identity->device_id, .count = 1, .depths = &op->depth, .done = show_identity};
    if (identity->module_id.len > 0) {
        show_identity(&op->depths); /* messages are for devices */
    } else {
        nv_c2d_depths_get(op->x->loop, &op->depths);
    }
}

static void identity_done(nv_registry_request *request)
{
    identity_op *op = request->arg;
    if (request->error != NV_HUB_ERROR_NONE) {
        nv_http_fail(op->x, request->error, request->detail);
    } else if (request->verb == NV_REGISTRY_DELETE) {
        nv_http_send(op->x, &(nv_http_reply){.status = 204});
    } else {
        op->presence.device_id = request->identity->device_id;
        op->presence.module_id = request->identity->module_id;
        op->presence.done = presence_told;
        nv_presence_get(op->x->loop, &op->presence);
    }
}

/** A missing or disabled device makes its module operations 401 under SAS (http-hub.md section 2.5). @return false: it
 * is answered */
static bool let_in(nv_http_exchange *x, const nv_registry_request *device)
{
    bool gone = device->error == NV_HUB_ERROR_DeviceNotFound;
    if (gone || (device->error == NV_HUB_ERROR_NONE && !device->identity->enabled)) {
        nv_http_fail_as(x, NV_HTTP_E3, NV_HUB_ERROR_IotHubUnauthorizedAccess, NULL);
        return false;
    }
    if (device->error != NV_HUB_ERROR_NONE) {
        nv_http_fail(x, device->error, device->detail);
        return false;
    }
    return true;
}

static void device_seen(nv_registry_request *device)
{
    identity_op *op = device->arg;
    if (let_in(op->x, device)) {
        nv_registry_do(op->x->loop, &op->request);
    }
}

static void look_at_device(nv_http_exchange *x, nv_registry_request *device, void (*done)(nv_registry_request *),
                           void *arg)
{
    device->verb = NV_REGISTRY_GET;
    device->spec.device_id = x->device_id;
    device->done = done;
    device->arg = arg;
    nv_registry_do(x->loop, device);
}

static identity_op *identity_op_new(nv_http_exchange *x, nv_registry_verb verb)
{
    identity_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    op->request.verb = verb;
    op->request.spec.device_id = x->device_id;
    op->request.spec.module_id = x->module_id;
    op->request.own_device = x->as_device;
    op->request.done = identity_done;
    op->request.arg = op;
    x->op = op;
    x->op_free = identity_op_free;
    nv_span if_match = NV_SPAN_EMPTY;
    if (nv_http_find_header(x->request, "if-match", &if_match)) {
        op->request.precondition = nv_etag_parse(if_match, &op->request.etag);
    }
    return op;
}

bool nv_http_ids_valid(nv_http_exchange *x)
{
    if (!nv_device_id_valid(x->device_id)) {
        nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid,
                     "A device id has 1 to 128 letters, digits and characters of -:.+%_#*?!(),=@;$'");
        return false;
    }
    if (x->module_id.len > 0 && !nv_module_id_valid(x->module_id)) {
        nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid,
                     "A module id has 1 to 128 letters, digits and characters of -:.+%_#*?!(),=@;$'");
        return false;
    }
    return true;
}

static void start(identity_op *op)
{
    nv_http_exchange *x = op->x;
    if (x->module_id.len > 0 && !x->as_device) {
        look_at_device(x, &op->device, device_seen, op);
    } else {
        nv_registry_do(x->loop, &op->request);
    }
}

static void get_identity(nv_http_exchange *x)
{
    if (nv_http_ids_valid(x)) {
        start(identity_op_new(x, NV_REGISTRY_GET));
    }
}

/** System modules are made by the hub; only their own edge device may write to them (http-hub.md section 6). */
static bool may_write(nv_http_exchange *x)
{
    if (!nv_http_ids_valid(x)) {
        return false;
    }
    if (x->module_id.len > 0 && nv_module_id_is_system(x->module_id) && !x->as_device) {
        nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid, "Module ids that begin with $ belong to the hub");
        return false;
    }
    return true;
}

/** An id in the body, when there is one, equals that in the path. */
static bool same_id(struct json_object *tree, const char *name, nv_span id)
{
    struct json_object *value = nv_json_member(tree, name);
    nv_span text;
    return !value || (nv_json_as_string(value, &text) && nv_span_eq(text, id));
}

static void put_identity(nv_http_exchange *x)
{
    if (!may_write(x)) {
        return;
    }
    identity_op *op = identity_op_new(x, NV_REGISTRY_PUT);
    if (!nv_http_body_json(x, &op->tree)) {
        return;
    }
    char detail[200];
    nv_hub_error error = nv_identity_read_json(op->tree, &op->request.spec, detail);
    if (error != NV_HUB_ERROR_NONE) {
        nv_http_fail(x, error, detail);
    } else if (!same_id(op->tree, "deviceId", x->device_id) ||
               (x->module_id.len > 0 && !same_id(op->tree, "moduleId", x->module_id))) {
        nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid, "The id in the body is not the id in the path");
    } else {
        start(op);
    }
}

static void delete_identity(nv_http_exchange *x)
{
    if (!may_write(x)) {
        return;
    }
    identity_op *op = identity_op_new(x, NV_REGISTRY_DELETE);
    if (op->request.precondition == NV_IF_NONE) {
        nv_http_fail(x, NV_HUB_ERROR_PreconditionFailed, "Precondition failed: Etag missing");
        return;
    }
    start(op);
}

void nv_http_device_get(nv_http_exchange *x)
{
    get_identity(x);
}

void nv_http_device_put(nv_http_exchange *x)
{
    put_identity(x);
}

void nv_http_device_delete(nv_http_exchange *x)
{
    delete_identity(x);
}

void nv_http_module_get(nv_http_exchange *x)
{
    get_identity(x);
}

void nv_http_module_put(nv_http_exchange *x)
{
    put_identity(x);
}

void nv_http_module_delete(nv_http_exchange *x)
{
    delete_identity(x);
}

/* ---- lists: registry -> presence of each, all at once -> answer ---------------------------------------------- */

struct list_op;

typedef struct list_item {
    nv_presence_request presence;
    struct list_op *op;
} list_item;

typedef struct list_op {
    nv_http_exchange *x;
    nv_registry_list list;
    nv_registry_request device;
    list_item *items;
    size_t waiting;
    nv_c2d_depths depths;
    nv_span *device_ids; /* of the identities */
} list_op;

static void list_op_free(void *arg)
{
    list_op *op = arg;
    for (size_t i = 0; i < op->list.count; i++) {
        nv_identity_unref(op->list.identities[i]);
    }
    free(op->list.identities);
    nv_identity_unref(op->device.identity);
    free(op->device_ids);
    free(op->depths.depths);
    free(op->items);
    free(op);
}

static void show_list(list_op *op)
{
    nv_buf body;
    nv_buf_init(&body, NV_HTTP_REPLY_MAX);
    nv_json_writer w = nv_json_writer_of(&body);
    nv_json_begin_array(&w);
    for (size_t i = 0; i < op->list.count; i++) {
        nv_identity_write_json(&w, op->list.identities[i], &op->items[i].presence.presence,
                               op->depths.depths ? op->depths.depths[i] : 0);
    }
    nv_json_end_array(&w);
    nv_http_send_json(op->x, &w, NV_SPAN_EMPTY);
    nv_buf_deinit(&body);
}

static void counted(nv_c2d_depths *depths)
{
    show_list(nv_container_of(depths, list_op, depths));
}

static void count_messages(list_op *op)
{
    size_t count = op->list.count;
    op->device_ids = nv_calloc(count, sizeof(*op->device_ids));
    op->depths = (nv_c2d_depths){.device_ids = op->device_ids, .count = count, .done = counted};
    op->depths.depths = nv_calloc(count, sizeof(*op->depths.depths));
    for (size_t i = 0; i < count; i++) {
        op->device_ids[i] = op->list.identities[i]->device_id;
    }
    nv_c2d_depths_get(op->x->loop, &op->depths);
}

static void presence_seen(nv_presence_request *presence)
{
    list_op *op = nv_container_of(presence, list_item, presence)->op;
    if (--op->waiting > 0) {
        return;
    }
    if (op->list.device_id.len > 0) {
        show_list(op); /* modules have no messages */
    } else {
        count_messages(op);
    }
}

static void list_done(nv_registry_list *list)
{
    list_op *op = list->arg;
    if (list->error != NV_HUB_ERROR_NONE) {
        nv_http_fail(op->x, list->error, NULL);
        return;
    }
    if (list->count == 0) {
        show_list(op);
        return;
    }
    nv_hub_loop *loop = op->x->loop;
    size_t count = op->waiting = list->count;
    op->items = nv_calloc(count, sizeof(*op->items));
    for (size_t i = 0; i < count; i++) {
        list_item *item = &op->items[i];
        item->op = op;
        item->presence.device_id = list->identities[i]->device_id;
        item->presence.module_id = list->identities[i]->module_id;
        item->presence.done = presence_seen;
        nv_presence_get(loop, &item->presence);
    }
}

static list_op *list_op_new(nv_http_exchange *x)
{
    list_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    op->list.top = 1000;
    op->list.done = list_done;
    op->list.arg = op;
    x->op = op;
    x->op_free = list_op_free;
    return op;
}

void nv_http_devices_list(nv_http_exchange *x)
{
    list_op *op = list_op_new(x);
    char text[24];
    nv_span value;
    uint64_t top = 0;
    if (nv_http_query(x, "top", text, sizeof(text), &value) && nv_span_to_u64(value, &top) && top >= 1 && top <= 1000) {
        op->list.top = (uint32_t)top; /* anything else means 1000 (http-hub.md section 5.1) */
    }
    nv_registry_list_get(x->loop, &op->list);
}

static void list_device_seen(nv_registry_request *device)
{
    list_op *op = device->arg;
    if (let_in(op->x, device)) {
        nv_registry_list_get(op->x->loop, &op->list);
    }
}

void nv_http_modules_list(nv_http_exchange *x)
{
    if (!nv_http_ids_valid(x)) {
        return;
    }
    list_op *op = list_op_new(x);
    op->list.device_id = x->device_id;
    if (x->as_device) {
        nv_registry_list_get(x->loop, &op->list);
    } else {
        look_at_device(x, &op->device, list_device_seen, op);
    }
}

/* ---- statistics ---------------------------------------------------------------------------------------------- */

typedef struct counts_op {
    nv_http_exchange *x;
    nv_registry_counts counts;
} counts_op;

static void counts_done(nv_registry_counts *counts)
{
    counts_op *op = counts->arg;
    if (counts->error != NV_HUB_ERROR_NONE) {
        nv_http_fail(op->x, counts->error, NULL);
        return;
    }
    char text[160];
    int len = snprintf(text, sizeof(text),
                       "{\"totalDeviceCount\":%llu,\"enabledDeviceCount\":%llu,\"disabledDeviceCount\":%llu}",
                       (unsigned long long)counts->devices, (unsigned long long)counts->enabled,
                       (unsigned long long)(counts->devices - counts->enabled));
    nv_http_send(op->x, &(nv_http_reply){.status = 200, .body = nv_span_of(text, (size_t)len)});
}

void nv_http_statistics_devices(nv_http_exchange *x)
{
    counts_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    op->counts.done = counts_done;
    op->counts.arg = op;
    x->op = op;
    x->op_free = free;
    nv_registry_count(x->loop, &op->counts);
}

void nv_http_statistics_service(nv_http_exchange *x)
{
    char text[64];
    int len = snprintf(text, sizeof(text), "{\"connectedDeviceCount\":%lld}", (long long)nv_devices_connected(x->hub));
    nv_http_send(x, &(nv_http_reply){.status = 200, .body = nv_span_of(text, (size_t)len)});
}
