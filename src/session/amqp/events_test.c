/** Readers of the Event Hubs-compatible endpoint: positions, epochs, events, credit (amqp.md 5.5 to 5.7). */
#include "support/amqp_reader_rig.h"

#include "core/event_hub.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define READER "hub/ConsumerGroups/$Default/Partitions/0"

static void assert_body(const rig_delivery *delivery, const char *want)
{
    if (!nv_span_eq_str(delivery->message.body, want)) {
        fail_msg("\"%.*s\", wanted \"%s\"", NV_SPAN_ARG(delivery->message.body), want);
    }
}

/* ---- positions ------------------------------------------------------------------------------------------------ */

static uint64_t offset_of(const rig_delivery *delivery)
{
    nv_amqp_value value = rig_in_map(&delivery->message.message_annotations, "x-opt-offset", NV_AMQP_SYMBOL);
    uint64_t offset = 0;
    assert_true(nv_span_to_u64(value.bytes, &offset));
    return offset;
}

static int64_t number_of(const rig_delivery *delivery, const char *key)
{
    nv_amqp_value value = rig_in_map(&delivery->message.message_annotations, key, NV_AMQP_SYMBOL);
    return value.i;
}

static void fill_partition(void)
{
    for (unsigned i = 0; i < 20; i++) {
        rig_add_events(&rig_on, 0, "d", i, 1);
        nv_manual_clock_advance(&rig_on.clock, 1000000);
    }
}

static void assert_starts(rig_client *c, const char *filter, bool by_code, int want)
{
    rig_link *link =
        rig_attach_link(c, &(rig_attach){.address = READER, .filter = filter, .filter_by_code = by_code, .credit = 1});
    assert_true(link->attached && !link->refused && link->has_filter == (filter != NULL));
    char body[16];
    (void)snprintf(body, sizeof(body), "d-%d", want);
    RIG_UNTIL(c, link->count >= 1);
    assert_body(&link->deliveries[0], body);
    rig_detach(c, link);
}

/* conformance: amqp.md 48, 49 */
static void positions(void **state)
{
    (void)state;
    fill_partition();
    rig_client *c = rig_connect_service();
    rig_link *all = rig_attach_reader(c, READER, NULL, 100);
    RIG_UNTIL(c, all->count == 20);
    rig_detach(c, all);
    uint64_t seventh = offset_of(&all->deliveries[7]);
    int64_t time = number_of(&all->deliveries[7], "x-opt-enqueued-time");
    assert_starts(c, NULL, false, 0);
    assert_starts(c, "amqp.annotation.x-opt-offset > '-1'", false, 0);
    assert_starts(c, "amqp.annotation.x-opt-sequence-number > '7'", true, 8);
    assert_starts(c, "amqp.annotation.x-opt-sequence-number >= '7'", false, 7);
    assert_starts(c, "amqp.annotation.x-opt-sequence-number > 7", false, 8);
    const struct {
        const char *comparison;
        const char *quote;
        int64_t value;
        int want;
    } rows[] = {
        {"x-opt-offset >", "'", (int64_t)seventh, 8},         {"x-opt-offset >=", "'", (int64_t)seventh, 7},
        {"x-opt-offset >", "'", (int64_t)seventh - 1, 7},     {"x-opt-enqueued-time >", "'", (int64_t)time, 8},
        {"x-opt-enqueued-time >=", "'", (int64_t)time, 7},    {"x-opt-enqueuedtimeutc >", "", (int64_t)time + 999, 8},
        {"x-opt-enqueued-time >", "'", (int64_t)time - 1, 7}, {"x-opt-enqueued-time >", "'", (int64_t)0, 0},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char text[100];
        (void)snprintf(text, sizeof(text), "amqp.annotation.%s %s%lld%s", rows[i].comparison, rows[i].quote,
                       (long long)rows[i].value, rows[i].quote);
        assert_starts(c, text, i % 2 == 0, rows[i].want);
    }
    rig_disconnect(c);
}

