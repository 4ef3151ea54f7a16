#include "session/http_identity.h"

#include "base/clock.h"
#include "codec/base64.h"
#include "codec/hex.h"

#include <json-c/json.h>
#include <stdio.h>

/* ---- entity tags -------------------------------------------------------------------------------------------- */

void nv_etag_format(uint64_t etag, char out[NV_ETAG_TEXT_SIZE])
{
    char decimal[24];
    int len = snprintf(decimal, sizeof(decimal), "%llu", (unsigned long long)etag);
    nv_writer w = nv_writer_of(out, NV_ETAG_TEXT_SIZE - 1);
    nv_base64_encode(nv_span_of(decimal, (size_t)len), &w);
    out[nv_writer_len(&w)] = '\0';
}

nv_precondition nv_if_match_parse(nv_span text, nv_span *bare)
{
    if (nv_span_starts_with(text, nv_span_str("W/"))) {
        text = nv_span_skip(text, 2);
    }
    if (text.len >= 2 && text.ptr[0] == '"' && text.ptr[text.len - 1] == '"') {
        text = nv_span_of(text.ptr + 1, text.len - 2);
    }
    *bare = text;
    return text.len == 0 ? NV_IF_NONE : nv_span_eq_str(text, "*") ? NV_IF_ANY : NV_IF_ETAG;
}

nv_precondition nv_etag_parse(nv_span text, uint64_t *etag)
{
    nv_span bare;
    nv_precondition precondition = nv_if_match_parse(text, &bare);
    uint8_t decimal[24];
    size_t len = 0;
    *etag = UINT64_MAX; /* the registry counts to INT64_MAX */
    if (precondition == NV_IF_ETAG && nv_base64_decode(bare, decimal, sizeof(decimal), &len) == NV_OK &&
        !nv_span_to_u64(nv_span_of(decimal, len), etag)) {
        *etag = UINT64_MAX;
    }
    return precondition;
}

/* ---- writing ------------------------------------------------------------------------------------------------ */

static const char *const auth_names[] = {[NV_AUTH_SAS] = "sas",
                                         [NV_AUTH_SELF_SIGNED] = "selfSigned",
                                         [NV_AUTH_CA] = "certificateAuthority",
                                         [NV_AUTH_NONE] = "none"};

static void write_time(nv_json_writer *w, const char *name, int64_t wall_us)
{
    char text[NV_TIME_TEXT_SIZE];
    nv_identity_time(wall_us, text);
    nv_json_key(w, name);
    nv_json_str(w, text);
}

static void write_text_or_null(nv_json_writer *w, const char *name, nv_span text)
{
    nv_json_key(w, name);
    nv_json_string_or_null(w, text);
}

static void write_key(nv_json_writer *w, const char *name, const nv_identity *identity, const nv_key *key)
{
    nv_json_key(w, name);
    if (key->len > 0 && identity->auth == NV_AUTH_SAS) {
        nv_json_base64(w, nv_span_of(key->bytes, key->len));
    } else {
        nv_json_null(w);
    }
}

static void write_authentication(nv_json_writer *w, const nv_identity *identity)
{
    nv_json_key(w, "authentication");
    nv_json_begin_object(w);
    nv_json_key(w, "symmetricKey");
    nv_json_begin_object(w);
    write_key(w, "primaryKey", identity, &identity->primary_key);
    write_key(w, "secondaryKey", identity, &identity->secondary_key);
    nv_json_end_object(w);
    nv_json_key(w, "x509Thumbprint");
    nv_json_begin_object(w);
    write_text_or_null(w, "primaryThumbprint", identity->primary_thumbprint);
    write_text_or_null(w, "secondaryThumbprint", identity->secondary_thumbprint);
    nv_json_end_object(w);
    nv_json_key(w, "type");
    nv_json_str(w, auth_names[identity->auth]);
    nv_json_end_object(w);
}

static void write_device_tail(nv_json_writer *w, const nv_identity *identity)
{
    nv_json_key(w, "capabilities");
    nv_json_begin_object(w);
    nv_json_key(w, "iotEdge");
    nv_json_bool(w, identity->iot_edge);
    nv_json_end_object(w);
    if (identity->device_scope.len > 0) {
        nv_json_key(w, "deviceScope");
        nv_json_string(w, identity->device_scope);
    }
    if (identity->parent_scopes.len > 0) {
        nv_json_key(w, "parentScopes");
        nv_json_raw(w, identity->parent_scopes);
    }
    if (identity->attributes.len > 0) {
        nv_json_key(w, "attributes");
        nv_json_raw(w, identity->attributes);
    }
}

