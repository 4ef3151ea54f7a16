/**
 * What one message of telemetry costs over AMQP in engine, session and core, without network and disk: N connections,
 * 16 messages of 256 bytes per input call, one stored() per connection and batch. Prints nanoseconds and allocations
 * per message. The frames are made in advance; only their delivery-ids (and message-ids) are written anew.
 * Usage: amqp_telemetry_speed [CONNECTIONS [ROUNDS]]
 */
#include "support/amqp_device_rig.h"

#include <malloc.h>

#define WINDOW 16
#define BODY   256

static size_t allocations;

/* Counts what the hub allocates while it is measured: glibc lets a program stand before its own. */
extern void *__libc_malloc(size_t size);
void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}

typedef enum variant { PLAIN, PROPERTIES, NEW_ID, BATCH_OF_ONE, BATCH_OF_16, VARIANTS } variant;
static const char *const names[VARIANTS] = {"body only", "same properties", "a new message-id each", "batches of one",
                                            "batches of 16"};

/* One input call of a connection, and where the numbers stand in it. */
typedef struct input {
    uint8_t bytes[32768];
    size_t len;
    size_t frames;
    size_t messages; /* of all frames */
    size_t id_at[WINDOW];
    size_t message_id_at[WINDOW]; /* 0: none */
} input;

static void put_message(nv_writer *w, variant v, size_t *message_id_at)
{
    static const uint8_t body[BODY];
    if (v != PLAIN) {
        uint8_t id[40];
        nv_writer i = nv_writer_of(id, sizeof(id));
        nv_amqp_put_string_of(&i, "00000000-0000-0000-0000-000000000000");
        nv_amqp_properties p = {.content_type = nv_span_str("application/json"),
                                .content_encoding = nv_span_str("utf-8")};
        if (v == NEW_ID) {
            p.message_id = nv_writer_span(&i);
        }
        size_t before = nv_writer_len(w);
        nv_amqp_put_properties_section(w, &p);
        for (size_t at = before; v == NEW_ID && at + 8 < nv_writer_len(w) && *message_id_at == 0; at++) {
            if (memcmp(w->start + at, "00000000-", 9) == 0) {
                *message_id_at = at;
            }
        }
        size_t mark = nv_amqp_begin_map_section(w, NV_AMQP_APPLICATION_PROPERTIES);
        nv_amqp_put_string_of(w, "line");
        nv_amqp_put_string_of(w, "seven");
        nv_amqp_end_map(w, mark, 2);
    }
    nv_amqp_put_data_head(w, BODY);
    nv_write_span(w, nv_span_of(body, BODY));
}

static void put_frame(nv_writer *w, input *in, variant v)
{
    size_t n = in->frames++;
    size_t mark = nv_amqp_begin_frame(w, NV_AMQP_FRAME_AMQP, 0);
    static const uint8_t head[] = {0x00, 0x53, NV_AMQP_TRANSFER, 0xc0, 19, 5, 0x43, 0x70, 0, 0, 0, 0};
    in->id_at[n] = nv_writer_len(w) + 8;
    nv_write_span(w, nv_span_of(head, sizeof(head)));
    static const uint8_t tag[] = {0xa0, 4, 't', 'a', 'g', '0'};
    nv_write_span(w, nv_span_of(tag, sizeof(tag)));
    nv_write_u8(w, 0x70);
    nv_write_u32_be(w, v >= BATCH_OF_ONE ? NV_AMQP_FORMAT_BATCH : 0);
    nv_write_u8(w, 0x42);
    size_t count = v == BATCH_OF_16 ? 16 : 1;
    for (size_t i = 0; i < count; i++) {
        if (v < BATCH_OF_ONE) {
            put_message(w, v, &in->message_id_at[n]);
            continue;
        }
        static uint8_t inner[1024];
        nv_writer m = nv_writer_of(inner, sizeof(inner));
        put_message(&m, v, &in->message_id_at[n]);
        nv_amqp_put_data_head(w, nv_writer_len(&m));
        nv_write_span(w, nv_writer_span(&m));
    }
    in->messages += count;
    nv_amqp_end_frame(w, mark);
}

