/* From CONNECT to CONNACK (mqtt.md sections 2 and 3). */
#include "session/mqtt_device_internal.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "base/metrics.h"
#include "core/twin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* Fixed header, topic with its length, packet id: what a PUBLISH has around the bytes that the limit counts. A topic
 * can hold properties, which are counted, so the packet is judged generously and the message exactly. */
#define PUBLISH_OVERHEAD (5u + 2u + NV_MQTT_MAX_STRING + 2u)

void mqtt_connecting_free(mqtt_connecting *connecting)
{
    if (!connecting) {
        return;
    }
    nv_wipe(connecting->packet, connecting->packet_len);
    free(connecting->scratch);
    free(connecting);
}

static void send_connack(mqtt_device *m, bool session_present, uint8_t code)
{
    uint8_t *room = mqtt_reserve(m, NV_MQTT_ACK_SIZE);
    if (room) {
        nv_writer w = nv_writer_of(room, NV_MQTT_ACK_SIZE);
        nv_mqtt_write_connack(&w, session_present, code);
        nv_buf_commit(m->session.out, nv_writer_len(&w));
    }
}

void mqtt_refuse_connect(mqtt_device *m, uint8_t code)
{
    nv_metric_add(NV_M_MQTT_REFUSED, 1);
    send_connack(m, false, code);
    mqtt_end(m);
}

/* Refused before anybody was asked: note it here. */
static void refuse(mqtt_device *m, nv_refusal why, const char *detail, uint8_t code)
{
    const mqtt_connecting *c = m->connecting;
    nv_hub_refuse(mqtt_hub(m), "mqtt", m->session.carrier->peer, c ? c->username.device : NV_SPAN_EMPTY,
                  c ? c->username.module : NV_SPAN_EMPTY, why, detail);
    mqtt_connecting_free(m->connecting);
    m->connecting = NULL;
    mqtt_refuse_connect(m, code);
}

static void refuse_version(mqtt_device *m, const nv_mqtt_connect *connect)
{
    char detail[NV_REFUSAL_DETAIL];
    (void)snprintf(detail, sizeof(detail), "the client asked for \"%.*s\" level %u",
                   NV_SPAN_ARG(nv_span_first(connect->protocol_name, 16)), connect->level);
    bool is_mqtt = nv_span_eq_str(connect->protocol_name, "MQTT") || nv_span_eq_str(connect->protocol_name, "MQIsdp");
    if (!is_mqtt) { /* [MQTT-3.1.2-1] */
        mqtt_end_for(m, NV_REFUSAL_PROTOCOL, detail);
        return;
    }
    if (connect->level == NV_MQTT_LEVEL_5) {
        uint8_t packet[8];
        nv_writer w = nv_writer_of(packet, sizeof(packet));
        nv_mqtt_write_connack_v5(&w, NV_MQTT_V5_UNSUPPORTED);
        uint8_t *room = mqtt_reserve(m, nv_writer_len(&w));
        if (room) {
            memcpy(room, packet, nv_writer_len(&w));
            nv_buf_commit(m->session.out, nv_writer_len(&w));
        }
        nv_metric_add(NV_M_MQTT_REFUSED, 1);
        mqtt_end_for(m, NV_REFUSAL_PROTOCOL, detail);
        return;
    }
    refuse(m, NV_REFUSAL_PROTOCOL, detail, NV_MQTT_REFUSED_VERSION);
}

/* ---- after authentication ------------------------------------------------------------------------------------ */

static int64_t silence_of(const nv_hub *hub, uint16_t keep_alive_s)
{
    int64_t cap = hub->limits.keep_alive_cap_s * NV_US_PER_S;
    int64_t silence = (int64_t)keep_alive_s * (NV_US_PER_S + NV_US_PER_S / 2);
    return silence == 0 || silence > cap ? cap : silence;
}

static void keep_will(mqtt_device *m, const nv_mqtt_connect *connect)
{
    size_t len = connect->will_topic.len + connect->will_payload.len;
    m->will = nv_malloc(sizeof(*m->will) + len);
    m->will->topic_len = connect->will_topic.len;
    m->will->payload_len = connect->will_payload.len;
    m->will->retain = connect->will_retain;
    memcpy(m->will->bytes, connect->will_topic.ptr, connect->will_topic.len);
    if (connect->will_payload.len > 0) {
        memcpy(m->will->bytes + connect->will_topic.len, connect->will_payload.ptr, connect->will_payload.len);
    }
}

static bool will_is_telemetry(const mqtt_device *m, nv_span topic)
{
    nv_topic parsed;
    const char *why = "";
    nv_topic_owner owner = mqtt_owner(m);
    return nv_topic_parse(topic, &owner, &parsed, &why) == NV_OK && parsed.kind == NV_TOPIC_TELEMETRY;
}

