/* Events of the hub itself, from the change to the log (semantics.md section 4), on a clock that the test moves. */
#include "support/events_rig.h"

#include "base/diag.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define START_US EVENTS_RIG_START_US
#define S(text)  nv_span_str(text)

/* ---- lifecycle -----------------------------------------------------------------------------------------------------
 */

#define NEW_TWIN(ids)                                                                                                  \
    "{" ids ",\"etag\":\"AAAAAAAAAAE=\",\"version\":2,\"properties\":{\"desired\":{\"$metadata\":{\"$lastUpdated\":"   \
    "\"2024-05-01T10:20:30.0000000Z\"},\"$version\":1},\"reported\":{\"$metadata\":{\"$lastUpdated\":"                 \
    "\"2024-05-01T10:20:30.0000000Z\"},\"$version\":1}}}"

/* conformance: semantics.md 42, 45 */
static void test_lifecycle(void **state)
{
    (void)state;
    events_rig *w = events_rig_new(&events_rig_all, false);
    nv_identity *d = events_rig_ask(w, NV_REGISTRY_PUT, "d", "", false);
    events_rig_expect_count(w, 1);
    events_rig_expect_row(w, 0, NV_SOURCE_LIFECYCLE, "d", "createDeviceIdentity");
    char correlation[128];
    assert_int_equal(strlen(events_rig_property(&w->rows[0], "correlation-id", correlation)), 32);
    char want[512];
    (void)snprintf(want, sizeof(want),
                   "content-type=application/json content-encoding=utf-8 correlation-id=%s user-id=myhub hubName=myhub "
                   "deviceId=d operationTimestamp=2024-05-01T10:20:30.0000000Z "
                   "iothub-message-schema=deviceLifecycleNotification opType=createDeviceIdentity ",
                   correlation);
    assert_string_equal(w->rows[0].properties, want);
    assert_true(nv_span_eq_str(d->generation_id, w->rows[0].generation));
    assert_string_equal(w->rows[0].body, NEW_TWIN("\"deviceId\":\"d\""));
    nv_identity_unref(d);
    events_rig_create(w, "d", "m");
    events_rig_expect_count(w, 2);
    events_rig_expect_row(w, 1, NV_SOURCE_LIFECYCLE, "d/m", "createDeviceIdentity");
    char got[128];
    assert_string_equal(events_rig_property(&w->rows[1], "moduleId", got), "m");
    assert_string_equal(w->rows[1].body, NEW_TWIN("\"deviceId\":\"d\",\"moduleId\":\"m\""));
    nv_identity_unref(events_rig_ask(w, NV_REGISTRY_UPSERT, "d", "", false)); /* an update is no event */
    nv_identity_unref(events_rig_ask(w, NV_REGISTRY_UPSERT, "d", "", true));  /* but its role brings two modules */
    events_rig_expect_count(w, 4);
    events_rig_expect_row(w, 2, NV_SOURCE_LIFECYCLE, "d/$edgeAgent", "createDeviceIdentity");
    events_rig_expect_row(w, 3, NV_SOURCE_LIFECYCLE, "d/$edgeHub", "createDeviceIdentity");
    nv_identity_unref(events_rig_ask(w, NV_REGISTRY_UPSERT, "d", "", false));
    events_rig_expect_count(w, 6);
    events_rig_expect_row(w, 5, NV_SOURCE_LIFECYCLE, "d/$edgeHub", "deleteDeviceIdentity");
    (void)events_rig_ask(w, NV_REGISTRY_DELETE, "d", "", false);
    events_rig_expect_count(w, 8); /* the module first: its device is there as long as it is */
    events_rig_expect_row(w, 6, NV_SOURCE_LIFECYCLE, "d/m", "deleteDeviceIdentity");
    events_rig_expect_row(w, 7, NV_SOURCE_LIFECYCLE, "d", "deleteDeviceIdentity");
    events_rig_free(w);
}

/* ---- twins --------------------------------------------------------------------------------------------------------
 */