void nv_identity_write_json(nv_json_writer *w, const nv_identity *identity, const nv_presence *presence,
                            uint64_t c2d_count)
{
    bool module = identity->module_id.len > 0;
    char etag[NV_ETAG_TEXT_SIZE];
    nv_etag_format(identity->etag, etag);
    nv_json_begin_object(w);
    if (module) {
        nv_json_key(w, "moduleId");
        nv_json_string(w, identity->module_id);
        write_text_or_null(w, "managedBy", identity->managed_by);
    }
    nv_json_key(w, "deviceId");
    nv_json_string(w, identity->device_id);
    nv_json_key(w, "generationId");
    nv_json_string(w, identity->generation_id);
    nv_json_key(w, "etag");
    nv_json_str(w, etag);
    nv_json_key(w, "connectionState");
    nv_json_str(w, presence->connected ? "Connected" : "Disconnected");
    if (!module) {
        nv_json_key(w, "status");
        nv_json_str(w, identity->enabled ? "enabled" : "disabled");
        write_text_or_null(w, "statusReason", identity->status_reason);
    }
    write_time(w, "connectionStateUpdatedTime",
               presence->connection_updated_us ? presence->connection_updated_us : identity->connection_updated_us);
    if (!module) {
        write_time(w, "statusUpdatedTime", identity->status_updated_us);
    }
    write_time(w, "lastActivityTime",
               presence->last_activity_us ? presence->last_activity_us : identity->last_activity_us);
    nv_json_key(w, "cloudToDeviceMessageCount");
    nv_json_uint(w, c2d_count);
    write_authentication(w, identity);
    if (!module) {
        write_device_tail(w, identity);
    }
    nv_json_end_object(w);
}

/* ---- reading ------------------------------------------------------------------------------------------------ */

static nv_hub_error invalid(char detail[200], const char *text)
{
    (void)snprintf(detail, 200, "%s", text);
    return NV_HUB_ERROR_ArgumentInvalid;
}

/** A string member; null, absent and "" leave @p out empty. @return false: something else than a string */
static bool read_text(struct json_object *tree, const char *name, nv_span *out)
{
    struct json_object *value = nv_json_member(tree, name);
    *out = NV_SPAN_EMPTY;
    return !value || nv_json_as_string(value, out);
}

static bool read_bool(struct json_object *tree, const char *name, bool *out)
{
    struct json_object *value = nv_json_member(tree, name);
    *out = value && json_object_get_boolean(value);
    return !value || json_object_is_type(value, json_type_boolean);
}

static nv_hub_error read_key(nv_span text, nv_key *key, char detail[200])
{
    size_t len = 0;
    nv_err err = nv_base64_decode(text, key->bytes, sizeof(key->bytes), &len);
    if (err == NV_E_SYNTAX) {
        return invalid(detail, "Invalid device key: it is not base64");
    }
    if (err != NV_OK) {
        return invalid(detail, "Invalid device key length: a key is base64 of 16 to 64 bytes");
    }
    key->len = (uint8_t)len;
    return NV_HUB_ERROR_NONE;
}

static nv_hub_error read_keys(struct json_object *tree, nv_identity_spec *spec, char detail[200])
{
    struct json_object *keys = nv_json_member(tree, "symmetricKey");
    nv_span primary;
    nv_span secondary;
    if (!read_text(keys, "primaryKey", &primary) || !read_text(keys, "secondaryKey", &secondary)) {
        return invalid(detail, "A key is a base64 string");
    }
    if ((primary.len > 0) != (secondary.len > 0)) {
        return invalid(detail, "Either no keys or both keys can be set");
    }
    if (primary.len == 0) {
        return NV_HUB_ERROR_NONE;
    }
    nv_hub_error error = read_key(primary, &spec->primary_key, detail);
    if (error == NV_HUB_ERROR_NONE) {
        error = read_key(secondary, &spec->secondary_key, detail);
    }
    spec->has_keys = error == NV_HUB_ERROR_NONE;
    return error;
}

static nv_hub_error read_thumbprints(struct json_object *tree, nv_identity_spec *spec)
{
    struct json_object *prints = nv_json_member(tree, "x509Thumbprint");
    bool text = read_text(prints, "primaryThumbprint", &spec->primary_thumbprint) &&
                read_text(prints, "secondaryThumbprint", &spec->secondary_thumbprint);
    return text ? NV_HUB_ERROR_NONE : NV_HUB_ERROR_StringIsNotThumbprint;
}

/** Absent: a thumbprint means selfSigned, else sas. */
static nv_hub_error read_type(struct json_object *tree, nv_identity_spec *spec, char detail[200])
{
    nv_span type;
    if (!read_text(tree, "type", &type)) {
        return invalid(detail, "authentication.type is a string");
    }
    if (type.len == 0) {
        bool print = spec->primary_thumbprint.len > 0 || spec->secondary_thumbprint.len > 0;
        spec->auth = print ? NV_AUTH_SELF_SIGNED : NV_AUTH_SAS;
        return NV_HUB_ERROR_NONE;
    }
    for (size_t i = 0; i < NV_COUNT_OF(auth_names); i++) {
        if (nv_span_eq_nocase(type, nv_span_str(auth_names[i]))) {
            spec->auth = (nv_auth_kind)i;
        }
    }
    if (!nv_span_eq_nocase(type, nv_span_str(auth_names[spec->auth]))) {
        return invalid(detail, "authentication.type is sas, selfSigned or certificateAuthority");
    }
    if (spec->auth == NV_AUTH_NONE && spec->module_id.len > 0) {
        spec->auth = NV_AUTH_SAS; /* http-hub.md section 6 */
    }
    return NV_HUB_ERROR_NONE;
}

