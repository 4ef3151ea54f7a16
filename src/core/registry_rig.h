/**
 * What the tests of the registry share: a hub with nothing but a state store on a temporary folder, and one loop whose
 * queue the test runs. nv_devices_changed() is the rig's: link it before nv_core.
 */
#ifndef NV_CORE_REGISTRY_RIG_H
#define NV_CORE_REGISTRY_RIG_H

#include "core/registry.h"
#include "store/state.h"

#define S(text) nv_span_str(text)

typedef struct rig {
    char dir[64];
    const char *vfs; /* NULL: the system's files */
    nv_manual_clock clock;
    nv_state *state;
    nv_exec_queue queue;
    nv_hub hub;
    nv_hub_loop loop;
} rig;

/** What the registry told the live devices: "device/module" with + enabled, ! disabled, - gone. Cleared by setup. */
extern char rig_told[512];

void rig_open(rig *w, size_t cache_bytes);
void rig_close(rig *w);
int rig_setup(void **state);
int rig_teardown(void **state);

nv_registry_request rig_request(nv_registry_verb verb, const char *device, const char *module);
/** A PUT that changes nothing of @p identity, with its etag. The spans are the identity's. */
nv_registry_request rig_update(const nv_identity *identity);
/** Ask, and run the queue until the answer is there. */
nv_hub_error rig_ask(rig *w, nv_registry_request *request);
/** Ask, expecting @p want. @return the identity of the answer, or NULL. The caller unrefs */
nv_identity *rig_put(rig *w, nv_registry_request request, nv_hub_error want);
/** Ask, and drop the identity of the answer. */
nv_hub_error rig_do(nv_registry_request request, rig *w);
nv_identity *rig_create(rig *w, const char *device, const char *module);
/** NULL: any error. */
nv_identity *rig_get(rig *w, const char *device, const char *module);
bool rig_key_eq(const nv_key *a, const nv_key *b);

/** Look up, expecting @p want. @return whether the answer came from memory */
bool rig_find(rig *w, const char *device, const char *module, nv_err want, nv_identity **identity);
bool rig_look(rig *w, const char *device, const char *module, nv_err want, uint64_t *etag);
bool rig_look_enabled(rig *w, const char *device, const char *module, bool *enabled);

#endif
