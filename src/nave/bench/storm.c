/* A storm of connections: each client connects, waits for CONNACK, leaves, and comes back as the next device that no
 * other client is at the moment: of two connections that are one device a hub refuses the older one (CONNACK 3). */
#include "nave/bench/mqtt.h"

#include "base/alloc.h"

#include <stdlib.h>

#define NS             1000000000
#define FAILURES_LIMIT 1000u /* a server that refuses everything ends the run */

typedef struct storm {
    uint32_t next_device;
    bool *taken; /* by device: a client is it */
    bool stopping;
    bool measuring;
    uint64_t connects;
    uint64_t resumed;
    nv_histogram latency_ns; /* from connect() to CONNACK */
} storm;

/* There are at least as many devices as clients, so one of them is free. */
static uint32_t take_device(storm *s, uint32_t devices)
{
    uint32_t device = s->next_device;
    while (s->taken[device]) {
        device = (device + 1) % devices;
    }
    s->taken[device] = true;
    s->next_device = (device + 1) % devices;
    return device;
}

static void begin(nv_fleet *fleet, nv_client *client)
{
    storm *s = fleet->mode;
    if (!s->stopping && nv_bench_failures_sum(&fleet->failures) < FAILURES_LIMIT) {
        nv_fleet_start(fleet, client, take_device(s, (uint32_t)fleet->o->devices));
    }
}

static void next(nv_fleet *fleet, nv_client *client)
{
    storm *s = fleet->mode;
    s->taken[client->device] = false;
    begin(fleet, client);
}

static void on_ready(nv_fleet *fleet, nv_client *client)
{
    storm *s = fleet->mode;
    if (s->measuring) {
        s->connects++;
        s->resumed += client->resumed;
        nv_histogram_add(&s->latency_ns, (uint64_t)(fleet->now_ns - client->started_ns), 1);
    }
    nv_fleet_stop(fleet, client);
    next(fleet, client);
}

static void run(nv_fleet *fleet, double seconds)
{
    int64_t end = nv_bench_now_ns() + (int64_t)(seconds * NS);
    for (int64_t now = nv_bench_now_ns(); now < end && fleet->opening; now = nv_bench_now_ns()) {
        nv_fleet_poll(fleet, end - now);
    }
}

static void report(storm *s, const nv_fleet *fleet, const nv_usage *from, const nv_usage *to)
{
    nv_report figures;
    nv_bench_mqtt_report_begin(&figures, fleet);
    nv_report_int(&figures, "connects", (int64_t)s->connects);
    nv_report_int(&figures, "resumed", (int64_t)s->resumed);
    nv_report_real(&figures, "connects_per_s", (double)s->connects / (to->wall_s - from->wall_s), 1);
    nv_bench_mqtt_report_latency(&figures, &s->latency_ns);
    nv_bench_mqtt_report_usage(&figures, fleet->o, from, to, s->connects);
    nv_bench_failures_report(&fleet->failures, &figures);
    nv_report_end(&figures);
}

int nv_bench_storm(const nv_bench_mqtt_options *o)
{
    static const nv_fleet_hooks hooks = {.ready = on_ready, .failed = next};
    storm *s = nv_calloc(1, sizeof(*s));
    s->taken = nv_calloc(o->devices, sizeof(*s->taken));
    nv_fleet fleet;
    nv_usage from;
    nv_usage to;
    int code = 2;
    if (nv_fleet_init(&fleet, o, &hooks, s)) {
        for (uint32_t i = 0; i < o->connections; i++) {
            begin(&fleet, &fleet.clients[i]);
        }
        run(&fleet, o->warmup_s);
        nv_usage_read(&from, (pid_t)o->pid);
        s->measuring = true;
        run(&fleet, o->duration_s);
        s->measuring = false;
        nv_usage_read(&to, (pid_t)o->pid);
        s->stopping = true;
        run(&fleet, o->setup_s); /* those under way may finish */
        report(s, &fleet, &from, &to);
        code = nv_bench_failures_sum(&fleet.failures) || s->connects == 0 ? 1 : 0;
    }
    nv_fleet_deinit(&fleet);
    free(s->taken);
    free(s);
    return code;
}
