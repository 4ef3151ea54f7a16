/*
 *   condition = and { OR and }          operand = term { (+|-) term }
 *   and       = not { AND not }         term    = factor { (*|/|%) factor }
 *   not       = NOT not | predicate     factor  = - factor | primary
 *   predicate = operand [ (=|!=|<>|<|<=|>|>=) operand | (IN|NIN) array ]
 *   primary   = ( condition ) | constant | array | name ( arguments ) | path
 *
 * NOT is looser than a comparison, as in SQL (semantics.md section 2.3).
 */
#include "core/expr_parse.h"

#include "codec/json.h"
#include "core/expr_functions.h"

#include <stdarg.h>
#include <stdio.h>

static const char *const keywords[] = {"SELECT", "FROM", "WHERE", "GROUP", "AND",   "OR",   "NOT",
                                       "IN",     "NIN",  "AS",    "TRUE",  "FALSE", "NULL", "UNDEFINED"};

/* ---- errors and tokens -------------------------------------------------------------------------------------- */

void nv_parser_fail(nv_parser *p, nv_expr_pos pos, const char *fmt, ...)
{
    if (!p->failed) {
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(p->error, sizeof(p->error), fmt, args);
        va_end(args);
        p->error_pos = pos;
    }
    p->failed = true;
    p->token.kind = NV_TOKEN_END;
    p->token.text = NV_SPAN_EMPTY;
    p->lexer.at = p->lexer.limit;
}

/* At most so much of the text is repeated in an error. */
#define QUOTED_MAX 24u

static nv_span shortened(nv_span text)
{
    size_t len = text.len < QUOTED_MAX ? text.len : QUOTED_MAX;
    while (len > 0 && len < text.len && (text.ptr[len] & 0xc0) == 0x80) {
        len--;
    }
    return nv_span_first(text, len);
}

void nv_parser_expected(nv_parser *p, const char *what)
{
    nv_expr_pos pos = p->token.pos;
    nv_span text = shortened(p->token.text);
    if (p->token.kind == NV_TOKEN_END) {
        nv_parser_fail(p, pos, "expected %s, found the end of the text", what);
    } else if (text.len && (text.ptr[0] == '\'' || text.ptr[0] == '"')) {
        nv_parser_fail(p, pos, "expected %s, found %.*s", what, NV_SPAN_ARG(text));
    } else {
        nv_parser_fail(p, pos, "expected %s, found '%.*s'", what, NV_SPAN_ARG(text));
    }
}

static void set_token(nv_parser *p, nv_token token)
{
    p->token = token;
    if (token.kind == NV_TOKEN_BAD) {
        nv_parser_fail(p, token.pos, "%.*s", NV_SPAN_ARG(token.text));
    }
}

void nv_parser_advance(nv_parser *p)
{
    if (!p->failed) {
        set_token(p, nv_lexer_next(&p->lexer));
    }
}

void nv_parser_init(nv_parser *p, nv_span text, nv_arena *arena)
{
    *p = (nv_parser){.arena = arena, .lexer = nv_lexer_of(text)};
    p->paths_end = &p->paths;
    nv_parser_advance(p);
}

bool nv_parser_at_symbol(const nv_parser *p, const char *symbol)
{
    return p->token.kind == NV_TOKEN_SYMBOL && nv_span_eq_str(p->token.text, symbol);
}

bool nv_parser_at_word(const nv_parser *p, const char *keyword)
{
    return p->token.kind == NV_TOKEN_WORD && nv_span_eq_nocase(p->token.text, nv_span_str(keyword));
}

bool nv_parser_take_symbol(nv_parser *p, const char *symbol)
{
    bool there = nv_parser_at_symbol(p, symbol);
    if (there) {
        nv_parser_advance(p);
    }
    return there;
}

bool nv_parser_take_word(nv_parser *p, const char *keyword)
{
    bool there = nv_parser_at_word(p, keyword);
    if (there) {
        nv_parser_advance(p);
    }
    return there;
}

