/** `nave hub show` and `nave doctor`. */
#include "base/alloc.h"
#include "codec/json.h"
#include "nave/client.h"
#include "nave/commands.h"
#include "nave/table.h"

#include <arpa/inet.h>
#include <json-c/json.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void set_text(struct json_object *object, const char *name, const char *text)
{
    json_object_object_add(object, name, text && text[0] ? json_object_new_string(text) : NULL);
}

/* ---- hub show ------------------------------------------------------------------------------------------------ */

static bool is_address(const char *name)
{
    struct in6_addr out;
    return inet_pton(AF_INET, name, &out) == 1 || inet_pton(AF_INET6, name, &out) == 1;
}

static bool resolves(const char *name)
{
    struct addrinfo *found = NULL;
    int result = getaddrinfo(name, NULL, NULL, &found);
    if (result == 0) {
        freeaddrinfo(found);
    }
    return result == 0;
}

/* The Java SDK refuses host names without a dot: one of the hub's names with a dot that leads here, names before
 * addresses. NULL: there is none. Borrowed. */
static const char *dotted_name(struct json_object *names)
{
    const char *address = NULL;
    size_t count = json_object_is_type(names, json_type_array) ? json_object_array_length(names) : 0;
    for (size_t i = 0; i < count; i++) {
        const char *name = json_object_get_string(json_object_array_get_idx(names, i));
        if (!name || !strchr(name, '.')) {
            continue;
        }
        if (!is_address(name) && resolves(name)) {
            return name;
        }
        address = is_address(name) && !address ? name : address;
    }
    return address;
}

static void print_if(struct json_object *hub, const char *label, const char *member, const char *more)
{
    const char *text = nv_json_text(hub, member);
    if (text[0]) {
        printf("%-15s %s%s\n", label, text, more);
    }
}

static void print_hub(struct json_object *hub)
{
    printf("host name       %s\n", nv_json_text(hub, "hostName"));
    printf("with a dot      %s\n", nv_json_text(hub, "dottedHostName"));
    printf("trusted root    %s\n", nv_json_text(hub, "caFile"));
    printf("service string  %s\n", nv_json_text(hub, "serviceConnectionString"));
    print_if(hub, "events string", "eventHubConnectionString", "");
    print_if(hub, "without TLS", "eventHubEmulatorString", " (Event Hubs clients on this machine)");
    struct json_object *endpoints = nv_json_member(hub, "endpoints");
    if (endpoints) {
        json_object_object_foreach(endpoints, name, url)
        {
            printf("%-15s %s\n", name, json_object_get_string(url));
        }
    }
    struct json_object *policies = nv_json_member(hub, "policies");
    if (policies) {
        json_object_object_foreach(policies, policy, value)
        {
            printf("policy          %s (%s)\n", policy, nv_json_text(value, "rights"));
        }
    }
}

/* "Endpoint=sb://...;EntityPath=..." by the policy of the service string, where the hub says that it speaks AMQP. */
static void add_event_string(const nv_client *client, struct json_object *hub)
{
    const char *entity = nv_json_text(hub, "eventHub");
    const char *url = nv_json_text(nv_json_member(hub, "endpoints"), "amqps");
    const char *port = strrchr(url, ':');
    const char *key = strstr(client->service_string, "SharedAccessKey=");
    if (!entity[0] || !port || !key) {
        return;
    }
    char text[2048];
    (void)snprintf(text, sizeof(text), "Endpoint=sb://%s%s/;SharedAccessKeyName=%s;%.*s;EntityPath=%s", client->host,
                   strcmp(port, ":5671") == 0 ? "" : port, client->policy, (int)strcspn(key, ";"), key, entity);
    set_text(hub, "eventHubConnectionString", text);
    nv_wipe(text, sizeof(text));
}

