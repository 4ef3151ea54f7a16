#include "nave/bench/amqp_options.h"

#include <string.h>

#define AT(member)   offsetof(nv_bench_amqp_options, member)
#define BASE(member) offsetof(nv_bench_amqp_options, base.member)

_Static_assert(BASE(host) == offsetof(nv_bench_mqtt_options, host), "as the common rows have it");

static const nv_bench_opt rows[] = {
    {"--port", NV_BENCH_OPT_UINT, BASE(port), 1, 65535, NULL, "default 5671 with TLS, else 5672"},
    {"--mode", NV_BENCH_OPT_CHOICE, AT(mode), 0, 0, "send|read|through|idle",
     "send: telemetry; read: what is stored; through: from device to reader; idle: memory"},
    {"--connections", NV_BENCH_OPT_UINT, BASE(connections), 1, 19000, NULL,
     "of devices, at the same time; default 50, but one for read"},
    {"--devices", NV_BENCH_OPT_UINT, BASE(devices), 1, 100000, NULL,
     "spread over the connections, a link each; default: connections. More than that share them, a token each"},
    {"--window", NV_BENCH_OPT_UINT, BASE(window), 1, 65000, NULL, "messages of a link without an outcome; default 16"},
    {"--setup", NV_BENCH_OPT_NUMBER, BASE(setup_s), 1, 3600, NULL, "seconds to open everything in; default 60"},
    {"--rate", NV_BENCH_OPT_UINT, BASE(rate), 1, 100000000, NULL, "open loop: messages a second over all links"},
    {"--spin", NV_BENCH_OPT_FLAG, BASE(spin), 0, 0, NULL, "look for answers without sleeping; takes a core"},
    {"--policy", NV_BENCH_OPT_TEXT, BASE(policy), 0, 0, NULL,
     "policy whose key signs, also for devices; without it a device key"},
    {"--entity", NV_BENCH_OPT_TEXT, AT(entity), 0, 0, NULL, "of the events; default: first label of the hub's name"},
    {"--consumer-group", NV_BENCH_OPT_TEXT, AT(group), 0, 0, NULL, "read, through: default $Default"},
    {"--partitions", NV_BENCH_OPT_UINT, AT(partitions), 1, 1024, NULL, "read, through: all below it; default 4"},
    {"--credit", NV_BENCH_OPT_UINT, AT(credit), 1, 1000000, NULL, "read, through: of each link; default 1000"},
    {"--queue", NV_BENCH_OPT_TEXT, AT(queue), 0, 0, NULL,
     "a plain broker instead of a hub: address of a queue; messages are durable"},
    {"--user", NV_BENCH_OPT_TEXT, AT(user), 0, 0, NULL, "of the broker; default guest"},
    {"--password", NV_BENCH_OPT_TEXT, AT(password), 0, 0, NULL, "of the broker; default guest"},
    {"--subscribe", NV_BENCH_OPT_CHOICE, BASE(subscribe), 0, 0, "auto|yes|no",
     "idle: auto has links for telemetry and messages; yes also for twin and methods; no only for telemetry"},
};
static const nv_bench_opts opts = {rows, NV_COUNT_OF(rows), &nv_bench_common_opts};

void nv_bench_amqp_usage(FILE *to)
{
    fprintf(to, "usage: nave bench amqp (--hub NAME --key BASE64 [--policy NAME] | --queue ADDRESS) [options]\n");
    nv_bench_opts_print(&opts, to);
    fprintf(to, "examples:\n"
                "  nave bench amqp --hub localhost --policy iothubowner --key ... --tls --ca ca.pem --mode through "
                "--rate 20000\n"
                "  nave bench amqp --hub localhost --policy device --key ... --tls --mode idle --connections 1 "
                "--devices 5000\n"
                "  nave bench amqp --queue /amq/queue/bench --port 5672 --connections 50 --window 16 -o json\n");
}

static bool check(const nv_bench_amqp_options *o)
{
    const char *wrong = NULL;
    bool reads = o->mode == NV_BENCH_AMQP_READ || o->mode == NV_BENCH_AMQP_THROUGH;
    if (!o->base.hub == !o->queue) {
        wrong = "either --hub or --queue is needed";
    } else if (o->base.devices < o->base.connections) {
        wrong = "--devices must not be fewer than --connections";
    } else if (o->queue && o->mode == NV_BENCH_AMQP_IDLE) {
        wrong = "--mode idle needs a hub";
    } else if (o->base.rate && o->mode != NV_BENCH_AMQP_SEND && o->mode != NV_BENCH_AMQP_THROUGH) {
        wrong = "--rate belongs to --mode send and --mode through";
    } else if (o->mode == NV_BENCH_AMQP_THROUGH && (!o->base.rate || o->base.size < NV_BENCH_AMQP_STAMP)) {
        wrong = "--mode through needs a --rate, and a --size with room for the time in it";
    } else if (reads && o->base.hub && !o->base.policy && !strchr(o->base.hub, '=')) {
        wrong = "reading needs a --policy with ServiceConnect";
    }
    return nv_bench_common_check(&o->base, o->mode == NV_BENCH_AMQP_IDLE, wrong);
}

bool nv_bench_amqp_options_parse(nv_bench_amqp_options *out, int argc, char **argv)
{
    *out = (nv_bench_amqp_options){.base = nv_bench_common_defaults(),
                                   .group = "$Default",
                                   .partitions = 4,
                                   .credit = 1000,
                                   .user = "guest",
                                   .password = "guest"};
    bool parsed = nv_bench_opts_parse(&opts, out, argc, argv, 2);
    nv_bench_mqtt_options *base = &out->base;
    base->connections = base->connections ? base->connections : out->mode == NV_BENCH_AMQP_READ ? 1 : 50;
    base->devices = base->devices ? base->devices : base->connections;
    if (!parsed || !check(out)) {
        fprintf(stderr, "see: nave bench amqp --help\n");
        return false;
    }
    base->port = base->port ? base->port : (base->tls ? 5671 : 5672);
    return true;
}

void nv_bench_amqp_options_report(const nv_bench_amqp_options *o, nv_report *report)
{
    static const char *const modes[] = {"send", "read", "through", "idle"};
    const nv_bench_mqtt_options *base = &o->base;
    nv_bench_report_peer(base, modes[o->mode], report);
    nv_report_text(report, "queue", o->queue ? o->queue : "");
    nv_report_int(report, "connections", (int64_t)base->connections);
    nv_report_int(report, "devices", (int64_t)base->devices);
    nv_report_int(report, "partitions", o->queue ? 1 : (int64_t)o->partitions);
    nv_report_int(report, "credit", (int64_t)o->credit);
    nv_report_int(report, "window", (int64_t)base->window);
    nv_report_int(report, "size_bytes", (int64_t)base->size);
    nv_bench_report_pace(base, report);
}
