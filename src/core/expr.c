/* Values and evaluation. The rules: semantics.md section 2.4; null and undefined in logic: section 3.4. */
#include "core/expr.h"

#include "codec/json.h"
#include "core/expr_functions.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- values ------------------------------------------------------------------------------------------------- */

static nv_datum string_of_json(nv_span json, nv_arena *scratch)
{
    nv_span inner = nv_json_string_inner(json);
    if (nv_json_is_plain(inner)) {
        return nv_datum_of_string(inner);
    }
    uint8_t *out = nv_arena_alloc(scratch, inner.len);
    return nv_datum_of_string(nv_span_of(out, nv_json_unescape(inner, out)));
}

nv_datum nv_datum_of_json(nv_span json, nv_arena *scratch)
{
    switch (nv_json_kind_of(json)) {
    case NV_JSON_ABSENT:
        break;
    case NV_JSON_NULL:
        return (nv_datum){.kind = NV_DATUM_NULL};
    case NV_JSON_FALSE:
    case NV_JSON_TRUE:
        return nv_datum_of_bool(json.ptr[0] == 't');
    case NV_JSON_NUMBER:
        return (nv_datum){.kind = NV_DATUM_NUMBER, .text = json};
    case NV_JSON_STRING:
        return string_of_json(json, scratch);
    case NV_JSON_ARRAY:
        return (nv_datum){.kind = NV_DATUM_ARRAY, .text = json};
    case NV_JSON_OBJECT:
        return (nv_datum){.kind = NV_DATUM_OBJECT, .text = json};
    }
    return NV_DATUM_OF_NOTHING;
}

double nv_datum_number(const nv_datum *value)
{
    double number = value->number;
    if (value->text.len && !nv_json_number(value->text, &number)) {
        return NAN; /* not what a twin can hold; NaN compares with nothing */
    }
    return number;
}

bool nv_datum_same(const nv_datum *a, const nv_datum *b)
{
    if (a->kind != b->kind) {
        return false;
    }
    switch (a->kind) {
    case NV_DATUM_NULL:
        return true;
    case NV_DATUM_BOOL:
        return a->boolean == b->boolean;
    case NV_DATUM_NUMBER:
        return nv_datum_number(a) == nv_datum_number(b);
    case NV_DATUM_STRING:
        return nv_span_eq(a->text, b->text);
    case NV_DATUM_UNDEFINED:
    case NV_DATUM_ARRAY:
    case NV_DATUM_OBJECT:
        break;
    }
    return false;
}

static void write_number(double number, nv_json_writer *w)
{
    char text[40];
    int len = 0;
    for (int digits = 15; digits <= 17 && isfinite(number); digits++) {
        len = snprintf(text, sizeof(text), "%.*g", digits, number);
        if (strtod(text, NULL) == number) {
            break;
        }
    }
    if (len > 0) {
        nv_json_raw(w, nv_span_of(text, (size_t)len));
    } else {
        nv_json_double(w, number);
    }
}

void nv_datum_write(const nv_datum *value, nv_json_writer *w)
{
    switch (value->kind) {
    case NV_DATUM_UNDEFINED:
    case NV_DATUM_NULL:
        nv_json_null(w);
        break;
    case NV_DATUM_BOOL:
        nv_json_bool(w, value->boolean);
        break;
    case NV_DATUM_NUMBER:
        if (value->text.len) {
            nv_json_raw(w, value->text);
        } else {
            write_number(value->number, w);
        }
        break;
    case NV_DATUM_STRING:
        nv_json_string(w, value->text);
        break;
    case NV_DATUM_ARRAY:
    case NV_DATUM_OBJECT:
        nv_json_raw(w, value->text);
        break;
    }
}

/* ---- logic -------------------------------------------------------------------------------------------------- */

typedef enum truth { FALSE_, TRUE_, UNKNOWN } truth;