static void make_input(input *in, variant v)
{
    *in = (input){0};
    nv_writer w = nv_writer_of(in->bytes, sizeof(in->bytes));
    for (size_t i = 0; i < (v == BATCH_OF_16 ? 1 : WINDOW); i++) {
        put_frame(&w, in, v);
    }
    assert_int_equal(w.err, NV_OK);
    in->len = nv_writer_len(&w);
}

static void number(input *in, uint32_t first)
{
    for (size_t i = 0; i < in->frames; i++) {
        nv_writer w = nv_writer_of(in->bytes + in->id_at[i], 4);
        nv_write_u32_be(&w, first + (uint32_t)i);
        if (in->message_id_at[i]) {
            nv_writer id = nv_writer_of(in->bytes + in->message_id_at[i], 4);
            nv_write_u32_be(&id, 0x30303030u + ((first + (uint32_t)i) & 0x07070707u));
        }
    }
}

static void measure(amqp_rig *rig, size_t count, size_t rounds, variant v, uint32_t *next)
{
    static input in;
    make_input(&in, v);
    const nv_clock *clock = nv_clock_system();
    allocations = 0;
    int64_t start_us = nv_mono_us(clock);
    for (size_t r = 0; r < rounds; r++) {
        number(&in, *next);
        *next += (uint32_t)in.frames;
        for (size_t i = 0; i < count; i++) {
            nv_session *session = rig->more[i].hub_end.session;
            if (session->ops->input(session, nv_span_of(in.bytes, in.len), (int64_t)r) != in.len) {
                abort();
            }
        }
        nv_hub_loop_turn_end(&rig->core.hub->loops[0]);
        (void)nv_exec_queue_run(&rig->core.loops[0]);
        for (size_t i = 0; i < count; i++) {
            if (nv_buf_len(&rig->more[i].hub_end.out) == 0) {
                abort();
            }
            nv_buf_clear(&rig->more[i].hub_end.out);
            rig->more[i].hub_end.session->ops->sent(rig->more[i].hub_end.session, (int64_t)r);
        }
    }
    double messages = (double)(rounds * count * in.messages);
    double ns = (double)(nv_mono_us(clock) - start_us) * 1000;
    printf("%-24s %7.1f ns and %.4f allocations per message\n", names[v], ns / messages,
           (double)allocations / messages);
}

int main(int argc, char **argv)
{
    size_t count = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 50;
    size_t rounds = argc > 2 ? (size_t)strtoul(argv[2], NULL, 10) : 5000;
    amqp_rig *rig = rig_new(&nv_limits_open);
    fake_log_set_discard(&rig->core, true);
    fake_log_set_batch_records(&rig->core, UINT32_MAX);
    rig->more = calloc(count, sizeof(*rig->more));
    assert_non_null(rig->more);
    for (size_t i = 0; i < count; i++) {
        char id[32];
        char address[64];
        (void)snprintf(id, sizeof(id), "device-%04zu", i);
        (void)snprintf(address, sizeof(address), "/devices/%s/messages/events", id);
        fake_register(&rig->core, id, "", NULL);
        rig->more_count = i + 1;
        rig_open(rig, &rig->more[i], id);
        (void)rig_sender(rig, &rig->more[i], address);
    }
    uint32_t next = 0;
    for (int run = 0; run < 2; run++) {
        for (variant v = PLAIN; v < VARIANTS; v++) {
            measure(rig, count, rounds, v, &next);
        }
    }
    for (size_t i = 0; i < count; i++) {
        rig_cut(rig, &rig->more[i]);
    }
    free(rig->more);
    rig->more_count = 0;
    rig_free(rig);
    return 0;
}
