/** Vectors of topics, bags, user names, connection strings, ids and the small encodings. */
#include "codec/bag.h"
#include "codec/base64.h"
#include "codec/connstr.h"
#include "codec/hex.h"
#include "codec/ids.h"
#include "codec/percent.h"
#include "codec/topic.h"
#include "codec/username.h"
#include "codec/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const char *why;

static void assert_span(nv_span actual, const char *expected)
{
    if (!nv_span_eq_str(actual, expected)) {
        fail_msg("expected \"%s\", got \"%.*s\"", expected, NV_SPAN_ARG(actual));
    }
}

/* ---- topics ------------------------------------------------------------------------------------------------ */

static const nv_topic_owner device = {NV_SPAN_LIT("d"), NV_SPAN_LIT("")};
static const nv_topic_owner module = {NV_SPAN_LIT("d"), NV_SPAN_LIT("m")};

static void topics_to_publish_on(void **state)
{
    (void)state;
    static const struct {
        const char *topic;
        const nv_topic_owner *owner;
        nv_err err;
        nv_topic_kind kind;
        const char *part; /* bag or rid */
        int64_t number;   /* version or status */
    } rows[] = {
        {"devices/d/messages/events", &device, NV_OK, NV_TOPIC_TELEMETRY, "", 0},
        {"devices/d/messages/events/", &device, NV_OK, NV_TOPIC_TELEMETRY, "", 0},
        {"devices/d/messages/events/a=b", &device, NV_OK, NV_TOPIC_TELEMETRY, "a=b", 0},
        {"devices/d/messages/events/?a=/x/&b/", &device, NV_OK, NV_TOPIC_TELEMETRY, "?a=/x/&b/", 0},
        {"devices/d/modules/m/messages/events/$.on=o", &module, NV_OK, NV_TOPIC_TELEMETRY, "$.on=o", 0},
        {"devices/d/messages/eventsX", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
        {"devices/d/messages/event", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
        {"devices/d/messages/devicebound/", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
        {"devices/d/", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
        {"Devices/d/messages/events/", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
        {"devices/d", &device, NV_E_UNAUTHORIZED, NV_TOPIC_NONE, "", 0},
        {"devices/D/messages/events/", &device, NV_E_UNAUTHORIZED, NV_TOPIC_NONE, "", 0},
        {"devices/dd/messages/events/", &device, NV_E_UNAUTHORIZED, NV_TOPIC_NONE, "", 0},
        {"devices/e/messages/events/", &device, NV_E_UNAUTHORIZED, NV_TOPIC_NONE, "", 0},
        {"devices//messages/events/", &device, NV_E_UNAUTHORIZED, NV_TOPIC_NONE, "", 0},
        {"devices/d/modules/m/messages/events/", &device, NV_E_UNAUTHORIZED, NV_TOPIC_NONE, "", 0},
        {"devices/d/messages/events/", &module, NV_E_UNAUTHORIZED, NV_TOPIC_NONE, "", 0},
        {"devices/d/modules/n/messages/events/", &module, NV_E_UNAUTHORIZED, NV_TOPIC_NONE, "", 0},
        {"devices/d/modules/mm/messages/events/", &module, NV_E_UNAUTHORIZED, NV_TOPIC_NONE, "", 0},
        {"telemetry", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
        {"", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
        {"/devices/d/messages/events/", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
        {"$iothub/twin/GET/?$rid=1", &device, NV_OK, NV_TOPIC_TWIN_GET, "1", 0},
        {"$iothub/twin/GET?$rid=0", &device, NV_OK, NV_TOPIC_TWIN_GET, "0", 0},
        {"$iothub/twin/GET/?$rid=65535&x=y", &module, NV_OK, NV_TOPIC_TWIN_GET, "65535", 0},
        {"$iothub/twin/GET/?$rid=6f2c0f64-2f4c-4b3e-8d0f-9b1f7f6f8d10", &device, NV_OK, NV_TOPIC_TWIN_GET,
         "6f2c0f64-2f4c-4b3e-8d0f-9b1f7f6f8d10", 0},
        {"$iothub/twin/GET/?$rid=a%20b", &device, NV_OK, NV_TOPIC_TWIN_GET, "a%20b", 0}, /* byte for byte */
        {"$iothub/twin/GET", &device, NV_E_SYNTAX, NV_TOPIC_TWIN_GET, "", 0},
        {"$iothub/twin/GET/", &device, NV_E_SYNTAX, NV_TOPIC_TWIN_GET, "", 0},
        {"$iothub/twin/GET/?", &device, NV_E_SYNTAX, NV_TOPIC_TWIN_GET, "", 0},
        {"$iothub/twin/GET/?$rid=", &device, NV_E_SYNTAX, NV_TOPIC_TWIN_GET, "", 0},
        {"$iothub/twin/GET/?rid=1", &device, NV_E_SYNTAX, NV_TOPIC_TWIN_GET, "", 0},
        {"$iothub/twin/GET/x/?$rid=1", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
        {"$iothub/twin/GETX?$rid=1", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
        {"$iothub/twin/get/?$rid=1", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
        {"$iothub/twin/PATCH/properties/reported/?$rid=7", &device, NV_OK, NV_TOPIC_TWIN_REPORTED, "7", 0},
        {"$iothub/twin/PATCH/properties/reported/?$rid=7&$version=42", &device, NV_OK, NV_TOPIC_TWIN_REPORTED, "7", 42},
        {"$iothub/twin/PATCH/properties/reported?$version=42&$rid=7", &device, NV_OK, NV_TOPIC_TWIN_REPORTED, "7", 42},
        {"$iothub/twin/PATCH/properties/reported/?$rid=7&$version=x", &device, NV_E_SYNTAX, NV_TOPIC_TWIN_REPORTED, "7",
         0},
        {"$iothub/twin/PATCH/properties/desired/?$rid=7", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
        {"$iothub/methods/res/200/?$rid=abc-1", &device, NV_OK, NV_TOPIC_METHOD_RESPONSE, "abc-1", 200},
        {"$iothub/methods/res/-1/?$rid=1", &device, NV_OK, NV_TOPIC_METHOD_RESPONSE, "1", -1},
        {"$iothub/methods/res/2147483648?$rid=1", &device, NV_OK, NV_TOPIC_METHOD_RESPONSE, "1", 2147483648},
        {"$iothub/methods/res/ok/?$rid=1", &device, NV_E_SYNTAX, NV_TOPIC_METHOD_RESPONSE, "", 0},
        {"$iothub/methods/res//?$rid=1", &device, NV_E_SYNTAX, NV_TOPIC_METHOD_RESPONSE, "", 0},
        {"$iothub/methods/res/99999999999999999999/?$rid=1", &device, NV_E_SYNTAX, NV_TOPIC_METHOD_RESPONSE, "", 0},
        {"$iothub/methods/res/200/", &device, NV_E_SYNTAX, NV_TOPIC_METHOD_RESPONSE, "", 200},
        {"$iothub/methods/POST/x/?$rid=1", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
        {"$iothub/credentials/POST/issueCertificate/?$rid=9", &device, NV_OK, NV_TOPIC_CREDENTIALS, "9", 0},
        {"$iothub/", &device, NV_E_NOT_FOUND, NV_TOPIC_NONE, "", 0},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_topic out;
        why = NULL;
        nv_err err = nv_topic_parse(nv_span_str(rows[i].topic), rows[i].owner, &out, &why);
        if (err != rows[i].err || out.kind != rows[i].kind) {
            fail_msg("%s: %s, kind %d", rows[i].topic, nv_err_name(err), (int)out.kind);
        }
        assert_span(out.kind == NV_TOPIC_TELEMETRY ? out.bag : out.rid, rows[i].part);
        assert_true((out.kind == NV_TOPIC_METHOD_RESPONSE ? out.status : (int64_t)out.version) == rows[i].number);
        assert_true((err == NV_OK) == (why == NULL));
    }
}

static void filters_to_subscribe_to(void **state)
{
    (void)state;
    static const struct {
        const char *filter;
        const nv_topic_owner *owner;
        nv_err err;
        nv_filter_kind kind;
    } rows[] = {
        {"devices/d/messages/devicebound/#", &device, NV_OK, NV_FILTER_DEVICEBOUND},
        {"devices/+/messages/devicebound/#", &device, NV_OK, NV_FILTER_DEVICEBOUND},
        {"devices/d/modules/m/messages/devicebound/#", &module, NV_OK, NV_FILTER_MODULE_DEVICEBOUND},
        {"devices/d/modules/m/inputs/#", &module, NV_OK, NV_FILTER_INPUTS},
        {"devices/d/modules/m/#", &module, NV_OK, NV_FILTER_INPUTS},
        {"$iothub/twin/res/#", &device, NV_OK, NV_FILTER_TWIN_RESPONSES},
        {"$iothub/twin/PATCH/properties/desired/#", &module, NV_OK, NV_FILTER_DESIRED},
        {"$iothub/methods/POST/#", &device, NV_OK, NV_FILTER_METHODS},
        {"$iothub/credentials/res/#", &device, NV_OK, NV_FILTER_CREDENTIALS},
        {"#", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"+/#", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"devices/#", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"devices/+/#", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"devices/+/messages/events/#", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"devices/+/messages/devicebound/#", &module, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"devices/d/#", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"devices/d/messages/devicebound/+", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"devices/d/messages/devicebound/", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"devices/d/messages/events/#", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"devices/e/messages/devicebound/#", &device, NV_E_UNAUTHORIZED, NV_FILTER_NONE},
        {"devices/d/messages/devicebound/#", &module, NV_E_UNAUTHORIZED, NV_FILTER_NONE},
        {"devices/d/modules/m/inputs/#", &device, NV_E_UNAUTHORIZED, NV_FILTER_NONE},
        {"devices/d/modules/n/#", &module, NV_E_UNAUTHORIZED, NV_FILTER_NONE},
        {"devices/d/modules/m/inputs/in", &module, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"$iothub/#", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"$iothub/twin/#", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"$iothub/methods/+/#", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"$share/g/devices/d/messages/devicebound/#", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
        {"", &device, NV_E_NOT_FOUND, NV_FILTER_NONE},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_filter_kind kind;
        nv_err err = nv_filter_parse(nv_span_str(rows[i].filter), rows[i].owner, &kind, &why);
        if (err != rows[i].err || kind != rows[i].kind) {
            fail_msg("%s: %s, kind %d", rows[i].filter, nv_err_name(err), (int)kind);
        }
    }
}

static void what_needs_an_api_version(void **state)
{
    (void)state;
    assert_true(nv_topic_needs_api_version(nv_span_str("$iothub/twin/GET/?$rid=1")));
    assert_true(nv_topic_needs_api_version(nv_span_str("$iothub/twin/res/#")));
    assert_true(nv_topic_needs_api_version(nv_span_str("$iothub/methods/whatever")));
    assert_false(nv_topic_needs_api_version(nv_span_str("devices/d/messages/events/")));
    assert_false(nv_topic_needs_api_version(nv_span_str("$iothub/credentials/res/#")));
}

/* ---- the bag ----------------------------------------------------------------------------------------------- */

/** "name=value;name;..." with a bare name for null, for comparison with one string. */
static void describe(const nv_bag_property *properties, size_t count, char *out, size_t size)
{
    nv_writer w = nv_writer_of(out, size - 1);
    for (size_t i = 0; i < count; i++) {
        nv_write_span(&w, nv_span_str(i ? ";" : ""));
        nv_write_span(&w, properties[i].name);
        nv_write_span(&w, nv_span_str(properties[i].has_value ? "=" : ""));
        nv_write_span(&w, properties[i].value);
    }
    assert_int_equal(w.err, NV_OK);
    *w.at = '\0';
}

static void bags_in_every_spelling(void **state)
{
    (void)state;
    static const struct {
        const char *raw;
        const char *expected;
    } rows[] = {
        {"", ""},
        {"?", ""},
        {"/", ""},
        {"&", ""},
        {"?&/&", ""},
        {"a=b", "a=b"},
        {"?a=b", "a=b"},
        {"a=b/", "a=b"},
        {"a=b&", "a=b"},
        {"a=b&/", "a=b"},
        {"a=b/&", "a=b"},
        {"a=b//", "a=b/"},            /* one slash belongs to the topic */
        {"a=/x/y&b=1", "a=/x/y;b=1"}, /* raw slashes are data */
        {"&&a=b&&c=d&&", "a=b;c=d"},
        {"a", "a"}, /* null */
        {"a=", "a="},
        {"=v", "=v"},
        {"a=b=c", "a=b=c"},         /* first = splits */
        {"a=1&b=2&a=3", "a=3;b=2"}, /* last duplicate wins */
        {"a=1&a", "a"},
        {"a=1&%61=2", "a=2"}, /* equal after decoding */
        {"$.ct=application%2Fjson&$.ce=utf-8", "$.ct=application/json;$.ce=utf-8"},
        {"%24.ct=application%2fjson&%24.ce=utf-8", "$.ct=application/json;$.ce=utf-8"},
        {"user=1&%24.mid=x", "user=1;$.mid=x"},
        {"$.ct=text/plain&k=a b:c", "$.ct=text/plain;k=a b:c"}, /* nothing encoded */
        {"k=a+b", "k=a+b"},                                     /* + stays + */
        {"load=50%&x=%zz&y=%4", "load=50%;x=%zz;y=%4"},         /* no escape at all */
        {"k=%E2%82%AC", "k=\xE2\x82\xAC"},
        {"k=%FF", "k=\xFF"}, /* opaque */
        {"??a=1", "?a=1"},   /* one leading ? */
        {"%24.diagctx=creationtimeutc%3D123", "$.diagctx=creationtimeutc=123"},
        {"k=%252F", "k=%2F"}, /* decoded once */
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_span raw = nv_span_str(rows[i].raw);
        uint8_t *scratch = malloc(raw.len + 1);
        assert_non_null(scratch);
        nv_bag_property properties[8];
        size_t count = 0;
        char text[256];
        assert_int_equal(nv_bag_decode(raw, scratch, raw.len, properties, 8, &count), NV_OK);
        describe(properties, count, text, sizeof(text));
        assert_string_equal(text, rows[i].expected);
        free(scratch);
    }
}

/* conformance: mqtt.md 22 */
static void telemetry_topics_with_the_same_properties(void **state)
{
    (void)state;
    static const char *const bags[] = {
        "%24.ct=text%2Fplain&%24.mid=1&k=a%20b%2Fc",  "?%24.ct=text%2Fplain&%24.mid=1&k=a%20b%2Fc",
        "%24.ct=text%2fplain&%24.mid=1&k=a%20b%2fc/", "$.ct=text%2Fplain&$.mid=1&k=a%20b%2Fc",
        "k=a%20b%2Fc&%24.mid=1&%24.ct=text%2Fplain",  "$.ct=text/plain&$.mid=1&k=a b/c",
        "?k=a b/c&$.mid=1&%24.ct=text/plain&/",       "$.mid=0&&$.ct=text/plain&$.mid=1&k=a b/c"};
    static const char *const bare[] = {"", "/", "/?", "//"};
    char text[128];
    uint8_t scratch[128];
    nv_bag_property properties[8];
    nv_topic topic;
    size_t count = 0;
    for (size_t i = 0; i < NV_COUNT_OF(bags); i++) {
        (void)snprintf(text, sizeof(text), "devices/d/messages/events/%s", bags[i]);
        assert_int_equal(nv_topic_parse(nv_span_str(text), &device, &topic, &why), NV_OK);
        assert_int_equal(nv_bag_decode(topic.bag, scratch, sizeof(scratch), properties, 8, &count), NV_OK);
        assert_int_equal(count, 3);
        for (size_t j = 0; j < count; j++) {
            bool ct = nv_span_eq_str(properties[j].name, "$.ct");
            bool mid = nv_span_eq_str(properties[j].name, "$.mid");
            assert_true(ct || mid || nv_span_eq_str(properties[j].name, "k"));
            assert_span(properties[j].value, ct ? "text/plain" : mid ? "1" : "a b/c");
        }
    }
    for (size_t i = 0; i < NV_COUNT_OF(bare); i++) {
        (void)snprintf(text, sizeof(text), "devices/d/messages/events%s", bare[i]);
        assert_int_equal(nv_topic_parse(nv_span_str(text), &device, &topic, &why), NV_OK);
        assert_int_equal(nv_bag_decode(topic.bag, scratch, sizeof(scratch), properties, 8, &count), NV_OK);
        assert_int_equal(count, 0);
    }
}

static void bags_are_bounded(void **state)
{
    (void)state;
    nv_bag_property properties[2];
    uint8_t scratch[2];
    size_t count = 0;
    assert_int_equal(nv_bag_decode(nv_span_str("a&b&c"), scratch, 2, properties, 2, &count), NV_E_LIMIT);
    assert_int_equal(nv_bag_decode(nv_span_str("a&b&a&b&a"), scratch, 2, properties, 2, &count), NV_OK);
    assert_int_equal(count, 2);
    assert_int_equal(nv_bag_decode(nv_span_str("a=%41%42"), scratch, 2, properties, 2, &count), NV_OK);
    assert_int_equal(nv_bag_decode(nv_span_str("a=%41%42%43"), scratch, 2, properties, 2, &count), NV_E_TOO_BIG);
}

static void bag_pairs_stay_encoded(void **state)
{
    (void)state;
    nv_bag bag = nv_bag_of(nv_span_str("?%24.mid=a%20b&null&"));
    nv_bag_pair pair;
    assert_true(nv_bag_next(&bag, &pair));
    assert_span(pair.name, "%24.mid");
    assert_span(pair.value, "a%20b");
    assert_true(pair.has_value);
    assert_true(nv_bag_next(&bag, &pair));
    assert_span(pair.name, "null");
    assert_false(pair.has_value);
    assert_false(nv_bag_next(&bag, &pair));
    assert_false(nv_bag_next(&bag, &pair));
}

static void bags_for_clients(void **state)
{
    (void)state;
    uint8_t out[256];
    nv_writer w = nv_writer_of(out, sizeof(out));
    nv_bag_writer bag = nv_bag_writer_of(&w);
    nv_bag_put(&bag, nv_span_str(""), nv_span_str("without a name"));
    nv_bag_put(&bag, nv_span_str("$.to"), nv_span_str("/devices/d/messages/deviceBound"));
    nv_bag_put(&bag, nv_span_str("$.exp"), nv_span_str("2024-05-01T10:20:30.1234567Z"));
    nv_bag_put_null(&bag, nv_span_str(""));
    nv_bag_put(&bag, nv_span_str("iothub-ack"), nv_span_str("full"));
    nv_bag_put(&bag, nv_span_str("a b"), nv_span_str("1+1=2 & more\xE2\x82\xAC~"));
    nv_bag_put(&bag, nv_span_str("empty"), nv_span_str(""));
    nv_bag_put_null(&bag, nv_span_str("null"));
    assert_int_equal(w.err, NV_OK);
    assert_span(nv_writer_span(&w), "%24.to=%2Fdevices%2Fd%2Fmessages%2FdeviceBound&%24.exp=2024-05-01T10%3A20%3A30."
                                    "1234567Z&iothub-ack=full&a%20b=1%2B1%3D2%20%26%20more%E2%82%AC~&empty=&null");
    nv_writer small = nv_writer_of(out, 10);
    bag = nv_bag_writer_of(&small);
    nv_bag_put(&bag, nv_span_str("$.to"), nv_span_str("/devices"));
    assert_int_equal(small.err, NV_E_TOO_BIG);
}

/* ---- user names -------------------------------------------------------------------------------------------- */

/* conformance: mqtt.md 2 */
static void user_names_of_every_form(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *client_id;
        const char *module;
        const char *api_version;
        const char *client_type;
        const char *model_id;
        bool matches;
    } rows[] = {
        {"h/d", "d", "", "", "", "", true},
        {"h/d/", "d", "", "", "", "", true},
        {"h/d/?api-version=2021-04-12&DeviceClientType=x", "d", "", "2021-04-12", "x", "", true},
        {"h/d/api-version=2016-11-14", "d", "", "2016-11-14", "", "", true},
        {"h/d/api-version=2016-11-14&DeviceClientType=iothubclient%2f1.1", "d", "", "2016-11-14", "iothubclient/1.1",
         "", true},
        {"h/d/?&api-version=V", "d", "", "V", "", "", true},
        {"h/d/&api-version=V", "d", "", "V", "", "", true},
        {"h/d/api-version=2017-06-30/DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003", "d", "",
         "2017-06-30", "Microsoft.Azure.Devices.Client/1.5.1-preview-003", "", true},
        {"h/d/?api-version=2020-09-30&DeviceClientType=a/b c&x=y", "d", "", "2020-09-30", "a/b c", "", true},
        {"h/d/?api-version=2020-09-30&model-id=dtmi%3Acom%3Ax%3B1", "d", "", "2020-09-30", "", "dtmi:com:x;1", true},
        {"h/d/?api-version=2021-04-12&model-id=dtmi:com:x;1&DeviceClientType=py%2F2%28Linux%29", "d", "", "2021-04-12",
         "py/2(Linux)", "dtmi:com:x;1", true},
        {"h/d/?DeviceClientType=x", "d", "", "", "x", "", true},
        {"h/d/DeviceClientType=x", "d", "", "", "x", "", true}, /* no "/" in the client id, so no module */
        {"h/d/?DeviceClientType=a+b", "d", "", "", "a+b", "", true},
        {"h/d/?api-version=1&api-version=2", "d", "", "1", "", "", true}, /* first wins */
        {"h/d/?api-version=", "d", "", "", "", "", true},
        {"h/d/?api-version", "d", "", "", "", "", true},
        {"h/d/?API-VERSION=1", "d", "", "", "", "", true}, /* keys are case-sensitive: unknown, ignored */
        {"h/d/?x=50%&api-version=1", "d", "", "1", "", "", true},
        {"h/d/m/?api-version=2018-06-30", "d/m", "m", "2018-06-30", "", "", true},
        {"h/d/m/api-version=2018-06-30", "d/m", "m", "2018-06-30", "", "", true},
        {"h/d/m", "d/m", "m", "", "", "", true},
        {"h/d/m/", "d/m", "m", "", "", "", true},
        {"h/d/m/DeviceClientType=x", "d/m", "m", "", "x", "", true},
        {"h/d/m=1/?api-version=1", "d/m=1", "m=1", "1", "", "", true},
        {"h/d/$edgeHub/?api-version=2018-06-30", "d/$edgeHub", "$edgeHub", "2018-06-30", "", "", true},
        {"h/d/m/?api-version=1", "d", "m", "1", "", "", false},
        {"h/d/?api-version=1", "d/m", "", "1", "", "", false},
        {"h/d/?api-version=1", "D", "", "1", "", "", false},
        {"h/d/m", "d/mm", "m", "", "", "", false},
        {"h/d/m", "d-m", "m", "", "", "", false},
        {"h/d", "", "", "", "", "", false},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_span text = nv_span_str(rows[i].text);
        uint8_t *scratch = malloc(text.len);
        assert_non_null(scratch);
        nv_username name;
        nv_span client_id = nv_span_str(rows[i].client_id);
        if (nv_username_parse(text, client_id, scratch, text.len, &name, &why) != NV_OK) {
            fail_msg("%s: %s", rows[i].text, why);
        }
        assert_span(name.host, "h");
        assert_span(name.device, "d");
        assert_span(name.module, rows[i].module);
        assert_span(name.api_version, rows[i].api_version);
        assert_span(name.client_type, rows[i].client_type);
        assert_span(name.model_id, rows[i].model_id);
        assert_false(name.has_auth_chain);
        assert_int_equal(nv_username_matches_client_id(&name, client_id), rows[i].matches);
        free(scratch);
    }
}

static void user_names_not_of_this_grammar(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "", "h", "h/", "/d", "//", "h//?api-version=1", "h/d//?api-version=1", "h/d/m/x", "h/d/m/x/?api-version=1"};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_username name;
        uint8_t scratch[64];
        why = NULL;
        nv_err err = nv_username_parse(nv_span_str(rows[i]), nv_span_str("d"), scratch, sizeof(scratch), &name, &why);
        if (err != NV_E_SYNTAX || !why) {
            fail_msg("\"%s\" was taken", rows[i]);
        }
    }
    nv_username name;
    uint8_t scratch[2];
    assert_int_equal(nv_username_parse(nv_span_str("h/d/?model-id=%41%41%41"), nv_span_str("d"), scratch,
                                       sizeof(scratch), &name, &why),
                     NV_E_TOO_BIG);
}

static void user_name_with_auth_chain(void **state)
{
    (void)state;
    nv_username name;
    uint8_t scratch[64];
    assert_int_equal(nv_username_parse(nv_span_str("h:8883/d/?api-version=1&auth-chain=leaf%3Bedge"), nv_span_str("d"),
                                       scratch, sizeof(scratch), &name, &why),
                     NV_OK);
    assert_true(name.has_auth_chain);
    assert_span(name.auth_chain, "leaf;edge");
    assert_span(name.host, "h:8883");
}

/* ---- connection strings ------------------------------------------------------------------------------------- */

#define KEY "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

static void connection_strings(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        nv_err err;
        nv_connstr_kind kind;
        const char *again; /* as written back; NULL: the same */
    } rows[] = {
        {"HostName=h;DeviceId=d;SharedAccessKey=" KEY, NV_OK, NV_CONNSTR_DEVICE, NULL},
        {"HostName=h;DeviceId=d;ModuleId=m;SharedAccessKey=" KEY ";GatewayHostName=g", NV_OK, NV_CONNSTR_MODULE, NULL},
        {"HostName=h;SharedAccessKeyName=iothubowner;SharedAccessKey=" KEY, NV_OK, NV_CONNSTR_SERVICE, NULL},
        {"Endpoint=sb://ns:5671/;SharedAccessKeyName=service;SharedAccessKey=" KEY ";EntityPath=hub", NV_OK,
         NV_CONNSTR_EVENTS, NULL},
        {"HostName=h;DeviceId=d;x509=true", NV_OK, NV_CONNSTR_DEVICE, NULL},
        {"HostName=h;DeviceId=d;x509=True;", NV_OK, NV_CONNSTR_DEVICE, "HostName=h;DeviceId=d;x509=True"},
        {"HostName=h;DeviceId=d;SharedAccessSignature=SharedAccessSignature sr=x&sig=y&se=1", NV_OK, NV_CONNSTR_DEVICE,
         NULL},
        {" hostname = h ; DEVICEID=d\t;Unknown=1;;sharedaccesskey=" KEY "\r\n", NV_OK, NV_CONNSTR_DEVICE,
         "HostName=h;DeviceId=d;SharedAccessKey=" KEY},
        {"HostName=h;DeviceId=a=b;SharedAccessKey=" KEY, NV_OK, NV_CONNSTR_DEVICE, NULL},
        {"", NV_E_SYNTAX, NV_CONNSTR_DEVICE, NULL},
        {"hello", NV_E_SYNTAX, NV_CONNSTR_DEVICE, NULL},
        {"=x", NV_E_SYNTAX, NV_CONNSTR_DEVICE, NULL},
        {"HostName=", NV_E_SYNTAX, NV_CONNSTR_DEVICE, NULL},
        {"HostName=h;HostName=i;DeviceId=d;x509=true", NV_E_SYNTAX, NV_CONNSTR_DEVICE, NULL},
        {"HostName=h;DeviceId=d", NV_E_SYNTAX, NV_CONNSTR_DEVICE, NULL},
        {"DeviceId=d;SharedAccessKey=" KEY, NV_E_SYNTAX, NV_CONNSTR_DEVICE, NULL},
        {"HostName=h;ModuleId=m;SharedAccessKey=" KEY, NV_E_SYNTAX, NV_CONNSTR_DEVICE, NULL},
        {"HostName=h;SharedAccessKey=" KEY, NV_E_SYNTAX, NV_CONNSTR_DEVICE, NULL},
        {"HostName=h;SharedAccessKeyName=n", NV_E_SYNTAX, NV_CONNSTR_DEVICE, NULL},
        {"SharedAccessKeyName=n;SharedAccessKey=" KEY, NV_E_SYNTAX, NV_CONNSTR_DEVICE, NULL},
        {"HostName=h;DeviceId=d;SharedAccessKey=not base64", NV_E_SYNTAX, NV_CONNSTR_DEVICE, NULL},
        {"HostName=h;DeviceId=d;SharedAccessKey=MDEyMzQ1Njc4OWFiY2RlZg", NV_E_SYNTAX, NV_CONNSTR_DEVICE, NULL},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_connstr parts;
        nv_connstr_kind kind;
        why = NULL;
        nv_err err = nv_connstr_parse(nv_span_str(rows[i].text), &parts, &kind, &why);
        if (err != rows[i].err) {
            fail_msg("%s: %s", rows[i].text, why ? why : "taken");
        }
        if (err != NV_OK) {
            assert_non_null(why);
            continue;
        }
        assert_int_equal(kind, rows[i].kind);
        uint8_t out[256];
        nv_writer w = nv_writer_of(out, sizeof(out));
        nv_connstr_write(&parts, &w);
        assert_int_equal(w.err, NV_OK);
        assert_span(nv_writer_span(&w), rows[i].again ? rows[i].again : rows[i].text);
    }
}

static void connection_string_details(void **state)
{
    (void)state;
    nv_connstr parts;
    nv_connstr_kind kind;
    assert_int_equal(nv_connstr_parse(nv_span_str("Endpoint=sb://ns:5671/;SharedAccessKeyName=s;SharedAccessKey=" KEY),
                                      &parts, &kind, &why),
                     NV_OK);
    assert_span(nv_connstr_host(&parts), "ns:5671");
    nv_connstr made = {.host_name = NV_SPAN_LIT("h"), .device_id = NV_SPAN_LIT("a;b"), .x509 = NV_SPAN_LIT("TRUE")};
    assert_true(nv_connstr_is_x509(&made));
    assert_span(nv_connstr_host(&made), "h");
    uint8_t out[64];
    nv_writer w = nv_writer_of(out, sizeof(out));
    nv_connstr_write(&made, &w);
    assert_int_equal(w.err, NV_E_INVALID); /* a ; in a value would make another string of it */
}

/* ---- ids and small encodings --------------------------------------------------------------------------------- */

static void ids(void **state)
{
    (void)state;
    char longest[NV_ID_MAX_BYTES + 1];
    memset(longest, 'a', sizeof(longest));
    assert_true(nv_device_id_valid(nv_span_of(longest, NV_ID_MAX_BYTES)));
    assert_false(nv_device_id_valid(nv_span_of(longest, NV_ID_MAX_BYTES + 1)));
    assert_false(nv_device_id_valid(NV_SPAN_EMPTY));
    assert_true(nv_device_id_valid(nv_span_str("aZ09-:.+%_#*?!(),=@;$'")));
    for (unsigned c = 0; c < 256; c++) {
        uint8_t byte = (uint8_t)c;
        bool ok = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                  (c && strchr("-:.+%_#*?!(),=@;$'", (int)c));
        assert_int_equal(nv_device_id_valid(nv_span_of(&byte, 1)), ok);
        assert_int_equal(nv_module_id_valid(nv_span_of(&byte, 1)), ok);
    }
    assert_true(nv_module_id_valid(nv_span_str("$edgeHub")) && nv_module_id_is_system(nv_span_str("$edgeHub")));
    assert_false(nv_module_id_is_system(nv_span_str("m$")) || nv_module_id_is_system(NV_SPAN_EMPTY));
    assert_true(nv_policy_name_valid(nv_span_str("iothubowner")));
    assert_false(nv_policy_name_valid(nv_span_str("a b")));
    assert_false(nv_policy_name_valid(nv_span_of(longest, NV_POLICY_NAME_MAX_BYTES + 1)));
}

static void base64_vectors(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *bytes;
        bool strict;
        bool unpadded;
    } rows[] = {
        {"", "", true, true},          {"Zg==", "f", true, true},          {"Zm8=", "fo", true, true},
        {"Zm9v", "foo", true, true},   {"Zm9vYmFy", "foobar", true, true}, {"Zg", "f", false, true},
        {"Zg=", "f", false, true},     {"Zm8", "fo", false, true},         {"Zh==", "f", true, true},
        {"Z", NULL, false, false},     {"Z===", NULL, false, false},       {"====", NULL, false, false},
        {"=", NULL, false, false},     {"Zm9v=", NULL, false, false},      {"Zm9v==", NULL, false, false},
        {"Zm8==", NULL, false, false}, {"Z=g=", NULL, false, false},       {"Zg==Zg==", NULL, false, false},
        {"Zm-_", NULL, false, false},  {"Zm 9", NULL, false, false},       {"Zm9v\n", NULL, false, false},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint8_t out[16];
        size_t len = 99;
        nv_span text = nv_span_str(rows[i].text);
        nv_err err = nv_base64_decode(text, out, sizeof(out), &len);
        assert_int_equal(err == NV_OK, rows[i].strict);
        assert_true(err != NV_OK || nv_span_eq_str(nv_span_of(out, len), rows[i].bytes));
        err = nv_base64_decode_unpadded(text, out, sizeof(out), &len);
        assert_int_equal(err == NV_OK, rows[i].unpadded);
        assert_true(err != NV_OK || nv_span_eq_str(nv_span_of(out, len), rows[i].bytes));
    }
    uint8_t bytes[256];
    char text[NV_BASE64_LEN(256)];
    uint8_t back[256];
    for (size_t len = 0; len <= sizeof(bytes); len++) {
        for (size_t i = 0; i < len; i++) {
            bytes[i] = (uint8_t)(i * 167 + len);
        }
        nv_writer w = nv_writer_of(text, sizeof(text));
        nv_base64_encode(nv_span_of(bytes, len), &w);
        assert_int_equal(nv_writer_len(&w), NV_BASE64_LEN(len));
        size_t back_len = 0;
        assert_int_equal(nv_base64_decode(nv_writer_span(&w), back, len, &back_len), NV_OK);
        assert_int_equal(back_len, len);
        assert_true(nv_span_eq(nv_span_of(back, len), nv_span_of(bytes, len)));
        assert_true(len == 0 || nv_base64_decode(nv_writer_span(&w), back, len - 1, &back_len) == NV_E_TOO_BIG);
    }
}

static void percent_vectors(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *lenient;
        bool strict;
    } rows[] = {{"", "", true},        {"a%2Fb", "a/b", true}, {"a%2fb", "a/b", true},
                {"a+b", "a+b", true},  {"%", "%", false},      {"%2", "%2", false},
                {"%2G", "%2G", false}, {"%%41", "%A", false},  {"%25%32%46", "%2F", true}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint8_t out[32];
        nv_writer w = nv_writer_of(out, sizeof(out));
        assert_span(nv_percent_decode_lenient(nv_span_str(rows[i].text), &w), rows[i].lenient);
        w = nv_writer_of(out, sizeof(out));
        nv_err err = nv_percent_decode(nv_span_str(rows[i].text), &w);
        assert_int_equal(err, rows[i].strict ? NV_OK : NV_E_SYNTAX);
        if (err == NV_OK) {
            assert_span(nv_writer_span(&w), rows[i].lenient);
        }
    }
    uint8_t every[256];
    uint8_t encoded[768];
    uint8_t back[256];
    for (unsigned i = 0; i < 256; i++) {
        every[i] = (uint8_t)i;
    }
    nv_writer w = nv_writer_of(encoded, sizeof(encoded));
    nv_percent_encode(nv_span_of(every, 256), &w);
    assert_int_equal(nv_writer_len(&w), 66 + 190 * 3);
    assert_int_equal(nv_percent_encoded_len(nv_span_of(every, 256)), nv_writer_len(&w));
    nv_writer b = nv_writer_of(back, sizeof(back));
    assert_int_equal(nv_percent_decode(nv_writer_span(&w), &b), NV_OK);
    assert_true(nv_span_eq(nv_writer_span(&b), nv_span_of(every, 256)));
}

static void hex_and_utf8(void **state)
{
    (void)state;
    uint8_t out[8];
    nv_writer w = nv_writer_of(out, sizeof(out));
    nv_hex_encode(nv_span_of("\x00\xAB\xFF", 3), &w);
    assert_span(nv_writer_span(&w), "00abff");
    w = nv_writer_of(out, sizeof(out));
    nv_hex_encode_upper(nv_span_of("\xAB", 1), &w);
    assert_span(nv_writer_span(&w), "AB");
    assert_int_equal(nv_hex_decode(nv_span_str("00aBfF"), out, 3), NV_OK);
    assert_memory_equal(out, "\x00\xAB\xFF", 3);
    assert_int_equal(nv_hex_decode(nv_span_str("00a"), out, 1), NV_E_SYNTAX);
    assert_int_equal(nv_hex_decode(nv_span_str("0g"), out, 1), NV_E_SYNTAX);
    assert_int_equal(nv_hex_decode(nv_span_str("00:11"), out, 2), NV_E_SYNTAX);
    static const struct {
        const char *bytes;
        bool valid;
    } rows[] = {{"", true},
                {"\x7F", true},
                {"\xC2\x80", true},
                {"\xDF\xBF", true},
                {"\xE0\xA0\x80", true},
                {"\xED\x9F\xBF", true},
                {"\xEE\x80\x80", true},
                {"\xEF\xBB\xBF", true}, /* a byte order mark is a character [MQTT-1.5.3-3] */
                {"\xEF\xBF\xBF", true},
                {"\xF0\x90\x80\x80", true},
                {"\xF4\x8F\xBF\xBF", true},
                {"\x80", false},
                {"\xBF", false},
                {"\xC0\xAF", false},
                {"\xC1\xBF", false},
                {"\xC2", false},
                {"\xC2\x41", false},
                {"\xE0\x9F\xBF", false},
                {"\xE2\x82", false},
                {"\xED\xA0\x80", false},
                {"\xF0\x8F\xBF\xBF", false},
                {"\xF4\x90\x80\x80", false},
                {"\xF5\x80\x80\x80", false},
                {"\xF0\x90\x80\x41", false},
                {"\xFF", false}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        assert_int_equal(nv_utf8_valid(nv_span_str(rows[i].bytes), false), rows[i].valid);
    }
    assert_false(nv_utf8_valid(nv_span_of("a\0b", 3), false));
    assert_true(nv_utf8_valid(nv_span_of("a\0b", 3), true));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(topics_to_publish_on),
        cmocka_unit_test(filters_to_subscribe_to),
        cmocka_unit_test(what_needs_an_api_version),
        cmocka_unit_test(bags_in_every_spelling),
        cmocka_unit_test(telemetry_topics_with_the_same_properties),
        cmocka_unit_test(bags_are_bounded),
        cmocka_unit_test(bag_pairs_stay_encoded),
        cmocka_unit_test(bags_for_clients),
        cmocka_unit_test(user_names_of_every_form),
        cmocka_unit_test(user_names_not_of_this_grammar),
        cmocka_unit_test(user_name_with_auth_chain),
        cmocka_unit_test(connection_strings),
        cmocka_unit_test(connection_string_details),
        cmocka_unit_test(ids),
        cmocka_unit_test(base64_vectors),
        cmocka_unit_test(percent_vectors),
        cmocka_unit_test(hex_and_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
