/**
 * A latency histogram with constant relative precision: values below 128 are exact, above that 64 steps per power of
 * two, so a percentile is off by less than 1.6 %. Recording is a shift and an increment.
 */
#ifndef NV_NAVE_BENCH_HISTOGRAM_H
#define NV_NAVE_BENCH_HISTOGRAM_H

#include <stdint.h>

#define NV_HISTOGRAM_STEP_BITS 6u
#define NV_HISTOGRAM_CELLS     (((64u - NV_HISTOGRAM_STEP_BITS) + 1u) << NV_HISTOGRAM_STEP_BITS)

/** A zeroed histogram is empty. */
typedef struct nv_histogram {
    uint64_t total;
    uint64_t max;
    uint64_t cells[NV_HISTOGRAM_CELLS];
} nv_histogram;

static inline unsigned nv_histogram_cell(uint64_t value)
{
    if (value < (1u << (NV_HISTOGRAM_STEP_BITS + 1))) {
        return (unsigned)value;
    }
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - NV_HISTOGRAM_STEP_BITS;
    return (shift << NV_HISTOGRAM_STEP_BITS) + (unsigned)(value >> shift);
}

static inline void nv_histogram_add(nv_histogram *h, uint64_t value, uint64_t times)
{
    h->cells[nv_histogram_cell(value)] += times;
    h->total += times;
    h->max = value > h->max ? value : h->max;
}

/** The largest value that falls into @p cell. */
uint64_t nv_histogram_cell_top(unsigned cell);
/** The value that @p fraction (0..1) of all recorded values do not exceed; 0 when nothing was recorded. */
uint64_t nv_histogram_at(const nv_histogram *h, double fraction);
void nv_histogram_clear(nv_histogram *h);

#endif
