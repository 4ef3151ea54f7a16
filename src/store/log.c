/** Opening, closing, and what callers ask of the log between. The engine is drawn in log_internal.h. */
#include "store/log.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "base/hash.h"
#include "base/metrics.h"
#include "store/log_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- open ------------------------------------------------------------------------------------------------- */

/** @p err, after the sentence was put down; that one not fitting into its buffer changes nothing. */
static nv_err because(nv_err err, nv_err printed)
{
    (void)printed;
    return err;
}

static nv_err check_config(const nv_log_config *config, nv_buf *why)
{
    if (config->partitions < 1 || config->partitions > NV_LOG_MAX_PARTITIONS) {
        return because(NV_E_INVALID, nv_buf_append_str(why, "the number of partitions must be 1 to 32"));
    }
    if (config->segment_bytes < NV_LOG_SEGMENT_MIN || config->segment_bytes % NV_LOG_SEGMENT_MIN != 0 ||
        config->segment_bytes > UINT32_MAX) {
        return because(NV_E_INVALID,
                       nv_buf_append_str(why, "the segment size must be a multiple of 1 MiB below 4 GiB"));
    }
    if (strlen(config->dir) >= sizeof(((nv_log *)0)->dir)) {
        return because(NV_E_INVALID, nv_buf_printf(why, "the path %s is too long", config->dir));
    }
    return NV_OK;
}

static nv_log *allocate(const nv_log_config *config)
{
    nv_log *log = nv_calloc(1, sizeof(*log));
    memcpy(log->dir, config->dir, strlen(config->dir) + 1);
    log->disk = config->disk;
    log->clock = config->clock;
    log->rng = config->rng;
    log->durability = config->durability;
    log->partitions = config->partitions;
    log->segment_bytes = config->segment_bytes;
    log->retention_us = config->retention_us;
    log->retention_bytes = config->retention_bytes;
    nv_rng_fill(log->rng, log->uuid, sizeof(log->uuid));
    pthread_mutex_init(&log->write_lock, NULL);
    pthread_mutex_init(&log->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&log->writer_wake, &attr);
    pthread_cond_init(&log->janitor_wake, &attr);
    pthread_cond_init(&log->janitor_done, &attr);
    pthread_cond_init(&log->gap, &attr);
    pthread_cond_init(&log->reader_wake, &attr);
    pthread_condattr_destroy(&attr);
    nv_list_init(&log->queue);
    nv_list_init(&log->requests);
    nv_list_init(&log->followers);
    nv_list_init(&log->waiting);
    nv_list_init(&log->behind);
    void *block = NULL;
    log->header_block = posix_memalign(&block, NV_LOG_BLOCK, NV_LOG_BLOCK) == 0 ? block : NULL;
    nv_log_set_health_locked(log, NV_LOG_OK, NV_OK, "");
    return log;
}

static void release(nv_log *log)
{
    for (size_t i = 0; i < log->segment_count; i++) {
        nv_segment_free(log->segments[i]);
    }
    for (size_t i = 0; i < log->spare_count; i++) {
        nv_segment_free(log->spares[i]);
    }
    if (log->active && log->header_pending) {
        nv_segment_free(log->active);
    }
    nv_tail_deinit(&log->tail);
    nv_log_cache_drop(&log->cache);
    free(log->segments);
    free(log->header_block);
    nv_file_close(log->lock_file);
    pthread_cond_destroy(&log->writer_wake);
    pthread_cond_destroy(&log->janitor_wake);
    pthread_cond_destroy(&log->janitor_done);
    pthread_cond_destroy(&log->gap);
    pthread_cond_destroy(&log->reader_wake);
    pthread_mutex_destroy(&log->lock);
    pthread_mutex_destroy(&log->write_lock);
    free(log);
}

