/**
 * The AMQP codec on any bytes: as a value, a described list, a message, a batch, frames. What is read is written and
 * read again as the same; what nv_amqp_check() calls good can be walked to its last element.
 */
#include "codec/amqp/frame.h"
#include "codec/amqp/message.h"

#include "base/alloc.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) {
        abort();
    }
}

static void walk(nv_reader *r, uint32_t count, unsigned depth);

/** @p value is part of something good: so is all that is in it. */
static void walk_into(const nv_amqp_value *value, unsigned depth)
{
    nv_reader at = nv_reader_of(value->bytes);
    nv_amqp_value element;
    nv_amqp_value other;
    check(depth <= NV_AMQP_MAX_DEPTH * 9);
    if (value->type == NV_AMQP_LIST) {
        walk(&at, value->count, depth);
    } else if (value->type == NV_AMQP_DESCRIBED) {
        walk(&at, 1, depth);
    } else if (value->type == NV_AMQP_MAP) {
        for (uint32_t i = 0; i < value->count; i += 2) {
            check(nv_amqp_map_next(&at, &element, &other));
            walk_into(&element, depth + 1);
            walk_into(&other, depth + 1);
        }
        check(!nv_amqp_map_next(&at, &element, &other) && at.err == NV_OK);
    } else if (value->type == NV_AMQP_ARRAY && value->element != 0) {
        for (uint32_t i = 0; i < value->count; i++) {
            check(nv_amqp_array_next(value, &at, &element));
            walk_into(&element, depth + 1);
        }
        check(!nv_amqp_array_next(value, &at, &element) && at.err == NV_OK);
    }
}

/** Exactly @p count values. */
static void walk(nv_reader *r, uint32_t count, unsigned depth)
{
    for (uint32_t i = 0; i < count; i++) {
        nv_amqp_value value;
        check(nv_amqp_read(r, &value));
        walk_into(&value, depth + 1);
    }
    check(nv_reader_left(r) == 0);
}

/** What was written from a value is as good as it, and stays as it is when it is written once more. */
static void write_value_again(nv_span raw, const nv_amqp_value *value)
{
    size_t room = raw.len + 16;
    uint8_t *first = nv_malloc(room);
    uint8_t *second = nv_malloc(room);
    nv_writer w = nv_writer_of(first, room);
    nv_amqp_put(&w, value);
    check(w.err == NV_OK);
    nv_reader r = nv_reader_of(nv_writer_span(&w));
    nv_amqp_value again;
    check(nv_amqp_read(&r, &again) && nv_reader_left(&r) == 0);
    bool by_symbol = value->type == NV_AMQP_DESCRIBED && !value->code_known;
    check(again.type == value->type && again.count == value->count && again.code_known == value->code_known);
    check(nv_span_eq(again.bytes, value->bytes));
    check(by_symbol ? nv_span_eq(again.symbol, value->symbol) : again.u == value->u);
    check(nv_amqp_check(nv_writer_span(&w)) == nv_amqp_check(raw));
    nv_writer other = nv_writer_of(second, room);
    nv_amqp_put(&other, &again);
    check(nv_span_eq(nv_writer_span(&other), nv_writer_span(&w)));
    free(second);
    free(first);
}

/** @return its length; 0: it is none */
static size_t a_value(nv_span bytes)
{
    nv_reader reading = nv_reader_of(bytes);
    nv_reader skipping = reading;
    nv_amqp_value value;
    bool ok = nv_amqp_read(&reading, &value);
    check(ok == (reading.err == NV_OK));
    bool skipped = nv_amqp_skip(&skipping);
    if (!ok) {
        check(nv_amqp_check(bytes) != NV_OK);
        return 0;
    }
    check(skipped && skipping.at == reading.at);
    nv_span raw = nv_span_of(bytes.ptr, (size_t)(reading.at - bytes.ptr));
    if (nv_amqp_check(raw) == NV_OK) {
        walk_into(&value, 0);
    }
    nv_amqp_value found;
    (void)nv_amqp_map_find(&value, "k", &found);
    write_value_again(raw, &value);
    return raw.len;
}

static void write_list_again(nv_span bytes, const nv_amqp_performative *p)
{
    size_t room = bytes.len + 64;
    uint8_t *first = nv_malloc(room);
    uint8_t *second = nv_malloc(room);
    nv_writer w = nv_writer_of(first, room);
    nv_amqp_encode(&w, p);
    nv_amqp_performative again;
    check(w.err == NV_OK && nv_amqp_decode_span(nv_writer_span(&w), &again) == NV_OK && again.code == p->code);
    check(again.open.present == p->open.present);
    nv_writer other = nv_writer_of(second, room);
    nv_amqp_encode(&other, &again);
    check(nv_span_eq(nv_writer_span(&other), nv_writer_span(&w)));
    free(second);
    free(first);
}

