/** For tests of the hub's events: a hub of one loop with its storage on fault disks, under a manual clock. No cmocka.
 */
#ifndef NV_TESTS_EVENTS_HUB_H
#define NV_TESTS_EVENTS_HUB_H

#include "core/events.h"
#include "core/hub.h"
#include "store/log.h"
#include "store/state.h"

typedef struct events_hub {
    nv_manual_clock clock;
    nv_seeded_rng rng;
    nv_exec_queue queue;
    nv_exec *execs[1];
    nv_state *state;
    nv_log *log;
    nv_hub *hub;
} events_hub;

typedef struct events_hub_options {
    const char *vfs; /* the state is in its folder /data */
    nv_disk *disk;   /* the log is in its folder /log */
    const nv_events_config *events;
    bool azure;
    uint32_t checkpoint_pages; /* 0: the store's own number */
} events_hub_options;

/** Clock, dice and queue, for all the lives of the hub. */
void events_hub_init(events_hub *h, int64_t wall_us, uint64_t seed);
void events_hub_deinit(events_hub *h);
/** A life. @param why  filled when it fails; events_hub_close_stores() gives back what is open */
nv_err events_hub_open(events_hub *h, const events_hub_options *options, nv_buf *why);
/** After hub_rest(), or when the hub did not open. */
void events_hub_close_stores(events_hub *h);

/** A turn of the loop; the second waits for a task first. */
void events_hub_turn(events_hub *h);
void events_hub_wait(events_hub *h);
/** Read the whole log. @return NV_OK, or what the log answered before its end */
nv_err events_hub_read(events_hub *h, void (*each)(void *arg, const nv_record *record), void *arg);

#endif
