/**
 * Measuring the log and the disk under it, for `nave bench log` and `nave bench disk`. Returns numbers; prints nothing.
 */
#ifndef NV_STORE_LOG_BENCH_H
#define NV_STORE_LOG_BENCH_H

#include "store/log.h"

/** Latencies in microseconds. */
typedef struct nv_bench_latency {
    int64_t p50_us;
    int64_t p99_us;
    int64_t max_us;
} nv_bench_latency;

typedef struct nv_disk_bench_row {
    size_t bytes; /* of one write */
    uint32_t writes;
    nv_bench_latency latency;
    double writes_per_s;
    double mb_per_s; /* 10^6 bytes */
} nv_disk_bench_row;

#define NV_DISK_BENCH_ROWS 3

typedef struct nv_disk_bench {
    const char *mode;                           /* "direct" or "fdatasync", as the log would choose */
    nv_disk_bench_row rows[NV_DISK_BENCH_ROWS]; /* 4 KiB, 64 KiB, 256 KiB: synced one by one */
} nv_disk_bench;

/**
 * Write into a prepared file exactly as the log commits. @p dir exists; the file is removed afterwards.
 * Blocks: about @p writes times three syncs. @return NV_E_IO, NV_E_NO_SPACE, NV_E_PERMISSION, ...
 */
NV_NODISCARD nv_err nv_bench_disk(nv_disk *disk, const char *dir, uint32_t writes, nv_disk_bench *out);

typedef struct nv_log_bench_options {
    const char *dir; /* a folder of its own: created, emptied afterwards */
    nv_durability durability;
    uint64_t records;
    size_t body_bytes;
    uint32_t batch_records; /* in one commit */
    uint32_t run_records;   /* consecutive records of one device */
    uint32_t in_flight;     /* batches, 1..16 */
    bool follow;            /* a reader follows while records are appended */
} nv_log_bench_options;

typedef struct nv_log_bench {
    const char *mode;
    double add_ns; /* CPU time of nv_log_batch_add, each */
    double append_per_s;
    double append_cpu_s; /* of the process, per million records; the following reader included */
    nv_bench_latency commit;
    double read_per_s; /* first pass, as the page cache happens to be */
    double read_again_per_s;
    double bytes_per_record; /* held by segment files, without what is only prepared */
    double packed_bytes_per_record;
} nv_log_bench;

/** Append, then read everything back twice. Blocks. @param why  as nv_log_open() */
NV_NODISCARD nv_err nv_bench_log(nv_disk *disk, const nv_log_bench_options *options, nv_log_bench *out, nv_buf *why);

#endif
