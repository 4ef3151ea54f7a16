/* Finding values in JSON text without a tree. */
#include "codec/json_path.h"

#include "base/attrs.h"
#include "codec/json.h"

#include <json-c/json.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define S(text) nv_span_str(text)

/* "a.b.0": digits are an index. @return how many steps */
static size_t steps_of(const char *path, nv_json_step *out)
{
    size_t count = 0;
    while (*path) {
        size_t len = strcspn(path, ".");
        uint64_t index = 0;
        out[count] = (nv_json_step){.name = nv_span_of(path, len)};
        if (nv_span_to_u64(out[count].name, &index)) {
            out[count] = (nv_json_step){.index = (uint32_t)index};
        }
        count++;
        path += len + (path[len] == '.' ? 1 : 0);
    }
    return count;
}

static void finds(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        const char *path;
        const char *want; /* "": nothing */
    } rows[] = {
        {"{\"a\":1}", "a", "1"},
        {"{\"a\":1}", "", "{\"a\":1}"},
        {"{\"a\":1}", "b", ""},
        {"{\"a\":1}", "a.b", ""},
        {"{\"aa\":1,\"a\":2}", "a", "2"},
        {"{\"a\":{\"b\":{\"c\":true}}}", "a.b.c", "true"},
        {"{\"a\":{\"b\":{\"c\":true}}}", "a.b", "{\"c\":true}"},
        {"{\"x\":{\"a\":1},\"a\":2}", "a", "2"},                           /* only at its own level */
        {"{\"x\":[{\"a\":1},[2]],\"a\":-2.50e3}", "a", "-2.50e3"},         /* numbers as written */
        {"{\"x\":\"}\",\"a\":\"{\\\"a\\\":0}\",\"b\":null}", "b", "null"}, /* brackets and quotes in strings */
        {"{\"x\":\"\\\\\",\"a\":3}", "a", "3"},                            /* a backslash at the end of a string */
        {"{\"x\":\"\\\\\\\"\",\"a\":3}", "a", "3"},
        {"{\"x\":{\"y\":\"]}\\\\\"},\"a\":3}", "a", "3"},
        {"{\"\\u0061\":1}", "a", "1"}, /* an escaped name */
        {"{\"\\u0061b\":1,\"c\":2}", "c", "2"},
        {"{\"caf\\u00e9\":1}", "caf\xc3\xa9", "1"},
        {"{\"q\\\"\":7}", "q\"", "7"},
        {"{\"a\":[10,20,30]}", "a.1", "20"},
        {"{\"a\":[10,20,30]}", "a.3", ""},
        {"{\"a\":[]}", "a.0", ""},
        {"{\"a\":[[1,2],[3,[4,5]]]}", "a.1.1.0", "4"},
        {"{\"a\":[{\"b\":\"x\"},{\"b\":\"y\"}]}", "a.1.b", "\"y\""},
        {"{\"a\":{\"0\":5}}", "a.0", ""}, /* an index is not a name */
        {"[7]", "a", ""},
        {"{}", "a", ""},
        {"", "a", ""},
        {"5", "", "5"},
        {" { \"a\" : [ 1 , { \"b\" : \"c\" } ] , \"d\" : 9 } ", "a.1.b", "\"c\""},
        {" { \"a\" : [ 1 , { \"b\" : \"c\" } ] , \"d\" : 9 } ", "d", "9"},
        /* no JSON: something inside or nothing, no more is promised */
        {"{\"a\"", "a", ""},
        {"{\"a\":", "a", ""},
        {"{\"a\":}", "a", ""},
        {"{,}", "a", ""},
        {"{\"", "a", ""},
        {"[,", "0", ""},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_json_step steps[8];
        nv_span got = nv_json_find(S(rows[i].json), steps, steps_of(rows[i].path, steps));
        if (!nv_span_eq_str(got, rows[i].want)) {
            fail_msg("%s at %s: got %.*s, want %s", rows[i].json, rows[i].path, NV_SPAN_ARG(got), rows[i].want);
        }
    }
}

