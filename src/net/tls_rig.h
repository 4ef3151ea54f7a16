/**
 * What the tests of TLS share: certificates made once, what was logged, a hub that listens with TLS, and a client of
 * OpenSSL's own that can be more particular than ours.
 */
#ifndef NV_NET_TLS_RIG_H
#define NV_NET_TLS_RIG_H

#include "net/net_test_util.h"
#include "net/pki.h"
#include "net/tls.h"

#include <openssl/ssl.h>

/** One folder with certificates for all tests of a program: making keys is the slow part. */
typedef struct tls_files {
    char root[64];
    char dir[96];
    nv_pki pki;
    nv_device_cert device;
    char device_pem[160];
    char device_key[160];
} tls_files;
extern tls_files tls_shared;

/** Setup and teardown of a group. */
int tls_make_shared(void **state);
int tls_remove_shared(void **state);

void tls_forget_log(void);
bool tls_was_logged(const char *text);
void tls_expect_logged(const char *text);

/** With the shared certificates. They succeed, or the test fails. */
nv_tls_server *tls_shared_server(void);
nv_tls_client *tls_shared_client(nv_tls_client_config config);

typedef struct tls_hub {
    hub h;
    nv_tls_server *server;
} tls_hub;
/** What was logged before is forgotten. */
void tls_hub_init(tls_hub *t);
void tls_hub_start(tls_hub *t, unsigned loops, const nv_clock *clock);
void tls_hub_stop(tls_hub *t);

/** A client of OpenSSL's own, blocking; the handshake is the test's. */
typedef struct tls_raw {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
} tls_raw;
void tls_raw_init(tls_raw *r, const tls_hub *t);
void tls_raw_deinit(tls_raw *r);
void tls_raw_say(tls_raw *r, const char *text);
void tls_raw_expect(tls_raw *r, const char *text);

#endif
