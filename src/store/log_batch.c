/** Building batches: the only code that runs once per message. */
#include "base/alloc.h"
#include "base/metrics.h"
#include "store/log_internal.h"

#include <stdlib.h>

enum { FIRST_CAPACITY = 16 << 10, KEEP_CAPACITY = 256 << 10 };

nv_log_batch *nv_log_batch_new(nv_log *log, nv_exec *exec, nv_log_done done, void *arg)
{
    nv_log_batch *batch = nv_calloc(1, sizeof(*batch));
    nv_list_init(&batch->link);
    batch->log = log;
    batch->exec = exec;
    batch->done = done;
    batch->arg = arg;
    batch->used = NV_COMMIT_HEADER;
    return batch;
}

void nv_log_batch_free(nv_log_batch *batch)
{
    if (batch) {
        free(batch->memory);
        free(batch);
    }
}

nv_err nv_log_batch_reserve(nv_log_batch *batch, size_t need)
{
    if (need <= batch->capacity) {
        return NV_OK;
    }
    size_t size = batch->capacity ? batch->capacity : FIRST_CAPACITY;
    while (size < need) {
        size *= 2;
    }
    void *memory = NULL;
    if (posix_memalign(&memory, NV_LOG_BLOCK, size) != 0) {
        return NV_E_NO_MEMORY;
    }
    if (batch->memory) {
        memcpy(memory, batch->memory, batch->used);
    }
    free(batch->memory);
    batch->memory = memory;
    batch->capacity = size;
    return NV_OK;
}

void nv_log_batch_finish(nv_log_batch *batch)
{
    if (batch->run_at) {
        uint8_t *run = batch->memory + batch->run_at;
        nv_store_u32_le(run, (uint32_t)(batch->used - batch->run_at));
        nv_store_u32_le(run + 8, batch->run_records);
        nv_store_u32_le(run + 36, batch->run_last);
        batch->run_at = 0;
    }
}

static void start_run(nv_log_batch *batch, uint32_t partition, const nv_log_stamp *stamp)
{
    nv_log_batch_finish(batch);
    uint8_t *run = batch->memory + batch->used;
    nv_store_u16_le(run + 4, (uint16_t)partition);
    nv_store_u16_le(run + 6, (uint16_t)stamp->bytes.len);
    if (stamp->bytes.len) {
        memcpy(run + NV_RUN_HEADER, stamp->bytes.ptr, stamp->bytes.len);
    }
    batch->run_at = batch->used;
    batch->used += NV_RUN_HEADER + stamp->bytes.len;
    batch->run_body = batch->used;
    batch->run_stamp = stamp->id;
    batch->run_partition = partition;
    batch->run_records = 0;
    batch->runs++;
}

nv_err nv_log_batch_add(nv_log_batch *batch, uint32_t partition, const nv_log_stamp *stamp, nv_source source,
                        nv_body_kind body_kind, nv_span properties, nv_span body)
{
    bool same_run = batch->run_at && batch->run_stamp == stamp->id && batch->run_partition == partition;
    size_t size = NV_RECORD_HEADER + properties.len + body.len;
    size_t need = size + (same_run ? 0 : NV_RUN_HEADER + stamp->bytes.len);
    if (NV_UNLIKELY(batch->used + need > batch->capacity)) {
        if (body.len > NV_LOG_RECORD_MAX || properties.len > UINT16_MAX || stamp->bytes.len > UINT16_MAX) {
            return NV_E_TOO_BIG;
        }
        if (batch->used + need > NV_LOG_BATCH_MAX) {
            return NV_E_AGAIN;
        }
        nv_err err = nv_log_batch_reserve(batch, batch->used + need);
        if (err != NV_OK) {
            return err;
        }
    } else if (NV_UNLIKELY(body.len > NV_LOG_RECORD_MAX || properties.len > UINT16_MAX ||
                           stamp->bytes.len > UINT16_MAX)) {
        return NV_E_TOO_BIG;
    }
    if (!same_run) {
        if (NV_UNLIKELY(partition >= batch->log->partitions)) {
            return NV_E_INVALID;
        }
        start_run(batch, partition, stamp);
    }
    uint8_t *at = batch->memory + batch->used;
    nv_store_u32_le(at, (uint32_t)size);
    at[4] = (uint8_t)source;
    at[5] = (uint8_t)body_kind;
    nv_store_u16_le(at + 6, (uint16_t)properties.len);
    at += NV_RECORD_HEADER;
    if (properties.len) {
        memcpy(at, properties.ptr, properties.len);
    }
    if (body.len) {
        memcpy(at + properties.len, body.ptr, body.len);
    }
    batch->run_last = (uint32_t)(batch->used - batch->run_body);
    batch->used += size;
    batch->run_records++;
    batch->records++;
    return NV_OK;
}

uint32_t nv_log_batch_count(const nv_log_batch *batch)
{
    return batch->records;
}

size_t nv_log_batch_bytes(const nv_log_batch *batch)
{
    return batch->records ? batch->used : 0;
}

void nv_log_batch_set_outbox_row(nv_log_batch *batch, uint64_t row)
{
    batch->outbox_row = row;
    batch->has_outbox_row = true;
}

void nv_log_batch_clear(nv_log_batch *batch)
{
    /* A burst may have left megabytes; the first quiet batch after it gives them back. */
    if (batch->capacity > KEEP_CAPACITY && batch->used < KEEP_CAPACITY / 8) {
        free(batch->memory);
        batch->memory = NULL;
        batch->capacity = 0;
    }
    batch->used = NV_COMMIT_HEADER;
    batch->runs = 0;
    batch->records = 0;
    batch->run_at = 0;
    batch->has_outbox_row = false;
}

static void run_done(nv_task *task)
{
    nv_log_batch *batch = nv_container_of(task, nv_log_batch, task);
    batch->submitted = false;
    batch->done(batch, batch->status, batch->arg);
    nv_metric_add(NV_M_LOG_BATCHES_DONE, 1);
}

void nv_log_batch_complete(nv_log_batch *batch, nv_err status)
{
    batch->status = status;
    batch->task.run = run_done;
    nv_post(batch->exec, &batch->task);
}
