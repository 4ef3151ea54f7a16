/** Vectors of shared access signatures. Expected signatures were computed with another implementation (Python). */
#include "codec/sas.h"

#include "codec/hex.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define SAS "SharedAccessSignature "
#define SE  1700000000

static const nv_span key = NV_SPAN_LIT("0123456789abcdef0123456789abcdef");
static const nv_span names[] = {NV_SPAN_LIT("myhub"), NV_SPAN_LIT("myhub.azure-devices.net"), NV_SPAN_LIT("::1")};
static const nv_sas_hosts hosts = {names, NV_COUNT_OF(names)};
static const nv_span none = {NULL, 0};

#define SIG_LOWER "wgcW86HQqeve%2BkCmHA7e4w41eJOLTPN1UzrmetV0Jms%3D"
#define SIG_UPPER "rPjZKu6JIoKvc3ClGxqz3%2BiHRXWzbU06Y3fnVVZIo68%3D"
#define SIG_RAW   "tUz0vzMP8jGX7FBkYdFfNtABgWMp6G1kFuX3xEDsneo%3D"
#define SIG_EXTRA "cHSZjWs1ZmCCXma1cdlIdGF%2FI9OdE3rvYN1ZfJ2UwQs%3D"
#define SIG_HUB   "1CPFzPoxemFx9R6tuyAlv%2BldK0KfLX9eiovBB7O9%2FAw%3D"

/* conformance: mqtt.md 5 */
/* conformance: mqtt.md 6 */
/* conformance: http-hub.md 1 */
static void tokens_that_are_good(void **state)
{
    (void)state;
    static const char *const rows[] = {
        SAS "sr=myhub%2fdevices%2fd&sig=" SIG_LOWER "&se=1700000000",
        SAS "sr=myhub%2Fdevices%2Fd&sig=" SIG_UPPER "&se=1700000000",
        SAS "sr=myhub/devices/d&sig=" SIG_RAW "&se=1700000000",
        SAS "sig=" SIG_RAW "&se=1700000000&sr=myhub/devices/d", /* Java's order */
        SAS "se=1700000000&sr=myhub%2Fdevices%2Fd&sig=" SIG_UPPER,
        SAS "sr=myhub%2Fdevices%2Fd&sig=" SIG_UPPER "&se=1700000000&skn=", /* empty is absent */
        SAS "skn=&sr=myhub%2Fdevices%2Fd&sig=" SIG_UPPER "&se=1700000000",
        SAS "sr=myhub%2fdevices%2fd&sig=wgcW86HQqeve%2bkCmHA7e4w41eJOLTPN1UzrmetV0Jms%3d&se=1700000000",
        SAS "sr=myhub%2fdevices%2fd&sig=wgcW86HQqeve+kCmHA7e4w41eJOLTPN1UzrmetV0Jms=&se=1700000000", /* + stays */
        SAS "sr=myhub%2Fdevices%2Fd%2Fapi-version%3D2016-11-14&sig=" SIG_EXTRA "&se=1700000000",
        SAS "sr=myhub%2Fdevices%2Fd%2Fapi-version%3D2016-11-14&sig=cHSZjWs1ZmCCXma1cdlIdGF/I9OdE3rvYN1ZfJ2UwQs="
            "&se=1700000000",
        SAS "SR=myhub%2fdevices%2fd&Sig=" SIG_LOWER "&SE=1700000000&unknown=1&",
        "sharedaccesssignature sr=myhub%2fdevices%2fd&sig=" SIG_LOWER "&se=1700000000",
        SAS "sr=myhub&sig=" SIG_HUB "&se=1700000000&skn=device",
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_sas sas;
        nv_sas_fault fault = nv_sas_parse(nv_span_str(rows[i]), &sas);
        if (fault == NV_SAS_NONE) {
            fault = nv_sas_check_entity(&sas, hosts, nv_span_str("d"), none);
        }
        if (fault == NV_SAS_NONE) {
            fault = nv_sas_verify(&sas, key);
        }
        if (fault != NV_SAS_NONE) {
            fail_msg("%s: %s", rows[i], nv_sas_fault_name(fault));
        }
        assert_int_equal(sas.expires_unix_s, SE);
    }
}

