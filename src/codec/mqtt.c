#include "codec/mqtt.h"

#include "codec/utf8.h"

const char *nv_mqtt_type_name(uint8_t type)
{
    static const char *const names[16] = {"reserved", "CONNECT",  "CONNACK",    "PUBLISH", "PUBACK",      "PUBREC",
                                          "PUBREL",   "PUBCOMP",  "SUBSCRIBE",  "SUBACK",  "UNSUBSCRIBE", "UNSUBACK",
                                          "PINGREQ",  "PINGRESP", "DISCONNECT", "reserved"};
    return names[type & 15];
}

/* ---- decoding ---------------------------------------------------------------------------------------------- */

static nv_err fail(const char **why, const char *text)
{
    *why = text;
    return NV_E_SYNTAX;
}

/** Length-prefixed bytes, section 1.5.3; the reader's error says when they are not there. */
static nv_span read_bytes(nv_reader *r)
{
    return nv_read_span(r, nv_read_u16_be(r));
}

static nv_err check_text(nv_span text, const char **why)
{
    if (nv_utf8_valid(text, false)) {
        return NV_OK;
    }
    return nv_utf8_valid(text, true) ? fail(why, "text contains U+0000 [MQTT-1.5.3-2]")
                                     : fail(why, "text is not well-formed UTF-8 [MQTT-1.5.3-1]");
}

/** A topic to publish on: text, not empty, no wildcards. */
static nv_err check_topic_name(nv_span topic, const char **why)
{
    if (topic.len == 0) {
        return fail(why, "topic name is empty [MQTT-4.7.3-1]");
    }
    if (nv_span_find(topic, '#') < topic.len || nv_span_find(topic, '+') < topic.len) {
        return fail(why, "topic name contains a wildcard [MQTT-3.3.2-2]");
    }
    return check_text(topic, why);
}

/** Flags of the fixed header, table 2.2 and section 3.3.1. @return NULL or what is wrong */
static const char *flags_fault(uint8_t type, uint8_t flags)
{
    if (type == NV_MQTT_PUBLISH) {
        if ((flags & 6) == 6) {
            return "PUBLISH with both QoS bits set [MQTT-3.3.1-4]";
        }
        return (flags & 14) == 8 ? "PUBLISH with DUP at QoS 0 [MQTT-3.3.1-2]" : NULL;
    }
    bool has_bit = type == NV_MQTT_PUBREL || type == NV_MQTT_SUBSCRIBE || type == NV_MQTT_UNSUBSCRIBE;
    return flags == (has_bit ? 2 : 0) ? NULL : "reserved flags of the fixed header are wrong [MQTT-2.2.2-2]";
}

/** Section 2.2.3. Longer forms than needed are not forbidden before MQTT 5. */
static nv_err read_remaining_length(nv_span in, size_t *remaining, size_t *header, const char **why)
{
    size_t value = 0;
    for (size_t i = 0; i < 4; i++) {
        if (in.len <= 1 + i) {
            return NV_E_MORE;
        }
        uint8_t byte = in.ptr[1 + i];
        value |= (size_t)(byte & 0x7F) << (7 * i);
        if (byte < 0x80) {
            *remaining = value;
            *header = 2 + i;
            return NV_OK;
        }
    }
    return fail(why, "remaining length has more than four bytes (section 2.2.3)");
}

static nv_err check_connect_flags(uint8_t flags, const char **why)
{
    uint8_t will_qos = flags >> 3 & 3;
    if (flags & 0x01) {
        return fail(why, "reserved connect flag is set [MQTT-3.1.2-3]");
    }
    if (will_qos == 3) {
        return fail(why, "will QoS is 3 [MQTT-3.1.2-14]");
    }
    if (!(flags & 0x04) && will_qos) {
        return fail(why, "will QoS without a will [MQTT-3.1.2-13]");
    }
    if (!(flags & 0x04) && (flags & 0x20)) {
        return fail(why, "will retain without a will [MQTT-3.1.2-15]");
    }
    if (!(flags & 0x80) && (flags & 0x40)) {
        return fail(why, "password without user name [MQTT-3.1.2-22]");
    }
    return NV_OK;
}

