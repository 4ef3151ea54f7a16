/** The randomness seam: keys, generations and ids come from one nv_rng; tests use a seeded one. */
#ifndef NV_BASE_RNG_H
#define NV_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

typedef struct nv_rng nv_rng;
struct nv_rng {
    /** Fill with random bytes. Never fails: the system's generator aborts if it cannot deliver. */
    void (*fill)(nv_rng *rng, void *out, size_t len);
};

static inline void nv_rng_fill(nv_rng *rng, void *out, size_t len)
{
    rng->fill(rng, out, len);
}

static inline uint64_t nv_rng_u64(nv_rng *rng)
{
    uint64_t value = 0;
    rng->fill(rng, &value, sizeof(value));
    return value;
}

/** getrandom(2). Thread: any. */
nv_rng *nv_rng_system(void);

/** Deterministic (splitmix64); for tests only. Thread: one at a time. */
typedef struct nv_seeded_rng {
    nv_rng rng; /* first member: pass &s->rng */
    uint64_t state;
} nv_seeded_rng;

void nv_seeded_rng_init(nv_seeded_rng *seeded, uint64_t seed);

#endif