static void tokens_that_are_malformed(void **state)
{
    (void)state;
    static const struct {
        const char *token;
        nv_sas_fault fault;
    } rows[] = {
        {"", NV_SAS_NOT_A_TOKEN},
        {"SharedAccessSignature", NV_SAS_NOT_A_TOKEN},
        {"SharedAccessSignature\tsr=a&sig=b&se=1", NV_SAS_NOT_A_TOKEN},
        {"Bearer x", NV_SAS_NOT_A_TOKEN},
        {SAS " sr=myhub&sig=" SIG_HUB "&se=1", NV_SAS_NOT_A_TOKEN}, /* two spaces */
        {SAS "sr=myhub&sig=" SIG_HUB "&se=1 x", NV_SAS_NOT_A_TOKEN},
        {SAS "", NV_SAS_SR_MISSING},
        {SAS "sr=&sig=" SIG_HUB "&se=1", NV_SAS_SR_MISSING},
        {SAS "sig=" SIG_HUB "&se=1", NV_SAS_SR_MISSING},
        {SAS "sr&sig=" SIG_HUB "&se=1", NV_SAS_SR_MISSING},
        {SAS "sr=a%2&sig=" SIG_HUB "&se=1", NV_SAS_SR_MALFORMED},
        {SAS "sr=a%zz&sig=" SIG_HUB "&se=1", NV_SAS_SR_MALFORMED},
        {SAS "sr=a%00b&sig=" SIG_HUB "&se=1", NV_SAS_SR_MALFORMED},
        {SAS "sr=a&se=1", NV_SAS_SIG_MISSING},
        {SAS "sr=a&se=1&sig=", NV_SAS_SIG_MISSING},
        {SAS "sr=a&se=1&sig=AAAA", NV_SAS_SIG_MALFORMED},
        {SAS "sr=a&se=1&sig=%zz", NV_SAS_SIG_MALFORMED},
        {SAS "sr=a&se=1&sig=" SIG_HUB "A", NV_SAS_SIG_MALFORMED},
        {SAS "sr=a&se=1&sig=" SIG_HUB SIG_HUB, NV_SAS_SIG_MALFORMED},
        {SAS "sr=a&se=1&sig=1CPFzPoxemFx9R6tuyAlv-ldK0KfLX9eiovBB7O9_Aw=", NV_SAS_SIG_MALFORMED}, /* base64url */
        {SAS "sr=a&se=1&sig=1CPFzPoxemFx9R6tuyAlv+ldK0KfLX9eiovBB7O9/Aw", NV_SAS_SIG_MALFORMED},  /* no padding */
        {SAS "sr=a&sig=" SIG_HUB, NV_SAS_SE_MISSING},
        {SAS "sr=a&sig=" SIG_HUB "&se=", NV_SAS_SE_MISSING},
        {SAS "sr=a&sig=" SIG_HUB "&se=-1", NV_SAS_SE_MALFORMED},
        {SAS "sr=a&sig=" SIG_HUB "&se=1.5", NV_SAS_SE_MALFORMED},
        {SAS "sr=a&sig=" SIG_HUB "&se=0x10", NV_SAS_SE_MALFORMED},
        {SAS "sr=a&sig=" SIG_HUB "&se=1&skn=%", NV_SAS_SKN_MALFORMED},
        {SAS "sr=a&sr=b&sig=" SIG_HUB "&se=1", NV_SAS_FIELD_TWICE},
        {SAS "sr=a&sig=" SIG_HUB "&se=1&se=2", NV_SAS_FIELD_TWICE},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_sas sas;
        char text[512];
        nv_sas_fault fault = nv_sas_parse(nv_span_str(rows[i].token), &sas);
        if (fault != rows[i].fault) {
            fail_msg("%s: %s", rows[i].token, nv_sas_fault_name(fault));
        }
        assert_true(nv_sas_explain(&sas, fault, 0, text, sizeof(text)) > 10);
    }
    char token[NV_SAS_TEXT_MAX_BYTES + 100];
    (void)snprintf(token, sizeof(token), SAS "sr=%0*d&sig=%s&se=1", NV_SAS_TEXT_MAX_BYTES + 1, 7, SIG_HUB);
    nv_sas sas;
    assert_int_equal(nv_sas_parse(nv_span_str(token), &sas), NV_SAS_TOO_LONG);
}

