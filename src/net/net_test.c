#include "net/net.h"

#include "base/diag.h"
#include "base/metrics.h"
#include "net/client.h"
#include "net/net_test_util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

static void test_echo(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    hub_start(&h, 2, NULL, NULL);
    int fds[8];
    for (size_t i = 0; i < NV_COUNT_OF(fds); i++) {
        fds[i] = dial_tcp("127.0.0.1", hub_port(&h));
        say(fds[i], "hello\nwor");
        expect(fds[i], "hello\n");
    }
    for (size_t i = 0; i < NV_COUNT_OF(fds); i++) {
        say(fds[i], "ld\n");
        expect(fds[i], "world\n");
        (void)close(fds[i]);
    }
    await_count(&h.echo.counts.freed, 8);
    assert_int_equal(atomic_load(&h.echo.counts.lost), 8);
    hub_stop(&h);
}

/* Units of every length around the limits of the windows, sent in pieces, come back whole. */
static void test_pieces(void **state)
{
    (void)state;
    static const size_t lengths[] = {1, 2, 4095, 16383, 16384, 16385, 40000, 65535};
    static const size_t pieces[] = {1, 7, 1000, 16384, 100000};
    hub h;
    hub_init(&h);
    hub_start(&h, 1, NULL, NULL);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    char *line = malloc(65536);
    for (size_t i = 0; i < NV_COUNT_OF(lengths); i++) {
        for (size_t j = i < 2 ? 0 : 1; j < NV_COUNT_OF(pieces); j++) {
            memset(line, 'a' + (int)i, lengths[i]);
            line[lengths[i] - 1] = '\n';
            for (size_t sent = 0; sent < lengths[i]; sent += pieces[j]) {
                size_t left = lengths[i] - sent;
                say_bytes(fd, line + sent, left < pieces[j] ? left : pieces[j]);
            }
            expect_bytes(fd, line, lengths[i]);
        }
    }
    free(line);
    (void)close(fd);
    hub_stop(&h);
}

static void test_unit_too_long(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    h.echo.max_pending = 1000;
    hub_start(&h, 1, NULL, NULL);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    char junk[2000];
    memset(junk, 'x', sizeof(junk));
    say(fd, "first\n");
    expect(fd, "first\n");
    say_bytes(fd, junk, sizeof(junk));
    expect_end(fd);
    await_count(&h.echo.counts.freed, 1);
    assert_string_equal(h.echo.why, "a unit is longer than this connection may buffer");
    (void)close(fd);
    hub_stop(&h);
}

static void test_session_closes(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    hub_start(&h, 1, NULL, NULL);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    say(fd, "one\nclose\nnever\n");
    expect(fd, "one\nclose\n");
    expect_end(fd);
    await_count(&h.echo.counts.freed, 1); /* before the peer has closed */
    (void)close(fd);
    await_no_connections(h.net);
    hub_stop(&h);
}

/* The peer says all it has to say and shuts down its side: what was produced still arrives. */
static void test_half_close(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    hub_start(&h, 1, NULL, NULL);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    say(fd, "a\nflood 900000\n");
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    expect(fd, "a\n");
    assert_int_equal(skip_to_end(fd), 900000);
    await_count(&h.echo.counts.freed, 1);
    assert_string_equal(h.echo.why, "the peer closed the connection");
    (void)close(fd);
    hub_stop(&h);
}

static void test_stop_reading(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    hub_start(&h, 1, NULL, NULL);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    say(fd, "stop\nafter\nand mo");
    expect(fd, "stop\n");
    await_count(&h.echo.counts.stopped, 1);
    say(fd, "re\n");
    expect_silence(fd);
    hub_release_last(&h);
    expect(fd, "after\nand more\n");
    (void)close(fd);
    hub_stop(&h);
}

/* A peer that sends and does not read: reading stops first, memory stays bounded, everything arrives in the end. */
static void test_slow_reader(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    h.limits.pause_output_bytes = (size_t)64 * 1024;
    h.limits.max_output_bytes = (size_t)1024 * 1024;
    h.echo.bulk = true;
    hub_start(&h, 1, NULL, NULL);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    size_t sent = send_until_stuck(fd);
    assert_true(sent > 100000);
    assert_int_equal(atomic_load(&h.echo.counts.full), 0);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    assert_int_equal(skip_to_end(fd), sent);
    (void)close(fd);
    await_count(&h.echo.counts.freed, 1);
    hub_stop(&h);
}

