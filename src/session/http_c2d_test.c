/*
 * The device HTTP API and what services do with cloud-to-device messages, request by request, over a real hub with a
 * real log.
 *
 * conformance: http-hub.md 4, 5, 20, 35, 36, 39, 40
 */
#include "core/devices.h"
#include "core/fault.h"
#include "session/http_rig_ask.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define EVENTS "/devices/d1/messages/events" NV_RIG_V
#define BOUND  "/devices/d1/messages/deviceBound" NV_RIG_V

static char device_key[100];

static void use_device(const char *id)
{
    char resource[200];
    (void)snprintf(resource, sizeof(resource), "hub.test/devices/%s", id);
    nv_use_token(nv_rig_key_token(&nv_rig_on, resource, device_key));
}

static int setup(void **state)
{
    (void)nv_rig_setup(state);
    nv_use_policy("iothubowner");
    nv_make_device("d1", NULL);
    (void)snprintf(device_key, sizeof(device_key), "%s", nv_said_at("authentication.symmetricKey.primaryKey"));
    return 0;
}

/* An answer that need not be JSON. */
static unsigned ask_raw(const char *method, const char *target, const char *body)
{
    nv_ask_only(method, target, body);
    nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
    return nv_rig_said.status;
}

static const char *header(const char *name)
{
    const char *value = nv_answer_header(&nv_rig_said, name);
    return value ? value : "(absent)";
}

static void send_message(const char *json)
{
    nv_use_policy("service");
    nv_expect("POST", "/nave/v1/devices/d1/messages", json, 201);
    use_device("d1");
}

/* Take one as d1; the lock goes to @p lock without its quotes. */
static void take(const char *body, char lock[40])
{
    assert_int_equal(ask_raw("GET", BOUND, NULL), 200);
    assert_string_equal(nv_rig_said.body, body);
    const char *etag = header("ETag");
    assert_int_equal(strlen(etag), 38);
    assert_true(etag[0] == '"' && etag[37] == '"');
    (void)snprintf(lock, 40, "%.36s", etag + 1);
}

static unsigned settle(const char *method, const char *lock, const char *behind)
{
    char target[200];
    (void)snprintf(target, sizeof(target), "/devices/d1/messages/deviceBound/%s%s", lock, behind);
    return nv_ask(method, target, NULL);
}

static void pass(int64_t us)
{
    nv_rig_advance(&nv_rig_line, us);
    nv_hub_loop_tick(nv_rig_on.hub->loops, nv_mono_us(&nv_rig_on.clock.clock));
    nv_settle();
}

/* ---- telemetry ------------------------------------------------------------------------------------------------- */

/* What the log holds, one event a line. */
static const char *events(void)
{
    nv_use_policy("service");
    assert_int_equal(ask_raw("GET", "/nave/v1/events", NULL), 200);
    use_device("d1");
    return nv_rig_said.body;
}

static void must_contain(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        fail_msg("%s is not in %s", part, text);
    }
}

static void one_message(void **state)
{
    (void)state;
    use_device("d1");
    nv_use_headers("iothub-app-Alarm: yes & no\r\nIoTHub-MessageId: m-1\r\nIoTHub-CorrelationId: c-1\r\n"
                   "IOTHUB-USERID: u\r\niothub-contenttype: application/json\r\niothub-contentencoding: utf-8\r\n"
                   "iothub-creationtimeutc: 2024-05-01T10:20:30Z\r\ndt-subject: thermostat1\r\n"
                   "iothub-to: /devices/d1/messages/events\r\niothub-operation: d2c\r\n"
                   "iothub-connection-device-id: evil\r\nDT-DataSchema: evil\r\n"
                   "iothub-app-IoTHub-Connection-Device-Id: evil\r\nX-Other: no\r\n");
    nv_expect("POST", EVENTS, "{\"t\":21.70}", 204);
    const char *all = events();
    must_contain(all, "\"deviceId\":\"d1\"");
    must_contain(all, "\"message-id\":\"m-1\"");
    must_contain(all, "\"correlation-id\":\"c-1\"");
    must_contain(all, "\"user-id\":\"u\"");
    must_contain(all, "\"dt-subject\":\"thermostat1\"");
    must_contain(all, "\"iothub-creation-time-utc\":\"2024-05-01T10:20:30Z\"");
    must_contain(all, "\"iothub-connection-device-id\":\"d1\"");
    must_contain(all, "\\\"scope\\\":\\\"device\\\",\\\"type\\\":\\\"sas\\\"");
    must_contain(all, "\"properties\":{\"Alarm\":\"yes & no\"}");
    must_contain(all, "\"body\":{\"t\":21.70}");
    assert_null(strstr(all, "evil"));
    assert_null(strstr(all, "X-Other"));
}

