/** Tokens of the query language (semantics.md section 2.3). Internal to core/expr_parse.c and core/query_parse.c. */
#ifndef NV_CORE_EXPR_LEX_H
#define NV_CORE_EXPR_LEX_H

#include "core/expr.h"

typedef enum nv_token_kind {
    NV_TOKEN_END,
    NV_TOKEN_WORD,   /* name or keyword */
    NV_TOKEN_NUMBER, /* decimal or 0x */
    NV_TOKEN_STRING,
    NV_TOKEN_SYMBOL, /* one of = != <> < <= > >= + - * / % ( ) [ ] , . */
    NV_TOKEN_BAD     /* text holds the sentence */
} nv_token_kind;

typedef struct nv_token {
    nv_token_kind kind;
    nv_span text; /* as it stands in the input; BAD: what is wrong with it, static text */
    nv_expr_pos pos;
} nv_token;

typedef struct nv_lexer {
    const uint8_t *at;
    const uint8_t *limit;
    uint32_t line;
    uint32_t column;        /* of counted, from 1 */
    const uint8_t *counted; /* in this line */
} nv_lexer;

nv_lexer nv_lexer_of(nv_span text);
nv_token nv_lexer_next(nv_lexer *lexer);
/** Where a step of a path begins: a name, keywords too, or [[anything]], of which text is the inner part. */
nv_token nv_lexer_next_step(nv_lexer *lexer);

/** Undo the escapes of a STRING token. @return false: one of them is none, *bad tells where in the text */
bool nv_token_string(const nv_token *token, nv_arena *arena, nv_span *out, size_t *bad);
/** @return false: too many digits for a number */
bool nv_token_number(const nv_token *token, double *out);

#endif
