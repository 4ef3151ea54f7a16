/**
 * Live devices: who is connected where, one connection per identity, and what is known of their presence.
 *
 * A claim is the right of one session to be its identity's connection. The newest wins: the older is told to go, and
 * the newer is granted once the older's last append is confirmed, so that old messages never land behind new ones.
 */
#ifndef NV_CORE_DEVICES_H
#define NV_CORE_DEVICES_H

#include "base/list.h"
#include "core/hub.h"
#include "core/identity.h"

/** A subscription kept with a persistent session: an index into the topic table and the granted QoS. */
typedef struct nv_subscription {
    uint8_t kind; /* nv_topic filter kind, codec/topic.h */
    uint8_t qos;
} nv_subscription;

#define NV_SUBSCRIPTIONS_MAX 16u

/** What a connection wants to be told, from its subscriptions or links. */
enum { NV_WANTS_DESIRED = 1, NV_WANTS_METHODS = 2 };

typedef enum nv_delivery_kind {
    NV_DELIVER_DESIRED, /* desired properties changed: version and body (the patch, or the whole section on a replace;
                           without $version, which the session writes as its protocol wants it) */
    NV_DELIVER_METHOD   /* a method is called: call, name and body (JSON; "null" when the caller gave none) */
} nv_delivery_kind;

/** What the hub hands to a connection. Immutable; the spans live as long as it does. */
typedef struct nv_delivery {
    nv_delivery_kind kind;
    uint64_t version; /* DESIRED: $version after the change */
    uint64_t call;    /* METHOD: names the call in nv_method_answer(); unique for the life of the hub process */
    nv_span name;     /* METHOD */
    nv_span body;     /* compact JSON */
    /* private */
    nv_task _task;
    struct nv_claim *_claim;
    uint8_t _bytes[];
} nv_delivery;

/** The latest versions of its twin's sections that a connection was told; 0: none. Thread: the session's loop. */
typedef struct nv_twin_told {
    uint64_t desired;
    uint64_t reported;
} nv_twin_told;

typedef enum nv_claim_state { NV_CLAIM_IDLE, NV_CLAIM_ASKED, NV_CLAIM_HELD, NV_CLAIM_RELEASED } nv_claim_state;

/** Embedded in the session. Thread: the session's loop; the table behind it lives on the shard's loop. */
typedef struct nv_claim {
    /* in */
    nv_identity *identity; /* borrowed from the session */
    void (*granted)(struct nv_claim *claim);
    /**
     * Close with this reason (taken over, revoked; `deleted` says whether there is no such identity any more): stop
     * reading, let appends finish, then release.
     */
    void (*evict)(struct nv_claim *claim, nv_refusal why);
    /**
     * Something for the device, in the order of the shard; only while the claim is held and only what it wants at the
     * moment of sending. Valid during the call. NULL: the session wants nothing.
     */
    void (*deliver)(struct nv_claim *claim, const nv_delivery *delivery);
    _Atomic nv_credential credential; /* the session may set it again when what proved it changes (a renewed token) */
    bool clean;                       /* forget the stored session (CleanSession=1) */
    /* out, valid in granted(); the session's own from then on. In an order that leaves no holes: each connected device
     * has a claim */
    bool session_present;
    uint8_t subscription_count;
    bool _operated;         /* private to the session's loop: nv_claim_operated was called */
    nv_err status;          /* NV_OK or NV_E_IO */
    nv_twin_told twin_told; /* for its nv_twin_request; what is delivered counts by itself */
    nv_subscription subscriptions[NV_SUBSCRIPTIONS_MAX];
    /* private: the session's loop */
    nv_claim_state _state;
    _Atomic uint32_t _wants; /* read by the shard; the highest bit: it operated */
    nv_hub_loop *_loop;
    uint64_t _number;            /* unique in the process */
    _Atomic int64_t _touched_us; /* read by others */
    nv_task _open;               /* asks, then comes back with the grant; then tells what is wanted */
    nv_task _close;              /* releases, then comes back done */
    void (*_done)(struct nv_claim *claim);
    /* private: the shard's loop */
    nv_task _evict;
    nv_list _link;
    struct nv_device_entry *_entry;
    nv_refusal _why;
    bool _evicted;
    bool deleted; /* the session may read it in evict() and afterwards */
    bool _granted;
    /* both */
    _Atomic bool _want_posted;
} nv_claim;

/** Ask. granted() fires exactly once, later, on the session's loop, unless the claim is released before: then never. */
void nv_claim_ask(nv_hub_loop *loop, nv_claim *claim);
/**
 * Give it back (also when it was never granted). @p done fires on the session's loop when the table has let go; only
 * then may the memory be freed. Call it after the session's last append is confirmed.
 */
void nv_claim_release(nv_claim *claim, void (*done)(nv_claim *claim));
/** Report activity at @p now_us (monotonic). Costs a store to memory: collected only when somebody asks. */
static inline void nv_claim_touch(nv_claim *claim, int64_t now_us)
{
    atomic_store_explicit(&claim->_touched_us, now_us, memory_order_relaxed);
}

