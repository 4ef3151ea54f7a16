#include "session_world.h"

#include "base/diag.h"
#include "core/devices.h"
#include "support/fake_cloud.h"
#include "support/fake_service.h"

#include <stdlib.h>

void fuzz_init(fuzz_world *f, const uint8_t *data, size_t size, nv_session *(*make)(nv_carrier *carrier))
{
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    memset(f, 0, sizeof(*f));
    f->at = data + 1;
    f->end = data + size;
    fake_fault_injection = data[0] & 64;
    fake_core_init(&f->core, 1, data[0] & 32 ? &nv_limits_azure : &nv_limits_open);
    fake_register(&f->core, "d", "", NULL);
    fake_register(&f->core, "d", "m", NULL);
    fake_register(&f->core, "d2", "", NULL);
    fake_core_run(&f->core);
    mqtt_pair_open_with(&f->pair, &f->core.hub->loops[0], 1, make);
    mqtt_pair_open_with(&f->other, &f->core.hub->loops[0], 2, make);
}

void fuzz_run(fuzz_world *f)
{
    for (int i = 0; i < 4; i++) {
        fake_core_run(&f->core);
        mqtt_pair_service(&f->pair);
        mqtt_pair_service(&f->other);
        mqtt_pair_tick(&f->pair); /* what an engine asks for at once */
        mqtt_pair_tick(&f->other);
    }
}

static void tick(fuzz_world *f, int64_t us)
{
    nv_manual_clock_advance(&f->core.clock, us);
    mqtt_pair_tick(&f->pair);
    mqtt_pair_tick(&f->other);
    nv_hub_loop_tick(&f->core.hub->loops[0], nv_mono_us(&f->core.clock.clock));
}

nv_span fuzz_take(fuzz_world *f, size_t most)
{
    size_t left = (size_t)(f->end - f->at);
    nv_span out = nv_span_of(f->at, left < most ? left : most);
    f->at += out.len;
    return out;
}

void fuzz_say(mqtt_pair *pair, nv_span bytes)
{
    if (pair->session && nv_buf_len(&pair->in) < (1u << 20)) {
        mqtt_pair_send(pair, bytes);
    }
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

static void call_method(fuzz_world *f, uint8_t what)
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
                                   .connect_timeout_us = what & 2 ? 10 * NV_US_PER_S : 0,
                                   .done = on_returned,
                                   .arg = &f->calling[i]};
    nv_method_invoke(&f->core.hub->loops[0], &f->calls[i]);
}

static void change_desired(fuzz_world *f, uint8_t what)
{
    nv_delivery *delivery =
        nv_delivery_new(NV_DELIVER_DESIRED, NV_SPAN_EMPTY, nv_span_str(what & 2 ? "{}" : "{\"a\":null}"));
    delivery->version = what;
    (void)nv_devices_deliver(&f->core.hub->loops[0], nv_span_str("d"), NV_SPAN_EMPTY, delivery);
}

/* Properties and body are the next bytes of the input: any bytes. */
static void send_message(fuzz_world *f, uint8_t what)
{
    nv_span bytes = fuzz_take(f, 32);
    if (fake_c2d_count() < 64) {
        fake_c2d_send(&f->core.hub->loops[0], "d", (nv_c2d_ack)(what & 3), nv_span_first(bytes, bytes.len / 2),
                      nv_span_skip(bytes, bytes.len / 2));
    }
}

void fuzz_cloud(fuzz_world *f, uint8_t what)
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

/* ---- events ---- */

void fuzz_event(fuzz_world *f, uint8_t what)
{
    static const nv_err registry[] = {NV_OK, NV_E_MORE, NV_E_AGAIN, NV_E_IO};
    static const nv_err stores[] = {NV_OK, NV_E_IO, NV_E_AGAIN, NV_E_NOT_FOUND};
    static const nv_err submits[] = {NV_OK, NV_E_NO_SPACE, NV_OK, NV_E_IO};
    switch (what >> 2) {
    case 0x30:
        fuzz_run(f);
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

/* The world is well again and everybody leaves: nothing may remain. */
void fuzz_finish(fuzz_world *f)
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
            fuzz_run(f);
        }
        fuzz_run(f);
    }
    tick(f, 60 * NV_US_PER_S); /* calls that nobody answers */
    fuzz_run(f);
    for (size_t i = 0; i < FUZZ_CALLS; i++) {
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
