/* The expression engine over rows that are plain JSON objects. */
#include "core/expr.h"

#include "base/attrs.h"
#include "codec/json.h"
#include "core/expr_parse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define S(text) nv_span_str(text)

typedef struct json_row {
    nv_span json;
    nv_arena *scratch;
} json_row;

static nv_datum resolve(void *arg, const nv_expr_path *path)
{
    const json_row *row = arg;
    return nv_datum_of_json(nv_json_find(row->json, path->steps, path->count), row->scratch);
}

/* 'T', 'F', 'U', or 'E' with the error in @p error, "what, line:column". */
static char outcome(const char *text, const char *json, char error[160])
{
    nv_arena tree = {0};
    nv_arena scratch = {0};
    nv_parser parser;
    nv_parser_init(&parser, S(text), &tree);
    const nv_expr *expr = nv_parser_condition(&parser);
    if (expr && parser.token.kind != NV_TOKEN_END) {
        nv_parser_expected(&parser, "the end");
    }
    char result = 'E';
    if (!parser.failed) {
        json_row row = {S(json), &scratch};
        nv_expr_env env = {resolve, &row, &scratch};
        nv_datum value = nv_expr_eval(expr, &env);
        result = value.kind != NV_DATUM_BOOL ? 'U' : value.boolean ? 'T' : 'F';
        assert_int_equal(nv_expr_selects(expr, &env), result == 'T');
    }
    (void)snprintf(error, 160, "%s, %u:%u", parser.error, parser.error_pos.line, parser.error_pos.column);
    nv_arena_deinit(&scratch);
    nv_arena_deinit(&tree);
    return result;
}

typedef struct sample {
    char want;
    const char *text;
} sample;

static void check_all(const char *json, const sample *samples, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char error[160];
        char got = outcome(samples[i].text, json, error);
        if (got != samples[i].want) {
            fail_msg("%s: got %c, want %c (%s)", samples[i].text, got, samples[i].want, error);
        }
    }
}

static const char row_json[] =
    "{\"n\":5,\"x\":21.70,\"big\":1e3,\"neg\":-2,\"s\":\"Abc\",\"e\":\"\",\"esc\":\"a\\\"b\\u00e9\",\"t\":true,\"f\":"
    "false,"
    "\"z\":null,\"o\":{\"p\":{\"q\":1},\"in\":2,\"$version\":3,\"a-b\":4},\"a\":[1,\"two\",[3],{\"k\":\"v\"},null],"
    "\"num\":\"50\",\"sp\":\" 1.5e1 \",\"smile\":\"a\xf0\x9f\x98\x80z\",\"c\":{\"a.b-c d\":{\"status\":\"Applied\"}},"
    "\"gr\xc3\xb6\xc3\x9f"
    "e\":9,\"date\":\"2024-05-01T10:00:00Z\",\"AND\":1}";

