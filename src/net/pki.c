#include "net/pki.h"

#include "base/alloc.h"
#include "base/span.h"
#include "net/x509.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CA_DAYS        3652
#define SERVER_DAYS    730
#define RENEW_DAYS     30 /* before the end */
#define CA_RENEW_DAYS  1  /* a CA is only replaced when it is useless */
#define HOST_NAME_SIZE 256
#define MAX_NAMES      64

#define DAY_US (86400 * NV_US_PER_S)

static nv_err refuse(char why[NV_PKI_WHY_SIZE], nv_err err, const char *fmt, ...) NV_PRINTF(3, 4);

static nv_err refuse(char why[NV_PKI_WHY_SIZE], nv_err err, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(why, NV_PKI_WHY_SIZE, fmt, args);
    va_end(args);
    ERR_clear_error();
    return err;
}

static nv_err refuse_errno(char why[NV_PKI_WHY_SIZE], const char *doing, const char *path)
{
    int error = errno;
    return refuse(why, nv_err_from_errno(error), "cannot %s %s: %s", doing, path, strerror(error));
}

/* ---- files ---- */

static char *join(const char *dir, const char *name)
{
    size_t size = strlen(dir) + strlen(name) + 2;
    char *path = nv_malloc(size);
    (void)snprintf(path, size, "%s/%s", dir, name);
    return path;
}

static bool write_all(int fd, const char *text)
{
    for (size_t left = strlen(text); left > 0;) {
        ssize_t n = write(fd, text, left);
        if (n < 0 && errno != EINTR) {
            return false;
        }
        if (n > 0) {
            text += n;
            left -= (size_t)n;
        }
    }
    return true;
}

static bool sync_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0) {
        (void)close(fd);
    }
    return ok;
}

/* Whole or not at all, also when the power fails. */
static nv_err write_file(const char *dir, const char *path, const char *text, mode_t mode, char why[NV_PKI_WHY_SIZE])
{
    size_t size = strlen(path) + 5;
    char *temporary = nv_malloc(size);
    (void)snprintf(temporary, size, "%s.new", path);
    (void)unlink(temporary);
    nv_err err = NV_OK;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0) {
        err = refuse_errno(why, "create", temporary);
    } else {
        if (!write_all(fd, text) || fsync(fd) != 0) {
            err = refuse_errno(why, "write", temporary);
        }
        (void)close(fd);
        if (err == NV_OK && (rename(temporary, path) != 0 || !sync_dir(dir))) {
            err = refuse_errno(why, "put in place", path);
        }
        if (err != NV_OK) {
            (void)unlink(temporary);
        }
    }
    free(temporary);
    return err;
}

static void free_secret(char *text)
{
    if (text) {
        nv_wipe(text, strlen(text));
        free(text);
    }
}

static nv_err save_key(const char *dir, const char *path, EVP_PKEY *key, char why[NV_PKI_WHY_SIZE])
{
    char *pem = nv_key_to_pem(key);
    nv_err err = pem ? write_file(dir, path, pem, 0600, why) : refuse(why, NV_E_NO_MEMORY, "cannot encode a key");
    free_secret(pem);
    return err;
}

static nv_err save_certs(const char *dir, const char *path, X509 *const *certs, size_t count, char why[NV_PKI_WHY_SIZE])
{
    char *pem = nv_cert_to_pem(certs, count);
    nv_err err =
        pem ? write_file(dir, path, pem, 0644, why) : refuse(why, NV_E_NO_MEMORY, "cannot encode a certificate");
    free(pem);
    return err;
}

/* ---- names ---- */

typedef struct name_list {
    char *names[MAX_NAMES];
    size_t count;
} name_list;

/* One spelling of each: lower case, addresses as inet_ntop() writes them, which is also how nv_cert_names() does. */
static void add_name(name_list *list, const char *name)
{
    char lower[HOST_NAME_SIZE];
    uint8_t address[16];
    size_t len = strlen(name);
    if (len == 0 || len >= sizeof(lower) || list->count == MAX_NAMES) {
        return;
    }
    for (size_t i = 0; i <= len; i++) {
        lower[i] = (char)tolower((unsigned char)name[i]);
    }
    if (inet_pton(AF_INET6, name, address) == 1) {
        (void)inet_ntop(AF_INET6, address, lower, sizeof(lower));
    }
    for (size_t i = 0; i < list->count; i++) {
        if (strcmp(list->names[i], lower) == 0) {
            return;
        }
    }
    list->names[list->count++] = nv_strdup(lower);
}

