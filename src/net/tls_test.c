#include "net/tls.h"

#include "base/diag.h"
#include "base/metrics.h"
#include "net/client.h"
#include "net/net_test_util.h"
#include "net/pki.h"
#include "net/tls_impl.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* One folder with certificates for all tests: making keys is the slow part. */
static struct {
    char root[64];
    char dir[96];
    nv_pki pki;
    nv_device_cert device;
    char device_pem[160];
    char device_key[160];
} shared;

/* ---- what is logged ---- */

static struct {
    pthread_mutex_t lock;
    char text[65536];
    size_t len;
} logged = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void take_line(void *arg, nv_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    pthread_mutex_lock(&logged.lock);
    if (logged.len + len < sizeof(logged.text)) {
        memcpy(logged.text + logged.len, line, len);
        logged.len += len;
        logged.text[logged.len] = '\0';
    }
    pthread_mutex_unlock(&logged.lock);
}

static void forget_log(void)
{
    pthread_mutex_lock(&logged.lock);
    logged.len = 0;
    logged.text[0] = '\0';
    pthread_mutex_unlock(&logged.lock);
}

static bool was_logged(const char *text)
{
    pthread_mutex_lock(&logged.lock);
    bool found = strstr(logged.text, text) != NULL;
    pthread_mutex_unlock(&logged.lock);
    return found;
}

static void expect_logged(const char *text)
{
    if (!was_logged(text)) {
        fail_msg("not logged: %s; but: %s", text, logged.text);
    }
}

/* ---- fixture ---- */

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    (void)fputs(text, file);
    (void)fclose(file);
}

static int make_shared(void **state)
{
    (void)state;
    char why[NV_PKI_WHY_SIZE];
    (void)snprintf(shared.root, sizeof(shared.root), "/tmp/nave-tls-XXXXXX");
    if (!mkdtemp(shared.root)) {
        return -1;
    }
    (void)snprintf(shared.dir, sizeof(shared.dir), "%s/tls", shared.root);
    nv_pki_config config = {.dir = shared.dir};
    if (nv_pki_open(&config, &shared.pki, why) != NV_OK ||
        nv_device_cert_new("device-1", 30, NULL, &shared.device) != NV_OK) {
        return -1;
    }
    (void)snprintf(shared.device_pem, sizeof(shared.device_pem), "%s/device.pem", shared.root);
    (void)snprintf(shared.device_key, sizeof(shared.device_key), "%s/device.key", shared.root);
    write_text(shared.device_pem, shared.device.cert_pem);
    write_text(shared.device_key, shared.device.key_pem);
    nv_diag_set_sink(take_line, NULL);
    return 0;
}

static int remove_shared(void **state)
{
    (void)state;
    static const char *const names[] = {
        "tls/ca.pem", "tls/ca.key", "tls/server.pem", "tls/server.key", "device.pem", "device.key", "tls", ""};
    for (size_t i = 0; i < NV_COUNT_OF(names); i++) {
        char path[192];
        (void)snprintf(path, sizeof(path), "%s/%s", shared.root, names[i]);
        (void)remove(path);
    }
    nv_pki_deinit(&shared.pki);
    nv_device_cert_deinit(&shared.device);
    return 0;
}

static nv_tls_server *server_new(void)
{
    char why[NV_NET_WHY_SIZE] = "";
    nv_tls_server_config config = {
        .cert_file = shared.pki.cert_file, .key_file = shared.pki.key_file, .ca_file = shared.pki.ca_file};
    nv_tls_server *server = NULL;
    if (nv_tls_server_new(&config, &server, why) != NV_OK) {
        fail_msg("%s", why);
    }
    return server;
}

static nv_tls_client *client_new(nv_tls_client_config config)
{
    char why[NV_NET_WHY_SIZE] = "";
    nv_tls_client *client = NULL;
    if (!config.ca_file) {
        config.ca_file = shared.pki.ca_file;
    }
    if (nv_tls_client_new(&config, &client, why) != NV_OK) {
        fail_msg("%s", why);
    }
    return client;
}

typedef struct tls_hub {
    hub h;
    nv_tls_server *server;
} tls_hub;

static void tls_hub_init(tls_hub *t)
{
    hub_init(&t->h);
    t->server = server_new();
    forget_log();
}

