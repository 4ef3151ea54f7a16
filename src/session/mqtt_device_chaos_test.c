/*
 * Sessions of few devices on two loops, driven by chance one task at a time: connecting, publishing, subscribing, cut,
 * evicted, with appends that are confirmed late, fail, or find no room; while services change twins, call methods and
 * send messages. What must hold in every order of events:
 *   - a device's messages land in the order of its accepted connections, never an old one behind a new one;
 *   - what was acknowledged is in the log; messages of one connection land in the order sent;
 *   - a twin request is answered at most once, and once if the connection lives; none is in flight behind it;
 *   - a message of the queue is completed only when a device acknowledged it, and is never lost; DUP is no lie;
 *   - every call of a method ends exactly once;
 *   - when all is over, every session is freed and nobody is counted as connected.
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "core/devices.h"
#include "core/method.h"
#include "session/mqtt_device.h"
#include "support/fake_cloud.h"
#include "support/fake_core.h"
#include "support/mqtt_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define DEVICES 3u
#define SLOTS   8u
#define STEPS   4000u
#define SEEDS   100u
#define CALLS   64u
#define SENDS   4096u

/* Packet ids of requests: they are acknowledged, too, and are not in the log. */
#define REQUEST_ID 0x8000u

static const char *const ids[DEVICES] = {"alpha", "beta", "gamma"};

typedef struct client {
    mqtt_pair pair;
    bool used;
    unsigned device;
    unsigned epoch; /* of its CONNACK; 0: none yet */
    uint16_t sent;
    uint16_t acknowledged;
    uint16_t requests;
    uint16_t request_acks;
    uint16_t twins;      /* asked */
    uint16_t answered;   /* of these */
    bool got[STEPS + 1]; /* by $rid */
    bool reads_twins;    /* it subscribed to the answers before it asked */
    bool lazy;           /* acknowledges no messages */
    uint32_t number;     /* of the connection */
} client;

typedef struct caller {
    nv_method_call call;
    struct chaos *chaos;
    bool busy;
} caller;

typedef struct chaos {
    fake_core core;
    nv_seeded_rng rng;
    client clients[SLOTS];
    unsigned epochs[DEVICES];
    uint32_t connections;
    uint32_t epoch_of[8192]; /* by number of the connection */
    uint16_t last_acked[8192];
    caller callers[CALLS];
    unsigned called;
    unsigned returned;
    unsigned sends;
    bool seen[SENDS];  /* by a device, by sequence */
    bool acked[SENDS]; /* by a device */
    bool failing;
} chaos;

static unsigned pick(chaos *c, unsigned n)
{
    return (unsigned)(nv_rng_u64(&c->rng.rng) % n);
}

static bool run_one(chaos *c, size_t loop)
{
    nv_exec_queue *queue = &c->core.loops[loop];
    nv_task *task = queue->head;
    if (!task) {
        return false;
    }
    queue->head = task->_next;
    if (!queue->head) {
        queue->tail = NULL;
    }
    task->run(task);
    return true;
}

/* ---- what a device does with what it gets ---- */

static void on_connack(chaos *c, client *k, const nv_mqtt_connack *connack)
{
    if (connack->code == 0) { /* the order of CONNACKs gives the epochs of a device */
        k->epoch = ++c->epochs[k->device];
        c->epoch_of[k->number] = k->epoch;
    }
}

static void on_puback(chaos *c, client *k, uint16_t id)
{
    if (id >= REQUEST_ID) {
        assert_int_equal(id, REQUEST_ID + ++k->request_acks);
        return;
    }
    assert_int_equal(id, k->acknowledged + 1); /* in order, none left out */
    k->acknowledged = id;
    c->last_acked[k->number] = id;
}

