#include "codec/connstr.h"

#include "codec/base64.h"

#define KEY_MAX_BYTES 192 /* no service has longer keys; decoded */

static nv_span trim(nv_span text)
{
    return nv_span_trim(text, " \t\r\n");
}

static nv_span *member_of(nv_connstr *parts, nv_span name)
{
#define X(member, text)                                                                                                \
    if (nv_span_eq_nocase(name, nv_span_str(text))) {                                                                  \
        return &parts->member;                                                                                         \
    }
    NV_CONNSTR_TABLE(X)
#undef X
    return NULL;
}

static nv_err fail(const char **why, const char *text)
{
    *why = text;
    return NV_E_SYNTAX;
}

static nv_err split(nv_span text, nv_connstr *out, const char **why)
{
    while (text.len) {
        nv_span pair = trim(nv_span_first(text, nv_span_find(text, ';')));
        text = nv_span_skip(text, nv_span_find(text, ';') + 1);
        if (pair.len == 0) {
            continue;
        }
        size_t equals = nv_span_find(pair, '=');
        nv_span value = trim(nv_span_skip(pair, equals + 1));
        if (equals == 0 || value.len == 0) {
            return fail(why, "a part of the connection string is not of the form Name=value");
        }
        nv_span *member = member_of(out, trim(nv_span_first(pair, equals)));
        if (member && member->len) {
            return fail(why, "a name appears twice in the connection string");
        }
        if (member) {
            *member = value;
        }
    }
    return NV_OK;
}

static nv_err check_key(nv_span key, const char **why)
{
    uint8_t bytes[KEY_MAX_BYTES];
    size_t len = 0;
    nv_err err = nv_base64_decode(key, bytes, sizeof(bytes), &len);
    nv_wipe(bytes, sizeof(bytes));
    return err == NV_OK ? NV_OK : fail(why, "SharedAccessKey is not base64: is the connection string complete?");
}

static nv_err find_kind(const nv_connstr *c, nv_connstr_kind *kind, const char **why)
{
    bool has_secret = c->shared_access_key.len || c->shared_access_signature.len;
    if (c->device_id.len) {
        *kind = c->module_id.len ? NV_CONNSTR_MODULE : NV_CONNSTR_DEVICE;
        if (c->host_name.len == 0) {
            return fail(why, "HostName is missing");
        }
        if (!has_secret && !nv_connstr_is_x509(c)) {
            return fail(why, "SharedAccessKey, SharedAccessSignature or x509=true is missing");
        }
        return NV_OK;
    }
    if (c->module_id.len) {
        return fail(why, "ModuleId without DeviceId");
    }
    *kind = c->endpoint.len ? NV_CONNSTR_EVENTS : NV_CONNSTR_SERVICE;
    if (c->endpoint.len == 0 && c->host_name.len == 0) {
        return fail(why, "HostName (of a hub) or Endpoint (of an event stream) is missing");
    }
    if (c->shared_access_signature.len) {
        return NV_OK;
    }
    if (c->shared_access_key_name.len == 0) {
        return fail(why, "DeviceId (of a device) or SharedAccessKeyName (of a service) is missing");
    }
    return c->shared_access_key.len ? NV_OK : fail(why, "SharedAccessKey is missing");
}

nv_err nv_connstr_parse(nv_span text, nv_connstr *out, nv_connstr_kind *kind, const char **why)
{
    memset(out, 0, sizeof(*out));
    nv_err err = split(text, out, why);
    if (err == NV_OK) {
        err = find_kind(out, kind, why);
    }
    if (err == NV_OK && out->shared_access_key.len) {
        err = check_key(out->shared_access_key, why);
    }
    return err;
}

static void write_part(nv_writer *out, const uint8_t *start, const char *name, nv_span value)
{
    if (value.len == 0) {
        return;
    }
    if (nv_span_find(value, ';') < value.len) {
        out->err = out->err == NV_OK ? NV_E_INVALID : out->err;
        return;
    }
    if (out->at != start) {
        nv_write_u8(out, ';');
    }
    nv_write_span(out, nv_span_str(name));
    nv_write_u8(out, '=');
    nv_write_span(out, value);
}

void nv_connstr_write(const nv_connstr *parts, nv_writer *out)
{
    const uint8_t *start = out->at;
#define X(member, name) write_part(out, start, name, parts->member);
    NV_CONNSTR_TABLE(X)
#undef X
}

bool nv_connstr_is_x509(const nv_connstr *parts)
{
    return nv_span_eq_nocase(parts->x509, nv_span_str("true"));
}

nv_span nv_connstr_host(const nv_connstr *parts)
{
    if (parts->endpoint.len == 0) {
        return parts->host_name;
    }
    nv_span host = parts->endpoint;
    for (nv_span rest = host; rest.len; rest = nv_span_skip(rest, 1)) {
        if (nv_span_starts_with(rest, nv_span_str("://"))) {
            host = nv_span_skip(rest, 3);
            break;
        }
    }
    return nv_span_first(host, nv_span_find(host, '/'));
}
