/** Direct methods over REST (http-hub.md section 9): what the caller sees, under a clock that the test moves. */
#include "session/http_rig_ask.h"

#include "core/method.h"
#include "session/http_rig_device.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* Sanitizers bring a heap of their own. */
#if defined(__has_feature)
#define NV_HEAP_IS_COUNTED (!__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer))
#else
#define NV_HEAP_IS_COUNTED 1
#endif

#define V       NV_RIG_V
#define METHODS "/twins/d/methods" V

static nv_rig_device device;

static int teardown(void **state)
{
    nv_rig_device_leave(&device);
    return nv_rig_teardown(state);
}

static void come(const char *id, const char *module)
{
    nv_rig_device_come(&device, &nv_rig_on, id, module, NV_WANTS_METHODS);
}

/* conformance: http-hub.md 26 */
static void the_device_answers(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        const char *payload; /* as the device sees it */
    } rows[] = {
        {"{\"methodName\":\"m\",\"payload\":{\"a\":1},\"responseTimeoutInSeconds\":30,\"connectTimeoutInSeconds\":0}",
         "{\"a\":1}"},
        {"{\"MethodName\":\"m\",\"PAYLOAD\":[1.0, 1e3, 0.1, -0, 21.70],\"other\":{\"payload\":7}}",
         "[1.0,1e3,0.1,-0,21.70]"},
        {"{\"methodName\":\"m\"}", "null"},
        {"{\"methodName\":\"m\",\"payload\":null}", "null"},
        {"{\"methodName\":\"m\",\"payload\":\"te\\\"xt\"}", "\"te\\\"xt\""},
        {" { \"methodName\" : \"\\u006d\" , \"payload\" : 123456789012345678901234567890 } ",
         "123456789012345678901234567890"},
        {"{\"methodName\":\"m\",\"payload\":false,\"responseTimeoutInSeconds\":null}", "false"},
    };
    come("d", NULL);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_ask_only("POST", METHODS, rows[i].body);
        nv_rig_device_wait(&device, i + 1);
        assert_string_equal(device.name, "m");
        assert_string_equal(device.body, rows[i].payload);
        nv_rig_device_answer(&device, i, 418, "{\"t\":21.70,\"n\":[1.0]}");
        assert_int_equal(nv_hear(), 200);
        assert_string_equal(nv_rig_said.body, "{\"status\":418,\"payload\":{\"t\":21.70,\"n\":[1.0]}}");
    }
    nv_ask_only("POST", METHODS, rows[0].body);
    nv_rig_device_wait(&device, NV_COUNT_OF(rows) + 1);
    nv_rig_device_answer(&device, NV_COUNT_OF(rows), -1, "");
    assert_int_equal(nv_hear(), 200);
    assert_string_equal(nv_rig_said.body, "{\"status\":-1,\"payload\":null}");
}

