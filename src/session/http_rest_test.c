/** Identities over REST, by the numbers of http-hub.md's checklist, on the real registry and authentication. */
#include "session/http_rig_ask.h"

#include "codec/json.h"
#include "session/http_identity.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <json-c/json.h>

#define V NV_RIG_V

/** An etag as HTTP has it. Static storage. */
static const char *quoted(const char *etag)
{
    static char text[100];
    (void)snprintf(text, sizeof(text), "\"%.90s\"", etag);
    return text;
}

/* ---- devices ------------------------------------------------------------------------------------------------ */

/* conformance: http-hub.md 7, 8, 9 */
static void preconditions_of_devices(void **state)
{
    (void)state;
    nv_use_policy("iothubowner");
    nv_expect("PUT", "/devices/x" V, "{\"deviceId\":\"x\"}", 200);
    nv_expect_error("PUT", "/devices/x" V, "{\"deviceId\":\"x\"}", 409, "DeviceAlreadyExists");
    assert_non_null(strstr(nv_rig_said.body, "A device with ID 'x' is already registered."));
    nv_use_if_match("\"\""); /* counts as absent */
    nv_expect_error("PUT", "/devices/x" V, "{}", 409, "DeviceAlreadyExists");
    nv_use_if_match("\"*\"");
    nv_expect("PUT", "/devices/x" V, "{}", 200);
    nv_use_if_match("*");
    nv_expect("PUT", "/devices/x" V, "{}", 200);
    char old[100];
    (void)snprintf(old, sizeof(old), "%s", nv_said_at("etag"));
    nv_use_if_match(quoted(old));
    nv_expect("PUT", "/devices/x" V, "{}", 200);
    nv_use_if_match(nv_said_at("etag"));
    nv_expect("PUT", "/devices/x" V, "{}", 200);
    nv_use_if_match(old);
    nv_expect_error("PUT", "/devices/x" V, "{}", 412, "PreconditionFailed");
    nv_use_if_match("\"no tag of ours\"");
    nv_expect_error("PUT", "/devices/x" V, "{}", 412, "PreconditionFailed");
    nv_use_if_match("*");
    nv_expect_error("PUT", "/devices/missing" V, "{}", 404, "DeviceNotFound");
    assert_non_null(strstr(nv_rig_said.body, "ErrorCode:DeviceNotFound;missing"));
    nv_expect_error("GET", "/devices/missing" V, NULL, 404, "DeviceNotFound");
    nv_expect_error("DELETE", "/devices/x" V, NULL, 412, "PreconditionFailed");
    nv_use_if_match(old);
    nv_expect_error("DELETE", "/devices/x" V, NULL, 412, "PreconditionFailed");
    nv_use_if_match("\"*\"");
    nv_expect("DELETE", "/devices/x" V, NULL, 204);
    assert_int_equal(nv_rig_said.body_len, 0);
    nv_use_if_match("*");
    nv_expect_error("DELETE", "/devices/x" V, NULL, 404, "DeviceNotFound");
}

