#include "store/log_cache.h"

static void drop_oldest(nv_log_cache *cache)
{
    nv_log_slab *slab = cache->slots[0].piece.slab;
    cache->held -= slab->capacity;
    cache->count--;
    memmove(&cache->slots[0], &cache->slots[1], cache->count * sizeof(cache->slots[0]));
    nv_log_slab_spare(slab, &cache->spare);
}

bool nv_log_cache_renew_locked(nv_log_cache *cache, uint64_t rollbacks)
{
    bool same = cache->rollbacks == rollbacks;
    cache->rollbacks = rollbacks;
    cache->most = cache->users > 1 ? NV_LOG_CACHE_BYTES : NV_LOG_CACHE_ALONE;
    return same;
}

bool nv_log_cache_find(const nv_log_cache *cache, const nv_segment_header *file, uint64_t commit, nv_log_cached *out)
{
    for (size_t i = cache->count; i-- > 0;) {
        const nv_log_cached *slot = &cache->slots[i];
        if (slot->piece.first_commit <= commit && commit < slot->piece.next_commit && slot->segment == file->number &&
            slot->generation == file->generation) {
            *out = *slot;
            nv_log_slab_ref(out->piece.slab);
            return true;
        }
    }
    return false;
}

static bool is_full(const nv_log_cache *cache, size_t more)
{
    return cache->count && (cache->count == NV_LOG_CACHE_SLOTS || cache->held + more > cache->most);
}

size_t nv_log_cache_next_to_go(const nv_log_cache *cache)
{
    size_t count = 0;
    for (size_t held = cache->held; count < cache->count && held + NV_LOG_CACHE_COMMIT > cache->most; count++) {
        held -= cache->slots[count].piece.slab->capacity;
    }
    return count || cache->count < NV_LOG_CACHE_SLOTS ? count : 1;
}

nv_log_slab *nv_log_cache_slab(nv_log_cache *cache, size_t bytes)
{
    size_t capacity = bytes > NV_LOG_SLAB_BYTES / 2 && bytes < NV_LOG_SLAB_BYTES ? NV_LOG_SLAB_BYTES : bytes;
    while (is_full(cache, capacity)) {
        drop_oldest(cache);
    }
    nv_log_slab *slab = capacity == NV_LOG_SLAB_BYTES ? cache->spare : NULL;
    if (slab) {
        cache->spare = NULL;
        return slab;
    }
    return nv_log_slab_new(capacity);
}

void nv_log_cache_keep(nv_log_cache *cache, const nv_log_cached *piece)
{
    nv_log_slab_ref(piece->piece.slab);
    cache->held += piece->piece.slab->capacity;
    cache->slots[cache->count++] = *piece;
}

bool nv_log_cache_is_empty(const nv_log_cache *cache)
{
    return cache->count == 0 && !cache->spare;
}

void nv_log_cache_drop(nv_log_cache *cache)
{
    while (cache->count) {
        drop_oldest(cache);
    }
    nv_log_slab_release(cache->spare);
    cache->spare = NULL;
}
