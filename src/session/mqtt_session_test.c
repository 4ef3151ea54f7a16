/* The life of an accepted MQTT connection: wills, time, subscriptions, take-over, eviction, the end. */
#include "support/mqtt_device_rig.h"

/* ---- wills ---------------------------------------------------------------------------------------------------------
 */

/* conformance: mqtt.md 19 */
static void test_will(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    mqtt_login login = {.device = "d1", .will_topic = EVENTS "$.ct=text%2Fplain&a=1", .will_payload = "gone"};
    open_as(t, &t->a, &login);
    mqtt_pair_publish(&t->a, EVENTS, "last", 1, 1);
    mqtt_pair_cut(&t->a);
    run(t);
    assert_true(mqtt_pair_gone(&t->a));
    assert_int_equal(fake_log_count(&t->core), 2);
    assert_memory_equal(last_record(t)->body.ptr, "gone", 4);
    assert_string_equal(properties_of(last_record(t)), "content-type=text/plain;a=1;iothub-MessageType=Will");
    login.will_retain = true;
    open_as(t, &t->b, &login);
    mqtt_pair_send_hex(&t->b, "e000"); /* DISCONNECT */
    run(t);
    assert_true(mqtt_pair_gone(&t->b));
    assert_int_equal(fake_log_count(&t->core), 2);
    bench_free(t);
}

static void test_will_on_each_end(void **state)
{
    (void)state;
    for (int way = 0; way < 6; way++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_login login = {.device = "d1",
                            .will_topic = EVENTS,
                            .will_payload = "gone",
                            .will_retain = true,
                            .keep_alive_s = 10,
                            .ttl_s = way == 3 ? 5 : 3600};
        open_as(t, &t->a, &login);
        switch (way) {
        case 0: /* protocol error */
            mqtt_pair_send_hex(&t->a, "f000");
            break;
        case 1: /* take-over */
            mqtt_pair_connect(&t->b, &d1);
            break;
        case 2: /* keep-alive */
            nv_manual_clock_advance(&t->core.clock, 15 * NV_US_PER_S);
            mqtt_pair_tick(&t->a);
            break;
        case 3: /* the token expires */
            nv_manual_clock_advance(&t->core.clock, 5 * NV_US_PER_S);
            mqtt_pair_tick(&t->a);
            break;
        case 4: /* the device is deleted */
            fake_unregister(&t->core, "d1", "");
            break;
        default: /* the hub stops */
            t->a.session->ops->drain(t->a.session, nv_mono_us(t->a.clock));
            break;
        }
        run(t);
        assert_true(t->a.closed && mqtt_pair_gone(&t->a));
        assert_int_equal(fake_log_count(&t->core), 1);
        assert_string_equal(properties_of(last_record(t)), "iothub-MessageType=Will;mqtt-retain=true");
        bench_free(t);
    }
}

static void test_will_must_be_telemetry(void **state)
{
    (void)state;
    static const char *const topics[] = {"home/kitchen", "devices/d2/messages/events/", "$iothub/twin/GET/?$rid=1"};
    for (size_t i = 0; i < NV_COUNT_OF(topics); i++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_login login = {.device = "d1", .will_topic = topics[i], .will_payload = "gone"};
        mqtt_pair_connect(&t->a, &login);
        expect(t, &t->a, "20020005");
        assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_TOPIC);
        assert_int_equal(fake_log_count(&t->core), 0);
        bench_free(t);
    }
}

