#include "base/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static void system_fill(nv_rng *rng, void *out, size_t len)
{
    (void)rng;
    unsigned char *at = out;
    while (len > 0) {
        ssize_t got = getrandom(at, len, 0);
        if (got < 0) {
            if (errno == EINTR) {
                continue;
            }
            abort(); /* no randomness, no keys: nothing may go on */
        }
        at += got;
        len -= (size_t)got;
    }
}

nv_rng *nv_rng_system(void)
{
    static nv_rng rng = {system_fill};
    return &rng;
}

static void seeded_fill(nv_rng *rng, void *out, size_t len)
{
    nv_seeded_rng *seeded = (nv_seeded_rng *)(void *)rng;
    unsigned char *at = out;
    while (len > 0) {
        uint64_t z = seeded->state += UINT64_C(0x9e3779b97f4a7c15);
        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        z ^= z >> 31;
        size_t n = len < sizeof(z) ? len : sizeof(z);
        memcpy(at, &z, n);
        at += n;
        len -= n;
    }
}

void nv_seeded_rng_init(nv_seeded_rng *seeded, uint64_t seed)
{
    *seeded = (nv_seeded_rng){{seeded_fill}, seed};
}
