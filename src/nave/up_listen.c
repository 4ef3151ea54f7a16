/** What the hub listens on, and what it tells about it: hub.json, the ready line, first words to a newcomer. */
#include "base/alloc.h"
#include "base/diag.h"
#include "codec/base64.h"
#include "core/auth.h"
#include "core/event_hub.h"
#include "core/policies.h"
#include "nave/client.h"
#include "nave/data_dir.h"
#include "nave/up.h"
#include "session/amqp/server.h"
#include "session/http.h"
#include "session/mqtt_device.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <unistd.h>

/* Health and metrics are asked also when the hub is full; but not by everybody at once. */
#define ADMIN_CONNECTIONS 256u

/* ---- listeners ----------------------------------------------------------------------------------------------- */

static nv_session *accept_mqtt(void *arg, nv_carrier *carrier)
{
    (void)arg;
    return nv_mqtt_device_new(carrier);
}

static nv_session *accept_amqp(void *arg, nv_carrier *carrier)
{
    (void)arg;
    return nv_amqp_server_new(carrier);
}

static nv_session *accept_service(void *arg, nv_carrier *carrier)
{
    (void)arg;
    return nv_http_service_new(carrier);
}

static nv_session *accept_admin(void *arg, nv_carrier *carrier)
{
    (void)arg;
    return nv_http_admin_new(carrier);
}

static const nv_acceptor mqtt_acceptors[] = {{"mqtt", accept_mqtt, NULL}, {NULL, accept_mqtt, NULL}};
static const nv_acceptor https_acceptors[] = {
    {"http/1.1", accept_service, NULL}, {"mqtt", accept_mqtt, NULL}, {NULL, accept_service, NULL}};
/* AMQP clients ask for nothing by ALPN, and the first bytes decide the rest. */
static const nv_acceptor amqp_acceptors[] = {{NULL, accept_amqp, NULL}};
static const nv_acceptor plain_acceptors[] = {{NULL, accept_mqtt, NULL}};
static const nv_acceptor admin_acceptors[] = {{NULL, accept_admin, NULL}};

static const struct {
    const char *name; /* endpoint and scheme */
    const char *option;
    bool tls;
    const nv_acceptor *acceptors;
    size_t acceptor_count;
} kinds[NV_PORT_COUNT] = {
    [NV_PORT_MQTTS] = {"mqtts", "mqtt.port", true, mqtt_acceptors, NV_COUNT_OF(mqtt_acceptors)},
    [NV_PORT_AMQPS] = {"amqps", "amqp.port", true, amqp_acceptors, NV_COUNT_OF(amqp_acceptors)},
    [NV_PORT_HTTPS] = {"https", "https.port", true, https_acceptors, NV_COUNT_OF(https_acceptors)},
    [NV_PORT_MQTT] = {"mqtt", "mqtt.plain_port", false, plain_acceptors, NV_COUNT_OF(plain_acceptors)},
    [NV_PORT_AMQP] = {"amqp", "amqp.plain_port", false, amqp_acceptors, NV_COUNT_OF(amqp_acceptors)},
    [NV_PORT_ADMIN] = {"admin", "admin.port", false, admin_acceptors, NV_COUNT_OF(admin_acceptors)},
};

/* One listener per address, all on the same port. @p wanted: -1 any free one */
static nv_err listen_on(nv_up *up, nv_port kind, const nv_text_list *addresses, int64_t wanted, char *why)
{
    char star[] = "*";
    char *everywhere[] = {star};
    nv_text_list all = {everywhere, 1};
    addresses = addresses->count ? addresses : &all;
    uint16_t port = wanted < 0 ? 0 : (uint16_t)wanted;
    for (size_t i = 0; i < addresses->count; i++) {
        nv_listener_config config = {
            .name = kinds[kind].name,
            .address = addresses->items[i],
            .port = port,
            .tls = kinds[kind].tls ? up->tls : NULL,
            .acceptors = kinds[kind].acceptors,
            .acceptor_count = kinds[kind].acceptor_count,
            .max_connections = kind == NV_PORT_ADMIN ? ADMIN_CONNECTIONS : 0,
            .apart = kind == NV_PORT_ADMIN,
        };
        nv_listener *listener = NULL;
        nv_err err = nv_net_listen(up->net, &config, &listener, why);
        if (err != NV_OK) {
            return err;
        }
        port = nv_listener_port(listener);
    }
    up->ports[kind] = port;
    return NV_OK;
}