/* conformance: semantics.md 17 */
static void logic_and_comparison(void **state)
{
    (void)state;
    static const sample samples[] = {
        /* comparable: primitives of one type */
        {'T', "n = 5"},
        {'T', "n = 5.0"},
        {'F', "n = 6"},
        {'T', "x = 21.7"},
        {'T', "big = 1000"},
        {'T', "n != 6"},
        {'T', "n <> 6"},
        {'T', "n < 6"},
        {'T', "n <= 5"},
        {'F', "n > 5"},
        {'T', "n >= 5"},
        {'T', "neg < 0"},
        {'T', "s = 'Abc'"},
        {'F', "s = 'abc'"},
        {'T', "s < 'B'"},
        {'T', "s < 'abc'"},
        {'T', "s = \"Abc\""},
        {'T', "e = ''"},
        {'T', "t = true"},
        {'F', "t = f"},
        {'T', "f < t"},
        {'T', "esc = 'a\"b\xc3\xa9'"},
        {'T', "date > '2024-01-01T00:00:00Z'"},
        /* different defined types */
        {'F', "n = '5'"},
        {'T', "n != '5'"},
        {'F', "n < '6'"},
        {'F', "n > '4'"},
        {'F', "t = 1"},
        {'T', "t <> 1"},
        {'F', "num = 50"},
        {'T', "n != null"},
        {'F', "n = null"},
        /* null, and only explicit null */
        {'T', "z = null"},
        {'F', "z != null"},
        {'T', "null = null"},
        {'F', "z < null"},
        /* missing */
        {'U', "missing = 1"},
        {'U', "missing != 1"},
        {'U', "missing < 1"},
        {'U', "missing = missing"},
        {'U', "missing = null"},
        {'U', "missing = undefined"},
        {'U', "NOT missing = 1"},
        {'U', "missing IN [1]"},
        {'U', "missing NIN [1]"},
        {'T', "NOT is_defined(missing)"},
        {'F', "is_defined(missing)"},
        {'T', "is_defined(z)"},
        {'U', "missing.deeper.still = 1"},
        {'U', "n.x = 1"},
        /* objects and arrays are not compared */
        {'U', "o = o"},
        {'U', "o != o"},
        {'U', "a = a"},
        {'F', "o = 'x'"},
        {'T', "o != 'x'"},
        {'F', "o > 1"},
        /* three values */
        {'F', "missing AND false"},
        {'F', "false AND missing"},
        {'U', "missing AND true"},
        {'T', "missing OR true"},
        {'T', "true OR missing"},
        {'U', "missing OR false"},
        {'U', "NOT missing"},
        {'F', "NOT true"},
        {'T', "NOT false"},
        {'F', "undefined AND false"},
        {'T', "undefined OR true"},
        {'U', "undefined"},
        {'U', "null"},
        {'U', "n"},
        {'T', "t"},
        {'F', "f"},
        {'U', "s AND true"},
        {'T', "n OR true"},
        /* path against path */
        {'T', "o.p.q < o.in"},
        {'F', "n = x"},
    };
    check_all(row_json, samples, NV_COUNT_OF(samples));
}

static void precedence(void **state)
{
    (void)state;
    static const sample samples[] = {
        {'T', "true OR false AND false"},
        {'F', "(true OR false) AND false"},
        {'T', "NOT n = 6"},
        {'T', "NOT NOT n = 5"},
        {'T', "NOT false AND true"},
        {'F', "NOT (false OR true)"},
        {'T', "1 + 2 * 3 = 7"},
        {'T', "(1 + 2) * 3 = 9"},
        {'T', "10 - 3 - 2 = 5"},
        {'T', "16 / 4 / 2 = 2"},
        {'T', "7 % 4 = 3"},
        {'T', "-n = -5"},
        {'T', "- -n = 5"},
        {'T', "2 - -1 = 3"},
        {'T', "n - 1 = 4"},
        {'T', "n -1 = 4"},
        {'T', "5-1 = 4"},
        {'T', "n*2=10"},
        {'T', "n + 1 > 5 AND n + 1 < 7"},
        {'T', "n = 5 or missing = 1"},
        {'T', "n = 1 OR n = 2 OR n = 5 AND t"},
        {'U', "n / 0 = missing"},
        {'T', "n / 0 > 1000"},
        {'T', "-n / 0 < -1000"},
        {'U', "n % 0 = 0"},
        {'U', "0 / 0 = 0"},
        {'U', "s + 1 = 2"},
        {'U', "missing + 1 = 2"},
        {'T', "is_bool(n = 5)"},
        {'T', "(n = 5) = true"},
    };
    check_all(row_json, samples, NV_COUNT_OF(samples));
}

