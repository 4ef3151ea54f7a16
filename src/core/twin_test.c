/* Twins through the whole core, on a real state store: documents, versions, conditions, order, events. */
#include "core/twin_rig.h"

#include "base/attrs.h"
#include "core/events.h"
#include "core/twin_index.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* Wall time of the rig, when its devices are created. */
#define T0 "2023-11-14T22:13:20.0000000Z"
/* A second later. */
#define T1 "2023-11-14T22:13:21.0000000Z"

static int setup(void **state)
{
    twin_rig_clear();
    int rc = rig_setup(state);
    rig *w = *state;
    w->hub.loops = &w->loop;
    nv_identity_unref(rig_create(w, "d1", ""));
    return rc;
}

static void a_second_later(rig *w)
{
    nv_manual_clock_advance(&w->clock, NV_US_PER_S);
}

/* The part of a document behind a name, up to its end: enough for comparisons. */
static void assert_holds(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        fail_msg("%s\nis not in\n%s", part, text);
    }
}

static void assert_lacks(const char *text, const char *part)
{
    if (strstr(text, part)) {
        fail_msg("%s\nis in\n%s", part, text);
    }
}

static void assert_service(rig *w, const char *device, const char *module, const char *part)
{
    nv_twin *twin = twin_rig_get(w, device, module);
    assert_non_null(twin);
    char *text = twin_rig_service_text(twin);
    assert_holds(text, part);
    free(text);
    nv_twin_unref(twin);
}

static void assert_device(rig *w, const char *device, const char *want)
{
    nv_twin *twin = twin_rig_get(w, device, "");
    assert_non_null(twin);
    char *text = twin_rig_device_text(twin);
    assert_string_equal(text, want);
    free(text);
    nv_twin_unref(twin);
}

/* version, etag, desired.$version, reported.$version */
static void assert_numbers(rig *w, const char *device, uint64_t version, uint64_t etag, uint64_t desired,
                           uint64_t reported)
{
    nv_twin *twin = twin_rig_get(w, device, "");
    assert_non_null(twin);
    assert_int_equal(twin->version, version);
    assert_int_equal(twin->etag, etag);
    assert_int_equal(twin->desired_version, desired);
    assert_int_equal(twin->reported_version, reported);
    nv_twin_unref(twin);
}

static void succeed(rig *w, nv_twin_verb verb, const char *device, const char *body)
{
    assert_int_equal(twin_rig_do(w, verb, device, body), NV_HUB_ERROR_NONE);
}

/* ---- documents ---- */

/* conformance: semantics.md 1; http-hub.md 21 */
static void a_new_twin(void **state)
{
    rig *w = *state;
    nv_twin *twin = twin_rig_get(w, "d1", "");
    char *text = twin_rig_service_text(twin);
    char etag[40];
    (void)snprintf(etag, sizeof(etag), "%llu", (unsigned long long)twin->identity->etag);
    assert_holds(text, "{\"deviceId\":\"d1\",\"etag\":\"AAAAAAAAAAE=\",\"deviceEtag\":\"");
    assert_holds(text, "\",\"status\":\"enabled\",\"statusUpdateTime\":\"0001-01-01T00:00:00Z\","
                       "\"connectionState\":\"Disconnected\",\"lastActivityTime\":\"" T0
                       "\",\"cloudToDeviceMessageCount\":0,\"authenticationType\":\"sas\","
                       "\"x509Thumbprint\":{\"primaryThumbprint\":null,\"secondaryThumbprint\":null},"
                       "\"modelId\":\"\",\"version\":2,\"properties\":{"
                       "\"desired\":{\"$metadata\":{\"$lastUpdated\":\"" T0 "\"},\"$version\":1},"
                       "\"reported\":{\"$metadata\":{\"$lastUpdated\":\"" T0 "\"},\"$version\":1}},"
                       "\"capabilities\":{\"iotEdge\":false}}");
    free(text);
    nv_twin_unref(twin);
    assert_device(w, "d1", "{\"desired\":{\"$version\":1},\"reported\":{\"$version\":1}}");
    assert_numbers(w, "d1", 2, 1, 1, 1);
}

/* conformance: semantics.md 2, 3; http-hub.md 21 */
static void versions_count_what_they_should(void **state)
{
    rig *w = *state;
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"a\":1},\"properties\":{\"desired\":{\"b\":2}}}");
    assert_numbers(w, "d1", 3, 2, 2, 1);
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"a\":2}}");
    assert_numbers(w, "d1", 4, 3, 2, 1);
    succeed(w, NV_TWIN_REPORTED, "d1", "{\"c\":1}");
    assert_numbers(w, "d1", 5, 3, 2, 2);
    succeed(w, NV_TWIN_PATCH, "d1", "{\"properties\":{\"desired\":{\"b\":2}}}"); /* changes nothing, counts */
    assert_numbers(w, "d1", 6, 4, 3, 2);
    succeed(w, NV_TWIN_REPORTED, "d1", "{}");
    assert_numbers(w, "d1", 7, 4, 3, 3);
    succeed(w, NV_TWIN_PATCH, "d1", "{}");
    assert_numbers(w, "d1", 8, 5, 3, 3);
    succeed(w, NV_TWIN_REPLACE, "d1", "{\"tags\":{\"z\":1}}");
    assert_numbers(w, "d1", 9, 6, 4, 3);
    assert_service(w, "d1", "", "\"etag\":\"AAAAAAAAAAY=\"");
}