static int listen_or_say(nv_up *up, nv_port kind, const nv_text_list *addresses, int64_t wanted)
{
    char why[NV_NET_WHY_SIZE] = "";
    if (wanted == 0) {
        return NV_EXIT_OK;
    }
    nv_err err = listen_on(up, kind, addresses, wanted, why);
    if (err == NV_OK) {
        return NV_EXIT_OK;
    }
    nv_err ignored =
        nv_buf_printf(&up->why, "%s%s%s%s", why, err == NV_E_IN_USE ? "; stop that program, or choose " : "",
                      err == NV_E_IN_USE ? "another port by --set " : "", err == NV_E_IN_USE ? kinds[kind].option : "");
    if (err == NV_E_IN_USE) {
        ignored = nv_buf_append_str(&up->why, "=N");
    }
    (void)ignored;
    return NV_EXIT_REFUSED;
}

/* An ordinary user may not listen below 1024 everywhere; the hub then takes another port rather than not to start. */
static int listen_https(nv_up *up)
{
    const nv_config *config = up->config;
    char why[NV_NET_WHY_SIZE] = "";
    if (config->https_port == 0) {
        return NV_EXIT_OK;
    }
    nv_err err = listen_on(up, NV_PORT_HTTPS, &config->net_bind, config->https_port, why);
    if (err != NV_E_PERMISSION || config->https_fallback_port == 0) {
        return err == NV_OK ? NV_EXIT_OK : listen_or_say(up, NV_PORT_HTTPS, &config->net_bind, config->https_port);
    }
    int code = listen_or_say(up, NV_PORT_HTTPS, &config->net_bind, config->https_fallback_port);
    up->https_fallback = code == NV_EXIT_OK;
    return code;
}

static void write_url(const nv_up *up, nv_port kind, char *out, size_t size)
{
    bool admin = kind == NV_PORT_ADMIN;
    const char *bind = admin ? up->config->admin_bind.items[0] : "";
    const char *host = !admin ? up->names[0] : strcmp(bind, "localhost") == 0 ? "127.0.0.1" : bind;
    (void)snprintf(out, size, "%s://%s:%u", admin ? "http" : kinds[kind].name, host, up->ports[kind]);
}

/* For GET /nave/v1/hub; lives as long as the process. */
static void tell_http(const nv_up *up)
{
    static char urls[NV_PORT_COUNT][320];
    static nv_http_endpoint endpoints[NV_PORT_COUNT];
    static nv_http_config config = {endpoints, 0, NULL};
    for (nv_port kind = 0; kind < NV_PORT_COUNT; kind++) {
        if (up->ports[kind]) {
            write_url(up, kind, urls[kind], sizeof(urls[kind]));
            endpoints[config.endpoint_count++] = (nv_http_endpoint){kinds[kind].name, urls[kind]};
        }
    }
    config.testing = nv_up_clock_testing(up);
    nv_http_setup(&config);
}

int nv_up_listen(nv_up *up)
{
    const nv_config *config = up->config;
    int code = listen_or_say(up, NV_PORT_MQTTS, &config->net_bind, config->mqtt_port);
    if (code == NV_EXIT_OK) {
        code = listen_or_say(up, NV_PORT_AMQPS, &config->net_bind, config->amqp_port);
    }
    if (code == NV_EXIT_OK) {
        code = listen_https(up);
    }
    if (code == NV_EXIT_OK) {
        code = listen_or_say(up, NV_PORT_MQTT, &config->mqtt_plain_bind, config->mqtt_plain_port);
    }
    if (code == NV_EXIT_OK) {
        code = listen_or_say(up, NV_PORT_AMQP, &config->amqp_plain_bind, config->amqp_plain_port);
    }
    if (code == NV_EXIT_OK) {
        code = listen_or_say(up, NV_PORT_ADMIN, &config->admin_bind, config->admin_port);
    }
    return code;
}

/* ---- hub.json ------------------------------------------------------------------------------------------------ */

const char *nv_up_local_address(const nv_up *up)
{
    const nv_text_list *bind = &up->config->net_bind;
    bool anywhere = bind->count == 0 || strcmp(bind->items[0], "*") == 0 || strcmp(bind->items[0], "localhost") == 0 ||
                    strcmp(bind->items[0], "loopback") == 0 || strcmp(bind->items[0], "0.0.0.0") == 0 ||
                    strcmp(bind->items[0], "::") == 0;
    return anywhere ? "127.0.0.1" : bind->items[0];
}

static void set_text(struct json_object *object, const char *name, const char *text)
{
    json_object_object_add(object, name, json_object_new_string(text));
}

