#include "store/log_bench.h"

#include "base/alloc.h"
#include "store/log_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_IN_FLIGHT = 16, DISK_FILE = 64 << 20 };

static int64_t now_ns(clockid_t id)
{
    struct timespec ts;
    (void)clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a;
    int64_t y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static nv_bench_latency summarize(int64_t *ns, size_t count)
{
    if (count == 0) {
        return (nv_bench_latency){0, 0, 0};
    }
    qsort(ns, count, sizeof(*ns), compare);
    return (nv_bench_latency){ns[count / 2] / 1000, ns[count - 1 - count / 100] / 1000, ns[count - 1] / 1000};
}

/* ---- the disk --------------------------------------------------------------------------------------------- */

static nv_err write_row(nv_file *file, bool direct, const uint8_t *memory, nv_disk_bench_row *row)
{
    int64_t *ns = nv_calloc(row->writes, sizeof(*ns));
    nv_err err = NV_OK;
    uint64_t position = 0;
    int64_t start = now_ns(CLOCK_MONOTONIC);
    for (uint32_t i = 0; i < row->writes && err == NV_OK; i++) {
        int64_t before = now_ns(CLOCK_MONOTONIC);
        err = nv_file_write(file, memory, row->bytes, position);
        if (err == NV_OK && !direct) {
            err = nv_file_sync(file);
        }
        ns[i] = now_ns(CLOCK_MONOTONIC) - before;
        position = (position + row->bytes) % (DISK_FILE - row->bytes) / NV_LOG_BLOCK * NV_LOG_BLOCK;
    }
    double seconds = (double)(now_ns(CLOCK_MONOTONIC) - start) / 1e9;
    row->latency = summarize(ns, row->writes);
    row->writes_per_s = row->writes / seconds;
    row->mb_per_s = row->writes_per_s * (double)row->bytes / 1e6;
    free(ns);
    return err;
}

static nv_err fill(nv_file *file, const uint8_t *memory, size_t bytes)
{
    nv_err err = NV_OK;
    for (uint64_t at = 0; at < DISK_FILE && err == NV_OK; at += bytes) {
        err = nv_file_write(file, memory, bytes, at);
    }
    return err == NV_OK ? nv_file_sync(file) : err;
}

/** Open the file filled, in the log's mode. */
static nv_err open_disk_file(nv_disk *disk, const char *path, const uint8_t *memory, nv_file **out, bool *direct)
{
    unsigned flags = NV_OPEN_READ | NV_OPEN_WRITE | NV_OPEN_CREATE | NV_OPEN_TRUNCATE;
    nv_file *file = NULL;
    nv_err err = nv_disk_open(disk, path, flags, &file);
    if (err == NV_OK) {
        err = fill(file, memory, 256 << 10);
    }
    nv_file_close(file);
    if (err != NV_OK) {
        return err;
    }
    flags = NV_OPEN_READ | NV_OPEN_WRITE;
    *direct = true;
    err = nv_disk_open(disk, path, flags | NV_OPEN_DIRECT | NV_OPEN_DSYNC, out);
    if (err == NV_E_INVALID || err == NV_E_UNSUPPORTED) {
        *direct = false;
        err = nv_disk_open(disk, path, flags, out);
    }
    return err;
}

nv_err nv_bench_disk(nv_disk *disk, const char *dir, uint32_t writes, nv_disk_bench *out)
{
    static const size_t sizes[NV_DISK_BENCH_ROWS] = {4 << 10, 64 << 10, 256 << 10};
    char path[NV_LOG_PATH];
    (void)snprintf(path, sizeof(path), "%s/bench.tmp", dir);
    void *memory = NULL;
    if (posix_memalign(&memory, NV_LOG_BLOCK, 256 << 10) != 0) {
        return NV_E_NO_MEMORY;
    }
    memset(memory, 'x', 256 << 10);
    nv_file *file = NULL;
    bool direct = false;
    nv_err err = open_disk_file(disk, path, memory, &file, &direct);
    out->mode = direct ? "direct" : "fdatasync";
    for (size_t i = 0; i < NV_DISK_BENCH_ROWS && err == NV_OK; i++) {
        out->rows[i] = (nv_disk_bench_row){.bytes = sizes[i], .writes = writes ? writes : 1};
        err = write_row(file, direct, memory, &out->rows[i]);
    }
    nv_file_close(file);
    nv_err ignored = nv_disk_remove(disk, path);
    (void)ignored;
    free(memory);
    return err;
}

/* ---- the log ---------------------------------------------------------------------------------------------- */

typedef struct bench bench;

typedef struct slot {
    bench *bench;
    nv_log_batch *batch;
    int64_t submitted_ns;
    bool busy;
} slot;

struct bench {
    const nv_log_bench_options *options;
    nv_log *log;
    nv_exec_queue exec;
    slot slots[MAX_IN_FLIGHT];
    uint64_t added;
    int64_t add_ns;
    int64_t *ns;
    size_t commits;
    nv_err err;
    /* reading */
    uint64_t read;
    bool fired;
    nv_err status;
    nv_log_reader *follower;
    uint64_t followed;
};

static void on_done(nv_log_batch *batch, nv_err status, void *arg)
{
    slot *s = arg;
    bench *b = s->bench;
    b->ns[b->commits++] = now_ns(CLOCK_MONOTONIC) - s->submitted_ns;
    b->err = b->err == NV_OK ? status : b->err;
    s->busy = false;
    nv_log_batch_clear(batch);
}

static void fill_batch(bench *b, slot *s, const uint8_t *body, const nv_log_stamp *stamps)
{
    const nv_log_bench_options *o = b->options;
    int64_t start = now_ns(CLOCK_MONOTONIC);
    for (uint32_t i = 0; i < o->batch_records && b->added < o->records; i++, b->added++) {
        const nv_log_stamp *stamp = &stamps[b->added / o->run_records % 64];
        nv_err err = nv_log_batch_add(s->batch, (uint32_t)stamp->id % 4, stamp, NV_SOURCE_TELEMETRY, NV_BODY_DATA,
                                      NV_SPAN_EMPTY, nv_span_of(body, o->body_bytes));
        if (err == NV_E_AGAIN) {
            break;
        }
        b->err = b->err == NV_OK ? err : b->err;
    }
    b->add_ns += now_ns(CLOCK_MONOTONIC) - start;
}

static bool any_busy(const bench *b)
{
    for (size_t i = 0; i < MAX_IN_FLIGHT; i++) {
        if (b->slots[i].busy) {
            return true;
        }
    }
    return false;
}

static void on_followed(void *arg, nv_err status, nv_log_chunk *chunk)
{
    bench *b = arg;
    nv_record record;
    while (chunk && nv_log_chunk_next(chunk, &record)) {
        b->followed += record.body.len == b->options->body_bytes;
    }
    nv_log_chunk_release(chunk);
    b->err = b->err == NV_OK ? status : b->err;
    if (status == NV_OK) {
        nv_log_reader_next(b->follower, on_followed, b);
    }
}

static void append_all(bench *b, const uint8_t *body, const nv_log_stamp *stamps)
{
    uint32_t depth = b->options->in_flight;
    for (uint32_t turn = 0; b->added < b->options->records && b->err == NV_OK; turn++) {
        slot *s = &b->slots[turn % depth];
        while (s->busy) {
            nv_exec_queue_run_wait(&b->exec);
        }
        fill_batch(b, s, body, stamps);
        s->busy = true;
        s->submitted_ns = now_ns(CLOCK_MONOTONIC);
        nv_err err = nv_log_submit(s->batch);
        if (err != NV_OK) {
            s->busy = false;
            b->err = err;
        }
    }
    while (any_busy(b) || (b->follower && b->err == NV_OK && b->followed < b->added)) {
        nv_exec_queue_run_wait(&b->exec);
    }
}

static void on_chunk(void *arg, nv_err status, nv_log_chunk *chunk)
{
    bench *b = arg;
    nv_record record;
    b->fired = true;
    b->status = status;
    while (chunk && nv_log_chunk_next(chunk, &record)) {
        b->read += record.body.len == b->options->body_bytes;
    }
    nv_log_chunk_release(chunk);
}

/** @return records per second */
static double read_all(bench *b)
{
    nv_log_reader *reader = NULL;
    nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING};
    int64_t start = now_ns(CLOCK_MONOTONIC);
    b->read = 0;
    b->status = nv_log_reader_open(&reader, b->log, &options, &b->exec.exec);
    while (b->status == NV_OK) {
        b->fired = false;
        nv_log_reader_next(reader, on_chunk, b);
        while (!b->fired) {
            nv_exec_queue_run_wait(&b->exec);
        }
    }
    nv_log_reader_close(reader);
    if (b->status != NV_E_EOF || b->read != b->options->records) {
        b->err = b->err == NV_OK ? NV_E_CORRUPT : b->err;
    }
    return (double)b->read * 1e9 / (double)(now_ns(CLOCK_MONOTONIC) - start);
}

