/*
 * Methods, connections and registry in random order, between two loops that run when the dice say so: every call ends
 * exactly once, in time, and with an answer only if the connection that was asked gave it.
 *
 *   method_chaos_test [SEED]
 */
#include "core/method.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "support/fake_core.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define SEEDS       2000u
#define STEPS       1500u
#define DEVICES     3u
#define CONNECTIONS 6u /* of all devices together, old ones that are on their way out included */
#define CALLS       24u
#define ASKED       64u
#define SECONDS(n)  ((n)*NV_US_PER_S)
/* Each step of a call (start, look-up, both timeouts, end) may wait for the next tick; ticks come at least so often. */
#define TICK_MAX_US SECONDS(20)

static const char *const ids[DEVICES] = {"a", "b", "c"};

typedef struct world world;

/* A connection and what it was asked. */
typedef struct connection {
    world *w;
    nv_claim claim;
    size_t device;
    bool used;
    bool held;
    bool releasing;
    uint64_t asked[ASKED];
    size_t asked_count;
} connection;

typedef struct caller {
    world *w;
    nv_method_call call;
    char payload[16]; /* its own number, so that the device can tell it back */
    uint64_t number;
    int64_t due_us; /* monotonic: by then it has ended */
    bool busy;
} caller;

struct world {
    fake_core core;
    nv_identity *identities[DEVICES]; /* NULL: not registered */
    connection connections[CONNECTIONS];
    caller callers[CALLS];
    uint64_t started;
    uint64_t ended;
    uint64_t answered;
    uint64_t errors[64];
    char fault[200];
};

static uint64_t roll(world *w, uint64_t below)
{
    return nv_rng_u64(&w->core.rng.rng) % below;
}

static void complain(world *w, const char *what, uint64_t number)
{
    if (w->fault[0] == '\0') {
        (void)snprintf(w->fault, sizeof(w->fault), "%s (call %" PRIu64 ")", what, number);
    }
}

/* ---- connections ------------------------------------------------------------------------------------------------- */

static void on_released(nv_claim *claim)
{
    connection *c = nv_container_of(claim, connection, claim);
    nv_identity_unref(claim->identity);
    memset(c->asked, 0xee, sizeof(c->asked)); /* whoever still looks here finds nonsense */
    *c = (connection){.w = c->w};
}

static void release(connection *c)
{
    if (c->used && !c->releasing) {
        c->releasing = true;
        c->held = false;
        nv_claim_release(&c->claim, on_released);
    }
}

static void on_granted(nv_claim *claim)
{
    connection *c = nv_container_of(claim, connection, claim);
    c->held = true;
    if (roll(c->w, 2) == 0) {
        nv_claim_want(claim, NV_WANTS_METHODS);
    }
}

static void on_evict(nv_claim *claim, nv_refusal why)
{
    (void)why;
    connection *c = nv_container_of(claim, connection, claim);
    if (roll(c->w, 2) == 0) { /* else some other time: it may still answer until then */
        release(c);
    }
}

static void on_deliver(nv_claim *claim, const nv_delivery *delivery)
{
    connection *c = nv_container_of(claim, connection, claim);
    if (!c->held) {
        complain(c->w, "a request after the end of the connection", delivery->call);
    }
    if (c->asked_count < ASKED) {
        c->asked[c->asked_count++] = delivery->call;
    }
}

static void connect_one(world *w)
{
    connection *c = &w->connections[roll(w, CONNECTIONS)];
    size_t device = roll(w, DEVICES);
    if (c->used || !w->identities[device]) {
        return;
    }
    *c = (connection){.w = w, .device = device, .used = true};
    c->claim = (nv_claim){.identity = nv_identity_ref(w->identities[device]),
                          .granted = on_granted,
                          .evict = on_evict,
                          .deliver = on_deliver};
    nv_claim_ask(&w->core.hub->loops[roll(w, 2)], &c->claim);
}

