/**
 * Appending: groups of batches become commits in one write; then completions. Also what follows when a write fails.
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "base/sched.h"
#include "store/log_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { RETRY_FIRST_US = 100000, RETRY_MAX_US = 5000000, TAIL_SYNC_US = 1000000, TAIL_SYNC_BYTES = 8 << 20 };

static const char cannot_start[] = "the telemetry log cannot start a new segment file";

/* ---- health ----------------------------------------------------------------------------------------------- */

void nv_log_set_health_locked(nv_log *log, nv_log_health health, nv_err err, const char *what)
{
    if (health == NV_LOG_OK) {
        if (log->health != NV_LOG_OK) {
            nv_diag(NV_LEVEL_INFO, "log", NULL, "the telemetry log accepts messages again");
        }
        log->reason[0] = '\0';
        log->retry_step_us = RETRY_FIRST_US;
    } else {
        (void)snprintf(log->reason, sizeof(log->reason),
                       health == NV_LOG_FULL
                           ? "%s: %s; free space on the volume or lower the retention; reading goes on"
                           : "%s: %s; check the disk and the kernel's messages; retried automatically",
                       what, nv_err_text(err));
        if (log->health == NV_LOG_OK) {
            nv_diag(NV_LEVEL_ERROR, "log", NULL, "the telemetry log stopped: %s", log->reason);
        }
        log->retry_mono_us = nv_mono_us(nv_clock_system()) + log->retry_step_us;
        log->retry_step_us = log->retry_step_us * 2 < RETRY_MAX_US ? log->retry_step_us * 2 : RETRY_MAX_US;
    }
    log->health = health;
    nv_metric_set(NV_M_LOG_STATE, (int64_t)health);
}

static void complete_all(nv_list *batches, nv_err status)
{
    for (nv_list *node = nv_list_pop_front(batches); node; node = nv_list_pop_front(batches)) {
        nv_log_batch_complete(nv_container_of(node, nv_log_batch, link), status);
    }
}

static void remove_segment_file(nv_log *log, const nv_segment *segment)
{
    char path[NV_LOG_PATH];
    nv_segment_path(log, segment->header.number, "seg", path);
    nv_err ignored = nv_disk_remove(log->disk, path); /* what stays behind is off the chain: recovery removes it */
    (void)ignored;
}

/* ---- rolling back ----------------------------------------------------------------------------------------- */

/** Take segments behind @p point off the list; the caller removes their files. @return how many, in @p out */
static size_t cut_segments_locked(nv_log *log, const nv_log_point *point, nv_segment **out)
{
    size_t count = 0;
    while (log->segment_count && log->segments[log->segment_count - 1]->header.number > point->segment) {
        out[count++] = log->segments[--log->segment_count];
    }
    if (log->segment_count) {
        nv_segment *last = log->segments[log->segment_count - 1];
        last->sealed = true;
        if (last->end.next_commit > point->next_commit) {
            last->end = *point;
        }
        while (last->index_count && last->index[last->index_count - 1].commit >= point->next_commit) {
            last->index_count--;
        }
    }
    return count;
}

/** Nothing is accepted until reopen() succeeds: say why, and fail what is queued. Under write_lock. */
static void refuse(nv_log *log, nv_err err, const char *what)
{
    nv_err status = err == NV_E_NO_SPACE ? NV_E_NO_SPACE : NV_E_IO;
    nv_list queued;
    nv_list_init(&queued);
    if (log->active && log->header_pending) { /* whatever got written of it is void */
        remove_segment_file(log, log->active);
        nv_segment_free(log->active);
    }
    log->active = NULL;
    log->header_pending = false;
    nv_metric_add(NV_M_LOG_ERRORS, 1);
    pthread_mutex_lock(&log->lock);
    nv_log_set_health_locked(log, status == NV_E_NO_SPACE ? NV_LOG_FULL : NV_LOG_FAILED, err, what);
    nv_list_splice(&queued, &log->queue);
    nv_log_kick_janitor_locked(log);
    pthread_cond_signal(&log->writer_wake);
    pthread_mutex_unlock(&log->lock);
    complete_all(&queued, status);
}

