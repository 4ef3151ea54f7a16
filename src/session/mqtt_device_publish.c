/*
 * The hot path: PUBLISH in, telemetry out, PUBACK back. A device repeats its topic, so what the last topic meant is
 * kept and the next message costs one comparison, one append and one entry of the ring.
 */
#include "session/mqtt_device_internal.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- the ring of what is in flight --------------------------------------------------------------------------- */

#define RING_FIRST 16u

/* The largest messages that a configuration may allow count as what fits: never as none, nor into the packet id. */
static uint32_t ring_entry(uint16_t packet_id, size_t bytes)
{
    size_t units = (bytes + MQTT_RING_UNIT - 1) / MQTT_RING_UNIT;
    return (uint32_t)packet_id << 16 | (uint32_t)(units < UINT16_MAX ? units : UINT16_MAX);
}

static uint32_t entry_units(uint32_t entry)
{
    return entry & 0xFFFFu;
}

static uint16_t entry_id(uint32_t entry)
{
    return (uint16_t)(entry >> 16);
}

static void ring_grow(mqtt_device *m)
{
    mqtt_ring *ring = &m->ring;
    uint32_t capacity = ring->capacity ? ring->capacity * 2 : RING_FIRST;
    uint32_t *entries = nv_malloc(capacity * sizeof(*entries));
    for (uint32_t i = 0; i < ring->count; i++) {
        entries[i] = ring->entries[(ring->first + i) & (ring->capacity - 1)];
    }
    free(ring->entries);
    ring->entries = entries;
    ring->capacity = capacity;
    ring->first = 0;
}

/* Buffers exist from now on: look now and then whether they are still used. */
static void watch_buffers(mqtt_device *m)
{
    if (m->idle_us == INT64_MAX) {
        m->idle_us = m->heard_us + MQTT_IDLE_US;
        if (m->idle_us < m->session.deadline_us) {
            m->session.deadline_us = m->idle_us;
        }
    }
}

static inline void ring_push(mqtt_device *m, uint32_t entry)
{
    mqtt_ring *ring = &m->ring;
    if (NV_UNLIKELY(ring->count == ring->capacity)) {
        ring_grow(m);
        watch_buffers(m);
    }
    ring->entries[(ring->first + ring->count++) & (ring->capacity - 1)] = entry;
    ring->units += entry_units(entry);
}

static uint32_t ring_pop(mqtt_ring *ring)
{
    uint32_t entry = ring->entries[ring->first];
    ring->first = (ring->first + 1) & (ring->capacity - 1);
    ring->count--;
    ring->units -= entry_units(entry);
    return entry;
}

bool mqtt_ring_full(const mqtt_device *m)
{
    const nv_limits *limits = &mqtt_hub(m)->limits;
    return (int64_t)m->ring.count >= limits->inflight_messages ||
           (int64_t)m->ring.units * MQTT_RING_UNIT >= limits->inflight_bytes;
}

void mqtt_release_buffers(mqtt_device *m)
{
    free(m->ring.entries);
    m->ring = (mqtt_ring){0};
    if (m->topic) {
        nv_buf_deinit(&m->topic->properties);
        free(m->topic);
        m->topic = NULL;
    }
    m->idle_us = INT64_MAX;
}

/* ---- topics --------------------------------------------------------------------------------------------------- */

static void end_for_topic(mqtt_device *m, nv_refusal why, const char *reason, nv_span topic)
{
    char detail[NV_REFUSAL_DETAIL];
    (void)snprintf(detail, sizeof(detail), "%s%s\"%.*s\"", reason, *reason ? ": " : "",
                   NV_SPAN_ARG(nv_span_first(topic, 80)));
    mqtt_end_for(m, why, detail);
}

static mqtt_topic_cache *topic_room(mqtt_device *m, size_t len)
{
    mqtt_topic_cache *t = m->topic;
    if (t && t->capacity >= len) {
        return t;
    }
    mqtt_topic_cache *larger = nv_realloc(t, sizeof(*t) + len);
    if (!t) {
        nv_buf_init(&larger->properties, 4 * (size_t)NV_MQTT_MAX_STRING);
    }
    larger->capacity = (uint32_t)len;
    larger->len = 0;
    m->topic = larger;
    watch_buffers(m);
    return larger;
}

/* Not before: most devices that wait for something publish nothing. */
static inline void need_stamp(mqtt_device *m)
{
    if (NV_UNLIKELY(!mqtt_has_stamp(m))) {
        mqtt_make_stamp(m, NV_SPAN_EMPTY);
    }
}

