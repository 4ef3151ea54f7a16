#include "core/expr_lex.h"

#include <math.h>

nv_lexer nv_lexer_of(nv_span text)
{
    const uint8_t *limit = text.len ? text.ptr + text.len : text.ptr;
    return (nv_lexer){.at = text.ptr, .limit = limit, .line = 1, .column = 1, .counted = text.ptr};
}

/* Behind a line feed. */
static void begin_line(nv_lexer *lexer, const uint8_t *start)
{
    lexer->line++;
    lexer->column = 1;
    lexer->counted = start;
}

/* Characters, not bytes: a continuation byte of UTF-8 is no column of its own. */
static nv_expr_pos pos_of(nv_lexer *lexer, const uint8_t *at)
{
    for (; lexer->counted < at; lexer->counted++) {
        lexer->column += (*lexer->counted & 0xc0) != 0x80 ? 1 : 0;
    }
    return (nv_expr_pos){lexer->line, lexer->column};
}

static nv_token token_of(nv_lexer *lexer, nv_token_kind kind, const uint8_t *start)
{
    return (nv_token){kind, nv_span_of(start, (size_t)(lexer->at - start)), pos_of(lexer, start)};
}

static nv_token bad(nv_lexer *lexer, const uint8_t *start, const char *what)
{
    return (nv_token){NV_TOKEN_BAD, nv_span_str(what), pos_of(lexer, start)};
}

static void skip_space(nv_lexer *lexer)
{
    while (lexer->at < lexer->limit) {
        uint8_t c = *lexer->at;
        if (c == '\n') {
            begin_line(lexer, lexer->at + 1);
        } else if (c != ' ' && c != '\t' && c != '\r') {
            return;
        }
        lexer->at++;
    }
}

