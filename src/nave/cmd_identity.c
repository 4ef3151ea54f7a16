/** `nave device ...` and `nave module ...`: identities over the public REST API (http-hub.md sections 5 and 6). */
#include "base/alloc.h"
#include "base/rng.h"
#include "codec/base64.h"
#include "codec/json.h"
#include "nave/client.h"
#include "nave/commands.h"
#include "nave/table.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

static int usage(const char *text)
{
    fprintf(stderr, "nave: %s\n", text);
    return NV_EXIT_USAGE;
}

static char *path_of(const char *device, const char *module)
{
    return nv_path_of("devices", device, module, "");
}

static void set_text(struct json_object *object, const char *name, const char *text)
{
    json_object_object_add(object, name, text ? json_object_new_string(text) : NULL);
}

/* The member of that name, made when absent or null. Borrowed. */
static struct json_object *object_in(struct json_object *parent, const char *name)
{
    struct json_object *member = NULL;
    if (!json_object_object_get_ex(parent, name, &member) || !json_object_is_type(member, json_type_object)) {
        member = json_object_new_object();
        json_object_object_add(parent, name, member);
    }
    return member;
}

/* ---- flags to JSON ------------------------------------------------------------------------------------------ */

static void add_random_key(struct json_object *keys, const char *name)
{
    uint8_t key[32];
    uint8_t text[NV_BASE64_LEN(sizeof(key))];
    nv_writer w = nv_writer_of(text, sizeof(text));
    nv_rng_fill(nv_rng_system(), key, sizeof(key));
    nv_base64_encode(nv_span_of(key, sizeof(key)), &w);
    json_object_object_add(keys, name, json_object_new_string_len((const char *)text, (int)sizeof(text)));
    nv_wipe(key, sizeof(key));
    nv_wipe(text, sizeof(text));
}

/* --key and --thumbprint: once for the primary, twice for both. */
static void apply_keys(struct json_object *auth, const nv_args *args)
{
    size_t at = 0;
    const char *primary = nv_args_next(args, "key", &at);
    const char *secondary = nv_args_next(args, "key", &at);
    if (primary) {
        struct json_object *keys = object_in(auth, "symmetricKey");
        set_text(keys, "primaryKey", primary);
        if (secondary) {
            set_text(keys, "secondaryKey", secondary);
        } else if (!nv_json_text(keys, "secondaryKey")[0]) {
            add_random_key(keys, "secondaryKey"); /* the service wants both or neither */
        }
    }
}

static void apply_thumbprints(struct json_object *auth, const nv_args *args)
{
    size_t at = 0;
    const char *primary = nv_args_next(args, "thumbprint", &at);
    const char *secondary = nv_args_next(args, "thumbprint", &at);
    if (primary) {
        struct json_object *prints = object_in(auth, "x509Thumbprint");
        set_text(prints, "primaryThumbprint", primary);
        set_text(prints, "secondaryThumbprint", secondary);
    }
}

static const char *auth_type(const nv_args *args)
{
    const char *auth = nv_args_get(args, "auth");
    if (!auth) {
        return nv_args_has(args, "thumbprint") ? "selfSigned" : nv_args_has(args, "key") ? "sas" : NULL;
    }
    return strcmp(auth, "sas") == 0    ? "sas"
           : strcmp(auth, "x509") == 0 ? "selfSigned"
           : strcmp(auth, "ca") == 0   ? "certificateAuthority"
                                       : "";
}

static int apply_auth(struct json_object *identity, const nv_args *args)
{
    const char *type = auth_type(args);
    if (!type) {
        return NV_EXIT_OK;
    }
    if (!*type) {
        return usage("--auth is sas, x509 or ca");
    }
    struct json_object *auth = object_in(identity, "authentication");
    if (strcmp(type, nv_json_text(auth, "type")) != 0) {
        json_object_object_del(auth, "symmetricKey"); /* of the other kind */
        json_object_object_del(auth, "x509Thumbprint");
    }
    set_text(auth, "type", type);
    apply_keys(auth, args);
    apply_thumbprints(auth, args);
    return NV_EXIT_OK;
}

