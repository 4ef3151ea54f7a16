/** Base64, standard alphabet (RFC 4648 section 4). Pure; not constant time. Thread: any. */
#ifndef NV_CODEC_BASE64_H
#define NV_CODEC_BASE64_H

#include "base/attrs.h"
#include "base/cursor.h"

/** Characters that @p len bytes encode to, padding included. */
#define NV_BASE64_LEN(len) (((len) + 2) / 3 * 4)
/** No decoding of @p len characters yields more bytes than this. */
#define NV_BASE64_MAX_BYTES(len) (((len) + 3) / 4 * 3)

/**
 * Decode the whole of @p text. The length is a multiple of four, padding where it belongs, no white space. Bits of
 * the last character that carry nothing are ignored, as the service does.
 * @param out_len  bytes written; 0 on failure
 * @return NV_E_SYNTAX; NV_E_TOO_BIG more than @p capacity bytes
 */
NV_NODISCARD nv_err nv_base64_decode(nv_span text, uint8_t *out, size_t capacity, size_t *out_len);

/** As nv_base64_decode(), but the padding may be missing, whole or in part. */
NV_NODISCARD nv_err nv_base64_decode_unpadded(nv_span text, uint8_t *out, size_t capacity, size_t *out_len);

/** Append the padded encoding of @p bytes. What does not fit sets out->err. */
void nv_base64_encode(nv_span bytes, nv_writer *out);

#endif
