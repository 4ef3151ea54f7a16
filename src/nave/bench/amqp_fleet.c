#include "nave/bench/amqp_fleet.h"

#include "base/alloc.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#define MAX_FRAME         65536u
#define READ_BYTES        ((size_t)256 * 1024)
#define OUT_BYTES         ((size_t)64 * 1024 * 1024)
#define EVENTS            256
#define OPENING_LIMIT     64u  /* connections being opened at the same time */
#define LINKS_PER_SESSION 200u /* a hub may bound the handles of a session */
#define TICK_NS           200000000
#define RESPONSE_BYTES    2048u

/* ---- failures --------------------------------------------------------------------------------------------- */

static const char *const failure_names[] = {
#define X(id, name) [NV_AMQP_FLEET_##id] = (name),
    NV_AMQP_FLEET_FAILURES(X)
#undef X
};
_Static_assert(NV_COUNT_OF(failure_names) <= NV_BENCH_FAILURE_KINDS, "each kind has its count");

void nv_amqp_report_begin(nv_report *report, const nv_amqp_fleet *fleet)
{
    nv_report_begin(report, stdout, fleet->o->base.json == 1);
    nv_bench_amqp_options_report(fleet->o, report);
    nv_report_text(report, "cipher", fleet->cipher);
}

void nv_amqp_fleet_fail(nv_amqp_fleet *fleet, nv_amqp_peer *peer, nv_amqp_fleet_failure failure, const char *words)
{
    char text[160];
    nv_link_error(&peer->link, text, sizeof(text));
    nv_bench_failures_add(&fleet->failures, failure, "%s: %s (%s %u)", failure_names[failure], words ? words : text,
                          peer->role == NV_AMQP_ROLE_READER ? "reader" : "connection", peer->index);
}

void nv_amqp_fleet_fail_problem(nv_amqp_fleet *fleet, nv_amqp_peer *peer, nv_amqp_fleet_failure failure,
                                const nv_amqp_problem *problem)
{
    char text[192];
    (void)snprintf(text, sizeof(text), "%.*s %.*s", NV_SPAN_ARG(problem->symbol), NV_SPAN_ARG(problem->description));
    nv_amqp_fleet_fail(fleet, peer, failure, problem->symbol.len ? text : "without an error");
}

void nv_amqp_peer_lost_link(nv_amqp_peer *peer, const nv_amqp_problem *problem)
{
    nv_span forced = nv_span_str(nv_amqp_condition_name(NV_AMQP_ERR_DETACH_FORCED)); /* of the END before CLOSE */
    bool alone = peer->conn.state == NV_AMQP_CONN_OPENED && !nv_span_eq(problem->symbol, forced);
    if (peer->state == NV_AMQP_PEER_READY && alone) {
        nv_amqp_fleet_fail_problem(peer->fleet, peer, NV_AMQP_FLEET_LINK, problem);
    }
}

/* ---- states ----------------------------------------------------------------------------------------------- */

static void set_state(nv_amqp_peer *peer, nv_amqp_peer_state state)
{
    nv_amqp_fleet *fleet = peer->fleet;
    bool was_opening = peer->state != NV_AMQP_PEER_CLOSED && peer->state != NV_AMQP_PEER_READY;
    bool is_opening = state != NV_AMQP_PEER_CLOSED && state != NV_AMQP_PEER_READY;
    fleet->opening += (uint32_t)is_opening - (uint32_t)was_opening;
    fleet->open += (uint32_t)(state == NV_AMQP_PEER_READY) - (uint32_t)(peer->state == NV_AMQP_PEER_READY);
    peer->state = state;
}

static void mark_dirty(nv_amqp_peer *peer)
{
    if (!nv_list_linked(&peer->dirty_link)) {
        nv_list_push_back(&peer->fleet->dirty, &peer->dirty_link);
    }
}

/* The transport is gone: the engine tells its links, then lets go of the memory. */
static void close_peer(nv_amqp_peer *peer, const char *why)
{
    nv_link_close(&peer->link);
    set_state(peer, NV_AMQP_PEER_CLOSED);
    if (peer->alive) {
        peer->conn.session.ops->lost(&peer->conn.session, why, peer->fleet->now_ns / 1000);
        if (peer->conn.session.done) {
            peer->conn.session.ops->free(&peer->conn.session);
        }
    }
    nv_buf_deinit(&peer->out);
    nv_buf_deinit(&peer->rest);
    peer->session = NULL;
    peer->claim_sender = NULL;
}

