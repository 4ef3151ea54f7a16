/* Queries on the real stores: what rows they find, what answers look like, pages. */
#include "base/attrs.h"
#include "core/c2d.h"
#include "core/devices.h"
#include "core/registry.h"
#include "support/query_rig.h"

#include <json-c/json.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- the fleet ---------------------------------------------------------------------------------------------- */

static void put_device(real_core *core, nv_identity_spec spec);

static void make_fleet(real_core *core)
{
    put_device(core, (nv_identity_spec){.device_id = nv_span_str("a"), .enabled = true});
    put_device(core, (nv_identity_spec){.device_id = nv_span_str("b"),
                                        .status_reason = nv_span_str("worn out"),
                                        .auth = NV_AUTH_SELF_SIGNED,
                                        .primary_thumbprint = nv_span_str("00112233445566778899aabbccddeeff00112233")});
    put_device(core, (nv_identity_spec){.device_id = nv_span_str("d1"), .enabled = true});
    put_device(core, (nv_identity_spec){.device_id = nv_span_str("e1"), .enabled = true, .iot_edge = true});
    rig_device(core, "d1", "m1");
    rig_device(core, "d1", "m2");
    rig_device(core, "a", "m1");
    rig_patch(core, "a", "",
              "{\"tags\":{\"location\":{\"region\":\"US\",\"floor\":3},\"x\":1,\"list\":[1,{\"k\":\"v\"}],"
              "\"\\u00e9t\\u00e9\":\"sol\\u00e9il\"}}");
    rig_patch(core, "b", "",
              "{\"tags\":{\"location\":{\"region\":\"EU\"}},\"properties\":{\"desired\":{\"t\":21.70}}}");
    rig_patch(core, "d1", "m1", "{\"tags\":{\"location\":{\"region\":\"US\"}}}");
    rig_report(
        core, "a", "",
        "{\"connectivity\":\"wired\",\"n\":5,\"telemetryConfig\":{\"status\":\"Success\"},\"lastDesiredVersion\":1}");
    rig_report(core, "b", "", "{\"connectivity\":\"wifi\",\"n\":7.5,\"telemetryConfig\":{\"status\":\"Pending\"}}");
    rig_report(core, "d1", "",
               "{\"connectivity\":\"cellular\",\"n\":\"many\",\"telemetryConfig\":{\"status\":\"Success\"}}");
}

static void registered(nv_registry_request *request)
{
    *(bool *)request->arg = true;
}

static void put_device(real_core *core, nv_identity_spec spec)
{
    bool done = false;
    nv_registry_request request = {.verb = NV_REGISTRY_PUT, .spec = spec, .done = registered, .arg = &done};
    nv_exec_queue_adopt(&core->queues[0]);
    nv_registry_do(&core->hub->loops[0], &request);
    while (!done) {
        (void)nv_exec_queue_run_wait(&core->queues[0]);
    }
    assert_int_equal(request.error, NV_HUB_ERROR_NONE);
    nv_identity_unref(request.identity);
}

static int setup_fleet(void **state)
{
    real_core *core = real_core_new(NULL, NV_DURABILITY_OS);
    make_fleet(core);
    *state = core;
    return 0;
}

static int teardown(void **state)
{
    real_core_free(*state);
    return 0;
}

static void expect_ids(real_core *core, const char *text, const char *want)
{
    char got[4096];
    char *rows = rig_query(core, text, 0);
    rig_ids(rows, got, sizeof(got));
    if (strcmp(got, want) != 0) {
        fail_msg("%s: got %s, want %s", text, got, want);
    }
    free(rows);
}

static void expect_rows(real_core *core, const char *text, const char *want)
{
    char *rows = rig_query(core, text, 0);
    if (strcmp(rows, want) != 0) {
        fail_msg("%s: got %s, want %s", text, rows, want);
    }
    free(rows);
}

/* ---- what clients send -------------------------------------------------------------------------------------- */

