/**
 * Finding values in JSON text that was checked before (nv_json_compact), without building a tree: members are compared
 * in place and what is not asked for is skipped. Text that is not JSON yields something inside the text or nothing,
 * never a read beyond it. Pure. Thread: any.
 */
#ifndef NV_CODEC_JSON_PATH_H
#define NV_CODEC_JSON_PATH_H

#include "base/span.h"

/** One step of a path: into an object by name (not escaped), or into an array by index. */
typedef struct nv_json_step {
    nv_span name; /* ptr NULL: an index */
    uint32_t index;
} nv_json_step;

typedef enum nv_json_kind {
    NV_JSON_ABSENT, /* nothing there, or no JSON */
    NV_JSON_NULL,
    NV_JSON_FALSE,
    NV_JSON_TRUE,
    NV_JSON_NUMBER,
    NV_JSON_STRING,
    NV_JSON_ARRAY,
    NV_JSON_OBJECT
} nv_json_kind;

/**
 * The text of the value at the path, quotes and brackets included. No steps: the value itself. Of members with the same
 * name the first counts.
 * @return empty: there is none
 */
nv_span nv_json_find(nv_span json, const nv_json_step *steps, size_t count);

/** Told by its first byte. */
nv_json_kind nv_json_kind_of(nv_span value);

/** Walks the elements of an array or the members of an object. */
typedef struct nv_json_walk {
    const uint8_t *_at;
    const uint8_t *_limit;
    bool _object;
    nv_span name;  /* of the member: as written, without its quotes; nv_json_unescape() gives what it means */
    nv_span value; /* its text */
} nv_json_walk;

/** A value that is neither has no elements. */
nv_json_walk nv_json_walk_of(nv_span value);
/** @return false: there are no more */
bool nv_json_walk_next(nv_json_walk *walk);

/** A string value without its quotes, as written. @p value is a NV_JSON_STRING */
nv_span nv_json_string_inner(nv_span value);
/** True when what stands between the quotes is the text itself. */
static inline bool nv_json_is_plain(nv_span inner)
{
    return nv_span_find(inner, '\\') == inner.len;
}
/**
 * Undo the escapes of what stands between the quotes. Half of a surrogate pair becomes U+FFFD.
 * @param out  room for inner.len bytes
 * @return bytes written
 */
size_t nv_json_unescape(nv_span inner, uint8_t *out);

/** The number that a NV_JSON_NUMBER says; one too large is an infinity. @return false: it is no number */
bool nv_json_number(nv_span text, double *out);

#endif