bool nv_parser_need_symbol(nv_parser *p, const char *symbol)
{
    if (!nv_parser_take_symbol(p, symbol)) {
        char what[8];
        (void)snprintf(what, sizeof(what), "'%s'", symbol);
        nv_parser_expected(p, what);
    }
    return !p->failed;
}

bool nv_parser_need_word(nv_parser *p, const char *keyword)
{
    if (!nv_parser_take_word(p, keyword)) {
        nv_parser_expected(p, keyword);
    }
    return !p->failed;
}

bool nv_parser_at_keyword(const nv_parser *p)
{
    for (size_t i = 0; i < NV_COUNT_OF(keywords); i++) {
        if (nv_parser_at_word(p, keywords[i])) {
            return true;
        }
    }
    return false;
}

/* ---- nodes -------------------------------------------------------------------------------------------------- */

static void list_add(nv_parser *p, nv_expr_list *list, const nv_expr *item)
{
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? 2 * list->capacity : 4;
        const nv_expr **items = nv_arena_alloc(p->arena, capacity * sizeof(nv_expr *));
        for (uint32_t i = 0; i < list->count; i++) {
            items[i] = list->items[i];
        }
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = item;
}

static nv_expr *node(nv_parser *p, nv_expr_op op, nv_expr_type type, nv_expr_pos pos)
{
    nv_expr *expr = nv_arena_alloc(p->arena, sizeof(*expr));
    *expr = (nv_expr){.op = op, .type = type, .depth = 1, .pos = pos};
    return expr;
}

/* NULL when an argument is, or when the tree gets too deep. */
static const nv_expr *node_of(nv_parser *p, nv_expr_op op, nv_expr_type type, nv_expr_pos pos, nv_expr_list args)
{
    nv_expr *expr = node(p, op, type, pos);
    for (uint32_t i = 0; i < args.count; i++) {
        if (!args.items[i]) {
            return NULL;
        }
        expr->depth = args.items[i]->depth >= expr->depth ? args.items[i]->depth + 1 : expr->depth;
    }
    if (expr->depth > NV_EXPR_DEPTH_MAX) {
        nv_parser_fail(p, pos, "more than %u operations depend on each other", NV_EXPR_DEPTH_MAX);
        return NULL;
    }
    expr->args = args.items;
    expr->count = args.count;
    return expr;
}

static const nv_expr *node_of_two(nv_parser *p, nv_expr_op op, nv_expr_type type, nv_expr_pos pos, const nv_expr *left,
                                  const nv_expr *right)
{
    nv_expr_list args = {0};
    list_add(p, &args, left);
    list_add(p, &args, right);
    return node_of(p, op, type, pos, args);
}

static nv_expr_type type_of_value(const nv_datum *value)
{
    switch (value->kind) {
    case NV_DATUM_UNDEFINED:
        return NV_TYPE_UNDEFINED;
    case NV_DATUM_NULL:
        return NV_TYPE_NULL;
    case NV_DATUM_BOOL:
        return NV_TYPE_BOOL;
    case NV_DATUM_NUMBER:
        return NV_TYPE_NUMBER;
    case NV_DATUM_STRING:
        return NV_TYPE_STRING;
    case NV_DATUM_ARRAY:
        return NV_TYPE_ARRAY;
    case NV_DATUM_OBJECT:
        break;
    }
    return NV_TYPE_DYNAMIC;
}

static const nv_expr *constant(nv_parser *p, nv_datum value, nv_expr_pos pos)
{
    nv_expr *expr = node(p, NV_EXPR_CONSTANT, type_of_value(&value), pos);
    expr->constant = value;
    return expr;
}

static const char *name_of_type(nv_expr_type type)
{
    static const char *const names[] = {
        [NV_TYPE_DYNAMIC] = "a property", [NV_TYPE_BOOL] = "a condition", [NV_TYPE_NUMBER] = "a number",
        [NV_TYPE_STRING] = "a string",    [NV_TYPE_ARRAY] = "an array",   [NV_TYPE_NULL] = "null",
        [NV_TYPE_UNDEFINED] = "undefined"};
    return names[type];
}

