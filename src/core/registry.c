/*
 * The registry: requests of the sessions become operations of the state store.
 *
 *   loop: check the request, make keys          store's thread: rules against the row, write   loop: cache, tell the
 *         (nv_rules_check) --------------------------> (run_*) ---------------- commit ------------> devices, done
 *
 * A rule is decided inside the transaction that writes, so that of two writers with the same ETag exactly one wins.
 */
#include "core/registry.h"

#include "base/alloc.h"
#include "core/devices.h"
#include "core/events.h"
#include "core/lifecycle.h"
#include "core/registry_cache.h"
#include "core/registry_rules.h"
#include "core/twin.h"

#include <stdlib.h>

/* Etags begin somewhere in nine digits, as the service's do: one of a deleted identity hardly fits its successor. */
#define ETAG_START_RANGE UINT64_C(900000000)
#define ETAG_START_MIN   UINT64_C(100000000)

static const char *const system_modules[] = {"$edgeAgent", "$edgeHub"};

nv_registry *nv_registry_new(size_t cache_bytes, uint64_t seed)
{
    nv_registry *registry = nv_calloc(1, sizeof(*registry));
    nv_cache_init(&registry->cache, cache_bytes, seed);
    return registry;
}

void nv_registry_free(nv_registry *registry)
{
    if (registry) {
        nv_cache_deinit(&registry->cache);
        free(registry);
    }
}

/* ---- one identity ---- */

/* What a refusal returns from run(): the store itself never does. */
#define REFUSED NV_E_INVALID

typedef struct change {
    nv_state_op op;
    nv_registry_request *request;
    nv_registry *registry;
    nv_rules_fresh fresh;
    uint64_t etags[NV_COUNT_OF(system_modules)];
    uint64_t mark; /* GET: of the cache */
    /* what run() found; it starts over each time it runs */
    uint64_t number;
    nv_verdict verdict;
    nv_identity *identity; /* what is now */
    bool modules_too;
    bool system_modules_removed;
    bool told; /* events were put */
    nv_arena arena;
} change;

static void start_over(change *self)
{
    self->verdict = (nv_verdict){.error = NV_HUB_ERROR_NONE};
    nv_identity_unref(self->identity);
    self->identity = NULL;
    self->modules_too = self->system_modules_removed = self->told = false;
    nv_arena_reset(&self->arena);
}

static void change_free(change *self)
{
    nv_identity_unref(self->identity);
    nv_arena_deinit(&self->arena);
    nv_wipe(self, sizeof(*self));
    free(self);
}

static nv_err keep_snapshot(change *self, const nv_identity_row *row)
{
    self->identity = nv_rules_snapshot(row);
    return self->identity ? NV_OK : NV_E_CORRUPT;
}

/*
 * The identity's row, *current = NULL when absent. For a module under SAS a missing or disabled device is 401, not 404
 * (http-hub.md section 2.5).
 */
static nv_err load_current(change *self, nv_txn *txn, nv_identity_row *row, nv_identity_row **current)
{
    const nv_identity_spec *spec = &self->request->spec;
    *current = NULL;
    if (spec->module_id.len) {
        nv_identity_row device;
        nv_err err = nv_txn_identity_get(txn, spec->device_id, NV_SPAN_EMPTY, &device);
        if (err == NV_E_NOT_FOUND || (err == NV_OK && !device.enabled)) {
            (void)nv_verdict_refuse(&self->verdict, NV_HUB_ERROR_IotHubUnauthorizedAccess, "%s", "");
            return REFUSED;
        }
        if (err != NV_OK) {
            return err;
        }
    }
    nv_err err = nv_txn_identity_get(txn, spec->device_id, spec->module_id, row);
    *current = err == NV_OK ? row : NULL;
    if (err != NV_OK && err != NV_E_NOT_FOUND) {
        return err;
    }
    return nv_rules_precondition(self->request, *current, &self->verdict) ? NV_OK : REFUSED;
}

static nv_err run_get(nv_state_op *op, nv_txn *txn)
{
    change *self = nv_container_of(op, change, op);
    nv_identity_row row;
    nv_identity_row *current;
    start_over(self);
    nv_err err = load_current(self, txn, &row, &current);
    return err == NV_OK ? keep_snapshot(self, &row) : err;
}

