/**
 * Recently used identities in memory, bounded by bytes, the least recently used going first. Never older than the last
 * change that was applied, however reads and changes of several loops interleave:
 *
 * Changes are numbered in the order of their commits. Devices fall into buckets that know the last change applied. A
 * snapshot that was read from the store enters only if no change was applied to its bucket since before the read; a
 * change that arrives late (a later one of its bucket was applied) only removes. Internal to core/registry.c.
 */
#ifndef NV_CORE_REGISTRY_CACHE_H
#define NV_CORE_REGISTRY_CACHE_H

#include "base/list.h"
#include "base/map.h"
#include "core/identity.h"

#include <pthread.h>

#define NV_CACHE_BUCKETS 4096u

typedef struct nv_cache {
    pthread_mutex_t lock;
    nv_map map;   /* identity key -> entry */
    nv_list used; /* least recently used first */
    size_t bytes;
    size_t max_bytes;
    uint64_t changed[NV_CACHE_BUCKETS]; /* the last change applied */
    uint64_t purged[NV_CACHE_BUCKETS];  /* the last change after which modules read before are stale */
} nv_cache;

void nv_cache_init(nv_cache *cache, size_t max_bytes, uint64_t seed);
void nv_cache_deinit(nv_cache *cache);

/** @param mark  receives what nv_cache_learn wants, when the result is NULL. @return a reference, or NULL */
nv_identity *nv_cache_find(nv_cache *cache, nv_span device_id, nv_span module_id, uint64_t *mark);
/** Keep a snapshot read from the store by a read that began after @p mark was handed out. */
void nv_cache_learn(nv_cache *cache, nv_identity *identity, uint64_t mark);
/**
 * Change @p number is committed. @param identity  what is now, NULL = nothing to keep
 * @param modules_too  a device's status changed or it is gone: its modules' snapshots are stale
 */
void nv_cache_change(nv_cache *cache, uint64_t number, nv_span device_id, nv_span module_id, nv_identity *identity,
                     bool modules_too);
/**
 * Change @p number is committed, and it was only that the times of @p identity were stored. What is kept of the same
 * generation stays, with these times: a device that comes and goes must not be read from the store each time.
 */
void nv_cache_change_times(nv_cache *cache, uint64_t number, const nv_identity *identity, int64_t connection_updated_us,
                           int64_t last_activity_us);

/** nv_hub.registry */
struct nv_registry {
    nv_cache cache;
    _Atomic uint64_t changes; /* numbers given to changes, in the order of their transactions */
};

/** Thread: the state store's writer, so that numbers follow the order of the commits. */
static inline uint64_t nv_registry_number(struct nv_registry *registry)
{
    return atomic_fetch_add(&registry->changes, 1) + 1;
}

#endif
