/**
 * JSON: a writer into a bounded buffer, a strict checker that bounds depth and number of values before a tree is
 * built, and a few readers of json-c trees. Thread: any, one at a time per object.
 */
#ifndef NV_CODEC_JSON_H
#define NV_CODEC_JSON_H

#include "base/buf.h"

struct json_object;

/* ---- writing ---------------------------------------------------------------------------------------------- */

/** Writes members in the order of the calls and sets commas itself. The first error sticks. */
typedef struct nv_json_writer {
    nv_buf *out; /* borrowed */
    bool comma;  /* the next value or name needs one in front */
    nv_err err;  /* NV_E_TOO_BIG: out is at its maximum */
} nv_json_writer;

static inline nv_json_writer nv_json_writer_of(nv_buf *out)
{
    return (nv_json_writer){.out = out};
}

void nv_json_begin_object(nv_json_writer *w);
void nv_json_end_object(nv_json_writer *w);
void nv_json_begin_array(nv_json_writer *w);
void nv_json_end_array(nv_json_writer *w);
void nv_json_name(nv_json_writer *w, nv_span name);
/** What is not UTF-8 becomes U+FFFD, so that the output is JSON whatever the input is. */
void nv_json_string(nv_json_writer *w, nv_span text);
void nv_json_int(nv_json_writer *w, int64_t value);
void nv_json_uint(nv_json_writer *w, uint64_t value);
/** NaN and infinities, which JSON lacks, become strings. */
void nv_json_double(nv_json_writer *w, double value);
void nv_json_bool(nv_json_writer *w, bool value);
void nv_json_null(nv_json_writer *w);
/** null where @p text is empty. */
static inline void nv_json_string_or_null(nv_json_writer *w, nv_span text)
{
    if (text.len > 0) {
        nv_json_string(w, text);
    } else {
        nv_json_null(w);
    }
}
/** Text that is JSON already. */
void nv_json_raw(nv_json_writer *w, nv_span json);
/** @p bytes as a base64 string. */
void nv_json_base64(nv_json_writer *w, nv_span bytes);

static inline void nv_json_key(nv_json_writer *w, const char *name)
{
    nv_json_name(w, nv_span_str(name));
}
static inline void nv_json_str(nv_json_writer *w, const char *text)
{
    nv_json_string(w, nv_span_str(text));
}

/* ---- checking --------------------------------------------------------------------------------------------- */

#define NV_JSON_MAX_DEPTH 64u

/**
 * Is @p text one JSON value (RFC 8259, UTF-8)? With @p out its compact form, one line, numbers as written, is appended
 * there.
 * @param max_depth   of arrays and objects, at most NV_JSON_MAX_DEPTH
 * @param max_values  strings, numbers, literals, arrays and objects together
 * @return NV_E_SYNTAX; NV_E_TOO_BIG too deep, too many values, or out is full (out is then as before)
 */
NV_NODISCARD nv_err nv_json_compact(nv_span text, uint32_t max_depth, uint32_t max_values, nv_buf *out);

static inline nv_err nv_json_check(nv_span text, uint32_t max_depth, uint32_t max_values)
{
    return nv_json_compact(text, max_depth, max_values, NULL);
}

/** Check, then build the tree. The caller owns *out (json_object_put). The literal null gives NV_OK and NULL. */
NV_NODISCARD nv_err nv_json_parse(nv_span text, uint32_t max_depth, uint32_t max_values, struct json_object **out);

/* ---- reading text ------------------------------------------------------------------------------------------ */

/**
 * The next member of an object in the compact form that nv_json_compact() makes, as it stands in the text: nothing is
 * decoded, so that numbers stay as written. Start with *at = 0.
 * @param name   what stands between the quotes, escapes included
 * @param value  the value's text
 * @return false: the end, or no such object
 */
bool nv_json_next_member(nv_span object, size_t *at, nv_span *name, nv_span *value);

/* ---- reading trees: what is absent, null or of another type says so --------------------------------------- */

/** The member called @p name, ignoring case, an exact match first (http-hub.md section 1). NULL: absent or null. */
struct json_object *nv_json_member(struct json_object *object, const char *name);
/** True when @p value is a string; the span lives as long as the tree. */
bool nv_json_as_string(struct json_object *value, nv_span *out);

#endif
