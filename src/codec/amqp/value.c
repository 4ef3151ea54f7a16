/**
 * Types of AMQP 1.0 (part 1). The high half of a format code gives the width of what follows, the low half the type:
 * skipping needs the first, reading both. Nothing recurses: a described value is followed by a counter, a compound is
 * stepped over by its size.
 */
#include "codec/amqp/value.h"

#include "codec/amqp/wire.h"
#include "codec/utf8.h"

#define MAX_DESCRIPTORS 8u
/** Elements of an array whose constructor has no bytes of its own (null, true, uint0, list0): nothing else bounds
 * their number. */
#define MAX_EMPTY_ELEMENTS 1024u

/** Such elements are walked over bytes that are lent, one each, so that the walk of an array always ends. */
static const uint8_t lent[MAX_EMPTY_ELEMENTS];

/* T(format code, type, shape) */
#define CODES(T)                                                                                                       \
    T(CODE_NULL, NULL, 1)                                                                                              \
    T(CODE_TRUE, BOOLEAN, 1)                                                                                           \
    T(CODE_FALSE, BOOLEAN, 1)                                                                                          \
    T(CODE_BOOLEAN, BOOLEAN, 2)                                                                                        \
    T(CODE_UBYTE, UBYTE, 2)                                                                                            \
    T(CODE_USHORT, USHORT, 3)                                                                                          \
    T(CODE_UINT_0, UINT, 1)                                                                                            \
    T(CODE_UINT_8, UINT, 2)                                                                                            \
    T(CODE_UINT, UINT, 5)                                                                                              \
    T(CODE_ULONG_0, ULONG, 1)                                                                                          \
    T(CODE_ULONG_8, ULONG, 2)                                                                                          \
    T(CODE_ULONG, ULONG, 9)                                                                                            \
    T(CODE_BYTE, BYTE, 2)                                                                                              \
    T(CODE_SHORT, SHORT, 3)                                                                                            \
    T(CODE_INT_8, INT, 2)                                                                                              \
    T(CODE_INT, INT, 5)                                                                                                \
    T(CODE_LONG_8, LONG, 2)                                                                                            \
    T(CODE_LONG, LONG, 9)                                                                                              \
    T(CODE_FLOAT, FLOAT, 5)                                                                                            \
    T(CODE_DOUBLE, DOUBLE, 9)                                                                                          \
    T(CODE_DECIMAL32, DECIMAL32, 5)                                                                                    \
    T(CODE_DECIMAL64, DECIMAL64, 9)                                                                                    \
    T(CODE_DECIMAL128, DECIMAL128, 17)                                                                                 \
    T(CODE_CHAR, CHAR, 5)                                                                                              \
    T(CODE_TIMESTAMP, TIMESTAMP, 9)                                                                                    \
    T(CODE_UUID, UUID, 17)                                                                                             \
    T(CODE_BINARY_8, BINARY, SHAPE_SIZED + 1)                                                                          \
    T(CODE_BINARY_32, BINARY, SHAPE_SIZED + 4)                                                                         \
    T(CODE_STRING_8, STRING, SHAPE_SIZED + 1)                                                                          \
    T(CODE_STRING_32, STRING, SHAPE_SIZED + 4)                                                                         \
    T(CODE_SYMBOL_8, SYMBOL, SHAPE_SIZED + 1)                                                                          \
    T(CODE_SYMBOL_32, SYMBOL, SHAPE_SIZED + 4)                                                                         \
    T(CODE_LIST_0, LIST, 1)                                                                                            \
    T(CODE_LIST_8, LIST, SHAPE_SIZED + 1)                                                                              \
    T(CODE_LIST_32, LIST, SHAPE_SIZED + 4)                                                                             \
    T(CODE_MAP_8, MAP, SHAPE_SIZED + 1)                                                                                \
    T(CODE_MAP_32, MAP, SHAPE_SIZED + 4)                                                                               \
    T(CODE_ARRAY_8, ARRAY, SHAPE_SIZED + 1)                                                                            \
    T(CODE_ARRAY_32, ARRAY, SHAPE_SIZED + 4)