static void tls_hub_start(tls_hub *t, unsigned loops, const nv_clock *clock)
{
    hub_start(&t->h, loops, clock, t->server);
}

static void tls_hub_stop(tls_hub *t)
{
    hub_stop(&t->h);
    nv_tls_server_free(t->server);
}

/* ---- a client of OpenSSL's own, blocking ---- */

typedef struct raw {
    int fd;
    SSL_CTX *ctx;
    SSL *ssl;
} raw;

static void raw_init(raw *r, const tls_hub *t)
{
    r->fd = dial_tcp("127.0.0.1", hub_port(&t->h));
    r->ctx = SSL_CTX_new(TLS_client_method());
    r->ssl = SSL_new(r->ctx);
    assert_int_equal(SSL_set_fd(r->ssl, r->fd), 1);
}

static void raw_deinit(raw *r)
{
    SSL_free(r->ssl);
    SSL_CTX_free(r->ctx);
    (void)close(r->fd);
    ERR_clear_error();
}

static void raw_say(raw *r, const char *text)
{
    assert_int_equal(SSL_write(r->ssl, text, (int)strlen(text)), (int)strlen(text));
}

static void raw_expect(raw *r, const char *text)
{
    char got[256] = "";
    size_t len = strlen(text);
    for (size_t have = 0; have < len;) {
        int n = SSL_read(r->ssl, got + have, (int)(len - have));
        assert_true(n > 0);
        have += (size_t)n;
    }
    assert_string_equal(got, text);
}

/* ---- tests ---- */

static void test_echo(void **state)
{
    (void)state;
    static const nv_tls_version versions[] = {NV_TLS_1_2, NV_TLS_1_3};
    for (size_t i = 0; i < NV_COUNT_OF(versions); i++) {
        tls_hub t;
        tls_hub_init(&t);
        tls_hub_start(&t, 2, NULL);
        nv_tls_client *client = client_new((nv_tls_client_config){.lowest = versions[i], .highest = versions[i]});
        probe probes[6];
        for (size_t p = 0; p < NV_COUNT_OF(probes); p++) {
            probe_connect(&probes[p], &t.h, p % 2 ? "localhost" : "127.0.0.1", hub_port(&t.h), client);
            probe_say(&probes[p], "hello\nwor");
            probe_expect(&probes[p], "hello\n");
            probe_say(&probes[p], "ld\n");
            probe_expect(&probes[p], "world\n");
        }
        for (size_t p = 0; p < NV_COUNT_OF(probes); p++) {
            probe_close(&probes[p]);
        }
        await_count(&t.h.echo.counts.freed, 6);
        assert_string_equal(t.h.echo.why, "the peer closed the connection");
        tls_hub_stop(&t);
        nv_tls_client_free(client);
    }
}

/* Units longer than a record, both ways, and the rest of one across many reads. */
static void test_long_units(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    t.h.echo.max_pending = 1000000;
    tls_hub_start(&t, 1, NULL);
    nv_tls_client *client = client_new((nv_tls_client_config){0});
    probe p;
    probe_connect(&p, &t.h, "localhost", hub_port(&t.h), client);
    static const size_t lengths[] = {16383, 16384, 16385, 70000, 300000, 999999};
    for (size_t i = 0; i < NV_COUNT_OF(lengths); i++) {
        char *line = malloc(lengths[i] + 2);
        memset(line, 'a' + (int)i, lengths[i]);
        line[lengths[i]] = '\n';
        line[lengths[i] + 1] = '\0';
        probe_say(&p, line);
        probe_expect(&p, line);
        free(line);
    }
    probe_close(&p);
    tls_hub_stop(&t);
    nv_tls_client_free(client);
}

static void test_slow_reader(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    t.h.limits.pause_output_bytes = (size_t)64 * 1024;
    t.h.limits.max_output_bytes = (size_t)1024 * 1024;
    tls_hub_start(&t, 1, NULL);
    raw r;
    raw_init(&r, &t);
    assert_int_equal(SSL_connect(r.ssl), 1);
    raw_say(&r, "known\nstream 20000000\nlast\n");
    raw_expect(&r, "known\n");
    hub_settle(&t.h); /* it has filled what it can */
    char *block = malloc(65536);
    for (size_t left = 20000000; left > 0;) {
        int n = SSL_read(r.ssl, block, left < 65536 ? (int)left : 65536);
        assert_true(n > 0);
        left -= (size_t)n;
    }
    free(block);
    assert_int_equal(atomic_load(&t.h.echo.counts.full), 0);
    raw_deinit(&r);
    tls_hub_stop(&t);
}

