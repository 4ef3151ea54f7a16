#include "session/http_exchange.h"

#include "base/alloc.h"
#include "codec/percent.h"

#include <stdio.h>
#include <stdlib.h>

#define REGISTRY NV_HTTP_API_VERSION
#define MODULE   (NV_HTTP_API_VERSION | NV_HTTP_OWN_DEVICE)
#define OURS     NV_HTTP_OURS
#define READ     NV_RIGHT_REGISTRY_READ
#define WRITE    NV_RIGHT_REGISTRY_WRITE
#define SERVICE  NV_RIGHT_SERVICE_CONNECT
#define DEVICE   (NV_HTTP_API_VERSION | NV_HTTP_DEVICE)
#define CONNECT  NV_RIGHT_DEVICE_CONNECT
#define ALL      (READ | WRITE | SERVICE | NV_RIGHT_DEVICE_CONNECT)

/* Fixed segments stand before ids: a device called "keys" must not hide the operation. */
static const nv_http_route service_rows[] = {
    {NV_HTTP_GET, "/devices", READ, REGISTRY, nv_http_devices_list},
    {NV_HTTP_POST, "/devices", WRITE, REGISTRY, nv_http_devices_bulk},
    {NV_HTTP_POST, "/devices/keys/regenerate", WRITE, REGISTRY, nv_http_keys_regenerate},
    {NV_HTTP_GET, "/devices/{d}", READ, REGISTRY, nv_http_device_get},
    {NV_HTTP_PUT, "/devices/{d}", WRITE, REGISTRY, nv_http_device_put},
    {NV_HTTP_DELETE, "/devices/{d}", WRITE, REGISTRY, nv_http_device_delete},
    {NV_HTTP_GET, "/devices/{d}/modules", READ, MODULE, nv_http_modules_list},
    {NV_HTTP_GET, "/devices/{d}/modules/{m}", READ, MODULE, nv_http_module_get},
    {NV_HTTP_PUT, "/devices/{d}/modules/{m}", WRITE, MODULE, nv_http_module_put},
    {NV_HTTP_DELETE, "/devices/{d}/modules/{m}", WRITE, MODULE, nv_http_module_delete},
    {NV_HTTP_POST, "/devices/query", SERVICE, REGISTRY, nv_http_query_devices},
    {NV_HTTP_GET, "/twins/{d}", SERVICE, REGISTRY, nv_http_twin_get},
    {NV_HTTP_PATCH, "/twins/{d}", SERVICE, REGISTRY, nv_http_twin_patch},
    {NV_HTTP_PUT, "/twins/{d}", SERVICE, REGISTRY, nv_http_twin_put},
    {NV_HTTP_GET, "/twins/{d}/modules/{m}", SERVICE, REGISTRY, nv_http_twin_get},
    {NV_HTTP_PATCH, "/twins/{d}/modules/{m}", SERVICE, REGISTRY, nv_http_twin_patch},
    {NV_HTTP_PUT, "/twins/{d}/modules/{m}", SERVICE, REGISTRY, nv_http_twin_put},
    {NV_HTTP_POST, "/twins/{d}/methods", SERVICE, REGISTRY, nv_http_method_invoke},
    {NV_HTTP_POST, "/twins/{d}/modules/{m}/methods", SERVICE, REGISTRY, nv_http_method_invoke},
    {NV_HTTP_GET, "/digitaltwins/{d}", SERVICE, REGISTRY, nv_http_digital_twin_get},
    {NV_HTTP_PATCH, "/digitaltwins/{d}", SERVICE, REGISTRY, nv_http_digital_twin_patch},
    {NV_HTTP_POST, "/digitaltwins/{d}/commands/{n}", SERVICE, REGISTRY, nv_http_digital_twin_command},
    {NV_HTTP_POST, "/digitaltwins/{d}/components/{c}/commands/{n}", SERVICE, REGISTRY, nv_http_digital_twin_command},
    {NV_HTTP_POST, "/devices/{d}/messages/events", CONNECT, DEVICE, nv_http_device_events},
    {NV_HTTP_GET, "/devices/{d}/messages/deviceBound", CONNECT, DEVICE, nv_http_device_take},
    {NV_HTTP_DELETE, "/devices/{d}/messages/deviceBound/{t}", CONNECT, DEVICE, nv_http_device_settle},
    {NV_HTTP_POST, "/devices/{d}/messages/deviceBound/{t}/abandon", CONNECT, DEVICE, nv_http_device_abandon},
    {NV_HTTP_DELETE, "/devices/{d}/commands", SERVICE, REGISTRY, nv_http_purge},
    {NV_HTTP_GET, "/messages/serviceBound/feedback", SERVICE, REGISTRY, nv_http_feedback_take},
    {NV_HTTP_DELETE, "/messages/serviceBound/feedback/{t}", SERVICE, REGISTRY, nv_http_feedback_complete},
    {NV_HTTP_POST, "/messages/serviceBound/feedback/{t}/abandon", SERVICE, REGISTRY, nv_http_feedback_abandon},
    {NV_HTTP_GET, "/statistics/devices", READ, REGISTRY, nv_http_statistics_devices},
    {NV_HTTP_GET, "/statistics/service", READ, REGISTRY, nv_http_statistics_service},
    {NV_HTTP_GET, "/$iothub/websocket", 0, NV_HTTP_OPEN, nv_http_websocket},
    {NV_HTTP_GET, "/$servicebus/websocket", 0, NV_HTTP_OPEN, nv_http_websocket},
    {NV_HTTP_GET, "/nave/v1/consumer-groups", SERVICE, OURS, nv_http_groups_list},
    {NV_HTTP_GET, "/nave/v1/consumer-groups/{n}", SERVICE, OURS, nv_http_group_get},
    {NV_HTTP_PUT, "/nave/v1/consumer-groups/{n}", SERVICE, OURS, nv_http_group_put},
    {NV_HTTP_DELETE, "/nave/v1/consumer-groups/{n}", SERVICE, OURS, nv_http_group_delete},
    {NV_HTTP_GET, "/nave/v1/events", SERVICE, OURS, nv_http_events},
    {NV_HTTP_GET, "/nave/v1/hub", SERVICE, OURS, nv_http_hub},
    {NV_HTTP_GET, "/nave/v1/policies", ALL, OURS, nv_http_policies},
    {NV_HTTP_POST, "/nave/v1/devices/{d}/messages", SERVICE, OURS, nv_http_message_send},
    {NV_HTTP_GET, "/nave/v1/devices/{d}/refusals", SERVICE, OURS, nv_http_refusals},
    {NV_HTTP_GET, "/nave/v1/devices/{d}/modules/{m}/refusals", SERVICE, OURS, nv_http_refusals},
};

