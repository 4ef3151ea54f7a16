/*
 * AMQP messages as records of the log, and back (amqp.md sections 3.4, 3.5 and 5.7). A record keeps the types that a
 * sender gave; ids become text, because every other protocol and every query knows them only so.
 */
#include "session/amqp/server_internal.h"

#include "base/alloc.h"
#include "codec/base64.h"
#include "codec/utf8.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_PROPERTIES 256u /* of one message */
#define FIELDS_MAX     13u  /* of the properties section */

_Static_assert((int)NV_AMQP_COUNT_OF_properties == (int)FIELDS_MAX, "put_section() writes them one by one");

/* ---- values ---------------------------------------------------------------------------------------------------- */

static bool is_signed(nv_value_type type)
{
    return (type >= NV_VALUE_BYTE && type <= NV_VALUE_LONG) || type == NV_VALUE_TIMESTAMP;
}

/* The primitives that a record has; decimals are none of them. */
static bool value_of(const nv_amqp_value *from, nv_value *out)
{
    static const uint8_t types[] = {
        [NV_AMQP_NULL] = NV_VALUE_NULL,      [NV_AMQP_BOOLEAN] = NV_VALUE_BOOL,
        [NV_AMQP_UBYTE] = NV_VALUE_UBYTE,    [NV_AMQP_USHORT] = NV_VALUE_USHORT,
        [NV_AMQP_UINT] = NV_VALUE_UINT,      [NV_AMQP_ULONG] = NV_VALUE_ULONG,
        [NV_AMQP_BYTE] = NV_VALUE_BYTE,      [NV_AMQP_SHORT] = NV_VALUE_SHORT,
        [NV_AMQP_INT] = NV_VALUE_INT,        [NV_AMQP_LONG] = NV_VALUE_LONG,
        [NV_AMQP_FLOAT] = NV_VALUE_FLOAT,    [NV_AMQP_DOUBLE] = NV_VALUE_DOUBLE,
        [NV_AMQP_CHAR] = NV_VALUE_CHAR,      [NV_AMQP_TIMESTAMP] = NV_VALUE_TIMESTAMP,
        [NV_AMQP_UUID] = NV_VALUE_UUID,      [NV_AMQP_BINARY] = NV_VALUE_BINARY,
        [NV_AMQP_STRING] = NV_VALUE_STRING,  [NV_AMQP_SYMBOL] = NV_VALUE_SYMBOL,
        [NV_AMQP_DESCRIBED] = NV_VALUE_NULL, /* the size of the table */
    };
    *out = (nv_value){.type = (nv_value_type)types[from->type]};
    if (out->type == NV_VALUE_NULL) {
        return from->type == NV_AMQP_NULL;
    }
    if (out->type >= NV_VALUE_UUID) {
        out->bytes = from->bytes;
    } else if (out->type == NV_VALUE_BOOL) {
        out->boolean = from->boolean;
    } else if (is_signed(out->type)) {
        out->i = from->i;
    } else {
        out->u = from->u;
    }
    return true;
}

