/* TLS as a layer: bytes both ways, its end, and what is said when it does not begin. */
#include "base/metrics.h"
#include "net/client.h"
#include "net/tls_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- bytes ---- */

static void test_echo(void **state)
{
    (void)state;
    static const nv_tls_version versions[] = {NV_TLS_1_2, NV_TLS_1_3};
    for (size_t i = 0; i < NV_COUNT_OF(versions); i++) {
        tls_hub t;
        tls_hub_init(&t);
        tls_hub_start(&t, 2, NULL);
        nv_tls_client *client =
            tls_shared_client((nv_tls_client_config){.lowest = versions[i], .highest = versions[i]});
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
    nv_tls_client *client = tls_shared_client((nv_tls_client_config){0});
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
    tls_raw r;
    tls_raw_init(&r, &t);
    assert_int_equal(SSL_connect(r.ssl), 1);
    tls_raw_say(&r, "known\nstream 20000000\nlast\n");
    tls_raw_expect(&r, "known\n");
    hub_settle(&t.h); /* it has filled what it can */
    char *block = malloc(65536);
    for (size_t left = 20000000; left > 0;) {
        int n = SSL_read(r.ssl, block, left < 65536 ? (int)left : 65536);
        assert_true(n > 0);
        left -= (size_t)n;
    }
    free(block);
    assert_int_equal(atomic_load(&t.h.echo.counts.full), 0);
    tls_raw_deinit(&r);
    tls_hub_stop(&t);
}

static void test_stop_reading(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 1, NULL);
    tls_raw r;
    tls_raw_init(&r, &t);
    assert_int_equal(SSL_connect(r.ssl), 1);
    tls_raw_say(&r, "stop\nafter\nand mo");
    tls_raw_expect(&r, "stop\n");
    await_count(&t.h.echo.counts.stopped, 1);
    tls_raw_say(&r, "re\n");
    hub_release_last(&t.h);
    tls_raw_expect(&r, "after\nand more\n");
    tls_raw_deinit(&r);
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
        tls_raw r;
        tls_raw_init(&r, &t);
        assert_int_equal(SSL_set_tlsext_max_fragment_length(r.ssl, fragments[i]), 1);
        assert_int_equal(SSL_connect(r.ssl), 1);
        assert_int_equal(SSL_version(r.ssl), TLS1_3_VERSION);
        for (int k = 0; k < 3; k++) {
            tls_raw_say(&r, "before\n");
            tls_raw_expect(&r, "before\n");
            assert_int_equal(SSL_key_update(r.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
            tls_raw_say(&r, "after\n");
            tls_raw_expect(&r, "after\n");
        }
        tls_raw_say(&r, "stream 100000\n");
        char block[20000];
        int longest = 0;
        for (int left = 100000; left > 0;) {
            int n = SSL_read(r.ssl, block, left < (int)sizeof(block) ? left : (int)sizeof(block));
            assert_true(n > 0);
            longest = n > longest ? n : longest;
            left -= n;
        }
        assert_true(fragments[i] ? longest == 512 : longest > 8192); /* one read gives one record at most */
        tls_raw_deinit(&r);
    }
    tls_hub_stop(&t);
}

static void test_goodbye(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 1, NULL);
    tls_raw a;
    tls_raw b;
    tls_raw_init(&a, &t);
    tls_raw_init(&b, &t);
    assert_int_equal(SSL_connect(a.ssl), 1);
    assert_int_equal(SSL_connect(b.ssl), 1);
    tls_raw_say(&a, "close\n");
    tls_raw_expect(&a, "close\n");
    char byte;
    int rc = SSL_read(a.ssl, &byte, 1);
    assert_int_equal(SSL_get_error(a.ssl, rc), SSL_ERROR_ZERO_RETURN);
    tls_raw_say(&b, "x\n");
    tls_raw_expect(&b, "x\n");
    nv_net_stop(t.h.net, 10 * NV_US_PER_S);
    tls_raw_expect(&b, "bye\n");
    rc = SSL_read(b.ssl, &byte, 1);
    assert_int_equal(SSL_get_error(b.ssl, rc), SSL_ERROR_ZERO_RETURN);
    tls_raw_deinit(&a);
    tls_raw_deinit(&b);
    tls_hub_stop(&t);
}

/* A peer whose TLS works on memory, so that the test says when bytes go. */
static void tls_raw_init_in_memory(tls_raw *r, tls_hub *t, BIO **in, BIO **out)
{
    tls_raw_init(r, t);
    *in = BIO_new(BIO_s_mem());
    *out = BIO_new(BIO_s_mem());
    SSL_set_bio(r->ssl, *in, *out);
    SSL_set_connect_state(r->ssl);
}

static void hear_into(const tls_raw *r, BIO *in)
{
    char block[16384];
    ssize_t n = recv(r->fd, block, sizeof(block), 0);
    assert_true(n > 0);
    assert_int_equal(BIO_write(in, block, (int)n), n);
}

