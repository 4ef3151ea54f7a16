#include "support/amqp_script.h"

#include "codec/hex.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define LINE_MAX_BYTES 1024

/* ---- to bytes ------------------------------------------------------------------------------------------------ */

static nv_span word_of(nv_span line, const char *key, bool *found)
{
    nv_span wanted = nv_span_str(key);
    while (line.len > 0) {
        nv_span word = nv_span_first(line, nv_span_find(line, ' '));
        line = nv_span_skip(line, word.len + 1);
        if (nv_span_starts_with(word, wanted)) {
            nv_span rest = nv_span_skip(word, wanted.len);
            if (rest.len == 0 || rest.ptr[0] == '=') {
                *found = true;
                return nv_span_skip(rest, 1);
            }
        }
    }
    *found = false;
    return NV_SPAN_EMPTY;
}

static bool has(nv_span line, const char *key)
{
    bool found;
    (void)word_of(line, key, &found);
    return found;
}

static bool number(nv_span line, const char *key, uint64_t *out)
{
    bool found;
    nv_span text = word_of(line, key, &found);
    return found && nv_span_to_u64(text, out);
}

static nv_span text(nv_span line, const char *key)
{
    bool found;
    nv_span value = word_of(line, key, &found);
    return found && !value.ptr ? nv_span_str("") : value;
}

#define NUMBER(line, key, p, name, member, type)                                                                       \
    do {                                                                                                               \
        uint64_t number_ = 0;                                                                                          \
        if (number(line, key, &number_)) {                                                                             \
            NV_AMQP_SET(p, name, member, (type)number_);                                                               \
        }                                                                                                              \
    } while (0)
#define FLAG(line, key, p, name, member)                                                                               \
    do {                                                                                                               \
        if (has(line, key)) {                                                                                          \
            NV_AMQP_SET(p, name, member, true);                                                                        \
        }                                                                                                              \
    } while (0)

typedef struct scratch {
    uint8_t bytes[2][1024];
} scratch;

static nv_span encoded(uint8_t *memory, const nv_amqp_performative *p)
{
    nv_writer w = nv_writer_of(memory, 1024);
    nv_amqp_encode(&w, p);
    return nv_writer_span(&w);
}

static nv_span error_of(nv_span line, const char *key, uint8_t *memory)
{
    nv_span condition = text(line, key);
    if (!condition.ptr) {
        return NV_SPAN_EMPTY;
    }
    nv_amqp_performative p = {.code = NV_AMQP_ERROR};
    p.error.condition = condition;
    p.error.description = nv_span_str("said by the peer");
    return encoded(memory, &p);
}

static nv_span terminus(nv_span line, const char *key, nv_amqp_code code, uint8_t *memory)
{
    nv_span address = text(line, key);
    if (!address.ptr) {
        return NV_SPAN_EMPTY;
    }
    uint8_t value[600];
    nv_writer w = nv_writer_of(value, sizeof(value));
    nv_amqp_put_string(&w, address);
    nv_amqp_performative p = {.code = code};
    if (code == NV_AMQP_SOURCE) {
        p.source.address = nv_writer_span(&w);
    } else {
        p.target.address = nv_writer_span(&w);
    }
    return encoded(memory, &p);
}

static void put_open(nv_span line, nv_amqp_performative *p)
{
    p->code = NV_AMQP_OPEN;
    p->open.container_id = text(line, "container");
    p->open.hostname = text(line, "host");
    NUMBER(line, "max-frame", &p->open, open, max_frame_size, uint32_t);
    NUMBER(line, "idle", &p->open, open, idle_time_out, uint32_t);
    NUMBER(line, "channel-max", &p->open, open, channel_max, uint16_t);
}

static void put_begin(nv_span line, nv_amqp_performative *p)
{
    p->code = NV_AMQP_BEGIN;
    NV_AMQP_SET(&p->begin, begin, next_outgoing_id, 0);
    NV_AMQP_SET(&p->begin, begin, incoming_window, 1000);
    NV_AMQP_SET(&p->begin, begin, outgoing_window, 1000);
    NUMBER(line, "remote", &p->begin, begin, remote_channel, uint16_t);
    NUMBER(line, "next-out", &p->begin, begin, next_outgoing_id, uint32_t);
    NUMBER(line, "window", &p->begin, begin, incoming_window, uint32_t);
    NUMBER(line, "handle-max", &p->begin, begin, handle_max, uint32_t);
}

