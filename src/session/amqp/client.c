#include "session/amqp/client.h"

#include "base/alloc.h"
#include "base/attrs.h"

#include <stdio.h>
#include <stdlib.h>

#define FRAME_DEFAULT     65536u
#define IDLE_DEFAULT_MS   120000u
#define UNSETTLED_DEFAULT (16u << 20)
#define ANSWER_CREDIT     16u
#define OPEN_DEADLINE_US  (30 * NV_US_PER_S)
/* A token is made again when a fifth of its life is left. */
#define RENEW_PERCENT   80
#define FILTER_NAME     "apache.org:selector-filter:string"
#define FILTER_TEXT_MAX 256u

struct nv_amqp_node {
    nv_amqp_node *next; /* of nv_amqp_client.nodes */
    nv_amqp_client *client;
    char *address;
    char *reply_to;
    nv_amqp_link *sender;   /* NULL: it ended */
    nv_amqp_link *receiver; /* NULL: it ended */
    nv_list asks;           /* in the order asked */
    uint64_t next_id;
    char why[200]; /* it ended */
};

struct nv_amqp_client {
    nv_amqp_conn conn; /* first member */
    nv_amqp_client_config config;
    char *hostname;
    char *container_id;
    char *audience;
    const nv_clock *clock;
    nv_amqp_node *nodes;
    /* the token */
    nv_amqp_node *cbs;
    nv_amqp_ask put;
    const char *put_properties[7];
    char *token;
    int64_t renew_us;
    bool putting;
    bool ready;
    char refused[300]; /* why we ended it ourselves */
};

static nv_amqp_client *client_of(nv_amqp_conn *conn)
{
    return nv_container_of(conn, nv_amqp_client, conn);
}

nv_amqp_conn *nv_amqp_client_conn(nv_amqp_client *client)
{
    return &client->conn;
}

void nv_amqp_explain(const nv_amqp_problem *problem, char *out, size_t size)
{
    nv_span said = problem->description.len ? problem->description : problem->symbol;
    said = said.len ? said : nv_span_str(nv_amqp_condition_name(problem->condition));
    said = said.len ? said : nv_span_str("the connection ended");
    (void)snprintf(out, size, "%.*s", NV_SPAN_ARG(nv_span_first(said, 500)));
}

/* ---- sources --------------------------------------------------------------------------------------------------- */

static nv_span encoded_string(nv_writer *w, const char *text)
{
    nv_amqp_put_string_of(w, text);
    return nv_writer_span(w);
}

static nv_span encoded_filter(nv_writer *w, const char *filter)
{
    size_t mark = nv_amqp_begin_map(w);
    nv_amqp_put_symbol_of(w, FILTER_NAME);
    nv_write_u8(w, 0x00); /* described by the same symbol */
    nv_amqp_put_symbol_of(w, FILTER_NAME);
    nv_amqp_put_string_of(w, filter);
    nv_amqp_end_map(w, mark, 2);
    return nv_writer_span(w);
}

void nv_amqp_put_source(nv_writer *w, const char *address, const char *filter)
{
    uint8_t address_bytes[1024];
    uint8_t filter_bytes[FILTER_TEXT_MAX + 128];
    nv_writer a = nv_writer_of(address_bytes, sizeof(address_bytes));
    nv_writer f = nv_writer_of(filter_bytes, sizeof(filter_bytes));
    nv_amqp_source source = {.address = encoded_string(&a, address)};
    if (filter) {
        source.filter = encoded_filter(&f, filter);
    }
    nv_amqp_encode_source(w, &source);
    if (a.err != NV_OK || f.err != NV_OK) {
        w->err = NV_E_TOO_BIG;
    }
}

/* ---- requests and answers -------------------------------------------------------------------------------------- */

static nv_amqp_ask *ask_of(nv_list *link)
{
    return nv_container_of(link, nv_amqp_ask, _link);
}

static void answer(nv_amqp_ask *ask, int status, nv_span description, const nv_amqp_message *reply)
{
    nv_list_remove(&ask->_link);
    ask->done(ask, status, description, reply);
}

static void fail_all(nv_amqp_node *node, const char *why)
{
    if (node->why[0] == '\0') {
        (void)snprintf(node->why, sizeof(node->why), "%s", why);
    }
    while (!nv_list_empty(&node->asks)) {
        answer(ask_of(node->asks.next), 0, nv_span_str(node->why), NULL);
    }
}

static size_t length_of(const nv_amqp_ask *ask)
{
    size_t len = ask->body ? strlen(ask->body) : 0;
    for (const char *const *text = ask->properties; *text; text++) {
        len += strlen(*text) + 8;
    }
    return len + 512;
}

