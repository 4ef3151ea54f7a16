/** `nave bench sink`: the smallest MQTT server, as the reference of a comparison. */
#ifndef NV_NAVE_BENCH_SINK_H
#define NV_NAVE_BENCH_SINK_H

#include <stdio.h>

void nv_bench_sink_usage(FILE *to);
/** Listen on loopback, print "listening PORT", serve until SIGTERM or SIGINT. @return the exit code */
int nv_bench_sink_main(int argc, char **argv);

#endif