static void put_attach(nv_span line, nv_amqp_performative *p, scratch *s)
{
    nv_amqp_attach *a = &p->attach;
    p->code = NV_AMQP_ATTACH;
    a->name = text(line, "name");
    NUMBER(line, "handle", a, attach, handle, uint32_t);
    NV_AMQP_SET(a, attach, role, !has(line, "sender"));
    NUMBER(line, "snd", a, attach, snd_settle_mode, uint8_t);
    NUMBER(line, "rcv", a, attach, rcv_settle_mode, uint8_t);
    a->source = terminus(line, "source", NV_AMQP_SOURCE, s->bytes[0]);
    a->target = terminus(line, "target", NV_AMQP_TARGET, s->bytes[1]);
    static const uint8_t map[] = {0xc1, 0x04, 0x02, 0xa0, 0x01, 0x41}; /* {binary: accepted-like} is not looked at */
    static const uint8_t coordinator[] = {0x00, 0x53, 0x30, 0xc0, 0x01, 0x00};
    if (has(line, "unsettled")) {
        a->unsettled = nv_span_of(map, sizeof(map));
    }
    if (has(line, "coordinator")) {
        a->target = nv_span_of(coordinator, sizeof(coordinator));
    }
    if (has(line, "sender")) {
        NV_AMQP_SET(a, attach, initial_delivery_count, 0);
    }
    NUMBER(line, "count", a, attach, initial_delivery_count, uint32_t);
    NUMBER(line, "max", a, attach, max_message_size, uint64_t);
}

static void put_flow(nv_span line, nv_amqp_performative *p)
{
    nv_amqp_flow *f = &p->flow;
    p->code = NV_AMQP_FLOW;
    NV_AMQP_SET(f, flow, incoming_window, 1000);
    NV_AMQP_SET(f, flow, next_outgoing_id, 0);
    NV_AMQP_SET(f, flow, outgoing_window, 1000);
    NUMBER(line, "next-in", f, flow, next_incoming_id, uint32_t);
    NUMBER(line, "window", f, flow, incoming_window, uint32_t);
    NUMBER(line, "next-out", f, flow, next_outgoing_id, uint32_t);
    NUMBER(line, "handle", f, flow, handle, uint32_t);
    NUMBER(line, "count", f, flow, delivery_count, uint32_t);
    NUMBER(line, "credit", f, flow, link_credit, uint32_t);
    FLAG(line, "drain", f, flow, drain);
    FLAG(line, "echo", f, flow, echo);
}

static void put_transfer(nv_span line, nv_amqp_performative *p, scratch *s)
{
    nv_amqp_transfer *t = &p->transfer;
    p->code = NV_AMQP_TRANSFER;
    NUMBER(line, "handle", t, transfer, handle, uint32_t);
    NUMBER(line, "id", t, transfer, delivery_id, uint32_t);
    NUMBER(line, "format", t, transfer, message_format, uint32_t);
    FLAG(line, "settled", t, transfer, settled);
    FLAG(line, "more", t, transfer, more);
    FLAG(line, "aborted", t, transfer, aborted);
    FLAG(line, "resume", t, transfer, resume);
    nv_span tag = text(line, "tag");
    if (tag.ptr && nv_hex_decode(tag, s->bytes[0], tag.len / 2) == NV_OK) {
        t->delivery_tag = nv_span_of(s->bytes[0], tag.len / 2);
    }
}

static void put_disposition(nv_span line, nv_amqp_performative *p, scratch *s)
{
    nv_amqp_disposition *d = &p->disposition;
    p->code = NV_AMQP_DISPOSITION;
    NV_AMQP_SET(d, disposition, role, has(line, "receiver"));
    NUMBER(line, "first", d, disposition, first, uint32_t);
    NUMBER(line, "last", d, disposition, last, uint32_t);
    FLAG(line, "settled", d, disposition, settled);
    nv_amqp_performative state = {.code = NV_AMQP_ACCEPTED};
    if (has(line, "released")) {
        state.code = NV_AMQP_RELEASED;
    } else if (has(line, "modified")) {
        state.code = NV_AMQP_MODIFIED;
        NV_AMQP_SET(&state.modified, modified, delivery_failed, true);
    } else if (has(line, "rejected")) {
        state.code = NV_AMQP_REJECTED;
        state.rejected.error = error_of(line, "rejected", s->bytes[1]);
    } else if (has(line, "received")) {
        state.code = NV_AMQP_RECEIVED;
        NV_AMQP_SET(&state.received, received, section_number, 0);
        NV_AMQP_SET(&state.received, received, section_offset, 0);
    } else if (!has(line, "accepted")) {
        return;
    }
    d->state = encoded(s->bytes[0], &state);
}

