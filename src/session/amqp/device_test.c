/* Devices on AMQP connections: claims, take-over, eviction, loss, second links, faults. */
#include "core/fault.h"
#include "session/amqp/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define EVENTS(d)    "/devices/" d "/messages/events"
#define BOUND(d)     "/devices/" d "/messages/devicebound"
#define UNAUTHORIZED "amqp:unauthorized-access"
#define STOLEN       "amqp:link:stolen"

static void put(amqp_client *c, const char *device)
{
    char resource[100];
    (void)snprintf(resource, sizeof(resource), "hub.test/devices/%s", device);
    assert_int_equal(amqp_client_put_token(c, resource, amqp_rig_token(c->rig, &(amqp_token){.resource = resource})),
                     200);
}

/* d1 and d2 on one connection to a hub of their own, each with its token and a sender of telemetry. */
static amqp_client *two_on_one(amqp_client_link **d1, amqp_client_link **d2)
{
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_rig_add(rig, "d2", NULL);
    amqp_client *many = amqp_client_anonymous(rig);
    put(many, "d1");
    put(many, "d2");
    *d1 = amqp_client_attach(many, true, EVENTS("d1"), NULL);
    *d2 = amqp_client_attach(many, true, EVENTS("d2"), NULL);
    return many;
}

/* conformance: amqp.md 38 */
static void test_take_over(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *first = amqp_client_device(rig, "d1", NULL);
    amqp_client_link *events = amqp_client_attach(first, true, EVENTS("d1"), NULL);
    amqp_client_link *bound = amqp_client_attach(first, false, BOUND("d1"), NULL);
    amqp_client_send_body(events, "before");
    amqp_client *second = amqp_client_device(rig, "d1", NULL);
    assert_false(events->ended); /* a login takes nothing, a link does */
    amqp_client_link *newer = amqp_client_attach(second, true, EVENTS("d1"), NULL);
    amqp_client_expect_end(events, STOLEN);
    amqp_client_expect_end(bound, STOLEN);
    assert_false(first->ended); /* its links tell it, so that it can go by itself */
    amqp_rig_advance(rig, 4 * NV_US_PER_S);
    assert_true(first->ended); /* nobody else is on it */
    assert_string_equal(first->condition, "amqp:connection:forced");
    assert_true(newer->attached && !newer->ended);
    amqp_client_send_body(newer, "after");
    assert_int_equal(nv_devices_connected(rig->hub), 1);
    amqp_client_free(first);
    amqp_client_free(second);
    assert_int_equal(nv_devices_connected(rig->hub), 0);
    amqp_rig_free(rig);
}

