/** Services over AMQP: messages to devices and the feedback for them (amqp.md section 4). */
#include "support/amqp_reader_rig.h"

#include "codec/json.h"
#include "core/c2d.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define FEEDBACK "/messages/serviceBound/feedback"

static int set_up(void **state)
{
    (void)rig_set_up(state);
    rig_add_device(&rig_on, "d1");
    rig_add_device(&rig_on, "d#2");
    return 0;
}

static rig_link *attach_sender(rig_client *c)
{
    rig_link *link = rig_attach_link(c, &(rig_attach){.address = "/messages/devicebound", .sender = true});
    assert_true(link->attached && !link->refused);
    return link;
}

/* ---- messages ------------------------------------------------------------------------------------------------- */

typedef struct letter {
    const char *to;
    const char *id;
    const char *ack;
    const char *property;
    int64_t expiry_ms; /* INT64_MIN: none */
    size_t body_len;   /* 0: "hello" */
    bool value_body;
    bool number_body;
    bool int_ack;
} letter;

#define TO_D1 "/devices/d1/messages/devicebound"

static nv_span write_letter(const letter *l)
{
    static uint8_t memory[1 << 17];
    static uint8_t body[1 << 16 | 1 << 13];
    uint8_t id[64];
    uint8_t to[200];
    nv_amqp_properties properties = {.content_type = nv_span_str("application/json"), .user_id = nv_span_of("\xff", 1)};
    nv_writer i = nv_writer_of(id, sizeof(id));
    nv_writer t = nv_writer_of(to, sizeof(to));
    if (l->id) {
        nv_amqp_put_string_of(&i, l->id);
        properties.message_id = nv_writer_span(&i);
    }
    if (l->to) {
        nv_amqp_put_string_of(&t, l->to);
        properties.to = nv_writer_span(&t);
    }
    if (l->expiry_ms != INT64_MIN) {
        NV_AMQP_SET(&properties, properties, absolute_expiry_time, l->expiry_ms);
    }
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_put_properties_section(&w, &properties);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&w, "number");
    nv_amqp_put_int(&w, 42);
    if (l->int_ack) {
        nv_amqp_put_string_of(&w, "iothub-ack");
        nv_amqp_put_int(&w, 1);
    } else if (l->ack) {
        nv_amqp_put_string_of(&w, "iothub-ack");
        nv_amqp_put_string_of(&w, l->ack);
    }
    nv_amqp_end_map(&w, mark, l->ack || l->int_ack ? 4 : 2);
    if (l->value_body) {
        nv_amqp_put_value_head(&w);
        nv_amqp_put_string_of(&w, "hello");
    } else if (l->number_body) {
        nv_amqp_put_value_head(&w);
        nv_amqp_put_int(&w, 7);
    } else {
        assert_true(l->body_len <= sizeof(body));
        nv_span bytes = l->body_len ? nv_span_of(body, l->body_len) : nv_span_str("hello");
        nv_amqp_put_data_head(&w, bytes.len);
        nv_write_span(&w, bytes);
    }
    assert_int_equal(w.err, NV_OK);
    return nv_writer_span(&w);
}

/* What the device has: its end is the core's. */

static void on_taken(nv_c2d_take *take)
{
    *(bool *)take->arg = true;
}

static nv_c2d_message *take(const char *device)
{
    bool done = false;
    nv_c2d_take t = {.device_id = nv_span_str(device), .done = on_taken, .arg = &done};
    nv_c2d_take_do(&rig_on.hub->loops[0], &t);
    nv_rig_hub_run(&rig_on, &done);
    assert_int_equal(t.error, NV_HUB_ERROR_NONE);
    return t.message;
}

static void on_settled(nv_c2d_settle *settle)
{
    *(bool *)settle->arg = true;
}

static void settle(const char *device, nv_c2d_message *message, nv_c2d_outcome outcome)
{
    bool done = false;
    nv_c2d_settle s = {.device_id = nv_span_str(device),
                       .lock_token = nv_span_str(message->lock_token),
                       .outcome = outcome,
                       .done = on_settled,
                       .arg = &done};
    nv_c2d_settle_do(&rig_on.hub->loops[0], &s);
    nv_rig_hub_run(&rig_on, &done);
    assert_int_equal(s.error, NV_HUB_ERROR_NONE);
    nv_c2d_message_unref(message);
}

