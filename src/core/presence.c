/*
 * Who is there since when. The table of a loop answers for its devices: live connections tell of themselves, what
 * disconnected is saved with the identity within a second or so, and until that is committed the entry stays and
 * answers. Connections that last are saved once a minute if they were active, so that a hub that is killed remembers
 * about when it heard of them. Other threads look under the table's lock.
 */
#include "base/alloc.h"
#include "core/device_table.h"

#include <stdlib.h>

#define SAVE_EVERY_US NV_US_PER_S
#define SAVE_AT_ONCE  4096u /* so many disconnections do not wait for each other */
#define WALK_SLICE    512u  /* entries looked at in a turn */

/* ---- coming and going --------------------------------------------------------------------------------------- */

static int64_t activity_of(const nv_hub *hub, const nv_claim *claim)
{
    int64_t ago = nv_mono_us(hub->clock) - atomic_load_explicit(&claim->_touched_us, memory_order_relaxed);
    return nv_wall_us(hub->clock) - (ago > 0 ? ago : 0);
}

void nv_device_connected(nv_device_entry *e, nv_claim *claim)
{
    nv_hub *hub = e->table->loop->hub;
    int64_t now_us = nv_wall_us(hub->clock);
    pthread_mutex_lock(&e->table->lock);
    e->live = claim;
    e->connection_updated_us = now_us;
    pthread_mutex_unlock(&e->table->lock);
    if (nv_device_entry_is_device(e)) {
        atomic_fetch_add_explicit(&hub->_devices_connected, 1, memory_order_relaxed);
    }
}

static void add_seen(nv_seen_list *list, nv_device_entry *e, nv_identity *identity)
{
    if (list->count == list->capacity) {
        list->capacity = list->capacity ? list->capacity * 2 : 16;
        list->seen = nv_realloc(list->seen, list->capacity * sizeof(*list->seen));
        list->entries = nv_realloc(list->entries, list->capacity * sizeof(nv_device_entry *));
    }
    list->seen[list->count] =
        (nv_registry_seen){nv_identity_ref(identity), e->connection_updated_us, e->last_activity_us};
    list->entries[list->count++] = e;
    e->saves++;
}

void nv_device_disconnected(nv_device_entry *e, nv_claim *claim)
{
    nv_hub *hub = e->table->loop->hub;
    int64_t now_us = nv_wall_us(hub->clock);
    int64_t active_us = activity_of(hub, claim);
    pthread_mutex_lock(&e->table->lock);
    e->live = NULL;
    e->connection_updated_us = now_us;
    e->last_activity_us = active_us;
    pthread_mutex_unlock(&e->table->lock);
    if (nv_device_entry_is_device(e)) {
        atomic_fetch_sub_explicit(&hub->_devices_connected, 1, memory_order_relaxed);
    }
    add_seen(&e->table->gone, e, claim->identity);
    if (e->line) {
        nv_connection_ended(e);
    }
}

typedef struct active_task {
    nv_task task;
    nv_hub_loop *shard;
    nv_identity *identity;
} active_task;

static void active_on_shard(nv_task *task)
{
    active_task *self = nv_container_of(task, active_task, task);
    nv_device_table *table = self->shard->devices;
    nv_identity *identity = self->identity;
    nv_device_entry *e = nv_device_entry_make(table, identity->device_id, NV_SPAN_EMPTY);
    if (!e->live) {
        pthread_mutex_lock(&table->lock);
        e->last_activity_us = nv_wall_us(table->loop->hub->clock);
        if (e->connection_updated_us == 0) {
            e->connection_updated_us = identity->connection_updated_us; /* saving must not forget it */
        }
        pthread_mutex_unlock(&table->lock);
        if (e->saves == 0 && !table->closed) {
            add_seen(&table->gone, e, identity);
        }
    }
    nv_device_entry_drop_unused(e);
    nv_identity_unref(identity);
    free(self);
}

void nv_device_active(nv_hub_loop *loop, nv_identity *identity)
{
    active_task *self = nv_calloc(1, sizeof(*self));
    self->task.run = active_on_shard;
    self->shard = nv_hub_shard_loop(loop->hub, identity->device_id);
    self->identity = nv_identity_ref(identity);
    nv_post(self->shard->exec, &self->task);
}

int64_t nv_devices_connected(const nv_hub *hub)
{
    return atomic_load_explicit(&hub->_devices_connected, memory_order_relaxed);
}

/* ---- saving ------------------------------------------------------------------------------------------------- */

