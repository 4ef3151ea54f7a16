/**
 * Encoding of properties and stamps, little-endian, as they stand on disk:
 *
 *   property  u8 id; when id = 0: u16 length, name; u8 value type; value
 *   value     nothing (NULL), 1, 2, 4, 8 or 16 bytes by type; BINARY, STRING, SYMBOL: u16 length, bytes
 *   stamp     u8 scope, u8 type, then four times u16 length, bytes: device, module, generation, model
 */
#include "store/record.h"

enum { MAX_TEXT = 65535 };

/* ---- names ------------------------------------------------------------------------------------------------ */

const char *nv_system_property_name(uint8_t id)
{
    static const char *const names[] = {
#define X(name, value, mqtt, text) [value] = (text),
        NV_SYSTEM_PROPERTY_TABLE(X)
#undef X
    };
    return id < NV_COUNT_OF(names) ? names[id] : NULL;
}

nv_system_property nv_system_property_of_mqtt(nv_span key)
{
    static const struct {
        const char *key;
        nv_system_property id;
    } rows[] = {
#define X(name, value, mqtt, text) {mqtt, NV_PROP_##name},
        NV_SYSTEM_PROPERTY_TABLE(X)
#undef X
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        if (rows[i].key && nv_span_eq_str(key, rows[i].key)) {
            return rows[i].id;
        }
    }
    return NV_PROP_APPLICATION;
}

bool nv_property_is_stamped(nv_span name)
{
    static const char *const names[] = {"iothub-connection-device-id",
                                        "iothub-connection-module-id",
                                        "iothub-connection-auth-method",
                                        "iothub-connection-auth-generation-id",
                                        "iothub-enqueuedtime",
                                        "iothub-message-source",
                                        "dt-dataschema"};
    uint8_t first = name.len ? name.ptr[0] | 0x20 : 0;
    if (first != 'i' && first != 'd') {
        return false;
    }
    for (size_t i = 0; i < NV_COUNT_OF(names); i++) {
        if (nv_span_eq_nocase(name, nv_span_str(names[i]))) {
            return true;
        }
    }
    return false;
}

const char *nv_source_name(uint8_t source)
{
    static const char *const names[] = {
#define X(id, value, name) [value] = (name),
        NV_SOURCE_TABLE(X)
#undef X
    };
    return source < NV_COUNT_OF(names) ? names[source] : NULL;
}

/* ---- values ----------------------------------------------------------------------------------------------- */

/** Bytes of a value of fixed size; -1 for texts, -2 for types that do not exist. */
static int value_size(uint8_t type)
{
    static const int8_t sizes[] = {
        [NV_VALUE_NULL] = 0,    [NV_VALUE_BOOL] = 1,      [NV_VALUE_UBYTE] = 1, [NV_VALUE_USHORT] = 2,
        [NV_VALUE_UINT] = 4,    [NV_VALUE_ULONG] = 8,     [NV_VALUE_BYTE] = 1,  [NV_VALUE_SHORT] = 2,
        [NV_VALUE_INT] = 4,     [NV_VALUE_LONG] = 8,      [NV_VALUE_FLOAT] = 4, [NV_VALUE_DOUBLE] = 8,
        [NV_VALUE_CHAR] = 4,    [NV_VALUE_TIMESTAMP] = 8, [NV_VALUE_UUID] = 16, [NV_VALUE_BINARY] = -1,
        [NV_VALUE_STRING] = -1, [NV_VALUE_SYMBOL] = -1,
    };
    return type < NV_COUNT_OF(sizes) ? sizes[type] : -2;
}

static bool is_signed(nv_value_type type)
{
    return type == NV_VALUE_BYTE || type == NV_VALUE_SHORT || type == NV_VALUE_INT || type == NV_VALUE_LONG ||
           type == NV_VALUE_TIMESTAMP;
}

static void write_text(nv_writer *w, nv_span text)
{
    nv_write_u16_le(w, (uint16_t)text.len);
    nv_write_span(w, text);
}

static void write_value(nv_writer *w, const nv_value *value)
{
    int size = value_size((uint8_t)value->type);
    nv_write_u8(w, (uint8_t)value->type);
    if (size == -1) {
        write_text(w, value->bytes);
    } else if (size == 16) {
        nv_write_span(w, value->bytes);
    } else {
        uint64_t bits = value->type == NV_VALUE_BOOL ? value->boolean
                        : is_signed(value->type)     ? (uint64_t)value->i
                                                     : value->u;
        for (int i = 0; i < size; i++) {
            nv_write_u8(w, (uint8_t)(bits >> 8 * i));
        }
    }
}

/** Two's complement of @p size bytes to 64 bits. */
static int64_t extend(uint64_t bits, int size)
{
    int shift = 64 - 8 * size;
    return (int64_t)(bits << shift) >> shift;
}

static void read_value(nv_reader *r, nv_value *out)
{
    uint8_t type = nv_read_u8(r);
    int size = value_size(type);
    *out = (nv_value){.type = size == -2 ? NV_VALUE_NULL : (nv_value_type)type, .u = 0};
    if (size == -2) {
        r->err = r->err == NV_OK ? NV_E_CORRUPT : r->err;
    } else if (size == -1) {
        out->bytes = nv_read_span(r, nv_read_u16_le(r));
    } else if (size == 16) {
        out->bytes = nv_read_span(r, 16);
    } else {
        uint64_t bits = 0;
        for (int i = 0; i < size; i++) {
            bits |= (uint64_t)nv_read_u8(r) << 8 * i;
        }
        if (out->type == NV_VALUE_BOOL) {
            out->boolean = bits != 0;
        } else if (size > 0 && is_signed(out->type)) {
            out->i = extend(bits, size);
        } else {
            out->u = bits;
        }
    }
}

