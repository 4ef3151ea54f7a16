#include "support/events_rig.h"

#include "base/alloc.h"
#include "support/fault_vfs.h"
#include "support/hub_rest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define S(text)  nv_span_str(text)
#define START_US EVENTS_RIG_START_US

const nv_events_config events_rig_all = {true, true, true, true};

void events_rig_open(events_rig *w, const nv_events_config *events, bool azure)
{
    nv_buf why;
    nv_buf_init(&why, 512);
    events_hub_options options = {
        .vfs = "nave-events", .disk = nv_fault_disk_disk(w->log_disk), .events = events, .azure = azure};
    assert_int_equal(events_hub_open(&w->on, &options, &why), NV_OK);
    nv_buf_deinit(&why);
}

events_rig *events_rig_new(const nv_events_config *events, bool azure)
{
    events_rig *w = nv_calloc(1, sizeof(*w));
    w->disk = nv_fault_disk_new(1);
    w->log_disk = nv_fault_disk_new(2);
    w->vfs = nv_fault_vfs_new(nv_fault_disk_disk(w->disk), "nave-events");
    assert_int_equal(nv_disk_make_dir(nv_fault_disk_disk(w->disk), "/data"), NV_OK);
    events_hub_init(&w->on, START_US, 3);
    w->rows = nv_calloc(EVENTS_RIG_RECORDS, sizeof(*w->rows));
    events_rig_open(w, events, azure);
    return w;
}

void events_rig_advance(events_rig *w, int64_t us)
{
    nv_manual_clock_advance(&w->on.clock, us);
    events_hub_turn(&w->on);
}

/* @param clean  false: as if it were killed, as far as memory allows */
void events_rig_close(events_rig *w, bool clean)
{
    if (!clean) {
        nv_fault_disk_cut(w->disk);
        nv_fault_disk_cut(w->log_disk);
    }
    hub_rest(w->on.hub);
    events_hub_close_stores(&w->on);
    if (!clean) {
        nv_fault_disk_power_on(w->disk);
        nv_fault_disk_power_on(w->log_disk);
    }
}

void events_rig_free(events_rig *w)
{
    events_rig_close(w, true);
    events_hub_deinit(&w->on);
    nv_fault_vfs_free(w->vfs);
    nv_fault_disk_free(w->disk);
    nv_fault_disk_free(w->log_disk);
    free(w->rows);
    free(w);
}

/* ---- what is in the log ------------------------------------------------------------------------------------------ */

static void keep(void *arg, const nv_record *record)
{
    events_rig *w = arg;
    assert_true(w->count < EVENTS_RIG_RECORDS);
    events_row *out = &w->rows[w->count++];
    nv_stamp stamp;
    assert_int_equal(nv_stamp_decode(record->stamp, &stamp), NV_OK);
    *out = (events_row){.source = record->source};
    (void)snprintf(out->who, sizeof(out->who), "%.*s%s%.*s", NV_SPAN_ARG(stamp.device_id),
                   stamp.module_id.len ? "/" : "", NV_SPAN_ARG(stamp.module_id));
    (void)snprintf(out->generation, sizeof(out->generation), "%.*s", NV_SPAN_ARG(stamp.generation_id));
    (void)snprintf(out->body, sizeof(out->body), "%.*s", NV_SPAN_ARG(record->body));
    nv_reader section = nv_reader_of(record->properties);
    nv_property property;
    while (nv_property_next(&section, &property)) {
        size_t len = strlen(out->properties);
        const char *system = nv_system_property_name(property.id);
        nv_span name = system ? S(system) : property.name;
        assert_int_equal(property.value.type, NV_VALUE_STRING);
        (void)snprintf(out->properties + len, sizeof(out->properties) - len, "%.*s=%.*s ", NV_SPAN_ARG(name),
                       NV_SPAN_ARG(property.value.bytes));
    }
}

static void read_log(events_rig *w)
{
    w->count = 0;
    assert_int_equal(events_hub_read(&w->on, keep, w), NV_OK);
}

uint64_t events_rig_stored(events_rig *w)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < nv_log_partitions(w->on.log); i++) {
        nv_log_partition_info info;
        assert_int_equal(nv_log_get_partition(w->on.log, i, &info), NV_OK);
        sum += info.next_sequence;
    }
    return sum;
}