static void a_name_may_be_empty(void **state)
{
    (void)state;
    nv_json_step empty = {.name = nv_span_of("", 0)};
    nv_span got = nv_json_find(S("{\"a\":1,\"\":2}"), &empty, 1);
    assert_true(nv_span_eq_str(got, "2"));
}

static void walks(void **state)
{
    (void)state;
    nv_json_walk walk = nv_json_walk_of(S("{\"a\":1,\"b\":[2,{}],\"c\":\"\"}"));
    char text[128] = "";
    while (nv_json_walk_next(&walk)) {
        size_t len = strlen(text);
        (void)snprintf(text + len, sizeof(text) - len, "%.*s=%.*s;", NV_SPAN_ARG(walk.name), NV_SPAN_ARG(walk.value));
    }
    assert_string_equal(text, "a=1;b=[2,{}];c=\"\";");
    walk = nv_json_walk_of(S("[null,[],\"x,y\"]"));
    text[0] = '\0';
    while (nv_json_walk_next(&walk)) {
        size_t len = strlen(text);
        (void)snprintf(text + len, sizeof(text) - len, "%.*s;", NV_SPAN_ARG(walk.value));
    }
    assert_string_equal(text, "null;[];\"x,y\";");
    walk = nv_json_walk_of(S("17"));
    assert_false(nv_json_walk_next(&walk));
    walk = nv_json_walk_of(NV_SPAN_EMPTY);
    assert_false(nv_json_walk_next(&walk));
}

