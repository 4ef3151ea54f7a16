/*
 * Events of connections: deviceConnected after the first operation of a connection, deviceDisconnected at its end, in
 * turns, however often the hub dies in between (semantics.md section 4.1).
 *
 *   claim operated / ended -> line of the identity: what is so, what was told -> queue -> one transaction per turn:
 *   outbox rows and the list of connections told of as open
 *
 * That list decides in the transaction: a disconnect is told only of what stands in it, and what another life of the
 * hub left in it is told as disconnected first; at start all that is left is swept.
 *
 * With the profile `azure` there is at most one event per direction in a minute, as the service samples: what is still
 * different when the minute is over is told then.
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "core/device_table.h"
#include "core/events.h"
#include "store/state_outbox.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define SAMPLE_US     (60 * NV_US_PER_S)
#define RETRY_US      NV_US_PER_S
#define PER_COMMIT    4096u
#define QUEUE_MAX     100000u /* while the store refuses: further connections are not told of */
#define SWEEP_ROWS    512u    /* per transaction */
#define TICKS_AT_1601 UINT64_C(504911232000000000)

/* What is so of one identity, and what was told. */
typedef struct nv_connection_line {
    nv_device_entry *entry;
    nv_identity *identity; /* a reference */
    bool open;             /* a connection is there and operated */
    bool told;             /* as open */
    int64_t told_us[2];    /* monotonic: the last disconnect, the last connect told; INT64_MIN never */
    nv_timer timer;        /* azure: when the minute is over */
} nv_connection_line;

typedef struct telling {
    nv_identity *identity; /* a reference */
    bool open;
    int64_t operation_us;
} telling;

typedef struct telling_list {
    telling *items;
    size_t count;
    size_t capacity;
} telling_list;

typedef struct nv_connection_events {
    nv_device_table *table;
    uint64_t run;         /* names this life of the hub, for this loop */
    telling_list queue;   /* oldest first */
    telling_list writing; /* in flight: the front of what there was */
    nv_state_op op;
    nv_state_op sweep;
    int64_t retry_us; /* not before, monotonic */
    bool busy;
    bool sweeping;
    bool swept;
    bool skipping; /* said once */
    size_t found;  /* by the sweep in its last round */
} nv_connection_events;

/* ---- one event, in a transaction --------------------------------------------------------------------------------- */

static nv_err put_event(nv_hub *hub, nv_txn *txn, const nv_open_row *who, bool open, int64_t operation_us)
{
    /* Larger than every one given before, also by a former life, and told apart by time as the service's are. */
    uint64_t number = nv_txn_generation(txn) - TICKS_AT_1601;
    char body[128];
    int len = snprintf(body, sizeof(body), "{\"sequenceNumber\":\"%016d%016" PRIX64 "%08d%024d\"}", 0, number, 1, 0);
    const nv_event event = {.source = NV_SOURCE_CONNECTION_STATE,
                            .schema = "deviceConnectionStateNotification",
                            .operation = open ? "deviceConnected" : "deviceDisconnected",
                            .device_id = who->device_id,
                            .module_id = who->module_id,
                            .generation = who->generation,
                            .operation_us = operation_us,
                            .body = nv_span_of(body, (size_t)len)};
    return nv_events_put(hub, txn, &event);
}

static nv_err tell_one(nv_connection_events *self, nv_txn *txn, const telling *t)
{
    nv_hub *hub = self->table->loop->hub;
    nv_open_row now = {.device_id = t->identity->device_id, .module_id = t->identity->module_id};
    nv_err err = nv_txn_open_get(txn, &now);
    bool was_open = err == NV_OK;
    if (err != NV_OK && err != NV_E_NOT_FOUND) {
        return err;
    }
    err = was_open ? put_event(hub, txn, &now, false, t->operation_us) : NV_OK;
    now.generation = nv_device_generation(t->identity);
    now.run = self->run;
    if (err == NV_OK && t->open) {
        err = put_event(hub, txn, &now, true, t->operation_us);
        return err == NV_OK ? nv_txn_open_put(txn, &now) : err;
    }
    return err == NV_OK && was_open ? nv_txn_open_delete(txn, now.device_id, now.module_id) : err;
}

