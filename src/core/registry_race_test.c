/*
 * Several loops at once on one identity: of the writers that name the same ETag exactly one wins, and a lookup is never
 * older than what was answered before it, on whichever loop.
 */
#include "base/attrs.h"
#include "core/registry_cache.h"
#include "core/registry_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define THREADS 3u
#define ROUNDS  400u
#define ETAGS   (THREADS * ROUNDS + 1u)

/* A version of the identity, in the order of time: a deleted one is the last of its generation. */
typedef struct version {
    uint64_t generation;
    uint64_t etag;
} version;

typedef struct race race;

typedef struct racer {
    race *race;
    nv_exec_queue queue;
    nv_hub_loop loop;
    pthread_t thread;
    uint32_t index;
    uint64_t from_memory;
} racer;

struct race {
    rig *w;
    racer racers[THREADS];
    bool deletes;
    _Atomic int wrong;
    pthread_mutex_t lock;
    version answered; /* the newest */
    uint64_t first_etag;
    uint32_t winners[ETAGS]; /* by etag since the first; without deletes */
    uint64_t wins;
};

static version version_of(const nv_identity *identity)
{
    version v = {.etag = identity->etag};
    assert_true(nv_span_to_u64(identity->generation_id, &v.generation));
    return v;
}

static bool is_older(version a, version b)
{
    return a.generation < b.generation || (a.generation == b.generation && a.etag < b.etag);
}

static void answered(race *r, version v)
{
    pthread_mutex_lock(&r->lock);
    r->answered = is_older(r->answered, v) ? v : r->answered;
    pthread_mutex_unlock(&r->lock);
}

static version floor_of(race *r)
{
    pthread_mutex_lock(&r->lock);
    version v = r->answered;
    pthread_mutex_unlock(&r->lock);
    return v;
}

static void set_flag(nv_registry_request *request)
{
    *(bool *)request->arg = true;
}

static nv_hub_error ask(racer *self, nv_registry_request *request)
{
    bool done = false;
    request->done = set_flag;
    request->arg = &done;
    nv_registry_do(&self->loop, request);
    while (!done) {
        nv_exec_queue_run_wait(&self->queue);
    }
    return request->error;
}

static void find_flag(nv_registry_find *find)
{
    *(bool *)find->arg = true;
}

static nv_identity *look(racer *self)
{
    bool done = false;
    nv_registry_find find = {.device_id = S("d"), .done = find_flag, .arg = &done};
    version before = floor_of(self->race);
    nv_err err = nv_registry_lookup(&self->loop, &find);
    while (err == NV_E_MORE && !done) {
        nv_exec_queue_run_wait(&self->queue);
    }
    self->from_memory += err == NV_OK ? 1 : 0;
    if (find.identity && is_older(version_of(find.identity), before)) {
        self->race->wrong++;
    }
    return find.identity;
}

static void note_win(race *r, uint64_t new_etag)
{
    pthread_mutex_lock(&r->lock);
    uint64_t at = new_etag - r->first_etag;
    if (at < ETAGS) {
        r->winners[at]++;
    }
    r->wins++;
    pthread_mutex_unlock(&r->lock);
}

static void update(racer *self, const nv_identity *seen)
{
    nv_registry_request request = rig_update(seen);
    if (ask(self, &request) == NV_HUB_ERROR_NONE) {
        if (request.identity->etag != seen->etag + 1) {
            self->race->wrong++;
        }
        note_win(self->race, request.identity->etag);
        answered(self->race, version_of(request.identity));
        nv_identity_unref(request.identity);
    } else if (request.error != NV_HUB_ERROR_PreconditionFailed && request.error != NV_HUB_ERROR_DeviceNotFound) {
        self->race->wrong++;
    }
}

static void remove_it(racer *self, const nv_identity *seen)
{
    nv_registry_request request = rig_update(seen);
    request.verb = NV_REGISTRY_DELETE;
    if (ask(self, &request) == NV_HUB_ERROR_NONE) {
        version v = version_of(seen);
        v.etag = UINT64_MAX;
        answered(self->race, v);
    }
}