/** @return its length; 0: it is none */
static size_t a_list(nv_span bytes)
{
    nv_reader r = nv_reader_of(bytes);
    nv_amqp_performative p;
    nv_err err = nv_amqp_decode(&r, &p);
    check((err == NV_E_SYNTAX) == (r.err == NV_E_SYNTAX));
    nv_reader skipping = nv_reader_of(bytes);
    if (err == NV_E_SYNTAX) {
        return 0;
    }
    check(nv_amqp_skip(&skipping) && skipping.at == r.at);
    if (err == NV_OK) {
        write_list_again(bytes, &p);
    }
    return (size_t)(r.at - bytes.ptr);
}

static void put_map(nv_writer *w, nv_amqp_code section, const nv_amqp_value *map)
{
    if (map->type == NV_AMQP_MAP) {
        nv_amqp_put_descriptor(w, (uint64_t)section);
        nv_amqp_put(w, map);
    }
}

static void put_body(nv_writer *w, const nv_amqp_message *m)
{
    if (m->body_kind == NV_AMQP_BODY_IS_VALUE) {
        nv_amqp_put_value_head(w);
        nv_write_span(w, m->body);
    } else if (m->body_kind == NV_AMQP_BODY_IS_DATA && m->sections == 1) {
        nv_amqp_put_data_head(w, m->body.len);
        nv_write_span(w, m->body);
    } else {
        nv_write_span(w, m->body);
    }
}

static void same_maps(const nv_amqp_value *a, const nv_amqp_value *b)
{
    check(a->type == b->type && a->count == b->count && nv_span_eq(a->bytes, b->bytes));
}

static void a_message(nv_span bytes)
{
    nv_amqp_message m;
    if (nv_amqp_message_read(bytes, &m) != NV_OK) {
        return;
    }
    size_t room = bytes.len + 128;
    uint8_t *memory = nv_malloc(room);
    nv_writer w = nv_writer_of(memory, room);
    if (m.has_header) {
        nv_amqp_put_header_section(&w, &m.header);
    }
    put_map(&w, NV_AMQP_DELIVERY_ANNOTATIONS, &m.delivery_annotations);
    put_map(&w, NV_AMQP_MESSAGE_ANNOTATIONS, &m.message_annotations);
    if (m.has_properties) {
        nv_amqp_put_properties_section(&w, &m.properties);
    }
    put_map(&w, NV_AMQP_APPLICATION_PROPERTIES, &m.application_properties);
    put_body(&w, &m);
    nv_amqp_message again;
    check(w.err == NV_OK && nv_amqp_message_read(nv_writer_span(&w), &again) == NV_OK);
    check(again.has_header == m.has_header && again.has_properties == m.has_properties);
    check(again.header.present == m.header.present && again.properties.present == m.properties.present);
    same_maps(&m.delivery_annotations, &again.delivery_annotations);
    same_maps(&m.message_annotations, &again.message_annotations);
    same_maps(&m.application_properties, &again.application_properties);
    check(again.body_kind == m.body_kind && again.sections == m.sections && nv_span_eq(again.body, m.body));
    nv_buf scratch;
    nv_buf_init(&scratch, bytes.len);
    nv_span body;
    nv_err err = nv_amqp_message_bytes(&m, &scratch, &body);
    check(err == NV_OK || err == NV_E_UNSUPPORTED); /* joined, it is never larger than the message */
    nv_buf_deinit(&scratch);
    free(memory);
}

static void a_batch(nv_span bytes)
{
    nv_reader at = nv_reader_of(bytes);
    nv_span data;
    while (nv_amqp_data_next(&at, &data)) {
        a_message(data);
    }
}

static void a_stream(nv_span bytes)
{
    nv_amqp_protocol protocol;
    if (nv_amqp_read_header(bytes, &protocol) == NV_OK) {
        bytes = nv_span_skip(bytes, NV_AMQP_HEADER_SIZE);
    }
    nv_amqp_frame frame;
    while (nv_amqp_read_frame(bytes, 65536, &frame) == NV_OK) {
        check(frame.size >= NV_AMQP_FRAME_HEADER_SIZE && frame.size <= bytes.len && frame.body.len < frame.size);
        (void)a_list(frame.body);
        bytes = nv_span_skip(bytes, frame.size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nv_span bytes = nv_span_of(data, size);
    for (size_t at = 0, len = 1; len > 0 && at < size; at += len) {
        len = a_value(nv_span_skip(bytes, at));
    }
    for (size_t at = 0, len = 1; len > 0 && at < size; at += len) {
        len = a_list(nv_span_skip(bytes, at));
    }
    a_message(bytes);
    a_batch(bytes);
    a_stream(bytes);
    return 0;
}
