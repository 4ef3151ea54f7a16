/* Connections of the hub's AMQP server: headers, SASL, strangers, certificates, ATTACH, the end. */
#include "codec/base64.h"
#include "core/policies.h"
#include "session/amqp/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define EVENTS       "/devices/d1/messages/events"
#define UNAUTHORIZED "amqp:unauthorized-access"

static nv_refusal last_refusal(const amqp_rig *rig, const char *device, const char *module)
{
    nv_refusal_entry entry;
    size_t n = nv_refusals_list(rig->hub->refusals, nv_span_str(device), nv_span_str(module), &entry, 1);
    assert_true(n == 0 || strcmp(entry.protocol, "amqp") == 0);
    return n ? entry.refusal : NV_REFUSAL_NONE;
}

/* ---- headers and OPEN --------------------------------------------------------------------------------------- */

static void check_mechanisms(const amqp_client *c)
{
    nv_span wire = nv_buf_span(&c->from_hub);
    nv_amqp_protocol protocol;
    assert_int_equal(nv_amqp_read_header(wire, &protocol), NV_OK);
    assert_int_equal(protocol, NV_AMQP_PROTOCOL_SASL);
    nv_amqp_frame frame;
    nv_amqp_performative p;
    assert_int_equal(nv_amqp_read_frame(nv_span_skip(wire, NV_AMQP_HEADER_SIZE), 8192, &frame), NV_OK);
    assert_int_equal(nv_amqp_decode_span(frame.body, &p), NV_OK);
    assert_int_equal(p.code, NV_AMQP_SASL_MECHANISMS);
    nv_reader r = nv_reader_of(p.sasl_mechanisms.mechanisms);
    nv_amqp_value array;
    assert_true(nv_amqp_read(&r, &array));
    assert_int_equal(array.type, NV_AMQP_ARRAY);
    static const char *const names[] = {"PLAIN", "ANONYMOUS", "EXTERNAL", "MSSBCBS"};
    nv_reader at = nv_reader_of(array.bytes);
    nv_amqp_value name;
    size_t i = 0;
    for (; nv_amqp_array_next(&array, &at, &name); i++) {
        assert_int_equal(name.type, NV_AMQP_SYMBOL);
        assert_true(i < NV_COUNT_OF(names) && nv_span_eq_str(name.bytes, names[i]));
    }
    assert_int_equal(i, NV_COUNT_OF(names));
}

/* conformance: amqp.md 4 */
/* conformance: amqp.md 10 */
static void test_headers_and_open(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    for (int sasl = 0; sasl < 2; sasl++) {
        amqp_client *c = amqp_client_new(rig, &(amqp_client_options){.mechanism = sasl ? "ANONYMOUS" : NULL});
        assert_true(c->opened && !c->ended);
        if (sasl) {
            check_mechanisms(c);
        }
        assert_int_equal(c->hub_open.max_frame_size, 65536);
        assert_true(NV_AMQP_HAS(&c->hub_open, open, channel_max) && c->hub_open.channel_max >= 8191);
        assert_int_equal(c->hub_open.idle_time_out, 240000);
        assert_true(nv_span_starts_with(c->hub_open.container_id, nv_span_str("DeviceGateway_")));
        assert_int_equal(c->hub_open.container_id.len, strlen("DeviceGateway_") + 36);
        amqp_client_close(c);
        assert_true(c->ended);
        amqp_client_free(c);
    }
    amqp_rig_free(rig);
}

/* ---- PLAIN -------------------------------------------------------------------------------------------------- */

static const nv_key wrong_key = {"wrong-key-wrong-key", 19};

typedef struct login {
    const char *user;
    amqp_token token;
    nv_refusal why;     /* NONE: it is let in */
    const char *device; /* whose refusal, or who may attach */
    const char *module;
} login;

static void make_device_names(amqp_rig *rig)
{
    static const char *const names[] = {"d1", "d2", "a#b", "x@sas.y"};
    for (size_t i = 0; i < NV_COUNT_OF(names); i++) {
        amqp_rig_add(rig, names[i], NULL);
    }
    amqp_rig_add(rig, "d1", "m1");
    nv_identity_spec off = amqp_rig_spec("off", NULL);
    off.enabled = false;
    amqp_rig_put(rig, &off);
}

