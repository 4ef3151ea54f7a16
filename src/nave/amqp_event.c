#include "nave/amqp_event.h"

#include "base/clock.h"
#include "codec/utf8.h"
#include "session/http_event_json.h"

#include <stdio.h>

/* Of the same name. @return false: a compound, or a type that properties do not have */
static bool value_of(const nv_amqp_value *from, nv_value *to)
{
    static const struct {
        nv_amqp_type from;
        nv_value_type to;
    } rows[] = {
        {NV_AMQP_NULL, NV_VALUE_NULL},     {NV_AMQP_BOOLEAN, NV_VALUE_BOOL},        {NV_AMQP_UBYTE, NV_VALUE_UBYTE},
        {NV_AMQP_USHORT, NV_VALUE_USHORT}, {NV_AMQP_UINT, NV_VALUE_UINT},           {NV_AMQP_ULONG, NV_VALUE_ULONG},
        {NV_AMQP_BYTE, NV_VALUE_BYTE},     {NV_AMQP_SHORT, NV_VALUE_SHORT},         {NV_AMQP_INT, NV_VALUE_INT},
        {NV_AMQP_LONG, NV_VALUE_LONG},     {NV_AMQP_FLOAT, NV_VALUE_FLOAT},         {NV_AMQP_DOUBLE, NV_VALUE_DOUBLE},
        {NV_AMQP_CHAR, NV_VALUE_CHAR},     {NV_AMQP_TIMESTAMP, NV_VALUE_TIMESTAMP}, {NV_AMQP_UUID, NV_VALUE_UUID},
        {NV_AMQP_BINARY, NV_VALUE_BINARY}, {NV_AMQP_STRING, NV_VALUE_STRING},       {NV_AMQP_SYMBOL, NV_VALUE_SYMBOL},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        if (rows[i].from != from->type) {
            continue;
        }
        to->type = rows[i].to;
        if (from->type == NV_AMQP_BOOLEAN) {
            to->boolean = from->boolean;
        } else if (from->type == NV_AMQP_UUID || nv_amqp_is_text(from)) {
            to->bytes = from->bytes;
        } else if ((from->type >= NV_AMQP_BYTE && from->type <= NV_AMQP_LONG) || from->type == NV_AMQP_TIMESTAMP) {
            to->i = from->i;
        } else {
            to->u = from->u;
        }
        return true;
    }
    return false;
}

static void write_named(nv_json_writer *w, nv_span name, const nv_amqp_value *from)
{
    nv_value value;
    if (value_of(from, &value) && value.type != NV_VALUE_NULL) {
        nv_json_name(w, name);
        nv_event_write_value(w, &value);
    }
}

static void write_any(nv_json_writer *w, const char *name, nv_span any)
{
    nv_reader r = nv_reader_of(any);
    nv_amqp_value value;
    if (any.ptr && nv_amqp_read(&r, &value)) {
        write_named(w, nv_span_str(name), &value);
    }
}

static void write_text(nv_json_writer *w, const char *name, nv_span text)
{
    if (text.ptr) {
        nv_json_key(w, name);
        nv_json_string(w, text);
    }
}

static void write_time(nv_json_writer *w, const char *name, bool present, int64_t unix_ms)
{
    if (present) {
        nv_json_key(w, name);
        nv_event_write_value(w, &(nv_value){.type = NV_VALUE_TIMESTAMP, .i = unix_ms});
    }
}

static void write_properties(nv_json_writer *w, const nv_amqp_properties *p)
{
    write_any(w, "message-id", p->message_id);
    if (p->user_id.ptr && nv_utf8_valid(p->user_id, true)) {
        write_text(w, "user-id", p->user_id);
    } else if (p->user_id.ptr) {
        nv_json_key(w, "user-id");
        nv_json_base64(w, p->user_id);
    }
    write_any(w, "to", p->to);
    write_text(w, "subject", p->subject);
    write_any(w, "reply-to", p->reply_to);
    write_any(w, "correlation-id", p->correlation_id);
    write_text(w, "content-type", p->content_type);
    write_text(w, "content-encoding", p->content_encoding);
    write_time(w, "absolute-expiry-time", NV_AMQP_HAS(p, properties, absolute_expiry_time), p->absolute_expiry_time);
    write_time(w, "creation-time", NV_AMQP_HAS(p, properties, creation_time), p->creation_time);
    write_text(w, "group-id", p->group_id);
    if (NV_AMQP_HAS(p, properties, group_sequence)) {
        nv_json_key(w, "group-sequence");
        nv_json_uint(w, p->group_sequence);
    }
    write_text(w, "reply-to-group-id", p->reply_to_group_id);
}

