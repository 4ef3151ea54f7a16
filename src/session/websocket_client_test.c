/** The client's side of the change to WebSocket: what it asks, which answers it takes, and who hears of it, once. */
#include "session/websocket_client.h"

#include "base/attrs.h"
#include "codec/websocket.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* the key and answer of RFC 6455 section 1.3 */
#define KEY    "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

/* ---- the answer, read from bytes ---- */

#define UPGRADE  "Upgrade: websocket\r\n"
#define CONNECT  "Connection: Upgrade\r\n"
#define AGREES   "Sec-WebSocket-Accept: " ACCEPT "\r\n"
#define PROTOCOL "Sec-WebSocket-Protocol: AMQPWSB10\r\n"
#define OK_LINE  "HTTP/1.1 101 Switching Protocols\r\n"

static void reads_answers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        nv_err err;
        unsigned status;
        const char *why;
    } rows[] = {
        {OK_LINE UPGRADE CONNECT AGREES PROTOCOL "\r\n", NV_OK, 101, NULL},
        {"HTTP/1.1 101\r\n" UPGRADE CONNECT AGREES PROTOCOL "\r\n", NV_OK, 101, NULL},
        {OK_LINE "UPGRADE:WebSocket \r\nserver: x:y\r\nconnection: keep-alive,\tupgrade\r\n" AGREES
                 "sec-websocket-protocol: amqpwsb10\r\n\r\n",
         NV_OK, 101, NULL},
        {OK_LINE UPGRADE "Connection: keep-alive\r\nConnection: Upgrade\r\n" AGREES PROTOCOL "\r\n", NV_OK, 101, NULL},
        /* other answers */
        {"HTTP/1.1 404 Not Found\r\n", NV_E_UNSUPPORTED, 404, "does not change"},
        {"HTTP/1.1 200 OK\r\n" UPGRADE CONNECT AGREES PROTOCOL "\r\n", NV_E_UNSUPPORTED, 200, "does not change"},
        /* an answer that lacks something */
        {OK_LINE CONNECT AGREES PROTOCOL "\r\n", NV_E_SYNTAX, 101, "do not agree"},
        {OK_LINE UPGRADE AGREES PROTOCOL "\r\n", NV_E_SYNTAX, 101, "do not agree"},
        {OK_LINE UPGRADE CONNECT PROTOCOL "\r\n", NV_E_SYNTAX, 101, "do not agree"},
        {OK_LINE UPGRADE CONNECT AGREES "\r\n", NV_E_SYNTAX, 101, "do not agree"},
        {OK_LINE "Upgrade: h2c\r\n" CONNECT AGREES PROTOCOL "\r\n", NV_E_SYNTAX, 101, "do not agree"},
        {OK_LINE UPGRADE "Connection: Upgrades\r\n" AGREES PROTOCOL "\r\n", NV_E_SYNTAX, 101, "do not agree"},
        /* or says what was not asked */
        {OK_LINE "Sec-WebSocket-Accept: t3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", NV_E_SYNTAX, 101, "another key"},
        {OK_LINE "Sec-WebSocket-Accept: S3PPLMBITXAQ9KYGZZHZRBK+XOO=\r\n", NV_E_SYNTAX, 101, "another key"},
        {OK_LINE AGREES "Sec-WebSocket-Accept:\r\n", NV_E_SYNTAX, 101, "another key"},
        {OK_LINE "Sec-WebSocket-Protocol: mqtt\r\n", NV_E_SYNTAX, 101, "another protocol"},
        {OK_LINE "Sec-WebSocket-Protocol: AMQPWSB10, mqtt\r\n", NV_E_SYNTAX, 101, "another protocol"},
        {OK_LINE "Sec-WebSocket-Extensions: permessage-deflate\r\n", NV_E_SYNTAX, 101, "extension"},
        /* or is no HTTP */
        {"HTTP/1.0 101 x\r\n", NV_E_SYNTAX, 0, "not HTTP"},
        {"HTTP/1.1 1010\r\n", NV_E_SYNTAX, 0, "not HTTP"},
        {"HTTP/1.1 10\r\n", NV_E_SYNTAX, 0, "not HTTP"},
        {"HTTP/1.1 -12 x\r\n", NV_E_SYNTAX, 0, "not HTTP"},
        {"HTTP/1.1 101 x\n", NV_E_SYNTAX, 0, "not HTTP"},
        {"\r\n", NV_E_SYNTAX, 0, "not HTTP"},
        {"\n", NV_E_SYNTAX, 0, "not HTTP"},
        {OK_LINE UPGRADE "\n", NV_E_SYNTAX, 101, "without an end"},
        {OK_LINE "no header\r\n", NV_E_SYNTAX, 101, "no header"},
        {OK_LINE ": x\r\n", NV_E_SYNTAX, 101, "no header"},
    };
    nv_websocket_offer offer = {.protocol = nv_span_str("AMQPWSB10"), .key = nv_span_str(KEY)};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        size_t len = strlen(rows[i].text);
        for (size_t have = 0; have <= len; have++) {
            char *own = malloc(have + 1); /* of its own, so that a sanitizer sees reads beyond it */
            memcpy(own, rows[i].text, have);
            size_t taken = 0;
            unsigned status = 0;
            const char *why = NULL;
            nv_err err = nv_websocket_read_answer(&offer, nv_span_of(own, have), &taken, &status, &why);
            free(own);
            if (have < len && err == NV_E_MORE) {
                continue;
            }
            if (err != rows[i].err || status != rows[i].status || (rows[i].why && !strstr(why, rows[i].why)) ||
                (err == NV_OK && (have < len || taken != len))) {
                fail_msg("row %zu, %zu bytes: %d, status %u, %s", i, have, err, status, why ? why : "");
            }
        }
    }
}

