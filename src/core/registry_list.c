/* What the registry does over many identities: lists, counts, times. */
#include "core/registry.h"

#include "base/alloc.h"
#include "core/registry_cache.h"
#include "core/registry_rules.h"
#include "store/state.h"

#include <stdlib.h>

#define TOP_MAX 1000u

/* ---- lists ---- */

typedef struct listing {
    nv_state_op op;
    nv_registry_list *list;
    nv_identity **identities;
    size_t count;
    bool unauthorized;
} listing;

static void drop_identities(listing *self)
{
    for (size_t i = 0; i < self->count; i++) {
        nv_identity_unref(self->identities[i]);
    }
    self->count = 0;
}

static nv_err collect(void *arg, const nv_identity_row *row)
{
    listing *self = arg;
    nv_identity *identity = nv_rules_snapshot(row);
    if (!identity) {
        return NV_E_CORRUPT;
    }
    self->identities[self->count++] = identity;
    return NV_OK;
}

static nv_err run_list(nv_state_op *op, nv_txn *txn)
{
    listing *self = nv_container_of(op, listing, op);
    nv_registry_list *list = self->list;
    drop_identities(self);
    if (list->device_id.len == 0) {
        return nv_txn_devices(txn, list->after, list->top, collect, self);
    }
    nv_identity_row device;
    nv_err err = nv_txn_identity_get(txn, list->device_id, NV_SPAN_EMPTY, &device);
    self->unauthorized = err == NV_E_NOT_FOUND || (err == NV_OK && !device.enabled);
    if (self->unauthorized || err != NV_OK) {
        return err;
    }
    return nv_txn_modules(txn, list->device_id, list->after, list->top, collect, self);
}

static void finish_list(nv_registry_list *list, listing *self, nv_hub_error error)
{
    list->error = error;
    if (error != NV_HUB_ERROR_NONE) {
        drop_identities(self);
        free(self->identities);
        self->identities = NULL;
    }
    list->identities = self->identities;
    list->count = self->count;
    list->_op = NULL;
    free(self);
    list->done(list);
}

static void list_done(nv_state_op *op)
{
    listing *self = nv_container_of(op, listing, op);
    nv_hub_error error = op->status == NV_OK          ? NV_HUB_ERROR_NONE
                         : op->status == NV_E_CORRUPT ? NV_HUB_ERROR_ServerError
                                                      : NV_HUB_ERROR_ServiceUnavailable;
    finish_list(self->list, self, self->unauthorized ? NV_HUB_ERROR_IotHubUnauthorizedAccess : error);
}

static void list_refused(nv_task *task)
{
    nv_registry_list *list = nv_container_of(task, nv_registry_list, _task);
    finish_list(list, list->_op, NV_HUB_ERROR_ThrottlingException);
}

void nv_registry_list_get(nv_hub_loop *loop, nv_registry_list *list)
{
    listing *self = nv_calloc(1, sizeof(*self));
    list->top = list->top >= 1 && list->top <= TOP_MAX ? list->top : TOP_MAX;
    *self = (listing){.op = {.exec = loop->exec, .run = run_list, .done = list_done},
                      .list = list,
                      .identities = nv_calloc(list->top, sizeof(nv_identity *))};
    list->_loop = loop;
    list->_op = self;
    if (nv_state_read(loop->hub->state, &self->op) != NV_OK) {
        list->_task.run = list_refused;
        nv_post(loop->exec, &list->_task);
    }
}

/* ---- counts ---- */

static void count_task(nv_task *task)
{
    nv_registry_counts *counts = nv_container_of(task, nv_registry_counts, _task);
    nv_state_counts now = nv_state_counts_now(counts->_loop->hub->state);
    counts->error = NV_HUB_ERROR_NONE;
    counts->devices = now.devices;
    counts->enabled = now.devices_enabled;
    counts->done(counts);
}

void nv_registry_count(nv_hub_loop *loop, nv_registry_counts *counts)
{
    counts->_loop = loop;
    counts->_op = NULL;
    counts->_task.run = count_task;
    nv_post(loop->exec, &counts->_task);
}

/* ---- times ---- */

typedef struct saving {
    nv_state_op op;
    nv_task task;
    nv_registry *registry;
    void (*done)(void *arg, nv_err status);
    void *arg;
    uint64_t number;
    size_t count;
    nv_registry_seen seen[];
} saving;

static nv_err run_save(nv_state_op *op, nv_txn *txn)
{
    saving *self = nv_container_of(op, saving, op);
    nv_err err = NV_OK;
    self->number = nv_registry_number(self->registry);
    for (size_t i = 0; err == NV_OK && i < self->count; i++) {
        const nv_registry_seen *seen = &self->seen[i];
        uint64_t generation = 0;
        if (nv_span_to_u64(seen->identity->generation_id, &generation)) {
            err = nv_txn_seen_put(txn, seen->identity->device_id, seen->identity->module_id, generation,
                                  seen->connection_updated_us, seen->last_activity_us);
        }
    }
    return err;
}

static void save_finish(saving *self, nv_err status)
{
    for (size_t i = 0; i < self->count; i++) {
        const nv_registry_seen *seen = &self->seen[i];
        if (status == NV_OK) {
            nv_cache_change_times(&self->registry->cache, self->number, seen->identity, seen->connection_updated_us,
                                  seen->last_activity_us);
        }
        nv_identity_unref(seen->identity);
    }
    void (*done)(void *, nv_err) = self->done;
    void *arg = self->arg;
    free(self);
    if (done) {
        done(arg, status);
    }
}

static void save_done(nv_state_op *op)
{
    save_finish(nv_container_of(op, saving, op), op->status);
}

static void save_refused(nv_task *task)
{
    save_finish(nv_container_of(task, saving, task), NV_E_AGAIN);
}

void nv_registry_save_seen(nv_hub_loop *loop, const nv_registry_seen *seen, size_t count,
                           void (*done)(void *arg, nv_err status), void *arg)
{
    saving *self = nv_calloc(1, sizeof(*self) + count * sizeof(*seen));
    *self = (saving){.op = {.exec = loop->exec, .run = run_save, .done = save_done},
                     .task = {.run = save_refused},
                     .registry = loop->hub->registry,
                     .done = done,
                     .arg = arg,
                     .count = count};
    if (count) {
        memcpy(self->seen, seen, count * sizeof(*seen));
    }
    if (nv_state_write(loop->hub->state, &self->op) != NV_OK) {
        nv_post(loop->exec, &self->task);
    }
}
