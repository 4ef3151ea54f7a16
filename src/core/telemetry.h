/**
 * The telemetry path of one loop: collects what the sessions of a turn publish into one batch, submits it at the end of
 * the turn, and tells each session once per batch that its messages are stored. No lock, no allocation per message.
 */
#ifndef NV_CORE_TELEMETRY_H
#define NV_CORE_TELEMETRY_H

#include "core/hub.h"

typedef struct nv_telemetry nv_telemetry;

/** One sender: embedded in a session. */
typedef struct nv_telemetry_client {
    /**
     * The @p count oldest unconfirmed messages of this client are stored (NV_OK), or they are not and never will be.
     * Runs on the loop; batches complete in order. May send again.
     */
    void (*stored)(struct nv_telemetry_client *client, uint32_t count, nv_err status);
    uint32_t pending; /* sent and not yet confirmed; read-only */
    uint32_t partition;
    nv_log_stamp stamp;
    /* private: membership in the batch that is being filled and in the one in flight */
    uint64_t _batch;
    uint32_t _in_batch;
} nv_telemetry_client;

nv_telemetry *nv_telemetry_new(nv_hub_loop *loop);
/** Nothing is in flight. NULL is fine. */
void nv_telemetry_free(nv_telemetry *telemetry);

/** @p stamp is encoded (nv_stamp_encode) and owned by the client for its life. */
void nv_telemetry_client_init(nv_telemetry *telemetry, nv_telemetry_client *client, nv_span device_id, nv_span stamp);

/**
 * Send one message; everything is copied. @return NV_OK stored() will fire; NV_E_NO_SPACE, NV_E_IO the log refuses: it
 * will not; NV_E_AGAIN too much is in flight on this loop: stop reading, stored() or a wake follows.
 */
NV_NODISCARD nv_err nv_telemetry_send(nv_telemetry *telemetry, nv_telemetry_client *client, nv_source source,
                                      nv_span properties, nv_span body);

/** Submit what was collected unless a batch is in flight (then it goes when that one completes). Called once per turn.
 */
void nv_telemetry_turn_end(nv_telemetry *telemetry);

#endif
