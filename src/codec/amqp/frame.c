#include "codec/amqp/frame.h"

#include "codec/amqp/wire.h"

void nv_amqp_write_header(uint8_t out[NV_AMQP_HEADER_SIZE], nv_amqp_protocol protocol)
{
    const uint8_t header[NV_AMQP_HEADER_SIZE] = {'A', 'M', 'Q', 'P', (uint8_t)protocol, 1, 0, 0};
    memcpy(out, header, sizeof(header));
}

nv_err nv_amqp_read_header(nv_span bytes, nv_amqp_protocol *out)
{
    /* Byte by byte, so that another protocol is known from its first byte and not waited for. */
    static const uint8_t expected[NV_AMQP_HEADER_SIZE] = {'A', 'M', 'Q', 'P', 0, 1, 0, 0};
    size_t len = bytes.len < NV_AMQP_HEADER_SIZE ? bytes.len : NV_AMQP_HEADER_SIZE;
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = bytes.ptr[i];
        bool ok = i == 4
                      ? byte == NV_AMQP_PROTOCOL_AMQP || byte == NV_AMQP_PROTOCOL_TLS || byte == NV_AMQP_PROTOCOL_SASL
                      : byte == expected[i];
        if (!ok) {
            return i < 4 ? NV_E_SYNTAX : NV_E_UNSUPPORTED;
        }
    }
    if (len < NV_AMQP_HEADER_SIZE) {
        return NV_E_MORE;
    }
    *out = (nv_amqp_protocol)bytes.ptr[4];
    return NV_OK;
}

nv_err nv_amqp_read_frame(nv_span bytes, uint32_t max_frame, nv_amqp_frame *out)
{
    *out = (nv_amqp_frame){.size = 0};
    if (bytes.len < 4) {
        return NV_E_MORE;
    }
    uint32_t size = nv_load_u32_be(bytes.ptr);
    out->size = size;
    if (size < NV_AMQP_FRAME_HEADER_SIZE) {
        return NV_E_SYNTAX;
    }
    if (size > max_frame) {
        return NV_E_TOO_BIG;
    }
    if (bytes.len < NV_AMQP_FRAME_HEADER_SIZE) {
        return NV_E_MORE;
    }
    size_t offset = (size_t)bytes.ptr[4] * 4; /* an extended header is ignored (2.3.1) */
    uint8_t type = bytes.ptr[5];
    if (offset < NV_AMQP_FRAME_HEADER_SIZE || offset > size || type > NV_AMQP_FRAME_SASL) {
        return NV_E_SYNTAX;
    }
    if (bytes.len < size) {
        return NV_E_MORE;
    }
    out->type = (nv_amqp_frame_type)type;
    out->channel = type == NV_AMQP_FRAME_AMQP ? nv_load_u16_be(bytes.ptr + 6) : 0; /* SASL: ignored (5.3.1) */
    out->body = nv_span_of(bytes.ptr + offset, size - offset);
    return NV_OK;
}

void nv_amqp_write_frame_header(uint8_t out[NV_AMQP_FRAME_HEADER_SIZE], nv_amqp_frame_type type, uint16_t channel,
                                uint32_t size)
{
    nv_store_u32_be(out, size);
    out[4] = NV_AMQP_FRAME_HEADER_SIZE / 4;
    out[5] = (uint8_t)type;
    nv_store_u16_be(out + 6, channel);
}

size_t nv_amqp_begin_frame(nv_writer *w, nv_amqp_frame_type type, uint16_t channel)
{
    size_t mark = nv_writer_len(w);
    if (nv_writer_has(w, NV_AMQP_FRAME_HEADER_SIZE)) {
        nv_amqp_write_frame_header(w->at, type, channel, 0);
        w->at += NV_AMQP_FRAME_HEADER_SIZE;
    }
    return mark;
}

void nv_amqp_end_frame(nv_writer *w, size_t mark)
{
    if (w->err != NV_OK) {
        return;
    }
    size_t size = nv_writer_len(w) - mark;
    if (size > UINT32_MAX) {
        w->err = NV_E_TOO_BIG;
        return;
    }
    nv_store_u32_be(w->start + mark, (uint32_t)size);
}
