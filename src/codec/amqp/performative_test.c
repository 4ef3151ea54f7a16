/** Described lists of AMQP 1.0: each with every field, with fewer, with other ones; bytes of real clients. */
#include "codec/amqp/frame.h"
#include "codec/amqp/vectors.h"

/* ---- every row of the table, every field -------------------------------------------------------------------- */

/** Something else for each field of a row, by its index. */
static nv_span text_for(unsigned index)
{
    static const uint8_t letters[] = "abcdefghijklmnopqrstuvwxyz";
    return nv_span_of(letters + index, index % 5); /* some of them empty, which is not absent */
}

static nv_span any_for(unsigned index)
{
    static const nv_span values[] = {
        NV_SPAN_LIT("\x45"),
        NV_SPAN_LIT("\xa1\x02hi"),
        NV_SPAN_LIT("\xc1\x05\x02\xa3\x01k\x41"),
        NV_SPAN_LIT("\x00\x53\x24\x45"),
        NV_SPAN_LIT("\x44"),
    };
    return values[index % NV_COUNT_OF(values)];
}

#define FILL_STRING(index)    text_for(index)
#define FILL_SYMBOL(index)    text_for(index)
#define FILL_BINARY(index)    text_for(index)
#define FILL_ANY(index)       any_for(index)
#define FILL_BOOLEAN(index)   ((index) % 2 == 0)
#define FILL_UBYTE(index)     ((uint8_t)(200 + (index)))
#define FILL_USHORT(index)    ((uint16_t)(60000 + (index)))
#define FILL_UINT(index)      ((index) % 3 == 0 ? 0 : (index) % 3 == 1 ? 200 + (index) : UINT32_MAX - (index))
#define FILL_ULONG(index)     ((index) % 2 == 0 ? 17 : UINT64_MAX - (index))
#define FILL_TIMESTAMP(index) (INT64_C(1700000000000) + (index))

#define SAME_STRING(a, b)    nv_span_eq(a, b)
#define SAME_SYMBOL(a, b)    nv_span_eq(a, b)
#define SAME_BINARY(a, b)    nv_span_eq(a, b)
#define SAME_ANY(a, b)       nv_span_eq(a, b)
#define SAME_BOOLEAN(a, b)   ((a) == (b))
#define SAME_UBYTE(a, b)     ((a) == (b))
#define SAME_USHORT(a, b)    ((a) == (b))
#define SAME_UINT(a, b)      ((a) == (b))
#define SAME_ULONG(a, b)     ((a) == (b))
#define SAME_TIMESTAMP(a, b) ((a) == (b))

