/**
 * Readers: one thread reads for all of them, a bounded piece at a time, from files and never past the tip. A reader's
 * place is a commit index; where that is in which file is found again whenever packing or retention changed the files.
 * A reader that follows near the end is served from memory (log_tail.h); readers that catch up share what was read from
 * the files (log_cache.h).
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "store/log_reader.h"

#include <stdlib.h>

enum {
    CHUNK_DEFAULT = 256 << 10,
    CHUNK_MIN = 4 << 10,
    CHUNK_MAX = 4 << 20,
    TURNS = 4,
    AHEAD = 2 << 20,
    NEAR = 1 << 20,
    WAIT_US = 10000,   /* at most, for others to come closer */
    ACTIVE_US = 40000, /* who asked for nothing for so long is waited for no more */
    MISSES = 16
};

/* ---- reading ---------------------------------------------------------------------------------------------- */

/**
 * Hand out the commits of a piece from next_commit on, about chunk_bytes of them. Takes the caller's reference.
 * @param at  a commit of the piece that is not behind next_commit; moved to the first that is not handed out
 * @return false when short of memory: nothing has moved. True with *out NULL: nothing wanted in there, moved on
 */
static bool take_commits(nv_log_reader *r, const nv_log_piece *piece, size_t *at, nv_log_chunk **out)
{
    const uint8_t *bytes = piece->slab->bytes;
    size_t start = *at;
    while (start < piece->end && nv_load_u64_le(bytes + start + 8) < r->next_commit) {
        start += nv_load_u32_le(bytes + start + 20);
    }
    uint64_t next = r->next_commit;
    uint64_t records = 0;
    size_t end = start;
    while (end < piece->end && (end == start || end - start < r->chunk_bytes)) {
        records += nv_log_filter_count(&r->want, bytes + end);
        next = nv_load_u64_le(bytes + end + 8) + 1;
        end += nv_load_u32_le(bytes + end + 20);
    }
    *out = records ? nv_log_chunk_new(&r->want, piece->slab, start, end) : NULL;
    if (!*out) {
        nv_log_slab_release(piece->slab);
        if (records) {
            return false;
        }
    }
    nv_metric_add(NV_M_READ_MESSAGES, (int64_t)records);
    r->next_commit = next;
    *at = end;
    return true;
}

/** Verify what was read: commits, and at the end perhaps a part of one. @param need  bytes, when that is the first */
static nv_err verify(nv_log_cached *read, size_t got, size_t *need)
{
    nv_log_piece *piece = &read->piece;
    nv_commit commit;
    nv_err err = NV_OK;
    while (piece->end < got) {
        err = nv_commit_decode(nv_span_of(piece->slab->bytes + piece->end, got - piece->end), read->generation,
                               read->position + piece->end, &commit);
        if (err != NV_OK) {
            *need = commit.disk_bytes > NV_COMMIT_HEADER ? commit.disk_bytes : NV_COMMIT_HEADER;
            break;
        }
        piece->first_commit = piece->end ? piece->first_commit : commit.index;
        piece->next_commit = commit.index + 1;
        piece->end += commit.disk_bytes;
    }
    return err == NV_E_MORE && piece->end > 0 ? NV_OK : err;
}

/** Keep the disk busy while the consumer works: files written directly are not in the page cache. */
static void read_ahead(nv_log_reader *r, nv_segment *segment, uint64_t limit)
{
    uint64_t from = r->ahead > r->position ? r->ahead : r->position;
    if (from < r->position + AHEAD / 2 && from < limit) {
        r->ahead = r->position + AHEAD < limit ? r->position + AHEAD : limit;
        nv_file_prefetch(segment->read_file, from, (size_t)(r->ahead - from));
    }
}

/** Read on to @p want bytes of the slab; @p got of them are there. */
static nv_err read_on(nv_segment *segment, nv_log_cached *read, size_t want, size_t *got)
{
    size_t more = 0;
    nv_err err =
        nv_file_read(segment->read_file, read->piece.slab->bytes + *got, want - *got, read->position + *got, &more);
    *got += more;
    return err;
}

/** Make the slab that was read larger, for the commit that it starts with. */
static nv_err grow(nv_log_cache *cache, nv_log_cached *read, size_t got, size_t need)
{
    nv_log_slab *slab = nv_log_cache_slab(cache, need);
    if (!slab) {
        return NV_E_NO_MEMORY;
    }
    memcpy(slab->bytes, read->piece.slab->bytes, got);
    nv_log_slab_release(read->piece.slab);
    read->piece.slab = slab;
    return NV_OK;
}

