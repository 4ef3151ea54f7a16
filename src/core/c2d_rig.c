#include "core/c2d_rig.h"

#include "base/alloc.h"
#include "core/policies.h"
#include "support/hub_rest.h"
#include "support/temp_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- hub ---------------------------------------------------------------------------------------------------- */

void c2d_rig_init(c2d_rig *rig, uint64_t seed, const char *vfs)
{
    *rig = (c2d_rig){.vfs = vfs, .limits = nv_limits_azure};
    nv_exec_queue_init(&rig->queue);
    nv_manual_clock_init(&rig->clock, INT64_C(1795228000) * NV_US_PER_S);
    nv_seeded_rng_init(&rig->rng, seed);
    if (vfs) {
        (void)snprintf(rig->dir, sizeof(rig->dir), "/data");
    } else {
        temp_dir_make(rig->dir, sizeof(rig->dir), NULL);
    }
}

bool c2d_rig_open(c2d_rig *rig)
{
    nv_buf why;
    nv_buf_init(&why, 512);
    nv_state_config state = {
        .dir = rig->dir, .vfs = rig->vfs, .clock = &rig->clock.clock, .rng = &rig->rng.rng, .checkpoint_pages = 50};
    nv_err err = nv_state_open(&rig->state, &state, &why);
    static const char *const names[] = {"hub.test"};
    nv_exec *loops[C2D_LOOPS] = {&rig->queue.exec, &rig->queue.exec};
    nv_hub_config config = {.host_names = names,
                            .host_name_count = 1,
                            .limits = &rig->limits,
                            .state = rig->state,
                            .clock = &rig->clock.clock,
                            .rng = &rig->rng.rng,
                            .loops = loops,
                            .loop_count = C2D_LOOPS};
    err = err == NV_OK ? nv_hub_new(&rig->hub, &config, &why) : err;
    nv_buf_deinit(&why);
    if (err != NV_OK) {
        nv_state_close(rig->state);
        rig->state = NULL;
        rig->hub = NULL;
        return false;
    }
    c2d_rig_advance(rig, 0); /* what expired meanwhile */
    return true;
}

void c2d_rig_close(c2d_rig *rig)
{
    if (!rig->hub) {
        return;
    }
    hub_rest(rig->hub);
    nv_state_close(rig->state);
    (void)nv_exec_queue_run(&rig->queue);
    nv_hub_free(rig->hub);
    rig->hub = NULL;
    rig->state = NULL;
}

void c2d_rig_deinit(c2d_rig *rig)
{
    c2d_rig_close(rig);
    nv_exec_queue_deinit(&rig->queue);
    if (!rig->vfs) {
        temp_dir_remove(rig->dir);
    }
}

static bool is_idle(const c2d_rig *rig)
{
    for (size_t i = 0; i < C2D_LOOPS; i++) {
        if (!nv_c2d_idle(rig->hub->loops[i].c2d)) {
            return false;
        }
    }
    return true;
}

void c2d_rig_settle(c2d_rig *rig)
{
    (void)nv_exec_queue_run(&rig->queue);
    while (!is_idle(rig)) {
        (void)nv_exec_queue_run_wait(&rig->queue);
        (void)nv_exec_queue_run(&rig->queue);
    }
}

static void run_timers(c2d_rig *rig)
{
    int64_t now_us = nv_mono_us(&rig->clock.clock);
    for (size_t i = 0; i < C2D_LOOPS; i++) {
        nv_hub_loop_tick(&rig->hub->loops[i], now_us);
    }
    c2d_rig_settle(rig);
}

static int64_t next_due(const c2d_rig *rig)
{
    int64_t first = nv_hub_loop_due(&rig->hub->loops[0]);
    int64_t second = nv_hub_loop_due(&rig->hub->loops[1]);
    return first < second ? first : second;
}

void c2d_rig_advance(c2d_rig *rig, int64_t delta_us)
{
    int64_t until_us = nv_mono_us(&rig->clock.clock) + delta_us;
    c2d_rig_settle(rig);
    for (int64_t due_us = next_due(rig); due_us <= until_us; due_us = next_due(rig)) {
        int64_t ahead_us = due_us - nv_mono_us(&rig->clock.clock);
        nv_manual_clock_advance(&rig->clock, ahead_us > 0 ? ahead_us : 0);
        run_timers(rig);
    }
    nv_manual_clock_advance(&rig->clock, until_us - nv_mono_us(&rig->clock.clock));
    c2d_rig_settle(rig);
}

static void wait_for(c2d_rig *rig, const bool *done)
{
    while (!*done) {
        assert_true(nv_exec_queue_run_wait(&rig->queue));
    }
    c2d_rig_settle(rig);
}

/* Sessions live on either loop. */
static nv_hub_loop *some_loop(c2d_rig *rig)
{
    return &rig->hub->loops[nv_rng_u64(&rig->rng.rng) % C2D_LOOPS];
}

/* ---- devices ------------------------------------------------------------------------------------------------ */

static void registered(nv_registry_request *request)
{
    nv_identity_unref(request->identity);
    *(bool *)request->arg = true;
}

static nv_hub_error ask_registry(c2d_rig *rig, nv_registry_verb verb, const char *device, nv_precondition precondition)
{
    bool done = false;
    nv_registry_request request = {.verb = verb,
                                   .spec = {.device_id = nv_span_str(device), .enabled = true},
                                   .precondition = precondition,
                                   .done = registered,
                                   .arg = &done};
    nv_registry_do(some_loop(rig), &request);
    wait_for(rig, &done);
    return request.error;
}

bool c2d_rig_add(c2d_rig *rig, const char *device)
{
    return ask_registry(rig, NV_REGISTRY_PUT, device, NV_IF_NONE) == NV_HUB_ERROR_NONE;
}

