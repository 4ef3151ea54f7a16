/** Vectors of the MQTT 3.1.1 codec, by clause of the specification. */
#include "codec/mqtt.h"

#include "codec/hex.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define MAX_PACKET 300000u

static const char *why;

/** Decode hex text with blanks into an allocation of exactly that size, so that ASan sees one byte too far. */
static nv_span bytes_of(const char *hex)
{
    char digits[2048];
    size_t n = 0;
    for (const char *c = hex; *c; c++) {
        if (*c != ' ') {
            assert_true(n < sizeof(digits));
            digits[n++] = *c;
        }
    }
    uint8_t *bytes = malloc(n / 2 + 1);
    assert_non_null(bytes);
    assert_int_equal(nv_hex_decode(nv_span_of(digits, n), bytes, n / 2), NV_OK);
    uint8_t *exact = malloc(n / 2 ? n / 2 : 1);
    assert_non_null(exact);
    memcpy(exact, bytes, n / 2);
    free(bytes);
    return nv_span_of(exact, n / 2);
}

static void release(nv_span bytes)
{
    free((void *)(uintptr_t)bytes.ptr);
}

/** Every packet type in both directions; each is also cut at every byte and damaged at every bit. */
static const struct {
    const char *name;
    nv_mqtt_type type;
    const char *hex;
} good[] = {
    {"CONNECT, clean", NV_MQTT_CONNECT, "10 0D 0004 4D515454 04 02 003C 0001 64"},
    {"CONNECT, empty client id, clean [MQTT-3.1.3-6]", NV_MQTT_CONNECT, "10 0C 0004 4D515454 04 02 0000 0000"},
    {"CONNECT, user name and password", NV_MQTT_CONNECT, "10 13 0004 4D515454 04 C0 00B4 0001 64 0001 75 0001 70"},
    {"CONNECT, empty password (mqtt.md 3.2)", NV_MQTT_CONNECT, "10 12 0004 4D515454 04 C0 00B4 0001 64 0001 75 0000"},
    {"CONNECT, will QoS 1, retained", NV_MQTT_CONNECT, "10 13 0004 4D515454 04 2C 00B4 0001 64 0001 74 0001 FF"},
    {"CONNACK 0, session present", NV_MQTT_CONNACK, "20 02 01 00"},
    {"CONNACK 5", NV_MQTT_CONNACK, "20 02 00 05"},
    {"PUBLISH QoS 0", NV_MQTT_PUBLISH, "30 05 0001 61 6869"},
    {"PUBLISH QoS 0, empty payload", NV_MQTT_PUBLISH, "30 03 0001 61"},
    {"PUBLISH QoS 1, DUP, RETAIN", NV_MQTT_PUBLISH, "3B 07 0001 61 1234 6869"},
    {"PUBLISH QoS 2", NV_MQTT_PUBLISH, "34 05 0001 61 FFFF"},
    {"PUBLISH, topic of 8 ASCII bytes and one character", NV_MQTT_PUBLISH, "32 0E 000A 6162636465666768C3A9 0001"},
    {"PUBLISH, topic of 8 ASCII bytes", NV_MQTT_PUBLISH, "32 0C 0008 6162636465666768 0001"},
    {"PUBLISH, topic beyond ASCII", NV_MQTT_PUBLISH, "30 05 0003 E282AC"},
    {"PUBACK", NV_MQTT_PUBACK, "40 02 0001"},
    {"PUBREC", NV_MQTT_PUBREC, "50 02 0100"},
    {"PUBREL", NV_MQTT_PUBREL, "62 02 0001"},
    {"PUBCOMP", NV_MQTT_PUBCOMP, "70 02 0001"},
    {"SUBSCRIBE, three filters", NV_MQTT_SUBSCRIBE, "82 0E 0007 0001 61 00 0001 23 01 0001 2B 02"},
    {"SUBACK", NV_MQTT_SUBACK, "90 06 0007 00 01 02 80"},
    {"UNSUBSCRIBE", NV_MQTT_UNSUBSCRIBE, "A2 08 0007 0001 61 0001 62"},
    {"UNSUBACK", NV_MQTT_UNSUBACK, "B0 02 0007"},
    {"PINGREQ", NV_MQTT_PINGREQ, "C0 00"},
    {"PINGRESP", NV_MQTT_PINGRESP, "D0 00"},
    {"DISCONNECT", NV_MQTT_DISCONNECT, "E0 00"},
};

