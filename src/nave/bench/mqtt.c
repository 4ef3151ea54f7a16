#include "nave/bench/mqtt.h"

#include <math.h>
#include <signal.h>

int nv_bench_mqtt_main(int argc, char **argv)
{
    nv_bench_mqtt_options o;
    if (!nv_bench_mqtt_options_parse(&o, argc, argv)) {
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    switch ((nv_bench_mode)o.mode) {
    case NV_BENCH_PUBLISH:
        return nv_bench_publish(&o);
    case NV_BENCH_IDLE:
        return nv_bench_idle(&o);
    case NV_BENCH_STORM:
        return nv_bench_storm(&o);
    case NV_BENCH_TWIN:
        return nv_bench_twin(&o);
    case NV_BENCH_METHOD:
    case NV_BENCH_DESIRED:
    case NV_BENCH_C2D:
        return nv_bench_service(&o);
    }
    return 2;
}

void nv_bench_mqtt_report_begin(nv_report *report, const nv_fleet *fleet)
{
    nv_report_begin(report, stdout, fleet->o->json == 1);
    nv_bench_mqtt_options_report(fleet->o, report);
    nv_report_text(report, "cipher", fleet->cipher);
}

void nv_bench_mqtt_report_usage(nv_report *report, const nv_bench_mqtt_options *o, const nv_usage *from,
                                const nv_usage *to, uint64_t operations)
{
    double wall = to->wall_s - from->wall_s;
    double server = to->server_s - from->server_s;
    double own = to->own_s - from->own_s;
    nv_report_real(report, "generator_busy_percent", 100 * own / wall, 1);
    nv_report_real(report, "stolen_percent", 100 * (to->stolen_s - from->stolen_s) / wall, 1);
    if (!o->pid) {
        return;
    }
    /* The kernel counts the machine in ticks and processes exactly, so little foreign work may come out negative. */
    double foreign = (to->machine_s - from->machine_s - server - own) / wall;
    nv_report_real(report, "foreign_percent", 100 * (foreign > 0 ? foreign : 0), 1);
    nv_report_real(report, "server_busy_percent", 100 * server / wall, 1);
    nv_report_real(report, "server_cpu_s", server, 3);
    nv_report_real(report, "server_cpu_s_per_million", server / ((double)operations / 1e6), 3);
    nv_report_real(report, "per_server_core_second", server > 0 ? (double)operations / server : NAN, 1);
}

void nv_bench_mqtt_report_latency(nv_report *report, const nv_histogram *latency_ns)
{
    static const struct {
        const char *name;
        double fraction;
    } rows[] = {
        {"latency_p50_us", 0.50}, {"latency_p90_us", 0.90}, {"latency_p99_us", 0.99}, {"latency_p999_us", 0.999}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        double us = (double)nv_histogram_at(latency_ns, rows[i].fraction) / 1000;
        nv_report_real(report, rows[i].name, latency_ns->total ? us : NAN, 1);
    }
    nv_report_real(report, "latency_max_us", latency_ns->total ? (double)latency_ns->max / 1000 : NAN, 1);
}
