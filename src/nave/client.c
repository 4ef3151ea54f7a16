#include "nave/client.h"

#include "base/alloc.h"
#include "codec/base64.h"
#include "codec/connstr.h"
#include "codec/json.h"
#include "codec/percent.h"
#include "codec/sas.h"
#include "nave/curl_library.h"
#include "nave/data_dir.h"
#include "nave/table.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

#define API_VERSION  "2021-04-12"
#define ANSWER_MAX   (64u << 20)
#define TOKEN_LIFE_S 600
/* A stream ends with its token. */
#define STREAM_LIFE_S   86400
#define STREAM_LINE_MAX (4u << 20)

/* ---- which hub --------------------------------------------------------------------------------------------- */

static int refuse(const char *fmt, ...) NV_PRINTF(1, 2);
static int refuse(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("nave: ", stderr);
    (void)vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    return NV_EXIT_REFUSED;
}

static int wrong_string(const char *why)
{
    (void)refuse("the service connection string is not right: %s", why);
    return NV_EXIT_USAGE;
}

/* Newer Event Hubs SDKs speak without TLS then. */
static bool is_emulator(const char *text)
{
    const char *name = strcasestr(text, "UseDevelopmentEmulator=");
    return name && strncasecmp(name + 23, "true", 4) == 0;
}

static int take_host(nv_client *client, nv_span host, uint64_t port)
{
    size_t colon = nv_span_find(host, ':');
    char why[400];
    if (colon < host.len && (!nv_span_to_u64(nv_span_skip(host, colon + 1), &port) || port == 0 || port > 65535)) {
        (void)snprintf(why, sizeof(why), "\"%.*s\" is no host and port", NV_SPAN_ARG(nv_span_first(host, 300)));
        return wrong_string(why);
    }
    client->host = nv_span_dup(nv_span_first(host, colon));
    client->port = (uint16_t)port;
    return NV_EXIT_OK;
}

static int take_string(nv_client *client, const char *text, bool events)
{
    nv_connstr parts;
    nv_connstr_kind kind;
    const char *why = "";
    nv_err err = nv_connstr_parse(nv_span_str(text), &parts, &kind, &why);
    if (err != NV_OK || (kind != NV_CONNSTR_SERVICE && kind != NV_CONNSTR_EVENTS)) {
        return wrong_string(why[0] ? why : "it needs HostName, SharedAccessKeyName and SharedAccessKey");
    }
    if (kind == NV_CONNSTR_EVENTS && (!events || parts.entity_path.len == 0)) {
        return wrong_string(events ? "it needs EntityPath, the name of the event hub"
                                   : "it is that of an event hub, which only `nave monitor` reads");
    }
    if (nv_base64_decode(parts.shared_access_key, client->key, sizeof(client->key), &client->key_len) != NV_OK) {
        return wrong_string("its key is not base64 of at most 64 bytes");
    }
    client->plain = kind == NV_CONNSTR_EVENTS && is_emulator(text);
    uint64_t port = kind == NV_CONNSTR_SERVICE ? 443 : client->plain ? 5672 : 5671;
    int code = take_host(client, nv_connstr_host(&parts), port);
    client->entity = kind == NV_CONNSTR_EVENTS ? nv_span_dup(parts.entity_path) : NULL;
    client->policy = nv_span_dup(parts.shared_access_key_name);
    client->service_string = nv_strdup(text);
    return code;
}

static int take_local(nv_client *client, const char *wanted)
{
    client->data_dir = nv_data_dir_choose(wanted);
    if (!client->data_dir) {
        (void)refuse("no data folder: give one by --data, or a hub by --hub");
        return NV_EXIT_USAGE;
    }
    nv_buf why;
    nv_buf_init(&why, 4096);
    nv_err err = nv_hub_file_read(client->data_dir, &client->local, &why);
    if (err != NV_OK) {
        (void)refuse("%.*s", NV_SPAN_ARG(nv_buf_span(&why)));
    }
    nv_buf_deinit(&why);
    if (err != NV_OK) {
        return NV_EXIT_REFUSED;
    }
    int code = take_string(client, nv_json_text(client->local, "serviceConnectionString"), false);
    const char *ca = nv_json_text(client->local, "caFile");
    const char *address = nv_json_text(client->local, "connectTo");
    client->ca_file = ca[0] ? nv_strdup(ca) : NULL;
    client->connect_to = address[0] ? nv_strdup(address) : NULL;
    return code;
}