/* conformance: semantics.md 16, 23 */
static void words_paths_constants(void **state)
{
    (void)state;
    static const sample samples[] = {
        /* keywords in any case, constants too */
        {'T', "t AnD nOt f"},
        {'T', "TRUE"},
        {'F', "False"},
        {'U', "Undefined"},
        {'T', "n iN [5]"},
        {'T', "Is_Defined(n)"},
        /* names keep their case */
        {'U', "N = 5"},
        {'U', "o.P.q = 1"},
        /* paths */
        {'T', "o.p.q = 1"},
        {'T', "o.in = 2"},
        {'T', "o.$version = 3"},
        {'T', "o.a-b = 4"},
        {'T', "a[0] = 1"},
        {'T', "a[1] = 'two'"},
        {'T', "a[2][0] = 3"},
        {'T', "a[3].k = 'v'"},
        {'U', "a[9] = 1"},
        {'U', "a.0 = 1 "},
        {'T', "c.[[a.b-c d]].status = 'Applied'"},
        {'T', "o . p . q = 1"},
        {'T', "gr\xc3\xb6\xc3\x9f"
              "e = 9"},
        {'T', "devices.n = 5"},
        {'T', "devices.modules.n = 5"},
        {'T', "Devices.o.in = 2"},
        {'T', "devices.jobs.n = 5"},
        {'T', "devices.AND = 1"},
        /* constants */
        {'T', "n = 0x5"},
        {'T', "big = 0x3E8"},
        {'T', "n = 0.5e1"},
        {'T', "n = 50E-1"},
        {'T', "x > .5"},
        {'T', "'it''s' = \"it's\""},
        {'T', "'a\\'b' = \"a'b\""},
        {'T', "'\\u0041bc' = s"},
        {'T', "'\\\\' != '\\\\\\\\'"},
        {'T', "\"\\\"\" = '\"'"},
        {'T', "'\\ud83d\\ude00' = '\xf0\x9f\x98\x80'"},
        /* IN and NIN */
        {'T', "n IN [1, 5]"},
        {'F', "n IN [1]"},
        {'F', "n IN []"},
        {'T', "n NIN []"},
        {'F', "n NIN [5]"},
        {'T', "s IN ['x', 'Abc']"},
        {'F', "s IN ['abc']"},
        {'T', "neg IN [-2]"},
        {'T', "z IN [null]"},
        {'F', "n IN ['5']"},
        {'T', "n NIN ['5']"},
        {'T', "NOT n IN [1]"},
        {'F', "o IN [1]"},
        {'T', "n IN [[5], 5]"},
    };
    sample fixed[NV_COUNT_OF(samples)];
    memcpy(fixed, samples, sizeof(samples));
    for (size_t i = 0; i < NV_COUNT_OF(fixed); i++) {
        fixed[i].want = strcmp(fixed[i].text, "a.0 = 1 ") == 0 ? 'E' : fixed[i].want; /* a dot wants a name */
    }
    check_all(row_json, fixed, NV_COUNT_OF(fixed));
}

