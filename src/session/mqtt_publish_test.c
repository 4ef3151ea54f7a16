/* Telemetry of an MQTT device: bags, sizes, topics, and what the log does to it. */
#include "support/mqtt_device_rig.h"

/* ---- publish ---------------------------------------------------------------------------------------------------- */

/* conformance: mqtt.md 22 */
static void test_bags(void **state)
{
    (void)state;
    static const struct {
        const char *topic; /* behind devices/d1/messages/events */
        const char *properties;
    } rows[] = {
        {"", ""},
        {"/", ""},
        {"/?", ""},
        {"/a=1", "a=1"},
        {"/a=1/", "a=1"},
        {"/?a=1", "a=1"},
        {"/a=1&", "a=1"},
        {"/&&a=1", "a=1"},
        {"/$.ct=application%2Fjson&$.ce=utf-8", "content-type=application/json;content-encoding=utf-8"},
        {"/%24.ct=application%2Fjson&%24.ce=utf-8", "content-type=application/json;content-encoding=utf-8"},
        {"/%24.ct=application%2fjson&%24.ce=utf-8&", "content-type=application/json;content-encoding=utf-8"},
        {"/$.ct=application/json&$.ce=utf-8", "content-type=application/json;content-encoding=utf-8"},
        {"/a=1&$.mid=m", "a=1;message-id=m"},
        {"/$.mid=m&a=1", "message-id=m;a=1"},
        {"/a=1 2:3/4", "a=1 2:3/4"},
        {"/a=b=c", "a=b=c"},
        {"/a", "a"},
        {"/a=", "a="},
        {"/a=1&a=2", "a=2"},
        {"/%61=%C3%A9", "a=\xC3\xA9"},
        {"/load=50%", "load=50%"},
        {"/b=%FF", "b=(binary)"},
        {"/$.mid=1&$.cid=2&$.uid=3&$.to=4&$.exp=5&$.ctime=6",
         "message-id=1;correlation-id=2;user-id=3;to=4;iothub-expiry=5;iothub-creation-time-utc=6"},
        {"/$.on=o&$.ifid=i&$.schema=s&$.diagid=d&$.diagctx=c",
         "iothub-outputname=o;iothub-interface-id=i;iothub-message-schema=s;Diagnostic-Id=d;Correlation-Context=c"},
        {"/$.unknown=1", "$.unknown=1"},
        /* conformance: mqtt.md 23 */
        {"/$.sub=thermostat1", "dt-subject=thermostat1"},
        {"/%24.sub=thermostat1", "dt-subject=thermostat1"},
        /* conformance: mqtt.md 24 */
        {"/$.cdid=evil&%24.cmid=evil&a=1", "a=1"},
        {"/iothub-connection-device-id=evil&iothub-connection-module-id=e&iothub-connection-auth-method=x&a=1", "a=1"},
        {"/iothub-connection-auth-generation-id=1&iothub-enqueuedtime=2&iothub-message-source=3&dt-dataschema=4&a=1",
         "a=1"},
    };
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char topic[512];
        (void)snprintf(topic, sizeof(topic), "devices/d1/messages/events%s", rows[i].topic);
        for (int again = 0; again < 2; again++) { /* the second time from the kept topic */
            mqtt_pair_publish(&t->a, topic, "p", 1, 7);
            expect(t, &t->a, "40020007");
            if (strcmp(properties_of(last_record(t)), rows[i].properties) != 0) {
                fail_msg("%s: %s, not %s", topic, properties_of(last_record(t)), rows[i].properties);
            }
        }
    }
    assert_int_equal(fake_log_count(&t->core), 2 * NV_COUNT_OF(rows));
    bench_free(t);
}

static void test_topics_alternate(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    for (uint16_t i = 1; i < 40; i++) {
        char topic[300];
        (void)snprintf(topic, sizeof(topic), EVENTS "n=%0*d", 1 + i * 5 % 90, i);
        mqtt_pair_publish(&t->a, i % 3 ? topic : EVENTS, "", 0, 0);
        run(t);
        assert_string_equal(properties_of(last_record(t)), i % 3 ? topic + strlen(EVENTS) : "");
    }
    bench_free(t);
}

