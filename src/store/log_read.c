/**
 * Readers: one thread reads for all of them, a bounded piece at a time, from files and never past the tip. A reader's
 * place is a commit index; where that is in which file is found again whenever packing or retention changed the files.
 * A reader that follows near the end is served from memory (log_tail.h).
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "store/log_internal.h"

#include <stdlib.h>

enum {
    CHUNK_DEFAULT = 256 << 10,
    CHUNK_MIN = 4 << 10,
    CHUNK_MAX = 4 << 20,
    TURNS = 4,
    AHEAD = 2 << 20,
    NEAR = 1 << 20,
    MISSES = 16
};

typedef enum reader_state { READER_IDLE, READER_QUEUED, READER_FOLLOWING, READER_RUNNING, READER_POSTED } reader_state;

/** What a reader wants to see; copied into each chunk, which may outlive the reader. */
typedef struct filter {
    uint32_t partitions;
    int64_t from_us;
    uint64_t from_sequence;
    uint64_t from_offset;
    nv_span device_id; /* owned by the reader, or by the chunk */
} filter;

struct nv_log_chunk {
    _Atomic unsigned refs;
    filter want;
    uint8_t *bytes;       /* the commits, whole and verified: owned, or of the block */
    nv_tail_block *block; /* NULL, or a reference */
    size_t start;
    size_t end;
    /* the iteration */
    size_t at; /* next commit */
    nv_span runs;
    nv_span records;
    uint32_t records_left;
    nv_record next;   /* what the records of this run share, counted on */
    uint8_t device[]; /* want.device_id */
};

struct nv_log_reader {
    nv_list link; /* in requests or followers */
    nv_task task;
    nv_log *log;
    nv_exec *exec;
    nv_log_from from;
    bool follow;
    size_t chunk_bytes;
    filter want;
    reader_state state; /* under lock, but for POSTED, which belongs to exec */
    bool closed;
    /* of the reader thread while RUNNING */
    bool located;
    uint64_t next_commit;
    uint64_t segment; /* where next_commit is, when the generation still fits */
    uint64_t generation;
    uint64_t position;
    uint64_t ahead;   /* how far reading ahead was asked for */
    uint64_t tail_id; /* the block of the tail that was read last, ... */
    size_t tail_at;   /* ... where next_commit would be in it */
    bool near;        /* counts as a user of the tail; changed under lock */
    unsigned misses;  /* reads from the disk in a row while near */
    uint64_t rollbacks;
    /* the request and its answer */
    nv_log_read_done done;
    void *arg;
    nv_err status;
    nv_log_chunk *chunk;
};

/* ---- chunks ----------------------------------------------------------------------------------------------- */

/** A chunk without content. @return NULL no memory */
static nv_log_chunk *chunk_alloc(const filter *want)
{
    nv_log_chunk *chunk = calloc(1, sizeof(*chunk) + want->device_id.len);
    if (!chunk) {
        return NULL;
    }
    atomic_init(&chunk->refs, 1);
    chunk->want = *want;
    if (want->device_id.len) {
        memcpy(chunk->device, want->device_id.ptr, want->device_id.len);
        chunk->want.device_id.ptr = chunk->device;
    }
    return chunk;
}

static nv_log_chunk *chunk_new(const filter *want, size_t capacity)
{
    nv_log_chunk *chunk = chunk_alloc(want);
    if (chunk) {
        chunk->bytes = malloc(capacity);
        if (!chunk->bytes) {
            free(chunk);
            return NULL;
        }
    }
    return chunk;
}

void nv_log_chunk_ref(nv_log_chunk *chunk)
{
    atomic_fetch_add(&chunk->refs, 1);
}

void nv_log_chunk_release(nv_log_chunk *chunk)
{
    if (chunk && atomic_fetch_sub(&chunk->refs, 1) == 1) {
        if (chunk->block) {
            nv_tail_block_release(chunk->block);
        } else {
            free(chunk->bytes);
        }
        free(chunk);
    }
}

