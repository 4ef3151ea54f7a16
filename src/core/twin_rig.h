/**
 * What the tests of twins share: the registry's rig, one device that listens, and events that are written down. The
 * live devices, the shards and the outbox are the rig's: link it before nv_core.
 */
#ifndef NV_CORE_TWIN_RIG_H
#define NV_CORE_TWIN_RIG_H

#include "core/registry_rig.h"
#include "core/twin.h"

/** What was delivered, one line each: "d1/m 3 {...}". Cleared by twin_rig_clear. */
extern char twin_rig_told[8192];
/** What went into the outbox by transactions, one line each: "schema operation device/module {...}"; also what those
 * wrote that were undone. */
extern char twin_rig_events[16384];
/** Which sources are wanted, bits by nv_source. */
extern uint32_t twin_rig_wanted;
/** How often nv_events_committed was called. */
extern int twin_rig_committed;
/** The loop that owns every device; NULL: the rig's only one. */
extern nv_hub_loop *twin_rig_shard;
/** Whether somebody is connected who wants desired properties. */
extern bool twin_rig_listens;

void twin_rig_clear(void);

nv_twin_request twin_rig_request(nv_twin_verb verb, const char *device, const char *module, const char *body);
/** Ask, and run the queue until the answer is there. */
nv_hub_error twin_rig_ask(rig *w, nv_twin_request *request);
/** Ask and forget the answer. */
nv_hub_error twin_rig_do(rig *w, nv_twin_verb verb, const char *device, const char *body);
/** The twin as it is; the caller unrefs. NULL: any error. */
nv_twin *twin_rig_get(rig *w, const char *device, const char *module);
/** A document as text; the caller frees. */
char *twin_rig_service_text(const nv_twin *twin);
char *twin_rig_device_text(const nv_twin *twin);

#endif
