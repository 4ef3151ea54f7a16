/* What may stand in a twin: each rule at its boundary, with the sentence that refuses. */
#include "core/twin_merge.h"

#include "base/alloc.h"
#include "core/twin_json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define S(text) nv_span_str(text)

static bool read_body(nv_span body, nv_twin_form form, nv_verdict *verdict)
{
    nv_twin_patch *patch = nv_malloc(sizeof(*patch));
    char *exact = nv_span_dup(body); /* so that a sanitizer sees one byte too far */
    *verdict = (nv_verdict){.error = NV_HUB_ERROR_NONE};
    bool good = nv_twin_patch_init(patch, nv_span_of(exact, body.len), form, verdict);
    assert_int_equal(good, verdict->error == NV_HUB_ERROR_NONE);
    free(exact);
    nv_twin_patch_deinit(patch);
    free(patch);
    return good;
}

static void expect(nv_span body, nv_twin_form form, nv_hub_error error, const char *sentence)
{
    nv_verdict verdict;
    (void)read_body(body, form, &verdict);
    if (verdict.error != error || (sentence && strcmp(verdict.detail, sentence) != 0)) {
        fail_msg("%.*s\n%s: %s", (int)(body.len < 200 ? body.len : 200), (const char *)body.ptr,
                 nv_hub_error_info_of(verdict.error)->name, verdict.detail);
    }
}

/* ---- what is refused, and how it is said ---- */

#define REPORTED "properties.reported"

/* conformance: semantics.md 5, 6, 7; http-hub.md 24 */
static void each_rule_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        nv_hub_error error;
        const char *sentence;
    } rows[] = {
        {"", NV_HUB_ERROR_IotHubFormatError, "The body is not JSON"},
        {"{", NV_HUB_ERROR_IotHubFormatError, "The body is not JSON"},
        {"{\"a\":1}x", NV_HUB_ERROR_IotHubFormatError, "The body is not JSON"},
        {"{'a':1}", NV_HUB_ERROR_IotHubFormatError, "The body is not JSON"},
        {"{\"a\":\"\xff\"}", NV_HUB_ERROR_IotHubFormatError, "The body is not JSON"},
        {"{\"a\":01}", NV_HUB_ERROR_IotHubFormatError, "The body is not JSON"},
        {"null", NV_HUB_ERROR_ArgumentInvalid, REPORTED ": it is an object"},
        {"[]", NV_HUB_ERROR_ArgumentInvalid, REPORTED ": it is an object"},
        {"5", NV_HUB_ERROR_ArgumentInvalid, REPORTED ": it is an object"},
        {"\"a\"", NV_HUB_ERROR_ArgumentInvalid, REPORTED ": it is an object"},
        /* names */
        {"{\"a.b\":1}", NV_HUB_ERROR_ArgumentInvalid, REPORTED ".a.b: a name holds one of . $ #"},
        {"{\"$a\":1}", NV_HUB_ERROR_ArgumentInvalid, REPORTED ".$a: a name holds one of . $ #"},
        {"{\"a#\":1}", NV_HUB_ERROR_ArgumentInvalid, REPORTED ".a#: a name holds one of . $ #"},
        {"{\"o\":{\"p\":{\"x y\":1}}}", NV_HUB_ERROR_ArgumentInvalid, REPORTED ".o.p.x y: a name holds white space"},
        {"{\"a\\u0020\":1}", NV_HUB_ERROR_ArgumentInvalid, REPORTED ".a : a name holds white space"},
        {"{\"a\xc2\xa0\":1}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"\xe2\x80\x83\":1}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"\xe3\x80\x80\":1}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"a\\t\":1}", NV_HUB_ERROR_ArgumentInvalid, REPORTED ".a\\t: a name holds a control character"},
        {"{\"a\\u0000\":1}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"a\\u001f\":1}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"a\x7f\":1}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"a\\u0085\":1}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"a\xc2\x9f\":1}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"$metadata\":{}}", NV_HUB_ERROR_ArgumentInvalid, REPORTED ".$metadata: a name holds one of . $ #"},
        {"{\"o\":{\"$version\":1}}", NV_HUB_ERROR_ArgumentInvalid, REPORTED ".o.$version: a name holds one of . $ #"},
        {"{\"a\":[{\"b.c\":1}]}", NV_HUB_ERROR_ArgumentInvalid, REPORTED ".a.b.c: a name holds one of . $ #"},
        /* null in arrays, at any depth of them */
        {"{\"a\":[null]}", NV_HUB_ERROR_ArgumentInvalid, REPORTED ".a: null cannot stand in an array"},
        {"{\"a\":[1,{\"b\":null}]}", NV_HUB_ERROR_ArgumentInvalid, REPORTED ".a.b: null cannot stand in an array"},
        /* integers by their text */
        {"{\"a\":4503599627370496}", NV_HUB_ERROR_ArgumentInvalid,
         REPORTED ".a: an integer is from -4503599627370496 to 4503599627370495"},
        {"{\"a\":-4503599627370497}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"a\":[4503599627370496]}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"a\":99999999999999999999999999}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"a\":1e400}", NV_HUB_ERROR_ArgumentInvalid, REPORTED ".a: a number is larger than a double can be"},
        /* half of a pair is no character */
        {"{\"a\":\"\\ud800\"}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"a\":\"\\ud800\\u0041\"}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"a\":\"\\ud800x\"}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"a\":\"\\udc00\"}", NV_HUB_ERROR_ArgumentInvalid, NULL},
        {"{\"\\ud800\":1}", NV_HUB_ERROR_ArgumentInvalid, NULL},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        expect(S(rows[i].body), NV_TWIN_FORM_REPORTED, rows[i].error, rows[i].sentence);
    }
    expect(nv_span_of("{\"a\":\"\0\"}", 9), NV_TWIN_FORM_REPORTED, NV_HUB_ERROR_IotHubFormatError, NULL);
}

