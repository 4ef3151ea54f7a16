/*
 * A whole AMQP session of the hub: any bytes in any pieces, well-formed frames with any contents, with time, failing
 * stores, a second connection of the same device and the registry changing in between. The first byte chooses how far
 * the peer has come already: nothing, OPEN without SASL, SASL PLAIN of the device or of a policy.
 *
 *   step: 0x00-0x3F  feed the next step + 1 bytes of the input as they are; odd ones run the loop afterwards
 *         0x40-0x5F  ATTACH: address of the table, role; its handle is the number of ATTACHes before
 *         0x60-0x6F  TRANSFER on a handle: the next bytes are its message, or one of the table
 *         0x70-0x7F  FLOW, DISPOSITION, DETACH, END, ... of the table in frame()
 *         0x80-0xBF  something of the cloud, of the table in fuzz_cloud()
 *         0xC0-0xFF  one event of the table in fuzz_event()
 *
 * Whatever happened, at the end every session is done and freed, and nobody is connected.
 */
#include "codec/amqp/frame.h"
#include "codec/amqp/message.h"
#include "codec/sas.h"
#include "session/amqp/server.h"
#include "session_world.h"
#include "support/fake_service.h"

#include <stdio.h>

typedef struct fuzz {
    fuzz_world world;
    uint32_t attached;
    uint32_t deliveries;
} fuzz;

static uint8_t next(fuzz *f)
{
    return f->world.at < f->world.end ? *f->world.at++ : 0;
}

/* ---- frames ------------------------------------------------------------------------------------------------- */

static void send_frame(mqtt_pair *pair, nv_amqp_frame_type type, const nv_amqp_performative *p, nv_span payload)
{
    static uint8_t memory[70000];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    size_t mark = nv_amqp_begin_frame(&w, type, 0);
    nv_amqp_encode(&w, p);
    nv_write_span(&w, payload);
    nv_amqp_end_frame(&w, mark);
    fuzz_say(pair, nv_writer_span(&w));
}

static size_t token(char *out, size_t size, const char *resource, const char *policy)
{
    const nv_key *key = policy ? &fake_policy_key : &fake_device_key;
    nv_writer w = nv_writer_of(out, size);
    nv_sas_write(&w, nv_span_str(resource), FAKE_NOW_US / NV_US_PER_S + 100, nv_span_str(policy),
                 nv_span_of(key->bytes, key->len));
    return nv_writer_len(&w);
}

static void send_header(mqtt_pair *pair, nv_amqp_protocol protocol)
{
    uint8_t header[NV_AMQP_HEADER_SIZE];
    nv_amqp_write_header(header, protocol);
    fuzz_say(pair, nv_span_of(header, sizeof(header)));
}

static void send_plain(mqtt_pair *pair, const char *user, const char *resource, const char *policy)
{
    char response[1024];
    size_t len = (size_t)snprintf(response, sizeof(response), "%c%s%c", '\0', user, '\0');
    len += token(response + len, sizeof(response) - len, resource, policy);
    nv_amqp_performative p = {.code = NV_AMQP_SASL_INIT};
    p.sasl_init.mechanism = nv_span_str("PLAIN");
    p.sasl_init.initial_response = nv_span_of(response, len);
    send_header(pair, NV_AMQP_PROTOCOL_SASL);
    send_frame(pair, NV_AMQP_FRAME_SASL, &p, NV_SPAN_EMPTY);
}

static void send_begin(mqtt_pair *pair)
{
    nv_amqp_performative p = {.code = NV_AMQP_BEGIN};
    NV_AMQP_SET(&p.begin, begin, next_outgoing_id, 0);
    NV_AMQP_SET(&p.begin, begin, incoming_window, 2048);
    NV_AMQP_SET(&p.begin, begin, outgoing_window, 2048);
    send_frame(pair, NV_AMQP_FRAME_AMQP, &p, NV_SPAN_EMPTY);
}

static void send_open(mqtt_pair *pair)
{
    nv_amqp_performative p = {.code = NV_AMQP_OPEN};
    p.open.container_id = nv_span_str("fuzz");
    p.open.hostname = nv_span_str(FAKE_HUB_NAME);
    send_header(pair, NV_AMQP_PROTOCOL_AMQP);
    send_frame(pair, NV_AMQP_FRAME_AMQP, &p, NV_SPAN_EMPTY);
    send_begin(pair);
}

static void login(fuzz *f, mqtt_pair *pair, unsigned how)
{
    if (how == 2) {
        send_plain(pair, "d@sas.hub", FAKE_HUB_NAME "/devices/d", NULL);
    } else if (how == 3) {
        send_plain(pair, "iothubowner@sas.root.hub", FAKE_HUB_NAME, "iothubowner");
    }
    fuzz_run(&f->world);
    if (how > 0) {
        send_open(pair);
        fuzz_run(&f->world);
    }
}