/* The CLI says type and encoding with HTTP's own headers; Node sends chunks. */
static void chunks_and_own_headers(void **state)
{
    (void)state;
    char text[3000];
    use_device("d1");
    (void)snprintf(text, sizeof(text),
                   "POST /Devices/d1/MESSAGES/Events/%s HTTP/1.1\r\nAuthorization: %s\r\nContent-Type: text/plain\r\n"
                   "Content-Encoding: utf-8\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
                   NV_RIG_V, nv_rig_token);
    nv_rig_send(&nv_rig_line, nv_span_str(text));
    assert_int_equal(nv_hear(), 204);
    const char *all = events();
    must_contain(all, "\"body\":\"abcde\"");
    must_contain(all, "\"content-type\":\"text/plain\"");
    must_contain(all, "\"content-encoding\":\"utf-8\"");
}

static void batch(void **state)
{
    (void)state;
    static const char type[] = "Content-Type: application/vnd.microsoft.iothub.json; charset=utf-8\r\n";
    use_device("d1");
    nv_use_headers(type);
    nv_expect("POST", EVENTS,
              "[{\"body\":\"b25l\",\"base64Encoded\":true,\"properties\":{\"iothub-app-k\":\"v\","
              "\"iothub-messageid\":\"m1\",\"plain\":7,\"iothub-message-source\":\"evil\"}},"
              "{\"body\":\"two\",\"base64Encoded\":false},{\"body\":\"dGhyZWU=\"}]",
              204);
    const char *all = events();
    must_contain(all, "\"body\":\"one\"");
    must_contain(all, "\"properties\":{\"k\":\"v\",\"plain\":\"7\"}");
    must_contain(all, "\"message-id\":\"m1\"");
    must_contain(all, "\"body\":\"two\"");
    must_contain(all, "\"body\":\"three\"");
    static const struct {
        const char *body;
        const char *says;
    } bad[] = {{"[]", "an array of one or more"},
               {"{}", "an array of one or more"},
               {"[1]", "Message 0 of the batch: it needs a body"},
               {"[{}]", "it needs a body"},
               {"[{\"body\":\"\"},{\"body\":7}]", "Message 1 of the batch: it needs a body"},
               {"[{\"body\":\"%%%%\"}]", "it needs a body (base64"},
               {"[{\"body\":\"\",\"properties\":[]}]", "its properties are an object"}};
    for (size_t i = 0; i < NV_COUNT_OF(bad); i++) {
        nv_use_headers(type);
        nv_expect_error("POST", EVENTS, bad[i].body, 400, "ArgumentInvalid");
        must_contain(nv_rig_said.body, bad[i].says);
    }
    nv_use_headers(type);
    nv_expect_error("POST", EVENTS, "[{\"body\"", 400, "IotHubFormatError");
}

/* Small messages weigh next to nothing by the formula: their number is bounded too. */
static void batch_of_many(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    nv_buf text;
    nv_buf_init(&text, (size_t)COUNT * 16);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(nv_buf_append_str(&text, i == 0 ? "[{\"body\":\"\"}" : ",{\"body\":\"\"}"), NV_OK);
    }
    assert_int_equal(nv_buf_append(&text, nv_span_of("]", 2)), NV_OK);
    use_device("d1");
    nv_use_headers("Content-Type: application/vnd.microsoft.iothub.json\r\n");
    nv_expect_error("POST", EVENTS, (const char *)nv_buf_span(&text).ptr, 413, "MessageTooLarge");
    nv_buf_deinit(&text);
}