static nv_err run_writing(nv_state_op *op, nv_txn *txn)
{
    nv_connection_events *self = nv_container_of(op, nv_connection_events, op);
    nv_err err = NV_OK;
    for (size_t i = 0; err == NV_OK && i < self->writing.count; i++) {
        err = tell_one(self, txn, &self->writing.items[i]);
    }
    return err;
}

/* ---- the queue --------------------------------------------------------------------------------------------------- */

static void list_push(telling_list *list, telling t)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? list->capacity * 2 : 16;
        list->items = nv_realloc(list->items, list->capacity * sizeof(*list->items));
    }
    list->items[list->count++] = t;
}

static void list_deinit(telling_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        nv_identity_unref(list->items[i].identity);
    }
    free(list->items);
    *list = (telling_list){0};
}

static void written(nv_state_op *op)
{
    nv_connection_events *self = nv_container_of(op, nv_connection_events, op);
    nv_hub *hub = self->table->loop->hub;
    self->busy = false;
    if (op->status == NV_OK) {
        list_deinit(&self->writing);
        nv_events_committed(hub);
    } else {
        self->retry_us = nv_mono_us(hub->clock) + RETRY_US;
    }
}

static void submit(nv_connection_events *self)
{
    nv_hub *hub = self->table->loop->hub;
    if (self->writing.count == 0) {
        self->writing = self->queue;
        self->queue = (telling_list){0};
        for (size_t i = PER_COMMIT; i < self->writing.count; i++) {
            list_push(&self->queue, self->writing.items[i]);
        }
        self->writing.count = self->writing.count > PER_COMMIT ? PER_COMMIT : self->writing.count;
    }
    self->busy = nv_state_write(hub->state, &self->op) == NV_OK;
    if (!self->busy) {
        self->retry_us = nv_mono_us(hub->clock) + RETRY_US;
    }
}

/* ---- what a former life left open -------------------------------------------------------------------------------- */

static nv_err run_sweep(nv_state_op *op, nv_txn *txn)
{
    nv_connection_events *self = nv_container_of(op, nv_connection_events, sweep);
    nv_hub *hub = self->table->loop->hub;
    nv_open_row rows[SWEEP_ROWS];
    self->found = 0;
    nv_err err = nv_txn_open_others(txn, self->run, rows, SWEEP_ROWS, &self->found);
    for (size_t i = 0; err == NV_OK && i < self->found; i++) {
        err = put_event(hub, txn, &rows[i], false, nv_wall_us(hub->clock));
        err = err == NV_OK ? nv_txn_open_delete(txn, rows[i].device_id, rows[i].module_id) : err;
    }
    return err;
}

static void swept(nv_state_op *op)
{
    nv_connection_events *self = nv_container_of(op, nv_connection_events, sweep);
    nv_hub *hub = self->table->loop->hub;
    self->sweeping = false;
    if (op->status != NV_OK) {
        self->retry_us = nv_mono_us(hub->clock) + RETRY_US;
        return;
    }
    if (self->found > 0) {
        nv_events_committed(hub);
    }
    self->swept = self->found < SWEEP_ROWS;
}

static void sweep(nv_connection_events *self)
{
    nv_hub *hub = self->table->loop->hub;
    self->sweeping = nv_state_write(hub->state, &self->sweep) == NV_OK;
    if (!self->sweeping) {
        self->retry_us = nv_mono_us(hub->clock) + RETRY_US;
    }
}

void nv_connection_events_turn_end(nv_connection_events *self)
{
    bool work = self->writing.count > 0 || self->queue.count > 0;
    if ((!work || self->busy) && (self->swept || self->sweeping)) {
        return;
    }
    if (self->retry_us > nv_mono_us(self->table->loop->hub->clock)) {
        return;
    }
    if (!self->swept && !self->sweeping) {
        sweep(self);
    }
    if (work && !self->busy) {
        submit(self);
    }
}

