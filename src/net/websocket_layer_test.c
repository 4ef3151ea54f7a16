/** WebSocket on real sockets: an echo session hands its connection over to another one behind frames. */
#include "base/bytes.h"
#include "net/net_test_util.h"
#include "net/pki.h"
#include "net/websocket.h"
#include "support/temp_dir.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const uint8_t mask[4] = {'a', 'b', 'c', 'd'};

/** A frame of a client in @p out. @return its length */
static size_t make_frame(uint8_t first, const void *payload, size_t len, uint8_t *out)
{
    nv_writer w = nv_writer_of(out, NV_WS_HEAD_MAX);
    nv_ws_write_head(&w, NV_WS_BINARY, len);
    out[0] = first;
    out[1] |= 0x80;
    size_t head = nv_writer_len(&w);
    memcpy(out + head, mask, sizeof(mask));
    for (size_t i = 0; i < len; i++) {
        out[head + 4 + i] = ((const uint8_t *)payload)[i] ^ mask[i % 4];
    }
    return head + 4 + len;
}

static void say_frame(int fd, uint8_t first, const void *payload, size_t len)
{
    uint8_t *frame = malloc(len + 16);
    say_bytes(fd, frame, make_frame(first, payload, len, frame));
    free(frame);
}

static void say_text(int fd, const char *text)
{
    say_frame(fd, 0x82, text, strlen(text));
}

static void expect_frame(int fd, uint8_t first, const void *payload, size_t len)
{
    uint8_t head[NV_WS_HEAD_MAX];
    nv_writer w = nv_writer_of(head, sizeof(head));
    nv_ws_write_head(&w, NV_WS_BINARY, len);
    head[0] = first;
    expect_bytes(fd, head, nv_writer_len(&w));
    expect_bytes(fd, payload, len);
}

static void expect_text(int fd, const char *text)
{
    expect_frame(fd, 0x82, text, strlen(text));
}

/** A close frame with @p code and any reason, then the end. */
static void expect_goodbye(int fd, unsigned code)
{
    uint8_t head[2];
    uint8_t text[NV_WS_CONTROL_MAX];
    assert_int_equal(recv(fd, head, sizeof(head), MSG_WAITALL), sizeof(head));
    assert_int_equal(head[0], 0x88);
    assert_true(head[1] <= NV_WS_CONTROL_MAX && head[1] >= 2);
    assert_int_equal(recv(fd, text, head[1], MSG_WAITALL), head[1]);
    assert_int_equal(nv_load_u16_be(text), code);
    expect_end(fd);
}

static int dial(hub *h)
{
    int fd = dial_tcp("127.0.0.1", hub_port(h));
    say(fd, "upgrade\n");
    expect(fd, "upgrade\n");
    return fd;
}

static void finish(hub *h, int fd)
{
    (void)close(fd);
    await_no_connections(h->net);
    hub_stop(h);
}

static void start(hub *h)
{
    hub_init(h);
    hub_start(h, 1, NULL, NULL);
}

static void test_carries(void **state)
{
    (void)state;
    hub h;
    start(&h);
    int fd = dial(&h);
    say_text(fd, "hello\n");
    expect_text(fd, "hello\n");
    /* a line over three frames, with a ping between; then two lines in one frame */
    say_frame(fd, 0x02, "one", 3);
    say_frame(fd, 0x89, "are you there", 13);
    expect_frame(fd, 0x8a, "are you there", 13);
    say_frame(fd, 0x80, "-", 1);
    say_frame(fd, 0x82, "two\n", 4);
    expect_text(fd, "one-two\n");
    say_text(fd, "x\ny\n");
    expect_text(fd, "x\ny\n");
    say_frame(fd, 0x8a, "", 0); /* a pong that nobody asked for */
    say_text(fd, "z\n");
    expect_text(fd, "z\n");
    assert_int_equal(atomic_load(&h.echo.counts.made), 2);
    assert_int_equal(atomic_load(&h.echo.counts.lost), 1); /* the one that handed over */
    assert_int_equal(atomic_load(&h.echo.counts.freed), 1);
    finish(&h, fd);
}

