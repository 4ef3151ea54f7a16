/* Cloud-to-device messages over AMQP (amqp.md section 3.5): their form, outcomes, credit, and what a lost link does. */
#include "base/guid.h"
#include "store/record.h"
#include "support/amqp_device_rig.h"

#define BOUND "/devices/d1/messages/devicebound"

static void put(nv_buf *section, nv_system_property id, const char *name, nv_value value)
{
    nv_property property = {.id = (uint8_t)id, .name = nv_span_str(name), .value = value};
    assert_int_equal(nv_property_put(section, &property), NV_OK);
}

/* Into the queue of d1. */
static void queue(amqp_rig *rig, const char *body)
{
    fake_c2d_send(&rig->core.hub->loops[0], "d1", NV_ACK_NONE, NV_SPAN_EMPTY, nv_span_str(body));
}

static amqp_rig *open_with(const nv_limits *limits, uint32_t credit, uint8_t rcv_settle_mode, rig_link **out)
{
    amqp_rig *rig = rig_new(limits);
    rig_open(rig, &rig->a, "d1");
    *out = rig_attach_link(rig, &rig->a,
                           &(rig_attach){.address = BOUND, .credit = credit, .rcv_settle_mode = rcv_settle_mode});
    assert_true((*out)->attached && (*out)->link);
    return rig;
}

static void expect_bodies(const rig_link *l, size_t from, const char *const *bodies, size_t count)
{
    assert_int_equal(l->message_count, from + count);
    for (size_t i = 0; i < count; i++) {
        const char *data = strstr(rig_text(&l->messages[from + i]), "data:");
        assert_non_null(data);
        assert_string_equal(data + 5, bodies[i]);
    }
}

/* conformance: amqp.md 30 */
static void a_message_has_the_form_that_clients_need(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = open_with(&nv_limits_open, 10, 0, &l);
    nv_buf section;
    nv_buf_init(&section, 4096);
    put(&section, NV_PROP_TO, "", nv_value_string(nv_span_str("/devices/d1/messages/deviceBound")));
    put(&section, NV_PROP_MESSAGE_ID, "", nv_value_string(nv_span_str("m-1")));
    put(&section, NV_PROP_CORRELATION_ID, "", nv_value_string(nv_span_str("c-1")));
    put(&section, NV_PROP_USER_ID, "", (nv_value){.type = NV_VALUE_BINARY, .bytes = nv_span_str("me")});
    put(&section, NV_PROP_CONTENT_TYPE, "", nv_value_string(nv_span_str("text/plain")));
    put(&section, NV_PROP_SCHEMA, "", nv_value_string(nv_span_str("s1")));
    put(&section, NV_PROP_APPLICATION, "n", (nv_value){.type = NV_VALUE_LONG, .i = -7});
    put(&section, NV_PROP_APPLICATION, "b", (nv_value){.type = NV_VALUE_BOOL, .boolean = true});
    put(&section, NV_PROP_APPLICATION, "iothub-ack", nv_value_string(nv_span_str("forged")));
    fake_c2d_send(&rig->core.hub->loops[0], "d1", NV_ACK_FULL, nv_buf_span(&section), nv_span_str("hello"));
    rig_run(rig);
    assert_int_equal(l->message_count, 1);
    const rig_message *m = &l->messages[0];
    assert_false(m->settled);
    assert_int_equal(m->tag_len, 16);
    uint8_t tag[16];
    assert_true(nv_guid_to_net_bytes("00000000-0000-4000-8000-000000000001", tag));
    assert_memory_equal(m->tag, tag, 16);
    assert_string_equal(rig_text(m),
                        "annotations{x-opt-sequence-number=ulong:1;iothub-enqueuedtime=timestamp:1700000000000;"
                        "iothub-deliverycount=ubyte:1;x-opt-lock-token=string:00000000-0000-4000-8000-000000000001} "
                        "properties{message-id=string:m-1;user-id=me;to=string:/devices/d1/messages/deviceBound;"
                        "correlation-id=string:c-1;content-type=text/plain;} "
                        "application{n=string:-7;b=string:true;iothub-message-schema=string:s1;iothub-ack=string:full} "
                        "data:hello");
    rig_settle(l, 0, NV_AMQP_OUT_ACCEPTED);
    rig_run(rig);
    assert_int_equal(fake_c2d_completed(), 1);
    /* an expiry of its own is told */
    fake_c2d_send_until(&rig->core.hub->loops[0], "d1", FAKE_NOW_US + 5 * NV_US_PER_S, NV_SPAN_EMPTY, nv_span_str("x"));
    rig_run(rig);
    assert_non_null(strstr(rig_last_text(l), "absolute-expiry-time=1700000005000;"));
    nv_buf_deinit(&section);
    rig_free(rig);
}

