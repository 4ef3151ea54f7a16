/* Live devices: what goes to a connection, who waits for one, and what others see of it. Two loops, in memory. */
#include "base/alloc.h"
#include "base/diag.h"
#include "support/fake_core.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define S(text) nv_span_str(text)

typedef struct peer {
    nv_claim claim;
    fake_core *core;
    uint32_t wants; /* said in granted() */
    int granted;
    int evicted;
    int done;
    int delivered;
    bool out_of_order;
    uint64_t last_version;
    char last_name[32];
    char last_body[64];
} peer;

static void on_granted(nv_claim *claim)
{
    peer *p = nv_container_of(claim, peer, claim);
    p->granted++;
    if (p->wants) {
        nv_claim_want(claim, p->wants);
    }
}

static void on_evict(nv_claim *claim, nv_refusal why)
{
    (void)why;
    nv_container_of(claim, peer, claim)->evicted++;
}

static void on_done(nv_claim *claim)
{
    nv_container_of(claim, peer, claim)->done++;
}

static void on_deliver(nv_claim *claim, const nv_delivery *delivery)
{
    peer *p = nv_container_of(claim, peer, claim);
    p->delivered++;
    p->out_of_order = p->out_of_order || !p->granted || delivery->version < p->last_version;
    p->last_version = delivery->version;
    (void)snprintf(p->last_name, sizeof(p->last_name), "%.*s", NV_SPAN_ARG(delivery->name));
    (void)snprintf(p->last_body, sizeof(p->last_body), "%.*s", NV_SPAN_ARG(delivery->body));
}

static void ask(peer *p, fake_core *core, nv_identity *identity, size_t loop, uint32_t wants)
{
    *p = (peer){.claim = {.identity = identity, .granted = on_granted, .evict = on_evict, .deliver = on_deliver},
                .core = core,
                .wants = wants};
    nv_claim_ask(&core->hub->loops[loop], &p->claim);
}

static void leave(peer *p)
{
    nv_claim_release(&p->claim, on_done);
    fake_core_run(p->core);
    assert_int_equal(p->done, 1);
}

static nv_hub_loop *shard_of(fake_core *core, const char *device)
{
    return nv_hub_shard_loop(core->hub, S(device));
}

static bool send_version(fake_core *core, const char *device, const char *module, uint64_t version)
{
    nv_delivery *delivery = nv_delivery_new(NV_DELIVER_DESIRED, NV_SPAN_EMPTY, S("{\"a\":1}"));
    delivery->version = version;
    return nv_devices_deliver(shard_of(core, device), S(device), S(module), delivery);
}

static void test_deliveries(void **state)
{
    (void)state;
    for (size_t loop = 0; loop < 2; loop++) {
        fake_core core;
        fake_core_init(&core, 2, &nv_limits_open);
        nv_identity *d = nv_identity_ref(fake_register(&core, "d", "", NULL));
        assert_false(send_version(&core, "d", "", 2));
        peer p;
        ask(&p, &core, d, loop, 0);
        fake_core_run(&core);
        assert_false(send_version(&core, "d", "", 3)); /* connected, but it wants nothing */
        nv_claim_want(&p.claim, NV_WANTS_METHODS);
        assert_false(send_version(&core, "d", "", 4));
        nv_delivery *call = nv_delivery_new(NV_DELIVER_METHOD, S("reboot"), S("null"));
        assert_true(nv_devices_deliver(shard_of(&core, "d"), S("d"), NV_SPAN_EMPTY, call));
        assert_int_equal(p.delivered, 0); /* never from within the call */
        fake_core_run(&core);
        assert_int_equal(p.delivered, 1);
        assert_string_equal(p.last_name, "reboot");
        assert_string_equal(p.last_body, "null");
        nv_claim_want(&p.claim, NV_WANTS_METHODS | NV_WANTS_DESIRED);
        for (uint64_t version = 5; version < 105; version++) {
            assert_true(send_version(&core, "d", "", version));
        }
        assert_false(send_version(&core, "d", "m", 6)); /* a module is somebody else */
        fake_core_run(&core);
        assert_int_equal(p.delivered, 101);
        assert_false(p.out_of_order);
        assert_int_equal(p.last_version, 104);
        leave(&p);
        assert_false(send_version(&core, "d", "", 200));
        nv_identity_unref(d);
        fake_core_deinit(&core);
    }
}

/* What is on its way when the claim is given back is dropped, and refers to nothing that is gone. */
static void test_delivery_meets_release(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    nv_identity *d = nv_identity_ref(fake_register(&core, "d", "", NULL));
    for (size_t loop = 0; loop < 2; loop++) {
        peer *p = nv_calloc(1, sizeof(*p));
        ask(p, &core, d, loop, NV_WANTS_DESIRED);
        fake_core_run(&core);
        nv_claim_want(&p->claim, 0);
        nv_claim_want(&p->claim, NV_WANTS_DESIRED); /* its task is on its way, too */
        assert_true(send_version(&core, "d", "", 9));
        nv_claim_release(&p->claim, on_done);
        assert_true(send_version(&core, "d", "", 10));
        fake_core_run(&core);
        assert_int_equal(p->done, 1);
        assert_int_equal(p->delivered, 0);
        free(p);
        fake_core_run(&core);
    }
    nv_identity_unref(d);
    fake_core_deinit(&core);
}

