#include "base/map.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <assert.h>
#include <stdlib.h>

void nv_map_init(nv_map *map, uint64_t seed)
{
    *map = (nv_map){.seed = seed};
}

void nv_map_deinit(nv_map *map)
{
    free(map->slots);
    *map = (nv_map){.seed = map->seed};
}

static uint32_t hash_key(const nv_map *map, nv_span key)
{
    /* The seed goes in before the final multiplications, so equal stable hashes still spread. */
    uint64_t h = (map->seed ^ key.len) * UINT64_C(0x9e3779b97f4a7c15);
    for (size_t i = 0; i < key.len; i++) {
        h = (h ^ key.ptr[i]) * UINT64_C(0x100000001b3);
    }
    h ^= h >> 32;
    h *= UINT64_C(0xff51afd7ed558ccd);
    return (uint32_t)(h ^ h >> 29);
}

static nv_span key_of(const nv_map_slot *slot)
{
    return nv_span_of(slot->key, slot->len);
}

/* The slot that holds the key, or NULL. A deleted slot has a key and no value. */
static nv_map_slot *find(const nv_map *map, nv_span key, uint32_t hash)
{
    if (map->capacity == 0) {
        return NULL;
    }
    for (size_t i = hash & (map->capacity - 1);; i = (i + 1) & (map->capacity - 1)) {
        nv_map_slot *slot = &map->slots[i];
        if (!slot->value && !slot->key) {
            return NULL;
        }
        if (slot->value && slot->hash == hash && nv_span_eq(key_of(slot), key)) {
            return slot;
        }
    }
}

void *nv_map_get(const nv_map *map, nv_span key)
{
    nv_map_slot *slot = find(map, key, hash_key(map, key));
    return slot ? slot->value : NULL;
}

static void insert_new(nv_map *map, nv_span key, uint32_t hash, void *value)
{
    size_t i = hash & (map->capacity - 1);
    while (map->slots[i].value || map->slots[i].key) {
        i = (i + 1) & (map->capacity - 1);
    }
    map->slots[i] = (nv_map_slot){key.ptr, value, (uint32_t)key.len, hash};
    map->used++;
    map->count++;
}

static void grow(nv_map *map)
{
    nv_map old = *map;
    size_t capacity = 16;
    while (capacity < (old.count + 1) * 2) {
        capacity *= 2;
    }
    map->slots = nv_calloc(capacity, sizeof(*map->slots));
    map->capacity = capacity;
    map->count = map->used = 0;
    for (size_t i = 0; i < old.capacity; i++) {
        if (old.slots[i].value) {
            insert_new(map, key_of(&old.slots[i]), old.slots[i].hash, old.slots[i].value);
        }
    }
    free(old.slots);
}

void *nv_map_put(nv_map *map, nv_span key, void *value)
{
    assert(value && key.ptr && key.len <= UINT32_MAX);
    uint32_t hash = hash_key(map, key);
    nv_map_slot *slot = find(map, key, hash);
    if (slot) {
        void *before = slot->value;
        slot->value = value;
        slot->key = key.ptr; /* the old key may live in the old value */
        return before;
    }
    if ((map->used + 1) * 4 > map->capacity * 3) {
        grow(map);
    }
    insert_new(map, key, hash, value);
    return NULL;
}

void *nv_map_remove(nv_map *map, nv_span key)
{
    static const uint8_t deleted;
    nv_map_slot *slot = find(map, key, hash_key(map, key));
    if (!slot) {
        return NULL;
    }
    void *value = slot->value;
    *slot = (nv_map_slot){.key = &deleted};
    map->count--;
    return value;
}

void *nv_map_next(const nv_map *map, size_t *pos)
{
    while (*pos < map->capacity) {
        void *value = map->slots[(*pos)++].value;
        if (value) {
            return value;
        }
    }
    return NULL;
}
