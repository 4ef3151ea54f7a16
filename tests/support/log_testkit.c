#include "support/log_testkit.h"

#include "base/alloc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

void kit_init(log_kit *kit, uint64_t seed)
{
    memset(kit, 0, sizeof(*kit));
    kit->fault = nv_fault_disk_new(seed);
    nv_exec_queue_init(&kit->exec);
    nv_manual_clock_init(&kit->clock, INT64_C(1700000000) * NV_US_PER_S);
    nv_seeded_rng_init(&kit->rng, seed);
    kit->config = (nv_log_config){.dir = "d",
                                  .partitions = 2,
                                  .durability = NV_DURABILITY_COMMIT,
                                  .segment_bytes = 1 << 20,
                                  .disk = nv_fault_disk_disk(kit->fault),
                                  .clock = &kit->clock.clock,
                                  .rng = nv_rng_system()};
}

void kit_deinit(log_kit *kit)
{
    kit_close(kit);
    nv_exec_queue_run(&kit->exec);
    nv_exec_queue_deinit(&kit->exec);
    nv_fault_disk_free(kit->fault);
}

nv_err kit_try_open(log_kit *kit, nv_buf *why)
{
    return nv_log_open(&kit->log, &kit->config, why);
}

void kit_open(log_kit *kit)
{
    nv_buf why;
    nv_buf_init(&why, 1024);
    nv_err err = kit_try_open(kit, &why);
    if (err != NV_OK) {
        fprintf(stderr, "open: %s: %.*s\n", nv_err_name(err), NV_SPAN_ARG(nv_buf_span(&why)));
    }
    nv_buf_deinit(&why);
    assert_int_equal(err, NV_OK);
}

void kit_close(log_kit *kit)
{
    nv_log_close(kit->log);
    kit->log = NULL;
}

nv_log_stamp kit_stamp(const char *device)
{
    static _Thread_local struct {
        uint8_t bytes[96];
        size_t len;
    } slots[64];
    uint64_t id = 1;
    for (const char *p = device; *p; p++) {
        id = id * 31 + (uint8_t)*p;
    }
    nv_stamp stamp = {.device_id = nv_span_str(device), .generation_id = nv_span_str("638400000000000000")};
    nv_buf buf;
    nv_buf_init(&buf, sizeof(slots[0].bytes));
    assert_int_equal(nv_stamp_encode(&buf, &stamp), NV_OK);
    uint64_t slot = id % NV_COUNT_OF(slots);
    slots[slot].len = nv_buf_len(&buf);
    memcpy(slots[slot].bytes, nv_buf_span(&buf).ptr, slots[slot].len);
    nv_buf_deinit(&buf);
    return (nv_log_stamp){id, nv_span_of(slots[slot].bytes, slots[slot].len)};
}

typedef struct waited {
    bool fired;
    nv_err status;
} waited;

static void on_done(nv_log_batch *batch, nv_err status, void *arg)
{
    (void)batch;
    waited *w = arg;
    assert_false(w->fired);
    *w = (waited){true, status};
}

static nv_err submit_and_wait(log_kit *kit, nv_log_batch *batch, waited *w)
{
    nv_err err = nv_log_submit(batch);
    while (err == NV_OK && !w->fired) {
        nv_exec_queue_run_wait(&kit->exec);
    }
    nv_log_batch_free(batch);
    return err == NV_OK ? w->status : err;
}

nv_err kit_append(log_kit *kit, uint32_t partition, const char *device, const char *body)
{
    waited w = {false, NV_OK};
    nv_log_batch *batch = nv_log_batch_new(kit->log, &kit->exec.exec, on_done, &w);
    nv_log_stamp stamp = kit_stamp(device);
    assert_int_equal(
        nv_log_batch_add(batch, partition, &stamp, NV_SOURCE_TELEMETRY, NV_BODY_DATA, NV_SPAN_EMPTY, nv_span_str(body)),
        NV_OK);
    return submit_and_wait(kit, batch, &w);
}

