/**
 * What a reader hands out: commits in memory that others may share, seen through the filter of the reader. The
 * iteration over it is in log.h. Private to src/store.
 */
#ifndef NV_STORE_LOG_CHUNK_H
#define NV_STORE_LOG_CHUNK_H

#include "store/log_tail.h"

/** What a reader wants to see; copied into each chunk, which may outlive the reader. */
typedef struct nv_log_filter {
    uint32_t partitions;
    int64_t from_us;
    uint64_t from_sequence;
    uint64_t from_offset;
    nv_span device_id; /* owned by the reader, or by the chunk */
} nv_log_filter;

/** Records of the commit at @p commit, header in front, that pass. */
uint64_t nv_log_filter_count(const nv_log_filter *want, const uint8_t *commit);

/**
 * A chunk of the commits from @p start to @p end in a slab, verified and whole. It takes the caller's reference to the
 * slab, but not when it fails. @return NULL no memory
 */
NV_NODISCARD nv_log_chunk *nv_log_chunk_new(const nv_log_filter *want, nv_log_slab *slab, size_t start, size_t end);

#endif