/* conformance: semantics.md 13 */
static void documents_carry_metadata(void **state)
{
    rig *w = *state;
    succeed(w, NV_TWIN_PATCH, "d1", "{\"properties\":{\"desired\":{\"o\":{\"x\":1},\"p\":[1]}}}");
    a_second_later(w);
    succeed(w, NV_TWIN_PATCH, "d1", "{\"properties\":{\"desired\":{\"o\":{\"y\":1.50}}}}");
    succeed(w, NV_TWIN_REPORTED, "d1", "{\"r\":{\"s\":\"t\"}}");
    assert_service(w, "d1", "",
                   "\"desired\":{\"o\":{\"x\":1,\"y\":1.50},\"p\":[1],\"$metadata\":{"
                   "\"$lastUpdated\":\"" T1 "\",\"$lastUpdatedVersion\":3,\"o\":{\"$lastUpdated\":\"" T1
                   "\",\"$lastUpdatedVersion\":3,\"x\":{\"$lastUpdated\":\"" T0
                   "\",\"$lastUpdatedVersion\":2},\"y\":{\"$lastUpdated\":\"" T1
                   "\",\"$lastUpdatedVersion\":3}},\"p\":{\"$lastUpdated\":\"" T0
                   "\",\"$lastUpdatedVersion\":2}},\"$version\":3}");
    assert_service(w, "d1", "",
                   "\"reported\":{\"r\":{\"s\":\"t\"},\"$metadata\":{\"$lastUpdated\":\"" T1
                   "\",\"r\":{\"$lastUpdated\":\"" T1 "\",\"s\":{\"$lastUpdated\":\"" T1 "\"}}},\"$version\":2}");
}

/* conformance: semantics.md 10 */
static void the_device_sees_its_properties_only(void **state)
{
    rig *w = *state;
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"secret\":1},\"properties\":{\"desired\":{\"a\":{\"b\":1}}}}");
    succeed(w, NV_TWIN_REPORTED, "d1", "{\"c\":21.70}");
    assert_device(w, "d1", "{\"desired\":{\"a\":{\"b\":1},\"$version\":2},\"reported\":{\"c\":21.70,\"$version\":2}}");
}

/* conformance: semantics.md 4, 14; http-hub.md 22, 23 */
static void services_write_tags_and_desired(void **state)
{
    rig *w = *state;
    succeed(w, NV_TWIN_REPORTED, "d1", "{\"r\":1}");
    succeed(w, NV_TWIN_PATCH, "d1",
            "{\"tags\":{\"a\":1,\"b\":2},\"properties\":{\"desired\":{\"x\":{\"y\":1},\"z\":[1,2]}}}");
    succeed(w, NV_TWIN_PATCH, "d1",
            "{\"tags\":{\"a\":null},\"properties\":{\"reported\":{\"r\":2},\"desired\":{\"x\":{\"y\":null},\"z\":[3],"
            "\"absent\":null}}}");
    assert_service(w, "d1", "", "\"tags\":{\"b\":2},");
    assert_device(w, "d1", "{\"desired\":{\"x\":{},\"z\":[3],\"$version\":3},\"reported\":{\"r\":1,\"$version\":2}}");
    /* the whole document comes back with one thing changed */
    nv_twin *twin = twin_rig_get(w, "d1", "");
    char *text = twin_rig_service_text(twin);
    char *z = strstr(text, "\"z\":[3]");
    z[5] = '4';
    succeed(w, NV_TWIN_PATCH, "d1", text);
    assert_device(w, "d1", "{\"desired\":{\"x\":{},\"z\":[4],\"$version\":4},\"reported\":{\"r\":1,\"$version\":2}}");
    free(text);
    nv_twin_unref(twin);
    /* replace means replace */
    succeed(w, NV_TWIN_REPLACE, "d1", "{\"properties\":{\"desired\":{\"n\":1}}}");
    assert_device(w, "d1", "{\"desired\":{\"n\":1,\"$version\":5},\"reported\":{\"r\":1,\"$version\":2}}");
    twin = twin_rig_get(w, "d1", "");
    assert_int_equal(twin->tags.len, 2);
    nv_twin_unref(twin);
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"q\":1}}");
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":null,\"properties\":{\"desired\":null}}");
    assert_device(w, "d1", "{\"desired\":{\"$version\":6},\"reported\":{\"r\":1,\"$version\":2}}");
}

/* conformance: http-hub.md 25 */
static void identity_and_twin_have_their_own_etags(void **state)
{
    rig *w = *state;
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"a\":1}}");
    nv_twin *before = twin_rig_get(w, "d1", "");
    nv_identity_unref(rig_put(w, rig_update(before->identity), NV_HUB_ERROR_NONE));
    nv_twin *after = twin_rig_get(w, "d1", "");
    assert_int_equal(after->identity->etag, before->identity->etag + 1);
    assert_int_equal(after->etag, before->etag);
    assert_int_equal(after->version, before->version);
    nv_twin_unref(before);
    nv_twin_unref(after);
}

