/*
 * A whole AMQP session of the hub: any bytes in any pieces, well-formed frames with any contents, with time, failing
 * stores, a second connection of the same device and the registry changing in between. The first byte chooses how far
 * the peer has come already: nothing, OPEN without SASL, SASL PLAIN of the device or of a policy.
 *
 *   step: 0x00-0x3F  feed the next step + 1 bytes of the input as they are; odd ones run the loop afterwards
 *         0x40-0x5F  ATTACH: address of the table, role; its handle is the number of ATTACHes before
 *         0x60-0x6F  TRANSFER on a handle: the next bytes are its message, or one of the table
 *         0x70-0x7F  FLOW, DISPOSITION, DETACH, END, ... of the table in frame()
 *         0x80-0xBF  something of the cloud
 *         0xC0-0xFF  one event of the table in event()
 *
 * Whatever happened, at the end every session is done and freed, and nobody is connected.
 */
#include "base/diag.h"
#include "codec/amqp/frame.h"
#include "codec/amqp/message.h"
#include "codec/sas.h"
#include "core/devices.h"
#include "core/method.h"
#include "session/amqp/server.h"
#include "support/fake_cloud.h"
#include "support/fake_core.h"
#include "support/fake_service.h"
#include "support/mqtt_pair.h"

#include <stdio.h>
#include <stdlib.h>

#define CALLS 4u

typedef struct fuzz {
    fake_core core;
    mqtt_pair pair;
    mqtt_pair other;
    nv_method_call calls[CALLS];
    bool calling[CALLS];
    uint32_t attached;
    uint32_t deliveries;
    const uint8_t *at;
    const uint8_t *end;
} fuzz;

static void run(fuzz *f)
{
    for (int i = 0; i < 4; i++) {
        fake_core_run(&f->core);
        mqtt_pair_service(&f->pair);
        mqtt_pair_service(&f->other);
        mqtt_pair_tick(&f->pair); /* what an engine asks for at once */
        mqtt_pair_tick(&f->other);
    }
}

static void tick(fuzz *f, int64_t us)
{
    nv_manual_clock_advance(&f->core.clock, us);
    mqtt_pair_tick(&f->pair);
    mqtt_pair_tick(&f->other);
    nv_hub_loop_tick(&f->core.hub->loops[0], nv_mono_us(&f->core.clock.clock));
}

static uint8_t next(fuzz *f)
{
    return f->at < f->end ? *f->at++ : 0;
}

/* ---- frames ------------------------------------------------------------------------------------------------- */

static void send(mqtt_pair *pair, nv_span bytes)
{
    if (pair->session && nv_buf_len(&pair->in) < (1u << 20)) {
        mqtt_pair_send(pair, bytes);
    }
}

