/* The client's side against an engine that plays the hub: credentials, tokens and their renewal, questions. */
#include "session/amqp/client.h"

#include "base/alloc.h"
#include "base/attrs.h"
#include "support/amqp_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define LIFE_S 1000

typedef struct request {
    uint64_t id;
    char operation[40];
    char name[80];
    char body[80];
    uint32_t delivery;
    nv_amqp_link *link;
} request;

/* What plays the hub. */
typedef struct player {
    nv_amqp_conn conn; /* first member */
    amqp_end end;
    char response[100]; /* of SASL, NULs as '|' */
    uint8_t sasl_code;
    bool refuse_nodes;
    bool hold;       /* answers wait for the test */
    bool reject;     /* requests are rejected */
    uint32_t credit; /* for requests */
    int status;      /* of answers; 0: they have none */
    const char *says;
    nv_amqp_link *answers;
    request requests[16];
    size_t count;
} player;

typedef struct caller {
    amqp_end end;
    nv_amqp_client *client;
    int ready;
    int ended;
    nv_amqp_condition condition;
    char why[200];
    int tokens;
    bool no_token;
} caller;

typedef struct stage {
    nv_manual_clock clock;
    player hub;
    caller me;
} stage;

static player *player_of(nv_amqp_conn *conn)
{
    return nv_container_of(conn, player, conn);
}

/* ---- the hub ---------------------------------------------------------------------------------------------------- */

static void on_sasl(nv_amqp_conn *conn, nv_span mechanism, nv_span response, nv_span hostname)
{
    player *p = player_of(conn);
    size_t len = 0;
    assert_true(nv_span_eq_str(hostname, "hub.test"));
    len += (size_t)snprintf(p->response, sizeof(p->response), "%.*s:", NV_SPAN_ARG(mechanism));
    for (size_t i = 0; i < response.len && len < sizeof(p->response) - 1; i++) {
        p->response[len++] = (char)(response.ptr[i] ? response.ptr[i] : '|');
    }
    p->response[len] = '\0';
    nv_amqp_sasl_done(conn, p->sasl_code);
}

static void on_opened(nv_amqp_conn *conn, const nv_amqp_open *open)
{
    (void)conn;
    assert_true(nv_span_eq_str(open->hostname, "hub.test"));
    assert_true(nv_span_eq_str(open->container_id, "c1"));
}

static void answer(player *p, const request *r)
{
    uint8_t memory[400];
    uint8_t id[16];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_writer id_writer = nv_writer_of(id, sizeof(id));
    nv_amqp_put_ulong(&id_writer, r->id);
    nv_amqp_properties properties = {.correlation_id = nv_writer_span(&id_writer)};
    nv_amqp_put_properties_section(&w, &properties);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    if (p->status) {
        nv_amqp_put_string_of(&w, "status-code");
        nv_amqp_put_int(&w, p->status);
        nv_amqp_put_string_of(&w, "status-description");
        nv_amqp_put_string_of(&w, p->says ? p->says : "");
    }
    nv_amqp_end_map(&w, mark, p->status ? 4 : 0);
    nv_amqp_put_value_head(&w);
    nv_amqp_put_string_of(&w, r->name);
    assert_int_equal(w.err, NV_OK);
    uint32_t delivery = 0;
    nv_amqp_send send = {.head = nv_writer_span(&w), .settled = true};
    assert_int_equal(nv_amqp_link_send(p->answers, &send, &delivery), NV_OK);
}

static void keep_text(const nv_amqp_value *map, const char *key, char *out, size_t size)
{
    nv_amqp_value value;
    if (nv_amqp_map_find(map, key, &value) && value.type == NV_AMQP_STRING) {
        (void)snprintf(out, size, "%.*s", NV_SPAN_ARG(value.bytes));
    }
}

static bool on_request(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    player *p = link->owner;
    request *r = &p->requests[p->count++];
    nv_amqp_message m;
    nv_amqp_value value;
    assert_true(p->count <= NV_COUNT_OF(p->requests));
    assert_int_equal(nv_amqp_message_read(delivery->bytes, &m), NV_OK);
    *r = (request){.delivery = delivery->id, .link = link};
    nv_reader at = nv_reader_of(m.properties.message_id);
    assert_true(nv_amqp_read(&at, &value) && nv_amqp_to_u64(&value, &r->id));
    keep_text(&m.application_properties, "operation", r->operation, sizeof(r->operation));
    keep_text(&m.application_properties, "name", r->name, sizeof(r->name));
    at = nv_reader_of(m.body);
    if (m.body_kind == NV_AMQP_BODY_IS_VALUE && nv_amqp_read(&at, &value) && value.type == NV_AMQP_STRING) {
        (void)snprintf(r->body, sizeof(r->body), "%.*s", NV_SPAN_ARG(value.bytes));
    }
    if (p->reject) {
        nv_amqp_outcome no = {
            .kind = NV_AMQP_OUT_REJECTED,
            .problem = {.condition = NV_AMQP_ERR_NOT_ALLOWED, .description = nv_span_str("not today")}};
        nv_amqp_link_settle(link, delivery->id, &no);
        return true;
    }
    nv_amqp_link_accept_delivery(link, delivery->id);
    if (!p->hold) {
        answer(p, r);
    }
    return true;
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    (void)link;
    (void)problem;
}

