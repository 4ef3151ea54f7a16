#include "session/http_rig_device.h"

#include "core/method.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static void on_granted(nv_claim *claim)
{
    nv_rig_device *device = nv_container_of(claim, nv_rig_device, claim);
    nv_claim_want(claim, device->wants);
    device->connected = true;
}

static void on_evict(nv_claim *claim, nv_refusal why)
{
    (void)claim;
    (void)why;
}

static void on_released(nv_claim *claim)
{
    nv_container_of(claim, nv_rig_device, claim)->released = true;
}

static void on_deliver(nv_claim *claim, const nv_delivery *delivery)
{
    nv_rig_device *device = nv_container_of(claim, nv_rig_device, claim);
    (void)snprintf(device->name, sizeof(device->name), "%.*s", NV_SPAN_ARG(delivery->name));
    (void)snprintf(device->body, sizeof(device->body), "%.*s", NV_SPAN_ARG(delivery->body));
    if (delivery->kind == NV_DELIVER_METHOD) {
        assert_true(device->asked < NV_RIG_CALLS_MAX);
        device->calls[device->asked++] = delivery->call;
    } else {
        device->version = delivery->version;
        device->desired++;
        device->changed = true;
    }
}

static void on_found(nv_registry_find *find)
{
    *(bool *)find->arg = true;
}

void nv_rig_device_come(nv_rig_device *device, nv_rig_hub *on, const char *id, const char *module, uint32_t wants)
{
    nv_hub_loop *loop = &on->hub->loops[0];
    bool found = false;
    *device = (nv_rig_device){.on = on, .wants = wants};
    device->find = (nv_registry_find){
        .device_id = nv_span_str(id), .module_id = nv_span_str(module), .done = on_found, .arg = &found};
    nv_err err = nv_registry_lookup(loop, &device->find);
    if (err == NV_E_MORE) {
        nv_rig_hub_run(on, &found);
        err = device->find.status;
    }
    assert_int_equal(err, NV_OK);
    device->claim =
        (nv_claim){.identity = device->find.identity, .granted = on_granted, .evict = on_evict, .deliver = on_deliver};
    nv_claim_ask(loop, &device->claim);
    nv_rig_hub_run(on, &device->connected);
    nv_rig_hub_run(on, NULL); /* what it wants is known */
}

void nv_rig_device_leave(nv_rig_device *device)
{
    if (!device->connected) {
        return;
    }
    nv_claim_release(&device->claim, on_released);
    nv_rig_hub_run(device->on, &device->released);
    nv_identity_unref(device->find.identity);
    device->connected = false;
}

void nv_rig_device_wait(nv_rig_device *device, size_t count)
{
    (void)nv_exec_queue_run(&device->on->queue);
    while (device->asked < count) {
        assert_true(nv_exec_queue_run_wait(&device->on->queue));
    }
}

void nv_rig_device_answer(nv_rig_device *device, size_t which, int64_t status, const char *payload)
{
    assert_true(which < device->asked);
    nv_method_answer(&device->claim, device->calls[which], status, nv_span_str(payload));
    nv_rig_hub_run(device->on, NULL);
}

void nv_rig_device_wait_desired(nv_rig_device *device)
{
    nv_rig_hub_run(device->on, &device->changed);
    device->changed = false;
}
