/**
 * Values of AMQP 1.0 (part 1, types), read in place and written into caller's memory. Pure: no allocation, no I/O.
 *
 * Reading never copies: text, binary and the contents of lists, maps and arrays are spans into the input. A compound is
 * skipped by its size, so nothing here recurses with the input.
 */
#ifndef NV_CODEC_AMQP_VALUE_H
#define NV_CODEC_AMQP_VALUE_H

#include "base/buf.h"
#include "base/cursor.h"

typedef enum nv_amqp_type {
    NV_AMQP_NULL,
    NV_AMQP_BOOLEAN,
    NV_AMQP_UBYTE,
    NV_AMQP_USHORT,
    NV_AMQP_UINT,
    NV_AMQP_ULONG,
    NV_AMQP_BYTE,
    NV_AMQP_SHORT,
    NV_AMQP_INT,
    NV_AMQP_LONG,
    NV_AMQP_FLOAT,
    NV_AMQP_DOUBLE,
    NV_AMQP_DECIMAL32, /* decimals: their bytes as they are */
    NV_AMQP_DECIMAL64,
    NV_AMQP_DECIMAL128,
    NV_AMQP_CHAR,
    NV_AMQP_TIMESTAMP, /* milliseconds since 1970, UTC, signed */
    NV_AMQP_UUID,      /* 16 bytes in network order */
    NV_AMQP_BINARY,
    NV_AMQP_STRING,
    NV_AMQP_SYMBOL,
    NV_AMQP_LIST,     /* bytes: the encoded elements */
    NV_AMQP_MAP,      /* bytes: the encoded keys and values in turn; count: both counted */
    NV_AMQP_ARRAY,    /* bytes: the elements without constructors; element: their constructor. Elements that have no
                         bytes (null, true) are at most 1,024, and bytes are as many zeros from elsewhere */
    NV_AMQP_DESCRIBED /* bytes: the encoded value behind the descriptor */
} nv_amqp_type;

typedef struct nv_amqp_value {
    nv_amqp_type type;
    uint32_t count;  /* LIST, MAP, ARRAY. DESCRIBED by what is neither number nor symbol: length of the encoding of the
                        descriptor, which is at symbol.ptr */
    uint8_t element; /* ARRAY: format code of the elements (0x00: described ones, which are not iterated) */
    bool code_known; /* DESCRIBED: the descriptor is the number `code`; false: it is the symbol `symbol` */
    union {
        bool boolean;
        uint64_t u;     /* UBYTE..ULONG, CHAR; FLOAT and DOUBLE as their IEEE 754 bits */
        int64_t i;      /* BYTE..LONG, TIMESTAMP */
        uint64_t code;  /* DESCRIBED */
        nv_span symbol; /* DESCRIBED; empty for a descriptor that is neither number nor symbol */
    };
    nv_span bytes; /* BINARY, STRING, SYMBOL, UUID, decimals, compounds, DESCRIBED */
} nv_amqp_value;

/* ---- reading ------------------------------------------------------------------------------------------------ */

/**
 * Read one value. @return false: r->err says why (NV_E_SYNTAX truncated, unknown constructor, a compound whose count or
 * size cannot be, text that is not UTF-8 or a symbol that is not ASCII; NV_E_LIMIT descriptors nested deeper than 8)
 */
bool nv_amqp_read(nv_reader *r, nv_amqp_value *out);
/** The bytes of the next value, constructor included, unread inside (a compound's size is trusted, but not beyond the
 * input). @return empty with r->err set */
nv_span nv_amqp_read_raw(nv_reader *r);
/** Skip one value. @return false: r->err is set */
bool nv_amqp_skip(nv_reader *r);

/** Compounds in compounds that nv_amqp_check() follows. */
#define NV_AMQP_MAX_DEPTH 32u
/**
 * Is @p encoded exactly one value, and valid in every depth: for what others will read as it came. Linear in its
 * length. @return NV_OK; NV_E_SYNTAX; NV_E_LIMIT nested deeper than NV_AMQP_MAX_DEPTH compounds or 8 descriptors
 */
NV_NODISCARD nv_err nv_amqp_check(nv_span encoded);

/** Walk LIST and MAP by nv_amqp_read over nv_reader_of(value->bytes). Walk an ARRAY of primitives with this. @p at
 * begins as nv_reader_of(array->bytes). @return false at the end or on an error in at->err */
bool nv_amqp_array_next(const nv_amqp_value *array, nv_reader *at, nv_amqp_value *out);
/** The next key and value of a map. @return false at its end or on an error in at->err */
bool nv_amqp_map_next(nv_reader *at, nv_amqp_value *key, nv_amqp_value *value);
/** Find a key, string or symbol alike. @p map: as read; any other type has none. @return false: absent or malformed */
bool nv_amqp_map_find(const nv_amqp_value *map, const char *key, nv_amqp_value *out);
/** STRING, SYMBOL or BINARY. */
bool nv_amqp_is_text(const nv_amqp_value *value);
/** Any integer type that fits. @return false: it is none, or does not fit */
bool nv_amqp_to_i64(const nv_amqp_value *value, int64_t *out);
bool nv_amqp_to_u64(const nv_amqp_value *value, uint64_t *out);

/* ---- writing: smallest encodings; an error stays in the writer --------------------------------------------------- */

void nv_amqp_put_null(nv_writer *w);
void nv_amqp_put_boolean(nv_writer *w, bool value);
void nv_amqp_put_ubyte(nv_writer *w, uint8_t value);
void nv_amqp_put_ushort(nv_writer *w, uint16_t value);
void nv_amqp_put_uint(nv_writer *w, uint32_t value);
void nv_amqp_put_ulong(nv_writer *w, uint64_t value);
void nv_amqp_put_int(nv_writer *w, int32_t value);
void nv_amqp_put_long(nv_writer *w, int64_t value);
void nv_amqp_put_timestamp(nv_writer *w, int64_t milliseconds);
/** @p bytes: 16 of them */
void nv_amqp_put_uuid(nv_writer *w, const uint8_t bytes[16]);
void nv_amqp_put_binary(nv_writer *w, nv_span bytes);
void nv_amqp_put_string(nv_writer *w, nv_span text);
void nv_amqp_put_symbol(nv_writer *w, nv_span text);
static inline void nv_amqp_put_string_of(nv_writer *w, const char *text)
{
    nv_amqp_put_string(w, nv_span_str(text));
}
static inline void nv_amqp_put_symbol_of(nv_writer *w, const char *text)
{
    nv_amqp_put_symbol(w, nv_span_str(text));
}
/** Any value that was read, in its own type; compounds and described values as their bytes. */
void nv_amqp_put(nv_writer *w, const nv_amqp_value *value);
/** Bytes that are an encoded value already. Empty: null. */
void nv_amqp_put_raw(nv_writer *w, nv_span encoded);
/** 0x00 0x53 code, or the long form; the value follows. */
void nv_amqp_put_descriptor(nv_writer *w, uint64_t code);

/** Compounds with a size known at their end: begin, put the elements, end with how many there were (maps: keys and
 * values counted). Encoded in the 32-bit form. */
size_t nv_amqp_begin_list(nv_writer *w);
void nv_amqp_end_list(nv_writer *w, size_t mark, uint32_t count);
size_t nv_amqp_begin_map(nv_writer *w);
void nv_amqp_end_map(nv_writer *w, size_t mark, uint32_t count);
/** An array of strings or symbols (@p type). One element is still an array. */
void nv_amqp_put_texts(nv_writer *w, nv_amqp_type type, const nv_span *texts, size_t count);

#endif
