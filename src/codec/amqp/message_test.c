/** Messages of AMQP 1.0 (part 3 section 3.2): their sections found in bytes of others, and written. */
#include "codec/amqp/message.h"
#include "codec/amqp/vectors.h"

/** As many sections as there are, written by Proton 0.37. */
#define ALL_SECTIONS                                                                                                   \
    "005370c00c054150097000002710415204005371d10000000a00000002a30169a10164005372d10000000f00000002a307782d6f70742d61" \
    "5301005373c0610da103616263a00175a11a2f646576696365732f642f6d657373616765732f6576656e7473a10173a101725307a3106170" \
    "706c69636174696f6e2f6a736f6ea3057574662d388300000000000005dc8300000000000007d0a101675203a1027267005374d10000000f" \
    "00000004a1016ba10176a1016e54fb005375a00568656c6c6f"

static nv_amqp_message read_message(const char *hex, nv_span *bytes)
{
    nv_amqp_message message;
    *bytes = bytes_of(hex);
    nv_err err = nv_amqp_message_read(*bytes, &message);
    if (err != NV_OK) {
        fail_msg("%s: %s", hex, nv_err_name(err));
    }
    return message;
}

static void every_section_is_found(void **state)
{
    (void)state;
    nv_span bytes;
    nv_amqp_message m = read_message(ALL_SECTIONS, &bytes);
    assert_true(m.has_header);
    assert_true(m.header.durable);
    assert_int_equal(m.header.priority, 9);
    assert_int_equal(m.header.ttl, 10000);
    assert_true(m.header.first_acquirer);
    assert_int_equal(m.header.delivery_count, 4);
    nv_amqp_value value;
    assert_true(nv_amqp_map_find(&m.delivery_annotations, "i", &value));
    assert_true(nv_span_eq_str(value.bytes, "d"));
    assert_true(nv_amqp_map_find(&m.message_annotations, "x-opt-a", &value));
    assert_int_equal(value.type, NV_AMQP_ULONG);
    assert_true(m.has_properties);
    assert_true(nv_span_eq_str(nv_amqp_text_of(m.properties.message_id), "abc"));
    assert_true(nv_span_eq_str(m.properties.user_id, "u"));
    assert_true(nv_span_eq_str(nv_amqp_text_of(m.properties.to), "/devices/d/messages/events"));
    assert_true(nv_span_eq_str(m.properties.subject, "s"));
    assert_true(nv_span_eq_str(nv_amqp_text_of(m.properties.reply_to), "r"));
    assert_hex("correlation-id", m.properties.correlation_id, "5307");
    assert_true(nv_span_eq_str(m.properties.content_type, "application/json"));
    assert_true(nv_span_eq_str(m.properties.content_encoding, "utf-8"));
    assert_int_equal(m.properties.absolute_expiry_time, 1500);
    assert_int_equal(m.properties.creation_time, 2000);
    assert_true(nv_span_eq_str(m.properties.group_id, "g"));
    assert_int_equal(m.properties.group_sequence, 3);
    assert_true(nv_span_eq_str(m.properties.reply_to_group_id, "rg"));
    assert_int_equal(m.application_properties.count, 4);
    assert_true(nv_amqp_map_find(&m.application_properties, "n", &value));
    assert_int_equal(value.type, NV_AMQP_INT);
    assert_int_equal(value.i, -5);
    assert_int_equal(m.body_kind, NV_AMQP_BODY_IS_DATA);
    assert_int_equal(m.sections, 1);
    assert_true(nv_span_eq_str(m.body, "hello"));
    release(bytes);
}

/** A message cut at any byte is an error, or what stands before a section. */
static void cut_messages_are_errors(void **state)
{
    (void)state;
    static const size_t ends[] = {0, 17, 35, 58, 160, 183, 193};
    nv_span bytes = bytes_of(ALL_SECTIONS);
    size_t next = 0;
    assert_int_equal(bytes.len, ends[NV_COUNT_OF(ends) - 1]);
    for (size_t len = 0; len < bytes.len; len++) {
        nv_span cut = copy_of(nv_span_first(bytes, len));
        nv_amqp_message m;
        bool is_end = len == ends[next];
        next += is_end ? 1 : 0;
        nv_err err = nv_amqp_message_read(cut, &m);
        if (err != (is_end ? NV_OK : NV_E_SYNTAX)) {
            fail_msg("cut to %zu bytes: %s", len, nv_err_name(err));
        }
        release(cut);
    }
    release(bytes);
}

