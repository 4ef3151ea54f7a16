/**
 * The hub's own certificates. First start makes a private CA (P-256, 10 years) and a server certificate (P-256, 2
 * years) in a folder; later starts renew the server certificate when it nears its end or the wanted names change. The
 * CA stays. All writes go to a temporary file, are synced and renamed.
 *
 *   ca.pem      what clients must trust        ca.key      0600
 *   server.pem  leaf, then the CA              server.key  0600
 *
 * Thread: one at a time. Blocks: on files.
 */
#ifndef NV_NET_PKI_H
#define NV_NET_PKI_H

#include "base/attrs.h"
#include "base/clock.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NV_PKI_WHY_SIZE 512

typedef struct nv_pki_config {
    const char *dir;              /* <data>/tls; created when absent (0700) */
    const char *const *hostnames; /* wanted besides localhost, 127.0.0.1, ::1, the host name and its FQDN */
    size_t hostname_count;        /* names or literal addresses */
    const char *cert_file;        /* the user's own certificate and key instead; both or neither. Then no CA is made */
    const char *key_file;
    const char *user_ca_file; /* what clients of the user's certificate must trust, to be told to them; may be NULL */
    const nv_clock *clock;    /* NULL: the system's */
} nv_pki_config;

typedef struct nv_pki {
    char *ca_file; /* to tell clients; NULL with a user's certificate whose CA was not named */
    char *cert_file;
    char *key_file;
    char **names; /* of the server certificate: DNS names in lower case, and addresses */
    size_t name_count;
    int64_t not_after_us; /* of the server certificate, wall */
    bool made_ca;         /* by this call */
    bool made_cert;       /* by this call: first, or renewed */
} nv_pki;

/**
 * Make sure that everything is there, and say where. @return NV_E_IO, NV_E_PERMISSION, NV_E_NO_SPACE, NV_E_NOT_FOUND (a
 * user's file), NV_E_INVALID (no certificate, key does not fit, ...), with one sentence in @p why. On an error nothing
 * in @p out needs freeing.
 */
NV_NODISCARD nv_err nv_pki_open(const nv_pki_config *config, nv_pki *out, char why[NV_PKI_WHY_SIZE]);
void nv_pki_deinit(nv_pki *pki);

/** What is wrong with the names and the user's files of @p config, as nv_pki_open() would say it; writes nothing, and
 * does not look into dir. */
NV_NODISCARD nv_err nv_pki_check(const nv_pki_config *config, char why[NV_PKI_WHY_SIZE]);

/** A self-signed device certificate with its key, as `nave` and tests make them. */
typedef struct nv_device_cert {
    char *cert_pem;
    char *key_pem;   /* wiped when freed */
    char sha1[41];   /* thumbprints in upper case hex, as registries write them */
    char sha256[65]; /* ... */
} nv_device_cert;

/** P-256, CN = @p common_name, valid from a day ago for @p days. @return NV_E_INVALID for a CN over 64 bytes */
NV_NODISCARD nv_err nv_device_cert_new(const char *common_name, int days, const nv_clock *clock, nv_device_cert *out);
void nv_device_cert_deinit(nv_device_cert *cert);

#endif
