/* What `nave monitor` shows of an event is the same whichever way it came: records written as JSON by the hub, and as
 * AMQP by the hub and then as JSON here. */
#include "nave/amqp_event.h"

#include "base/clock.h"
#include "session/amqp/event_message.h"
#include "session/http_event_json.h"

#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define ROOM (1u << 20)

static nv_buf properties;
static nv_buf stamp;
static nv_buf scratch;

static int setup(void **state)
{
    (void)state;
    nv_buf_init(&properties, ROOM);
    nv_buf_init(&stamp, ROOM);
    nv_buf_init(&scratch, ROOM);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    nv_buf_deinit(&properties);
    nv_buf_deinit(&stamp);
    nv_buf_deinit(&scratch);
    return 0;
}

static void put(nv_system_property id, const char *name, nv_value value)
{
    nv_property property = {.id = (uint8_t)id, .name = nv_span_str(name), .value = value};
    assert_int_equal(nv_property_put(&properties, &property), NV_OK);
}

static void put_text(nv_system_property id, const char *name, const char *text)
{
    put(id, name, nv_value_string(nv_span_str(text)));
}

static nv_record record_of(const char *module, const char *model, nv_source source, nv_span body)
{
    nv_stamp sender = {.device_id = nv_span_str("d1"),
                       .module_id = nv_span_str(module),
                       .generation_id = nv_span_str("638000000000000000"),
                       .model_id = nv_span_str(model),
                       .scope = module[0] ? NV_AUTH_SCOPE_MODULE : NV_AUTH_SCOPE_DEVICE,
                       .type = NV_AUTH_TYPE_X509};
    nv_buf_clear(&stamp);
    assert_int_equal(nv_stamp_encode(&stamp, &sender), NV_OK);
    return (nv_record){.partition = 3,
                       .sequence = UINT64_C(9007199254740993),
                       .offset = 4711,
                       .enqueued_us = INT64_C(1700000000123000),
                       .stamp = nv_buf_span(&stamp),
                       .source = source,
                       .properties = nv_buf_span(&properties),
                       .body = body};
}

static struct json_object *parsed(const nv_buf *text)
{
    struct json_object *tree = NULL;
    assert_int_equal(nv_json_parse(nv_buf_span(text), NV_JSON_MAX_DEPTH, 10000, &tree), NV_OK);
    return tree;
}

static void as_message(const nv_record *record, nv_buf *out)
{
    amqp_event_head head = {0};
    nv_log_partition_info info = {.next_sequence = 10, .last_offset = 20, .last_enqueued_us = 30};
    amqp_event_head_set_metrics(&head, &info, 40);
    assert_int_equal(nv_buf_append(out, amqp_event_head_of(&head, record)), NV_OK);
    assert_int_equal(nv_buf_append(out, record->body), NV_OK);
    amqp_event_head_deinit(&head);
}

static void expect_same(const nv_record *record)
{
    nv_buf by_http;
    nv_buf by_amqp;
    nv_buf message;
    nv_buf_init(&by_http, ROOM);
    nv_buf_init(&by_amqp, ROOM);
    nv_buf_init(&message, ROOM);
    nv_json_writer w = nv_json_writer_of(&by_http);
    nv_event_write_json(&w, record);
    assert_int_equal(w.err, NV_OK);
    as_message(record, &message);
    w = nv_json_writer_of(&by_amqp);
    assert_true(nv_amqp_event_json(&w, record->partition, nv_buf_span(&message), &scratch));
    struct json_object *a = parsed(&by_http);
    struct json_object *b = parsed(&by_amqp);
    if (!json_object_equal(a, b)) {
        fail_msg("by HTTP: %.*s\nby AMQP: %.*s", NV_SPAN_ARG(nv_buf_span(&by_http)),
                 NV_SPAN_ARG(nv_buf_span(&by_amqp)));
    }
    assert_null(memchr(nv_buf_span(&by_amqp).ptr, '\n', nv_buf_len(&by_amqp)));
    json_object_put(a);
    json_object_put(b);
    nv_buf_deinit(&by_http);
    nv_buf_deinit(&by_amqp);
    nv_buf_deinit(&message);
}

