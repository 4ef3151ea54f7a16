/** Both halves of the engine against each other in memory: in pieces, cut off, in order, within credit and budget. */
#include "base/rng.h"
#include "support/amqp_engine_rig.h"
#include "support/amqp_script.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- the whole of it, in every kind of piece --------------------------------------------------------------------- */

enum { MESSAGES = 5, STEPS = 4 };

/* The client's part, step by step, so that it can be driven whatever the pieces are. */
static void step(int number)
{
    switch (number) {
    case 0:
        (void)amqp_owner_attach(&p->client, "events", true, 0);
        (void)amqp_owner_attach(&p->client, "devicebound", false, 10);
        return;
    case 1:
        client_sends(MESSAGES, 700);
        p->server.to_send = MESSAGES;
        p->server.send_size = 1500;
        if (p->server.links[1]) {
            amqp_owner_send(&p->server, p->server.links[1]);
        }
        return;
    case 2:
        nv_amqp_link_detach(p->client.links[0], NV_AMQP_ERR_NONE, NULL);
        nv_amqp_session_end(p->client.session, NV_AMQP_ERR_NONE, NULL);
        return;
    case 3:
        nv_amqp_conn_close(&p->client.conn, NV_AMQP_ERR_NONE, NULL);
        return;
    default:
        return;
    }
}

static void check_all(void)
{
    assert_int_equal(p->server.deliveries, MESSAGES);
    assert_int_equal(p->client.deliveries, MESSAGES);
    assert_int_equal(p->client.outcomes[NV_AMQP_OUT_ACCEPTED], MESSAGES);
    assert_int_equal(p->server.outcomes[NV_AMQP_OUT_ACCEPTED], MESSAGES);
    assert_true(p->client.ended && p->server.ended);
}

static void test_whole(void **state)
{
    (void)state;
    for (size_t piece = 0; piece < 30; piece++) {
        open_pair(small_frames(false), small_frames(true));
        p->client.end.piece = p->server.end.piece = piece;
        run();
        for (int i = 0; i < STEPS; i++) {
            step(i);
            run();
        }
        check_all();
        close_pair();
    }
}

static void test_random_pieces(void **state)
{
    (void)state;
    nv_seeded_rng rng;
    nv_seeded_rng_init(&rng, 4);
    for (int round = 0; round < 100; round++) {
        open_pair(small_frames(false), small_frames(true));
        for (int i = -1; i < STEPS; i++) {
            step(i);
            size_t still = 0;
            while (still < 8) {
                size_t moved = amqp_pair_move(&p->client.end, &p->server.end, nv_rng_u64(&rng.rng) % 97);
                amqp_end_serve(&p->server.end);
                moved += amqp_pair_move(&p->server.end, &p->client.end, nv_rng_u64(&rng.rng) % 97);
                amqp_end_serve(&p->client.end);
                still = moved > 0 ? 0 : still + 1;
            }
        }
        check_all();
        close_pair();
    }
}

/* Run until so many bytes have moved, then cut both ends. @return whether it got so far */
static bool cut_after(size_t bytes)
{
    size_t left = bytes;
    open_pair(small_frames(false), small_frames(true));
    for (int i = -1; i < STEPS && left > 0; i++) {
        if (i < 0 || p->client.opened) {
            step(i);
        }
        size_t moved;
        do {
            moved = amqp_pair_move(&p->client.end, &p->server.end, left);
            left -= moved;
            amqp_end_serve(&p->server.end);
            size_t back = amqp_pair_move(&p->server.end, &p->client.end, left);
            left -= back;
            moved += back;
            amqp_end_serve(&p->client.end);
        } while (moved > 0 && left > 0);
    }
    close_pair();
    return left == 0;
}

static void test_cut_at_each_byte(void **state)
{
    (void)state;
    size_t bytes = 1;
    while (cut_after(bytes)) {
        bytes += bytes < 1500 ? 1 : 7;
    }
    assert_true(bytes > 10000);
}

/* ---- order and coalescing --------------------------------------------------------------------------------------- */

static bool reply_at_once(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    uint32_t id;
    nv_amqp_link_accept_delivery(link, delivery->id);
    nv_err err =
        nv_amqp_link_send(p->server.links[1], &(nv_amqp_send){.settled = true, .body = nv_span_str("200")}, &id);
    assert_int_equal(err, NV_OK);
    return true;
}

