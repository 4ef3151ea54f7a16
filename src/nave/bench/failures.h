/** What went wrong in a run: how often each thing, and the first of all in words. Whoever has kinds of failure embeds
 * it. */
#ifndef NV_NAVE_BENCH_FAILURES_H
#define NV_NAVE_BENCH_FAILURES_H

#include "base/attrs.h"
#include "nave/bench/report.h"

#include <stddef.h>

#define NV_BENCH_FAILURE_KINDS 20u

typedef struct nv_bench_failures {
    const char *const *names; /* of the kinds, in the figures; static */
    size_t kinds;             /* at most NV_BENCH_FAILURE_KINDS */
    uint64_t counts[NV_BENCH_FAILURE_KINDS];
    char first[256];
} nv_bench_failures;

/** Count one; the first is remembered in these words. */
void nv_bench_failures_add(nv_bench_failures *failures, size_t kind, const char *fmt, ...) NV_PRINTF(3, 4);
uint64_t nv_bench_failures_sum(const nv_bench_failures *failures);
/** The sum, the first, and an object with those kinds that happened. */
void nv_bench_failures_report(const nv_bench_failures *failures, nv_report *report);

#endif
