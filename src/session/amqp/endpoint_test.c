/** The Event Hubs-compatible endpoint over AMQP: redirect, addresses, rights, $management (amqp.md 5.1 to 5.4). */
#include "support/amqp_reader_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define READER "hub/ConsumerGroups/$Default/Partitions/0"

/* ---- redirect and addresses ----------------------------------------------------------------------------------- */

/* The DETACH comes some time behind the ATTACH: rhea's users listen once it is attached, and would miss it. */
static rig_link *redirected(rig_client *c, const rig_attach *how)
{
    rig_link *link = rig_attach_begin(c, how);
    RIG_UNTIL(c, link->attached);
    rig_rest(c);
    assert_false(link->refused || link->detached); /* pyamqp would detach what has no termini itself */
    assert_true(!how->sender || link->link->credit == 0);
    rig_advance(c, 50 * NV_US_PER_MS);
    RIG_UNTIL(c, link->detached);
    rig_assert_detached(link, "amqp:link:redirect", "Event Hubs-compatible endpoint");
    return link;
}

/* With testing.clock: manual nobody moves the clock for a redirect. */
static void redirects_at_once_where_time_stands(void **state)
{
    (void)state;
    rig_on.hub->time_stands = true;
    rig_client *c = rig_connect_service();
    rig_link *link = rig_attach_begin(c, &(rig_attach){.address = "/messages/events", .credit = 1});
    RIG_UNTIL(c, link->detached);
    rig_assert_detached(link, "amqp:link:redirect", "Event Hubs-compatible endpoint");
    rig_disconnect(c);
}

