/*
 * Random conditions over random rows, evaluated twice: by the engine on the row's text, and here, naively, on the row's
 * json-c tree while the condition is being made up. The grammar is followed level by level without parentheses where
 * none are needed, so that precedence and associativity are compared too.
 */
#include "base/attrs.h"
#include "core/expr_parse.h"

#include <json-c/json.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define ROUNDS 60000

static uint64_t random_state;
static uint32_t below(uint32_t limit)
{
    random_state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = random_state;
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ z >> 31) >> 33) % limit;
}

/* ---- values and rows ---------------------------------------------------------------------------------------- */

typedef enum kind { UNDEFINED, NIL, BOOL, NUMBER, STRING, ARRAY, OBJECT } kind;

typedef struct value {
    kind kind;
    bool boolean;
    double number;
    char string[200];
} value;

static const value undefined = {.kind = UNDEFINED};

static value of_bool(bool boolean)
{
    return (value){.kind = BOOL, .boolean = boolean};
}

static value of_number(double number)
{
    return (value){.kind = isnan(number) ? UNDEFINED : NUMBER, .number = number};
}

static const char *const names[] = {"a", "b", "c", "in", "$v", "x-y"};
static const char *const strings[] = {
    "", "a", "A", "ab", "b", "10", "it's", "\"q\"", "\\", "\xc3\xa9", "z\xf0\x9f\x98\x80"};
static const char *const numbers[] = {
    "0", "1", "-1", "2", "2.5", "10", "1e2", "0.1", "-3.75", "100.0", "4503599627370495"};

static struct json_object *random_row(uint32_t depth)
{
    switch (below(depth > 0 ? 9 : 6)) {
    case 0:
        return NULL;
    case 1:
        return json_object_new_boolean((int)below(2));
    case 2:
    case 3:
        return json_tokener_parse(numbers[below(NV_COUNT_OF(numbers))]);
    case 4:
    case 5:
        return json_object_new_string(strings[below(NV_COUNT_OF(strings))]);
    case 6: {
        struct json_object *array = json_object_new_array();
        for (uint32_t i = below(4); i > 0; i--) {
            json_object_array_add(array, random_row(depth - 1));
        }
        return array;
    }
    default: {
        struct json_object *object = json_object_new_object();
        for (uint32_t i = below(5); i > 0; i--) {
            json_object_object_add(object, names[below(NV_COUNT_OF(names))], random_row(depth - 1));
        }
        return object;
    }
    }
}

static value of_tree(struct json_object *tree)
{
    switch (json_object_get_type(tree)) {
    case json_type_null:
        return (value){.kind = NIL};
    case json_type_boolean:
        return of_bool(json_object_get_boolean(tree));
    case json_type_int:
    case json_type_double:
        return of_number(json_object_get_double(tree));
    case json_type_string: {
        value out = {.kind = STRING};
        (void)snprintf(out.string, sizeof(out.string), "%s", json_object_get_string(tree));
        return out;
    }
    case json_type_array:
        return (value){.kind = ARRAY};
    case json_type_object:
        return (value){.kind = OBJECT};
    }
    return undefined;
}

/* ---- the text under way ------------------------------------------------------------------------------------- */

static struct json_object *row;
static char text[60000];
static size_t text_len;

static void put(const char *piece)
{
    text_len += (size_t)snprintf(text + text_len, sizeof(text) - text_len, "%s", piece);
    assert_true(text_len < sizeof(text));
}

/* Any case, and white space around. */
static void put_word(const char *word)
{
    char changed[24];
    size_t i = 0;
    for (; word[i]; i++) {
        changed[i] = below(2) ? word[i] : (char)(word[i] | 0x20);
    }
    changed[i] = '\0';
    put(below(5) ? " " : "\n\t ");
    put(changed);
    put(" ");
}

static void put_string(const char *string)
{
    char quote[2] = {below(2) ? '\'' : '"', '\0'};
    put(quote);
    for (const char *c = string; *c; c++) {
        char one[3] = {*c, '\0', '\0'};
        if (*c == '\'' && *quote == '\'' && below(2)) {
            one[1] = '\''; /* doubled */
        } else if (*c == *quote || *c == '\\') {
            one[1] = *c;
            one[0] = '\\';
        }
        put(one);
    }
    put(quote);
}

/* ---- operands ----------------------------------------------------------------------------------------------- */

static value gen_condition(uint32_t depth);
static value gen_operand(uint32_t depth);