/* conformance: semantics.md 18, 33 */
static void functions(void **state)
{
    (void)state;
    static const sample samples[] = {
        {'T', "STARTSWITH(s, 'Ab')"},
        {'F', "STARTSWITH(s, 'ab')"},
        {'T', "starts_with(s, '')"},
        {'T', "ENDSWITH(s, 'bc')"},
        {'T', "ends_with(s, 'Abc')"},
        {'F', "endswith(s, 'xAbc')"},
        {'U', "startswith(n, 'a')"},
        {'U', "startswith(missing, 'a')"},
        {'T', "contains(s, 'b')"},
        {'F', "contains(s, 'B')"},
        {'T', "contains(e, '')"},
        {'T', "array_contains(a, 1)"},
        {'T', "ARRAY_CONTAINS(a, 'two')"},
        {'F', "array_contains(a, 3)"},
        {'T', "array_contains(a, null)"},
        {'U', "array_contains(s, 'A')"},
        {'U', "array_contains(missing, 1)"},
        {'T', "array_contains(['x', 1.0], 1)"},
        /* types */
        {'T', "is_bool(t)"},
        {'F', "is_bool(n)"},
        {'T', "is_number(x)"},
        {'F', "is_number(s)"},
        {'F', "is_number(3/0)"},
        {'T', "is_string(e)"},
        {'F', "is_string(missing)"},
        {'F', "is_number(missing)"},
        {'F', "is_bool(missing)"},
        {'T', "is_null(z)"},
        {'F', "is_null(n)"},
        {'F', "is_null(missing)"},
        {'T', "is_array(a)"},
        {'F', "is_array(o)"},
        {'T', "is_object(o)"},
        {'F', "is_object(a)"},
        {'T', "is_primitive(z)"},
        {'T', "is_primitive(s)"},
        {'F', "is_primitive(o)"},
        {'F', "is_primitive(missing)"},
        /* numbers */
        {'T', "abs(neg) = 2"},
        {'T', "exp(0) = 1"},
        {'T', "square(neg) = 4"},
        {'T', "ceiling(x) = 22"},
        {'T', "floor(x) = 21"},
        {'T', "floor(-0.5) = -1"},
        {'T', "sign(neg) = -1"},
        {'T', "sign(0) = 0"},
        {'T', "sign(x) = 1"},
        {'T', "sqrt(16) = 4"},
        {'U', "sqrt(neg) = 0"},
        {'T', "NOT is_number(sqrt(-1))"},
        {'T', "power(2, 10) = 1024"},
        {'U', "abs(s) = 1"},
        {'T', "as_number(num) = 50"},
        {'T', "as_number(sp) = 15"},
        {'T', "as_number(n) = 5"},
        {'U', "as_number('x') = 1"},
        {'U', "as_number('') = 0"},
        {'U', "as_number('1 2') = 1"},
        {'T', "as_number('+.5') = 0.5"},
        {'T', "as_number('-3.') = -3"},
        {'T', "as_number('10e1000') > 1e300"},
        {'T', "as_number('007') = 7"},
        {'U', "as_number('0x10') = 16"},
        {'U', "as_number(t) = 1"},
        {'U', "as_number('1e') = 1"},
        {'U', "as_number('.') = 0"},
        {'U', "as_number('Infinity') > 0"},
        /* strings */
        {'T', "concat('a', s, 'z') = 'aAbcz'"},
        {'U', "concat('a', missing) = 'a'"},
        {'U', "concat('a', n) = 'a5'"},
        {'T', "length(s) = 3"},
        {'T', "length('') = 0"},
        {'T', "length(smile) = 4"},
        {'T', "lower(s) = 'abc'"},
        {'T', "upper(s) = 'ABC'"},
        {'T', "substring(s, 0) = 'Abc'"},
        {'T', "substring(s, 3) = ''"},
        {'U', "substring(s, 4) = ''"},
        {'U', "substring(s, -1) = 'Abc'"},
        {'T', "substring(s, 1, 2) = 'bc'"},
        {'T', "substring(s, 1, 0) = ''"},
        {'U', "substring(s, 1, 3) = 'bc'"},
        {'U', "substring(s, 3, 0) = ''"},
        {'U', "substring(s, 0, -1) = ''"},
        {'U', "substring(s, 0.5) = 'Abc'"},
        {'T', "substring(smile, 3) = 'z'"},
        {'U', "substring(smile, 2) = 'z'"},
        {'T', "substring(smile, 1, 2) = '\xf0\x9f\x98\x80'"},
        {'T', "index_of(s, 'c') = 2"},
        {'T', "index_of(s, 'x') = -1"},
        {'T', "index_of(smile, 'z') = 3"},
        {'T', "index_of(s, '') = 0"},
        {'U', "index_of(n, '5') = 0"},
    };
    check_all(row_json, samples, NV_COUNT_OF(samples));
}