/** Type by format code, plus one; 0: no such code. */
static const uint8_t type_of[256] = {
#define T(code, type, shape) [code] = NV_AMQP_##type + 1,
    CODES(T)
#undef T
};

const uint8_t nv_amqp_shape_of[256] = {
#define T(code, type, shape) [code] = (shape),
    CODES(T)
#undef T
};

/** Of a fixed type its bytes, of any other those of its size. */
static size_t width_of(uint8_t code)
{
    uint8_t shape = nv_amqp_shape_of[code];
    return shape >= SHAPE_SIZED ? shape & 7u : shape - 1u;
}

static bool is_fixed(uint8_t code)
{
    return code < CODE_BINARY_8;
}

bool nv_amqp_utf8_valid(nv_span text)
{
    return nv_ascii_valid(text) || nv_utf8_valid(text, true);
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

static uint32_t load_size(const uint8_t *at, size_t width)
{
    return width == 1 ? *at : nv_load_u32_be(at);
}

bool nv_amqp_skip(nv_reader *r)
{
    /* A described value is three things: the code 0, a descriptor that is a value, and a value. */
    unsigned descriptors = 0;
    for (unsigned left = 1; left > 0;) {
        if (!nv_reader_has(r, 1)) {
            return false;
        }
        if (*r->at != CODE_DESCRIBED) {
            size_t len = nv_amqp_extent(r->at, nv_reader_left(r));
            if (len == 0) {
                return nv_amqp_fail(r, NV_E_SYNTAX);
            }
            r->at += len;
            left--;
            continue;
        }
        r->at++;
        if (++descriptors > MAX_DESCRIPTORS) {
            return nv_amqp_fail(r, NV_E_LIMIT);
        }
        left++;
    }
    return true;
}

nv_span nv_amqp_read_raw(nv_reader *r)
{
    const uint8_t *start = r->at;
    return nv_amqp_skip(r) ? nv_span_of(start, (size_t)(r->at - start)) : NV_SPAN_EMPTY;
}

static bool char_valid(uint32_t point)
{
    return point <= 0x10FFFF && (point < 0xD800 || point > 0xDFFF);
}

/** @p at has the bytes of the code's width. */
static bool read_fixed(uint8_t code, const uint8_t *at, nv_amqp_value *out)
{
    switch (code) {
    case CODE_TRUE:
        out->boolean = true;
        return true;
    case CODE_BOOLEAN:
        out->boolean = at[0] == 1;
        return at[0] <= 1;
    case CODE_UBYTE:
    case CODE_UINT_8:
    case CODE_ULONG_8:
        out->u = at[0];
        return true;
    case CODE_BYTE:
    case CODE_INT_8:
    case CODE_LONG_8:
        out->i = (int64_t)(at[0] ^ 0x80u) - 0x80; /* the sign extended */
        return true;
    case CODE_USHORT:
        out->u = nv_load_u16_be(at);
        return true;
    case CODE_SHORT:
        out->i = (int16_t)nv_load_u16_be(at);
        return true;
    case CODE_UINT:
    case CODE_FLOAT:
        out->u = nv_load_u32_be(at);
        return true;
    case CODE_CHAR:
        out->u = nv_load_u32_be(at);
        return char_valid((uint32_t)out->u);
    case CODE_INT:
        out->i = (int32_t)nv_load_u32_be(at);
        return true;
    case CODE_ULONG:
    case CODE_DOUBLE:
        out->u = nv_load_u64_be(at);
        return true;
    case CODE_LONG:
    case CODE_TIMESTAMP:
        out->i = (int64_t)nv_load_u64_be(at);
        return true;
    case CODE_DECIMAL32:
    case CODE_DECIMAL64:
    case CODE_DECIMAL128:
    case CODE_UUID:
        out->bytes = nv_span_of(at, width_of(code));
        return true;
    default: /* null, false, 0: all zero already */
        return true;
    }
}

/** Elements of an array: as many as there can be. @p body begins with their constructor. */
static bool read_array(nv_span body, nv_amqp_value *out)
{
    if (body.len == 0) {
        /* Clients exist that leave the constructor out when there is no element. */
        out->element = CODE_NULL;
        out->bytes = body;
        return out->count == 0;
    }
    uint8_t code = body.ptr[0];
    out->element = code;
    out->bytes = nv_span_of(body.ptr + 1, body.len - 1);
    if (code == CODE_DESCRIBED) {
        return out->bytes.len > 0 && (out->count <= out->bytes.len || out->count <= MAX_EMPTY_ELEMENTS);
    }
    if (!type_of[code]) {
        return false;
    }
    uint64_t least = (uint64_t)out->count * width_of(code);
    if (width_of(code) == 0) {
        bool fits = out->bytes.len == 0 && out->count <= MAX_EMPTY_ELEMENTS;
        out->bytes = nv_span_of(lent, fits ? out->count : 0);
        return fits;
    }
    return is_fixed(code) ? least == out->bytes.len : least <= out->bytes.len;
}

/** A list, map or array of @p size bytes at @p at, its count first. */
static bool read_compound(uint8_t code, const uint8_t *at, size_t size, nv_amqp_value *out)
{
    size_t width = width_of(code);
    if (size < width) {
        return false;
    }
    nv_span body = nv_span_of(at + width, size - width);
    out->count = load_size(at, width);
    if (out->type == NV_AMQP_ARRAY) {
        return read_array(body, out);
    }
    out->bytes = body;
    return out->count <= body.len && (out->type == NV_AMQP_LIST || out->count % 2 == 0);
}

static bool read_sized(nv_reader *r, uint8_t code, nv_amqp_value *out)
{
    size_t width = width_of(code);
    if (!nv_reader_has(r, width)) {
        return false;
    }
    size_t size = load_size(r->at, width);
    if (!nv_reader_has(r, width + size)) {
        return false;
    }
    const uint8_t *at = r->at + width;
    r->at = at + size;
    bool ok;
    if (code >= CODE_LIST_8) {
        ok = read_compound(code, at, size, out);
    } else {
        out->bytes = nv_span_of(at, size);
        ok = out->type == NV_AMQP_STRING   ? nv_amqp_utf8_valid(out->bytes)
             : out->type == NV_AMQP_SYMBOL ? nv_ascii_valid(out->bytes)
                                           : true;
    }
    return ok || nv_amqp_fail(r, NV_E_SYNTAX);
}

bool nv_amqp_read_body(nv_reader *r, uint8_t code, nv_amqp_value *out)
{
    if (!type_of[code]) {
        return nv_amqp_fail(r, NV_E_SYNTAX);
    }
    *out = (nv_amqp_value){.type = (nv_amqp_type)(type_of[code] - 1)};
    if (!is_fixed(code)) {
        return read_sized(r, code, out);
    }
    size_t width = width_of(code);
    if (!nv_reader_has(r, width)) {
        return false;
    }
    if (code == CODE_LIST_0) {
        out->bytes = nv_span_of(r->at, 0);
        return true;
    }
    if (!read_fixed(code, r->at, out)) {
        return nv_amqp_fail(r, NV_E_SYNTAX);
    }
    r->at += width;
    return true;
}

/** At the code 0. */
static bool read_described(nv_reader *r, nv_amqp_value *out)
{
    nv_reader whole = *r;
    if (!nv_amqp_skip(&whole)) {
        return nv_amqp_fail(r, whole.err);
    }
    const uint8_t *start = ++r->at;
    nv_amqp_value descriptor = {.type = NV_AMQP_NULL};
    *out = (nv_amqp_value){.type = NV_AMQP_DESCRIBED};
    if (*start == CODE_DESCRIBED ? !nv_amqp_skip(r) : !nv_amqp_read(r, &descriptor)) {
        return false;
    }
    if (descriptor.type == NV_AMQP_ULONG) {
        out->code_known = true;
        out->code = descriptor.u;
    } else {
        bool is_symbol = descriptor.type == NV_AMQP_SYMBOL;
        size_t len = (size_t)(r->at - start);
        if (len > UINT32_MAX) {
            return nv_amqp_fail(r, NV_E_SYNTAX);
        }
        out->symbol = is_symbol ? descriptor.bytes : nv_span_of(start, 0);
        out->count = is_symbol ? 0 : (uint32_t)len;
    }
    out->bytes = nv_span_of(r->at, (size_t)(whole.at - r->at));
    r->at = whole.at;
    return true;
}

bool nv_amqp_read(nv_reader *r, nv_amqp_value *out)
{
    if (!nv_reader_has(r, 1)) {
        return false;
    }
    if (*r->at == CODE_DESCRIBED) {
        return read_described(r, out);
    }
    uint8_t code = *r->at++;
    return nv_amqp_read_body(r, code, out);
}

bool nv_amqp_array_next(const nv_amqp_value *array, nv_reader *at, nv_amqp_value *out)
{
    if (array->type != NV_AMQP_ARRAY || at->err != NV_OK || nv_reader_left(at) == 0) {
        return false;
    }
    if (array->element == CODE_DESCRIBED) {
        return nv_amqp_fail(at, NV_E_UNSUPPORTED);
    }
    if (type_of[array->element] && width_of(array->element) == 0) {
        at->at++;
        nv_reader none = nv_reader_of(nv_span_of(at->at, 0));
        return nv_amqp_read_body(&none, array->element, out);
    }
    return nv_amqp_read_body(at, array->element, out);
}

bool nv_amqp_map_next(nv_reader *at, nv_amqp_value *key, nv_amqp_value *value)
{
    if (at->err != NV_OK || nv_reader_left(at) == 0) {
        return false;
    }
    return nv_amqp_read(at, key) && nv_amqp_read(at, value);
}

bool nv_amqp_map_find(const nv_amqp_value *map, const char *key, nv_amqp_value *out)
{
    if (map->type != NV_AMQP_MAP) {
        return false;
    }
    nv_span wanted = nv_span_str(key);
    nv_reader at = nv_reader_of(map->bytes);
    nv_amqp_value name;
    while (nv_reader_left(&at) > 0 && nv_amqp_read(&at, &name)) {
        if ((name.type == NV_AMQP_STRING || name.type == NV_AMQP_SYMBOL) && nv_span_eq(name.bytes, wanted)) {
            return nv_amqp_read(&at, out);
        }
        if (!nv_amqp_skip(&at)) {
            return false;
        }
    }
    return false;
}

bool nv_amqp_is_text(const nv_amqp_value *value)
{
    return value->type == NV_AMQP_STRING || value->type == NV_AMQP_SYMBOL || value->type == NV_AMQP_BINARY;
}

static bool is_unsigned(const nv_amqp_value *value)
{
    return value->type >= NV_AMQP_UBYTE && value->type <= NV_AMQP_ULONG;
}

static bool is_signed(const nv_amqp_value *value)
{
    return value->type >= NV_AMQP_BYTE && value->type <= NV_AMQP_LONG;
}

bool nv_amqp_to_i64(const nv_amqp_value *value, int64_t *out)
{
    if (is_signed(value)) {
        *out = value->i;
        return true;
    }
    if (is_unsigned(value) && value->u <= INT64_MAX) {
        *out = (int64_t)value->u;
        return true;
    }
    return false;
}

bool nv_amqp_to_u64(const nv_amqp_value *value, uint64_t *out)
{
    if (is_unsigned(value)) {
        *out = value->u;
        return true;
    }
    if (is_signed(value) && value->i >= 0) {
        *out = (uint64_t)value->i;
        return true;
    }
    return false;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

void nv_amqp_put_null(nv_writer *w)
{
    nv_write_u8(w, CODE_NULL);
}

void nv_amqp_put_boolean(nv_writer *w, bool value)
{
    nv_write_u8(w, value ? CODE_TRUE : CODE_FALSE);
}

static void put8(nv_writer *w, uint8_t code, uint8_t value)
{
    if (nv_writer_has(w, 2)) {
        w->at[0] = code;
        w->at[1] = value;
        w->at += 2;
    }
}

static void put16(nv_writer *w, uint8_t code, uint16_t value)
{
    if (nv_writer_has(w, 3)) {
        w->at[0] = code;
        nv_store_u16_be(w->at + 1, value);
        w->at += 3;
    }
}

static void put32(nv_writer *w, uint8_t code, uint32_t value)
{
    if (nv_writer_has(w, 5)) {
        w->at[0] = code;
        nv_store_u32_be(w->at + 1, value);
        w->at += 5;
    }
}

static void put64(nv_writer *w, uint8_t code, uint64_t value)
{
    if (nv_writer_has(w, 9)) {
        w->at[0] = code;
        nv_store_u64_be(w->at + 1, value);
        w->at += 9;
    }
}

void nv_amqp_put_ubyte(nv_writer *w, uint8_t value)
{
    put8(w, CODE_UBYTE, value);
}

void nv_amqp_put_ushort(nv_writer *w, uint16_t value)
{
    put16(w, CODE_USHORT, value);
}

void nv_amqp_put_uint(nv_writer *w, uint32_t value)
{
    if (value == 0) {
        nv_write_u8(w, CODE_UINT_0);
    } else if (value <= UINT8_MAX) {
        put8(w, CODE_UINT_8, (uint8_t)value);
    } else {
        put32(w, CODE_UINT, value);
    }
}

void nv_amqp_put_ulong(nv_writer *w, uint64_t value)
{
    if (value == 0) {
        nv_write_u8(w, CODE_ULONG_0);
    } else if (value <= UINT8_MAX) {
        put8(w, CODE_ULONG_8, (uint8_t)value);
    } else {
        put64(w, CODE_ULONG, value);
    }
}

void nv_amqp_put_int(nv_writer *w, int32_t value)
{
    if (value >= INT8_MIN && value <= INT8_MAX) {
        put8(w, CODE_INT_8, (uint8_t)value);
    } else {
        put32(w, CODE_INT, (uint32_t)value);
    }
}

void nv_amqp_put_long(nv_writer *w, int64_t value)
{
    if (value >= INT8_MIN && value <= INT8_MAX) {
        put8(w, CODE_LONG_8, (uint8_t)value);
    } else {
        put64(w, CODE_LONG, (uint64_t)value);
    }
}

void nv_amqp_put_timestamp(nv_writer *w, int64_t milliseconds)
{
    put64(w, CODE_TIMESTAMP, (uint64_t)milliseconds);
}

static void put_bytes(nv_writer *w, uint8_t code, nv_span bytes)
{
    nv_write_u8(w, code);
    nv_write_span(w, bytes);
}

void nv_amqp_put_uuid(nv_writer *w, const uint8_t bytes[16])
{
    put_bytes(w, CODE_UUID, nv_span_of(bytes, 16));
}

/** A variable type: @p code is that of the short form. */
static void put_variable(nv_writer *w, uint8_t code, nv_span bytes)
{
    if (bytes.len <= UINT8_MAX) {
        put8(w, code, (uint8_t)bytes.len);
    } else if (bytes.len <= UINT32_MAX) {
        put32(w, (uint8_t)(code | CODE_WIDE), (uint32_t)bytes.len);
    } else {
        (void)nv_writer_has(w, SIZE_MAX); /* the error of what does not fit */
        return;
    }
    nv_write_span(w, bytes);
}

void nv_amqp_put_binary(nv_writer *w, nv_span bytes)
{
    put_variable(w, CODE_BINARY_8, bytes);
}

void nv_amqp_put_string(nv_writer *w, nv_span text)
{
    put_variable(w, CODE_STRING_8, text);
}

void nv_amqp_put_symbol(nv_writer *w, nv_span text)
{
    put_variable(w, CODE_SYMBOL_8, text);
}

void nv_amqp_put_raw(nv_writer *w, nv_span encoded)
{
    if (encoded.len == 0) {
        nv_amqp_put_null(w);
    } else {
        nv_write_span(w, encoded);
    }
}

void nv_amqp_put_descriptor(nv_writer *w, uint64_t code)
{
    nv_write_u8(w, CODE_DESCRIBED);
    if (code <= UINT8_MAX) {
        put8(w, CODE_ULONG_8, (uint8_t)code);
    } else {
        put64(w, CODE_ULONG, code);
    }
}

/** Code, size and count of a compound with @p len bytes behind its count; @p code is that of the short form. */
static void put_compound_head(nv_writer *w, uint8_t code, size_t len, uint32_t count)
{
    if (len < UINT8_MAX && count <= UINT8_MAX) {
        put8(w, code, (uint8_t)(len + 1));
        nv_write_u8(w, (uint8_t)count);
    } else if (len <= UINT32_MAX - 4) {
        put32(w, (uint8_t)(code | CODE_WIDE), (uint32_t)(len + 4));
        nv_write_u32_be(w, count);
    } else {
        (void)nv_writer_has(w, SIZE_MAX);
    }
}

static void put_array(nv_writer *w, const nv_amqp_value *array)
{
    bool empty = array->element != CODE_DESCRIBED && width_of(array->element) == 0;
    nv_span bytes = empty ? NV_SPAN_EMPTY : array->bytes;
    put_compound_head(w, CODE_ARRAY_8, bytes.len + 1, array->count);
    nv_write_u8(w, array->element);
    nv_write_span(w, bytes);
}

static void put_described(nv_writer *w, const nv_amqp_value *value)
{
    if (value->code_known) {
        nv_amqp_put_descriptor(w, value->code);
    } else {
        nv_write_u8(w, CODE_DESCRIBED);
        if (value->count > 0) {
            nv_write_span(w, nv_span_of(value->symbol.ptr, value->count));
        } else {
            nv_amqp_put_symbol(w, value->symbol);
        }
    }
    nv_amqp_put_raw(w, value->bytes);
}

void nv_amqp_put(nv_writer *w, const nv_amqp_value *value)
{
    switch (value->type) {
    case NV_AMQP_NULL:
        nv_amqp_put_null(w);
        return;
    case NV_AMQP_BOOLEAN:
        nv_amqp_put_boolean(w, value->boolean);
        return;
    case NV_AMQP_UBYTE:
        put8(w, CODE_UBYTE, (uint8_t)value->u);
        return;
    case NV_AMQP_USHORT:
        put16(w, CODE_USHORT, (uint16_t)value->u);
        return;
    case NV_AMQP_UINT:
        nv_amqp_put_uint(w, (uint32_t)value->u);
        return;
    case NV_AMQP_ULONG:
        nv_amqp_put_ulong(w, value->u);
        return;
    case NV_AMQP_BYTE:
        put8(w, CODE_BYTE, (uint8_t)value->i);
        return;
    case NV_AMQP_SHORT:
        put16(w, CODE_SHORT, (uint16_t)value->i);
        return;
    case NV_AMQP_INT:
        nv_amqp_put_int(w, (int32_t)value->i);
        return;
    case NV_AMQP_LONG:
        nv_amqp_put_long(w, value->i);
        return;
    case NV_AMQP_FLOAT:
        put32(w, CODE_FLOAT, (uint32_t)value->u);
        return;
    case NV_AMQP_DOUBLE:
        put64(w, CODE_DOUBLE, value->u);
        return;
    case NV_AMQP_CHAR:
        put32(w, CODE_CHAR, (uint32_t)value->u);
        return;
    case NV_AMQP_TIMESTAMP:
        nv_amqp_put_timestamp(w, value->i);
        return;
    case NV_AMQP_DECIMAL32:
        put_bytes(w, CODE_DECIMAL32, value->bytes);
        return;
    case NV_AMQP_DECIMAL64:
        put_bytes(w, CODE_DECIMAL64, value->bytes);
        return;
    case NV_AMQP_DECIMAL128:
        put_bytes(w, CODE_DECIMAL128, value->bytes);
        return;
    case NV_AMQP_UUID:
        put_bytes(w, CODE_UUID, value->bytes);
        return;
    case NV_AMQP_BINARY:
        nv_amqp_put_binary(w, value->bytes);
        return;
    case NV_AMQP_STRING:
        nv_amqp_put_string(w, value->bytes);
        return;
    case NV_AMQP_SYMBOL:
        nv_amqp_put_symbol(w, value->bytes);
        return;
    case NV_AMQP_LIST:
        if (value->count == 0 && value->bytes.len == 0) {
            nv_write_u8(w, CODE_LIST_0);
            return;
        }
        put_compound_head(w, CODE_LIST_8, value->bytes.len, value->count);
        nv_write_span(w, value->bytes);
        return;
    case NV_AMQP_MAP:
        put_compound_head(w, CODE_MAP_8, value->bytes.len, value->count);
        nv_write_span(w, value->bytes);
        return;
    case NV_AMQP_ARRAY:
        put_array(w, value);
        return;
    case NV_AMQP_DESCRIBED:
        put_described(w, value);
        return;
    }
}

static size_t begin_compound(nv_writer *w, uint8_t code)
{
    nv_write_u8(w, code);
    size_t mark = nv_writer_len(w);
    nv_write_u64_be(w, 0);
    return mark;
}

static void end_compound(nv_writer *w, size_t mark, uint32_t count)
{
    if (w->err != NV_OK) {
        return;
    }
    size_t size = nv_writer_len(w) - mark - 4;
    if (size > UINT32_MAX) {
        w->err = NV_E_TOO_BIG;
        return;
    }
    nv_store_u32_be(w->start + mark, (uint32_t)size);
    nv_store_u32_be(w->start + mark + 4, count);
}

size_t nv_amqp_begin_list(nv_writer *w)
{
    return begin_compound(w, CODE_LIST_32);
}

void nv_amqp_end_list(nv_writer *w, size_t mark, uint32_t count)
{
    end_compound(w, mark, count);
}

size_t nv_amqp_begin_map(nv_writer *w)
{
    return begin_compound(w, CODE_MAP_32);
}

void nv_amqp_end_map(nv_writer *w, size_t mark, uint32_t count)
{
    end_compound(w, mark, count);
}

void nv_amqp_put_texts(nv_writer *w, nv_amqp_type type, const nv_span *texts, size_t count)
{
    uint8_t code = type == NV_AMQP_SYMBOL ? CODE_SYMBOL_8 : type == NV_AMQP_STRING ? CODE_STRING_8 : CODE_BINARY_8;
    size_t longest = 0;
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        longest = texts[i].len > longest ? texts[i].len : longest;
        total += texts[i].len;
    }
    bool wide = longest > UINT8_MAX;
    if (longest > UINT32_MAX || count > UINT32_MAX) {
        (void)nv_writer_has(w, SIZE_MAX);
        return;
    }
    put_compound_head(w, CODE_ARRAY_8, 1 + total + count * (wide ? 4 : 1), (uint32_t)count);
    nv_write_u8(w, wide ? (uint8_t)(code | CODE_WIDE) : code);
    for (size_t i = 0; i < count; i++) {
        if (wide) {
            nv_write_u32_be(w, (uint32_t)texts[i].len);
        } else {
            nv_write_u8(w, (uint8_t)texts[i].len);
        }
        nv_write_span(w, texts[i]);
    }
}
