/** What the TLS layer asks an outgoing attempt, for net/ alone. */
#ifndef NV_NET_DIAL_H
#define NV_NET_DIAL_H

#include "net/conn.h"

/** The name the certificate must have. Borrowed. */
const char *nv_dial_server_name(nv_origin *origin);
/** One protocol to offer, or NULL. Borrowed. */
const char *nv_dial_alpn(nv_origin *origin);
/** A better text for failed() than the static one. */
void nv_dial_explain(nv_origin *origin, const char *why);

#endif
