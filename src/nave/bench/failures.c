#include "nave/bench/failures.h"

#include <stdarg.h>

void nv_bench_failures_add(nv_bench_failures *failures, size_t kind, const char *fmt, ...)
{
    failures->counts[kind]++;
    if (!failures->first[0]) {
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(failures->first, sizeof(failures->first), fmt, args);
        va_end(args);
    }
}

uint64_t nv_bench_failures_sum(const nv_bench_failures *failures)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < failures->kinds; i++) {
        sum += failures->counts[i];
    }
    return sum;
}

void nv_bench_failures_report(const nv_bench_failures *failures, nv_report *report)
{
    nv_report_int(report, "failures_total", (int64_t)nv_bench_failures_sum(failures));
    nv_report_text(report, "first_failure", failures->first);
    nv_report_open(report, "failures");
    for (size_t i = 0; i < failures->kinds; i++) {
        if (failures->counts[i]) {
            nv_report_int(report, failures->names[i], (int64_t)failures->counts[i]);
        }
    }
    nv_report_close(report);
}
