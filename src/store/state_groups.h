/**
 * Consumer groups of the built-in endpoint, by name; case does not count. $Default is there from the beginning; that it
 * stays is a rule of the core.
 */
#ifndef NV_STORE_STATE_GROUPS_H
#define NV_STORE_STATE_GROUPS_H

#include "store/state.h"

/** Names are longer than this by no rule of the core. */
#define NV_STATE_GROUP_NAME_MAX 64u

typedef struct nv_group_row {
    nv_span name; /* as created */
    int64_t created_us;
} nv_group_row;

/* ---- within run() only ---- */

/** Called per row, by name in lower case; anything but NV_OK ends the walk and is returned. */
typedef nv_err (*nv_group_visit)(void *arg, const nv_group_row *row);
NV_NODISCARD nv_err nv_txn_groups(nv_txn *txn, nv_group_visit visit, void *arg);
NV_NODISCARD nv_err nv_txn_group_count(nv_txn *txn, uint64_t *out);
/** @return NV_E_NOT_FOUND */
NV_NODISCARD nv_err nv_txn_group_get(nv_txn *txn, nv_span name, nv_group_row *row);
/** There is none of this name. @return NV_E_TOO_BIG a name longer than NV_STATE_GROUP_NAME_MAX */
NV_NODISCARD nv_err nv_txn_group_put(nv_txn *txn, const nv_group_row *row);
/** Absent is fine. */
NV_NODISCARD nv_err nv_txn_group_delete(nv_txn *txn, nv_span name);

/* ---- ready-made operations; set op.exec, op.done and what is marked `in`, the rest is filled in ---- */

typedef struct nv_state_groups {
    nv_state_op op;       /* first member */
    nv_group_visit visit; /* in; on the store's thread, perhaps more than once: begin() comes first each time */
    void (*begin)(void *arg);
    void *arg;
} nv_state_groups;

/** All of them. @return as nv_state_read */
NV_NODISCARD nv_err nv_state_groups_load(nv_state *state, nv_state_groups *groups);

typedef struct nv_state_group_change {
    nv_state_op op;     /* first member */
    nv_span name;       /* in; valid until done */
    bool create;        /* in; false: delete */
    uint64_t max;       /* in; create: how many there may be, status NV_E_LIMIT beyond; 0: no bound */
    int64_t now_us;     /* in; create: the time of its creation */
    int64_t created_us; /* out; create: of the group that is there now */
    bool existed;       /* out; create: it was there and stays as it is; delete: it was there */
} nv_state_group_change;

/** @return as nv_state_write */
NV_NODISCARD nv_err nv_state_group_change_do(nv_state *state, nv_state_group_change *change);

#endif
