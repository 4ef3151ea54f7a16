/*
 * Claims, from asking to release, in the table of live devices (core/device_table.h). All of it happens on the shard's
 * loop; sessions post.
 *
 *   session's loop                         shard's loop
 *   nv_claim_ask      --- _open ------->   ask: older claims of the identity are evicted
 *   evict()           <-- _evict -------
 *   nv_claim_release  --- _close ------>   release: the newest claim opens: stored session, identity still current?
 *   done()            <-- _close -------
 *   granted()         <-- _open --------
 *
 * Executors keep the order of what one thread posts, and a claim posts each task at most once each way; what the shard
 * sends to a connection (deliver.c) it posts before it lets go, and what the session tells of itself it posts before it
 * releases. So a claim whose done() has run is referred to by nobody.
 */
#include "base/alloc.h"
#include "base/metrics.h"
#include "core/c2d.h"
#include "core/device_table.h"

#include <assert.h>
#include <stdlib.h>

/* What happens between the choice of a holder and its grant. */
struct nv_device_opening {
    nv_state_session load; /* first member */
    nv_registry_find find;
    nv_device_entry *entry;
    nv_identity *identity; /* what load and find name, also after the claim is gone */
    nv_claim *claim;       /* NULL once it was released */
    bool loaded;           /* false: the snapshot says that there is no session to load */
};
typedef struct nv_device_opening opening;

nv_device_table *nv_device_table_new(nv_hub_loop *loop)
{
    nv_device_table *table = nv_calloc(1, sizeof(*table));
    table->loop = loop;
    table->walk_us = nv_mono_us(loop->hub->clock) + NV_DEVICE_WALK_US;
    pthread_mutex_init(&table->lock, NULL);
    nv_map_init(&table->entries, nv_rng_u64(loop->hub->rng));
    return table;
}

void nv_device_table_free(nv_device_table *table)
{
    if (!table) {
        return;
    }
    assert(!table->busy);
    size_t pos = 0;
    for (nv_device_entry *e = nv_map_next(&table->entries, &pos); e; e = nv_map_next(&table->entries, &pos)) {
        assert(nv_list_empty(&e->claims) && nv_list_empty(&e->watchers) && !e->opening);
        nv_connection_line_free(e);
        free(e);
    }
    nv_map_deinit(&table->entries);
    nv_connection_events_free(table->connections);
    nv_seen_list_deinit(&table->gone);
    nv_seen_list_deinit(&table->saving);
    pthread_mutex_destroy(&table->lock);
    free(table);
}

/* ---- entries ----------------------------------------------------------------------------------------------- */

nv_device_entry *nv_device_entry_find(const nv_device_table *table, nv_span device_id, nv_span module_id)
{
    char key[2 * NV_ID_MAX + 2];
    if (device_id.len > NV_ID_MAX || module_id.len > NV_ID_MAX) {
        return NULL;
    }
    size_t len = nv_identity_key(device_id, module_id, key);
    return nv_map_get(&table->entries, nv_span_of(key, len));
}

nv_device_entry *nv_device_entry_make(nv_device_table *table, nv_span device_id, nv_span module_id)
{
    nv_device_entry *found = nv_device_entry_find(table, device_id, module_id);
    if (found) {
        return found;
    }
    char key[2 * NV_ID_MAX + 2];
    size_t len = nv_identity_key(device_id, module_id, key);
    nv_device_entry *e = nv_calloc(1, sizeof(*e) + len);
    e->table = table;
    nv_list_init(&e->claims);
    nv_list_init(&e->watchers);
    nv_list_init(&e->modules);
    e->device_len = (uint16_t)device_id.len;
    e->key_len = (uint16_t)len;
    memcpy(e->key, key, len);
    if (module_id.len > 0) {
        e->device = nv_device_entry_make(table, device_id, NV_SPAN_EMPTY);
        nv_list_push_back(&e->device->modules, &e->modules);
    }
    pthread_mutex_lock(&table->lock);
    nv_map_put(&table->entries, nv_span_of(e->key, len), e);
    pthread_mutex_unlock(&table->lock);
    return e;
}