static const struct {
    const char *clause; /* must stand in the reason */
    const char *hex;
    nv_err err;
} bad[] = {
    {"section 2.2.1", "00 00", NV_E_UNSUPPORTED},
    {"section 2.2.1", "F0 00", NV_E_UNSUPPORTED},
    {"MQTT-2.2.2-2", "11", NV_E_SYNTAX}, /* known by the first byte */
    {"MQTT-2.2.2-2", "41 02 0001", NV_E_SYNTAX},
    {"MQTT-2.2.2-2", "60 02 0001", NV_E_SYNTAX},
    {"MQTT-2.2.2-2", "80 06 0001 0001 61 00", NV_E_SYNTAX},
    {"MQTT-2.2.2-2", "A0 05 0001 0001 61", NV_E_SYNTAX},
    {"MQTT-2.2.2-2", "E1 00", NV_E_SYNTAX},
    {"section 2.2.3", "30 FF FF FF FF", NV_E_SYNTAX}, /* a fifth byte would follow */
    {"section 2.2.3", "30 80 80 80 80 01", NV_E_SYNTAX},
    {"section 3", "C0 01", NV_E_SYNTAX},
    {"section 3", "40 03 0001 00", NV_E_SYNTAX},
    {"section 3", "40 01 00", NV_E_SYNTAX},
    {"section 3", "20 03 00 84 00", NV_E_SYNTAX}, /* an MQTT 5 CONNACK */
    {"MQTT-2.3.1-1", "40 02 0000", NV_E_SYNTAX},
    {"MQTT-2.3.1-1", "32 05 0001 61 0000", NV_E_SYNTAX},
    {"MQTT-2.3.1-1", "82 06 0000 0001 61 00", NV_E_SYNTAX},
    {"MQTT-3.3.1-4", "36 05 0001 61 0001", NV_E_SYNTAX},
    {"MQTT-3.3.1-2", "38 03 0001 61", NV_E_SYNTAX},
    {"MQTT-3.3.2-2", "30 03 0001 23", NV_E_SYNTAX},
    {"MQTT-3.3.2-2", "30 03 0001 2B", NV_E_SYNTAX},
    {"MQTT-3.3.2-2", "30 0B 0009 6162636465666768 23", NV_E_SYNTAX},
    {"MQTT-3.3.2-2", "30 0B 0009 2B62636465666768 61", NV_E_SYNTAX},
    {"MQTT-4.7.3-1", "30 02 0000", NV_E_SYNTAX},
    {"MQTT-1.5.3-2", "30 04 0002 6100", NV_E_SYNTAX},
    {"MQTT-1.5.3-2", "30 0B 0009 6162630065666768 61", NV_E_SYNTAX},
    {"MQTT-1.5.3-1", "30 03 0001 80", NV_E_SYNTAX},
    {"MQTT-1.5.3-1", "30 04 0002 C080", NV_E_SYNTAX},     /* overlong U+0000 */
    {"MQTT-1.5.3-1", "30 05 0003 EDA080", NV_E_SYNTAX},   /* U+D800 */
    {"MQTT-1.5.3-1", "30 05 0003 EDBFBF", NV_E_SYNTAX},   /* U+DFFF */
    {"MQTT-1.5.3-1", "30 06 0004 F4908080", NV_E_SYNTAX}, /* U+110000 */
    {"MQTT-1.5.3-1", "30 04 0002 E282", NV_E_SYNTAX},     /* cut short */
    {"section 3.3.2", "30 03 0005 61", NV_E_SYNTAX},      /* topic longer than the packet */
    {"section 3.3.2", "32 04 0001 61 00", NV_E_SYNTAX},   /* half a packet id */
    {"section 3.3.2", "30 01 00", NV_E_SYNTAX},
    {"MQTT-3.1.2-1", "10 03 0004 4D", NV_E_SYNTAX},
    {"MQTT-3.1.2-1", "10 00", NV_E_SYNTAX},
    {"section 3.1.2", "10 08 0004 4D515454 04 02", NV_E_SYNTAX},
    {"MQTT-3.1.2-3", "10 0D 0004 4D515454 04 03 003C 0001 64", NV_E_SYNTAX},
    {"MQTT-3.1.2-14", "10 13 0004 4D515454 04 1E 003C 0001 64 0001 74 0001 FF", NV_E_SYNTAX},
    {"MQTT-3.1.2-13", "10 0D 0004 4D515454 04 0A 003C 0001 64", NV_E_SYNTAX},
    {"MQTT-3.1.2-15", "10 0D 0004 4D515454 04 22 003C 0001 64", NV_E_SYNTAX},
    {"MQTT-3.1.2-22", "10 10 0004 4D515454 04 42 003C 0001 64 0001 70", NV_E_SYNTAX},
    {"MQTT-3.1.3-1", "10 0C 0004 4D515454 04 02 003C 0001", NV_E_SYNTAX},
    {"MQTT-3.1.3-1", "10 0E 0004 4D515454 04 02 003C 0001 64 00", NV_E_SYNTAX}, /* more than announced */
    {"MQTT-3.1.3-1", "10 0D 0004 4D515454 04 82 003C 0001 64", NV_E_SYNTAX},    /* user name announced, absent */
    {"MQTT-1.5.3-1", "10 0D 0004 4D515454 04 02 003C 0001 FF", NV_E_SYNTAX},
    {"MQTT-1.5.3-2", "10 10 0004 4D515454 04 82 003C 0001 64 0001 00", NV_E_SYNTAX},
    {"MQTT-4.7.3-1", "10 11 0004 4D515454 04 06 00B4 0001 64 0000 0000", NV_E_SYNTAX}, /* will without topic */
    {"section 3.2.2.1", "20 02 02 00", NV_E_SYNTAX},
    {"MQTT-3.2.2-4", "20 02 01 05", NV_E_SYNTAX},
    {"MQTT-3.8.3-3", "82 02 0001", NV_E_SYNTAX},
    {"MQTT-3.8.3-4", "82 06 0001 0001 61 03", NV_E_SYNTAX},
    {"MQTT-3.8.3-4", "82 06 0001 0001 61 41", NV_E_SYNTAX},
    {"MQTT-4.7.3-1", "82 05 0001 0000 00", NV_E_SYNTAX},
    {"section", "82 05 0001 0001 61", NV_E_SYNTAX}, /* filter without QoS */
    {"MQTT-3.10.3-2", "A2 02 0001", NV_E_SYNTAX},
    {"section 3.9.3", "90 02 0001", NV_E_SYNTAX},
    {"MQTT-3.9.3-2", "90 03 0001 03", NV_E_SYNTAX},
    {"section 2.3.1", "82 01 00", NV_E_SYNTAX},
};

