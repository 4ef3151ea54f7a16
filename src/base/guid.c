#include "base/guid.h"

void nv_guid_make(nv_rng *rng, char out[NV_GUID_TEXT_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t bytes[16];
    nv_rng_fill(rng, bytes, sizeof(bytes));
    bytes[6] = (uint8_t)((bytes[6] & 0x0f) | 0x40);
    bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80);
    char *at = out;
    for (size_t i = 0; i < sizeof(bytes); i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *at++ = '-';
        }
        *at++ = digits[bytes[i] >> 4];
        *at++ = digits[bytes[i] & 15];
    }
    *at = '\0';
}