/* ---- the session ---- */

typedef struct rig {
    nv_manual_clock clock;
    int64_t start_us;
    nv_carrier carrier;
    nv_buf out;
    nv_session *session;
    nv_upgrade to;
    int upgrades;
    int failed;
    char why[200];
} rig;

static void wake(nv_carrier *carrier)
{
    (void)carrier;
}

static void upgrade(nv_carrier *carrier, const nv_upgrade *to)
{
    rig *r = nv_container_of(carrier, rig, carrier);
    r->to = *to;
    r->upgrades++;
}

static nv_session *make(void *arg, nv_carrier *carrier)
{
    (void)arg;
    (void)carrier;
    return NULL;
}

static void failed(void *arg, const char *why)
{
    rig *r = arg;
    r->failed++;
    (void)snprintf(r->why, sizeof(r->why), "%s", why);
}

static void dropped(void *arg)
{
    failed(arg, "dropped");
}

static void begin(rig *r, uint16_t port)
{
    *r = (rig){.carrier = {.out = &r->out, .wake = wake, .upgrade = upgrade}};
    nv_manual_clock_init(&r->clock, 0);
    r->start_us = nv_mono_us(&r->clock.clock);
    nv_buf_init(&r->out, 1 << 16);
    r->session = nv_websocket_client_new(&r->carrier, &(nv_websocket_client_config){.host = "hub.test",
                                                                                    .port = port,
                                                                                    .path = "/$iothub/websocket",
                                                                                    .protocol = "AMQPWSB10",
                                                                                    .timeout_us = 5000,
                                                                                    .clock = &r->clock.clock,
                                                                                    .make = make,
                                                                                    .failed = failed,
                                                                                    .dropped = dropped,
                                                                                    .arg = r});
}

static void end(rig *r, const char *why)
{
    r->session->ops->lost(r->session, why, r->start_us);
    assert_true(r->session->done);
    r->session->ops->free(r->session);
    nv_buf_deinit(&r->out);
}

