/**
 * The whole HTTP session, from the first byte, over a real registry: nothing a peer sends may crash it, make it hang,
 * or make it answer with anything but HTTP.
 * Input: one byte of options, one byte of piece size, then what the peer sends, in which "@@" stands for a good token.
 */
#include "base/diag.h"
#include "session/http_rig.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ADMIN = 1, DRAIN = 2, SLOW = 4, LATE = 8, NEW_EVENT = 16 };

static nv_rig_hub on;
static uint64_t events_added; /* bounded, or the longest run would be the slowest */

static void add_event(uint64_t sequence)
{
    nv_buf stamp;
    nv_buf_init(&stamp, 1000);
    nv_stamp who = {.device_id = nv_span_str("d"), .generation_id = nv_span_str("1")};
    if (nv_stamp_encode(&stamp, &who) != NV_OK) {
        abort();
    }
    nv_record record = {.sequence = sequence, .stamp = nv_buf_span(&stamp), .body = nv_span_str("{\"t\":1}")};
    nv_rig_log_add(on.log, &record);
    nv_buf_deinit(&stamp);
}

static void stop_hub(void)
{
    nv_rig_hub_deinit(&on);
}

static void start_hub(void)
{
    static bool started;
    if (!started) {
        started = true;
        nv_diag_setup(NV_LEVEL_ERROR, false, 2);
        nv_rig_hub_init(&on);
        while (events_added < 10) {
            add_event(events_added++);
        }
        atexit(stop_hub);
    }
}

static void send_with_tokens(nv_rig *rig, nv_span text)
{
    while (text.len > 0) {
        size_t at = 0;
        while (at < text.len && !(text.ptr[at] == '@' && at + 1 < text.len && text.ptr[at + 1] == '@')) {
            at++;
        }
        nv_rig_send(rig, nv_span_first(text, at));
        if (at < text.len) {
            nv_rig_send(rig, nv_span_str(nv_rig_policy_token(&on, "iothubowner", NULL)));
        }
        text = nv_span_skip(text, at + 2);
    }
}

/** The peer goes; methods that it called are waited for, in no time. */
static void finish(nv_rig *rig)
{
    nv_rig_lose(rig);
    (void)nv_exec_queue_run(&on.queue);
    while (!rig->session->done) {
        int64_t due_us = nv_hub_loop_due(&on.hub->loops[0]);
        if (due_us == INT64_MAX) {
            (void)nv_exec_queue_run_wait(&on.queue);
        } else {
            int64_t left_us = due_us - nv_mono_us(&on.clock.clock);
            nv_rig_advance(rig, left_us > 0 ? left_us : 0);
            (void)nv_exec_queue_run(&on.queue);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) {
        return 0;
    }
    start_hub();
    uint8_t options = data[0];
    nv_rig rig;
    nv_rig_init(&rig, &on, options & ADMIN ? nv_http_admin_new : nv_http_service_new);
    rig.step = data[1];
    rig.window = options & SLOW ? 100 : SIZE_MAX;
    send_with_tokens(&rig, nv_span_of(data + 2, size - 2));
    nv_rig_pump(&rig);
    if (options & LATE && !rig.session->closing) {
        nv_rig_advance(&rig, 61 * NV_US_PER_S);
    }
    if (options & NEW_EVENT && events_added < 200) {
        add_event(events_added++);
        nv_rig_pump(&rig);
    }
    if (options & DRAIN && !rig.session->closing) {
        rig.session->ops->drain(rig.session, 0);
        nv_rig_pump(&rig);
    }
    nv_span received = nv_buf_span(&rig.received);
    if (received.len > 0 && !nv_span_starts_with(received, nv_span_str("HTTP/1.1 "))) {
        abort();
    }
    finish(&rig);
    nv_rig_deinit(&rig);
    return 0;
}
