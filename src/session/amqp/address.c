/* Link addresses and CBS audiences (amqp.md sections 2.3, 3.1, 4 and 5.3). */
#include "session/amqp/server_internal.h"

#include "codec/ids.h"
#include "codec/percent.h"

#include <ctype.h>

/* What stands in braces is taken, the rest is compared without case. Letters: d device, m module, e entity, g group,
 * p partition, x nobody asks. */
static const struct pattern {
    const char *path;
    amqp_node when_sent;     /* the peer sends; UNKNOWN: it may not */
    amqp_node when_received; /* the peer receives */
} patterns[] = {
    {"$cbs", AMQP_NODE_CBS, AMQP_NODE_CBS},
    {"$management", AMQP_NODE_MANAGEMENT, AMQP_NODE_MANAGEMENT},
    {"devices/{d}/messages/events", AMQP_NODE_TELEMETRY, AMQP_NODE_UNKNOWN},
    {"devices/{d}/modules/{m}/messages/events", AMQP_NODE_TELEMETRY, AMQP_NODE_MODULE_INPUT},
    {"devices/{d}/messages/devicebound", AMQP_NODE_UNKNOWN, AMQP_NODE_DEVICEBOUND},
    {"devices/{d}/modules/{m}/messages/devicebound", AMQP_NODE_UNKNOWN, AMQP_NODE_DEVICEBOUND},
    {"devices/{d}/twin", AMQP_NODE_TWIN, AMQP_NODE_TWIN},
    {"devices/{d}/modules/{m}/twin", AMQP_NODE_TWIN, AMQP_NODE_TWIN},
    {"devices/{d}/methods/devicebound", AMQP_NODE_METHODS, AMQP_NODE_METHODS},
    {"devices/{d}/modules/{m}/methods/devicebound", AMQP_NODE_METHODS, AMQP_NODE_METHODS},
    {"messages/devicebound", AMQP_NODE_SERVICE_SEND, AMQP_NODE_UNKNOWN},
    {"messages/servicebound/feedback", AMQP_NODE_DEVICE_FEEDBACK, AMQP_NODE_FEEDBACK},
    {"messages/servicebound/filenotifications", AMQP_NODE_UNKNOWN, AMQP_NODE_FILE_NOTIFICATIONS},
    {"{e}", AMQP_NODE_EVENTS_SEND, AMQP_NODE_UNKNOWN},
    {"{e}/partitions/{p}", AMQP_NODE_EVENTS_SEND, AMQP_NODE_UNKNOWN},
    {"{e}/publishers/{x}", AMQP_NODE_EVENTS_SEND, AMQP_NODE_UNKNOWN},
    {"{e}/$management", AMQP_NODE_MANAGEMENT, AMQP_NODE_MANAGEMENT},
    {"{e}/consumergroups/{g}/partitions/{p}", AMQP_NODE_UNKNOWN, AMQP_NODE_EVENTS},
};

/* The longest path has so many; one more tells that there are too many. */
#define SEGMENTS_MAX 6u

static nv_span cut_segment(nv_span *rest)
{
    nv_span segment = nv_span_first(*rest, nv_span_find(*rest, '/'));
    *rest = nv_span_skip(*rest, segment.len + 1);
    return segment;
}

/* What stands behind "scheme://"; @p text itself when there is no such thing at its beginning. */
static nv_span behind_scheme(nv_span text)
{
    size_t colon = nv_span_find(text, ':');
    for (size_t i = 0; i < colon; i++) {
        if (!isalpha(text.ptr[i])) {
            return text;
        }
    }
    nv_span rest = nv_span_skip(text, colon);
    bool is_scheme = colon > 0 && nv_span_starts_with(rest, nv_span_str("://"));
    return is_scheme ? nv_span_skip(rest, 3) : text;
}

nv_span amqp_address_path(nv_span text)
{
    nv_span path = behind_scheme(text);
    if (path.len != text.len) {
        (void)cut_segment(&path); /* user info, host and port */
    }
    while (path.len > 0 && path.ptr[0] == '/') {
        path = nv_span_skip(path, 1);
    }
    return path.len > 0 && path.ptr[path.len - 1] == '/' ? nv_span_first(path, path.len - 1) : path;
}

/* ---- nodes -------------------------------------------------------------------------------------------------- */

typedef struct segments {
    nv_span at[SEGMENTS_MAX + 1];
    size_t count;
} segments;

static nv_err decode_segments(nv_span path, nv_writer *text, segments *out)
{
    out->count = 0;
    while (path.len > 0 && out->count <= SEGMENTS_MAX) {
        const uint8_t *start = text->at;
        nv_span raw = cut_segment(&path);
        nv_span decoded = nv_percent_decode_lenient(raw, text); /* Node's SDK encodes no ids */
        if (decoded.ptr == raw.ptr) {
            nv_write_span(text, raw);
        }
        out->at[out->count++] = nv_span_of(start, decoded.len);
    }
    return text->err;
}

static void take(amqp_address *out, uint8_t letter, nv_span value)
{
    switch (letter) {
    case 'd':
        out->device_id = value;
        return;
    case 'm':
        out->module_id = value;
        return;
    case 'e':
        out->entity = value;
        return;
    case 'g':
        out->group = value;
        return;
    case 'p':
        out->partition = value;
        return;
    }
}

static bool may_be_entity(nv_span name)
{
    return name.len > 0 && name.ptr[0] != '$' && !nv_span_eq_nocase(name, nv_span_str("devices")) &&
           !nv_span_eq_nocase(name, nv_span_str("messages"));
}