/** What arrives in one segment with the request for the upgrade is not lost, wherever it is cut. */
static void test_bytes_behind(void **state)
{
    (void)state;
    hub h;
    start(&h);
    uint8_t bytes[64] = "before\nupgrade\n";
    size_t len = strlen((char *)bytes);
    len += make_frame(0x82, "behind\n", 7, bytes + len);
    for (size_t cut = 0; cut < len; cut++) {
        int fd = dial_tcp("127.0.0.1", hub_port(&h));
        say_bytes(fd, bytes, cut);
        hub_settle(&h);
        say_bytes(fd, bytes + cut, len - cut);
        expect(fd, "before\nupgrade\n");
        expect_text(fd, "behind\n");
        (void)close(fd);
    }
    await_no_connections(h.net);
    hub_stop(&h);
}

static void test_every_cut(void **state)
{
    (void)state;
    hub h;
    start(&h);
    int fd = dial(&h);
    uint8_t bytes[256];
    size_t len = make_frame(0x02, "ab", 2, bytes);
    len += make_frame(0x89, "?", 1, bytes + len);
    len += make_frame(0x80, "c\n", 2, bytes + len);
    for (size_t cut = 1; cut < len; cut++) {
        say_bytes(fd, bytes, cut);
        hub_settle(&h);
        say_bytes(fd, bytes + cut, len - cut);
        expect_frame(fd, 0x8a, "?", 1);
        expect_text(fd, "abc\n");
    }
    finish(&h, fd);
}

static void test_goodbyes(void **state)
{
    (void)state;
    hub h;
    start(&h);
    int fd = dial(&h);
    say_frame(fd, 0x88, "\x0b\xb9why", 5); /* 3001 */
    expect_goodbye(fd, 3001);
    (void)close(fd);
    fd = dial(&h);
    say_frame(fd, 0x88, "", 0); /* without a code: answered so */
    expect_bytes(fd, "\x88\x00", 2);
    expect_end(fd);
    (void)close(fd);
    fd = dial(&h);
    say_text(fd, "last\nclose\n");
    expect_text(fd, "last\nclose\n");
    expect_goodbye(fd, NV_WS_NORMAL);
    (void)close(fd);
    fd = dial(&h);
    close_with_reset(fd);
    await_no_connections(h.net);
    hub_stop(&h);
}

static void test_rules(void **state)
{
    (void)state;
    static const struct {
        uint8_t first;
        uint16_t code;
    } rows[] = {
        {0x81, NV_WS_UNSUPPORTED},    {0x80, NV_WS_PROTOCOL_ERROR}, {0x83, NV_WS_PROTOCOL_ERROR},
        {0xc2, NV_WS_PROTOCOL_ERROR}, {0x09, NV_WS_PROTOCOL_ERROR}, {0x8b, NV_WS_PROTOCOL_ERROR},
    };
    hub h;
    start(&h);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        int fd = dial(&h);
        say_text(fd, "good\n");
        expect_text(fd, "good\n");
        say_frame(fd, rows[i].first, "x\n", 2);
        expect_goodbye(fd, rows[i].code);
        (void)close(fd);
    }
    int fd = dial(&h);
    say_bytes(fd, "\x82\x02x\n", 4); /* no mask */
    expect_goodbye(fd, NV_WS_PROTOCOL_ERROR);
    finish(&h, fd);
}

/** What the session could not look at yet is not lost to the goodbye behind it. */
static void test_goodbye_waits_for_the_session(void **state)
{
    (void)state;
    hub h;
    start(&h);
    int fd = dial(&h);
    uint8_t bytes[128];
    size_t len = make_frame(0x82, "stop\nlate\n", 10, bytes);
    len += make_frame(0x82, "later\n", 6, bytes + len);
    len += make_frame(0x88, "\x03\xe8", 2, bytes + len);
    say_bytes(fd, bytes, len);
    expect_text(fd, "stop\n");
    expect_silence(fd);
    hub_release_last(&h);
    expect_text(fd, "late\nlater\n");
    expect_goodbye(fd, NV_WS_NORMAL);
    finish(&h, fd);
}

