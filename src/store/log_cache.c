#include "store/log_cache.h"

#include <stdlib.h>

static void drop_oldest(nv_log_cache *cache)
{
    nv_tail_block *block = cache->slots[0].piece.block;
    cache->held -= block->capacity;
    cache->count--;
    memmove(&cache->slots[0], &cache->slots[1], cache->count * sizeof(cache->slots[0]));
    bool last = atomic_load_explicit(&block->refs, memory_order_acquire) == 1; /* nobody can take another */
    if (last && !cache->spare && block->capacity == NV_TAIL_BLOCK) {
        cache->spare = block;
    } else {
        nv_tail_block_release(block);
    }
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
            nv_tail_block_ref(out->piece.block);
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
        held -= cache->slots[count].piece.block->capacity;
    }
    return count || cache->count < NV_LOG_CACHE_SLOTS ? count : 1;
}

nv_tail_block *nv_log_cache_block(nv_log_cache *cache, size_t bytes)
{
    size_t capacity = bytes > NV_TAIL_BLOCK / 2 && bytes < NV_TAIL_BLOCK ? NV_TAIL_BLOCK : bytes;
    while (is_full(cache, capacity)) {
        drop_oldest(cache);
    }
    nv_tail_block *block = capacity == NV_TAIL_BLOCK ? cache->spare : NULL;
    if (block) {
        cache->spare = NULL;
        return block;
    }
    block = malloc(sizeof(*block) + capacity);
    if (block) {
        atomic_init(&block->refs, 1);
        block->id = 0;
        block->capacity = capacity;
    }
    return block;
}

void nv_log_cache_keep(nv_log_cache *cache, const nv_log_cached *piece)
{
    nv_tail_block_ref(piece->piece.block);
    cache->held += piece->piece.block->capacity;
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
    nv_tail_block_release(cache->spare);
    cache->spare = NULL;
}
