/** What `nave bench amqp` was asked to do. */
#ifndef NV_NAVE_BENCH_AMQP_OPTIONS_H
#define NV_NAVE_BENCH_AMQP_OPTIONS_H

#include "nave/bench/mqtt_options.h"

typedef enum nv_bench_amqp_mode {
    NV_BENCH_AMQP_SEND,    /* telemetry of devices, or messages to a queue */
    NV_BENCH_AMQP_READ,    /* what is stored, from its beginning, again and again */
    NV_BENCH_AMQP_THROUGH, /* both at once: from a device to a reader */
    NV_BENCH_AMQP_IDLE     /* memory of devices that wait */
} nv_bench_amqp_mode;

#define NV_BENCH_AMQP_STAMP 16u /* through: a body begins with its due time, hexadecimal nanoseconds */

typedef struct nv_bench_amqp_options {
    nv_bench_mqtt_options base; /* first member; its `devices` are the links of devices, over `connections` */
    unsigned mode;              /* nv_bench_amqp_mode; base.mode is not used */
    const char *entity;         /* of the hub's events; NULL: the first label of its name */
    const char *group;
    uint64_t partitions;
    uint64_t credit;   /* of a reader, on each of its links */
    const char *queue; /* address at a plain broker; NULL: a hub */
    const char *user;  /* of the broker */
    const char *password;
} nv_bench_amqp_options;

void nv_bench_amqp_usage(FILE *to);
/** @return false after one sentence on stderr */
bool nv_bench_amqp_options_parse(nv_bench_amqp_options *out, int argc, char **argv);
/** Every parameter of the run, as figures. Keys are left out. */
void nv_bench_amqp_options_report(const nv_bench_amqp_options *o, nv_report *report);

#endif
