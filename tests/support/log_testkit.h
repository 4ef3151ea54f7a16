/** What the tests of the log share: a log over a fault disk or a real one, appending and reading in one call each. */
#ifndef NV_TESTS_LOG_TESTKIT_H
#define NV_TESTS_LOG_TESTKIT_H

#include "store/log_internal.h"
#include "support/fault_disk.h"

typedef struct log_kit {
    nv_fault_disk *fault; /* NULL over the real disk */
    nv_log *log;
    nv_log_config config;
    nv_exec_queue exec; /* the one "loop" of the test */
    nv_manual_clock clock;
    nv_seeded_rng rng;
} log_kit;

typedef struct log_kit_record {
    uint32_t partition;
    uint64_t sequence;
    uint64_t offset;
    int64_t enqueued_us;
    char device[32];
    char body[64];
} log_kit_record;

typedef struct log_kit_records {
    log_kit_record *rows; /* owned */
    size_t count;
    nv_err end; /* what ended the reading */
    size_t gone;
} log_kit_records;

/** Settings for a fault disk; change kit->config, then kit_open. Segments of 1 MiB, 2 partitions, commit mode. */
void kit_init(log_kit *kit, uint64_t seed);
/** Close and free everything. */
void kit_deinit(log_kit *kit);
nv_err kit_try_open(log_kit *kit, nv_buf *why);
void kit_open(log_kit *kit);
void kit_close(log_kit *kit);

/** One batch with one record, waited for. */
nv_err kit_append(log_kit *kit, uint32_t partition, const char *device, const char *body);
/** One batch of @p count records with @p bytes of body each, waited for. */
nv_err kit_append_many(log_kit *kit, uint32_t partition, size_t count, size_t bytes);
/** 60 records over two partitions and three devices, one per commit, 1 ms apart. @return the time of the first */
int64_t kit_fill_sixty(log_kit *kit);
/** Read to the end. Free rows. */
log_kit_records kit_read(log_kit *kit, const nv_log_read_options *options);
/** How many records there are from the beginning; asserts NV_E_EOF at the end and no hole per partition. */
size_t kit_count(log_kit *kit);
nv_log_health kit_health(log_kit *kit);
/** Wait for the health, by events of the log, 10 s at most. */
void kit_wait_health(log_kit *kit, nv_log_health health);
/** The stamp of a device; bytes live until the next call with another device in the same slot of 64. */
nv_log_stamp kit_stamp(const char *device);

#endif
