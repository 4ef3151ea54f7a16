/**
 * The telemetry log: partitioned, append-only, checksummed, with retention by time and size. One journal for all
 * partitions: a commit carries runs of several partitions and is synced once. Nothing here may be taken for a local
 * file by callers; a replicated engine will stand behind the same functions. The file format is in docs/log-format.md.
 *
 *   loop A --batch--+                        +--> done(batch) on loop A
 *                   +--> writer: write, sync-+
 *   loop B --batch--+         |              +--> done(batch) on loop B
 *                             v
 *                     durable watermark ---> reader thread ---> chunk on the reader's loop
 */
#ifndef NV_STORE_LOG_H
#define NV_STORE_LOG_H

#include "base/clock.h"
#include "base/rng.h"
#include "base/task.h"
#include "store/disk.h"
#include "store/record.h"

typedef struct nv_log nv_log;
typedef struct nv_log_batch nv_log_batch;
typedef struct nv_log_reader nv_log_reader;
typedef struct nv_log_chunk nv_log_chunk;

#define NV_LOG_MAX_PARTITIONS 32u
#define NV_LOG_MESSAGE_MAX    (1 << 20) /* bytes of a body */

/** When an append counts as done: after a sync, or once the operating system has the bytes. */
typedef enum nv_durability { NV_DURABILITY_COMMIT, NV_DURABILITY_OS } nv_durability;

typedef struct nv_log_config {
    const char *dir;     /* created when absent; borrowed during open only */
    uint32_t partitions; /* 1..32; counts only when the log is created, an existing log keeps its own */
    nv_durability durability;
    uint64_t segment_bytes;   /* size of a segment file; a multiple of 1 MiB */
    int64_t retention_us;     /* events older than this go, at twice that age at the latest; 0 = for ever */
    uint64_t retention_bytes; /* total of the segment files; 0 = no bound */
    nv_disk *disk;
    const nv_clock *clock;
    nv_rng *rng;
} nv_log_config;

/**
 * Open or create, recovering what a crash left: the torn tail is dropped, everything acknowledged is kept.
 * Starts the writer, reader and janitor threads. Blocks: yes (start-up only).
 * @param why  receives one English clause when the result is not NV_OK (the file, the cause, the cure)
 * @return NV_E_IN_USE another process has it, NV_E_UNSUPPORTED a newer version wrote it, NV_E_CORRUPT, NV_E_PERMISSION,
 *         NV_E_NO_SPACE, NV_E_IO, NV_E_INVALID
 */
NV_NODISCARD nv_err nv_log_open(nv_log **out, const nv_log_config *config, nv_buf *why);
/** Finish queued batches, seal nothing, stop the threads, free. All readers are closed before. Blocks: yes. NULL is
 * fine. */
void nv_log_close(nv_log *log);

uint32_t nv_log_partitions(const nv_log *log);
/** The partition of an identity: the stable hash of the device id. */
uint32_t nv_log_partition_of(const nv_log *log, nv_span device_id);

/* ---- appending -------------------------------------------------------------------------------------------- */

/**
 * @p status NV_OK: every record of the batch is stored to the configured durability and visible to readers.
 * NV_E_NO_SPACE or NV_E_IO: none of them is, nor ever will be. The batch is the owner's again.
 */
typedef void (*nv_log_done)(nv_log_batch *batch, nv_err status, void *arg);

/**
 * A batch collects records on one loop and is submitted as a unit; its memory is reused for the next. It is written to
 * disk from where it stands: no copy. @p exec is where done runs. Thread: the owner's.
 */
nv_log_batch *nv_log_batch_new(nv_log *log, nv_exec *exec, nv_log_done done, void *arg);
/** Not while it is submitted. NULL is fine. */
void nv_log_batch_free(nv_log_batch *batch);

/** The identity under which records are added: equal ids mean equal bytes. */
typedef struct nv_log_stamp {
    uint64_t id;   /* unique per encoded stamp in this process, never 0 */
    nv_span bytes; /* nv_stamp_encode; copied when used */
} nv_log_stamp;

/**
 * Add one record; body and properties are copied. Consecutive records of one stamp and partition share a run.
 * @return NV_E_AGAIN the batch is at its size limit: submit it first (a record alone always fits when it is at most 1
 * MiB); NV_E_TOO_BIG never fits
 */
NV_NODISCARD nv_err nv_log_batch_add(nv_log_batch *batch, uint32_t partition, const nv_log_stamp *stamp,
                                     nv_source source, nv_body_kind body_kind, nv_span properties, nv_span body);
/** Records in the batch. */
uint32_t nv_log_batch_count(const nv_log_batch *batch);
/** Bytes it will take on disk, without padding. */
size_t nv_log_batch_bytes(const nv_log_batch *batch);
/** Remember in this commit that the state store's outbox is drained up to @p row (design.md section 3). */
void nv_log_batch_set_outbox_row(nv_log_batch *batch, uint64_t row);