/* null and undefined go anywhere: the result is undefined. */
static bool may_be(const nv_expr *expr, nv_expr_type wanted)
{
    return expr->type == wanted || expr->type == NV_TYPE_DYNAMIC || expr->type == NV_TYPE_NULL ||
           expr->type == NV_TYPE_UNDEFINED;
}

static const nv_expr *as_condition(nv_parser *p, const nv_expr *expr)
{
    if (expr && !may_be(expr, NV_TYPE_BOOL)) {
        nv_parser_fail(p, expr->pos, "expected a condition, found %s", name_of_type(expr->type));
    }
    return p->failed ? NULL : expr;
}

static const nv_expr *as_number(nv_parser *p, const nv_expr *expr)
{
    if (expr && !may_be(expr, NV_TYPE_NUMBER)) {
        nv_parser_fail(p, expr->pos, "expected a number, found %s", name_of_type(expr->type));
    }
    return p->failed ? NULL : expr;
}

static bool enter(nv_parser *p)
{
    if (p->nest >= NV_EXPR_NEST_MAX) {
        nv_parser_fail(p, p->token.pos, "nested more than %u levels deep", NV_EXPR_NEST_MAX);
        return false;
    }
    p->nest++;
    return true;
}

static void leave(nv_parser *p)
{
    p->nest--;
}

/* ---- paths -------------------------------------------------------------------------------------------------- */

typedef struct steps {
    nv_json_step items[NV_EXPR_STEPS_MAX];
    uint32_t count;
} steps;

static bool add_step(nv_parser *p, steps *path, nv_json_step step, nv_expr_pos pos)
{
    if (path->count >= NV_EXPR_STEPS_MAX) {
        nv_parser_fail(p, pos, "a property more than %u levels deep", NV_EXPR_STEPS_MAX);
        return false;
    }
    path->items[path->count++] = step;
    return true;
}

/* Behind a dot, which is the token at hand: anything that is a name, also a keyword. */
static bool take_step(nv_parser *p, steps *path)
{
    set_token(p, nv_lexer_next_step(&p->lexer));
    if (p->token.kind != NV_TOKEN_WORD) {
        nv_parser_expected(p, "a name behind the dot");
        return false;
    }
    bool added = add_step(p, path, (nv_json_step){.name = p->token.text}, p->token.pos);
    nv_parser_advance(p);
    return added && !p->failed;
}

/* Behind [, which is the token at hand. */
static bool take_index(nv_parser *p, steps *path)
{
    nv_parser_advance(p);
    uint64_t index = 0;
    if (p->token.kind != NV_TOKEN_NUMBER || !nv_span_to_u64(p->token.text, &index) || index > UINT32_MAX) {
        nv_parser_expected(p, "the index of an element");
        return false;
    }
    bool added = add_step(p, path, (nv_json_step){.index = (uint32_t)index}, p->token.pos);
    nv_parser_advance(p);
    return added && nv_parser_need_symbol(p, "]");
}

static bool step_is(const steps *path, uint32_t index, const char *name)
{
    return index < path->count && path->items[index].name.ptr &&
           nv_span_eq_nocase(path->items[index].name, nv_span_str(name));
}

/* `devices.`, `devices.modules.` and `devices.jobs.` name the row itself. */
static uint32_t prefix_of(const steps *path)
{
    if (!step_is(path, 0, "devices") || path->count < 2) {
        return 0;
    }
    return path->count > 2 && (step_is(path, 1, "modules") || step_is(path, 1, "jobs")) ? 2 : 1;
}

static bool same_steps(const nv_json_step *a, const nv_json_step *b, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if ((a[i].name.ptr == NULL) != (b[i].name.ptr == NULL) || a[i].index != b[i].index ||
            !nv_span_eq(a[i].name, b[i].name)) {
            return false;
        }
    }
    return true;
}

