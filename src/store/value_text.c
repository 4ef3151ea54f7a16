#include "base/clock.h"
#include "store/record.h"

#include <inttypes.h>
#include <stdio.h>

static double double_of(const nv_value *value)
{
    double d = 0;
    float f = 0;
    uint32_t low = (uint32_t)value->u;
    if (value->type == NV_VALUE_DOUBLE) {
        memcpy(&d, &value->u, sizeof(d));
        return d;
    }
    memcpy(&f, &low, sizeof(f));
    return (double)f;
}

static nv_span uuid_text(nv_span bytes, char *scratch)
{
    static const char digits[] = "0123456789abcdef";
    size_t len = 0;
    if (bytes.len != 16) {
        return bytes;
    }
    for (size_t i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            scratch[len++] = '-';
        }
        scratch[len++] = digits[bytes.ptr[i] >> 4];
        scratch[len++] = digits[bytes.ptr[i] & 15];
    }
    return nv_span_of(scratch, len);
}

static nv_span time_text(int64_t wall_us, char *scratch)
{
    nv_time_format(wall_us, scratch);
    return nv_span_str(scratch);
}

static nv_span char_text(uint64_t c, char *scratch)
{
    size_t more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const uint8_t lead[] = {0, 0xC0, 0xE0, 0xF0};
    size_t len = 0;
    scratch[len++] = (char)(lead[more] | (c >> (6 * more) & 0x7F));
    while (more-- > 0) {
        scratch[len++] = (char)(0x80 | (c >> (6 * more) & 0x3F));
    }
    return nv_span_of(scratch, len);
}

static nv_span formatted(int len, const char *scratch)
{
    return nv_span_of(scratch, len > 0 ? (size_t)len : 0);
}

nv_span nv_value_text(const nv_value *value, char scratch[NV_VALUE_TEXT_SIZE])
{
    switch (value->type) {
    case NV_VALUE_NULL:
        return NV_SPAN_EMPTY;
    case NV_VALUE_BOOL:
        return nv_span_str(value->boolean ? "true" : "false");
    case NV_VALUE_UBYTE:
    case NV_VALUE_USHORT:
    case NV_VALUE_UINT:
    case NV_VALUE_ULONG:
        return formatted(snprintf(scratch, NV_VALUE_TEXT_SIZE, "%" PRIu64, value->u), scratch);
    case NV_VALUE_BYTE:
    case NV_VALUE_SHORT:
    case NV_VALUE_INT:
    case NV_VALUE_LONG:
        return formatted(snprintf(scratch, NV_VALUE_TEXT_SIZE, "%" PRId64, value->i), scratch);
    case NV_VALUE_FLOAT:
        return formatted(snprintf(scratch, NV_VALUE_TEXT_SIZE, "%.9g", double_of(value)), scratch);
    case NV_VALUE_DOUBLE:
        return formatted(snprintf(scratch, NV_VALUE_TEXT_SIZE, "%.17g", double_of(value)), scratch);
    case NV_VALUE_CHAR:
        return char_text(value->u, scratch);
    case NV_VALUE_TIMESTAMP:
        if (value->i > INT64_MAX / NV_US_PER_MS || value->i < INT64_MIN / NV_US_PER_MS) {
            return formatted(snprintf(scratch, NV_VALUE_TEXT_SIZE, "%" PRId64, value->i), scratch);
        }
        return time_text(value->i * NV_US_PER_MS, scratch);
    case NV_VALUE_UUID:
        return uuid_text(value->bytes, scratch);
    case NV_VALUE_BINARY:
    case NV_VALUE_STRING:
    case NV_VALUE_SYMBOL:
        return value->bytes;
    }
    return NV_SPAN_EMPTY; /* a type of a newer version */
}