/* conformance: mqtt.md 5 */
/* conformance: mqtt.md 6 */
static void resources_of_devices_and_modules(void **state)
{
    (void)state;
    static const struct {
        const char *sr;
        const char *policy;
        const char *module;
        nv_sas_fault fault;
    } rows[] = {
        {"myhub/devices/d", "", "", NV_SAS_NONE},
        {"MYHUB/Devices/D", "", "", NV_SAS_NONE}, /* the device's own key is the proof */
        {"MYHUB/Devices/d", "device", "", NV_SAS_NONE},
        {"MYHUB/Devices/D", "device", "", NV_SAS_OTHER_DEVICE}, /* D is another device */
        {"myhub.azure-devices.net/devices/d", "", "", NV_SAS_NONE},
        {"myhub:8883/devices/d", "", "", NV_SAS_NONE},
        {"[::1]:8883/devices/d", "", "", NV_SAS_NONE},
        {"::1/devices/d", "", "", NV_SAS_NONE},
        {"amqps://myhub:5671/devices/d", "", "", NV_SAS_NONE},
        {"sb://myhub/devices/d/", "", "", NV_SAS_NONE},
        {"amqp://myhub/devices/d", "", "", NV_SAS_NONE},
        {"http://myhub/devices/d", "", "", NV_SAS_NONE},
        {"myhub/devices/d/api-version=2016-11-14", "", "", NV_SAS_NONE},
        {"myhub/devices/d/messages/events", "", "", NV_SAS_NONE},
        {"myhub/devices/dd", "", "", NV_SAS_OTHER_DEVICE},
        {"myhub/devices/e", "", "", NV_SAS_OTHER_DEVICE},
        {"myhub/devices/e", "device", "", NV_SAS_OTHER_DEVICE},
        {"myhub/devices/d/modules/m", "", "", NV_SAS_OTHER_MODULE},
        {"myhub", "", "", NV_SAS_NONE},
        {"myhub/", "", "", NV_SAS_NONE},
        {"myhub/devices", "", "", NV_SAS_NONE},
        {"myhub", "", "m", NV_SAS_NONE},
        {"otherhub", "", "", NV_SAS_OTHER_HUB},
        {"myhub/messages", "", "", NV_SAS_OTHER_RESOURCE},
        {"myhub", "device", "", NV_SAS_NONE},
        {"myhub/", "device", "", NV_SAS_NONE},
        {"myhub/devices", "device", "", NV_SAS_NONE},
        {"myhub/devices/", "device", "m", NV_SAS_NONE},
        {"myhub/devices/d", "device", "m", NV_SAS_NONE},
        {"myhub/dev", "device", "", NV_SAS_OTHER_RESOURCE},
        {"myhub//d", "device", "", NV_SAS_OTHER_RESOURCE},
        {"myhub/messages/events", "device", "", NV_SAS_OTHER_RESOURCE},
        {"otherhub/devices/d", "", "", NV_SAS_OTHER_HUB},
        {"myhubb/devices/d", "", "", NV_SAS_OTHER_HUB},
        {"myhu", "device", "", NV_SAS_OTHER_HUB},
        {"/devices/d", "", "", NV_SAS_OTHER_HUB},
        {"myhub:x/devices/d", "", "", NV_SAS_OTHER_HUB},
        {"ftp://myhub/devices/d", "", "", NV_SAS_OTHER_HUB},
        {"myhub/devices/d/modules/m", "", "m", NV_SAS_NONE},
        {"myhub/devices/d/modules/m/x", "", "m", NV_SAS_NONE},
        {"myhub/devices/d/modules/n", "", "m", NV_SAS_OTHER_MODULE},
        {"myhub/devices/d", "", "m", NV_SAS_TOO_WIDE}, /* signed with a device's key for its module */
        {"myhub/devices/e/modules/m", "", "m", NV_SAS_OTHER_DEVICE},
        {"myhub/devices/%64", "", "", NV_SAS_NONE}, /* .NET encodes ids, and then all of it (amqp.md section 2.3) */
        {"myhub/devices/%64/modules/%6d", "", "m", NV_SAS_NONE},
        {"myhub/devices/%65", "", "", NV_SAS_OTHER_DEVICE},
        {"myhub/devices/%6", "", "", NV_SAS_OTHER_DEVICE},
        {"myhub/devices/%2564", "", "", NV_SAS_OTHER_DEVICE},
        {"myhub/devices/d%2Fmodules%2Fm", "", "m", NV_SAS_OTHER_DEVICE},
        {"myhub/devices/%64", "device", "", NV_SAS_OTHER_DEVICE}, /* a policy may be for the device "%64" */
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint8_t memory[512];
        nv_writer w = nv_writer_of(memory, sizeof(memory));
        nv_sas sas;
        nv_sas_write(&w, nv_span_str(rows[i].sr), SE, nv_span_str(rows[i].policy), key);
        assert_int_equal(w.err, NV_OK);
        assert_int_equal(nv_sas_parse(nv_writer_span(&w), &sas), NV_SAS_NONE);
        assert_int_equal(nv_sas_verify(&sas, key), NV_SAS_NONE);
        nv_sas_fault fault = nv_sas_check_entity(&sas, hosts, nv_span_str("d"), nv_span_str(rows[i].module));
        if (fault != rows[i].fault) {
            fail_msg("%s (%s): %s", rows[i].sr, rows[i].policy, nv_sas_fault_name(fault));
        }
    }
}