static void test_stop_reading(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 1, NULL);
    raw r;
    raw_init(&r, &t);
    assert_int_equal(SSL_connect(r.ssl), 1);
    raw_say(&r, "stop\nafter\nand mo");
    raw_expect(&r, "stop\n");
    await_count(&t.h.echo.counts.stopped, 1);
    raw_say(&r, "re\n");
    hub_release_last(&t.h);
    raw_expect(&r, "after\nand more\n");
    raw_deinit(&r);
    tls_hub_stop(&t);
}

/* The hub keeps no session: keys are exchanged all the same, and records keep the length that was agreed upon. */
static void test_after_the_session(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 1, NULL);
    static const uint8_t fragments[] = {TLSEXT_max_fragment_length_DISABLED, TLSEXT_max_fragment_length_512};
    for (size_t i = 0; i < NV_COUNT_OF(fragments); i++) {
        raw r;
        raw_init(&r, &t);
        assert_int_equal(SSL_set_tlsext_max_fragment_length(r.ssl, fragments[i]), 1);
        assert_int_equal(SSL_connect(r.ssl), 1);
        assert_int_equal(SSL_version(r.ssl), TLS1_3_VERSION);
        for (int k = 0; k < 3; k++) {
            raw_say(&r, "before\n");
            raw_expect(&r, "before\n");
            assert_int_equal(SSL_key_update(r.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
            raw_say(&r, "after\n");
            raw_expect(&r, "after\n");
        }
        raw_say(&r, "stream 100000\n");
        char block[20000];
        int longest = 0;
        for (int left = 100000; left > 0;) {
            int n = SSL_read(r.ssl, block, left < (int)sizeof(block) ? left : (int)sizeof(block));
            assert_true(n > 0);
            longest = n > longest ? n : longest;
            left -= n;
        }
        assert_true(fragments[i] ? longest == 512 : longest > 8192); /* one read gives one record at most */
        raw_deinit(&r);
    }
    tls_hub_stop(&t);
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
    nv_tls_server *server = server_new();
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

static void test_goodbye(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 1, NULL);
    raw a;
    raw b;
    raw_init(&a, &t);
    raw_init(&b, &t);
    assert_int_equal(SSL_connect(a.ssl), 1);
    assert_int_equal(SSL_connect(b.ssl), 1);
    raw_say(&a, "close\n");
    raw_expect(&a, "close\n");
    char byte;
    int rc = SSL_read(a.ssl, &byte, 1);
    assert_int_equal(SSL_get_error(a.ssl, rc), SSL_ERROR_ZERO_RETURN);
    raw_say(&b, "x\n");
    raw_expect(&b, "x\n");
    nv_net_stop(t.h.net, 10 * NV_US_PER_S);
    raw_expect(&b, "bye\n");
    rc = SSL_read(b.ssl, &byte, 1);
    assert_int_equal(SSL_get_error(b.ssl, rc), SSL_ERROR_ZERO_RETURN);
    raw_deinit(&a);
    raw_deinit(&b);
    tls_hub_stop(&t);
}

/* The ClientHello and all else byte by byte: every boundary inside records and messages. */
static void test_bytewise(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 1, NULL);
    raw r;
    raw_init(&r, &t);
    BIO *in = BIO_new(BIO_s_mem());
    BIO *out = BIO_new(BIO_s_mem());
    SSL_set_bio(r.ssl, in, out);
    SSL_set_connect_state(r.ssl);
    bool asked = false;
    char answer[3] = "";
    while (!answer[0]) {
        int rc = asked ? SSL_read(r.ssl, answer, 2) : SSL_do_handshake(r.ssl);
        if (!asked && rc == 1) {
            assert_int_equal(SSL_write(r.ssl, "x\n", 2), 2);
            asked = true;
        }
        char byte;
        while (BIO_read(out, &byte, 1) == 1) {
            say_bytes(r.fd, &byte, 1);
        }
        char block[4096];
        if (rc != 1 && rc != 2) {
            ssize_t n = recv(r.fd, block, sizeof(block), 0);
            assert_true(n > 0);
            assert_int_equal(BIO_write(in, block, (int)n), n);
        }
    }
    assert_string_equal(answer, "x\n");
    raw_deinit(&r);
    tls_hub_stop(&t);
}

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
    bool right = strcmp(sha1, shared.device.sha1) == 0 && strcmp(sha256, shared.device.sha256) == 0 &&
                 nv_span_eq_str(peer->certificate->cn, "device-1") && peer->certificate->der.len > 200 &&
                 peer->certificate->not_before_us < now_us &&
                 peer->certificate->not_after_us > now_us + 28 * 86400 * NV_US_PER_S && peer->tls;
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
        nv_tls_client *client = client_new((nv_tls_client_config){.resume = true,
                                                                  .cert_file = certificate ? shared.device_pem : NULL,
                                                                  .key_file = certificate ? shared.device_key : NULL,
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
        raw r;
        raw_init(&r, &t);
        (void)SSL_set_options(r.ssl, SSL_OP_NO_TICKET);
        assert_int_equal(SSL_set_max_proto_version(r.ssl, TLS1_2_VERSION), 1);
        if (session) {
            assert_int_equal(SSL_set_session(r.ssl, session), 1);
        }
        assert_int_equal(SSL_connect(r.ssl), 1);
        assert_int_equal(SSL_session_reused(r.ssl), i);
        raw_say(&r, "x\n");
        raw_expect(&r, "x\n");
        SSL_SESSION_free(session);
        session = SSL_get1_session(r.ssl);
        (void)SSL_shutdown(r.ssl);
        raw_deinit(&r);
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
            .cert_file = shared.pki.cert_file, .key_file = shared.pki.key_file, .clock = &clock.clock};
        assert_int_equal(nv_tls_server_new(&config, &t.server, why), NV_OK);
        tls_hub_start(&t, 1, NULL);
        nv_tls_client *client = client_new((nv_tls_client_config){.resume = true});
        nv_tls_client *other = client_new((nv_tls_client_config){0});
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
    nv_tls_client *client = client_new((nv_tls_client_config){.resume = true});
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

/* ---- ALPN ---- */

static nv_session *accept_named(void *arg, nv_carrier *carrier)
{
    nv_err err = nv_buf_append_str(carrier->out, arg); /* also: the session speaks first */
    assert_int_equal(err, NV_OK);
    static echo_config config;
    return echo_accept(&config, carrier);
}

static void test_alpn(void **state)
{
    (void)state;
    static const struct {
        const char *offer; /* as on the wire; NULL: no extension */
        const char *selected;
        const char *greeting;
    } rows[] = {
        {NULL, "", "default\n"},
        {"\x02h2\x08http/1.1", "http/1.1", "http\n"},
        {"\x08http/1.1", "http/1.1", "http\n"},
        {"\x04mqtt", "mqtt", "mqtt\n"},
        {"\x06x-amqp\x04mqtt", "mqtt", "mqtt\n"}, /* our order, not theirs */
        {"\x06x-amqp", "x-amqp", "amqp\n"},
        {"\x02h2", "", "default\n"},
        {"\x05other\x03xyz", "", "default\n"},
    };
    char texts[4][16] = {"default\n", "http\n", "mqtt\n", "amqp\n"};
    nv_acceptor acceptors[] = {
        {"http/1.1", accept_named, texts[1]},
        {"mqtt", accept_named, texts[2]},
        {"x-amqp", accept_named, texts[3]},
        {NULL, accept_named, texts[0]},
    };
    tls_hub t;
    tls_hub_init(&t);
    t.h.acceptors = acceptors;
    t.h.acceptor_count = NV_COUNT_OF(acceptors);
    tls_hub_start(&t, 1, NULL);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        raw r;
        raw_init(&r, &t);
        if (rows[i].offer) {
            assert_int_equal(
                SSL_set_alpn_protos(r.ssl, (const uint8_t *)rows[i].offer, (unsigned)strlen(rows[i].offer)), 0);
        }
        assert_int_equal(SSL_connect(r.ssl), 1);
        const unsigned char *alpn = NULL;
        unsigned len = 0;
        SSL_get0_alpn_selected(r.ssl, &alpn, &len);
        assert_true(nv_span_eq_str(nv_span_of(alpn, len), rows[i].selected));
        raw_expect(&r, rows[i].greeting);
        raw_deinit(&r);
    }
    tls_hub_stop(&t);
}

