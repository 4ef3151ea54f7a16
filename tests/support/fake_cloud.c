#include "support/fake_cloud.h"

#include "base/alloc.h"
#include "base/list.h"
#include "codec/json.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- twins ------------------------------------------------------------------------------------------------------ */

typedef struct held_twin {
    nv_list link;
    nv_twin_request *request;
} held_twin;

static struct {
    bool hold;
    nv_list held; /* zeroed until the first use */
    nv_hub_error error;
    const char *detail;
    const char *desired;
    const char *reported;
    uint64_t desired_version;
    uint64_t reported_version;
    char patch[4096];
    char model[256];
    nv_twin_request last;
} twins;

static nv_list *used(nv_list *list)
{
    if (!list->next) {
        nv_list_init(list);
    }
    return list;
}

static void copy_text(char *out, size_t size, nv_span text)
{
    size_t len = text.len < size - 1 ? text.len : size - 1;
    if (len > 0) {
        memcpy(out, text.ptr, len);
    }
    out[len] = '\0';
}

static void answer_twin(nv_task *task)
{
    nv_twin_request *request = nv_container_of(task, nv_twin_request, _task);
    request->error = twins.error;
    request->detail[0] = '\0';
    if (twins.error != NV_HUB_ERROR_NONE) {
        (void)snprintf(request->detail, sizeof(request->detail), "%s", twins.detail ? twins.detail : "");
    } else if (request->verb == NV_TWIN_REPORTED) {
        request->reported_version = ++twins.reported_version;
    } else {
        request->twin = nv_calloc(1, sizeof(*request->twin));
        *request->twin = (nv_twin){._refs = 1,
                                   .desired = nv_span_str(twins.desired ? twins.desired : "{}"),
                                   .desired_version = twins.desired_version,
                                   .reported = nv_span_str(twins.reported ? twins.reported : "{}"),
                                   .reported_version = twins.reported_version};
    }
    request->done(request);
}

void nv_twin_do(nv_hub_loop *loop, nv_twin_request *request)
{
    request->_loop = loop;
    request->_task.run = answer_twin;
    twins.last = *request;
    copy_text(twins.patch, sizeof(twins.patch), request->body);
    if (twins.hold) {
        held_twin *held = nv_calloc(1, sizeof(*held));
        held->request = request;
        nv_list_push_back(used(&twins.held), &held->link);
    } else {
        nv_post(loop->exec, &request->_task);
    }
}

void nv_twin_announce_model(nv_hub_loop *loop, nv_identity *identity, nv_span model_id)
{
    (void)loop;
    (void)identity;
    copy_text(twins.model, sizeof(twins.model), model_id);
}

void nv_twin_ref(nv_twin *twin)
{
    twin->_refs++;
}

void nv_twin_unref(nv_twin *twin)
{
    if (twin && --twin->_refs == 0) {
        free(twin);
    }
}

static void write_section(nv_json_writer *w, const char *name, nv_span members, uint64_t version)
{
    char text[64];
    (void)snprintf(text, sizeof(text), "%s\"$version\":%" PRIu64 "}", members.len > 2 ? "," : "", version);
    nv_buf section;
    nv_buf_init(&section, members.len + sizeof(text));
    nv_err err = nv_buf_append(&section, nv_span_first(members, members.len - 1));
    err = err == NV_OK ? nv_buf_append_str(&section, text) : err;
    assert(err == NV_OK);
    (void)err;
    nv_json_key(w, name);
    nv_json_raw(w, nv_buf_span(&section));
    nv_buf_deinit(&section);
}

void nv_twin_write_device(const nv_twin *twin, nv_json_writer *w)
{
    nv_json_begin_object(w);
    write_section(w, "desired", twin->desired, twin->desired_version);
    write_section(w, "reported", twin->reported, twin->reported_version);
    nv_json_end_object(w);
}

void fake_twin_set_hold(bool hold)
{
    twins.hold = hold;
}

