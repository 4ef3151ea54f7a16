/*
 * Sessions of few devices on two loops, driven by chance one task at a time: connecting, publishing, subscribing, cut,
 * evicted, with appends that are confirmed late, fail, or find no room. What must hold in every order of events:
 *   - a device's messages land in the order of its accepted connections, never an old one behind a new one;
 *   - what was acknowledged is in the log; messages of one connection land in the order sent;
 *   - when all is over, every session is freed and nobody is counted as connected.
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "session/mqtt_device.h"
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

typedef struct client {
    mqtt_pair pair;
    bool used;
    unsigned device;
    unsigned epoch; /* of its CONNACK; 0: none yet */
    uint16_t sent;
    uint16_t acknowledged;
    uint32_t number; /* of the connection */
    size_t seen;     /* bytes of out that were looked at */
} client;

typedef struct chaos {
    fake_core core;
    nv_seeded_rng rng;
    client clients[SLOTS];
    unsigned epochs[DEVICES];
    uint32_t connections;
    uint32_t epoch_of[8192]; /* by number of the connection */
    uint16_t last_acked[8192];
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

/* Look at what the hub said: the order of CONNACKs gives the epochs of a device. */
static void watch(chaos *c, client *k)
{
    nv_span out = nv_buf_span(&k->pair.out);
    while (out.len - k->seen >= 4) {
        const uint8_t *p = out.ptr + k->seen;
        if (p[0] == 0x20 && p[3] == 0) {
            k->epoch = ++c->epochs[k->device];
            c->epoch_of[k->number] = k->epoch;
        } else if (p[0] == 0x40) {
            uint16_t id = (uint16_t)(p[2] << 8 | p[3]);
            assert_int_equal(id, k->acknowledged + 1); /* in order, none left out */
            k->acknowledged = id;
            c->last_acked[k->number] = id;
        }
        k->seen += p[0] == 0x90 ? 5 : 4;
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
    static const char *const ids[DEVICES] = {"alpha", "beta", "gamma"};
    if (c->connections + 1 >= NV_COUNT_OF(c->epoch_of)) {
        return;
    }
    *k = (client){.used = true, .device = pick(c, DEVICES), .number = ++c->connections};
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

static void disturb(chaos *c)
{
    static const char *const ids[DEVICES] = {"alpha", "beta", "gamma"};
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
    } else if (!k->used) {
        open_client(c, k);
    } else if (what < 95) {
        for (unsigned n = pick(c, 4); k->epoch > 0 && n > 0; n--) {
            publish(k);
        }
    } else if (what < 97 && k->epoch > 0) {
        mqtt_pair_subscribe(&k->pair, 1, "$iothub/methods/POST/#", 1);
    } else if (what < 99) {
        mqtt_pair_cut(&k->pair);
    }
    for (size_t i = 0; i < SLOTS; i++) {
        if (c->clients[i].used) {
            service(c, &c->clients[i]);
        }
    }
}

/* Everything may end now: the log works again, whatever was held is let go, the peers leave. */
static void finish(chaos *c)
{
    c->failing = false;
    fake_log_set_submit_status(&c->core, NV_OK);
    fake_state_set_hold(&c->core, false);
    for (int round = 0; round < 200; round++) {
        while (fake_state_complete(&c->core)) {
        }
        fake_core_run(&c->core);
        fake_log_complete(&c->core, NV_OK);
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