static const struct {
    const char *name;
    const char *hex;
    nv_err err;
    nv_amqp_body_kind kind;
    uint32_t sections;
    nv_err bytes_err;
    const char *body; /* as bytes, in hex */
} messages[] = {
    {"nothing at all", "", NV_OK, NV_AMQP_BODY_NONE, 0, NV_OK, ""},
    {"no body", "005370C00100", NV_OK, NV_AMQP_BODY_NONE, 0, NV_OK, ""},
    {"an empty section of data", "005375A000", NV_OK, NV_AMQP_BODY_IS_DATA, 1, NV_OK, ""},
    {"data", "005375A0026869", NV_OK, NV_AMQP_BODY_IS_DATA, 1, NV_OK, "6869"},
    {"data, long form", "005375B0000000026869", NV_OK, NV_AMQP_BODY_IS_DATA, 1, NV_OK, "6869"},
    {"three sections of data", "005375A00168 005375A000 005375B00000000169", NV_OK, NV_AMQP_BODY_IS_DATA, 3, NV_OK,
     "6869"},
    {"data, by a long number", "00800000000000000075A00168", NV_OK, NV_AMQP_BODY_IS_DATA, 1, NV_OK, "68"},
    {"data, by its symbol", "00A310616D71703A646174613A62696E617279A00168", NV_OK, NV_AMQP_BODY_IS_DATA, 1, NV_OK,
     "68"},
    {"a string", "005377A1026869", NV_OK, NV_AMQP_BODY_IS_VALUE, 1, NV_OK, "6869"},
    {"a symbol", "005377A3026869", NV_OK, NV_AMQP_BODY_IS_VALUE, 1, NV_OK, "6869"},
    {"binary", "005377A0026869", NV_OK, NV_AMQP_BODY_IS_VALUE, 1, NV_OK, "6869"},
    {"the value null", "00537740", NV_OK, NV_AMQP_BODY_IS_VALUE, 1, NV_OK, ""},
    {"a number", "0053775401", NV_OK, NV_AMQP_BODY_IS_VALUE, 1, NV_E_UNSUPPORTED, ""},
    {"a map", "005377C10502A3016B40", NV_OK, NV_AMQP_BODY_IS_VALUE, 1, NV_E_UNSUPPORTED, ""},
    {"a described value", "00537700532445", NV_OK, NV_AMQP_BODY_IS_VALUE, 1, NV_E_UNSUPPORTED, ""},
    {"a sequence", "005376C00502540154 02", NV_OK, NV_AMQP_BODY_IS_SEQUENCE, 1, NV_E_UNSUPPORTED, ""},
    {"two sequences", "00537645 005376C0020140", NV_OK, NV_AMQP_BODY_IS_SEQUENCE, 2, NV_E_UNSUPPORTED, ""},
    {"a footer", "005375A00168 005378C10502A3016B40", NV_OK, NV_AMQP_BODY_IS_DATA, 1, NV_OK, "68"},
    {"unknown sections anywhere", "00537F40 005375A00168 00A30161C1050240405401 005375A00169 00803333333333333333 45",
     NV_OK, NV_AMQP_BODY_IS_DATA, 2, NV_OK, "6869"},
    {"every section by its symbol",
     "00A310616D71703A6865616465723A6C69737445"
     "00A31D616D71703A64656C69766572792D616E6E6F746174696F6E733A6D6170C10100"
     "00A31C616D71703A6D6573736167652D616E6E6F746174696F6E733A6D6170C10100"
     "00A314616D71703A70726F706572746965733A6C69737445"
     "00A31F616D71703A6170706C69636174696F6E2D70726F706572746965733A6D6170C10100"
     "00A311616D71703A616D71702D76616C75653A2A40"
     "00A30F616D71703A666F6F7465723A6D6170C10100",
     NV_OK, NV_AMQP_BODY_IS_VALUE, 1, NV_OK, ""},
    {"a sequence by its symbol", "00A317616D71703A616D71702D73657175656E63653A6C69737445", NV_OK,
     NV_AMQP_BODY_IS_SEQUENCE, 1, NV_E_UNSUPPORTED, ""},
    {"properties, then the header", "00537345 00537045", NV_E_SYNTAX, 0, 0, 0, ""},
    {"two headers", "00537045 00537045", NV_E_SYNTAX, 0, 0, 0, ""},
    {"two properties", "00537345 00537345", NV_E_SYNTAX, 0, 0, 0, ""},
    {"annotations behind the body", "005375A000 005372C10100", NV_E_SYNTAX, 0, 0, 0, ""},
    {"delivery annotations behind the others", "005372C10100 005371C10100", NV_E_SYNTAX, 0, 0, 0, ""},
    {"two footers", "005378C10100 005378C10100", NV_E_SYNTAX, 0, 0, 0, ""},
    {"a body behind the footer", "005378C10100 005375A000", NV_E_SYNTAX, 0, 0, 0, ""},
    {"two values", "00537740 00537740", NV_E_SYNTAX, 0, 0, 0, ""},
    {"data and a value", "005375A000 00537740", NV_E_SYNTAX, 0, 0, 0, ""},
    {"data and a sequence", "005375A000 00537645", NV_E_SYNTAX, 0, 0, 0, ""},
    {"a sequence and data", "00537645 005375A000", NV_E_SYNTAX, 0, 0, 0, ""},
    {"data of string", "005375A100", NV_E_SYNTAX, 0, 0, 0, ""},
    {"data of null", "00537540", NV_E_SYNTAX, 0, 0, 0, ""},
    {"data of 4 GiB", "005375B0FFFFFFFF00", NV_E_SYNTAX, 0, 0, 0, ""},
    {"a sequence of null", "00537640", NV_E_SYNTAX, 0, 0, 0, ""},
    {"a sequence of a map", "005376C10100", NV_E_SYNTAX, 0, 0, 0, ""},
    {"a sequence, described", "00537600532445", NV_E_SYNTAX, 0, 0, 0, ""},
    {"a sequence with a bad string", "005376C00401A101FF", NV_E_SYNTAX, 0, 0, 0, ""},
    {"a value with a bad string inside", "005377C00401A101FF", NV_E_SYNTAX, 0, 0, 0, ""},
    {"annotations of list", "00537245", NV_E_SYNTAX, 0, 0, 0, ""},
    {"annotations of null", "00537240", NV_E_SYNTAX, 0, 0, 0, ""},
    {"application properties, odd", "005374C10201 40", NV_E_SYNTAX, 0, 0, 0, ""},
    {"properties of map", "005373C10100", NV_E_SYNTAX, 0, 0, 0, ""},
    {"properties, fourteen", "005373C00F0E 40404040404040404040404040 40", NV_E_SYNTAX, 0, 0, 0, ""},
    {"message-id, a list", "005373C0020145", NV_E_SYNTAX, 0, 0, 0, ""},
    {"message-id, described", "005373C00501 00532445", NV_E_SYNTAX, 0, 0, 0, ""},
    {"message-id, not UTF-8", "005373C00401 A101FF", NV_E_SYNTAX, 0, 0, 0, ""},
    {"correlation-id, an array", "005373C00906 4040404040 E0020040", NV_E_SYNTAX, 0, 0, 0, ""},
    {"to, not UTF-8", "005373C00603 4040 A101FF", NV_E_SYNTAX, 0, 0, 0, ""},
    {"user-id of string", "005373C00502 40 A10161", NV_E_SYNTAX, 0, 0, 0, ""},
    {"content-type of string", "005373C00A07 404040404040 A10161 005375A000", NV_OK, NV_AMQP_BODY_IS_DATA, 1, NV_OK,
     ""},
    {"no section: a list", "C00100", NV_E_SYNTAX, 0, 0, 0, ""},
    {"a byte behind the last section", "005375A000 40", NV_E_SYNTAX, 0, 0, 0, ""},
    {"a body of descriptors", "005377 0044 0044 0044 0044 0044 0044 0044 0044 0044 40", NV_E_SYNTAX, 0, 0, 0, ""},
};

