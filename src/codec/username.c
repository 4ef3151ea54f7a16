#include "codec/username.h"

#include "codec/percent.h"

/** Cut the first segment off @p rest, slash included. @return false when nothing is left */
static bool next_segment(nv_span *rest, nv_span *segment)
{
    if (rest->len == 0) {
        return false;
    }
    *segment = nv_span_first(*rest, nv_span_find(*rest, '/'));
    *rest = nv_span_skip(*rest, segment->len + 1);
    return true;
}

static bool contains_api_version(nv_span segment)
{
    static const nv_span key = NV_SPAN_LIT("api-version=");
    for (; segment.len >= key.len; segment = nv_span_skip(segment, 1)) {
        if (nv_span_starts_with(segment, key)) {
            return true;
        }
    }
    return false;
}

static bool starts_query(nv_span segment)
{
    return (segment.len && segment.ptr[0] == '?') || contains_api_version(segment);
}

static nv_err fail(const char **why, const char *text)
{
    *why = text;
    return NV_E_SYNTAX;
}

/**
 * What follows the device: nothing, a module, a query, or a module and a query. The query is everything from the
 * segment that starts it to the end, slashes included.
 */
static nv_err split_tail(nv_span rest, nv_span client_id, nv_username *out, nv_span *query, const char **why)
{
    nv_span from = rest;
    nv_span segment;
    if (!next_segment(&rest, &segment)) {
        return NV_OK;
    }
    bool device_connects = nv_span_find(client_id, '/') == client_id.len;
    if (starts_query(segment) || (device_connects && nv_span_find(segment, '=') < segment.len)) {
        *query = from;
        return NV_OK;
    }
    if (segment.len == 0) {
        return fail(why, "the module id in the user name is empty");
    }
    out->module = segment;
    from = rest;
    if (!next_segment(&rest, &segment)) {
        return NV_OK;
    }
    if (!starts_query(segment) && nv_span_find(segment, '=') == segment.len) {
        return fail(why, "the user name goes on behind the module id without a query");
    }
    *query = from;
    return NV_OK;
}

typedef struct query_keys {
    bool api_version;
    bool client_type;
    bool model_id;
} query_keys;

/** Take @p value for @p member unless an equal key came before. */
static void take_first(bool *seen, nv_span *member, nv_span value, nv_writer *scratch)
{
    if (!*seen) {
        *seen = true;
        *member = nv_percent_decode_lenient(value, scratch);
    }
}

static void take_pair(nv_span key, nv_span value, query_keys *seen, nv_username *out, nv_writer *scratch)
{
    static const nv_span legacy = NV_SPAN_LIT("/DeviceClientType=");
    if (nv_span_eq_str(key, "api-version")) {
        /* `2017-06-30/DeviceClientType=Name/1.5`: of old clients, with a slash where others write `&`. */
        size_t slash = nv_span_find(value, '/');
        nv_span tail = nv_span_skip(value, slash);
        take_first(&seen->api_version, &out->api_version, nv_span_first(value, slash), scratch);
        if (nv_span_starts_with(tail, legacy)) {
            take_first(&seen->client_type, &out->client_type, nv_span_skip(tail, legacy.len), scratch);
        }
    } else if (nv_span_eq_str(key, "DeviceClientType")) {
        take_first(&seen->client_type, &out->client_type, value, scratch);
    } else if (nv_span_eq_str(key, "model-id")) {
        take_first(&seen->model_id, &out->model_id, value, scratch);
    } else if (nv_span_eq_str(key, "auth-chain")) {
        take_first(&out->has_auth_chain, &out->auth_chain, value, scratch);
    }
}

static void parse_query(nv_span query, nv_username *out, nv_writer *scratch)
{
    query_keys seen = {false, false, false};
    if (query.len && query.ptr[0] == '?') {
        query = nv_span_skip(query, 1);
    }
    while (query.len) {
        nv_span pair = nv_span_first(query, nv_span_find(query, '&'));
        query = nv_span_skip(query, pair.len + 1);
        size_t equals = nv_span_find(pair, '=');
        take_pair(nv_span_first(pair, equals), nv_span_skip(pair, equals + 1), &seen, out, scratch);
    }
}

nv_err nv_username_parse(nv_span text, nv_span client_id, uint8_t *scratch, size_t scratch_len, nv_username *out,
                         const char **why)
{
    memset(out, 0, sizeof(*out));
    nv_span rest = text;
    nv_span query = NV_SPAN_EMPTY;
    if (!next_segment(&rest, &out->host) || out->host.len == 0) {
        return fail(why, "the user name does not start with the host name of the hub");
    }
    if (!next_segment(&rest, &out->device) || out->device.len == 0) {
        return fail(why, "the user name has no device id behind the host name");
    }
    nv_err err = split_tail(rest, client_id, out, &query, why);
    if (err != NV_OK) {
        return err;
    }
    nv_writer decoded_text = nv_writer_of(scratch, scratch_len);
    parse_query(query, out, &decoded_text);
    if (decoded_text.err != NV_OK) {
        *why = "the values of the user name are too long";
        return decoded_text.err;
    }
    return NV_OK;
}

bool nv_username_matches_client_id(const nv_username *name, nv_span client_id)
{
    if (name->module.len == 0) {
        return nv_span_eq(client_id, name->device);
    }
    return client_id.len == name->device.len + 1 + name->module.len &&
           nv_span_eq(nv_span_first(client_id, name->device.len), name->device) &&
           client_id.ptr[name->device.len] == '/' &&
           nv_span_eq(nv_span_skip(client_id, name->device.len + 1), name->module);
}
