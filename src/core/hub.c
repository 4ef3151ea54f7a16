#include "core/hub.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "base/hash.h"
#include "core/c2d.h"
#include "core/devices.h"
#include "core/event_hub.h"
#include "core/events.h"
#include "core/fault.h"
#include "core/identity.h"
#include "core/method.h"
#include "core/policies.h"
#include "core/query_kept.h"
#include "core/registry.h"
#include "core/telemetry.h"

#include <assert.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

#define METHOD_CALLS_BEGIN_BELOW (UINT64_C(1) << 30)

static void copy_host_names(nv_hub *hub, const nv_hub_config *config)
{
    hub->host_name_count = config->host_name_count;
    hub->host_names = nv_calloc(config->host_name_count, sizeof(*hub->host_names));
    for (size_t i = 0; i < config->host_name_count; i++) {
        hub->host_names[i] = nv_span_str(nv_strdup(config->host_names[i]));
    }
}

static void make_loops(nv_hub *hub, const nv_hub_config *config)
{
    hub->loop_count = config->loop_count;
    hub->loops = nv_calloc(config->loop_count, sizeof(*hub->loops));
    for (size_t i = 0; i < config->loop_count; i++) {
        nv_hub_loop *loop = &hub->loops[i];
        *loop = (nv_hub_loop){.hub = hub, .exec = config->loops[i], .index = (uint32_t)i};
        loop->telemetry = nv_telemetry_new(loop);
        loop->devices = nv_device_table_new(loop);
        loop->methods = nv_methods_new(loop);
        loop->c2d = nv_c2d_new(loop);
        loop->queries = nv_query_kept_new(loop);
    }
    for (size_t shard = 0; shard < NV_SHARDS; shard++) {
        hub->shard_to_loop[shard] = (uint16_t)(shard % config->loop_count);
    }
}

nv_err nv_hub_new(nv_hub **out, const nv_hub_config *config, nv_buf *why)
{
    assert(config->host_name_count > 0 && config->loop_count > 0 && config->loop_count <= UINT16_MAX);
    nv_hub *hub = nv_calloc(1, sizeof(*hub));
    hub->log = config->log;
    hub->state = config->state;
    hub->clock = config->clock;
    hub->rng = config->rng;
    hub->limits = *config->limits;
    hub->azure = config->azure;
    hub->time_stands = config->time_stands;
    nv_err err = nv_policies_load(&hub->policies, config->state, config->rng, config->known_keys);
    if (err != NV_OK) {
        if (nv_buf_printf(why, "the hub's access policies cannot be loaded: %s", nv_err_text(err)) != NV_OK) {
            nv_buf_clear(why); /* the error code alone has to do */
        }
        free(hub);
        return err;
    }
    copy_host_names(hub, config);
    hub->registry = nv_registry_new(NV_REGISTRY_CACHE_BYTES, nv_rng_u64(config->rng));
    hub->refusals =
        nv_refusals_new(hub->limits.refusals_identities, hub->limits.refusals_per_identity, nv_rng_u64(config->rng));
    hub->faults = config->fault_injection ? nv_faults_new() : NULL;
    make_loops(hub, config);
    err = nv_event_hub_new(&hub->event_hub, hub, config->entity, why);
    if (err != NV_OK) {
        nv_hub_free(hub);
        return err;
    }
    hub->run = nv_rng_u64(config->rng) >> 1;
    /* Over MQTT a call is known by its number alone: who answers one of an earlier run must not hit one of this. Small,
     * because some clients read it as an int. */
    atomic_store_explicit(&hub->_method_calls, hub->run % METHOD_CALLS_BEGIN_BELOW, memory_order_relaxed);
    hub->events = config->events ? nv_events_new(hub, config->events) : NULL;
    for (size_t i = 0; i < hub->loop_count && nv_events_wanted(hub, NV_SOURCE_CONNECTION_STATE); i++) {
        nv_device_table_tell_connections(hub->loops[i].devices);
    }
    nv_c2d_start(hub);
    *out = hub;
    return NV_OK;
}

void nv_hub_free(nv_hub *hub)
{
    if (!hub) {
        return;
    }
    nv_events_free(hub->events);
    nv_event_hub_free(hub->event_hub);
    for (size_t i = 0; i < hub->loop_count; i++) {
        nv_methods_free(hub->loops[i].methods);
        nv_c2d_free(hub->loops[i].c2d);
        nv_query_kept_free(hub->loops[i].queries);
        nv_device_table_free(hub->loops[i].devices);
        nv_telemetry_free(hub->loops[i].telemetry);
        nv_timers_deinit(&hub->loops[i].timers);
    }
    free(hub->loops);
    nv_refusals_free(hub->refusals);
    nv_faults_free(hub->faults);
    nv_registry_free(hub->registry);
    for (size_t i = 0; i < hub->host_name_count; i++) {
        free((void *)(size_t)hub->host_names[i].ptr);
    }
    free(hub->host_names);
    nv_policies_free(hub->policies);
    free(hub);
}

nv_hub_loop *nv_hub_shard_loop(nv_hub *hub, nv_span device_id)
{
    return &hub->loops[hub->shard_to_loop[nv_hash_stable(device_id) % NV_SHARDS]];
}

/* "host:8883" names the host; an IPv6 literal stands in brackets when it has a port. */
static nv_span without_port(nv_span host)
{
    size_t colon = nv_span_find(host, ':');
    if (host.len > 0 && host.ptr[0] == '[') {
        size_t bracket = nv_span_find(host, ']');
        return bracket < host.len ? nv_span_of(host.ptr + 1, bracket - 1) : host;
    }
    bool one_colon = colon < host.len && nv_span_find(nv_span_skip(host, colon + 1), ':') == host.len - colon - 1;
    return one_colon ? nv_span_first(host, colon) : host;
}