/**
 * A write or sync failed: forget everything behind the last durable commit. Nothing of that tail is ever written or
 * synced again. Under write_lock.
 */
static void roll_back(nv_log *log)
{
    pthread_mutex_lock(&log->lock);
    nv_segment **gone = nv_calloc(log->segment_count + 1, sizeof(*gone));
    size_t count = cut_segments_locked(log, &log->synced, gone);
    log->tip = log->synced;
    log->point = log->synced;
    log->rollbacks++;
    log->rollback_commit = log->synced.next_commit;
    nv_tail_drop_locked(&log->tail);
    pthread_mutex_unlock(&log->lock);
    nv_tail_release(&log->tail);
    for (size_t i = 0; i < count; i++) {
        remove_segment_file(log, gone[i]);
        pthread_mutex_lock(&log->lock);
        nv_segment *last = nv_segment_unref_locked(gone[i]); /* a reader may still hold it */
        pthread_mutex_unlock(&log->lock);
        nv_segment_free(last);
    }
    free(gone);
}

/* ---- starting a segment ----------------------------------------------------------------------------------- */

static nv_segment *take_spare(nv_log *log, uint64_t bytes)
{
    pthread_mutex_lock(&log->lock);
    nv_segment *spare = NULL;
    while (!spare && log->spare_count) {
        spare = log->spares[0];
        log->spare_count--;
        memmove(&log->spares[0], &log->spares[1], log->spare_count * sizeof(log->spares[0]));
        if (spare->header.number <= log->started || spare->file_bytes < bytes) {
            /* Overtaken by a file made in a hurry, or too small for this one commit. */
            pthread_mutex_unlock(&log->lock);
            remove_segment_file(log, spare);
            nv_segment_free(spare);
            spare = NULL;
            pthread_mutex_lock(&log->lock);
        }
    }
    pthread_mutex_unlock(&log->lock);
    return spare;
}

static void fill_header(nv_log *log, nv_segment *segment)
{
    nv_segment_header *h = &segment->header;
    memcpy(h->uuid, log->uuid, sizeof(h->uuid));
    h->generation = nv_rng_u64(log->rng);
    h->partitions = log->partitions;
    h->align = log->direct ? NV_LOG_BLOCK : NV_LOG_DENSE_ALIGN;
    h->start = log->point;
    pthread_mutex_lock(&log->lock);
    h->start_was_durable = log->durability == NV_DURABILITY_COMMIT || log->synced.next_commit == log->point.next_commit;
    pthread_mutex_unlock(&log->lock);
    segment->end = log->point;
    segment->end.segment = h->number;
    segment->end.position = NV_LOG_BLOCK;
    nv_segment_header_encode(h, log->header_block);
}

/** Let the log go on in another file with room for @p need bytes of commits. Under write_lock. */
static nv_err start_segment(nv_log *log, uint64_t need)
{
    uint64_t bytes = NV_LOG_BLOCK + need;
    bytes = nv_align_up(bytes + nv_segment_footer_reserve(log, bytes), NV_LOG_SEGMENT_MIN);
    pthread_mutex_lock(&log->lock);
    uint64_t wanted = log->next_bytes;
    bool sparse = log->active && log->active->padding > log->active->end.position / 2;
    if (log->active) {
        log->active->sealed = true;
    }
    pthread_mutex_unlock(&log->lock);
    log->active = NULL;
    nv_segment *segment = take_spare(log, bytes);
    if (!segment) {
        nv_err err = nv_segment_create(log, wanted > bytes ? wanted : bytes, bytes, true, &segment);
        if (err != NV_OK) {
            return err;
        }
    }
    fill_header(log, segment);
    log->started = segment->header.number;
    log->active = segment;
    log->header_pending = true;
    pthread_mutex_lock(&log->lock);
    /* Small commits are mostly padding, and packing will shrink the file: a larger one only takes longer to prepare. */
    if (!sparse || log->next_bytes < NV_LOG_SPARSE_MAX) {
        log->next_bytes = log->next_bytes * 2 < log->segment_bytes ? log->next_bytes * 2 : log->segment_bytes;
    }
    int64_t now = nv_mono_us(nv_clock_system());
    log->roll_interval_us = now - log->last_roll_us;
    log->last_roll_us = now;
    nv_log_kick_janitor_locked(log);
    pthread_mutex_unlock(&log->lock);
    return NV_OK;
}

