/*
 * What a server sends to a client of ours: the answer to its wish for a WebSocket, and frames behind it. Input: one
 * byte of piece size, one byte of window size, then the bytes; without a good answer all of them are frames.
 *
 * No part of an answer says anything else than the whole, and what the frames hold does not depend on the pieces.
 */
#include "base/buf.h"
#include "codec/websocket.h"
#include "net/websocket.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_MESSAGE 5000u

/* @return length of a good answer; 0: it is none */
static size_t read_answer(nv_span bytes, size_t step)
{
    nv_websocket_offer offer = {.protocol = nv_span_str("AMQPWSB10"), .key = nv_span_str("dGhlIHNhbXBsZSBub25jZQ==")};
    size_t len = 0;
    unsigned status = 0;
    const char *why = NULL;
    nv_err whole = nv_websocket_read_answer(&offer, bytes, &len, &status, &why);
    if (len > bytes.len || ((whole == NV_E_SYNTAX || whole == NV_E_UNSUPPORTED) && !why)) {
        abort();
    }
    for (size_t have = 0; have < bytes.len; have += step) {
        size_t taken = 0;
        unsigned early = 0;
        nv_err part = nv_websocket_read_answer(&offer, nv_span_first(bytes, have), &taken, &early, &why);
        if (part != NV_E_MORE && (part != whole || early != status || (part == NV_OK && taken != len))) {
            abort();
        }
    }
    return whole == NV_OK ? len : 0;
}

static uint16_t decode(nv_span bytes, size_t step, size_t room, nv_buf *out)
{
    static uint8_t window[512];
    nv_ws_decoder d;
    nv_ws_decoder_init_client(&d, MAX_MESSAGE);
    for (; bytes.len > 0; bytes = nv_span_skip(bytes, step)) {
        nv_span piece = nv_span_first(bytes, step);
        for (nv_ws_event event = NV_WS_FULL; event == NV_WS_FULL || event == NV_WS_PING;) {
            size_t len = 0;
            event = nv_ws_decode(&d, &piece, window, room, &len);
            if (len > room || (event == NV_WS_BAD && !d.why) || nv_buf_append(out, nv_span_of(window, len)) != NV_OK) {
                abort();
            }
        }
    }
    uint16_t code = d.ended ? d.close_code : 1;
    nv_ws_decoder_deinit(&d);
    return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) {
        return 0;
    }
    nv_buf whole;
    nv_buf pieces;
    nv_buf_init(&whole, SIZE_MAX);
    nv_buf_init(&pieces, SIZE_MAX);
    nv_span bytes = nv_span_of(data + 2, size - 2);
    bytes = nv_span_skip(bytes, read_answer(bytes, (size_t)data[0] + 1));
    uint16_t code = decode(bytes, bytes.len, 512, &whole);
    if (decode(bytes, (size_t)data[0] + 1, (size_t)data[1] + 1, &pieces) != code ||
        !nv_span_eq(nv_buf_span(&whole), nv_buf_span(&pieces))) {
        abort();
    }
    nv_buf_deinit(&whole);
    nv_buf_deinit(&pieces);
    return 0;
}
