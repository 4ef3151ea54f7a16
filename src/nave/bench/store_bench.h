/** `nave bench disk` and `nave bench log`: what store/log_bench.h measures, printed. */
#ifndef NV_NAVE_BENCH_STORE_BENCH_H
#define NV_NAVE_BENCH_STORE_BENCH_H

#include <stdio.h>

void nv_bench_disk_usage(FILE *to);
/** The disk, written and synced as the log does it. @return the exit code */
int nv_bench_disk_main(int argc, char **argv);

void nv_bench_log_usage(FILE *to);
/** The log without a network: appending, then reading back. @return the exit code */
int nv_bench_log_main(int argc, char **argv);

#endif
