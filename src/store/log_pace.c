/**
 * The pace of background work: preparing and packing segment files shares the disk with commits, for which somebody
 * waits. While commits are made, the janitor works in small pieces, in proportion to them, and starts each when a
 * commit has just ended: a device that waits for its acknowledgement sends the next message after that, and finds the
 * disk free again. While no commits are made it works on unnoticed.
 */
#include "store/log_internal.h"

#include <time.h>

enum { IDLE_US = 2000, PIECE_URGENT = 256 << 10, CREDIT_MAX = 1 << 20 };

nv_pace nv_pace_start(nv_log *log, double ratio)
{
    pthread_mutex_lock(&log->lock);
    uint64_t seen = log->committed_bytes;
    pthread_mutex_unlock(&log->lock);
    return (nv_pace){log, ratio, seen, 0};
}

static bool spare_needed_locked(const nv_log *log, double part)
{
    const nv_segment *last = log->segment_count ? log->segments[log->segment_count - 1] : NULL;
    bool late = !last || last->sealed || (double)last->end.position > (double)last->file_bytes * part;
    return log->spare_count == 0 && late;
}

bool nv_log_spare_needed(nv_log *log, double part)
{
    pthread_mutex_lock(&log->lock);
    bool needed = spare_needed_locked(log, part);
    pthread_mutex_unlock(&log->lock);
    return needed;
}

/** Wait until @p bytes more are committed, or nothing is for a while. */
static void wait_gap_locked(nv_log *log, uint64_t seen, uint64_t bytes)
{
    uint64_t last = log->committed_bytes;
    log->gap_at = seen + bytes;
    while (!log->stopping && log->committed_bytes < seen + bytes) {
        int64_t until = nv_mono_us(nv_clock_system()) + IDLE_US;
        struct timespec ts = {until / NV_US_PER_S, (until % NV_US_PER_S) * 1000};
        bool late = pthread_cond_timedwait(&log->gap, &log->lock, &ts) != 0;
        if (late && log->committed_bytes == last) {
            break;
        }
        last = log->committed_bytes;
    }
    log->gap_at = 0;
}

size_t nv_pace_wait(nv_pace *pace)
{
    nv_log *log = pace->log;
    pthread_mutex_lock(&log->lock);
    bool urgent = log->stopping || spare_needed_locked(log, 0.75);
    if (!urgent && pace->credit < NV_LOG_PIECE) {
        wait_gap_locked(log, pace->seen, (uint64_t)((double)(NV_LOG_PIECE - pace->credit) / pace->ratio) + 1);
    }
    pace->credit += (uint64_t)((double)(log->committed_bytes - pace->seen) * pace->ratio);
    pace->seen = log->committed_bytes;
    pthread_mutex_unlock(&log->lock);
    pace->credit = pace->credit < CREDIT_MAX ? pace->credit : CREDIT_MAX;
    size_t least = urgent ? PIECE_URGENT : NV_LOG_PIECE;
    return pace->credit < least ? least : pace->credit / NV_LOG_BLOCK * NV_LOG_BLOCK;
}

void nv_pace_done(nv_pace *pace, uint64_t bytes)
{
    pace->credit -= bytes < pace->credit ? bytes : pace->credit;
}
