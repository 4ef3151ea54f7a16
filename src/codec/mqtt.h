/**
 * MQTT 3.1.1, every packet type, both directions, zero-copy: bytes <-> packets.
 *
 * One codec for the hub's sessions, the bridge and edge clients, `nave bench` and the device library; therefore C99,
 * without allocation and without anything of the hub. Pure; thread: any.
 *
 * The decoder checks what the specification lets it check without knowing the role or state of the peer. Whether a
 * packet type is welcome at this moment is the caller's question. Clauses are cited as in the OASIS text.
 */
#ifndef NV_CODEC_MQTT_H
#define NV_CODEC_MQTT_H

#include "base/attrs.h"
#include "base/bytes.h"
#include "base/cursor.h"

/** Control packet types, section 2.2.1. */
typedef enum nv_mqtt_type {
    NV_MQTT_NONE = 0,
    NV_MQTT_CONNECT = 1,
    NV_MQTT_CONNACK = 2,
    NV_MQTT_PUBLISH = 3,
    NV_MQTT_PUBACK = 4,
    NV_MQTT_PUBREC = 5,
    NV_MQTT_PUBREL = 6,
    NV_MQTT_PUBCOMP = 7,
    NV_MQTT_SUBSCRIBE = 8,
    NV_MQTT_SUBACK = 9,
    NV_MQTT_UNSUBSCRIBE = 10,
    NV_MQTT_UNSUBACK = 11,
    NV_MQTT_PINGREQ = 12,
    NV_MQTT_PINGRESP = 13,
    NV_MQTT_DISCONNECT = 14
} nv_mqtt_type;

/** CONNACK return codes, section 3.2.2.3. */
typedef enum nv_mqtt_connack_code {
    NV_MQTT_ACCEPTED = 0,
    NV_MQTT_REFUSED_VERSION = 1,
    NV_MQTT_REFUSED_IDENTIFIER = 2,
    NV_MQTT_REFUSED_UNAVAILABLE = 3,
    NV_MQTT_REFUSED_CREDENTIALS = 4,
    NV_MQTT_REFUSED_UNAUTHORIZED = 5
} nv_mqtt_connack_code;

#define NV_MQTT_LEVEL_311      4     /* MQTT 3.1.1 */
#define NV_MQTT_LEVEL_5        5     /* answer with nv_mqtt_write_connack_v5() */
#define NV_MQTT_LEVEL_BRIDGE   0x80u /* or-ed into the level by a mosquitto bridge with try_private */
#define NV_MQTT_SUBACK_FAILURE 0x80u /* section 3.9.3 */
#define NV_MQTT_V5_UNSUPPORTED 0x84u /* MQTT 5 section 3.2.2.2: Unsupported Protocol Version */
#define NV_MQTT_MAX_REMAINING  268435455u
#define NV_MQTT_MAX_STRING     65535u
#define NV_MQTT_ACK_SIZE       4u /* of PUBACK, PUBREC, PUBREL, PUBCOMP, UNSUBACK and CONNACK, in bytes */

/** A name for logs: "PUBLISH". "reserved" for 0 and 15. Static storage. */
const char *nv_mqtt_type_name(uint8_t type);

typedef struct nv_mqtt_connect {
    nv_span protocol_name; /* "MQTT" */
    uint8_t level;         /* as sent */
    /**
     * Name "MQTT" and level 4. When false only name and level were looked at and everything below is zero: the caller
     * answers by the level (1 for 3 and 0x84, the v5 form for 5) and closes, or closes at once on another name.
     */
    bool supported;
    bool clean;
    bool has_will;
    bool will_retain;
    uint8_t will_qos;
    bool has_username;
    bool has_password;
    uint16_t keep_alive_s; /* 0 = off */
    nv_span client_id;     /* may be empty only when clean [MQTT-3.1.3-7]; the caller refuses (CONNACK, not a close) */
    nv_span will_topic;
    nv_span will_payload;
    nv_span username;
    nv_span password;
} nv_mqtt_connect;

typedef struct nv_mqtt_connack {
    bool session_present;
    uint8_t code;
} nv_mqtt_connack;

typedef struct nv_mqtt_publish {
    nv_span topic;
    nv_span payload;
    uint16_t packet_id; /* 0 at QoS 0, never 0 above */
    uint8_t qos;        /* 0..2 */
    bool dup;
    bool retain;
} nv_mqtt_publish;

/** SUBSCRIBE and UNSUBSCRIBE: walk the filters with nv_mqtt_next_filter(). */
typedef struct nv_mqtt_subscribe {
    uint16_t packet_id;
    nv_span filters; /* encoded, checked */
    size_t count;    /* of filters, at least 1 */
} nv_mqtt_subscribe;

