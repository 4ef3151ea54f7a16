/** Hashing. nv_hash_stable is part of the on-disk contract: partitions and shards are chosen by it. */
#ifndef NV_BASE_HASH_H
#define NV_BASE_HASH_H

#include "base/span.h"

/** FNV-1a (64 bits) with a final mix. Never changes: a device keeps its partition across versions. */
static inline uint64_t nv_hash_stable(nv_span bytes)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < bytes.len; i++) {
        h = (h ^ bytes.ptr[i]) * UINT64_C(0x100000001b3);
    }
    h ^= h >> 33;
    h *= UINT64_C(0xff51afd7ed558ccd);
    h ^= h >> 33;
    h *= UINT64_C(0xc4ceb9fe1a85ec53);
    return h ^ h >> 33;
}

#endif