bool nv_connection_events_idle(const nv_connection_events *self)
{
    /* What the store refuses is given up: the list of open connections tells the next life. */
    bool refused = self->retry_us > nv_mono_us(self->table->loop->hub->clock);
    bool work = self->writing.count > 0 || self->queue.count > 0 || !self->swept;
    return !self->busy && !self->sweeping && (!work || refused);
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

static void tell(nv_connection_events *self, nv_connection_line *line)
{
    nv_hub *hub = self->table->loop->hub;
    if (line->open && self->queue.count >= QUEUE_MAX) {
        if (!self->skipping) {
            nv_diag(NV_LEVEL_ERROR, "events", NULL,
                    "connections are not told of: %u events wait for the state store, which refuses them", QUEUE_MAX);
        }
        self->skipping = true;
        return;
    }
    self->skipping = false;
    line->told = line->open;
    line->told_us[line->told] = nv_mono_us(hub->clock);
    list_push(&self->queue, (telling){nv_identity_ref(line->identity), line->told, nv_wall_us(hub->clock)});
}

static void drop_line(nv_connection_line *line)
{
    nv_device_entry *e = line->entry;
    nv_connection_line_free(e);
    nv_device_entry_drop_unused(e);
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* When the line may speak again: about what differs now, or at all. */
static int64_t speaks_at(const nv_hub *hub, const nv_connection_line *line)
{
    if (!hub->azure || atomic_load_explicit(&hub->_stopping, memory_order_relaxed)) {
        return INT64_MIN;
    }
    int64_t last_us = line->open != line->told ? line->told_us[line->open] : later(line->told_us[0], line->told_us[1]);
    return last_us == INT64_MIN ? INT64_MIN : last_us + SAMPLE_US;
}

/* Tell what is to be told, now or when it may be; forget the line when there is nothing any more. */
static void look_at(nv_connection_line *line)
{
    nv_device_table *table = line->entry->table;
    nv_hub *hub = table->loop->hub;
    int64_t now_us = nv_mono_us(hub->clock);
    if (line->open != line->told && speaks_at(hub, line) <= now_us) {
        tell(table->connections, line);
    }
    int64_t next_us = speaks_at(hub, line);
    if (next_us > now_us && !(line->open && line->told)) {
        nv_timers_set(&table->loop->timers, &line->timer, next_us);
    } else if (!line->open && !line->told) {
        drop_line(line);
    }
}

static void minute_over(nv_timer *timer, int64_t now_us)
{
    (void)now_us;
    look_at(nv_container_of(timer, nv_connection_line, timer));
}

void nv_connection_operated(nv_device_entry *e, nv_identity *identity)
{
    nv_connection_line *line = e->line;
    if (!e->table->connections || (line && line->open)) {
        return;
    }
    if (!line) {
        line = e->line = nv_calloc(1, sizeof(*line));
        *line = (nv_connection_line){.entry = e, .told_us = {INT64_MIN, INT64_MIN}};
        nv_timer_init(&line->timer, minute_over);
    }
    nv_identity_unref(line->identity);
    line->identity = nv_identity_ref(identity);
    line->open = true;
    look_at(line);
}

void nv_connection_ended(nv_device_entry *e)
{
    if (e->line->open) {
        e->line->open = false;
        look_at(e->line);
    }
}

void nv_connection_line_free(nv_device_entry *e)
{
    if (e->line) {
        nv_timers_clear(&e->table->loop->timers, &e->line->timer);
        nv_identity_unref(e->line->identity);
        free(e->line);
        e->line = NULL;
    }
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static nv_connection_events *events_new(nv_device_table *table)
{
    nv_connection_events *self = nv_calloc(1, sizeof(*self));
    self->table = table;
    self->op = (nv_state_op){.exec = table->loop->exec, .run = run_writing, .done = written};
    self->sweep = (nv_state_op){.exec = table->loop->exec, .run = run_sweep, .done = swept};
    self->run = table->loop->hub->run;
    self->swept = table->loop->index != 0; /* one of the loops does it for all */
    return self;
}

void nv_device_table_tell_connections(nv_device_table *table)
{
    table->connections = events_new(table);
}

void nv_connection_events_free(nv_connection_events *self)
{
    if (self) {
        assert(!self->busy && !self->sweeping);
        list_deinit(&self->queue);
        list_deinit(&self->writing);
        free(self);
    }
}
