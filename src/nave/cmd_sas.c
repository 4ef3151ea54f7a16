/** `nave sas`: tokens, by a policy, by a device's key, or by a key that is given. */
#include "codec/base64.h"
#include "codec/json.h"
#include "nave/client.h"
#include "nave/commands.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

typedef struct request {
    const char *device;
    const char *module;
    const char *policy;
    const char *key; /* base64, or NULL */
    int64_t ttl_s;
} request;

static int usage(const char *text)
{
    fprintf(stderr, "nave: %s\n", text);
    return NV_EXIT_USAGE;
}

static int read_request(const nv_args *args, request *r)
{
    *r = (request){nv_args_get(args, "device"), nv_args_get(args, "module"), nv_args_get(args, "policy"),
                   nv_args_get(args, "key"), 3600};
    const char *ttl = nv_args_get(args, "ttl");
    uint64_t seconds = 0;
    if (ttl && (!nv_span_to_u64(nv_span_str(ttl), &seconds) || seconds == 0 || seconds > INT64_C(3155760000))) {
        return usage("--ttl is a number of seconds, at most a hundred years");
    }
    r->ttl_s = ttl ? (int64_t)seconds : r->ttl_s;
    if (!r->device == !r->policy) {
        return usage("say either --device ID or --policy NAME");
    }
    if (r->module && !r->device) {
        return usage("--module needs --device");
    }
    return NV_EXIT_OK;
}

/* host, host/devices/d or host/devices/d/modules/m. */
static void write_resource(const request *r, const char *host, char *out, size_t size)
{
    (void)snprintf(out, size, "%s%s%s%s%s", host, r->device ? "/devices/" : "", r->device ? r->device : "",
                   r->module ? "/modules/" : "", r->module ? r->module : "");
}

static int print_token(const request *r, const char *host, const char *key_text, bool json)
{
    uint8_t key[64];
    size_t len = 0;
    if (nv_base64_decode(nv_span_str(key_text), key, sizeof(key), &len) != NV_OK || len == 0) {
        return usage("the key is not base64 of 1 to 64 bytes");
    }
    char resource[1024];
    write_resource(r, host, resource, sizeof(resource));
    char *token = nv_make_token(resource, r->policy, nv_span_of(key, len), r->ttl_s);
    nv_wipe(key, sizeof(key));
    if (!token) {
        return usage("the names are too long for a token");
    }
    if (json) {
        struct json_object *out = json_object_new_object();
        json_object_object_add(out, "resource", json_object_new_string(resource));
        json_object_object_add(out, "token", json_object_new_string(token));
        nv_print_json(out);
        json_object_put(out);
    } else {
        puts(token);
    }
    nv_wipe(token, strlen(token));
    free(token);
    return NV_EXIT_OK;
}

/* The policy's own key: of the data folder, or of the connection string when that is the policy's. */
static int by_policy(const nv_client *client, const request *r, const char *host)
{
    struct json_object *policies = client->local ? nv_json_member(client->local, "policies") : NULL;
    struct json_object *policy = NULL;
    if (policies && json_object_object_get_ex(policies, r->policy, &policy)) {
        return print_token(r, host, nv_json_text(policy, "primaryKey"), client->json);
    }
    if (strcmp(client->policy, r->policy) == 0) {
        uint8_t text[NV_BASE64_LEN(64) + 1];
        nv_writer w = nv_writer_of(text, sizeof(text));
        nv_base64_encode(nv_span_of(client->key, client->key_len), &w);
        nv_write_u8(&w, 0);
        return print_token(r, host, (const char *)text, client->json);
    }
    fprintf(stderr, "nave: there is no policy \"%s\" here; `nave hub show` lists them\n", r->policy);
    return NV_EXIT_REFUSED;
}

static int by_identity(nv_client *client, const request *r, const char *host)
{
    char *device = nv_path_segment(r->device);
    char *module = nv_path_segment(r->module ? r->module : "");
    char path[4096];
    (void)snprintf(path, sizeof(path), r->module ? "/devices/%s/modules/%s" : "/devices/%s", device, module);
    free(device);
    free(module);
    nv_answer answer = {0};
    int code = nv_client_do(client, "GET", path, NULL, NULL, &answer);
    if (code == NV_EXIT_OK) {
        struct json_object *auth = nv_json_member(answer.body, "authentication");
        const char *key = nv_json_text(auth ? nv_json_member(auth, "symmetricKey") : NULL, "primaryKey");
        if (key[0]) {
            code = print_token(r, host, key, client->json);
        } else {
            fprintf(stderr, "nave: %s has no key: it authenticates by %s\n", r->device, nv_json_text(auth, "type"));
            code = NV_EXIT_REFUSED;
        }
    }
    nv_answer_deinit(&answer);
    return code;
}

int nv_cmd_sas(const nv_args *args)
{
    request r;
    int code = read_request(args, &r);
    if (code != NV_EXIT_OK) {
        return code;
    }
    const char *host = nv_args_get(args, "host");
    const char *output = nv_args_get(args, "output");
    if (r.key && host) { /* nobody needs to be asked */
        return print_token(&r, host, r.key, output && strcmp(output, "json") == 0);
    }
    nv_client client = {0};
    code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK) {
        host = host ? host : client.host;
        code = r.key      ? print_token(&r, host, r.key, client.json)
               : r.policy ? by_policy(&client, &r, host)
                          : by_identity(&client, &r, host);
    }
    nv_client_close(&client);
    return code;
}
