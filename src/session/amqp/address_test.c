#include "session/amqp/server_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void check_text(nv_span have, const char *want)
{
    char text[1100];
    assert_true(have.len < sizeof(text));
    (void)snprintf(text, sizeof(text), "%.*s", NV_SPAN_ARG(have));
    assert_string_equal(text, want ? want : "");
}

/* "d=device m=module e=entity g=group p=partition r=rest", what is not empty of it. Static storage. */
static const char *taken_of(const amqp_address *a)
{
    static char text[1200];
    const struct {
        char letter;
        nv_span value;
    } parts[] = {{'d', a->device_id}, {'m', a->module_id}, {'e', a->entity},
                 {'g', a->group},     {'p', a->partition}, {'r', a->rest}};
    size_t n = 0;
    text[0] = '\0';
    for (size_t i = 0; a->node != AMQP_NODE_UNKNOWN && i < NV_COUNT_OF(parts); i++) {
        if (parts[i].value.len > 0) {
            n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%c=%.*s", n > 0 ? " " : "", parts[i].letter,
                                  NV_SPAN_ARG(parts[i].value));
        }
    }
    return text;
}

/* conformance: amqp.md 23 */
static void test_addresses(void **state)
{
    (void)state;
    enum { S = 1, R = 2 }; /* the peer sends, receives */
    static const struct {
        const char *text;
        int roles;
        nv_err err;
        amqp_node node;
        const char *taken;
    } rows[] = {
        /* every form of one path */
        {"/devices/d/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=d"},
        {"devices/d/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=d"},
        {"amqps://host/devices/d/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=d"},
        {"amqps://host:5671/devices/d/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=d"},
        {"amqps://[::1]:5671/devices/d/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=d"},
        {"amqp://host/devices/d/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=d"},
        {"AMQPS://HOST/Devices/d/Messages/EVENTS", S, NV_OK, AMQP_NODE_TELEMETRY, "d=d"},
        {"amqps://d@sas.hub:Shared%20x%2Fy@host/devices/d/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=d"},
        {"sb://host/devices/d/messages/events/", S, NV_OK, AMQP_NODE_TELEMETRY, "d=d"},
        {"//devices/d/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=d"},
        /* ids */
        {"/devices/D1/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=D1"},
        {"/devices/a%23b%3ac/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=a#b:c"},
        {"/devices/a:b@c/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=a:b@c"},
        {"/devices/a%2525b/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=a%25b"},
        {"/devices/a%2Fb/messages/events", S, NV_E_SYNTAX, AMQP_NODE_UNKNOWN, ""},
        {"/devices/a%2/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=a%2"}, /* Node's SDK encodes no ids */
        {"/devices/a%zz%3a%/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=a%zz:%"},
        {"/devices/a%00/messages/events", S, NV_E_SYNTAX, AMQP_NODE_UNKNOWN, ""},
        {"/devices//messages/events", S, NV_E_SYNTAX, AMQP_NODE_UNKNOWN, ""},
        {"/devices/d/modules/a%20b/messages/events", S, NV_E_SYNTAX, AMQP_NODE_UNKNOWN, ""},
        {"/devices/d/modules//messages/events", S, NV_E_SYNTAX, AMQP_NODE_UNKNOWN, ""},
        {"/devices/devices/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=devices"},
        /* nodes of devices */
        {"/devices/d/modules/m/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=d m=m"},
        {"/devices/d/modules/$edgeHub/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=d m=$edgeHub"},
        {"/devices/d/modules/%24edgeHub/messages/events", S, NV_OK, AMQP_NODE_TELEMETRY, "d=d m=$edgeHub"},
        {"/devices/d/modules/m/messages/events", R, NV_OK, AMQP_NODE_MODULE_INPUT, "d=d m=m"},
        {"/devices/d/messages/events", R, NV_E_UNSUPPORTED, AMQP_NODE_UNKNOWN, ""},
        {"/devices/d/messages/devicebound", R, NV_OK, AMQP_NODE_DEVICEBOUND, "d=d"},
        {"/devices/d/messages/deviceBound", R, NV_OK, AMQP_NODE_DEVICEBOUND, "d=d"},
        {"/devices/d/messages/DEVICEBOUND", R, NV_OK, AMQP_NODE_DEVICEBOUND, "d=d"},
        {"/devices/d/messages/devicebound", S, NV_E_UNSUPPORTED, AMQP_NODE_UNKNOWN, ""},
        {"/devices/d/modules/m/messages/devicebound", R, NV_OK, AMQP_NODE_DEVICEBOUND, "d=d m=m"},
        {"/devices/d/twin", S | R, NV_OK, AMQP_NODE_TWIN, "d=d"},
        {"/devices/d/twin/", S | R, NV_OK, AMQP_NODE_TWIN, "d=d"},
        {"/devices/d/modules/m/twin", S | R, NV_OK, AMQP_NODE_TWIN, "d=d m=m"},
        {"/devices/d/methods/devicebound", S | R, NV_OK, AMQP_NODE_METHODS, "d=d"},
        {"/devices/d/modules/m/methods/deviceBound", S | R, NV_OK, AMQP_NODE_METHODS, "d=d m=m"},
        {"/messages/serviceBound/feedback", S, NV_OK, AMQP_NODE_DEVICE_FEEDBACK, ""},
        {"/devices/d", S | R, NV_E_UNSUPPORTED, AMQP_NODE_UNKNOWN, ""},
        {"/devices", S | R, NV_E_UNSUPPORTED, AMQP_NODE_UNKNOWN, ""},
        {"/devices/d/files", S | R, NV_E_UNSUPPORTED, AMQP_NODE_UNKNOWN, ""},
        {"/devices/d/modules/m/messages/events/more", S | R, NV_E_UNSUPPORTED, AMQP_NODE_UNKNOWN, ""},
        {"/devices/d/modules/m/messages/events/more/still", S | R, NV_E_UNSUPPORTED, AMQP_NODE_UNKNOWN, ""},
        /* nodes of services */
        {"$cbs", S | R, NV_OK, AMQP_NODE_CBS, ""},
        {"/$cbs", S | R, NV_OK, AMQP_NODE_CBS, ""},
        {"amqps://host/$cbs", S | R, NV_OK, AMQP_NODE_CBS, ""},
        {"amqps://host:5671/$cbs/", S | R, NV_OK, AMQP_NODE_CBS, ""},
        {"$CBS", S | R, NV_OK, AMQP_NODE_CBS, ""},
        {"/messages/devicebound", S, NV_OK, AMQP_NODE_SERVICE_SEND, ""},
        {"/messages/deviceBound", S, NV_OK, AMQP_NODE_SERVICE_SEND, ""},
        {"/messages/devicebound", R, NV_E_UNSUPPORTED, AMQP_NODE_UNKNOWN, ""},
        {"/messages/serviceBound/feedback", R, NV_OK, AMQP_NODE_FEEDBACK, ""},
        {"/messages/servicebound/feedback", R, NV_OK, AMQP_NODE_FEEDBACK, ""},
        {"/messages/serviceBound/filenotifications", R, NV_OK, AMQP_NODE_FILE_NOTIFICATIONS, ""},
        {"/messages/serviceBound/filenotifications", S, NV_E_UNSUPPORTED, AMQP_NODE_UNKNOWN, ""},
        {"/messages/operationsMonitoringEvents", S | R, NV_E_NOT_FOUND, AMQP_NODE_UNKNOWN, ""}, /* section 4.5 */
        {"/Messages/OperationsMonitoringEvents/ConsumerGroups/x/Partitions/0", R, NV_E_NOT_FOUND, AMQP_NODE_UNKNOWN,
         ""},
        {"/messages", S | R, NV_E_UNSUPPORTED, AMQP_NODE_UNKNOWN, ""},
        /* the redirect: what follows is kept as it stands */
        {"/messages/events", S | R, NV_OK, AMQP_NODE_EVENTS_REDIRECT, ""},
        {"/messages/events/", S | R, NV_OK, AMQP_NODE_EVENTS_REDIRECT, "r=/"},
        {"/messages/events/$management/", S | R, NV_OK, AMQP_NODE_EVENTS_REDIRECT, "r=/$management/"},
        {"Messages/Events", S | R, NV_OK, AMQP_NODE_EVENTS_REDIRECT, ""},
        {"/messages/events/$management", S | R, NV_OK, AMQP_NODE_EVENTS_REDIRECT, "r=/$management"},
        {"amqps://h/messages/events/ConsumerGroups/$Default/Partitions/0", S | R, NV_OK, AMQP_NODE_EVENTS_REDIRECT,
         "r=/ConsumerGroups/$Default/Partitions/0"},
        {"/messages/events/ConsumerGroups/a%20b%", S | R, NV_OK, AMQP_NODE_EVENTS_REDIRECT, "r=/ConsumerGroups/a%20b%"},
        {"/messages/eventsandmore", S | R, NV_E_UNSUPPORTED, AMQP_NODE_UNKNOWN, ""},
        /* the namespace */
        {"$management", S | R, NV_OK, AMQP_NODE_MANAGEMENT, ""},
        {"hub/$management", S | R, NV_OK, AMQP_NODE_MANAGEMENT, "e=hub"},
        {"hub/ConsumerGroups/$Default/Partitions/0", R, NV_OK, AMQP_NODE_EVENTS, "e=hub g=$Default p=0"},
        {"amqps://ns.test:5671/hub/consumergroups/%24default/partitions/12", R, NV_OK, AMQP_NODE_EVENTS,
         "e=hub g=$default p=12"},
        {"hub/ConsumerGroups/g/Partitions/x", R, NV_OK, AMQP_NODE_EVENTS, "e=hub g=g p=x"},
        {"hub/ConsumerGroups/g/Partitions/0", S, NV_E_NOT_FOUND, AMQP_NODE_UNKNOWN, ""},
        {"hub", S, NV_OK, AMQP_NODE_EVENTS_SEND, "e=hub"},
        {"/hub/", S, NV_OK, AMQP_NODE_EVENTS_SEND, "e=hub"},
        {"hub", R, NV_E_NOT_FOUND, AMQP_NODE_UNKNOWN, ""},
        {"hub/Partitions/3", S, NV_OK, AMQP_NODE_EVENTS_SEND, "e=hub p=3"},
        {"hub/Publishers/name", S, NV_OK, AMQP_NODE_EVENTS_SEND, "e=hub"},
        {"hub/ConsumerGroups/g", R, NV_E_NOT_FOUND, AMQP_NODE_UNKNOWN, ""},
        {"$other", S | R, NV_E_NOT_FOUND, AMQP_NODE_UNKNOWN, ""},
        {"amqps://host", S | R, NV_E_NOT_FOUND, AMQP_NODE_UNKNOWN, ""},
        {"", S | R, NV_E_NOT_FOUND, AMQP_NODE_UNKNOWN, ""},
        {"/", S | R, NV_E_NOT_FOUND, AMQP_NODE_UNKNOWN, ""},
        {"a/b/c/d/e/f/g/h", S | R, NV_E_NOT_FOUND, AMQP_NODE_UNKNOWN, ""},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        for (int role = S; role <= R; role++) {
            amqp_address a;
            if (!(rows[i].roles & role)) {
                continue;
            }
            print_message("%s\n", rows[i].text);
            assert_int_equal(amqp_address_parse(nv_span_str(rows[i].text), role == S, &a), rows[i].err);
            assert_int_equal(a.node, rows[i].err == NV_OK ? rows[i].node : AMQP_NODE_UNKNOWN);
            check_text(nv_span_str(taken_of(&a)), rows[i].err == NV_OK ? rows[i].taken : NULL);
        }
    }
}