/* conformance: amqp.md 31 */
static void outcomes_complete_reject_and_abandon(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = open_with(&nv_limits_open, 100, 0, &l);
    queue(rig, "accept");
    queue(rig, "reject");
    queue(rig, "release");
    rig_run(rig);
    expect_bodies(l, 0, (const char *const[]){"accept", "reject", "release"}, 3);
    rig_settle(l, 0, NV_AMQP_OUT_ACCEPTED);
    rig_settle(l, 1, NV_AMQP_OUT_REJECTED);
    rig_run(rig);
    assert_int_equal(fake_c2d_completed(), 1);
    assert_int_equal(fake_c2d_rejected(), 1);
    rig_settle(l, 2, NV_AMQP_OUT_RELEASED);
    rig_run(rig);
    expect_bodies(l, 3, (const char *const[]){"release"}, 1);
    assert_non_null(strstr(rig_last_text(l), "iothub-deliverycount=ubyte:2;"));
    rig_settle(l, 3, NV_AMQP_OUT_MODIFIED);
    rig_run(rig);
    assert_non_null(strstr(rig_last_text(l), "iothub-deliverycount=ubyte:3;"));
    rig_settle(l, 4, NV_AMQP_OUT_NONE); /* settled without a word: it must not be lost */
    rig_run(rig);
    assert_non_null(strstr(rig_last_text(l), "iothub-deliverycount=ubyte:4;"));
    rig_settle(l, 5, NV_AMQP_OUT_ACCEPTED);
    rig_run(rig);
    assert_int_equal(fake_c2d_completed(), 2);
    assert_int_equal(fake_c2d_count(), 0);
    rig_free(rig);
}

static bool is_settled_at_client(const rig_link *l)
{
    return rig_unsettled(l) == 0;
}

/* conformance: amqp.md 32 */
static void mode_second_is_answered_after_the_commit(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = open_with(&nv_limits_open, 10, 1, &l);
    assert_int_equal(l->rcv_settle_mode, 1);
    queue(rig, "one");
    rig_run(rig);
    fake_c2d_set_hold(true);
    rig_dispose(rig, l, 0, NV_AMQP_ACCEPTED);
    rig_dispose(rig, l, 0, NV_AMQP_ACCEPTED); /* said twice */
    rig_run(rig);
    assert_false(is_settled_at_client(l));
    assert_true(fake_c2d_settle_one());
    assert_false(fake_c2d_settle_one()); /* asked once */
    rig_run(rig);
    assert_true(is_settled_at_client(l));
    assert_int_equal(fake_c2d_completed(), 1);
    /* a lock that is lost: settled all the same */
    fake_c2d_set_hold(false);
    queue(rig, "two");
    rig_run(rig);
    fake_c2d_lose_locks();
    rig_run(rig);
    rig_dispose(rig, l, 1, NV_AMQP_ACCEPTED);
    rig_run(rig);
    assert_int_equal(fake_c2d_lock_lost(), 1);
    assert_int_equal(rig_unsettled(l), 1); /* the same message, handed out again */
    rig_dispose(rig, l, 2, NV_AMQP_RELEASED);
    rig_run(rig);
    assert_int_equal(l->message_count, 4);
    rig_free(rig);
}

