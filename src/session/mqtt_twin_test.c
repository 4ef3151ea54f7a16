/* Twins and direct methods over MQTT: topics and bodies byte for byte, errors, bounds, the end of the connection. */
#include "core/method.h"
#include "support/fake_cloud.h"
#include "support/mqtt_device_rig.h"

#define RES      "$iothub/twin/res/#"
#define DESIRED  "$iothub/twin/PATCH/properties/desired/#"
#define METHODS  "$iothub/methods/POST/#"
#define GET      "$iothub/twin/GET/"
#define REPORTED "$iothub/twin/PATCH/properties/reported/"

static bench *open_with(const char *filter, const mqtt_login *login)
{
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, login);
    if (filter) {
        mqtt_pair_subscribe(&t->a, 1, filter, 1);
        expect_text(t, &t->a, "SUBACK 1 1\n");
    }
    return t;
}

/* ---- twins: read and report ---- */

/* conformance: mqtt.md 31 */
/* conformance: mqtt.md 34 */
static void test_get(void **state)
{
    (void)state;
    static const char *const rids[] = {"0", "65535", "abc-1", "4e2a1f00-1d5b-4d4a-9a30-6a1f5b9f0c11", "R%20+x.y"};
    static const char *const bodies[] = {"", " ", "{\"ignored\":1}"};
    static const char *const forms[] = {GET "?$rid=", "$iothub/twin/GET?$rid=", GET "?x=1&$rid="};
    bench *t = open_with(RES, &d1);
    fake_twin_set_sections("{\"a\":{\"b\":1.0}}", 7, "{}");
    for (size_t i = 0; i < NV_COUNT_OF(rids); i++) {
        char topic[128];
        char answer[256];
        const char *rid = i == 4 ? "R%20-x.y" : rids[i]; /* `+` cannot stand in a topic */
        (void)snprintf(topic, sizeof(topic), "%s%s", forms[i % NV_COUNT_OF(forms)], rid);
        (void)snprintf(answer, sizeof(answer),
                       "PUBLISH q0 $iothub/twin/res/200/?$rid=%s | "
                       "{\"desired\":{\"a\":{\"b\":1.0},\"$version\":7},\"reported\":{\"$version\":0}}\n",
                       rid);
        mqtt_pair_publish(&t->a, topic, bodies[i % NV_COUNT_OF(bodies)], 0, 0);
        expect_text(t, &t->a, answer);
    }
    assert_true(nv_span_eq_str(fake_twin_last()->device_id, "d1"));
    assert_int_equal(fake_twin_last()->module_id.len, 0);
    assert_int_equal(fake_twin_last()->generation, 638000000000000000);
    bench_free(t);
}

/* conformance: mqtt.md 32 */
static void test_reported(void **state)
{
    (void)state;
    bench *t = open_with(RES, &d1);
    mqtt_pair_publish(&t->a, REPORTED "?$rid=1", "{\"a\":1,\"b\":null}", 0, 0);
    expect_text(t, &t->a, "PUBLISH q0 $iothub/twin/res/204/?$rid=1&$version=1 | \n");
    assert_string_equal(fake_twin_last_patch(), "{\"a\":1,\"b\":null}");
    assert_false(fake_twin_last()->has_version);
    mqtt_pair_publish(&t->a, REPORTED "?$rid=2&$version=1", "{}", 1, 9);
    expect_text(t, &t->a, "PUBACK 9\nPUBLISH q0 $iothub/twin/res/204/?$rid=2&$version=2 | \n");
    assert_true(fake_twin_last()->has_version);
    assert_int_equal(fake_twin_last()->version, 1);
    assert_int_equal(fake_twin_last()->verb, NV_TWIN_REPORTED);
    bench_free(t);
}

static void test_module(void **state)
{
    (void)state;
    mqtt_login login = {.device = "d1", .module = "m1"};
    bench *t = open_with(RES, &login);
    mqtt_pair_publish(&t->a, GET "?$rid=1", " ", 0, 0);
    expect_text(
        t, &t->a,
        "PUBLISH q0 $iothub/twin/res/200/?$rid=1 | {\"desired\":{\"$version\":0},\"reported\":{\"$version\":0}}\n");
    assert_true(nv_span_eq_str(fake_twin_last()->module_id, "m1"));
    bench_free(t);
}