static void resources_of_requests(void **state)
{
    (void)state;
    static const struct {
        const char *sr;
        const char *path;
        nv_sas_fault fault;
    } rows[] = {
        {"myhub", "/devices/d1", NV_SAS_NONE},
        {"myhub", "", NV_SAS_NONE},
        {"MyHub:443/", "/twins/x/methods", NV_SAS_NONE},
        {"myhub/devices/d1", "/devices/d1", NV_SAS_NONE},
        {"myhub/devices/d1", "/Devices/d1/messages/deviceBound", NV_SAS_NONE},
        {"myhub/devices/d1/messages/devicebound", "/devices/d1/messages/deviceBound", NV_SAS_NONE},
        {"myhub/devices/d1", "/devices/d2", NV_SAS_OTHER_DEVICE},
        {"myhub/devices/d1", "/devices/D1", NV_SAS_OTHER_DEVICE},
        {"myhub/devices/d1", "/devices/d11", NV_SAS_OTHER_DEVICE},
        {"myhub/devices/d1", "/devices", NV_SAS_OTHER_DEVICE},
        {"myhub/devices/d1", "", NV_SAS_OTHER_RESOURCE},
        {"myhub/devices/a#b", "/devices/a%23b", NV_SAS_NONE},
        {"myhub/devices/a%23b", "/devices/a%23b", NV_SAS_OTHER_DEVICE}, /* the id "a%23b" is another one */
        {"myhub/devices/d1", "/devices/d%zz", NV_SAS_OTHER_DEVICE},
        {"myhub/devices", "/twins/d1", NV_SAS_OTHER_RESOURCE},
        {"other", "/devices/d1", NV_SAS_OTHER_HUB},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        uint8_t memory[512];
        nv_writer w = nv_writer_of(memory, sizeof(memory));
        nv_sas sas;
        nv_sas_write(&w, nv_span_str(rows[i].sr), SE, nv_span_str("service"), key);
        assert_int_equal(nv_sas_parse(nv_writer_span(&w), &sas), NV_SAS_NONE);
        nv_sas_fault fault = nv_sas_check_path(&sas, hosts, nv_span_str(rows[i].path));
        if (fault != rows[i].fault) {
            fail_msg("%s for %s: %s", rows[i].sr, rows[i].path, nv_sas_fault_name(fault));
        }
    }
}