/** Code and count as the table has them, for the loops of the tests. */
static const struct row {
    nv_amqp_code code;
    uint32_t count;
    uint32_t required;
    const char *name;
    const char *symbol;
} rows[] = {
#define REQUIRED(name, member, kind, required) | (uint32_t)(required) << NV_AMQP_OF_##name##_##member
#define X(NAME, name, code, symbol, fields)                                                                            \
    {NV_AMQP_##NAME, NV_AMQP_COUNT_OF_##name, 0u fields(REQUIRED), #name, symbol},
    NV_AMQP_TABLE(X)
#undef X
};

/** The row with the fields of @p mask. */
static nv_amqp_performative fill(nv_amqp_code code, uint32_t mask)
{
    nv_amqp_performative p;
    memset(&p, 0, sizeof(p));
    p.code = code;
    switch (code) {
#define FILL(name, member, kind, required)                                                                             \
    if ((mask >> NV_AMQP_OF_##name##_##member & 1u) != 0) {                                                            \
        NV_AMQP_SET(&p.name, name, member, FILL_##kind(NV_AMQP_OF_##name##_##member));                                 \
    }
#define X(NAME, name, number, symbol, fields)                                                                          \
    case NV_AMQP_##NAME:                                                                                               \
        fields(FILL) break;
        NV_AMQP_TABLE(X)
#undef X
    case NV_AMQP_DELIVERY_ANNOTATIONS:
    case NV_AMQP_MESSAGE_ANNOTATIONS:
    case NV_AMQP_APPLICATION_PROPERTIES:
    case NV_AMQP_DATA:
    case NV_AMQP_SEQUENCE:
    case NV_AMQP_BODY_VALUE:
    case NV_AMQP_FOOTER:
    case NV_AMQP_DELETE_ON_CLOSE:
        fail();
    }
    return p;
}

static void assert_same(const nv_amqp_performative *a, const nv_amqp_performative *b)
{
    assert_int_equal(a->code, b->code);
#define SAME(name, member, kind, required)                                                                             \
    if (!SAME_##kind(a->name.member, b->name.member)) {                                                                \
        fail_msg(#name "." #member);                                                                                   \
    }
#define X(NAME, name, number, symbol, fields)                                                                          \
    if (a->code == NV_AMQP_##NAME) {                                                                                   \
        assert_int_equal(a->name.present, b->name.present);                                                            \
        fields(SAME)                                                                                                   \
    }
    NV_AMQP_TABLE(X)
#undef X
}

/** An encoded list has every field of the table, whatever is absent (amqp.md 7.6). */
static void assert_whole(const struct row *row, nv_span bytes)
{
    assert_int_equal(bytes.ptr[0], 0);
    assert_int_equal(bytes.ptr[1], 0x53);
    assert_int_equal(bytes.ptr[2], row->code);
    nv_reader r = nv_reader_of(nv_span_skip(bytes, 3));
    nv_amqp_value list;
    assert_true(nv_amqp_read(&r, &list));
    assert_int_equal(list.type, NV_AMQP_LIST);
    assert_int_equal(list.count, row->count);
    assert_int_equal(nv_amqp_check(bytes), NV_OK);
}

static void every_list_is_written_whole_and_read_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint32_t all = (uint32_t)((UINT64_C(1) << rows[i].count) - 1);
        /* all fields, none but what must be, and each left out in turn */
        for (uint32_t left_out = 0; left_out <= rows[i].count + 1; left_out++) {
            uint32_t mask = left_out == 0 ? all : left_out == 1 ? rows[i].required : all & ~(1u << (left_out - 2));
            mask |= rows[i].required;
            nv_amqp_performative in = fill(rows[i].code, mask);
            uint8_t memory[512];
            nv_writer w = nv_writer_of(memory, sizeof(memory));
            nv_amqp_encode(&w, &in);
            assert_int_equal(w.err, NV_OK);
            assert_whole(&rows[i], nv_writer_span(&w));
            nv_span exact = copy_of(nv_writer_span(&w));
            nv_amqp_performative out;
            nv_reader r = nv_reader_of(exact);
            if (nv_amqp_decode(&r, &out) != NV_OK || nv_reader_left(&r) != 0) {
                fail_msg("%s without %u", rows[i].name, left_out);
            }
            assert_same(&in, &out);
            release(exact);
        }
    }
}

static void a_list_is_known_by_its_symbol(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint8_t memory[512];
        nv_amqp_performative in = fill(rows[i].code, UINT32_MAX);
        nv_writer w = nv_writer_of(memory, sizeof(memory));
        nv_amqp_encode(&w, &in);
        nv_span list = nv_span_skip(nv_writer_span(&w), 3);
        for (unsigned form = 0; form < 2; form++) {
            uint8_t again[600];
            nv_writer other = nv_writer_of(again, sizeof(again));
            nv_write_u8(&other, 0);
            if (form == 0) {
                nv_amqp_put_symbol_of(&other, rows[i].symbol);
            } else {
                nv_write_u8(&other, 0x80); /* eight bytes, where one would do */
                nv_write_u64_be(&other, rows[i].code);
            }
            nv_write_span(&other, list);
            nv_amqp_performative out;
            assert_int_equal(nv_amqp_decode_span(nv_writer_span(&other), &out), NV_OK);
            assert_same(&in, &out);
        }
        assert_string_equal(nv_amqp_name(rows[i].code), rows[i].name);
    }
    assert_null(nv_amqp_name(0x19));
    assert_null(nv_amqp_name(0x110));
    assert_null(nv_amqp_name(UINT64_MAX));
}

/** Written into every length that is too short, and read cut at every byte. */
static void cut_lists_are_errors(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint8_t memory[512];
        nv_amqp_performative p = fill(rows[i].code, UINT32_MAX);
        nv_writer w = nv_writer_of(memory, sizeof(memory));
        nv_amqp_encode(&w, &p);
        size_t whole = nv_writer_len(&w);
        for (size_t len = 0; len < whole; len++) {
            nv_span cut = copy_of(nv_span_of(memory, len));
            nv_reader r = nv_reader_of(cut);
            nv_amqp_performative out;
            assert_int_equal(nv_amqp_decode(&r, &out), NV_E_SYNTAX);
            assert_int_equal(r.err, NV_E_SYNTAX);
            w = nv_writer_of((void *)(uintptr_t)cut.ptr, len);
            nv_amqp_encode(&w, &p);
            assert_int_equal(w.err, NV_E_TOO_BIG);
            release(cut);
        }
    }
}

