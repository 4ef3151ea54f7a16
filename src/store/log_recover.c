/**
 * What the folder holds when the log is opened: docs/log-format.md, "Recovery".
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "store/log_internal.h"

#include <stdio.h>
#include <stdlib.h>

enum { SCAN_BYTES = 1 << 20 };

/** A file named like a segment. */
typedef struct found {
    uint64_t number;
    uint64_t file_bytes;
    nv_err header_err; /* NV_OK; NV_E_NOT_FOUND: a spare; NV_E_CORRUPT */
    nv_segment_header header;
    bool unused; /* first block all zeros, or of a former life: a spare */
    bool voided; /* judged not to count, though its header is right */
    bool chained;
} found;

typedef struct folder {
    nv_log *log;
    found *files; /* in order of number */
    size_t count;
    bool leftovers; /* files of an interrupted preparation */
    nv_buf *why;
} folder;

/** @p err, after the sentence was put down; that one not fitting into its buffer changes nothing. */
static nv_err because(nv_err err, nv_err printed)
{
    (void)printed;
    return err;
}

/* ---- step 1: headers -------------------------------------------------------------------------------------- */

static bool parse_name(const char *name, uint64_t *number)
{
    return strlen(name) == 24 && strcmp(name + 20, ".seg") == 0 && nv_span_to_u64(nv_span_of(name, 20), number) &&
           *number > 0 && *number < UINT64_MAX / 2;
}

static void note_name(void *arg, const char *name)
{
    folder *f = arg;
    uint64_t number;
    if (parse_name(name, &number)) {
        f->files = nv_realloc(f->files, (f->count + 1) * sizeof(*f->files));
        f->files[f->count++] = (found){.number = number};
    } else {
        size_t len = strlen(name);
        f->leftovers |= len > 4 && strcmp(name + len - 4, ".tmp") == 0;
    }
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = ((const found *)a)->number;
    uint64_t y = ((const found *)b)->number;
    return x < y ? -1 : x > y;
}

static bool all_zero(const uint8_t *bytes, size_t len)
{
    size_t i = 0;
    while (i < len && bytes[i] == 0) {
        i++;
    }
    return i == len;
}

static nv_err read_header(folder *f, found *file)
{
    char path[NV_LOG_PATH];
    uint8_t block[NV_LOG_BLOCK];
    size_t got = 0;
    nv_file *in = NULL;
    nv_segment_path(f->log, file->number, "seg", path);
    nv_err err = nv_disk_open(f->log->disk, path, NV_OPEN_READ, &in);
    if (err == NV_OK) {
        err = nv_file_size(in, &file->file_bytes);
    }
    if (err == NV_OK) {
        err = nv_file_read(in, block, sizeof(block), 0, &got);
    }
    nv_file_close(in);
    if (err != NV_OK) {
        return because(err, nv_buf_printf(f->why, "%s cannot be read; check its permissions and the disk", path));
    }
    if (got < sizeof(block)) {
        memset(block + got, 0, sizeof(block) - got);
    }
    file->unused = all_zero(block, sizeof(block));
    file->header_err = nv_segment_header_decode(block, &file->header);
    if (file->header_err == NV_E_UNSUPPORTED) {
        return because(NV_E_UNSUPPORTED,
                       nv_buf_printf(f->why, "%s was written by a newer version of Nave; start that version", path));
    }
    if (file->header_err == NV_OK && file->header.number != file->number) {
        file->header_err = NV_E_NOT_FOUND; /* recycled, not yet used again */
        file->unused = true;
    }
    return NV_OK;
}

static nv_err read_folder(folder *f)
{
    nv_log *log = f->log;
    nv_err err = nv_disk_list(log->disk, log->dir, note_name, f);
    if (err != NV_OK) {
        return because(err, nv_buf_printf(f->why, "%s cannot be listed; check its permissions", log->dir));
    }
    if (f->count) {
        qsort(f->files, f->count, sizeof(*f->files), by_number);
    }
    for (size_t i = 0; i < f->count && err == NV_OK; i++) {
        err = read_header(f, &f->files[i]);
    }
    return err;
}

