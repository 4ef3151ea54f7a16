/** Properties and stamps keep every type and bit, and damaged bytes are refused. */
#include "store/record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const uint8_t uuid[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

static const nv_property rows[] = {
    {.id = NV_PROP_MESSAGE_ID, .value = {.type = NV_VALUE_STRING, .bytes = NV_SPAN_LIT("m-1")}},
    {.name = NV_SPAN_LIT("null"), .value = {.type = NV_VALUE_NULL}},
    {.name = NV_SPAN_LIT("bool"), .value = {.type = NV_VALUE_BOOL, .boolean = true}},
    {.name = NV_SPAN_LIT("u8"), .value = {.type = NV_VALUE_UBYTE, .u = 255}},
    {.name = NV_SPAN_LIT("u16"), .value = {.type = NV_VALUE_USHORT, .u = 65535}},
    {.name = NV_SPAN_LIT("u32"), .value = {.type = NV_VALUE_UINT, .u = UINT32_MAX}},
    {.name = NV_SPAN_LIT("u64"), .value = {.type = NV_VALUE_ULONG, .u = UINT64_MAX}},
    {.name = NV_SPAN_LIT("i8"), .value = {.type = NV_VALUE_BYTE, .i = -128}},
    {.name = NV_SPAN_LIT("i16"), .value = {.type = NV_VALUE_SHORT, .i = -32768}},
    {.name = NV_SPAN_LIT("i32"), .value = {.type = NV_VALUE_INT, .i = INT32_MIN}},
    {.name = NV_SPAN_LIT("i64"), .value = {.type = NV_VALUE_LONG, .i = INT64_MIN}},
    {.name = NV_SPAN_LIT("f"), .value = {.type = NV_VALUE_FLOAT, .u = 0x41ad999a}},
    {.name = NV_SPAN_LIT("d"), .value = {.type = NV_VALUE_DOUBLE, .u = UINT64_C(0x4035b33333333333)}},
    {.name = NV_SPAN_LIT("c"), .value = {.type = NV_VALUE_CHAR, .u = 0x1f600}},
    {.name = NV_SPAN_LIT("t"), .value = {.type = NV_VALUE_TIMESTAMP, .i = -1}},
    {.name = NV_SPAN_LIT("uuid"), .value = {.type = NV_VALUE_UUID, .bytes = {uuid, 16}}},
    {.name = NV_SPAN_LIT(""), .value = {.type = NV_VALUE_BINARY, .bytes = NV_SPAN_LIT("\0\xff")}},
    {.name = NV_SPAN_LIT("sym"), .value = {.type = NV_VALUE_SYMBOL, .bytes = NV_SPAN_LIT("")}},
};

static bool has_bytes(nv_value_type type)
{
    return type >= NV_VALUE_UUID;
}

static void properties_round_trip(void **state)
{
    (void)state;
    nv_buf buf;
    nv_buf_init(&buf, 4096);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        assert_int_equal(nv_property_put(&buf, &rows[i]), NV_OK);
    }
    nv_reader r = nv_reader_of(nv_buf_span(&buf));
    nv_property got;
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        assert_true(nv_property_next(&r, &got));
        assert_int_equal(got.id, rows[i].id);
        assert_true(nv_span_eq(got.name, rows[i].name));
        assert_int_equal(got.value.type, rows[i].value.type);
        if (has_bytes(got.value.type)) {
            assert_true(nv_span_eq(got.value.bytes, rows[i].value.bytes));
        } else if (got.value.type == NV_VALUE_BOOL) {
            assert_int_equal(got.value.boolean, rows[i].value.boolean);
        } else {
            assert_true(got.value.u == rows[i].value.u);
        }
    }
    assert_false(nv_property_next(&r, &got));
    assert_int_equal(r.err, NV_OK);
    nv_value value;
    assert_true(nv_property_find(nv_buf_span(&buf), NV_PROP_MESSAGE_ID, &value));
    assert_true(nv_span_eq_str(value.bytes, "m-1"));
    assert_false(nv_property_find(nv_buf_span(&buf), NV_PROP_TO, &value));
    assert_false(nv_property_find(nv_buf_span(&buf), NV_PROP_APPLICATION, &value));
    for (size_t cut = 1; cut < nv_buf_len(&buf); cut++) { /* every prefix ends cleanly */
        r = nv_reader_of(nv_span_first(nv_buf_span(&buf), cut));
        while (nv_property_next(&r, &got)) {
        }
        assert_true(r.err == NV_OK || r.err == NV_E_SYNTAX);
    }
    nv_buf_deinit(&buf);
}

static void bytes_on_disk(void **state)
{
    (void)state;
    static const nv_property property = {.name = NV_SPAN_LIT("ab"), .value = {.type = NV_VALUE_INT, .i = -2}};
    static const uint8_t expect[] = {0, 2, 0, 'a', 'b', 8, 0xfe, 0xff, 0xff, 0xff};
    static const uint8_t stamp_bytes[] = {1, 0, 1, 0, 'd', 1, 0, 'm', 2, 0, 'g', '1', 0, 0};
    nv_buf buf;
    nv_buf_init(&buf, 64);
    assert_int_equal(nv_property_put(&buf, &property), NV_OK);
    assert_true(nv_span_eq(nv_buf_span(&buf), nv_span_of(expect, sizeof(expect))));
    nv_buf_clear(&buf);
    nv_stamp stamp = {.device_id = NV_SPAN_LIT("d"),
                      .module_id = NV_SPAN_LIT("m"),
                      .generation_id = NV_SPAN_LIT("g1"),
                      .scope = NV_AUTH_SCOPE_MODULE};
    assert_int_equal(nv_stamp_encode(&buf, &stamp), NV_OK);
    assert_true(nv_span_eq(nv_buf_span(&buf), nv_span_of(stamp_bytes, sizeof(stamp_bytes))));
    nv_stamp back;
    assert_int_equal(nv_stamp_decode(nv_buf_span(&buf), &back), NV_OK);
    assert_true(nv_span_eq_str(back.generation_id, "g1"));
    assert_string_equal(nv_stamp_auth_method(&back), "{\"scope\":\"module\",\"type\":\"sas\",\"issuer\":\"iothub\","
                                                     "\"acceptingIpFilterRule\":null}");
    for (size_t cut = 0; cut < sizeof(stamp_bytes); cut++) {
        assert_int_equal(nv_stamp_decode(nv_span_of(stamp_bytes, cut), &back), NV_E_CORRUPT);
    }
    uint8_t bad[sizeof(stamp_bytes)];
    memcpy(bad, stamp_bytes, sizeof(bad));
    bad[0] = 3;
    assert_int_equal(nv_stamp_decode(nv_span_of(bad, sizeof(bad)), &back), NV_E_CORRUPT);
    nv_buf_deinit(&buf);
}

