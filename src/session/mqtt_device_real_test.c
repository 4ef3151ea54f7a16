/*
 * MQTT device sessions on the real stores and two real threads: a loop each, both fighting for one device. What a
 * sanitizer for threads should see, and what the log must hold afterwards.
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "core/c2d.h"
#include "core/devices.h"
#include "core/policies.h"
#include "core/registry.h"
#include "core/telemetry.h"
#include "session/mqtt_device.h"
#include "store/log.h"
#include "store/state.h"
#include "support/mqtt_pair.h"
#include "support/real_core.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define EVENTS  "devices/d1/messages/events/"
#define LOOPS   REAL_LOOPS
#define ROUNDS  25u
#define BURST   40u
#define REPORTS 5u /* of each connection */
#define SENDS   3u /* messages to the device, for each connection */
#define NUMBERS (LOOPS * ROUNDS + 1)

/* ---- one thread -------------------------------------------------------------------------------------------------- */

typedef struct fighter {
    real_core *r;
    size_t loop;
    mqtt_pair pair;
    uint32_t number; /* of the connection */
    unsigned round;
    bool open;
    uint16_t acknowledged[NUMBERS];
    uint64_t version; /* of the reported properties, as it was last told */
    unsigned reported;
    unsigned answers; /* of this connection */
    _Atomic unsigned *running;
} fighter;

/* What both loops have seen. */
static _Atomic unsigned versions_seen[NUMBERS * REPORTS + 2];
static _Atomic unsigned messages_started;
static _Atomic unsigned messages_done;
static _Atomic bool message_stored[NUMBERS * SENDS]; /* by the number in its body */
static _Atomic bool message_seen[NUMBERS * SENDS];

static void open_connection(fighter *f)
{
    f->number = (uint32_t)(f->loop * ROUNDS + f->round) + 1;
    mqtt_pair_open(&f->pair, &f->r->hub->loops[f->loop], f->number);
    mqtt_login login = {.device = "d1", .key = &real_device_key, .persistent = f->round % 2 == 0};
    mqtt_pair_connect(&f->pair, &login);
    f->open = true;
    f->answers = 0;
}

typedef struct sending {
    nv_c2d_send send;
    uint32_t number;
} sending;

static void on_stored(nv_c2d_send *send)
{
    sending *one = send->arg;
    message_stored[one->number] = send->error == NV_HUB_ERROR_NONE;
    messages_done++;
    free(one);
}

static void send_messages(fighter *f)
{
    for (unsigned i = 0; i < SENDS; i++) {
        sending *one = nv_calloc(1, sizeof(*one));
        one->number = messages_started++;
        one->send = (nv_c2d_send){.device_id = nv_span_str("d1"),
                                  .body = nv_span_of(&one->number, sizeof(one->number)),
                                  .done = on_stored,
                                  .arg = one};
        nv_c2d_send_do(&f->r->hub->loops[f->loop], &one->send);
    }
}

static void subscribe(fighter *f)
{
    static const nv_mqtt_filter filters[] = {{NV_SPAN_LIT("$iothub/twin/res/#"), 0},
                                             {NV_SPAN_LIT("$iothub/twin/PATCH/properties/desired/#"), 0},
                                             {NV_SPAN_LIT("devices/d1/messages/devicebound/#"), 1}};
    uint8_t packet[256];
    nv_writer w = nv_writer_of(packet, sizeof(packet));
    nv_mqtt_write_subscribe(&w, 1, filters, NV_COUNT_OF(filters));
    if (nv_buf_append(&f->pair.in, nv_writer_span(&w)) != NV_OK) {
        abort();
    }
}

static void publish_burst(fighter *f)
{
    subscribe(f);
    for (uint16_t i = 1; i <= BURST; i++) {
        uint32_t body[2] = {f->number, i};
        mqtt_put_publish(&f->pair.in, EVENTS, nv_span_of(body, sizeof(body)), 1, i);
        if (i % (BURST / REPORTS) == 0) {
            mqtt_put_publish(&f->pair.in, "$iothub/twin/PATCH/properties/reported/?$rid=1",
                             nv_span_str(i % 16 ? "{\"a\":1}" : "{\"a\":null}"), 0, 0);
        }
    }
    send_messages(f);
    mqtt_pair_service(&f->pair);
}