/* Wait for @p count events in all, and see that there are not more. */
void events_rig_expect_count(events_rig *w, uint64_t count)
{
    events_hub_turn(&w->on);
    while (events_rig_stored(w) < count) {
        events_hub_wait(&w->on);
    }
    read_log(w);
    assert_int_equal(w->count, count);
}

/* The text behind "name=" among the properties. */
const char *events_rig_property(const events_row *r, const char *name, char out[128])
{
    char key[64];
    (void)snprintf(key, sizeof(key), "%s=", name);
    const char *at = strstr(r->properties, key);
    const char *value = at ? at + strlen(key) : "";
    size_t len = strcspn(value, " ");
    (void)snprintf(out, 128, "%.*s", (int)len, value);
    return out;
}

void events_rig_expect_row(events_rig *w, size_t i, nv_source source, const char *who, const char *operation)
{
    char got[128];
    assert_true(i < w->count);
    assert_int_equal(w->rows[i].source, source);
    assert_string_equal(w->rows[i].who, who);
    assert_string_equal(events_rig_property(&w->rows[i], "opType", got), operation);
}

/* ---- changes ------------------------------------------------------------------------------------------------------
 */

static void flag(nv_registry_request *request)
{
    *(bool *)request->arg = true;
}

nv_hub_error events_rig_try(events_rig *w, nv_registry_verb verb, const char *device, const char *module, bool edge,
                            nv_identity **identity)
{
    bool done = false;
    nv_registry_request request = {
        .verb = verb,
        .spec = {.device_id = S(device), .module_id = S(module), .enabled = true, .iot_edge = edge},
        .precondition = verb == NV_REGISTRY_DELETE ? NV_IF_ANY : NV_IF_NONE,
        .done = flag,
        .arg = &done};
    nv_registry_do(&w->on.hub->loops[0], &request);
    while (!done) {
        events_hub_wait(&w->on);
    }
    *identity = request.identity;
    return request.error;
}

nv_identity *events_rig_ask(events_rig *w, nv_registry_verb verb, const char *device, const char *module, bool edge)
{
    nv_identity *identity = NULL;
    assert_int_equal(events_rig_try(w, verb, device, module, edge, &identity), NV_HUB_ERROR_NONE);
    return identity;
}

void events_rig_create(events_rig *w, const char *device, const char *module)
{
    nv_identity_unref(events_rig_ask(w, NV_REGISTRY_PUT, device, module, false));
}

static void on_granted(nv_claim *claim)
{
    nv_container_of(claim, events_peer, claim)->granted = true;
}

static void on_evict(nv_claim *claim, nv_refusal why)
{
    (void)claim;
    (void)why;
}

static void on_released(nv_claim *claim)
{
    nv_container_of(claim, events_peer, claim)->done = true;
}

void events_rig_connect(events_rig *w, events_peer *p, const char *device, const char *module)
{
    *p = (events_peer){.w = w};
    p->claim = (nv_claim){.identity = events_rig_ask(w, NV_REGISTRY_GET, device, module, false),
                          .granted = on_granted,
                          .evict = on_evict};
    nv_claim_ask(&w->on.hub->loops[0], &p->claim);
    events_hub_turn(&w->on);
    while (!p->granted) {
        events_hub_wait(&w->on);
    }
}

void events_rig_operate(events_peer *p)
{
    nv_claim_operated(&p->claim);
    events_hub_turn(&p->w->on);
}

void events_rig_leave(events_peer *p)
{
    nv_claim_release(&p->claim, on_released);
    events_hub_turn(&p->w->on);
    while (!p->done) {
        events_hub_wait(&p->w->on);
    }
    nv_identity_unref(p->claim.identity);
}

static void twin_done(nv_twin_request *request)
{
    *(bool *)request->arg = true;
}

void events_rig_change_twin(events_rig *w, nv_twin_verb verb, const char *device, const char *module, const char *body)
{
    bool done = false;
    nv_twin_request request = {
        .verb = verb, .device_id = S(device), .module_id = S(module), .body = S(body), .done = twin_done, .arg = &done};
    nv_twin_do(&w->on.hub->loops[0], &request);
    while (!done) {
        events_hub_wait(&w->on);
    }
    assert_int_equal(request.error, NV_HUB_ERROR_NONE);
    nv_twin_unref(request.twin);
}