static void good_packets_survive_a_round_trip(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(good); i++) {
        nv_span in = bytes_of(good[i].hex);
        nv_mqtt_packet packet;
        size_t consumed = 0;
        assert_int_equal(nv_mqtt_decode(in, MAX_PACKET, &packet, &consumed, &why), NV_OK);
        assert_int_equal(packet.type, good[i].type);
        assert_int_equal(packet.size, in.len);
        assert_int_equal(consumed, in.len);
        uint8_t out[128];
        nv_writer w = nv_writer_of(out, sizeof(out));
        nv_mqtt_write(&w, &packet);
        assert_int_equal(w.err, NV_OK);
        assert_int_equal(nv_writer_len(&w), in.len);
        assert_memory_equal(out, in.ptr, in.len);
        release(in);
    }
}

static bool same_packet(const nv_mqtt_packet *a, const nv_mqtt_packet *b)
{
    if (a->type != b->type || a->size != b->size) {
        return false;
    }
    if (a->type == NV_MQTT_PUBLISH) {
        const nv_mqtt_publish *p = &a->u.publish;
        const nv_mqtt_publish *q = &b->u.publish;
        return nv_span_eq(p->topic, q->topic) && nv_span_eq(p->payload, q->payload) && p->qos == q->qos &&
               p->packet_id == q->packet_id && p->dup == q->dup && p->retain == q->retain;
    }
    return a->type != NV_MQTT_PUBACK || a->u.ack_id == b->u.ack_id;
}

