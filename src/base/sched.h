/**
 * What kind of work a thread does, for the scheduler of the system. Hints: where the system knows no such thing they do
 * nothing. They concern the calling thread alone and need no privilege.
 */
#ifndef NV_BASE_SCHED_H
#define NV_BASE_SCHED_H

/** Short pieces of work that somebody waits for: run soon after waking, before threads that take longer turns. */
void nv_sched_prompt(void);
/** Work for a prompt thread on the same core: wait until that one sleeps instead of interrupting it. */
void nv_sched_batch(void);
/** Work that nobody waits for: little of a busy core, in short turns. */
void nv_sched_background(void);
/** Whoever waits for this core goes first. For a background thread that has worked for a while, each NV_SCHED_TURN_US
 * or so, and for one that only looks whether there is something to do; it costs a system call. */
void nv_sched_turn(void);

#define NV_SCHED_TURN_US 100

#endif