/* More than the output may hold, made as room comes. */
static void test_stream(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    hub_start(&h, 1, NULL, NULL);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    say(fd, "stream 50000000\n");
    assert_int_equal(skip_bytes(fd, 50000000), 50000000);
    assert_int_equal(atomic_load(&h.echo.counts.full), 0);
    say(fd, "x\n");
    expect(fd, "x\n");
    (void)close(fd);
    hub_stop(&h);
}

/* Output past the limit: the append fails, the session closes, the deadline ends what the peer does not take. */
static void test_output_limit(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    h.limits.max_output_bytes = (size_t)8 * 1024 * 1024;
    h.limits.close_us = 50 * NV_US_PER_MS;
    h.echo.close_when_full = true;
    hub_start(&h, 1, NULL, NULL);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    say(fd, "flood 100000000\n");
    await_count(&h.echo.counts.freed, 1);
    assert_true(atomic_load(&h.echo.counts.full) >= 1);
    (void)close(fd);
    await_no_connections(h.net);
    hub_stop(&h);
}

static void test_held_session(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    hub_start(&h, 1, NULL, NULL);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    say(fd, "hold\n");
    expect(fd, "hold\n");
    (void)close(fd);
    await_count(&h.echo.counts.lost, 1);
    await_no_connections(h.net);
    assert_int_equal(atomic_load(&h.echo.counts.freed), 0);
    hub_release_last(&h);
    await_count(&h.echo.counts.freed, 1);
    hub_stop(&h);
}

static void test_reset(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    hub_start(&h, 1, NULL, NULL);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    say(fd, "x\n");
    expect(fd, "x\n");
    close_with_reset(fd);
    await_count(&h.echo.counts.freed, 1);
    assert_string_equal(h.echo.why, "connection reset by peer");
    hub_stop(&h);
}

static void test_deadline_on_manual_clock(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    nv_manual_clock clock;
    nv_manual_clock_init(&clock, 0);
    h.echo.deadline_us = nv_mono_us(&clock.clock) + 3600 * NV_US_PER_S;
    hub_start(&h, 1, &clock.clock, NULL);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    say(fd, "x\n");
    expect(fd, "x\n");
    nv_manual_clock_advance(&clock, 3599 * NV_US_PER_S);
    nv_loop_poke(nv_net_loop(h.net, 0));
    say(fd, "y\n");
    expect(fd, "y\n");
    assert_int_equal(atomic_load(&h.echo.counts.ticks), 0);
    nv_manual_clock_advance(&clock, 2 * NV_US_PER_S);
    nv_loop_poke(nv_net_loop(h.net, 0));
    expect_end(fd);
    assert_int_equal(atomic_load(&h.echo.counts.ticks), 1);
    (void)close(fd);
    hub_stop(&h);
}

static void test_graceful_stop(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    hub_start(&h, 2, NULL, NULL);
    int fds[6];
    for (size_t i = 0; i < NV_COUNT_OF(fds); i++) {
        fds[i] = dial_tcp("127.0.0.1", hub_port(&h));
        say(fds[i], "x\n");
        expect(fds[i], "x\n");
    }
    nv_net_stop(h.net, 10 * NV_US_PER_S);
    for (size_t i = 0; i < NV_COUNT_OF(fds); i++) {
        expect(fds[i], "bye\n");
        expect_end(fds[i]);
        (void)close(fds[i]);
    }
    assert_int_equal(nv_net_wait(h.net), 0);
    assert_int_equal(atomic_load(&h.echo.counts.drained), 6);
    assert_int_equal(atomic_load(&h.echo.counts.freed), 6);
    assert_int_equal(try_dial_tcp("127.0.0.1", hub_port(&h)), -1);
    assert_int_equal(errno, ECONNREFUSED);
    nv_net_free(h.net);
}

