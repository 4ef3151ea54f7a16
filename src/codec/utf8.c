#include "codec/utf8.h"

/** Bytes of the code point at @p s (@p left > 0 bytes there), or 0 when it is not well-formed. Unicode table 3-7. */
static size_t code_point_len(const uint8_t *s, size_t left)
{
    uint8_t lead = s[0];
    size_t len = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    if (len < 2) {
        return len;
    }
    /* Only the second byte's range depends on the lead: no overlong form, no surrogate, nothing past U+10FFFF. */
    uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (left < len || s[1] < low || s[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < len; i++) {
        if ((s[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    return len;
}

bool nv_utf8_valid(nv_span text, bool allow_nul)
{
    for (size_t i = 0; i < text.len;) {
        size_t len = code_point_len(text.ptr + i, text.len - i);
        if (len == 0 || (text.ptr[i] == 0 && !allow_nul)) {
            return false;
        }
        i += len;
    }
    return true;
}
