/* Consumer groups and their readers: kept over restarts, rules of owner levels, and everything at once from two loops.
 */
#include "core/event_hub.h"

#include "base/alloc.h"
#include "base/attrs.h"
#include "store/state.h"
#include "support/hub_rest.h"
#include "support/temp_dir.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define LOOPS 2u

typedef struct world {
    char dir[64];
    nv_state *state;
    nv_hub *hub;
    nv_exec_queue queues[LOOPS];
    nv_limits limits;
    const char *entity;
    const char *host;
} world;

static nv_span S(const char *text)
{
    return nv_span_str(text);
}

static nv_err open_hub(world *w, char why[200])
{
    nv_buf buf;
    nv_buf_init(&buf, 500);
    nv_state_config config = {.dir = w->dir, .clock = nv_clock_system(), .rng = nv_rng_system()};
    assert_int_equal(nv_state_open(&w->state, &config, &buf), NV_OK);
    nv_exec *loops[LOOPS] = {&w->queues[0].exec, &w->queues[1].exec};
    const char *names[] = {w->host};
    nv_hub_config hub = {.host_names = names,
                         .host_name_count = 1,
                         .limits = &w->limits,
                         .state = w->state,
                         .clock = nv_clock_system(),
                         .rng = nv_rng_system(),
                         .loops = loops,
                         .loop_count = LOOPS,
                         .entity = w->entity};
    nv_err err = nv_hub_new(&w->hub, &hub, &buf);
    (void)snprintf(why, 200, "%.*s", NV_SPAN_ARG(nv_buf_span(&buf)));
    nv_buf_deinit(&buf);
    return err;
}

static size_t run(world *w)
{
    size_t all = 0;
    for (size_t ran = 1; ran > 0; all += ran) {
        ran = 0;
        for (size_t i = 0; i < LOOPS; i++) {
            nv_exec_queue_adopt(&w->queues[i]);
            ran += nv_exec_queue_run(&w->queues[i]);
        }
    }
    return all;
}

static void close_hub(world *w)
{
    if (w->hub) {
        hub_rest(w->hub);
    }
    nv_state_close(w->state);
    if (w->hub) {
        nv_hub_free(w->hub);
    }
    w->hub = NULL;
    w->state = NULL;
}

static void reopen(world *w)
{
    char why[200];
    close_hub(w);
    assert_int_equal(open_hub(w, why), NV_OK);
}

static int setup(void **state)
{
    world *w = nv_calloc(1, sizeof(*w));
    char why[200];
    w->limits = nv_limits_open;
    w->host = "hub.test";
    temp_dir_make(w->dir, sizeof(w->dir), NULL);
    for (size_t i = 0; i < LOOPS; i++) {
        nv_exec_queue_init(&w->queues[i]);
    }
    assert_int_equal(open_hub(w, why), NV_OK);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    close_hub(w);
    for (size_t i = 0; i < LOOPS; i++) {
        nv_exec_queue_deinit(&w->queues[i]);
    }
    temp_dir_remove(w->dir);
    free(w);
    return 0;
}

/* ---- changes ---- */

typedef struct call {
    nv_group_change change; /* first member */
    bool done;
} call;

static void call_done(nv_group_change *change)
{
    nv_container_of(change, call, change)->done = true;
}

static call change(world *w, size_t loop, bool create, const char *name)
{
    call c = {.change = {.name = S(name), .create = create, .done = call_done}};
    nv_group_change_do(&w->hub->loops[loop], &c.change);
    assert_false(c.done);
    while (!c.done) {
        if (run(w) == 0) {
            sched_yield();
        }
    }
    return c;
}

static void expect(world *w, bool create, const char *name, nv_hub_error error, bool existed)
{
    call c = change(w, 1, create, name);
    if (c.change.error != error || (error == NV_HUB_ERROR_NONE && c.change.existed != existed)) {
        fail_msg("%s \"%s\": %s (%s), %d", create ? "create" : "delete", name,
                 nv_hub_error_info_of(c.change.error)->name, c.change.detail, c.change.existed);
    }
    assert_true((error == NV_HUB_ERROR_ArgumentInvalid) == (c.change.detail[0] != '\0'));
}

static void add_name(void *arg, const nv_group *group)
{
    char *text = arg;
    assert_true(group->created_us > 0);
    (void)snprintf(text + strlen(text), 200 - strlen(text), "%.*s ", NV_SPAN_ARG(group->name));
}

