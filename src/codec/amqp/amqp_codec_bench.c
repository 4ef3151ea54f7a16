/* What the codec costs per event, in and out: nanoseconds of one core. Prints; judges nothing.
 * Usage: amqp_codec_bench [ROUNDS] */
#include "codec/amqp/frame.h"
#include "codec/amqp/message.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>

#define BODY 256u

/** Keeps what was computed from being optimised away. */
static volatile uint64_t sink;

static void report(const char *what, uint64_t rounds, int64_t started_us)
{
    int64_t spent_us = nv_mono_us(nv_clock_system()) - started_us;
    (void)printf("%-44s %7.1f ns\n", what, (double)spent_us * 1e3 / (double)rounds);
}

/** Telemetry as an SDK sends it: a message id, a content type, two properties, 256 bytes. */
static size_t write_message(uint8_t *memory, size_t size)
{
    static const uint8_t body[BODY];
    nv_writer w = nv_writer_of(memory, size);
    nv_amqp_properties properties = {.to = NV_SPAN_LIT("\xa1\x1b/devices/d1/messages/events"),
                                     .message_id = NV_SPAN_LIT("\x98"
                                                               "0123456789abcdef"),
                                     .content_type = NV_SPAN_LIT("application/json"),
                                     .content_encoding = NV_SPAN_LIT("utf-8")};
    nv_amqp_put_properties_section(&w, &properties);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&w, "temperatureAlert");
    nv_amqp_put_string_of(&w, "true");
    nv_amqp_put_string_of(&w, "level");
    nv_amqp_put_string_of(&w, "normal");
    nv_amqp_end_map(&w, mark, 4);
    nv_amqp_put_data_head(&w, sizeof(body));
    nv_write_span(&w, nv_span_of(body, sizeof(body)));
    return nv_writer_len(&w);
}

static nv_amqp_transfer a_transfer(uint32_t id, const uint8_t tag[4])
{
    nv_amqp_transfer transfer = {.present = 0};
    NV_AMQP_SET(&transfer, transfer, handle, 3);
    NV_AMQP_SET(&transfer, transfer, delivery_id, id);
    transfer.delivery_tag = nv_span_of(tag, 4);
    NV_AMQP_SET(&transfer, transfer, message_format, 0);
    NV_AMQP_SET(&transfer, transfer, settled, false);
    NV_AMQP_SET(&transfer, transfer, more, false);
    return transfer;
}

static void bench_in(uint64_t rounds)
{
    uint8_t frame[1024];
    nv_writer w = nv_writer_of(frame, sizeof(frame));
    size_t mark = nv_amqp_begin_frame(&w, NV_AMQP_FRAME_AMQP, 1);
    nv_amqp_transfer transfer = a_transfer(70000, (const uint8_t *)"tag1");
    nv_amqp_encode_transfer(&w, &transfer);
    size_t head = nv_writer_len(&w);
    uint8_t message[1024];
    size_t len = write_message(message, sizeof(message));
    nv_write_span(&w, nv_span_of(message, len));
    nv_amqp_end_frame(&w, mark);
    size_t total = nv_writer_len(&w);

    int64_t started = nv_mono_us(nv_clock_system());
    for (uint64_t i = 0; i < rounds; i++) {
        nv_reader r = nv_reader_of(nv_span_of(frame + 8, head - 8));
        nv_amqp_performative p;
        sink += nv_amqp_decode(&r, &p) == NV_OK ? p.transfer.delivery_id : 0;
    }
    report("decode a transfer", rounds, started);

    started = nv_mono_us(nv_clock_system());
    for (uint64_t i = 0; i < rounds; i++) {
        nv_amqp_message m;
        sink += nv_amqp_message_read(nv_span_of(message, len), &m) == NV_OK ? m.body.len : 0;
    }
    report("find the sections of a message", rounds, started);

    started = nv_mono_us(nv_clock_system());
    for (uint64_t i = 0; i < rounds; i++) {
        nv_amqp_frame f;
        nv_amqp_performative p;
        nv_amqp_message m;
        bool ok = nv_amqp_read_frame(nv_span_of(frame, total), 65536, &f) == NV_OK;
        nv_reader r = nv_reader_of(f.body);
        ok = ok && nv_amqp_decode(&r, &p) == NV_OK;
        ok = ok && nv_amqp_message_read(nv_span_of(r.at, nv_reader_left(&r)), &m) == NV_OK;
        sink += ok ? m.body.len : 0;
    }
    report("frame, transfer and message in", rounds, started);
}

static void bench_out(uint64_t rounds)
{
    uint8_t memory[1024];
    int64_t started = nv_mono_us(nv_clock_system());
    for (uint64_t i = 0; i < rounds; i++) {
        uint8_t tag[4];
        memcpy(tag, &i, sizeof(tag));
        nv_writer w = nv_writer_of(memory, sizeof(memory));
        size_t mark = nv_amqp_begin_frame(&w, NV_AMQP_FRAME_AMQP, 1);
        nv_amqp_transfer transfer = a_transfer((uint32_t)i, tag);
        nv_amqp_encode_transfer(&w, &transfer);
        nv_amqp_end_frame(&w, mark);
        sink += nv_writer_len(&w);
    }
    report("encode a frame and transfer head", rounds, started);

    started = nv_mono_us(nv_clock_system());
    for (uint64_t i = 0; i < rounds; i++) {
        nv_writer w = nv_writer_of(memory, sizeof(memory));
        size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_MESSAGE_ANNOTATIONS);
        nv_amqp_put_symbol_of(&w, "x-opt-sequence-number");
        nv_amqp_put_long(&w, (int64_t)i);
        nv_amqp_put_symbol_of(&w, "x-opt-offset");
        nv_amqp_put_string_of(&w, "123456789");
        nv_amqp_put_symbol_of(&w, "x-opt-enqueued-time");
        nv_amqp_put_timestamp(&w, (int64_t)i);
        nv_amqp_put_symbol_of(&w, "iothub-connection-device-id");
        nv_amqp_put_string_of(&w, "device-0001");
        nv_amqp_end_map(&w, mark, 8);
        sink += nv_writer_len(&w);
    }
    report("four annotations", rounds, started);

    started = nv_mono_us(nv_clock_system());
    for (uint64_t i = 0; i < rounds; i++) {
        nv_writer w = nv_writer_of(memory, sizeof(memory));
        nv_amqp_disposition disposition = {.state = NV_SPAN_LIT("\x00\x53\x24\x45")};
        NV_AMQP_SET(&disposition, disposition, role, true);
        NV_AMQP_SET(&disposition, disposition, first, (uint32_t)i);
        NV_AMQP_SET(&disposition, disposition, last, (uint32_t)i);
        NV_AMQP_SET(&disposition, disposition, settled, true);
        nv_amqp_encode_disposition(&w, &disposition);
        sink += nv_writer_len(&w);
    }
    report("encode a disposition", rounds, started);
}

int main(int argc, char **argv)
{
    uint64_t rounds = 10000000;
    if (argc > 1 && (!nv_span_to_u64(nv_span_str(argv[1]), &rounds) || rounds == 0)) {
        (void)fprintf(stderr, "usage: %s [ROUNDS]\n", argv[0]);
        return 2;
    }
    bench_in(rounds);
    bench_out(rounds);
    return 0;
}
