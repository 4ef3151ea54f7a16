#include "session/mqtt_device_internal.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "base/metrics.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- states ------------------------------------------------------------------------------------------------- */

static bool may_follow(mqtt_state from, mqtt_state to)
{
    switch (to) {
    case MQTT_WAITING:
        return false;
    case MQTT_CHECKING:
        return from == MQTT_WAITING;
    case MQTT_CLAIMING:
        return from == MQTT_CHECKING;
    case MQTT_OPEN:
        return from == MQTT_CLAIMING;
    case MQTT_ENDING:
        return from < MQTT_ENDING;
    case MQTT_CLOSED:
        return from == MQTT_ENDING;
    }
    return false;
}

void mqtt_set_state(mqtt_device *m, mqtt_state state)
{
    assert(may_follow(m->state, state));
    if (m->state == MQTT_OPEN) {
        nv_metric_add(NV_M_MQTT_SESSIONS, -1);
    }
    if (state == MQTT_OPEN) {
        nv_metric_add(NV_M_MQTT_SESSIONS, 1);
        nv_metric_add(NV_M_MQTT_CONNECTS, 1);
    }
    m->state = state;
    mqtt_update_reading(m);
}

void mqtt_update_reading(mqtt_device *m)
{
    m->session.reading =
        m->state == MQTT_WAITING || (m->state == MQTT_OPEN && !m->blocked && !m->pending_ack && !mqtt_ring_full(m) &&
                                     !mqtt_twins_full(m) && !mqtt_output_full(m));
}

