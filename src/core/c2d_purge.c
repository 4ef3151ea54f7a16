/*
 * Purging: what is in the queue when it is asked goes in one transaction, except what is locked or on its way.
 */
#include "base/alloc.h"
#include "core/c2d_queue.h"

#include <stdlib.h>

typedef struct purge_op {
    nv_state_op op;
    nv_c2d_waiter waiter;
    nv_c2d_purge *purge;
    nv_c2d_queue *queue;
    uint64_t generation;
    uint64_t below;   /* sequences that were there when it was asked */
    uint64_t newest;  /* of the queue then */
    uint64_t *spared; /* locked or on their way, ascending */
    size_t spared_count;
    uint64_t purged;
    bool told;
} purge_op;

static void purge_on_loop(nv_task *task)
{
    nv_c2d_purge *purge = nv_container_of(task, nv_c2d_purge, _task);
    purge->done(purge);
}

static void post_purge(nv_c2d_purge *purge, nv_hub_error error)
{
    purge->error = error;
    purge->_task.run = purge_on_loop;
    nv_post(purge->_loop->exec, &purge->_task);
}

static bool is_spared(const purge_op *self, uint64_t sequence)
{
    for (size_t i = 0; i < self->spared_count; i++) {
        if (self->spared[i] == sequence) {
            return true;
        }
    }
    return false;
}

typedef struct purge_page {
    purge_op *op;
    uint64_t sequences[64];
    size_t count;
    uint64_t last;
    bool any;
} purge_page;

static nv_err collect(void *arg, const nv_c2d_row *row)
{
    purge_page *page = arg;
    if (row->sequence >= page->op->below) {
        return NV_E_EOF;
    }
    page->last = row->sequence;
    page->any = true;
    if (!is_spared(page->op, row->sequence)) {
        page->sequences[page->count++] = row->sequence;
    }
    return NV_OK;
}

static nv_err run_purge(nv_state_op *op, nv_txn *txn)
{
    purge_op *self = nv_container_of(op, purge_op, op);
    nv_hub *hub = self->queue->c2d->loop->hub;
    nv_span id = nv_c2d_queue_id(self->queue);
    purge_page page = {.op = self, .any = true};
    self->purged = 0;
    self->told = false;
    nv_err err = NV_OK;
    while (err == NV_OK && page.any) {
        page.any = false;
        page.count = 0;
        err = nv_txn_c2d_load(txn, id, page.last, NV_COUNT_OF(page.sequences), collect, &page);
        err = err == NV_E_EOF ? NV_OK : err;
        for (size_t i = 0; err == NV_OK && i < page.count; i++) {
            bool newest = page.sequences[i] >= self->newest;
            err = nv_c2d_end_in_txn(txn, hub, id, self->generation, page.sequences[i], NV_FEEDBACK_PURGED, newest,
                                    &self->told);
            self->purged++;
        }
    }
    return err;
}

/* Of the window goes what the transaction took. */
static void drop_purged(const purge_op *self)
{
    nv_c2d_queue *queue = self->queue;
    for (nv_list *link = queue->entries.next; link != &queue->entries;) {
        nv_c2d_entry *entry = nv_container_of(link, nv_c2d_entry, link);
        link = link->next;
        uint64_t sequence = entry->message->sequence;
        if (entry->state == NV_C2D_QUEUED && sequence < self->below && !is_spared(self, sequence)) {
            nv_c2d_entry_free(entry);
        }
    }
}

static void purge_done(nv_state_op *op)
{
    purge_op *self = nv_container_of(op, purge_op, op);
    nv_c2d_queue *queue = self->queue;
    nv_c2d_written(queue);
    nv_c2d_queue_release(queue);
    if (op->status == NV_OK && !queue->gone) {
        drop_purged(self);
        queue->depth -= self->purged;
        self->purge->purged = self->purged;
    }
    if (op->status == NV_OK && self->told) {
        nv_feedback_added(queue->c2d->loop->hub);
    }
    post_purge(self->purge, queue->gone ? NV_HUB_ERROR_DeviceNotFound : nv_c2d_error_of(op->status));
    free(self->spared);
    free(self);
    nv_c2d_queue_settle(queue);
}

static void spare_what_is_out(purge_op *self)
{
    nv_c2d_queue *queue = self->queue;
    size_t count = 0;
    for (nv_list *link = queue->entries.next; link != &queue->entries; link = link->next) {
        count++;
    }
    self->spared = nv_calloc(count ? count : 1, sizeof(*self->spared));
    for (nv_list *link = queue->entries.next; link != &queue->entries; link = link->next) {
        const nv_c2d_entry *entry = nv_container_of(link, nv_c2d_entry, link);
        if (entry->state != NV_C2D_QUEUED) {
            self->spared[self->spared_count++] = entry->message->sequence;
        }
    }
}

static void purge_ready(nv_c2d_waiter *waiter, nv_c2d_queue *queue, nv_hub_error error)
{
    purge_op *self = nv_container_of(waiter, purge_op, waiter);
    if (error == NV_HUB_ERROR_NONE) {
        self->queue = queue;
        self->generation = queue->generation;
        self->below = queue->next_sequence;
        self->newest = queue->next_sequence - 1;
        self->op.run = run_purge;
        self->op.done = purge_done;
        spare_what_is_out(self);
        nv_c2d_queue_hold(queue);
        if (nv_c2d_write(queue, &self->op)) {
            return;
        }
        nv_c2d_queue_release(queue);
        error = nv_c2d_error_of(self->op.status);
    }
    post_purge(self->purge, error);
    free(self->spared);
    free(self);
}

static void purge_on_shard(nv_task *task)
{
    nv_c2d_purge *purge = nv_container_of(task, nv_c2d_purge, _task);
    nv_c2d *c2d = nv_c2d_of(purge->_loop->hub, purge->device_id);
    if (c2d->closed) {
        post_purge(purge, NV_HUB_ERROR_ServiceUnavailable);
        return;
    }
    purge_op *self = nv_calloc(1, sizeof(*self));
    self->purge = purge;
    self->waiter.ready = purge_ready;
    nv_c2d_queue *queue = nv_c2d_queue_of(c2d, purge->device_id);
    nv_c2d_queue_need(queue, &self->waiter);
    nv_c2d_queue_settle(queue);
}

void nv_c2d_purge_do(nv_hub_loop *loop, nv_c2d_purge *purge)
{
    purge->_loop = loop;
    purge->purged = 0;
    if (!nv_c2d_id_possible(purge->device_id)) {
        post_purge(purge, NV_HUB_ERROR_DeviceNotFound);
        return;
    }
    nv_c2d_post_to_shard(loop, purge->device_id, &purge->_task, purge_on_shard);
}
