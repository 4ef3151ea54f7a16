/**
 * The outbox: events that belong to a change of state, in the same transaction, until they are in the log; and the
 * connections that events told of as open. Thread: within run() only, as all of store/state.h's nv_txn functions.
 */
#ifndef NV_STORE_STATE_OUTBOX_H
#define NV_STORE_STATE_OUTBOX_H

#include "store/state.h"

typedef struct nv_outbox_row {
    uint64_t row; /* out of put; larger than every one before, also of rows that are deleted long ago */
    nv_span device_id;
    nv_span module_id;
    uint64_t generation; /* of the identity; 0 = unknown */
    uint8_t source;      /* nv_source */
    nv_span properties;  /* encoded section, store/record.h */
    nv_span body;
} nv_outbox_row;

/** Sets row->row. The order of rows is the order of the transactions. */
NV_NODISCARD nv_err nv_txn_outbox_put(nv_txn *txn, nv_outbox_row *row);
/** Called per row, in order; anything but NV_OK ends the walk and is returned. */
typedef nv_err (*nv_outbox_visit)(void *arg, const nv_outbox_row *row);
/** Rows behind @p after. */
NV_NODISCARD nv_err nv_txn_outbox_read(nv_txn *txn, uint64_t after, nv_outbox_visit visit, void *arg);
/** Rows up to @p row, this one included. */
NV_NODISCARD nv_err nv_txn_outbox_delete(nv_txn *txn, uint64_t row);

/** An identity whose connection was told of as open. */
typedef struct nv_open_row {
    nv_span device_id;
    nv_span module_id;
    uint64_t generation;
    uint64_t run; /* names the life of the hub that told it; at most INT64_MAX */
} nv_open_row;

/** Insert or replace. */
NV_NODISCARD nv_err nv_txn_open_put(nv_txn *txn, const nv_open_row *row);
/** Sets generation and run. @return NV_E_NOT_FOUND */
NV_NODISCARD nv_err nv_txn_open_get(nv_txn *txn, nv_open_row *row);
/** Absent is fine. */
NV_NODISCARD nv_err nv_txn_open_delete(nv_txn *txn, nv_span device_id, nv_span module_id);
/**
 * Those that another life of the hub left behind, at most @p max of them. Copied: they live until run() returns, and
 * may be deleted meanwhile.
 */
NV_NODISCARD nv_err nv_txn_open_others(nv_txn *txn, uint64_t run, nv_open_row *rows, size_t max, size_t *count);

#endif