static const nv_http_route admin_rows[] = {
    {NV_HTTP_GET, "/healthz", 0, NV_HTTP_OPEN | OURS, nv_http_healthz},
    {NV_HTTP_GET, "/readyz", 0, NV_HTTP_OPEN | OURS, nv_http_readyz},
    {NV_HTTP_GET, "/metrics", 0, NV_HTTP_OPEN | OURS, nv_http_metrics},
    {NV_HTTP_GET, "/testing/clock", 0, NV_HTTP_OPEN | OURS, nv_http_clock},
    {NV_HTTP_POST, "/testing/clock", 0, NV_HTTP_OPEN | OURS, nv_http_clock_advance},
};

const nv_http_routes nv_http_service_routes = {service_rows, NV_COUNT_OF(service_rows)};
const nv_http_routes nv_http_admin_routes = {admin_rows, NV_COUNT_OF(admin_rows)};

/* ---- targets ------------------------------------------------------------------------------------------------ */

/** Of the absolute form "https://host/path" only the path counts. */
static nv_span without_authority(nv_span target)
{
    static const nv_span schemes[] = {NV_SPAN_LIT("http://"), NV_SPAN_LIT("https://")};
    for (size_t i = 0; i < NV_COUNT_OF(schemes); i++) {
        if (nv_span_eq_nocase(nv_span_first(target, schemes[i].len), schemes[i])) {
            target = nv_span_skip(target, schemes[i].len);
            return nv_span_skip(target, nv_span_find(target, '/'));
        }
    }
    return target;
}

/**
 * Azure IoT Explorer encodes its paths as a whole, slashes too: "/devices%2Fquery", "/%2Ftwins%2Fd". Ids have no slash,
 * so that in a path without any other "%2F" can only be one. What is written into @p out points there.
 */
static nv_span with_slashes(nv_span raw, nv_writer *out)
{
    static const nv_span slash = NV_SPAN_LIT("%2F");
    const uint8_t *start = out->at;
    nv_span rest = raw;
    if (nv_span_find(nv_span_skip(raw, 1), '/') < raw.len - 1) {
        return raw;
    }
    while (rest.len > 0) {
        bool encoded = nv_span_eq_nocase(nv_span_first(rest, slash.len), slash);
        nv_write_u8(out, encoded ? '/' : rest.ptr[0]);
        rest = nv_span_skip(rest, encoded ? slash.len : 1);
    }
    return nv_span_of(start, (size_t)(out->at - start));
}

static nv_err split_segments(nv_http_path *path, nv_writer text)
{
    nv_span rest = path->raw;
    while (rest.len > 0) {
        rest = nv_span_skip(rest, 1); /* the slash */
        nv_span part = nv_span_first(rest, nv_span_find(rest, '/'));
        rest = nv_span_skip(rest, part.len);
        if (path->segment_count == NV_HTTP_MAX_SEGMENTS) {
            path->segment_count = 0; /* longer than any route */
            return NV_OK;
        }
        const uint8_t *start = text.at;
        nv_err err = nv_percent_decode(part, &text);
        if (err != NV_OK) {
            return err;
        }
        path->segments[path->segment_count++] = nv_span_of(start, (size_t)(text.at - start));
    }
    return NV_OK;
}

