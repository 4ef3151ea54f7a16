/**
 * I/O loops: one thread, one libuv loop and one executor each. Everything that belongs to a connection happens on its
 * loop; other threads talk to it through nv_post().
 *
 * A turn of a loop, in this order:
 *
 *   sleep until something happens -> all I/O events (sessions eat their input)
 *     -> posted tasks -> due timers -> turn-end hooks (the core submits its batch here)
 *     -> connections that were woken or have output are serviced and flushed, once each
 *
 * The second line repeats a few times while it makes more work for itself (a hook that appends inline posts its
 * completions to its own loop), so that an answer leaves in the turn that made it; what is left after that is done
 * after the next look at the sockets, without sleeping in between.
 */
#ifndef NV_NET_LOOP_H
#define NV_NET_LOOP_H

#include "base/clock.h"
#include "base/list.h"
#include "base/task.h"
#include "base/timers.h"

typedef struct nv_loop nv_loop;
struct nv_hub_loop;

/**
 * The loop as an executor. Posting takes a short lock and wakes the loop only when it sleeps and nobody else has woken
 * it; posting from the loop's own thread takes no lock. Tasks run at a fixed point of the turn, in the order posted.
 * Thread: any. Blocks: never.
 */
nv_exec *nv_loop_exec(nv_loop *loop);

/** The loop whose thread this is, or NULL. */
nv_loop *nv_loop_current(void);

/** Monotonic time in us, read once per turn and once after each sleep. Thread: the loop's. */
int64_t nv_loop_now_us(const nv_loop *loop);

/** 0 .. nv_net_loops() - 1. */
unsigned nv_loop_index(const nv_loop *loop);

/**
 * What nv_carrier.loop is for the connections of this loop: the core's context, never looked into here.
 * Thread: before nv_net_start(), or the loop's.
 */
void nv_loop_set_hub(nv_loop *loop, struct nv_hub_loop *hub);
struct nv_hub_loop *nv_loop_hub(const nv_loop *loop);

/** Something to run at the end of every turn (or of every round of a busy one); cheap when there is nothing to do. */
typedef struct nv_turn_hook nv_turn_hook;
struct nv_turn_hook {
    nv_list _link;
    void (*run)(nv_turn_hook *hook, int64_t now_us);
};

/** The hook belongs to the caller and lives until removed or until the loop is freed. Hooks run in the order added.
 * Thread: before nv_net_start(), or the loop's. */
void nv_loop_add_turn_hook(nv_loop *loop, nv_turn_hook *hook);
void nv_loop_remove_turn_hook(nv_turn_hook *hook);

/*
 * Timers of a loop (base/timers.h). Setting and clearing cost O(log n) and allocate nothing once the loop's heap has
 * grown; a deadline that only moves away should be left set and compared when it fires. Thread: the loop's (or before
 * nv_net_start()).
 */

/** Set or move. @p due_us in the past fires in this turn (from inside a timer: in the next). */
void nv_timer_set(nv_loop *loop, nv_timer *timer, int64_t due_us);
/** Harmless when not set. */
void nv_timer_clear(nv_loop *loop, nv_timer *timer);

/** When the first timer is due; INT64_MAX: none is set. Thread: the loop's. */
int64_t nv_loop_due_us(const nv_loop *loop);

/** Make the loop look at its timers: call it after advancing a manual clock. Thread: any. Blocks: never. */
void nv_loop_poke(nv_loop *loop);

#endif
