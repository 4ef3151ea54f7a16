/* Reading: what is stored, as fast as it comes. */
#include "nave/bench/amqp.h"

#define NS 1000000000

static void on_ready(nv_amqp_fleet *fleet, nv_amqp_peer *peer)
{
    nv_amqp_readers_attach(fleet->mode, peer);
}

static void run_until(nv_amqp_fleet *fleet, int64_t end_ns)
{
    while (nv_bench_now_ns() < end_ns && fleet->open) {
        nv_amqp_fleet_poll(fleet, fleet->o->base.spin ? 0 : end_ns - nv_bench_now_ns());
    }
}

static void report(const nv_amqp_readers *before, const nv_amqp_readers *after, const nv_usage *from,
                   const nv_usage *to)
{
    const nv_amqp_fleet *fleet = after->fleet;
    double wall = to->wall_s - from->wall_s;
    uint64_t messages = after->messages - before->messages;
    nv_report figures;
    nv_amqp_report_begin(&figures, fleet);
    nv_report_int(&figures, "messages", (int64_t)messages);
    nv_report_real(&figures, "messages_per_s", (double)messages / wall, 1);
    nv_report_real(&figures, "encoded_mbytes_per_s", (double)(after->bytes - before->bytes) / wall / 1e6, 1);
    nv_report_int(&figures, "partitions_read_again", (int64_t)(after->rounds - before->rounds));
    nv_bench_mqtt_report_usage(&figures, &fleet->o->base, from, to, messages);
    nv_bench_failures_report(&fleet->failures, &figures);
    nv_report_end(&figures);
}

int nv_bench_amqp_read(const nv_bench_amqp_options *o)
{
    nv_amqp_fleet fleet;
    nv_amqp_readers readers = {0};
    nv_amqp_readers before = {0};
    nv_usage from = {0};
    nv_usage to = {.wall_s = 1};
    int code = 2;
    uint32_t peers = (uint32_t)o->base.connections;
    if (nv_amqp_fleet_init(&fleet, o, 0, peers, on_ready, &readers)) {
        nv_amqp_readers_init(&readers, &fleet, peers, true);
        if (nv_amqp_fleet_open(&fleet, 0, peers)) {
            run_until(&fleet, nv_bench_now_ns() + (int64_t)(o->base.warmup_s * NS));
            nv_usage_read(&from, (pid_t)o->base.pid);
            before = readers;
            run_until(&fleet, nv_bench_now_ns() + (int64_t)(o->base.duration_s * NS));
            nv_usage_read(&to, (pid_t)o->base.pid);
            if (readers.messages == before.messages) {
                nv_amqp_fleet_fail(&fleet, &fleet.peers[0], NV_AMQP_FLEET_CONTENT, "there is nothing to read");
            }
        }
        report(&before, &readers, &from, &to);
        code = nv_bench_failures_sum(&fleet.failures) ? 1 : 0;
    }
    nv_amqp_fleet_deinit(&fleet);
    nv_amqp_readers_deinit(&readers);
    return code;
}
