/*
 * A whole MQTT device session: any bytes in any pieces, with time, failing stores, a second connection of the same
 * device and the registry changing in between. The first byte chooses whether a valid CONNECT goes first.
 *
 *   step: 0x00-0x7F  feed the next (step & 63) + 1 bytes of the input; 0x40 and above run the loop afterwards
 *         0x80-0xBF  something of the cloud, of the table in cloud()
 *         0xC0-0xFF  one event of the table in event()
 *
 * Whatever happened, at the end every session is done and freed, and the log holds what was acknowledged.
 */
#include "base/diag.h"
#include "core/devices.h"
#include "core/method.h"
#include "support/fake_cloud.h"
#include "support/fake_core.h"
#include "support/mqtt_pair.h"

#include <stdlib.h>

#define CALLS 4u

typedef struct fuzz {
    fake_core core;
    mqtt_pair pair;
    mqtt_pair other;
    nv_method_call calls[CALLS];
    bool calling[CALLS];
    const uint8_t *at;
    const uint8_t *end;
} fuzz;

static void run(fuzz *f)
{
    for (int i = 0; i < 3; i++) {
        fake_core_run(&f->core);
        mqtt_pair_service(&f->pair);
        mqtt_pair_service(&f->other);
    }
}

static void tick(fuzz *f, int64_t us)
{
    nv_manual_clock_advance(&f->core.clock, us);
    mqtt_pair_tick(&f->pair);
    mqtt_pair_tick(&f->other);
    nv_hub_loop_tick(&f->core.hub->loops[0], nv_mono_us(&f->core.clock.clock));
}

static void rekey(nv_identity *identity)
{
    identity->primary_key.bytes[0] ^= 1;
}

/* ---- the cloud ---- */

static void on_returned(nv_method_call *call)
{
    *(bool *)call->arg = false;
    nv_buf_deinit(&call->answer);
}

static const char *module_of(uint8_t what)
{
    return what & 1 ? "m" : "";
}

static void call_method(fuzz *f, uint8_t what)
{
    unsigned i = what & 3;
    if (f->calling[i]) {
        return;
    }
    f->calling[i] = true;
    f->calls[i] = (nv_method_call){.device_id = nv_span_str("d"),
                                   .module_id = nv_span_str(module_of(what)),
                                   .name = nv_span_str("m"),
                                   .payload = nv_span_str(what & 2 ? "" : "{\"a\":1}"),
                                   .response_timeout_us = 30 * NV_US_PER_S,
                                   .connect_timeout_us = what & 2 ? 10 * NV_US_PER_S : 0,
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
        break;
    case 0x15:
        fake_c2d_set_hold(what & 1);
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

static void take_over(fuzz *f)
{
    mqtt_login login = {.device = "d", .will_topic = "devices/d/messages/events/", .will_payload = "w"};
    if (!f->other.session || nv_buf_len(&f->other.in) > 65536) {
        return;
    }
    mqtt_pair_connect(&f->other, &login);
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
    size_t len = (size_t)(step & 63) + 1;
    size_t left = (size_t)(f->end - f->at);
    len = len < left ? len : left;
    if (f->pair.session && nv_buf_len(&f->pair.in) < (1u << 20)) {
        mqtt_pair_send(&f->pair, nv_span_of(f->at, len));
    }
    f->at += len;
    if (step >= 0x40) {
        run(f);
    }
}

static void login(fuzz *f, uint8_t how)
{
    mqtt_login first = {
        .device = "d",
        .module = how & 2 ? "m" : "",
        .persistent = how & 4,
        .will_topic =
            how & 8 ? (how & 2 ? "devices/d/modules/m/messages/events/a=1" : "devices/d/messages/events/a=1") : NULL,
        .will_payload = "gone",
        .keep_alive_s = how & 16 ? 30 : 0};
    if (how & 1) {
        mqtt_pair_connect(&f->pair, &first);
        run(f);
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
    fuzz f = {.at = data + 1, .end = data + size};
    fake_fault_injection = data[0] & 64;
    fake_core_init(&f.core, 1, data[0] & 32 ? &nv_limits_azure : &nv_limits_open);
    fake_register(&f.core, "d", "", NULL);
    fake_register(&f.core, "d", "m", NULL);
    fake_core_run(&f.core);
    mqtt_pair_open(&f.pair, &f.core.hub->loops[0], 1);
    mqtt_pair_open(&f.other, &f.core.hub->loops[0], 2);
    login(&f, data[0]);
    while (f.at < f.end) {
        uint8_t step = *f.at++;
        if (step >= 0xC0) {
            event(&f, step);
        } else if (step >= 0x80) {
            cloud(&f, step);
        } else {
            feed(&f, step);
        }
    }
    finish(&f);
    return 0;
}
