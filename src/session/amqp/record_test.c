/* Messages to records and back: types, names, ids, bodies, bounds (amqp.md sections 3.4, 3.5, 5.7). */
#include "session/amqp/server_internal.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdio.h>

typedef struct fixture {
    uint8_t memory[1 << 18];
    nv_writer w;
    nv_amqp_message message;
    nv_buf properties;
    nv_buf scratch;
    nv_body_kind kind;
    nv_span body;
} fixture;

static int setup(void **state)
{
    static fixture f;
    f.w = nv_writer_of(f.memory, sizeof(f.memory));
    nv_buf_init(&f.properties, 1 << 17);
    nv_buf_init(&f.scratch, 1 << 17);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    nv_buf_deinit(&f->properties);
    nv_buf_deinit(&f->scratch);
    return 0;
}

/* What was written so far, as a record. */
static nv_err convert(fixture *f)
{
    assert_int_equal(f->w.err, NV_OK);
    assert_int_equal(nv_amqp_message_read(nv_writer_span(&f->w), &f->message), NV_OK);
    nv_buf_clear(&f->properties);
    return amqp_record_of_message(&f->message, &f->properties, &f->scratch, &f->kind, &f->body);
}

static nv_value system_value(const fixture *f, nv_system_property id)
{
    nv_value value = {.type = NV_VALUE_NULL};
    if (!nv_property_find(nv_buf_span(&f->properties), id, &value)) {
        fail_msg("%s is not there", nv_system_property_name((uint8_t)id));
    }
    return value;
}

static bool application_value(const fixture *f, const char *name, nv_value *out)
{
    nv_reader r = nv_reader_of(nv_buf_span(&f->properties));
    nv_property property;
    while (nv_property_next(&r, &property)) {
        if (property.id == NV_PROP_APPLICATION && nv_span_eq_str(property.name, name)) {
            *out = property.value;
            return true;
        }
    }
    return false;
}

static void assert_span(nv_span got, const char *want)
{
    if (!nv_span_eq_str(got, want)) {
        fail_msg("\"%.*s\", wanted \"%s\"", NV_SPAN_ARG(got), want);
    }
}

static void put_body(fixture *f, const char *text)
{
    nv_amqp_put_data_head(&f->w, strlen(text));
    nv_write_span(&f->w, nv_span_str(text));
}

static const uint8_t uuid[16] = {0x0f, 0x8f, 0xad, 0x5b, 0xd9, 0xcb, 0x46, 0x9f,
                                 0xa1, 0x65, 0x70, 0x86, 0x77, 0x28, 0x95, 0x0e};

/* ---- ids --------------------------------------------------------------------------------------------------------- */

/* conformance: amqp.md 27 */
static void ids_become_the_same_text(void **state)
{
    fixture *f = *state;
    static const struct {
        nv_amqp_value value;
        const char *text;
        nv_value_type type;
    } rows[] = {
        {{.type = NV_AMQP_STRING, .bytes = NV_SPAN_LIT("0f8fad5b-d9cb-469f-a165-70867728950e")},
         "0f8fad5b-d9cb-469f-a165-70867728950e",
         NV_VALUE_STRING},
        {{.type = NV_AMQP_UUID, .bytes = {uuid, 16}}, "0f8fad5b-d9cb-469f-a165-70867728950e", NV_VALUE_STRING},
        {{.type = NV_AMQP_ULONG, .u = 0}, "0", NV_VALUE_STRING},
        {{.type = NV_AMQP_ULONG, .u = UINT64_MAX}, "18446744073709551615", NV_VALUE_STRING},
        {{.type = NV_AMQP_BINARY, .bytes = NV_SPAN_LIT("m-1")}, "m-1", NV_VALUE_STRING},
        {{.type = NV_AMQP_BINARY, .bytes = NV_SPAN_LIT("\xff\xfe")}, "\xff\xfe", NV_VALUE_BINARY},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint8_t encoded[64];
        nv_writer id = nv_writer_of(encoded, sizeof(encoded));
        nv_amqp_put(&id, &rows[i].value);
        f->w.at = f->w.start;
        nv_amqp_properties p = {.message_id = nv_writer_span(&id), .correlation_id = nv_writer_span(&id)};
        nv_amqp_put_properties_section(&f->w, &p);
        assert_int_equal(convert(f), NV_OK);
        nv_value value = system_value(f, NV_PROP_MESSAGE_ID);
        assert_int_equal(value.type, rows[i].type);
        assert_span(value.bytes, rows[i].text);
        assert_span(system_value(f, NV_PROP_CORRELATION_ID).bytes, rows[i].text);
    }
}