/* conformance: amqp.md 42, 43 */
static void redirects(void **state)
{
    (void)state;
    static const struct {
        const char *host; /* dialled */
        bool sender;
        const char *address;
        const char *want_host;
        const char *want_address;
    } rows[] = {
        {NV_RIG_HOST, false, "/messages/events/ConsumerGroups/$Default/Partitions/0", NV_RIG_HOST,
         "amqps://hub.test:5671/hub/ConsumerGroups/$Default/Partitions/0"},
        {NV_RIG_HOST, true, "/messages/events/$management", NV_RIG_HOST, "amqps://hub.test:5671/hub/$management"},
        {NV_RIG_HOST, false, "amqps://hub.test/messages/events/$management", NV_RIG_HOST,
         "amqps://hub.test:5671/hub/$management"},
        {NV_RIG_HOST, false, "messages/events", NV_RIG_HOST, "amqps://hub.test:5671/hub"},
        {NV_RIG_HOST, false, "messages/events/", NV_RIG_HOST,
         "amqps://hub.test:5671/hub/"}, /* Go cuts the last byte off */
        {"HUB.test:5671", false, "/messages/events/", "HUB.test", NULL},
        {"127.0.0.1", false, "/messages/events", "127.0.0.1", "amqps://127.0.0.1:5671/hub"},
        {"[::1]:5671", false, "/messages/events", "::1", "amqps://[::1]:5671/hub"},
        {"::1", false, "/messages/events", "::1", "amqps://[::1]:5671/hub"},
        {"gateway.example", false, "/messages/events", NV_RIG_HOST, "amqps://hub.test:5671/hub"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        rig_client *c = rig_connect(&rig_on, "service", rows[i].host);
        rig_link *link = redirected(
            c, &(rig_attach){.address = rows[i].address, .sender = rows[i].sender, .credit = rows[i].sender ? 0 : 10});
        nv_reader r = nv_reader_of(nv_span_of(link->info, link->info_len));
        nv_amqp_value info;
        assert_true(nv_amqp_read(&r, &info));
        assert_int_equal(info.count, 8);
        nv_amqp_value value = rig_in_map(&info, "hostname", NV_AMQP_SYMBOL);
        rig_assert_text(&value, NV_AMQP_STRING, rows[i].want_host);
        value = rig_in_map(&info, "network-host", NV_AMQP_SYMBOL);
        rig_assert_text(&value, NV_AMQP_STRING, rows[i].want_host);
        value = rig_in_map(&info, "port", NV_AMQP_SYMBOL);
        assert_int_equal(value.type, NV_AMQP_INT);
        assert_int_equal(value.i, 5671);
        value = rig_in_map(&info, "address", NV_AMQP_SYMBOL);
        if (rows[i].want_address) {
            rig_assert_text(&value, NV_AMQP_STRING, rows[i].want_address);
        }
        assert_false(c->ended);
        rig_disconnect(c);
    }
}

/** What a redirect names is an address of a reader, as it stands there. conformance: amqp.md 44 */
static void redirected_address_attaches(void **state)
{
    (void)state;
    rig_client *c = rig_connect_service();
    rig_link *link =
        redirected(c, &(rig_attach){.address = "/messages/events/ConsumerGroups/$Default/Partitions/1", .credit = 10});
    nv_reader r = nv_reader_of(nv_span_of(link->info, link->info_len));
    nv_amqp_value info;
    assert_true(nv_amqp_read(&r, &info));
    nv_amqp_value value = rig_in_map(&info, "address", NV_AMQP_SYMBOL);
    char address[200];
    (void)snprintf(address, sizeof(address), "%.*s", NV_SPAN_ARG(value.bytes));
    link = rig_attach_reader(c, address, NULL, 10);
    assert_true(link->attached && !link->refused && !link->detached);
    rig_disconnect(c);
}

/* The peer, or its connection, goes before the DETACH is due. */
static void redirect_that_nobody_awaits(void **state)
{
    (void)state;
    for (int cut = 0; cut < 2; cut++) {
        rig_client *c = rig_connect_service();
        rig_client *other = rig_connect_service();
        rig_link *link = rig_attach_begin(c, &(rig_attach){.address = "/messages/events", .credit = 1});
        RIG_UNTIL(c, link->attached);
        if (cut) {
            rig_disconnect(c);
        } else {
            rig_detach(c, link);
        }
        rig_advance(other, NV_US_PER_S);
        if (!cut) {
            assert_false(c->ended);
            rig_disconnect(c);
        }
        rig_disconnect(other);
    }
}

/* conformance: amqp.md 54 */
static void addresses(void **state)
{
    (void)state;
    static const struct {
        const char *address;
        bool sender;
        const char *symbol; /* NULL: it attaches */
        const char *says;
    } rows[] = {
        {"hub/ConsumerGroups/$Default/Partitions/0", false, NULL, NULL},
        {"HUB/consumergroups/$default/partitions/3", false, NULL, NULL},
        {"/hub/ConsumerGroups/$Default/Partitions/1", false, NULL, NULL},
        {"amqps://hub.test:5671/hub/ConsumerGroups/%24Default/Partitions/2", false, NULL, NULL},
        {"nohub/ConsumerGroups/$Default/Partitions/0", false, "amqp:not-found", "no such event hub"},
        {"hub/ConsumerGroups/mine/Partitions/0", false, "amqp:not-found", "no such consumer group"},
        {"hub/ConsumerGroups/$Default/Partitions/4", false, "amqp:not-found", "they are 0 to 3"},
        {"hub/ConsumerGroups/$Default/Partitions/-1", false, "amqp:not-found", "they are 0 to 3"},
        {"hub/ConsumerGroups/$Default/Partitions/x", false, "amqp:not-found", "they are 0 to 3"},
        {"hub/ConsumerGroups/$Default/Partitions/99999999999999999999", false, "amqp:not-found", "0 to 3"},
        {"$management", false, NULL, NULL},
        {"hub/$management", true, NULL, NULL},
        {"nohub/$management", true, "amqp:not-found", "no such event hub"},
        /* the endpoint is for reading */
        {"hub", true, "amqp:unauthorized-access", "this endpoint is for reading"},
        {"hub/Partitions/0", true, "amqp:unauthorized-access", "this endpoint is for reading"},
        {"hub/Publishers/p", true, "amqp:unauthorized-access", "send as a device"},
        {"nohub", true, "amqp:not-found", "no such event hub"},
        {"/messages/serviceBound/filenotifications", false, NULL, NULL},
    };
    rig_client *c = rig_connect_service();
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        rig_link *link = rig_attach_link(
            c, &(rig_attach){.address = rows[i].address, .sender = rows[i].sender, .credit = rows[i].sender ? 0 : 5});
        if (rows[i].symbol) {
            rig_assert_detached(link, rows[i].symbol, rows[i].says);
            assert_true(link->refused);
        } else {
            assert_true(link->attached && !link->refused && !link->detached);
        }
        assert_false(c->ended);
    }
    rig_disconnect(c);
}