/* An evicted connection is sent nothing more; the newer one gets it once it is there. */
static void test_delivery_meets_takeover(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    nv_identity *d = nv_identity_ref(fake_register(&core, "d", "", NULL));
    peer old;
    peer new;
    ask(&old, &core, d, 0, NV_WANTS_DESIRED);
    fake_core_run(&core);
    uint64_t first = nv_devices_connection(shard_of(&core, "d"), S("d"), NV_SPAN_EMPTY);
    assert_int_equal(first, nv_claim_number(&old.claim));
    ask(&new, &core, d, 1, NV_WANTS_DESIRED);
    fake_core_run(&core);
    assert_int_equal(old.evicted, 1);
    assert_false(send_version(&core, "d", "", 1));
    leave(&old);
    assert_int_equal(new.granted, 1);
    assert_true(nv_devices_connection(shard_of(&core, "d"), S("d"), NV_SPAN_EMPTY) > first);
    assert_true(send_version(&core, "d", "", 2));
    fake_core_run(&core);
    assert_int_equal(old.delivered, 0);
    assert_int_equal(new.delivered, 1);
    leave(&new);
    assert_int_equal(nv_devices_connection(shard_of(&core, "d"), S("d"), NV_SPAN_EMPTY), 0);
    nv_identity_unref(d);
    fake_core_deinit(&core);
}

/* ---- watchers -------------------------------------------------------------------------------------------------- */

typedef struct witness {
    nv_device_watcher watcher;
    int told;
    fake_core *core;
    bool again;             /* watches again when told */
    struct witness *forget; /* unwatched when told */
} witness;

static void on_changed(nv_device_watcher *watcher)
{
    witness *w = nv_container_of(watcher, witness, watcher);
    w->told++;
    if (w->again) {
        nv_devices_watch(shard_of(w->core, "d"), S("d"), NV_SPAN_EMPTY, watcher);
    }
    if (w->forget) {
        nv_devices_unwatch(&w->forget->watcher);
    }
}

static void watch(witness *w, fake_core *core, uint32_t wants)
{
    *w = (witness){.watcher = {.wants = wants, .changed = on_changed}, .core = core};
    nv_devices_watch(shard_of(core, "d"), S("d"), NV_SPAN_EMPTY, &w->watcher);
}

static void test_watchers(void **state)
{
    (void)state;
    for (size_t loop = 0; loop < 2; loop++) {
        fake_core core;
        fake_core_init(&core, 2, &nv_limits_open);
        nv_identity *d = nv_identity_ref(fake_register(&core, "d", "", NULL));
        witness methods;
        witness any_end;
        watch(&methods, &core, NV_WANTS_METHODS);
        watch(&any_end, &core, 0);
        methods.again = true;
        peer p;
        ask(&p, &core, d, loop, 0);
        fake_core_run(&core);
        assert_int_equal(methods.told, 0);
        nv_claim_want(&p.claim, NV_WANTS_DESIRED);
        fake_core_run(&core);
        assert_int_equal(methods.told, 0);
        nv_claim_want(&p.claim, NV_WANTS_DESIRED | NV_WANTS_METHODS);
        fake_core_run(&core);
        assert_int_equal(methods.told, 1); /* and it watches again, without being told again */
        assert_true(nv_devices_wants(shard_of(&core, "d"), S("d"), NV_SPAN_EMPTY, NV_WANTS_METHODS));
        assert_int_equal(any_end.told, 0);
        leave(&p);
        assert_int_equal(methods.told, 2);
        assert_int_equal(any_end.told, 1);
        assert_false(nv_devices_wants(shard_of(&core, "d"), S("d"), NV_SPAN_EMPTY, 0));
        nv_devices_unwatch(&any_end.watcher); /* harmless after it was told */
        nv_devices_unwatch(&methods.watcher);
        nv_devices_unwatch(&methods.watcher);
        ask(&p, &core, d, loop, NV_WANTS_METHODS);
        fake_core_run(&core);
        leave(&p);
        assert_int_equal(methods.told, 2);
        nv_identity_unref(d);
        fake_core_deinit(&core);
    }
}

