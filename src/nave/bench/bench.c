#include "nave/bench/bench.h"

#include "nave/bench/mqtt.h"
#include "nave/bench/sink.h"

#include <string.h>

typedef struct subcommand {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} subcommand;

static const subcommand subcommands[] = {
    {"mqtt", nv_bench_mqtt_main, "publish, hold idle connections, or connect as fast as it goes"},
    {"sink", nv_bench_sink_main, "the smallest MQTT server, to compare with"},
};

int nv_bench_main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < NV_COUNT_OF(subcommands); i++) {
        if (strcmp(argv[1], subcommands[i].name) == 0) {
            return subcommands[i].run(argc, argv);
        }
    }
    fprintf(stderr, "usage: nave bench SUBCOMMAND [options]; each explains itself with --help\n");
    for (size_t i = 0; i < NV_COUNT_OF(subcommands); i++) {
        fprintf(stderr, "  %-6s %s\n", subcommands[i].name, subcommands[i].help);
    }
    return 2;
}
