/**
 * Where a reader stands: from a time, a sequence number, an offset or a commit index to a place in a segment file.
 */
#include "store/log_reader.h"

#include <stdlib.h>

typedef bool (*behind_fn)(const nv_log_reader *r, const nv_index_entry *entry);

static bool commit_behind(const nv_log_reader *r, const nv_index_entry *entry)
{
    return entry->commit > r->next_commit;
}

static bool time_behind(const nv_log_reader *r, const nv_index_entry *entry)
{
    return entry->time_us >= r->want.from_us;
}

static bool sequence_behind(const nv_log_reader *r, const nv_index_entry *entry)
{
    return entry->next_sequence[__builtin_ctz(r->want.partitions)] > r->want.from_sequence;
}

/** The index does not know offsets: the segment is looked through from its beginning, in the usual pieces. */
static bool offset_behind(const nv_log_reader *r, const nv_index_entry *entry)
{
    (void)r;
    (void)entry;
    return true;
}

/** Go to the last indexed commit of the segment that is not @p behind what is looked for. */
static nv_err seek(nv_log *log, nv_log_reader *r, nv_segment *segment, behind_fn behind, uint64_t *commit)
{
    nv_index_entry *index = NULL;
    size_t count = 0;
    nv_err err = nv_segment_load_index(log, segment, &index, &count);
    if (err != NV_OK) {
        return err;
    }
    size_t low = 0;
    size_t high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (behind(r, &index[middle])) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    r->segment = segment->header.number;
    r->generation = segment->header.generation;
    r->ahead = 0;
    r->position = low ? index[low - 1].position : NV_LOG_BLOCK;
    *commit = low ? index[low - 1].commit : segment->header.start.next_commit;
    free(index);
    return NV_OK;
}

static bool holds_start(const nv_log_reader *r, const nv_segment *segment)
{
    if (segment->end.next_commit == segment->header.start.next_commit) {
        return false;
    }
    if (r->from == NV_LOG_FROM_TIME) {
        return segment->end.last_time_us >= r->want.from_us;
    }
    const nv_part_point *end = &segment->end.parts[__builtin_ctz(r->want.partitions)];
    return r->from == NV_LOG_FROM_OFFSET ? end->next_sequence > 0 && end->last_offset >= r->want.from_offset
                                         : end->next_sequence > r->want.from_sequence;
}

/** Retention removed where this reader wants to start. */
static bool start_gone(const nv_log_reader *r, const nv_segment *oldest)
{
    const nv_part_point *before = &oldest->header.start.parts[__builtin_ctz(r->want.partitions)];
    if (r->from == NV_LOG_FROM_OFFSET) {
        return before->next_sequence > 0 && r->want.from_offset <= before->last_offset;
    }
    return r->from == NV_LOG_FROM_SEQUENCE && r->want.from_sequence < before->next_sequence;
}

static behind_fn behind_of(nv_log_from from)
{
    switch (from) {
    case NV_LOG_FROM_TIME:
        return time_behind;
    case NV_LOG_FROM_SEQUENCE:
        return sequence_behind;
    case NV_LOG_FROM_BEGINNING:
    case NV_LOG_FROM_NOW:
    case NV_LOG_FROM_OFFSET:
        break;
    }
    return offset_behind;
}

nv_err nv_log_reader_locate(nv_log *log, nv_log_reader *r)
{
    nv_segment *segment = NULL;
    pthread_mutex_lock(&log->lock);
    for (size_t i = 0; i < log->segment_count && !segment; i++) {
        segment = holds_start(r, log->segments[i]) ? log->segments[i] : NULL;
    }
    bool gone = log->segment_count && start_gone(r, log->segments[0]);
    r->next_commit = log->tip.next_commit;
    if (segment) {
        nv_segment_ref_locked(segment);
    }
    pthread_mutex_unlock(&log->lock);
    nv_err err = NV_OK;
    if (segment) {
        err = seek(log, r, segment, behind_of(r->from), &r->next_commit);
        pthread_mutex_lock(&log->lock);
        segment = nv_segment_unref_locked(segment);
        pthread_mutex_unlock(&log->lock);
        nv_segment_free(segment);
    }
    r->located = err == NV_OK || err == NV_E_NOT_FOUND;
    return err == NV_OK && gone ? NV_E_GONE : err;
}

bool nv_log_reader_is_placed(const nv_log_reader *r, const nv_segment *segment)
{
    return r->segment == segment->header.number && r->generation == segment->header.generation;
}

nv_err nv_log_reader_place(nv_log *log, nv_log_reader *r, nv_segment *segment)
{
    uint64_t commit;
    return nv_log_reader_is_placed(r, segment) ? NV_OK : seek(log, r, segment, commit_behind, &commit);
}

void nv_log_reader_heed_rollback_locked(const nv_log *log, nv_log_reader *r)
{
    if (r->rollbacks != log->rollbacks) {
        r->rollbacks = log->rollbacks;
        r->next_commit = r->next_commit < log->rollback_commit ? r->next_commit : log->rollback_commit;
        r->segment = 0;
    }
}

void nv_log_reader_set_behind_locked(nv_log *log, nv_log_reader *r, bool behind)
{
    if (nv_list_linked(&r->behind_link) != behind) {
        log->cache.users += behind ? 1u : -1u;
        if (behind) {
            nv_list_push_back(&log->behind, &r->behind_link);
        } else {
            nv_list_remove(&r->behind_link);
        }
    }
}

static bool holds_wanted(const nv_log_reader *r, const nv_segment *segment)
{
    for (uint32_t left = r->want.partitions; left; left &= left - 1) {
        int i = __builtin_ctz(left);
        if (segment->end.parts[i].next_sequence != segment->header.start.parts[i].next_sequence) {
            return true;
        }
    }
    return false;
}

/** The segment that holds next_commit, or a later one when there is nothing for this reader before it. */
static nv_err find_segment_locked(const nv_log *log, nv_log_reader *r, nv_segment **out)
{
    size_t low = 0;
    size_t high = log->segment_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (log->segments[middle]->end.next_commit > r->next_commit) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    for (; low < log->segment_count; low++) {
        nv_segment *segment = log->segments[low];
        if (segment->header.start.next_commit > r->next_commit) {
            r->next_commit = segment->header.start.next_commit;
            return NV_E_GONE;
        }
        if (holds_wanted(r, segment)) {
            *out = segment;
            return NV_OK;
        }
        r->next_commit = segment->end.next_commit;
        r->segment = 0;
    }
    return NV_E_EOF;
}

nv_err nv_log_reader_resolve(nv_log *log, nv_log_reader *r, nv_segment **out, uint64_t *limit)
{
    pthread_mutex_lock(&log->lock);
    nv_log_reader_heed_rollback_locked(log, r);
    bool valid = nv_log_cache_renew_locked(&log->cache, log->rollbacks);
    nv_err err = find_segment_locked(log, r, out);
    if (err == NV_OK) {
        nv_segment_ref_locked(*out);
        *limit = (*out)->end.position;
        nv_log_reader_set_behind_locked(log, r, !r->closed);
    }
    pthread_mutex_unlock(&log->lock);
    if (!valid) {
        nv_log_cache_drop(&log->cache);
    }
    return err;
}
