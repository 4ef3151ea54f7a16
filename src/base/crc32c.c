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

/*
 * The instruction takes a word in each cycle but answers three cycles later: three parts of the bytes go side by side,
 * and their sums are put together. A sum moves over zeros by a linear map, for which a table per byte is enough.
 */
/* Bytes of a part; multiples of 8. */
#define LONG  ((size_t)2048)
#define SHORT ((size_t)256)

typedef uint32_t zeros_map[4][256];

static zeros_map over_long;
static zeros_map over_short;
static pthread_once_t maps_once = PTHREAD_ONCE_INIT;

static uint32_t move_over(zeros_map map, uint32_t crc)
{
    return map[0][crc & 255] ^ map[1][crc >> 8 & 255] ^ map[2][crc >> 16 & 255] ^ map[3][crc >> 24];
}

__attribute__((target("sse4.2"))) static void make_map(zeros_map map, size_t bytes)
{
    for (uint32_t k = 0; k < 4; k++) {
        for (uint32_t i = 0; i < 256; i++) {
            uint64_t c = i << 8 * k;
            for (size_t n = 0; n < bytes; n += 8) {
                c = _mm_crc32_u64(c, 0);
            }
            map[k][i] = (uint32_t)c;
        }
    }
}

static void make_maps(void)
{
    make_map(over_long, LONG);
    make_map(over_short, SHORT);
}

__attribute__((target("sse4.2"))) static uint32_t crc_three(uint32_t crc, const uint8_t *p, size_t part, zeros_map map)
{
    uint64_t first = crc;
    uint64_t second = 0;
    uint64_t third = 0;
    for (const uint8_t *end = p + part; p < end; p += 8) {
        first = _mm_crc32_u64(first, nv_load_u64_le(p));
        second = _mm_crc32_u64(second, nv_load_u64_le(p + part));
        third = _mm_crc32_u64(third, nv_load_u64_le(p + 2 * part));
    }
    return move_over(map, move_over(map, (uint32_t)first) ^ (uint32_t)second) ^ (uint32_t)third;
}

__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t crc, const uint8_t *p, size_t n)
{
    if (n >= 3 * SHORT) {
        (void)pthread_once(&maps_once, make_maps);
    }
    for (; n >= 3 * LONG; p += 3 * LONG, n -= 3 * LONG) {
        crc = crc_three(crc, p, LONG, over_long);
    }
    for (; n >= 3 * SHORT; p += 3 * SHORT, n -= 3 * SHORT) {
        crc = crc_three(crc, p, SHORT, over_short);
    }
    uint64_t c = crc;
    for (; n >= 8; p += 8, n -= 8) {
        c = _mm_crc32_u64(c, nv_load_u64_le(p));
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