static void attach(fuzz *f, mqtt_pair *pair, uint8_t what)
{
    static const char *const addresses[16] = {
        "$cbs",
        "/devices/d/messages/events",
        "/devices/d/messages/devicebound",
        "/devices/d/twin",
        "/devices/d/methods/devicebound",
        "/devices/d/modules/m/messages/events",
        "/devices/d2/messages/events",
        "/messages/devicebound",
        "/messages/serviceBound/feedback",
        "/messages/serviceBound/filenotifications",
        "/messages/events/$management",
        "$management",
        "hub/ConsumerGroups/$Default/Partitions/0",
        "hub",
        "/devices/d/modules/m/twin",
        "amqps://x:y@host:1/devices/d/messages/events",
    };
    bool peer_sends = what & 16;
    uint8_t memory[128];
    char name[16];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_performative p = {.code = NV_AMQP_ATTACH};
    nv_amqp_put_string_of(&w, addresses[what & 15]);
    uint8_t terminus[200];
    nv_writer t = nv_writer_of(terminus, sizeof(terminus));
    nv_amqp_source source = {.address = nv_writer_span(&w)};
    nv_amqp_target target = {.address = nv_writer_span(&w)};
    if (peer_sends) {
        nv_amqp_encode_target(&t, &target);
        p.attach.target = nv_writer_span(&t);
    } else {
        nv_amqp_encode_source(&t, &source);
        p.attach.source = nv_writer_span(&t);
    }
    (void)snprintf(name, sizeof(name), "l%u", f->attached);
    p.attach.name = nv_span_str(name);
    NV_AMQP_SET(&p.attach, attach, handle, f->attached++);
    NV_AMQP_SET(&p.attach, attach, role, !peer_sends);
    NV_AMQP_SET(&p.attach, attach, initial_delivery_count, 0);
    NV_AMQP_SET(&p.attach, attach, rcv_settle_mode, what & 1);
    send_frame(pair, NV_AMQP_FRAME_AMQP, &p, NV_SPAN_EMPTY);
}

/* A request to put the device's token, or one for which the next bytes are the name. */
static nv_span put_token(fuzz *f, uint8_t memory[2048], bool known)
{
    char text[600];
    nv_span name = known ? nv_span_str(FAKE_HUB_NAME "/devices/d") : fuzz_take(&f->world, 40);
    nv_writer w = nv_writer_of(memory, 2048);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&w, "operation");
    nv_amqp_put_string_of(&w, "put-token");
    nv_amqp_put_string_of(&w, "name");
    nv_amqp_put_string(&w, name);
    nv_amqp_end_map(&w, mark, 4);
    nv_amqp_put_value_head(&w);
    nv_amqp_put_string(&w, nv_span_of(text, token(text, sizeof(text), FAKE_HUB_NAME "/devices/d", NULL)));
    return nv_writer_span(&w);
}

static void transfer(fuzz *f, mqtt_pair *pair, uint8_t what)
{
    static const uint8_t hello[] = {0x00, 0x53, 0x75, 0xa0, 5, 'h', 'e', 'l', 'l', 'o'};
    uint8_t memory[2048];
    uint8_t kind = next(f);
    nv_span message = nv_span_of(hello, sizeof(hello));
    nv_amqp_performative p = {.code = NV_AMQP_TRANSFER};
    if ((kind & 3) == 1) {
        message = put_token(f, memory, kind & 4);
    } else if ((kind & 3) == 2) {
        message = fuzz_take(&f->world, 64u + kind);
    }
    uint32_t number = f->deliveries++;
    NV_AMQP_SET(&p.transfer, transfer, handle, what & 15u);
    NV_AMQP_SET(&p.transfer, transfer, delivery_id, number);
    p.transfer.delivery_tag = nv_span_of(&number, sizeof(number));
    NV_AMQP_SET(&p.transfer, transfer, message_format, kind & 8 ? NV_AMQP_FORMAT_BATCH : 0);
    NV_AMQP_SET(&p.transfer, transfer, settled, kind & 16);
    NV_AMQP_SET(&p.transfer, transfer, more, kind & 32);
    NV_AMQP_SET(&p.transfer, transfer, aborted, (kind & 192) == 192);
    send_frame(pair, NV_AMQP_FRAME_AMQP, &p, message);
}