static void test_will_waits_for_room(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    fake_log_set_batch_records(&t->core, 1);
    mqtt_login login = {.device = "d1", .will_topic = EVENTS, .will_payload = "gone"};
    open_as(t, &t->a, &login);
    for (uint16_t i = 1; i <= 10; i++) {
        mqtt_pair_publish(&t->a, EVENTS, "p", 1, i);
    }
    mqtt_pair_cut(&t->a);
    run(t);
    assert_false(mqtt_pair_gone(&t->a));
    while (fake_log_complete(&t->core, NV_OK)) {
        run(t);
    }
    assert_true(mqtt_pair_gone(&t->a));
    assert_memory_equal(last_record(t)->body.ptr, "gone", 4);
    bench_free(t);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

/* conformance: mqtt.md 15 */
static void test_keep_alive(void **state)
{
    (void)state;
    static const struct {
        uint16_t keep_alive_s;
        int64_t closes_after_s;
    } rows[] = {{10, 15}, {60, 90}, {1177, 1765}, {1178, 1767}, {65535, 1767}, {0, 1767}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_login login = {.device = "d1", .keep_alive_s = rows[i].keep_alive_s, .ttl_s = 100000};
        open_as(t, &t->a, &login);
        for (int ping = 0; ping < 5; ping++) { /* a sign of life in time */
            advance(t, rows[i].closes_after_s * NV_US_PER_S * 9 / 10);
            assert_false(mqtt_pair_gone(&t->a));
            mqtt_pair_send_hex(&t->a, "c000");
            expect(t, &t->a, "d000");
        }
        advance(t, rows[i].closes_after_s * NV_US_PER_S - 1);
        assert_false(mqtt_pair_gone(&t->a));
        advance(t, NV_US_PER_S);
        assert_true(mqtt_pair_gone(&t->a));
        assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_KEEP_ALIVE);
        bench_free(t);
    }
}

static void test_silence_while_the_hub_does_not_read(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_azure);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    mqtt_login login = {.device = "d1", .keep_alive_s = 10};
    open_as(t, &t->a, &login);
    for (uint16_t i = 1; i <= 20; i++) {
        mqtt_pair_publish(&t->a, EVENTS, "p", 1, i);
    }
    advance(t, 60 * NV_US_PER_S);
    assert_false(mqtt_pair_gone(&t->a));
    fake_log_complete(&t->core, NV_OK);
    run(t);
    assert_true(t->a.session->reading);
    bench_free(t);
}

/* conformance: mqtt.md 43 */
static void test_expiry(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    mqtt_login login = {.device = "d1", .ttl_s = 30, .persistent = true};
    open_as(t, &t->a, &login);
    mqtt_pair_subscribe(&t->a, 1, "$iothub/twin/res/#", 0);
    expect(t, &t->a, "9003000100");
    for (int s = 0; s < 29; s++) {
        advance(t, NV_US_PER_S);
        assert_false(mqtt_pair_gone(&t->a));
    }
    advance(t, NV_US_PER_S);
    assert_true(t->a.closed && mqtt_pair_gone(&t->a));
    assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_SESSION_EXPIRED);
    mqtt_pair_connect(&t->b, &login); /* a fresh token resumes the session */
    expect(t, &t->b, "20020100");
    bench_free(t);
}

static void test_connect_deadline(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    mqtt_pair_send_hex(&t->a, "10 20 0004");
    advance(t, 29 * NV_US_PER_S);
    assert_false(mqtt_pair_gone(&t->a));
    advance(t, NV_US_PER_S);
    assert_true(mqtt_pair_gone(&t->a));
    bench_free(t);
}

static void test_idle_buffers_are_given_back(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    int64_t keep_alive = t->a.session->deadline_us;
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 1);
    run(t);
    assert_true(t->a.session->deadline_us < keep_alive); /* somebody will look */
    advance(t, 10 * NV_US_PER_S);                        /* used since: kept once more */
    advance(t, 10 * NV_US_PER_S);
    assert_true(t->a.session->deadline_us >= keep_alive);
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 2);
    expect(t, &t->a, "4002000140020002");
    bench_free(t);
}

/* ---- subscriptions and sessions ------------------------------------------------------------------------------------
 */