static void free_names(name_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->names[i]);
    }
}

/* The canonical name that /etc/hosts gives the host, if it has a dot. A resolver could answer too, but it may make the
 * first start wait for a network that is not there. */
static void add_fqdn(name_list *list, const char *host)
{
    FILE *file = fopen("/etc/hosts", "re");
    char line[1024];
    while (file && fgets(line, sizeof(line), file)) {
        line[strcspn(line, "#\n")] = '\0';
        char *save = NULL;
        char *address = strtok_r(line, " \t", &save);
        char *canonical = address ? strtok_r(NULL, " \t", &save) : NULL;
        for (char *name = canonical; name; name = strtok_r(NULL, " \t", &save)) {
            if (strcmp(name, host) == 0 && strchr(canonical, '.')) {
                add_name(list, canonical);
            }
        }
    }
    if (file) {
        (void)fclose(file);
    }
}

static bool is_name(const char *name)
{
    size_t len = strlen(name);
    bool plain = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") == len;
    return len > 0 && len < HOST_NAME_SIZE && (plain || nv_is_ip_literal(name));
}

static nv_err check_names(const nv_pki_config *config, char why[NV_PKI_WHY_SIZE])
{
    if (config->hostname_count > MAX_NAMES / 2) {
        return refuse(why, NV_E_INVALID, "more than %d host names", MAX_NAMES / 2);
    }
    for (size_t i = 0; i < config->hostname_count; i++) {
        if (!is_name(config->hostnames[i])) {
            return refuse(why, NV_E_INVALID, "\"%s\" is neither a host name nor an address", config->hostnames[i]);
        }
    }
    return NV_OK;
}

static void find_names(const nv_pki_config *config, name_list *list, char host[HOST_NAME_SIZE])
{
    host[0] = '\0';
    (void)gethostname(host, HOST_NAME_SIZE);
    host[HOST_NAME_SIZE - 1] = '\0';
    add_name(list, "localhost");
    add_name(list, "127.0.0.1");
    add_name(list, "::1");
    add_name(list, host);
    if (!strchr(host, '.')) {
        add_fqdn(list, host);
    }
    for (size_t i = 0; i < config->hostname_count; i++) {
        add_name(list, config->hostnames[i]);
    }
}

static bool same_names(X509 *certificate, const name_list *wanted)
{
    size_t count = 0;
    char **have = nv_cert_names(certificate, &count);
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < wanted->count; j++) {
            found += strcmp(have[i], wanted->names[j]) == 0;
        }
        free(have[i]);
    }
    free(have);
    return count == wanted->count && found == count;
}

/* ---- our own ---- */

typedef struct identity {
    X509 *cert;
    EVP_PKEY *key;
} identity;

static void identity_deinit(identity *id)
{
    X509_free(id->cert);
    EVP_PKEY_free(id->key);
    *id = (identity){NULL, NULL};
}

static bool identity_read(identity *id, const char *cert_file, const char *key_file)
{
    id->cert = nv_cert_read(cert_file);
    id->key = nv_key_read(key_file);
    bool ok = id->cert && id->key && X509_check_private_key(id->cert, id->key) == 1;
    ERR_clear_error();
    return ok;
}

static bool lasts(X509 *certificate, int64_t now_us, int days)
{
    return nv_cert_not_after_us(certificate) > now_us + days * DAY_US;
}

typedef struct maker {
    const nv_pki_config *config;
    nv_pki *out;
    char *ca_key_file;
    name_list names;
    char host[HOST_NAME_SIZE];
    int64_t now_us;
    identity ca;
    identity server;
    char *why;
} maker;

static nv_err make_ca(maker *m)
{
    char cn[HOST_NAME_SIZE + 16];
    (void)snprintf(cn, sizeof(cn), "Nave CA %s", m->host);
    nv_cert_spec spec = {.kind = NV_CERT_CA, .common_name = cn, .now_us = m->now_us, .days = CA_DAYS};
    identity_deinit(&m->ca);
    m->ca.key = nv_key_new();
    m->ca.cert = m->ca.key ? nv_cert_new(&spec, m->ca.key, NULL, NULL) : NULL;
    if (!m->ca.cert) {
        return refuse(m->why, NV_E_NO_MEMORY, "cannot make a CA certificate");
    }
    /* The key first: a certificate without its key would be told to clients and be of no use. */
    nv_err err = save_key(m->config->dir, m->ca_key_file, m->ca.key, m->why);
    if (err == NV_OK) {
        err = save_certs(m->config->dir, m->out->ca_file, &m->ca.cert, 1, m->why);
    }
    m->out->made_ca = err == NV_OK;
    return err;
}