/** Read commits at the reader's position: a piece with a reference for the caller, and one for the cache. */
static nv_err read_file(nv_log *log, nv_log_reader *r, nv_segment *segment, uint64_t limit, nv_log_cached *out)
{
    uint64_t left = limit > r->position ? limit - r->position : 0;
    size_t want = left < r->chunk_bytes ? (size_t)left : r->chunk_bytes;
    size_t got = 0;
    size_t need = 0;
    *out = (nv_log_cached){.piece = {.slab = nv_log_cache_slab(&log->cache, want)},
                           .segment = segment->header.number,
                           .generation = segment->header.generation,
                           .position = r->position};
    if (!out->piece.slab) {
        return NV_E_NO_MEMORY;
    }
    nv_err err = read_on(segment, out, want, &got);
    if (err == NV_OK) {
        err = got ? verify(out, got, &need) : NV_E_CORRUPT; /* the file is shorter than its commits */
    }
    if (err == NV_E_MORE && got == want && need > want && need <= left && need <= NV_COMMIT_MAX) {
        err = grow(&log->cache, out, got, need); /* one commit larger than a chunk */
        if (err == NV_OK) {
            err = read_on(segment, out, need, &got);
        }
        if (err == NV_OK) {
            err = verify(out, got, &need);
        }
    }
    if (err == NV_OK) {
        nv_log_cache_keep(&log->cache, out);
        return NV_OK;
    }
    nv_log_slab_release(out->piece.slab);
    return err == NV_E_MORE ? NV_E_CORRUPT : err;
}

/** Find the place in the file and read there. */
static nv_err read_at(nv_log *log, nv_log_reader *r, nv_segment *segment, uint64_t limit, nv_log_cached *out)
{
    nv_err err = nv_log_reader_place(log, r, segment);
    if (err == NV_OK) {
        err = nv_segment_need_read_file(log, segment);
    }
    if (err != NV_OK) {
        return err;
    }
    if (limit > r->position + r->chunk_bytes) {
        read_ahead(r, segment, limit);
    }
    return read_file(log, r, segment, limit, out);
}

/**
 * A piece that goes when the next ones are read and that a reader has yet to pass, or NULL. One that has not asked for
 * long has a consumer that is slow or has stopped: nobody waits for it.
 */
static const nv_log_piece *held_back_locked(nv_log *log, int64_t now_us)
{
    size_t going = nv_log_cache_next_to_go(&log->cache);
    for (nv_list *node = log->behind.next; going && node != &log->behind; node = node->next) {
        const nv_log_reader *other = nv_container_of(node, nv_log_reader, behind_link);
        uint64_t next = other->next_commit;
        for (size_t i = 0; i < going && now_us - other->served_us < ACTIVE_US; i++) {
            const nv_log_piece *piece = &log->cache.slots[i].piece;
            if (next >= piece->first_commit && next < piece->next_commit) {
                return piece;
            }
        }
    }
    return NULL;
}

/**
 * Would reading on take a piece from a reader further back? Each goes at its own pace, and one that was left behind
 * reads for itself from then on; so the one in front lets the others come closer. Not for long: they may have stopped.
 */
static bool must_wait(nv_log *log, nv_log_reader *r)
{
    if (r->waited) {
        return false;
    }
    int64_t now_us = nv_mono_us(nv_clock_system());
    pthread_mutex_lock(&log->lock);
    const nv_log_piece *oldest = held_back_locked(log, now_us);
    bool ahead = oldest && r->next_commit >= oldest->next_commit;
    pthread_mutex_unlock(&log->lock);
    if (ahead) {
        r->wait_until_us = now_us + WAIT_US;
    }
    return ahead;
}

static nv_err read_piece(nv_log *log, nv_log_reader *r, nv_segment *segment, uint64_t limit, nv_log_chunk **out)
{
    nv_log_cached found;
    if (!nv_log_cache_find(&log->cache, &segment->header, r->next_commit, &found)) {
        if (must_wait(log, r)) {
            return NV_E_AGAIN;
        }
        nv_err err = read_at(log, r, segment, limit, &found);
        if (err != NV_OK) {
            return err;
        }
    }
    bool within = nv_log_reader_is_placed(r, segment) && r->position >= found.position &&
                  r->position < found.position + found.piece.end;
    size_t at = within ? (size_t)(r->position - found.position) : 0;
    if (!take_commits(r, &found.piece, &at, out)) {
        return NV_E_NO_MEMORY;
    }
    r->segment = found.segment;
    r->generation = found.generation;
    r->position = found.position + at;
    r->waited = false;
    r->served_us = nv_mono_us(nv_clock_system());
    return NV_OK;
}