/* What is handed out counts as a delivery, so no more is than the device has credit for. */
static void no_more_than_the_credit(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = open_with(&nv_limits_open, 0, 0, &l);
    for (int i = 0; i < 8; i++) {
        char body[8];
        (void)snprintf(body, sizeof(body), "%d", i);
        queue(rig, body);
    }
    rig_run(rig);
    assert_int_equal(l->message_count, 0);
    assert_int_equal(fake_c2d_locked(), 0); /* uamqp attaches with credit 0 */
    nv_amqp_link_set_credit(l->link, 3);
    rig_run(rig);
    expect_bodies(l, 0, (const char *const[]){"0", "1", "2"}, 3);
    assert_int_equal(fake_c2d_locked(), 3);
    rig_settle(l, 0, NV_AMQP_OUT_ACCEPTED);
    rig_settle(l, 1, NV_AMQP_OUT_ACCEPTED); /* now the client's engine gives two more */
    rig_run(rig);
    expect_bodies(l, 3, (const char *const[]){"3", "4"}, 2);
    assert_int_equal(fake_c2d_locked(), 3);
    rig_free(rig);
}

static void no_more_than_the_limit(void **state)
{
    (void)state;
    nv_limits limits = nv_limits_open;
    limits.c2d_inflight = 2;
    rig_link *l;
    amqp_rig *rig = open_with(&limits, 100, 0, &l);
    queue(rig, "0");
    queue(rig, "1");
    queue(rig, "2");
    rig_run(rig);
    assert_int_equal(l->message_count, 2);
    rig_settle(l, 1, NV_AMQP_OUT_ACCEPTED);
    rig_run(rig);
    expect_bodies(l, 0, (const char *const[]){"0", "1", "2"}, 3);
    rig_settle(l, 0, NV_AMQP_OUT_ACCEPTED);
    rig_settle(l, 2, NV_AMQP_OUT_ACCEPTED);
    rig_run(rig);
    assert_int_equal(fake_c2d_completed(), 3);
    rig_free(rig);
}

/* conformance: amqp.md 33 */
static void what_is_not_settled_comes_again(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = open_with(&nv_limits_open, 10, 0, &l);
    queue(rig, "one");
    queue(rig, "two");
    rig_run(rig);
    assert_int_equal(fake_c2d_locked(), 2);
    /* the lock is lost: handed out again, the first delivery's outcome means nothing */
    fake_c2d_lose_locks();
    rig_run(rig);
    assert_int_equal(l->message_count, 4);
    rig_settle(l, 0, NV_AMQP_OUT_ACCEPTED);
    rig_run(rig);
    assert_int_equal(fake_c2d_completed(), 0);
    assert_int_equal(fake_c2d_lock_lost(), 1);
    rig_settle(l, 2, NV_AMQP_OUT_ACCEPTED);
    rig_run(rig);
    assert_int_equal(fake_c2d_completed(), 1);
    /* the link ends */
    nv_amqp_link_detach(l->link, NV_AMQP_ERR_NONE, NULL);
    rig_run(rig);
    assert_int_equal(fake_c2d_locked(), 0);
    assert_int_equal(fake_c2d_count(), 1);
    rig_link *m = rig_receiver(rig, &rig->a, BOUND, 10);
    expect_bodies(m, 0, (const char *const[]){"two"}, 1);
    /* the connection ends */
    rig_cut(rig, &rig->a);
    assert_int_equal(fake_c2d_locked(), 0);
    rig_open(rig, &rig->b, "d1");
    rig_link *n = rig_receiver(rig, &rig->b, BOUND, 10);
    expect_bodies(n, 0, (const char *const[]){"two"}, 1);
    rig_free(rig);
}

/* A device that never settles: its messages come again and again, what is kept of them is bounded. */
static void a_device_that_never_settles(void **state)
{
    (void)state;
    nv_limits limits = nv_limits_open;
    limits.c2d_inflight = 4;
    rig_link *l;
    amqp_rig *rig = open_with(&limits, 100, 0, &l);
    for (int i = 0; i < 4; i++) {
        queue(rig, "x");
    }
    rig_run(rig);
    for (int i = 0; i < 10; i++) {
        fake_c2d_lose_locks();
        rig_run(rig);
    }
    assert_int_equal(l->message_count, 44);
    assert_int_equal(rig_unsettled(l), 4);  /* the older ones the hub has settled */
    rig_settle(l, 3, NV_AMQP_OUT_ACCEPTED); /* one of them: late */
    rig_settle(l, 43, NV_AMQP_OUT_ACCEPTED);
    rig_run(rig);
    assert_int_equal(fake_c2d_completed(), 1);
    rig_free(rig);
}