static nv_expr_path *intern(nv_parser *p, const nv_json_step *items, uint32_t count, nv_expr_pos pos)
{
    for (nv_expr_path *path = p->paths; path; path = path->next) {
        if (path->count == count && same_steps(path->steps, items, count)) {
            return path;
        }
    }
    if (p->path_count >= NV_EXPR_PATHS_MAX) {
        nv_parser_fail(p, pos, "more than %u different properties", NV_EXPR_PATHS_MAX);
        return NULL;
    }
    nv_json_step *copy = nv_arena_alloc(p->arena, count * sizeof(*copy));
    memcpy(copy, items, count * sizeof(*copy));
    nv_expr_path *path = nv_arena_alloc(p->arena, sizeof(*path));
    *path = (nv_expr_path){.steps = copy, .count = count, .index = p->path_count++, .pos = pos};
    *p->paths_end = path;
    p->paths_end = &path->next;
    return path;
}

nv_expr_path *nv_parser_path(nv_parser *p)
{
    if (p->token.kind != NV_TOKEN_WORD || nv_parser_at_keyword(p)) {
        nv_parser_expected(p, "a property");
        return NULL;
    }
    steps path = {.items = {{.name = p->token.text}}, .count = 1};
    nv_expr_pos pos = p->token.pos;
    nv_parser_advance(p);
    while (nv_parser_at_symbol(p, ".") || nv_parser_at_symbol(p, "[")) {
        if (!(nv_parser_at_symbol(p, ".") ? take_step(p, &path) : take_index(p, &path))) {
            return NULL;
        }
    }
    uint32_t prefix = prefix_of(&path);
    return p->failed ? NULL : intern(p, path.items + prefix, path.count - prefix, pos);
}

/* ---- constants ---------------------------------------------------------------------------------------------- */

static bool take_string(nv_parser *p, nv_datum *out)
{
    nv_span text;
    size_t bad = 0;
    if (!nv_token_string(&p->token, p->arena, &text, &bad)) {
        nv_expr_pos pos = p->token.pos;
        nv_parser_fail(p, pos, "a backslash that is no escape (\\\\ \\' \\\" \\uXXXX), %zu bytes into the string", bad);
        return false;
    }
    *out = nv_datum_of_string(text);
    nv_parser_advance(p);
    return true;
}

static bool take_number(nv_parser *p, nv_datum *out)
{
    double number;
    if (!nv_token_number(&p->token, &number)) {
        nv_parser_fail(p, p->token.pos, "a number that is too long or too large");
        return false;
    }
    *out = nv_datum_of_number(number);
    nv_parser_advance(p);
    return true;
}

static bool take_named(nv_parser *p, nv_datum *out)
{
    static const struct {
        const char *name;
        nv_datum value;
    } named[] = {{"true", {.kind = NV_DATUM_BOOL, .boolean = true}},
                 {"false", {.kind = NV_DATUM_BOOL}},
                 {"null", {.kind = NV_DATUM_NULL}},
                 {"undefined", {.kind = NV_DATUM_UNDEFINED}}};
    for (size_t i = 0; i < NV_COUNT_OF(named); i++) {
        if (nv_parser_take_word(p, named[i].name)) {
            *out = named[i].value;
            return !p->failed;
        }
    }
    return false;
}

static bool take_array(nv_parser *p, nv_expr_list *items);

static bool array_value(nv_parser *p, nv_datum *out)
{
    nv_expr_list items = {0};
    if (!enter(p) || !take_array(p, &items)) {
        return false;
    }
    leave(p);
    nv_buf json;
    nv_buf_init(&json, 1u << 20);
    nv_json_writer w = nv_json_writer_of(&json);
    nv_json_begin_array(&w);
    for (uint32_t i = 0; i < items.count; i++) {
        nv_datum_write(&items.items[i]->constant, &w);
    }
    nv_json_end_array(&w);
    *out = (nv_datum){.kind = NV_DATUM_ARRAY, .text = nv_arena_copy(p->arena, nv_buf_span(&json))};
    nv_buf_deinit(&json);
    return true;
}

