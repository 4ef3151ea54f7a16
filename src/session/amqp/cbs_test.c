/* Tokens put on $cbs: requests, replies, what they open, renewal and expiry. */
#include "session/amqp/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define UNAUTHORIZED "amqp:unauthorized-access"

/* ---- requests as bytes -------------------------------------------------------------------------------------- */

typedef struct request {
    nv_span id; /* encoded; empty: none */
    const char *operation;
    const char *type;
    const char *name;
    const char *reply_to;
    const char *token;
    bool as_data; /* the body is a data section */
    bool binary;  /* or a binary value */
    bool settled;
} request;

static void put_pair(nv_writer *w, const char *key, const char *value, uint32_t *count)
{
    if (value) {
        nv_amqp_put_string_of(w, key);
        nv_amqp_put_string_of(w, value);
        *count += 2;
    }
}

static nv_span encode(const request *r)
{
    static uint8_t memory[8192];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    uint8_t reply_to[64];
    nv_writer to = nv_writer_of(reply_to, sizeof(reply_to));
    nv_amqp_properties properties = {.message_id = r->id};
    if (r->reply_to) {
        nv_amqp_put_string_of(&to, r->reply_to);
        properties.reply_to = nv_writer_span(&to);
    }
    nv_amqp_put_properties_section(&w, &properties);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    uint32_t count = 0;
    put_pair(&w, "operation", r->operation ? r->operation : "put-token", &count);
    put_pair(&w, "type", r->type, &count);
    put_pair(&w, "name", r->name, &count);
    nv_amqp_put_string_of(&w, "expiration");
    nv_amqp_put_timestamp(&w, 0); /* says nothing: the token rules */
    nv_amqp_end_map(&w, mark, count + 2);
    if (r->as_data) {
        nv_amqp_put_data_head(&w, strlen(r->token));
        nv_write_span(&w, nv_span_str(r->token));
    } else if (r->token) {
        nv_amqp_put_value_head(&w);
        if (r->binary) {
            nv_amqp_put_binary(&w, nv_span_str(r->token));
        } else {
            nv_amqp_put_string_of(&w, r->token);
        }
    }
    assert_int_equal(w.err, NV_OK);
    return nv_writer_span(&w);
}

typedef struct pair {
    amqp_client *client;
    amqp_client_link *out;
    amqp_client_link *in;
} pair;

static pair attach_pair(amqp_client *c)
{
    amqp_client_link *in =
        amqp_client_attach(c, false, "$cbs", &(amqp_client_attach_options){.name = "$cbs-receiver", .credit = 1000});
    amqp_client_link *out = amqp_client_attach(c, true, "$cbs", &(amqp_client_attach_options){.name = "$cbs-sender"});
    return (pair){c, out, in};
}

static void ask(const pair *p, const request *r)
{
    assert_int_equal(amqp_client_send(p->out, encode(r), 0, r->settled), NV_OK);
    amqp_rig_settle(p->client->rig);
}

/* The status of the only reply. */
static int64_t status_of(amqp_client_link *in)
{
    amqp_client_message *m = amqp_client_take(in);
    assert_non_null(m);
    assert_true(nv_list_empty(&in->messages));
    const nv_amqp_value *map = &m->message.application_properties;
    nv_amqp_value status;
    nv_amqp_value description;
    nv_amqp_value condition;
    assert_true(nv_amqp_map_find(map, "status-code", &status));
    assert_int_equal(status.type, NV_AMQP_INT);
    assert_true(nv_amqp_map_find(map, "status-description", &description));
    assert_int_equal(description.type, NV_AMQP_STRING);
    assert_true(description.bytes.len > 0);
    assert_int_equal(nv_amqp_map_find(map, "error-condition", &condition), status.i != 200);
    nv_reader at = nv_reader_of(map->bytes);
    nv_amqp_value key;
    nv_amqp_value value;
    while (nv_amqp_map_next(&at, &key, &value)) {
        assert_int_equal(key.type, NV_AMQP_STRING);
    }
    free(m);
    return status.i;
}

static const char *device_token(amqp_rig *rig, const char *device)
{
    char resource[200];
    (void)snprintf(resource, sizeof(resource), AMQP_RIG_HOST "/devices/%s", device);
    return amqp_rig_token(rig, &(amqp_token){.resource = resource});
}

