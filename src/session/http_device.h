/** What the handlers of the device HTTP API share. */
#ifndef NV_SESSION_HTTP_DEVICE_H
#define NV_SESSION_HTTP_DEVICE_H

#include "core/fault.h"
#include "session/http_exchange.h"

/** The device ordered a fault and is in it: the exchange is ended accordingly, and true returned. */
NV_NODISCARD bool nv_http_device_faulty(nv_http_exchange *x);

#endif
