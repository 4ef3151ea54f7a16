/* How fast messages go to devices: sent, handed out, completed, each durable. Prints; judges nothing. */
#include "base/alloc.h"
#include "base/attrs.h"
#include "core/c2d_rig.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define DEVICES 100u
#define SLOTS   8u /* of each device */

typedef struct bench bench;

typedef struct slot {
    nv_c2d_send send; /* first member */
    bench *b;
} slot;

typedef struct settling {
    nv_c2d_settle settle; /* first member */
    bench *b;
    char token[37];
} settling;

typedef struct lane {
    nv_c2d_receiver receiver; /* first member */
    bench *b;
    nv_identity *identity;
    slot slots[SLOTS];
    char id[16];
} lane;

struct bench {
    c2d_rig *rig;
    lane lanes[DEVICES];
    uint32_t total;
    uint32_t started;
    uint32_t sent;
    uint32_t completed;
    uint32_t errors;
    uint32_t detached;
};

static void next(slot *s);

static void sent(nv_c2d_send *send)
{
    slot *s = (slot *)(void *)send;
    s->b->errors += send->error != NV_HUB_ERROR_NONE;
    s->b->sent++;
    next(s);
}

static void next(slot *s)
{
    if (s->b->started < s->b->total) {
        s->b->started++;
        nv_c2d_send_do(&s->b->rig->hub->loops[0], &s->send);
    }
}

static void completed(nv_c2d_settle *settle)
{
    settling *s = (settling *)(void *)settle;
    s->b->errors += settle->error != NV_HUB_ERROR_NONE;
    s->b->completed++;
    free(s);
}

static void on_message(nv_c2d_receiver *receiver, nv_c2d_message *message)
{
    lane *l = (lane *)(void *)receiver;
    settling *s = nv_malloc(sizeof(*s));
    *s = (settling){.b = l->b};
    memcpy(s->token, message->lock_token, sizeof(s->token));
    s->settle = (nv_c2d_settle){.device_id = l->identity->device_id,
                                .lock_token = nv_span_of(s->token, 36),
                                .outcome = NV_C2D_COMPLETE,
                                .done = completed};
    nv_c2d_settle_do(&l->b->rig->hub->loops[0], &s->settle);
}

static void detached(nv_c2d_receiver *receiver)
{
    ((lane *)(void *)receiver)->b->detached++;
}

static void start_lane(bench *b, lane *l, nv_span body)
{
    nv_identity from = {.device_id = nv_span_str(l->id)};
    l->b = b;
    l->identity = nv_identity_new(&from);
    l->receiver = (nv_c2d_receiver){.identity = l->identity, .credit = 64, .message = on_message};
    nv_c2d_attach(&b->rig->hub->loops[0], &l->receiver);
    for (size_t i = 0; i < SLOTS; i++) {
        l->slots[i].b = b;
        l->slots[i].send = (nv_c2d_send){.device_id = l->identity->device_id, .body = body, .done = sent};
        next(&l->slots[i]);
    }
}

static void run(bench *b)
{
    static char body[100];
    memset(body, 'x', sizeof(body));
    int64_t started_us = nv_mono_us(nv_clock_system());
    for (size_t i = 0; i < DEVICES; i++) {
        start_lane(b, &b->lanes[i], nv_span_of(body, sizeof(body)));
    }
    while (b->completed < b->total && b->errors == 0) {
        nv_exec_queue_run_wait(&b->rig->queue);
    }
    double seconds = (double)(nv_mono_us(nv_clock_system()) - started_us) / 1e6;
    (void)printf("send to completion, durable, %u devices with %u in flight: %8.0f/s (%u in %.2f s, %u errors)\n",
                 DEVICES, SLOTS, b->completed / seconds, b->completed, seconds, b->errors);
    for (size_t i = 0; i < DEVICES; i++) {
        nv_c2d_detach(&b->lanes[i].receiver, detached);
    }
    while (b->detached < DEVICES) {
        nv_exec_queue_run_wait(&b->rig->queue);
    }
}

int main(int argc, char **argv)
{
    uint32_t total = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 50000;
    c2d_rig rig;
    c2d_rig_init(&rig, 1, NULL);
    if (total == 0 || !c2d_rig_open(&rig)) {
        return 2;
    }
    bench *b = nv_calloc(1, sizeof(*b));
    b->rig = &rig;
    b->total = total;
    for (size_t i = 0; i < DEVICES; i++) {
        (void)snprintf(b->lanes[i].id, sizeof(b->lanes[i].id), "device-%zu", i);
        (void)c2d_rig_add(&rig, b->lanes[i].id);
    }
    run(b);
    for (size_t i = 0; i < DEVICES; i++) {
        nv_identity_unref(b->lanes[i].identity);
    }
    bool good = b->errors == 0;
    free(b);
    c2d_rig_deinit(&rig);
    return good ? 0 : 1;
}
