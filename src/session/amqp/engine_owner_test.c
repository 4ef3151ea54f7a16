/** Owners of the engine that answer late or end things in the middle; room, time, and many links. */
#include "support/amqp_engine_rig.h"
#include "support/amqp_script.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- late answers --------------------------------------------------------------------------------------------------
 */

static void accept_waiting(void)
{
    nv_amqp_link_accept(p->server.waiting,
                        &(nv_amqp_accept){.ops = &amqp_owner_link_ops, .owner = &p->server, .credit = 5});
}

static void open_waiting_with(const nv_amqp_config *client)
{
    open_pair(NULL, client);
    p->server.attach_later = true;
    run();
    (void)amqp_owner_attach(&p->client, "events", true, 0);
    run();
    assert_non_null(p->server.waiting);
    assert_int_equal(p->server.waiting->attach->handle, 0);
}

static void open_waiting(void)
{
    open_waiting_with(NULL);
}

static void want_to_be_told(void)
{
    p->server.waiting->ops = &amqp_owner_link_ops;
    p->server.waiting->owner = &p->server;
}

/* An owner that wants to be told hears of the end before it has answered. */
static void test_no_answer_needed(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        open_waiting();
        want_to_be_told();
        if (how == 0) {
            nv_amqp_link_detach(p->client.links[0], NV_AMQP_ERR_NONE, NULL);
        } else if (how == 1) {
            nv_amqp_session_end(p->client.session, NV_AMQP_ERR_NONE, NULL);
        } else {
            nv_amqp_conn_close(&p->client.conn, NV_AMQP_ERR_NONE, NULL);
        }
        nv_buf_clear(&p->client.log);
        run();
        assert_non_null(strstr(amqp_owner_log(&p->server), "detached events"));
        assert_int_equal(p->server.ended, how == 2);
        assert_int_equal(p->client.conn.link_count, 0);
        if (how == 0) { /* and the name is free */
            p->server.attach_later = false;
            (void)amqp_owner_attach(&p->client, "events", true, 0);
            run();
            assert_int_equal(p->client.conn.link_count, 1);
            assert_non_null(strstr(amqp_owner_log(&p->client), "room events 100"));
        }
        close_pair();
    }
}

/* Credit and a transfer come before the answer: the one is kept, the other waits. */
static void test_before_the_answer(void **state)
{
    (void)state;
    open_pair(NULL, NULL);
    p->server.attach_later = true;
    run();
    (void)amqp_owner_attach(&p->client, "in", false, 0);
    run();
    amqp_script_put(&p->server.end.in, "flow next-in=0 handle=0 credit=3\n");
    amqp_end_serve(&p->server.end);
    p->server.to_send = 2;
    accept_waiting();
    assert_int_equal(p->server.sent, 0); /* not from inside of a call of its own */
    amqp_end_serve(&p->server.end);
    assert_int_equal(p->server.sent, 2);
    close_pair();

    open_waiting();
    amqp_script_put(&p->server.end.in, "transfer handle=0 id=0 tag=01 body=3\n");
    amqp_end_serve(&p->server.end);
    assert_false(p->server.conn.session.reading);
    accept_waiting();
    amqp_end_serve(&p->server.end);
    assert_int_equal(p->server.deliveries, 1);
    close_pair();
}

/* What the peer makes large and the owner does not answer is bounded in bytes: reading stops, and nothing is lost. */
static void test_waiting_is_bounded(void **state)
{
    (void)state;
    enum { LINKS = 200, FILLER = 16384 };
    static uint8_t filler[FILLER];
    uint8_t bytes[FILLER + 64];
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    size_t mark = nv_amqp_begin_map(&w);
    nv_amqp_put_symbol_of(&w, "filler");
    nv_amqp_put_binary(&w, nv_span_of(filler, FILLER));
    nv_amqp_end_map(&w, mark, 2);
    open_pair(NULL, NULL);
    p->server.attach_later = true;
    run();
    p->client.session = nv_amqp_session_begin(&p->client.conn);
    for (int i = 0; i < LINKS; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "l%d", i);
        assert_non_null(
            nv_amqp_link_attach(p->client.session, &(nv_amqp_attach_options){.name = name,
                                                                             .sender = true,
                                                                             .address = "here",
                                                                             .properties = nv_writer_span(&w),
                                                                             .ops = &amqp_owner_link_ops,
                                                                             .owner = &p->client}));
        run();
    }
    assert_false(p->server.conn.session.reading);
    uint32_t most = (1u << 20) / FILLER + 1;
    assert_in_range(p->server.conn.link_count, most / 2, most);
    const nv_amqp_link *last = NULL;
    while (p->server.conn.link_count < LINKS) { /* each answer lets another in */
        assert_ptr_not_equal(p->server.waiting, last);
        last = p->server.waiting;
        accept_waiting();
        run();
    }
    accept_waiting();
    assert_true(p->server.conn.session.reading);
    close_pair();
}

