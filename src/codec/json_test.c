/** Unit tests of the JSON writer and checker. */
#include "codec/json.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <json-c/json.h>

static void assert_buf(const nv_buf *buf, const char *want)
{
    if (!nv_span_eq_str(nv_buf_span(buf), want)) {
        fail_msg("got  %.*s\nwant %s", NV_SPAN_ARG(nv_buf_span(buf)), want);
    }
}

static void checker_accepts_json_only(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        nv_err err;
        const char *compact;
    } rows[] = {
        {"{}", NV_OK, "{}"},
        {" [ ] ", NV_OK, "[]"},
        {"{ \"a\" : [ 1 , 2.50 , -0 , 1e3 , 1E+3 ] ,\n\t\"b c\" : null }", NV_OK,
         "{\"a\":[1,2.50,-0,1e3,1E+3],\"b c\":null}"},
        {"\"\\u00e9 \\n \xc3\xa9\"", NV_OK, "\"\\u00e9 \\n \xc3\xa9\""},
        {"0", NV_OK, "0"},
        {"21.7", NV_OK, "21.7"},
        {"true", NV_OK, "true"},
        {"[[[[1]]]]", NV_OK, "[[[[1]]]]"},
        {"[[[[[1]]]]]", NV_E_TOO_BIG, ""},
        {"[1,2,3,4,5,6,7,8,9,10]", NV_E_TOO_BIG, ""},
        {"", NV_E_SYNTAX, ""},
        {" ", NV_E_SYNTAX, ""},
        {"{", NV_E_SYNTAX, ""},
        {"{\"a\"}", NV_E_SYNTAX, ""},
        {"{\"a\":1,}", NV_E_SYNTAX, ""},
        {"[1,]", NV_E_SYNTAX, ""},
        {"[1 2]", NV_E_SYNTAX, ""},
        {"{\"a\":1]", NV_E_SYNTAX, ""},
        {"1 2", NV_E_SYNTAX, ""},
        {"01", NV_E_SYNTAX, ""},
        {"1.", NV_E_SYNTAX, ""},
        {".5", NV_E_SYNTAX, ""},
        {"+1", NV_E_SYNTAX, ""},
        {"1e", NV_E_SYNTAX, ""},
        {"-", NV_E_SYNTAX, ""},
        {"NaN", NV_E_SYNTAX, ""},
        {"nul", NV_E_SYNTAX, ""},
        {"truey", NV_E_SYNTAX, ""},
        {"'a'", NV_E_SYNTAX, ""},
        {"\"a", NV_E_SYNTAX, ""},
        {"\"\\x\"", NV_E_SYNTAX, ""},
        {"\"\\u12g4\"", NV_E_SYNTAX, ""},
        {"\"a\nb\"", NV_E_SYNTAX, ""},
        {"\"\xc0\xaf\"", NV_E_SYNTAX, ""},
        {"\"\xed\xa0\x80\"", NV_E_SYNTAX, ""},
        {"/*c*/1", NV_E_SYNTAX, ""},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_buf out;
        nv_buf_init(&out, 1000);
        nv_err err = nv_json_compact(nv_span_str(rows[i].text), 4, 10, &out);
        if (err != rows[i].err) {
            fail_msg("%s: %s", rows[i].text, nv_err_name(err));
        }
        assert_buf(&out, rows[i].compact);
        nv_buf_deinit(&out);
    }
}

static void compact_restores_a_full_buffer(void **state)
{
    (void)state;
    nv_buf out;
    nv_buf_init(&out, 8);
    assert_int_equal(nv_buf_append_str(&out, "ab"), NV_OK);
    assert_int_equal(nv_json_compact(nv_span_str("[1, 2, 3, 4]"), 4, 10, &out), NV_E_TOO_BIG);
    assert_buf(&out, "ab");
    assert_int_equal(nv_json_compact(nv_span_str("[1, 2]"), 4, 10, &out), NV_OK);
    assert_buf(&out, "ab[1,2]");
    nv_buf_deinit(&out);
}