static void check_login(amqp_rig *rig, const login *row)
{
    amqp_client_options options = {
        .mechanism = "PLAIN",
        .user = row->user,
        .password = row->token.resource ? amqp_rig_token(rig, &row->token) : "",
    };
    print_message("%s with %s\n", row->user, row->token.resource ? row->token.resource : "nothing");
    amqp_client *c = amqp_client_new(rig, &options);
    if (row->why != NV_REFUSAL_NONE) {
        assert_false(c->opened);
        assert_true(c->ended && c->cut); /* outcome 1, then the transport goes */
        assert_string_equal(c->condition, UNAUTHORIZED);
        if (row->device) {
            assert_int_equal(last_refusal(rig, row->device, row->module), row->why);
        }
    } else {
        char address[200];
        assert_true(c->opened && !c->ended);
        (void)snprintf(address, sizeof(address), "/devices/%s%s%s/twin", row->device, row->module ? "/modules/" : "",
                       row->module ? row->module : "");
        amqp_client_link *own = amqp_client_attach(c, true, address, NULL);
        assert_false(own->ended);
        amqp_client_link *other = amqp_client_attach(c, true, "/devices/d2/twin", NULL);
        amqp_client_expect_end(other, UNAUTHORIZED);
        amqp_client_link *service = amqp_client_attach(c, true, "/messages/devicebound", NULL);
        amqp_client_expect_end(service, UNAUTHORIZED);
        assert_false(own->ended || c->ended);
        assert_int_equal(last_refusal(rig, "d2", NULL), NV_REFUSAL_NOT_COVERED);
    }
    amqp_client_free(c);
}