void nv_seen_list_deinit(nv_seen_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        nv_identity_unref(list->seen[i].identity);
    }
    free(list->seen);
    free(list->entries);
}

static void collect_live(nv_device_entry *e)
{
    int64_t active_us = activity_of(e->table->loop->hub, e->live);
    if (active_us > e->last_activity_us + NV_US_PER_S) {
        pthread_mutex_lock(&e->table->lock);
        e->last_activity_us = active_us;
        pthread_mutex_unlock(&e->table->lock);
        add_seen(&e->table->gone, e, e->live->identity);
    }
}

/* Collect the next few live connections that were active since they were saved last. */
static void walk_live(nv_device_table *table)
{
    nv_hub *hub = table->loop->hub;
    int64_t now_us = nv_mono_us(hub->clock);
    if (now_us < table->walk_us) {
        return;
    }
    nv_device_entry *e = NULL;
    for (size_t i = 0; i < WALK_SLICE && (e = nv_map_next(&table->entries, &table->walk_at)); i++) {
        if (e->live && e->saves == 0) {
            collect_live(e);
        }
    }
    if (!e) { /* the map may have changed between slices: who was missed comes next time */
        table->walk_at = 0;
        table->walk_us = now_us + NV_DEVICE_WALK_US;
    }
}

static void seen_saved(void *arg, nv_err status)
{
    (void)status; /* best effort: it is told again at the next disconnection */
    nv_device_table *table = arg;
    table->busy = false;
    table->save_us = nv_mono_us(table->loop->hub->clock) + SAVE_EVERY_US;
    nv_seen_list saved = table->saving;
    table->saving = (nv_seen_list){0};
    for (size_t i = 0; i < saved.count; i++) {
        saved.entries[i]->saves--;
        nv_device_entry_drop_unused(saved.entries[i]);
    }
    free(saved.seen);
    free(saved.entries);
}

void nv_device_table_turn_end(nv_device_table *table)
{
    if (table->connections && !table->closed) {
        nv_connection_events_turn_end(table->connections);
    }
    if (table->busy || table->closed) {
        return;
    }
    nv_hub *hub = table->loop->hub;
    if (!atomic_load_explicit(&hub->_stopping, memory_order_relaxed)) {
        walk_live(table);
    }
    if (table->gone.count == 0) {
        return;
    }
    bool at_once = table->gone.count >= SAVE_AT_ONCE || atomic_load_explicit(&hub->_stopping, memory_order_relaxed);
    if (!at_once && nv_mono_us(hub->clock) < table->save_us) {
        return;
    }
    table->saving = table->gone;
    table->gone = (nv_seen_list){0};
    table->busy = true;
    nv_registry_save_seen(table->loop, table->saving.seen, table->saving.count, seen_saved, table);
}

bool nv_device_table_idle(const nv_device_table *table)
{
    return !table->busy && table->gone.count == 0 &&
           (!table->connections || nv_connection_events_idle(table->connections));
}

void nv_device_table_close(nv_device_table *table)
{
    table->closed = true;
}

/* ---- asking ------------------------------------------------------------------------------------------------- */

nv_presence nv_presence_now(nv_hub *hub, nv_span device_id, nv_span module_id)
{
    nv_device_table *table = nv_hub_shard_loop(hub, device_id)->devices;
    nv_presence presence = {0};
    pthread_mutex_lock(&table->lock);
    const nv_device_entry *e = nv_device_entry_find(table, device_id, module_id);
    if (e) { /* a claim that is live is there until the lock was held once more: nv_device_disconnected */
        presence = (nv_presence){e->live != NULL, e->connection_updated_us,
                                 e->live ? activity_of(hub, e->live) : e->last_activity_us};
    }
    pthread_mutex_unlock(&table->lock);
    return presence;
}

static void presence_on_loop(nv_task *task)
{
    nv_presence_request *request = nv_container_of(task, nv_presence_request, _task);
    request->done(request);
}

static void presence_on_shard(nv_task *task)
{
    nv_presence_request *request = nv_container_of(task, nv_presence_request, _task);
    request->presence = nv_presence_now(request->_loop->hub, request->device_id, request->module_id);
    request->_task.run = presence_on_loop;
    nv_post(request->_loop->exec, &request->_task);
}

void nv_presence_get(nv_hub_loop *loop, nv_presence_request *request)
{
    request->_loop = loop;
    request->_task.run = presence_on_shard;
    nv_post(nv_hub_shard_loop(loop->hub, request->device_id)->exec, &request->_task);
}