/* Of a hub elsewhere we know what the string says and what the hub tells. */
static int remote_hub(nv_client *client, struct json_object **out)
{
    nv_answer answer = {0};
    int code = nv_client_do(client, "GET", "/nave/v1/hub", NULL, NULL, &answer);
    if (code == NV_EXIT_OK) {
        struct json_object *hub = json_object_is_type(answer.body, json_type_object) ? json_object_get(answer.body)
                                                                                     : json_object_new_object();
        set_text(hub, "hostName", client->host);
        set_text(hub, "serviceConnectionString", client->service_string);
        set_text(hub, "caFile", client->ca_file);
        add_event_string(client, hub);
        *out = hub;
    }
    nv_answer_deinit(&answer);
    return code;
}

static struct json_object *local_hub(const nv_client *client)
{
    static const char *const shown[] = {"hostName",
                                        "hostNames",
                                        "serviceConnectionString",
                                        "eventHubConnectionString",
                                        "eventHubEmulatorString",
                                        "caFile",
                                        "endpoints",
                                        "policies"};
    struct json_object *hub = json_object_new_object();
    for (size_t i = 0; i < NV_COUNT_OF(shown); i++) {
        struct json_object *value = nv_json_member(client->local, shown[i]);
        if (value) {
            json_object_object_add(hub, shown[i], json_object_get(value));
        }
    }
    set_text(hub, "dataFolder", client->data_dir);
    return hub;
}

int nv_cmd_hub_show(const nv_args *args)
{
    nv_client client = {0};
    struct json_object *hub = NULL;
    int code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK && client.local) {
        hub = local_hub(&client);
    } else if (code == NV_EXIT_OK) {
        code = remote_hub(&client, &hub);
    }
    if (code == NV_EXIT_OK) {
        set_text(hub, "dottedHostName", dotted_name(nv_json_member(hub, "hostNames")));
        if (client.json) {
            nv_print_json(hub);
        } else {
            print_hub(hub);
        }
    }
    json_object_put(hub);
    nv_client_close(&client);
    return code;
}

/* ---- doctor -------------------------------------------------------------------------------------------------- */

typedef struct findings {
    struct json_object *checks; /* array of {check, ok, text} */
    bool bad;
} findings;

static void find(findings *f, const char *check, bool ok, const char *fmt, ...) NV_PRINTF(4, 5);
static void find(findings *f, const char *check, bool ok, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    struct json_object *row = json_object_new_object();
    set_text(row, "check", check);
    json_object_object_add(row, "ok", json_object_new_boolean(ok));
    set_text(row, "text", text);
    json_object_array_add(f->checks, row);
    f->bad = f->bad || !ok;
}

static void check_clock(findings *f, const nv_answer *answer)
{
    if (answer->date_unix_s == 0) {
        return;
    }
    long long apart = (long long)time(NULL) - answer->date_unix_s;
    bool ok = apart > -60 && apart < 60;
    find(f, "clock", ok,
         ok ? "this machine and the hub agree within a minute (%+lld s)"
            : "this machine's clock and the hub's are %+lld s apart: tokens made here fail; set the clock",
         apart);
}

static void check_identity(findings *f, const char *id, const nv_answer *answer)
{
    if (answer->status == 404) {
        find(f, "registered", false, "no device \"%s\" is registered (ids are case-sensitive); nave device add %s", id,
             id);
        return;
    }
    struct json_object *auth = nv_json_member(answer->body, "authentication");
    const char *type = nv_json_text(auth, "type");
    find(f, "registered", true, "the device is registered");
    if (strcmp(nv_json_text(answer->body, "status"), "disabled") == 0) {
        find(f, "enabled", false, "it is disabled (%s); nave device set %s --status enabled",
             nv_json_text(answer->body, "statusReason"), id);
    } else {
        find(f, "enabled", true, "it may connect");
    }
    struct json_object *prints = nv_json_member(auth, "x509Thumbprint");
    bool usable = strcmp(type, "selfSigned") != 0 || nv_json_text(prints, "primaryThumbprint")[0] ||
                  nv_json_text(prints, "secondaryThumbprint")[0];
    if (usable) {
        find(f, "credential", true, "it authenticates by %s", strcmp(type, "sas") == 0 ? "key (SAS token)" : type);
    } else {
        find(f, "credential", false, "no certificate is registered; nave device set %s --thumbprint SHA256", id);
    }
    if (strpbrk(id, "+#")) {
        find(f, "topics", true, "it can use AMQP and HTTPS only: topics of MQTT cannot hold the + or # of its id");
    }
    find(f, "connection", true, "it is %s now, last active %s", nv_json_text(answer->body, "connectionState"),
         strncmp(nv_json_text(answer->body, "lastActivityTime"), "0001-", 5) == 0
             ? "never"
             : nv_json_text(answer->body, "lastActivityTime"));
}