static void lost(nv_amqp_peer *peer)
{
    nv_amqp_fleet_failure failure = NV_AMQP_FLEET_CLOSED;
    if (peer->state == NV_AMQP_PEER_CONNECTING) {
        failure = !peer->link.ssl || peer->link.error ? NV_AMQP_FLEET_TCP : NV_AMQP_FLEET_TLS;
    } else if (peer->state == NV_AMQP_PEER_OPENING) {
        failure = NV_AMQP_FLEET_REFUSED;
    }
    if (peer->state != NV_AMQP_PEER_CLOSED) {
        nv_amqp_fleet_fail(peer->fleet, peer, failure, NULL);
        close_peer(peer, "the transport ended");
    }
}

/* ---- the engine's owner ------------------------------------------------------------------------------------- */

void nv_amqp_peer_ready(nv_amqp_peer *peer)
{
    set_state(peer, NV_AMQP_PEER_READY);
    peer->fleet->ready(peer->fleet, peer);
}

uint32_t nv_amqp_peer_devices(const nv_amqp_peer *peer)
{
    uint32_t all = (uint32_t)peer->fleet->o->base.devices;
    uint32_t of = peer->fleet->device_peers;
    return all / of + (peer->index < all % of ? 1 : 0);
}

static void on_opened(nv_amqp_conn *conn, const nv_amqp_open *open)
{
    (void)open;
    nv_amqp_peer *peer = (nv_amqp_peer *)conn;
    if (peer->role == NV_AMQP_ROLE_DEVICES && !peer->fleet->o->queue && nv_amqp_peer_devices(peer) > 1) {
        set_state(peer, NV_AMQP_PEER_CLAIMS);
        nv_amqp_claims_begin(peer);
    } else {
        nv_amqp_peer_ready(peer);
    }
}

static void on_ended(nv_amqp_conn *conn, const nv_amqp_problem *problem)
{
    nv_amqp_peer *peer = (nv_amqp_peer *)conn;
    if (peer->state != NV_AMQP_PEER_CLOSED) { /* else we closed it ourselves */
        bool opening = peer->state == NV_AMQP_PEER_OPENING;
        nv_amqp_fleet_fail_problem(peer->fleet, peer, opening ? NV_AMQP_FLEET_REFUSED : NV_AMQP_FLEET_CLOSED, problem);
        set_state(peer, NV_AMQP_PEER_CLOSED);
    }
    nv_amqp_conn_done(conn);
}

static void on_free(nv_amqp_conn *conn)
{
    nv_amqp_peer *peer = (nv_amqp_peer *)conn;
    nv_amqp_conn_deinit(conn);
    peer->alive = false;
}

static void on_wake(nv_carrier *carrier)
{
    mark_dirty(nv_container_of(carrier, nv_amqp_peer, carrier));
}

/* NUL user NUL password; empty for ANONYMOUS. @return its length */
static size_t sasl_response(const nv_amqp_peer *peer, char *out, size_t size)
{
    const nv_amqp_fleet *fleet = peer->fleet;
    const nv_bench_credentials *known = &fleet->credentials;
    const char *host = known->host ? known->host : "";
    int label = (int)strcspn(host, ".");
    char user[512];
    const char *password = NULL;
    if (fleet->o->queue) {
        (void)snprintf(user, sizeof(user), "%s", fleet->o->user);
        password = fleet->o->password;
    } else if (peer->role == NV_AMQP_ROLE_READER) {
        (void)snprintf(user, sizeof(user), "%s@sas.root.%.*s", known->policy, label, host);
        password = known->service;
    } else if (nv_amqp_peer_devices(peer) == 1) {
        (void)snprintf(user, sizeof(user), "%s@sas.%.*s", known->ids[peer->index], label, host);
        password = known->tokens[peer->index];
    } else {
        return 0;
    }
    int len = snprintf(out, size, "%c%s%c%s", 0, user, 0, password);
    return len > 0 && (size_t)len < size ? (size_t)len : 0;
}