static nv_hub_error read_authentication(struct json_object *tree, nv_identity_spec *spec, char detail[200])
{
    struct json_object *auth = nv_json_member(tree, "authentication");
    if (auth && !json_object_is_type(auth, json_type_object)) {
        return invalid(detail, "authentication is an object");
    }
    nv_hub_error error = read_thumbprints(auth, spec);
    if (error == NV_HUB_ERROR_NONE) {
        error = read_type(auth, spec, detail);
    }
    if (error != NV_HUB_ERROR_NONE) {
        return error;
    }
    if (spec->auth == NV_AUTH_SAS) {
        spec->primary_thumbprint = spec->secondary_thumbprint = NV_SPAN_EMPTY;
        return read_keys(auth, spec, detail);
    }
    if (spec->auth == NV_AUTH_CA) {
        spec->primary_thumbprint = spec->secondary_thumbprint = NV_SPAN_EMPTY;
    }
    return NV_HUB_ERROR_NONE;
}

static nv_hub_error read_status(struct json_object *tree, nv_identity_spec *spec, char detail[200])
{
    nv_span status;
    if (!read_text(tree, "status", &status)) {
        return invalid(detail, "status is enabled or disabled");
    }
    spec->enabled = status.len == 0 || nv_span_eq_nocase(status, nv_span_str("enabled"));
    if (!spec->enabled && !nv_span_eq_nocase(status, nv_span_str("disabled"))) {
        return invalid(detail, "status is enabled or disabled");
    }
    bool good = read_text(tree, "statusReason", &spec->status_reason);
    return good ? NV_HUB_ERROR_NONE : invalid(detail, "statusReason is a string");
}

/** A member kept as JSON text; the text lives in the tree. */
static bool read_json(struct json_object *tree, const char *name, json_type type, nv_span *out)
{
    struct json_object *value = nv_json_member(tree, name);
    *out = NV_SPAN_EMPTY;
    if (!value) {
        return true;
    }
    if (!json_object_is_type(value, type)) {
        return false;
    }
    size_t len = 0;
    const char *text = json_object_to_json_string_length(value, JSON_C_TO_STRING_PLAIN, &len);
    bool holds_something =
        type == json_type_array ? json_object_array_length(value) > 0 : json_object_object_length(value) > 0;
    if (holds_something) {
        *out = nv_span_of(text, len);
    }
    return true;
}

static bool all_strings(struct json_object *array)
{
    size_t count = array ? json_object_array_length(array) : 0;
    for (size_t i = 0; i < count; i++) {
        if (!json_object_is_type(json_object_array_get_idx(array, i), json_type_string)) {
            return false;
        }
    }
    return true;
}

static nv_hub_error read_device_only(struct json_object *tree, nv_identity_spec *spec, char detail[200])
{
    if (!read_bool(nv_json_member(tree, "capabilities"), "iotEdge", &spec->iot_edge)) {
        return invalid(detail, "capabilities.iotEdge is true or false");
    }
    if (!read_text(tree, "deviceScope", &spec->device_scope)) {
        return invalid(detail, "deviceScope is a string");
    }
    if (!read_json(tree, "parentScopes", json_type_array, &spec->parent_scopes) ||
        !all_strings(nv_json_member(tree, "parentScopes"))) {
        return invalid(detail, "parentScopes is an array of strings");
    }
    if (!read_json(tree, "attributes", json_type_object, &spec->attributes)) {
        return invalid(detail, "attributes is an object");
    }
    return NV_HUB_ERROR_NONE;
}

nv_hub_error nv_identity_read_json(struct json_object *tree, nv_identity_spec *spec, char detail[200])
{
    detail[0] = '\0';
    if (!json_object_is_type(tree, json_type_object)) {
        return invalid(detail, "An identity is a JSON object");
    }
    spec->enabled = true;
    nv_hub_error error = read_authentication(tree, spec, detail);
    if (error != NV_HUB_ERROR_NONE) {
        return error;
    }
    if (spec->module_id.len > 0) {
        bool good = read_text(tree, "managedBy", &spec->managed_by);
        return good ? NV_HUB_ERROR_NONE : invalid(detail, "managedBy is a string");
    }
    error = read_status(tree, spec, detail);
    return error == NV_HUB_ERROR_NONE ? read_device_only(tree, spec, detail) : error;
}
