/* Queries, changes of the fleet and its twins from two loops at once, each with a thread of its own. */
#include "base/attrs.h"
#include "core/query.h"
#include "core/registry.h"
#include "core/twin.h"
#include "support/real_core.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define ROUNDS  40
#define QUERIES 4u

typedef struct side {
    real_core *core;
    uint32_t index;
    pthread_t thread;
    uint32_t running; /* of this loop */
    uint32_t errors;
    uint32_t answers;
    char id[16];
} side;

static void query_done(nv_query_request *request)
{
    side *self = request->arg;
    self->running--;
    self->answers++;
    nv_span rows = nv_buf_span(&request->rows);
    /* devices that stay are found by every query */
    bool right = request->error == NV_HUB_ERROR_NONE && rows.len > 2 && memmem(rows.ptr, rows.len, "stays", 5);
    self->errors += right ? 0 : 1;
    nv_buf_deinit(&request->rows);
    nv_buf_deinit(&request->next);
}

static void registry_done(nv_registry_request *request)
{
    side *self = request->arg;
    self->running--;
    self->errors += request->error != NV_HUB_ERROR_NONE ? 1 : 0;
    nv_identity_unref(request->identity);
}

static void twin_done(nv_twin_request *request)
{
    side *self = request->arg;
    self->running--;
    self->errors += request->error != NV_HUB_ERROR_NONE ? 1 : 0;
    nv_twin_unref(request->twin);
}

static void drain(side *self)
{
    while (self->running > 0) {
        (void)nv_exec_queue_run_wait(&self->core->queues[self->index]);
    }
}

/* A device belongs to a shard, perhaps of the other loop: whoever is ready first serves on until both are. */
static _Atomic uint32_t ready;
static void wake(nv_task *task)
{
    (void)task;
}

static void serve(side *self)
{
    static nv_task tasks[REAL_LOOPS];
    nv_task *task = &tasks[self->index];
    task->run = wake;
    uint32_t other = 1 - self->index;
    atomic_fetch_add(&ready, 1);
    nv_post(&self->core->queues[other].exec, task);
    while (atomic_load(&ready) < REAL_LOOPS) {
        (void)nv_exec_queue_run_wait(&self->core->queues[self->index]);
    }
}

static void change(side *self, nv_registry_verb verb)
{
    nv_registry_request request = {.verb = verb,
                                   .spec = {.device_id = nv_span_str(self->id), .enabled = true},
                                   .precondition = verb == NV_REGISTRY_DELETE ? NV_IF_ANY : NV_IF_NONE,
                                   .done = registry_done,
                                   .arg = self};
    self->running++;
    nv_registry_do(&self->core->hub->loops[self->index], &request);
    drain(self);
}

static void patch(side *self, const char *id, int round)
{
    char body[128];
    (void)snprintf(body, sizeof(body), "{\"tags\":{\"kind\":\"k\",\"name\":\"%s\",\"round\":%d}}", id, round);
    nv_twin_request request = {
        .verb = NV_TWIN_PATCH, .device_id = nv_span_str(id), .body = nv_span_str(body), .done = twin_done, .arg = self};
    self->running++;
    nv_twin_do(&self->core->hub->loops[self->index], &request);
    drain(self);
}

static void ask(side *self)
{
    static const char *const texts[QUERIES] = {
        "SELECT * FROM devices WHERE tags.kind = 'k'",
        "SELECT deviceId, connectionState FROM devices WHERE tags.round >= 0",
        "SELECT tags.name, COUNT() AS n FROM devices GROUP BY tags.name",
        "SELECT * FROM devices WHERE deviceId IN ['stays-0', 'stays-1', 'goes-0', 'goes-1']",
    };
    nv_query_request requests[QUERIES];
    for (size_t i = 0; i < QUERIES; i++) {
        requests[i] = (nv_query_request){.text = nv_span_str(texts[i]), .done = query_done, .arg = self};
        self->running++;
        nv_query_do(&self->core->hub->loops[self->index], &requests[i]);
    }
    drain(self);
}

static void *run_side(void *arg)
{
    side *self = arg;
    char stays[16];
    nv_exec_queue_adopt(&self->core->queues[self->index]);
    (void)snprintf(self->id, sizeof(self->id), "goes-%u", self->index);
    (void)snprintf(stays, sizeof(stays), "stays-%u", self->index);
    patch(self, stays, 0);
    for (int round = 0; round < ROUNDS; round++) {
        change(self, NV_REGISTRY_PUT);
        patch(self, self->id, round);
        ask(self);
        patch(self, stays, round);
        change(self, NV_REGISTRY_DELETE);
    }
    serve(self);
    return NULL;
}

static void queries_among_changes(void **state)
{
    (void)state;
    real_core *core = real_core_new(NULL, NV_DURABILITY_OS);
    real_core_add(core, "stays-0");
    real_core_add(core, "stays-1");
    side sides[REAL_LOOPS];
    for (uint32_t i = 0; i < REAL_LOOPS; i++) {
        sides[i] = (side){.core = core, .index = i};
        assert_int_equal(pthread_create(&sides[i].thread, NULL, run_side, &sides[i]), 0);
    }
    for (uint32_t i = 0; i < REAL_LOOPS; i++) {
        (void)pthread_join(sides[i].thread, NULL);
        assert_int_equal(sides[i].errors, 0);
        assert_int_equal(sides[i].answers, ROUNDS * QUERIES);
    }
    assert_int_equal(atomic_load(&core->hub->_queries), 0);
    real_core_free(core);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(queries_among_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