/* Another link of the same name while the owner still thinks about the first. */
static void test_name_in_doubt(void **state)
{
    (void)state;
    open_waiting();
    nv_amqp_link *first = p->server.waiting;
    nv_buf_clear(&p->server.end.out);
    amqp_script_put(&p->server.end.in, "attach name=events handle=5 sender\n");
    amqp_end_serve(&p->server.end);
    expect_said(&p->server, "attach name=events handle=1 receiver snd=2 rcv=0 max=1048576\n"
                            "detach handle=1 closed error=amqp:resource-locked\n");
    assert_ptr_equal(p->server.waiting, first);
    nv_amqp_link_detach(first, NV_AMQP_ERR_NOT_ALLOWED, "no"); /* a refusal by another name */
    expect_said(&p->server, "attach name=events handle=0 receiver snd=2 rcv=0 max=1048576\n"
                            "detach handle=0 closed error=amqp:not-allowed\n");
    close_pair();
}

static void test_late_answer(void **state)
{
    (void)state;
    open_waiting();
    (void)nv_amqp_link_detach(p->client.links[0], NV_AMQP_ERR_NONE, NULL); /* it waits behind the answer */
    run();
    assert_true(p->server.conn.session.reading == false);
    accept_waiting();
    run();
    assert_true(p->server.conn.session.reading);
    assert_non_null(strstr(amqp_owner_log(&p->server), "detached events"));
    close_pair();

    open_waiting();
    nv_amqp_session_end(p->client.session, NV_AMQP_ERR_NONE, NULL);
    nv_amqp_conn_close(&p->client.conn, NV_AMQP_ERR_NONE, NULL);
    run();
    assert_false(p->server.ended);
    nv_amqp_link_refuse(p->server.waiting, NV_AMQP_ERR_NOT_FOUND, "no", NV_SPAN_EMPTY);
    run();
    assert_true(p->server.ended);
    close_pair();
}

/* The session fails while the owner still looks at an ATTACH in it. */
static void test_answer_to_the_dead(void **state)
{
    (void)state;
    for (int accept = 0; accept < 4; accept++) {
        open_waiting();
        if (accept == 3) { /* it wants to be told, and is not asked for an answer */
            want_to_be_told();
        }
        amqp_script_put(&p->server.end.in, "transfer handle=9 id=0 tag=01\n");
        amqp_end_serve(&p->server.end);
        assert_false(p->server.ended);
        assert_int_equal(p->server.conn.link_count, 0);
        bool told = strstr(amqp_owner_log(&p->server), "detached events") != NULL;
        assert_int_equal(told, accept == 3);
        if (accept < 3) {
            assert_int_equal(p->server.waiting->attach->handle, 0); /* still there to be looked at */
        }
        if (accept == 1) {
            accept_waiting();
            nv_buf_clear(&p->server.log);
            amqp_end_serve(&p->server.end);
            assert_string_equal(amqp_owner_log(&p->server), "detached events \n");
        } else if (accept == 2) {
            nv_amqp_link_refuse(p->server.waiting, NV_AMQP_ERR_NOT_FOUND, "no", NV_SPAN_EMPTY);
        }
        close_pair();
    }
}