/* conformance: http-hub.md 26 */
static void nobody_answers(void **state)
{
    (void)state;
    (void)nv_ask("POST", METHODS, "{\"methodName\":\"m\"}");
    nv_said_e3(404, "DeviceNotOnline", 404103);
    assert_non_null(strstr(nv_said_at("Message"), "\"info\":{\"timeout\":\"00:00:00\"}"));
    /* It may come yet; then it does not. */
    nv_ask_only("POST", METHODS,
                "{\"methodName\":\"m\",\"connectTimeoutInSeconds\":75,\"responseTimeoutInSeconds\":80}");
    nv_settle();
    nv_rig_advance(&nv_rig_line, 75 * NV_US_PER_S - 1);
    assert_int_equal(nv_buf_len(&nv_rig_line.received), 0);
    nv_rig_advance(&nv_rig_line, 1);
    (void)nv_hear();
    nv_said_e3(404, "DeviceNotOnline", 404103);
    assert_non_null(strstr(nv_said_at("Message"), "Timed out waiting for device to connect."));
    assert_non_null(strstr(nv_said_at("Message"), "\"info\":{\"timeout\":\"00:01:15\"}"));
    /* It comes in time, and says nothing. */
    nv_ask_only("POST", METHODS,
                "{\"methodName\":\"m\",\"connectTimeoutInSeconds\":10,\"responseTimeoutInSeconds\":300}");
    nv_settle();
    nv_rig_advance(&nv_rig_line, 9 * NV_US_PER_S);
    come("d", NULL);
    nv_rig_device_wait(&device, 1);
    nv_rig_advance(&nv_rig_line, 300 * NV_US_PER_S - 1);
    assert_int_equal(nv_buf_len(&nv_rig_line.received), 0);
    assert_false(nv_rig_line.session->closing); /* no deadline of HTTP is for those who wait */
    nv_rig_advance(&nv_rig_line, 1);
    (void)nv_hear();
    nv_said_e3(504, "GatewayTimeout", 504101);
    assert_non_null(strstr(nv_rig_said.head, "504 Gateway Timeout"));
    /* Too late. */
    nv_rig_device_answer(&device, 0, 200, "{}");
    nv_rig_pump(&nv_rig_line);
    assert_int_equal(nv_buf_len(&nv_rig_line.received), 0);
    /* It goes instead of answering. */
    nv_ask_only("POST", METHODS, "{\"methodName\":\"m\"}");
    nv_rig_device_wait(&device, 2);
    nv_rig_device_leave(&device);
    (void)nv_hear();
    nv_said_e3(404, "DeviceConnectionClosedRemotely", 404104);
    /* Its answer is none. */
    come("d", NULL);
    nv_ask_only("POST", METHODS, "{\"methodName\":\"m\"}");
    nv_rig_device_wait(&device, 1);
    nv_rig_device_answer(&device, 0, 200, "{oops");
    (void)nv_hear();
    assert_int_equal(nv_rig_said.status, 502);
}

static void unknown_and_disabled_devices(void **state)
{
    (void)state;
    (void)nv_ask("POST", "/twins/none/methods" V, "{\"methodName\":\"m\"}");
    nv_said_e3(404, "DeviceNotFound", 404001);
    (void)nv_ask("POST", "/twins/d/modules/none/methods" V, "{\"methodName\":\"m\"}");
    nv_said_e3(404, "DeviceNotFound", 404001);
    nv_use_policy("iothubowner");
    nv_use_if_match("*");
    nv_expect("PUT", "/devices/d" V, "{\"status\":\"disabled\"}", 200);
    (void)nv_ask("POST", METHODS, "{\"methodName\":\"m\"}");
    nv_said_e3(404, "DeviceNotOnline", 404103);
    nv_use_policy("registryReadWrite");
    nv_expect_error("POST", METHODS, "{\"methodName\":\"m\"}", 401, "IotHubUnauthorizedAccess");
    nv_use_policy("service");
    nv_expect_error("POST", "/twins/d/methods", "{\"methodName\":\"m\"}", 400, "InvalidProtocolVersion");
}

/* conformance: http-hub.md 26 */
static void wrong_requests(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        const char *name;
        unsigned number;
        const char *says;
    } rows[] = {
        {"", "IotHubFormatError", 400006, ""},
        {"{\"methodName\":\"m\"", "IotHubFormatError", 400006, ""},
        {"{\"methodName\":\"m\",}", "IotHubFormatError", 400006, ""},
        {"[]", "ArgumentInvalid", 400004, "object"},
        {"null", "ArgumentInvalid", 400004, "object"},
        {"{}", "ArgumentInvalid", 400004, "methodName"},
        {"{\"methodName\":null}", "ArgumentInvalid", 400004, "methodName"},
        {"{\"methodName\":7}", "ArgumentInvalid", 400004, "methodName"},
        {"{\"methodName\":{\"a\":\"m\"}}", "ArgumentInvalid", 400004, "methodName"},
        {"{\"methodName\":\"\"}", "ArgumentInvalid", 400004, "methodName"},
        {"{\"methodName\":\"a b\"}", "ArgumentInvalid", 400004, "methodName"},
        {"{\"methodName\":\"m\",\"responseTimeoutInSeconds\":4}", "ArgumentInvalid", 400004, "5 to 300"},
        {"{\"methodName\":\"m\",\"responseTimeoutInSeconds\":301}", "ArgumentInvalid", 400004, "5 to 300"},
        {"{\"methodName\":\"m\",\"responseTimeoutInSeconds\":-5}", "ArgumentInvalid", 400004, "5 to 300"},
        {"{\"methodName\":\"m\",\"responseTimeoutInSeconds\":\"30\"}", "ArgumentInvalid", 400004, "5 to 300"},
        {"{\"methodName\":\"m\",\"responseTimeoutInSeconds\":99999999999999999999}", "ArgumentInvalid", 400004,
         "5 to 300"},
        {"{\"methodName\":\"m\",\"connectTimeoutInSeconds\":301}", "ArgumentInvalid", 400004, "0 to 300"},
        {"{\"methodName\":\"m\",\"connectTimeoutInSeconds\":31}", "ArgumentInvalid", 400004, "responseTimeout"},
    };
    nv_rig_on.hub->azure = true; /* a connect timeout beyond the response timeout is cut otherwise */
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        (void)nv_ask("POST", METHODS, rows[i].body);
        nv_said_e3(400, rows[i].name, rows[i].number);
        if (!strstr(nv_said_at("Message"), rows[i].says)) {
            fail_msg("%s: %s", rows[i].body, nv_rig_said.body);
        }
    }
    nv_expect_error("POST", "/twins/a%20b/methods" V, "{\"methodName\":\"m\"}", 400, "ArgumentInvalid");
    static char big[140000];
    int len = snprintf(big, sizeof(big), "{\"methodName\":\"m\",\"payload\":\"");
    memset(big + len, 'x', 131072 - 1);
    (void)snprintf(big + len + 131072 - 1, 10, "\"}");
    (void)nv_ask("POST", METHODS, big);
    nv_said_e3(413, "MessageTooLarge", 413001);
    assert_non_null(strstr(nv_rig_said.body, "The payload has 131073 bytes, of 131072 (limits.method_bytes)"));
}