static int apply_flags(struct json_object *identity, const nv_args *args)
{
    const char *status = nv_args_get(args, "status");
    const char *edge = nv_args_get(args, "edge");
    if (status && strcmp(status, "enabled") != 0 && strcmp(status, "disabled") != 0) {
        return usage("--status is enabled or disabled");
    }
    if (edge && *edge && strcmp(edge, "true") != 0 && strcmp(edge, "false") != 0) {
        return usage("--edge is true or false");
    }
    if (status) {
        set_text(identity, "status", status);
    }
    if (nv_args_get(args, "reason")) {
        set_text(identity, "statusReason", nv_args_get(args, "reason"));
    }
    if (edge) {
        json_object_object_add(object_in(identity, "capabilities"), "iotEdge",
                               json_object_new_boolean(strcmp(edge, "false") != 0));
    }
    return apply_auth(identity, args);
}

/* ---- answers ------------------------------------------------------------------------------------------------ */

static struct json_object *keys_of(struct json_object *identity)
{
    struct json_object *auth = nv_json_member(identity, "authentication");
    return auth ? nv_json_member(auth, "symmetricKey") : NULL;
}

static const char *type_of(struct json_object *identity)
{
    struct json_object *auth = nv_json_member(identity, "authentication");
    return auth ? nv_json_text(auth, "type") : "";
}

static char *string_of(const nv_client *client, struct json_object *identity)
{
    const char *module = nv_json_text(identity, "moduleId");
    const char *key = nv_json_text(keys_of(identity), "primaryKey");
    bool sas = strcmp(type_of(identity), "sas") == 0;
    if (sas && !key[0]) {
        return NULL;
    }
    return nv_device_string(client->host, nv_json_text(identity, "deviceId"), module[0] ? module : NULL,
                            sas ? key : NULL);
}

/* What `add` says: the connection string, and in JSON what it is made of. */
static void print_added(const nv_client *client, struct json_object *identity)
{
    char *string = string_of(client, identity);
    if (!client->json) {
        puts(string ? string : "");
        free(string);
        return;
    }
    struct json_object *out = json_object_new_object();
    struct json_object *keys = keys_of(identity);
    const char *primary = nv_json_text(keys, "primaryKey");
    const char *secondary = nv_json_text(keys, "secondaryKey");
    set_text(out, "deviceId", nv_json_text(identity, "deviceId"));
    if (nv_json_text(identity, "moduleId")[0]) {
        set_text(out, "moduleId", nv_json_text(identity, "moduleId"));
    }
    set_text(out, "hostName", client->host);
    set_text(out, "authType", type_of(identity));
    set_text(out, "primaryKey", primary[0] ? primary : NULL);
    set_text(out, "secondaryKey", secondary[0] ? secondary : NULL);
    set_text(out, "connectionString", string);
    nv_print_json(out);
    json_object_put(out);
    free(string);
}

static void print_identity(const nv_client *client, struct json_object *identity)
{
    char *string = string_of(client, identity);
    if (string) {
        set_text(identity, "connectionString", string);
    }
    free(string);
    if (client->json) {
        nv_print_json(identity);
    } else {
        nv_print_members(identity);
    }
}

static void print_list(const nv_client *client, struct json_object *list, bool modules)
{
    static const char *const headings[] = {"DEVICE", "STATUS", "STATE", "AUTH", "LAST ACTIVITY"};
    static const char *const module_headings[] = {"MODULE", "MANAGED BY", "STATE", "AUTH", "LAST ACTIVITY"};
    if (client->json) {
        nv_print_json(list);
        return;
    }
    nv_table table;
    nv_table_init(&table, modules ? module_headings : headings, 5);
    size_t count = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
    for (size_t i = 0; i < count; i++) {
        struct json_object *identity = json_object_array_get_idx(list, i);
        const char *activity = nv_json_text(identity, "lastActivityTime");
        nv_table_add(&table, nv_json_text(identity, modules ? "moduleId" : "deviceId"));
        nv_table_add(&table, nv_json_text(identity, modules ? "managedBy" : "status"));
        nv_table_add(&table, nv_json_text(identity, "connectionState"));
        nv_table_add(&table, type_of(identity));
        nv_table_add(&table, strncmp(activity, "0001-", 5) == 0 ? "never" : activity);
    }
    nv_table_finish(&table, stdout);
}

