/** The types of AMQP 1.0 (part 1 section 1.6): every encoding of every type, read, written, cut and damaged. */
#include "codec/amqp/vectors.h"

typedef enum content { NOTHING, BOOLEAN, UNSIGNED, SIGNED, BYTES, COMPOUND } content;

/** Written by hand from the specification. `again` is what writing the value gives where it is not `hex`. */
static const struct {
    const char *name;
    const char *hex;
    nv_amqp_type type;
    content content;
    uint64_t number; /* or the count of a compound */
    const char *bytes;
    const char *again;
} good[] = {
    {"null", "40", NV_AMQP_NULL, NOTHING, 0, NULL, NULL},
    {"true", "41", NV_AMQP_BOOLEAN, BOOLEAN, 1, NULL, NULL},
    {"false", "42", NV_AMQP_BOOLEAN, BOOLEAN, 0, NULL, NULL},
    {"boolean, one byte, true", "56 01", NV_AMQP_BOOLEAN, BOOLEAN, 1, NULL, "41"},
    {"boolean, one byte, false", "56 00", NV_AMQP_BOOLEAN, BOOLEAN, 0, NULL, "42"},
    {"ubyte 0", "50 00", NV_AMQP_UBYTE, UNSIGNED, 0, NULL, NULL},
    {"ubyte 255", "50 FF", NV_AMQP_UBYTE, UNSIGNED, 255, NULL, NULL},
    {"ushort 0", "60 0000", NV_AMQP_USHORT, UNSIGNED, 0, NULL, NULL},
    {"ushort 65535", "60 FFFF", NV_AMQP_USHORT, UNSIGNED, 65535, NULL, NULL},
    {"uint0", "43", NV_AMQP_UINT, UNSIGNED, 0, NULL, NULL},
    {"smalluint 1", "52 01", NV_AMQP_UINT, UNSIGNED, 1, NULL, NULL},
    {"smalluint 255", "52 FF", NV_AMQP_UINT, UNSIGNED, 255, NULL, NULL},
    {"smalluint 0", "52 00", NV_AMQP_UINT, UNSIGNED, 0, NULL, "43"},
    {"uint 256", "70 00000100", NV_AMQP_UINT, UNSIGNED, 256, NULL, NULL},
    {"uint 2^32-1", "70 FFFFFFFF", NV_AMQP_UINT, UNSIGNED, UINT32_MAX, NULL, NULL},
    {"uint 5, long form", "70 00000005", NV_AMQP_UINT, UNSIGNED, 5, NULL, "52 05"},
    {"ulong0", "44", NV_AMQP_ULONG, UNSIGNED, 0, NULL, NULL},
    {"smallulong 255", "53 FF", NV_AMQP_ULONG, UNSIGNED, 255, NULL, NULL},
    {"ulong 256", "80 0000000000000100", NV_AMQP_ULONG, UNSIGNED, 256, NULL, NULL},
    {"ulong 2^64-1", "80 FFFFFFFFFFFFFFFF", NV_AMQP_ULONG, UNSIGNED, UINT64_MAX, NULL, NULL},
    {"ulong 1, long form", "80 0000000000000001", NV_AMQP_ULONG, UNSIGNED, 1, NULL, "53 01"},
    {"byte -128", "51 80", NV_AMQP_BYTE, SIGNED, (uint64_t)-128, NULL, NULL},
    {"byte 127", "51 7F", NV_AMQP_BYTE, SIGNED, 127, NULL, NULL},
    {"short -32768", "61 8000", NV_AMQP_SHORT, SIGNED, (uint64_t)-32768, NULL, NULL},
    {"short 32767", "61 7FFF", NV_AMQP_SHORT, SIGNED, 32767, NULL, NULL},
    {"smallint 0", "54 00", NV_AMQP_INT, SIGNED, 0, NULL, NULL},
    {"smallint -1", "54 FF", NV_AMQP_INT, SIGNED, (uint64_t)-1, NULL, NULL},
    {"smallint -128", "54 80", NV_AMQP_INT, SIGNED, (uint64_t)-128, NULL, NULL},
    {"int 128", "71 00000080", NV_AMQP_INT, SIGNED, 128, NULL, NULL},
    {"int -129", "71 FFFFFF7F", NV_AMQP_INT, SIGNED, (uint64_t)-129, NULL, NULL},
    {"int -2^31", "71 80000000", NV_AMQP_INT, SIGNED, (uint64_t)INT32_MIN, NULL, NULL},
    {"int 200 (a status code)", "71 000000C8", NV_AMQP_INT, SIGNED, 200, NULL, NULL},
    {"int 5, long form", "71 00000005", NV_AMQP_INT, SIGNED, 5, NULL, "54 05"},
    {"smalllong 127", "55 7F", NV_AMQP_LONG, SIGNED, 127, NULL, NULL},
    {"smalllong -128", "55 80", NV_AMQP_LONG, SIGNED, (uint64_t)-128, NULL, NULL},
    {"long 128", "81 0000000000000080", NV_AMQP_LONG, SIGNED, 128, NULL, NULL},
    {"long -2^63", "81 8000000000000000", NV_AMQP_LONG, SIGNED, (uint64_t)INT64_MIN, NULL, NULL},
    {"long 2^63-1", "81 7FFFFFFFFFFFFFFF", NV_AMQP_LONG, SIGNED, INT64_MAX, NULL, NULL},
    {"float 1.5", "72 3FC00000", NV_AMQP_FLOAT, UNSIGNED, 0x3FC00000, NULL, NULL},
    {"float, a signalling NaN", "72 7F800001", NV_AMQP_FLOAT, UNSIGNED, 0x7F800001, NULL, NULL},
    {"double -2.25", "82 C002000000000000", NV_AMQP_DOUBLE, UNSIGNED, 0xC002000000000000, NULL, NULL},
    {"decimal32", "74 01020304", NV_AMQP_DECIMAL32, BYTES, 0, "01020304", NULL},
    {"decimal64", "84 0102030405060708", NV_AMQP_DECIMAL64, BYTES, 0, "0102030405060708", NULL},
    {"decimal128", "94 000102030405060708090A0B0C0D0E0F", NV_AMQP_DECIMAL128, BYTES, 0,
     "000102030405060708090A0B0C0D0E0F", NULL},
    {"char, the euro", "73 000020AC", NV_AMQP_CHAR, UNSIGNED, 0x20AC, NULL, NULL},
    {"char U+10FFFF", "73 0010FFFF", NV_AMQP_CHAR, UNSIGNED, 0x10FFFF, NULL, NULL},
    {"timestamp", "83 0000018BCFE56800", NV_AMQP_TIMESTAMP, SIGNED, 1700000000000, NULL, NULL},
    {"timestamp before 1970", "83 FFFFFFFFFFFFFFFF", NV_AMQP_TIMESTAMP, SIGNED, (uint64_t)-1, NULL, NULL},
    {"uuid", "98 00112233445566778899AABBCCDDEEFF", NV_AMQP_UUID, BYTES, 0, "00112233445566778899AABBCCDDEEFF", NULL},
    {"vbin8, empty", "A0 00", NV_AMQP_BINARY, BYTES, 0, "", NULL},
    {"vbin8", "A0 02 00FF", NV_AMQP_BINARY, BYTES, 0, "00FF", NULL},
    {"vbin32", "B0 00000002 00FF", NV_AMQP_BINARY, BYTES, 0, "00FF", "A0 02 00FF"},
    {"vbin32, empty", "B0 00000000", NV_AMQP_BINARY, BYTES, 0, "", "A0 00"},
    {"str8-utf8, empty", "A1 00", NV_AMQP_STRING, BYTES, 0, "", NULL},
    {"str8-utf8", "A1 03 E282AC", NV_AMQP_STRING, BYTES, 0, "E282AC", NULL},
    {"str8-utf8, more than eight bytes of ASCII", "A1 0A 30313233343536373839", NV_AMQP_STRING, BYTES, 0,
     "30313233343536373839", NULL},
    {"str8-utf8, U+0000", "A1 03 610062", NV_AMQP_STRING, BYTES, 0, "610062", NULL},
    {"str32-utf8", "B1 00000001 61", NV_AMQP_STRING, BYTES, 0, "61", "A1 01 61"},
    {"str32-utf8, empty", "B1 00000000", NV_AMQP_STRING, BYTES, 0, "", "A1 00"},
    {"sym8, empty", "A3 00", NV_AMQP_SYMBOL, BYTES, 0, "", NULL},
    {"sym8", "A3 05 782D6F7074", NV_AMQP_SYMBOL, BYTES, 0, "782D6F7074", NULL},
    {"sym32", "B3 00000001 61", NV_AMQP_SYMBOL, BYTES, 0, "61", "A3 01 61"},
    {"list0", "45", NV_AMQP_LIST, COMPOUND, 0, "", NULL},
    {"list8, empty", "C0 01 00", NV_AMQP_LIST, COMPOUND, 0, "", "45"},
    {"list32, empty", "D0 00000004 00000000", NV_AMQP_LIST, COMPOUND, 0, "", "45"},
    {"list8", "C0 04 02 5401 45", NV_AMQP_LIST, COMPOUND, 2, "540145", NULL},
    {"list32", "D0 00000007 00000002 5401 45", NV_AMQP_LIST, COMPOUND, 2, "540145", "C0 04 02 5401 45"},
    {"list8 of nulls", "C0 04 03 404040", NV_AMQP_LIST, COMPOUND, 3, "404040", NULL},
    {"map8, empty", "C1 01 00", NV_AMQP_MAP, COMPOUND, 0, "", NULL},
    {"map32, empty", "D1 00000004 00000000", NV_AMQP_MAP, COMPOUND, 0, "", "C1 01 00"},
    {"map8", "C1 05 02 A3016B 40", NV_AMQP_MAP, COMPOUND, 2, "A3016B40", NULL},
    {"map32", "D1 00000008 00000002 A3016B 40", NV_AMQP_MAP, COMPOUND, 2, "A3016B40", "C1 05 02 A3016B 40"},
    {"array8 of no string", "E0 02 00 A1", NV_AMQP_ARRAY, COMPOUND, 0, "", NULL},
    {"array8 of nothing, no constructor", "E0 01 00", NV_AMQP_ARRAY, COMPOUND, 0, "", "E0 02 00 40"},
    {"array32 of nothing, no constructor", "F0 00000004 00000000", NV_AMQP_ARRAY, COMPOUND, 0, "", "E0 02 00 40"},
    {"array8 of symbols", "E0 0A 02 A3 05 504C41494E 01 58", NV_AMQP_ARRAY, COMPOUND, 2, "05504C41494E0158", NULL},
    {"array32 of strings", "F0 00000010 00000002 B1 00000001 61 00000002 6263", NV_AMQP_ARRAY, COMPOUND, 2,
     "00000001610000000262 63", "E0 0D 02 B1 00000001 61 00000002 6263"},
    {"array8 of described strings", "E0 09 02 00 A30164 A1 0161 00", NV_AMQP_ARRAY, COMPOUND, 2, "A30164A1016100",
     NULL},
};