static bool has_room(nv_log *log, uint64_t need)
{
    return log->active && log->active->end.position + need + nv_segment_footer_reserve(log, log->active->file_bytes) <=
                              log->active->file_bytes;
}

static void list_segment_locked(nv_log *log, nv_segment *segment)
{
    log->segments = nv_realloc(log->segments, (log->segment_count + 1) * sizeof(*log->segments));
    log->segments[log->segment_count++] = segment;
}

/* ---- one group -------------------------------------------------------------------------------------------- */

typedef struct group {
    nv_log_batch *batches[NV_LOG_GROUP_MAX];
    nv_commit commits[NV_LOG_GROUP_MAX];
    size_t count;
    uint64_t bytes;
    uint64_t position; /* of the first commit */
    nv_log_point before;
    bool gap; /* the janitor waits for this commit's end */
} group;

static uint64_t disk_bytes(const nv_log *log, const nv_log_batch *batch)
{
    return nv_align_up(batch->used, log->direct ? NV_LOG_BLOCK : NV_LOG_DENSE_ALIGN);
}

/** Give the records their numbers and time, and close the commit with its checksum. */
static void seal_commit(nv_log *log, nv_log_batch *batch, nv_commit *commit, uint64_t position, int64_t now_us)
{
    uint8_t *at = batch->memory + NV_COMMIT_HEADER;
    uint8_t *end = batch->memory + batch->used;
    for (uint8_t *run = at; run < end; run += nv_load_u32_le(run)) {
        nv_part_point *part = &log->point.parts[nv_load_u16_le(run + 4)];
        nv_run_patch(run, part->next_sequence, part->next_offset, now_us);
        uint64_t bytes = nv_load_u32_le(run) - NV_RUN_HEADER - (uint32_t)nv_load_u16_le(run + 6);
        part->last_offset = part->next_offset + nv_load_u32_le(run + 36);
        part->next_sequence += nv_load_u32_le(run + 8);
        part->next_offset += bytes;
        part->last_time_us = now_us;
    }
    uint64_t size = disk_bytes(log, batch);
    if (batch->has_outbox_row) {
        log->point.outbox_row = batch->outbox_row;
    }
    *commit = (nv_commit){.index = log->point.next_commit,
                          .payload_bytes = (uint32_t)(batch->used - NV_COMMIT_HEADER),
                          .disk_bytes = (uint32_t)size,
                          .runs = batch->runs,
                          .records = batch->records,
                          .wall_us = now_us,
                          .outbox_row = log->point.outbox_row,
                          .payload = at};
    memset(end, 0, size - batch->used);
    nv_commit_encode(batch->memory, commit, log->active->header.generation, position);
    log->point.segment = log->active->header.number;
    log->point.position = position + size;
    log->point.next_commit++;
    log->point.last_time_us = now_us;
}

/** Move batches from the list into the group while they fit into segment, write and vector. */
static void collect(nv_log *log, nv_list *batches, group *g)
{
    int64_t now_us = nv_wall_us(log->clock);
    if (now_us < log->point.last_time_us) {
        now_us = log->point.last_time_us;
    }
    g->count = 0;
    g->bytes = 0;
    g->gap = false;
    g->position = log->active->end.position;
    g->before = log->point;
    while (!nv_list_empty(batches) && g->count < NV_LOG_GROUP_MAX && g->bytes < NV_LOG_GROUP_BYTES) {
        nv_log_batch *batch = nv_container_of(batches->next, nv_log_batch, link);
        uint64_t size = disk_bytes(log, batch);
        if (!has_room(log, g->bytes + size)) {
            break;
        }
        nv_list_remove(&batch->link);
        seal_commit(log, batch, &g->commits[g->count], g->position + g->bytes, now_us);
        g->batches[g->count++] = batch;
        g->bytes += size;
    }
}

