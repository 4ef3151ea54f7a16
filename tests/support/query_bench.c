/*
 * How fast queries are over twins of 2 KB: by index, by looking at all of them, in pages. Prints; judges nothing.
 * Usage: query_bench [TWINS...], by default 1000 10000 100000.
 */
#include "support/real_core.h"

#include "base/alloc.h"
#include "core/query.h"
#include "core/twin_index.h"
#include "store/state_twin.h"

#include <stdio.h>
#include <stdlib.h>

#define FILL_AT_ONCE 500u

/* ---- filling ------------------------------------------------------------------------------------------------ */

typedef struct fill {
    nv_state_op op;
    uint32_t from;
    uint32_t to;
    bool done;
} fill;

static size_t make_reported(uint32_t i, char *out, size_t size)
{
    size_t len = (size_t)snprintf(out, size, "{");
    for (int j = 0; j < 24; j++) {
        len +=
            (size_t)snprintf(out + len, size - len, "\"channel%02d\":{\"unit\":\"Cel\",\"value\":%u.%02u,\"ok\":true},",
                             j, (i + (uint32_t)j) % 90, i % 100);
    }
    len += (size_t)snprintf(out + len, size - len, "\"telemetry\":{\"interval\":30,\"temperature\":%u.5},", i % 1000);
    len +=
        (size_t)snprintf(out + len, size - len, "\"firmware\":{\"version\":\"1.%u.0\",\"state\":\"current\"}}", i % 7);
    return len;
}

static size_t make_desired(uint32_t i, char *out, size_t size)
{
    size_t len = (size_t)snprintf(out, size, "{\"telemetry\":{\"interval\":%u},\"limits\":[", i % 60);
    for (int j = 0; j < 40; j++) {
        len += (size_t)snprintf(out + len, size - len, "%s%d.25", j ? "," : "", j * 3);
    }
    return len + (size_t)snprintf(out + len, size - len, "],\"note\":\"checked, and \\\"found\\\" in order\"}");
}

static nv_err put_one(nv_txn *txn, uint32_t i)
{
    char id[24];
    char tags[256];
    char desired[1024];
    char reported[3072];
    nv_identity_row identity = {.device_id = nv_span_of(id, (size_t)snprintf(id, sizeof(id), "device-%07u", i)),
                                .generation = nv_txn_generation(txn),
                                .etag = 1,
                                .enabled = true,
                                .primary_key = nv_span_str("0123456789abcdef0123456789abcdef"),
                                .secondary_key = nv_span_str("fedcba9876543210fedcba9876543210")};
    nv_twin_row row = nv_twin_row_initial(identity.generation);
    row.tags = nv_span_of(
        tags, (size_t)snprintf(tags, sizeof(tags),
                               "{\"location\":{\"region\":\"r%u\",\"site\":\"site-%u\"},\"customer\":\"c%u\"}", i % 8,
                               i / 10, i / 1000));
    row.desired = nv_span_of(desired, make_desired(i, desired, sizeof(desired)));
    row.reported = nv_span_of(reported, make_reported(i, reported, sizeof(reported)));
    nv_err err = nv_txn_identity_put(txn, &identity);
    err = err == NV_OK ? nv_txn_twin_put(txn, identity.device_id, NV_SPAN_EMPTY, &row, true) : err;
    const nv_span none = NV_SPAN_LIT("{}");
    return err == NV_OK ? nv_twin_index_update(txn, identity.device_id, NV_SPAN_EMPTY, none, row.tags) : err;
}

static nv_err run_fill(nv_state_op *op, nv_txn *txn)
{
    const fill *self = nv_container_of(op, fill, op);
    nv_err err = NV_OK;
    for (uint32_t i = self->from; err == NV_OK && i < self->to; i++) {
        err = put_one(txn, i);
    }
    return err;
}

static void fill_done(nv_state_op *op)
{
    nv_container_of(op, fill, op)->done = true;
}

