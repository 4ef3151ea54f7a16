/*
 * Cloud-to-device messages (amqp.md section 3.5). The link is a receiver of the device's queue that pulls: it is handed
 * as many messages as its credit has room for, because what is handed out counts as a delivery.
 *
 *   handed out --> held: no room now --> sent, unsettled --outcome--> settling --commit--> settled
 *
 * An outcome that waits for ours (rcv-settle-mode second) is answered after the commit. What the link did not settle
 * returns to the queue with its end, and what is not settled in time when its lock is lost.
 */
#include "session/amqp/device_links.h"

#include "base/alloc.h"
#include "base/guid.h"
#include "core/c2d.h"

#include <inttypes.h>
#include <stdlib.h>

#define TAG_SIZE   16u
#define CREDIT_MAX (1u << 20)

/* One message that was handed out and is not settled. */
typedef struct bound_entry {
    nv_c2d_settle settle; /* in use while it is in `settling` */
    struct amqp_devicebound *owner;
    nv_list link;
    nv_c2d_message *message; /* a reference while it is held, else NULL */
    uint64_t cookie;
    uint32_t delivery; /* its id on the link, once sent */
    bool answer;       /* the device waits for a settled disposition */
    char lock_token[37];
} bound_entry;

struct amqp_devicebound {
    amqp_device_link base; /* first member; base.link NULL: the link is gone */
    nv_c2d_puller puller;
    nv_list held;     /* oldest first */
    nv_list sent;     /* oldest first */
    nv_list settling; /* those that the core has */
    uint32_t count;   /* in both */
    uint64_t cookies;
    uint32_t sent_ever; /* wraps */
    uint32_t limit;     /* what the queue was told: as many may be handed out in all */
    bool receives;      /* modules have no queue: their link stands, and is silent */
    bool attached;      /* the core has the receiver */
};

static bound_entry *entry_of(nv_list *link)
{
    return nv_container_of(link, bound_entry, link);
}

static void entry_free(bound_entry *entry)
{
    nv_list_remove(&entry->link);
    nv_c2d_message_unref(entry->message);
    free(entry);
}

static void free_if_over(struct amqp_devicebound *b)
{
    if (!b->base.link && !b->attached && nv_list_empty(&b->settling)) {
        free(b);
    }
}

/* As many may be handed out as the device has credit for. */
static void follow_credit(struct amqp_devicebound *b)
{
    uint32_t credit = b->base.link->credit < CREDIT_MAX ? b->base.link->credit : CREDIT_MAX;
    uint32_t limit = b->sent_ever + credit;
    if (b->receives && limit != b->limit) {
        b->limit = limit;
        nv_c2d_pull(&b->puller, limit);
    }
}

/* ---- settling ------------------------------------------------------------------------------------------------------
 */

/* The device, which said what it thinks of the message, hears what became of it. */
static void answer_device(const bound_entry *entry, nv_hub_error error)
{
    const amqp_server *s = entry->owner->base.device->server;
    char text[AMQP_DESCRIPTION];
    nv_amqp_outcome outcome = {.kind = NV_AMQP_OUT_ACCEPTED};
    if (error == NV_HUB_ERROR_DeviceMessageLockLost) {
        amqp_describe(s, error, "", text);
        outcome = (nv_amqp_outcome){.kind = NV_AMQP_OUT_REJECTED,
                                    .problem = {NV_AMQP_ERR_MESSAGE_LOCK_LOST, .description = nv_span_str(text)}};
    } else if (error != NV_HUB_ERROR_NONE) {
        amqp_describe(s, error, "", text);
        outcome = (nv_amqp_outcome){.kind = NV_AMQP_OUT_REJECTED,
                                    .problem = {amqp_condition_of(error), .description = nv_span_str(text)}};
    }
    if (entry->answer && entry->owner->base.link) {
        nv_amqp_link_settle(entry->owner->base.link, entry->delivery, &outcome);
    }
}

static void settled(nv_c2d_settle *settle)
{
    bound_entry *entry = nv_container_of(settle, bound_entry, settle);
    struct amqp_devicebound *b = entry->owner;
    amqp_device *device = b->base.device;
    if (settle->error != NV_HUB_ERROR_NONE) { /* it comes again, or was settled elsewhere */
        nv_subject subject = amqp_device_subject(device);
        nv_diag(NV_LEVEL_DEBUG, "amqp", &subject, "message with the lock %s was not settled: %s", entry->lock_token,
                nv_hub_error_info_of(settle->error)->text);
    }
    answer_device(entry, settle->error);
    entry_free(entry);
    free_if_over(b);
    amqp_device_operation_end(device); /* the device may be gone */
}