static void send_frame(mqtt_pair *pair, nv_amqp_frame_type type, const nv_amqp_performative *p, nv_span payload)
{
    static uint8_t memory[70000];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    size_t mark = nv_amqp_begin_frame(&w, type, 0);
    nv_amqp_encode(&w, p);
    nv_write_span(&w, payload);
    nv_amqp_end_frame(&w, mark);
    send(pair, nv_writer_span(&w));
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
    send(pair, nv_span_of(header, sizeof(header)));
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
    run(f);
    if (how > 0) {
        send_open(pair);
        run(f);
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
    size_t left = (size_t)(f->end - f->at);
    nv_span name = known ? nv_span_str(FAKE_HUB_NAME "/devices/d") : nv_span_of(f->at, left < 40 ? left : 40);
    nv_writer w = nv_writer_of(memory, 2048);
    f->at += known ? 0 : name.len;
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
    size_t left = (size_t)(f->end - f->at);
    nv_span message = nv_span_of(hello, sizeof(hello));
    nv_amqp_performative p = {.code = NV_AMQP_TRANSFER};
    if ((kind & 3) == 1) {
        message = put_token(f, memory, kind & 4);
    } else if ((kind & 3) == 2) {
        message = nv_span_of(f->at, left < 64u + kind ? left : 64u + kind);
        f->at += message.len;
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

static void on_returned(nv_method_call *call)
{
    *(bool *)call->arg = false;
    nv_buf_deinit(&call->answer);
}

static void call_method(fuzz *f, uint8_t what)
{
    unsigned i = what & 3;
    if (f->calling[i]) {
        return;
    }
    f->calling[i] = true;
    f->calls[i] = (nv_method_call){.device_id = nv_span_str("d"),
                                   .module_id = nv_span_str(what & 1 ? "m" : ""),
                                   .name = nv_span_str("m"),
                                   .payload = nv_span_str(what & 2 ? "" : "{\"a\":1}"),
                                   .response_timeout_us = 30 * NV_US_PER_S,
                                   .done = on_returned,
                                   .arg = &f->calling[i]};
    nv_method_invoke(&f->core.hub->loops[0], &f->calls[i]);
}

static void change_desired(fuzz *f, uint8_t what)
{
    nv_delivery *delivery =
        nv_delivery_new(NV_DELIVER_DESIRED, NV_SPAN_EMPTY, nv_span_str(what & 2 ? "{}" : "{\"a\":null}"));
    delivery->version = what;
    (void)nv_devices_deliver(&f->core.hub->loops[0], nv_span_str("d"), NV_SPAN_EMPTY, delivery);
}

/* Properties and body are the next bytes of the input: any bytes. */
static void send_message(fuzz *f, uint8_t what)
{
    size_t left = (size_t)(f->end - f->at);
    size_t len = left < 32 ? left : 32;
    if (fake_c2d_count() < 64) {
        fake_c2d_send(&f->core.hub->loops[0], "d", (nv_c2d_ack)(what & 3), nv_span_of(f->at, len / 2),
                      nv_span_of(f->at + len / 2, len - len / 2));
    }
    f->at += len;
}

static void cloud(fuzz *f, uint8_t what)
{
    static const nv_hub_error errors[] = {NV_HUB_ERROR_NONE, NV_HUB_ERROR_ArgumentInvalid, NV_HUB_ERROR_NONE,
                                          NV_HUB_ERROR_ThrottlingException};
    switch (what >> 3) {
    case 0x10:
        call_method(f, what);
        break;
    case 0x11:
        change_desired(f, what);
        break;
    case 0x12:
        send_message(f, what);
        break;
    case 0x13:
        fake_twin_set_hold(what & 1);
        fake_twin_set_error(errors[what >> 1 & 3], "because");
        break;
    case 0x14:
        fake_twin_complete();
        fake_send_set_error(errors[what & 3]);
        break;
    case 0x15:
        fake_c2d_set_hold(what & 1);
        if (what & 4) {
            fake_feedback_give(what & 2 ? "[{\"statusCode\":\"Success\"}]" : "");
        } else {
            fake_readers_give(what & 2 ? NV_OK : NV_E_GONE, nv_span_str("event"));
        }
        break;
    case 0x16:
        fake_c2d_settle_one();
        break;
    default:
        if (what & 1) {
            fake_c2d_lose_locks();
        } else {
            nv_buf_clear(&f->pair.out); /* the peer has read all */
            mqtt_pair_service(&f->pair);
        }
        break;
    }
}

/* ---- events ------------------------------------------------------------------------------------------------- */

static void rekey(nv_identity *identity)
{
    identity->primary_key.bytes[0] ^= 1;
}

static void take_over(fuzz *f)
{
    if (!f->other.session || f->other.session->authenticated) {
        return;
    }
    uint32_t attached = f->attached;
    login(f, &f->other, 2);
    f->attached = 0;
    attach(f, &f->other, 0x11);
    f->attached = attached;
}

static void event(fuzz *f, uint8_t what)
{
    static const nv_err registry[] = {NV_OK, NV_E_MORE, NV_E_AGAIN, NV_E_IO};
    static const nv_err stores[] = {NV_OK, NV_E_IO, NV_E_AGAIN, NV_E_NOT_FOUND};
    static const nv_err submits[] = {NV_OK, NV_E_NO_SPACE, NV_OK, NV_E_IO};
    switch (what >> 2) {
    case 0x30:
        run(f);
        break;
    case 0x31:
        tick(f, (int64_t)(what & 3) * 20 * NV_US_PER_S);
        break;
    case 0x32:
        fake_log_complete(&f->core, what & 1 ? NV_E_IO : NV_OK);
        break;
    case 0x33:
        fake_log_set_mode(&f->core, what & 1 ? FAKE_LOG_HOLD : FAKE_LOG_AUTO);
        break;
    case 0x34:
        fake_log_set_submit_status(&f->core, submits[what & 3]);
        break;
    case 0x35:
        fake_log_set_batch_records(&f->core, 1u << (what & 3));
        break;
    case 0x36:
        fake_registry_set_mode(&f->core, registry[what & 3]);
        break;
    case 0x37:
        fake_state_set_status(&f->core, stores[what & 3]);
        break;
    case 0x38:
        fake_state_set_hold(&f->core, what & 1);
        break;
    case 0x39:
        fake_state_complete(&f->core);
        break;
    case 0x3A:
        fake_register(&f->core, "d", "", what & 1 ? rekey : NULL);
        break;
    case 0x3B:
        take_over(f);
        break;
    case 0x3C:
        mqtt_pair_cut(what & 1 ? &f->pair : &f->other);
        break;
    case 0x3D:
        if (f->pair.session && !f->pair.lost) {
            f->pair.session->ops->drain(f->pair.session, nv_mono_us(f->pair.clock));
            mqtt_pair_service(&f->pair);
        }
        break;
    case 0x3E:
        nv_buf_set_max(&f->pair.out, nv_buf_len(&f->pair.out) + (what & 3) * 4); /* the peer reads little */
        break;
    default:
        fake_log_set_health(&f->core, what & 1 ? NV_LOG_FAILED : NV_LOG_OK);
        break;
    }
}

static void feed(fuzz *f, uint8_t step)
{
    size_t left = (size_t)(f->end - f->at);
    size_t len = (size_t)step + 1 < left ? (size_t)step + 1 : left;
    send(&f->pair, nv_span_of(f->at, len));
    f->at += len;
    if (step & 1) {
        run(f);
    }
}

static void take_step(fuzz *f, uint8_t step)
{
    if (step >= 0xC0) {
        event(f, step);
    } else if (step >= 0x80) {
        cloud(f, step);
    } else if (step >= 0x70) {
        frame(f, &f->pair, step);
    } else if (step >= 0x60) {
        transfer(f, &f->pair, step);
    } else if (step >= 0x40) {
        attach(f, &f->pair, step);
    } else {
        feed(f, step);
    }
}

/* The world is well again and everybody leaves: nothing may remain. */
static void finish(fuzz *f)
{
    fake_registry_set_mode(&f->core, NV_OK);
    fake_state_set_status(&f->core, NV_OK);
    fake_state_set_hold(&f->core, false);
    fake_log_set_submit_status(&f->core, NV_OK);
    fake_log_set_mode(&f->core, FAKE_LOG_AUTO);
    fake_twin_set_hold(false);
    fake_c2d_set_hold(false);
    fake_send_set_error(NV_HUB_ERROR_NONE);
    mqtt_pair_cut(&f->pair);
    mqtt_pair_cut(&f->other);
    for (int i = 0; i < 8; i++) {
        while (fake_twin_complete()) {
        }
        while (fake_c2d_settle_one()) {
        }
        while (fake_state_complete(&f->core)) {
        }
        while (fake_log_complete(&f->core, NV_OK)) {
            run(f);
        }
        run(f);
    }
    tick(f, 60 * NV_US_PER_S); /* calls that nobody answers */
    run(f);
    for (size_t i = 0; i < CALLS; i++) {
        if (f->calling[i]) {
            abort();
        }
    }
    if (fake_c2d_locked() > 0) {
        abort();
    }
    if (!mqtt_pair_gone(&f->pair) || !mqtt_pair_gone(&f->other) || nv_devices_connected(f->core.hub) != 0) {
        abort();
    }
    mqtt_pair_deinit(&f->pair);
    mqtt_pair_deinit(&f->other);
    fake_core_deinit(&f->core);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) {
        return 0;
    }
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    static fuzz f;
    memset(&f, 0, sizeof(f));
    f.at = data + 1;
    f.end = data + size;
    fake_fault_injection = data[0] & 64;
    fake_core_init(&f.core, 1, data[0] & 32 ? &nv_limits_azure : &nv_limits_open);
    fake_register(&f.core, "d", "", NULL);
    fake_register(&f.core, "d", "m", NULL);
    fake_register(&f.core, "d2", "", NULL);
    fake_core_run(&f.core);
    mqtt_pair_open_with(&f.pair, &f.core.hub->loops[0], 1, nv_amqp_server_new);
    mqtt_pair_open_with(&f.other, &f.core.hub->loops[0], 2, nv_amqp_server_new);
    f.pair.piece = data[0] & 16 ? 7 : 0;
    login(&f, &f.pair, data[0] & 3);
    while (f.at < f.end) {
        uint8_t step = *f.at++;
        take_step(&f, step);
    }
    finish(&f);
    return 0;
}