/* ---- properties ----------------------------------------------------------------------------------------------------
 */

static void all_fields_there_and_back(void **state)
{
    fixture *f = *state;
    uint8_t ids[128];
    nv_writer w = nv_writer_of(ids, sizeof(ids));
    nv_amqp_put_string_of(&w, "one");
    nv_span one = nv_writer_span(&w);
    nv_writer v = nv_writer_of(w.at, (size_t)(w.end - w.at));
    nv_amqp_put_string_of(&v, "two");
    nv_amqp_properties p = {.message_id = one,
                            .user_id = NV_SPAN_LIT("\xffme"),
                            .to = nv_writer_span(&v),
                            .subject = NV_SPAN_LIT("subject"),
                            .reply_to = one,
                            .correlation_id = nv_writer_span(&v),
                            .content_type = NV_SPAN_LIT("application/json"),
                            .content_encoding = NV_SPAN_LIT("utf-8"),
                            .group_id = NV_SPAN_LIT("g"),
                            .reply_to_group_id = NV_SPAN_LIT("r")};
    NV_AMQP_SET(&p, properties, absolute_expiry_time, 1700000000123);
    NV_AMQP_SET(&p, properties, creation_time, -5);
    NV_AMQP_SET(&p, properties, group_sequence, 7);
    nv_amqp_put_properties_section(&f->w, &p);
    assert_int_equal(convert(f), NV_OK);
    assert_int_equal(system_value(f, NV_PROP_USER_ID).type, NV_VALUE_BINARY);
    assert_int_equal(system_value(f, NV_PROP_CONTENT_TYPE).type, NV_VALUE_SYMBOL);
    assert_int_equal(system_value(f, NV_PROP_CREATION_TIME_AMQP).i, -5);

    uint8_t out[1024];
    nv_writer back = nv_writer_of(out, sizeof(out));
    amqp_put_record_properties(&back, nv_buf_span(&f->properties), false);
    assert_int_equal(back.err, NV_OK);
    nv_amqp_message again;
    assert_int_equal(nv_amqp_message_read(nv_writer_span(&back), &again), NV_OK);
    const nv_amqp_properties *q = &again.properties;
    assert_true(again.has_properties);
    assert_int_equal(q->present & ((1u << NV_AMQP_COUNT_OF_properties) - 1), (1u << NV_AMQP_COUNT_OF_properties) - 1);
    assert_true(nv_span_eq(q->message_id, p.message_id));
    assert_true(nv_span_eq(q->user_id, p.user_id));
    assert_true(nv_span_eq(q->to, p.to));
    assert_true(nv_span_eq(q->subject, p.subject));
    assert_true(nv_span_eq(q->reply_to, p.reply_to));
    assert_true(nv_span_eq(q->correlation_id, p.correlation_id));
    assert_true(nv_span_eq(q->content_type, p.content_type));
    assert_true(nv_span_eq(q->content_encoding, p.content_encoding));
    assert_true(nv_span_eq(q->group_id, p.group_id));
    assert_true(nv_span_eq(q->reply_to_group_id, p.reply_to_group_id));
    assert_true(q->absolute_expiry_time == 1700000000123 && q->creation_time == -5 && q->group_sequence == 7);
}