/* conformance: semantics.md 42, 45, 46 */
static void test_twin_changes(void **state)
{
    (void)state;
    nv_events_config events = {.twin_change = true};
    events_rig *w = events_rig_new(&events, false);
    events_rig_create(w, "d", "");
    events_rig_create(w, "d", "m");
    events_rig_change_twin(w, NV_TWIN_PATCH, "d", "",
                           "{\"tags\":{\"a\":1},\"properties\":{\"desired\":{\"b\":2,\"c\":null}}}");
    events_rig_change_twin(w, NV_TWIN_REPORTED, "d", "m", "{\"r\":1.50}");
    events_rig_change_twin(w, NV_TWIN_REPLACE, "d", "", "{\"tags\":{\"z\":true},\"properties\":{\"desired\":{}}}");
    events_rig_expect_count(w, 3);
    char got[128];
    events_rig_expect_row(w, 0, NV_SOURCE_TWIN_CHANGE, "d", "updateTwin");
    assert_string_equal(events_rig_property(&w->rows[0], "iothub-message-schema", got), "twinChangeNotification");
    assert_non_null(strstr(w->rows[0].body, "\"tags\":{\"a\":1}"));
    assert_non_null(strstr(w->rows[0].body, "\"b\":2"));
    assert_null(strstr(w->rows[0].body, "\"reported\""));
    events_rig_expect_row(w, 1, NV_SOURCE_TWIN_CHANGE, "d/m", "updateTwin");
    assert_string_equal(events_rig_property(&w->rows[1], "moduleId", got), "m");
    assert_non_null(strstr(w->rows[1].body, "\"r\":1.50"));
    assert_null(strstr(w->rows[1].body, "\"desired\""));
    events_rig_expect_row(w, 2, NV_SOURCE_TWIN_CHANGE, "d", "replaceTwin");
    assert_non_null(strstr(w->rows[2].body, "\"deviceId\":\"d\""));
    assert_non_null(strstr(w->rows[2].body, "\"tags\":{\"z\":true}"));
    assert_non_null(strstr(w->rows[2].body, "\"desired\""));
    assert_non_null(strstr(w->rows[2].body, "\"reported\""));
    events_rig_free(w);
}

/* Devices that announced a model raise them, under another content type and form of time. Bodies: twin_test. */
static void test_digital_twin_changes(void **state)
{
    (void)state;
    nv_events_config events = {.digital_twin_change = true};
    events_rig *w = events_rig_new(&events, false);
    events_rig_create(w, "d", "");
    events_rig_create(w, "plain", "");
    nv_identity *d = events_rig_ask(w, NV_REGISTRY_GET, "d", "", false);
    nv_twin_announce_model(&w->on.hub->loops[0], d, S("dtmi:com:example:Pump;1"));
    events_rig_change_twin(w, NV_TWIN_REPORTED, "plain", "", "{\"temperature\":1}"); /* it announced none */
    events_rig_change_twin(w, NV_TWIN_PATCH, "d", "", "{\"tags\":{\"a\":1}}");       /* tags are no part of it */
    events_rig_change_twin(w, NV_TWIN_REPORTED, "d", "", "{\"temperature\":21.50}");
    events_rig_expect_count(w, 1);
    char got[128];
    events_rig_expect_row(w, 0, NV_SOURCE_DIGITAL_TWIN_CHANGE, "d", "updateTwin");
    assert_string_equal(events_rig_property(&w->rows[0], "iothub-message-schema", got),
                        "digitalTwinChangeNotification");
    assert_string_equal(events_rig_property(&w->rows[0], "content-type", got), "application/json-patch+json");
    assert_string_equal(events_rig_property(&w->rows[0], "operationTimestamp", got),
                        "2024-05-01T10:20:30.0000000+00:00");
    assert_non_null(strstr(w->rows[0].body, "{\"op\":\"add\",\"path\":\"/temperature\",\"value\":21.50}"));
    nv_identity_unref(d);
    events_rig_free(w);
}

/* ---- connections ---------------------------------------------------------------------------------------------------
 */

/* The numbers of the events of @p who, which only grow. */
static void expect_growing(events_rig *w, const char *who)
{
    char last[65] = "";
    for (size_t i = 0; i < w->count; i++) {
        char number[65];
        if (strcmp(w->rows[i].who, who) == 0 && w->rows[i].source == NV_SOURCE_CONNECTION_STATE) {
            assert_int_equal(sscanf(w->rows[i].body, "{\"sequenceNumber\":\"%64[0-9A-F]\"}", number), 1);
            assert_int_equal(strlen(number), 64);
            assert_true(strcmp(number, last) > 0);
            memcpy(last, number, sizeof(last));
        }
    }
}