/** A value that is described: the descriptor, and what it describes. */
static const struct {
    const char *name;
    const char *hex;
    bool known;
    uint64_t code;
    const char *symbol;
    const char *value;
    const char *again;
} described[] = {
    {"accepted", "00 53 24 45", true, 0x24, "", "45", NULL},
    {"ulong0", "00 44 40", true, 0, "", "40", "00 53 00 40"},
    {"ulong, long form", "00 80 0000000000000024 45", true, 0x24, "", "45", "00 53 24 45"},
    {"Azure's filter by number", "00 80 0000468C00000004 A1 01 78", true, 0x468C00000004, "", "A10178", NULL},
    {"a symbol", "00 A3 12 616D71703A61636365707465643A6C697374 45", false, 0, "amqp:accepted:list", "45", NULL},
    {"a symbol, long form", "00 B3 00000001 61 45", false, 0, "a", "45", "00 A3 01 61 45"},
    {"the empty symbol", "00 A3 00 45", false, 0, "", "45", NULL},
    {"binary (pyamqp's security_token)", "00 A0 01 78 A0 01 79", false, 0, "", "A00179", NULL},
    {"null", "00 40 40", false, 0, "", "40", NULL},
    {"a list", "00 C0 02 01 40 41", false, 0, "", "41", NULL},
    {"a described descriptor", "00 00 53 01 A3 01 61 41", false, 0, "", "41", NULL},
    {"a described value", "00 53 77 00 53 75 A0 00", true, 0x77, "", "005375A000", NULL},
    {"eight descriptors", "00 44 00 44 00 44 00 44 00 44 00 44 00 44 00 53 01 40", true, 0, "",
     "00 44 00 44 00 44 00 44 00 44 00 44 00 53 01 40", "00 53 00 00 44 00 44 00 44 00 44 00 44 00 44 00 53 01 40"},
};