/* A constant, or nothing at all is taken. @return false: there is none, or it failed */
static bool take_constant(nv_parser *p, nv_datum *out)
{
    if (p->token.kind == NV_TOKEN_STRING) {
        return take_string(p, out);
    }
    if (p->token.kind == NV_TOKEN_NUMBER) {
        return take_number(p, out);
    }
    return nv_parser_at_symbol(p, "[") ? array_value(p, out) : take_named(p, out);
}

static bool take_element(nv_parser *p, nv_datum *out)
{
    bool negative = nv_parser_take_symbol(p, "-");
    if (negative && p->token.kind == NV_TOKEN_NUMBER) {
        bool taken = take_number(p, out);
        out->number = -out->number;
        return taken;
    }
    if (negative || !take_constant(p, out)) {
        nv_parser_expected(p, "a constant");
    }
    return !p->failed;
}

/* [ constant, ... ] as constant nodes. @return false: failed */
static bool take_array(nv_parser *p, nv_expr_list *items)
{
    if (!nv_parser_need_symbol(p, "[") || nv_parser_take_symbol(p, "]")) {
        return !p->failed;
    }
    do {
        nv_expr_pos pos = p->token.pos;
        nv_datum value = NV_DATUM_OF_NOTHING;
        if (!take_element(p, &value)) {
            return false;
        }
        list_add(p, items, constant(p, value, pos));
    } while (nv_parser_take_symbol(p, ","));
    if (!nv_parser_take_symbol(p, "]")) {
        nv_parser_expected(p, "',' or ']'");
    }
    return !p->failed;
}

/* ---- calls -------------------------------------------------------------------------------------------------- */

static const nv_expr *operand(nv_parser *p);
static const nv_expr *condition(nv_parser *p);

static bool fits(const nv_expr *arg, nv_param param)
{
    switch (param) {
    case NV_PARAM_ANY:
        return true;
    case NV_PARAM_NUMBER:
        return may_be(arg, NV_TYPE_NUMBER);
    case NV_PARAM_STRING:
        return may_be(arg, NV_TYPE_STRING);
    case NV_PARAM_ARRAY:
        return may_be(arg, NV_TYPE_ARRAY);
    case NV_PARAM_PROPERTY:
        return arg->op == NV_EXPR_PATH;
    }
    return false;
}

static void check_call(nv_parser *p, const nv_expr_function *function, const nv_expr_list *args, nv_expr_pos pos)
{
    static const char *const names[] = {[NV_PARAM_ANY] = "a value",
                                        [NV_PARAM_NUMBER] = "a number",
                                        [NV_PARAM_STRING] = "a string",
                                        [NV_PARAM_ARRAY] = "an array",
                                        [NV_PARAM_PROPERTY] = "a property"};
    if (args->count < function->min_args || args->count > function->max_args) {
        bool more = args->count < function->min_args;
        uint32_t wanted = more ? function->min_args : function->max_args;
        nv_parser_fail(p, pos, "%s takes %s%u argument%s, found %u", function->name,
                       function->min_args == function->max_args ? ""
                       : more                                   ? "at least "
                                                                : "at most ",
                       wanted, wanted == 1 ? "" : "s", args->count);
        return;
    }
    for (uint32_t i = 0; i < args->count; i++) {
        nv_param param = nv_expr_param_of(function, i);
        if (!fits(args->items[i], param)) {
            nv_parser_fail(
                p, args->items[i]->pos, "%s takes %s as argument %u, found %s", function->name, names[param], i + 1,
                args->items[i]->type == NV_TYPE_DYNAMIC ? "an expression" : name_of_type(args->items[i]->type));
            return;
        }
    }
}