static void a_long_list_has_the_long_form(void **state)
{
    (void)state;
    static const size_t lengths[] = {240, 243, 244, 245, 246, 247, 255, 256, 300}; /* 244: the last that fits list8 */
    uint8_t text[300];
    memset(text, 'x', sizeof(text));
    for (size_t i = 0; i < NV_COUNT_OF(lengths); i++) {
        nv_amqp_open open = {.container_id = nv_span_of(text, lengths[i])};
        uint8_t memory[400];
        nv_writer w = nv_writer_of(memory, sizeof(memory));
        nv_amqp_encode_open(&w, &open);
        size_t field = lengths[i] + (lengths[i] <= 255 ? 2 : 5);
        bool is_short = 1 + field + 9 <= 255;
        assert_int_equal(memory[3], is_short ? 0xc0 : 0xd0);
        assert_int_equal(nv_writer_len(&w), (is_short ? 6u : 12u) + field + 9);
        assert_whole(&rows[0], nv_writer_span(&w));
        nv_amqp_performative out;
        assert_int_equal(nv_amqp_decode_span(nv_writer_span(&w), &out), NV_OK);
        assert_true(nv_span_eq(out.open.container_id, open.container_id));
        /* the room that only the long form needs */
        size_t whole = nv_writer_len(&w);
        for (size_t less = 1; less <= 7; less++) {
            w = nv_writer_of(memory, whole - less);
            nv_amqp_encode_open(&w, &open);
            assert_int_equal(w.err, NV_E_TOO_BIG);
        }
    }
}

