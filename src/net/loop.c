#include "net/loop.h"

#include "base/alloc.h"
#include "base/metrics.h"
#include "base/sched.h"
#include "net/conn.h"
#include "net/loop_impl.h"

#include <assert.h>
#include <stdlib.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#endif
#ifdef __GLIBC__
#include <malloc.h>
#endif

/* How often a turn repeats before it looks at the sockets again: enough for append -> completion -> answer, and a
 * bound for tasks that post each other for ever. */
#define ROUNDS_PER_TURN 4

/* Events that came soon, less those that did not, before the loop spins; and the most that counts. */
#define SPIN_SCORE_MIN 4
#define SPIN_SCORE_MAX 16
/* A turn with more to do than this is of a loop that is not short of work, and gains by letting it gather. */
#define SPIN_WORK_US 30
/* Whoever had the core for longer while the loop had nothing to do wants it more than a loop that only looks. */
#define SPIN_SHARED_US 50

static _Thread_local nv_loop *current;

static nv_loop *loop_of(const nv_exec *exec)
{
    return (nv_loop *)(size_t)(const void *)exec;
}

nv_exec *nv_loop_exec(nv_loop *loop)
{
    return &loop->exec;
}

nv_loop *nv_loop_current(void)
{
    return current;
}

int64_t nv_loop_now_us(const nv_loop *loop)
{
    return loop->now_us;
}

unsigned nv_loop_index(const nv_loop *loop)
{
    return loop->index;
}

void nv_loop_set_hub(nv_loop *loop, struct nv_hub_loop *hub)
{
    loop->hub = hub;
}

struct nv_hub_loop *nv_loop_hub(const nv_loop *loop)
{
    return loop->hub;
}

/* ---- posting ---- */

static void push(nv_task **head, nv_task **tail, nv_task *task)
{
    task->_next = NULL;
    if (*tail) {
        (*tail)->_next = task;
    } else {
        *head = task;
    }
    *tail = task;
}

static bool loop_is_current(const nv_exec *exec)
{
    return current == loop_of(exec);
}

/*
 * The sleeper's side is in settle(): it sets asleep under the lock and only with an empty queue, so a poster that finds
 * it false knows that the loop will look at the queue again before it sleeps.
 */
static void loop_post(nv_exec *exec, nv_task *task)
{
    nv_loop *loop = loop_of(exec);
    if (current == loop) {
        push(&loop->own_head, &loop->own_tail, task);
        return;
    }
    pthread_mutex_lock(&loop->lock);
    push(&loop->head, &loop->tail, task);
    pthread_mutex_unlock(&loop->lock);
    if (atomic_exchange(&loop->asleep, false)) {
        nv_loop_poke(loop);
    }
}

/*
 * Not uv_async_send(): the loop it wakes may take the poster's core at once, and then spins until the poster has left
 * that function, which it cannot. On one core that cost a fifth of the wake-ups 30 us.
 */
void nv_loop_poke(nv_loop *loop)
{
    uint64_t one = 1;
    ssize_t ignored = write(loop->wake_peer_fd, &one, sizeof(one)); /* full: it is readable anyway */
    (void)ignored;
}

static void on_wake(uv_poll_t *wake, int status, int events)
{
    (void)status;
    (void)events;
    nv_loop *loop = wake->data;
    uint64_t count[8]; /* of an event descriptor the first takes all; of a pipe the next turn takes the rest */
    ssize_t ignored = read(loop->wake_fd, count, sizeof(count));
    (void)ignored;
    nv_loop_enter(loop);
}

static nv_err open_wake(nv_loop *loop)
{
#ifdef __linux__
    loop->wake_fd = loop->wake_peer_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return loop->wake_fd >= 0 ? NV_OK : NV_E_LIMIT;
#else
    uv_file ends[2];
    if (uv_pipe(ends, UV_NONBLOCK_PIPE, UV_NONBLOCK_PIPE) != 0) {
        return NV_E_LIMIT;
    }
    loop->wake_fd = ends[0];
    loop->wake_peer_fd = ends[1];
    return NV_OK;
#endif
}