void mqtt_make_stamp(mqtt_device *m, nv_span model_id)
{
    size_t len = 0;
    uint8_t *bytes = nv_telemetry_stamp_new(m->identity, model_id, m->auth_scope, m->auth_type, &len);
    nv_telemetry_client_init(m->session.carrier->loop->telemetry, &m->client, m->identity->device_id,
                             nv_span_of(bytes, len));
}

static void announce_model(mqtt_device *m)
{
    nv_stamp stamp;
    if (mqtt_has_stamp(m) && nv_stamp_decode(m->client.stamp.bytes, &stamp) == NV_OK && stamp.model_id.len > 0) {
        nv_twin_announce_model(m->session.carrier->loop, m->identity, stamp.model_id);
    }
}

static void granted(nv_claim *claim)
{
    mqtt_device *m = nv_container_of(claim, mqtt_device, claim);
    if (m->state != MQTT_CLAIMING) {
        return;
    }
    nv_log_status log;
    nv_log_get_status(mqtt_hub(m)->log, &log);
    if (claim->status != NV_OK || log.health != NV_LOG_OK) { /* mqtt.md 3.3: a full disk is a store that is down, too */
        nv_hub_refuse(mqtt_hub(m), "mqtt", m->session.carrier->peer, m->identity->device_id, m->identity->module_id,
                      NV_REFUSAL_STORAGE, claim->status != NV_OK ? "the state store failed" : log.reason);
        mqtt_refuse_connect(m, NV_MQTT_REFUSED_UNAVAILABLE);
        m->session.carrier->wake(m->session.carrier);
        return;
    }
    send_connack(m, claim->session_present, NV_MQTT_ACCEPTED);
    if (m->state != MQTT_CLAIMING) {
        return; /* there was no room even for that */
    }
    int64_t now_us = nv_mono_us(mqtt_hub(m)->clock);
    m->heard_us = now_us;
    m->session.max_pending = (size_t)mqtt_hub(m)->limits.message_bytes + PUBLISH_OVERHEAD;
    m->session.authenticated = true;
    mqtt_set_state(m, MQTT_OPEN);
    m->resumed = claim->session_present;
    mqtt_fault_resume(m);
    mqtt_update_deadline(m, now_us);
    announce_model(m);
    mqtt_follow_subscriptions(m);
    nv_subject subject = mqtt_subject(m);
    subject.peer = m->session.carrier->peer->address;
    nv_diag(NV_LEVEL_INFO, "mqtt", &subject, "connected%s", claim->session_present ? ", session resumed" : "");
    m->session.carrier->wake(m->session.carrier);
}

static void evicted(nv_claim *claim, nv_refusal why)
{
    mqtt_device *m = nv_container_of(claim, mqtt_device, claim);
    if (m->state == MQTT_CLAIMING) {
        nv_hub_refuse(mqtt_hub(m), "mqtt", m->session.carrier->peer, m->identity->device_id, m->identity->module_id,
                      why, "before it was accepted");
        mqtt_refuse_connect(m, why == NV_REFUSAL_REVOKED ? NV_MQTT_REFUSED_UNAUTHORIZED : NV_MQTT_REFUSED_UNAVAILABLE);
    } else {
        mqtt_end_for(m, why, "");
    }
    m->session.carrier->wake(m->session.carrier);
}

/* Take over what is needed for the life of the connection; the rest goes with the CONNECT packet. */
static void accept_identity(mqtt_device *m)
{
    const mqtt_connecting *c = m->connecting;
    m->expires_wall_us = c->auth.expires_wall_us;
    m->persistent = !c->connect.clean;
    m->has_api_version = c->username.api_version.len > 0;
    m->silence_us = silence_of(mqtt_hub(m), c->connect.keep_alive_s);
    m->auth_scope = c->auth.scope;
    m->auth_type = c->auth.type;
    if (c->username.model_id.len > 0) {
        mqtt_make_stamp(m, c->username.model_id);
    }
    m->claim = (nv_claim){.identity = m->identity,
                          .credential = c->auth.credential,
                          .clean = c->connect.clean,
                          .granted = granted,
                          .evict = evicted,
                          .deliver = mqtt_on_delivery};
}

