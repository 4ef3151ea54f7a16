/* SUBSCRIBE and UNSUBSCRIBE (mqtt.md sections 4 and 5). A session has at most one subscription of each kind. */
#include "session/mqtt_device_internal.h"

#include "base/alloc.h"
#include "base/diag.h"

#include <stdlib.h>

static nv_subscription *find(mqtt_device *m, nv_filter_kind kind)
{
    for (size_t i = 0; i < m->claim.subscription_count; i++) {
        if (m->claim.subscriptions[i].kind == (uint8_t)kind) {
            return &m->claim.subscriptions[i];
        }
    }
    return NULL;
}

int mqtt_subscription_qos(const mqtt_device *m, nv_filter_kind kind)
{
    for (size_t i = 0; i < m->claim.subscription_count; i++) {
        if (m->claim.subscriptions[i].kind == (uint8_t)kind) {
            return m->claim.subscriptions[i].qos;
        }
    }
    return -1;
}

/* @return the code of SUBACK */
static uint8_t add(mqtt_device *m, nv_filter_kind kind, uint8_t qos)
{
    uint8_t granted = qos > 1 ? 1 : qos;
    nv_subscription *have = find(m, kind);
    if (!have) {
        if (m->claim.subscription_count == NV_SUBSCRIPTIONS_MAX) {
            return NV_MQTT_SUBACK_FAILURE;
        }
        have = &m->claim.subscriptions[m->claim.subscription_count++];
    }
    *have = (nv_subscription){(uint8_t)kind, granted};
    return granted;
}

static void drop(mqtt_device *m, nv_filter_kind kind)
{
    nv_subscription *have = find(m, kind);
    if (have) {
        *have = m->claim.subscriptions[--m->claim.subscription_count];
    }
}

void mqtt_follow_subscriptions(mqtt_device *m)
{
    unsigned wants = 0;
    if (m->has_api_version) { /* a kept session may hold what this connection must not touch */
        wants |= mqtt_subscription_qos(m, NV_FILTER_DESIRED) >= 0 ? NV_WANTS_DESIRED : 0;
        wants |= mqtt_subscription_qos(m, NV_FILTER_METHODS) >= 0 ? NV_WANTS_METHODS : 0;
    }
    if (wants != m->wants) {
        m->wants = wants & 3;
        nv_claim_want(&m->claim, wants);
    }
    mqtt_c2d_set(m, mqtt_subscription_qos(m, NV_FILTER_DEVICEBOUND) >= 0);
}

/* ---- answering ------------------------------------------------------------------------------------------------ */

/* From here on the change is in force: what it asks for comes behind its acknowledgement. */
static void send_ack(mqtt_device *m, const mqtt_pending_ack *ack)
{
    uint8_t *room = mqtt_reserve(m, ack->len);
    if (room) {
        memcpy(room, ack->packet, ack->len);
        nv_buf_commit(m->session.out, ack->len);
        mqtt_operated(m);
        mqtt_follow_subscriptions(m);
    }
}

static void subscriptions_stored(void *arg, nv_err status)
{
    mqtt_device *m = arg;
    mqtt_pending_ack *ack = m->pending_ack;
    m->pending_ack = NULL;
    if (status != NV_OK) {
        mqtt_end_for(m, NV_REFUSAL_STORAGE, "the subscriptions could not be stored");
    } else if (m->state == MQTT_OPEN) {
        send_ack(m, ack);
    }
    free(ack);
    mqtt_update_reading(m);
    mqtt_settle(m);
    m->session.carrier->wake(m->session.carrier);
}

/* Answer at once, or, if the session outlives the connection, once the change does too. Nothing is read meanwhile. */
static void answer(mqtt_device *m, mqtt_pending_ack *ack, bool changed)
{
    if (m->persistent && changed) {
        m->pending_ack = ack;
        mqtt_update_reading(m);
        nv_session_store(m->session.carrier->loop, m->identity, m->claim.subscriptions, m->claim.subscription_count,
                         subscriptions_stored, m);
        return;
    }
    send_ack(m, ack);
    free(ack);
}