static void close_wake(const nv_loop *loop)
{
    (void)close(loop->wake_fd);
    if (loop->wake_peer_fd != loop->wake_fd) {
        (void)close(loop->wake_peer_fd);
    }
}

static void run_list(nv_task *task)
{
    while (task) {
        nv_task *next = task->_next; /* run() may free the task */
        task->run(task);
        task = next;
    }
}

/* Runs what is queued now; what that queues in turn waits for the next round. */
static void run_tasks(nv_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    nv_task *theirs = loop->head;
    loop->head = loop->tail = NULL;
    pthread_mutex_unlock(&loop->lock);
    nv_task *own = loop->own_head;
    loop->own_head = loop->own_tail = NULL;
    run_list(theirs);
    run_list(own);
}

/* ---- timers ---- */

void nv_timer_clear(nv_loop *loop, nv_timer *timer)
{
    nv_timers_clear(&loop->timers, timer);
}

void nv_timer_set(nv_loop *loop, nv_timer *timer, int64_t due_us)
{
    nv_timers_set(&loop->timers, timer, due_us);
}

int64_t nv_loop_due_us(const nv_loop *loop)
{
    return nv_timers_due(&loop->timers);
}

static void on_alarm(uv_timer_t *alarm)
{
    nv_loop *loop = alarm->data;
    nv_loop_enter(loop);
    loop->alarm_us = INT64_MAX;
}

/* The alarm may ring early (the first timer has moved away meanwhile), never late. */
static void set_alarm(nv_loop *loop)
{
    int64_t due_us = nv_timers_due(&loop->timers);
    if (due_us >= loop->alarm_us) {
        return;
    }
    int64_t wait_us = due_us - loop->now_us;
    uint64_t wait_ms = wait_us <= 0 ? 0 : (uint64_t)(wait_us + NV_US_PER_MS - 1) / NV_US_PER_MS;
    loop->alarm_us = due_us;
    uv_update_time(&loop->uv);
    (void)uv_timer_start(&loop->alarm, on_alarm, wait_ms, 0);
}

/* ---- hooks and the turn ---- */

void nv_loop_add_turn_hook(nv_loop *loop, nv_turn_hook *hook)
{
    nv_list_push_back(&loop->hooks, &hook->_link);
}

void nv_loop_remove_turn_hook(nv_turn_hook *hook)
{
    nv_list_remove(&hook->_link);
}

static void run_hooks(nv_loop *loop)
{
    for (nv_list *node = loop->hooks.next, *next = NULL; node != &loop->hooks; node = next) {
        next = node->next; /* a hook may remove itself */
        nv_turn_hook *hook = nv_container_of(node, nv_turn_hook, _link);
        hook->run(hook, loop->now_us);
    }
}

static bool has_work(nv_loop *loop)
{
    if (loop->own_head || !nv_list_empty(&loop->woken)) {
        return true;
    }
    pthread_mutex_lock(&loop->lock);
    bool queued = loop->head != NULL;
    pthread_mutex_unlock(&loop->lock);
    return queued;
}

/* @return true when the loop may sleep; from then on posting wakes it */
static bool settle(nv_loop *loop)
{
    if (loop->own_head || !nv_list_empty(&loop->woken)) {
        return false;
    }
    pthread_mutex_lock(&loop->lock);
    bool empty = loop->head == NULL;
    if (empty) {
        atomic_store(&loop->asleep, true);
    }
    pthread_mutex_unlock(&loop->lock);
    return empty;
}

static void count_bytes(nv_loop *loop)
{
    if (loop->in_bytes) {
        nv_metric_add(NV_M_NET_IN_BYTES, loop->in_bytes);
        loop->in_bytes = 0;
    }
    if (loop->out_bytes) {
        nv_metric_add(NV_M_NET_OUT_BYTES, loop->out_bytes);
        loop->out_bytes = 0;
    }
}

/* Its being active is what keeps the loop from sleeping. What the loop waits for may be another thread's work, on this
 * very core: a commit above all. */