/* conformance: mqtt.md 17 */
/* conformance: mqtt.md 40 */
/* conformance: mqtt.md 41 */
static void test_subscribe(void **state)
{
    (void)state;
    static const struct {
        const char *module;
        const char *filter;
        uint8_t qos;
        const char *suback;
    } rows[] = {
        {"", "devices/d1/messages/devicebound/#", 1, "9003000701"},
        {"", "devices/+/messages/devicebound/#", 1, "9003000701"},
        {"", "devices/d1/messages/devicebound/#", 2, "9003000701"},
        {"", "$iothub/twin/res/#", 0, "9003000700"},
        {"", "$iothub/twin/PATCH/properties/desired/#", 2, "9003000701"},
        {"", "$iothub/methods/POST/#", 0, "9003000700"},
        {"", "#", 0, "9003000780"},
        {"", "devices/#", 0, "9003000780"},
        {"", "devices/d2/messages/devicebound/#", 1, "9003000780"},
        {"", "$iothub/nothing/#", 1, "9003000780"},
        {"m1", "devices/d1/modules/m1/#", 1, "9003000701"},
        {"m1", "devices/d1/modules/m1/inputs/#", 1, "9003000701"},
        {"m1", "devices/d1/modules/m1/messages/devicebound/#", 1, "9003000701"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_login login = {.device = "d1", .module = rows[i].module};
        open_as(t, &t->a, &login);
        mqtt_pair_subscribe(&t->a, 7, rows[i].filter, rows[i].qos);
        run(t);
        const char *got = mqtt_pair_take_hex(&t->a);
        if (strcmp(got, rows[i].suback) != 0) {
            fail_msg("%s: %s, not %s", rows[i].filter, got, rows[i].suback);
        }
        assert_false(mqtt_pair_gone(&t->a));
        bench_free(t);
    }
}

/* conformance: mqtt.md 41 */
static void test_subscribe_five(void **state)
{
    (void)state;
    static const nv_mqtt_filter filters[] = {{NV_SPAN_LIT("$iothub/twin/res/#"), 0},
                                             {NV_SPAN_LIT("devices/d1/messages/devicebound/#"), 2},
                                             {NV_SPAN_LIT("no/such/topic"), 1},
                                             {NV_SPAN_LIT("$iothub/methods/POST/#"), 0},
                                             {NV_SPAN_LIT("$iothub/twin/PATCH/properties/desired/#"), 1}};
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1_persistent);
    uint8_t packet[512];
    nv_writer w = nv_writer_of(packet, sizeof(packet));
    nv_mqtt_write_subscribe(&w, 0x1234, filters, NV_COUNT_OF(filters));
    mqtt_pair_send(&t->a, nv_writer_span(&w));
    expect(t, &t->a,
           "9007"
           "1234"
           "00"
           "01"
           "80"
           "00"
           "01");
    bench_free(t);
}

/* SUBACK of a persistent session leaves once its subscriptions are durable; telemetry goes on meanwhile. */
static void test_suback_after_durable(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1_persistent);
    fake_state_set_hold(&t->core, true);
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 1);
    mqtt_pair_subscribe(&t->a, 2, "$iothub/twin/res/#", 0);
    mqtt_pair_subscribe(&t->a, 3, "$iothub/methods/POST/#", 0);
    expect(t, &t->a, "40020001");
    assert_true(fake_state_complete(&t->core));
    expect(t, &t->a, "9003000200");
    assert_true(fake_state_complete(&t->core));
    expect(t, &t->a, "9003000300");
    mqtt_pair_send_hex(&t->a, "a2 16 0004 0012 24696f746875622f7477696e2f7265732f23"); /* UNSUBSCRIBE */
    expect(t, &t->a, "");
    assert_true(fake_state_complete(&t->core));
    expect(t, &t->a, "b0020004");
    mqtt_pair_send_hex(&t->a, "a2 16 0005 0012 24696f746875622f7477696e2f7265732f23"); /* not subscribed: at once */
    expect(t, &t->a, "b0020005");
    bench_free(t);
}

static void test_subscriptions_that_cannot_be_stored(void **state)
{
    (void)state;
    static const nv_err errors[] = {NV_E_IO, NV_E_AGAIN, NV_E_NOT_FOUND};
    for (size_t i = 0; i < NV_COUNT_OF(errors); i++) {
        bench *t = bench_new(&nv_limits_open);
        open_as(t, &t->a, &d1_persistent);
        fake_state_set_status(&t->core, errors[i]);
        mqtt_pair_subscribe(&t->a, 2, "$iothub/twin/res/#", 0);
        expect(t, &t->a, "");
        assert_true(mqtt_pair_gone(&t->a));
        assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_STORAGE);
        bench_free(t);
    }
}

