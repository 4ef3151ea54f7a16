/** Inside of the network, for net/ alone. */
#ifndef NV_NET_NET_IMPL_H
#define NV_NET_NET_IMPL_H

#include "net/loop_impl.h"
#include "net/net.h"

#include <sys/socket.h>

struct nv_net {
    nv_net_limits limits;
    const nv_clock *clock;
    unsigned loop_count;
    nv_loop *loops;

    /* any thread */
    _Atomic uint64_t next_id;
    _Atomic size_t open;
    _Atomic size_t unknown;         /* of the open ones, without a known identity */
    _Atomic int64_t refused_second; /* when refusals were last said */
    _Atomic size_t refused_unsaid;

    pthread_mutex_t lock; /* what follows */
    pthread_cond_t changed;
    nv_list listeners;
    bool stopping;
    int64_t grace_us;
    unsigned loops_left; /* that still have connections, once stopping */
};

uint64_t nv_net_next_id(nv_net *net);
/** A connection of this loop is no stranger any more: its session has said who the peer is, or it is gone. */
void nv_net_known(nv_loop *loop);
/** Stopping, and the last connection of this loop is gone. */
void nv_net_loop_empty(nv_loop *loop);

/** "address:port"; an IPv4 address in IPv6 clothes is written as IPv4. */
void nv_address_format(const struct sockaddr *address, char *out, size_t size);

/** Stop accepting. Thread: the accepting loop's. */
void nv_listener_close_all(nv_loop *loop);
nv_listener *nv_listener_of(nv_list *node);
void nv_listener_free(nv_listener *listener);

#endif
