/** Protocol headers and frames of AMQP 1.0 (part 2 section 2.3, part 5 section 5.3). Pure. */
#ifndef NV_CODEC_AMQP_FRAME_H
#define NV_CODEC_AMQP_FRAME_H

#include "codec/amqp/performative.h"

#define NV_AMQP_HEADER_SIZE       8u /* the protocol header */
#define NV_AMQP_FRAME_HEADER_SIZE 8u
#define NV_AMQP_MIN_MAX_FRAME     512u

typedef enum nv_amqp_protocol {
    NV_AMQP_PROTOCOL_AMQP = 0,
    NV_AMQP_PROTOCOL_TLS = 2,
    NV_AMQP_PROTOCOL_SASL = 3
} nv_amqp_protocol;

/** The 8 bytes "AMQP" id 1 0 0. */
void nv_amqp_write_header(uint8_t out[NV_AMQP_HEADER_SIZE], nv_amqp_protocol protocol);
/** @return NV_OK; NV_E_MORE too few bytes and nothing wrong so far; NV_E_SYNTAX not AMQP; NV_E_UNSUPPORTED another
 * version or protocol id */
NV_NODISCARD nv_err nv_amqp_read_header(nv_span bytes, nv_amqp_protocol *out);

typedef enum nv_amqp_frame_type { NV_AMQP_FRAME_AMQP = 0, NV_AMQP_FRAME_SASL = 1 } nv_amqp_frame_type;

typedef struct nv_amqp_frame {
    nv_amqp_frame_type type;
    uint16_t channel;
    nv_span body; /* performative and payload; empty: a heartbeat */
    size_t size;  /* of the whole frame */
} nv_amqp_frame;

/** @return NV_OK; NV_E_MORE incomplete: out->size is what it needs, once 4 bytes are there, else 0; NV_E_SYNTAX
 * malformed; NV_E_TOO_BIG larger than @p max_frame */
NV_NODISCARD nv_err nv_amqp_read_frame(nv_span bytes, uint32_t max_frame, nv_amqp_frame *out);

/** Begin a frame in @p w (room for its header), and end it: the size is written. */
size_t nv_amqp_begin_frame(nv_writer *w, nv_amqp_frame_type type, uint16_t channel);
void nv_amqp_end_frame(nv_writer *w, size_t mark);
/** A header whose size, payload included, is known: for a frame whose payload follows from elsewhere. */
void nv_amqp_write_frame_header(uint8_t out[NV_AMQP_FRAME_HEADER_SIZE], nv_amqp_frame_type type, uint16_t channel,
                                uint32_t size);

#endif
