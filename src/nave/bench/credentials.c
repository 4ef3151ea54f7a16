#include "nave/bench/credentials.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "codec/base64.h"
#include "codec/connstr.h"
#include "codec/mqtt.h"
#include "codec/sas.h"

#include <stdlib.h>

#define API_VERSION      "2021-04-12"
#define TOKEN_LIFETIME_S 86400
#define KEEP_ALIVE_S     300
#define MAX_TEXT         1024u /* user name or password */

/* What signs: a policy of the hub, or (policy empty) the device itself. */
typedef struct signer {
    nv_span host;   /* points into the options */
    nv_span policy; /* points into the options */
    uint8_t key[NV_SAS_KEY_MAX_BYTES];
    size_t key_len;
    int64_t expires_unix_s;
} signer;

static nv_err signer_init(signer *s, const nv_bench_mqtt_options *o)
{
    nv_span key = nv_span_str(o->key ? o->key : "");
    *s = (signer){.host = nv_span_str(o->hub), .policy = nv_span_str(o->policy ? o->policy : "")};
    s->expires_unix_s = nv_wall_us(nv_clock_system()) / NV_US_PER_S + TOKEN_LIFETIME_S;
    if (nv_span_find(s->host, '=') < s->host.len) {
        nv_connstr parts;
        nv_connstr_kind kind;
        const char *why = "";
        if (nv_connstr_parse(s->host, &parts, &kind, &why) != NV_OK || kind != NV_CONNSTR_SERVICE) {
            fprintf(stderr, "nave bench: --hub takes a host name or the connection string of a policy: %s\n",
                    *why ? why : "this one is not a policy's");
            return NV_E_INVALID;
        }
        s->host = parts.host_name;
        s->policy = s->policy.len ? s->policy : parts.shared_access_key_name;
        key = key.len ? key : parts.shared_access_key;
    }
    if (key.len == 0 || nv_base64_decode(key, s->key, sizeof(s->key), &s->key_len) != NV_OK) {
        fprintf(stderr, "nave bench: a key in base64 is needed, by --key or in a connection string\n");
        return NV_E_INVALID;
    }
    return NV_OK;
}

static nv_err sign(const signer *s, const char *id, char *user, nv_writer *password)
{
    char resource[MAX_TEXT];
    (void)snprintf(user, MAX_TEXT, "%.*s/%s/?api-version=" API_VERSION, NV_SPAN_ARG(s->host), id);
    (void)snprintf(resource, sizeof(resource), "%.*s/devices/%s", NV_SPAN_ARG(s->host), id);
    nv_sas_write(password, nv_span_str(resource), s->expires_unix_s, s->policy, nv_span_of(s->key, s->key_len));
    return password->err;
}

static nv_err add_device(nv_bench_credentials *out, const signer *s, const char *id)
{
    char user[MAX_TEXT] = "";
    uint8_t token[MAX_TEXT];
    uint8_t packet[3 * MAX_TEXT];
    nv_writer password = nv_writer_of(token, sizeof(token));
    if (s && sign(s, id, user, &password) != NV_OK) {
        fprintf(stderr, "nave bench: the names of hub, device and policy are too long for a token\n");
        return NV_E_INVALID;
    }
    nv_mqtt_connect connect = {.clean = true,
                               .keep_alive_s = KEEP_ALIVE_S,
                               .client_id = nv_span_str(id),
                               .has_username = s != NULL,
                               .has_password = s != NULL,
                               .username = nv_span_str(user),
                               .password = nv_writer_span(&password)};
    nv_writer w = nv_writer_of(packet, sizeof(packet));
    nv_mqtt_write_connect(&w, &connect);
    if (w.err != NV_OK) {
        return w.err;
    }
    uint8_t *copy = nv_malloc(nv_writer_len(&w));
    memcpy(copy, packet, nv_writer_len(&w));
    nv_span signature = nv_writer_span(&password);
    if (s) {
        out->tokens[out->count] = nv_calloc(1, signature.len + 1);
        memcpy(out->tokens[out->count], signature.ptr, signature.len);
    }
    out->ids[out->count] = nv_strdup(id);
    out->connects[out->count++] = nv_span_of(copy, nv_writer_len(&w));
    return NV_OK;
}

static nv_err add_service(nv_bench_credentials *out, const signer *s)
{
    char token[MAX_TEXT + 1];
    out->host = nv_calloc(1, s->host.len + 1);
    memcpy(out->host, s->host.ptr, s->host.len);
    if (s->policy.len == 0) {
        return NV_OK;
    }
    out->policy = nv_calloc(1, s->policy.len + 1);
    memcpy(out->policy, s->policy.ptr, s->policy.len);
    nv_writer w = nv_writer_of(token, MAX_TEXT);
    nv_sas_write(&w, s->host, s->expires_unix_s, s->policy, nv_span_of(s->key, s->key_len));
    token[nv_writer_len(&w)] = '\0';
    out->service = nv_strdup(token);
    return w.err;
}

nv_err nv_bench_credentials_init(nv_bench_credentials *out, const nv_bench_mqtt_options *o)
{
    signer s = {0};
    nv_err err = o->anonymous ? NV_OK : signer_init(&s, o);
    *out = (nv_bench_credentials){.connects = nv_calloc(o->devices, sizeof(*out->connects)),
                                  .ids = nv_calloc(o->devices, sizeof(*out->ids)),
                                  .tokens = nv_calloc(o->devices, sizeof(*out->tokens))};
    if (err == NV_OK && !o->anonymous) {
        err = add_service(out, &s);
    }
    for (uint64_t i = 0; err == NV_OK && i < o->devices; i++) {
        char id[160];
        (void)snprintf(id, sizeof(id), "%.128s-%u", o->prefix, (unsigned)i);
        err = add_device(out, o->anonymous ? NULL : &s, id);
    }
    nv_wipe(&s, sizeof(s));
    return err;
}

void nv_bench_credentials_deinit(nv_bench_credentials *credentials)
{
    for (size_t i = 0; i < credentials->count; i++) {
        free((void *)(uintptr_t)credentials->connects[i].ptr);
        free(credentials->ids[i]);
        free(credentials->tokens[i]);
    }
    free(credentials->service);
    free(credentials->policy);
    free(credentials->tokens);
    free(credentials->host);
    free(credentials->connects);
    free(credentials->ids);
    *credentials = (nv_bench_credentials){0};
}