/* Keep what a telemetry topic says. @return false: the session has ended */
static bool learn_topic(mqtt_device *m, nv_span topic, nv_span bag)
{
    need_stamp(m);
    mqtt_topic_cache *t = topic_room(m, topic.len);
    t->len = 0; /* nothing is kept unless all goes well */
    t->counted = 0;
    nv_buf_clear(&t->properties);
    nv_err err = mqtt_encode_bag(bag, &t->properties, &t->counted);
    if (err != NV_OK) {
        mqtt_end_for(m, NV_REFUSAL_TOO_BIG, err == NV_E_LIMIT ? "too many properties" : "the properties");
        return false;
    }
    if (NV_UNLIKELY(mqtt_hub(m)->faults)) { /* each message is looked at, so the topic is not kept */
        mqtt_fault_order(m, nv_buf_span(&t->properties));
        return !m->fault || mqtt_fault_allows(m);
    }
    memcpy(t->topic, topic.ptr, topic.len);
    t->len = (uint32_t)topic.len;
    return true;
}

static nv_refusal refusal_of_topic(const mqtt_device *m, nv_span topic, nv_err err)
{
    if (!m->has_api_version && nv_topic_needs_api_version(topic)) {
        return NV_REFUSAL_API_VERSION;
    }
    return err == NV_E_UNAUTHORIZED ? NV_REFUSAL_FOREIGN_TOPIC : NV_REFUSAL_TOPIC;
}

static void acknowledge_without_log(mqtt_device *m, uint16_t packet_id);

/* A topic that is not the last one. @return true: it is telemetry, and m->topic now describes it */
static bool on_other_topic(mqtt_device *m, const nv_mqtt_publish *publish)
{
    nv_topic topic;
    const char *why = "";
    nv_topic_owner owner = mqtt_owner(m);
    nv_err err = nv_topic_parse(publish->topic, &owner, &topic, &why);
    if (err != NV_OK || (!m->has_api_version && nv_topic_needs_api_version(publish->topic))) {
        end_for_topic(m, refusal_of_topic(m, publish->topic, err), err == NV_OK ? "" : why, publish->topic);
        return false;
    }
    if (topic.kind == NV_TOPIC_TELEMETRY) {
        return learn_topic(m, publish->topic, topic.bag);
    }
    mqtt_operated(m);
    mqtt_on_request(m, &topic, publish->payload);
    if (publish->qos > 0 && m->state == MQTT_OPEN) {
        acknowledge_without_log(m, publish->packet_id);
    }
    return false;
}

static inline bool is_last_topic(const mqtt_device *m, nv_span topic)
{
    return m->topic && m->topic->len == topic.len && memcmp(m->topic->topic, topic.ptr, topic.len) == 0;
}

/* ---- publishing ------------------------------------------------------------------------------------------------ */

static nv_err send_now(mqtt_device *m, nv_span properties, nv_span body)
{
    return nv_telemetry_send(m->session.carrier->loop->telemetry, &m->client, NV_SOURCE_TELEMETRY, properties, body);
}

/* DUP and RETAIN mean nothing here; they are passed on as properties (mqtt.md section 4). */
static nv_err send_flagged(mqtt_device *m, const nv_mqtt_publish *publish)
{
    nv_buf properties;
    nv_buf_init(&properties, m->topic->properties.max + 64);
    nv_err err = nv_buf_append(&properties, nv_buf_span(&m->topic->properties));
    if (err == NV_OK && publish->dup) {
        err = mqtt_put_property(&properties, "mqtt-dup", "true");
    }
    if (err == NV_OK && publish->retain) {
        err = mqtt_put_property(&properties, "mqtt-retain", "true");
    }
    if (err == NV_OK) {
        err = send_now(m, nv_buf_span(&properties), publish->payload);
    }
    nv_buf_deinit(&properties);
    return err;
}

static void end_too_big(mqtt_device *m, size_t size)
{
    char detail[NV_REFUSAL_DETAIL];
    (void)snprintf(detail, sizeof(detail), "%zu bytes with properties, the limit is %lld", size,
                   (long long)mqtt_hub(m)->limits.message_bytes);
    mqtt_end_for(m, NV_REFUSAL_TOO_BIG, detail);
}