/* conformance: amqp.md 5 */
/* conformance: amqp.md 7 */
/* conformance: amqp.md 24 */
static void test_plain_of_devices(void **state)
{
    (void)state;
    static const login rows[] = {
        {"d1@sas.hub", {.resource = "hub.test/devices/d1"}, NV_REFUSAL_NONE, "d1", NULL},
        {"d1@sas.hub",
         {.resource = "hub.test/devices/d1", .key = &amqp_rig_secondary_key},
         NV_REFUSAL_NONE,
         "d1",
         NULL},
        {"d1@sas.HUB", {.resource = "HUB.test/devices/d1"}, NV_REFUSAL_NONE, "d1", NULL},
        {"d1@sas.hub.test", {.resource = "hub.test/devices/d1"}, NV_REFUSAL_NONE, "d1", NULL},
        {"d1@sas.hub-ns", {.resource = "hub-ns.test/devices/d1"}, NV_REFUSAL_NONE, "d1", NULL},
        {"d1@hub", {.resource = "hub.test/devices/d1"}, NV_REFUSAL_NONE, "d1", NULL},
        {"d1%40sas.hub", {.resource = "hub.test/devices/d1"}, NV_REFUSAL_NONE, "d1", NULL},
        {"a%23b@sas.hub", {.resource = "hub.test/devices/a#b"}, NV_REFUSAL_NONE, "a%23b", NULL},
        {"a#b@sas.hub", {.resource = "hub.test/devices/a#b"}, NV_REFUSAL_NONE, "a%23b", NULL},
        {"x@sas.y@sas.hub", {.resource = "hub.test/devices/x@sas.y"}, NV_REFUSAL_NONE, "x@sas.y", NULL},
        {"d1/modules/m1@sas.hub", {.resource = "hub.test/devices/d1/modules/m1"}, NV_REFUSAL_NONE, "d1", "m1"},
        {"d1%2Fmodules%2Fm1@sas.hub", {.resource = "hub.test/devices/d1/modules/m1"}, NV_REFUSAL_NONE, "d1", "m1"},
        {"%64%31/modules/%6D1@sas.hub", {.resource = "hub.test/devices/d1/modules/m1"}, NV_REFUSAL_NONE, "d1", "m1"},
        {"d1@sas.hub", {.resource = "hub.test", .policy = "device"}, NV_REFUSAL_NONE, "d1", NULL},
        {"d1@sas.hub", {.resource = "hub.test/devices/d1", .policy = "iothubowner"}, NV_REFUSAL_NONE, "d1", NULL},
        {"d1@sas.hub", {.resource = "hub.test", .policy = "device", .as_text = true}, NV_REFUSAL_NONE, "d1", NULL},
        /* and not */
        {"d1@sas.hub", {.resource = "hub.test/devices/d1", .key = &wrong_key}, NV_REFUSAL_TOKEN_SIGNATURE, "d1", NULL},
        {"d1@sas.hub", {.resource = "hub.test/devices/d1", .as_text = true}, NV_REFUSAL_TOKEN_SIGNATURE, "d1", NULL},
        {"d1@sas.hub", {.resource = "hub.test/devices/d1", .ttl_s = -10}, NV_REFUSAL_TOKEN_EXPIRED, "d1", NULL},
        {"d1@sas.hub", {.resource = "hub.test/devices/d2"}, NV_REFUSAL_TOKEN_AUDIENCE, "d1", NULL},
        {"d1@sas.hub", {.resource = "other.test/devices/d1"}, NV_REFUSAL_HOST, "d1", NULL},
        {"d1@sas.other", {.resource = "hub.test/devices/d1"}, NV_REFUSAL_HOST, "d1", NULL},
        {"d1@sas.hu", {.resource = "hub.test/devices/d1"}, NV_REFUSAL_HOST, "d1", NULL},
        {"d1@sas.hub", {.resource = "hub.test", .policy = "service"}, NV_REFUSAL_POLICY_RIGHT, "d1", NULL},
        {"d1@sas.hub", {.resource = "hub.test", .policy = "nobody"}, NV_REFUSAL_POLICY_UNKNOWN, "d1", NULL},
        {"d1/modules/m1@sas.hub", {.resource = "hub.test/devices/d1"}, NV_REFUSAL_TOKEN_AUDIENCE, "d1", "m1"},
        {"d1/modules/m9@sas.hub",
         {.resource = "hub.test/devices/d1/modules/m9"},
         NV_REFUSAL_UNKNOWN_DEVICE,
         "d1",
         "m9"},
        {"nobody@sas.hub", {.resource = "hub.test/devices/nobody"}, NV_REFUSAL_UNKNOWN_DEVICE, "nobody", NULL},
        {"off@sas.hub", {.resource = "hub.test/devices/off"}, NV_REFUSAL_DISABLED, "off", NULL},
        {"d1@sas.hub", {.resource = NULL}, NV_REFUSAL_NO_CREDENTIAL, "d1", NULL},
        {"d1", {.resource = "hub.test/devices/d1"}, NV_REFUSAL_SASL, NULL, NULL},
        {"@sas.hub", {.resource = "hub.test/devices/d1"}, NV_REFUSAL_SASL, NULL, NULL},
        {"", {.resource = "hub.test/devices/d1"}, NV_REFUSAL_SASL, NULL, NULL},
        {"d1@", {.resource = "hub.test/devices/d1"}, NV_REFUSAL_SASL, NULL, NULL},
    };
    amqp_rig *rig = amqp_rig_new(NULL);
    make_device_names(rig);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        check_login(rig, &rows[i]);
    }
    amqp_rig_free(rig);
}