static void expect_list(world *w, const char *names)
{
    char text[200] = "";
    nv_groups_list(w->hub, add_name, text);
    assert_string_equal(text, names);
}

static void groups_are_kept(void **state)
{
    world *w = *state;
    expect_list(w, "$Default ");
    assert_true(nv_group_exists(w->hub, S("$DEFAULT")));
    expect(w, true, "$default", NV_HUB_ERROR_NONE, true);
    expect(w, false, "$Default", NV_HUB_ERROR_ArgumentInvalid, true);
    expect(w, true, "web", NV_HUB_ERROR_NONE, false);
    expect(w, true, "Archive-1", NV_HUB_ERROR_NONE, false);
    expect(w, true, "0", NV_HUB_ERROR_NONE, false);
    expect(w, true, "WEB", NV_HUB_ERROR_NONE, true);
    expect(w, false, "nobody", NV_HUB_ERROR_NONE, false);
    int64_t created = change(w, 0, true, "Web").change.created_us;
    expect_list(w, "$Default 0 Archive-1 web ");
    reopen(w);
    expect_list(w, "$Default 0 Archive-1 web ");
    assert_true(nv_group_exists(w->hub, S("archive-1")));
    assert_int_equal(change(w, 0, true, "Web").change.created_us, created);
    expect(w, false, "ARCHIVE-1", NV_HUB_ERROR_NONE, true);
    assert_false(nv_group_exists(w->hub, S("Archive-1")));
    reopen(w);
    expect_list(w, "$Default 0 web ");
}

static void names_have_rules(void **state)
{
    world *w = *state;
    static const char *const bad[] = {
        "",    "a b",       "-a",     "a-",        ".a",
        "a/b", "a\xc3\xa4", "$Other", "$Default ", "a23456789012345678901234567890123456789012345678901", /* 51 */
    };
    for (size_t i = 0; i < NV_COUNT_OF(bad); i++) {
        expect(w, true, bad[i], NV_HUB_ERROR_ArgumentInvalid, false);
        assert_false(nv_group_exists(w->hub, S(bad[i])));
    }
    expect(w, true, "a2345678901234567890123456789012345678901234567890", NV_HUB_ERROR_NONE, false); /* 50 */
    expect(w, true, "a.b_c-d", NV_HUB_ERROR_NONE, false);
}

static void there_is_a_limit(void **state)
{
    world *w = *state;
    w->limits.consumer_groups = 3;
    reopen(w);
    expect(w, true, "a", NV_HUB_ERROR_NONE, false);
    expect(w, true, "b", NV_HUB_ERROR_NONE, false);
    expect(w, true, "c", NV_HUB_ERROR_TooManyConsumerGroups, false);
    expect(w, true, "b", NV_HUB_ERROR_NONE, true);
    expect(w, false, "a", NV_HUB_ERROR_NONE, true);
    expect(w, true, "c", NV_HUB_ERROR_NONE, false);
    nv_hub_stop(w->hub);
    expect(w, true, "d", NV_HUB_ERROR_ServiceUnavailable, false);
}

static void entity_has_a_name(void **state)
{
    world *w = *state;
    static const struct {
        const char *host;
        const char *entity;
        const char *name; /* NULL: refused */
    } rows[] = {
        {"hub.test", NULL, "hub"},         {"MyHub", "", "MyHub"},         {"192.0.2.1", NULL, "events"},
        {"::1", NULL, "events"},           {"hub.test", "x-y", "x-y"},     {"hub.test", "a b", NULL},
        {"hub.test", "$management", NULL}, {"hub.test", "a/", NULL},       {"devices.hub.test", NULL, "events"},
        {"Messages", NULL, "events"}, /* nobody could reach them */
        {"hub.test", "Devices", NULL},     {"hub.test", "messages", NULL}, {"hub.test", "devices1", "devices1"},
    };
    char why[200];
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        close_hub(w);
        w->host = rows[i].host;
        w->entity = rows[i].entity;
        nv_err err = open_hub(w, why);
        assert_int_equal(err, rows[i].name ? NV_OK : NV_E_INVALID);
        if (err != NV_OK) {
            assert_non_null(strstr(why, "events.entity"));
            w->hub = NULL;
            continue;
        }
        assert_true(nv_span_eq_str(nv_event_hub_entity(w->hub), rows[i].name));
        assert_false(nv_event_hub_is_entity(w->hub, S("other")));
        assert_true(nv_event_hub_created_us(w->hub) > 0);
    }
    w->entity = NULL;
    w->host = "hub.test";
    reopen(w);
    assert_true(nv_event_hub_is_entity(w->hub, S("HUB")));
}

