/** Operations on many identities in one request: bulk and key rotation (http-hub.md section 7). */
#include "core/twin.h"
#include "session/http_exchange.h"
#include "session/http_identity.h"

#include "base/alloc.h"
#include "base/map.h"
#include "codec/ids.h"

#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct bulk_item {
    nv_registry_request request; /* also tells the outcome of an operation on the twin */
    nv_twin_request twin;        /* when it is one */
    bool is_twin;
    struct bulk_op *op;
} bulk_item;

typedef struct bulk_op {
    nv_http_exchange *x;
    struct json_object *tree;
    bulk_item *items;
    size_t count;
    size_t next;            /* first item that was not handed to the registry */
    size_t in_flight;       /* handed over and not answered */
    bool in_sequence;       /* some device is named twice: its operations keep their order */
    const char *policy_key; /* key rotation */
    void (*show)(struct bulk_op *op, nv_json_writer *w, size_t failed);
} bulk_op;

static void bulk_op_free(void *arg)
{
    bulk_op *op = arg;
    for (size_t i = 0; i < op->count; i++) {
        nv_identity_unref(op->items[i].request.identity);
        nv_twin_unref(op->items[i].twin.twin);
    }
    if (op->items) {
        nv_wipe(op->items, op->count * sizeof(*op->items));
    }
    free(op->items);
    json_object_put(op->tree);
    free(op);
}

static void finish(bulk_op *op)
{
    size_t failed = 0;
    for (size_t i = 0; i < op->count; i++) {
        failed += op->items[i].request.error != NV_HUB_ERROR_NONE;
    }
    nv_buf body;
    nv_buf_init(&body, NV_HTTP_REPLY_MAX);
    nv_json_writer w = nv_json_writer_of(&body);
    op->show(op, &w, failed);
    nv_buf_deinit(&body);
}

static void item_fail(bulk_item *item, nv_hub_error error, const char *detail)
{
    item->request.error = error;
    (void)snprintf(item->request.detail, sizeof(item->request.detail), "%s", detail);
}

static void run_items(bulk_op *op);

static void item_done(nv_registry_request *request)
{
    bulk_op *op = ((bulk_item *)request->arg)->op;
    op->in_flight--;
    run_items(op);
}

static void twin_done(nv_twin_request *twin)
{
    bulk_item *item = twin->arg;
    item_fail(item, twin->error, twin->detail);
    item->op->in_flight--;
    run_items(item->op);
}

static void start_item(bulk_op *op, bulk_item *item)
{
    op->in_flight++;
    if (item->is_twin) {
        item->twin.device_id = item->request.spec.device_id;
        item->twin.module_id = item->request.spec.module_id;
        item->twin.done = twin_done;
        item->twin.arg = item;
        nv_twin_do(op->x->loop, &item->twin);
        return;
    }
    item->request.done = item_done;
    item->request.arg = item;
    nv_registry_do(op->x->loop, &item->request);
}

/** Items with an error from parsing are skipped; the others go at once, so that one commit can take them all. */
static void run_items(bulk_op *op)
{
    while (op->next < op->count && (op->in_flight == 0 || !op->in_sequence)) {
        bulk_item *item = &op->items[op->next++];
        if (item->request.error == NV_HUB_ERROR_NONE) {
            start_item(op, item);
        }
    }
    if (op->next == op->count && op->in_flight == 0) {
        finish(op);
    }
}

/** Ids of an item into its request. @return false: the item has failed */
static bool read_ids(bulk_item *item, struct json_object *tree)
{
    nv_identity_spec *spec = &item->request.spec;
    struct json_object *module = nv_json_member(tree, "moduleId");
    nv_span id = NV_SPAN_EMPTY;
    if (!nv_json_as_string(nv_json_member(tree, "id"), &id) || !nv_device_id_valid(id)) {
        spec->device_id = id.len <= NV_ID_MAX ? id : NV_SPAN_EMPTY; /* so that the caller finds the item */
        item_fail(item, NV_HUB_ERROR_ArgumentInvalid, "id is not a device id");
        return false;
    }
    spec->device_id = id;
    if (module && (!nv_json_as_string(module, &spec->module_id) ||
                   (spec->module_id.len > 0 && !nv_module_id_valid(spec->module_id)))) {
        spec->module_id = NV_SPAN_EMPTY;
        item_fail(item, NV_HUB_ERROR_ArgumentInvalid, "moduleId is not a module id");
        return false;
    }
    return true;
}

