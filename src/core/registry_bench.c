/* How fast the registry is: durable creates, updates, reads from the store and from memory. Prints; judges nothing. */
#include "core/registry_rig.h"

#include "base/attrs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define IN_FLIGHT 100u

typedef struct lane {
    nv_registry_request request;
    nv_registry_find find;
    struct bench *bench;
    char id[24];
} lane;

typedef struct bench {
    rig *w;
    lane slots[IN_FLIGHT];
    uint32_t total;
    uint32_t started;
    uint32_t finished;
    uint32_t errors;
    void (*start)(lane *slot);
} bench;

static void next(lane *slot)
{
    bench *b = slot->bench;
    if (b->started < b->total) {
        (void)snprintf(slot->id, sizeof(slot->id), "device-%u", b->started++);
        b->start(slot);
    }
}

static void request_done(nv_registry_request *request)
{
    lane *slot = request->arg;
    slot->bench->errors += request->error != NV_HUB_ERROR_NONE ? 1 : 0;
    nv_identity_unref(request->identity);
    slot->bench->finished++;
    next(slot);
}

static void start_request(lane *slot, nv_registry_verb verb, nv_precondition precondition)
{
    slot->request = rig_request(verb, slot->id, "");
    slot->request.precondition = precondition;
    slot->request.done = request_done;
    slot->request.arg = slot;
    nv_registry_do(&slot->bench->w->loop, &slot->request);
}

static void start_create(lane *slot)
{
    start_request(slot, NV_REGISTRY_PUT, NV_IF_NONE);
}

static void start_update(lane *slot)
{
    start_request(slot, NV_REGISTRY_PUT, NV_IF_ANY);
}

static void find_done(nv_registry_find *find)
{
    lane *slot = find->arg;
    slot->bench->errors += find->status != NV_OK ? 1 : 0;
    nv_identity_unref(find->identity);
    slot->bench->finished++;
    next(slot);
}

static void start_find(lane *slot)
{
    slot->find = (nv_registry_find){.device_id = S(slot->id), .done = find_done, .arg = slot};
    nv_err err = nv_registry_lookup(&slot->bench->w->loop, &slot->find);
    if (err == NV_E_MORE) {
        return;
    }
    slot->bench->errors += err != NV_OK ? 1 : 0;
    nv_identity_unref(slot->find.identity);
    slot->bench->finished++;
}

static void report(const char *what, const bench *b, int64_t started_us)
{
    double seconds = (double)(nv_mono_us(nv_clock_system()) - started_us) / 1e6;
    (void)printf("%-28s %8.0f/s  (%u in %.2f s, %u errors)\n", what, b->finished / seconds, b->finished, seconds,
                 b->errors);
}

static void run(rig *w, const char *what, uint32_t total, void (*start)(lane *slot))
{
    bench *b = calloc(1, sizeof(*b));
    *b = (bench){.w = w, .total = total, .start = start};
    int64_t started_us = nv_mono_us(nv_clock_system());
    for (uint32_t i = 0; i < IN_FLIGHT; i++) {
        b->slots[i].bench = b;
        next(&b->slots[i]);
    }
    while (b->finished < total) {
        if (b->started < total && start == start_find && b->finished == b->started) {
            next(&b->slots[0]); /* memory answers at once: nothing is in flight */
        } else {
            nv_exec_queue_run_wait(&w->queue);
        }
    }
    report(what, b, started_us);
    free(b);
}

int main(int argc, char **argv)
{
    uint32_t total = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 20000;
    void *state = NULL;
    if (total == 0 || rig_setup(&state) != 0) {
        return 2;
    }
    rig *w = state;
    run(w, "create, durable, 100 at once", total, start_create);
    run(w, "update, durable, 100 at once", total, start_update);
    rig_close(w);
    rig_open(w, NV_REGISTRY_CACHE_BYTES);
    run(w, "lookup from the store", total, start_find);
    run(w, "lookup from memory", total, start_find);
    return rig_teardown(&state);
}