/* A CA that clients trust is never replaced because a file cannot be read: that is an error to be mended. */
static nv_err ensure_ca(maker *m)
{
    bool has_cert = access(m->out->ca_file, F_OK) == 0;
    bool has_key = access(m->ca_key_file, F_OK) == 0;
    if (!has_cert) { /* also after a crash between the two files of make_ca() */
        return make_ca(m);
    }
    if (!has_key) {
        return refuse(m->why, NV_E_NOT_FOUND,
                      "the CA %s has lost its key %s: bring it back, or remove both to make a new CA that every client "
                      "must then be given",
                      m->out->ca_file, m->ca_key_file);
    }
    if (!identity_read(&m->ca, m->out->ca_file, m->ca_key_file)) {
        return refuse(m->why, NV_E_INVALID, "the CA files %s and %s cannot be read or do not belong together",
                      m->out->ca_file, m->ca_key_file);
    }
    return lasts(m->ca.cert, m->now_us, CA_RENEW_DAYS) ? NV_OK : make_ca(m);
}

static nv_err make_server(maker *m)
{
    int64_t ca_days = (nv_cert_not_after_us(m->ca.cert) - m->now_us) / DAY_US;
    nv_cert_spec spec = {.kind = NV_CERT_SERVER,
                         .common_name = m->host[0] ? m->host : "localhost",
                         .names = m->names.names,
                         .name_count = m->names.count,
                         .now_us = m->now_us,
                         .days = ca_days < SERVER_DAYS ? (int)ca_days : SERVER_DAYS};
    identity_deinit(&m->server);
    m->server.key = nv_key_new();
    m->server.cert = m->server.key ? nv_cert_new(&spec, m->server.key, m->ca.cert, m->ca.key) : NULL;
    if (!m->server.cert) {
        return refuse(m->why, NV_E_INVALID, "cannot make a server certificate");
    }
    /* A crash in between leaves a pair that does not fit, which the next start replaces. */
    nv_err err = save_key(m->config->dir, m->out->key_file, m->server.key, m->why);
    X509 *chain[] = {m->server.cert, m->ca.cert};
    if (err == NV_OK) {
        err = save_certs(m->config->dir, m->out->cert_file, chain, 2, m->why);
    }
    m->out->made_cert = err == NV_OK;
    return err;
}

/* Nor is there anything to gain when it lasts as long as its CA. */
static bool lasts_enough(const maker *m)
{
    return lasts(m->server.cert, m->now_us, RENEW_DAYS) ||
           nv_cert_not_after_us(m->server.cert) + DAY_US >= nv_cert_not_after_us(m->ca.cert);
}

static nv_err ensure_server(maker *m)
{
    bool good = identity_read(&m->server, m->out->cert_file, m->out->key_file) &&
                X509_verify(m->server.cert, m->ca.key) == 1 && same_names(m->server.cert, &m->names) && lasts_enough(m);
    ERR_clear_error();
    return good ? NV_OK : make_server(m);
}

static void describe(nv_pki *out, X509 *certificate)
{
    out->names = nv_cert_names(certificate, &out->name_count);
    out->not_after_us = nv_cert_not_after_us(certificate);
}

static nv_err open_own(const nv_pki_config *config, int64_t now_us, nv_pki *out, char why[NV_PKI_WHY_SIZE])
{
    maker m = {.config = config, .out = out, .now_us = now_us, .why = why};
    nv_err err = check_names(config, why);
    if (err != NV_OK) {
        return err;
    }
    if (mkdir(config->dir, 0700) != 0 && errno != EEXIST) {
        return refuse_errno(why, "create the folder", config->dir);
    }
    out->ca_file = join(config->dir, "ca.pem");
    out->cert_file = join(config->dir, "server.pem");
    out->key_file = join(config->dir, "server.key");
    m.ca_key_file = join(config->dir, "ca.key");
    find_names(config, &m.names, m.host);
    err = ensure_ca(&m);
    if (err == NV_OK) {
        err = ensure_server(&m);
    }
    if (err == NV_OK) {
        describe(out, m.server.cert);
    }
    identity_deinit(&m.ca);
    identity_deinit(&m.server);
    free_names(&m.names);
    free(m.ca_key_file);
    return err;
}

/* ---- the user's ---- */

