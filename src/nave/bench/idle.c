/* Idle connections: what one costs the server in resident memory. */
#include "nave/bench/mqtt.h"

#define NS 1000000000

static int64_t resident(const nv_bench_mqtt_options *o)
{
    return o->pid ? nv_usage_resident_bytes((pid_t)o->pid) : 0;
}

static void hold(nv_fleet *fleet, double seconds)
{
    int64_t end = nv_bench_now_ns() + (int64_t)(seconds * NS);
    for (int64_t now = nv_bench_now_ns(); now < end; now = nv_bench_now_ns()) {
        nv_fleet_poll(fleet, end - now);
    }
}

int nv_bench_idle(const nv_bench_mqtt_options *o)
{
    static const nv_fleet_hooks hooks = {0};
    nv_fleet fleet;
    if (!nv_fleet_init(&fleet, o, &hooks, NULL)) {
        nv_fleet_deinit(&fleet);
        return 2;
    }
    int64_t before = resident(o);
    int64_t start_ns = nv_bench_now_ns();
    nv_usage from;
    nv_usage opened;
    nv_usage to;
    nv_usage_read(&from, (pid_t)o->pid);
    (void)nv_fleet_open_all(&fleet); /* what failed is in the figures */
    double open_s = (double)(nv_bench_now_ns() - start_ns) / NS;
    nv_usage_read(&opened, (pid_t)o->pid);
    hold(&fleet, o->duration_s);
    int64_t held = resident(o);
    nv_usage_read(&to, (pid_t)o->pid);
    uint32_t open = fleet.ready;

    nv_report figures;
    nv_bench_mqtt_report_begin(&figures, &fleet);
    nv_report_bool(&figures, "subscribed", fleet.filters != 0);
    nv_report_int(&figures, "open", open);
    nv_report_real(&figures, "opened_per_s", open / open_s, 1);
    if (o->pid) {
        nv_report_int(&figures, "rss_before_bytes", before);
        nv_report_int(&figures, "rss_held_bytes", held);
        nv_report_real(&figures, "rss_per_connection_bytes", (double)(held - before) / (open ? open : 1), 1);
        nv_report_real(&figures, "held_server_cpu_s", to.server_s - opened.server_s, 3);
    }
    nv_bench_mqtt_report_usage(&figures, o, &from, &opened, open);
    nv_bench_failures_report(&fleet.failures, &figures);
    nv_report_end(&figures);
    int code = nv_bench_failures_sum(&fleet.failures) ? 1 : 0;
    nv_fleet_deinit(&fleet);
    return code;
}
