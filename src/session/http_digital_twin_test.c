/** Digital twins over REST (http-hub.md section 10), on the real core with a device without a protocol. */
#include "session/http_rig_ask.h"

#include "core/twin.h"
#include "session/http_rig_device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define V       NV_RIG_V
#define TWIN    "/twins/d" V
#define DIGITAL "/digitaltwins/d" V

static nv_rig_device device;

static int teardown(void **state)
{
    nv_rig_device_leave(&device);
    return nv_rig_teardown(state);
}

static void reported(nv_twin_request *request)
{
    *(bool *)request->arg = true;
}

/** The device reports. */
static void report(const char *patch)
{
    bool done = false;
    nv_twin_request request = {.verb = NV_TWIN_REPORTED,
                               .device_id = nv_span_str("d"),
                               .body = nv_span_str(patch),
                               .done = reported,
                               .arg = &done};
    nv_twin_do(&nv_rig_on.hub->loops[0], &request);
    nv_rig_hub_run(&nv_rig_on, &done);
    assert_int_equal(request.error, NV_HUB_ERROR_NONE);
}

/* conformance: http-hub.md 27 */
static void reading(void **state)
{
    (void)state;
    nv_expect("GET", DIGITAL, NULL, 200);
    assert_string_equal(nv_rig_said.body, "{\"$dtId\":\"d\",\"$metadata\":{\"$model\":\"\"}}");
    assert_string_equal(nv_answer_header(&nv_rig_said, "ETag"), "\"AAAAAAAAAAE=\"");
    nv_expect("PATCH", TWIN, "{\"properties\":{\"desired\":{\"t\":21.70,\"c\":{\"__t\":\"c\",\"q\":5}}}}", 200);
    report(
        "{\"t\":{\"value\":21.70,\"ac\":200,\"av\":2,\"ad\":\"ok\"},\"serial\":\"S\",\"c\":{\"__t\":\"c\",\"r\":1}}");
    nv_expect("GET", "/DigitalTwins/d/" V, NULL, 200);
    assert_string_equal(nv_answer_header(&nv_rig_said, "ETag"), "\"AAAAAAAAAAI=\"");
    assert_string_equal(nv_said_at("t"), "21.70");
    assert_string_equal(nv_said_at("serial"), "S");
    assert_string_equal(nv_said_at("c.r"), "1");
    assert_string_equal(nv_said_at("c.q"), "(null)");
    assert_string_equal(nv_said_at("c.$metadata.q.desiredValue"), "5");
    assert_string_equal(nv_said_at("c.$metadata.q.desiredVersion"), "2");
    assert_string_equal(nv_said_at("$metadata.t.desiredValue"), "21.70");
    assert_string_equal(nv_said_at("$metadata.t.ackCode"), "200");
    assert_string_equal(nv_said_at("$metadata.t.ackVersion"), "2");
    assert_string_equal(nv_said_at("$metadata.t.ackDescription"), "ok");
    assert_int_equal(strncmp(nv_said_at("$metadata.serial.lastUpdateTime"), "2026-11-21T", 11), 0);
    assert_string_equal(nv_said_at("$metadata.c"), "(null)");
    nv_expect_error("GET", "/digitaltwins/none" V, NULL, 404, "DeviceNotFound");
    nv_expect_error("GET", "/digitaltwins/a%20b" V, NULL, 400, "ArgumentInvalid");
    nv_expect_error("GET", "/digitaltwins/d", NULL, 400, "InvalidProtocolVersion");
}

#define ADD(path, value) "[{\"op\":\"add\",\"path\":\"" path "\",\"value\":" value "}]"

