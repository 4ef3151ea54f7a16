/* Events of the hub itself, from the change to the log (semantics.md section 4), on a clock that the test moves. */
#include "core/events.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "core/devices.h"
#include "core/registry.h"
#include "core/twin.h"
#include "store/state_outbox.h"
#include "support/fault_disk.h"
#include "support/fault_vfs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define S(text)   nv_span_str(text)
#define START_US  (INT64_C(1714558830) * NV_US_PER_S) /* 2024-05-01T10:20:30Z */
#define RECORDS   256u
#define TEXT_SIZE 2048u

/* A record of the log as text. */
typedef struct row {
    nv_source source;
    char who[64]; /* of the stamp: device or device/module */
    char generation[32];
    char properties[1024]; /* "name=value " each */
    char body[TEXT_SIZE];
} row;

typedef struct rig {
    nv_fault_disk *disk;     /* of the state */
    nv_fault_disk *log_disk; /* of the log */
    nv_fault_vfs *vfs;
    nv_manual_clock clock;
    nv_seeded_rng rng;
    nv_state *state;
    nv_log *log;
    nv_hub *hub;
    nv_exec_queue queue;
    nv_exec *execs[1];
    row *rows;
    size_t count;
} rig;

static const nv_events_config all_events = {true, true, true, true};

static void rig_open(rig *w, const nv_events_config *events, bool azure)
{
    static const char *const names[] = {"myhub.example.net"};
    nv_buf why;
    nv_buf_init(&why, 512);
    nv_state_config state = {.dir = "/data", .vfs = "nave-events", .clock = &w->clock.clock, .rng = &w->rng.rng};
    assert_int_equal(nv_state_open(&w->state, &state, &why), NV_OK);
    nv_log_config log = {.dir = "/log",
                         .partitions = 2,
                         .segment_bytes = 1 << 20,
                         .disk = nv_fault_disk_disk(w->log_disk),
                         .clock = &w->clock.clock,
                         .rng = nv_rng_system()};
    assert_int_equal(nv_log_open(&w->log, &log, &why), NV_OK);
    nv_hub_config hub = {.host_names = names,
                         .host_name_count = 1,
                         .limits = &nv_limits_open,
                         .log = w->log,
                         .state = w->state,
                         .events = events,
                         .azure = azure,
                         .clock = &w->clock.clock,
                         .rng = &w->rng.rng,
                         .loops = w->execs,
                         .loop_count = 1};
    assert_int_equal(nv_hub_new(&w->hub, &hub, &why), NV_OK);
    nv_buf_deinit(&why);
}

static rig *rig_new(const nv_events_config *events, bool azure)
{
    rig *w = nv_calloc(1, sizeof(*w));
    w->disk = nv_fault_disk_new(1);
    w->log_disk = nv_fault_disk_new(2);
    w->vfs = nv_fault_vfs_new(nv_fault_disk_disk(w->disk), "nave-events");
    assert_int_equal(nv_disk_make_dir(nv_fault_disk_disk(w->disk), "/data"), NV_OK);
    nv_manual_clock_init(&w->clock, START_US);
    nv_seeded_rng_init(&w->rng, 3);
    nv_exec_queue_init(&w->queue);
    w->execs[0] = &w->queue.exec;
    w->rows = nv_calloc(RECORDS, sizeof(*w->rows));
    rig_open(w, events, azure);
    return w;
}

static void turn(rig *w)
{
    nv_exec_queue_run(&w->queue);
    nv_hub_loop_tick(&w->hub->loops[0], nv_mono_us(&w->clock.clock));
    nv_hub_loop_turn_end(&w->hub->loops[0]);
}

static void wait_turn(rig *w)
{
    nv_exec_queue_run_wait(&w->queue);
    turn(w);
}

static void advance(rig *w, int64_t us)
{
    nv_manual_clock_advance(&w->clock, us);
    turn(w);
}

typedef struct settler {
    nv_task wake;
    rig *w;
    _Atomic bool settled;
} settler;

static void nothing(nv_task *task)
{
    (void)task;
}

static void *settle(void *arg)
{
    settler *self = arg;
    nv_hub_settle(self->w->hub);
    atomic_store(&self->settled, true);
    nv_post(&self->w->queue.exec, &self->wake);
    return NULL;
}

