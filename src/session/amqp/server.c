/* The connection: SASL and OPEN, dispatch of ATTACH, expiry, draining, the end. */
#include "base/alloc.h"
#include "base/guid.h"
#include "base/metrics.h"
#include "session/amqp/server_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_FRAME        65536u
#define MIN_PEER_IDLE_MS 1000u
#define OUTPUT_MARK      (256u << 10)
#define HOST_MAX         255u
#define SAYS_EXPIRED     "ErrorCode:IotHubUnauthorizedAccess;the token has expired"
#define DRAIN_US         (5 * NV_US_PER_S)
#define SERVICES_SLACK   16u
#define LEAVE_US         (3 * NV_US_PER_S) /* from the end of the last link to CLOSE */

/* What a stranger may have: its $cbs pair, and one too many. */
#define STRANGER_SESSIONS 8u
#define STRANGER_LINKS    16u

/* Clients with many devices begin a session for each before they put the first token. A few strangers of a loop may do
 * so, at some 250 bytes a session. */
#define STRANGERS_WITH_MANY 64u
#define MANY_SESSIONS       1024u
#define STRANGER_FRAMES     4u /* of the largest that it may send: messages that are incomplete or being looked at */

/* A link of a service node. The engine tells only its owner when it goes, so an entry may be of a link that is no more:
 * it counts only while the engine has a link at that address, and is replaced when another link gets it. */
typedef struct service {
    nv_list node; /* amqp_server.services */
    const nv_amqp_link *link;
    bool exists; /* while they are counted */
    size_t path_len;
    char path[]; /* amqp_auth_path() */
} service;

/* ---- words -------------------------------------------------------------------------------------------------- */

nv_subject amqp_subject(const amqp_server *s, nv_span device_id, nv_span module_id)
{
    return (nv_subject){
        .connection = s->conn.session.carrier->peer->connection_id, .device = device_id, .module = module_id};
}

nv_amqp_condition amqp_condition_of(nv_hub_error error)
{
    static const struct {
        nv_hub_error error;
        nv_amqp_condition condition;
    } rows[] = {
        {NV_HUB_ERROR_NONE, NV_AMQP_ERR_NONE},
        {NV_HUB_ERROR_IotHubUnauthorizedAccess, NV_AMQP_ERR_UNAUTHORIZED_ACCESS},
        {NV_HUB_ERROR_InvalidOperation, NV_AMQP_ERR_NOT_ALLOWED},
        {NV_HUB_ERROR_MethodNotAllowed, NV_AMQP_ERR_NOT_ALLOWED},
        {NV_HUB_ERROR_IotHubQuotaExceeded, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED},
        {NV_HUB_ERROR_DeviceMaximumQueueDepthExceeded, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED},
        {NV_HUB_ERROR_TooManyDevices, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED},
        {NV_HUB_ERROR_TooManyModulesOnDevice, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED},
        {NV_HUB_ERROR_DeviceNotFound, NV_AMQP_ERR_NOT_FOUND},
        {NV_HUB_ERROR_ModuleNotFound, NV_AMQP_ERR_NOT_FOUND},
        {NV_HUB_ERROR_ResourceNotFound, NV_AMQP_ERR_NOT_FOUND},
        {NV_HUB_ERROR_PreconditionFailed, NV_AMQP_ERR_PRECONDITION_FAILED},
        {NV_HUB_ERROR_DeviceMessageLockLost, NV_AMQP_ERR_MESSAGE_LOCK_LOST},
        {NV_HUB_ERROR_MessageTooLarge, NV_AMQP_ERR_MESSAGE_SIZE_EXCEEDED},
        {NV_HUB_ERROR_ThrottlingException, NV_AMQP_ERR_DEVICE_CONTAINER_THROTTLED},
        {NV_HUB_ERROR_DeviceNotOnline, NV_AMQP_ERR_TIMEOUT},
        {NV_HUB_ERROR_DeviceConnectionClosedRemotely, NV_AMQP_ERR_TIMEOUT},
        {NV_HUB_ERROR_RequestTimeout, NV_AMQP_ERR_TIMEOUT},
        {NV_HUB_ERROR_ServiceUnavailable, NV_AMQP_ERR_TIMEOUT},
        {NV_HUB_ERROR_GatewayTimeout, NV_AMQP_ERR_TIMEOUT},
        {NV_HUB_ERROR_ServerError, NV_AMQP_ERR_INTERNAL_ERROR},
        {NV_HUB_ERROR_BadDeviceResponse, NV_AMQP_ERR_INTERNAL_ERROR},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        if (rows[i].error == error) {
            return rows[i].condition;
        }
    }
    return NV_AMQP_ERR_ARGUMENT_ERROR; /* 400 and 409: it cannot be done as it was asked */
}