static void test_subscribe_needs_api_version(void **state)
{
    (void)state;
    static const char *const filters[] = {"$iothub/twin/res/#", "$iothub/methods/POST/#"};
    for (size_t i = 0; i < NV_COUNT_OF(filters); i++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_login login = {.device = "d1", .user_name = FAKE_HUB_NAME "/d1"};
        open_as(t, &t->a, &login);
        mqtt_pair_subscribe(&t->a, 1, "devices/d1/messages/devicebound/#", 1);
        expect(t, &t->a, "9003000101");
        mqtt_pair_subscribe(&t->a, 2, filters[i], 0);
        expect(t, &t->a, "");
        assert_true(mqtt_pair_gone(&t->a));
        assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_API_VERSION);
        bench_free(t);
    }
}

static const char twin_get[] = "30 1b 0019 24696f746875622f7477696e2f4745542f3f247269643d3432"; /* rid 42 */

/* conformance: mqtt.md 12 */
/* conformance: mqtt.md 13 */
static void test_persistent_session(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1_persistent);
    mqtt_pair_subscribe(&t->a, 1, "$iothub/twin/res/#", 0);
    expect(t, &t->a, "9003000100");
    mqtt_pair_cut(&t->a);
    run(t);
    mqtt_pair_connect(&t->b, &d1_persistent);
    expect(t, &t->b, "20020100");
    mqtt_pair_send_hex(&t->b, twin_get); /* answered without SUBSCRIBE */
    run(t);
    assert_non_null(strstr(mqtt_pair_take_hex(&t->b), "24696f746875622f7477696e2f7265732f3230302f3f247269643d3432"));
    mqtt_pair_send_hex(&t->b, "e000");
    run(t);
    mqtt_pair_deinit(&t->b);
    mqtt_pair_open(&t->b, &t->core.hub->loops[0], 3);
    open_as(t, &t->b, &d1); /* clean: forgets */
    mqtt_pair_send_hex(&t->b, twin_get);
    expect(t, &t->b, "");
    assert_int_equal(fake_state_sessions(&t->core), 0);
    mqtt_pair_cut(&t->b);
    run(t);
    mqtt_pair_deinit(&t->b);
    mqtt_pair_open(&t->b, &t->core.hub->loops[0], 4);
    open_as(t, &t->b, &d1_persistent); /* nothing there any more */
    mqtt_pair_cut(&t->b);
    run(t);
    mqtt_pair_deinit(&t->b);
    mqtt_pair_open(&t->b, &t->core.hub->loops[0], 5);
    mqtt_pair_connect(&t->b, &d1_persistent); /* a session without subscriptions is one */
    expect(t, &t->b, "20020100");
    bench_free(t);
}

/* ---- take-over and eviction -----------------------------------------------------------------------------------------
 */

/* conformance: mqtt.md 14 */
static void test_take_over(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    open_as(t, &t->a, &d1);
    mqtt_pair_publish(&t->a, EVENTS, "old", 1, 1);
    run(t);
    int64_t takeovers = nv_metric_get(NV_M_MQTT_TAKEOVERS);
    mqtt_pair_connect(&t->b, &d1);
    expect(t, &t->b, ""); /* the old one still has an append that nobody confirmed */
    assert_false(t->a.closed);
    assert_false(t->a.session->reading);
    fake_log_complete(&t->core, NV_OK);
    expect(t, &t->b, "20020000");
    assert_string_equal(mqtt_pair_take_hex(&t->a), "40020001");
    assert_true(t->a.closed && mqtt_pair_gone(&t->a));
    assert_int_equal(nv_metric_get(NV_M_MQTT_TAKEOVERS) - takeovers, 1);
    assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_TAKEN_OVER);
    mqtt_pair_publish(&t->b, EVENTS, "new", 1, 2);
    run(t);
    fake_log_complete(&t->core, NV_OK);
    expect(t, &t->b, "40020002");
    assert_int_equal(nv_devices_connected(t->core.hub), 1);
    bench_free(t);
}

