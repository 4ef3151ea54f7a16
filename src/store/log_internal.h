/**
 * The engine behind log.h. Private to src/store and its tests.
 *
 *   submit --> queue --> writer thread: seal, pwritev, sync --> publish tip --> completions, reader thread
 *                            |  takes a spare                      |
 *                            |                                     | sealed segments
 *                        janitor thread: spares, footers, retention, packing
 *
 * Locks: write_lock is held by whoever appends (the writer thread; with NV_DURABILITY_OS any loop, for one buffered
 * write). lock guards everything under its heading and is held for instants, never across a call to the disk.
 * Order: write_lock before lock.
 */
#ifndef NV_STORE_LOG_INTERNAL_H
#define NV_STORE_LOG_INTERNAL_H

#include "base/list.h"
#include "store/log_cache.h"
#include "store/log_format.h"
#include "store/log_tail.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
    NV_LOG_BATCH_MAX = 2 << 20, /* bytes of a batch, commit header included */
    NV_LOG_RECORD_MAX = NV_LOG_MESSAGE_MAX,
    NV_LOG_SEGMENT_MIN = 1 << 20,   /* smallest segment file, bytes */
    NV_LOG_SEGMENT_FIRST = 4 << 20, /* a new log starts with this and doubles */
    NV_LOG_SPARES = 2,
    NV_LOG_GROUP_MAX = 64, /* commits in one write */
    NV_LOG_GROUP_BYTES = 8 << 20,
    NV_LOG_PATH = 512,
    NV_LOG_PIECE = 64 << 10,     /* of background work while commits are made */
    NV_LOG_SPARSE_MAX = 16 << 20 /* segment files grow to this while most of them is padding */
};

typedef struct nv_segment {
    /* constant once listed */
    nv_segment_header header;
    uint64_t file_bytes;
    /* under lock */
    unsigned refs;
    bool sealed; /* nothing is appended any more */
    bool has_footer;
    bool packed;        /* dense, or known to be dense enough */
    bool file_used;     /* since the janitor last looked */
    nv_file *read_file; /* opened by need */
    nv_log_point end;   /* after its last visible commit */
    int64_t first_time_us;
    bool syncing;          /* the writer has its file */
    uint64_t padding;      /* bytes between commits */
    nv_index_entry *index; /* while there is no footer */
    size_t index_count;
    size_t index_capacity;
    /* of the writer until sealed, then of the janitor */
    nv_file *write_file;
} nv_segment;

struct nv_log {
    /* constant after open */
    char dir[NV_LOG_PATH - 64];
    nv_disk *disk;
    const nv_clock *clock;
    nv_rng *rng;
    nv_durability durability;
    bool direct;
    uint32_t partitions;
    uint64_t segment_bytes;
    int64_t retention_us;
    uint64_t retention_bytes;
    uint8_t uuid[16];
    nv_file *lock_file;
    pthread_t writer;
    pthread_t janitor;
    pthread_t reader;
    unsigned threads; /* how many of the three run */

    pthread_mutex_t write_lock; /* guards: */
    nv_log_point point;         /* after the last commit written; equals tip between groups */
    nv_segment *active;         /* NULL: the next group starts a segment */
    bool header_pending;        /* active's header goes out with the next group */
    uint64_t started;           /* highest segment number that was ever written to */
    uint8_t *header_block;      /* aligned */

    pthread_mutex_t lock; /* guards: */
    pthread_cond_t writer_wake;
    pthread_cond_t janitor_wake;
    pthread_cond_t reader_wake;
    bool stopping;
    nv_list queue; /* of nv_log_batch */
    nv_log_health health;
    char reason[160];
    int64_t retry_mono_us; /* when to try again while not OK */
    int64_t retry_step_us;
    nv_log_point tip;      /* readers see everything up to here */
    nv_log_point synced;   /* durable up to here; behind tip only with NV_DURABILITY_OS */
    nv_segment **segments; /* in order; each holds a reference */
    size_t segment_count;
    nv_segment *spares[NV_LOG_SPARES]; /* prepared, in order of number */
    size_t spare_count;
    uint64_t last_number; /* highest segment number given out */
    uint64_t next_bytes;  /* size of the next segment file */
    int64_t last_roll_us; /* monotonic */
    int64_t roll_interval_us;
    uint64_t dir_synced; /* segment number up to which names are known to be durable */
    bool janitor_kicked;
    uint64_t committed_bytes; /* on disk, since open: what background work is paced by */
    uint64_t sync_asked_at;   /* with NV_DURABILITY_OS: committed_bytes when the writer was last asked to sync */
    uint64_t gap_at;          /* the janitor waits for the end of the commit that brings committed_bytes here; 0 = no */
    pthread_cond_t gap;
    uint64_t janitor_passes;
    pthread_cond_t janitor_done;
    nv_list requests;         /* of nv_log_reader, waiting for the reader thread */
    nv_list followers;        /* of nv_log_reader, waiting for a commit */
    nv_list waiting;          /* of nv_log_reader, in front of others that read the same; in order of time */
    nv_list behind;           /* of nv_log_reader, by behind_link: those that read from the files */
    uint64_t rollbacks;       /* how often a tail was dropped */
    uint64_t rollback_commit; /* the first index dropped last time */

    nv_tail tail; /* its parts say which lock guards them */
    nv_log_cache cache;
};

struct nv_log_batch {
    nv_list link; /* in queue or in a group */
    nv_task task;
    nv_log *log;
    nv_exec *exec;
    nv_log_done done;
    void *arg;
    nv_err status;
    bool submitted;
    bool has_outbox_row;
    uint64_t outbox_row;
    /* content: NV_COMMIT_HEADER bytes of room, then runs */
    uint8_t *memory; /* aligned to NV_LOG_BLOCK */
    size_t capacity; /* multiple of NV_LOG_BLOCK */
    size_t used;
    uint32_t runs;
    uint32_t records;
    size_t run_at;   /* start of the open run; 0 = none */
    size_t run_body; /* where its records start */
    uint64_t run_stamp;
    uint32_t run_partition;
    uint32_t run_records;
    uint32_t run_last;
};