static void write_ids(nv_json_writer *w, const char *name, const nv_identity_spec *spec)
{
    nv_json_key(w, name);
    nv_json_string(w, spec->device_id);
    if (spec->module_id.len > 0) {
        nv_json_key(w, "moduleId");
        nv_json_string(w, spec->module_id);
    }
}

static void write_error(nv_json_writer *w, const char *id_name, const nv_registry_request *request)
{
    const nv_hub_error_info *info = nv_hub_error_info_of(request->error);
    nv_json_begin_object(w);
    write_ids(w, id_name, &request->spec);
    nv_json_key(w, "errorCode");
    nv_json_str(w, info->name);
    nv_json_key(w, "errorStatus");
    nv_json_str(w, request->detail[0] ? request->detail : info->text);
    nv_json_end_object(w);
}

static void send_bulk(bulk_op *op, const nv_json_writer *w, unsigned status, const char *error_name)
{
    if (w->err != NV_OK) {
        nv_http_fail(op->x, NV_HUB_ERROR_ServerError, "the answer is larger than the limit");
        return;
    }
    nv_http_send(op->x, &(nv_http_reply){.status = status, .error_name = error_name, .body = nv_buf_span(w->out)});
}

/* ---- bulk ---------------------------------------------------------------------------------------------------- */

typedef struct import_mode {
    const char *name;
    int verb; /* nv_registry_verb, or -1: a twin operation */
    bool if_match;
} import_mode;

static const import_mode import_modes[] = {
    {"create", NV_REGISTRY_PUT, false},
    {"update", NV_REGISTRY_PUT, false},
    {"updateIfMatchETag", NV_REGISTRY_PUT, true},
    {"delete", NV_REGISTRY_DELETE, false},
    {"deleteIfMatchETag", NV_REGISTRY_DELETE, true},
    {"createOrUpdate", NV_REGISTRY_UPSERT, false},
    {"createOrUpdateIfMatchETag", NV_REGISTRY_UPSERT, true},
    {"updateTwin", -1, false},
    {"updateTwinIfMatchETag", -1, true},
};

static const import_mode *import_mode_of(struct json_object *tree)
{
    nv_span name = NV_SPAN_EMPTY;
    if (!nv_json_as_string(nv_json_member(tree, "importMode"), &name)) {
        return NULL;
    }
    for (size_t i = 0; i < NV_COUNT_OF(import_modes); i++) {
        if (nv_span_eq_nocase(name, nv_span_str(import_modes[i].name))) {
            return &import_modes[i];
        }
    }
    return NULL;
}

/** A missing eTag counts as `*` (http-hub.md section 7: it was accepted). */
static void read_precondition(bulk_item *item, const import_mode *mode, struct json_object *tree)
{
    nv_span etag = NV_SPAN_EMPTY;
    nv_registry_request *request = &item->request;
    if (mode->if_match && nv_json_as_string(nv_json_member(tree, "eTag"), &etag)) {
        request->precondition = nv_etag_parse(etag, &request->etag);
    }
    if (request->precondition == NV_IF_NONE && request->verb != NV_REGISTRY_UPSERT && mode != &import_modes[0]) {
        request->precondition = NV_IF_ANY;
    }
}

/** The item as text is a twin among other members. It lives as long as the tree. */
static nv_span item_text(struct json_object *tree)
{
    size_t len = 0;
    const char *text =
        json_object_to_json_string_length(tree, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);
    return nv_span_of(text, len);
}

static void read_twin(bulk_item *item, const import_mode *mode, struct json_object *tree)
{
    nv_span etag = NV_SPAN_EMPTY;
    nv_span bare;
    item->is_twin = true;
    item->twin = (nv_twin_request){.verb = NV_TWIN_PATCH, .body = item_text(tree)};
    if (mode->if_match && nv_json_as_string(nv_json_member(tree, "twinETag"), &etag)) {
        item->twin.precondition = nv_if_match_parse(etag, &bare);
        if (item->twin.precondition == NV_IF_ETAG && !nv_twin_etag_parse(bare, &item->twin.etag)) {
            item->twin.etag = UINT64_MAX; /* no twin counts that far */
        }
    }
}

