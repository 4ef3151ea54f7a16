/** For tests: a device or module that is connected, without a protocol. It remembers what it was handed. */
#ifndef NV_SESSION_HTTP_RIG_DEVICE_H
#define NV_SESSION_HTTP_RIG_DEVICE_H

#include "core/devices.h"
#include "session/http_rig.h"

#define NV_RIG_CALLS_MAX 128u

typedef struct nv_rig_device {
    nv_claim claim;
    nv_rig_hub *on;
    nv_registry_find find;
    uint32_t wants;
    bool connected;
    bool released;
    size_t asked; /* methods, since it came */
    uint64_t calls[NV_RIG_CALLS_MAX];
    /* The last delivery */
    char name[128];
    char body[4096];
    uint64_t version;
    size_t desired; /* changes of desired properties so far */
    bool changed;   /* one since the last nv_rig_device_wait_desired() */
} nv_rig_device;

/** Connect; @p module may be NULL. It is registered. @param wants  NV_WANTS_* */
void nv_rig_device_come(nv_rig_device *device, nv_rig_hub *on, const char *id, const char *module, uint32_t wants);
/** Harmless when it is not connected. */
void nv_rig_device_leave(nv_rig_device *device);
/** Wait until it has been asked @p count methods since it came. */
void nv_rig_device_wait(nv_rig_device *device, size_t count);
/** Answer one of them, from 0. */
void nv_rig_device_answer(nv_rig_device *device, size_t which, int64_t status, const char *payload);
/** Wait until its desired properties change, once more since the last wait. */
void nv_rig_device_wait_desired(nv_rig_device *device);

#endif
