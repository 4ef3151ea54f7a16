#include "net/net.h"

#include "base/alloc.h"
#include "base/metrics.h"
#include "net/conn.h"
#include "net/net_impl.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* How long nv_net_wait() waits for connections that the grace period has closed. */
#define AFTER_GRACE_US (5 * NV_US_PER_S)

nv_net_limits nv_net_limits_default(void)
{
    return (nv_net_limits){
        .max_connections = 100000,
        .max_unauthenticated = 5000,
        .max_output_bytes = (size_t)1024 * 1024,
        .pause_output_bytes = (size_t)256 * 1024,
        .handshake_us = 30 * NV_US_PER_S,
        .close_us = 5 * NV_US_PER_S,
    };
}

static void init_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

static void free_net(nv_net *net, unsigned loops)
{
    for (unsigned i = 0; i < loops; i++) {
        nv_loop_deinit(&net->loops[i]);
    }
    pthread_cond_destroy(&net->changed);
    pthread_mutex_destroy(&net->lock);
    free(net->loops);
    free(net);
}

nv_err nv_net_new(const nv_net_config *config, nv_net **out, char why[NV_NET_WHY_SIZE])
{
    nv_net *net = nv_calloc(1, sizeof(*net));
    net->limits = config->limits;
    net->clock = config->clock ? config->clock : nv_clock_system();
    net->loop_count = config->loops ? config->loops : uv_available_parallelism();
    net->loops = nv_calloc(net->loop_count, sizeof(*net->loops));
    pthread_mutex_init(&net->lock, NULL);
    init_condition(&net->changed);
    nv_list_init(&net->listeners);
    for (unsigned i = 0; i < net->loop_count; i++) {
        nv_err err = nv_loop_init(&net->loops[i], net, i, net->clock);
        if (err != NV_OK) {
            (void)snprintf(why, NV_NET_WHY_SIZE, "cannot create I/O loop %u of %u: out of file descriptors", i + 1,
                           net->loop_count);
            free_net(net, i);
            return err;
        }
        net->loops[i].spin_us = net->limits.spin_us;
    }
    *out = net;
    return NV_OK;
}

unsigned nv_net_loops(const nv_net *net)
{
    return net->loop_count;
}

nv_loop *nv_net_loop(nv_net *net, unsigned index)
{
    return &net->loops[index];
}

nv_err nv_net_start(nv_net *net, char why[NV_NET_WHY_SIZE])
{
    (void)signal(SIGPIPE, SIG_IGN);
    for (unsigned i = 0; i < net->loop_count; i++) {
        nv_err err = nv_loop_start(&net->loops[i]);
        if (err != NV_OK) {
            (void)snprintf(why, NV_NET_WHY_SIZE, "cannot start the thread of I/O loop %u of %u", i + 1,
                           net->loop_count);
            return err;
        }
    }
    return NV_OK;
}

size_t nv_net_connections(const nv_net *net)
{
    return atomic_load(&net->open);
}

uint64_t nv_net_next_id(nv_net *net)
{
    return atomic_fetch_add_explicit(&net->next_id, 1, memory_order_relaxed) + 1;
}

void nv_net_known(nv_loop *loop)
{
    atomic_fetch_sub(&loop->net->unknown, 1);
    atomic_fetch_sub(&loop->strange, 1);
}

/* ---- stopping ---- */

typedef struct stop_task {
    nv_task task;
    nv_loop *loop;
    int64_t grace_us;
} stop_task;

void nv_net_loop_empty(nv_loop *loop)
{
    nv_net *net = loop->net;
    pthread_mutex_lock(&net->lock);
    net->loops_left--;
    pthread_cond_broadcast(&net->changed);
    pthread_mutex_unlock(&net->lock);
}

static void end_for_stop(nv_conn *conn)
{
    nv_conn_end(conn, "the hub stops");
}

static void on_grace_over(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    nv_conn_for_each(nv_container_of(timer, nv_loop, stop_timer), end_for_stop);
}

static void stop_loop(nv_task *task)
{
    stop_task *stop = nv_container_of(task, stop_task, task);
    nv_loop *loop = stop->loop;
    int64_t by_us = loop->now_us + stop->grace_us;
    free(stop);
    if (loop->stopping) {
        if (by_us < loop->stop_timer.due_us) {
            nv_timer_set(loop, &loop->stop_timer, by_us);
        }
        return;
    }
    loop->stopping = true;
    nv_listener_close_all(loop);
    nv_timer_init(&loop->stop_timer, on_grace_over);
    if (nv_list_empty(&loop->conns) && nv_list_empty(&loop->strangers)) {
        nv_net_loop_empty(loop);
        return;
    }
    nv_conn_for_each(loop, nv_conn_drain);
    nv_timer_set(loop, &loop->stop_timer, by_us);
}

