/*
 * The table of live devices, one part per loop. All of it is touched on the shard's loop only; sessions post.
 *
 *   session's loop                         shard's loop
 *   nv_claim_ask      --- _open ------->   ask: older claims of the identity are evicted
 *   evict()           <-- _evict -------
 *   nv_claim_release  --- _close ------>   release: the newest claim opens: stored session, identity still current?
 *   done()            <-- _close -------
 *   granted()         <-- _open --------
 *
 * Executors keep the order of what one thread posts, and a claim posts each task at most once each way; so a claim
 * whose done() has run is referred to by nobody.
 */
#include "core/devices.h"

#include "base/alloc.h"
#include "base/map.h"
#include "base/metrics.h"
#include "core/registry.h"
#include "store/state.h"

#include <assert.h>
#include <stdlib.h>

struct opening;

/* A device or module with claims, or with something of it in flight. */
typedef struct nv_device_entry {
    nv_device_table *table;
    nv_list claims;          /* oldest first; at most the last is not evicted */
    nv_claim *holder;        /* granted, or about to be */
    struct opening *opening; /* in flight on behalf of the holder */
    uint32_t stores;         /* of its session in flight: the next load must see them */
    uint32_t saves;          /* of its times in flight: until then the entry answers for presence */
    int64_t connection_updated_us;
    int64_t last_activity_us;
    struct nv_device_entry *device; /* of a module */
    nv_list modules;                /* of a device: their siblings */
    nv_list sibling;
    uint16_t device_len;
    uint16_t key_len;
    char key[]; /* nv_identity_key */
} nv_device_entry;

typedef struct seen_list {
    nv_registry_seen *seen;
    nv_device_entry **entries;
    size_t count;
    size_t capacity;
} seen_list;

struct nv_device_table {
    nv_hub_loop *loop;
    nv_map entries;
    seen_list gone;   /* disconnected, to be saved */
    seen_list saving; /* in flight */
    int64_t save_us;  /* not before, monotonic: many disconnections share one transaction */
    bool busy;
    sem_t *settled; /* posted once when nothing is left to save; then nothing is saved any more */
    bool closed;
};

#define SAVE_EVERY_US NV_US_PER_S
#define SAVE_AT_ONCE  4096u /* so many disconnections do not wait for each other */

/* What happens between the choice of a holder and its grant. */
typedef struct opening {
    nv_state_session load; /* first member */
    nv_registry_find find;
    nv_device_entry *entry;
    nv_identity *identity; /* what load and find name, also after the claim is gone */
    nv_claim *claim;       /* NULL once it was released */
    bool loaded;           /* false: the snapshot says that there is no session to load */
} opening;

nv_device_table *nv_device_table_new(nv_hub_loop *loop)
{
    nv_device_table *table = nv_calloc(1, sizeof(*table));
    table->loop = loop;
    nv_map_init(&table->entries, nv_rng_u64(loop->hub->rng));
    return table;
}

static void seen_list_deinit(seen_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        nv_identity_unref(list->seen[i].identity);
    }
    free(list->seen);
    free(list->entries);
}

void nv_device_table_free(nv_device_table *table)
{
    if (!table) {
        return;
    }
    assert(!table->busy);
    size_t pos = 0;
    for (nv_device_entry *e = nv_map_next(&table->entries, &pos); e; e = nv_map_next(&table->entries, &pos)) {
        assert(nv_list_empty(&e->claims) && !e->opening);
        free(e);
    }
    nv_map_deinit(&table->entries);
    seen_list_deinit(&table->gone);
    seen_list_deinit(&table->saving);
    free(table);
}

/* ---- entries ----------------------------------------------------------------------------------------------- */

static nv_device_entry *find_entry(nv_device_table *table, nv_span device_id, nv_span module_id)
{
    char key[2 * NV_ID_MAX + 2];
    size_t len = nv_identity_key(device_id, module_id, key);
    return nv_map_get(&table->entries, nv_span_of(key, len));
}

