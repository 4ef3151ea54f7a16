/*
 * The power goes, again and again, while devices come, go, connect, and changes put events into the outbox: what was
 * committed stands in the log exactly once and in order, what was refused nowhere, connects and disconnects take turns.
 * Log and state live on one disk, which forgets or tears whatever was not synced.
 *
 *   events_crash_test honest|lying|forgetful CUTS
 *
 * The proofs that it can fail: "lying" reports syncs that the disk does not do; "forgetful" begins each life without
 * the log's word on what is drained.
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "core/devices.h"
#include "core/events_drain.h"
#include "core/registry.h"
#include "support/events_hub.h"
#include "support/fault_disk.h"
#include "support/fault_vfs.h"
#include "support/hub_rest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define DEVICES       4u
#define SERIALS_MAX   8192u
#define ACTIONS       6u
#define ROUNDS        40u
#define CUTS_PER_DISK 6u

typedef enum fate { UNKNOWN, COMMITTED, REFUSED, NEVER } fate;

typedef struct world world;

typedef struct device {
    world *w;
    char id[8];
    nv_identity *identity; /* as the registry answered last; NULL: none */
    nv_registry_request request;
    bool asking;
    nv_claim claim;
    bool claimed;
    bool releasing;
    /* what the log says */
    bool open;
    bool exists;
    char number[65];
    uint64_t connects;
} device;

struct world {
    nv_fault_disk *disk;
    nv_fault_vfs *vfs;
    events_hub on;
    device devices[DEVICES];
    size_t pending;
    uint8_t fates[SERIALS_MAX];
    uint32_t serials;
    bool forgetful;
    uint64_t committed;
    uint64_t connects;
    char fault[256]; /* what is wrong, "" = nothing */
};

static uint64_t roll(world *w, uint64_t below)
{
    return nv_rng_u64(&w->on.rng.rng) % below;
}

static void complain(world *w, const char *what, const char *whom, uint64_t number)
{
    if (w->fault[0] == '\0') {
        (void)snprintf(w->fault, sizeof(w->fault), "%s: %s %" PRIu64, what, whom, number);
    }
}

static void wait_for_pending(world *w)
{
    while (w->pending > 0) {
        events_hub_wait(&w->on);
    }
}

/* ---- numbered events -------------------------------------------------------------------------------------------- */

typedef struct numbered {
    nv_state_op op;
    world *w;
    uint32_t serial;
    bool refused;
} numbered;

static nv_err put_numbered(nv_state_op *op, nv_txn *txn)
{
    numbered *self = nv_container_of(op, numbered, op);
    char body[16];
    int len = snprintf(body, sizeof(body), "%u", self->serial);
    const nv_event event = {.source = NV_SOURCE_TWIN_CHANGE,
                            .schema = "numbered",
                            .operation = "put",
                            .device_id = nv_span_str("numbers"),
                            .body = nv_span_of(body, (size_t)len)};
    nv_err err = nv_events_put(self->w->on.hub, txn, &event);
    return err == NV_OK && self->refused ? NV_E_PRECONDITION : err;
}

static void numbered_done(nv_state_op *op)
{
    numbered *self = nv_container_of(op, numbered, op);
    world *w = self->w;
    w->pending--;
    if (op->status == NV_OK) {
        w->fates[self->serial] = COMMITTED;
        w->committed++;
        nv_events_committed(w->on.hub);
    }
    free(self);
}

static void put_number(world *w)
{
    if (w->serials + 1 >= SERIALS_MAX) {
        return;
    }
    numbered *self = nv_calloc(1, sizeof(*self));
    *self = (numbered){.op = {.exec = &w->on.queue.exec, .run = put_numbered, .done = numbered_done},
                       .w = w,
                       .serial = ++w->serials,
                       .refused = roll(w, 8) == 0};
    w->fates[self->serial] = self->refused ? REFUSED : UNKNOWN;
    w->pending++;
    if (nv_state_write(w->on.state, &self->op) != NV_OK) {
        abort();
    }
}

/* ---- devices ---------------------------------------------------------------------------------------------------- */

static void registered(nv_registry_request *request)
{
    device *d = request->arg;
    d->w->pending--;
    d->asking = false;
    if (request->error == NV_HUB_ERROR_NONE) {
        nv_identity_unref(d->identity);
        d->identity = request->identity;
    }
}

