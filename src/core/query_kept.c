#include "core/query_kept.h"

#include "base/alloc.h"
#include "base/list.h"

#include <stdlib.h>

typedef struct kept_entry {
    nv_list link; /* in nv_query_kept.entries */
    int64_t until_us;
    size_t bytes;
    nv_query_result result;
    size_t text_len;
    uint8_t text[];
} kept_entry;

struct nv_query_kept {
    nv_hub_loop *loop;
    nv_list entries; /* the oldest first */
    size_t count;
    size_t bytes;
    nv_timer timer; /* for the oldest */
};

void nv_query_result_deinit(nv_query_result *result)
{
    nv_query_groups_deinit(&result->groups);
    nv_arena_deinit(&result->arena);
}

static kept_entry *oldest(const nv_query_kept *kept)
{
    return nv_list_empty(&kept->entries) ? NULL : nv_container_of(nv_list_first(&kept->entries), kept_entry, link);
}

static void wait_for_oldest(nv_query_kept *kept)
{
    nv_timers *timers = &kept->loop->timers;
    if (oldest(kept)) {
        nv_timers_set(timers, &kept->timer, oldest(kept)->until_us);
    } else {
        nv_timers_clear(timers, &kept->timer);
    }
}

static void drop(nv_query_kept *kept, kept_entry *entry)
{
    nv_list_remove(&entry->link);
    kept->count--;
    kept->bytes -= entry->bytes;
    nv_query_result_deinit(&entry->result);
    free(entry);
}

static void drop_old(nv_timer *timer, int64_t now_us)
{
    nv_query_kept *kept = nv_container_of(timer, nv_query_kept, timer);
    for (kept_entry *old = oldest(kept); old && old->until_us <= now_us; old = oldest(kept)) {
        drop(kept, old);
    }
    wait_for_oldest(kept);
}

nv_query_kept *nv_query_kept_new(nv_hub_loop *loop)
{
    nv_query_kept *kept = nv_calloc(1, sizeof(*kept));
    kept->loop = loop;
    nv_list_init(&kept->entries);
    nv_timer_init(&kept->timer, drop_old);
    return kept;
}

void nv_query_kept_free(nv_query_kept *kept)
{
    if (!kept) {
        return;
    }
    for (kept_entry *old = oldest(kept); old; old = oldest(kept)) {
        drop(kept, old);
    }
    nv_timers_clear(&kept->loop->timers, &kept->timer);
    free(kept);
}

static kept_entry *find(const nv_query_kept *kept, nv_span text)
{
    for (nv_list *link = kept->entries.next; link != &kept->entries; link = link->next) {
        kept_entry *entry = nv_container_of(link, kept_entry, link);
        if (nv_span_eq(nv_span_of(entry->text, entry->text_len), text)) {
            return entry;
        }
    }
    return NULL;
}

static bool is_crowded(const nv_query_kept *kept, size_t bytes)
{
    return kept->count >= NV_QUERY_KEPT_COUNT || kept->bytes + bytes > NV_QUERY_KEPT_BYTES;
}

void nv_query_kept_put(nv_query_kept *kept, nv_span text, nv_query_result *result)
{
    kept_entry *before = find(kept, text);
    size_t bytes = sizeof(kept_entry) + text.len + nv_query_groups_bytes(&result->groups);
    if (before) {
        drop(kept, before);
    }
    if (bytes > NV_QUERY_KEPT_BYTES) {
        nv_query_result_deinit(result);
        wait_for_oldest(kept);
        return;
    }
    for (kept_entry *old = oldest(kept); old && is_crowded(kept, bytes); old = oldest(kept)) {
        drop(kept, old);
    }
    kept_entry *entry = nv_calloc(1, sizeof(*entry) + text.len);
    entry->until_us = nv_mono_us(kept->loop->hub->clock) + NV_QUERY_KEPT_US;
    entry->bytes = bytes;
    entry->result = *result;
    entry->result.groups.tree = &entry->result.tree;
    entry->text_len = text.len;
    memcpy(entry->text, text.ptr, text.len);
    nv_list_push_back(&kept->entries, &entry->link);
    kept->count++;
    kept->bytes += bytes;
    *result = (nv_query_result){0};
    wait_for_oldest(kept);
}

nv_query_groups *nv_query_kept_get(nv_query_kept *kept, nv_span text)
{
    kept_entry *entry = find(kept, text);
    bool there = entry && entry->until_us > nv_mono_us(kept->loop->hub->clock); /* else its timer is about to say so */
    return there ? &entry->result.groups : NULL;
}