/* @param clean  false: as if it were killed, as far as memory allows */
static void rig_close(rig *w, bool clean)
{
    if (!clean) {
        nv_fault_disk_cut(w->disk);
        nv_fault_disk_cut(w->log_disk);
    }
    settler s = {.wake.run = nothing, .w = w};
    pthread_t thread;
    nv_hub_stop(w->hub);
    assert_int_equal(pthread_create(&thread, NULL, settle, &s), 0);
    while (!atomic_load(&s.settled)) {
        wait_turn(w);
    }
    pthread_join(thread, NULL);
    nv_exec_queue_run(&w->queue);
    nv_state_close(w->state);
    nv_log_close(w->log);
    nv_exec_queue_run(&w->queue);
    nv_hub_free(w->hub);
    if (!clean) {
        nv_fault_disk_power_on(w->disk);
        nv_fault_disk_power_on(w->log_disk);
    }
}

static void rig_free(rig *w)
{
    rig_close(w, true);
    nv_exec_queue_deinit(&w->queue);
    nv_fault_vfs_free(w->vfs);
    nv_fault_disk_free(w->disk);
    nv_fault_disk_free(w->log_disk);
    free(w->rows);
    free(w);
}

/* ---- what is in the log ------------------------------------------------------------------------------------------ */

static void keep(row *out, const nv_record *record)
{
    nv_stamp stamp;
    assert_int_equal(nv_stamp_decode(record->stamp, &stamp), NV_OK);
    *out = (row){.source = record->source};
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

typedef struct reading {
    nv_log_chunk *chunk;
    nv_err status;
    bool done;
} reading;

static void chunk_read(void *arg, nv_err status, nv_log_chunk *chunk)
{
    *(reading *)arg = (reading){chunk, status, true};
}

static void read_log(rig *w)
{
    nv_log_reader *reader = NULL;
    nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING};
    assert_int_equal(nv_log_reader_open(&reader, w->log, &options, &w->queue.exec), NV_OK);
    w->count = 0;
    for (reading r = {.status = NV_OK}; r.status == NV_OK;) {
        r.done = false;
        nv_log_reader_next(reader, chunk_read, &r);
        while (!r.done) {
            wait_turn(w);
        }
        nv_record record;
        while (r.chunk && nv_log_chunk_next(r.chunk, &record)) {
            assert_true(w->count < RECORDS);
            keep(&w->rows[w->count++], &record);
        }
        if (r.chunk) {
            nv_log_chunk_release(r.chunk);
        }
    }
    nv_log_reader_close(reader);
}

static uint64_t stored(rig *w)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < nv_log_partitions(w->log); i++) {
        nv_log_partition_info info;
        assert_int_equal(nv_log_get_partition(w->log, i, &info), NV_OK);
        sum += info.next_sequence;
    }
    return sum;
}

/* Wait for @p count events in all, and see that there are not more. */
static void expect_count(rig *w, uint64_t count)
{
    turn(w);
    while (stored(w) < count) {
        wait_turn(w);
    }
    read_log(w);
    assert_int_equal(w->count, count);
}

/* The text behind "name=" among the properties. */
static const char *property(const row *r, const char *name, char out[128])
{
    char key[64];
    (void)snprintf(key, sizeof(key), "%s=", name);
    const char *at = strstr(r->properties, key);
    const char *value = at ? at + strlen(key) : "";
    size_t len = strcspn(value, " ");
    (void)snprintf(out, 128, "%.*s", (int)len, value);
    return out;
}

static void expect_row(rig *w, size_t i, nv_source source, const char *who, const char *operation)
{
    char got[128];
    assert_true(i < w->count);
    assert_int_equal(w->rows[i].source, source);
    assert_string_equal(w->rows[i].who, who);
    assert_string_equal(property(&w->rows[i], "opType", got), operation);
}

/* ---- changes ------------------------------------------------------------------------------------------------------
 */

static void flag(nv_registry_request *request)
{
    *(bool *)request->arg = true;
}

static nv_hub_error try(rig *w, nv_registry_verb verb, const char *device, const char *module, bool edge,
                        nv_identity **identity)
{
    bool done = false;
    nv_registry_request request = {
        .verb = verb,
        .spec = {.device_id = S(device), .module_id = S(module), .enabled = true, .iot_edge = edge},
        .precondition = verb == NV_REGISTRY_DELETE ? NV_IF_ANY : NV_IF_NONE,
        .done = flag,
        .arg = &done};
    nv_registry_do(&w->hub->loops[0], &request);
    while (!done) {
        wait_turn(w);
    }
    *identity = request.identity;
    return request.error;
}