static void modules_have_twins_of_their_own(void **state)
{
    rig *w = *state;
    nv_identity_unref(rig_create(w, "d1", "m"));
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"of\":\"device\"}}");
    nv_twin_request request = twin_rig_request(NV_TWIN_PATCH, "d1", "m", "{\"tags\":{\"of\":\"module\"}}");
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_NONE);
    char *text = twin_rig_service_text(request.twin);
    assert_holds(text, "{\"deviceId\":\"d1\",\"moduleId\":\"m\",\"etag\":\"AAAAAAAAAAI=\"");
    assert_holds(text, "\"tags\":{\"of\":\"module\"}");
    assert_lacks(text, "capabilities");
    free(text);
    nv_twin_unref(request.twin);
    assert_service(w, "d1", "", "\"tags\":{\"of\":\"device\"}");
    request = twin_rig_request(NV_TWIN_GET, "d1", "n", "");
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_ModuleNotFound);
    assert_string_equal(request.detail, "d1/n");
    request = twin_rig_request(NV_TWIN_PATCH, "d2", "n", "{}");
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_DeviceNotFound);
    assert_string_equal(request.detail, "d2");
    request = twin_rig_request(NV_TWIN_GET, "d2", "", "");
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_DeviceNotFound);
}

/* Also those that belong to the hub. */
static void edge_modules_have_twins(void **state)
{
    rig *w = *state;
    nv_registry_request edge = rig_request(NV_REGISTRY_PUT, "e", "");
    edge.spec.iot_edge = true;
    nv_identity_unref(rig_put(w, edge, NV_HUB_ERROR_NONE));
    nv_twin_request request = twin_rig_request(NV_TWIN_PATCH, "e", "$edgeAgent",
                                               "{\"properties\":{\"desired\":{\"schemaVersion\":\"1.1\"}}}");
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_NONE);
    nv_twin_unref(request.twin);
    assert_service(w, "e", "$edgeAgent", "\"desired\":{\"schemaVersion\":\"1.1\",");
}

static void models_are_remembered(void **state)
{
    rig *w = *state;
    nv_identity *identity = rig_get(w, "d1", "");
    for (int i = 0; i < 2; i++) {
        nv_twin_announce_model(&w->loop, identity, S("dtmi:com:example:Thermostat;1"));
        succeed(w, NV_TWIN_REPORTED, "d1", "{}"); /* behind it in the same queue */
    }
    assert_service(w, "d1", "", "\"modelId\":\"dtmi:com:example:Thermostat;1\",\"version\":4,");
    nv_twin_announce_model(&w->loop, identity, NV_SPAN_EMPTY);
    nv_identity *gone = nv_identity_ref(identity);
    nv_registry_request request = rig_request(NV_REGISTRY_DELETE, "d1", "");
    request.precondition = NV_IF_ANY;
    assert_int_equal(rig_do(request, w), NV_HUB_ERROR_NONE);
    nv_identity_unref(rig_create(w, "d1", ""));
    nv_twin_announce_model(&w->loop, gone, S("dtmi:of:the:former;1"));
    succeed(w, NV_TWIN_REPORTED, "d1", "{}");
    assert_service(w, "d1", "", "\"modelId\":\"\"");
    nv_identity_unref(gone);
    nv_identity_unref(identity);
}

/* ---- conditions ---- */

/* conformance: semantics.md 9; http-hub.md 24 */
static void if_match(void **state)
{
    rig *w = *state;
    static const struct {
        nv_twin_verb verb;
        nv_precondition precondition;
        uint64_t etag;
        nv_hub_error error;
    } rows[] = {
        {NV_TWIN_PATCH, NV_IF_ETAG, 1, NV_HUB_ERROR_NONE},
        {NV_TWIN_PATCH, NV_IF_ETAG, 1, NV_HUB_ERROR_PreconditionFailed},
        {NV_TWIN_REPLACE, NV_IF_ETAG, 1, NV_HUB_ERROR_PreconditionFailed},
        {NV_TWIN_REPLACE, NV_IF_ETAG, UINT64_MAX, NV_HUB_ERROR_PreconditionFailed},
        {NV_TWIN_PATCH, NV_IF_ETAG, 2, NV_HUB_ERROR_NONE},
        {NV_TWIN_REPLACE, NV_IF_ANY, 0, NV_HUB_ERROR_NONE},
        {NV_TWIN_REPLACE, NV_IF_ETAG, 4, NV_HUB_ERROR_NONE},
        {NV_TWIN_PATCH, NV_IF_NONE, 0, NV_HUB_ERROR_NONE},
    };
    uint64_t etag = 1;
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_twin_request request = twin_rig_request(rows[i].verb, "d1", "", "{\"tags\":{\"a\":1}}");
        request.precondition = rows[i].precondition;
        request.etag = rows[i].etag;
        assert_int_equal(twin_rig_ask(w, &request), rows[i].error);
        etag += rows[i].error == NV_HUB_ERROR_NONE ? 1 : 0;
        assert_int_equal(request.twin ? request.twin->etag : etag, etag);
        nv_twin_unref(request.twin);
    }
    nv_twin *twin = twin_rig_get(w, "d1", "");
    assert_int_equal(twin->etag, etag);
    nv_twin_unref(twin);
}

