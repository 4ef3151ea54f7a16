#include "session/http_rig.h"

#include "base/alloc.h"
#include "codec/base64.h"
#include "codec/sas.h"
#include "support/hub_rest.h"
#include "support/temp_dir.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- hub ---------------------------------------------------------------------------------------------------- */

void nv_rig_hub_init(nv_rig_hub *rig)
{
    *rig = (nv_rig_hub){0};
    nv_exec_queue_init(&rig->queue);
    nv_manual_clock_init(&rig->clock, INT64_C(1795228000) * NV_US_PER_S);
    nv_seeded_rng_init(&rig->rng, 42);
    temp_dir_make(rig->dir, sizeof(rig->dir), NULL);
    rig->log = nv_rig_log_new(rig);
    nv_buf why;
    nv_buf_init(&why, 500);
    nv_state_config state = {.dir = rig->dir, .clock = &rig->clock.clock, .rng = &rig->rng.rng};
    assert_int_equal(nv_state_open(&rig->state, &state, &why), NV_OK);
    static const char *const names[] = {NV_RIG_HOST, "127.0.0.1", "::1"};
    nv_exec *loops[] = {&rig->queue.exec};
    nv_hub_config config = {.host_names = names,
                            .host_name_count = NV_COUNT_OF(names),
                            .limits = &nv_limits_open,
                            .log = rig->log,
                            .state = rig->state,
                            .clock = &rig->clock.clock,
                            .rng = &rig->rng.rng,
                            .loops = loops,
                            .loop_count = 1};
    assert_int_equal(nv_hub_new(&rig->hub, &config, &why), NV_OK);
    nv_buf_deinit(&why);
}

void nv_rig_hub_deinit(nv_rig_hub *rig)
{
    hub_rest(rig->hub);
    nv_state_close(rig->state);
    nv_rig_hub_run(rig, NULL);
    nv_hub_free(rig->hub);
    nv_rig_log_free(rig->log);
    nv_exec_queue_deinit(&rig->queue);
    temp_dir_remove(rig->dir);
}

void nv_rig_hub_run(nv_rig_hub *rig, const bool *done)
{
    (void)nv_exec_queue_run(&rig->queue);
    while (done && !*done) {
        assert_true(nv_exec_queue_run_wait(&rig->queue));
    }
}

/* ---- connection --------------------------------------------------------------------------------------------- */

static void wake(nv_carrier *carrier)
{
    ((nv_rig *)(void *)carrier)->woken = true;
}

static void upgrade(nv_carrier *carrier, const nv_upgrade *to)
{
    nv_rig *rig = (nv_rig *)(void *)carrier;
    assert_null(rig->upgrade.make);
    rig->upgrade = *to;
    rig->woken = true;
}

void nv_rig_init(nv_rig *rig, nv_rig_hub *on, nv_session *(*make)(nv_carrier *))
{
    *rig = (nv_rig){.on = on, .window = SIZE_MAX};
    rig->peer = (nv_peer){.connection_id = 7, .address = nv_span_str("192.0.2.1:5000")};
    rig->carrier = (nv_carrier){
        .peer = &rig->peer, .loop = &on->hub->loops[0], .out = &rig->out, .wake = wake, .upgrade = upgrade};
    nv_buf_init(&rig->out, 1 << 20);
    nv_buf_init(&rig->in, 64 << 20);
    nv_buf_init(&rig->received, 64 << 20);
    rig->session = make(&rig->carrier);
    rig->session->carrier = &rig->carrier;
    rig->session->out = &rig->out;
}

void nv_rig_lose(nv_rig *rig)
{
    if (!rig->lost) {
        rig->lost = true;
        rig->session->ops->lost(rig->session, "closed by the test", nv_mono_us(&rig->on->clock.clock));
    }
}

void nv_rig_deinit(nv_rig *rig)
{
    nv_rig_lose(rig);
    nv_rig_hub_run(rig->on, &rig->session->done);
    rig->session->ops->free(rig->session);
    nv_buf_deinit(&rig->out);
    nv_buf_deinit(&rig->in);
    nv_buf_deinit(&rig->received);
}

void nv_rig_send(nv_rig *rig, nv_span bytes)
{
    assert_int_equal(nv_buf_append(&rig->in, bytes), NV_OK);
}

/** Present what the client sent, growing by step, as a socket would. @return true: something was taken */
static bool pump_in(nv_rig *rig)
{
    bool any = false;
    size_t shown = 0;
    while (rig->session->reading && !rig->session->closing && shown < nv_buf_len(&rig->in)) {
        size_t left = nv_buf_len(&rig->in);
        shown = rig->step && shown + rig->step < left ? shown + rig->step : left;
        size_t taken = rig->session->ops->input(rig->session, nv_span_first(nv_buf_span(&rig->in), shown),
                                                nv_mono_us(&rig->on->clock.clock));
        assert_true(taken <= shown);
        shown -= taken;
        any = any || taken > 0;
        nv_buf_consume(&rig->in, taken);
        assert_true(shown <= rig->session->max_pending);
    }
    return any;
}

static bool pump_out(nv_rig *rig)
{
    size_t queued = nv_buf_len(&rig->out);
    rig->most_queued = queued > rig->most_queued ? queued : rig->most_queued;
    nv_span part = nv_span_first(nv_buf_span(&rig->out), rig->window);
    if (part.len == 0) {
        return false;
    }
    assert_int_equal(nv_buf_append(&rig->received, part), NV_OK);
    nv_buf_consume(&rig->out, part.len);
    if (!rig->session->closing && !rig->upgrade.make) {
        rig->session->ops->sent(rig->session, nv_mono_us(&rig->on->clock.clock));
    }
    return true;
}