static nv_identity *ask(rig *w, nv_registry_verb verb, const char *device, const char *module, bool edge)
{
    nv_identity *identity = NULL;
    assert_int_equal(try(w, verb, device, module, edge, &identity), NV_HUB_ERROR_NONE);
    return identity;
}

static void create(rig *w, const char *device, const char *module)
{
    nv_identity_unref(ask(w, NV_REGISTRY_PUT, device, module, false));
}

typedef struct peer {
    nv_claim claim;
    rig *w;
    bool granted;
    bool done;
} peer;

static void on_granted(nv_claim *claim)
{
    nv_container_of(claim, peer, claim)->granted = true;
}

static void on_evict(nv_claim *claim, nv_refusal why)
{
    (void)claim;
    (void)why;
}

static void on_released(nv_claim *claim)
{
    nv_container_of(claim, peer, claim)->done = true;
}

static void connect_as(rig *w, peer *p, const char *device, const char *module)
{
    *p = (peer){.w = w};
    p->claim = (nv_claim){
        .identity = ask(w, NV_REGISTRY_GET, device, module, false), .granted = on_granted, .evict = on_evict};
    nv_claim_ask(&w->hub->loops[0], &p->claim);
    turn(w);
    while (!p->granted) {
        wait_turn(w);
    }
}

static void operate(peer *p)
{
    nv_claim_operated(&p->claim);
    turn(p->w);
}

static void leave(peer *p)
{
    nv_claim_release(&p->claim, on_released);
    turn(p->w);
    while (!p->done) {
        wait_turn(p->w);
    }
    nv_identity_unref(p->claim.identity);
}

/* ---- lifecycle -----------------------------------------------------------------------------------------------------
 */

#define NEW_TWIN(ids)                                                                                                  \
    "{" ids ",\"etag\":\"AAAAAAAAAAE=\",\"version\":2,\"properties\":{\"desired\":{\"$metadata\":{\"$lastUpdated\":"   \
    "\"2024-05-01T10:20:30.0000000Z\"},\"$version\":1},\"reported\":{\"$metadata\":{\"$lastUpdated\":"                 \
    "\"2024-05-01T10:20:30.0000000Z\"},\"$version\":1}}}"

/* conformance: semantics.md 42, 45 */
static void test_lifecycle(void **state)
{
    (void)state;
    rig *w = rig_new(&all_events, false);
    nv_identity *d = ask(w, NV_REGISTRY_PUT, "d", "", false);
    expect_count(w, 1);
    expect_row(w, 0, NV_SOURCE_LIFECYCLE, "d", "createDeviceIdentity");
    char correlation[128];
    assert_int_equal(strlen(property(&w->rows[0], "correlation-id", correlation)), 32);
    char want[512];
    (void)snprintf(want, sizeof(want),
                   "content-type=application/json content-encoding=utf-8 correlation-id=%s user-id=myhub hubName=myhub "
                   "deviceId=d operationTimestamp=2024-05-01T10:20:30.0000000Z "
                   "iothub-message-schema=deviceLifecycleNotification opType=createDeviceIdentity ",
                   correlation);
    assert_string_equal(w->rows[0].properties, want);
    assert_true(nv_span_eq_str(d->generation_id, w->rows[0].generation));
    assert_string_equal(w->rows[0].body, NEW_TWIN("\"deviceId\":\"d\""));
    nv_identity_unref(d);
    create(w, "d", "m");
    expect_count(w, 2);
    expect_row(w, 1, NV_SOURCE_LIFECYCLE, "d/m", "createDeviceIdentity");
    char got[128];
    assert_string_equal(property(&w->rows[1], "moduleId", got), "m");
    assert_string_equal(w->rows[1].body, NEW_TWIN("\"deviceId\":\"d\",\"moduleId\":\"m\""));
    nv_identity_unref(ask(w, NV_REGISTRY_UPSERT, "d", "", false)); /* an update is no event */
    nv_identity_unref(ask(w, NV_REGISTRY_UPSERT, "d", "", true));  /* but its role brings two modules */
    expect_count(w, 4);
    expect_row(w, 2, NV_SOURCE_LIFECYCLE, "d/$edgeAgent", "createDeviceIdentity");
    expect_row(w, 3, NV_SOURCE_LIFECYCLE, "d/$edgeHub", "createDeviceIdentity");
    nv_identity_unref(ask(w, NV_REGISTRY_UPSERT, "d", "", false));
    expect_count(w, 6);
    expect_row(w, 5, NV_SOURCE_LIFECYCLE, "d/$edgeHub", "deleteDeviceIdentity");
    (void)ask(w, NV_REGISTRY_DELETE, "d", "", false);
    expect_count(w, 8); /* the module first: its device is there as long as it is */
    expect_row(w, 6, NV_SOURCE_LIFECYCLE, "d/m", "deleteDeviceIdentity");
    expect_row(w, 7, NV_SOURCE_LIFECYCLE, "d", "deleteDeviceIdentity");
    rig_free(w);
}

