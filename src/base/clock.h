/**
 * The clock seam. Every timer, deadline and expiry reads one nv_clock; tests use a manual one and
 * advance 48 hours in a millisecond. Times are signed 64-bit microseconds.
 */
#ifndef NV_BASE_CLOCK_H
#define NV_BASE_CLOCK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define NV_US_PER_MS INT64_C(1000)
#define NV_US_PER_S  INT64_C(1000000)

typedef struct nv_clock nv_clock;
struct nv_clock {
    /** Never goes back; origin arbitrary. Thread: any. */
    int64_t (*mono_us)(const nv_clock *clock);
    /** Since 1970-01-01 UTC; may jump. Thread: any. */
    int64_t (*wall_us)(const nv_clock *clock);
};

static inline int64_t nv_mono_us(const nv_clock *clock)
{
    return clock->mono_us(clock);
}

static inline int64_t nv_wall_us(const nv_clock *clock)
{
    return clock->wall_us(clock);
}

/** The clock of the machine. Static storage. */
const nv_clock *nv_clock_system(void);

/** A clock that moves only when told to. */
typedef struct nv_manual_clock {
    nv_clock clock; /* first member: pass &m->clock */
    _Atomic int64_t mono;
    _Atomic int64_t wall;
} nv_manual_clock;

void nv_manual_clock_init(nv_manual_clock *manual, int64_t wall_us);
void nv_manual_clock_advance(nv_manual_clock *manual, int64_t delta_us);

#define NV_TIME_TEXT_SIZE 29
/** "2024-05-01T10:20:30.1234567Z" (seven fraction digits, as the service writes them). @p out is NUL-terminated. */
void nv_time_format(int64_t wall_us, char out[NV_TIME_TEXT_SIZE]);

#endif