static bool is_unused(const nv_device_entry *e)
{
    bool has_modules = nv_device_entry_is_device(e) && !nv_list_empty(&e->modules);
    return nv_list_empty(&e->claims) && nv_list_empty(&e->watchers) && !has_modules && !e->opening && !e->receiver &&
           !e->line && e->stores == 0 && e->saves == 0 && e->telling == 0;
}

void nv_device_entry_drop_unused(nv_device_entry *e)
{
    while (e && is_unused(e)) {
        nv_device_entry *device = e->device;
        nv_list_remove(&e->modules);
        pthread_mutex_lock(&e->table->lock);
        nv_map_remove(&e->table->entries, nv_span_of(e->key, e->key_len));
        pthread_mutex_unlock(&e->table->lock);
        free(e);
        e = device;
    }
}

void nv_device_keep_receiver(nv_hub_loop *shard, nv_span device_id, nv_c2d_receiver *receiver)
{
    nv_device_entry *e = nv_device_entry_make(shard->devices, device_id, NV_SPAN_EMPTY);
    assert(!e->receiver);
    e->receiver = receiver;
}

nv_c2d_receiver *nv_device_take_receiver(nv_hub_loop *shard, nv_span device_id)
{
    nv_device_entry *e = nv_device_entry_find(shard->devices, device_id, NV_SPAN_EMPTY);
    nv_c2d_receiver *receiver = e ? e->receiver : NULL;
    if (receiver) {
        e->receiver = NULL;
        nv_device_entry_drop_unused(e);
    }
    return receiver;
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

static void revoke_on_shard(nv_claim *claim, bool deleted)
{
    if (!claim->_evicted) { /* else its loop may look at it already */
        claim->deleted = deleted;
        evict_on_shard(claim, NV_REFUSAL_REVOKED);
    }
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
    claim->status = status;
    if (status == NV_OK) {
        claim->_granted = true;
        nv_device_connected(claim->_entry, claim);
    }
    claim->_open.run = granted_on_loop;
    nv_post(claim->_loop->exec, &claim->_open);
}

/* ---- opening: from the choice of a holder to its grant ------------------------------------------------------ */

static void finish_opening(opening *o, nv_err status, const nv_identity *now)
{
    nv_device_entry *e = o->entry;
    nv_claim *claim = o->claim;
    e->opening = NULL;
    if (claim && !claim->_evicted) {
        if (status == NV_OK && !still_opens(claim, now)) {
            revoke_on_shard(claim, !now);
        } else {
            if (status == NV_OK && !claim->clean && !claim->session_present) {
                nv_device_session_begin(e, claim);
            }
            grant_on_shard(claim, status);
        }
    }
    nv_identity_unref(o->identity);
    free(o);
    nv_device_entry_open_next(e);
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
        nv_device_session_remember(o->identity, NV_IDENTITY_SESSION_NONE);
    }
    claim->session_present = kept && nv_device_session_decode(nv_span_of(o->load.blob, o->load.len), claim);
    check_identity(o);
}

static void load_session(opening *o)
{
    o->loaded = true;
    if (!o->claim || nv_state_session_load(o->entry->table->loop->hub->state, &o->load) != NV_OK) {
        finish_opening(o, NV_E_IO, NULL);
    }
}

