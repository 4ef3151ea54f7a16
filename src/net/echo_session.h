/**
 * The session that tests of net/ carry: it echoes lines. Commands as whole lines: "close" closes after the echo, "stop"
 * stops reading until the test releases it, "known" authenticates, "flood N" answers with N bytes at once, "stream N"
 * as there is room, "judge" authenticates after some tasks of the loop, reading nothing meanwhile, "hold" delays done
 * after lost, "upgrade" hands over to another echo behind a WebSocket.
 */
#ifndef NV_NET_ECHO_SESSION_H
#define NV_NET_ECHO_SESSION_H

#include "session/session.h"

#include <stdatomic.h>

typedef struct echo_counts {
    _Atomic int made;
    _Atomic int lost;
    _Atomic int freed;
    _Atomic int drained;
    _Atomic int ticks;
    _Atomic int stopped;
    _Atomic int full; /* an answer did not fit */
    _Atomic int held;
    _Atomic int lines;
    _Atomic int upgrades; /* asked for; each is one of the next two */
    _Atomic int changed;
    _Atomic int dropped;
    _Atomic int sent; /* turns in which something of it, or of its layers, was sent */
} echo_counts;

typedef struct echo_config {
    echo_counts counts;
    size_t max_pending;  /* 0: 64 KiB */
    size_t max_message;  /* of WebSocket; 0: 64 KiB */
    int64_t deadline_us; /* 0: none */
    uint32_t guests;
    bool close_when_full; /* when an answer does not fit */
    bool bulk;            /* echo all bytes at once, no lines */
    void (*peer_seen)(void *arg, const nv_peer *peer);
    void *arg;
    _Atomic(nv_session *) last; /* made last: for echo_release() by a task on its loop */
    _Atomic(const char *) why;  /* of the last lost() */
} echo_config;

/** An nv_accept_fn; @p arg is an echo_config. */
nv_session *echo_accept(void *arg, nv_carrier *carrier);
/** On the session's loop: read again after "stop"; be done after "hold". */
void echo_release(nv_session *session);

#endif
