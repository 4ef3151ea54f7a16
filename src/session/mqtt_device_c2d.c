/*
 * Cloud-to-device messages over MQTT (mqtt.md section 7). A subscription is a receiver of the device's queue:
 *
 *   handed out --> held: no room in the output --> sent: PUBACK is awaited --PUBACK--> settled: complete
 *                    |                              |
 *                    +---- QoS 0: settled when it is written
 *
 * MQTT cannot reject or abandon. What is not acknowledged stays locked; when the lock is lost the queue hands it out
 * again, to this connection with its old packet id and DUP, or to the next one.
 */
#include "session/mqtt_device_internal.h"

#include "base/alloc.h"
#include "core/c2d.h"
#include "session/mqtt_c2d_topic.h"

#include <inttypes.h>
#include <stdlib.h>

/* One message that was handed out and is not settled. */
typedef struct mqtt_c2d_entry {
    nv_c2d_settle settle; /* in use once it is in no list */
    mqtt_c2d *c2d;
    nv_list link;
    nv_c2d_message *message; /* a reference while it is held, else NULL */
    uint64_t sequence;
    int64_t until_us;   /* monotonic: the lock is lost by then */
    uint16_t packet_id; /* 0: never sent with QoS 1 */
    char lock_token[37];
} mqtt_c2d_entry;

struct mqtt_c2d {
    nv_c2d_receiver receiver; /* first member */
    mqtt_device *owner;
    nv_list sent;      /* oldest first */
    nv_list held;      /* oldest first */
    uint32_t count;    /* in both */
    uint32_t settling; /* entries that the core has */
    bool detached;     /* the core has let go of the receiver */
};

/* The analyzer of clang 14 does not see that an entry leaves its list before it is freed; hence the suppressions. */
static mqtt_c2d_entry *entry_of(nv_list *link)
{
    return nv_container_of(link, mqtt_c2d_entry, link);
}

static void entry_free(mqtt_c2d_entry *entry)
{
    nv_list_remove(&entry->link);
    nv_c2d_message_unref(entry->message);
    free(entry);
}

static void c2d_free_if_over(mqtt_c2d *c)
{
    if (c->detached && c->settling == 0) {
        free(c);
    }
}

/* ---- settling -------------------------------------------------------------------------------------------------- */

static void settled(nv_c2d_settle *settle)
{
    mqtt_c2d_entry *entry = nv_container_of(settle, mqtt_c2d_entry, settle);
    mqtt_c2d *c = entry->c2d;
    mqtt_device *m = c->owner;
    if (settle->error != NV_HUB_ERROR_NONE) { /* it comes again, or was settled elsewhere */
        nv_subject subject = mqtt_subject(m);
        nv_diag(NV_LEVEL_DEBUG, "mqtt", &subject, "message %" PRIu64 " was not settled: %s", entry->sequence,
                nv_hub_error_info_of(settle->error)->text);
    }
    entry_free(entry);
    c->settling--;
    c2d_free_if_over(c);
    mqtt_operation_done(m);
}

/* The entry belongs to the core from here on. */
static void settle(mqtt_c2d *c, mqtt_c2d_entry *entry, nv_c2d_outcome outcome)
{
    mqtt_device *m = c->owner;
    nv_list_remove(&entry->link);
    c->count--;
    c->settling++;
    m->operations++;
    entry->settle = (nv_c2d_settle){.device_id = m->identity->device_id,
                                    .lock_token = nv_span_str(entry->lock_token),
                                    .receiver = &c->receiver,
                                    .outcome = outcome,
                                    .done = settled};
    nv_c2d_settle_do(m->session.carrier->loop, &entry->settle);
}

void mqtt_on_puback(mqtt_device *m, uint16_t packet_id)
{
    mqtt_c2d *c = m->c2d;
    if (!c) {
        return; /* late, of an earlier subscription */
    }
    for (nv_list *link = c->sent.next; link != &c->sent; link = link->next) {
        mqtt_c2d_entry *entry = entry_of(link);
        if (entry->packet_id == packet_id) {
            mqtt_operated(m);
            settle(c, entry, NV_C2D_COMPLETE);
            return;
        }
    }
}

/* ---- sending --------------------------------------------------------------------------------------------------- */

static bool list_has_packet_id(nv_list *list, uint16_t packet_id)
{
    for (nv_list *link = nv_list_first(list); link != list; link = link->next) {
        if (entry_of(link)->packet_id == packet_id) {
            return true;
        }
    }
    return false;
}