/* conformance: mqtt.md 33 */
static void test_errors(void **state)
{
    (void)state;
    static const struct {
        nv_hub_error error;
        const char *detail;
        const char *status;
        const char *code;
        const char *message;
    } rows[] = {
        {NV_HUB_ERROR_ArgumentInvalid, "Property 'a.b' is not allowed", "400", "400004",
         "Property 'a.b' is not allowed"},
        {NV_HUB_ERROR_IotHubFormatError, "", "400", "400006", "The request body is not well-formed"},
        {NV_HUB_ERROR_DeviceNotFound, "No device \"d1\"", "404", "404001", "No device \\\"d1\\\""},
        {NV_HUB_ERROR_PreconditionFailed, "Version 3 is not 4", "412", "412001", "Version 3 is not 4"},
        {NV_HUB_ERROR_ThrottlingException, "", "429", "429001", "Too many requests"},
        {NV_HUB_ERROR_ServiceUnavailable, "", "503", "503001", "The hub cannot store now"},
    };
    bench *t = open_with(RES, &d1);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char head[256];
        fake_twin_set_error(rows[i].error, rows[i].detail);
        mqtt_pair_publish(&t->a, REPORTED "?$rid=r-1", "{\"a.b\":1}", 1, 3);
        run(t);
        (void)snprintf(head, sizeof(head),
                       "PUBACK 3\nPUBLISH q0 $iothub/twin/res/%s/?$rid=r-1 | {\"errorCode\":%s,\"message\":\"%s\","
                       "\"trackingId\":\"",
                       rows[i].status, rows[i].code, rows[i].message);
        const char *text = mqtt_pair_take_text(&t->a);
        if (strncmp(text, head, strlen(head)) != 0) {
            fail_msg("%s, not %s", text, head);
        }
        assert_non_null(strstr(text, "\",\"timestampUtc\":\"20"));
        assert_true(strlen(strstr(text, "\"timestampUtc\":\"")) ==
                    strlen("\"timestampUtc\":\"2024-01-01T00:00:00.0000000Z\"}\n"));
    }
    fake_log_set_health(&t->core, NV_LOG_FULL); /* of the last row there is more to say while it lasts */
    mqtt_pair_publish(&t->a, REPORTED "?$rid=r-1", "{}", 0, 0);
    run(t);
    assert_non_null(strstr(mqtt_pair_take_text(&t->a), "\"message\":\"The hub cannot store now: the fake log fails\""));
    fake_log_set_health(&t->core, NV_LOG_OK);
    fake_twin_set_error(NV_HUB_ERROR_NONE, "");
    mqtt_pair_publish(&t->a, REPORTED "?$rid=r-2", "{}", 0, 0);
    expect_text(t, &t->a, "PUBLISH q0 $iothub/twin/res/204/?$rid=r-2&$version=1 | \n"); /* the connection goes on */
    bench_free(t);
}

/* conformance: mqtt.md 4 */
static void test_requests_that_close(void **state)
{
    (void)state;
    char *long_rid = calloc(1, 2000);
    assert_non_null(long_rid);
    memset(long_rid, 'r', 1500);
    memcpy(long_rid, GET "?$rid=", strlen(GET "?$rid="));
    const struct {
        const char *user;
        const char *topic;
        nv_refusal why;
    } rows[] = {
        {NULL, GET, NV_REFUSAL_TOPIC},
        {NULL, GET "?$rid=", NV_REFUSAL_TOPIC},
        {NULL, GET "properties/?$rid=1", NV_REFUSAL_TOPIC},
        {NULL, REPORTED "?$rid=1&$version=x", NV_REFUSAL_TOPIC},
        {NULL, "$iothub/methods/res/abc/?$rid=1", NV_REFUSAL_TOPIC},
        {NULL, long_rid, NV_REFUSAL_TOPIC},
        {FAKE_HUB_NAME "/d1", GET "?$rid=1", NV_REFUSAL_API_VERSION},
        {FAKE_HUB_NAME "/d1", "$iothub/methods/res/200/?$rid=1", NV_REFUSAL_API_VERSION},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        mqtt_login login = {.device = "d1", .user_name = rows[i].user};
        bench *t = open_with(NULL, &login);
        mqtt_pair_publish(&t->a, rows[i].topic, "", 1, 1);
        expect_text(t, &t->a, "");
        assert_int_equal(last_refusal(t, "d1", ""), rows[i].why);
        assert_true(mqtt_pair_gone(&t->a));
        bench_free(t);
    }
    free(long_rid);
}

