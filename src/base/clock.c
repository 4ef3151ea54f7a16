#include "base/clock.h"

#include "base/attrs.h"

#include <stdio.h>
#include <time.h>

static int64_t read_us(clockid_t id)
{
    struct timespec ts;
    (void)clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * NV_US_PER_S + ts.tv_nsec / 1000;
}

static int64_t system_mono(const nv_clock *clock)
{
    (void)clock;
    return read_us(CLOCK_MONOTONIC);
}

static int64_t system_wall(const nv_clock *clock)
{
    (void)clock;
    return read_us(CLOCK_REALTIME);
}

const nv_clock *nv_clock_system(void)
{
    static const nv_clock clock = {system_mono, system_wall};
    return &clock;
}

static const nv_manual_clock *manual_of(const nv_clock *clock)
{
    return (const nv_manual_clock *)(const void *)clock;
}

static int64_t manual_mono(const nv_clock *clock)
{
    return atomic_load(&manual_of(clock)->mono);
}

static int64_t manual_wall(const nv_clock *clock)
{
    return atomic_load(&manual_of(clock)->wall);
}

void nv_manual_clock_init(nv_manual_clock *manual, int64_t wall_us)
{
    manual->clock = (nv_clock){manual_mono, manual_wall};
    atomic_init(&manual->mono, NV_US_PER_S);
    atomic_init(&manual->wall, wall_us);
}

void nv_manual_clock_advance(nv_manual_clock *manual, int64_t delta_us)
{
    atomic_fetch_add(&manual->mono, delta_us);
    atomic_fetch_add(&manual->wall, delta_us);
}

void nv_time_format(int64_t wall_us, char out[NV_TIME_TEXT_SIZE])
{
    time_t seconds = (time_t)(wall_us / NV_US_PER_S);
    int64_t rest = wall_us % NV_US_PER_S;
    if (rest < 0) {
        rest += NV_US_PER_S;
        seconds--;
    }
    struct tm tm;
    if (!gmtime_r(&seconds, &tm) || tm.tm_year < -1899 || tm.tm_year > 8099) {
        (void)snprintf(out, NV_TIME_TEXT_SIZE, "0001-01-01T00:00:00.0000000Z");
        return;
    }
    (void)snprintf(out, NV_TIME_TEXT_SIZE, "%04u-%02u-%02uT%02u:%02u:%02u.%06u0Z",
                   (unsigned)(tm.tm_year + 1900) % 10000u, (unsigned)(tm.tm_mon + 1) % 100u,
                   (unsigned)tm.tm_mday % 100u, (unsigned)tm.tm_hour % 100u, (unsigned)tm.tm_min % 100u,
                   (unsigned)tm.tm_sec % 100u, (unsigned)rest % 1000000u);
}