/* The entry belongs to the core from here on. */
static void settle(struct amqp_devicebound *b, bound_entry *entry, nv_c2d_outcome outcome)
{
    nv_list_remove(&entry->link);
    nv_list_push_back(&b->settling, &entry->link);
    b->count--;
    amqp_device_operation_begin(b->base.device);
    entry->settle = (nv_c2d_settle){.device_id = b->base.device->identity->device_id,
                                    .lock_token = nv_span_str(entry->lock_token),
                                    .receiver = &b->puller.receiver,
                                    .outcome = outcome,
                                    .done = settled};
    nv_c2d_settle_do(amqp_loop(b->base.device->server), &entry->settle);
}

static bound_entry *find_in(nv_list *list, uint64_t cookie)
{
    for (nv_list *link = list->next; link != list; link = link->next) {
        if (entry_of(link)->cookie == cookie) {
            return entry_of(link);
        }
    }
    return NULL;
}

/* Settled without a state is what a client does that forgets its link: the message must not be lost. */
static nv_c2d_outcome c2d_outcome(nv_amqp_outcome_kind kind)
{
    switch (kind) {
    case NV_AMQP_OUT_ACCEPTED:
        return NV_C2D_COMPLETE;
    case NV_AMQP_OUT_REJECTED:
        return NV_C2D_REJECT;
    case NV_AMQP_OUT_NONE:
    case NV_AMQP_OUT_RELEASED:
    case NV_AMQP_OUT_MODIFIED:
    case NV_AMQP_OUT_OTHER:
        return NV_C2D_ABANDON;
    }
    return NV_C2D_ABANDON;
}

static void on_outcome(nv_amqp_link *link, uint32_t id, uint64_t cookie, const nv_amqp_outcome *outcome)
{
    struct amqp_devicebound *b = link->owner;
    bound_entry *entry = find_in(&b->sent, cookie);
    bool ends = outcome->settled || (outcome->kind != NV_AMQP_OUT_OTHER && outcome->kind != NV_AMQP_OUT_NONE);
    amqp_device_active(b->base.device);
    if (!ends) {
        return; /* `received` and its like say nothing final */
    }
    if (!entry) { /* said twice, or of a lock that is lost and forgotten */
        if (!outcome->settled && !find_in(&b->settling, cookie)) {
            nv_amqp_link_accept_delivery(link, id);
        }
        return;
    }
    entry->answer = !outcome->settled;
    settle(b, entry, c2d_outcome(outcome->kind));
    follow_credit(b);
}

/* ---- a message as the device sees it --------------------------------------------------------------------------------
 */

static nv_err put_application(nv_buf *out, const char *name, nv_value value)
{
    nv_property property = {.name = nv_span_str(name), .value = value};
    return nv_property_put(out, &property);
}

/* System properties without a field of their own that a device may want to see (as edge hub does). */
static nv_err put_named(nv_buf *out, nv_span properties)
{
    static const nv_system_property named[] = {NV_PROP_SCHEMA, NV_PROP_CREATION_TIME, NV_PROP_OUTPUT_NAME,
                                               NV_PROP_INTERFACE_ID, NV_PROP_OPERATION};
    nv_err err = NV_OK;
    nv_value value;
    for (size_t i = 0; i < NV_COUNT_OF(named) && err == NV_OK; i++) {
        if (nv_property_find(properties, named[i], &value)) {
            err = put_application(out, nv_system_property_name((uint8_t)named[i]), value);
        }
    }
    return err;
}

/* A sender's property cannot pass for one of the service. */
static nv_err put_given(nv_buf *out, nv_span properties)
{
    nv_reader r = nv_reader_of(properties);
    nv_property property;
    nv_err err = NV_OK;
    while (err == NV_OK && nv_property_next(&r, &property)) {
        bool reserved = property.id == NV_PROP_APPLICATION && nv_span_eq_str(property.name, "iothub-ack");
        err = reserved ? NV_OK : nv_property_put(out, &property);
    }
    return err == NV_OK ? r.err : err;
}

static nv_err put_expiry(nv_buf *out, const nv_hub *hub, const nv_c2d_message *message)
{
    nv_property property = {.id = NV_PROP_ABSOLUTE_EXPIRY,
                            .value = {.type = NV_VALUE_TIMESTAMP, .i = message->expires_us / NV_US_PER_MS}};
    bool asked = message->expires_us - message->enqueued_us != hub->limits.c2d_ttl_s * NV_US_PER_S;
    return asked ? nv_property_put(out, &property) : NV_OK;
}

static nv_err gather_properties(const nv_hub *hub, const nv_c2d_message *message, nv_buf *out)
{
    nv_err err = put_given(out, message->properties);
    err = err == NV_OK ? put_expiry(out, hub, message) : err;
    err = err == NV_OK ? put_named(out, message->properties) : err;
    if (err == NV_OK && message->ack != NV_ACK_NONE) {
        err = put_application(out, "iothub-ack", nv_value_string(nv_span_str(nv_c2d_ack_name(message->ack))));
    }
    return err;
}

