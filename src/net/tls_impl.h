/** TLS inside net/: the layer on a connection, and what it needs of the contexts. */
#ifndef NV_NET_TLS_IMPL_H
#define NV_NET_TLS_IMPL_H

#include "net/conn.h"
#include "net/tls.h"

#include <openssl/ssl.h>

/** The first bytes of an accepted connection: put a TLS layer on it, or say that this is not TLS. */
const char *nv_tls_layer_server(nv_conn *conn, nv_span first_bytes);
/** Put a TLS layer on an outgoing connection and begin the handshake. */
const char *nv_tls_layer_client(nv_conn *conn);

#endif