static void test_nothing_without_subscription(void **state)
{
    (void)state;
    bench *t = open_with(NULL, &d1);
    mqtt_pair_publish(&t->a, GET "?$rid=1", "", 0, 0);
    mqtt_pair_publish(&t->a, REPORTED "?$rid=2", "{\"kept\":1}", 1, 5);
    expect_text(t, &t->a, "PUBACK 5\n");
    assert_string_equal(fake_twin_last_patch(), "{\"kept\":1}"); /* done all the same */
    assert_false(mqtt_pair_gone(&t->a));
    bench_free(t);
}

static void test_too_long_a_patch(void **state)
{
    (void)state;
    bench *t = open_with(RES, &d1);
    char *patch = calloc(1, 262200);
    assert_non_null(patch);
    memset(patch, ' ', 8 * 32768 + 1);
    mqtt_put_publish(&t->a.in, REPORTED "?$rid=1", nv_span_str(patch), 1, 5);
    mqtt_pair_service(&t->a);
    run(t);
    const char *text = mqtt_pair_take_text(&t->a);
    assert_non_null(strstr(text, "$iothub/twin/res/400/?$rid=1 | {\"errorCode\":400004,"));
    assert_non_null(strstr(text, "PUBACK 5\n"));
    assert_null(fake_twin_last()->done); /* it was not even asked */
    free(patch);
    bench_free(t);
}

/* The PUBACK of a request stands behind those of the telemetry before it; its answer waits for nothing. */
static void test_order_with_telemetry(void **state)
{
    (void)state;
    bench *t = open_with(RES, &d1);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 1);
    mqtt_pair_publish(&t->a, REPORTED "?$rid=abc-1", "{}", 1, 2);
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 3);
    mqtt_pair_publish(&t->a, "$iothub/methods/res/200/?$rid=1", "{}", 1, 4);
    expect_text(t, &t->a, "PUBLISH q0 $iothub/twin/res/204/?$rid=abc-1&$version=1 | \n");
    while (fake_log_complete(&t->core, NV_OK)) {
        run(t);
    }
    expect_text(t, &t->a, "PUBACK 1\nPUBACK 2\nPUBACK 3\nPUBACK 4\n");
    bench_free(t);
}

/* ---- twins: bounds and ends ---- */

static void test_in_flight(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_azure);
    open_as(t, &t->a, &d1);
    mqtt_pair_subscribe(&t->a, 1, RES, 0);
    expect_text(t, &t->a, "SUBACK 1 0\n");
    fake_twin_set_hold(true);
    char topic[64];
    for (int i = 0; i < 40; i++) {
        (void)snprintf(topic, sizeof(topic), REPORTED "?$rid=%d", i);
        mqtt_put_publish(&t->a.in, topic, nv_span_str("{}"), 0, 0);
    }
    mqtt_pair_service(&t->a);
    run(t);
    assert_int_equal(fake_twin_held(), 16);
    assert_false(t->a.session->reading);
    assert_true(fake_twin_complete());
    run(t);
    assert_int_equal(fake_twin_held(), 16); /* one answered, one more read */
    while (fake_twin_complete()) {
        run(t);
    }
    assert_true(t->a.session->reading);
    assert_int_equal(fake_twin_reported_version(), 40);
    bench_free(t);
}

/* Who asks for twins and does not read them is not given more than it leaves unread. */
static void test_unread_answers(void **state)
{
    (void)state;
    bench *t = open_with(RES, &d1);
    char *section = calloc(1, 32768);
    assert_non_null(section);
    memset(section, ' ', 32766);
    section[0] = '{';
    section[32765] = '}';
    fake_twin_set_sections(section, 1, "{}");
    for (int i = 0; i < 500; i++) {
        mqtt_put_publish(&t->a.in, GET "?$rid=1", NV_SPAN_EMPTY, 0, 0);
    }
    mqtt_pair_service(&t->a);
    run(t);
    assert_false(t->a.session->reading);
    assert_true(nv_buf_len(&t->a.out) > (256u << 10) && nv_buf_len(&t->a.out) < (2u << 20));
    size_t answers = 0;
    while (nv_buf_len(&t->a.out) > 0) {
        for (const char *at = mqtt_pair_take_text(&t->a); (at = strstr(at, "PUBLISH")); at++) {
            answers++;
        }
        mqtt_pair_service(&t->a);
        run(t);
    }
    assert_int_equal(answers, 500);
    free(section);
    bench_free(t);
}

