/**
 * The property bag at the end of a topic (mqtt.md sections 6 and 7): name=value pairs joined by `&`, percent-encoded.
 * Reading forgives what any client was seen to send; writing is what every client can read.
 * Pure: no allocation; thread: any.
 */
#ifndef NV_CODEC_BAG_H
#define NV_CODEC_BAG_H

#include "base/attrs.h"
#include "base/cursor.h"

/** One pair as it stands in the bag, still encoded. */
typedef struct nv_bag_pair {
    nv_span name;   /* may be empty ("=v") */
    nv_span value;  /* empty when there is none */
    bool has_value; /* false: bare name, a null value */
} nv_bag_pair;

/** Walks a bag. Made by nv_bag_of(); the bytes stay the caller's. */
typedef struct nv_bag {
    nv_span _rest;
} nv_bag;

/**
 * The bag in @p raw, which is everything behind `messages/events/` (or `devicebound/`, `inputs/{name}/`). One leading
 * `?`, one trailing `/` and any trailing `&` are not part of it; a `/` elsewhere is data.
 */
nv_bag nv_bag_of(nv_span raw);

/** The next pair, empties skipped, split at the first `=`. @return false at the end */
bool nv_bag_next(nv_bag *bag, nv_bag_pair *out);

/** One decoded property. Spans point into the bag where nothing was encoded, else into the scratch memory. */
typedef struct nv_bag_property {
    nv_span name;
    nv_span value;
    bool has_value; /* false: null */
    uint32_t _hash;
} nv_bag_property;

/**
 * Decode a whole bag. Names are compared after decoding (`$.ct` equals `%24.ct`); of equal names the last wins, at the
 * place of the first. A malformed escape stands for itself; what the escapes decode to need not be UTF-8.
 *
 * @param raw         as for nv_bag_of()
 * @param scratch     takes decoded text; @p scratch_len of raw.len bytes always suffices
 * @param properties  room for @p max_properties; also bounds the work: every pair is compared with each kept name
 * @param count       properties written
 * @return NV_E_LIMIT more than @p max_properties different names; NV_E_TOO_BIG scratch is too small
 */
NV_NODISCARD nv_err nv_bag_decode(nv_span raw, uint8_t *scratch, size_t scratch_len, nv_bag_property *properties,
                                  size_t max_properties, size_t *count);

/**
 * Writes a bag that every client understands: `$.to` becomes `%24.to`, everything outside `A-Za-z0-9-_.~` is encoded,
 * pairs are joined by single `&`. The caller puts system properties first, `$.to` before all others.
 */
typedef struct nv_bag_writer {
    nv_writer *_out;
    bool _any;
} nv_bag_writer;

static inline nv_bag_writer nv_bag_writer_of(nv_writer *out)
{
    return (nv_bag_writer){out, false};
}

/**
 * Append one pair; an empty value is written `name=`. A pair without a name is left out: .NET refuses a bag with one.
 * What does not fit sets the error of the nv_writer.
 */
void nv_bag_put(nv_bag_writer *bag, nv_span name, nv_span value);
/** Append a null value: the bare name. */
void nv_bag_put_null(nv_bag_writer *bag, nv_span name);

#endif