static void ask_registry(device *d, nv_registry_verb verb)
{
    if (d->asking) {
        return;
    }
    d->asking = true;
    d->w->pending++;
    d->request = (nv_registry_request){.verb = verb,
                                       .spec = {.device_id = nv_span_str(d->id), .enabled = true},
                                       .precondition = verb == NV_REGISTRY_DELETE ? NV_IF_ANY : NV_IF_NONE,
                                       .done = registered,
                                       .arg = d};
    nv_registry_do(&d->w->on.hub->loops[0], &d->request);
}

static void released(nv_claim *claim)
{
    device *d = nv_container_of(claim, device, claim);
    d->claimed = d->releasing = false;
    nv_identity_unref(claim->identity);
    d->w->pending--;
}

static void release(device *d)
{
    if (d->claimed && !d->releasing) {
        d->releasing = true;
        d->w->pending++;
        nv_claim_release(&d->claim, released);
    }
}

static void granted(nv_claim *claim)
{
    device *d = nv_container_of(claim, device, claim);
    if (claim->status != NV_OK) {
        release(d);
    } else if (roll(d->w, 4) > 0) {
        nv_claim_operated(claim);
        nv_claim_operated(claim);
    }
}

static void evicted(nv_claim *claim, nv_refusal why)
{
    (void)why;
    release(nv_container_of(claim, device, claim));
}

static void act(world *w)
{
    device *d = &w->devices[roll(w, DEVICES)];
    uint64_t dice = roll(w, 10);
    if (dice < 3) {
        put_number(w);
    } else if (dice < 5) {
        ask_registry(d, NV_REGISTRY_PUT);
    } else if (dice < 6) {
        ask_registry(d, NV_REGISTRY_DELETE);
    } else if (d->claimed) {
        release(d);
    } else if (d->identity) {
        d->claimed = true;
        d->claim = (nv_claim){.identity = nv_identity_ref(d->identity), .granted = granted, .evict = evicted};
        nv_claim_ask(&w->on.hub->loops[0], &d->claim);
    }
}

/* ---- a life ------------------------------------------------------------------------------------------------------ */

static nv_err open_hub(world *w, nv_buf *why)
{
    static const nv_events_config events = {true, true, true, true};
    events_hub_options options = {.vfs = "nave-fault",
                                  .disk = nv_fault_disk_disk(w->disk),
                                  .events = &events,
                                  .checkpoint_pages = 4 + (uint32_t)roll(w, 100)};
    nv_err err = events_hub_open(&w->on, &options, why);
    if (err == NV_OK && w->forgetful) {
        w->on.hub->events->drained = 0;
    }
    return err;
}

static bool begin_life(world *w)
{
    nv_buf why;
    nv_buf_init(&why, 512);
    nv_err err = open_hub(w, &why);
    if (err != NV_OK && !nv_fault_disk_is_cut(w->disk)) {
        (void)snprintf(w->fault, sizeof(w->fault), "it does not open: %.*s", NV_SPAN_ARG(nv_buf_span(&why)));
    }
    nv_buf_deinit(&why);
    return err == NV_OK;
}

/* As a stop does it; on a dead disk it only gives the memory back. */
static void stop_hub(world *w)
{
    nv_hub_stop(w->on.hub);
    for (size_t i = 0; i < DEVICES; i++) {
        release(&w->devices[i]);
    }
    wait_for_pending(w);
    hub_rest(w->on.hub);
}

/* Until the power goes, or to a clean end. */
static void live(world *w)
{
    if (!begin_life(w)) {
        events_hub_close_stores(&w->on);
        return;
    }
    for (uint32_t round = 0; round < ROUNDS && !nv_fault_disk_is_cut(w->disk); round++) {
        for (uint64_t left = 1 + roll(w, ACTIONS); left > 0; left--) {
            act(w);
        }
        wait_for_pending(w);
        nv_manual_clock_advance(&w->on.clock, (int64_t)roll(w, 2 * NV_US_PER_S));
    }
    bool killed = roll(w, 2) == 0;
    if (killed && !nv_fault_disk_is_cut(w->disk)) {
        nv_fault_disk_cut(w->disk);
    }
    stop_hub(w);
    events_hub_close_stores(&w->on);
}

/* ---- what must be there ------------------------------------------------------------------------------------------ */