static truth truth_of(const nv_datum *value)
{
    return value->kind != NV_DATUM_BOOL ? UNKNOWN : value->boolean ? TRUE_ : FALSE_;
}

static nv_datum value_of(truth t)
{
    return t == UNKNOWN ? NV_DATUM_OF_NOTHING : nv_datum_of_bool(t == TRUE_);
}

/* One argument that is @p decisive decides; else one that is unknown does; else the opposite. */
static nv_datum chain(const nv_expr *expr, const nv_expr_env *env, truth decisive)
{
    truth result = decisive == TRUE_ ? FALSE_ : TRUE_;
    for (uint32_t i = 0; i < expr->count; i++) {
        nv_datum value = nv_expr_eval(expr->args[i], env);
        truth t = truth_of(&value);
        if (t == decisive) {
            return nv_datum_of_bool(decisive == TRUE_);
        }
        result = t == UNKNOWN ? UNKNOWN : result;
    }
    return value_of(result);
}

static nv_datum negation(const nv_expr *expr, const nv_expr_env *env)
{
    nv_datum value = nv_expr_eval(expr->args[0], env);
    truth t = truth_of(&value);
    return value_of(t == UNKNOWN ? UNKNOWN : t == TRUE_ ? FALSE_ : TRUE_);
}

/* ---- comparison --------------------------------------------------------------------------------------------- */

static bool is_composite(const nv_datum *value)
{
    return value->kind == NV_DATUM_ARRAY || value->kind == NV_DATUM_OBJECT;
}

/* Two values of one kind that has an order. */
static nv_datum order(nv_expr_op op, int sign)
{
    switch ((int)op) {
    case NV_EXPR_LT:
        return nv_datum_of_bool(sign < 0);
    case NV_EXPR_LE:
        return nv_datum_of_bool(sign <= 0);
    case NV_EXPR_GT:
        return nv_datum_of_bool(sign > 0);
    default:
        return nv_datum_of_bool(sign >= 0);
    }
}

static int sign_of(double a, double b)
{
    return a < b ? -1 : a > b ? 1 : 0;
}

static nv_datum compare(nv_expr_op op, const nv_datum *a, const nv_datum *b)
{
    if (a->kind == NV_DATUM_UNDEFINED || b->kind == NV_DATUM_UNDEFINED) {
        return NV_DATUM_OF_NOTHING;
    }
    if (a->kind != b->kind) { /* different types: unequal, and neither comes first */
        return nv_datum_of_bool(op == NV_EXPR_NE);
    }
    if (is_composite(a)) {
        return NV_DATUM_OF_NOTHING;
    }
    if (op == NV_EXPR_EQ || op == NV_EXPR_NE) {
        return nv_datum_of_bool(nv_datum_same(a, b) == (op == NV_EXPR_EQ));
    }
    if (a->kind == NV_DATUM_NUMBER) {
        return order(op, sign_of(nv_datum_number(a), nv_datum_number(b)));
    }
    if (a->kind == NV_DATUM_STRING) {
        return order(op, nv_span_cmp(a->text, b->text));
    }
    return a->kind == NV_DATUM_BOOL ? order(op, (a->boolean ? 1 : 0) - (b->boolean ? 1 : 0)) : nv_datum_of_bool(false);
}

static nv_datum membership(const nv_expr *expr, const nv_expr_env *env)
{
    nv_datum needle = nv_expr_eval(expr->args[0], env);
    if (needle.kind == NV_DATUM_UNDEFINED) {
        return NV_DATUM_OF_NOTHING;
    }
    bool found = false;
    for (uint32_t i = 1; i < expr->count && !found; i++) {
        found = nv_datum_same(&needle, &expr->args[i]->constant);
    }
    return nv_datum_of_bool(found == (expr->op == NV_EXPR_IN));
}

/* ---- numbers and calls -------------------------------------------------------------------------------------- */

