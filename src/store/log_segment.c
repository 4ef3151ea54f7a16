/** Segment files: making, opening, counting references, index and footer. */
#include "base/alloc.h"
#include "base/metrics.h"
#include "store/log_internal.h"

#include <stdio.h>
#include <stdlib.h>

enum { ZEROS = 256 << 10, ZERO_PARTS = 4 };
static const double spare_ratio_min = 1.5;
static const double spare_ratio_max = 8;

/* In .bss: read as the kernel's one page of zeros, so it costs no memory. */
static uint8_t zeros[ZEROS] __attribute__((aligned(NV_LOG_BLOCK)));

void nv_segment_path(const nv_log *log, uint64_t number, const char *suffix, char out[NV_LOG_PATH])
{
    (void)snprintf(out, NV_LOG_PATH, "%s/%020llu.%s", log->dir, (unsigned long long)number, suffix);
}

nv_segment *nv_segment_new(void)
{
    nv_segment *segment = nv_calloc(1, sizeof(*segment));
    segment->refs = 1;
    return segment;
}

void nv_segment_ref_locked(nv_segment *segment)
{
    segment->refs++;
}

nv_segment *nv_segment_unref_locked(nv_segment *segment)
{
    return --segment->refs == 0 ? segment : NULL;
}

void nv_segment_free(nv_segment *segment)
{
    if (segment) {
        nv_file_close(segment->read_file);
        nv_file_close(segment->write_file);
        free(segment->index);
        free(segment);
    }
}

uint64_t nv_log_stored_bytes_locked(const nv_log *log)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < log->segment_count; i++) {
        sum += log->segments[i]->file_bytes;
    }
    for (size_t i = 0; i < log->spare_count; i++) {
        sum += log->spares[i]->file_bytes;
    }
    return sum;
}

/* ---- index and footer ------------------------------------------------------------------------------------- */

uint64_t nv_segment_footer_reserve(const nv_log *log, uint64_t file_bytes)
{
    return nv_footer_bytes(log->partitions, (size_t)(file_bytes / NV_LOG_INDEX_STEP) + 2);
}

static void index_add(nv_segment *segment, uint32_t partitions, const nv_log_point *before, const nv_commit *commit,
                      uint64_t position)
{
    if (segment->index_count == segment->index_capacity) {
        segment->index_capacity = segment->index_capacity ? segment->index_capacity * 2 : 8;
        segment->index = nv_realloc(segment->index, segment->index_capacity * sizeof(*segment->index));
    }
    nv_index_entry *entry = &segment->index[segment->index_count++];
    *entry = (nv_index_entry){position, commit->index, commit->wall_us, {0}};
    for (uint32_t i = 0; i < partitions; i++) {
        entry->next_sequence[i] = before->parts[i].next_sequence;
    }
}

void nv_segment_note_commit(nv_segment *segment, uint32_t partitions, const nv_log_point *before,
                            const nv_commit *commit, uint64_t position, const nv_log_point *after)
{
    if (segment->index_count == 0 ||
        position >= segment->index[segment->index_count - 1].position + NV_LOG_INDEX_STEP) {
        index_add(segment, partitions, before, commit, position);
    }
    if (segment->end.next_commit == segment->header.start.next_commit) {
        segment->first_time_us = commit->wall_us;
    }
    segment->padding += commit->disk_bytes - NV_COMMIT_HEADER - commit->payload_bytes;
    segment->end = *after;
}

static nv_err write_durably(nv_log *log, nv_segment *segment, const void *bytes, size_t len, uint64_t position)
{
    nv_err err = nv_file_write(segment->write_file, bytes, len, position);
    return err == NV_OK && !log->direct ? nv_file_sync(segment->write_file) : err;
}

nv_err nv_segment_write_footer(nv_log *log, nv_segment *segment)
{
    /* A sealed segment is the janitor's: nobody else changes what is read here. */
    size_t bytes = nv_footer_bytes(log->partitions, segment->index_count);
    nv_segment_footer footer = {.end = segment->end,
                                .first_time_us = segment->first_time_us,
                                .commits = segment->end.next_commit - segment->header.start.next_commit,
                                .padding = segment->padding,
                                .index_count = (uint32_t)segment->index_count};
    for (uint32_t i = 0; i < log->partitions; i++) {
        footer.records += segment->end.parts[i].next_sequence - segment->header.start.parts[i].next_sequence;
    }
    if (segment->end.position + bytes > segment->file_bytes) {
        return NV_E_NO_SPACE;
    }
    void *memory = NULL;
    if (posix_memalign(&memory, NV_LOG_BLOCK, bytes) != 0) {
        return NV_E_NO_MEMORY;
    }
    nv_footer_encode(&segment->header, &footer, segment->index, memory);
    /* The tail block vouches for the index: it is written when that is durable. */
    size_t index_bytes = bytes - NV_LOG_BLOCK;
    nv_err err = write_durably(log, segment, memory, index_bytes, segment->file_bytes - bytes);
    if (err == NV_OK) {
        err = write_durably(log, segment, (uint8_t *)memory + index_bytes, NV_LOG_BLOCK,
                            segment->file_bytes - NV_LOG_BLOCK);
    }
    free(memory);
    return err;
}

