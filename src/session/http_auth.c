#include "session/http_exchange.h"

#include "base/diag.h"

/** One line for the operator; the peer learns only that it may not (http-hub.md section 2.5). */
static void log_refusal(const nv_http_exchange *x, nv_refusal refusal, const char *detail)
{
    if (!nv_hub_may_say_refusal(x->hub)) {
        return;
    }
    const nv_refusal_info *info = nv_refusal_info_of(refusal);
    const nv_peer *peer = x->auth.peer;
    nv_subject who = {
        .connection = peer->connection_id, .device = x->device_id, .module = x->module_id, .peer = peer->address};
    nv_diag(NV_LEVEL_INFO, "http", &who, "refused %s %.*s: %s%s%s%s; %s", nv_http_method_name(x->request->method),
            NV_SPAN_ARG(nv_span_first(x->path.raw, 200)), info->cause, detail[0] ? " (" : "", detail,
            detail[0] ? ")" : "", info->cure);
}

static void refuse_unlogged(nv_http_exchange *x)
{
    nv_http_refuse(x, x->route->flags & NV_HTTP_OURS ? NV_HTTP_E2 : NV_HTTP_E1, NV_HUB_ERROR_IotHubUnauthorizedAccess,
                   NULL);
}

static void refuse(nv_http_exchange *x, nv_refusal refusal, const char *detail)
{
    log_refusal(x, refusal, detail);
    refuse_unlogged(x);
}

/** The device's own credential opens its modules if it is an edge device (http-hub.md section 2.2). */
static void device_done(nv_auth_request *request)
{
    nv_http_exchange *x = nv_container_of(request, nv_http_exchange, auth);
    if (request->status == NV_OK) {
        if (request->identity->iot_edge) {
            x->as_device = true;
        } else {
            refuse(x, NV_REFUSAL_POLICY_RIGHT, "only an edge device manages its modules with its own credential");
        }
        nv_identity_unref(request->identity);
        request->identity = NULL;
    } else if (request->status == NV_E_UNAUTHORIZED) {
        refuse_unlogged(x); /* nv_auth_device has said why */
    } else {
        nv_http_refuse(x, NV_HTTP_E1, NV_HUB_ERROR_ServiceUnavailable, NULL);
    }
    x->authorized(x);
}

/** Who uses the device API is the device of the path. */
static void caller_done(nv_auth_request *request)
{
    nv_http_exchange *x = nv_container_of(request, nv_http_exchange, auth);
    if (request->status == NV_OK) {
        x->device = request->identity;
        request->identity = NULL;
    } else if (request->status == NV_E_UNAUTHORIZED) {
        refuse_unlogged(x); /* nv_auth_device has said why */
    } else {
        nv_http_refuse(x, NV_HTTP_E1, NV_HUB_ERROR_ServiceUnavailable, NULL);
    }
    x->authorized(x);
}

static nv_http_verdict ask_device(nv_http_exchange *x, nv_span token)
{
    x->auth.device_id = x->device_id;
    x->auth.module_id = NV_SPAN_EMPTY;
    x->auth.token = token;
    x->auth.protocol = "http";
    x->auth.done = x->route->flags & NV_HTTP_DEVICE ? caller_done : device_done;
    nv_auth_device(x->loop, &x->auth);
    return NV_HTTP_PENDING;
}

nv_http_verdict nv_http_authorize(nv_http_exchange *x)
{
    const nv_http_route *route = x->route;
    if (route->flags & NV_HTTP_OPEN) {
        return NV_HTTP_GRANTED;
    }
    bool own_device = route->flags & NV_HTTP_OWN_DEVICE;
    nv_span token = NV_SPAN_EMPTY;
    bool presented = nv_http_find_header(x->request, "authorization", &token) && token.len > 0;
    if (route->flags & NV_HTTP_DEVICE) {
        return ask_device(x, token);
    }
    if (own_device && (presented ? !nv_auth_token_is_policy(token) : x->auth.peer->certificate != NULL)) {
        return ask_device(x, token);
    }
    if (!presented) {
        refuse(x, NV_REFUSAL_NO_CREDENTIAL, "no Authorization header");
        return NV_HTTP_REFUSED;
    }
    nv_refusal refusal = NV_REFUSAL_NONE;
    char detail[NV_REFUSAL_DETAIL] = "";
    if (nv_auth_service(x->hub, token, x->path.raw, route->rights, &refusal, detail) != NV_OK) {
        refuse(x, refusal, detail);
        return NV_HTTP_REFUSED;
    }
    return NV_HTTP_GRANTED;
}
