/**
 * What was lately read from the segment files, for readers that catch up. Consumers open a reader for each partition,
 * and every one of them passes over the whole journal: while they are not far apart the bytes are read and verified
 * once for all of them. Bounded; exists only while a reader reads from the files. Private to src/store.
 *
 *   reader thread: nv_log_cache_find, or else nv_log_cache_slab -> read and verify -> nv_log_cache_keep
 *
 * Thread: the reader thread, which calls what ends in _locked under the log's lock.
 */
#ifndef NV_STORE_LOG_CACHE_H
#define NV_STORE_LOG_CACHE_H

#include "store/log_format.h"
#include "store/log_slab.h"

enum {
    NV_LOG_CACHE_BYTES = 8 << 20, /* of slabs held: as far as readers may be apart */
    NV_LOG_CACHE_ALONE =
        2 * NV_LOG_SLAB_BYTES,     /* the same for one reader: it gets the memory back that it is through with */
    NV_LOG_CACHE_COMMIT = 2 << 20, /* about the largest commit */
    NV_LOG_CACHE_SLOTS = 64
};

/** Verified commits of a file, from the start of their slab. */
typedef struct nv_log_cached {
    nv_log_piece piece;
    uint64_t segment;
    uint64_t generation;
    uint64_t position; /* in the file, of the slab's first byte */
} nv_log_cached;

typedef struct nv_log_cache {
    unsigned users; /* readers that read from the files; under the log's lock, any thread */
    size_t most;    /* bytes to hold */
    uint64_t rollbacks;
    nv_log_cached slots[NV_LOG_CACHE_SLOTS]; /* oldest first; each holds a reference */
    size_t count;
    size_t held;        /* bytes of their slabs */
    nv_log_slab *spare; /* NULL or ready for use */
} nv_log_cache;

/** Heed what changed: how many use it. @return false when a tail of the log was dropped: drop the content, unlocked */
NV_NODISCARD bool nv_log_cache_renew_locked(nv_log_cache *cache, uint64_t rollbacks);
/** Find the piece of this file that holds @p commit. @return whether; *out then has a reference to its slab */
bool nv_log_cache_find(const nv_log_cache *cache, const nv_segment_header *file, uint64_t commit, nv_log_cached *out);
/** @return how many of the oldest pieces go when the largest commit is kept */
size_t nv_log_cache_next_to_go(const nv_log_cache *cache);
/** Memory to read @p bytes into, with one reference. @return NULL no memory */
NV_NODISCARD nv_log_slab *nv_log_cache_slab(nv_log_cache *cache, size_t bytes);
/** Keep a piece that was read, with a reference of its own. */
void nv_log_cache_keep(nv_log_cache *cache, const nv_log_cached *piece);
bool nv_log_cache_is_empty(const nv_log_cache *cache);
/** Forget everything. */
void nv_log_cache_drop(nv_log_cache *cache);

#endif
