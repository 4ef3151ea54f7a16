#include "base/arena.h"

#include "base/alloc.h"

#include <stdlib.h>

#define CHUNK_BYTES ((size_t)4096)

struct nv_arena_chunk {
    nv_arena_chunk *next;
    size_t used;
    size_t capacity;
    max_align_t memory[];
};

static void *take(nv_arena_chunk *chunk, size_t size)
{
    void *out = (uint8_t *)chunk->memory + chunk->used;
    chunk->used += size;
    return out;
}

void *nv_arena_alloc(nv_arena *arena, size_t size)
{
    const size_t unit = _Alignof(max_align_t);
    size_t rounded = (size + unit - 1) / unit * unit;
    nv_arena_chunk *chunk = arena->_chunks;
    if (chunk && chunk->capacity - chunk->used >= rounded) {
        return take(chunk, rounded);
    }
    size_t capacity = rounded > CHUNK_BYTES ? rounded : CHUNK_BYTES;
    nv_arena_chunk *fresh = nv_malloc(sizeof(*fresh) + capacity);
    *fresh = (nv_arena_chunk){.next = chunk, .capacity = capacity};
    arena->_chunks = fresh;
    return take(fresh, rounded);
}

nv_span nv_arena_copy(nv_arena *arena, nv_span bytes)
{
    if (bytes.len == 0) {
        return NV_SPAN_EMPTY;
    }
    void *copy = nv_arena_alloc(arena, bytes.len);
    memcpy(copy, bytes.ptr, bytes.len);
    return nv_span_of(copy, bytes.len);
}

static void free_chain(nv_arena_chunk *chunk)
{
    while (chunk) {
        nv_arena_chunk *next = chunk->next;
        nv_wipe(chunk->memory, chunk->used);
        free(chunk);
        chunk = next;
    }
}

void nv_arena_reset(nv_arena *arena)
{
    nv_arena_chunk *first = arena->_chunks;
    if (!first) {
        return;
    }
    free_chain(first->next);
    nv_wipe(first->memory, first->used);
    first->next = NULL;
    first->used = 0;
}

void nv_arena_deinit(nv_arena *arena)
{
    free_chain(arena->_chunks);
    arena->_chunks = NULL;
}