/* semantics.md 3.11: body, values of system properties, names and values of the others. */
static void size_by_the_formula(void **state)
{
    (void)state;
    static char body[262146];
    use_device("d1");
    memset(body, 'x', sizeof(body) - 1);
    body[262144 - 4] = '\0';
    nv_use_headers("iothub-app-a: b\r\niothub-messageid: id\r\n");
    nv_expect("POST", EVENTS, body, 204);
    body[262144 - 4] = 'x';
    body[262144 - 3] = '\0';
    nv_use_headers("iothub-app-a: b\r\niothub-messageid: id\r\n");
    nv_expect_error("POST", EVENTS, body, 413, "MessageTooLarge");
    must_contain(nv_rig_said.body, "The message has 262145 bytes with properties, of 262144 (limits.message_bytes)");
}

/* ---- who may ---------------------------------------------------------------------------------------------------- */

static void who_may(void **state)
{
    (void)state;
    nv_use_policy("iothubowner");
    nv_make_device("d2", NULL);
    nv_expect("POST", EVENTS, "x", 204); /* has DeviceConnect */
    nv_use_token(nv_rig_policy_token(&nv_rig_on, "iothubowner", "hub.test/devices/d1"));
    nv_expect("GET", BOUND, NULL, 204);
    nv_expect_error("GET", "/devices/d2/messages/deviceBound" NV_RIG_V, NULL, 401, "IotHubUnauthorizedAccess");
    nv_use_policy("service");
    nv_expect_error("GET", BOUND, NULL, 401, "IotHubUnauthorizedAccess");
    use_device("d1");
    nv_expect("GET", BOUND, NULL, 204);
    nv_expect_error("GET", "/devices/d2/messages/deviceBound" NV_RIG_V, NULL, 401, "IotHubUnauthorizedAccess");
    nv_expect_error("GET", "/devices/d1" NV_RIG_V, NULL, 401, "IotHubUnauthorizedAccess");
    nv_expect_error("DELETE", "/devices/d1/commands" NV_RIG_V, NULL, 401, "IotHubUnauthorizedAccess");
    nv_expect_error("GET", "/devices/d1/messages/deviceBound", NULL, 400, "InvalidProtocolVersion");
    use_device("nobody");
    nv_expect_error("POST", "/devices/nobody/messages/events" NV_RIG_V, "x", 401, "IotHubUnauthorizedAccess");
    nv_expect("POST", "/devices/d1/modules/m/messages/events" NV_RIG_V, "x", 404);
    nv_use_policy("iothubowner");
    nv_use_if_match("*");
    nv_expect("PUT", "/devices/d1" NV_RIG_V, "{\"status\":\"disabled\"}", 200);
    use_device("d1");
    nv_expect_error("POST", EVENTS, "x", 401, "IotHubUnauthorizedAccess");
}

static void no_credential(void **state)
{
    (void)state;
    nv_use_token("");
    nv_expect_error("GET", BOUND, NULL, 401, "IotHubUnauthorizedAccess");
}

/* ---- messages to the device ------------------------------------------------------------------------------------- */

static void message_as_headers(void **state)
{
    (void)state;
    char lock[40];
    nv_use_policy("service");
    nv_expect("POST", "/nave/v1/devices/d1/messages",
              "{\"body\":\"hello\",\"messageId\":\"m 1\",\"correlationId\":\"c\",\"userId\":\"u\",\"ack\":\"full\","
              "\"contentType\":\"text/plain\",\"contentEncoding\":\"utf-8\",\"ttlSeconds\":60,"
              "\"properties\":{\"a\":\"b\",\"two words\":\"x\\r\\ny: z\",\"none\":null}}",
              201);
    assert_string_equal(nv_said_at("sequenceNumber"), "1");
    assert_string_equal(nv_said_at("messageId"), "m 1");
    use_device("d1");
    take("hello", lock);
    const char *head = nv_rig_said.head;
    must_contain(head, "\r\niothub-messageid: m 1\r\n");
    must_contain(head, "\r\niothub-correlationid: c\r\n");
    must_contain(head, "\r\niothub-userid: u\r\n");
    must_contain(head, "\r\niothub-to: /devices/d1/messages/deviceBound\r\n");
    must_contain(head, "\r\niothub-ack: full\r\n");
    must_contain(head, "\r\niothub-sequencenumber: 1\r\n");
    must_contain(head, "\r\niothub-deliverycount: 1\r\n");
    must_contain(head, "\r\niothub-enqueuedtime: 2026-");
    must_contain(head, "\r\niothub-expiry: 2026-");
    must_contain(head, "\r\nContentType: text/plain\r\n");
    must_contain(head, "\r\nContentEncoding: utf-8\r\n");
    must_contain(head, "\r\niothub-app-a: b\r\n");
    must_contain(head, "\r\niothub-app-two%20words: x%0D%0Ay: z\r\n");
    assert_int_equal(settle("DELETE", lock, NV_RIG_V), 204);
}

