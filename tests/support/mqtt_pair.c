#include "support/mqtt_pair.h"

#include "base/alloc.h"
#include "codec/hex.h"
#include "codec/sas.h"
#include "session/mqtt_device.h"
#include "support/fake_core.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define PAIR_MAX (8u << 20)

static void wake(nv_carrier *carrier)
{
    mqtt_pair *pair = (mqtt_pair *)(void *)carrier;
    pair->woken = true;
}

void mqtt_pair_open(mqtt_pair *pair, nv_hub_loop *loop, uint64_t connection_id)
{
    mqtt_pair_open_with(pair, loop, connection_id, nv_mqtt_device_new);
}

void mqtt_pair_open_with(mqtt_pair *pair, nv_hub_loop *loop, uint64_t connection_id,
                         nv_session *(*make)(nv_carrier *carrier))
{
    *pair = (mqtt_pair){.carrier = {.loop = loop, .wake = wake}, .clock = loop->hub->clock};
    pair->peer.connection_id = connection_id;
    pair->peer.address = nv_span_str("192.0.2.1:50000");
    pair->carrier.peer = &pair->peer;
    pair->carrier.out = &pair->out;
    nv_buf_init(&pair->in, PAIR_MAX);
    nv_buf_init(&pair->out, PAIR_MAX);
    pair->session = make(&pair->carrier);
}

static void lose(mqtt_pair *pair, const char *why)
{
    if (pair->session && !pair->lost) {
        pair->lost = true;
        pair->session->ops->lost(pair->session, why, nv_mono_us(pair->clock));
    }
}

static void feed(mqtt_pair *pair)
{
    nv_session *session = pair->session;
    size_t shown = 0;
    while (session->reading && !session->closing && nv_buf_len(&pair->in) > 0) {
        size_t len = nv_buf_len(&pair->in);
        shown = pair->piece > 0 && shown + pair->piece < len ? shown + pair->piece : len;
        /* an exact copy, so that a sanitizer sees one byte too far */
        uint8_t *copy = nv_malloc(shown);
        memcpy(copy, nv_buf_span(&pair->in).ptr, shown);
        size_t taken = session->ops->input(session, nv_span_of(copy, shown), nv_mono_us(pair->clock));
        free(copy);
        assert(taken <= shown);
        nv_buf_consume(&pair->in, taken);
        if (taken == 0 && shown == len) {
            assert(len <= session->max_pending || !session->reading || session->closing);
            return;
        }
        shown -= taken;
    }
}

/* The peer has read: what is taken from out makes room. */
static void tell_sent(mqtt_pair *pair)
{
    size_t unread = nv_buf_len(&pair->out);
    if (unread < pair->unread && !pair->lost && !pair->session->closing && pair->session->ops->sent) {
        pair->session->ops->sent(pair->session, nv_mono_us(pair->clock));
    }
    pair->unread = nv_buf_len(&pair->out);
}

void mqtt_pair_service(mqtt_pair *pair)
{
    pair->woken = false;
    if (!pair->session) {
        return;
    }
    tell_sent(pair);
    if (!pair->lost) {
        feed(pair);
    }
    if (pair->session->closing && !pair->lost && !pair->stuck) {
        pair->closed = true;
        lose(pair, "closed by the hub");
    }
    if (pair->lost && pair->session->done) {
        pair->session->ops->free(pair->session);
        pair->session = NULL;
    }
}

void mqtt_pair_send(mqtt_pair *pair, nv_span bytes)
{
    nv_err err = nv_buf_append(&pair->in, bytes);
    assert(err == NV_OK);
    (void)err;
    mqtt_pair_service(pair);
}

void mqtt_pair_cut(mqtt_pair *pair)
{
    lose(pair, "connection reset by peer");
    mqtt_pair_service(pair);
}

void mqtt_pair_tick(mqtt_pair *pair)
{
    if (pair->session && !pair->lost && nv_mono_us(pair->clock) >= pair->session->deadline_us) {
        pair->session->ops->tick(pair->session, nv_mono_us(pair->clock));
        mqtt_pair_service(pair);
    }
}

