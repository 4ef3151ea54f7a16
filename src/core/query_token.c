/*
 * A token, in base64: 1 byte version, 1 byte flags (1: in groups), 8 query, 4 top_left, 8 group, device id and module
 * id, each with a byte of length in front, 4 checksum (CRC-32C) of all that. Numbers little-endian.
 */
#include "core/query_token.h"

#include "base/crc32c.h"
#include "base/cursor.h"
#include "codec/base64.h"

#define VERSION   1u
#define BYTES_MAX (1u + 1u + 8u + 4u + 8u + 2u * (1u + NV_ID_MAX) + 4u)

nv_err nv_query_token_write(const nv_query_position *position, uint64_t query, nv_buf *out)
{
    uint8_t bytes[BYTES_MAX];
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    nv_write_u8(&w, VERSION);
    nv_write_u8(&w, position->in_groups ? 1 : 0);
    nv_write_u64_le(&w, query);
    nv_write_u32_le(&w, position->top_left);
    nv_write_u64_le(&w, position->group);
    nv_write_u8(&w, position->device_len);
    nv_write_span(&w, nv_span_of(position->device, position->device_len));
    nv_write_u8(&w, position->module_len);
    nv_write_span(&w, nv_span_of(position->module, position->module_len));
    nv_write_u32_le(&w, nv_crc32c(0, nv_writer_span(&w)));
    size_t len = NV_BASE64_LEN(nv_writer_len(&w));
    uint8_t *text = nv_buf_reserve(out, len);
    if (!text) {
        return NV_E_TOO_BIG;
    }
    nv_writer to = nv_writer_of(text, len);
    nv_base64_encode(nv_writer_span(&w), &to);
    nv_buf_commit(out, nv_writer_len(&to));
    return to.err;
}

/* @return its length */
static uint8_t read_id(nv_reader *r, uint8_t out[NV_ID_MAX])
{
    uint8_t len = nv_read_u8(r);
    nv_span id = nv_read_span(r, len);
    if (id.len > NV_ID_MAX) {
        r->err = NV_E_SYNTAX;
        return 0;
    }
    if (id.len) {
        memcpy(out, id.ptr, id.len);
    }
    return (uint8_t)id.len;
}

bool nv_query_token_read(nv_span token, uint64_t query, nv_query_position *position)
{
    uint8_t bytes[BYTES_MAX];
    size_t len = 0;
    *position = (nv_query_position){0};
    if (nv_base64_decode(token, bytes, sizeof(bytes), &len) != NV_OK || len < 4) {
        return false;
    }
    nv_reader r = nv_reader_of(nv_span_of(bytes, len));
    uint8_t version = nv_read_u8(&r);
    uint8_t flags = nv_read_u8(&r);
    uint64_t of = nv_read_u64_le(&r);
    position->top_left = nv_read_u32_le(&r);
    position->group = nv_read_u64_le(&r);
    position->device_len = read_id(&r, position->device);
    position->module_len = read_id(&r, position->module);
    uint32_t sum = nv_read_u32_le(&r);
    position->in_groups = flags == 1;
    return r.err == NV_OK && nv_reader_left(&r) == 0 && version == VERSION && flags <= 1 && of == query &&
           sum == nv_crc32c(0, nv_span_of(bytes, len - 4));
}