void amqp_describe(const amqp_server *s, nv_hub_error error, const char *detail, char out[AMQP_DESCRIPTION])
{
    char sentence[NV_HUB_SENTENCE];
    (void)snprintf(out, AMQP_DESCRIPTION, "ErrorCode:%s;%s", nv_hub_error_info_of(error)->name,
                   nv_hub_error_sentence(amqp_hub(s), error, detail, sentence));
}

static nv_span address_of(const nv_amqp_link *link)
{
    if (link->sender) {
        return link->source ? nv_amqp_text_of(link->source->address) : NV_SPAN_EMPTY;
    }
    return link->target ? nv_amqp_text_of(link->target->address) : NV_SPAN_EMPTY;
}

void amqp_refuse(amqp_server *s, nv_amqp_link *link, nv_amqp_condition condition, const char *description)
{
    nv_metric_add(NV_M_AMQP_REFUSED, 1);
    if (nv_hub_may_say_refusal(amqp_hub(s))) {
        nv_subject subject = amqp_subject(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY);
        subject.peer = s->conn.session.carrier->peer->address;
        nv_diag(NV_LEVEL_INFO, "amqp", &subject, "refused a link %s /%.*s: %s (%s)", link->sender ? "from" : "to",
                NV_SPAN_ARG(nv_span_first(amqp_address_path(address_of(link)), 200)), description,
                nv_amqp_condition_name(condition));
    }
    nv_amqp_link_refuse(link, condition, description, NV_SPAN_EMPTY);
}

/* ---- memory and deadlines ----------------------------------------------------------------------------------- */

void amqp_operation_begin(amqp_server *s)
{
    s->operations++;
}

void amqp_operation_end(amqp_server *s)
{
    s->operations--;
    amqp_server_settle(s);
}

static bool promises_kept(const amqp_server *s)
{
    for (nv_list *node = s->devices.next; node != &s->devices; node = node->next) {
        if (nv_container_of(node, amqp_device, link)->client.pending > 0) {
            return false;
        }
    }
    return s->operations == 0;
}