static value gen_path(void)
{
    struct json_object *tree = row;
    bool there = true;
    put(below(8) ? "" : "devices.");
    uint32_t steps = below(3) ? 1 : 1 + below(3);
    for (uint32_t i = 0; i < steps; i++) {
        const char *name = names[below(i == 0 ? 3 : NV_COUNT_OF(names))];
        put(i ? "." : "");
        bool raw = i > 0 && below(6) == 0;
        put(raw ? "[[" : "");
        put(name);
        put(raw ? "]]" : "");
        there = there && json_object_is_type(tree, json_type_object) && json_object_object_get_ex(tree, name, &tree);
        if (below(9) == 0) {
            uint32_t index = below(3);
            char piece[16];
            (void)snprintf(piece, sizeof(piece), "[%u]", index);
            put(piece);
            there = there && json_object_is_type(tree, json_type_array) && index < json_object_array_length(tree);
            tree = there ? json_object_array_get_idx(tree, index) : NULL;
        }
    }
    return there ? of_tree(tree) : undefined;
}

static value gen_constant(bool only_numbers)
{
    switch (below(only_numbers ? 5 : 9)) {
    case 0: {
        value nothing = {.kind = below(2) ? NIL : UNDEFINED};
        put_word(nothing.kind == NIL ? "NULL" : "UNDEFINED");
        return nothing;
    }
    case 1:
        put("0x1F");
        return of_number(31);
    case 2:
    case 3:
    case 4: {
        const char *number = numbers[below(NV_COUNT_OF(numbers))];
        put(number);
        return of_number(strtod(number, NULL));
    }
    case 5: {
        bool boolean = below(2);
        put_word(boolean ? "TRUE" : "FALSE");
        return of_bool(boolean);
    }
    default: {
        value out = {.kind = STRING};
        (void)snprintf(out.string, sizeof(out.string), "%s", strings[below(NV_COUNT_OF(strings))]);
        put_string(out.string);
        return out;
    }
    }
}

static value gen_number_call(uint32_t depth)
{
    static const char *const functions[] = {"ABS(", "Floor(", "SQUARE(", "sign(", "LENGTH("};
    uint32_t which = below(NV_COUNT_OF(functions));
    put(functions[which]);
    value arg = which == 4 ? gen_path() : depth ? gen_path() : gen_constant(true);
    put(")");
    if (which == 4) {
        size_t units = 0;
        for (const char *c = arg.string; arg.kind == STRING && *c; c++) {
            units += ((uint8_t)*c & 0xc0) == 0x80 ? 0 : (uint8_t)*c >= 0xf0 ? 2 : 1;
        }
        return arg.kind == STRING ? of_number((double)units) : undefined;
    }
    double x = arg.number;
    double results[] = {x < 0 ? -x : x, floor(x), x * x, x > 0 ? 1 : x < 0 ? -1 : 0};
    return arg.kind == NUMBER ? of_number(results[which]) : undefined;
}

static value gen_string_call(void)
{
    put("CONCAT(");
    value parts[3];
    uint32_t count = 2 + below(2);
    value out = {.kind = STRING};
    for (uint32_t i = 0; i < count; i++) {
        put(i ? ", " : "");
        if (below(2)) {
            parts[i] = gen_path();
        } else {
            parts[i] = (value){.kind = STRING};
            (void)snprintf(parts[i].string, sizeof(parts[i].string), "%s", strings[below(NV_COUNT_OF(strings))]);
            put_string(parts[i].string);
        }
        size_t len = strlen(out.string);
        (void)snprintf(out.string + len, sizeof(out.string) - len, "%s", parts[i].string);
        out.kind = parts[i].kind == STRING ? out.kind : UNDEFINED;
    }
    put(")");
    return out.kind == STRING ? out : undefined;
}

static value gen_sum(uint32_t depth);

/* @param number  it stands in arithmetic: what the text shows to be no number is refused there */
static value gen_factor(uint32_t depth, bool number)
{
    if (number && below(8) == 0) {
        put(" -");
        value inner = gen_factor(depth, true);
        return inner.kind == NUMBER ? of_number(-inner.number) : undefined;
    }
    switch (below(depth > 0 ? 8 : 5)) {
    case 0:
    case 1:
    case 2:
        return gen_path();
    case 3:
    case 4:
        return gen_constant(number);
    case 5:
        return gen_number_call(depth);
    case 6:
        if (!number) {
            return gen_string_call();
        }
        /* fall through */
    default: {
        put("(");
        value inner = number ? gen_sum(depth - 1) : gen_operand(depth - 1);
        put(")");
        return inner;
    }
    }
}