nv_err nv_http_path_parse(nv_span target, nv_http_path *path)
{
    *path = (nv_http_path){0};
    target = without_authority(target);
    target = nv_span_first(target, nv_span_find(target, '#'));
    size_t mark = nv_span_find(target, '?');
    path->raw = nv_span_first(target, mark);
    path->query = nv_span_skip(target, mark + 1);
    if (path->raw.len == 0 || path->raw.ptr[0] != '/') {
        return NV_E_SYNTAX;
    }
    path->text = nv_malloc(2 * path->raw.len); /* its slashes restored, and its segments */
    nv_writer text = nv_writer_of(path->text, 2 * path->raw.len);
    path->raw = with_slashes(path->raw, &text);
    if (path->raw.len > 1 && path->raw.ptr[1] == '/') {
        path->raw = nv_span_skip(path->raw, 1);
    }
    if (path->raw.len > 1 && path->raw.ptr[path->raw.len - 1] == '/') {
        path->raw.len--;
    }
    return split_segments(path, text);
}

/* ---- matching ----------------------------------------------------------------------------------------------- */

/** Where the segment behind {d}, {m}, {c} or {n} goes; NULL: @p part is fixed text. */
static nv_span *parameter(nv_http_exchange *x, nv_span part)
{
    if (part.len != 3 || part.ptr[0] != '{') {
        return NULL;
    }
    switch (part.ptr[1]) {
    case 'd':
        return &x->device_id;
    case 'm':
        return &x->module_id;
    case 'c':
        return &x->component;
    case 't':
        return &x->lock_token;
    default:
        return &x->command;
    }
}

static bool matches(const char *pattern, nv_http_exchange *x)
{
    nv_span rest = nv_span_str(pattern);
    size_t i = 0;
    x->device_id = x->module_id = x->component = x->command = x->lock_token = NV_SPAN_EMPTY;
    while (rest.len > 0 && i < x->path.segment_count) {
        rest = nv_span_skip(rest, 1);
        nv_span part = nv_span_first(rest, nv_span_find(rest, '/'));
        rest = nv_span_skip(rest, part.len);
        nv_span segment = x->path.segments[i++];
        nv_span *to = parameter(x, part);
        if (to && segment.len > 0) {
            *to = segment;
        } else if (!nv_span_eq_nocase(part, segment)) {
            return false;
        }
    }
    return rest.len == 0 && i == x->path.segment_count;
}

static void add_allowed(nv_http_exchange *x, nv_http_method method)
{
    size_t len = strlen(x->refused_headers);
    (void)snprintf(x->refused_headers + len, sizeof(x->refused_headers) - len, "%s%s%s",
                   len ? ", " : "Allow: ", nv_http_method_name(method), method == NV_HTTP_GET ? ", HEAD" : "");
}

nv_hub_error nv_http_route_find(const nv_http_routes *routes, nv_http_exchange *x)
{
    nv_http_method wanted = x->request->method == NV_HTTP_HEAD ? NV_HTTP_GET : x->request->method;
    for (size_t i = 0; i < routes->count; i++) {
        const nv_http_route *row = &routes->rows[i];
        if (!matches(row->path, x)) {
            continue;
        }
        if (row->method == wanted) {
            x->refused_headers[0] = '\0';
            x->route = row;
            return NV_HUB_ERROR_NONE;
        }
        add_allowed(x, row->method);
    }
    if (x->refused_headers[0]) {
        size_t len = strlen(x->refused_headers);
        (void)snprintf(x->refused_headers + len, sizeof(x->refused_headers) - len, "\r\n");
        return NV_HUB_ERROR_MethodNotAllowed;
    }
    return NV_HUB_ERROR_ResourceNotFound;
}

/* ---- query -------------------------------------------------------------------------------------------------- */

nv_err nv_http_query_get(const nv_http_exchange *x, const char *name, char *out, size_t size, nv_span *value)
{
    nv_span rest = x->path.query;
    while (rest.len > 0) {
        nv_span pair = nv_span_first(rest, nv_span_find(rest, '&'));
        rest = nv_span_skip(rest, pair.len + 1);
        size_t equals = nv_span_find(pair, '=');
        if (nv_span_eq_nocase(nv_span_first(pair, equals), nv_span_str(name))) {
            nv_writer text = nv_writer_of(out, size);
            nv_err err = nv_percent_decode(nv_span_skip(pair, equals + 1), &text);
            *value = nv_writer_span(&text);
            return err == NV_OK ? NV_OK : NV_E_SYNTAX;
        }
    }
    return NV_E_NOT_FOUND;
}

bool nv_http_query(const nv_http_exchange *x, const char *name, char *out, size_t size, nv_span *value)
{
    return nv_http_query_get(x, name, out, size, value) == NV_OK;
}

bool nv_http_api_version_valid(nv_span version)
{
    static const char form[] = "20dd-dd-dd";
    if (version.len < sizeof(form) - 1) {
        return false;
    }
    for (size_t i = 0; i < sizeof(form) - 1; i++) {
        bool digit = version.ptr[i] >= '0' && version.ptr[i] <= '9';
        if (form[i] == 'd' ? !digit : version.ptr[i] != (uint8_t)form[i]) {
            return false;
        }
    }
    nv_span rest = nv_span_skip(version, sizeof(form) - 1);
    return rest.len == 0 || nv_span_eq_nocase(rest, nv_span_str("-preview"));
}
