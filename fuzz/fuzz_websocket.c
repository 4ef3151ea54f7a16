/*
 * Whatever comes behind an upgrade: frames by any peer, in pieces of any size, and an MQTT session that eats their
 * payload. Input: one byte of piece size, one byte of window size, then the bytes of the WebSocket.
 *
 * What a decoder finds does not depend on the pieces: the same bytes in one piece and in many give the same payload,
 * the same pings and the same end, and between frames it owns no memory.
 */
#include "base/diag.h"
#include "net/websocket.h"
#include "support/fake_core.h"
#include "support/mqtt_pair.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_MESSAGE 5000u

typedef struct result {
    nv_buf payload;
    nv_buf pings;
    size_t ping_count;
    uint16_t close_code;
    bool ended;
} result;

static void append(nv_buf *buf, nv_span bytes)
{
    if (nv_buf_append(buf, bytes) != NV_OK) {
        abort();
    }
}

static void init(result *r)
{
    *r = (result){.ended = false};
    nv_buf_init(&r->payload, SIZE_MAX);
    nv_buf_init(&r->pings, SIZE_MAX);
}

static void deinit(result *r)
{
    nv_buf_deinit(&r->payload);
    nv_buf_deinit(&r->pings);
}

static void check_event(const nv_ws_decoder *d, nv_ws_event event, size_t len, size_t room)
{
    bool wrong = len > room || (event == NV_WS_FULL && len != room) ||
                 (event == NV_WS_BAD && (d->close_code < 1002 || d->close_code > 1011 || !d->why)) ||
                 nv_buf_len(&d->control) > NV_WS_CONTROL_MAX;
    if (wrong) {
        abort();
    }
}

static void eat(nv_ws_decoder *d, nv_span piece, size_t room, result *r, mqtt_pair *pair)
{
    static uint8_t window[512];
    for (nv_ws_event event = NV_WS_FULL; event == NV_WS_FULL || event == NV_WS_PING;) {
        size_t len = 0;
        event = nv_ws_decode(d, &piece, window, room, &len);
        check_event(d, event, len, room);
        append(&r->payload, nv_span_of(window, len));
        if (event == NV_WS_PING) {
            append(&r->pings, nv_buf_span(&d->control));
            r->ping_count++;
        }
        if (pair && pair->session && len > 0) {
            mqtt_pair_send(pair, nv_span_of(window, len));
        }
    }
}

static void decode(nv_span bytes, size_t step, size_t room, result *r, fake_core *core, mqtt_pair *pair)
{
    nv_ws_decoder d;
    nv_ws_decoder_init(&d, MAX_MESSAGE);
    for (; bytes.len > 0; bytes = nv_span_skip(bytes, step)) {
        eat(&d, nv_span_first(bytes, step), room, r, pair);
        if (pair) {
            fake_core_run(core);
            mqtt_pair_service(pair);
        }
    }
    r->ended = d.ended;
    r->close_code = d.close_code;
    nv_ws_decoder_deinit(&d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) {
        return 0;
    }
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    fake_core core;
    mqtt_pair pair;
    fake_core_init(&core, 1, &nv_limits_open);
    fake_register(&core, "d", "", NULL);
    fake_core_run(&core);
    mqtt_pair_open(&pair, &core.hub->loops[0], 1);
    nv_span bytes = nv_span_of(data + 2, size - 2);
    result whole;
    result pieces;
    init(&whole);
    init(&pieces);
    decode(bytes, bytes.len, 512, &whole, NULL, NULL);
    decode(bytes, (size_t)data[0] + 1, (size_t)data[1] + 1, &pieces, &core, &pair);
    bool same = nv_span_eq(nv_buf_span(&whole.payload), nv_buf_span(&pieces.payload)) &&
                nv_span_eq(nv_buf_span(&whole.pings), nv_buf_span(&pieces.pings)) &&
                whole.ping_count == pieces.ping_count && whole.ended == pieces.ended &&
                whole.close_code == pieces.close_code;
    if (!same) {
        abort();
    }
    mqtt_pair_cut(&pair);
    for (int i = 0; i < 4; i++) {
        fake_core_run(&core);
        mqtt_pair_service(&pair);
    }
    if (!mqtt_pair_gone(&pair)) {
        abort();
    }
    mqtt_pair_deinit(&pair);
    fake_core_deinit(&core);
    deinit(&whole);
    deinit(&pieces);
    return 0;
}