static void answer_method(client *k, nv_span rid)
{
    char topic[96];
    (void)snprintf(topic, sizeof(topic), "$iothub/methods/res/200/?$rid=%.*s", NV_SPAN_ARG(rid));
    mqtt_put_publish(&k->pair.in, topic, nv_span_str("{}"), 1, (uint16_t)(REQUEST_ID + ++k->requests));
}

static void on_message(chaos *c, client *k, const nv_mqtt_publish *publish)
{
    uint32_t sequence = 0;
    char want[96];
    (void)snprintf(want, sizeof(want), "devices/%s/messages/devicebound/", ids[k->device]);
    assert_true(nv_span_starts_with(publish->topic, nv_span_str(want)));
    assert_int_equal(publish->payload.len, sizeof(sequence));
    memcpy(&sequence, publish->payload.ptr, sizeof(sequence));
    assert_true(sequence < SENDS);
    assert_true(!publish->dup || c->seen[sequence]);
    c->seen[sequence] = true;
    if (publish->qos == 0) {
        c->acked[sequence] = true;
    } else if (!k->lazy && pick(c, 4) > 0) {
        uint8_t packet[NV_MQTT_ACK_SIZE];
        nv_mqtt_put_puback(packet, publish->packet_id);
        c->acked[sequence] = true;
        assert_int_equal(nv_buf_append(&k->pair.in, nv_span_of(packet, sizeof(packet))), NV_OK);
    }
}

static void on_publish(chaos *c, client *k, const nv_mqtt_publish *publish)
{
    nv_span topic = publish->topic;
    size_t rid = nv_span_find(topic, '=') + 1;
    if (nv_span_starts_with(topic, nv_span_str("$iothub/twin/res/"))) {
        uint64_t number = 0;
        nv_span text = nv_span_skip(topic, rid);
        assert_true(nv_span_to_u64(nv_span_first(text, nv_span_find(text, '&')), &number));
        assert_true(number > 0 && number <= k->twins && !k->got[number]);
        k->got[number] = true;
        k->answered++;
    } else if (nv_span_starts_with(topic, nv_span_str("$iothub/methods/POST/"))) {
        if (pick(c, 3) > 0) {
            answer_method(k, nv_span_skip(topic, rid));
        }
    } else if (!nv_span_starts_with(topic, nv_span_str("$iothub/twin/PATCH/properties/desired/?$version="))) {
        on_message(c, k, publish);
    }
}

static void watch(chaos *c, client *k)
{
    while (nv_buf_len(&k->pair.out) > 0) {
        nv_mqtt_packet packet;
        size_t consumed = 0;
        const char *why = "";
        assert_int_equal(nv_mqtt_decode(nv_buf_span(&k->pair.out), 1u << 20, &packet, &consumed, &why), NV_OK);
        if (packet.type == NV_MQTT_CONNACK) {
            on_connack(c, k, &packet.u.connack);
        } else if (packet.type == NV_MQTT_PUBACK) {
            on_puback(c, k, packet.u.ack_id);
        } else if (packet.type == NV_MQTT_PUBLISH) {
            on_publish(c, k, &packet.u.publish);
        }
        nv_buf_consume(&k->pair.out, consumed);
    }
}

static void service(chaos *c, client *k)
{
    mqtt_pair_service(&k->pair);
    watch(c, k);
    if (mqtt_pair_gone(&k->pair)) {
        mqtt_pair_deinit(&k->pair);
        k->used = false;
    }
}

static void open_client(chaos *c, client *k)
{
    if (c->connections + 1 >= NV_COUNT_OF(c->epoch_of)) {
        return;
    }
    *k = (client){.used = true, .device = pick(c, DEVICES), .number = ++c->connections, .lazy = pick(c, 8) == 0};
    mqtt_pair_open(&k->pair, &c->core.hub->loops[pick(c, 2)], k->number);
    mqtt_login login = {.device = ids[k->device], .persistent = pick(c, 2) == 0};
    mqtt_pair_connect(&k->pair, &login);
}