static const nv_amqp_link_ops player_links = {.delivery = on_request, .detached = on_detached};

static void on_attach(nv_amqp_conn *conn, nv_amqp_link *link)
{
    player *p = player_of(conn);
    if (p->refuse_nodes) {
        nv_amqp_link_refuse(link, NV_AMQP_ERR_NOT_FOUND, "there is no such node", NV_SPAN_EMPTY);
        return;
    }
    if (link->sender) {
        p->answers = link;
    }
    nv_amqp_link_accept(link, &(nv_amqp_accept){.ops = &player_links, .owner = p, .credit = p->credit});
}

static void on_player_ended(nv_amqp_conn *conn, const nv_amqp_problem *problem)
{
    (void)problem;
    nv_amqp_conn_done(conn);
}

static void on_player_free(nv_amqp_conn *conn)
{
    nv_amqp_conn_deinit(conn);
}

static const nv_amqp_conn_ops player_ops = {
    .sasl = on_sasl, .opened = on_opened, .attach = on_attach, .ended = on_player_ended, .free = on_player_free};

/* ---- the caller -------------------------------------------------------------------------------------------------- */

static void on_ready(nv_amqp_client *client, void *arg)
{
    caller *me = arg;
    assert_ptr_equal(client, me->client);
    me->ready++;
}

static void on_ended(nv_amqp_client *client, void *arg, nv_amqp_condition condition, const char *why)
{
    caller *me = arg;
    assert_ptr_equal(client, me->client);
    me->ended++;
    me->condition = condition;
    (void)snprintf(me->why, sizeof(me->why), "%s", why);
}

static char *make_token(void *arg, const char *audience, int64_t *life_s)
{
    caller *me = arg;
    char text[40];
    assert_string_equal(audience, "sb://hub.test/events");
    *life_s = LIFE_S;
    (void)snprintf(text, sizeof(text), "token %d", ++me->tokens);
    return me->no_token ? NULL : nv_strdup(text);
}

static void run(stage *s)
{
    amqp_pair_run(&s->me.end, &s->hub.end);
}

/* In steps, so that each side hears the other's heartbeats. */
static void pass_time(stage *s, int64_t seconds)
{
    for (int64_t step = 0; seconds > 0; seconds -= step) {
        step = seconds < 10 ? seconds : 10;
        nv_manual_clock_advance(&s->clock, step * NV_US_PER_S);
        run(s);
    }
}

static void begin(stage *s, const char *user, const char *audience)
{
    nv_amqp_client_config config = {.hostname = "hub.test",
                                    .container_id = "c1",
                                    .user = user,
                                    .password = user ? "secret" : NULL,
                                    .audience = audience,
                                    .make_token = make_token,
                                    .clock = &s->clock.clock,
                                    .ready = on_ready,
                                    .ended = on_ended,
                                    .arg = &s->me};
    nv_manual_clock_init(&s->clock, 0);
    amqp_end_init(&s->hub.end, &s->clock.clock, 1u << 20);
    amqp_end_init(&s->me.end, &s->clock.clock, 1u << 20);
    nv_amqp_server_init(&s->hub.conn, &s->hub.end.carrier, &player_ops, &amqp_server_config);
    s->hub.end.session = &s->hub.conn.session;
    s->me.end.session = nv_amqp_client_new(&s->me.end.carrier, &config, &s->me.client);
    run(s);
}

static stage *stage_new(void)
{
    stage *s = nv_calloc(1, sizeof(*s));
    s->hub.credit = 10;
    s->hub.status = 200;
    return s;
}

static void stage_free(stage *s)
{
    if (!s->me.end.freed) {
        amqp_end_cut(&s->me.end);
    }
    if (!s->hub.end.freed) {
        amqp_end_cut(&s->hub.end);
    }
    assert_true(s->me.end.freed && s->hub.end.freed);
    assert_int_equal(s->me.ended, 1);
    amqp_end_deinit(&s->me.end);
    amqp_end_deinit(&s->hub.end);
    free(s);
}

