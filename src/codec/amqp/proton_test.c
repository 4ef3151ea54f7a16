/**
 * Our codec and that of Qpid Proton, one against the other: what either writes, the other reads as the same. Values are
 * made by chance from a fixed seed, of every type, in every depth.
 */
#include "codec/amqp/vectors.h"

#include "base/rng.h"

#include <proton/codec.h>
#include <proton/message.h>

#define ROUNDS 4000u
#define ROOM   65536u
#define DEEP   4u

static uint8_t ours[ROOM];
static uint8_t theirs[ROOM];

typedef struct maker {
    nv_writer w;
    nv_seeded_rng rng;
} maker;

static uint32_t pick(maker *m, uint32_t below)
{
    return (uint32_t)(nv_rng_u64(&m->rng.rng) % below);
}

/** Numbers of every magnitude, so that every length of encoding comes up. */
static uint64_t a_number(maker *m)
{
    return nv_rng_u64(&m->rng.rng) >> pick(m, 64);
}

static nv_span a_text(maker *m, uint8_t memory[300])
{
    size_t len = pick(m, 20) == 0 ? 250 + pick(m, 20) : pick(m, 12);
    for (size_t i = 0; i < len; i++) {
        memory[i] = (uint8_t)(' ' + pick(m, 90));
    }
    return nv_span_of(memory, len);
}

static nv_amqp_value a_scalar(maker *m, nv_amqp_type type, uint8_t memory[300])
{
    static const size_t widths[] = {
        [NV_AMQP_DECIMAL32] = 4, [NV_AMQP_DECIMAL64] = 8, [NV_AMQP_DECIMAL128] = 16, [NV_AMQP_UUID] = 16};
    static const unsigned bits[] = {
        [NV_AMQP_UBYTE] = 8,  [NV_AMQP_USHORT] = 16, [NV_AMQP_UINT] = 32, [NV_AMQP_BYTE] = 8,
        [NV_AMQP_SHORT] = 16, [NV_AMQP_INT] = 32,    [NV_AMQP_FLOAT] = 32};
    nv_amqp_value value = {.type = type};
    if (type == NV_AMQP_BOOLEAN) {
        value.boolean = pick(m, 2) == 0;
    } else if (type == NV_AMQP_CHAR) {
        value.u = pick(m, 0xD800);
    } else if (type >= NV_AMQP_BINARY) {
        value.bytes = a_text(m, memory);
    } else if (type >= NV_AMQP_DECIMAL32 && type <= NV_AMQP_UUID && type != NV_AMQP_TIMESTAMP) {
        nv_rng_fill(&m->rng.rng, memory, 16);
        value.bytes = nv_span_of(memory, widths[type]);
    } else if (type != NV_AMQP_NULL) {
        unsigned width = type < NV_COUNT_OF(bits) && bits[type] ? bits[type] : 64;
        value.u = a_number(m) >> (64 - width);
        value.u = pick(m, 4) == 0 ? value.u : value.u >> pick(m, width);
        bool is_signed = type >= NV_AMQP_BYTE && type <= NV_AMQP_INT;
        value.i = is_signed ? (int64_t)(value.u << (64 - width)) >> (64 - width) : value.i;
    }
    return value;
}

static void make(maker *m, unsigned depth);

static void make_array(maker *m)
{
    static const nv_amqp_type types[] = {NV_AMQP_STRING, NV_AMQP_SYMBOL, NV_AMQP_BINARY};
    uint8_t memory[4][300];
    nv_span texts[4];
    uint32_t count = 1 + pick(m, 4);
    for (uint32_t i = 0; i < count; i++) {
        texts[i] = a_text(m, memory[i]);
    }
    nv_amqp_put_texts(&m->w, types[pick(m, 3)], texts, count);
}

static void make_compound(maker *m, unsigned depth)
{
    uint32_t count = pick(m, 5);
    if (pick(m, 2) == 0) {
        size_t mark = nv_amqp_begin_list(&m->w);
        for (uint32_t i = 0; i < count; i++) {
            make(m, depth + 1);
        }
        nv_amqp_end_list(&m->w, mark, count);
        return;
    }
    size_t mark = nv_amqp_begin_map(&m->w);
    for (uint32_t i = 0; i < 2 * count; i++) {
        make(m, depth + 1);
    }
    nv_amqp_end_map(&m->w, mark, 2 * count);
}

