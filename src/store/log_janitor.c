/**
 * Everything that nobody waits for: preparing segment files, footers, retention, packing, closing idle files.
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "base/sched.h"
#include "store/log_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { PASS_US = 10000000, FULL_PASS_US = 1000000, FAST_ROLL_US = 1000000 };

static nv_segment *oldest_sealed_locked(const nv_log *log)
{
    return log->segment_count && log->segments[0]->sealed ? log->segments[0] : NULL;
}

/* ---- retention -------------------------------------------------------------------------------------------- */

static bool expired_locked(const nv_log *log, const nv_segment *segment, int64_t now_us)
{
    if (segment->end.next_commit > log->synced.next_commit || segment->header.number == log->tip.segment) {
        return false; /* the newest says where the log goes on */
    }
    bool old = log->retention_us > 0 && segment->end.last_time_us < now_us - log->retention_us;
    bool big = log->retention_bytes > 0 && nv_log_stored_bytes_locked(log) > log->retention_bytes;
    return old || big;
}

bool nv_log_recycle(nv_log *log, const nv_segment *old, const char *path)
{
    char to[NV_LOG_PATH];
    pthread_mutex_lock(&log->lock);
    bool fit = log->direct && old->header.prewritten && old->file_bytes >= log->next_bytes &&
               old->file_bytes <= log->segment_bytes && log->spare_count < NV_LOG_SPARES && log->health == NV_LOG_OK &&
               !log->stopping;
    uint64_t number = fit ? ++log->last_number : 0;
    pthread_mutex_unlock(&log->lock);
    if (!fit) {
        return false;
    }
    nv_segment_path(log, number, "seg", to);
    nv_segment *spare = nv_segment_new();
    spare->header = (nv_segment_header){.number = number, .prewritten = true};
    spare->file_bytes = old->file_bytes;
    bool ok = nv_disk_rename(log->disk, path, to) == NV_OK && nv_disk_sync_dir(log->disk, log->dir) == NV_OK &&
              nv_segment_open_write(log, to, 0, &spare->write_file) == NV_OK;
    if (!ok) {
        nv_segment_free(spare);
        nv_err ignored = nv_disk_remove(log->disk, to);
        (void)ignored;
        return false;
    }
    pthread_mutex_lock(&log->lock);
    log->spares[log->spare_count++] = spare;
    pthread_mutex_unlock(&log->lock);
    return true;
}

static void release_oldest(nv_log *log, nv_segment *old, bool in_use)
{
    char path[NV_LOG_PATH];
    nv_segment_path(log, old->header.number, "seg", path);
    if (in_use || !nv_log_recycle(log, old, path)) {
        nv_err err = nv_disk_remove(log->disk, path);
        if (err != NV_OK && err != NV_E_NOT_FOUND) {
            nv_diag(NV_LEVEL_WARN, "log", NULL, "%s could not be removed: %s", path, nv_err_text(err));
        }
    }
    pthread_mutex_lock(&log->lock);
    old = nv_segment_unref_locked(old);
    pthread_mutex_unlock(&log->lock);
    nv_segment_free(old);
}

/** @return whether anything was released */
static bool apply_retention(nv_log *log)
{
    bool any = false;
    for (;;) {
        pthread_mutex_lock(&log->lock);
        nv_segment *old = oldest_sealed_locked(log);
        if (!old || !expired_locked(log, old, nv_wall_us(log->clock))) {
            pthread_mutex_unlock(&log->lock);
            return any;
        }
        log->segment_count--;
        memmove(&log->segments[0], &log->segments[1], log->segment_count * sizeof(log->segments[0]));
        bool in_use = old->refs > 1;
        pthread_mutex_unlock(&log->lock);
        release_oldest(log, old, in_use);
        any = true;
    }
}

/* ---- footers and packing ---------------------------------------------------------------------------------- */

typedef bool (*segment_test)(const nv_log *log, const nv_segment *segment);

static bool needs_footer(const nv_log *log, const nv_segment *segment)
{
    return segment->sealed && !segment->has_footer && !segment->syncing &&
           segment->end.next_commit <= log->synced.next_commit;
}