/* ---- credentials --------------------------------------------------------------------------------------------------
 */

static void plain_says_who_and_what(void **state)
{
    (void)state;
    stage *s = stage_new();
    begin(s, "service@sas.root.hub", NULL);
    assert_string_equal(s->hub.response, "PLAIN:|service@sas.root.hub|secret");
    assert_int_equal(s->me.ready, 1);
    assert_int_equal(s->me.tokens, 0);
    nv_amqp_client_close(s->me.client);
    run(s);
    assert_int_equal(s->me.ended, 1);
    stage_free(s);
}

static void a_refusal_is_told(void **state)
{
    (void)state;
    stage *s = stage_new();
    s->hub.sasl_code = 1;
    begin(s, "service@sas.root.hub", NULL);
    assert_int_equal(s->me.ready, 0);
    assert_int_equal(s->me.ended, 1);
    assert_int_equal(s->me.condition, NV_AMQP_ERR_UNAUTHORIZED_ACCESS);
    assert_non_null(strstr(s->me.why, "SASL"));
    stage_free(s);
}

static void tokens_are_put_and_put_again(void **state)
{
    (void)state;
    stage *s = stage_new();
    begin(s, NULL, "sb://hub.test/events");
    assert_string_equal(s->hub.response, "ANONYMOUS:");
    assert_int_equal(s->me.ready, 1);
    assert_int_equal(s->hub.count, 1);
    assert_string_equal(s->hub.requests[0].operation, "put-token");
    assert_string_equal(s->hub.requests[0].name, "sb://hub.test/events");
    assert_string_equal(s->hub.requests[0].body, "token 1");
    pass_time(s, LIFE_S * 8 / 10 - 1);
    assert_int_equal(s->hub.count, 1);
    pass_time(s, 2);
    assert_int_equal(s->hub.count, 2);
    assert_string_equal(s->hub.requests[1].body, "token 2");
    assert_int_equal(s->me.ready, 1); /* once */
    s->hub.status = 401;
    s->hub.says = "the key is gone";
    pass_time(s, LIFE_S * 8 / 10 + 1);
    assert_int_equal(s->me.ended, 1);
    assert_string_equal(s->me.why, "the token was refused: the key is gone (401)");
    stage_free(s);
}

static void a_token_that_is_refused_ends_it(void **state)
{
    (void)state;
    stage *s = stage_new();
    s->hub.status = 401;
    s->hub.says = "no such policy";
    begin(s, NULL, "sb://hub.test/events");
    assert_int_equal(s->me.ready, 0);
    assert_int_equal(s->me.ended, 1);
    assert_int_equal(s->me.condition, NV_AMQP_ERR_UNAUTHORIZED_ACCESS);
    assert_string_equal(s->me.why, "the token was refused: no such policy (401)");
    stage_free(s);
    s = stage_new();
    s->me.no_token = true;
    begin(s, NULL, "sb://hub.test/events");
    assert_int_equal(s->me.ended, 1);
    assert_string_equal(s->me.why, "no token can be made");
    stage_free(s);
}

/* ---- questions ----------------------------------------------------------------------------------------------------
 */

typedef struct question {
    nv_amqp_ask ask; /* first member */
    const char *properties[5];
    int done;
    int status;
    char description[100];
    char body[40];
} question;

static void on_answer(nv_amqp_ask *ask, int status, nv_span description, const nv_amqp_message *reply)
{
    question *q = nv_container_of(ask, question, ask);
    nv_amqp_value value;
    q->done++;
    q->status = status;
    (void)snprintf(q->description, sizeof(q->description), "%.*s", NV_SPAN_ARG(description));
    nv_reader r = nv_reader_of(reply ? reply->body : NV_SPAN_EMPTY);
    if (reply && nv_amqp_read(&r, &value)) {
        (void)snprintf(q->body, sizeof(q->body), "%.*s", NV_SPAN_ARG(value.bytes));
    }
}

static void put_question(nv_amqp_node *node, question *q, const char *name)
{
    *q = (question){.properties = {"operation", "READ", "name", name}};
    q->ask = (nv_amqp_ask){.properties = q->properties, .done = on_answer};
    nv_amqp_node_ask(node, &q->ask);
}