/** One value, written by us. */
static void make(maker *m, unsigned depth)
{
    uint8_t memory[300];
    uint32_t what = pick(m, NV_AMQP_SYMBOL + 9);
    if (what <= NV_AMQP_SYMBOL) {
        nv_amqp_value value = a_scalar(m, (nv_amqp_type)what, memory);
        nv_amqp_put(&m->w, &value);
    } else if (what == NV_AMQP_SYMBOL + 1) {
        make_array(m);
    } else if (depth >= DEEP) {
        nv_amqp_put_null(&m->w);
    } else if (what == NV_AMQP_SYMBOL + 2) {
        /* Not described twice: Proton 0.37 would count the fields of the compound around it wrong. */
        nv_amqp_put_descriptor(&m->w, a_number(m));
        make_compound(m, depth);
    } else {
        make_compound(m, depth);
    }
}

static void assert_same_next(nv_reader *a, nv_reader *b);

/** Two encoded values mean the same, whatever the forms of their encodings. */
static void assert_same_value(const nv_amqp_value *a, const nv_amqp_value *b)
{
    assert_int_equal(a->type, b->type);
    assert_int_equal(a->count, b->count);
    nv_reader x = nv_reader_of(a->bytes);
    nv_reader y = nv_reader_of(b->bytes);
    if (a->type == NV_AMQP_ARRAY) {
        nv_amqp_value p;
        nv_amqp_value q;
        for (uint32_t i = 0; i < a->count; i++) {
            assert_true(nv_amqp_array_next(a, &x, &p) && nv_amqp_array_next(b, &y, &q));
            assert_same_value(&p, &q);
        }
    } else if (a->type == NV_AMQP_LIST || a->type == NV_AMQP_MAP) {
        for (uint32_t i = 0; i < a->count; i++) {
            assert_same_next(&x, &y);
        }
    } else if (a->type == NV_AMQP_DESCRIBED) {
        assert_true(a->code_known && b->code_known);
        assert_true(a->code == b->code);
        assert_same_next(&x, &y);
    } else {
        assert_true(nv_span_eq(a->bytes, b->bytes));
        assert_true(a->u == b->u);
    }
}

static void assert_same_next(nv_reader *a, nv_reader *b)
{
    nv_amqp_value x;
    nv_amqp_value y;
    assert_true(nv_amqp_read(a, &x) && nv_amqp_read(b, &y));
    assert_same_value(&x, &y);
}

/** Proton reads @p bytes whole and writes them in its own way. */
static nv_span through_proton(pn_data_t *data, nv_span bytes)
{
    pn_data_clear(data);
    ssize_t used = pn_data_decode(data, (const char *)bytes.ptr, bytes.len);
    if (used != (ssize_t)bytes.len) {
        assert_hex("refused by Proton", bytes, "");
    }
    ssize_t written = pn_data_encode(data, (char *)theirs, sizeof(theirs));
    assert_true(written > 0);
    return nv_span_of(theirs, (size_t)written);
}

static void values_pass_through_proton(void **state)
{
    (void)state;
    maker m;
    nv_seeded_rng_init(&m.rng, 1);
    pn_data_t *data = pn_data(16);
    for (unsigned i = 0; i < ROUNDS; i++) {
        m.w = nv_writer_of(ours, sizeof(ours));
        make(&m, 0);
        assert_int_equal(m.w.err, NV_OK);
        nv_span written = nv_writer_span(&m.w);
        assert_int_equal(nv_amqp_check(written), NV_OK);
        nv_span again = through_proton(data, written);
        if (nv_amqp_check(again) != NV_OK) {
            assert_bytes("what Proton wrote", again, written);
        }
        nv_reader a = nv_reader_of(written);
        nv_reader b = nv_reader_of(again);
        assert_same_next(&a, &b);
        assert_int_equal(nv_reader_left(&b), 0);
    }
    pn_data_free(data);
}

static nv_span some_any(maker *m, uint8_t memory[300], nv_amqp_type type)
{
    uint8_t text[300];
    nv_amqp_value value = a_scalar(m, type, text);
    nv_writer w = nv_writer_of(memory, 310);
    nv_amqp_put(&w, &value);
    assert_int_equal(w.err, NV_OK);
    return nv_writer_span(&w);
}