static void publish(client *k)
{
    static const char *const topics[DEVICES] = {"devices/alpha/messages/events/", "devices/beta/messages/events/",
                                                "devices/gamma/messages/events/"};
    uint32_t body[2] = {k->number, ++k->sent};
    mqtt_put_publish(&k->pair.in, topics[k->device], nv_span_of(body, sizeof(body)), 1, k->sent);
}

static void ask_twin(chaos *c, client *k)
{
    char topic[96];
    (void)snprintf(topic, sizeof(topic), "$iothub/twin/%s/?$rid=%u", pick(c, 2) ? "GET" : "PATCH/properties/reported",
                   ++k->twins);
    mqtt_put_publish(&k->pair.in, topic, nv_span_str("{}"), 1, (uint16_t)(REQUEST_ID + ++k->requests));
}

static void change_subscription(chaos *c, client *k)
{
    static const char *const rest[] = {"$iothub/methods/POST/#", "$iothub/twin/PATCH/properties/desired/#"};
    unsigned which = pick(c, 4);
    char bound[64];
    (void)snprintf(bound, sizeof(bound), "devices/%s/messages/devicebound/#", ids[k->device]);
    if (which < 2) {
        mqtt_pair_subscribe(&k->pair, 1, rest[which], 1);
    } else if (which == 2) {
        mqtt_pair_subscribe(&k->pair, 1, bound, (uint8_t)pick(c, 2));
    } else {
        nv_mqtt_filter filters[] = {{nv_span_str(bound), 0}};
        uint8_t packet[128];
        nv_writer w = nv_writer_of(packet, sizeof(packet));
        nv_mqtt_write_unsubscribe(&w, 1, filters, 1);
        mqtt_pair_send(&k->pair, nv_writer_span(&w));
    }
}

/* ---- what services do ---- */

static void on_returned(nv_method_call *call)
{
    caller *who = call->arg;
    assert_true(who->busy);
    who->busy = false;
    who->chaos->returned++;
    nv_buf_deinit(&call->answer);
}

static void call_method(chaos *c)
{
    caller *who = &c->callers[pick(c, CALLS)];
    if (who->busy) {
        return;
    }
    *who = (caller){.chaos = c, .busy = true};
    who->call = (nv_method_call){.device_id = nv_span_str(ids[pick(c, DEVICES)]),
                                 .name = nv_span_str("m"),
                                 .payload = nv_span_str("1"),
                                 .response_timeout_us = 30 * NV_US_PER_S,
                                 .connect_timeout_us = pick(c, 2) ? 10 * NV_US_PER_S : 0,
                                 .done = on_returned,
                                 .arg = who};
    c->called++;
    nv_method_invoke(&c->core.hub->loops[pick(c, 2)], &who->call);
}

static void change_desired(chaos *c)
{
    nv_span device = nv_span_str(ids[pick(c, DEVICES)]);
    nv_delivery *delivery = nv_delivery_new(NV_DELIVER_DESIRED, NV_SPAN_EMPTY, nv_span_str("{\"a\":1}"));
    delivery->version = c->sends + 1;
    (void)nv_devices_deliver(nv_hub_shard_loop(c->core.hub, device), device, NV_SPAN_EMPTY, delivery);
}

static void serve(chaos *c)
{
    switch (pick(c, 14)) {
    case 0:
        call_method(c);
        break;
    case 1:
        change_desired(c);
        break;
    case 2:
        fake_twin_set_hold(pick(c, 2));
        break;
    case 3:
        fake_c2d_set_hold(pick(c, 2));
        break;
    case 4:
        fake_c2d_settle_one();
        break;
    case 5:
        if (pick(c, 10) == 0) {
            fake_c2d_lose_locks();
        }
        break;
    case 6:
        fake_twin_complete();
        break;
    default:
        if (c->sends + 1 < SENDS) {
            uint32_t sequence = ++c->sends;
            fake_c2d_send(&c->core.hub->loops[pick(c, 2)], ids[pick(c, DEVICES)], NV_ACK_NONE, NV_SPAN_EMPTY,
                          nv_span_of(&sequence, sizeof(sequence)));
        }
        break;
    }
}