static bool needs_packing(const nv_log *log, const nv_segment *segment)
{
    (void)log;
    if (!segment->sealed || !segment->has_footer || segment->packed) {
        return false;
    }
    uint64_t waste = segment->padding + (segment->file_bytes - segment->end.position);
    return waste > segment->file_bytes / 5;
}

/** Take a reference to the first segment behind @p number that @p test picks. */
static nv_segment *pick(nv_log *log, segment_test test, uint64_t number)
{
    nv_segment *found = NULL;
    pthread_mutex_lock(&log->lock);
    for (size_t i = 0; i < log->segment_count && !found && !log->stopping; i++) {
        if (log->segments[i]->header.number > number && test(log, log->segments[i])) {
            found = log->segments[i];
            nv_segment_ref_locked(found);
        }
    }
    pthread_mutex_unlock(&log->lock);
    return found;
}

static uint64_t put_back(nv_log *log, nv_segment *segment)
{
    uint64_t number = segment->header.number;
    pthread_mutex_lock(&log->lock);
    segment = nv_segment_unref_locked(segment);
    pthread_mutex_unlock(&log->lock);
    nv_segment_free(segment);
    return number;
}

static nv_err finish_segment(nv_log *log, nv_segment *segment)
{
    char path[NV_LOG_PATH];
    nv_segment_path(log, segment->header.number, "seg", path);
    nv_err err = segment->write_file ? NV_OK : nv_segment_open_write(log, path, 0, &segment->write_file);
    if (err == NV_OK) {
        err = nv_segment_write_footer(log, segment);
    }
    if (err != NV_OK) {
        return err;
    }
    pthread_mutex_lock(&log->lock);
    nv_file *file = segment->write_file;
    nv_index_entry *index = segment->index;
    segment->write_file = NULL;
    segment->index = NULL;
    segment->index_count = segment->index_capacity = 0;
    segment->has_footer = true;
    if (segment->read_file) {
        nv_file_advise(segment->read_file, NV_ADVICE_SEQUENTIAL);
    }
    pthread_mutex_unlock(&log->lock);
    nv_file_close(file);
    free(index);
    return NV_OK;
}

static void write_footers(nv_log *log)
{
    uint64_t at = 0;
    for (nv_segment *segment = pick(log, needs_footer, at); segment; segment = pick(log, needs_footer, at)) {
        nv_err err = finish_segment(log, segment);
        if (err != NV_OK) { /* without one the segment is scanned at the next start: slower, not wrong */
            nv_diag(NV_LEVEL_DEBUG, "log", NULL, "no footer for segment %llu: %s",
                    (unsigned long long)segment->header.number, nv_err_text(err));
        }
        at = put_back(log, segment);
    }
}

static void pack_segments(nv_log *log)
{
    uint64_t at = 0;
    for (nv_segment *segment = pick(log, needs_packing, at); segment; segment = pick(log, needs_packing, at)) {
        nv_err err = nv_segment_pack(log, segment);
        if (err != NV_OK) {
            nv_diag(NV_LEVEL_DEBUG, "log", NULL, "segment %llu stays as it is: %s",
                    (unsigned long long)segment->header.number, nv_err_text(err));
        }
        at = put_back(log, segment);
    }
}

/* ---- spares ----------------------------------------------------------------------------------------------- */

static size_t spares_wanted_locked(const nv_log *log)
{
    if (log->health != NV_LOG_OK || log->stopping) {
        return 0;
    }
    const nv_segment *last = log->segment_count ? log->segments[log->segment_count - 1] : NULL;
    bool fast =
        log->roll_interval_us < FAST_ROLL_US && nv_mono_us(nv_clock_system()) - log->last_roll_us < FAST_ROLL_US;
    if (!last || last->sealed) {
        return 1; /* nothing is open: the next message needs it */
    }
    bool quarter = last->end.position > last->file_bytes / 4;
    return fast ? NV_LOG_SPARES : quarter || nv_log_is_old_locked(log) ? 1 : 0;
}

