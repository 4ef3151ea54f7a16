/**
 * Inside the HTTP sessions: one request from its head to the last byte of its answer. The connection (http_conn.c)
 * makes it, the router finds its handler, authorization comes before the body is read, and the handler ends it with
 * exactly one reply, at once or later.
 *
 *   head -> route -> api-version -> authorize -> body -> handler -> reply -> next request
 *                         \-- refused: the body is read and thrown away, then the error goes out
 *
 * A reply on a connection that is gone meanwhile is dropped, so handlers need not look. After a reply the exchange and
 * its op are freed: touch nothing.
 */
#ifndef NV_SESSION_HTTP_EXCHANGE_H
#define NV_SESSION_HTTP_EXCHANGE_H

#include "codec/http.h"
#include "codec/json.h"
#include "core/auth.h"
#include "core/registry.h"
#include "session/http.h"

#define NV_HTTP_MAX_SEGMENTS 10u
#define NV_HTTP_JSON_DEPTH   32u
#define NV_HTTP_JSON_VALUES  200000u

typedef struct nv_http_exchange nv_http_exchange;
struct nv_http_conn;

/** Which error body (http-hub.md section 4.1). */
typedef enum nv_http_shape {
    NV_HTTP_E1, /* registry: ErrorCode:Name;text */
    NV_HTTP_E2, /* no resource of the service: paths, methods, HTTP itself, /nave/v1/ */
    NV_HTTP_E3  /* methods and commands; module identity operations on a missing or disabled device */
} nv_http_shape;

enum {
    NV_HTTP_API_VERSION = 1, /* api-version is mandatory */
    NV_HTTP_OWN_DEVICE = 2,  /* also the edge device's own key or certificate */
    NV_HTTP_OPEN = 4,        /* nobody is asked who they are */
    NV_HTTP_OURS = 8,        /* our own API: errors in shape E2 */
    NV_HTTP_DEVICE = 16      /* the device API: that device's credential, or a policy with DeviceConnect */
};

typedef struct nv_http_route {
    nv_http_method method;
    const char *path; /* "/devices/{d}/modules/{m}", {c} a component, {n} a name, {t} a lock; fixed segments match in
                         any case */
    uint32_t rights;  /* the policy needs all of them */
    uint32_t flags;
    void (*handler)(nv_http_exchange *x);
} nv_http_route;

typedef struct nv_http_routes {
    const nv_http_route *rows;
    size_t count;
} nv_http_routes;

/** The tables of the two servers. Static storage. */
extern const nv_http_routes nv_http_service_routes;
extern const nv_http_routes nv_http_admin_routes;

/** A target taken apart. Spans point into the request and into text. */
typedef struct nv_http_path {
    nv_span raw;   /* still encoded, one leading slash, no trailing one: what tokens are checked against */
    nv_span query; /* behind the question mark */
    nv_span segments[NV_HTTP_MAX_SEGMENTS]; /* decoded */
    size_t segment_count;
    uint8_t *text; /* owned */
} nv_http_path;

struct nv_http_exchange {
    struct nv_http_conn *conn;
    nv_hub_loop *loop;
    nv_hub *hub;
    const nv_http_request *request;
    const nv_http_route *route; /* NULL: refused before one was found */
    nv_http_path path;
    nv_span device_id; /* from the path */
    nv_span module_id;
    nv_span component;
    nv_span command; /* {n} */
    nv_span lock_token;
    nv_identity *device; /* of the device API: who asks; a reference */
    bool as_device;      /* authorized by the edge device's own credential */
    /* a refusal that waits for the end of the body */
    nv_hub_error refused;
    nv_http_shape refused_shape;
    char refused_detail[200];
    char refused_headers[96];
    /* authorization by a device's credential */
    nv_auth_request auth;
    void (*authorized)(nv_http_exchange *x);
    /* the handler's own */
    void *op;
    void (*op_free)(void *op); /* called when the exchange ends */
    /* streams only: what the connection tells the handler */
    void (*stream_sent)(nv_http_exchange *x, int64_t now_us);
    void (*stream_tick)(nv_http_exchange *x, int64_t now_us);
    void (*stream_stop)(nv_http_exchange *x, bool lost); /* end the reply now */
    void (*peer_gone)(nv_http_exchange *x);              /* of nv_http_watch_peer() */
};