static void etags_have_the_services_text(void **state)
{
    (void)state;
    static const struct {
        uint64_t etag;
        const char *text;
    } rows[] = {{1, "AAAAAAAAAAE="}, {2, "AAAAAAAAAAI="}, {256, "AAAAAAAAAQA="}, {INT64_MAX, "f/////////8="}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char text[NV_TWIN_ETAG_SIZE];
        uint64_t etag = 0;
        nv_twin_etag_text(rows[i].etag, text);
        assert_string_equal(text, rows[i].text);
        assert_true(nv_twin_etag_parse(S(text), &etag));
        assert_int_equal(etag, rows[i].etag);
    }
    static const char *const bad[] = {"", "*", "AAAAAAAAAAE", "AAAAAAAAAAA", "MQ==", "AAAAAAAAAAEB", "AAAAAAAAAAE=="};
    for (size_t i = 0; i < NV_COUNT_OF(bad); i++) {
        uint64_t etag;
        assert_false(nv_twin_etag_parse(S(bad[i]), &etag));
    }
}

static void reported_versions_as_condition(void **state)
{
    rig *w = *state;
    nv_twin_request request = twin_rig_request(NV_TWIN_REPORTED, "d1", "", "{\"a\":1}");
    request.has_version = true;
    request.version = 1;
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_NONE);
    assert_int_equal(request.reported_version, 2);
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_PreconditionFailed);
    assert_string_equal(request.detail, "The reported properties are at version 2, not 1");
    assert_numbers(w, "d1", 3, 1, 1, 2);
}

static void a_former_identity_changes_nothing(void **state)
{
    rig *w = *state;
    nv_identity *former = rig_get(w, "d1", "");
    uint64_t generation;
    assert_true(nv_span_to_u64(former->generation_id, &generation));
    nv_twin_request request = twin_rig_request(NV_TWIN_REPORTED, "d1", "", "{\"a\":1}");
    request.generation = generation;
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_NONE);
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"t\":1}}");
    nv_registry_request delete = rig_request(NV_REGISTRY_DELETE, "d1", "");
    delete.precondition = NV_IF_ANY;
    assert_int_equal(rig_do(delete, w), NV_HUB_ERROR_NONE);
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_DeviceNotFound);
    nv_identity_unref(rig_create(w, "d1", ""));
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_DeviceNotFound);
    assert_numbers(w, "d1", 2, 1, 1, 1);
    assert_device(w, "d1", "{\"desired\":{\"$version\":1},\"reported\":{\"$version\":1}}");
    request.verb = NV_TWIN_GET;
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_DeviceNotFound);
    nv_identity_unref(former);
}

/* ---- sizes ---- */

/* A section of exactly @p size by the formula, in strings of at most 4,000. The caller deinits. */
static nv_buf sized_section(size_t size, const char *prefix, const char *suffix)
{
    char value[4001];
    nv_buf body;
    nv_buf_init(&body, 1u << 20);
    nv_ignore(nv_buf_printf(&body, "%s{\"o\":{", prefix));
    size_t left = size - 1;
    for (int i = 0; left > 0; i++) {
        size_t chars = left > 4000 ? 4000 : left;
        size_t name = i < 10 ? 2 : 3;
        assert_true(chars >= name);
        memset(value, 'v', chars - name);
        value[chars - name] = '\0';
        nv_ignore(nv_buf_printf(&body, "%s\"k%d\":\"%s\"", i ? "," : "", i, value));
        left -= chars;
    }
    nv_ignore(nv_buf_printf(&body, "}}%s", suffix));
    return body;
}

typedef struct size_row {
    nv_twin_verb verb;
    const char *prefix;
    const char *suffix;
    size_t limit;
    const char *sentence;
} size_row;

static void expect_size(rig *w, const size_row *row, size_t size, nv_hub_error error)
{
    nv_buf body = sized_section(size, row->prefix, row->suffix);
    nv_twin_request request = twin_rig_request(row->verb, "d1", "", "");
    request.body = nv_buf_span(&body);
    assert_int_equal(twin_rig_ask(w, &request), error);
    if (error != NV_HUB_ERROR_NONE) {
        assert_string_equal(request.detail, row->sentence);
    }
    nv_twin_unref(request.twin);
    nv_buf_deinit(&body);
}

