/*
 * Faults that a device asks for by the SDKs' own message properties; only with testing.fault_injection. Throttling and
 * the quota are outcomes here, because AMQP has them: the SDKs try again, or tell their caller (amqp.md section 3.10).
 */
#include "session/amqp/device_links.h"

#include "base/alloc.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* Those that the identity is in for a while; the others happen once. */
static bool lasts(nv_fault_kind kind)
{
    return !nv_fault_is_amqp(kind) || kind == NV_FAULT_SHUT_DOWN_AMQP;
}

static void detach(amqp_device_link *self, const char *text)
{
    if (!self) {
        return;
    }
    amqp_device *device = self->device;
    nv_amqp_link *link = self->link;
    amqp_device_operation_begin(device);
    amqp_device_link_remove(self);
    self->end(self);
    nv_amqp_link_detach(link, NV_AMQP_ERR_DETACH_FORCED, text);
    amqp_device_operation_end(device);
}

static void end_session(const amqp_device *device, const char *text)
{
    const amqp_device_link *any = amqp_telemetry_link(device);
    if (any) {
        nv_amqp_session_end(any->link->session, NV_AMQP_ERR_INTERNAL_ERROR, text);
    }
}

static void happen(amqp_device *device, nv_fault_kind kind, const char *text)
{
    amqp_server *s = device->server;
    switch (kind) {
    case NV_FAULT_KILL_TCP:
    case NV_FAULT_SHUT_DOWN_AMQP:
    case NV_FAULT_AUTH:
        amqp_server_fault(s, kind, text);
        return;
    case NV_FAULT_AMQP_CONNECTION:
        nv_amqp_conn_close(&s->conn, NV_AMQP_ERR_CONNECTION_FORCED, text);
        return;
    case NV_FAULT_AMQP_SESSION:
        end_session(device, text);
        return;
    case NV_FAULT_AMQP_CBS_REQUEST:
    case NV_FAULT_AMQP_CBS_RESPONSE:
        amqp_cbs_detach(s, kind == NV_FAULT_AMQP_CBS_REQUEST, NV_AMQP_ERR_DETACH_FORCED, text);
        return;
    case NV_FAULT_AMQP_D2C:
        detach(amqp_telemetry_link(device), text);
        return;
    case NV_FAULT_AMQP_C2D:
        detach(amqp_devicebound_link(device), text);
        return;
    case NV_FAULT_AMQP_TWIN_REQUEST:
    case NV_FAULT_AMQP_TWIN_RESPONSE:
        detach(amqp_pair_half(device->twin, kind == NV_FAULT_AMQP_TWIN_REQUEST), text);
        return;
    case NV_FAULT_AMQP_METHOD_REQUEST:
    case NV_FAULT_AMQP_METHOD_RESPONSE:
        detach(amqp_pair_half(device->methods, kind == NV_FAULT_AMQP_METHOD_RESPONSE), text);
        return;
    case NV_FAULT_NONE:
    case NV_FAULT_SHUT_DOWN_MQTT:
    case NV_FAULT_THROTTLE:
    case NV_FAULT_QUOTA:
        return;
    }
}

static void due(nv_timer *timer, int64_t now_us)
{
    const amqp_fault *fault = nv_container_of(timer, amqp_fault, timer);
    amqp_device *device = fault->device;
    nv_fault_order order = fault->order; /* with the device, the fault may go */
    nv_hub *hub = amqp_hub(device->server);
    nv_span device_id = device->identity->device_id;
    nv_span module_id = device->identity->module_id;
    char text[NV_REFUSAL_DETAIL];
    (void)snprintf(text, sizeof(text), "%s: %s", nv_fault_name(order.kind), order.reason);
    nv_hub_refuse(hub, "amqp", device->server->conn.session.carrier->peer, device_id, module_id, NV_REFUSAL_FAULT,
                  text);
    if (lasts(order.kind)) {
        nv_faults_set(hub->faults, device_id, module_id, order.kind, now_us + order.duration_us);
    }
    happen(device, order.kind, text);
}

void amqp_fault_order(amqp_device *device, amqp_fault **fault, nv_span properties)
{
    nv_fault_order order;
    nv_hub_loop *loop = amqp_loop(device->server);
    if (!nv_fault_read(properties, &order) || order.kind == NV_FAULT_SHUT_DOWN_MQTT) {
        return;
    }
    if (!*fault) {
        *fault = nv_calloc(1, sizeof(**fault));
        (*fault)->device = device;
        nv_timer_init(&(*fault)->timer, due);
    }
    (*fault)->order = order;
    nv_timers_set(&loop->timers, &(*fault)->timer, nv_mono_us(loop->hub->clock) + order.delay_us);
    nv_subject subject = amqp_device_subject(device);
    nv_diag(NV_LEVEL_INFO, "amqp", &subject, "fault asked for: %s in %" PRId64 " ms for %" PRId64 " ms (%s)",
            nv_fault_name(order.kind), order.delay_us / NV_US_PER_MS, order.duration_us / NV_US_PER_MS, order.reason);
}

void amqp_fault_free(amqp_fault *fault)
{
    if (fault) {
        nv_timers_clear(&amqp_loop(fault->device->server)->timers, &fault->timer);
        free(fault);
    }
}

nv_fault_kind amqp_fault_now(const amqp_device *device)
{
    const nv_hub *hub = amqp_hub(device->server);
    int64_t until_us = 0;
    if (NV_LIKELY(!hub->faults)) {
        return NV_FAULT_NONE;
    }
    return nv_faults_get(hub->faults, device->identity->device_id, device->identity->module_id, nv_mono_us(hub->clock),
                         &until_us);
}

bool amqp_fault_rejects(const amqp_device *device, nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    nv_fault_kind kind = amqp_fault_now(device);
    char text[AMQP_DESCRIPTION];
    if (kind == NV_FAULT_THROTTLE) {
        amqp_describe(device->server, NV_HUB_ERROR_ThrottlingException, "", text);
        amqp_reject(link, delivery, NV_AMQP_ERR_DEVICE_CONTAINER_THROTTLED, text);
    } else if (kind == NV_FAULT_QUOTA) {
        amqp_describe(device->server, NV_HUB_ERROR_IotHubQuotaExceeded, "", text);
        amqp_reject(link, delivery, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED, text);
    }
    return kind == NV_FAULT_THROTTLE || kind == NV_FAULT_QUOTA;
}
