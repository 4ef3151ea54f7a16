/** What a run costs, read from /proc: processor time of the server and its children, its memory, and other work. */
#ifndef NV_NAVE_BENCH_USAGE_H
#define NV_NAVE_BENCH_USAGE_H

#include <stdint.h>
#include <sys/types.h>

/** Seconds since some fixed point; meaningful as differences. */
typedef struct nv_usage {
    double wall_s;
    double server_s;  /* user + system of the server and its descendants, living or waited for; 0 without a pid */
    double own_s;     /* user + system of this process */
    double machine_s; /* all processors, everything but idle, waiting and stolen */
    double stolen_s;
} nv_usage;

/** @p server 0 = none. Blocks: for reading /proc, a few ms. */
void nv_usage_read(nv_usage *out, pid_t server);
/** Resident bytes of @p server and its descendants; 0 when it is gone or cannot be read. */
int64_t nv_usage_resident_bytes(pid_t server);

#endif