bool nv_hub_is_alias(const nv_hub *hub, nv_span host)
{
    nv_span name = without_port(host);
    for (size_t i = 0; i < hub->host_name_count; i++) {
        if (nv_span_eq_nocase(hub->host_names[i], name)) {
            return true;
        }
    }
    return false;
}

bool nv_hub_may_say_refusal(nv_hub *hub)
{
    int64_t second = nv_mono_us(hub->clock) / NV_US_PER_S;
    if (atomic_exchange(&hub->_refusals_second, second) != second) {
        size_t said = atomic_exchange(&hub->_refusals_said, 0);
        if (said > NV_HUB_REFUSALS_PER_SECOND) {
            nv_diag(NV_LEVEL_WARN, "hub", NULL,
                    "%zu more refusals were not written here: no more than %u a second are; see `nave doctor`",
                    said - NV_HUB_REFUSALS_PER_SECOND, NV_HUB_REFUSALS_PER_SECOND);
        }
    }
    return atomic_fetch_add(&hub->_refusals_said, 1) < NV_HUB_REFUSALS_PER_SECOND;
}

void nv_hub_refuse(nv_hub *hub, const char *protocol, const nv_peer *peer, nv_span device_id, nv_span module_id,
                   nv_refusal refusal, const char *detail)
{
    const nv_refusal_info *info = nv_refusal_info_of(refusal);
    if (device_id.len > 0) {
        nv_refusal_entry entry = {.wall_us = nv_wall_us(hub->clock), .refusal = refusal};
        (void)snprintf(entry.protocol, sizeof(entry.protocol), "%s", protocol);
        (void)snprintf(entry.address, sizeof(entry.address), "%.*s", NV_SPAN_ARG(peer->address));
        (void)snprintf(entry.detail, sizeof(entry.detail), "%s", detail);
        nv_refusals_note(hub->refusals, device_id, module_id, &entry);
    }
    if (!nv_hub_may_say_refusal(hub)) {
        return;
    }
    nv_subject subject = {.connection = peer->connection_id,
                          .device = nv_span_first(device_id, NV_ID_MAX),
                          .module = nv_span_first(module_id, NV_ID_MAX),
                          .peer = peer->address};
    nv_diag(NV_LEVEL_WARN, protocol, &subject, "%s: %s%s%s; cure: %s", info->name, info->cause, *detail ? ": " : "",
            detail, info->cure);
}

uint64_t nv_hub_next_stamp_id(nv_hub *hub)
{
    return atomic_fetch_add_explicit(&hub->_stamp_id, 1, memory_order_relaxed) + 1;
}

static void wake_up(nv_task *task)
{
    free(task); /* the end of the turn does the rest */
}

void nv_hub_stop(nv_hub *hub)
{
    if (atomic_exchange_explicit(&hub->_stopping, true, memory_order_relaxed)) {
        return;
    }
    for (size_t i = 0; i < hub->loop_count; i++) {
        nv_task *task = nv_calloc(1, sizeof(*task));
        task->run = wake_up;
        nv_post(hub->loops[i].exec, task);
    }
}

typedef struct settling {
    nv_task task;
    nv_hub_loop *loop;
    sem_t *settled;
} settling;

static void settle_on_loop(nv_task *task)
{
    settling *s = nv_container_of(task, settling, task);
    s->loop->_settling = s->settled; /* looked at by the end of this turn */
    free(s);
}

/* Nothing of it is on its way to log or state, and nothing will be. */
static bool is_idle(const nv_hub_loop *loop)
{
    return nv_device_table_idle(loop->devices) && nv_methods_idle(loop->methods) && nv_c2d_idle(loop->c2d) &&
           (loop->index != loop->hub->shard_to_loop[0] || nv_event_hub_idle(loop->hub->event_hub));
}

static void look_whether_settled(nv_hub_loop *loop)
{
    if (is_idle(loop)) {
        nv_device_table_close(loop->devices);
        sem_post(loop->_settling);
        loop->_settling = NULL;
    }
}

static void wait_for(sem_t *settled, size_t count)
{
    while (count > 0) {
        count -= sem_wait(settled) == 0 ? 1 : 0;
    }
}

void nv_hub_settle(nv_hub *hub)
{
    sem_t settled;
    sem_init(&settled, 0, 0);
    for (size_t i = 0; i < hub->loop_count; i++) {
        settling *s = nv_calloc(1, sizeof(*s));
        *s = (settling){{NULL, settle_on_loop}, &hub->loops[i], &settled};
        nv_post(hub->loops[i].exec, &s->task);
    }
    wait_for(&settled, hub->loop_count);
    if (hub->events) { /* last: what the loops stored may be worth an event */
        nv_events_settle(hub->events, &settled);
        wait_for(&settled, 1);
    }
    sem_destroy(&settled);
}

void nv_hub_loop_turn_end(nv_hub_loop *loop)
{
    nv_telemetry_turn_end(loop->telemetry);
    nv_methods_turn_end(loop->methods);
    nv_c2d_turn_end(loop->c2d);
    nv_device_table_turn_end(loop->devices);
    if (loop->index == 0 && loop->hub->events) {
        nv_events_turn_end(loop->hub->events);
    }
    if (loop->_settling) {
        look_whether_settled(loop);
    }
}

int64_t nv_hub_loop_due(const nv_hub_loop *loop)
{
    return nv_timers_due(&loop->timers);
}

void nv_hub_loop_tick(nv_hub_loop *loop, int64_t now_us)
{
    nv_timers_run(&loop->timers, now_us);
}