static void put_sasl(nv_span line, nv_amqp_performative *p, scratch *s)
{
    p->code = NV_AMQP_SASL_INIT;
    nv_span plain = text(line, "plain");
    p->sasl_init.mechanism = plain.ptr ? nv_span_str("PLAIN") : text(line, "mechanism");
    if (plain.ptr) {
        s->bytes[0][0] = 0;
        memcpy(s->bytes[0] + 1, plain.ptr, plain.len);
        s->bytes[0][1 + nv_span_find(plain, ':')] = 0;
        p->sasl_init.initial_response = nv_span_of(s->bytes[0], plain.len + 1);
    }
}

static bool put_performative(nv_span line, nv_span verb, nv_amqp_performative *p, scratch *s)
{
    if (nv_span_eq_str(verb, "open")) {
        put_open(line, p);
    } else if (nv_span_eq_str(verb, "begin")) {
        put_begin(line, p);
    } else if (nv_span_eq_str(verb, "attach")) {
        put_attach(line, p, s);
    } else if (nv_span_eq_str(verb, "flow")) {
        put_flow(line, p);
    } else if (nv_span_eq_str(verb, "transfer")) {
        put_transfer(line, p, s);
    } else if (nv_span_eq_str(verb, "disposition")) {
        put_disposition(line, p, s);
    } else if (nv_span_eq_str(verb, "detach")) {
        p->code = NV_AMQP_DETACH;
        NUMBER(line, "handle", &p->detach, detach, handle, uint32_t);
        FLAG(line, "closed", &p->detach, detach, closed);
        p->detach.error = error_of(line, "error", s->bytes[0]);
    } else if (nv_span_eq_str(verb, "end")) {
        p->code = NV_AMQP_END;
        p->end.error = error_of(line, "error", s->bytes[0]);
    } else if (nv_span_eq_str(verb, "close")) {
        p->code = NV_AMQP_CLOSE;
        p->close.error = error_of(line, "error", s->bytes[0]);
    } else if (nv_span_eq_str(verb, "sasl-init")) {
        put_sasl(line, p, s);
    } else {
        return nv_span_eq_str(verb, "empty");
    }
    return true;
}

static void put_hex(nv_buf *out, nv_span digits)
{
    uint8_t bytes[LINE_MAX_BYTES];
    size_t len = digits.len / 2;
    if (len > sizeof(bytes) || nv_hex_decode(digits, bytes, len) != NV_OK ||
        nv_buf_append(out, nv_span_of(bytes, len)) != NV_OK) {
        abort();
    }
}

static void put_frame(nv_buf *out, nv_span line, nv_span verb)
{
    scratch s;
    uint64_t channel = 0;
    uint64_t body = 0;
    nv_amqp_performative p = {.code = (nv_amqp_code)0};
    (void)number(line, "ch", &channel);
    (void)number(line, "body", &body);
    uint8_t *room = nv_buf_reserve(out, 4096 + body);
    if (!room || !put_performative(line, verb, &p, &s)) {
        fprintf(stderr, "no such line: %.*s\n", NV_SPAN_ARG(line));
        abort();
    }
    nv_writer w = nv_writer_of(room, 4096 + body);
    size_t mark = nv_amqp_begin_frame(&w, p.code == NV_AMQP_SASL_INIT ? NV_AMQP_FRAME_SASL : NV_AMQP_FRAME_AMQP,
                                      (uint16_t)channel);
    nv_amqp_encode(&w, &p);
    for (uint64_t i = 0; i < body; i++) {
        nv_write_u8(&w, (uint8_t)('a' + i % 26));
    }
    nv_amqp_end_frame(&w, mark);
    nv_buf_commit(out, nv_writer_len(&w));
}