static void odd_but_allowed(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "{}",
        " { } ",
        "{\"\":1}",
        "{\"a-b_c:d/e@f\\\"g\\\\h\":1}",
        "{\"\xe6\xb8\xa9\xe5\xba\xa6\":1,\"\xf0\x9f\x98\x80\":2}",
        "{\"a\":4503599627370495,\"b\":-4503599627370496,\"c\":-0}",
        "{\"a\":4503599627370496.0,\"b\":1e300,\"c\":-1E-400}",
        "{\"a\":\"\\u0000\\u001f\\n\"}",
        "{\"a\":\"$ . # in a value\"}",
        "{\"a\":[],\"b\":[[],[{}]],\"c\":[1,\"x\",true,{\"d\":false}]}",
        "{\"a\":null,\"b\":{\"c\":null}}",
        "{\"$version\":4}",
        "{\"$version\":{\"$a\":[null]},\"a\":1}",
    };
    for (size_t i = 0; i < NV_COUNT_OF(bodies); i++) {
        expect(S(bodies[i]), NV_TWIN_FORM_REPORTED, NV_HUB_ERROR_NONE, "");
    }
}

/* ---- boundaries ---- */

/* prefix, @p count times @p unit, suffix; the caller frees */
static char *repeat(const char *prefix, const char *unit, size_t count, const char *suffix)
{
    nv_buf text;
    nv_buf_init(&text, 1u << 24);
    nv_err err = nv_buf_append_str(&text, prefix);
    for (size_t i = 0; i < count; i++) {
        err = err == NV_OK ? nv_buf_append_str(&text, unit) : err;
    }
    err = err == NV_OK ? nv_buf_append_str(&text, suffix) : err;
    assert_int_equal(err, NV_OK);
    char *out = nv_span_dup(nv_buf_span(&text));
    nv_buf_deinit(&text);
    return out;
}

static void expect_repeated(const char *prefix, const char *unit, size_t count, const char *suffix, nv_hub_error error)
{
    char *body = repeat(prefix, unit, count, suffix);
    expect(S(body), NV_TWIN_FORM_REPORTED, error, NULL);
    free(body);
}

