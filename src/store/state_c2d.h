/**
 * Cloud-to-device messages and their feedback in the state store. Like all of the store it knows no rules: when a
 * message ends and who hears of it is core/c2d.h's concern.
 *
 * Messages, and feedback that nobody fetched, go with their device (nv_txn_identity_delete). Thread, spans and errors
 * of these functions: as those of state.h.
 */
#ifndef NV_STORE_STATE_C2D_H
#define NV_STORE_STATE_C2D_H

#include "store/state.h"

/** One message of a device's queue. */
typedef struct nv_c2d_row {
    uint64_t sequence;
    uint64_t generation; /* of the device */
    int64_t enqueued_us;
    int64_t expires_us;
    uint32_t deliveries; /* how often it was handed out and came back */
    uint8_t ack;
    uint8_t body_kind;
    nv_span properties; /* encoded section, store/record.h */
    nv_span body;       /* empty in what nv_txn_c2d_get gives */
} nv_c2d_row;

/** What is known of a queue without its messages. */
typedef struct nv_c2d_head {
    uint64_t generation;    /* of the device */
    uint64_t next_sequence; /* larger than any ever given */
    uint64_t depth;
} nv_c2d_head;

/** @return NV_E_NOT_FOUND no such device */
NV_NODISCARD nv_err nv_txn_c2d_head(nv_txn *txn, nv_span device_id, nv_c2d_head *head);
/** One statement, and nothing read by itself. @return NV_E_NOT_FOUND no such device of row->generation */
NV_NODISCARD nv_err nv_txn_c2d_put(nv_txn *txn, nv_span device_id, const nv_c2d_row *row);

typedef nv_err (*nv_c2d_visit)(void *arg, const nv_c2d_row *row);
/** Messages behind @p after in their order, at most @p top, until visit returns anything but NV_OK, which is returned
 */
NV_NODISCARD nv_err nv_txn_c2d_load(nv_txn *txn, nv_span device_id, uint64_t after, uint32_t top, nv_c2d_visit visit,
                                    void *arg);
/** One message without its body. @return NV_E_NOT_FOUND */
NV_NODISCARD nv_err nv_txn_c2d_get(nv_txn *txn, nv_span device_id, uint64_t sequence, nv_c2d_row *row);
/** Absent is fine. */
NV_NODISCARD nv_err nv_txn_c2d_deliveries_put(nv_txn *txn, nv_span device_id, uint64_t generation, uint64_t sequence,
                                              uint32_t deliveries);
/**
 * Absent is fine.
 * @param newest  the queue has none behind this one: remember that its sequence was given
 */
NV_NODISCARD nv_err nv_txn_c2d_delete(nv_txn *txn, nv_span device_id, uint64_t generation, uint64_t sequence,
                                      bool newest);
/** Messages of a device that are stored; 0 for an absent one. */
NV_NODISCARD nv_err nv_txn_c2d_depth(nv_txn *txn, nv_span device_id, uint64_t *out);

typedef nv_err (*nv_c2d_due_visit)(void *arg, nv_span device_id, uint64_t generation, uint64_t sequence);
/**
 * Messages whose life is over at @p now_us, at most @p top.
 * @param next_us  when the first of the others is over; INT64_MAX: there is none
 */
NV_NODISCARD nv_err nv_txn_c2d_due(nv_txn *txn, int64_t now_us, uint32_t top, nv_c2d_due_visit visit, void *arg,
                                   int64_t *next_us);

/** What a service is to hear of a message. */
typedef struct nv_feedback_row {
    uint64_t id; /* put: ignored, one is made; ids grow with time and are never given twice */
    int64_t enqueued_us;
    int64_t expires_us;
    uint32_t deliveries; /* how often it was handed out and came back */
    uint8_t status;
    nv_span device_id;
    uint64_t generation;
    nv_span message_id;
} nv_feedback_row;

NV_NODISCARD nv_err nv_txn_feedback_put(nv_txn *txn, const nv_feedback_row *row);
typedef nv_err (*nv_feedback_visit)(void *arg, const nv_feedback_row *row);
/** Oldest first, until visit returns anything but NV_OK; NV_E_EOF then means success. */
NV_NODISCARD nv_err nv_txn_feedback_walk(nv_txn *txn, nv_feedback_visit visit, void *arg);
/** Absent is fine. */
NV_NODISCARD nv_err nv_txn_feedback_delete(nv_txn *txn, uint64_t id);
/** Count one delivery more; with @p max_deliveries it is gone. Absent is fine. */
NV_NODISCARD nv_err nv_txn_feedback_return(nv_txn *txn, uint64_t id, uint32_t max_deliveries);
/** Drop what is over at @p now_us. */
NV_NODISCARD nv_err nv_txn_feedback_expire(nv_txn *txn, int64_t now_us);
/** INT64_MAX: there is none. */
NV_NODISCARD nv_err nv_txn_feedback_next_expiry(nv_txn *txn, int64_t *out);

#endif
