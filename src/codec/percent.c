#include "codec/percent.h"

#include "codec/hex.h"

static nv_err decode(nv_span text, nv_writer *out, bool lenient)
{
    while (text.len) {
        size_t plain = nv_span_find(text, '%');
        nv_write_span(out, nv_span_first(text, plain));
        text = nv_span_skip(text, plain);
        if (text.len == 0) {
            break;
        }
        int high = text.len > 2 ? nv_hex_digit(text.ptr[1]) : -1;
        int low = text.len > 2 ? nv_hex_digit(text.ptr[2]) : -1;
        if (high >= 0 && low >= 0) {
            nv_write_u8(out, (uint8_t)(high << 4 | low));
            text = nv_span_skip(text, 3);
        } else if (lenient) {
            nv_write_u8(out, '%');
            text = nv_span_skip(text, 1);
        } else {
            return NV_E_SYNTAX;
        }
    }
    return out->err;
}

nv_err nv_percent_decode(nv_span text, nv_writer *out)
{
    return decode(text, out, false);
}

nv_span nv_percent_decode_lenient(nv_span text, nv_writer *scratch)
{
    if (nv_percent_is_plain(text)) {
        return text;
    }
    uint8_t *start = scratch->at;
    nv_err err = decode(text, scratch, true);
    return err == NV_OK ? nv_span_of(start, (size_t)(scratch->at - start)) : NV_SPAN_EMPTY;
}

static bool is_unreserved(uint8_t c)
{
    uint8_t letter = c | 0x20;
    return (letter >= 'a' && letter <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || c == '~';
}

void nv_percent_encode(nv_span text, nv_writer *out)
{
    static const char digits[] = "0123456789ABCDEF";
    for (size_t i = 0; i < text.len && out->err == NV_OK; i++) {
        uint8_t c = text.ptr[i];
        if (is_unreserved(c)) {
            nv_write_u8(out, c);
        } else {
            uint8_t escape[3] = {'%', (uint8_t)digits[c >> 4], (uint8_t)digits[c & 15]};
            nv_write_span(out, nv_span_of(escape, sizeof(escape)));
        }
    }
}

size_t nv_percent_encoded_len(nv_span text)
{
    size_t len = 0;
    for (size_t i = 0; i < text.len; i++) {
        len += is_unreserved(text.ptr[i]) ? 1 : 3;
    }
    return len;
}