static void test_answer_after_the_end(void **state)
{
    (void)state;
    open_waiting();
    p->server.ended = false;
    p->server.end.lost = true;
    p->server.conn.session.ops->lost(&p->server.conn.session, "reset", 0);
    accept_waiting();
    nv_buf_clear(&p->server.log);
    p->server.end.freed = true;
    p->server.conn.session.ops->free(&p->server.conn.session);
    assert_string_equal(amqp_owner_log(&p->server), "detached events \n");
    close_pair();
}

/* ---- owners that end things in the middle ---------------------------------------------------------------------------
 */

enum { END_LINK, END_OTHER_LINK, END_SESSION, END_CONN, END_ABORT, ENDINGS };
static int ending;

static void end_other(const nv_amqp_link *link)
{
    int other = link == p->server.links[0] ? 1 : 0;
    if (p->server.links[other]) {
        nv_amqp_link_detach(p->server.links[other], NV_AMQP_ERR_STOLEN, "x");
        p->server.links[other] = NULL;
    }
}

static void end_something(nv_amqp_link *link)
{
    switch (ending) {
    case END_LINK:
        nv_amqp_link_detach(link, NV_AMQP_ERR_NONE, NULL);
        break;
    case END_OTHER_LINK:
        end_other(link);
        break;
    case END_SESSION:
        nv_amqp_session_end(link->session, NV_AMQP_ERR_INTERNAL_ERROR, "x");
        break;
    case END_CONN:
        nv_amqp_conn_close(link->conn, NV_AMQP_ERR_CONNECTION_FORCED, "x");
        break;
    case END_ABORT:
        nv_amqp_conn_abort(link->conn);
        break;
    default:
        break;
    }
}

static bool end_in_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    uint8_t first = delivery->bytes.len > 0 ? delivery->bytes.ptr[0] : 0;
    end_something(link);
    assert_true(delivery->bytes.len == 0 || delivery->bytes.ptr[0] == first); /* still readable */
    return p->server.not_now == 0;
}

static void end_in_outcome(nv_amqp_link *link, uint32_t id, uint64_t cookie, const nv_amqp_outcome *outcome)
{
    (void)id;
    (void)cookie;
    (void)outcome;
    end_something(link);
}

static const nv_amqp_link_ops ending_ops = {
    .delivery = end_in_delivery, .outcome = end_in_outcome, .room = end_something};

static void test_end_in_callbacks(void **state)
{
    (void)state;
    for (ending = 0; ending < ENDINGS; ending++) {
        for (int callback = 0; callback < 6; callback++) {
            open_links();
            p->server.quiet = true;
            p->server.links[0]->ops = p->server.links[1]->ops = &ending_ops;
            p->server.not_now = callback == 3; /* it says no as well */
            if (callback == 0 || callback == 3) {
                client_sends(5, 20);
            } else if (callback == 1) {
                client_sends(5, 100000); /* several frames */
            } else if (callback == 2) {
                p->server.to_send = 4;
                amqp_owner_send(&p->server, p->server.links[1]);
            } else if (callback == 4) {
                nv_amqp_link_set_credit(p->client.links[1], 20); /* room */
            } else {
                client_sends(1, 20);
                p->server.to_send = 4;
                amqp_owner_send(&p->server, p->server.links[1]);
                nv_amqp_link_set_credit(p->client.links[1], 30);
            }
            run();
            close_pair();
        }
    }
}

/* ---- room ----------------------------------------------------------------------------------------------------------
 */

/* Senders take turns when the output is full, and a large message does not hold up the rest of it. */
static void test_output_mark(void **state)
{
    (void)state;
    nv_amqp_config config = amqp_server_config;
    config.output_mark = 1000;
    open_pair(&config, NULL);
    run();
    (void)amqp_owner_attach(&p->client, "a", false, 1000);
    (void)amqp_owner_attach(&p->client, "b", false, 1000);
    run();
    p->server.quiet = p->client.quiet = true;
    p->server.to_send = 500;
    p->server.send_size = 100;
    amqp_owner_send(&p->server, p->server.links[0]);
    assert_in_range(p->server.sent, 5, 20);
    assert_false(nv_amqp_link_room(p->server.links[1]));
    run();
    assert_int_equal(p->client.deliveries, 500);
    p->server.to_send = 3;
    p->server.send_size = 900000;
    amqp_owner_send(&p->server, p->server.links[0]);
    assert_in_range(nv_buf_len(&p->server.end.out), 200000, 500000);
    assert_int_equal(p->server.sent, 501);
    run();
    assert_int_equal(p->client.deliveries, 503);
    close_pair();
}

