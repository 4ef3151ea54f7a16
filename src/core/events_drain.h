/** The drainer of the outbox, shared by events.c (putting) and events_drain.c (draining). */
#ifndef NV_CORE_EVENTS_DRAIN_H
#define NV_CORE_EVENTS_DRAIN_H

#include "base/arena.h"
#include "core/events.h"
#include "store/state_outbox.h"

typedef enum nv_drain_state { NV_DRAIN_IDLE, NV_DRAIN_READING, NV_DRAIN_APPENDING, NV_DRAIN_WAITING } nv_drain_state;

struct nv_events {
    nv_hub *hub;
    nv_events_config config;
    char hub_name[256];
    /* any thread */
    _Atomic bool refused; /* the log took nothing the last time: what must tell an event is refused too */
    _Atomic bool posted;  /* task is on its way */
    nv_task task;
    /* the state reader's while READING, else of loop 0 */
    nv_state_op read;
    nv_arena arena; /* what the rows point at */
    nv_outbox_row *rows;
    size_t row_count;
    size_t row_bytes;
    bool more; /* the read stopped before the end */
    /* loop 0 */
    nv_hub_loop *loop;
    nv_drain_state state;
    bool again;       /* something was committed since the last read began */
    uint64_t drained; /* up to this row all are in the log */
    uint64_t filled;  /* the last row in the batch */
    nv_log_batch *batch;
    nv_buf stamp;
    nv_timer retry;
    nv_timer deletion;
    nv_state_op delete;
    uint64_t delete_row;
    size_t undeleted; /* rows drained and not deleted, about */
    bool deleting;
    nv_task settle_task;
    sem_t *settled_to; /* set before settle_task is posted */
    sem_t *settling;
    bool started;
    bool closed;
};

#endif
