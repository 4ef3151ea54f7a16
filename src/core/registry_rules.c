#include "core/registry_rules.h"

#include "codec/ids.h"
#include "codec/utf8.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define SCOPE_PREFIX "ms-azure-iot-edge://"
/* prefix, device id, '-', generation */
#define SCOPE_MAX (sizeof(SCOPE_PREFIX) + NV_ID_MAX + 1 + 20)

static const nv_span iot_edge_text = NV_SPAN_LIT("iotEdge"); /* who manages the system modules */

bool nv_verdict_refuse(nv_verdict *verdict, nv_hub_error error, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    verdict->error = error;
    (void)vsnprintf(verdict->detail, sizeof(verdict->detail), fmt, args);
    va_end(args);
    return false;
}

/* ---- without the store ---- */

static bool check_ids(const nv_registry_request *request, nv_verdict *verdict)
{
    const nv_identity_spec *spec = &request->spec;
    bool reads = request->verb == NV_REGISTRY_GET || request->verb == NV_REGISTRY_REGENERATE;
    if (!nv_device_id_valid(spec->device_id)) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid,
                                 "A device id is 1 to 128 of A-Z a-z 0-9 and -:.+%%_#*?!(),=@;$'");
    }
    if (spec->module_id.len == 0) {
        return true;
    }
    if (!nv_module_id_valid(spec->module_id)) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid,
                                 "A module id is 1 to 128 of A-Z a-z 0-9 and -:.+%%_#*?!(),=@;$'");
    }
    bool own_put = request->verb == NV_REGISTRY_PUT && request->own_device && request->precondition != NV_IF_NONE;
    if (nv_module_id_is_system(spec->module_id) && !reads && !own_put) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid,
                                 "Module ids that begin with $ belong to the hub");
    }
    return true;
}

static bool is_key_length(size_t len)
{
    return len >= 16 && len <= NV_KEY_MAX;
}

static bool check_keys(const nv_identity_spec *spec, nv_verdict *verdict)
{
    if (spec->auth == NV_AUTH_NONE && spec->module_id.len == 0) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_DeviceAuthenticationTypeIsMissing,
                                 "A device authenticates by sas, selfSigned or certificateAuthority");
    }
    if (!spec->has_keys) {
        return true;
    }
    if ((spec->primary_key.len == 0) != (spec->secondary_key.len == 0)) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid, "Either no keys or both keys can be set");
    }
    if (!is_key_length(spec->primary_key.len) || !is_key_length(spec->secondary_key.len)) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid,
                                 "Invalid device key length: a key is base64 of 16 to 64 bytes");
    }
    return true;
}

static bool is_thumbprint(nv_span text)
{
    if (text.len != 0 && text.len != 40 && text.len != 64) {
        return false;
    }
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.ptr[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))) {
            return false;
        }
    }
    return true;
}

static size_t count_characters(nv_span text)
{
    size_t count = 0;
    for (size_t i = 0; i < text.len; i++) {
        count += (text.ptr[i] & 0xc0) != 0x80 ? 1 : 0;
    }
    return count;
}

static bool check_texts(const nv_identity_spec *spec, nv_verdict *verdict)
{
    if (!is_thumbprint(spec->primary_thumbprint) || !is_thumbprint(spec->secondary_thumbprint)) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_StringIsNotThumbprint,
                                 "A thumbprint is 40 or 64 hexadecimal digits without separators");
    }
    if (!nv_utf8_valid(spec->status_reason, false) || count_characters(spec->status_reason) > NV_STATUS_REASON_CHARS) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid, "A status reason has at most %u characters",
                                 NV_STATUS_REASON_CHARS);
    }
    if (!nv_utf8_valid(spec->managed_by, false) || spec->managed_by.len > NV_MANAGED_BY_BYTES) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid, "managedBy has at most %u bytes",
                                 NV_MANAGED_BY_BYTES);
    }
    if (spec->attributes.len > NV_ATTRIBUTES_BYTES) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid, "attributes have at most %u bytes",
                                 NV_ATTRIBUTES_BYTES);
    }
    return true;
}