static void bodies_and_order(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(messages); i++) {
        nv_span bytes = bytes_of(messages[i].hex);
        nv_amqp_message m;
        nv_err err = nv_amqp_message_read(bytes, &m);
        if (err != messages[i].err) {
            fail_msg("%s: %s", messages[i].name, nv_err_name(err));
        }
        if (err == NV_OK) {
            assert_int_equal(m.body_kind, messages[i].kind);
            assert_int_equal(m.sections, messages[i].sections);
            nv_buf scratch;
            nv_buf_init(&scratch, 64);
            nv_span body;
            assert_int_equal(nv_amqp_message_bytes(&m, &scratch, &body), messages[i].bytes_err);
            assert_hex(messages[i].name, body, messages[i].body);
            assert_int_equal(nv_buf_len(&scratch), m.sections > 1 && body.len ? body.len : 0); /* one is not copied */
            nv_buf_deinit(&scratch);
        }
        release(bytes);
    }
}

static void joined_bodies_are_bounded(void **state)
{
    (void)state;
    nv_span bytes;
    nv_amqp_message m = read_message("005375A0026869 005375A0026869", &bytes);
    nv_buf scratch;
    nv_buf_init(&scratch, 5);
    nv_span body;
    assert_int_equal(nv_buf_append_str(&scratch, "x"), NV_OK); /* what is there stays, and is no part of the body */
    assert_int_equal(nv_amqp_message_bytes(&m, &scratch, &body), NV_OK);
    assert_true(nv_span_eq_str(body, "hihi"));
    nv_buf_deinit(&scratch);
    nv_buf_init(&scratch, 3);
    assert_int_equal(nv_amqp_message_bytes(&m, &scratch, &body), NV_E_TOO_BIG);
    nv_buf_deinit(&scratch);
    release(bytes);
}

