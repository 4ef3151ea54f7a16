/** Vectors of the AMQP 1.0 codec. */
#include "codec/amqp/frame.h"
#include "codec/amqp/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void an_open_is_written_whole(void **state)
{
    (void)state;
    uint8_t memory[300];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_open open = {.container_id = NV_SPAN_LIT("c")};
    NV_AMQP_SET(&open, open, channel_max, 7);
    nv_amqp_encode_open(&w, &open);
    static const uint8_t expected[] = {0x00, 0x53, 0x10, 0xc0, 15,   10,   0xa1, 1,    'c',  0x40,
                                       0x40, 0x60, 0x00, 0x07, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40};
    assert_int_equal(w.err, NV_OK);
    assert_int_equal(nv_writer_len(&w), sizeof(expected));
    assert_memory_equal(memory, expected, sizeof(expected));
    nv_reader r = nv_reader_of(nv_writer_span(&w));
    nv_amqp_performative p;
    assert_int_equal(nv_amqp_decode(&r, &p), NV_OK);
    assert_int_equal(p.code, NV_AMQP_OPEN);
    assert_true(nv_span_eq_str(p.open.container_id, "c"));
    assert_int_equal(p.open.channel_max, 7);
    assert_false(NV_AMQP_HAS(&p.open, open, max_frame_size));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_open_is_written_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
