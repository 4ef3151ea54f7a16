/**
 * The newest commits in memory, for readers that follow: they cost neither reads from the disk nor checksums, and share
 * one copy. Exists only while a reader follows near the end; bounded. Private to src/store.
 *
 *   writer: nv_tail_prepare (copies, no lock) -> nv_tail_publish_locked -> wakes followers
 *   reader thread: nv_tail_find_locked -> a piece of a slab, referred to by the chunk
 */
#ifndef NV_STORE_LOG_TAIL_H
#define NV_STORE_LOG_TAIL_H

#include "store/log_format.h"
#include "store/log_slab.h"

enum {
    NV_TAIL_BYTES = 4 << 20, /* of slabs held */
    NV_TAIL_SLOTS = 32,
    NV_TAIL_PIECES = 64 /* commits in one group */
};

typedef struct nv_tail {
    _Atomic unsigned users; /* readers that follow near the end; changed under the log's lock */
    /* under the log's lock; commits stand in their slabs densely, so that the length on disk in a header is that of
     * the copy */
    nv_log_piece slots[NV_TAIL_SLOTS]; /* oldest first, no gap between; each holds a reference */
    size_t count;
    size_t held; /* bytes of their slabs */
    /* under the log's write_lock */
    nv_log_slab *open; /* NULL or being filled; a reference */
    size_t open_used;
    nv_log_slab *spare; /* NULL or ready for use */
    uint64_t next_id;
    nv_log_piece ready[NV_TAIL_PIECES]; /* prepared, not yet published */
    size_t ready_count;
    nv_log_slab *gone[NV_TAIL_SLOTS + NV_TAIL_PIECES]; /* dropped under the lock, to be released after it */
    size_t gone_count;
} nv_tail;

/** Copy a commit that was written. Memory being short only means that readers find it on the disk. */
void nv_tail_prepare(nv_tail *tail, const uint8_t *commit);
/** Show what was prepared; forgets the oldest beyond the bound, and everything when there are no users. */
void nv_tail_publish_locked(nv_tail *tail);
/** Forget everything: a tail of the log was dropped. Under both locks. */
void nv_tail_drop_locked(nv_tail *tail);
/** Release what publish or drop let go. Under write_lock, without the lock. */
void nv_tail_release(nv_tail *tail);
/** @return the piece that holds @p commit, or NULL. The caller takes a reference before it lets go of the lock. */
const nv_log_piece *nv_tail_find_locked(const nv_tail *tail, uint64_t commit);
void nv_tail_deinit(nv_tail *tail);

#endif