static void test_address_of_any_length(void **state)
{
    (void)state;
    char text[2000];
    amqp_address a;
    memset(text, 'a', sizeof(text));
    assert_int_equal(amqp_address_parse(nv_span_of(text, 1024), true, &a), NV_OK);
    assert_int_equal(a.entity.len, 1024);
    assert_int_equal(amqp_address_parse(nv_span_of(text, 1025), true, &a), NV_E_TOO_BIG);
    memcpy(text, "/devices/", 9); /* an id has 128 bytes at most */
    memcpy(text + 9 + 128, "/twin", 5);
    assert_int_equal(amqp_address_parse(nv_span_of(text, 9 + 128 + 5), true, &a), NV_OK);
    memcpy(text + 9 + 128, "x/twin", 6);
    assert_int_equal(amqp_address_parse(nv_span_of(text, 9 + 129 + 5), true, &a), NV_E_SYNTAX);
    assert_int_equal(amqp_address_parse(NV_SPAN_EMPTY, true, &a), NV_E_NOT_FOUND);
}

static void test_path_for_logs(void **state)
{
    (void)state;
    static const struct {
        const char *text, *path;
    } rows[] = {
        {"amqps://d@sas.hub:secret@host:5671/devices/d/twin", "devices/d/twin"},
        {"/devices/d/twin/", "devices/d/twin"},
        {"amqps://user:secret@host", ""},
        {"a:b/c", "a:b/c"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        check_text(amqp_address_path(nv_span_str(rows[i].text)), rows[i].path);
    }
}

/* conformance: amqp.md 16 */
static void test_audiences(void **state)
{
    (void)state;
    static const struct {
        const char *text, *audience;
    } rows[] = {
        {"hub.test", "hub.test"},
        {"HUB.Test", "hub.test"},
        {"hub.test:5671", "hub.test"},
        {"amqps://hub.test:5671/", "hub.test"},
        {"sb://hub.test/", "hub.test"},
        {"hub.test%2Fdevices%2Fd1", "hub.test/devices/d1"},
        {"hub.test%2fdevices%2fd1", "hub.test/devices/d1"},
        {"hub.test/devices/D1", "hub.test/devices/D1"},
        {"https://hub.test/devices/d1/", "hub.test/devices/d1"},
        {"sb%3a%2f%2fns.test%2fhub", "ns.test/hub"},
        {"sb://ns.test/hub/ConsumerGroups/$Default/Partitions/0", "ns.test/hub/ConsumerGroups/$Default/Partitions/0"},
        {"amqps://ns.test:5671/hub", "ns.test/hub"},
        {"amqps://user:pw@hub.test:5671/devices/a@b:1", "hub.test/devices/a@b:1"},
        {"hub.test/devices/a%2523b", "hub.test/devices/a%23b"}, /* once */
        {"[::1]:5671/devices/d", "[::1]/devices/d"},
        {"::1/devices/d", "::1/devices/d"},
        {"", ""},
        {"/devices/d", ""},
        {"sb://", ""},
        {"hub.test/%zz", ""},
        {"hub.test/a%00b", ""},
    };
    char out[1024];
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        print_message("%s\n", rows[i].text);
        check_text(nv_span_of(out, amqp_audience(nv_span_str(rows[i].text), out)), rows[i].audience);
    }
    char longest[1025];
    memset(longest, 'a', sizeof(longest));
    assert_int_equal(amqp_audience(nv_span_of(longest, 1024), out), 1024);
    assert_int_equal(amqp_audience(nv_span_of(longest, 1025), out), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_address_of_any_length),
        cmocka_unit_test(test_path_for_logs),
        cmocka_unit_test(test_audiences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