/* ---- what goes wrong, and what is said about it ---- */

static void test_not_tls(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        const char *said;
    } rows[] = {
        {"GET / HTTP/1.1\r\n\r\n", 18, "plain HTTP on a TLS port"},
        {"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0", 14, "plain MQTT on a TLS port"},
        {"AMQP\0\1\0\0", 8, "plain AMQP on a TLS port"},
        {"\0\0\0\0", 4, "plain bytes on a TLS port"},
        {"\x16\x03\x01\0\x05hello", 10, "TLS handshake failed"},
        {"\x16gibberish", 10, "what came is not TLS"},
        {"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 12, "TLS"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        tls_hub t;
        tls_hub_init(&t);
        tls_hub_start(&t, 1, NULL);
        int64_t failed = nv_metric_get(NV_M_TLS_FAILED);
        int fd = dial_tcp("127.0.0.1", hub_port(&t.h));
        say_bytes(fd, rows[i].bytes, rows[i].len);
        if (i == 0) {
            expect(fd, "HTTP/1.1 400 Bad Request\r\n");
        }
        size_t said = skip_to_end(fd); /* an alert, perhaps */
        assert_true(i != 0 || said > 50);
        expect_logged(rows[i].said);
        assert_int_equal(nv_metric_get(NV_M_TLS_FAILED), failed + 1);
        (void)close(fd);
        tls_hub_stop(&t);
    }
}