/* The ClientHello and all else byte by byte: every boundary inside records and messages. */
static void test_bytewise(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 1, NULL);
    tls_raw r;
    BIO *in = NULL;
    BIO *out = NULL;
    tls_raw_init_in_memory(&r, &t, &in, &out);
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
        if (rc != 1 && rc != 2) {
            hear_into(&r, in);
        }
    }
    assert_string_equal(answer, "x\n");
    tls_raw_deinit(&r);
    tls_hub_stop(&t);
}

/* A first packet that comes with the end of the handshake: the ticket does not leave before its answer. */
static void test_ticket_goes_with_the_answer(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 1, NULL);
    tls_raw r;
    BIO *in = NULL;
    BIO *out = NULL;
    tls_raw_init_in_memory(&r, &t, &in, &out);
    char block[16384];
    char text[16] = "";
    for (bool ready = false; SSL_read(r.ssl, text, sizeof(text) - 1) <= 0;) {
        if (!ready && SSL_is_init_finished(r.ssl)) {
            ready = true;
            assert_int_equal(SSL_write(r.ssl, "judge\n", 6), 6);
        }
        int n = BIO_read(out, block, sizeof(block));
        if (n > 0) {
            say_bytes(r.fd, block, (size_t)n);
        }
        hear_into(&r, in);
    }
    assert_int_equal(SSL_version(r.ssl), TLS1_3_VERSION);
    assert_string_equal(text, "judge\n");
    hub_settle(&t.h);
    assert_int_equal(atomic_load(&t.h.echo.counts.sent), 1); /* ticket and answer */
    tls_raw_deinit(&r);
    tls_hub_stop(&t);
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
        tls_raw r;
        tls_raw_init(&r, &t);
        if (rows[i].offer) {
            assert_int_equal(
                SSL_set_alpn_protos(r.ssl, (const uint8_t *)rows[i].offer, (unsigned)strlen(rows[i].offer)), 0);
        }
        assert_int_equal(SSL_connect(r.ssl), 1);
        const unsigned char *alpn = NULL;
        unsigned len = 0;
        SSL_get0_alpn_selected(r.ssl, &alpn, &len);
        assert_true(nv_span_eq_str(nv_span_of(alpn, len), rows[i].selected));
        tls_raw_expect(&r, rows[i].greeting);
        tls_raw_deinit(&r);
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
        tls_expect_logged(rows[i].said);
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
    nv_tls_client *client = tls_shared_client((nv_tls_client_config){.ca_file = tls_shared.device_pem});
    probe p;
    probe_connect(&p, &t.h, "localhost", hub_port(&t.h), client);
    assert_true(p.failed);
    assert_non_null(strstr(p.why, "is not accepted"));
    assert_non_null(strstr(p.why, tls_shared.device_pem));
    probe_deinit(&p);
    await_no_connections(t.h.net);
    tls_expect_logged("the client does not trust our certificate");
    tls_expect_logged(tls_shared.pki.ca_file);
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
        tls_raw r;
        tls_raw_init(&r, &t);
        assert_int_equal(SSL_set_cipher_list(r.ssl, rows[i].ciphers), 1);
        assert_int_equal(SSL_set_min_proto_version(r.ssl, rows[i].version), 1);
        assert_int_equal(SSL_set_max_proto_version(r.ssl, rows[i].version), 1);
        assert_int_equal(SSL_connect(r.ssl), -1);
        tls_expect_logged(rows[i].said);
        tls_raw_deinit(&r);
        tls_hub_stop(&t);
    }
}

static void test_hang_up(void **state)
{
    (void)state;
    tls_hub t;
    tls_hub_init(&t);
    tls_hub_start(&t, 1, NULL);
    tls_raw r;
    tls_raw_init(&r, &t);
    BIO *out = BIO_new(BIO_s_mem());
    SSL_set_bio(r.ssl, BIO_new(BIO_s_mem()), out);
    assert_int_equal(SSL_connect(r.ssl), -1); /* a ClientHello, and then no more */
    char hello[2048];
    int len = BIO_read(out, hello, sizeof(hello));
    say_bytes(r.fd, hello, (size_t)len);
    char byte;
    assert_int_equal(recv(r.fd, &byte, 1, 0), 1);
    tls_raw_deinit(&r);
    await_no_connections(t.h.net);
    tls_expect_logged("TLS handshake not finished");
    tls_expect_logged(tls_shared.pki.ca_file);
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
        assert_int_equal(tls_was_logged("no TLS handshake in time"), i);
        (void)close(fd);
        tls_hub_stop(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_echo),
        cmocka_unit_test(test_long_units),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_stop_reading),
        cmocka_unit_test(test_after_the_session),
        cmocka_unit_test(test_goodbye),
        cmocka_unit_test(test_bytewise),
        cmocka_unit_test(test_ticket_goes_with_the_answer),
        cmocka_unit_test(test_alpn),
        cmocka_unit_test(test_not_tls),
        cmocka_unit_test(test_untrusted),
        cmocka_unit_test(test_nothing_in_common),
        cmocka_unit_test(test_hang_up),
        cmocka_unit_test(test_handshake_deadline),
    };
    return cmocka_run_group_tests(tests, tls_make_shared, tls_remove_shared);
}
