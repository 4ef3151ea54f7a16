/**
 * What the tests of cloud-to-device messages share: a hub of two loops on a real state store (on a folder, or on the
 * fault disk) under a manual clock. One thread runs both loops, so a seed repeats a run.
 */
#ifndef NV_CORE_C2D_RIG_H
#define NV_CORE_C2D_RIG_H

#include "core/c2d.h"
#include "store/state.h"

#define C2D_LOOPS 2u

typedef struct c2d_rig {
    char dir[64];
    const char *vfs; /* NULL: a folder in /tmp */
    nv_limits limits;
    nv_manual_clock clock;
    nv_seeded_rng rng;
    nv_exec_queue queue;
    nv_state *state;
    nv_hub *hub;
} c2d_rig;

/** The store is made, no hub yet. */
void c2d_rig_init(c2d_rig *rig, uint64_t seed, const char *vfs);
void c2d_rig_deinit(c2d_rig *rig);
/** @return false: the store does not open (a cut disk) */
bool c2d_rig_open(c2d_rig *rig);
/** As a restart or kill: locks and what is in memory are gone. */
void c2d_rig_close(c2d_rig *rig);
/** Run the loops until nothing is in flight. */
void c2d_rig_settle(c2d_rig *rig);
/** Advance both clocks, run the timers, settle; in steps of at most @p step_us (0: one). */
void c2d_rig_advance(c2d_rig *rig, int64_t delta_us);

bool c2d_rig_add(c2d_rig *rig, const char *device);
void c2d_rig_remove(c2d_rig *rig, const char *device);
nv_hub_error c2d_rig_send(c2d_rig *rig, const char *device, const char *id, nv_c2d_ack ack, int64_t ttl_us,
                          uint64_t *sequence);
/** @return a reference, or NULL */
nv_c2d_message *c2d_rig_take(c2d_rig *rig, const char *device, nv_hub_error want);
nv_hub_error c2d_rig_settle_one(c2d_rig *rig, const char *device, const char *token, nv_c2d_outcome outcome);
uint64_t c2d_rig_purge(c2d_rig *rig, const char *device, nv_hub_error want);
uint64_t c2d_rig_depth(c2d_rig *rig, const char *device);
/** The records of one batch taken and completed: "id=Status " of each, in order. Static storage; "" none. */
const char *c2d_rig_feedback(c2d_rig *rig);

/** "id" of a message made by c2d_rig_send. Static storage. */
const char *c2d_rig_id(const nv_c2d_message *message);

#endif