static void rights(void **state)
{
    (void)state;
    static const char *const addresses_of_services[] = {READER, "$management", "/messages/events",
                                                        "/messages/serviceBound/feedback"};
    rig_client *c = rig_connect(&rig_on, "device", NV_RIG_HOST);
    for (size_t i = 0; i < NV_COUNT_OF(addresses_of_services); i++) {
        rig_link *link = rig_attach_reader(c, addresses_of_services[i], NULL, 5);
        rig_assert_detached(link, "amqp:unauthorized-access", "");
    }
    rig_disconnect(c);
}

/* ---- $management ---------------------------------------------------------------------------------------------- */

typedef struct question {
    const char *operation;
    const char *type;
    const char *name;
    const char *partition;
    const char *reply_to;
    bool odd_token; /* as pyamqp writes it: a described value with a binary descriptor */
    bool string_id; /* else the ulong 0 */
    bool without_body;
} question;

static void put_entry(nv_writer *w, const char *key, const char *text, uint32_t *count)
{
    if (text) {
        nv_amqp_put_string_of(w, key);
        nv_amqp_put_string_of(w, text);
        *count += 2;
    }
}

static nv_span write_question(uint8_t *memory, size_t size, const question *q)
{
    uint8_t id[32];
    uint8_t reply_to[64];
    nv_writer i = nv_writer_of(id, sizeof(id));
    if (q->string_id) {
        nv_amqp_put_string_of(&i, "request-1");
    } else {
        nv_amqp_put_ulong(&i, 0);
    }
    nv_amqp_properties properties = {.message_id = nv_writer_span(&i)};
    nv_writer to = nv_writer_of(reply_to, sizeof(reply_to));
    if (q->reply_to) {
        nv_amqp_put_string_of(&to, q->reply_to);
        properties.reply_to = nv_writer_span(&to);
    }
    nv_writer w = nv_writer_of(memory, size);
    nv_amqp_put_properties_section(&w, &properties);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    uint32_t count = 0;
    if (q->odd_token) {
        nv_amqp_put_string_of(&w, "security_token");
        nv_write_u8(&w, 0);
        nv_amqp_put_binary(&w, nv_span_str("SECURITY_TOKEN"));
        nv_amqp_put_string_of(&w, "SharedAccessSignature sr=...");
        count += 2;
    }
    put_entry(&w, "operation", q->operation, &count);
    put_entry(&w, "type", q->type, &count);
    put_entry(&w, "name", q->name, &count);
    put_entry(&w, "partition", q->partition, &count);
    nv_amqp_end_map(&w, mark, count);
    if (!q->without_body) {
        nv_amqp_put_value_head(&w);
        nv_amqp_put_null(&w);
    }
    assert_int_equal(w.err, NV_OK);
    return nv_writer_span(&w);
}

static const rig_delivery *ask(rig_client *c, rig_link *requests, rig_link *answers, const question *q)
{
    uint8_t memory[1024];
    size_t before = answers->count;
    const rig_outcome *outcome = rig_send_wait(c, requests, write_question(memory, sizeof(memory), q));
    assert_int_equal(outcome->kind, NV_AMQP_OUT_ACCEPTED);
    RIG_UNTIL(c, answers->count > before);
    assert_true(outcome->when < answers->deliveries[before].when); /* conformance: amqp.md 19 */
    return &answers->deliveries[before];
}