/* conformance: http-hub.md 27 */
static void patching(void **state)
{
    (void)state;
    nv_rig_device_come(&device, &nv_rig_on, "d", NULL, NV_WANTS_DESIRED);
    nv_expect("PATCH", DIGITAL, ADD("/t", "21.70"), 202);
    assert_string_equal(nv_answer_header(&nv_rig_said, "ETag"), "\"AAAAAAAAAAI=\"");
    assert_string_equal(nv_answer_header(&nv_rig_said, "Location"), "/digitaltwins/d");
    nv_rig_device_wait_desired(&device);
    assert_string_equal(device.body, "{\"t\":21.70}");
    nv_expect("PATCH", DIGITAL, ADD("/c/q", "{\"x\":1,\"y\":2}"), 202);
    nv_rig_device_wait_desired(&device);
    nv_expect("PATCH", DIGITAL, ADD("/c/q", "{\"x\":3}"), 202);
    nv_rig_device_wait_desired(&device);
    nv_expect("GET", TWIN, NULL, 200);
    assert_string_equal(nv_said_at("properties.desired.c.q"), "{\"x\":3}");
    assert_string_equal(nv_said_at("properties.desired.c.__t"), "c");
    assert_string_equal(nv_said_at("properties.desired.t"), "21.70");
    nv_use_if_match("\"AAAAAAAAAAE=\"");
    nv_expect_error("PATCH", DIGITAL, ADD("/t", "1"), 412, "PreconditionFailed");
    nv_use_if_match("\"AAAAAAAAAAQ=\"");
    nv_expect("PATCH", DIGITAL, "[{\"op\":\"remove\",\"path\":\"/t\"}]", 202);
    nv_rig_device_wait_desired(&device);
    assert_string_equal(device.body, "{\"t\":null}");
    nv_use_if_match("*");
    nv_expect("PATCH", DIGITAL, ADD("/t", "2"), 202);
    static const struct {
        const char *body;
        const char *name;
    } wrong[] = {
        {"[", "IotHubFormatError"},
        {"", "IotHubFormatError"},
        {"{}", "ArgumentInvalid"},
        {"[]", "ArgumentInvalid"},
        {ADD("/a.b", "1"), "ArgumentInvalid"},
        {ADD("/t", "4503599627370496"), "ArgumentInvalid"},
        {ADD("/t/u", "1"), "ArgumentInvalid"},
        {"[{\"op\":\"remove\",\"path\":\"/none\"}]", "ArgumentInvalid"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(wrong); i++) {
        nv_expect_error("PATCH", DIGITAL, wrong[i].body, 400, wrong[i].name);
    }
    nv_expect_error("PATCH", "/digitaltwins/none" V, ADD("/t", "2"), 404, "DeviceNotFound");
    nv_expect("GET", TWIN, NULL, 200);
    assert_string_equal(nv_said_at("version"), "7"); /* five writes, nothing half applied */
}

/** Many at once, each of a property of its own: who is outrun reads again, and nothing is lost. */
static void patching_at_once(void **state)
{
    (void)state;
    enum { CLIENTS = 8 };
    static nv_rig clients[CLIENTS];
    char text[2048];
    for (size_t i = 0; i < CLIENTS; i++) {
        char body[100];
        int len = snprintf(body, sizeof(body), ADD("/p%zu", "{\"n\":%zu}"), i, i);
        (void)snprintf(text, sizeof(text),
                       "PATCH " DIGITAL " HTTP/1.1\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n%s", nv_rig_token,
                       len, body);
        nv_rig_init(&clients[i], &nv_rig_on, nv_http_service_new);
        nv_rig_send(&clients[i], nv_span_str(text));
        nv_rig_pump(&clients[i]);
    }
    for (size_t i = 0; i < CLIENTS; i++) {
        nv_rig_wait_answer(&clients[i], false, &nv_rig_said);
        assert_int_equal(nv_rig_said.status, 202);
        nv_rig_deinit(&clients[i]);
    }
    nv_expect("GET", TWIN, NULL, 200);
    assert_string_equal(nv_said_at("properties.desired.$version"), "9");
    for (size_t i = 0; i < CLIENTS; i++) {
        char path[60];
        char want[20];
        (void)snprintf(path, sizeof(path), "properties.desired.p%zu.n", i);
        (void)snprintf(want, sizeof(want), "%zu", i);
        assert_string_equal(nv_said_at(path), want);
    }
}

/* conformance: http-hub.md 27 */
static void commands(void **state)
{
    (void)state;
    static const struct {
        const char *target;
        const char *body;
        const char *name; /* as the device is asked */
        const char *payload;
    } rows[] = {
        {"/digitaltwins/d/commands/reboot" V, "{\"delay\":1.50}", "reboot", "{\"delay\":1.50}"},
        {"/digitalTwins/d/Commands/reboot/" V "&connectTimeoutInSeconds=0&responseTimeoutInSeconds=10", "", "reboot",
         "null"},
        {"/digitaltwins/d/components/thermostat1/commands/getMax" V, "\"2020\"", "thermostat1*getMax", "\"2020\""},
        {"/digitaltwins/d/Components/Commands/COMMANDS/commands" V, NULL, "Commands*commands", "null"},
    };
    nv_rig_device_come(&device, &nv_rig_on, "d", NULL, NV_WANTS_METHODS);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_ask_only("POST", rows[i].target, rows[i].body);
        nv_rig_device_wait(&device, i + 1);
        assert_string_equal(device.name, rows[i].name);
        assert_string_equal(device.body, rows[i].payload);
        nv_rig_device_answer(&device, i, i % 2 ? 404 : 200, "{\"max\":21.70}");
        assert_int_equal(nv_hear(), 200);
        assert_string_equal(nv_rig_said.body, "{\"max\":21.70}");
        assert_string_equal(nv_answer_header(&nv_rig_said, "x-ms-command-statuscode"), i % 2 ? "404" : "200");
        assert_int_equal(strlen(nv_answer_header(&nv_rig_said, "x-ms-request-id")), 36);
    }
}

