/** Frames by transcript: what a decoder makes of bytes does not depend on the pieces that they come in. */
#include "net/websocket.h"

#include "base/alloc.h"
#include "base/rng.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define MAX_MESSAGE 1000u

/* ---- a transcript of what comes out: "d:hex" payload, "p:hex" ping, "e:code" goodbye, "b:code" broken rule ---- */

typedef struct transcript {
    nv_buf text;
    bool in_data; /* data that follows belongs to the same run */
    uint16_t bad;
    const char *why;
} transcript;

static void put_text(transcript *t, const char *text)
{
    assert_int_equal(nv_buf_append_str(&t->text, text), NV_OK);
}

static void put_hex(transcript *t, nv_span bytes)
{
    for (size_t i = 0; i < bytes.len; i++) {
        assert_int_equal(nv_buf_printf(&t->text, "%02x", bytes.ptr[i]), NV_OK);
    }
}

static void put_head(transcript *t, const char *head)
{
    put_text(t, nv_buf_len(&t->text) ? " " : "");
    put_text(t, head);
}

static void put_data(transcript *t, nv_span bytes)
{
    if (bytes.len > 0 && !t->in_data) {
        put_head(t, "d:");
    }
    t->in_data = t->in_data || bytes.len > 0;
    put_hex(t, bytes);
}

static void put_event(transcript *t, const nv_ws_decoder *d, nv_ws_event event)
{
    char code[16];
    (void)snprintf(code, sizeof(code), "%c:%u", event == NV_WS_END ? 'e' : 'b', d->close_code);
    switch (event) {
    case NV_WS_MORE:
    case NV_WS_FULL:
        return;
    case NV_WS_PING:
        put_head(t, "p:");
        put_hex(t, nv_buf_span(&d->control));
        break;
    case NV_WS_END:
        put_head(t, code);
        break;
    case NV_WS_BAD:
        put_head(t, code);
        assert_true(strlen(d->why) > 0 && strlen(d->why) + 2 <= NV_WS_CONTROL_MAX);
        break;
    }
    t->in_data = false;
}

/** Bytes come in pieces of @p step, payload leaves through a window of @p room. The caller frees the text. */
static char *decode(nv_span bytes, size_t step, size_t room, bool client)
{
    uint8_t window[4096];
    transcript t = {.in_data = false};
    nv_ws_decoder d;
    nv_buf_init(&t.text, 1 << 22);
    if (client) {
        nv_ws_decoder_init_client(&d, MAX_MESSAGE);
    } else {
        nv_ws_decoder_init(&d, MAX_MESSAGE);
    }
    while (bytes.len > 0) {
        nv_span piece = nv_span_first(bytes, step);
        bytes = nv_span_skip(bytes, step);
        for (nv_ws_event event = NV_WS_FULL; event == NV_WS_FULL || event == NV_WS_PING;) {
            size_t len = 0;
            event = nv_ws_decode(&d, &piece, window, room, &len);
            assert_true(len <= room);
            assert_true(event != NV_WS_FULL || len == room);
            put_data(&t, nv_span_of(window, len));
            put_event(&t, &d, event);
        }
        assert_true(piece.len == 0 || d.ended);
    }
    put_text(&t, d.ended ? "" : d._held > 0 ? " ..." : " ."); /* inside a frame, or between two */
    assert_true(d._held > 0 || d._frames == NULL);            /* between them nothing is owned */
    nv_ws_decoder_deinit(&d);
    char *text = nv_span_dup(nv_buf_span(&t.text));
    nv_buf_deinit(&t.text);
    return text;
}

static size_t from_hex(const char *hex, uint8_t *out, size_t size)
{
    size_t len = 0;
    for (const char *at = hex; *at; at++) {
        if (*at != ' ') {
            unsigned value = 0;
            assert_int_equal(sscanf(at, "%2x", &value), 1);
            assert_true(len < size);
            out[len++] = (uint8_t)value;
            at++;
        }
    }
    return len;
}

typedef struct transcript_row {
    const char *in;
    const char *out;
} transcript_row;