static bool has_application_property(nv_span section, const char *name)
{
    nv_reader r = nv_reader_of(section);
    nv_property property;
    while (nv_property_next(&r, &property)) {
        if (property.id == NV_PROP_APPLICATION && nv_span_eq_str(property.name, name)) {
            return true;
        }
    }
    return false;
}

static void accepted(void **state)
{
    (void)state;
    const int64_t soon_ms = nv_wall_us(&rig_on.clock.clock) / NV_US_PER_MS + 5000;
    const struct {
        letter l;
        const char *device;
        nv_c2d_ack ack;
    } rows[] = {
        {{.to = TO_D1, .expiry_ms = INT64_MIN}, "d1", NV_ACK_NONE},
        {{.to = "/devices/d1/messages/deviceBound", .ack = "none", .expiry_ms = INT64_MIN}, "d1", NV_ACK_NONE},
        {{.to = "devices/d1/messages/devicebound", .id = "m", .ack = "full", .expiry_ms = soon_ms}, "d1", NV_ACK_FULL},
        {{.to = "/devices/d%232/messages/devicebound", .id = "m", .ack = "Positive", .expiry_ms = INT64_MIN},
         "d#2",
         NV_ACK_POSITIVE},
        {{.to = "amqps://hub.test/devices/d1/messages/devicebound", .expiry_ms = INT64_MIN}, "d1", NV_ACK_NONE},
        {{.to = TO_D1, .value_body = true, .expiry_ms = INT64_MIN}, "d1", NV_ACK_NONE},
        {{.to = TO_D1, .ack = "full", .expiry_ms = INT64_MIN}, "d1", NV_ACK_FULL}, /* what .NET's and Java's send */
    };
    rig_client *c = rig_connect_service();
    rig_link *link = attach_sender(c);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        const rig_outcome *outcome = rig_send_wait(c, link, write_letter(&rows[i].l));
        if (outcome->kind != NV_AMQP_OUT_ACCEPTED) {
            fail_msg("row %zu: %s", i, outcome->description);
        }
        nv_c2d_message *message = take(rows[i].device);
        assert_non_null(message);
        assert_int_equal(message->ack, rows[i].ack);
        assert_int_equal(message->body_kind, NV_BODY_DATA);
        assert_true(nv_span_eq_str(message->body, "hello"));
        assert_int_equal(message->expires_us, rows[i].l.expiry_ms == INT64_MIN
                                                  ? message->enqueued_us + 3600 * NV_US_PER_S
                                                  : rows[i].l.expiry_ms * NV_US_PER_MS);
        nv_value value;
        assert_true(nv_property_find(message->properties, NV_PROP_CONTENT_TYPE, &value));
        assert_true(nv_span_eq_str(value.bytes, "application/json"));
        assert_true(has_application_property(message->properties, "number"));
        assert_false(has_application_property(message->properties, "iothub-ack"));
        const letter *l = &rows[i].l;
        bool identified = nv_property_find(message->properties, NV_PROP_MESSAGE_ID, &value);
        assert_int_equal(identified, l->id || rows[i].ack != NV_ACK_NONE); /* feedback names the message it is of */
        assert_true(!identified || (l->id ? nv_span_eq_str(value.bytes, l->id) : value.bytes.len == 36));
        settle(rows[i].device, message, NV_C2D_COMPLETE);
    }
    rig_disconnect(c);
}

