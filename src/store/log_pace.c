/**
 * The pace of background work: preparing and packing segment files shares the disk with commits, for which somebody
 * waits. While commits are made, the janitor works in small pieces and in proportion to them, so that a commit finds at
 * most one piece before it, and seldom; while none is made it works on without being felt.
 */
#include "store/log_internal.h"

#include <time.h>

enum { STEP_US = 1000, PIECE_IDLE = 256 << 10, CREDIT_MAX = 1 << 20 };

nv_pace nv_pace_start(nv_log *log, double ratio)
{
    return (nv_pace){log, ratio, atomic_load_explicit(&log->committed_bytes, memory_order_relaxed), 0};
}

bool nv_log_spare_needed(nv_log *log, double part)
{
    pthread_mutex_lock(&log->lock);
    const nv_segment *last = log->segment_count ? log->segments[log->segment_count - 1] : NULL;
    bool late = !last || last->sealed || (double)last->end.position > (double)last->file_bytes * part;
    bool needed = log->spare_count == 0 && late;
    pthread_mutex_unlock(&log->lock);
    return needed;
}

/** @return false when the log is stopping */
static bool pause_step(nv_log *log)
{
    int64_t until = nv_mono_us(nv_clock_system()) + STEP_US;
    struct timespec ts = {until / NV_US_PER_S, (until % NV_US_PER_S) * 1000};
    pthread_mutex_lock(&log->lock);
    while (!log->stopping && pthread_cond_timedwait(&log->janitor_wake, &log->lock, &ts) == 0) {
    }
    bool going = !log->stopping;
    pthread_mutex_unlock(&log->lock);
    return going;
}

size_t nv_pace_wait(nv_pace *pace)
{
    nv_log *log = pace->log;
    while (pace->credit < NV_LOG_PIECE) {
        bool urgent = nv_log_spare_needed(log, 0.75);
        if (urgent || !pause_step(log)) {
            return PIECE_IDLE;
        }
        uint64_t now = atomic_load_explicit(&log->committed_bytes, memory_order_relaxed);
        if (now == pace->seen) {
            return PIECE_IDLE;
        }
        pace->credit += (uint64_t)((double)(now - pace->seen) * pace->ratio);
        pace->seen = now;
    }
    pace->credit = pace->credit < CREDIT_MAX ? pace->credit : CREDIT_MAX;
    return pace->credit / NV_LOG_BLOCK * NV_LOG_BLOCK;
}

void nv_pace_done(nv_pace *pace, uint64_t bytes)
{
    pace->credit -= bytes < pace->credit ? bytes : pace->credit;
}