/* ---- router ------------------------------------------------------------------------------------------------- */

/** @return NV_E_SYNTAX a target that is not a path, or wrong percent-encoding. The caller frees path->text. */
NV_NODISCARD nv_err nv_http_path_parse(nv_span target, nv_http_path *path);
/**
 * Find the route; sets x->route and the ids. HEAD finds GET.
 * @return NONE; ResourceNotFound; MethodNotAllowed, then the Allow header stands in x->refused_headers
 */
nv_hub_error nv_http_route_find(const nv_http_routes *routes, nv_http_exchange *x);
/**
 * The parameter called @p name (ignoring case), decoded into @p out. @return false: absent, or longer than @p size, or
 * badly encoded
 */
bool nv_http_query(const nv_http_exchange *x, const char *name, char *out, size_t size, nv_span *value);
/** As nv_http_query(), telling absent from unusable: NV_E_NOT_FOUND, NV_E_SYNTAX. */
NV_NODISCARD nv_err nv_http_query_get(const nv_http_exchange *x, const char *name, char *out, size_t size,
                                      nv_span *value);
/** 20YY-MM-DD, optionally with -preview. */
bool nv_http_api_version_valid(nv_span version);

/* ---- authorization ------------------------------------------------------------------------------------------ */

typedef enum nv_http_verdict { NV_HTTP_GRANTED, NV_HTTP_REFUSED, NV_HTTP_PENDING } nv_http_verdict;

/** REFUSED: x->refused is set. PENDING: x->authorized is called later, and x->refused tells. */
nv_http_verdict nv_http_authorize(nv_http_exchange *x);

/* ---- replies ------------------------------------------------------------------------------------------------ */

typedef struct nv_http_reply {
    unsigned status;
    const char *content_type; /* NULL: application/json; charset=utf-8 */
    const char *error_name;   /* iothub-errorcode; NULL: none */
    nv_span etag;             /* without quotes; empty: none */
    const char *headers;      /* further lines, each with CRLF; NULL: none */
    nv_span body;             /* copied */
} nv_http_reply;

/** Answer and end the exchange. */
void nv_http_send(nv_http_exchange *x, const nv_http_reply *reply);
/** 200 with a JSON body; when the writer of @p body failed, 500. */
void nv_http_send_json(nv_http_exchange *x, const nv_json_writer *w, nv_span etag);
/** Answer with an error and end the exchange. @param detail  replaces the error's own sentence unless empty or NULL */
void nv_http_fail(nv_http_exchange *x, nv_hub_error error, const char *detail);
void nv_http_fail_as(nv_http_exchange *x, nv_http_shape shape, nv_hub_error error, const char *detail);
/** @param info  what an answer in shape E3 says as "info", JSON text; NULL: null */
void nv_http_fail_info(nv_http_exchange *x, nv_http_shape shape, nv_hub_error error, const char *detail,
                       const char *info);
/** Note a refusal that is sent once the request has been read. The first one counts. */
void nv_http_refuse(nv_http_exchange *x, nv_http_shape shape, nv_hub_error error, const char *detail);

/** Answer 101 with these header lines, each with CRLF, and hand the connection over: the last of HTTP on it. */
void nv_http_switch(nv_http_exchange *x, const char *headers, const nv_upgrade *to);
/**
 * While the handler works, tell it when the peer goes: once, before a reply, which it owes nevertheless. Costs reading:
 * a request behind this one ends the watch.
 */
void nv_http_watch_peer(nv_http_exchange *x, void (*peer_gone)(nv_http_exchange *x));