/* ---- replies ------------------------------------------------------------------------------------------------ */

/* conformance: amqp.md 12 */
/* conformance: amqp.md 13 */
static void test_message_ids(void **state)
{
    (void)state;
    static const uint8_t ids[][20] = {
        {1, 0x44},                                             /* ulong 0 */
        {2, 0x53, 7},                                          /* smallulong */
        {9, 0x80, 0, 0, 0, 0, 0, 0, 1, 0},                     /* ulong */
        {17, 0x98, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}, /* uuid */
        {5, 0xa1, 3, 'a', 'b', 'c'},                           /* string */
        {4, 0xa0, 2, 0xff, 0xfe},                              /* binary */
    };
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_anonymous(rig);
    pair p = attach_pair(c);
    for (size_t i = 0; i < NV_COUNT_OF(ids); i++) {
        nv_span id = nv_span_of(ids[i] + 1, ids[i][0]);
        ask(&p, &(request){.id = id, .name = "hub.test/devices/d1", .token = device_token(rig, "d1")});
        const amqp_client_message *m = nv_container_of(p.in->messages.next, amqp_client_message, node);
        nv_span back = m->message.properties.correlation_id;
        nv_reader r = nv_reader_of(id);
        nv_reader s = nv_reader_of(back);
        nv_amqp_value sent;
        nv_amqp_value received;
        assert_true(nv_amqp_read(&r, &sent) && nv_amqp_read(&s, &received));
        assert_int_equal(received.type, sent.type);
        assert_true(nv_span_eq(back, id)); /* not even encoded otherwise */
        assert_int_equal(status_of(p.in), 200);
    }
    ask(&p, &(request){.name = "hub.test/devices/d1", .token = device_token(rig, "d1")}); /* none */
    assert_int_equal(status_of(p.in), 200);
    assert_int_equal(p.out->accepted, NV_COUNT_OF(ids) + 1);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* Performatives of all frames in @p wire, as letters: D disposition, T transfer, ... */
static void letters_of(nv_span wire, char *out, size_t size)
{
    size_t n = 0;
    while (wire.len > 0 && n + 1 < size) {
        nv_amqp_frame frame;
        nv_amqp_performative p;
        nv_reader r;
        assert_int_equal(nv_amqp_read_frame(wire, 65536, &frame), NV_OK);
        wire = nv_span_skip(wire, frame.size);
        r = nv_reader_of(frame.body);
        if (frame.body.len == 0) {
            continue;
        }
        assert_int_equal(nv_amqp_decode(&r, &p), NV_OK);
        out[n++] = p.code == NV_AMQP_DISPOSITION ? 'D' : p.code == NV_AMQP_TRANSFER ? 'T' : '.';
    }
    out[n] = '\0';
}

/* conformance: amqp.md 19 */
static void test_settled_before_the_reply(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_anonymous(rig);
    pair p = attach_pair(c);
    for (int i = 0; i < 3; i++) { /* also when it is there already, and when it is refused */
        nv_buf_clear(&c->from_hub);
        ask(&p, &(request){.name = "hub.test/devices/d1", .token = i < 2 ? device_token(rig, "d1") : "nothing"});
        char letters[100];
        letters_of(nv_buf_span(&c->from_hub), letters, sizeof(letters));
        const char *d = strchr(letters, 'D');
        const char *t = strchr(letters, 'T');
        assert_true(d && t && d < t);
        assert_int_equal(status_of(p.in), i < 2 ? 200 : 400);
    }
    /* several at once: each before its own */
    nv_buf_clear(&c->from_hub);
    for (int i = 0; i < 4; i++) {
        request r = {.name = "hub.test/devices/d1", .token = device_token(rig, "d1")};
        assert_int_equal(amqp_client_send(p.out, encode(&r), 0, false), NV_OK);
    }
    amqp_rig_settle(rig);
    char letters[100];
    letters_of(nv_buf_span(&c->from_hub), letters, sizeof(letters));
    int dispositions = 0;
    int replies = 0;
    for (const char *at = letters; *at; at++) {
        dispositions += *at == 'D';
        replies += *at == 'T';
        assert_true(replies == 0 || dispositions > 0);
    }
    assert_int_equal(replies, 4);
    assert_int_equal(p.out->accepted, 7);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* Receivers: none yet, without credit, several, in another session. */
static void test_where_replies_go(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_anonymous(rig);
    request r = {.name = "hub.test/devices/d1", .token = device_token(rig, "d1")};
    pair p = {c, amqp_client_attach(c, true, "/$cbs", NULL), NULL};
    nv_amqp_session *other = amqp_client_session(c);
    amqp_client_link *far =
        amqp_client_attach(c, false, "$cbs", &(amqp_client_attach_options){.session = other, .name = "far"});
    ask(&p, &r);
    assert_int_equal(p.out->accepted, 1);
    assert_int_equal(far->received, 0);
    /* attached later, credit later still */
    p.in = amqp_client_attach(c, false, "amqps://hub.test/$cbs",
                              &(amqp_client_attach_options){.name = "one", .credit = UINT32_MAX});
    assert_int_equal(p.in->received, 0);
    nv_amqp_link_set_credit(p.in->link, 10);
    amqp_rig_settle(rig);
    assert_int_equal(status_of(p.in), 200);
    /* two of them: reply-to names one, by name or by target */
    amqp_client_link *two = amqp_client_attach(c, false, "$cbs", &(amqp_client_attach_options){.name = "two"});
    r.reply_to = "two";
    ask(&p, &r);
    assert_int_equal(status_of(two), 200);
    r.reply_to = "nobody";
    ask(&p, &r);
    assert_int_equal(status_of(p.in), 200);
    /* gone while it was looked at */
    assert_int_equal(amqp_client_send(p.out, encode(&r), 0, false), NV_OK);
    size_t taken = c->hub->ops->input(c->hub, nv_buf_span(&c->out), nv_mono_us(&rig->clock.clock));
    nv_buf_consume(&c->out, taken);
    amqp_client_detach(p.out);
    assert_false(c->ended);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* ---- what is accepted --------------------------------------------------------------------------------------- */

static const nv_key wrong_key = {"wrong-key-wrong-key", 19};

/* conformance: amqp.md 14 */
/* conformance: amqp.md 15 */
/* conformance: amqp.md 16 */
/* conformance: amqp.md 17 */
/* conformance: amqp.md 18 */
static void test_what_a_token_opens(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const char *type;
        amqp_token token;
        const char *text; /* instead of the token */
        int status;
        const char *address; /* opened then, by a sender; NULL: nothing is tried */
    } rows[] = {
#define EVENTS "/devices/d1/messages/events"
#define SAS    "servicebus.windows.net:sastoken"
#define OWN                                                                                                            \
    {                                                                                                                  \
        .resource = "hub.test/devices/d1"                                                                              \
    }
#define SERVICE                                                                                                        \
    {                                                                                                                  \
        .resource = "hub.test", .policy = "service"                                                                    \
    }
#define NS(r)                                                                                                          \
    {                                                                                                                  \
        .resource = r, .policy = "iothubowner", .as_text = true                                                        \
    }
        /* names */
        {"hub.test/devices/d1", SAS, OWN, NULL, 200, EVENTS},
        {"hub.test%2Fdevices%2Fd1", SAS, OWN, NULL, 200, EVENTS},
        {"hub.test%2fdevices%2fd1", SAS, OWN, NULL, 200, EVENTS},
        {"HUB.TEST/Devices/d1", SAS, OWN, NULL, 200, EVENTS},
        {"amqps://hub.test:5671/devices/d1/", SAS, OWN, NULL, 200, EVENTS},
        {"sb://hub.test/devices/d1", SAS, OWN, NULL, 200, EVENTS},
        {"hub-ns.test/devices/d1", SAS, OWN, NULL, 200, EVENTS},
        {"hub.test/devices/d1/modules/m1",
         SAS,
         {.resource = "hub.test/devices/d1/modules/m1"},
         NULL,
         200,
         "/devices/d1/modules/m1/messages/events"},
        {"hub.test", SAS, {.resource = "hub.test", .policy = "device"}, NULL, 200, EVENTS},
        {"hub.test/devices/d1", SAS, {.resource = "hub.test", .policy = "device"}, NULL, 200, EVENTS},
        {"amqps://hub.test" EVENTS, /* as uamqp signs what it dials */
         SAS,
         {.resource = "amqps://hub.test" EVENTS, .policy = "device", .as_text = true},
         NULL,
         200,
         EVENTS},
        {"hub.test/devices/d1/modules/m1/twin",
         SAS,
         {.resource = "hub.test/devices/d1/modules/m1/twin", .policy = "device"},
         NULL,
         200,
         "/devices/d1/modules/m1/messages/events"},
        {"amqps://hub.test:5671/", SAS, SERVICE, NULL, 200, "/messages/devicebound"},
        {"hub.test", SAS, SERVICE, NULL, 200, "/messages/devicebound"},
        {"sb://hub.test/messages/events/$management",
         SAS,
         {.resource = "sb://hub.test/messages/events/$management", .policy = "iothubowner"},
         NULL,
         200,
         "/messages/events/$management"},
        {"sb://hub-ns.test/hub", SAS, NS("sb://hub-ns.test/hub"), NULL, 200, "$management"},
        {"amqp://hub-ns.test/hub", SAS, NS("amqp://hub-ns.test/hub"), NULL, 200, "$management"},
        {"sb://hub-ns.test/hub/$management", SAS, NS("sb://hub-ns.test/hub"), NULL, 200, "hub/$management"},
        {"amqps://hub-ns.test:5671/hub", SAS, NS("amqps://hub-ns.test:5671/hub"), NULL, 200, "hub/$management"},
        /* types: the text decides */
        {"sb://hub-ns.test/hub", "jwt", NS("sb://hub-ns.test/hub"), NULL, 200, "$management"},
        {"hub.test/devices/d1", "azure-devices.net:sastoken", OWN, NULL, 200, EVENTS},
        {"hub.test/devices/d1", "ServiceBus.Windows.Net:SasToken", OWN, NULL, 200, EVENTS},
        {"hub.test/devices/d1", "Bearer", OWN, NULL, 200, EVENTS},
        {"hub.test/devices/d1", NULL, OWN, NULL, 200, EVENTS},
        {"https://iothubs.azure.net/.default", SAS, OWN, "Bearer eyJhbGciOi", 401, NULL},
        {"hub.test", "jwt", OWN, "eyJhbGciOi", 401, NULL},
        /* both readings of a policy's key, one of a device's */
        {"hub.test",
         SAS,
         {.resource = "hub.test", .policy = "service", .as_text = true},
         NULL,
         200,
         "/messages/devicebound"},
        {"hub.test/devices/d1", SAS, {.resource = "hub.test", .policy = "device", .as_text = true}, NULL, 200, EVENTS},
        {"hub.test/devices/d1", SAS, {.resource = "hub.test/devices/d1", .as_text = true}, NULL, 401, NULL},
        /* wrong */
        {"hub.test/devices/d1", SAS, {.resource = "hub.test/devices/d1", .key = &wrong_key}, NULL, 401, NULL},
        {"hub.test", SAS, {.resource = "hub.test", .policy = "service", .key = &wrong_key}, NULL, 401, NULL},
        {"hub.test", SAS, {.resource = "hub.test", .policy = "nobody"}, NULL, 401, NULL},
        {"hub.test/devices/d1", SAS, {.resource = "hub.test/devices/d1", .ttl_s = -1}, NULL, 401, NULL},
        {"hub.test/devices/d2", SAS, OWN, NULL, 401, NULL},
        {"hub.test", SAS, OWN, NULL, 401, NULL},
        {"hub.test", SAS, {.resource = "hub.test/devices/d1", .policy = "service"}, NULL, 401, NULL},
        {"other.test/devices/d1", SAS, OWN, NULL, 401, NULL},
        {"hub.test/devices/d1", SAS, {.resource = "other.test/devices/d1"}, NULL, 401, NULL},
        {"hub.test/devices/nobody", SAS, {.resource = "hub.test/devices/nobody"}, NULL, 401, NULL},
        {"hub.test/devices/a b", SAS, {.resource = "hub.test/devices/a b"}, NULL, 401, NULL},
        /* malformed */
        {NULL, SAS, OWN, NULL, 400, NULL},
        {"", SAS, OWN, NULL, 400, NULL},
        {"hub.test/%zz", SAS, OWN, NULL, 400, NULL},
        {"hub.test/devices/d1", SAS, OWN, "SharedAccessSignature sr=hub.test%2Fdevices%2Fd1&se=1", 400, NULL},
        {"hub.test/devices/d1", SAS, OWN, "SharedAccessSignature ", 400, NULL},
        {"hub.test/devices/d1", SAS, OWN, "secret", 400, NULL},
        {"hub.test", SAS, OWN, "SharedAccessSignature sr=hub.test&sig=x&se=1&skn=service", 400, NULL},
    };
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_rig_add(rig, "d1", "m1");
    amqp_rig_add(rig, "d2", NULL);
    amqp_rig_add(rig, "kept", NULL);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        amqp_client *c = amqp_client_anonymous(rig);
        pair p = attach_pair(c);
        print_message("%zu: %s, %s\n", i, rows[i].name ? rows[i].name : "-", rows[i].token.resource);
        ask(&p, &(request){.name = "hub.test/devices/kept", .token = device_token(rig, "kept")});
        assert_int_equal(status_of(p.in), 200);
        amqp_client_link *kept = amqp_client_attach(c, true, "/devices/kept/messages/events", NULL);
        assert_false(kept->ended);
        ask(&p, &(request){.name = rows[i].name,
                           .type = rows[i].type,
                           .token = rows[i].text ? rows[i].text : amqp_rig_token(rig, &rows[i].token)});
        assert_int_equal(status_of(p.in), rows[i].status);
        if (rows[i].address) {
            amqp_client_link *l = amqp_client_attach(c, true, rows[i].address, NULL);
            assert_string_not_equal(l->condition, UNAUTHORIZED);
            const amqp_token *t = &rows[i].token; /* what it covers is what its resource says, not the name */
            bool all = t->policy && strcmp(t->policy, "device") == 0 && strcmp(t->resource, "hub.test") == 0;
            amqp_client_link *other = amqp_client_attach(c, true, "/devices/d2/messages/events", NULL);
            assert_string_equal(other->condition, all ? "" : UNAUTHORIZED);
        }
        assert_false(kept->ended || c->ended); /* what is open under another token stays */
        amqp_client_free(c);
    }
    amqp_rig_free(rig);
}

static void test_other_requests(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_anonymous(rig);
    pair p = attach_pair(c);
    const char *token = device_token(rig, "d1");
    static const struct {
        const char *operation;
        int shape;
        int status;
    } rows[] = {{"put-token", 0, 200}, {"Put-Token", 1, 200},    {"put-token", 2, 200},
                {"put-token", 3, 400}, {"delete-token", 0, 400}, {"", 0, 400}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        ask(&p, &(request){.operation = rows[i].operation,
                           .name = "hub.test/devices/d1",
                           .token = rows[i].shape == 3 ? NULL : token,
                           .as_data = rows[i].shape == 1,
                           .binary = rows[i].shape == 2,
                           .settled = i == 1});
        assert_int_equal(status_of(p.in), rows[i].status);
    }
    /* no message at all */
    static const uint8_t nonsense[] = {0x00, 0x53, 0x75, 0xff};
    assert_int_equal(amqp_client_send(p.out, nv_span_of(nonsense, sizeof(nonsense)), 0, false), NV_OK);
    amqp_rig_settle(rig);
    assert_int_equal(p.out->rejected, 1);
    assert_string_equal(p.out->reject_condition, "amqp:decode-error");
    /* an id longer than any */
    static uint8_t long_id[3000] = {0xb0, 0, 0, 0x0b, 0xb0};
    assert_int_equal(
        amqp_client_send(p.out, encode(&(request){.id = nv_span_of(long_id, 5 + 0xbb0), .token = token}), 0, false),
        NV_OK);
    amqp_rig_settle(rig);
    assert_int_equal(p.out->rejected, 2);
    assert_false(c->ended || p.out->ended);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* ---- time --------------------------------------------------------------------------------------------------- */

/* conformance: amqp.md 20 */
static void test_three_hundred_devices(void **state)
{
    (void)state;
    enum { DEVICES = 300 };
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_client *c = amqp_client_anonymous(rig);
    static amqp_client_link *links[DEVICES];
    for (int i = 0; i < DEVICES; i++) {
        char name[40];
        char audience[80];
        char address[80];
        (void)snprintf(name, sizeof(name), "d%d", i);
        (void)snprintf(audience, sizeof(audience), "hub.test/devices/d%d", i);
        (void)snprintf(address, sizeof(address), "/devices/d%d/messages/events", i);
        amqp_rig_add(rig, name, NULL);
        assert_int_equal(amqp_client_put_token(c, audience, device_token(rig, name)), 200);
        links[i] = amqp_client_attach(c, true, address, NULL);
        assert_true(links[i]->attached && !links[i]->ended);
    }
    assert_int_equal(nv_devices_connected(rig->hub), DEVICES);
    for (int i = 0; i < DEVICES; i++) {
        amqp_client_send_body(links[i], "mine");
    }
    amqp_rig_delete(rig, "d7", NULL); /* one's fate is its own */
    amqp_client_detach(links[8]);
    amqp_client_expect_end(links[7], "amqp:not-found");
    for (int i = 0; i < DEVICES; i++) {
        assert_int_equal(!links[i]->ended, i != 7 && i != 8);
    }
    assert_false(c->ended);
    assert_int_equal(nv_devices_connected(rig->hub), DEVICES - 2);
    amqp_client_free(c);
    assert_int_equal(nv_devices_connected(rig->hub), 0);
    amqp_rig_free(rig);
}

static void put(amqp_client *c, const char *device, int64_t ttl_s, const nv_key *key)
{
    char resource[100];
    (void)snprintf(resource, sizeof(resource), "hub.test/devices/%s", device);
    const char *token = amqp_rig_token(c->rig, &(amqp_token){.resource = resource, .ttl_s = ttl_s, .key = key});
    assert_int_equal(amqp_client_put_token(c, resource, token), 200);
}

/* conformance: amqp.md 21 */
/* conformance: amqp.md 22 */
static void test_renewal_and_expiry(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_rig_add(rig, "d2", NULL);
    amqp_client *c = amqp_client_anonymous(rig);
    put(c, "d1", 60, NULL);
    put(c, "d2", 60, NULL);
    amqp_client_link *one = amqp_client_attach(c, true, "/devices/d1/messages/events", NULL);
    amqp_client_link *two = amqp_client_attach(c, true, "/devices/d2/messages/events", NULL);
    amqp_rig_advance(rig, 50 * NV_US_PER_S);
    put(c, "d1", 60, NULL); /* by the same $cbs links */
    amqp_rig_advance(rig, 9 * NV_US_PER_S);
    assert_false(one->ended || two->ended);
    amqp_rig_advance(rig, 2 * NV_US_PER_S);
    amqp_client_expect_end(two, UNAUTHORIZED);
    assert_non_null(strstr(two->description, "ErrorCode:IotHubUnauthorizedAccess;"));
    assert_false(one->ended || c->ended);
    amqp_client_send_body(one, "still there");
    amqp_client_expect_end(amqp_client_attach(c, true, "/devices/d2/twin", NULL), UNAUTHORIZED);
    put(c, "d2", 600, NULL); /* and comes back */
    two = amqp_client_attach(c, true, "/devices/d2/messages/events", NULL);
    assert_false(two->ended);
    amqp_rig_advance(rig, 60 * NV_US_PER_S);
    amqp_client_expect_end(one, UNAUTHORIZED);
    assert_false(two->ended || c->ended);
    amqp_rig_advance(rig, 600 * NV_US_PER_S); /* the last one takes the connection along */
    amqp_client_expect_end(two, UNAUTHORIZED);
    assert_true(c->ended);
    assert_string_equal(c->condition, UNAUTHORIZED);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

static void test_expiry_of_policies(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_anonymous(rig);
    const char *token = amqp_rig_token(rig, &(amqp_token){.resource = "hub.test", .policy = "service", .ttl_s = 30});
    assert_int_equal(amqp_client_put_token(c, "hub.test", token), 200);
    put(c, "d1", 600, NULL);
    amqp_client_link *device = amqp_client_attach(c, true, "/devices/d1/messages/events", NULL);
    amqp_client_link *gone = amqp_client_attach(c, true, "/messages/devicebound", NULL);
    amqp_client_detach(gone);
    amqp_client_link *feedback = amqp_client_attach(c, false, "/messages/serviceBound/feedback", NULL);
    assert_false(feedback->ended);
    amqp_rig_advance(rig, 32 * NV_US_PER_S);
    amqp_client_expect_end(feedback, UNAUTHORIZED);
    assert_false(device->ended || c->ended);
    amqp_client_free(c);

    /* PLAIN: the only one there is */
    amqp_client_options options = {
        .mechanism = "PLAIN",
        .user = "service@sas.root.hub",
        .password = amqp_rig_token(rig, &(amqp_token){.resource = "hub.test", .policy = "service", .ttl_s = 30})};
    c = amqp_client_new(rig, &options);
    feedback = amqp_client_attach(c, false, "/messages/serviceBound/feedback", NULL);
    assert_false(feedback->ended);
    amqp_rig_advance(rig, 32 * NV_US_PER_S);
    amqp_client_expect_end(feedback, UNAUTHORIZED);
    amqp_rig_advance(rig, 4 * NV_US_PER_S);
    assert_true(c->ended);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* A wider token keeps what a narrower one opened. */
static void test_one_of_two_tokens_expires(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_anonymous(rig);
    put(c, "d1", 30, NULL);
    amqp_client_link *l = amqp_client_attach(c, true, "/devices/d1/messages/events", NULL);
    const char *token = amqp_rig_token(rig, &(amqp_token){.resource = "hub.test", .policy = "device", .ttl_s = 100});
    assert_int_equal(amqp_client_put_token(c, "hub.test", token), 200);
    amqp_rig_advance(rig, 60 * NV_US_PER_S);
    assert_false(l->ended);
    amqp_rig_advance(rig, 60 * NV_US_PER_S);
    amqp_client_expect_end(l, UNAUTHORIZED);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* The key of the newest token is what the claim stands on. */
static void test_renewal_with_the_other_key(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_anonymous(rig);
    put(c, "d1", 600, NULL);
    amqp_client_link *l = amqp_client_attach(c, true, "/devices/d1/messages/events", NULL);
    put(c, "d1", 600, &amqp_rig_secondary_key);
    assert_false(l->ended);
    nv_identity_spec spec = amqp_rig_spec("d1", NULL);
    spec.primary_key.bytes[5] ^= 1;
    amqp_rig_put(rig, &spec);
    assert_false(l->ended);
    spec.secondary_key.bytes[5] ^= 1;
    amqp_rig_put(rig, &spec);
    amqp_client_expect_end(l, UNAUTHORIZED);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

static void test_too_many_tokens(void **state)
{
    (void)state;
    nv_limits limits = nv_limits_open;
    limits.amqp_tokens = 3;
    amqp_rig *rig = amqp_rig_new(&(amqp_rig_options){.limits = &limits});
    amqp_client *c = amqp_client_anonymous(rig);
    for (int i = 0; i < 5; i++) {
        char name[40];
        char audience[80];
        (void)snprintf(name, sizeof(name), "d%d", i);
        (void)snprintf(audience, sizeof(audience), "hub.test/devices/d%d", i);
        amqp_rig_add(rig, name, NULL);
        assert_int_equal(amqp_client_put_token(c, audience, device_token(rig, name)), i < 3 ? 200 : 403);
    }
    put(c, "d1", 600, NULL); /* no further one */
    amqp_client_free(c);
    amqp_rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_message_ids),
        cmocka_unit_test(test_settled_before_the_reply),
        cmocka_unit_test(test_where_replies_go),
        cmocka_unit_test(test_what_a_token_opens),
        cmocka_unit_test(test_other_requests),
        cmocka_unit_test(test_three_hundred_devices),
        cmocka_unit_test(test_renewal_and_expiry),
        cmocka_unit_test(test_expiry_of_policies),
        cmocka_unit_test(test_one_of_two_tokens_expires),
        cmocka_unit_test(test_renewal_with_the_other_key),
        cmocka_unit_test(test_too_many_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