/* conformance: semantics.md 8; http-hub.md 24 */
static void sections_at_their_limits(void **state)
{
    rig *w = *state;
    static const size_row rows[] = {
        {NV_TWIN_PATCH, "{\"properties\":{\"desired\":", "}}", 32768,
         "properties.desired: the size is 32769, 1 more than the limit of 32768"},
        {NV_TWIN_REPLACE, "{\"properties\":{\"desired\":", "}}", 32768,
         "properties.desired: the size is 32769, 1 more than the limit of 32768"},
        {NV_TWIN_PATCH, "{\"tags\":", "}", 8192, "tags: the size is 8193, 1 more than the limit of 8192"},
        {NV_TWIN_REPORTED, "", "", 32768, "properties.reported: the size is 32769, 1 more than the limit of 32768"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        expect_size(w, &rows[i], rows[i].limit, NV_HUB_ERROR_NONE);
        nv_twin *before = twin_rig_get(w, "d1", "");
        expect_size(w, &rows[i], rows[i].limit + 1, NV_HUB_ERROR_ArgumentInvalid);
        nv_twin *after = twin_rig_get(w, "d1", "");
        assert_int_equal(after->version, before->version);
        assert_true(nv_span_eq(after->desired, before->desired) && nv_span_eq(after->tags, before->tags) &&
                    nv_span_eq(after->reported, before->reported));
        nv_twin_unref(before);
        nv_twin_unref(after);
    }
    /* what counts is the result: a small patch on a full section */
    assert_int_equal(twin_rig_do(w, NV_TWIN_REPORTED, "d1", "{\"x\":1}"), NV_HUB_ERROR_ArgumentInvalid);
    succeed(w, NV_TWIN_REPORTED, "d1", "{\"o\":{\"k0\":null},\"x\":1}");
}

/* Nothing of a request is done when one part of it is refused. */
static void both_sections_or_none(void **state)
{
    rig *w = *state;
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"a\":1}}");
    nv_buf body = sized_section(32769, "{\"tags\":{\"a\":2},\"properties\":{\"desired\":", "}}");
    nv_twin_request request = twin_rig_request(NV_TWIN_PATCH, "d1", "", "");
    request.body = nv_buf_span(&body);
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_ArgumentInvalid);
    nv_buf_deinit(&body);
    assert_service(w, "d1", "", "\"tags\":{\"a\":1},");
    assert_numbers(w, "d1", 3, 2, 1, 1);
}

static void text_without_size_is_bounded_too(void **state)
{
    rig *w = *state;
    /* Controls cost nothing by the formula: strings of 4,000 of them take 24,000 bytes each. */
    nv_hub_error error = NV_HUB_ERROR_NONE;
    uint64_t accepted = 0;
    nv_buf body;
    nv_buf_init(&body, 1u << 20);
    while (error == NV_HUB_ERROR_NONE && accepted < 80) {
        nv_buf_clear(&body);
        nv_ignore(nv_buf_printf(&body, "{\"k%d\":\"", (int)accepted));
        for (int c = 0; c < 4000; c++) {
            nv_ignore(nv_buf_append_str(&body, "\\u0001"));
        }
        nv_ignore(nv_buf_append_str(&body, "\"}"));
        nv_twin_request request = twin_rig_request(NV_TWIN_REPORTED, "d1", "", "");
        request.body = nv_buf_span(&body);
        error = twin_rig_ask(w, &request);
        accepted += error == NV_HUB_ERROR_NONE ? 1 : 0;
    }
    nv_buf_deinit(&body);
    assert_int_equal(error, NV_HUB_ERROR_ArgumentInvalid);
    assert_int_equal(accepted, 8 * 32768 / 24008);
}

/* ---- order and durability ---- */

typedef struct writer {
    nv_twin_request request;
    int *left;
    bool done;
} writer;

static void writer_done(nv_twin_request *request)
{
    writer *self = request->arg;
    self->done = true;
    (*self->left)--;
}

/* Of two writers with one etag exactly one wins. */
static void two_writers_with_one_etag(void **state)
{
    rig *w = *state;
    writer writers[2];
    int left = 2;
    for (size_t i = 0; i < 2; i++) {
        writers[i] =
            (writer){.request = twin_rig_request(NV_TWIN_PATCH, "d1", "", "{\"tags\":{\"a\":1}}"), .left = &left};
        writers[i].request.precondition = NV_IF_ETAG;
        writers[i].request.etag = 1;
        writers[i].request.done = writer_done;
        writers[i].request.arg = &writers[i];
        nv_twin_do(&w->loop, &writers[i].request);
    }
    while (left > 0) {
        nv_exec_queue_run_wait(&w->queue);
    }
    assert_int_equal(writers[0].request.error, NV_HUB_ERROR_NONE);
    assert_int_equal(writers[1].request.error, NV_HUB_ERROR_PreconditionFailed);
    nv_twin_unref(writers[0].request.twin);
    assert_numbers(w, "d1", 3, 2, 1, 1);
}