static void test_the_hub_stops(void **state)
{
    (void)state;
    hub h;
    start(&h);
    int fd = dial(&h);
    say_text(fd, "x\n");
    expect_text(fd, "x\n");
    nv_net_stop(h.net, 10 * NV_US_PER_S);
    expect_text(fd, "bye\n");
    expect_goodbye(fd, NV_WS_GOING_AWAY);
    (void)close(fd);
    hub_stop(&h);
}

/* ---- bounds ---- */

static void test_long_messages(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    h.echo.bulk = false;
    h.echo.max_message = 1000;
    h.echo.max_pending = 5000;
    hub_start(&h, 1, NULL, NULL);
    static char line[1001];
    memset(line, 'x', sizeof(line));
    line[999] = '\n';
    int fd = dial(&h);
    say_frame(fd, 0x82, line, 1000);
    expect_frame(fd, 0x82, line, 1000);
    say_bytes(fd, "\x82\xfe\x03\xe9", 4); /* 1,001 are announced: nobody waits for them */
    expect_goodbye(fd, NV_WS_TOO_BIG);
    (void)close(fd);
    /* a message that never ends, a byte at a time */
    fd = dial(&h);
    say_frame(fd, 0x02, "", 0);
    for (int i = 0; i < 1001; i++) {
        say_frame(fd, 0x00, i % 100 == 99 ? "\n" : "x", 1);
    }
    uint8_t got[4096];
    size_t len = 0;
    for (ssize_t n = 0; (n = recv(fd, got + len, sizeof(got) - len, 0)) > 0; len += (size_t)n) {
    }
    assert_true(len > 1000);
    const uint8_t *close_frame = memmem(got, len, "\x88", 1);
    assert_non_null(close_frame);
    assert_int_equal(nv_load_u16_be(close_frame + 2), NV_WS_TOO_BIG);
    (void)close(fd);
    /* one line in many messages is bounded by the session, as without frames */
    fd = dial(&h);
    for (int i = 0; i < 6; i++) {
        say_frame(fd, 0x82, line, 999);
    }
    expect_goodbye(fd, NV_WS_NORMAL);
    finish(&h, fd);
}

/** A peer that does not read: what is queued for it stays bounded, and nothing is lost once it reads. */
static void test_slow_reader(void **state)
{
    (void)state;
    hub h;
    start(&h);
    int fd = dial(&h);
    say_text(fd, "stream 5000000\n");
    size_t payload = 0;
    while (payload < 5000000) {
        uint8_t head[2];
        assert_int_equal(recv(fd, head, 2, MSG_WAITALL), 2);
        assert_int_equal(head[0], 0x82);
        size_t len = head[1];
        uint8_t more[8] = {0};
        size_t extra = len == 126 ? 2 : len == 127 ? 8 : 0;
        assert_int_equal(extra ? recv(fd, more, extra, MSG_WAITALL) : 0, extra);
        if (extra) {
            len = extra == 2 ? nv_load_u16_be(more) : nv_load_u64_be(more);
        }
        assert_int_equal(skip_bytes(fd, len), len);
        payload += len;
    }
    assert_int_equal(payload, 5000000);
    finish(&h, fd);
}

