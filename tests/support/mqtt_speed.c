/**
 * What one PUBLISH costs in session and core, without network and disk: N sessions, 16 messages of 256 bytes with QoS 1
 * per input call, one stored() per session and batch. Prints nanoseconds per message. Not a test.
 * Usage: mqtt_speed [SESSIONS [ROUNDS]]
 */
#include "session/mqtt_device.h"
#include "session/mqtt_device_internal.h"
#include "support/fake_core.h"
#include "support/mqtt_pair.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#define WINDOW 16
#define BODY   256

static void connect_all(fake_core *core, mqtt_pair *pairs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char id[40];
        (void)snprintf(id, sizeof(id), "device-%04zu", i);
        fake_register(core, id, "", NULL);
        mqtt_pair_open(&pairs[i], &core->hub->loops[0], i + 1);
        mqtt_login login = {.device = id, .ttl_s = 1000000};
        mqtt_pair_connect(&pairs[i], &login);
    }
    fake_core_run(core);
    for (size_t i = 0; i < count; i++) {
        mqtt_pair_service(&pairs[i]);
        nv_buf_clear(&pairs[i].out);
    }
}

static int64_t publish_rounds(fake_core *core, mqtt_pair *pairs, size_t count, size_t rounds, nv_buf *input)
{
    const nv_clock *clock = nv_clock_system();
    int64_t start = nv_mono_us(clock);
    for (size_t r = 0; r < rounds; r++) {
        for (size_t i = 0; i < count; i++) {
            nv_session *session = pairs[i].session;
            size_t taken = session->ops->input(session, nv_buf_span(&input[i]), (int64_t)r);
            if (taken != nv_buf_len(&input[i])) {
                abort();
            }
        }
        nv_hub_loop_turn_end(&core->hub->loops[0]);
        nv_exec_queue_run(&core->loops[0]);
        for (size_t i = 0; i < count; i++) {
            if (nv_buf_len(&pairs[i].out) != WINDOW * NV_MQTT_ACK_SIZE) {
                abort();
            }
            nv_buf_clear(&pairs[i].out);
        }
    }
    return nv_mono_us(clock) - start;
}

int main(int argc, char **argv)
{
    size_t count = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 50;
    size_t rounds = argc > 2 ? (size_t)strtoul(argv[2], NULL, 10) : 20000;
    fake_core core;
    fake_core_init(&core, 1, &nv_limits_open);
    fake_log_set_discard(&core, true);
    fake_log_set_batch_records(&core, UINT32_MAX);
    mqtt_pair *pairs = calloc(count, sizeof(*pairs));
    nv_buf *input = calloc(count, sizeof(*input));
    if (!pairs || !input) {
        return 1;
    }
    connect_all(&core, pairs, count);
    static uint8_t body[BODY];
    for (size_t i = 0; i < count; i++) {
        char topic[128];
        (void)snprintf(topic, sizeof(topic), "devices/device-%04zu/messages/events/$.ct=application%%2Fjson", i);
        nv_buf_init(&input[i], 65536);
        for (uint16_t id = 1; id <= WINDOW; id++) {
            mqtt_put_publish(&input[i], topic, nv_span_of(body, sizeof(body)), 1, id);
        }
    }
    for (int run = 0; run < 5; run++) {
        int64_t us = publish_rounds(&core, pairs, count, rounds, input);
        printf("%zu sessions x %d: %.1f ns per message\n", count, WINDOW,
               (double)us * 1000 / (double)(rounds * count * WINDOW));
    }
    printf("session %zu bytes: nv_session %zu, client %zu, claim %zu\n", sizeof(mqtt_device), sizeof(nv_session),
           sizeof(nv_telemetry_client), sizeof(nv_claim));
    return 0;
}
