#include "support/amqp_pair.h"

#include "base/alloc.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- carrier ------------------------------------------------------------------------------------------------ */

static void wake(nv_carrier *carrier)
{
    (void)carrier;
}

void amqp_end_init(amqp_end *end, const nv_clock *clock, size_t max_bytes)
{
    *end = (amqp_end){.hub = {.clock = clock}};
    end->loop.hub = &end->hub;
    end->peer.connection_id = 7;
    end->peer.address = nv_span_str("192.0.2.1:50000");
    nv_buf_init(&end->out, max_bytes);
    nv_buf_init(&end->in, SIZE_MAX);
    end->carrier = (nv_carrier){.peer = &end->peer, .loop = &end->loop, .out = &end->out, .wake = wake};
}

void amqp_end_deinit(amqp_end *end)
{
    nv_buf_deinit(&end->in);
    nv_buf_deinit(&end->out);
}

static int64_t now_of(const amqp_end *end)
{
    return nv_mono_us(end->hub.clock);
}

static void feed(amqp_end *end)
{
    nv_session *session = end->session;
    size_t shown = 0;
    if (end->stuck > 0 && end->stuck == nv_buf_len(&end->in)) {
        return;
    }
    end->stuck = 0;
    while (!end->lost && session->reading && !session->closing && nv_buf_len(&end->in) > 0) {
        size_t len = nv_buf_len(&end->in);
        shown = end->piece > 0 && shown + end->piece < len ? shown + end->piece : len;
        size_t taken;
        if (end->piece == 0) {
            taken = session->ops->input(session, nv_buf_span(&end->in), now_of(end));
        } else { /* an exact copy, so that a sanitizer sees one byte too far */
            uint8_t *copy = nv_malloc(shown);
            memcpy(copy, nv_buf_span(&end->in).ptr, shown);
            taken = session->ops->input(session, nv_span_of(copy, shown), now_of(end));
            free(copy);
        }
        assert(taken <= shown);
        nv_buf_consume(&end->in, taken);
        if (taken == 0 && shown == len) {
            assert(len <= session->max_pending || !session->reading || session->closing);
            end->stuck = session->reading ? len : 0;
            return;
        }
        shown -= taken;
    }
}

static void lose(amqp_end *end, const char *why)
{
    if (end->session && !end->lost) {
        end->lost = true;
        end->session->ops->lost(end->session, why, now_of(end));
    }
}

void amqp_end_serve(amqp_end *end)
{
    nv_session *session = end->session;
    if (!session || end->freed) {
        return;
    }
    size_t unread = nv_buf_len(&end->out);
    if (unread < end->unread && !end->lost && !session->closing) {
        session->ops->sent(session, now_of(end));
    }
    feed(end);
    if (!end->lost && session->deadline_us <= now_of(end)) {
        session->ops->tick(session, now_of(end));
    }
    if (session->closing && !end->lost && nv_buf_len(&end->out) == 0) {
        lose(end, "closed by this end");
    }
    end->unread = nv_buf_len(&end->out);
    if (end->lost && session->done) {
        end->freed = true;
        session->ops->free(session);
    }
}

void amqp_end_give(amqp_end *end, nv_span bytes)
{
    nv_err err = nv_buf_append(&end->in, bytes);
    assert(err == NV_OK);
    (void)err;
    amqp_end_serve(end);
}

void amqp_end_cut(amqp_end *end)
{
    lose(end, "connection reset by peer");
    amqp_end_serve(end);
}

size_t amqp_pair_move(amqp_end *from, amqp_end *to, size_t bytes)
{
    size_t len = nv_buf_len(&from->out);
    len = len < bytes ? len : bytes;
    if (len > 0) {
        if (!to->lost && !to->freed) {
            nv_err err = nv_buf_append(&to->in, nv_span_first(nv_buf_span(&from->out), len));
            assert(err == NV_OK);
            (void)err;
        }
        nv_buf_consume(&from->out, len);
        from->unread = SIZE_MAX; /* it has become shorter */
    }
    return len;
}