static const struct {
    const char *name;
    const char *hex;
    nv_err err;
} bad[] = {
    {"nothing", "", NV_E_SYNTAX},
    {"code 0x01", "01", NV_E_SYNTAX},
    {"code 0x3F", "3F", NV_E_SYNTAX},
    {"code 0x46", "46", NV_E_SYNTAX},
    {"code 0x57", "57 00", NV_E_SYNTAX},
    {"code 0x62", "62 0000", NV_E_SYNTAX},
    {"code 0x90", "90 00000000000000000000000000000000", NV_E_SYNTAX},
    {"code 0xA2", "A2 00", NV_E_SYNTAX},
    {"code 0xC2", "C2 01 00", NV_E_SYNTAX},
    {"code 0xE1", "E1 02 00 40", NV_E_SYNTAX},
    {"code 0xFF", "FF 00000004 00000000", NV_E_SYNTAX},
    {"boolean 2", "56 02", NV_E_SYNTAX},
    {"char, a surrogate", "73 0000D800", NV_E_SYNTAX},
    {"char U+110000", "73 00110000", NV_E_SYNTAX},
    {"string, a lone continuation", "A1 01 80", NV_E_SYNTAX},
    {"string, overlong", "A1 02 C080", NV_E_SYNTAX},
    {"string, a surrogate", "A1 03 EDA080", NV_E_SYNTAX},
    {"string, cut inside of a character", "A1 02 E282", NV_E_SYNTAX},
    {"string, bad beyond the first eight bytes", "A1 09 6162636465666768FF", NV_E_SYNTAX},
    {"symbol beyond ASCII", "A3 02 C3A9", NV_E_SYNTAX},
    {"string longer than the input", "A1 02 61", NV_E_SYNTAX},
    {"string of 4 GiB", "B1 FFFFFFFF 61", NV_E_SYNTAX},
    {"binary of 4 GiB", "B0 FFFFFFFF 61", NV_E_SYNTAX},
    {"list8 without its count", "C0 00", NV_E_SYNTAX},
    {"list32 without its count", "D0 00000003 000000", NV_E_SYNTAX},
    {"list8, more elements than bytes", "C0 02 02 40", NV_E_SYNTAX},
    {"list32 of 2^32-1 nulls", "D0 00000005 FFFFFFFF 40", NV_E_SYNTAX},
    {"list8 longer than the input", "C0 05 01 40", NV_E_SYNTAX},
    {"map8, odd", "C1 02 01 40", NV_E_SYNTAX},
    {"map8, three", "C1 04 03 404040", NV_E_SYNTAX},
    {"map32, more than bytes", "D1 00000005 00000002 40", NV_E_SYNTAX},
    {"array32 of 2^32-1 nulls", "F0 00000005 FFFFFFFF 40", NV_E_SYNTAX},
    {"array32 of 1,025 trues", "F0 00000005 00000401 41", NV_E_SYNTAX},
    {"array32 of 2^32-1 list0", "F0 00000005 FFFFFFFF 45", NV_E_SYNTAX},
    {"array8 of null and a byte too many", "E0 03 01 40 40", NV_E_SYNTAX},
    {"array8 of uint, short", "E0 05 01 70 000000", NV_E_SYNTAX},
    {"array8 of uint, one byte too many", "E0 07 01 70 0000000000", NV_E_SYNTAX},
    {"array32 of ulong whose sizes overflow", "F0 0000000D 20000001 80 0000000000000000", NV_E_SYNTAX},
    {"array8 of strings, more than bytes", "E0 03 02 A1 00", NV_E_SYNTAX},
    {"array8 without its constructor", "E0 01 01", NV_E_SYNTAX},
    {"array8 of an unknown constructor", "E0 03 01 99 00", NV_E_SYNTAX},
    {"array8 without its count", "E0 00", NV_E_SYNTAX},
    {"array8 of described ones, no descriptor", "E0 02 00 00", NV_E_SYNTAX},
    {"array32 of 2^32-1 described ones", "F0 00000008 FFFFFFFF 00 53 24 45", NV_E_SYNTAX},
    {"descriptor alone", "00 53 24", NV_E_SYNTAX},
    {"nothing described", "00", NV_E_SYNTAX},
    {"an unknown descriptor type", "00 46 40", NV_E_SYNTAX},
    {"nine descriptors", "00 44 00 44 00 44 00 44 00 44 00 44 00 44 00 44 00 44 40", NV_E_LIMIT},
    {"descriptors of descriptors", "00 00 00 00 00 00 00 00 00 00 00 00", NV_E_LIMIT},
};

