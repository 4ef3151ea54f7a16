/** The table of commands: what is parsed, helped and completed. */
#include "nave/commands.h"

#include "nave/bench/bench.h"
#include "nave/config.h"

#include <string.h>

static const nv_flag up_flags[] = {
    {"data", 0, "DIR", "data folder (default: NAVE_DATA, else /var/lib/nave for root, ~/.local/share/nave for others)"},
    {"config", 0, "FILE", "YAML file (default: NAVE_CONFIG, else nave.yaml in the data folder, if there)"},
    {"hostname", 0, "NAME", "one more name of the hub, for its certificate too; the first one becomes its own name"},
    {"bind", 0, "ADDR", "listen on this address instead of all (net.bind)"},
    {"set", 0, "OPTION=VALUE", "override one option, such as mqtt.plain_port=1883"},
    {"dev", 0, NULL, "throw-away hub: data in a temporary folder, loopback only unless --bind"},
    {"dev-known-keys", 0, NULL,
     "with --dev: the same well-known policy keys for everybody. Never where others can connect"},
    {"check", 0, NULL, "only say whether the configuration is right"},
    {"print-options", 0, NULL, "only print the reference of all options, in Markdown"},
    {NULL, 0, NULL, NULL},
};

#define IDENTITY_FLAGS                                                                                                 \
    {"auth", 0, "sas|x509|ca", "how it proves who it is (add: default sas, or x509 with --thumbprint)"},               \
        {"key", 0, "BASE64", "primary key instead of a random one; twice: also the secondary"},                        \
    {                                                                                                                  \
        "thumbprint", 0, "HEX", "SHA-1 or SHA-256 of its certificate; twice: also the secondary"                       \
    }

static const nv_flag device_add_flags[] = {
    IDENTITY_FLAGS,
    {"edge", 0, NULL, "an IoT Edge device"},
    {"status", 0, "enabled|disabled", "whether it may connect (default: enabled)"},
    {NULL, 0, NULL, NULL},
};
static const nv_flag device_set_flags[] = {
    IDENTITY_FLAGS,
    {"edge", 0, "true|false", "an IoT Edge device, or not"},
    {"status", 0, "enabled|disabled", "whether it may connect"},
    {"reason", 0, "TEXT", "why, for people"},
    {NULL, 0, NULL, NULL},
};
static const nv_flag module_add_flags[] = {IDENTITY_FLAGS, {NULL, 0, NULL, NULL}};

static const nv_flag monitor_flags[] = {
    {"device", 0, "ID", "only this device and its modules"},
    {"partition", 0, "N", "only this partition"},
    {"from", 0, "START", "beginning, now (default), a time such as 2024-05-01T10:00:00Z, or a sequence number"},
    {"count", 0, "N", "end after N messages"},
    {NULL, 0, NULL, NULL},
};
static const nv_flag sas_flags[] = {
    {"device", 0, "ID", "token of this device, by its own primary key"},
    {"module", 0, "ID", "... or of this module of it"},
    {"policy", 0, "NAME", "token of a policy of the hub, such as service or iothubowner"},
    {"key", 0, "BASE64", "sign with this key and ask nobody"},
    {"host", 0, "NAME", "host name in the token (default: that of the hub)"},
    {"ttl", 0, "SECONDS", "life of the token (default: 3600)"},
    {NULL, 0, NULL, NULL},
};

