/**
 * A borrowed run of bytes. Const by default; never owns, never NUL-terminated. Whoever stores a span
 * says in a comment who owns the bytes.
 */
#ifndef NV_BASE_SPAN_H
#define NV_BASE_SPAN_H

#include "base/attrs.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct nv_span {
    const uint8_t *ptr;
    size_t len;
} nv_span;

#define NV_SPAN_EMPTY ((nv_span){NULL, 0})
/** A span over a string literal, usable in constant initialisers. */
#define NV_SPAN_LIT(literal)                                                                                           \
    {                                                                                                                  \
        (const uint8_t *)("" literal), sizeof(literal) - 1                                                             \
    }
/** printf arguments for "%.*s". */
#define NV_SPAN_ARG(span) (int)(span).len, (const char *)((span).ptr ? (span).ptr : (const uint8_t *)"")

static inline nv_span nv_span_of(const void *ptr, size_t len)
{
    return (nv_span){(const uint8_t *)ptr, len};
}

static inline nv_span nv_span_str(const char *text)
{
    return (nv_span){(const uint8_t *)text, text ? strlen(text) : 0};
}

static inline bool nv_span_eq(nv_span a, nv_span b)
{
    NV_KNOWN((a.len == 0 || a.ptr) && (b.len == 0 || b.ptr));
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

static inline bool nv_span_eq_str(nv_span a, const char *text)
{
    return nv_span_eq(a, nv_span_str(text));
}

/** ASCII case-insensitive equality. Not constant time. */
bool nv_span_eq_nocase(nv_span a, nv_span b);

static inline bool nv_span_starts_with(nv_span a, nv_span prefix)
{
    return a.len >= prefix.len && (prefix.len == 0 || memcmp(a.ptr, prefix.ptr, prefix.len) == 0);
}

/** The part of @p a after its first @p n bytes; empty when there are fewer. */
static inline nv_span nv_span_skip(nv_span a, size_t n)
{
    return n < a.len ? nv_span_of(a.ptr + n, a.len - n) : nv_span_of(a.len ? a.ptr + a.len : a.ptr, 0);
}

static inline nv_span nv_span_first(nv_span a, size_t n)
{
    return nv_span_of(a.ptr, n < a.len ? n : a.len);
}

/** Without the characters of @p spaces at either end. */
nv_span nv_span_trim(nv_span text, const char *spaces);

/** Index of the first @p byte, or a.len when absent. */
static inline size_t nv_span_find(nv_span a, uint8_t byte)
{
    NV_KNOWN(a.len == 0 || a.ptr);
    const void *at = a.len ? memchr(a.ptr, byte, a.len) : NULL;
    return at ? (size_t)((const uint8_t *)at - a.ptr) : a.len;
}

/** Copy into a NUL-terminated malloc'd string; aborts when memory is out. The caller frees it. */
char *nv_span_dup(nv_span a);

/** Three-way byte-wise comparison, shorter first on a common prefix. */
int nv_span_cmp(nv_span a, nv_span b);

/** Equality in time that depends on the lengths only; for keys, tokens and signatures. */
bool nv_span_eq_secret(nv_span a, nv_span b);

/** Parse the whole span as an unsigned decimal number. @return false on empty, other bytes, overflow */
bool nv_span_to_u64(nv_span a, uint64_t *out);

/** Overwrite memory that held a secret in a way the compiler keeps. */
void nv_wipe(void *ptr, size_t len);

#endif
