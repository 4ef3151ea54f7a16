/**
 * Memory that commits stand in once for all who read them: of the log's tail (log_tail.h), or read from a segment file
 * (log_cache.h). A chunk that a reader hands out refers to its slab. Private to src/store.
 */
#ifndef NV_STORE_LOG_SLAB_H
#define NV_STORE_LOG_SLAB_H

#include "base/attrs.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { NV_LOG_SLAB_BYTES = 256 << 10 /* the usual size: what holds more gets a slab of its own size */ };

/** Bytes that were shown to a reader never change. */
typedef struct nv_log_slab {
    _Atomic unsigned refs;
    uint64_t id; /* the tail's: differs for each use of the memory */
    size_t capacity;
    uint8_t bytes[];
} nv_log_slab;

/** Commits in a row in a slab. */
typedef struct nv_log_piece {
    nv_log_slab *slab;
    size_t start;
    size_t end;
    uint64_t first_commit;
    uint64_t next_commit;
} nv_log_piece;

/** With one reference. @return NULL: no memory */
NV_NODISCARD nv_log_slab *nv_log_slab_new(size_t capacity);
void nv_log_slab_ref(nv_log_slab *slab);
/** Thread: any. NULL is fine. */
void nv_log_slab_release(nv_log_slab *slab);
/** Keep for the next use what nobody else refers to any more and has the usual size, or release it. */
void nv_log_slab_spare(nv_log_slab *slab, nv_log_slab **spare);

#endif