static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex(uint8_t c)
{
    return is_digit(c) || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/* Beyond ASCII everything is a letter: names of properties come from any language. */
static bool is_word_start(uint8_t c)
{
    return ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_' || c == '$' || c >= 0x80;
}

static bool is_word(uint8_t c)
{
    return is_word_start(c) || is_digit(c);
}

static uint8_t peek(const nv_lexer *lexer, size_t ahead)
{
    return (size_t)(lexer->limit - lexer->at) > ahead ? lexer->at[ahead] : 0;
}

static void skip_digits(nv_lexer *lexer)
{
    while (is_digit(peek(lexer, 0))) {
        lexer->at++;
    }
}

/* A minus belongs to a name where the name goes on behind it: `a-b` is a name, `a - b` a difference. */
static nv_token word(nv_lexer *lexer)
{
    const uint8_t *start = lexer->at;
    for (;;) {
        while (is_word(peek(lexer, 0))) {
            lexer->at++;
        }
        if (peek(lexer, 0) != '-' || !is_word(peek(lexer, 1))) {
            return token_of(lexer, NV_TOKEN_WORD, start);
        }
        lexer->at++;
    }
}

static nv_token number(nv_lexer *lexer)
{
    const uint8_t *start = lexer->at;
    if (peek(lexer, 0) == '0' && (peek(lexer, 1) | 0x20) == 'x' && is_hex(peek(lexer, 2))) {
        lexer->at += 2;
        while (is_hex(peek(lexer, 0))) {
            lexer->at++;
        }
    } else {
        skip_digits(lexer);
        if (peek(lexer, 0) == '.' && is_digit(peek(lexer, 1))) {
            lexer->at++;
            skip_digits(lexer);
        }
        size_t sign = peek(lexer, 1) == '+' || peek(lexer, 1) == '-' ? 1 : 0;
        if ((peek(lexer, 0) | 0x20) == 'e' && is_digit(peek(lexer, 1 + sign))) {
            lexer->at += 1 + sign;
            skip_digits(lexer);
        }
    }
    return is_word(peek(lexer, 0)) ? bad(lexer, start, "a number that goes on as a name")
                                   : token_of(lexer, NV_TOKEN_NUMBER, start);
}

/* '' within '...' is a quote; elsewhere a backslash takes the next character with it. */
static nv_token string(nv_lexer *lexer)
{
    const uint8_t *start = lexer->at;
    uint8_t quote = *lexer->at++;
    nv_expr_pos pos = pos_of(lexer, start);
    while (lexer->at < lexer->limit) {
        uint8_t c = *lexer->at++;
        if (c == '\n') {
            begin_line(lexer, lexer->at);
        } else if ((c == '\\' && lexer->at < lexer->limit && *lexer->at != '\n') ||
                   (c == quote && quote == '\'' && peek(lexer, 0) == '\'')) {
            lexer->at++;
        } else if (c == quote) {
            return (nv_token){NV_TOKEN_STRING, nv_span_of(start, (size_t)(lexer->at - start)), pos};
        }
    }
    return (nv_token){NV_TOKEN_BAD, nv_span_str("a string that does not end"), pos};
}

static nv_token symbol(nv_lexer *lexer)
{
    static const char pairs[][3] = {"!=", "<>", "<=", ">="};
    const uint8_t *start = lexer->at;
    for (size_t i = 0; i < NV_COUNT_OF(pairs); i++) {
        if (peek(lexer, 0) == (uint8_t)pairs[i][0] && peek(lexer, 1) == (uint8_t)pairs[i][1]) {
            lexer->at += 2;
            return token_of(lexer, NV_TOKEN_SYMBOL, start);
        }
    }
    if (*start == 0 || !strchr("=<>+-*/%()[],.", *start)) {
        return bad(lexer, start, "a character that has no meaning here");
    }
    lexer->at++;
    return token_of(lexer, NV_TOKEN_SYMBOL, start);
}

nv_token nv_lexer_next(nv_lexer *lexer)
{
    skip_space(lexer);
    uint8_t c = peek(lexer, 0);
    if (lexer->at == lexer->limit) {
        return token_of(lexer, NV_TOKEN_END, lexer->at);
    }
    if (is_word_start(c)) {
        return word(lexer);
    }
    if (is_digit(c) || (c == '.' && is_digit(peek(lexer, 1)))) {
        return number(lexer);
    }
    return c == '\'' || c == '"' ? string(lexer) : symbol(lexer);
}

nv_token nv_lexer_next_step(nv_lexer *lexer)
{
    skip_space(lexer);
    if (peek(lexer, 0) != '[' || peek(lexer, 1) != '[') {
        return nv_lexer_next(lexer);
    }
    const uint8_t *start = lexer->at;
    nv_expr_pos pos = pos_of(lexer, start);
    for (lexer->at += 2; lexer->at < lexer->limit && *lexer->at != '\n'; lexer->at++) {
        if (peek(lexer, 0) == ']' && peek(lexer, 1) == ']') {
            nv_span inner = nv_span_of(start + 2, (size_t)(lexer->at - start) - 2);
            lexer->at += 2;
            return (nv_token){NV_TOKEN_WORD, inner, pos};
        }
    }
    return (nv_token){NV_TOKEN_BAD, nv_span_str("a name in [[ that does not end with ]]"), pos};
}

/* ---- what tokens mean --------------------------------------------------------------------------------------- */

/* The bytes of the escape at @p at (a backslash), or 0. */
static size_t escape_length(const uint8_t *at, const uint8_t *limit)
{
    if (limit - at < 2) {
        return 0;
    }
    if (at[1] != 'u') {
        return at[1] == '\'' || at[1] == '"' || at[1] == '\\' ? 2 : 0;
    }
    if (limit - at < 6) {
        return 0;
    }
    for (int i = 2; i < 6; i++) {
        if (!is_hex(at[i])) {
            return 0;
        }
    }
    return 6;
}

bool nv_token_string(const nv_token *token, nv_arena *arena, nv_span *out, size_t *bad_at)
{
    bool single = token->text.ptr[0] == '\'';
    const uint8_t *at = token->text.ptr + 1;
    const uint8_t *limit = token->text.ptr + token->text.len - 1;
    uint8_t *to = nv_arena_alloc(arena, token->text.len);
    size_t len = 0;
    while (at < limit) {
        if (*at == '\\') {
            /* neighbours together: a pair of surrogates is two escapes */
            const uint8_t *run = at;
            size_t escape = 0;
            while (at < limit && *at == '\\' && (escape = escape_length(at, limit)) > 0) {
                at += escape;
            }
            if (at < limit && *at == '\\') {
                *bad_at = (size_t)(at - token->text.ptr);
                return false;
            }
            len += nv_json_unescape(nv_span_of(run, (size_t)(at - run)), to + len);
        } else {
            to[len++] = *at;
            at += single && *at == '\'' ? 2 : 1;
        }
    }
    *out = nv_span_of(to, len);
    return true;
}

bool nv_token_number(const nv_token *token, double *out)
{
    nv_span text = token->text;
    if (text.len > 2 && (text.ptr[1] | 0x20) == 'x') {
        double value = 0;
        for (size_t i = 2; i < text.len; i++) {
            uint8_t c = text.ptr[i];
            value = value * 16 + (is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
        }
        *out = value;
        return isfinite(value);
    }
    char digits[64];
    size_t lead = text.ptr[0] == '.' ? 1 : 0;
    if (text.len + lead > sizeof(digits)) {
        return false;
    }
    digits[0] = '0';
    memcpy(digits + lead, text.ptr, text.len);
    return nv_json_number(nv_span_of(digits, text.len + lead), out) && isfinite(*out);
}
