#include "support/hub_rest.h"

#include "base/attrs.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef struct rest {
    nv_task wake;
    nv_hub *hub;
    _Atomic bool settled;
} rest;

static void nothing(nv_task *task)
{
    (void)task;
}

/* nv_hub_settle() wants a thread that is no loop's. */
static void *settle(void *arg)
{
    rest *r = arg;
    nv_hub_settle(r->hub);
    atomic_store(&r->settled, true);
    nv_post(r->hub->loops[0].exec, &r->wake);
    return NULL;
}

static nv_exec_queue *queue_of(nv_hub_loop *loop)
{
    return nv_container_of(loop->exec, nv_exec_queue, exec);
}

static void turn(nv_hub *hub)
{
    for (size_t i = 0; i < hub->loop_count; i++) {
        nv_hub_loop *loop = &hub->loops[i];
        nv_exec_queue_adopt(queue_of(loop));
        (void)nv_exec_queue_run(queue_of(loop));
        nv_hub_loop_tick(loop, nv_mono_us(hub->clock));
        nv_hub_loop_turn_end(loop);
    }
}

/* One thread can wait for one queue only. */
static void wait_for_work(nv_hub *hub)
{
    if (hub->loop_count == 1) {
        (void)nv_exec_queue_run_wait(queue_of(&hub->loops[0]));
    } else {
        (void)sched_yield();
    }
}

void hub_rest(nv_hub *hub)
{
    rest r = {.wake.run = nothing, .hub = hub};
    pthread_t thread;
    nv_hub_stop(hub);
    if (pthread_create(&thread, NULL, settle, &r) != 0) {
        abort();
    }
    turn(hub);
    while (!atomic_load(&r.settled)) {
        wait_for_work(hub);
        turn(hub);
    }
    (void)pthread_join(thread, NULL);
    turn(hub); /* the task that woke it */
}
