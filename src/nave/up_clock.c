/**
 * Simulated time (testing.clock: manual). The hub's clock stands still; a thread of its own advances it when the admin
 * listener asks, from one due timer to the next, and lets everything that follows from a timer end before it goes on:
 *
 *   advance 48 h:   settle -> to the first due timer -> settle -> to the next ... -> the rest -> settle, retention
 *   settle:         a turn of every loop at the present time, then wait for what they asked of log and state store,
 *                   until they ask no more
 *
 * So effects are complete when the answer comes, and a lock of 60 s expires 60 s after it was given, not 48 h.
 */
#include "nave/up.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "session/http.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

/* Something that wants time again and again, as the comments of an event stream do, must not make it endless: beyond
 * this the rest of the way is one step. */
#define STEPS_MAX 20000
/* How long in real time one step waits for log and state store. */
#define PATIENCE_US (10 * NV_US_PER_S)
/* A timer asks the store, whose answer asks the log, whose answer asks the store, ... */
#define GENERATIONS 8

/* A task that passes through one loop. */
typedef struct pass {
    nv_task task;
    nv_loop *loop;
    sem_t *passed;
    int64_t from_us; /* in a turn at this time or later */
    int64_t due_us;  /* out */
} pass;

typedef struct nv_up_time {
    nv_manual_clock clock;
    nv_http_testing testing;
    nv_up *up;
    /* the thread */
    pass *passes; /* one for each loop */
    sem_t passed;
    pthread_t thread;
    bool running;

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t changed;
    nv_http_advance *first;
    nv_http_advance *last;
    bool stopping;
} nv_up_time;

static int64_t now_us(const nv_up_time *time)
{
    return nv_mono_us(&time->clock.clock);
}

/* ---- settling ------------------------------------------------------------------------------------------------ */

static void run_pass(nv_task *task)
{
    pass *p = nv_container_of(task, pass, task);
    if (nv_loop_now_us(p->loop) < p->from_us) { /* the turn began before time moved: its timers have not seen that */
        nv_post(nv_loop_exec(p->loop), task);
        return;
    }
    p->due_us = nv_loop_due_us(p->loop);
    sem_post(p->passed);
}

static void wait_for(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0) { /* interrupted */
    }
}

/* Through every loop once. @return when the first timer is due */
static int64_t pass_loops(nv_up_time *time)
{
    unsigned count = nv_net_loops(time->up->net);
    int64_t due_us = INT64_MAX;
    for (unsigned i = 0; i < count; i++) {
        pass *p = &time->passes[i];
        *p = (pass){.task.run = run_pass,
                    .loop = nv_net_loop(time->up->net, i),
                    .passed = &time->passed,
                    .from_us = now_us(time)};
        nv_post(nv_loop_exec(p->loop), &p->task);
    }
    for (unsigned i = 0; i < count; i++) {
        wait_for(&time->passed);
    }
    for (unsigned i = 0; i < count; i++) {
        due_us = time->passes[i].due_us < due_us ? time->passes[i].due_us : due_us;
    }
    return due_us;
}

static int64_t asked(void)
{
    return nv_metric_get(NV_M_STATE_REQUESTS) + nv_metric_get(NV_M_LOG_BATCHES);
}

static int64_t answered(void)
{
    return nv_metric_get(NV_M_STATE_REQUESTS_DONE) + nv_metric_get(NV_M_LOG_BATCHES_DONE);
}

/* Everything that follows from what is due now. @return when the next timer is due */
static int64_t settle(nv_up_time *time)
{
    int64_t late_us = nv_mono_us(nv_clock_system()) + PATIENCE_US;
    int64_t due_us = INT64_MAX;
    int64_t before = -1;
    (void)pass_loops(time); /* timers run in the turns that this begins, or has found */
    for (int generation = 0; generation < GENERATIONS && before != asked(); generation++) {
        before = asked();
        do {
            due_us = pass_loops(time);
        } while (answered() < before && nv_mono_us(nv_clock_system()) < late_us);
    }
    return due_us;
}

/* ---- advancing ----------------------------------------------------------------------------------------------- */

static void go_to(nv_up_time *time, int64_t mono_us)
{
    if (mono_us > now_us(time)) {
        nv_manual_clock_advance(&time->clock, mono_us - now_us(time));
    }
}