/* Whoever was the last one on it may come back with a new token before the connection is closed. */
static void test_stays_with_a_new_token(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_rig_add(rig, "d2", NULL);
    amqp_client *c = amqp_client_anonymous(rig);
    put(c, "d1");
    amqp_client_link *one = amqp_client_attach(c, true, EVENTS("d1"), NULL);
    amqp_rig_delete(rig, "d1", NULL);
    amqp_client_expect_end(one, "amqp:not-found");
    put(c, "d2");
    amqp_rig_advance(rig, 10 * NV_US_PER_S);
    assert_false(c->ended);
    assert_false(amqp_client_attach(c, true, EVENTS("d2"), NULL)->ended);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* As the .NET SDK's pool does: a session for each device, and in all of them the same names of links. */
static void test_same_names_in_sessions(void **state)
{
    (void)state;
    enum { DEVICES = 40 };
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_client *c = amqp_client_anonymous(rig);
    amqp_client_link *events[DEVICES];
    amqp_client_link *bound[DEVICES];
    nv_amqp_session *session = NULL;
    for (int i = 0; i < DEVICES; i++) {
        char id[16];
        char address[64];
        (void)snprintf(id, sizeof(id), "p%d", i);
        amqp_rig_add(rig, id, NULL);
        put(c, id);
        session = amqp_client_session(c);
        (void)snprintf(address, sizeof(address), "/devices/%s/messages/events", id);
        events[i] = amqp_client_attach(
            c, true, address, &(amqp_client_attach_options){.session = session, .name = "_TelemetrySenderLink"});
        (void)snprintf(address, sizeof(address), "/devices/%s/messages/deviceBound", id);
        bound[i] = amqp_client_attach(
            c, false, address,
            &(amqp_client_attach_options){.session = session, .name = "_TelemetryReceiverLink", .rcv_settle_mode = 1});
    }
    for (int i = 0; i < DEVICES; i++) {
        assert_false(events[i]->ended || bound[i]->ended);
        amqp_client_send_body(events[i], "undisturbed");
    }
    amqp_client_detach(events[0]); /* the name is free again in its session, and taken in the others */
    amqp_client_send_body(events[1], "undisturbed");
    nv_amqp_session_end(session, NV_AMQP_ERR_NONE, NULL);
    amqp_rig_settle(rig);
    amqp_client_send_body(events[1], "undisturbed");
    session = amqp_client_session(c);
    amqp_client_link *again =
        amqp_client_attach(c, true, "/devices/p39/messages/events",
                           &(amqp_client_attach_options){.session = session, .name = "_TelemetrySenderLink"});
    amqp_client_send_body(again, "back");
    amqp_client_free(c);
    amqp_rig_free(rig);
}

static void test_take_over_of_one_of_many(void **state)
{
    (void)state;
    amqp_client_link *one;
    amqp_client_link *two;
    amqp_client *many = two_on_one(&one, &two);
    amqp_rig *rig = many->rig;
    amqp_client *other = amqp_client_device(rig, "d1", NULL);
    amqp_client_link *newer = amqp_client_attach(other, true, EVENTS("d1"), NULL);
    amqp_client_expect_end(one, STOLEN);
    assert_false(newer->ended || two->ended || many->ended);
    amqp_client_send_body(two, "undisturbed");
    one = amqp_client_attach(many, true, EVENTS("d1"), NULL); /* its token is still good: it takes it back */
    assert_false(one->ended);
    amqp_client_expect_end(newer, STOLEN);
    amqp_rig_advance(rig, 4 * NV_US_PER_S);
    assert_true(other->ended);
    amqp_client_free(other);
    amqp_client_free(many);
    amqp_rig_free(rig);
}

/* Messages of the older connection are stored before the newer one gets in. */
static void test_take_over_waits_for_appends(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *first = amqp_client_device(rig, "d1", NULL);
    amqp_client_link *old = amqp_client_attach(first, true, EVENTS("d1"), NULL);
    static const uint8_t body[] = {0, 0x53, 0x75, 0xa0, 1, 'x'};
    for (int i = 0; i < 50; i++) {
        assert_int_equal(amqp_client_send(old, nv_span_of(body, sizeof(body)), 0, false), NV_OK);
    }
    amqp_client *second = amqp_client_device(rig, "d1", NULL); /* moves the bytes of both */
    amqp_client_link *newer = amqp_client_attach(second, true, EVENTS("d1"), NULL);
    assert_true(newer->attached && !newer->ended);
    assert_int_equal(old->accepted, 50);
    amqp_client_free(first);
    amqp_client_free(second);
    amqp_rig_free(rig);
}

typedef enum change { DISABLE, REKEY, DELETE, REKEY_OTHER, CHANGES } change;

static void do_change(amqp_rig *rig, const char *device, change what)
{
    nv_identity_spec spec = amqp_rig_spec(device, NULL);
    spec.enabled = what != DISABLE;
    if (what == REKEY) {
        spec.primary_key.bytes[3] ^= 1;
    } else if (what == REKEY_OTHER) {
        spec.secondary_key.bytes[3] ^= 1;
    }
    if (what == DELETE) {
        amqp_rig_delete(rig, device, NULL);
    } else {
        amqp_rig_put(rig, &spec);
    }
}

static void test_revoked(void **state)
{
    (void)state;
    for (change what = DISABLE; what < CHANGES; what++) {
        amqp_client_link *one;
        amqp_client_link *two;
        amqp_client *many = two_on_one(&one, &two);
        amqp_rig *rig = many->rig;
        amqp_client *alone = amqp_client_device(rig, "d2", NULL);
        const char *ended = what == DELETE ? "amqp:not-found" : UNAUTHORIZED; /* amqp.md section 3.10 */
        do_change(rig, "d1", what);
        if (what == REKEY_OTHER) {
            assert_false(one->ended);
        } else {
            amqp_client_expect_end(one, ended);
            amqp_client_expect_end(amqp_client_attach(many, true, EVENTS("d1"), NULL), UNAUTHORIZED);
        }
        assert_false(two->ended || many->ended);
        amqp_client_send_body(two, "undisturbed");
        amqp_client_link *newer = amqp_client_attach(alone, true, EVENTS("d2"), NULL);
        amqp_client_expect_end(two, STOLEN);
        do_change(rig, "d2", what == REKEY_OTHER ? DISABLE : what);
        amqp_client_expect_end(newer, ended);
        amqp_rig_advance(rig, 4 * NV_US_PER_S);
        assert_true(alone->ended); /* it was all there was */
        assert_string_equal(alone->condition, ended);
        amqp_client_free(alone);
        amqp_client_free(many);
        amqp_rig_free(rig);
    }
}

/* conformance: amqp.md 57 */
static void test_lost(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_rig_add(rig, "d1", "m1");
    amqp_client *c = amqp_client_device(rig, "d1", NULL);
    (void)amqp_client_attach(c, true, EVENTS("d1"), NULL);
    (void)amqp_client_attach(c, false, "/devices/d1/twin", NULL);
    (void)amqp_client_attach(c, false, "/devices/d1/methods/devicebound", NULL);
    amqp_client *m = amqp_client_device(rig, "d1", "m1");
    (void)amqp_client_attach(m, true, "/devices/d1/modules/m1/messages/events", NULL);
    assert_int_equal(nv_devices_connected(rig->hub), 1);
    assert_true(nv_presence_now(rig->hub, nv_span_str("d1"), nv_span_str("m1")).connected);
    amqp_client_cut(c);
    assert_int_equal(nv_devices_connected(rig->hub), 0);
    assert_false(nv_presence_now(rig->hub, nv_span_str("d1"), NV_SPAN_EMPTY).connected);
    amqp_client_free(c);
    amqp_client_close(m); /* in order, with the same effect */
    assert_false(nv_presence_now(rig->hub, nv_span_str("d1"), nv_span_str("m1")).connected);
    amqp_client_free(m);
    amqp_rig_free(rig);
}

/* The connection goes at every moment between ATTACH and its answer. */
static void test_lost_while_it_waits(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    for (int tasks = 0; tasks < 12; tasks++) {
        amqp_client *c = amqp_client_device(rig, "d1", NULL);
        nv_amqp_attach_options options = {.name = "l", .sender = true, .address = EVENTS("d1")};
        assert_non_null(nv_amqp_link_attach(c->session, &options));
        size_t taken = c->hub->ops->input(c->hub, nv_buf_span(&c->out), nv_mono_us(&rig->clock.clock));
        nv_buf_consume(&c->out, taken);
        for (int i = 0; i < tasks && nv_exec_queue_run_one(&rig->queue); i++) {
        }
        amqp_client_free(c);
        assert_int_equal(nv_devices_connected(rig->hub), 0);
    }
    amqp_rig_free(rig);
}

static void test_links_come_and_go(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_device(rig, "d1", NULL);
    for (int i = 0; i < 3; i++) {
        amqp_client_link *events = amqp_client_attach(c, true, EVENTS("d1"), NULL);
        amqp_client_link *bound = amqp_client_attach(c, false, BOUND("d1"), NULL);
        assert_true(events->attached && bound->attached);
        amqp_client_detach(events);
        assert_int_equal(nv_devices_connected(rig->hub), 1);
        amqp_client_detach(bound);
        assert_int_equal(nv_devices_connected(rig->hub), 0); /* the last one lets the device go */
    }
    /* a second one of a kind takes the place of the first */
    amqp_client_link *first = amqp_client_attach(c, true, EVENTS("d1"), NULL);
    amqp_client_link *bound = amqp_client_attach(c, false, BOUND("d1"), NULL);
    amqp_client_link *second = amqp_client_attach(c, true, EVENTS("d1"), NULL);
    amqp_client_expect_end(first, STOLEN);
    assert_false(second->ended || bound->ended);
    amqp_client_send_body(second, "here");
    /* several at once, before the device is known */
    amqp_client *fresh = amqp_client_device(rig, "d1", NULL);
    static const char *const addresses[] = {EVENTS("d1"), "/devices/d1/twin", "/devices/d1/methods/devicebound"};
    for (size_t i = 0; i < NV_COUNT_OF(addresses); i++) {
        nv_amqp_attach_options options = {.name = addresses[i], .sender = true, .address = addresses[i]};
        assert_non_null(nv_amqp_link_attach(fresh->session, &options));
    }
    amqp_rig_settle(rig);
    for (nv_list *node = fresh->session->links.next; node != &fresh->session->links; node = node->next) {
        assert_true(nv_container_of(node, nv_amqp_link, _node)->credit > 0);
    }
    amqp_client_expect_end(second, STOLEN);
    amqp_client_free(fresh);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

static void test_too_many_devices(void **state)
{
    (void)state;
    nv_limits limits = nv_limits_open;
    limits.amqp_devices = 2;
    amqp_rig *rig = amqp_rig_new(&(amqp_rig_options){.limits = &limits});
    amqp_client *c = amqp_client_policy(rig, "iothubowner");
    static const char *const addresses[] = {EVENTS("d0"), EVENTS("d1"), EVENTS("d2"), EVENTS("d3")};
    static const char *const names[] = {"d0", "d1", "d2", "d3"};
    for (size_t i = 0; i < NV_COUNT_OF(names); i++) {
        amqp_rig_add(rig, names[i], NULL);
        amqp_client_link *l = amqp_client_attach(c, true, addresses[i], NULL);
        if (i < 2) {
            assert_false(l->ended);
        } else {
            amqp_client_expect_end(l, "amqp:resource-limit-exceeded");
        }
    }
    assert_int_equal(c->hub->guests, 2);
    /* who holds a policy is told which devices there are not */
    amqp_client_free(c);
    c = amqp_client_policy(rig, "device");
    amqp_client_expect_end(amqp_client_attach(c, true, EVENTS("nobody"), NULL), "amqp:not-found");
    amqp_client_free(c);
    amqp_rig_free(rig);
}

static void test_faults_outlive_connections(void **state)
{
    (void)state;
    static const struct {
        nv_fault_kind kind;
        const char *condition; /* NULL: it is let in */
    } rows[] = {{NV_FAULT_KILL_TCP, "com.microsoft:timeout"},
                {NV_FAULT_SHUT_DOWN_AMQP, "com.microsoft:timeout"},
                {NV_FAULT_AUTH, UNAUTHORIZED},
                {NV_FAULT_SHUT_DOWN_MQTT, NULL},
                {NV_FAULT_QUOTA, NULL}};
    amqp_rig *rig = amqp_rig_new(&(amqp_rig_options){.fault_injection = true});
    amqp_rig_add(rig, "d1", NULL);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        amqp_client *c = amqp_client_device(rig, "d1", NULL);
        nv_faults_set(rig->hub->faults, nv_span_str("d1"), NV_SPAN_EMPTY, rows[i].kind,
                      nv_mono_us(&rig->clock.clock) + 10 * NV_US_PER_S);
        amqp_client_link *l = amqp_client_attach(c, true, EVENTS("d1"), NULL);
        if (rows[i].condition) {
            amqp_client_expect_end(l, rows[i].condition);
        } else {
            assert_false(l->ended);
        }
        amqp_rig_advance(rig, 11 * NV_US_PER_S);
        l = amqp_client_attach(c, true, EVENTS("d1"), NULL);
        assert_false(l->ended);
        amqp_client_free(c);
    }
    amqp_rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_over),
        cmocka_unit_test(test_same_names_in_sessions),
        cmocka_unit_test(test_take_over_of_one_of_many),
        cmocka_unit_test(test_stays_with_a_new_token),
        cmocka_unit_test(test_take_over_waits_for_appends),
        cmocka_unit_test(test_revoked),
        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_lost_while_it_waits),
        cmocka_unit_test(test_links_come_and_go),
        cmocka_unit_test(test_too_many_devices),
        cmocka_unit_test(test_faults_outlive_connections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