static const transcript_row transcripts[] = {
    /* the examples of RFC 6455 section 5.7, as binary messages of a client */
    {"82 85 37fa213d 7f9f4d5158", "d:48656c6c6f ."},
    {"02 83 00000000 48656c 80 82 00000000 6c6f", "d:48656c6c6f ."},
    {"89 85 37fa213d 7f9f4d5158", "p:48656c6c6f ."},
    {"8a 85 37fa213d 7f9f4d5158", " ."}, /* a pong that nobody asked for */
    /* [5.4] control frames between fragments; several frames at once; empty ones */
    {"02 81 00000000 41 89 80 01020304 00 81 00000000 42 80 81 00000000 43", "d:41 p: d:4243 ."},
    {"82 81 00000000 41 82 81 00000000 42 82 80 00000000 82 81 00000000 43", "d:414243 ."},
    {"02 80 00000000 00 80 00000000 80 80 00000000 82 81 00000000 44", "d:44 ."},
    /* a mask that turns with the offset */
    {"82 86 01020304 000000000000", "d:010203040102 ."},
    /* incomplete ones */
    {"82", " ..."},
    {"82 85 37fa213d 7f9f", "d:4865 ..."},
    {"02 81 00000000 41", "d:41 ."}, /* between the frames of a message */
    {"89 85 37fa213d 7f9f", " ..."},
    /* [5.5.1] goodbyes; what follows is dropped */
    {"88 80 00000000", "e:0"},
    {"88 82 00000000 03e8", "e:1000"},
    {"88 87 00000000 03e9 6f76 6572 21 82 81 00000000 41", "e:1001"},
    {"88 82 00000000 0bb8 ff ff ff", "e:3000"},
    {"88 82 00000000 1387", "e:4999"},
    {"82 81 00000000 41 88 82 00000000 03e8", "d:41 e:1000"},
    {"02 81 00000000 41 88 82 00000000 03e8", "d:41 e:1000"}, /* in the middle of a message */
    /* [7.4] codes that nobody may send */
    {"88 81 00000000 03", "b:1002"},
    {"88 82 00000000 0000", "b:1002"},
    {"88 82 00000000 03e7", "b:1002"},
    {"88 82 00000000 03ec", "b:1002"},
    {"88 82 00000000 03ed", "b:1002"},
    {"88 82 00000000 03ee", "b:1002"},
    {"88 82 00000000 03f7", "b:1002"},
    {"88 82 00000000 07d0", "b:1002"},
    {"88 82 00000000 1388", "b:1002"},
    /* text */
    {"81 85 37fa213d 7f9f4d5158", "b:1003"},
    {"82 81 00000000 41 01 80 00000000", "d:41 b:1003"},
    /* [5.1] no mask */
    {"82 01 41", "b:1002"},
    {"82 00", "b:1002"},
    {"89 00", "b:1002"},
    {"88 02 03e8", "b:1002"},
    /* [5.2] reserved bits, unknown opcodes, lengths that are not the shortest */
    {"c2 81 00000000 41", "b:1002"},
    {"a2 81 00000000 41", "b:1002"},
    {"92 81 00000000 41", "b:1002"},
    {"d9 80 00000000", "b:1002"},
    {"83 81 00000000 41", "b:1002"},
    {"87 80 00000000", "b:1002"},
    {"8b 80 00000000", "b:1002"},
    {"8f 81 00000000 41", "b:1002"},
    {"82 fe 0005 00000000 4142434445", "b:1002"},
    {"82 ff 0000000000000005 00000000 4142434445", "b:1002"},
    {"82 ff 8000000000000000 00000000 41", "b:1002"},
    /* [5.4] fragments out of order */
    {"80 81 00000000 41", "b:1002"},
    {"00 81 00000000 41", "b:1002"},
    {"02 81 00000000 41 82 81 00000000 42", "d:41 b:1002"},
    {"02 81 00000000 41 80 80 00000000 80 80 00000000", "d:41 b:1002"},
    /* [5.5] control frames in fragments, or too long */
    {"09 80 00000000", "b:1002"},
    {"08 82 00000000 03e8", "b:1002"},
    {"89 fe 007e 00000000", "b:1002"},
    {"88 ff 0000000000010000 00000000", "b:1002"},
    /* longer than allowed, by what is announced: 1,001 bytes, the most that 63 bits can say, and in fragments */
    {"82 fe 03e9 00000000 41", "b:1009"},
    {"82 ff 7fffffffffffffff 00000000 41", "b:1009"},
    {"02 81 00000000 41 00 fe 03e7 00000000 42", "d:4142 ..."},
    {"02 81 00000000 41 00 fe 03e8 00000000 42", "d:41 b:1009"},
    {"02 81 00000000 41 80 81 00000000 42 82 fe 03e8 00000000 43", "d:414243 ..."}, /* each message for itself */
    /* refused by the head: neither payload nor mask is waited for */
    {"82 fe 03e9", "b:1009"},
    {"82 ff 7fffffffffffffff", "b:1009"},
    {"82 81 00000000 41 82 fe 03e9", "d:41 b:1009"},
    {"02 81 00000000 41 00 fe 03e8", "d:41 b:1009"},
    {"89 80 00000000 82 ff 0000000000010000", "p: b:1009"},
    {"81 85", "b:1003"},
    {"82 05", "b:1002"},
    {"c2 85", "b:1002"},
    {"82 fe 03", " ..."},
    {"02 fe 03e8", " ..."},
};