static nv_err open_users(const nv_pki_config *config, int64_t now_us, nv_pki *out, char why[NV_PKI_WHY_SIZE])
{
    if (!config->cert_file || !config->key_file) {
        return refuse(why, NV_E_INVALID, "a certificate file and its key file must be given together");
    }
    const char *const files[] = {config->cert_file, config->key_file, config->user_ca_file};
    for (size_t i = 0; i < NV_COUNT_OF(files); i++) {
        if (files[i] && access(files[i], R_OK) != 0) {
            return refuse_errno(why, "read", files[i]);
        }
    }
    identity id = {NULL, NULL};
    nv_err err = NV_OK;
    if (!identity_read(&id, config->cert_file, config->key_file)) {
        err = refuse(why, NV_E_INVALID, "%s",
                     !id.cert  ? "there is no certificate in the certificate file"
                     : !id.key ? "there is no usable key (PEM, without a pass phrase) in the key file"
                               : "the key file does not belong to the certificate file");
    } else if (!lasts(id.cert, now_us, 0)) {
        err = refuse(why, NV_E_EXPIRED, "the certificate in %s has expired", config->cert_file);
    } else {
        out->cert_file = nv_strdup(config->cert_file);
        out->key_file = nv_strdup(config->key_file);
        out->ca_file = config->user_ca_file ? nv_strdup(config->user_ca_file) : NULL;
        describe(out, id.cert);
    }
    identity_deinit(&id);
    return err;
}

nv_err nv_pki_open(const nv_pki_config *config, nv_pki *out, char why[NV_PKI_WHY_SIZE])
{
    *out = (nv_pki){0};
    int64_t now_us = nv_wall_us(config->clock ? config->clock : nv_clock_system());
    nv_err err = config->cert_file || config->key_file ? open_users(config, now_us, out, why)
                                                       : open_own(config, now_us, out, why);
    if (err != NV_OK) {
        nv_pki_deinit(out);
    }
    return err;
}

nv_err nv_pki_check(const nv_pki_config *config, char why[NV_PKI_WHY_SIZE])
{
    nv_pki users = {0};
    int64_t now_us = nv_wall_us(config->clock ? config->clock : nv_clock_system());
    nv_err err =
        config->cert_file || config->key_file ? open_users(config, now_us, &users, why) : check_names(config, why);
    nv_pki_deinit(&users);
    return err;
}

void nv_pki_deinit(nv_pki *pki)
{
    for (size_t i = 0; i < pki->name_count; i++) {
        free(pki->names[i]);
    }
    free(pki->names);
    free(pki->ca_file);
    free(pki->cert_file);
    free(pki->key_file);
    *pki = (nv_pki){0};
}

/* ---- devices ---- */

static bool thumbprint(X509 *certificate, const EVP_MD *digest, char *out)
{
    static const char hex[] = "0123456789ABCDEF";
    unsigned char hash[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    if (X509_digest(certificate, digest, hash, &len) != 1) {
        return false;
    }
    for (unsigned i = 0; i < len; i++) {
        *out++ = hex[hash[i] >> 4];
        *out++ = hex[hash[i] & 15];
    }
    *out = '\0';
    return true;
}

nv_err nv_device_cert_new(const char *common_name, int days, const nv_clock *clock, nv_device_cert *out)
{
    *out = (nv_device_cert){0};
    if (strlen(common_name) == 0 || strlen(common_name) > 64) {
        return NV_E_INVALID;
    }
    nv_cert_spec spec = {.kind = NV_CERT_DEVICE,
                         .common_name = common_name,
                         .now_us = nv_wall_us(clock ? clock : nv_clock_system()),
                         .days = days};
    identity id = {.key = nv_key_new()};
    id.cert = id.key ? nv_cert_new(&spec, id.key, NULL, NULL) : NULL;
    nv_err err = NV_E_NO_MEMORY;
    if (id.cert && thumbprint(id.cert, EVP_sha1(), out->sha1) && thumbprint(id.cert, EVP_sha256(), out->sha256)) {
        out->cert_pem = nv_cert_to_pem(&id.cert, 1);
        out->key_pem = nv_key_to_pem(id.key);
        err = out->cert_pem && out->key_pem ? NV_OK : NV_E_NO_MEMORY;
    }
    identity_deinit(&id);
    if (err != NV_OK) {
        nv_device_cert_deinit(out);
    }
    return err;
}

void nv_device_cert_deinit(nv_device_cert *cert)
{
    free(cert->cert_pem);
    free_secret(cert->key_pem);
    *cert = (nv_device_cert){0};
}