/* ---- twins --------------------------------------------------------------------------------------------------------
 */

static void twin_done(nv_twin_request *request)
{
    *(bool *)request->arg = true;
}

static void change_twin(rig *w, nv_twin_verb verb, const char *device, const char *module, const char *body)
{
    bool done = false;
    nv_twin_request request = {
        .verb = verb, .device_id = S(device), .module_id = S(module), .body = S(body), .done = twin_done, .arg = &done};
    nv_twin_do(&w->hub->loops[0], &request);
    while (!done) {
        wait_turn(w);
    }
    assert_int_equal(request.error, NV_HUB_ERROR_NONE);
    nv_twin_unref(request.twin);
}

/* conformance: semantics.md 42, 45, 46 */
static void test_twin_changes(void **state)
{
    (void)state;
    nv_events_config events = {.twin_change = true};
    rig *w = rig_new(&events, false);
    create(w, "d", "");
    create(w, "d", "m");
    change_twin(w, NV_TWIN_PATCH, "d", "", "{\"tags\":{\"a\":1},\"properties\":{\"desired\":{\"b\":2,\"c\":null}}}");
    change_twin(w, NV_TWIN_REPORTED, "d", "m", "{\"r\":1.50}");
    change_twin(w, NV_TWIN_REPLACE, "d", "", "{\"tags\":{\"z\":true},\"properties\":{\"desired\":{}}}");
    expect_count(w, 3);
    char got[128];
    expect_row(w, 0, NV_SOURCE_TWIN_CHANGE, "d", "updateTwin");
    assert_string_equal(property(&w->rows[0], "iothub-message-schema", got), "twinChangeNotification");
    assert_non_null(strstr(w->rows[0].body, "\"tags\":{\"a\":1}"));
    assert_non_null(strstr(w->rows[0].body, "\"b\":2"));
    assert_null(strstr(w->rows[0].body, "\"reported\""));
    expect_row(w, 1, NV_SOURCE_TWIN_CHANGE, "d/m", "updateTwin");
    assert_string_equal(property(&w->rows[1], "moduleId", got), "m");
    assert_non_null(strstr(w->rows[1].body, "\"r\":1.50"));
    assert_null(strstr(w->rows[1].body, "\"desired\""));
    expect_row(w, 2, NV_SOURCE_TWIN_CHANGE, "d", "replaceTwin");
    assert_non_null(strstr(w->rows[2].body, "\"deviceId\":\"d\""));
    assert_non_null(strstr(w->rows[2].body, "\"tags\":{\"z\":true}"));
    assert_non_null(strstr(w->rows[2].body, "\"desired\""));
    assert_non_null(strstr(w->rows[2].body, "\"reported\""));
    rig_free(w);
}

/* Devices that announced a model raise them, under another content type and form of time. Bodies: twin_test. */
static void test_digital_twin_changes(void **state)
{
    (void)state;
    nv_events_config events = {.digital_twin_change = true};
    rig *w = rig_new(&events, false);
    create(w, "d", "");
    create(w, "plain", "");
    nv_identity *d = ask(w, NV_REGISTRY_GET, "d", "", false);
    nv_twin_announce_model(&w->hub->loops[0], d, S("dtmi:com:example:Pump;1"));
    change_twin(w, NV_TWIN_REPORTED, "plain", "", "{\"temperature\":1}"); /* it announced none */
    change_twin(w, NV_TWIN_PATCH, "d", "", "{\"tags\":{\"a\":1}}");       /* tags are no part of it */
    change_twin(w, NV_TWIN_REPORTED, "d", "", "{\"temperature\":21.50}");
    expect_count(w, 1);
    char got[128];
    expect_row(w, 0, NV_SOURCE_DIGITAL_TWIN_CHANGE, "d", "updateTwin");
    assert_string_equal(property(&w->rows[0], "iothub-message-schema", got), "digitalTwinChangeNotification");
    assert_string_equal(property(&w->rows[0], "content-type", got), "application/json-patch+json");
    assert_string_equal(property(&w->rows[0], "operationTimestamp", got), "2024-05-01T10:20:30.0000000+00:00");
    assert_non_null(strstr(w->rows[0].body, "{\"op\":\"add\",\"path\":\"/temperature\",\"value\":21.50}"));
    nv_identity_unref(d);
    rig_free(w);
}