static void prepare_spares(nv_log *log)
{
    for (;;) {
        pthread_mutex_lock(&log->lock);
        bool wanted = log->spare_count < spares_wanted_locked(log);
        uint64_t bytes = log->next_bytes;
        pthread_mutex_unlock(&log->lock);
        nv_segment *spare = NULL;
        if (!wanted || nv_segment_create(log, bytes, NV_LOG_SEGMENT_MIN, false, &spare) != NV_OK) {
            return; /* a failure here costs nothing yet: the writer tries for itself and reports */
        }
        pthread_mutex_lock(&log->lock);
        log->spares[log->spare_count++] = spare; /* only this thread adds: there is still room */
        pthread_mutex_unlock(&log->lock);
    }
}

void nv_log_janitor_tend(nv_log *log)
{
    if (nv_log_spare_needed(log, 0.5)) {
        apply_retention(log);
        prepare_spares(log);
    }
}

/* A file is removed whole, when its last message is old enough; so it must not go on taking messages for ever. */
static void end_old_segment(nv_log *log)
{
    pthread_mutex_lock(&log->lock);
    bool old = nv_log_is_old_locked(log);
    pthread_mutex_unlock(&log->lock);
    if (old) {
        prepare_spares(log);
        nv_log_roll_old(log);
    }
}

/* ---- the thread ------------------------------------------------------------------------------------------- */

static void close_idle_files(nv_log *log)
{
    for (;;) {
        nv_file *file = NULL;
        pthread_mutex_lock(&log->lock);
        for (size_t i = 0; i < log->segment_count && !file; i++) {
            nv_segment *segment = log->segments[i];
            if (segment->read_file && segment->has_footer && segment->refs == 1 && !segment->file_used) {
                file = segment->read_file;
                segment->read_file = NULL;
            }
        }
        pthread_mutex_unlock(&log->lock);
        if (!file) {
            break;
        }
        nv_file_close(file);
    }
    pthread_mutex_lock(&log->lock);
    for (size_t i = 0; i < log->segment_count; i++) {
        log->segments[i]->file_used = false;
    }
    nv_metric_set(NV_M_LOG_SEGMENTS, (int64_t)log->segment_count);
    nv_metric_set(NV_M_LOG_STORED_BYTES, (int64_t)nv_log_stored_bytes_locked(log));
    pthread_mutex_unlock(&log->lock);
}

void nv_log_janitor_pass(nv_log *log)
{
    end_old_segment(log);
    bool released = apply_retention(log);
    if (nv_log_spare_needed(log, 0.5)) {
        prepare_spares(log);
    }
    write_footers(log);
    pack_segments(log); /* may give a spare: so before making the others */
    prepare_spares(log);
    close_idle_files(log);
    pthread_mutex_lock(&log->lock);
    if (released && log->health == NV_LOG_FULL) {
        log->retry_mono_us = 0;
        pthread_cond_signal(&log->writer_wake);
    }
    pthread_mutex_unlock(&log->lock);
}

void nv_log_kick_janitor_locked(nv_log *log)
{
    log->janitor_kicked = true;
    pthread_cond_signal(&log->janitor_wake);
}

void *nv_log_janitor_main(void *arg)
{
    nv_log *log = arg;
    nv_sched_background();
    pthread_mutex_lock(&log->lock);
    while (!log->stopping) {
        if (!log->janitor_kicked) {
            int64_t until = nv_mono_us(nv_clock_system()) + (log->health == NV_LOG_OK ? PASS_US : FULL_PASS_US);
            struct timespec ts = {until / NV_US_PER_S, (until % NV_US_PER_S) * 1000};
            (void)pthread_cond_timedwait(&log->janitor_wake, &log->lock, &ts);
        }
        log->janitor_kicked = false;
        pthread_mutex_unlock(&log->lock);
        nv_log_janitor_pass(log);
        pthread_mutex_lock(&log->lock);
        log->janitor_passes++;
        pthread_cond_broadcast(&log->janitor_done);
    }
    pthread_mutex_unlock(&log->lock);
    return NULL;
}

void nv_log_janitor_run(nv_log *log)
{
    pthread_mutex_lock(&log->lock);
    uint64_t target = log->janitor_passes + 2; /* the one under way may have looked too early */
    while (log->janitor_passes < target) {
        nv_log_kick_janitor_locked(log);
        pthread_cond_wait(&log->janitor_done, &log->lock);
    }
    pthread_mutex_unlock(&log->lock);
}