static nv_amqp_value amqp_value_of(const nv_value *from)
{
    static const uint8_t types[] = {
        [NV_VALUE_NULL] = NV_AMQP_NULL,     [NV_VALUE_BOOL] = NV_AMQP_BOOLEAN,
        [NV_VALUE_UBYTE] = NV_AMQP_UBYTE,   [NV_VALUE_USHORT] = NV_AMQP_USHORT,
        [NV_VALUE_UINT] = NV_AMQP_UINT,     [NV_VALUE_ULONG] = NV_AMQP_ULONG,
        [NV_VALUE_BYTE] = NV_AMQP_BYTE,     [NV_VALUE_SHORT] = NV_AMQP_SHORT,
        [NV_VALUE_INT] = NV_AMQP_INT,       [NV_VALUE_LONG] = NV_AMQP_LONG,
        [NV_VALUE_FLOAT] = NV_AMQP_FLOAT,   [NV_VALUE_DOUBLE] = NV_AMQP_DOUBLE,
        [NV_VALUE_CHAR] = NV_AMQP_CHAR,     [NV_VALUE_TIMESTAMP] = NV_AMQP_TIMESTAMP,
        [NV_VALUE_UUID] = NV_AMQP_UUID,     [NV_VALUE_BINARY] = NV_AMQP_BINARY,
        [NV_VALUE_STRING] = NV_AMQP_STRING, [NV_VALUE_SYMBOL] = NV_AMQP_SYMBOL,
    };
    nv_amqp_value out = {.type = (nv_amqp_type)types[from->type]};
    if (from->type >= NV_VALUE_UUID) {
        out.bytes = from->bytes;
    } else if (from->type == NV_VALUE_BOOL) {
        out.boolean = from->boolean;
    } else if (is_signed(from->type)) {
        out.i = from->i;
    } else if (from->type != NV_VALUE_NULL) {
        out.u = from->u;
    }
    return out;
}

static bool is_ascii(nv_span text)
{
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == 0 || text.ptr[i] >= 0x80) {
            return false;
        }
    }
    return true;
}

/* ---- messages to records ---------------------------------------------------------------------------------------- */

/* One message on its way. */
typedef struct collector {
    nv_buf *out;
    uint32_t count;
    uint32_t seen; /* bit of each system property that is there: the first one counts */
    nv_err err;
} collector;

static void put(collector *c, nv_system_property id, nv_span name, const nv_value *value)
{
    if (c->err != NV_OK || (id != NV_PROP_APPLICATION && (c->seen >> id & 1u) != 0)) {
        return;
    }
    c->seen |= id != NV_PROP_APPLICATION ? UINT32_C(1) << id : 0;
    if (++c->count > MAX_PROPERTIES) {
        c->err = NV_E_LIMIT;
        return;
    }
    nv_property property = {.id = (uint8_t)id, .name = name, .value = *value};
    c->err = nv_property_put(c->out, &property);
}

static void put_bytes(collector *c, nv_system_property id, nv_value_type type, nv_span bytes)
{
    if (bytes.ptr) {
        put(c, id, NV_SPAN_EMPTY, &(nv_value){.type = type, .bytes = bytes});
    }
}

/* An id or an address: a string, uuid, ulong or binary, all of them as text (amqp.md section 3.4). */
static void put_id(collector *c, nv_system_property id, nv_span encoded)
{
    char scratch[NV_VALUE_TEXT_SIZE];
    nv_amqp_value any;
    nv_value value;
    nv_reader r = nv_reader_of(encoded);
    if (!encoded.ptr || c->err != NV_OK) {
        return;
    }
    if (!nv_amqp_read(&r, &any) || !value_of(&any, &value)) {
        c->err = r.err != NV_OK ? r.err : NV_E_UNSUPPORTED;
        return;
    }
    if (value.type == NV_VALUE_NULL) {
        return;
    }
    nv_span text = nv_value_text(&value, scratch);
    bool is_text = value.type != NV_VALUE_BINARY || nv_utf8_valid(text, true);
    put_bytes(c, id, is_text ? NV_VALUE_STRING : NV_VALUE_BINARY, text); /* kept as it came, but not called text */
}