static int take_hub(nv_client *client, const nv_args *args, bool events)
{
    const char *hub = nv_args_get(args, "hub");
    const char *data = nv_args_get(args, "data");
    const char *variable = getenv("NAVE_CONNECTION_STRING");
    if (hub) {
        return take_string(client, hub, events);
    }
    if (!data && variable && variable[0]) {
        return take_string(client, variable, events);
    }
    return take_local(client, data);
}

/* How AMQP travels. */
static int take_way(nv_client *client, const nv_args *args)
{
    const char *over = nv_args_get(args, "over");
    const char *text = nv_args_get(args, "amqp-port");
    uint64_t port = 0;
    if (over && strcmp(over, "http") != 0 && strcmp(over, "amqp") != 0 && strcmp(over, "amqp-ws") != 0) {
        (void)refuse("--over is http, amqp or amqp-ws");
        return NV_EXIT_USAGE;
    }
    if (text && over && strcmp(over, "amqp") != 0) {
        (void)refuse("--amqp-port is for --over amqp");
        return NV_EXIT_USAGE;
    }
    if (text && (!nv_span_to_u64(nv_span_str(text), &port) || port == 0 || port > 65535)) {
        (void)refuse("--amqp-port is a number from 1 to 65535");
        return NV_EXIT_USAGE;
    }
    client->amqp_port = (uint16_t)port;
    client->websocket = over && strcmp(over, "amqp-ws") == 0;
    return NV_EXIT_OK;
}

/* The port in the string of an event hub is that of AMQP by itself. */
static void change_way(nv_client *client)
{
    if (client->entity && client->websocket) {
        client->port = 443;
        client->plain = false;
    } else if (client->entity && client->amqp_port) {
        client->port = client->amqp_port;
    }
}

static int open_client(nv_client *client, const nv_args *args, bool events)
{
    memset(client, 0, sizeof(*client));
    const char *output = nv_args_get(args, "output");
    if (output && strcmp(output, "json") != 0 && strcmp(output, "table") != 0) {
        (void)refuse("-o is json or table, not \"%s\"", output);
        return NV_EXIT_USAGE;
    }
    client->json = output && strcmp(output, "json") == 0;
    int code = take_way(client, args);
    if (code == NV_EXIT_OK) {
        code = take_hub(client, args, events);
        change_way(client);
    }
    const char *ca = nv_args_get(args, "ca");
    if (ca) {
        free(client->ca_file);
        client->ca_file = nv_strdup(ca);
    }
    if (code != NV_EXIT_OK) {
        nv_client_close(client);
    }
    return code;
}

int nv_client_open(nv_client *client, const nv_args *args)
{
    return open_client(client, args, false);
}

int nv_client_open_events(nv_client *client, const nv_args *args)
{
    return open_client(client, args, true);
}

void nv_client_close(nv_client *client)
{
    if (client->_handle) {
        client->_curl->easy_cleanup(client->_handle);
    }
    free(client->data_dir);
    json_object_put(client->local);
    free(client->host);
    free(client->connect_to);
    free(client->ca_file);
    free(client->policy);
    free(client->entity);
    if (client->service_string) {
        nv_wipe(client->service_string, strlen(client->service_string));
        free(client->service_string);
    }
    nv_wipe(client->key, sizeof(client->key));
    memset(client, 0, sizeof(*client));
}

/* ---- words ------------------------------------------------------------------------------------------------- */

char *nv_make_token(const char *resource, const char *policy, nv_span key, int64_t ttl_s)
{
    uint8_t text[4096];
    nv_writer w = nv_writer_of(text, sizeof(text));
    nv_sas_write(&w, nv_span_str(resource), (int64_t)time(NULL) + ttl_s, nv_span_str(policy ? policy : ""), key);
    char *token = w.err == NV_OK ? nv_span_dup(nv_writer_span(&w)) : NULL;
    nv_wipe(text, sizeof(text));
    return token;
}

char *nv_client_token(const nv_client *client, const char *resource, int64_t ttl_s)
{
    struct json_object *simulated = client->local ? nv_json_member(client->local, "simulatedTime") : NULL;
    ttl_s += simulated && json_object_get_boolean(simulated) ? NV_CLIENT_AHEAD_S : 0;
    return nv_make_token(resource, client->policy, nv_span_of(client->key, client->key_len), ttl_s);
}