/** The fast path and the general one must never disagree. */
static nv_err decode_both(nv_span in, size_t max_packet, nv_mqtt_packet *packet, size_t *consumed)
{
    nv_mqtt_packet other;
    size_t other_consumed = 99;
    const char *other_why = NULL;
    nv_err err = nv_mqtt_decode(in, max_packet, packet, consumed, &why);
    assert_int_equal(nv_mqtt_decode_any(in, max_packet, &other, &other_consumed, &other_why), err);
    assert_int_equal(other_consumed, *consumed);
    assert_true(err != NV_OK || same_packet(packet, &other));
    return err;
}

static void every_cut_asks_for_more(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(good); i++) {
        nv_span whole = bytes_of(good[i].hex);
        for (size_t cut = 0; cut < whole.len; cut++) {
            uint8_t *exact = malloc(cut ? cut : 1);
            assert_non_null(exact);
            memcpy(exact, whole.ptr, cut);
            nv_mqtt_packet packet;
            size_t consumed = 99;
            assert_int_equal(decode_both(nv_span_of(exact, cut), MAX_PACKET, &packet, &consumed), NV_E_MORE);
            assert_int_equal(consumed, 0);
            assert_int_equal(packet.type, cut ? good[i].type : NV_MQTT_NONE);
            assert_int_equal(packet.size, cut > 1 ? whole.len : 0); /* all of these have a header of two bytes */
            free(exact);
        }
        release(whole);
    }
}

static void every_flipped_bit_is_survived(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(good); i++) {
        nv_span whole = bytes_of(good[i].hex);
        uint8_t *bytes = malloc(whole.len);
        assert_non_null(bytes);
        for (size_t bit = 0; bit < whole.len * 8; bit++) {
            memcpy(bytes, whole.ptr, whole.len);
            bytes[bit / 8] = (uint8_t)(bytes[bit / 8] ^ 1u << bit % 8);
            nv_mqtt_packet packet;
            size_t consumed = 0;
            why = NULL;
            nv_err err = decode_both(nv_span_of(bytes, whole.len), MAX_PACKET, &packet, &consumed);
            assert_true(err == NV_OK || err == NV_E_MORE || why != NULL);
            assert_true(err == NV_OK ? consumed <= whole.len && consumed == packet.size : consumed == 0);
        }
        free(bytes);
        release(whole);
    }
}

static void bad_packets_name_the_clause(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(bad); i++) {
        nv_span in = bytes_of(bad[i].hex);
        nv_mqtt_packet packet;
        size_t consumed = 99;
        why = "";
        nv_err err = decode_both(in, MAX_PACKET, &packet, &consumed);
        if (err != bad[i].err || !strstr(why, bad[i].clause)) {
            fail_msg("%s: expected %s, got %s (%s)", bad[i].hex, bad[i].clause, nv_err_name(err), why);
        }
        assert_int_equal(consumed, 0);
        release(in);
    }
}

static void publish_fields(void **state)
{
    (void)state;
    nv_span in = bytes_of("3B 07 0001 61 1234 6869 C000");
    nv_mqtt_packet packet;
    size_t consumed = 0;
    assert_int_equal(decode_both(in, MAX_PACKET, &packet, &consumed), NV_OK);
    assert_int_equal(consumed, 9); /* what follows is not touched */
    assert_true(nv_span_eq_str(packet.u.publish.topic, "a"));
    assert_true(nv_span_eq_str(packet.u.publish.payload, "hi"));
    assert_int_equal(packet.u.publish.packet_id, 0x1234);
    assert_int_equal(packet.u.publish.qos, 1);
    assert_true(packet.u.publish.dup && packet.u.publish.retain);
    assert_ptr_equal(packet.u.publish.topic.ptr, in.ptr + 4);
    release(in);
}