/* Every primitive that a record has, edge values included. */
static const struct {
    nv_amqp_value value;
    const char *text;
} typed[] = {
    {{.type = NV_AMQP_NULL}, ""},
    {{.type = NV_AMQP_BOOLEAN, .boolean = true}, "true"},
    {{.type = NV_AMQP_BOOLEAN, .boolean = false}, "false"},
    {{.type = NV_AMQP_UBYTE, .u = 255}, "255"},
    {{.type = NV_AMQP_USHORT, .u = 65535}, "65535"},
    {{.type = NV_AMQP_UINT, .u = 0}, "0"},
    {{.type = NV_AMQP_UINT, .u = UINT32_MAX}, "4294967295"},
    {{.type = NV_AMQP_ULONG, .u = 200}, "200"},
    {{.type = NV_AMQP_BYTE, .i = -128}, "-128"},
    {{.type = NV_AMQP_SHORT, .i = -32768}, "-32768"},
    {{.type = NV_AMQP_INT, .i = INT32_MIN}, "-2147483648"},
    {{.type = NV_AMQP_LONG, .i = INT64_MIN}, "-9223372036854775808"},
    {{.type = NV_AMQP_FLOAT, .u = 0x3fc00000}, "1.5"},
    {{.type = NV_AMQP_DOUBLE, .u = 0xc000000000000000}, "-2"},
    {{.type = NV_AMQP_CHAR, .u = 0x20ac}, "\xe2\x82\xac"},
    {{.type = NV_AMQP_TIMESTAMP, .i = 0}, "1970-01-01T00:00:00.0000000Z"},
    {{.type = NV_AMQP_UUID, .bytes = {uuid, 16}}, "0f8fad5b-d9cb-469f-a165-70867728950e"},
    {{.type = NV_AMQP_BINARY, .bytes = NV_SPAN_LIT("abc")}, "abc"},
    {{.type = NV_AMQP_BINARY, .bytes = NV_SPAN_LIT("\xff\x00\x01")}, "/wAB"}, /* base64: no text */
    {{.type = NV_AMQP_STRING, .bytes = NV_SPAN_LIT("")}, ""},
    {{.type = NV_AMQP_SYMBOL, .bytes = NV_SPAN_LIT("sym")}, "sym"},
};

static void put_typed_map(fixture *f)
{
    size_t mark = nv_amqp_begin_map_section(&f->w, NV_AMQP_APPLICATION_PROPERTIES);
    for (size_t i = 0; i < NV_COUNT_OF(typed); i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "p%zu", i);
        nv_amqp_put_string_of(&f->w, name);
        nv_amqp_put(&f->w, &typed[i].value);
    }
    nv_amqp_end_map(&f->w, mark, 2 * NV_COUNT_OF(typed));
}

static void application_properties_keep_their_types(void **state)
{
    fixture *f = *state;
    put_typed_map(f);
    assert_int_equal(convert(f), NV_OK);
    uint8_t out[4096];
    nv_writer back = nv_writer_of(out, sizeof(out));
    amqp_put_record_properties(&back, nv_buf_span(&f->properties), false);
    assert_true(nv_span_eq(nv_writer_span(&back), nv_writer_span(&f->w)));
}

static void strings_only_for_devices(void **state)
{
    fixture *f = *state;
    put_typed_map(f);
    assert_int_equal(convert(f), NV_OK);
    uint8_t out[4096];
    nv_writer back = nv_writer_of(out, sizeof(out));
    amqp_put_record_properties(&back, nv_buf_span(&f->properties), true);
    assert_true(nv_writer_len(&back) <= amqp_record_properties_max(nv_buf_len(&f->properties)));
    nv_amqp_message again;
    assert_int_equal(nv_amqp_message_read(nv_writer_span(&back), &again), NV_OK);
    nv_reader at = nv_reader_of(again.application_properties.bytes);
    nv_amqp_value key;
    nv_amqp_value value;
    for (size_t i = 0; i < NV_COUNT_OF(typed); i++) {
        assert_true(nv_amqp_map_next(&at, &key, &value));
        assert_int_equal(value.type, NV_AMQP_STRING);
        assert_span(value.bytes, typed[i].text);
    }
    assert_false(nv_amqp_map_next(&at, &key, &value));
}