/* conformance: http-hub.md 10, 13 */
static void credentials(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        unsigned status;
        const char *type;
        const char *name;
    } rows[] = {
        {"{}", 200, "sas", NULL},
        {"{\"authentication\":null}", 200, "sas", NULL},
        {"{\"authentication\":{\"symmetricKey\":{\"primaryKey\":\"\",\"secondaryKey\":\"\"}}}", 200, "sas", NULL},
        {"{\"authentication\":{\"type\":\"sas\",\"symmetricKey\":{\"primaryKey\":null,\"secondaryKey\":null},"
         "\"x509Thumbprint\":null},\"status\":null,\"capabilities\":null,\"deviceScope\":null}",
         200, "sas", NULL},
        {"{\"Authentication\":{\"SymmetricKey\":{\"PRIMARYKEY\":\"\"},\"Type\":\"SAS\"},\"unknown\":[1]}", 200, "sas",
         NULL},
        {"{\"authentication\":{\"symmetricKey\":{\"primaryKey\":\"MTIzNDU2Nzg5MDEyMzQ1Ng==\"}}}", 400, NULL,
         "ArgumentInvalid"},
        {"{\"authentication\":{\"symmetricKey\":{\"primaryKey\":\"MTIzNDU2Nzg=\",\"secondaryKey\":\"MTIzNDU2Nzg=\"}}}",
         400, NULL, "ArgumentInvalid"},
        {"{\"authentication\":{\"symmetricKey\":{\"primaryKey\":\"?\",\"secondaryKey\":\"?\"}}}", 400, NULL,
         "ArgumentInvalid"},
        {"{\"authentication\":{\"x509Thumbprint\":{\"primaryThumbprint\":"
         "\"aBCDEF0123456789abcdef0123456789abcdef01\"}}}",
         200, "selfSigned", NULL},
        {"{\"authentication\":{\"type\":\"selfSigned\",\"x509Thumbprint\":{\"primaryThumbprint\":"
         "\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdeF\",\"secondaryThumbprint\":\"\"}}}",
         200, "selfSigned", NULL},
        {"{\"authentication\":{\"type\":\"selfSigned\",\"x509Thumbprint\":{\"primaryThumbprint\":"
         "\"AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01\"}}}",
         400, NULL, "StringIsNotThumbprint"},
        {"{\"authentication\":{\"type\":\"selfSigned\"}}", 200, "selfSigned", NULL},
        {"{\"authentication\":{\"type\":\"certificateAuthority\"}}", 200, "certificateAuthority", NULL},
        {"{\"authentication\":{\"type\":\"none\"}}", 400, NULL, "DeviceAuthenticationTypeIsMissing"},
        {"{\"authentication\":{\"type\":\"magic\"}}", 400, NULL, "ArgumentInvalid"},
        {"{\"authentication\":[]}", 400, NULL, "ArgumentInvalid"},
        {"{\"status\":\"asleep\"}", 400, NULL, "ArgumentInvalid"},
        {"{\"statusReason\":5}", 400, NULL, "ArgumentInvalid"},
        {"{\"capabilities\":{\"iotEdge\":\"yes\"}}", 400, NULL, "ArgumentInvalid"},
        {"[]", 400, NULL, "ArgumentInvalid"},
        {"{", 400, NULL, "IotHubFormatError"},
        {"", 400, NULL, "IotHubFormatError"},
        {"null", 400, NULL, "IotHubFormatError"},
        {"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", 400, NULL,
         "IotHubFormatError"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_use_policy("iothubowner");
        if (rows[i].status != 200) {
            nv_expect_error("PUT", "/devices/cred" V, rows[i].body, rows[i].status, rows[i].name);
            continue;
        }
        nv_expect("PUT", "/devices/cred" V, rows[i].body, 200);
        const char *primary = nv_said_at("authentication.symmetricKey.primaryKey");
        const char *secondary = nv_said_at("authentication.symmetricKey.secondaryKey");
        assert_string_equal(nv_said_at("authentication.type"), rows[i].type);
        if (strcmp(rows[i].type, "sas") == 0) {
            assert_int_equal(strlen(primary), 44);
            assert_int_equal(strlen(secondary), 44);
            assert_string_not_equal(primary, secondary);
        } else {
            assert_string_equal(primary, "(null)");
            assert_string_equal(secondary, "(null)");
        }
        const char *print = nv_said_at("authentication.x509Thumbprint.primaryThumbprint");
        assert_true(strcmp(print, "(null)") == 0 || strstr(rows[i].body, print)); /* its case is kept */
        nv_use_if_match("*");
        nv_expect("DELETE", "/devices/cred" V, NULL, 204);
    }
    /* Given keys are kept; an update that leaves them out makes new ones. */
    nv_expect("PUT", "/devices/cred" V,
              "{\"authentication\":{\"symmetricKey\":{\"primaryKey\":\"MTIzNDU2Nzg5MDEyMzQ1Ng==\","
              "\"secondaryKey\":\"NjU0MzIxMDk4NzY1NDMyMQ==\"}}}",
              200);
    assert_string_equal(nv_said_at("authentication.symmetricKey.primaryKey"), "MTIzNDU2Nzg5MDEyMzQ1Ng==");
    assert_string_equal(nv_said_at("authentication.symmetricKey.secondaryKey"), "NjU0MzIxMDk4NzY1NDMyMQ==");
    nv_use_if_match("*");
    nv_expect("PUT", "/devices/cred" V, "{}", 200);
    assert_string_not_equal(nv_said_at("authentication.symmetricKey.primaryKey"), "MTIzNDU2Nzg5MDEyMzQ1Ng==");
}

/** Member names of the object that begins at @p json, in order, joined by spaces. */
static void member_order(const char *json, char *out, size_t size)
{
    struct json_object *tree = NULL;
    assert_int_equal(nv_json_parse(nv_span_str(json), 16, 1000, &tree), NV_OK);
    out[0] = '\0';
    struct json_object_iterator it = json_object_iter_begin(tree);
    struct json_object_iterator end = json_object_iter_end(tree);
    for (; !json_object_iter_equal(&it, &end); json_object_iter_next(&it)) {
        size_t len = strlen(out);
        (void)snprintf(out + len, size - len, "%s ", json_object_iter_peek_name(&it));
    }
    json_object_put(tree);
}

