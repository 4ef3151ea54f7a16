/**
 * Memory that is given back all at once: allocate many small things, reset. What is reset is overwritten, so that
 * secrets do not linger and a stale pointer shows. Not bounded by itself: the user bounds what goes in.
 */
#ifndef NV_BASE_ARENA_H
#define NV_BASE_ARENA_H

#include "base/span.h"

typedef struct nv_arena_chunk nv_arena_chunk;

/** Zeroed is valid and empty. */
typedef struct nv_arena {
    nv_arena_chunk *_chunks; /* newest first */
} nv_arena;

/** Aligned for any type; not cleared; aborts when memory is out. */
void *nv_arena_alloc(nv_arena *arena, size_t size);
/** A copy that lives in the arena. An empty span stays without memory. */
nv_span nv_arena_copy(nv_arena *arena, nv_span bytes);
/** Everything allocated before is gone; the newest chunk is kept for the next use. */
void nv_arena_reset(nv_arena *arena);
void nv_arena_deinit(nv_arena *arena);

#endif
