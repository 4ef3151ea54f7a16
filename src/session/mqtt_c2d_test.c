/* Cloud-to-device messages over MQTT: topics byte for byte, acknowledgement, redelivery, bounds. */
#include "support/fake_cloud.h"
#include "support/mqtt_device_rig.h"

#define BOUND "devices/d1/messages/devicebound/#"
#define TO    "devices/d1/messages/devicebound/%24.to=%2Fdevices%2Fd1%2Fmessages%2FdeviceBound"

static nv_hub_loop *loop_of(bench *t)
{
    return &t->core.hub->loops[0];
}

static uint64_t send(bench *t, const char *body)
{
    return fake_c2d_send(loop_of(t), "d1", NV_ACK_NONE, NV_SPAN_EMPTY, nv_span_str(body));
}

static void unsubscribe(bench *t, mqtt_pair *pair, uint16_t id, const char *filter)
{
    nv_mqtt_filter filters[] = {{nv_span_str(filter), 0}};
    uint8_t packet[256];
    nv_writer w = nv_writer_of(packet, sizeof(packet));
    nv_mqtt_write_unsubscribe(&w, id, filters, 1);
    mqtt_pair_send(pair, nv_writer_span(&w));
    char text[32];
    (void)snprintf(text, sizeof(text), "UNSUBACK %u\n", id);
    expect_text(t, pair, text);
}

static bench *open_bound(const nv_limits *limits, const mqtt_login *login, uint8_t qos)
{
    bench *t = bench_new(limits);
    open_as(t, &t->a, login);
    mqtt_pair_subscribe(&t->a, 1, BOUND, qos);
    expect_text(t, &t->a, qos ? "SUBACK 1 1\n" : "SUBACK 1 0\n");
    return t;
}

static void puback(bench *t, mqtt_pair *pair, uint16_t id)
{
    uint8_t packet[NV_MQTT_ACK_SIZE];
    nv_mqtt_put_puback(packet, id);
    mqtt_pair_send(pair, nv_span_of(packet, sizeof(packet)));
    run(t);
}

/* ---- topics ---- */

static nv_value text(const char *value)
{
    return nv_value_string(nv_span_str(value));
}

static nv_value null_value(void)
{
    return (nv_value){.type = NV_VALUE_NULL};
}

static nv_property app(const char *name, nv_value value)
{
    return (nv_property){.id = NV_PROP_APPLICATION, .name = nv_span_str(name), .value = value};
}

static nv_property sys(nv_system_property id, nv_value value)
{
    return (nv_property){.id = (uint8_t)id, .value = value};
}