static void read_item(bulk_item *item, struct json_object *tree)
{
    if (!json_object_is_type(tree, json_type_object)) {
        item_fail(item, NV_HUB_ERROR_ArgumentInvalid, "An item is a JSON object");
        return;
    }
    if (!read_ids(item, tree)) {
        return;
    }
    const import_mode *mode = import_mode_of(tree);
    if (!mode) {
        item_fail(item, NV_HUB_ERROR_ArgumentInvalid, "importMode is missing or unknown");
        return;
    }
    if (mode->verb < 0) {
        read_twin(item, mode, tree);
        return;
    }
    if (nv_module_id_is_system(item->request.spec.module_id)) {
        item_fail(item, NV_HUB_ERROR_ArgumentInvalid, "Module ids that begin with $ belong to the hub");
        return;
    }
    item->request.verb = (nv_registry_verb)mode->verb;
    read_precondition(item, mode, tree);
    if (item->request.verb == NV_REGISTRY_DELETE) {
        return;
    }
    char detail[200];
    nv_hub_error error = nv_identity_read_json(tree, &item->request.spec, detail);
    if (error != NV_HUB_ERROR_NONE) {
        item_fail(item, error, detail);
    }
    if (nv_json_member(tree, "tags") || nv_json_member(tree, "properties")) {
        item->request.twin = item_text(tree);
    }
}

/**
 * An identity that an earlier item names fails; of a device with several identities the order is kept, because a
 * module needs its device.
 */
static void find_repeated(bulk_op *op)
{
    nv_map identities;
    nv_map devices;
    nv_map_init(&identities, nv_rng_u64(op->x->hub->rng));
    nv_map_init(&devices, nv_rng_u64(op->x->hub->rng));
    char(*keys)[2 * NV_ID_MAX + 2] = nv_calloc(op->count, sizeof(*keys));
    for (size_t i = 0; i < op->count; i++) {
        bulk_item *item = &op->items[i];
        const nv_identity_spec *spec = &item->request.spec;
        if (spec->device_id.len == 0) {
            continue;
        }
        nv_span key = nv_span_of(keys[i], nv_identity_key(spec->device_id, spec->module_id, keys[i]));
        op->in_sequence = nv_map_put(&devices, spec->device_id, item) != NULL || op->in_sequence;
        if (nv_map_put(&identities, key, item) && item->request.error == NV_HUB_ERROR_NONE) {
            item_fail(item, NV_HUB_ERROR_DeviceDefinedMultipleTimes, "");
        }
    }
    nv_map_deinit(&identities);
    nv_map_deinit(&devices);
    free(keys);
}

static void show_bulk(bulk_op *op, nv_json_writer *w, size_t failed)
{
    nv_json_begin_object(w);
    nv_json_key(w, "isSuccessful");
    nv_json_bool(w, failed == 0);
    nv_json_key(w, "errors");
    nv_json_begin_array(w);
    for (size_t i = 0; i < op->count; i++) {
        if (op->items[i].request.error != NV_HUB_ERROR_NONE) {
            write_error(w, "deviceId", &op->items[i].request);
        }
    }
    nv_json_end_array(w);
    nv_json_key(w, "warnings"); /* an identity is made with its twin or not at all */
    nv_json_begin_array(w);
    nv_json_end_array(w);
    nv_json_end_object(w);
    send_bulk(op, w, failed ? 400 : 200, failed ? "BulkRegistryOperationFailure" : NULL);
}

/** @return false: the exchange has ended */
static bool op_items(bulk_op *op, struct json_object *array, const char *what)
{
    nv_http_exchange *x = op->x;
    char detail[100];
    size_t count = json_object_is_type(array, json_type_array) ? json_object_array_length(array) : 0;
    if (count == 0 || (int64_t)count > x->hub->limits.bulk_items) {
        (void)snprintf(detail, sizeof(detail), "%s is an array of 1 to %lld items", what,
                       (long long)x->hub->limits.bulk_items);
        nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid, detail);
        return false;
    }
    op->items = nv_calloc(count, sizeof(*op->items));
    op->count = count;
    for (size_t i = 0; i < count; i++) {
        op->items[i].op = op;
    }
    return true;
}

