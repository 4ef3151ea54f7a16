/*
 * Links of devices on real stores, from one side of the hub to the other: what a device sends a reader gets, what a
 * service sends a device gets; many devices on one connection, and the same device on two protocols.
 */
#include "base/alloc.h"
#include "core/devices.h"
#include "core/method.h"
#include "core/twin.h"
#include "session/amqp/rig.h"
#include "support/mqtt_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define EVENTS "/devices/d1/messages/events"
#define BOUND  "/devices/d1/messages/devicebound"

static amqp_client_link *must_attach(amqp_client *c, bool sender, const char *address,
                                     const amqp_client_attach_options *options)
{
    amqp_client_link *l = amqp_client_attach(c, sender, address, options);
    if (!l->attached || l->ended) {
        fail_msg("%s: %s %s", address, l->condition, l->description);
    }
    return l;
}

/* ---- events
 * ---------------------------------------------------------------------------------------------------------- */

static size_t put_typed(uint8_t *out, size_t size)
{
    static const uint8_t uuid[16] = {0x0f, 0x8f, 0xad, 0x5b, 0xd9, 0xcb, 0x46, 0x9f,
                                     0xa1, 0x65, 0x70, 0x86, 0x77, 0x28, 0x95, 0x0e};
    uint8_t id[32];
    nv_writer i = nv_writer_of(id, sizeof(id));
    nv_writer w = nv_writer_of(out, size);
    nv_amqp_put_uuid(&i, uuid);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_MESSAGE_ANNOTATIONS);
    nv_amqp_put_symbol_of(&w, "iothub-interface-id");
    nv_amqp_put_string_of(&w, "urn:i");
    nv_amqp_end_map(&w, mark, 2);
    nv_amqp_properties p = {.message_id = nv_writer_span(&i),
                            .user_id = nv_span_str("me"),
                            .content_type = nv_span_str("application/json"),
                            .content_encoding = nv_span_str("utf-8")};
    nv_amqp_put_properties_section(&w, &p);
    mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&w, "long");
    nv_amqp_put_long(&w, -5);
    nv_amqp_put_string_of(&w, "flag");
    nv_amqp_put_boolean(&w, true);
    nv_amqp_put_string_of(&w, "when");
    nv_amqp_put_timestamp(&w, 1700000000000);
    nv_amqp_put_string_of(&w, "text");
    nv_amqp_put_string_of(&w, "t");
    nv_amqp_end_map(&w, mark, 8);
    nv_amqp_put_data_head(&w, 2);
    nv_write_span(&w, nv_span_str("{}"));
    assert_int_equal(w.err, NV_OK);
    return nv_writer_len(&w);
}

static void expect_typed(const nv_amqp_value *map, const char *key, nv_amqp_type type, const char *text)
{
    nv_amqp_value value;
    assert_true(nv_amqp_map_find(map, key, &value));
    assert_int_equal(value.type, type);
    assert_string_equal(amqp_message_text(map, key), text);
}

/* What a device sends a reader gets, with its types. */
static void events_keep_their_types(void **state)
{
    (void)state;
    uint8_t bytes[1024];
    char address[64];
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_device(rig, "d1", NULL);
    amqp_client_link *l = must_attach(c, true, EVENTS, NULL);
    assert_int_equal(amqp_client_send(l, nv_span_of(bytes, put_typed(bytes, sizeof(bytes))), 0, false), NV_OK);
    amqp_rig_settle(rig);
    assert_int_equal(l->accepted, 1);
    amqp_client *reader = amqp_client_policy(rig, "service");
    (void)snprintf(address, sizeof(address), "hub/ConsumerGroups/$Default/Partitions/%u",
                   nv_log_partition_of(rig->log, nv_span_str("d1")));
    amqp_client_link *r = must_attach(reader, false, address, NULL);
    amqp_client_message *m = amqp_client_take(r);
    while (!m) { /* a thread reads the log */
        (void)nv_exec_queue_run_wait(&rig->queue);
        amqp_rig_settle(rig);
        m = amqp_client_take(r);
    }
    const nv_amqp_message *got = &m->message;
    assert_true(nv_span_eq_str(nv_amqp_text_of(got->properties.message_id), "0f8fad5b-d9cb-469f-a165-70867728950e"));
    assert_true(nv_span_eq_str(got->properties.user_id, "me"));
    assert_true(nv_span_eq_str(got->properties.content_type, "application/json"));
    expect_typed(&got->application_properties, "long", NV_AMQP_LONG, "-5");
    expect_typed(&got->application_properties, "text", NV_AMQP_STRING, "t");
    nv_amqp_value value;
    assert_true(nv_amqp_map_find(&got->application_properties, "flag", &value));
    assert_true(value.type == NV_AMQP_BOOLEAN && value.boolean);
    assert_true(nv_amqp_map_find(&got->application_properties, "when", &value));
    assert_true(value.type == NV_AMQP_TIMESTAMP && value.i == 1700000000000);
    expect_typed(&got->message_annotations, "iothub-interface-id", NV_AMQP_STRING, "urn:i");
    expect_typed(&got->message_annotations, "iothub-connection-device-id", NV_AMQP_STRING, "d1");
    assert_true(nv_span_eq_str(got->body, "{}"));
    free(m);
    amqp_client_free(reader);
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* ---- messages to devices
 * --------------------------------------------------------------------------------------------- */

static nv_span command(const char *id, const char *ack, const char *body)
{
    static uint8_t bytes[1024];
    uint8_t texts[256];
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    nv_writer i = nv_writer_of(texts, sizeof(texts) / 2);
    nv_writer t = nv_writer_of(texts + sizeof(texts) / 2, sizeof(texts) / 2);
    nv_amqp_put_string_of(&i, id);
    nv_amqp_put_string_of(&t, "/devices/d1/messages/devicebound");
    nv_amqp_properties p = {.message_id = nv_writer_span(&i), .to = nv_writer_span(&t)};
    nv_amqp_put_properties_section(&w, &p);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&w, "iothub-ack");
    nv_amqp_put_string_of(&w, ack);
    nv_amqp_put_string_of(&w, "n");
    nv_amqp_put_int(&w, 12);
    nv_amqp_end_map(&w, mark, 4);
    nv_amqp_put_data_head(&w, strlen(body));
    nv_write_span(&w, nv_span_str(body));
    assert_int_equal(w.err, NV_OK);
    return nv_writer_span(&w);
}