char *nv_path_segment(const char *id)
{
    uint8_t text[3 * 1024 + 1];
    nv_writer w = nv_writer_of(text, sizeof(text));
    nv_percent_encode(nv_span_first(nv_span_str(id), 1024), &w);
    return nv_span_dup(nv_writer_span(&w));
}

char *nv_path_of(const char *root, const char *device, const char *module, const char *tail)
{
    char *d = nv_path_segment(device);
    char *m = nv_path_segment(module ? module : "");
    size_t size = strlen(root) + strlen(d) + strlen(m) + strlen(tail) + 16;
    char *path = nv_malloc(size);
    (void)snprintf(path, size, "/%s/%s%s%s%s", root, d, module ? "/modules/" : "", m, tail);
    free(d);
    free(m);
    return path;
}

char *nv_device_string(const char *host, const char *device, const char *module, const char *key)
{
    nv_connstr parts = {
        .host_name = nv_span_str(host),
        .device_id = nv_span_str(device),
        .module_id = nv_span_str(module ? module : ""),
        .shared_access_key = nv_span_str(key ? key : ""),
        .x509 = key ? NV_SPAN_EMPTY : nv_span_str("true"),
    };
    uint8_t text[2048];
    nv_writer w = nv_writer_of(text, sizeof(text));
    nv_connstr_write(&parts, &w);
    char *string = nv_span_dup(nv_writer_span(&w));
    nv_wipe(text, sizeof(text));
    return string;
}

void nv_print_json(struct json_object *object)
{
    puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
                                                    JSON_C_TO_STRING_NOSLASHESCAPE));
}

static void print_members(struct json_object *object, const char *prefix)
{
    json_object_object_foreach(object, name, value)
    {
        char full[1200];
        (void)snprintf(full, sizeof(full), "%s%s%s", prefix, prefix[0] ? "." : "", name);
        if (json_object_is_type(value, json_type_object)) {
            print_members(value, full);
        } else if (value) {
            char *plain_name = nv_plain_dup(full);
            char *plain_value = nv_plain_dup(json_object_get_string(value));
            printf("%-44s %s\n", plain_name, plain_value);
            free(plain_name);
            free(plain_value);
        }
    }
}

void nv_print_members(struct json_object *object)
{
    if (json_object_is_type(object, json_type_object)) {
        print_members(object, "");
    }
}

const char *nv_json_text(struct json_object *object, const char *name)
{
    struct json_object *member = object ? nv_json_member(object, name) : NULL;
    return member ? json_object_get_string(member) : "";
}

/* ---- requests ---------------------------------------------------------------------------------------------- */

typedef struct receive {
    const nv_curl *curl;
    nv_buf body;
    nv_answer *answer;
} receive;

static size_t take_body(char *bytes, size_t size, size_t count, void *arg)
{
    receive *r = arg;
    return nv_buf_append(&r->body, nv_span_of(bytes, size * count)) == NV_OK ? size * count : 0;
}

/** The value of the header called @p name, which the caller frees, when @p line is that header; else NULL. */
static char *header_value(nv_span line, const char *name)
{
    size_t colon = nv_span_find(line, ':');
    if (!nv_span_eq_nocase(nv_span_first(line, colon), nv_span_str(name))) {
        return NULL;
    }
    nv_span value = nv_span_skip(line, colon + 1);
    while (value.len > 0 && (value.ptr[0] == ' ' || value.ptr[0] == '\t')) {
        value = nv_span_skip(value, 1);
    }
    while (value.len > 0 && value.ptr[value.len - 1] <= ' ') {
        value.len--;
    }
    return nv_span_dup(value);
}

static size_t take_header(char *bytes, size_t size, size_t count, void *arg)
{
    const receive *r = arg;
    nv_answer *answer = r->answer;
    nv_span line = nv_span_of(bytes, size * count);
    char *date = header_value(line, "date");
    char *error = header_value(line, "iothub-errorcode");
    char *continuation = header_value(line, "x-ms-continuation");
    if (date) {
        time_t seconds = r->curl->getdate(date, NULL);
        answer->date_unix_s = seconds > 0 ? (int64_t)seconds : 0;
        free(date);
    }
    if (error) {
        free(answer->error);
        answer->error = error;
    }
    if (continuation) {
        free(answer->continuation);
        answer->continuation = continuation;
    }
    return line.len;
}