static void begin_amqp(nv_amqp_peer *peer)
{
    static const nv_amqp_conn_ops ops = {.opened = on_opened, .ended = on_ended, .free = on_free};
    static const nv_peer nobody = {.connection_id = 1};
    nv_amqp_fleet *fleet = peer->fleet;
    char response[RESPONSE_BYTES];
    size_t len = sasl_response(peer, response, sizeof(response));
    nv_amqp_config config = {.container_id = "nave-bench",
                             .hostname = fleet->credentials.host,
                             .sasl_mechanisms = len ? "PLAIN" : "ANONYMOUS",
                             .sasl_response = nv_span_of(response, len),
                             .max_frame_size = MAX_FRAME,
                             .channel_max = 8191,
                             .handle_max = 65535,
                             .max_unsettled_bytes = OUT_BYTES,
                             .output_mark = (size_t)1024 * 1024,
                             .sessions = 8191,
                             .links = 1000000};
    nv_buf_init(&peer->out, OUT_BYTES);
    nv_buf_init(&peer->rest, MAX_FRAME + READ_BYTES);
    peer->carrier = (nv_carrier){.peer = &nobody, .out = &peer->out, .wake = on_wake};
    set_state(peer, NV_AMQP_PEER_OPENING);
    nv_amqp_client_init(&peer->conn, &peer->carrier, &ops, &config);
    peer->alive = true;
    mark_dirty(peer);
}

nv_amqp_link *nv_amqp_peer_attach(nv_amqp_peer *peer, const nv_amqp_attach_options *options)
{
    if (!peer->session || peer->session_links == LINKS_PER_SESSION) {
        peer->session = nv_amqp_session_begin(&peer->conn);
        peer->session_links = 0;
    }
    peer->session_links++;
    mark_dirty(peer);
    return nv_amqp_link_attach(peer->session, options);
}

/* ---- writing and reading ---------------------------------------------------------------------------------- */

static void watch(nv_amqp_peer *peer, bool write)
{
    if (peer->watching_write != write) {
        struct epoll_event event = {.events = EPOLLIN | (write ? (uint32_t)EPOLLOUT : 0u), .data.ptr = peer};
        (void)epoll_ctl(peer->fleet->epoll, EPOLL_CTL_MOD, peer->link.fd, &event);
        peer->watching_write = write;
    }
}

/* Write what there is. @return false: the peer is closed */
static bool flush(nv_amqp_peer *peer)
{
    nv_session *session = &peer->conn.session;
    bool blocked = false;
    while (nv_buf_len(&peer->out) && !blocked) {
        nv_span bytes = nv_buf_span(&peer->out);
        ssize_t put = nv_link_write(&peer->link, bytes.ptr, bytes.len);
        if (put == NV_LINK_AGAIN) {
            blocked = true;
        } else if (put < 0) {
            lost(peer);
            return false;
        } else {
            nv_buf_consume(&peer->out, (size_t)put);
            if (session->ops->sent && !session->closing) {
                session->ops->sent(session, peer->fleet->now_ns / 1000);
            }
        }
    }
    watch(peer, blocked);
    if (session->closing && !blocked) {
        lost(peer); /* on_ended() told why */
        close_peer(peer, "closed");
        return false;
    }
    return true;
}

static void flush_dirty(nv_amqp_fleet *fleet)
{
    for (nv_list *node = nv_list_pop_front(&fleet->dirty); node; node = nv_list_pop_front(&fleet->dirty)) {
        nv_amqp_peer *peer = nv_container_of(node, nv_amqp_peer, dirty_link);
        if (peer->alive && peer->link.fd >= 0) {
            (void)flush(peer);
        }
    }
}

/* Give the engine @p len bytes at fleet->in, behind which is what it leaves. */
static void feed(nv_amqp_peer *peer, size_t len)
{
    nv_amqp_fleet *fleet = peer->fleet;
    nv_session *session = &peer->conn.session;
    size_t taken = 0;
    if (session->reading && !session->closing) {
        taken = session->ops->input(session, nv_span_of(fleet->in, len), fleet->now_ns / 1000);
    }
    nv_buf_clear(&peer->rest);
    if (peer->alive && taken < len && nv_buf_append(&peer->rest, nv_span_of(fleet->in + taken, len - taken)) != NV_OK) {
        nv_amqp_fleet_fail(fleet, peer, NV_AMQP_FLEET_CLOSED, "a frame without end");
        close_peer(peer, "a frame without end");
    }
    mark_dirty(peer);
}