/** Pings without end from a peer that does not read its pongs: it is no longer read from. */
static void test_ping_flood(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    h.limits.pause_output_bytes = 16384;
    hub_start(&h, 1, NULL, NULL);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    int size = 4096;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    say(fd, "upgrade\n");
    expect(fd, "upgrade\n");
    static uint8_t pings[65536];
    uint8_t one[256];
    char text[NV_WS_CONTROL_MAX];
    memset(text, 'p', sizeof(text));
    size_t len = make_frame(0x89, text, sizeof(text), one);
    size_t whole = sizeof(pings) / len * len;
    for (size_t at = 0; at < whole; at += len) {
        memcpy(pings + at, one, len);
    }
    struct timeval patience = {.tv_usec = 200000};
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    size_t sent = 0;
    for (ssize_t n = 1; n > 0 && sent<(size_t)256 << 20; sent += n> 0 ? (size_t)n : 0) {
        n = send(fd, pings + sent % whole, whole - sent % whole, MSG_NOSIGNAL);
    }
    assert_true(sent < (size_t)64 << 20); /* what the kernel's buffers hold, and not more */
    finish(&h, fd);
}

/* ---- over TLS ---- */

static void test_over_tls(void **state)
{
    (void)state;
    char root[64];
    char dir[80];
    char why[NV_NET_WHY_SIZE] = "";
    nv_pki pki;
    nv_tls_server *server = NULL;
    nv_tls_client *client = NULL;
    temp_dir_make(root, sizeof(root), NULL);
    (void)snprintf(dir, sizeof(dir), "%s/tls", root);
    assert_int_equal(nv_pki_open(&(nv_pki_config){.dir = dir}, &pki, why), NV_OK);
    nv_tls_server_config server_config = {.cert_file = pki.cert_file, .key_file = pki.key_file};
    assert_int_equal(nv_tls_server_new(&server_config, &server, why), NV_OK);
    assert_int_equal(nv_tls_client_new(&(nv_tls_client_config){.insecure = true}, &client, why), NV_OK);
    hub h;
    hub_init(&h);
    hub_start(&h, 1, NULL, server);
    probe p;
    probe_connect(&p, &h, "127.0.0.1", hub_port(&h), client);
    uint8_t bytes[128] = "upgrade\n";
    size_t len = strlen((char *)bytes);
    len += make_frame(0x82, "hello\n", 6, bytes + len);
    bytes[len] = '\0';
    assert_int_equal(strlen((char *)bytes), len); /* the mask leaves no NUL */
    probe_say(&p, (char *)bytes);
    probe_expect(&p, "upgrade\n\x82\x06hello\n");
    len = make_frame(0x82, "close\n", 6, bytes);
    bytes[len] = '\0';
    probe_say(&p, (char *)bytes);
    probe_expect(&p, "\x82\x06"
                     "close\n\x88\x02\x03\xe8");
    probe_await_end(&p);
    probe_deinit(&p);
    await_no_connections(h.net);
    hub_stop(&h);
    nv_tls_client_free(client);
    nv_tls_server_free(server);
    nv_pki_deinit(&pki);
    temp_dir_remove(root);
}

/* ---- at the moment of the change ---- */

static void test_gone_while_changing(void **state)
{
    (void)state;
    hub h;
    start(&h);
    for (int i = 0; i < 50; i++) {
        int fd = dial_tcp("127.0.0.1", hub_port(&h));
        say(fd, "upgrade\n");
        if (i % 2) {
            close_with_reset(fd);
        } else {
            (void)close(fd);
        }
    }
    await_no_connections(h.net);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    say(fd, "upgrade\n");
    nv_net_stop(h.net, 10 * NV_US_PER_S); /* before, at or after the change, or even before it was accepted */
    char bytes[64];
    while (recv(fd, bytes, sizeof(bytes), 0) > 0) {
    }
    (void)close(fd);
    hub_stop(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_carries),       cmocka_unit_test(test_bytes_behind),
        cmocka_unit_test(test_every_cut),     cmocka_unit_test(test_goodbyes),
        cmocka_unit_test(test_rules),         cmocka_unit_test(test_goodbye_waits_for_the_session),
        cmocka_unit_test(test_the_hub_stops), cmocka_unit_test(test_long_messages),
        cmocka_unit_test(test_slow_reader),   cmocka_unit_test(test_ping_flood),
        cmocka_unit_test(test_over_tls),      cmocka_unit_test(test_gone_while_changing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