static void test_keep_alive_while_unread(void **state)
{
    (void)state;
    mqtt_login login = {.device = "d1", .keep_alive_s = 10};
    bench *t = open_with(RES, &login);
    char *section = calloc(1, 32768);
    assert_non_null(section);
    memset(section, ' ', 32766);
    section[0] = '{';
    section[32765] = '}';
    fake_twin_set_sections(section, 1, "{}");
    for (int i = 0; i < 20; i++) {
        mqtt_pair_publish(&t->a, GET "?$rid=1", "", 0, 0);
        run(t);
    }
    assert_false(t->a.session->reading); /* it cannot ping, and its own silence on the line is why */
    advance(t, 16 * NV_US_PER_S);
    assert_true(mqtt_pair_gone(&t->a));
    assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_KEEP_ALIVE);
    free(section);
    bench_free(t);
}

/* A slow line: it takes a little now and then, for longer than its keep-alive, and gets everything. */
static void test_slow_line(void **state)
{
    (void)state;
    mqtt_login login = {.device = "d1", .keep_alive_s = 10};
    bench *t = open_with(RES, &login);
    char *section = calloc(1, 32768);
    assert_non_null(section);
    memset(section, ' ', 32766);
    section[0] = '{';
    section[32765] = '}';
    fake_twin_set_sections(section, 1, "{}");
    for (int i = 0; i < 40; i++) {
        mqtt_put_publish(&t->a.in, GET "?$rid=1", NV_SPAN_EMPTY, 0, 0);
    }
    mqtt_pair_service(&t->a);
    run(t);
    assert_false(t->a.session->reading);
    size_t taken = 0;
    while (taken < 40u * 32768) { /* and the pings are answered */
        size_t some = nv_buf_len(&t->a.out) < 20000 ? nv_buf_len(&t->a.out) : 20000;
        nv_buf_consume(&t->a.out, some);
        taken += some;
        mqtt_pair_service(&t->a);
        advance(t, 9 * NV_US_PER_S);
        assert_false(mqtt_pair_gone(&t->a));
        if (t->a.session->reading) {
            mqtt_pair_send_hex(&t->a, "c000"); /* heard again, it pings */
        }
    }
    assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_NONE);
    free(section);
    bench_free(t);
}

static void test_ends_while_in_flight(void **state)
{
    (void)state;
    for (int way = 0; way < 4; way++) {
        bench *t = open_with(RES, &d1);
        fake_twin_set_hold(true);
        mqtt_pair_publish(&t->a, REPORTED "?$rid=1", "{}", 0, 0);
        mqtt_pair_publish(&t->a, GET "?$rid=2", "{}", 0, 0);
        if (way == 0) {
            mqtt_pair_cut(&t->a);
        } else if (way == 1) {
            mqtt_pair_send_hex(&t->a, "e000");
        } else if (way == 2) {
            mqtt_pair_connect(&t->b, &d1);
        } else {
            t->a.session->ops->drain(t->a.session, nv_mono_us(t->a.clock));
        }
        run(t);
        assert_false(mqtt_pair_gone(&t->a));
        assert_true(nv_buf_len(&t->b.out) == 0); /* a newer connection is granted when nothing of the older is left */
        assert_true(fake_twin_complete());
        run(t);
        assert_false(mqtt_pair_gone(&t->a));
        assert_true(fake_twin_complete());
        run(t);
        assert_true(mqtt_pair_gone(&t->a));
        const char *out = mqtt_pair_take_text(&t->a);
        assert_int_equal(strstr(out, "res/204/?$rid=1&$version=1") != NULL, way != 0);
        if (way == 2) {
            expect_text(t, &t->b, "CONNACK 0\n");
        }
        bench_free(t);
    }
}