static void assert_status(const rig_delivery *answer, int want, const char *condition)
{
    const nv_amqp_value *map = &answer->message.application_properties;
    nv_amqp_value value = rig_in_map(map, "status-code", NV_AMQP_STRING);
    assert_int_equal(value.type, NV_AMQP_INT);
    assert_int_equal(value.i, want);
    value = rig_in_map(map, "statusCode", NV_AMQP_STRING);
    assert_true(value.type == NV_AMQP_INT && value.i == want);
    value = rig_in_map(map, "status-description", NV_AMQP_STRING);
    assert_true(value.type == NV_AMQP_STRING && value.bytes.len > 0);
    bool there = nv_amqp_map_find(map, "error-condition", &value);
    assert_int_equal(there, condition != NULL);
    if (condition) {
        rig_assert_text(&value, NV_AMQP_SYMBOL, condition);
    }
}

static nv_amqp_value body_map(const rig_delivery *answer)
{
    nv_amqp_value map;
    assert_int_equal(answer->message.body_kind, NV_AMQP_BODY_IS_VALUE);
    nv_reader r = nv_reader_of(answer->message.body);
    assert_true(nv_amqp_read(&r, &map));
    assert_int_equal(map.type, NV_AMQP_MAP);
    return map;
}

static void attach_management(rig_client *c, rig_link **requests, rig_link **answers)
{
    *answers = rig_attach_link(c, &(rig_attach){.address = "$management", .own_address = "me", .credit = 100});
    *requests = rig_attach_link(c, &(rig_attach){.address = "$management", .sender = true});
}

/* conformance: amqp.md 45, 47 */
static void reads_event_hub(void **state)
{
    (void)state;
    rig_client *c = rig_connect_service();
    rig_link *requests;
    rig_link *answers;
    attach_management(c, &requests, &answers);
    const question asked[] = {
        {.operation = "READ", .type = "com.microsoft:eventhub", .name = "hub"},
        {.operation = "READ", .type = "com.microsoft:eventhub", .name = "HUB", .odd_token = true, .without_body = true},
        {.operation = "read", .type = "com.microsoft:eventhub", .name = "hub", .string_id = true},
    };
    for (size_t i = 0; i < NV_COUNT_OF(asked); i++) {
        const rig_delivery *answer = ask(c, requests, answers, &asked[i]);
        assert_status(answer, 200, NULL);
        nv_reader r = nv_reader_of(answer->message.properties.correlation_id);
        nv_amqp_value value;
        assert_true(nv_amqp_read(&r, &value));
        if (asked[i].string_id) {
            rig_assert_text(&value, NV_AMQP_STRING, "request-1");
        } else {
            assert_true(value.type == NV_AMQP_ULONG && value.u == 0);
        }
        nv_amqp_value map = body_map(answer);
        value = rig_in_map(&map, "name", NV_AMQP_STRING);
        rig_assert_text(&value, NV_AMQP_STRING, "hub");
        value = rig_in_map(&map, "type", NV_AMQP_STRING);
        rig_assert_text(&value, NV_AMQP_STRING, "com.microsoft:eventhub");
        value = rig_in_map(&map, "created_at", NV_AMQP_STRING);
        assert_int_equal(value.type, NV_AMQP_TIMESTAMP);
        assert_true(value.i >= INT64_C(1795228000000));
        value = rig_in_map(&map, "partition_count", NV_AMQP_STRING);
        assert_true(value.type == NV_AMQP_INT && value.i == 4);
        value = rig_in_map(&map, "partition_ids", NV_AMQP_STRING);
        assert_int_equal(value.type, NV_AMQP_ARRAY);
        assert_int_equal(value.count, 4);
        nv_reader at = nv_reader_of(value.bytes);
        nv_amqp_value id;
        for (char want[2] = "0"; nv_amqp_array_next(&value, &at, &id); want[0]++) {
            rig_assert_text(&id, NV_AMQP_STRING, want);
        }
        assert_int_equal(at.err, NV_OK);
        value = rig_in_map(&map, "georeplication_factor", NV_AMQP_STRING);
        assert_true(value.type == NV_AMQP_INT && value.i == 1);
    }
    rig_disconnect(c);
}

