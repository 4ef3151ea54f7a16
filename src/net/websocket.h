/**
 * WebSocket frames of either side (RFC 6455), without a socket: bytes in, payload and events out. The grammar of frames
 * is wslay's; what it leaves to its user is decided here: masks, opcodes, fragments, lengths, close codes.
 *
 * Payload goes up as it arrives, so a message of any length costs no memory, and between frames a decoder owns none.
 * Only binary messages are taken: they are what MQTT and AMQP travel in, and their bounds mean nothing to either.
 */
#ifndef NV_NET_WEBSOCKET_H
#define NV_NET_WEBSOCKET_H

#include "base/buf.h"
#include "base/cursor.h"

#define NV_WS_CONTROL_MAX 125u
/** The longest head of a frame that a server sends, and of one that a client does. */
#define NV_WS_HEAD_MAX        10u
#define NV_WS_MASKED_HEAD_MAX 14u
#define NV_WS_MASK_BYTES      4u

typedef enum nv_ws_opcode {
    NV_WS_CONTINUATION = 0,
    NV_WS_TEXT = 1,
    NV_WS_BINARY = 2,
    NV_WS_CLOSE_FRAME = 8,
    NV_WS_PING_FRAME = 9,
    NV_WS_PONG_FRAME = 10
} nv_ws_opcode;

/** Codes of close frames (RFC 6455 section 7.4.1). */
enum {
    NV_WS_NORMAL = 1000,
    NV_WS_GOING_AWAY = 1001,
    NV_WS_PROTOCOL_ERROR = 1002,
    NV_WS_UNSUPPORTED = 1003,
    NV_WS_TOO_BIG = 1009,
    NV_WS_INTERNAL = 1011
};

typedef enum nv_ws_event {
    NV_WS_MORE, /* every byte was taken */
    NV_WS_FULL, /* there is no room for payload left: take it away and call again */
    NV_WS_PING, /* answer with a pong of nv_ws_decoder.control, then call again */
    NV_WS_END,  /* the peer said goodbye: answer with close_code (0: an empty frame). What follows is dropped */
    NV_WS_BAD   /* the peer broke a rule: close with close_code for the reason in why. What follows is dropped */
} nv_ws_event;

typedef struct nv_ws_decoder {
    const char *why;     /* BAD: static text */
    nv_buf control;      /* of the last control frame, until the next call */
    uint16_t close_code; /* END, BAD */
    bool ended;          /* after END and BAD */
    /* private */
    bool _client;     /* frames come from a server */
    bool _in_message; /* a fragment was the last data frame */
    bool _checked;    /* the head of the frame under way is good */
    size_t _max_message;
    uint64_t _message;                    /* bytes of the message under way, as announced */
    uint64_t _done;                       /* bytes of the frame under way, that were seen */
    size_t _held;                         /* bytes that wslay has and no complete frame accounts for */
    uint8_t _last[NV_WS_MASKED_HEAD_MAX]; /* that wslay got, the newest at the end: a head that it keeps to itself */
    nv_span _in;
    nv_span _payload; /* unmasked and not taken away yet; in wslay's buffer */
    struct wslay_frame_context *_frames;
} nv_ws_decoder;

/** Of a server. @param max_message  of one message, all its fragments together, in bytes */
void nv_ws_decoder_init(nv_ws_decoder *decoder, size_t max_message);
/** Of a client. */
void nv_ws_decoder_init_client(nv_ws_decoder *decoder, size_t max_message);
void nv_ws_decoder_deinit(nv_ws_decoder *decoder);

/**
 * Decode from the front of @p bytes, which is shortened by what was taken. Until MORE, END or BAD call again, also when
 * @p bytes has become empty.
 * @param out   room for @p room bytes of payload
 * @param len   how many were written there; also beside an event
 */
nv_ws_event nv_ws_decode(nv_ws_decoder *decoder, nv_span *bytes, uint8_t *out, size_t room, size_t *len);

/** The head of an unfragmented frame; its @p len bytes of payload follow. Writes at most NV_WS_HEAD_MAX bytes. */
void nv_ws_write_head(nv_writer *out, nv_ws_opcode opcode, size_t len);
/** A whole frame of a client, masked. @param mask  unpredictable for whoever chose the payload [RFC 6455 10.3] */
void nv_ws_write_masked(nv_writer *out, nv_ws_opcode opcode, nv_span payload, const uint8_t mask[NV_WS_MASK_BYTES]);

#endif