/* conformance: http-hub.md 11 */
static void json_of_identities(void **state)
{
    (void)state;
    char order[600];
    nv_make_device("json",
                   "{\"status\":\"disabled\",\"statusReason\":\"to be \\\"fixed\\\"\",\"attributes\":{\"a\":1.50}}");
    member_order(nv_rig_said.body, order, sizeof(order));
    assert_string_equal(order, "deviceId generationId etag connectionState status statusReason "
                               "connectionStateUpdatedTime statusUpdatedTime lastActivityTime "
                               "cloudToDeviceMessageCount authentication capabilities attributes ");
    member_order(nv_said_at("authentication"), order, sizeof(order));
    assert_string_equal(order, "symmetricKey x509Thumbprint type ");
    char quoted[100];
    (void)snprintf(quoted, sizeof(quoted), "\"%s\"", nv_said_at("etag"));
    assert_string_equal(nv_answer_header(&nv_rig_said, "ETag"), quoted);
    assert_string_equal(nv_said_at("connectionState"), "Disconnected");
    assert_string_equal(nv_said_at("status"), "disabled");
    assert_string_equal(nv_said_at("statusReason"), "to be \"fixed\"");
    assert_string_equal(nv_said_at("lastActivityTime"), "0001-01-01T00:00:00Z");
    assert_string_equal(nv_said_at("connectionStateUpdatedTime"), "0001-01-01T00:00:00Z");
    assert_string_equal(nv_said_at("authentication.x509Thumbprint.primaryThumbprint"), "(null)");
    assert_string_equal(nv_said_at("attributes.a"), "1.50");
    nv_expect("GET", "/devices/json" V, NULL, 200);
    assert_string_equal(nv_answer_header(&nv_rig_said, "ETag"), quoted);
    nv_use_policy("iothubowner");
    nv_make_device("jsonedge", "{\"capabilities\":{\"iotEdge\":true}}");
    member_order(nv_rig_said.body, order, sizeof(order));
    assert_non_null(strstr(order, "authentication capabilities deviceScope "));
    assert_int_equal(strncmp(nv_said_at("deviceScope"), "ms-azure-iot-edge://jsonedge-", 29), 0);
    nv_expect("PUT", "/devices/jsonedge/modules/m" V, "{\"managedBy\":\"someone\"}", 200);
    member_order(nv_rig_said.body, order, sizeof(order));
    assert_string_equal(order, "moduleId managedBy deviceId generationId etag connectionState "
                               "connectionStateUpdatedTime lastActivityTime cloudToDeviceMessageCount "
                               "authentication ");
    assert_string_equal(nv_said_at("managedBy"), "someone");
    nv_use_if_match("*");
    nv_expect("PUT", "/devices/jsonedge/modules/m" V, "{}", 200);
    assert_string_equal(nv_said_at("managedBy"), "(null)");
}

/* conformance: http-hub.md 12 */
static void generations(void **state)
{
    (void)state;
    nv_make_device("gen", NULL);
    char first[100], tag[100];
    (void)snprintf(first, sizeof(first), "%s", nv_said_at("generationId"));
    (void)snprintf(tag, sizeof(tag), "%s", nv_said_at("etag"));
    assert_int_equal(strlen(first), 18);
    nv_use_if_match("*");
    nv_expect("PUT", "/devices/gen" V, "{}", 200);
    assert_string_equal(nv_said_at("generationId"), first);
    assert_string_not_equal(nv_said_at("etag"), tag);
    nv_use_if_match("*");
    nv_expect("DELETE", "/devices/gen" V, NULL, 204);
    nv_expect("PUT", "/devices/gen" V, "{}", 200);
    assert_string_not_equal(nv_said_at("generationId"), first);
}

static size_t list_length(void)
{
    struct json_object *tree = NULL;
    assert_int_equal(nv_json_parse(nv_span_of(nv_rig_said.body, nv_rig_said.body_len), 16, 100000, &tree), NV_OK);
    size_t count = json_object_array_length(tree);
    json_object_put(tree);
    return count;
}