static void write_request(nv_writer *w, const nv_amqp_node *node, const nv_amqp_ask *ask)
{
    uint8_t id[16];
    uint8_t to[256];
    uint8_t reply_to[256];
    nv_writer id_writer = nv_writer_of(id, sizeof(id));
    nv_writer to_writer = nv_writer_of(to, sizeof(to));
    nv_writer reply_writer = nv_writer_of(reply_to, sizeof(reply_to));
    nv_amqp_put_ulong(&id_writer, ask->_id);
    nv_amqp_properties properties = {.message_id = nv_writer_span(&id_writer),
                                     .to = encoded_string(&to_writer, node->address),
                                     .reply_to = encoded_string(&reply_writer, node->reply_to)};
    nv_amqp_put_properties_section(w, &properties);
    size_t mark = nv_amqp_begin_map_section(w, NV_AMQP_APPLICATION_PROPERTIES);
    uint32_t count = 0;
    for (; ask->properties[count]; count++) {
        nv_amqp_put_string_of(w, ask->properties[count]);
    }
    nv_amqp_end_map(w, mark, count);
    nv_amqp_put_value_head(w);
    if (ask->body) {
        nv_amqp_put_string_of(w, ask->body);
    } else {
        nv_amqp_put_null(w);
    }
}

static void send_one(nv_amqp_node *node, nv_amqp_ask *ask)
{
    size_t size = length_of(ask);
    uint8_t *memory = nv_malloc(size);
    nv_writer w = nv_writer_of(memory, size);
    write_request(&w, node, ask);
    nv_amqp_send send = {.track = true, .cookie = ask->_id, .head = nv_writer_span(&w)};
    uint32_t id = 0;
    nv_err err = w.err == NV_OK ? nv_amqp_link_send(node->sender, &send, &id) : w.err;
    nv_wipe(memory, size);
    free(memory);
    if (err == NV_OK) {
        ask->_sent = true;
    } else if (err != NV_E_AGAIN) {
        answer(ask, 0, nv_span_str("the request is too large"), NULL);
    }
}

static void send_waiting(nv_amqp_node *node)
{
    nv_list *next;
    for (nv_list *link = node->asks.next; link != &node->asks; link = next) {
        next = link->next;
        if (!node->sender || !nv_amqp_link_room(node->sender)) {
            return;
        }
        if (!ask_of(link)->_sent) {
            send_one(node, ask_of(link));
        }
    }
}

static nv_amqp_ask *find_ask(nv_amqp_node *node, uint64_t id)
{
    for (nv_list *link = node->asks.next; link != &node->asks; link = link->next) {
        if (ask_of(link)->_sent && ask_of(link)->_id == id) {
            return ask_of(link);
        }
    }
    return NULL;
}

static void node_room(nv_amqp_link *link)
{
    send_waiting(link->owner);
}

/* Only a refusal counts: what was accepted is answered by a message. */
static void node_outcome(nv_amqp_link *link, uint32_t id, uint64_t cookie, const nv_amqp_outcome *outcome)
{
    (void)id;
    nv_amqp_node *node = link->owner;
    nv_amqp_ask *ask = find_ask(node, cookie);
    if (ask && outcome->kind != NV_AMQP_OUT_ACCEPTED && outcome->kind != NV_AMQP_OUT_NONE) {
        char why[300];
        nv_amqp_explain(&outcome->problem, why, sizeof(why));
        answer(ask, 0, nv_span_str(why), NULL);
    }
}

static bool status_of(const nv_amqp_message *reply, int *status, nv_span *description)
{
    nv_amqp_value value;
    int64_t number = 0;
    const nv_amqp_value *map = &reply->application_properties;
    if (!(nv_amqp_map_find(map, "status-code", &value) || nv_amqp_map_find(map, "statusCode", &value)) ||
        !nv_amqp_to_i64(&value, &number) || number <= 0 || number > 999) {
        return false;
    }
    *status = (int)number;
    bool said =
        nv_amqp_map_find(map, "status-description", &value) || nv_amqp_map_find(map, "statusDescription", &value);
    *description = said && nv_amqp_is_text(&value) ? value.bytes : NV_SPAN_EMPTY;
    return true;
}