/* Many at once build on each other, whatever commit they fall into. */
static void patches_in_flight_build_on_each_other(void **state)
{
    rig *w = *state;
    enum { COUNT = 200 };
    writer *writers = calloc(COUNT, sizeof(*writers));
    char(*bodies)[32] = calloc(COUNT, sizeof(*bodies));
    int left = COUNT;
    for (int i = 0; i < COUNT; i++) {
        (void)snprintf(bodies[i], sizeof(bodies[i]), "{\"k%d\":%d}", i % 10, i);
        writers[i] = (writer){.request = twin_rig_request(NV_TWIN_REPORTED, "d1", "", bodies[i]), .left = &left};
        writers[i].request.done = writer_done;
        writers[i].request.arg = &writers[i];
        nv_twin_do(&w->loop, &writers[i].request);
    }
    while (left > 0) {
        nv_exec_queue_run_wait(&w->queue);
    }
    for (int i = 0; i < COUNT; i++) {
        assert_int_equal(writers[i].request.error, NV_HUB_ERROR_NONE);
        assert_int_equal(writers[i].request.reported_version, i + 2);
    }
    assert_device(w, "d1",
                  "{\"desired\":{\"$version\":1},\"reported\":{\"k0\":190,\"k1\":191,\"k2\":192,\"k3\":193,\"k4\":194,"
                  "\"k5\":195,\"k6\":196,\"k7\":197,\"k8\":198,\"k9\":199,\"$version\":201}}");
    free(writers);
    free(bodies);
}

static void versions_go_on_after_a_restart(void **state)
{
    rig *w = *state;
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"a\":1},\"properties\":{\"desired\":{\"b\":{\"c\":1}}}}");
    succeed(w, NV_TWIN_REPORTED, "d1", "{\"r\":1}");
    nv_twin *twin = twin_rig_get(w, "d1", "");
    char *before = twin_rig_service_text(twin);
    nv_twin_unref(twin);
    rig_close(w);
    rig_open(w, NV_REGISTRY_CACHE_BYTES);
    twin = twin_rig_get(w, "d1", "");
    char *after = twin_rig_service_text(twin);
    nv_twin_unref(twin);
    assert_string_equal(after, before);
    free(before);
    free(after);
    succeed(w, NV_TWIN_PATCH, "d1", "{\"properties\":{\"desired\":{\"b\":{\"c\":null}}}}");
    assert_numbers(w, "d1", 5, 3, 3, 2);
}

/* ---- what the device is told ---- */

/* conformance: semantics.md 11 */
static void the_device_is_told(void **state)
{
    rig *w = *state;
    twin_rig_listens = true;
    succeed(w, NV_TWIN_PATCH, "d1", "{\"properties\":{\"desired\":{ \"a\" : 1 , \"b\":{\"c\":2,\"n\":null}}}}");
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"a\":1}}");
    succeed(w, NV_TWIN_REPORTED, "d1", "{\"x\":1}");
    succeed(w, NV_TWIN_PATCH, "d1", "{\"properties\":{\"desired\":{\"a\":null,\"$version\":77}}}");
    succeed(w, NV_TWIN_REPLACE, "d1", "{\"properties\":{\"desired\":{\"d\":1,\"e\":2}}}");
    succeed(w, NV_TWIN_PATCH, "d1", "{\"properties\":{\"desired\":null}}");
    assert_int_equal(twin_rig_do(w, NV_TWIN_PATCH, "d1", "{\"properties\":{\"desired\":{\"a b\":1}}}"),
                     NV_HUB_ERROR_ArgumentInvalid);
    succeed(w, NV_TWIN_REPLACE, "d1", "{}");
    assert_string_equal(twin_rig_told, "d1 2 {\"a\":1,\"b\":{\"c\":2,\"n\":null}}\n"
                                       "d1 3 {\"a\":null}\n"
                                       "d1 4 {\"d\":1,\"e\":2}\n"
                                       "d1 5 {\"d\":null,\"e\":null}\n"
                                       "d1 6 {}\n");
}

/* A service on one loop, the device on another: the shard's loop notifies, the other answers. */
static void notices_go_by_the_shard(void **state)
{
    rig *w = *state;
    nv_exec_queue queue;
    nv_exec_queue_init(&queue);
    nv_hub_loop shard = {.hub = &w->hub, .exec = &queue.exec, .index = 1};
    twin_rig_shard = &shard;
    twin_rig_listens = true;
    int left = 1;
    writer one = {.request = twin_rig_request(NV_TWIN_PATCH, "d1", "", "{\"properties\":{\"desired\":{\"a\":1}}}"),
                  .left = &left};
    one.request.done = writer_done;
    one.request.arg = &one;
    nv_twin_do(&w->loop, &one.request);
    while (!twin_rig_told[0]) {
        nv_exec_queue_run_wait(&queue);
    }
    assert_false(one.done);
    while (!one.done) {
        nv_exec_queue_run_wait(&w->queue);
    }
    assert_string_equal(twin_rig_told, "d1 2 {\"a\":1}\n");
    nv_twin_unref(one.request.twin);
    twin_rig_shard = NULL;
    nv_exec_queue_deinit(&queue);
}