/* ---- connections ---------------------------------------------------------------------------------------------------
 */

/* The numbers of the events of @p who, which only grow. */
static void expect_growing(rig *w, const char *who)
{
    char last[65] = "";
    for (size_t i = 0; i < w->count; i++) {
        char number[65];
        if (strcmp(w->rows[i].who, who) == 0 && w->rows[i].source == NV_SOURCE_CONNECTION_STATE) {
            assert_int_equal(sscanf(w->rows[i].body, "{\"sequenceNumber\":\"%64[0-9A-F]\"}", number), 1);
            assert_int_equal(strlen(number), 64);
            assert_true(strcmp(number, last) > 0);
            memcpy(last, number, sizeof(last));
        }
    }
}

/* conformance: semantics.md 42, 43, 44, 45 */
static void test_connections(void **state)
{
    (void)state;
    nv_events_config events = {.connection_state = true};
    rig *w = rig_new(&events, false);
    create(w, "d", "");
    create(w, "d", "m");
    peer p;
    peer m;
    connect_as(w, &p, "d", ""); /* bare: raises nothing, then nothing ends */
    assert_true(nv_presence_now(w->hub, S("d"), NV_SPAN_EMPTY).connected);
    leave(&p);
    connect_as(w, &p, "d", "");
    connect_as(w, &m, "d", "m");
    operate(&p);
    expect_count(w, 1);
    expect_row(w, 0, NV_SOURCE_CONNECTION_STATE, "d", "deviceConnected");
    char got[128];
    assert_string_equal(property(&w->rows[0], "iothub-message-schema", got), "deviceConnectionStateNotification");
    operate(&p); /* once is enough */
    operate(&m);
    leave(&p);
    leave(&m);
    expect_count(w, 4);
    expect_growing(w, "d");
    expect_growing(w, "d/m");
    for (size_t i = 0; i < 4; i++) {
        bool module = strcmp(w->rows[i].who, "d/m") == 0;
        assert_string_equal(property(&w->rows[i], "moduleId", got), module ? "m" : "");
    }
    for (int i = 0; i < 10; i++) { /* at once, in turns, however quick */
        connect_as(w, &p, "d", "");
        operate(&p);
        leave(&p);
    }
    expect_count(w, 24);
    for (size_t i = 4; i < 24; i++) {
        expect_row(w, i, NV_SOURCE_CONNECTION_STATE, "d", i % 2 == 0 ? "deviceConnected" : "deviceDisconnected");
    }
    expect_growing(w, "d");
    rig_free(w);
}

/* A killed hub could not tell that the connection went: the next one does, once. The wall clock went back meanwhile. */
static void test_killed_hub(void **state)
{
    (void)state;
    nv_events_config events = {.connection_state = true};
    rig *w = rig_new(&events, false);
    create(w, "d", "");
    create(w, "e", "");
    peer d;
    peer e;
    connect_as(w, &d, "d", "");
    connect_as(w, &e, "e", "");
    operate(&d);
    operate(&e);
    expect_count(w, 2);
    nv_fault_disk_cut(w->disk); /* what follows is only told to a dead disk */
    leave(&d);
    leave(&e);
    rig_close(w, false);
    atomic_store(&w->clock.wall, START_US - 3600 * NV_US_PER_S);
    rig_open(w, &events, false);
    expect_count(w, 4);
    connect_as(w, &d, "d", "");
    operate(&d);
    leave(&d);
    expect_count(w, 6);
    expect_growing(w, "d");
    expect_growing(w, "e");
    rig_close(w, true);
    rig_open(w, &events, false); /* nothing is left to tell */
    create(w, "f", "");
    connect_as(w, &d, "f", "");
    operate(&d);
    expect_count(w, 7);
    expect_row(w, 6, NV_SOURCE_CONNECTION_STATE, "f", "deviceConnected");
    leave(&d);
    rig_free(w);
}

