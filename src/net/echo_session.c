#include "net/echo_session.h"

#include "base/alloc.h"
#include "net/loop_impl.h"

#include <stdlib.h>

typedef struct echo {
    nv_session session;
    echo_config *config;
    bool hold;
    uint64_t stream_left;
    nv_task judge;
    unsigned judging; /* hops left */
} echo;

static echo *echo_of(nv_session *session)
{
    return nv_container_of(session, echo, session);
}

static void answer(echo *e, nv_span bytes)
{
    if (nv_buf_append(e->session.out, bytes) != NV_OK) {
        atomic_fetch_add(&e->config->counts.full, 1);
        if (e->config->close_when_full) {
            e->session.closing = true;
        }
    }
}

static const uint8_t block[4096];

static void flood(echo *e, nv_span count)
{
    uint64_t left = 0;
    (void)nv_span_to_u64(count, &left);
    while (left > 0 && !e->session.closing) {
        size_t len = left < sizeof(block) ? (size_t)left : sizeof(block);
        answer(e, nv_span_of(block, len));
        left -= len;
    }
}

/* As a reader of the log does: never more in the buffer than a little, the rest when there is room. */
static void stream(echo *e)
{
    while (e->stream_left > 0 && nv_buf_len(e->session.out) < 64 * sizeof(block)) {
        size_t len = e->stream_left < sizeof(block) ? (size_t)e->stream_left : sizeof(block);
        answer(e, nv_span_of(block, len));
        e->stream_left -= len;
    }
}

static void sent(nv_session *session, int64_t now_us)
{
    (void)now_us;
    atomic_fetch_add(&echo_of(session)->config->counts.sent, 1);
    stream(echo_of(session));
}

static nv_session *change(void *arg, nv_carrier *carrier)
{
    echo_config *config = arg;
    atomic_fetch_add(&config->counts.changed, 1);
    return echo_accept(config, carrier);
}

static void dropped(void *arg)
{
    echo_config *config = arg;
    atomic_fetch_add(&config->counts.dropped, 1);
}

/* As one that asks who the peer is and gets its answer from other tasks of this loop. */
static void judge(nv_task *task)
{
    echo *e = nv_container_of(task, echo, judge);
    if (--e->judging > 0) {
        nv_post(&nv_loop_current()->exec, task);
        return;
    }
    answer(e, nv_span_str("judge\n"));
    e->session.authenticated = true;
    e->session.reading = true;
    e->session.carrier->wake(e->session.carrier);
}

static void take_line(echo *e, nv_span line)
{
    nv_span text = nv_span_first(line, line.len - 1);
    atomic_fetch_add(&e->config->counts.lines, 1);
    if (nv_span_starts_with(text, nv_span_str("flood "))) {
        flood(e, nv_span_skip(text, 6));
        return;
    }
    if (nv_span_starts_with(text, nv_span_str("stream "))) {
        (void)nv_span_to_u64(nv_span_skip(text, 7), &e->stream_left);
        stream(e);
        return;
    }
    if (nv_span_eq_str(text, "hold")) {
        e->hold = true;
        atomic_fetch_add(&e->config->counts.held, 1);
    }
    if (nv_span_eq_str(text, "judge")) {
        e->session.reading = false;
        e->judging = 3;
        e->judge.run = judge;
        nv_post(&nv_loop_current()->exec, &e->judge);
        return;
    }
    answer(e, line);
    if (nv_span_eq_str(text, "close")) {
        e->session.closing = true;
    } else if (nv_span_eq_str(text, "stop")) {
        e->session.reading = false;
        atomic_fetch_add(&e->config->counts.stopped, 1);
    } else if (nv_span_eq_str(text, "upgrade")) {
        e->session.reading = false;
        atomic_fetch_add(&e->config->counts.upgrades, 1);
        e->session.carrier->upgrade(
            e->session.carrier,
            &(nv_upgrade){.make = change,
                          .dropped = dropped,
                          .arg = e->config,
                          .max_message_bytes = e->config->max_message ? e->config->max_message : (size_t)64 * 1024});
    } else if (nv_span_eq_str(text, "known")) {
        e->session.authenticated = true;
    }
}

static size_t input(nv_session *session, nv_span bytes, int64_t now_us)
{
    (void)now_us;
    echo *e = echo_of(session);
    if (e->config->bulk) {
        answer(e, bytes);
        return bytes.len;
    }
    size_t taken = 0;
    while (session->reading && !session->closing) {
        nv_span left = nv_span_skip(bytes, taken);
        size_t end = nv_span_find(left, '\n');
        if (end == left.len) {
            break;
        }
        take_line(e, nv_span_first(left, end + 1));
        taken += end + 1;
    }
    return taken;
}

static void tick(nv_session *session, int64_t now_us)
{
    if (session->deadline_us <= now_us) {
        atomic_fetch_add(&echo_of(session)->config->counts.ticks, 1);
        session->deadline_us = INT64_MAX;
        session->closing = true;
    }
}

static void lost(nv_session *session, const char *why, int64_t now_us)
{
    (void)now_us;
    echo *e = echo_of(session);
    atomic_store(&e->config->why, why);
    session->done = !e->hold;
    atomic_fetch_add(&e->config->counts.lost, 1);
}

static void drain(nv_session *session, int64_t now_us)
{
    (void)now_us;
    echo *e = echo_of(session);
    answer(e, nv_span_str("bye\n"));
    atomic_fetch_add(&e->config->counts.drained, 1);
    session->closing = true;
}

static void free_echo(nv_session *session)
{
    echo *e = echo_of(session);
    atomic_fetch_add(&e->config->counts.freed, 1);
    free(e);
}

static const nv_session_ops ops = {input, sent, tick, lost, drain, free_echo};

nv_session *echo_accept(void *arg, nv_carrier *carrier)
{
    echo_config *config = arg;
    echo *e = nv_calloc(1, sizeof(*e));
    e->config = config;
    e->session = (nv_session){.ops = &ops,
                              .carrier = carrier,
                              .deadline_us = config->deadline_us ? config->deadline_us : INT64_MAX,
                              .max_pending = config->max_pending ? config->max_pending : 65536,
                              .reading = true,
                              .guests = config->guests};
    atomic_fetch_add(&config->counts.made, 1);
    atomic_store(&config->last, &e->session);
    if (config->peer_seen) {
        config->peer_seen(config->arg, carrier->peer);
    }
    return &e->session;
}

void echo_release(nv_session *session)
{
    echo *e = echo_of(session);
    session->reading = true;
    e->hold = false;
    session->done = true;
    session->carrier->wake(session->carrier);
}