/* conformance: mqtt.md 23 */
/* conformance: mqtt.md 24 */
static void test_model_id_and_module(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    mqtt_login login = {.device = "d1",
                        .module = "m1",
                        .user_name =
                            FAKE_HUB_NAME "/d1/m1/?api-version=2020-09-30&model-id=dtmi%3Acom%3Aexample%3Bt%3B1"};
    open_as(t, &t->a, &login);
    mqtt_pair_publish(&t->a, "devices/d1/modules/m1/messages/events/$.on=out&$.cdid=evil", "p", 1, 1);
    expect(t, &t->a, "40020001");
    nv_stamp stamp;
    assert_int_equal(nv_stamp_decode(last_record(t)->stamp, &stamp), NV_OK);
    assert_true(nv_span_eq_str(stamp.device_id, "d1") && nv_span_eq_str(stamp.module_id, "m1"));
    assert_true(nv_span_eq_str(stamp.model_id, "dtmi:com:example;t;1"));
    assert_int_equal(stamp.scope, NV_AUTH_SCOPE_MODULE);
    assert_string_equal(properties_of(last_record(t)), "iothub-outputname=out");
    assert_int_equal(nv_devices_connected(t->core.hub), 0); /* modules are not counted */
    bench_free(t);
}

/* conformance: mqtt.md 18 */
static void test_retain_and_dup(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    mqtt_pair_send_hex(&t->a, "33 1f 001b 646576696365732f64312f6d657373616765732f6576656e74732f 0001");
    expect(t, &t->a, "40020001");
    assert_string_equal(properties_of(last_record(t)), "mqtt-retain=true");
    mqtt_pair_send_hex(&t->a, "3b 1f 001b 646576696365732f64312f6d657373616765732f6576656e74732f 0002");
    expect(t, &t->a, "40020002");
    assert_string_equal(properties_of(last_record(t)), "mqtt-dup=true;mqtt-retain=true");
    mqtt_pair_send_hex(&t->a, "32 1f 001b 646576696365732f64312f6d657373616765732f6576656e74732f 0003");
    expect(t, &t->a, "40020003");
    assert_string_equal(properties_of(last_record(t)), "");
    assert_int_equal(last_record(t)->body.len, 0); /* empty bodies are legal */
    bench_free(t);
}

/* conformance: mqtt.md 4 */
/* conformance: mqtt.md 17 */
/* conformance: mqtt.md 42 */
static void test_publishes_that_close(void **state)
{
    (void)state;
    static const struct {
        const char *user; /* NULL: with api-version */
        const char *topic;
        uint8_t qos;
        nv_refusal why;
    } rows[] = {
        {NULL, "devices/d2/messages/events/", 1, NV_REFUSAL_FOREIGN_TOPIC},
        {NULL, "devices/d1/modules/m1/messages/events/", 1, NV_REFUSAL_FOREIGN_TOPIC},
        {NULL, "devices/d1/messages/devicebound/", 0, NV_REFUSAL_TOPIC},
        {NULL, "home/kitchen", 0, NV_REFUSAL_TOPIC},
        {NULL, "$iothub/twin/DELETE/?$rid=1", 0, NV_REFUSAL_TOPIC},
        {NULL, EVENTS, 2, NV_REFUSAL_QOS2},
        {FAKE_HUB_NAME "/d1", "$iothub/twin/GET/?$rid=1", 0, NV_REFUSAL_API_VERSION},
        {FAKE_HUB_NAME "/d1", "$iothub/twin/PATCH/properties/reported/?$rid=1", 1, NV_REFUSAL_API_VERSION},
        {FAKE_HUB_NAME "/d1", "$iothub/methods/res/200/?$rid=1", 0, NV_REFUSAL_API_VERSION},
        {FAKE_HUB_NAME "/d1", EVENTS, 0, NV_REFUSAL_NONE},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_login login = {.device = "d1", .user_name = rows[i].user};
        open_as(t, &t->a, &login);
        int64_t closed = nv_metric_get(NV_M_MQTT_CLOSED_BAD);
        mqtt_pair_publish(&t->a, rows[i].topic, "p", rows[i].qos, 9);
        expect(t, &t->a, "");
        assert_int_equal(last_refusal(t, "d1", ""), rows[i].why);
        assert_int_equal(mqtt_pair_gone(&t->a), rows[i].why != NV_REFUSAL_NONE);
        assert_int_equal(nv_metric_get(NV_M_MQTT_CLOSED_BAD) - closed, rows[i].why != NV_REFUSAL_NONE);
        assert_int_equal(fake_log_count(&t->core), rows[i].why == NV_REFUSAL_NONE);
        bench_free(t);
    }
}