bool fake_twin_complete(void)
{
    nv_list *link = nv_list_pop_front(used(&twins.held));
    if (!link) {
        return false;
    }
    held_twin *held = nv_container_of(link, held_twin, link);
    nv_post(held->request->_loop->exec, &held->request->_task);
    free(held);
    return true;
}

size_t fake_twin_held(void)
{
    size_t n = 0;
    for (const nv_list *link = used(&twins.held)->next; link != &twins.held; link = link->next) {
        n++;
    }
    return n;
}

void fake_twin_set_error(nv_hub_error error, const char *detail)
{
    twins.error = error;
    twins.detail = detail;
}

void fake_twin_set_sections(const char *desired, uint64_t desired_version, const char *reported)
{
    twins.desired = desired;
    twins.desired_version = desired_version;
    twins.reported = reported;
}

uint64_t fake_twin_reported_version(void)
{
    return twins.reported_version;
}

const char *fake_twin_last_patch(void)
{
    return twins.patch;
}

const char *fake_twin_last_model(void)
{
    return twins.model;
}

const nv_twin_request *fake_twin_last(void)
{
    return &twins.last;
}

/* ---- messages --------------------------------------------------------------------------------------------------- */

typedef struct fake_receiver {
    nv_list link;
    nv_c2d_receiver *receiver;
    uint32_t credit;
    uint32_t handed;
    uint32_t limit; /* of one that pulls */
    nv_task pump;
    nv_task gone;
    bool pumping;
    bool detached;
    void (*done)(nv_c2d_receiver *receiver);
} fake_receiver;

typedef struct fake_message {
    nv_list link;
    char device[NV_ID_MAX + 1];
    nv_c2d_message message; /* a template: each hand-out is a copy */
    fake_receiver *holder;  /* who has it locked */
    char token[37];
} fake_message;

static struct {
    nv_list queue; /* all devices, by sequence */
    nv_list receivers;
    nv_list held; /* settlements */
    uint64_t sequence;
    uint64_t tokens;
    size_t completed;
    size_t rejected;
    size_t lost;
    bool hold;
} c2d;

typedef struct held_settle {
    nv_list link;
    nv_c2d_settle *settle;
} held_settle;

static fake_message *message_of(nv_list *link)
{
    return nv_container_of(link, fake_message, link);
}

void nv_c2d_message_ref(nv_c2d_message *message)
{
    message->_refs++;
}

void nv_c2d_message_unref(nv_c2d_message *message)
{
    if (message && --message->_refs == 0) {
        free((void *)(size_t)message->properties.ptr);
        free((void *)(size_t)message->body.ptr);
        free(message);
    }
}

const char *nv_c2d_ack_name(nv_c2d_ack ack)
{
    static const char *const names[] = {"none", "positive", "negative", "full"};
    return names[ack];
}

static nv_span own(nv_span bytes)
{
    uint8_t *copy = nv_malloc(bytes.len + 1);
    if (bytes.len > 0) {
        memcpy(copy, bytes.ptr, bytes.len);
    }
    return nv_span_of(copy, bytes.len);
}

static void disown(nv_span bytes)
{
    free((void *)(size_t)bytes.ptr);
}

static void message_free(fake_message *f)
{
    nv_list_remove(&f->link);
    disown(f->message.properties);
    disown(f->message.body);
    free(f);
}

static void hand_out(fake_receiver *r, fake_message *f)
{
    f->holder = r;
    f->message.delivery_count++;
    r->credit--;
    r->handed++;
    (void)snprintf(f->token, sizeof(f->token), "00000000-0000-4000-8000-%012" PRIu64, ++c2d.tokens);
    nv_c2d_message *copy = nv_calloc(1, sizeof(*copy));
    *copy = f->message;
    copy->_refs = 1;
    copy->properties = own(f->message.properties);
    copy->body = own(f->message.body);
    memcpy(copy->lock_token, f->token, sizeof(copy->lock_token));
    r->receiver->message(r->receiver, copy);
    nv_c2d_message_unref(copy);
}

static fake_message *next_for(const fake_receiver *r)
{
    for (nv_list *link = used(&c2d.queue)->next; link != &c2d.queue; link = link->next) {
        fake_message *f = message_of(link);
        if (!f->holder && nv_span_eq_str(r->receiver->identity->device_id, f->device)) {
            return f;
        }
    }
    return NULL;
}