/* conformance: mqtt.md 25 */
/* conformance: mqtt.md 26 */
/* conformance: mqtt.md 27 */
static void test_topics(void **state)
{
    (void)state;
    const int64_t noon = INT64_C(1714564800123456); /* 2024-05-01T12:00:00.123456Z */
    const struct {
        nv_property properties[6];
        size_t count;
        nv_c2d_ack ack;
        int64_t expires_us;
        const char *rest; /* behind TO */
    } rows[] = {
        {.rest = ""},
        {.ack = NV_ACK_FULL, .rest = "&iothub-ack=full"},
        {.ack = NV_ACK_POSITIVE, .rest = "&iothub-ack=positive"},
        {.ack = NV_ACK_NEGATIVE, .rest = "&iothub-ack=negative"},
        {{app("a", text("1")), sys(NV_PROP_MESSAGE_ID, text("m 1/+&=$%~"))},
         2,
         NV_ACK_FULL,
         0,
         "&%24.mid=m%201%2F%2B%26%3D%24%25~&iothub-ack=full&a=1"},
        {{sys(NV_PROP_CONTENT_ENCODING, text("utf-8")), sys(NV_PROP_CONTENT_TYPE, text("application/json")),
          sys(NV_PROP_USER_ID, text("u")), sys(NV_PROP_CORRELATION_ID, text("c"))},
         4,
         NV_ACK_NONE,
         0,
         "&%24.cid=c&%24.uid=u&%24.ct=application%2Fjson&%24.ce=utf-8"},
        {{sys(NV_PROP_TO, text("/elsewhere")), sys(NV_PROP_OUTPUT_NAME, text("o")), sys(NV_PROP_SUBJECT, text("s"))},
         3,
         NV_ACK_NONE,
         0,
         ""},
        {{sys(NV_PROP_OPERATION, text("o")), app("a", text("1"))},
         2,
         NV_ACK_FULL,
         0,
         "&iothub-operation=o&iothub-ack=full&a=1"},
        {{sys(NV_PROP_CREATION_TIME_AMQP, (nv_value){.type = NV_VALUE_TIMESTAMP, .i = 1714564800123})},
         1,
         NV_ACK_NONE,
         0,
         "&%24.ctime=2024-05-01T12%3A00%3A00.1230000Z"},
        {{app("b", text("2"))}, 1, NV_ACK_NONE, noon, "&%24.exp=2024-05-01T12%3A00%3A00.1234560Z&b=2"},
        {{app("none", null_value()), app("empty", text("")), app("", text("x")), app("k y/", text("\xC3\xA9"))},
         4,
         NV_ACK_NONE,
         0,
         "&none&empty=&k%20y%2F=%C3%A9"},
        {{app("iothub-ack", text("forged")), app("$.mid", text("forged")), app("$.custom", text("kept"))},
         3,
         NV_ACK_NONE,
         0,
         "&%24.custom=kept"},
        {{app("t", (nv_value){.type = NV_VALUE_BOOL, .boolean = true}),
          app("u", (nv_value){.type = NV_VALUE_ULONG, .u = UINT64_MAX}),
          app("i", (nv_value){.type = NV_VALUE_INT, .i = -5}), app("c", (nv_value){.type = NV_VALUE_CHAR, .u = 0x20AC}),
          app("d", (nv_value){.type = NV_VALUE_DOUBLE, .u = UINT64_C(0x4000000000000000)}),
          app("g", (nv_value){.type = NV_VALUE_UUID, .bytes = nv_span_str("0123456789abcdef")})},
         6,
         NV_ACK_NONE,
         0,
         "&t=true&u=18446744073709551615&i=-5&c=%E2%82%AC&d=2&g=30313233-3435-3637-3839-616263646566"},
    };
    bench *t = open_bound(&nv_limits_open, &d1, 1);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_buf section;
        nv_buf_init(&section, 4096);
        for (size_t p = 0; p < rows[i].count; p++) {
            assert_int_equal(nv_property_put(&section, &rows[i].properties[p]), NV_OK);
        }
        if (rows[i].expires_us) {
            fake_c2d_send_until(loop_of(t), "d1", rows[i].expires_us, nv_buf_span(&section), nv_span_str("body"));
        } else {
            fake_c2d_send(loop_of(t), "d1", rows[i].ack, nv_buf_span(&section), nv_span_str("body"));
        }
        char want[512];
        (void)snprintf(want, sizeof(want), "PUBLISH q1 id=%zu %s%s | body\n", i + 1, TO, rows[i].rest);
        expect_text(t, &t->a, want);
        puback(t, &t->a, (uint16_t)(i + 1));
        nv_buf_deinit(&section);
    }
    assert_int_equal(fake_c2d_completed(), NV_COUNT_OF(rows));
    bench_free(t);
}

/* conformance: mqtt.md 26 */
static void test_odd_device_id(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_register(&t->core, "a:b@c%2", "", NULL);
    mqtt_login login = {.device = "a:b@c%2", .policy = "device"};
    open_as(t, &t->a, &login);
    mqtt_pair_subscribe(&t->a, 1, "devices/a:b@c%2/messages/devicebound/#", 0);
    expect_text(t, &t->a, "SUBACK 1 0\n");
    fake_c2d_send(loop_of(t), "a:b@c%2", NV_ACK_NONE, NV_SPAN_EMPTY, nv_span_str("x"));
    expect_text(t, &t->a,
                "PUBLISH q0 devices/a:b@c%2/messages/devicebound/"
                "%24.to=%2Fdevices%2Fa%3Ab%40c%252%2Fmessages%2FdeviceBound | x\n");
    bench_free(t);
}