/* what a client makes of frames: its peer must not mask [5.1], all else is the same */
static const transcript_row client_transcripts[] = {
    {"82 05 48656c6c6f", "d:48656c6c6f ."},
    {"02 03 48656c 89 01 41 80 02 6c6f", "d:48656c p:41 d:6c6f ."},
    {"82 00 82 01 44", "d:44 ."},
    {"8a 00", " ."},
    {"82 7e 03e9", "b:1009"},
    {"82 85", "b:1002"},
    {"82 05 48", "d:48 ..."},
    {"82", " ..."},
    {"82 7e 007e", " ..."},
    {"88 00", "e:0"},
    {"88 02 03e8 82 01 41", "e:1000"},
    {"88 02 03ed", "b:1002"},
    {"82 85 37fa213d 7f9f4d5158", "b:1002"},
    {"82 01 41 82 81 00000000 42", "d:41 b:1002"},
    {"89 80 00000000", "b:1002"},
    {"81 01 41", "b:1003"},
    {"92 01 41", "b:1002"},
    {"80 01 41", "b:1002"},
    {"82 7e 0001 41", "b:1002"},
    {"82 7e 03e9 41", "b:1009"},
};

static void check_transcript(const transcript_row *row, bool client)
{
    static const size_t rooms[] = {1, 2, 3, 7, 4096};
    uint8_t bytes[256];
    size_t len = from_hex(row->in, bytes, sizeof(bytes));
    for (size_t step = 1; step <= len; step++) {
        for (size_t room = 0; room < NV_COUNT_OF(rooms); room++) {
            /* a copy of its own, so that a sanitizer sees reads beyond it */
            uint8_t *own = nv_malloc(len);
            memcpy(own, bytes, len);
            char *got = decode(nv_span_of(own, len), step, rooms[room], client);
            if (strcmp(got, row->out) != 0) {
                fail_msg("%s, step %zu, room %zu: %s, not %s: %s", client ? "client" : "server", step, rooms[room],
                         row->in, row->out, got);
            }
            free(got);
            free(own);
        }
    }
}

/* conformance: mqtt.md 11 */
static void test_transcripts(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(transcripts); i++) {
        check_transcript(&transcripts[i], false);
    }
    for (size_t i = 0; i < NV_COUNT_OF(client_transcripts); i++) {
        check_transcript(&client_transcripts[i], true);
    }
}

/* ---- frames of every length, in random pieces ---- */

static void put_frame(nv_buf *out, bool fin, nv_ws_opcode opcode, nv_span payload, nv_rng *rng)
{
    uint8_t head[NV_WS_HEAD_MAX];
    uint8_t mask[4];
    nv_writer w = nv_writer_of(head, sizeof(head));
    nv_ws_write_head(&w, opcode, payload.len);
    head[0] = (uint8_t)(fin ? head[0] : head[0] & 0x7f);
    head[1] |= 0x80;
    nv_rng_fill(rng, mask, sizeof(mask));
    assert_int_equal(nv_buf_append(out, nv_writer_span(&w)), NV_OK);
    assert_int_equal(nv_buf_append(out, nv_span_of(mask, sizeof(mask))), NV_OK);
    for (size_t i = 0; i < payload.len; i++) {
        uint8_t byte = payload.ptr[i] ^ mask[i % 4];
        assert_int_equal(nv_buf_append(out, nv_span_of(&byte, 1)), NV_OK);
    }
}