/* With the profile azure at most one event per direction in a minute; what differs then is told. */
static void test_sampling(void **state)
{
    (void)state;
    nv_events_config events = {.connection_state = true};
    rig *w = rig_new(&events, true);
    create(w, "d", "");
    peer p;
    connect_as(w, &p, "d", "");
    operate(&p);
    expect_count(w, 1);
    leave(&p);
    expect_count(w, 2);
    for (int i = 0; i < 5; i++) { /* invisible */
        advance(w, NV_US_PER_S);
        connect_as(w, &p, "d", "");
        operate(&p);
        leave(&p);
    }
    advance(w, 10 * NV_US_PER_S);
    connect_as(w, &p, "d", "");
    operate(&p);
    advance(w, 44 * NV_US_PER_S); /* 59 s after the first connect */
    expect_count(w, 2);
    advance(w, NV_US_PER_S);
    expect_count(w, 3);
    expect_row(w, 2, NV_SOURCE_CONNECTION_STATE, "d", "deviceConnected");
    leave(&p);
    expect_count(w, 4); /* the last disconnect is a minute ago, too */
    advance(w, 600 * NV_US_PER_S);
    expect_count(w, 4);
    connect_as(w, &p, "d", "");
    operate(&p);
    leave(&p);
    expect_count(w, 6);
    expect_growing(w, "d");
    rig_free(w);
}

/* ---- what nobody wants, and what the log does not take -------------------------------------------------------------
 */

static void test_off(void **state)
{
    (void)state;
    nv_events_config none = {0};
    rig *w = rig_new(&none, false);
    create(w, "d", "");
    peer p;
    connect_as(w, &p, "d", ""); /* the first one stores its session */
    leave(&p);
    create(w, "behind", ""); /* what was written before is counted by now */
    int64_t before = nv_metric_get(NV_M_STATE_OPS);
    connect_as(w, &p, "d", "");
    operate(&p);
    create(w, "after", "");
    assert_int_equal(nv_metric_get(NV_M_STATE_OPS), before + 1); /* a connection costs the state store nothing more */
    leave(&p);
    change_twin(w, NV_TWIN_PATCH, "d", "", "{\"tags\":{\"a\":1}}");
    (void)ask(w, NV_REGISTRY_DELETE, "d", "", false);
    rig_close(w, true);
    rig_open(w, &all_events, false); /* and nothing waited for somebody to want it */
    create(w, "e", "");
    expect_count(w, 1);
    expect_row(w, 0, NV_SOURCE_LIFECYCLE, "e", "createDeviceIdentity");
    rig_free(w);
}

/* The log is full, for long: changes go on, their events come when there is room, each once and in order. */
/* What is accepted is told; what could not be told of is refused, so that the outbox stays small. */
static void test_full_log(void **state)
{
    (void)state;
    rig *w = rig_new(&all_events, false);
    create(w, "d", "");
    expect_count(w, 1);
    nv_fault_disk_fail_writes(w->log_disk, 1, UINT64_MAX / 2, NV_E_NO_SPACE);
    size_t accepted = 0;
    for (bool refused = false; !refused;) {
        char module[32];
        nv_identity *identity = NULL;
        (void)snprintf(module, sizeof(module), "m%02zu", accepted);
        nv_hub_error error = try(w, NV_REGISTRY_PUT, "d", module, false, &identity);
        refused = error != NV_HUB_ERROR_NONE;
        accepted += refused ? 0 : 1;
        assert_true(!refused || error == NV_HUB_ERROR_ServiceUnavailable);
        assert_true(accepted < 1000);
        nv_identity_unref(identity);
        advance(w, NV_US_PER_S);
    }
    assert_true(accepted > 0);
    assert_int_equal(stored(w), 1);
    nv_fault_disk_fail_writes(w->log_disk, 1, 0, NV_OK);
    while (stored(w) < 1 + accepted) {
        advance(w, NV_US_PER_S); /* the hub tries once a second */
    }
    nv_identity *after = NULL;
    while (try(w, NV_REGISTRY_PUT, "d", "after", false, &after) != NV_HUB_ERROR_NONE) {
        advance(w, NV_US_PER_S); /* readers may see the rows before the drainer hears that they are stored */
    }
    nv_identity_unref(after);
    expect_count(w, 2 + accepted);
    expect_row(w, 1 + accepted, NV_SOURCE_LIFECYCLE, "d/after", "createDeviceIdentity");
    for (size_t i = 1; i < 1 + accepted; i++) {
        char who[32];
        (void)snprintf(who, sizeof(who), "d/m%02zu", i - 1);
        expect_row(w, i, NV_SOURCE_LIFECYCLE, who, "createDeviceIdentity");
    }
    rig_free(w);
}

