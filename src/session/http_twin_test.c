/** Twins over REST, by the numbers of http-hub.md's checklist, on the real core. */
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
#define DESIRED "properties.desired"

/** The twin's etag, version and desired version are these, in the body and in the header. */
static void assert_numbers(const char *etag, const char *version, const char *desired)
{
    char quoted[40];
    (void)snprintf(quoted, sizeof(quoted), "\"%s\"", etag);
    assert_string_equal(nv_answer_header(&nv_rig_said, "ETag"), quoted);
    assert_string_equal(nv_said_at("etag"), etag);
    assert_string_equal(nv_said_at("version"), version);
    assert_string_equal(nv_said_at(DESIRED ".$version"), desired);
}

/* conformance: http-hub.md 21 */
static void numbers_of_a_new_twin(void **state)
{
    (void)state;
    nv_expect("GET", TWIN, NULL, 200);
    assert_numbers("AAAAAAAAAAE=", "2", "1");
    assert_string_equal(nv_said_at("deviceId"), "d");
    assert_string_equal(nv_said_at("properties.reported.$version"), "1");
    assert_string_equal(nv_said_at("status"), "enabled");
    assert_string_equal(nv_said_at("connectionState"), "Disconnected");
    assert_string_equal(nv_said_at("authenticationType"), "sas");
    assert_string_equal(nv_said_at("cloudToDeviceMessageCount"), "0");
    assert_string_equal(nv_said_at("modelId"), "");
    assert_string_equal(nv_said_at("capabilities.iotEdge"), "false");
    static const char *const absent[] = {"generationId", "connectionStateUpdatedTime", "authentication", "moduleId"};
    for (size_t i = 0; i < NV_COUNT_OF(absent); i++) {
        assert_string_equal(nv_said_at(absent[i]), "(null)");
    }
    nv_expect("PATCH", TWIN, "{\"properties\":{\"desired\":{\"t\":20.0}}}", 200);
    assert_numbers("AAAAAAAAAAI=", "3", "2");
    assert_string_equal(nv_said_at(DESIRED ".t"), "20.0");
    assert_string_equal(nv_said_at("properties.reported.$version"), "1");
    nv_expect("PATCH", TWIN, "{\"tags\":{\"a\":1}}", 200);
    assert_numbers("AAAAAAAAAAM=", "4", "2");
    nv_expect("PATCH", TWIN, "{\"tags\":{\"b\":1},\"properties\":{\"desired\":{\"u\":1}}}", 200);
    assert_numbers("AAAAAAAAAAQ=", "5", "3");
    nv_expect("GET", TWIN, NULL, 200);
    assert_numbers("AAAAAAAAAAQ=", "5", "3");
}

/* conformance: http-hub.md 22 */
static void the_whole_document_comes_back(void **state)
{
    (void)state;
    nv_expect("PATCH", TWIN,
              "{\"tags\":{\"site\":\"n\"},\"properties\":{\"desired\":{\"a\":{\"b\":1,\"c\":[1,2]},\"k\":1e3}}}", 200);
    static char whole[1 << 20];
    (void)snprintf(whole, sizeof(whole), "%s", nv_rig_said.body);
    char *k = strstr(whole, "\"k\":1e3");
    assert_non_null(k);
    memcpy(k, "\"k\":777", 7);
    char *reported = strstr(whole, "\"reported\":{");
    assert_non_null(reported);
    /* "reported":{ ... becomes one that holds something: it is ignored. */
    char *rest = reported + strlen("\"reported\":{");
    memmove(rest + strlen("\"x\":1,"), rest, strlen(rest) + 1);
    memcpy(rest, "\"x\":1,", strlen("\"x\":1,"));
    nv_expect("PATCH", TWIN, whole, 200);
    assert_numbers("AAAAAAAAAAM=", "4", "3");
    assert_string_equal(nv_said_at(DESIRED ".k"), "777");
    assert_string_equal(nv_said_at(DESIRED ".a"), "{\"b\":1,\"c\":[1,2]}");
    assert_string_equal(nv_said_at("tags.site"), "n");
    assert_string_equal(nv_said_at("properties.reported.x"), "(null)");
    assert_string_equal(nv_said_at("properties.reported.$version"), "1");
    /* Member names in any case, unknown ones ignored. */
    nv_expect("PATCH", TWIN, "{\"Tags\":{\"Site\":1},\"PROPERTIES\":{\"Desired\":{\"K\":1}},\"foo\":{\"bar\":[null]}}",
              200);
    assert_string_equal(nv_said_at(DESIRED ".k"), "777");
    assert_non_null(strstr(nv_rig_said.body, "\"K\":1"));
}

