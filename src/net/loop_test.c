#include "net/loop.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "net/net_test_util.h"
#include "net/signal.h"

#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void start(nv_net **net, unsigned loops, const nv_clock *clock)
{
    char why[NV_NET_WHY_SIZE];
    nv_net_config config = {.loops = loops, .clock = clock, .limits = nv_net_limits_default()};
    assert_int_equal(nv_net_new(&config, net, why), NV_OK);
    assert_int_equal(nv_net_loops(*net), loops);
}

static void run(nv_net *net)
{
    char why[NV_NET_WHY_SIZE];
    assert_int_equal(nv_net_start(net, why), NV_OK);
}

/* ---- tasks ---- */

typedef struct ball {
    nv_task task;
    nv_net *net;
    int left;
    _Atomic int *done;
} ball;

static void hit(nv_task *task)
{
    ball *b = nv_container_of(task, ball, task);
    unsigned here = nv_loop_index(nv_loop_current());
    if (b->left-- == 0) {
        atomic_fetch_add(b->done, 1);
        return;
    }
    nv_post(nv_loop_exec(nv_net_loop(b->net, 1 - here)), &b->task);
}

/* Balls between two loops that otherwise sleep: a lost wake-up would stop one for good. */
static void play(nv_net *net)
{
    run(net);
    for (int balls = 1; balls <= 64; balls *= 8) {
        _Atomic int done = 0;
        ball *all = nv_calloc((size_t)balls, sizeof(*all));
        for (int i = 0; i < balls; i++) {
            all[i] = (ball){{.run = hit}, net, 20000 / balls + i, &done};
            nv_post(nv_loop_exec(nv_net_loop(net, (unsigned)i % 2)), &all[i].task);
        }
        await_count(&done, balls);
        free(all);
    }
}

static void test_ping_pong(void **state)
{
    (void)state;
    nv_net *net = NULL;
    start(&net, 2, NULL);
    play(net);
    nv_net_free(net);
}

static int64_t cpu_us(void)
{
    struct timespec ts;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts), 0);
    return (int64_t)ts.tv_sec * NV_US_PER_S + ts.tv_nsec / 1000;
}

/* Loops that look for the next event before they sleep lose no wake-up either, and when nothing comes they do sleep. */
static void test_spinning(void **state)
{
    (void)state;
    char why[NV_NET_WHY_SIZE];
    nv_net_config config = {.loops = 2, .limits = nv_net_limits_default()};
    config.limits.spin_us = 1000;
    nv_net *net = NULL;
    assert_int_equal(nv_net_new(&config, &net, why), NV_OK);
    play(net);
    int64_t before_us = cpu_us();
    (void)usleep(200000); /* nothing is awaited: this is the time in which nothing may happen */
    assert_true(cpu_us() - before_us < 100000);
    nv_net_free(net);
}

#define PER_POSTER 20000
#define POSTERS    3

typedef struct numbered {
    nv_task task;
    int poster;
    int number;
} numbered;

static struct {
    nv_net *net;
    numbered tasks[POSTERS][PER_POSTER];
    int next[POSTERS]; /* the loop's */
    _Atomic int wrong;
    _Atomic int done;
} many;

static void take_number(nv_task *task)
{
    numbered *n = nv_container_of(task, numbered, task);
    if (many.next[n->poster]++ != n->number || !nv_exec_is_current(nv_loop_exec(nv_net_loop(many.net, 0)))) {
        atomic_fetch_add(&many.wrong, 1);
    }
    atomic_fetch_add(&many.done, 1);
}

static void *post_numbers(void *arg)
{
    numbered *tasks = arg;
    for (int i = 0; i < PER_POSTER; i++) {
        nv_post(nv_loop_exec(nv_net_loop(many.net, 0)), &tasks[i].task);
    }
    return NULL;
}

static void test_order_per_poster(void **state)
{
    (void)state;
    start(&many.net, 1, NULL);
    run(many.net);
    pthread_t threads[POSTERS];
    for (int p = 0; p < POSTERS; p++) {
        for (int i = 0; i < PER_POSTER; i++) {
            many.tasks[p][i] = (numbered){{.run = take_number}, p, i};
        }
        assert_int_equal(pthread_create(&threads[p], NULL, post_numbers, many.tasks[p]), 0);
    }
    for (int p = 0; p < POSTERS; p++) {
        (void)pthread_join(threads[p], NULL);
    }
    await_count(&many.done, POSTERS * PER_POSTER);
    assert_int_equal(atomic_load(&many.wrong), 0);
    nv_net_free(many.net);
}

/* What is posted from the loop itself runs without any other event, however long the chain; hooks run between. */
typedef struct chain {
    nv_task task;
    nv_turn_hook hook;
    nv_loop *loop;
    int left;
    int hooks;
    int hooks_at_end;
    _Atomic int done;
} chain;

static void next_link(nv_task *task)
{
    chain *c = nv_container_of(task, chain, task);
    if (c->left-- == 0) {
        c->hooks_at_end = c->hooks;
        nv_loop_remove_turn_hook(&c->hook);
        atomic_store(&c->done, 1);
        return;
    }
    nv_post(nv_loop_exec(c->loop), &c->task);
}

static void count_hook(nv_turn_hook *hook, int64_t now_us)
{
    (void)now_us;
    nv_container_of(hook, chain, hook)->hooks++;
}