static bool closes(const amqp_end *end)
{
    return end->lost || end->freed;
}

void amqp_pair_run(amqp_end *a, amqp_end *b)
{
    size_t before_a;
    size_t before_b;
    size_t moved;
    do {
        before_a = nv_buf_len(&a->in);
        before_b = nv_buf_len(&b->in);
        moved = amqp_pair_move(a, b, SIZE_MAX) + amqp_pair_move(b, a, SIZE_MAX);
        amqp_end_serve(a);
        amqp_end_serve(b);
        if (closes(a) && nv_buf_len(&a->out) == 0 && nv_buf_len(&b->in) == 0 && !closes(b)) {
            amqp_end_cut(b);
        }
        if (closes(b) && nv_buf_len(&b->out) == 0 && nv_buf_len(&a->in) == 0 && !closes(a)) {
            amqp_end_cut(a);
        }
    } while (moved > 0 || nv_buf_len(&a->in) != before_a || nv_buf_len(&b->in) != before_b || nv_buf_len(&a->out) > 0 ||
             nv_buf_len(&b->out) > 0);
}

/* ---- owner -------------------------------------------------------------------------------------------------- */

const nv_amqp_config amqp_server_config = {.container_id = "DeviceGateway_test",
                                           .sasl_mechanisms = "PLAIN ANONYMOUS EXTERNAL MSSBCBS",
                                           .max_frame_size = 65536,
                                           .channel_max = 8191,
                                           .handle_max = 255,
                                           .idle_time_out_ms = 240000,
                                           .min_peer_idle_ms = 5000,
                                           .open_deadline_us = 60 * NV_US_PER_S,
                                           .max_unsettled_bytes = 8u << 20,
                                           .output_mark = 64 * 1024,
                                           .sessions = 64,
                                           .links = 512};
const nv_amqp_config amqp_client_config = {.container_id = "client",
                                           .hostname = "hub.local",
                                           .sasl_mechanisms = "PLAIN",
                                           .sasl_response = NV_SPAN_LIT("\0user\0password"),
                                           .max_frame_size = 65536,
                                           .channel_max = 65535,
                                           .handle_max = 1023,
                                           .output_mark = 64 * 1024};

static amqp_owner *owner_of(nv_amqp_conn *conn)
{
    return (amqp_owner *)(void *)conn;
}