/* conformance: semantics.md 15 */
static void queries_of_clients(void **state)
{
    static const struct {
        const char *text;
        const char *ids;
    } rows[] = {
        {"select * from devices", "a b d1 e1"},
        {"SELECT * FROM devices WHERE tags.location.region = 'US'", "a"},
        {"select * from devices where capabilities.iotEdge = true", "e1"},
        {"SELECT * FROM devices WHERE deviceId IN ['a','b']", "a b"},
        {"select * from devices.modules where devices.deviceId='d1'", "d1/m1 d1/m2"},
        {"SELECT deviceId, deviceScope FROM devices", "a b d1 e1"},
        {"SELECT * FROM devices WHERE properties.reported.connectivity IN ['wired','wifi'] AND is_defined(tags.x)",
         "a"},
        {"SELECT * FROM devices WHERE properties.desired.$version = properties.reported.lastDesiredVersion", "a"},
        {"select deviceId from devices.modules where moduleId = '$edgeAgent'", "e1"},
        {"SELECT deviceId FROM devices", "a b d1 e1"},
        {"SELECT * FROM devices WHERE STARTSWITH(deviceId, 'd') AND status = 'enabled'", "d1"},
    };
    real_core *core = *state;
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        expect_ids(core, rows[i].text, rows[i].ids);
    }
    expect_rows(core, "select deviceId from devices where configurations.[[a.b-c]].status = 'Applied'", "[]");
    expect_rows(core,
                "select deviceId from devices.modules where moduleId = '$edgeAgent' and "
                "configurations.[[cfg]].status = 'Applied'",
                "[]");
    expect_rows(core,
                "SELECT properties.reported.telemetryConfig.status AS status, COUNT() AS numberOfDevices FROM devices\n"
                "  GROUP BY properties.reported.telemetryConfig.status",
                "[{\"numberOfDevices\":1},{\"status\":\"Pending\",\"numberOfDevices\":1},"
                "{\"status\":\"Success\",\"numberOfDevices\":2}]");
    expect_rows(core,
                "SELECT * FROM devices.jobs WHERE devices.jobs.deviceId = 'd1' AND "
                "devices.jobs.jobType = 'scheduleUpdateTwin'",
                "[]");
    expect_rows(core,
                "SELECT * FROM devices.jobs WHERE devices.jobs.status = 'completed' AND "
                "devices.jobs.createdTimeUtc > '2016-09-01'",
                "[]");
}

/* conformance: semantics.md 17, 18 */
static void rows_are_found(void **state)
{
    static const struct {
        const char *where;
        const char *ids;
    } rows[] = {
        {"properties.reported.n > 4", "a b"}, /* neither a string nor what is missing */
        {"properties.reported.n > 5", "b"},
        {"properties.reported.n = 5", "a"},
        {"properties.reported.n != 5", "b d1"},
        {"NOT is_defined(properties.reported.n)", "e1"},
        {"NOT properties.reported.n > 4", "d1"},
        {"is_string(properties.reported.n)", "d1"},
        {"deviceId = 'a'", "a"},
        {"'a' = devices.deviceId", "a"},
        {"deviceId = 'nobody'", ""},
        {"deviceId = 5", ""},
        {"deviceId = 'a' OR deviceId = 'e1' OR deviceId = 'zzz'", "a e1"},
        {"deviceId IN ['e1', 'zzz', 'a', 'a', 5]", "a e1"},
        {"deviceId IN ['e1', 'a'] AND tags.x = 1", "a"},
        {"deviceId NIN ['e1', 'a']", "b d1"},
        {"deviceId > 'a' AND deviceId < 'e'", "b d1"},
        {"startswith(deviceId, 'd1')", "d1"},
        {"startswith(deviceId, 'd') AND tags.x = 1", ""},
        {"starts_with(deviceId, 'a') AND tags.x = 1", "a"},
        {"startswith(deviceId, 'A')", ""},
        {"startswith(deviceId, '')", "a b d1 e1"},
        {"startswith(deviceId, '\xc3\xa9')", ""},
        {"NOT startswith(deviceId, 'd')", "a b e1"},
        {"tags.location.region = 'EU'", "b"},
        {"tags.location.region = 'EU' OR tags.x = 1", "a b"},
        {"tags.location.region != 'EU'", "a"},
        {"tags.x = 1.0", "a"},
        {"tags.x = '1'", ""},
        {"tags.x = 1 AND tags.location.floor = 4", ""},
        {"TAGS.location.region = 'US'", "a"},
        {"tags.Location.region = 'US'", ""},
        {"tags.list[1].k = 'v'", "a"},
        {"tags.\xc3\xa9t\xc3\xa9 = 'sol\xc3\xa9il'", "a"},
        {"tags.location = 'US'", ""},
        {"is_object(tags.location)", "a b"},
        {"properties.desired.t = 21.7", "b"},
        {"properties.desired.$version = 2", "b"},
        {"properties.reported.$version = 2", "a b d1"},
        {"properties.reported.$metadata.$lastUpdated > '2020-01-01'", "a b d1 e1"},
        {"properties.reported.$metadata.n.$lastUpdated > '2020-01-01'", "a b d1"},
        {"properties.desired.$metadata.t.$lastUpdatedVersion = 2", "b"},
        {"status = 'disabled' AND statusReason = 'worn out'", "b"},
        {"authenticationType = 'selfSigned'", "b"},
        {"x509Thumbprint.primaryThumbprint = '00112233445566778899aabbccddeeff00112233'", "b"},
        {"x509Thumbprint.secondaryThumbprint = null", "a b d1 e1"},
        {"connectionState = 'Disconnected'", "a b d1 e1"},
        {"lastActivityTime = '0001-01-01T00:00:00Z'", "a b d1 e1"},
        {"version > 3", "a b"},
        {"etag = 'AAAAAAAAAAI='", "a b"},
        {"cloudToDeviceMessageCount = 0 AND modelId = ''", "a b d1 e1"},
        {"startswith(deviceScope, 'ms-azure-iot-edge://e1-')", "e1"},
        {"nosuch.field = 1", ""},
        {"is_defined(moduleId)", ""},
        {"true", "a b d1 e1"},
        {"false", ""},
    };
    real_core *core = *state;
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char text[512];
        (void)snprintf(text, sizeof(text), "SELECT * FROM devices WHERE %s", rows[i].where);
        expect_ids(core, text, rows[i].ids);
        (void)snprintf(text, sizeof(text), "SELECT deviceId FROM devices WHERE %s", rows[i].where);
        expect_ids(core, text, rows[i].ids);
    }
}

