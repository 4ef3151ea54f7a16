/* Faults that the SDKs' own tests ask for by properties of a message. */
#include "core/fault.h"
#include "support/fake_cloud.h"
#include "support/mqtt_device_rig.h"

#define ASK "AzIoTHub_FaultOperationType="

static bench *open_faulty(const mqtt_login *login)
{
    fake_fault_injection = true;
    bench *t = bench_new(&nv_limits_open);
    fake_fault_injection = false;
    open_as(t, &t->a, login);
    return t;
}

static void ask(bench *t, const char *kind, const char *delay, const char *duration)
{
    char topic[512];
    (void)snprintf(topic, sizeof(topic),
                   EVENTS ASK "%s&AzIoTHub_FaultOperationCloseReason=byebye&AzIoTHub_FaultOperationDelayInSecs=%s"
                              "&AzIoTHub_FaultOperationDurationInSecs=%s",
                   kind, delay, duration);
    mqtt_pair_publish(&t->a, topic, "p", 1, 1);
    expect_text(t, &t->a, "PUBACK 1\n"); /* acknowledged before anything else happens */
}

static void connect_b(bench *t, uint64_t id, const char *connack)
{
    if (mqtt_pair_gone(&t->b)) {
        mqtt_pair_deinit(&t->b);
        mqtt_pair_open(&t->b, &t->core.hub->loops[0], id);
    }
    mqtt_pair_connect(&t->b, &d1);
    expect_text(t, &t->b, connack);
}

static void test_orders(void **state)
{
    (void)state;
    static const struct {
        const char *bag;
        nv_fault_kind kind;
        int64_t delay_us;
        int64_t duration_us;
    } rows[] = {
        {"", NV_FAULT_NONE, 0, 0},
        {"a=1", NV_FAULT_NONE, 0, 0},
        {ASK "Nonsense", NV_FAULT_NONE, 0, 0},
        {ASK "killtcp", NV_FAULT_NONE, 0, 0},
        {ASK, NV_FAULT_NONE, 0, 0},
        {ASK "KillTcp", NV_FAULT_KILL_TCP, 0, 0},
        {ASK "ShutDownMqtt&AzIoTHub_FaultOperationDelayInSecs=5", NV_FAULT_SHUT_DOWN_MQTT, 5000000, 0},
        {"AzIoTHub_FaultOperationDurationInSecs=0.25&" ASK "InvokeThrottling", NV_FAULT_THROTTLE, 0, 250000},
        {ASK "InvokeMaxMessageQuota&AzIoTHub_FaultOperationDelayInSecs=x&AzIoTHub_FaultOperationDurationInSecs=-1",
         NV_FAULT_QUOTA, 0, 0},
        {ASK "InvokeAuthError&AzIoTHub_FaultOperationDurationInSecs=99999999999999999999", NV_FAULT_AUTH, 0, 0},
        {ASK "InvokeAuthError&AzIoTHub_FaultOperationDurationInSecs=100000", NV_FAULT_AUTH, 0, INT64_C(3600000000)},
        {ASK "KillTcp&AzIoTHub_FaultOperationDelayInSecs=1.1234567", NV_FAULT_KILL_TCP, 1123456, 0},
    };
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char topic[512];
        (void)snprintf(topic, sizeof(topic), EVENTS "%s", rows[i].bag);
        mqtt_pair_publish(&t->a, topic, "p", 1, 1);
        run(t);
        nv_fault_order order;
        assert_int_equal(nv_fault_read(last_record(t)->properties, &order), rows[i].kind != NV_FAULT_NONE);
        assert_int_equal(order.kind, rows[i].kind);
        assert_int_equal(order.delay_us, rows[i].delay_us);
        assert_int_equal(order.duration_us, rows[i].duration_us);
    }
    advance(t, 60 * NV_US_PER_S);
    assert_false(mqtt_pair_gone(&t->a)); /* off: nothing happens */
    bench_free(t);
}

static void test_connection_ends(void **state)
{
    (void)state;
    static const struct {
        const char *kind;
        const char *refused;
        bool will;
    } rows[] = {
        {"KillTcp", "CONNACK 3\n", true},
        {"ShutDownMqtt", "CONNACK 3\n", false},
        {"InvokeAuthError", "CONNACK 5\n", true},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        mqtt_login login = {.device = "d1", .will_topic = EVENTS, .will_payload = "gone"};
        bench *t = open_faulty(&login);
        ask(t, rows[i].kind, "2", "5");
        advance(t, 1900000);
        assert_false(mqtt_pair_gone(&t->a));
        mqtt_pair_publish(&t->a, EVENTS, "meanwhile", 1, 2);
        expect_text(t, &t->a, "PUBACK 2\n");
        advance(t, 100000);
        assert_true(mqtt_pair_gone(&t->a));
        assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_FAULT);
        assert_int_equal(fake_log_count(&t->core), rows[i].will ? 3 : 2);
        connect_b(t, 3, rows[i].refused);
        nv_manual_clock_advance(&t->core.clock, 4900000);
        connect_b(t, 4, rows[i].refused);
        nv_manual_clock_advance(&t->core.clock, 200000);
        connect_b(t, 5, "CONNACK 0\n");
        bench_free(t);
    }
}