/* ---- who gets what ---- */

/* conformance: mqtt.md 28 */
static void test_wildcard(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    mqtt_pair_subscribe(&t->a, 1, "devices/+/messages/devicebound/#", 1);
    expect_text(t, &t->a, "SUBACK 1 1\n");
    fake_c2d_send(loop_of(t), "d2", NV_ACK_NONE, NV_SPAN_EMPTY, nv_span_str("another's"));
    expect_text(t, &t->a, "");
    send(t, "mine");
    expect_text(t, &t->a, "PUBLISH q1 id=2 " TO " | mine\n"); /* the second of the queue that all share here */
    assert_int_equal(fake_c2d_locked(), 1);
    bench_free(t);
}

/* conformance: mqtt.md 40 */
static void test_modules_get_none(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    mqtt_login login = {.device = "d1", .module = "m1"};
    open_as(t, &t->a, &login);
    static const char *const filters[] = {"devices/d1/modules/m1/messages/devicebound/#",
                                          "devices/d1/modules/m1/inputs/#", "devices/d1/modules/m1/#"};
    for (size_t i = 0; i < NV_COUNT_OF(filters); i++) {
        mqtt_pair_subscribe(&t->a, 1, filters[i], 1);
        expect_text(t, &t->a, "SUBACK 1 1\n");
    }
    send(t, "for the device");
    expect_text(t, &t->a, "");
    assert_int_equal(fake_c2d_locked(), 0);
    bench_free(t);
}

static void test_without_api_version(void **state)
{
    (void)state;
    mqtt_login login = {.device = "d1", .user_name = FAKE_HUB_NAME "/d1"};
    bench *t = open_bound(&nv_limits_open, &login, 0);
    send(t, "x");
    expect_text(t, &t->a, "PUBLISH q0 " TO " | x\n");
    bench_free(t);
}

/* ---- acknowledgement ---- */

/* conformance: mqtt.md 29 */
static void test_puback_completes(void **state)
{
    (void)state;
    bench *t = open_bound(&nv_limits_open, &d1, 1);
    send(t, "one");
    send(t, "two");
    expect_text(t, &t->a, "PUBLISH q1 id=1 " TO " | one\nPUBLISH q1 id=2 " TO " | two\n");
    assert_int_equal(fake_c2d_completed(), 0);
    puback(t, &t->a, 9); /* nobody's */
    puback(t, &t->a, 2);
    assert_int_equal(fake_c2d_completed(), 1);
    puback(t, &t->a, 2); /* once more */
    puback(t, &t->a, 1);
    assert_int_equal(fake_c2d_completed(), 2);
    assert_int_equal(fake_c2d_count(), 0);
    assert_int_equal(fake_c2d_lock_lost(), 0);
    bench_free(t);
}

static void test_qos0_is_done_when_written(void **state)
{
    (void)state;
    bench *t = open_bound(&nv_limits_open, &d1, 0);
    send(t, "one");
    expect_text(t, &t->a, "PUBLISH q0 " TO " | one\n");
    assert_int_equal(fake_c2d_completed(), 1);
    mqtt_pair_subscribe(&t->a, 2, BOUND, 1); /* more from now on */
    expect_text(t, &t->a, "SUBACK 2 1\n");
    send(t, "two");
    expect_text(t, &t->a, "PUBLISH q1 id=2 " TO " | two\n");
    assert_int_equal(fake_c2d_completed(), 1);
    bench_free(t);
}

/* conformance: mqtt.md 29 */
static void test_lost_lock(void **state)
{
    (void)state;
    bench *t = open_bound(&nv_limits_open, &d1, 1);
    send(t, "one");
    send(t, "two");
    expect_text(t, &t->a, "PUBLISH q1 id=1 " TO " | one\nPUBLISH q1 id=2 " TO " | two\n");
    fake_c2d_lose_locks();
    expect_text(t, &t->a, "PUBLISH q1 id=1 dup " TO " | one\nPUBLISH q1 id=2 dup " TO " | two\n");
    puback(t, &t->a, 1);
    puback(t, &t->a, 2);
    assert_int_equal(fake_c2d_completed(), 2); /* by the locks of the second time */
    assert_int_equal(fake_c2d_lock_lost(), 0);
    bench_free(t);
}