static value arithmetic(char op, value a, value b)
{
    if (a.kind != NUMBER || b.kind != NUMBER) {
        return undefined;
    }
    switch (op) {
    case '+':
        return of_number(a.number + b.number);
    case '-':
        return of_number(a.number - b.number);
    case '*':
        return of_number(a.number * b.number);
    case '/':
        return of_number(a.number / b.number);
    default:
        return of_number(fmod(a.number, b.number));
    }
}

static value gen_chain(uint32_t depth, const char *operators, uint32_t count, value (*inner)(uint32_t depth))
{
    value left = inner(depth);
    for (uint32_t i = 1; i < count; i++) {
        char op[4] = {' ', operators[below((uint32_t)strlen(operators))], ' ', '\0'};
        put(op);
        left = arithmetic(op[1], left, inner(depth));
    }
    return left;
}

static value gen_number_factor(uint32_t depth)
{
    return gen_factor(depth, true);
}

static value gen_term(uint32_t depth)
{
    return gen_chain(depth, "*/%", 1 + below(3), gen_number_factor);
}

static value gen_sum(uint32_t depth)
{
    return gen_chain(depth, "+-", 1 + below(3), gen_term);
}

static value gen_operand(uint32_t depth)
{
    return below(3) == 0 ? gen_sum(depth) : gen_factor(depth, false);
}

/* ---- conditions --------------------------------------------------------------------------------------------- */

static bool same(const value *a, const value *b)
{
    return a->kind == b->kind &&
           (a->kind == NIL || (a->kind == BOOL && a->boolean == b->boolean) ||
            (a->kind == NUMBER && a->number == b->number) || (a->kind == STRING && strcmp(a->string, b->string) == 0));
}

static value compare(const char *op, value a, value b)
{
    bool equality = op[0] == '=' || op[0] == '!' || op[1] == '>';
    if (a.kind == UNDEFINED || b.kind == UNDEFINED) {
        return undefined;
    }
    if (a.kind != b.kind) {
        return of_bool(equality && op[0] != '=');
    }
    if (a.kind >= ARRAY) {
        return undefined;
    }
    if (equality) {
        return of_bool(same(&a, &b) == (op[0] == '='));
    }
    int sign = a.kind == STRING   ? strcmp(a.string, b.string)
               : a.kind == NUMBER ? (a.number > b.number) - (a.number < b.number)
                                  : (int)a.boolean - (int)b.boolean;
    if (a.kind == NIL) {
        return of_bool(false);
    }
    return of_bool(op[0] == '<' ? sign < (op[1] == '=' ? 1 : 0) : sign > (op[1] == '=' ? -1 : 0));
}

static value gen_membership(uint32_t depth)
{
    value needle = gen_operand(depth);
    bool in = below(2);
    bool found = false;
    put_word(in ? "IN" : "NIN");
    put("[");
    for (uint32_t i = 0, count = below(4); i < count; i++) {
        put(i ? ", " : "");
        value constant = gen_constant(false);
        found = found || (constant.kind != UNDEFINED && same(&needle, &constant));
    }
    put("]");
    return needle.kind == UNDEFINED ? undefined : of_bool(found == in);
}

static value gen_test(void)
{
    static const char *const functions[] = {"IS_DEFINED(", "is_null(",  "Is_Bool(",   "IS_NUMBER(",
                                            "is_string(",  "is_array(", "IS_OBJECT(", "is_primitive("};
    uint32_t which = below(NV_COUNT_OF(functions));
    put(functions[which]);
    value arg = gen_path();
    put(")");
    bool results[] = {
        arg.kind != UNDEFINED, arg.kind == NIL,   arg.kind == BOOL,   arg.kind == NUMBER,
        arg.kind == STRING,    arg.kind == ARRAY, arg.kind == OBJECT, arg.kind >= NIL && arg.kind <= STRING};
    return of_bool(results[which]);
}

static value gen_affix(void)
{
    bool starts = below(2);
    put(starts ? "STARTSWITH(" : "ends_with(");
    value arg = gen_path();
    const char *affix = strings[below(NV_COUNT_OF(strings))];
    put(", ");
    put_string(affix);
    put(")");
    size_t len = strlen(arg.string);
    size_t part = strlen(affix);
    return arg.kind != STRING
               ? undefined
               : of_bool(part <= len && memcmp(arg.string + (starts ? 0 : len - part), affix, part) == 0);
}

