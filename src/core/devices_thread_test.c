/*
 * Connections, deliveries, presence and methods between two loops that really run at the same time, on the real stores.
 * Under the thread sanitizer this is the proof that what they share is shared as devices.h says; everywhere it is a
 * test that each claim is given back, each call ends once, and nothing is delivered to who let go.
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "core/method.h"
#include "support/real_core.h"

#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define DEVICES     4u
#define CONNECTIONS 4u    /* per loop */
#define CALLERS     8u    /* per loop */
#define ANSWERS     1000u /* per loop, then it ends */

typedef struct actor actor;

typedef struct connection {
    nv_claim claim;
    actor *of;
    bool used;
    bool held;
    bool releasing;
} connection;

typedef struct caller {
    nv_method_call call;
    actor *of;
    bool busy;
} caller;

/* What happens on one loop. */
struct actor {
    real_core *core;
    nv_hub_loop *loop;
    nv_exec_queue *queue;
    nv_identity *const *identities;
    nv_seeded_rng rng;
    nv_task next;
    bool over;
    connection connections[CONNECTIONS];
    caller callers[CALLERS];
    size_t open; /* claims and calls that have not ended */
    size_t answered;
    size_t ended;
    size_t delivered;
    bool odd;
    bool leaves;
    sem_t *ended_all; /* posted once: nothing of this loop is open */
    pthread_t thread;
};

static uint64_t roll(actor *a, uint64_t below)
{
    return nv_rng_u64(&a->rng.rng) % below;
}

static void on_released(nv_claim *claim)
{
    connection *c = nv_container_of(claim, connection, claim);
    c->of->open--;
    *c = (connection){.of = c->of};
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
    nv_claim_want(claim, NV_WANTS_METHODS);
    nv_claim_operated(claim);
}

static void on_evict(nv_claim *claim, nv_refusal why)
{
    (void)why;
    release(nv_container_of(claim, connection, claim));
}

static void on_deliver(nv_claim *claim, const nv_delivery *delivery)
{
    connection *c = nv_container_of(claim, connection, claim);
    c->of->odd = c->of->odd || !c->held || c->releasing;
    c->of->delivered++;
    nv_method_answer(claim, delivery->call, 200, delivery->body);
    if (roll(c->of, 8) == 0) {
        release(c);
    }
}

static void connect_one(actor *a)
{
    connection *c = &a->connections[roll(a, CONNECTIONS)];
    if (c->used) {
        if (roll(a, 500) == 0) { /* in any phase */
            release(c);
        }
        return;
    }
    *c = (connection){.of = a, .used = true};
    c->claim = (nv_claim){.identity = a->identities[roll(a, DEVICES)],
                          .clean = true,
                          .granted = on_granted,
                          .evict = on_evict,
                          .deliver = on_deliver};
    a->open++;
    nv_claim_ask(a->loop, &c->claim);
}

static void on_called(nv_method_call *call)
{
    caller *c = nv_container_of(call, caller, call);
    c->of->odd = c->of->odd || !c->busy;
    c->busy = false;
    c->of->open--;
    c->of->ended++;
    c->of->answered += call->error == NV_HUB_ERROR_NONE;
    nv_buf_deinit(&call->answer);
}

static void call_one(actor *a)
{
    caller *c = &a->callers[roll(a, CALLERS)];
    if (c->busy) {
        return;
    }
    *c = (caller){.of = a, .busy = true};
    c->call = (nv_method_call){.device_id = a->identities[roll(a, DEVICES)]->device_id,
                               .name = nv_span_str("m"),
                               .payload = nv_span_str("{\"a\":[1,2,3]}"),
                               .response_timeout_us = 60 * NV_US_PER_S,
                               .done = on_called};
    a->open++;
    nv_method_invoke(a->loop, &c->call);
}

static void look(actor *a)
{
    nv_presence now = nv_presence_now(a->core->hub, a->identities[roll(a, DEVICES)]->device_id, NV_SPAN_EMPTY);
    a->odd = a->odd || (now.connected && now.connection_updated_us == 0);
}