/** Does the file system take direct writes? Ask it with one, not synced: a start should not wait for a journal. */
static nv_err probe_mode(nv_log *log)
{
    if (log->durability == NV_DURABILITY_OS) {
        return NV_OK;
    }
    char path[NV_LOG_PATH];
    (void)snprintf(path, sizeof(path), "%s/probe.tmp", log->dir);
    nv_file *file = NULL;
    unsigned flags = NV_OPEN_WRITE | NV_OPEN_CREATE | NV_OPEN_TRUNCATE | NV_OPEN_DIRECT;
    nv_err err = nv_disk_open(log->disk, path, flags, &file);
    if (err == NV_OK) {
        memset(log->header_block, 0, NV_LOG_BLOCK);
        err = nv_file_write(file, log->header_block, NV_LOG_BLOCK, 0);
    }
    nv_file_close(file);
    nv_err ignored = nv_disk_remove(log->disk, path);
    (void)ignored;
    log->direct = err == NV_OK;
    bool fallback = err == NV_E_INVALID || err == NV_E_UNSUPPORTED || err == NV_E_NO_SPACE;
    return fallback ? NV_OK : err;
}

static nv_err open_folder(nv_log *log, nv_buf *why)
{
    char path[NV_LOG_PATH];
    nv_err err = nv_disk_make_dir(log->disk, log->dir);
    if (err != NV_OK) {
        return because(
            err, nv_buf_printf(why, "the folder %s cannot be made; check the path and its permissions", log->dir));
    }
    (void)snprintf(path, sizeof(path), "%s/lock", log->dir);
    err = nv_disk_lock(log->disk, path, &log->lock_file);
    if (err == NV_E_IN_USE) {
        return because(err,
                       nv_buf_printf(why, "another process uses %s; stop it or choose another data folder", log->dir));
    }
    if (err == NV_OK) {
        err = probe_mode(log);
    }
    if (err != NV_OK) {
        return because(
            err, nv_buf_printf(why, "the folder %s cannot be written; check its permissions and the disk", log->dir));
    }
    err = nv_log_recover(log, why);
    if (err != NV_OK) {
        return err;
    }
    /* Continue the doubling of segment sizes where the newest file stands. */
    uint64_t newest = log->segment_count ? log->segments[log->segment_count - 1]->file_bytes : 0;
    uint64_t bytes = newest >= NV_LOG_SEGMENT_FIRST ? nv_align_up(newest, NV_LOG_SEGMENT_MIN) : NV_LOG_SEGMENT_FIRST;
    log->next_bytes = bytes < log->segment_bytes ? bytes : log->segment_bytes;
    return NV_OK;
}

static void stop_threads(nv_log *log)
{
    pthread_mutex_lock(&log->lock);
    log->stopping = true;
    pthread_cond_broadcast(&log->writer_wake);
    pthread_cond_broadcast(&log->janitor_wake);
    pthread_cond_broadcast(&log->gap);
    pthread_cond_broadcast(&log->reader_wake);
    pthread_mutex_unlock(&log->lock);
    const pthread_t threads[] = {log->writer, log->janitor, log->reader};
    NV_KNOWN(log->threads <= NV_COUNT_OF(threads));
    for (unsigned i = 0; i < log->threads; i++) {
        pthread_join(threads[i], NULL);
    }
}

static nv_err start_threads(nv_log *log)
{
    void *(*const mains[])(void *) = {nv_log_writer_main, nv_log_janitor_main, nv_log_reader_main};
    pthread_t *const ids[] = {&log->writer, &log->janitor, &log->reader};
    log->janitor_kicked = true; /* prepare the first segment file before the first message */
    for (size_t i = 0; i < NV_COUNT_OF(mains); i++) {
        if (pthread_create(ids[i], NULL, mains[i], log) != 0) {
            stop_threads(log);
            return NV_E_NO_MEMORY;
        }
        log->threads++;
    }
    return NV_OK;
}

