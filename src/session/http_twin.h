/** What the handlers of twins and of digital twins share. */
#ifndef NV_SESSION_HTTP_TWIN_H
#define NV_SESSION_HTTP_TWIN_H

#include "core/twin.h"
#include "session/http_exchange.h"

/** The request's If-Match, as for identities, with the twin's own counter. */
void nv_http_twin_if_match(const nv_http_exchange *x, nv_twin_request *request);
/** End the exchange with the error of @p request, in the words of the service. */
void nv_http_twin_fail(nv_http_exchange *x, const nv_twin_request *request);

#endif