/* Limits for one more identity. */
static nv_err check_room(change *self, nv_txn *txn)
{
    const nv_limits *limits = &self->request->_loop->hub->limits;
    const nv_identity_spec *spec = &self->request->spec;
    nv_state_counts counts = nv_txn_counts(txn);
    uint64_t added = 1 + (spec->iot_edge && spec->module_id.len == 0 ? NV_COUNT_OF(system_modules) : 0);
    if (limits->devices > 0 && counts.devices + counts.modules + added > (uint64_t)limits->devices) {
        (void)nv_verdict_refuse(&self->verdict, NV_HUB_ERROR_TooManyDevices, "%s", "");
        return REFUSED;
    }
    if (spec->module_id.len == 0) {
        return NV_OK;
    }
    uint64_t modules = 0;
    nv_err err = nv_txn_module_count(txn, spec->device_id, &modules);
    if (err == NV_OK && modules >= (uint64_t)limits->modules_per_device) {
        (void)nv_verdict_refuse(&self->verdict, NV_HUB_ERROR_TooManyModulesOnDevice, "%s", "");
        return REFUSED;
    }
    return err;
}

static nv_err tell_departure(change *self, nv_txn *txn, nv_span device_id, nv_span module_id)
{
    const nv_hub *hub = self->request->_loop->hub;
    nv_identity_row row;
    if (!nv_events_wanted(hub, NV_SOURCE_LIFECYCLE)) {
        return NV_OK;
    }
    nv_err err = nv_txn_identity_get(txn, device_id, module_id, &row);
    return err == NV_OK ? nv_lifecycle_put(hub, txn, &row, false, &self->told) : err == NV_E_NOT_FOUND ? NV_OK : err;
}

/* An edge device has its two modules from the moment it is one, and loses them with the role. */
static nv_err follow_role(change *self, nv_txn *txn, const nv_identity_row *row, bool was_edge)
{
    const nv_hub *hub = self->request->_loop->hub;
    nv_err err = NV_OK;
    for (size_t i = 0; err == NV_OK && row->iot_edge != was_edge && i < NV_COUNT_OF(system_modules); i++) {
        nv_span id = nv_span_str(system_modules[i]);
        if (row->iot_edge) {
            nv_identity_row module =
                nv_rules_system_module(row->device_id, system_modules[i], nv_txn_generation(txn), self->etags[i]);
            err = nv_txn_identity_put(txn, &module);
            err = err == NV_OK ? nv_lifecycle_put(hub, txn, &module, true, &self->told) : err;
        } else {
            err = tell_departure(self, txn, row->device_id, id);
            err = err == NV_OK ? nv_txn_identity_delete(txn, row->device_id, id) : err;
        }
    }
    self->system_modules_removed = was_edge && !row->iot_edge;
    return err;
}

static nv_err run_put(nv_state_op *op, nv_txn *txn)
{
    change *self = nv_container_of(op, change, op);
    nv_identity_row old;
    nv_identity_row row;
    nv_identity_row *current;
    start_over(self);
    nv_err err = load_current(self, txn, &old, &current);
    err = err == NV_OK && !current ? check_room(self, txn) : err;
    if (err != NV_OK) {
        return err;
    }
    self->number = nv_registry_number(self->registry);
    self->fresh.generation = current ? 0 : nv_txn_generation(txn);
    if (!nv_rules_build(&self->request->spec, current, &self->fresh, &self->arena, &row, &self->verdict)) {
        return REFUSED;
    }
    bool is_device = row.module_id.len == 0;
    err = nv_txn_identity_put(txn, &row);
    if (err == NV_OK && !current && self->request->twin.len) {
        err = nv_twin_create(self->request->_loop->hub, txn, row.device_id, row.module_id, self->request->twin,
                             &self->verdict.error, self->verdict.detail);
    }
    if (err == NV_OK && !current) {
        err = nv_lifecycle_put(self->request->_loop->hub, txn, &row, true, &self->told);
    }
    if (err == NV_OK && is_device) {
        self->modules_too = current && current->enabled != row.enabled;
        err = follow_role(self, txn, &row, current && current->iot_edge);
    }
    return err == NV_OK ? keep_snapshot(self, &row) : err;
}

