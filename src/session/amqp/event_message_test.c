/** Events as readers see them: names, types, bodies, and that a patched head equals a fresh one. */
#include "session/amqp/event_message.h"

#include "session/amqp/server_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

typedef struct event {
    uint8_t bytes[1 << 19];
    nv_amqp_message message;
} event;

static event *event_of(amqp_event_head *head, const nv_record *record)
{
    static event e;
    nv_span front = amqp_event_head_of(head, record);
    assert_true(front.len + record->body.len <= sizeof(e.bytes));
    memcpy(e.bytes, front.ptr, front.len);
    if (record->body.len > 0) {
        memcpy(e.bytes + front.len, record->body.ptr, record->body.len);
    }
    nv_span all = nv_span_of(e.bytes, front.len + record->body.len);
    assert_int_equal(nv_amqp_message_read(all, &e.message), NV_OK);
    return &e;
}

static nv_span stamp_of(nv_buf *memory, const char *device, const char *module, const char *model)
{
    nv_buf_init(memory, 4096);
    nv_stamp stamp = {.device_id = nv_span_str(device),
                      .module_id = nv_span_str(module),
                      .generation_id = nv_span_str("638000000000000000"),
                      .model_id = nv_span_str(model),
                      .scope = NV_AUTH_SCOPE_DEVICE,
                      .type = NV_AUTH_TYPE_SAS};
    assert_int_equal(nv_stamp_encode(memory, &stamp), NV_OK);
    return nv_buf_span(memory);
}

static void put(nv_buf *properties, nv_system_property id, const char *name, nv_value value)
{
    nv_property property = {.id = (uint8_t)id, .name = nv_span_str(name), .value = value};
    assert_int_equal(nv_property_put(properties, &property), NV_OK);
}

static nv_amqp_value annotation(const nv_amqp_value *map, const char *key)
{
    nv_reader at = nv_reader_of(map->bytes);
    nv_amqp_value name;
    nv_amqp_value value;
    while (nv_amqp_map_next(&at, &name, &value)) {
        if (nv_span_eq_str(name.bytes, key)) {
            assert_int_equal(name.type, NV_AMQP_SYMBOL);
            return value;
        }
    }
    return (nv_amqp_value){.type = NV_AMQP_NULL};
}

static void assert_text(const nv_amqp_value *map, const char *key, const char *want)
{
    nv_amqp_value value = annotation(map, key);
    assert_int_equal(value.type, NV_AMQP_STRING);
    if (!nv_span_eq_str(value.bytes, want)) {
        fail_msg("%s is \"%.*s\", wanted \"%s\"", key, NV_SPAN_ARG(value.bytes), want);
    }
}

static void assert_number(const nv_amqp_value *map, const char *key, nv_amqp_type type, int64_t want)
{
    nv_amqp_value value = annotation(map, key);
    assert_int_equal(value.type, type);
    assert_int_equal(value.i, want);
}

static void assert_absent(const nv_amqp_value *map, const char *key)
{
    assert_int_equal(annotation(map, key).type, NV_AMQP_NULL);
}

static nv_record telemetry(nv_span stamp, nv_span properties, const char *body)
{
    return (nv_record){.partition = 1,
                       .sequence = 7,
                       .offset = 4711,
                       .enqueued_us = 1700000000123456,
                       .stamp = stamp,
                       .source = NV_SOURCE_TELEMETRY,
                       .body_kind = NV_BODY_DATA,
                       .properties = properties,
                       .body = nv_span_str(body)};
}