/*
 * A message keeps its id over connections and restarts [MQTT-4.4.0-1], because the id comes from its number in the
 * queue: a client that acknowledges late, over its next connection, means this message and no other. What is in flight
 * spans 65,535 numbers only if one was left lying for so long; then the next free id has to do.
 */
static uint16_t packet_id_for(mqtt_c2d *c, uint64_t sequence)
{
    uint16_t packet_id = (uint16_t)((sequence - 1) % UINT16_MAX + 1);
    while (list_has_packet_id(&c->sent, packet_id) || list_has_packet_id(&c->held, packet_id)) {
        packet_id = (uint16_t)(packet_id == UINT16_MAX ? 1 : packet_id + 1);
    }
    return packet_id;
}

static void log_undeliverable(mqtt_device *m, const nv_c2d_message *message)
{
    nv_subject subject = mqtt_subject(m);
    nv_diag(NV_LEVEL_WARN, "mqtt", &subject,
            "message %" PRIu64 " rejected: its properties do not fit a topic of MQTT (65,535 bytes)",
            message->sequence);
}

/* Nothing can be sent any more: the end of the session gives everything back to the queue. */
static bool write_publish(mqtt_device *m, const nv_mqtt_publish *publish)
{
    size_t size = nv_mqtt_publish_size(publish->topic.len, publish->payload.len, publish->qos);
    uint8_t *room = mqtt_reserve(m, size);
    if (!room) {
        return false;
    }
    nv_writer w = nv_writer_of(room, size);
    nv_mqtt_write_publish(&w, publish);
    nv_buf_commit(m->session.out, w.err == NV_OK ? nv_writer_len(&w) : 0);
    return w.err == NV_OK;
}

static void publish(mqtt_c2d *c, mqtt_c2d_entry *entry, nv_c2d_message *message, nv_span topic)
{
    mqtt_device *m = c->owner;
    uint8_t qos = mqtt_subscription_qos(m, NV_FILTER_DEVICEBOUND) > 0 ? 1 : 0;
    bool again = entry->packet_id != 0; /* of this connection, else of an earlier one of the same session */
    bool dup = qos > 0 && (again || (m->resumed && message->delivery_count > 1));
    nv_list_remove(&entry->link);
    if (qos > 0 && !again) {
        entry->packet_id = packet_id_for(c, entry->sequence);
    }
    nv_list_push_back(&c->sent, &entry->link); /* the session may end while it is written, and clears the lists then */
    nv_mqtt_publish packet = {.topic = topic,
                              .payload = message->body,
                              .packet_id = qos > 0 ? entry->packet_id : (uint16_t)0,
                              .qos = qos,
                              .dup = dup};
    if (write_publish(m, &packet) && qos == 0) {
        settle(c, entry, NV_C2D_COMPLETE);
    }
}

/* Takes over the reference on @p message. The session may have ended when it returns. */
static void send_entry(mqtt_c2d *c, mqtt_c2d_entry *entry, nv_c2d_message *message)
{
    mqtt_device *m = c->owner;
    uint8_t on_stack[1024];
    uint8_t *topic = on_stack;
    nv_writer w = nv_writer_of(topic, sizeof(on_stack));
    mqtt_write_c2d_topic(&w, m->identity->device_id, message, mqtt_hub(m)->limits.c2d_ttl_s * NV_US_PER_S);
    if (w.err != NV_OK) {
        topic = nv_malloc(NV_MQTT_MAX_STRING);
        w = nv_writer_of(topic, NV_MQTT_MAX_STRING);
        mqtt_write_c2d_topic(&w, m->identity->device_id, message, mqtt_hub(m)->limits.c2d_ttl_s * NV_US_PER_S);
    }
    if (w.err == NV_OK) {
        publish(c, entry, message, nv_writer_span(&w));
    } else {
        log_undeliverable(m, message);
        settle(c, entry, NV_C2D_REJECT);
    }
    if (topic != on_stack) {
        free(topic);
    }
    nv_c2d_message_unref(message);
}

void mqtt_c2d_room(mqtt_device *m)
{
    while (m->c2d && !nv_list_empty(&m->c2d->held) && !mqtt_output_full(m)) {
        mqtt_c2d_entry *entry = entry_of(m->c2d->held.next);
        nv_c2d_message *message = entry->message;
        entry->message = NULL;
        send_entry(m->c2d, entry, message);
    }
}

/* ---- receiving ------------------------------------------------------------------------------------------------- */

