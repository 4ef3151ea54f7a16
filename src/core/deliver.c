/*
 * What goes to a connection, and who waits for one. The session says what it wants into an atomic of its claim, which
 * the shard reads whenever something is to go out; a task follows for those who wait for that.
 *
 *   session's loop                         shard's loop
 *   nv_claim_want     --- _open ------->   watchers are told
 *   deliver()         <-- delivery -----   nv_devices_deliver
 */
#include "base/alloc.h"
#include "core/device_table.h"
#include "core/events.h"

#include <assert.h>
#include <stdlib.h>

/* ---- what a connection wants --------------------------------------------------------------------------------- */

#define OPERATED (UINT32_C(1) << 31)

static uint32_t wants_of(const nv_claim *claim)
{
    return atomic_load_explicit(&claim->_wants, memory_order_acquire);
}

static void want_on_shard(nv_task *task)
{
    nv_claim *claim = nv_container_of(task, nv_claim, _open);
    atomic_store_explicit(&claim->_want_posted, false, memory_order_release);
    nv_device_entry *e = claim->_entry;
    if (e->live != claim) {
        return;
    }
    if (wants_of(claim) & OPERATED) {
        nv_connection_operated(e, claim->identity);
    }
    if (!nv_list_empty(&e->watchers)) {
        nv_device_tell_watchers(e, NV_NEWS_WANTS);
    }
}

static void tell_shard(nv_claim *claim)
{
    if (!atomic_exchange_explicit(&claim->_want_posted, true, memory_order_acq_rel)) {
        claim->_open.run = want_on_shard; /* one on its way reads what is so when it gets there */
        nv_post(nv_hub_shard_loop(claim->_loop->hub, claim->identity->device_id)->exec, &claim->_open);
    }
}

void nv_claim_want(nv_claim *claim, uint32_t wants)
{
    assert(claim->_state == NV_CLAIM_HELD);
    uint32_t now = wants | (claim->_operated ? OPERATED : 0);
    uint32_t before = atomic_exchange_explicit(&claim->_wants, now, memory_order_acq_rel);
    if (now & ~before) { /* nobody waits for less */
        tell_shard(claim);
    }
}

void nv_claim_operated(nv_claim *claim)
{
    if (claim->_operated) {
        return;
    }
    claim->_operated = true;
    if (claim->_state == NV_CLAIM_HELD && nv_events_wanted(claim->_loop->hub, NV_SOURCE_CONNECTION_STATE)) {
        atomic_fetch_or_explicit(&claim->_wants, OPERATED, memory_order_acq_rel);
        tell_shard(claim);
    }
}

bool nv_devices_wants(nv_hub_loop *shard, nv_span device_id, nv_span module_id, uint32_t wants)
{
    const nv_claim *claim = nv_device_entry_talker(nv_device_entry_find(shard->devices, device_id, module_id));
    return claim && (wants_of(claim) & wants) == wants;
}

uint64_t nv_devices_connection(nv_hub_loop *shard, nv_span device_id, nv_span module_id)
{
    const nv_device_entry *e = nv_device_entry_find(shard->devices, device_id, module_id);
    return e && e->live ? e->live->_number : 0;
}

/* ---- delivering ---------------------------------------------------------------------------------------------- */

nv_delivery *nv_delivery_new(nv_delivery_kind kind, nv_span name, nv_span body)
{
    nv_delivery *delivery = nv_malloc(sizeof(*delivery) + name.len + body.len);
    *delivery = (nv_delivery){.kind = kind,
                              .name = nv_span_of(delivery->_bytes, name.len),
                              .body = nv_span_of(delivery->_bytes + name.len, body.len)};
    if (name.len > 0) {
        memcpy(delivery->_bytes, name.ptr, name.len);
    }
    if (body.len > 0) {
        memcpy(delivery->_bytes + name.len, body.ptr, body.len);
    }
    return delivery;
}

static void deliver_on_loop(nv_task *task)
{
    nv_delivery *delivery = nv_container_of(task, nv_delivery, _task);
    nv_claim *claim = delivery->_claim;
    if (claim->_state == NV_CLAIM_HELD) {
        if (delivery->kind == NV_DELIVER_DESIRED) {
            claim->twin_told.desired = delivery->version;
        }
        claim->deliver(claim, delivery);
    }
    free(delivery);
}

bool nv_devices_deliver(nv_hub_loop *shard, nv_span device_id, nv_span module_id, nv_delivery *delivery)
{
    static const uint32_t wanted[] = {[NV_DELIVER_DESIRED] = NV_WANTS_DESIRED, [NV_DELIVER_METHOD] = NV_WANTS_METHODS};
    nv_claim *claim = nv_device_entry_talker(nv_device_entry_find(shard->devices, device_id, module_id));
    if (!claim || !claim->deliver || !(wants_of(claim) & wanted[delivery->kind])) {
        free(delivery);
        return false;
    }
    /* Posted by the shard, as the end of the claim will be: it runs before the claim's memory goes. */
    delivery->_claim = claim;
    delivery->_task.run = deliver_on_loop;
    nv_post(claim->_loop->exec, &delivery->_task);
    return true;
}

/* ---- waiting for a connection -------------------------------------------------------------------------------- */

void nv_devices_watch(nv_hub_loop *shard, nv_span device_id, nv_span module_id, nv_device_watcher *watcher)
{
    nv_device_entry *e = nv_device_entry_make(shard->devices, device_id, module_id);
    watcher->_entry = e;
    nv_list_push_back(&e->watchers, &watcher->_link);
}

void nv_devices_unwatch(nv_device_watcher *watcher)
{
    nv_device_entry *e = watcher->_entry;
    if (e) {
        watcher->_entry = NULL;
        nv_list_remove(&watcher->_link);
        nv_device_entry_drop_unused(e);
    }
}

/* Whether the news ends the waiting. */
static bool concerns(const nv_device_watcher *watcher, const nv_claim *claim, nv_device_news news)
{
    bool there = claim && watcher->wants && (wants_of(claim) & watcher->wants) == watcher->wants;
    return there || news == NV_NEWS_GONE || (news == NV_NEWS_DELETED && watcher->wants);
}

void nv_device_tell_watchers(nv_device_entry *e, nv_device_news news)
{
    nv_list before; /* who watches again while being told waits for the next time */
    nv_list_init(&before);
    nv_list_splice(&before, &e->watchers);
    e->telling++;
    for (nv_list *node = nv_list_pop_front(&before); node; node = nv_list_pop_front(&before)) {
        nv_device_watcher *watcher = nv_container_of(node, nv_device_watcher, _link);
        const nv_claim *claim = nv_device_entry_talker(e);
        if (concerns(watcher, claim, news)) {
            watcher->_entry = NULL;
            watcher->changed(watcher);
        } else {
            nv_list_push_back(&e->watchers, node);
        }
    }
    e->telling--;
}