/* ---- requests ----------------------------------------------------------------------------------------------- */

/* The service says "unauthorized" of modules whose device is missing or disabled; a person wants to know which. */
static void complain_of_device(nv_client *client, const char *device, const nv_answer *refused)
{
    nv_answer answer = {0};
    char *path = path_of(device, NULL);
    int code = nv_client_request(client, "GET", path, NULL, NULL, &answer);
    if (code == NV_EXIT_OK && answer.status == 404) {
        nv_answer_complain(&answer);
    } else if (code == NV_EXIT_OK && strcmp(nv_json_text(answer.body, "status"), "disabled") == 0) {
        fprintf(stderr,
                "nave: the device \"%s\" is disabled, and its modules with it; nave device set %s --status enabled\n",
                device, device);
    } else {
        nv_answer_complain(refused);
    }
    free(path);
    nv_answer_deinit(&answer);
}

/* As nv_client_do(). @p device: whose modules it is about, or NULL */
static int ask(nv_client *client, const char *method, const char *path, const char *body, const char *if_match,
               const char *device, nv_answer *answer)
{
    int code = nv_client_request(client, method, path, body, if_match, answer);
    if (code != NV_EXIT_OK || answer->status < 400) {
        return code;
    }
    if (device && answer->status == 401) {
        complain_of_device(client, device, answer);
    } else {
        nv_answer_complain(answer);
    }
    return NV_EXIT_REFUSED;
}

static void warn_of_wildcards(const char *device, const char *module)
{
    if (strpbrk(device, "+#") || (module && strpbrk(module, "+#"))) {
        fputs("nave: topics of MQTT cannot hold the + or # of this id: it can use AMQP and HTTPS only\n", stderr);
    }
}

/* ---- the commands -------------------------------------------------------------------------------------------- */

static int add_identity(const nv_args *args, const char *device, const char *module)
{
    struct json_object *identity = json_object_new_object();
    set_text(identity, "deviceId", device);
    if (module) {
        set_text(identity, "moduleId", module);
    }
    nv_client client = {0};
    nv_answer answer = {0};
    char *path = path_of(device, module);
    int code = apply_flags(identity, args);
    if (code == NV_EXIT_OK) {
        code = nv_client_open(&client, args);
    }
    if (code == NV_EXIT_OK) {
        code = ask(&client, "PUT", path, json_object_to_json_string(identity), NULL, module ? device : NULL, &answer);
    }
    if (code == NV_EXIT_OK) {
        print_added(&client, answer.body);
        warn_of_wildcards(device, module);
    }
    free(path);
    nv_answer_deinit(&answer);
    nv_client_close(&client);
    json_object_put(identity);
    return code;
}

static int show(const nv_args *args, const char *path, const char *device,
                void (*print)(const nv_client *client, struct json_object *body))
{
    nv_client client = {0};
    nv_answer answer = {0};
    int code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK) {
        code = ask(&client, "GET", path, NULL, NULL, device, &answer);
    }
    if (code == NV_EXIT_OK) {
        print(&client, answer.body);
    }
    nv_answer_deinit(&answer);
    nv_client_close(&client);
    return code;
}

static int remove_identity(const nv_args *args, const char *device, const char *module)
{
    nv_client client = {0};
    nv_answer answer = {0};
    char *path = path_of(device, module);
    int code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK) {
        code = ask(&client, "DELETE", path, NULL, "*", module ? device : NULL, &answer);
    }
    if (code == NV_EXIT_OK) {
        fprintf(stderr, "%s%s%s is removed\n", device, module ? "/" : "", module ? module : "");
    }
    free(path);
    nv_answer_deinit(&answer);
    nv_client_close(&client);
    return code;
}

/* What the twin knows beside: messages that wait, versions. A policy without the right to it shows the identity only.
 */
