/**
 * Direct methods: a call from a service to a connected device or module, answered or timed out (http-hub.md section 9,
 * mqtt.md section 9, semantics.md section 7.2). Nothing is stored: a method that the device does not take is lost, and
 * the caller knows.
 *
 *   caller's loop: nv_method_invoke -> device's shard: connected? deliver, wait -> session: nv_method_answer -> shard
 * -> caller's loop: done
 */
#ifndef NV_CORE_METHOD_H
#define NV_CORE_METHOD_H

#include "core/devices.h"
#include "core/hub.h"
#include "core/registry.h"

#define NV_METHOD_NAME_MAX 100u

/** One call. Owned by the caller, alive until done. */
typedef struct nv_method_call {
    /* in; spans stay valid until done */
    nv_span device_id;
    nv_span module_id;
    nv_span name;                /* case-sensitive; 1 to NV_METHOD_NAME_MAX bytes of [A-Za-z0-9._*-], checked here */
    nv_span payload;             /* JSON text, any value, checked here and copied before nv_method_invoke() returns;
                                    empty = none, which the device sees as null */
    int64_t response_timeout_us; /* 5 s to 300 s, checked here */
    int64_t connect_timeout_us;  /* 0 to 300 s, cut to the response timeout (refused with profile azure); how long to
                                    wait for a device that is not there, or takes no methods */
    void (*done)(struct nv_method_call *call); /* on the loop that asked, never from within the call */
    void *arg;
    /* out */
    nv_hub_error
        error; /* NONE, DeviceNotFound, DeviceNotOnline, GatewayTimeout, DeviceConnectionClosedRemotely,
                  BadDeviceResponse, ArgumentInvalid, MessageTooLarge, ThrottlingException, ServiceUnavailable */
    char detail[200];
    int64_t status; /* of the device, any number */
    nv_buf answer;  /* compact JSON, "null" when the device sent nothing; the caller deinits it */
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
    void *_op;
} nv_method_call;

/** Thread: the loop's. Blocks: never. Calls in flight per device and in all are rows of the limits table. */
void nv_method_invoke(nv_hub_loop *loop, nv_method_call *call);
/**
 * Nobody waits for the answer any more: done comes soon, with what is there by then or ServiceUnavailable. A device
 * that was asked already is not told. Thread: that of the call, before its done; never from within it.
 */
void nv_method_cancel(nv_method_call *call);

/**
 * The device answers nv_delivery.call. Late, unknown and repeated answers are ignored; an answer from a connection that
 * was not asked is ignored too. Thread: the session's loop; the claim is held.
 * @param payload  JSON text, or empty; what is not JSON reaches the caller as an error of the device
 */
void nv_method_answer(nv_claim *claim, uint64_t call, int64_t status, nv_span payload);

/* ---- for the hub ------------------------------------------------------------------------------------------- */

typedef struct nv_methods nv_methods;
nv_methods *nv_methods_new(nv_hub_loop *loop);
/** Once the hub stops, calls in flight end with ServiceUnavailable, and so do new ones. Thread: the loop's. */
void nv_methods_turn_end(nv_methods *methods);
/** No call is in flight. Thread: the loop's. */
bool nv_methods_idle(const nv_methods *methods);
/** No call is in flight. NULL is fine. */
void nv_methods_free(nv_methods *methods);

#endif