static void key_text(const nv_key *key, char out[NV_BASE64_LEN(NV_KEY_MAX) + 1])
{
    nv_writer w = nv_writer_of(out, NV_BASE64_LEN((size_t)NV_KEY_MAX));
    nv_base64_encode(nv_span_of(key->bytes, key->len), &w);
    out[nv_writer_len(&w)] = 0;
}

static void rights_text(uint32_t rights, char *out, size_t size)
{
    static const struct {
        uint32_t right;
        const char *name;
    } names[] = {{NV_RIGHT_REGISTRY_READ, "RegistryRead"},
                 {NV_RIGHT_REGISTRY_WRITE, "RegistryWrite"},
                 {NV_RIGHT_SERVICE_CONNECT, "ServiceConnect"},
                 {NV_RIGHT_DEVICE_CONNECT, "DeviceConnect"}};
    size_t len = 0;
    out[0] = 0;
    for (size_t i = 0; i < NV_COUNT_OF(names); i++) {
        if (rights & names[i].right) {
            len += (size_t)snprintf(out + len, size - len, "%s%s", len ? ", " : "", names[i].name);
        }
    }
}

static struct json_object *policies_json(const nv_up *up)
{
    struct json_object *policies = json_object_new_object();
    for (size_t i = 0; nv_policies_at(up->hub->policies, i); i++) {
        const nv_policy *policy = nv_policies_at(up->hub->policies, i);
        struct json_object *row = json_object_new_object();
        char text[NV_BASE64_LEN(NV_KEY_MAX) + 1];
        char rights[96];
        key_text(&policy->primary_key, text);
        set_text(row, "primaryKey", text);
        key_text(&policy->secondary_key, text);
        set_text(row, "secondaryKey", text);
        nv_wipe(text, sizeof(text));
        rights_text(policy->rights, rights, sizeof(rights));
        set_text(row, "rights", rights);
        json_object_object_add(policies, policy->name, row);
    }
    return policies;
}

/* The port belongs into the string when it is not the one that every client takes by itself. */
static void add_service_string(const nv_up *up, struct json_object *hub)
{
    const nv_policy *owner = nv_policies_find(up->hub->policies, nv_span_str("iothubowner"));
    if (!owner) {
        return;
    }
    char key[NV_BASE64_LEN(NV_KEY_MAX) + 1];
    char port[8] = "";
    char text[1024];
    uint16_t number = up->ports[NV_PORT_HTTPS];
    if (number != 443 && number != 0) {
        (void)snprintf(port, sizeof(port), ":%u", number);
    }
    key_text(&owner->primary_key, key);
    (void)snprintf(text, sizeof(text), "HostName=%s%s;SharedAccessKeyName=iothubowner;SharedAccessKey=%s", up->names[0],
                   port, key);
    set_text(hub, "serviceConnectionString", text);
    nv_wipe(key, sizeof(key));
    nv_wipe(text, sizeof(text));
}

/* Clients take UseDevelopmentEmulator for loopback names only. */
static const char *plain_amqp_host(const nv_up *up)
{
    const char *bind = up->config->amqp_plain_bind.items[0];
    bool loopback = strcmp(bind, "localhost") == 0 || strcmp(bind, "loopback") == 0 || strncmp(bind, "127.", 4) == 0 ||
                    strcmp(bind, "::1") == 0;
    return loopback ? "localhost" : up->names[0];
}

/* "Endpoint=sb://..." for readers of the built-in event hub (amqp.md section 5.2), by the policy that may no more than
 * serve. The port belongs into it when it is not the one that clients take by themselves. */
static void add_event_string(const nv_up *up, struct json_object *hub, nv_port kind)
{
    const nv_policy *policy = nv_policies_find(up->hub->policies, nv_span_str("service"));
    bool plain = kind == NV_PORT_AMQP;
    uint16_t number = up->ports[kind];
    if (!policy || number == 0) {
        return;
    }
    char key[NV_BASE64_LEN(NV_KEY_MAX) + 1];
    char port[8] = "";
    char text[1400];
    if (number != (plain ? 5672 : 5671)) {
        (void)snprintf(port, sizeof(port), ":%u", number);
    }
    key_text(&policy->primary_key, key);
    (void)snprintf(text, sizeof(text),
                   "Endpoint=sb://%s%s/;SharedAccessKeyName=%s;SharedAccessKey=%s;EntityPath=%.*s%s",
                   plain ? plain_amqp_host(up) : up->names[0], port, policy->name, key,
                   NV_SPAN_ARG(nv_event_hub_entity(up->hub)), plain ? ";UseDevelopmentEmulator=true" : "");
    set_text(hub, plain ? "eventHubEmulatorString" : "eventHubConnectionString", text);
    nv_wipe(key, sizeof(key));
    nv_wipe(text, sizeof(text));
}