static void test_output_full(void **state)
{
    (void)state;
    open_links();
    nv_buf_set_max(&p->server.end.out, 5000);
    p->server.conn.config.output_mark = 1u << 20;
    p->server.to_send = 10;
    p->server.send_size = 1000;
    amqp_owner_send(&p->server, p->server.links[1]);
    assert_false(p->server.ended); /* not from inside of a call of its own */
    amqp_end_serve(&p->server.end);
    assert_true(p->server.ended);
    assert_non_null(strstr(amqp_owner_log(&p->server), "the peer does not read"));
    close_pair();
}

static void test_too_big_to_send(void **state)
{
    (void)state;
    open_links();
    uint32_t id;
    static uint8_t body[(1u << 20) + 1];
    nv_amqp_send send = {.body = nv_span_of(body, sizeof(body))};
    assert_int_equal(nv_amqp_link_send(p->client.links[0], &send, &id), NV_E_TOO_BIG);
    close_pair();
}

/* ---- time ----------------------------------------------------------------------------------------------------------
 */

/* conformance: amqp.md 11, 60 */
static void test_heartbeats(void **state)
{
    (void)state;
    nv_amqp_config server = amqp_server_config;
    nv_amqp_config client = amqp_client_config;
    server.idle_time_out_ms = 20000;
    client.idle_time_out_ms = 8000;
    open_pair(&server, &client);
    run();
    int64_t quiet_us = 0;
    for (int i = 0; i < 3600; i++) { /* half an hour */
        nv_manual_clock_advance(&p->clock, 500 * NV_US_PER_MS);
        amqp_end_serve(&p->server.end);
        amqp_end_serve(&p->client.end);
        quiet_us += 500 * NV_US_PER_MS;
        if (nv_buf_len(&p->server.end.out) > 0) {
            assert_in_range(quiet_us, 0, 4 * NV_US_PER_S); /* half of what the client asked for */
            quiet_us = 0;
        }
        run();
    }
    assert_false(p->server.ended || p->client.ended);
    for (int i = 0; i < 60 && !p->server.ended; i++) { /* the client falls silent */
        nv_manual_clock_advance(&p->clock, 500 * NV_US_PER_MS);
        nv_buf_clear(&p->server.end.out);
        amqp_end_serve(&p->server.end);
        assert_true(!p->server.ended || i >= 30);
    }
    assert_true(p->server.ended);
    assert_non_null(strstr(amqp_owner_log(&p->server), "ended amqp:resource-limit-exceeded"));
    expect_said(&p->server, "close error=amqp:resource-limit-exceeded\n");
    close_pair();
}

/* One who reads slowly is not listened to while its output waits: it lives as long as it reads. */
static void test_slow_is_not_silent(void **state)
{
    (void)state;
    nv_amqp_config server = amqp_server_config;
    server.idle_time_out_ms = 20000;
    open_pair(&server, NULL);
    run();
    (void)amqp_owner_attach(&p->client, "a", false, 100000);
    run();
    p->server.quiet = p->client.quiet = true;
    p->server.to_send = 20000;
    p->server.send_size = 1000;
    amqp_owner_send(&p->server, p->server.links[0]);
    for (int i = 0; i < 100; i++) {
        nv_manual_clock_advance(&p->clock, NV_US_PER_S);
        nv_buf_consume(&p->server.end.out, 5000);
        p->server.end.unread = SIZE_MAX;
        amqp_end_serve(&p->server.end);
        assert_false(p->server.ended);
    }
    for (int i = 0; i < 21; i++) { /* until it stops */
        nv_manual_clock_advance(&p->clock, NV_US_PER_S);
        amqp_end_serve(&p->server.end);
    }
    assert_true(p->server.ended);
    close_pair();
}

