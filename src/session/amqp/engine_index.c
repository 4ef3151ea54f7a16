#include "session/amqp/engine_impl.h"

#include "base/alloc.h"

#include <stdlib.h>

/* ---- sorted tables ------------------------------------------------------------------------------------------ */

/* The place of the first item whose key is not below @p key. */
static uint32_t place_of(const engine_index *index, uint32_t key)
{
    if (key < index->count && index->items[key].key == key) {
        return key;
    }
    uint32_t low = 0;
    uint32_t high = index->count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (index->items[mid].key < key) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

void *engine_index_get(const engine_index *index, uint32_t key)
{
    uint32_t at = place_of(index, key);
    return at < index->count && index->items[at].key == key ? index->items[at].value : NULL;
}

void engine_index_put(engine_index *index, uint32_t key, void *value)
{
    if (index->count == index->capacity) {
        index->capacity = index->capacity ? index->capacity * 2 : 2;
        index->items = nv_realloc(index->items, index->capacity * sizeof(*index->items));
    }
    uint32_t at = place_of(index, key);
    memmove(index->items + at + 1, index->items + at, (index->count - at) * sizeof(*index->items));
    index->items[at] = (engine_item){key, value};
    index->count++;
}

void engine_index_remove(engine_index *index, uint32_t key)
{
    uint32_t at = place_of(index, key);
    if (at < index->count && index->items[at].key == key) {
        index->count--;
        memmove(index->items + at, index->items + at + 1, (index->count - at) * sizeof(*index->items));
    }
}

uint32_t engine_index_gap(const engine_index *index)
{
    uint32_t low = 0; /* items before it are dense from 0 */
    uint32_t high = index->count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (index->items[mid].key == mid) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

void engine_index_deinit(engine_index *index)
{
    free(index->items);
    *index = (engine_index){NULL, 0, 0};
}

/* ---- rings of unsettled deliveries --------------------------------------------------------------------------- */

/* Drop the settled ones wherever they are. */
static void compact(engine_ring *ring)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < ring->count; i++) {
        const engine_entry *entry = engine_ring_at(ring, i);
        if (!entry->settled) {
            *engine_ring_at(ring, kept++) = *entry;
        }
    }
    ring->count = kept;
}

static bool grow(engine_ring *ring)
{
    uint32_t capacity = ring->capacity ? ring->capacity * 2 : 8;
    engine_entry *entries = malloc(capacity * sizeof(*entries));
    if (!entries) {
        return false;
    }
    for (uint32_t i = 0; i < ring->count; i++) {
        entries[i] = *engine_ring_at(ring, i);
    }
    free(ring->entries);
    ring->entries = entries;
    ring->head = 0;
    ring->capacity = capacity;
    return true;
}

bool engine_ring_push(engine_ring *ring, const engine_entry *entry)
{
    if (NV_UNLIKELY(ring->count == ring->capacity)) {
        if (ring->live <= ring->count / 2) {
            compact(ring);
        }
        if (ring->count == ring->capacity && !grow(ring)) {
            return false;
        }
    }
    *engine_ring_at(ring, ring->count) = *entry;
    ring->count++;
    ring->live++;
    return true;
}

/* The place of the first entry that is not before @p id. */
static uint32_t ring_place(const engine_ring *ring, uint32_t id)
{
    uint32_t low = 0;
    uint32_t high = ring->count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (engine_before(engine_ring_at(ring, mid)->id, id)) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

engine_entry *engine_ring_from(const engine_ring *ring, uint32_t id)
{
    for (uint32_t i = ring_place(ring, id); i < ring->count; i++) {
        engine_entry *entry = engine_ring_at(ring, i);
        if (!entry->settled) {
            return entry;
        }
    }
    return NULL;
}

engine_entry *engine_ring_find(const engine_ring *ring, uint32_t id)
{
    if (ring->count == 0) {
        return NULL;
    }
    engine_entry *first = engine_ring_at(ring, 0); /* settled in order as a rule */
    if (first->id == id) {
        return first->settled ? NULL : first;
    }
    uint32_t at = ring_place(ring, id);
    engine_entry *entry = at < ring->count ? engine_ring_at(ring, at) : NULL;
    return entry && entry->id == id && !entry->settled ? entry : NULL;
}

void engine_ring_settle(engine_ring *ring, engine_entry *entry)
{
    entry->settled = 1;
    ring->live--;
    while (ring->count > 0 && engine_ring_at(ring, 0)->settled) {
        ring->head = (ring->head + 1) & (ring->capacity - 1);
        ring->count--;
    }
}

bool engine_ring_unpush(engine_ring *ring, uint32_t id)
{
    if (ring->count == 0) {
        return false;
    }
    engine_entry *last = engine_ring_at(ring, ring->count - 1);
    if (last->id != id || last->settled) {
        return false;
    }
    ring->count--;
    ring->live--;
    return true;
}

void engine_ring_deinit(engine_ring *ring)
{
    free(ring->entries);
    *ring = (engine_ring){.entries = NULL};
}

void engine_ring_trim(engine_ring *ring)
{
    if (ring->count == 0) {
        engine_ring_deinit(ring);
    }
}
