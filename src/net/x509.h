/** Making and reading certificates, for pki.c alone: libcrypto in our words. */
#ifndef NV_NET_X509_H
#define NV_NET_X509_H

#include "base/clock.h"
#include "base/err.h"

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdbool.h>

typedef enum nv_cert_kind { NV_CERT_CA, NV_CERT_SERVER, NV_CERT_DEVICE } nv_cert_kind;

typedef struct nv_cert_spec {
    nv_cert_kind kind;
    const char *common_name; /* cut to 64 bytes */
    char *const *names;      /* subject alternative names: DNS or literal addresses */
    size_t name_count;
    int64_t now_us; /* wall; valid from a day before, or before the system's time, for clocks that are behind */
    int days;
} nv_cert_spec;

/** A new P-256 key, or NULL. */
EVP_PKEY *nv_key_new(void);
/** Issue for @p key, signed by @p issuer's key (NULL: by itself). NULL on any failure */
X509 *nv_cert_new(const nv_cert_spec *spec, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key);

/** PEM in memory, NUL-terminated, to be freed (a key: wiped first). NULL on failure */
char *nv_cert_to_pem(X509 *const *certificates, size_t count);
char *nv_key_to_pem(EVP_PKEY *key);

/** The first certificate, the key of a PEM file. NULL: not there or unreadable */
X509 *nv_cert_read(const char *path);
EVP_PKEY *nv_key_read(const char *path);

/** The names of a certificate in the order they stand in it; the array and each to be freed. */
char **nv_cert_names(X509 *certificate, size_t *count);
/** Wall time of its end. */
int64_t nv_cert_not_after_us(X509 *certificate);

bool nv_is_ip_literal(const char *name);

#endif
