/** A telemetry log for tests of readers: records in memory, one chunk a request, failures on demand. */
#include "session/http_rig.h"

#include "base/alloc.h"
#include "base/hash.h"

#include <stdlib.h>

#define CHUNK_RECORDS 3u /* small, so that streams cross chunk borders */
#define PARTITIONS    4u

struct nv_log {
    nv_record *records;
    size_t count;
    nv_err fail_next;
    nv_log_health health;
    char reason[160];
    nv_log_reader *readers; /* one is enough for these tests to follow */
    nv_log_read_options options;
};

struct nv_log_chunk {
    unsigned refs;
    size_t at;
    size_t count;
    nv_record records[CHUNK_RECORDS];
};

struct nv_log_reader {
    nv_task task;
    nv_log *log;
    nv_exec *exec;
    nv_log_read_options options;
    char device[128];
    size_t next;
    nv_log_read_done done;
    void *arg;
    bool waiting; /* following, at the end */
    bool posted;
    bool closed;
};

nv_log *nv_rig_log_new(nv_rig_hub *rig)
{
    (void)rig;
    return nv_calloc(1, sizeof(nv_log));
}

void nv_rig_log_free(nv_log *log)
{
    for (size_t i = 0; i < log->count; i++) {
        free((void *)(size_t)log->records[i].body.ptr);
        free((void *)(size_t)log->records[i].properties.ptr);
        free((void *)(size_t)log->records[i].stamp.ptr);
    }
    free(log->records);
    free(log);
}

static nv_span copy_of(nv_span from)
{
    return nv_span_of(nv_span_dup(from), from.len);
}

static void post(nv_log_reader *reader)
{
    reader->waiting = false;
    reader->posted = true;
    nv_post(reader->exec, &reader->task);
}

void nv_rig_log_add(nv_log *log, const nv_record *record)
{
    log->records = nv_realloc(log->records, (log->count + 1) * sizeof(*log->records));
    nv_record *to = &log->records[log->count++];
    *to = *record;
    to->body = copy_of(record->body);
    to->properties = copy_of(record->properties);
    to->stamp = copy_of(record->stamp);
    if (log->readers && log->readers->waiting) {
        post(log->readers);
    }
}

void nv_rig_log_fail_next(nv_log *log, nv_err status)
{
    log->fail_next = status;
    if (log->readers && log->readers->waiting) {
        post(log->readers);
    }
}

void nv_rig_log_set_health(nv_log *log, nv_log_health health, const char *reason)
{
    log->health = health;
    nv_span text = nv_span_first(nv_span_str(reason), sizeof(log->reason) - 1);
    memset(log->reason, 0, sizeof(log->reason));
    if (text.len > 0) {
        memcpy(log->reason, text.ptr, text.len);
    }
}

const nv_log_read_options *nv_rig_log_options(nv_log *log)
{
    return &log->options;
}

uint32_t nv_log_partitions(const nv_log *log)
{
    (void)log;
    return PARTITIONS;
}

uint32_t nv_log_partition_of(const nv_log *log, nv_span device_id)
{
    (void)log;
    return (uint32_t)(nv_hash_stable(device_id) % PARTITIONS);
}

void nv_log_get_status(nv_log *log, nv_log_status *out)
{
    *out = (nv_log_status){.health = log->health, .mode = "memory"};
    memcpy(out->reason, log->reason, sizeof(out->reason));
}

nv_err nv_log_get_partition(nv_log *log, uint32_t partition, nv_log_partition_info *out)
{
    *out = (nv_log_partition_info){0};
    for (size_t i = 0; i < log->count; i++) {
        if (log->records[i].partition == partition) {
            out->next_sequence = log->records[i].sequence + 1;
            out->last_offset = log->records[i].offset;
            out->last_enqueued_us = log->records[i].enqueued_us;
        }
    }
    return NV_OK;
}

/* ---- reader ------------------------------------------------------------------------------------------------- */

static bool selected(const nv_log_reader *reader, const nv_record *record)
{
    const nv_log_read_options *o = &reader->options;
    nv_stamp stamp;
    if (o->partitions && !(o->partitions & UINT32_C(1) << record->partition)) {
        return false;
    }
    if ((o->from == NV_LOG_FROM_SEQUENCE && record->sequence < o->sequence) ||
        (o->from == NV_LOG_FROM_TIME && record->enqueued_us < o->time_us)) {
        return false;
    }
    return o->device_id.len == 0 ||
           (nv_stamp_decode(record->stamp, &stamp) == NV_OK && nv_span_eq(stamp.device_id, o->device_id));
}

