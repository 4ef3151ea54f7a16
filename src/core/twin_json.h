/**
 * Reading the sections of stored twins: compact JSON objects in normal form, which is what core/twin_check.c lets in.
 *
 * Normal form: no white space; strings are UTF-8 with escapes only for what JSON demands (quote, backslash, controls:
 * the short escape where there is one, else lower-case hexadecimal); numbers as the client wrote them; no key
 * twice in an object; no null. So equal keys are equal bytes, and a value is copied without being understood.
 *
 * What is read here comes from the store. Nothing is read past its end whatever it holds: a text that is none of ours
 * ends the reading with at = NULL.
 */
#ifndef NV_CORE_TWIN_JSON_H
#define NV_CORE_TWIN_JSON_H

#include "base/span.h"

/* Containers below a section, the section not counted; semantics.md section 1.7. */
#define NV_TWIN_DEPTH_MAX 10u

typedef struct nv_twin_cursor {
    const uint8_t *at; /* NULL: the text is damaged */
    const uint8_t *limit;
} nv_twin_cursor;

static inline nv_twin_cursor nv_twin_cursor_of(nv_span text)
{
    return (nv_twin_cursor){text.ptr, text.ptr ? text.ptr + text.len : NULL};
}

/** The byte at the cursor; 0 at the end and when the text is damaged. */
static inline uint8_t nv_twin_peek(const nv_twin_cursor *c)
{
    return c->at && c->at < c->limit ? *c->at : 0;
}

/** Step over @p byte. @return whether it stood there; when not, the text is damaged */
bool nv_twin_take(nv_twin_cursor *c, uint8_t byte);
/** Step over a string. @return it with its quotes */
nv_span nv_twin_take_string(nv_twin_cursor *c);
/**
 * Step over a value of any kind. @return its text
 * @param members  NULL, or increased by the members in it at all depths, those inside of arrays left out
 */
nv_span nv_twin_take_value(nv_twin_cursor *c, size_t *members);
/**
 * To the next member of an object, having stepped over its '{' or over the value of the member before: the cursor
 * stands at the value. @return false: the object is over, and stepped over
 */
bool nv_twin_next_member(nv_twin_cursor *c, nv_span *key);

/** Size by the service's formula (semantics.md section 1.7); text that is damaged counts as SIZE_MAX. */
size_t nv_twin_size(nv_span text);

/**
 * The bytes of a string in normal form without quotes and escapes, cut after at most @p max bytes between two
 * characters. @return how many were written to @p out
 */
size_t nv_twin_unescape(nv_span quoted, uint8_t *out, size_t max);

#endif
