#include "core/refusal.h"

#include "base/alloc.h"
#include "base/attrs.h"
#include "base/list.h"
#include "base/map.h"
#include "core/identity.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

static const nv_refusal_info infos[NV_REFUSAL_COUNT] = {
#define X(id, name, cause, cure) {name, cause, cure},
    NV_REFUSAL_TABLE(X)
#undef X
};

const nv_refusal_info *nv_refusal_info_of(nv_refusal refusal)
{
    assert(refusal >= NV_REFUSAL_NONE && refusal < NV_REFUSAL_COUNT);
    return &infos[refusal];
}

/* The refusals of one identity: a ring, newest at (first + count - 1). */
typedef struct suspect {
    nv_list by_age; /* in nv_refusals.by_age, least recently refused first */
    size_t first;
    size_t count;
    nv_refusal_entry *entries; /* nv_refusals.per_identity of them, allocated as they are needed */
    size_t allocated;
    size_t key_len;
    char key[]; /* nv_identity_key */
} suspect;

struct nv_refusals {
    pthread_mutex_t lock;
    nv_map by_key;
    nv_list by_age;
    size_t identities;
    size_t per_identity;
};

nv_refusals *nv_refusals_new(int64_t identities, int64_t per_identity, uint64_t seed)
{
    nv_refusals *refusals = nv_calloc(1, sizeof(*refusals));
    pthread_mutex_init(&refusals->lock, NULL);
    nv_map_init(&refusals->by_key, seed);
    nv_list_init(&refusals->by_age);
    refusals->identities = identities > 0 ? (size_t)identities : 1;
    refusals->per_identity = per_identity > 0 ? (size_t)per_identity : 1;
    return refusals;
}

static void forget_oldest(nv_refusals *refusals)
{
    suspect *oldest = nv_container_of(refusals->by_age.next, suspect, by_age);
    nv_list_remove(&oldest->by_age);
    nv_map_remove(&refusals->by_key, nv_span_of(oldest->key, oldest->key_len));
    free(oldest->entries);
    free(oldest);
}

void nv_refusals_free(nv_refusals *refusals)
{
    if (!refusals) {
        return;
    }
    while (!nv_list_empty(&refusals->by_age)) {
        forget_oldest(refusals);
    }
    nv_map_deinit(&refusals->by_key);
    pthread_mutex_destroy(&refusals->lock);
    free(refusals);
}

/* Ids come from peers here and may be of any length; longer ones than exist are cut. */
static size_t key_of(nv_span device_id, nv_span module_id, char *out)
{
    return nv_identity_key(nv_span_first(device_id, NV_ID_MAX), nv_span_first(module_id, NV_ID_MAX), out);
}

static suspect *suspect_of(nv_refusals *refusals, const char *key, size_t len)
{
    suspect *found = nv_map_get(&refusals->by_key, nv_span_of(key, len));
    if (found) {
        nv_list_remove(&found->by_age);
    } else {
        if (refusals->by_key.count >= refusals->identities) {
            forget_oldest(refusals);
        }
        found = nv_calloc(1, sizeof(*found) + len);
        found->key_len = len;
        memcpy(found->key, key, len);
        nv_map_put(&refusals->by_key, nv_span_of(found->key, len), found);
    }
    nv_list_push_back(&refusals->by_age, &found->by_age);
    return found;
}

/* Only when count is not 0. */
static nv_refusal_entry *newest(const nv_refusals *refusals, const suspect *who)
{
    NV_KNOWN(refusals->per_identity > 0);
    return &who->entries[(who->first + who->count - 1) % refusals->per_identity];
}

/* A device that retries every second must not push out what happened before. */
static bool repeats(const nv_refusal_entry *last, const nv_refusal_entry *entry)
{
    return last->refusal == entry->refusal && strcmp(last->protocol, entry->protocol) == 0;
}

static nv_refusal_entry *next_slot(const nv_refusals *refusals, suspect *who)
{
    NV_KNOWN(refusals->per_identity > 0);
    if (who->count == refusals->per_identity) {
        who->first = (who->first + 1) % refusals->per_identity;
        return newest(refusals, who);
    }
    if (who->count == who->allocated) { /* first is 0 until the ring is full */
        who->allocated = who->allocated ? who->allocated * 2 : 1;
        if (who->allocated > refusals->per_identity) {
            who->allocated = refusals->per_identity;
        }
        who->entries = nv_realloc(who->entries, who->allocated * sizeof(*who->entries));
    }
    who->count++;
    return newest(refusals, who);
}

void nv_refusals_note(nv_refusals *refusals, nv_span device_id, nv_span module_id, const nv_refusal_entry *entry)
{
    char key[2 * NV_ID_MAX + 2];
    size_t len = key_of(device_id, module_id, key);
    pthread_mutex_lock(&refusals->lock);
    suspect *who = suspect_of(refusals, key, len);
    uint32_t count = 1;
    nv_refusal_entry *slot;
    if (who->count > 0 && repeats(newest(refusals, who), entry)) {
        slot = newest(refusals, who);
        count = slot->count == UINT32_MAX ? UINT32_MAX : slot->count + 1;
    } else {
        slot = next_slot(refusals, who);
    }
    *slot = *entry;
    slot->count = count;
    pthread_mutex_unlock(&refusals->lock);
}

size_t nv_refusals_list(nv_refusals *refusals, nv_span device_id, nv_span module_id, nv_refusal_entry *out, size_t max)
{
    char key[2 * NV_ID_MAX + 2];
    size_t len = key_of(device_id, module_id, key);
    size_t n = 0;
    pthread_mutex_lock(&refusals->lock);
    const suspect *who = nv_map_get(&refusals->by_key, nv_span_of(key, len));
    if (who) {
        for (; n < who->count && n < max; n++) {
            out[n] = who->entries[(who->first + who->count - 1 - n) % refusals->per_identity];
        }
    }
    pthread_mutex_unlock(&refusals->lock);
    return n;
}