/* conformance: http-hub.md 14 */
static void lists(void **state)
{
    (void)state;
    nv_use_policy("iothubowner");
    static char body[20000];
    for (unsigned batch = 0; batch < 11; batch++) {
        size_t len = (size_t)snprintf(body, sizeof(body), "[");
        for (unsigned i = 0; i < 100; i++) {
            len += (size_t)snprintf(body + len, sizeof(body) - len, "%s{\"id\":\"l%03u\",\"importMode\":\"create\"}",
                                    i ? "," : "", batch * 100 + i);
        }
        (void)snprintf(body + len, sizeof(body) - len, "]");
        nv_expect("POST", "/devices" V, body, 200);
    }
    static const struct {
        const char *target;
        size_t count;
    } rows[] = {{"/devices/?top=3&api-version=2021-04-12", 3},
                {"/devices?api-version=2021-04-12&top=70", 70},
                {"/devices/" V "&top=1", 1}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_expect("GET", rows[i].target, NULL, 200);
        assert_int_equal(list_length(), rows[i].count);
    }
    /* Larger than this test's nv_rig_said buffer: count on the wire. */
    static const char *const all[] = {"/devices/" V, "/devices" V "&top=5000", "/devices" V "&top=0",
                                      "/devices" V "&top=x"};
    for (size_t i = 0; i < NV_COUNT_OF(all); i++) {
        char text[2048];
        (void)snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nAuthorization: %s\r\n\r\n", all[i], nv_rig_token);
        nv_rig_send(&nv_rig_line, nv_span_str(text));
        nv_span got;
        do {
            nv_rig_pump(&nv_rig_line);
            got = nv_buf_span(&nv_rig_line.received);
        } while (got.len < 2 || memcmp(got.ptr + got.len - 2, "}]", 2) != 0 ||
                 !memmem(got.ptr, got.len, "\r\n\r\n", 4));
        size_t count = 0;
        const char mark[] = "{\"deviceId\":";
        for (const uint8_t *at = got.ptr; (at = memmem(at, (size_t)(got.ptr + got.len - at), mark, sizeof(mark) - 1));
             at++) {
            count++;
        }
        assert_int_equal(count, 1000);
        nv_buf_clear(&nv_rig_line.received);
    }
}

/* ---- bulk ---------------------------------------------------------------------------------------------------- */

/* conformance: http-hub.md 16, 17 */
static void bulk(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        const char *errors; /* names, joined by spaces; "" = 200 */
    } rows[] = {
        {"[{\"id\":\"b1\",\"importMode\":\"create\"},{\"id\":\"b2\",\"importMode\":\"create\",\"status\":\"disabled\"}"
         "]",
         ""},
        {"[{\"id\":\"b2\",\"importMode\":\"create\"},{\"id\":\"b3\",\"importMode\":\"create\"}]",
         "DeviceAlreadyExists"},
        {"[{\"id\":\"b3\",\"importMode\":\"update\"},{\"id\":\"b4\",\"importMode\":\"Update\"}]", "DeviceNotFound"},
        {"[{\"id\":\"b3\",\"importMode\":\"updateIfMatchETag\",\"etag\":\"AAAA\"}]", "PreconditionFailed"},
        {"[{\"id\":\"b3\",\"importMode\":\"updateIfMatchETag\",\"eTag\":\"*\"}]", ""},
        {"[{\"id\":\"b4\",\"importMode\":\"createOrUpdate\"},{\"id\":\"b3\",\"importMode\":\"createOrUpdate\"}]", ""},
        {"[{\"id\":\"b3\",\"importMode\":\"createOrUpdateIfMatchETag\",\"eTag\":\"AAAA\"}]", "PreconditionFailed"},
        {"[{\"id\":\"b5\",\"importMode\":\"create\"},{\"id\":\"b5\",\"importMode\":\"create\"}]",
         "DeviceDefinedMultipleTimes"},
        {"[{\"id\":\"b6\",\"importMode\":\"create\"},{\"id\":\"b6\",\"moduleId\":\"m\",\"importMode\":\"create\"}]",
         ""},
        {"[{\"id\":\"b6\",\"moduleId\":\"m\",\"importMode\":\"create\"},"
         "{\"id\":\"b6\",\"moduleId\":\"$x\",\"importMode\":\"create\"}]",
         "ModuleAlreadyExistsOnDevice ArgumentInvalid"},
        {"[{\"id\":\"b6\",\"importMode\":\"updateTwin\",\"tags\":{}},{\"id\":\"b6\",\"importMode\":\"nonsense\"},"
         "{\"id\":\"bad id\",\"importMode\":\"create\"},7,null,"
         "{\"id\":\"b7\",\"importMode\":\"create\",\"status\":\"asleep\"}]",
         "DeviceDefinedMultipleTimes ArgumentInvalid"},
        {"[{\"id\":\"b6\",\"importMode\":\"updateTwin\",\"tags\":{\"a\":1.50}},"
         "{\"id\":\"b5\",\"importMode\":\"updateTwinIfMatchETag\",\"twinETag\":\"AAAAAAAAAAE=\","
         "\"properties\":{\"desired\":{\"b\":{\"c\":1}}}}]",
         ""},
        {"[{\"id\":\"b6\",\"importMode\":\"updateTwinIfMatchETag\",\"twinETag\":\"AAAAAAAAAAE=\",\"tags\":{}},"
         "{\"id\":\"b5\",\"importMode\":\"updateTwin\",\"tags\":{\"a b\":1}},"
         "{\"id\":\"nobody\",\"importMode\":\"updateTwin\",\"tags\":{}}]",
         "PreconditionFailed ArgumentInvalid DeviceNotFound"},
        /* as Explorer deletes */
        {"[{\"id\":\"b1\",\"etag\":\"*\",\"importMode\":\"deleteIfMatchEtag\"},"
         "{\"id\":\"b2\",\"etag\":\"*\",\"importMode\":\"deleteIfMatchEtag\"}]",
         ""},
        {"[{\"id\":\"b3\",\"importMode\":\"deleteIfMatchETag\"},{\"id\":\"b4\",\"importMode\":\"delete\"},"
         "{\"id\":\"b1\",\"importMode\":\"delete\"}]",
         "DeviceNotFound"},
    };
    nv_use_policy("iothubowner");
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bool good = rows[i].errors[0] == '\0';
        nv_expect("POST", "/devices" V, rows[i].body, good ? 200 : 400);
        if (good) {
            assert_string_equal(nv_rig_said.body, "{\"isSuccessful\":true,\"errors\":[],\"warnings\":[]}");
            continue;
        }
        assert_string_equal(nv_answer_header(&nv_rig_said, "iothub-errorcode"), "BulkRegistryOperationFailure");
        assert_string_equal(nv_said_at("isSuccessful"), "false");
        char names[200];
        (void)snprintf(names, sizeof(names), "%s", rows[i].errors);
        char *save = NULL;
        for (char *name = strtok_r(names, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
            char member[100];
            (void)snprintf(member, sizeof(member), "\"errorCode\":\"%s\"", name);
            if (!strstr(nv_rig_said.body, member) && strcmp(name, "DeviceDefinedMultipleTimes") != 0) {
                fail_msg("row %zu: no %s in %s", i, name, nv_rig_said.body);
            }
        }
    }
    nv_expect("GET", "/devices/b1" V, NULL, 404);
    nv_expect("GET", "/devices/b2" V, NULL, 404);
    nv_expect("GET", "/devices/b5" V, NULL, 200);
    nv_expect("GET", "/twins/b6" V, NULL, 200);
    assert_string_equal(nv_said_at("tags.a"), "1.50");
    assert_string_equal(nv_said_at("version"), "4");
    nv_expect("GET", "/twins/b5" V, NULL, 200);
    assert_string_equal(nv_said_at("properties.desired.b.c"), "1");
    assert_string_equal(nv_said_at("properties.desired.$version"), "2");
    nv_expect("POST", "/devices" V, "[{\"id\":\"not an id\",\"importMode\":\"create\"}]", 400);
    assert_non_null(strstr(nv_rig_said.body, "{\"deviceId\":\"not an id\",\"errorCode\":\"ArgumentInvalid\""));
    nv_expect_error("POST", "/devices" V, "{}", 400, "ArgumentInvalid");
    nv_expect_error("POST", "/devices" V, "[]", 400, "ArgumentInvalid");
}