/* ---- receivers ---- */

typedef struct reader {
    nv_receiver core; /* first member */
    int answers;
    int evictions;
    int closed;
    nv_receiver_verdict verdict;
    nv_receiver_verdict why;
} reader;

static void on_opened(nv_receiver *core, nv_receiver_verdict verdict)
{
    reader *r = nv_container_of(core, reader, core);
    assert_int_equal(r->closed, 0);
    r->answers++;
    r->verdict = verdict;
}

static void on_evicted(nv_receiver *core, nv_receiver_verdict why)
{
    reader *r = nv_container_of(core, reader, core);
    assert_int_equal(r->closed, 0);
    r->evictions++;
    r->why = why;
}

static void on_closed(nv_receiver *core)
{
    nv_container_of(core, reader, core)->closed++;
}

#define NO_LEVEL (-1)

static void open_reader(world *w, reader *r, size_t loop, const char *group, uint32_t partition, int64_t epoch)
{
    char volatile_name[NV_GROUP_NAME_MAX + 10];
    (void)snprintf(volatile_name, sizeof(volatile_name), "%s", group);
    *r = (reader){.core = {.group = S(volatile_name),
                           .partition = partition,
                           .has_epoch = epoch != NO_LEVEL,
                           .epoch = epoch == NO_LEVEL ? 0 : epoch,
                           .opened = on_opened,
                           .evicted = on_evicted}};
    nv_receiver_open(&w->hub->loops[loop], &r->core);
    memset(volatile_name, 'x', sizeof(volatile_name)); /* it was copied */
}

static nv_receiver_verdict opened(world *w, reader *r, size_t loop, const char *group, uint32_t partition,
                                  int64_t epoch)
{
    open_reader(w, r, loop, group, partition, epoch);
    assert_int_equal(r->answers, 0);
    (void)run(w);
    assert_int_equal(r->answers, 1);
    return r->verdict;
}

static void close_reader(world *w, reader *r)
{
    nv_receiver_close(&r->core, on_closed);
    assert_int_equal(r->closed, 0);
    (void)run(w);
    assert_int_equal(r->closed, 1);
}

static void five_read_side_by_side(void **state)
{
    world *w = *state;
    reader r[7];
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(opened(w, &r[i], i % LOOPS, "$default", 3, NO_LEVEL), NV_RECEIVER_OK);
    }
    assert_int_equal(opened(w, &r[5], 1, "$Default", 3, NO_LEVEL), NV_RECEIVER_TOO_MANY);
    assert_int_equal(opened(w, &r[6], 1, "$Default", 4, NO_LEVEL), NV_RECEIVER_OK); /* another partition */
    close_reader(w, &r[5]);
    close_reader(w, &r[0]);
    assert_int_equal(opened(w, &r[0], 1, "$Default", 3, NO_LEVEL), NV_RECEIVER_OK);
    for (size_t i = 0; i < 7; i++) {
        if (i != 5) {
            assert_int_equal(r[i].evictions, 0);
            close_reader(w, &r[i]);
        }
    }
    assert_int_equal(opened(w, &r[0], 0, "nobody", 0, NO_LEVEL), NV_RECEIVER_NO_GROUP);
    close_reader(w, &r[0]);
    assert_int_equal(opened(w, &r[0], 0, "$Default", NV_LOG_MAX_PARTITIONS, NO_LEVEL), NV_RECEIVER_NO_GROUP);
    close_reader(w, &r[0]);
}

