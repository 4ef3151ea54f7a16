/*
 * Stored MQTT sessions as bytes: version 1, count, then kind and QoS of each subscription. A store in flight holds the
 * identity, so that the next connection finds what the last one subscribed.
 */
#include "base/alloc.h"
#include "core/device_table.h"

#include <assert.h>
#include <stdlib.h>

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

bool nv_device_session_decode(nv_span blob, nv_claim *claim)
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

uint64_t nv_device_generation(const nv_identity *identity)
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

void nv_device_session_remember(nv_identity *identity, nv_identity_session known)
{
    atomic_store_explicit(&identity->_session, known, memory_order_relaxed);
}

static store_op *make_store(nv_hub_loop *loop, nv_identity *identity, const nv_subscription *subscriptions,
                            size_t count, void (*done)(nv_state_op *op))
{
    store_op *store = nv_calloc(1, sizeof(*store));
    nv_device_session_remember(identity, NV_IDENTITY_SESSION_STORED);
    store->identity = nv_identity_ref(identity);
    store->session.op.exec = loop->exec;
    store->session.op.done = done;
    store->session.device_id = identity->device_id;
    store->session.module_id = identity->module_id;
    store->session.generation = nv_device_generation(identity);
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

static void session_begun(nv_state_op *op)
{
    store_op *store = (store_op *)(void *)op;
    nv_device_entry *e = store->arg; /* a failure only means SessionPresent=0 next time */
    nv_identity_unref(store->identity);
    free(store);
    e->stores--;
    nv_device_entry_open_next(e);
}

void nv_device_session_begin(nv_device_entry *e, const nv_claim *claim)
{
    nv_hub_loop *loop = e->table->loop;
    store_op *store = make_store(loop, claim->identity, NULL, 0, session_begun);
    store->arg = e;
    e->stores++;
    if (nv_state_session_store(loop->hub->state, &store->session) != NV_OK) {
        nv_identity_unref(store->identity);
        free(store);
        e->stores--;
    }
}