static void remove_file(nv_log *log, uint64_t number, const char *reason)
{
    char path[NV_LOG_PATH];
    nv_segment_path(log, number, "seg", path);
    nv_diag(NV_LEVEL_DEBUG, "log", NULL, "removing %s: %s", path, reason);
    nv_err ignored = nv_disk_remove(log->disk, path); /* found and judged again at the next start */
    (void)ignored;
}

static void set_aside(nv_log *log, uint64_t number)
{
    char path[NV_LOG_PATH];
    char aside[NV_LOG_PATH];
    nv_segment_path(log, number, "seg", path);
    nv_segment_path(log, number, "damaged", aside);
    nv_diag(NV_LEVEL_WARN, "log", NULL, "the header of %s is damaged; the file is kept as %s", path, aside);
    nv_err ignored = nv_disk_rename(log->disk, path, aside);
    (void)ignored;
}

/* ---- step 2: the chain ------------------------------------------------------------------------------------ */

static found *find_number(folder *f, uint64_t number)
{
    for (size_t i = f->count; i-- > 0;) {
        if (f->files[i].number == number && f->files[i].header_err == NV_OK) {
            return &f->files[i];
        }
    }
    return NULL;
}

static found *find_below(folder *f, uint64_t number)
{
    for (size_t i = f->count; i-- > 0;) {
        if (f->files[i].number < number && f->files[i].header_err == NV_OK) {
            return &f->files[i];
        }
    }
    return NULL;
}

/**
 * Mark the chain from the newest header down. Where a link is missing: files older than it stay readable when what
 * follows had been durable (medium damage); otherwise the newer part was never promised and the search starts anew.
 */
static found *mark_chain(folder *f)
{
    found *newest = find_below(f, UINT64_MAX);
    for (found *at = newest; at;) {
        at->chained = true;
        found *previous = find_number(f, at->header.start.segment);
        found *below = find_below(f, at->number);
        if (!previous && below && at->header.start.segment && below->number < at->header.start.segment) {
            if (at->header.start_was_durable) {
                nv_diag(NV_LEVEL_ERROR, "log", NULL, "segment %llu is missing or damaged: its messages are lost",
                        (unsigned long long)at->header.start.segment);
                previous = below;
            } else {
                for (size_t i = 0; i < f->count; i++) {
                    f->files[i].chained = false;
                }
                newest = previous = below;
            }
        }
        at = previous;
    }
    return newest;
}

static nv_err check_same_log(folder *f, const found *newest)
{
    for (size_t i = 0; i < f->count; i++) {
        const found *file = &f->files[i];
        if (file->header_err == NV_OK &&
            (memcmp(file->header.uuid, newest->header.uuid, sizeof(newest->header.uuid)) != 0 ||
             file->header.partitions != newest->header.partitions)) {
            char path[NV_LOG_PATH];
            nv_segment_path(f->log, file->number, "seg", path);
            return because(
                NV_E_CORRUPT,
                nv_buf_printf(f->why, "%s belongs to another telemetry log; move it out of the folder", path));
        }
    }
    return NV_OK;
}

/* ---- step 3: segments ------------------------------------------------------------------------------------- */

static bool try_footer(nv_log *log, nv_segment *segment)
{
    uint8_t tail[NV_LOG_BLOCK];
    nv_segment_footer footer;
    size_t got = 0;
    if (segment->file_bytes < UINT64_C(2) * NV_LOG_BLOCK ||
        nv_file_read(segment->read_file, tail, sizeof(tail), segment->file_bytes - NV_LOG_BLOCK, &got) != NV_OK ||
        got != sizeof(tail) || nv_footer_decode(&segment->header, tail, &footer) != NV_OK) {
        return false;
    }
    (void)log;
    segment->end = footer.end;
    segment->first_time_us = footer.first_time_us;
    segment->padding = footer.padding;
    segment->has_footer = true;
    return true;
}