void nv_log_chunk_rewind(nv_log_chunk *chunk)
{
    chunk->at = chunk->start;
    chunk->runs = NV_SPAN_EMPTY;
    chunk->records = NV_SPAN_EMPTY;
    chunk->records_left = 0;
}

static bool wanted(const filter *want, const nv_run *run)
{
    if (!(want->partitions >> run->partition & 1) || run->enqueued_us < want->from_us ||
        run->first_sequence + run->records <= want->from_sequence ||
        run->first_offset + run->last_record < want->from_offset) {
        return false;
    }
    nv_stamp stamp;
    return want->device_id.len == 0 ||
           (nv_stamp_decode(run->stamp, &stamp) == NV_OK && nv_span_eq(stamp.device_id, want->device_id));
}

/** Step to the next run that is wanted. @return false at the end of the chunk */
static bool next_run(nv_log_chunk *chunk)
{
    for (;;) {
        nv_run run;
        while (nv_run_next(&chunk->runs, &run)) {
            if (wanted(&chunk->want, &run)) {
                chunk->records = run.bytes;
                chunk->records_left = run.records;
                chunk->next = (nv_record){.partition = run.partition,
                                          .sequence = run.first_sequence,
                                          .offset = run.first_offset,
                                          .enqueued_us = run.enqueued_us,
                                          .stamp = run.stamp};
                return true;
            }
        }
        if (chunk->at >= chunk->end) {
            return false;
        }
        const uint8_t *commit = chunk->bytes + chunk->at; /* verified when it was read */
        chunk->runs = nv_span_of(commit + NV_COMMIT_HEADER, nv_load_u32_le(commit + 16));
        chunk->at += nv_load_u32_le(commit + 20);
    }
}

bool nv_log_chunk_next(nv_log_chunk *chunk, nv_record *out)
{
    for (;;) {
        while (chunk->records_left == 0) {
            if (!next_run(chunk)) {
                return false;
            }
        }
        const uint8_t *at = chunk->records.ptr;
        size_t left = chunk->records.len;
        uint32_t size = left < NV_RECORD_HEADER ? 0 : nv_load_u32_le(at);
        uint32_t properties = size ? nv_load_u16_le(at + 6) : 0;
        if (NV_UNLIKELY(size < NV_RECORD_HEADER + properties || size > left)) {
            chunk->records_left = 0; /* a right checksum over wrong lengths: nothing in this run can be told apart */
            continue;
        }
        *out = chunk->next;
        out->source = (nv_source)at[4];
        out->body_kind = (nv_body_kind)at[5];
        out->properties = nv_span_of(at + NV_RECORD_HEADER, properties);
        out->body = nv_span_of(at + NV_RECORD_HEADER + properties, size - NV_RECORD_HEADER - properties);
        chunk->records = nv_span_of(at + size, left - size);
        chunk->records_left--;
        chunk->next.sequence++;
        chunk->next.offset += size;
        if (NV_LIKELY(out->sequence >= chunk->want.from_sequence && out->offset >= chunk->want.from_offset)) {
            return true;
        }
    }
}

/* ---- finding the place ------------------------------------------------------------------------------------ */

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

/** First use of a reader with a time, a sequence or an offset: turn it into a commit index. */
static nv_err locate(nv_log *log, nv_log_reader *r)
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

/** A tail was dropped: if this reader had seen some of it, it goes back. */
static void heed_rollback_locked(const nv_log *log, nv_log_reader *r)
{
    if (r->rollbacks != log->rollbacks) {
        r->rollbacks = log->rollbacks;
        r->next_commit = r->next_commit < log->rollback_commit ? r->next_commit : log->rollback_commit;
        r->segment = 0;
    }
}

/**
 * The segment that holds next_commit, with a reference, and how far it may be read.
 * @return NV_E_EOF nothing there yet; NV_E_GONE next_commit was moved to the oldest there is
 */
