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

/** A new SSL of the present certificate. NULL: out of memory */
SSL *nv_tls_server_ssl(nv_tls_server *server);
/**
 * The handshake is over and its certificate was looked at: free what OpenSSL keeps for a resumption that a server never
 * begins. SSL_get0_session() gives NULL from then on, if it could be done.
 */
void nv_tls_server_forget_session(nv_tls_server *server, SSL *ssl);
/** To be named to clients; NULL when not known. Borrowed. */
const char *nv_tls_server_ca_file(const nv_tls_server *server);
/** A new SSL that will insist on @p name. NULL: out of memory, or the name is not one */
SSL *nv_tls_client_ssl(nv_tls_client *client, const char *name, const char *alpn);
const char *nv_tls_client_ca_file(const nv_tls_client *client);

/** Which of the offered ALPN protocols the connection takes whose handshake is under way on this thread. */
nv_span nv_tls_layer_choose_alpn(nv_span offered);

/**
 * Put why a handshake failed into words: @p error is the first of OpenSSL's queue (0: none), @p cause what ended it
 * otherwise. The cure is part of the sentence.
 */
void nv_tls_explain(unsigned long error, const char *cause, const char *ca_file, char *out, size_t size);

/** The settings both sides share. @return false when OpenSSL refuses */
bool nv_tls_ctx_common(SSL_CTX *ctx, nv_tls_version lowest, nv_tls_version highest);
/** Certificate chain and key from PEM files, with a sentence about what is wrong with them. */
NV_NODISCARD nv_err nv_tls_ctx_identity(SSL_CTX *ctx, const char *cert_file, const char *key_file,
                                        char why[NV_NET_WHY_SIZE]);

#endif