/* A peer that does not read cannot hold up the one that takes over. */
static void test_take_over_from_a_stuck_peer(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    t->a.stuck = true;
    open_as(t, &t->b, &d1);
    assert_false(mqtt_pair_gone(&t->a));
    assert_true(t->a.session->closing);
    bench_free(t);
}

/* A claim with bad credentials takes nothing over. */
static void test_a_refused_connect_takes_nothing_over(void **state)
{
    (void)state;
    static const nv_key wrong = {"wrong-key-wrong-key-wrong-key-wr", 32};
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    mqtt_login login = {.device = "d1", .key = &wrong};
    mqtt_pair_connect(&t->b, &login);
    expect(t, &t->b, "20020005");
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 1);
    expect(t, &t->a, "40020001");
    bench_free(t);
}

static void rekey(nv_identity *identity)
{
    memset(identity->primary_key.bytes, 7, identity->primary_key.len);
}

static void swap_keys(nv_identity *identity)
{
    identity->primary_key = fake_secondary_key;
    identity->secondary_key = fake_device_key;
}

static void rekey_secondary(nv_identity *identity)
{
    memset(identity->secondary_key.bytes, 7, identity->secondary_key.len);
}

static void new_generation(nv_identity *identity)
{
    identity->generation_id = nv_span_str("638000000000000001");
}

static void new_etag(nv_identity *identity)
{
    identity->etag = 99;
}

/* conformance: mqtt.md 44 */
static void test_eviction(void **state)
{
    (void)state;
    static const struct {
        void (*change)(nv_identity *identity); /* NULL: delete */
        mqtt_login login;
        bool evicted;
    } rows[] = {
        {NULL, {.device = "d1"}, true},
        {make_disabled, {.device = "d1"}, true},
        {make_disabled, {.device = "d1", .policy = "device"}, true},
        {rekey, {.device = "d1"}, true},
        {rekey, {.device = "d1", .key = &fake_secondary_key}, false},
        {rekey, {.device = "d1", .policy = "device"}, false},
        {rekey_secondary, {.device = "d1"}, false},
        {rekey_secondary, {.device = "d1", .key = &fake_secondary_key}, true},
        {swap_keys, {.device = "d1"}, false},
        {new_generation, {.device = "d1"}, true},
        {new_etag, {.device = "d1"}, false},
        {make_x509_sha1, {.device = "d1"}, true},
        {NULL, {.device = "d1", .module = "m1"}, true},
        {make_disabled, {.device = "d1", .module = "m1"}, true},
        {rekey, {.device = "d1", .module = "m1"}, false}, /* the device's key is not the module's */
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        open_as(t, &t->a, &rows[i].login);
        if (rows[i].change) {
            fake_register(&t->core, "d1", "", rows[i].change);
        } else {
            fake_unregister(&t->core, "d1", "");
        }
        expect(t, &t->a, "");
        if (mqtt_pair_gone(&t->a) != rows[i].evicted) {
            fail_msg("row %zu: evicted %d", i, !rows[i].evicted);
        }
        const char *module = rows[i].login.module ? rows[i].login.module : "";
        assert_int_equal(last_refusal(t, "d1", module), rows[i].evicted ? NV_REFUSAL_REVOKED : NV_REFUSAL_NONE);
        bench_free(t);
    }
}

/* Changed between authentication and claim: seen before CONNACK. */
static void test_revoked_while_connecting(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    mqtt_pair_connect(&t->a, &d1); /* authenticated against the old keys, nothing has run yet */
    fake_register(&t->core, "d1", "", rekey);
    expect(t, &t->a, "20020005");
    assert_true(mqtt_pair_gone(&t->a));
    bench_free(t);
}

static void test_drain(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    open_as(t, &t->a, &d1);
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 1);
    run(t);
    t->a.session->ops->drain(t->a.session, 0);
    t->b.session->ops->drain(t->b.session, 0);
    run(t);
    assert_true(mqtt_pair_gone(&t->b)); /* it never connected */
    assert_false(t->a.closed);
    fake_log_complete(&t->core, NV_OK);
    expect(t, &t->a, "40020001");
    assert_true(t->a.closed && mqtt_pair_gone(&t->a));
    bench_free(t);
}