/* conformance: amqp.md 39 */
static void rejected(void **state)
{
    (void)state;
    const int64_t now_ms = nv_wall_us(&rig_on.clock.clock) / NV_US_PER_MS;
    const int64_t day_ms = 24 * 3600 * 1000;
    const struct {
        letter l;
        const char *symbol;
        const char *says;
    } rows[] = {
        {{.to = "/devices/nobody/messages/devicebound", .expiry_ms = INT64_MIN},
         "amqp:not-found",
         "ErrorCode:DeviceNotFound;no device \""},
        {{.expiry_ms = INT64_MIN}, "com.microsoft:argument-error", "`to` is missing"},
        {{.to = "/devices/d1", .expiry_ms = INT64_MIN}, "com.microsoft:argument-error", "the property `to` is"},
        {{.to = "/devices/d%20z/messages/devicebound", .expiry_ms = INT64_MIN},
         "com.microsoft:argument-error",
         "the property `to` is"},
        {{.to = TO_D1, .number_body = true, .expiry_ms = INT64_MIN},
         "com.microsoft:argument-error",
         "the body is bytes or text"},
        {{.to = "/devices/d1/messages/events", .expiry_ms = INT64_MIN},
         "com.microsoft:argument-error",
         "the property `to` is"},
        {{.to = "/devices/d1/modules/m/messages/devicebound", .expiry_ms = INT64_MIN},
         "amqp:not-allowed",
         "not to modules"},
        {{.to = TO_D1, .id = "m", .ack = "sometimes", .expiry_ms = INT64_MIN},
         "com.microsoft:argument-error",
         "iothub-ack is none, positive, negative or full"},
        {{.to = TO_D1, .id = "m", .int_ack = true, .expiry_ms = INT64_MIN},
         "com.microsoft:argument-error",
         "iothub-ack is none"},
        {{.to = TO_D1, .expiry_ms = now_ms - 1}, "com.microsoft:argument-error", "ErrorCode:ArgumentInvalid;"},
        {{.to = TO_D1, .expiry_ms = 0}, "com.microsoft:argument-error", "ErrorCode:ArgumentInvalid;"},
        {{.to = TO_D1, .expiry_ms = now_ms + 3 * day_ms}, "com.microsoft:argument-error", "ErrorCode:ArgumentInvalid;"},
        {{.to = TO_D1, .expiry_ms = INT64_MAX}, "com.microsoft:argument-error", "ErrorCode:ArgumentInvalid;"},
        {{.to = TO_D1, .body_len = 65536, .expiry_ms = INT64_MIN},
         "amqp:link:message-size-exceeded",
         "ErrorCode:MessageTooLarge;"},
        {{.to = TO_D1, .body_len = 70000, .expiry_ms = INT64_MIN},
         "amqp:link:message-size-exceeded",
         "ErrorCode:MessageTooLarge;"},
    };
    rig_client *c = rig_connect_service();
    rig_link *link = attach_sender(c);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        const rig_outcome *outcome = rig_send_wait(c, link, write_letter(&rows[i].l));
        if (outcome->kind != NV_AMQP_OUT_REJECTED || strcmp(outcome->symbol, rows[i].symbol) != 0) {
            fail_msg("row %zu: %s", i, outcome->symbol);
        }
        if (!strstr(outcome->description, rows[i].says)) {
            fail_msg("\"%s\" does not say \"%s\"", outcome->description, rows[i].says);
        }
    }
    const rig_outcome *outcome = rig_send_wait(c, link, nv_span_str("\x01\x02"));
    assert_string_equal(outcome->symbol, "amqp:decode-error");
    rig_on.hub->limits.c2d_depth = 3;
    const letter fits = {.to = TO_D1, .expiry_ms = INT64_MIN};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(rig_send_wait(c, link, write_letter(&fits))->kind, NV_AMQP_OUT_ACCEPTED);
    }
    outcome = rig_send_wait(c, link, write_letter(&fits));
    assert_string_equal(outcome->symbol, "amqp:resource-limit-exceeded");
    assert_non_null(strstr(outcome->description, "ErrorCode:DeviceMaximumQueueDepthExceeded;"));
    assert_false(link->detached || c->ended);
    rig_disconnect(c);
}

/** Many on their way at once; those to one device stay in order. */
static void many_in_flight(void **state)
{
    (void)state;
    rig_client *c = rig_connect_service();
    rig_link *link = attach_sender(c);
    char id[16];
    for (int i = 0; i < 200; i++) {
        (void)snprintf(id, sizeof(id), "m-%d", i);
        const letter l = {
            .to = i % 3 ? TO_D1 : "/devices/d%232/messages/devicebound", .id = id, .expiry_ms = INT64_MIN};
        (void)rig_send(c, link, write_letter(&l));
    }
    RIG_UNTIL(c, link->outcome_count == 200);
    for (size_t i = 0; i < 200; i++) {
        assert_int_equal(link->outcomes[i].kind, NV_AMQP_OUT_ACCEPTED);
    }
    for (int i = 0; i < 200; i++) {
        nv_value value;
        (void)snprintf(id, sizeof(id), "m-%d", i);
        nv_c2d_message *message = take(i % 3 ? "d1" : "d#2");
        assert_true(nv_property_find(message->properties, NV_PROP_MESSAGE_ID, &value));
        assert_true(nv_span_eq_str(value.bytes, id));
        settle(i % 3 ? "d1" : "d#2", message, NV_C2D_COMPLETE);
    }
    const letter l = {.to = TO_D1, .expiry_ms = INT64_MIN};
    for (int i = 0; i < 20; i++) {
        (void)rig_send(c, link, write_letter(&l));
    }
    rig_move(c);
    rig_disconnect(c); /* while the store works on them */
    nv_c2d_message *message = take("d1");
    assert_non_null(message);
    nv_c2d_message_unref(message);
}