static bool node_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    nv_amqp_node *node = link->owner;
    nv_amqp_message reply;
    nv_amqp_value id;
    uint64_t number = 0;
    int status = 0;
    nv_span description = NV_SPAN_EMPTY;
    nv_amqp_link_accept_delivery(link, delivery->id);
    if (nv_amqp_message_read(delivery->bytes, &reply) != NV_OK || !reply.has_properties ||
        !reply.properties.correlation_id.ptr) {
        return true; /* nobody's answer */
    }
    nv_reader r = nv_reader_of(reply.properties.correlation_id);
    nv_amqp_ask *ask = nv_amqp_read(&r, &id) && nv_amqp_to_u64(&id, &number) ? find_ask(node, number) : NULL;
    if (ask && status_of(&reply, &status, &description)) {
        answer(ask, status, description, &reply);
    } else if (ask) {
        answer(ask, 0, nv_span_str("an answer without a status"), NULL);
    }
    return true;
}

static void node_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    nv_amqp_node *node = link->owner;
    char why[200];
    nv_amqp_explain(problem, why, sizeof(why));
    if (link == node->sender) {
        node->sender = NULL;
    } else {
        node->receiver = NULL;
    }
    fail_all(node, why);
}

static const nv_amqp_link_ops node_ops = {
    .delivery = node_delivery, .room = node_room, .outcome = node_outcome, .detached = node_detached};

static char *joined(const char *a, const char *b)
{
    size_t size = strlen(a) + strlen(b) + 1;
    char *text = nv_malloc(size);
    (void)snprintf(text, size, "%s%s", a, b);
    return text;
}

nv_amqp_node *nv_amqp_node_open(nv_amqp_client *client, const char *address)
{
    nv_amqp_node *node = nv_calloc(1, sizeof(*node));
    char *name = joined(address, "-sender");
    uint8_t text[256];
    uint8_t target[400];
    node->client = client;
    node->address = nv_strdup(address);
    node->reply_to = joined(address, "-receiver");
    nv_list_init(&node->asks);
    node->next = client->nodes;
    client->nodes = node;
    nv_writer text_writer = nv_writer_of(text, sizeof(text));
    nv_writer target_writer = nv_writer_of(target, sizeof(target));
    nv_amqp_target mine = {.address = encoded_string(&text_writer, node->reply_to)};
    nv_amqp_encode_target(&target_writer, &mine);
    nv_amqp_session *session = nv_amqp_session_begin(&client->conn);
    /* First, so that the hub can answer whatever comes. */
    node->receiver = nv_amqp_link_attach(session, &(nv_amqp_attach_options){.name = node->reply_to,
                                                                            .address = address,
                                                                            .target = nv_writer_span(&target_writer),
                                                                            .ops = &node_ops,
                                                                            .owner = node,
                                                                            .credit = ANSWER_CREDIT});
    node->sender = nv_amqp_link_attach(
        session,
        &(nv_amqp_attach_options){.name = name, .sender = true, .address = address, .ops = &node_ops, .owner = node});
    free(name);
    return node;
}

void nv_amqp_node_ask(nv_amqp_node *node, nv_amqp_ask *ask)
{
    ask->_id = node->next_id++;
    ask->_sent = false;
    nv_list_push_back(&node->asks, &ask->_link);
    if (!node->sender || !node->receiver) {
        fail_all(node, "the node has ended");
    } else {
        send_waiting(node);
    }
}

static void node_free(nv_amqp_node *node)
{
    free(node->address);
    free(node->reply_to);
    free(node);
}

/* ---- tokens ---------------------------------------------------------------------------------------------------- */

static void drop_token(nv_amqp_client *client)
{
    if (client->token) {
        nv_wipe(client->token, strlen(client->token));
        free(client->token);
        client->token = NULL;
    }
}

static void give_up(nv_amqp_client *client, const char *why)
{
    (void)snprintf(client->refused, sizeof(client->refused), "%s", why);
    nv_amqp_conn_close(&client->conn, NV_AMQP_ERR_NONE, "");
}

static void token_put(nv_amqp_ask *ask, int status, nv_span description, const nv_amqp_message *reply)
{
    nv_amqp_client *client = ask->arg;
    (void)reply;
    client->putting = false;
    drop_token(client);
    if (status < 200 || status > 299) {
        char why[300];
        (void)snprintf(why, sizeof(why), "the token was refused: %.*s (%d)",
                       NV_SPAN_ARG(nv_span_first(description, 200)), status);
        give_up(client, why);
        return;
    }
    nv_amqp_conn_set_deadline(&client->conn, client->renew_us);
    if (!client->ready) {
        client->ready = true;
        client->config.ready(client, client->config.arg);
    }
}

static void put_token(nv_amqp_client *client)
{
    int64_t life_s = 0;
    client->token = client->config.make_token(client->config.arg, client->audience, &life_s);
    if (!client->token) {
        give_up(client, "no token can be made");
        return;
    }
    client->renew_us = nv_mono_us(client->clock) + life_s * NV_US_PER_S / 100 * RENEW_PERCENT;
    client->putting = true;
    client->put =
        (nv_amqp_ask){.properties = client->put_properties, .body = client->token, .done = token_put, .arg = client};
    nv_amqp_node_ask(client->cbs, &client->put);
}

