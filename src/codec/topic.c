#include "codec/topic.h"

/** Eat @p prefix from the front of @p text; false and untouched when it is not there. */
static bool eat(nv_span *text, nv_span prefix)
{
    if (!nv_span_starts_with(*text, prefix)) {
        return false;
    }
    *text = nv_span_skip(*text, prefix.len);
    return true;
}

#define EAT(text, literal) eat((text), nv_span_of(literal, sizeof(literal) - 1))

/** Eat @p id as a whole segment with the slash behind it. */
static bool eat_segment(nv_span *text, nv_span id)
{
    nv_span rest = *text;
    if (!eat(&rest, id) || !EAT(&rest, "/")) {
        return false;
    }
    *text = rest;
    return true;
}

bool nv_topic_needs_api_version(nv_span topic)
{
    return EAT(&topic, "$iothub/twin/") || EAT(&topic, "$iothub/methods/");
}

/**
 * Eat `devices/{d}/` or `devices/{d}/modules/{m}/`, whichever @p owner is; `devices/` is gone already.
 * A device's own modules are others to it, and so is the device to its modules.
 */
static nv_err eat_base(nv_span *text, const nv_topic_owner *owner, const char **why)
{
    if (!eat_segment(text, owner->device)) {
        *why = "the topic names another device than the one that is connected";
        return NV_E_UNAUTHORIZED;
    }
    bool names_module = EAT(text, "modules/");
    if (owner->module.len == 0 && names_module) {
        *why = "the topic names a module, but the device itself is connected";
        return NV_E_UNAUTHORIZED;
    }
    if (owner->module.len && !names_module) {
        *why = "the topic names the device, but one of its modules is connected";
        return NV_E_UNAUTHORIZED;
    }
    if (owner->module.len && !eat_segment(text, owner->module)) {
        *why = "the topic names another module than the one that is connected";
        return NV_E_UNAUTHORIZED;
    }
    return NV_OK;
}

static nv_err not_found(const char **why)
{
    *why = "no topic of the hub";
    return NV_E_NOT_FOUND;
}

static nv_err malformed(const char **why, const char *text)
{
    *why = text;
    return NV_E_SYNTAX;
}

/** `[/]?key=value&...` with $rid, and $version where it is known. Other keys are skipped. */
static nv_err parse_query(nv_span query, nv_topic *out, const char **why)
{
    (void)EAT(&query, "/");
    if (!EAT(&query, "?")) {
        return malformed(why, "the topic has no `?$rid=` behind its path");
    }
    while (query.len) {
        nv_span pair = nv_span_first(query, nv_span_find(query, '&'));
        query = nv_span_skip(query, pair.len + 1);
        if (EAT(&pair, "$rid=")) {
            out->rid = out->rid.len ? out->rid : pair;
        } else if (EAT(&pair, "$version=")) {
            out->has_version = true;
            if (!nv_span_to_u64(pair, &out->version)) {
                return malformed(why, "$version of the topic is not a number");
            }
        }
    }
    return out->rid.len ? NV_OK : malformed(why, "the topic has no $rid, or an empty one");
}

/** A decimal integer with an optional minus, the whole span. */
static bool parse_status(nv_span text, int64_t *out)
{
    bool negative = EAT(&text, "-");
    uint64_t value = 0;
    if (!nv_span_to_u64(text, &value) || value > (uint64_t)INT64_MAX) {
        return false;
    }
    *out = negative ? -(int64_t)value : (int64_t)value;
    return true;
}

/** `{status}/?$rid={rid}`; the slash may be missing as in twin topics. */
static nv_err parse_method_response(nv_span rest, nv_topic *out, const char **why)
{
    nv_span status = nv_span_first(rest, nv_span_find(rest, '/'));
    status = nv_span_first(status, nv_span_find(status, '?'));
    if (!parse_status(status, &out->status)) {
        return malformed(why, "the status in the topic of a method's answer is not an integer");
    }
    return parse_query(nv_span_skip(rest, status.len), out, why);
}

/** `messages/events`, `messages/events/` or `messages/events/{bag}`; the base is gone already. */
static nv_err parse_telemetry(nv_span rest, nv_topic *out, const char **why)
{
    if (!EAT(&rest, "messages/events") || (rest.len && !EAT(&rest, "/"))) {
        return not_found(why);
    }
    out->kind = NV_TOPIC_TELEMETRY;
    out->bag = rest;
    return NV_OK;
}