static void bodies(void **state)
{
    (void)state;
    static const struct {
        const char *type;
        const char *encoding;
        const char *body;
    } rows[] = {
        {NULL, NULL, "plain text"},
        {NULL, NULL, ""},
        {NULL, NULL, "\xff\x01"},
        {NULL, NULL, "line\nline\ttab"},
        {"application/json", "utf-8", "{ \"t\": 21.70, \"big\": 12345678901234567890, \"e\": 1e3 }"},
        {"application/json; charset=utf-8", "UTF-8", "[1,2]"},
        {"application/json", "utf-8", "{no json"},
        {"application/json", "ascii", "{\"t\":1}"},
        {"application/json", NULL, "{\"t\":1}"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_buf_clear(&properties);
        if (rows[i].type) {
            put_text(NV_PROP_CONTENT_TYPE, "", rows[i].type);
        }
        if (rows[i].encoding) {
            put_text(NV_PROP_CONTENT_ENCODING, "", rows[i].encoding);
        }
        nv_record record = record_of("", "", NV_SOURCE_TELEMETRY, nv_span_str(rows[i].body));
        expect_same(&record);
    }
    uint8_t value[] = {0xa1, 0x02, 'h', 'i'};
    nv_record record = record_of("m1", "dtmi:x;1", NV_SOURCE_TELEMETRY, nv_span_of(value, sizeof(value)));
    record.body_kind = NV_BODY_AMQP_VALUE;
    expect_same(&record);
}

static void system_properties(void **state)
{
    (void)state;
    static const nv_system_property texts[] = {
        NV_PROP_MESSAGE_ID,    NV_PROP_CORRELATION_ID, NV_PROP_USER_ID,   NV_PROP_TO,
        NV_PROP_CREATION_TIME, NV_PROP_OUTPUT_NAME,    NV_PROP_SUBJECT,   NV_PROP_INTERFACE_ID,
        NV_PROP_SCHEMA,        NV_PROP_DIAGNOSTIC_ID,  NV_PROP_OPERATION, NV_PROP_DATA_SCHEMA,
        NV_PROP_REPLY_TO,      NV_PROP_AMQP_SUBJECT,   NV_PROP_GROUP_ID,  NV_PROP_REPLY_TO_GROUP_ID};
    nv_buf_clear(&properties);
    for (size_t i = 0; i < NV_COUNT_OF(texts); i++) {
        char text[40];
        (void)snprintf(text, sizeof(text), "value \xc3\xa4 \"%zu\"", i);
        put_text(texts[i], "", text);
    }
    put(NV_PROP_GROUP_SEQUENCE, "", (nv_value){.type = NV_VALUE_UINT, .u = 7});
    put(NV_PROP_ABSOLUTE_EXPIRY, "", (nv_value){.type = NV_VALUE_TIMESTAMP, .i = 1700000001000});
    put(NV_PROP_CREATION_TIME_AMQP, "", (nv_value){.type = NV_VALUE_TIMESTAMP, .i = -1});
    nv_record record = record_of("m1", "dtmi:x;1", NV_SOURCE_TELEMETRY, nv_span_str("x"));
    expect_same(&record);
    nv_buf_clear(&properties);
    for (int source = NV_SOURCE_CONNECTION_STATE; source <= NV_SOURCE_JOB_LIFECYCLE; source++) {
        record = record_of("", "", (nv_source)source, nv_span_str("x"));
        expect_same(&record);
    }
}

static void application_properties(void **state)
{
    (void)state;
    double third = 1.0 / 3;
    uint64_t bits = 0;
    memcpy(&bits, &third, sizeof(bits));
    nv_buf_clear(&properties);
    put_text(NV_PROP_APPLICATION, "text", "a \"quoted\" \x01 one");
    put(NV_PROP_APPLICATION, "null", (nv_value){.type = NV_VALUE_NULL});
    put(NV_PROP_APPLICATION, "true", (nv_value){.type = NV_VALUE_BOOL, .boolean = true});
    put(NV_PROP_APPLICATION, "ubyte", (nv_value){.type = NV_VALUE_UBYTE, .u = 255});
    put(NV_PROP_APPLICATION, "ushort", (nv_value){.type = NV_VALUE_USHORT, .u = 65535});
    put(NV_PROP_APPLICATION, "uint", (nv_value){.type = NV_VALUE_UINT, .u = UINT32_MAX});
    put(NV_PROP_APPLICATION, "ulong", (nv_value){.type = NV_VALUE_ULONG, .u = UINT64_MAX});
    put(NV_PROP_APPLICATION, "byte", (nv_value){.type = NV_VALUE_BYTE, .i = -128});
    put(NV_PROP_APPLICATION, "short", (nv_value){.type = NV_VALUE_SHORT, .i = -32768});
    put(NV_PROP_APPLICATION, "int", (nv_value){.type = NV_VALUE_INT, .i = INT32_MIN});
    put(NV_PROP_APPLICATION, "long", (nv_value){.type = NV_VALUE_LONG, .i = INT64_MIN});
    put(NV_PROP_APPLICATION, "float", (nv_value){.type = NV_VALUE_FLOAT, .u = 0x40490fdb});
    put(NV_PROP_APPLICATION, "double", (nv_value){.type = NV_VALUE_DOUBLE, .u = bits});
    put(NV_PROP_APPLICATION, "char", (nv_value){.type = NV_VALUE_CHAR, .u = 0x1f600});
    put(NV_PROP_APPLICATION, "time", (nv_value){.type = NV_VALUE_TIMESTAMP, .i = 1700000000123});
    put(NV_PROP_APPLICATION, "uuid", (nv_value){.type = NV_VALUE_UUID, .bytes = nv_span_str("0123456789abcdef")});
    put(NV_PROP_APPLICATION, "binary", (nv_value){.type = NV_VALUE_BINARY, .bytes = nv_span_str("\xff\x02")});
    put(NV_PROP_APPLICATION, "symbol", (nv_value){.type = NV_VALUE_SYMBOL, .bytes = nv_span_str("s")});
    nv_record record = record_of("", "", NV_SOURCE_TELEMETRY, nv_span_str("x"));
    expect_same(&record);
}

static void what_is_no_event_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
    } rows[] = {
        {"", 0},
        {"\x00\x53\x75\xa0\x01x", 6},                                      /* a message without annotations */
        {"\x00\x53\x72\xc1\x01\x00", 6},                                   /* with none in them */
        {"\x00\x53\x72\xc1\xff\x00", 6},                                   /* cut off */
        {"AMQP\x00\x01\x00\x00", 8},                                       /* something else */
        {"\x00\x53\x72\xc1\x1a\x02\xa3\x15x-opt-sequence-number\x41", 30}, /* a number that is none */
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_buf out;
        nv_buf_init(&out, ROOM);
        nv_json_writer w = nv_json_writer_of(&out);
        if (nv_amqp_event_json(&w, 0, nv_span_of(rows[i].bytes, rows[i].len), &scratch)) {
            fail_msg("row %zu: %.*s", i, NV_SPAN_ARG(nv_buf_span(&out)));
        }
        nv_buf_deinit(&out);
    }
}

static void devices_are_told_apart(void **state)
{
    (void)state;
    nv_buf message;
    nv_buf_init(&message, ROOM);
    nv_buf_clear(&properties);
    nv_record record = record_of("m1", "", NV_SOURCE_TELEMETRY, nv_span_str("x"));
    as_message(&record, &message);
    assert_true(nv_amqp_event_is_of(nv_buf_span(&message), "d1")); /* its modules are its own */
    assert_false(nv_amqp_event_is_of(nv_buf_span(&message), "D1"));
    assert_false(nv_amqp_event_is_of(nv_buf_span(&message), "d"));
    assert_false(nv_amqp_event_is_of(nv_span_str("x"), "d1"));
    nv_buf_deinit(&message);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bodies),
        cmocka_unit_test(system_properties),
        cmocka_unit_test(application_properties),
        cmocka_unit_test(what_is_no_event_is_refused),
        cmocka_unit_test(devices_are_told_apart),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