/* ---- the connection -------------------------------------------------------------------------------------------- */

static void opened(nv_amqp_conn *conn, const nv_amqp_open *open)
{
    nv_amqp_client *client = client_of(conn);
    (void)open;
    if (client->audience) {
        client->cbs = nv_amqp_node_open(client, "$cbs");
        put_token(client);
    } else {
        client->ready = true;
        client->config.ready(client, client->config.arg);
    }
}

static void tick(nv_amqp_conn *conn, int64_t now_us)
{
    nv_amqp_client *client = client_of(conn);
    if (client->cbs && !client->putting && now_us >= client->renew_us) {
        put_token(client);
    }
}

static void ended(nv_amqp_conn *conn, const nv_amqp_problem *problem)
{
    nv_amqp_client *client = client_of(conn);
    char why[600];
    bool refused = client->refused[0] != '\0';
    if (refused) {
        (void)snprintf(why, sizeof(why), "%s", client->refused);
    } else {
        nv_amqp_explain(problem, why, sizeof(why));
    }
    client->config.ended(client, client->config.arg, refused ? NV_AMQP_ERR_UNAUTHORIZED_ACCESS : problem->condition,
                         why);
    nv_amqp_conn_done(conn);
}

static void drain(nv_amqp_conn *conn)
{
    nv_amqp_client_close(client_of(conn));
}

static void free_client(nv_amqp_conn *conn)
{
    nv_amqp_client *client = client_of(conn);
    nv_amqp_conn_deinit(conn);
    for (nv_amqp_node *node = client->nodes, *next = NULL; node; node = next) {
        next = node->next;
        node_free(node);
    }
    drop_token(client);
    free(client->hostname);
    free(client->container_id);
    free(client->audience);
    free(client);
}

static const nv_amqp_conn_ops client_ops = {
    .opened = opened, .ended = ended, .tick = tick, .drain = drain, .free = free_client};

/* NUL user NUL password (RFC 4616). */
static nv_span plain_response(const nv_amqp_client_config *config, char **memory)
{
    size_t user = strlen(config->user);
    size_t password = strlen(config->password);
    *memory = nv_calloc(1, user + password + 2);
    memcpy(*memory + 1, config->user, user);
    memcpy(*memory + 2 + user, config->password, password);
    return nv_span_of(*memory, user + password + 2);
}

static char *copy_of(const char *text)
{
    return text ? nv_strdup(text) : NULL;
}

nv_session *nv_amqp_client_new(nv_carrier *carrier, const nv_amqp_client_config *config, nv_amqp_client **out)
{
    nv_amqp_client *client = nv_calloc(1, sizeof(*client));
    client->config = *config;
    client->hostname = nv_strdup(config->hostname);
    client->container_id = nv_strdup(config->container_id);
    client->audience = copy_of(config->audience);
    const char *const put[] = {"operation", "put-token", "type", "servicebus.windows.net:sastoken", "name"};
    memcpy(client->put_properties, put, sizeof(put));
    client->put_properties[NV_COUNT_OF(put)] = client->audience; /* and NULL behind it */
    client->clock = config->clock ? config->clock : nv_clock_system();
    char *response = NULL;
    nv_amqp_config engine = {
        .container_id = client->container_id,
        .hostname = client->hostname,
        .sasl_mechanisms = config->user ? "PLAIN" : "ANONYMOUS",
        .max_frame_size = config->max_frame_size ? config->max_frame_size : FRAME_DEFAULT,
        .channel_max = 1023,
        .handle_max = 65535,
        .idle_time_out_ms = config->idle_time_out_ms ? config->idle_time_out_ms : IDLE_DEFAULT_MS,
        .open_deadline_us = OPEN_DEADLINE_US,
        .max_unsettled_bytes = config->max_unsettled_bytes ? config->max_unsettled_bytes : UNSETTLED_DEFAULT,
        .sessions = 1024,
        .links = 65536,
    };
    if (config->user) {
        engine.sasl_response = plain_response(config, &response);
    }
    nv_amqp_client_init(&client->conn, carrier, &client_ops, &engine);
    if (response) {
        nv_wipe(response, engine.sasl_response.len);
        free(response);
    }
    client->config.user = client->config.password = NULL; /* the caller's */
    *out = client;
    return &client->conn.session;
}

void nv_amqp_client_close(nv_amqp_client *client)
{
    nv_amqp_conn_close(&client->conn, NV_AMQP_ERR_NONE, "");
}
