/* Two loops with a thread each, devices of both shards, everything at once: for the thread sanitizer, and each message
 * is completed exactly once. */
#include "core/c2d.h"
#include "store/state.h"

#include "base/alloc.h"
#include "base/attrs.h"
#include "support/hub_rest.h"
#include "support/temp_dir.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define LOOPS    2u
#define PULLED   4u
#define DEVICES  8u
#define MESSAGES 400u /* of each loop */

typedef struct race race;

typedef struct racer {
    race *r;
    size_t index;
    nv_exec_queue queue;
    pthread_t thread;
    nv_hub_loop *loop;
    uint32_t sent;
    uint32_t detached;
} racer;

typedef struct device {
    union { /* first member */
        nv_c2d_receiver core;
        nv_c2d_puller puller;
    };
    uint32_t taken;
    racer *on;
    nv_identity *identity;
    char id[8];
} device;

struct race {
    nv_hub *hub;
    racer racers[LOOPS];
    device devices[DEVICES];
    _Atomic uint32_t completed;
    _Atomic uint32_t wrong;
};

typedef struct sending {
    nv_c2d_send send;
    racer *by;
} sending;

typedef struct settling {
    nv_c2d_settle settle;
    race *r;
    char token[37];
} settling;

static void settled(nv_c2d_settle *settle)
{
    settling *s = nv_container_of(settle, settling, settle);
    s->r->wrong += settle->error != NV_HUB_ERROR_NONE;
    s->r->completed++;
    free(s);
}

static void on_message(nv_c2d_receiver *core, nv_c2d_message *message)
{
    device *d = (device *)(void *)core;
    settling *s = nv_malloc(sizeof(*s));
    *s = (settling){.r = d->on->r};
    memcpy(s->token, message->lock_token, sizeof(s->token));
    s->settle = (nv_c2d_settle){.device_id = d->identity->device_id,
                                .lock_token = nv_span_of(s->token, 36),
                                .outcome = NV_C2D_COMPLETE,
                                .done = settled};
    d->taken++;
    if (core->pulls) { /* as an AMQP link whose credit is given back one by one */
        nv_c2d_pull(&d->puller, d->taken + PULLED);
    }
    nv_c2d_settle_do(d->on->loop, &s->settle);
}

static nv_buf properties;

static void send_next(racer *self);

static void sent(nv_c2d_send *send)
{
    sending *s = nv_container_of(send, sending, send);
    racer *self = s->by;
    self->r->wrong += send->error != NV_HUB_ERROR_NONE;
    free(s);
    send_next(self);
}

static void send_next(racer *self)
{
    if (self->sent == MESSAGES) {
        return;
    }
    sending *s = nv_malloc(sizeof(*s));
    *s = (sending){.by = self};
    s->send = (nv_c2d_send){.device_id = nv_span_str(self->r->devices[self->sent % DEVICES].id),
                            .ack = NV_ACK_FULL,
                            .properties = nv_buf_span(&properties),
                            .done = sent};
    self->sent++;
    nv_c2d_send_do(self->loop, &s->send);
}

static void on_detached(nv_c2d_receiver *core)
{
    ((device *)(void *)core)->on->detached++;
}

static void *racer_main(void *arg)
{
    racer *self = arg;
    race *r = self->r;
    nv_exec_queue_adopt(&self->queue);
    uint32_t own = 0;
    for (size_t i = self->index; i < DEVICES; i += LOOPS) {
        device *d = &r->devices[i];
        d->on = self;
        d->core =
            (nv_c2d_receiver){.identity = d->identity, .credit = 8, .pulls = i / LOOPS % 2 == 1, .message = on_message};
        nv_c2d_attach(self->loop, &d->core);
        if (d->core.pulls) {
            nv_c2d_pull(&d->puller, PULLED);
        }
        own++;
    }
    for (int i = 0; i < 8; i++) {
        send_next(self);
    }
    while (r->completed < LOOPS * MESSAGES && r->wrong == 0) {
        (void)nv_exec_queue_run(&self->queue);
        sched_yield();
    }
    for (size_t i = self->index; i < DEVICES; i += LOOPS) {
        nv_c2d_detach(&r->devices[i].core, on_detached);
    }
    while (self->detached < own) {
        (void)nv_exec_queue_run(&self->queue);
        sched_yield();
    }
    return NULL;
}

static void registered(nv_registry_request *request)
{
    nv_identity_unref(request->identity);
    *(bool *)request->arg = true;
}

static void add_device(race *r, device *d)
{
    bool done = false;
    nv_registry_request request = {.verb = NV_REGISTRY_PUT,
                                   .spec = {.device_id = nv_span_str(d->id), .enabled = true},
                                   .done = registered,
                                   .arg = &done};
    nv_identity from = {.device_id = nv_span_str(d->id)};
    d->identity = nv_identity_new(&from);
    nv_registry_do(&r->hub->loops[0], &request);
    while (!done) {
        nv_exec_queue_run_wait(&r->racers[0].queue);
    }
    assert_int_equal(request.error, NV_HUB_ERROR_NONE);
}

static void everything_at_once(void **unused)
{
    (void)unused;
    char dir[64];
    temp_dir_make(dir, sizeof(dir), NULL);
    race *r = nv_calloc(1, sizeof(*r));
    nv_state *state = NULL;
    nv_buf why;
    nv_buf_init(&why, 512);
    nv_state_config config = {.dir = dir, .clock = nv_clock_system(), .rng = nv_rng_system()};
    assert_int_equal(nv_state_open(&state, &config, &why), NV_OK);
    nv_exec *loops[LOOPS];
    for (size_t i = 0; i < LOOPS; i++) {
        nv_exec_queue_init(&r->racers[i].queue);
        loops[i] = &r->racers[i].queue.exec;
    }
    static const char *const names[] = {"hub.test"};
    nv_hub_config hub = {.host_names = names,
                         .host_name_count = 1,
                         .limits = &nv_limits_open,
                         .state = state,
                         .clock = nv_clock_system(),
                         .rng = nv_rng_system(),
                         .loops = loops,
                         .loop_count = LOOPS};
    assert_int_equal(nv_hub_new(&r->hub, &hub, &why), NV_OK);
    nv_buf_init(&properties, 100);
    nv_property id = {.id = NV_PROP_MESSAGE_ID, .value = nv_value_string(nv_span_str("m"))};
    assert_int_equal(nv_property_put(&properties, &id), NV_OK);
    for (size_t i = 0; i < DEVICES; i++) {
        (void)snprintf(r->devices[i].id, sizeof(r->devices[i].id), "d%zu", i);
        add_device(r, &r->devices[i]);
    }
    for (size_t i = 0; i < LOOPS; i++) {
        r->racers[i].r = r;
        r->racers[i].index = i;
        r->racers[i].loop = &r->hub->loops[i];
        assert_int_equal(pthread_create(&r->racers[i].thread, NULL, racer_main, &r->racers[i]), 0);
    }
    for (size_t i = 0; i < LOOPS; i++) {
        (void)pthread_join(r->racers[i].thread, NULL);
    }
    assert_int_equal(r->wrong, 0);
    assert_int_equal(r->completed, LOOPS * MESSAGES);
    hub_rest(r->hub);
    nv_state_close(state);
    nv_hub_free(r->hub);
    for (size_t i = 0; i < DEVICES; i++) {
        nv_identity_unref(r->devices[i].identity);
    }
    for (size_t i = 0; i < LOOPS; i++) {
        nv_exec_queue_deinit(&r->racers[i].queue);
    }
    nv_buf_deinit(&properties);
    nv_buf_deinit(&why);
    free(r);
    temp_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(everything_at_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