static nv_err decode_connect_payload(nv_reader *r, nv_mqtt_connect *c, const char **why)
{
    c->client_id = read_bytes(r);
    if (c->has_will) {
        c->will_topic = read_bytes(r);
        c->will_payload = read_bytes(r);
    }
    if (c->has_username) {
        c->username = read_bytes(r);
    }
    if (c->has_password) {
        c->password = read_bytes(r);
    }
    if (r->err != NV_OK) {
        return fail(why, "CONNECT ends within its payload [MQTT-3.1.3-1]");
    }
    if (nv_reader_left(r)) {
        return fail(why, "bytes behind the payload of CONNECT [MQTT-3.1.3-1]");
    }
    nv_err err = check_text(c->client_id, why);
    if (err == NV_OK && c->has_will) {
        err = check_topic_name(c->will_topic, why);
    }
    return err == NV_OK ? check_text(c->username, why) : err;
}

static nv_err decode_connect(nv_reader *r, nv_mqtt_connect *c, const char **why)
{
    memset(c, 0, sizeof(*c));
    c->protocol_name = read_bytes(r);
    c->level = nv_read_u8(r);
    if (r->err != NV_OK) {
        return fail(why, "CONNECT without protocol name and level [MQTT-3.1.2-1]");
    }
    c->supported = nv_span_eq_str(c->protocol_name, "MQTT") && c->level == NV_MQTT_LEVEL_311;
    if (!c->supported) {
        return NV_OK; /* other versions continue differently */
    }
    uint8_t flags = nv_read_u8(r);
    c->keep_alive_s = nv_read_u16_be(r);
    if (r->err != NV_OK) {
        return fail(why, "CONNECT ends within its variable header (section 3.1.2)");
    }
    nv_err err = check_connect_flags(flags, why);
    if (err != NV_OK) {
        return err;
    }
    c->clean = (flags & 0x02) != 0;
    c->has_will = (flags & 0x04) != 0;
    c->will_qos = flags >> 3 & 3;
    c->will_retain = (flags & 0x20) != 0;
    c->has_password = (flags & 0x40) != 0;
    c->has_username = (flags & 0x80) != 0;
    return decode_connect_payload(r, c, why);
}

static nv_err decode_connack(nv_reader *r, nv_mqtt_connack *c, const char **why)
{
    uint8_t flags = nv_read_u8(r);
    c->session_present = (flags & 1) != 0;
    c->code = nv_read_u8(r);
    if (flags > 1) {
        return fail(why, "reserved flags of CONNACK are set (section 3.2.2.1)");
    }
    if (c->session_present && c->code != NV_MQTT_ACCEPTED) {
        return fail(why, "CONNACK refuses and has a session present [MQTT-3.2.2-4]");
    }
    return NV_OK;
}

static nv_err decode_publish(nv_reader *r, uint8_t flags, nv_mqtt_publish *p, const char **why)
{
    p->dup = (flags & 8) != 0;
    p->qos = flags >> 1 & 3;
    p->retain = (flags & 1) != 0;
    p->topic = read_bytes(r);
    p->packet_id = p->qos ? nv_read_u16_be(r) : 0;
    p->payload = nv_read_span(r, nv_reader_left(r));
    if (r->err != NV_OK) {
        return fail(why, "PUBLISH ends within its variable header (section 3.3.2)");
    }
    if (p->qos && p->packet_id == 0) {
        return fail(why, "packet identifier is zero [MQTT-2.3.1-1]");
    }
    return check_topic_name(p->topic, why);
}

static nv_err decode_packet_id(nv_reader *r, uint16_t *id, const char **why)
{
    *id = nv_read_u16_be(r);
    if (r->err != NV_OK) {
        return fail(why, "packet ends before its packet identifier (section 2.3.1)");
    }
    return *id ? NV_OK : fail(why, "packet identifier is zero [MQTT-2.3.1-1]");
}

static nv_err decode_filters(nv_reader *r, bool with_qos, nv_mqtt_subscribe *s, const char **why)
{
    nv_err err = decode_packet_id(r, &s->packet_id, why);
    if (err != NV_OK) {
        return err;
    }
    s->filters = nv_span_of(r->at, nv_reader_left(r));
    s->count = 0;
    while (nv_reader_left(r)) {
        nv_span filter = read_bytes(r);
        uint8_t qos = with_qos ? nv_read_u8(r) : 0;
        if (r->err != NV_OK) {
            return fail(why, "packet ends within a topic filter (sections 3.8.3, 3.10.3)");
        }
        if (filter.len == 0) {
            return fail(why, "topic filter is empty [MQTT-4.7.3-1]");
        }
        if (qos > 2) {
            return fail(why, "requested QoS is not 0, 1 or 2 [MQTT-3.8.3-4]");
        }
        err = check_text(filter, why);
        if (err != NV_OK) {
            return err;
        }
        s->count++;
    }
    if (s->count == 0) {
        return fail(why, with_qos ? "SUBSCRIBE without a topic filter [MQTT-3.8.3-3]"
                                  : "UNSUBSCRIBE without a topic filter [MQTT-3.10.3-2]");
    }
    return NV_OK;
}

