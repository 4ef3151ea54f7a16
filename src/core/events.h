/**
 * Events of the hub itself in the telemetry log: connection state, lifecycle and twin changes (semantics.md section 4),
 * each exactly once across crashes. An event is an outbox row in the transaction of the change it tells of; a drainer
 * moves rows into the log in their order, and the log's commit remembers the last one moved.
 */
#ifndef NV_CORE_EVENTS_H
#define NV_CORE_EVENTS_H

#include "core/hub.h"
#include "core/identity.h"
#include "store/record.h"
#include "store/state.h"

#include <semaphore.h>

/** Which are written; each is an option of the section `events`. */
typedef struct nv_events_config {
    bool connection_state;
    bool lifecycle;
    bool twin_change;
    bool digital_twin_change;
} nv_events_config;

/** What an event says beside its body. */
typedef struct nv_event {
    nv_source source;
    const char *schema;    /* iothub-message-schema: "twinChangeNotification" */
    const char *operation; /* opType: "updateTwin" */
    nv_span device_id;
    nv_span module_id;
    uint64_t generation;  /* of the identity; 0 = unknown */
    int64_t operation_us; /* operationTimestamp, wall */
    nv_span body;         /* JSON */
} nv_event;

/** True when events of this source are wanted: asked before a body is made. Thread: any. */
bool nv_events_wanted(const nv_hub *hub, nv_source source);
/**
 * Put one into the outbox, within the transaction of the change. Everything is copied; a body that the log cannot take
 * becomes "{}". Thread: within run().
 * @return NV_E_NO_SPACE the log takes no events now, so that the change could not be told of; or what the store says
 */
NV_NODISCARD nv_err nv_events_put(const nv_hub *hub, nv_txn *txn, const nv_event *event);
/** Something was put and committed: drain soon. Called from done() of the operation that put it. Thread: any. */
void nv_events_committed(nv_hub *hub);

/* ---- for the hub ------------------------------------------------------------------------------------------- */

typedef struct nv_events nv_events;

/** What a former life left in the outbox is drained first, whatever is wanted now. */
nv_events *nv_events_new(nv_hub *hub, const nv_events_config *config);
/** Begins with that in the first turn. Thread: loop 0. */
void nv_events_turn_end(nv_events *events);
/** Nothing is in flight (nv_events_settle, or the executors are drained). NULL is fine. */
void nv_events_free(nv_events *events);
/**
 * Nothing is put any more: drain what there is, unless the log refuses it, then ask log and state for nothing and post
 * @p settled. Thread: any.
 */
void nv_events_settle(nv_events *events, sem_t *settled);

#endif