void nv_net_stop(nv_net *net, int64_t grace_us)
{
    pthread_mutex_lock(&net->lock);
    if (!net->stopping) {
        net->stopping = true;
        net->loops_left = net->loop_count;
        net->grace_us = grace_us;
    } else if (grace_us < net->grace_us) {
        net->grace_us = grace_us;
    }
    pthread_cond_broadcast(&net->changed);
    pthread_mutex_unlock(&net->lock);
    for (unsigned i = 0; i < net->loop_count; i++) {
        stop_task *stop = nv_malloc(sizeof(*stop));
        *stop = (stop_task){.task.run = stop_loop, .loop = &net->loops[i], .grace_us = grace_us};
        nv_post(&net->loops[i].exec, &stop->task);
    }
}

static struct timespec deadline_in(int64_t from_now_us)
{
    int64_t at_us = nv_mono_us(nv_clock_system()) + from_now_us;
    return (struct timespec){.tv_sec = at_us / NV_US_PER_S, .tv_nsec = at_us % NV_US_PER_S * 1000};
}

typedef struct count_task {
    nv_task task;
    nv_loop *loop;
    pthread_mutex_t *lock;
    pthread_cond_t *changed;
    size_t *count;
    unsigned *left;
} count_task;

static void count_loop(nv_task *task)
{
    count_task *count = nv_container_of(task, count_task, task);
    size_t undone = 0;
    const nv_list *lists[] = {&count->loop->conns, &count->loop->strangers};
    for (size_t i = 0; i < NV_COUNT_OF(lists); i++) {
        for (nv_list *node = lists[i]->next; node != lists[i]; node = node->next) {
            undone += nv_container_of(node, nv_conn, link)->session != NULL;
        }
    }
    pthread_mutex_lock(count->lock);
    *count->count += undone;
    --*count->left;
    pthread_cond_broadcast(count->changed);
    pthread_mutex_unlock(count->lock);
}

static size_t count_undone(nv_net *net)
{
    size_t undone = 0;
    unsigned left = net->loop_count;
    count_task *tasks = nv_calloc(net->loop_count, sizeof(*tasks));
    for (unsigned i = 0; i < net->loop_count; i++) {
        tasks[i] = (count_task){{.run = count_loop}, &net->loops[i], &net->lock, &net->changed, &undone, &left};
        nv_post(&net->loops[i].exec, &tasks[i].task);
    }
    pthread_mutex_lock(&net->lock);
    while (left > 0) {
        pthread_cond_wait(&net->changed, &net->lock);
    }
    pthread_mutex_unlock(&net->lock);
    free(tasks);
    return undone;
}

/* Until the loops are empty, or @p after_us more than the grace have passed. Under lock. @return true: they are */
static bool wait_empty_locked(nv_net *net, int64_t after_us)
{
    int64_t grace_us = net->grace_us;
    struct timespec by = deadline_in(grace_us + after_us);
    int rc = 0;
    while (net->loops_left > 0 && rc == 0) {
        if (net->grace_us < grace_us) { /* somebody is in a hurry */
            grace_us = net->grace_us;
            by = deadline_in(grace_us + after_us);
        }
        rc = pthread_cond_timedwait(&net->changed, &net->lock, &by);
    }
    return net->loops_left == 0;
}

size_t nv_net_wait(nv_net *net)
{
    pthread_mutex_lock(&net->lock);
    while (!net->stopping) {
        pthread_cond_wait(&net->changed, &net->lock);
    }
    bool empty = wait_empty_locked(net, 0);
    pthread_mutex_unlock(&net->lock);
    if (!empty) { /* the grace is over; on loops whose clock stands still nobody else would say so */
        nv_net_stop(net, 0);
        pthread_mutex_lock(&net->lock);
        empty = wait_empty_locked(net, AFTER_GRACE_US);
        pthread_mutex_unlock(&net->lock);
    }
    return empty ? 0 : count_undone(net);
}

void nv_net_free(nv_net *net)
{
    if (!net) {
        return;
    }
    for (unsigned i = 0; i < net->loop_count; i++) {
        nv_loop_join(&net->loops[i]);
    }
    /* The loops first: their connections refer to the listeners. */
    for (unsigned i = 0; i < net->loop_count; i++) {
        nv_loop_deinit(&net->loops[i]);
    }
    for (nv_list *node = nv_list_pop_front(&net->listeners); node; node = nv_list_pop_front(&net->listeners)) {
        nv_listener_free(nv_listener_of(node));
    }
    free_net(net, 0);
}

/* ---- addresses ---- */

void nv_address_format(const struct sockaddr *address, char *out, size_t size)
{
    char text[INET6_ADDRSTRLEN] = "?";
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)address;
        (void)inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
        (void)snprintf(out, size, "%s:%u", text, ntohs(v4->sin_port));
        return;
    }
    if (address->sa_family != AF_INET6) {
        (void)snprintf(out, size, "?");
        return;
    }
    const struct sockaddr_in6 *v6 = (const void *)address;
    if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
        (void)inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], text, sizeof(text));
        (void)snprintf(out, size, "%s:%u", text, ntohs(v6->sin6_port));
        return;
    }
    (void)inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
    (void)snprintf(out, size, "[%s]:%u", text, ntohs(v6->sin6_port));
}