nv_err nv_segment_need_read_file(nv_log *log, nv_segment *segment)
{
    pthread_mutex_lock(&log->lock);
    bool have = segment->read_file != NULL;
    segment->file_used = true;
    pthread_mutex_unlock(&log->lock);
    if (have) {
        return NV_OK;
    }
    char path[NV_LOG_PATH];
    nv_file *file = NULL;
    nv_segment_path(log, segment->header.number, "seg", path);
    nv_err err = nv_disk_open(log->disk, path, NV_OPEN_READ, &file);
    if (err != NV_OK) {
        return err;
    }
    pthread_mutex_lock(&log->lock);
    if (!segment->read_file) {
        /* Reading ahead of an open segment would only cache blocks that are about to be overwritten. */
        nv_file_advise(file, segment->sealed ? NV_ADVICE_SEQUENTIAL : NV_ADVICE_RANDOM);
        segment->read_file = file;
        file = NULL;
    }
    pthread_mutex_unlock(&log->lock);
    nv_file_close(file);
    return NV_OK;
}

static nv_err read_index(nv_log *log, nv_segment *segment, nv_index_entry **out, size_t *count)
{
    uint8_t tail[NV_LOG_BLOCK];
    nv_segment_footer footer;
    size_t got = 0;
    nv_err err = nv_file_read(segment->read_file, tail, sizeof(tail), segment->file_bytes - NV_LOG_BLOCK, &got);
    if (err != NV_OK) {
        return err;
    }
    if (got != sizeof(tail) || nv_footer_decode(&segment->header, tail, &footer) != NV_OK) {
        return NV_E_CORRUPT;
    }
    size_t total = nv_footer_bytes(log->partitions, footer.index_count);
    size_t bytes = footer.index_count * nv_index_entry_bytes(log->partitions);
    if (total > segment->file_bytes) {
        return NV_E_CORRUPT;
    }
    uint8_t *raw = malloc(bytes ? bytes : 1);
    nv_index_entry *index = calloc(footer.index_count ? footer.index_count : 1, sizeof(*index));
    if (!raw || !index) {
        err = NV_E_NO_MEMORY;
    } else {
        err = nv_file_read(segment->read_file, raw, bytes, segment->file_bytes - total, &got);
    }
    if (err == NV_OK && !nv_index_valid(&segment->header, tail, nv_span_of(raw, got))) {
        err = NV_E_CORRUPT;
    }
    for (size_t i = 0; err == NV_OK && i < footer.index_count; i++) {
        nv_index_decode(log->partitions, raw, i, &index[i]);
    }
    free(raw);
    if (err != NV_OK) {
        free(index);
        return err;
    }
    *out = index;
    *count = footer.index_count;
    return NV_OK;
}

nv_err nv_segment_load_index(nv_log *log, nv_segment *segment, nv_index_entry **out, size_t *count)
{
    pthread_mutex_lock(&log->lock);
    bool in_memory = segment->index != NULL || !segment->has_footer;
    if (in_memory) {
        *count = segment->index_count;
        *out = nv_calloc(*count, sizeof(**out));
        if (*count) {
            NV_KNOWN(segment->index);
            memcpy(*out, segment->index, *count * sizeof(**out));
        }
    }
    pthread_mutex_unlock(&log->lock);
    if (in_memory) {
        return NV_OK;
    }
    nv_err err = nv_segment_need_read_file(log, segment);
    if (err == NV_OK) {
        err = read_index(log, segment, out, count);
    }
    if (err == NV_E_CORRUPT) { /* the index only saves time: without it the search starts at the first commit */
        *out = nv_calloc(1, sizeof(**out));
        *count = 0;
        err = NV_OK;
    }
    return err;
}

/* ---- making files ----------------------------------------------------------------------------------------- */

nv_err nv_segment_open_write(nv_log *log, const char *path, unsigned extra, nv_file **out)
{
    unsigned flags = NV_OPEN_READ | NV_OPEN_WRITE | extra;
    return nv_disk_open(log->disk, path, log->direct ? flags | NV_OPEN_DIRECT | NV_OPEN_DSYNC : flags, out);
}

