/* What the connections of a server or client share: certificates and their reload, sessions and tickets. */
#include "base/metrics.h"
#include "net/client.h"
#include "net/tls_impl.h"
#include "net/tls_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- sessions and certificates ---- */

typedef struct seen {
    _Atomic int with_certificate;
    _Atomic int without;
    _Atomic int wrong;
} seen;

static void see_peer(void *arg, const nv_peer *peer)
{
    seen *s = arg;
    if (!peer->certificate) {
        atomic_fetch_add(&s->without, 1);
        return;
    }
    char sha1[41];
    char sha256[65];
    for (size_t i = 0; i < 20; i++) {
        (void)snprintf(sha1 + 2 * i, 3, "%02X", peer->certificate->sha1[i]);
    }
    for (size_t i = 0; i < 32; i++) {
        (void)snprintf(sha256 + 2 * i, 3, "%02X", peer->certificate->sha256[i]);
    }
    int64_t now_us = nv_wall_us(nv_clock_system());
    bool right = strcmp(sha1, tls_shared.device.sha1) == 0 && strcmp(sha256, tls_shared.device.sha256) == 0 &&
                 nv_span_eq_str(peer->certificate->cn, "device-1") && peer->certificate->der.len > 200 &&
                 peer->certificate->not_before_us < now_us &&
                 peer->certificate->not_after_us > now_us + INT64_C(28) * 86400 * NV_US_PER_S && peer->tls;
    atomic_fetch_add(right ? &s->with_certificate : &s->wrong, 1);
}

static void connect_once(tls_hub *t, nv_tls_client *client)
{
    probe p;
    probe_connect(&p, &t->h, "localhost", hub_port(&t->h), client);
    probe_say(&p, "x\n");
    probe_expect(&p, "x\n");
    probe_close(&p);
}

/* Full, resumed, and resumed after a reload of the certificate; with a client certificate and without. */
static void test_resumption(void **state)
{
    (void)state;
    static const nv_tls_version versions[] = {NV_TLS_1_2, NV_TLS_1_3};
    for (size_t i = 0; i < 4; i++) {
        bool certificate = i >= 2;
        seen s = {0};
        tls_hub t;
        tls_hub_init(&t);
        t.h.echo.peer_seen = see_peer;
        t.h.echo.arg = &s;
        tls_hub_start(&t, 2, NULL);
        nv_tls_client *client =
            tls_shared_client((nv_tls_client_config){.resume = true,
                                                     .cert_file = certificate ? tls_shared.device_pem : NULL,
                                                     .key_file = certificate ? tls_shared.device_key : NULL,
                                                     .lowest = versions[i % 2],
                                                     .highest = versions[i % 2]});
        int64_t resumed = nv_metric_get(NV_M_TLS_RESUMED);
        connect_once(&t, client);
        assert_int_equal(nv_metric_get(NV_M_TLS_RESUMED), resumed);
        connect_once(&t, client);
        connect_once(&t, client);
        assert_int_equal(nv_metric_get(NV_M_TLS_RESUMED), resumed + 2);
        char why[NV_NET_WHY_SIZE];
        assert_int_equal(nv_tls_server_reload(t.server, why), NV_OK);
        connect_once(&t, client);
        assert_int_equal(nv_metric_get(NV_M_TLS_RESUMED), resumed + 3);
        assert_int_equal(atomic_load(&s.wrong), 0);
        assert_int_equal(atomic_load(&s.with_certificate), certificate ? 4 : 0);
        assert_int_equal(atomic_load(&s.without), certificate ? 0 : 4);
        tls_hub_stop(&t);
        nv_tls_client_free(client);
    }
}

/* TLS 1.2 by session id, for clients that know no tickets. */
static void test_resumption_by_id(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 1, NULL);
    SSL_SESSION *session = NULL;
    for (int i = 0; i < 2; i++) {
        tls_raw r;
        tls_raw_init(&r, &t);
        (void)SSL_set_options(r.ssl, SSL_OP_NO_TICKET);
        assert_int_equal(SSL_set_max_proto_version(r.ssl, TLS1_2_VERSION), 1);
        if (session) {
            assert_int_equal(SSL_set_session(r.ssl, session), 1);
        }
        assert_int_equal(SSL_connect(r.ssl), 1);
        assert_int_equal(SSL_session_reused(r.ssl), i);
        tls_raw_say(&r, "x\n");
        tls_raw_expect(&r, "x\n");
        SSL_SESSION_free(session);
        session = SSL_get1_session(r.ssl);
        (void)SSL_shutdown(r.ssl);
        tls_raw_deinit(&r);
    }
    SSL_SESSION_free(session);
    tls_hub_stop(&t);
}

