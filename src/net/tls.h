/**
 * TLS contexts, server and client side. OpenSSL stays inside net/: these are handles.
 *
 * Policy: TLS 1.2 and 1.3, ECDHE with AEAD only, AES-128-GCM first (unless the client leads with ChaCha20),
 * X25519 before P-256. The server asks for a client certificate and never requires one; any is accepted after the
 * proof of its key, and what it is worth is decided by the core (protocol/mqtt.md section 1). Sessions resume by one
 * ticket (TLS 1.3) or a ticket or id (TLS 1.2); ticket keys live as long as the nv_tls_server, so reloading a
 * certificate does not lose them, and rotate every 12 hours.
 */
#ifndef NV_NET_TLS_H
#define NV_NET_TLS_H

#include "net/net.h"

typedef struct nv_tls_client nv_tls_client;

typedef enum nv_tls_version { NV_TLS_ANY, NV_TLS_1_2, NV_TLS_1_3 } nv_tls_version;

typedef struct nv_tls_server_config {
    const char *cert_file; /* PEM, leaf first, then its chain */
    const char *key_file;  /* PEM, PKCS#8 or traditional, no pass phrase */
    const char *ca_file;   /* only named in log lines, as the cure for clients that do not trust us; may be NULL */
    const char *ciphers;   /* TLS 1.2 list in OpenSSL's words, NULL: the policy above. For old modems */
    nv_tls_version lowest; /* NV_TLS_ANY: 1.2 */
    const nv_clock *clock; /* for ticket key rotation; NULL: the system's */
} nv_tls_server_config;

/** Reads the files. Strings are copied. @return NV_E_INVALID, NV_E_NOT_FOUND, NV_E_PERMISSION with @p why */
NV_NODISCARD nv_err nv_tls_server_new(const nv_tls_server_config *config, nv_tls_server **out,
                                      char why[NV_NET_WHY_SIZE]);
/**
 * Read the files again. New connections get the new certificate, open ones keep theirs; on an error everything stays
 * as it was. Thread: any. Blocks: for two small files.
 */
NV_NODISCARD nv_err nv_tls_server_reload(nv_tls_server *server, char why[NV_NET_WHY_SIZE]);
/** After the net that uses it. */
void nv_tls_server_free(nv_tls_server *server);

typedef struct nv_tls_client_config {
    const char *ca_file;   /* PEM roots; NULL: the system's */
    const char *cert_file; /* client certificate chain, or NULL */
    const char *key_file;
    bool insecure;          /* accept any server certificate: for tests of the transport only */
    bool resume;            /* offer the last ticket or session again */
    nv_tls_version lowest;  /* NV_TLS_ANY: 1.2 */
    nv_tls_version highest; /* NV_TLS_ANY: 1.3 */
} nv_tls_client_config;

NV_NODISCARD nv_err nv_tls_client_new(const nv_tls_client_config *config, nv_tls_client **out,
                                      char why[NV_NET_WHY_SIZE]);
/** After the net that uses it. */
void nv_tls_client_free(nv_tls_client *client);

#endif