bool mqtt_pair_gone(const mqtt_pair *pair)
{
    return pair->session == NULL;
}

void mqtt_pair_deinit(mqtt_pair *pair)
{
    assert(!pair->session);
    nv_buf_deinit(&pair->in);
    nv_buf_deinit(&pair->out);
}

/* ---- what a client says ---------------------------------------------------------------------------------------- */

static const char *or_else(const char *text, const char *otherwise)
{
    return text ? text : otherwise;
}

static size_t put_token(char *out, size_t size, const mqtt_login *login, int64_t now_s)
{
    char resource[600];
    const char *module = or_else(login->module, "");
    (void)snprintf(resource, sizeof(resource), "%s/devices/%s%s%s", or_else(login->host, FAKE_HUB_NAME), login->device,
                   *module ? "/modules/" : "", module);
    const nv_key *key = login->key ? login->key : login->policy ? &fake_policy_key : &fake_device_key;
    nv_writer w = nv_writer_of(out, size);
    nv_sas_write(&w, nv_span_str(resource), now_s + (login->ttl_s ? login->ttl_s : 3600),
                 nv_span_str(or_else(login->policy, "")), nv_span_of(key->bytes, key->len));
    assert(w.err == NV_OK);
    return nv_writer_len(&w);
}

void mqtt_put_connect(nv_buf *out, const mqtt_login *login, int64_t now_s)
{
    char client[300];
    char user[700];
    char token[1500];
    const char *module = or_else(login->module, "");
    (void)snprintf(client, sizeof(client), "%s%s%s", login->device, *module ? "/" : "", module);
    (void)snprintf(user, sizeof(user), "%s/%s/?api-version=2021-04-12", FAKE_HUB_NAME, client);
    nv_span password = login->password ? nv_span_str(login->password)
                                       : nv_span_of(token, put_token(token, sizeof(token), login, now_s));
    nv_mqtt_connect connect = {.clean = !login->persistent,
                               .has_will = login->will_topic != NULL,
                               .will_retain = login->will_retain,
                               .has_username = true,
                               .has_password = !login->no_password,
                               .keep_alive_s = login->keep_alive_s,
                               .client_id = nv_span_str(or_else(login->client_id, client)),
                               .will_topic = nv_span_str(login->will_topic),
                               .will_payload = nv_span_str(login->will_payload),
                               .username = nv_span_str(or_else(login->user_name, user)),
                               .password = password};
    uint8_t packet[4096];
    nv_writer w = nv_writer_of(packet, sizeof(packet));
    nv_mqtt_write_connect(&w, &connect);
    nv_err err = w.err == NV_OK ? nv_buf_append(out, nv_writer_span(&w)) : w.err;
    assert(err == NV_OK);
    (void)err;
}

void mqtt_put_publish(nv_buf *out, const char *topic, nv_span payload, uint8_t qos, uint16_t packet_id)
{
    nv_mqtt_publish publish = {
        .topic = nv_span_str(topic), .payload = payload, .qos = qos, .packet_id = qos ? packet_id : (uint16_t)0};
    size_t size = nv_mqtt_publish_size(publish.topic.len, payload.len, qos);
    uint8_t *room = nv_buf_reserve(out, size);
    assert(room);
    nv_writer w = nv_writer_of(room, size);
    nv_mqtt_write_publish(&w, &publish);
    assert(w.err == NV_OK);
    nv_buf_commit(out, size);
}

void mqtt_pair_connect(mqtt_pair *pair, const mqtt_login *login)
{
    mqtt_put_connect(&pair->in, login, nv_wall_us(pair->clock) / NV_US_PER_S);
    mqtt_pair_service(pair);
}

void mqtt_pair_publish(mqtt_pair *pair, const char *topic, const char *payload, uint8_t qos, uint16_t packet_id)
{
    mqtt_put_publish(&pair->in, topic, nv_span_str(payload), qos, packet_id);
    mqtt_pair_service(pair);
}