/* conformance: amqp.md 46 */
static void reads_partition(void **state)
{
    (void)state;
    rig_client *c = rig_connect_service();
    rig_link *requests;
    rig_link *answers;
    attach_management(c, &requests, &answers);
    question q = {.operation = "READ", .type = "com.microsoft:partition", .name = "hub", .partition = "2"};
    nv_amqp_value map = body_map(ask(c, requests, answers, &q));
    nv_amqp_value value = rig_in_map(&map, "is_partition_empty", NV_AMQP_STRING);
    assert_true(value.type == NV_AMQP_BOOLEAN && value.boolean);
    value = rig_in_map(&map, "last_enqueued_sequence_number", NV_AMQP_STRING);
    assert_true(value.type == NV_AMQP_LONG && value.i == -1);
    value = rig_in_map(&map, "last_enqueued_offset", NV_AMQP_STRING);
    rig_assert_text(&value, NV_AMQP_STRING, "-1");
    rig_add_events(&rig_on, 2, "d", 0, 7);
    const rig_delivery *answer = ask(c, requests, answers, &q);
    assert_status(answer, 200, NULL);
    map = body_map(answer);
    assert_int_equal(map.count, 20);
    value = rig_in_map(&map, "name", NV_AMQP_STRING);
    rig_assert_text(&value, NV_AMQP_STRING, "hub");
    value = rig_in_map(&map, "type", NV_AMQP_STRING);
    rig_assert_text(&value, NV_AMQP_STRING, "com.microsoft:partition");
    value = rig_in_map(&map, "partition", NV_AMQP_STRING);
    rig_assert_text(&value, NV_AMQP_STRING, "2");
    value = rig_in_map(&map, "begin_sequence_number", NV_AMQP_STRING);
    assert_true(value.type == NV_AMQP_LONG && value.i == 0);
    value = rig_in_map(&map, "last_enqueued_sequence_number", NV_AMQP_STRING);
    assert_true(value.type == NV_AMQP_LONG && value.i == 6);
    value = rig_in_map(&map, "last_enqueued_offset", NV_AMQP_STRING);
    assert_int_equal(value.type, NV_AMQP_STRING);
    nv_log_partition_info info;
    assert_int_equal(nv_log_get_partition(rig_on.log, 2, &info), NV_OK);
    uint64_t offset;
    assert_true(nv_span_to_u64(value.bytes, &offset) && offset == info.last_offset);
    value = rig_in_map(&map, "last_enqueued_time_utc", NV_AMQP_STRING);
    assert_true(value.type == NV_AMQP_TIMESTAMP && value.i == info.last_enqueued_us / NV_US_PER_MS);
    value = rig_in_map(&map, "is_partition_empty", NV_AMQP_STRING);
    assert_true(value.type == NV_AMQP_BOOLEAN && !value.boolean);
    value = rig_in_map(&map, "begin_sequence_number_epoch", NV_AMQP_STRING);
    assert_true(value.type == NV_AMQP_INT && value.i == -1);
    value = rig_in_map(&map, "last_enqueued_sequence_number_epoch", NV_AMQP_STRING);
    assert_true(value.type == NV_AMQP_INT && value.i == -1);
    rig_disconnect(c);
}

