#include "codec/base64.h"

static int digit_value(uint8_t c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/** Decode @p digits, which holds no padding. */
static nv_err decode_digits(nv_span digits, uint8_t *out, size_t capacity, size_t *out_len)
{
    if (digits.len % 4 == 1) {
        return NV_E_SYNTAX;
    }
    if (digits.len / 4 * 3 + (digits.len % 4 ? digits.len % 4 - 1 : 0) > capacity) {
        return NV_E_TOO_BIG;
    }
    uint32_t bits = 0;
    size_t have = 0;
    size_t len = 0;
    for (size_t i = 0; i < digits.len; i++) {
        int value = digit_value(digits.ptr[i]);
        if (value < 0) {
            return NV_E_SYNTAX;
        }
        bits = (bits << 6 | (uint32_t)value) & 0xFFFFu;
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[len++] = (uint8_t)(bits >> have);
        }
    }
    *out_len = len;
    return NV_OK;
}

/** Cut the padding, at most what the last group can have. */
static nv_span without_padding(nv_span text)
{
    size_t pad = 0;
    while (pad < 2 && pad < text.len && text.ptr[text.len - 1 - pad] == '=') {
        pad++;
    }
    return nv_span_first(text, text.len - pad);
}

nv_err nv_base64_decode(nv_span text, uint8_t *out, size_t capacity, size_t *out_len)
{
    *out_len = 0;
    return text.len % 4 ? NV_E_SYNTAX : decode_digits(without_padding(text), out, capacity, out_len);
}

nv_err nv_base64_decode_unpadded(nv_span text, uint8_t *out, size_t capacity, size_t *out_len)
{
    *out_len = 0;
    nv_span digits = without_padding(text);
    size_t pad = text.len - digits.len;
    if (pad && digits.len % 4 + pad > 4) {
        return NV_E_SYNTAX;
    }
    return pad && digits.len % 4 == 0 ? NV_E_SYNTAX : decode_digits(digits, out, capacity, out_len);
}

void nv_base64_encode(nv_span bytes, nv_writer *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < bytes.len && out->err == NV_OK; i += 3) {
        size_t left = bytes.len - i;
        uint32_t group = (uint32_t)bytes.ptr[i] << 16 | (left > 1 ? (uint32_t)bytes.ptr[i + 1] << 8 : 0) |
                         (left > 2 ? (uint32_t)bytes.ptr[i + 2] : 0);
        uint8_t text[4] = {(uint8_t)digits[group >> 18], (uint8_t)digits[group >> 12 & 63],
                           left > 1 ? (uint8_t)digits[group >> 6 & 63] : (uint8_t)'=',
                           left > 2 ? (uint8_t)digits[group & 63] : (uint8_t)'='};
        nv_write_span(out, nv_span_of(text, sizeof(text)));
    }
}
