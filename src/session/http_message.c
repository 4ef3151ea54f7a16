#include "session/http_message.h"

#include "base/clock.h"
#include "codec/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define APP_PREFIX "iothub-app-"

/* ---- names -------------------------------------------------------------------------------------------------- */

/* What a header or the name of a batch's property is to the hub; -1: it means nothing. */
static const struct {
    const char *name;
    int id;
} known_names[] = {
    {"iothub-messageid", NV_PROP_MESSAGE_ID},
    {"iothub-correlationid", NV_PROP_CORRELATION_ID},
    {"iothub-userid", NV_PROP_USER_ID},
    {"iothub-expiry", NV_PROP_EXPIRY},
    {"iothub-ack", NV_PROP_ACK},
    {"iothub-contenttype", NV_PROP_CONTENT_TYPE},
    {"iothub-contentencoding", NV_PROP_CONTENT_ENCODING},
    {"iothub-creationtimeutc", NV_PROP_CREATION_TIME},
    {"iothub-creation-time-utc", NV_PROP_CREATION_TIME},
    {"iothub-interface-id", NV_PROP_INTERFACE_ID},
    {"iothub-messageschema", NV_PROP_SCHEMA},
    {"dt-subject", NV_PROP_SUBJECT},
    {"iothub-to", -1},
    {"iothub-operation", -1},
};

/* @return NV_PROP_APPLICATION: no name that we know */
static int known_name(nv_span name)
{
    for (size_t i = 0; i < NV_COUNT_OF(known_names); i++) {
        if (nv_span_eq_nocase(name, nv_span_str(known_names[i].name))) {
            return known_names[i].id;
        }
    }
    return NV_PROP_APPLICATION;
}