/** What nv_amqp_read() cannot see, and nv_amqp_check() does. */
static const struct {
    const char *name;
    const char *hex;
    nv_err err;
} checked[] = {
    {"empty", "", NV_E_SYNTAX},
    {"one and a half", "40 40", NV_E_SYNTAX},
    {"a list of less than it says", "C0 03 02 5001", NV_E_SYNTAX},
    {"a list of more than it says", "C0 03 01 4040", NV_E_SYNTAX},
    {"a byte in an empty list", "C0 02 00 40", NV_E_SYNTAX},
    {"an element that leaves its list", "C0 03 01 A105 4040404040", NV_E_SYNTAX},
    {"an unknown code inside", "C0 02 01 46", NV_E_SYNTAX},
    {"text inside", "C0 04 01 A101FF", NV_E_SYNTAX},
    {"text in a map in a list", "C0 09 01 C1 06 02 A101FF A000", NV_E_SYNTAX},
    {"text in an array", "E0 05 02 A1 00 01 FF", NV_E_SYNTAX},
    {"a byte behind the strings of an array", "E0 05 01 A1 00 0000", NV_E_SYNTAX},
    {"an array of lists", "E0 07 02 C0 0100 0201 40", NV_OK},
    {"an array of bad lists", "E0 07 02 C0 0100 0202 40", NV_E_SYNTAX},
    {"an array of arrays of strings", "E0 08 02 E0 0200A1 0201A1", NV_E_SYNTAX},
    {"the same, whole", "E0 09 02 E0 0200A1 0301A1 00", NV_OK},
    {"an array of described lists", "E0 08 02 00 5324 C0 0100 01 00", NV_E_SYNTAX},
    {"the same, whole", "E0 09 02 00 5324 C0 0100 0100", NV_OK},
    {"an array of described list0", "E0 06 02 00 5324 45", NV_E_SYNTAX},
    {"the same, whole", "E0 05 02 00 5324 45", NV_OK},
    {"an array of twice described", "E0 0B 01 00 5324 00 A30161 A1 0161", NV_OK},
    {"an array whose constructor leaves it", "C0 0B 02 E0 04 01 00 A309 6161616161", NV_E_SYNTAX},
    {"a described value in a list", "C0 05 01 00 5324 45", NV_OK},
    {"text in a described value in a list", "C0 07 01 00 5324 A101FF", NV_E_SYNTAX},
    {"text in a descriptor", "C0 06 01 00 A301FF 45", NV_E_SYNTAX},
    {"a list as a descriptor", "00 C0 02 01 40 40", NV_OK},
    {"a bad list as a descriptor", "00 C0 02 01 46 40", NV_E_SYNTAX},
    {"nine descriptors in a list", "C0 14 01 00 44 00 44 00 44 00 44 00 44 00 44 00 44 00 44 00 44 40", NV_E_LIMIT},
};

static void read_one(const char *hex, nv_span *bytes, nv_amqp_value *out)
{
    *bytes = bytes_of(hex);
    nv_reader r = nv_reader_of(*bytes);
    if (!nv_amqp_read(&r, out) || nv_reader_left(&r) != 0) {
        fail_msg("%s: %s, %zu bytes left", hex, nv_err_name(r.err), nv_reader_left(&r));
    }
}

