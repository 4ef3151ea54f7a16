/**
 * The Event Hubs-compatible endpoint as the core knows it (amqp.md section 5): its entity name, consumer groups, and
 * who reads which partition with which owner level. Records themselves come from store/log.h.
 *
 * Groups are stored; receivers are not. Both belong to the whole hub and have one owner: the loop of shard 0.
 */
#ifndef NV_CORE_EVENT_HUB_H
#define NV_CORE_EVENT_HUB_H

#include "base/list.h"
#include "core/hub.h"
#include "core/registry.h"

/** The entity (event hub) name: what EntityPath says; `events.entity`, by default the first label of the hub's name.
 * Static for the life of the hub. */
nv_span nv_event_hub_entity(const nv_hub *hub);
/** Case does not count. */
bool nv_event_hub_is_entity(const nv_hub *hub, nv_span name);
/** When the log was made; wall. */
int64_t nv_event_hub_created_us(const nv_hub *hub);

/* ---- consumer groups ----------------------------------------------------------------------------------------------
 */

#define NV_GROUP_NAME_MAX 50u /* as the service: letters, digits, '-', '_', '.', first and last a letter or digit */
#define NV_GROUP_DEFAULT  "$Default"

typedef struct nv_group {
    nv_span name;       /* as created */
    int64_t created_us; /* wall */
} nv_group;

/** Case does not count; $Default always exists. Thread: any (a short lock). */
bool nv_group_exists(nv_hub *hub, nv_span name);
/** All of them, $Default first, then by name. @p each is called under the lock: it copies. Thread: any. */
void nv_groups_list(nv_hub *hub, void (*each)(void *arg, const nv_group *group), void *arg);

/** A name that a group can have, $Default aside. */
bool nv_group_name_is_valid(nv_span name);

/** Create or delete one; durable before done. Owned by the caller, alive until done. */
typedef struct nv_group_change {
    /* in; valid until done */
    nv_span name;
    bool create;                                  /* false: delete; its receivers are evicted */
    void (*done)(struct nv_group_change *change); /* on the loop that asked, never from within the call */
    void *arg;
    /* out */
    nv_hub_error
        error;        /* NONE, ArgumentInvalid (name, $Default cannot go), TooManyConsumerGroups, ServiceUnavailable */
    char detail[200]; /* "" when the error says all */
    bool existed;     /* create: it was there; delete: it was there */
    int64_t created_us;
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
} nv_group_change;
void nv_group_change_do(nv_hub_loop *loop, nv_group_change *change);

/* ---- receivers ------------------------------------------------------------------------------------------------- */

typedef enum nv_receiver_verdict {
    NV_RECEIVER_OK,
    NV_RECEIVER_STOLEN,   /* an owner with a higher level reads, or one that has a level while this one has none */
    NV_RECEIVER_TOO_MANY, /* five without a level read this partition for this group (limits: readers_per_partition) */
    NV_RECEIVER_NO_GROUP  /* there is no such group, or it was deleted meanwhile */
} nv_receiver_verdict;

/** Embedded in a link. Thread: its loop. */
typedef struct nv_receiver {
    /* in; group is copied */
    nv_span group;
    uint32_t partition;
    bool has_epoch;
    int64_t epoch;
    /** The answer, once, later. Then, if it was OK, at most one evicted(). */
    void (*opened)(struct nv_receiver *receiver, nv_receiver_verdict verdict);
    void (*evicted)(struct nv_receiver *receiver, nv_receiver_verdict why);
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
    nv_task _evict;
    nv_list _link;
    void (*_closed)(struct nv_receiver *receiver);
    nv_receiver_verdict _verdict; /* of opening */
    nv_receiver_verdict _why;     /* of eviction */
    size_t _group_len;
    char _group[NV_GROUP_NAME_MAX];
    uint8_t _state; /* the link's loop only */
} nv_receiver;
void nv_receiver_open(nv_hub_loop *loop, nv_receiver *receiver);
/** Also one that was not answered yet or was evicted. @p done on its loop; only then may the memory go, and nothing
 * else of it is called after this returns. */
void nv_receiver_close(nv_receiver *receiver, void (*done)(nv_receiver *receiver));

/* ---- for the hub ---------------------------------------------------------------------------------------------------
 */

typedef struct nv_event_hub nv_event_hub;
/** Loads the groups. Blocks. @p entity NULL: the default. */
NV_NODISCARD nv_err nv_event_hub_new(nv_event_hub **out, nv_hub *hub, const char *entity, nv_buf *why);
void nv_event_hub_free(nv_event_hub *event_hub);
/** Nothing asked of the store is on its way. Thread: the owner's loop. */
bool nv_event_hub_idle(const nv_event_hub *event_hub);

#endif