static bool has_app_prefix(nv_span name)
{
    return nv_span_eq_nocase(nv_span_first(name, sizeof(APP_PREFIX) - 1), nv_span_str(APP_PREFIX));
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

static nv_err put_text(nv_buf *out, nv_system_property id, nv_span name, nv_span value)
{
    nv_property property = {.id = (uint8_t)id, .name = name, .value = nv_value_string(value)};
    if (!nv_utf8_valid(value, true)) {
        property.value.type = NV_VALUE_BINARY; /* kept as it came, but not called text */
    }
    return nv_property_put(out, &property);
}

nv_err nv_http_read_property(nv_span name, nv_span value, nv_buf *out)
{
    int known = known_name(name);
    if (known < 0) {
        return NV_OK;
    }
    nv_span bare = has_app_prefix(name) ? nv_span_skip(name, sizeof(APP_PREFIX) - 1) : name;
    return bare.len == 0 || nv_property_is_stamped(bare) ? NV_OK
                                                         : put_text(out, (nv_system_property)known, bare, value);
}

static nv_span header_name(const nv_http_request *request, size_t i)
{
    return nv_span_first(nv_span_skip(nv_buf_span(&request->text), request->headers[i].name),
                         request->headers[i].name_len);
}

static nv_span header_value(const nv_http_request *request, size_t i)
{
    return nv_span_first(nv_span_skip(nv_buf_span(&request->text), request->headers[i].value),
                         request->headers[i].value_len);
}

static nv_span without_parameters(nv_span type)
{
    nv_span bare = nv_span_first(type, nv_span_find(type, ';'));
    while (bare.len > 0 && bare.ptr[bare.len - 1] == ' ') {
        bare.len--;
    }
    return bare;
}

bool nv_http_is_batch(const nv_http_request *request)
{
    nv_span type = NV_SPAN_EMPTY;
    return nv_http_find_header(request, "content-type", &type) &&
           nv_span_eq_nocase(without_parameters(type), nv_span_str("application/vnd.microsoft.iothub.json"));
}

/* What a client library says of itself when its user said nothing. */
static bool is_default_type(nv_span type)
{
    nv_span bare = without_parameters(type);
    return nv_span_eq_nocase(bare, nv_span_str("application/octet-stream")) ||
           nv_span_eq_nocase(bare, nv_span_str("application/x-www-form-urlencoded"));
}

/* The CLI says it with HTTP's own headers. */
static nv_err read_own_headers(const nv_http_request *request, nv_buf *out)
{
    nv_span value = NV_SPAN_EMPTY;
    nv_value given;
    nv_err err = NV_OK;
    bool type = nv_property_find(nv_buf_span(out), NV_PROP_CONTENT_TYPE, &given);
    bool encoding = nv_property_find(nv_buf_span(out), NV_PROP_CONTENT_ENCODING, &given);
    if (!type && nv_http_find_header(request, "content-type", &value) && value.len > 0 && !is_default_type(value)) {
        err = put_text(out, NV_PROP_CONTENT_TYPE, NV_SPAN_EMPTY, value);
    }
    if (err == NV_OK && !encoding && nv_http_find_header(request, "content-encoding", &value) && value.len > 0) {
        err = put_text(out, NV_PROP_CONTENT_ENCODING, NV_SPAN_EMPTY, value);
    }
    return err;
}

nv_err nv_http_read_properties(const nv_http_request *request, nv_buf *out)
{
    nv_err err = NV_OK;
    for (size_t i = 0; err == NV_OK && i < request->header_count; i++) {
        nv_span name = header_name(request, i);
        int known = known_name(name);
        if (known > 0) {
            err = put_text(out, (nv_system_property)known, NV_SPAN_EMPTY, header_value(request, i));
        } else if (known == NV_PROP_APPLICATION && has_app_prefix(name)) {
            err = nv_http_read_property(name, header_value(request, i), out);
        }
    }
    return err == NV_OK ? read_own_headers(request, out) : err;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

static bool is_token(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c != '\0' && strchr("!#$&'*+-.^_|~`", c));
}

static bool stands(uint8_t c, bool in_name)
{
    return in_name ? is_token(c) : c >= 0x20 && c != 0x7f;
}

static nv_err append_safe(nv_buf *out, nv_span text, bool in_name)
{
    nv_err err = NV_OK;
    size_t from = 0;
    for (size_t i = 0; err == NV_OK && i < text.len; i++) {
        if (stands(text.ptr[i], in_name)) {
            continue;
        }
        err = nv_buf_append(out, nv_span_of(text.ptr + from, i - from));
        err = err == NV_OK ? nv_buf_printf(out, "%%%02X", text.ptr[i]) : err;
        from = i + 1;
    }
    return err == NV_OK ? nv_buf_append(out, nv_span_skip(text, from)) : err;
}

static nv_err append_header(nv_buf *out, const char *prefix, nv_span name, nv_span value)
{
    nv_err err = nv_buf_append_str(out, prefix);
    err = err == NV_OK ? append_safe(out, name, true) : err;
    err = err == NV_OK ? nv_buf_append_str(out, ": ") : err;
    err = err == NV_OK ? append_safe(out, value, false) : err;
    return err == NV_OK ? nv_buf_append_str(out, "\r\n") : err;
}

/* How the header of a system property is called; NULL: it has none. */
static const char *header_of(uint8_t id)
{
    switch (id) {
    case NV_PROP_MESSAGE_ID:
        return "iothub-messageid";
    case NV_PROP_CORRELATION_ID:
        return "iothub-correlationid";
    case NV_PROP_USER_ID:
        return "iothub-userid";
    case NV_PROP_TO:
        return "iothub-to";
    case NV_PROP_CONTENT_TYPE:
        return "ContentType";
    case NV_PROP_CONTENT_ENCODING:
        return "ContentEncoding";
    case NV_PROP_CREATION_TIME:
        return "iothub-creationtimeutc";
    default:
        return NULL;
    }
}

static nv_err append_number(nv_buf *out, const char *name, uint64_t value)
{
    return nv_buf_printf(out, "%s: %" PRIu64 "\r\n", name, value);
}

static nv_err append_time(nv_buf *out, const char *name, int64_t wall_us)
{
    char text[NV_TIME_TEXT_SIZE];
    nv_time_format(wall_us, text);
    return nv_buf_printf(out, "%s: %s\r\n", name, text);
}

nv_err nv_http_write_properties(const nv_c2d_message *message, int64_t default_ttl_us, nv_buf *out)
{
    nv_reader r = nv_reader_of(message->properties);
    nv_property property;
    nv_err err = nv_buf_printf(out, "iothub-ack: %s\r\n", nv_c2d_ack_name(message->ack));
    err = err == NV_OK ? append_number(out, "iothub-sequencenumber", message->sequence) : err;
    err = err == NV_OK ? append_time(out, "iothub-enqueuedtime", message->enqueued_us) : err;
    err = err == NV_OK ? append_number(out, "iothub-deliverycount", message->delivery_count) : err;
    if (err == NV_OK && message->expires_us != message->enqueued_us + default_ttl_us) {
        err = append_time(out, "iothub-expiry", message->expires_us);
    }
    while (err == NV_OK && nv_property_next(&r, &property)) {
        char scratch[NV_VALUE_TEXT_SIZE];
        nv_span value = nv_value_text(&property.value, scratch);
        const char *header = header_of(property.id);
        if (property.id == NV_PROP_APPLICATION) {
            err = append_header(out, APP_PREFIX, property.name, value);
        } else if (header) {
            err = append_header(out, "", nv_span_str(header), value);
        }
    }
    return err == NV_OK ? r.err : err;
}

/* ---- times -------------------------------------------------------------------------------------------------- */

bool nv_http_read_time(nv_span text, int64_t *wall_us)
{
    char copy[64];
    if (text.len == 0 || text.len >= sizeof(copy)) {
        return false;
    }
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = '\0';
    struct tm tm = {0};
    char *rest = strptime(copy, "%Y-%m-%dT%H:%M:%S", &tm);
    if (!rest) {
        return false;
    }
    int64_t fraction = 0;
    bool round_up = false;
    if (*rest == '.') {
        int64_t unit = NV_US_PER_S;
        for (rest++; *rest >= '0' && *rest <= '9'; rest++) {
            bool finer = unit <= 1; /* than a microsecond: "at or after" rounds up */
            unit /= 10;
            fraction += finer ? 0 : (*rest - '0') * unit;
            round_up = round_up || (finer && *rest != '0');
        }
    }
    if (*rest == 'Z' || *rest == 'z') {
        rest++;
    }
    *wall_us = (int64_t)timegm(&tm) * NV_US_PER_S + fraction + (round_up ? 1 : 0);
    return *rest == '\0';
}