/* conformance: amqp.md 19 */
static void test_settled_before_reply(void **state)
{
    (void)state;
    static const nv_amqp_link_ops ops = {.delivery = reply_at_once};
    open_links();
    p->server.links[0]->ops = &ops;
    client_sends(2, 10);
    (void)amqp_pair_move(&p->client.end, &p->server.end, SIZE_MAX);
    amqp_end_serve(&p->server.end);
    expect_said(&p->server, "disposition receiver first=0 last=0 settled accepted\n"
                            "transfer handle=1 id=0 tag=4 format=0 settled 3 bytes\n"
                            "disposition receiver first=1 last=1 settled accepted\n"
                            "transfer handle=1 id=1 tag=4 format=0 settled 3 bytes\n");
    close_pair();
}

static void keep_100(void)
{
    open_links();
    p->server.keep = true;
    p->server.quiet = true;
    client_sends(100, 10);
    run();
    assert_int_equal(p->server.kept, 100);
}

static void test_settlements_share_a_frame(void **state)
{
    (void)state;
    keep_100();
    nv_amqp_link *link = p->server.links[0];
    for (size_t i = 0; i < 40; i++) {
        nv_amqp_link_accept_delivery(link, p->server.ids[i]);
    }
    for (size_t i = 49; i >= 45; i--) {
        nv_amqp_link_settle(link, p->server.ids[i], &(nv_amqp_outcome){.kind = NV_AMQP_OUT_RELEASED});
    }
    nv_amqp_link_accept_delivery(link, p->server.ids[3]); /* once more */
    expect_said(&p->server, "disposition receiver first=0 last=39 settled accepted\n"
                            "disposition receiver first=45 last=49 settled released\n");
    nv_amqp_link_settle_oldest(link, 30, &(nv_amqp_outcome){.kind = NV_AMQP_OUT_ACCEPTED}); /* 40-44, 50-74 */
    expect_said(&p->server, "disposition receiver first=40 last=44 settled accepted\n"
                            "disposition receiver first=50 last=74 settled accepted\n"
                            "flow next-in=100 window=8192 next-out=0 handle=0 count=100 credit=75\n");
    nv_amqp_outcome rejected = {.kind = NV_AMQP_OUT_REJECTED,
                                .problem = {.condition = NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED}};
    nv_amqp_link_settle_oldest(link, 1000, &rejected);
    expect_said(&p->server,
                "disposition receiver first=75 last=99 settled rejected error=amqp:resource-limit-exceeded\n");
    close_pair();
}

/* One that stays unsettled for long does not keep room for all that come after it; and in quiet nothing is kept. */
static void test_one_stays(void **state)
{
    (void)state;
    nv_amqp_config config = amqp_server_config;
    config.idle_time_out_ms = 60000;
    open_pair(&config, NULL);
    run();
    (void)amqp_owner_attach(&p->client, "events", true, 0);
    run();
    p->server.keep = p->server.quiet = p->client.quiet = true;
    for (uint32_t i = 0; i < 500; i++) {
        client_sends(1, 1);
        run();
        if (i % 2) {
            nv_amqp_link_accept_delivery(p->server.links[0], i);
        }
        if (i >= 50 && i % 2 == 0) {
            nv_amqp_link_accept_delivery(p->server.links[0], i - 40);
        }
        run();
    }
    assert_int_equal(p->server.kept, 500);
    assert_int_equal(p->client.outcomes[NV_AMQP_OUT_ACCEPTED], 475);
    nv_amqp_link_settle_oldest(p->server.links[0], 100, &(nv_amqp_outcome){.kind = NV_AMQP_OUT_NONE});
    run();
    assert_int_equal(p->client.outcomes[NV_AMQP_OUT_NONE], 25);
    advance(30 * NV_US_PER_S);
    client_sends(1, 1);
    run();
    advance(59 * NV_US_PER_S); /* the ring is given back, and made again */
    client_sends(1, 1);
    run();
    assert_int_equal(p->server.kept, 502);
    close_pair();
}

/* A frame that was sent, even in part, is not changed any more. */
static void test_no_change_behind_the_back(void **state)
{
    (void)state;
    keep_100();
    nv_amqp_link_accept_delivery(p->server.links[0], 0);
    size_t len = nv_buf_len(&p->server.end.out);
    (void)amqp_pair_move(&p->server.end, &p->client.end, 1);
    nv_amqp_link_accept_delivery(p->server.links[0], 1);
    assert_int_equal(nv_buf_len(&p->server.end.out), 2 * len - 1);
    run();
    assert_int_equal(p->client.outcomes[NV_AMQP_OUT_ACCEPTED], 2);
    close_pair();
}