static void refused(void **state)
{
    (void)state;
    static const uint8_t long_name[65536];
    nv_buf buf;
    nv_buf_init(&buf, 1 << 20);
    nv_property property = {.name = {long_name, sizeof(long_name)}, .value = {.type = NV_VALUE_NULL}};
    assert_int_equal(nv_property_put(&buf, &property), NV_E_TOO_BIG);
    property = (nv_property){.id = 1, .value = {.type = NV_VALUE_STRING, .bytes = {long_name, sizeof(long_name)}}};
    assert_int_equal(nv_property_put(&buf, &property), NV_E_TOO_BIG);
    property.value = (nv_value){.type = NV_VALUE_UUID, .bytes = {long_name, 15}};
    assert_int_equal(nv_property_put(&buf, &property), NV_E_INVALID);
    nv_buf_deinit(&buf);
    nv_buf_init(&buf, 3);
    property.value = nv_value_string(nv_span_str("x"));
    assert_int_equal(nv_property_put(&buf, &property), NV_E_TOO_BIG);
    nv_buf_deinit(&buf);
    static const uint8_t unknown_type[] = {1, 99};
    nv_reader r = nv_reader_of(nv_span_of(unknown_type, 2));
    assert_false(nv_property_next(&r, &property));
    assert_int_equal(r.err, NV_E_CORRUPT);
}

static void names(void **state)
{
    (void)state;
    assert_int_equal(nv_system_property_of_mqtt(nv_span_str("$.ct")), NV_PROP_CONTENT_TYPE);
    assert_int_equal(nv_system_property_of_mqtt(nv_span_str("$.c")), NV_PROP_APPLICATION);
    assert_string_equal(nv_system_property_name(NV_PROP_CONTENT_TYPE), "content-type");
    assert_null(nv_system_property_name(0));
    assert_null(nv_system_property_name(200));
    assert_string_equal(nv_source_name(NV_SOURCE_TELEMETRY), "Telemetry");
    assert_null(nv_source_name(77));
}

static void stamped_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool stamped;
    } stamped[] = {
        {"iothub-connection-device-id", true},
        {"iothub-connection-module-id", true},
        {"iothub-connection-auth-method", true},
        {"iothub-connection-auth-generation-id", true},
        {"iothub-enqueuedtime", true},
        {"iothub-message-source", true},
        {"dt-dataschema", true},
        {"", false},
        {"i", false},
        {"dt-subject", false},
        {"iothub-connection-device-id2", false},
        {"iothub-connection-device", false},
        {"IOTHUB-enqueuedtime", true}, /* of a header, whose case means nothing */
        {"message-id", false},
        {"$.cdid", false}, /* a key of MQTT, not a name */
    };
    for (size_t i = 0; i < NV_COUNT_OF(stamped); i++) {
        if (nv_property_is_stamped(nv_span_str(stamped[i].name)) != stamped[i].stamped) {
            fail_msg("\"%s\"", stamped[i].name);
        }
    }
}

static void values_as_text(void **state)
{
    (void)state;
    static const char *const texts[] = {"m-1",
                                        "",
                                        "true",
                                        "255",
                                        "65535",
                                        "4294967295",
                                        "18446744073709551615",
                                        "-128",
                                        "-32768",
                                        "-2147483648",
                                        "-9223372036854775808",
                                        "21.7000008",
                                        "21.699999999999999",
                                        "\xF0\x9F\x98\x80",
                                        "1969-12-31T23:59:59.9990000Z",
                                        "01020304-0506-0708-090a-0b0c0d0e0f10",
                                        NULL,
                                        ""};
    assert_int_equal(NV_COUNT_OF(texts), NV_COUNT_OF(rows));
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char scratch[NV_VALUE_TEXT_SIZE];
        nv_span text = nv_value_text(&rows[i].value, scratch);
        assert_true(texts[i] ? nv_span_eq_str(text, texts[i]) : nv_span_eq(text, rows[i].value.bytes));
    }
    char scratch[NV_VALUE_TEXT_SIZE];
    nv_value far = {.type = NV_VALUE_TIMESTAMP, .i = INT64_MAX}; /* no date */
    assert_true(nv_span_eq_str(nv_value_text(&far, scratch), "9223372036854775807"));
    nv_value broken = {.type = NV_VALUE_UUID, .bytes = nv_span_of(uuid, 3)};
    assert_int_equal(nv_value_text(&broken, scratch).len, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(properties_round_trip),
        cmocka_unit_test(bytes_on_disk),
        cmocka_unit_test(refused),
        cmocka_unit_test(names),
        cmocka_unit_test(stamped_names),
        cmocka_unit_test(values_as_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