static void errors_say_where(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *want;
    } rows[] = {
        {"", "expected a property or a constant, found the end of the text, 1:1"},
        {"a = ", "expected a property or a constant, found the end of the text, 1:5"},
        {"a == 1", "expected a property or a constant, found '=', 1:4"},
        {"a = 1 b", "expected the end, found 'b', 1:7"},
        {"a = 'x", "a string that does not end, 1:5"},
        {"a =\n  'x\\y'", "a backslash that is no escape (\\\\ \\' \\\" \\uXXXX), 2 bytes into the string, 2:3"},
        {"\xc3\xb6\xc3\xb6 = ;", "a character that has no meaning here, 1:6"},
        {"(a = 1", "expected ')', found the end of the text, 1:7"},
        {"a = 1)", "expected the end, found ')', 1:6"},
        {"a.", "expected a name behind the dot, found the end of the text, 1:3"},
        {"a.'b' = 1", "expected a name behind the dot, found 'b', 1:3"},
        {"a.[[b = 1", "a name in [[ that does not end with ]], 1:3"},
        {"a[x] = 1", "expected the index of an element, found 'x', 1:3"},
        {"a[0x1] = 1", "expected the index of an element, found '0x1', 1:3"},
        {"a IN 1", "expected an array like ['a', 'b'], found '1', 1:6"},
        {"a IN [b]", "expected a constant, found 'b', 1:7"},
        {"a IN [1", "expected ',' or ']', found the end of the text, 1:8"},
        {"a IN [1,]", "expected a constant, found ']', 1:9"},
        {"12ab = 1", "a number that goes on as a name, 1:1"},
        {"1e999 = a", "a number that is too long or too large, 1:1"},
        {"select = 1", "expected a property or a constant, found 'select', 1:1"},
        {"a AND 5", "expected a condition, found a number, 1:7"},
        {"'x' OR a", "expected a condition, found a string, 1:1"},
        {"5", "expected a condition, found a number, 1:1"},
        {"length(a)", "expected a condition, found a number, 1:1"},
        {"NOT 'a' = a", ""},
        {"'a' + 1 = 2", "expected a number, found a string, 1:1"},
        {"1 + (a = 2) = 2", "expected a number, found a condition, 1:6"},
        {"nope(a)", "unknown function 'nope', 1:1"},
        {"is_defined()", "IS_DEFINED takes 1 argument, found 0, 1:1"},
        {"is_defined(1)", "IS_DEFINED takes a property as argument 1, found a number, 1:12"},
        {"is_defined(a + 1)", "IS_DEFINED takes a property as argument 1, found a number, 1:12"},
        {"concat(a) = 'x'", "CONCAT takes at least 2 arguments, found 1, 1:1"},
        {"substring(a, 1, 2, 3) = 'x'", "SUBSTRING takes at most 3 arguments, found 4, 1:1"},
        {"startswith(a, 5)", "STARTSWITH takes a string as argument 2, found a number, 1:15"},
        {"abs('x') = 1", "ABS takes a number as argument 1, found a string, 1:5"},
        {"startswith(a 'x')", "expected ',' or ')', found 'x', 1:14"},
        {"a = 1 AND\n\nb = = 2", "expected a property or a constant, found '=', 3:5"},
        {"a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v.w.x.y.z.a.b.c.d.e.f.g",
         "a property more than 32 levels deep, 1:65"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char error[160];
        char got = outcome(rows[i].text, "{}", error);
        assert_int_equal(got == 'E', rows[i].want[0] != '\0');
        if (got == 'E') {
            assert_string_equal(error, rows[i].want);
        }
    }
}

