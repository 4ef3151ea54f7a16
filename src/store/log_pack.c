/**
 * Packing: a sealed segment without the padding of its commits. The dense copy is complete and durable under another
 * name before it takes the old one's place, so no acknowledged record is ever without a whole copy.
 */
#include "base/alloc.h"
#include "store/log_internal.h"

#include <stdio.h>
#include <stdlib.h>

enum { OUT_BYTES = NV_COMMIT_MAX + NV_LOG_BLOCK };

/* Bytes read per byte committed: done well before the next segment is full, and hardly felt by the commits. */
static const double pack_ratio = 1.5;

typedef struct packer {
    nv_log *log;
    nv_segment *from;
    nv_segment *to;
    nv_file *in; /* direct, past the cache; or the segment's read file */
    bool own_in; /* the former */
    nv_file *out;
    nv_pace pace;
    uint8_t *in_bytes; /* a piece or one large commit */
    size_t in_capacity;
    uint8_t *out_bytes;
    size_t out_used;
    uint64_t out_at; /* where out_bytes goes */
} packer;

/** Write whole blocks; the rest moves to the front. */
static nv_err flush(packer *p)
{
    size_t whole = p->out_used / NV_LOG_BLOCK * NV_LOG_BLOCK;
    if (whole == 0) {
        return NV_OK;
    }
    nv_err err = nv_file_write(p->out, p->out_bytes, whole, p->out_at);
    p->out_at += whole;
    p->out_used -= whole;
    memmove(p->out_bytes, p->out_bytes + whole, p->out_used);
    return err;
}

static nv_err flush_all(packer *p)
{
    size_t padded = (size_t)nv_align_up(p->out_used, NV_LOG_BLOCK);
    memset(p->out_bytes + p->out_used, 0, padded - p->out_used);
    p->out_used = padded;
    return flush(p);
}

static nv_err copy_commit(packer *p, const uint8_t *bytes, const nv_commit *from)
{
    nv_commit commit = *from;
    size_t used = NV_COMMIT_HEADER + (size_t)commit.payload_bytes;
    commit.disk_bytes = (uint32_t)nv_align_up(used, NV_LOG_DENSE_ALIGN);
    if (p->out_used >= NV_LOG_PIECE || p->out_used + commit.disk_bytes > OUT_BYTES) {
        nv_err err = flush(p);
        if (err != NV_OK) {
            return err;
        }
    }
    nv_segment *to = p->to;
    uint64_t position = p->out_at + p->out_used;
    uint8_t *at = p->out_bytes + p->out_used;
    memcpy(at, bytes, used);
    memset(at + used, 0, commit.disk_bytes - used);
    commit.payload = at + NV_COMMIT_HEADER;
    nv_commit_encode(at, &commit, to->header.generation, position);
    p->out_used += commit.disk_bytes;
    nv_log_point before = to->end;
    nv_log_point after = to->end;
    nv_err err = nv_log_point_advance(&after, &commit, p->log->partitions);
    after.position = position + commit.disk_bytes;
    if (err == NV_OK) {
        nv_segment_note_commit(to, p->log->partitions, &before, &commit, position, &after);
    }
    return err;
}

static nv_err need_capacity(packer *p, size_t need)
{
    if (need > p->in_capacity) {
        void *memory = NULL;
        free(p->in_bytes);
        p->in_bytes = posix_memalign(&memory, NV_LOG_BLOCK, need) == 0 ? memory : NULL;
        p->in_capacity = p->in_bytes ? need : 0;
    }
    return p->in_bytes ? NV_OK : NV_E_NO_MEMORY;
}

static nv_err copy_commits(packer *p)
{
    uint64_t at = NV_LOG_BLOCK;
    uint64_t end = p->from->end.position;
    nv_err err = need_capacity(p, NV_LOG_PIECE);
    while (err == NV_OK && at < end) {
        size_t got = 0;
        size_t want = end - at < p->in_capacity ? (size_t)(end - at) : p->in_capacity;
        (void)nv_pace_wait(&p->pace);
        nv_log_janitor_tend(p->log);
        err = nv_file_read(p->in, p->in_bytes, want, at, &got);
        nv_pace_done(&p->pace, want);
        size_t used = 0;
        while (err == NV_OK && used < got) {
            nv_commit commit;
            nv_span left = nv_span_of(p->in_bytes + used, got - used);
            err = nv_commit_decode(left, p->from->header.generation, at + used, &commit);
            if (err == NV_OK) {
                err = copy_commit(p, left.ptr, &commit);
                used += commit.disk_bytes;
            } else if (err == NV_E_MORE && (used > 0 || commit.disk_bytes > p->in_capacity) && got == want) {
                err = need_capacity(p, used > 0 ? NV_LOG_PIECE : commit.disk_bytes);
                break;
            }
        }
        at += used;
        if (err == NV_OK && got == 0) {
            err = NV_E_CORRUPT;
        }
    }
    return err == NV_E_MORE ? NV_E_CORRUPT : err;
}

static nv_err write_rest(packer *p)
{
    nv_log *log = p->log;
    nv_segment *to = p->to;
    nv_err err = flush_all(p);
    if (err != NV_OK) {
        return err;
    }
    nv_segment_header_encode(&to->header, p->out_bytes);
    err = nv_file_write(p->out, p->out_bytes, NV_LOG_BLOCK, 0);
    to->file_bytes = nv_align_up(to->end.position, NV_LOG_BLOCK) + nv_footer_bytes(log->partitions, to->index_count);
    to->write_file = p->out;
    if (err == NV_OK) {
        err = nv_segment_write_footer(log, to);
    }
    to->write_file = NULL;
    return err == NV_OK ? nv_file_sync(p->out) : err; /* all of it, before it replaces the old one */
}

