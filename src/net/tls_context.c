/* Contexts: policy, certificates, tickets, session reuse. The connections' side is tls_layer.c. */
#include "base/alloc.h"
#include "base/diag.h"
#include "net/net_impl.h"
#include "net/tls_impl.h"

#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CIPHERS_1_3 "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
#define CIPHERS_1_2                                                                                                    \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:"                         \
    "ECDHE-RSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
#define GROUPS "X25519:P-256:P-384"
/* What clients may sign with, and we: OpenSSL's list without SHA-1, SHA-224 and DSA. Each name costs every handshake.
 */
#define SIGNATURES                                                                                                     \
    "ECDSA+SHA256:ECDSA+SHA384:ECDSA+SHA512:ed25519:ed448:RSA-PSS+SHA256:RSA-PSS+SHA384:RSA-PSS+SHA512:"               \
    "rsa_pss_pss_sha256:rsa_pss_pss_sha384:rsa_pss_pss_sha512:RSA+SHA256:RSA+SHA384:RSA+SHA512"

/* A client's certificate chain, in bytes: four RSA-4096 certificates fit twice. */
#define MAX_PEER_CHAIN ((size_t)16 * 1024)
/* Sessions kept for TLS 1.2 clients without tickets; others cost the server nothing. */
#define MAX_CACHED_SESSIONS 1024
#define TICKET_ROTATION_US  (INT64_C(12) * 3600 * NV_US_PER_S)
#define SESSION_LIFETIME_S  43200L

typedef struct ticket_key {
    uint8_t name[16];
    uint8_t cipher[32];
    uint8_t mac[32];
} ticket_key;

struct nv_tls_server {
    nv_tls_server_config config; /* its strings are owned */
    EVP_CIPHER *ticket_cipher;
    pthread_mutex_t lock; /* what follows */
    SSL_CTX *ctx;
    SSL_CTX *settled;   /* of connections that need no session any more; NULL until the first */
    ticket_key keys[2]; /* the present one, the one before */
    int64_t rotate_at_us;
};

struct nv_tls_client {
    SSL_CTX *ctx;
    char *ca_file;
    bool resume;
    pthread_mutex_t lock; /* what follows */
    SSL_SESSION *session;
    char *session_name; /* the server it is of */
};

/* ---- both sides ---- */

static int version_number(nv_tls_version version, int any)
{
    switch (version) {
    case NV_TLS_ANY:
        return any;
    case NV_TLS_1_2:
        return TLS1_2_VERSION;
    case NV_TLS_1_3:
        return TLS1_3_VERSION;
    }
    return any;
}

bool nv_tls_ctx_common(SSL_CTX *ctx, nv_tls_version lowest, nv_tls_version highest)
{
    /* No SSL_MODE_RELEASE_BUFFERS, which allocates and frees 16 KB for every record: the layer does it once a turn.
     * What we present is in the file: nothing is looked up and built in each handshake. */
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_NO_AUTO_CHAIN | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    (void)SSL_CTX_set_timeout(ctx, SESSION_LIFETIME_S);
    return SSL_CTX_set_min_proto_version(ctx, version_number(lowest, TLS1_2_VERSION)) == 1 &&
           SSL_CTX_set_max_proto_version(ctx, version_number(highest, 0)) == 1 &&
           SSL_CTX_set_ciphersuites(ctx, CIPHERS_1_3) == 1 && SSL_CTX_set_cipher_list(ctx, CIPHERS_1_2) == 1 &&
           SSL_CTX_set1_groups_list(ctx, GROUPS) == 1 && SSL_CTX_set1_sigalgs_list(ctx, SIGNATURES) == 1;
}