void amqp_server_settle(amqp_server *s)
{
    if (s->ended) {
        if (s->operations == 0 && nv_list_empty(&s->devices)) {
            nv_amqp_conn_done(&s->conn);
        }
    } else if (s->draining && s->conn.state == NV_AMQP_CONN_OPENED && promises_kept(s)) {
        nv_amqp_conn_close(&s->conn, NV_AMQP_ERR_CONNECTION_FORCED, "the hub stops");
    }
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

void amqp_server_update_deadline(amqp_server *s)
{
    int64_t at_us = earlier(earlier(s->authorize_by_us, s->drain_by_us), s->leave_by_us);
    if (s->expires_wall_us < INT64_MAX) {
        const nv_clock *clock = amqp_hub(s)->clock;
        int64_t left_us = s->expires_wall_us - nv_wall_us(clock);
        int64_t now_us = nv_mono_us(clock);
        left_us = left_us > 0 ? left_us : 0;
        at_us = earlier(at_us, left_us < INT64_MAX - now_us ? now_us + left_us : INT64_MAX);
    }
    nv_amqp_conn_set_deadline(&s->conn, at_us);
}

static void no_longer_many(amqp_server *s)
{
    if (s->many_sessions) {
        s->many_sessions = false;
        amqp_loop(s)->many_sessions--;
    }
}

void amqp_server_known(amqp_server *s)
{
    if (s->conn.session.authenticated) {
        return;
    }
    const nv_limits *limits = &amqp_hub(s)->limits;
    no_longer_many(s);
    s->conn.config.sessions = nv_limit_31(limits->amqp_sessions);
    s->conn.config.links = nv_limit_31(limits->amqp_links);
    s->conn.config.max_unsettled_bytes = (size_t)limits->amqp_unsettled_bytes;
    s->authorize_by_us = INT64_MAX;
    nv_metric_add(NV_M_AMQP_CONNECTIONS, 1);
    nv_amqp_conn_authenticated(&s->conn);
    amqp_server_update_deadline(s);
}

void amqp_server_fault(amqp_server *s, nv_fault_kind kind, const char *reason)
{
    char text[160];
    (void)snprintf(text, sizeof(text), "%s: %s", nv_fault_name(kind), reason);
    if (kind == NV_FAULT_KILL_TCP) {
        nv_amqp_conn_abort(&s->conn);
    } else if (kind == NV_FAULT_SHUT_DOWN_AMQP) {
        nv_amqp_conn_close(&s->conn, NV_AMQP_ERR_CONNECTION_FORCED, text);
    } else if (kind == NV_FAULT_AUTH) {
        nv_amqp_conn_close(&s->conn, NV_AMQP_ERR_UNAUTHORIZED_ACCESS, text);
    }
}

/* ---- links of services -------------------------------------------------------------------------------------- */

static service *service_of(const amqp_server *s, const nv_amqp_link *link)
{
    return nv_map_get(&s->by_link, nv_span_of(&link, sizeof(link)));
}

static void forget(amqp_server *s, service *entry)
{
    (void)nv_map_remove(&s->by_link, nv_span_of(&entry->link, sizeof(entry->link)));
    nv_list_remove(&entry->node);
    free(entry);
}

static void note_existing(amqp_server *s)
{
    for (nv_list *at = s->conn.sessions.next; at != &s->conn.sessions; at = at->next) {
        const nv_amqp_session *session = nv_container_of(at, nv_amqp_session, _node);
        for (nv_list *node = session->links.next; node != &session->links; node = node->next) {
            service *entry = service_of(s, nv_container_of(node, nv_amqp_link, _node));
            if (entry) {
                entry->exists = true;
            }
        }
    }
}

/* Those of links that are no more go. */
static void sweep_services(amqp_server *s)
{
    for (nv_list *node = s->services.next; node != &s->services; node = node->next) {
        nv_container_of(node, service, node)->exists = false;
    }
    note_existing(s);
    for (nv_list *node = s->services.next; node != &s->services;) {
        service *entry = nv_container_of(node, service, node);
        node = node->next;
        if (!entry->exists) {
            forget(s, entry);
        }
    }
}

static void remember(amqp_server *s, const nv_amqp_link *link, nv_span path)
{
    if (s->by_link.count > 2 * (size_t)s->conn.link_count + SERVICES_SLACK) {
        sweep_services(s);
    }
    service *entry = nv_malloc(sizeof(*entry) + path.len);
    entry->link = link;
    entry->exists = true;
    entry->path_len = path.len;
    if (path.len > 0) {
        memcpy(entry->path, path.ptr, path.len);
    }
    nv_list_push_back(&s->services, &entry->node);
    (void)nv_map_put(&s->by_link, nv_span_of(&entry->link, sizeof(entry->link)), entry);
}

static bool is_empty(amqp_server *s)
{
    sweep_services(s);
    return !s->ended && s->device_count == 0 && nv_list_empty(&s->services);
}

void amqp_server_close_if_empty(amqp_server *s, nv_amqp_condition condition, const char *description)
{
    if (is_empty(s)) {
        s->leave_by_us = nv_mono_us(amqp_hub(s)->clock) + LEAVE_US;
        s->leave_condition = condition;
        s->leave_text = description;
        amqp_server_update_deadline(s);
    }
}

/* Its owner is told as if the peer had detached it. */
static void end_service(amqp_server *s, service *entry, const char *description)
{
    nv_amqp_link *link = NULL;
    memcpy(&link, &entry->link, sizeof(link));
    nv_subject subject = amqp_subject(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY);
    nv_diag(NV_LEVEL_INFO, "amqp", &subject, "ends a link of /%.*s: %s",
            NV_SPAN_ARG(nv_span_of(entry->path, entry->path_len)), description);
    forget(s, entry);
    nv_amqp_problem problem = {.condition = NV_AMQP_ERR_UNAUTHORIZED_ACCESS,
                               .symbol = nv_span_str(nv_amqp_condition_name(NV_AMQP_ERR_UNAUTHORIZED_ACCESS)),
                               .description = nv_span_str(description)};
    if (link->ops && link->ops->detached) {
        link->ops->detached(link, &problem);
    }
    nv_amqp_link_detach(link, NV_AMQP_ERR_UNAUTHORIZED_ACCESS, description);
}

/* @return true: one that is not answered yet is to be looked at again */
static bool expire_services(amqp_server *s)
{
    bool again = false;
    sweep_services(s);
    for (nv_list *node = s->services.next; node != &s->services;) {
        service *entry = nv_container_of(node, service, node);
        const char *why = "";
        node = node->next;
        if (amqp_auth_covers(s, nv_span_of(entry->path, entry->path_len), &why)) {
            continue;
        }
        if (entry->link->attach) {
            again = true;
        } else {
            end_service(s, entry, SAYS_EXPIRED);
        }
    }
    return again;
}

/* ---- ATTACH ------------------------------------------------------------------------------------------------- */

void amqp_server_open(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    static const amqp_open_fn openers[AMQP_NODE_COUNT] = {
#define X(id, who, open) [AMQP_NODE_##id] = (open),
        AMQP_NODE_TABLE(X)
#undef X
    };
    openers[address->node](s, device, link, address);
}

static void attach_service(amqp_server *s, nv_amqp_link *link, const amqp_address *address)
{
    char path[1024];
    nv_span wanted = nv_span_of(path, amqp_auth_path(address, path));
    const char *why = "";
    if (!amqp_auth_covers(s, wanted, &why)) {
        amqp_refuse(s, link, NV_AMQP_ERR_UNAUTHORIZED_ACCESS, why);
        return;
    }
    remember(s, link, wanted);
    amqp_server_open(s, NULL, link, address);
}

static void dispatch(amqp_server *s, nv_amqp_link *link, const amqp_address *address)
{
    enum { NOBODY, DEVICE, SERVICE };
    static const uint8_t who_may[AMQP_NODE_COUNT] = {
#define X(id, who, open) [AMQP_NODE_##id] = (who),
        AMQP_NODE_TABLE(X)
#undef X
    };
    bool is_device = who_may[address->node] == DEVICE && address->device_id.len > 0;
    if (who_may[address->node] == NOBODY) {
        amqp_server_open(s, NULL, link, address);
    } else if (is_device) {
        amqp_device_attach(s, link, address);
    } else {
        attach_service(s, link, address);
    }
}

/* Why there is nothing at an address. */
static void refuse_address(amqp_server *s, nv_amqp_link *link, nv_err err)
{
    switch ((int)err) {
    case NV_E_NOT_FOUND:
        amqp_refuse(s, link, NV_AMQP_ERR_NOT_FOUND, "there is nothing at this address");
        return;
    case NV_E_UNSUPPORTED:
        amqp_refuse(s, link, NV_AMQP_ERR_NOT_ALLOWED,
                    "ErrorCode:InvalidOperation;this address has no links, or none in this direction");
        return;
    default:
        amqp_refuse(
            s, link, NV_AMQP_ERR_INVALID_FIELD,
            "ErrorCode:ArgumentInvalid;the address is malformed: an id is empty, too long, or has what no id has");
        return;
    }
}

static bool is_dynamic(const nv_amqp_link *link)
{
    return link->sender ? link->source && link->source->dynamic : link->target && link->target->dynamic;
}

static void on_attach(nv_amqp_conn *conn, nv_amqp_link *link)
{
    amqp_server *s = (amqp_server *)(void *)conn;
    service *stale = service_of(s, link);
    amqp_address address;
    if (stale) {
        forget(s, stale);
    }
    if (s->draining) {
        amqp_refuse(s, link, NV_AMQP_ERR_DETACH_FORCED, "the hub stops");
        return;
    }
    if (is_dynamic(link)) {
        amqp_refuse(s, link, NV_AMQP_ERR_NOT_IMPLEMENTED, "dynamic nodes are not supported");
        return;
    }
    nv_err err = amqp_address_parse(address_of(link), !link->sender, &address);
    if (err == NV_OK) {
        dispatch(s, link, &address);
    } else {
        refuse_address(s, link, err);
    }
}

/* ---- OPEN --------------------------------------------------------------------------------------------------- */

static void on_sasl(nv_amqp_conn *conn, nv_span mechanism, nv_span initial_response, nv_span hostname)
{
    (void)hostname;
    amqp_auth_sasl((amqp_server *)(void *)conn, mechanism, initial_response);
}

/* What a redirect can name. */
static void take_host(amqp_server *s, nv_span hostname)
{
    nv_span host = amqp_host_of(hostname);
    bool usable = host.len > 0 && host.len <= HOST_MAX;
    for (size_t i = 0; i < host.len; i++) {
        usable = usable && (isalnum(host.ptr[i]) || nv_span_find(nv_span_str(".-_:"), host.ptr[i]) < 4);
    }
    if (usable) {
        free(s->host);
        s->host = nv_span_dup(host);
    }
}

static void take_product(amqp_server *s, nv_span properties)
{
    nv_reader r = nv_reader_of(properties);
    nv_amqp_value map;
    nv_amqp_value product;
    nv_amqp_value version;
    if (properties.len == 0 || !nv_amqp_read(&r, &map) || !nv_amqp_map_find(&map, "product", &product) ||
        !nv_amqp_is_text(&product)) {
        return;
    }
    bool has_version = nv_amqp_map_find(&map, "version", &version) && nv_amqp_is_text(&version);
    (void)snprintf(s->product, sizeof(s->product), "%.*s %.*s", NV_SPAN_ARG(nv_span_first(product.bytes, 40)),
                   NV_SPAN_ARG(has_version ? nv_span_first(version.bytes, 20) : NV_SPAN_EMPTY));
}

static void on_opened(nv_amqp_conn *conn, const nv_amqp_open *open)
{
    amqp_server *s = (amqp_server *)(void *)conn;
    const nv_hub *hub = amqp_hub(s);
    take_host(s, open->hostname);
    take_product(s, open->properties);
    if (!conn->sasl_done && conn->session.carrier->peer->certificate) {
        s->certificate = true;
    }
    if (!conn->session.authenticated) {
        s->authorize_by_us = nv_mono_us(hub->clock) + hub->limits.amqp_authorize_s * NV_US_PER_S;
    }
    amqp_server_update_deadline(s);
    nv_subject subject = amqp_subject(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY);
    subject.peer = conn->session.carrier->peer->address;
    nv_diag(NV_LEVEL_DEBUG, "amqp", &subject, "opened for %s by \"%.*s\"%s%s", s->host,
            NV_SPAN_ARG(nv_span_first(open->container_id, 100)), s->product[0] ? ", " : "", s->product);
}

static bool on_crowded(nv_amqp_conn *conn)
{
    amqp_server *s = (amqp_server *)(void *)conn;
    nv_hub_loop *loop = amqp_loop(s);
    int64_t most = amqp_hub(s)->limits.amqp_sessions;
    if (conn->session.authenticated || s->many_sessions || loop->many_sessions >= STRANGERS_WITH_MANY ||
        most <= (int64_t)conn->config.sessions) {
        return false;
    }
    s->many_sessions = true;
    loop->many_sessions++;
    conn->config.sessions = most < MANY_SESSIONS ? (uint32_t)most : MANY_SESSIONS;
    return true;
}

/* ---- time and the end --------------------------------------------------------------------------------------- */

/* Something of the connection's credentials is over: what it opened goes, and the connection with the last of it. */
static void expire(amqp_server *s, int64_t wall_us)
{
    if (!amqp_auth_expire(s, wall_us, &s->expires_wall_us)) {
        return;
    }
    amqp_operation_begin(s);
    amqp_devices_expire(s);
    if (expire_services(s) && s->expires_wall_us > wall_us + NV_US_PER_S) {
        s->expires_wall_us = wall_us + NV_US_PER_S;
    }
    if (nv_list_empty(&s->principals)) {
        amqp_server_close_if_empty(s, NV_AMQP_ERR_UNAUTHORIZED_ACCESS, SAYS_EXPIRED);
    }
    amqp_operation_end(s);
}

static void on_tick(nv_amqp_conn *conn, int64_t now_us)
{
    amqp_server *s = (amqp_server *)(void *)conn;
    if (now_us >= s->drain_by_us) {
        s->drain_by_us = INT64_MAX;
        nv_amqp_conn_close(conn, NV_AMQP_ERR_CONNECTION_FORCED, "the hub stops");
        return;
    }
    if (now_us >= s->leave_by_us) {
        s->leave_by_us = INT64_MAX;
        if (is_empty(s)) {
            nv_amqp_conn_close(conn, s->leave_condition, s->leave_text);
            return;
        }
    }
    if (now_us >= s->authorize_by_us) {
        s->authorize_by_us = INT64_MAX;
        nv_hub_refuse(amqp_hub(s), "amqp", conn->session.carrier->peer, NV_SPAN_EMPTY, NV_SPAN_EMPTY,
                      NV_REFUSAL_DEADLINE, "no token or certificate opened anything");
        nv_amqp_conn_close(conn, NV_AMQP_ERR_UNAUTHORIZED_ACCESS, "no token or certificate opened anything in time");
        return;
    }
    if (nv_wall_us(amqp_hub(s)->clock) >= s->expires_wall_us) {
        expire(s, nv_wall_us(amqp_hub(s)->clock));
    }
    amqp_server_update_deadline(s);
}

static void stop_senders(amqp_server *s)
{
    for (nv_list *at = s->conn.sessions.next; at != &s->conn.sessions; at = at->next) {
        nv_amqp_session *session = nv_container_of(at, nv_amqp_session, _node);
        for (nv_list *node = session->links.next; node != &session->links; node = node->next) {
            nv_amqp_link *link = nv_container_of(node, nv_amqp_link, _node);
            if (!link->sender && !link->attach) {
                nv_amqp_link_set_credit(link, 0);
            }
        }
    }
}

static void on_drain(nv_amqp_conn *conn)
{
    amqp_server *s = (amqp_server *)(void *)conn;
    if (s->ended || s->draining) {
        return;
    }
    if (conn->state != NV_AMQP_CONN_OPENED) {
        nv_amqp_conn_close(conn, NV_AMQP_ERR_CONNECTION_FORCED, "the hub stops");
        return;
    }
    s->draining = true;
    s->drain_by_us = nv_mono_us(amqp_hub(s)->clock) + DRAIN_US;
    stop_senders(s);
    amqp_server_update_deadline(s);
    amqp_server_settle(s);
}

static void log_end(const amqp_server *s, const nv_amqp_problem *problem)
{
    nv_subject subject = amqp_subject(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY);
    bool known = s->conn.session.authenticated;
    if (!nv_list_empty(&s->devices) && s->devices.next == s->devices.prev) { /* the only one */
        const amqp_device *only = nv_container_of(s->devices.next, amqp_device, link);
        subject.device = only->_device_id;
        subject.module = only->_module_id;
    }
    /* why SASL failed was said already */
    bool broken = problem->symbol.len > 0 && problem->condition != NV_AMQP_ERR_UNAUTHORIZED_ACCESS;
    if (!known) {
        subject.peer = s->conn.session.carrier->peer->address;
    }
    if (problem->symbol.len > 0 || problem->description.len > 0) {
        bool loud = known || (broken && nv_hub_may_say_refusal(amqp_hub(s)));
        nv_diag(loud ? NV_LEVEL_INFO : NV_LEVEL_DEBUG, "amqp", &subject, "connection lost: %.*s%s%.*s",
                NV_SPAN_ARG(nv_span_first(problem->symbol, 60)), problem->symbol.len > 0 ? ": " : "",
                NV_SPAN_ARG(nv_span_first(problem->description, 200)));
    } else {
        nv_diag(NV_LEVEL_DEBUG, "amqp", &subject, "closed");
    }
}

/* Strangers' errors are written too, but not more than may be said of refusals. */
static void on_broken(nv_amqp_conn *conn, const char *what, const nv_amqp_problem *problem)
{
    amqp_server *s = (amqp_server *)(void *)conn;
    if (nv_hub_may_say_refusal(amqp_hub(s))) {
        nv_subject subject = amqp_subject(s, NV_SPAN_EMPTY, NV_SPAN_EMPTY);
        subject.peer = conn->session.carrier->peer->address;
        nv_diag(NV_LEVEL_INFO, "amqp", &subject, "ended a %s: %.*s: %.*s", what, NV_SPAN_ARG(problem->symbol),
                NV_SPAN_ARG(nv_span_first(problem->description, 200)));
    }
}

static void on_ended(nv_amqp_conn *conn, const nv_amqp_problem *problem)
{
    amqp_server *s = (amqp_server *)(void *)conn;
    log_end(s, problem);
    amqp_operation_begin(s);
    s->ended = true;
    while (!nv_list_empty(&s->services)) {
        forget(s, nv_container_of(s->services.next, service, node));
    }
    amqp_devices_end(s);
    amqp_operation_end(s);
}

static void on_free(nv_amqp_conn *conn)
{
    amqp_server *s = (amqp_server *)(void *)conn;
    if (conn->session.authenticated) {
        nv_metric_add(NV_M_AMQP_CONNECTIONS, -1);
    }
    no_longer_many(s);
    nv_amqp_conn_deinit(conn);
    amqp_auth_deinit(s);
    nv_map_deinit(&s->by_key);
    nv_map_deinit(&s->by_link);
    free(s->host);
    free(s);
}

static const nv_amqp_conn_ops server_ops = {.sasl = on_sasl,
                                            .opened = on_opened,
                                            .attach = on_attach,
                                            .broken = on_broken,
                                            .ended = on_ended,
                                            .crowded = on_crowded,
                                            .tick = on_tick,
                                            .drain = on_drain,
                                            .free = on_free};

nv_session *nv_amqp_server_new(nv_carrier *carrier)
{
    nv_hub *hub = carrier->loop->hub;
    const nv_limits *limits = &hub->limits;
    amqp_server *s = nv_calloc(1, sizeof(*s));
    nv_list_init(&s->principals);
    nv_list_init(&s->checks);
    nv_list_init(&s->devices);
    nv_list_init(&s->services);
    nv_list_init(&s->cbs);
    nv_map_init(&s->by_path, nv_rng_u64(hub->rng));
    nv_map_init(&s->by_key, nv_rng_u64(hub->rng));
    nv_map_init(&s->by_link, nv_rng_u64(hub->rng));
    s->host = nv_span_dup(hub->host_names[0]);
    s->expires_wall_us = s->authorize_by_us = s->drain_by_us = s->leave_by_us = INT64_MAX;
    char guid[NV_GUID_TEXT_SIZE];
    nv_guid_make(hub->rng, guid);
    (void)snprintf(s->container_id, sizeof(s->container_id), "DeviceGateway_%s", guid);
    nv_amqp_config config = {.container_id = s->container_id,
                             .sasl_mechanisms = "PLAIN ANONYMOUS EXTERNAL MSSBCBS",
                             .max_frame_size = MAX_FRAME,
                             .channel_max =
                                 (uint16_t)(limits->amqp_sessions > UINT16_MAX ? UINT16_MAX : limits->amqp_sessions),
                             .handle_max = nv_limit_31(limits->amqp_links),
                             .idle_time_out_ms = nv_limit_31(limits->amqp_idle_s * 1000),
                             .min_peer_idle_ms = MIN_PEER_IDLE_MS,
                             .open_deadline_us = limits->amqp_open_s * NV_US_PER_S,
                             .max_unsettled_bytes = (size_t)limits->unauthenticated_bytes * STRANGER_FRAMES,
                             .unauthenticated_frame = (size_t)limits->unauthenticated_bytes,
                             .output_mark = OUTPUT_MARK,
                             .sessions = STRANGER_SESSIONS,
                             .links = STRANGER_LINKS};
    nv_amqp_server_init(&s->conn, carrier, &server_ops, &config);
    return &s->conn.session;
}