/**
 * Put the copy in the list where the old one was, unless retention took that meanwhile.
 * @param in_use  whether a reader still holds the old one, besides the caller
 */
static bool swap(nv_log *log, nv_segment *from, nv_segment *to, bool *in_use)
{
    bool swapped = false;
    nv_segment *last = NULL;
    pthread_mutex_lock(&log->lock);
    for (size_t i = 0; i < log->segment_count && !swapped; i++) {
        if (log->segments[i] == from) {
            log->segments[i] = to;
            last = nv_segment_unref_locked(from);
            swapped = true;
        }
    }
    *in_use = from->refs > 1;
    pthread_mutex_unlock(&log->lock);
    nv_segment_free(last);
    return swapped;
}

static nv_err replace(packer *p, const char *temporary)
{
    nv_log *log = p->log;
    char path[NV_LOG_PATH];
    char second[NV_LOG_PATH];
    nv_segment_path(log, p->to->header.number, "seg", path);
    (void)snprintf(second, sizeof(second), "%s/spare.tmp", log->dir);
    /* Who reads the old segment opens its file by name when it must; that name will be the copy's before the list says
     * so. Nobody but this thread closes the file again while the segment stands in the list. */
    nv_err err = nv_segment_need_read_file(log, p->from);
    if (err != NV_OK) {
        nv_ignore(nv_disk_remove(log->disk, temporary));
        return err;
    }
    /* The second name keeps the old file when the copy takes its place: written all over once, it is a good spare. */
    bool kept = log->direct && p->from->header.prewritten && nv_disk_link(log->disk, path, second) == NV_OK;
    bool in_use = true;
    err = nv_disk_rename(log->disk, temporary, path);
    if (err == NV_OK) {
        free(p->to->index);
        p->to->index = NULL;
        p->to->index_count = p->to->index_capacity = 0;
        p->to->has_footer = true;
        p->to->packed = true;
        p->to->sealed = true;
        p->to->read_file = NULL;
        if (swap(log, p->from, p->to, &in_use)) {
            p->to = NULL;
        }
        err = nv_disk_sync_dir(log->disk, log->dir); /* before the old file may be overwritten */
    }
    if (kept && (err != NV_OK || in_use || !nv_log_recycle(log, p->from, second))) {
        nv_err ignored = nv_disk_remove(log->disk, second);
        (void)ignored;
    }
    return err;
}

/** Commits of a file written directly are not in the page cache, and packing has no reason to bring them there. */
static nv_err open_input(packer *p)
{
    char path[NV_LOG_PATH];
    nv_segment_path(p->log, p->from->header.number, "seg", path);
    if (p->from->header.align == NV_LOG_BLOCK &&
        nv_disk_open(p->log->disk, path, NV_OPEN_READ | NV_OPEN_DIRECT, &p->in) == NV_OK) {
        p->own_in = true;
        return NV_OK;
    }
    nv_err err = nv_segment_need_read_file(p->log, p->from);
    p->in = err == NV_OK ? p->from->read_file : NULL;
    return err;
}

nv_err nv_segment_pack(nv_log *log, nv_segment *segment)
{
    char temporary[NV_LOG_PATH];
    (void)snprintf(temporary, sizeof(temporary), "%s/pack.tmp", log->dir);
    packer p = {.log = log, .from = segment, .to = nv_segment_new(), .out_at = NV_LOG_BLOCK};
    p.to->header = segment->header;
    p.to->header.generation = nv_rng_u64(log->rng);
    p.to->header.align = NV_LOG_DENSE_ALIGN;
    p.to->header.prewritten = false;
    p.to->end = segment->header.start;
    p.to->end.segment = segment->header.number;
    p.to->end.position = NV_LOG_BLOCK;
    p.pace = nv_pace_start(log, pack_ratio);
    void *memory = NULL;
    p.out_bytes = posix_memalign(&memory, NV_LOG_BLOCK, OUT_BYTES) == 0 ? memory : NULL;
    nv_err err = p.out_bytes ? open_input(&p) : NV_E_NO_MEMORY;
    if (err == NV_OK) {
        unsigned flags = NV_OPEN_READ | NV_OPEN_WRITE | NV_OPEN_CREATE | NV_OPEN_TRUNCATE;
        err = nv_disk_open(log->disk, temporary, log->direct ? flags | NV_OPEN_DIRECT : flags, &p.out);
    }
    if (err == NV_OK) {
        err = copy_commits(&p);
    }
    if (err == NV_OK && p.to->end.next_commit != segment->end.next_commit) {
        err = NV_E_CORRUPT;
    }
    if (err == NV_OK) {
        err = write_rest(&p);
    }
    nv_file_close(p.out);
    if (p.own_in) {
        nv_file_close(p.in);
    }
    if (err == NV_OK) {
        err = replace(&p, temporary);
    } else {
        nv_err ignored = nv_disk_remove(log->disk, temporary);
        (void)ignored;
    }
    pthread_mutex_lock(&log->lock);
    segment->packed = true; /* do not try again: it worked, or would fail again */
    pthread_mutex_unlock(&log->lock);
    nv_segment_free(p.to);
    free(p.in_bytes);
    free(p.out_bytes);
    return err;
}