/* ---- properties ------------------------------------------------------------------------------------------- */

nv_err nv_property_put(nv_buf *out, const nv_property *property)
{
    int size = value_size((uint8_t)property->value.type);
    size_t text = size == -1 ? property->value.bytes.len : 0;
    if (size == -2 || (size == 16 && property->value.bytes.len != 16)) {
        return NV_E_INVALID;
    }
    size_t name = property->id == NV_PROP_APPLICATION ? property->name.len : 0;
    if (name > MAX_TEXT || text > MAX_TEXT) {
        return NV_E_TOO_BIG;
    }
    size_t need = 1 + (property->id ? 0 : 2 + name) + 1 + (size == -1 ? 2 + text : (size_t)size);
    uint8_t *room = nv_buf_reserve(out, need);
    if (!room) {
        return NV_E_TOO_BIG;
    }
    nv_writer w = nv_writer_of(room, need);
    nv_write_u8(&w, property->id);
    if (property->id == NV_PROP_APPLICATION) {
        write_text(&w, property->name);
    }
    write_value(&w, &property->value);
    nv_buf_commit(out, nv_writer_len(&w));
    return w.err;
}

bool nv_property_next(nv_reader *r, nv_property *out)
{
    if (r->err != NV_OK || nv_reader_left(r) == 0) {
        return false;
    }
    *out = (nv_property){.id = nv_read_u8(r)};
    if (out->id == NV_PROP_APPLICATION) {
        out->name = nv_read_span(r, nv_read_u16_le(r));
    }
    read_value(r, &out->value);
    return r->err == NV_OK;
}

bool nv_property_find(nv_span section, nv_system_property id, nv_value *out)
{
    nv_reader r = nv_reader_of(section);
    nv_property property;
    while (nv_property_next(&r, &property)) {
        if (property.id == (uint8_t)id && id != NV_PROP_APPLICATION) {
            *out = property.value;
            return true;
        }
    }
    return false;
}

static size_t size_of_value(const nv_value *value)
{
    int size = value_size((uint8_t)value->type);
    return size >= 0 ? (size_t)size : value->bytes.len;
}

nv_err nv_record_size(nv_span properties, nv_span body, size_t *out)
{
    nv_reader r = nv_reader_of(properties);
    nv_property property;
    size_t size = body.len;
    while (nv_property_next(&r, &property)) {
        size += size_of_value(&property.value) + (property.id == NV_PROP_APPLICATION ? property.name.len : 0);
    }
    *out = size;
    return r.err == NV_OK ? NV_OK : NV_E_SYNTAX;
}

/* ---- stamps ----------------------------------------------------------------------------------------------- */

nv_err nv_stamp_encode(nv_buf *out, const nv_stamp *stamp)
{
    const nv_span *texts[] = {&stamp->device_id, &stamp->module_id, &stamp->generation_id, &stamp->model_id};
    size_t need = 2;
    for (size_t i = 0; i < NV_COUNT_OF(texts); i++) {
        if (texts[i]->len > MAX_TEXT) {
            return NV_E_TOO_BIG;
        }
        need += 2 + texts[i]->len;
    }
    uint8_t *room = nv_buf_reserve(out, need);
    if (!room) {
        return NV_E_TOO_BIG;
    }
    nv_writer w = nv_writer_of(room, need);
    nv_write_u8(&w, (uint8_t)stamp->scope);
    nv_write_u8(&w, (uint8_t)stamp->type);
    for (size_t i = 0; i < NV_COUNT_OF(texts); i++) {
        write_text(&w, *texts[i]);
    }
    nv_buf_commit(out, nv_writer_len(&w));
    return w.err;
}

nv_err nv_stamp_decode(nv_span bytes, nv_stamp *out)
{
    nv_reader r = nv_reader_of(bytes);
    uint8_t scope = nv_read_u8(&r);
    uint8_t type = nv_read_u8(&r);
    *out = (nv_stamp){.scope = (nv_auth_scope)scope, .type = (nv_auth_type)type};
    nv_span *texts[] = {&out->device_id, &out->module_id, &out->generation_id, &out->model_id};
    for (size_t i = 0; i < NV_COUNT_OF(texts); i++) {
        *texts[i] = nv_read_span(&r, nv_read_u16_le(&r));
    }
    bool known = scope <= NV_AUTH_SCOPE_HUB && type <= NV_AUTH_TYPE_X509;
    return r.err == NV_OK && nv_reader_left(&r) == 0 && known ? NV_OK : NV_E_CORRUPT;
}

const char *nv_stamp_auth_method(const nv_stamp *stamp)
{
#define METHOD(scope, type)                                                                                            \
    "{\"scope\":\"" scope "\",\"type\":\"" type "\",\"issuer\":\"iothub\",\"acceptingIpFilterRule\":null}"
    static const char *const texts[3][2] = {
        [NV_AUTH_SCOPE_DEVICE] = {METHOD("device", "sas"), METHOD("device", "x509")},
        [NV_AUTH_SCOPE_MODULE] = {METHOD("module", "sas"), METHOD("module", "x509")},
        [NV_AUTH_SCOPE_HUB] = {METHOD("hub", "sas"), METHOD("hub", "x509")},
    };
#undef METHOD
    return texts[stamp->scope][stamp->type];
}