/* Rights: what each policy may attach. */
/* conformance: amqp.md 6 */
static void test_plain_of_policies(void **state)
{
    (void)state;
    static const struct {
        const char *policy;
        const char *resource;
        bool as_text;
        bool service;
        bool device;
        const char *named; /* the policy of the user name, where it is another */
    } rows[] = {
        {"iothubowner", "hub.test", false, true, true, NULL},
        {"iothubowner", "hub.test", true, true, true, NULL},
        {"service", "hub.test", false, true, false, NULL},
        {"service", "sb://hub.test/", false, true, false, NULL},
        {"device", "hub.test", false, false, true, NULL},
        {"registryRead", "hub.test", false, false, false, NULL},
        /* The C SDK's service client is always called iothubowner; its token says who it is. */
        {"service", "hub.test", false, true, false, "iothubowner"},
        {"registryRead", "hub.test", false, false, false, "iothubowner"},
    };
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char user[100];
        (void)snprintf(user, sizeof(user), "%s@sas.root.hub", rows[i].named ? rows[i].named : rows[i].policy);
        amqp_client_options options = {.mechanism = "PLAIN",
                                       .user = user,
                                       .password = amqp_rig_token(rig, &(amqp_token){.resource = rows[i].resource,
                                                                                     .policy = rows[i].policy,
                                                                                     .as_text = rows[i].as_text})};
        amqp_client *c = amqp_client_new(rig, &options);
        assert_true(c->opened && !c->ended);
        amqp_client_link *service = amqp_client_attach(c, true, "/messages/devicebound", NULL);
        assert_int_equal(strcmp(service->condition, UNAUTHORIZED) != 0, rows[i].service);
        amqp_client_link *device = amqp_client_attach(c, true, EVENTS, NULL);
        assert_int_equal(!device->ended, rows[i].device);
        amqp_client_free(c);
    }
    static const struct {
        const char *user;
        amqp_token token;
    } bad[] = {
        {"service@sas.root.hub",
         {.resource = "hub.test", .policy = "iothubowner"}}, /* another policy's, that opens more */
        {"service@sas.root.hub", {.resource = "hub.test", .policy = "device"}},
        {"nobody@sas.root.hub", {.resource = "hub.test", .policy = "service"}},
        {"iothubowner@sas.root.hub", {.resource = "hub.test", .policy = "service", .key = &amqp_rig_key}},
        {"service@sas.root.hub", {.resource = "hub.test", .policy = "service", .key = &amqp_rig_key}},
        {"service@sas.root.hub", {.resource = "hub.test", .policy = "service", .ttl_s = -1}},
        {"service@sas.root.other", {.resource = "hub.test", .policy = "service"}},
        {"service@sas.root.hub", {.resource = "other.test", .policy = "service"}},
        {"service@sas.root.hub", {.resource = "hub.test"}}, /* names no policy */
        {"nobody@sas.root.hub", {.resource = "hub.test", .policy = "nobody"}},
    };
    for (size_t i = 0; i < NV_COUNT_OF(bad); i++) {
        amqp_client_options options = {
            .mechanism = "PLAIN", .user = bad[i].user, .password = amqp_rig_token(rig, &bad[i].token)};
        amqp_client *c = amqp_client_new(rig, &options);
        assert_false(c->opened);
        assert_string_equal(c->condition, UNAUTHORIZED);
        amqp_client_free(c);
    }
    amqp_rig_free(rig);
}

/* The namespace's users are the policies; what they give is a key as it is printed, or a token. */
static void test_plain_of_the_namespace(void **state)
{
    (void)state;
    enum { KEY, SECONDARY, DECODED, TOKEN, NOTHING, OTHERS };
    static const struct {
        const char *user;
        int password;
        bool in;
        bool service;
    } rows[] = {
        {"service", KEY, true, true},       {"service", SECONDARY, true, true}, {"service", TOKEN, true, true},
        {"%73ervice", KEY, true, true},     {"iothubowner", KEY, true, true},   {"registryRead", KEY, true, false},
        {"service", DECODED, false, false}, {"service", OTHERS, false, false},  {"service", NOTHING, false, false},
        {"nobody", KEY, false, false},
    };
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        const char *name = rows[i].user[0] == '%' || strcmp(rows[i].user, "nobody") == 0 ? "service" : rows[i].user;
        const nv_policy *policy = nv_policies_find(rig->hub->policies, nv_span_str(name));
        const nv_policy *other = nv_policies_find(rig->hub->policies, nv_span_str("device"));
        const nv_key *key = rows[i].password == SECONDARY ? &policy->secondary_key
                            : rows[i].password == OTHERS  ? &other->primary_key
                                                          : &policy->primary_key;
        char text[NV_BASE64_LEN(NV_KEY_MAX) + 1] = "";
        nv_writer w = nv_writer_of(text, sizeof(text) - 1);
        if (rows[i].password == DECODED) {
            nv_write_span(&w, nv_span_of(key->bytes, key->len));
        } else if (rows[i].password != NOTHING) {
            nv_base64_encode(nv_span_of(key->bytes, key->len), &w);
        }
        amqp_client_options options = {.mechanism = "PLAIN", .user = rows[i].user, .password = text};
        if (rows[i].password == TOKEN) {
            options.password = amqp_rig_token(rig, &(amqp_token){.resource = "sb://hub.test/hub", .policy = name});
        }
        print_message("%s %d\n", rows[i].user, rows[i].password);
        amqp_client *c = amqp_client_new(rig, &options);
        assert_int_equal(c->opened && !c->ended, rows[i].in);
        if (rows[i].in) {
            amqp_client_link *link = amqp_client_attach(c, true, "$management", NULL);
            assert_int_equal(!link->ended, rows[i].service);
            link = amqp_client_attach(c, true, EVENTS, NULL); /* nobody is a device by a key alone */
            amqp_client_expect_end(link, UNAUTHORIZED);
        } else {
            assert_string_equal(c->condition, UNAUTHORIZED);
        }
        amqp_client_free(c);
    }
    amqp_rig_free(rig);
}