/* conformance: semantics.md 42, 43, 44, 45 */
static void test_connections(void **state)
{
    (void)state;
    nv_events_config events = {.connection_state = true};
    events_rig *w = events_rig_new(&events, false);
    events_rig_create(w, "d", "");
    events_rig_create(w, "d", "m");
    events_peer p;
    events_peer m;
    events_rig_connect(w, &p, "d", ""); /* bare: raises nothing, then nothing ends */
    assert_true(nv_presence_now(w->on.hub, S("d"), NV_SPAN_EMPTY).connected);
    events_rig_leave(&p);
    events_rig_connect(w, &p, "d", "");
    events_rig_connect(w, &m, "d", "m");
    events_rig_operate(&p);
    events_rig_expect_count(w, 1);
    events_rig_expect_row(w, 0, NV_SOURCE_CONNECTION_STATE, "d", "deviceConnected");
    char got[128];
    assert_string_equal(events_rig_property(&w->rows[0], "iothub-message-schema", got),
                        "deviceConnectionStateNotification");
    events_rig_operate(&p); /* once is enough */
    events_rig_operate(&m);
    events_rig_leave(&p);
    events_rig_leave(&m);
    events_rig_expect_count(w, 4);
    expect_growing(w, "d");
    expect_growing(w, "d/m");
    for (size_t i = 0; i < 4; i++) {
        bool module = strcmp(w->rows[i].who, "d/m") == 0;
        assert_string_equal(events_rig_property(&w->rows[i], "moduleId", got), module ? "m" : "");
    }
    for (int i = 0; i < 10; i++) { /* at once, in turns, however quick */
        events_rig_connect(w, &p, "d", "");
        events_rig_operate(&p);
        events_rig_leave(&p);
    }
    events_rig_expect_count(w, 24);
    for (size_t i = 4; i < 24; i++) {
        events_rig_expect_row(w, i, NV_SOURCE_CONNECTION_STATE, "d",
                              i % 2 == 0 ? "deviceConnected" : "deviceDisconnected");
    }
    expect_growing(w, "d");
    events_rig_free(w);
}

/* A killed hub could not tell that the connection went: the next one does, once. The wall clock went back meanwhile. */
static void test_killed_hub(void **state)
{
    (void)state;
    nv_events_config events = {.connection_state = true};
    events_rig *w = events_rig_new(&events, false);
    events_rig_create(w, "d", "");
    events_rig_create(w, "e", "");
    events_peer d;
    events_peer e;
    events_rig_connect(w, &d, "d", "");
    events_rig_connect(w, &e, "e", "");
    events_rig_operate(&d);
    events_rig_operate(&e);
    events_rig_expect_count(w, 2);
    nv_fault_disk_cut(w->disk); /* what follows is only told to a dead disk */
    events_rig_leave(&d);
    events_rig_leave(&e);
    events_rig_close(w, false);
    atomic_store(&w->on.clock.wall, START_US - 3600 * NV_US_PER_S);
    events_rig_open(w, &events, false);
    events_rig_expect_count(w, 4);
    events_rig_connect(w, &d, "d", "");
    events_rig_operate(&d);
    events_rig_leave(&d);
    events_rig_expect_count(w, 6);
    expect_growing(w, "d");
    expect_growing(w, "e");
    events_rig_close(w, true);
    events_rig_open(w, &events, false); /* nothing is left to tell */
    events_rig_create(w, "f", "");
    events_rig_connect(w, &d, "f", "");
    events_rig_operate(&d);
    events_rig_expect_count(w, 7);
    events_rig_expect_row(w, 6, NV_SOURCE_CONNECTION_STATE, "f", "deviceConnected");
    events_rig_leave(&d);
    events_rig_free(w);
}

/* With the profile azure at most one event per direction in a minute; what differs then is told. */
static void test_sampling(void **state)
{
    (void)state;
    nv_events_config events = {.connection_state = true};
    events_rig *w = events_rig_new(&events, true);
    events_rig_create(w, "d", "");
    events_peer p;
    events_rig_connect(w, &p, "d", "");
    events_rig_operate(&p);
    events_rig_expect_count(w, 1);
    events_rig_leave(&p);
    events_rig_expect_count(w, 2);
    for (int i = 0; i < 5; i++) { /* invisible */
        events_rig_advance(w, NV_US_PER_S);
        events_rig_connect(w, &p, "d", "");
        events_rig_operate(&p);
        events_rig_leave(&p);
    }
    events_rig_advance(w, 10 * NV_US_PER_S);
    events_rig_connect(w, &p, "d", "");
    events_rig_operate(&p);
    events_rig_advance(w, 44 * NV_US_PER_S); /* 59 s after the first connect */
    events_rig_expect_count(w, 2);
    events_rig_advance(w, NV_US_PER_S);
    events_rig_expect_count(w, 3);
    events_rig_expect_row(w, 2, NV_SOURCE_CONNECTION_STATE, "d", "deviceConnected");
    events_rig_leave(&p);
    events_rig_expect_count(w, 4); /* the last disconnect is a minute ago, too */
    events_rig_advance(w, 600 * NV_US_PER_S);
    events_rig_expect_count(w, 4);
    events_rig_connect(w, &p, "d", "");
    events_rig_operate(&p);
    events_rig_leave(&p);
    events_rig_expect_count(w, 6);
    expect_growing(w, "d");
    events_rig_free(w);
}

int main(void)
{
    nv_diag_setup(NV_LEVEL_ERROR + 1, false, 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lifecycle),
        cmocka_unit_test(test_twin_changes),
        cmocka_unit_test(test_digital_twin_changes),
        cmocka_unit_test(test_connections),
        cmocka_unit_test(test_killed_hub),
        cmocka_unit_test(test_sampling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
