#include "net/pki.h"

#include "base/span.h"
#include "net/x509.h"

#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define DAY_US (86400 * NV_US_PER_S)
#define START  (INT64_C(1700000000) * NV_US_PER_S)

typedef struct folder {
    char root[64];
    char dir[96];
    nv_manual_clock clock;
    char why[NV_PKI_WHY_SIZE];
} folder;

static void make_folder(folder *f)
{
    (void)snprintf(f->root, sizeof(f->root), "/tmp/nave-pki-XXXXXX");
    assert_non_null(mkdtemp(f->root));
    (void)snprintf(f->dir, sizeof(f->dir), "%s/tls", f->root);
    nv_manual_clock_init(&f->clock, START);
    f->why[0] = '\0';
}

static const char *path_of(const folder *f, const char *name)
{
    static char paths[4][160];
    static int next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof(paths[0]), "%s/%s", f->dir, name);
    return path;
}

static void remove_folder(folder *f)
{
    static const char *const names[] = {"ca.pem", "ca.key", "server.pem", "server.key"};
    for (size_t i = 0; i < NV_COUNT_OF(names); i++) {
        (void)unlink(path_of(f, names[i]));
    }
    (void)rmdir(f->dir);
    assert_int_equal(rmdir(f->root), 0); /* nothing else was left there */
}

static nv_pki_config config_of(folder *f)
{
    return (nv_pki_config){.dir = f->dir, .clock = &f->clock.clock};
}

static void open_ok(const nv_pki_config *config, nv_pki *pki, char *why)
{
    if (nv_pki_open(config, pki, why) != NV_OK) {
        fail_msg("%s", why);
    }
}