/* Who does not close within the grace is closed; who is never done is counted, and freed with the net. */
static void test_stop_deadline(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    h.limits.close_us = 3600 * NV_US_PER_S;
    hub_start(&h, 1, NULL, NULL);
    int stuck = dial_tcp("127.0.0.1", hub_port(&h));
    say(stuck, "flood 1000000\nflood 1000000\nflood 1000000\nflood 1000000\nflood 1000000\n");
    int held = dial_tcp("127.0.0.1", hub_port(&h));
    say(held, "hold\n");
    expect(held, "hold\n");
    await_count(&h.echo.counts.lines, 6);
    nv_net_stop(h.net, 20 * NV_US_PER_MS);
    await_count(&h.echo.counts.lost, 2);
    hub_release_last(&h);
    assert_int_equal(nv_net_wait(h.net), 0);
    (void)close(stuck);
    (void)close(held);
    nv_net_free(h.net);
    assert_int_equal(atomic_load(&h.echo.counts.freed), 2);
}

static void test_free_without_stop(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    hub_start(&h, 2, NULL, NULL);
    int a = dial_tcp("127.0.0.1", hub_port(&h));
    int b = dial_tcp("127.0.0.1", hub_port(&h));
    say(a, "x\n");
    expect(a, "x\n");
    say(b, "hold\n");
    expect(b, "hold\n");
    nv_net_free(h.net);
    assert_int_equal(atomic_load(&h.echo.counts.freed), 2);
    (void)close(a);
    (void)close(b);
}

static void test_caps(void **state)
{
    (void)state;
    static const struct {
        size_t connections, unauthenticated, listener;
        const char *first; /* what the connections that fit say */
        int fit;
    } rows[] = {
        {3, 100, 0, "x\n", 3},
        {4, 2, 0, "known\n", 4}, /* who is known leaves the cap on the unknown */
        {100, 100, 5, "x\n", 5},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        hub h;
        hub_init(&h);
        h.limits.max_connections = rows[i].connections;
        h.limits.max_unauthenticated = rows[i].unauthenticated;
        h.listener_cap = rows[i].listener;
        hub_start(&h, 2, NULL, NULL);
        int64_t refused = nv_metric_get(NV_M_CONNECTIONS_REFUSED);
        int fds[8];
        for (int c = 0; c < rows[i].fit; c++) {
            fds[c] = dial_tcp("127.0.0.1", hub_port(&h));
            say(fds[c], rows[i].first);
            expect(fds[c], rows[i].first);
            hub_settle(&h);
        }
        int beyond = dial_tcp("127.0.0.1", hub_port(&h));
        expect_end(beyond);
        assert_int_equal(nv_metric_get(NV_M_CONNECTIONS_REFUSED), refused + 1);
        (void)close(beyond);
        (void)close(fds[0]); /* a place becomes free */
        await_count(&h.echo.counts.freed, 1);
        hub_settle(&h);
        fds[0] = dial_tcp("127.0.0.1", hub_port(&h));
        say(fds[0], "again\n");
        expect(fds[0], "again\n");
        for (int c = 0; c < rows[i].fit; c++) {
            (void)close(fds[c]);
        }
        hub_stop(&h);
    }
}

/* A crowd without identities must not lock out who has one: the oldest of them makes room. Eight strangers come where
 * three are allowed; the fifth becomes known in time. */
static void crowd(unsigned loops)
{
    hub h;
    hub_init(&h);
    h.limits.max_unauthenticated = 3;
    hub_start(&h, loops, NULL, NULL);
    int64_t refused = nv_metric_get(NV_M_CONNECTIONS_REFUSED);
    int64_t displaced = nv_metric_get(NV_M_CONNECTIONS_DISPLACED);
    int friend = dial_tcp("127.0.0.1", hub_port(&h));
    say(friend, "known\n");
    expect(friend, "known\n");
    hub_settle(&h);
    int fds[8];
    for (int c = 0; c < 8; c++) {
        fds[c] = dial_tcp("127.0.0.1", hub_port(&h));
        say(fds[c], "x\n");
        expect(fds[c], "x\n");
        hub_settle(&h);
        if (c == 4) { /* leaves in time, and with it leaves the row of those who wait */
            say(fds[c], "known\n");
            expect(fds[c], "known\n");
            hub_settle(&h);
        }
    }
    int ended = 0;
    for (int c = 0; c < 8; c++) {
        char byte;
        bool gone = recv(fds[c], &byte, 1, MSG_DONTWAIT) == 0;
        ended += gone;
        assert_true(loops > 1 || gone == (c < 4)); /* several loops: the oldest of the one that has most of them */
        assert_true(!gone || c != 4);
        if (!gone) {
            say(fds[c], "still here\n");
            expect(fds[c], "still here\n");
        }
    }
    assert_int_equal(ended, 4);
    say(friend, "too\n");
    expect(friend, "too\n");
    assert_int_equal(nv_metric_get(NV_M_CONNECTIONS_REFUSED), refused);
    assert_int_equal(nv_metric_get(NV_M_CONNECTIONS_DISPLACED), displaced + 4);
    for (int c = 0; c < 8; c++) {
        (void)close(fds[c]);
    }
    (void)close(friend);
    hub_stop(&h);
}