/* ---- credit ------------------------------------------------------------------------------------------------------ */

static void test_credit(void **state)
{
    (void)state;
    open_links();
    p->server.keep = true;
    client_sends(130, 1);
    run();
    nv_amqp_link *link = p->server.links[0];
    assert_int_equal(p->server.kept, 100);
    assert_int_equal(link->credit, 0);
    assert_int_equal(p->client.to_send, 30);
    nv_amqp_link_settle_oldest(link, 49, &(nv_amqp_outcome){.kind = NV_AMQP_OUT_ACCEPTED});
    run();
    assert_int_equal(p->server.kept, 100); /* less than half came free */
    nv_amqp_link_settle_oldest(link, 1, &(nv_amqp_outcome){.kind = NV_AMQP_OUT_ACCEPTED});
    run();
    assert_int_equal(p->server.kept, 130);
    nv_amqp_link_set_credit(link, 0);
    client_sends(1, 1); /* on its way when the credit is taken back: no fault of its */
    run();
    assert_int_equal(p->server.kept, 131);
    client_sends(1, 1);
    run();
    assert_int_equal(p->server.kept, 131);
    nv_amqp_link_set_credit(link, 200);
    run();
    assert_int_equal(p->server.kept, 132);
    close_pair();
}

/* Credit is taken back while the sender gives up more of it than is left: its count is believed. */
static void test_credit_taken_back(void **state)
{
    (void)state;
    open_links();
    nv_amqp_link *link = p->server.links[0];
    nv_amqp_link_set_credit(link, 10);
    amqp_script_put(&p->server.end.in, "flow next-in=0 handle=0 count=50 drain\n");
    amqp_end_serve(&p->server.end);
    assert_int_equal(link->credit, 0);
    nv_buf_clear(&p->server.end.out);
    nv_amqp_link_set_credit(link, 20);
    expect_said(&p->server, "flow next-in=0 window=8192 next-out=0 handle=0 count=50 credit=20\n");
    close_pair();
}

/* A peer that takes frames of any size gets them in pieces all the same. */
static void test_no_giant_frames(void **state)
{
    (void)state;
    nv_amqp_config config = amqp_client_config;
    config.max_frame_size = UINT32_MAX;
    open_pair(NULL, &config);
    run();
    (void)amqp_owner_attach(&p->client, "in", false, 1);
    run();
    p->server.to_send = 1;
    p->server.send_size = 70000;
    amqp_owner_send(&p->server, p->server.links[0]);
    expect_said(&p->server, "transfer handle=0 id=0 tag=4 format=0 more 65506 bytes\n"
                            "transfer handle=0 id=0 tag=4 format=0 4494 bytes\n");
    close_pair();
}

/* The owner's own tag, and none is sent when there is no room. */
static void test_tags(void **state)
{
    (void)state;
    open_links();
    nv_buf_clear(&p->server.end.out);
    uint32_t id;
    nv_amqp_send send = {.tag = nv_span_str("0123456789abcdef"), .format = 5, .body = nv_span_str("x")};
    assert_int_equal(nv_amqp_link_send(p->server.links[1], &send, &id), NV_OK);
    expect_said(&p->server, "transfer handle=1 id=0 tag=16 format=5 1 bytes\n");
    for (int i = 0; i < 9; i++) {
        assert_int_equal(nv_amqp_link_send(p->server.links[1], &send, &id), NV_OK);
    }
    assert_int_equal(nv_amqp_link_send(p->server.links[1], &send, &id), NV_E_AGAIN);
    close_pair();
}