static bool has_name(const nv_pki *pki, const char *name)
{
    for (size_t i = 0; i < pki->name_count; i++) {
        if (strcmp(pki->names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static void read_text(const char *path, char *out, size_t size)
{
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    size_t len = fread(out, 1, size - 1, file);
    out[len] = '\0';
    (void)fclose(file);
}

/* As a client does: chain to the CA, purpose, name. @return X509_V_OK or why not */
static int verify(const nv_pki *pki, const char *name, int64_t now_us)
{
    X509 *ca = nv_cert_read(pki->ca_file);
    X509 *leaf = nv_cert_read(pki->cert_file);
    X509_STORE *store = X509_STORE_new();
    assert_int_equal(X509_STORE_add_cert(store, ca), 1);
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    assert_int_equal(X509_STORE_CTX_init(context, store, leaf, NULL), 1);
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(context);
    (void)X509_VERIFY_PARAM_set_purpose(param, X509_PURPOSE_SSL_SERVER);
    X509_VERIFY_PARAM_set_time(param, (time_t)(now_us / NV_US_PER_S));
    (void)X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_X509_STRICT);
    assert_int_equal(nv_is_ip_literal(name) ? X509_VERIFY_PARAM_set1_ip_asc(param, name)
                                            : X509_VERIFY_PARAM_set1_host(param, name, 0),
                     1);
    (void)X509_verify_cert(context);
    int result = X509_STORE_CTX_get_error(context);
    X509_STORE_CTX_free(context);
    X509_STORE_free(store);
    X509_free(leaf);
    X509_free(ca);
    return result;
}

static void test_first_start(void **state)
{
    (void)state;
    folder f;
    make_folder(&f);
    static const char *const extra[] = {"MyHub.azure-devices.net", "10.1.2.3", "2001:DB8:0::1", "localhost"};
    nv_pki_config config = config_of(&f);
    config.hostnames = extra;
    config.hostname_count = NV_COUNT_OF(extra);
    nv_pki pki;
    open_ok(&config, &pki, f.why);
    assert_true(pki.made_ca && pki.made_cert);
    static const struct {
        const char *name;
        int result;
    } rows[] = {
        {"localhost", X509_V_OK},
        {"127.0.0.1", X509_V_OK},
        {"::1", X509_V_OK},
        {"10.1.2.3", X509_V_OK},
        {"2001:db8::1", X509_V_OK},
        {"myhub.azure-devices.net", X509_V_OK},
        {"MYHUB.azure-devices.net", X509_V_OK},
        {"other.azure-devices.net", X509_V_ERR_HOSTNAME_MISMATCH},
        {"10.1.2.4", X509_V_ERR_IP_ADDRESS_MISMATCH},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        assert_int_equal(verify(&pki, rows[i].name, START), rows[i].result);
    }
    char host[256] = "";
    (void)gethostname(host, sizeof(host) - 1);
    assert_int_equal(verify(&pki, host, START), X509_V_OK);
    assert_int_equal(verify(&pki, "localhost", START + 729 * DAY_US), X509_V_OK);
    assert_int_equal(verify(&pki, "localhost", START + 731 * DAY_US), X509_V_ERR_CERT_HAS_EXPIRED);
    assert_true(has_name(&pki, "myhub.azure-devices.net") && has_name(&pki, "2001:db8::1"));
    struct stat status;
    assert_int_equal(stat(pki.key_file, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_int_equal(stat(path_of(&f, "ca.key"), &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_int_equal(stat(f.dir, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0700);
    nv_pki_deinit(&pki);
    remove_folder(&f);
}

/* What each next start makes anew. */
static void test_later_starts(void **state)
{
    (void)state;
    static const char *const one[] = {"one.example"};
    static const char *const two[] = {"two.example", "one.example"};
    static const struct {
        const char *const *names;
        size_t count;
        int64_t days_later;
        bool ca, cert;
    } rows[] = {
        {one, 1, 0, true, true},
        {one, 1, 0, false, false},
        {one, 1, 600, false, false},
        {one, 1, 101, false, true},
        /* 29 days before its end */ {one, 1, 1, false, false},
        {two, 2, 0, false, true},
        {two, 2, 0, false, false},
        {one, 1, 0, false, true},
        {one, 1, 2940, false, true}, /* near the end of the CA: what is left of it */
        {one, 1, 1, false, false},
        {one, 1, 9, true, true},
    };
    folder f;
    make_folder(&f);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_manual_clock_advance(&f.clock, rows[i].days_later * DAY_US);
        nv_pki_config config = config_of(&f);
        config.hostnames = rows[i].names;
        config.hostname_count = rows[i].count;
        nv_pki pki;
        open_ok(&config, &pki, f.why);
        if (pki.made_ca != rows[i].ca || pki.made_cert != rows[i].cert) {
            fail_msg("row %zu: CA %d, certificate %d", i, pki.made_ca, pki.made_cert);
        }
        assert_int_equal(verify(&pki, "one.example", nv_wall_us(&f.clock.clock)), X509_V_OK);
        nv_pki_deinit(&pki);
    }
    remove_folder(&f);
}

/* What may be on the disk after a crash or a slip, and what the next start makes of it. */
static void test_damage(void **state)
{
    (void)state;
    static const struct {
        const char *remove;
        const char *spoil;
        nv_err err;
        bool ca, cert;
    } rows[] = {
        {"server.pem", NULL, NV_OK, false, true},     {"server.key", NULL, NV_OK, false, true},
        {NULL, "server.pem", NV_OK, false, true},     {NULL, "server.key", NV_OK, false, true},
        {"ca.pem", NULL, NV_OK, true, true},          {"ca.key", NULL, NV_E_NOT_FOUND, false, false},
        {NULL, "ca.pem", NV_E_INVALID, false, false}, {NULL, "ca.key", NV_E_INVALID, false, false},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        folder f;
        make_folder(&f);
        nv_pki_config config = config_of(&f);
        nv_pki pki;
        open_ok(&config, &pki, f.why);
        nv_pki_deinit(&pki);
        if (rows[i].remove) {
            assert_int_equal(unlink(path_of(&f, rows[i].remove)), 0);
        }
        if (rows[i].spoil) {
            assert_int_equal(truncate(path_of(&f, rows[i].spoil), 60), 0);
        }
        assert_int_equal(nv_pki_open(&config, &pki, f.why), rows[i].err);
        assert_int_equal(pki.made_ca, rows[i].ca);
        assert_int_equal(pki.made_cert, rows[i].cert);
        if (rows[i].err != NV_OK) {
            assert_non_null(strstr(f.why, rows[i].remove ? rows[i].remove : rows[i].spoil));
        } else {
            assert_int_equal(verify(&pki, "localhost", START), X509_V_OK);
        }
        nv_pki_deinit(&pki);
        remove_folder(&f);
    }
}

/* The CA that clients were given stays the same, byte for byte. */
static void test_ca_stays(void **state)
{
    (void)state;
    folder f;
    make_folder(&f);
    static const char *const names[] = {"one.example"};
    nv_pki_config config = config_of(&f);
    nv_pki pki;
    char before[4096];
    char after[4096];
    open_ok(&config, &pki, f.why);
    read_text(pki.ca_file, before, sizeof(before));
    nv_pki_deinit(&pki);
    config.hostnames = names;
    config.hostname_count = 1;
    open_ok(&config, &pki, f.why);
    read_text(pki.ca_file, after, sizeof(after));
    assert_true(pki.made_cert);
    assert_string_equal(before, after);
    X509 *ca = nv_cert_read(pki.ca_file);
    char cn[128] = "";
    (void)X509_NAME_get_text_by_NID(X509_get_subject_name(ca), NID_commonName, cn, sizeof(cn));
    assert_memory_equal(cn, "Nave CA ", 8);
    X509_free(ca);
    nv_pki_deinit(&pki);
    remove_folder(&f);
}

static void test_users_files(void **state)
{
    (void)state;
    folder f;
    make_folder(&f);
    nv_pki_config config = config_of(&f);
    nv_pki own;
    open_ok(&config, &own, f.why);
    struct {
        const char *cert, *key, *ca;
        int64_t days_later;
        nv_err err;
    } rows[] = {
        {own.cert_file, own.key_file, NULL, 0, NV_OK},
        {own.cert_file, own.key_file, own.ca_file, 0, NV_OK},
        {own.cert_file, NULL, NULL, 0, NV_E_INVALID},
        {NULL, own.key_file, NULL, 0, NV_E_INVALID},
        {own.cert_file, path_of(&f, "ca.key"), NULL, 0, NV_E_INVALID},
        {own.key_file, own.key_file, NULL, 0, NV_E_INVALID},
        {own.cert_file, own.cert_file, NULL, 0, NV_E_INVALID},
        {"/no/such/file", own.key_file, NULL, 0, NV_E_NOT_FOUND},
        {own.cert_file, own.key_file, "/no/such/file", 0, NV_E_NOT_FOUND},
        {own.cert_file, own.key_file, NULL, 731, NV_E_EXPIRED},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_manual_clock_advance(&f.clock, rows[i].days_later * DAY_US);
        nv_pki_config users = config_of(&f);
        users.cert_file = rows[i].cert;
        users.key_file = rows[i].key;
        users.user_ca_file = rows[i].ca;
        nv_pki pki;
        f.why[0] = '\0';
        if (nv_pki_open(&users, &pki, f.why) != rows[i].err) {
            fail_msg("row %zu: %s", i, f.why);
        }
        assert_int_equal(rows[i].err == NV_OK, f.why[0] == '\0');
        if (rows[i].err == NV_OK) {
            assert_true(has_name(&pki, "localhost"));
            assert_int_equal(pki.ca_file != NULL, rows[i].ca != NULL);
        }
        nv_pki_deinit(&pki);
    }
    nv_pki_deinit(&own);
    remove_folder(&f);
}

static void test_refusals(void **state)
{
    (void)state;
    static const char *const bad_names[] = {"a b", "", "x,y", "DNS:evil\n"};
    folder f;
    make_folder(&f);
    nv_pki pki;
    for (size_t i = 0; i < NV_COUNT_OF(bad_names); i++) {
        nv_pki_config config = config_of(&f);
        config.hostnames = &bad_names[i];
        config.hostname_count = 1;
        assert_int_equal(nv_pki_open(&config, &pki, f.why), NV_E_INVALID);
        assert_non_null(strstr(f.why, bad_names[i]));
    }
    nv_pki_config nowhere = {.dir = "/no/such/place/tls", .clock = &f.clock.clock};
    assert_int_equal(nv_pki_open(&nowhere, &pki, f.why), NV_E_NOT_FOUND);
    assert_non_null(strstr(f.why, "/no/such/place/tls"));
    remove_folder(&f);
}

static void test_device_certificate(void **state)
{
    (void)state;
    nv_manual_clock clock;
    nv_manual_clock_init(&clock, START);
    nv_device_cert cert;
    assert_int_equal(nv_device_cert_new("", 1, &clock.clock, &cert), NV_E_INVALID);
    assert_int_equal(nv_device_cert_new("device-1", 30, &clock.clock, &cert), NV_OK);
    assert_int_equal(strlen(cert.sha1), 40);
    assert_int_equal(strspn(cert.sha1, "0123456789ABCDEF"), 40);
    assert_int_equal(strlen(cert.sha256), 64);
    assert_memory_equal(cert.cert_pem, "-----BEGIN CERTIFICATE-----", 27);
    assert_memory_equal(cert.key_pem, "-----BEGIN PRIVATE KEY-----", 27);
    nv_device_cert_deinit(&cert);
    assert_null(cert.key_pem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_start),        cmocka_unit_test(test_later_starts), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_ca_stays),           cmocka_unit_test(test_users_files),  cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_device_certificate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
