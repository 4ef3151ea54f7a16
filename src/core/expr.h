/**
 * Expressions over the properties of twins and messages: the part that queries (semantics.md section 2) and message
 * routing (section 3) share. Values, lexer, parser to a checked tree, evaluation with three-valued logic, functions.
 *
 * The tree is built once per text in an arena and is immutable: any number of threads may evaluate it. Where the values
 * of properties come from is the evaluator's caller's matter (nv_expr_env).
 */
#ifndef NV_CORE_EXPR_H
#define NV_CORE_EXPR_H

#include "base/arena.h"
#include "base/err.h"
#include "codec/json_path.h"

/* ---- values ------------------------------------------------------------------------------------------------- */

typedef enum nv_datum_kind {
    NV_DATUM_UNDEFINED, /* a property that is not there; also the third value of logic */
    NV_DATUM_NULL,
    NV_DATUM_BOOL,
    NV_DATUM_NUMBER,
    NV_DATUM_STRING,
    NV_DATUM_ARRAY,
    NV_DATUM_OBJECT
} nv_datum_kind;

/** Spans belong to whoever made the value: the row, the tree or the scratch memory. */
typedef struct nv_datum {
    nv_datum_kind kind;
    bool boolean;
    double number; /* NUMBER without text */
    nv_span text;  /* STRING: the characters; ARRAY, OBJECT: JSON; NUMBER: as written, not yet read, or empty */
} nv_datum;

#define NV_DATUM_OF_NOTHING ((nv_datum){.kind = NV_DATUM_UNDEFINED})
static inline nv_datum nv_datum_of_bool(bool boolean)
{
    return (nv_datum){.kind = NV_DATUM_BOOL, .boolean = boolean};
}
/** Not a number is undefined (semantics.md section 3.4). */
static inline nv_datum nv_datum_of_number(double number)
{
    return (nv_datum){.kind = number == number ? NV_DATUM_NUMBER : NV_DATUM_UNDEFINED, .number = number};
}
static inline nv_datum nv_datum_of_string(nv_span text)
{
    return (nv_datum){.kind = NV_DATUM_STRING, .text = text};
}
/** Of the text of a JSON value; empty is undefined. Strings with escapes are decoded into @p scratch. */
nv_datum nv_datum_of_json(nv_span json, nv_arena *scratch);
/** What a NUMBER is; numbers of a row are read only here. */
double nv_datum_number(const nv_datum *value);
/** Same kind and same content: the `=` of the language for two defined primitives. */
bool nv_datum_same(const nv_datum *a, const nv_datum *b);

struct nv_json_writer;
/** UNDEFINED writes null. Computed numbers are written as short as they can be read back. */
void nv_datum_write(const nv_datum *value, struct nv_json_writer *w);

/* ---- trees -------------------------------------------------------------------------------------------------- */

#define NV_EXPR_DEPTH_MAX 200u /* of a tree */
#define NV_EXPR_NEST_MAX  64u  /* parentheses, NOT, minus, calls within each other */
#define NV_EXPR_PATHS_MAX 256u /* different properties of one text */
#define NV_EXPR_STEPS_MAX 32u
/** Functions that build strings yield undefined beyond it. Bytes. */
#define NV_EXPR_STRING_MAX 65536u

/** Where something stands in the text; both from 1, columns in characters. */
typedef struct nv_expr_pos {
    uint32_t line;
    uint32_t column;
} nv_expr_pos;

/** A property that the text names; each is listed once. */
typedef struct nv_expr_path {
    const nv_json_step *steps; /* without the prefix `devices.` */
    uint32_t count;            /* at least 1 */
    uint32_t index;            /* in order of first use, from 0 */
    uint32_t binding;          /* the user's: what it resolved the first steps to, before evaluation */
    uint32_t bound_steps;      /* the user's: how many steps that were */
    nv_expr_pos pos;           /* of the first use */
    struct nv_expr_path *next;
} nv_expr_path;

typedef enum nv_expr_op {
    NV_EXPR_CONSTANT,
    NV_EXPR_PATH,
    NV_EXPR_NOT,
    NV_EXPR_NEGATE,
    NV_EXPR_AND, /* two or more */
    NV_EXPR_OR,
    NV_EXPR_EQ,
    NV_EXPR_NE,
    NV_EXPR_LT,
    NV_EXPR_LE,
    NV_EXPR_GT,
    NV_EXPR_GE,
    NV_EXPR_IN, /* the first argument in the others, all constants */
    NV_EXPR_NIN,
    NV_EXPR_ADD,
    NV_EXPR_SUBTRACT,
    NV_EXPR_MULTIPLY,
    NV_EXPR_DIVIDE,
    NV_EXPR_REMAINDER,
    NV_EXPR_CALL
} nv_expr_op;

/** What a node yields as far as the text says: DYNAMIC only evaluation tells. */
typedef enum nv_expr_type {
    NV_TYPE_DYNAMIC,
    NV_TYPE_BOOL,
    NV_TYPE_NUMBER,
    NV_TYPE_STRING,
    NV_TYPE_ARRAY,
    NV_TYPE_NULL,
    NV_TYPE_UNDEFINED
} nv_expr_type;

struct nv_expr_function;

typedef struct nv_expr {
    nv_expr_op op;
    nv_expr_type type;
    uint32_t depth;
    nv_expr_pos pos;
    nv_datum constant;
    nv_expr_path *path;
    const struct nv_expr_function *function;
    const struct nv_expr **args;
    uint32_t count;
} nv_expr;

/* ---- evaluation --------------------------------------------------------------------------------------------- */

typedef struct nv_expr_env {
    /** The value of a property in the row at hand. Spans live until the scratch memory is reset. */
    nv_datum (*resolve)(void *arg, const nv_expr_path *path);
    void *arg;
    nv_arena *scratch; /* results of functions; the caller resets it between rows */
} nv_expr_env;

nv_datum nv_expr_eval(const nv_expr *expr, const nv_expr_env *env);

/** Only true selects. */
static inline bool nv_expr_selects(const nv_expr *expr, const nv_expr_env *env)
{
    nv_datum value = nv_expr_eval(expr, env);
    return value.kind == NV_DATUM_BOOL && value.boolean;
}

#endif