typedef struct exchange {
    const nv_curl *curl;
    CURL *handle;
    struct curl_slist *headers;
    struct curl_slist *dial;
    char error[CURL_ERROR_SIZE];
} exchange;

static void add_header(exchange *x, const char *name, const char *value)
{
    size_t size = strlen(name) + strlen(value) + 3;
    char *line = nv_malloc(size);
    (void)snprintf(line, size, "%s: %s", name, value);
    struct curl_slist *longer = x->curl->slist_append(x->headers, line);
    nv_wipe(line, size);
    free(line);
    x->headers = longer ? longer : x->headers;
}

static bool have_handle(nv_client *client)
{
    if (!client->_handle) {
        const char *why = "";
        client->_curl = nv_curl_load(&why);
        if (!client->_curl) {
            (void)refuse("commands speak HTTPS by libcurl, which cannot be loaded: %s", why);
            return false;
        }
        client->_handle = client->_curl->easy_init();
        if (!client->_handle) {
            abort(); /* out of memory at the start of a command */
        }
    }
    client->_curl->easy_reset(client->_handle);
    return true;
}

static void set_target(exchange *x, const nv_client *client, const char *path)
{
    char url[8192];
    (void)snprintf(url, sizeof(url), "https://%s:%u%s%sapi-version=" API_VERSION, client->host, client->port, path,
                   strchr(path, '?') ? "&" : "?");
    x->curl->easy_setopt(x->handle, CURLOPT_URL, url);
    x->curl->easy_setopt(x->handle, CURLOPT_PATH_AS_IS, 1L);
    if (client->connect_to) {
        char dial[512];
        (void)snprintf(dial, sizeof(dial), "%s:%u:%s:%u", client->host, client->port, client->connect_to, client->port);
        x->dial = x->curl->slist_append(NULL, dial);
        x->curl->easy_setopt(x->handle, CURLOPT_CONNECT_TO, x->dial);
    }
}

/** @return false: there is no libcurl, said on stderr; nothing to deinit */
static bool exchange_init(exchange *x, nv_client *client, const char *method, const char *path, const char *body,
                          const char *if_match, int64_t token_life_s)
{
    memset(x, 0, sizeof(*x));
    if (!have_handle(client)) {
        return false;
    }
    x->curl = client->_curl;
    x->handle = client->_handle;
    set_target(x, client, path);
    char *token = nv_client_token(client, client->host, token_life_s);
    add_header(x, "Authorization", token ? token : "");
    free(token);
    add_header(x, "Expect", "");
    if (if_match) {
        add_header(x, "If-Match", if_match);
    }
    if (body) {
        add_header(x, "Content-Type", "application/json; charset=utf-8");
        x->curl->easy_setopt(x->handle, CURLOPT_COPYPOSTFIELDS, body);
    }
    x->curl->easy_setopt(x->handle, CURLOPT_CUSTOMREQUEST, method);
    x->curl->easy_setopt(x->handle, CURLOPT_HTTPHEADER, x->headers);
    x->curl->easy_setopt(x->handle, CURLOPT_ERRORBUFFER, x->error);
    x->curl->easy_setopt(x->handle, CURLOPT_NOPROXY, "*");
    x->curl->easy_setopt(x->handle, CURLOPT_NOSIGNAL, 1L);
    x->curl->easy_setopt(x->handle, CURLOPT_CONNECTTIMEOUT, 10L);
    x->curl->easy_setopt(x->handle, CURLOPT_USERAGENT, "nave/" NV_VERSION);
    if (client->ca_file) {
        x->curl->easy_setopt(x->handle, CURLOPT_CAINFO, client->ca_file);
    }
    return true;
}

static void exchange_deinit(exchange *x)
{
    x->curl->slist_free_all(x->headers);
    x->curl->slist_free_all(x->dial);
}

static int unreachable(const nv_client *client, const exchange *x, CURLcode code)
{
    const char *cure = "";
    if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE) {
        cure = "; give the hub's trusted root by --ca FILE";
    } else if (client->local && (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST)) {
        cure = "; start it by `nave up`";
    }
    return refuse("the hub at %s:%u cannot be reached: %s%s", client->host, client->port,
                  x->error[0] ? x->error : x->curl->easy_strerror(code), cure);
}

static int not_a_hub(const nv_client *client, const nv_answer *answer)
{
    return refuse("%s:%u answered %ld with something that is not JSON; is it a hub?", client->host, client->port,
                  answer->status);
}