static size_t random_len(nv_rng *rng)
{
    static const size_t edges[] = {0, 1, 125, 126, 127, 4090, 4096, 4097, 65535, 65536, 65537};
    uint64_t dice = nv_rng_u64(rng);
    return dice % 2 ? edges[dice / 2 % NV_COUNT_OF(edges)] : dice / 2 % 300;
}

typedef struct stream {
    nv_buf frames;
    nv_buf payload; /* of all messages */
    nv_buf pings;   /* of all pings */
} stream;

static void make_stream(stream *s, nv_rng *rng)
{
    static uint8_t bytes[65537];
    bool open = false;
    for (int i = 0; i < 30; i++) {
        nv_rng_fill(rng, bytes, sizeof(bytes));
        if (nv_rng_u64(rng) % 4 == 0) {
            nv_span text = nv_span_of(bytes, nv_rng_u64(rng) % (NV_WS_CONTROL_MAX + 1));
            put_frame(&s->frames, true, NV_WS_PING_FRAME, text, rng);
            assert_int_equal(nv_buf_append(&s->pings, text), NV_OK);
        }
        nv_span payload = nv_span_of(bytes, random_len(rng));
        bool fin = nv_rng_u64(rng) % 3 != 0;
        put_frame(&s->frames, fin, open ? NV_WS_CONTINUATION : NV_WS_BINARY, payload, rng);
        assert_int_equal(nv_buf_append(&s->payload, payload), NV_OK);
        open = !fin;
    }
}

static void check_stream(const stream *s, nv_rng *rng)
{
    static uint8_t window[8192];
    nv_ws_decoder d;
    nv_buf payload;
    nv_buf pings;
    nv_buf_init(&payload, SIZE_MAX);
    nv_buf_init(&pings, SIZE_MAX);
    nv_ws_decoder_init(&d, (size_t)10 << 20);
    nv_span bytes = nv_buf_span(&s->frames);
    while (bytes.len > 0) {
        size_t step = 1 + nv_rng_u64(rng) % 9000;
        nv_span piece = nv_span_first(bytes, step);
        bytes = nv_span_skip(bytes, step);
        for (nv_ws_event event = NV_WS_FULL; event == NV_WS_FULL || event == NV_WS_PING;) {
            size_t len = 0;
            event = nv_ws_decode(&d, &piece, window, 1 + nv_rng_u64(rng) % sizeof(window), &len);
            assert_int_equal(nv_buf_append(&payload, nv_span_of(window, len)), NV_OK);
            if (event == NV_WS_PING) {
                assert_int_equal(nv_buf_append(&pings, nv_buf_span(&d.control)), NV_OK);
            }
            assert_true(event != NV_WS_BAD && event != NV_WS_END);
        }
    }
    assert_null(d._frames);
    assert_true(nv_span_eq(nv_buf_span(&payload), nv_buf_span(&s->payload)));
    assert_true(nv_span_eq(nv_buf_span(&pings), nv_buf_span(&s->pings)));
    nv_ws_decoder_deinit(&d);
    nv_buf_deinit(&payload);
    nv_buf_deinit(&pings);
}

static void test_random_streams(void **state)
{
    (void)state;
    nv_seeded_rng rng;
    nv_seeded_rng_init(&rng, 6455);
    for (int i = 0; i < 40; i++) {
        stream s;
        nv_buf_init(&s.frames, SIZE_MAX);
        nv_buf_init(&s.payload, SIZE_MAX);
        nv_buf_init(&s.pings, SIZE_MAX);
        make_stream(&s, &rng.rng);
        check_stream(&s, &rng.rng);
        nv_buf_deinit(&s.frames);
        nv_buf_deinit(&s.payload);
        nv_buf_deinit(&s.pings);
    }
}

/* ---- heads that we write, and memory ---- */