/* The read of a GET is done before a change, its answer comes behind the notification of that change. */
static void an_answer_is_not_older_than_what_was_told(void **state)
{
    rig *w = *state;
    nv_exec_queue queue; /* of the connection, which is busy with something else */
    nv_exec_queue_init(&queue);
    nv_hub_loop loop = {.hub = &w->hub, .exec = &queue.exec, .index = 1};
    nv_twin_told told = {0};
    int left = 1;
    writer get = {.request = twin_rig_request(NV_TWIN_GET, "d1", "", ""), .left = &left};
    get.request.done = writer_done;
    get.request.arg = &get;
    get.request.told = &told;
    nv_twin_do(&loop, &get.request);
    nv_twin_unref(twin_rig_get(w, "d1", "")); /* one reader, in order: the other read is done now, too */
    succeed(w, NV_TWIN_PATCH, "d1", "{\"properties\":{\"desired\":{\"a\":1}}}");
    nv_twin_request reported = twin_rig_request(NV_TWIN_REPORTED, "d1", "", "{\"b\":2}");
    reported.told = &told;
    assert_int_equal(twin_rig_ask(w, &reported), NV_HUB_ERROR_NONE);
    assert_int_equal(told.reported, 2);
    told.desired = 2;
    while (!get.done) {
        nv_exec_queue_run_wait(&queue);
    }
    assert_int_equal(get.request.twin->desired_version, 2);
    assert_int_equal(get.request.twin->reported_version, 2);
    nv_twin_unref(get.request.twin);
    nv_exec_queue_deinit(&queue);
}

/* What cannot come, such as a version of an earlier life of the store, does not keep the answer back for ever. */
static void an_answer_comes_after_all(void **state)
{
    rig *w = *state;
    nv_twin_told told = {.desired = 1000};
    nv_twin_request get = twin_rig_request(NV_TWIN_GET, "d1", "", "");
    get.told = &told;
    assert_int_equal(twin_rig_ask(w, &get), NV_HUB_ERROR_NONE);
    assert_int_equal(get.twin->desired_version, 1);
    nv_twin_unref(get.twin);
}

/* ---- events ---- */

/* conformance: semantics.md 46 */
static void changes_raise_events(void **state)
{
    rig *w = *state;
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"a\":1}}");
    assert_string_equal(twin_rig_events, "");
    assert_int_equal(twin_rig_committed, 0);
    twin_rig_wanted = 1u << NV_SOURCE_TWIN_CHANGE;
    succeed(w, NV_TWIN_PATCH, "d1",
            "{\"tags\":{\"a\":null,\"b\":1},\"properties\":{\"desired\":{\"x\":{\"y\":1,\"z\":null}}}}");
    succeed(w, NV_TWIN_REPORTED, "d1", "{\"r\":[1],\"s\":null}");
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":null,\"properties\":{\"desired\":null}}");
    succeed(w, NV_TWIN_REPLACE, "d1", "{\"tags\":{\"t\":1}}");
    succeed(w, NV_TWIN_PATCH, "d1", "{\"properties\":{\"reported\":{}}}"); /* nothing that would be told */
    assert_string_equal(
        twin_rig_events,
        "twinChangeNotification updateTwin d1 "
        "{\"version\":4,\"tags\":{\"a\":null,\"b\":1},\"properties\":{\"desired\":{"
        "\"x\":{\"y\":1,\"z\":null},\"$metadata\":{\"$lastUpdated\":\"" T0 "\",\"$lastUpdatedVersion\":2,\"x\":{"
        "\"$lastUpdated\":\"" T0 "\",\"$lastUpdatedVersion\":2,\"y\":{\"$lastUpdated\":\"" T0
        "\",\"$lastUpdatedVersion\":2}}},\"$version\":2}}}\n"
        "twinChangeNotification updateTwin d1 {\"version\":5,\"properties\":{\"reported\":{\"r\":[1],\"s\":null,"
        "\"$metadata\":{\"$lastUpdated\":\"" T0 "\",\"r\":{\"$lastUpdated\":\"" T0 "\"}},\"$version\":2}}}\n"
        "twinChangeNotification updateTwin d1 {\"version\":6,\"tags\":null,\"properties\":{\"desired\":{\"x\":null,"
        "\"$metadata\":{\"$lastUpdated\":\"" T0 "\",\"$lastUpdatedVersion\":3},\"$version\":3}}}\n"
        "twinChangeNotification replaceTwin d1 {\"deviceId\":\"d1\",\"etag\":\"AAAAAAAAAAU=\",\"version\":7,"
        "\"tags\":{\"t\":1},\"properties\":{\"desired\":{\"$metadata\":{\"$lastUpdated\":\"" T0
        "\",\"$lastUpdatedVersion\":4},\"$version\":4},\"reported\":{\"r\":[1],\"$metadata\":{\"$lastUpdated\":\"" T0
        "\",\"r\":{\"$lastUpdated\":\"" T0 "\"}},\"$version\":2}}}\n");
    assert_int_equal(twin_rig_committed, 4);
}

static void refused_changes_raise_none(void **state)
{
    rig *w = *state;
    twin_rig_wanted = 1u << NV_SOURCE_TWIN_CHANGE;
    nv_twin_request request = twin_rig_request(NV_TWIN_PATCH, "d1", "", "{\"tags\":{\"a\":1}}");
    request.precondition = NV_IF_ETAG;
    request.etag = 99;
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_PreconditionFailed);
    assert_int_equal(twin_rig_do(w, NV_TWIN_PATCH, "d1", "{\"tags\":[]}"), NV_HUB_ERROR_ArgumentInvalid);
    assert_string_equal(twin_rig_events, "");
    assert_int_equal(twin_rig_committed, 0);
}