static void test_model_id(void **state)
{
    (void)state;
    mqtt_login login = {.device = "d1",
                        .user_name = FAKE_HUB_NAME "/d1/?api-version=2020-09-30&model-id=dtmi%3Acom%3Aexample%3Bt%3B1"};
    bench *t = open_with(NULL, &login);
    assert_string_equal(fake_twin_last_model(), "dtmi:com:example;t;1");
    bench_free(t);
    t = open_with(NULL, &d1);
    assert_string_equal(fake_twin_last_model(), "");
    bench_free(t);
}

/* ---- desired properties ---- */

static bool deliver_desired(bench *t, const char *module, uint64_t version, const char *body)
{
    nv_delivery *delivery = nv_delivery_new(NV_DELIVER_DESIRED, NV_SPAN_EMPTY, nv_span_str(body));
    delivery->version = version;
    bool told = nv_devices_deliver(nv_hub_shard_loop(t->core.hub, nv_span_str("d1")), nv_span_str("d1"),
                                   nv_span_str(module), delivery);
    run(t);
    return told;
}

/* conformance: mqtt.md 35 */
static void test_desired(void **state)
{
    (void)state;
    bench *t = open_with(DESIRED, &d1);
    assert_true(deliver_desired(t, "", 5, "{\"a\":{\"b\":null},\"c\":1.0}"));
    expect_text(t, &t->a,
                "PUBLISH q0 $iothub/twin/PATCH/properties/desired/?$version=5 | "
                "{\"a\":{\"b\":null},\"c\":1.0,\"$version\":5}\n");
    assert_true(deliver_desired(t, "", 6, "{}"));
    expect_text(t, &t->a, "PUBLISH q0 $iothub/twin/PATCH/properties/desired/?$version=6 | {\"$version\":6}\n");
    assert_false(deliver_desired(t, "m1", 6, "{}")); /* another identity */
    mqtt_pair_send_hex(&t->a, "a2 2b 0002 0027"
                              "24696f746875622f7477696e2f50415443482f70726f706572746965732f646573697265642f23");
    expect_text(t, &t->a, "UNSUBACK 2\n");
    assert_false(deliver_desired(t, "", 7, "{}"));
    expect_text(t, &t->a, "");
    bench_free(t);
}

static void test_desired_only_when_wanted(void **state)
{
    (void)state;
    bench *t = open_with(RES, &d1_persistent);
    assert_false(deliver_desired(t, "", 2, "{}"));
    mqtt_pair_subscribe(&t->a, 2, DESIRED, 0);
    expect_text(t, &t->a, "SUBACK 2 0\n");
    assert_true(deliver_desired(t, "", 3, "{}"));
    expect_text(t, &t->a, "PUBLISH q0 $iothub/twin/PATCH/properties/desired/?$version=3 | {\"$version\":3}\n");
    mqtt_pair_cut(&t->a);
    run(t);
    assert_false(deliver_desired(t, "", 4, "{}")); /* offline: it reads its twin when it is back */
    mqtt_pair_connect(&t->b, &d1_persistent);
    expect_text(t, &t->b, "CONNACK 0 session\n");
    assert_true(deliver_desired(t, "", 5, "{}")); /* without a new SUBSCRIBE */
    expect_text(t, &t->b, "PUBLISH q0 $iothub/twin/PATCH/properties/desired/?$version=5 | {\"$version\":5}\n");
    bench_free(t);
}

/* A session that was kept may hold more than a connection without api-version may touch. */
/* conformance: mqtt.md 4 */
static void test_kept_session_without_api_version(void **state)
{
    (void)state;
    bench *t = open_with(DESIRED, &d1_persistent);
    mqtt_pair_cut(&t->a);
    run(t);
    mqtt_login login = {.device = "d1", .persistent = true, .user_name = FAKE_HUB_NAME "/d1"};
    mqtt_pair_connect(&t->b, &login);
    expect_text(t, &t->b, "CONNACK 0 session\n");
    assert_false(deliver_desired(t, "", 5, "{}"));
    expect_text(t, &t->b, "");
    bench_free(t);
}

/* ---- methods ---- */

typedef struct invocation {
    nv_method_call call;
    bool done;
} invocation;

static void on_answer(nv_method_call *call)
{
    ((invocation *)call->arg)->done = true;
}