static nv_err decode_suback(nv_reader *r, nv_mqtt_suback *s, const char **why)
{
    nv_err err = decode_packet_id(r, &s->packet_id, why);
    if (err != NV_OK) {
        return err;
    }
    s->codes = nv_read_span(r, nv_reader_left(r));
    if (s->codes.len == 0) {
        return fail(why, "SUBACK without a return code (section 3.9.3)");
    }
    for (size_t i = 0; i < s->codes.len; i++) {
        if (s->codes.ptr[i] > 2 && s->codes.ptr[i] != NV_MQTT_SUBACK_FAILURE) {
            return fail(why, "SUBACK with a reserved return code [MQTT-3.9.3-2]");
        }
    }
    return NV_OK;
}

/** Remaining length of the types that have but one, or SIZE_MAX. */
static size_t only_length_of(nv_mqtt_type type)
{
    switch (type) {
    case NV_MQTT_CONNACK:
    case NV_MQTT_PUBACK:
    case NV_MQTT_PUBREC:
    case NV_MQTT_PUBREL:
    case NV_MQTT_PUBCOMP:
    case NV_MQTT_UNSUBACK:
        return 2;
    case NV_MQTT_PINGREQ:
    case NV_MQTT_PINGRESP:
    case NV_MQTT_DISCONNECT:
        return 0;
    case NV_MQTT_NONE:
    case NV_MQTT_CONNECT:
    case NV_MQTT_PUBLISH:
    case NV_MQTT_SUBSCRIBE:
    case NV_MQTT_SUBACK:
    case NV_MQTT_UNSUBSCRIBE:
        break;
    }
    return SIZE_MAX;
}

static nv_err decode_body(nv_reader *r, uint8_t flags, nv_mqtt_packet *out, const char **why)
{
    switch (out->type) {
    case NV_MQTT_CONNECT:
        return decode_connect(r, &out->u.connect, why);
    case NV_MQTT_CONNACK:
        return decode_connack(r, &out->u.connack, why);
    case NV_MQTT_PUBLISH:
        return decode_publish(r, flags, &out->u.publish, why);
    case NV_MQTT_SUBSCRIBE:
        return decode_filters(r, true, &out->u.subscribe, why);
    case NV_MQTT_UNSUBSCRIBE:
        return decode_filters(r, false, &out->u.unsubscribe, why);
    case NV_MQTT_SUBACK:
        return decode_suback(r, &out->u.suback, why);
    case NV_MQTT_PUBACK:
    case NV_MQTT_PUBREC:
    case NV_MQTT_PUBREL:
    case NV_MQTT_PUBCOMP:
    case NV_MQTT_UNSUBACK:
        return decode_packet_id(r, &out->u.ack_id, why);
    case NV_MQTT_PINGREQ:
    case NV_MQTT_PINGRESP:
    case NV_MQTT_DISCONNECT:
    case NV_MQTT_NONE:
        break;
    }
    return NV_OK;
}

nv_err nv_mqtt_decode_any(nv_span in, size_t max_packet, nv_mqtt_packet *out, size_t *consumed, const char **why)
{
    *consumed = 0;
    out->type = NV_MQTT_NONE;
    out->size = 0;
    if (in.len == 0) {
        return NV_E_MORE;
    }
    uint8_t type = in.ptr[0] >> 4;
    uint8_t flags = in.ptr[0] & 15;
    if (type == 0 || type == 15) {
        *why = "reserved packet type (section 2.2.1)";
        return NV_E_UNSUPPORTED;
    }
    out->type = (nv_mqtt_type)type;
    const char *fault = flags_fault(type, flags);
    if (fault) {
        return fail(why, fault);
    }
    size_t remaining = 0;
    size_t header = 0;
    nv_err err = read_remaining_length(in, &remaining, &header, why);
    if (err != NV_OK) {
        return err;
    }
    size_t only = only_length_of(out->type);
    if (only != SIZE_MAX && remaining != only) {
        return fail(why, "remaining length does not fit the packet type (section 3)");
    }
    out->size = header + remaining;
    if (out->size > max_packet) {
        *why = "packet is larger than the limit";
        return NV_E_TOO_BIG;
    }
    if (in.len < out->size) {
        return NV_E_MORE;
    }
    nv_reader r = nv_reader_of(nv_span_of(in.ptr + header, remaining));
    err = decode_body(&r, flags, out, why);
    *consumed = err == NV_OK ? out->size : 0;
    return err;
}