/* conformance: http-hub.md 23 */
static void nulls_arrays_and_objects(void **state)
{
    (void)state;
    nv_expect("PATCH", TWIN, "{\"properties\":{\"desired\":{\"a\":{\"b\":{\"c\":1}},\"l\":[1,{\"x\":1},3],\"o\":{}}}}",
              200);
    assert_string_equal(nv_said_at(DESIRED ".o"), "{}");
    nv_expect("PATCH", TWIN, "{\"properties\":{\"desired\":{\"a\":{\"b\":{\"c\":null}},\"l\":[2],\"none\":null}}}",
              200);
    assert_string_equal(nv_said_at(DESIRED ".a"), "{\"b\":{}}");
    assert_string_equal(nv_said_at(DESIRED ".l"), "[2]");
    assert_string_equal(nv_said_at(DESIRED ".o"), "{}");
    nv_expect("PATCH", TWIN, "{\"tags\":{\"x\":1},\"properties\":{\"desired\":{\"a\":null}}}", 200);
    assert_string_equal(nv_said_at(DESIRED ".a"), "(null)");
    nv_expect("PUT", TWIN, "{\"properties\":{\"desired\":{\"z\":1}}}", 200);
    assert_string_equal(nv_said_at("tags"), "(null)"); /* replace means replace */
    assert_string_equal(nv_said_at(DESIRED ".l"), "(null)");
    assert_string_equal(nv_said_at(DESIRED ".z"), "1");
    nv_expect("PUT", TWIN, "{\"tags\":{\"y\":1}}", 200);
    assert_string_equal(nv_said_at(DESIRED ".z"), "(null)");
    assert_string_equal(nv_said_at("tags.y"), "1");
    nv_expect_error("PUT", TWIN, "{\"tags\":{\"y\":null}}", 400, "ArgumentInvalid");
    nv_expect("GET", TWIN, NULL, 200);
    assert_string_equal(nv_said_at("tags.y"), "1");
}

/** {"properties":{"desired":{...}}} of strings that the formula counts as @p size. Static storage. */
static const char *desired_of(size_t size)
{
    static char text[1 << 16];
    size_t len = (size_t)snprintf(text, sizeof(text), "{\"properties\":{\"desired\":{");
    for (size_t i = 0; size > 0; i++) {
        size_t part = size > 4000 ? 4000 : size; /* two of them are the key */
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s\"%02zu\":\"", i ? "," : "", i);
        memset(text + len, 'x', part - 2);
        len += part - 2;
        text[len++] = '"';
        size -= part;
    }
    (void)snprintf(text + len, sizeof(text) - len, "}}}");
    return text;
}