/* Identities come with their twins, or not at all. */
static void bulk_with_twins(void **state)
{
    (void)state;
    nv_use_policy("iothubowner");
    nv_expect("POST", "/devices" V,
              "[{\"id\":\"t1\",\"importMode\":\"create\",\"tags\":{\"a\":1},"
              "\"properties\":{\"desired\":{\"b\":2},\"reported\":{\"c\":3}}},"
              "{\"id\":\"t2\",\"importMode\":\"createOrUpdate\",\"tags\":{\"a\":2}}]",
              200);
    nv_expect("GET", "/twins/t1" V, NULL, 200);
    assert_string_equal(nv_said_at("etag"), "AAAAAAAAAAE=");
    assert_string_equal(nv_said_at("version"), "2");
    assert_string_equal(nv_said_at("tags.a"), "1");
    assert_string_equal(nv_said_at("properties.desired.b"), "2");
    assert_string_equal(nv_said_at("properties.desired.$version"), "1");
    assert_string_equal(nv_said_at("properties.desired.$metadata.b.$lastUpdatedVersion"), "1");
    assert_string_equal(nv_said_at("properties.reported.c"), "(null)");
    nv_expect("POST", "/devices" V, "[{\"id\":\"t2\",\"importMode\":\"createOrUpdate\",\"tags\":{\"a\":3}}]", 200);
    nv_expect("GET", "/twins/t2" V, NULL, 200);
    assert_string_equal(nv_said_at("tags.a"), "2");
    nv_expect("POST", "/devices" V, "[{\"id\":\"t3\",\"importMode\":\"create\",\"tags\":{\"a.b\":1}}]", 400);
    assert_string_equal(nv_said_at("errors.0.errorCode"), "ArgumentInvalid");
    assert_string_equal(nv_said_at("errors.0.errorStatus"), "tags.a.b: a name holds one of . $ #");
    nv_expect("GET", "/devices/t3" V, NULL, 404);
}