/* ---- by hand ------------------------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    const char *hex;
    nv_err err;
} lists[] = {
    {"begin, its first four", "00 5311 C0 05 04 40 43 43 43", NV_OK},
    {"begin, in a list32", "00 5311 D0 00000008 00000004 40 43 43 43", NV_OK},
    {"begin, nulls to the end", "00 5311 C0 09 08 40 43 43 43 40404040", NV_OK},
    {"begin, long forms", "00 5311 C0 11 04 40 7000000001 7000000002 7000000003", NV_OK},
    {"begin, nine fields", "00 5311 C0 0A 09 40 43 43 43 40404040 40", NV_E_SYNTAX},
    {"begin, three fields: one absent", "00 5311 C0 04 03 40 43 43", NV_E_SYNTAX},
    {"begin, a required null", "00 5311 C0 05 04 40 43 40 43", NV_E_SYNTAX},
    {"begin, list0", "00 5311 45", NV_E_SYNTAX},
    {"begin, a map", "00 5311 C1 05 04 40 43 43 43", NV_E_SYNTAX},
    {"begin, an array", "00 5311 E0 02 00 43", NV_E_SYNTAX},
    {"begin, null", "00 5311 40", NV_E_SYNTAX},
    {"begin, described twice", "00 5311 00 5311 C0 05 04 40 43 43 43", NV_E_SYNTAX},
    {"begin, a ulong for a uint", "00 5311 C0 06 04 40 5301 43 43", NV_E_SYNTAX},
    {"begin, an int for a uint", "00 5311 C0 06 04 40 5401 43 43", NV_E_SYNTAX},
    {"begin, a ubyte for a ushort", "00 5311 C0 07 04 5001 43 43 43", NV_E_SYNTAX},
    {"begin, a byte behind the fields", "00 5311 C0 06 04 40 43 43 43 40", NV_E_SYNTAX},
    {"begin, less than its count", "00 5311 C0 04 04 40 43 43", NV_E_SYNTAX},
    {"begin, a field beyond the list", "00 5311 C0 05 04 40 43 43 70 00000000", NV_E_SYNTAX},
    {"begin, 2^32-1 fields", "00 5311 D0 00000008 FFFFFFFF 40 43 43 43", NV_E_SYNTAX},
    {"begin, a size beyond the input", "00 5311 D0 FFFFFFFF 00000004 40 43 43 43", NV_E_SYNTAX},
    {"begin, no size for the count", "00 5311 D0 00000003 000004", NV_E_SYNTAX},
    {"open, a name", "00 5310 C0 04 01 A1 01 63", NV_OK},
    {"open, a long name", "00 5310 C0 07 01 B1 00000001 63", NV_OK},
    {"open, an empty name", "00 5310 C0 03 01 A1 00", NV_OK},
    {"open, no name", "00 5310 45", NV_E_SYNTAX},
    {"open, a symbol for a string", "00 5310 C0 04 01 A3 01 63", NV_OK},
    {"open, binary for a string", "00 5310 C0 04 01 A0 01 63", NV_E_SYNTAX},
    {"open, not UTF-8", "00 5310 C0 04 01 A1 01 FF", NV_E_SYNTAX},
    {"open, a cut field of any type", "00 5310 C0 0E 0A A1 01 63 40 40 40 40 40 40 40 40 C1", NV_E_SYNTAX},
    {"disposition, the wide boolean", "00 5315 C0 04 02 56 01 43", NV_OK},
    {"disposition, a wide boolean of 2", "00 5315 C0 04 02 56 02 43", NV_E_SYNTAX},
    {"disposition, a number for a boolean", "00 5315 C0 04 02 50 01 43", NV_E_SYNTAX},
    {"disposition, half a boolean", "00 5315 C0 02 01 56", NV_E_SYNTAX},
    {"attach, a settle mode of uint", "00 5312 C0 07 04 A1 00 43 41 5201", NV_E_SYNTAX},
    {"attach, a size of uint", "00 5312 C0 0E 0B A1 00 43 41 4040 404040 40 43 5201", NV_E_SYNTAX},
    {"transfer, a tag of string", "00 5314 C0 06 03 43 43 A1 01 61", NV_E_SYNTAX},
    {"transfer, a tag of 2^32-1", "00 5314 C0 08 03 43 43 B0 FFFFFFFF", NV_E_SYNTAX},
    {"error, a condition beyond ASCII", "00 531D C0 05 01 A3 02 C3A9", NV_E_SYNTAX},
    {"error, a condition of string", "00 531D C0 04 01 A1 01 61", NV_OK},
    {"error, a condition of string beyond ASCII", "00 531D C0 05 01 A1 02 C3A9", NV_E_SYNTAX},
    {"received, its two", "00 5323 C0 03 02 43 44", NV_OK},
    {"received, a ulong too short", "00 5323 C0 05 02 43 80 0000", NV_E_SYNTAX},
    {"properties, a time", "00 5373 C0 12 09 40 40 40 40 40 40 40 40 83 0000000000000001", NV_OK},
    {"properties, a time of long", "00 5373 C0 0B 09 40 40 40 40 40 40 40 40 5501", NV_E_SYNTAX},
    {"accepted", "00 5324 45", NV_OK},
    {"accepted, list8", "00 5324 C0 01 00", NV_OK},
    {"accepted, list32", "00 5324 D0 00000004 00000000", NV_OK},
    {"accepted, a field", "00 5324 C0 02 01 40", NV_E_SYNTAX},
    {"declared, which is none of ours", "00 5333 C0 04 01 A0 01 61", NV_E_UNSUPPORTED},
    {"a map section", "00 5372 C1 01 00", NV_E_UNSUPPORTED},
    {"Azure's filter", "00 80 0000468C00000004 A1 01 78", NV_E_UNSUPPORTED},
    {"a symbol of nobody", "00 A3 01 61 45", NV_E_UNSUPPORTED},
    {"a binary descriptor", "00 A0 01 78 45", NV_E_UNSUPPORTED},
    {"a described descriptor", "00 00 5310 45 45", NV_E_UNSUPPORTED},
    {"an unknown descriptor, its value cut", "00 5333 C0 04 01", NV_E_SYNTAX},
    {"no descriptor", "C0 01 00", NV_E_SYNTAX},
    {"nothing", "", NV_E_SYNTAX},
    {"half a descriptor", "00 80 00", NV_E_SYNTAX},
};

static void lists_by_hand(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(lists); i++) {
        nv_span bytes = bytes_of(lists[i].hex);
        nv_amqp_performative out;
        nv_reader r = nv_reader_of(bytes);
        nv_err err = nv_amqp_decode(&r, &out);
        if (err != lists[i].err || (err == NV_E_SYNTAX) != (r.err == NV_E_SYNTAX)) {
            fail_msg("%s: %s", lists[i].name, nv_err_name(err));
        }
        if (err != NV_E_SYNTAX) {
            assert_ptr_equal(r.at, bytes.ptr + bytes.len); /* behind it, also when it was skipped */
        }
        assert_int_equal(nv_amqp_decode_span(bytes, &out), lists[i].err);
        release(bytes);
    }
    nv_amqp_performative out;
    nv_span two = bytes_of("00 5324 45 45");
    assert_int_equal(nv_amqp_decode_span(two, &out), NV_E_SYNTAX);
    assert_int_equal(nv_amqp_decode_span(nv_span_first(two, 4), &out), NV_OK);
    release(two);
}

