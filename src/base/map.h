/**
 * Hash map from byte strings to pointers. Keys are borrowed: they must live in the value or outlive
 * the entry. Open addressing; the hash is seeded per map, so that peers cannot choose collisions.
 * Thread: the caller's; no locking.
 */
#ifndef NV_BASE_MAP_H
#define NV_BASE_MAP_H

#include "base/span.h"

typedef struct nv_map_slot {
    const uint8_t *key; /* of len bytes; NULL: the slot was never used */
    void *value;        /* NULL: empty or deleted */
    uint32_t len;
    uint32_t hash;
} nv_map_slot;

typedef struct nv_map {
    nv_map_slot *slots;
    size_t capacity; /* power of two, or 0 */
    size_t count;
    size_t used; /* live and deleted slots */
    uint64_t seed;
} nv_map;

void nv_map_init(nv_map *map, uint64_t seed);
/** Frees the table, never the values. */
void nv_map_deinit(nv_map *map);
void *nv_map_get(const nv_map *map, nv_span key);
/** Insert or replace. @p value is not NULL, @p key shorter than 4 GB. @return the value that was there before, or NULL
 */
void *nv_map_put(nv_map *map, nv_span key, void *value);
/** @return the value removed, or NULL */
void *nv_map_remove(nv_map *map, nv_span key);
/** Iterate: start with *pos = 0. Do not insert or remove meanwhile. @return NULL at the end */
void *nv_map_next(const nv_map *map, size_t *pos);

#endif