/* Never ask a terminal for a pass phrase. */
static int no_pass_phrase(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

static nv_err check_readable(const char *what, const char *path, char why[NV_NET_WHY_SIZE])
{
    FILE *file = fopen(path, "re");
    if (!file) {
        int error = errno;
        (void)snprintf(why, NV_NET_WHY_SIZE, "cannot read the %s %s: %s", what, path, strerror(error));
        return nv_err_from_errno(error);
    }
    (void)fclose(file);
    return NV_OK;
}

/* The first error names the cause ("no start line"); the last only who passed it on ("PEM lib"). */
static const char *first_reason(void)
{
    const char *text = ERR_reason_error_string(ERR_peek_error());
    return text ? text : "no reason given";
}

/* A root proves nothing to who has it, and nothing to who has not (RFC 8446 section 4.4.2): half a kilobyte less on the
 * wire of each handshake. */
static bool leave_out_root(SSL_CTX *ctx)
{
    STACK_OF(X509) *chain = NULL;
    (void)SSL_CTX_get0_chain_certs(ctx, &chain);
    int last = sk_X509_num(chain) - 1; /* -2 without a chain */
    if (last < 0 || X509_self_signed(sk_X509_value(chain, last), 0) != 1) {
        return true;
    }
    if (last == 0) {
        return SSL_CTX_clear_chain_certs(ctx) == 1;
    }
    X509_free(sk_X509_pop(chain));
    return true;
}

nv_err nv_tls_ctx_identity(SSL_CTX *ctx, const char *cert_file, const char *key_file, char why[NV_NET_WHY_SIZE])
{
    nv_err err = check_readable("certificate file", cert_file, why);
    if (err == NV_OK) {
        err = check_readable("key file", key_file, why);
    }
    if (err != NV_OK) {
        return err;
    }
    ERR_clear_error();
    SSL_CTX_set_default_passwd_cb(ctx, no_pass_phrase);
    if (SSL_CTX_use_certificate_chain_file(ctx, cert_file) != 1 || !leave_out_root(ctx)) {
        (void)snprintf(why, NV_NET_WHY_SIZE, "the certificate file %s cannot be used: %s", cert_file, first_reason());
        err = NV_E_INVALID;
    } else if (SSL_CTX_use_PrivateKey_file(ctx, key_file, SSL_FILETYPE_PEM) != 1) {
        (void)snprintf(why, NV_NET_WHY_SIZE, "the key file %s cannot be used with the certificate %s: %s", key_file,
                       cert_file, first_reason());
        err = NV_E_INVALID;
    } else if (SSL_CTX_check_private_key(ctx) != 1) {
        (void)snprintf(why, NV_NET_WHY_SIZE, "the key in %s does not belong to the certificate in %s", key_file,
                       cert_file);
        err = NV_E_INVALID;
    }
    ERR_clear_error();
    return err;
}

static char *copy_or_null(const char *text)
{
    return text ? nv_strdup(text) : NULL;
}

static void free_const(const char *text)
{
    free((void *)(size_t)text);
}

/* ---- server: tickets ---- */

static void new_ticket_key(ticket_key *key)
{
    if (RAND_priv_bytes(key->cipher, sizeof(key->cipher)) != 1 || RAND_priv_bytes(key->mac, sizeof(key->mac)) != 1 ||
        RAND_bytes(key->name, sizeof(key->name)) != 1) {
        abort(); /* without randomness nothing here is safe */
    }
}

static ticket_key present_ticket_key(nv_tls_server *server)
{
    int64_t now_us = nv_mono_us(server->config.clock);
    pthread_mutex_lock(&server->lock);
    if (now_us >= server->rotate_at_us) {
        server->keys[1] = server->keys[0];
        new_ticket_key(&server->keys[0]);
        server->rotate_at_us = now_us + TICKET_ROTATION_US;
    }
    ticket_key key = server->keys[0];
    pthread_mutex_unlock(&server->lock);
    return key;
}

/* @return 0: no such key, 1: the present one, 2: the one before, so that a new ticket is due */
static int find_ticket_key(nv_tls_server *server, const uint8_t *name, ticket_key *key)
{
    int found = 0;
    pthread_mutex_lock(&server->lock);
    for (int i = 0; i < 2 && !found; i++) {
        if (memcmp(server->keys[i].name, name, sizeof(server->keys[i].name)) == 0) {
            *key = server->keys[i];
            found = i + 1;
        }
    }
    pthread_mutex_unlock(&server->lock);
    return found;
}

/* See SSL_CTX_set_tlsext_ticket_key_evp_cb(3). @return -1 error, 0 unknown key, 1 good, 2 good and renew */
static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                     int encrypt)
{
    nv_tls_server *server = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    ticket_key key;
    int found = 1;
    if (encrypt) {
        key = present_ticket_key(server);
        memcpy(name, key.name, sizeof(key.name));
        if (RAND_bytes(iv, EVP_CIPHER_get_iv_length(server->ticket_cipher)) != 1) {
            return -1;
        }
    } else {
        found = find_ticket_key(server, name, &key);
    }
    if (!found) {
        return 0;
    }
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key.mac, sizeof(key.mac)),
                           OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                           OSSL_PARAM_construct_end()};
    bool good = EVP_CipherInit_ex2(cipher, server->ticket_cipher, key.cipher, iv, encrypt, NULL) == 1 &&
                EVP_MAC_CTX_set_params(mac, params) == 1;
    nv_wipe(&key, sizeof(key));
    if (good && !encrypt && SSL_version(ssl) == TLS1_3_VERSION) {
        found = 2; /* clients use a TLS 1.3 ticket once: each connection brings the next (RFC 8446 appendix C.4) */
    }
    return good ? found : -1;
}

