/** `nave bench mqtt`: the modes. Each opens its own fleet, measures, prints, and returns the exit code. */
#ifndef NV_NAVE_BENCH_MQTT_H
#define NV_NAVE_BENCH_MQTT_H

#include "nave/bench/fleet.h"
#include "nave/bench/histogram.h"
#include "nave/bench/usage.h"

int nv_bench_mqtt_main(int argc, char **argv);

int nv_bench_publish(const nv_bench_mqtt_options *o);
int nv_bench_idle(const nv_bench_mqtt_options *o);
int nv_bench_storm(const nv_bench_mqtt_options *o);
int nv_bench_twin(const nv_bench_mqtt_options *o);
/** Methods, desired properties and cloud-to-device messages: REST on one side, devices on the other. */
int nv_bench_service(const nv_bench_mqtt_options *o);

/** Parameters of the run and the cipher: the head of every report. */
void nv_bench_mqtt_report_begin(nv_report *report, const nv_fleet *fleet);
/** What the machine did between two readings, and what @p operations cost the server. */
void nv_bench_mqtt_report_usage(nv_report *report, const nv_bench_mqtt_options *o, const nv_usage *from,
                                const nv_usage *to, uint64_t operations);
/** Percentiles of nanoseconds, as microseconds. */
void nv_bench_mqtt_report_latency(nv_report *report, const nv_histogram *latency_ns);

#endif