/* ms-azure-iot-edge://{device}-{generation}; the generation may be missing, as the service itself once wrote it. */
static bool is_scope(nv_span text)
{
    const nv_span prefix = NV_SPAN_LIT(SCOPE_PREFIX);
    if (!nv_span_starts_with(text, prefix)) {
        return false;
    }
    nv_span rest = nv_span_skip(text, prefix.len);
    size_t end = rest.len;
    while (end > 0 && rest.ptr[end - 1] >= '0' && rest.ptr[end - 1] <= '9') {
        end--;
    }
    return end > 1 && rest.ptr[end - 1] == '-' && rest.len - end <= 20 &&
           nv_device_id_valid(nv_span_first(rest, end - 1));
}

static bool is_blank(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static nv_span skip_blanks(nv_span text)
{
    while (text.len && is_blank(text.ptr[0])) {
        text = nv_span_skip(text, 1);
    }
    return text;
}

static bool take(nv_span *text, char c)
{
    *text = skip_blanks(*text);
    if (text->len == 0 || text->ptr[0] != (uint8_t)c) {
        return false;
    }
    *text = nv_span_skip(*text, 1);
    return true;
}

/* The characters of a scope need no escape in JSON but the solidus, which some writers escape. */
static bool take_scope(nv_span *text, char out[SCOPE_MAX], size_t *len)
{
    *len = 0;
    if (!take(text, '"')) {
        return false;
    }
    while (text->len && text->ptr[0] != '"') {
        bool escaped = text->len > 1 && text->ptr[0] == '\\' && text->ptr[1] == '/';
        if (*len == SCOPE_MAX) {
            return false;
        }
        out[(*len)++] = escaped ? '/' : (char)text->ptr[0];
        *text = nv_span_skip(*text, escaped ? 2 : 1);
    }
    return take(text, '"') && is_scope(nv_span_of(out, *len));
}

/* parentScopes: [] or ["one scope"]. */
static bool parse_parents(nv_span text, char out[SCOPE_MAX], size_t *len)
{
    *len = 0;
    if (text.len == 0) {
        return true;
    }
    if (!take(&text, '[')) {
        return false;
    }
    text = skip_blanks(text);
    if (text.len && text.ptr[0] != ']' && !take_scope(&text, out, len)) {
        return false;
    }
    return take(&text, ']') && skip_blanks(text).len == 0;
}

static bool check_scopes(const nv_identity_spec *spec, nv_verdict *verdict)
{
    char parent[SCOPE_MAX];
    size_t len = 0;
    if (spec->device_scope.len && !is_scope(spec->device_scope)) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid,
                                 "A device scope is " SCOPE_PREFIX "{edge device}-{generation}");
    }
    if (spec->iot_edge && !parse_parents(spec->parent_scopes, parent, &len)) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid,
                                 "parentScopes is an array with at most one scope, the deviceScope of the parent");
    }
    return true;
}

bool nv_rules_check(const nv_registry_request *request, nv_verdict *verdict)
{
    bool puts = request->verb == NV_REGISTRY_PUT || request->verb == NV_REGISTRY_UPSERT;
    if (!check_ids(request, verdict)) {
        return false;
    }
    if (request->verb == NV_REGISTRY_DELETE && request->precondition == NV_IF_NONE) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_PreconditionFailed, "Precondition failed: Etag missing");
    }
    if (request->verb == NV_REGISTRY_REGENERATE && request->regenerate == 0) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid, "No key is named");
    }
    return !puts || (check_keys(&request->spec, verdict) && check_texts(&request->spec, verdict) &&
                     check_scopes(&request->spec, verdict));
}

/* ---- against what is stored ---- */

static bool refuse_absent(const nv_identity_spec *spec, nv_verdict *verdict)
{
    return spec->module_id.len
               ? nv_verdict_refuse(verdict, NV_HUB_ERROR_ModuleNotFound, "%.*s/%.*s", NV_SPAN_ARG(spec->device_id),
                                   NV_SPAN_ARG(spec->module_id))
               : nv_verdict_refuse(verdict, NV_HUB_ERROR_DeviceNotFound, "%.*s", NV_SPAN_ARG(spec->device_id));
}

