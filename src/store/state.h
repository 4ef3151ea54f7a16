/**
 * The state store: identities, hub policies, stored sessions, small facts about the hub. Asynchronous: an operation is
 * a function over a transaction, run on the store's own thread; its completion is posted to the caller's executor.
 * No caller ever blocks on the disk.
 *
 *   loop --nv_state_write--> writer: BEGIN, op, op, op, COMMIT (one sync for all) --done--> loop
 *   loop --nv_state_read---> reader: a consistent view of what is committed --------done--> loop
 *
 * While one transaction is in flight the next is collected. A failing operation rolls back to its own savepoint and
 * hurts no other; a failing commit fails all operations of its transaction. The store speaks hub words and knows no
 * rules: those stand in the operations of core/. Behind this header is SQLite; a cluster's database comes behind the
 * same functions, so nothing here may be taken for a local file.
 */
#ifndef NV_STORE_STATE_H
#define NV_STORE_STATE_H

#include "base/buf.h"
#include "base/clock.h"
#include "base/rng.h"
#include "base/task.h"

typedef struct nv_state nv_state;
typedef struct nv_txn nv_txn;
typedef struct nv_state_op nv_state_op;

typedef struct nv_state_config {
    const char *dir; /* created when absent; the store is dir/state.db, mode 0600; borrowed during open only */
    const char *vfs; /* NULL: the system's files. Tests: the name of an SQLite VFS, which then owns all paths */
    const nv_clock *clock;
    nv_rng *rng;               /* used during open only */
    uint32_t queue_max;        /* waiting operations per direction before NV_E_AGAIN; 0 = 65,536 */
    uint32_t checkpoint_pages; /* of the write-ahead log, after which it is folded into the file; 0 = 1,000 */
} nv_state_config;

/**
 * Open or create, migrating an older schema. Starts the threads that write, read and scan. Blocks: yes (start-up only).
 * @param why  receives one English sentence when the result is not NV_OK
 * @return NV_E_IN_USE another process has it; NV_E_PERMISSION; NV_E_UNSUPPORTED written by a newer version;
 *         NV_E_CORRUPT not a store, or damaged; NV_E_NO_SPACE; NV_E_IO
 */
NV_NODISCARD nv_err nv_state_open(nv_state **out, const nv_state_config *config, nv_buf *why);
/** Finish queued operations, post their completions, stop the threads, free. Blocks: yes. NULL is fine. */
void nv_state_close(nv_state *state);

/* ---- operations -------------------------------------------------------------------------------------------- */

/**
 * One operation: a member of the caller's structure, the caller's again when done() runs, and not before.
 */
struct nv_state_op {
    /* in */
    nv_exec *exec; /* where done runs */
    /**
     * The work. Thread: the store's. Must not block, may run more than once (a cluster's database retries), so it has
     * no effect but on the transaction and on its own structure. Anything but NV_OK undoes what it wrote.
     */
    nv_err (*run)(nv_state_op *op, nv_txn *txn);
    void (*done)(nv_state_op *op);
    /* out */
    /**
     * What run returned, or why the commit failed. After NV_OK a write is durable. After a failed commit it is not
     * there; only a loss of power before the next good commit may still bring it.
     */
    nv_err status;
    /* private */
    nv_task _task;
    nv_state_op *_next;
};

/**
 * Queue a write. Operations run in the order of their submission. Thread: any. Blocks: never.
 * @return NV_OK done() fires exactly once, never from within the call; NV_E_AGAIN the queue is full, it never fires
 */
NV_NODISCARD nv_err nv_state_write(nv_state *state, nv_state_op *op);
/** Queue a read; like nv_state_write. It sees every write whose done() began before this call. */
NV_NODISCARD nv_err nv_state_read(nv_state *state, nv_state_op *op);
/**
 * As nv_state_read, on a thread of its own with low priority, for operations that walk over many rows: whoever needs a
 * single row does not wait behind them. One operation should do some milliseconds of work and then be queued again.
 */
NV_NODISCARD nv_err nv_state_scan(nv_state *state, nv_state_op *op);

typedef struct nv_state_counts {
    uint64_t devices;
    uint64_t devices_enabled;
    uint64_t modules;
} nv_state_counts;

/** As committed. Thread: any. Blocks: never. */
nv_state_counts nv_state_counts_now(nv_state *state);

/** Why the last commit failed; NV_OK: it did not. Thread: any. Blocks: never. */
nv_err nv_state_health(const nv_state *state);

/** 32 hexadecimal digits, made when the store was created: tells two hubs apart. Valid while it is open. */
nv_span nv_state_id(const nv_state *state);

/* ---- what an operation can do. Thread: within run() only ---------------------------------------------------- */
/* Spans handed out live until run() returns; those of a visited row until visit() does. Every function may return
 * NV_E_IO, NV_E_NO_SPACE or NV_E_CORRUPT, which run() should return in turn. */