static void answers_find_their_questions(void **state)
{
    (void)state;
    stage *s = stage_new();
    question q[4];
    s->hub.credit = 2; /* fewer than are asked at once */
    begin(s, "u", NULL);
    nv_amqp_node *node = nv_amqp_node_open(s->me.client, "$management");
    s->hub.hold = true;
    for (size_t i = 0; i < 3; i++) {
        put_question(node, &q[i], i == 0 ? "a" : i == 1 ? "b" : "c");
    }
    run(s);
    assert_int_equal(s->hub.count, 3);
    answer(&s->hub, &s->hub.requests[1]); /* in another order */
    s->hub.status = 404;
    s->hub.says = "gone";
    answer(&s->hub, &s->hub.requests[0]);
    answer(&s->hub, &(request){.id = 77}); /* nobody asked */
    s->hub.status = 0;
    answer(&s->hub, &s->hub.requests[2]);
    run(s);
    assert_int_equal(q[1].done, 1);
    assert_int_equal(q[1].status, 200);
    assert_string_equal(q[1].body, "b");
    assert_int_equal(q[0].status, 404);
    assert_string_equal(q[0].description, "gone");
    assert_int_equal(q[2].done, 1);
    assert_int_equal(q[2].status, 0);
    s->hub.reject = true;
    put_question(node, &q[3], "d");
    run(s);
    assert_int_equal(q[3].done, 1);
    assert_int_equal(q[3].status, 0);
    assert_string_equal(q[3].description, "not today");
    stage_free(s);
}

static void who_asks_hears_of_the_end(void **state)
{
    (void)state;
    stage *s = stage_new();
    question q[3];
    begin(s, "u", NULL);
    s->hub.refuse_nodes = true;
    nv_amqp_node *node = nv_amqp_node_open(s->me.client, "$nothing");
    put_question(node, &q[0], "a");
    run(s);
    assert_int_equal(q[0].done, 1);
    assert_string_equal(q[0].description, "there is no such node");
    put_question(node, &q[1], "b"); /* at once: it has ended */
    assert_int_equal(q[1].done, 1);
    assert_string_equal(q[1].description, "there is no such node");
    s->hub.refuse_nodes = false;
    s->hub.hold = true;
    put_question(nv_amqp_node_open(s->me.client, "$management"), &q[2], "c");
    run(s);
    assert_int_equal(q[2].done, 0);
    amqp_end_cut(&s->me.end);
    assert_int_equal(q[2].done, 1);
    assert_int_equal(q[2].status, 0);
    assert_int_equal(s->me.ended, 1);
    assert_true(s->me.why[0] != '\0');
    stage_free(s);
}

static void a_stop_closes_in_order(void **state)
{
    (void)state;
    stage *s = stage_new();
    begin(s, "u", NULL);
    s->me.end.session->ops->drain(s->me.end.session, 0);
    run(s);
    assert_int_equal(s->me.ended, 1);
    assert_int_equal(s->hub.conn.state, NV_AMQP_CONN_CLOSED);
    stage_free(s);
}

static void sources_carry_their_filter(void **state)
{
    (void)state;
    uint8_t memory[600];
    nv_amqp_performative p;
    nv_amqp_value map;
    nv_amqp_value filter;
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_put_source(&w, "e/Partitions/0", "x > '1'");
    assert_int_equal(w.err, NV_OK);
    assert_int_equal(nv_amqp_decode_span(nv_writer_span(&w), &p), NV_OK);
    assert_int_equal(p.code, NV_AMQP_SOURCE);
    assert_true(nv_span_eq_str(nv_amqp_text_of(p.source.address), "e/Partitions/0"));
    nv_reader r = nv_reader_of(p.source.filter);
    assert_true(nv_amqp_read(&r, &map));
    assert_true(nv_amqp_map_find(&map, "apache.org:selector-filter:string", &filter));
    assert_int_equal(filter.type, NV_AMQP_DESCRIBED);
    assert_true(nv_span_eq_str(filter.symbol, "apache.org:selector-filter:string"));
    assert_true(nv_span_eq_str(nv_amqp_text_of(filter.bytes), "x > '1'"));
    char *longer = nv_calloc(1, 2000);
    memset(longer, 'x', 1999);
    w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_put_source(&w, longer, NULL);
    assert_int_equal(w.err, NV_E_TOO_BIG);
    free(longer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_says_who_and_what),      cmocka_unit_test(a_refusal_is_told),
        cmocka_unit_test(tokens_are_put_and_put_again), cmocka_unit_test(a_token_that_is_refused_ends_it),
        cmocka_unit_test(answers_find_their_questions), cmocka_unit_test(who_asks_hears_of_the_end),
        cmocka_unit_test(a_stop_closes_in_order),       cmocka_unit_test(sources_carry_their_filter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