static bool refuse_present(const nv_identity_spec *spec, nv_verdict *verdict)
{
    return spec->module_id.len
               ? nv_verdict_refuse(verdict, NV_HUB_ERROR_ModuleAlreadyExistsOnDevice,
                                   "A module with ID '%.*s' is already registered on the device.",
                                   NV_SPAN_ARG(spec->module_id))
               : nv_verdict_refuse(verdict, NV_HUB_ERROR_DeviceAlreadyExists,
                                   "A device with ID '%.*s' is already registered.", NV_SPAN_ARG(spec->device_id));
}

bool nv_rules_precondition(const nv_registry_request *request, const nv_identity_row *current, nv_verdict *verdict)
{
    bool creates = request->verb == NV_REGISTRY_UPSERT ||
                   (request->verb == NV_REGISTRY_PUT && request->precondition == NV_IF_NONE);
    if (!current) {
        return creates || refuse_absent(&request->spec, verdict);
    }
    if (request->verb == NV_REGISTRY_PUT && request->precondition == NV_IF_NONE) {
        return refuse_present(&request->spec, verdict);
    }
    if (request->verb != NV_REGISTRY_GET && request->precondition == NV_IF_ETAG && request->etag != current->etag) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_PreconditionFailed, "%s", "");
    }
    return true;
}

static nv_span key_span(const nv_key *key)
{
    return nv_span_of(key->bytes, key->len);
}

static void build_authentication(const nv_identity_spec *spec, const nv_rules_fresh *fresh, nv_identity_row *row)
{
    /* A module of type none becomes sas: only the hub makes identities without a credential. */
    nv_auth_kind kind = spec->auth == NV_AUTH_NONE ? NV_AUTH_SAS : spec->auth;
    row->auth = (uint8_t)kind;
    if (kind == NV_AUTH_SAS) {
        row->primary_key = key_span(spec->has_keys ? &spec->primary_key : &fresh->primary_key);
        row->secondary_key = key_span(spec->has_keys ? &spec->secondary_key : &fresh->secondary_key);
    } else if (kind == NV_AUTH_SELF_SIGNED) {
        row->primary_thumbprint = spec->primary_thumbprint;
        row->secondary_thumbprint = spec->secondary_thumbprint;
    }
}

static nv_span format(nv_arena *arena, const char *fmt, ...) NV_PRINTF(2, 3);
static nv_span format(nv_arena *arena, const char *fmt, ...)
{
    char text[SCOPE_MAX + 8];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return len > 0 && (size_t)len < sizeof(text) ? nv_arena_copy(arena, nv_span_of(text, (size_t)len)) : NV_SPAN_EMPTY;
}

static bool build_edge_scopes(const nv_identity_spec *spec, const nv_identity_row *current, nv_arena *arena,
                              nv_identity_row *row, nv_verdict *verdict)
{
    if (current && current->iot_edge) {
        if (!nv_span_eq(spec->device_scope, current->device_scope)) {
            return nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid, "Device scope is immutable");
        }
        row->device_scope = current->device_scope;
    } else {
        row->device_scope = format(arena, SCOPE_PREFIX "%.*s-%" PRIu64, NV_SPAN_ARG(row->device_id), row->generation);
    }
    char parent[SCOPE_MAX];
    size_t len = 0;
    if (!parse_parents(spec->parent_scopes, parent, &len) || nv_span_eq(nv_span_of(parent, len), row->device_scope)) {
        return nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid, "A device cannot be its own parent");
    }
    row->parent_scopes = len ? format(arena, "[\"%.*s\"]", (int)len, parent) : NV_SPAN_EMPTY;
    return true;
}