/**
 * Hand the batch to the log. While one commit is in flight the log collects the next; batches of one owner complete in
 * order. With NV_DURABILITY_OS the calling thread may write it itself; done is posted even then, never called from
 * here. Blocks: never on a sync; with NV_DURABILITY_OS for the copy into the page cache.
 * @return NV_OK done will fire exactly once; NV_E_NO_SPACE, NV_E_IO the log refuses now (nv_log_status says why), done
 *         never fires and the batch stays the owner's
 */
NV_NODISCARD nv_err nv_log_submit(nv_log_batch *batch);
/** Empty a batch that is not submitted, keeping its memory. Called by the owner after done. */
void nv_log_batch_clear(nv_log_batch *batch);

/* ---- state ------------------------------------------------------------------------------------------------ */

typedef enum nv_log_health { NV_LOG_OK, NV_LOG_FULL, NV_LOG_FAILED } nv_log_health;

typedef struct nv_log_status {
    nv_log_health health;
    char reason[160]; /* cause and cure while health is not OK, else "" */
    const char *mode; /* "direct" (O_DIRECT|O_DSYNC in place), "fdatasync", or "os" */
    uint64_t segments;
    uint64_t stored_bytes;
    uint64_t outbox_row; /* of the last commit */
} nv_log_status;

/** Thread: any. */
void nv_log_get_status(nv_log *log, nv_log_status *out);

/**
 * Have the janitor do all its work once, retention too: after time was moved, in tests, in the bench. Thread: not a
 * loop's. Blocks: until it is done.
 */
void nv_log_janitor_run(nv_log *log);

typedef struct nv_log_partition_info {
    uint64_t first_sequence; /* oldest still stored */
    uint64_t next_sequence;  /* one past the newest readable */
    uint64_t last_offset;
    int64_t last_enqueued_us; /* 0 when nothing was ever written */
} nv_log_partition_info;

/** Thread: any. */
NV_NODISCARD nv_err nv_log_get_partition(nv_log *log, uint32_t partition, nv_log_partition_info *out);

/* ---- reading ---------------------------------------------------------------------------------------------- */

typedef enum nv_log_from {
    NV_LOG_FROM_BEGINNING,
    NV_LOG_FROM_NOW,
    NV_LOG_FROM_TIME,
    NV_LOG_FROM_SEQUENCE,
    NV_LOG_FROM_OFFSET
} nv_log_from;

typedef struct nv_log_read_options {
    uint32_t partitions; /* bit mask; 0 = all. FROM_SEQUENCE and FROM_OFFSET need exactly one */
    nv_log_from from;
    int64_t time_us;    /* FROM_TIME: first record enqueued at or after it */
    uint64_t sequence;  /* FROM_SEQUENCE: first record with this number or a later one */
    uint64_t offset;    /* FROM_OFFSET: first record that begins at this offset or behind it */
    nv_span device_id;  /* only this device and its modules; empty = all; copied */
    bool follow;        /* at the end wait for more; otherwise NV_E_EOF */
    size_t chunk_bytes; /* about how much to read at once; 0 = 256 KiB */
} nv_log_read_options;

/**
 * @p status NV_OK: @p chunk holds at least one record, in commit order (so in sequence order per partition), all of
 * them durable; the callee releases it. NV_E_EOF: the end as of now, without follow. NV_E_GONE: retention removed the
 * position; the next call continues with the oldest record behind it. NV_E_IO, NV_E_CORRUPT: this reader is finished.
 */
typedef void (*nv_log_read_done)(void *arg, nv_err status, nv_log_chunk *chunk);

/** A reader never slows the writer and never blocks its loop. Thread: the loop of @p exec, for this and all calls on
 * it. */
NV_NODISCARD nv_err nv_log_reader_open(nv_log_reader **out, nv_log *log, const nv_log_read_options *options,
                                       nv_exec *exec);
/** Ask for the next chunk. One request at a time; the callback runs on exec, never from here. */
void nv_log_reader_next(nv_log_reader *reader, nv_log_read_done done, void *arg);
/** After this returns no callback of the reader fires. NULL is fine. */
void nv_log_reader_close(nv_log_reader *reader);

/** Iterate a chunk. @return false at its end. Records stay valid until the chunk is released. */
bool nv_log_chunk_next(nv_log_chunk *chunk, nv_record *out);
/** Take the iteration back to the first record. */
void nv_log_chunk_rewind(nv_log_chunk *chunk);
void nv_log_chunk_ref(nv_log_chunk *chunk);
/** Thread: any. */
void nv_log_chunk_release(nv_log_chunk *chunk);

#endif
