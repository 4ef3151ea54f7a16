/** Signals of the process, as callbacks on a loop. */
#ifndef NV_NET_SIGNAL_H
#define NV_NET_SIGNAL_H

#include "net/loop.h"

typedef struct nv_signal_config {
    void (*stop)(void *arg, int signal_number); /* SIGINT, SIGTERM */
    void (*reload)(void *arg);                  /* SIGHUP */
    void *arg;
} nv_signal_config;

/**
 * Callbacks run on @p loop; either may be NULL (the signal keeps its former action). Lives until the loop is freed.
 * Thread: any, once per process.
 */
void nv_signals_start(nv_loop *loop, const nv_signal_config *config);

#endif