nv_err nv_log_open(nv_log **out, const nv_log_config *config, nv_buf *why)
{
    nv_err err = check_config(config, why);
    if (err != NV_OK) {
        return err;
    }
    nv_log *log = allocate(config);
    err = log->header_block ? open_folder(log, why) : NV_E_NO_MEMORY;
    if (err == NV_OK) {
        err = start_threads(log);
    }
    if (err != NV_OK) {
        release(log);
        return err;
    }
    *out = log;
    return NV_OK;
}

void nv_log_close(nv_log *log)
{
    if (log) {
        stop_threads(log);
        release(log);
    }
}

/* ---- questions -------------------------------------------------------------------------------------------- */

uint32_t nv_log_partitions(const nv_log *log)
{
    return log->partitions;
}

uint32_t nv_log_partition_of(const nv_log *log, nv_span device_id)
{
    return (uint32_t)(nv_hash_stable(device_id) % log->partitions);
}

void nv_log_get_status(nv_log *log, nv_log_status *out)
{
    pthread_mutex_lock(&log->lock);
    out->health = log->health;
    memcpy(out->reason, log->reason, sizeof(out->reason));
    out->mode = log->durability == NV_DURABILITY_OS ? "os" : log->direct ? "direct" : "fdatasync";
    out->segments = log->segment_count;
    out->stored_bytes = nv_log_stored_bytes_locked(log);
    out->outbox_row = log->tip.outbox_row;
    pthread_mutex_unlock(&log->lock);
}

nv_err nv_log_get_partition(nv_log *log, uint32_t partition, nv_log_partition_info *out)
{
    if (partition >= log->partitions) {
        return NV_E_INVALID;
    }
    pthread_mutex_lock(&log->lock);
    const nv_part_point *tip = &log->tip.parts[partition];
    const nv_log_point *start = log->segment_count ? &log->segments[0]->header.start : &log->tip;
    *out = (nv_log_partition_info){start->parts[partition].next_sequence, tip->next_sequence, tip->last_offset,
                                   tip->last_time_us};
    pthread_mutex_unlock(&log->lock);
    return NV_OK;
}

/* ---- submitting ------------------------------------------------------------------------------------------- */

static nv_err refusal_locked(const nv_log *log)
{
    switch (log->health) {
    case NV_LOG_OK:
        return NV_OK;
    case NV_LOG_FULL:
        return NV_E_NO_SPACE;
    case NV_LOG_FAILED:
        return NV_E_IO;
    }
    return NV_E_IO;
}

/** Write at once on the calling thread: with NV_DURABILITY_OS that is a copy into the page cache. */
static nv_err submit_inline(nv_log *log, nv_log_batch *batch)
{
    pthread_mutex_lock(&log->write_lock);
    pthread_mutex_lock(&log->lock);
    nv_err err = refusal_locked(log);
    pthread_mutex_unlock(&log->lock);
    if (err == NV_OK) {
        nv_list list;
        nv_list_init(&list);
        batch->submitted = true;
        nv_metric_add(NV_M_LOG_BATCHES, 1);
        nv_list_push_back(&list, &batch->link);
        nv_log_write_batches(log, &list);
    }
    pthread_mutex_unlock(&log->write_lock);
    return err;
}

nv_err nv_log_submit(nv_log_batch *batch)
{
    nv_log *log = batch->log;
    nv_err err = nv_log_batch_reserve(batch, NV_COMMIT_HEADER);
    if (err != NV_OK) {
        return err;
    }
    nv_log_batch_finish(batch);
    if (log->durability == NV_DURABILITY_OS) {
        return submit_inline(log, batch);
    }
    pthread_mutex_lock(&log->lock);
    err = refusal_locked(log);
    bool wake = err == NV_OK && nv_list_empty(&log->queue);
    if (err == NV_OK) {
        batch->submitted = true;
        nv_metric_add(NV_M_LOG_BATCHES, 1);
        nv_list_push_back(&log->queue, &batch->link);
    }
    pthread_mutex_unlock(&log->lock);
    if (wake) {
        pthread_cond_signal(&log->writer_wake); /* not under the lock, which is the first thing it takes */
    }
    return err;
}