static nv_span property_of(const nv_record *record, const char *name)
{
    nv_reader section = nv_reader_of(record->properties);
    nv_property property;
    while (nv_property_next(&section, &property)) {
        if (property.id == NV_PROP_APPLICATION && nv_span_eq_str(property.name, name)) {
            return property.value.bytes;
        }
    }
    return NV_SPAN_EMPTY;
}

static device *device_of(world *w, nv_span id)
{
    for (size_t i = 0; i < DEVICES; i++) {
        if (nv_span_eq_str(id, w->devices[i].id)) {
            return &w->devices[i];
        }
    }
    complain(w, "an event of somebody else", "", 0);
    return &w->devices[0];
}

static void check_connection(world *w, const nv_record *record, device *d)
{
    bool open = nv_span_eq_str(property_of(record, "opType"), "deviceConnected");
    static const nv_span before = NV_SPAN_LIT("{\"sequenceNumber\":\"");
    nv_span number = nv_span_first(nv_span_skip(record->body, before.len), 64);
    if (open == d->open) {
        complain(w, open ? "connected twice" : "disconnected twice", d->id, record->sequence);
    }
    if (number.len != 64 || memcmp(number.ptr, d->number, 64) <= 0) {
        complain(w, "the sequence number does not grow", d->id, record->sequence);
    }
    d->open = open;
    d->connects += open;
    memcpy(d->number, number.ptr, number.len);
}

static void check_lifecycle(world *w, const nv_record *record, device *d)
{
    bool created = nv_span_eq_str(property_of(record, "opType"), "createDeviceIdentity");
    if (created == d->exists) {
        complain(w, created ? "created twice" : "deleted twice", d->id, record->sequence);
    }
    d->exists = created;
}

static void check_record(world *w, const nv_record *record, uint8_t seen[SERIALS_MAX], uint64_t *last)
{
    nv_span id = property_of(record, "deviceId");
    uint64_t serial = 0;
    if (!nv_span_eq_str(id, "numbers")) {
        device *d = device_of(w, id);
        if (record->source == NV_SOURCE_LIFECYCLE) {
            check_lifecycle(w, record, d);
        } else {
            check_connection(w, record, d);
        }
        return;
    }
    if (!nv_span_to_u64(record->body, &serial) || serial == 0 || serial > w->serials) {
        complain(w, "an event that nobody put", "", serial);
        return;
    }
    if (seen[serial]++) {
        complain(w, "an event is in the log twice", "", serial);
    }
    if (serial <= *last) {
        complain(w, "an event is behind a later one", "", serial);
    }
    if (w->fates[serial] == REFUSED || w->fates[serial] == NEVER) {
        complain(w, "what was refused, or lost before, is in the log", "", serial);
    }
    *last = serial;
}

typedef struct reading {
    world *w;
    uint8_t *seen;
    uint64_t last;
} reading;

static void check_each(void *arg, const nv_record *record)
{
    reading *r = arg;
    check_record(r->w, record, r->seen, &r->last);
}

static void read_log(world *w, uint8_t seen[SERIALS_MAX])
{
    reading r = {.w = w, .seen = seen};
    nv_err err = events_hub_read(&w->on, check_each, &r);
    if (err != NV_OK) {
        complain(w, "the log cannot be read", nv_err_name(err), 0);
    }
}

typedef struct look {
    nv_state_op op;
    world *w;
} look;

static nv_err compare_registry(nv_state_op *op, nv_txn *txn)
{
    world *w = nv_container_of(op, look, op)->w;
    for (size_t i = 0; i < DEVICES; i++) {
        device *d = &w->devices[i];
        nv_identity_row row;
        nv_err err = nv_txn_identity_get(txn, nv_span_str(d->id), NV_SPAN_EMPTY, &row);
        if ((err == NV_OK) != d->exists) {
            complain(w, "events and registry differ about", d->id, d->exists);
        }
    }
    return NV_OK;
}

static void compared(nv_state_op *op)
{
    nv_container_of(op, look, op)->w->pending--;
}

