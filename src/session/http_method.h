/** Calling a method, for direct methods and for commands of digital twins (http-hub.md sections 9 and 10). */
#ifndef NV_SESSION_HTTP_METHOD_H
#define NV_SESSION_HTTP_METHOD_H

#include "core/method.h"
#include "session/http_exchange.h"

#define NV_HTTP_METHOD_RESPONSE_S 30 /* when the caller does not say */

typedef struct nv_http_method_ask {
    nv_span name;    /* copied */
    nv_span payload; /* JSON; copied */
    int64_t response_s;
    int64_t connect_s;
    /** The device answered: end the exchange. */
    void (*answered)(nv_http_exchange *x, const nv_method_call *call);
} nv_http_method_ask;

/** Call, and end the exchange with what comes of it. */
void nv_http_method_start(nv_http_exchange *x, const nv_http_method_ask *ask);

#endif