static void disturb(chaos *c)
{
    switch (pick(c, 6)) {
    case 0:
        fake_register(&c->core, ids[pick(c, DEVICES)], "", NULL);
        break;
    case 1:
        fake_registry_set_mode(&c->core, pick(c, 2) ? NV_OK : NV_E_MORE);
        break;
    case 2:
        c->failing = pick(c, 8) == 0;
        fake_log_set_submit_status(&c->core, c->failing && pick(c, 2) ? NV_E_NO_SPACE : NV_OK);
        break;
    case 3:
        fake_log_set_batch_records(&c->core, 1 + pick(c, 20));
        break;
    case 4:
        fake_state_set_hold(&c->core, pick(c, 2));
        break;
    default:
        fake_state_complete(&c->core);
        break;
    }
}

static void step(chaos *c)
{
    client *k = &c->clients[pick(c, SLOTS)];
    unsigned what = pick(c, 100);
    if (what < 60) {
        run_one(c, pick(c, 2));
    } else if (what < 66) {
        nv_hub_loop_turn_end(&c->core.hub->loops[pick(c, 2)]);
    } else if (what < 72) {
        fake_log_complete(&c->core, c->failing ? NV_E_IO : NV_OK);
    } else if (what < 74) {
        disturb(c);
    } else if (what < 81) {
        serve(c);
    } else if (!k->used) {
        open_client(c, k);
    } else if (what < 92) {
        for (unsigned n = pick(c, 4); k->epoch > 0 && n > 0; n--) {
            publish(k);
        }
    } else if (what < 95 && k->epoch > 0) {
        if (k->twins == 0) {
            k->reads_twins = true;
            mqtt_pair_subscribe(&k->pair, 1, "$iothub/twin/res/#", 1);
        }
        ask_twin(c, k);
    } else if (what < 98 && k->epoch > 0) {
        change_subscription(c, k);
    } else if (what < 99) {
        mqtt_pair_cut(&k->pair);
    }
    for (size_t i = 0; i < SLOTS; i++) {
        if (c->clients[i].used) {
            service(c, &c->clients[i]);
        }
    }
}

/* Those whose connection lived on have all their answers. */
static void check_answers(chaos *c)
{
    for (size_t i = 0; i < SLOTS; i++) {
        const client *k = &c->clients[i];
        if (k->used && k->epoch > 0 && k->pair.session && !k->pair.lost && !k->pair.session->closing) {
            assert_int_equal(k->answered, k->reads_twins ? k->twins : 0);
            assert_int_equal(k->request_acks, k->requests);
        }
    }
}

/* What waits for time gets it. */
static void pass_time(chaos *c)
{
    nv_manual_clock_advance(&c->core.clock, 60 * NV_US_PER_S);
    for (size_t i = 0; i < 2; i++) {
        nv_hub_loop_tick(&c->core.hub->loops[i], nv_mono_us(&c->core.clock.clock));
    }
}

static void let_go(chaos *c)
{
    while (fake_state_complete(&c->core)) {
    }
    while (fake_twin_complete()) {
    }
    while (fake_c2d_settle_one()) {
    }
    fake_core_run(&c->core);
    fake_log_complete(&c->core, NV_OK);
}