static void make_it(racer *self)
{
    nv_registry_request request = rig_request(NV_REGISTRY_PUT, "d", "");
    if (ask(self, &request) == NV_HUB_ERROR_NONE) {
        answered(self->race, version_of(request.identity));
        nv_identity_unref(request.identity);
    } else if (request.error != NV_HUB_ERROR_DeviceAlreadyExists) {
        self->race->wrong++;
    }
}

static void *racer_main(void *arg)
{
    racer *self = arg;
    nv_exec_queue_adopt(&self->queue);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        nv_identity *seen = look(self);
        if (!seen) {
            make_it(self);
        } else if (self->race->deletes && round % THREADS == self->index) {
            remove_it(self, seen);
        } else {
            update(self, seen);
        }
        nv_identity_unref(seen);
        nv_identity_unref(look(self));
    }
    return NULL;
}

static race *run_race(rig *w, bool deletes)
{
    race *r = calloc(1, sizeof(*r));
    r->w = w;
    r->deletes = deletes;
    pthread_mutex_init(&r->lock, NULL);
    nv_identity *first = rig_create(w, "d", "");
    r->first_etag = first->etag;
    answered(r, version_of(first));
    nv_identity_unref(first);
    for (uint32_t i = 0; i < THREADS; i++) {
        racer *racer_of = &r->racers[i];
        racer_of->race = r;
        racer_of->index = i;
        nv_exec_queue_init(&racer_of->queue);
        racer_of->loop = (nv_hub_loop){.hub = &w->hub, .exec = &racer_of->queue.exec, .index = i};
        assert_int_equal(pthread_create(&racer_of->thread, NULL, racer_main, racer_of), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(r->racers[i].thread, NULL), 0);
        nv_exec_queue_deinit(&r->racers[i].queue);
    }
    pthread_mutex_destroy(&r->lock);
    return r;
}

static void exactly_one_winner_per_etag(void **state)
{
    rig *w = *state;
    race *r = run_race(w, false);
    assert_int_equal(r->wrong, 0);
    for (uint64_t i = 1; i <= r->wins; i++) {
        assert_int_equal(r->winners[i], 1);
    }
    nv_identity *last = rig_get(w, "d", "");
    assert_true(last->etag == r->first_etag + r->wins);
    assert_true(r->wins > 0 && r->racers[0].from_memory > 0);
    nv_identity_unref(last);
    free(r);
}

static void deletes_leave_nothing_stale(void **state)
{
    rig *w = *state;
    race *r = run_race(w, true);
    assert_int_equal(r->wrong, 0);
    nv_state_counts counts = nv_state_counts_now(w->state);
    nv_identity *last = rig_get(w, "d", "");
    assert_true(counts.devices == (last ? 1 : 0));
    nv_identity_unref(last);
    free(r);
}

/* ---- what the memory itself promises, step by step ---- */

static nv_identity *numbered(uint64_t etag, const char *module)
{
    nv_identity from = {.device_id = S("d"), .module_id = S(module), .generation_id = S("1"), .etag = etag};
    return nv_identity_new(&from);
}

/* 0: nothing is kept. */
static uint64_t kept(nv_cache *cache, const char *module, uint64_t *mark)
{
    nv_identity *identity = nv_cache_find(cache, S("d"), S(module), mark);
    uint64_t etag = identity ? identity->etag : 0;
    nv_identity_unref(identity);
    return etag;
}

static void change(nv_cache *cache, uint64_t number, const char *module, uint64_t etag, bool modules_too)
{
    nv_identity *identity = etag ? numbered(etag, module) : NULL;
    nv_cache_change(cache, number, S("d"), S(module), identity, modules_too);
    nv_identity_unref(identity);
}

static void learn(nv_cache *cache, const char *module, uint64_t etag, uint64_t mark)
{
    nv_identity *identity = numbered(etag, module);
    nv_cache_learn(cache, identity, mark);
    nv_identity_unref(identity);
}