static void on_puback(fighter *f, uint16_t id)
{
    if (id != f->acknowledged[f->number] + 1) {
        abort(); /* a thread cannot fail a test */
    }
    f->acknowledged[f->number] = id;
}

/* Each version is told once, to one of the two, and never one that is older than the last. */
static void on_reported(fighter *f, nv_span topic)
{
    static const char before[] = "$iothub/twin/res/204/?$rid=1&$version=";
    uint64_t version = 0;
    if (!nv_span_to_u64(nv_span_skip(topic, sizeof(before) - 1), &version) || version <= f->version ||
        version >= NV_COUNT_OF(versions_seen) || atomic_fetch_add(&versions_seen[version], 1) != 0) {
        abort();
    }
    f->version = version;
    f->reported++;
    f->answers++;
}

static void on_message(mqtt_pair *pair, const nv_mqtt_publish *publish)
{
    uint8_t packet[NV_MQTT_ACK_SIZE];
    uint32_t number = UINT32_MAX;
    if (publish->payload.len == sizeof(number)) {
        memcpy(&number, publish->payload.ptr, sizeof(number));
    }
    nv_mqtt_put_puback(packet, publish->packet_id);
    if (number >= messages_started || nv_buf_append(&pair->in, nv_span_of(packet, sizeof(packet))) != NV_OK) {
        abort();
    }
    message_seen[number] = true;
}

static void on_publish(fighter *f, const nv_mqtt_publish *publish)
{
    if (nv_span_starts_with(publish->topic, nv_span_str("$iothub/twin/res/204/"))) {
        on_reported(f, publish->topic);
    } else if (publish->qos == 1) {
        on_message(&f->pair, publish);
    }
}

/* CONNACK, then PUBACKs in order; a taken-over connection may end anywhere. */
static void look(fighter *f)
{
    nv_mqtt_packet packet;
    size_t consumed = 0;
    const char *why = "";
    while (nv_mqtt_decode(nv_buf_span(&f->pair.out), 1u << 20, &packet, &consumed, &why) == NV_OK) {
        bool open = packet.type == NV_MQTT_CONNACK && packet.u.connack.code == 0;
        if (packet.type == NV_MQTT_PUBACK) {
            on_puback(f, packet.u.ack_id);
        } else if (packet.type == NV_MQTT_PUBLISH) {
            on_publish(f, &packet.u.publish);
        }
        nv_buf_consume(&f->pair.out, consumed);
        if (open) {
            publish_burst(f);
        }
    }
    mqtt_pair_service(&f->pair);
}

static void *fight(void *arg)
{
    fighter *f = arg;
    nv_exec_queue *queue = &f->r->queues[f->loop];
    nv_exec_queue_adopt(queue);
    while (f->round < ROUNDS) {
        if (!f->open) {
            open_connection(f);
        }
        mqtt_pair_service(&f->pair);
        look(f);
        if (f->acknowledged[f->number] == BURST && f->answers == REPORTS) {
            mqtt_pair_cut(&f->pair);
        }
        nv_hub_loop_turn_end(&f->r->hub->loops[f->loop]);
        if (mqtt_pair_gone(&f->pair)) {
            mqtt_pair_deinit(&f->pair);
            f->open = false;
            f->round++;
        } else {
            nv_exec_queue_run_wait(queue);
        }
    }
    /* the other loop's devices may live here: go on until it is done too */
    if (atomic_fetch_sub(f->running, 1) == 1) {
        for (size_t i = 0; i < LOOPS; i++) {
            nv_exec_queue_stop(&f->r->queues[i]);
        }
    }
    while (nv_exec_queue_run_wait(queue)) {
        nv_hub_loop_turn_end(&f->r->hub->loops[f->loop]);
    }
    return NULL;
}