static nv_err resolve(nv_log *log, nv_log_reader *r, nv_segment **out, uint64_t *limit)
{
    nv_err err = NV_E_EOF;
    pthread_mutex_lock(&log->lock);
    heed_rollback_locked(log, r);
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
    if (low < log->segment_count) {
        nv_segment *segment = log->segments[low];
        err = NV_OK;
        if (segment->header.start.next_commit > r->next_commit) {
            r->next_commit = segment->header.start.next_commit;
            err = NV_E_GONE;
        } else {
            nv_segment_ref_locked(segment);
            *limit = segment->end.position;
            *out = segment;
        }
    }
    pthread_mutex_unlock(&log->lock);
    return err;
}

/* ---- reading ---------------------------------------------------------------------------------------------- */

static uint64_t count_wanted(const filter *want, nv_span payload)
{
    uint64_t records = 0;
    nv_run run;
    while (nv_run_next(&payload, &run)) {
        records += wanted(want, &run) ? run.records : 0;
    }
    return records;
}

/** Verify the commits in the buffer, keep those from next_commit on. @return records that are wanted */
static uint64_t take_commits(nv_log_reader *r, const nv_segment *segment, nv_log_chunk *chunk, size_t got, nv_err *err,
                             size_t *need)
{
    uint64_t records = 0;
    size_t at = 0;
    nv_commit commit;
    chunk->start = chunk->end = 0;
    for (; at < got; at += commit.disk_bytes) {
        *err =
            nv_commit_decode(nv_span_of(chunk->bytes + at, got - at), segment->header.generation, r->position, &commit);
        if (*err != NV_OK) {
            *need = commit.disk_bytes > NV_COMMIT_HEADER ? commit.disk_bytes : NV_COMMIT_HEADER;
            break;
        }
        r->position += commit.disk_bytes;
        if (commit.index < r->next_commit) {
            chunk->start = at + commit.disk_bytes;
            continue;
        }
        records += count_wanted(&r->want, nv_span_of(commit.payload, commit.payload_bytes));
        r->next_commit = commit.index + 1;
    }
    chunk->end = at;
    *err = *err == NV_E_MORE && at > 0 ? NV_OK : *err;
    return records;
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

static nv_err read_piece(nv_log *log, nv_log_reader *r, nv_segment *segment, uint64_t limit, nv_log_chunk **out)
{
    nv_err err = NV_OK;
    if (r->segment != segment->header.number || r->generation != segment->header.generation) {
        uint64_t commit;
        err = seek(log, r, segment, commit_behind, &commit);
    }
    if (err == NV_OK) {
        err = nv_segment_need_read_file(log, segment);
    }
    if (err == NV_OK && limit > r->position + r->chunk_bytes) {
        read_ahead(r, segment, limit);
    }
    size_t capacity = r->chunk_bytes;
    uint64_t records = 0;
    nv_log_chunk *chunk = NULL;
    while (err == NV_OK && !chunk) {
        uint64_t left = limit > r->position ? limit - r->position : 0;
        size_t want = left < capacity ? (size_t)left : capacity;
        size_t got = 0;
        size_t need = 0;
        chunk = chunk_new(&r->want, want ? want : 1);
        err = chunk ? nv_file_read(segment->read_file, chunk->bytes, want, r->position, &got) : NV_E_NO_MEMORY;
        if (err == NV_OK && got == 0) {
            err = NV_E_CORRUPT; /* the file is shorter than its commits */
        }
        if (err == NV_OK) {
            records = take_commits(r, segment, chunk, got, &err, &need);
        }
        if (err == NV_E_MORE && got == capacity && need > capacity && need <= NV_COMMIT_MAX) {
            capacity = need; /* one commit larger than a chunk */
            nv_log_chunk_release(chunk);
            chunk = NULL;
            err = NV_OK;
        }
    }
    if (err == NV_OK && records > 0) {
        nv_metric_add(NV_M_READ_MESSAGES, (int64_t)records);
        nv_log_chunk_rewind(chunk);
        *out = chunk;
        return NV_OK;
    }
    nv_log_chunk_release(chunk);
    return err == NV_E_MORE ? NV_E_CORRUPT : err;
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
static bool find_in_tail(nv_log *log, nv_log_reader *r, nv_tail_piece *out)
{
    pthread_mutex_lock(&log->lock);
    heed_rollback_locked(log, r);
    const nv_tail_piece *piece = r->near ? nv_tail_find_locked(&log->tail, r->next_commit) : NULL;
    if (piece) {
        *out = *piece;
        nv_tail_block_ref(out->block);
    }
    pthread_mutex_unlock(&log->lock);
    return piece != NULL;
}

/** @return false when the tail does not hold next_commit. True with *out NULL: nothing wanted in there, moved on */
static bool read_tail(nv_log *log, nv_log_reader *r, nv_log_chunk **out)
{
    nv_tail_piece piece;
    if (!find_in_tail(log, r, &piece)) {
        return false;
    }
    const uint8_t *bytes = piece.block->bytes;
    bool known = piece.block->id == r->tail_id && r->tail_at >= piece.start && r->tail_at < piece.end;
    size_t at = known ? r->tail_at : piece.start;
    while (nv_load_u64_le(bytes + at + 8) < r->next_commit) {
        at += nv_load_u32_le(bytes + at + 20);
    }
    size_t start = at;
    uint64_t from = r->next_commit;
    uint64_t records = 0;
    do {
        records += count_wanted(&r->want, nv_span_of(bytes + at + NV_COMMIT_HEADER, nv_load_u32_le(bytes + at + 16)));
        r->next_commit = nv_load_u64_le(bytes + at + 8) + 1;
        at += nv_load_u32_le(bytes + at + 20);
    } while (at < piece.end && at - start < r->chunk_bytes);
    r->misses = 0;
    r->segment = 0; /* its place in the files is to be looked up when it returns to them */
    r->tail_id = piece.block->id;
    r->tail_at = at;
    nv_log_chunk *chunk = records ? chunk_alloc(&r->want) : NULL;
    if (!chunk) {
        nv_tail_block_release(piece.block);
        r->next_commit = records ? from : r->next_commit;
        return records == 0; /* short of memory: the other way reports it */
    }
    chunk->block = piece.block;
    chunk->bytes = piece.block->bytes;
    chunk->start = start;
    chunk->end = at;
    nv_log_chunk_rewind(chunk);
    nv_metric_add(NV_M_READ_MESSAGES, (int64_t)records);
    *out = chunk;
    return true;
}

/** One bounded piece of work. @return NV_E_AGAIN: not done yet, the others come first */
static nv_err serve(nv_log *log, nv_log_reader *r, nv_log_chunk **out)
{
    nv_err err = r->located ? NV_OK : locate(log, r);
    for (int turn = 0; turn < TURNS && err == NV_OK; turn++) {
        nv_segment *segment = NULL;
        uint64_t limit = 0;
        if (read_tail(log, r, out)) {
            if (*out) {
                return NV_OK;
            }
            continue;
        }
        err = resolve(log, r, &segment, &limit);
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
    if (err == NV_E_AGAIN || (err == NV_E_EOF && r->follow && r->next_commit < log->tip.next_commit)) {
        r->state = READER_QUEUED;
        nv_list_push_back(&log->requests, &r->link);
        return false;
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

void *nv_log_reader_main(void *arg)
{
    nv_log *log = arg;
    pthread_mutex_lock(&log->lock);
    for (;;) {
        while (nv_list_empty(&log->requests) && !log->stopping) {
            pthread_cond_wait(&log->reader_wake, &log->lock);
        }
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
    r->log = log;
    r->exec = exec;
    r->from = options->from;
    r->follow = options->follow;
    r->chunk_bytes = options->chunk_bytes ? options->chunk_bytes : CHUNK_DEFAULT;
    r->chunk_bytes = r->chunk_bytes < CHUNK_MIN ? CHUNK_MIN : r->chunk_bytes > CHUNK_MAX ? CHUNK_MAX : r->chunk_bytes;
    r->want = (filter){.partitions = mask,
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
    r->closed = true;
    bool free_now = r->state != READER_RUNNING && r->state != READER_POSTED;
    nv_list_remove(&r->link);
    pthread_mutex_unlock(&r->log->lock);
    if (free_now) {
        reader_free(r);
    }
}