/* A life in which nobody comes: what was left is drained and swept. Then the log is compared with what was asked. */
static void check(world *w)
{
    uint8_t seen[SERIALS_MAX] = {0};
    if (!begin_life(w)) {
        events_hub_close_stores(&w->on);
        return;
    }
    for (size_t i = 0; i < DEVICES; i++) {
        device *d = &w->devices[i];
        d->open = d->exists = false;
        d->connects = 0;
        memset(d->number, '0', sizeof(d->number) - 1);
        nv_identity_unref(d->identity);
        d->identity = NULL;
    }
    look l = {.op = {.exec = &w->on.queue.exec, .run = compare_registry, .done = compared}, .w = w};
    stop_hub(w);
    read_log(w, seen);
    w->pending++;
    if (nv_state_read(w->on.state, &l.op) != NV_OK) {
        abort();
    }
    wait_for_pending(w);
    w->connects = 0;
    for (size_t i = 0; i < DEVICES; i++) {
        w->connects += w->devices[i].connects;
        if (w->devices[i].open) {
            complain(w, "a connection was never told of as closed", w->devices[i].id, 0);
        }
    }
    for (uint32_t serial = 1; serial <= w->serials; serial++) {
        if (w->fates[serial] == COMMITTED && !seen[serial]) {
            complain(w, "a committed event is not in the log", "", serial);
        }
        if (w->fates[serial] == UNKNOWN) { /* the power went while it was committed: it was, or it never comes */
            w->fates[serial] = seen[serial] ? COMMITTED : NEVER;
        }
    }
    events_hub_close_stores(&w->on);
}

/* @return cuts made */
static uint32_t one_disk(world *w, uint64_t seed, bool lying, uint32_t cuts)
{
    nv_seeded_rng_init(&w->on.rng, seed * 2 + 1);
    w->serials = 0;
    w->disk = nv_fault_disk_new(seed);
    nv_disk *disk = nv_fault_disk_disk(w->disk);
    w->vfs = nv_fault_vfs_new(disk, "nave-fault");
    nv_ignore(nv_disk_make_dir(disk, "/data"));
    nv_ignore(nv_disk_make_dir(disk, "/log"));
    nv_ignore(nv_disk_sync_dir(disk, "/"));
    nv_fault_disk_set_direct(w->disk, roll(w, 2) == 0);
    nv_fault_disk_set_ignore_syncs(w->disk, lying);
    uint32_t made = 0;
    for (; made < cuts && made < CUTS_PER_DISK && w->fault[0] == '\0'; made++) {
        nv_fault_disk_cut_after(w->disk, 1 + roll(w, roll(w, 4) == 0 ? 80 : 2500));
        live(w);
        nv_fault_disk_power_on(w->disk);
        nv_fault_disk_cut_after(w->disk, 0);
        check(w);
    }
    for (size_t i = 0; i < DEVICES; i++) {
        nv_identity_unref(w->devices[i].identity);
        w->devices[i].identity = NULL;
    }
    nv_fault_vfs_free(w->vfs);
    nv_fault_disk_free(w->disk);
    return made;
}

static void swallow(void *arg, nv_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    (void)line;
    (void)len;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        (void)fprintf(stderr, "usage: events_crash_test honest|lying|forgetful CUTS\n");
        return 2;
    }
    world *w = calloc(1, sizeof(*w));
    bool lying = strcmp(argv[1], "lying") == 0;
    w->forgetful = strcmp(argv[1], "forgetful") == 0;
    uint32_t cuts = (uint32_t)strtoul(argv[2], NULL, 10);
    nv_diag_set_sink(swallow, NULL); /* each cut is a failed commit */
    events_hub_init(&w->on, INT64_C(1700000000) * NV_US_PER_S, 0);
    for (size_t i = 0; i < DEVICES; i++) {
        w->devices[i].w = w;
        (void)snprintf(w->devices[i].id, sizeof(w->devices[i].id), "d%zu", i);
    }
    uint32_t made = 0;
    uint64_t seed = 0;
    uint64_t connects = 0;
    while (made < cuts && w->fault[0] == '\0') {
        made += one_disk(w, ++seed, lying, cuts - made);
        connects += w->connects;
    }
    bool failed = w->fault[0] != '\0';
    if (failed) {
        (void)printf("seed %" PRIu64 ": %s\n", seed, w->fault);
    }
    (void)printf("%u cuts, %" PRIu64 " committed events and %" PRIu64 " connections, %s\n", made, w->committed,
                 connects, failed ? "FAILED" : "each once");
    events_hub_deinit(&w->on);
    free(w);
    return failed ? 1 : 0;
}