static void put_annotations(nv_writer *w, const nv_c2d_message *message)
{
    size_t mark = nv_amqp_begin_map_section(w, NV_AMQP_MESSAGE_ANNOTATIONS);
    nv_amqp_put_symbol_of(w, "x-opt-sequence-number");
    nv_amqp_put_ulong(w, message->sequence);
    nv_amqp_put_symbol_of(w, "iothub-enqueuedtime");
    nv_amqp_put_timestamp(w, message->enqueued_us / NV_US_PER_MS);
    nv_amqp_put_symbol_of(w, "iothub-deliverycount");
    nv_amqp_put_ubyte(w, (uint8_t)(message->delivery_count < UINT8_MAX ? message->delivery_count : UINT8_MAX));
    nv_amqp_put_symbol_of(w, "x-opt-lock-token");
    nv_amqp_put_string_of(w, message->lock_token);
    nv_amqp_end_map(w, mark, 8);
}

/* A value that is bytes becomes them: devices take data sections only. */
static nv_body_kind body_of(const nv_c2d_message *message, nv_span *body)
{
    nv_amqp_value value;
    nv_reader r = nv_reader_of(message->body);
    *body = message->body;
    if (message->body_kind == NV_BODY_AMQP_VALUE && nv_amqp_read(&r, &value) && nv_amqp_is_text(&value)) {
        *body = value.bytes;
        return NV_BODY_DATA;
    }
    return message->body_kind;
}

static nv_err write_head(const nv_hub *hub, const nv_c2d_message *message, nv_body_kind kind, size_t body_len,
                         nv_buf *head)
{
    nv_buf properties;
    nv_buf_init(&properties, message->properties.len + 1024);
    nv_err err = gather_properties(hub, message, &properties);
    size_t max = 512 + amqp_record_properties_max(nv_buf_len(&properties));
    uint8_t *room = err == NV_OK ? nv_buf_reserve(head, max) : NULL;
    if (room) {
        nv_writer w = nv_writer_of(room, max);
        put_annotations(&w, message);
        amqp_put_record_properties(&w, nv_buf_span(&properties), true);
        amqp_put_body_head(&w, kind, body_len);
        nv_buf_commit(head, nv_writer_len(&w));
        err = w.err;
    } else {
        err = err == NV_OK ? NV_E_TOO_BIG : err;
    }
    nv_buf_deinit(&properties);
    return err;
}

/* ---- sending -------------------------------------------------------------------------------------------------------
 */

/* The entry is in `sent` and is known to the engine by its cookie. */
static nv_err transfer(struct amqp_devicebound *b, bound_entry *entry, const nv_c2d_message *message)
{
    uint8_t tag[TAG_SIZE] = {0};
    nv_span body;
    nv_body_kind kind = body_of(message, &body);
    nv_buf head;
    nv_buf_init(&head, 4096 + 8 * message->properties.len);
    nv_err err = write_head(amqp_hub(b->base.device->server), message, kind, body.len, &head);
    if (err == NV_OK) {
        nv_amqp_send send = {.tag = nv_span_of(tag, sizeof(tag)),
                             .track = true,
                             .cookie = entry->cookie,
                             .head = nv_buf_span(&head),
                             .body = body};
        (void)nv_guid_to_net_bytes(entry->lock_token, tag);
        err = nv_amqp_link_send(b->base.link, &send, &entry->delivery);
    }
    nv_buf_deinit(&head);
    return err;
}

static void send_entry(struct amqp_devicebound *b, bound_entry *entry)
{
    nv_c2d_message *message = entry->message;
    NV_KNOWN(message); /* it is held */
    nv_err err = transfer(b, entry, message);
    if (err == NV_E_AGAIN) {
        return; /* it stays held */
    }
    entry->message = NULL;
    nv_list_remove(&entry->link);
    nv_list_push_back(&b->sent, &entry->link);
    b->sent_ever++;
    if (err != NV_OK) {
        nv_subject subject = amqp_device_subject(b->base.device);
        nv_diag(NV_LEVEL_WARN, "amqp", &subject,
                "message %" PRIu64 " rejected: it is longer than the device's link takes", message->sequence);
        settle(b, entry, NV_C2D_REJECT);
    }
    nv_c2d_message_unref(message);
}

static void send_held(struct amqp_devicebound *b)
{
    while (!nv_list_empty(&b->held) && nv_amqp_link_room(b->base.link)) {
        bound_entry *entry = entry_of(nv_list_first(&b->held));
        send_entry(b, entry);
        if (!nv_list_empty(&b->held) && entry_of(b->held.next) == entry) {
            break;
        }
    }
}