void mqtt_pair_subscribe(mqtt_pair *pair, uint16_t packet_id, const char *filter, uint8_t qos)
{
    nv_mqtt_filter filters[] = {{nv_span_str(filter), qos}};
    uint8_t packet[512];
    nv_writer w = nv_writer_of(packet, sizeof(packet));
    nv_mqtt_write_subscribe(&w, packet_id, filters, 1);
    mqtt_pair_send(pair, nv_writer_span(&w));
}

void mqtt_pair_send_hex(mqtt_pair *pair, const char *hex)
{
    uint8_t bytes[2048];
    size_t len = 0;
    for (; *hex; hex++) {
        if (*hex != ' ') {
            assert(len < sizeof(bytes) && hex[1]);
            bytes[len++] = (uint8_t)(nv_hex_digit((uint8_t)hex[0]) << 4 | nv_hex_digit((uint8_t)hex[1]));
            hex++;
        }
    }
    mqtt_pair_send(pair, nv_span_of(bytes, len));
}

const char *mqtt_pair_take_hex(mqtt_pair *pair)
{
    static char text[16384];
    nv_writer w = nv_writer_of(text, sizeof(text) - 1);
    nv_hex_encode(nv_buf_span(&pair->out), &w);
    assert(w.err == NV_OK);
    text[nv_writer_len(&w)] = '\0';
    nv_buf_clear(&pair->out);
    return text;
}

static int put_packet(char *out, size_t size, const nv_mqtt_packet *packet)
{
    const nv_mqtt_publish *p = &packet->u.publish;
    char id[24] = "";
    switch (packet->type) {
    case NV_MQTT_PUBLISH:
        if (p->qos > 0) {
            (void)snprintf(id, sizeof(id), "id=%u ", p->packet_id);
        }
        return snprintf(out, size, "PUBLISH q%u %s%s%s%.*s | %.*s\n", p->qos, id, p->dup ? "dup " : "",
                        p->retain ? "retain " : "", NV_SPAN_ARG(p->topic), NV_SPAN_ARG(p->payload));
    case NV_MQTT_CONNACK:
        return snprintf(out, size, "CONNACK %u%s\n", packet->u.connack.code,
                        packet->u.connack.session_present ? " session" : "");
    case NV_MQTT_PUBACK:
    case NV_MQTT_UNSUBACK:
        return snprintf(out, size, "%s %u\n", nv_mqtt_type_name((uint8_t)packet->type), packet->u.ack_id);
    case NV_MQTT_SUBACK:
        return snprintf(out, size, "SUBACK %u %u\n", packet->u.suback.packet_id, packet->u.suback.codes.ptr[0]);
    case NV_MQTT_NONE:
    case NV_MQTT_CONNECT:
    case NV_MQTT_PUBREC:
    case NV_MQTT_PUBREL:
    case NV_MQTT_PUBCOMP:
    case NV_MQTT_SUBSCRIBE:
    case NV_MQTT_UNSUBSCRIBE:
    case NV_MQTT_PINGREQ:
    case NV_MQTT_PINGRESP:
    case NV_MQTT_DISCONNECT:
        break;
    }
    return snprintf(out, size, "%s\n", nv_mqtt_type_name((uint8_t)packet->type));
}

const char *mqtt_pair_take_text(mqtt_pair *pair)
{
    static char text[1u << 21];
    size_t len = 0;
    text[0] = '\0';
    while (nv_buf_len(&pair->out) > 0) {
        nv_mqtt_packet packet;
        size_t consumed = 0;
        const char *why = "";
        if (nv_mqtt_decode(nv_buf_span(&pair->out), PAIR_MAX, &packet, &consumed, &why) != NV_OK) {
            (void)snprintf(text + len, sizeof(text) - len, "?");
            break;
        }
        len += (size_t)put_packet(text + len, sizeof(text) - len, &packet);
        assert(len < sizeof(text));
        nv_buf_consume(&pair->out, consumed);
    }
    return text;
}