/** Cut anywhere, a value is an error to whatever looks at it. */
static void assert_cuts(const char *name, nv_span bytes)
{
    for (size_t len = 0; len < bytes.len; len++) {
        nv_span cut = copy_of(nv_span_first(bytes, len));
        nv_reader reading = nv_reader_of(cut);
        nv_reader skipping = reading;
        nv_reader raw = reading;
        nv_amqp_value value;
        if (nv_amqp_read(&reading, &value) || nv_amqp_skip(&skipping) || nv_amqp_read_raw(&raw).len > 0) {
            fail_msg("%s: cut to %zu bytes, and read", name, len);
        }
        assert_int_equal(reading.err, NV_E_SYNTAX);
        assert_int_equal(skipping.err, NV_E_SYNTAX);
        assert_int_equal(raw.err, NV_E_SYNTAX);
        assert_int_equal(nv_amqp_check(cut), NV_E_SYNTAX);
        release(cut);
    }
}

/** Written again into memory that fits exactly, and into less. */
static void assert_written(const char *name, const nv_amqp_value *value, nv_span expected)
{
    uint8_t memory[MAX_VECTOR];
    nv_writer w = nv_writer_of(memory, expected.len);
    nv_amqp_put(&w, value);
    assert_int_equal(w.err, NV_OK);
    assert_bytes(name, nv_writer_span(&w), expected);
    for (size_t len = 0; len < expected.len; len++) {
        uint8_t *less = malloc(len ? len : 1);
        assert_non_null(less);
        w = nv_writer_of(less, len);
        nv_amqp_put(&w, value);
        assert_int_equal(w.err, NV_E_TOO_BIG);
        free(less);
    }
}

static void check_walkers(const char *name, nv_span bytes, const nv_amqp_value *value, const char *again)
{
    nv_reader skipping = nv_reader_of(bytes);
    nv_reader raw = skipping;
    assert_true(nv_amqp_skip(&skipping));
    assert_ptr_equal(skipping.at, bytes.ptr + bytes.len);
    assert_bytes(name, nv_amqp_read_raw(&raw), bytes);
    assert_int_equal(nv_amqp_check(bytes), NV_OK);
    assert_cuts(name, bytes);
    nv_span expected = again ? bytes_of(again) : copy_of(bytes);
    assert_written(name, value, expected);
    release(expected);
}

static void every_encoding_is_read_and_written(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(good); i++) {
        nv_span bytes;
        nv_amqp_value value;
        read_one(good[i].hex, &bytes, &value);
        if (value.type != good[i].type) {
            fail_msg("%s: type %d", good[i].name, value.type);
        }
        bool ok = good[i].content == BOOLEAN    ? value.boolean == (good[i].number != 0)
                  : good[i].content == UNSIGNED ? value.u == good[i].number
                  : good[i].content == SIGNED   ? value.i == (int64_t)good[i].number
                  : good[i].content == COMPOUND ? value.count == good[i].number
                                                : true;
        if (!ok) {
            fail_msg("%s: another value", good[i].name);
        }
        if (good[i].bytes) {
            assert_hex(good[i].name, value.bytes, good[i].bytes);
        }
        check_walkers(good[i].name, bytes, &value, good[i].again);
        release(bytes);
    }
}

static void described_values_keep_their_descriptor(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(described); i++) {
        nv_span bytes;
        nv_amqp_value value;
        read_one(described[i].hex, &bytes, &value);
        assert_int_equal(value.type, NV_AMQP_DESCRIBED);
        assert_int_equal(value.code_known, described[i].known);
        if (described[i].known) {
            assert_int_equal(value.code, described[i].code);
        } else {
            assert_true(nv_span_eq_str(value.symbol, described[i].symbol));
        }
        assert_hex(described[i].name, value.bytes, described[i].value);
        check_walkers(described[i].name, bytes, &value, described[i].again);
        release(bytes);
    }
    nv_amqp_value made = {.type = NV_AMQP_DESCRIBED, .code_known = false}; /* by hand: nothing at all */
    nv_span expected = bytes_of("00 A3 00 40");
    assert_written("made by hand", &made, expected);
    release(expected);
}

static void malformed_values_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(bad); i++) {
        nv_span bytes = bytes_of(bad[i].hex);
        nv_reader r = nv_reader_of(bytes);
        nv_amqp_value value;
        if (nv_amqp_read(&r, &value) || r.err != bad[i].err) {
            fail_msg("%s: %s", bad[i].name, nv_err_name(r.err));
        }
        if (nv_amqp_check(bytes) != bad[i].err) {
            fail_msg("%s: checked", bad[i].name);
        }
        assert_false(nv_amqp_read(&r, &value)); /* the error stays */
        assert_false(nv_amqp_skip(&r));
        assert_int_equal(nv_amqp_read_raw(&r).len, 0);
        release(bytes);
    }
}

static void a_check_goes_to_the_bottom(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(checked); i++) {
        nv_span bytes = bytes_of(checked[i].hex);
        nv_err err = nv_amqp_check(bytes);
        if (err != checked[i].err) {
            fail_msg("%s: %s", checked[i].name, nv_err_name(err));
        }
        release(bytes);
    }
}

