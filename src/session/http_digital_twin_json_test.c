/** The view of a twin as digital twin, and JSON Patch documents on it (http-hub.md section 10, semantics.md 1.8). */
#include "session/http_digital_twin.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <json-c/json.h>

static struct json_object *parse(const char *text)
{
    struct json_object *tree = NULL;
    if (nv_json_parse(nv_span_str(text), NV_JSON_MAX_DEPTH, 100000, &tree) != NV_OK) {
        fail_msg("%s", text);
    }
    return tree;
}

/** @p desired and @p reported without their braces, as members. */
static struct json_object *twin_of(const char *desired, const char *reported)
{
    char text[8192];
    (void)snprintf(text, sizeof(text),
                   "{\"deviceId\":\"d1\",\"modelId\":\"dtmi:a:b;1\",\"properties\":{"
                   "\"desired\":{%s%s\"$metadata\":{\"$lastUpdated\":\"T0\",\"$lastUpdatedVersion\":1,"
                   "\"p\":{\"$lastUpdated\":\"T1\",\"$lastUpdatedVersion\":4},"
                   "\"c\":{\"$lastUpdated\":\"T2\",\"$lastUpdatedVersion\":5,"
                   "\"q\":{\"$lastUpdated\":\"T3\",\"$lastUpdatedVersion\":6}}},\"$version\":6},"
                   "\"reported\":{%s%s\"$metadata\":{\"$lastUpdated\":\"R0\",\"p\":{\"$lastUpdated\":\"R1\"},"
                   "\"c\":{\"$lastUpdated\":\"R2\",\"q\":{\"$lastUpdated\":\"R3\"},\"r\":{\"$lastUpdated\":\"R4\"}}},"
                   "\"$version\":2}}}",
                   desired, desired[0] ? "," : "", reported, reported[0] ? "," : "");
    return parse(text);
}

