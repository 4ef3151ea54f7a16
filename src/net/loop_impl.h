/** Inside of the loops, for net/ alone. */
#ifndef NV_NET_LOOP_IMPL_H
#define NV_NET_LOOP_IMPL_H

#include "base/buf.h"
#include "net/loop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

struct nv_layer;
struct nv_net;

/* One large buffer per loop is lent to every read; a second one takes what TLS decrypts, a third one the payload of
 * WebSocket frames. Each has room in front for the rest that a session left the last time. Untouched pages cost
 * nothing. */
#define NV_READ_SIZE     ((size_t)256 * 1024)
#define NV_READ_SIZE_NEW ((size_t)16 * 1024) /* before the session says who the peer is */
#define NV_REST_COPY_MAX ((size_t)16 * 1024) /* a longer rest is completed in its own buffer instead */
#define NV_SCRATCH_SIZE  (NV_READ_SIZE + NV_REST_COPY_MAX)

/** A place for bytes that go to a session: behind the rest that it left. */
typedef struct nv_window {
    uint8_t *at;
    size_t room;    /* 0: out of memory */
    uint8_t *start; /* the rest begins here; NULL: all of it is in nv_conn.rest */
} nv_window;

struct nv_loop {
    nv_exec exec; /* first member */
    struct nv_net *net;
    unsigned index;
    const nv_clock *clock;
    struct nv_hub_loop *hub;

    /* the loop's thread */
    uv_loop_t uv;
    uv_prepare_t turn;
    uv_idle_t busy; /* active while there is work that must not wait for an event */
    uv_timer_t alarm;
    int64_t alarm_us; /* when the alarm is set to, INT64_MAX: not set */
    int64_t now_us;
    bool polling; /* between the end of a turn and the first event after it */
    bool thread_running;
    nv_task *own_head; /* posted by the loop's own thread */
    nv_task *own_tail;
    nv_list hooks;
    nv_timers timers;
    nv_list conns;     /* by nv_conn.link: all that are not in strangers */
    nv_list strangers; /* by nv_conn.link: open, accepted, not authenticated; the oldest first */
    nv_list woken;     /* to be serviced at the end of the turn */
    int rounds_left;   /* of the turn, after this one; 0 outside of it */
    nv_list listeners; /* accepting here */
    uint8_t *read_buf; /* NV_SCRATCH_SIZE each */
    uint8_t *plain_buf;
    uint8_t *frame_buf; /* NULL until the first WebSocket */
    nv_window window;   /* what on_alloc lent to the read that follows */
    int64_t in_bytes;   /* not yet in the metrics */
    int64_t out_bytes;
    nv_buf spare_out;         /* memory lent to the connection being flushed */
    void *tls_bio;            /* shared by the TLS layers of the loop */
    struct nv_layer *tls_now; /* the one inside OpenSSL */
    nv_span tls_in;           /* what it received and OpenSSL has not read yet */
    int64_t said_second;      /* what any peer can cause is said so often in a second at most */
    unsigned said_count;
    bool stopping;
    int64_t spin_us;     /* see nv_net_limits; set before the loop starts */
    int64_t quiet_us;    /* when the last turn with something to do was over */
    unsigned spin_score; /* rises with events that came soon, halves with those that did not */
    bool spinning;       /* looks again instead of sleeping, for lack of anything to do */
    nv_timer stop_timer;
    nv_timer trim_timer;
    int64_t trim_at_us;
    unsigned trim_count; /* what was freed since memory was last given back, in connections */
    pthread_t thread;

    /* any thread */
    uv_poll_t wake;
    int wake_fd;      /* readable: somebody posted */
    int wake_peer_fd; /* where to write for that; on Linux the same */
    pthread_mutex_t lock;
    nv_task *head;
    nv_task *tail;
    _Atomic bool asleep; /* nobody has woken it yet */
    _Atomic bool quit;
    _Atomic size_t load;     /* connections, for the choice of a loop */
    _Atomic size_t strange;  /* of these, in strangers or on their way there */
    _Atomic size_t displace; /* so many of the oldest strangers are to go */
    nv_task displace_task;   /* posted by the accepting loop when displace was 0 */
};

/** Allocates everything that can fail. */
nv_err nv_loop_init(nv_loop *loop, struct nv_net *net, unsigned index, const nv_clock *clock);
/** Start the thread. */
nv_err nv_loop_start(nv_loop *loop);
/** Ask the thread to end and join it. */
void nv_loop_join(nv_loop *loop);
/** Run what is posted, close every handle, free. The thread is joined or never ran; the caller's becomes the loop's. */
void nv_loop_deinit(nv_loop *loop);

/** As much was freed as a handshake or @p count connections hold. When a burst of that is over, the holes that it left
 * in the heap go back to the system. */
void nv_loop_trim_later(nv_loop *loop, unsigned count);

/** One more line about a peer that nobody knows may be written: a scan must not fill the log. */
bool nv_loop_may_say(nv_loop *loop);
/** NV_SCRATCH_SIZE bytes for the payload of frames. */
uint8_t *nv_loop_frame_buf(nv_loop *loop);

/** Free what the TLS layers of the loop shared. In tls_layer.c */
void nv_tls_loop_deinit(nv_loop *loop);

/** First thing in every callback of libuv: the sleep is over. */
static inline void nv_loop_enter(nv_loop *loop)
{
    if (loop->polling) {
        loop->polling = false;
        atomic_store_explicit(&loop->asleep, false, memory_order_seq_cst);
        loop->now_us = nv_mono_us(loop->clock);
    }
}

#endif