/** What is absent from the input is absent from the struct, whatever was in it. */
static void nothing_stays_from_before(void **state)
{
    (void)state;
    nv_amqp_performative out;
    memset(&out, 0xff, sizeof(out));
    nv_span bytes = bytes_of("00 5312 C0 07 03 A1 01 6C 5203 41");
    assert_int_equal(nv_amqp_decode_span(bytes, &out), NV_OK);
    assert_int_equal(out.code, NV_AMQP_ATTACH);
    assert_int_equal(out.attach.handle, 3);
    assert_true(out.attach.role);
    assert_int_equal(out.attach.present, 7);
    assert_false(NV_AMQP_HAS(&out.attach, attach, snd_settle_mode));
    assert_int_equal(out.attach.snd_settle_mode, 0);
    assert_null(out.attach.source.ptr);
    assert_null(out.attach.properties.ptr);
    assert_int_equal(out.attach.max_message_size, 0);
    release(bytes);
}

static void absent_and_empty_are_told_apart(void **state)
{
    (void)state;
    uint8_t memory[64];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_sasl_init init = {.mechanism = NV_SPAN_LIT("PLAIN"), .initial_response = NV_SPAN_LIT("")};
    nv_amqp_encode_sasl_init(&w, &init);
    assert_hex("sasl-init", nv_writer_span(&w), "00 5341 C0 0B 03 A3 05 504C41494E A0 00 40");
    nv_amqp_performative out;
    assert_int_equal(nv_amqp_decode_span(nv_writer_span(&w), &out), NV_OK);
    assert_non_null(out.sasl_init.initial_response.ptr);
    assert_true(NV_AMQP_HAS(&out.sasl_init, sasl_init, initial_response));
    assert_null(out.sasl_init.hostname.ptr);
    assert_false(NV_AMQP_HAS(&out.sasl_init, sasl_init, hostname));

    w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_sasl_outcome outcome = {.present = 0};
    NV_AMQP_SET(&outcome, sasl_outcome, code, 1);
    nv_amqp_encode_sasl_outcome(&w, &outcome);
    assert_hex("sasl-outcome", nv_writer_span(&w), "00 5344 C0 04 02 50 01 40");

    w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_close close = {.present = 0};
    nv_amqp_encode_close(&w, &close);
    assert_hex("close", nv_writer_span(&w), "00 5318 C0 02 01 40");

    w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_rejected rejected = {.error = {memory, 0}}; /* an empty value would be no value */
    nv_amqp_encode_rejected(&w, &rejected);
    assert_hex("rejected", nv_writer_span(&w), "00 5325 C0 02 01 40");

    w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_accepted accepted = {.present = 0};
    nv_amqp_encode_accepted(&w, &accepted);
    assert_hex("accepted", nv_writer_span(&w), "00 5324 45");

    nv_amqp_performative nobody = {.code = NV_AMQP_DATA};
    w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_encode(&w, &nobody);
    assert_int_equal(nv_writer_len(&w), 0);
}

