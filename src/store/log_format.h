/**
 * Bytes of the telemetry log's files: encoding, decoding, validity. Pure functions; docs/log-format.md is the
 * specification, log_format.c repeats it field by field. Private to src/store.
 */
#ifndef NV_STORE_LOG_FORMAT_H
#define NV_STORE_LOG_FORMAT_H

#include "base/bytes.h"
#include "store/log.h"

enum {
    NV_LOG_VERSION = 1,
    NV_LOG_BLOCK = 4096,          /* segment header, footer tail, and the unit of direct writes */
    NV_LOG_DENSE_ALIGN = 8,       /* of commits in files that are not written directly */
    NV_COMMIT_HEADER = 48,        /* bytes */
    NV_RUN_HEADER = 40,           /* bytes, the stamp follows */
    NV_RECORD_HEADER = 8,         /* bytes, properties and body follow */
    NV_COMMIT_MAX = 4 << 20,      /* bytes on disk; above what a batch can hold */
    NV_LOG_INDEX_STEP = 256 << 10 /* about one index entry per this many bytes */
};

static inline uint64_t nv_align_up(uint64_t value, uint64_t align)
{
    return (value + align - 1) / align * align;
}

/** Where a partition stands. */
typedef struct nv_part_point {
    uint64_t next_sequence;
    uint64_t next_offset;
    uint64_t last_offset; /* of the newest record */
    int64_t last_time_us; /* of the newest record, 0 = none */
} nv_part_point;

/** The state of the log after some commit: what the next one continues. */
typedef struct nv_log_point {
    uint64_t segment;     /* number of the segment that holds the last commit; 0 = none */
    uint64_t position;    /* in that file, one past the last commit */
    uint64_t next_commit; /* index */
    uint64_t outbox_row;
    int64_t last_time_us; /* no later commit is stamped earlier */
    nv_part_point parts[NV_LOG_MAX_PARTITIONS];
} nv_log_point;

typedef struct nv_segment_header {
    uint8_t uuid[16];
    uint64_t number; /* from 1 */
    uint64_t generation;
    uint32_t partitions;
    uint32_t align;         /* of commits: NV_LOG_BLOCK or NV_LOG_DENSE_ALIGN */
    bool start_was_durable; /* the previous segment was durable up to .start when this header was made */
    bool prewritten;        /* every block of the file was written once: it may be recycled */
    nv_log_point start;     /* .segment and .position say where the previous segment ends */
} nv_segment_header;

/** Encode into one block. */
void nv_segment_header_encode(const nv_segment_header *header, uint8_t out[NV_LOG_BLOCK]);
/** @return NV_E_NOT_FOUND no magic: not a used segment; NV_E_UNSUPPORTED another version; NV_E_CORRUPT */
NV_NODISCARD nv_err nv_segment_header_decode(const uint8_t in[NV_LOG_BLOCK], nv_segment_header *out);

typedef struct nv_commit {
    uint64_t index;
    uint32_t payload_bytes;
    uint32_t disk_bytes; /* header, payload and padding */
    uint32_t runs;
    uint32_t records;
    int64_t wall_us; /* enqueued time of its runs */
    uint64_t outbox_row;
    const uint8_t *payload;
} nv_commit;

/** Write the header of a commit in front of its payload at @p at + NV_COMMIT_HEADER, checksum included. */
void nv_commit_encode(uint8_t *at, const nv_commit *commit, uint64_t generation, uint64_t position);
/**
 * Decode and verify a commit that should stand at @p position of a file of this generation.
 * @return NV_E_MORE: out->disk_bytes are needed (or NV_COMMIT_HEADER when that is 0); NV_E_CORRUPT: no commit here
 */
NV_NODISCARD nv_err nv_commit_decode(nv_span bytes, uint64_t generation, uint64_t position, nv_commit *out);

typedef struct nv_run {
    uint32_t partition;
    uint32_t records;
    uint64_t first_sequence;
    uint64_t first_offset;
    int64_t enqueued_us;
    uint32_t last_record; /* where the last record starts in .bytes */
    nv_span stamp;
    nv_span bytes; /* the records */
} nv_run;

/** Take the next run off the front of @p payload. @return false at the end, or with payload->ptr NULL when damaged */
bool nv_run_next(nv_span *payload, nv_run *out);
/** Fill in what is known only when the group forms. */
void nv_run_patch(uint8_t *run, uint64_t first_sequence, uint64_t first_offset, int64_t enqueued_us);

/**
 * Move @p point past a commit whose runs must continue it.
 * @return NV_E_CORRUPT the runs do not add up or do not continue @p point, which is then spoilt
 */
NV_NODISCARD nv_err nv_log_point_advance(nv_log_point *point, const nv_commit *commit, uint32_t partitions);

/** One entry of a segment's sparse index: the state in front of a commit. */
typedef struct nv_index_entry {
    uint64_t position;
    uint64_t commit;
    int64_t time_us; /* of that commit */
    uint64_t next_sequence[NV_LOG_MAX_PARTITIONS];
} nv_index_entry;

/** What a sealed segment says of itself in the last block of its file. */
typedef struct nv_segment_footer {
    nv_log_point end;
    int64_t first_time_us;
    uint64_t commits;
    uint64_t records;
    uint64_t padding; /* bytes between commits */
    uint32_t index_count;
} nv_segment_footer;

/** Bytes of index and tail block for @p count entries, a multiple of NV_LOG_BLOCK. They end where the file ends. */
size_t nv_footer_bytes(uint32_t partitions, size_t count);
/** Encode index and tail into @p out of nv_footer_bytes(). */
void nv_footer_encode(const nv_segment_header *header, const nv_segment_footer *footer, const nv_index_entry *index,
                      uint8_t *out);
/** Decode the last block of a file. @return NV_E_CORRUPT: this segment has no (valid) footer */
NV_NODISCARD nv_err nv_footer_decode(const nv_segment_header *header, const uint8_t tail[NV_LOG_BLOCK],
                                     nv_segment_footer *out);
/** Decode entry @p i of the index whose bytes start at @p bytes. */
void nv_index_decode(uint32_t partitions, const uint8_t *bytes, size_t i, nv_index_entry *out);
/** Bytes of one index entry. */
size_t nv_index_entry_bytes(uint32_t partitions);
/** Check an index read from disk against the tail block it belongs to. */
bool nv_index_valid(const nv_segment_header *header, const uint8_t tail[NV_LOG_BLOCK], nv_span index);

#endif