static void known_names_move_to_the_system(void **state)
{
    fixture *f = *state;
    nv_value value;
    size_t mark = nv_amqp_begin_map_section(&f->w, NV_AMQP_MESSAGE_ANNOTATIONS);
    nv_amqp_put_symbol_of(&f->w, "iothub-interface-id");
    nv_amqp_put_string_of(&f->w, "urn:i");
    nv_amqp_put_symbol_of(&f->w, "dt-subject");
    nv_amqp_put_string_of(&f->w, "component");
    nv_amqp_put_symbol_of(&f->w, "x-opt-unknown");
    nv_amqp_put_string_of(&f->w, "left out");
    nv_amqp_put_symbol_of(&f->w, "Diagnostic-Id");
    nv_amqp_put_string_of(&f->w, "d");
    nv_amqp_put_ulong(&f->w, 5); /* no name at all */
    nv_amqp_put_long(&f->w, 5);
    nv_amqp_end_map(&f->w, mark, 10);
    mark = nv_amqp_begin_map_section(&f->w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&f->w, "iothub-outputname");
    nv_amqp_put_string_of(&f->w, "out");
    nv_amqp_put_string_of(&f->w, "iothub-message-schema");
    nv_amqp_put_string_of(&f->w, "s;v1");
    nv_amqp_put_string_of(&f->w, "iothub-operation");
    nv_amqp_put_string_of(&f->w, "op");
    nv_amqp_put_string_of(&f->w, "iothub-interface-id"); /* the annotation was first */
    nv_amqp_put_string_of(&f->w, "urn:other");
    nv_amqp_put_string_of(&f->w, "iothub-connection-device-id"); /* the hub's own word */
    nv_amqp_put_string_of(&f->w, "forged");
    nv_amqp_put_string_of(&f->w, "colour");
    nv_amqp_put_string_of(&f->w, "red");
    nv_amqp_end_map(&f->w, mark, 12);
    put_body(f, "{}");
    assert_int_equal(convert(f), NV_OK);
    assert_span(system_value(f, NV_PROP_INTERFACE_ID).bytes, "urn:i");
    assert_span(system_value(f, NV_PROP_SUBJECT).bytes, "component");
    assert_span(system_value(f, NV_PROP_DIAGNOSTIC_ID).bytes, "d");
    assert_span(system_value(f, NV_PROP_OUTPUT_NAME).bytes, "out");
    assert_span(system_value(f, NV_PROP_SCHEMA).bytes, "s;v1");
    assert_span(system_value(f, NV_PROP_OPERATION).bytes, "op");
    assert_false(application_value(f, "iothub-connection-device-id", &value));
    assert_false(application_value(f, "iothub-interface-id", &value));
    assert_false(application_value(f, "x-opt-unknown", &value));
    assert_true(application_value(f, "colour", &value));
    assert_span(f->body, "{}");
}