/* Text of a peer bounds what it can make the engine do. */
static void bounds(void **state)
{
    (void)state;
    static char text[200000];
    char error[160];
    size_t at = 0;
    for (int i = 0; i < 64; i++) {
        text[at++] = '(';
    }
    (void)snprintf(text + at, sizeof(text) - at, "a%s", "");
    memset(text + at + 1, ')', 64);
    text[at + 65] = '\0';
    assert_int_equal(outcome(text, "{\"a\":true}", error), 'T');
    memmove(text + 1, text, strlen(text) + 1);
    assert_int_equal(outcome(text, "{}", error), 'E');
    assert_string_equal(error, "nested more than 64 levels deep, 1:66");

    at = (size_t)snprintf(text, sizeof(text), "n = 0");
    for (int i = 0; i < 5000; i++) { /* chains of one logical operator are flat */
        at += (size_t)snprintf(text + at, sizeof(text) - at, " OR n = %d", i);
    }
    assert_int_equal(outcome(text, "{\"n\":4999}", error), 'T');

    at = (size_t)snprintf(text, sizeof(text), "1");
    for (int i = 0; i < 300; i++) {
        at += (size_t)snprintf(text + at, sizeof(text) - at, "+1");
    }
    (void)snprintf(text + at, sizeof(text) - at, " = 1");
    assert_int_equal(outcome(text, "{}", error), 'E');
    assert_non_null(strstr(error, "more than 200 operations depend on each other"));

    at = (size_t)snprintf(text, sizeof(text), "a0 = 1");
    for (int i = 1; i < 300; i++) {
        at += (size_t)snprintf(text + at, sizeof(text) - at, " OR a%d = 1", i);
    }
    assert_int_equal(outcome(text, "{}", error), 'E');
    assert_non_null(strstr(error, "more than 256 different properties"));
}

static void strings_stay_bounded(void **state)
{
    (void)state;
    static char json[70000];
    size_t at = (size_t)snprintf(json, sizeof(json), "{\"s\":\"");
    memset(json + at, 'x', 40000);
    (void)snprintf(json + at + 40000, sizeof(json) - at - 40000, "\"}");
    char error[160];
    assert_int_equal(outcome("length(concat(s, 'y')) = 40001", json, error), 'T');
    assert_int_equal(outcome("length(concat(s, s)) = 80000", json, error), 'U');
}

static void a_property_is_listed_once(void **state)
{
    (void)state;
    nv_arena tree = {0};
    nv_parser parser;
    nv_parser_init(&parser, S("a.b = 1 OR devices.a.b = 2 AND a[0] = 1 AND a[1] = 1 AND [1] != a"), &tree);
    assert_non_null(nv_parser_condition(&parser));
    assert_int_equal(parser.path_count, 4);
    assert_int_equal(parser.paths->index, 0);
    assert_int_equal(parser.paths->count, 2);
    assert_int_equal(parser.paths->next->index, 1);
    nv_arena_deinit(&tree);
}

static void writes(void **state)
{
    (void)state;
    nv_buf out;
    nv_buf_init(&out, 1000);
    nv_json_writer w = nv_json_writer_of(&out);
    static const double numbers[] = {0, 5, -2, 0.1, 21.7, 1e300, 1.0 / 3, 9007199254740993.0};
    nv_json_begin_array(&w);
    for (size_t i = 0; i < NV_COUNT_OF(numbers); i++) {
        nv_datum value = nv_datum_of_number(numbers[i]);
        nv_datum_write(&value, &w);
    }
    nv_datum written = {.kind = NV_DATUM_NUMBER, .text = S("1.50")};
    nv_datum_write(&written, &w);
    nv_datum string = nv_datum_of_string(S("a\"b"));
    nv_datum_write(&string, &w);
    nv_json_end_array(&w);
    assert_true(nv_span_eq_str(nv_buf_span(&out),
                               "[0,5,-2,0.1,21.7,1e+300,0.3333333333333333,9007199254740992,1.50,\"a\\\"b\"]"));
    nv_buf_deinit(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logic_and_comparison),
        cmocka_unit_test(precedence),
        cmocka_unit_test(words_paths_constants),
        cmocka_unit_test(functions),
        cmocka_unit_test(errors_say_where),
        cmocka_unit_test(bounds),
        cmocka_unit_test(strings_stay_bounded),
        cmocka_unit_test(a_property_is_listed_once),
        cmocka_unit_test(writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