/* A narrow resource opens no more than it says. */
static void test_policy_with_a_path(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_client_options options = {
        .mechanism = "PLAIN",
        .user = "service@sas.root.hub",
        .password =
            amqp_rig_token(rig, &(amqp_token){.resource = "hub.test/messages/devicebound", .policy = "service"})};
    amqp_client *c = amqp_client_new(rig, &options);
    assert_true(c->opened && !c->ended);
    amqp_client_link *send = amqp_client_attach(c, true, "/Messages/DeviceBound", NULL);
    assert_string_not_equal(send->condition, UNAUTHORIZED);
    amqp_client_link *feedback = amqp_client_attach(c, false, "/messages/serviceBound/feedback", NULL);
    amqp_client_expect_end(feedback, UNAUTHORIZED);
    amqp_client_expect_end(amqp_client_attach(c, true, "$management", NULL), UNAUTHORIZED);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* ---- strangers ---------------------------------------------------------------------------------------------- */

/* conformance: amqp.md 8 */
/* conformance: amqp.md 9 */
static void test_strangers(void **state)
{
    (void)state;
    static const struct {
        const char *mechanism;
        const char *user; /* becomes the initial response */
    } rows[] = {{NULL, NULL}, {"ANONYMOUS", NULL}, {"ANONYMOUS", "iothubowner"}, {"MSSBCBS", NULL}, {"MSSBCBS", "x"}};
    static const char *const refused[] = {
        EVENTS,        "/messages/devicebound",          "/messages/events/$management", "hub/$management",
        "$management", "/messages/serviceBound/feedback"};
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        amqp_client_options options = {.mechanism = rows[i].mechanism, .user = rows[i].user, .password = ""};
        amqp_client *c = amqp_client_new(rig, &options);
        assert_true(c->opened && !c->ended);
        for (size_t j = 0; j < NV_COUNT_OF(refused); j++) {
            amqp_client_link *l = amqp_client_attach(c, true, refused[j], NULL);
            amqp_client_expect_end(l, UNAUTHORIZED);
            assert_true(strlen(l->description) > 10);
            assert_true(l->info.end > 0); /* all three fields of an error */
        }
        amqp_client_link *cbs = amqp_client_attach(c, true, "$cbs", NULL);
        assert_true(cbs->attached && !cbs->ended && !c->ended);
        assert_false(c->hub->authenticated);
        amqp_client_free(c);
    }
    amqp_rig_free(rig);
}

