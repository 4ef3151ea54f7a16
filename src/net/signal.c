#include "net/signal.h"

#include "base/alloc.h"
#include "net/loop_impl.h"

#include <signal.h>
#include <stdlib.h>

typedef struct signals {
    nv_task task;
    nv_loop *loop;
    nv_signal_config config;
    uv_signal_t interrupt;
    uv_signal_t terminate;
    uv_signal_t hangup;
} signals;

/* One per process: it lives as long as the loop's handles, which are closed when the loop is freed. */
static signals all;

static void on_signal(uv_signal_t *handle, int number)
{
    nv_loop_enter(handle->loop->data);
    if (number == SIGHUP) {
        all.config.reload(all.config.arg);
    } else {
        all.config.stop(all.config.arg, number);
    }
}

static void watch(uv_signal_t *handle, int number)
{
    (void)uv_signal_init(&all.loop->uv, handle);
    (void)uv_signal_start(handle, on_signal, number);
}

static void start(nv_task *task)
{
    (void)task;
    if (all.config.stop) {
        watch(&all.interrupt, SIGINT);
        watch(&all.terminate, SIGTERM);
    }
    if (all.config.reload) {
        watch(&all.hangup, SIGHUP);
    }
}

void nv_signals_start(nv_loop *loop, const nv_signal_config *config)
{
    all = (signals){.task.run = start, .loop = loop, .config = *config};
    nv_post(nv_loop_exec(loop), &all.task);
}