void c2d_rig_remove(c2d_rig *rig, const char *device)
{
    assert_int_equal(ask_registry(rig, NV_REGISTRY_DELETE, device, NV_IF_ANY), NV_HUB_ERROR_NONE);
}

/* ---- messages ----------------------------------------------------------------------------------------------- */

static void sent(nv_c2d_send *send)
{
    *(bool *)send->arg = true;
}

nv_hub_error c2d_rig_send(c2d_rig *rig, const char *device, const char *id, nv_c2d_ack ack, int64_t ttl_us,
                          uint64_t *sequence)
{
    bool done = false;
    nv_buf properties;
    nv_buf_init(&properties, 1 << 17);
    nv_property property = {.id = NV_PROP_MESSAGE_ID, .value = nv_value_string(nv_span_str(id))};
    assert_int_equal(nv_property_put(&properties, &property), NV_OK);
    nv_c2d_send send = {.device_id = nv_span_str(device),
                        .ack = ack,
                        .expires_us = ttl_us ? nv_wall_us(&rig->clock.clock) + ttl_us : 0,
                        .properties = nv_buf_span(&properties),
                        .body = nv_span_str(id),
                        .done = sent,
                        .arg = &done};
    nv_c2d_send_do(some_loop(rig), &send);
    assert_false(done); /* never from within the call */
    wait_for(rig, &done);
    nv_buf_deinit(&properties);
    if (sequence) {
        *sequence = send.sequence;
    }
    return send.error;
}

static void taken(nv_c2d_take *take)
{
    *(bool *)take->arg = true;
}

nv_c2d_message *c2d_rig_take(c2d_rig *rig, const char *device, nv_hub_error want)
{
    bool done = false;
    nv_c2d_take take = {.device_id = nv_span_str(device), .done = taken, .arg = &done};
    nv_c2d_take_do(some_loop(rig), &take);
    wait_for(rig, &done);
    assert_int_equal(take.error, want);
    return take.message;
}

static void settled(nv_c2d_settle *settle)
{
    *(bool *)settle->arg = true;
}

nv_hub_error c2d_rig_settle_one(c2d_rig *rig, const char *device, const char *token, nv_c2d_outcome outcome)
{
    bool done = false;
    nv_c2d_settle settle = {.device_id = nv_span_str(device),
                            .lock_token = nv_span_str(token),
                            .outcome = outcome,
                            .done = settled,
                            .arg = &done};
    nv_c2d_settle_do(some_loop(rig), &settle);
    wait_for(rig, &done);
    return settle.error;
}

static void purged(nv_c2d_purge *purge)
{
    *(bool *)purge->arg = true;
}

uint64_t c2d_rig_purge(c2d_rig *rig, const char *device, nv_hub_error want)
{
    bool done = false;
    nv_c2d_purge purge = {.device_id = nv_span_str(device), .done = purged, .arg = &done};
    nv_c2d_purge_do(some_loop(rig), &purge);
    wait_for(rig, &done);
    assert_int_equal(purge.error, want);
    return purge.purged;
}

static void counted(nv_c2d_depths *depths)
{
    *(bool *)depths->arg = true;
}

uint64_t c2d_rig_depth(c2d_rig *rig, const char *device)
{
    bool done = false;
    uint64_t depth = 0;
    nv_span id = nv_span_str(device);
    nv_c2d_depths depths = {.device_ids = &id, .count = 1, .depths = &depth, .done = counted, .arg = &done};
    nv_c2d_depths_get(some_loop(rig), &depths);
    wait_for(rig, &done);
    return depth;
}

/* ---- feedback ----------------------------------------------------------------------------------------------- */

static void feedback_taken(nv_feedback_take *take)
{
    *(bool *)take->arg = true;
}

static void feedback_settled(nv_feedback_settle *settle)
{
    *(bool *)settle->arg = true;
}

static void complete_feedback(c2d_rig *rig, const char *token)
{
    bool done = false;
    nv_feedback_settle settle = {
        .lock_token = nv_span_str(token), .complete = true, .done = feedback_settled, .arg = &done};
    nv_feedback_settle_do(some_loop(rig), &settle);
    wait_for(rig, &done);
    assert_int_equal(settle.error, NV_HUB_ERROR_NONE);
}

static void copy_member(const char *record, const char *name, char out[80])
{
    const char *at = strstr(record, name);
    assert_non_null(at);
    at += strlen(name);
    (void)snprintf(out, 80, "%.*s", (int)strcspn(at, "\""), at);
}

const char *c2d_rig_feedback(c2d_rig *rig)
{
    static char text[16384];
    bool done = false;
    nv_feedback_take take = {.done = feedback_taken, .arg = &done};
    text[0] = '\0';
    nv_feedback_take_do(some_loop(rig), &take);
    wait_for(rig, &done);
    assert_int_equal(take.error, NV_HUB_ERROR_NONE);
    char *records = nv_span_dup(nv_buf_span(&take.records));
    size_t len = 0;
    for (const char *at = strstr(records, "{"); at; at = strstr(at + 1, "{")) {
        char id[80];
        char status[80];
        copy_member(at, "\"originalMessageId\":\"", id);
        copy_member(at, "\"statusCode\":\"", status);
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s=%s ", id, status);
    }
    free(records);
    nv_buf_deinit(&take.records);
    if (len > 0) {
        complete_feedback(rig, take.lock_token);
    }
    return text;
}

const char *c2d_rig_id(const nv_c2d_message *message)
{
    static char text[64];
    (void)snprintf(text, sizeof(text), "%.*s", NV_SPAN_ARG(message->body));
    return text;
}