static void assert_same_fields(const nv_amqp_properties *a, const nv_amqp_properties *b)
{
    assert_true(nv_span_eq(a->message_id, b->message_id) && nv_span_eq(a->user_id, b->user_id));
    assert_true(nv_span_eq(a->to, b->to) && nv_span_eq(a->subject, b->subject));
    assert_true(nv_span_eq(a->correlation_id, b->correlation_id) && nv_span_eq(a->content_type, b->content_type));
    assert_true(a->absolute_expiry_time == b->absolute_expiry_time && a->creation_time == b->creation_time);
    assert_true(nv_span_eq(a->group_id, b->group_id) && a->group_sequence == b->group_sequence);
}

/** Messages of ours, read and written by Proton. */
static void messages_pass_through_proton(void **state)
{
    (void)state;
    static const nv_amqp_type ids[] = {NV_AMQP_ULONG, NV_AMQP_UUID, NV_AMQP_BINARY, NV_AMQP_STRING};
    maker m;
    nv_seeded_rng_init(&m.rng, 2);
    pn_message_t *message = pn_message();
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint8_t memory[8][310];
        nv_amqp_properties properties = {
            .message_id = some_any(&m, memory[0], ids[pick(&m, 4)]),
            .user_id = a_text(&m, memory[1]),
            .to = some_any(&m, memory[2], NV_AMQP_STRING),
            .subject = a_text(&m, memory[3]),
            .correlation_id = some_any(&m, memory[4], ids[pick(&m, 4)]),
            .content_type = a_text(&m, memory[5]),
            .group_id = a_text(&m, memory[6]),
        };
        NV_AMQP_SET(&properties, properties, absolute_expiry_time, 1 + (int64_t)(a_number(&m) >> 1));
        NV_AMQP_SET(&properties, properties, creation_time, 1 + (int64_t)(a_number(&m) >> 1));
        NV_AMQP_SET(&properties, properties, group_sequence, 1 + pick(&m, 1000));
        nv_amqp_header header = {.present = 0};
        NV_AMQP_SET(&header, header, durable, pick(&m, 2) == 0);
        NV_AMQP_SET(&header, header, priority, (uint8_t)pick(&m, 10));
        NV_AMQP_SET(&header, header, delivery_count, pick(&m, 1000));
        nv_span body = a_text(&m, memory[7]);
        nv_writer w = nv_writer_of(ours, sizeof(ours));
        nv_amqp_put_header_section(&w, &header);
        size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_MESSAGE_ANNOTATIONS);
        nv_amqp_put_symbol_of(&w, "x-opt-sequence-number");
        nv_amqp_put_long(&w, (int64_t)a_number(&m));
        nv_amqp_end_map(&w, mark, 2);
        nv_amqp_put_properties_section(&w, &properties);
        mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
        nv_amqp_put_string_of(&w, "k");
        nv_amqp_put_string(&w, body);
        nv_amqp_end_map(&w, mark, 2);
        nv_amqp_put_data_head(&w, body.len);
        nv_write_span(&w, body);
        assert_int_equal(w.err, NV_OK);

        pn_message_clear(message);
        assert_int_equal(pn_message_decode(message, (const char *)ours, nv_writer_len(&w)), 0);
        size_t size = sizeof(theirs);
        assert_int_equal(pn_message_encode(message, (char *)theirs, &size), 0);
        nv_amqp_message a;
        nv_amqp_message b;
        assert_int_equal(nv_amqp_message_read(nv_writer_span(&w), &a), NV_OK);
        assert_int_equal(nv_amqp_message_read(nv_span_of(theirs, size), &b), NV_OK);
        assert_same_fields(&a.properties, &b.properties);
        assert_same_fields(&properties, &b.properties);
        assert_int_equal(b.header.durable, header.durable);
        assert_int_equal(b.header.delivery_count, header.delivery_count);
        assert_same_value(&a.message_annotations, &b.message_annotations);
        assert_same_value(&a.application_properties, &b.application_properties);
        assert_int_equal(b.body_kind, NV_AMQP_BODY_IS_DATA);
        assert_true(nv_span_eq(b.body, body));
    }
    pn_message_free(message);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_pass_through_proton),
        cmocka_unit_test(messages_pass_through_proton),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