static void management_refuses(void **state)
{
    (void)state;
    static const struct {
        question q;
        int status;
        const char *condition;
    } rows[] = {
        {{.operation = "DELETE", .type = "com.microsoft:eventhub", .name = "hub"}, 400, "amqp:not-implemented"},
        {{.type = "com.microsoft:eventhub", .name = "hub"}, 400, "amqp:not-implemented"},
        {{.operation = "READ", .type = "com.microsoft:topic", .name = "hub"}, 400, "com.microsoft:argument-error"},
        {{.operation = "READ", .name = "hub"}, 400, "com.microsoft:argument-error"},
        {{.operation = "READ", .type = "com.microsoft:eventhub"}, 400, "com.microsoft:argument-error"},
        {{.operation = "READ", .type = "com.microsoft:eventhub", .name = "other"}, 404, "amqp:not-found"},
        {{.operation = "READ", .type = "com.microsoft:partition", .name = "hub"}, 404, "amqp:not-found"},
        {{.operation = "READ", .type = "com.microsoft:partition", .name = "hub", .partition = "4"},
         404,
         "amqp:not-found"},
        {{.operation = "READ", .type = "com.microsoft:partition", .name = "hub", .partition = "-1"},
         404,
         "amqp:not-found"},
    };
    rig_client *c = rig_connect_service();
    rig_link *requests;
    rig_link *answers;
    attach_management(c, &requests, &answers);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        assert_status(ask(c, requests, answers, &rows[i].q), rows[i].status, rows[i].condition);
    }
    const rig_outcome *outcome = rig_send_wait(c, requests, nv_span_str("no message"));
    assert_int_equal(outcome->kind, NV_AMQP_OUT_REJECTED);
    assert_string_equal(outcome->symbol, "amqp:decode-error");
    /* an entity in the address names the event hub where the request does not */
    rig_link *of_hub = rig_attach_link(c, &(rig_attach){.address = "hub/$management", .sender = true});
    question q = {.operation = "READ", .type = "com.microsoft:eventhub"};
    assert_status(ask(c, of_hub, answers, &q), 200, NULL);
    rig_disconnect(c);
}

/** By reply-to, else in the session of the request; a receiver without credit makes its answers wait. */
static void answers_find_their_way(void **state)
{
    (void)state;
    uint8_t memory[1024];
    rig_client *c = rig_connect_service();
    nv_amqp_session *other = nv_amqp_session_begin(&c->conn);
    rig_link *requests = rig_attach_link(c, &(rig_attach){.address = "$management", .sender = true});
    question q = {.operation = "READ", .type = "com.microsoft:eventhub", .name = "hub"};
    const rig_outcome *outcome = rig_send_wait(c, requests, write_question(memory, sizeof(memory), &q));
    assert_int_equal(outcome->kind, NV_AMQP_OUT_REJECTED);
    assert_string_equal(outcome->symbol, "amqp:precondition-failed");
    rig_link *far = rig_attach_link(
        c, &(rig_attach){.address = "$management", .own_address = "far", .credit = 10, .session = other});
    rig_link *first = rig_attach_link(c, &(rig_attach){.address = "$management", .own_address = "one", .credit = 10});
    rig_link *second = rig_attach_link(
        c, &(rig_attach){.name = "by-name", .address = "$management", .own_address = "two", .credit = 10});
    (void)ask(c, requests, first, &q);
    q.reply_to = "two";
    (void)ask(c, requests, second, &q);
    q.reply_to = "by-name";
    (void)ask(c, requests, second, &q);
    q.reply_to = "nowhere";
    (void)ask(c, requests, first, &q);
    rig_detach(c, first);
    rig_detach(c, second);
    q.reply_to = "far";
    (void)ask(c, requests, far, &q);
    rig_link *slow = rig_attach_link(c, &(rig_attach){.address = "$management", .own_address = "slow"});
    q.reply_to = "slow";
    for (int i = 0; i < 64; i++) {
        outcome = rig_send_wait(c, requests, write_question(memory, sizeof(memory), &q));
        assert_int_equal(outcome->kind, NV_AMQP_OUT_ACCEPTED);
    }
    outcome = rig_send_wait(c, requests, write_question(memory, sizeof(memory), &q));
    assert_string_equal(outcome->symbol, "amqp:resource-limit-exceeded");
    rig_credit(c, slow, 40);
    RIG_UNTIL(c, slow->count == 64); /* the engine gives more as they are settled */
    rig_disconnect(c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_set_up, rig_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(redirects),
        TEST(redirects_at_once_where_time_stands),
        TEST(redirected_address_attaches),
        TEST(redirect_that_nobody_awaits),
        TEST(addresses),
        TEST(rights),
        TEST(reads_event_hub),
        TEST(reads_partition),
        TEST(management_refuses),
        TEST(answers_find_their_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
