/** Who may ask what over REST, and how a request is spelt, by the numbers of http-hub.md's checklist. */
#include "session/http_rig_ask.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define V NV_RIG_V

/* ---- tokens ------------------------------------------------------------------------------------------------- */

/* conformance: http-hub.md 1 */
static void tokens_in_any_order_and_case(void **state)
{
    (void)state;
    nv_use_policy("iothubowner");
    nv_expect("GET", "/devices" V, NULL, 200);
    /* sr=..&sig=..&se=..&skn=..  ->  skn, se, sig, sr, with lower-case escapes in sig */
    char sr[300], sig[300], se[100], skn[100], turned[1024];
    assert_int_equal(
        sscanf(nv_rig_token, "SharedAccessSignature sr=%299[^&]&sig=%299[^&]&se=%99[^&]&skn=%99s", sr, sig, se, skn),
        4);
    for (char *c = sig; (c = strchr(c, '%')) != NULL; c++) {
        c[1] |= 0x20;
        c[2] |= c[2] > '9' ? 0x20 : 0;
    }
    (void)snprintf(turned, sizeof(turned), "SharedAccessSignature SKN=%s&se=%s&Sig=%s&sr=%s", skn, se, sig, sr);
    nv_use_token(turned);
    nv_expect("GET", "/devices" V, NULL, 200);
}

/* conformance: http-hub.md 2 */
static void wrong_tokens(void **state)
{
    (void)state;
    nv_use_policy("iothubowner");
    char good[1024];
    (void)snprintf(good, sizeof(good), "%s", nv_rig_token);
    nv_expect("GET", "/devices" V, NULL, 200);
    nv_manual_clock_advance(&nv_rig_on.clock, 3601 * NV_US_PER_S);
    nv_expect_error("GET", "/devices" V, NULL, 401, "IotHubUnauthorizedAccess");
    assert_non_null(strstr(nv_rig_said.body, "ErrorCode:IotHubUnauthorizedAccess;Unauthorized\""));
    nv_use_policy("iothubowner");
    char *skn = strstr(nv_rig_token, "skn=");
    (void)snprintf(skn, 40, "skn=nobody");
    nv_expect_error("GET", "/devices" V, NULL, 401, "IotHubUnauthorizedAccess");
    nv_use_policy("iothubowner");
    skn = strstr(nv_rig_token, "skn=");
    (void)snprintf(skn, 40, "skn=service"); /* signed by another policy's key */
    nv_expect_error("GET", "/devices" V, NULL, 401, "IotHubUnauthorizedAccess");
    nv_use_token(nv_rig_policy_token(&nv_rig_on, "iothubowner", "other.hub"));
    nv_expect_error("GET", "/devices" V, NULL, 401, "IotHubUnauthorizedAccess");
    nv_use_token("Bearer x");
    nv_expect_error("GET", "/devices" V, NULL, 401, "IotHubUnauthorizedAccess");
    nv_use_token("");
    nv_expect_error("GET", "/devices" V, NULL, 401, "IotHubUnauthorizedAccess");
}

/* conformance: http-hub.md 3 (registry rows; twins come later) */
static void rights_of_policies(void **state)
{
    (void)state;
    static const struct {
        const char *policy;
        bool read;
        bool write;
        bool service;
        bool all;
    } rows[] = {{"iothubowner", true, true, true, true},
                {"service", false, false, true, false},
                {"device", false, false, false, false},
                {"registryRead", true, false, false, false},
                {"registryReadWrite", true, true, false, false}};
    nv_make_device("rights", NULL);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_use_policy(rows[i].policy);
        nv_expect("GET", "/devices/rights" V, NULL, rows[i].read ? 200 : 401);
        nv_expect("GET", "/devices" V, NULL, rows[i].read ? 200 : 401);
        nv_expect("GET", "/statistics/devices" V, NULL, rows[i].read ? 200 : 401);
        nv_use_if_match("*");
        nv_expect("PUT", "/devices/rights" V, "{}", rows[i].write ? 200 : 401);
        nv_expect("POST", "/devices" V, "[]", rows[i].write ? 400 : 401);
        nv_expect("GET", "/nave/v1/hub", NULL, rows[i].service ? 200 : 401);
        nv_expect("GET", "/nave/v1/policies", NULL, rows[i].all ? 200 : 401);
    }
}

