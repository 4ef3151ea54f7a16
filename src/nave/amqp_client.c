#include "nave/amqp_client.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "codec/base64.h"
#include "codec/json.h"
#include "net/client.h"
#include "session/websocket_client.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AMQPS_PORT     5671
#define TOKEN_LIFE_S   3600
#define CONNECT_US     (15 * NV_US_PER_S)
#define CLOSE_GRACE_US (2 * NV_US_PER_S)

static int refuse(const char *what, const char *why)
{
    fprintf(stderr, "nave: %s: %s\n", what, why);
    return NV_EXIT_REFUSED;
}

/* ---- the loop ---------------------------------------------------------------------------------------------------- */

static void start_on_loop(nv_task *task)
{
    nv_amqp_run *run = nv_container_of(task, nv_amqp_run, _task);
    run->start(run);
}

int nv_amqp_run_do(nv_amqp_run *run)
{
    char why[NV_NET_WHY_SIZE] = "";
    nv_tls_client_config tls = {.ca_file = run->client->ca_file};
    nv_net_config config = {.loops = 1, .limits = nv_net_limits_default()};
    run->_ended = false;
    if (nv_tls_client_new(&tls, &run->_tls, why) != NV_OK) {
        return refuse("TLS cannot be set up", why);
    }
    int code = NV_EXIT_REFUSED;
    if (nv_net_new(&config, &run->_net, why) != NV_OK || nv_net_start(run->_net, why) != NV_OK) {
        (void)refuse("the network cannot be used", why);
    } else {
        run->loop = nv_net_loop(run->_net, 0);
        run->_task.run = start_on_loop;
        nv_post(nv_loop_exec(run->loop), &run->_task);
        (void)nv_net_wait(run->_net);
        code = run->_code;
    }
    if (run->_net) {
        nv_net_free(run->_net);
    }
    nv_tls_client_free(run->_tls);
    run->_net = NULL;
    return code;
}

void nv_amqp_run_end(nv_amqp_run *run, int code)
{
    if (!run->_ended) {
        run->_ended = true;
        run->_code = code;
        nv_net_stop(run->_net, CLOSE_GRACE_US);
    }
}

void nv_amqp_run_refuse(nv_amqp_run *run, const char *fmt, ...)
{
    va_list args;
    if (run->_ended) {
        return;
    }
    fputs("nave: ", stderr);
    va_start(args, fmt);
    (void)vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    nv_amqp_run_end(run, NV_EXIT_REFUSED);
}

void nv_amqp_run_refuse_key(nv_amqp_run *run, const char *why)
{
    nv_amqp_run_refuse(run, "the hub refused the key of %s (%s); check the connection string and both clocks",
                       run->client->policy, why);
}

bool nv_amqp_run_ended(const nv_amqp_run *run)
{
    return run->_ended;
}

/* ---- where ----------------------------------------------------------------------------------------------------- */

/* "amqps://host:port" */
static bool port_of(struct json_object *endpoints, uint16_t *port)
{
    const char *url = nv_json_text(endpoints, "amqps");
    const char *colon = strrchr(url, ':');
    uint64_t number = 0;
    bool found = colon && nv_span_to_u64(nv_span_str(colon + 1), &number) && number > 0 && number < 65536;
    *port = (uint16_t)number;
    return found;
}

static int no_amqp(void)
{
    return refuse("AMQP", "this hub does not listen for it; start it with amqp.port");
}

static int no_https(void)
{
    return refuse("AMQP over WebSocket", "this hub does not listen for HTTPS; start it with https.port");
}

static int ask_port(nv_client *client, uint16_t *port)
{
    uint16_t other = *port ? *port : client->port == 443 ? AMQPS_PORT : 0; /* where one port is odd, others are too */
    nv_call call = {.method = "GET", .path = "/nave/v1/hub", .quiet = other != 0};
    nv_answer answer = {0};
    int code = other ? nv_client_call(client, &call, &answer) : nv_client_must(client, &call, &answer);
    struct json_object *endpoints = nv_json_member(answer.body, "endpoints");
    bool told = port_of(endpoints, port);
    if (other && !endpoints) {
        *port = other;
        code = NV_EXIT_OK;
    } else if (code == NV_EXIT_OK && !told) {
        code = no_amqp();
    }
    nv_answer_deinit(&answer);
    return code;
}

int nv_amqp_place_of(nv_client *client, nv_amqp_place *out)
{
    (void)snprintf(out->host, sizeof(out->host), "%s", client->host);
    out->plain = false;
    if (client->websocket) {
        bool local = client->local != NULL;
        out->port = client->port;
        out->websocket = NV_AMQP_HUB_WEBSOCKET;
        return local && !nv_json_member(nv_json_member(client->local, "endpoints"), "https") ? no_https() : NV_EXIT_OK;
    }
    if (client->amqp_port) {
        out->port = client->amqp_port;
        return NV_EXIT_OK;
    }
    if (client->local) {
        return port_of(nv_json_member(client->local, "endpoints"), &out->port) ? NV_EXIT_OK : no_amqp();
    }
    return ask_port(client, &out->port);
}