static void modules_are_found(void **state)
{
    static const struct {
        const char *where;
        const char *ids;
    } rows[] = {
        {"true", "a/m1 d1/m1 d1/m2 e1/$edgeAgent e1/$edgeHub"},
        {"moduleId = 'm1'", "a/m1 d1/m1"},
        {"moduleId = 'm1' AND deviceId = 'd1'", "d1/m1"},
        {"moduleId IN ['m1', 'm2'] AND deviceId = 'd1'", "d1/m1 d1/m2"},
        {"moduleId IN ['m2', '$edgeHub']", "d1/m2 e1/$edgeHub"},
        {"deviceId IN ['e1', 'd1']", "d1/m1 d1/m2 e1/$edgeAgent e1/$edgeHub"},
        {"tags.location.region = 'US'", "d1/m1"},
        {"devices.modules.moduleId = 'm2'", "d1/m2"},
        {"is_defined(capabilities)", ""},
        {"moduleId = 'nothing'", ""},
    };
    real_core *core = *state;
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char text[512];
        (void)snprintf(text, sizeof(text), "SELECT * FROM devices.modules WHERE %s", rows[i].where);
        expect_ids(core, text, rows[i].ids);
        (void)snprintf(text, sizeof(text), "SELECT deviceId, moduleId FROM devices.modules WHERE %s", rows[i].where);
        for (uint32_t page = 1; page <= 3; page++) {
            char got[256];
            char *all = rig_query(core, text, page);
            rig_ids(all, got, sizeof(got));
            assert_string_equal(got, rows[i].ids);
            free(all);
        }
    }
}

/* ---- answers ------------------------------------------------------------------------------------------------ */