static void modules_have_methods_too(void **state)
{
    (void)state;
    nv_make_module("d", "m");
    nv_use_policy("service");
    come("d", "m");
    (void)nv_ask("POST", METHODS, "{\"methodName\":\"m\"}");
    nv_said_e3(404, "DeviceNotOnline", 404103); /* the device itself is not there */
    nv_ask_only("POST", "/Twins/d/Modules/m/METHODS/" V, "{\"methodName\":\"a.b_c-D*1\",\"payload\":1}");
    nv_rig_device_wait(&device, 1);
    assert_string_equal(device.name, "a.b_c-D*1");
    nv_rig_device_answer(&device, 0, 200, "2");
    assert_int_equal(nv_hear(), 200);
    assert_string_equal(nv_rig_said.body, "{\"status\":200,\"payload\":2}");
}

/* A caller on a connection of its own. */
static void ask_on(nv_rig *line, const char *path, const char *body)
{
    static char request[65536];
    (void)snprintf(request, sizeof(request), "POST %s HTTP/1.1\r\nAuthorization: %s\r\nContent-Length: %zu\r\n\r\n%s",
                   path, nv_rig_token, strlen(body), body);
    nv_rig_init(line, &nv_rig_on, nv_http_service_new);
    nv_rig_send(line, nv_span_str(request));
    nv_rig_pump(line);
}

/** Deleting what is awaited ends the wait at once. */
static void deleted_while_awaited(void **state)
{
    (void)state;
    static const char body[] =
        "{\"methodName\":\"m\",\"connectTimeoutInSeconds\":300,\"responseTimeoutInSeconds\":300}";
    nv_make_module("d", "m");
    nv_use_policy("service");
    nv_rig lines[2];
    ask_on(&lines[0], METHODS, body);
    ask_on(&lines[1], "/twins/d/modules/m/methods" V, body);
    nv_settle();
    for (size_t i = 0; i < NV_COUNT_OF(lines); i++) {
        nv_rig_pump(&lines[i]);
        assert_int_equal(nv_buf_len(&lines[i].received), 0);
    }
    nv_use_policy("registryReadWrite");
    nv_use_if_match("*");
    nv_expect("DELETE", "/devices/d" V, NULL, 204);
    for (size_t i = 0; i < NV_COUNT_OF(lines); i++) {
        nv_rig_wait_answer(&lines[i], false, &nv_rig_said);
        nv_said_e3(404, "DeviceNotFound", 404001);
        nv_rig_deinit(&lines[i]);
    }
}

