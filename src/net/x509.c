#include "net/x509.h"

#include "base/alloc.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DAY_S       86400
#define CN_MAX      64 /* ub-common-name, RFC 5280 appendix A.1 */
#define SERIAL_BITS 127

bool nv_is_ip_literal(const char *name)
{
    uint8_t address[16];
    return inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1;
}

EVP_PKEY *nv_key_new(void)
{
    return EVP_EC_gen("P-256");
}

/* ---- issuing ---- */

static bool set_serial(X509 *certificate)
{
    BIGNUM *number = BN_new();
    bool ok = number && BN_rand(number, SERIAL_BITS, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
              BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != NULL;
    BN_free(number);
    return ok;
}

static bool set_times(X509 *certificate, const nv_cert_spec *spec)
{
    time_t now = (time_t)(spec->now_us / NV_US_PER_S);
    /* With simulated time we may be ahead of those who check it: they go by the time that is. */
    int64_t real_us = nv_wall_us(nv_clock_system());
    time_t from = spec->now_us < real_us ? now : (time_t)(real_us / NV_US_PER_S);
    return ASN1_TIME_adj(X509_getm_notBefore(certificate), from, -1, 0) != NULL &&
           ASN1_TIME_adj(X509_getm_notAfter(certificate), now, spec->days, 0) != NULL;
}

static bool set_names(X509 *certificate, const nv_cert_spec *spec, X509 *issuer)
{
    X509_NAME *subject = X509_get_subject_name(certificate);
    char cn[CN_MAX + 1];
    (void)snprintf(cn, sizeof(cn), "%s", spec->common_name);
    return X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)cn, -1, -1, 0) == 1 &&
           X509_set_issuer_name(certificate, issuer ? X509_get_subject_name(issuer) : subject) == 1;
}

static bool add_extension(X509 *certificate, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer ? issuer : certificate, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    bool ok = extension && X509_add_ext(certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return ok;
}

static GENERAL_NAME *general_name(const char *name)
{
    GENERAL_NAME *general = GENERAL_NAME_new();
    if (!general) {
        return NULL;
    }
    if (nv_is_ip_literal(name)) {
        general->type = GEN_IPADD;
        general->d.iPAddress = a2i_IPADDRESS(name);
        if (general->d.iPAddress) {
            return general;
        }
    } else {
        ASN1_IA5STRING *text = ASN1_IA5STRING_new();
        if (text && ASN1_STRING_set(text, name, -1) == 1) {
            GENERAL_NAME_set0_value(general, GEN_DNS, text);
            return general;
        }
        ASN1_IA5STRING_free(text);
    }
    general->type = GEN_DNS;
    general->d.dNSName = NULL;
    GENERAL_NAME_free(general);
    return NULL;
}

static bool add_alternative_names(X509 *certificate, const nv_cert_spec *spec)
{
    if (spec->name_count == 0) {
        return true;
    }
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    bool ok = names != NULL;
    for (size_t i = 0; i < spec->name_count && ok; i++) {
        GENERAL_NAME *one = general_name(spec->names[i]);
        ok = one && sk_GENERAL_NAME_push(names, one) > 0;
    }
    ok = ok && X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) == 1;
    GENERAL_NAMES_free(names);
    return ok;
}

static bool add_extensions(X509 *certificate, const nv_cert_spec *spec, X509 *issuer)
{
    static const struct {
        const char *basic, *usage, *extended;
    } rows[] = {
        [NV_CERT_CA] = {"critical,CA:TRUE,pathlen:1", "critical,keyCertSign,cRLSign", NULL},
        [NV_CERT_SERVER] = {"critical,CA:FALSE", "critical,digitalSignature", "serverAuth"},
        [NV_CERT_DEVICE] = {"critical,CA:FALSE", "critical,digitalSignature", "clientAuth"},
    };
    bool ok = add_extension(certificate, issuer, NID_basic_constraints, rows[spec->kind].basic) &&
              add_extension(certificate, issuer, NID_key_usage, rows[spec->kind].usage) &&
              add_extension(certificate, issuer, NID_subject_key_identifier, "hash") &&
              add_extension(certificate, issuer, NID_authority_key_identifier, "keyid:always");
    if (ok && rows[spec->kind].extended) {
        ok = add_extension(certificate, issuer, NID_ext_key_usage, rows[spec->kind].extended);
    }
    return ok && add_alternative_names(certificate, spec);
}