typedef struct nv_mqtt_suback {
    uint16_t packet_id;
    nv_span codes; /* 0, 1, 2 or 0x80 each */
} nv_mqtt_suback;

/** A decoded packet. Spans point into the input and live as long as it does. */
typedef struct nv_mqtt_packet {
    nv_mqtt_type type; /* known after the first byte, also when the result is NV_E_MORE or NV_E_TOO_BIG */
    size_t size;       /* of the whole packet, in bytes; 0 while the fixed header is incomplete */
    union {
        nv_mqtt_connect connect;
        nv_mqtt_connack connack;
        nv_mqtt_publish publish;
        uint16_t ack_id; /* PUBACK, PUBREC, PUBREL, PUBCOMP, UNSUBACK */
        nv_mqtt_subscribe subscribe;
        nv_mqtt_subscribe unsubscribe;
        nv_mqtt_suback suback;
    } u;
} nv_mqtt_packet;

/** The general case behind nv_mqtt_decode(): same contract. */
NV_NODISCARD nv_err nv_mqtt_decode_any(nv_span in, size_t max_packet, nv_mqtt_packet *out, size_t *consumed,
                                       const char **why);

/** True when the topic is ASCII without U+0000, `+` and `#`: 1 to 65,535 bytes, eight at a time. */
static inline bool nv_mqtt_topic_is_plain(const uint8_t *text, size_t len)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    const uint64_t high = ones * 0x80;
    uint64_t bad = 0;
    if (len < 8) {
        uint8_t any = (uint8_t)(len == 0);
        for (size_t i = 0; i < len; i++) {
            any = (uint8_t)(any | (text[i] == 0) | (text[i] >> 7) | ((text[i] | 0x08) == '+'));
        }
        return any == 0;
    }
    for (size_t i = 0; i < len; i += 8) {
        uint64_t w;
        memcpy(&w, text + (i + 8 <= len ? i : len - 8), sizeof(w));
        /* 0x80 - byte has its high bit set only for byte 0, as long as no byte is above 0x7F; those show in w itself.
         * '#' and '+' differ in bit 3 only. */
        bad |= w | (high - w) | (high - ((w | ones * 0x08) ^ ones * '+'));
    }
    return (bad & high) == 0;
}

/**
 * Decode one packet from the front of @p in.
 *
 * @param in          what has arrived; a packet and whatever follows it
 * @param max_packet  the largest whole packet accepted, in bytes; judged as soon as the fixed header is there
 * @param out         filled as far as its comments say
 * @param consumed    bytes of the packet on NV_OK, else 0
 * @param why         static text with the violated clause; set on the three errors only
 * @return NV_OK; NV_E_MORE call again with more bytes (out->size tells how many, once it is not 0); and, the peer
 *         being wrong, where the connection has to be closed: NV_E_SYNTAX, NV_E_TOO_BIG larger than @p max_packet,
 *         NV_E_UNSUPPORTED a reserved packet type
 */
NV_NODISCARD static inline nv_err nv_mqtt_decode(nv_span in, size_t max_packet, nv_mqtt_packet *out, size_t *consumed,
                                                 const char **why)
{
    /* Only complete and faultless packets are taken here; all else, faults included, is told apart in decode_any. */
    const uint8_t *p = in.ptr;
    if (NV_LIKELY(in.len >= 4)) {
        uint8_t flags = p[0] & 0x0F;
        uint8_t qos = (flags >> 1) & 3;
        if (p[0] >> 4 == NV_MQTT_PUBLISH && qos < 3 && (qos || !(flags & 8)) && (p[1] < 0x80 || p[2] < 0x80)) {
            size_t header = p[1] < 0x80 ? 2 : 3;
            size_t left = p[1] < 0x80 ? p[1] : (size_t)(p[1] & 0x7F) | (size_t)p[2] << 7;
            if (NV_LIKELY(left >= 2 && in.len >= header + left && header + left <= max_packet)) {
                const uint8_t *at = p + header;
                size_t topic_len = nv_load_u16_be(at);
                size_t prefix = 2 + topic_len + (qos ? 2 : 0);
                if (NV_LIKELY(prefix <= left && nv_mqtt_topic_is_plain(at + 2, topic_len))) {
                    uint16_t id = qos ? nv_load_u16_be(at + prefix - 2) : 0;
                    if (NV_LIKELY(!qos || id)) {
                        out->type = NV_MQTT_PUBLISH;
                        out->size = header + left;
                        out->u.publish.topic = nv_span_of(at + 2, topic_len);
                        out->u.publish.payload = nv_span_of(at + prefix, left - prefix);
                        out->u.publish.packet_id = id;
                        out->u.publish.qos = qos;
                        out->u.publish.dup = (flags & 8) != 0;
                        out->u.publish.retain = (flags & 1) != 0;
                        *consumed = out->size;
                        return NV_OK;
                    }
                }
            }
        } else if (p[0] == (NV_MQTT_PUBACK << 4) && p[1] == 2 && (p[2] | p[3]) && max_packet >= NV_MQTT_ACK_SIZE) {
            out->type = NV_MQTT_PUBACK;
            out->size = NV_MQTT_ACK_SIZE;
            out->u.ack_id = nv_load_u16_be(p + 2);
            *consumed = NV_MQTT_ACK_SIZE;
            return NV_OK;
        }
    }
    return nv_mqtt_decode_any(in, max_packet, out, consumed, why);
}