static void test_untrusted(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 1, NULL);
    nv_tls_client *client = client_new((nv_tls_client_config){.ca_file = shared.device_pem});
    probe p;
    probe_connect(&p, &t.h, "localhost", hub_port(&t.h), client);
    assert_true(p.failed);
    assert_non_null(strstr(p.why, "is not accepted"));
    assert_non_null(strstr(p.why, shared.device_pem));
    probe_deinit(&p);
    await_no_connections(t.h.net);
    expect_logged("the client does not trust our certificate");
    expect_logged(shared.pki.ca_file);
    tls_hub_stop(&t);
    nv_tls_client_free(client);
}

static void test_nothing_in_common(void **state)
{
    (void)state;
    static const struct {
        const char *ciphers;
        int version;
        const char *said;
    } rows[] = {
        {"ALL:@SECLEVEL=0", TLS1_1_VERSION, "no shared TLS version"},
        {"AES128-SHA:@SECLEVEL=0", TLS1_2_VERSION, "no shared cipher"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        tls_hub t;
        tls_hub_init(&t);
        tls_hub_start(&t, 1, NULL);
        raw r;
        raw_init(&r, &t);
        assert_int_equal(SSL_set_cipher_list(r.ssl, rows[i].ciphers), 1);
        assert_int_equal(SSL_set_min_proto_version(r.ssl, rows[i].version), 1);
        assert_int_equal(SSL_set_max_proto_version(r.ssl, rows[i].version), 1);
        assert_int_equal(SSL_connect(r.ssl), -1);
        expect_logged(rows[i].said);
        raw_deinit(&r);
        tls_hub_stop(&t);
    }
}

static void test_hang_up(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 1, NULL);
    raw r;
    raw_init(&r, &t);
    BIO *out = BIO_new(BIO_s_mem());
    SSL_set_bio(r.ssl, BIO_new(BIO_s_mem()), out);
    assert_int_equal(SSL_connect(r.ssl), -1); /* a ClientHello, and then no more */
    char hello[2048];
    int len = BIO_read(out, hello, sizeof(hello));
    say_bytes(r.fd, hello, (size_t)len);
    char byte;
    assert_int_equal(recv(r.fd, &byte, 1, 0), 1);
    raw_deinit(&r);
    await_no_connections(t.h.net);
    expect_logged("TLS handshake not finished");
    expect_logged(shared.pki.ca_file);
    tls_hub_stop(&t);
}

