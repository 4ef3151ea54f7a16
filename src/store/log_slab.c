#include "store/log_slab.h"

#include <stdbool.h>
#include <stdlib.h>

nv_log_slab *nv_log_slab_new(size_t capacity)
{
    nv_log_slab *slab = malloc(sizeof(*slab) + capacity);
    if (slab) {
        atomic_init(&slab->refs, 1);
        slab->id = 0;
        slab->capacity = capacity;
    }
    return slab;
}

void nv_log_slab_ref(nv_log_slab *slab)
{
    atomic_fetch_add_explicit(&slab->refs, 1, memory_order_relaxed);
}

void nv_log_slab_release(nv_log_slab *slab)
{
    if (slab && atomic_fetch_sub_explicit(&slab->refs, 1, memory_order_acq_rel) == 1) {
        free(slab);
    }
}

void nv_log_slab_spare(nv_log_slab *slab, nv_log_slab **spare)
{
    bool last = atomic_load_explicit(&slab->refs, memory_order_acquire) == 1; /* nobody can take another */
    if (last && !*spare && slab->capacity == NV_LOG_SLAB_BYTES) {
        *spare = slab;
    } else {
        nv_log_slab_release(slab);
    }
}
