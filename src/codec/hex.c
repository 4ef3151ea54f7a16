#include "codec/hex.h"

static void encode(nv_span bytes, nv_writer *out, const char *digits)
{
    for (size_t i = 0; i < bytes.len && out->err == NV_OK; i++) {
        nv_write_u8(out, (uint8_t)digits[bytes.ptr[i] >> 4]);
        nv_write_u8(out, (uint8_t)digits[bytes.ptr[i] & 15]);
    }
}

void nv_hex_encode(nv_span bytes, nv_writer *out)
{
    encode(bytes, out, "0123456789abcdef");
}

void nv_hex_encode_upper(nv_span bytes, nv_writer *out)
{
    encode(bytes, out, "0123456789ABCDEF");
}

nv_err nv_hex_decode(nv_span text, uint8_t *out, size_t len)
{
    if (text.len / 2 != len || text.len % 2 != 0) {
        return NV_E_SYNTAX;
    }
    for (size_t i = 0; i < len; i++) {
        int high = nv_hex_digit(text.ptr[2 * i]);
        int low = nv_hex_digit(text.ptr[2 * i + 1]);
        if (high < 0 || low < 0) {
            return NV_E_SYNTAX;
        }
        out[i] = (uint8_t)(high << 4 | low);
    }
    return NV_OK;
}