/* Ticket keys rotate: the one before is still honoured, the one before that is not. */
static void test_ticket_rotation(void **state)
{
    (void)state;
    static const struct {
        int64_t hours;
        int rotations; /* connections in between that make the server notice the time */
        bool resumed;
    } rows[] = {{0, 0, true}, {13, 1, true}, {13, 2, false}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_manual_clock clock;
        nv_manual_clock_init(&clock, 0);
        char why[NV_NET_WHY_SIZE] = "";
        tls_hub t;
        hub_init(&t.h);
        nv_tls_server_config config = {
            .cert_file = tls_shared.pki.cert_file, .key_file = tls_shared.pki.key_file, .clock = &clock.clock};
        assert_int_equal(nv_tls_server_new(&config, &t.server, why), NV_OK);
        tls_hub_start(&t, 1, NULL);
        nv_tls_client *client = tls_shared_client((nv_tls_client_config){.resume = true});
        nv_tls_client *other = tls_shared_client((nv_tls_client_config){0});
        connect_once(&t, client);
        for (int r = 0; r < rows[i].rotations; r++) {
            nv_manual_clock_advance(&clock, rows[i].hours * 3600 * NV_US_PER_S);
            connect_once(&t, other);
        }
        int64_t resumed = nv_metric_get(NV_M_TLS_RESUMED);
        connect_once(&t, client);
        assert_int_equal(nv_metric_get(NV_M_TLS_RESUMED), resumed + (rows[i].rotations && !rows[i].resumed ? 0 : 1));
        tls_hub_stop(&t);
        nv_tls_client_free(client);
        nv_tls_client_free(other);
    }
}

/* A session is never offered to a server of another name, whose certificate it would not check. */
static void test_session_stays_with_its_server(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 1, NULL);
    nv_tls_client *client = tls_shared_client((nv_tls_client_config){.resume = true});
    connect_once(&t, client);
    int64_t resumed = nv_metric_get(NV_M_TLS_RESUMED);
    probe p;
    probe_connect_config(
        &p, &t.h,
        (nv_client_config){.host = "127.0.0.1", .port = hub_port(&t.h), .tls = client, .server_name = "other.example"});
    assert_true(p.failed);
    assert_non_null(strstr(p.why, "other.example"));
    assert_int_equal(nv_metric_get(NV_M_TLS_RESUMED), resumed);
    probe_deinit(&p);
    tls_hub_stop(&t);
    nv_tls_client_free(client);
}

static bool shake_hands(SSL *client, SSL *server)
{
    for (int i = 0; i < 10; i++) {
        int rc = SSL_do_handshake(client);
        if (SSL_do_handshake(server) == 1 && rc == 1) {
            return true;
        }
    }
    return false;
}

static void test_forget_session(void **state)
{
    (void)state;
    static const struct {
        int version;
        uint8_t fragment;
        bool kept;
    } rows[] = {{TLS1_3_VERSION, TLSEXT_max_fragment_length_DISABLED, false},
                {TLS1_3_VERSION, TLSEXT_max_fragment_length_1024, true},
                {TLS1_2_VERSION, TLSEXT_max_fragment_length_DISABLED, true}};
    nv_tls_server *server = tls_shared_server();
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        BIO *near_end = NULL;
        BIO *far_end = NULL;
        assert_int_equal(BIO_new_bio_pair(&near_end, 0, &far_end, 0), 1);
        SSL *client = SSL_new(ctx);
        SSL *ssl = nv_tls_server_ssl(server);
        SSL_set_connect_state(client);
        SSL_set_accept_state(ssl);
        SSL_set_bio(client, near_end, near_end);
        SSL_set_bio(ssl, far_end, far_end);
        assert_int_equal(SSL_set_max_proto_version(client, rows[i].version), 1);
        assert_int_equal(SSL_set_tlsext_max_fragment_length(client, rows[i].fragment), 1);
        assert_true(shake_hands(client, ssl));
        nv_tls_server_forget_session(server, ssl);
        assert_int_equal(SSL_get0_session(ssl) != NULL, rows[i].kept);
        char byte = 0;
        assert_int_equal(SSL_write(ssl, "x", 1), 1);
        assert_int_equal(SSL_read(client, &byte, 1), 1);
        assert_int_equal(SSL_write(client, "y", 1), 1);
        assert_int_equal(SSL_read(ssl, &byte, 1), 1);
        assert_int_equal(byte, 'y');
        SSL_free(client);
        SSL_free(ssl);
    }
    SSL_CTX_free(ctx);
    nv_tls_server_free(server);
}