static void flow(fuzz *f, mqtt_pair *pair)
{
    nv_amqp_performative p = {.code = NV_AMQP_FLOW};
    uint8_t what = next(f);
    NV_AMQP_SET(&p.flow, flow, next_incoming_id, 0);
    NV_AMQP_SET(&p.flow, flow, incoming_window, 2048);
    NV_AMQP_SET(&p.flow, flow, next_outgoing_id, f->deliveries);
    NV_AMQP_SET(&p.flow, flow, outgoing_window, 2048);
    NV_AMQP_SET(&p.flow, flow, handle, what & 15u);
    NV_AMQP_SET(&p.flow, flow, delivery_count, 0);
    NV_AMQP_SET(&p.flow, flow, link_credit, next(f));
    NV_AMQP_SET(&p.flow, flow, drain, what & 16);
    NV_AMQP_SET(&p.flow, flow, echo, what & 32);
    send_frame(pair, NV_AMQP_FRAME_AMQP, &p, NV_SPAN_EMPTY);
}

static void disposition(fuzz *f, mqtt_pair *pair)
{
    static const uint8_t states[4][4] = {
        {0x00, 0x53, 0x24, 0x45}, {0x00, 0x53, 0x25, 0x45}, {0x00, 0x53, 0x26, 0x45}, {0x00, 0x53, 0x27, 0x45}};
    nv_amqp_performative p = {.code = NV_AMQP_DISPOSITION};
    uint8_t what = next(f);
    NV_AMQP_SET(&p.disposition, disposition, role, true);
    NV_AMQP_SET(&p.disposition, disposition, first, what & 15u);
    NV_AMQP_SET(&p.disposition, disposition, last, (what & 15u) + (what >> 7));
    NV_AMQP_SET(&p.disposition, disposition, settled, what & 16);
    p.disposition.state = nv_span_of(states[what >> 5 & 3], 4);
    send_frame(pair, NV_AMQP_FRAME_AMQP, &p, NV_SPAN_EMPTY);
}

static void frame(fuzz *f, mqtt_pair *pair, uint8_t what)
{
    nv_amqp_performative p = {.code = NV_AMQP_DETACH};
    switch (what & 7) {
    case 0:
    case 1:
        flow(f, pair);
        return;
    case 2:
    case 3:
        disposition(f, pair);
        return;
    case 4:
    case 5:
        NV_AMQP_SET(&p.detach, detach, handle, next(f) & 15u);
        NV_AMQP_SET(&p.detach, detach, closed, true);
        break;
    case 6:
        p.code = what & 8 ? NV_AMQP_CLOSE : NV_AMQP_END;
        break;
    default:
        send_begin(pair);
        return;
    }
    send_frame(pair, NV_AMQP_FRAME_AMQP, &p, NV_SPAN_EMPTY);
}

/* ---- the cloud ---------------------------------------------------------------------------------------------- */

/* What links of services and readers do comes with what every session has. */
static void cloud(fuzz *f, uint8_t what)
{
    static const nv_hub_error errors[] = {NV_HUB_ERROR_NONE, NV_HUB_ERROR_ArgumentInvalid, NV_HUB_ERROR_NONE,
                                          NV_HUB_ERROR_ThrottlingException};
    fuzz_cloud(&f->world, what);
    if (what >> 3 == 0x14) {
        fake_send_set_error(errors[what & 3]);
    } else if (what >> 3 == 0x15 && what & 4) {
        fake_feedback_give(what & 2 ? "[{\"statusCode\":\"Success\"}]" : "");
    } else if (what >> 3 == 0x15) {
        fake_readers_give(what & 2 ? NV_OK : NV_E_GONE, nv_span_str("event"));
    }
}

/* ---- steps ------------------------------------------------------------------------------------------------- */

static void take_over(fuzz *f)
{
    if (!f->world.other.session || f->world.other.session->authenticated) {
        return;
    }
    uint32_t attached = f->attached;
    login(f, &f->world.other, 2);
    f->attached = 0;
    attach(f, &f->world.other, 0x11);
    f->attached = attached;
}

static void feed(fuzz *f, uint8_t step)
{
    fuzz_say(&f->world.pair, fuzz_take(&f->world, (size_t)step + 1));
    if (step & 1) {
        fuzz_run(&f->world);
    }
}

static void take_step(fuzz *f, uint8_t step)
{
    if (FUZZ_IS_TAKE_OVER(step)) {
        take_over(f);
    } else if (step >= 0xC0) {
        fuzz_event(&f->world, step);
    } else if (step >= 0x80) {
        cloud(f, step);
    } else if (step >= 0x70) {
        frame(f, &f->world.pair, step);
    } else if (step >= 0x60) {
        transfer(f, &f->world.pair, step);
    } else if (step >= 0x40) {
        attach(f, &f->world.pair, step);
    } else {
        feed(f, step);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) {
        return 0;
    }
    static fuzz f;
    f.attached = 0;
    f.deliveries = 0;
    fuzz_init(&f.world, data, size, nv_amqp_server_new);
    f.world.pair.piece = data[0] & 16 ? 7 : 0;
    login(&f, &f.world.pair, data[0] & 3);
    while (f.world.at < f.world.end) {
        take_step(&f, *f.world.at++);
    }
    fuzz_finish(&f.world);
    return 0;
}