static void on_readable(nv_amqp_peer *peer)
{
    nv_amqp_fleet *fleet = peer->fleet;
    do {
        nv_span rest = nv_buf_span(&peer->rest);
        if (rest.len) {
            memcpy(fleet->in, rest.ptr, rest.len);
        }
        ssize_t got = nv_link_read(&peer->link, fleet->in + rest.len, READ_BYTES);
        if (got == NV_LINK_AGAIN) {
            return;
        }
        if (got < 0) {
            lost(peer);
            return;
        }
        fleet->now_ns = nv_bench_now_ns();
        feed(peer, rest.len + (size_t)got);
    } while (peer->link.fd >= 0 && nv_link_pending(&peer->link));
}

/* TCP is through or has failed; then TLS. */
static void advance(nv_amqp_peer *peer)
{
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(peer->link.fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error) {
        peer->link.error = error;
        lost(peer);
        return;
    }
    if (peer->link.ssl) {
        ssize_t done = nv_link_handshake(&peer->link);
        if (done == NV_LINK_AGAIN) {
            watch(peer, peer->link.want_write);
            return;
        }
        if (done < 0) {
            lost(peer);
            return;
        }
        (void)snprintf(peer->fleet->cipher, sizeof(peer->fleet->cipher), "%s", SSL_get_cipher_name(peer->link.ssl));
    }
    begin_amqp(peer);
}

static void on_event(nv_amqp_peer *peer, uint32_t events)
{
    if (peer->link.fd < 0) {
        return; /* closed by an earlier event of this wake */
    }
    if (peer->state == NV_AMQP_PEER_CONNECTING) {
        advance(peer);
        return;
    }
    if (events & EPOLLOUT) {
        mark_dirty(peer);
    }
    if (events & ~(uint32_t)EPOLLOUT) {
        on_readable(peer);
    }
}

/* Deadlines of the engine, and what it did not want to read a moment ago. */
static void tick_all(nv_amqp_fleet *fleet)
{
    fleet->ticked_ns = fleet->now_ns;
    for (uint32_t i = 0; i < fleet->peer_count; i++) {
        nv_amqp_peer *peer = &fleet->peers[i];
        if (peer->alive && peer->conn.session.deadline_us <= fleet->now_ns / 1000) {
            peer->conn.session.ops->tick(&peer->conn.session, fleet->now_ns / 1000);
            mark_dirty(peer);
        }
    }
}