/* What came before the offence is stored, acknowledged and then the connection goes. */
static void test_promises_are_kept_when_closing(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    open_as(t, &t->a, &d1);
    mqtt_put_publish(&t->a.in, EVENTS, nv_span_str("a"), 1, 1);
    mqtt_put_publish(&t->a.in, EVENTS, nv_span_str("b"), 1, 2);
    mqtt_put_publish(&t->a.in, "home/kitchen", nv_span_str("c"), 1, 3);
    mqtt_put_publish(&t->a.in, EVENTS, nv_span_str("d"), 1, 4);
    mqtt_pair_service(&t->a);
    expect(t, &t->a, "");
    assert_false(t->a.closed);
    fake_log_complete(&t->core, NV_OK);
    expect(t, &t->a, "4002000140020002");
    assert_true(t->a.closed && mqtt_pair_gone(&t->a));
    assert_int_equal(fake_log_count(&t->core), 2);
    bench_free(t);
}

/* conformance: mqtt.md 20 */
static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        size_t body;
        const char *bag;
        bool fits;
    } rows[] = {
        {262144, "", true},         {262145, "", false},         {262140, "ab=cd", true}, {262141, "ab=cd", false},
        {262142, "$.mid=cd", true}, {262143, "$.mid=cd", false}, {262142, "a=%41", true}, {400000, "", false},
    };
    uint8_t *body = calloc(1, 400000);
    assert_non_null(body);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        for (size_t piece = 0; piece <= 65536; piece += 65536) {
            bench *t = bench_new(&nv_limits_open);
            char topic[64];
            (void)snprintf(topic, sizeof(topic), EVENTS "%s", rows[i].bag);
            open_as(t, &t->a, &d1);
            t->a.piece = piece;
            mqtt_put_publish(&t->a.in, topic, nv_span_of(body, rows[i].body), 1, 1);
            mqtt_pair_service(&t->a);
            expect(t, &t->a, rows[i].fits ? "40020001" : "");
            assert_int_equal(mqtt_pair_gone(&t->a), !rows[i].fits);
            assert_int_equal(last_refusal(t, "d1", ""), rows[i].fits ? NV_REFUSAL_NONE : NV_REFUSAL_TOO_BIG);
            assert_int_equal(fake_log_count(&t->core), rows[i].fits);
            bench_free(t);
        }
    }
    free(body);
}

static void test_too_many_properties(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    char topic[8192];
    size_t n = (size_t)snprintf(topic, sizeof(topic), EVENTS);
    for (int i = 0; i < 300; i++) {
        n += (size_t)snprintf(topic + n, sizeof(topic) - n, "k%d=%d&", i, i);
    }
    mqtt_pair_publish(&t->a, topic, "p", 1, 1);
    expect(t, &t->a, "");
    assert_true(mqtt_pair_gone(&t->a));
    assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_TOO_BIG);
    bench_free(t);
}

/* ---- the log ----------------------------------------------------------------------------------------------------- */