/* Everything may end now: the log works again, whatever was held is let go, the peers leave. */
static void finish(chaos *c)
{
    c->failing = false;
    fake_log_set_submit_status(&c->core, NV_OK);
    fake_state_set_hold(&c->core, false);
    fake_twin_set_hold(false);
    fake_c2d_set_hold(false);
    for (int round = 0; round < 200; round++) {
        let_go(c);
        if (round == 100) {
            check_answers(c);
        }
        if (round == 150) {
            pass_time(c);
        }
        for (size_t i = 0; i < SLOTS; i++) {
            if (c->clients[i].used) {
                if (round == 100) {
                    mqtt_pair_cut(&c->clients[i].pair);
                }
                service(c, &c->clients[i]);
            }
        }
    }
    for (size_t i = 0; i < SLOTS; i++) {
        assert_false(c->clients[i].used);
    }
    assert_int_equal(nv_devices_connected(c->core.hub), 0);
    assert_int_equal(c->returned, c->called);
}

static void check_messages(const chaos *c)
{
    size_t acked = 0;
    for (uint32_t i = 1; i <= c->sends; i++) {
        acked += c->acked[i];
    }
    assert_true(fake_c2d_completed() <= acked);
    assert_int_equal(fake_c2d_count() + fake_c2d_completed(), c->sends);
    assert_int_equal(fake_c2d_locked(), 0);
    assert_int_equal(fake_c2d_rejected(), 0);
}

static void check_log(const chaos *c)
{
    unsigned epoch[DEVICES] = {0};
    static uint32_t last_sent[NV_COUNT_OF(c->last_acked)];
    static uint16_t count[NV_COUNT_OF(c->last_acked)];
    memset(last_sent, 0, sizeof(last_sent));
    memset(count, 0, sizeof(count));
    for (size_t i = 0; i < fake_log_count(&c->core); i++) {
        const fake_record *record = fake_log_at(&c->core, i);
        uint32_t body[2];
        assert_int_equal(record->body.len, sizeof(body));
        memcpy(body, record->body.ptr, sizeof(body));
        nv_stamp stamp;
        assert_int_equal(nv_stamp_decode(record->stamp, &stamp), NV_OK);
        unsigned device = stamp.device_id.ptr[0] == 'a' ? 0 : stamp.device_id.ptr[0] == 'b' ? 1 : 2;
        assert_true(c->epoch_of[body[0]] >= epoch[device]); /* no old connection behind a new one */
        epoch[device] = c->epoch_of[body[0]];
        assert_true(body[1] > last_sent[body[0]]);
        last_sent[body[0]] = body[1];
        if (body[1] <= c->last_acked[body[0]]) {
            count[body[0]]++;
        }
    }
    for (uint32_t n = 1; n <= c->connections; n++) {
        assert_int_equal(count[n], c->last_acked[n]); /* every acknowledged one is there */
    }
}

static void chaos_of(uint64_t seed)
{
    chaos *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    nv_seeded_rng_init(&c->rng, seed);
    fake_core_init(&c->core, 2, pick(c, 2) ? &nv_limits_open : &nv_limits_azure);
    fake_log_set_mode(&c->core, FAKE_LOG_HOLD);
    fake_register(&c->core, "alpha", "", NULL);
    fake_register(&c->core, "beta", "", NULL);
    fake_register(&c->core, "gamma", "", NULL);
    for (unsigned i = 0; i < STEPS; i++) {
        step(c);
    }
    finish(c);
    check_log(c);
    check_messages(c);
    fake_core_deinit(&c->core);
    free(c);
}

static uint64_t current_seed; /* NV_SEED=n runs one alone */

/* conformance: mqtt.md 14 */
/* conformance: mqtt.md 21 */
static void test_chaos(void **state)
{
    (void)state;
    const char *given = getenv("NV_SEED");
    if (given) {
        chaos_of(strtoull(given, NULL, 10));
        return;
    }
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        current_seed = seed;
        chaos_of(seed);
    }
    current_seed = SEEDS + 1;
}

static int name_seed(void **state)
{
    (void)state;
    if (current_seed <= SEEDS) {
        (void)fprintf(stderr, "it was NV_SEED=%llu\n", (unsigned long long)current_seed);
    }
    return 0;
}

int main(void)
{
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    const struct CMUnitTest tests[] = {cmocka_unit_test_teardown(test_chaos, name_seed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