static amqp_client_message *must_take(amqp_client_link *l, const char *body)
{
    amqp_client_message *m = amqp_client_take(l);
    assert_non_null(m);
    if (!nv_span_eq_str(m->message.body, body)) {
        fail_msg("\"%.*s\", not \"%s\"", NV_SPAN_ARG(m->message.body), body);
    }
    return m;
}

static void end_of(amqp_client_link *l, amqp_client_message *m, nv_amqp_outcome_kind kind)
{
    amqp_client_settle(l, m, kind);
    amqp_rig_settle(l->client->rig);
    free(m);
}

/* conformance: amqp.md 31, 33 */
static void commands_from_service_to_device(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *service = amqp_client_policy(rig, "service");
    amqp_client_link *sender = must_attach(service, true, "/messages/devicebound", NULL);
    static const char *const ids[] = {"one", "two", "three", "four"};
    for (size_t i = 0; i < NV_COUNT_OF(ids); i++) {
        assert_int_equal(amqp_client_send(sender, command(ids[i], "full", ids[i]), 0, false), NV_OK);
        amqp_rig_settle(rig);
    }
    assert_int_equal(sender->accepted, 4);
    amqp_client *device = amqp_client_device(rig, "d1", NULL);
    amqp_client_link *l =
        must_attach(device, false, BOUND, &(amqp_client_attach_options){.keep = true, .credit = UINT32_MAX});
    assert_int_equal(l->received, 0);
    nv_amqp_link_set_credit(l->link, 2); /* pulled: the others are not handed out, and cost no delivery */
    amqp_rig_settle(rig);
    assert_int_equal(l->received, 2);
    amqp_client_message *one = must_take(l, "one");
    assert_string_equal(amqp_message_text(&one->message.message_annotations, "iothub-deliverycount"), "1");
    expect_typed(&one->message.application_properties, "n", NV_AMQP_STRING, "12");
    expect_typed(&one->message.application_properties, "iothub-ack", NV_AMQP_STRING, "full");
    assert_int_equal(one->tag.len, 16);
    amqp_client_message *two = must_take(l, "two");
    end_of(l, two, NV_AMQP_OUT_RELEASED);
    two = must_take(l, "two"); /* in its place, before the others */
    assert_string_equal(amqp_message_text(&two->message.message_annotations, "iothub-deliverycount"), "2");
    end_of(l, one, NV_AMQP_OUT_ACCEPTED);
    end_of(l, two, NV_AMQP_OUT_REJECTED);
    /* not settled: visible again after the time of the lock */
    amqp_client_message *three = must_take(l, "three");
    amqp_rig_advance(rig, 61 * NV_US_PER_S);
    nv_amqp_link_set_credit(l->link, 20);
    amqp_rig_settle(rig);
    amqp_client_message *later = amqp_client_take(l);
    while (later && !nv_span_eq_str(later->message.body, "three")) { /* "four" was there, too, and lost its lock */
        free(later);
        later = amqp_client_take(l);
    }
    assert_non_null(later);
    end_of(l, three, NV_AMQP_OUT_ACCEPTED); /* late: ignored */
    /* the connection goes: they are in the queue again */
    free(later);
    amqp_client_free(device);
    device = amqp_client_device(rig, "d1", NULL);
    l = must_attach(device, false, BOUND, &(amqp_client_attach_options){.keep = true, .credit = 10});
    end_of(l, must_take(l, "three"), NV_AMQP_OUT_ACCEPTED);
    end_of(l, must_take(l, "four"), NV_AMQP_OUT_ACCEPTED);
    assert_null(amqp_client_take(l));
    amqp_client_free(device);
    amqp_client_free(service);
    amqp_rig_free(rig);
}