static void on_busy(uv_idle_t *busy)
{
    nv_loop *loop = busy->data;
    if (loop->spinning) {
        int64_t left_us = nv_mono_us(loop->clock);
        nv_sched_turn();
        if (nv_mono_us(loop->clock) - left_us > SPIN_SHARED_US) {
            loop->spin_score = 0;
        }
    }
}

/*
 * Waking a core that sleeps takes longer than answering a message, in a virtual machine above all. So after an event
 * the loop goes on looking for a moment before it sleeps, where that pays: when the last events came soon one after the
 * other, and each was little work. @return true to look again
 */
static bool spin(nv_loop *loop, bool event, int64_t entered_us)
{
    int64_t limit_us = loop->spin_us;
    if (limit_us == 0) {
        return false;
    }
    int64_t now_us = nv_mono_us(loop->clock);
    if (event) {
        bool pays = entered_us - loop->quiet_us <= limit_us && now_us - entered_us <= SPIN_WORK_US;
        loop->spin_score = pays ? loop->spin_score + (loop->spin_score < SPIN_SCORE_MAX) : loop->spin_score / 2;
        loop->quiet_us = now_us;
    }
    return loop->spin_score >= SPIN_SCORE_MIN && now_us - loop->quiet_us < limit_us;
}

/* libuv calls it right before it sleeps, after events, its timers and its close callbacks. */
static void on_turn(uv_prepare_t *prepare)
{
    nv_loop *loop = prepare->data;
    bool event = !loop->polling || has_work(loop);
    nv_loop_enter(loop);
    int64_t entered_us = loop->now_us;
    loop->now_us = nv_mono_us(loop->clock);
    run_tasks(loop);
    nv_timers_run(&loop->timers, loop->now_us);
    run_hooks(loop);
    loop->rounds_left = ROUNDS_PER_TURN - 1;
    nv_conn_service_woken(loop);
    while (loop->rounds_left > 0 && has_work(loop)) {
        loop->rounds_left--;
        run_tasks(loop);
        run_hooks(loop);
        nv_conn_service_woken(loop);
    }
    loop->rounds_left = 0;
    count_bytes(loop);
    if (atomic_load(&loop->quit)) {
        uv_stop(&loop->uv);
    }
    set_alarm(loop);
    loop->spinning = spin(loop, event, entered_us);
    if (!loop->spinning && settle(loop)) {
        (void)uv_idle_stop(&loop->busy);
    } else {
        (void)uv_idle_start(&loop->busy, on_busy);
    }
    loop->polling = true;
}

/* ---- memory ---- */

/* Fewer handshakes and ends than this leave too little to look for. */
#define TRIM_COUNT    256
#define TRIM_QUIET_US (NV_US_PER_S / 2)

static void on_trim(nv_timer *timer, int64_t now_us)
{
    nv_loop *loop = nv_container_of(timer, nv_loop, trim_timer);
    if (loop->trim_at_us > now_us) {
        nv_timer_set(loop, timer, loop->trim_at_us);
        return;
    }
    loop->trim_count = 0;
#ifdef __GLIBC__
    (void)malloc_trim(0);
#endif
}

void nv_loop_trim_later(nv_loop *loop, unsigned count)
{
    bool waits = loop->trim_count >= TRIM_COUNT;
    loop->trim_at_us = loop->now_us + TRIM_QUIET_US;
    loop->trim_count += count;
    if (!waits && loop->trim_count >= TRIM_COUNT && !loop->stopping) {
        nv_timer_set(loop, &loop->trim_timer, loop->trim_at_us);
    }
}

uint8_t *nv_loop_frame_buf(nv_loop *loop)
{
    if (!loop->frame_buf) {
        loop->frame_buf = nv_malloc(NV_SCRATCH_SIZE);
    }
    return loop->frame_buf;
}

/* ---- words ---- */

#define LINES_PER_SECOND 10