/* conformance: mqtt.md 29 */
/* conformance: mqtt.md 30 */
static void test_reconnect(void **state)
{
    (void)state;
    bench *t = open_bound(&nv_limits_open, &d1_persistent, 1);
    send(t, "one");
    send(t, "two");
    expect_text(t, &t->a, "PUBLISH q1 id=1 " TO " | one\nPUBLISH q1 id=2 " TO " | two\n");
    puback(t, &t->a, 1);
    mqtt_pair_cut(&t->a);
    run(t);
    assert_true(mqtt_pair_gone(&t->a));
    assert_int_equal(fake_c2d_locked(), 0);
    send(t, "sent offline");
    mqtt_pair_connect(&t->b, &d1_persistent);
    expect_text(t, &t->b,
                "CONNACK 0 session\nPUBLISH q1 id=2 dup " TO " | two\nPUBLISH q1 id=3 " TO " | sent offline\n");
    puback(t, &t->b, 1); /* of the earlier connection, once more: nobody's */
    assert_int_equal(fake_c2d_completed(), 1);
    puback(t, &t->b, 2);
    puback(t, &t->b, 3);
    assert_int_equal(fake_c2d_completed(), 3);
    bench_free(t);
}

/* conformance: mqtt.md 13 */
static void test_clean_session(void **state)
{
    (void)state;
    bench *t = open_bound(&nv_limits_open, &d1, 1);
    send(t, "one");
    expect_text(t, &t->a, "PUBLISH q1 id=1 " TO " | one\n");
    mqtt_pair_send_hex(&t->a, "e000");
    run(t);
    open_as(t, &t->b, &d1);
    expect_text(t, &t->b, ""); /* nothing until it asks */
    mqtt_pair_subscribe(&t->b, 1, BOUND, 1);
    expect_text(t, &t->b, "SUBACK 1 1\nPUBLISH q1 id=1 " TO " | one\n"); /* a new session: for it, the first time */
    puback(t, &t->b, 1);
    assert_int_equal(fake_c2d_completed(), 1);
    bench_free(t);
}

static void test_take_over(void **state)
{
    (void)state;
    bench *t = open_bound(&nv_limits_open, &d1_persistent, 1);
    for (int i = 0; i < 5; i++) {
        send(t, "m");
    }
    run(t);
    mqtt_pair_connect(&t->b, &d1_persistent);
    run(t);
    assert_true(mqtt_pair_gone(&t->a));
    assert_int_equal(fake_c2d_locked(), 5);
    const char *out = mqtt_pair_take_text(&t->b);
    assert_int_equal(strncmp(out, "CONNACK 0 session\nPUBLISH q1 id=1 dup ", 38), 0);
    for (uint16_t id = 1; id <= 5; id++) {
        puback(t, &t->b, id);
    }
    assert_int_equal(fake_c2d_completed(), 5);
    bench_free(t);
}

static void test_unsubscribe(void **state)
{
    (void)state;
    bench *t = open_bound(&nv_limits_open, &d1_persistent, 1);
    send(t, "one");
    expect_text(t, &t->a, "PUBLISH q1 id=1 " TO " | one\n");
    unsubscribe(t, &t->a, 7, BOUND);
    assert_int_equal(fake_c2d_locked(), 0); /* it waits for another receiver */
    puback(t, &t->a, 1);                    /* too late */
    assert_int_equal(fake_c2d_completed(), 0);
    send(t, "two");
    expect_text(t, &t->a, "");
    unsubscribe(t, &t->a, 8, BOUND);
    for (uint16_t i = 0; i < 3; i++) { /* again and again, the detached receivers still on their way out */
        mqtt_pair_subscribe(&t->a, 9, BOUND, 1);
        nv_mqtt_filter filters[] = {{nv_span_str(BOUND), 0}};
        uint8_t packet[256];
        nv_writer w = nv_writer_of(packet, sizeof(packet));
        nv_mqtt_write_unsubscribe(&w, 10, filters, 1);
        mqtt_pair_send(&t->a, nv_writer_span(&w));
    }
    mqtt_pair_subscribe(&t->a, 11, BOUND, 1);
    run(t);
    const char *out = mqtt_pair_take_text(&t->a);
    const char *last = strstr(out, "SUBACK 11 1\n");
    assert_non_null(last);
    assert_non_null(strstr(last, TO " | one\n"));
    assert_non_null(strstr(last, TO " | two\n"));
    bench_free(t);
}