static void nesting_ends_at_the_bound(void **state)
{
    (void)state;
    for (size_t depth = 1; depth <= NV_AMQP_MAX_DEPTH + 2; depth++) {
        uint8_t memory[512];
        nv_writer w = nv_writer_of(memory, sizeof(memory));
        size_t marks[NV_AMQP_MAX_DEPTH + 2];
        for (size_t i = 0; i < depth; i++) {
            marks[i] = nv_amqp_begin_list(&w);
        }
        nv_amqp_put_null(&w);
        for (size_t i = depth; i > 0; i--) {
            nv_amqp_end_list(&w, marks[i - 1], 1);
        }
        assert_int_equal(w.err, NV_OK);
        nv_err expected = depth <= NV_AMQP_MAX_DEPTH ? NV_OK : NV_E_LIMIT;
        assert_int_equal(nv_amqp_check(nv_writer_span(&w)), expected);
        nv_reader r = nv_reader_of(nv_writer_span(&w));
        assert_true(nv_amqp_skip(&r)); /* which goes into none of them */
    }
}

/** An array of two of each constructor, its elements as hex without it. */
static const struct {
    const char *code;
    const char *first;
    const char *second;
} elements[] = {
    {"40", "", ""},
    {"41", "", ""},
    {"42", "", ""},
    {"43", "", ""},
    {"44", "", ""},
    {"45", "", ""},
    {"50", "00", "FF"},
    {"51", "80", "7F"},
    {"52", "01", "02"},
    {"53", "01", "02"},
    {"54", "FF", "02"},
    {"55", "FF", "02"},
    {"56", "00", "01"},
    {"60", "0001", "FFFF"},
    {"61", "0001", "FFFF"},
    {"70", "00000001", "FFFFFFFF"},
    {"71", "00000001", "FFFFFFFF"},
    {"72", "3FC00000", "00000000"},
    {"73", "00000061", "000020AC"},
    {"74", "01020304", "00000000"},
    {"80", "0000000000000001", "FFFFFFFFFFFFFFFF"},
    {"81", "0000000000000001", "FFFFFFFFFFFFFFFF"},
    {"82", "3FF0000000000000", "0000000000000000"},
    {"83", "0000000000000001", "FFFFFFFFFFFFFFFF"},
    {"84", "0102030405060708", "0000000000000000"},
    {"94", "000102030405060708090A0B0C0D0E0F", "00000000000000000000000000000000"},
    {"98", "000102030405060708090A0B0C0D0E0F", "00000000000000000000000000000000"},
    {"A0", "00", "02 00FF"},
    {"A1", "01 61", "00"},
    {"A3", "01 61", "00"},
    {"B0", "00000000", "00000002 00FF"},
    {"B1", "00000001 61", "00000000"},
    {"B3", "00000001 61", "00000000"},
    {"C0", "01 00", "02 01 40"},
    {"C1", "01 00", "03 02 40 41"},
    {"D0", "00000004 00000000", "00000005 00000001 40"},
    {"D1", "00000004 00000000", "00000006 00000002 40 41"},
    {"E0", "02 00 A1", "03 01 A1 00"},
    {"F0", "00000005 00000000 A1", "00000006 00000001 A1 00"},
};

/** An element is the value that its constructor and its bytes make. */
static void assert_element(const char *code, const char *body, const nv_amqp_value *found)
{
    char hex[256];
    (void)snprintf(hex, sizeof(hex), "%s%s", code, body);
    nv_span bytes;
    nv_amqp_value value;
    read_one(hex, &bytes, &value);
    assert_int_equal(found->type, value.type);
    assert_int_equal(found->count, value.count);
    assert_int_equal(found->u, value.u);
    assert_bytes(code, found->bytes, value.bytes);
    release(bytes);
}

static void arrays_of_every_type_are_walked(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(elements); i++) {
        char hex[256];
        (void)snprintf(hex, sizeof(hex), "%s%s%s", elements[i].code, elements[i].first, elements[i].second);
        nv_span body = bytes_of(hex);
        char whole[300];
        (void)snprintf(whole, sizeof(whole), "E0%02X02%s", (unsigned)(body.len + 1), hex);
        nv_span bytes;
        nv_amqp_value array;
        nv_amqp_value element;
        read_one(whole, &bytes, &array);
        assert_int_equal(array.count, 2);
        assert_int_equal(array.element, body.ptr[0]);
        nv_reader at = nv_reader_of(array.bytes);
        assert_true(nv_amqp_array_next(&array, &at, &element));
        assert_element(elements[i].code, elements[i].first, &element);
        assert_true(nv_amqp_array_next(&array, &at, &element));
        assert_element(elements[i].code, elements[i].second, &element);
        assert_false(nv_amqp_array_next(&array, &at, &element));
        assert_int_equal(at.err, NV_OK);
        check_walkers(elements[i].code, bytes, &array, NULL);
        release(bytes);
        release(body);
    }
}