/* What stands in members of its own is left out. */
static void write_annotations(nv_json_writer *w, const nv_amqp_value *annotations)
{
    nv_reader at = nv_reader_of(annotations->type == NV_AMQP_MAP ? annotations->bytes : NV_SPAN_EMPTY);
    nv_amqp_value key;
    nv_amqp_value value;
    while (nv_amqp_map_next(&at, &key, &value)) {
        if (!nv_amqp_is_text(&key) || nv_span_eq_str(key.bytes, "x-opt-sequence-number") ||
            nv_span_eq_str(key.bytes, "x-opt-offset") || nv_span_eq_str(key.bytes, "x-opt-enqueued-time")) {
            continue;
        }
        if (nv_span_eq_str(key.bytes, "iothub-enqueuedtime") && value.type == NV_AMQP_TIMESTAMP) {
            nv_json_name(w, key.bytes);
            nv_json_int(w, value.i);
        } else {
            write_named(w, key.bytes, &value);
        }
    }
}

static void write_application(nv_json_writer *w, const nv_amqp_value *map)
{
    nv_reader at = nv_reader_of(map->type == NV_AMQP_MAP ? map->bytes : NV_SPAN_EMPTY);
    nv_amqp_value key;
    nv_amqp_value from;
    nv_value value;
    while (nv_amqp_map_next(&at, &key, &from)) {
        if (nv_amqp_is_text(&key) && value_of(&from, &value)) {
            nv_json_name(w, key.bytes);
            nv_event_write_value(w, &value);
        }
    }
}

static nv_span annotation(const nv_amqp_message *m, const char *name)
{
    nv_amqp_value value;
    bool text = nv_amqp_map_find(&m->message_annotations, name, &value) && nv_amqp_is_text(&value);
    return text ? value.bytes : NV_SPAN_EMPTY;
}

static void write_position(nv_json_writer *w, const nv_amqp_message *m, uint32_t partition, uint64_t sequence)
{
    nv_amqp_value time;
    nv_json_key(w, "partition");
    nv_json_uint(w, partition);
    nv_json_key(w, "sequence");
    nv_json_uint(w, sequence);
    nv_json_key(w, "offset");
    nv_json_string(w, annotation(m, "x-opt-offset"));
    if (nv_amqp_map_find(&m->message_annotations, "x-opt-enqueued-time", &time) && time.type == NV_AMQP_TIMESTAMP) {
        write_time(w, "enqueuedTime", true, time.i);
    }
}

static void write_member(nv_json_writer *w, const char *name, nv_span text)
{
    if (text.len > 0) {
        write_text(w, name, text);
    }
}

static nv_err write_body(nv_json_writer *w, const nv_amqp_message *m, nv_buf *scratch)
{
    bool data = m->body_kind == NV_AMQP_BODY_IS_DATA || m->body_kind == NV_AMQP_BODY_NONE;
    nv_span body = m->body;
    nv_buf_clear(scratch);
    nv_err err = m->body_kind == NV_AMQP_BODY_IS_DATA ? nv_amqp_message_bytes(m, scratch, &body) : NV_OK;
    if (err == NV_OK) {
        nv_event_write_body(w, body, data, m->properties.content_type, m->properties.content_encoding);
    }
    return err;
}

bool nv_amqp_event_json(nv_json_writer *w, uint32_t partition, nv_span message, nv_buf *scratch)
{
    nv_amqp_message m;
    nv_amqp_value value;
    uint64_t sequence = 0;
    if (nv_amqp_message_read(message, &m) != NV_OK ||
        !nv_amqp_map_find(&m.message_annotations, "x-opt-sequence-number", &value) ||
        !nv_amqp_to_u64(&value, &sequence)) {
        return false;
    }
    nv_json_begin_object(w);
    write_position(w, &m, partition, sequence);
    write_member(w, "deviceId", annotation(&m, "iothub-connection-device-id"));
    write_member(w, "moduleId", annotation(&m, "iothub-connection-module-id"));
    nv_json_key(w, "systemProperties");
    nv_json_begin_object(w);
    if (m.has_properties) {
        write_properties(w, &m.properties);
    }
    write_annotations(w, &m.message_annotations);
    nv_json_end_object(w);
    nv_json_key(w, "properties");
    nv_json_begin_object(w);
    write_application(w, &m.application_properties);
    nv_json_end_object(w);
    nv_err err = write_body(w, &m, scratch);
    nv_json_end_object(w);
    return err == NV_OK && w->err == NV_OK;
}

bool nv_amqp_event_is_of(nv_span message, const char *device_id)
{
    nv_amqp_message m;
    return nv_amqp_message_read(message, &m) == NV_OK &&
           nv_span_eq_str(annotation(&m, "iothub-connection-device-id"), device_id);
}