/* conformance: amqp.md 51 */
static void annotations(void **state)
{
    (void)state;
    nv_buf stamp;
    nv_buf properties;
    nv_buf_init(&properties, 4096);
    put(&properties, NV_PROP_INTERFACE_ID, "", nv_value_string(nv_span_str("urn:x")));
    put(&properties, NV_PROP_SUBJECT, "", nv_value_string(nv_span_str("thermostat1")));
    put(&properties, NV_PROP_DIAGNOSTIC_ID, "", nv_value_string(nv_span_str("4fd0")));
    put(&properties, NV_PROP_DIAGNOSTIC_CONTEXT, "", nv_value_string(nv_span_str("c=1")));
    put(&properties, NV_PROP_CREATION_TIME, "", nv_value_string(nv_span_str("2024-05-01T10:20:30Z")));
    put(&properties, NV_PROP_SCHEMA, "", nv_value_string(nv_span_str("s1")));
    put(&properties, NV_PROP_OUTPUT_NAME, "", nv_value_string(nv_span_str("out")));
    put(&properties, NV_PROP_OPERATION, "", nv_value_string(nv_span_str("op")));
    put(&properties, NV_PROP_SUBJECT, "", nv_value_string(nv_span_str("twice")));
    amqp_event_head head = {0};
    nv_record record = telemetry(stamp_of(&stamp, "d1", "m1", "dtmi:x;1"), nv_buf_span(&properties), "body");
    event *e = event_of(&head, &record);
    const nv_amqp_value *map = &e->message.message_annotations;
    assert_number(map, "x-opt-sequence-number", NV_AMQP_LONG, 7);
    assert_number(map, "x-opt-enqueued-time", NV_AMQP_TIMESTAMP, 1700000000123);
    assert_number(map, "iothub-enqueuedtime", NV_AMQP_TIMESTAMP, 1700000000123);
    assert_text(map, "x-opt-offset", "4711");
    assert_text(map, "iothub-connection-device-id", "d1");
    assert_text(map, "iothub-connection-module-id", "m1");
    assert_text(map, "iothub-connection-auth-method",
                "{\"scope\":\"device\",\"type\":\"sas\",\"issuer\":\"iothub\",\"acceptingIpFilterRule\":null}");
    assert_text(map, "iothub-connection-auth-generation-id", "638000000000000000");
    assert_text(map, "iothub-message-source", "Telemetry");
    assert_text(map, "iothub-interface-id", "urn:x");
    assert_text(map, "dt-subject", "thermostat1");
    assert_text(map, "dt-dataschema", "dtmi:x;1");
    assert_text(map, "Diagnostic-Id", "4fd0");
    assert_text(map, "Correlation-Context", "c=1");
    assert_text(map, "iothub-creation-time-utc", "2024-05-01T10:20:30Z");
    assert_text(map, "iothub-message-schema", "s1");
    assert_text(map, "iothub-outputname", "out");
    assert_text(map, "iothub-operation", "op");
    assert_int_equal(map->count, 2 * 18);
    assert_int_equal(e->message.delivery_annotations.type, NV_AMQP_NULL);
    assert_int_equal(e->message.body_kind, NV_AMQP_BODY_IS_DATA);
    assert_true(nv_span_eq_str(e->message.body, "body"));
    assert_false(e->message.has_header || e->message.has_properties);
    amqp_event_head_deinit(&head);
    nv_buf_deinit(&stamp);
    nv_buf_deinit(&properties);
}

/** The message's own model wins over the connection's; a device without module or model has no such annotation. */
static void annotations_that_are_not_there(void **state)
{
    (void)state;
    nv_buf stamp;
    nv_buf properties;
    nv_buf_init(&properties, 4096);
    amqp_event_head head = {0};
    nv_record record = telemetry(stamp_of(&stamp, "d1", "", ""), NV_SPAN_EMPTY, "");
    event *e = event_of(&head, &record);
    assert_absent(&e->message.message_annotations, "iothub-connection-module-id");
    assert_absent(&e->message.message_annotations, "dt-dataschema");
    assert_int_equal(e->message.body.len, 0);
    assert_int_equal(e->message.body_kind, NV_AMQP_BODY_IS_DATA);
    nv_buf_deinit(&stamp);
    record.stamp = stamp_of(&stamp, "d1", "", "dtmi:connection;1");
    put(&properties, NV_PROP_DATA_SCHEMA, "", nv_value_string(nv_span_str("dtmi:message;1")));
    record.properties = nv_buf_span(&properties);
    e = event_of(&head, &record);
    assert_text(&e->message.message_annotations, "dt-dataschema", "dtmi:message;1");
    record.source = NV_SOURCE_TWIN_CHANGE; /* nobody authenticated for it */
    e = event_of(&head, &record);
    assert_absent(&e->message.message_annotations, "iothub-connection-auth-method");
    assert_absent(&e->message.message_annotations, "iothub-connection-auth-generation-id");
    assert_text(&e->message.message_annotations, "iothub-message-source", "twinChangeEvents");
    assert_text(&e->message.message_annotations, "iothub-connection-device-id", "d1");
    record.stamp = nv_span_str("no stamp at all");
    e = event_of(&head, &record);
    assert_absent(&e->message.message_annotations, "iothub-connection-device-id");
    assert_number(&e->message.message_annotations, "x-opt-sequence-number", NV_AMQP_LONG, 7);
    amqp_event_head_deinit(&head);
    nv_buf_deinit(&stamp);
    nv_buf_deinit(&properties);
}