static void keys_rotate(void **state)
{
    (void)state;
    nv_make_device("rot1", NULL);
    char primary[100], secondary[100];
    (void)snprintf(primary, sizeof(primary), "%s", nv_said_at("authentication.symmetricKey.primaryKey"));
    (void)snprintf(secondary, sizeof(secondary), "%s", nv_said_at("authentication.symmetricKey.secondaryKey"));
    const char *path = "/devices/keys/regenerate?api-version=2024-03-31";
    nv_expect("POST", path, "{\"policyKey\":\"primaryKey\",\"devices\":[{\"id\":\"rot1\"}]}", 200);
    assert_string_equal(nv_said_at("policyKey"), "primaryKey");
    assert_string_not_equal(nv_said_at("rotatedKeys.0.primaryKey"), primary);
    assert_string_equal(nv_said_at("rotatedKeys.0.secondaryKey"), secondary);
    nv_expect("POST", path, "{\"policyKey\":\"both\",\"devices\":[{\"id\":\"rot1\"},{\"id\":\"rot2\"}]}", 207);
    assert_string_not_equal(nv_said_at("rotatedKeys.0.secondaryKey"), secondary);
    assert_string_equal(nv_said_at("errors.0.id"), "rot2");
    assert_string_equal(nv_said_at("errors.0.errorCode"), "DeviceNotFound");
    nv_expect("POST", path, "{\"policyKey\":\"both\",\"devices\":[{\"id\":\"rot2\"}]}", 400);
    nv_expect_error("POST", path, "{\"policyKey\":\"x\",\"devices\":[{\"id\":\"rot1\"}]}", 400, "ArgumentInvalid");
    nv_expect_error("POST", path, "{\"policyKey\":\"both\"}", 400, "ArgumentInvalid");
}

/* ---- modules ------------------------------------------------------------------------------------------------- */

/* conformance: http-hub.md 18 */
static void modules(void **state)
{
    (void)state;
    nv_make_device("edge", "{\"capabilities\":{\"iotEdge\":true}}");
    nv_expect("PUT", "/devices/edge/modules/m1" V, "{\"moduleId\":\"m1\",\"deviceId\":\"edge\"}", 200);
    nv_expect_error("PUT", "/devices/edge/modules/m1" V, "{}", 409, "ModuleAlreadyExistsOnDevice");
    nv_expect_error("PUT", "/devices/edge/modules/$x" V, "{}", 400, "ArgumentInvalid");
    nv_expect_error("PUT", "/devices/edge/modules/m2" V, "{\"moduleId\":\"m3\"}", 400, "ArgumentInvalid");
    nv_expect_error("GET", "/devices/edge/modules/m9" V, NULL, 404, "ModuleNotFound");
    nv_expect("GET", "/devices/edge/modules/m1" V, NULL, 200);
    nv_expect("GET", "/devices/edge/modules/$edgeHub" V, NULL, 200);
    nv_expect("GET", "/devices/edge/modules" V, NULL, 200);
    assert_int_equal(list_length(), 3);
    assert_string_equal(nv_said_at("0.moduleId"), "$edgeAgent");
    assert_string_equal(nv_said_at("0.managedBy"), "iotEdge");
    assert_string_equal(nv_said_at("0.authentication.type"), "none");
    assert_string_equal(nv_said_at("2.moduleId"), "m1");
    nv_use_if_match("*");
    nv_expect("PUT", "/devices/edge/modules/m1" V, "{\"authentication\":{\"type\":\"none\"}}", 200);
    assert_string_equal(nv_said_at("authentication.type"), "sas");
    nv_expect_error("DELETE", "/devices/edge/modules/m1" V, NULL, 412, "PreconditionFailed");
    nv_use_if_match("*");
    nv_expect("DELETE", "/devices/edge/modules/m1" V, NULL, 204);
    /* Fifty, not counting what the hub made itself, and no more. */
    unsigned made = 0;
    unsigned status = 200;
    while (status == 200 && made < 60) {
        char target[100];
        (void)snprintf(target, sizeof(target), "/devices/edge/modules/n%u" V, made);
        status = nv_ask("PUT", target, "{}");
        made += status == 200;
    }
    assert_int_equal(status, 413);
    assert_true(made == 50 || made == 48);
}

/* http-hub.md 2.5: a module operation under SAS on a missing or disabled device is 401 in shape E3. */
static void modules_of_no_device(void **state)
{
    (void)state;
    nv_make_device("off", "{\"status\":\"disabled\"}");
    static const char *const targets[] = {"/devices/off/modules/m" V, "/devices/off/modules" V,
                                          "/devices/nobody/modules/m" V, "/devices/nobody/modules" V};
    for (size_t i = 0; i < NV_COUNT_OF(targets); i++) {
        nv_expect("GET", targets[i], NULL, 401);
        assert_string_equal(nv_answer_header(&nv_rig_said, "iothub-errorcode"), "IotHubUnauthorizedAccess");
        assert_int_equal(strncmp(nv_said_at("Message"), "{\"errorCode\":401002,\"trackingId\":\"", 34), 0);
        assert_string_equal(nv_said_at("ExceptionMessage"), "");
    }
    nv_expect("PUT", "/devices/nobody/modules/m" V, "{}", 401);
}

