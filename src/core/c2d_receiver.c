/* Receivers: what a device that listens tells the shard, each request a task of its own. */
#include "base/alloc.h"
#include "core/c2d_queue.h"
#include "core/device_table.h"

#include <assert.h>
#include <stdlib.h>

typedef struct attach_op {
    nv_task task;
    nv_c2d_waiter waiter;
    nv_c2d_receiver *receiver;
} attach_op;

/* A failing store leaves it without messages until something of the queue works again. */
static void attach_ready(nv_c2d_waiter *waiter, nv_c2d_queue *queue, nv_hub_error error)
{
    (void)queue;
    (void)error;
    free(nv_container_of(waiter, attach_op, waiter));
}

static void attach_on_shard(nv_task *task)
{
    attach_op *self = nv_container_of(task, attach_op, task);
    nv_c2d_receiver *receiver = self->receiver;
    nv_span device_id = receiver->identity->device_id;
    nv_c2d_queue *queue = nv_c2d_queue_of(nv_c2d_of(receiver->_loop->hub, device_id), device_id);
    nv_c2d_queue_add_receiver(queue, receiver);
    self->waiter.ready = attach_ready;
    nv_c2d_queue_need(queue, &self->waiter);
    nv_c2d_queue_settle(queue);
}

void nv_c2d_attach(nv_hub_loop *loop, nv_c2d_receiver *receiver)
{
    receiver->_loop = loop;
    receiver->_detached = false;
    receiver->_window = receiver->credit;
    receiver->_locked = 0;
    if (receiver->pulls) {
        nv_c2d_puller *puller = (nv_c2d_puller *)(void *)receiver;
        puller->_handed = puller->_limit = 0;
    }
    receiver->_queue = NULL;
    nv_list_init(&receiver->_link);
    attach_op *self = nv_calloc(1, sizeof(*self));
    self->receiver = receiver;
    nv_c2d_post_to_shard(loop, receiver->identity->device_id, &self->task, attach_on_shard);
}

typedef struct credit_op {
    nv_task task;
    nv_c2d_receiver *receiver;
    uint32_t more;
} credit_op;

static void credit_on_shard(nv_task *task)
{
    credit_op *self = nv_container_of(task, credit_op, task);
    nv_c2d_receiver *receiver = self->receiver;
    uint32_t room = UINT32_MAX - receiver->_window;
    receiver->_window += self->more < room ? self->more : room;
    free(self);
    if (receiver->_queue) { /* a queue at rest has nothing to hand out */
        nv_c2d_queue_settle(receiver->_queue);
    }
}

void nv_c2d_credit(nv_c2d_receiver *receiver, uint32_t more)
{
    credit_op *self = nv_calloc(1, sizeof(*self));
    self->receiver = receiver;
    self->more = more;
    receiver->credit += more;
    nv_c2d_post_to_shard(receiver->_loop, receiver->identity->device_id, &self->task, credit_on_shard);
}

typedef struct pull_op {
    nv_task task;
    nv_c2d_puller *puller;
    uint32_t limit;
} pull_op;

static void pull_on_shard(nv_task *task)
{
    pull_op *self = nv_container_of(task, pull_op, task);
    nv_c2d_queue *queue = self->puller->receiver._queue;
    self->puller->_limit = self->limit;
    free(self);
    if (queue) {
        nv_c2d_queue_settle(queue);
    }
}

void nv_c2d_pull(nv_c2d_puller *puller, uint32_t limit)
{
    pull_op *self = nv_calloc(1, sizeof(*self));
    *self = (pull_op){.puller = puller, .limit = limit};
    nv_c2d_post_to_shard(puller->receiver._loop, puller->receiver.identity->device_id, &self->task, pull_on_shard);
}

typedef struct detach_op {
    nv_task task;
    nv_c2d_receiver *receiver;
    void (*done)(nv_c2d_receiver *receiver);
} detach_op;

static void detached_on_loop(nv_task *task)
{
    detach_op *self = nv_container_of(task, detach_op, task);
    nv_c2d_receiver *receiver = self->receiver;
    void (*done)(nv_c2d_receiver *) = self->done;
    free(self);
    done(receiver);
}

/* What it has comes back, each in its place; what it settled already goes its way without it. */
static void give_back(nv_c2d_queue *queue, const nv_c2d_receiver *receiver)
{
    for (nv_list *link = queue->entries.next; link != &queue->entries;) {
        nv_c2d_entry *entry = nv_container_of(link, nv_c2d_entry, link);
        link = link->next;
        if (entry->receiver != receiver) {
            continue;
        }
        if (entry->state == NV_C2D_LOCKED && !queue->c2d->closed) {
            nv_c2d_entry_return(entry, NULL);
        } else {
            entry->receiver = NULL;
        }
    }
}

static void detach_on_shard(nv_task *task)
{
    detach_op *self = nv_container_of(task, detach_op, task);
    nv_c2d_receiver *receiver = self->receiver;
    nv_c2d_queue *queue = receiver->_queue;
    if (queue) {
        nv_list_remove(&receiver->_link);
        give_back(queue, receiver);
    } else { /* it stands for its queue; or it did, and the device went */
        nv_hub_loop *shard = nv_hub_shard_loop(receiver->_loop->hub, receiver->identity->device_id);
        nv_c2d_receiver *standing = nv_device_take_receiver(shard, receiver->identity->device_id);
        if (standing && standing != receiver) {
            nv_device_keep_receiver(shard, receiver->identity->device_id, standing);
        }
    }
    self->task.run = detached_on_loop;
    nv_post(receiver->_loop->exec, &self->task);
    if (queue) {
        nv_c2d_queue_settle(queue);
    }
}

void nv_c2d_detach(nv_c2d_receiver *receiver, void (*done)(nv_c2d_receiver *receiver))
{
    assert(!receiver->_detached);
    detach_op *self = nv_calloc(1, sizeof(*self));
    self->receiver = receiver;
    self->done = done;
    receiver->_detached = true;
    nv_c2d_post_to_shard(receiver->_loop, receiver->identity->device_id, &self->task, detach_on_shard);
}