void nv_rig_pump(nv_rig *rig)
{
    bool moved = true;
    while (moved && !rig->lost) {
        moved = pump_in(rig);
        (void)nv_exec_queue_run(&rig->on->queue);
        nv_hub_loop_turn_end(&rig->on->hub->loops[0]);
        moved = pump_out(rig) || moved || rig->woken;
        rig->woken = false;
    }
}

void nv_rig_advance(nv_rig *rig, int64_t delta_us)
{
    nv_manual_clock_advance(&rig->on->clock, delta_us);
    int64_t now = nv_mono_us(&rig->on->clock.clock);
    nv_hub_loop_tick(&rig->on->hub->loops[0], now);
    if (rig->session->deadline_us <= now) {
        rig->session->ops->tick(rig->session, now);
    }
    nv_rig_pump(rig);
}

/* ---- answers ------------------------------------------------------------------------------------------------ */

const char *nv_answer_header(const nv_answer *answer, const char *name)
{
    static char value[1024];
    size_t len = strlen(name);
    for (const char *line = strchr(answer->head, '\n'); line; line = strchr(line, '\n')) {
        line++;
        if (strncasecmp(line, name, len) == 0 && line[len] == ':') {
            (void)snprintf(value, sizeof(value), "%.*s", (int)strcspn(line + len + 2, "\r"), line + len + 2);
            return value;
        }
    }
    return NULL;
}

/** Undo the chunks at @p at. @return bytes used, or 0 when the last chunk is not there */
static size_t unchunk(nv_span at, nv_answer *out)
{
    size_t used = 0;
    out->body_len = 0;
    while (true) {
        nv_span rest = nv_span_skip(at, used);
        size_t line = nv_span_find(rest, '\n');
        if (line == rest.len) {
            return 0;
        }
        size_t size = strtoul((const char *)rest.ptr, NULL, 16);
        if (rest.len < line + 1 + size + 2) {
            return 0;
        }
        assert_true(out->body_len + size < sizeof(out->body));
        memcpy(out->body + out->body_len, rest.ptr + line + 1, size);
        out->body_len += size;
        used += line + 1 + size + 2;
        if (size == 0) {
            out->body[out->body_len] = '\0';
            return used;
        }
    }
}

bool nv_rig_take_answer(nv_rig *rig, bool to_head, nv_answer *out)
{
    nv_span all = nv_buf_span(&rig->received);
    const uint8_t *end = all.len ? memmem(all.ptr, all.len, "\r\n\r\n", 4) : NULL;
    if (!end) {
        return false;
    }
    size_t head = (size_t)(end - all.ptr) + 4;
    assert_true(head < sizeof(out->head));
    memcpy(out->head, all.ptr, head);
    out->head[head] = '\0';
    out->body_len = 0;
    out->body[0] = '\0';
    out->status = (unsigned)strtoul(out->head + strlen("HTTP/1.1 "), NULL, 10);
    const char *length = nv_answer_header(out, "Content-Length");
    size_t body = length ? strtoul(length, NULL, 10) : 0;
    if (to_head || out->status == 204 || out->status < 200) {
        body = 0;
    } else if (!length && nv_answer_header(out, "Transfer-Encoding")) {
        body = unchunk(nv_span_skip(all, head), out);
        if (body == 0) {
            return false;
        }
    } else if (all.len < head + body) {
        return false;
    } else {
        assert_true(body < sizeof(out->body));
        memcpy(out->body, all.ptr + head, body);
        out->body[body] = '\0';
        out->body_len = body;
    }
    nv_buf_consume(&rig->received, head + body);
    return true;
}

void nv_rig_wait_answer(nv_rig *rig, bool to_head, nv_answer *out)
{
    nv_rig_pump(rig);
    while (!nv_rig_take_answer(rig, to_head, out)) {
        assert_true(nv_exec_queue_run_wait(&rig->on->queue));
        nv_rig_pump(rig);
    }
}

/* ---- tokens ------------------------------------------------------------------------------------------------- */

static const char *make_token(nv_rig_hub *on, const char *resource, const char *policy, nv_span key)
{
    static char text[1024];
    nv_writer w = nv_writer_of(text, sizeof(text) - 1);
    nv_sas_write(&w, nv_span_str(resource), nv_wall_us(&on->clock.clock) / NV_US_PER_S + 3600, nv_span_str(policy),
                 key);
    text[nv_writer_len(&w)] = '\0';
    return text;
}

const char *nv_rig_policy_token(nv_rig_hub *on, const char *policy, const char *resource)
{
    const nv_policy *p = nv_policies_find(on->hub->policies, nv_span_str(policy));
    assert_non_null(p);
    return make_token(on, resource ? resource : NV_RIG_HOST, policy,
                      nv_span_of(p->primary_key.bytes, p->primary_key.len));
}

const char *nv_rig_key_token(nv_rig_hub *on, const char *resource, const char *key_base64)
{
    uint8_t key[64];
    size_t len = 0;
    assert_int_equal(nv_base64_decode(nv_span_str(key_base64), key, sizeof(key), &len), NV_OK);
    return make_token(on, resource, "", nv_span_of(key, len));
}
