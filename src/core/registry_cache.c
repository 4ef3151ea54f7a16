#include "core/registry_cache.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <stdlib.h>

typedef struct entry {
    nv_list link;
    nv_identity *identity; /* owned reference */
    size_t bytes;
    uint64_t learned; /* the bucket's last change when it entered */
    size_t key_len;
    char key[];
} entry;

void nv_cache_init(nv_cache *cache, size_t max_bytes, uint64_t seed)
{
    *cache = (nv_cache){.max_bytes = max_bytes};
    pthread_mutex_init(&cache->lock, NULL);
    nv_map_init(&cache->map, seed);
    nv_list_init(&cache->used);
}

static size_t bucket_of(nv_span device_id)
{
    return (size_t)(nv_hash_stable(device_id) % NV_CACHE_BUCKETS);
}

static void drop(nv_cache *cache, entry *old)
{
    nv_map_remove(&cache->map, nv_span_of(old->key, old->key_len));
    nv_list_remove(&old->link);
    cache->bytes -= old->bytes;
    nv_identity_unref(old->identity);
    free(old);
}

void nv_cache_deinit(nv_cache *cache)
{
    while (!nv_list_empty(&cache->used)) {
        drop(cache, nv_container_of(cache->used.next, entry, link));
    }
    nv_map_deinit(&cache->map);
    pthread_mutex_destroy(&cache->lock);
}

static bool is_stale(const nv_cache *cache, const entry *found, size_t bucket)
{
    return found->identity->module_id.len && found->learned < cache->purged[bucket];
}

nv_identity *nv_cache_find(nv_cache *cache, nv_span device_id, nv_span module_id, uint64_t *mark)
{
    char key[2 * NV_ID_MAX + 2];
    size_t key_len = nv_identity_key(device_id, module_id, key);
    size_t bucket = bucket_of(device_id);
    nv_identity *identity = NULL;
    pthread_mutex_lock(&cache->lock);
    entry *found = nv_map_get(&cache->map, nv_span_of(key, key_len));
    if (found && is_stale(cache, found, bucket)) {
        drop(cache, found);
        found = NULL;
    }
    if (found) {
        nv_list_remove(&found->link);
        nv_list_push_back(&cache->used, &found->link);
        identity = nv_identity_ref(found->identity);
    }
    *mark = cache->changed[bucket];
    pthread_mutex_unlock(&cache->lock);
    return identity;
}

static void remove_key(nv_cache *cache, nv_span key)
{
    entry *found = nv_map_get(&cache->map, key);
    if (found) {
        drop(cache, found);
    }
}

static void insert(nv_cache *cache, nv_span key, nv_identity *identity, uint64_t learned)
{
    size_t bytes = sizeof(entry) + key.len + 1 + identity->_bytes + 3 * sizeof(nv_map_slot);
    if (bytes > cache->max_bytes) {
        return;
    }
    while (cache->bytes + bytes > cache->max_bytes) {
        drop(cache, nv_container_of(cache->used.next, entry, link));
    }
    entry *fresh = nv_malloc(sizeof(*fresh) + key.len + 1);
    *fresh = (entry){.identity = nv_identity_ref(identity), .bytes = bytes, .learned = learned, .key_len = key.len};
    memcpy(fresh->key, key.ptr, key.len);
    nv_list_push_back(&cache->used, &fresh->link);
    nv_map_put(&cache->map, nv_span_of(fresh->key, fresh->key_len), fresh);
    cache->bytes += bytes;
}

void nv_cache_learn(nv_cache *cache, nv_identity *identity, uint64_t mark)
{
    char text[2 * NV_ID_MAX + 2];
    nv_span key = nv_span_of(text, nv_identity_key(identity->device_id, identity->module_id, text));
    pthread_mutex_lock(&cache->lock);
    if (cache->changed[bucket_of(identity->device_id)] == mark) {
        remove_key(cache, key);
        insert(cache, key, identity, mark);
    }
    pthread_mutex_unlock(&cache->lock);
}

void nv_cache_change(nv_cache *cache, uint64_t number, nv_span device_id, nv_span module_id, nv_identity *identity,
                     bool modules_too)
{
    char text[2 * NV_ID_MAX + 2];
    nv_span key = nv_span_of(text, nv_identity_key(device_id, module_id, text));
    size_t bucket = bucket_of(device_id);
    pthread_mutex_lock(&cache->lock);
    bool in_order = number > cache->changed[bucket];
    remove_key(cache, key);
    if (in_order) {
        cache->changed[bucket] = number;
    }
    if (modules_too) {
        /* Also when it comes late: everything learned so far may predate it. */
        cache->purged[bucket] = cache->changed[bucket];
    }
    if (in_order && identity) {
        insert(cache, key, identity, number);
    }
    pthread_mutex_unlock(&cache->lock);
}

void nv_cache_change_times(nv_cache *cache, uint64_t number, const nv_identity *identity, int64_t connection_updated_us,
                           int64_t last_activity_us)
{
    char text[2 * NV_ID_MAX + 2];
    nv_span key = nv_span_of(text, nv_identity_key(identity->device_id, identity->module_id, text));
    size_t bucket = bucket_of(identity->device_id);
    pthread_mutex_lock(&cache->lock);
    bool in_order = number >= cache->changed[bucket]; /* several of one change may share a bucket */
    entry *found = nv_map_get(&cache->map, key);
    if (in_order) {
        cache->changed[bucket] = number;
    }
    if (found && in_order && nv_span_eq(found->identity->generation_id, identity->generation_id)) {
        atomic_store_explicit(&found->identity->connection_updated_us, connection_updated_us, memory_order_relaxed);
        atomic_store_explicit(&found->identity->last_activity_us, last_activity_us, memory_order_relaxed);
    } else if (found) {
        drop(cache, found);
    }
    pthread_mutex_unlock(&cache->lock);
}