/* conformance: semantics.md 6 */
static void lengths_at_their_limits(void **state)
{
    (void)state;
    static const struct {
        const char *prefix;
        const char *unit;
        size_t most;
        const char *suffix;
    } rows[] = {
        {"{\"", "k", 1024, "\":1}"},           {"{\"", "\\u006b", 1024, "\":1}"},
        {"{\"", "\\\"", 1024, "\":1}"},        {"{\"", "\xc3\xa9", 512, "\":1}"},
        {"{\"a\":\"", "v", 4096, "\"}"},       {"{\"a\":[\"", "\xe2\x82\xac", 1365, "\"]}"},
        {"{\"a\":\"", "\\u0001", 4096, "\"}"}, {"{\"a\":\"", "\\ud83d\\ude00", 1024, "\"}"},
        {"{\"a\":0.", "1", 126, "}"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        expect_repeated(rows[i].prefix, rows[i].unit, rows[i].most, rows[i].suffix, NV_HUB_ERROR_NONE);
        expect_repeated(rows[i].prefix, rows[i].unit, rows[i].most + 1, rows[i].suffix, NV_HUB_ERROR_ArgumentInvalid);
    }
}

static void expect_depth(const char *open, const char *close, size_t depth, nv_hub_error error)
{
    char *inner = repeat("{\"a\":", open, depth, "1");
    char *body = repeat(inner, close, depth, "}");
    expect(S(body), NV_TWIN_FORM_REPORTED, error,
           error == NV_HUB_ERROR_NONE || depth > 11 ? NULL
           : open[0] == '{' ? REPORTED ".a.b.b.b.b.b.b.b.b.b.b: objects and arrays are nested deeper than 10 levels"
                            : REPORTED ".a: objects and arrays are nested deeper than 10 levels");
    free(inner);
    free(body);
}

/* conformance: semantics.md 7 */
static void depth_at_its_limit(void **state)
{
    (void)state;
    expect_depth("{\"b\":", "}", 10, NV_HUB_ERROR_NONE);
    expect_depth("{\"b\":", "}", 11, NV_HUB_ERROR_ArgumentInvalid);
    expect_depth("[", "]", 10, NV_HUB_ERROR_NONE);
    expect_depth("[", "]", 11, NV_HUB_ERROR_ArgumentInvalid);
    expect_depth("[", "]", 100000, NV_HUB_ERROR_ArgumentInvalid);
}

static void many_values_are_bounded(void **state)
{
    (void)state;
    expect_repeated("{\"a\":[0", ",0", NV_TWIN_VALUES_MAX - 3, "]}", NV_HUB_ERROR_NONE);
    expect_repeated("{\"a\":[0", ",0", NV_TWIN_VALUES_MAX - 2, "]}", NV_HUB_ERROR_ArgumentInvalid);
}

/* ---- documents of services ---- */

typedef struct sections {
    const char *tags; /* as the patch sees it; NULL: not named */
    const char *desired;
} sections;

static void expect_section(const nv_twin_patch *patch, uint32_t node, const char *want)
{
    if (!want || !node) {
        assert_true(!want && !node);
        return;
    }
    nv_buf out;
    nv_buf_init(&out, 4096);
    assert_int_equal(nv_twin_node_write(patch, node, &out), NV_OK);
    char *text = nv_span_dup(nv_buf_span(&out));
    assert_string_equal(text, want);
    free(text);
    nv_buf_deinit(&out);
}

/* conformance: http-hub.md 22 */
static void services_send_back_whole_twins(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        sections want;
    } rows[] = {
        {"{}", {NULL, NULL}},
        {"{\"deviceId\":\"d\",\"etag\":null,\"version\":[1],\"properties\":{\"reported\":{\"$bad key\":[null]}}}",
         {NULL, NULL}},
        {"{\"tags\":{\"a\":1},\"properties\":{\"desired\":{\"b\":2}}}", {"{\"a\":1}", "{\"b\":2}"}},
        {"{\"Tags\":{\"a\":1},\"PROPERTIES\":{\"Desired\":{\"b\":2}}}", {"{\"a\":1}", "{\"b\":2}"}},
        {"{\"tags\":{\"a\":1},\"tags\":{\"b\":1}}", {"{\"b\":1}", NULL}},
        {"{\"properties\":{\"desired\":{\"a\":1}},\"properties\":{}}", {NULL, NULL}},
        {"{\"properties\":null}", {NULL, NULL}},
        {"{\"tags\":null,\"properties\":{\"desired\":null}}", {"null", "null"}},
        {"{\"properties\":{\"desired\":{\"$metadata\":{\"$lastUpdated\":\"x\",\"a\":{}},\"a\":1,\"$version\":3}}}",
         {NULL, "{\"a\":1}"}},
        {"{\"tags\":{\"$version\":1,\"x\":{},\"$metadata\":7}}", {"{\"x\":{}}", NULL}},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_twin_patch *patch = nv_malloc(sizeof(*patch));
        nv_verdict verdict = {.error = NV_HUB_ERROR_NONE};
        assert_true(nv_twin_patch_init(patch, S(rows[i].body), NV_TWIN_FORM_PATCH, &verdict));
        expect_section(patch, patch->tags, rows[i].want.tags);
        expect_section(patch, patch->desired, rows[i].want.desired);
        assert_int_equal(patch->reported, 0);
        nv_twin_patch_deinit(patch);
        free(patch);
    }
}

static void services_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        nv_twin_form form;
        const char *sentence;
    } rows[] = {
        {"[]", NV_TWIN_FORM_PATCH, "The body: it is an object"},
        {"{\"tags\":[]}", NV_TWIN_FORM_PATCH, "tags: it is an object"},
        {"{\"properties\":1}", NV_TWIN_FORM_PATCH, "properties: it is an object"},
        {"{\"properties\":{\"desired\":\"x\"}}", NV_TWIN_FORM_PATCH, "properties.desired: it is an object"},
        {"{\"properties\":{\"desired\":{\"a\":{\"b c\":1}}}}", NV_TWIN_FORM_PATCH,
         "properties.desired.a.b c: a name holds white space"},
        {"{\"tags\":{\"o\":{\"$metadata\":1}}}", NV_TWIN_FORM_PATCH, "tags.o.$metadata: a name holds one of . $ #"},
        {"{\"tags\":{\"a\":{\"b\":null}}}", NV_TWIN_FORM_REPLACE,
         "tags.a.b: null deletes in a patch; in a replacement it has no place"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        expect(S(rows[i].body), rows[i].form, NV_HUB_ERROR_ArgumentInvalid, rows[i].sentence);
    }
    expect(S("{\"tags\":null,\"properties\":{\"desired\":null}}"), NV_TWIN_FORM_REPLACE, NV_HUB_ERROR_NONE, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rule_refuses),       cmocka_unit_test(odd_but_allowed),
        cmocka_unit_test(lengths_at_their_limits), cmocka_unit_test(depth_at_its_limit),
        cmocka_unit_test(many_values_are_bounded), cmocka_unit_test(services_send_back_whole_twins),
        cmocka_unit_test(services_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
