/**
 * Faults that a device asks for, as the SDKs' own tests do by properties of a message (AzIoTHub_FaultOperationType and
 * its companions): the service acknowledges the message, waits for the delay, then misbehaves for the duration. Only
 * with `testing.fault_injection`; otherwise the properties mean nothing.
 */
#ifndef NV_CORE_FAULT_H
#define NV_CORE_FAULT_H

#include "base/span.h"

#include <stdint.h>

/* id, AzIoTHub_FaultOperationType, what happens */
#define NV_FAULT_TABLE(X)                                                                                              \
    X(NONE, "", "")                                                                                                    \
    X(KILL_TCP, "KillTcp", "the connection is cut; it cannot connect for the duration")                                \
    X(SHUT_DOWN_MQTT, "ShutDownMqtt", "the connection ends in order; it cannot connect for the duration")              \
    X(THROTTLE, "InvokeThrottling", "MQTT messages wait for the duration; others are refused as with 429")             \
    X(QUOTA, "InvokeMaxMessageQuota", "messages are refused for the duration: MQTT closes, others answer 403")         \
    X(SHUT_DOWN_AMQP, "ShutDownAmqp", "the AMQP connection is closed in order; no links for the duration")             \
    X(AMQP_CONNECTION, "KillAmqpConnection", "the AMQP connection is closed with an error")                            \
    X(AMQP_SESSION, "KillAmqpSession", "the session of the device's links is ended with an error")                     \
    X(AMQP_CBS_REQUEST, "KillAmqpCBSLinkReq", "the link for tokens is detached")                                       \
    X(AMQP_CBS_RESPONSE, "KillAmqpCBSLinkResp", "the link for answers to tokens is detached")                          \
    X(AMQP_D2C, "KillAmqpD2CLink", "the telemetry link is detached")                                                   \
    X(AMQP_C2D, "KillAmqpC2DLink", "the link for messages to the device is detached")                                  \
    X(AMQP_TWIN_REQUEST, "KillAmqpTwinLinkReq", "the link for twin requests is detached")                              \
    X(AMQP_TWIN_RESPONSE, "KillAmqpTwinLinkResp", "the link for twin answers is detached")                             \
    X(AMQP_METHOD_REQUEST, "KillAmqpMethodReqLink", "the link for method calls is detached")                           \
    X(AMQP_METHOD_RESPONSE, "KillAmqpMethodRespLink", "the link for answers to method calls is detached")              \
    X(AUTH, "InvokeAuthError", "the connection ends, and CONNECT is unauthorized for the duration")

typedef enum nv_fault_kind {
#define X(id, name, what) NV_FAULT_##id,
    NV_FAULT_TABLE(X)
#undef X
} nv_fault_kind;

/** The name on the wire. Static storage. */
const char *nv_fault_name(nv_fault_kind kind);
/** One that only AMQP connections have. */
bool nv_fault_is_amqp(nv_fault_kind kind);

typedef struct nv_fault_order {
    nv_fault_kind kind;
    int64_t delay_us;    /* from the message to the fault */
    int64_t duration_us; /* of the fault */
    char reason[64];     /* AzIoTHub_FaultOperationCloseReason, for the log */
} nv_fault_order;

/**
 * What the properties of a message (encoded section, store/record.h) ask for. A delay or duration is a number or its
 * text (AMQP senders have both); one that is absent or no number is 0; at most an hour. Pure. @return false: nothing,
 * or a kind that is not known
 */
bool nv_fault_read(nv_span properties, nv_fault_order *out);

/** Faults that outlive the connection they were asked on. Bounded: the oldest is dropped. Thread: any (a lock). */
typedef struct nv_faults nv_faults;

nv_faults *nv_faults_new(void);
/** NULL is fine. */
void nv_faults_free(nv_faults *faults);
/** The identity is in @p kind until @p until_us, monotonic. Replaces what it was in. */
void nv_faults_set(nv_faults *faults, nv_span device_id, nv_span module_id, nv_fault_kind kind, int64_t until_us);
/** The same from @p from_us on. */
void nv_faults_plan(nv_faults *faults, nv_span device_id, nv_span module_id, nv_fault_kind kind, int64_t from_us,
                    int64_t until_us);
/** @return what the identity is in at @p now_us, and until when */
nv_fault_kind nv_faults_get(nv_faults *faults, nv_span device_id, nv_span module_id, int64_t now_us, int64_t *until_us);

#endif