X509 *nv_cert_new(const nv_cert_spec *spec, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key)
{
    X509 *certificate = X509_new();
    if (certificate && X509_set_version(certificate, X509_VERSION_3) == 1 && set_serial(certificate) &&
        set_times(certificate, spec) && set_names(certificate, spec, issuer) &&
        X509_set_pubkey(certificate, key) == 1 && add_extensions(certificate, spec, issuer) &&
        X509_sign(certificate, issuer_key ? issuer_key : key, EVP_sha256()) > 0) {
        return certificate;
    }
    X509_free(certificate);
    return NULL;
}

/* ---- PEM ---- */

static char *take_text(BIO *bio, bool ok)
{
    char *data = NULL;
    long len = BIO_get_mem_data(bio, &data);
    char *text = NULL;
    if (ok && len > 0) {
        text = nv_malloc((size_t)len + 1);
        memcpy(text, data, (size_t)len);
        text[len] = '\0';
    }
    BIO_free(bio);
    return text;
}

char *nv_cert_to_pem(X509 *const *certificates, size_t count)
{
    BIO *bio = BIO_new(BIO_s_mem());
    bool ok = bio != NULL;
    for (size_t i = 0; i < count && ok; i++) {
        ok = PEM_write_bio_X509(bio, certificates[i]) == 1;
    }
    return bio ? take_text(bio, ok) : NULL;
}

char *nv_key_to_pem(EVP_PKEY *key)
{
    BIO *bio = BIO_new(BIO_s_secmem());
    bool ok = bio && PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1;
    return bio ? take_text(bio, ok) : NULL;
}

/* Never ask a terminal. */
static int no_pass_phrase(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

X509 *nv_cert_read(const char *path)
{
    BIO *bio = BIO_new_file(path, "r");
    X509 *certificate = bio ? PEM_read_bio_X509(bio, NULL, no_pass_phrase, NULL) : NULL;
    BIO_free(bio);
    return certificate;
}

EVP_PKEY *nv_key_read(const char *path)
{
    BIO *bio = BIO_new_file(path, "r");
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_pass_phrase, NULL) : NULL;
    BIO_free(bio);
    return key;
}

/* ---- reading ---- */

static char *name_text(const GENERAL_NAME *general)
{
    int type = 0;
    const ASN1_STRING *value = GENERAL_NAME_get0_value(general, &type);
    int len = value && (type == GEN_DNS || type == GEN_IPADD) ? ASN1_STRING_length(value) : 0;
    const unsigned char *bytes = len ? ASN1_STRING_get0_data(value) : NULL;
    if (len == 0 || memchr(bytes, 0, (size_t)len * (type == GEN_DNS))) {
        return NULL;
    }
    if (type == GEN_IPADD) {
        char text[INET6_ADDRSTRLEN];
        const char *done = inet_ntop(len == 4 ? AF_INET : AF_INET6, bytes, text, sizeof(text));
        return (len == 4 || len == 16) && done ? nv_strdup(text) : NULL;
    }
    char *text = nv_malloc((size_t)len + 1);
    for (int i = 0; i < len; i++) {
        text[i] = (char)tolower(bytes[i]);
    }
    text[len] = '\0';
    return text;
}

char **nv_cert_names(X509 *certificate, size_t *count)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    int total = names ? sk_GENERAL_NAME_num(names) : 0;
    char **texts = nv_calloc((size_t)total + 1, sizeof(*texts));
    *count = 0;
    for (int i = 0; i < total; i++) {
        char *text = name_text(sk_GENERAL_NAME_value(names, i));
        if (text) {
            texts[(*count)++] = text;
        }
    }
    GENERAL_NAMES_free(names);
    return texts;
}

int64_t nv_cert_not_after_us(X509 *certificate)
{
    struct tm tm;
    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &tm) != 1) {
        return 0;
    }
    return (int64_t)timegm(&tm) * NV_US_PER_S;
}