/* ---- server ---- */

static int on_choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
                          unsigned in_len, void *arg)
{
    (void)ssl;
    (void)arg;
    nv_span chosen = nv_tls_layer_choose_alpn(nv_span_of(in, in_len));
    if (chosen.len == 0) {
        return SSL_TLSEXT_ERR_NOACK; /* an offer we do not know is no reason to fail */
    }
    *out = chosen.ptr;
    *out_len = (unsigned char)chosen.len;
    return SSL_TLSEXT_ERR_OK;
}

/* Any certificate goes: its key was proved, and what it is worth the core decides. Nothing is built or checked here,
 * which is also what makes a connection with a certificate cheap. */
static int on_verify(X509_STORE_CTX *store, void *arg)
{
    (void)store;
    (void)arg;
    return 1;
}

static void set_sessions(nv_tls_server *server, SSL_CTX *ctx)
{
    static const unsigned char context[] = "nave";
    (void)SSL_CTX_set_session_id_context(ctx, context, sizeof(context) - 1);
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER);
    (void)SSL_CTX_sess_set_cache_size(ctx, MAX_CACHED_SESSIONS);
    /* At once, not with the first answer: it carries the TCP acknowledgement that a client with Nagle's algorithm waits
     * for before its CONNECT leaves. */
    (void)SSL_CTX_set_num_tickets(ctx, 1);
    (void)SSL_CTX_set_app_data(ctx, server);
    (void)SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_ticket);
}

static nv_err make_server_ctx(nv_tls_server *server, SSL_CTX **out, char why[NV_NET_WHY_SIZE])
{
    const nv_tls_server_config *config = &server->config;
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    if (!ctx || !nv_tls_ctx_common(ctx, config->lowest, NV_TLS_ANY)) {
        (void)snprintf(why, NV_NET_WHY_SIZE, "cannot set up TLS: %s", first_reason());
        SSL_CTX_free(ctx);
        return NV_E_UNSUPPORTED;
    }
    if (config->ciphers && SSL_CTX_set_cipher_list(ctx, config->ciphers) != 1) {
        (void)snprintf(why, NV_NET_WHY_SIZE, "no cipher of the list \"%s\" is known", config->ciphers);
        SSL_CTX_free(ctx);
        return NV_E_INVALID;
    }
    (void)SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_cert_verify_callback(ctx, on_verify, NULL);
    SSL_CTX_set_max_cert_list(ctx, (long)MAX_PEER_CHAIN);
    SSL_CTX_set_alpn_select_cb(ctx, on_choose_alpn, NULL);
    set_sessions(server, ctx);
    nv_err err = nv_tls_ctx_identity(ctx, config->cert_file, config->key_file, why);
    if (err != NV_OK) {
        SSL_CTX_free(ctx);
        return err;
    }
    *out = ctx;
    return NV_OK;
}

nv_err nv_tls_server_new(const nv_tls_server_config *config, nv_tls_server **out, char why[NV_NET_WHY_SIZE])
{
    nv_tls_server *server = nv_calloc(1, sizeof(*server));
    server->config = *config;
    server->config.cert_file = nv_strdup(config->cert_file);
    server->config.key_file = nv_strdup(config->key_file);
    server->config.ca_file = copy_or_null(config->ca_file);
    server->config.ciphers = copy_or_null(config->ciphers);
    server->config.clock = config->clock ? config->clock : nv_clock_system();
    pthread_mutex_init(&server->lock, NULL);
    new_ticket_key(&server->keys[0]);
    new_ticket_key(&server->keys[1]);
    server->rotate_at_us = nv_mono_us(server->config.clock) + TICKET_ROTATION_US;
    server->ticket_cipher = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
    nv_err err = make_server_ctx(server, &server->ctx, why);
    if (err != NV_OK) {
        nv_tls_server_free(server);
        return err;
    }
    *out = server;
    return NV_OK;
}