static void put_properties_section(collector *c, const nv_amqp_properties *p)
{
    put_id(c, NV_PROP_MESSAGE_ID, p->message_id);
    put_bytes(c, NV_PROP_USER_ID, NV_VALUE_BINARY, p->user_id);
    put_id(c, NV_PROP_TO, p->to);
    put_bytes(c, NV_PROP_AMQP_SUBJECT, NV_VALUE_STRING, p->subject);
    put_id(c, NV_PROP_REPLY_TO, p->reply_to);
    put_id(c, NV_PROP_CORRELATION_ID, p->correlation_id);
    put_bytes(c, NV_PROP_CONTENT_TYPE, NV_VALUE_SYMBOL, p->content_type);
    put_bytes(c, NV_PROP_CONTENT_ENCODING, NV_VALUE_SYMBOL, p->content_encoding);
    if (NV_AMQP_HAS(p, properties, absolute_expiry_time)) {
        nv_value value = {.type = NV_VALUE_TIMESTAMP, .i = p->absolute_expiry_time};
        put(c, NV_PROP_ABSOLUTE_EXPIRY, NV_SPAN_EMPTY, &value);
    }
    if (NV_AMQP_HAS(p, properties, creation_time)) {
        nv_value value = {.type = NV_VALUE_TIMESTAMP, .i = p->creation_time};
        put(c, NV_PROP_CREATION_TIME_AMQP, NV_SPAN_EMPTY, &value);
    }
    put_bytes(c, NV_PROP_GROUP_ID, NV_VALUE_STRING, p->group_id);
    if (NV_AMQP_HAS(p, properties, group_sequence)) {
        nv_value value = {.type = NV_VALUE_UINT, .u = p->group_sequence};
        put(c, NV_PROP_GROUP_SEQUENCE, NV_SPAN_EMPTY, &value);
    }
    put_bytes(c, NV_PROP_REPLY_TO_GROUP_ID, NV_VALUE_STRING, p->reply_to_group_id);
}

/* Annotations and application properties that are system properties (amqp.md section 3.4). */
static const nv_system_property annotations[] = {NV_PROP_INTERFACE_ID,       NV_PROP_SUBJECT,    NV_PROP_DATA_SCHEMA,
                                                 NV_PROP_DIAGNOSTIC_ID,      NV_PROP_SCHEMA,     NV_PROP_CREATION_TIME,
                                                 NV_PROP_DIAGNOSTIC_CONTEXT, NV_PROP_OUTPUT_NAME};
static const nv_system_property applications[] = {NV_PROP_SCHEMA, NV_PROP_CREATION_TIME, NV_PROP_OUTPUT_NAME,
                                                  NV_PROP_INTERFACE_ID, NV_PROP_OPERATION};

static nv_system_property find_among(const nv_system_property *ids, size_t count, nv_span name)
{
    for (size_t i = 0; i < count; i++) {
        if (nv_span_eq_str(name, nv_system_property_name((uint8_t)ids[i]))) {
            return ids[i];
        }
    }
    return NV_PROP_APPLICATION;
}

static void put_annotations(collector *c, const nv_amqp_value *map)
{
    nv_reader at = nv_reader_of(map->bytes);
    nv_amqp_value key;
    nv_amqp_value given;
    while (c->err == NV_OK && nv_amqp_map_next(&at, &key, &given)) {
        nv_system_property id =
            nv_amqp_is_text(&key) ? find_among(annotations, NV_COUNT_OF(annotations), key.bytes) : NV_PROP_APPLICATION;
        nv_value value;
        if (id == NV_PROP_APPLICATION) {
            continue; /* the network's and the SDK's own business */
        }
        if (value_of(&given, &value)) {
            put(c, id, NV_SPAN_EMPTY, &value);
        } else {
            c->err = NV_E_UNSUPPORTED;
        }
    }
    c->err = c->err == NV_OK ? at.err : c->err;
}

static void put_application_properties(collector *c, const nv_amqp_value *map)
{
    nv_reader at = nv_reader_of(map->bytes);
    nv_amqp_value key;
    nv_amqp_value given;
    while (c->err == NV_OK && nv_amqp_map_next(&at, &key, &given)) {
        nv_value value;
        if (!nv_amqp_is_text(&key)) {
            c->err = NV_E_SYNTAX;
        } else if (!value_of(&given, &value)) {
            c->err = NV_E_UNSUPPORTED;
        } else if (!nv_property_is_stamped(key.bytes)) {
            put(c, find_among(applications, NV_COUNT_OF(applications), key.bytes), key.bytes, &value);
        }
    }
    c->err = c->err == NV_OK ? at.err : c->err;
}