/* What a server may say to our client that ends its SASL layer. */
static void test_client_sasl(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        const char *log;
    } rows[] = {
        {"hex 0000001802010000005340c00b01e00801a305504c41494e", ""},
        {"hex 0000001502010000005340c00801a305504c41494e", ""}, /* one mechanism alone */
        {"hex 0000001802010000005340c00b01e00801a30543524d2d35",
         "ended amqp:unauthorized-access: SASL: the peer does not offer the mechanism\n"},
        {"hex 0000001802010000005340c00b01e00801a305504c41494e\nhex 0000001102010000005344c00402500140",
         "ended amqp:unauthorized-access: SASL: the peer refused\n"},
        {"hex 0000000c02010000ffffffff", "ended amqp:decode-error: malformed SASL frame\n"},
        {"hex 0000001002010000005342c00301a000", "ended amqp:not-allowed: unexpected SASL frame\n"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_manual_clock_init(&p->clock, 0);
        amqp_owner_client(&p->client, &p->clock.clock, NULL);
        nv_buf_clear(&p->client.end.out);
        amqp_script_put(&p->client.end.in, "header sasl\n");
        amqp_script_put(&p->client.end.in, rows[i].in);
        amqp_end_serve(&p->client.end);
        assert_string_equal(amqp_owner_log(&p->client), rows[i].log);
        if (i < 2) {
            expect_said(&p->client, "sasl_init with PLAIN\n");
        }
        amqp_owner_deinit(&p->client);
    }
}

static void test_drain_of_a_slow_owner(void **state)
{
    (void)state;
    open_links();
    nv_amqp_link *link = p->server.links[1];
    p->server.stay_undrained = true;
    nv_buf_clear(&p->server.end.out);
    amqp_script_put(&p->server.end.in, "flow next-in=0 handle=1 count=0 credit=4 drain\n");
    amqp_end_serve(&p->server.end);
    assert_true(link->drain);
    expect_said(&p->server, "");
    nv_amqp_link_drained(link);
    expect_said(&p->server, "flow next-in=0 window=8192 next-out=0 handle=1 count=4 credit=0 drain\n");
    nv_amqp_link_drained(link); /* once is enough */
    expect_said(&p->server, "");
    close_pair();
}

/* ---- not now ------------------------------------------------------------------------------------------------------
 */

static void test_not_now(void **state)
{
    (void)state;
    static const size_t sizes[] = {10, 3000};
    for (size_t i = 0; i < NV_COUNT_OF(sizes); i++) {
        open_pair(small_frames(false), small_frames(true));
        run();
        (void)amqp_owner_attach(&p->client, "events", true, 0);
        run();
        p->server.not_now = 2;
        client_sends(3, sizes[i]);
        run();
        for (int round = 0; round < 2; round++) {
            assert_int_equal(p->server.deliveries, 0);
            assert_false(p->server.conn.session.reading);
            nv_amqp_conn_resume(&p->server.conn);
            run();
        }
        assert_int_equal(p->server.deliveries, 3);
        assert_int_equal(p->client.outcomes[NV_AMQP_OUT_ACCEPTED], 3);
        close_pair();
    }
}

static void test_budget(void **state)
{
    (void)state;
    nv_amqp_config config = amqp_server_config;
    config.max_unsettled_bytes = 1000;
    open_pair(&config, NULL);
    run();
    (void)amqp_owner_attach(&p->client, "events", true, 0);
    run();
    p->server.keep = true;
    client_sends(20, 300);
    run();
    assert_int_equal(p->server.kept, 4);
    assert_false(p->server.conn.session.reading);
    nv_amqp_link_accept_delivery(p->server.links[0], 0); /* 900 are allowed, and one more is read */
    run();
    assert_int_equal(p->server.kept, 5);
    nv_amqp_link_detach(p->server.links[0], NV_AMQP_ERR_DETACH_FORCED, "enough");
    run();
    assert_true(p->server.conn.session.reading);
    assert_null(p->client.links[0]);
    close_pair();
}

static void test_late_sasl(void **state)
{
    (void)state;
    open_pair(NULL, NULL);
    p->server.sasl_later = true;
    run();
    assert_false(p->server.conn.session.reading);
    assert_false(p->client.opened);
    nv_amqp_sasl_done(&p->server.conn, 0);
    run();
    assert_true(p->client.opened);
    nv_amqp_sasl_done(&p->server.conn, 1); /* too late */
    run();
    assert_false(p->server.ended);
    close_pair();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_random_pieces),
        cmocka_unit_test(test_cut_at_each_byte),
        cmocka_unit_test(test_settled_before_reply),
        cmocka_unit_test(test_settlements_share_a_frame),
        cmocka_unit_test(test_one_stays),
        cmocka_unit_test(test_no_change_behind_the_back),
        cmocka_unit_test(test_credit),
        cmocka_unit_test(test_credit_taken_back),
        cmocka_unit_test(test_no_giant_frames),
        cmocka_unit_test(test_tags),
        cmocka_unit_test(test_client_sasl),
        cmocka_unit_test(test_drain_of_a_slow_owner),
        cmocka_unit_test(test_not_now),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_late_sasl),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