static void put_line(nv_buf *out, nv_span line)
{
    nv_span verb = nv_span_first(line, nv_span_find(line, ' '));
    nv_span rest = nv_span_skip(line, verb.len + 1);
    if (verb.len == 0) {
        return;
    }
    if (nv_span_eq_str(verb, "header")) {
        uint8_t header[NV_AMQP_HEADER_SIZE];
        nv_amqp_write_header(header, nv_span_eq_str(rest, "sasl")  ? NV_AMQP_PROTOCOL_SASL
                                     : nv_span_eq_str(rest, "tls") ? NV_AMQP_PROTOCOL_TLS
                                                                   : NV_AMQP_PROTOCOL_AMQP);
        nv_ignore(nv_buf_append(out, nv_span_of(header, sizeof(header))));
    } else if (nv_span_eq_str(verb, "hex")) {
        put_hex(out, rest);
    } else {
        put_frame(out, line, verb);
    }
}

void amqp_script_put(nv_buf *out, const char *lines)
{
    nv_span left = nv_span_str(lines);
    while (left.len > 0) {
        nv_span line = nv_span_first(left, nv_span_find(left, '\n'));
        put_line(out, line);
        left = nv_span_skip(left, line.len + 1);
    }
}

/* ---- to text -------------------------------------------------------------------------------------------------- */

#define SAY(...) nv_ignore(nv_buf_printf(out, __VA_ARGS__))

static void say_error(nv_buf *out, nv_span any)
{
    nv_amqp_performative p;
    if (any.len > 0 && nv_amqp_decode_span(any, &p) == NV_OK && p.code == NV_AMQP_ERROR) {
        nv_reader r = nv_reader_of(p.error.info);
        nv_amqp_value info;
        bool complete =
            p.error.description.ptr && nv_amqp_read(&r, &info) && info.type == NV_AMQP_MAP && info.count > 0;
        SAY(" error=%.*s%s", NV_SPAN_ARG(p.error.condition), complete ? "" : " incomplete");
    }
}

static void say_state(nv_buf *out, nv_span any)
{
    nv_amqp_performative p;
    if (any.len == 0 || nv_amqp_decode_span(any, &p) != NV_OK) {
        return;
    }
    SAY(" %s", nv_amqp_name((uint64_t)p.code));
    if (p.code == NV_AMQP_REJECTED) {
        say_error(out, p.rejected.error);
    }
}

static void say_attach(nv_buf *out, const nv_amqp_attach *a)
{
    SAY(" name=%.*s handle=%u %s snd=%u rcv=%u", NV_SPAN_ARG(a->name), a->handle, a->role ? "receiver" : "sender",
        a->snd_settle_mode, a->rcv_settle_mode);
    SAY("%s%s%s%s", a->source.ptr ? " source" : "", a->target.ptr ? " target" : "",
        a->properties.ptr ? "" : " no-properties", a->unsettled.ptr ? " unsettled" : "");
    if (!a->role) {
        SAY(" count=%s", NV_AMQP_HAS(a, attach, initial_delivery_count) ? "set" : "null");
    }
    SAY(" max=%" PRIu64, a->max_message_size);
}

static void say_flow(nv_buf *out, const nv_amqp_flow *f)
{
    SAY(" next-in=%u window=%u next-out=%u", f->next_incoming_id, f->incoming_window, f->next_outgoing_id);
    if (NV_AMQP_HAS(f, flow, handle)) {
        SAY(" handle=%u count=%u credit=%u%s", f->handle, f->delivery_count, f->link_credit, f->drain ? " drain" : "");
    }
}

static void say_transfer(nv_buf *out, const nv_amqp_transfer *t, size_t len)
{
    SAY(" handle=%u id=%u tag=%zu format=%x%s%s %zu bytes", t->handle, t->delivery_id, t->delivery_tag.len,
        t->message_format, t->settled ? " settled" : "", t->more ? " more" : "", len);
}

static void say_mechanisms(nv_buf *out, nv_span any)
{
    nv_reader r = nv_reader_of(any);
    nv_amqp_value array;
    nv_amqp_value name;
    if (!nv_amqp_read(&r, &array) || array.type != NV_AMQP_ARRAY) {
        SAY(" no array");
        return;
    }
    nv_reader at = nv_reader_of(array.bytes);
    while (nv_amqp_array_next(&array, &at, &name)) {
        SAY(" %.*s", NV_SPAN_ARG(name.bytes));
    }
}