/* conformance: http-hub.md 19 */
static void an_edge_device_keeps_its_modules(void **state)
{
    (void)state;
#define EDGE "?api-version=2017-11-08-preview"
    nv_make_device("gw", "{\"capabilities\":{\"iotEdge\":true}}");
    char key[100];
    (void)snprintf(key, sizeof(key), "%s", nv_said_at("authentication.symmetricKey.primaryKey"));
    nv_use_token(nv_rig_key_token(&nv_rig_on, "hub.test/devices/gw", key));
    nv_expect("PUT", "/devices/gw/modules/filter" EDGE, "{\"moduleId\":\"filter\",\"managedBy\":\"iotEdge\"}", 200);
    nv_expect("GET", "/devices/gw/modules/filter" EDGE, NULL, 200);
    nv_expect("GET", "/devices/gw/modules" EDGE, NULL, 200);
    assert_int_equal(list_length(), 3);
    nv_use_if_match("*");
    nv_expect("PUT", "/devices/gw/modules/$edgeHub" EDGE,
              "{\"authentication\":{\"type\":\"sas\",\"symmetricKey\":{\"primaryKey\":\"MTIzNDU2Nzg5MDEyMzQ1Ng==\","
              "\"secondaryKey\":\"NjU0MzIxMDk4NzY1NDMyMQ==\"}}}",
              200);
    assert_string_equal(nv_said_at("authentication.symmetricKey.primaryKey"), "MTIzNDU2Nzg5MDEyMzQ1Ng==");
    nv_use_if_match("*");
    nv_expect("DELETE", "/devices/gw/modules/filter" EDGE, NULL, 204);
    nv_expect_error("GET", "/devices/gw" EDGE, NULL, 401, "IotHubUnauthorizedAccess");
    nv_make_device("gw2", "{\"capabilities\":{\"iotEdge\":true}}");
    nv_use_token(nv_rig_key_token(&nv_rig_on, "hub.test/devices/gw", key));
    nv_expect_error("GET", "/devices/gw2/modules" EDGE, NULL, 401, "IotHubUnauthorizedAccess");
    nv_use_token(nv_rig_key_token(&nv_rig_on, "hub.test/devices/gw", "MTIzNDU2Nzg5MDEyMzQ1Ng=="));
    nv_expect_error("GET", "/devices/gw/modules" EDGE, NULL, 401, "IotHubUnauthorizedAccess");
    /* By certificate, without a token. */
    nv_make_device("gwx", "{\"capabilities\":{\"iotEdge\":true},\"authentication\":{\"type\":\"selfSigned\","
                          "\"x509Thumbprint\":{\"primaryThumbprint\":\"ABABABABABABABABABABABABABABABABABABABAB\"}}}");
    nv_use_token("");
    nv_expect_error("GET", "/devices/gwx/modules" EDGE, NULL, 401, "IotHubUnauthorizedAccess");
    nv_peer_certificate certificate = {.not_before_us = 0, .not_after_us = INT64_MAX};
    memset(certificate.sha1, 0xab, sizeof(certificate.sha1));
    nv_rig_line.peer.certificate = &certificate;
    nv_expect("GET", "/devices/gwx/modules" EDGE, NULL, 200);
    nv_expect_error("GET", "/devices/gwx" EDGE, NULL, 401, "IotHubUnauthorizedAccess");
    certificate.sha1[0] = 0;
    nv_expect_error("GET", "/devices/gwx/modules" EDGE, NULL, 401, "IotHubUnauthorizedAccess");
    nv_rig_line.peer.certificate = NULL;
}

/* ---- the rest ------------------------------------------------------------------------------------------------ */

/* conformance: http-hub.md 20 (statistics; purge comes with cloud-to-device messages) */
static void statistics(void **state)
{
    (void)state;
    nv_make_device("s1", NULL);
    nv_make_device("s2", "{\"status\":\"disabled\"}");
    nv_expect("GET", "/statistics/devices" V, NULL, 200);
    char order[200];
    member_order(nv_rig_said.body, order, sizeof(order));
    assert_string_equal(order, "totalDeviceCount enabledDeviceCount disabledDeviceCount ");
    unsigned long total = strtoul(nv_said_at("totalDeviceCount"), NULL, 10);
    unsigned long enabled = strtoul(nv_said_at("enabledDeviceCount"), NULL, 10);
    unsigned long disabled = strtoul(nv_said_at("disabledDeviceCount"), NULL, 10);
    assert_true(total >= 2 && disabled >= 1 && total == enabled + disabled);
    nv_expect("GET", "/statistics/service" V, NULL, 200);
    assert_string_equal(nv_rig_said.body, "{\"connectedDeviceCount\":0}");
}