static int64_t add_us(int64_t now_us, int64_t delta_us)
{
    return delta_us < INT64_MAX - now_us ? now_us + delta_us : INT64_MAX;
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

void mqtt_update_deadline(mqtt_device *m, int64_t now_us)
{
    if (m->state != MQTT_OPEN) {
        m->session.deadline_us = INT64_MAX;
        return;
    }
    int64_t deadline = earlier(add_us(m->heard_us, m->silence_us), m->idle_us);
    if (m->expires_wall_us < INT64_MAX) {
        int64_t left = m->expires_wall_us - nv_wall_us(mqtt_hub(m)->clock);
        deadline = earlier(deadline, add_us(now_us, left > 0 ? left : 0));
    }
    m->session.deadline_us = m->fault ? earlier(deadline, m->fault->at_us) : deadline;
}

/* ---- ending ------------------------------------------------------------------------------------------------- */

static void wake(mqtt_device *m)
{
    m->session.carrier->wake(m->session.carrier);
}

static void released(nv_claim *claim)
{
    mqtt_device *m = nv_container_of(claim, mqtt_device, claim);
    m->claimed = m->releasing = false;
    mqtt_settle(m);
}

static bool promises_kept(mqtt_device *m)
{
    if (m->will) {
        if (!mqtt_send_will(m)) {
            return false;
        }
        free(m->will);
        m->will = NULL;
    }
    return m->client.pending == 0 && m->operations == 0 && !m->pending_ack && !m->connecting;
}

void mqtt_settle(mqtt_device *m)
{
    if (m->state < MQTT_ENDING || m->session.done || !promises_kept(m)) {
        return;
    }
    if (m->state == MQTT_ENDING) {
        mqtt_set_state(m, MQTT_CLOSED);
        mqtt_release_buffers(m);
        m->session.closing = true;
        wake(m);
    }
    if (m->claimed) {
        if (!m->releasing) {
            m->releasing = true;
            nv_claim_release(&m->claim, released);
        }
        return;
    }
    m->session.done = true;
    wake(m);
}

void mqtt_end(mqtt_device *m)
{
    if (m->state >= MQTT_ENDING) {
        return;
    }
    if (m->state != MQTT_OPEN) { /* a will belongs to a connection that was accepted [MQTT-3.1.2-8] */
        free(m->will);
        m->will = NULL;
    }
    mqtt_set_state(m, MQTT_ENDING);
    m->session.deadline_us = INT64_MAX;
    mqtt_c2d_set(m, false); /* what it did not acknowledge is in the queue again before a next connection asks */
    mqtt_settle(m);
}

void mqtt_operation_done(mqtt_device *m)
{
    m->operations--;
    mqtt_update_reading(m);
    mqtt_settle(m);
    wake(m);
}

/* Did the peer break a rule, or did something happen to it? */
static bool is_fault_of_peer(nv_refusal why)
{
    return why == NV_REFUSAL_MALFORMED || why == NV_REFUSAL_QOS2 || why == NV_REFUSAL_TOO_BIG ||
           why == NV_REFUSAL_TOPIC || why == NV_REFUSAL_FOREIGN_TOPIC || why == NV_REFUSAL_API_VERSION ||
           why == NV_REFUSAL_DEADLINE || why == NV_REFUSAL_SLOW_READER || why == NV_REFUSAL_KEEP_ALIVE;
}

void mqtt_end_for(mqtt_device *m, nv_refusal why, const char *detail)
{
    if (m->state >= MQTT_ENDING) {
        return;
    }
    if (is_fault_of_peer(why)) {
        nv_metric_add(NV_M_MQTT_CLOSED_BAD, 1);
    }
    nv_hub_refuse(mqtt_hub(m), "mqtt", m->session.carrier->peer, m->identity ? m->identity->device_id : NV_SPAN_EMPTY,
                  m->identity ? m->identity->module_id : NV_SPAN_EMPTY, why, detail);
    mqtt_end(m);
}

uint8_t *mqtt_reserve(mqtt_device *m, size_t len)
{
    if (m->lost) {
        return NULL;
    }
    uint8_t *room = nv_buf_reserve(m->session.out, len);
    if (!room) {
        mqtt_end_for(m, NV_REFUSAL_SLOW_READER, "");
    }
    return room;
}

bool mqtt_output_full(const mqtt_device *m)
{
    return nv_buf_len(m->session.out) > MQTT_OUTPUT_MARK;
}

void mqtt_send(mqtt_device *m, nv_span topic, nv_span payload)
{
    nv_mqtt_publish publish = {.topic = topic, .payload = payload};
    size_t size = nv_mqtt_publish_size(topic.len, payload.len, 0);
    uint8_t *room = mqtt_reserve(m, size);
    if (room) {
        nv_writer w = nv_writer_of(room, size);
        nv_mqtt_write_publish(&w, &publish);
        nv_buf_commit(m->session.out, w.err == NV_OK ? nv_writer_len(&w) : 0);
    }
}

/* ---- input -------------------------------------------------------------------------------------------------- */

static void end_malformed(mqtt_device *m, nv_err err, const nv_mqtt_packet *packet, const char *why)
{
    char detail[NV_REFUSAL_DETAIL];
    (void)snprintf(detail, sizeof(detail), "%s: %s", nv_mqtt_type_name((uint8_t)packet->type), why);
    mqtt_end_for(m, err == NV_E_TOO_BIG ? NV_REFUSAL_TOO_BIG : NV_REFUSAL_MALFORMED, detail);
}

static void answer_ping(mqtt_device *m)
{
    uint8_t *room = mqtt_reserve(m, 2);
    if (room) {
        nv_writer w = nv_writer_of(room, 2);
        nv_mqtt_write_empty(&w, NV_MQTT_PINGRESP);
        nv_buf_commit(m->session.out, nv_writer_len(&w));
    }
}

static void on_disconnect(mqtt_device *m)
{
    free(m->will); /* [MQTT-3.14.4-3] */
    m->will = NULL;
    mqtt_end(m);
}

/* Packets other than PUBLISH on an accepted connection. */
static void on_packet(mqtt_device *m, const nv_mqtt_packet *packet)
{
    switch (packet->type) {
    case NV_MQTT_SUBSCRIBE:
        mqtt_on_subscribe(m, &packet->u.subscribe);
        return;
    case NV_MQTT_UNSUBSCRIBE:
        mqtt_on_unsubscribe(m, &packet->u.unsubscribe);
        return;
    case NV_MQTT_PINGREQ:
        answer_ping(m);
        return;
    case NV_MQTT_DISCONNECT:
        on_disconnect(m);
        return;
    case NV_MQTT_PUBACK:
        mqtt_on_puback(m, packet->u.ack_id);
        return;
    case NV_MQTT_CONNECT:
        end_malformed(m, NV_E_SYNTAX, packet, "a second one on the same connection [MQTT-3.1.0-2]");
        return;
    case NV_MQTT_NONE:
    case NV_MQTT_CONNACK:
    case NV_MQTT_PUBLISH:
    case NV_MQTT_PUBREC:
    case NV_MQTT_PUBREL:
    case NV_MQTT_PUBCOMP:
    case NV_MQTT_SUBACK:
    case NV_MQTT_UNSUBACK:
    case NV_MQTT_PINGRESP:
        end_malformed(m, NV_E_SYNTAX, packet, "no packet that a client sends to this hub");
        return;
    }
}

static bool dispatch(mqtt_device *m, const nv_mqtt_packet *packet, nv_span bytes)
{
    if (NV_LIKELY(m->state == MQTT_OPEN && packet->type == NV_MQTT_PUBLISH)) {
        return mqtt_on_publish(m, packet);
    }
    if (m->state == MQTT_OPEN) {
        on_packet(m, packet);
    } else if (packet->type == NV_MQTT_CONNECT) {
        mqtt_on_connect(m, packet, bytes);
    } else {
        end_malformed(m, NV_E_SYNTAX, packet, "the first packet must be CONNECT [MQTT-3.1.0-1]");
    }
    return true;
}

static size_t input(nv_session *session, nv_span bytes, int64_t now_us)
{
    mqtt_device *m = (mqtt_device *)(void *)session;
    m->heard_us = now_us;
    nv_span left = bytes;
    while (session->reading && left.len > 0) {
        nv_mqtt_packet packet;
        size_t consumed = 0;
        const char *why = "";
        nv_err err = nv_mqtt_decode(left, session->max_pending, &packet, &consumed, &why);
        if (NV_UNLIKELY(err != NV_OK)) {
            if (err == NV_E_MORE && m->state == MQTT_WAITING && packet.type != NV_MQTT_CONNECT) {
                err = NV_E_SYNTAX; /* known by its first byte */
                why = "the first packet must be CONNECT [MQTT-3.1.0-1]";
            }
            if (err != NV_E_MORE) {
                end_malformed(m, err, &packet, why);
            }
            break;
        }
        if (!dispatch(m, &packet, left)) {
            break;
        }
        left = nv_span_skip(left, consumed);
    }
    if (m->state == MQTT_OPEN) {
        nv_claim_touch(&m->claim, now_us);
    }
    return bytes.len - left.len;
}

/* ---- time and transport -------------------------------------------------------------------------------------- */

static void look_at_idle_buffers(mqtt_device *m, int64_t now_us)
{
    if (now_us < m->idle_us) {
        return;
    }
    if (m->busy || m->ring.count > 0) {
        m->busy = false;
        m->idle_us = add_us(now_us, MQTT_IDLE_US);
    } else {
        mqtt_release_buffers(m);
    }
}

static void tick_open(mqtt_device *m, int64_t now_us)
{
    char detail[NV_REFUSAL_DETAIL];
    if (m->fault && !mqtt_fault_tick(m, now_us)) {
        return;
    }
    if (!m->session.reading && !mqtt_output_full(m)) {
        m->heard_us = now_us; /* its silence is our doing */
    }
    if (now_us - m->heard_us >= m->silence_us) {
        (void)snprintf(detail, sizeof(detail), "silent for %" PRId64 " s", (now_us - m->heard_us) / NV_US_PER_S);
        mqtt_end_for(m, NV_REFUSAL_KEEP_ALIVE, detail);
        return;
    }
    if (nv_wall_us(mqtt_hub(m)->clock) >= m->expires_wall_us) {
        mqtt_end_for(m, NV_REFUSAL_SESSION_EXPIRED, "");
        return;
    }
    look_at_idle_buffers(m, now_us);
    mqtt_update_deadline(m, now_us);
}

static void tick(nv_session *session, int64_t now_us)
{
    mqtt_device *m = (mqtt_device *)(void *)session;
    if (now_us < session->deadline_us) {
        return;
    }
    if (m->state == MQTT_WAITING) {
        mqtt_end_for(m, NV_REFUSAL_DEADLINE, "");
    } else if (m->state == MQTT_OPEN) {
        tick_open(m, now_us);
    }
}

static void sent(nv_session *session, int64_t now_us)
{
    mqtt_device *m = (mqtt_device *)(void *)session;
    if (m->c2d) {
        mqtt_c2d_room(m);
    }
    if (NV_UNLIKELY(!session->reading)) {
        m->heard_us = now_us; /* nobody listens to it, and it takes what it gets: a slow line is no silence */
        mqtt_update_reading(m);
    }
}

static void lost(nv_session *session, const char *why, int64_t now_us)
{
    (void)now_us;
    mqtt_device *m = (mqtt_device *)(void *)session;
    m->lost = true;
    if (m->state < MQTT_ENDING) {
        nv_subject subject = mqtt_subject(m);
        nv_diag(m->identity ? NV_LEVEL_INFO : NV_LEVEL_DEBUG, "mqtt", &subject, "connection lost: %s", why);
    }
    mqtt_end(m);
    mqtt_settle(m);
}

static void drain(nv_session *session, int64_t now_us)
{
    (void)now_us;
    mqtt_device *m = (mqtt_device *)(void *)session;
    if (m->state == MQTT_CHECKING || m->state == MQTT_CLAIMING) {
        mqtt_refuse_connect(m, NV_MQTT_REFUSED_UNAVAILABLE);
    } else {
        mqtt_end(m);
    }
}

static void free_session(nv_session *session)
{
    mqtt_device *m = (mqtt_device *)(void *)session;
    if (m->state == MQTT_OPEN) {
        nv_metric_add(NV_M_MQTT_SESSIONS, -1);
    }
    nv_telemetry_client_deinit(&m->client);
    mqtt_release_buffers(m);
    mqtt_connecting_free(m->connecting);
    nv_identity_unref(m->identity);
    free(m->will);
    free(m->pending_ack);
    free(m->fault);
    free((void *)(size_t)m->client.stamp.bytes.ptr);
    free(m);
}

static const nv_session_ops ops = {
    .input = input, .sent = sent, .tick = tick, .lost = lost, .drain = drain, .free = free_session};

nv_session *nv_mqtt_device_new(nv_carrier *carrier)
{
    const nv_hub *hub = carrier->loop->hub;
    int64_t now_us = nv_mono_us(hub->clock);
    mqtt_device *m = nv_calloc(1, sizeof(*m));
    m->session = (nv_session){.ops = &ops,
                              .carrier = carrier,
                              .out = carrier->out,
                              .deadline_us = add_us(now_us, hub->limits.connect_deadline_s * NV_US_PER_S),
                              .max_pending = (size_t)hub->limits.unauthenticated_bytes,
                              .reading = true};
    m->heard_us = now_us;
    m->idle_us = INT64_MAX;
    m->expires_wall_us = INT64_MAX;
    m->client.stored = mqtt_on_stored;
    return &m->session;
}