/* conformance: http-hub.md 27 */
static void commands_that_fail(void **state)
{
    (void)state;
    (void)nv_ask("POST", "/digitaltwins/d/commands/reboot" V, "{}");
    nv_said_e3(404, "DeviceNotOnline", 404103);
    (void)nv_ask("POST", "/digitaltwins/none/commands/reboot" V, "{}");
    nv_said_e3(404, "DeviceNotFound", 404001);
    (void)nv_ask("POST", "/digitaltwins/d/commands/a%20b" V, "{}");
    nv_said_e3(400, "ArgumentInvalid", 400004);
    (void)nv_ask("POST", "/digitaltwins/d/commands/c" V, "{oops");
    nv_said_e3(400, "ArgumentInvalid", 400004);
    (void)nv_ask("POST", "/digitaltwins/d/commands/c" V "&responseTimeoutInSeconds=4", "{}");
    nv_said_e3(400, "ArgumentInvalid", 400004);
    (void)nv_ask("POST", "/digitaltwins/d/commands/c" V "&connectTimeoutInSeconds=x", "{}");
    nv_said_e3(400, "ArgumentInvalid", 400004);
    char target[300] = "/digitaltwins/d/components/";
    size_t len = strlen(target);
    memset(target + len, 'c', 100);
    (void)snprintf(target + len + 100, 100, "/commands/x" V);
    (void)nv_ask("POST", target, "{}");
    nv_said_e3(400, "ArgumentInvalid", 400004);
    nv_rig_device_come(&device, &nv_rig_on, "d", NULL, NV_WANTS_METHODS);
    nv_ask_only("POST", "/digitaltwins/d/commands/c" V "&responseTimeoutInSeconds=5", "{}");
    nv_rig_device_wait(&device, 1);
    nv_rig_advance(&nv_rig_line, 5 * NV_US_PER_S);
    (void)nv_hear();
    nv_said_e3(504, "GatewayTimeout", 504101);
}

#define T(name) cmocka_unit_test_setup_teardown(name, nv_rig_setup_device, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(reading), T(patching), T(patching_at_once), T(commands), T(commands_that_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