/* A record that came over MQTT: its text is what the sections want, or is left out. */
static void foreign_records_become_good_messages(void **state)
{
    (void)state;
    nv_buf section;
    nv_buf_init(&section, 4096);
    static const nv_property given[] = {
        {.id = NV_PROP_MESSAGE_ID, .value = {.type = NV_VALUE_STRING, .bytes = NV_SPAN_LIT("m")}},
        {.id = NV_PROP_MESSAGE_ID, .value = {.type = NV_VALUE_STRING, .bytes = NV_SPAN_LIT("second")}},
        {.id = NV_PROP_USER_ID, .value = {.type = NV_VALUE_STRING, .bytes = NV_SPAN_LIT("me")}},
        {.id = NV_PROP_CONTENT_TYPE, .value = {.type = NV_VALUE_STRING, .bytes = NV_SPAN_LIT("text/\xc3\xa9")}},
        {.id = NV_PROP_CONTENT_ENCODING, .value = {.type = NV_VALUE_STRING, .bytes = NV_SPAN_LIT("utf-8")}},
        {.id = NV_PROP_CREATION_TIME_AMQP, .value = {.type = NV_VALUE_STRING, .bytes = NV_SPAN_LIT("yesterday")}},
        {.name = NV_SPAN_LIT("n\xff"), .value = {.type = NV_VALUE_STRING, .bytes = NV_SPAN_LIT("v\xff")}},
    };
    for (size_t i = 0; i < NV_COUNT_OF(given); i++) {
        assert_int_equal(nv_property_put(&section, &given[i]), NV_OK);
    }
    uint8_t out[1024];
    nv_writer back = nv_writer_of(out, sizeof(out));
    amqp_put_record_properties(&back, nv_buf_span(&section), false);
    assert_int_equal(back.err, NV_OK);
    assert_true(nv_writer_len(&back) <= amqp_record_properties_max(nv_buf_len(&section)));
    nv_amqp_message m;
    assert_int_equal(nv_amqp_message_read(nv_writer_span(&back), &m), NV_OK);
    assert_span(nv_amqp_text_of(m.properties.message_id), "m");
    assert_span(m.properties.user_id, "me");
    assert_null(m.properties.content_type.ptr); /* a symbol is ASCII */
    assert_span(m.properties.content_encoding, "utf-8");
    assert_false(NV_AMQP_HAS(&m.properties, properties, creation_time));
    nv_reader at = nv_reader_of(m.application_properties.bytes);
    nv_amqp_value key;
    nv_amqp_value value;
    assert_true(nv_amqp_map_next(&at, &key, &value));
    assert_int_equal(key.type, NV_AMQP_STRING);
    assert_int_equal(value.type, NV_AMQP_BINARY);
    nv_buf_deinit(&section);
}

static void nothing_to_say_writes_nothing(void **state)
{
    (void)state;
    uint8_t out[64];
    nv_writer back = nv_writer_of(out, sizeof(out));
    amqp_put_record_properties(&back, NV_SPAN_EMPTY, false);
    assert_int_equal(nv_writer_len(&back), 0);
}

/* ---- bodies --------------------------------------------------------------------------------------------------------
 */

static void bodies_keep_their_kind(void **state)
{
    fixture *f = *state;
    /* none */
    assert_int_equal(convert(f), NV_OK);
    assert_int_equal(f->kind, NV_BODY_DATA);
    assert_int_equal(f->body.len, 0);
    /* data, in place */
    put_body(f, "one");
    assert_int_equal(convert(f), NV_OK);
    assert_ptr_equal(f->body.ptr, f->w.at - 3);
    /* data of several sections is joined */
    put_body(f, "two");
    put_body(f, "");
    put_body(f, "three");
    assert_int_equal(convert(f), NV_OK);
    assert_int_equal(f->kind, NV_BODY_DATA);
    assert_span(f->body, "onetwothree");
    /* a value, and back */
    f->w.at = f->w.start;
    nv_amqp_put_value_head(&f->w);
    nv_amqp_put_string_of(&f->w, "text");
    assert_int_equal(convert(f), NV_OK);
    assert_int_equal(f->kind, NV_BODY_AMQP_VALUE);
    uint8_t out[256];
    nv_writer back = nv_writer_of(out, sizeof(out));
    amqp_put_body_head(&back, f->kind, f->body.len);
    nv_write_span(&back, f->body);
    assert_true(nv_span_eq(nv_writer_span(&back), nv_writer_span(&f->w)));
    /* two sequences, and back */
    f->w.at = f->w.start;
    for (int i = 0; i < 2; i++) {
        nv_amqp_put_descriptor(&f->w, NV_AMQP_SEQUENCE);
        size_t mark = nv_amqp_begin_list(&f->w);
        nv_amqp_put_long(&f->w, i);
        nv_amqp_end_list(&f->w, mark, 1);
    }
    assert_int_equal(convert(f), NV_OK);
    assert_int_equal(f->kind, NV_BODY_AMQP_SEQUENCE);
    back = nv_writer_of(out, sizeof(out));
    amqp_put_body_head(&back, f->kind, f->body.len);
    nv_write_span(&back, f->body);
    assert_true(nv_span_eq(nv_writer_span(&back), nv_writer_span(&f->w)));
}