/* Behind the opening parenthesis. */
static bool take_arguments(nv_parser *p, nv_expr_list *args)
{
    if (nv_parser_take_symbol(p, ")")) {
        return true;
    }
    do {
        const nv_expr *arg = condition(p); /* a comparison is a value too: is_bool(a = b) */
        if (!arg) {
            return false;
        }
        list_add(p, args, arg);
    } while (nv_parser_take_symbol(p, ","));
    if (!nv_parser_take_symbol(p, ")")) {
        nv_parser_expected(p, "',' or ')'");
    }
    return !p->failed;
}

static const nv_expr *call(nv_parser *p, nv_token name)
{
    const nv_expr_function *function = nv_expr_function_of(name.text);
    if (!function) {
        nv_parser_fail(p, name.pos, "unknown function '%.*s'", NV_SPAN_ARG(shortened(name.text)));
        return NULL;
    }
    nv_expr_list args = {0};
    if (!enter(p) || !take_arguments(p, &args)) {
        return NULL;
    }
    leave(p);
    check_call(p, function, &args, name.pos);
    nv_expr *expr = node(p, NV_EXPR_CALL, function->type, name.pos);
    const nv_expr *sized = node_of(p, NV_EXPR_CALL, function->type, name.pos, args);
    if (p->failed || !sized) {
        return NULL;
    }
    *expr = *sized;
    expr->function = function;
    return expr;
}

/* A path, or a call when a parenthesis follows the first name. */
static const nv_expr *name(nv_parser *p)
{
    nv_parser ahead = *p;
    nv_parser_advance(&ahead);
    if (nv_parser_at_symbol(&ahead, "(")) {
        nv_token function = p->token;
        nv_parser_advance(p);
        nv_parser_advance(p);
        return call(p, function);
    }
    nv_expr_pos pos = p->token.pos;
    nv_expr_path *path = nv_parser_path(p);
    nv_expr *expr = node(p, NV_EXPR_PATH, NV_TYPE_DYNAMIC, pos);
    expr->path = path;
    return path ? expr : NULL;
}

/* ---- operators, tightest first ------------------------------------------------------------------------------ */

static const nv_expr *primary(nv_parser *p)
{
    nv_expr_pos pos = p->token.pos;
    if (nv_parser_take_symbol(p, "(")) {
        const nv_expr *inner = enter(p) ? condition(p) : NULL;
        if (!inner || !nv_parser_need_symbol(p, ")")) {
            return NULL;
        }
        leave(p);
        return inner;
    }
    nv_datum value;
    if (take_constant(p, &value)) {
        return constant(p, value, pos);
    }
    if (!p->failed && p->token.kind == NV_TOKEN_WORD && !nv_parser_at_keyword(p)) {
        return name(p);
    }
    nv_parser_expected(p, "a property or a constant");
    return NULL;
}

static const nv_expr *factor(nv_parser *p)
{
    nv_expr_pos pos = p->token.pos;
    if (!nv_parser_take_symbol(p, "-")) {
        return primary(p);
    }
    const nv_expr *inner = enter(p) ? as_number(p, factor(p)) : NULL;
    if (!inner) {
        return NULL;
    }
    leave(p);
    if (inner->op == NV_EXPR_CONSTANT && inner->constant.kind == NV_DATUM_NUMBER) {
        return constant(p, nv_datum_of_number(-inner->constant.number), pos);
    }
    nv_expr_list args = {0};
    list_add(p, &args, inner);
    return node_of(p, NV_EXPR_NEGATE, NV_TYPE_NUMBER, pos, args);
}

typedef struct operator_row {
    const char *symbol;
    nv_expr_op op;
} operator_row;

/* The operator at hand among @p rows, taken. @return NULL: none of them */
static const operator_row *take_operator(nv_parser *p, const operator_row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (nv_parser_take_symbol(p, rows[i].symbol)) {
            return &rows[i];
        }
    }
    return NULL;
}

static const nv_expr *arithmetic(nv_parser *p, const operator_row *rows, size_t count,
                                 const nv_expr *(*inner)(nv_parser *))
{
    nv_expr_pos pos = p->token.pos;
    const nv_expr *left = inner(p);
    const operator_row *row;
    while (left && (row = take_operator(p, rows, count))) {
        left = as_number(p, left);
        const nv_expr *right = as_number(p, inner(p));
        left = left && right ? node_of_two(p, row->op, NV_TYPE_NUMBER, pos, left, right) : NULL;
    }
    return p->failed ? NULL : left;
}