static void settling(void **state)
{
    (void)state;
    char lock[40];
    use_device("d1");
    nv_expect("GET", BOUND, NULL, 204);
    send_message("{\"body\":\"a\"}");
    take("a", lock);
    nv_expect("GET", BOUND, NULL, 204);
    assert_int_equal(settle("POST", lock, "/abandon" NV_RIG_V), 204);
    assert_int_equal(settle("POST", lock, "/abandon" NV_RIG_V), 412);
    assert_string_equal(header("iothub-errorcode"), "DeviceMessageLockLost");
    take("a", lock);
    must_contain(nv_rig_said.head, "iothub-deliverycount: 2\r\n");
    assert_int_equal(settle("DELETE", lock, NV_RIG_V), 204);
    assert_int_equal(settle("DELETE", lock, NV_RIG_V), 412);
    static const char *const rejects[] = {NV_RIG_V "&reject", "/?reject=&api-version=2021-04-12",
                                          NV_RIG_V "&reject=true"};
    for (size_t i = 0; i < NV_COUNT_OF(rejects); i++) {
        send_message("{\"body\":\"r\",\"messageId\":\"r\",\"ack\":\"negative\"}");
        take("r", lock);
        assert_int_equal(settle("DELETE", lock, rejects[i]), 204);
    }
    nv_expect("GET", BOUND, NULL, 204);
    nv_use_policy("service");
    nv_expect("GET", "/Messages/serviceBound/Feedback/" NV_RIG_V, NULL, 200);
    assert_string_equal(nv_said_at("2.statusCode"), "Rejected");
    assert_string_equal(nv_said_at("0.originalMessageId"), "r");
    assert_string_equal(nv_said_at("0.deviceId"), "d1");
}

static void lock_times(void **state)
{
    (void)state;
    char lock[40];
    send_message("{\"bodyBase64\":\"YQ==\"}");
    nv_use_headers("IotHub-MessageLockTimeout: 5\r\n");
    take("a", lock);
    pass(4 * NV_US_PER_S);
    nv_expect("GET", BOUND, NULL, 204);
    pass(NV_US_PER_S);
    assert_int_equal(ask_raw("GET", BOUND "&iothub-messagelocktimeout=10", NULL), 200);
    must_contain(nv_rig_said.head, "iothub-deliverycount: 2\r\n");
    pass(9 * NV_US_PER_S);
    nv_expect("GET", BOUND, NULL, 204);
    pass(NV_US_PER_S);
    take("a", lock);
    pass(59 * NV_US_PER_S);
    assert_int_equal(settle("DELETE", lock, NV_RIG_V), 204);
}

static void head_locks_nothing(void **state)
{
    (void)state;
    char lock[40];
    send_message("{\"body\":\"a\"}");
    nv_ask_only("HEAD", BOUND, NULL);
    nv_rig_wait_answer(&nv_rig_line, true, &nv_rig_said);
    assert_int_equal(nv_rig_said.status, 405);
    take("a", lock);
}

/* ---- services ---------------------------------------------------------------------------------------------------- */

