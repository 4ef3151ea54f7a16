#include "base/timers.h"

#include "base/alloc.h"

#include <stdlib.h>

static void heap_place(nv_timers *timers, uint32_t at, nv_heap_entry entry)
{
    timers->heap[at] = entry;
    entry.timer->_index = at + 1;
}

static void heap_up(nv_timers *timers, uint32_t at, nv_heap_entry entry)
{
    while (at > 0 && timers->heap[(at - 1) / 2].due_us > entry.due_us) {
        heap_place(timers, at, timers->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    heap_place(timers, at, entry);
}

static void heap_down(nv_timers *timers, uint32_t at, nv_heap_entry entry)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= timers->len) {
            break;
        }
        if (child + 1 < timers->len && timers->heap[child + 1].due_us < timers->heap[child].due_us) {
            child++;
        }
        if (timers->heap[child].due_us >= entry.due_us) {
            break;
        }
        heap_place(timers, at, timers->heap[child]);
        at = child;
    }
    heap_place(timers, at, entry);
}

void nv_timer_init(nv_timer *timer, void (*run)(nv_timer *timer, int64_t now_us))
{
    *timer = (nv_timer){.due_us = INT64_MAX, .run = run};
}

void nv_timers_clear(nv_timers *timers, nv_timer *timer)
{
    if (timer->_index == 0) {
        return;
    }
    uint32_t at = timer->_index - 1;
    timer->_index = 0;
    timer->due_us = INT64_MAX;
    nv_heap_entry last = timers->heap[--timers->len];
    if (at == timers->len) {
        return;
    }
    if (at > 0 && timers->heap[(at - 1) / 2].due_us > last.due_us) {
        heap_up(timers, at, last);
    } else {
        heap_down(timers, at, last);
    }
}

void nv_timers_set(nv_timers *timers, nv_timer *timer, int64_t due_us)
{
    nv_timers_clear(timers, timer);
    if (timers->_running && due_us <= timers->_now_us) {
        due_us = timers->_now_us < INT64_MAX ? timers->_now_us + 1 : INT64_MAX;
    }
    if (due_us == INT64_MAX) {
        return;
    }
    if (timers->len == timers->capacity) {
        timers->capacity = timers->capacity ? timers->capacity * 2 : 64;
        timers->heap = nv_realloc(timers->heap, timers->capacity * sizeof(*timers->heap));
    }
    timer->due_us = due_us;
    heap_up(timers, timers->len++, (nv_heap_entry){due_us, timer});
}

void nv_timers_deinit(nv_timers *timers)
{
    free(timers->heap);
    *timers = (nv_timers){0};
}

int64_t nv_timers_due(const nv_timers *timers)
{
    return timers->len > 0 ? timers->heap[0].due_us : INT64_MAX;
}

void nv_timers_run(nv_timers *timers, int64_t now_us)
{
    timers->_now_us = now_us;
    timers->_running = true; /* so that whoever sets himself again is behind all who are due */
    while (timers->len > 0 && timers->heap[0].due_us <= now_us) {
        nv_timer *timer = timers->heap[0].timer;
        nv_timers_clear(timers, timer);
        timer->run(timer, now_us);
    }
    timers->_running = false;
}
