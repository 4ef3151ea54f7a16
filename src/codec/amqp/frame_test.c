/** Protocol headers and frames of AMQP 1.0. */
#include "base/bytes.h"
#include "codec/amqp/frame.h"
#include "codec/amqp/vectors.h"

static const struct {
    const char *hex;
    nv_err err;
    nv_amqp_protocol protocol;
} headers[] = {
    {"414D5150 00 010000", NV_OK, NV_AMQP_PROTOCOL_AMQP},
    {"414D5150 02 010000", NV_OK, NV_AMQP_PROTOCOL_TLS},
    {"414D5150 03 010000", NV_OK, NV_AMQP_PROTOCOL_SASL},
    {"414D5150 03 010000 00000020", NV_OK, NV_AMQP_PROTOCOL_SASL},
    {"", NV_E_MORE, 0},
    {"41", NV_E_MORE, 0},
    {"414D5150 03 0100", NV_E_MORE, 0},
    {"16", NV_E_SYNTAX, 0}, /* TLS */
    {"10", NV_E_SYNTAX, 0}, /* MQTT */
    {"474554202F", NV_E_SYNTAX, 0},
    {"414D5151", NV_E_SYNTAX, 0},
    {"414D5150 01", NV_E_UNSUPPORTED, 0},
    {"414D5150 00 000901", NV_E_UNSUPPORTED, 0}, /* AMQP 0.9.1 */
    {"414D5150 00 010001", NV_E_UNSUPPORTED, 0},
    {"414D5150 03 02", NV_E_UNSUPPORTED, 0},
};

static void protocol_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(headers); i++) {
        nv_span bytes = bytes_of(headers[i].hex);
        nv_amqp_protocol protocol = NV_AMQP_PROTOCOL_AMQP;
        nv_err err = nv_amqp_read_header(bytes, &protocol);
        if (err != headers[i].err || (err == NV_OK && protocol != headers[i].protocol)) {
            fail_msg("%s: %s", headers[i].hex, nv_err_name(err));
        }
        if (err == NV_OK) {
            uint8_t again[NV_AMQP_HEADER_SIZE];
            nv_amqp_write_header(again, protocol);
            assert_memory_equal(again, bytes.ptr, sizeof(again));
        }
        release(bytes);
    }
}

static const struct {
    const char *name;
    const char *hex;
    nv_err err;
    size_t size;
} wire[] = {
    {"a heartbeat", "00000008 02 00 0000", NV_OK, 8},
    {"a heartbeat and more", "00000008 02 00 0000 00", NV_OK, 8},
    {"a channel", "00000009 02 00 1234 40", NV_OK, 9},
    {"SASL", "00000009 02 01 1234 40", NV_OK, 9},
    {"an extended header", "0000000D 03 00 0000 FFFFFFFF 40", NV_OK, 13},
    {"all of it header", "0000000C 03 00 0000 FFFFFFFF", NV_OK, 12},
    {"nothing", "", NV_E_MORE, 0},
    {"three bytes", "000000", NV_E_MORE, 0},
    {"its size", "00000009", NV_E_MORE, 9},
    {"half its header", "00000009 02 00", NV_E_MORE, 9},
    {"all but a byte", "00000009 02 00 0000", NV_E_MORE, 9},
    {"as large as may be", "00000200 02 00 0000", NV_E_MORE, 512},
    {"larger", "00000201", NV_E_TOO_BIG, 513},
    {"4 GiB", "FFFFFFFF 02 00 0000", NV_E_TOO_BIG, UINT32_MAX},
    {"a size of 0", "00000000 02 00 0000", NV_E_SYNTAX, 0},
    {"a size of 7", "00000007", NV_E_SYNTAX, 7},
    {"data offset 1", "00000009 01 00 0000", NV_E_SYNTAX, 9},
    {"data offset 0", "00000008 00 00 0000", NV_E_SYNTAX, 8},
    {"data offset beyond the frame", "0000000B 03 00 0000 FFFFFF", NV_E_SYNTAX, 11},
    {"type 2", "00000008 02 02 0000", NV_E_SYNTAX, 8},
};

static void frames_by_hand(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(wire); i++) {
        nv_span bytes = bytes_of(wire[i].hex);
        nv_amqp_frame frame;
        nv_err err = nv_amqp_read_frame(bytes, NV_AMQP_MIN_MAX_FRAME, &frame);
        if (err != wire[i].err || frame.size != wire[i].size) {
            fail_msg("%s: %s, %zu", wire[i].name, nv_err_name(err), frame.size);
        }
        if (err == NV_OK) {
            assert_int_equal(frame.type, bytes.ptr[5]);
            assert_int_equal(frame.channel, frame.type == NV_AMQP_FRAME_SASL ? 0 : nv_load_u16_be(bytes.ptr + 6));
            assert_ptr_equal(frame.body.ptr + frame.body.len, bytes.ptr + frame.size);
            assert_int_equal(frame.body.len, frame.size - bytes.ptr[4] * 4u);
        }
        release(bytes);
    }
}

static void a_frame_is_written(void **state)
{
    (void)state;
    uint8_t memory[32];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_write_u8(&w, 0xEE); /* frames follow one another */
    size_t mark = nv_amqp_begin_frame(&w, NV_AMQP_FRAME_SASL, 0x0102);
    nv_amqp_put_boolean(&w, true);
    nv_amqp_end_frame(&w, mark);
    assert_int_equal(w.err, NV_OK);
    assert_hex("frame", nv_writer_span(&w), "EE 00000009 02 01 0102 41");
    uint8_t header[NV_AMQP_FRAME_HEADER_SIZE];
    nv_amqp_write_frame_header(header, NV_AMQP_FRAME_AMQP, 7, 0x01020304);
    assert_hex("header", nv_span_of(header, sizeof(header)), "01020304 02 00 0007");
    w = nv_writer_of(memory, 7);
    nv_amqp_end_frame(&w, nv_amqp_begin_frame(&w, NV_AMQP_FRAME_AMQP, 0));
    assert_int_equal(w.err, NV_E_TOO_BIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(protocol_headers),
        cmocka_unit_test(frames_by_hand),
        cmocka_unit_test(a_frame_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