static void connect_fields(void **state)
{
    (void)state;
    nv_span in = bytes_of("10 19 0004 4D515454 04 EE 00B4 0001 64 0001 74 0001 FF 0001 75 0001 70");
    nv_mqtt_packet packet;
    size_t consumed = 0;
    assert_int_equal(nv_mqtt_decode(in, MAX_PACKET, &packet, &consumed, &why), NV_OK);
    const nv_mqtt_connect *c = &packet.u.connect;
    assert_true(c->supported && c->clean && c->has_will && c->will_retain && c->has_username && c->has_password);
    assert_int_equal(c->will_qos, 1);
    assert_int_equal(c->keep_alive_s, 180);
    assert_true(nv_span_eq_str(c->client_id, "d") && nv_span_eq_str(c->will_topic, "t"));
    assert_true(nv_span_eq_str(c->will_payload, "\xFF") && nv_span_eq_str(c->username, "u"));
    assert_true(nv_span_eq_str(c->password, "p"));
    release(in);
}

static void other_versions_are_recognised(void **state)
{
    (void)state;
    static const struct {
        const char *hex;
        const char *name;
        uint8_t level;
    } rows[] = {
        {"10 0F 0006 4D5149736470 03 02 003C 0001 64", "MQIsdp", 3},
        {"10 0D 0004 4D515454 84 02 003C 0001 64", "MQTT", NV_MQTT_LEVEL_311 | NV_MQTT_LEVEL_BRIDGE},
        {"10 13 0004 4D515454 05 02 003C 05 11 0000000A 0001 64", "MQTT", NV_MQTT_LEVEL_5},
        {"10 07 0004 4D515454 06", "MQTT", 6},
        {"10 07 0004 48545450 04", "HTTP", 4},
        {"10 05 0002 4D51 04", "MQ", 4},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_span in = bytes_of(rows[i].hex);
        nv_mqtt_packet packet;
        size_t consumed = 0;
        assert_int_equal(nv_mqtt_decode(in, MAX_PACKET, &packet, &consumed, &why), NV_OK);
        assert_int_equal(consumed, in.len);
        assert_false(packet.u.connect.supported);
        assert_int_equal(packet.u.connect.level, rows[i].level);
        assert_true(nv_span_eq_str(packet.u.connect.protocol_name, rows[i].name));
        release(in);
    }
    uint8_t out[8];
    nv_writer w = nv_writer_of(out, sizeof(out));
    nv_mqtt_write_connack_v5(&w, NV_MQTT_V5_UNSUPPORTED);
    assert_int_equal(w.err, NV_OK);
    assert_true(nv_span_eq(nv_writer_span(&w), nv_span_of("\x20\x03\x00\x84\x00", 5)));
}

static void remaining_length_at_its_steps(void **state)
{
    (void)state;
    static const struct {
        size_t remaining;
        const char *hex; /* table 2.4 */
    } rows[] = {{127, "30 7F"},         {128, "30 8001"},         {16383, "30 FF7F"},        {16384, "30 808001"},
                {2097151, "30 FFFF7F"}, {2097152, "30 80808001"}, {268435455, "30 FFFFFF7F"}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_span header = bytes_of(rows[i].hex);
        nv_mqtt_packet packet;
        size_t consumed = 99;
        size_t size = header.len + rows[i].remaining;
        assert_int_equal(nv_mqtt_fixed_size(rows[i].remaining), header.len);
        assert_int_equal(decode_both(header, size, &packet, &consumed), NV_E_MORE);
        assert_int_equal(packet.size, size);
        assert_int_equal(decode_both(header, size - 1, &packet, &consumed), NV_E_TOO_BIG); /* by the header alone */
        assert_int_equal(packet.type, NV_MQTT_PUBLISH);
        assert_int_equal(consumed, 0);
        uint8_t out[16];
        nv_writer w = nv_writer_of(out, sizeof(out));
        nv_mqtt_publish publish = {.topic = NV_SPAN_LIT("abc"), .payload = {NULL, rows[i].remaining - 5}};
        nv_mqtt_write_publish_header(&w, &publish);
        assert_int_equal(w.err, NV_OK);
        assert_memory_equal(out, header.ptr, header.len);
        assert_int_equal(nv_mqtt_publish_size(3, rows[i].remaining - 5, 0), size);
        release(header);
    }
}