/** A device (module_id empty) or module. Numbers of kinds are the core's; the store only keeps them. */
typedef struct nv_identity_row {
    nv_span device_id;
    nv_span module_id;
    uint64_t generation; /* .NET ticks of creation, unique in the store for ever */
    uint64_t etag;       /* at most INT64_MAX */
    bool enabled;        /* modules: that of their device; ignored by put */
    nv_span status_reason;
    int64_t status_updated_us;
    uint8_t auth;
    nv_span primary_key;
    nv_span secondary_key;
    nv_span primary_thumbprint;
    nv_span secondary_thumbprint;
    bool iot_edge;
    nv_span device_scope;
    nv_span parent_scopes;
    nv_span managed_by;
    nv_span attributes;
    int64_t connection_updated_us; /* put of an existing row leaves these two alone */
    int64_t last_activity_us;
} nv_identity_row;

/** @return NV_E_NOT_FOUND, also for a module whose device is absent */
NV_NODISCARD nv_err nv_txn_identity_get(nv_txn *txn, nv_span device_id, nv_span module_id, nv_identity_row *row);
/** Insert or replace. A module's device must exist. */
NV_NODISCARD nv_err nv_txn_identity_put(nv_txn *txn, const nv_identity_row *row);
/** Removes everything that belongs to the identity: a device's modules, stored sessions. Absent is fine. */
NV_NODISCARD nv_err nv_txn_identity_delete(nv_txn *txn, nv_span device_id, nv_span module_id);
/** Called per row, in byte order of the ids; anything but NV_OK ends the walk and is returned. */
typedef nv_err (*nv_identity_visit)(void *arg, const nv_identity_row *row);
/** Devices whose id is behind @p after, at most @p top. */
NV_NODISCARD nv_err nv_txn_devices(nv_txn *txn, nv_span after, uint32_t top, nv_identity_visit visit, void *arg);
/** Modules of one device whose id is behind @p after, at most @p top. An absent device has none. */
NV_NODISCARD nv_err nv_txn_modules(nv_txn *txn, nv_span device_id, nv_span after, uint32_t top, nv_identity_visit visit,
                                   void *arg);
NV_NODISCARD nv_err nv_txn_module_count(nv_txn *txn, nv_span device_id, uint64_t *out);
/** Including what this transaction did so far. */
nv_state_counts nv_txn_counts(const nv_txn *txn);
/** A generation for a row created now: .NET ticks of the wall clock, but always larger than any given before. */
uint64_t nv_txn_generation(nv_txn *txn);

/** When an identity was last seen; nothing happens when it is gone or has another generation. Not an identity write:
 * the etag stays. */
NV_NODISCARD nv_err nv_txn_seen_put(nv_txn *txn, nv_span device_id, nv_span module_id, uint64_t generation,
                                    int64_t connection_updated_us, int64_t last_activity_us);

#define NV_STATE_SESSION_MAX 256u
/** The stored session of an identity, opaque bytes. @return NV_E_NOT_FOUND none of this generation */
NV_NODISCARD nv_err nv_txn_session_get(nv_txn *txn, nv_span device_id, nv_span module_id, uint64_t generation,
                                       nv_span *blob);
/** @return NV_E_NOT_FOUND no such identity of this generation; NV_E_TOO_BIG above NV_STATE_SESSION_MAX */
NV_NODISCARD nv_err nv_txn_session_put(nv_txn *txn, nv_span device_id, nv_span module_id, uint64_t generation,
                                       nv_span blob);
/** Absent is fine. */
NV_NODISCARD nv_err nv_txn_session_delete(nv_txn *txn, nv_span device_id, nv_span module_id);

typedef struct nv_policy_row {
    nv_span name;
    uint32_t rights;
    nv_span primary_key;
    nv_span secondary_key;
} nv_policy_row;

typedef nv_err (*nv_policy_visit)(void *arg, const nv_policy_row *row);
/** In byte order of the names. */
NV_NODISCARD nv_err nv_txn_policies(nv_txn *txn, nv_policy_visit visit, void *arg);
NV_NODISCARD nv_err nv_txn_policy_put(nv_txn *txn, const nv_policy_row *row);

/** Small facts about the hub, by name. @return NV_E_NOT_FOUND */
NV_NODISCARD nv_err nv_txn_meta_get(nv_txn *txn, nv_span name, nv_span *value);
NV_NODISCARD nv_err nv_txn_meta_put(nv_txn *txn, nv_span name, nv_span value);

/* ---- ready-made: stored sessions ---------------------------------------------------------------------------- */

/** Set op.exec, op.done and the ids (valid until done); the rest of op is filled in. */
typedef struct nv_state_session {
    nv_state_op op; /* first member: cast back in done */
    /* in */
    nv_span device_id;
    nv_span module_id;
    uint64_t generation; /* of the identity; a session never passes to a later identity of the same name */
    bool clear;          /* load: forget it, durably, having told whether it was there */
    /* load: out; store: in */
    uint8_t blob[NV_STATE_SESSION_MAX];
    size_t len;
    bool present; /* load: out */
} nv_state_session;

/** What is stored for the identity; nothing stored is NV_OK with present = false. @return as nv_state_read */
NV_NODISCARD nv_err nv_state_session_load(nv_state *state, nv_state_session *session);
/** Replace what is stored. status NV_E_NOT_FOUND: the identity is gone. @return as nv_state_write */
NV_NODISCARD nv_err nv_state_session_store(nv_state *state, nv_state_session *session);

#endif