static void invoke(bench *t, invocation *i, const char *module, const char *name, const char *payload)
{
    *i = (invocation){.call = {.device_id = nv_span_str("d1"),
                               .module_id = nv_span_str(module),
                               .name = nv_span_str(name),
                               .payload = nv_span_str(payload),
                               .response_timeout_us = 30 * NV_US_PER_S,
                               .done = on_answer}};
    i->call.arg = i;
    nv_method_invoke(&t->core.hub->loops[0], &i->call);
    run(t);
}

/* The $rid of the request that the device got; the text before it must be @p head. */
static void take_rid(bench *t, const char *head, const char *body, char rid[20])
{
    const char *text = mqtt_pair_take_text(&t->a);
    if (strncmp(text, head, strlen(head)) != 0) {
        fail_msg("%s, not %s", text, head);
    }
    size_t len = strspn(text + strlen(head), "0123456789abcdef");
    assert_true(len > 0 && len < 20);
    memcpy(rid, text + strlen(head), len);
    rid[len] = '\0';
    char tail[512];
    (void)snprintf(tail, sizeof(tail), " | %s\n", body);
    assert_string_equal(text + strlen(head) + len, tail); /* nothing behind the rid */
}

static void answer(bench *t, int64_t status, const char *rid, const char *body, uint8_t qos)
{
    char topic[128];
    (void)snprintf(topic, sizeof(topic), "$iothub/methods/res/%lld/?$rid=%s", (long long)status, rid);
    mqtt_pair_publish(&t->a, topic, body, qos, 77);
    run(t);
}

static void expect_answer(const invocation *i, int64_t status, const char *body)
{
    assert_true(i->done);
    assert_int_equal(i->call.error, NV_HUB_ERROR_NONE);
    assert_int_equal(i->call.status, status);
    assert_true(nv_span_eq_str(nv_buf_span(&i->call.answer), body));
}

/* conformance: mqtt.md 36 */
/* conformance: mqtt.md 37 */
static void test_method(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const char *payload;
        const char *seen; /* by the device */
        int64_t status;
        const char *answer;
        const char *told; /* to the caller */
    } rows[] = {
        {"reboot", "{\"in\":5}", "{\"in\":5}", 200, "{\"ok\":true}", "{\"ok\":true}"},
        {"reboot", "", "null", 200, "", "null"},
        {"reboot", "null", "null", -7, "null", "null"},
        {"thermostat1*getMaxMinReport", "\"2024-01-01\"", "\"2024-01-01\"", 404, "[1, 2.50]", "[1,2.50]"},
        {"A.b_c-d", "17", "17", 2147483647, "\"x\"", "\"x\""},
    };
    bench *t = open_with(METHODS, &d1);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        invocation call;
        char head[200];
        char rid[20];
        invoke(t, &call, "", rows[i].name, rows[i].payload);
        (void)snprintf(head, sizeof(head), "PUBLISH q0 $iothub/methods/POST/%s/?$rid=", rows[i].name);
        take_rid(t, head, rows[i].seen, rid);
        assert_false(call.done);
        answer(t, rows[i].status, rid, rows[i].answer, i % 2);
        expect_text(t, &t->a, i % 2 ? "PUBACK 77\n" : "");
        expect_answer(&call, rows[i].status, rows[i].told);
        answer(t, 500, rid, "{}", 0); /* once more: nobody waits for it */
        nv_buf_deinit(&call.call.answer);
    }
    assert_false(mqtt_pair_gone(&t->a));
    bench_free(t);
}

/* conformance: mqtt.md 37 */
static void test_unknown_answers(void **state)
{
    (void)state;
    static const char *const rids[] = {"1", "ffffffffffffffff", "10000000000000000", "xyz", "4e2a-1", "0"};
    bench *t = open_with(METHODS, &d1);
    invocation call;
    char rid[20];
    invoke(t, &call, "", "m", "1");
    take_rid(t, "PUBLISH q0 $iothub/methods/POST/m/?$rid=", "1", rid);
    for (size_t i = 0; i < NV_COUNT_OF(rids); i++) {
        if (strcmp(rids[i], rid) != 0) {
            answer(t, 200, rids[i], "{}", 1);
            expect_text(t, &t->a, "PUBACK 77\n");
        }
    }
    assert_false(call.done);
    answer(t, 201, rid, "", 0);
    expect_answer(&call, 201, "null");
    nv_buf_deinit(&call.call.answer);
    bench_free(t);
}