static void longer_forms_of_the_length_are_allowed(void **state)
{
    (void)state;
    static const char *const rows[] = {"30 83 00 0001 61", "30 83 80 80 00 0001 61", "40 82 00 0001", "C0 80 80 80 00"};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_span in = bytes_of(rows[i]);
        nv_mqtt_packet packet;
        size_t consumed = 0;
        assert_int_equal(decode_both(in, MAX_PACKET, &packet, &consumed), NV_OK);
        assert_int_equal(consumed, in.len);
        release(in);
    }
}

static void wildcards_are_found_anywhere_in_a_topic(void **state)
{
    (void)state;
    static const uint8_t wrong[] = {0, '+', '#', 0x80, 0xFF};
    char topic[40];
    for (size_t len = 1; len <= sizeof(topic); len++) {
        for (size_t at = 0; at < len; at++) {
            memset(topic, 'x', sizeof(topic));
            topic[at] = (char)(at % 2 ? 0x7F : 1);
            assert_true(nv_mqtt_topic_is_plain((const uint8_t *)topic, len));
            for (size_t i = 0; i < NV_COUNT_OF(wrong); i++) {
                topic[at] = (char)wrong[i];
                assert_false(nv_mqtt_topic_is_plain((const uint8_t *)topic, len));
            }
        }
    }
    assert_false(nv_mqtt_topic_is_plain((const uint8_t *)topic, 0));
    for (unsigned byte = 0; byte < 256; byte++) {
        memset(topic, (int)byte, sizeof(topic));
        bool plain = byte > 0 && byte < 0x80 && byte != '+' && byte != '#';
        assert_int_equal(nv_mqtt_topic_is_plain((const uint8_t *)topic, 9), plain);
        assert_int_equal(nv_mqtt_topic_is_plain((const uint8_t *)topic, 3), plain);
    }
}

static void filters_come_in_order(void **state)
{
    (void)state;
    static const nv_mqtt_filter filters[] = {{NV_SPAN_LIT("devices/d/messages/devicebound/#"), 1},
                                             {NV_SPAN_LIT("$iothub/methods/POST/#"), 0},
                                             {NV_SPAN_LIT("$iothub/twin/res/#"), 2}};
    uint8_t out[256];
    for (int subscribe = 0; subscribe < 2; subscribe++) {
        nv_writer w = nv_writer_of(out, sizeof(out));
        if (subscribe) {
            nv_mqtt_write_subscribe(&w, 7, filters, NV_COUNT_OF(filters));
        } else {
            nv_mqtt_write_unsubscribe(&w, 7, filters, NV_COUNT_OF(filters));
        }
        assert_int_equal(w.err, NV_OK);
        nv_mqtt_packet packet;
        size_t consumed = 0;
        assert_int_equal(nv_mqtt_decode(nv_writer_span(&w), MAX_PACKET, &packet, &consumed, &why), NV_OK);
        assert_int_equal(packet.type, subscribe ? NV_MQTT_SUBSCRIBE : NV_MQTT_UNSUBSCRIBE);
        assert_int_equal(packet.u.subscribe.count, NV_COUNT_OF(filters));
        assert_int_equal(packet.u.subscribe.packet_id, 7);
        nv_reader r = nv_reader_of(packet.u.subscribe.filters);
        nv_span text;
        uint8_t qos = 0;
        size_t n = 0;
        while (nv_mqtt_next_filter(&r, &text, subscribe ? &qos : NULL)) {
            assert_true(nv_span_eq(text, filters[n].text));
            assert_true(!subscribe || qos == filters[n].qos);
            n++;
        }
        assert_int_equal(n, NV_COUNT_OF(filters));
    }
}