static void an_array_of_nothing_ends(void **state)
{
    (void)state;
    nv_span bytes;
    nv_amqp_value array;
    nv_amqp_value element;
    read_one("F0 00000005 00000400 41", &bytes, &array); /* the most that there may be */
    nv_reader at = nv_reader_of(array.bytes);
    unsigned count = 0;
    while (nv_amqp_array_next(&array, &at, &element)) {
        assert_int_equal(element.type, NV_AMQP_BOOLEAN);
        assert_true(element.boolean);
        count++;
    }
    assert_int_equal(count, 1024);
    assert_int_equal(at.err, NV_OK);
    release(bytes);
    read_one("E0 09 02 00 A30164 A1 0161 00", &bytes, &array);
    at = nv_reader_of(array.bytes);
    assert_false(nv_amqp_array_next(&array, &at, &element));
    assert_int_equal(at.err, NV_E_UNSUPPORTED);
    release(bytes);
    read_one("E0 05 02 A1 05 61 62", &bytes, &array); /* an element longer than the array */
    at = nv_reader_of(array.bytes);
    assert_false(nv_amqp_array_next(&array, &at, &element));
    assert_int_equal(at.err, NV_E_SYNTAX);
    release(bytes);
    read_one("40", &bytes, &array);
    at = nv_reader_of(array.bytes);
    assert_false(nv_amqp_array_next(&array, &at, &element));
    release(bytes);
}

static void maps_are_walked_and_searched(void **state)
{
    (void)state;
    nv_span bytes;
    nv_amqp_value map;
    nv_amqp_value key;
    nv_amqp_value value;
    read_one("C1 12 08 A3016B 5001 A1016B 5002 5401 41 A10173 40", &bytes, &map);
    nv_reader at = nv_reader_of(map.bytes);
    unsigned pairs = 0;
    while (nv_amqp_map_next(&at, &key, &value)) {
        pairs++;
    }
    assert_int_equal(pairs, 4);
    assert_int_equal(at.err, NV_OK);
    assert_true(nv_amqp_map_find(&map, "k", &value)); /* the first, symbol or string */
    assert_int_equal(value.u, 1);
    assert_true(nv_amqp_map_find(&map, "s", &value));
    assert_int_equal(value.type, NV_AMQP_NULL);
    assert_false(nv_amqp_map_find(&map, "K", &value));
    assert_false(nv_amqp_map_find(&map, "", &value));
    release(bytes);

    read_one("C1 06 02 A3016B A105", &bytes, &map); /* the value leaves the map */
    at = nv_reader_of(map.bytes);
    assert_false(nv_amqp_map_next(&at, &key, &value));
    assert_int_equal(at.err, NV_E_SYNTAX);
    assert_false(nv_amqp_map_find(&map, "k", &value));
    assert_false(nv_amqp_map_find(&map, "x", &value));
    release(bytes);

    read_one("C1 03 02 5001", &bytes, &map); /* a key without a value */
    at = nv_reader_of(map.bytes);
    assert_false(nv_amqp_map_next(&at, &key, &value));
    assert_int_equal(at.err, NV_E_SYNTAX);
    release(bytes);

    read_one("C0 05 02 A3016B 40", &bytes, &map); /* a list */
    assert_false(nv_amqp_map_find(&map, "k", &value));
    release(bytes);
}

static const struct {
    const char *hex;
    bool fits_i64;
    bool fits_u64;
    int64_t i;
    uint64_t u;
} integers[] = {
    {"50 FF", true, true, 255, 255},
    {"60 FFFF", true, true, 65535, 65535},
    {"43", true, true, 0, 0},
    {"80 7FFFFFFFFFFFFFFF", true, true, INT64_MAX, INT64_MAX},
    {"80 8000000000000000", false, true, 0, UINT64_C(1) << 63},
    {"51 FF", true, false, -1, 0},
    {"61 0001", true, true, 1, 1},
    {"54 FF", true, false, -1, 0},
    {"81 8000000000000000", true, false, INT64_MIN, 0},
    {"40", false, false, 0, 0},
    {"41", false, false, 0, 0},
    {"73 00000061", false, false, 0, 0},
    {"72 00000000", false, false, 0, 0},
    {"83 0000000000000001", false, false, 0, 0},
    {"A1 01 31", false, false, 0, 0},
};

static void integers_of_any_type_are_numbers(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(integers); i++) {
        nv_span bytes;
        nv_amqp_value value;
        int64_t found = 0;
        uint64_t unsigned_found = 0;
        read_one(integers[i].hex, &bytes, &value);
        assert_int_equal(nv_amqp_to_i64(&value, &found), integers[i].fits_i64);
        assert_int_equal(nv_amqp_to_u64(&value, &unsigned_found), integers[i].fits_u64);
        assert_true(found == integers[i].i && unsigned_found == integers[i].u);
        release(bytes);
    }
}