static nv_err run_delete(nv_state_op *op, nv_txn *txn)
{
    change *self = nv_container_of(op, change, op);
    const nv_identity_spec *spec = &self->request->spec;
    nv_identity_row row;
    nv_identity_row *current;
    start_over(self);
    nv_err err = load_current(self, txn, &row, &current);
    self->number = nv_registry_number(self->registry);
    self->modules_too = spec->module_id.len == 0;
    err = err == NV_OK ? nv_lifecycle_put(self->request->_loop->hub, txn, &row, false, &self->told) : err;
    return err == NV_OK ? nv_txn_identity_delete(txn, spec->device_id, spec->module_id) : err;
}

static nv_err run_regenerate(nv_state_op *op, nv_txn *txn)
{
    change *self = nv_container_of(op, change, op);
    nv_identity_row row;
    nv_identity_row *current;
    start_over(self);
    nv_err err = load_current(self, txn, &row, &current);
    if (err != NV_OK) {
        return err;
    }
    if (row.auth != NV_AUTH_SAS) {
        (void)nv_verdict_refuse(&self->verdict, NV_HUB_ERROR_InvalidOperation,
                                "The identity does not authenticate by symmetric keys");
        return REFUSED;
    }
    self->number = nv_registry_number(self->registry);
    row.etag++;
    if (self->request->regenerate & NV_REGENERATE_PRIMARY) {
        row.primary_key = nv_span_of(self->fresh.primary_key.bytes, self->fresh.primary_key.len);
    }
    if (self->request->regenerate & NV_REGENERATE_SECONDARY) {
        row.secondary_key = nv_span_of(self->fresh.secondary_key.bytes, self->fresh.secondary_key.len);
    }
    err = nv_txn_identity_put(txn, &row);
    return err == NV_OK ? keep_snapshot(self, &row) : err;
}

/* ---- completion, on the loop ---- */

static void publish(change *self)
{
    nv_registry_request *request = self->request;
    nv_hub *hub = request->_loop->hub;
    const nv_identity_spec *spec = &request->spec;
    nv_cache_change(&self->registry->cache, self->number, spec->device_id, spec->module_id, self->identity,
                    self->modules_too);
    nv_devices_changed(hub, spec->device_id, spec->module_id, self->identity);
    for (size_t i = 0; self->system_modules_removed && i < NV_COUNT_OF(system_modules); i++) {
        nv_span id = nv_span_str(system_modules[i]);
        nv_cache_change(&self->registry->cache, self->number, spec->device_id, id, NULL, false);
        nv_devices_changed(hub, spec->device_id, id, NULL);
    }
}

static void finish_request(change *self)
{
    nv_registry_request *request = self->request;
    request->error = self->verdict.error;
    memcpy(request->detail, self->verdict.detail, sizeof(request->detail));
    request->identity = request->error == NV_HUB_ERROR_NONE ? self->identity : NULL;
    self->identity = request->identity ? NULL : self->identity;
    change_free(self);
    request->_op = NULL;
    request->done(request);
}

static void change_done(nv_state_op *op)
{
    change *self = nv_container_of(op, change, op);
    if (op->status == NV_OK && self->request->verb == NV_REGISTRY_GET) {
        nv_cache_learn(&self->registry->cache, self->identity, self->mark);
    } else if (op->status == NV_OK) {
        publish(self);
        if (self->told) {
            nv_events_committed(self->request->_loop->hub);
        }
    } else if (op->status != REFUSED) {
        /* what run() decided does not count: the transaction failed */
        self->verdict = (nv_verdict){.error = nv_hub_error_of(op->status)};
    }
    finish_request(self);
}

static void finish_task(nv_task *task)
{
    nv_registry_request *request = nv_container_of(task, nv_registry_request, _task);
    finish_request(request->_op);
}

static void make_fresh(change *self, nv_hub *hub)
{
    nv_key *const keys[] = {&self->fresh.primary_key, &self->fresh.secondary_key};
    for (size_t i = 0; i < NV_COUNT_OF(keys); i++) {
        keys[i]->len = NV_GENERATED_KEY_BYTES;
        nv_rng_fill(hub->rng, keys[i]->bytes, NV_GENERATED_KEY_BYTES);
    }
    self->fresh.etag = ETAG_START_MIN + nv_rng_u64(hub->rng) % ETAG_START_RANGE;
    for (size_t i = 0; i < NV_COUNT_OF(self->etags); i++) {
        self->etags[i] = ETAG_START_MIN + nv_rng_u64(hub->rng) % ETAG_START_RANGE;
    }
    self->fresh.now_us = nv_wall_us(hub->clock);
}