/* ---- the tail in memory ----------------------------------------------------------------------------------- */

static void set_near_locked(nv_log *log, nv_log_reader *r, bool near)
{
    r->misses = 0;
    if (r->near != near) {
        r->near = near;
        atomic_fetch_add_explicit(&log->tail.users, near ? 1u : -1u, memory_order_relaxed);
    }
}

/** After a read from the disk: is this reader close enough to the end to go on from memory, or has it fallen behind? */
static void judge_distance(nv_log *log, nv_log_reader *r, uint64_t limit)
{
    pthread_mutex_lock(&log->lock);
    if (r->closed) {
        /* gave its place up already */
    } else if (!r->near) {
        set_near_locked(log, r, r->follow && r->segment == log->tip.segment && limit <= r->position + NEAR);
    } else if (++r->misses > MISSES) {
        set_near_locked(log, r, false);
    }
    pthread_mutex_unlock(&log->lock);
}

/** The piece of the tail that holds next_commit, with a reference. */
static bool find_in_tail(nv_log *log, nv_log_reader *r, nv_log_piece *out)
{
    pthread_mutex_lock(&log->lock);
    nv_log_reader_heed_rollback_locked(log, r);
    const nv_log_piece *piece = r->near ? nv_tail_find_locked(&log->tail, r->next_commit) : NULL;
    if (piece) {
        *out = *piece;
        nv_log_slab_ref(out->slab);
        nv_log_reader_set_behind_locked(log, r, false);
    }
    pthread_mutex_unlock(&log->lock);
    return piece != NULL;
}

/** @return false when the tail does not hold next_commit. True with *out NULL: nothing wanted in there, moved on */
static bool read_tail(nv_log *log, nv_log_reader *r, nv_log_chunk **out)
{
    nv_log_piece piece;
    if (!find_in_tail(log, r, &piece)) {
        return false;
    }
    uint64_t id = piece.slab->id;
    bool known = id == r->tail_id && r->tail_at >= piece.start && r->tail_at < piece.end;
    size_t at = known ? r->tail_at : piece.start;
    if (!take_commits(r, &piece, &at, out)) {
        return false; /* the other way reports it */
    }
    r->misses = 0;
    r->segment = 0; /* its place in the files is to be looked up when it returns to them */
    r->tail_id = id;
    r->tail_at = at;
    return true;
}

/** One bounded piece of work. @return NV_E_AGAIN: not done yet, the others come first */
static nv_err serve(nv_log *log, nv_log_reader *r, nv_log_chunk **out)
{
    nv_err err = r->located ? NV_OK : nv_log_reader_locate(log, r);
    for (int turn = 0; turn < TURNS && err == NV_OK; turn++) {
        nv_segment *segment = NULL;
        uint64_t limit = 0;
        if (read_tail(log, r, out)) {
            if (*out) {
                return NV_OK;
            }
            continue;
        }
        err = nv_log_reader_resolve(log, r, &segment, &limit);
        if (err != NV_OK) {
            break;
        }
        err = read_piece(log, r, segment, limit, out);
        judge_distance(log, r, limit);
        pthread_mutex_lock(&log->lock);
        nv_segment *last = nv_segment_unref_locked(segment);
        pthread_mutex_unlock(&log->lock);
        nv_segment_free(last);
        if (err == NV_E_NOT_FOUND) { /* retention took the file between the two: look again */
            r->segment = 0;
            err = NV_OK;
        } else if (*out) {
            return NV_OK;
        }
    }
    return err == NV_OK ? NV_E_AGAIN : err;
}

/* ---- requests --------------------------------------------------------------------------------------------- */

static void reader_free(nv_log_reader *r)
{
    nv_metric_add(NV_M_READERS_OPEN, -1);
    free((void *)(uintptr_t)r->want.device_id.ptr);
    free(r);
}