static void test_deadlines(void **state)
{
    (void)state;
    nv_manual_clock_init(&p->clock, 0);
    amqp_owner_server(&p->server, &p->clock.clock, NULL);
    nv_manual_clock_advance(&p->clock, 59 * NV_US_PER_S);
    amqp_end_serve(&p->server.end);
    assert_false(p->server.ended);
    nv_manual_clock_advance(&p->clock, NV_US_PER_S);
    amqp_end_serve(&p->server.end);
    assert_true(p->server.ended);
    amqp_owner_deinit(&p->server);

    open_links();
    nv_amqp_conn_set_deadline(&p->server.conn, nv_mono_us(&p->clock.clock) + 3 * NV_US_PER_S);
    advance(2 * NV_US_PER_S);
    assert_null(strstr(amqp_owner_log(&p->server), "tick"));
    advance(NV_US_PER_S);
    assert_non_null(strstr(amqp_owner_log(&p->server), "tick"));
    nv_amqp_conn_close(&p->server.conn, NV_AMQP_ERR_CONNECTION_FORCED, "newer connection");
    nv_buf_clear(&p->server.end.out);
    assert_false(p->server.ended);
    assert_non_null(strstr(amqp_owner_log(&p->server), "detached events amqp:connection:forced"));
    nv_manual_clock_advance(&p->clock, 5 * NV_US_PER_S);
    amqp_end_serve(&p->server.end);
    assert_true(p->server.ended);
    close_pair();
}

/* An info map that fits no frame of the peer's gives way; one that does stays. */
static void test_long_errors(void **state)
{
    (void)state;
    static char text[500];
    memset(text, 'x', sizeof(text) - 1);
    for (int small = 0; small < 2; small++) {
        open_waiting_with(small ? small_frames(true) : NULL);
        uint8_t info[1500];
        nv_writer w = nv_writer_of(info, sizeof(info));
        size_t map = nv_amqp_begin_map(&w);
        nv_amqp_put_symbol_of(&w, "address");
        nv_amqp_put_string_of(&w, text);
        nv_amqp_end_map(&w, map, 2);
        nv_buf_clear(&p->client.log);
        nv_amqp_link_refuse(p->server.waiting, NV_AMQP_ERR_LINK_REDIRECT, text, nv_writer_span(&w));
        run();
        assert_string_equal(amqp_owner_log(&p->client),
                            small ? "attached events to nothing\ndetached events amqp:link:redirect info 43\n"
                                  : "attached events to nothing\ndetached events amqp:link:redirect info 522\n");
        close_pair();
    }
}

/* An ATTACH whose answer fits no frame of the peer's; and a name for which even a refusal would not. */
static void test_long_attach(void **state)
{
    (void)state;
    char line[1000];
    char text[451];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    nv_manual_clock_init(&p->clock, 0);
    amqp_owner_server(&p->server, &p->clock.clock, NULL);
    amqp_script_put(&p->server.end.in, "header amqp\nopen container=c max-frame=512\nbegin\n");
    amqp_end_serve(&p->server.end);
    nv_buf_clear(&p->server.end.out);
    (void)snprintf(line, sizeof(line), "attach name=a handle=0 sender source=%s\n", text);
    amqp_script_put(&p->server.end.in, line);
    amqp_end_serve(&p->server.end);
    expect_said(&p->server, "attach name=a handle=0 receiver snd=2 rcv=0 max=1048576\n"
                            "detach handle=0 closed error=amqp:frame-size-too-small\n");
    nv_buf_clear(&p->server.log);
    amqp_script_put(&p->server.end.in,
                    "flow handle=0 count=0\ntransfer handle=0 id=0 tag=01\ndetach handle=0 closed\n");
    amqp_end_serve(&p->server.end);
    assert_string_equal(amqp_owner_log(&p->server), "detached a \n"); /* it took the link for its own */
    text[340] = '\0';
    (void)snprintf(line, sizeof(line), "attach name=%s handle=0 sender\n", text);
    amqp_script_put(&p->server.end.in, line);
    amqp_end_serve(&p->server.end);
    expect_said(&p->server, "end error=amqp:invalid-field\n");
    amqp_owner_deinit(&p->server);
}

