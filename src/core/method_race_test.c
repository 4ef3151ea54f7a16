/* Methods between two loops, each with a thread of its own: devices that come and go, callers that give up. */
#include "base/alloc.h"
#include "core/method.h"
#include "support/real_core.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define ROUNDS 200
#define CALLS  12u

typedef struct side side;

typedef struct caller {
    nv_method_call call;
    side *owner;
    uint32_t done;
} caller;

struct side {
    real_core *core;
    uint32_t index;
    pthread_t thread;
    uint32_t running; /* asked for by this loop and not come back */
    uint32_t errors;
    uint32_t answers;
    uint32_t cancelled;
    nv_identity *identity; /* of its own device */
    nv_claim claim;
    caller callers[CALLS];
};

static nv_hub_loop *loop_of(const side *self)
{
    return &self->core->hub->loops[self->index];
}

static void drain(side *self)
{
    while (self->running > 0) {
        (void)nv_exec_queue_run_wait(&self->core->queues[self->index]);
        nv_hub_loop_turn_end(loop_of(self));
    }
}

/* ---- the device ---- */

static void on_granted(nv_claim *claim)
{
    nv_container_of(claim, side, claim)->running--;
    nv_claim_want(claim, NV_WANTS_METHODS);
}

static void on_evict(nv_claim *claim, nv_refusal why)
{
    (void)why;
    nv_container_of(claim, side, claim)->errors++;
}

static void on_released(nv_claim *claim)
{
    nv_container_of(claim, side, claim)->running--;
}

static void on_deliver(nv_claim *claim, const nv_delivery *delivery)
{
    nv_method_answer(claim, delivery->call, 200, delivery->body);
}

static void come(side *self)
{
    self->claim = (nv_claim){.identity = self->identity,
                             .credential = NV_CREDENTIAL_PRIMARY,
                             .clean = true,
                             .granted = on_granted,
                             .evict = on_evict,
                             .deliver = on_deliver};
    self->running++;
    nv_claim_ask(loop_of(self), &self->claim);
    drain(self);
}

static void leave(side *self)
{
    self->running++;
    nv_claim_release(&self->claim, on_released);
    drain(self);
}

/* ---- the callers ---- */

static void call_done(nv_method_call *call)
{
    caller *c = nv_container_of(call, caller, call);
    side *self = c->owner;
    bool expected = call->error == NV_HUB_ERROR_NONE || call->error == NV_HUB_ERROR_DeviceNotOnline ||
                    call->error == NV_HUB_ERROR_DeviceConnectionClosedRemotely ||
                    call->error == NV_HUB_ERROR_ServiceUnavailable;
    bool right = call->error != NV_HUB_ERROR_NONE || nv_span_eq(nv_buf_span(&call->answer), call->payload);
    self->errors += expected && right ? 0 : 1;
    self->answers += call->error == NV_HUB_ERROR_NONE ? 1 : 0;
    self->cancelled += call->error == NV_HUB_ERROR_ServiceUnavailable ? 1 : 0;
    self->running--;
    c->done++;
    nv_buf_deinit(&call->answer);
}

/* Only those that are cancelled may wait for a device: no timers run here. */
static void call_round(side *self, int round)
{
    for (uint32_t i = 0; i < CALLS; i++) {
        caller *c = &self->callers[i];
        bool cancelled = (i + (uint32_t)round) % 3 == 0;
        *c = (caller){.owner = self,
                      .call = {.device_id = nv_span_str(i % 2 ? "d-0" : "d-1"),
                               .name = nv_span_str("m"),
                               .payload = nv_span_str("[1,2]"),
                               .response_timeout_us = 300 * NV_US_PER_S,
                               .connect_timeout_us = cancelled ? 300 * NV_US_PER_S : 0,
                               .done = call_done}};
        self->running++;
        nv_method_invoke(loop_of(self), &c->call);
        if (cancelled && i % 4 == 0) {
            nv_method_cancel(&c->call);
        }
    }
    (void)nv_exec_queue_run(&self->core->queues[self->index]); /* some are answered now, some are not */
    for (uint32_t i = 0; i < CALLS; i++) {
        caller *c = &self->callers[i];
        if ((i + (uint32_t)round) % 3 == 0 && c->done == 0) {
            nv_method_cancel(&c->call);
        }
    }
    drain(self);
    for (uint32_t i = 0; i < CALLS; i++) {
        self->errors += self->callers[i].done == 1 ? 0 : 1;
    }
}

/* ---- both ---- */

/* A device belongs to a shard, perhaps of the other loop: whoever is ready first serves on until both are. */
static _Atomic uint32_t ready;

static void wake(nv_task *task)
{
    (void)task;
}

static void serve(const side *self)
{
    static nv_task tasks[REAL_LOOPS];
    nv_task *task = &tasks[self->index];
    task->run = wake;
    atomic_fetch_add(&ready, 1);
    nv_post(&self->core->queues[1 - self->index].exec, task);
    while (atomic_load(&ready) < REAL_LOOPS) {
        (void)nv_exec_queue_run_wait(&self->core->queues[self->index]);
    }
}

static void *run_side(void *arg)
{
    side *self = arg;
    nv_exec_queue_adopt(&self->core->queues[self->index]);
    for (int round = 0; round < ROUNDS; round++) {
        bool there = round % 8 != 7;
        if (there) {
            come(self);
        }
        for (int i = 0; i < 4; i++) {
            call_round(self, round + i);
        }
        if (there) {
            leave(self);
        }
    }
    serve(self);
    return NULL;
}

static void found(nv_registry_find *find)
{
    side *self = find->arg;
    self->identity = find->identity;
    self->running--;
}

static void look_up(side *self, const char *id)
{
    nv_registry_find find = {.device_id = nv_span_str(id), .done = found, .arg = self};
    self->running++;
    nv_exec_queue_adopt(&self->core->queues[self->index]);
    if (nv_registry_lookup(loop_of(self), &find) == NV_OK) {
        found(&find);
    }
    drain(self);
    assert_non_null(self->identity);
}

static void calls_among_comings_and_goings(void **state)
{
    (void)state;
    real_core *core = real_core_new(NULL, NV_DURABILITY_OS);
    real_core_add(core, "d-0");
    real_core_add(core, "d-1");
    side *sides = nv_calloc(REAL_LOOPS, sizeof(*sides));
    for (uint32_t i = 0; i < REAL_LOOPS; i++) {
        sides[i] = (side){.core = core, .index = i};
        look_up(&sides[i], i ? "d-1" : "d-0");
    }
    for (uint32_t i = 0; i < REAL_LOOPS; i++) {
        assert_int_equal(pthread_create(&sides[i].thread, NULL, run_side, &sides[i]), 0);
    }
    for (uint32_t i = 0; i < REAL_LOOPS; i++) {
        (void)pthread_join(sides[i].thread, NULL);
        assert_int_equal(sides[i].errors, 0);
        assert_true(sides[i].answers > ROUNDS && sides[i].cancelled > ROUNDS);
        assert_true(nv_methods_idle(loop_of(&sides[i])->methods));
        nv_identity_unref(sides[i].identity);
    }
    free(sides);
    real_core_free(core);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_among_comings_and_goings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