static void advance(nv_up_time *time, int64_t delta_us)
{
    int64_t target_us = now_us(time) + delta_us;
    int64_t due_us = settle(time);
    int steps = 0;
    for (; due_us < target_us && steps < STEPS_MAX; steps++) {
        go_to(time, due_us);
        due_us = settle(time);
    }
    go_to(time, target_us);
    (void)settle(time);
    nv_log_janitor_run(time->up->log);
    (void)settle(time);
    char text[NV_TIME_TEXT_SIZE];
    nv_time_format(nv_wall_us(&time->clock.clock), text);
    nv_diag(NV_LEVEL_DEBUG, "testing", NULL, "time is advanced to %s, in %d steps", text, steps);
}

static void *advance_main(void *arg)
{
    nv_up_time *time = arg;
    pthread_mutex_lock(&time->lock);
    while (!time->stopping || time->first) {
        nv_http_advance *request = time->first;
        if (!request) {
            pthread_cond_wait(&time->changed, &time->lock);
            continue;
        }
        time->first = request->_next;
        time->last = time->first ? time->last : NULL;
        bool stopping = time->stopping;
        pthread_mutex_unlock(&time->lock);
        if (!stopping) {
            advance(time, request->delta_us);
        }
        nv_post(request->exec, &request->done);
        pthread_mutex_lock(&time->lock);
    }
    pthread_mutex_unlock(&time->lock);
    return NULL;
}

static void take_request(void *arg, nv_http_advance *request)
{
    nv_up_time *time = arg;
    request->_next = NULL;
    pthread_mutex_lock(&time->lock);
    bool late = time->stopping;
    if (!late) {
        if (time->last) {
            time->last->_next = request;
        } else {
            time->first = request;
        }
        time->last = request;
        pthread_cond_signal(&time->changed);
    }
    pthread_mutex_unlock(&time->lock);
    if (late) {
        nv_post(request->exec, &request->done);
    }
}

/* ---- life ---------------------------------------------------------------------------------------------------- */

int nv_up_clock(nv_up *up)
{
    if (up->config->testing_clock == 0) {
        return NV_EXIT_OK;
    }
    nv_up_time *time = nv_calloc(1, sizeof(*time));
    nv_manual_clock_init(&time->clock, nv_wall_us(nv_clock_system()));
    time->up = up;
    time->testing = (nv_http_testing){take_request, time};
    pthread_mutex_init(&time->lock, NULL);
    pthread_cond_init(&time->changed, NULL);
    sem_init(&time->passed, 0, 0);
    up->time = time;
    up->clock = &time->clock.clock;
    nv_diag_set_clock(up->clock);
    return NV_EXIT_OK;
}

void nv_up_clock_free(nv_up *up)
{
    nv_up_time *time = up->time;
    if (!time) {
        return;
    }
    nv_diag_set_clock(NULL);
    up->clock = nv_clock_system();
    up->time = NULL;
    sem_destroy(&time->passed);
    pthread_cond_destroy(&time->changed);
    pthread_mutex_destroy(&time->lock);
    free(time->passes);
    free(time);
}

const nv_http_testing *nv_up_clock_testing(const nv_up *up)
{
    return up->time ? &up->time->testing : NULL;
}

int nv_up_clock_start(nv_up *up)
{
    nv_up_time *time = up->time;
    if (!time) {
        return NV_EXIT_OK;
    }
    time->passes = nv_calloc(nv_net_loops(up->net), sizeof(*time->passes));
    time->running = pthread_create(&time->thread, NULL, advance_main, time) == 0;
    if (!time->running) {
        nv_ignore(nv_buf_append_str(&up->why, "cannot start the thread of simulated time"));
    }
    return time->running ? NV_EXIT_OK : NV_EXIT_REFUSED;
}

void nv_up_clock_stop(nv_up *up)
{
    nv_up_time *time = up->time;
    if (!time) {
        return;
    }
    pthread_mutex_lock(&time->lock);
    time->stopping = true;
    pthread_cond_signal(&time->changed);
    pthread_mutex_unlock(&time->lock);
    if (time->running) {
        (void)pthread_join(time->thread, NULL);
    }
}
