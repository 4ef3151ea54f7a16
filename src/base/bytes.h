/**
 * Integers in memory at any alignment. The suffix gives the byte order, as in cursor.h: _be (network protocols) or
 * _le (our files). Bounds are the caller's: where the length is not known yet, read through a cursor.
 */
#ifndef NV_BASE_BYTES_H
#define NV_BASE_BYTES_H

#include <stdint.h>
#include <string.h>

/* A copy and a swap, or none, is one instruction to both compilers; gcc does not join stores of single bytes. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define NV_BYTES_BE(bits, value) __builtin_bswap##bits(value)
#define NV_BYTES_LE(bits, value) (value)
#else
#define NV_BYTES_BE(bits, value) (value)
#define NV_BYTES_LE(bits, value) __builtin_bswap##bits(value)
#endif

#define NV_BYTES_INT(bits, suffix, ORDER)                                                                              \
    static inline uint##bits##_t nv_load_u##bits##_##suffix(const uint8_t *at)                                         \
    {                                                                                                                  \
        uint##bits##_t value;                                                                                          \
        memcpy(&value, at, sizeof(value));                                                                             \
        return ORDER(bits, value);                                                                                     \
    }                                                                                                                  \
    static inline void nv_store_u##bits##_##suffix(uint8_t *at, uint##bits##_t value)                                  \
    {                                                                                                                  \
        value = ORDER(bits, value);                                                                                    \
        memcpy(at, &value, sizeof(value));                                                                             \
    }
NV_BYTES_INT(16, be, NV_BYTES_BE)
NV_BYTES_INT(32, be, NV_BYTES_BE)
NV_BYTES_INT(64, be, NV_BYTES_BE)
NV_BYTES_INT(16, le, NV_BYTES_LE)
NV_BYTES_INT(32, le, NV_BYTES_LE)
NV_BYTES_INT(64, le, NV_BYTES_LE)
#undef NV_BYTES_INT
#undef NV_BYTES_BE
#undef NV_BYTES_LE

#endif