static mqtt_c2d_entry *find_in(nv_list *list, uint64_t sequence)
{
    for (nv_list *link = list->next; link != list; link = link->next) {
        if (entry_of(link)->sequence == sequence) {
            return entry_of(link);
        }
    }
    return NULL;
}

static void forget(mqtt_c2d *c, mqtt_c2d_entry *entry)
{
    c->count--;
    entry_free(entry);
}

static mqtt_c2d_entry *first_lost(nv_list *list, int64_t now_us)
{
    for (nv_list *link = list->next; link != list; link = link->next) {
        if (entry_of(link)->until_us <= now_us) {
            return entry_of(link);
        }
    }
    return NULL;
}

/* The queue hands out no more than the credit, so with one more than that here another has lost its lock. */
static void make_room(mqtt_c2d *c)
{
    int64_t now_us = nv_mono_us(mqtt_hub(c->owner)->clock);
    if ((int64_t)c->count < mqtt_hub(c->owner)->limits.c2d_inflight) {
        return;
    }
    mqtt_c2d_entry *lost = first_lost(&c->sent, now_us);
    lost = lost ? lost : first_lost(&c->held, now_us);
    forget(c, lost ? lost : entry_of(nv_list_empty(&c->sent) ? c->held.next : c->sent.next));
}

static mqtt_c2d_entry *entry_for(mqtt_c2d *c, uint64_t sequence)
{
    mqtt_c2d_entry *entry = find_in(&c->sent, sequence);
    entry = entry ? entry : find_in(&c->held, sequence);
    if (entry) {
        return entry; /* its lock was lost: this is the same message again */
    }
    make_room(c);
    entry = nv_calloc(1, sizeof(*entry));
    entry->c2d = c;
    entry->sequence = sequence;
    nv_list_init(&entry->link);
    c->count++;
    return entry;
}

/* When the lock of a message that was handed out now is over: by itself, or with the life of the message. */
static int64_t lock_end(const nv_hub *hub, const nv_c2d_message *message)
{
    int64_t lock_us = hub->limits.c2d_lock_s * NV_US_PER_S;
    int64_t life_us = message->expires_us - nv_wall_us(hub->clock);
    return nv_mono_us(hub->clock) + (life_us < lock_us ? life_us : lock_us);
}

static void on_message(nv_c2d_receiver *receiver, nv_c2d_message *message)
{
    mqtt_c2d *c = (mqtt_c2d *)(void *)receiver;
    mqtt_device *m = c->owner;
    mqtt_c2d_entry *entry = entry_for(c, message->sequence);
    mqtt_operated(m);
    entry->until_us = lock_end(mqtt_hub(m), message);
    memcpy(entry->lock_token, message->lock_token, sizeof(entry->lock_token));
    nv_c2d_message_ref(message);
    nv_c2d_message_unref(entry->message);
    entry->message = NULL;
    if (mqtt_output_full(m) || !nv_list_empty(&c->held)) {
        entry->message = message;
        nv_list_remove(&entry->link);
        nv_list_push_back(&c->held, &entry->link);
    } else {
        send_entry(c, entry, message);
    }
    m->session.carrier->wake(m->session.carrier);
}

/* ---- subscribing ----------------------------------------------------------------------------------------------- */

static void start(mqtt_device *m)
{
    mqtt_c2d *c = nv_calloc(1, sizeof(*c));
    c->owner = m;
    nv_list_init(&c->sent);
    nv_list_init(&c->held);
    c->receiver = (nv_c2d_receiver){
        .identity = m->identity, .credit = nv_limit_31(mqtt_hub(m)->limits.c2d_inflight), .message = on_message};
    m->c2d = c;
    nv_c2d_attach(m->session.carrier->loop, &c->receiver);
}

static void detached(nv_c2d_receiver *receiver)
{
    mqtt_c2d *c = (mqtt_c2d *)(void *)receiver;
    mqtt_device *m = c->owner;
    c->detached = true;
    c2d_free_if_over(c);
    mqtt_operation_done(m);
}

static void stop(mqtt_device *m)
{
    mqtt_c2d *c = m->c2d;
    m->c2d = NULL;
    while (!nv_list_empty(&c->sent)) {
        forget(c, entry_of(nv_list_first(&c->sent)));
    }
    while (!nv_list_empty(&c->held)) {
        forget(c, entry_of(nv_list_first(&c->held)));
    }
    m->operations++;
    nv_c2d_detach(&c->receiver, detached);
}

void mqtt_c2d_set(mqtt_device *m, bool wanted)
{
    if (wanted && !m->c2d) {
        start(m);
    } else if (!wanted && m->c2d) {
        stop(m);
    }
}