static mqtt_pending_ack *ack_new(size_t size)
{
    mqtt_pending_ack *ack = nv_calloc(1, sizeof(*ack) + size);
    ack->len = size;
    return ack;
}

/* ---- requests -------------------------------------------------------------------------------------------------- */

/* A session without api-version must not touch twins and methods: the connection ends (mqtt.md section 2.3). */
static bool touches_forbidden(mqtt_device *m, nv_span filter)
{
    if (m->has_api_version || !nv_topic_needs_api_version(filter)) {
        return false;
    }
    mqtt_end_for(m, NV_REFUSAL_API_VERSION, "SUBSCRIBE");
    return true;
}

static void log_refused(const mqtt_device *m, nv_span filter, const char *why, size_t refused)
{
    nv_subject subject = mqtt_subject(m);
    nv_diag(NV_LEVEL_WARN, "mqtt", &subject, "subscription refused: %s: \"%.*s\" (%zu in this packet)", why,
            NV_SPAN_ARG(nv_span_first(filter, 100)), refused);
}

/* One code per filter, in order. @return false: the session has ended */
static bool grant(mqtt_device *m, const nv_mqtt_subscribe *subscribe, uint8_t *codes, bool *changed)
{
    nv_reader r = nv_reader_of(subscribe->filters);
    nv_topic_owner owner = mqtt_owner(m);
    nv_span filter;
    nv_span first_refused = NV_SPAN_EMPTY;
    const char *first_why = "";
    size_t refused = 0;
    uint8_t qos = 0;
    for (size_t i = 0; i < subscribe->count && nv_mqtt_next_filter(&r, &filter, &qos); i++) {
        nv_filter_kind kind = NV_FILTER_NONE;
        const char *why = "too many filters";
        if (touches_forbidden(m, filter)) {
            return false;
        }
        bool within = (int64_t)i < mqtt_hub(m)->limits.subscriptions;
        bool known = within && nv_filter_parse(filter, &owner, &kind, &why) == NV_OK;
        codes[i] = known ? add(m, kind, qos) : (uint8_t)NV_MQTT_SUBACK_FAILURE;
        *changed = *changed || known;
        if (!known && refused++ == 0) {
            first_refused = filter;
            first_why = why;
        }
    }
    if (refused > 0) {
        log_refused(m, first_refused, first_why, refused);
    }
    return true;
}

void mqtt_on_subscribe(mqtt_device *m, const nv_mqtt_subscribe *subscribe)
{
    uint8_t *codes = nv_calloc(subscribe->count, 1);
    bool changed = false;
    if (grant(m, subscribe, codes, &changed)) {
        size_t remaining = 2 + subscribe->count;
        mqtt_pending_ack *ack = ack_new(nv_mqtt_fixed_size(remaining) + remaining);
        nv_writer w = nv_writer_of(ack->packet, ack->len);
        nv_mqtt_write_suback(&w, subscribe->packet_id, nv_span_of(codes, subscribe->count));
        ack->len = nv_writer_len(&w);
        answer(m, ack, changed);
    }
    free(codes);
}

void mqtt_on_unsubscribe(mqtt_device *m, const nv_mqtt_subscribe *unsubscribe)
{
    nv_reader r = nv_reader_of(unsubscribe->filters);
    nv_topic_owner owner = mqtt_owner(m);
    nv_span filter;
    const char *why = "";
    uint8_t before = m->claim.subscription_count;
    while (nv_mqtt_next_filter(&r, &filter, NULL)) {
        nv_filter_kind kind = NV_FILTER_NONE;
        if (touches_forbidden(m, filter)) {
            return;
        }
        if (nv_filter_parse(filter, &owner, &kind, &why) == NV_OK) {
            drop(m, kind);
        }
    }
    mqtt_pending_ack *ack = ack_new(NV_MQTT_ACK_SIZE);
    nv_writer w = nv_writer_of(ack->packet, ack->len);
    nv_mqtt_write_ack(&w, NV_MQTT_UNSUBACK, unsubscribe->packet_id);
    answer(m, ack, m->claim.subscription_count != before);
}