static void addresses_are_text(void **state)
{
    (void)state;
    static const struct {
        const char *hex;
        const char *text;
    } addresses[] = {
        {"A1 02 2F64", "/d"},
        {"A3 02 2F64", "/d"},
        {"A0 02 2F64", "/d"},
        {"B1 00000002 2F64", "/d"},
        {"A1 00", ""},
        {"40", ""},
        {"5001", ""},
        {"00 5324 45", ""},
        {"A1 01 FF", ""},
        {"A1 05 61", ""},
        {"C0 04 01 A10161", ""},
        {"", ""},
    };
    for (size_t i = 0; i < NV_COUNT_OF(addresses); i++) {
        nv_span bytes = bytes_of(addresses[i].hex);
        if (!nv_span_eq_str(nv_amqp_text_of(bytes), addresses[i].text)) {
            fail_msg("%s", addresses[i].hex);
        }
        release(bytes);
    }
    assert_int_equal(nv_amqp_text_of(NV_SPAN_EMPTY).len, 0);
}

/* ---- bytes of real peers ------------------------------------------------------------------------------------ */

/** Whole frames as rhea 3, azure-eventhub 5.11 and Qpid Proton 0.37 wrote them. */
static const struct {
    const char *name;
    const char *hex;
    nv_amqp_code code;
    size_t payload;
} frames[] = {
    {"rhea",
     "0000003802000000005310d00000002800000002a10b636c69656e742d67756964a1156875622e617a7572652d6465766963"
     "65732e6e6574",
     NV_AMQP_OPEN, 0},
    {"rhea", "0000002002000000005311d000000010000000044043700000080070ffffffff", NV_AMQP_BEGIN, 0},
    {"rhea",
     "000000b302000000005312d0000000a30000000ea12436396433643231302d356135322d386634352d393234662d64306230"
     "316465653236396243425002500000532845005329d00000002100000001a11b2f646576696365732f64312f6d6573736167"
     "65732f6576656e7473404043404040d10000003b00000002a31c636f6d2e6d6963726f736f66743a636c69656e742d766572"
     "73696f6ea117617a7572652d696f742d6465766963652f312e31382e34",
     NV_AMQP_ATTACH, 0},
    {"rhea",
     "0000013602000000005312d0000001260000000ea12466383638323730612d373266312d376234652d386435382d37346164"
     "64323438613436335201414040005328d00000008f00000008a1286875622f436f6e73756d657247726f7570732f24446566"
     "61756c742f506172746974696f6e732f30404040404040d10000005600000002a3216170616368652e6f72673a73656c6563"
     "746f722d66696c7465723a737472696e6700800000468c00000004a123616d71702e616e6e6f746174696f6e2e782d6f7074"
     "2d6f6666736574203e20272d3127005329454040404040f00000003200000001a32c636f6d2e6d6963726f736f66743a656e"
     "61626c652d72656365697665722d72756e74696d652d6d6574726963d10000001b00000002a313636f6d2e6d6963726f736f"
     "66743a65706f63685502",
     NV_AMQP_ATTACH, 0},
    {"rhea",
     "000000b802000000005314d00000000c000000064343a0013043424200537045005373d00000004f00000008980011223344"
     "5566778899aabbccddeeff40a11b2f646576696365732f64312f6d657373616765732f6576656e7473404040a3106170706c"
     "69636174696f6e2f6a736f6ea3057574662d38005374d10000002d00000006a11074656d7065726174757265416c657274a1"
     "0474727565a1016e5205a10166823ff8000000000000005375a0077b2274223a317d",
     NV_AMQP_TRANSFER, 156},
    {"rhea", "0000002602000000005313d00000001600000007437000000800520170fffffffe520143520a", NV_AMQP_FLOW, 0},
    {"rhea", "0000001c02000000005315d00000000c000000054143434100532445", NV_AMQP_DISPOSITION, 0},
    {"rhea", "0000000c0200000000531845", NV_AMQP_CLOSE, 0},
    {"pyamqp",
     "0000005e02000000005310c0510aa1174548436f6e73756d65722d312d706172746974696f6e30a1196e732e736572766963"
     "656275732e77696e646f77732e6e6574700010000060ffff4040404040c10d02a30770726f64756374a10170",
     NV_AMQP_OPEN, 0},
    {"pyamqp", "0000002202000000005311c0150840437000010000700001000070ffffffff404040", NV_AMQP_BEGIN, 0},
    {"pyamqp",
     "0000014602000000005312d0000001360000000ea1037263765203560150015001005328c0b10ba1296e732f652f436f6e73"
     "756d657247726f7570732f2444656661756c742f506172746974696f6e732f3043a30b73657373696f6e2d656e6443560040"
     "40c16d02a3216170616368652e6f72673a73656c6563746f722d66696c7465723a737472696e6700a3216170616368652e6f"
     "72673a73656c6563746f722d66696c7465723a737472696e67a123616d71702e616e6e6f746174696f6e2e782d6f70742d6f"
     "6666736574203e20272d3127404040005329c00a07a1017440404040404040404080000000000010000040e03201b3000000"
     "2c636f6d2e6d6963726f736f66743a656e61626c652d72656365697665722d72756e74696d652d6d6574726963c11d02a315"
     "636f6d2e6d6963726f736f66743a74696d656f7574710000ea60",
     NV_AMQP_ATTACH, 0},
    {"pyamqp", "0000002602000000005313c0190b437000010000437000010000520343700000012c40404040", NV_AMQP_FLOW, 0},
    {"pyamqp", "0000001602000000005315c009065601434356014040", NV_AMQP_DISPOSITION, 0},
    {"pyamqp", "0000001302000000005316c006035203560140", NV_AMQP_DETACH, 0},
    {"pyamqp", "0000000f02000000005317c0020140", NV_AMQP_END, 0},
    {"pyamqp", "0000000f02000000005318c0020140", NV_AMQP_CLOSE, 0},
    {"pyamqp", "0000001c02010000005341c00f03a309414e4f4e594d4f5553a00040", NV_AMQP_SASL_INIT, 0},
    {"Proton", "0000002002000000005310c0130aa103636964a1016840607fff404040404040", NV_AMQP_OPEN, 0},
    {"Proton", "0000001a02000000005311c00d044043707fffffff707fffffff", NV_AMQP_BEGIN, 0},
    {"Proton",
     "0000005202000000005312c0450ea1016c434250025000005328c00c0b4043404342404040404040005329c01e07a1152f6d"
     "657373616765732f646576696365626f756e6443404342404040404344404040",
     NV_AMQP_ATTACH, 0},
    {"Proton",
     "0000003f02000000005312c0320ea1017252014150025000005328c00e0ba1017143404342404040404040005329c0080740"
     "43404342404040404344404040",
     NV_AMQP_ATTACH, 0},
    {"Proton", "0000002102000000005313c0140940707fffffff43707fffffff52014352074042", NV_AMQP_FLOW, 0},
};