static void authenticated(nv_auth_request *auth)
{
    mqtt_connecting *c = nv_container_of(auth, mqtt_connecting, auth);
    mqtt_device *m = c->owner;
    m->identity = auth->identity;
    bool will_ok = true;
    if (m->state == MQTT_CHECKING && auth->status == NV_OK) {
        will_ok = !c->connect.has_will || will_is_telemetry(m, c->connect.will_topic);
        if (will_ok && c->connect.has_will) {
            keep_will(m, &c->connect);
        }
        accept_identity(m);
    }
    nv_err status = auth->status;
    m->connecting = NULL;
    mqtt_connecting_free(c);
    if (m->state != MQTT_CHECKING) {
        mqtt_settle(m);
    } else if (status != NV_OK) {
        mqtt_refuse_connect(m,
                            status == NV_E_UNAUTHORIZED ? NV_MQTT_REFUSED_UNAUTHORIZED : NV_MQTT_REFUSED_UNAVAILABLE);
    } else if (!will_ok) {
        nv_hub_refuse(mqtt_hub(m), "mqtt", m->session.carrier->peer, m->identity->device_id, m->identity->module_id,
                      NV_REFUSAL_TOPIC, "of the will");
        mqtt_refuse_connect(m, NV_MQTT_REFUSED_UNAUTHORIZED);
    } else if (!mqtt_fault_refuses(m)) {
        mqtt_set_state(m, MQTT_CLAIMING);
        m->claimed = true;
        nv_claim_ask(m->session.carrier->loop, &m->claim);
    }
    m->session.carrier->wake(m->session.carrier);
}

/* ---- CONNECT ------------------------------------------------------------------------------------------------- */

/* The packet outlives the carrier's buffer until the answer: keep a copy and look at that from now on. */
static mqtt_connecting *copy_connect(mqtt_device *m, nv_span packet)
{
    mqtt_connecting *c = nv_calloc(1, sizeof(*c) + packet.len);
    memcpy(c->packet, packet.ptr, packet.len);
    c->packet_len = packet.len;
    c->owner = m;
    nv_mqtt_packet again;
    size_t consumed = 0;
    const char *why = "";
    if (nv_mqtt_decode(nv_span_of(c->packet, packet.len), packet.len, &again, &consumed, &why) == NV_OK) {
        c->connect = again.u.connect;
    }
    c->scratch = nv_malloc(c->connect.username.len + 1);
    return c;
}

static void authenticate(mqtt_device *m)
{
    mqtt_connecting *c = m->connecting;
    c->auth.protocol = "mqtt";
    c->auth.device_id = c->username.device;
    c->auth.module_id = c->username.module;
    c->auth.token = c->connect.has_password ? c->connect.password : NV_SPAN_EMPTY;
    c->auth.peer = m->session.carrier->peer;
    c->auth.done = authenticated;
    m->session.deadline_us = INT64_MAX;
    mqtt_set_state(m, MQTT_CHECKING);
    nv_auth_device(m->session.carrier->loop, &c->auth);
}

void mqtt_on_connect(mqtt_device *m, const nv_mqtt_packet *packet, nv_span bytes)
{
    if (!packet->u.connect.supported) {
        refuse_version(m, &packet->u.connect);
        return;
    }
    char detail[NV_REFUSAL_DETAIL];
    const char *why = "";
    mqtt_connecting *c = m->connecting = copy_connect(m, nv_span_first(bytes, packet->size));
    if (!c->connect.has_username) {
        refuse(m, NV_REFUSAL_USER_NAME, "CONNECT has no user name", NV_MQTT_REFUSED_UNAUTHORIZED);
    } else if (nv_username_parse(c->connect.username, c->connect.client_id, c->scratch, c->connect.username.len,
                                 &c->username, &why) != NV_OK) {
        c->username = (nv_username){0};
        refuse(m, NV_REFUSAL_USER_NAME, why, NV_MQTT_REFUSED_UNAUTHORIZED);
    } else if (!nv_username_matches_client_id(&c->username, c->connect.client_id)) {
        (void)snprintf(detail, sizeof(detail), "the client id is \"%.*s\"",
                       NV_SPAN_ARG(nv_span_first(c->connect.client_id, 100)));
        refuse(m, NV_REFUSAL_CLIENT_ID, detail, NV_MQTT_REFUSED_UNAUTHORIZED);
    } else if (!nv_hub_is_alias(mqtt_hub(m), c->username.host)) {
        (void)snprintf(detail, sizeof(detail), "the user name begins with \"%.*s\", this hub is \"%.*s\"",
                       NV_SPAN_ARG(nv_span_first(c->username.host, 48)),
                       NV_SPAN_ARG(nv_span_first(mqtt_hub(m)->host_names[0], 48)));
        refuse(m, NV_REFUSAL_HOST, detail, NV_MQTT_REFUSED_UNAUTHORIZED);
    } else {
        authenticate(m);
    }
}
