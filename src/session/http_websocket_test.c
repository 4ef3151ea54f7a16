/** The handshake of WebSocket: who is let through, with what answer, and what is left for whoever comes next. */
#include "session/http_rig_ask.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#define KEY "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#define UP  "Host: hub.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
#define V13 "Sec-WebSocket-Version: 13\r\n"

static nv_answer answer;

/** One request on a fresh connection. @return what it was handed over to */
static nv_upgrade ask(const char *target, const char *headers, size_t step)
{
    char text[2048];
    nv_rig rig;
    (void)snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\n%s\r\n", target, headers);
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    rig.step = step;
    nv_rig_send(&rig, nv_span_str(text));
    nv_rig_wait_answer(&rig, false, &answer);
    nv_upgrade upgrade = rig.upgrade;
    assert_int_equal(nv_buf_len(&rig.in), 0);
    nv_rig_deinit(&rig);
    return upgrade;
}

/* conformance: mqtt.md 10, amqp.md 1, amqp.md 2 */
static void upgrades(void **state)
{
    (void)state;
    static const struct {
        const char *target;
        const char *headers;
        const char *echoed;
    } rows[] = {
        {"/$iothub/websocket", UP V13 KEY "Sec-WebSocket-Protocol: mqtt\r\n", "mqtt"},
        {"/$iothub/websocket", UP V13 KEY "Sec-WebSocket-Protocol: MQTT\r\n", "MQTT"},
        {"/$iothub/websocket?iothub-no-client-cert=true", UP V13 KEY "Sec-WebSocket-Protocol: mqtt\r\n", "mqtt"},
        {"/$iothub/websocket/?x=1", UP V13 KEY "Sec-WebSocket-Protocol: MqTt\r\n", "MqTt"},
        {"/%24iothub/websocket", UP V13 KEY "Sec-WebSocket-Protocol: mqtt\r\n", "mqtt"},
        {"https://hub.test/$iothub/websocket", UP V13 KEY "Sec-WebSocket-Protocol: mqtt\r\n", "mqtt"},
        /* several offered, in one header and in two */
        {"/$iothub/websocket", UP V13 KEY "Sec-WebSocket-Protocol: soap, , MQTT ,mqtt\r\n", "MQTT"},
        {"/$iothub/websocket", UP V13 KEY "Sec-WebSocket-Protocol: soap\r\nSec-WebSocket-Protocol: mqtt\r\n", "mqtt"},
        /* headers as proxies and odd clients write them */
        {"/$iothub/websocket",
         "upgrade: WebSocket\r\nconnection: keep-alive, Upgrade\r\nsec-websocket-version:13 \r\n" KEY
         "sec-websocket-protocol: mqtt\r\nOrigin: null\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
         "mqtt"},
        {"/$iothub/websocket",
         "Upgrade: h2c, websocket\r\nConnection: upgrade\r\n" V13 KEY "Sec-WebSocket-Protocol: mqtt\r\n", "mqtt"},
        /* AMQP, as the clients of devices and of Event Hubs write it */
        {"/$iothub/websocket", UP V13 KEY "Sec-WebSocket-Protocol: AMQPWSB10\r\n", "AMQPWSB10"},
        {"/$iothub/websocket?iothub-no-client-cert=true", UP V13 KEY "Sec-WebSocket-Protocol: AMQPWSB10\r\n",
         "AMQPWSB10"},
        {"/$iothub/websocket/", UP V13 KEY "Sec-WebSocket-Protocol: amqpwsb10\r\n", "amqpwsb10"},
        {"/$servicebus/websocket", UP V13 KEY "Sec-WebSocket-Protocol: AMQPWSB10\r\n", "AMQPWSB10"},
        {"/$servicebus/websocket/", UP V13 KEY "Sec-WebSocket-Protocol: AMQPWSB10\r\n", "AMQPWSB10"},
        {"/$servicebus/websocket/?x=1", UP V13 KEY "Sec-WebSocket-Protocol: AmqpWsb10\r\n", "AmqpWsb10"},
        {"/%24servicebus/websocket", UP V13 KEY "Sec-WebSocket-Protocol: AMQPWSB10\r\n", "AMQPWSB10"},
        {"/$iothub/websocket", UP V13 KEY "Sec-WebSocket-Protocol: AMQPWSB10, mqtt\r\n", "AMQPWSB10"},
        {"/$servicebus/websocket", UP V13 KEY "Sec-WebSocket-Protocol: mqtt, AMQPWSB10\r\n", "AMQPWSB10"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        for (size_t step = 0; step < 5; step++) {
            nv_upgrade to = ask(rows[i].target, rows[i].headers, step);
            if (answer.status != 101) {
                fail_msg("row %zu: %u %s", i, answer.status, answer.body);
            }
            assert_non_null(to.make);
            assert_int_equal(to.max_message_bytes, nv_rig_on.hub->limits.websocket_frame_bytes);
            assert_string_equal(nv_answer_header(&answer, "Sec-WebSocket-Protocol"), rows[i].echoed);
            /* the example of RFC 6455 section 1.3 */
            assert_string_equal(nv_answer_header(&answer, "Sec-WebSocket-Accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            assert_string_equal(nv_answer_header(&answer, "Upgrade"), "websocket");
            assert_string_equal(nv_answer_header(&answer, "Connection"), "Upgrade");
            assert_null(nv_answer_header(&answer, "Sec-WebSocket-Extensions"));
            assert_null(nv_answer_header(&answer, "Content-Length"));
        }
    }
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *target;
        const char *headers;
        unsigned status;
        const char *says; /* in the body */
    } rows[] = {
        {"/$iothub/websocket", "", 426, "Upgrade: websocket"},
        {"/$iothub/websocket", "Connection: Upgrade\r\nUpgrade: h2c\r\n", 426, "Upgrade: websocket"},
        {"/$iothub/websocket", "Upgrade: websocket\r\n" V13 KEY "Sec-WebSocket-Protocol: mqtt\r\n", 426, "Upgrade"},
        {"/$iothub/websocket", UP KEY "Sec-WebSocket-Protocol: mqtt\r\n", 426, "Sec-WebSocket-Version: 13"},
        {"/$iothub/websocket", UP KEY "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Protocol: mqtt\r\n", 426,
         "Sec-WebSocket-Version: 13"},
        {"/$iothub/websocket", UP V13 "Sec-WebSocket-Protocol: mqtt\r\n", 400, "Sec-WebSocket-Key"},
        {"/$iothub/websocket", UP V13 "Sec-WebSocket-Key: AAAA\r\nSec-WebSocket-Protocol: mqtt\r\n", 400,
         "Sec-WebSocket-Key"},
        {"/$iothub/websocket", UP V13 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZSE=\r\nSec-WebSocket-Protocol: mqtt\r\n",
         400, "Sec-WebSocket-Key"},
        {"/$iothub/websocket", UP V13 KEY, 400, "Sec-WebSocket-Protocol: mqtt"},
        {"/$iothub/websocket", UP V13 KEY "Sec-WebSocket-Protocol: amqp, mqttv3.1\r\n", 400,
         "Sec-WebSocket-Protocol: mqtt"},
        {"/$servicebus/websocket", UP V13 KEY "Sec-WebSocket-Protocol: mqtt\r\n", 400,
         "Sec-WebSocket-Protocol: AMQPWSB10"},
        {"/$servicebus/websocket", "", 426, "Upgrade: websocket"},
        {"/$iothub/websocket", UP V13 KEY "Sec-WebSocket-Protocol: , ,\r\n", 400, "Sec-WebSocket-Protocol: mqtt"},
        {"/websocket", UP V13 KEY "Sec-WebSocket-Protocol: mqtt\r\n", 404, "nothing at this path"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        for (size_t step = 0; step < 5; step++) {
            nv_upgrade to = ask(rows[i].target, rows[i].headers, step);
            if (answer.status != rows[i].status || !strstr(answer.body, rows[i].says)) {
                fail_msg("row %zu: %u %s", i, answer.status, answer.body);
            }
            assert_null(to.make);
            assert_null(nv_answer_header(&answer, "Sec-WebSocket-Accept"));
        }
    }
    (void)ask("/$iothub/websocket", UP KEY, 0);
    assert_string_equal(nv_answer_header(&answer, "Sec-WebSocket-Version"), "13");
}

/** Bytes that come with the head are not the HTTP session's; requests before it are. */
static void what_is_behind_waits(void **state)
{
    (void)state;
    static const char text[] = "GET /none HTTP/1.1\r\n\r\n"
                               "GET /$iothub/websocket HTTP/1.1\r\n" UP V13 KEY "Sec-WebSocket-Protocol: mqtt\r\n\r\n"
                               "\x82\x80\x01\x02\x03\x04GET /none HTTP/1.1\r\n\r\n";
    for (size_t step = 0; step < 40; step++) {
        nv_rig rig;
        nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
        rig.step = step;
        nv_rig_send(&rig, nv_span_str(text));
        nv_rig_wait_answer(&rig, false, &answer);
        assert_int_equal(answer.status, 404);
        nv_rig_wait_answer(&rig, false, &answer);
        assert_int_equal(answer.status, 101);
        nv_rig_pump(&rig);
        assert_non_null(rig.upgrade.make);
        assert_int_equal(nv_buf_len(&rig.in), 6 + strlen("GET /none HTTP/1.1\r\n\r\n"));
        assert_int_equal(nv_buf_len(&rig.received), 0);
        assert_false(rig.session->reading);
        assert_false(rig.session->closing);
        assert_int_equal(rig.session->deadline_us, INT64_MAX);
        assert_false(rig.session->authenticated); /* a handshake proves nothing about who asks */
        nv_rig_lose(&rig);
        assert_true(rig.session->done);
        nv_rig_deinit(&rig);
    }
}

/** The successor stands on the same connection: it has the peer, and a deadline of its own. */
static void the_successor_has_its_own_deadline(void **state)
{
    (void)state;
    nv_rig rig;
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    nv_rig_advance(&rig, 10 * NV_US_PER_S);
    nv_rig_send(&rig,
                nv_span_str("GET /$iothub/websocket HTTP/1.1\r\n" UP V13 KEY "Sec-WebSocket-Protocol: mqtt\r\n\r\n"));
    nv_rig_wait_answer(&rig, false, &answer);
    nv_session *next = rig.upgrade.make(rig.upgrade.arg, &rig.carrier);
    int64_t now_us = nv_mono_us(&nv_rig_on.clock.clock);
    assert_int_equal(next->deadline_us, now_us + nv_rig_on.hub->limits.connect_deadline_s * NV_US_PER_S);
    assert_false(next->authenticated);
    next->ops->lost(next, "closed by the test", now_us);
    assert_true(next->done);
    next->ops->free(next);
    nv_rig_deinit(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(upgrades),
        cmocka_unit_test(refusals),
        cmocka_unit_test(what_is_behind_waits),
        cmocka_unit_test(the_successor_has_its_own_deadline),
    };
    return cmocka_run_group_tests(tests, nv_rig_setup_hub, nv_rig_teardown_hub);
}