static void test_bad_files(void **state)
{
    (void)state;
    const struct {
        const char *cert, *key, *ciphers;
        nv_err err;
        const char *said;
    } rows[] = {
        {"/no/such.pem", tls_shared.pki.key_file, NULL, NV_E_NOT_FOUND, "/no/such.pem"},
        {tls_shared.pki.cert_file, "/no/such.key", NULL, NV_E_NOT_FOUND, "/no/such.key"},
        {tls_shared.pki.key_file, tls_shared.pki.key_file, NULL, NV_E_INVALID, tls_shared.pki.key_file},
        {tls_shared.pki.cert_file, tls_shared.device_key, NULL, NV_E_INVALID, tls_shared.device_key},
        {tls_shared.pki.cert_file, tls_shared.pki.key_file, "NO-SUCH-CIPHER", NV_E_INVALID, "NO-SUCH-CIPHER"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char why[NV_NET_WHY_SIZE] = "";
        nv_tls_server_config config = {.cert_file = rows[i].cert, .key_file = rows[i].key, .ciphers = rows[i].ciphers};
        nv_tls_server *server = NULL;
        assert_int_equal(nv_tls_server_new(&config, &server, why), rows[i].err);
        assert_non_null(strstr(why, rows[i].said));
    }
}

/* ---- reload ---- */

static long served_serial(const tls_hub *t)
{
    tls_raw r;
    tls_raw_init(&r, t);
    assert_int_equal(SSL_connect(r.ssl), 1);
    X509 *certificate = SSL_get1_peer_certificate(r.ssl);
    long hash = (long)X509_NAME_hash_ex(X509_get_subject_name(certificate), NULL, NULL, NULL);
    const ASN1_INTEGER *serial = X509_get0_serialNumber(certificate);
    for (int i = 0; i < ASN1_STRING_length(serial); i++) {
        hash = (long)((unsigned long)hash * 31u + ASN1_STRING_get0_data(serial)[i]);
    }
    X509_free(certificate);
    tls_raw_deinit(&r);
    return hash;
}

typedef struct traffic {
    tls_hub *t;
    nv_tls_client *client;
    _Atomic bool stop;
    _Atomic int rounds;
} traffic;

static void *keep_connecting(void *arg)
{
    traffic *load = arg;
    while (!atomic_load(&load->stop)) {
        connect_once(load->t, load->client);
        atomic_fetch_add(&load->rounds, 1);
    }
    return NULL;
}

static void test_reload(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 2, NULL);
    nv_tls_client *client = tls_shared_client((nv_tls_client_config){0});
    traffic load = {.t = &t, .client = client};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, keep_connecting, &load), 0);
    probe stays;
    probe_connect(&stays, &t.h, "localhost", hub_port(&t.h), client);
    long first = served_serial(&t);
    static const char *const more[] = {"renewed.example"};
    nv_pki_config config = {.dir = tls_shared.dir};
    char why[NV_PKI_WHY_SIZE];
    for (size_t i = 0; i < 5; i++) {
        config.hostnames = more;
        config.hostname_count = i % 2 ? 0 : 1; /* another set of names each time: another certificate */
        nv_pki pki;
        assert_int_equal(nv_pki_open(&config, &pki, why), NV_OK);
        assert_true(pki.made_cert);
        nv_pki_deinit(&pki);
        assert_int_equal(nv_tls_server_reload(t.server, why), NV_OK);
        long next = served_serial(&t);
        assert_true(next != first);
        first = next;
        int rounds = atomic_load(&load.rounds);
        await_count(&load.rounds, rounds + 3);
    }
    /* A reload that fails changes nothing. */
    assert_int_equal(truncate(tls_shared.pki.cert_file, 100), 0);
    assert_int_equal(nv_tls_server_reload(t.server, why), NV_E_INVALID);
    assert_true(served_serial(&t) == first);
    probe_say(&stays, "still\n");
    probe_expect(&stays, "still\n");
    probe_close(&stays);
    atomic_store(&load.stop, true);
    (void)pthread_join(thread, NULL);
    tls_hub_stop(&t);
    nv_tls_client_free(client);
    nv_pki pki;
    assert_int_equal(nv_pki_open(&(nv_pki_config){.dir = tls_shared.dir}, &pki, why), NV_OK);
    nv_pki_deinit(&pki);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resumption),      cmocka_unit_test(test_resumption_by_id),
        cmocka_unit_test(test_ticket_rotation), cmocka_unit_test(test_session_stays_with_its_server),
        cmocka_unit_test(test_forget_session),  cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_reload),
    };
    return cmocka_run_group_tests(tests, tls_make_shared, tls_remove_shared);
}