static void fill_store(real_core *core, uint32_t count)
{
    for (uint32_t from = 0; from < count; from += FILL_AT_ONCE) {
        fill batch = {.op = {.exec = core->execs[0], .run = run_fill, .done = fill_done},
                      .from = from,
                      .to = from + FILL_AT_ONCE < count ? from + FILL_AT_ONCE : count};
        if (nv_state_write(core->state, &batch.op) != NV_OK) {
            abort();
        }
        while (!batch.done) {
            (void)nv_exec_queue_run_wait(&core->queues[0]);
        }
        if (batch.op.status != NV_OK) {
            (void)fprintf(stderr, "filling: %s\n", nv_err_text(batch.op.status));
            exit(1);
        }
    }
}

/* ---- asking ------------------------------------------------------------------------------------------------- */

static void query_done(nv_query_request *request)
{
    *(bool *)request->arg = true;
}

/* @return bytes of the first page */
static size_t ask(real_core *core, const char *text, uint32_t page)
{
    bool done = false;
    nv_query_request request = {.text = nv_span_str(text), .page = page, .done = query_done, .arg = &done};
    nv_query_do(&core->hub->loops[0], &request);
    while (!done) {
        (void)nv_exec_queue_run_wait(&core->queues[0]);
    }
    if (request.error != NV_HUB_ERROR_NONE) {
        (void)fprintf(stderr, "%s: %s\n", text, request.detail);
        exit(1);
    }
    size_t bytes = nv_buf_len(&request.rows);
    nv_buf_deinit(&request.rows);
    nv_buf_deinit(&request.next);
    return bytes;
}

static void measure(real_core *core, const char *text, uint32_t page)
{
    int64_t best_us = INT64_MAX;
    size_t bytes = 0;
    for (int i = 0; i < 3; i++) {
        int64_t start_us = nv_mono_us(nv_clock_system());
        bytes = ask(core, text, page);
        int64_t took_us = nv_mono_us(nv_clock_system()) - start_us;
        best_us = took_us < best_us ? took_us : best_us;
    }
    (void)printf("%10.2f ms  %8zu B  %s\n", (double)best_us / 1000, bytes, text);
    (void)fflush(stdout);
}

static void bench(uint32_t count)
{
    real_core *core = real_core_new(getenv("NAVE_BENCH_DIR"), NV_DURABILITY_OS);
    nv_exec_queue_adopt(&core->queues[0]);
    fill_store(core, count);
    (void)printf("%u twins\n", count);
    measure(core, "SELECT * FROM devices WHERE deviceId = 'device-0000077'", 0);
    measure(core, "SELECT * FROM devices WHERE tags.location.site = 'site-3'", 0);
    measure(core, "SELECT deviceId FROM devices WHERE tags.customer = 'c0'", 1000);
    measure(core, "SELECT * FROM devices", 100);
    measure(core, "SELECT COUNT() AS n FROM devices", 0);
    measure(core, "SELECT COUNT() AS n FROM devices WHERE properties.reported.telemetry.temperature > 500", 0);
    measure(core, "SELECT * FROM devices WHERE properties.reported.telemetry.temperature > 998", 1000);
    measure(core, "SELECT deviceId FROM devices WHERE properties.reported.telemetry.temperature > 5000", 100);
    measure(core,
            "SELECT AVG(properties.reported.telemetry.temperature) AS t, tags.location.region FROM devices "
            "GROUP BY tags.location.region",
            0);
    measure(core, "SELECT COUNT() AS n FROM devices WHERE endswith(deviceId, '7') AND connectionState = 'Connected'",
            0);
    real_core_free(core);
}

int main(int argc, char **argv)
{
    static const uint32_t sizes[] = {1000, 10000, 100000};
    for (int i = 1; i < argc; i++) {
        uint32_t count = (uint32_t)strtoul(argv[i], NULL, 10);
        if (count == 0) {
            (void)fprintf(stderr, "usage: query_bench [TWINS...]\n");
            return 2;
        }
        bench(count);
    }
    for (size_t i = 0; argc == 1 && i < NV_COUNT_OF(sizes); i++) {
        bench(sizes[i]);
    }
    return 0;
}
