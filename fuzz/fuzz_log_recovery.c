/**
 * Recovery from any bytes. The input is one or more segment files: u8 count, then for each u8 number, u24 length
 * (little endian), bytes. A flag in the first byte repairs the checksums of headers, so that mutations get past them.
 * The log is opened on them, read, appended to, and read again after another start.
 */
#include "base/crc32c.h"
#include "base/diag.h"
#include "store/log_internal.h"
#include "support/fault_disk.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { REPAIR = 0x80, MAX_FILES = 4 };

static void quiet(void *arg, nv_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    (void)line;
    (void)len;
}

static void repair(uint8_t *file, size_t len)
{
    if (len < NV_LOG_BLOCK) {
        return;
    }
    nv_store_u32_le(file, 0x3153564e);
    nv_store_u16_le(file + 8, NV_LOG_VERSION);
    nv_store_u32_le(file + 4, nv_crc32c(0, nv_span_of(file + 8, NV_LOG_BLOCK - 8)));
    nv_segment_header header;
    size_t at = NV_LOG_BLOCK;
    if (nv_segment_header_decode(file, &header) != NV_OK) {
        return;
    }
    while (len - at >= NV_COMMIT_HEADER) { /* give each commit that has a sane length the right checksum */
        nv_commit commit;
        nv_err err = nv_commit_decode(nv_span_of(file + at, len - at), header.generation, at, &commit);
        if (err == NV_E_MORE || commit.disk_bytes < NV_COMMIT_HEADER + (uint64_t)commit.payload_bytes ||
            commit.disk_bytes > len - at) {
            return;
        }
        nv_commit_encode(file + at, &commit, header.generation, at);
        at += commit.disk_bytes;
    }
}

static void put_files(nv_fault_disk *fault, const uint8_t *data, size_t size)
{
    nv_reader r = nv_reader_of(nv_span_of(data, size));
    uint8_t count = nv_read_u8(&r);
    for (int i = 0; i < (count & 0x7f) && i < MAX_FILES && nv_reader_left(&r) > 4; i++) {
        uint8_t number = nv_read_u8(&r);
        size_t len = nv_read_u8(&r);
        len |= (size_t)nv_read_u8(&r) << 8;
        len |= (size_t)nv_read_u8(&r) << 16;
        len = len < nv_reader_left(&r) ? len : nv_reader_left(&r);
        nv_span bytes = nv_read_span(&r, len);
        uint8_t *copy = malloc(len ? len : 1);
        if (!copy) {
            return;
        }
        if (len) {
            memcpy(copy, bytes.ptr, len);
        }
        if (count & REPAIR) {
            repair(copy, len);
        }
        char path[64];
        (void)snprintf(path, sizeof(path), "d/%020u.seg", number);
        nv_fault_disk_put(fault, path, copy, len);
        free(copy);
    }
}

static void on_done(nv_log_batch *batch, nv_err status, void *arg)
{
    (void)batch;
    *(nv_err *)arg = status;
}

typedef struct reading {
    bool fired;
    nv_err status;
    uint64_t records;
    unsigned touched;
} reading;

static void on_chunk(void *arg, nv_err status, nv_log_chunk *chunk)
{
    reading *r = arg;
    r->fired = true;
    r->status = status;
    nv_record record;
    while (chunk && nv_log_chunk_next(chunk, &record)) {
        r->records++;
        r->touched ^= record.body.len ? record.body.ptr[record.body.len - 1] : 0u; /* the whole body is readable */
        nv_reader properties = nv_reader_of(record.properties);
        nv_property property;
        while (nv_property_next(&properties, &property)) {
        }
    }
    nv_log_chunk_release(chunk);
}

static uint64_t read_all(nv_log *log, nv_exec_queue *exec, nv_log_from from)
{
    nv_log_read_options options = {.partitions = 1, .from = from, .sequence = 1, .time_us = 1000};
    nv_log_reader *reader = NULL;
    reading r = {false, NV_OK, 0, 0};
    if (nv_log_reader_open(&reader, log, &options, &exec->exec) != NV_OK) {
        return 0;
    }
    for (int i = 0; i < 1000 && (r.status == NV_OK || r.status == NV_E_GONE); i++) {
        r.fired = false;
        nv_log_reader_next(reader, on_chunk, &r);
        while (!r.fired) {
            nv_exec_queue_run_wait(exec);
        }
    }
    nv_log_reader_close(reader);
    return r.records;
}

static void append_one(nv_log *log, nv_exec_queue *exec)
{
    nv_err status = NV_E_MORE;
    nv_log_batch *batch = nv_log_batch_new(log, &exec->exec, on_done, &status);
    nv_log_stamp stamp = {1, nv_span_str("stamp")};
    if (nv_log_batch_add(batch, 0, &stamp, NV_SOURCE_TELEMETRY, NV_BODY_DATA, NV_SPAN_EMPTY, nv_span_str("x")) !=
            NV_OK ||
        nv_log_submit(batch) != NV_OK) {
        abort(); /* a log that opened takes a record */
    }
    while (status == NV_E_MORE) {
        nv_exec_queue_run_wait(exec);
    }
    if (status != NV_OK) {
        abort();
    }
    nv_log_batch_free(batch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nv_diag_set_sink(quiet, NULL);
    nv_fault_disk *fault = nv_fault_disk_new(1);
    nv_exec_queue exec;
    nv_exec_queue_init(&exec);
    put_files(fault, data, size);
    nv_log_config config = {.dir = "d",
                            .partitions = 1,
                            .segment_bytes = 1 << 20,
                            .disk = nv_fault_disk_disk(fault),
                            .clock = nv_clock_system(),
                            .rng = nv_rng_system()};
    uint64_t before = 0;
    for (int start = 0; start < 2; start++) {
        nv_log *log = NULL;
        nv_buf why;
        nv_buf_init(&why, 1024);
        nv_err err = nv_log_open(&log, &config, &why);
        if (err != NV_OK && nv_buf_len(&why) == 0) {
            abort(); /* a refusal explains itself */
        }
        nv_buf_deinit(&why);
        if (err != NV_OK) {
            break;
        }
        uint64_t records = read_all(log, &exec, NV_LOG_FROM_BEGINNING);
        if (records < before) {
            abort(); /* what was there stays, and what was appended is there */
        }
        (void)read_all(log, &exec, NV_LOG_FROM_TIME);
        (void)read_all(log, &exec, NV_LOG_FROM_SEQUENCE);
        append_one(log, &exec);
        before = records;
        nv_log_janitor_run(log);
        nv_log_close(log);
    }
    nv_exec_queue_run(&exec);
    nv_exec_queue_deinit(&exec);
    nv_fault_disk_free(fault);
    return 0;
}