/** Take commits from @p bytes, which stand at @p position. @return how many bytes were commits; *more asks for more */
static size_t scan_bytes(nv_log *log, nv_segment *segment, nv_span bytes, uint64_t limit_commit, bool *more)
{
    size_t at = 0;
    *more = false;
    while (segment->end.next_commit < limit_commit) {
        nv_commit commit;
        uint64_t position = segment->end.position;
        nv_err err = nv_commit_decode(nv_span_skip(bytes, at), segment->header.generation, position, &commit);
        *more = err == NV_E_MORE;
        if (err != NV_OK || commit.disk_bytes % segment->header.align != 0) {
            break;
        }
        nv_log_point after = segment->end;
        if (nv_log_point_advance(&after, &commit, log->partitions) != NV_OK) {
            break;
        }
        after.position = position + commit.disk_bytes;
        nv_log_point before = segment->end;
        nv_segment_note_commit(segment, log->partitions, &before, &commit, position, &after);
        at += commit.disk_bytes;
    }
    return at;
}

/** The normal reader and the one rule: the segment ends where no valid commit stands. */
static nv_err scan(nv_log *log, nv_segment *segment, uint64_t limit_commit)
{
    size_t capacity = SCAN_BYTES;
    uint8_t *buffer = malloc(capacity);
    nv_err err = buffer ? NV_OK : NV_E_NO_MEMORY;
    bool more = true;
    while (err == NV_OK && more) {
        size_t got = 0;
        err = nv_file_read(segment->read_file, buffer, capacity, segment->end.position, &got);
        if (err != NV_OK) {
            break;
        }
        size_t used = scan_bytes(log, segment, nv_span_of(buffer, got), limit_commit, &more);
        if (more && used == 0) {
            if (got < capacity || capacity >= NV_COMMIT_MAX) {
                break; /* the file ends within it */
            }
            capacity = NV_COMMIT_MAX;
            free(buffer);
            buffer = malloc(capacity);
            err = buffer ? NV_OK : NV_E_NO_MEMORY;
        }
    }
    free(buffer);
    return err;
}

/** Make durable what the page cache may hold, then forget it, so that the scan reads the disk. */
static nv_err settle(nv_log *log, nv_segment *segment)
{
    nv_file *file = NULL;
    char path[NV_LOG_PATH];
    nv_segment_path(log, segment->header.number, "seg", path);
    nv_err err = nv_disk_open(log->disk, path, NV_OPEN_READ | NV_OPEN_WRITE, &file);
    if (err == NV_OK) {
        err = nv_file_sync(file);
    }
    if (err == NV_OK) {
        nv_err ignored = nv_file_drop_cache(file);
        (void)ignored;
    }
    nv_file_close(file);
    return err;
}

static nv_err load_segment(nv_log *log, const found *file, uint64_t limit_commit, nv_segment **out)
{
    nv_segment *segment = nv_segment_new();
    segment->header = file->header;
    segment->file_bytes = file->file_bytes;
    segment->sealed = true;
    segment->end = file->header.start;
    segment->end.segment = file->number;
    segment->end.position = NV_LOG_BLOCK;
    nv_err err = nv_segment_need_read_file(log, segment);
    if (err == NV_OK && !try_footer(log, segment)) {
        err = settle(log, segment);
        if (err == NV_OK) {
            err = scan(log, segment, limit_commit);
        }
    }
    if (err != NV_OK) {
        nv_segment_free(segment);
        return err;
    }
    *out = segment;
    return NV_OK;
}

/** Load the chain, oldest first. @return NV_E_AGAIN: a newer part was cut off, judge the folder anew */
static nv_err load_chain(folder *f)
{
    nv_log *log = f->log;
    nv_segment *last = NULL;
    for (size_t i = 0; i < f->count; i++) {
        found *file = &f->files[i];
        if (!file->chained) {
            continue;
        }
        if (last && file->header.start.next_commit != last->end.next_commit &&
            file->header.start.segment == last->header.number) {
            if (!file->header.start_was_durable) {
                file->header_err = NV_E_NOT_FOUND; /* it continues commits that the power took */
                file->voided = true;
                return NV_E_AGAIN;
            }
            nv_diag(NV_LEVEL_ERROR, "log", NULL, "segment %llu is damaged behind commit %llu",
                    (unsigned long long)last->header.number, (unsigned long long)last->end.next_commit);
        }
        uint64_t limit = UINT64_MAX;
        for (size_t k = i + 1; k < f->count && limit == UINT64_MAX; k++) {
            limit = f->files[k].chained ? f->files[k].header.start.next_commit : limit;
        }
        nv_err err = load_segment(log, file, limit, &last);
        if (err != NV_OK) {
            char path[NV_LOG_PATH];
            nv_segment_path(log, file->number, "seg", path);
            return because(err, nv_buf_printf(f->why, "%s cannot be read; check the disk", path));
        }
        log->segments = nv_realloc(log->segments, (log->segment_count + 1) * sizeof(*log->segments));
        log->segments[log->segment_count++] = last;
    }
    return NV_OK;
}