bool nv_mqtt_next_filter(nv_reader *r, nv_span *filter, uint8_t *qos)
{
    if (r->err != NV_OK || nv_reader_left(r) == 0) {
        return false;
    }
    *filter = read_bytes(r);
    if (qos) {
        *qos = nv_read_u8(r);
    }
    return r->err == NV_OK;
}

/* ---- encoding ---------------------------------------------------------------------------------------------- */

static void refuse(nv_writer *w)
{
    w->err = w->err == NV_OK ? NV_E_INVALID : w->err;
}

static void begin(nv_writer *w, uint8_t first, size_t remaining)
{
    if (remaining > NV_MQTT_MAX_REMAINING) {
        refuse(w);
        return;
    }
    nv_write_u8(w, first);
    for (; remaining > 127; remaining >>= 7) {
        nv_write_u8(w, (uint8_t)(remaining | 0x80));
    }
    nv_write_u8(w, (uint8_t)remaining);
}

static void write_bytes(nv_writer *w, nv_span bytes)
{
    if (bytes.len > NV_MQTT_MAX_STRING) {
        refuse(w);
        return;
    }
    nv_write_u16_be(w, (uint16_t)bytes.len);
    nv_write_span(w, bytes);
}

static void write_packet_id(nv_writer *w, uint16_t packet_id)
{
    if (packet_id == 0) {
        refuse(w);
        return;
    }
    nv_write_u16_be(w, packet_id);
}

void nv_mqtt_write_connect(nv_writer *w, const nv_mqtt_connect *c)
{
    nv_span name = c->protocol_name.len ? c->protocol_name : nv_span_str("MQTT");
    size_t remaining = 2 + name.len + 4 + 2 + c->client_id.len;
    remaining += c->has_will ? 4 + c->will_topic.len + c->will_payload.len : 0;
    remaining += c->has_username ? 2 + c->username.len : 0;
    remaining += c->has_password ? 2 + c->password.len : 0;
    if (c->has_password && !c->has_username) {
        refuse(w); /* [MQTT-3.1.2-22] */
    }
    uint8_t flags = c->clean ? 0x02 : 0;
    if (c->has_will) {
        flags = (uint8_t)(flags | 0x04 | (c->will_qos & 3) << 3 | (c->will_retain ? 0x20 : 0));
    }
    flags = (uint8_t)(flags | (c->has_password ? 0x40 : 0) | (c->has_username ? 0x80 : 0));
    begin(w, NV_MQTT_CONNECT << 4, remaining);
    write_bytes(w, name);
    nv_write_u8(w, c->level ? c->level : NV_MQTT_LEVEL_311);
    nv_write_u8(w, flags);
    nv_write_u16_be(w, c->keep_alive_s);
    write_bytes(w, c->client_id);
    if (c->has_will) {
        write_bytes(w, c->will_topic);
        write_bytes(w, c->will_payload);
    }
    if (c->has_username) {
        write_bytes(w, c->username);
    }
    if (c->has_password) {
        write_bytes(w, c->password);
    }
}

void nv_mqtt_write_connack(nv_writer *w, bool session_present, uint8_t code)
{
    begin(w, NV_MQTT_CONNACK << 4, 2);
    nv_write_u8(w, session_present && code == NV_MQTT_ACCEPTED); /* [MQTT-3.2.2-4] */
    nv_write_u8(w, code);
}

void nv_mqtt_write_connack_v5(nv_writer *w, uint8_t reason)
{
    begin(w, NV_MQTT_CONNACK << 4, 3);
    nv_write_u8(w, 0);
    nv_write_u8(w, reason);
    nv_write_u8(w, 0); /* length of the properties */
}

void nv_mqtt_write_publish_header(nv_writer *w, const nv_mqtt_publish *p)
{
    if (p->qos > 2 || p->topic.len == 0 || p->payload.len > NV_MQTT_MAX_REMAINING) {
        refuse(w);
        return;
    }
    uint8_t flags = (uint8_t)((p->dup && p->qos ? 8 : 0) | p->qos << 1 | (p->retain ? 1 : 0));
    begin(w, (uint8_t)(NV_MQTT_PUBLISH << 4 | flags), 2 + p->topic.len + (p->qos ? 2u : 0u) + p->payload.len);
    write_bytes(w, p->topic);
    if (p->qos) {
        write_packet_id(w, p->packet_id);
    }
}