/* Devices that announced a model; http-hub.md section 10 has the same view of properties. */
static void digital_twins_raise_patches(void **state)
{
    rig *w = *state;
    twin_rig_wanted = 1u << NV_SOURCE_DIGITAL_TWIN_CHANGE;
    succeed(w, NV_TWIN_REPORTED, "d1", "{\"a\":1}"); /* no model yet */
    nv_identity *identity = rig_get(w, "d1", "");
    nv_twin_announce_model(&w->loop, identity, S("dtmi:com:example:Thermostat;1"));
    nv_identity_unref(identity);
    succeed(w, NV_TWIN_REPORTED, "d1", "{\"a\":1}"); /* as it was */
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"x\":1}}");
    assert_string_equal(twin_rig_events, "");
    succeed(w, NV_TWIN_REPORTED, "d1", "{\"a\":2,\"b/~\":[1],\"c\":{\"__t\":\"c\",\"t\":21.50}}");
    succeed(w, NV_TWIN_PATCH, "d1", "{\"properties\":{\"desired\":{\"w\":5,\"c\":{\"__t\":\"c\",\"goal\":20}}}}");
    succeed(w, NV_TWIN_REPORTED, "d1",
            "{\"a\":null,\"w\":{\"value\":5,\"ac\":200,\"av\":2,\"ad\":\"ok\"},\"c\":{\"t\":null}}");
    succeed(w, NV_TWIN_REPORTED, "d1", "{\"w\":{\"value\":6,\"ad\":null}}");
    succeed(w, NV_TWIN_REPLACE, "d1", "{\"properties\":{\"desired\":{\"w\":7}}}");
#define EVENT "digitalTwinChangeNotification updateTwin d1 "
    assert_string_equal(
        twin_rig_events,
        EVENT "[{\"op\":\"replace\",\"path\":\"/a\",\"value\":2},{\"op\":\"add\",\"path\":\"/b~1~0\",\"value\":[1]},"
              "{\"op\":\"add\",\"path\":\"/c/t\",\"value\":21.50}]\n" EVENT
              "[{\"op\":\"add\",\"path\":\"/c/$metadata/goal/desiredValue\",\"value\":20},"
              "{\"op\":\"add\",\"path\":\"/c/$metadata/goal/desiredVersion\",\"value\":2},"
              "{\"op\":\"add\",\"path\":\"/$metadata/w/desiredValue\",\"value\":5},"
              "{\"op\":\"add\",\"path\":\"/$metadata/w/desiredVersion\",\"value\":2}]\n" EVENT
              "[{\"op\":\"remove\",\"path\":\"/a\"},{\"op\":\"remove\",\"path\":\"/c/t\"},"
              "{\"op\":\"add\",\"path\":\"/w\",\"value\":5},"
              "{\"op\":\"add\",\"path\":\"/$metadata/w/ackCode\",\"value\":200},"
              "{\"op\":\"add\",\"path\":\"/$metadata/w/ackVersion\",\"value\":2},"
              "{\"op\":\"add\",\"path\":\"/$metadata/w/ackDescription\",\"value\":\"ok\"}]\n" EVENT
              "[{\"op\":\"replace\",\"path\":\"/w\",\"value\":6},"
              "{\"op\":\"remove\",\"path\":\"/$metadata/w/ackDescription\"}]\n" EVENT
              "[{\"op\":\"remove\",\"path\":\"/c/$metadata/goal/desiredValue\"},"
              "{\"op\":\"remove\",\"path\":\"/c/$metadata/goal/desiredVersion\"},"
              "{\"op\":\"replace\",\"path\":\"/$metadata/w/desiredValue\",\"value\":7},"
              "{\"op\":\"replace\",\"path\":\"/$metadata/w/desiredVersion\",\"value\":3}]\n");
#undef EVENT
    assert_int_equal(twin_rig_committed, 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, rig_teardown)
        T(a_new_twin),
        T(versions_count_what_they_should),
        T(documents_carry_metadata),
        T(the_device_sees_its_properties_only),
        T(services_write_tags_and_desired),
        T(identity_and_twin_have_their_own_etags),
        T(modules_have_twins_of_their_own),
        T(edge_modules_have_twins),
        T(models_are_remembered),
        T(if_match),
        T(etags_have_the_services_text),
        T(reported_versions_as_condition),
        T(a_former_identity_changes_nothing),
        T(sections_at_their_limits),
        T(both_sections_or_none),
        T(text_without_size_is_bounded_too),
        T(two_writers_with_one_etag),
        T(patches_in_flight_build_on_each_other),
        T(versions_go_on_after_a_restart),
        T(the_device_is_told),
        T(notices_go_by_the_shard),
        T(an_answer_is_not_older_than_what_was_told),
        T(an_answer_comes_after_all),
        T(changes_raise_events),
        T(refused_changes_raise_none),
        T(digital_twins_raise_patches),
#undef T
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