static void unload(nv_log *log)
{
    for (size_t i = 0; i < log->segment_count; i++) {
        nv_segment_free(log->segments[i]);
    }
    log->segment_count = 0;
}

/* ---- step 4: what is not in the chain --------------------------------------------------------------------- */

/** A prepared file behind the newest segment can be used as it is. */
static bool adopt_spare(nv_log *log, const found *file)
{
    if (log->spare_count == NV_LOG_SPARES || !file->unused || !log->direct || file->number <= log->tip.segment ||
        file->file_bytes < NV_LOG_SEGMENT_MIN || file->file_bytes > log->segment_bytes ||
        file->file_bytes % NV_LOG_BLOCK != 0) {
        return false;
    }
    char path[NV_LOG_PATH];
    nv_segment_path(log, file->number, "seg", path);
    nv_segment *spare = nv_segment_new();
    spare->header = (nv_segment_header){.number = file->number, .prewritten = true};
    spare->file_bytes = file->file_bytes;
    if (nv_segment_open_write(log, path, 0, &spare->write_file) != NV_OK) {
        nv_segment_free(spare);
        return false;
    }
    log->spares[log->spare_count++] = spare;
    return true;
}

static nv_err tidy(folder *f)
{
    nv_log *log = f->log;
    bool changed = false;
    for (size_t i = f->count; i-- > 0;) {
        const found *file = &f->files[i];
        log->last_number = file->number > log->last_number ? file->number : log->last_number;
        if (!file->chained && file->header_err != NV_OK && !file->unused && !file->voided) {
            set_aside(log, file->number);
            changed = true;
        } else if (!file->chained && (file->header_err == NV_OK || file->voided)) {
            remove_file(log, file->number, "off the chain");
            changed = true;
        }
    }
    for (size_t i = 0; i < f->count; i++) { /* in order: the writer takes the lowest number first */
        if (!f->files[i].chained && f->files[i].unused && !adopt_spare(log, &f->files[i])) {
            remove_file(log, f->files[i].number, "a spare of no use");
            changed = true;
        }
    }
    static const char *const leftovers[] = {"writer", "janitor", "pack", "spare"};
    for (size_t i = 0; f->leftovers && i < NV_COUNT_OF(leftovers); i++) {
        char path[NV_LOG_PATH];
        (void)snprintf(path, sizeof(path), "%s/%s.tmp", log->dir, leftovers[i]);
        nv_err ignored = nv_disk_remove(log->disk, path);
        (void)ignored;
    }
    return changed ? nv_disk_sync_dir(log->disk, log->dir) : NV_OK;
}

nv_err nv_log_recover(nv_log *log, nv_buf *why)
{
    folder f = {.log = log, .why = why};
    nv_err err = read_folder(&f);
    do {
        unload(log);
        for (size_t i = 0; i < f.count; i++) {
            f.files[i].chained = false;
        }
        found *newest = err == NV_OK || err == NV_E_AGAIN ? mark_chain(&f) : NULL;
        err = err == NV_E_AGAIN ? NV_OK : err;
        if (newest) {
            err = check_same_log(&f, newest);
            memcpy(log->uuid, newest->header.uuid, sizeof(log->uuid));
            log->partitions = newest->header.partitions;
        }
        if (err == NV_OK) {
            err = load_chain(&f);
        }
    } while (err == NV_E_AGAIN);
    if (err == NV_OK) {
        log->tip = log->segment_count ? log->segments[log->segment_count - 1]->end : log->tip;
        err = tidy(&f);
        if (err != NV_OK) {
            err =
                because(err, nv_buf_printf(why, "%s cannot be written; check its permissions and the disk", log->dir));
        }
    }
    log->point = log->synced = log->tip;
    log->started = log->tip.segment;
    free(f.files);
    return err;
}