bool mqtt_on_publish(mqtt_device *m, const nv_mqtt_packet *packet)
{
    const nv_mqtt_publish *publish = &packet->u.publish;
    if (NV_UNLIKELY(publish->qos == 2)) {
        mqtt_end_for(m, NV_REFUSAL_QOS2, "");
        return true;
    }
    if (NV_UNLIKELY(!is_last_topic(m, publish->topic)) && !on_other_topic(m, publish)) {
        return !m->blocked;
    }
    size_t size = publish->payload.len + m->topic->counted;
    if (NV_UNLIKELY(size > (size_t)mqtt_hub(m)->limits.message_bytes)) {
        end_too_big(m, size);
        return true;
    }
    nv_err err = NV_UNLIKELY(publish->dup || publish->retain)
                     ? send_flagged(m, publish)
                     : send_now(m, nv_buf_span(&m->topic->properties), publish->payload);
    if (NV_LIKELY(err == NV_OK)) {
        m->busy = true;
        mqtt_operated(m);
        ring_push(m, ring_entry(publish->packet_id, packet->size));
        if (NV_UNLIKELY(mqtt_ring_full(m))) {
            m->session.reading = false;
        }
        return true;
    }
    if (err == NV_E_AGAIN) {
        m->blocked = true;
        m->session.reading = false;
        return false;
    }
    end_too_big(m, size);
    return true;
}

static bool add_message_type(nv_buf *properties, const mqtt_will *will)
{
    return mqtt_put_property(properties, "iothub-MessageType", "Will") == NV_OK &&
           (!will->retain || mqtt_put_property(properties, "mqtt-retain", "true") == NV_OK);
}

bool mqtt_send_will(mqtt_device *m)
{
    const mqtt_will *will = m->will;
    need_stamp(m);
    nv_topic topic;
    const char *why = "";
    size_t counted = 0;
    nv_topic_owner owner = mqtt_owner(m);
    nv_err err = nv_topic_parse(nv_span_of(will->bytes, will->topic_len), &owner, &topic, &why);
    nv_buf properties;
    nv_buf_init(&properties, 4 * (size_t)NV_MQTT_MAX_STRING);
    if (err == NV_OK && mqtt_encode_bag(topic.bag, &properties, &counted) == NV_OK &&
        add_message_type(&properties, will)) {
        err = send_now(m, nv_buf_span(&properties), nv_span_of(will->bytes + will->topic_len, will->payload_len));
        if (err == NV_OK) {
            ring_push(m, ring_entry(0, will->payload_len + 1));
        }
    }
    nv_buf_deinit(&properties);
    return err != NV_E_AGAIN;
}

/* ---- acknowledging --------------------------------------------------------------------------------------------- */

/* Something with QoS 1 that the log does not see: its PUBACK takes its turn behind the telemetry before it. */
static void acknowledge_without_log(mqtt_device *m, uint16_t packet_id)
{
    if (m->ring.count > 0) {
        ring_push(m, ring_entry(packet_id, 0));
        mqtt_update_reading(m);
        return;
    }
    uint8_t *room = mqtt_reserve(m, NV_MQTT_ACK_SIZE);
    if (room) {
        nv_mqtt_put_puback(room, packet_id);
        nv_buf_commit(m->session.out, NV_MQTT_ACK_SIZE);
    }
}

/* The oldest @p count messages of the log, and what only waited behind them: one write. */
static void acknowledge(mqtt_device *m, uint32_t count)
{
    mqtt_ring *ring = &m->ring;
    bool silent = m->broken || m->lost;
    uint8_t *start = silent ? NULL : mqtt_reserve(m, (size_t)ring->count * NV_MQTT_ACK_SIZE);
    uint8_t *at = start;
    while (ring->count > 0 && (count > 0 || entry_units(ring->entries[ring->first]) == 0)) {
        uint32_t entry = ring_pop(ring);
        count -= entry_units(entry) > 0;
        if (at && entry_id(entry) != 0) {
            at = nv_mqtt_put_puback(at, entry_id(entry));
        }
    }
    if (start) {
        nv_buf_commit(m->session.out, (size_t)(at - start));
    }
}

void mqtt_on_stored(nv_telemetry_client *client, uint32_t count, nv_err status)
{
    mqtt_device *m = nv_container_of(client, mqtt_device, client);
    m->blocked = false;
    if (status != NV_OK) {
        m->broken = true;
    }
    if (count > 0) {
        acknowledge(m, count);
    }
    if (status != NV_OK) {
        char detail[NV_REFUSAL_DETAIL];
        (void)snprintf(detail, sizeof(detail), "%u messages were not stored: %s", count, nv_err_text(status));
        mqtt_end_for(m, NV_REFUSAL_STORAGE, detail);
    }
    mqtt_update_reading(m);
    mqtt_settle(m);
    m->session.carrier->wake(m->session.carrier);
}