/* ---- bounds ---- */

static void test_credit(void **state)
{
    (void)state;
    bench *t = open_bound(&nv_limits_azure, &d1, 1);
    for (int i = 0; i < 25; i++) {
        send(t, "m");
    }
    run(t);
    assert_int_equal(fake_c2d_locked(), 10);
    mqtt_pair_take_text(&t->a);
    puback(t, &t->a, 4);
    puback(t, &t->a, 1);
    assert_int_equal(fake_c2d_locked(), 10);
    expect_text(t, &t->a, "PUBLISH q1 id=11 " TO " | m\nPUBLISH q1 id=12 " TO " | m\n");
    for (int lost = 0; lost < 3; lost++) { /* a client that never acknowledges keeps no more entries than the credit */
        fake_c2d_lose_locks();
        run(t);
    }
    assert_int_equal(fake_c2d_locked(), 10);
    bench_free(t);
}

static void test_packet_ids_wrap(void **state)
{
    (void)state;
    bench *t = open_bound(&nv_limits_open, &d1, 1);
    send(t, "stays");
    run(t);
    mqtt_pair_take_text(&t->a);
    for (uint32_t i = 2; i < 65540; i++) {
        send(t, "m");
        run(t);
        nv_mqtt_packet packet;
        size_t consumed = 0;
        const char *why = "";
        assert_int_equal(nv_mqtt_decode(nv_buf_span(&t->a.out), 4096, &packet, &consumed, &why), NV_OK);
        uint32_t want = i <= 65535 ? i : i == 65536 ? 2 : i - 65535; /* neither 0 nor 1, which is still in use */
        assert_int_equal(packet.u.publish.packet_id, want);
        nv_buf_clear(&t->a.out);
        puback(t, &t->a, (uint16_t)want);
    }
    assert_int_equal(fake_c2d_locked(), 1);
    bench_free(t);
}

static void test_unread_output(void **state)
{
    (void)state;
    for (uint8_t qos = 0; qos < 2; qos++) {
        bench *t = open_bound(&nv_limits_open, &d1, qos);
        uint8_t *body = calloc(1, 60000);
        assert_non_null(body);
        for (int i = 0; i < 60; i++) {
            memset(body, 'a' + i % 26, 60000);
            fake_c2d_send(loop_of(t), "d1", NV_ACK_NONE, NV_SPAN_EMPTY, nv_span_of(body, 60000));
        }
        run(t);
        assert_true(nv_buf_len(&t->a.out) < (512u << 10));
        assert_false(mqtt_pair_gone(&t->a));
        size_t seen = 0;
        while (nv_buf_len(&t->a.out) > 0) { /* it reads at last: all of them, in order */
            for (const char *at = mqtt_pair_take_text(&t->a); (at = strstr(at, " | ")); at++) {
                assert_int_equal(at[3], 'a' + seen % 26);
                seen++;
            }
            run(t);
        }
        assert_int_equal(seen, 60);
        assert_int_equal(fake_c2d_completed(), qos ? 0 : 60);
        free(body);
        bench_free(t);
    }
}