/** message-format 0x80013700: annotations of the whole, then a message in each section of data (amqp.md 3.4). */
static void a_batch_is_walked(void **state)
{
    (void)state;
    nv_span bytes =
        bytes_of("005372C10502A3016B40 005375B00000000A 005370C00100 005377 40 005375A009 00537345005375A000"
                 "005375A000");
    nv_reader at = nv_reader_of(bytes);
    static const size_t lengths[] = {10, 9, 0};
    nv_span data;
    for (size_t i = 0; i < NV_COUNT_OF(lengths); i++) {
        assert_true(nv_amqp_data_next(&at, &data));
        assert_int_equal(data.len, lengths[i]);
        nv_amqp_message m;
        assert_int_equal(nv_amqp_message_read(data, &m), NV_OK);
        assert_int_equal(m.body_kind, i == 0   ? NV_AMQP_BODY_IS_VALUE
                                      : i == 1 ? NV_AMQP_BODY_IS_DATA
                                               : NV_AMQP_BODY_NONE);
    }
    assert_false(nv_amqp_data_next(&at, &data));
    assert_int_equal(at.err, NV_OK);
    release(bytes);

    static const char *const bad[] = {"005375A00261", "005375A00161 00", "005375A00161 40", "005375A100", "005372C105"};
    for (size_t i = 0; i < NV_COUNT_OF(bad); i++) {
        bytes = bytes_of(bad[i]);
        at = nv_reader_of(bytes);
        while (nv_amqp_data_next(&at, &data)) {
            assert_int_equal(data.len, 1);
        }
        assert_int_equal(at.err, NV_E_SYNTAX);
        release(bytes);
    }
}

/** The batch that python-uamqp makes of two data. */
static void a_batch_of_uamqp(void **state)
{
    (void)state;
    nv_span bytes = bytes_of("005375a008005375a0036f6e65005375a008005375a00374776f");
    nv_reader at = nv_reader_of(bytes);
    static const char *const texts[] = {"one", "two"};
    nv_span data;
    for (size_t i = 0; i < 2; i++) {
        nv_amqp_message m;
        assert_true(nv_amqp_data_next(&at, &data));
        assert_int_equal(nv_amqp_message_read(data, &m), NV_OK);
        assert_true(nv_span_eq_str(m.body, texts[i]));
    }
    assert_false(nv_amqp_data_next(&at, &data));
    assert_int_equal(at.err, NV_OK);
    release(bytes);
}

