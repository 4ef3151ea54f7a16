/**
 * The inside of core/devices.h, shared by its files: devices.c (claims from asking to release), device_session.c
 * (stored sessions), deliver.c (what goes to a connection, and who waits for one), presence.c (who is there since
 * when).
 *
 * One table per loop, of the devices whose shard lives there. Everything is touched on that loop only, but for the
 * fields under `lock`: the loop alone writes them and reads them freely, others read them under the lock.
 */
#ifndef NV_CORE_DEVICE_TABLE_H
#define NV_CORE_DEVICE_TABLE_H

#include "base/map.h"
#include "core/devices.h"
#include "core/registry.h"
#include "store/state.h"

#include <pthread.h>

/* How often live connections are looked at, whether they were active. */
#define NV_DEVICE_WALK_US (60 * NV_US_PER_S)

typedef struct nv_device_opening nv_device_opening;

/** A device or module with claims, or with something of it in flight. */
typedef struct nv_device_entry {
    nv_device_table *table;
    nv_list claims;             /* oldest first; at most the last is not evicted */
    nv_claim *holder;           /* granted, or about to be */
    nv_device_opening *opening; /* in flight on behalf of the holder */
    nv_list watchers;
    struct nv_connection_line *line; /* connection_events.c; NULL: nothing was told, or is to be */
    /* under table->lock */
    nv_claim *live; /* the holder once it is granted; NULL: not connected */
    int64_t connection_updated_us;
    int64_t last_activity_us;
    /* again of the loop alone */
    struct nv_device_entry *device;   /* of a module */
    struct nv_c2d_receiver *receiver; /* of its messages, while their queue is at rest (c2d_queue.h); or NULL */
    nv_list modules;                  /* of a device: their siblings; of a module: its own link there */
    uint32_t stores;                  /* of its session in flight: the next load must see them */
    uint32_t saves;                   /* of its times in flight: until then the entry answers for presence */
    uint32_t telling;                 /* watchers are being told: the entry stays */
    uint16_t device_len;
    uint16_t key_len;
    char key[]; /* nv_identity_key */
} nv_device_entry;

typedef struct nv_seen_list {
    nv_registry_seen *seen;
    nv_device_entry **entries;
    size_t count;
    size_t capacity;
} nv_seen_list;

struct nv_device_table {
    nv_hub_loop *loop;
    pthread_mutex_t lock;                     /* held for a moment only, never across a call to others */
    nv_map entries;                           /* under lock */
    nv_seen_list gone;                        /* disconnected, to be saved */
    struct nv_connection_events *connections; /* connection_events.c; NULL: nobody wants them */
    nv_seen_list saving;                      /* in flight */
    int64_t walk_us;                          /* when live connections are looked at next, monotonic */
    size_t walk_at;                           /* where that is in entries */
    int64_t save_us;                          /* not before, monotonic: many disconnections share one transaction */
    bool busy;
    bool closed; /* nothing is saved any more */
};

/* ---- devices.c ---- */

/** NULL when there is none; also for ids that no identity can have. */
nv_device_entry *nv_device_entry_find(const nv_device_table *table, nv_span device_id, nv_span module_id);
/** Found or made. The ids are of legal length. */
nv_device_entry *nv_device_entry_make(nv_device_table *table, nv_span device_id, nv_span module_id);
/** Forget the entry (and its device's) when nothing is of it any more. NULL is fine. */
void nv_device_entry_drop_unused(nv_device_entry *e);
/** The receiver of a device's messages stands here while their queue is not in memory: one, no other is there. */
void nv_device_keep_receiver(nv_hub_loop *shard, nv_span device_id, struct nv_c2d_receiver *receiver);
/** @return the one that stands here, from now on the caller's; NULL: none */
struct nv_c2d_receiver *nv_device_take_receiver(nv_hub_loop *shard, nv_span device_id);
/** With nobody holding the identity and nothing of it in flight, the newest claim comes next. */
void nv_device_entry_open_next(nv_device_entry *e);

static inline bool nv_device_entry_is_device(const nv_device_entry *e)
{
    return e->device == NULL;
}

/** The connection that may be talked to now, or NULL. */
static inline nv_claim *nv_device_entry_talker(const nv_device_entry *e)
{
    return e && e->live && !e->live->_evicted ? e->live : NULL;
}

/* ---- device_session.c ---- */

/** @return false: what is stored cannot be read (a later version, damage); that is no session */
bool nv_device_session_decode(nv_span blob, nv_claim *claim);
/** Decimal ticks as a number. */
uint64_t nv_device_generation(const nv_identity *identity);
/** Snapshots remember whether a session is stored, so that a device which keeps none costs the store nothing. */
void nv_device_session_remember(nv_identity *identity, nv_identity_session known);
/** From its first connection with clean=0 a session exists, with or without subscriptions [MQTT-3.2.2-2]. */
void nv_device_session_begin(nv_device_entry *e, const nv_claim *claim);

/* ---- presence.c ---- */

void nv_device_connected(nv_device_entry *e, nv_claim *claim);
void nv_device_disconnected(nv_device_entry *e, nv_claim *claim);
void nv_seen_list_deinit(nv_seen_list *list);

/* ---- connection_events.c ---- */

/** NULL is fine. */
void nv_connection_events_free(struct nv_connection_events *connections);
/** The first operation of the connection that is there now. Thread: the shard's loop. */
void nv_connection_operated(nv_device_entry *e, nv_identity *identity);
/** A connection went. Thread: the shard's loop. */
void nv_connection_ended(nv_device_entry *e);
/** Forget, telling nothing: for the end of the table. */
void nv_connection_line_free(nv_device_entry *e);
void nv_connection_events_turn_end(struct nv_connection_events *connections);
/** Nothing waits to be stored. */
bool nv_connection_events_idle(const struct nv_connection_events *connections);

/* ---- deliver.c ---- */

typedef enum nv_device_news {
    NV_NEWS_WANTS,  /* the connection came to want something */
    NV_NEWS_GONE,   /* the connection went */
    NV_NEWS_DELETED /* the identity did; its connection is still there, and may have answered what it was asked */
} nv_device_news;
/** Tell who waits for @p news of @p e. May free nothing of @p e. */
void nv_device_tell_watchers(nv_device_entry *e, nv_device_news news);

#endif
