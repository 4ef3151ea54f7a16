/** The functions of the expression language: semantics.md sections 2.5 and 3.6. Internal to core/expr*.c. */
#ifndef NV_CORE_EXPR_FUNCTIONS_H
#define NV_CORE_EXPR_FUNCTIONS_H

#include "core/expr.h"

/** What an argument must be; a constant of another type is refused, a property of another type yields undefined. */
typedef enum nv_param { NV_PARAM_ANY, NV_PARAM_NUMBER, NV_PARAM_STRING, NV_PARAM_ARRAY, NV_PARAM_PROPERTY } nv_param;

typedef struct nv_expr_function {
    const char *name; /* upper case */
    uint32_t min_args;
    uint32_t max_args;  /* UINT32_MAX: any number */
    nv_param params[3]; /* further arguments are like the last */
    nv_expr_type type;
    bool undefined_too; /* called with undefined arguments as well; else those make the result undefined */
    /** The arguments have the types of the parameters. */
    nv_datum (*call)(const nv_datum *args, uint32_t count, nv_arena *scratch);
} nv_expr_function;

/** Ignoring case. @return NULL: there is none */
const nv_expr_function *nv_expr_function_of(nv_span name);

static inline nv_param nv_expr_param_of(const nv_expr_function *function, uint32_t arg)
{
    return function->params[arg < 2 ? arg : 2];
}

#endif