static void add_paging(exchange *x, const nv_call *call)
{
    char page[24];
    if (call->page > 0) {
        (void)snprintf(page, sizeof(page), "%u", call->page);
        add_header(x, "x-ms-max-item-count", page);
    }
    if (call->continuation) {
        add_header(x, "x-ms-continuation", call->continuation);
    }
    x->curl->easy_setopt(x->handle, CURLOPT_HTTPHEADER, x->headers);
}

int nv_client_call(nv_client *client, const nv_call *call, nv_answer *answer)
{
    memset(answer, 0, sizeof(*answer));
    exchange x;
    if (!exchange_init(&x, client, call->method, call->path, call->body, call->if_match, TOKEN_LIFE_S)) {
        return NV_EXIT_REFUSED;
    }
    receive r = {.curl = x.curl, .answer = answer};
    nv_buf_init(&r.body, ANSWER_MAX);
    add_paging(&x, call);
    x.curl->easy_setopt(x.handle, CURLOPT_TIMEOUT, call->timeout_s ? call->timeout_s : 60L);
    x.curl->easy_setopt(x.handle, CURLOPT_WRITEFUNCTION, take_body);
    x.curl->easy_setopt(x.handle, CURLOPT_WRITEDATA, &r);
    x.curl->easy_setopt(x.handle, CURLOPT_HEADERFUNCTION, take_header);
    x.curl->easy_setopt(x.handle, CURLOPT_HEADERDATA, &r);
    CURLcode result = x.curl->easy_perform(x.handle);
    int code = NV_EXIT_OK;
    if (result != CURLE_OK) {
        code = call->quiet ? NV_EXIT_REFUSED : unreachable(client, &x, result);
    } else {
        x.curl->easy_getinfo(x.handle, CURLINFO_RESPONSE_CODE, &answer->status);
        if (nv_buf_len(&r.body) > 0 &&
            nv_json_parse(nv_buf_span(&r.body), NV_JSON_MAX_DEPTH, UINT32_MAX, &answer->body) != NV_OK) {
            code = call->quiet ? NV_EXIT_REFUSED : not_a_hub(client, answer);
        }
    }
    exchange_deinit(&x);
    nv_buf_deinit(&r.body);
    return code;
}

/* Errors whose text says too little to a person: only the id, only "Unauthorized". @return false: it is not one */
static bool complain_known(const char *error, const char *text)
{
    if (error && strcmp(error, "DeviceNotFound") == 0 && !strchr(text, ' ')) {
        (void)refuse("there is no %s \"%s\" (DeviceNotFound)", strchr(text, '/') ? "module" : "device", text);
    } else if (error && strcmp(error, "ModuleNotFound") == 0 && !strchr(text, ' ')) {
        (void)refuse("there is no module \"%s\" (ModuleNotFound)", text);
    } else if (error && strcmp(error, "IotHubUnauthorizedAccess") == 0) {
        (void)refuse(
            "%s (IotHubUnauthorizedAccess): the policy of the connection string lacks the right, or its key is "
            "not the current one; the hub's log says which",
            text);
    } else {
        return false;
    }
    return true;
}

/* "ErrorCode:Name;text" becomes "text (Name)", JSON in a string its message; anything else stands as it is. */
static void complain(long status, const char *message, const char *error)
{
    const char *name = strncmp(message, "ErrorCode:", 10) == 0 ? message + 10 : NULL;
    const char *text = name ? strchr(name, ';') : NULL;
    struct json_object *inner = NULL;
    if (text && complain_known(error, text + 1)) {
        return;
    }
    if (message[0] == '{' && nv_json_parse(nv_span_str(message), 8, 100, &inner) == NV_OK) {
        const char *said = nv_json_text(inner, "message");
        if (!complain_known(error, said)) {
            (void)refuse("%s%s%s%s", said[0] ? said : "the hub refused", error ? " (" : "", error ? error : "",
                         error ? ")" : "");
        }
        json_object_put(inner);
    } else if (text && text[1]) {
        (void)refuse("%s (%.*s)", text + 1, (int)(text - name), name);
    } else if (message[0]) {
        (void)refuse("%s%s%s%s", message, error ? " (" : "", error ? error : "", error ? ")" : "");
    } else {
        (void)refuse("the hub answered %ld%s%s%s", status, error ? " (" : "", error ? error : "", error ? ")" : "");
    }
}