typedef struct large {
    nv_state_op op;
    rig *w;
    nv_span body;
    bool done;
} large;

static nv_err run_large(nv_state_op *op, nv_txn *txn)
{
    large *self = nv_container_of(op, large, op);
    const nv_event event = {
        .source = NV_SOURCE_TWIN_CHANGE, .schema = "s", .operation = "o", .device_id = S("d"), .body = self->body};
    return nv_events_put(self->w->hub, txn, &event);
}

static void large_done(nv_state_op *op)
{
    large *self = nv_container_of(op, large, op);
    self->done = true;
    nv_events_committed(self->w->hub);
}

/* What the log cannot take does not hold up what stands behind it, and is told all the same. */
static void test_large_bodies(void **state)
{
    (void)state;
    rig *w = rig_new(&all_events, false);
    static char body[NV_LOG_MESSAGE_MAX + 1];
    memset(body, ' ', sizeof(body));
    for (size_t i = 0; i < 4; i++) {
        large l = {.op = {.exec = &w->queue.exec, .run = run_large, .done = large_done},
                   .w = w,
                   .body = nv_span_of(body, i == 1 ? sizeof(body) : sizeof(body) - 1)};
        assert_int_equal(nv_state_write(w->state, &l.op), NV_OK);
        while (!l.done) {
            wait_turn(w);
        }
    }
    create(w, "d", "");
    expect_count(w, 5);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(strcmp(w->rows[i].body, "{}") == 0, i == 1);
    }
    rig_free(w);
}

/* Drained rows do not stay: the outbox of a hub that lives long is empty. */
static nv_err count_rows(void *arg, const nv_outbox_row *r)
{
    (void)r;
    *(size_t *)arg += 1;
    return NV_OK;
}

typedef struct counting {
    nv_state_op op;
    size_t rows;
    bool done;
} counting;

static nv_err run_count(nv_state_op *op, nv_txn *txn)
{
    counting *c = nv_container_of(op, counting, op);
    c->rows = 0;
    return nv_txn_outbox_read(txn, 0, count_rows, &c->rows);
}

static void counted(nv_state_op *op)
{
    nv_container_of(op, counting, op)->done = true;
}

static size_t outbox_rows(rig *w)
{
    counting c = {.op = {.exec = &w->queue.exec, .run = run_count, .done = counted}};
    assert_int_equal(nv_state_read(w->state, &c.op), NV_OK);
    while (!c.done) {
        wait_turn(w);
    }
    return c.rows;
}

static void test_outbox_is_emptied(void **state)
{
    (void)state;
    rig *w = rig_new(&all_events, false);
    create(w, "d", "");
    create(w, "e", "");
    expect_count(w, 2);
    assert_int_equal(outbox_rows(w), 2); /* later, many at once */
    advance(w, 6 * NV_US_PER_S);
    while (outbox_rows(w) > 0) {
        turn(w);
    }
    create(w, "f", "");
    expect_count(w, 3);
    rig_close(w, true); /* a clean end leaves none */
    rig_open(w, &all_events, false);
    assert_int_equal(outbox_rows(w), 0);
    expect_count(w, 3);
    rig_free(w);
}

int main(void)
{
    nv_diag_setup(NV_LEVEL_ERROR + 1, false, 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lifecycle),
        cmocka_unit_test(test_twin_changes),
        cmocka_unit_test(test_digital_twin_changes),
        cmocka_unit_test(test_connections),
        cmocka_unit_test(test_killed_hub),
        cmocka_unit_test(test_sampling),
        cmocka_unit_test(test_off),
        cmocka_unit_test(test_full_log),
        cmocka_unit_test(test_outbox_is_emptied),
        cmocka_unit_test(test_large_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
