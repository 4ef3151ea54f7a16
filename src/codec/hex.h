/** Hexadecimal text. Pure; thread: any. */
#ifndef NV_CODEC_HEX_H
#define NV_CODEC_HEX_H

#include "base/attrs.h"
#include "base/cursor.h"

/** The value of one hex digit of either case, or -1. */
static inline int nv_hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/** Append two lower-case digits for each byte. What does not fit sets out->err. */
void nv_hex_encode(nv_span bytes, nv_writer *out);
/** As nv_hex_encode() with upper-case digits. */
void nv_hex_encode_upper(nv_span bytes, nv_writer *out);

/**
 * Decode digits of either case, no separators. @p text has exactly 2 * @p len digits.
 * @return NV_E_SYNTAX wrong length or another character; @p out is undefined then
 */
NV_NODISCARD nv_err nv_hex_decode(nv_span text, uint8_t *out, size_t len);

#endif
