#include "nave/bench/histogram.h"

#include <string.h>

uint64_t nv_histogram_cell_top(unsigned cell)
{
    if (cell < (1u << (NV_HISTOGRAM_STEP_BITS + 1))) {
        return cell;
    }
    unsigned shift = (cell >> NV_HISTOGRAM_STEP_BITS) - 1;
    uint64_t step = (cell & ((1u << NV_HISTOGRAM_STEP_BITS) - 1)) + (1u << NV_HISTOGRAM_STEP_BITS);
    return (step << shift) + ((UINT64_C(1) << shift) - 1);
}

uint64_t nv_histogram_at(const nv_histogram *h, double fraction)
{
    double exact = fraction * (double)h->total;
    uint64_t wanted = (uint64_t)exact;
    wanted += (double)wanted < exact ? 1 : 0;
    wanted = wanted ? wanted : 1;
    uint64_t seen = 0;
    for (unsigned cell = 0; cell < NV_HISTOGRAM_CELLS; cell++) {
        seen += h->cells[cell];
        if (seen >= wanted) {
            uint64_t top = nv_histogram_cell_top(cell);
            return top < h->max ? top : h->max;
        }
    }
    return h->max;
}

void nv_histogram_clear(nv_histogram *h)
{
    memset(h, 0, sizeof(*h));
}