static void answer(nv_task *task)
{
    nv_log_reader *reader = nv_container_of(task, nv_log_reader, task);
    reader->posted = false;
    if (reader->closed) {
        free(reader);
        return;
    }
    if (reader->log->fail_next != NV_OK) {
        nv_err status = reader->log->fail_next;
        reader->log->fail_next = NV_OK;
        reader->done(reader->arg, status, NULL);
        return;
    }
    nv_log_chunk *chunk = nv_calloc(1, sizeof(*chunk));
    chunk->refs = 1;
    while (chunk->count < CHUNK_RECORDS && reader->next < reader->log->count) {
        const nv_record *record = &reader->log->records[reader->next++];
        if (selected(reader, record)) {
            chunk->records[chunk->count++] = *record;
        }
    }
    if (chunk->count > 0) {
        reader->done(reader->arg, NV_OK, chunk);
        return;
    }
    free(chunk);
    reader->waiting = reader->options.follow;
    if (!reader->waiting) {
        reader->done(reader->arg, NV_E_EOF, NULL);
    }
}

nv_err nv_log_reader_open(nv_log_reader **out, nv_log *log, const nv_log_read_options *options, nv_exec *exec)
{
    if (options->from == NV_LOG_FROM_SEQUENCE && (options->partitions & (options->partitions - 1)) != 0) {
        return NV_E_INVALID;
    }
    nv_log_reader *reader = nv_calloc(1, sizeof(*reader));
    reader->log = log;
    reader->exec = exec;
    reader->options = *options;
    if (options->device_id.len) {
        memcpy(reader->device, options->device_id.ptr, options->device_id.len);
        reader->options.device_id.ptr = (const uint8_t *)reader->device;
    }
    reader->next = options->from == NV_LOG_FROM_NOW ? log->count : 0;
    reader->task.run = answer;
    log->readers = reader;
    log->options = *options;
    *out = reader;
    return NV_OK;
}

void nv_log_reader_next(nv_log_reader *reader, nv_log_read_done done, void *arg)
{
    reader->done = done;
    reader->arg = arg;
    post(reader);
}

void nv_log_reader_close(nv_log_reader *reader)
{
    if (!reader) {
        return;
    }
    if (reader->log->readers == reader) {
        reader->log->readers = NULL;
    }
    reader->closed = true;
    if (!reader->posted) {
        free(reader);
    }
}

bool nv_log_chunk_next(nv_log_chunk *chunk, nv_record *out)
{
    if (chunk->at == chunk->count) {
        return false;
    }
    *out = chunk->records[chunk->at++];
    return true;
}

void nv_log_chunk_release(nv_log_chunk *chunk)
{
    if (--chunk->refs == 0) {
        free(chunk);
    }
}

/* ---- appending: nobody does in these tests ------------------------------------------------------------------- */

struct nv_log_batch {
    int unused;
};

nv_log_batch *nv_log_batch_new(nv_log *log, nv_exec *exec, nv_log_done done, void *arg)
{
    (void)log;
    (void)exec;
    (void)done;
    (void)arg;
    return nv_calloc(1, sizeof(nv_log_batch));
}

void nv_log_batch_free(nv_log_batch *batch)
{
    free(batch);
}

nv_err nv_log_batch_add(nv_log_batch *batch, uint32_t partition, const nv_log_stamp *stamp, nv_source source,
                        nv_body_kind body_kind, nv_span properties, nv_span body)
{
    (void)batch;
    (void)partition;
    (void)stamp;
    (void)source;
    (void)body_kind;
    (void)properties;
    (void)body;
    return NV_E_IO;
}

uint32_t nv_log_batch_count(const nv_log_batch *batch)
{
    (void)batch;
    return 0;
}

size_t nv_log_batch_bytes(const nv_log_batch *batch)
{
    (void)batch;
    return 0;
}

void nv_log_batch_set_outbox_row(nv_log_batch *batch, uint64_t row)
{
    (void)batch;
    (void)row;
}

nv_err nv_log_submit(nv_log_batch *batch)
{
    (void)batch;
    return NV_E_IO;
}

void nv_log_batch_clear(nv_log_batch *batch)
{
    (void)batch;
}