const nv_command nv_commands[] = {
    {"up", NULL, "", 0, 0, "Run the hub",
     "The first start makes keys and certificates and prints what to paste where. SIGTERM or Ctrl-C stops in order, a\n"
     "second one at once; SIGHUP reads configuration and certificate again.",
     "  nave up\n  nave up --hostname hub.example --set log.retention_hours=24\n  nave up --dev\n", up_flags, false,
     false, nv_cmd_up},
    {"device", "add", "ID", 1, 1, "Register a device and print its connection string", "",
     "  nave device add pump1\n  nave device add pump1 -o json\n  nave device add pump2 --thumbprint 4F2A...\n",
     device_add_flags, true, false, nv_cmd_device_add},
    {"device", "list", "", 0, 0, "List devices (at most 1,000)", "", "  nave device list\n", NULL, true, false,
     nv_cmd_device_list},
    {"device", "show", "ID", 1, 1, "Show one device with its keys", "", "  nave device show pump1 -o json\n", NULL,
     true, false, nv_cmd_device_show},
    {"device", "set", "ID", 1, 1, "Change a device", "What is not named stays as it is.",
     "  nave device set pump1 --status disabled --reason \"sold\"\n  nave device set pump1 --thumbprint 4F2A...\n",
     device_set_flags, true, false, nv_cmd_device_set},
    {"device", "rm", "ID", 1, 1, "Remove a device and its modules", "", "  nave device rm pump1\n", NULL, true, false,
     nv_cmd_device_rm},
    {"module", "add", "DEVICE MODULE", 2, 2, "Register a module of a device", "", "  nave module add pump1 vibration\n",
     module_add_flags, true, false, nv_cmd_module_add},
    {"module", "list", "DEVICE", 1, 1, "List the modules of a device", "", "  nave module list pump1\n", NULL, true,
     false, nv_cmd_module_list},
    {"module", "show", "DEVICE MODULE", 2, 2, "Show one module with its keys", "",
     "  nave module show pump1 vibration -o json\n", NULL, true, false, nv_cmd_module_show},
    {"module", "rm", "DEVICE MODULE", 2, 2, "Remove a module", "", "  nave module rm pump1 vibration\n", NULL, true,
     false, nv_cmd_module_rm},
    {"monitor", NULL, "", 0, 0, "Follow telemetry as it arrives",
     "Connects again when the hub restarts, and goes on behind the last message it showed.",
     "  nave monitor\n  nave monitor --device pump1 --from beginning\n  nave monitor --count 10 -o json\n",
     monitor_flags, true, false, nv_cmd_monitor},
    {"sas", NULL, "", 0, 0, "Make a shared access signature (a token)",
     "For a device the hub is asked for its key, unless --key gives it. Policies are read from the data folder, also\n"
     "while the hub is stopped.",
     "  nave sas --device pump1 --ttl 86400\n  nave sas --policy service\n", sas_flags, true, false, nv_cmd_sas},
    {"hub", "show", "", 0, 0, "Show connection strings, trusted root and endpoints", "", "  nave hub show -o json\n",
     NULL, true, false, nv_cmd_hub_show},
    {"doctor", NULL, "DEVICE", 1, 1, "Say why a device cannot connect",
     "Checks what the hub knows of it, and shows its last refusals with cause and cure. Exit code 1 when something is\n"
     "wrong.",
     "  nave doctor pump1\n", NULL, true, false, nv_cmd_doctor},
    {"bench", NULL, "WHAT...", 0, NV_ARGS_MAX, "Measure: mqtt, disk or log", "`nave bench` alone says more.",
     "  nave bench disk\n  nave bench mqtt --help\n", NULL, false, true, nv_cmd_bench},
    {"version", NULL, "", 0, 0, "Print the version", "", "  nave version\n", NULL, false, false, nv_cmd_version},
    {"help", NULL, "[COMMAND]", 0, 2, "Explain a command", "", "  nave help device add\n", NULL, false, false,
     nv_cmd_help},
    {"completion", NULL, "bash", 1, 1, "Print the shell's completion script", "", "  source <(nave completion bash)\n",
     NULL, false, false, nv_cmd_completion},
    {NULL, NULL, NULL, 0, 0, NULL, NULL, NULL, NULL, false, false, NULL},
};

int nv_cmd_bench(const nv_args *args)
{
    char name[] = "nave bench";
    char *argv[NV_ARGS_MAX + 2] = {name};
    memcpy(argv + 1, args->operands, args->operand_count * sizeof(char *));
    return nv_bench_main((int)args->operand_count + 1, argv);
}

int nv_cmd_version(const nv_args *args)
{
    (void)args;
    puts("nave " NV_VERSION);
    return NV_EXIT_OK;
}

int nv_cmd_help(const nv_args *args)
{
    int code = nv_help_words(stdout, nv_commands, args->operands, args->operand_count);
    if (code != NV_EXIT_OK) {
        fprintf(stderr, "nave: there is no command \"%s\"; `nave help` lists them\n", args->operands[0]);
    }
    return code;
}

int nv_cmd_completion(const nv_args *args)
{
    if (strcmp(args->operands[0], "bash") != 0) {
        fprintf(stderr, "nave: completion is there for bash, not for \"%s\"\n", args->operands[0]);
        return NV_EXIT_USAGE;
    }
    nv_help_completion(stdout, nv_commands);
    return NV_EXIT_OK;
}