static void test_at_once(void **state)
{
    (void)state;
    bench *t = open_faulty(&d1);
    ask(t, "KillTcp", "0", "0");
    advance(t, 0);
    assert_true(mqtt_pair_gone(&t->a));
    connect_b(t, 3, "CONNACK 0\n"); /* no duration: nothing is refused */
    bench_free(t);
}

/* Each message with the properties asks, also the second on the same topic. */
static void test_again(void **state)
{
    (void)state;
    bench *t = open_faulty(&d1);
    ask(t, "InvokeThrottling", "1", "1");
    advance(t, NV_US_PER_S);
    advance(t, NV_US_PER_S);
    ask(t, "InvokeThrottling", "1", "1");
    advance(t, NV_US_PER_S);
    mqtt_pair_publish(&t->a, EVENTS, "held", 1, 2);
    expect_text(t, &t->a, "");
    advance(t, NV_US_PER_S);
    expect_text(t, &t->a, "PUBACK 2\n");
    bench_free(t);
}

/* conformance: mqtt.md 46 */
static void test_throttling(void **state)
{
    (void)state;
    bench *t = open_faulty(&d1);
    mqtt_pair_subscribe(&t->a, 1, "$iothub/twin/res/#", 0);
    expect_text(t, &t->a, "SUBACK 1 0\n");
    ask(t, "InvokeThrottling", "1", "5");
    advance(t, NV_US_PER_S);
    mqtt_pair_publish(&t->a, "$iothub/twin/GET/?$rid=7", "", 0, 0);
    run(t);
    assert_non_null(strstr(mqtt_pair_take_text(&t->a), "$iothub/twin/res/429/?$rid=7 | {\"errorCode\":429001,"));
    mqtt_pair_publish(&t->a, EVENTS, "one", 1, 2);
    mqtt_pair_publish(&t->a, EVENTS, "two", 1, 3);
    expect_text(t, &t->a, "");
    assert_false(t->a.session->reading);
    advance(t, 4900000);
    expect_text(t, &t->a, "");
    advance(t, 100000);
    expect_text(t, &t->a, "PUBACK 2\nPUBACK 3\n"); /* delayed, nothing dropped */
    assert_int_equal(fake_log_count(&t->core), 3);
    mqtt_pair_publish(&t->a, "$iothub/twin/GET/?$rid=8", "", 0, 0);
    run(t);
    assert_non_null(strstr(mqtt_pair_take_text(&t->a), "res/200/?$rid=8"));
    bench_free(t);
}

/* conformance: mqtt.md 46 */
static void test_throttling_outlives_the_connection(void **state)
{
    (void)state;
    bench *t = open_faulty(&d1);
    ask(t, "InvokeThrottling", "0", "5");
    advance(t, 0);
    mqtt_pair_cut(&t->a);
    run(t);
    connect_b(t, 3, "CONNACK 0\n");
    mqtt_pair_publish(&t->b, EVENTS, "held", 1, 2);
    expect_text(t, &t->b, "");
    nv_manual_clock_advance(&t->core.clock, 5 * NV_US_PER_S);
    mqtt_pair_tick(&t->b);
    expect_text(t, &t->b, "PUBACK 2\n");
    bench_free(t);
}

static void test_quota(void **state)
{
    (void)state;
    bench *t = open_faulty(&d1);
    ask(t, "InvokeMaxMessageQuota", "0", "5");
    advance(t, 0);
    assert_false(mqtt_pair_gone(&t->a));
    mqtt_pair_publish(&t->a, EVENTS, "too many", 1, 2);
    expect_text(t, &t->a, "");
    assert_true(mqtt_pair_gone(&t->a));
    connect_b(t, 3, "CONNACK 0\n");
    mqtt_pair_publish(&t->b, EVENTS, "too many", 1, 2);
    expect_text(t, &t->b, "");
    assert_true(mqtt_pair_gone(&t->b));
    nv_manual_clock_advance(&t->core.clock, 5 * NV_US_PER_S);
    connect_b(t, 4, "CONNACK 0\n");
    mqtt_pair_publish(&t->b, EVENTS, "well again", 1, 2);
    expect_text(t, &t->b, "PUBACK 2\n");
    bench_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_orders),     cmocka_unit_test(test_connection_ends),
        cmocka_unit_test(test_at_once),    cmocka_unit_test(test_again),
        cmocka_unit_test(test_throttling), cmocka_unit_test(test_throttling_outlives_the_connection),
        cmocka_unit_test(test_quota),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