static void views(void **state)
{
    (void)state;
    static const struct {
        const char *desired;
        const char *reported;
        const char *want;
    } rows[] = {
        {"", "", "{\"$dtId\":\"d1\",\"$metadata\":{\"$model\":\"dtmi:a:b;1\"}}"},
        /* reported only, desired only */
        {"", "\"p\":21.70",
         "{\"$dtId\":\"d1\",\"$metadata\":{\"$model\":\"dtmi:a:b;1\",\"p\":{\"lastUpdateTime\":\"R1\"}},\"p\":21.70}"},
        {"\"p\":20", "",
         "{\"$dtId\":\"d1\",\"$metadata\":{\"$model\":\"dtmi:a:b;1\",\"p\":{\"desiredValue\":20,\"desiredVersion\":4,"
         "\"lastUpdateTime\":\"T1\"}}}"},
        /* acknowledged, with and without words */
        {"\"p\":20", "\"p\":{\"value\":19,\"ac\":200,\"av\":4,\"ad\":\"done\"}",
         "{\"$dtId\":\"d1\",\"$metadata\":{\"$model\":\"dtmi:a:b;1\",\"p\":{\"desiredValue\":20,\"desiredVersion\":4,"
         "\"ackVersion\":4,\"ackCode\":200,\"ackDescription\":\"done\",\"lastUpdateTime\":\"R1\"}},\"p\":19}"},
        {"", "\"p\":{\"value\":{\"x\":1e3},\"ac\":203,\"av\":0}",
         "{\"$dtId\":\"d1\",\"$metadata\":{\"$model\":\"dtmi:a:b;1\",\"p\":{\"ackVersion\":0,\"ackCode\":203,"
         "\"lastUpdateTime\":\"R1\"}},\"p\":{\"x\":1e3}}"},
        /* an object that is no acknowledgement */
        {"", "\"p\":{\"value\":1,\"ac\":200}",
         "{\"$dtId\":\"d1\",\"$metadata\":{\"$model\":\"dtmi:a:b;1\",\"p\":{\"lastUpdateTime\":\"R1\"}},"
         "\"p\":{\"value\":1,\"ac\":200}}"},
        /* components */
        {"\"c\":{\"__t\":\"c\",\"q\":1}", "\"c\":{\"__t\":\"c\",\"q\":{\"value\":1,\"ac\":200,\"av\":6},\"r\":\"x/y\"}",
         "{\"$dtId\":\"d1\",\"$metadata\":{\"$model\":\"dtmi:a:b;1\"},\"c\":{\"$metadata\":{"
         "\"q\":{\"desiredValue\":1,\"desiredVersion\":6,\"ackVersion\":6,\"ackCode\":200,\"lastUpdateTime\":\"R3\"},"
         "\"r\":{\"lastUpdateTime\":\"R4\"}},\"q\":1,\"r\":\"x/y\"}}"},
        {"\"c\":{\"__t\":\"c\",\"q\":1}", "",
         "{\"$dtId\":\"d1\",\"$metadata\":{\"$model\":\"dtmi:a:b;1\"},\"c\":{\"$metadata\":{"
         "\"q\":{\"desiredValue\":1,\"desiredVersion\":6,\"lastUpdateTime\":\"T3\"}}}}"},
        {"", "\"c\":{\"__t\":\"c\"}",
         "{\"$dtId\":\"d1\",\"$metadata\":{\"$model\":\"dtmi:a:b;1\"},\"c\":{\"$metadata\":{}}}"},
        {"", "\"c\":{\"__t\":\"x\",\"r\":1}",
         "{\"$dtId\":\"d1\",\"$metadata\":{\"$model\":\"dtmi:a:b;1\",\"c\":{\"lastUpdateTime\":\"R2\"}},"
         "\"c\":{\"__t\":\"x\",\"r\":1}}"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        struct json_object *twin = twin_of(rows[i].desired, rows[i].reported);
        nv_buf out;
        nv_buf_init(&out, 1 << 20);
        nv_json_writer w = nv_json_writer_of(&out);
        nv_digital_twin_write(&w, twin);
        assert_int_equal(w.err, NV_OK);
        if (!nv_span_eq_str(nv_buf_span(&out), rows[i].want)) {
            fail_msg("\ngot  %.*s\nwant %s", NV_SPAN_ARG(nv_buf_span(&out)), rows[i].want);
        }
        nv_buf_deinit(&out);
        json_object_put(twin);
    }
    nv_buf out;
    nv_buf_init(&out, 1 << 20);
    nv_json_writer w = nv_json_writer_of(&out);
    struct json_object *bare = parse("{\"deviceId\":\"d\",\"modelId\":\"\"}");
    nv_digital_twin_write(&w, bare);
    assert_true(nv_span_eq_str(nv_buf_span(&out), "{\"$dtId\":\"d\",\"$metadata\":{\"$model\":\"\"}}"));
    nv_buf_deinit(&out);
    json_object_put(bare);
}

#define OP(op, path)         "{\"op\":\"" op "\",\"path\":\"" path "\"}"
#define OPV(op, path, value) "{\"op\":\"" op "\",\"path\":\"" path "\",\"value\":" value "}"
#define COMPONENT            "\"c\":{\"__t\":\"c\",\"q\":1,\"s\":{\"t\":1,\"u\":2}}"

static void patches(void **state)
{
    (void)state;
    static const struct {
        const char *desired;
        const char *reported;
        const char *patch; /* without brackets */
        const char *want;  /* of "desired"; NULL: refused ... */
        const char *says;  /* ... with these words */
    } rows[] = {
        /* root properties */
        {"", "", OPV("add", "/p", "21.70"), "{\"p\":21.70}", NULL},
        {"\"p\":1", "", OPV("replace", "/p", "1"), "{\"p\":1}", NULL},
        {"", "", OPV("replace", "/p", "\"x\""), "{\"p\":\"x\"}", NULL},
        {"\"p\":1", "", OP("remove", "/p"), "{\"p\":null}", NULL},
        {"", "\"p\":1", OP("remove", "/p"), "{\"p\":null}", NULL},
        {"", "", OP("remove", "/p"), NULL, "nothing to remove at \"/p\""},
        {"", "", OPV("add", "/a~1b~0c", "1"), "{\"a/b~c\":1}", NULL},
        /* objects are replaced, not merged */
        {"\"p\":{\"a\":1,\"b\":{\"c\":1,\"d\":2}}", "", OPV("add", "/p", "{\"b\":{\"c\":3},\"e\":[1]}"),
         "{\"p\":{\"a\":null,\"b\":{\"d\":null,\"c\":3},\"e\":[1]}}", NULL},
        {"\"p\":{\"a\":1,\"b\":2}", "", OPV("add", "/p/a", "5"), "{\"p\":{\"a\":5}}", NULL},
        {"\"p\":{\"a\":1,\"b\":2}", "", OP("remove", "/p/a"), "{\"p\":{\"a\":null}}", NULL},
        {"\"p\":1", "", OPV("add", "/p/a", "5"), NULL, "without members"},
        /* components */
        {"", "", OPV("add", "/c", "{\"q\":5,\"$metadata\":{}}"), "{\"c\":{\"q\":5,\"__t\":\"c\"}}", NULL},
        {"", "", OPV("add", "/c", "{\"$metadata\":{}}"), "{\"c\":{\"__t\":\"c\"}}", NULL},
        {"", "", OPV("add", "/c/q", "5"), "{\"c\":{\"q\":5,\"__t\":\"c\"}}", NULL},
        {"", "\"c\":{\"__t\":\"c\",\"q\":1}", OPV("replace", "/c/q", "5"), "{\"c\":{\"q\":5,\"__t\":\"c\"}}", NULL},
        {COMPONENT, "", OPV("replace", "/c/q", "5"), "{\"c\":{\"__t\":\"c\",\"q\":5}}", NULL},
        {COMPONENT, "", OP("remove", "/c/q"), "{\"c\":{\"__t\":\"c\",\"q\":null}}", NULL},
        {COMPONENT, "", OP("remove", "/c/none"), NULL, "nothing to remove at \"/c/none\""},
        {COMPONENT, "", OPV("replace", "/c", "{\"q\":2}"), "{\"c\":{\"s\":null,\"q\":2,\"__t\":\"c\"}}", NULL},
        {COMPONENT, "", OP("remove", "/c"), "{\"c\":null}", NULL},
        {COMPONENT, "", OPV("add", "/c/s", "{\"t\":3}"), "{\"c\":{\"__t\":\"c\",\"s\":{\"u\":null,\"t\":3}}}", NULL},
        /* several operations: the last word counts */
        {"", "", OPV("add", "/p", "1") "," OPV("add", "/p", "2") "," OPV("add", "/r", "3"), "{\"p\":2,\"r\":3}", NULL},
        {"\"p\":1", "", OP("remove", "/p") "," OPV("add", "/p", "2"), "{\"p\":2}", NULL},
        {"", "", OPV("add", "/p", "2") "," OP("remove", "/p"), "{\"p\":null}", NULL},
        {COMPONENT, "", OP("remove", "/c") "," OPV("add", "/c/q", "2"), "{\"c\":{\"s\":null,\"q\":2,\"__t\":\"c\"}}",
         NULL},
        {COMPONENT, "", OPV("add", "/c/q", "2") "," OP("remove", "/c/s"), "{\"c\":{\"__t\":\"c\",\"q\":2,\"s\":null}}",
         NULL},
        {COMPONENT, "", OPV("add", "/c", "{\"q\":7}") "," OPV("add", "/c/s", "1"),
         "{\"c\":{\"s\":1,\"q\":7,\"__t\":\"c\"}}", NULL},
        {COMPONENT, "", OP("remove", "/c") "," OP("remove", "/c"), NULL, "Operation 2"},
        /* what is no patch */
        {"", "", "", NULL, "JSON Patch"},
        {"", "", "7", NULL, "Operation 1"},
        {"", "", "{\"path\":\"/p\",\"value\":1}", NULL, "op, path and value"},
        {"", "", OPV("test", "/p", "1"), NULL, "not supported"},
        {"", "", OPV("move", "/p", "1"), NULL, "not supported"},
        {"", "", OPV("Add", "/p", "1"), NULL, "op is add"},
        {"", "", OP("add", "/p"), NULL, "value is missing"},
        {"", "", OPV("add", "/p", "null"), NULL, "remove"},
        {"", "", OPV("add", "p", "1"), NULL, "path"},
        {"", "", OPV("add", "", "{}"), NULL, "path"},
        {"", "", OPV("add", "/", "1"), NULL, "JSON Pointer"},
        {"", "", OPV("add", "/p~2", "1"), NULL, "JSON Pointer"},
        {"", "", OPV("add", "/p~", "1"), NULL, "JSON Pointer"},
        {"", "", OPV("add", "/p/", "1"), NULL, "nothing deeper"},
        {"", "", OPV("add", "/a/b/c", "1"), NULL, "nothing deeper"},
        {"", "", "{\"op\":\"add\",\"path\":7,\"value\":1}", NULL, "path"},
        {"", "", OPV("add", "/$metadata", "{}"), NULL, "cannot be written"},
        {"", "", OPV("add", "/$dtId", "1"), NULL, "cannot be written"},
        {"", "", OPV("add", "/c/__t", "\"c\""), NULL, "cannot be written"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char text[2000];
        char detail[200] = "";
        (void)snprintf(text, sizeof(text), "[%s]", rows[i].patch);
        struct json_object *twin = twin_of(rows[i].desired, rows[i].reported);
        struct json_object *patch = parse(text);
        struct json_object *merge = nv_digital_twin_patch(patch, twin, detail);
        (void)snprintf(text, sizeof(text), "{\"properties\":{\"desired\":%s}}", rows[i].want ? rows[i].want : "");
        const char *got =
            merge ? json_object_to_json_string_ext(merge, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
                  : detail;
        if (rows[i].want ? strcmp(got, text) != 0 : merge || !strstr(detail, rows[i].says)) {
            fail_msg("%s\ngot  %s\nwant %s", rows[i].patch, got, rows[i].want ? text : rows[i].says);
        }
        json_object_put(merge);
        json_object_put(patch);
        json_object_put(twin);
    }
}

static void patches_are_bounded(void **state)
{
    (void)state;
    char detail[200];
    struct json_object *twin = twin_of("", "");
    struct json_object *patch = json_object_new_array();
    for (size_t i = 0; i < 1000; i++) {
        json_object_array_add(patch, parse(OPV("add", "/p", "1")));
    }
    struct json_object *merge = nv_digital_twin_patch(patch, twin, detail);
    assert_non_null(merge);
    json_object_put(merge);
    json_object_array_add(patch, parse(OPV("add", "/p", "1")));
    assert_null(nv_digital_twin_patch(patch, twin, detail));
    json_object_put(patch);
    patch = parse("{\"op\":\"add\"}");
    assert_null(nv_digital_twin_patch(patch, twin, detail));
    json_object_put(patch);
    json_object_put(twin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views),
        cmocka_unit_test(patches),
        cmocka_unit_test(patches_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
