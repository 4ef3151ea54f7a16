/**
 * The telemetry path of one loop: collects what the sessions of a turn publish into one batch, submits it at the end of
 * the turn, and tells each session once per batch that its messages are stored. No lock, no allocation per message.
 */
#ifndef NV_CORE_TELEMETRY_H
#define NV_CORE_TELEMETRY_H

#include "base/list.h"
#include "core/hub.h"
#include "core/identity.h"

typedef struct nv_telemetry nv_telemetry;

/** One sender: embedded in a session. */
typedef struct nv_telemetry_client {
    /**
     * The @p count oldest unconfirmed messages of this client are stored (NV_OK), or they are not and never will be.
     * @p count 0: there is room again after NV_E_AGAIN. Runs on the loop, never from within a send; batches complete
     * in order. May send again.
     */
    void (*stored)(struct nv_telemetry_client *client, uint32_t count, nv_err status);
    uint32_t pending; /* sent and not yet confirmed; read-only */
    uint32_t partition;
    nv_log_stamp stamp;
    /* private */
    uint32_t _share;  /* its place in the batch it last sent to */
    uint64_t _batch;  /* serial of that batch */
    nv_list _waiting; /* linked after NV_E_AGAIN */
} nv_telemetry_client;

nv_telemetry *nv_telemetry_new(nv_hub_loop *loop);
/** Nothing is in flight. NULL is fine. */
void nv_telemetry_free(nv_telemetry *telemetry);

/**
 * The stamp of what @p sender sends on one connection, encoded as a client takes it. A model id that is longer than a
 * stamp has room for is left out. @return *len bytes, the caller's, to be freed
 */
NV_NODISCARD uint8_t *nv_telemetry_stamp_new(const nv_identity *sender, nv_span model_id, nv_auth_scope scope,
                                             nv_auth_type type, size_t *len);

/** @p stamp is encoded (nv_telemetry_stamp_new, nv_stamp_encode) and lives as long as the client. */
void nv_telemetry_client_init(nv_telemetry *telemetry, nv_telemetry_client *client, nv_span device_id, nv_span stamp);

/** Before the client's memory goes: pending is 0, or nothing can complete any more. A zeroed client is fine. */
void nv_telemetry_client_deinit(nv_telemetry_client *client);

/**
 * Send one message; everything is copied. @return NV_OK stored() will fire; NV_E_TOO_BIG the
 * log can never take it: it will not; NV_E_AGAIN too much is in flight on this loop: stop reading, stored() follows.
 * What the log refuses (NV_E_NO_SPACE, NV_E_IO) is said by stored().
 */
NV_NODISCARD nv_err nv_telemetry_send(nv_telemetry *telemetry, nv_telemetry_client *client, nv_source source,
                                      nv_span properties, nv_span body);
/** The same with a body that came as another section of AMQP. */
NV_NODISCARD nv_err nv_telemetry_send_kind(nv_telemetry *telemetry, nv_telemetry_client *client, nv_source source,
                                           nv_body_kind kind, nv_span properties, nv_span body);

/** Submit what was collected unless a batch is in flight (then it goes when that one completes). Called once per turn.
 */
void nv_telemetry_turn_end(nv_telemetry *telemetry);

#endif