/* ---- twins and methods on the real core
 * ------------------------------------------------------------------------------- */

static nv_span twin_request(const char *operation, const char *resource, const char *body)
{
    static uint8_t bytes[1024];
    uint8_t id[64];
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    nv_writer i = nv_writer_of(id, sizeof(id));
    nv_amqp_put_string_of(&i, "c-1");
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_MESSAGE_ANNOTATIONS);
    nv_amqp_put_symbol_of(&w, "operation");
    nv_amqp_put_string_of(&w, operation);
    nv_amqp_put_symbol_of(&w, "resource");
    nv_amqp_put_string_of(&w, resource);
    nv_amqp_end_map(&w, mark, 4);
    nv_amqp_properties p = {.correlation_id = nv_writer_span(&i)};
    nv_amqp_put_properties_section(&w, &p);
    nv_amqp_put_data_head(&w, strlen(body));
    nv_write_span(&w, nv_span_str(body));
    return nv_writer_span(&w);
}

static void twin_done(nv_twin_request *request)
{
    assert_int_equal(request->error, NV_HUB_ERROR_NONE);
    nv_twin_unref(request->twin);
    request->twin = NULL;
}

static void set_desired(amqp_rig *rig, const char *body)
{
    nv_twin_request request = {
        .verb = NV_TWIN_PATCH, .device_id = nv_span_str("d1"), .body = nv_span_str(body), .done = twin_done};
    nv_twin_do(amqp_rig_loop(rig), &request);
    amqp_rig_settle(rig);
}

static void twins(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_device(rig, "d1", NULL);
    amqp_client_link *in = must_attach(c, true, "/devices/d1/twin", NULL);
    amqp_client_link *out = must_attach(c, false, "/devices/d1/twin", NULL);
    assert_int_equal(amqp_client_send(in, twin_request("PATCH", "/properties/reported", "{\"t\":21.7}"), 0, false),
                     NV_OK);
    amqp_rig_settle(rig);
    amqp_client_message *m = must_take(out, "");
    expect_typed(&m->message.message_annotations, "status", NV_AMQP_INT, "200");
    expect_typed(&m->message.message_annotations, "version", NV_AMQP_LONG, "2");
    free(m);
    assert_int_equal(amqp_client_send(in, twin_request("PUT", "/notifications/twin/properties/desired", ""), 0, false),
                     NV_OK);
    amqp_rig_settle(rig);
    free(must_take(out, ""));
    set_desired(rig, "{\"properties\":{\"desired\":{\"rate\":5}}}");
    m = must_take(out, "{\"rate\":5,\"$version\":2}");
    expect_typed(&m->message.message_annotations, "version", NV_AMQP_LONG, "2");
    free(m);
    assert_int_equal(amqp_client_send(in, twin_request("GET", "", ""), 0, false), NV_OK);
    amqp_rig_settle(rig);
    free(must_take(out, "{\"desired\":{\"rate\":5,\"$version\":2},\"reported\":{\"t\":21.7,\"$version\":2}}"));
    amqp_client_free(c);
    amqp_rig_free(rig);
}

/* ---- many devices on one connection
 * ------------------------------------------------------------------------------------ */

/* conformance: amqp.md 20 */
static void each_device_has_its_own_fate(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_client *c = amqp_client_anonymous(rig);
    amqp_client_link *links[20];
    for (int i = 0; i < 20; i++) {
        char id[16];
        char resource[64];
        char address[64];
        (void)snprintf(id, sizeof(id), "m%d", i);
        (void)snprintf(resource, sizeof(resource), AMQP_RIG_HOST "/devices/m%d", i);
        (void)snprintf(address, sizeof(address), "/devices/m%d/messages/events", i);
        amqp_rig_add(rig, id, NULL);
        assert_int_equal(amqp_client_put_token(c, resource, amqp_rig_token(rig, &(amqp_token){.resource = resource})),
                         200);
        links[i] = must_attach(c, true, address, NULL);
        amqp_client_send_body(links[i], id);
    }
    amqp_rig_delete(rig, "m3", NULL);
    amqp_rig_settle(rig);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(links[i]->ended, i == 3);
    }
    assert_false(c->ended);
    amqp_client_expect_end(links[3], "amqp:not-found");
    amqp_client_send_body(links[4], "still there");
    amqp_client_free(c);
    amqp_rig_free(rig);
}

