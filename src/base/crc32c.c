#include "base/crc32c.h"

#include "base/bytes.h"

#include <pthread.h>

static uint32_t table[8][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) {
            c = c & 1 ? c >> 1 ^ UINT32_C(0x82f63b78) : c >> 1;
        }
        table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++) {
        for (int t = 1; t < 8; t++) {
            table[t][i] = table[t - 1][i] >> 8 ^ table[0][table[t - 1][i] & 255];
        }
    }
}

static uint32_t crc_portable(uint32_t crc, const uint8_t *p, size_t n)
{
    (void)pthread_once(&once, make_tables);
    for (; n >= 8; p += 8, n -= 8) {
        uint32_t low = crc ^ nv_load_u32_le(p);
        crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^ table[4][low >> 24] ^
              table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
    }
    while (n-- > 0) {
        crc = crc >> 8 ^ table[0][(crc ^ *p++) & 255];
    }
    return crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t crc, const uint8_t *p, size_t n)
{
    uint64_t c = crc;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, p, sizeof(word));
        c = _mm_crc32_u64(c, word);
    }
    uint32_t c32 = (uint32_t)c;
    while (n-- > 0) {
        c32 = _mm_crc32_u8(c32, *p++);
    }
    return c32;
}

uint32_t nv_crc32c(uint32_t crc, nv_span bytes)
{
    if (__builtin_cpu_supports("sse4.2")) {
        return ~crc_sse42(~crc, bytes.ptr, bytes.len);
    }
    return ~crc_portable(~crc, bytes.ptr, bytes.len);
}
#else
uint32_t nv_crc32c(uint32_t crc, nv_span bytes)
{
    return ~crc_portable(~crc, bytes.ptr, bytes.len);
}
#endif