/* conformance: http-hub.md 24 */
static void limits(void **state)
{
    (void)state;
    static const struct {
        const char *value; /* of "desired" */
        unsigned status;
        const char *says; /* path and limit */
    } rows[] = {
        {"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}}}}}}", 200, NULL},
        {"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}}}}}}}", 400,
         "10"},
        {"{\"a.b\":1}", 400, "properties.desired"},
        {"{\"$a\":1}", 400, "properties.desired"},
        {"{\"a b\":1}", 400, "properties.desired"},
        {"{\"a#\":1}", 400, "properties.desired"},
        {"{\"a\\u0007\":1}", 400, "properties.desired"},
        {"{\"k\":4503599627370495}", 200, NULL},
        {"{\"k\":4503599627370496}", 400, "properties.desired.k"},
        {"{\"k\":-4503599627370496}", 200, NULL},
        {"{\"k\":-4503599627370497}", 400, "properties.desired.k"},
        {"{\"x\":{\"k\":[1,null]}}", 400, "properties.desired.x.k"},
        {"[]", 400, "properties.desired"},
        {"7", 400, "properties.desired"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char body[1000];
        (void)snprintf(body, sizeof(body), "{\"properties\":{\"desired\":%s}}", rows[i].value);
        if (rows[i].status == 200) {
            nv_expect("PATCH", TWIN, body, 200);
        } else {
            nv_expect_error("PATCH", TWIN, body, 400, "ArgumentInvalid");
            if (!strstr(nv_said_at("Message"), rows[i].says)) {
                fail_msg("%s: %s", rows[i].value, nv_rig_said.body);
            }
        }
    }
    nv_expect("PUT", TWIN, desired_of(32768), 200);
    nv_expect_error("PUT", TWIN, desired_of(32769), 400, "ArgumentInvalid");
    assert_non_null(strstr(nv_said_at("Message"), "32768"));
    nv_expect_error("PATCH", TWIN, "{\"properties\":{\"desired\":{\"x\":\"\"}}}", 400, "ArgumentInvalid");
    nv_expect("GET", TWIN, NULL, 200);
    assert_string_equal(nv_said_at(DESIRED ".x"), "(null)"); /* nothing half applied */
    nv_expect("PUT", TWIN, "{}", 200);
    static char key[2000];
    int len = snprintf(key, sizeof(key), "{\"tags\":{\"");
    memset(key + len, 'k', 1025);
    (void)snprintf(key + len + 1025, 10, "\":1}}");
    nv_expect_error("PATCH", TWIN, key, 400, "ArgumentInvalid");
    (void)snprintf(key + len + 1024, 10, "\":1}}");
    nv_expect("PATCH", TWIN, key, 200);
    static char value[5000];
    len = snprintf(value, sizeof(value), "{\"tags\":{\"s\":\"");
    memset(value + len, 'v', 4097);
    (void)snprintf(value + len + 4097, 10, "\"}}");
    nv_expect_error("PATCH", TWIN, value, 400, "ArgumentInvalid");
    (void)snprintf(value + len + 4096, 10, "\"}}");
    nv_expect("PATCH", TWIN, value, 200);
}

/* conformance: http-hub.md 24 */
static void preconditions(void **state)
{
    (void)state;
    static const struct {
        const char *if_match;
        bool passes;
    } rows[] = {
        {"\"AAAAAAAAAAE=\"", true},
        {"AAAAAAAAAAI=", true},
        {"*", true},
        {"\"*\"", true},
        {"\"\"", true},
        {"", true},
        {"W/\"AAAAAAAAAAc=\"", true},
        {"\"AAAAAAAAAAE=\"", false},
        {"AAAAAAAAAAE=", false},
        {"\"no etag\"", false},
        {"\"MTIz\"", false},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_use_if_match(rows[i].if_match);
        if (rows[i].passes) {
            nv_expect("PATCH", TWIN, "{\"tags\":{\"x\":1}}", 200);
        } else {
            nv_expect_error("PATCH", TWIN, "{\"tags\":{\"x\":2}}", 412, "PreconditionFailed");
            assert_non_null(strstr(nv_said_at("Message"), ";ETag mismatch for device ID 'd'"));
            nv_use_if_match(rows[i].if_match);
            nv_expect_error("PUT", TWIN, "{}", 412, "PreconditionFailed");
        }
    }
    nv_use_if_match("\"AAAAAAAAAAE=\""); /* of no meaning for reading */
    nv_expect("GET", TWIN, NULL, 200);
    assert_string_equal(nv_said_at("tags.x"), "1");
}

/* conformance: http-hub.md 25 */
static void identity_and_twin_have_their_own_etags(void **state)
{
    (void)state;
    nv_expect("GET", TWIN, NULL, 200);
    char device_etag[100];
    (void)snprintf(device_etag, sizeof(device_etag), "%s", nv_said_at("deviceEtag"));
    nv_use_policy("iothubowner");
    nv_use_if_match("*");
    nv_expect("PUT", "/devices/d" V, "{\"status\":\"disabled\",\"statusReason\":\"lost\"}", 200);
    assert_string_not_equal(nv_said_at("etag"), device_etag);
    (void)snprintf(device_etag, sizeof(device_etag), "%s", nv_said_at("etag"));
    nv_expect("GET", TWIN, NULL, 200);
    assert_numbers("AAAAAAAAAAE=", "2", "1");
    assert_string_equal(nv_said_at("deviceEtag"), device_etag);
    assert_string_equal(nv_said_at("status"), "disabled");
    assert_string_equal(nv_said_at("statusReason"), "lost");
    /* A disabled device's twin is still the service's to write. */
    nv_expect("PATCH", TWIN, "{\"tags\":{\"x\":1}}", 200);
    nv_expect("GET", "/devices/d" V, NULL, 200);
    assert_string_equal(nv_said_at("etag"), device_etag);
}

static void errors(void **state)
{
    (void)state;
    static const struct {
        const char *method;
        const char *target;
        const char *body;
        unsigned status;
        const char *name;
        const char *says;
    } rows[] = {
        {"GET", "/twins/none" V, NULL, 404, "DeviceNotFound", "DeviceNotFound;none\""},
        {"PATCH", "/twins/none" V, "{}", 404, "DeviceNotFound", "none"},
        {"PUT", "/twins/none" V, "{}", 404, "DeviceNotFound", "none"},
        {"GET", "/twins/D" V, NULL, 404, "DeviceNotFound", "D"}, /* ids keep their case */
        {"GET", "/twins/d/modules/none" V, NULL, 404, "DeviceNotFound", "none"},
        {"PATCH", "/twins/d/modules/none" V, "{}", 404, "DeviceNotFound", "none"},
        {"GET", "/twins/none/modules/m" V, NULL, 404, "DeviceNotFound", "none"},
        {"GET", "/twins/a%20b" V, NULL, 400, "ArgumentInvalid", "device id"},
        {"GET", "/twins/d/modules/a%2Fb" V, NULL, 400, "ArgumentInvalid", "module id"},
        {"GET", "/twins/d", NULL, 400, "InvalidProtocolVersion", "api-version"},
        {"PATCH", TWIN, "", 400, "IotHubFormatError", ""},
        {"PATCH", TWIN, "{", 400, "IotHubFormatError", ""},
        {"PATCH", TWIN, "{\"tags\":{\"a\":01}}", 400, "IotHubFormatError", ""},
        {"PATCH", TWIN, "{\"tags\":{\"a\":1}} x", 400, "IotHubFormatError", ""},
        {"PATCH", TWIN, "[]", 400, "ArgumentInvalid", ""},
        {"PATCH", TWIN, "{\"tags\":1}", 400, "ArgumentInvalid", "tags"},
        {"PATCH", TWIN, "{\"properties\":1}", 400, "ArgumentInvalid", "properties"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_expect_error(rows[i].method, rows[i].target, rows[i].body, rows[i].status, rows[i].name);
        if (!strstr(nv_rig_said.body, rows[i].says)) {
            fail_msg("%s %s: %s", rows[i].method, rows[i].target, nv_rig_said.body);
        }
    }
    nv_expect("DELETE", TWIN, NULL, 405);
    assert_string_equal(nv_answer_header(&nv_rig_said, "Allow"), "GET, HEAD, PATCH, PUT");
    nv_expect("GET", TWIN, NULL, 200);
    assert_numbers("AAAAAAAAAAE=", "2", "1");
}

/* conformance: http-hub.md 3 */
static void rights(void **state)
{
    (void)state;
    static const struct {
        const char *policy;
        bool may;
    } rows[] = {{"iothubowner", true},
                {"service", true},
                {"device", false},
                {"registryRead", false},
                {"registryReadWrite", false}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_use_policy(rows[i].policy);
        if (rows[i].may) {
            nv_expect("GET", TWIN, NULL, 200);
            nv_expect("PATCH", TWIN, "{}", 200);
        } else {
            nv_expect_error("GET", TWIN, NULL, 401, "IotHubUnauthorizedAccess");
            nv_expect_error("PATCH", TWIN, "{}", 401, "IotHubUnauthorizedAccess");
            nv_expect_error("GET", "/digitaltwins/d" V, NULL, 401, "IotHubUnauthorizedAccess");
        }
    }
    nv_expect("GET", TWIN, NULL, 401);
    /* A token for one device opens that device's twin. */
    nv_make_device("d1", NULL);
    nv_use_token(nv_rig_policy_token(&nv_rig_on, "service", "hub.test/twins/d1"));
    nv_expect("GET", "/twins/d1" V, NULL, 200);
    nv_expect("GET", TWIN, NULL, 401);
}

/* conformance: http-hub.md 15, 39 */
static void paths(void **state)
{
    (void)state;
    static const char *const same[] = {"/Twins/d" V, "/TWINS/d/" V, "//twins/d" V, "/twins/%64" V};
    for (size_t i = 0; i < NV_COUNT_OF(same); i++) {
        nv_expect("GET", same[i], NULL, 200);
    }
    static const char *const odd[] = {"a%25b", "a%23b", "a'b", "a*b", "A-z%3A.%2B_%3F!(),=%40%3B%24'"};
    static const char *const ids[] = {"a%b", "a#b", "a'b", "a*b", "A-z:.+_?!(),=@;$'"};
    for (size_t i = 0; i < NV_COUNT_OF(odd); i++) {
        char target[200];
        nv_make_device(odd[i], NULL);
        (void)snprintf(target, sizeof(target), "/twins/%s" V, odd[i]);
        nv_expect("PATCH", target, "{\"tags\":{\"x\":1}}", 200);
        assert_string_equal(nv_said_at("deviceId"), ids[i]);
    }
}

static void twins_of_modules(void **state)
{
    (void)state;
    nv_make_module("d", "m");
    nv_use_policy("service");
    nv_expect("GET", "/twins/d/modules/m" V, NULL, 200);
    assert_string_equal(nv_said_at("deviceId"), "d");
    assert_string_equal(nv_said_at("moduleId"), "m");
    nv_expect("PATCH", "/Twins/d/Modules/m/" V, "{\"tags\":{\"x\":1},\"properties\":{\"desired\":{\"y\":1}}}", 200);
    assert_numbers("AAAAAAAAAAI=", "3", "2");
    nv_use_if_match("\"AAAAAAAAAAE=\"");
    nv_expect_error("PUT", "/twins/d/modules/m" V, "{}", 412, "PreconditionFailed");
    nv_expect("GET", TWIN, NULL, 200);
    assert_numbers("AAAAAAAAAAE=", "2", "1"); /* its own */
    nv_make_device("edge", "{\"capabilities\":{\"iotEdge\":true}}");
    nv_expect("PATCH", "/twins/edge/modules/$edgeAgent" V, "{\"properties\":{\"desired\":{\"z\":1}}}", 200);
    assert_string_equal(nv_said_at("moduleId"), "$edgeAgent");
    nv_use_if_match("*");
    nv_expect("DELETE", "/devices/d/modules/m" V, NULL, 204);
    nv_expect_error("GET", "/twins/d/modules/m" V, NULL, 404, "DeviceNotFound");
    /* Made again, it is a new twin. */
    nv_make_module("d", "m");
    nv_expect("GET", "/twins/d/modules/m" V, NULL, 200);
    assert_numbers("AAAAAAAAAAE=", "2", "1");
    assert_string_equal(nv_said_at("tags"), "(null)");
}

/** What a service writes reaches a connected device after it is stored, as the patch or as the whole. */
static void changes_reach_the_device(void **state)
{
    (void)state;
    static nv_rig_device device;
    nv_rig_device_come(&device, &nv_rig_on, "d", NULL, NV_WANTS_DESIRED);
    nv_expect("PATCH", TWIN, "{\"properties\":{\"desired\":{\"a\":1.0,\"b\":{\"c\":1}}}}", 200);
    nv_rig_device_wait_desired(&device);
    assert_string_equal(device.body, "{\"a\":1.0,\"b\":{\"c\":1}}");
    assert_int_equal(device.version, 2);
    nv_expect("PATCH", TWIN, "{\"properties\":{\"desired\":{\"b\":{\"c\":null}}}}", 200);
    nv_rig_device_wait_desired(&device);
    assert_string_equal(device.body, "{\"b\":{\"c\":null}}");
    nv_expect("PATCH", TWIN, "{\"tags\":{\"a\":1}}", 200); /* no business of the device */
    nv_expect("PUT", TWIN, "{\"properties\":{\"desired\":{\"z\":[1]}}}", 200);
    nv_rig_device_wait_desired(&device);
    assert_string_equal(device.body, "{\"z\":[1]}");
    assert_int_equal(device.version, 4);
    assert_int_equal(device.desired, 3);
    nv_expect("GET", TWIN, NULL, 200);
    assert_string_equal(nv_said_at("connectionState"), "Connected");
    nv_rig_device_leave(&device);
}

/** What changed while nobody was there is the device's to read; only later changes are told. */
/* conformance: semantics.md 12 */
static void nothing_is_replayed(void **state)
{
    (void)state;
    static nv_rig_device device;
    nv_rig_device_come(&device, &nv_rig_on, "d", NULL, NV_WANTS_DESIRED);
    nv_rig_device_leave(&device);
    nv_expect("PATCH", TWIN, "{\"properties\":{\"desired\":{\"missed\":1}}}", 200);
    nv_rig_device_come(&device, &nv_rig_on, "d", NULL, NV_WANTS_DESIRED);
    assert_int_equal(device.desired, 0);
    nv_expect("PATCH", TWIN, "{\"properties\":{\"desired\":{\"heard\":1}}}", 200);
    nv_rig_device_wait_desired(&device);
    assert_string_equal(device.body, "{\"heard\":1}");
    assert_int_equal(device.version, 3);
    assert_int_equal(device.desired, 1);
    nv_rig_device_leave(&device);
}

#define T(name) cmocka_unit_test_setup_teardown(name, nv_rig_setup_device, nv_rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(numbers_of_a_new_twin),
        T(the_whole_document_comes_back),
        T(nulls_arrays_and_objects),
        T(limits),
        T(preconditions),
        T(identity_and_twin_have_their_own_etags),
        T(errors),
        T(rights),
        T(paths),
        T(twins_of_modules),
        T(changes_reach_the_device),
        T(nothing_is_replayed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