static void test_handshake_deadline(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) { /* silence; a piece of a ClientHello */
        nv_manual_clock clock;
        nv_manual_clock_init(&clock, 0);
        tls_hub t;
        tls_hub_init(&t);
        tls_hub_start(&t, 1, &clock.clock);
        int fd = dial_tcp("127.0.0.1", hub_port(&t.h));
        say_bytes(fd, "\x16\x03\x01\x01\x00\x01", i ? 6 : 0);
        for (int left = 30000; nv_net_connections(t.h.net) == 0 && left > 0; left--) {
            (void)usleep(1000);
        }
        hub_settle(&t.h);
        nv_manual_clock_advance(&clock, 29 * NV_US_PER_S);
        nv_loop_poke(nv_net_loop(t.h.net, 0));
        expect_silence(fd);
        nv_manual_clock_advance(&clock, 2 * NV_US_PER_S);
        nv_loop_poke(nv_net_loop(t.h.net, 0));
        expect_end(fd);
        assert_int_equal(was_logged("no TLS handshake in time"), i);
        (void)close(fd);
        tls_hub_stop(&t);
    }
}

static void test_bad_files(void **state)
{
    (void)state;
    const struct {
        const char *cert, *key, *ciphers;
        nv_err err;
        const char *said;
    } rows[] = {
        {"/no/such.pem", shared.pki.key_file, NULL, NV_E_NOT_FOUND, "/no/such.pem"},
        {shared.pki.cert_file, "/no/such.key", NULL, NV_E_NOT_FOUND, "/no/such.key"},
        {shared.pki.key_file, shared.pki.key_file, NULL, NV_E_INVALID, shared.pki.key_file},
        {shared.pki.cert_file, shared.device_key, NULL, NV_E_INVALID, shared.device_key},
        {shared.pki.cert_file, shared.pki.key_file, "NO-SUCH-CIPHER", NV_E_INVALID, "NO-SUCH-CIPHER"},
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
    raw r;
    raw_init(&r, t);
    assert_int_equal(SSL_connect(r.ssl), 1);
    X509 *certificate = SSL_get1_peer_certificate(r.ssl);
    long hash = (long)X509_NAME_hash_ex(X509_get_subject_name(certificate), NULL, NULL, NULL);
    const ASN1_INTEGER *serial = X509_get0_serialNumber(certificate);
    for (int i = 0; i < ASN1_STRING_length(serial); i++) {
        hash = (long)((unsigned long)hash * 31u + ASN1_STRING_get0_data(serial)[i]);
    }
    X509_free(certificate);
    raw_deinit(&r);
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
    nv_tls_client *client = client_new((nv_tls_client_config){0});
    traffic load = {.t = &t, .client = client};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, keep_connecting, &load), 0);
    probe stays;
    probe_connect(&stays, &t.h, "localhost", hub_port(&t.h), client);
    long first = served_serial(&t);
    static const char *const more[] = {"renewed.example"};
    nv_pki_config config = {.dir = shared.dir};
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
    assert_int_equal(truncate(shared.pki.cert_file, 100), 0);
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
    assert_int_equal(nv_pki_open(&(nv_pki_config){.dir = shared.dir}, &pki, why), NV_OK);
    nv_pki_deinit(&pki);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_echo),
        cmocka_unit_test(test_long_units),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_stop_reading),
        cmocka_unit_test(test_after_the_session),
        cmocka_unit_test(test_forget_session),
        cmocka_unit_test(test_goodbye),
        cmocka_unit_test(test_bytewise),
        cmocka_unit_test(test_resumption),
        cmocka_unit_test(test_resumption_by_id),
        cmocka_unit_test(test_ticket_rotation),
        cmocka_unit_test(test_session_stays_with_its_server),
        cmocka_unit_test(test_alpn),
        cmocka_unit_test(test_not_tls),
        cmocka_unit_test(test_untrusted),
        cmocka_unit_test(test_nothing_in_common),
        cmocka_unit_test(test_hang_up),
        cmocka_unit_test(test_handshake_deadline),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_reload),
    };
    return cmocka_run_group_tests(tests, make_shared, remove_shared);
}