void nv_answer_complain(const nv_answer *answer)
{
    complain(answer->status, nv_json_text(answer->body, "Message"), answer->error);
}

int nv_client_must(nv_client *client, const nv_call *call, nv_answer *answer)
{
    int code = nv_client_call(client, call, answer);
    if (code == NV_EXIT_OK && answer->status >= 400) {
        nv_answer_complain(answer);
        code = NV_EXIT_REFUSED;
    }
    return code;
}

int nv_client_request(nv_client *client, const char *method, const char *path, const char *body, const char *if_match,
                      nv_answer *answer)
{
    return nv_client_call(client, &(nv_call){.method = method, .path = path, .body = body, .if_match = if_match},
                          answer);
}

int nv_client_do(nv_client *client, const char *method, const char *path, const char *body, const char *if_match,
                 nv_answer *answer)
{
    return nv_client_must(client, &(nv_call){.method = method, .path = path, .body = body, .if_match = if_match},
                          answer);
}

void nv_answer_deinit(nv_answer *answer)
{
    json_object_put(answer->body);
    free(answer->error);
    free(answer->continuation);
    memset(answer, 0, sizeof(*answer));
}

/* ---- streams ----------------------------------------------------------------------------------------------- */

typedef struct stream {
    const exchange *exchange;
    nv_buf pending;
    bool (*line)(void *arg, nv_span line);
    void *arg;
    bool stopped;
    bool failed; /* a line without end, or memory is out */
} stream;

static size_t take_lines(char *bytes, size_t size, size_t count, void *arg)
{
    stream *s = arg;
    long status = 0;
    s->exchange->curl->easy_getinfo(s->exchange->handle, CURLINFO_RESPONSE_CODE, &status);
    if (nv_buf_append(&s->pending, nv_span_of(bytes, size * count)) != NV_OK) {
        s->failed = true;
        return 0;
    }
    while (status < 400) {
        nv_span all = nv_buf_span(&s->pending);
        size_t len = nv_span_find(all, '\n');
        if (len == all.len) {
            break;
        }
        bool more = len == 0 || s->line(s->arg, nv_span_first(all, len));
        nv_buf_consume(&s->pending, len + 1);
        if (!more) {
            s->stopped = true;
            return 0;
        }
    }
    return size * count;
}

static nv_stream_end refused(stream *s, long status)
{
    struct json_object *body = NULL;
    if (nv_json_parse(nv_buf_span(&s->pending), NV_JSON_MAX_DEPTH, 10000, &body) != NV_OK) {
        body = NULL;
    }
    complain(status, nv_json_text(body, "Message"), NULL);
    json_object_put(body);
    return NV_STREAM_REFUSED;
}

nv_stream_end nv_client_stream(nv_client *client, const char *path, bool (*line)(void *arg, nv_span line), void *arg)
{
    exchange x;
    if (!exchange_init(&x, client, "GET", path, NULL, NULL, STREAM_LIFE_S)) {
        return NV_STREAM_REFUSED;
    }
    stream s = {.exchange = &x, .line = line, .arg = arg};
    nv_buf_init(&s.pending, STREAM_LINE_MAX);
    x.curl->easy_setopt(x.handle, CURLOPT_TCP_KEEPALIVE, 1L);
    x.curl->easy_setopt(x.handle, CURLOPT_WRITEFUNCTION, take_lines);
    x.curl->easy_setopt(x.handle, CURLOPT_WRITEDATA, &s);
    CURLcode result = x.curl->easy_perform(x.handle);
    long status = 0;
    x.curl->easy_getinfo(x.handle, CURLINFO_RESPONSE_CODE, &status);
    nv_stream_end end = NV_STREAM_ENDED;
    if (s.stopped) {
        end = NV_STREAM_STOPPED;
    } else if (s.failed) {
        (void)refuse("%s:%u sent a line longer than 4 MiB; is it a hub?", client->host, client->port);
        end = NV_STREAM_REFUSED;
    } else if (status >= 400) {
        end = refused(&s, status);
    } else if (result == CURLE_PEER_FAILED_VERIFICATION || result == CURLE_SSL_CACERT_BADFILE) {
        (void)unreachable(client, &x, result);
        end = NV_STREAM_REFUSED;
    } else if (status == 0) {
        end = NV_STREAM_NOBODY;
    }
    exchange_deinit(&x);
    nv_buf_deinit(&s.pending);
    return end;
}