static void test_slow_reader(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    t->a.out.max = 8;
    t->a.stuck = true;
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 1);
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 2);
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 3);
    run(t);
    assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_SLOW_READER);
    assert_true(t->a.session->closing);
    assert_int_equal(fake_log_count(&t->core), 3);
    bench_free(t);
}

/* conformance: mqtt.md 16 */
static void test_ping_under_load(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    open_as(t, &t->a, &d1);
    for (uint16_t i = 1; i <= 100; i++) {
        mqtt_put_publish(&t->a.in, EVENTS, nv_span_str("p"), 1, i);
    }
    mqtt_pair_send_hex(&t->a, "c000");
    assert_string_equal(mqtt_pair_take_hex(&t->a), "d000"); /* before anything is stored */
    bench_free(t);
}

static void test_packets_a_client_must_not_send(void **state)
{
    (void)state;
    static const char *const rows[] = {"20020000", "50020001", "62020001", "70020001", "9003000100",
                                       "b0020001", "d000",     "0000",     "f000"};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        open_as(t, &t->a, &d1);
        mqtt_pair_send_hex(&t->a, rows[i]);
        expect(t, &t->a, "");
        assert_true(mqtt_pair_gone(&t->a));
        assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_MALFORMED);
        bench_free(t);
    }
}

static void test_last_seen_is_saved(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    mqtt_pair_publish(&t->a, EVENTS, "p", 0, 0);
    mqtt_pair_cut(&t->a);
    run(t);
    assert_int_equal(fake_state_seen(&t->core), 1);
    bench_free(t);
}

static void reconnect_as(bench *t, mqtt_pair *pair, const mqtt_login *login, uint64_t id)
{
    mqtt_pair_cut(pair);
    run(t);
    mqtt_pair_deinit(pair);
    mqtt_pair_open(pair, &t->core.hub->loops[0], id);
    open_as(t, pair, login);
}

/* Connecting again and again must not cost a transaction each time. */
static void test_reconnects_are_cheap(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    for (uint64_t i = 0; i < 5; i++) {
        reconnect_as(t, &t->a, &d1, 10 + i);
    }
    assert_int_equal(fake_state_loads(&t->core), 1); /* it keeps no session, and the hub remembers that */
    assert_int_equal(fake_state_seen(&t->core), 1);  /* the first at once, the others wait for company */
    nv_manual_clock_advance(&t->core.clock, 2 * NV_US_PER_S);
    run(t);
    assert_true(fake_state_seen(&t->core) > 1);
    reconnect_as(t, &t->a, &d1_persistent, 20);
    reconnect_as(t, &t->a, &d1, 21);
    assert_int_equal(fake_state_loads(&t->core), 2); /* only where there may be one */
    bench_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_will),
        cmocka_unit_test(test_will_on_each_end),
        cmocka_unit_test(test_will_must_be_telemetry),
        cmocka_unit_test(test_will_waits_for_room),
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_silence_while_the_hub_does_not_read),
        cmocka_unit_test(test_expiry),
        cmocka_unit_test(test_connect_deadline),
        cmocka_unit_test(test_idle_buffers_are_given_back),
        cmocka_unit_test(test_subscribe),
        cmocka_unit_test(test_subscribe_five),
        cmocka_unit_test(test_suback_after_durable),
        cmocka_unit_test(test_subscriptions_that_cannot_be_stored),
        cmocka_unit_test(test_subscribe_needs_api_version),
        cmocka_unit_test(test_persistent_session),
        cmocka_unit_test(test_take_over),
        cmocka_unit_test(test_take_over_from_a_stuck_peer),
        cmocka_unit_test(test_a_refused_connect_takes_nothing_over),
        cmocka_unit_test(test_eviction),
        cmocka_unit_test(test_revoked_while_connecting),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_ping_under_load),
        cmocka_unit_test(test_packets_a_client_must_not_send),
        cmocka_unit_test(test_last_seen_is_saved),
        cmocka_unit_test(test_reconnects_are_cheap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