static void our_own_api(void **state)
{
    (void)state;
    static const nv_http_endpoint endpoints[] = {{"mqtts", "mqtts://hub.test:8883"}, {"https", "https://hub.test"}};
    static const nv_http_config config = {.endpoints = endpoints, .endpoint_count = 2};
    nv_http_setup(&config);
    nv_use_policy("iothubowner");
    nv_expect("GET", "/nave/v1/hub", NULL, 200);
    assert_string_equal(nv_said_at("name"), "hub");
    assert_string_equal(nv_said_at("hostName"), "hub.test");
    assert_string_equal(nv_said_at("hostNames.1"), "127.0.0.1");
    assert_string_equal(nv_said_at("version"), NV_VERSION);
    assert_string_equal(nv_said_at("endpoints.mqtts"), "mqtts://hub.test:8883");
    assert_string_equal(nv_said_at("partitions.3.nextSequence"), "0");
    assert_string_equal(nv_said_at("log.state"), "ok");
    nv_expect("GET", "/nave/v1/policies", NULL, 200);
    assert_non_null(strstr(nv_rig_said.body, "{\"name\":\"iothubowner\",\"rights\":\"RegistryRead, RegistryWrite, "
                                             "ServiceConnect, DeviceConnect\"}"));
    const nv_policy *owner = nv_policies_find(nv_rig_on.hub->policies, nv_span_str("iothubowner"));
    assert_null(memmem(nv_rig_said.body, nv_rig_said.body_len, owner->primary_key.bytes, owner->primary_key.len));
    assert_null(strstr(nv_rig_said.body, "ey\":")); /* no member is a key */
    nv_refusal_entry entry = {.wall_us = nv_wall_us(&nv_rig_on.clock.clock),
                              .refusal = NV_REFUSAL_TOKEN_EXPIRED,
                              .protocol = "mqtt",
                              .address = "192.0.2.9:1234",
                              .detail = "expired 9 min 12 s ago"};
    nv_refusals_note(nv_rig_on.hub->refusals, nv_span_str("lost"), NV_SPAN_EMPTY, &entry);
    nv_expect("GET", "/nave/v1/devices/lost/refusals", NULL, 200);
    assert_string_equal(nv_said_at("refusals.0.refusal"), "token-expired");
    assert_string_equal(nv_said_at("refusals.0.detail"), "expired 9 min 12 s ago");
    assert_string_equal(nv_said_at("refusals.0.cure"), "make a new token; check both clocks");
    assert_string_equal(nv_said_at("refusals.0.count"), "1");
    nv_expect("GET", "/nave/v1/devices/lost/modules/m/refusals", NULL, 200);
    assert_string_equal(nv_said_at("moduleId"), "m");
    assert_string_equal(nv_said_at("refusals"), "[]");
    nv_expect("GET", "/nave/v1/nothing", NULL, 404);
}

static void entity_tags(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        nv_precondition kind;
        uint64_t etag;
    } rows[] = {{"", NV_IF_NONE, UINT64_MAX},
                {"\"\"", NV_IF_NONE, UINT64_MAX},
                {"*", NV_IF_ANY, UINT64_MAX},
                {"\"*\"", NV_IF_ANY, UINT64_MAX},
                {"MQ==", NV_IF_ETAG, 1},
                {"\"MQ==\"", NV_IF_ETAG, 1},
                {"W/\"MQ==\"", NV_IF_ETAG, 1},
                {"MjQxNzkxMTk4", NV_IF_ETAG, 241791198},
                {"\"", NV_IF_ETAG, UINT64_MAX},
                {"eA==", NV_IF_ETAG, UINT64_MAX},
                {"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MA==", NV_IF_ETAG, UINT64_MAX}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint64_t etag = 0;
        assert_int_equal(nv_etag_parse(nv_span_str(rows[i].text), &etag), rows[i].kind);
        assert_true(etag == rows[i].etag);
    }
    char text[NV_ETAG_TEXT_SIZE];
    nv_etag_format(241791198, text);
    assert_string_equal(text, "MjQxNzkxMTk4");
    nv_etag_format(UINT64_MAX, text);
    assert_int_equal(strlen(text), 28);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(preconditions_of_devices),
        cmocka_unit_test(credentials),
        cmocka_unit_test(json_of_identities),
        cmocka_unit_test(generations),
        cmocka_unit_test(bulk),
        cmocka_unit_test(bulk_with_twins),
        cmocka_unit_test(keys_rotate),
        cmocka_unit_test(modules),
        cmocka_unit_test(modules_of_no_device),
        cmocka_unit_test(an_edge_device_keeps_its_modules),
        cmocka_unit_test(statistics),
        cmocka_unit_test(our_own_api),
        cmocka_unit_test(entity_tags),
        cmocka_unit_test(lists),
    };
    return cmocka_run_group_tests(tests, nv_rig_setup, nv_rig_teardown);
}