bool nv_loop_may_say(nv_loop *loop)
{
    int64_t second = loop->now_us / NV_US_PER_S;
    if (second != loop->said_second) {
        loop->said_second = second;
        loop->said_count = 0;
    }
    return loop->said_count++ < LINES_PER_SECOND;
}

/* ---- life ---- */

static nv_err init_handles(nv_loop *loop)
{
    if (uv_poll_init(&loop->uv, &loop->wake, loop->wake_fd) != 0) {
        return NV_E_LIMIT;
    }
    (void)uv_prepare_init(&loop->uv, &loop->turn);
    (void)uv_idle_init(&loop->uv, &loop->busy);
    (void)uv_timer_init(&loop->uv, &loop->alarm);
    loop->wake.data = loop->turn.data = loop->busy.data = loop->alarm.data = loop;
    (void)uv_prepare_start(&loop->turn, on_turn);
    return uv_poll_start(&loop->wake, UV_READABLE, on_wake) == 0 ? NV_OK : NV_E_LIMIT;
}

nv_err nv_loop_init(nv_loop *loop, struct nv_net *net, unsigned index, const nv_clock *clock)
{
    *loop = (nv_loop){.exec = {loop_post, loop_is_current}, .net = net, .index = index, .clock = clock};
    loop->alarm_us = INT64_MAX;
    loop->now_us = nv_mono_us(clock);
    nv_timer_init(&loop->trim_timer, on_trim);
    nv_list_init(&loop->hooks);
    nv_list_init(&loop->conns);
    nv_list_init(&loop->strangers);
    loop->displace_task.run = nv_conn_displace;
    nv_list_init(&loop->woken);
    nv_list_init(&loop->listeners);
    if (uv_loop_init(&loop->uv) != 0) {
        return NV_E_LIMIT;
    }
    pthread_mutex_init(&loop->lock, NULL);
    loop->uv.data = loop;
    atomic_init(&loop->asleep, true);
    nv_err err = open_wake(loop);
    if (err == NV_OK) {
        err = init_handles(loop);
        if (err != NV_OK) {
            close_wake(loop);
        }
    }
    if (err != NV_OK) {
        (void)uv_loop_close(&loop->uv);
        pthread_mutex_destroy(&loop->lock);
        return err;
    }
    loop->read_buf = nv_malloc(NV_SCRATCH_SIZE);
    loop->plain_buf = nv_malloc(NV_SCRATCH_SIZE);
    return NV_OK;
}

static void *thread_main(void *arg)
{
    nv_loop *loop = arg;
    current = loop;
    nv_sched_prompt();
    (void)uv_run(&loop->uv, UV_RUN_DEFAULT);
    current = NULL;
    return NULL;
}

nv_err nv_loop_start(nv_loop *loop)
{
    loop->thread_running = pthread_create(&loop->thread, NULL, thread_main, loop) == 0;
    return loop->thread_running ? NV_OK : NV_E_LIMIT;
}

void nv_loop_join(nv_loop *loop)
{
    if (!loop->thread_running) {
        return;
    }
    atomic_store(&loop->quit, true);
    nv_loop_poke(loop);
    (void)pthread_join(loop->thread, NULL);
    loop->thread_running = false;
}

static void close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle)) {
        uv_close(handle, NULL);
    }
}

void nv_loop_deinit(nv_loop *loop)
{
    current = loop;
    loop->stopping = true;
    while (has_work(loop)) {
        run_tasks(loop);
        nv_conn_service_woken(loop);
    }
    nv_conn_free_all(loop);
    uv_walk(&loop->uv, close_handle, NULL);
    (void)uv_run(&loop->uv, UV_RUN_DEFAULT);
    run_tasks(loop);
    int rc = uv_loop_close(&loop->uv);
    assert(rc == 0);
    (void)rc;
    close_wake(loop);
    current = NULL;
    pthread_mutex_destroy(&loop->lock);
    nv_tls_loop_deinit(loop);
    nv_buf_deinit(&loop->spare_out);
    free(loop->read_buf);
    free(loop->plain_buf);
    free(loop->frame_buf);
    nv_timers_deinit(&loop->timers);
}