/* One that is told may take others away that stand behind it. */
static void test_watchers_forget_each_other(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 1, &nv_limits_open);
    nv_identity *d = nv_identity_ref(fake_register(&core, "d", "", NULL));
    witness w[3];
    for (size_t i = 0; i < 3; i++) {
        watch(&w[i], &core, NV_WANTS_METHODS);
    }
    w[0].forget = &w[1];
    w[2].forget = &w[2]; /* itself: already forgotten */
    peer p;
    ask(&p, &core, d, 0, NV_WANTS_METHODS);
    fake_core_run(&core);
    assert_int_equal(w[0].told, 1);
    assert_int_equal(w[1].told, 0);
    assert_int_equal(w[2].told, 1);
    leave(&p);
    nv_identity_unref(d);
    fake_core_deinit(&core);
}

/* A watcher alone keeps the entry of a device that nobody ever saw, and leaves nothing behind. */
static void test_watching_nobody(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 1, &nv_limits_open);
    witness w;
    watch(&w, &core, 0);
    fake_core_run(&core);
    nv_presence seen = nv_presence_now(core.hub, S("d"), NV_SPAN_EMPTY);
    assert_false(seen.connected);
    nv_devices_unwatch(&w.watcher);
    assert_int_equal(w.told, 0);
    fake_core_deinit(&core);
}

/* ---- presence, seen from another thread ------------------------------------------------------------------------ */

typedef struct looker {
    nv_hub *hub;
    _Atomic bool stop;
    int64_t connected; /* times it was seen so */
    bool odd;
} looker;

static void *look(void *arg)
{
    looker *self = arg;
    int64_t before = 0;
    while (!atomic_load(&self->stop)) {
        nv_presence now = nv_presence_now(self->hub, S("d"), NV_SPAN_EMPTY);
        self->connected += now.connected;
        self->odd = self->odd || (now.connected && (now.last_activity_us == 0 || now.connection_updated_us < before));
        before = now.connected ? now.connection_updated_us : before;
    }
    return NULL;
}

static void test_presence_from_elsewhere(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    nv_identity *d = nv_identity_ref(fake_register(&core, "d", "", NULL));
    looker l = {.hub = core.hub};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, look, &l), 0);
    for (int i = 0; i < 500; i++) {
        peer p;
        ask(&p, &core, d, (size_t)i % 2, 0);
        fake_core_run(&core);
        nv_manual_clock_advance(&core.clock, NV_US_PER_S);
        nv_claim_touch(&p.claim, nv_mono_us(&core.clock.clock));
        nv_presence now = nv_presence_now(core.hub, S("d"), NV_SPAN_EMPTY);
        assert_true(now.connected && now.last_activity_us == nv_wall_us(&core.clock.clock));
        assert_true(now.connection_updated_us == now.last_activity_us - NV_US_PER_S);
        leave(&p);
        assert_false(nv_presence_now(core.hub, S("d"), NV_SPAN_EMPTY).connected);
    }
    atomic_store(&l.stop, true);
    pthread_join(thread, NULL);
    assert_false(l.odd);
    char huge[NV_ID_MAX + 1];
    memset(huge, 'x', sizeof(huge));
    assert_false(nv_presence_now(core.hub, nv_span_of(huge, sizeof(huge)), NV_SPAN_EMPTY).connected);
    nv_identity_unref(d);
    fake_core_deinit(&core);
}

/* A connection that lasts is saved once a minute, as long as it is active. */
static void test_lasting_connection(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    nv_identity *d = nv_identity_ref(fake_register(&core, "d", "", NULL));
    peer p;
    ask(&p, &core, d, 0, 0);
    fake_core_run(&core);
    for (size_t minute = 1; minute <= 3; minute++) {
        for (int i = 0; i < 61; i++) {
            nv_manual_clock_advance(&core.clock, NV_US_PER_S);
            nv_claim_touch(&p.claim, nv_mono_us(&core.clock.clock));
            fake_core_run(&core);
        }
        assert_int_equal(fake_state_seen(&core), minute);
    }
    for (int i = 0; i < 300; i++) { /* silent */
        nv_manual_clock_advance(&core.clock, NV_US_PER_S);
        fake_core_run(&core);
    }
    assert_in_range(fake_state_seen(&core), 3, 4);
    size_t before = fake_state_seen(&core);
    nv_presence now = nv_presence_now(core.hub, S("d"), NV_SPAN_EMPTY);
    assert_true(now.connected && now.last_activity_us == nv_wall_us(&core.clock.clock) - 300 * NV_US_PER_S);
    leave(&p);
    assert_int_equal(fake_state_seen(&core), before + 1);
    nv_identity_unref(d);
    fake_core_deinit(&core);
}

int main(void)
{
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deliveries),
        cmocka_unit_test(test_delivery_meets_release),
        cmocka_unit_test(test_delivery_meets_takeover),
        cmocka_unit_test(test_watchers),
        cmocka_unit_test(test_watchers_forget_each_other),
        cmocka_unit_test(test_watching_nobody),
        cmocka_unit_test(test_presence_from_elsewhere),
        cmocka_unit_test(test_lasting_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