/* The answer to what was asked, with another session's first frame behind it. */
static size_t answer(const rig *r, char *out, size_t size)
{
    char asked[1000];
    char accept[NV_WEBSOCKET_ACCEPT_SIZE];
    nv_span text = nv_buf_span(&r->out);
    (void)snprintf(asked, sizeof(asked), "%.*s", NV_SPAN_ARG(text));
    const char *key = strstr(asked, "Sec-WebSocket-Key: ");
    assert_non_null(key);
    assert_int_equal(nv_websocket_accept(nv_span_of(key + 19, 24), accept), NV_OK);
    return (size_t)snprintf(out, size, OK_LINE UPGRADE CONNECT "Sec-WebSocket-Accept: %s\r\n" PROTOCOL "\r\n\x82",
                            accept);
}

static void asks_and_hands_over(void **state)
{
    (void)state;
    rig r;
    char text[500];
    begin(&r, 443);
    size_t len = answer(&r, text, sizeof(text));
    nv_span asked = nv_buf_span(&r.out);
    static const char head[] = "GET /$iothub/websocket HTTP/1.1\r\nHost: hub.test\r\nUpgrade: websocket\r\n"
                               "Connection: Upgrade\r\nSec-WebSocket-Key: ";
    static const char tail[] = "\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: AMQPWSB10\r\n\r\n";
    assert_int_equal(asked.len, sizeof(head) - 1 + 24 + sizeof(tail) - 1);
    assert_memory_equal(asked.ptr, head, sizeof(head) - 1);
    assert_memory_equal(asked.ptr + asked.len - (sizeof(tail) - 1), tail, sizeof(tail) - 1);
    for (size_t have = 1; have < len - 1; have++) {
        assert_int_equal(r.session->ops->input(r.session, nv_span_of(text, have), r.start_us), 0);
    }
    assert_int_equal(r.session->ops->input(r.session, nv_span_of(text, len), r.start_us), len - 1);
    assert_int_equal(r.upgrades, 1);
    assert_true(r.to.client && r.to.make == make && r.to.arg == &r && r.to.max_message_bytes > 0);
    assert_true(!r.session->reading && r.session->deadline_us == INT64_MAX);
    end(&r, "handed over");
    assert_int_equal(r.failed, 0);
    r.to.dropped(r.to.arg); /* what the carrier does when the connection ended before */
    assert_int_equal(r.failed, 1);
}

static void names_a_port_of_its_own(void **state)
{
    (void)state;
    rig r;
    char asked[1000];
    begin(&r, 8443);
    (void)snprintf(asked, sizeof(asked), "%.*s", NV_SPAN_ARG(nv_buf_span(&r.out)));
    assert_non_null(strstr(asked, "\r\nHost: hub.test:8443\r\n"));
    end(&r, "gone");
    assert_string_equal(r.why, "gone");
    assert_int_equal(r.failed, 1);
}

static void failures_are_told_once(void **state)
{
    (void)state;
    static const struct {
        const char *text; /* NULL: none comes in time */
        const char *why;
    } rows[] = {
        {"HTTP/1.1 404 Not Found\r\n", "it answers 404 to a WebSocket at /$iothub/websocket"},
        {"SSH-2.0-x\r\n", "it is not HTTP/1.1"},
        {OK_LINE AGREES, "another key"},
        {NULL, "in time"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        rig r;
        begin(&r, 443);
        assert_int_equal(r.session->deadline_us, r.start_us + 5000);
        if (rows[i].text) {
            (void)r.session->ops->input(r.session, nv_span_str(rows[i].text), r.start_us);
        } else {
            r.session->ops->tick(r.session, r.start_us + 4999);
            assert_int_equal(r.failed, 0);
            r.session->ops->tick(r.session, r.start_us + 5000);
        }
        assert_true(r.session->closing);
        assert_int_equal(r.failed, 1);
        if (!strstr(r.why, rows[i].why)) {
            fail_msg("row %zu: %s", i, r.why);
        }
        end(&r, "closed");
        assert_int_equal(r.failed, 1);
        assert_int_equal(r.upgrades, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_answers),
        cmocka_unit_test(asks_and_hands_over),
        cmocka_unit_test(names_a_port_of_its_own),
        cmocka_unit_test(failures_are_told_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
