/* Faults that a device asks for by the SDKs' own message properties; only with testing.fault_injection. */
#include "session/mqtt_device_internal.h"

#include "base/alloc.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

void mqtt_fault_order(mqtt_device *m, nv_span properties)
{
    nv_fault_order order;
    if (!nv_fault_read(properties, &order) || nv_fault_is_amqp(order.kind)) {
        return;
    }
    if (!m->fault) {
        m->fault = nv_calloc(1, sizeof(*m->fault));
    } else if (m->fault->active) {
        return; /* held back, the message comes again when the fault is over */
    }
    *m->fault = (mqtt_fault){.order = order, .at_us = m->heard_us + order.delay_us};
    mqtt_update_deadline(m, m->heard_us);
    nv_subject subject = mqtt_subject(m);
    nv_diag(NV_LEVEL_INFO, "mqtt", &subject, "fault asked for: %s in %" PRId64 " ms for %" PRId64 " ms (%s)",
            nv_fault_name(order.kind), order.delay_us / NV_US_PER_MS, order.duration_us / NV_US_PER_MS, order.reason);
}

static void end_for_fault(mqtt_device *m)
{
    char detail[NV_REFUSAL_DETAIL];
    (void)snprintf(detail, sizeof(detail), "%s: %s", nv_fault_name(m->fault->order.kind), m->fault->order.reason);
    mqtt_end_for(m, NV_REFUSAL_FAULT, detail);
}

bool mqtt_fault_allows(mqtt_device *m)
{
    if (!m->fault->active) {
        return true;
    }
    if (m->fault->order.kind == NV_FAULT_THROTTLE) { /* delayed before anything is dropped (mqtt.md section 11) */
        m->blocked = true;
        m->session.reading = false;
    } else {
        end_for_fault(m);
    }
    return false;
}

static void forget(mqtt_device *m)
{
    free(m->fault);
    m->fault = NULL;
    m->blocked = false; /* if the log blocks, too, it will say so again */
    mqtt_update_reading(m);
}

bool mqtt_fault_tick(mqtt_device *m, int64_t now_us)
{
    mqtt_fault *fault = m->fault;
    if (now_us < fault->at_us) {
        return true;
    }
    if (fault->active) {
        forget(m);
        return true;
    }
    int64_t until_us = now_us + fault->order.duration_us;
    nv_faults_set(mqtt_hub(m)->faults, m->identity->device_id, m->identity->module_id, fault->order.kind, until_us);
    if (fault->order.kind == NV_FAULT_THROTTLE || fault->order.kind == NV_FAULT_QUOTA) {
        fault->active = true;
        fault->at_us = until_us;
        return true;
    }
    if (fault->order.kind == NV_FAULT_SHUT_DOWN_MQTT) { /* in order: as if DISCONNECT had been said, no will */
        free(m->will);
        m->will = NULL;
    }
    end_for_fault(m);
    return false;
}

bool mqtt_fault_refuses(mqtt_device *m)
{
    nv_hub *hub = mqtt_hub(m);
    int64_t now_us = nv_mono_us(hub->clock);
    int64_t until_us = 0;
    if (NV_LIKELY(!hub->faults)) {
        return false;
    }
    nv_fault_kind kind = nv_faults_get(hub->faults, m->identity->device_id, m->identity->module_id, now_us, &until_us);
    if (kind != NV_FAULT_KILL_TCP && kind != NV_FAULT_SHUT_DOWN_MQTT && kind != NV_FAULT_AUTH) {
        return false;
    }
    char detail[NV_REFUSAL_DETAIL];
    (void)snprintf(detail, sizeof(detail), "%s, for another %" PRId64 " ms", nv_fault_name(kind),
                   (until_us - now_us) / NV_US_PER_MS);
    nv_hub_refuse(hub, "mqtt", m->session.carrier->peer, m->identity->device_id, m->identity->module_id,
                  NV_REFUSAL_FAULT, detail);
    mqtt_refuse_connect(m, kind == NV_FAULT_AUTH ? NV_MQTT_REFUSED_UNAUTHORIZED : NV_MQTT_REFUSED_UNAVAILABLE);
    return true;
}

void mqtt_fault_resume(mqtt_device *m)
{
    nv_hub *hub = mqtt_hub(m);
    int64_t until_us = 0;
    if (NV_LIKELY(!hub->faults)) {
        return;
    }
    nv_fault_kind kind =
        nv_faults_get(hub->faults, m->identity->device_id, m->identity->module_id, nv_mono_us(hub->clock), &until_us);
    if (kind == NV_FAULT_THROTTLE || kind == NV_FAULT_QUOTA) {
        m->fault = nv_calloc(1, sizeof(*m->fault));
        *m->fault = (mqtt_fault){.order = {.kind = kind}, .at_us = until_us, .active = true};
    }
}
