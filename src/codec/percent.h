/** Percent-encoding (RFC 3986 section 2.1). `+` is never a space here. Pure; thread: any. */
#ifndef NV_CODEC_PERCENT_H
#define NV_CODEC_PERCENT_H

#include "base/attrs.h"
#include "base/cursor.h"

/** True when @p text holds no `%`, so that its decoded form is itself. */
static inline bool nv_percent_is_plain(nv_span text)
{
    return nv_span_find(text, '%') == text.len;
}

/**
 * Append the decoded form, at most text.len bytes, to @p out. Hex digits of either case.
 * @return NV_E_SYNTAX a `%` without two hex digits behind it; NV_E_TOO_BIG it does not fit (also in out->err)
 */
NV_NODISCARD nv_err nv_percent_decode(nv_span text, nv_writer *out);

/**
 * The decoded form of @p text where a `%` without two hex digits stands for itself: what clients with their own
 * encoding switched off send ("load=50%"). Nothing encoded: @p text itself; else a copy of at most text.len bytes
 * appended to @p scratch, which gets NV_E_TOO_BIG in scratch->err when it does not fit.
 */
nv_span nv_percent_decode_lenient(nv_span text, nv_writer *scratch);

/**
 * Append @p text with every byte outside `A-Za-z0-9-_.~` as %XX (upper-case hex): the form every SDK can read
 * (mqtt.md section 7). What does not fit sets out->err.
 */
void nv_percent_encode(nv_span text, nv_writer *out);

/** Bytes nv_percent_encode() would write. */
size_t nv_percent_encoded_len(nv_span text);

#endif