/* The lock of what waits for room is lost meanwhile: it is sent once, and settled by the newer lock. */
static void test_lock_lost_while_held(void **state)
{
    (void)state;
    bench *t = open_bound(&nv_limits_open, &d1, 1);
    uint8_t *body = calloc(1, 60000);
    assert_non_null(body);
    memset(body, 'x', 60000);
    for (int i = 0; i < 10; i++) {
        fake_c2d_send(loop_of(t), "d1", NV_ACK_NONE, NV_SPAN_EMPTY, nv_span_of(body, 60000));
    }
    run(t);
    size_t unread = nv_buf_len(&t->a.out);
    fake_c2d_lose_locks();
    run(t);
    assert_int_equal(nv_buf_len(&t->a.out), unread); /* nothing is added above the mark, twice or not */
    for (uint32_t round = 0; round < 20 && nv_buf_len(&t->a.out) > 0; round++) {
        mqtt_pair_take_text(&t->a);
        run(t);
    }
    for (uint16_t id = 1; id <= 10; id++) {
        puback(t, &t->a, id);
    }
    assert_int_equal(fake_c2d_completed(), 10);
    assert_int_equal(fake_c2d_lock_lost(), 0);
    free(body);
    bench_free(t);
}

static void test_peer_never_reads(void **state)
{
    (void)state;
    bench *t = open_bound(&nv_limits_open, &d1, 1);
    nv_buf_set_max(&t->a.out, nv_buf_len(&t->a.out) + 100); /* full */
    send(t, "this does not fit into what is left of the output at all, and that ends the session");
    run(t);
    assert_true(mqtt_pair_gone(&t->a));
    assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_SLOW_READER);
    assert_int_equal(fake_c2d_locked(), 0);
    assert_int_equal(fake_c2d_count(), 1);
    bench_free(t);
}

static void test_too_much_for_a_topic(void **state)
{
    (void)state;
    bench *t = open_bound(&nv_limits_open, &d1, 1);
    char *value = calloc(1, 40001);
    assert_non_null(value);
    for (size_t len = 21000; len <= 22000; len += 1000) { /* three bytes of topic for each */
        memset(value, '/', len);
        nv_buf section;
        nv_buf_init(&section, 65536);
        nv_property property = app("p", nv_value_string(nv_span_of(value, len)));
        assert_int_equal(nv_property_put(&section, &property), NV_OK);
        fake_c2d_send(loop_of(t), "d1", NV_ACK_FULL, nv_buf_span(&section), nv_span_str("x"));
        nv_buf_deinit(&section);
        run(t);
    }
    assert_int_equal(fake_c2d_rejected(), 1);
    assert_non_null(strstr(last_log, "do not fit a topic"));
    send(t, "next");
    run(t);
    assert_non_null(strstr(mqtt_pair_take_text(&t->a), TO " | next\n"));
    free(value);
    bench_free(t);
}

/* ---- the end ---- */

static void test_end_while_settling(void **state)
{
    (void)state;
    bench *t = open_bound(&nv_limits_open, &d1, 1);
    send(t, "one");
    send(t, "two");
    run(t);
    fake_c2d_set_hold(true);
    puback(t, &t->a, 1);
    mqtt_pair_cut(&t->a);
    run(t);
    assert_false(mqtt_pair_gone(&t->a)); /* its memory is still needed */
    fake_c2d_set_hold(false);
    assert_true(fake_c2d_settle_one());
    run(t);
    assert_true(mqtt_pair_gone(&t->a));
    assert_int_equal(fake_c2d_count(), fake_c2d_completed() ? 1 : 2);
    bench_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topics),
        cmocka_unit_test(test_odd_device_id),
        cmocka_unit_test(test_wildcard),
        cmocka_unit_test(test_modules_get_none),
        cmocka_unit_test(test_without_api_version),
        cmocka_unit_test(test_puback_completes),
        cmocka_unit_test(test_qos0_is_done_when_written),
        cmocka_unit_test(test_lost_lock),
        cmocka_unit_test(test_reconnect),
        cmocka_unit_test(test_clean_session),
        cmocka_unit_test(test_take_over),
        cmocka_unit_test(test_unsubscribe),
        cmocka_unit_test(test_credit),
        cmocka_unit_test(test_packet_ids_wrap),
        cmocka_unit_test(test_unread_output),
        cmocka_unit_test(test_lock_lost_while_held),
        cmocka_unit_test(test_peer_never_reads),
        cmocka_unit_test(test_too_much_for_a_topic),
        cmocka_unit_test(test_end_while_settling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
