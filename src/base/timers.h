/**
 * Timers of one thread: a binary heap by due time. Whoever drives it asks when the first is due and runs what is due;
 * it reads no clock itself, so that tests and `testing.clock: manual` decide what time it is. Times are monotonic
 * microseconds of the caller's nv_clock.
 */
#ifndef NV_BASE_TIMERS_H
#define NV_BASE_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct nv_timers nv_timers;
typedef struct nv_timer nv_timer;

/** Embedded in its owner; clear it before the owner's memory goes. */
struct nv_timer {
    int64_t due_us; /* INT64_MAX: not set; read only */
    void (*run)(nv_timer *timer, int64_t now_us);
    uint32_t _index; /* in the heap, from 1; 0: not set */
};

typedef struct nv_heap_entry {
    int64_t due_us;
    nv_timer *timer;
} nv_heap_entry;

struct nv_timers {
    nv_heap_entry *heap;
    uint32_t len;
    uint32_t capacity;
    int64_t _now_us; /* of the run under way */
    bool _running;
};

/** A zeroed nv_timers is empty. Timers that are still set are forgotten. */
void nv_timers_deinit(nv_timers *timers);

void nv_timer_init(nv_timer *timer, void (*run)(nv_timer *timer, int64_t now_us));
/** Set, or move when it is set. A time in the past is due at the next run; from within a run it becomes the earliest
 * time behind that run. */
void nv_timers_set(nv_timers *timers, nv_timer *timer, int64_t due_us);
/** Harmless when it is not set. */
void nv_timers_clear(nv_timers *timers, nv_timer *timer);
/** When the first is due; INT64_MAX: none is set. */
int64_t nv_timers_due(const nv_timers *timers);
/**
 * Run what is due at @p now_us, in order of due time. A timer is cleared before it runs, and may set itself again or
 * free its owner; one that sets itself into the past runs in the next call, and keeps nobody else from running in this
 * one.
 */
void nv_timers_run(nv_timers *timers, int64_t now_us);

#endif
