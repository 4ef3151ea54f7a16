/**
 * A reader as the reader thread sees it, and where in which file it stands (log_place.c). Private to src/store.
 */
#ifndef NV_STORE_LOG_READER_H
#define NV_STORE_LOG_READER_H

#include "store/log_chunk.h"
#include "store/log_internal.h"

typedef enum reader_state { READER_IDLE, READER_QUEUED, READER_FOLLOWING, READER_RUNNING, READER_POSTED } reader_state;

struct nv_log_reader {
    nv_list link;        /* in requests, waiting or followers */
    nv_list behind_link; /* in behind */
    nv_task task;
    nv_log *log;
    nv_exec *exec;
    nv_log_from from;
    bool follow;
    size_t chunk_bytes;
    nv_log_filter want;
    reader_state state; /* under lock, but for POSTED, which belongs to exec */
    bool closed;
    /* of the reader thread while RUNNING */
    bool located;
    uint64_t next_commit;
    uint64_t segment; /* where next_commit is, when the generation still fits */
    uint64_t generation;
    uint64_t position;
    uint64_t ahead;        /* how far reading ahead was asked for */
    uint64_t tail_id;      /* the block of the tail that was read last, ... */
    size_t tail_at;        /* ... where next_commit would be in it */
    bool near;             /* counts as a user of the tail; changed under lock */
    int64_t served_us;     /* when it got its last chunk from the files; monotonic */
    int64_t wait_until_us; /* in waiting: since it is ahead of others; monotonic */
    bool waited;           /* for them, long enough */
    unsigned misses;       /* reads from the disk in a row while near */
    uint64_t rollbacks;
    /* the request and its answer */
    nv_log_read_done done;
    void *arg;
    nv_err status;
    nv_log_chunk *chunk;
};

/**
 * First use of a reader with a time, a sequence or an offset: turn it into a commit index.
 * @return NV_E_GONE what was asked for is no longer there, the oldest is next
 */
NV_NODISCARD nv_err nv_log_reader_locate(nv_log *log, nv_log_reader *r);
/**
 * The segment to read from, with a reference, and how far it may be read.
 * @return NV_E_EOF nothing there yet; NV_E_GONE next_commit was moved to the oldest there is
 */
NV_NODISCARD nv_err nv_log_reader_resolve(nv_log *log, nv_log_reader *r, nv_segment **out, uint64_t *limit);
/** Is its position one in this segment's file, as that is now? */
bool nv_log_reader_is_placed(const nv_log_reader *r, const nv_segment *segment);
/** Make position that of next_commit, or of a commit before it, in this segment's file. */
NV_NODISCARD nv_err nv_log_reader_place(nv_log *log, nv_log_reader *r, nv_segment *segment);
/** A tail of the log was dropped: if this reader had seen some of it, it goes back. */
void nv_log_reader_heed_rollback_locked(const nv_log *log, nv_log_reader *r);
/** Count it, or not, among those that read from the files. */
void nv_log_reader_set_behind_locked(nv_log *log, nv_log_reader *r, bool behind);

#endif