/* conformance: mqtt.md 38 */
static void test_method_needs_a_subscription(void **state)
{
    (void)state;
    bench *t = open_with(RES, &d1);
    invocation call;
    invoke(t, &call, "", "m", "1");
    assert_true(call.done);
    assert_int_equal(call.call.error, NV_HUB_ERROR_DeviceNotOnline);
    mqtt_pair_subscribe(&t->a, 2, METHODS, 0);
    expect_text(t, &t->a, "SUBACK 2 0\n");
    invoke(t, &call, "", "m", "1");
    char rid[20];
    take_rid(t, "PUBLISH q0 $iothub/methods/POST/m/?$rid=", "1", rid);
    assert_false(call.done);
    mqtt_pair_send_hex(&t->a, "a2 1a 0003 0016 24696f746875622f6d6574686f64732f504f53542f23");
    expect_text(t, &t->a, "UNSUBACK 3\n");
    answer(t, 200, rid, "{}", 0); /* what was asked before may still be answered */
    expect_answer(&call, 200, "{}");
    nv_buf_deinit(&call.call.answer);
    invoke(t, &call, "", "m", "1");
    assert_true(call.done);
    assert_int_equal(call.call.error, NV_HUB_ERROR_DeviceNotOnline);
    bench_free(t);
}

static void test_method_of_a_module(void **state)
{
    (void)state;
    mqtt_login login = {.device = "d1", .module = "m1"};
    bench *t = open_with(METHODS, &login);
    invocation call;
    char rid[20];
    invoke(t, &call, "", "m", "1");
    assert_int_equal(call.call.error, NV_HUB_ERROR_DeviceNotOnline);
    invoke(t, &call, "m1", "m", "1");
    take_rid(t, "PUBLISH q0 $iothub/methods/POST/m/?$rid=", "1", rid);
    answer(t, 200, rid, "{}", 0);
    expect_answer(&call, 200, "{}");
    nv_buf_deinit(&call.call.answer);
    bench_free(t);
}

/* The caller is told when the connection goes; the next connection's answer to an old call is nobody's. */
static void test_connection_ends_before_the_answer(void **state)
{
    (void)state;
    bench *t = open_with(METHODS, &d1_persistent);
    invocation call;
    char rid[20];
    invoke(t, &call, "", "m", "1");
    take_rid(t, "PUBLISH q0 $iothub/methods/POST/m/?$rid=", "1", rid);
    mqtt_pair_cut(&t->a);
    run(t);
    if (!call.done) { /* the core may as well wait for the device to come back and answer, until its time is up */
        nv_manual_clock_advance(&t->core.clock, 31 * NV_US_PER_S);
        nv_hub_loop_tick(&t->core.hub->loops[0], nv_mono_us(&t->core.clock.clock));
        run(t);
    }
    assert_true(call.done);
    assert_true(call.call.error == NV_HUB_ERROR_DeviceConnectionClosedRemotely ||
                call.call.error == NV_HUB_ERROR_GatewayTimeout);
    nv_buf_deinit(&call.call.answer);
    bench_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_get),
        cmocka_unit_test(test_reported),
        cmocka_unit_test(test_module),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_requests_that_close),
        cmocka_unit_test(test_nothing_without_subscription),
        cmocka_unit_test(test_too_long_a_patch),
        cmocka_unit_test(test_order_with_telemetry),
        cmocka_unit_test(test_in_flight),
        cmocka_unit_test(test_unread_answers),
        cmocka_unit_test(test_keep_alive_while_unread),
        cmocka_unit_test(test_slow_line),
        cmocka_unit_test(test_ends_while_in_flight),
        cmocka_unit_test(test_model_id),
        cmocka_unit_test(test_desired),
        cmocka_unit_test(test_desired_only_when_wanted),
        cmocka_unit_test(test_kept_session_without_api_version),
        cmocka_unit_test(test_method),
        cmocka_unit_test(test_unknown_answers),
        cmocka_unit_test(test_method_needs_a_subscription),
        cmocka_unit_test(test_method_of_a_module),
        cmocka_unit_test(test_connection_ends_before_the_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
