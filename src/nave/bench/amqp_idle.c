/* Devices that wait, a connection each or many on one: what one costs the server in resident memory. */
#include "base/alloc.h"
#include "nave/bench/amqp.h"

#define NS 1000000000

/* Path behind the device's own, and whether the device sends there. */
static const struct kind {
    const char *path;
    bool sender;
} kinds[] = {{"messages/events", true}, {"messages/devicebound", false}, {"twin", true},
             {"twin", false},           {"methods/devicebound", true},   {"methods/devicebound", false}};

static uint32_t kinds_wanted(const nv_bench_amqp_options *o)
{
    switch ((nv_bench_sub)o->base.subscribe) {
    case NV_BENCH_SUBSCRIBE_AUTO:
        return 2;
    case NV_BENCH_SUBSCRIBE_YES:
        return NV_COUNT_OF(kinds);
    case NV_BENCH_SUBSCRIBE_NO:
        return 1;
    }
    return 2;
}

static void on_attached(nv_amqp_link *link, const nv_amqp_attach *attach)
{
    (void)attach;
    nv_amqp_peer *peer = link->owner;
    peer->fleet->links_ready++;
}

static bool on_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    nv_amqp_link_accept_delivery(link, delivery->id);
    return true;
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    nv_amqp_peer *peer = link->owner;
    nv_amqp_peer_lost_link(peer, problem);
}

static void on_ready(nv_amqp_fleet *fleet, nv_amqp_peer *peer)
{
    static const nv_amqp_link_ops ops = {.attached = on_attached, .delivery = on_delivery, .detached = on_detached};
    uint32_t devices = nv_amqp_peer_devices(peer);
    uint32_t wanted = kinds_wanted(fleet->o);
    for (uint32_t i = 0; i < devices * wanted; i++) {
        const struct kind *kind = &kinds[i % wanted];
        const char *id = fleet->credentials.ids[nv_amqp_peer_device(peer, i / wanted)];
        char address[256];
        char name[256];
        (void)snprintf(address, sizeof(address), "/devices/%.160s/%s", id, kind->path);
        (void)snprintf(name, sizeof(name), "%.160s-%u", id, i % wanted);
        nv_amqp_attach_options options = {
            .name = name, .sender = kind->sender, .address = address, .ops = &ops, .owner = peer, .credit = 100};
        (void)nv_amqp_peer_attach(peer, &options);
    }
}

static int64_t resident(const nv_bench_amqp_options *o)
{
    return o->base.pid ? nv_usage_resident_bytes((pid_t)o->base.pid) : 0;
}

static void report(nv_amqp_fleet *fleet, int64_t before, int64_t held, double open_s, const nv_usage *from,
                   const nv_usage *opened, const nv_usage *to)
{
    const nv_bench_mqtt_options *base = &fleet->o->base;
    double devices = (double)fleet->links_ready / kinds_wanted(fleet->o);
    nv_report figures;
    nv_amqp_report_begin(&figures, fleet);
    nv_report_int(&figures, "open", fleet->open);
    nv_report_int(&figures, "links", fleet->links_ready);
    nv_report_real(&figures, "opened_per_s", devices / open_s, 1);
    if (base->pid) {
        nv_report_int(&figures, "rss_before_bytes", before);
        nv_report_int(&figures, "rss_held_bytes", held);
        nv_report_real(&figures, "rss_per_connection_bytes", (double)(held - before) / (fleet->open ? fleet->open : 1),
                       1);
        nv_report_real(&figures, "rss_per_device_bytes", (double)(held - before) / (devices > 0 ? devices : 1), 1);
        nv_report_real(&figures, "held_server_cpu_s", to->server_s - opened->server_s, 3);
    }
    nv_bench_mqtt_report_usage(&figures, base, from, opened, (uint64_t)devices);
    nv_bench_failures_report(&fleet->failures, &figures);
    nv_report_end(&figures);
}

int nv_bench_amqp_idle(const nv_bench_amqp_options *o)
{
    nv_amqp_fleet fleet;
    nv_usage from;
    nv_usage opened;
    nv_usage to;
    uint32_t peers = (uint32_t)o->base.connections;
    if (!nv_amqp_fleet_init(&fleet, o, peers, 0, on_ready, NULL)) {
        nv_amqp_fleet_deinit(&fleet);
        return 2;
    }
    fleet.links_wanted = (uint32_t)o->base.devices * kinds_wanted(o);
    int64_t before = resident(o);
    int64_t start_ns = nv_bench_now_ns();
    nv_usage_read(&from, (pid_t)o->base.pid);
    (void)nv_amqp_fleet_open(&fleet, 0, peers); /* what failed is in the figures */
    double open_s = (double)(nv_bench_now_ns() - start_ns) / NS;
    nv_usage_read(&opened, (pid_t)o->base.pid);
    int64_t end = nv_bench_now_ns() + (int64_t)(o->base.duration_s * NS);
    while (nv_bench_now_ns() < end) {
        nv_amqp_fleet_poll(&fleet, end - nv_bench_now_ns());
    }
    int64_t held = resident(o);
    nv_usage_read(&to, (pid_t)o->base.pid);
    report(&fleet, before, held, open_s, &from, &opened, &to);
    int code = nv_bench_failures_sum(&fleet.failures) ? 1 : 0;
    nv_amqp_fleet_deinit(&fleet);
    return code;
}