static void test_own_posts(void **state)
{
    (void)state;
    nv_net *net = NULL;
    start(&net, 1, NULL);
    chain c = {.task.run = next_link, .hook.run = count_hook, .loop = nv_net_loop(net, 0), .left = 1000};
    nv_loop_add_turn_hook(c.loop, &c.hook);
    run(net);
    nv_post(nv_loop_exec(c.loop), &c.task);
    await_count(&c.done, 1);
    assert_true(c.hooks_at_end >= 1000); /* after every round, so no task's work waits for the end of the chain */
    nv_net_free(net);
}

/* ---- timers ---- */

/* A manual clock: timers fire in the turn that a poke begins, and nowhere else; the heap has tests of its own. */
static struct {
    nv_loop *loop;
    nv_timer timer;
    int64_t seen_us; /* the loop's time when it fired */
    nv_task task;
    _Atomic int fired;
    _Atomic int looked;
} poked;

static void on_poked_timer(nv_timer *timer, int64_t now_us)
{
    (void)timer;
    poked.seen_us = now_us;
    atomic_fetch_add(&poked.fired, 1);
}

static void set_poked_timer(nv_task *task)
{
    (void)task;
    nv_timer_set(poked.loop, &poked.timer, nv_loop_now_us(poked.loop) + NV_US_PER_S);
    assert_int_equal(nv_loop_due_us(poked.loop), nv_loop_now_us(poked.loop) + NV_US_PER_S);
    atomic_fetch_add(&poked.looked, 1);
}

static void look_at_poked_timer(nv_task *task)
{
    (void)task;
    atomic_fetch_add(&poked.looked, 1);
}

static void do_poked(void (*what)(nv_task *task))
{
    int before = atomic_load(&poked.looked);
    poked.task.run = what;
    nv_post(nv_loop_exec(poked.loop), &poked.task);
    await_count(&poked.looked, before + 1);
}

static void test_manual_time(void **state)
{
    (void)state;
    nv_manual_clock clock;
    nv_manual_clock_init(&clock, 0);
    nv_net *net = NULL;
    start(&net, 1, &clock.clock);
    poked.loop = nv_net_loop(net, 0);
    nv_timer_init(&poked.timer, on_poked_timer);
    run(net);
    for (int round = 0; round < 20; round++) {
        do_poked(set_poked_timer);
        nv_manual_clock_advance(&clock, NV_US_PER_S - 1);
        nv_loop_poke(poked.loop);
        do_poked(look_at_poked_timer);
        do_poked(look_at_poked_timer);
        assert_int_equal(atomic_load(&poked.fired), round);
        nv_manual_clock_advance(&clock, 1);
        nv_loop_poke(poked.loop);
        await_count(&poked.fired, round + 1);
        assert_int_equal(poked.seen_us, nv_mono_us(&clock.clock));
    }
    nv_net_free(net);
}

typedef struct alarm_clock {
    nv_task task;
    nv_timer timer;
    nv_loop *loop;
    int rings;
    _Atomic int done;
} alarm_clock;

static void ring(nv_timer *timer, int64_t now_us)
{
    alarm_clock *a = nv_container_of(timer, alarm_clock, timer);
    if (++a->rings == 3) {
        atomic_store(&a->done, 1);
        return;
    }
    nv_timer_set(a->loop, timer, now_us + 2 * NV_US_PER_MS);
}

static void set_first(nv_task *task)
{
    alarm_clock *a = nv_container_of(task, alarm_clock, task);
    nv_timer_set(a->loop, &a->timer, nv_loop_now_us(a->loop) - 1); /* in the past: at once */
}

static void test_real_time(void **state)
{
    (void)state;
    nv_net *net = NULL;
    start(&net, 1, NULL);
    run(net);
    alarm_clock a = {.task.run = set_first, .loop = nv_net_loop(net, 0)};
    nv_timer_init(&a.timer, ring);
    int64_t before_us = nv_mono_us(nv_clock_system());
    nv_post(nv_loop_exec(a.loop), &a.task);
    await_count(&a.done, 1);
    assert_true(nv_mono_us(nv_clock_system()) - before_us >= 4 * NV_US_PER_MS);
    nv_net_free(net);
}

/* ---- signals ---- */

static _Atomic int stops;
static _Atomic int reloads;

static void on_stop(void *arg, int number)
{
    (void)arg;
    atomic_fetch_add(&stops, number);
}

static void on_reload(void *arg)
{
    (void)arg;
    atomic_fetch_add(&reloads, 1);
}

static void test_signals(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    hub_start(&h, 1, NULL, NULL);
    nv_signal_config config = {.stop = on_stop, .reload = on_reload};
    nv_signals_start(nv_net_loop(h.net, 0), &config);
    hub_settle(&h);
    assert_int_equal(kill(getpid(), SIGHUP), 0);
    await_count(&reloads, 1);
    assert_int_equal(kill(getpid(), SIGTERM), 0);
    await_count(&stops, SIGTERM);
    assert_int_equal(kill(getpid(), SIGPIPE), 0); /* ignored */
    hub_stop(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ping_pong), cmocka_unit_test(test_order_per_poster), cmocka_unit_test(test_own_posts),
        cmocka_unit_test(test_spinning),  cmocka_unit_test(test_manual_time),      cmocka_unit_test(test_real_time),
        cmocka_unit_test(test_signals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