static void frames_of_real_peers_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(frames); i++) {
        nv_span bytes = bytes_of(frames[i].hex);
        nv_amqp_frame frame;
        nv_amqp_performative p;
        assert_int_equal(nv_amqp_read_frame(bytes, 65536, &frame), NV_OK);
        bool is_sasl = frames[i].code >= NV_AMQP_SASL_MECHANISMS;
        assert_int_equal(frame.type, is_sasl ? NV_AMQP_FRAME_SASL : NV_AMQP_FRAME_AMQP);
        assert_int_equal(frame.channel, 0);
        assert_int_equal(frame.size, bytes.len);
        nv_reader r = nv_reader_of(frame.body);
        if (nv_amqp_decode(&r, &p) != NV_OK) {
            fail_msg("%s: %s", frames[i].name, frames[i].hex);
        }
        assert_int_equal(p.code, frames[i].code);
        assert_int_equal(nv_reader_left(&r), frames[i].payload);
        /* ours of it has the same content, and all fields */
        uint8_t memory[1024];
        nv_writer w = nv_writer_of(memory, sizeof(memory));
        nv_amqp_encode(&w, &p);
        nv_amqp_performative again;
        assert_int_equal(nv_amqp_decode_span(nv_writer_span(&w), &again), NV_OK);
        assert_same(&p, &again);
        release(bytes);
    }
}