/* http-hub.md section 16: an edge device has its own scope and names its parent; a leaf's scope is its parent. */
static bool build_scopes(const nv_identity_spec *spec, const nv_identity_row *current, nv_arena *arena,
                         nv_identity_row *row, nv_verdict *verdict)
{
    if (row->iot_edge) {
        return build_edge_scopes(spec, current, arena, row, verdict);
    }
    bool was_edge = current && current->iot_edge; /* it loses its parent, and the scope it echoes was its own */
    if (!was_edge && spec->device_scope.len) {
        row->device_scope = spec->device_scope;
        row->parent_scopes = format(arena, "[\"%.*s\"]", NV_SPAN_ARG(spec->device_scope));
    }
    return true;
}

bool nv_rules_build(const nv_identity_spec *spec, const nv_identity_row *current, const nv_rules_fresh *fresh,
                    nv_arena *arena, nv_identity_row *row, nv_verdict *verdict)
{
    bool is_device = spec->module_id.len == 0;
    bool is_system = !is_device && nv_module_id_is_system(spec->module_id);
    *row = (nv_identity_row){
        .device_id = spec->device_id,
        .module_id = spec->module_id,
        .generation = current ? current->generation : fresh->generation,
        .etag = current ? current->etag + 1 : fresh->etag,
        .enabled = is_device ? spec->enabled : true,
        .status_reason = is_device ? spec->status_reason : NV_SPAN_EMPTY,
        .iot_edge = is_device && spec->iot_edge,
        .managed_by = is_system   ? iot_edge_text
                      : is_device ? NV_SPAN_EMPTY
                                  : spec->managed_by,
        .attributes = spec->attributes,
    };
    if (current) {
        row->status_updated_us = current->status_updated_us;
        row->connection_updated_us = current->connection_updated_us;
        row->last_activity_us = current->last_activity_us;
        if (is_device && current->enabled != spec->enabled) {
            row->status_updated_us = fresh->now_us;
        }
    }
    build_authentication(spec, fresh, row);
    return !is_device || build_scopes(spec, current, arena, row, verdict);
}

nv_identity_row nv_rules_system_module(nv_span device_id, const char *module_id, uint64_t generation, uint64_t etag)
{
    return (nv_identity_row){
        .device_id = device_id,
        .module_id = nv_span_str(module_id),
        .generation = generation,
        .etag = etag,
        .enabled = true,
        .auth = NV_AUTH_NONE,
        .managed_by = iot_edge_text,
    };
}

/* ---- snapshots ---- */

static bool copy_key(nv_span from, nv_key *out)
{
    if (from.len > NV_KEY_MAX) {
        return false;
    }
    if (from.len) {
        memcpy(out->bytes, from.ptr, from.len);
    }
    out->len = (uint8_t)from.len;
    return true;
}

nv_identity *nv_rules_snapshot(const nv_identity_row *row)
{
    char generation[24];
    int len = snprintf(generation, sizeof(generation), "%" PRIu64, row->generation);
    nv_identity from = {
        .device_id = row->device_id,
        .module_id = row->module_id,
        .generation_id = nv_span_of(generation, (size_t)len),
        .etag = row->etag,
        .enabled = row->enabled,
        .status_reason = row->status_reason,
        .status_updated_us = row->status_updated_us,
        .auth = (nv_auth_kind)row->auth,
        .primary_thumbprint = row->primary_thumbprint,
        .secondary_thumbprint = row->secondary_thumbprint,
        .iot_edge = row->iot_edge,
        .device_scope = row->device_scope,
        .parent_scopes = row->parent_scopes,
        .managed_by = row->managed_by,
        .attributes = row->attributes,
        .connection_updated_us = row->connection_updated_us,
        .last_activity_us = row->last_activity_us,
    };
    bool sound = row->auth <= NV_AUTH_NONE && row->device_id.len <= NV_ID_MAX && row->module_id.len <= NV_ID_MAX &&
                 copy_key(row->primary_key, &from.primary_key) && copy_key(row->secondary_key, &from.secondary_key);
    nv_identity *identity = sound ? nv_identity_new(&from) : NULL;
    nv_wipe(&from, sizeof(from));
    return identity;
}