/* ---- feedback ------------------------------------------------------------------------------------------------- */

/** @p count messages that ask for feedback, completed by the device (the last one rejected). */
static void make_feedback(rig_client *c, int count)
{
    rig_link *link = attach_sender(c);
    for (int i = 0; i < count; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "id-%d", i);
        const letter l = {.to = TO_D1, .id = id, .ack = "full", .expiry_ms = INT64_MIN};
        assert_int_equal(rig_send_wait(c, link, write_letter(&l))->kind, NV_AMQP_OUT_ACCEPTED);
        settle("d1", take("d1"), i == count - 1 ? NV_C2D_REJECT : NV_C2D_COMPLETE);
    }
    rig_detach(c, link);
}

static rig_link *attach_feedback(rig_client *c, uint32_t credit, uint8_t rcv_settle_mode)
{
    rig_link *link = rig_attach_link(
        c, &(rig_attach){.address = FEEDBACK, .credit = credit, .rcv_settle_mode = rcv_settle_mode, .keep = true});
    assert_true(link->attached && !link->refused);
    return link;
}

static void wait_15_s(rig_client *c)
{
    rig_rest(c); /* the wait has been asked for */
    rig_advance(c, 15 * NV_US_PER_S);
}

/** How many records a delivery has, and that @p id is the first. */
static size_t count_records(const rig_delivery *delivery, const char *id)
{
    char text[1 << 15];
    char want[64];
    nv_span body = delivery->message.body;
    assert_true(body.len < sizeof(text));
    memcpy(text, body.ptr, body.len);
    text[body.len] = '\0';
    (void)snprintf(want, sizeof(want), "\"originalMessageId\":\"%s\"", id);
    const char *first = strstr(text, "\"originalMessageId\"");
    assert_non_null(first);
    assert_int_equal(strncmp(first, want, strlen(want)), 0);
    size_t count = 0;
    for (const char *at = text; (at = strstr(at, "\"originalMessageId\"")) != NULL; at++) {
        count++;
    }
    return count;
}

/* conformance: amqp.md 40 */
static void feedback_as_clients_need_it(void **state)
{
    (void)state;
    rig_client *c = rig_connect_service();
    make_feedback(c, 2);
    rig_link *link =
        rig_attach_link(c, &(rig_attach){.address = "/messages/servicebound/feedback", .credit = 10, .keep = true});
    rig_rest(c);
    assert_int_equal(link->count, 0); /* neither full nor old */
    rig_advance(c, 15 * NV_US_PER_S);
    RIG_UNTIL(c, link->count == 1);
    const rig_delivery *delivery = &link->deliveries[0];
    assert_int_equal(delivery->tag_len, 16);
    assert_false(delivery->settled);
    const nv_amqp_message *message = &delivery->message;
    assert_true(nv_span_eq_str(message->properties.content_type, "application/vnd.microsoft.iothub.feedback.json"));
    assert_true(nv_span_eq_str(message->properties.content_encoding, "utf-8"));
    assert_true(nv_span_eq_str(message->properties.user_id, "hub"));
    nv_amqp_value value;
    assert_true(nv_amqp_map_find(&message->message_annotations, "iothub-enqueuedtime", &value));
    assert_int_equal(value.type, NV_AMQP_TIMESTAMP);
    assert_int_equal(value.i, nv_wall_us(&rig_on.clock.clock) / NV_US_PER_MS - 15000);
    assert_int_equal(message->body_kind, NV_AMQP_BODY_IS_DATA);
    assert_int_equal(message->sections, 1);
    assert_int_equal(count_records(delivery, "id-0"), 2);
    static const char *const members[] = {"\"originalMessageId\":\"id-0\"",
                                          "\"enqueuedTimeUtc\":\"2026-",
                                          "\"statusCode\":\"Success\"",
                                          "\"description\":\"",
                                          "\"deviceId\":\"d1\"",
                                          "\"deviceGenerationId\":\"",
                                          "\"statusCode\":\"Rejected\""};
    for (size_t i = 0; i < NV_COUNT_OF(members); i++) {
        assert_non_null(memmem(message->body.ptr, message->body.len, members[i], strlen(members[i])));
    }
    assert_true(message->body.ptr[0] == '[' && message->body.ptr[message->body.len - 1] == ']');
    rig_settle(c, link, delivery, NV_AMQP_OUT_ACCEPTED);
    rig_settle(c, link, delivery, NV_AMQP_OUT_ACCEPTED); /* some say it twice */
    rig_rest(c);
    rig_advance(c, 120 * NV_US_PER_S);
    rig_rest(c);
    assert_int_equal(link->count, 1);
    rig_disconnect(c);
}