static void test_heads(void **state)
{
    (void)state;
    static const struct {
        size_t len;
        const char *hex;
    } rows[] = {
        {0, "8200"},       {125, "827d"},       {126, "827e007e"},
        {256, "827e0100"}, {65535, "827effff"}, {65536, "827f0000000000010000"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint8_t head[NV_WS_HEAD_MAX];
        uint8_t expected[NV_WS_HEAD_MAX];
        nv_writer w = nv_writer_of(head, sizeof(head));
        nv_ws_write_head(&w, NV_WS_BINARY, rows[i].len);
        size_t len = from_hex(rows[i].hex, expected, sizeof(expected));
        assert_int_equal(w.err, NV_OK);
        assert_int_equal(nv_writer_len(&w), len);
        assert_memory_equal(head, expected, len);
    }
}

/** The example of RFC 6455 section 5.7, and every kind of length: what a client writes a server reads. */
static void test_masked(void **state)
{
    (void)state;
    static const uint8_t mask[NV_WS_MASK_BYTES] = {0x37, 0xfa, 0x21, 0x3d};
    static const uint8_t hello[] = {0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58};
    static const size_t lens[] = {0, 1, 125, 126, 65535, 65536};
    static uint8_t payload[65536];
    static uint8_t frame[sizeof(payload) + NV_WS_MASKED_HEAD_MAX];
    static uint8_t got[sizeof(payload)];
    nv_writer w = nv_writer_of(frame, sizeof(frame));
    nv_ws_write_masked(&w, NV_WS_BINARY, nv_span_str("Hello"), mask);
    assert_int_equal(nv_writer_len(&w), sizeof(hello));
    assert_memory_equal(frame, hello, sizeof(hello));
    for (size_t i = 0; i < sizeof(payload); i++) {
        payload[i] = (uint8_t)(i * 7);
    }
    for (size_t i = 0; i < NV_COUNT_OF(lens); i++) {
        nv_ws_decoder d;
        size_t len = 0;
        w = nv_writer_of(frame, sizeof(frame));
        nv_ws_write_masked(&w, NV_WS_BINARY, nv_span_of(payload, lens[i]), mask);
        nv_span bytes = nv_writer_span(&w);
        nv_ws_decoder_init(&d, sizeof(payload));
        size_t done = 0;
        for (nv_ws_event event = NV_WS_FULL; event == NV_WS_FULL; done += len) {
            event = nv_ws_decode(&d, &bytes, got + done, sizeof(got) - done, &len);
            assert_true(event == NV_WS_FULL || event == NV_WS_MORE);
        }
        assert_int_equal(done, lens[i]);
        assert_memory_equal(got, payload, done);
        nv_ws_decoder_deinit(&d);
    }
    w = nv_writer_of(frame, 10); /* no room: sticky, nothing behind it is touched */
    frame[10] = 0xa5;
    nv_ws_write_masked(&w, NV_WS_BINARY, nv_span_str("Hello"), mask);
    assert_int_equal(w.err, NV_E_TOO_BIG);
    assert_int_equal(frame[10], 0xa5);
}

/** A connection between two messages holds its structure and nothing else; one inside a frame holds a few KiB. */
static void test_memory(void **state)
{
    (void)state;
    static const uint8_t whole[] = {0x82, 0x81, 0, 0, 0, 0, 0x41, 0x89, 0x81, 0, 0, 0, 0, 0x42};
    static const uint8_t begun[] = {0x82, 0xfe, 0x03, 0xe8, 0, 0, 0, 0, 0x41};
    enum { COUNT = 100 };
    static nv_ws_decoder decoders[COUNT];
    uint8_t out[16];
    size_t len = 0;
    size_t before = mallinfo2().uordblks;
    for (size_t i = 0; i < COUNT; i++) {
        nv_span bytes = nv_span_of(whole, sizeof(whole));
        nv_ws_decoder_init(&decoders[i], MAX_MESSAGE);
        while (nv_ws_decode(&decoders[i], &bytes, out, sizeof(out), &len) != NV_WS_MORE) {
        }
    }
    assert_int_equal(mallinfo2().uordblks, before);
    assert_true(sizeof(nv_ws_decoder) < 200);
    for (size_t i = 0; i < COUNT; i++) {
        nv_span bytes = nv_span_of(begun, sizeof(begun));
        assert_int_equal(nv_ws_decode(&decoders[i], &bytes, out, sizeof(out), &len), NV_WS_MORE);
    }
    assert_true((mallinfo2().uordblks - before) / COUNT < 8192); /* 0 under a sanitizer's allocator */
    for (size_t i = 0; i < COUNT; i++) {
        nv_ws_decoder_deinit(&decoders[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transcripts), cmocka_unit_test(test_random_streams), cmocka_unit_test(test_heads),
        cmocka_unit_test(test_masked),      cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
