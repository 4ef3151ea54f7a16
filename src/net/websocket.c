#include "net/websocket.h"

#include <wslay/wslay.h>

#define MASKED     0x80u /* beside the length */
#define SHORT_HEAD 2u    /* opcode and length */

void nv_ws_decoder_init(nv_ws_decoder *decoder, size_t max_message)
{
    *decoder = (nv_ws_decoder){._max_message = max_message};
    nv_buf_init(&decoder->control, NV_WS_CONTROL_MAX);
}

void nv_ws_decoder_init_client(nv_ws_decoder *decoder, size_t max_message)
{
    nv_ws_decoder_init(decoder, max_message);
    decoder->_client = true;
}

static void let_go(nv_ws_decoder *d)
{
    wslay_frame_context_free(d->_frames);
    d->_frames = NULL;
    d->_held = 0;
    d->_payload = NV_SPAN_EMPTY;
}

void nv_ws_decoder_deinit(nv_ws_decoder *decoder)
{
    let_go(decoder);
    nv_buf_deinit(&decoder->control);
}

static void remember(nv_ws_decoder *d, nv_span some)
{
    size_t fresh = some.len < sizeof(d->_last) ? some.len : sizeof(d->_last);
    size_t old = sizeof(d->_last) - fresh;
    memmove(d->_last, d->_last + fresh, old);
    memcpy(d->_last + old, some.ptr + some.len - fresh, fresh);
}

/* wslay asks for bytes. -1: there are none now. */
static ssize_t give(uint8_t *out, size_t len, int flags, void *arg)
{
    (void)flags;
    nv_ws_decoder *d = arg;
    nv_span some = nv_span_first(d->_in, len);
    if (some.len == 0) {
        return -1;
    }
    memcpy(out, some.ptr, some.len);
    d->_in = nv_span_skip(d->_in, some.len);
    d->_held += some.len;
    remember(d, some);
    return (ssize_t)some.len;
}

static bool make_frames(nv_ws_decoder *d)
{
    static const struct wslay_frame_callbacks callbacks = {.recv_callback = give};
    return d->_frames || wslay_frame_context_init(&d->_frames, &callbacks, d) == 0;
}

static nv_ws_event finish(nv_ws_decoder *d, nv_ws_event event, uint16_t close_code, const char *why)
{
    let_go(d);
    d->ended = true;
    d->close_code = close_code;
    d->why = why;
    return event;
}

static nv_ws_event bad(nv_ws_decoder *d, uint16_t close_code, const char *why)
{
    return finish(d, NV_WS_BAD, close_code, why);
}

/* ---- heads ---- */

/* The message grows by @p len. [RFC 6455 10.4] */
static bool fits(nv_ws_decoder *d, uint64_t len)
{
    if (len > d->_max_message - d->_message) {
        return false;
    }
    d->_message += len;
    return true;
}

static nv_ws_event check_data(nv_ws_decoder *d, const struct wslay_frame_iocb *frame)
{
    if (frame->opcode == NV_WS_TEXT) {
        return bad(d, NV_WS_UNSUPPORTED, "a text frame; this protocol travels in binary frames");
    }
    if (frame->opcode > NV_WS_BINARY) {
        return bad(d, NV_WS_PROTOCOL_ERROR, "an unknown opcode");
    }
    if ((frame->opcode == NV_WS_CONTINUATION) != d->_in_message) {
        return bad(d, NV_WS_PROTOCOL_ERROR,
                   d->_in_message ? "a new message inside a fragmented one" : "a continuation of nothing");
    }
    d->_message = d->_in_message ? d->_message : 0;
    d->_in_message = !frame->fin;
    if (!fits(d, frame->payload_length)) {
        return bad(d, NV_WS_TOO_BIG,
                   d->_client ? "a message that is too long" : "a message longer than limits.websocket_frame_bytes");
    }
    return NV_WS_MORE;
}

