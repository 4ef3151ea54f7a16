#include "core/twin_rig.h"

#include "base/alloc.h"
#include "codec/json.h"
#include "core/events.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

char twin_rig_told[8192];
char twin_rig_events[16384];
uint32_t twin_rig_wanted;
int twin_rig_committed;
nv_hub_loop *twin_rig_shard;
bool twin_rig_listens;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* the store's thread writes events */

static void write_down(char *text, size_t size, const char *fmt, ...) NV_PRINTF(3, 4);
static void write_down(char *text, size_t size, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    pthread_mutex_lock(&lock);
    size_t len = strlen(text);
    (void)vsnprintf(text + len, size - len, fmt, args);
    pthread_mutex_unlock(&lock);
    va_end(args);
}

/* ---- what the hub has around the twins ---- */

nv_hub_loop *nv_hub_shard_loop(nv_hub *hub, nv_span device_id)
{
    (void)device_id;
    return twin_rig_shard ? twin_rig_shard : hub->loops;
}

bool nv_devices_wants(nv_hub_loop *shard, nv_span device_id, nv_span module_id, uint32_t wants)
{
    (void)shard;
    (void)device_id;
    (void)module_id;
    return twin_rig_listens && wants == NV_WANTS_DESIRED;
}

nv_delivery *nv_delivery_new(nv_delivery_kind kind, nv_span name, nv_span body)
{
    assert_int_equal(name.len, 0);
    nv_delivery *delivery = nv_malloc(sizeof(*delivery));
    *delivery = (nv_delivery){.kind = kind, .body = nv_span_str(nv_span_dup(body))};
    return delivery;
}

bool nv_devices_deliver(nv_hub_loop *shard, nv_span device_id, nv_span module_id, nv_delivery *delivery)
{
    assert_true(nv_exec_is_current(shard->exec));
    write_down(twin_rig_told, sizeof(twin_rig_told), "%.*s%s%.*s %llu %.*s\n", NV_SPAN_ARG(device_id),
               module_id.len ? "/" : "", NV_SPAN_ARG(module_id), (unsigned long long)delivery->version,
               NV_SPAN_ARG(delivery->body));
    free((void *)(size_t)delivery->body.ptr);
    free(delivery);
    return true;
}

nv_presence nv_presence_now(nv_hub *hub, nv_span device_id, nv_span module_id)
{
    (void)device_id;
    (void)module_id;
    return (nv_presence){.connected = twin_rig_listens, .last_activity_us = nv_wall_us(hub->clock)};
}

bool nv_events_wanted(const nv_hub *hub, nv_source source)
{
    (void)hub;
    return twin_rig_wanted >> source & 1;
}

nv_err nv_events_put(const nv_hub *hub, nv_txn *txn, const nv_event *event)
{
    (void)hub;
    (void)txn;
    write_down(twin_rig_events, sizeof(twin_rig_events), "%s %s %.*s%s%.*s %.*s\n", event->schema, event->operation,
               NV_SPAN_ARG(event->device_id), event->module_id.len ? "/" : "", NV_SPAN_ARG(event->module_id),
               NV_SPAN_ARG(event->body));
    return NV_OK;
}

void nv_events_committed(nv_hub *hub)
{
    (void)hub;
    twin_rig_committed++;
}

void twin_rig_clear(void)
{
    twin_rig_told[0] = twin_rig_events[0] = '\0';
    twin_rig_wanted = 0;
    twin_rig_committed = 0;
    twin_rig_shard = NULL;
    twin_rig_listens = false;
}

/* ---- asking ---- */

nv_twin_request twin_rig_request(nv_twin_verb verb, const char *device, const char *module, const char *body)
{
    return (nv_twin_request){.verb = verb, .device_id = S(device), .module_id = S(module), .body = S(body)};
}

static void set_flag(nv_twin_request *request)
{
    *(bool *)request->arg = true;
}

nv_hub_error twin_rig_ask(rig *w, nv_twin_request *request)
{
    bool done = false;
    request->done = set_flag;
    request->arg = &done;
    w->hub.loops = &w->loop;
    nv_twin_do(&w->loop, request);
    assert_false(done); /* never from within the call */
    while (!done) {
        nv_exec_queue_run_wait(&w->queue);
    }
    if (request->error != NV_HUB_ERROR_NONE || request->verb == NV_TWIN_REPORTED) {
        assert_null(request->twin);
    }
    return request->error;
}

nv_hub_error twin_rig_do(rig *w, nv_twin_verb verb, const char *device, const char *body)
{
    nv_twin_request request = twin_rig_request(verb, device, "", body);
    nv_hub_error error = twin_rig_ask(w, &request);
    nv_twin_unref(request.twin);
    return error;
}

nv_twin *twin_rig_get(rig *w, const char *device, const char *module)
{
    nv_twin_request request = twin_rig_request(NV_TWIN_GET, device, module, "");
    return twin_rig_ask(w, &request) == NV_HUB_ERROR_NONE ? request.twin : NULL;
}

static char *text_of(const nv_twin *twin, void (*write)(const nv_twin *twin, nv_json_writer *w))
{
    nv_buf out;
    nv_buf_init(&out, 1u << 20);
    nv_json_writer writer = nv_json_writer_of(&out);
    write(twin, &writer);
    assert_int_equal(writer.err, NV_OK);
    char *text = nv_span_dup(nv_buf_span(&out));
    nv_buf_deinit(&out);
    return text;
}

char *twin_rig_service_text(const nv_twin *twin)
{
    return text_of(twin, nv_twin_write_service);
}

char *twin_rig_device_text(const nv_twin *twin)
{
    return text_of(twin, nv_twin_write_device);
}