static void note(amqp_owner *owner, const char *fmt, ...) NV_PRINTF(2, 3);
static void note(amqp_owner *owner, const char *fmt, ...)
{
    char line[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    nv_ignore(nv_buf_append_str(&owner->log, line));
    nv_ignore(nv_buf_append_str(&owner->log, "\n"));
}

const char *amqp_owner_log(amqp_owner *owner)
{
    uint8_t *end = nv_buf_reserve(&owner->log, 1);
    if (!end) {
        return "(the log is full)";
    }
    *end = '\0';
    return (const char *)nv_buf_span(&owner->log).ptr;
}

uint8_t amqp_test_byte(uint64_t number, size_t at)
{
    return (uint8_t)(number * 31 + at * 7 + (at >> 8));
}

static void on_sasl(nv_amqp_conn *conn, nv_span mechanism, nv_span response, nv_span hostname)
{
    amqp_owner *owner = owner_of(conn);
    note(owner, "sasl %.*s %zu bytes for %.*s", NV_SPAN_ARG(mechanism), response.len, NV_SPAN_ARG(hostname));
    if (!owner->sasl_later) {
        nv_amqp_sasl_done(conn, owner->sasl_code);
        if (owner->sasl_code == 0) {
            nv_amqp_conn_authenticated(conn);
        }
    }
}

static void on_opened(nv_amqp_conn *conn, const nv_amqp_open *open)
{
    amqp_owner *owner = owner_of(conn);
    owner->opened = true;
    note(owner, "opened %.*s", NV_SPAN_ARG(open->container_id));
    if (owner->close_in_opened) {
        nv_amqp_conn_close(conn, NV_AMQP_ERR_NOT_ALLOWED, "not today");
    }
}

static void add_link(amqp_owner *owner, nv_amqp_link *link)
{
    if (owner->link_count < AMQP_OWNER_LINKS) {
        owner->links[owner->link_count] = link;
    }
    owner->link_count++;
}

static void on_attach(nv_amqp_conn *conn, nv_amqp_link *link)
{
    amqp_owner *owner = owner_of(conn);
    note(owner, "attach %.*s %s", NV_SPAN_ARG(link->name), link->sender ? "sender" : "receiver");
    if (owner->attach_later) {
        owner->waiting = link;
        return;
    }
    if (owner->refuse != NV_AMQP_ERR_NONE) {
        nv_amqp_link_refuse(link, owner->refuse, "as told", NV_SPAN_EMPTY);
        return;
    }
    add_link(owner, link);
    nv_amqp_link_accept(link, &(nv_amqp_accept){.ops = &amqp_owner_link_ops,
                                                .owner = owner,
                                                .credit = owner->credit,
                                                .max_message_size = owner->max_message,
                                                .pre_settled = owner->pre_settled,
                                                .rcv_first = owner->rcv_first});
}

static void on_ended(nv_amqp_conn *conn, const nv_amqp_problem *problem)
{
    amqp_owner *owner = owner_of(conn);
    assert(!owner->ended);
    owner->ended = true;
    note(owner, "ended %.*s: %.*s", NV_SPAN_ARG(problem->symbol), NV_SPAN_ARG(problem->description));
    nv_amqp_conn_done(conn);
}

static void on_tick(nv_amqp_conn *conn, int64_t now_us)
{
    (void)now_us;
    note(owner_of(conn), "tick");
}

static void on_free(nv_amqp_conn *conn)
{
    nv_amqp_conn_deinit(conn);
}

static const nv_amqp_conn_ops conn_ops = {
    .sasl = on_sasl, .opened = on_opened, .attach = on_attach, .ended = on_ended, .tick = on_tick, .free = on_free};

static void on_attached(nv_amqp_link *link, const nv_amqp_attach *attach)
{
    note(link->owner, "attached %.*s%s", NV_SPAN_ARG(link->name),
         attach->source.ptr || attach->target.ptr ? "" : " to nothing");
}

static bool on_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    amqp_owner *owner = link->owner;
    if (owner->not_now > 0) {
        owner->not_now--;
        note(owner, "not now");
        return false;
    }
    owner->deliveries++;
    owner->delivered_bytes += delivery->bytes.len;
    for (size_t i = 0; i < delivery->bytes.len; i++) {
        owner->body_sum = (owner->body_sum ^ delivery->bytes.ptr[i]) * UINT64_C(1099511628211);
    }
    if (!owner->quiet) {
        note(owner, "delivery %u tag %zu format %x %zu bytes%s", delivery->id, delivery->tag.len, delivery->format,
             delivery->bytes.len, delivery->settled ? " settled" : "");
    }
    if (owner->echo_body) {
        note(owner, "body %.*s", NV_SPAN_ARG(delivery->bytes));
    }
    if (delivery->settled) {
        return true;
    }
    if (owner->keep) {
        if (owner->kept < NV_COUNT_OF(owner->ids)) {
            owner->ids[owner->kept] = delivery->id;
        }
        owner->kept++;
    } else {
        nv_amqp_link_accept_delivery(link, delivery->id);
    }
    return true;
}

void amqp_owner_send(amqp_owner *owner, nv_amqp_link *link)
{
    uint8_t *body = nv_malloc(owner->send_size + 1);
    while (owner->to_send > 0 && nv_amqp_link_room(link)) {
        for (size_t i = 0; i < owner->send_size; i++) {
            body[i] = amqp_test_byte(owner->sent, i);
        }
        uint32_t id = 0;
        size_t half = owner->send_size / 3;
        nv_amqp_send send = {.settled = owner->send_settled,
                             .track = true,
                             .cookie = owner->sent,
                             .head = nv_span_of(body, half),
                             .body = nv_span_of(body + half, owner->send_size - half)};
        nv_err err = nv_amqp_link_send(link, &send, &id);
        if (err != NV_OK) {
            note(owner, "not sent: %s", nv_err_text(err));
            break;
        }
        owner->sent++;
        owner->to_send--;
    }
    free(body);
}