/* conformance: amqp.md 50 */
static void the_highest_level_owns(void **state)
{
    world *w = *state;
    reader plain[2];
    reader level[4];
    reader late;
    assert_int_equal(opened(w, &plain[0], 0, "$Default", 0, NO_LEVEL), NV_RECEIVER_OK);
    assert_int_equal(opened(w, &plain[1], 1, "$Default", 0, NO_LEVEL), NV_RECEIVER_OK);
    assert_int_equal(opened(w, &level[0], 1, "$Default", 0, 0), NV_RECEIVER_OK);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(plain[i].evictions, 1);
        assert_int_equal(plain[i].why, NV_RECEIVER_STOLEN);
    }
    assert_int_equal(opened(w, &late, 0, "$Default", 0, NO_LEVEL), NV_RECEIVER_STOLEN);
    close_reader(w, &late);
    assert_int_equal(opened(w, &late, 0, "$Default", 1, NO_LEVEL), NV_RECEIVER_OK); /* another partition */
    close_reader(w, &late);
    assert_int_equal(opened(w, &level[1], 0, "$Default", 0, 2), NV_RECEIVER_OK);
    assert_int_equal(level[0].evictions, 1);
    assert_int_equal(opened(w, &level[2], 0, "$Default", 0, 1), NV_RECEIVER_STOLEN);
    assert_int_equal(level[1].evictions, 0);
    assert_int_equal(opened(w, &level[3], 1, "$default", 0, 2), NV_RECEIVER_OK); /* the newer one of the same */
    assert_int_equal(level[1].evictions, 1);
    close_reader(w, &level[3]);
    assert_int_equal(opened(w, &late, 0, "$Default", 0, NO_LEVEL), NV_RECEIVER_OK); /* the owner went */
    close_reader(w, &late);
    close_reader(w, &plain[0]);
    close_reader(w, &plain[1]);
    for (size_t i = 0; i < 3; i++) {
        close_reader(w, &level[i]);
    }
}

static void readers_go_with_their_group(void **state)
{
    world *w = *state;
    reader r[3];
    expect(w, true, "web", NV_HUB_ERROR_NONE, false);
    assert_int_equal(opened(w, &r[0], 0, "Web", 0, NO_LEVEL), NV_RECEIVER_OK);
    assert_int_equal(opened(w, &r[1], 1, "web", 31, 7), NV_RECEIVER_OK);
    assert_int_equal(opened(w, &r[2], 1, "$Default", 31, 7), NV_RECEIVER_OK);
    expect(w, false, "web", NV_HUB_ERROR_NONE, true);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(r[i].evictions, 1);
        assert_int_equal(r[i].why, NV_RECEIVER_NO_GROUP);
    }
    assert_int_equal(r[2].evictions, 0);
    for (size_t i = 0; i < 3; i++) {
        close_reader(w, &r[i]);
    }
    assert_int_equal(opened(w, &r[0], 0, "web", 0, NO_LEVEL), NV_RECEIVER_NO_GROUP);
    close_reader(w, &r[0]);
}

static void closed_means_quiet(void **state)
{
    world *w = *state;
    reader first;
    reader second;
    /* before the answer */
    open_reader(w, &first, 1, "$Default", 0, 1);
    nv_receiver_close(&first.core, on_closed);
    (void)run(w);
    assert_int_equal(first.answers, 0);
    assert_int_equal(first.closed, 1);
    /* between an eviction by the owner and its arrival */
    assert_int_equal(opened(w, &first, 1, "$Default", 0, 1), NV_RECEIVER_OK);
    open_reader(w, &second, 0, "$Default", 0, 2);
    nv_exec_queue_adopt(&w->queues[0]);
    (void)nv_exec_queue_run(&w->queues[0]); /* the owner has decided */
    nv_receiver_close(&first.core, on_closed);
    (void)run(w);
    assert_int_equal(first.evictions, 0);
    assert_int_equal(first.closed, 1);
    assert_int_equal(second.verdict, NV_RECEIVER_OK);
    close_reader(w, &second);
}

/* ---- everything at once ---- */

#define READERS 12u
#define ANSWERS 2000u /* of each loop */

typedef struct racer racer;

typedef struct race_reader {
    nv_receiver core; /* first member */
    racer *by;
    bool busy;
    bool open;
} race_reader;

struct racer {
    world *w;
    size_t loop;
    pthread_t thread;
    uint64_t seed;
    race_reader readers[READERS];
    size_t busy;
    call change;
    bool changing;
    size_t answers;
    size_t evictions;
    size_t wrong;
    _Atomic size_t *finished;
};

static uint64_t roll(racer *self, uint64_t below)
{
    self->seed = self->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (self->seed >> 33) % below;
}

static void race_opened(nv_receiver *core, nv_receiver_verdict verdict)
{
    race_reader *r = nv_container_of(core, race_reader, core);
    r->by->wrong += !r->busy || r->open;
    r->open = true;
    r->by->answers++;
    (void)verdict;
}