/** Texts around 255 bytes, in the short form and the long one. */
static void lengths_choose_the_form(void **state)
{
    (void)state;
    static const size_t lengths[] = {0, 1, 254, 255, 256, 300};
    uint8_t text[300];
    memset(text, 'a', sizeof(text));
    for (size_t i = 0; i < NV_COUNT_OF(lengths); i++) {
        nv_span span = nv_span_of(text, lengths[i]);
        uint8_t memory[400];
        nv_writer w = nv_writer_of(memory, sizeof(memory));
        nv_amqp_put_string(&w, span);
        size_t head = lengths[i] <= 255 ? 2 : 5;
        assert_int_equal(nv_writer_len(&w), head + lengths[i]);
        assert_int_equal(memory[0], lengths[i] <= 255 ? 0xa1 : 0xb1);
        nv_reader r = nv_reader_of(nv_writer_span(&w));
        nv_amqp_value value;
        assert_true(nv_amqp_read(&r, &value));
        assert_true(nv_span_eq(value.bytes, span));

        w = nv_writer_of(memory, sizeof(memory));
        nv_amqp_put_texts(&w, NV_AMQP_SYMBOL, &span, 1);
        assert_int_equal(w.err, NV_OK);
        assert_int_equal(nv_amqp_check(nv_writer_span(&w)), NV_OK);
        assert_int_equal(memory[0], lengths[i] + 2 < 255 ? 0xe0 : 0xf0);
        r = nv_reader_of(nv_writer_span(&w));
        assert_true(nv_amqp_read(&r, &value));
        assert_int_equal(value.count, 1);
        nv_reader at = nv_reader_of(value.bytes);
        nv_amqp_value element;
        assert_true(nv_amqp_array_next(&value, &at, &element));
        assert_int_equal(element.type, NV_AMQP_SYMBOL);
        assert_true(nv_span_eq(element.bytes, span));
    }
}

static void compounds_are_written(void **state)
{
    (void)state;
    uint8_t memory[256];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    size_t map = nv_amqp_begin_map(&w);
    nv_amqp_put_symbol_of(&w, "k");
    size_t list = nv_amqp_begin_list(&w);
    nv_amqp_put_int(&w, -1);
    nv_amqp_put_long(&w, 1000);
    nv_amqp_put_ushort(&w, 7);
    nv_amqp_put_ubyte(&w, 7);
    nv_amqp_put_timestamp(&w, 1);
    nv_amqp_put_uuid(&w, (const uint8_t *)"0123456789abcdef");
    nv_amqp_end_list(&w, list, 6);
    nv_amqp_put_string_of(&w, "s");
    nv_amqp_put_descriptor(&w, 0x468C00000004);
    nv_amqp_put_raw(&w, NV_SPAN_EMPTY);
    nv_amqp_end_map(&w, map, 4);
    assert_int_equal(w.err, NV_OK);
    assert_hex("map", nv_writer_span(&w),
               "D1 00000048 00000004 A3016B D0 0000002E 00000006 54FF 8100000000000003E8 600007 5007 "
               "830000000000000001 98 30313233343536373839616263646566 A10173 00 800000468C00000004 40");
    assert_int_equal(nv_amqp_check(nv_writer_span(&w)), NV_OK);

    static const nv_span names[] = {NV_SPAN_LIT("PLAIN"), NV_SPAN_LIT("X")};
    w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_put_texts(&w, NV_AMQP_SYMBOL, names, 2);
    assert_hex("two symbols", nv_writer_span(&w), "E0 0A 02 A3 05 504C41494E 01 58");
    w = nv_writer_of(memory, sizeof(memory));
    nv_amqp_put_texts(&w, NV_AMQP_STRING, NULL, 0);
    assert_hex("no string", nv_writer_span(&w), "E0 02 00 A1");

    uint8_t little[4];
    w = nv_writer_of(little, sizeof(little));
    nv_amqp_end_map(&w, nv_amqp_begin_map(&w), 0);
    assert_int_equal(w.err, NV_E_TOO_BIG);
}

/** Bytes that Qpid Proton 0.37 wrote. */
static const char *const proton[] = {
    "D00000000A0000000354 01A1016145",
    "D10000000800000002A3016B40",
    "D10000000400000000",
    "F00000000D000000027100000001FFFFFFFF",
    "F00000001000000002B10000000161000000026263",
    "F00000001300000002B300000005504C41494E0000000158",
    "F00000000700000002560100",
    "F0000000050000000040",
    "F00000000D0000000270000000000000012C",
    "F000000015000000019800000000000000000000000000000001",
    "F0000000130000000200A30164B100000001610000000162",
    "F00000001700000002D0000000060000000154010000000400000000",
    "00800000468C00000004A123616D71702E616E6E6F746174696F6E2E782D6F70742D6F6666736574203E20272D3127",
    "00A00164A10174",
};

static void bytes_of_proton_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(proton); i++) {
        nv_span bytes;
        nv_amqp_value value;
        read_one(proton[i], &bytes, &value);
        assert_int_equal(nv_amqp_check(bytes), NV_OK);
        assert_cuts(proton[i], bytes);
        release(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_encoding_is_read_and_written),
        cmocka_unit_test(described_values_keep_their_descriptor),
        cmocka_unit_test(malformed_values_are_refused),
        cmocka_unit_test(a_check_goes_to_the_bottom),
        cmocka_unit_test(nesting_ends_at_the_bound),
        cmocka_unit_test(arrays_of_every_type_are_walked),
        cmocka_unit_test(an_array_of_nothing_ends),
        cmocka_unit_test(maps_are_walked_and_searched),
        cmocka_unit_test(integers_of_any_type_are_numbers),
        cmocka_unit_test(lengths_choose_the_form),
        cmocka_unit_test(compounds_are_written),
        cmocka_unit_test(bytes_of_proton_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