static void pump(nv_task *task)
{
    fake_receiver *r = nv_container_of(task, fake_receiver, pump);
    r->pumping = false;
    while (!r->detached && r->credit > 0 && /* the session may detach from within the call */
           (!r->receiver->pulls || (int32_t)(r->limit - r->handed) > 0)) {
        fake_message *f = next_for(r);
        if (!f) {
            return;
        }
        hand_out(r, f);
    }
}

static void wake_receivers(void)
{
    for (nv_list *link = used(&c2d.receivers)->next; link != &c2d.receivers; link = link->next) {
        fake_receiver *r = nv_container_of(link, fake_receiver, link);
        if (!r->pumping && !r->detached) {
            r->pumping = true;
            nv_post(r->receiver->_loop->exec, &r->pump);
        }
    }
}

void nv_c2d_attach(nv_hub_loop *loop, nv_c2d_receiver *receiver)
{
    fake_receiver *r = nv_calloc(1, sizeof(*r));
    receiver->_loop = loop;
    receiver->_queue = r;
    *r = (fake_receiver){.receiver = receiver, .credit = receiver->credit, .pump = {NULL, pump}};
    nv_list_push_back(used(&c2d.receivers), &r->link);
    wake_receivers();
}

void nv_c2d_pull(nv_c2d_puller *puller, uint32_t limit)
{
    fake_receiver *r = puller->receiver._queue;
    r->limit = limit;
    wake_receivers();
}

static void gone(nv_task *task)
{
    fake_receiver *r = nv_container_of(task, fake_receiver, gone);
    for (nv_list *link = used(&c2d.queue)->next; link != &c2d.queue; link = link->next) {
        if (message_of(link)->holder == r) {
            message_of(link)->holder = NULL;
        }
    }
    nv_list_remove(&r->link);
    r->done(r->receiver);
    free(r);
    wake_receivers();
}

void nv_c2d_detach(nv_c2d_receiver *receiver, void (*done)(nv_c2d_receiver *receiver))
{
    fake_receiver *r = receiver->_queue;
    r->detached = true;
    r->done = done;
    r->gone.run = gone; /* behind the pump, if that was posted */
    nv_post(receiver->_loop->exec, &r->gone);
}

static fake_receiver *live_receiver(const nv_c2d_receiver *receiver)
{
    for (nv_list *link = used(&c2d.receivers)->next; link != &c2d.receivers; link = link->next) {
        fake_receiver *r = nv_container_of(link, fake_receiver, link);
        if (r->receiver == receiver) {
            return r;
        }
    }
    return NULL;
}

static void settle_now(nv_task *task)
{
    nv_c2d_settle *settle = nv_container_of(task, nv_c2d_settle, _task);
    settle->error = NV_HUB_ERROR_DeviceMessageLockLost;
    for (nv_list *link = used(&c2d.queue)->next; link != &c2d.queue; link = link->next) {
        fake_message *f = message_of(link);
        if (f->holder && nv_span_eq_str(settle->lock_token, f->token)) {
            assert(nv_span_eq_str(settle->device_id, f->device));
            settle->error = NV_HUB_ERROR_NONE;
            c2d.completed += settle->outcome == NV_C2D_COMPLETE;
            c2d.rejected += settle->outcome == NV_C2D_REJECT;
            fake_receiver *r = live_receiver(settle->receiver);
            if (r) {
                r->credit++;
            }
            if (settle->outcome == NV_C2D_ABANDON) {
                f->holder = NULL;
            } else {
                message_free(f);
            }
            break;
        }
    }
    c2d.lost += settle->error != NV_HUB_ERROR_NONE;
    settle->done(settle);
    wake_receivers();
}

void nv_c2d_settle_do(nv_hub_loop *loop, nv_c2d_settle *settle)
{
    settle->_loop = loop;
    settle->_task.run = settle_now;
    if (c2d.hold) {
        held_settle *held = nv_calloc(1, sizeof(*held));
        held->settle = settle;
        nv_list_push_back(used(&c2d.held), &held->link);
    } else {
        nv_post(loop->exec, &settle->_task);
    }
}