static void expiry(void **state)
{
    (void)state;
    static const struct {
        const char *se;
        int64_t now;
        int64_t skew;
        nv_sas_fault fault;
    } rows[] = {
        {"1000", 999, 0, NV_SAS_NONE},
        {"1000", 1000, 0, NV_SAS_EXPIRED}, /* se <= now */
        {"1000", 1001, 0, NV_SAS_EXPIRED},
        {"1000", 1299, 300, NV_SAS_NONE},
        {"1000", 1300, 300, NV_SAS_EXPIRED},
        {"0", 0, 0, NV_SAS_EXPIRED},
        {"9223372036854775807", INT64_MAX - 1, 300, NV_SAS_NONE},
        {"99999999999999999999999999", 4102444800, 0, NV_SAS_NONE},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char token[256];
        nv_sas sas;
        (void)snprintf(token, sizeof(token), SAS "sr=myhub&sig=%s&se=%s", SIG_HUB, rows[i].se);
        assert_int_equal(nv_sas_parse(nv_span_str(token), &sas), NV_SAS_NONE);
        assert_int_equal(nv_sas_check_expiry(&sas, rows[i].now, rows[i].skew), rows[i].fault);
    }
}

static void signatures_that_do_not_fit(void **state)
{
    (void)state;
    static const char *const rows[] = {
        SAS "sr=myhub%2Fdevices%2Fd&sig=" SIG_LOWER "&se=1700000000", /* signed with %2f */
        SAS "sr=myhub%2fdevices%2fd&sig=" SIG_LOWER "&se=1700000001",
        SAS "sr=myhub%2fdevices%2fd&sig=" SIG_LOWER "&se=01700000000",
        SAS "sr=myhub%2fdevices%2fe&sig=" SIG_LOWER "&se=1700000000",
    };
    nv_sas sas;
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        assert_int_equal(nv_sas_parse(nv_span_str(rows[i]), &sas), NV_SAS_NONE);
        assert_int_equal(nv_sas_verify(&sas, key), NV_SAS_SIGNATURE);
    }
    assert_int_equal(nv_sas_parse(nv_span_str(SAS "sr=myhub&sig=" SIG_HUB "&se=1700000000"), &sas), NV_SAS_NONE);
    assert_int_equal(nv_sas_verify(&sas, key), NV_SAS_NONE);
    assert_int_equal(nv_sas_verify(&sas, nv_span_first(key, 31)), NV_SAS_SIGNATURE);
    assert_int_equal(nv_sas_verify(&sas, none), NV_SAS_SIGNATURE);
    for (size_t bit = 0; bit < 256; bit++) {
        sas.signature[bit / 8] = (uint8_t)(sas.signature[bit / 8] ^ 1u << bit % 8);
        assert_int_equal(nv_sas_verify(&sas, key), NV_SAS_SIGNATURE);
        sas.signature[bit / 8] = (uint8_t)(sas.signature[bit / 8] ^ 1u << bit % 8);
    }
}

static void hmac_vectors(void **state)
{
    (void)state;
    static const struct {
        char fill;
        size_t len;
        const char *hex;
    } rows[] = {{'x', 0, "76d9e7194e7dbc3aa00bbe8ffb9f6fcb5a932170f971f948bb2ab61607d2b9d6"},
                {'a', 64, "3a6c4af2edf3a1689f7a6c97051a7c34dd22a9353807f98e0d0ab779019c07d2"},
                {'b', 65, "8270ac21e8ab27f74a88f8a446043660998d055469dc29b4c59b411047163653"}};
    const nv_span parts[] = {NV_SPAN_LIT("what do ya want "), NV_SPAN_LIT(""), NV_SPAN_LIT("for nothing?")};
    uint8_t expected[32];
    uint8_t out[32];
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char text[65];
        memset(text, rows[i].fill, sizeof(text));
        assert_int_equal(nv_hex_decode(nv_span_str(rows[i].hex), expected, 32), NV_OK);
        nv_hmac_sha256(nv_span_of(text, rows[i].len), parts, NV_COUNT_OF(parts), out);
        assert_memory_equal(out, expected, 32);
    }
    /* RFC 4231, test case 2 */
    assert_int_equal(
        nv_hex_decode(nv_span_str("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"), expected, 32),
        NV_OK);
    nv_hmac_sha256(nv_span_str("Jefe"), parts, NV_COUNT_OF(parts), out);
    assert_memory_equal(out, expected, 32);
}

