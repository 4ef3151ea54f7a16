/** What the links of devices share beyond server_internal.h: faults that a device orders, answers to a delivery. */
#ifndef NV_SESSION_AMQP_DEVICE_LINKS_H
#define NV_SESSION_AMQP_DEVICE_LINKS_H

#include "session/amqp/server_internal.h"

/** Settle a delivery at once; nothing when its sender has settled it. */
void amqp_reject(nv_amqp_link *link, const nv_amqp_delivery *delivery, nv_amqp_condition condition,
                 const char *description);
/** What a message cannot be taken for, as condition and sentence: an error of amqp_record_of_message(). */
void amqp_reject_unreadable(nv_amqp_link *link, const nv_amqp_delivery *delivery, nv_err err);
static inline void amqp_accept_one(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    if (!delivery->settled) {
        nv_amqp_link_accept_delivery(link, delivery->id);
    }
}

/** A string, symbol or binary of the peer's ATTACH properties. Empty: absent. Valid while link->attach is. */
nv_span amqp_link_property(const nv_amqp_link *link, const char *name);

static inline nv_subject amqp_device_subject(const amqp_device *device)
{
    return (nv_subject){.connection = device->server->conn.session.carrier->peer->connection_id,
                        .device = device->identity->device_id,
                        .module = device->identity->module_id};
}

/* ---- faults (device_fault.c) --------------------------------------------------------------------------------------
 */

/** A fault that waits for its delay; one per device, the last one ordered counts. */
typedef struct amqp_fault {
    nv_timer timer;
    nv_fault_order order;
    amqp_device *device;
} amqp_fault;

/** @p properties are those of a message that is about to be sent: note the fault they may ask for. */
void amqp_fault_order(amqp_device *device, amqp_fault **fault, nv_span properties);
void amqp_fault_free(amqp_fault *fault);
/** What the identity is in now. */
nv_fault_kind amqp_fault_now(const amqp_device *device);
/**
 * Throttled or over the quota: the delivery was rejected. Only where the hub has faults.
 * @return true: nothing more is to be done with it
 */
bool amqp_fault_rejects(const amqp_device *device, nv_amqp_link *link, const nv_amqp_delivery *delivery);

/* ---- links by their part, for faults: NULL where there is none -----------------------------------------------------
 */

amqp_device_link *amqp_telemetry_link(const amqp_device *device);
amqp_device_link *amqp_devicebound_link(const amqp_device *device);
/** Of amqp_device.twin or methods, NULL being fine. @p peer_sends: the one that the device sends on */
amqp_device_link *amqp_pair_half(const struct amqp_pair *pair, bool peer_sends);

#endif