/** Bytes of zeros per byte committed, so that the file is ready when the open segment is three quarters full. */
static double spare_ratio(nv_log *log, uint64_t bytes)
{
    pthread_mutex_lock(&log->lock);
    const nv_segment *last = log->segment_count ? log->segments[log->segment_count - 1] : NULL;
    uint64_t ready_at = last ? last->file_bytes / 4 * 3 : 0;
    double left = last && !last->sealed && last->end.position < ready_at ? (double)(ready_at - last->end.position) : 1;
    pthread_mutex_unlock(&log->lock);
    double ratio = (double)bytes / left;
    return ratio < spare_ratio_min ? spare_ratio_min : ratio > spare_ratio_max ? spare_ratio_max : ratio;
}

static nv_err write_zeros(nv_log *log, nv_file *file, uint64_t bytes)
{
    nv_err err = NV_OK;
    nv_pace pace = nv_pace_start(log, spare_ratio(log, bytes));
    for (uint64_t at = 0; at < bytes && err == NV_OK;) {
        struct iovec parts[ZERO_PARTS];
        int count = 0;
        uint64_t step = 0;
        uint64_t end = at + nv_pace_wait(&pace);
        end = end < bytes ? end : bytes;
        while (count < ZERO_PARTS && at + step < end) {
            uint64_t left = end - at - step;
            parts[count++] = (struct iovec){zeros, left < ZEROS ? (size_t)left : ZEROS};
            step += left < ZEROS ? left : ZEROS;
        }
        err = nv_file_writev(file, parts, count, at);
        at += step;
        nv_pace_done(&pace, step);
    }
    return err;
}

/** Give the file its size; with @p zero_fill every block is written, so that later writes change no metadata. */
static nv_err fill_file(nv_log *log, const char *path, uint64_t bytes, bool zero_fill)
{
    nv_file *file = NULL;
    unsigned flags = NV_OPEN_WRITE | NV_OPEN_CREATE | NV_OPEN_TRUNCATE | (log->direct ? NV_OPEN_DIRECT : 0u);
    nv_err err = nv_disk_open(log->disk, path, flags, &file);
    if (err != NV_OK) {
        return err;
    }
    err = nv_file_allocate(file, bytes);
    if (err == NV_E_UNSUPPORTED || err == NV_E_INVALID) {
        err = nv_file_truncate(file, bytes);
    }
    if (err == NV_OK && zero_fill) {
        err = write_zeros(log, file, bytes);
    }
    if (err == NV_OK && log->durability == NV_DURABILITY_COMMIT) {
        err = nv_file_sync(file);
    }
    nv_file_close(file);
    return err;
}

/** Sizes from @p bytes down to @p at_least until one fits on the disk. */
static nv_err fill_what_fits(nv_log *log, const char *path, uint64_t *bytes, uint64_t at_least, bool zero_fill)
{
    for (;;) {
        nv_err err = fill_file(log, path, *bytes, zero_fill);
        if (err != NV_OK) {
            nv_err ignored = nv_disk_remove(log->disk, path); /* it may never have come to be */
            (void)ignored;
        }
        if (err != NV_E_NO_SPACE || *bytes / 2 < at_least || *bytes / 2 < NV_LOG_SEGMENT_MIN) {
            return err;
        }
        *bytes = nv_align_up(*bytes / 2, NV_LOG_BLOCK);
    }
}

nv_err nv_segment_create(nv_log *log, uint64_t bytes, uint64_t at_least, bool hurry, nv_segment **out)
{
    char from[NV_LOG_PATH];
    char path[NV_LOG_PATH];
    bool zero_fill = log->direct && !hurry;
    (void)snprintf(from, sizeof(from), "%s/%s.tmp", log->dir, hurry ? "writer" : "janitor");
    nv_err err = fill_what_fits(log, from, &bytes, at_least, zero_fill);
    if (err != NV_OK) {
        return err;
    }
    pthread_mutex_lock(&log->lock);
    uint64_t number = ++log->last_number;
    pthread_mutex_unlock(&log->lock);
    nv_segment_path(log, number, "seg", path);
    nv_segment *segment = nv_segment_new();
    segment->header = (nv_segment_header){.number = number, .prewritten = zero_fill};
    segment->file_bytes = bytes;
    err = nv_disk_rename(log->disk, from, path);
    if (err == NV_OK && log->durability == NV_DURABILITY_COMMIT) {
        err = nv_disk_sync_dir(log->disk, log->dir);
    }
    if (err == NV_OK) {
        err = nv_segment_open_write(log, path, 0, &segment->write_file);
    }
    if (err != NV_OK) {
        nv_segment_free(segment);
        return err;
    }
    *out = segment;
    return NV_OK;
}