static bool matches(const struct pattern *pattern, const segments *have, amqp_address *out)
{
    nv_span rest = nv_span_str(pattern->path);
    size_t i = 0;
    for (; rest.len > 0 && i < have->count; i++) {
        nv_span want = cut_segment(&rest);
        if (want.ptr[0] == '{') {
            if (want.ptr[1] == 'e' && !may_be_entity(have->at[i])) {
                return false;
            }
            take(out, want.ptr[1], have->at[i]);
        } else if (!nv_span_eq_nocase(want, have->at[i])) {
            return false;
        }
    }
    return rest.len == 0 && i == have->count;
}

static void forget(amqp_address *out)
{
    out->node = AMQP_NODE_UNKNOWN;
    out->device_id = out->module_id = out->entity = out->group = out->partition = out->rest = NV_SPAN_EMPTY;
}

static bool ids_can_be(const amqp_address *address, const char *pattern)
{
    bool names_device = strstr(pattern, "{d}") != NULL;
    bool names_module = strstr(pattern, "{m}") != NULL;
    return (!names_device || nv_device_id_valid(address->device_id)) &&
           (!names_module || nv_module_id_valid(address->module_id));
}

static nv_err find_node(const segments *have, bool peer_sends, amqp_address *out)
{
    for (size_t i = 0; i < NV_COUNT_OF(patterns); i++) {
        forget(out);
        if (!matches(&patterns[i], have, out)) {
            continue;
        }
        if (!ids_can_be(out, patterns[i].path)) {
            return NV_E_SYNTAX;
        }
        out->node = peer_sends ? patterns[i].when_sent : patterns[i].when_received;
        if (out->node != AMQP_NODE_UNKNOWN) {
            return NV_OK;
        }
        return patterns[i].path[0] == '{' ? NV_E_NOT_FOUND : NV_E_UNSUPPORTED;
    }
    forget(out);
    bool is_legacy = have->count > 1 && nv_span_eq_nocase(have->at[1], nv_span_str("operationsMonitoringEvents"));
    bool is_hubs = have->count > 0 && !is_legacy &&
                   (nv_span_eq_nocase(have->at[0], nv_span_str("devices")) ||
                    nv_span_eq_nocase(have->at[0], nv_span_str("messages")));
    return is_hubs ? NV_E_UNSUPPORTED : NV_E_NOT_FOUND;
}

/* What follows is the namespace's to understand: nothing of it is looked at. */
static bool is_redirected(nv_span path, nv_span *rest)
{
    *rest = path;
    if (!nv_span_eq_nocase(cut_segment(rest), nv_span_str("messages")) ||
        !nv_span_eq_nocase(cut_segment(rest), nv_span_str("events"))) {
        return false;
    }
    if (rest->len > 0) { /* with its slash */
        *rest = nv_span_of(rest->ptr - 1, rest->len + 1);
    }
    return true;
}

nv_err amqp_address_parse(nv_span text, bool peer_sends, amqp_address *out)
{
    nv_writer memory = nv_writer_of(out->_text, sizeof(out->_text));
    nv_span path = amqp_address_path(text);
    nv_span rest;
    forget(out);
    if (path.len > sizeof(out->_text)) {
        return NV_E_TOO_BIG;
    }
    if (is_redirected(path, &rest)) {
        nv_write_span(&memory, rest);
        if (text.ptr + text.len > path.ptr + path.len) { /* its last slash: some cut the address at it (section 5.1) */
            nv_write_u8(&memory, '/');
        }
        out->node = AMQP_NODE_EVENTS_REDIRECT;
        out->rest = nv_writer_span(&memory);
        return NV_OK;
    }
    segments have;
    nv_err err = decode_segments(path, &memory, &have);
    return err == NV_OK ? find_node(&have, peer_sends, out) : err;
}

/* ---- audiences ---------------------------------------------------------------------------------------------- */

/* Without user info and port. The colons of an IPv6 address stand in brackets, or there are several. */
static nv_span bare_host(nv_span authority)
{
    size_t at = authority.len;
    while (at > 0 && authority.ptr[at - 1] != '@') {
        at--;
    }
    nv_span host = nv_span_skip(authority, at);
    size_t colon = host.len;
    while (colon > 0 && host.ptr[colon - 1] != ':') {
        colon--;
    }
    bool has_port = colon > 0 && (nv_span_find(host, ':') == colon - 1 || (colon > 1 && host.ptr[colon - 2] == ']'));
    return has_port ? nv_span_first(host, colon - 1) : host;
}

nv_span amqp_host_of(nv_span authority)
{
    nv_span host = bare_host(authority);
    bool bracketed = host.len > 2 && host.ptr[0] == '[' && host.ptr[host.len - 1] == ']';
    return bracketed ? nv_span_of(host.ptr + 1, host.len - 2) : host;
}

size_t amqp_audience(nv_span text, char out[1024])
{
    char memory[1024];
    nv_writer decoded = nv_writer_of(memory, sizeof(memory));
    if (nv_percent_decode(text, &decoded) != NV_OK) {
        return 0;
    }
    nv_span rest = behind_scheme(nv_writer_span(&decoded));
    nv_span host = bare_host(cut_segment(&rest));
    while (rest.len > 0 && rest.ptr[rest.len - 1] == '/') {
        rest = nv_span_first(rest, rest.len - 1);
    }
    if (host.len == 0 || nv_span_find(nv_writer_span(&decoded), '\0') < nv_writer_len(&decoded)) {
        return 0;
    }
    nv_writer w = nv_writer_of(out, 1024);
    for (size_t i = 0; i < host.len; i++) {
        nv_write_u8(&w, (uint8_t)tolower(host.ptr[i]));
    }
    if (rest.len > 0) {
        nv_write_u8(&w, '/');
        nv_write_span(&w, rest);
    }
    return w.err == NV_OK ? nv_writer_len(&w) : 0;
}