/* Something that it was asked, that another was asked, or that nobody was asked. */
static void answer_one(world *w)
{
    connection *c = &w->connections[roll(w, CONNECTIONS)];
    const connection *from = roll(w, 4) > 0 ? c : &w->connections[roll(w, CONNECTIONS)];
    if (!c->held || from->asked_count == 0) {
        return;
    }
    uint64_t number = roll(w, 10) == 0 ? nv_rng_u64(&w->core.rng.rng) : from->asked[roll(w, from->asked_count)];
    char text[64];
    (void)snprintf(text, sizeof(text), "[%" PRIu64 ",%" PRIu64 "]", number, nv_claim_number(&c->claim));
    nv_method_answer(&c->claim, number, (int64_t)number, nv_span_str(text));
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static void on_done(nv_method_call *call)
{
    caller *c = nv_container_of(call, caller, call);
    world *w = c->w;
    if (!c->busy) {
        complain(w, "a call ended twice", c->number);
    }
    c->busy = false;
    w->ended++;
    w->errors[call->error]++;
    uint64_t number = 0;
    uint64_t connection_number = 0;
    char text[64] = "";
    nv_span answer = nv_buf_span(&call->answer);
    if (answer.len > 0) {
        (void)snprintf(text, sizeof(text), "%.*s", NV_SPAN_ARG(answer));
    }
    bool has = sscanf(text, "[%" SCNu64 ",%" SCNu64 "]", &number, &connection_number) == 2;
    if (has != (call->error == NV_HUB_ERROR_NONE) || (has && call->status != (int64_t)number)) {
        complain(w, "an answer that is none", c->number);
    }
    w->answered += has;
    if (nv_mono_us(&w->core.clock.clock) > c->due_us + 6 * TICK_MAX_US) {
        complain(w, "a call ended too late", c->number);
    }
    nv_buf_deinit(&call->answer);
}

static void invoke_one(world *w)
{
    caller *c = &w->callers[roll(w, CALLS)];
    if (c->busy) {
        return;
    }
    int64_t response_us = SECONDS(5 + (int64_t)roll(w, 60));
    int64_t connect_us = roll(w, 2) == 0 ? 0 : SECONDS((int64_t)roll(w, 60));
    c->w = w;
    c->busy = true;
    c->number = ++w->started;
    c->due_us = nv_mono_us(&w->core.clock.clock) + response_us + connect_us;
    (void)snprintf(c->payload, sizeof(c->payload), "%" PRIu64, c->number);
    c->call = (nv_method_call){.device_id = nv_span_str(ids[roll(w, DEVICES)]),
                               .name = nv_span_str("m"),
                               .payload = nv_span_str(c->payload),
                               .response_timeout_us = response_us,
                               .connect_timeout_us = connect_us,
                               .done = on_done};
    nv_method_invoke(&w->core.hub->loops[roll(w, 2)], &c->call);
}

/* ---- the rest of the world ----------------------------------------------------------------------------------------
 */

static void change_registry(world *w)
{
    size_t device = roll(w, DEVICES);
    if (w->identities[device] && roll(w, 4) == 0) {
        nv_identity_unref(w->identities[device]);
        w->identities[device] = NULL;
        fake_unregister(&w->core, ids[device], "");
    } else if (!w->identities[device]) {
        w->identities[device] = nv_identity_ref(fake_register(&w->core, ids[device], "", NULL));
    }
}

static void run_loop(world *w, size_t i)
{
    nv_exec_queue_adopt(&w->core.loops[i]);
    nv_exec_queue_run(&w->core.loops[i]);
    nv_hub_loop_tick(&w->core.hub->loops[i], nv_mono_us(&w->core.clock.clock));
    nv_hub_loop_turn_end(&w->core.hub->loops[i]);
}

static void want_something(world *w)
{
    connection *c = &w->connections[roll(w, CONNECTIONS)];
    if (c->held) {
        nv_claim_want(&c->claim, roll(w, 3) == 0 ? 0 : NV_WANTS_METHODS);
    }
}

static void step(world *w)
{
    uint64_t dice = roll(w, 100);
    if (dice < 20) {
        invoke_one(w);
    } else if (dice < 40) {
        answer_one(w);
    } else if (dice < 48) {
        connect_one(w);
    } else if (dice < 52) {
        release(&w->connections[roll(w, CONNECTIONS)]);
    } else if (dice < 58) {
        want_something(w);
    } else if (dice < 60) {
        change_registry(w);
    } else if (dice < 64) {
        static const nv_err modes[] = {NV_OK, NV_E_MORE, NV_E_MORE, NV_E_IO};
        fake_registry_set_mode(&w->core, modes[roll(w, NV_COUNT_OF(modes))]);
    } else if (dice < 70) {
        nv_manual_clock_advance(&w->core.clock, (int64_t)roll(w, TICK_MAX_US));
        run_loop(w, 0);
        run_loop(w, 1);
    } else {
        run_loop(w, roll(w, 2));
    }
}

static void finish(world *w)
{
    bool stop = roll(w, 2) == 0; /* half of the hubs stop while calls are in flight */
    if (stop) {
        nv_hub_stop(w->core.hub);
    }
    for (size_t i = 0; i < CONNECTIONS; i++) {
        release(&w->connections[i]);
    }
    fake_registry_set_mode(&w->core, NV_OK);
    fake_core_run(&w->core);
    for (int i = 0; !stop && i < 10; i++) {
        nv_manual_clock_advance(&w->core.clock, TICK_MAX_US);
        run_loop(w, 0);
        run_loop(w, 1);
    }
    fake_core_run(&w->core);
    if (w->started != w->ended) {
        complain(w, "calls never ended", w->started - w->ended);
    }
    for (size_t i = 0; i < 2; i++) {
        if (nv_hub_loop_due(&w->core.hub->loops[i]) != INT64_MAX || !nv_methods_idle(w->core.hub->loops[i].methods)) {
            complain(w, "something of a call is left", 0);
        }
    }
}

static bool run_seed(uint64_t seed, uint64_t totals[64])
{
    world *w = nv_calloc(1, sizeof(*w));
    fake_core_init(&w->core, 2, &nv_limits_open);
    nv_seeded_rng_init(&w->core.rng, seed);
    for (size_t i = 0; i < CONNECTIONS; i++) {
        w->connections[i].w = w;
    }
    for (size_t i = 0; i < DEVICES; i++) {
        w->identities[i] = nv_identity_ref(fake_register(&w->core, ids[i], "", NULL));
    }
    for (uint32_t i = 0; i < STEPS && w->fault[0] == '\0'; i++) {
        step(w);
    }
    if (w->fault[0] == '\0') {
        finish(w);
    }
    bool good = w->fault[0] == '\0';
    if (!good) {
        (void)printf("seed %" PRIu64 ": %s\n", seed, w->fault);
        return false; /* what is left is not taken apart */
    }
    for (size_t i = 0; i < 64; i++) {
        totals[i] += w->errors[i];
    }
    for (size_t i = 0; i < DEVICES; i++) {
        nv_identity_unref(w->identities[i]);
    }
    fake_core_deinit(&w->core);
    free(w);
    return true;
}

int main(int argc, char **argv)
{
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    uint64_t totals[64] = {0};
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t count = argc > 1 ? 1 : SEEDS;
    for (uint64_t seed = first; seed < first + count; seed++) {
        if (!run_seed(seed, totals)) {
            return 1;
        }
    }
    /* A test that never meets a case proves nothing about it. */
    static const nv_hub_error met[] = {NV_HUB_ERROR_NONE,
                                       NV_HUB_ERROR_DeviceNotFound,
                                       NV_HUB_ERROR_DeviceNotOnline,
                                       NV_HUB_ERROR_GatewayTimeout,
                                       NV_HUB_ERROR_DeviceConnectionClosedRemotely,
                                       NV_HUB_ERROR_ServiceUnavailable};
    bool all = true;
    for (size_t i = 0; i < NV_COUNT_OF(met); i++) {
        (void)printf("error %d: %" PRIu64 "\n", (int)met[i], totals[met[i]]);
        all = all && (totals[met[i]] > 0 || count == 1);
    }
    return all ? 0 : 1;
}