/* A failing log acknowledges nothing, and what follows a failure is not acknowledged either. */
static void test_log_failures(void **state)
{
    (void)state;
    static const struct {
        nv_err submit;
        nv_err store;
    } rows[] = {{NV_E_NO_SPACE, NV_OK}, {NV_E_IO, NV_OK}, {NV_OK, NV_E_IO}, {NV_OK, NV_E_NO_SPACE}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        open_as(t, &t->a, &d1);
        fake_log_set_submit_status(&t->core, rows[i].submit);
        fake_log_set_store_status(&t->core, rows[i].store);
        int64_t failed = nv_metric_get(NV_M_TELEMETRY_FAILED);
        mqtt_pair_publish(&t->a, EVENTS, "a", 1, 1);
        mqtt_pair_publish(&t->a, EVENTS, "b", 1, 2);
        expect(t, &t->a, "");
        assert_true(mqtt_pair_gone(&t->a));
        assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_STORAGE);
        assert_int_equal(fake_log_count(&t->core), 0);
        assert_int_equal(nv_metric_get(NV_M_TELEMETRY_FAILED) - failed, 2);
        fake_log_set_submit_status(&t->core, NV_OK); /* room again */
        fake_log_set_store_status(&t->core, NV_OK);
        open_as(t, &t->b, &d1);
        mqtt_pair_publish(&t->b, EVENTS, "c", 1, 3);
        expect(t, &t->b, "40020003");
        bench_free(t);
    }
}

static void test_nothing_is_acknowledged_behind_a_failure(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    fake_log_set_batch_records(&t->core, 1); /* each message its own batch */
    open_as(t, &t->a, &d1);
    mqtt_pair_publish(&t->a, EVENTS, "a", 1, 1);
    mqtt_pair_publish(&t->a, EVENTS, "b", 1, 2);
    mqtt_pair_publish(&t->a, EVENTS, "c", 1, 3);
    fake_core_run(&t->core);
    assert_int_equal(fake_log_held(&t->core), 2); /* the third is collected */
    fake_log_complete(&t->core, NV_OK);
    expect(t, &t->a, "40020001");
    fake_log_complete(&t->core, NV_E_IO);
    run(t);
    while (fake_log_complete(&t->core, NV_OK)) {
        run(t);
    }
    expect(t, &t->a, "");
    assert_true(mqtt_pair_gone(&t->a));
    assert_int_equal(fake_log_count(&t->core), 2); /* a and c: c is stored, but nobody was told */
    bench_free(t);
}

/* The bounds on what is in flight stop the reading; nothing is lost and nothing is refused. */
static void test_in_flight_bounds(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_azure); /* 16 messages */
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    open_as(t, &t->a, &d1);
    for (uint16_t i = 1; i <= 40; i++) {
        mqtt_pair_publish(&t->a, EVENTS, "p", 1, i);
    }
    run(t);
    assert_false(t->a.session->reading);
    assert_true(nv_buf_len(&t->a.in) > 0);
    size_t acknowledged = 0;
    while (fake_log_complete(&t->core, NV_OK)) {
        run(t);
        size_t acks = nv_buf_len(&t->a.out) / 4;
        assert_true(acks - acknowledged <= 16);
        acknowledged = acks;
    }
    assert_int_equal(acknowledged, 40);
    for (size_t i = 0; i < 40; i++) { /* in order of receipt */
        assert_int_equal(nv_buf_span(&t->a.out).ptr[4 * i + 3], i + 1);
    }
    assert_true(t->a.session->reading);
    bench_free(t);
}

static void test_in_flight_bytes(void **state)
{
    (void)state;
    nv_limits limits = nv_limits_open;
    limits.inflight_bytes = 4096;
    bench *t = bench_new(&limits);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    open_as(t, &t->a, &d1);
    uint8_t body[1000] = {0};
    for (uint16_t i = 1; i <= 10; i++) {
        mqtt_put_publish(&t->a.in, EVENTS, nv_span_of(body, sizeof(body)), 1, i);
    }
    mqtt_pair_service(&t->a);
    run(t);
    assert_false(t->a.session->reading);
    fake_log_complete(&t->core, NV_OK);
    run(t);
    assert_int_equal(nv_buf_len(&t->a.out), 4 * 4);
    bench_free(t);
}