void nv_mqtt_write_publish(nv_writer *w, const nv_mqtt_publish *p)
{
    nv_mqtt_write_publish_header(w, p);
    nv_write_span(w, p->payload);
}

void nv_mqtt_write_ack(nv_writer *w, nv_mqtt_type type, uint16_t packet_id)
{
    if (only_length_of(type) != 2 || type == NV_MQTT_CONNACK) {
        refuse(w);
        return;
    }
    begin(w, (uint8_t)(type << 4 | (type == NV_MQTT_PUBREL ? 2 : 0)), 2);
    write_packet_id(w, packet_id);
}

static void write_filters(nv_writer *w, nv_mqtt_type type, uint16_t packet_id, const nv_mqtt_filter *filters,
                          size_t count)
{
    bool with_qos = type == NV_MQTT_SUBSCRIBE;
    size_t remaining = 2;
    for (size_t i = 0; i < count; i++) {
        remaining += 2 + filters[i].text.len + (with_qos ? 1u : 0u);
        if (filters[i].text.len == 0 || (with_qos && filters[i].qos > 2)) {
            refuse(w);
        }
    }
    if (count == 0) {
        refuse(w);
    }
    begin(w, (uint8_t)(type << 4 | 2), remaining);
    write_packet_id(w, packet_id);
    for (size_t i = 0; i < count; i++) {
        write_bytes(w, filters[i].text);
        if (with_qos) {
            nv_write_u8(w, filters[i].qos);
        }
    }
}

void nv_mqtt_write_subscribe(nv_writer *w, uint16_t packet_id, const nv_mqtt_filter *filters, size_t count)
{
    write_filters(w, NV_MQTT_SUBSCRIBE, packet_id, filters, count);
}

void nv_mqtt_write_unsubscribe(nv_writer *w, uint16_t packet_id, const nv_mqtt_filter *filters, size_t count)
{
    write_filters(w, NV_MQTT_UNSUBSCRIBE, packet_id, filters, count);
}

void nv_mqtt_write_suback(nv_writer *w, uint16_t packet_id, nv_span codes)
{
    if (codes.len == 0) {
        refuse(w);
    }
    begin(w, NV_MQTT_SUBACK << 4, 2 + codes.len);
    write_packet_id(w, packet_id);
    nv_write_span(w, codes);
}

void nv_mqtt_write_empty(nv_writer *w, nv_mqtt_type type)
{
    if (only_length_of(type) != 0) {
        refuse(w);
        return;
    }
    begin(w, (uint8_t)(type << 4), 0);
}

static void write_filters_again(nv_writer *w, nv_mqtt_type type, const nv_mqtt_subscribe *s)
{
    begin(w, (uint8_t)(type << 4 | 2), 2 + s->filters.len);
    write_packet_id(w, s->packet_id);
    nv_write_span(w, s->filters);
}

void nv_mqtt_write(nv_writer *w, const nv_mqtt_packet *p)
{
    switch (p->type) {
    case NV_MQTT_CONNECT:
        nv_mqtt_write_connect(w, &p->u.connect);
        return;
    case NV_MQTT_CONNACK:
        nv_mqtt_write_connack(w, p->u.connack.session_present, p->u.connack.code);
        return;
    case NV_MQTT_PUBLISH:
        nv_mqtt_write_publish(w, &p->u.publish);
        return;
    case NV_MQTT_SUBSCRIBE:
        write_filters_again(w, p->type, &p->u.subscribe);
        return;
    case NV_MQTT_UNSUBSCRIBE:
        write_filters_again(w, p->type, &p->u.unsubscribe);
        return;
    case NV_MQTT_SUBACK:
        nv_mqtt_write_suback(w, p->u.suback.packet_id, p->u.suback.codes);
        return;
    case NV_MQTT_PUBACK:
    case NV_MQTT_PUBREC:
    case NV_MQTT_PUBREL:
    case NV_MQTT_PUBCOMP:
    case NV_MQTT_UNSUBACK:
        nv_mqtt_write_ack(w, p->type, p->u.ack_id);
        return;
    case NV_MQTT_PINGREQ:
    case NV_MQTT_PINGRESP:
    case NV_MQTT_DISCONNECT:
        nv_mqtt_write_empty(w, p->type);
        return;
    case NV_MQTT_NONE:
        break;
    }
    refuse(w);
}