/** Bytes in use by segments: the open one counts up to its end. */
static double used_bytes(nv_log *log)
{
    double sum = 0;
    pthread_mutex_lock(&log->lock);
    for (size_t i = 0; i < log->segment_count; i++) {
        const nv_segment *segment = log->segments[i];
        sum += (double)(segment->sealed ? segment->file_bytes : segment->end.position);
    }
    pthread_mutex_unlock(&log->lock);
    return sum;
}

static void measure(bench *b, nv_log_bench *out)
{
    const nv_log_bench_options *o = b->options;
    uint8_t *body = nv_calloc(1, o->body_bytes ? o->body_bytes : 1);
    nv_log_stamp stamps[64];
    uint8_t bytes[64][64];
    for (size_t i = 0; i < NV_COUNT_OF(stamps); i++) {
        int len =
            snprintf((char *)bytes[i], sizeof(bytes[i]), "%c%c%c%cbench-device-%04zu%c%c%c%c638400000000000000%c%c", 0,
                     0, 17, 0, i, 0, 0, 18, 0, 0, 0);
        stamps[i] = (nv_log_stamp){i + 1, nv_span_of(bytes[i], (size_t)len)};
    }
    int64_t cpu = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    int64_t start = now_ns(CLOCK_MONOTONIC);
    if (o->follow) {
        nv_log_read_options follow = {.from = NV_LOG_FROM_BEGINNING, .follow = true};
        b->err = nv_log_reader_open(&b->follower, b->log, &follow, &b->exec.exec);
        if (b->err == NV_OK) {
            nv_log_reader_next(b->follower, on_followed, b);
        }
    }
    append_all(b, body, stamps);
    nv_log_reader_close(b->follower);
    double seconds = (double)(now_ns(CLOCK_MONOTONIC) - start) / 1e9;
    double records = (double)o->records;
    out->append_cpu_s = (double)(now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu) / 1e9 * 1e6 / records;
    out->append_per_s = records / seconds;
    out->add_ns = (double)b->add_ns / records;
    out->commit = summarize(b->ns, b->commits);
    free(body);
    out->read_per_s = read_all(b);
    out->read_again_per_s = read_all(b);
    out->bytes_per_record = used_bytes(b->log) / records;
}