/* log_batch.c */
/** Memory for at least @p need bytes, content kept. */
NV_NODISCARD nv_err nv_log_batch_reserve(nv_log_batch *batch, size_t need);
/** Close the open run, so that the bytes are complete. */
void nv_log_batch_finish(nv_log_batch *batch);
/** Post done(status) to the owner. The batch must be in no list. */
void nv_log_batch_complete(nv_log_batch *batch, nv_err status);

/* log_segment.c: files, references, the index */
void nv_segment_path(const nv_log *log, uint64_t number, const char *suffix, char out[NV_LOG_PATH]);
nv_segment *nv_segment_new(void);
void nv_segment_ref_locked(nv_segment *segment);
/** @return the segment when this was the last reference: pass it to nv_segment_free() outside the lock */
NV_NODISCARD nv_segment *nv_segment_unref_locked(nv_segment *segment);
void nv_segment_free(nv_segment *segment);
/** Space at the end of the file that the footer may need, in bytes. */
uint64_t nv_segment_footer_reserve(const nv_log *log, uint64_t file_bytes);
/** Account for a commit that was written at @p position; @p before is the state in front of it. */
void nv_segment_note_commit(nv_segment *segment, uint32_t partitions, const nv_log_point *before,
                            const nv_commit *commit, uint64_t position, const nv_log_point *after);
/**
 * Make a segment file of about @p bytes under the next number: reserved space, in direct mode full of zeros, its name
 * durable. @param hurry  smaller when the disk is nearly full, and no zeros: the writer waits
 */
NV_NODISCARD nv_err nv_segment_create(nv_log *log, uint64_t bytes, uint64_t at_least, bool hurry, nv_segment **out);
/** Open for writing in the mode of the log. */
NV_NODISCARD nv_err nv_segment_open_write(nv_log *log, const char *path, unsigned extra, nv_file **out);
/** Write the footer from memory and make it durable. Thread: janitor. */
NV_NODISCARD nv_err nv_segment_write_footer(nv_log *log, nv_segment *segment);
/** The index: from memory (a copy), or read from the footer. The caller frees *out. */
NV_NODISCARD nv_err nv_segment_load_index(nv_log *log, nv_segment *segment, nv_index_entry **out, size_t *count);
/** Open segment->read_file when it is not. Call with a reference, without the lock. */
NV_NODISCARD nv_err nv_segment_need_read_file(nv_log *log, nv_segment *segment);
/** Total of segment and spare files. */
uint64_t nv_log_stored_bytes_locked(const nv_log *log);

/* log_recover.c */
/** Find out what the folder holds: segments, tip, spares. Blocks. */
NV_NODISCARD nv_err nv_log_recover(nv_log *log, nv_buf *why);

/* log_write.c */
/** Append a list of batches; every batch gets its completion. Call under write_lock. */
void nv_log_write_batches(nv_log *log, nv_list *batches);
void nv_log_set_health_locked(nv_log *log, nv_log_health health, nv_err err, const char *what);
/** Sync what is behind tip (NV_DURABILITY_OS). Thread: writer. */
void nv_log_sync_tail(nv_log *log);
void *nv_log_writer_main(void *arg);

/* log_pace.c */
/** Background work that goes to the disk in pieces. Thread: janitor, which alone uses it. */
typedef struct nv_pace {
    nv_log *log;
    double ratio;    /* bytes of work per byte committed */
    uint64_t seen;   /* committed bytes accounted for */
    uint64_t credit; /* bytes */
} nv_pace;
nv_pace nv_pace_start(nv_log *log, double ratio);
/**
 * Wait until the next piece may go to the disk. @return how large it may be, in bytes: at least NV_LOG_PIECE, a
 * multiple of NV_LOG_BLOCK
 */
size_t nv_pace_wait(nv_pace *pace);
/** Account for a piece. */
void nv_pace_done(nv_pace *pace, uint64_t bytes);
/** No spare is there and the open segment (if any) is past @p part of its file. */
bool nv_log_spare_needed(nv_log *log, double part);

/** The newest file holds messages that retention would remove if it were not the newest. */
bool nv_log_is_old_locked(const nv_log *log);
/** Go on in another file then, if a spare is there: where the disk is full nothing needs to change. Thread: janitor. */
void nv_log_roll_old(nv_log *log);

/* log_janitor.c */
void *nv_log_janitor_main(void *arg);
void nv_log_kick_janitor_locked(nv_log *log);
/** What must not wait for a long duty: a spare for the writer. Thread: janitor. */
void nv_log_janitor_tend(nv_log *log);
/** Turn a file that nobody uses any more into the next spare. @return false when it cannot serve: the caller removes it
 */
bool nv_log_recycle(nv_log *log, const nv_segment *old, const char *path);
/** One pass over all duties. Thread: janitor. */
void nv_log_janitor_pass(nv_log *log);

/* log_pack.c */
/** Copy a sealed segment densely over itself when that frees enough. Thread: janitor. */
NV_NODISCARD nv_err nv_segment_pack(nv_log *log, nv_segment *segment);

/* log_read.c */
void *nv_log_reader_main(void *arg);
/** The log has grown in @p partitions: hand readers that wait for one of them to the reader thread. The others go on
 * waiting: they have seen what there is for them. */
void nv_log_wake_followers_locked(nv_log *log, uint32_t partitions);

#endif
