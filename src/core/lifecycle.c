#include "core/lifecycle.h"

#include "core/events.h"
#include "core/twin.h"

#define BODY_MAX    (64u << 20) /* no twin is as large, metadata and all */
#define MODULES_MAX 1000u

static nv_err put_one(const nv_hub *hub, nv_txn *txn, const nv_identity_row *row, bool created)
{
    nv_buf body;
    nv_buf_init(&body, BODY_MAX);
    nv_err err = nv_twin_lifecycle_body(txn, row->device_id, row->module_id, &body);
    if (err == NV_OK) {
        const nv_event event = {.source = NV_SOURCE_LIFECYCLE,
                                .schema = "deviceLifecycleNotification",
                                .operation = created ? "createDeviceIdentity" : "deleteDeviceIdentity",
                                .device_id = row->device_id,
                                .module_id = row->module_id,
                                .generation = row->generation,
                                .operation_us = nv_wall_us(hub->clock),
                                .body = nv_buf_span(&body)};
        err = nv_events_put(hub, txn, &event);
    }
    nv_buf_deinit(&body);
    return err;
}

typedef struct departure {
    const nv_hub *hub;
    nv_txn *txn;
} departure;

static nv_err module_goes(void *arg, const nv_identity_row *row)
{
    const departure *self = arg;
    return put_one(self->hub, self->txn, row, false);
}

nv_err nv_lifecycle_put(const nv_hub *hub, nv_txn *txn, const nv_identity_row *row, bool created, bool *told)
{
    if (!nv_events_wanted(hub, NV_SOURCE_LIFECYCLE)) {
        return NV_OK;
    }
    nv_err err = NV_OK;
    if (!created && row->module_id.len == 0) {
        departure self = {hub, txn};
        err = nv_txn_modules(txn, row->device_id, NV_SPAN_EMPTY, MODULES_MAX, module_goes, &self);
    }
    err = err == NV_OK ? put_one(hub, txn, row, created) : err;
    *told = true;
    return err;
}