static void on_room(nv_amqp_link *link)
{
    amqp_owner *owner = link->owner;
    if (!owner->quiet) {
        note(owner, "room %.*s %u%s", NV_SPAN_ARG(link->name), link->credit, link->drain ? " drain" : "");
    }
    amqp_owner_send(owner, link);
    if (link->drain && !owner->stay_undrained) {
        nv_amqp_link_drained(link);
    }
}

static void on_outcome(nv_amqp_link *link, uint32_t id, uint64_t cookie, const nv_amqp_outcome *outcome)
{
    static const char *const names[] = {"none", "accepted", "rejected", "released", "modified", "other"};
    amqp_owner *owner = link->owner;
    owner->outcomes[outcome->kind]++;
    if (!owner->quiet) {
        note(owner, "outcome %u of %llu %s%s %.*s", id, (unsigned long long)cookie, names[outcome->kind],
             outcome->settled ? " settled" : "", NV_SPAN_ARG(outcome->problem.symbol));
    }
    if (!outcome->settled && !owner->keep_outcomes) {
        nv_amqp_link_settle(link, id, outcome);
    }
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    amqp_owner *owner = link->owner;
    char info[32] = "";
    if (problem->info.len > 0 && nv_span_eq_str(problem->symbol, "amqp:link:redirect")) {
        (void)snprintf(info, sizeof(info), " info %zu", problem->info.len);
    }
    note(owner, "detached %.*s %.*s%s", NV_SPAN_ARG(link->name), NV_SPAN_ARG(problem->symbol), info);
    for (size_t i = 0; i < AMQP_OWNER_LINKS; i++) {
        if (owner->links[i] == link) {
            owner->links[i] = NULL;
        }
    }
}

const nv_amqp_link_ops amqp_owner_link_ops = {
    .attached = on_attached, .delivery = on_delivery, .room = on_room, .outcome = on_outcome, .detached = on_detached};

static void owner_init(amqp_owner *owner, const nv_clock *clock)
{
    *owner = (amqp_owner){.credit = 100, .send_size = 100, .body_sum = UINT64_C(14695981039346656037)};
    amqp_end_init(&owner->end, clock, 64u << 20);
    nv_buf_init(&owner->log, AMQP_OWNER_LOG);
    owner->end.session = &owner->conn.session;
}

void amqp_owner_server(amqp_owner *owner, const nv_clock *clock, const nv_amqp_config *config)
{
    owner_init(owner, clock);
    nv_amqp_server_init(&owner->conn, &owner->end.carrier, &conn_ops, config ? config : &amqp_server_config);
}

void amqp_owner_client(amqp_owner *owner, const nv_clock *clock, const nv_amqp_config *config)
{
    owner_init(owner, clock);
    nv_amqp_client_init(&owner->conn, &owner->end.carrier, &conn_ops, config ? config : &amqp_client_config);
}

void amqp_owner_deinit(amqp_owner *owner)
{
    if (!owner->end.freed) {
        amqp_end_cut(&owner->end);
    }
    assert(owner->end.freed && owner->ended);
    amqp_end_deinit(&owner->end);
    nv_buf_deinit(&owner->log);
}

nv_amqp_link *amqp_owner_attach(amqp_owner *owner, const char *name, bool sender, uint32_t credit)
{
    if (!owner->session) {
        owner->session = nv_amqp_session_begin(&owner->conn);
    }
    nv_amqp_link *link = nv_amqp_link_attach(owner->session, &(nv_amqp_attach_options){.name = name,
                                                                                       .sender = sender,
                                                                                       .address = "/devices/d1/x",
                                                                                       .snd_settle_mode = 2,
                                                                                       .ops = &amqp_owner_link_ops,
                                                                                       .owner = owner,
                                                                                       .credit = credit});
    if (link) {
        add_link(owner, link);
    }
    return link;
}
