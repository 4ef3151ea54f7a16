#include "store/log_tail.h"

/* ---- the writer's side ------------------------------------------------------------------------------------ */

static nv_log_slab *new_slab(nv_tail *tail, size_t need)
{
    nv_log_slab *slab = tail->spare;
    if (slab && slab->capacity >= need) {
        tail->spare = NULL;
    } else {
        slab = nv_log_slab_new(need > NV_LOG_SLAB_BYTES ? need : NV_LOG_SLAB_BYTES);
    }
    if (slab) {
        slab->id = ++tail->next_id;
    }
    return slab;
}

void nv_tail_prepare(nv_tail *tail, const uint8_t *commit)
{
    size_t used = NV_COMMIT_HEADER + (size_t)nv_load_u32_le(commit + 16);
    size_t size = (size_t)nv_align_up(used, NV_LOG_DENSE_ALIGN);
    if (!tail->open || tail->open_used + size > tail->open->capacity) {
        nv_log_slab_release(tail->open);
        tail->open = new_slab(tail, size);
        tail->open_used = 0;
    }
    if (!tail->open || tail->ready_count == NV_TAIL_PIECES) {
        return; /* a gap: publishing begins anew behind it */
    }
    uint8_t *at = tail->open->bytes + tail->open_used;
    uint64_t index = nv_load_u64_le(commit + 8);
    memcpy(at, commit, used);
    nv_store_u32_le(at + 20, (uint32_t)size);
    nv_log_piece *last = tail->ready_count ? &tail->ready[tail->ready_count - 1] : NULL;
    if (last && last->slab == tail->open && last->next_commit == index) {
        last->end += size;
        last->next_commit++;
    } else {
        nv_log_slab_ref(tail->open);
        tail->ready[tail->ready_count++] =
            (nv_log_piece){tail->open, tail->open_used, tail->open_used + size, index, index + 1};
    }
    tail->open_used += size;
}

static void drop_oldest_locked(nv_tail *tail)
{
    tail->held -= tail->slots[0].slab->capacity;
    tail->gone[tail->gone_count++] = tail->slots[0].slab;
    tail->count--;
    memmove(&tail->slots[0], &tail->slots[1], tail->count * sizeof(tail->slots[0]));
}

void nv_tail_drop_locked(nv_tail *tail)
{
    while (tail->count) {
        drop_oldest_locked(tail);
    }
}

static void push_locked(nv_tail *tail, const nv_log_piece *piece)
{
    nv_log_piece *last = tail->count ? &tail->slots[tail->count - 1] : NULL;
    if (last && last->next_commit != piece->first_commit) {
        nv_tail_drop_locked(tail);
        last = NULL;
    }
    if (last && last->slab == piece->slab && last->end == piece->start) {
        last->end = piece->end;
        last->next_commit = piece->next_commit;
        tail->gone[tail->gone_count++] = piece->slab; /* the slot has its reference already */
        return;
    }
    while (tail->count == NV_TAIL_SLOTS || (tail->count && tail->held + piece->slab->capacity > NV_TAIL_BYTES)) {
        drop_oldest_locked(tail);
    }
    tail->held += piece->slab->capacity;
    tail->slots[tail->count++] = *piece;
}

void nv_tail_publish_locked(nv_tail *tail)
{
    for (size_t i = 0; i < tail->ready_count; i++) {
        push_locked(tail, &tail->ready[i]);
    }
    tail->ready_count = 0;
    if (atomic_load_explicit(&tail->users, memory_order_relaxed) == 0) {
        nv_tail_drop_locked(tail);
    }
}

void nv_tail_release(nv_tail *tail)
{
    for (size_t i = 0; i < tail->gone_count; i++) {
        nv_log_slab_spare(tail->gone[i], &tail->spare);
    }
    tail->gone_count = 0;
    if (atomic_load_explicit(&tail->users, memory_order_relaxed) == 0) {
        nv_log_slab_release(tail->open);
        nv_log_slab_release(tail->spare);
        tail->open = NULL;
        tail->spare = NULL;
    }
}

void nv_tail_deinit(nv_tail *tail)
{
    atomic_store_explicit(&tail->users, 0, memory_order_relaxed);
    nv_tail_drop_locked(tail);
    nv_tail_release(tail);
}

/* ---- the readers' side ------------------------------------------------------------------------------------ */

const nv_log_piece *nv_tail_find_locked(const nv_tail *tail, uint64_t commit)
{
    for (size_t i = tail->count; i-- > 0 && tail->slots[i].next_commit > commit;) {
        if (tail->slots[i].first_commit <= commit) {
            return &tail->slots[i];
        }
    }
    return NULL;
}
