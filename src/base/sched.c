#include "base/sched.h"

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHORT_SLICE_NS  100000 /* the least that the system takes */
#define BACKGROUND_NICE 10

/* sched_setattr(2), first version; the C library has neither the call nor the structure. */
typedef struct sched_attributes {
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns; /* of a normal thread: the length of its turns, since Linux 6.12 */
    uint64_t deadline_ns;
    uint64_t period_ns;
} sched_attributes;

static void set(uint32_t policy, int32_t nice, uint64_t slice_ns)
{
    sched_attributes attributes = {.size = sizeof(attributes), .policy = policy, .nice = nice, .runtime_ns = slice_ns};
    (void)syscall(SYS_sched_setattr, 0, &attributes, 0);
}

/* An administrator's nice value stays. */
static int32_t own_nice(void)
{
    return getpriority(PRIO_PROCESS, (id_t)gettid());
}

void nv_sched_prompt(void)
{
    set(SCHED_OTHER, own_nice(), SHORT_SLICE_NS);
}

void nv_sched_batch(void)
{
    set(SCHED_BATCH, own_nice(), 0);
}

void nv_sched_background(void)
{
    int32_t nice = own_nice();
    set(SCHED_BATCH, nice > BACKGROUND_NICE ? nice : BACKGROUND_NICE, SHORT_SLICE_NS);
}

/* The scheduler lets a thread that is interrupted finish what it is owed first, which for one that computes is
 * milliseconds; one that yields pays with a slice, hence the short ones. */
void nv_sched_turn(void)
{
    (void)sched_yield();
}
#else
void nv_sched_prompt(void)
{
}

void nv_sched_batch(void)
{
}

void nv_sched_background(void)
{
}

void nv_sched_turn(void)
{
}
#endif