nv_err nv_tls_server_reload(nv_tls_server *server, char why[NV_NET_WHY_SIZE])
{
    SSL_CTX *ctx = NULL;
    nv_err err = make_server_ctx(server, &ctx, why);
    if (err != NV_OK) {
        return err;
    }
    pthread_mutex_lock(&server->lock);
    SSL_CTX *old = server->ctx;
    server->ctx = ctx;
    pthread_mutex_unlock(&server->lock);
    SSL_CTX_free(old); /* open connections hold it */
    return NV_OK;
}

void nv_tls_server_free(nv_tls_server *server)
{
    if (!server) {
        return;
    }
    SSL_CTX_free(server->ctx);
    SSL_CTX_free(server->settled);
    EVP_CIPHER_free(server->ticket_cipher);
    pthread_mutex_destroy(&server->lock);
    nv_wipe(server->keys, sizeof(server->keys));
    free_const(server->config.cert_file);
    free_const(server->config.key_file);
    free_const(server->config.ca_file);
    free_const(server->config.ciphers);
    free(server);
}

SSL *nv_tls_server_ssl(nv_tls_server *server)
{
    pthread_mutex_lock(&server->lock);
    SSL_CTX *ctx = server->ctx;
    SSL_CTX_up_ref(ctx);
    pthread_mutex_unlock(&server->lock);
    SSL *ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    return ssl;
}

/* It never shakes hands: all it has is the method of TLS 1.3. @return borrowed, or NULL */
static SSL_CTX *settled_ctx(nv_tls_server *server, const SSL *ssl)
{
    pthread_mutex_lock(&server->lock);
    if (!server->settled) {
        server->settled = SSL_CTX_new(SSL_get_ssl_method(ssl));
        if (server->settled) { /* what the connection got from its own and looks up there again */
            (void)SSL_CTX_set_app_data(server->settled, server);
        }
    }
    SSL_CTX *settled = server->settled;
    pthread_mutex_unlock(&server->lock);
    return settled;
}

/*
 * The session of a connection is what a ticket is made from, and the peer's certificate is in it. Once the ticket is
 * sent and the certificate copied a TLS 1.3 server has no use for it: a kilobyte a connection, and the secret that
 * opens its resumption. SSL_set_session() frees it without harm only where the connection's method is its context's
 * (otherwise it changes the method, and begins anew); ours is for any version, so the connection moves to one that is
 * for this version. Not under TLS 1.2, where MACs of records ask the session whether they exist, and not with a length
 * of fragments agreed upon (RFC 6066 section 4), which stands there too.
 */
void nv_tls_server_forget_session(nv_tls_server *server, SSL *ssl)
{
    SSL_SESSION *session = SSL_get0_session(ssl);
    if (SSL_version(ssl) != TLS1_3_VERSION || !session || SSL_SESSION_get_max_fragment_length(session) != 0) {
        return;
    }
    SSL_CTX *settled = settled_ctx(server, ssl);
    if (settled && SSL_CTX_get_ssl_method(settled) == SSL_get_ssl_method(ssl) &&
        SSL_set_SSL_CTX(ssl, settled) == settled) {
        (void)SSL_set_session(ssl, NULL);
    }
    ERR_clear_error();
}

const char *nv_tls_server_ca_file(const nv_tls_server *server)
{
    return server->config.ca_file;
}

/* ---- client ---- */

static int on_new_session(SSL *ssl, SSL_SESSION *session)
{
    nv_tls_client *client = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name); /* NULL for an address */
    pthread_mutex_lock(&client->lock);
    SSL_SESSION *old = client->session;
    client->session = session;
    free(client->session_name);
    client->session_name = copy_or_null(name);
    pthread_mutex_unlock(&client->lock);
    SSL_SESSION_free(old);
    return 1; /* we keep the reference */
}