static nv_ws_event check_head(nv_ws_decoder *d, const struct wslay_frame_iocb *frame)
{
    d->_checked = true;
    if (frame->rsv != WSLAY_RSV_NONE) {
        return bad(d, NV_WS_PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed on");
    }
    if (!frame->mask != d->_client) { /* [RFC 6455 5.1] */
        return bad(d, NV_WS_PROTOCOL_ERROR, d->_client ? "a frame with a mask" : "a frame without a mask");
    }
    if (!wslay_is_ctrl_frame(frame->opcode)) {
        return check_data(d, frame);
    }
    if (frame->opcode > NV_WS_PONG_FRAME) {
        return bad(d, NV_WS_PROTOCOL_ERROR, "an unknown opcode");
    }
    nv_buf_clear(&d->control);
    return NV_WS_MORE;
}

/* What is announced, as far as it says how long the frame is. @return false: more bytes are needed [RFC 6455 5.2] */
static bool read_head(nv_span bytes, struct wslay_frame_iocb *frame)
{
    nv_reader r = nv_reader_of(bytes);
    uint8_t first = nv_read_u8(&r);
    uint8_t second = nv_read_u8(&r);
    uint8_t len = second & (MASKED - 1u);
    frame->fin = first >> 7;
    frame->rsv = first >> 4 & 7u;
    frame->opcode = first & 15u;
    frame->mask = second >> 7;
    frame->payload_length = len == 127 ? nv_read_u64_be(&r) : len == 126 ? nv_read_u16_be(&r) : len;
    return r.err == NV_OK;
}

/* wslay tells of a frame with the first of its payload. What must not come is refused when its head is there. */
static nv_ws_event check_early(nv_ws_decoder *d)
{
    struct wslay_frame_iocb frame;
    memset(&frame, 0, sizeof(frame));
    if (d->_checked || d->_held == 0 || d->_held > sizeof(d->_last) ||
        !read_head(nv_span_of(d->_last + sizeof(d->_last) - d->_held, d->_held), &frame)) {
        return NV_WS_MORE;
    }
    return check_head(d, &frame);
}

/* ---- control frames ---- */

/* What an endpoint may send. [RFC 6455 7.4], and 1012 to 1014 of the registry that it founds */
static bool may_be_sent(uint16_t code)
{
    bool defined = code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006;
    return defined || (code >= 3000 && code <= 4999);
}

static nv_ws_event take_close(nv_ws_decoder *d)
{
    nv_span text = nv_buf_span(&d->control);
    nv_reader r = nv_reader_of(text);
    uint16_t code = text.len > 0 ? nv_read_u16_be(&r) : 0;
    if (text.len > 0 && (r.err != NV_OK || !may_be_sent(code))) {
        return bad(d, NV_WS_PROTOCOL_ERROR, "a close frame with a code that nobody may send");
    }
    return finish(d, NV_WS_END, code, NULL);
}

static nv_ws_event take_control(nv_ws_decoder *d, const struct wslay_frame_iocb *frame, bool whole)
{
    if (nv_buf_append(&d->control, nv_span_of(frame->data, frame->data_length)) != NV_OK) {
        return bad(d, NV_WS_INTERNAL, "out of memory for a control frame"); /* its length wslay has checked */
    }
    if (!whole || frame->opcode == NV_WS_PONG_FRAME) {
        return NV_WS_MORE;
    }
    return frame->opcode == NV_WS_PING_FRAME ? NV_WS_PING : take_close(d);
}

/* ---- pieces of frames ---- */

static size_t head_len(const nv_ws_decoder *d, uint64_t payload_len)
{
    size_t length = payload_len > UINT16_MAX ? 8 : payload_len >= 126 ? 2 : 0; /* wslay demands the shortest */
    return SHORT_HEAD + length + (d->_client ? 0 : NV_WS_MASK_BYTES);
}

/* wslay has some or all of a frame's payload. */
static nv_ws_event take_piece(nv_ws_decoder *d, const struct wslay_frame_iocb *frame)
{
    nv_ws_event event = d->_checked ? NV_WS_MORE : check_head(d, frame);
    if (event != NV_WS_MORE) {
        return event;
    }
    d->_done += frame->data_length;
    bool whole = d->_done == frame->payload_length;
    if (whole) {
        d->_done = 0;
        d->_checked = false;
        d->_held -= head_len(d, frame->payload_length);
    }
    d->_held -= frame->data_length;
    if (wslay_is_ctrl_frame(frame->opcode)) {
        return take_control(d, frame, whole);
    }
    d->_payload = nv_span_of(frame->data, frame->data_length);
    return NV_WS_MORE;
}

static void move_payload(nv_ws_decoder *d, uint8_t *out, size_t room, size_t *len)
{
    nv_span some = nv_span_first(d->_payload, room - *len);
    if (some.len > 0) {
        memcpy(out + *len, some.ptr, some.len);
        *len += some.len;
        d->_payload = nv_span_skip(d->_payload, some.len);
    }
}

static nv_ws_event decode(nv_ws_decoder *d, uint8_t *out, size_t room, size_t *len)
{
    for (;;) {
        move_payload(d, out, room, len);
        if (d->_payload.len > 0) {
            return NV_WS_FULL;
        }
        struct wslay_frame_iocb frame;
        memset(&frame, 0, sizeof(frame));
        ssize_t got = wslay_frame_recv(d->_frames, &frame);
        if (got == WSLAY_ERR_WANT_READ) {
            return check_early(d);
        }
        nv_ws_event event = got < 0 ? bad(d, NV_WS_PROTOCOL_ERROR, "not a WebSocket frame") : take_piece(d, &frame);
        if (event != NV_WS_MORE) {
            return event;
        }
    }
}

nv_ws_event nv_ws_decode(nv_ws_decoder *decoder, nv_span *bytes, uint8_t *out, size_t room, size_t *len)
{
    *len = 0;
    if (decoder->ended) {
        *bytes = nv_span_skip(*bytes, bytes->len);
        return NV_WS_MORE;
    }
    if (!make_frames(decoder)) {
        return bad(decoder, NV_WS_INTERNAL, "out of memory for its frames");
    }
    decoder->_in = *bytes;
    nv_ws_event event = decode(decoder, out, room, len);
    *bytes = decoder->_in;
    decoder->_in = NV_SPAN_EMPTY;
    if (event == NV_WS_MORE && decoder->_held == 0) {
        let_go(decoder); /* between frames: nothing is worth keeping */
        nv_buf_deinit(&decoder->control);
    }
    return event;
}

static void write_head(nv_writer *out, nv_ws_opcode opcode, size_t len, uint8_t masked)
{
    nv_write_u8(out, (uint8_t)(0x80u | opcode));
    if (len < 126) {
        nv_write_u8(out, (uint8_t)(masked | len));
    } else if (len <= UINT16_MAX) {
        nv_write_u8(out, masked | 126u);
        nv_write_u16_be(out, (uint16_t)len);
    } else {
        nv_write_u8(out, masked | 127u);
        nv_write_u64_be(out, len);
    }
}

void nv_ws_write_head(nv_writer *out, nv_ws_opcode opcode, size_t len)
{
    write_head(out, opcode, len, 0);
}

void nv_ws_write_masked(nv_writer *out, nv_ws_opcode opcode, nv_span payload, const uint8_t mask[NV_WS_MASK_BYTES])
{
    write_head(out, opcode, payload.len, MASKED);
    nv_write_span(out, nv_span_of(mask, NV_WS_MASK_BYTES));
    uint8_t *at = out->at;
    nv_write_span(out, payload);
    for (size_t i = 0; i < payload.len && out->err == NV_OK; i++) {
        at[i] ^= mask[i % NV_WS_MASK_BYTES];
    }
}
