/*
 * WebSocket as a layer: payload of binary messages goes up as a stream, what comes down leaves in frames of one message
 * each. Control frames are answered here; the session knows of none. An idle connection holds the layer's structure
 * and no buffer.
 */
#include "net/websocket_layer.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "net/websocket.h"

#include <stdlib.h>

typedef struct ws_layer {
    nv_layer layer;
    nv_upgrade to;
    bool made; /* its session was asked for */
    nv_ws_decoder decoder;
} ws_layer;

static ws_layer *ws_of(nv_layer *layer)
{
    return nv_container_of(layer, ws_layer, layer);
}

/* ---- down ---- */

/* A whole frame or nothing. */
static bool put_frame(ws_layer *ws, nv_ws_opcode opcode, nv_span payload)
{
    nv_buf *below = nv_layer_below(&ws->layer);
    size_t size = NV_WS_MASKED_HEAD_MAX + payload.len;
    uint8_t *at = nv_buf_reserve(below, size);
    if (!at) {
        return false;
    }
    nv_writer w = nv_writer_of(at, size);
    if (ws->to.client) {
        uint8_t mask[NV_WS_MASK_BYTES];
        nv_rng_fill(nv_rng_system(), mask, sizeof(mask));
        nv_ws_write_masked(&w, opcode, payload, mask);
    } else {
        nv_ws_write_head(&w, opcode, payload.len);
        nv_write_span(&w, payload);
    }
    nv_buf_commit(below, nv_writer_len(&w));
    return true;
}

static const char *ws_output(nv_layer *layer)
{
    ws_layer *ws = ws_of(layer);
    for (size_t room = nv_layer_room(layer); room > NV_WS_MASKED_HEAD_MAX && nv_buf_len(&layer->out) > 0;
         room = nv_layer_room(layer)) {
        nv_span payload = nv_span_first(nv_buf_span(&layer->out), room - NV_WS_MASKED_HEAD_MAX);
        if (!put_frame(ws, NV_WS_BINARY, payload)) {
            return "out of memory for its output";
        }
        nv_buf_consume(&layer->out, payload.len);
    }
    return NULL;
}

/* Beyond the room of a pause, so that a peer which asks without listening is no longer read from. If even that is used
 * up the answer is left out. [RFC 6455 5.5.3] */
static void answer_ping(ws_layer *ws)
{
    if (put_frame(ws, NV_WS_PONG_FRAME, nv_buf_span(&ws->decoder.control))) {
        nv_conn_wake(ws->layer.conn);
    }
}

/* ---- up ---- */

static const char *refuse(ws_layer *ws)
{
    nv_conn *conn = ws->layer.conn;
    if (nv_loop_may_say(conn->loop)) {
        nv_subject subject = nv_conn_subject(conn);
        nv_diag(NV_LEVEL_WARN, "websocket", &subject, "closed with %u: %s", ws->decoder.close_code, ws->decoder.why);
    }
    return ws->decoder.why;
}

static const char *take_event(ws_layer *ws, nv_ws_event event)
{
    switch (event) {
    case NV_WS_MORE:
    case NV_WS_FULL:
        break;
    case NV_WS_PING:
        answer_ping(ws);
        break;
    case NV_WS_END:
        ws->layer.conn->ended = true;
        nv_conn_wake(ws->layer.conn);
        break;
    case NV_WS_BAD:
        return refuse(ws);
    }
    return NULL;
}

static const char *ws_input(nv_layer *layer, nv_span bytes)
{
    ws_layer *ws = ws_of(layer);
    nv_conn *conn = layer->conn;
    nv_ws_event event = NV_WS_FULL;
    while (event == NV_WS_FULL || event == NV_WS_PING) {
        nv_window window = nv_conn_window(conn, nv_loop_frame_buf(conn->loop));
        if (window.room == 0) {
            return "out of memory for its input";
        }
        size_t len = 0;
        event = nv_ws_decode(&ws->decoder, &bytes, window.at, window.room, &len);
        const char *why = len > 0 ? nv_conn_input(conn, &window, len) : NULL;
        why = why ? why : take_event(ws, event);
        if (why) {
            return why;
        }
    }
    return NULL;
}

/* ---- the end ---- */

static void ws_goodbye(nv_layer *layer)
{
    ws_layer *ws = ws_of(layer);
    nv_conn *conn = layer->conn;
    if (conn->eof) {
        return; /* it hung up without a word */
    }
    uint16_t code = ws->decoder.ended ? ws->decoder.close_code : conn->loop->stopping ? NV_WS_GOING_AWAY : NV_WS_NORMAL;
    const char *why = ws->decoder.why ? ws->decoder.why : "";
    uint8_t text[NV_WS_CONTROL_MAX];
    nv_writer w = nv_writer_of(text, sizeof(text));
    if (code) {
        nv_write_u16_be(&w, code);
        nv_write_span(&w, nv_span_str(why)); /* left out if it is too long */
    }
    (void)put_frame(ws, NV_WS_CLOSE_FRAME, nv_writer_span(&w)); /* or without a word */
}

static void ws_abandoned(nv_layer *layer, const char *why)
{
    (void)layer; /* there is no handshake of its own: HTTP made it */
    (void)why;
}

static void ws_free(nv_layer *layer)
{
    ws_layer *ws = ws_of(layer);
    if (!ws->made && ws->to.dropped) {
        ws->to.dropped(ws->to.arg);
    }
    nv_ws_decoder_deinit(&ws->decoder);
    free(ws);
}

static const nv_layer_ops ws_ops = {ws_input, ws_output, ws_goodbye, ws_abandoned, ws_free};

nv_layer *nv_ws_layer_new(const nv_upgrade *to)
{
    ws_layer *ws = nv_calloc(1, sizeof(*ws));
    ws->layer.ops = &ws_ops;
    ws->to = *to;
    if (to->client) {
        nv_ws_decoder_init_client(&ws->decoder, to->max_message_bytes);
    } else {
        nv_ws_decoder_init(&ws->decoder, to->max_message_bytes);
    }
    return &ws->layer;
}

nv_session *nv_ws_layer_session(nv_layer *layer, nv_carrier *carrier)
{
    const nv_upgrade *to = &ws_of(layer)->to;
    ws_of(layer)->made = true;
    return to->make(to->arg, carrier);
}