nv_err amqp_properties_of_message(const nv_amqp_message *message, nv_buf *properties)
{
    collector c = {.out = properties};
    if (message->has_properties) {
        put_properties_section(&c, &message->properties);
    }
    if (message->message_annotations.type == NV_AMQP_MAP) {
        put_annotations(&c, &message->message_annotations);
    }
    if (message->application_properties.type == NV_AMQP_MAP) {
        put_application_properties(&c, &message->application_properties);
    }
    return c.err;
}

nv_err amqp_body_of_message(const nv_amqp_message *message, nv_buf *scratch, nv_body_kind *kind, nv_span *body)
{
    *body = message->body;
    switch (message->body_kind) {
    case NV_AMQP_BODY_NONE:
        *kind = NV_BODY_DATA;
        *body = NV_SPAN_EMPTY;
        return NV_OK;
    case NV_AMQP_BODY_IS_DATA:
        *kind = NV_BODY_DATA;
        return message->sections > 1 ? nv_amqp_message_bytes(message, scratch, body) : NV_OK;
    case NV_AMQP_BODY_IS_SEQUENCE:
        *kind = NV_BODY_AMQP_SEQUENCE;
        return NV_OK;
    case NV_AMQP_BODY_IS_VALUE:
        *kind = NV_BODY_AMQP_VALUE;
        return NV_OK;
    }
    return NV_E_SYNTAX;
}

nv_err amqp_record_of_message(const nv_amqp_message *message, nv_buf *properties, nv_buf *scratch, nv_body_kind *kind,
                              nv_span *body)
{
    nv_err err = amqp_properties_of_message(message, properties);
    return err == NV_OK ? amqp_body_of_message(message, scratch, kind, body) : err;
}

/* ---- records to messages ---------------------------------------------------------------------------------------- */

/* Text as AMQP must have it: bytes that are no UTF-8 go as base64. */
static void put_text(nv_writer *w, nv_span text)
{
    if (nv_utf8_valid(text, true)) {
        nv_amqp_put_string(w, text);
        return;
    }
    size_t capacity = 4 * ((text.len + 2) / 3);
    char *encoded = nv_malloc(capacity);
    nv_writer inner = nv_writer_of(encoded, capacity);
    nv_base64_encode(text, &inner);
    nv_amqp_put_string(w, nv_writer_span(&inner));
    free(encoded);
}

static void put_as_text(nv_writer *w, const nv_value *value)
{
    char scratch[NV_VALUE_TEXT_SIZE];
    put_text(w, nv_value_text(value, scratch));
}

void amqp_put_record_value(nv_writer *w, const nv_value *value)
{
    if (value->type == NV_VALUE_STRING && !nv_utf8_valid(value->bytes, true)) {
        nv_amqp_put_binary(w, value->bytes); /* a sender of another protocol called it text */
        return;
    }
    nv_amqp_value out = amqp_value_of(value);
    nv_amqp_put(w, &out);
}

/* A field of the properties section, in the type that the section wants. */
static void put_field(nv_writer *w, nv_amqp_type type, const nv_value *value)
{
    char scratch[NV_VALUE_TEXT_SIZE];
    if (value->type == NV_VALUE_NULL) {
        nv_amqp_put_null(w);
        return;
    }
    if (type == NV_AMQP_TIMESTAMP || type == NV_AMQP_UINT) {
        bool fits = value->type == (type == NV_AMQP_UINT ? NV_VALUE_UINT : NV_VALUE_TIMESTAMP);
        if (fits) {
            amqp_put_record_value(w, value);
        } else {
            nv_amqp_put_null(w);
        }
        return;
    }
    nv_span text = nv_value_text(value, scratch);
    if (type == NV_AMQP_BINARY) {
        nv_amqp_put_binary(w, text);
    } else if (type == NV_AMQP_SYMBOL && is_ascii(text)) {
        nv_amqp_put_symbol(w, text);
    } else if (type == NV_AMQP_SYMBOL) {
        nv_amqp_put_null(w);
    } else {
        put_text(w, text);
    }
}