/* ---- what the log holds --------------------------------------------------------------------------------------------
 */

typedef struct reading {
    bool done;
    nv_err status;
    nv_log_chunk *chunk;
} reading;

static void on_read(void *arg, nv_err status, nv_log_chunk *chunk)
{
    *(reading *)arg = (reading){true, status, chunk};
}

static void check_chunk(nv_log_chunk *chunk, uint16_t *last, uint32_t *newest, uint32_t *seen)
{
    nv_record record;
    while (nv_log_chunk_next(chunk, &record)) {
        uint32_t body[2];
        assert_int_equal(record.body.len, sizeof(body));
        memcpy(body, record.body.ptr, sizeof(body));
        assert_true(body[0] > 0 && body[0] < NUMBERS);
        assert_int_equal(body[1], last[body[0]] + 1); /* in order, without holes */
        last[body[0]] = (uint16_t)body[1];
        if (body[0] != *newest) {
            assert_false(seen[body[0]]); /* one connection's messages stand together: no old one behind a new one */
            seen[body[0]] = 1;
            *newest = body[0];
        }
    }
}

static void check_log(real_core *r, fighter *fighters)
{
    uint16_t last[NUMBERS] = {0};
    uint32_t seen[NUMBERS] = {0};
    uint32_t newest = 0;
    nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING};
    nv_log_reader *reader = NULL;
    nv_exec_queue_adopt(&r->queues[0]);
    assert_int_equal(nv_log_reader_open(&reader, r->log, &options, r->execs[0]), NV_OK);
    for (;;) {
        reading got = {0};
        nv_log_reader_next(reader, on_read, &got);
        while (!got.done) {
            (void)nv_exec_queue_run(&r->queues[0]);
        }
        if (got.status != NV_OK) {
            assert_int_equal(got.status, NV_E_EOF);
            break;
        }
        check_chunk(got.chunk, last, &newest, seen);
        nv_log_chunk_release(got.chunk);
    }
    nv_log_reader_close(reader);
    uint32_t acknowledged = 0;
    for (size_t l = 0; l < LOOPS; l++) {
        for (uint32_t n = 1; n < NUMBERS; n++) {
            assert_true(fighters[l].acknowledged[n] <= last[n]);
            acknowledged += fighters[l].acknowledged[n];
        }
    }
    assert_true(acknowledged > 0);
}

/* One turn of both loops. */
static void turn(real_core *r, mqtt_pair *pair)
{
    nv_hub_loop_turn_end(&r->hub->loops[0]);
    nv_hub_loop_turn_end(&r->hub->loops[1]);
    size_t ran = nv_exec_queue_run(&r->queues[0]) + nv_exec_queue_run(&r->queues[1]);
    mqtt_pair_service(pair);
    if (ran == 0) {
        sched_yield(); /* the stores' threads are at work */
    }
}

/* Turns, until the client has seen as much text as @p want has; then it is that text. */
static void expect_text(real_core *r, mqtt_pair *pair, const char *want)
{
    static char seen[4096];
    size_t len = 0;
    seen[0] = '\0';
    while (len < strlen(want)) {
        turn(r, pair);
        len += (size_t)snprintf(seen + len, sizeof(seen) - len, "%s", mqtt_pair_take_text(pair));
        assert_true(len < sizeof(seen));
    }
    assert_string_equal(seen, want);
}

static void leave(real_core *r, mqtt_pair *pair)
{
    mqtt_pair_cut(pair);
    while (!mqtt_pair_gone(pair)) {
        turn(r, pair);
    }
    mqtt_pair_deinit(pair);
}