static void sending(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        unsigned status;
    } rows[] = {
        {"{}", 201},
        {"{\"body\":\"\",\"ack\":\"None\"}", 201},
        {"[]", 400},
        {"null", 400},
        {"{", 400},
        {"{\"body\":7}", 400},
        {"{\"body\":\"x\",\"bodyBase64\":\"eA==\"}", 400},
        {"{\"bodyBase64\":\"???\"}", 400},
        {"{\"ack\":\"maybe\"}", 400},
        {"{\"ack\":\"full\"}", 201}, /* the hub names it */
        {"{\"ack\":\"full\",\"messageId\":\"\"}", 400},
        {"{\"messageId\":1}", 400},
        {"{\"properties\":{\"a\":1}}", 400},
        {"{\"properties\":[]}", 400},
        {"{\"ttlSeconds\":0}", 400},
        {"{\"ttlSeconds\":1.5}", 400},
        {"{\"ttlSeconds\":172801}", 400},
        {"{\"ttlSeconds\":172800}", 201},
        {"{\"ttlSeconds\":5,\"expiryTimeUtc\":\"2026-11-21T10:00:00Z\"}", 400},
        {"{\"expiryTimeUtc\":\"tomorrow\"}", 400},
        {"{\"expiryTimeUtc\":\"2020-01-01T00:00:00Z\"}", 400},
    };
    nv_use_policy("service");
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        if (nv_ask("POST", "/nave/v1/devices/d1/messages", rows[i].body) != rows[i].status) {
            fail_msg("%s: %u %s", rows[i].body, nv_rig_said.status, nv_rig_said.body);
        }
    }
    (void)nv_ask("POST", "/nave/v1/devices/d1/messages", "{\"ttlSeconds\":172801}");
    must_contain(nv_rig_said.body, "at most 172800 s from now");
    nv_expect("POST", "/nave/v1/devices/nobody/messages", "{}", 404);
    assert_string_equal(header("iothub-errorcode"), "DeviceNotFound");
    nv_use_policy("registryReadWrite");
    nv_expect("POST", "/nave/v1/devices/d1/messages", "{}", 401);
}

static void purging_and_counting(void **state)
{
    (void)state;
    char lock[40];
    send_message("{\"body\":\"a\"}");
    send_message("{\"body\":\"b\",\"messageId\":\"b\",\"ack\":\"full\"}");
    take("a", lock);
    nv_use_policy("iothubowner");
    nv_expect("GET", "/devices/d1" NV_RIG_V, NULL, 200);
    assert_string_equal(nv_said_at("cloudToDeviceMessageCount"), "2");
    nv_expect("GET", "/devices" NV_RIG_V, NULL, 200);
    assert_string_equal(nv_said_at("0.cloudToDeviceMessageCount"), "2");
    nv_expect("GET", "/twins/d1" NV_RIG_V, NULL, 200);
    assert_string_equal(nv_said_at("cloudToDeviceMessageCount"), "2");
    nv_use_policy("service");
    nv_expect("DELETE", "/devices/d1/commands" NV_RIG_V, NULL, 200);
    assert_string_equal(nv_said_at("totalMessagesPurged"), "1");
    assert_string_equal(nv_said_at("deviceId"), "d1");
    must_contain(nv_rig_said.body, "\"moduleId\":null");
    nv_expect("DELETE", "/devices/d1/COMMANDS/" NV_RIG_V, NULL, 200);
    assert_string_equal(nv_said_at("totalMessagesPurged"), "0");
    nv_expect_error("DELETE", "/devices/nobody/commands" NV_RIG_V, NULL, 404, "DeviceNotFound");
}

/* Feedback must name a message, so the hub names one that came without an id, and tells how. */
static void feedback_without_message_id(void **state)
{
    (void)state;
    char id[40];
    char lock[40];
    nv_use_policy("service");
    nv_expect("POST", "/nave/v1/devices/d1/messages", "{\"body\":\"b\"}", 201);
    must_contain(nv_rig_said.body, "\"messageId\":null");
    nv_expect("POST", "/nave/v1/devices/d1/messages", "{\"body\":\"a\",\"ack\":\"positive\"}", 201);
    (void)snprintf(id, sizeof(id), "%s", nv_said_at("messageId"));
    assert_int_equal(strlen(id), 36);
    use_device("d1");
    take("b", lock);
    assert_int_equal(settle("DELETE", lock, NV_RIG_V), 204);
    take("a", lock);
    assert_string_equal(header("iothub-messageid"), id);
    assert_int_equal(settle("DELETE", lock, NV_RIG_V), 204);
    nv_use_policy("service");
    nv_expect("GET", "/messages/serviceBound/feedback" NV_RIG_V, NULL, 200);
    assert_string_equal(nv_said_at("0.originalMessageId"), id);
}