static struct json_object *hub_json(const nv_up *up)
{
    struct json_object *hub = json_object_new_object();
    struct json_object *names = json_object_new_array();
    struct json_object *endpoints = json_object_new_object();
    for (size_t i = 0; i < up->name_count; i++) {
        json_object_array_add(names, json_object_new_string(up->names[i]));
    }
    for (nv_port kind = 0; kind < NV_PORT_COUNT; kind++) {
        char url[320];
        if (up->ports[kind]) {
            write_url(up, kind, url, sizeof(url));
            set_text(endpoints, kinds[kind].name, url);
        }
    }
    json_object_object_add(hub, "pid", json_object_new_int((int32_t)getpid()));
    set_text(hub, "version", NV_VERSION);
    set_text(hub, "hostName", up->names[0]);
    json_object_object_add(hub, "hostNames", names);
    set_text(hub, "connectTo", nv_up_local_address(up));
    /* A user's certificate may be self-signed or from a private CA: the chain itself is what local commands trust. */
    set_text(hub, "caFile", up->pki.ca_file ? up->pki.ca_file : up->pki.cert_file);
    json_object_object_add(hub, "endpoints", endpoints);
    if (up->time) {
        json_object_object_add(hub, "simulatedTime", json_object_new_boolean(true));
    }
    add_service_string(up, hub);
    add_event_string(up, hub, NV_PORT_AMQPS);
    add_event_string(up, hub, NV_PORT_AMQP);
    json_object_object_add(hub, "policies", policies_json(up));
    return hub;
}

/* ---- words --------------------------------------------------------------------------------------------------- */

static void welcome(const nv_up *up)
{
    const char *flag = nv_args_has(up->args, "data") || up->temporary ? " --data " : "";
    const char *data = flag[0] ? up->data : "";
    printf("\nThis hub is new. What to paste where:\n"
           "  host name               %s\n"
           "  trusted root (CA file)  %s\n"
           "  service string          nave hub show%s%s\n"
           "  a first device          nave device add mydevice%s%s\n"
           "  its messages            nave monitor%s%s, or any Event Hubs client with the string of hub show\n\n",
           up->names[0], up->pki.ca_file ? up->pki.ca_file : up->pki.cert_file, flag, data, flag, data, flag, data);
}

static void warn(const nv_up *up)
{
    if (up->https_fallback) {
        nv_diag(
            NV_LEVEL_WARN, "hub", NULL,
            "port %lld needs a privilege, so HTTPS is on %u: Node's azure-iothub, MQTT and AMQP over WebSocket and "
            "whatever else knows only 443 cannot work; cure: setcap cap_net_bind_service=+ep on the program, or run "
            "it as root",
            (long long)up->config->https_port, up->ports[NV_PORT_HTTPS]);
    }
    if (up->time) {
        nv_diag(NV_LEVEL_WARN, "hub", NULL,
                "testing.clock: manual: time stands still here until POST /testing/clock advances it; tokens, locks, "
                "deadlines and retention go by it: for tests only, never in production");
    }
    if (nv_args_has(up->args, "dev-known-keys")) {
        nv_diag(NV_LEVEL_WARN, "hub", NULL,
                "--dev-known-keys: the policy keys of this hub are published; whoever can connect to it owns it");
    }
    if (up->dev && nv_args_has(up->args, "bind")) {
        nv_diag(NV_LEVEL_WARN, "hub", NULL, "a throw-away hub is reachable from other machines on %s",
                nv_args_get(up->args, "bind"));
    }
}

static void say_ready(const nv_up *up)
{
    printf("Nave is ready:");
    for (nv_port kind = 0; kind < NV_PORT_COUNT; kind++) {
        char url[320];
        if (up->ports[kind]) {
            write_url(up, kind, url, sizeof(url));
            printf(" %s", url);
        }
    }
    double ms = (double)(nv_mono_us(nv_clock_system()) - up->started_us) / 1000.0;
    printf(" (%.0f ms, data in %s)\n", ms, up->data);
    (void)fflush(stdout);
}

int nv_up_publish(nv_up *up)
{
    struct json_object *hub = hub_json(up);
    nv_err err = nv_hub_file_write(up->data, hub, &up->why);
    json_object_put(hub);
    tell_http(up);
    return err == NV_OK ? NV_EXIT_OK : NV_EXIT_REFUSED;
}

int nv_up_announce(nv_up *up)
{
    warn(up);
    if (up->first_start) {
        welcome(up);
    }
    say_ready(up);
    return NV_EXIT_OK;
}