static void tokens_made_here(void **state)
{
    (void)state;
    uint8_t memory[256];
    nv_writer w = nv_writer_of(memory, sizeof(memory));
    nv_sas_write(&w, nv_span_str("myhub/devices/d"), SE, none, key);
    assert_int_equal(w.err, NV_OK);
    assert_true(nv_span_eq_str(nv_writer_span(&w), SAS "sr=myhub%2Fdevices%2Fd&sig=" SIG_UPPER "&se=1700000000"));
    w = nv_writer_of(memory, sizeof(memory));
    nv_sas_write(&w, nv_span_str("myhub"), SE, nv_span_str("a b"), key);
    assert_true(nv_span_eq_str(nv_writer_span(&w), SAS "sr=myhub&sig=" SIG_HUB "&se=1700000000&skn=a%20b"));
    nv_sas sas;
    assert_int_equal(nv_sas_parse(nv_writer_span(&w), &sas), NV_SAS_NONE);
    assert_true(nv_span_eq_str(sas.policy, "a b"));
    w = nv_writer_of(memory, sizeof(memory));
    nv_sas_write(&w, nv_span_str("myhub"), -1, none, key);
    assert_int_equal(w.err, NV_E_INVALID);
    for (size_t room = 0; room < 60; room += 7) {
        w = nv_writer_of(memory, room);
        nv_sas_write(&w, nv_span_str("myhub/devices/d"), SE, none, key);
        assert_int_equal(w.err, NV_E_TOO_BIG);
    }
}

static void explanations_help_and_leak_nothing(void **state)
{
    (void)state;
    nv_sas sas;
    char text[256];
    assert_int_equal(nv_sas_parse(nv_span_str(SAS "sr=myhub/a%0Ab&sig=" SIG_HUB "&se=1700000000&skn=p"), &sas),
                     NV_SAS_NONE);
    size_t len = nv_sas_explain(&sas, NV_SAS_EXPIRED, SE + 540, text, sizeof(text));
    assert_int_equal(len, strlen(text));
    assert_non_null(strstr(text, "expired 540 s ago"));
    for (int fault = 0; fault <= NV_SAS_SIGNATURE; fault++) {
        len = nv_sas_explain(&sas, (nv_sas_fault)fault, SE, text, sizeof(text));
        assert_true(len > 0 && len == strlen(text));
        assert_null(strstr(text, "1CPFz"));
        assert_null(strchr(text, '\n'));
        assert_true(strlen(nv_sas_fault_name((nv_sas_fault)fault)) > 0);
    }
    (void)nv_sas_explain(&sas, NV_SAS_OTHER_DEVICE, SE, text, sizeof(text));
    assert_non_null(strstr(text, "sr=myhub/a?b, skn=p"));
    assert_int_equal(nv_sas_explain(&sas, NV_SAS_OTHER_DEVICE, SE, text, 5), 4);
    assert_int_equal(strlen(text), 4);
    assert_int_equal(nv_sas_explain(&sas, NV_SAS_OTHER_DEVICE, SE, text, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_that_are_good),
        cmocka_unit_test(tokens_that_are_malformed),
        cmocka_unit_test(resources_of_devices_and_modules),
        cmocka_unit_test(resources_of_requests),
        cmocka_unit_test(expiry),
        cmocka_unit_test(signatures_that_do_not_fit),
        cmocka_unit_test(hmac_vectors),
        cmocka_unit_test(tokens_made_here),
        cmocka_unit_test(explanations_help_and_leak_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