static void race_evicted(nv_receiver *core, nv_receiver_verdict why)
{
    race_reader *r = nv_container_of(core, race_reader, core);
    r->by->wrong += !r->busy || !r->open || why == NV_RECEIVER_OK;
    r->by->evictions++;
}

static void race_closed(nv_receiver *core)
{
    race_reader *r = nv_container_of(core, race_reader, core);
    r->by->wrong += !r->busy;
    r->by->busy--;
    racer *by = r->by;
    memset(r, 0xee, sizeof(*r)); /* whatever comes later meets this */
    *r = (race_reader){.by = by};
}

static void step(racer *self)
{
    static const char *const groups[] = {"$Default", "web", "Web"};
    race_reader *r = &self->readers[roll(self, READERS)];
    if (!r->busy) {
        r->busy = true;
        self->busy++;
        r->core = (nv_receiver){.group = S(groups[roll(self, 3)]),
                                .partition = (uint32_t)roll(self, 2),
                                .has_epoch = roll(self, 2) == 0,
                                .epoch = (int64_t)roll(self, 3),
                                .opened = race_opened,
                                .evicted = race_evicted};
        nv_receiver_open(&self->w->hub->loops[self->loop], &r->core);
    } else if (r->core._closed == NULL) {
        nv_receiver_close(&r->core, race_closed);
    }
    if (!self->changing && roll(self, 50) == 0) {
        self->changing = true;
        self->change = (call){.change = {.name = S("web"), .create = roll(self, 2) == 0, .done = call_done}};
        nv_group_change_do(&self->w->hub->loops[self->loop], &self->change.change);
    }
    (void)nv_group_exists(self->w->hub, S("web"));
}

static void *racer_main(void *arg)
{
    racer *self = arg;
    nv_exec_queue *queue = &self->w->queues[self->loop];
    nv_exec_queue_adopt(queue);
    bool finished = false;
    while (atomic_load(self->finished) < LOOPS) { /* the owner is needed to the end */
        if (self->answers < ANSWERS) {
            step(self);
        } else if (!finished) {
            finished = true;
            atomic_fetch_add(self->finished, 1);
        }
        if (nv_exec_queue_run(queue) == 0) {
            sched_yield();
        }
        self->changing = self->changing && !self->change.done;
    }
    for (size_t i = 0; i < READERS; i++) {
        if (self->readers[i].busy && self->readers[i].core._closed == NULL) {
            nv_receiver_close(&self->readers[i].core, race_closed);
        }
    }
    return NULL;
}

static void everything_at_once(void **state)
{
    world *w = *state;
    racer *racers = nv_calloc(LOOPS, sizeof(*racers));
    _Atomic size_t finished = 0;
    for (size_t i = 0; i < LOOPS; i++) {
        racers[i] = (racer){.w = w, .loop = i, .seed = 17 * (i + 1), .finished = &finished};
        for (size_t k = 0; k < READERS; k++) {
            racers[i].readers[k].by = &racers[i];
        }
    }
    for (size_t i = 0; i < LOOPS; i++) {
        assert_int_equal(pthread_create(&racers[i].thread, NULL, racer_main, &racers[i]), 0);
    }
    for (size_t i = 0; i < LOOPS; i++) {
        (void)pthread_join(racers[i].thread, NULL);
    }
    bool waiting = true;
    while (waiting) {
        (void)run(w);
        waiting = false;
        for (size_t i = 0; i < LOOPS; i++) {
            waiting = waiting || racers[i].busy > 0 || (racers[i].changing && !racers[i].change.done);
        }
    }
    for (size_t i = 0; i < LOOPS; i++) {
        assert_int_equal(racers[i].wrong, 0);
        assert_true(racers[i].evictions > 0);
    }
    free(racers);
    reader after; /* nothing was left behind */
    assert_int_equal(opened(w, &after, 0, "$Default", 0, NO_LEVEL), NV_RECEIVER_OK);
    close_reader(w, &after);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(groups_are_kept),
        TEST(names_have_rules),
        TEST(there_is_a_limit),
        TEST(entity_has_a_name),
        TEST(five_read_side_by_side),
        TEST(the_highest_level_owns),
        TEST(readers_go_with_their_group),
        TEST(closed_means_quiet),
        TEST(everything_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