/**
 * Say what the connection wants (NV_WANTS_*), replacing what it wanted before. While the claim is held. What is sent
 * from the shard later obeys; what was on its way arrives still. Thread: the session's loop.
 */
void nv_claim_want(nv_claim *claim, uint32_t wants);

/**
 * The first operation of this connection happened (a message sent, something received or subscribed): only then does it
 * raise a connection event (semantics.md section 4.1). Later calls cost a comparison. Thread: the session's loop.
 */
void nv_claim_operated(nv_claim *claim);

/**
 * Hand something to the connection that holds the identity, if it wants that kind. Thread: the shard's loop.
 * @param delivery  made by nv_delivery_new; taken over, also when it cannot be handed out
 * @return false: nobody is connected who wants it
 */
bool nv_devices_deliver(nv_hub_loop *shard, nv_span device_id, nv_span module_id, nv_delivery *delivery);
/** Name and body are copied. */
nv_delivery *nv_delivery_new(nv_delivery_kind kind, nv_span name, nv_span body);

/**
 * Tell @p watcher when a connection of the identity comes to want @p wants, or when the connection that is there now
 * goes; once, then it is forgotten. Thread: the shard's loop, both ways; never from within the call.
 */
typedef struct nv_device_watcher {
    /* in */
    uint32_t wants; /* 0: tell only when the connection goes */
    void (*changed)(struct nv_device_watcher *watcher);
    /* private */
    nv_list _link;
    struct nv_device_entry *_entry;
} nv_device_watcher;
void nv_devices_watch(nv_hub_loop *shard, nv_span device_id, nv_span module_id, nv_device_watcher *watcher);
/** Harmless after it was told. */
void nv_devices_unwatch(nv_device_watcher *watcher);
/** True when a connection of the identity holds it and wants all of @p wants. Thread: the shard's loop. */
bool nv_devices_wants(nv_hub_loop *shard, nv_span device_id, nv_span module_id, uint32_t wants);

/** The number of the connection that holds the identity, 0: none; nv_claim_number() of it. Thread: the shard's loop. */
uint64_t nv_devices_connection(nv_hub_loop *shard, nv_span device_id, nv_span module_id);
/** Unique in the process, never 0: a claim's memory may come back as another's. Thread: the session's loop. */
static inline uint64_t nv_claim_number(const nv_claim *claim)
{
    return claim->_number;
}

/**
 * Store the subscriptions of a persistent session; done(arg, status) on the caller's loop once durable, always later.
 * The claim on the identity is held until then. Stores complete in the order they were asked for.
 */
void nv_session_store(nv_hub_loop *loop, nv_identity *identity, const nv_subscription *subscriptions, size_t count,
                      void (*done)(void *arg, nv_err status), void *arg);

/**
 * A device without a connection of its own did something (HTTP): its last activity is now. Saved with those that
 * disconnect, so many requests share one write. Thread: the loop's.
 */
void nv_device_active(nv_hub_loop *loop, nv_identity *identity);

/** Presence as far as live connections know; zeros otherwise, then what is stored with the identity holds. */
typedef struct nv_presence {
    bool connected;
    int64_t connection_updated_us; /* wall; 0 = not since the start */
    int64_t last_activity_us;      /* wall; 0 = not since the start */
} nv_presence;

/** Ask the shard; done on the caller's loop. */
typedef struct nv_presence_request {
    nv_span device_id; /* valid until done */
    nv_span module_id;
    void (*done)(struct nv_presence_request *request);
    nv_presence presence; /* out */
    nv_hub_loop *_loop;
    nv_task _task;
} nv_presence_request;
void nv_presence_get(nv_hub_loop *loop, nv_presence_request *request);

/** The same at once, by a short lock on the table: for queries, which ask for many. Thread: any. */
nv_presence nv_presence_now(nv_hub *hub, nv_span device_id, nv_span module_id);

/** Connected devices (not modules) of the whole hub now. Thread: any. */
int64_t nv_devices_connected(const nv_hub *hub);

/**
 * The registry changed: called by core/registry.h after the commit. @p identity is the new snapshot, NULL = deleted. A
 * connection whose credential, status or generation changed is evicted (modules of a disabled or deleted device too).
 */
void nv_devices_changed(nv_hub *hub, nv_span device_id, nv_span module_id, nv_identity *identity);

/* ---- for the hub ------------------------------------------------------------------------------------------- */

typedef struct nv_device_table nv_device_table;
nv_device_table *nv_device_table_new(nv_hub_loop *loop);
/** Raise connection events (core/events.h). Before the first claim. */
void nv_device_table_tell_connections(nv_device_table *table);
/** All claims are released and the executors drained. NULL is fine. */
void nv_device_table_free(nv_device_table *table);
/** Saves what disconnected since the last turn. Thread: the loop's. */
void nv_device_table_turn_end(nv_device_table *table);
/** Everything is saved. Thread: the loop's. */
bool nv_device_table_idle(const nv_device_table *table);
/** The last connection is gone and the hub stops: save nothing from now on. Thread: the loop's. */
void nv_device_table_close(nv_device_table *table);

#endif