static nv_device_entry *make_entry(nv_device_table *table, nv_span device_id, nv_span module_id)
{
    nv_device_entry *found = find_entry(table, device_id, module_id);
    if (found) {
        return found;
    }
    char key[2 * NV_ID_MAX + 2];
    size_t len = nv_identity_key(device_id, module_id, key);
    nv_device_entry *e = nv_calloc(1, sizeof(*e) + len);
    e->table = table;
    nv_list_init(&e->claims);
    nv_list_init(&e->modules);
    nv_list_init(&e->sibling);
    e->device_len = (uint16_t)device_id.len;
    e->key_len = (uint16_t)len;
    memcpy(e->key, key, len);
    if (module_id.len > 0) {
        e->device = make_entry(table, device_id, NV_SPAN_EMPTY);
        nv_list_push_back(&e->device->modules, &e->sibling);
    }
    nv_map_put(&table->entries, nv_span_of(e->key, len), e);
    return e;
}

static bool is_device(const nv_device_entry *e)
{
    return e->device == NULL;
}

static void drop_unused(nv_device_entry *e)
{
    while (e && nv_list_empty(&e->claims) && nv_list_empty(&e->modules) && !e->opening && e->stores == 0 &&
           e->saves == 0) {
        nv_device_entry *device = e->device;
        nv_list_remove(&e->sibling);
        nv_map_remove(&e->table->entries, nv_span_of(e->key, e->key_len));
        free(e);
        e = device;
    }
}

/* ---- stored sessions as bytes: version 1, count, then kind and QoS of each subscription -------------------- */

#define BLOB_VERSION 1u

static size_t blob_encode(const nv_subscription *subscriptions, size_t count, uint8_t blob[NV_STATE_SESSION_MAX])
{
    nv_writer w = nv_writer_of(blob, NV_STATE_SESSION_MAX);
    nv_write_u8(&w, BLOB_VERSION);
    nv_write_u8(&w, (uint8_t)count);
    for (size_t i = 0; i < count; i++) {
        nv_write_u8(&w, subscriptions[i].kind);
        nv_write_u8(&w, subscriptions[i].qos);
    }
    assert(w.err == NV_OK);
    return nv_writer_len(&w);
}

/* What cannot be read (a later version, damage) is no session: the client subscribes anew. */
static bool blob_decode(nv_span blob, nv_claim *claim)
{
    nv_reader r = nv_reader_of(blob);
    uint8_t version = nv_read_u8(&r);
    uint8_t count = nv_read_u8(&r);
    if (version != BLOB_VERSION || count > NV_SUBSCRIPTIONS_MAX) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        claim->subscriptions[i].kind = nv_read_u8(&r);
        claim->subscriptions[i].qos = nv_read_u8(&r);
    }
    if (r.err != NV_OK) {
        return false;
    }
    claim->subscription_count = count;
    return true;
}

static uint64_t generation_of(const nv_identity *identity)
{
    uint64_t generation = 0;
    return nv_span_to_u64(identity->generation_id, &generation) ? generation : 0;
}

/* A store of subscriptions; for a session, or (done NULL) to remember that a session without any exists. */
typedef struct store_op {
    nv_state_session session; /* first member */
    nv_identity *identity;
    void (*done)(void *arg, nv_err status);
    void *arg;
    nv_task failed; /* when the store took nothing */
} store_op;

/* Snapshots remember whether a session is stored, so that a device which keeps none costs the store nothing. */
static void remember_whether_stored(nv_identity *identity, nv_identity_session known)
{
    atomic_store_explicit(&identity->_session, known, memory_order_relaxed);
}

static store_op *make_store(nv_hub_loop *loop, nv_identity *identity, const nv_subscription *subscriptions,
                            size_t count, void (*done)(nv_state_op *op))
{
    store_op *store = nv_calloc(1, sizeof(*store));
    remember_whether_stored(identity, NV_IDENTITY_SESSION_STORED);
    store->identity = nv_identity_ref(identity);
    store->session.op.exec = loop->exec;
    store->session.op.done = done;
    store->session.device_id = identity->device_id;
    store->session.module_id = identity->module_id;
    store->session.generation = generation_of(identity);
    store->session.len = blob_encode(subscriptions, count, store->session.blob);
    return store;
}

static void finish_store(store_op *store, nv_err status)
{
    store->done(store->arg, status);
    nv_identity_unref(store->identity);
    free(store);
}

static void stored(nv_state_op *op)
{
    finish_store((store_op *)(void *)op, op->status);
}