static void unescapes(void **state)
{
    (void)state;
    static const struct {
        const char *inner;
        const char *want;
    } rows[] = {
        {"plain", "plain"},
        {"a\\\"b\\\\c\\/d", "a\"b\\c/d"},
        {"\\b\\f\\n\\r\\t", "\b\f\n\r\t"},
        {"\\u0041\\u00e9\\u20AC", "A\xc3\xa9\xe2\x82\xac"},
        {"\\ud83d\\ude00!", "\xf0\x9f\x98\x80!"},
        {"\\ud83d!", "\xef\xbf\xbd!"},
        {"\\ude00", "\xef\xbf\xbd"},
        {"\\ud83d\\u0041", "\xef\xbf\xbd"
                           "A"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint8_t out[64];
        size_t len = nv_json_unescape(S(rows[i].inner), out);
        assert_true(len <= strlen(rows[i].inner));
        assert_true(nv_span_eq_str(nv_span_of(out, len), rows[i].want));
    }
}

/* The short way gives the same double as strtod, bit by bit. */
static void numbers(void **state)
{
    (void)state;
    static const char *const texts[] = {"0",
                                        "-0",
                                        "1",
                                        "-1",
                                        "21.7",
                                        "0.1",
                                        "-0.000001",
                                        "1e3",
                                        "1.0",
                                        "1E-7",
                                        "0.30000000000000004",
                                        "9007199254740991",
                                        "9007199254740993",
                                        "4503599627370495",
                                        "1e400",
                                        "-1e400",
                                        "123456789012345678901234567890",
                                        "0.1234567890123456789012345",
                                        "5e-324"};
    for (size_t i = 0; i < NV_COUNT_OF(texts); i++) {
        double got = 1;
        double want = strtod(texts[i], NULL);
        assert_true(nv_json_number(S(texts[i]), &got));
        assert_memory_equal(&got, &want, sizeof(got));
    }
    uint64_t random = 7;
    for (int i = 0; i < 100000; i++) {
        char text[40];
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        (void)snprintf(text, sizeof(text), "%.*f", (int)(random >> 60), (double)(int64_t)(random >> 20) / 1e5);
        double got = 0;
        double want = strtod(text, NULL);
        assert_true(nv_json_number(S(text), &got));
        assert_memory_equal(&got, &want, sizeof(got));
    }
    static const char *const none[] = {"", "-", "a", "1x", "0x10", "true", ".5", "--1", "1.2.3", "1e"};
    for (size_t i = 0; i < NV_COUNT_OF(none); i++) {
        double got = 0;
        if (nv_json_number(S(none[i]), &got)) {
            fail_msg("%s is taken for a number", none[i]);
        }
    }
}

/* ---- against trees ------------------------------------------------------------------------------------------ */

static uint64_t seed_state;
static uint32_t random_below(uint32_t limit)
{
    seed_state = seed_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(seed_state >> 33) % limit;
}

static const char *const names[] = {"a", "b", "ab", "\"", "\\", "\xc3\xa9", "c\n", "{", ""};

static struct json_object *random_tree(uint32_t depth)
{
    uint32_t kind = random_below(depth > 0 ? 7 : 5);
    if (kind == 0) {
        return json_object_new_int((int)random_below(1000) - 500);
    }
    if (kind == 1) {
        return json_object_new_string(names[random_below(NV_COUNT_OF(names))]);
    }
    if (kind <= 3) {
        return json_object_new_boolean(kind == 2);
    }
    if (kind == 4) {
        return NULL;
    }
    struct json_object *tree = kind == 5 ? json_object_new_array() : json_object_new_object();
    for (uint32_t i = random_below(5); i > 0; i--) {
        if (kind == 5) {
            json_object_array_add(tree, random_tree(depth - 1));
        } else {
            json_object_object_add(tree, names[random_below(NV_COUNT_OF(names))], random_tree(depth - 1));
        }
    }
    return tree;
}

/* Follow the path in the tree. @return false: there is no such value */
static bool follow(struct json_object *tree, const nv_json_step *steps, size_t count, struct json_object **out)
{
    for (size_t i = 0; i < count; i++) {
        if (steps[i].name.ptr) {
            if (!json_object_is_type(tree, json_type_object) ||
                !json_object_object_get_ex(tree, (const char *)steps[i].name.ptr, &tree)) {
                return false;
            }
        } else {
            if (!json_object_is_type(tree, json_type_array) || steps[i].index >= json_object_array_length(tree)) {
                return false;
            }
            tree = json_object_array_get_idx(tree, steps[i].index);
        }
    }
    *out = tree;
    return true;
}

static void same_as_a_tree(void **state)
{
    (void)state;
    seed_state = (uint64_t)(uintptr_t)&state ^ 0x5eed;
    const char *given = getenv("NAVE_TEST_SEED");
    seed_state = given ? strtoull(given, NULL, 10) : seed_state;
    print_message("seed %llu\n", (unsigned long long)seed_state);
    static const int formats[] = {JSON_C_TO_STRING_PLAIN, JSON_C_TO_STRING_SPACED, JSON_C_TO_STRING_PRETTY};
    for (int round = 0; round < 20000; round++) {
        struct json_object *tree = random_tree(4);
        const char *text = json_object_to_json_string_ext(tree, formats[random_below(3)]);
        nv_json_step steps[4];
        size_t count = random_below(5);
        for (size_t i = 0; i < count; i++) {
            steps[i] = random_below(3) == 0 ? (nv_json_step){.index = random_below(4)}
                                            : (nv_json_step){.name = S(names[random_below(NV_COUNT_OF(names))])};
        }
        nv_span got = nv_json_find(S(text), steps, count);
        struct json_object *want = NULL;
        bool there = follow(tree, steps, count, &want);
        struct json_object *value = NULL;
        if (there != (got.len > 0) ||
            (there && (nv_json_parse(got, 64, 1000, &value) != NV_OK || !json_object_equal(value, want)))) {
            fail_msg("round %d: %s: got %.*s", round, text, NV_SPAN_ARG(got));
        }
        json_object_put(value);
        json_object_put(tree);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds),   cmocka_unit_test(a_name_may_be_empty),
        cmocka_unit_test(walks),   cmocka_unit_test(unescapes),
        cmocka_unit_test(numbers), cmocka_unit_test(same_as_a_tree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
