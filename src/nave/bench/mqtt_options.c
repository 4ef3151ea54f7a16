#include "nave/bench/mqtt_options.h"

#define AT(member) offsetof(nv_bench_mqtt_options, member)

/* ---- what the protocols share ---------------------------------------------------------------------------- */

static const nv_bench_opt common_rows[] = {
    {"--host", NV_BENCH_OPT_TEXT, AT(host), 0, 0, NULL, "where to connect; default 127.0.0.1"},
    {"--tls", NV_BENCH_OPT_FLAG, AT(tls), 0, 0, NULL, "use TLS"},
    {"--ca", NV_BENCH_OPT_TEXT, AT(ca), 0, 0, NULL, "trusted roots (PEM); without it the server is not verified"},
    {"--tls-version", NV_BENCH_OPT_CHOICE, AT(tls_version), 0, 0, "1.3|1.2", "the only version offered"},
    {"--size", NV_BENCH_OPT_UINT, AT(size), 0, 262144, NULL, "body of a message in bytes; default 256"},
    {"--duration", NV_BENCH_OPT_NUMBER, AT(duration_s), 0, 86400, NULL, "measured seconds (idle: held); default 3"},
    {"--warmup", NV_BENCH_OPT_NUMBER, AT(warmup_s), 0, 3600, NULL, "seconds before that; default 1"},
    {"--hub", NV_BENCH_OPT_TEXT, AT(hub), 0, 0, NULL,
     "hub host name, or a connection string with a policy and its key"},
    {"--key", NV_BENCH_OPT_TEXT, AT(key), 0, 0, NULL, "the key, base64"},
    {"--device-prefix", NV_BENCH_OPT_TEXT, AT(prefix), 0, 0, NULL,
     "devices are PREFIX-0, PREFIX-1, ...; default bench"},
    {"--pid", NV_BENCH_OPT_UINT, AT(pid), 1, 1 << 22, NULL, "server process: its processor time and memory"},
    {"-o", NV_BENCH_OPT_CHOICE, AT(json), 0, 0, "table|json", "output"},
};
const nv_bench_opts nv_bench_common_opts = {common_rows, NV_COUNT_OF(common_rows), NULL};

nv_bench_mqtt_options nv_bench_common_defaults(void)
{
    return (nv_bench_mqtt_options){.host = "127.0.0.1",
                                   .window = 16,
                                   .size = 256,
                                   .qos = 1,
                                   .duration_s = 3,
                                   .warmup_s = 1,
                                   .setup_s = 60,
                                   .prefix = "bench"};
}

bool nv_bench_common_check(const nv_bench_mqtt_options *o, bool idle, const char *wrong)
{
    if (!wrong && o->duration_s <= 0 && !idle) {
        wrong = "--duration must be more than 0";
    }
    if (wrong) {
        fprintf(stderr, "nave bench: %s\n", wrong);
    }
    return !wrong;
}

void nv_bench_report_peer(const nv_bench_mqtt_options *o, const char *mode, nv_report *report)
{
    nv_report_text(report, "mode", mode);
    nv_report_text(report, "host", o->host);
    nv_report_int(report, "port", (int64_t)o->port);
    nv_report_text(report, "tls", !o->tls ? "no" : o->tls_version ? "1.2" : "1.3");
    nv_report_bool(report, "server_verified", o->tls && o->ca);
}

void nv_bench_report_pace(const nv_bench_mqtt_options *o, nv_report *report)
{
    nv_report_real(report, "warmup_s", o->warmup_s, 3);
    nv_report_real(report, "duration_s", o->duration_s, 3);
    nv_report_int(report, "rate_offered_per_s", (int64_t)o->rate);
    nv_report_bool(report, "spin", o->spin);
}

/* ---- MQTT's own ------------------------------------------------------------------------------------------ */