/** Only what comes later, and that at once. conformance: amqp.md 48 */
static void latest(void **state)
{
    (void)state;
    fill_partition();
    rig_client *c = rig_connect_service();
    rig_link *link = rig_attach_reader(c, READER, "amqp.annotation.x-opt-offset > '@latest'", 100);
    rig_link *by_number = rig_attach_reader(c, READER, "amqp.annotation.x-opt-sequence-number > '19'", 100);
    rig_rest(c);
    assert_int_equal(link->count, 0);
    rig_add_events(&rig_on, 0, "e", 0, 3);
    rig_add_events(&rig_on, 1, "other", 0, 3);
    RIG_UNTIL(c, link->count == 3 && by_number->count == 3);
    assert_body(&link->deliveries[0], "e-0");
    assert_body(&by_number->deliveries[0], "e-0");
    assert_int_equal(number_of(&link->deliveries[2], "x-opt-sequence-number"), 22);
    rig_rest(c);
    assert_int_equal(link->count, 3);
    rig_disconnect(c);
}

static void wrong_positions(void **state)
{
    (void)state;
    fill_partition();
    rig_client *c = rig_connect_service();
    static const struct {
        const char *filter;
        const char *says;
    } rows[] = {
        {"nonsense", "near \"nonsense\""},
        {"amqp.annotation.x-opt-offset > 'x'", "an offset is a number"},
        {"amqp.annotation.x-opt-sequence-number > '20'",
         "The supplied sequence number '20' is invalid. The last sequence number in the system is '19'"},
        {"amqp.annotation.x-opt-offset > '99999999'", "The supplied offset '99999999' is invalid"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        rig_link *link = rig_attach_reader(c, READER, rows[i].filter, 5);
        rig_assert_detached(link, "com.microsoft:argument-error", rows[i].says);
    }
    uint8_t memory[100];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    size_t mark = nv_amqp_begin_map(&w);
    nv_amqp_put_symbol_of(&w, "com.microsoft:epoch");
    nv_amqp_put_string_of(&w, "one");
    nv_amqp_end_map(&w, mark, 2);
    rig_link *link =
        rig_attach_link(c, &(rig_attach){.address = READER, .properties = nv_writer_span(&w), .credit = 1});
    rig_assert_detached(link, "com.microsoft:argument-error", "com.microsoft:epoch");
    assert_false(c->ended);
    rig_disconnect(c);
}

/* ---- receivers ------------------------------------------------------------------------------------------------ */

typedef enum encoding { LONG, INT, SMALL } encoding;

static rig_link *attach_epoch(rig_client *c, int64_t epoch, encoding how)
{
    static uint8_t memory[200];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    size_t mark = nv_amqp_begin_map(&w);
    nv_amqp_put_symbol_of(&w, "com.microsoft:epoch");
    if (how == LONG) {
        nv_write_u8(&w, 0x81);
        nv_write_u64_be(&w, (uint64_t)epoch);
    } else if (how == INT) {
        nv_amqp_put_int(&w, (int32_t)epoch);
    } else {
        nv_write_u8(&w, 0x55);
        nv_write_u8(&w, (uint8_t)epoch);
    }
    nv_amqp_put_symbol_of(&w, "com.microsoft:receiver-name");
    nv_amqp_put_string_of(&w, "reader");
    nv_amqp_end_map(&w, mark, 4);
    return rig_attach_link(c, &(rig_attach){.address = READER, .properties = nv_writer_span(&w), .credit = 5});
}

/* conformance: amqp.md 50 */
static void epochs(void **state)
{
    (void)state;
    rig_client *c = rig_connect_service();
    rig_client *d = rig_connect_service();
    rig_link *plain = rig_attach_reader(c, READER, NULL, 5);
    rig_link *one = attach_epoch(c, 1, SMALL);
    assert_false(one->detached);
    RIG_UNTIL(c, plain->detached);
    rig_assert_detached(plain, "amqp:link:stolen", "took this partition");
    rig_link *two = attach_epoch(d, 2, LONG);
    assert_false(two->detached);
    RIG_UNTIL(c, one->detached);
    rig_assert_detached(one, "amqp:link:stolen", "took this partition");
    one = attach_epoch(c, 1, INT);
    rig_assert_detached(one, "amqp:link:stolen", "higher epoch");
    plain = rig_attach_reader(c, READER, NULL, 5);
    rig_assert_detached(plain, "amqp:link:stolen", "higher epoch");
    /* another partition is another matter, and so is this one when its owner is gone */
    assert_false(rig_attach_reader(c, "hub/ConsumerGroups/$Default/Partitions/1", NULL, 5)->detached);
    rig_detach(d, two);
    rig_rest(d);
    plain = rig_attach_reader(c, READER, NULL, 5);
    assert_false(plain->detached);
    rig_disconnect(d);
    rig_disconnect(c);
}

static void sixth_reader(void **state)
{
    (void)state;
    rig_client *c = rig_connect_service();
    rig_link *links[5];
    for (size_t i = 0; i < 5; i++) {
        links[i] = rig_attach_reader(c, READER, NULL, 5);
        assert_false(links[i]->detached);
    }
    rig_link *sixth = rig_attach_reader(c, READER, NULL, 5);
    rig_assert_detached(sixth, "amqp:resource-limit-exceeded", "as many receivers as are allowed");
    rig_detach(c, links[2]);
    rig_rest(c);
    assert_false(rig_attach_reader(c, READER, NULL, 5)->detached);
    rig_disconnect(c); /* its readers are given up with it */
    c = rig_connect_service();
    for (size_t i = 0; i < 5; i++) {
        assert_false(rig_attach_reader(c, READER, NULL, 5)->detached);
    }
    rig_disconnect(c);
}

static void on_changed(nv_group_change *change)
{
    *(bool *)change->arg = true;
}

static void change_group(const char *name, bool create)
{
    bool done = false;
    nv_group_change change = {.name = nv_span_str(name), .create = create, .done = on_changed, .arg = &done};
    nv_group_change_do(&rig_on.hub->loops[0], &change);
    nv_rig_hub_run(&rig_on, &done);
    assert_int_equal(change.error, NV_HUB_ERROR_NONE);
}

static void group_that_goes(void **state)
{
    (void)state;
    change_group("mine", true);
    rig_client *c = rig_connect_service();
    rig_link *link = rig_attach_reader(c, "hub/ConsumerGroups/MINE/Partitions/0", NULL, 5);
    assert_false(link->detached);
    change_group("mine", false);
    RIG_UNTIL(c, link->detached);
    rig_assert_detached(link, "amqp:not-found", "consumer group was deleted");
    rig_disconnect(c);
}

/** The connection goes while readers are being opened, read, and closed. */
static void connection_lost(void **state)
{
    (void)state;
    fill_partition();
    for (int i = 0; i < 4; i++) {
        rig_client *c = rig_connect_service();
        rig_link *link = rig_attach_begin(c, &(rig_attach){.address = READER, .credit = 3});
        if (i == 1) {
            RIG_UNTIL(c, link->attached);
        } else if (i == 2) {
            RIG_UNTIL(c, link->count > 0);
        } else if (i == 3) {
            RIG_UNTIL(c, link->attached);
            nv_amqp_link_detach(link->link, NV_AMQP_ERR_NONE, NULL);
        }
        rig_disconnect(c);
    }
}

/* ---- events --------------------------------------------------------------------------------------------------- */

/* conformance: amqp.md 51, 55 */
static void events_in_order(void **state)
{
    (void)state;
    rig_add_events(&rig_on, 0, "d", 0, 300);
    rig_add_events(&rig_on, 1, "other", 0, 5);
    rig_add_events(&rig_on, 0, "e", 300, 300);
    rig_client *c = rig_connect_service();
    rig_client *d = rig_connect_service();
    rig_link *link = rig_attach_link(c, &(rig_attach){.name = "reader", .address = READER, .credit = 1000});
    rig_link *same_name = rig_attach_link(d, &(rig_attach){.name = "reader", .address = READER, .credit = 1000});
    RIG_UNTIL(c, link->count == 600);
    RIG_UNTIL(d, same_name->count == 600);
    uint64_t offset = 0;
    for (size_t i = 0; i < 600; i++) {
        const rig_delivery *delivery = &link->deliveries[i];
        char body[32];
        (void)snprintf(body, sizeof(body), "%s-%zu", i < 300 ? "d" : "e", i);
        assert_body(delivery, body);
        assert_int_equal(number_of(delivery, "x-opt-sequence-number"), (int64_t)i);
        assert_true(i == 0 || offset_of(delivery) > offset);
        offset = offset_of(delivery);
        nv_amqp_value device =
            rig_in_map(&delivery->message.message_annotations, "iothub-connection-device-id", NV_AMQP_SYMBOL);
        rig_assert_text(&device, NV_AMQP_STRING, i < 300 ? "d" : "e");
        assert_false(delivery->settled);
        assert_int_equal(delivery->message.delivery_annotations.type, NV_AMQP_NULL);
    }
    rig_detach(c, link); /* the same name again, behind the event that was read last */
    char filter[100];
    (void)snprintf(filter, sizeof(filter), "amqp.annotation.x-opt-offset > '%llu'",
                   (unsigned long long)offset_of(&link->deliveries[597]));
    link = rig_attach_link(c, &(rig_attach){.name = "reader", .address = READER, .filter = filter, .credit = 10});
    RIG_UNTIL(c, link->count == 2);
    assert_body(&link->deliveries[0], "e-598");
    rig_disconnect(c);
    rig_disconnect(d);
}

/* conformance: amqp.md 52 */
static void runtime_metrics(void **state)
{
    (void)state;
    rig_add_events(&rig_on, 0, "d", 0, 10);
    rig_client *c = rig_connect_service();
    for (int as_array = 0; as_array < 2; as_array++) {
        uint8_t memory[200];
        nv_writer w = nv_writer_of(memory, sizeof(memory));
        nv_span names[] = {nv_span_str("com.microsoft:georeplication"),
                           nv_span_str("com.microsoft:enable-receiver-runtime-metric")};
        if (as_array) {
            nv_amqp_put_texts(&w, NV_AMQP_SYMBOL, names, 2);
        } else {
            nv_amqp_put_symbol(&w, names[1]);
        }
        rig_link *link =
            rig_attach_link(c, &(rig_attach){.address = READER, .desired = nv_writer_span(&w), .credit = 20});
        RIG_UNTIL(c, link->count == 10);
        const nv_amqp_value *map = &link->deliveries[3].message.delivery_annotations;
        nv_amqp_value value = rig_in_map(map, "last_enqueued_sequence_number", NV_AMQP_SYMBOL);
        assert_true(value.type == NV_AMQP_LONG && value.i == 9);
        value = rig_in_map(map, "last_enqueued_offset", NV_AMQP_SYMBOL);
        assert_int_equal(value.type, NV_AMQP_STRING);
        uint64_t offset;
        assert_true(nv_span_to_u64(value.bytes, &offset) && offset == offset_of(&link->deliveries[9]));
        value = rig_in_map(map, "last_enqueued_time_utc", NV_AMQP_SYMBOL);
        assert_int_equal(value.type, NV_AMQP_TIMESTAMP);
        value = rig_in_map(map, "runtime_info_retrieval_time_utc", NV_AMQP_SYMBOL);
        assert_true(value.type == NV_AMQP_TIMESTAMP && value.i == nv_wall_us(&rig_on.clock.clock) / NV_US_PER_MS);
        rig_detach(c, link);
    }
    rig_disconnect(c);
}

/** A FLOW that allows @p credit deliveries in all, as none is settled: so many come, and no more. */
static void flow(rig_client *c, rig_link *link, uint32_t credit, size_t want)
{
    rig_credit(c, link, credit);
    RIG_UNTIL(c, link->count >= want);
    rig_rest(c);
    assert_int_equal(link->count, want);
}

/* conformance: amqp.md 53 */
static void credit_is_kept(void **state)
{
    (void)state;
    rig_add_events(&rig_on, 0, "d", 0, 50);
    rig_client *c = rig_connect_service();
    rig_link *link = rig_attach_link(c, &(rig_attach){.address = READER, .keep = true}); /* no more by itself */
    flow(c, link, 0, 0);
    flow(c, link, 3, 3);
    flow(c, link, 7, 7);
    flow(c, link, 0, 7); /* stop */
    rig_add_events(&rig_on, 0, "d", 50, 10);
    flow(c, link, 0, 7);
    flow(c, link, 20, 20);
    for (size_t i = 0; i < link->count; i++) {
        assert_int_equal(number_of(&link->deliveries[i], "x-opt-sequence-number"), (int64_t)i);
    }
    rig_disconnect(c);
}

/** A backlog larger than the output goes to both readers of a connection, turn by turn. */
static void readers_take_turns(void **state)
{
    (void)state;
    rig_add_events(&rig_on, 0, "d", 0, 3000);
    rig_client *c = rig_connect_service();
    c->line.window = 32u << 10; /* read at most so much a turn */
    const rig_attach how = {.address = READER, .credit = 1, .keep = true};
    rig_link *one = rig_attach_link(c, &how);
    rig_link *two = rig_attach_link(c, &how);
    RIG_UNTIL(c, one->count == 1 && two->count == 1); /* both have what they need from the log */
    nv_amqp_link_set_credit(one->link, 4000);
    nv_amqp_link_set_credit(two->link, 4000);
    RIG_UNTIL(c, one->count == 3000 && two->count == 3000);
    size_t ones = 0;
    size_t twos = 0;
    while (ones < 3000 && twos < 3000) { /* as they came on the wire */
        if (one->deliveries[ones].when < two->deliveries[twos].when) {
            ones++;
        } else {
            twos++;
        }
        assert_true(ones < twos + 1000 && twos < ones + 1000);
    }
    assert_true(c->line.most_queued < (1u << 20)); /* what waits for the peer is bounded, whatever the credit */
    rig_disconnect(c);
}

/** A receiver in mode second is answered, a sender's mode is kept. */
static void settle_modes(void **state)
{
    (void)state;
    rig_add_events(&rig_on, 0, "d", 0, 3);
    rig_client *c = rig_connect_service();
    rig_link *second =
        rig_attach_link(c, &(rig_attach){.address = READER, .credit = 10, .rcv_settle_mode = 1, .keep = true});
    RIG_UNTIL(c, second->count == 3);
    assert_int_equal(rig_unsettled(second), 3);
    rig_accept_second(c, second, &second->deliveries[1]);
    RIG_UNTIL(c, rig_unsettled(second) == 2);
    rig_detach(c, second);
    rig_link *settled =
        rig_attach_link(c, &(rig_attach){.address = READER, .credit = 10, .snd_settle_mode = 1, .keep = true});
    RIG_UNTIL(c, settled->count == 3);
    assert_true(settled->deliveries[0].settled);
    assert_int_equal(rig_unsettled(settled), 0);
    rig_disconnect(c);
}

/** Does the hub owe an answer to a drain? */
static bool owes_flow(const rig_client *c)
{
    nv_amqp_conn *conn = (nv_amqp_conn *)(void *)c->line.session;
    nv_amqp_session *session = nv_container_of(conn->sessions.next, nv_amqp_session, _node);
    return nv_container_of(session->links.prev, nv_amqp_link, _node)->drain;
}

/** What there is comes first, then the rest of the credit goes back; without anything to come it goes at once. */
static void drains(void **state)
{
    (void)state;
    static const char *const filters[] = {NULL, "amqp.annotation.x-opt-offset > '@latest'",
                                          "amqp.annotation.x-opt-sequence-number > '21'",
                                          "amqp.annotation.x-opt-enqueued-time > '4000000000000'"};
    fill_partition();
    rig_client *c = rig_connect_service();
    for (size_t i = 0; i < NV_COUNT_OF(filters); i++) {
        rig_link *link =
            rig_attach_link(c, &(rig_attach){.address = READER, .filter = filters[i], .credit = 100, .keep = true});
        rig_drain(c, link);
        RIG_UNTIL(c, link->link->credit == 0);
        assert_int_equal(link->count, i == 0 ? 20 : 0);
        rig_add_events(&rig_on, 0, "late", (unsigned)i, 1);
        rig_rest(c);
        assert_int_equal(link->count, i == 0 ? 20 : 0);
        rig_detach(c, link);
    }
    rig_link *few = rig_attach_link(c, &(rig_attach){.address = READER, .credit = 5, .keep = true});
    rig_drain(c, few); /* credit that is used up is drained, whatever there is to come */
    RIG_UNTIL(c, few->count == 5);
    assert_false(owes_flow(c));
    rig_disconnect(c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_set_up, rig_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(positions),          TEST(latest),          TEST(wrong_positions), TEST(epochs),
        TEST(sixth_reader),       TEST(group_that_goes), TEST(connection_lost), TEST(events_in_order),
        TEST(runtime_metrics),    TEST(credit_is_kept),  TEST(settle_modes),    TEST(drains),
        TEST(readers_take_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