static void touch(actor *a)
{
    connection *c = &a->connections[roll(a, CONNECTIONS)];
    if (c->held) {
        nv_claim_touch(&c->claim, nv_mono_us(nv_clock_system()));
        nv_claim_want(&c->claim, roll(a, 4) == 0 ? 0 : NV_WANTS_METHODS);
    }
}

static void act(nv_task *task)
{
    actor *a = nv_container_of(task, actor, next);
    static void (*const actions[])(actor *) = {connect_one, call_one, call_one, look, touch};
    for (size_t i = 0; i < 4; i++) {
        actions[roll(a, NV_COUNT_OF(actions))](a);
    }
    a->over = a->answered >= ANSWERS;
    if (!a->over) {
        nv_post(a->loop->exec, &a->next);
    }
}

/* A loop goes on after its own part has ended: it is the shard of what the other one does. */
static void *live(void *arg)
{
    actor *a = arg;
    bool told = false;
    nv_exec_queue_adopt(a->queue);
    nv_post(a->loop->exec, &a->next);
    while (!a->leaves && nv_exec_queue_run_wait(a->queue)) {
        nv_hub_loop_turn_end(a->loop);
        for (size_t i = 0; a->over && i < CONNECTIONS; i++) {
            release(&a->connections[i]); /* who was called and has not answered ends by that */
        }
        if (!told && a->over && a->open == 0) {
            told = true;
            sem_post(a->ended_all);
        }
    }
    return NULL;
}

static void leave_loop(nv_task *task)
{
    nv_container_of(task, actor, next)->leaves = true;
}

static void stop_loop(actor *a)
{
    a->next.run = leave_loop;
    nv_post(a->loop->exec, &a->next);
    pthread_join(a->thread, NULL);
}

static void found(nv_registry_find *find)
{
    *(bool *)find->arg = true;
}

static nv_identity *identity_of(real_core *core, const char *id)
{
    bool done = false;
    nv_registry_find find = {.device_id = nv_span_str(id), .done = found, .arg = &done};
    nv_err err = nv_registry_lookup(&core->hub->loops[0], &find);
    while (err == NV_E_MORE && !done) {
        nv_exec_queue_run_wait(&core->queues[0]);
    }
    assert_non_null(find.identity);
    return find.identity;
}

static void test_two_threads(void **state)
{
    (void)state;
    real_core *core = real_core_new(NULL, NV_DURABILITY_OS);
    nv_identity *identities[DEVICES];
    for (size_t i = 0; i < DEVICES; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "device%zu", i);
        real_core_add(core, id);
        identities[i] = identity_of(core, id);
    }
    sem_t ended;
    sem_init(&ended, 0, 0);
    actor *actors = nv_calloc(REAL_LOOPS, sizeof(*actors));
    for (size_t i = 0; i < REAL_LOOPS; i++) {
        actors[i] = (actor){.core = core,
                            .loop = &core->hub->loops[i],
                            .queue = &core->queues[i],
                            .identities = identities,
                            .next.run = act,
                            .ended_all = &ended};
        nv_seeded_rng_init(&actors[i].rng, i + 1);
        for (size_t c = 0; c < CONNECTIONS; c++) {
            actors[i].connections[c].of = &actors[i];
        }
    }
    for (size_t i = 0; i < REAL_LOOPS; i++) {
        assert_int_equal(pthread_create(&actors[i].thread, NULL, live, &actors[i]), 0);
    }
    for (size_t left = REAL_LOOPS; left > 0; left -= sem_wait(&ended) == 0 ? 1 : 0) {
    }
    for (size_t i = 0; i < REAL_LOOPS; i++) {
        stop_loop(&actors[i]);
    }
    size_t delivered = 0;
    size_t answered = 0;
    for (size_t i = 0; i < REAL_LOOPS; i++) {
        assert_false(actors[i].odd);
        assert_int_equal(actors[i].open, 0);
        delivered += actors[i].delivered;
        answered += actors[i].answered;
    }
    assert_true(answered >= REAL_LOOPS * ANSWERS && delivered >= answered);
    assert_int_equal(nv_devices_connected(core->hub), 0);
    for (size_t i = 0; i < DEVICES; i++) {
        nv_identity_unref(identities[i]);
    }
    sem_destroy(&ended);
    free(actors);
    real_core_free(core);
}

int main(void)
{
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_two_threads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