static void run_done(nv_task *task)
{
    nv_log_reader *r = nv_container_of(task, nv_log_reader, task);
    if (r->closed) {
        nv_log_chunk_release(r->chunk);
        reader_free(r);
        return;
    }
    nv_log_chunk *chunk = r->chunk;
    r->chunk = NULL;
    r->state = READER_IDLE;
    r->done(r->arg, r->status, chunk); /* may close the reader: nothing after this */
}

/** Put the outcome of serve() where it belongs. Under lock; @return whether to post */
static bool settle_locked(nv_log *log, nv_log_reader *r, nv_err err)
{
    if (r->wait_until_us) {
        r->state = READER_QUEUED;
        nv_list_push_back(&log->waiting, &r->link);
        return false;
    }
    if (err == NV_E_AGAIN || (err == NV_E_EOF && r->follow && r->next_commit < log->tip.next_commit)) {
        r->state = READER_QUEUED;
        nv_list_push_back(&log->requests, &r->link);
        return false;
    }
    if (err == NV_E_EOF) {
        nv_log_reader_set_behind_locked(log, r, false);
    }
    if (err == NV_E_EOF && r->follow) {
        set_near_locked(log, r, true);
        r->state = READER_FOLLOWING;
        nv_list_push_back(&log->followers, &r->link);
        return false;
    }
    r->state = READER_POSTED;
    return true;
}

void nv_log_wake_followers_locked(nv_log *log, uint32_t partitions)
{
    bool any = false;
    nv_list *next = NULL;
    for (nv_list *node = log->followers.next; node != &log->followers; node = next) {
        next = node->next;
        nv_log_reader *r = nv_container_of(node, nv_log_reader, link);
        if (r->want.partitions & partitions) {
            nv_list_remove(node);
            r->state = READER_QUEUED;
            nv_list_push_back(&log->requests, node);
            any = true;
        } else { /* twenty such readers would otherwise cost a look each for every commit */
            r->next_commit = log->tip.next_commit;
            r->segment = 0;
        }
    }
    if (any) {
        pthread_cond_signal(&log->reader_wake);
    }
}

static void handle(nv_log *log, nv_log_reader *r)
{
    nv_log_chunk *chunk = NULL;
    nv_err err = serve(log, r, &chunk);
    if (err == NV_E_IO || err == NV_E_CORRUPT) {
        nv_diag(NV_LEVEL_ERROR, "log", NULL, "segment %llu cannot be read at %llu: %s", (unsigned long long)r->segment,
                (unsigned long long)r->position, nv_err_text(err));
    }
    pthread_mutex_lock(&log->lock);
    bool closed = r->closed;
    bool post = !closed && settle_locked(log, r, err);
    if (post) {
        r->status = err;
        r->chunk = chunk;
        r->task.run = run_done;
        nv_post(r->exec, &r->task); /* under lock: a close on the loop must find POSTED or come before */
    }
    pthread_mutex_unlock(&log->lock);
    if (closed) {
        nv_log_chunk_release(chunk);
        reader_free(r);
    }
}

static void stop_waiting_locked(nv_log *log, nv_log_reader *r, bool late)
{
    r->wait_until_us = 0;
    r->waited = late;
    nv_list_remove(&r->link);
    nv_list_push_back(&log->requests, &r->link);
}

/** Let those in front go on: all when the others have come close, else who has waited for long enough. */
static void review_waiting_locked(nv_log *log)
{
    if (nv_list_empty(&log->waiting)) {
        return;
    }
    int64_t now_us = nv_mono_us(nv_clock_system());
    bool close = !held_back_locked(log, now_us);
    while (!nv_list_empty(&log->waiting)) {
        nv_log_reader *first = nv_container_of(log->waiting.next, nv_log_reader, link);
        if (!close && first->wait_until_us > now_us) {
            return;
        }
        stop_waiting_locked(log, first, !close);
    }
}

/** Sleep until there is a request, or the first of those who wait has waited for long enough. */
static void sleep_locked(nv_log *log)
{
    if (nv_list_empty(&log->waiting)) {
        pthread_cond_wait(&log->reader_wake, &log->lock);
        return;
    }
    nv_log_reader *first = nv_container_of(log->waiting.next, nv_log_reader, link);
    struct timespec until = {first->wait_until_us / NV_US_PER_S, first->wait_until_us % NV_US_PER_S * 1000};
    (void)pthread_cond_timedwait(&log->reader_wake, &log->lock, &until);
    review_waiting_locked(log);
}