static void feedback_outcomes(void **state)
{
    (void)state;
    static const struct {
        nv_amqp_outcome_kind kind;
        bool returns;
    } rows[] = {{NV_AMQP_OUT_ACCEPTED, false},
                {NV_AMQP_OUT_REJECTED, false},
                {NV_AMQP_OUT_RELEASED, true},
                {NV_AMQP_OUT_MODIFIED, true}};
    rig_client *c = rig_connect_service();
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        make_feedback(c, 1);
        rig_link *link = attach_feedback(c, 10, (uint8_t)(i % 2));
        wait_15_s(c);
        RIG_UNTIL(c, link->count == 1);
        rig_settle(c, link, &link->deliveries[0], rows[i].kind);
        if (rows[i].returns) {
            RIG_UNTIL(c, link->count == 2);
            assert_int_equal(count_records(&link->deliveries[1], "id-0"), 1);
            assert_memory_not_equal(link->deliveries[0].tag, link->deliveries[1].tag, 16);
            rig_settle(c, link, &link->deliveries[1], NV_AMQP_OUT_ACCEPTED);
        }
        rig_rest(c);
        rig_advance(c, 120 * NV_US_PER_S);
        rig_rest(c);
        assert_int_equal(link->count, rows[i].returns ? 2 : 1);
        rig_detach(c, link);
    }
    rig_disconnect(c);
}

/** A receiver in mode second hears back when its outcome is done. */
static void feedback_in_mode_second(void **state)
{
    (void)state;
    rig_client *c = rig_connect_service();
    make_feedback(c, 1);
    rig_link *link = attach_feedback(c, 10, 1);
    wait_15_s(c);
    RIG_UNTIL(c, link->count == 1);
    assert_int_equal(rig_unsettled(link), 1);
    rig_accept_second(c, link, &link->deliveries[0]);
    RIG_UNTIL(c, rig_unsettled(link) == 0);
    rig_detach(c, link);
    link = attach_feedback(c, 10, 1);
    rig_rest(c);
    rig_advance(c, 120 * NV_US_PER_S);
    rig_rest(c);
    assert_int_equal(link->count, 0); /* it was completed */
    rig_disconnect(c);
}

/** What a link had goes back when it ends, by its own will, with its connection, or by time. */
static void feedback_goes_back(void **state)
{
    (void)state;
    rig_client *c = rig_connect_service();
    make_feedback(c, 1);
    rig_client *d = rig_connect_service();
    rig_link *link = attach_feedback(d, 10, 0);
    wait_15_s(d);
    RIG_UNTIL(d, link->count == 1);
    rig_disconnect(d);
    link = attach_feedback(c, 10, 0);
    RIG_UNTIL(c, link->count == 1);
    rig_detach(c, link);
    link = attach_feedback(c, 10, 0);
    RIG_UNTIL(c, link->count == 1);
    rig_rest(c);
    rig_advance(c, 61 * NV_US_PER_S); /* the lock is over */
    RIG_UNTIL(c, link->count == 2);
    rig_settle(c, link, &link->deliveries[0], NV_AMQP_OUT_ACCEPTED); /* too late: nothing happens */
    rig_settle(c, link, &link->deliveries[1], NV_AMQP_OUT_ACCEPTED);
    rig_rest(c);
    rig_advance(c, 120 * NV_US_PER_S);
    rig_rest(c);
    assert_int_equal(link->count, 2);
    rig_disconnect(c);
}