static void test_strangers_make_room(void **state)
{
    (void)state;
    crowd(1);
    crowd(2);
}

#ifdef __GLIBC__
static _Atomic int trims;

/* Instead of libc's. */
int malloc_trim(size_t pad)
{
    (void)pad;
    atomic_fetch_add(&trims, 1);
    return 0;
}

/* What a crowd had goes back to the system a while after it is gone; it does not matter on how many connections it
 * came. */
static void test_memory_goes_back(void **state)
{
    (void)state;
    static const struct {
        int connections;
        uint32_t guests;
        int trims;
    } rows[] = {{255, 0, 0}, {256, 0, 1}, {1, 254, 0}, {1, 255, 1}, {2, 1000, 1}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        hub h;
        hub_init(&h);
        h.echo.guests = rows[i].guests;
        nv_manual_clock clock;
        nv_manual_clock_init(&clock, 0);
        hub_start(&h, 1, &clock.clock, NULL);
        int before = atomic_load(&trims);
        for (int c = 1; c <= rows[i].connections; c++) {
            int fd = dial_tcp("127.0.0.1", hub_port(&h));
            say(fd, "x\n");
            expect(fd, "x\n");
            (void)close(fd);
            await_count(&h.echo.counts.freed, c);
        }
        hub_settle(&h);
        assert_int_equal(atomic_load(&trims), before);
        nv_manual_clock_advance(&clock, NV_US_PER_S);
        hub_settle(&h);
        assert_int_equal(atomic_load(&trims), before + rows[i].trims);
        hub_stop(&h);
    }
}
#endif

static void test_out_of_descriptors(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    hub_start(&h, 1, NULL, NULL);
    int first = dial_tcp("127.0.0.1", hub_port(&h));
    say(first, "x\n");
    expect(first, "x\n");
    int next = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    struct rlimit tight = {(rlim_t)next + 1, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    connect_tcp(next, "127.0.0.1", hub_port(&h));
    expect_end(next); /* refused, not left waiting */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    (void)close(next);
    say(first, "still here\n");
    expect(first, "still here\n");
    int after = dial_tcp("127.0.0.1", hub_port(&h));
    say(after, "y\n");
    expect(after, "y\n");
    (void)close(first);
    (void)close(after);
    hub_stop(&h);
}

static void test_port_in_use(void **state)
{
    (void)state;
    static const char *const addresses[] = {"127.0.0.1", "loopback", "*"};
    hub h;
    hub_init(&h);
    hub_start(&h, 1, NULL, NULL);
    for (size_t i = 0; i < NV_COUNT_OF(addresses); i++) {
        char why[NV_NET_WHY_SIZE] = "";
        char start[64];
        nv_acceptor acceptor = {NULL, echo_accept, &h.echo};
        nv_listener_config config = {
            .address = addresses[i], .port = hub_port(&h), .acceptors = &acceptor, .acceptor_count = 1};
        assert_int_equal(nv_net_listen(h.net, &config, NULL, why), NV_E_IN_USE);
        (void)snprintf(start, sizeof(start), "port %u on %s", hub_port(&h), i == 2 ? "[::]" : "127.0.0.1");
        assert_memory_equal(why, start, strlen(start) - (i == 2 ? 4 : 0));
        assert_non_null(strstr(why, " is in use by another program"));
    }
    hub_stop(&h);
}

static void test_bad_addresses(void **state)
{
    (void)state;
    static const struct {
        const char *address;
        nv_err err;
    } rows[] = {{"192.0.2.1", NV_E_NOT_FOUND}, {"no.such.name.invalid", NV_E_NOT_FOUND}, {"1.2.3", NV_E_NOT_FOUND}};
    hub h;
    hub_init(&h);
    hub_start(&h, 1, NULL, NULL);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char why[NV_NET_WHY_SIZE] = "";
        nv_acceptor acceptor = {NULL, echo_accept, &h.echo};
        nv_listener_config config = {.address = rows[i].address, .acceptors = &acceptor, .acceptor_count = 1};
        assert_int_equal(nv_net_listen(h.net, &config, NULL, why), rows[i].err);
        assert_true(strlen(why) > 10);
    }
    hub_stop(&h);
}