static nv_span fault(const char *kind)
{
    static uint8_t bytes[512];
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&w, "AzIoTHub_FaultOperationType");
    nv_amqp_put_string_of(&w, kind);
    nv_amqp_end_map(&w, mark, 2);
    nv_amqp_put_data_head(&w, 0);
    return nv_writer_span(&w);
}

static void links_for_tokens_are_detached_by_faults(void **state)
{
    (void)state;
    static const char *const kinds[] = {"KillAmqpCBSLinkReq", "KillAmqpCBSLinkResp"};
    const char *resource = AMQP_RIG_HOST "/devices/d1";
    for (size_t i = 0; i < NV_COUNT_OF(kinds); i++) {
        amqp_rig *rig = amqp_rig_new(&(amqp_rig_options){.fault_injection = true});
        amqp_rig_add(rig, "d1", NULL);
        amqp_client *c = amqp_client_anonymous(rig);
        assert_int_equal(amqp_client_put_token(c, resource, amqp_rig_token(rig, &(amqp_token){.resource = resource})),
                         200);
        amqp_client_link *l = must_attach(c, true, EVENTS, NULL);
        assert_int_equal(amqp_client_send(l, fault(kinds[i]), 0, false), NV_OK);
        amqp_rig_settle(rig);
        assert_int_equal(l->accepted, 1);
        amqp_rig_advance(rig, NV_US_PER_S);
        size_t ended = 0;
        for (nv_list *node = c->links.next; node != &c->links; node = node->next) {
            amqp_client_link *any = nv_container_of(node, amqp_client_link, node);
            ended += any->ended;
            if (any->ended) {
                amqp_client_expect_end(any, "amqp:link:detach-forced");
            }
        }
        assert_int_equal(ended, 1);
        amqp_client_send_body(l, "still there");
        amqp_client_free(c);
        amqp_rig_free(rig);
    }
}

/* ---- the same device by MQTT
 * --------------------------------------------------------------------------------------------- */

static void serve(amqp_rig *rig, mqtt_pair *pair)
{
    for (int i = 0; i < 8; i++) {
        amqp_rig_settle(rig);
        mqtt_pair_service(pair);
    }
    amqp_rig_settle(rig);
}

static void connect_mqtt(amqp_rig *rig, mqtt_pair *pair)
{
    mqtt_login login = {.device = "d1",
                        .user_name = AMQP_RIG_HOST "/d1/?api-version=2021-04-12",
                        .password = amqp_rig_token(rig, &(amqp_token){.resource = AMQP_RIG_HOST "/devices/d1"})};
    nv_buf packet;
    nv_buf_init(&packet, 4096);
    mqtt_pair_open(pair, amqp_rig_loop(rig), 1000);
    mqtt_pair_connect(pair, &login);
    serve(rig, pair);
    assert_string_equal(mqtt_pair_take_hex(pair), "20020000");
    nv_buf_deinit(&packet);
}

/* The newest connection wins, whatever it speaks; what was acknowledged stands before what the newer sends. */
static void taken_over_between_protocols(void **state)
{
    (void)state;
    static mqtt_pair pair;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    for (int round = 0; round < 3; round++) {
        amqp_client *c = amqp_client_device(rig, "d1", NULL);
        amqp_client_link *events = must_attach(c, true, EVENTS, NULL);
        amqp_client_link *bound = must_attach(c, false, BOUND, NULL);
        if (round > 0) { /* from MQTT to AMQP */
            mqtt_pair_service(&pair);
            assert_true(mqtt_pair_gone(&pair));
            mqtt_pair_deinit(&pair);
        }
        for (int i = 0; i < 5; i++) { /* in flight when the other comes */
            assert_int_equal(amqp_client_send(events, fault("none"), 0, false), NV_OK);
        }
        connect_mqtt(rig, &pair); /* from AMQP to MQTT */
        assert_true(events->ended && bound->ended);
        amqp_client_expect_end(events, "amqp:link:stolen");
        assert_int_equal(nv_devices_connected(rig->hub), 1);
        amqp_client_free(c);
    }
    mqtt_pair_cut(&pair);
    serve(rig, &pair);
    mqtt_pair_deinit(&pair);
    assert_int_equal(nv_devices_connected(rig->hub), 0);
    amqp_rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_keep_their_types),
        cmocka_unit_test(commands_from_service_to_device),
        cmocka_unit_test(twins),
        cmocka_unit_test(each_device_has_its_own_fate),
        cmocka_unit_test(links_for_tokens_are_detached_by_faults),
        cmocka_unit_test(taken_over_between_protocols),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
