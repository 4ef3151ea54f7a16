#include "session/http_event_json.h"

#include "base/clock.h"
#include "codec/amqp/value.h"
#include "codec/hex.h"
#include "codec/utf8.h"

#include <stdio.h>

#define BODY_JSON_DEPTH  NV_JSON_MAX_DEPTH
#define BODY_JSON_VALUES UINT32_MAX /* no tree is built: the body's size bounds the work */

/* ---- property values ---------------------------------------------------------------------------------------- */

static void write_uuid(nv_json_writer *w, nv_span bytes)
{
    char hex[32];
    char text[37];
    nv_writer digits = nv_writer_of(hex, sizeof(hex));
    nv_hex_encode(nv_span_first(bytes, 16), &digits);
    if (bytes.len != 16) {
        nv_json_base64(w, bytes);
        return;
    }
    int len = snprintf(text, sizeof(text), "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
    nv_json_string(w, nv_span_of(text, (size_t)len));
}

static void write_char(nv_json_writer *w, uint64_t c)
{
    uint8_t text[4];
    size_t len = 0;
    if (c < 0x80) {
        text[len++] = (uint8_t)c;
    } else if (c < 0x800) {
        text[len++] = (uint8_t)(0xc0 | c >> 6);
    } else if (c < 0x10000) {
        text[len++] = (uint8_t)(0xe0 | c >> 12);
    } else {
        text[len++] = (uint8_t)(0xf0 | (c >> 18 & 7));
    }
    for (size_t more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3; more > 0; more--) {
        text[len++] = (uint8_t)(0x80 | (c >> (6 * (more - 1)) & 0x3f));
    }
    nv_json_string(w, nv_span_of(text, len));
}

static double double_of(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static double float_of(uint64_t bits)
{
    uint32_t low = (uint32_t)bits;
    float value;
    memcpy(&value, &low, sizeof(value));
    return (double)value;
}

static void write_timestamp(nv_json_writer *w, int64_t unix_ms)
{
    char text[NV_TIME_TEXT_SIZE];
    if (unix_ms > INT64_MAX / NV_US_PER_MS || unix_ms < INT64_MIN / NV_US_PER_MS) {
        nv_json_int(w, unix_ms);
        return;
    }
    nv_time_format(unix_ms * NV_US_PER_MS, text);
    nv_json_str(w, text);
}

void nv_event_write_value(nv_json_writer *w, const nv_value *value)
{
    switch (value->type) {
    case NV_VALUE_NULL:
        nv_json_null(w);
        return;
    case NV_VALUE_BOOL:
        nv_json_bool(w, value->boolean);
        return;
    case NV_VALUE_UBYTE:
    case NV_VALUE_USHORT:
    case NV_VALUE_UINT:
    case NV_VALUE_ULONG:
        nv_json_uint(w, value->u);
        return;
    case NV_VALUE_BYTE:
    case NV_VALUE_SHORT:
    case NV_VALUE_INT:
    case NV_VALUE_LONG:
        nv_json_int(w, value->i);
        return;
    case NV_VALUE_FLOAT:
        nv_json_double(w, float_of(value->u));
        return;
    case NV_VALUE_DOUBLE:
        nv_json_double(w, double_of(value->u));
        return;
    case NV_VALUE_CHAR:
        write_char(w, value->u);
        return;
    case NV_VALUE_TIMESTAMP:
        write_timestamp(w, value->i);
        return;
    case NV_VALUE_UUID:
        write_uuid(w, value->bytes);
        return;
    case NV_VALUE_BINARY:
        nv_json_base64(w, value->bytes);
        return;
    case NV_VALUE_STRING:
    case NV_VALUE_SYMBOL:
        nv_json_string(w, value->bytes);
        return;
    }
    nv_json_null(w); /* a type of a newer version */
}

/* ---- properties --------------------------------------------------------------------------------------------- */

static void write_properties(nv_json_writer *w, const nv_record *record, bool system)
{
    nv_reader section = nv_reader_of(record->properties);
    nv_property property;
    while (nv_property_next(&section, &property)) {
        const char *name = property.id == NV_PROP_APPLICATION ? NULL : nv_system_property_name(property.id);
        if (system ? name != NULL : property.id == NV_PROP_APPLICATION) {
            nv_json_name(w, system ? nv_span_str(name) : property.name);
            nv_event_write_value(w, &property.value);
        }
    }
}

static void write_member(nv_json_writer *w, const char *name, nv_span text)
{
    if (text.len > 0) {
        nv_json_key(w, name);
        nv_json_string(w, text);
    }
}

/** What the hub itself says about the sender (semantics.md section 3.11, column Event Hubs). */
static void write_stamp(nv_json_writer *w, const nv_record *record, const nv_stamp *stamp)
{
    write_member(w, "iothub-connection-device-id", stamp->device_id);
    write_member(w, "iothub-connection-module-id", stamp->module_id);
    if (record->source == NV_SOURCE_TELEMETRY) {
        write_member(w, "iothub-connection-auth-generation-id", stamp->generation_id);
        write_member(w, "iothub-connection-auth-method", nv_span_str(nv_stamp_auth_method(stamp)));
        nv_value own;
        if (!nv_property_find(record->properties, NV_PROP_DATA_SCHEMA, &own)) {
            write_member(w, "dt-dataschema", stamp->model_id);
        }
    }
    nv_json_key(w, "iothub-enqueuedtime");
    nv_json_int(w, record->enqueued_us / NV_US_PER_MS);
    const char *source = nv_source_name((uint8_t)record->source);
    write_member(w, "iothub-message-source", nv_span_str(source ? source : ""));
}

/* ---- body --------------------------------------------------------------------------------------------------- */

static nv_span text_of(const nv_record *record, nv_system_property id)
{
    nv_value value;
    bool text = nv_property_find(record->properties, id, &value) &&
                (value.type == NV_VALUE_STRING || value.type == NV_VALUE_SYMBOL);
    return text ? value.bytes : NV_SPAN_EMPTY;
}

/* Parameters behind a ';' aside. */
static bool names(nv_span text, const char *want)
{
    text = nv_span_first(text, nv_span_find(text, ';'));
    while (text.len > 0 && text.ptr[text.len - 1] == ' ') {
        text.len--;
    }
    return nv_span_eq_nocase(text, nv_span_str(want));
}

/** Text that a person can read: UTF-8 whose only control characters are tab and line ends. */
static bool is_text(nv_span body)
{
    for (size_t i = 0; i < body.len; i++) {
        uint8_t c = body.ptr[i];
        if (c < 0x20 && c != '\t' && c != '\n' && c != '\r') {
            return false;
        }
    }
    return nv_utf8_valid(body, false);
}

/** The body as the JSON it is, on one line with numbers as written. @return false: nothing was written */
static bool write_json_body(nv_json_writer *w, nv_span body)
{
    nv_json_key(w, "body");
    if (w->err != NV_OK) {
        return true;
    }
    size_t before = nv_buf_len(w->out);
    nv_err err = nv_json_compact(body, BODY_JSON_DEPTH, BODY_JSON_VALUES, w->out);
    w->comma = err == NV_OK;
    if (err != NV_OK && nv_buf_len(w->out) == before && before + body.len > w->out->max) {
        w->err = NV_E_TOO_BIG;
    }
    return err == NV_OK;
}

/* An amqp-value of text or binary is what some clients make of a plain body. @return false: it is something else */
static bool unwrap_value(nv_span *body)
{
    nv_amqp_value value;
    nv_reader r = nv_reader_of(*body);
    if (!nv_amqp_read(&r, &value) || nv_reader_left(&r) || !nv_amqp_is_text(&value)) {
        return false;
    }
    *body = value.bytes;
    return true;
}

void nv_event_write_body(nv_json_writer *w, nv_span body, bool plain, nv_span type, nv_span encoding)
{
    plain = plain || unwrap_value(&body);
    bool json = plain && names(type, "application/json") && names(encoding, "utf-8");
    if (json && write_json_body(w, body)) {
        return;
    }
    if (!json) {
        nv_json_key(w, "body");
    }
    if (plain && is_text(body)) {
        nv_json_string(w, body);
        return;
    }
    nv_json_null(w);
    nv_json_key(w, "bodyBase64");
    nv_json_base64(w, body);
}

void nv_event_write_json(nv_json_writer *w, const nv_record *record)
{
    char text[NV_TIME_TEXT_SIZE];
    nv_stamp stamp;
    if (nv_stamp_decode(record->stamp, &stamp) != NV_OK) {
        stamp = (nv_stamp){0};
    }
    nv_json_begin_object(w);
    nv_json_key(w, "partition");
    nv_json_uint(w, record->partition);
    nv_json_key(w, "sequence");
    nv_json_uint(w, record->sequence);
    nv_json_key(w, "offset");
    int len = snprintf(text, sizeof(text), "%llu", (unsigned long long)record->offset);
    nv_json_string(w, nv_span_of(text, (size_t)len));
    nv_json_key(w, "enqueuedTime");
    nv_time_format(record->enqueued_us, text);
    nv_json_str(w, text);
    write_member(w, "deviceId", stamp.device_id);
    write_member(w, "moduleId", stamp.module_id);
    nv_json_key(w, "systemProperties");
    nv_json_begin_object(w);
    write_properties(w, record, true);
    write_stamp(w, record, &stamp);
    nv_json_end_object(w);
    nv_json_key(w, "properties");
    nv_json_begin_object(w);
    write_properties(w, record, false);
    nv_json_end_object(w);
    nv_event_write_body(w, record->body, record->body_kind == NV_BODY_DATA, text_of(record, NV_PROP_CONTENT_TYPE),
                        text_of(record, NV_PROP_CONTENT_ENCODING));
    nv_json_end_object(w);
}