static void writer_escapes_and_separates(void **state)
{
    (void)state;
    nv_buf out;
    nv_buf_init(&out, 1000);
    nv_json_writer w = nv_json_writer_of(&out);
    nv_json_begin_object(&w);
    nv_json_key(&w, "s");
    nv_json_string(&w, nv_span_of("a\"\\\n\x01\x00\x7f\xff\xc3\xa9", 10));
    nv_json_key(&w, "n");
    nv_json_begin_array(&w);
    nv_json_int(&w, INT64_MIN);
    nv_json_uint(&w, UINT64_MAX);
    nv_json_double(&w, 0.5);
    nv_json_double(&w, (double)INFINITY);
    nv_json_bool(&w, true);
    nv_json_null(&w);
    nv_json_end_array(&w);
    nv_json_key(&w, "b");
    nv_json_base64(&w, nv_span_str("hello"));
    nv_json_key(&w, "o");
    nv_json_begin_object(&w);
    nv_json_end_object(&w);
    nv_json_end_object(&w);
    assert_int_equal(w.err, NV_OK);
    assert_buf(&out, "{\"s\":\"a\\\"\\\\\\n\\u0001\\u0000\\u007f\xef\xbf\xbd\xc3\xa9\","
                     "\"n\":[-9223372036854775808,18446744073709551615,0.5,\"Infinity\",true,null],"
                     "\"b\":\"aGVsbG8=\",\"o\":{}}");
    assert_int_equal(nv_json_check(nv_buf_span(&out), 4, 100), NV_OK);
    nv_buf_deinit(&out);
}

static void writer_error_sticks(void **state)
{
    (void)state;
    nv_buf out;
    nv_buf_init(&out, 4);
    nv_json_writer w = nv_json_writer_of(&out);
    nv_json_str(&w, "abcdef");
    nv_json_base64(&w, nv_span_str("x"));
    assert_int_equal(w.err, NV_E_TOO_BIG);
    nv_buf_deinit(&out);
}

static void trees_are_read_without_case(void **state)
{
    (void)state;
    struct json_object *tree = NULL;
    assert_int_equal(nv_json_parse(nv_span_str("{\"ETag\":\"x\",\"etag\":\"y\",\"Id\":1,\"n\":null}"), 4, 10, &tree),
                     NV_OK);
    nv_span text;
    assert_true(nv_json_as_string(nv_json_member(tree, "etag"), &text));
    assert_true(nv_span_eq_str(text, "y"));
    assert_true(nv_json_as_string(nv_json_member(tree, "eTag"), &text));
    assert_true(nv_span_eq_str(text, "x"));
    assert_non_null(nv_json_member(tree, "iD"));
    assert_false(nv_json_as_string(nv_json_member(tree, "id"), &text));
    assert_null(nv_json_member(tree, "n"));
    assert_null(nv_json_member(NULL, "n"));
    json_object_put(tree);
    assert_int_equal(nv_json_parse(nv_span_str("12"), 4, 10, &tree), NV_OK);
    assert_int_equal(json_object_get_int(tree), 12);
    json_object_put(tree);
    assert_int_equal(nv_json_parse(nv_span_str("null"), 4, 10, &tree), NV_OK);
    assert_null(tree);
    assert_int_equal(nv_json_parse(nv_span_str("{1:2}"), 4, 10, &tree), NV_E_SYNTAX);
}

static void members_as_they_stand(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *want; /* "name=value;" of each */
    } rows[] = {
        {"{}", ""},
        {"{\"a\":1}", "a=1;"},
        {"{\"a\":1.0,\"b\":{\"c\":[1,{\"}\":\"],\\\"\"}]},\"d\":\"x,y\"}",
         "a=1.0;b={\"c\":[1,{\"}\":\"],\\\"\"}]};d=\"x,y\";"},
        {"{\"q\\\"\":null,\"\":-1e3}", "q\\\"=null;=-1e3;"},
        {"[1,2]", ""},
        {"1", ""},
        {"", ""},
        {"{\"a", ""},
        {"{\"a\"", ""},
        {"{\"a\":", ""},
        {"{\"a\":\"b", ""},
        {"{\"a\":[1", ""},
        {"{\"a\":1,", "a=1;"},
        {"{\"a\":}", ""},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char got[200] = "";
        size_t len = 0;
        size_t at = 0;
        nv_span name;
        nv_span value;
        while (nv_json_next_member(nv_span_str(rows[i].text), &at, &name, &value)) {
            len += (size_t)snprintf(got + len, sizeof(got) - len, "%.*s=%.*s;", NV_SPAN_ARG(name), NV_SPAN_ARG(value));
        }
        assert_string_equal(got, rows[i].want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checker_accepts_json_only),    cmocka_unit_test(compact_restores_a_full_buffer),
        cmocka_unit_test(writer_escapes_and_separates), cmocka_unit_test(writer_error_sticks),
        cmocka_unit_test(trees_are_read_without_case),  cmocka_unit_test(members_as_they_stand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
