#include "session/amqp/link_pair.h"

#include "base/alloc.h"

#include <stdlib.h>

/* A message that the device has no credit for, or no room. */
typedef struct waiting_message {
    nv_list link;
    size_t len;
    uint8_t bytes[];
} waiting_message;

#define WAITING_MAX       256u
#define WAITING_BYTES_MAX (1u << 20)

amqp_pair *amqp_pair_new(size_t size, amqp_device *device, const amqp_pair_kind *kind)
{
    amqp_pair *pair = nv_calloc(1, size);
    pair->device = device;
    pair->kind = kind;
    nv_list_init(&pair->waiting);
    return pair;
}

static void drop_waiting(amqp_pair *pair)
{
    for (nv_list *node = nv_list_pop_front(&pair->waiting); node; node = nv_list_pop_front(&pair->waiting)) {
        free(nv_container_of(node, waiting_message, link));
    }
    pair->waiting_count = 0;
    pair->waiting_bytes = 0;
}

void amqp_pair_free(amqp_pair *pair)
{
    if (pair) {
        drop_waiting(pair);
        free(pair);
    }
}

amqp_device_link *amqp_pair_half(const amqp_pair *pair, bool peer_sends)
{
    amqp_pair_link *l = !pair ? NULL : peer_sends ? pair->in : pair->out;
    return l ? &l->base : NULL;
}

/* ---- to the device -------------------------------------------------------------------------------------------------
 */

static nv_err send_now(const amqp_pair *pair, nv_span head, nv_span body)
{
    uint32_t id = 0;
    nv_amqp_send message = {.settled = true, .head = head, .body = body};
    nv_err err = nv_amqp_link_send(pair->out->base.link, &message, &id);
    if (err == NV_E_TOO_BIG) {
        nv_subject subject = amqp_device_subject(pair->device);
        nv_diag(NV_LEVEL_WARN, "amqp", &subject, "a message of %zu bytes is longer than the device's link takes",
                head.len + body.len);
    }
    return err;
}

static void keep(amqp_pair *pair, nv_span head, nv_span body)
{
    waiting_message *message = nv_malloc(sizeof(*message) + head.len + body.len);
    message->len = head.len + body.len;
    memcpy(message->bytes, head.ptr, head.len);
    if (body.len > 0) {
        memcpy(message->bytes + head.len, body.ptr, body.len);
    }
    nv_list_push_back(&pair->waiting, &message->link);
    pair->waiting_count++;
    pair->waiting_bytes += message->len;
}

bool amqp_pair_is_full(const amqp_pair *pair)
{
    return pair->waiting_count >= WAITING_MAX || pair->waiting_bytes >= WAITING_BYTES_MAX;
}

void amqp_pair_send(amqp_pair *pair, nv_span head, nv_span body)
{
    if (!pair->out) {
        return;
    }
    bool waits = !nv_list_empty(&pair->waiting) || !nv_amqp_link_room(pair->out->base.link);
    if (!waits && send_now(pair, head, body) != NV_E_AGAIN) {
        pair->kind->changed(pair); /* its credit is one less */
        return;
    }
    if (amqp_pair_is_full(pair)) {
        amqp_pair_detach(pair, NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED,
                         "the device gives no credit for what it is to be told, or does not read it");
        return;
    }
    keep(pair, head, body);
}

static void send_waiting(amqp_pair *pair)
{
    while (pair->out && !nv_list_empty(&pair->waiting) && nv_amqp_link_room(pair->out->base.link)) {
        waiting_message *first = nv_container_of(nv_list_first(&pair->waiting), waiting_message, link);
        nv_span bytes = nv_span_of(first->bytes, first->len);
        if (send_now(pair, bytes, NV_SPAN_EMPTY) == NV_E_AGAIN) {
            return;
        }
        nv_list_remove(&first->link);
        pair->waiting_count--;
        pair->waiting_bytes -= first->len;
        free(first);
    }
}

/* ---- the life of its links -----------------------------------------------------------------------------------------
 */

void amqp_pair_end(amqp_device_link *self)
{
    amqp_pair_link *l = nv_container_of(self, amqp_pair_link, base);
    amqp_pair *pair = l->pair;
    if (l == pair->out) {
        pair->out = NULL;
        drop_waiting(pair);
        pair->kind->changed(pair);
    } else if (l == pair->in) {
        pair->in = NULL;
    }
    free(l->correlation);
    free(l);
}

static void detach_one(amqp_pair_link *l, nv_amqp_condition condition, const char *description)
{
    nv_amqp_link *link = l->base.link;
    amqp_device_link_remove(&l->base);
    amqp_pair_end(&l->base);
    nv_amqp_link_detach(link, condition, description);
}

void amqp_pair_detach(amqp_pair *pair, nv_amqp_condition condition, const char *description)
{
    amqp_device *device = pair->device;
    amqp_device_operation_begin(device);
    if (pair->in) {
        detach_one(pair->in, condition, description);
    }
    if (pair->out) {
        detach_one(pair->out, condition, description);
    }
    amqp_device_operation_end(device); /* the device may be gone */
}

bool amqp_pair_read(nv_amqp_link *link, const nv_amqp_delivery *delivery, nv_amqp_message *message, nv_buf *scratch,
                    nv_span *body)
{
    nv_err err = nv_amqp_message_read(delivery->bytes, message);
    err = err == NV_OK ? nv_amqp_message_bytes(message, scratch, body) : err;
    if (err != NV_OK) {
        amqp_reject_unreadable(link, delivery, NV_E_SYNTAX);
    }
    return err == NV_OK;
}

static bool on_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    amqp_pair *pair = ((amqp_pair_link *)link->owner)->pair;
    if (pair->device->server->draining) {
        return false;
    }
    return pair->kind->delivery(pair, link, delivery);
}

static void on_room(nv_amqp_link *link)
{
    amqp_pair *pair = ((amqp_pair_link *)link->owner)->pair;
    send_waiting(pair);
    if (link->drain) {
        nv_amqp_link_drained(link);
    }
    pair->kind->changed(pair);
}

static const nv_amqp_link_ops ops = {.delivery = on_delivery, .room = on_room, .detached = amqp_device_link_detached};

static bool is_partner(const amqp_pair_link *l, const amqp_pair_link *other)
{
    return *l->correlation == '\0' || *other->correlation == '\0' || strcmp(l->correlation, other->correlation) == 0;
}

void amqp_pair_open(amqp_pair *pair, nv_amqp_link *link)
{
    amqp_pair_link *l = nv_calloc(1, sizeof(*l));
    l->base.end = pair->kind->end;
    l->pair = pair;
    l->correlation = nv_span_dup(nv_span_first(amqp_link_property(link, "com.microsoft:channel-correlation-id"), 256));
    amqp_device_link_add(pair->device, &l->base, link); /* an older one is ended here */
    amqp_pair_link **place = link->sender ? &pair->out : &pair->in;
    amqp_pair_link *other = link->sender ? pair->in : pair->out;
    *place = l;
    if (other && !is_partner(l, other)) {
        detach_one(other, NV_AMQP_ERR_STOLEN, "the other half of a newer pair of links came");
    }
    nv_amqp_accept accept = {.ops = &ops,
                             .owner = l,
                             .credit = nv_limit_31(amqp_hub(pair->device->server)->limits.amqp_credit),
                             .pre_settled = link->sender};
    nv_amqp_link_accept(link, &accept);
    pair->kind->changed(pair);
}