static void types_are_kept(void **state)
{
    (void)state;
    nv_buf stamp;
    nv_buf properties;
    nv_buf_init(&properties, 4096);
    put(&properties, NV_PROP_MESSAGE_ID, "", nv_value_string(nv_span_str("id-1")));
    put(&properties, NV_PROP_CONTENT_TYPE, "",
        (nv_value){.type = NV_VALUE_SYMBOL, .bytes = nv_span_str("application/json")});
    put(&properties, NV_PROP_USER_ID, "", (nv_value){.type = NV_VALUE_BINARY, .bytes = nv_span_of("\xff\x01", 2)});
    put(&properties, NV_PROP_APPLICATION, "int", (nv_value){.type = NV_VALUE_INT, .i = -5});
    put(&properties, NV_PROP_APPLICATION, "flag", (nv_value){.type = NV_VALUE_BOOL, .boolean = true});
    put(&properties, NV_PROP_APPLICATION, "text", nv_value_string(nv_span_str("t")));
    amqp_event_head head = {0};
    nv_record record = telemetry(stamp_of(&stamp, "d1", "", ""), nv_buf_span(&properties), "x");
    event *e = event_of(&head, &record);
    assert_true(e->message.has_properties);
    assert_true(nv_span_eq_str(nv_amqp_text_of(e->message.properties.message_id), "id-1"));
    assert_true(nv_span_eq_str(e->message.properties.content_type, "application/json"));
    assert_true(nv_span_eq(e->message.properties.user_id, nv_span_of("\xff\x01", 2)));
    nv_amqp_value value;
    assert_true(nv_amqp_map_find(&e->message.application_properties, "int", &value));
    assert_true(value.type == NV_AMQP_INT && value.i == -5);
    assert_true(nv_amqp_map_find(&e->message.application_properties, "flag", &value));
    assert_true(value.type == NV_AMQP_BOOLEAN && value.boolean);
    assert_true(nv_amqp_map_find(&e->message.application_properties, "text", &value));
    assert_int_equal(value.type, NV_AMQP_STRING);
    amqp_event_head_deinit(&head);
    nv_buf_deinit(&stamp);
    nv_buf_deinit(&properties);
}

static void bodies(void **state)
{
    (void)state;
    nv_buf stamp;
    uint8_t memory[256];
    amqp_event_head head = {0};
    nv_record record = telemetry(stamp_of(&stamp, "d1", "", ""), NV_SPAN_EMPTY, "");
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_put_string_of(&w, "a value");
    record.body_kind = NV_BODY_AMQP_VALUE;
    record.body = nv_writer_span(&w);
    event *e = event_of(&head, &record);
    assert_int_equal(e->message.body_kind, NV_AMQP_BODY_IS_VALUE);
    assert_true(nv_span_eq(e->message.body, record.body));
    w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_put_descriptor(&w, NV_AMQP_SEQUENCE);
    size_t mark = nv_amqp_begin_list(&w);
    nv_amqp_put_int(&w, 1);
    nv_amqp_end_list(&w, mark, 1);
    record.body_kind = NV_BODY_AMQP_SEQUENCE;
    record.body = nv_writer_span(&w);
    e = event_of(&head, &record);
    assert_int_equal(e->message.body_kind, NV_AMQP_BODY_IS_SEQUENCE);
    static uint8_t large[300000];
    static const size_t sizes[] = {0, 1, 255, 256, 65536, sizeof(large)};
    record.body_kind = NV_BODY_DATA;
    for (size_t i = 0; i < NV_COUNT_OF(sizes); i++) {
        record.body = nv_span_of(large, sizes[i]);
        e = event_of(&head, &record);
        assert_int_equal(e->message.body.len, sizes[i]);
    }
    amqp_event_head_deinit(&head);
    nv_buf_deinit(&stamp);
}