static void remove_entry(void *arg, const char *name)
{
    char **names = arg;
    size_t old = *names ? strlen(*names) : 0;
    *names = nv_realloc(*names, old + strlen(name) + 2);
    memcpy(*names + old, name, strlen(name) + 1);
    memcpy(*names + old + strlen(name), "/", 2);
}

/** Remove the files of the folder; it stays. */
static void empty_folder(nv_disk *disk, const char *dir)
{
    char *names = NULL;
    nv_err err = nv_disk_list(disk, dir, remove_entry, &names);
    for (char *at = names; err == NV_OK && at && *at;) {
        char *end = strchr(at, '/');
        char path[NV_LOG_PATH * 2];
        (void)snprintf(path, sizeof(path), "%s/%.*s", dir, (int)(end - at), at);
        nv_err ignored = nv_disk_remove(disk, path);
        (void)ignored;
        at = end + 1;
    }
    free(names);
}

nv_err nv_bench_log(nv_disk *disk, const nv_log_bench_options *options, nv_log_bench *out, nv_buf *why)
{
    if (options->in_flight < 1 || options->in_flight > MAX_IN_FLIGHT || options->batch_records < 1 ||
        options->run_records < 1 || options->records < 1) {
        return NV_E_INVALID;
    }
    nv_log_config config = {.dir = options->dir,
                            .partitions = 4,
                            .durability = options->durability,
                            .segment_bytes = 64 << 20,
                            .disk = disk,
                            .clock = nv_clock_system(),
                            .rng = nv_rng_system()};
    bench b = {.options = options, .err = NV_OK};
    nv_err err = nv_log_open(&b.log, &config, why);
    if (err != NV_OK) {
        return err;
    }
    nv_exec_queue_init(&b.exec);
    b.ns = nv_calloc(options->records, sizeof(*b.ns));
    for (size_t i = 0; i < options->in_flight; i++) {
        b.slots[i].bench = &b;
        b.slots[i].batch = nv_log_batch_new(b.log, &b.exec.exec, on_done, &b.slots[i]);
    }
    nv_log_status status;
    nv_log_get_status(b.log, &status);
    out->mode = status.mode;
    measure(&b, out);
    for (size_t i = 0; i < options->in_flight; i++) {
        nv_log_batch_free(b.slots[i].batch);
    }
    nv_log_close(b.log);
    b.log = NULL;
    if (b.err == NV_OK) { /* a restart seals the last segment, then there is nothing left that is not packed */
        b.err = nv_log_open(&b.log, &config, why);
    }
    if (b.err == NV_OK) {
        nv_log_janitor_run(b.log);
        out->packed_bytes_per_record = used_bytes(b.log) / (double)options->records;
    }
    nv_log_close(b.log);
    empty_folder(disk, options->dir);
    nv_exec_queue_deinit(&b.exec);
    free(b.ns);
    return b.err;
}