void fake_c2d_set_hold(bool hold)
{
    c2d.hold = hold;
}

bool fake_c2d_settle_one(void)
{
    nv_list *link = nv_list_pop_front(used(&c2d.held));
    if (!link) {
        return false;
    }
    held_settle *held = nv_container_of(link, held_settle, link);
    nv_post(held->settle->_loop->exec, &held->settle->_task);
    free(held);
    return true;
}

static uint64_t put(nv_hub_loop *loop, const char *device, nv_c2d_ack ack, int64_t expires_us, nv_span properties,
                    nv_span body)
{
    fake_message *f = nv_calloc(1, sizeof(*f));
    int64_t now_us = nv_wall_us(loop->hub->clock);
    (void)snprintf(f->device, sizeof(f->device), "%s", device);
    f->message =
        (nv_c2d_message){.sequence = ++c2d.sequence,
                         .enqueued_us = now_us,
                         .expires_us = expires_us ? expires_us : now_us + loop->hub->limits.c2d_ttl_s * NV_US_PER_S,
                         .ack = ack,
                         .properties = own(properties),
                         .body = own(body)};
    nv_list_push_back(used(&c2d.queue), &f->link);
    wake_receivers();
    return c2d.sequence;
}

uint64_t fake_c2d_send(nv_hub_loop *loop, const char *device, nv_c2d_ack ack, nv_span properties, nv_span body)
{
    return put(loop, device, ack, 0, properties, body);
}

uint64_t fake_c2d_send_until(nv_hub_loop *loop, const char *device, int64_t expires_us, nv_span properties,
                             nv_span body)
{
    return put(loop, device, NV_ACK_NONE, expires_us, properties, body);
}

void fake_c2d_lose_locks(void)
{
    for (nv_list *link = used(&c2d.queue)->next; link != &c2d.queue; link = link->next) {
        fake_message *f = message_of(link);
        if (f->holder && !f->holder->detached) {
            f->holder->credit++;
        }
        f->holder = NULL;
    }
    wake_receivers();
}

size_t fake_c2d_count(void)
{
    size_t n = 0;
    for (nv_list *link = used(&c2d.queue)->next; link != &c2d.queue; link = link->next) {
        n++;
    }
    return n;
}

size_t fake_c2d_locked(void)
{
    size_t n = 0;
    for (nv_list *link = used(&c2d.queue)->next; link != &c2d.queue; link = link->next) {
        n += message_of(link)->holder != NULL;
    }
    return n;
}

size_t fake_c2d_completed(void)
{
    return c2d.completed;
}

size_t fake_c2d_rejected(void)
{
    return c2d.rejected;
}

size_t fake_c2d_lock_lost(void)
{
    return c2d.lost;
}

/* What the hub does with its queues, of which there are none here. */

nv_c2d *nv_c2d_new(nv_hub_loop *loop)
{
    (void)loop;
    return NULL;
}

void nv_c2d_free(nv_c2d *queues)
{
    (void)queues;
}

void nv_c2d_start(nv_hub *hub)
{
    (void)hub;
}

void nv_c2d_turn_end(nv_c2d *queues)
{
    (void)queues;
}

bool nv_c2d_idle(const nv_c2d *queues)
{
    (void)queues;
    return true;
}

void nv_c2d_device_gone(nv_hub_loop *shard, nv_span device_id)
{
    (void)shard;
    (void)device_id;
}

/* ---- both ------------------------------------------------------------------------------------------------------- */

void fake_cloud_reset(void)
{
    assert(nv_list_empty(used(&c2d.receivers)) && nv_list_empty(used(&c2d.held)) && fake_twin_held() == 0);
    while (!nv_list_empty(used(&c2d.queue))) {
        message_free(message_of(c2d.queue.next));
    }
    memset(&c2d, 0, sizeof(c2d));
    memset(&twins, 0, sizeof(twins));
}
