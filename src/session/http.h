/**
 * HTTP/1.1 servers without a socket (http-hub.md): the service API with our own additions under /nave/v1/, and the
 * admin endpoints. One request of a connection is handled at a time; what is pipelined behind it waits unread, so
 * answers leave in order and a connection never holds more than one body.
 */
#ifndef NV_SESSION_HTTP_H
#define NV_SESSION_HTTP_H

#include "session/session.h"

/** Where a protocol of this hub is reached: `GET /nave/v1/hub` lists them. */
typedef struct nv_http_endpoint {
    const char *name; /* "mqtts", "https", "admin", ... */
    const char *url;  /* "mqtts://myhub.local:8883" */
} nv_http_endpoint;

/** What POST /testing/clock asks for; the asker's memory until done runs. */
typedef struct nv_http_advance {
    int64_t delta_us;
    nv_exec *exec; /* where done is posted, when everything that became due has run */
    nv_task done;
    struct nv_http_advance *_next; /* whoever advances: its queue */
} nv_http_advance;

/** Simulated time, for hubs that were started with it. */
typedef struct nv_http_testing {
    /** Thread: any. Blocks: never. Always answers. */
    void (*advance)(void *arg, nv_http_advance *request);
    void *arg;
} nv_http_testing;

typedef struct nv_http_config {
    const nv_http_endpoint *endpoints;
    size_t endpoint_count;
    const nv_http_testing *testing; /* NULL: time is the system's, and there is no /testing/clock */
} nv_http_config;

/** Process-wide; borrowed for ever. Call before the first session is made, from one thread. Without: no endpoints. */
void nv_http_setup(const nv_http_config *config);

/** What /readyz says; true from the start. The program says false when it begins to stop. Thread: any. */
void nv_http_set_ready(bool ready);

/** The service API on the public listener. Never NULL. */
nv_session *nv_http_service_new(nv_carrier *carrier);

/** /healthz, /readyz, /metrics, and /testing/clock with simulated time. Nobody is asked who they are: for a loopback
 * listener only. Never NULL. */
nv_session *nv_http_admin_new(nv_carrier *carrier);

#endif