static struct json_object *refusals_of(struct json_object *body)
{
    struct json_object *list = json_object_is_type(body, json_type_array) ? body
                               : body                                     ? nv_json_member(body, "refusals")
                                                                          : NULL;
    return json_object_is_type(list, json_type_array) ? list : NULL;
}

static void print_refusals(struct json_object *list)
{
    size_t count = list ? json_object_array_length(list) : 0;
    puts(count ? "\nLast refusals, newest first:" : "\nNo refusals since the hub started.");
    for (size_t i = 0; i < count; i++) {
        struct json_object *row = json_object_array_get_idx(list, i);
        char *detail = nv_plain_dup(nv_json_text(row, "detail")); /* may cite what the peer sent */
        printf("  %s  %s from %s, %s times: %s\n    cause: %s%s%s\n    cure:  %s\n", nv_json_text(row, "time"),
               nv_json_text(row, "protocol"), nv_json_text(row, "address"), nv_json_text(row, "count"),
               nv_json_text(row, "refusal"), nv_json_text(row, "cause"), detail[0] ? ": " : "", detail,
               nv_json_text(row, "cure"));
        free(detail);
    }
}

static void print_findings(const findings *f, struct json_object *refusals)
{
    for (size_t i = 0; i < json_object_array_length(f->checks); i++) {
        struct json_object *row = json_object_array_get_idx(f->checks, i);
        bool ok = json_object_get_boolean(nv_json_member(row, "ok"));
        printf("%s  %s\n", ok ? "ok " : "BAD", nv_json_text(row, "text"));
    }
    print_refusals(refusals);
}

static int examine(nv_client *client, const char *id)
{
    char *segment = nv_path_segment(id);
    char path[4096];
    nv_answer device = {0};
    nv_answer refusals = {0};
    findings f = {json_object_new_array(), false};
    (void)snprintf(path, sizeof(path), "/devices/%s", segment);
    int code = nv_client_request(client, "GET", path, NULL, NULL, &device);
    if (code == NV_EXIT_OK && device.status >= 400 && device.status != 404) {
        nv_answer_complain(&device);
        code = NV_EXIT_REFUSED;
    }
    if (code == NV_EXIT_OK) {
        check_clock(&f, &device);
        check_identity(&f, id, &device);
        (void)snprintf(path, sizeof(path), "/nave/v1/devices/%s/refusals", segment);
        code = nv_client_do(client, "GET", path, NULL, NULL, &refusals);
    }
    if (code == NV_EXIT_OK && client->json) {
        struct json_object *out = json_object_new_object();
        set_text(out, "deviceId", id);
        json_object_object_add(out, "checks", json_object_get(f.checks));
        json_object_object_add(out, "refusals", json_object_get(refusals_of(refusals.body)));
        nv_print_json(out);
        json_object_put(out);
    } else if (code == NV_EXIT_OK) {
        print_findings(&f, refusals_of(refusals.body));
    }
    json_object_put(f.checks);
    free(segment);
    nv_answer_deinit(&device);
    nv_answer_deinit(&refusals);
    return code == NV_EXIT_OK && f.bad ? NV_EXIT_REFUSED : code;
}

int nv_cmd_doctor(const nv_args *args)
{
    nv_client client = {0};
    int code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK) {
        code = examine(&client, args->operands[0]);
    }
    nv_client_close(&client);
    return code;
}
