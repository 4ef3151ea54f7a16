/*
 * A whole MQTT device session: any bytes in any pieces, with time, failing stores, a second connection of the same
 * device and the registry changing in between. The first byte chooses whether a valid CONNECT goes first.
 *
 *   step: 0x00-0x7F  feed the next (step & 63) + 1 bytes of the input; 0x40 and above run the loop afterwards
 *         0x80-0xBF  something of the cloud, of the table in fuzz_cloud()
 *         0xC0-0xFF  one event of the table in fuzz_event()
 *
 * Whatever happened, at the end every session is done and freed, and the log holds what was acknowledged.
 */
#include "session/mqtt_device.h"
#include "session_world.h"

static void take_over(fuzz_world *f)
{
    mqtt_login login = {.device = "d", .will_topic = "devices/d/messages/events/", .will_payload = "w"};
    if (!f->other.session || nv_buf_len(&f->other.in) > 65536) {
        return;
    }
    mqtt_pair_connect(&f->other, &login);
}

static void feed(fuzz_world *f, uint8_t step)
{
    fuzz_say(&f->pair, fuzz_take(f, (size_t)(step & 63) + 1));
    if (step >= 0x40) {
        fuzz_run(f);
    }
}

static void login(fuzz_world *f, uint8_t how)
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
        fuzz_run(f);
    }
}

static void take_step(fuzz_world *f, uint8_t step)
{
    if (FUZZ_IS_TAKE_OVER(step)) {
        take_over(f);
    } else if (step >= 0xC0) {
        fuzz_event(f, step);
    } else if (step >= 0x80) {
        fuzz_cloud(f, step);
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
    static fuzz_world f;
    fuzz_init(&f, data, size, nv_mqtt_device_new);
    login(&f, data[0]);
    while (f.at < f.end) {
        take_step(&f, *f.at++);
    }
    fuzz_finish(&f);
    return 0;
}