/** Receivers compete; each has no more than its credit. */
static void feedback_receivers_compete(void **state)
{
    (void)state;
    rig_client *c = rig_connect_service();
    rig_client *d = rig_connect_service();
    make_feedback(c, 70); /* 64 and 6 */
    rig_link *one = attach_feedback(c, 1, 0);
    RIG_UNTIL(c, one->count == 1); /* a full batch waits for nothing */
    assert_int_equal(count_records(&one->deliveries[0], "id-0"), 64);
    rig_link *two = attach_feedback(d, 1, 0);
    wait_15_s(d);
    RIG_UNTIL(d, two->count == 1);
    assert_int_equal(count_records(&two->deliveries[0], "id-64"), 6);
    rig_rest(c);
    assert_int_equal(one->count, 1);
    rig_disconnect(d);
    rig_credit(c, one, 2);
    RIG_UNTIL(c, one->count == 2);
    assert_int_equal(count_records(&one->deliveries[1], "id-64"), 6);
    rig_disconnect(c);
}

/** Draining: what there is comes though it is young, then the credit goes back. */
static void feedback_drains(void **state)
{
    (void)state;
    rig_client *c = rig_connect_service();
    rig_link *link = attach_feedback(c, 5, 0);
    rig_drain(c, link);
    RIG_UNTIL(c, link->link->credit == 0);
    assert_int_equal(link->count, 0);
    rig_detach(c, link);
    make_feedback(c, 2);
    link = attach_feedback(c, 5, 0);
    rig_drain(c, link);
    RIG_UNTIL(c, link->link->credit == 0);
    assert_int_equal(link->count, 1);
    assert_int_equal(count_records(&link->deliveries[0], "id-0"), 2);
    rig_disconnect(c);
}

static void file_notifications_are_silent(void **state)
{
    (void)state;
    rig_client *c = rig_connect_service();
    rig_link *link =
        rig_attach_link(c, &(rig_attach){.address = "/messages/serviceBound/filenotifications", .credit = 5});
    assert_true(link->attached && !link->refused);
    rig_drain(c, link);
    assert_int_equal(link->link->credit, 0);
    assert_true(link->count == 0 && !link->detached);
    rig_disconnect(c);
}

/** Every kind of link that a service has. */
static size_t attach_all(rig_client *c, rig_link **links)
{
    static const struct {
        const char *address;
        bool sender;
    } rows[] = {{"hub/ConsumerGroups/$Default/Partitions/0", false},
                {"$management", false},
                {"$management", true},
                {FEEDBACK, false},
                {"/messages/devicebound", true},
                {"/messages/serviceBound/filenotifications", false}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        links[i] = rig_attach_link(
            c, &(rig_attach){.address = rows[i].address, .sender = rows[i].sender, .credit = rows[i].sender ? 0 : 10});
        assert_true(links[i]->attached && !links[i]->refused);
    }
    return NV_COUNT_OF(rows);
}

/** A hub that stops waits for nobody who only listens: the clock stands, so nothing here can be a deadline. */
static void hub_stops(void **state)
{
    (void)state;
    rig_link *links[8];
    rig_client *c = rig_connect_service();
    size_t count = attach_all(c, links);
    rig_rest(c);
    c->line.session->ops->drain(c->line.session, nv_mono_us(&rig_on.clock.clock));
    RIG_UNTIL(c, c->ended);
    for (size_t i = 0; i < count; i++) {
        assert_true(links[i]->detached);
    }
    rig_disconnect(c);
}

/** What a token opened ends with it, whatever it is doing. */
static void token_expires(void **state)
{
    (void)state;
    rig_link *links[8];
    rig_client *c = rig_connect_service();
    make_feedback(c, 1);
    size_t count = attach_all(c, links);
    links[3]->keep = true;
    rig_add_events(&rig_on, 0, "d1", 0, 5);
    for (int i = 0; i < 36; i++) {
        rig_rest(c);
        rig_advance(c, 100 * NV_US_PER_S);
    }
    rig_advance(c, NV_US_PER_S);
    for (size_t i = 0; i < count; i++) {
        RIG_UNTIL(c, links[i]->detached);
        rig_assert_detached(links[i], "amqp:unauthorized-access", "expired");
    }
    assert_int_equal(links[0]->count, 5);
    rig_disconnect(c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, rig_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(accepted),           TEST(rejected),
        TEST(many_in_flight),     TEST(feedback_as_clients_need_it),
        TEST(feedback_outcomes),  TEST(feedback_in_mode_second),
        TEST(feedback_goes_back), TEST(feedback_receivers_compete),
        TEST(feedback_drains),    TEST(file_notifications_are_silent),
        TEST(hub_stops),          TEST(token_expires),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