/* conformance: http-hub.md 5 */
static void device_keys(void **state)
{
    (void)state;
    nv_make_device("keyed", NULL);
    char key[100];
    (void)snprintf(key, sizeof(key), "%s", nv_said_at("authentication.symmetricKey.primaryKey"));
    nv_make_device("other", NULL);
    nv_use_token(nv_rig_key_token(&nv_rig_on, "hub.test/devices/keyed", key));
    nv_expect_error("GET", "/devices/keyed" V, NULL, 401, "IotHubUnauthorizedAccess");
    nv_expect_error("GET", "/devices/other" V, NULL, 401, "IotHubUnauthorizedAccess");
    nv_expect_error("GET", "/devices" V, NULL, 401, "IotHubUnauthorizedAccess");
    nv_expect("GET", "/nave/v1/events", NULL, 401);
    /* Modules are for edge devices' keys only, and this is none. */
    nv_expect_error("GET", "/devices/keyed/modules" V, NULL, 401, "IotHubUnauthorizedAccess");
    nv_expect_error("PUT", "/devices/other/modules/m" V, "{}", 401, "IotHubUnauthorizedAccess");
}

/* conformance: http-hub.md 4 (the paths of this issue: a token for one device opens that device) */
static void a_token_for_one_device(void **state)
{
    (void)state;
    nv_make_device("d1", NULL);
    nv_make_device("d2", NULL);
    nv_use_token(nv_rig_policy_token(&nv_rig_on, "iothubowner", "hub.test/devices/d1"));
    nv_expect("GET", "/devices/d1" V, NULL, 200);
    nv_expect("GET", "/devices/d2" V, NULL, 401);
    nv_expect("GET", "/devices/d11" V, NULL, 401);
}

/* ---- conventions -------------------------------------------------------------------------------------------- */

/* conformance: http-hub.md 6 */
static void api_versions(void **state)
{
    (void)state;
    static const struct {
        const char *query;
        unsigned status;
    } rows[] = {
        {"?api-version=2021-04-12", 200},
        {"?api-version=2024-03-31", 200},
        {"?api-version=2020-09-30", 200},
        {"?api-version=2020-03-13", 200},
        {"?api-version=2016-11-14", 200},
        {"?api-version=2017-11-08-preview", 200},
        {"?API-Version=2018-08-30-preview", 200},
        {"?top=1&api-version=2020-06-30-preview&x=y", 200},
        {"?api-version=2021%2D04-12", 200},
        {"", 400},
        {"?", 400},
        {"?api-version", 400},
        {"?api-version=", 400},
        {"?api-version=1999-01-01", 400},
        {"?api-version=2021-04-12-beta", 400},
        {"?api-version=2021-04", 400},
    };
    nv_use_policy("iothubowner");
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char target[200];
        (void)snprintf(target, sizeof(target), "/devices%s", rows[i].query);
        if (rows[i].status == 200) {
            nv_expect("GET", target, NULL, 200);
        } else {
            nv_expect_error("GET", target, NULL, 400, "InvalidProtocolVersion");
        }
    }
}