static void store_refused(nv_task *task)
{
    finish_store(nv_container_of(task, store_op, failed), NV_E_AGAIN);
}

void nv_session_store(nv_hub_loop *loop, nv_identity *identity, const nv_subscription *subscriptions, size_t count,
                      void (*done)(void *arg, nv_err status), void *arg)
{
    assert(count <= NV_SUBSCRIPTIONS_MAX);
    store_op *store = make_store(loop, identity, subscriptions, count, stored);
    store->done = done;
    store->arg = arg;
    if (nv_state_session_store(loop->hub->state, &store->session) != NV_OK) {
        store->failed.run = store_refused;
        nv_post(loop->exec, &store->failed);
    }
}

/* ---- evicting and granting --------------------------------------------------------------------------------- */

static void evict_on_loop(nv_task *task)
{
    nv_claim *claim = nv_container_of(task, nv_claim, _evict);
    if (claim->_state != NV_CLAIM_RELEASED) {
        claim->evict(claim, claim->_why);
    }
}

static void evict_on_shard(nv_claim *claim, nv_refusal why)
{
    if (claim->_evicted) {
        return;
    }
    if (why == NV_REFUSAL_TAKEN_OVER && claim->_granted) {
        nv_metric_add(NV_M_MQTT_TAKEOVERS, 1);
    }
    claim->_evicted = true;
    claim->_why = why;
    claim->_evict.run = evict_on_loop;
    nv_post(claim->_loop->exec, &claim->_evict);
}

static bool key_among(const nv_key *key, const nv_identity *now)
{
    nv_span bytes = nv_span_of(key->bytes, key->len);
    return nv_span_eq_secret(bytes, nv_span_of(now->primary_key.bytes, now->primary_key.len)) ||
           nv_span_eq_secret(bytes, nv_span_of(now->secondary_key.bytes, now->secondary_key.len));
}

static bool thumbprint_among(nv_span thumbprint, const nv_identity *now)
{
    return nv_span_eq_nocase(thumbprint, now->primary_thumbprint) ||
           nv_span_eq_nocase(thumbprint, now->secondary_thumbprint);
}

/* Would what the session once proved still be accepted? Exchanging primary and secondary keeps it. */
static bool still_opens(const nv_claim *claim, const nv_identity *now)
{
    const nv_identity *then = claim->identity;
    if (then == now) {
        return true;
    }
    if (!now || !now->enabled || now->auth != then->auth || !nv_span_eq(now->generation_id, then->generation_id)) {
        return false;
    }
    if (claim->credential == NV_CREDENTIAL_POLICY) {
        return true;
    }
    bool primary = claim->credential == NV_CREDENTIAL_PRIMARY;
    switch (then->auth) {
    case NV_AUTH_SAS:
        return key_among(primary ? &then->primary_key : &then->secondary_key, now);
    case NV_AUTH_SELF_SIGNED:
        return thumbprint_among(primary ? then->primary_thumbprint : then->secondary_thumbprint, now);
    case NV_AUTH_CA:
    case NV_AUTH_NONE:
        return true;
    }
    return false;
}

static void granted_on_loop(nv_task *task)
{
    nv_claim *claim = nv_container_of(task, nv_claim, _open);
    if (claim->_state == NV_CLAIM_ASKED) {
        claim->_state = NV_CLAIM_HELD;
        claim->granted(claim);
    }
}

static void grant_on_shard(nv_claim *claim, nv_err status)
{
    nv_device_entry *e = claim->_entry;
    nv_hub *hub = e->table->loop->hub;
    claim->status = status;
    if (status == NV_OK) {
        claim->_granted = true;
        e->connection_updated_us = nv_wall_us(hub->clock);
        if (is_device(e)) {
            atomic_fetch_add_explicit(&hub->_devices_connected, 1, memory_order_relaxed);
        }
    }
    claim->_open.run = granted_on_loop;
    nv_post(claim->_loop->exec, &claim->_open);
}

/* ---- opening: from the choice of a holder to its grant ------------------------------------------------------ */

static void try_open(nv_device_entry *e);

static void session_remembered(nv_state_op *op)
{
    store_op *store = (store_op *)(void *)op;
    nv_device_entry *e = store->arg; /* a failure only means SessionPresent=0 next time */
    nv_identity_unref(store->identity);
    free(store);
    e->stores--;
    try_open(e);
}

