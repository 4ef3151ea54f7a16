/** What the tests of the hub's events share: an events_hub, changes that raise events, and the log as text. */
#ifndef NV_TESTS_EVENTS_RIG_H
#define NV_TESTS_EVENTS_RIG_H

#include "core/devices.h"
#include "core/registry.h"
#include "core/twin.h"
#include "support/events_hub.h"
#include "support/fault_disk.h"

#define EVENTS_RIG_START_US (INT64_C(1714558830) * NV_US_PER_S) /* 2024-05-01T10:20:30Z */
#define EVENTS_RIG_RECORDS  256u

/** A record of the log as text. */
typedef struct events_row {
    nv_source source;
    char who[64]; /* of the stamp: device or device/module */
    char generation[32];
    char properties[1024]; /* "name=value " each */
    char body[2048];
} events_row;

typedef struct events_rig {
    nv_fault_disk *disk;     /* of the state */
    nv_fault_disk *log_disk; /* of the log */
    struct nv_fault_vfs *vfs;
    events_hub on;
    events_row *rows; /* EVENTS_RIG_RECORDS, of the last look at the log */
    size_t count;
} events_rig;

extern const nv_events_config events_rig_all;

/** With a hub that is open. @param azure  its profile */
events_rig *events_rig_new(const nv_events_config *events, bool azure);
void events_rig_free(events_rig *w);
void events_rig_open(events_rig *w, const nv_events_config *events, bool azure);
/** @param clean  false: as if it were killed, as far as memory allows */
void events_rig_close(events_rig *w, bool clean);

/** Advance the clocks, then a turn. */
void events_rig_advance(events_rig *w, int64_t us);

/** Records in the log. */
uint64_t events_rig_stored(events_rig *w);
/** Wait for @p count events in all, see that there are not more, and read them. */
void events_rig_expect_count(events_rig *w, uint64_t count);
void events_rig_expect_row(events_rig *w, size_t i, nv_source source, const char *who, const char *operation);
/** The text behind "name=" among the properties. @return @p out */
const char *events_rig_property(const events_row *r, const char *name, char out[128]);

/** A request to the registry. @p identity: a reference, or NULL */
nv_hub_error events_rig_try(events_rig *w, nv_registry_verb verb, const char *device, const char *module, bool edge,
                            nv_identity **identity);
/** One that succeeds. @return a reference */
nv_identity *events_rig_ask(events_rig *w, nv_registry_verb verb, const char *device, const char *module, bool edge);
void events_rig_create(events_rig *w, const char *device, const char *module);
void events_rig_change_twin(events_rig *w, nv_twin_verb verb, const char *device, const char *module, const char *body);

/** A connection of a device or module. */
typedef struct events_peer {
    nv_claim claim;
    events_rig *w;
    bool granted;
    bool done;
} events_peer;

void events_rig_connect(events_rig *w, events_peer *p, const char *device, const char *module);
/** It does something; only then is its connection an event. */
void events_rig_operate(events_peer *p);
void events_rig_leave(events_peer *p);

#endif
