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

#define AMQP_PORT_FLAG                                                                                                 \
    {                                                                                                                  \
        "amqp-port", 0, "N", "speak AMQP, on this port (default: the one that the hub names, else 5671)"               \
    }
#define MODULE_FLAG                                                                                                    \
    {                                                                                                                  \
        "module", 0, "ID", "this module of the device instead of the device itself"                                    \
    }

static const nv_flag twin_get_flags[] = {MODULE_FLAG, {NULL, 0, NULL, NULL}};
static const nv_flag twin_change_flags[] = {
    MODULE_FLAG,
    {"if-match", 0, "ETAG", "only if the twin still has this etag"},
    {NULL, 0, NULL, NULL},
};
static const nv_flag method_flags[] = {
    MODULE_FLAG,
    {"timeout", 0, "S", "seconds that the device may take, 5 to 300 (default: 30)"},
    {"connect-timeout", 0, "S", "seconds to wait for a device that is not there, 0 to 300 (default: 0)"},
    {NULL, 0, NULL, NULL},
};
static const nv_flag send_flags[] = {
    {"property", 'p', "NAME=VALUE", "an application property; as often as wanted"},
    {"message-id", 0, "ID", "id of the message, which feedback tells (with --ack one is made)"},
    {"correlation-id", 0, "ID", "correlation id"},
    {"ack", 0, "none|positive|negative|full", "which feedback the hub is to give (default: none)"},
    {"ttl", 0, "S", "seconds until the message expires (default: the hub's)"},
    {"content-type", 0, "TYPE", "such as application/json"},
    {"content-encoding", 0, "NAME", "such as utf-8"},
    {"over", 0, "http|amqp|amqp-ws", "how to send (default: http to a Nave, amqp to any other)"},
    AMQP_PORT_FLAG,
    {NULL, 0, NULL, NULL},
};
static const nv_flag feedback_flags[] = {
    {"count", 0, "N", "end after N records"},
    {"over", 0, "amqp|amqp-ws", "by itself (default), or in a WebSocket on the port of HTTPS"},
    AMQP_PORT_FLAG,
    {NULL, 0, NULL, NULL},
};
static const nv_flag query_flags[] = {
    {"page", 0, "N", "ask for N rows at a time, 1 to 1000"},
    {NULL, 0, NULL, NULL},
};

static const nv_flag monitor_flags[] = {
    {"device", 0, "ID", "only this device and its modules"},
    {"partition", 0, "N", "only this partition"},
    {"from", 0, "START", "beginning, now (default), a time such as 2024-05-01T10:00:00Z, or a sequence number"},
    {"count", 0, "N", "end after N messages"},
    {"consumer-group", 0, "NAME", "read in this consumer group (by AMQP; default there: $Default)"},
    {"over", 0, "http|amqp|amqp-ws",
     "how to read (default: http from a Nave, unless in a consumer group; amqp from any other)"},
    AMQP_PORT_FLAG,
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
    {"device", "show", "ID", 1, 1, "Show one device with its keys and its state now",
     "Connection, last activity, messages that wait for it, versions of its twin.",
     "  nave device show pump1 -o json\n", NULL, true, false, nv_cmd_device_show},
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
    {"twin", "get", "ID", 1, 1, "Show a twin", "JSON, unless -o table is given.",
     "  nave twin get pump1\n  nave twin get pump1 --module vibration -o table\n", twin_get_flags, true, false,
     nv_cmd_twin_get},
    {"twin", "patch", "ID JSON|@FILE|-", 2, 2, "Change tags and desired properties of a twin",
     "What is not named stays, null removes. Prints the twin as it is then.",
     "  nave twin patch pump1 '{\"tags\":{\"site\":\"north\"},\"properties\":{\"desired\":{\"rpm\":900}}}'\n"
     "  nave twin patch pump1 '{\"tags\":{\"site\":null}}' --if-match AAAAAAAAAAM=\n",
     twin_change_flags, true, false, nv_cmd_twin_patch},
    {"twin", "replace", "ID JSON|@FILE|-", 2, 2, "Replace tags and desired properties of a twin",
     "What is left out is removed. A whole twin may be given: what cannot be written is ignored.",
     "  nave twin get pump1 > pump1.json; nave twin replace pump1 @pump1.json\n", twin_change_flags, true, false,
     nv_cmd_twin_replace},
    {"method", NULL, "ID NAME [JSON|@FILE|-]", 2, 3, "Call a direct method and print the device's answer",
     "Exit code 0 when the device answered, whatever its status.",
     "  nave method pump1 reboot\n  nave method pump1 setSpeed '{\"rpm\":900}' --timeout 10 --connect-timeout 5\n",
     method_flags, true, false, nv_cmd_method},
    {"send", NULL, "ID BODY|@FILE|-", 2, 2, "Send a message to a device",
     "It waits in the device's queue until the device takes it or it expires.",
     "  nave send pump1 'open the valve'\n  nave send pump1 @order.json -p kind=order --message-id 7 --ack full\n",
     send_flags, true, false, nv_cmd_send},
    {"feedback", NULL, "", 0, 0, "Follow feedback: what became of messages that were sent with --ack",
     "By AMQP. Each record is taken from the hub's queue once it is shown, so of several who follow each gets a part.",
     "  nave feedback\n  nave feedback --count 1 -o json\n", feedback_flags, true, false, nv_cmd_feedback},
    {"query", NULL, "TEXT", 1, 1, "Query twins of devices and modules",
     "All pages. As a table whole twins are shown by a few of their members; -o json has everything.",
     "  nave query \"SELECT * FROM devices WHERE tags.site = 'north'\"\n"
     "  nave query 'SELECT deviceId, properties.reported.fw AS fw FROM devices' -o json\n"
     "  nave query 'SELECT COUNT() AS n, status FROM devices GROUP BY status'\n",
     query_flags, true, false, nv_cmd_query},
    {"monitor", NULL, "", 0, 0, "Follow telemetry as it arrives",
     "Connects again when the hub restarts, and goes on behind the last message it showed.",
     "  nave monitor\n  nave monitor --device pump1 --from beginning\n  nave monitor --count 10 -o json\n"
     "  nave monitor --consumer-group archive --from 2024-05-01T10:00:00Z\n"
     "  nave monitor --hub \"HostName=myhub.azure-devices.net;SharedAccessKeyName=service;SharedAccessKey=...\"\n",
     monitor_flags, true, false, nv_cmd_monitor},
    {"consumer-group", "add", "NAME", 1, 1, "Make a consumer group of the built-in endpoint",
     "Whoever reads in a group of its own reads everything, and disturbs nobody; a group holds no messages and costs\n"
     "nothing. $Default is always there.",
     "  nave consumer-group add archive\n", NULL, true, false, nv_cmd_group_add},
    {"consumer-group", "list", "", 0, 0, "List the consumer groups", "", "  nave consumer-group list -o json\n", NULL,
     true, false, nv_cmd_group_list},
    {"consumer-group", "rm", "NAME", 1, 1, "Remove a consumer group", "Who reads in it is disconnected.",
     "  nave consumer-group rm archive\n", NULL, true, false, nv_cmd_group_rm},
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
    {"bench", NULL, "WHAT...", 0, NV_ARGS_MAX, "Measure: mqtt, amqp, disk or log", "`nave bench` alone says more.",
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
        const char *verb = args->operand_count > 1 ? args->operands[1] : "";
        fprintf(stderr, "nave: there is no command \"%s%s%s\"; `nave help` lists them\n", args->operands[0],
                verb[0] ? " " : "", verb);
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
