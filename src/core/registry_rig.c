#include "core/registry_rig.h"

#include "base/attrs.h"
#include "core/devices.h"
#include "support/temp_dir.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

char rig_told[512];
static pthread_mutex_t told_lock = PTHREAD_MUTEX_INITIALIZER; /* several loops may tell at once */

void nv_devices_changed(nv_hub *hub, nv_span device_id, nv_span module_id, nv_identity *identity)
{
    (void)hub;
    pthread_mutex_lock(&told_lock);
    size_t len = strlen(rig_told);
    (void)snprintf(rig_told + len, sizeof(rig_told) - len, "%.*s/%.*s%s ", NV_SPAN_ARG(device_id),
                   NV_SPAN_ARG(module_id),
                   !identity           ? "-"
                   : identity->enabled ? "+"
                                       : "!");
    pthread_mutex_unlock(&told_lock);
}

void rig_open(rig *w, size_t cache_bytes)
{
    nv_buf why;
    nv_buf_init(&why, 512);
    nv_state_config config = {.dir = w->dir, .vfs = w->vfs, .clock = &w->clock.clock, .rng = nv_rng_system()};
    assert_int_equal(nv_state_open(&w->state, &config, &why), NV_OK);
    nv_buf_deinit(&why);
    w->hub = (nv_hub){.state = w->state,
                      .registry = nv_registry_new(cache_bytes, 1),
                      .clock = &w->clock.clock,
                      .rng = nv_rng_system(),
                      .limits = nv_limits_open};
    w->loop = (nv_hub_loop){.hub = &w->hub, .exec = &w->queue.exec};
}

void rig_close(rig *w)
{
    nv_registry_free(w->hub.registry);
    nv_state_close(w->state);
}

int rig_setup(void **state)
{
    rig *w = calloc(1, sizeof(*w));
    temp_dir_make(w->dir, sizeof(w->dir), NULL);
    nv_manual_clock_init(&w->clock, INT64_C(1700000000) * NV_US_PER_S);
    nv_exec_queue_init(&w->queue);
    rig_open(w, NV_REGISTRY_CACHE_BYTES);
    rig_told[0] = '\0';
    *state = w;
    return 0;
}

int rig_teardown(void **state)
{
    rig *w = *state;
    rig_close(w);
    nv_exec_queue_deinit(&w->queue);
    temp_dir_remove(w->dir);
    free(w);
    return 0;
}

/* ---- asking ---- */

static void set_flag(nv_registry_request *request)
{
    *(bool *)request->arg = true;
}

nv_hub_error rig_ask(rig *w, nv_registry_request *request)
{
    bool done = false;
    request->done = set_flag;
    request->arg = &done;
    nv_registry_do(&w->loop, request);
    assert_false(done); /* never from within the call */
    while (!done) {
        nv_exec_queue_run_wait(&w->queue);
    }
    if (request->error != NV_HUB_ERROR_NONE) {
        assert_null(request->identity);
    }
    return request->error;
}

nv_registry_request rig_request(nv_registry_verb verb, const char *device, const char *module)
{
    return (nv_registry_request){.verb = verb,
                                 .spec = {.device_id = S(device), .module_id = S(module), .enabled = true}};
}

/* The identity afterwards: of the answer, or NULL. The caller unrefs. */
nv_identity *rig_put(rig *w, nv_registry_request request, nv_hub_error want)
{
    nv_hub_error got = rig_ask(w, &request);
    if (got != want) {
        print_error("%s: %s\n", nv_hub_error_info_of(got)->name, request.detail);
    }
    assert_int_equal(got, want);
    return request.identity;
}

nv_hub_error rig_do(nv_registry_request request, rig *w)
{
    nv_hub_error error = rig_ask(w, &request);
    nv_identity_unref(request.identity);
    return error;
}

nv_identity *rig_create(rig *w, const char *device, const char *module)
{
    return rig_put(w, rig_request(NV_REGISTRY_PUT, device, module), NV_HUB_ERROR_NONE);
}

nv_identity *rig_get(rig *w, const char *device, const char *module)
{
    nv_registry_request request = rig_request(NV_REGISTRY_GET, device, module);
    return rig_ask(w, &request) == NV_HUB_ERROR_NONE ? request.identity : NULL;
}

nv_registry_request rig_update(const nv_identity *identity)
{
    return (nv_registry_request){.verb = NV_REGISTRY_PUT,
                                 .spec = {.device_id = identity->device_id,
                                          .module_id = identity->module_id,
                                          .enabled = identity->enabled,
                                          .iot_edge = identity->iot_edge,
                                          .device_scope = identity->device_scope,
                                          .parent_scopes = identity->parent_scopes,
                                          .auth = identity->auth},
                                 .precondition = NV_IF_ETAG,
                                 .etag = identity->etag};
}

bool rig_key_eq(const nv_key *a, const nv_key *b)
{
    return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

/* ---- lookups ---- */

static void find_flag(nv_registry_find *find)
{
    *(bool *)find->arg = true;
}

/* @return whether it came from memory. *identity is the caller's */
bool rig_find(rig *w, const char *device, const char *module, nv_err want, nv_identity **identity)
{
    bool done = false;
    nv_registry_find find = {.device_id = S(device), .module_id = S(module), .done = find_flag, .arg = &done};
    nv_err err = nv_registry_lookup(&w->loop, &find);
    assert_true(err == NV_OK || err == NV_E_MORE);
    while (err == NV_E_MORE && !done) {
        nv_exec_queue_run_wait(&w->queue);
    }
    assert_int_equal(find.status, want);
    *identity = find.identity;
    return err == NV_OK;
}

bool rig_look(rig *w, const char *device, const char *module, nv_err want, uint64_t *etag)
{
    nv_identity *identity;
    bool from_memory = rig_find(w, device, module, want, &identity);
    *etag = identity ? identity->etag : 0;
    nv_identity_unref(identity);
    return from_memory;
}

bool rig_look_enabled(rig *w, const char *device, const char *module, bool *enabled)
{
    nv_identity *identity;
    bool from_memory = rig_find(w, device, module, NV_OK, &identity);
    *enabled = identity->enabled;
    nv_identity_unref(identity);
    return from_memory;
}