/* From its first connection with clean=0 a session exists, with or without subscriptions [MQTT-3.2.2-2]. */
static void remember_session(nv_device_entry *e, const nv_claim *claim)
{
    nv_hub_loop *loop = e->table->loop;
    store_op *store = make_store(loop, claim->identity, NULL, 0, session_remembered);
    store->arg = e;
    e->stores++;
    if (nv_state_session_store(loop->hub->state, &store->session) != NV_OK) {
        nv_identity_unref(store->identity);
        free(store);
        e->stores--;
    }
}

static void finish_opening(opening *o, nv_err status, const nv_identity *now)
{
    nv_device_entry *e = o->entry;
    nv_claim *claim = o->claim;
    e->opening = NULL;
    if (claim && !claim->_evicted) {
        if (status == NV_OK && !still_opens(claim, now)) {
            evict_on_shard(claim, NV_REFUSAL_REVOKED);
        } else {
            if (status == NV_OK && !claim->clean && !claim->session_present) {
                remember_session(e, claim);
            }
            grant_on_shard(claim, status);
        }
    }
    nv_identity_unref(o->identity);
    free(o);
    try_open(e);
}

static void load_session(opening *o);

static void identity_found(nv_registry_find *find)
{
    opening *o = find->arg;
    nv_identity *now = find->status == NV_OK ? find->identity : NULL;
    if (!o->loaded && now && now != o->identity) {
        nv_identity_unref(now);
        load_session(o); /* what an older snapshot remembers may have changed since */
        return;
    }
    bool answered = find->status == NV_OK || find->status == NV_E_NOT_FOUND;
    finish_opening(o, answered ? NV_OK : NV_E_IO, now);
    nv_identity_unref(now);
}

/* The identity may have changed after the session was authenticated and before this table knew of it. */
static void check_identity(opening *o)
{
    o->find = (nv_registry_find){
        .device_id = o->identity->device_id, .module_id = o->identity->module_id, .done = identity_found, .arg = o};
    nv_err err = nv_registry_lookup(o->entry->table->loop, &o->find);
    if (err == NV_OK) {
        o->find.status = NV_OK;
        identity_found(&o->find);
    } else if (err != NV_E_MORE) {
        finish_opening(o, NV_E_IO, NULL);
    }
}

static void session_loaded(nv_state_op *op)
{
    opening *o = (opening *)(void *)op;
    nv_claim *claim = o->claim;
    if (op->status != NV_OK || !claim) {
        finish_opening(o, NV_E_IO, NULL);
        return;
    }
    bool kept = !claim->clean && o->load.present;
    if (!kept) {
        remember_whether_stored(o->identity, NV_IDENTITY_SESSION_NONE);
    }
    claim->session_present = kept && blob_decode(nv_span_of(o->load.blob, o->load.len), claim);
    check_identity(o);
}

static void load_session(opening *o)
{
    o->loaded = true;
    if (!o->claim || nv_state_session_load(o->entry->table->loop->hub->state, &o->load) != NV_OK) {
        finish_opening(o, NV_E_IO, NULL);
    }
}

/* With nobody holding the identity and nothing of it in flight, the newest claim comes next. */
static void try_open(nv_device_entry *e)
{
    if (e->holder || e->opening || e->stores > 0 || nv_list_empty(&e->claims)) {
        drop_unused(e);
        return;
    }
    nv_claim *newest = nv_container_of(e->claims.prev, nv_claim, _link);
    if (newest->_evicted) {
        return;
    }
    nv_hub_loop *loop = e->table->loop;
    opening *o = nv_calloc(1, sizeof(*o));
    o->entry = e;
    o->claim = newest;
    o->identity = nv_identity_ref(newest->identity);
    o->load.op.exec = loop->exec;
    o->load.op.done = session_loaded;
    o->load.device_id = o->identity->device_id;
    o->load.module_id = o->identity->module_id;
    o->load.generation = generation_of(o->identity);
    o->load.clear = newest->clean;
    e->opening = o;
    e->holder = newest;
    if (atomic_load_explicit(&o->identity->_session, memory_order_relaxed) == NV_IDENTITY_SESSION_NONE) {
        newest->session_present = false;
        check_identity(o);
    } else {
        load_session(o);
    }
}