/**
 * The next filter of a decoded SUBSCRIBE (@p qos gets its requested QoS, 0..2) or UNSUBSCRIBE (@p qos NULL).
 * Start with `nv_reader r = nv_reader_of(packet.u.subscribe.filters)`. The filter is UTF-8 of at least one byte;
 * whether its wildcards make sense is not said. @return false at the end
 */
bool nv_mqtt_next_filter(nv_reader *r, nv_span *filter, uint8_t *qos);

/* ---- encoding: into a bounded writer, whose sticky error is NV_E_TOO_BIG when something did not fit and
 * NV_E_INVALID when a packet cannot be written (text over 65,535 bytes, more than 268,435,455 in all, id 0).
 * A writer that failed holds a fragment: drop it. -------------------------------------------------------------- */

/** One filter to subscribe to, or (qos ignored) to unsubscribe from. */
typedef struct nv_mqtt_filter {
    nv_span text;
    uint8_t qos;
} nv_mqtt_filter;

/** Name and level are written as given (empty name, level 0 = "MQTT", 4); will, user name, password by their has_. */
void nv_mqtt_write_connect(nv_writer *w, const nv_mqtt_connect *connect);
void nv_mqtt_write_connack(nv_writer *w, bool session_present, uint8_t code);
/** A CONNACK as MQTT 5 clients read it, without properties: 20 03 00 reason 00. */
void nv_mqtt_write_connack_v5(nv_writer *w, uint8_t reason);
/** The whole packet; nv_mqtt_publish_size() bytes. */
void nv_mqtt_write_publish(nv_writer *w, const nv_mqtt_publish *publish);
/** All but the payload, whose length is taken from publish->payload.len; the caller sends those bytes right behind. */
void nv_mqtt_write_publish_header(nv_writer *w, const nv_mqtt_publish *publish);
/** PUBACK, PUBREC, PUBREL, PUBCOMP or UNSUBACK: NV_MQTT_ACK_SIZE bytes. */
void nv_mqtt_write_ack(nv_writer *w, nv_mqtt_type type, uint16_t packet_id);
void nv_mqtt_write_subscribe(nv_writer *w, uint16_t packet_id, const nv_mqtt_filter *filters, size_t count);
void nv_mqtt_write_unsubscribe(nv_writer *w, uint16_t packet_id, const nv_mqtt_filter *filters, size_t count);
/** One code per filter, in order: granted QoS 0, 1, 2 or NV_MQTT_SUBACK_FAILURE. */
void nv_mqtt_write_suback(nv_writer *w, uint16_t packet_id, nv_span codes);
/** PINGREQ, PINGRESP or DISCONNECT: 2 bytes. */
void nv_mqtt_write_empty(nv_writer *w, nv_mqtt_type type);
/** Any packet as nv_mqtt_decode() gave it; the remaining length in its shortest form. */
void nv_mqtt_write(nv_writer *w, const nv_mqtt_packet *packet);

/** Bytes of the fixed header for @p remaining bytes behind it: 2 to 5. */
static inline size_t nv_mqtt_fixed_size(size_t remaining)
{
    return 2u + (remaining > 127u) + (remaining > 16383u) + (remaining > 2097151u);
}

/** Bytes of a whole PUBLISH. */
static inline size_t nv_mqtt_publish_size(size_t topic_len, size_t payload_len, uint8_t qos)
{
    size_t remaining = 2u + topic_len + (qos ? 2u : 0u) + payload_len;
    return nv_mqtt_fixed_size(remaining) + remaining;
}

/** PUBACK for @p packet_id at @p out: the hot half of nv_mqtt_write_ack(). @return the byte behind it */
static inline uint8_t *nv_mqtt_put_puback(uint8_t *out, uint16_t packet_id)
{
    out[0] = NV_MQTT_PUBACK << 4;
    out[1] = 2;
    nv_store_u16_be(out + 2, packet_id);
    return out + NV_MQTT_ACK_SIZE;
}

#endif