static void test_dual_stack(void **state)
{
    (void)state;
    static const char *const addresses[] = {"*", "", "loopback", "localhost", "[::1]", "127.0.0.1"};
    for (size_t i = 0; i < NV_COUNT_OF(addresses); i++) {
        hub h;
        hub_init(&h);
        h.address = addresses[i];
        hub_start(&h, 1, NULL, NULL);
        static const char *const clients[] = {"127.0.0.1", "::1"};
        for (int c = 0; c < 2; c++) {
            bool reaches = i < 4 || (c == 0) == (i == 5);
            int fd = try_dial_tcp(clients[c], hub_port(&h));
            if (c == 1 && fd < 0 && (errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT)) {
                continue; /* no IPv6 on this machine */
            }
            assert_int_equal(fd >= 0, reaches);
            if (reaches) {
                say(fd, "x\n");
                expect(fd, "x\n");
                (void)close(fd);
            }
        }
        hub_stop(&h);
    }
}

/* On the session's loop, before the first line is echoed. */
static void expect_loopback_peer(void *arg, const nv_peer *peer)
{
    assert_true(nv_span_starts_with(peer->address, nv_span_str("127.0.0.1:")));
    assert_false(peer->tls);
    atomic_fetch_add((_Atomic int *)arg, 1);
}

static void test_address_of_peer(void **state)
{
    (void)state;
    hub h;
    _Atomic int seen = 0;
    hub_init(&h);
    h.address = "*";
    h.echo.peer_seen = expect_loopback_peer;
    h.echo.arg = &seen;
    hub_start(&h, 1, NULL, NULL);
    int fd = dial_tcp("127.0.0.1", hub_port(&h));
    say(fd, "x\n");
    expect(fd, "x\n");
    assert_int_equal(atomic_load(&seen), 1);
    (void)close(fd);
    hub_stop(&h);
}

/* ---- outgoing ---- */

static void test_client(void **state)
{
    (void)state;
    hub h;
    hub_init(&h);
    hub_start(&h, 2, NULL, NULL);
    probe p;
    probe_connect(&p, &h, "localhost", hub_port(&h), NULL);
    probe_say(&p, "hello\n");
    probe_expect(&p, "hello\n");
    probe_close(&p);
    await_count(&h.echo.counts.freed, 1);
    hub_stop(&h);
}

static void test_client_refused(void **state)
{
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "no.such.name.invalid"};
    hub h;
    hub_init(&h);
    hub_start(&h, 1, NULL, NULL);
    for (size_t i = 0; i < NV_COUNT_OF(hosts); i++) {
        int held = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); /* bound, not listening: refuses */
        probe p;
        probe_connect(&p, &h, hosts[i], bind_free_port(held), NULL);
        probe_await_failed(&p);
        assert_int_equal(p.err, i == 0 ? NV_E_IO : NV_E_NOT_FOUND);
        assert_non_null(strstr(p.why, hosts[i]));
        (void)close(held);
        probe_deinit(&p);
    }
    hub_stop(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_echo),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_unit_too_long),
        cmocka_unit_test(test_session_closes),
        cmocka_unit_test(test_half_close),
        cmocka_unit_test(test_stop_reading),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_output_limit),
        cmocka_unit_test(test_held_session),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_deadline_on_manual_clock),
        cmocka_unit_test(test_graceful_stop),
        cmocka_unit_test(test_stop_deadline),
        cmocka_unit_test(test_free_without_stop),
        cmocka_unit_test(test_caps),
        cmocka_unit_test(test_strangers_make_room),
#ifdef __GLIBC__
        cmocka_unit_test(test_memory_goes_back),
#endif
        cmocka_unit_test(test_out_of_descriptors),
        cmocka_unit_test(test_port_in_use),
        cmocka_unit_test(test_bad_addresses),
        cmocka_unit_test(test_dual_stack),
        cmocka_unit_test(test_address_of_peer),
        cmocka_unit_test(test_client),
        cmocka_unit_test(test_client_refused),
    };
    nv_diag_setup(NV_LEVEL_ERROR, false, STDERR_FILENO);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