static nv_err write_group(nv_log *log, const group *g)
{
    struct iovec parts[NV_LOG_GROUP_MAX + 1];
    int count = 0;
    uint64_t position = g->position;
    if (log->header_pending) {
        parts[count++] = (struct iovec){log->header_block, NV_LOG_BLOCK};
        position = 0;
    }
    for (size_t i = 0; i < g->count; i++) {
        parts[count++] = (struct iovec){g->batches[i]->memory, g->commits[i].disk_bytes};
    }
    nv_err err = nv_file_writev(log->active->write_file, parts, count, position);
    if (err == NV_OK && !log->direct && log->durability == NV_DURABILITY_COMMIT) {
        err = nv_file_sync(log->active->write_file);
    }
    return err;
}

/** Which partitions got records between two points. */
static uint32_t partitions_between(const nv_log *log, const nv_log_point *before, const nv_log_point *after)
{
    uint32_t mask = 0;
    for (uint32_t i = 0; i < log->partitions; i++) {
        mask |= (uint32_t)(before->parts[i].next_sequence != after->parts[i].next_sequence) << i;
    }
    return mask;
}

/** Make the group visible. */
static void publish(nv_log *log, group *g)
{
    nv_log_point before = g->before;
    uint64_t position = g->position;
    bool followed = atomic_load_explicit(&log->tail.users, memory_order_relaxed) > 0;
    for (size_t i = 0; followed && i < g->count; i++) {
        nv_tail_prepare(&log->tail, g->batches[i]->memory);
    }
    pthread_mutex_lock(&log->lock);
    if (log->header_pending) {
        list_segment_locked(log, log->active);
        log->header_pending = false;
    }
    for (size_t i = 0; i < g->count; i++) {
        nv_log_point after = log->point; /* only the last one's numbers are exact; the index needs "before" */
        after.position = position + g->commits[i].disk_bytes;
        nv_segment_note_commit(log->active, log->partitions, &before, &g->commits[i], position, &after);
        position = after.position;
        if (g->count > 1) {
            nv_err err = nv_log_point_advance(&before, &g->commits[i], log->partitions);
            (void)err; /* these bytes were made a moment ago */
        }
    }
    log->tip = log->point;
    if (log->durability == NV_DURABILITY_COMMIT) {
        log->synced = log->point;
    }
    uint64_t quarter = log->active->file_bytes / 4;
    if (g->position <= quarter && position > quarter) {
        nv_log_kick_janitor_locked(log); /* time for the next spare */
    }
    log->committed_bytes += g->bytes;
    if (log->gap_at && log->committed_bytes >= log->gap_at) {
        log->gap_at = 0;
        g->gap = true;
    }
    if (log->durability == NV_DURABILITY_OS && log->committed_bytes - log->sync_asked_at >= TAIL_SYNC_BYTES) {
        log->sync_asked_at = log->committed_bytes;
        pthread_cond_signal(&log->writer_wake);
    }
    nv_tail_publish_locked(&log->tail);
    nv_log_wake_followers_locked(log, partitions_between(log, &g->before, &log->tip));
    pthread_mutex_unlock(&log->lock);
    nv_tail_release(&log->tail);
    nv_metric_add(NV_M_LOG_COMMITS, (int64_t)g->count);
    nv_metric_add(NV_M_LOG_WRITTEN_BYTES, (int64_t)g->bytes);
    if (log->durability == NV_DURABILITY_COMMIT) {
        nv_metric_add(NV_M_LOG_SYNCS, 1);
    }
}