static const nv_bench_opt rows[] = {
    {"--port", NV_BENCH_OPT_UINT, AT(port), 1, 65535, NULL, "default 8883 with TLS, else 1883"},
    {"--resume", NV_BENCH_OPT_FLAG, AT(resume), 0, 0, NULL, "storm: resume TLS sessions"},
    {"--mode", NV_BENCH_OPT_CHOICE, AT(mode), 0, 0, "publish|idle|storm|twin|method|desired|c2d",
     "what to measure; the last four need a hub"},
    {"--https-port", NV_BENCH_OPT_UINT, AT(https_port), 1, 65535, NULL, "method, desired, c2d: REST; default 443"},
    {"--requests", NV_BENCH_OPT_UINT, AT(requests), 1, 1000, NULL,
     "method, desired, c2d: HTTPS connections of the service side, one request each at a time; default 50"},
    {"--connections", NV_BENCH_OPT_UINT, AT(connections), 1, 19000, NULL, "at the same time; default 50"},
    {"--devices", NV_BENCH_OPT_UINT, AT(devices), 1, 1000000, NULL,
     "storm: identities in turn, at least as many as connections; default: as many"},
    {"--window", NV_BENCH_OPT_UINT, AT(window), 1, 65000, NULL, "unacknowledged messages per connection; default 16"},
    {"--qos", NV_BENCH_OPT_UINT, AT(qos), 0, 1, NULL, "0 counts by a PINGREQ after each window; default 1"},
    {"--setup", NV_BENCH_OPT_NUMBER, AT(setup_s), 1, 3600, NULL, "seconds to open all connections in; default 60"},
    {"--rate", NV_BENCH_OPT_UINT, AT(rate), 1, 100000000, NULL, "open loop: messages a second over all connections"},
    {"--spin", NV_BENCH_OPT_FLAG, AT(spin), 0, 0, NULL, "publish: look for answers without sleeping; takes a core"},
    {"--policy", NV_BENCH_OPT_TEXT, AT(policy), 0, 0, NULL, "policy whose key signs; without it a device key"},
    {"--anonymous", NV_BENCH_OPT_FLAG, AT(anonymous), 0, 0, NULL,
     "a plain broker: client id only, topics bench/<i>/..."},
    {"--subscribe", NV_BENCH_OPT_CHOICE, AT(subscribe), 0, 0, "auto|yes|no", "idle: auto subscribes at a hub only"},
};
static const nv_bench_opts opts = {rows, NV_COUNT_OF(rows), &nv_bench_common_opts};

void nv_bench_mqtt_usage(FILE *to)
{
    fprintf(to, "usage: nave bench mqtt (--anonymous | --hub NAME --key BASE64 [--policy NAME]) [options]\n");
    nv_bench_opts_print(&opts, to);
    fprintf(to,
            "examples:\n"
            "  nave bench mqtt --anonymous --port 1883 --connections 50 --window 16 --pid $(pidof mosquitto)\n"
            "  nave bench mqtt --hub localhost --policy device --key ... --tls --ca ca.pem --mode storm -o json\n"
            "  nave bench mqtt --hub 'HostName=localhost;SharedAccessKeyName=iothubowner;SharedAccessKey=...' --tls "
            "--ca ca.pem --mode method --rate 1000\n");
}

static bool check(const nv_bench_mqtt_options *o)
{
    const char *wrong = NULL;
    if (!o->anonymous && !o->hub) {
        wrong = "either --hub or --anonymous is needed";
    } else if (o->anonymous && o->hub) {
        wrong = "--hub and --anonymous exclude each other";
    } else if (o->resume && (!o->tls || o->mode != NV_BENCH_STORM)) {
        wrong = "--resume belongs to --mode storm with --tls";
    } else if (o->mode == NV_BENCH_STORM && o->devices && o->devices < o->connections) {
        wrong = "--devices of a storm must be at least --connections: two clients cannot be one device";
    } else if (o->rate && !(o->mode == NV_BENCH_PUBLISH && o->qos == 1) && o->mode != NV_BENCH_METHOD) {
        wrong = "--rate belongs to --mode publish with --qos 1, and to --mode method";
    } else if (o->spin && o->mode != NV_BENCH_PUBLISH && o->mode != NV_BENCH_METHOD) {
        wrong = "--spin belongs to --mode publish and --mode method";
    } else if (o->mode >= NV_BENCH_TWIN && o->anonymous) {
        wrong = "twins, methods and messages to devices need a hub";
    } else if (o->mode >= NV_BENCH_METHOD && !o->tls) {
        wrong = "REST needs --tls";
    }
    return nv_bench_common_check(o, o->mode == NV_BENCH_IDLE, wrong);
}

bool nv_bench_mqtt_options_parse(nv_bench_mqtt_options *out, int argc, char **argv)
{
    *out = nv_bench_common_defaults();
    out->https_port = 443;
    out->requests = 50;
    out->connections = 50;
    if (!nv_bench_opts_parse(&opts, out, argc, argv, 2) || !check(out)) {
        fprintf(stderr, "see: nave bench mqtt --help\n");
        return false;
    }
    out->port = out->port ? out->port : (out->tls ? 8883 : 1883);
    out->devices = out->mode == NV_BENCH_STORM && out->devices ? out->devices : out->connections;
    return true;
}

void nv_bench_mqtt_options_report(const nv_bench_mqtt_options *o, nv_report *report)
{
    static const char *const modes[] = {"publish", "idle", "storm", "twin", "method", "desired", "c2d"};
    nv_bench_report_peer(o, modes[o->mode], report);
    nv_report_bool(report, "resume", o->resume);
    nv_report_bool(report, "anonymous", o->anonymous);
    nv_report_int(report, "connections", (int64_t)o->connections);
    nv_report_int(report, "requests", o->mode >= NV_BENCH_METHOD ? (int64_t)o->requests : 0);
    nv_report_int(report, "devices", (int64_t)o->devices);
    nv_report_int(report, "window", (int64_t)o->window);
    nv_report_int(report, "size_bytes", (int64_t)o->size);
    nv_report_int(report, "qos", (int64_t)o->qos);
    nv_bench_report_pace(o, report);
}