/** A caller that hangs up is waited for no longer: neither for a device to come nor for an answer. */
static void a_caller_hangs_up(void **state)
{
    (void)state;
    static const char body[] =
        "{\"methodName\":\"m\",\"payload\":7,\"connectTimeoutInSeconds\":300,\"responseTimeoutInSeconds\":300}";
    for (int asked = 0; asked < 2; asked++) {
        nv_rig line;
        if (asked) {
            come("d", NULL);
        }
        ask_on(&line, METHODS, body);
        if (asked) {
            nv_rig_device_wait(&device, 1);
        } else {
            nv_settle();
            nv_rig_pump(&line);
        }
        assert_true(line.session->reading); /* to hear that the peer is gone */
        nv_rig_lose(&line);
        nv_settle();
        assert_true(line.session->done); /* no time has passed */
        nv_rig_deinit(&line);
        assert_true(nv_methods_idle(nv_rig_on.hub->loops[0].methods));
    }
    nv_rig_device_answer(&device, 0, 200, "{}"); /* for nobody */
    nv_ask_only("POST", METHODS, body);
    nv_rig_device_wait(&device, 2);
    nv_rig_device_answer(&device, 1, 200, "1");
    assert_int_equal(nv_hear(), 200);
}

static size_t heap_in_use(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/** What a call holds while it waits: of its payload one copy until the device is asked, none from then on. */
static void waiting_is_cheap(void **state)
{
    (void)state;
    enum { CALLERS = 32, SIZE = 50000 };
    static char body[SIZE + 200];
    int len = snprintf(body, sizeof(body),
                       "{\"methodName\":\"m\",\"connectTimeoutInSeconds\":300,\"responseTimeoutInSeconds\":300,"
                       "\"payload\":\"");
    memset(body + len, 'x', SIZE);
    (void)snprintf(body + len + SIZE, 10, "\"}");
    nv_rig lines[CALLERS];
    size_t before = heap_in_use();
    for (size_t i = 0; i < CALLERS; i++) {
        ask_on(&lines[i], METHODS, body);
    }
    nv_settle();
    for (size_t i = 0; i < CALLERS; i++) {
        nv_rig_pump(&lines[i]);
        nv_buf_deinit(&lines[i].in); /* the client's own */
    }
    size_t expecting = (heap_in_use() - before) / CALLERS;
    come("d", NULL);
    nv_rig_device_wait(&device, CALLERS);
    size_t asked = (heap_in_use() - before) / CALLERS;
    if (NV_HEAP_IS_COUNTED) {
        assert_in_range(expecting, SIZE, 3 * SIZE / 2 + 20000);
        assert_in_range(asked, 0, 20000);
    }
    for (size_t i = 0; i < CALLERS; i++) {
        nv_rig_lose(&lines[i]);
        nv_rig_deinit(&lines[i]);
    }
}

/** A hundred callers wait at once, some go; the device answers the others last first. */
static void many_wait_at_once(void **state)
{
    (void)state;
    enum { CALLERS = 100 };
    static nv_rig callers[CALLERS];
    come("d", NULL);
    for (size_t i = 0; i < CALLERS; i++) {
        char body[100];
        (void)snprintf(body, sizeof(body), "{\"methodName\":\"m\",\"payload\":%zu}", i);
        ask_on(&callers[i], METHODS, body);
    }
    nv_rig_device_wait(&device, CALLERS);
    for (size_t i = 0; i < CALLERS; i += 10) {
        nv_rig_lose(&callers[i]);
        assert_false(callers[i].session->done); /* what was asked is owed */
    }
    for (size_t i = CALLERS; i-- > 0;) {
        char answer[20];
        (void)snprintf(answer, sizeof(answer), "%zu", i);
        nv_rig_device_answer(&device, i, 200, answer);
    }
    for (size_t i = 0; i < CALLERS; i++) {
        if (i % 10 > 0) {
            char want[60];
            (void)snprintf(want, sizeof(want), "{\"status\":200,\"payload\":%zu}", i);
            nv_rig_wait_answer(&callers[i], false, &nv_rig_said);
            assert_string_equal(nv_rig_said.body, want);
        }
        nv_rig_deinit(&callers[i]);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, nv_rig_setup_device, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(the_device_answers),    T(nobody_answers),           T(unknown_and_disabled_devices),
        T(wrong_requests),        T(modules_have_methods_too), T(many_wait_at_once),
        T(deleted_while_awaited), T(a_caller_hangs_up),        T(waiting_is_cheap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
