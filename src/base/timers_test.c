/** The heap of timers against a plain list of what is set: fired in order, none early, none forgotten, none twice. */
#include "base/timers.h"

#include "base/alloc.h"
#include "base/attrs.h"
#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define TIMERS 500

static struct {
    nv_timers timers;
    nv_seeded_rng rng;
    nv_timer all[TIMERS];
    int64_t due[TIMERS]; /* the reference; INT64_MAX: not set */
    int64_t last;        /* that fired in this run */
    int fired;
    bool meddles; /* timers that fire set and clear others */
} heap;

static uint64_t dice(uint64_t sides)
{
    return nv_rng_u64(&heap.rng.rng) % sides;
}

static void set(size_t at, int64_t due_us)
{
    nv_timers_set(&heap.timers, &heap.all[at], due_us);
    heap.due[at] = due_us;
}

static void clear(size_t at)
{
    nv_timers_clear(&heap.timers, &heap.all[at]);
    heap.due[at] = INT64_MAX;
}

static void on_timer(nv_timer *timer, int64_t now_us)
{
    size_t at = (size_t)(timer - heap.all);
    assert_true(heap.due[at] <= now_us);    /* set, and not early */
    assert_true(heap.due[at] >= heap.last); /* in order */
    assert_int_equal(timer->due_us, INT64_MAX);
    heap.last = heap.due[at];
    heap.due[at] = INT64_MAX;
    heap.fired++;
    if (heap.meddles && dice(4) == 0) {
        clear(dice(TIMERS)); /* perhaps one that is due as well: it must not fire */
    }
    if (heap.meddles && dice(4) == 0) {
        set(dice(TIMERS), now_us + 1 + (int64_t)dice(500));
    }
}

static int64_t first_of_reference(void)
{
    int64_t first_us = INT64_MAX;
    for (size_t i = 0; i < TIMERS; i++) {
        first_us = heap.due[i] < first_us ? heap.due[i] : first_us;
        assert_int_equal(heap.all[i].due_us, heap.due[i]);
    }
    return first_us;
}

static void run_at(int64_t now_us)
{
    heap.last = INT64_MIN;
    assert_int_equal(nv_timers_due(&heap.timers), first_of_reference());
    nv_timers_run(&heap.timers, now_us);
    assert_true(first_of_reference() > now_us); /* none forgotten */
    assert_int_equal(nv_timers_due(&heap.timers), first_of_reference());
}

static void start(uint64_t seed)
{
    heap.timers = (nv_timers){0};
    heap.fired = 0;
    nv_seeded_rng_init(&heap.rng, seed);
    for (size_t i = 0; i < TIMERS; i++) {
        nv_timer_init(&heap.all[i], on_timer);
        heap.due[i] = INT64_MAX;
    }
}

static void test_against_reference(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        start(seed);
        heap.meddles = seed % 2;
        int64_t now_us = -5000; /* times are any numbers */
        for (int round = 0; round < 200; round++) {
            for (uint64_t i = dice(300); i > 0; i--) {
                if (dice(4) == 0) {
                    clear(dice(TIMERS));
                } else {
                    set(dice(TIMERS), now_us - 20 + (int64_t)dice(1000));
                }
            }
            run_at(now_us);
            now_us += (int64_t)dice(400);
            run_at(now_us);
        }
        assert_true(heap.fired > 1000);
        nv_timers_deinit(&heap.timers);
    }
}

static void test_ties_and_edges(void **state)
{
    (void)state;
    start(1);
    heap.meddles = false;
    assert_int_equal(nv_timers_due(&heap.timers), INT64_MAX);
    nv_timers_run(&heap.timers, INT64_MAX);
    clear(0); /* not set: harmless, twice too */
    clear(0);
    for (size_t i = 0; i < TIMERS; i++) {
        set(i, 7);
    }
    run_at(6);
    assert_int_equal(heap.fired, 0);
    run_at(7);
    assert_int_equal(heap.fired, TIMERS);
    set(3, INT64_MIN);
    set(4, INT64_MAX - 1);
    set(5, INT64_MAX); /* as good as cleared */
    assert_int_equal(heap.timers.len, 2);
    run_at(INT64_MAX - 2);
    assert_int_equal(heap.fired, TIMERS + 1);
    set(4, INT64_MAX);
    assert_int_equal(nv_timers_due(&heap.timers), INT64_MAX);
    nv_timers_deinit(&heap.timers);
}

/* ---- owners that go or come back ---- */

static nv_timers owned;

typedef struct owner {
    nv_timer timer;
    struct owner *other;
    int *fired;
} owner;

static void free_both(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    owner *o = nv_container_of(timer, owner, timer);
    ++*o->fired;
    nv_timers_clear(&owned, &o->other->timer);
    free(o->other);
    free(o);
}

/** A timer may free its owner, and others that are due in the same run once they are cleared. */
static void test_owners_go(void **state)
{
    (void)state;
    int fired = 0;
    for (int64_t i = 0; i < 100; i++) {
        owner *a = nv_calloc(1, sizeof(*a));
        owner *b = nv_calloc(1, sizeof(*b));
        *a = (owner){.other = b, .fired = &fired};
        *b = (owner){.other = a, .fired = &fired};
        nv_timer_init(&a->timer, free_both);
        nv_timer_init(&b->timer, free_both);
        nv_timers_set(&owned, &a->timer, i % 7);
        nv_timers_set(&owned, &b->timer, i % 5);
    }
    nv_timers_run(&owned, 10);
    assert_int_equal(fired, 100);
    assert_int_equal(owned.len, 0);
    nv_timers_deinit(&owned);
}

typedef struct again {
    nv_timer timer;
    int64_t step_us;
    int rings;
} again;

static void ring_again(nv_timer *timer, int64_t now_us)
{
    again *a = nv_container_of(timer, again, timer);
    a->rings++;
    nv_timers_set(&owned, timer, now_us + a->step_us);
}

/** One that sets itself into the past rings once a run, not for ever in one. */
static void test_set_into_the_past(void **state)
{
    (void)state;
    again past = {.step_us = -100};
    again later = {.step_us = 10};
    nv_timer_init(&past.timer, ring_again);
    nv_timer_init(&later.timer, ring_again);
    nv_timers_set(&owned, &past.timer, 0);
    nv_timers_set(&owned, &later.timer, 0);
    for (int64_t now_us = 0; now_us < 100; now_us++) {
        nv_timers_run(&owned, now_us);
    }
    assert_int_equal(past.rings, 100);
    assert_int_equal(later.rings, 10);
    nv_timers_deinit(&owned);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_reference),
        cmocka_unit_test(test_ties_and_edges),
        cmocka_unit_test(test_owners_go),
        cmocka_unit_test(test_set_into_the_past),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