nv_err kit_append_many(log_kit *kit, uint32_t partition, size_t count, size_t bytes)
{
    waited w = {false, NV_OK};
    nv_log_batch *batch = nv_log_batch_new(kit->log, &kit->exec.exec, on_done, &w);
    nv_log_stamp stamp = kit_stamp("many");
    uint8_t *body = nv_calloc(1, bytes);
    for (size_t i = 0; i < count; i++) {
        memset(body, (int)('a' + i % 26), bytes);
        assert_int_equal(nv_log_batch_add(batch, partition, &stamp, NV_SOURCE_TELEMETRY, NV_BODY_DATA, NV_SPAN_EMPTY,
                                          nv_span_of(body, bytes)),
                         NV_OK);
    }
    free(body);
    return submit_and_wait(kit, batch, &w);
}

typedef struct reading {
    log_kit_records *out;
    bool fired;
    nv_err status;
} reading;

static void copy_text(char *out, size_t size, nv_span text)
{
    size_t n = text.len < size - 1 ? text.len : size - 1;
    if (n) {
        memcpy(out, text.ptr, n);
    }
    out[n] = '\0';
}

static void take_chunk(log_kit_records *out, nv_log_chunk *chunk)
{
    nv_record record;
    size_t before = out->count;
    while (nv_log_chunk_next(chunk, &record)) {
        if (out->count % 64 == 0) {
            out->rows = nv_realloc(out->rows, (out->count + 64) * sizeof(*out->rows));
        }
        log_kit_record *row = &out->rows[out->count++];
        *row = (log_kit_record){record.partition, record.sequence, record.offset, record.enqueued_us, "", ""};
        nv_stamp stamp;
        assert_int_equal(nv_stamp_decode(record.stamp, &stamp), NV_OK);
        copy_text(row->device, sizeof(row->device), stamp.device_id);
        copy_text(row->body, sizeof(row->body), record.body);
    }
    assert_true(out->count > before); /* a chunk is never empty */
}

static void on_chunk(void *arg, nv_err status, nv_log_chunk *chunk)
{
    reading *r = arg;
    r->fired = true;
    r->status = status;
    assert_int_equal(chunk != NULL, status == NV_OK);
    if (chunk) {
        take_chunk(r->out, chunk);
        nv_log_chunk_release(chunk);
    }
}

int64_t kit_fill_sixty(log_kit *kit)
{
    int64_t start = nv_wall_us(&kit->clock.clock);
    for (int i = 0; i < 60; i++) {
        char device[8];
        char body[16];
        (void)snprintf(device, sizeof(device), "d%d", i % 3);
        (void)snprintf(body, sizeof(body), "m%d", i);
        assert_int_equal(kit_append(kit, (uint32_t)i % 2, device, body), NV_OK);
        nv_manual_clock_advance(&kit->clock, 1000);
    }
    return start;
}

log_kit_records kit_read(log_kit *kit, const nv_log_read_options *options)
{
    log_kit_records out = {NULL, 0, NV_OK, 0};
    reading r = {&out, false, NV_OK};
    nv_log_reader *reader = NULL;
    assert_int_equal(nv_log_reader_open(&reader, kit->log, options, &kit->exec.exec), NV_OK);
    while (r.status == NV_OK || r.status == NV_E_GONE) {
        r.fired = false;
        nv_log_reader_next(reader, on_chunk, &r);
        while (!r.fired) {
            nv_exec_queue_run_wait(&kit->exec);
        }
        out.gone += r.status == NV_E_GONE;
    }
    nv_log_reader_close(reader);
    out.end = r.status;
    return out;
}

size_t kit_count(log_kit *kit)
{
    nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING};
    log_kit_records got = kit_read(kit, &options);
    uint64_t next[NV_LOG_MAX_PARTITIONS] = {0};
    for (size_t i = 0; i < got.count; i++) {
        uint64_t *expect = &next[got.rows[i].partition];
        assert_true(*expect == 0 || got.rows[i].sequence == *expect);
        *expect = got.rows[i].sequence + 1;
    }
    assert_int_equal(got.end, NV_E_EOF);
    free(got.rows);
    return got.count;
}

nv_log_health kit_health(log_kit *kit)
{
    nv_log_status status;
    nv_log_get_status(kit->log, &status);
    return status.health;
}

void kit_wait_health(log_kit *kit, nv_log_health health)
{
    /* The log has no event for this, on purpose: callers learn by their next batch. */
    for (int i = 0; i < 60000 && kit_health(kit) != health; i++) {
        struct timespec ms = {0, 1000000};
        nanosleep(&ms, NULL);
    }
    assert_int_equal(kit_health(kit), health);
}