static void memory_survives_every_interleaving(void **state)
{
    (void)state;
    nv_cache *cache = calloc(1, sizeof(*cache)); /* too large for a stack */
    uint64_t mark = 0;
    uint64_t other = 0;
    nv_cache_init(cache, 1 << 20, 1);
    /* a read overtaken by a change keeps nothing */
    assert_int_equal(kept(cache, "", &mark), 0);
    change(cache, 1, "", 11, false);
    learn(cache, "", 10, mark);
    assert_int_equal(kept(cache, "", &other), 11);
    /* a read overtaken by a delete neither */
    assert_int_equal(kept(cache, "m", &mark), 0);
    change(cache, 2, "", 0, true);
    learn(cache, "m", 5, mark);
    assert_int_equal(kept(cache, "m", &mark), 0);
    assert_int_equal(kept(cache, "", &mark), 0);
    /* a change that arrives after its successor only removes */
    change(cache, 4, "", 14, false);
    change(cache, 3, "", 13, false);
    assert_int_equal(kept(cache, "", &mark), 0);
    learn(cache, "", 14, mark);
    assert_int_equal(kept(cache, "", &mark), 14);
    /* a device's change of status takes its modules along, whenever it arrives */
    learn(cache, "m", 6, mark);
    assert_int_equal(kept(cache, "m", &mark), 6);
    change(cache, 5, "", 15, true);
    assert_int_equal(kept(cache, "m", &mark), 0);
    learn(cache, "m", 6, mark);
    assert_int_equal(kept(cache, "m", &mark), 6);
    change(cache, 7, "n", 1, false);
    change(cache, 6, "", 16, true);
    assert_int_equal(kept(cache, "m", &mark), 0);
    assert_int_equal(kept(cache, "n", &mark), 1); /* it was written after the status changed */
    nv_cache_deinit(cache);
    free(cache);
}

/* @return connection_updated_us of what is kept, 0: nothing */
static int64_t kept_time(nv_cache *cache)
{
    uint64_t mark = 0;
    nv_identity *identity = nv_cache_find(cache, S("d"), S(""), &mark);
    int64_t time_us = identity ? identity->connection_updated_us : 0;
    assert_true(!identity || identity->last_activity_us == time_us + 1);
    nv_identity_unref(identity);
    return time_us;
}

static void put_times(nv_cache *cache, uint64_t number, const char *generation, int64_t time_us)
{
    nv_identity identity = {.device_id = S("d"), .generation_id = S(generation)};
    nv_cache_change_times(cache, number, &identity, time_us, time_us + 1);
}

static void storing_times_keeps_what_is_remembered(void **state)
{
    (void)state;
    nv_cache *cache = calloc(1, sizeof(*cache));
    uint64_t mark = 0;
    nv_cache_init(cache, 1 << 20, 1);
    put_times(cache, 1, "1", 100); /* nothing is remembered, and nothing is made up */
    assert_int_equal(kept(cache, "", &mark), 0);
    learn(cache, "", 10, mark);
    put_times(cache, 2, "1", 200);
    assert_int_equal(kept(cache, "", &mark), 10);
    assert_int_equal(kept_time(cache), 200);
    put_times(cache, 2, "1", 201); /* the same change may hold several of one bucket */
    assert_int_equal(kept_time(cache), 201);
    /* a read that began before they were stored has the old ones */
    put_times(cache, 3, "1", 300);
    learn(cache, "", 9, mark);
    assert_int_equal(kept_time(cache), 300);
    /* those that arrive after a later change only remove, as do those of an identity that was made anew */
    change(cache, 5, "", 15, false);
    put_times(cache, 4, "1", 400);
    assert_int_equal(kept(cache, "", &mark), 0);
    learn(cache, "", 15, mark);
    put_times(cache, 6, "0", 600);
    assert_int_equal(kept(cache, "", &mark), 0);
    nv_cache_deinit(cache);
    free(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_survives_every_interleaving),
        cmocka_unit_test(storing_times_keeps_what_is_remembered),
        cmocka_unit_test_setup_teardown(exactly_one_winner_per_etag, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(deletes_leave_nothing_stale, rig_setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