/* conformance: semantics.md 16 */
static void projections(void **state)
{
    real_core *core = *state;
    static const char *const rows[][2] = {
        {"SELECT DeviceId, TAGS.x FROM devices WHERE deviceid = 'a'", "[{\"deviceId\":\"a\",\"x\":1}]"},
        {"SeLeCt deviceId As Id, STATUS fRoM dEvIcEs wHeRe deviceId In ['b']",
         "[{\"Id\":\"b\",\"status\":\"disabled\"}]"},
        {"SELECT tags.location FROM devices WHERE deviceId = 'a'", "[{\"location\":{\"region\":\"US\",\"floor\":3}}]"},
        {"SELECT tags.location.region FROM devices WHERE deviceId = 'd1'", "[{}]"},
        {"SELECT tags.list[1], tags.list[0] AS first FROM devices WHERE deviceId = 'a'",
         "[{\"list\":{\"k\":\"v\"},\"first\":1}]"},
        {"SELECT properties.desired.t FROM devices WHERE deviceId = 'b'", "[{\"t\":21.70}]"}, /* as written */
        {"SELECT x509Thumbprint, capabilities, statusReason FROM devices WHERE deviceId = 'b'",
         "[{\"x509Thumbprint\":{\"primaryThumbprint\":\"00112233445566778899aabbccddeeff00112233\","
         "\"secondaryThumbprint\":null},\"capabilities\":{\"iotEdge\":false},\"statusReason\":\"worn out\"}]"},
        {"SELECT deviceId, deviceId FROM devices WHERE deviceId = 'b'", "[{\"deviceId\":\"b\"}]"},
        {"SELECT properties.reported.n, properties.reported.$version FROM devices WHERE deviceId = 'a'",
         "[{\"n\":5,\"$version\":2}]"},
        {"SELECT moduleId FROM devices WHERE deviceId = 'a'", "[{}]"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        expect_rows(core, rows[i][0], rows[i][1]);
    }
}

/* The section as a service sees it in the twin. */
static void sections_have_their_metadata(void **state)
{
    real_core *core = *state;
    char *twins = rig_query(core, "SELECT * FROM devices WHERE deviceId = 'b'", 0);
    char *rows = rig_query(core,
                           "SELECT properties, properties.desired, properties.desired.$metadata AS m, tags, etag, "
                           "deviceEtag, version, statusUpdateTime FROM devices WHERE deviceId = 'b'",
                           0);
    struct json_object *twin_tree = json_tokener_parse(twins);
    struct json_object *row_tree = json_tokener_parse(rows);
    struct json_object *twin = json_object_array_get_idx(twin_tree, 0);
    struct json_object *row = json_object_array_get_idx(row_tree, 0);
    struct json_object *properties = json_object_object_get(twin, "properties");
    struct json_object *desired = json_object_object_get(properties, "desired");
    assert_non_null(json_object_object_get(json_object_object_get(desired, "$metadata"), "t"));
    assert_true(json_object_equal(properties, json_object_object_get(row, "properties")));
    assert_true(json_object_equal(desired, json_object_object_get(row, "desired")));
    assert_true(json_object_equal(json_object_object_get(desired, "$metadata"), json_object_object_get(row, "m")));
    static const char *const same[] = {"tags", "etag", "deviceEtag", "version", "statusUpdateTime"};
    for (size_t i = 0; i < NV_COUNT_OF(same); i++) {
        assert_true(json_object_equal(json_object_object_get(twin, same[i]), json_object_object_get(row, same[i])));
    }
    json_object_put(twin_tree);
    json_object_put(row_tree);
    free(twins);
    free(rows);
}

/* conformance: semantics.md 19 */
static void aggregates(void **state)
{
    real_core *core = *state;
    static const char *const rows[][2] = {
        {"SELECT COUNT() FROM devices", "[{\"count\":4}]"},
        {"SELECT COUNT(*) AS n FROM devices.modules", "[{\"n\":5}]"},
        {"SELECT count(tags.location) AS n FROM devices", "[{\"n\":2}]"},
        {"SELECT COUNT() AS n FROM devices WHERE deviceId = 'nobody'", "[{\"n\":0}]"},
        {"SELECT COUNT() AS n, status FROM devices GROUP BY status",
         "[{\"n\":1,\"status\":\"disabled\"},{\"n\":3,\"status\":\"enabled\"}]"},
        {"SELECT COUNT() AS n, DEVICES.Status FROM devices WHERE deviceId = 'nobody' GROUP BY status", "[]"},
        {"SELECT AVG(properties.reported.n) AS a, SUM(properties.reported.n) AS s, MIN(properties.reported.n) AS lo, "
         "MAX(properties.reported.n) AS hi, COUNT(properties.reported.n) AS c FROM devices",
         "[{\"a\":6.25,\"s\":12.5,\"lo\":5,\"hi\":7.5,\"c\":3}]"},
        {"SELECT AVG(tags.none), SUM(tags.none), MIN(tags.none) FROM devices", "[{\"sum\":0}]"},
        {"SELECT tags.location.region FROM devices GROUP BY tags.location.region",
         "[{},{\"region\":\"EU\"},{\"region\":\"US\"}]"},
        {"SELECT TOP 1 COUNT() AS n, deviceId FROM devices WHERE deviceId = 'a' GROUP BY deviceId",
         "[{\"n\":1,\"deviceId\":\"a\"}]"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        expect_rows(core, rows[i][0], rows[i][1]);
    }
    /* pages of groups: each once, whatever the size of a page */
    for (uint32_t page = 1; page <= 4; page++) {
        char *all = rig_query(core, "SELECT deviceId, COUNT() AS n FROM devices GROUP BY deviceId", page);
        struct json_object *tree = json_tokener_parse(all);
        assert_int_equal(json_object_array_length(tree), 4);
        static const char *const ids[] = {"a", "b", "d1", "e1"};
        for (size_t i = 0; i < NV_COUNT_OF(ids); i++) {
            char text[64];
            (void)snprintf(text, sizeof(text), "{\"deviceId\":\"%s\",\"n\":1}", ids[i]);
            const char *at = strstr(all, text);
            assert_non_null(at);
            assert_null(strstr(at + 1, text));
        }
        json_object_put(tree);
        free(all);
    }
    char *top = rig_query(core, "SELECT TOP 3 deviceId, COUNT() AS n FROM devices GROUP BY deviceId", 2);
    struct json_object *tree = json_tokener_parse(top);
    assert_int_equal(json_object_array_length(tree), 3);
    json_object_put(tree);
    free(top);
}

/* conformance: semantics.md 22
 * conformance: http-hub.md 28 */
static void item_types(void **state)
{
    real_core *core = *state;
    static const struct {
        const char *text;
        nv_query_item item;
    } rows[] = {
        {"SELECT * FROM devices", NV_QUERY_TWIN},
        {"SELECT * FROM devices.modules", NV_QUERY_TWIN},
        {"SELECT deviceId FROM devices", NV_QUERY_RAW},
        {"SELECT COUNT() FROM devices", NV_QUERY_RAW},
        {"SELECT * FROM devices.jobs", NV_QUERY_DEVICE_JOB},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        rig_page page = rig_query_page(core, rows[i].text, 0, "");
        assert_int_equal(page.error, NV_HUB_ERROR_NONE);
        assert_int_equal(page.item, rows[i].item);
        rig_page_free(&page);
    }
}

/* ---- refusals ----------------------------------------------------------------------------------------------- */

/* conformance: semantics.md 19, 21, 22 */
static void refusals(void **state)
{
    real_core *core = *state;
    static const char *const rows[][2] = {
        {"", "expected SELECT, found the end of the text, line 1, column 1"},
        {"nonsense", "expected SELECT, found 'nonsense', line 1, column 1"},
        {"SELECT", "expected a property, found the end of the text, line 1, column 7"},
        {"SELECT * FRM devices", "expected FROM, found 'FRM', line 1, column 10"},
        {"SELECT * FROM twins", "expected devices, devices.modules or devices.jobs, found 'twins', line 1, column 15"},
        {"SELECT * FROM devices.all", "expected modules or jobs, found 'all', line 1, column 23"},
        {"SELECT * FROM devices d", "expected WHERE, GROUP BY or the end of the text, found 'd', line 1, column 23"},
        {"SELECT * FROM devices WHERE",
         "expected a property or a constant, found the end of the text, line 1, column 28"},
        {"SELECT *\nFROM devices\nWHERE tags.x = = 1",
         "expected a property or a constant, found '=', line 3, column 16"},
        {"SELECT * FROM devices WHERE tags.x = 1 ORDER BY deviceId",
         "expected an operator, GROUP BY or the end of the text, found 'ORDER', line 1, column 40"},
        {"SELECT TOP x deviceId FROM devices", "expected a whole number behind TOP, found 'x', line 1, column 12"},
        {"SELECT TOP -1 * FROM devices", "expected a whole number behind TOP, found '-', line 1, column 12"},
        {"SELECT deviceId FROM devices GROUP BY", "expected a property, found the end of the text, line 1, column 38"},
        {"SELECT * FROM devices GROUP BY status", "SELECT * cannot be grouped, line 1, column 23"},
        {"SELECT deviceId, COUNT() AS n FROM devices GROUP BY status",
         "'deviceId' is neither an aggregate nor in GROUP BY, line 1, column 8"},
        {"SELECT deviceId, COUNT() FROM devices",
         "'deviceId' is neither an aggregate nor in GROUP BY, line 1, column 8"},
        {"SELECT tags.a.n, tags.b.n FROM devices",
         "two columns would be called 'n', rename one with AS, line 1, column 18"},
        {"SELECT abs(tags.x) FROM devices",
         "expected a property or COUNT, AVG, SUM, MIN, MAX, found 'abs', line 1, column 8"},
        {"SELECT AVG() FROM devices", "expected a property, found ')', line 1, column 12"},
        {"SELECT deviceId AS 'x' FROM devices", "expected a name behind AS, found 'x', line 1, column 20"},
        {"SELECT deviceId FROM devices.jobs", "devices.jobs gives nothing but SELECT *, line 1, column 1"},
        {"SELECT COUNT() FROM devices.jobs", "devices.jobs gives nothing but SELECT *, line 1, column 1"},
        {"SELECT * FROM devices WHERE tags.x", ""},
        {"SELECT * FROM devices WHERE 'x'", "expected a condition, found a string, line 1, column 29"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        rig_page page = rig_query_page(core, rows[i][0], 0, "");
        char want[256];
        (void)snprintf(want, sizeof(want), "%s%s", rows[i][1][0] ? "The query is invalid: " : "", rows[i][1]);
        assert_string_equal(page.detail, want);
        assert_int_equal(page.error, rows[i][1][0] ? NV_HUB_ERROR_ArgumentInvalid : NV_HUB_ERROR_NONE);
        rig_page_free(&page);
    }
    static char text[9000];
    static const char start[] = "SELECT * FROM devices WHERE deviceId = '";
    (void)snprintf(text, sizeof(text), "%s", start);
    memset(text + sizeof(start) - 1, 'x', 8192 - sizeof(start));
    text[8191] = '\'';
    rig_page page = rig_query_page(core, text, 0, ""); /* 8,192 characters */
    assert_int_equal(page.error, NV_HUB_ERROR_NONE);
    rig_page_free(&page);
    text[8191] = ' ';
    text[8192] = '\'';
    page = rig_query_page(core, text, 0, "");
    assert_int_equal(page.error, NV_HUB_ERROR_ArgumentInvalid);
    assert_string_equal(page.detail, "The query is invalid: it has 8193 characters, at most 8192 are possible");
    rig_page_free(&page);
}

static void as_many_as_may_run(void **state)
{
    real_core *core = *state;
    core->hub->limits.queries = 0;
    rig_page page = rig_query_page(core, "SELECT * FROM devices", 0, "");
    assert_int_equal(page.error, NV_HUB_ERROR_ThrottlingException);
    rig_page_free(&page);
    core->hub->limits.queries = 1;
    for (int i = 0; i < 3; i++) { /* refused, failed and good ones give their place back */
        page = rig_query_page(core, i == 1 ? "nonsense" : "SELECT * FROM devices", 0, i == 2 ? "token" : "");
        assert_int_equal(page.error, i == 0 ? NV_HUB_ERROR_NONE : NV_HUB_ERROR_ArgumentInvalid);
        rig_page_free(&page);
    }
    expect_ids(core, "SELECT * FROM devices WHERE deviceId = 'a'", "a");
}

/* ---- live state --------------------------------------------------------------------------------------------- */

static void run_until(real_core *core, const bool *done)
{
    while (!*done) {
        for (size_t i = 0; i < REAL_LOOPS; i++) {
            nv_exec_queue_adopt(&core->queues[i]);
            nv_exec_queue_run(&core->queues[i]);
        }
        (void)sched_yield();
    }
}

static void sent(nv_c2d_send *send)
{
    *(bool *)send->arg = true;
}

static void waiting_messages_are_counted(void **state)
{
    real_core *core = *state;
    for (int i = 0; i < 2; i++) {
        bool done = false;
        nv_c2d_send send = {.device_id = nv_span_str("d1"), .body = nv_span_str("hello"), .done = sent, .arg = &done};
        nv_c2d_send_do(&core->hub->loops[0], &send);
        run_until(core, &done);
        assert_int_equal(send.error, NV_HUB_ERROR_NONE);
    }
    expect_ids(core, "SELECT * FROM devices WHERE cloudToDeviceMessageCount = 2", "d1");
    expect_rows(core, "SELECT cloudToDeviceMessageCount AS n FROM devices WHERE deviceId IN ['a', 'd1']",
                "[{\"n\":0},{\"n\":2}]");
    rig_page page = rig_query_page(core, "SELECT * FROM devices WHERE deviceId = 'd1'", 0, "");
    assert_non_null(strstr(page.rows, "\"cloudToDeviceMessageCount\":2"));
    rig_page_free(&page);
}

typedef struct session {
    nv_claim claim; /* first member: cast back */
    bool granted;
    bool released;
} session;

static void granted(nv_claim *claim)
{
    ((session *)(void *)claim)->granted = true;
}

static void evicted(nv_claim *claim, nv_refusal why)
{
    (void)claim;
    fail_msg("evicted: %d", (int)why);
}

static void released(nv_claim *claim)
{
    ((session *)(void *)claim)->released = true;
}

static void found(nv_registry_find *find)
{
    *(bool *)find->arg = true;
}

static void connections_show_at_once(void **state)
{
    real_core *core = *state;
    bool done = false;
    nv_registry_find find = {.device_id = nv_span_str("d1"), .done = found, .arg = &done};
    if (nv_registry_lookup(&core->hub->loops[0], &find) == NV_E_MORE) {
        run_until(core, &done);
    }
    assert_int_equal(find.status, NV_OK);
    session self = {.claim = {.identity = find.identity, .clean = true, .granted = granted, .evict = evicted}};
    nv_claim_ask(&core->hub->loops[0], &self.claim);
    run_until(core, &self.granted);
    nv_claim_touch(&self.claim, nv_mono_us(core->hub->clock));
    expect_ids(core, "SELECT * FROM devices WHERE connectionState = 'Connected'", "d1");
    expect_ids(core, "SELECT * FROM devices WHERE lastActivityTime > '2020-01-01T00:00:00Z'", "d1");
    rig_page page = rig_query_page(core, "SELECT * FROM devices WHERE deviceId = 'd1'", 0, "");
    assert_non_null(strstr(page.rows, "\"connectionState\":\"Connected\""));
    rig_page_free(&page);
    nv_claim_release(&self.claim, released);
    run_until(core, &self.released);
    expect_ids(core, "SELECT deviceId FROM devices WHERE connectionState = 'Connected'", "");
    expect_ids(core, "SELECT * FROM devices WHERE lastActivityTime > '2020-01-01T00:00:00Z'", "d1");
    nv_identity_unref(find.identity);
}

static void canceled(nv_query_request *request)
{
    *(bool *)request->arg = true;
}

static void a_cancelled_query_still_ends(void **state)
{
    real_core *core = *state;
    bool done = false;
    nv_query_request request = {.text = nv_span_str("SELECT COUNT() FROM devices"), .done = canceled, .arg = &done};
    nv_exec_queue_adopt(&core->queues[0]);
    nv_query_do(&core->hub->loops[0], &request);
    nv_query_cancel(&request);
    assert_false(done);
    while (!done) {
        (void)nv_exec_queue_run_wait(&core->queues[0]);
    }
    nv_query_cancel(&request); /* harmless afterwards */
    nv_buf_deinit(&request.rows);
    nv_buf_deinit(&request.next);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(queries_of_clients, setup_fleet, teardown),
        cmocka_unit_test_setup_teardown(rows_are_found, setup_fleet, teardown),
        cmocka_unit_test_setup_teardown(modules_are_found, setup_fleet, teardown),
        cmocka_unit_test_setup_teardown(projections, setup_fleet, teardown),
        cmocka_unit_test_setup_teardown(sections_have_their_metadata, setup_fleet, teardown),
        cmocka_unit_test_setup_teardown(aggregates, setup_fleet, teardown),
        cmocka_unit_test_setup_teardown(item_types, setup_fleet, teardown),
        cmocka_unit_test_setup_teardown(refusals, setup_fleet, teardown),
        cmocka_unit_test_setup_teardown(as_many_as_may_run, setup_fleet, teardown),
        cmocka_unit_test_setup_teardown(waiting_messages_are_counted, setup_fleet, teardown),
        cmocka_unit_test_setup_teardown(connections_show_at_once, setup_fleet, teardown),
        cmocka_unit_test_setup_teardown(a_cancelled_query_still_ends, setup_fleet, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