static void say_performative(nv_buf *out, const nv_amqp_performative *p, size_t payload)
{
    switch ((int)p->code) {
    case NV_AMQP_OPEN:
        SAY(" container=%.*s max-frame=%u channel-max=%u idle=%u", NV_SPAN_ARG(p->open.container_id),
            p->open.max_frame_size, p->open.channel_max, p->open.idle_time_out);
        break;
    case NV_AMQP_BEGIN:
        SAY(" remote=%u window=%u handle-max=%u", p->begin.remote_channel, p->begin.incoming_window,
            p->begin.handle_max);
        break;
    case NV_AMQP_ATTACH:
        say_attach(out, &p->attach);
        break;
    case NV_AMQP_FLOW:
        say_flow(out, &p->flow);
        break;
    case NV_AMQP_TRANSFER:
        say_transfer(out, &p->transfer, payload);
        break;
    case NV_AMQP_DISPOSITION:
        SAY(" %s first=%u last=%u%s", p->disposition.role ? "receiver" : "sender", p->disposition.first,
            p->disposition.last, p->disposition.settled ? " settled" : "");
        say_state(out, p->disposition.state);
        break;
    case NV_AMQP_DETACH:
        SAY(" handle=%u%s", p->detach.handle, p->detach.closed ? " closed" : "");
        say_error(out, p->detach.error);
        break;
    case NV_AMQP_END:
        say_error(out, p->end.error);
        break;
    case NV_AMQP_CLOSE:
        say_error(out, p->close.error);
        break;
    case NV_AMQP_SASL_MECHANISMS:
        say_mechanisms(out, p->sasl_mechanisms.mechanisms);
        break;
    case NV_AMQP_SASL_INIT:
        SAY(" with %.*s", NV_SPAN_ARG(p->sasl_init.mechanism));
        break;
    case NV_AMQP_SASL_OUTCOME:
        SAY(" code=%u", p->sasl_outcome.code);
        break;
    default:
        break;
    }
}

/* Every field of the table must be there, as null if need be: pyamqp reads them by their place. */
static bool is_full(nv_span body, nv_amqp_code code)
{
    uint32_t wanted = 0;
    switch ((int)code) {
#define X(NAME, name, number, symbol, fields)                                                                          \
    case NV_AMQP_##NAME:                                                                                               \
        wanted = NV_AMQP_COUNT_OF_##name;                                                                              \
        break;
        NV_AMQP_TABLE(X)
#undef X
    default:
        break;
    }
    nv_reader r = nv_reader_of(nv_span_skip(body, 3)); /* 0x00 0x53 code */
    nv_amqp_value list;
    return body.ptr[1] == 0x53 && nv_amqp_read(&r, &list) && list.type == NV_AMQP_LIST && list.count == wanted;
}

void amqp_script_say(nv_span bytes, nv_buf *out)
{
    while (bytes.len > 0) {
        nv_amqp_protocol protocol;
        nv_amqp_frame frame;
        if (bytes.ptr[0] == 'A' && nv_amqp_read_header(bytes, &protocol) == NV_OK) {
            SAY("header %s\n", protocol == NV_AMQP_PROTOCOL_SASL ? "sasl" : "amqp");
            bytes = nv_span_skip(bytes, NV_AMQP_HEADER_SIZE);
            continue;
        }
        if (nv_amqp_read_frame(bytes, UINT32_MAX, &frame) != NV_OK) {
            SAY("garbage\n");
            return;
        }
        bytes = nv_span_skip(bytes, frame.size);
        nv_reader r = nv_reader_of(frame.body);
        nv_amqp_performative p;
        if (frame.body.len == 0) {
            SAY("empty\n");
            continue;
        }
        if (nv_amqp_decode(&r, &p) != NV_OK) {
            SAY("garbage\n");
            return;
        }
        SAY("%s", nv_amqp_name((uint64_t)p.code));
        if (frame.channel > 0) {
            SAY(" ch=%u", frame.channel);
        }
        say_performative(out, &p, nv_reader_left(&r));
        SAY("%s\n", is_full(frame.body, p.code) ? "" : " with fields missing");
    }
}