static const nv_expr *term(nv_parser *p)
{
    static const operator_row rows[] = {{"*", NV_EXPR_MULTIPLY}, {"/", NV_EXPR_DIVIDE}, {"%", NV_EXPR_REMAINDER}};
    return arithmetic(p, rows, NV_COUNT_OF(rows), factor);
}

static const nv_expr *operand(nv_parser *p)
{
    static const operator_row rows[] = {{"+", NV_EXPR_ADD}, {"-", NV_EXPR_SUBTRACT}};
    return arithmetic(p, rows, NV_COUNT_OF(rows), term);
}

static const nv_expr *membership(nv_parser *p, nv_expr_op op, const nv_expr *needle, nv_expr_pos pos)
{
    nv_expr_list args = {0};
    list_add(p, &args, needle);
    if (!nv_parser_at_symbol(p, "[")) {
        nv_parser_expected(p, "an array like ['a', 'b']");
        return NULL;
    }
    return take_array(p, &args) ? node_of(p, op, NV_TYPE_BOOL, pos, args) : NULL;
}

static const nv_expr *predicate(nv_parser *p)
{
    static const operator_row rows[] = {{"=", NV_EXPR_EQ},  {"!=", NV_EXPR_NE}, {"<>", NV_EXPR_NE}, {"<", NV_EXPR_LT},
                                        {"<=", NV_EXPR_LE}, {">", NV_EXPR_GT},  {">=", NV_EXPR_GE}};
    nv_expr_pos pos = p->token.pos;
    const nv_expr *left = operand(p);
    if (!left) {
        return NULL;
    }
    const operator_row *row = take_operator(p, rows, NV_COUNT_OF(rows));
    if (row) {
        const nv_expr *right = operand(p);
        return right ? node_of_two(p, row->op, NV_TYPE_BOOL, pos, left, right) : NULL;
    }
    if (nv_parser_take_word(p, "IN")) {
        return membership(p, NV_EXPR_IN, left, pos);
    }
    return nv_parser_take_word(p, "NIN") ? membership(p, NV_EXPR_NIN, left, pos) : left;
}

static const nv_expr *negation(nv_parser *p)
{
    nv_expr_pos pos = p->token.pos;
    if (!nv_parser_take_word(p, "NOT")) {
        return predicate(p);
    }
    const nv_expr *inner = enter(p) ? as_condition(p, negation(p)) : NULL;
    if (!inner) {
        return NULL;
    }
    leave(p);
    nv_expr_list args = {0};
    list_add(p, &args, inner);
    return node_of(p, NV_EXPR_NOT, NV_TYPE_BOOL, pos, args);
}

/* A chain of one logical operator is one node, however long: clients send lists of ids joined by OR. */
static const nv_expr *chain(nv_parser *p, const char *keyword, nv_expr_op op, const nv_expr *(*inner)(nv_parser *))
{
    nv_expr_pos pos = p->token.pos;
    const nv_expr *first = inner(p);
    if (!first || !nv_parser_at_word(p, keyword)) {
        return first;
    }
    nv_expr_list args = {0};
    list_add(p, &args, as_condition(p, first));
    while (nv_parser_take_word(p, keyword)) {
        list_add(p, &args, as_condition(p, inner(p)));
    }
    return p->failed ? NULL : node_of(p, op, NV_TYPE_BOOL, pos, args);
}

static const nv_expr *conjunction(nv_parser *p)
{
    return chain(p, "AND", NV_EXPR_AND, negation);
}

static const nv_expr *condition(nv_parser *p)
{
    return chain(p, "OR", NV_EXPR_OR, conjunction);
}

const nv_expr *nv_parser_condition(nv_parser *p)
{
    return as_condition(p, condition(p));
}