/** Through all numbers of digits, senders and properties: what was patched is what a new head would say. */
static void patched_equals_fresh(void **state)
{
    (void)state;
    static const uint64_t offsets[] = {
        0, 9, 10, 99, 100, 101, 12345678, 999999999, 1000000000, INT64_MAX, UINT64_MAX, UINT64_MAX - 1, 5, 6};
    nv_buf stamps[2];
    nv_buf properties[2];
    (void)stamp_of(&stamps[0], "device-one", "", "");
    (void)stamp_of(&stamps[1], "device-two", "", "");
    for (size_t i = 0; i < 2; i++) {
        nv_buf_init(&properties[i], 4096);
        put(&properties[i], NV_PROP_MESSAGE_ID, "", nv_value_string(nv_span_str(i ? "id-1" : "id-0")));
    }
    amqp_event_head kept = {0};
    for (size_t i = 0; i < 8 * NV_COUNT_OF(offsets); i++) {
        nv_record record = telemetry(nv_buf_span(&stamps[i / 3 % 2]), nv_buf_span(&properties[i / 2 % 2]), "hello");
        record.offset = offsets[i % NV_COUNT_OF(offsets)];
        record.sequence = i * 1000003;
        record.enqueued_us += (int64_t)i * 7000;
        record.source = i % 16 < 8 ? NV_SOURCE_TELEMETRY : NV_SOURCE_LIFECYCLE;
        amqp_event_head fresh = {0};
        nv_span want = amqp_event_head_of(&fresh, &record);
        nv_span got = amqp_event_head_of(&kept, &record);
        assert_int_equal(got.len, want.len);
        assert_memory_equal(got.ptr, want.ptr, want.len);
        event *e = event_of(&kept, &record);
        char text[24];
        (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)record.offset);
        assert_text(&e->message.message_annotations, "x-opt-offset", text);
        amqp_event_head_deinit(&fresh);
    }
    amqp_event_head_deinit(&kept);
    for (size_t i = 0; i < 2; i++) {
        nv_buf_deinit(&stamps[i]);
        nv_buf_deinit(&properties[i]);
    }
}

/* conformance: amqp.md 52 */
static void metrics(void **state)
{
    (void)state;
    nv_buf stamp;
    amqp_event_head head = {0};
    nv_record record = telemetry(stamp_of(&stamp, "d1", "", ""), NV_SPAN_EMPTY, "x");
    event *e = event_of(&head, &record);
    nv_log_partition_info info = {.next_sequence = 43, .last_offset = 9000, .last_enqueued_us = 1700000001000999};
    amqp_event_head_set_metrics(&head, &info, 1700000002000000);
    e = event_of(&head, &record);
    const nv_amqp_value *map = &e->message.delivery_annotations;
    assert_number(map, "last_enqueued_sequence_number", NV_AMQP_LONG, 42);
    assert_text(map, "last_enqueued_offset", "9000");
    assert_number(map, "last_enqueued_time_utc", NV_AMQP_TIMESTAMP, 1700000001000);
    assert_number(map, "runtime_info_retrieval_time_utc", NV_AMQP_TIMESTAMP, 1700000002000);
    assert_number(&e->message.message_annotations, "x-opt-sequence-number", NV_AMQP_LONG, 7);
    info = (nv_log_partition_info){0};
    amqp_event_head_set_metrics(&head, &info, INT64_MAX);
    e = event_of(&head, &record);
    assert_number(&e->message.delivery_annotations, "last_enqueued_sequence_number", NV_AMQP_LONG, -1);
    assert_text(&e->message.delivery_annotations, "last_enqueued_offset", "-1");
    info = (nv_log_partition_info){UINT64_MAX, UINT64_MAX, UINT64_MAX, INT64_MAX}; /* the widest there is */
    amqp_event_head_set_metrics(&head, &info, INT64_MAX);
    e = event_of(&head, &record);
    assert_text(&e->message.delivery_annotations, "last_enqueued_offset", "18446744073709551615");
    amqp_event_head_deinit(&head);
    nv_buf_deinit(&stamp);
}

/** The largest property section that a record can have, of the kinds that grow most. */
static void largest_properties(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        nv_buf stamp;
        nv_buf properties;
        nv_buf_init(&properties, 65535);
        nv_property property = {.id = kind == 2 ? NV_PROP_SUBJECT : NV_PROP_APPLICATION,
                                .name = nv_span_str(kind == 0 ? "" : "n"),
                                .value = {.type = kind == 0 ? NV_VALUE_NULL : NV_VALUE_STRING,
                                          .bytes = nv_span_str(kind == 1 ? "\xff" : "v")}};
        while (nv_property_put(&properties, &property) == NV_OK) {
        }
        amqp_event_head head = {0};
        nv_record record = telemetry(stamp_of(&stamp, "d1", "", ""), nv_buf_span(&properties), "x");
        event *e = event_of(&head, &record);
        assert_true(nv_span_eq_str(e->message.body, "x"));
        amqp_event_head_deinit(&head);
        nv_buf_deinit(&stamp);
        nv_buf_deinit(&properties);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(annotations),
        cmocka_unit_test(annotations_that_are_not_there),
        cmocka_unit_test(types_are_kept),
        cmocka_unit_test(bodies),
        cmocka_unit_test(metrics),
        cmocka_unit_test(patched_equals_fresh),
        cmocka_unit_test(largest_properties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