static void wait_for_request_locked(nv_log *log)
{
    review_waiting_locked(log);
    while (nv_list_empty(&log->requests) && !log->stopping) {
        if (log->cache.users == 0 && !nv_log_cache_is_empty(&log->cache)) {
            pthread_mutex_unlock(&log->lock);
            nv_log_cache_drop(&log->cache);
            pthread_mutex_lock(&log->lock);
        } else {
            sleep_locked(log);
        }
    }
}

void *nv_log_reader_main(void *arg)
{
    nv_log *log = arg;
    pthread_mutex_lock(&log->lock);
    for (;;) {
        wait_for_request_locked(log);
        if (nv_list_empty(&log->requests)) {
            break;
        }
        nv_log_reader *r = nv_container_of(nv_list_pop_front(&log->requests), nv_log_reader, link);
        r->state = READER_RUNNING;
        pthread_mutex_unlock(&log->lock);
        handle(log, r);
        pthread_mutex_lock(&log->lock);
    }
    pthread_mutex_unlock(&log->lock);
    return NULL;
}

nv_err nv_log_reader_open(nv_log_reader **out, nv_log *log, const nv_log_read_options *options, nv_exec *exec)
{
    uint32_t all = log->partitions == 32 ? UINT32_MAX : (UINT32_C(1) << log->partitions) - 1;
    uint32_t mask = options->partitions ? options->partitions : all;
    bool of_one = options->from == NV_LOG_FROM_SEQUENCE || options->from == NV_LOG_FROM_OFFSET;
    if ((mask & ~all) || (of_one && __builtin_popcount(mask) != 1)) {
        return NV_E_INVALID;
    }
    nv_log_reader *r = nv_calloc(1, sizeof(*r));
    nv_list_init(&r->link);
    nv_list_init(&r->behind_link);
    r->log = log;
    r->exec = exec;
    r->from = options->from;
    r->follow = options->follow;
    r->chunk_bytes = options->chunk_bytes ? options->chunk_bytes : CHUNK_DEFAULT;
    r->chunk_bytes = r->chunk_bytes < CHUNK_MIN ? CHUNK_MIN : r->chunk_bytes > CHUNK_MAX ? CHUNK_MAX : r->chunk_bytes;
    r->want = (nv_log_filter){.partitions = mask,
                              .from_us = options->from == NV_LOG_FROM_TIME ? options->time_us : INT64_MIN,
                              .from_sequence = options->from == NV_LOG_FROM_SEQUENCE ? options->sequence : 0,
                              .from_offset = options->from == NV_LOG_FROM_OFFSET ? options->offset : 0};
    if (options->device_id.len) {
        r->want.device_id = nv_span_of(nv_span_dup(options->device_id), options->device_id.len);
    }
    r->located = options->from == NV_LOG_FROM_BEGINNING || options->from == NV_LOG_FROM_NOW;
    pthread_mutex_lock(&log->lock);
    r->rollbacks = log->rollbacks;
    if (options->from == NV_LOG_FROM_NOW) {
        r->next_commit = log->tip.next_commit;
    } else if (log->segment_count) {
        r->next_commit = log->segments[0]->header.start.next_commit;
    }
    pthread_mutex_unlock(&log->lock);
    nv_metric_add(NV_M_READERS_OPEN, 1);
    *out = r;
    return NV_OK;
}

void nv_log_reader_next(nv_log_reader *r, nv_log_read_done done, void *arg)
{
    nv_log *log = r->log;
    r->done = done;
    r->arg = arg;
    pthread_mutex_lock(&log->lock);
    r->state = READER_QUEUED;
    bool idle = nv_list_empty(&log->requests);
    nv_list_push_back(&log->requests, &r->link);
    if (idle) {
        pthread_cond_signal(&log->reader_wake);
    }
    pthread_mutex_unlock(&log->lock);
}

void nv_log_reader_close(nv_log_reader *r)
{
    if (!r) {
        return;
    }
    pthread_mutex_lock(&r->log->lock);
    set_near_locked(r->log, r, false);
    nv_log_reader_set_behind_locked(r->log, r, false);
    if (r->log->cache.users == 0) {
        pthread_cond_signal(&r->log->reader_wake); /* it drops the cache */
    }
    r->closed = true;
    bool free_now = r->state != READER_RUNNING && r->state != READER_POSTED;
    nv_list_remove(&r->link);
    pthread_mutex_unlock(&r->log->lock);
    if (free_now) {
        reader_free(r);
    }
}