static value gen_predicate(uint32_t depth)
{
    static const char *const operators[] = {"=", "!=", "<>", "<", "<=", ">", ">="};
    switch (below(depth > 0 ? 10 : 8)) {
    case 0:
        return gen_path();
    case 1:
        return gen_membership(depth);
    case 2:
        return gen_test();
    case 3:
        return gen_affix();
    case 8:
    case 9: {
        put("(");
        value inner = gen_condition(depth - 1);
        put(")");
        return inner;
    }
    default: {
        value left = gen_operand(depth);
        const char *op = operators[below(NV_COUNT_OF(operators))];
        put(" ");
        put(op);
        put(" ");
        return compare(op, left, gen_operand(depth));
    }
    }
}

static value gen_not(uint32_t depth)
{
    if (below(5)) {
        return gen_predicate(depth);
    }
    put_word("NOT");
    value inner = gen_not(depth);
    return inner.kind == BOOL ? of_bool(!inner.boolean) : undefined;
}

/* The table of semantics.md section 3.4 for AND; OR is its mirror. */
static value logic(bool decisive, value a, value b)
{
    if ((a.kind == BOOL && a.boolean == decisive) || (b.kind == BOOL && b.boolean == decisive)) {
        return of_bool(decisive);
    }
    return a.kind == BOOL && b.kind == BOOL ? of_bool(!decisive) : undefined;
}

static value gen_and(uint32_t depth)
{
    value left = gen_not(depth);
    for (uint32_t i = below(3); i > 0; i--) {
        put_word("AND");
        left = logic(false, left, gen_not(depth));
    }
    return left;
}

static value gen_condition(uint32_t depth)
{
    value left = gen_and(depth);
    for (uint32_t i = below(3); i > 0; i--) {
        put_word("OR");
        left = logic(true, left, gen_and(depth));
    }
    return left;
}

/* ---- both ways ---------------------------------------------------------------------------------------------- */

typedef struct json_row {
    nv_span json;
    nv_arena *scratch;
} json_row;

static nv_datum resolve(void *arg, const nv_expr_path *path)
{
    const json_row *on = arg;
    return nv_datum_of_json(nv_json_find(on->json, path->steps, path->count), on->scratch);
}

static char by_the_engine(const char *json)
{
    nv_arena tree = {0};
    nv_arena scratch = {0};
    nv_parser parser;
    nv_parser_init(&parser, nv_span_of(text, text_len), &tree);
    const nv_expr *expr = nv_parser_condition(&parser);
    if (!expr || parser.token.kind != NV_TOKEN_END) {
        fail_msg("%s\nis refused: %s, %u:%u", text, parser.error, parser.error_pos.line, parser.error_pos.column);
    }
    json_row on = {nv_span_str(json), &scratch};
    nv_datum result = nv_expr_eval(expr, &(nv_expr_env){resolve, &on, &scratch});
    nv_arena_deinit(&scratch);
    nv_arena_deinit(&tree);
    return result.kind != NV_DATUM_BOOL ? 'U' : result.boolean ? 'T' : 'F';
}

static void same_as_the_naive(void **state)
{
    (void)state;
    const char *given = getenv("NAVE_TEST_SEED");
    random_state = given ? strtoull(given, NULL, 10) : (uint64_t)(uintptr_t)&state ^ (uint64_t)clock();
    print_message("seed %llu (NAVE_TEST_SEED runs it again)\n", (unsigned long long)random_state);
    size_t counts[3] = {0};
    for (int round = 0; round < ROUNDS; round++) {
        row = json_object_new_object();
        for (size_t i = 0; i < 3; i++) { /* what paths begin with */
            json_object_object_add(row, names[i], random_row(below(3)));
        }
        text_len = 0;
        value naive = gen_condition(2);
        char want = naive.kind != BOOL ? 'U' : naive.boolean ? 'T' : 'F';
        const char *json = json_object_to_json_string_ext(row, JSON_C_TO_STRING_PLAIN);
        char got = by_the_engine(json);
        if (got != want) {
            fail_msg("round %d: %s\non %s\ngives %c, naively %c", round, text, json, got, want);
        }
        counts[want == 'T' ? 0 : want == 'F' ? 1 : 2]++;
        json_object_put(row);
    }
    print_message("%zu true, %zu false, %zu undefined\n", counts[0], counts[1], counts[2]);
    for (size_t i = 0; i < NV_COUNT_OF(counts); i++) {
        assert_true(counts[i] > ROUNDS / 50); /* all three are met */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_as_the_naive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