/* ---- the hub stops -------------------------------------------------------------------------------------------------
 */

static void test_stop(void **state)
{
    (void)state;
    open_links();
    p->server.conn.session.ops->drain(&p->server.conn.session, 0);
    run();
    assert_non_null(strstr(amqp_owner_log(&p->client), "ended amqp:connection:forced: the hub stops"));
    assert_true(p->server.ended);
    close_pair();
}

/* ---- many ----------------------------------------------------------------------------------------------------------
 */

static size_t in_use(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks;
}

static bool attach_quietly_room(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    nv_amqp_link_accept_delivery(link, delivery->id);
    return true;
}

static void accept_quietly(nv_amqp_conn *conn, nv_amqp_link *link)
{
    static const nv_amqp_link_ops ops = {.delivery = attach_quietly_room};
    nv_amqp_link_accept(link, &(nv_amqp_accept){.ops = &ops, .owner = conn, .credit = 1000});
}

/* 1,000 devices with a session and 6 links each on one connection. */
static void test_memory(void **state)
{
    (void)state;
    enum { DEVICES = 1000, LINKS = 6 };
    static const nv_amqp_link_ops none = {.attached = NULL};
    nv_amqp_config config = amqp_server_config;
    config.sessions = DEVICES + 1;
    config.links = DEVICES * LINKS + 1;
    open_pair(&config, NULL);
    run();
    nv_amqp_conn_ops ops = *p->server.conn.ops;
    ops.attach = accept_quietly;
    p->server.conn.ops = &ops;
    nv_buf script;
    nv_buf_init(&script, 64u << 20);
    char line[200];
    for (int d = 0; d < DEVICES; d++) {
        (void)snprintf(line, sizeof(line), "begin ch=%d\n", d);
        amqp_script_put(&script, line);
        for (int i = 0; i < LINKS; i++) {
            (void)snprintf(line, sizeof(line),
                           "attach ch=%d name=link-%d-of-device-%d handle=%d %s source=/s target=/t\n", d, i, d, i,
                           i % 2 ? "sender" : "");
            amqp_script_put(&script, line);
        }
    }
    nv_buf_deinit(&p->server.end.out);
    size_t before = in_use();
    amqp_end_give(&p->server.end, nv_buf_span(&script));
    nv_buf_deinit(&p->server.end.in);
    nv_buf_deinit(&p->server.end.out);
    size_t each = (in_use() - before) / DEVICES;
    assert_int_equal(p->server.conn.link_count, DEVICES * LINKS);
    print_message("a session with %d links: %zu bytes\n", LINKS, each);
    assert_true(each < 8192 / 2); /* a sanitizer's allocator says 0 */
    nv_buf_deinit(&script);
    (void)none;
    p->server.end.unread = 0;
    amqp_script_put(&p->server.end.in, "attach ch=3 name=link-1-of-device-3 handle=7 sender target=/t\n");
    amqp_end_serve(&p->server.end);
    expect_said(&p->server, "detach ch=3 handle=1 closed error=amqp:link:stolen\n"
                            "attach ch=3 name=link-1-of-device-3 handle=6 receiver snd=2 rcv=0 target max=1048576\n"
                            "flow ch=3 next-in=0 window=8192 next-out=0 handle=6 count=0 credit=1000\n");
    close_pair();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_before_the_answer),
        cmocka_unit_test(test_name_in_doubt),
        cmocka_unit_test(test_late_answer),
        cmocka_unit_test(test_waiting_is_bounded),
        cmocka_unit_test(test_no_answer_needed),
        cmocka_unit_test(test_answer_to_the_dead),
        cmocka_unit_test(test_answer_after_the_end),
        cmocka_unit_test(test_end_in_callbacks),
        cmocka_unit_test(test_output_mark),
        cmocka_unit_test(test_output_full),
        cmocka_unit_test(test_too_big_to_send),
        cmocka_unit_test(test_heartbeats),
        cmocka_unit_test(test_slow_is_not_silent),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_long_errors),
        cmocka_unit_test(test_long_attach),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
