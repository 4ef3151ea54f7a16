#include "net/tls_impl.h"

const char *nv_tls_layer_server(nv_conn *conn, nv_span first_bytes)
{
    (void)conn;
    (void)first_bytes;
    return "not yet";
}

const char *nv_tls_layer_client(nv_conn *conn)
{
    (void)conn;
    return "not yet";
}