static void test_strangers_are_bounded(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_client *c = amqp_client_anonymous(rig);
    unsigned taken = 0;
    amqp_client_link *last = NULL;
    for (int i = 0; i < 20; i++) {
        last = amqp_client_attach(c, i % 2, "$cbs", NULL);
        taken += !last->ended;
    }
    assert_true(taken >= 2 && taken <= 16);
    amqp_client_expect_end(last, "amqp:resource-limit-exceeded");
    assert_false(c->ended);
    amqp_rig_advance(rig, 119 * NV_US_PER_S);
    assert_false(c->ended);
    amqp_rig_advance(rig, 2 * NV_US_PER_S);
    assert_true(c->ended);
    assert_string_equal(c->condition, UNAUTHORIZED);
    amqp_client_free(c);

    c = amqp_client_anonymous(rig); /* guesses tokens */
    int guesses = 0;
    for (; guesses < 100 && !c->ended; guesses++) {
        assert_int_equal(amqp_client_put_token(c, "hub.test/devices/d1",
                                               amqp_rig_token(rig, &(amqp_token){.resource = "hub.test/devices/d1"})),
                         401);
    }
    assert_int_equal(guesses, 32);
    assert_true(c->ended);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* As Java's multiplexing client does: a session for each device, and only then the first token. */
static amqp_client *begin_many(amqp_rig *rig, int sessions)
{
    amqp_client *c = amqp_client_anonymous(rig);
    for (int i = 1; i < sessions && !c->ended; i++) {
        (void)nv_amqp_session_begin(&c->conn);
    }
    amqp_rig_settle(rig);
    return c;
}

static void test_strangers_with_many_sessions(void **state)
{
    (void)state;
    enum { CROWD = 64 };
    amqp_client *crowd[CROWD];
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = begin_many(rig, 1001);
    assert_false(c->ended);
    assert_int_equal(amqp_client_put_token(
                         c, "hub.test/devices/d1",
                         amqp_rig_token(rig, &(amqp_token){.resource = "hub.test/devices/d1", .key = &amqp_rig_key})),
                     200);
    nv_amqp_session *last = amqp_client_session(c);
    amqp_client_link *link = amqp_client_attach(c, true, EVENTS, &(amqp_client_attach_options){.session = last});
    amqp_client_send_body(link, "of the last session");
    amqp_client *greedy = begin_many(rig, 1030);
    assert_true(greedy->ended);
    assert_string_equal(greedy->condition, "amqp:resource-limit-exceeded");
    amqp_client_free(greedy);
    for (int i = 0; i < CROWD; i++) { /* who has shown a token is not counted among them */
        crowd[i] = begin_many(rig, 9);
        assert_false(crowd[i]->ended);
    }
    greedy = begin_many(rig, 9);
    assert_true(greedy->ended);
    amqp_client_free(greedy);
    amqp_client *modest = begin_many(rig, 8);
    assert_false(modest->ended);
    amqp_client_free(crowd[0]);
    crowd[0] = begin_many(rig, 9); /* there is room for another */
    assert_false(crowd[0]->ended || c->ended);
    for (int i = 0; i < CROWD; i++) {
        amqp_client_free(crowd[i]);
    }
    amqp_client_free(modest);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* ---- certificates ------------------------------------------------------------------------------------------- */

/* conformance: amqp.md 59 */
static void test_certificates(void **state)
{
    (void)state;
    nv_peer_certificate wrong = *amqp_rig_certificate();
    wrong.sha256[0] ^= 1;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add_x509(rig, "x1");
    amqp_rig_add(rig, "d1", NULL);
    static const char *const mechanisms[] = {NULL, "EXTERNAL"};
    for (size_t i = 0; i < NV_COUNT_OF(mechanisms); i++) {
        amqp_client_options options = {.mechanism = mechanisms[i], .certificate = amqp_rig_certificate()};
        amqp_client *c = amqp_client_new(rig, &options);
        amqp_client_link *own = amqp_client_attach(c, true, "/devices/x1/messages/events", NULL);
        assert_true(own->attached && !own->ended);
        amqp_client_send_body(own, "signed by nobody");
        amqp_client_expect_end(amqp_client_attach(c, true, EVENTS, NULL), UNAUTHORIZED);
        assert_false(own->ended || c->ended);
        assert_true(c->hub->authenticated);
        amqp_client_free(c);

        options.certificate = &wrong; /* no failure of the connection, but of the link */
        c = amqp_client_new(rig, &options);
        assert_true(c->opened && !c->ended);
        amqp_client_expect_end(amqp_client_attach(c, true, "/devices/x1/messages/events", NULL), UNAUTHORIZED);
        assert_int_equal(last_refusal(rig, "x1", NULL), NV_REFUSAL_CERTIFICATE);
        assert_false(c->ended);
        amqp_client_free(c);
    }
    amqp_client *c = amqp_client_new(rig, &(amqp_client_options){.mechanism = NULL}); /* none at all */
    amqp_client_expect_end(amqp_client_attach(c, true, "/devices/x1/messages/events", NULL), UNAUTHORIZED);
    amqp_client_free(c);
    c = amqp_client_new(rig, &(amqp_client_options){.mechanism = "EXTERNAL"});
    assert_false(c->opened);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* ---- ATTACH ------------------------------------------------------------------------------------------------- */

static void test_what_is_not_there(void **state)
{
    (void)state;
    static const struct {
        const char *address;
        bool sender;
        const char *condition;
    } rows[] = {
        {"/devices/d1/nothing", true, "amqp:not-allowed"},
        {"/devices/d1/messages/events", false, "amqp:not-allowed"},
        {"/devices/d1/messages/devicebound", true, "amqp:not-allowed"},
        {"/devices/d%2F/twin", true, "amqp:invalid-field"},
        {"/messages/devicebound", false, "amqp:not-allowed"},
        {"nothing/at/all", true, "amqp:not-found"},
        {"$other", false, "amqp:not-found"},
        {"", true, "amqp:not-found"},
    };
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_policy(rig, "iothubowner");
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        amqp_client_link *l = amqp_client_attach(c, rows[i].sender, rows[i].address, NULL);
        amqp_client_expect_end(l, rows[i].condition);
        assert_true(strlen(l->description) > 10);
        assert_false(c->ended);
    }
    assert_non_null(strstr(rig->last_line, "refused a link"));
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* What no field on the wire can say is as much as it can, not what is left of it. */
static void test_limits_of_33_bits(void **state)
{
    (void)state;
    nv_limits huge = nv_limits_open;
    huge.amqp_credit = huge.amqp_links = huge.amqp_sessions = huge.c2d_inflight = INT64_C(1) << 32;
    huge.amqp_idle_s = 4294968;
    amqp_rig *rig = amqp_rig_new(&(amqp_rig_options){.limits = &huge});
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_device(rig, "d1", NULL);
    amqp_client_link *events = amqp_client_attach(c, true, "/devices/d1/messages/events", NULL);
    assert_true(events->attached && !events->ended);
    amqp_client_send_body(events, "x");
    assert_int_equal(events->accepted, 1);
    assert_false(amqp_client_attach(c, false, "/devices/d1/messages/devicebound", NULL)->ended);
    amqp_rig_advance(rig, 100 * NV_US_PER_S);
    assert_false(c->ended);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

static nv_span echoed_address(nv_span terminus, nv_amqp_code code)
{
    nv_amqp_performative p;
    assert_int_equal(nv_amqp_decode_span(terminus, &p), NV_OK);
    assert_int_equal(p.code, code);
    return nv_amqp_text_of(code == NV_AMQP_SOURCE ? p.source.address : p.target.address);
}

/* conformance: amqp.md 25 */
/* conformance: amqp.md 26 */
static void test_answers(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_device(rig, "d1", NULL);
    amqp_client_attach_options modes = {.snd_settle_mode = 0, .rcv_settle_mode = 1};
    amqp_client_link *l = amqp_client_attach(c, true, "amqps://hub.test/devices/d1/messages/events", &modes);
    nv_amqp_attach a = amqp_client_answer(l);
    assert_true(
        nv_span_eq_str(echoed_address(a.target, NV_AMQP_TARGET), "amqps://hub.test/devices/d1/messages/events"));
    assert_true(a.source.ptr != NULL);
    assert_int_equal(a.snd_settle_mode, 0);
    assert_int_equal(a.max_message_size, 1048576);
    nv_reader r = nv_reader_of(a.properties);
    nv_amqp_value map;
    assert_true(nv_amqp_read(&r, &map) && map.type == NV_AMQP_MAP && map.count > 0);
    assert_true(l->link->credit > 0);
    amqp_client_link *in = amqp_client_attach(c, false, "/devices/d1/messages/deviceBound", NULL);
    a = amqp_client_answer(in);
    assert_true(nv_span_eq_str(echoed_address(a.source, NV_AMQP_SOURCE), "/devices/d1/messages/deviceBound"));
    assert_true(NV_AMQP_HAS(&a, attach, initial_delivery_count));
    amqp_client_link *cbs = amqp_client_attach(c, true, "$cbs", NULL);
    assert_true(cbs->link->credit >= 100);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* conformance: amqp.md 55 */
static void test_names_of_links(void **state)
{
    (void)state;
    amqp_client_attach_options named = {.name = "the same"};
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_rig_add(rig, "d2", NULL);
    amqp_client *one = amqp_client_device(rig, "d1", NULL);
    amqp_client *two = amqp_client_device(rig, "d2", NULL);
    amqp_client_link *first = amqp_client_attach(one, true, EVENTS, &named);
    amqp_client_link *second = amqp_client_attach(two, true, "/devices/d2/messages/events", &named);
    assert_false(first->ended || second->ended);
    for (int i = 0; i < 3; i++) {
        amqp_client_detach(first);
        first = amqp_client_attach(one, true, EVENTS, &named);
        assert_true(first->attached && !first->ended);
        amqp_client_send_body(first, "again");
    }
    amqp_client_free(one);
    amqp_client_free(two);
    amqp_rig_free(rig);
}

/* ---- silence ------------------------------------------------------------------------------------------------ */

/* conformance: amqp.md 11 */
/* conformance: amqp.md 60 */
static void test_heartbeats_alone(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client_options options = {
        .mechanism = "PLAIN",
        .user = "d1@sas.hub",
        .password = amqp_rig_token(rig, &(amqp_token){.resource = "hub.test/devices/d1"}),
        .idle_time_out_ms = 20000,
    };
    amqp_client *c = amqp_client_new(rig, &options);
    amqp_client_link *l = amqp_client_attach(c, true, EVENTS, NULL);
    for (int s = 0; s < 30 * 60; s += 10) { /* in each half of what the client bears it hears something */
        size_t heard = nv_buf_len(&c->from_hub);
        amqp_rig_advance(rig, 10 * NV_US_PER_S);
        assert_true(nv_buf_len(&c->from_hub) > heard);
    }
    assert_false(c->ended || l->ended); /* and it speaks itself, as the hub asked */
    amqp_client_send_body(l, "after half an hour");
    amqp_client_free(c);

    options.idle_time_out_ms = 0;
    c = amqp_client_new(rig, &options);
    (void)amqp_client_attach(c, true, EVENTS, NULL);
    c->mute = true;
    amqp_rig_advance(rig, 239 * NV_US_PER_S);
    assert_non_null(c->hub);
    assert_false(c->hub->closing);
    amqp_rig_advance(rig, 10 * NV_US_PER_S);
    assert_true(c->ended || !c->hub || c->hub->closing); /* 240 s of silence */
    assert_int_equal(nv_devices_connected(rig->hub), 0);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* ---- the end ------------------------------------------------------------------------------------------------ */

static void test_drain(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_device(rig, "d1", NULL);
    amqp_client_link *l = amqp_client_attach(c, true, EVENTS, NULL);
    uint8_t body[] = {0, 0x53, 0x75, 0xa0, 1, 'x'};
    for (int i = 0; i < 10; i++) {
        assert_int_equal(amqp_client_send(l, nv_span_of(body, sizeof(body)), 0, false), NV_OK);
    }
    size_t taken = c->hub->ops->input(c->hub, nv_buf_span(&c->out), nv_mono_us(&rig->clock.clock));
    nv_buf_consume(&c->out, taken); /* the hub has them, nothing is stored yet */
    c->hub->ops->drain(c->hub, nv_mono_us(&rig->clock.clock));
    amqp_rig_settle(rig);
    assert_int_equal(l->accepted, 10); /* said before CLOSE */
    assert_true(c->ended);
    assert_string_equal(c->condition, "amqp:connection:forced");
    amqp_client_free(c);

    c = amqp_client_anonymous(rig); /* nothing to wait for */
    c->hub->ops->drain(c->hub, nv_mono_us(&rig->clock.clock));
    amqp_rig_settle(rig);
    assert_string_equal(c->condition, "amqp:connection:forced");
    amqp_client_free(c);
    amqp_rig_free(rig);
}

static void test_lines_of_the_log(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_device(rig, "d1", NULL);
    (void)amqp_client_attach(c, true, EVENTS, NULL);
    assert_non_null(strstr(rig->last_line, "connected"));
    assert_non_null(strstr(rig->last_line, "d1"));
    amqp_client_cut(c);
    assert_non_null(strstr(rig->last_line, "connection lost: cut by the test"));
    amqp_client_free(c);
    amqp_client_options secret = {
        .mechanism = "PLAIN", .user = "d1@sas.other", .password = "SharedAccessSignature sr=hub&sig=topsecret&se=1"};
    c = amqp_client_new(rig, &secret);
    assert_non_null(strstr(rig->last_line, "d1"));
    assert_null(strstr(rig->last_line, "topsecret"));
    amqp_client_free(c);
    amqp_rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers_and_open),
        cmocka_unit_test(test_plain_of_devices),
        cmocka_unit_test(test_plain_of_policies),
        cmocka_unit_test(test_plain_of_the_namespace),
        cmocka_unit_test(test_policy_with_a_path),
        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_strangers_are_bounded),
        cmocka_unit_test(test_strangers_with_many_sessions),
        cmocka_unit_test(test_certificates),
        cmocka_unit_test(test_what_is_not_there),
        cmocka_unit_test(test_limits_of_33_bits),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_names_of_links),
        cmocka_unit_test(test_heartbeats_alone),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_lines_of_the_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
