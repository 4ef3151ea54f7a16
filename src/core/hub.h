/**
 * The hub: what sessions of all protocols share. It knows no socket, no protocol and no disk; it is given a log, a
 * state store, a clock, randomness and one executor per loop.
 *
 * Ownership of state (design.md section 2): devices hash to 1,024 shards, a fixed table maps shard to loop; the mutable
 * state of a device is touched on its shard's loop only (functions named _on_shard); others post tasks.
 */
#ifndef NV_CORE_HUB_H
#define NV_CORE_HUB_H

#include "base/clock.h"
#include "base/rng.h"
#include "base/task.h"
#include "base/timers.h"
#include "core/limits.h"
#include "core/refusal.h"
#include "store/log.h"

typedef struct nv_hub nv_hub;
typedef struct nv_hub_loop nv_hub_loop;
struct nv_state;
struct nv_policies;
struct nv_registry;
struct nv_telemetry;
struct nv_device_table;
struct nv_events;
struct nv_events_config;
struct nv_event_hub;

#define NV_SHARDS 1024u

typedef struct nv_hub_config {
    const char *const *host_names; /* aliases of the hub, the first is its own; copied */
    size_t host_name_count;
    const nv_limits *limits; /* copied */
    nv_log *log;             /* borrowed; outlives the hub */
    struct nv_state *state;  /* borrowed; outlives the hub */
    const nv_clock *clock;
    nv_rng *rng;
    nv_exec *const *loops; /* one executor per loop; borrowed */
    size_t loop_count;
    const struct nv_events_config *events; /* core/events.h; copied; NULL: none is written, none is drained */
    const char *entity;   /* name of the built-in event hub; NULL or "": the first label of the hub's name; copied */
    bool azure;           /* nv_hub.azure */
    bool known_keys;      /* policies get fixed, well-known keys on an empty store (--dev-known-keys) */
    bool fault_injection; /* devices may ask for faults (testing.fault_injection) */
    bool time_stands;     /* nv_hub.time_stands */
} nv_hub_config;

/** What all loops read without a lock; fixed after nv_hub_new. */
struct nv_hub {
    nv_log *log;
    struct nv_state *state;
    struct nv_policies *policies; /* shared access policies of the hub; core/policies.h */
    struct nv_registry *registry; /* snapshots kept in memory; made by nv_registry_new in nv_hub_new; core/registry.h */
    nv_refusals *refusals;
    struct nv_faults *faults;       /* core/fault.h; NULL: faults are not asked for */
    struct nv_events *events;       /* core/events.h; or NULL */
    struct nv_event_hub *event_hub; /* core/event_hub.h */
    const nv_clock *clock;
    nv_rng *rng;
    nv_limits limits;
    uint64_t run;        /* names this life of the hub; at most INT64_MAX */
    bool azure;          /* the service's own ways where ours are kinder (limits.profile azure) */
    bool time_stands;    /* the clock moves when a test says so: pauses that only clients' pace asks for are left out */
    nv_span *host_names; /* owned; the first is the hub's own */
    size_t host_name_count;
    nv_hub_loop *loops;
    size_t loop_count;
    uint16_t shard_to_loop[NV_SHARDS];
    /* written by all loops */
    _Atomic uint64_t _stamp_id;
    _Atomic uint64_t _claims;       /* numbers given to connections */
    _Atomic uint64_t _method_calls; /* numbers given to direct methods; where they begin is random in each run */
    _Atomic int64_t _queries;       /* running now */
    _Atomic bool _stopping;
    _Atomic int64_t _devices_connected;
    _Atomic int64_t _refusals_second; /* monotonic: when refusals were last written */
    _Atomic size_t _refusals_said;    /* in that second, written or not */
};

/** The core's context of one I/O loop. Sessions of that loop get it from their carrier. */
struct nv_hub_loop {
    nv_hub *hub;
    nv_exec *exec;
    uint32_t index;
    struct nv_telemetry *telemetry;  /* core/telemetry.h */
    struct nv_device_table *devices; /* core/devices.h: the devices whose shard lives here */
    struct nv_methods *methods;      /* core/method.h: calls to these devices */
    struct nv_c2d *c2d;              /* core/c2d.h: queues of these devices */
    struct nv_query_kept *queries;   /* core/query_kept.h: answers with further pages */
    uint32_t many_sessions;          /* sessions: connections of strangers that were let have many AMQP sessions */
    nv_timers timers;                /* of the core on this loop, by the hub's monotonic clock */
    void *_settling;                 /* nv_hub_settle waits */
};

/** Blocks while policies and consumer groups are loaded. */
NV_NODISCARD nv_err nv_hub_new(nv_hub **out, const nv_hub_config *config, nv_buf *why);
/** All sessions are gone and the executors are drained. NULL is fine. */
void nv_hub_free(nv_hub *hub);

/** The loop that owns a device. */
nv_hub_loop *nv_hub_shard_loop(nv_hub *hub, nv_span device_id);

/** True when @p host (optionally with ":port") is one of the hub's names, ignoring case. */
bool nv_hub_is_alias(const nv_hub *hub, nv_span host);

/**
 * Say no, once: the refusal is kept for `nave doctor` and logged with cause, detail and cure.
 * @param protocol  "mqtt", "http", ...; the area of the log line
 * @param detail    specific to this case; "" when the cause says all; no secrets
 * Thread: any.
 */
void nv_hub_refuse(nv_hub *hub, const char *protocol, const nv_peer *peer, nv_span device_id, nv_span module_id,
                   nv_refusal refusal, const char *detail);

/** Refusals written to the log in a second; who is turned away fast enough must not fill the disk. */
#define NV_HUB_REFUSALS_PER_SECOND 100u

/** True when the line about one more refusal may be written; says how many were not. Thread: any. */
bool nv_hub_may_say_refusal(nv_hub *hub);

/** A number for a new telemetry stamp (nv_log_stamp.id). Thread: any. */
uint64_t nv_hub_next_stamp_id(nv_hub *hub);

/** The hub stops: what waits for leisure is stored at the end of the next turn. Thread: any. */
void nv_hub_stop(nv_hub *hub);

/**
 * Wait until the loops have stored what they kept for leisure; from then on they ask log and state for nothing, so that
 * these can close while the loops still run. After nv_hub_stop() and the end of the last connection. Blocks. Thread:
 * not a loop's.
 */
void nv_hub_settle(nv_hub *hub);

/** At the end of each turn of a loop, after all input was handled: submits what the turn collected. Thread: that loop.
 */
void nv_hub_loop_turn_end(nv_hub_loop *loop);

/** When nv_hub_loop_tick() is to be called next; it moves with every turn. INT64_MAX: not at all. Thread: the loop's.
 */
int64_t nv_hub_loop_due(const nv_hub_loop *loop);
/** Run the core's timers that are due (locks of messages, method timeouts, expiry). Thread: the loop's. */
void nv_hub_loop_tick(nv_hub_loop *loop, int64_t now_us);

#endif