/* When every batch is in flight, senders wait and are told when there is room, whoever filled them. */
static void test_full_batches(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    fake_log_set_batch_records(&t->core, 3);
    mqtt_login d2 = {.device = "d2"};
    open_as(t, &t->a, &d1);
    open_as(t, &t->b, &d2);
    for (uint16_t i = 1; i <= 20; i++) {
        mqtt_pair_publish(&t->a, EVENTS, "p", 1, i);
    }
    assert_false(t->a.session->reading);
    mqtt_pair_publish(&t->b, "devices/d2/messages/events/", "q", 1, 99);
    assert_false(t->b.session->reading); /* it has nothing in flight, and still must be told */
    run(t);
    while (fake_log_complete(&t->core, NV_OK)) {
        run(t);
    }
    assert_int_equal(nv_buf_len(&t->a.out), 4 * 20);
    expect(t, &t->b, "40020063");
    assert_int_equal(fake_log_count(&t->core), 21);
    bench_free(t);
}

/* Kill at each byte: whatever arrived whole is stored, nothing else, and everything is freed. */
static void test_cut_at_each_byte(void **state)
{
    (void)state;
    nv_buf bytes;
    nv_buf_init(&bytes, 65536);
    mqtt_login login = {.device = "d1", .persistent = true, .will_topic = EVENTS, .will_payload = "bye"};
    mqtt_put_connect(&bytes, &login, FAKE_NOW_US / NV_US_PER_S);
    size_t connect = nv_buf_len(&bytes);
    mqtt_put_publish(&bytes, EVENTS "a=1", nv_span_str("one"), 1, 1);
    size_t first = nv_buf_len(&bytes);
    mqtt_put_publish(&bytes, EVENTS "a=2", nv_span_str("two"), 1, 2);
    size_t all = nv_buf_len(&bytes);
    for (size_t cut = 0; cut <= all; cut++) {
        for (int hold = 0; hold < 2; hold++) {
            bench *t = bench_new(&nv_limits_open);
            fake_log_set_mode(&t->core, hold ? FAKE_LOG_HOLD : FAKE_LOG_AUTO);
            mqtt_pair_send(&t->a, nv_span_first(nv_buf_span(&bytes), cut < connect ? cut : connect));
            if (cut > connect) {
                run(t);
                mqtt_pair_send(&t->a, nv_span_of(nv_buf_span(&bytes).ptr + connect, cut - connect));
            }
            mqtt_pair_cut(&t->a);
            run(t);
            while (fake_log_complete(&t->core, NV_OK)) {
                run(t);
            }
            size_t telemetry = (size_t)(cut >= first) + (size_t)(cut >= all);
            size_t wills = cut > connect; /* at exactly CONNECT the peer goes before it was accepted */
            assert_int_equal(fake_log_count(&t->core), telemetry + wills);
            assert_true(mqtt_pair_gone(&t->a));
            bench_free(t);
        }
    }
    nv_buf_deinit(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bags),
        cmocka_unit_test(test_topics_alternate),
        cmocka_unit_test(test_model_id_and_module),
        cmocka_unit_test(test_retain_and_dup),
        cmocka_unit_test(test_publishes_that_close),
        cmocka_unit_test(test_promises_are_kept_when_closing),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_too_many_properties),
        cmocka_unit_test(test_log_failures),
        cmocka_unit_test(test_nothing_is_acknowledged_behind_a_failure),
        cmocka_unit_test(test_in_flight_bounds),
        cmocka_unit_test(test_in_flight_bytes),
        cmocka_unit_test(test_full_batches),
        cmocka_unit_test(test_cut_at_each_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