/* ---- asking and releasing ----------------------------------------------------------------------------------- */

static void ask_on_shard(nv_task *task)
{
    nv_claim *claim = nv_container_of(task, nv_claim, _open);
    nv_hub *hub = claim->_loop->hub;
    const nv_identity *identity = claim->identity;
    nv_device_table *table = nv_hub_shard_loop(hub, identity->device_id)->devices;
    nv_device_entry *e = make_entry(table, identity->device_id, identity->module_id);
    for (nv_list *node = e->claims.next; node != &e->claims; node = node->next) {
        evict_on_shard(nv_container_of(node, nv_claim, _link), NV_REFUSAL_TAKEN_OVER);
    }
    claim->_entry = e;
    nv_list_push_back(&e->claims, &claim->_link);
    try_open(e);
}

void nv_claim_ask(nv_hub_loop *loop, nv_claim *claim)
{
    assert(claim->_state == NV_CLAIM_IDLE);
    claim->_state = NV_CLAIM_ASKED;
    claim->_loop = loop;
    nv_list_init(&claim->_link);
    nv_claim_touch(claim, nv_mono_us(loop->hub->clock));
    claim->_open.run = ask_on_shard;
    nv_post(nv_hub_shard_loop(loop->hub, claim->identity->device_id)->exec, &claim->_open);
}

static int64_t activity_of(const nv_hub *hub, nv_claim *claim)
{
    int64_t ago = nv_mono_us(hub->clock) - atomic_load_explicit(&claim->_touched_us, memory_order_relaxed);
    return nv_wall_us(hub->clock) - (ago > 0 ? ago : 0);
}

static void add_seen(seen_list *list, nv_device_entry *e, nv_identity *identity)
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

static void disconnected_on_shard(nv_device_entry *e, nv_claim *claim)
{
    nv_hub *hub = e->table->loop->hub;
    e->connection_updated_us = nv_wall_us(hub->clock);
    e->last_activity_us = activity_of(hub, claim);
    if (is_device(e)) {
        atomic_fetch_sub_explicit(&hub->_devices_connected, 1, memory_order_relaxed);
    }
    add_seen(&e->table->gone, e, claim->identity);
}

static void done_on_loop(nv_task *task)
{
    nv_claim *claim = nv_container_of(task, nv_claim, _close);
    claim->_done(claim);
}

static void release_on_shard(nv_task *task)
{
    nv_claim *claim = nv_container_of(task, nv_claim, _close);
    nv_device_entry *e = claim->_entry;
    nv_list_remove(&claim->_link);
    if (e->holder == claim) {
        e->holder = NULL;
        if (e->opening) {
            e->opening->claim = NULL;
        }
        if (claim->_granted) {
            disconnected_on_shard(e, claim);
        }
    }
    claim->_close.run = done_on_loop;
    nv_post(claim->_loop->exec, &claim->_close);
    try_open(e);
}

void nv_claim_release(nv_claim *claim, void (*done)(nv_claim *claim))
{
    assert(claim->_state == NV_CLAIM_ASKED || claim->_state == NV_CLAIM_HELD);
    claim->_state = NV_CLAIM_RELEASED;
    claim->_done = done;
    claim->_close.run = release_on_shard;
    nv_post(nv_hub_shard_loop(claim->_loop->hub, claim->identity->device_id)->exec, &claim->_close);
}

/* ---- times seen --------------------------------------------------------------------------------------------- */

static void seen_saved(void *arg, nv_err status)
{
    (void)status; /* best effort: it is told again at the next disconnection */
    nv_device_table *table = arg;
    table->busy = false;
    table->save_us = nv_mono_us(table->loop->hub->clock) + SAVE_EVERY_US;
    seen_list saved = table->saving;
    table->saving = (seen_list){0};
    for (size_t i = 0; i < saved.count; i++) {
        saved.entries[i]->saves--;
        drop_unused(saved.entries[i]);
    }
    free(saved.seen);
    free(saved.entries);
}

