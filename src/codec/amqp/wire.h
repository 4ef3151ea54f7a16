/** What the files of the AMQP codec share among themselves: codes, extents, and checks of text. */
#ifndef NV_CODEC_AMQP_WIRE_H
#define NV_CODEC_AMQP_WIRE_H

#include "base/bytes.h"
#include "codec/amqp/performative.h"

/** Format codes (part 1 section 1.6) that are spelled out somewhere. */
enum {
    CODE_DESCRIBED = 0x00,
    CODE_NULL = 0x40,
    CODE_TRUE = 0x41,
    CODE_FALSE = 0x42,
    CODE_UINT_0 = 0x43,
    CODE_ULONG_0 = 0x44,
    CODE_LIST_0 = 0x45,
    CODE_UBYTE = 0x50,
    CODE_BYTE = 0x51,
    CODE_UINT_8 = 0x52,
    CODE_ULONG_8 = 0x53,
    CODE_INT_8 = 0x54,
    CODE_LONG_8 = 0x55,
    CODE_BOOLEAN = 0x56,
    CODE_USHORT = 0x60,
    CODE_SHORT = 0x61,
    CODE_UINT = 0x70,
    CODE_INT = 0x71,
    CODE_FLOAT = 0x72,
    CODE_CHAR = 0x73,
    CODE_DECIMAL32 = 0x74,
    CODE_ULONG = 0x80,
    CODE_LONG = 0x81,
    CODE_DOUBLE = 0x82,
    CODE_TIMESTAMP = 0x83,
    CODE_DECIMAL64 = 0x84,
    CODE_DECIMAL128 = 0x94,
    CODE_UUID = 0x98,
    CODE_BINARY_8 = 0xa0,
    CODE_STRING_8 = 0xa1,
    CODE_SYMBOL_8 = 0xa3,
    CODE_BINARY_32 = 0xb0,
    CODE_STRING_32 = 0xb1,
    CODE_SYMBOL_32 = 0xb3,
    CODE_LIST_8 = 0xc0,
    CODE_MAP_8 = 0xc1,
    CODE_LIST_32 = 0xd0,
    CODE_MAP_32 = 0xd1,
    CODE_ARRAY_8 = 0xe0,
    CODE_ARRAY_32 = 0xf0
};
/** Set in the code of a variable, compound or array type whose size has four bytes. */
#define CODE_WIDE 0x10u

/** By format code, nv_amqp_extent()'s table. Fixed types: their bytes behind the code, plus one. Any other: the bytes
 * of their size, plus SHAPE_SIZED. 0: no such code. */
extern const uint8_t nv_amqp_shape_of[256];
#define SHAPE_SIZED 0x80u

/** Length of the value at @p at, which is not described, of @p left > 0 bytes. 0: an unknown code, or it is longer. */
static inline size_t nv_amqp_extent(const uint8_t *at, size_t left)
{
    uint8_t shape = nv_amqp_shape_of[*at];
    if (shape < SHAPE_SIZED) {
        return shape <= left ? shape : 0;
    }
    size_t head = 1 + (shape & 7u);
    if (head > left) {
        return 0;
    }
    size_t len = head + (head == 2 ? at[1] : nv_load_u32_be(at + 1));
    return len <= left ? len : 0;
}

/** No byte above 0x7f. */
static inline bool nv_ascii_valid(nv_span text)
{
    const uint8_t *at = text.ptr;
    size_t left = text.len;
    uint64_t seen = 0;
    for (; left >= 8; at += 8, left -= 8) {
        uint64_t word;
        memcpy(&word, at, sizeof(word));
        seen |= word;
    }
    for (; left > 0; at++, left--) {
        seen |= *at;
    }
    return (seen & UINT64_C(0x8080808080808080)) == 0;
}

/** UTF-8, of which most texts are the ASCII half. U+0000 is a character of AMQP's strings like any other. */
bool nv_amqp_utf8_valid(nv_span text);

/** The rest of a value whose constructor was read, or an element of an array of this constructor (not 0x00). */
bool nv_amqp_read_body(nv_reader *r, uint8_t code, nv_amqp_value *out);

/** The list behind the descriptor of a table row, into the row's struct, which must be all zero.
 * @return NV_E_SYNTAX as nv_amqp_decode() */
nv_err nv_amqp_read_header_list(nv_reader *r, nv_amqp_header *out);
nv_err nv_amqp_read_properties_list(nv_reader *r, nv_amqp_properties *out);

static inline bool nv_amqp_fail(nv_reader *r, nv_err err)
{
    if (r->err == NV_OK) {
        r->err = err;
    }
    return false;
}

#endif
