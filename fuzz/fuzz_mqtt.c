/** MQTT packets: the two decoders agree, and what was decoded is written back as the same packet. */
#include "codec/mqtt.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) {
        abort();
    }
}

static void walk_filters(const nv_mqtt_subscribe *s, bool with_qos)
{
    nv_reader r = nv_reader_of(s->filters);
    nv_span filter;
    uint8_t qos = 0;
    size_t count = 0;
    while (nv_mqtt_next_filter(&r, &filter, with_qos ? &qos : NULL)) {
        check(filter.len > 0 && qos <= 2);
        count++;
    }
    check(count == s->count && r.err == NV_OK && nv_reader_left(&r) == 0);
}

static void check_packet(nv_span bytes, const nv_mqtt_packet *packet)
{
    if (packet->type == NV_MQTT_SUBSCRIBE) {
        walk_filters(&packet->u.subscribe, true);
    } else if (packet->type == NV_MQTT_UNSUBSCRIBE) {
        walk_filters(&packet->u.unsubscribe, false);
    } else if (packet->type == NV_MQTT_CONNECT && !packet->u.connect.supported) {
        return; /* only looked at, not decoded */
    }
    uint8_t *out = malloc(bytes.len);
    check(out != NULL);
    nv_writer w = nv_writer_of(out, bytes.len);
    nv_mqtt_write(&w, packet);
    check(w.err == NV_OK);
    /* The remaining length may have been longer than needed; the body is the same. */
    size_t written = nv_writer_len(&w);
    size_t header = 2;
    while (out[header - 1] & 0x80) {
        header++;
    }
    size_t body = written - header;
    check(out[0] == bytes.ptr[0] && written <= bytes.len);
    check(memcmp(out + header, bytes.ptr + bytes.len - body, body) == 0);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nv_span in = nv_span_of(data, size);
    for (;;) {
        nv_mqtt_packet packet;
        nv_mqtt_packet other;
        size_t consumed = 0;
        size_t other_consumed = 0;
        const char *why = NULL;
        const char *other_why = NULL;
        nv_err err = nv_mqtt_decode(in, 4096, &packet, &consumed, &why);
        check(nv_mqtt_decode_any(in, 4096, &other, &other_consumed, &other_why) == err);
        check(other_consumed == consumed && other.type == packet.type && other.size == packet.size);
        if (err != NV_OK) {
            check(consumed == 0 && (err == NV_E_MORE || why != NULL));
            return 0;
        }
        check(consumed > 0 && consumed <= in.len && consumed == packet.size);
        nv_span bytes = nv_span_first(in, consumed);
        check_packet(bytes, &packet);
        check_packet(bytes, &other);
        in = nv_span_skip(in, consumed);
    }
}