nv_err nv_topic_parse(nv_span topic, const nv_topic_owner *owner, nv_topic *out, const char **why)
{
    static const struct {
        nv_span path;
        nv_topic_kind kind;
    } rows[] = {
        {NV_SPAN_LIT("twin/GET"), NV_TOPIC_TWIN_GET},
        {NV_SPAN_LIT("twin/PATCH/properties/reported"), NV_TOPIC_TWIN_REPORTED},
        {NV_SPAN_LIT("methods/res/"), NV_TOPIC_METHOD_RESPONSE},
        {NV_SPAN_LIT("credentials/POST/issueCertificate"), NV_TOPIC_CREDENTIALS},
    };
    *out = (nv_topic){.kind = NV_TOPIC_NONE};
    nv_span rest = topic;
    if (NV_LIKELY(EAT(&rest, "devices/"))) {
        nv_err err = eat_base(&rest, owner, why);
        return err == NV_OK ? parse_telemetry(rest, out, why) : err;
    }
    if (!EAT(&rest, "$iothub/")) {
        return not_found(why);
    }
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        if (!eat(&rest, rows[i].path)) {
            continue;
        }
        if (rows[i].kind == NV_TOPIC_METHOD_RESPONSE) {
            out->kind = rows[i].kind;
            return parse_method_response(rest, out, why);
        }
        if (rest.len && rest.ptr[0] != '/' && rest.ptr[0] != '?') {
            return not_found(why); /* a longer word: `twin/GETX` */
        }
        if (rest.len > 1 && rest.ptr[0] == '/' && rest.ptr[1] != '?') {
            return not_found(why); /* a sub-resource */
        }
        out->kind = rows[i].kind;
        return parse_query(rest, out, why);
    }
    return not_found(why);
}

/** A filter below the base of the owner: whose it is, and the rest of its text. */
static nv_err parse_own_filter(nv_span rest, const nv_topic_owner *owner, nv_filter_kind *out, const char **why)
{
    static const struct {
        nv_span rest;
        nv_filter_kind kind;
        bool module;
    } rows[] = {
        {NV_SPAN_LIT("messages/devicebound/#"), NV_FILTER_DEVICEBOUND, false},
        {NV_SPAN_LIT("messages/devicebound/#"), NV_FILTER_MODULE_DEVICEBOUND, true},
        {NV_SPAN_LIT("inputs/#"), NV_FILTER_INPUTS, true},
        {NV_SPAN_LIT("#"), NV_FILTER_INPUTS, true},
    };
    nv_err err = eat_base(&rest, owner, why);
    if (err != NV_OK) {
        return err;
    }
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        if (rows[i].module == (owner->module.len > 0) && nv_span_eq(rest, rows[i].rest)) {
            *out = rows[i].kind;
            return NV_OK;
        }
    }
    return not_found(why);
}

nv_err nv_filter_parse(nv_span filter, const nv_topic_owner *owner, nv_filter_kind *out, const char **why)
{
    static const struct {
        nv_span text;
        nv_filter_kind kind;
    } rows[] = {
        {NV_SPAN_LIT("$iothub/twin/res/#"), NV_FILTER_TWIN_RESPONSES},
        {NV_SPAN_LIT("$iothub/twin/PATCH/properties/desired/#"), NV_FILTER_DESIRED},
        {NV_SPAN_LIT("$iothub/methods/POST/#"), NV_FILTER_METHODS},
        {NV_SPAN_LIT("$iothub/credentials/res/#"), NV_FILTER_CREDENTIALS},
    };
    *out = NV_FILTER_NONE;
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        if (nv_span_eq(filter, rows[i].text)) {
            *out = rows[i].kind;
            return NV_OK;
        }
    }
    nv_span rest = filter;
    if (!EAT(&rest, "devices/") || rest.len == 0 || rest.ptr[0] == '#') {
        return not_found(why);
    }
    if (EAT(&rest, "+/")) {
        if (owner->module.len || !nv_span_eq_str(rest, "messages/devicebound/#")) {
            return not_found(why);
        }
        *out = NV_FILTER_DEVICEBOUND;
        return NV_OK;
    }
    return parse_own_filter(rest, owner, out, why);
}
