/**
 * A hub on the real stores in a temporary folder, with executors that the test's own threads drain.
 */
#ifndef NV_TESTS_REAL_CORE_H
#define NV_TESTS_REAL_CORE_H

#include "core/hub.h"
#include "core/identity.h"
#include "store/log.h"
#include "store/state.h"

#define REAL_LOOPS 2u

typedef struct real_core {
    char dir[64];
    nv_state *state;
    nv_log *log;
    nv_hub *hub;
    nv_exec_queue queues[REAL_LOOPS];
    nv_exec *execs[REAL_LOOPS];
} real_core;

/** Primary key of every device made by real_core_add(). */
static const nv_key real_device_key = {"device-key-device-key-device-key", 32};

/** A hub named hub.example.net. @param parent  an existing folder, below which everything is made; NULL: /tmp */
real_core *real_core_new(const char *parent, nv_durability durability);
/** Close hub and stores and open them again, as a restart does. All sessions are gone. */
void real_core_restart(real_core *core, nv_durability durability);
/** Removes the folder. */
void real_core_free(real_core *core);
/** Register a device with SAS. Thread: the calling one becomes the owner of loop 0. */
void real_core_add(real_core *core, const char *device);

#endif