static nv_err set_trust(SSL_CTX *ctx, const nv_tls_client_config *config, char why[NV_NET_WHY_SIZE])
{
    if (config->insecure) {
        SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
        return NV_OK;
    }
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    if (!config->ca_file) {
        (void)SSL_CTX_set_default_verify_paths(ctx);
        return NV_OK;
    }
    nv_err err = check_readable("CA file", config->ca_file, why);
    if (err == NV_OK && SSL_CTX_load_verify_file(ctx, config->ca_file) != 1) {
        (void)snprintf(why, NV_NET_WHY_SIZE, "there is no certificate in the CA file %s", config->ca_file);
        err = NV_E_INVALID;
    }
    ERR_clear_error();
    return err;
}

nv_err nv_tls_client_new(const nv_tls_client_config *config, nv_tls_client **out, char why[NV_NET_WHY_SIZE])
{
    nv_tls_client *client = nv_calloc(1, sizeof(*client));
    pthread_mutex_init(&client->lock, NULL);
    client->resume = config->resume;
    client->ca_file = copy_or_null(config->ca_file);
    client->ctx = SSL_CTX_new(TLS_client_method());
    nv_err err = NV_OK;
    if (!client->ctx || !nv_tls_ctx_common(client->ctx, config->lowest, config->highest)) {
        (void)snprintf(why, NV_NET_WHY_SIZE, "cannot set up TLS: %s", first_reason());
        err = NV_E_UNSUPPORTED;
    }
    if (err == NV_OK) {
        err = set_trust(client->ctx, config, why);
    }
    if (err == NV_OK && config->cert_file) {
        err = nv_tls_ctx_identity(client->ctx, config->cert_file, config->key_file, why);
    }
    if (err != NV_OK) {
        nv_tls_client_free(client);
        return err;
    }
    (void)SSL_CTX_set_app_data(client->ctx, client);
    if (config->resume) {
        (void)SSL_CTX_set_session_cache_mode(client->ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(client->ctx, on_new_session);
    }
    *out = client;
    return NV_OK;
}

void nv_tls_client_free(nv_tls_client *client)
{
    if (!client) {
        return;
    }
    SSL_SESSION_free(client->session);
    SSL_CTX_free(client->ctx);
    pthread_mutex_destroy(&client->lock);
    free(client->session_name);
    free(client->ca_file);
    free(client);
}

const char *nv_tls_client_ca_file(const nv_tls_client *client)
{
    return client->ca_file;
}

static bool is_literal(const char *name)
{
    uint8_t address[16];
    return uv_inet_pton(AF_INET, name, address) == 0 || uv_inet_pton(AF_INET6, name, address) == 0;
}

static bool set_name(SSL *ssl, const char *name)
{
    if (is_literal(name)) {
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
    }
    /* What SSL_set_tlsext_host_name() does, which casts const away in a way that clang refuses. */
    void *text = (void *)(size_t)name;
    return SSL_set1_host(ssl, name) == 1 &&
           SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, text) == 1;
}

/* A session is offered only to the server it is of: resuming checks no certificate. */
static void offer_session(nv_tls_client *client, SSL *ssl, const char *name)
{
    pthread_mutex_lock(&client->lock);
    if (client->session && (client->session_name ? strcmp(client->session_name, name) == 0 : is_literal(name))) {
        (void)SSL_set_session(ssl, client->session);
    }
    pthread_mutex_unlock(&client->lock);
}

static bool set_alpn(SSL *ssl, const char *alpn)
{
    uint8_t wire[256];
    size_t len = alpn ? strlen(alpn) : 0;
    if (len == 0 || len >= sizeof(wire)) {
        return len == 0;
    }
    wire[0] = (uint8_t)len;
    memcpy(wire + 1, alpn, len);
    return SSL_set_alpn_protos(ssl, wire, (unsigned)len + 1) == 0; /* 0 is success here */
}

SSL *nv_tls_client_ssl(nv_tls_client *client, const char *name, const char *alpn)
{
    SSL *ssl = SSL_new(client->ctx);
    if (!ssl) {
        return NULL;
    }
    if (!set_name(ssl, name) || !set_alpn(ssl, alpn)) {
        SSL_free(ssl);
        return NULL;
    }
    if (client->resume) {
        offer_session(client, ssl, name);
    }
    return ssl;
}