static nv_err write_some(nv_log *log, nv_list *batches)
{
    nv_log_batch *first = nv_container_of(batches->next, nv_log_batch, link);
    uint64_t need = disk_bytes(log, first);
    if (!has_room(log, need)) {
        nv_err err = start_segment(log, need);
        if (err != NV_OK) {
            refuse(log, err, cannot_start);
            return err;
        }
    }
    group g;
    collect(log, batches, &g);
    nv_err err = write_group(log, &g);
    if (err == NV_OK) {
        publish(log, &g);
    } else {
        roll_back(log);
        refuse(log, err, "a write to the telemetry log failed");
    }
    nv_err status = err == NV_OK ? NV_OK : err == NV_E_NO_SPACE ? NV_E_NO_SPACE : NV_E_IO;
    for (size_t i = 0; i < g.count; i++) {
        nv_log_batch_complete(g.batches[i], status);
    }
    if (g.gap) {
        pthread_cond_signal(&log->gap); /* behind those who wait for the commit: it wants the same core */
    }
    return err;
}

void nv_log_write_batches(nv_log *log, nv_list *batches)
{
    nv_err err = NV_OK;
    while (err == NV_OK && !nv_list_empty(batches)) {
        err = write_some(log, batches);
    }
    complete_all(batches, err == NV_E_NO_SPACE ? NV_E_NO_SPACE : NV_E_IO);
}

/* ---- coming back ------------------------------------------------------------------------------------------ */

/**
 * Start a segment whose header, durable before anything else, says where the log validly ends; then accept again.
 * Under write_lock.
 */
static void reopen(nv_log *log)
{
    nv_err err = start_segment(log, NV_LOG_BLOCK);
    struct iovec part = {log->header_block, NV_LOG_BLOCK};
    if (err == NV_OK) {
        err = nv_file_writev(log->active->write_file, &part, 1, 0);
    }
    if (err == NV_OK && !log->direct) {
        err = nv_file_sync(log->active->write_file);
    }
    if (err == NV_OK && log->durability == NV_DURABILITY_OS) {
        err = nv_disk_sync_dir(log->disk, log->dir);
    }
    if (err != NV_OK) {
        refuse(log, err, cannot_start);
        return;
    }
    pthread_mutex_lock(&log->lock);
    list_segment_locked(log, log->active);
    log->header_pending = false;
    bool all_durable = log->synced.next_commit == log->point.next_commit;
    log->point = log->active->end;
    log->tip = log->point;
    log->synced = all_durable ? log->point : log->synced;
    nv_log_set_health_locked(log, NV_LOG_OK, NV_OK, "");
    nv_log_kick_janitor_locked(log);
    pthread_mutex_unlock(&log->lock);
}

bool nv_log_is_old_locked(const nv_log *log)
{
    const nv_segment *last = log->segment_count ? log->segments[log->segment_count - 1] : NULL;
    return log->retention_us > 0 && log->health == NV_LOG_OK && !log->stopping && last &&
           last->end.next_commit > last->header.start.next_commit &&
           last->first_time_us < nv_wall_us(log->clock) - log->retention_us;
}

void nv_log_roll_old(nv_log *log)
{
    pthread_mutex_lock(&log->write_lock);
    pthread_mutex_lock(&log->lock);
    bool wanted = nv_log_is_old_locked(log) && !log->header_pending && log->spare_count > 0;
    pthread_mutex_unlock(&log->lock);
    if (wanted) {
        reopen(log);
    }
    pthread_mutex_unlock(&log->write_lock);
}

/* ---- syncing in the background ---------------------------------------------------------------------------- */

static size_t take_unsynced(nv_log *log, nv_segment ***out, nv_log_point *tip)
{
    pthread_mutex_lock(&log->lock);
    *tip = log->tip;
    size_t count = 0;
    nv_segment **list = nv_calloc(log->segment_count + 1, sizeof(*list));
    if (log->synced.next_commit != tip->next_commit) {
        for (size_t i = 0; i < log->segment_count; i++) {
            /* Those without anything new are the janitor's, who closes their files. */
            if (log->segments[i]->end.next_commit > log->synced.next_commit && log->segments[i]->write_file) {
                list[count++] = log->segments[i];
                log->segments[i]->syncing = true;
                nv_segment_ref_locked(log->segments[i]);
            }
        }
    }
    pthread_mutex_unlock(&log->lock);
    *out = list;
    return count;
}