void nv_device_table_turn_end(nv_device_table *table)
{
    if (table->settled && !table->busy && table->gone.count == 0) {
        table->closed = true;
        sem_post(table->settled);
        table->settled = NULL;
    }
    if (table->gone.count == 0 || table->busy || table->closed) {
        return;
    }
    nv_hub *hub = table->loop->hub;
    bool at_once = table->gone.count >= SAVE_AT_ONCE || atomic_load_explicit(&hub->_stopping, memory_order_relaxed);
    if (!at_once && nv_mono_us(hub->clock) < table->save_us) {
        return;
    }
    table->saving = table->gone;
    table->gone = (seen_list){0};
    table->busy = true;
    nv_registry_save_seen(table->loop, table->saving.seen, table->saving.count, seen_saved, table);
}

void nv_device_table_settle(nv_device_table *table, sem_t *settled)
{
    table->settled = settled; /* looked at by the end of this turn */
}

/* ---- presence and changes ----------------------------------------------------------------------------------- */

static void presence_on_loop(nv_task *task)
{
    nv_presence_request *request = nv_container_of(task, nv_presence_request, _task);
    request->done(request);
}

static void presence_on_shard(nv_task *task)
{
    nv_presence_request *request = nv_container_of(task, nv_presence_request, _task);
    nv_hub *hub = request->_loop->hub;
    nv_device_table *table = nv_hub_shard_loop(hub, request->device_id)->devices;
    const nv_device_entry *e = find_entry(table, request->device_id, request->module_id);
    request->presence = (nv_presence){0};
    if (e) {
        bool connected = e->holder && e->holder->_granted;
        request->presence = (nv_presence){connected, e->connection_updated_us,
                                          connected ? activity_of(hub, e->holder) : e->last_activity_us};
    }
    request->_task.run = presence_on_loop;
    nv_post(request->_loop->exec, &request->_task);
}

void nv_presence_get(nv_hub_loop *loop, nv_presence_request *request)
{
    request->_loop = loop;
    request->_task.run = presence_on_shard;
    nv_post(nv_hub_shard_loop(loop->hub, request->device_id)->exec, &request->_task);
}

int64_t nv_devices_connected(const nv_hub *hub)
{
    return atomic_load_explicit(&hub->_devices_connected, memory_order_relaxed);
}

/* A change on its way to the shard. */
typedef struct change {
    nv_task task;
    nv_hub_loop *shard;
    nv_identity *identity; /* NULL: deleted */
    size_t device_len;
    size_t module_len;
    uint8_t ids[];
} change;

static void revoke_on_shard(nv_device_entry *e, const nv_identity *now)
{
    for (nv_list *node = e->claims.next; node != &e->claims; node = node->next) {
        nv_claim *claim = nv_container_of(node, nv_claim, _link);
        if (!still_opens(claim, now)) {
            evict_on_shard(claim, NV_REFUSAL_REVOKED);
        }
    }
}

static void change_on_shard(nv_task *task)
{
    change *c = nv_container_of(task, change, task);
    nv_span device_id = nv_span_of(c->ids, c->device_len);
    nv_span module_id = nv_span_of(c->ids + c->device_len, c->module_len);
    nv_device_entry *e = find_entry(c->shard->devices, device_id, module_id);
    if (e) {
        revoke_on_shard(e, c->identity);
        bool modules_too = is_device(e) && (!c->identity || !c->identity->enabled);
        for (nv_list *node = e->modules.next; modules_too && node != &e->modules; node = node->next) {
            revoke_on_shard(nv_container_of(node, nv_device_entry, sibling), NULL);
        }
    }
    nv_identity_unref(c->identity);
    free(c);
}

void nv_devices_changed(nv_hub *hub, nv_span device_id, nv_span module_id, nv_identity *identity)
{
    change *c = nv_calloc(1, sizeof(*c) + device_id.len + module_id.len);
    c->shard = nv_hub_shard_loop(hub, device_id);
    c->identity = identity ? nv_identity_ref(identity) : NULL;
    c->device_len = device_id.len;
    c->module_len = module_id.len;
    memcpy(c->ids, device_id.ptr, device_id.len);
    if (module_id.len > 0) {
        memcpy(c->ids + device_id.len, module_id.ptr, module_id.len);
    }
    c->task.run = change_on_shard;
    nv_post(c->shard->exec, &c->task);
}