void nv_device_entry_open_next(nv_device_entry *e)
{
    if (e->holder || e->opening || e->stores > 0 || nv_list_empty(&e->claims)) {
        nv_device_entry_drop_unused(e);
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
    o->load.generation = nv_device_generation(o->identity);
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
    nv_device_entry *e = nv_device_entry_make(table, identity->device_id, identity->module_id);
    for (nv_list *node = e->claims.next; node != &e->claims; node = node->next) {
        evict_on_shard(nv_container_of(node, nv_claim, _link), NV_REFUSAL_TAKEN_OVER);
    }
    claim->_entry = e;
    nv_list_push_back(&e->claims, &claim->_link);
    nv_device_entry_open_next(e);
}

void nv_claim_ask(nv_hub_loop *loop, nv_claim *claim)
{
    assert(claim->_state == NV_CLAIM_IDLE);
    claim->_state = NV_CLAIM_ASKED;
    claim->_loop = loop;
    claim->_number = atomic_fetch_add_explicit(&loop->hub->_claims, 1, memory_order_relaxed) + 1;
    nv_list_init(&claim->_link);
    nv_claim_touch(claim, nv_mono_us(loop->hub->clock));
    claim->_open.run = ask_on_shard;
    nv_post(nv_hub_shard_loop(loop->hub, claim->identity->device_id)->exec, &claim->_open);
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
            nv_device_disconnected(e, claim);
            nv_device_tell_watchers(e, NV_NEWS_GONE);
        }
    }
    claim->_close.run = done_on_loop;
    nv_post(claim->_loop->exec, &claim->_close);
    nv_device_entry_open_next(e);
}

void nv_claim_release(nv_claim *claim, void (*done)(nv_claim *claim))
{
    assert(claim->_state == NV_CLAIM_ASKED || claim->_state == NV_CLAIM_HELD);
    claim->_state = NV_CLAIM_RELEASED;
    claim->_done = done;
    claim->_close.run = release_on_shard;
    nv_post(nv_hub_shard_loop(claim->_loop->hub, claim->identity->device_id)->exec, &claim->_close);
}

/* ---- changes of the registry -------------------------------------------------------------------------------- */

/* A change on its way to the shard. */
typedef struct change {
    nv_task task;
    nv_hub_loop *shard;
    nv_identity *identity; /* NULL: deleted */
    size_t device_len;
    size_t module_len;
    uint8_t ids[];
} change;

/* @p now: NULL: nobody may connect any more, because it was deleted or its device disabled */
static void revoke_claims(nv_device_entry *e, const nv_identity *now, bool deleted)
{
    for (nv_list *node = e->claims.next; node != &e->claims; node = node->next) {
        nv_claim *claim = nv_container_of(node, nv_claim, _link);
        if (!still_opens(claim, now)) {
            revoke_on_shard(claim, deleted);
        }
    }
}

/* Who waits for a connection of what is deleted waits in vain. The entry may be gone afterwards. */
static void tell_deleted(nv_device_entry *e)
{
    nv_device_tell_watchers(e, NV_NEWS_DELETED);
    nv_device_entry_drop_unused(e);
}

static void change_entry(nv_device_entry *e, const nv_identity *now)
{
    bool modules_too = nv_device_entry_is_device(e) && (!now || !now->enabled);
    revoke_claims(e, now, !now);
    e->telling++; /* it stays until its modules were told */
    for (nv_list *node = e->modules.next, *next = NULL; modules_too && node != &e->modules; node = next) {
        nv_device_entry *module = nv_container_of(node, nv_device_entry, modules);
        next = node->next;
        revoke_claims(module, NULL, !now);
        if (!now) {
            tell_deleted(module);
        }
    }
    e->telling--;
    if (!now) {
        tell_deleted(e);
    }
}

static void change_on_shard(nv_task *task)
{
    change *c = nv_container_of(task, change, task);
    nv_span device_id = nv_span_of(c->ids, c->device_len);
    nv_span module_id = nv_span_of(c->ids + c->device_len, c->module_len);
    nv_device_entry *e = nv_device_entry_find(c->shard->devices, device_id, module_id);
    if (e) {
        change_entry(e, c->identity);
    }
    if (module_id.len == 0 && !c->identity) {
        nv_c2d_device_gone(c->shard, device_id);
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