void nv_log_sync_tail(nv_log *log)
{
    nv_segment **list;
    nv_log_point tip;
    size_t count = take_unsynced(log, &list, &tip);
    nv_err err = NV_OK;
    if (count && tip.segment > log->dir_synced) {
        err = nv_disk_sync_dir(log->disk, log->dir);
        log->dir_synced = err == NV_OK ? tip.segment : log->dir_synced;
    }
    for (size_t i = 0; i < count && err == NV_OK; i++) {
        err = nv_file_sync(list[i]->write_file);
        nv_metric_add(NV_M_LOG_SYNCS, 1);
        /* The next writes get these pages again, warm. Pages the machine never used cost more than all the rest of a
         * message, above all in a virtual machine that is given its memory page by page. */
        nv_err ignored = nv_file_drop_cache(list[i]->write_file);
        (void)ignored;
    }
    pthread_mutex_lock(&log->write_lock);
    pthread_mutex_lock(&log->lock);
    if (err == NV_OK && count && log->health == NV_LOG_OK) {
        log->synced = tip;
        nv_log_kick_janitor_locked(log);
    }
    for (size_t i = 0; i < count; i++) {
        list[i]->syncing = false;
        list[i] = nv_segment_unref_locked(list[i]);
    }
    bool failed = err != NV_OK && log->health == NV_LOG_OK;
    pthread_mutex_unlock(&log->lock);
    if (failed) {
        roll_back(log);
        refuse(log, err, "a sync of the telemetry log failed");
    }
    pthread_mutex_unlock(&log->write_lock);
    for (size_t i = 0; i < count; i++) {
        nv_segment_free(list[i]);
    }
    free(list);
}

/* ---- the writer thread ------------------------------------------------------------------------------------ */

static void wait_until(nv_log *log, int64_t mono_us)
{
    struct timespec ts = {mono_us / NV_US_PER_S, (mono_us % NV_US_PER_S) * 1000};
    (void)pthread_cond_timedwait(&log->writer_wake, &log->lock, &ts);
}

/** Wait for something to do. Under lock. */
static void wait_for_work(nv_log *log)
{
    int64_t now = nv_mono_us(nv_clock_system());
    if (log->health != NV_LOG_OK) {
        if (!log->stopping && now < log->retry_mono_us) {
            wait_until(log, log->retry_mono_us);
        }
    } else if (log->durability == NV_DURABILITY_OS) {
        wait_until(log, now + TAIL_SYNC_US);
    } else if (nv_list_empty(&log->queue)) {
        pthread_cond_wait(&log->writer_wake, &log->lock);
    }
}

static void writer_turn(nv_log *log, nv_list *batches, bool retry)
{
    if (log->durability == NV_DURABILITY_OS) {
        nv_log_sync_tail(log);
    }
    pthread_mutex_lock(&log->write_lock);
    if (retry) {
        reopen(log);
    }
    nv_log_write_batches(log, batches);
    pthread_mutex_unlock(&log->write_lock);
}

void *nv_log_writer_main(void *arg)
{
    nv_log *log = arg;
    nv_list batches;
    nv_list_init(&batches);
    if (log->durability == NV_DURABILITY_COMMIT) {
        nv_sched_prompt();
    }
    pthread_mutex_lock(&log->lock);
    while (!log->stopping || !nv_list_empty(&log->queue)) {
        if (nv_list_empty(&log->queue)) {
            wait_for_work(log);
        }
        bool retry = log->health != NV_LOG_OK && !log->stopping && nv_mono_us(nv_clock_system()) >= log->retry_mono_us;
        nv_list_splice(&batches, &log->queue);
        pthread_mutex_unlock(&log->lock);
        writer_turn(log, &batches, retry);
        pthread_mutex_lock(&log->lock);
    }
    pthread_mutex_unlock(&log->lock);
    if (log->durability == NV_DURABILITY_OS) {
        nv_log_sync_tail(log);
    }
    return NULL;
}
