/**
 * Session, core and the real log together, without network: N sessions keep 16 messages of 256 bytes in flight each.
 * Prints messages per second and nanoseconds of this thread's processor time per message. Not a test.
 * Usage: mqtt_speed_log FOLDER os|commit [SESSIONS [SECONDS]]
 */
#include "base/diag.h"
#include "core/telemetry.h"
#include "support/mqtt_pair.h"
#include "support/real_core.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define WINDOW 16
#define BODY   256

static void turn(real_core *core)
{
    nv_hub_loop_turn_end(&core->hub->loops[0]);
    nv_hub_loop_turn_end(&core->hub->loops[1]);
    (void)nv_exec_queue_run(&core->queues[0]);
    (void)nv_exec_queue_run(&core->queues[1]);
}

static void connect_all(real_core *core, mqtt_pair *pairs, size_t count)
{
    size_t before = 0;
    for (size_t i = 0; i < count; i++) {
        if (i == count / 2) { /* what exists once is there by now */
            before = mallinfo2().uordblks;
        }
        char id[40];
        (void)snprintf(id, sizeof(id), "device-%04zu", i);
        real_core_add(core, id);
        mqtt_pair_open(&pairs[i], &core->hub->loops[0], i + 1);
        mqtt_login login = {.device = id, .key = &real_device_key, .ttl_s = 1000000};
        mqtt_pair_connect(&pairs[i], &login);
        while (nv_buf_len(&pairs[i].out) == 0) {
            turn(core);
            mqtt_pair_service(&pairs[i]);
        }
        nv_buf_deinit(&pairs[i].out);
        nv_buf_deinit(&pairs[i].in);
    }
    printf("%zu bytes a session with identity in the cache, claim and table entry\n",
           (mallinfo2().uordblks - before) / (count - count / 2));
}

static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void publish_for(real_core *core, mqtt_pair *pairs, size_t count, nv_buf *input, int64_t us)
{
    const nv_clock *clock = nv_clock_system();
    int64_t start = nv_mono_us(clock);
    int64_t cpu = cpu_ns();
    int64_t messages = 0;
    size_t *sent = calloc(count, sizeof(*sent)); /* bytes of the window that the session took */
    if (!sent) {
        abort();
    }
    while (nv_mono_us(clock) - start < us) {
        for (size_t i = 0; i < count; i++) {
            nv_session *session = pairs[i].session;
            if (nv_buf_len(&pairs[i].out) == WINDOW * NV_MQTT_ACK_SIZE) {
                nv_buf_clear(&pairs[i].out);
                sent[i] = 0;
                messages += WINDOW;
            }
            if (session->reading && sent[i] < nv_buf_len(&input[i])) {
                sent[i] += session->ops->input(session, nv_span_skip(nv_buf_span(&input[i]), sent[i]), start);
            }
        }
        nv_hub_loop_turn_end(&core->hub->loops[0]);
        (void)nv_exec_queue_run_wait(&core->queues[0]);
    }
    int64_t took = nv_mono_us(clock) - start;
    printf("%zu sessions x %d: %.0f messages/s, %.0f ns of the loop's processor time per message\n", count, WINDOW,
           (double)messages * 1e6 / (double)took, (double)(cpu_ns() - cpu) / (double)messages);
    free(sent);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        (void)fprintf(stderr, "usage: mqtt_speed_log FOLDER os|commit [SESSIONS [SECONDS]]\n");
        return 2;
    }
    size_t count = argc > 3 ? (size_t)strtoul(argv[3], NULL, 10) : 50;
    int64_t seconds = argc > 4 ? (int64_t)strtoul(argv[4], NULL, 10) : 2;
    nv_diag_setup(NV_LEVEL_WARN, false, 2);
    real_core *core = real_core_new(argv[1], argv[2][0] == 'o' ? NV_DURABILITY_OS : NV_DURABILITY_COMMIT);
    mqtt_pair *pairs = calloc(count, sizeof(*pairs));
    nv_buf *input = calloc(count, sizeof(*input));
    if (!pairs || !input) {
        return 1;
    }
    connect_all(core, pairs, count);
    static uint8_t body[BODY];
    for (size_t i = 0; i < count; i++) {
        char topic[128];
        (void)snprintf(topic, sizeof(topic), "devices/device-%04zu/messages/events/$.ct=application%%2Fjson", i);
        nv_buf_init(&input[i], 65536);
        for (uint16_t id = 1; id <= WINDOW; id++) {
            mqtt_put_publish(&input[i], topic, nv_span_of(body, sizeof(body)), 1, id);
        }
    }
    for (int run = 0; run < 3; run++) {
        publish_for(core, pairs, count, input, seconds * NV_US_PER_S);
    }
    for (size_t i = 0; i < count; i++) {
        mqtt_pair_cut(&pairs[i]);
        while (!mqtt_pair_gone(&pairs[i])) {
            turn(core);
            mqtt_pair_service(&pairs[i]);
        }
        nv_buf_deinit(&input[i]);
    }
    real_core_free(core);
    free(pairs);
    free(input);
    return 0;
}