int nv_amqp_rather_http(nv_client *client, bool *out)
{
    if (client->local) {
        *out = nv_json_member(nv_json_member(client->local, "endpoints"), "https") != NULL;
        return NV_EXIT_OK;
    }
    nv_answer answer = {0};
    int code = nv_client_request(client, "GET", "/nave/v1/hub", NULL, NULL, &answer);
    /* A hub of ours that refuses says so in its own form. */
    *out = nv_json_member(answer.body, "hostName") || nv_json_member(answer.body, "errorCode");
    nv_answer_deinit(&answer);
    return code;
}

/* ---- connections ----------------------------------------------------------------------------------------------- */

typedef struct attempt {
    nv_amqp_client_config config;
    char *hostname;
    char *user;
    char *password;
    char *audience;
    char container_id[40];
    uint16_t port;
    const char *websocket; /* static; or NULL */
} attempt;

static char *copy_of(const char *text)
{
    return text ? nv_strdup(text) : NULL;
}

static void attempt_free(attempt *a)
{
    if (a->password) {
        nv_wipe(a->password, strlen(a->password));
    }
    free(a->hostname);
    free(a->user);
    free(a->password);
    free(a->audience);
    free(a);
}

static nv_session *speak(void *arg, nv_carrier *carrier)
{
    attempt *a = arg;
    nv_amqp_client *client = NULL;
    nv_session *session = nv_amqp_client_new(carrier, &a->config, &client);
    attempt_free(a);
    return session;
}

static void give_up(void *arg, const char *why)
{
    attempt *a = arg;
    a->config.ended(NULL, a->config.arg, NV_AMQP_ERR_NONE, why);
    attempt_free(a);
}

static void dropped(void *arg)
{
    give_up(arg, "the connection ended");
}

static nv_session *connected(void *arg, nv_carrier *carrier)
{
    attempt *a = arg;
    nv_websocket_client_config config = {.host = a->hostname,
                                         .port = a->port,
                                         .path = a->websocket,
                                         .protocol = "AMQPWSB10",
                                         .timeout_us = CONNECT_US,
                                         .make = speak,
                                         .failed = give_up,
                                         .dropped = dropped,
                                         .arg = a};
    return a->websocket ? nv_websocket_client_new(carrier, &config) : speak(a, carrier);
}

static void failed(void *arg, nv_err err, const char *why)
{
    (void)err;
    give_up(arg, why);
}

void nv_amqp_run_connect(nv_amqp_run *run, const nv_amqp_place *place, const nv_amqp_client_config *config)
{
    const nv_client *client = run->client;
    attempt *a = nv_calloc(1, sizeof(*a));
    a->config = *config;
    a->config.hostname = a->hostname = nv_strdup(place->host);
    a->config.user = a->user = copy_of(config->user);
    a->config.password = a->password = copy_of(config->password);
    a->config.audience = a->audience = copy_of(config->audience);
    a->config.container_id = a->container_id;
    a->port = place->port;
    a->websocket = place->websocket;
    (void)snprintf(a->container_id, sizeof(a->container_id), "nave-%016llx",
                   (unsigned long long)nv_rng_u64(nv_rng_system()));
    bool hub = nv_span_eq_nocase(nv_span_str(place->host), nv_span_str(client->host));
    nv_client_config dial = {.host = hub && client->connect_to ? client->connect_to : place->host,
                             .port = place->port,
                             .tls = place->plain ? NULL : run->_tls,
                             .server_name = place->host,
                             .timeout_us = CONNECT_US,
                             .connected = connected,
                             .failed = failed,
                             .arg = a};
    nv_client_connect(run->loop, &dial);
}

void nv_amqp_run_connect_policy(nv_amqp_run *run, const nv_amqp_place *place, nv_amqp_client_config *config)
{
    char user[512];
    nv_span host = nv_span_str(place->host);
    (void)snprintf(user, sizeof(user), "%s@sas.root.%.*s", run->client->policy,
                   NV_SPAN_ARG(nv_span_first(host, nv_span_find(host, '.'))));
    char *token = nv_client_token(run->client, place->host, TOKEN_LIFE_S);
    config->user = user;
    config->password = token ? token : "";
    nv_amqp_run_connect(run, place, config);
    config->user = config->password = NULL;
    if (token) {
        nv_wipe(token, strlen(token));
        free(token);
    }
}

const char *nv_amqp_cure(const nv_client *client, const char *why)
{
    if (strstr(why, "certificate")) {
        return "; give the hub's trusted root by --ca FILE";
    }
    if (client->local) {
        return "; is it running? start it by `nave up`";
    }
    return client->amqp_port || client->entity || client->websocket
               ? ""
               : "; where AMQP has a port of its own there, give it by --amqp-port N";
}

char *nv_amqp_event_token(const nv_client *client, const char *audience, int64_t *life_s)
{
    char key[NV_BASE64_LEN(sizeof(client->key)) + 1];
    nv_writer w = nv_writer_of(key, sizeof(key));
    nv_base64_encode(nv_span_of(client->key, client->key_len), &w);
    struct json_object *simulated = client->local ? nv_json_member(client->local, "simulatedTime") : NULL;
    int64_t ahead_s = simulated && json_object_get_boolean(simulated) ? NV_CLIENT_AHEAD_S : 0;
    char *token = nv_make_token(audience, client->policy, nv_writer_span(&w), TOKEN_LIFE_S + ahead_s);
    nv_wipe(key, sizeof(key));
    *life_s = TOKEN_LIFE_S;
    return token;
}