/* What was stored and nobody has seen yet comes now: no message is lost. */
static void check_messages(real_core *r)
{
    mqtt_pair pair;
    mqtt_login login = {.device = "d1", .key = &real_device_key};
    mqtt_pair_open(&pair, &r->hub->loops[0], NUMBERS + 1);
    while (messages_done < messages_started) {
        turn(r, &pair);
    }
    mqtt_pair_connect(&pair, &login);
    expect_text(r, &pair, "CONNACK 0\n");
    mqtt_pair_subscribe(&pair, 1, "devices/d1/messages/devicebound/#", 1);
    for (uint32_t i = 0; i < messages_started; i++) {
        while (message_stored[i] && !message_seen[i]) {
            nv_mqtt_packet packet;
            size_t consumed = 0;
            const char *why = "";
            turn(r, &pair);
            while (nv_mqtt_decode(nv_buf_span(&pair.out), 1u << 20, &packet, &consumed, &why) == NV_OK) {
                if (packet.type == NV_MQTT_PUBLISH) {
                    on_message(&pair, &packet.u.publish);
                }
                nv_buf_consume(&pair.out, consumed);
            }
        }
    }
    leave(r, &pair);
}

/* conformance: mqtt.md 14 */
/* conformance: mqtt.md 21 */
static void two_loops(nv_durability durability)
{
    real_core *r = real_core_new(NULL, durability);
    real_core_add(r, "d1");
    for (size_t i = 0; i < NV_COUNT_OF(versions_seen); i++) {
        versions_seen[i] = 0;
    }
    messages_started = messages_done = 0;
    for (size_t i = 0; i < NV_COUNT_OF(message_seen); i++) {
        message_seen[i] = message_stored[i] = false;
    }
    _Atomic unsigned running = LOOPS;
    fighter *fighters = calloc(LOOPS, sizeof(*fighters));
    assert_non_null(fighters);
    pthread_t threads[LOOPS];
    for (size_t i = 0; i < LOOPS; i++) {
        fighters[i] = (fighter){.r = r, .loop = i, .running = &running};
    }
    for (size_t i = 0; i < LOOPS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, fight, &fighters[i]), 0);
    }
    for (size_t i = 0; i < LOOPS; i++) {
        pthread_join(threads[i], NULL);
    }
    for (size_t i = 0; i < LOOPS; i++) { /* the reading below needs the queues again */
        r->queues[i].stopping = false;
    }
    assert_int_equal(nv_devices_connected(r->hub), 0);
    check_log(r, fighters);
    assert_true(fighters[0].reported + fighters[1].reported > 0);
    check_messages(r);
    free(fighters);
    real_core_free(r);
}

static void test_two_loops_commit(void **state)
{
    (void)state;
    two_loops(NV_DURABILITY_COMMIT);
}

static void test_two_loops_os(void **state)
{
    (void)state;
    two_loops(NV_DURABILITY_OS);
}

/* ---- a restart ------------------------------------------------------------------------------------------------------
 */

static void come_back(real_core *r, mqtt_pair *pair, const mqtt_login *login)
{
    leave(r, pair);
    real_core_restart(r, NV_DURABILITY_COMMIT);
    mqtt_pair_open(pair, &r->hub->loops[0], 2);
    mqtt_pair_connect(pair, login);
}