static bulk_op *bulk_op_new(nv_http_exchange *x)
{
    bulk_op *op = nv_calloc(1, sizeof(*op));
    op->x = x;
    x->op = op;
    x->op_free = bulk_op_free;
    return op;
}

void nv_http_devices_bulk(nv_http_exchange *x)
{
    bulk_op *op = bulk_op_new(x);
    if (!nv_http_body_json(x, &op->tree) || !op_items(op, op->tree, "The body")) {
        return;
    }
    op->show = show_bulk;
    for (size_t i = 0; i < op->count; i++) {
        read_item(&op->items[i], json_object_array_get_idx(op->tree, i));
    }
    find_repeated(op);
    run_items(op);
}

/* ---- key rotation -------------------------------------------------------------------------------------------- */

static void write_rotated(nv_json_writer *w, const nv_registry_request *request)
{
    const nv_identity *identity = request->identity;
    nv_json_begin_object(w);
    write_ids(w, "id", &request->spec);
    nv_json_key(w, "primaryKey");
    nv_json_base64(w, nv_span_of(identity->primary_key.bytes, identity->primary_key.len));
    nv_json_key(w, "secondaryKey");
    nv_json_base64(w, nv_span_of(identity->secondary_key.bytes, identity->secondary_key.len));
    nv_json_end_object(w);
}

static void show_rotation(bulk_op *op, nv_json_writer *w, size_t failed)
{
    nv_json_begin_object(w);
    nv_json_key(w, "policyKey");
    nv_json_str(w, op->policy_key);
    nv_json_key(w, "rotatedKeys");
    nv_json_begin_array(w);
    for (size_t i = 0; i < op->count; i++) {
        if (op->items[i].request.error == NV_HUB_ERROR_NONE) {
            write_rotated(w, &op->items[i].request);
        }
    }
    nv_json_end_array(w);
    nv_json_key(w, "errors");
    nv_json_begin_array(w);
    for (size_t i = 0; i < op->count; i++) {
        if (op->items[i].request.error != NV_HUB_ERROR_NONE) {
            write_error(w, "id", &op->items[i].request);
        }
    }
    nv_json_end_array(w);
    nv_json_end_object(w);
    bool none = failed == op->count;
    send_bulk(op, w, failed == 0 ? 200 : none ? 400 : 207, none ? "BulkRegistryOperationFailure" : NULL);
}

/** @return NV_REGENERATE_* and the name as it is echoed; 0: not one of them */
static uint32_t read_policy_key(struct json_object *tree, const char **name)
{
    static const struct {
        const char *name;
        uint32_t keys;
    } rows[] = {{"primaryKey", NV_REGENERATE_PRIMARY},
                {"secondaryKey", NV_REGENERATE_SECONDARY},
                {"both", NV_REGENERATE_PRIMARY | NV_REGENERATE_SECONDARY}};
    nv_span text = NV_SPAN_EMPTY;
    if (!nv_json_as_string(nv_json_member(tree, "policyKey"), &text)) {
        return 0;
    }
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        if (nv_span_eq_nocase(text, nv_span_str(rows[i].name))) {
            *name = rows[i].name;
            return rows[i].keys;
        }
    }
    return 0;
}

void nv_http_keys_regenerate(nv_http_exchange *x)
{
    bulk_op *op = bulk_op_new(x);
    if (!nv_http_body_json(x, &op->tree)) {
        return;
    }
    uint32_t keys = read_policy_key(op->tree, &op->policy_key);
    if (keys == 0) {
        nv_http_fail(x, NV_HUB_ERROR_ArgumentInvalid, "policyKey is primaryKey, secondaryKey or both");
        return;
    }
    struct json_object *devices = nv_json_member(op->tree, "devices");
    if (!op_items(op, devices, "devices")) {
        return;
    }
    op->show = show_rotation;
    for (size_t i = 0; i < op->count; i++) {
        bulk_item *item = &op->items[i];
        struct json_object *tree = json_object_array_get_idx(devices, i);
        item->request.verb = NV_REGISTRY_REGENERATE;
        item->request.regenerate = keys;
        if (!json_object_is_type(tree, json_type_object)) {
            item_fail(item, NV_HUB_ERROR_ArgumentInvalid, "An item is a JSON object");
        } else {
            (void)read_ids(item, tree);
        }
    }
    find_repeated(op);
    run_items(op);
}