static void add_live_state(nv_client *client, struct json_object *identity, const char *device, const char *module)
{
    nv_answer twin = {0};
    char *path = nv_path_of("twins", device, module, "");
    if (nv_client_request(client, "GET", path, NULL, NULL, &twin) == NV_EXIT_OK && twin.status == 200) {
        struct json_object *live = json_object_new_object();
        struct json_object *properties = nv_json_member(twin.body, "properties");
        struct json_object *count = nv_json_member(twin.body, "cloudToDeviceMessageCount");
        json_object_object_add(live, "version", json_object_get(nv_json_member(twin.body, "version")));
        json_object_object_add(live, "desiredVersion",
                               json_object_get(nv_json_member(nv_json_member(properties, "desired"), "$version")));
        json_object_object_add(live, "reportedVersion",
                               json_object_get(nv_json_member(nv_json_member(properties, "reported"), "$version")));
        set_text(live, "etag", nv_json_text(twin.body, "etag"));
        json_object_object_add(identity, "cloudToDeviceMessageCount", json_object_get(count));
        json_object_object_add(identity, "twin", live);
    }
    free(path);
    nv_answer_deinit(&twin);
}

static int show_identity(const nv_args *args, const char *device, const char *module)
{
    nv_client client = {0};
    nv_answer answer = {0};
    char *path = path_of(device, module);
    int code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK) {
        code = ask(&client, "GET", path, NULL, NULL, module ? device : NULL, &answer);
    }
    if (code == NV_EXIT_OK) {
        add_live_state(&client, answer.body, device, module);
        print_identity(&client, answer.body);
    }
    free(path);
    nv_answer_deinit(&answer);
    nv_client_close(&client);
    return code;
}

int nv_cmd_device_add(const nv_args *args)
{
    return add_identity(args, args->operands[0], NULL);
}

int nv_cmd_module_add(const nv_args *args)
{
    return add_identity(args, args->operands[0], args->operands[1]);
}

int nv_cmd_device_show(const nv_args *args)
{
    return show_identity(args, args->operands[0], NULL);
}

int nv_cmd_module_show(const nv_args *args)
{
    return show_identity(args, args->operands[0], args->operands[1]);
}

int nv_cmd_device_rm(const nv_args *args)
{
    return remove_identity(args, args->operands[0], NULL);
}

int nv_cmd_module_rm(const nv_args *args)
{
    return remove_identity(args, args->operands[0], args->operands[1]);
}

static void print_devices(const nv_client *client, struct json_object *body)
{
    print_list(client, body, false);
    if (json_object_is_type(body, json_type_array) && json_object_array_length(body) >= 1000) {
        fputs("nave: the hub lists 1,000 devices at most; there may be more\n", stderr);
    }
}

static void print_modules(const nv_client *client, struct json_object *body)
{
    print_list(client, body, true);
}

int nv_cmd_device_list(const nv_args *args)
{
    return show(args, "/devices?top=1000", NULL, print_devices);
}

int nv_cmd_module_list(const nv_args *args)
{
    char *path = nv_path_of("devices", args->operands[0], NULL, "/modules");
    int code = show(args, path, args->operands[0], print_modules);
    free(path);
    return code;
}

/* Read, change, write back under the etag that was read: another's change in between is refused, not lost. */
static int change(nv_client *client, const nv_args *args, const char *path)
{
    nv_answer before = {0};
    nv_answer after = {0};
    int code = nv_client_do(client, "GET", path, NULL, NULL, &before);
    if (code == NV_EXIT_OK) {
        code = apply_flags(before.body, args);
    }
    if (code == NV_EXIT_OK) {
        char etag[128];
        (void)snprintf(etag, sizeof(etag), "\"%s\"", nv_json_text(before.body, "etag"));
        code = nv_client_do(client, "PUT", path, json_object_to_json_string(before.body), etag, &after);
    }
    if (code == NV_EXIT_OK) {
        print_identity(client, after.body);
    }
    nv_answer_deinit(&before);
    nv_answer_deinit(&after);
    return code;
}

int nv_cmd_device_set(const nv_args *args)
{
    bool any =
        nv_args_has(args, "status") || nv_args_has(args, "reason") || nv_args_has(args, "edge") || auth_type(args);
    if (!any) {
        return usage("nothing to change: give --status, --reason, --auth, --key, --thumbprint or --edge");
    }
    nv_client client = {0};
    char *path = path_of(args->operands[0], NULL);
    int code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK) {
        code = change(&client, args, path);
    }
    free(path);
    nv_client_close(&client);
    return code;
}