/** pyamqp's management request: a described value with a binary descriptor, and no body (amqp.md 5.4). */
static void a_management_request_of_pyamqp(void **state)
{
    (void)state;
    nv_span bytes;
    nv_amqp_message m =
        read_message("005373c0100d44404040a101724040404040404040005374c12904a1096f7065726174696f6ea1045245"
                     "4144a10e73656375726974795f746f6b656e00a00178a00179",
                     &bytes);
    assert_hex("message-id", m.properties.message_id, "44");
    nv_amqp_value value;
    assert_true(nv_amqp_map_find(&m.application_properties, "operation", &value));
    assert_true(nv_span_eq_str(value.bytes, "READ"));
    assert_true(nv_amqp_map_find(&m.application_properties, "security_token", &value));
    assert_int_equal(value.type, NV_AMQP_DESCRIBED);
    assert_false(value.code_known);
    assert_int_equal(value.symbol.len, 0);
    assert_int_equal(m.body_kind, NV_AMQP_BODY_NONE);
    release(bytes);
}

static void a_cloud_to_device_message_of_uamqp(void **state)
{
    (void)state;
    nv_span bytes;
    nv_amqp_message m =
        read_message("005372c10602a101785401005373c03d07a10369643140a11f2f646576696365732f642f6d65737361676573"
                     "2f646576696365626f756e64404040a3106170706c69636174696f6e2f6a736f6e005374c11302a10a696f"
                     "746875622d61636ba10466756c6c005375a0077b2274223a317d",
                     &bytes);
    nv_amqp_value value;
    assert_true(nv_amqp_map_find(&m.application_properties, "iothub-ack", &value));
    assert_true(nv_span_eq_str(value.bytes, "full"));
    assert_true(nv_span_eq_str(nv_amqp_text_of(m.properties.to), "/devices/d/messages/devicebound"));
    assert_true(nv_span_eq_str(m.body, "{\"t\":1}"));
    release(bytes);
}

/** Section by section, in the order of the standard. */
static void a_message_is_written(void **state)
{
    (void)state;
    uint8_t memory[512];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_header header = {.present = 0};
    NV_AMQP_SET(&header, header, durable, true);
    NV_AMQP_SET(&header, header, delivery_count, 1);
    nv_amqp_put_header_section(&w, &header);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_MESSAGE_ANNOTATIONS);
    nv_amqp_put_symbol_of(&w, "x-opt-sequence-number");
    nv_amqp_put_long(&w, 2995);
    nv_amqp_end_map(&w, mark, 2);
    nv_amqp_properties properties = {.message_id = NV_SPAN_LIT("\xa1\x02id"),
                                     .content_type = NV_SPAN_LIT("text/plain")};
    NV_AMQP_SET(&properties, properties, creation_time, 1);
    nv_amqp_put_properties_section(&w, &properties);
    mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_end_map(&w, mark, 0);
    nv_amqp_put_data_head(&w, 2);
    nv_write_span(&w, nv_span_str("hi"));
    assert_hex("message", nv_writer_span(&w),
               "00 5370 C0 07 05 41 40 40 40 5201"
               "00 5372 D1 00000024 00000002 A3 15 782D6F70742D73657175656E63652D6E756D626572 81 0000000000000BB3"
               "00 5373 C0 24 0D A1026964 40 40 40 40 40 A3 0A 746578742F706C61696E 40 40 83 0000000000000001 40 40 40"
               "00 5374 D1 00000004 00000000"
               "00 5375 A0 02 6869");
    nv_amqp_message m;
    assert_int_equal(nv_amqp_message_read(nv_writer_span(&w), &m), NV_OK);
    assert_int_equal(m.header.delivery_count, 1);
    assert_true(nv_span_eq_str(m.body, "hi"));

    w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_put_data_head(&w, 255);
    nv_amqp_put_data_head(&w, 256);
    nv_amqp_put_value_head(&w);
    nv_amqp_put_null(&w);
    assert_hex("heads", nv_writer_span(&w), "005375A0FF 005375B000000100 00537740");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_section_is_found),
        cmocka_unit_test(cut_messages_are_errors),
        cmocka_unit_test(bodies_and_order),
        cmocka_unit_test(joined_bodies_are_bounded),
        cmocka_unit_test(a_batch_is_walked),
        cmocka_unit_test(a_batch_of_uamqp),
        cmocka_unit_test(a_management_request_of_pyamqp),
        cmocka_unit_test(a_cloud_to_device_message_of_uamqp),
        cmocka_unit_test(a_message_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