/** A receiver of rhea with Azure's filter, read to the last string. */
static void an_attach_is_read_to_its_filter(void **state)
{
    (void)state;
    nv_span bytes = bytes_of(frames[3].hex);
    nv_amqp_frame frame;
    nv_amqp_performative p;
    assert_int_equal(nv_amqp_read_frame(bytes, 65536, &frame), NV_OK);
    assert_int_equal(nv_amqp_decode_span(frame.body, &p), NV_OK);
    assert_true(p.attach.role);
    assert_int_equal(p.attach.handle, 1);
    nv_amqp_performative source;
    assert_int_equal(nv_amqp_decode_span(p.attach.source, &source), NV_OK);
    assert_int_equal(source.code, NV_AMQP_SOURCE);
    assert_true(nv_span_eq_str(nv_amqp_text_of(source.source.address), "hub/ConsumerGroups/$Default/Partitions/0"));
    nv_reader at = nv_reader_of(source.source.filter);
    nv_amqp_value filter;
    nv_amqp_value selector;
    assert_true(nv_amqp_read(&at, &filter));
    assert_true(nv_amqp_map_find(&filter, "apache.org:selector-filter:string", &selector));
    assert_int_equal(selector.type, NV_AMQP_DESCRIBED);
    assert_true(selector.code_known);
    assert_true(selector.code == 0x468C00000004);
    assert_true(nv_span_eq_str(nv_amqp_text_of(selector.bytes), "amqp.annotation.x-opt-offset > '-1'"));
    at = nv_reader_of(p.attach.properties);
    nv_amqp_value properties;
    nv_amqp_value epoch;
    assert_true(nv_amqp_read(&at, &properties));
    assert_true(nv_amqp_map_find(&properties, "com.microsoft:epoch", &epoch));
    assert_int_equal(epoch.type, NV_AMQP_LONG);
    assert_int_equal(epoch.i, 2);
    release(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_list_is_written_whole_and_read_back),
        cmocka_unit_test(a_list_is_known_by_its_symbol),
        cmocka_unit_test(cut_lists_are_errors),
        cmocka_unit_test(a_long_list_has_the_long_form),
        cmocka_unit_test(lists_by_hand),
        cmocka_unit_test(nothing_stays_from_before),
        cmocka_unit_test(absent_and_empty_are_told_apart),
        cmocka_unit_test(addresses_are_text),
        cmocka_unit_test(frames_of_real_peers_are_read),
        cmocka_unit_test(an_attach_is_read_to_its_filter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