/* conformance: http-hub.md 39 */
static void paths_in_any_case(void **state)
{
    (void)state;
    static const char *const paths[] = {
        "/devices/Case",
        "/Devices/Case",
        "/DEVICES/Case/",
        "//devices/Case",
        "http://hub.test/devices/Case",
        "/devices/%43ase",
        "/devices/Case/modules",
        "/devices/Case/MODULES/",
        "/Statistics/Devices/",
        "/statistics/SERVICE",
        "/devices/",
        "/NAVE/v1/Hub",
        "/nave/v1/devices/Case/Refusals/",
        /* Azure IoT Explorer encodes the whole path */
        "/devices%2FCase",
        "/%2Fdevices%2FCase",
        "/%2fDevices%2f%43ase%2fmodules%2f",
    };
    nv_make_device("Case", NULL);
    for (size_t i = 0; i < NV_COUNT_OF(paths); i++) {
        char target[200];
        (void)snprintf(target, sizeof(target), "%s" V, paths[i]);
        nv_expect("GET", target, NULL, 200);
    }
    nv_expect_error("GET", "/devices/case" V, NULL, 404, "DeviceNotFound"); /* ids keep their case */
    nv_expect("GET", "/devices//modules" V, NULL, 404);
    nv_expect("GET", "/devices%2F%2Fmodules" V, NULL, 404);
    nv_expect("GET", "/devices%252FCase" V, NULL, 404);
    nv_expect("POST", "/Devices/Keys/REGENERATE/" V, "{}", 400);
}

/* conformance: http-hub.md 15 */
static void odd_ids_round_trip(void **state)
{
    (void)state;
    static const struct {
        const char *id;
        const char *path;
    } rows[] = {{"50%", "50%25"}, {"a#b", "a%23b"},     {"it's", "it's"},
                {"x*y", "x%2Ay"}, {"q?(1)", "q%3F(1)"}, {"c:d,e=f@g;h$!+.", "c%3ad,e=f%40g;h$!+."},
                {"keys", "keys"}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char target[200];
        char body[200];
        (void)snprintf(target, sizeof(target), "/devices/%s" V, rows[i].path);
        (void)snprintf(body, sizeof(body), "{\"deviceId\":\"%s\"}", rows[i].id);
        nv_use_policy("iothubowner");
        nv_expect("PUT", target, body, 200);
        assert_string_equal(nv_said_at("deviceId"), rows[i].id);
        nv_expect("GET", target, NULL, 200);
        assert_string_equal(nv_said_at("deviceId"), rows[i].id);
        nv_use_if_match("*");
        nv_expect("DELETE", target, NULL, 204);
    }
    nv_expect_error("PUT", "/devices/a%20b" V, "{}", 400, "ArgumentInvalid");
    nv_expect_error("PUT", "/devices/a%2Fb" V, "{}", 400, "ArgumentInvalid");
    nv_expect_error("PUT", "/devices/a" V, "{\"deviceId\":\"b\"}", 400, "ArgumentInvalid");
}

/* The log of these tests takes nothing: what a device sends is refused, with the reason while there is one. */
static void refusals_of_the_store(void **state)
{
    (void)state;
    char resource[] = "hub.test/devices/sender";
    char key[100];
    nv_use_policy("iothubowner");
    nv_make_device("sender", NULL);
    (void)snprintf(key, sizeof(key), "%s", nv_said_at("authentication.symmetricKey.primaryKey"));
    nv_use_token(nv_rig_key_token(&nv_rig_on, resource, key));
    nv_expect_error("POST", "/devices/sender/messages/events" V, "x", 503, "ServiceUnavailable");
    assert_non_null(strstr(nv_rig_said.body, "ErrorCode:ServiceUnavailable;The hub cannot store now\""));
    nv_rig_log_set_health(nv_rig_on.log, NV_LOG_FULL, "no room: make some");
    nv_expect_error("POST", "/devices/sender/messages/events" V, "x", 503, "ServiceUnavailable");
    assert_non_null(
        strstr(nv_rig_said.body, "ErrorCode:ServiceUnavailable;The hub cannot store now: no room: make some\""));
    nv_rig_log_set_health(nv_rig_on.log, NV_LOG_OK, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_in_any_order_and_case),
        cmocka_unit_test(wrong_tokens),
        cmocka_unit_test(rights_of_policies),
        cmocka_unit_test(device_keys),
        cmocka_unit_test(a_token_for_one_device),
        cmocka_unit_test(api_versions),
        cmocka_unit_test(paths_in_any_case),
        cmocka_unit_test(odd_ids_round_trip),
        cmocka_unit_test(refusals_of_the_store),
    };
    return cmocka_run_group_tests(tests, nv_rig_setup, nv_rig_teardown);
}