static void feedback_locks(void **state)
{
    (void)state;
    char lock[40];
    char target[200];
    send_message("{\"body\":\"a\",\"messageId\":\"a\",\"ack\":\"positive\"}");
    take("a", lock);
    assert_int_equal(settle("DELETE", lock, NV_RIG_V), 204);
    nv_use_policy("service");
    nv_expect("GET", "/messages/serviceBound/feedback" NV_RIG_V, NULL, 200);
    (void)snprintf(lock, sizeof(lock), "%.36s", header("ETag") + 1);
    assert_string_equal(nv_said_at("0.statusCode"), "Success");
    nv_expect("GET", "/messages/serviceBound/feedback" NV_RIG_V, NULL, 204);
    (void)snprintf(target, sizeof(target), "/messages/serviceBound/feedback/%s/abandon" NV_RIG_V, lock);
    nv_expect("POST", target, NULL, 204);
    nv_expect_error("POST", target, NULL, 412, "DeviceMessageLockLost");
    nv_expect("GET", "/messages/serviceBound/feedback" NV_RIG_V, NULL, 200);
    (void)snprintf(target, sizeof(target), "/messages/serviceBound/feedback/%.36s" NV_RIG_V, header("ETag") + 1);
    nv_expect("DELETE", target, NULL, 204);
    nv_expect("GET", "/messages/serviceBound/feedback" NV_RIG_V, NULL, 204);
    use_device("d1");
    nv_expect_error("GET", "/messages/serviceBound/feedback" NV_RIG_V, NULL, 401, "IotHubUnauthorizedAccess");
}

/* ---- presence and faults ------------------------------------------------------------------------------------------
 */

static void activity(void **state)
{
    (void)state;
    use_device("d1");
    nv_expect("POST", EVENTS, "x", 204);
    nv_hub_loop_turn_end(nv_rig_on.hub->loops);
    nv_use_policy("iothubowner");
    nv_expect("GET", "/devices/d1" NV_RIG_V, NULL, 200);
    assert_non_null(strstr(nv_said_at("lastActivityTime"), "2026-"));
    assert_string_equal(nv_said_at("connectionState"), "Disconnected"); /* semantics.md section 9 */
    assert_string_equal(nv_said_at("connectionStateUpdatedTime"), "0001-01-01T00:00:00Z");
}

static void order_fault(const char *kind)
{
    char lines[300];
    (void)snprintf(lines, sizeof(lines),
                   "iothub-app-AzIoTHub_FaultOperationType: %s\r\niothub-app-AzIoTHub_FaultOperationDelayInSecs: 1\r\n"
                   "iothub-app-AzIoTHub_FaultOperationDurationInSecs: 10\r\n",
                   kind);
    nv_use_headers(lines);
    nv_expect("POST", EVENTS, "x", 204);
}

static void faults_on_order(void **state)
{
    (void)state;
    static const struct {
        const char *kind;
        unsigned status;
        const char *error;
    } rows[] = {{"InvokeThrottling", 429, "ThrottlingException"},
                {"InvokeMaxMessageQuota", 403, "IotHubQuotaExceeded"},
                {"InvokeAuthError", 401, "IotHubUnauthorizedAccess"}};
    use_device("d1");
    order_fault("InvokeThrottling"); /* off: it means nothing */
    pass(2 * NV_US_PER_S);
    nv_expect("POST", EVENTS, "x", 204);
    nv_rig_on.hub->faults = nv_faults_new();
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        order_fault(rows[i].kind);
        nv_expect("POST", EVENTS, "x", 204); /* the delay */
        pass(NV_US_PER_S);
        nv_expect_error("POST", EVENTS, "x", rows[i].status, rows[i].error);
        nv_expect_error("GET", BOUND, NULL, rows[i].status, rows[i].error);
        pass(10 * NV_US_PER_S);
        nv_expect("POST", EVENTS, "x", 204);
    }
    order_fault("KillTcp");
    pass(NV_US_PER_S);
    nv_ask_only("POST", EVENTS, "x");
    while (!nv_rig_line.session->closing) { /* the identity may have to be looked up first: then the body waits */
        assert_true(nv_exec_queue_run_wait(&nv_rig_on.queue));
        nv_rig_pump(&nv_rig_line);
    }
    assert_int_equal(nv_buf_len(&nv_rig_line.received), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, nv_rig_teardown)
    const struct CMUnitTest tests[] = {
        TEST(one_message),
        TEST(chunks_and_own_headers),
        TEST(batch),
        TEST(batch_of_many),
        TEST(size_by_the_formula),
        TEST(who_may),
        TEST(no_credential),
        TEST(message_as_headers),
        TEST(settling),
        TEST(lock_times),
        TEST(head_locks_nothing),
        TEST(sending),
        TEST(purging_and_counting),
        TEST(feedback_locks),
        TEST(feedback_without_message_id),
        TEST(activity),
        TEST(faults_on_order),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