static nv_err submit(change *self, nv_hub *hub)
{
    switch (self->request->verb) {
    case NV_REGISTRY_GET:
        self->op.run = run_get;
        return nv_state_read(hub->state, &self->op);
    case NV_REGISTRY_PUT:
    case NV_REGISTRY_UPSERT:
        make_fresh(self, hub);
        self->op.run = run_put;
        break;
    case NV_REGISTRY_DELETE:
        self->op.run = run_delete;
        break;
    case NV_REGISTRY_REGENERATE:
        make_fresh(self, hub);
        self->op.run = run_regenerate;
        break;
    }
    return nv_state_write(hub->state, &self->op);
}

void nv_registry_do(nv_hub_loop *loop, nv_registry_request *request)
{
    nv_hub *hub = loop->hub;
    change *self = nv_calloc(1, sizeof(*self));
    self->op.exec = loop->exec;
    self->op.done = change_done;
    self->request = request;
    self->registry = hub->registry;
    request->_loop = loop;
    request->_op = self;
    request->_task.run = finish_task;
    request->identity = NULL;
    if (!nv_rules_check(request, &self->verdict)) {
        nv_post(loop->exec, &request->_task);
        return;
    }
    if (request->verb == NV_REGISTRY_GET) {
        const nv_identity_spec *spec = &request->spec;
        self->identity = nv_cache_find(&hub->registry->cache, spec->device_id, spec->module_id, &self->mark);
        /* A disabled device's modules are 401 to the service: the slow way tells. */
        if (self->identity && (spec->module_id.len == 0 || self->identity->enabled)) {
            nv_post(loop->exec, &request->_task);
            return;
        }
    }
    nv_err err = submit(self, hub);
    if (err != NV_OK) {
        self->verdict = (nv_verdict){.error = nv_hub_error_of(err)};
        nv_post(loop->exec, &request->_task);
    }
}

/* ---- lookup ---- */

typedef struct finding {
    nv_state_op op;
    nv_registry_find *find;
    nv_identity *identity;
    uint64_t mark;
} finding;

static nv_err run_find(nv_state_op *op, nv_txn *txn)
{
    finding *self = nv_container_of(op, finding, op);
    nv_identity_row row;
    nv_identity_unref(self->identity);
    self->identity = NULL;
    nv_err err = nv_txn_identity_get(txn, self->find->device_id, self->find->module_id, &row);
    if (err == NV_OK) {
        self->identity = nv_rules_snapshot(&row);
        err = self->identity ? NV_OK : NV_E_CORRUPT;
    }
    return err;
}

static void find_done(nv_state_op *op)
{
    finding *self = nv_container_of(op, finding, op);
    nv_registry_find *find = self->find;
    find->status = op->status;
    find->identity = self->identity;
    find->_op = NULL;
    if (find->status == NV_OK) {
        nv_cache_learn(&find->_loop->hub->registry->cache, find->identity, self->mark);
    }
    free(self);
    find->done(find);
}

nv_err nv_registry_lookup(nv_hub_loop *loop, nv_registry_find *find)
{
    nv_hub *hub = loop->hub;
    uint64_t mark;
    find->_loop = loop;
    find->_op = NULL;
    find->identity = NULL;
    if (find->device_id.len > NV_ID_MAX || find->module_id.len > NV_ID_MAX) {
        /* No such identity can be; the store answers it like any other. */
        mark = UINT64_MAX;
    } else {
        find->identity = nv_cache_find(&hub->registry->cache, find->device_id, find->module_id, &mark);
    }
    if (find->identity) {
        find->status = NV_OK;
        return NV_OK;
    }
    finding *self = nv_calloc(1, sizeof(*self));
    *self = (finding){.op = {.exec = loop->exec, .run = run_find, .done = find_done}, .find = find, .mark = mark};
    find->_op = self;
    nv_err err = nv_state_read(hub->state, &self->op);
    if (err != NV_OK) {
        free(self);
        find->_op = NULL;
        return err;
    }
    return NV_E_MORE;
}