static nv_datum arithmetic(nv_expr_op op, const nv_datum *a, const nv_datum *b)
{
    if (a->kind != NV_DATUM_NUMBER || b->kind != NV_DATUM_NUMBER) {
        return NV_DATUM_OF_NOTHING;
    }
    double x = nv_datum_number(a);
    double y = nv_datum_number(b);
    switch ((int)op) {
    case NV_EXPR_ADD:
        return nv_datum_of_number(x + y);
    case NV_EXPR_SUBTRACT:
        return nv_datum_of_number(x - y);
    case NV_EXPR_MULTIPLY:
        return nv_datum_of_number(x * y);
    case NV_EXPR_DIVIDE:
        return nv_datum_of_number(x / y);
    default:
        return nv_datum_of_number(fmod(x, y));
    }
}

static nv_datum negate(const nv_expr *expr, const nv_expr_env *env)
{
    nv_datum value = nv_expr_eval(expr->args[0], env);
    return value.kind == NV_DATUM_NUMBER ? nv_datum_of_number(-nv_datum_number(&value)) : NV_DATUM_OF_NOTHING;
}

static bool fits(const nv_datum *value, nv_param param)
{
    switch (param) {
    case NV_PARAM_NUMBER:
        return value->kind == NV_DATUM_NUMBER;
    case NV_PARAM_STRING:
        return value->kind == NV_DATUM_STRING;
    case NV_PARAM_ARRAY:
        return value->kind == NV_DATUM_ARRAY;
    case NV_PARAM_ANY:
    case NV_PARAM_PROPERTY:
        break;
    }
    return true;
}

static nv_datum call(const nv_expr *expr, const nv_expr_env *env)
{
    const nv_expr_function *function = expr->function;
    nv_datum few[4];
    nv_datum *args = expr->count <= NV_COUNT_OF(few) ? few : nv_arena_alloc(env->scratch, expr->count * sizeof(*args));
    for (uint32_t i = 0; i < expr->count; i++) {
        args[i] = nv_expr_eval(expr->args[i], env);
        if (!function->undefined_too &&
            (args[i].kind == NV_DATUM_UNDEFINED || !fits(&args[i], nv_expr_param_of(function, i)))) {
            return NV_DATUM_OF_NOTHING;
        }
    }
    return function->call(args, expr->count, env->scratch);
}

nv_datum nv_expr_eval(const nv_expr *expr, const nv_expr_env *env)
{
    switch (expr->op) {
    case NV_EXPR_CONSTANT:
        return expr->constant;
    case NV_EXPR_PATH:
        return env->resolve(env->arg, expr->path);
    case NV_EXPR_NOT:
        return negation(expr, env);
    case NV_EXPR_NEGATE:
        return negate(expr, env);
    case NV_EXPR_AND:
        return chain(expr, env, FALSE_);
    case NV_EXPR_OR:
        return chain(expr, env, TRUE_);
    case NV_EXPR_IN:
    case NV_EXPR_NIN:
        return membership(expr, env);
    case NV_EXPR_CALL:
        return call(expr, env);
    case NV_EXPR_EQ:
    case NV_EXPR_NE:
    case NV_EXPR_LT:
    case NV_EXPR_LE:
    case NV_EXPR_GT:
    case NV_EXPR_GE: {
        nv_datum left = nv_expr_eval(expr->args[0], env);
        nv_datum right = nv_expr_eval(expr->args[1], env);
        return compare(expr->op, &left, &right);
    }
    case NV_EXPR_ADD:
    case NV_EXPR_SUBTRACT:
    case NV_EXPR_MULTIPLY:
    case NV_EXPR_DIVIDE:
    case NV_EXPR_REMAINDER: {
        nv_datum left = nv_expr_eval(expr->args[0], env);
        nv_datum right = nv_expr_eval(expr->args[1], env);
        return arithmetic(expr->op, &left, &right);
    }
    }
    return NV_DATUM_OF_NOTHING;
}
