/* How fast twins are: durable reported patches, desired patches, reads. Prints; judges nothing. */
#include "core/twin_rig.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#define IN_FLIGHT 1600u

typedef struct lane {
    nv_twin_request request;
    struct bench *bench;
    char id[24];
    char body[160];
} lane;

typedef struct bench {
    rig *w;
    lane *lanes;
    nv_twin_verb verb;
    uint32_t devices;
    uint32_t total;
    uint32_t started;
    uint32_t finished;
    uint32_t errors;
} bench;

static void next(lane *self);

static void request_done(nv_twin_request *request)
{
    lane *self = request->arg;
    self->bench->errors += request->error != NV_HUB_ERROR_NONE ? 1 : 0;
    self->bench->finished++;
    nv_twin_unref(request->twin);
    next(self);
}

/* One of forty properties, among them nested ones: a twin of about 2 KB. */
static void write_body(lane *self, uint32_t number)
{
    const char *form = self->bench->verb == NV_TWIN_REPORTED
                           ? "{\"sensor%u\":{\"value\":%u.5,\"unit\":\"celsius\",\"state\":\"ok\"}}"
                           : "{\"properties\":{\"desired\":{\"setting%u\":{\"target\":%u.25,\"mode\":\"auto\"}}}}";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    (void)snprintf(self->body, sizeof(self->body), form, number % 40, number);
#pragma GCC diagnostic pop
}

static void next(lane *self)
{
    bench *b = self->bench;
    if (b->started == b->total) {
        return;
    }
    uint32_t number = b->started++;
    (void)snprintf(self->id, sizeof(self->id), "device-%u", number % b->devices);
    write_body(self, number / b->devices + number % b->devices);
    self->request = twin_rig_request(b->verb, self->id, "", b->verb == NV_TWIN_GET ? "" : self->body);
    self->request.done = request_done;
    self->request.arg = self;
    nv_twin_do(&b->w->loop, &self->request);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void run(rig *w, const char *what, nv_twin_verb verb, uint32_t devices, uint32_t total)
{
    bench b = {.w = w, .verb = verb, .devices = devices, .total = total, .lanes = nv_calloc(IN_FLIGHT, sizeof(lane))};
    double cpu = cpu_seconds();
    int64_t started_us = nv_mono_us(nv_clock_system());
    for (uint32_t i = 0; i < IN_FLIGHT; i++) {
        b.lanes[i].bench = &b;
        next(&b.lanes[i]);
    }
    while (b.finished < total) {
        nv_exec_queue_run_wait(&w->queue);
    }
    double seconds = (double)(nv_mono_us(nv_clock_system()) - started_us) / 1e6;
    cpu = cpu_seconds() - cpu;
    (void)printf("%-34s %8.0f/s  %5.1f us CPU each  (%u in %.2f s, %u errors)\n", what, b.finished / seconds,
                 cpu * 1e6 / b.finished, b.finished, seconds, b.errors);
    free(b.lanes);
}

/* [operations [devices]] */
int main(int argc, char **argv)
{
    uint32_t total = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 100000;
    uint32_t devices = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 100;
    void *state = NULL;
    if (total == 0 || devices == 0 || rig_setup(&state) != 0) {
        return 2;
    }
    rig *w = state;
    w->hub.loops = &w->loop;
    for (uint32_t i = 0; i < devices; i++) {
        char id[24];
        (void)snprintf(id, sizeof(id), "device-%u", i);
        nv_identity_unref(rig_create(w, id, ""));
    }
    run(w, "reported patches, 1600 in flight", NV_TWIN_REPORTED, devices, total);
    run(w, "desired patches, 1600 in flight", NV_TWIN_PATCH, devices, total / 2 + 1);
    run(w, "reads, 1600 in flight", NV_TWIN_GET, devices, total);
    return rig_teardown(&state);
}