/** Begin an answer of unknown length: set stream_sent, stream_tick and stream_stop before. */
void nv_http_stream_begin(nv_http_exchange *x, const char *content_type);
/** Queue a part. */
void nv_http_stream_write(nv_http_exchange *x, nv_span bytes);
/** Bytes queued and not yet taken by the peer. */
size_t nv_http_stream_queued(const nv_http_exchange *x);
/** When stream_tick is due; INT64_MAX: never. */
void nv_http_stream_set_deadline(nv_http_exchange *x, int64_t deadline_us);
/** End the answer and the exchange. @param whole  false: cut it short, so that the peer sees that something is missing
 */
void nv_http_stream_end(nv_http_exchange *x, bool whole);

/** The request's body is empty from here on: for handlers that wait long and need no more of it. */
void nv_http_body_done(nv_http_exchange *x);
/** The ids in the path have the syntax of ids; otherwise the exchange is ended with 400 and false returned. */
NV_NODISCARD bool nv_http_ids_valid(nv_http_exchange *x);

/** Close the connection without an answer (testing.fault_injection). */
void nv_http_cut(nv_http_exchange *x);

/** The request's body as a JSON tree (the caller's). On failure the exchange is ended with 400 and false returned. */
NV_NODISCARD bool nv_http_body_json(nv_http_exchange *x, struct json_object **tree);

/** The largest body of an answer that is built in memory, in bytes. */
#define NV_HTTP_REPLY_MAX (16u << 20)

/* ---- handlers ----------------------------------------------------------------------------------------------- */

void nv_http_device_get(nv_http_exchange *x);
void nv_http_device_put(nv_http_exchange *x);
void nv_http_device_delete(nv_http_exchange *x);
void nv_http_module_get(nv_http_exchange *x);
void nv_http_module_put(nv_http_exchange *x);
void nv_http_module_delete(nv_http_exchange *x);
void nv_http_devices_list(nv_http_exchange *x);
void nv_http_modules_list(nv_http_exchange *x);
void nv_http_statistics_devices(nv_http_exchange *x);
void nv_http_statistics_service(nv_http_exchange *x);
void nv_http_devices_bulk(nv_http_exchange *x);
void nv_http_keys_regenerate(nv_http_exchange *x);
void nv_http_twin_get(nv_http_exchange *x);
void nv_http_twin_patch(nv_http_exchange *x);
void nv_http_twin_put(nv_http_exchange *x);
void nv_http_method_invoke(nv_http_exchange *x);
void nv_http_digital_twin_get(nv_http_exchange *x);
void nv_http_digital_twin_patch(nv_http_exchange *x);
void nv_http_digital_twin_command(nv_http_exchange *x);
void nv_http_query_devices(nv_http_exchange *x);
void nv_http_device_events(nv_http_exchange *x);
void nv_http_device_take(nv_http_exchange *x);
void nv_http_device_settle(nv_http_exchange *x);
void nv_http_device_abandon(nv_http_exchange *x);
void nv_http_purge(nv_http_exchange *x);
void nv_http_feedback_take(nv_http_exchange *x);
void nv_http_feedback_complete(nv_http_exchange *x);
void nv_http_feedback_abandon(nv_http_exchange *x);
void nv_http_message_send(nv_http_exchange *x);
void nv_http_events(nv_http_exchange *x);
void nv_http_groups_list(nv_http_exchange *x);
void nv_http_group_get(nv_http_exchange *x);
void nv_http_group_put(nv_http_exchange *x);
void nv_http_group_delete(nv_http_exchange *x);
void nv_http_hub(nv_http_exchange *x);
void nv_http_policies(nv_http_exchange *x);
void nv_http_refusals(nv_http_exchange *x);
void nv_http_websocket(nv_http_exchange *x);
void nv_http_healthz(nv_http_exchange *x);
void nv_http_readyz(nv_http_exchange *x);
void nv_http_metrics(nv_http_exchange *x);
void nv_http_clock(nv_http_exchange *x);
void nv_http_clock_advance(nv_http_exchange *x);

const nv_http_config *nv_http_configured(void);

#endif