/* Fields of the properties section in their order. */
static const struct {
    uint8_t id;
    uint8_t type;
} fields[FIELDS_MAX] = {
    {NV_PROP_MESSAGE_ID, NV_AMQP_STRING},
    {NV_PROP_USER_ID, NV_AMQP_BINARY},
    {NV_PROP_TO, NV_AMQP_STRING},
    {NV_PROP_AMQP_SUBJECT, NV_AMQP_STRING},
    {NV_PROP_REPLY_TO, NV_AMQP_STRING},
    {NV_PROP_CORRELATION_ID, NV_AMQP_STRING},
    {NV_PROP_CONTENT_TYPE, NV_AMQP_SYMBOL},
    {NV_PROP_CONTENT_ENCODING, NV_AMQP_SYMBOL},
    {NV_PROP_ABSOLUTE_EXPIRY, NV_AMQP_TIMESTAMP},
    {NV_PROP_CREATION_TIME_AMQP, NV_AMQP_TIMESTAMP},
    {NV_PROP_GROUP_ID, NV_AMQP_STRING},
    {NV_PROP_GROUP_SEQUENCE, NV_AMQP_UINT},
    {NV_PROP_REPLY_TO_GROUP_ID, NV_AMQP_STRING},
};

static void put_section(nv_writer *w, const nv_value *const values[FIELDS_MAX])
{
    static const nv_value null = {.type = NV_VALUE_NULL};
    nv_amqp_put_descriptor(w, NV_AMQP_PROPERTIES);
    size_t mark = nv_amqp_begin_list(w);
    for (size_t i = 0; i < FIELDS_MAX; i++) {
        put_field(w, (nv_amqp_type)fields[i].type, values[i] ? values[i] : &null);
    }
    nv_amqp_end_list(w, mark, FIELDS_MAX);
}

static size_t field_of(uint8_t id)
{
    size_t i = 0;
    while (i < FIELDS_MAX && fields[i].id != id) {
        i++;
    }
    return i;
}

static void put_map_entry(nv_writer *w, const nv_property *property, bool strings_only)
{
    put_text(w, property->name);
    if (strings_only) {
        put_as_text(w, &property->value);
    } else {
        amqp_put_record_value(w, &property->value);
    }
}

void amqp_put_record_properties(nv_writer *w, nv_span properties, bool strings_only)
{
    nv_value kept[FIELDS_MAX];
    const nv_value *values[FIELDS_MAX] = {NULL};
    uint32_t applications_count = 0;
    bool any = false;
    nv_reader r = nv_reader_of(properties);
    nv_property property;
    while (nv_property_next(&r, &property)) {
        size_t field = field_of(property.id);
        if (property.id == NV_PROP_APPLICATION) {
            applications_count++;
        } else if (field < FIELDS_MAX && !values[field]) {
            kept[field] = property.value;
            values[field] = &kept[field];
            any = true;
        }
    }
    if (any) {
        put_section(w, values);
    }
    if (applications_count == 0) {
        return;
    }
    size_t mark = nv_amqp_begin_map_section(w, NV_AMQP_APPLICATION_PROPERTIES);
    r = nv_reader_of(properties);
    while (nv_property_next(&r, &property)) {
        if (property.id == NV_PROP_APPLICATION) {
            put_map_entry(w, &property, strings_only);
        }
    }
    nv_amqp_end_map(w, mark, 2 * applications_count);
}

void amqp_put_body_head(nv_writer *w, nv_body_kind kind, size_t len)
{
    switch (kind) {
    case NV_BODY_DATA:
        nv_amqp_put_data_head(w, len);
        return;
    case NV_BODY_AMQP_VALUE:
        nv_amqp_put_value_head(w);
        return;
    case NV_BODY_AMQP_SEQUENCE:
        return; /* kept with its heads */
    }
}