/* ---- bounds --------------------------------------------------------------------------------------------------------
 */

static void too_many_properties_are_refused(void **state)
{
    fixture *f = *state;
    for (uint32_t count = 256; count <= 257; count++) {
        f->w.at = f->w.start;
        size_t mark = nv_amqp_begin_map_section(&f->w, NV_AMQP_APPLICATION_PROPERTIES);
        for (uint32_t i = 0; i < count; i++) {
            nv_amqp_put_string_of(&f->w, "k");
            nv_amqp_put_null(&f->w);
        }
        nv_amqp_end_map(&f->w, mark, 2 * count);
        assert_int_equal(convert(f), count > 256 ? NV_E_LIMIT : NV_OK);
    }
}

static void what_is_no_primitive_is_refused(void **state)
{
    fixture *f = *state;
    static const uint8_t values[][8] = {
        {0x45},                               /* a list */
        {0xc1, 0x01, 0x00},                   /* a map */
        {0x74, 0x00, 0x00, 0x00, 0x00},       /* decimal32 */
        {0x00, 0x53, 0x24, 0x40},             /* described */
        {0xe0, 0x04, 0x02, 0x50, 0x01, 0x02}, /* an array */
    };
    static const size_t lengths[] = {1, 3, 5, 4, 6};
    for (size_t i = 0; i < NV_COUNT_OF(values); i++) {
        f->w.at = f->w.start;
        size_t mark = nv_amqp_begin_map_section(&f->w, NV_AMQP_APPLICATION_PROPERTIES);
        nv_amqp_put_string_of(&f->w, "k");
        nv_amqp_put_raw(&f->w, nv_span_of(values[i], lengths[i]));
        nv_amqp_end_map(&f->w, mark, 2);
        assert_int_equal(convert(f), NV_E_UNSUPPORTED);
    }
    f->w.at = f->w.start;
    size_t mark = nv_amqp_begin_map_section(&f->w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_long(&f->w, 1); /* a key that is no text */
    nv_amqp_put_null(&f->w);
    nv_amqp_end_map(&f->w, mark, 2);
    assert_int_equal(convert(f), NV_E_SYNTAX);
}

static void too_much_is_refused(void **state)
{
    fixture *f = *state;
    size_t mark = nv_amqp_begin_map_section(&f->w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&f->w, "k");
    static uint8_t large[65536];
    nv_amqp_put_binary(&f->w, nv_span_of(large, sizeof(large)));
    nv_amqp_end_map(&f->w, mark, 2);
    assert_int_equal(convert(f), NV_E_TOO_BIG);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(ids_become_the_same_text),
        TEST(all_fields_there_and_back),
        TEST(application_properties_keep_their_types),
        TEST(strings_only_for_devices),
        TEST(known_names_move_to_the_system),
        TEST(foreign_records_become_good_messages),
        TEST(nothing_to_say_writes_nothing),
        TEST(bodies_keep_their_kind),
        TEST(too_many_properties_are_refused),
        TEST(what_is_no_primitive_is_refused),
        TEST(too_much_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