static void a_second_link_takes_the_place_of_the_first(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = open_with(&nv_limits_open, 10, 0, &l);
    queue(rig, "one");
    rig_run(rig);
    fake_c2d_set_hold(true);
    rig_settle(l, 0, NV_AMQP_OUT_ACCEPTED); /* on its way when the link goes */
    queue(rig, "two");
    rig_run(rig);
    rig_link *m = rig_receiver(rig, &rig->a, BOUND, 10);
    assert_true(l->detached);
    assert_string_equal(l->condition, "amqp:link:stolen");
    fake_c2d_set_hold(false);
    (void)fake_c2d_settle_one();
    rig_run(rig);
    assert_non_null(m->link);
    assert_non_null(strstr(rig_text(&m->messages[m->message_count - 1]), "data:two"));
    rig_settle(m, m->message_count - 1, NV_AMQP_OUT_ACCEPTED);
    rig_run(rig);
    assert_int_equal(fake_c2d_locked(), fake_c2d_count());
    rig_free(rig);
}

/* conformance: amqp.md 57 */
static void lost_while_a_settlement_is_in_flight(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = open_with(&nv_limits_open, 10, 1, &l);
    queue(rig, "one");
    queue(rig, "two");
    rig_run(rig);
    fake_c2d_set_hold(true);
    rig_dispose(rig, l, 0, NV_AMQP_ACCEPTED);
    rig_run(rig);
    amqp_end_cut(&rig->a.hub_end);
    rig_run(rig);
    assert_false(rig->a.hub_end.freed); /* it waits for the commit */
    fake_c2d_set_hold(false);
    assert_true(fake_c2d_settle_one());
    rig_run(rig);
    assert_true(rig->a.hub_end.freed);
    assert_int_equal(nv_devices_connected(rig->core.hub), 0);
    assert_int_equal(fake_c2d_locked(), 0);
    rig_free(rig);
}

/* Credit that comes in small pieces, drained in between. */
static void drained(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = open_with(&nv_limits_open, 0, 0, &l);
    queue(rig, "one");
    nv_amqp_link_set_credit(l->link, 1);
    rig_run(rig);
    expect_bodies(l, 0, (const char *const[]){"one"}, 1);
    queue(rig, "two");
    rig_run(rig);
    assert_int_equal(l->message_count, 1);
    assert_int_equal(fake_c2d_locked(), 1);
    rig_settle(l, 0, NV_AMQP_OUT_ACCEPTED);
    rig_run(rig);
    expect_bodies(l, 1, (const char *const[]){"two"}, 1);
    rig_free(rig);
}

static void a_message_that_does_not_fit_is_rejected(void **state)
{
    (void)state;
    rig_link *l;
    amqp_rig *rig = open_with(&nv_limits_open, 10, 0, &l);
    static char large[60000];
    memset(large, 'x', sizeof(large) - 1);
    queue(rig, large); /* several frames are fine */
    rig_run(rig);
    assert_int_equal(l->message_count, 1);
    rig_settle(l, 0, NV_AMQP_OUT_ACCEPTED);
    rig_hub_link(&rig->a, true)->peer_max_message = 1000; /* as if its ATTACH had said so */
    queue(rig, large);
    queue(rig, "small");
    rig_run(rig);
    expect_bodies(l, 1, (const char *const[]){"small"}, 1);
    rig_settle(l, 1, NV_AMQP_OUT_ACCEPTED);
    rig_run(rig);
    assert_int_equal(fake_c2d_completed(), 2);
    assert_int_equal(fake_c2d_rejected(), 1);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_has_the_form_that_clients_need),
        cmocka_unit_test(outcomes_complete_reject_and_abandon),
        cmocka_unit_test(mode_second_is_answered_after_the_commit),
        cmocka_unit_test(no_more_than_the_credit),
        cmocka_unit_test(no_more_than_the_limit),
        cmocka_unit_test(what_is_not_settled_comes_again),
        cmocka_unit_test(a_device_that_never_settles),
        cmocka_unit_test(a_second_link_takes_the_place_of_the_first),
        cmocka_unit_test(lost_while_a_settlement_is_in_flight),
        cmocka_unit_test(drained),
        cmocka_unit_test(a_message_that_does_not_fit_is_rejected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