static void encoders_refuse_what_cannot_be_written(void **state)
{
    (void)state;
    static uint8_t big[70000];
    nv_span long_text = nv_span_of(memset(big, 'a', sizeof(big)), sizeof(big));
    static uint8_t out[200000];
    nv_mqtt_filter filter = {long_text, 0};
    nv_mqtt_filter qos3 = {NV_SPAN_LIT("a"), 3};
    for (int i = 0; i < 14; i++) {
        nv_writer w = nv_writer_of(out, sizeof(out));
        nv_mqtt_connect connect = {.client_id = NV_SPAN_LIT("d"), .has_password = true};
        nv_mqtt_connect long_id = {.client_id = long_text};
        nv_mqtt_publish publish = {.topic = NV_SPAN_LIT("t"), .qos = 1};
        nv_mqtt_packet none = {.type = NV_MQTT_NONE};
        switch (i) {
        case 0:
            nv_mqtt_write_connect(&w, &connect);
            break;
        case 1:
            nv_mqtt_write_connect(&w, &long_id);
            break;
        case 2:
            nv_mqtt_write_publish(&w, &publish);
            break; /* packet id 0 */
        case 3:
            publish.qos = 3;
            nv_mqtt_write_publish(&w, &publish);
            break;
        case 4:
            publish.qos = 0;
            publish.topic = long_text;
            nv_mqtt_write_publish(&w, &publish);
            break;
        case 5:
            publish.qos = 0;
            publish.payload.len = SIZE_MAX;
            nv_mqtt_write_publish_header(&w, &publish);
            break;
        case 6:
            nv_mqtt_write_ack(&w, NV_MQTT_PUBACK, 0);
            break;
        case 7:
            nv_mqtt_write_ack(&w, NV_MQTT_CONNACK, 1);
            break;
        case 8:
            nv_mqtt_write_subscribe(&w, 1, &filter, 1);
            break;
        case 9:
            nv_mqtt_write_subscribe(&w, 1, &qos3, 1);
            break;
        case 10:
            nv_mqtt_write_unsubscribe(&w, 1, &qos3, 0);
            break;
        case 11:
            nv_mqtt_write_suback(&w, 1, NV_SPAN_EMPTY);
            break;
        case 12:
            nv_mqtt_write_empty(&w, NV_MQTT_PUBACK);
            break;
        default:
            nv_mqtt_write(&w, &none);
            break;
        }
        assert_int_equal(w.err, NV_E_INVALID);
    }
    for (size_t room = 0; room < 9; room++) { /* whatever the room: an error, never a byte too many */
        uint8_t *exact = malloc(room ? room : 1);
        assert_non_null(exact);
        nv_writer w = nv_writer_of(exact, room);
        nv_mqtt_publish publish = {.topic = NV_SPAN_LIT("t"), .payload = NV_SPAN_LIT("hi"), .qos = 1, .packet_id = 9};
        nv_mqtt_write_publish(&w, &publish);
        assert_int_equal(w.err, NV_E_TOO_BIG);
        free(exact);
    }
}

static void hot_puback_is_the_same_packet(void **state)
{
    (void)state;
    uint8_t hot[4];
    uint8_t out[4];
    assert_ptr_equal(nv_mqtt_put_puback(hot, 0xABCD), hot + 4);
    nv_writer w = nv_writer_of(out, sizeof(out));
    nv_mqtt_write_ack(&w, NV_MQTT_PUBACK, 0xABCD);
    assert_memory_equal(hot, out, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_packets_survive_a_round_trip),
        cmocka_unit_test(every_cut_asks_for_more),
        cmocka_unit_test(every_flipped_bit_is_survived),
        cmocka_unit_test(bad_packets_name_the_clause),
        cmocka_unit_test(publish_fields),
        cmocka_unit_test(connect_fields),
        cmocka_unit_test(other_versions_are_recognised),
        cmocka_unit_test(remaining_length_at_its_steps),
        cmocka_unit_test(longer_forms_of_the_length_are_allowed),
        cmocka_unit_test(wildcards_are_found_anywhere_in_a_topic),
        cmocka_unit_test(filters_come_in_order),
        cmocka_unit_test(encoders_refuse_what_cannot_be_written),
        cmocka_unit_test(hot_puback_is_the_same_packet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
