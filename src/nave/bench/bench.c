#include "nave/bench/bench.h"

#include "nave/bench/amqp.h"
#include "nave/bench/mqtt.h"
#include "nave/bench/sink.h"
#include "nave/bench/store_bench.h"

#include <string.h>

typedef struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv);
    void (*usage)(FILE *to);
    const char *help;
} subcommand;

static const subcommand subcommands[] = {
    {"mqtt", nv_bench_mqtt_main, nv_bench_mqtt_usage, "publish, hold idle connections, or connect as fast as it goes"},
    {"amqp", nv_bench_amqp_main, nv_bench_amqp_usage, "send, read what is stored, both at once, or hold idle devices"},
    {"disk", nv_bench_disk_main, nv_bench_disk_usage, "the disk, written and synced as the log does it"},
    {"log", nv_bench_log_main, nv_bench_log_usage, "the telemetry log alone: append, read back"},
    {"sink", nv_bench_sink_main, nv_bench_sink_usage, "the smallest MQTT server, to compare with"},
};

static bool is_help(const char *text)
{
    return strcmp(text, "--help") == 0 || strcmp(text, "-h") == 0;
}

static void usage(FILE *to)
{
    fprintf(to, "usage: nave bench SUBCOMMAND [options]; each explains itself with --help\n");
    for (size_t i = 0; i < NV_COUNT_OF(subcommands); i++) {
        fprintf(to, "  %-6s %s\n", subcommands[i].name, subcommands[i].help);
    }
}

int nv_bench_main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < NV_COUNT_OF(subcommands); i++) {
        if (strcmp(argv[1], subcommands[i].name) != 0) {
            continue;
        }
        if (argc > 2 && is_help(argv[2])) {
            subcommands[i].usage(stdout);
            return 0;
        }
        return subcommands[i].run(argc, argv);
    }
    bool asked = argc > 1 && is_help(argv[1]);
    usage(asked ? stdout : stderr);
    return asked ? 0 : 2;
}
