/*
 * Several loops at once on one twin, each adding one to a tag under If-Match and to a reported number of its own:
 * nothing is lost, nothing is counted twice, and the device hears of desired properties in the order of their versions.
 */
#include "base/attrs.h"
#include "core/twin_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define THREADS 3u
#define ROUNDS  150u

typedef struct racer {
    struct race *race;
    nv_exec_queue queue;
    nv_hub_loop loop;
    pthread_t thread;
    uint32_t index;
    uint64_t lost; /* If-Match that came too late */
} racer;

typedef struct race {
    rig *w;
    nv_exec_queue shard_queue; /* the device's loop: nobody else asks there */
    nv_hub_loop shard;
    pthread_t shard_thread;
    racer racers[THREADS];
    _Atomic int wrong;
} race;

static void set_flag(nv_twin_request *request)
{
    *(bool *)request->arg = true;
}

static nv_hub_error ask(racer *self, nv_twin_request *request)
{
    bool done = false;
    request->done = set_flag;
    request->arg = &done;
    nv_twin_do(&self->loop, request);
    while (!done) {
        nv_exec_queue_run_wait(&self->queue);
    }
    return request->error;
}

static uint64_t read_number(const nv_twin *twin)
{
    uint64_t number = 0;
    nv_span prefix = nv_span_str("{\"n\":");
    if (nv_span_starts_with(twin->tags, prefix)) {
        nv_span digits = nv_span_of(twin->tags.ptr + prefix.len, twin->tags.len - prefix.len - 1);
        (void)nv_span_to_u64(digits, &number);
    }
    return number;
}

/* Read, add one, write if nobody did meanwhile; again until it is done. */
static void add_one(racer *self)
{
    nv_hub_error error = NV_HUB_ERROR_PreconditionFailed;
    while (error == NV_HUB_ERROR_PreconditionFailed) {
        char body[96];
        nv_twin_request get = twin_rig_request(NV_TWIN_GET, "d1", "", "");
        self->race->wrong += ask(self, &get) != NV_HUB_ERROR_NONE ? 1 : 0;
        unsigned long long next = (unsigned long long)read_number(get.twin) + 1;
        (void)snprintf(body, sizeof(body), "{\"tags\":{\"n\":%llu},\"properties\":{\"desired\":{\"n\":%llu}}}", next,
                       next);
        nv_twin_request patch = twin_rig_request(NV_TWIN_PATCH, "d1", "", body);
        patch.precondition = NV_IF_ETAG;
        patch.etag = get.twin->etag;
        error = ask(self, &patch);
        self->lost += error == NV_HUB_ERROR_PreconditionFailed ? 1 : 0;
        nv_twin_unref(get.twin);
        nv_twin_unref(patch.twin);
    }
    self->race->wrong += error != NV_HUB_ERROR_NONE ? 1 : 0;
}

static void *run_racer(void *arg)
{
    racer *self = arg;
    nv_exec_queue_adopt(&self->queue);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        char body[64];
        add_one(self);
        (void)snprintf(body, sizeof(body), "{\"r%u\":%u}", self->index, round);
        nv_twin_request reported = twin_rig_request(NV_TWIN_REPORTED, "d1", "", body);
        self->race->wrong += ask(self, &reported) != NV_HUB_ERROR_NONE ? 1 : 0;
    }
    return NULL;
}

static void *run_shard(void *arg)
{
    race *r = arg;
    nv_exec_queue_adopt(&r->shard_queue);
    while (nv_exec_queue_run_wait(&r->shard_queue)) {
    }
    return NULL;
}

/* "d1 2 {"n":1}", "d1 3 {"n":2}", ...: what fits into what the rig remembers. */
static void assert_told_in_order(void)
{
    const char *at = twin_rig_told;
    for (unsigned long long n = 1; n < 300; n++) {
        char line[64];
        (void)snprintf(line, sizeof(line), "d1 %llu {\"n\":%llu}\n", n + 1, n);
        if (strncmp(at, line, strlen(line)) != 0) {
            fail_msg("%.40s instead of %s", at, line);
        }
        at += strlen(line);
    }
}

static void nothing_is_lost_between_loops(void **state)
{
    race *r = calloc(1, sizeof(*r));
    r->w = *state;
    nv_exec_queue_init(&r->shard_queue);
    r->shard = (nv_hub_loop){.hub = &r->w->hub, .exec = &r->shard_queue.exec, .index = THREADS};
    twin_rig_shard = &r->shard;
    twin_rig_listens = true;
    assert_int_equal(pthread_create(&r->shard_thread, NULL, run_shard, r), 0);
    for (uint32_t i = 0; i < THREADS; i++) {
        racer *one = &r->racers[i];
        one->race = r;
        one->index = i;
        nv_exec_queue_init(&one->queue);
        one->loop = (nv_hub_loop){.hub = &r->w->hub, .exec = &one->queue.exec, .index = i};
        assert_int_equal(pthread_create(&one->thread, NULL, run_racer, one), 0);
    }
    uint64_t lost = 0;
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(r->racers[i].thread, NULL), 0);
        nv_exec_queue_deinit(&r->racers[i].queue);
        lost += r->racers[i].lost;
    }
    nv_exec_queue_stop(&r->shard_queue);
    assert_int_equal(pthread_join(r->shard_thread, NULL), 0);
    nv_exec_queue_deinit(&r->shard_queue);
    twin_rig_shard = NULL;
    assert_int_equal(r->wrong, 0);
    assert_told_in_order();
    nv_twin *twin = twin_rig_get(r->w, "d1", "");
    assert_int_equal(read_number(twin), THREADS * ROUNDS);
    assert_int_equal(twin->etag, 1 + THREADS * ROUNDS);
    assert_int_equal(twin->desired_version, 1 + THREADS * ROUNDS);
    assert_int_equal(twin->reported_version, 1 + THREADS * ROUNDS);
    assert_int_equal(twin->version, 2 + 2 * THREADS * ROUNDS);
    nv_twin_unref(twin);
    print_message("%llu of %u came too late\n", (unsigned long long)lost, THREADS * ROUNDS);
    free(r);
}

static int setup(void **state)
{
    twin_rig_clear();
    int rc = rig_setup(state);
    rig *w = *state;
    w->hub.loops = &w->loop;
    nv_identity_unref(rig_create(w, "d1", ""));
    return rc;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_is_lost_between_loops, setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
