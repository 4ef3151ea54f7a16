/**
 * Parser of expressions: recursive descent over one token at hand. Internal to core/expr*.c and core/query_parse.c,
 * whose grammar has expressions in it. The first error sticks; from then on the token at hand is the end of the text,
 * so that every loop ends.
 */
#ifndef NV_CORE_EXPR_PARSE_H
#define NV_CORE_EXPR_PARSE_H

#include "core/expr_lex.h"

typedef struct nv_parser {
    nv_arena *arena; /* of the tree; borrowed. What the tree points at in the text stays the text's */
    nv_lexer lexer;
    nv_token token; /* at hand */
    uint32_t nest;
    nv_expr_path *paths; /* what the text names, in order of first use */
    nv_expr_path **paths_end;
    uint32_t path_count;
    bool failed;
    nv_expr_pos error_pos;
    char error[120];
} nv_parser;

/** @p text outlives the tree. The parser stays where it is. */
void nv_parser_init(nv_parser *p, nv_span text, nv_arena *arena);

/** Note the first error. */
void nv_parser_fail(nv_parser *p, nv_expr_pos pos, const char *fmt, ...) NV_PRINTF(3, 4);
/** "expected X, found Y" at the token at hand. */
void nv_parser_expected(nv_parser *p, const char *what);
void nv_parser_advance(nv_parser *p);

bool nv_parser_at_symbol(const nv_parser *p, const char *symbol);
/** Ignoring case. */
bool nv_parser_at_word(const nv_parser *p, const char *keyword);
/** Move on if it is there. */
bool nv_parser_take_symbol(nv_parser *p, const char *symbol);
bool nv_parser_take_word(nv_parser *p, const char *keyword);
/** Move on, or fail naming what was expected. @return false: failed */
bool nv_parser_need_symbol(nv_parser *p, const char *symbol);
bool nv_parser_need_word(nv_parser *p, const char *keyword);
/** True at a word that the grammar claims (FROM, AND, ...). */
bool nv_parser_at_keyword(const nv_parser *p);

/** NULL: failed. */
nv_expr_path *nv_parser_path(nv_parser *p);
/** A condition: something that can be true. NULL: failed. */
const nv_expr *nv_parser_condition(nv_parser *p);

/** Pointers in a row, in the arena. */
typedef struct nv_expr_list {
    const nv_expr **items;
    uint32_t count;
    uint32_t capacity;
} nv_expr_list;

#endif