static void on_room(nv_amqp_link *link)
{
    struct amqp_devicebound *b = link->owner;
    send_held(b);
    if (link->drain) {
        nv_amqp_link_drained(link);
    }
    follow_credit(b);
}

/* ---- receiving -----------------------------------------------------------------------------------------------------
 */

static void forget(struct amqp_devicebound *b, bound_entry *entry)
{
    b->count--;
    entry_free(entry);
}

/* The queue hands out no more than may be locked, so where more than that are here the oldest has lost its lock: what
 * the device says of it would be ignored, and need not be known. */
static void make_room(struct amqp_devicebound *b)
{
    const nv_limits *limits = &amqp_hub(b->base.device->server)->limits;
    nv_amqp_outcome released = {.kind = NV_AMQP_OUT_RELEASED, .settled = true};
    while ((int64_t)b->count >= limits->c2d_inflight) {
        bool was_sent = !nv_list_empty(&b->sent);
        bound_entry *oldest = entry_of(nv_list_first(was_sent ? &b->sent : &b->held));
        uint32_t delivery = oldest->delivery;
        forget(b, oldest);
        if (was_sent) {
            nv_amqp_link_settle(b->base.link, delivery, &released);
        }
    }
}

static void on_message(nv_c2d_receiver *receiver, nv_c2d_message *message)
{
    struct amqp_devicebound *b = nv_container_of(receiver, struct amqp_devicebound, puller.receiver);
    bound_entry *entry = nv_calloc(1, sizeof(*entry));
    make_room(b);
    entry->owner = b;
    entry->cookie = ++b->cookies;
    entry->message = message;
    nv_c2d_message_ref(message);
    memcpy(entry->lock_token, message->lock_token, sizeof(entry->lock_token));
    nv_list_init(&entry->link);
    nv_list_push_back(&b->held, &entry->link);
    b->count++;
    amqp_device_active(b->base.device);
    send_held(b);
    b->base.device->server->conn.session.carrier->wake(b->base.device->server->conn.session.carrier);
}

/* ---- the life of the link -------------------------------------------------------------------------------------------
 */

static void core_let_go(nv_c2d_receiver *receiver)
{
    struct amqp_devicebound *b = nv_container_of(receiver, struct amqp_devicebound, puller.receiver);
    amqp_device *device = b->base.device;
    b->attached = false;
    free_if_over(b);
    amqp_device_operation_end(device); /* the device may be gone */
}

static void end_link(amqp_device_link *self)
{
    struct amqp_devicebound *b = nv_container_of(self, struct amqp_devicebound, base);
    while (!nv_list_empty(&b->sent)) {
        forget(b, entry_of(nv_list_first(&b->sent)));
    }
    while (!nv_list_empty(&b->held)) {
        forget(b, entry_of(nv_list_first(&b->held)));
    }
    if (b->base.device->devicebound == b) {
        b->base.device->devicebound = NULL;
    }
    b->base.link = NULL;
    if (b->attached) {
        amqp_device_operation_begin(b->base.device);
        nv_c2d_detach(&b->puller.receiver, core_let_go);
    }
    free_if_over(b);
}

static const nv_amqp_link_ops ops = {.room = on_room, .outcome = on_outcome, .detached = amqp_device_link_detached};

static void receive(struct amqp_devicebound *b)
{
    amqp_device *device = b->base.device;
    b->puller.receiver = (nv_c2d_receiver){.identity = device->identity,
                                           .credit = nv_limit_31(amqp_hub(device->server)->limits.c2d_inflight),
                                           .pulls = true,
                                           .message = on_message};
    b->receives = b->attached = true;
    nv_c2d_attach(amqp_loop(device->server), &b->puller.receiver);
}

void amqp_open_devicebound(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address)
{
    (void)s;
    (void)address;
    struct amqp_devicebound *b = nv_calloc(1, sizeof(*b));
    b->base.end = end_link;
    nv_list_init(&b->held);
    nv_list_init(&b->sent);
    nv_list_init(&b->settling);
    amqp_device_link_add(device, &b->base, link); /* an older one is ended here */
    device->devicebound = b;
    nv_amqp_accept accept = {.ops = &ops, .owner = b};
    nv_amqp_link_accept(link, &accept);
    if (device->identity->module_id.len == 0) { /* the hub has no messages for modules (amqp.md section 3.8) */
        receive(b);
        follow_credit(b);
    }
}

amqp_device_link *amqp_devicebound_link(const amqp_device *device)
{
    return device->devicebound ? &device->devicebound->base : NULL;
}

/* Its links are gone, and it with them. */
void amqp_devicebound_free(struct amqp_devicebound *devicebound)
{
    (void)devicebound;
}