/* conformance: mqtt.md 12 */
/* conformance: mqtt.md 31 */
/* conformance: mqtt.md 32 */
static void test_session_and_twin_survive_a_restart(void **state)
{
    (void)state;
    real_core *r = real_core_new(NULL, NV_DURABILITY_COMMIT);
    real_core_add(r, "d1");
    mqtt_login login = {.device = "d1", .key = &real_device_key, .persistent = true};
    mqtt_pair pair;
    mqtt_pair_open(&pair, &r->hub->loops[0], 1);
    mqtt_pair_connect(&pair, &login);
    expect_text(r, &pair, "CONNACK 0\n");
    mqtt_pair_subscribe(&pair, 1, "$iothub/twin/res/#", 0);
    expect_text(r, &pair, "SUBACK 1 0\n");
    mqtt_put_publish(&pair.in, "$iothub/twin/PATCH/properties/reported/?$rid=1", nv_span_str("{\"a\":1.0,\"b\":[1]}"),
                     0, 0);
    mqtt_pair_publish(&pair, "$iothub/twin/PATCH/properties/reported/?$rid=2", "{\"b\":null,\"c\":{\"d\":2}}", 0, 0);
    expect_text(r, &pair,
                "PUBLISH q0 $iothub/twin/res/204/?$rid=1&$version=2 | \n"
                "PUBLISH q0 $iothub/twin/res/204/?$rid=2&$version=3 | \n");
    static const char twin[] = "{\"desired\":{\"$version\":1},\"reported\":{\"a\":1.0,\"c\":{\"d\":2},\"$version\":3}}";
    char want[256];
    (void)snprintf(want, sizeof(want), "PUBLISH q0 $iothub/twin/res/200/?$rid=3 | %s\n", twin);
    mqtt_pair_publish(&pair, "$iothub/twin/GET/?$rid=3", " ", 0, 0);
    expect_text(r, &pair, want);
    come_back(r, &pair, &login);
    expect_text(r, &pair, "CONNACK 0 session\n");
    mqtt_pair_publish(&pair, "$iothub/twin/GET/?$rid=3", "", 0, 0);
    expect_text(r, &pair, want); /* answered without a SUBSCRIBE */
    leave(r, &pair);
    real_core_free(r);
}

static void on_sent(nv_c2d_send *sent)
{
    assert_int_equal(sent->error, NV_HUB_ERROR_NONE);
    *(bool *)sent->arg = true;
}

static void send_message(real_core *r, mqtt_pair *pair, const char *body)
{
    bool sent = false;
    nv_c2d_send send = {.device_id = nv_span_str("d1"), .body = nv_span_str(body), .done = on_sent, .arg = &sent};
    nv_c2d_send_do(&r->hub->loops[1], &send);
    while (!sent) {
        turn(r, pair);
    }
}

#define TO "devices/d1/messages/devicebound/%24.to=%2Fdevices%2Fd1%2Fmessages%2FdeviceBound | "

/* conformance: mqtt.md 29 */
/* conformance: mqtt.md 30 */
static void test_messages_survive_a_restart(void **state)
{
    (void)state;
    real_core *r = real_core_new(NULL, NV_DURABILITY_COMMIT);
    real_core_add(r, "d1");
    mqtt_login login = {.device = "d1", .key = &real_device_key, .persistent = true};
    mqtt_pair pair;
    mqtt_pair_open(&pair, &r->hub->loops[0], 1);
    mqtt_pair_connect(&pair, &login);
    expect_text(r, &pair, "CONNACK 0\n");
    mqtt_pair_subscribe(&pair, 1, "devices/d1/messages/devicebound/#", 1);
    expect_text(r, &pair, "SUBACK 1 1\n");
    send_message(r, &pair, "completed");
    expect_text(r, &pair, "PUBLISH q1 id=1 " TO "completed\n");
    mqtt_pair_send_hex(&pair, "40020001");
    send_message(r, &pair, "sent");
    expect_text(r, &pair, "PUBLISH q1 id=2 " TO "sent\n");
    leave(r, &pair);
    mqtt_pair_open(&pair, &r->hub->loops[0], 2);
    send_message(r, &pair, "offline");
    come_back(r, &pair, &login);
    expect_text(r, &pair, "CONNACK 0 session\nPUBLISH q1 id=2 dup " TO "sent\nPUBLISH q1 id=3 " TO "offline\n");
    mqtt_pair_send_hex(&pair, "4002000240020003");
    come_back(r, &pair, &login);
    expect_text(r, &pair, "CONNACK 0 session\n");
    send_message(r, &pair, "next");
    expect_text(r, &pair, "PUBLISH q1 id=4 " TO "next\n"); /* nothing else */
    leave(r, &pair);
    real_core_free(r);
}

int main(void)
{
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_loops_commit),
        cmocka_unit_test(test_two_loops_os),
        cmocka_unit_test(test_session_and_twin_survive_a_restart),
        cmocka_unit_test(test_messages_survive_a_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