void nv_amqp_fleet_poll(nv_amqp_fleet *fleet, int64_t timeout_ns)
{
    struct epoll_event events[EVENTS];
    flush_dirty(fleet);
    int64_t wait = timeout_ns > 0 ? timeout_ns : 0;
    wait = wait < TICK_NS ? wait : TICK_NS;
    struct timespec ts = {.tv_sec = (time_t)(wait / 1000000000), .tv_nsec = (long)(wait % 1000000000)};
    int count = epoll_pwait2(fleet->epoll, events, EVENTS, &ts, NULL);
    fleet->now_ns = nv_bench_now_ns();
    for (int i = 0; i < count; i++) {
        on_event(events[i].data.ptr, events[i].events);
    }
    if (fleet->now_ns - fleet->ticked_ns >= TICK_NS) {
        tick_all(fleet);
    }
    flush_dirty(fleet);
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

static void start(nv_amqp_peer *peer)
{
    nv_amqp_fleet *fleet = peer->fleet;
    set_state(peer, NV_AMQP_PEER_CONNECTING);
    if (!nv_link_start(&peer->link, &fleet->to, fleet->to_len, 0)) {
        lost(peer);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = peer};
    peer->watching_write = true;
    if (epoll_ctl(fleet->epoll, EPOLL_CTL_ADD, peer->link.fd, &event) < 0) {
        peer->link.error = errno;
        lost(peer);
        return;
    }
    if (fleet->tls) {
        nv_link_add_tls(&peer->link, fleet->tls, fleet->o->base.ca ? fleet->o->base.host : NULL, NULL, false);
    }
}

bool nv_amqp_fleet_open(nv_amqp_fleet *fleet, uint32_t first, uint32_t count)
{
    uint32_t next = first;
    uint32_t last = first + count;
    int64_t end = nv_bench_now_ns() + (int64_t)(fleet->o->base.setup_s * 1e9);
    uint64_t failures = nv_bench_failures_sum(&fleet->failures);
    fleet->now_ns = nv_bench_now_ns();
    while ((next < last || fleet->opening || fleet->links_ready < fleet->links_wanted) && fleet->now_ns < end &&
           nv_bench_failures_sum(&fleet->failures) == failures) {
        while (next < last && fleet->opening < OPENING_LIMIT) {
            start(&fleet->peers[next++]);
        }
        nv_amqp_fleet_poll(fleet, end - nv_bench_now_ns());
    }
    bool all = next == last && !fleet->opening && fleet->links_ready == fleet->links_wanted;
    if (!all && nv_bench_failures_sum(&fleet->failures) == failures) {
        nv_amqp_fleet_fail(fleet, &fleet->peers[first], NV_AMQP_FLEET_SETUP, "not all links stand");
    }
    return all && nv_bench_failures_sum(&fleet->failures) == failures;
}

/* ---- whole ------------------------------------------------------------------------------------------------ */

bool nv_amqp_fleet_init(nv_amqp_fleet *fleet, const nv_bench_amqp_options *o, uint32_t device_peers, uint32_t readers,
                        void (*ready)(nv_amqp_fleet *fleet, nv_amqp_peer *peer), void *mode)
{
    *fleet = (nv_amqp_fleet){.o = o,
                             .mode = mode,
                             .ready = ready,
                             .epoll = epoll_create1(EPOLL_CLOEXEC),
                             .peer_count = device_peers + readers,
                             .device_peers = device_peers,
                             .failures = {.names = failure_names, .kinds = NV_AMQP_FLEET_FAILURE_COUNT}};
    (void)prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); /* open loop: due times are microseconds apart */
    nv_list_init(&fleet->dirty);
    fleet->in = nv_malloc(MAX_FRAME + 2 * READ_BYTES);
    fleet->peers = nv_calloc(fleet->peer_count, sizeof(*fleet->peers));
    for (uint32_t i = 0; i < fleet->peer_count; i++) {
        nv_amqp_peer *peer = &fleet->peers[i];
        peer->fleet = fleet;
        nv_list_init(&peer->dirty_link);
        peer->link.fd = -1;
        peer->role = i < device_peers ? NV_AMQP_ROLE_DEVICES : NV_AMQP_ROLE_READER;
        peer->index = i < device_peers ? i : i - device_peers;
    }
    nv_bench_mqtt_options who = o->base;
    who.anonymous = o->queue != NULL;
    if (fleet->epoll < 0 || nv_bench_credentials_init(&fleet->credentials, &who) != NV_OK ||
        !nv_link_resolve(&o->base, &fleet->to, &fleet->to_len)) {
        return false;
    }
    fleet->tls = o->base.tls ? nv_link_tls_new(&o->base, o->mode == NV_BENCH_AMQP_IDLE) : NULL;
    return !o->base.tls || fleet->tls;
}

void nv_amqp_fleet_deinit(nv_amqp_fleet *fleet)
{
    for (uint32_t i = 0; i < fleet->peer_count; i++) {
        nv_amqp_peer *peer = &fleet->peers[i];
        if (peer->alive && peer->state == NV_AMQP_PEER_READY) {
            set_state(peer, NV_AMQP_PEER_CLOSED); /* what follows is no failure */
            nv_amqp_conn_close(&peer->conn, NV_AMQP_ERR_NONE, NULL);
            nv_span bytes = nv_buf_span(&peer->out);
            (void)nv_link_write(&peer->link, bytes.ptr, bytes.len); /* best effort: the stream ends anyway */
        }
        close_peer(peer, "the run is over");
    }
    nv_bench_credentials_deinit(&fleet->credentials);
    SSL_CTX_free(fleet->tls);
    if (fleet->epoll >= 0) {
        close(fleet->epoll);
    }
    free(fleet->peers);
    free(fleet->in);
}
