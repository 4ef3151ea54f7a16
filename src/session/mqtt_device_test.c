/* The MQTT device session against a hub in memory: what goes in, what comes out, and what is in the log then. */
#include "session/mqtt_device.h"

#include "base/diag.h"
#include "base/metrics.h"
#include "core/devices.h"
#include "store/record.h"
#include "support/fake_core.h"
#include "support/mqtt_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define EVENTS "devices/d1/messages/events/"

typedef struct bench {
    fake_core core;
    mqtt_pair a;
    mqtt_pair b;
} bench;

static char last_log[4096];

static void keep_line(void *arg, nv_level level, const char *line, size_t len)
{
    (void)arg;
    if (level >= NV_LEVEL_WARN) {
        size_t n = len < sizeof(last_log) - 1 ? len : sizeof(last_log) - 1;
        memcpy(last_log, line, n);
        last_log[n] = '\0';
    }
}

static bench *bench_new(const nv_limits *limits)
{
    bench *t = calloc(1, sizeof(*t));
    assert_non_null(t);
    fake_core_init(&t->core, 1, limits);
    fake_register(&t->core, "d1", "", NULL);
    fake_register(&t->core, "d1", "m1", NULL);
    fake_register(&t->core, "d2", "", NULL);
    fake_core_run(&t->core);
    mqtt_pair_open(&t->a, &t->core.hub->loops[0], 1);
    mqtt_pair_open(&t->b, &t->core.hub->loops[0], 2);
    last_log[0] = '\0';
    nv_diag_setup(NV_LEVEL_DEBUG, false, -1);
    nv_diag_set_sink(keep_line, NULL);
    return t;
}

/* Until nothing happens any more. */
static void run(bench *t)
{
    for (int i = 0; i < 8; i++) {
        fake_core_run(&t->core);
        mqtt_pair_service(&t->a);
        mqtt_pair_service(&t->b);
    }
}

static void bench_free(bench *t)
{
    fake_log_set_mode(&t->core, FAKE_LOG_AUTO);
    while (fake_log_complete(&t->core, NV_OK)) {
        fake_core_run(&t->core);
    }
    fake_state_set_hold(&t->core, false);
    while (fake_state_complete(&t->core)) {
    }
    t->a.stuck = t->b.stuck = false;
    mqtt_pair_cut(&t->a);
    mqtt_pair_cut(&t->b);
    run(t);
    assert_true(mqtt_pair_gone(&t->a) && mqtt_pair_gone(&t->b));
    assert_int_equal(nv_devices_connected(t->core.hub), 0);
    mqtt_pair_deinit(&t->a);
    mqtt_pair_deinit(&t->b);
    fake_core_deinit(&t->core);
    nv_diag_set_sink(NULL, NULL);
    free(t);
}

static const mqtt_login d1 = {.device = "d1"};
static const mqtt_login d1_persistent = {.device = "d1", .persistent = true};

static void expect(bench *t, mqtt_pair *pair, const char *hex)
{
    run(t);
    assert_string_equal(mqtt_pair_take_hex(pair), hex);
}

static void open_as(bench *t, mqtt_pair *pair, const mqtt_login *login)
{
    mqtt_pair_connect(pair, login);
    expect(t, pair, "20020000");
    assert_false(mqtt_pair_gone(pair));
}

/* "name=value;..." of a stored record: system properties by their logical names, nulls as "name". */
static const char *properties_of(const fake_record *record)
{
    static char text[8192];
    size_t n = 0;
    nv_reader r = nv_reader_of(record->properties);
    nv_property p;
    text[0] = '\0';
    while (nv_property_next(&r, &p)) {
        nv_span name = p.id ? nv_span_str(nv_system_property_name(p.id)) : p.name;
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%.*s", n ? ";" : "", NV_SPAN_ARG(name));
        if (p.value.type == NV_VALUE_BINARY) {
            n += (size_t)snprintf(text + n, sizeof(text) - n, "=(binary)");
        } else if (p.value.type != NV_VALUE_NULL) {
            n += (size_t)snprintf(text + n, sizeof(text) - n, "=%.*s", NV_SPAN_ARG(p.value.bytes));
        }
    }
    assert_int_equal(r.err, NV_OK);
    return text;
}

static const fake_record *last_record(const bench *t)
{
    assert_true(fake_log_count(&t->core) > 0);
    return fake_log_at(&t->core, fake_log_count(&t->core) - 1);
}

static nv_refusal last_refusal(bench *t, const char *device, const char *module)
{
    nv_refusal_entry entry;
    size_t n = nv_refusals_list(t->core.hub->refusals, nv_span_str(device), nv_span_str(module), &entry, 1);
    return n ? entry.refusal : NV_REFUSAL_NONE;
}

/* ---- connect --------------------------------------------------------------------------------------------------- */

/* conformance: mqtt.md 1 */
/* conformance: mqtt.md 21 */
static void test_connect_publish_puback(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    mqtt_login login = d1;
    login.user_name = FAKE_HUB_NAME "/d1/?api-version=2021-04-12&DeviceClientType=x";
    open_as(t, &t->a, &login);
    assert_true(t->a.session->authenticated);
    assert_int_equal(nv_devices_connected(t->core.hub), 1);
    mqtt_pair_publish(&t->a, EVENTS, "hello", 1, 0x0102);
    expect(t, &t->a, ""); /* not stored, not acknowledged */
    assert_int_equal(fake_log_held(&t->core), 1);
    assert_true(fake_log_complete(&t->core, NV_OK));
    expect(t, &t->a, "40020102");
    assert_int_equal(fake_log_count(&t->core), 1);
    assert_memory_equal(last_record(t)->body.ptr, "hello", 5);
    nv_stamp stamp;
    assert_int_equal(nv_stamp_decode(last_record(t)->stamp, &stamp), NV_OK);
    assert_true(nv_span_eq_str(stamp.device_id, "d1") && stamp.module_id.len == 0);
    assert_true(nv_span_eq_str(stamp.generation_id, "638000000000000000"));
    assert_int_equal(stamp.scope, NV_AUTH_SCOPE_DEVICE);
    bench_free(t);
}

/* conformance: mqtt.md 2 */
/* conformance: mqtt.md 3 */
static void test_user_names(void **state)
{
    (void)state;
    static const struct {
        const char *user;
        const char *module;
        const char *client; /* NULL: as the identity */
        const char *answer;
    } rows[] = {
        {FAKE_HUB_NAME "/d1", "", NULL, "20020000"},
        {FAKE_HUB_NAME "/d1/", "", NULL, "20020000"},
        {FAKE_HUB_NAME "/d1/?api-version=2021-04-12", "", NULL, "20020000"},
        {FAKE_HUB_NAME "/d1/api-version=2016-11-14", "", NULL, "20020000"},
        {FAKE_HUB_NAME "/d1/?&api-version=2018-06-30", "", NULL, "20020000"},
        {FAKE_HUB_NAME "/d1/api-version=2017-06-30/DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003",
         "", NULL, "20020000"},
        {FAKE_HUB_NAME "/d1/?api-version=2019-10-01&DeviceClientType=azure-iot-device-iothub-py%2F2.14.0%28x%29", "",
         NULL, "20020000"},
        {"HUB.Example.NET/d1/?api-version=2021-04-12", "", NULL, "20020000"},
        {FAKE_ALIAS "/d1/?api-version=2021-04-12", "", NULL, "20020000"},
        {FAKE_HUB_NAME ":8883/d1/?api-version=2021-04-12", "", NULL, "20020000"},
        {FAKE_HUB_NAME "/d1/m1/?api-version=2018-06-30", "m1", NULL, "20020000"},
        {FAKE_HUB_NAME "/d1/m1/api-version=2018-06-30", "m1", NULL, "20020000"},
        {FAKE_HUB_NAME "/d1/m1/?api-version=2018-06-30", "m1", "d1", "20020005"},
        {FAKE_HUB_NAME "/d1/?api-version=2018-06-30", "", "d1/m1", "20020005"},
        {FAKE_HUB_NAME "/d1/?api-version=2021-04-12", "", "D1", "20020005"},
        {FAKE_HUB_NAME "/d1/?api-version=2021-04-12", "", "", "20020005"},
        {"other.example.net/d1/?api-version=2021-04-12", "", NULL, "20020005"},
        {FAKE_HUB_NAME, "", NULL, "20020005"},
        {"", "", NULL, "20020005"},
        {"/", "", NULL, "20020005"},
        {FAKE_HUB_NAME "//?api-version=2021-04-12", "", NULL, "20020005"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_login login = {
            .device = "d1", .module = rows[i].module, .user_name = rows[i].user, .client_id = rows[i].client};
        mqtt_pair_connect(&t->a, &login);
        run(t);
        const char *got = mqtt_pair_take_hex(&t->a);
        if (strcmp(got, rows[i].answer) != 0) {
            fail_msg("user name \"%s\": %s, not %s (%s)", rows[i].user, got, rows[i].answer, last_log);
        }
        assert_int_equal(mqtt_pair_gone(&t->a), strcmp(rows[i].answer, "20020000") != 0);
        bench_free(t);
    }
}

static void make_disabled(nv_identity *identity)
{
    identity->enabled = false;
    identity->status_reason = nv_span_str("stolen");
}

static void make_ca(nv_identity *identity)
{
    identity->auth = NV_AUTH_CA;
}

/* conformance: mqtt.md 5 */
/* conformance: mqtt.md 6 */
/* conformance: mqtt.md 7 */
static void test_credentials(void **state)
{
    (void)state;
    static const nv_key wrong = {"wrong-key-wrong-key-wrong-key-wr", 32};
    static const struct {
        mqtt_login login;
        const char *answer;
        nv_refusal why;
    } rows[] = {
        {{.device = "d1"}, "20020000", NV_REFUSAL_NONE},
        {{.device = "d1", .key = &fake_secondary_key}, "20020000", NV_REFUSAL_NONE},
        {{.device = "d1", .policy = "device"}, "20020000", NV_REFUSAL_NONE},
        {{.device = "d1", .policy = "iothubowner"}, "20020000", NV_REFUSAL_NONE},
        {{.device = "d1", .host = FAKE_ALIAS}, "20020000", NV_REFUSAL_NONE},
        {{.device = "d1", .module = "m1"}, "20020000", NV_REFUSAL_NONE},
        {{.device = "d1", .policy = "service"}, "20020005", NV_REFUSAL_POLICY_RIGHT},
        {{.device = "d1", .policy = "nobody"}, "20020005", NV_REFUSAL_POLICY_UNKNOWN},
        {{.device = "d1", .policy = "device", .key = &wrong}, "20020005", NV_REFUSAL_TOKEN_SIGNATURE},
        {{.device = "d1", .key = &wrong}, "20020005", NV_REFUSAL_TOKEN_SIGNATURE},
        {{.device = "d1", .ttl_s = -552}, "20020005", NV_REFUSAL_TOKEN_EXPIRED},
        {{.device = "d1", .host = "elsewhere.example.net"}, "20020005", NV_REFUSAL_HOST},
        {{.device = "nobody"}, "20020005", NV_REFUSAL_UNKNOWN_DEVICE},
        {{.device = "d1", .module = "nobody"}, "20020005", NV_REFUSAL_UNKNOWN_DEVICE},
        {{.device = "disabled"}, "20020005", NV_REFUSAL_DISABLED},
        {{.device = "ca"}, "20020005", NV_REFUSAL_AUTH_TYPE},
        {{.device = "d1", .password = "swordfish"}, "20020005", NV_REFUSAL_TOKEN_MALFORMED},
        {{.device = "d1", .password = ""}, "20020005", NV_REFUSAL_NO_CREDENTIAL},
        {{.device = "d1", .no_password = true}, "20020005", NV_REFUSAL_NO_CREDENTIAL},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        for (int later = 0; later < 2; later++) { /* the registry answers at once, or asks the store */
            bench *t = bench_new(&nv_limits_open);
            fake_register(&t->core, "disabled", "", make_disabled);
            fake_register(&t->core, "ca", "", make_ca);
            fake_registry_set_mode(&t->core, later ? NV_E_MORE : NV_OK);
            mqtt_pair_connect(&t->a, &rows[i].login);
            expect(t, &t->a, rows[i].answer);
            const char *module = rows[i].login.module ? rows[i].login.module : "";
            assert_int_equal(last_refusal(t, rows[i].login.device, module), rows[i].why);
            assert_int_equal(mqtt_pair_gone(&t->a), rows[i].why != NV_REFUSAL_NONE);
            bench_free(t);
        }
    }
}

static void test_refusals_explain(void **state)
{
    (void)state;
    static const struct {
        mqtt_login login;
        const char *says;
    } rows[] = {
        {{.device = "d1", .ttl_s = -552}, "expired 9 min 12 s ago"},
        {{.device = "d1", .ttl_s = -90061}, "expired 1 d 1 h ago"},
        {{.device = "d1", .host = "x.example.net"},
         "sr names hub \"x.example.net\", this hub is \"" FAKE_HUB_NAME "\""},
        {{.device = "disabled"}, "stolen"},
        {{.device = "ca"}, "certificateAuthority"},
        {{.device = "nobody"}, "nave device add"},
        {{.device = "d1", .client_id = "elsewho"}, "the client id is \"elsewho\""},
        {{.device = "d1", .user_name = "h2/d1"}, "the user name begins with \"h2\", this hub is \"" FAKE_HUB_NAME "\""},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        fake_register(&t->core, "disabled", "", make_disabled);
        fake_register(&t->core, "ca", "", make_ca);
        mqtt_pair_connect(&t->a, &rows[i].login);
        expect(t, &t->a, "20020005");
        if (!strstr(last_log, rows[i].says)) {
            fail_msg("\"%s\" is not in: %s", rows[i].says, last_log);
        }
        bench_free(t);
    }
}

/* conformance: mqtt.md 8 */
static void test_connack_of_failures(void **state)
{
    (void)state;
    static const struct {
        nv_err registry;
        nv_err session;
        nv_log_health log;
        const char *answer;
    } rows[] = {
        {NV_E_IO, NV_OK, NV_LOG_OK, "20020003"},      {NV_E_AGAIN, NV_OK, NV_LOG_OK, "20020003"},
        {NV_OK, NV_E_IO, NV_LOG_OK, "20020003"},      {NV_OK, NV_E_AGAIN, NV_LOG_OK, "20020003"},
        {NV_OK, NV_OK, NV_LOG_FAILED, "20020003"},    {NV_OK, NV_OK, NV_LOG_FULL, "20020000"},
        {NV_E_CORRUPT, NV_OK, NV_LOG_OK, "20020003"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        fake_registry_set_mode(&t->core, rows[i].registry);
        fake_state_set_status(&t->core, rows[i].session);
        fake_log_set_health(&t->core, rows[i].log);
        mqtt_pair_connect(&t->a, &d1);
        expect(t, &t->a, rows[i].answer);
        assert_int_equal(mqtt_pair_gone(&t->a), strcmp(rows[i].answer, "20020000") != 0);
        bench_free(t);
    }
}

/* conformance: mqtt.md 8 */
static void test_first_packets(void **state)
{
    (void)state;
    static const struct {
        const char *clause;
        const char *bytes;
        const char *answer;
        bool gone;
    } rows[] = {
        {"[MQTT-3.1.2-2] level 3", "10 10 0006 4d5149736470 03 02 003c 0002 6431", "20020001", true},
        {"[MQTT-3.1.2-2] level 6", "10 0e 0004 4d515454 06 02 003c 0002 6431", "20020001", true},
        {"[MQTT-3.1.2-2] bridge level 0x84", "10 0e 0004 4d515454 84 02 003c 0002 6431", "20020001", true},
        {"MQTT 5 is refused in its own words", "10 0f 0004 4d515454 05 02 003c 00 0002 6431", "2003008400", true},
        {"[MQTT-3.1.2-1] another protocol", "10 0e 0004 4d515458 04 02 003c 0002 6431", "", true},
        {"[MQTT-3.1.2-3] reserved flag", "10 0e 0004 4d515454 04 03 003c 0002 6431", "", true},
        {"[MQTT-3.1.0-1] PUBLISH first", "30 05 0001 61 6262", "", true},
        {"[MQTT-3.1.0-1] PINGREQ first", "c000", "", true},
        {"[MQTT-3.1.0-1] a TLS hello on the plain port", "16 03 01 02 00", "", true},
        {"[MQTT-3.1.0-1] HTTP", "47455420 2f20", "", true},
        {"half a CONNECT", "10 0e 0004 4d51", "", false},
        {"no user name", "10 0e 0004 4d515454 04 02 003c 0002 6431", "20020005", true},
        {"larger than anybody unknown may send", "10 ff ff 7f 0004", "", true},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_pair_send_hex(&t->a, rows[i].bytes);
        run(t);
        const char *got = mqtt_pair_take_hex(&t->a);
        if (strcmp(got, rows[i].answer) != 0 || mqtt_pair_gone(&t->a) != rows[i].gone) {
            fail_msg("%s: %s, gone %d (%s)", rows[i].clause, got, mqtt_pair_gone(&t->a), last_log);
        }
        bench_free(t);
    }
}

static void test_second_connect_closes(void **state)
{
    (void)state; /* [MQTT-3.1.0-2] */
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    mqtt_pair_connect(&t->a, &d1);
    expect(t, &t->a, "");
    assert_true(mqtt_pair_gone(&t->a));
    bench_free(t);
}

static const char thumbprint_sha256[] = "00112233445566778899aAbBcCdDeEfF00112233445566778899AABBCCDDEEFF";
static const char thumbprint_sha1[] = "00112233445566778899AABBCCDDEEFF00112233";

static void make_x509_sha256(nv_identity *identity)
{
    identity->auth = NV_AUTH_SELF_SIGNED;
    identity->primary_thumbprint = nv_span_str(thumbprint_sha256);
}

static void make_x509_sha1(nv_identity *identity)
{
    identity->auth = NV_AUTH_SELF_SIGNED;
    identity->primary_thumbprint = nv_span_str("ffffffffffffffffffffffffffffffffffffffff");
    identity->secondary_thumbprint = nv_span_str(thumbprint_sha1);
}

/* conformance: mqtt.md 9 */
static void test_certificates(void **state)
{
    (void)state;
    static const struct {
        void (*set)(nv_identity *identity);
        mqtt_login login;
        bool present;
        uint8_t first_byte;
        int64_t valid_from_s; /* of now */
        int64_t valid_to_s;
        nv_refusal why;
    } rows[] = {
        {make_x509_sha256, {.device = "x", .no_password = true}, true, 0x00, -10, 10, NV_REFUSAL_NONE},
        {make_x509_sha256, {.device = "x", .password = ""}, true, 0x00, -10, 10, NV_REFUSAL_NONE},
        {make_x509_sha1, {.device = "x", .no_password = true}, true, 0x00, -10, 10, NV_REFUSAL_NONE},
        {make_x509_sha256, {.device = "x", .no_password = true}, true, 0x01, -10, 10, NV_REFUSAL_CERTIFICATE},
        {make_x509_sha1, {.device = "x", .no_password = true}, true, 0x01, -10, 10, NV_REFUSAL_CERTIFICATE},
        {make_x509_sha256, {.device = "x", .no_password = true}, true, 0x00, 5, 10, NV_REFUSAL_CERTIFICATE_TIME},
        {make_x509_sha256, {.device = "x", .no_password = true}, true, 0x00, -10, -5, NV_REFUSAL_CERTIFICATE_TIME},
        {make_x509_sha256, {.device = "x", .no_password = true}, false, 0x00, -10, 10, NV_REFUSAL_NO_CREDENTIAL},
        {make_x509_sha256, {.device = "x"}, true, 0x00, -10, 10, NV_REFUSAL_AUTH_TYPE}, /* a token for X.509 */
        {NULL, {.device = "x", .no_password = true}, true, 0x00, -10, 10, NV_REFUSAL_AUTH_TYPE},
        {NULL, {.device = "x"}, true, 0x00, -10, 10, NV_REFUSAL_NONE}, /* both: the password decides for SAS */
    };
    static const uint8_t bytes[32] = {0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa,
                                      0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55,
                                      0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        fake_register(&t->core, "x", "", rows[i].set);
        nv_peer *peer = &t->a.peer;
        peer->has_certificate = rows[i].present;
        memcpy(peer->certificate_sha1, bytes, sizeof(peer->certificate_sha1));
        memcpy(peer->certificate_sha256, bytes, sizeof(peer->certificate_sha256));
        peer->certificate_sha1[0] = peer->certificate_sha256[0] = rows[i].first_byte;
        peer->certificate_not_before_us = FAKE_NOW_US + rows[i].valid_from_s * NV_US_PER_S;
        peer->certificate_not_after_us = FAKE_NOW_US + rows[i].valid_to_s * NV_US_PER_S;
        mqtt_pair_connect(&t->a, &rows[i].login);
        expect(t, &t->a, rows[i].why == NV_REFUSAL_NONE ? "20020000" : "20020005");
        assert_int_equal(last_refusal(t, "x", ""), rows[i].why);
        if (rows[i].why == NV_REFUSAL_NONE && rows[i].set) {
            mqtt_pair_publish(&t->a, "devices/x/messages/events/", "p", 1, 1);
            expect(t, &t->a, "40020001");
            nv_stamp stamp;
            assert_int_equal(nv_stamp_decode(last_record(t)->stamp, &stamp), NV_OK);
            assert_int_equal(stamp.type, NV_AUTH_TYPE_X509);
        }
        bench_free(t);
    }
}

/* ---- publish ---------------------------------------------------------------------------------------------------- */

/* conformance: mqtt.md 22 */
static void test_bags(void **state)
{
    (void)state;
    static const struct {
        const char *topic; /* behind devices/d1/messages/events */
        const char *properties;
    } rows[] = {
        {"", ""},
        {"/", ""},
        {"/?", ""},
        {"/a=1", "a=1"},
        {"/a=1/", "a=1"},
        {"/?a=1", "a=1"},
        {"/a=1&", "a=1"},
        {"/&&a=1", "a=1"},
        {"/$.ct=application%2Fjson&$.ce=utf-8", "content-type=application/json;content-encoding=utf-8"},
        {"/%24.ct=application%2Fjson&%24.ce=utf-8", "content-type=application/json;content-encoding=utf-8"},
        {"/%24.ct=application%2fjson&%24.ce=utf-8&", "content-type=application/json;content-encoding=utf-8"},
        {"/$.ct=application/json&$.ce=utf-8", "content-type=application/json;content-encoding=utf-8"},
        {"/a=1&$.mid=m", "a=1;message-id=m"},
        {"/$.mid=m&a=1", "message-id=m;a=1"},
        {"/a=1 2:3/4", "a=1 2:3/4"},
        {"/a=b=c", "a=b=c"},
        {"/a", "a"},
        {"/a=", "a="},
        {"/a=1&a=2", "a=2"},
        {"/%61=%C3%A9", "a=\xC3\xA9"},
        {"/load=50%", "load=50%"},
        {"/b=%FF", "b=(binary)"},
        {"/$.mid=1&$.cid=2&$.uid=3&$.to=4&$.exp=5&$.ctime=6",
         "message-id=1;correlation-id=2;user-id=3;to=4;iothub-expiry=5;iothub-creation-time-utc=6"},
        {"/$.on=o&$.ifid=i&$.schema=s&$.diagid=d&$.diagctx=c",
         "iothub-outputname=o;iothub-interface-id=i;iothub-message-schema=s;Diagnostic-Id=d;Correlation-Context=c"},
        {"/$.unknown=1", "$.unknown=1"},
        /* conformance: mqtt.md 23 */
        {"/$.sub=thermostat1", "dt-subject=thermostat1"},
        {"/%24.sub=thermostat1", "dt-subject=thermostat1"},
        /* conformance: mqtt.md 24 */
        {"/$.cdid=evil&%24.cmid=evil&a=1", "a=1"},
        {"/iothub-connection-device-id=evil&iothub-connection-module-id=e&iothub-connection-auth-method=x&a=1", "a=1"},
        {"/iothub-connection-auth-generation-id=1&iothub-enqueuedtime=2&iothub-message-source=3&dt-dataschema=4&a=1",
         "a=1"},
    };
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char topic[512];
        (void)snprintf(topic, sizeof(topic), "devices/d1/messages/events%s", rows[i].topic);
        for (int again = 0; again < 2; again++) { /* the second time from the kept topic */
            mqtt_pair_publish(&t->a, topic, "p", 1, 7);
            expect(t, &t->a, "40020007");
            if (strcmp(properties_of(last_record(t)), rows[i].properties) != 0) {
                fail_msg("%s: %s, not %s", topic, properties_of(last_record(t)), rows[i].properties);
            }
        }
    }
    assert_int_equal(fake_log_count(&t->core), 2 * NV_COUNT_OF(rows));
    bench_free(t);
}

static void test_topics_alternate(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    for (uint16_t i = 1; i < 40; i++) {
        char topic[300];
        (void)snprintf(topic, sizeof(topic), EVENTS "n=%0*d", 1 + i * 5 % 90, i);
        mqtt_pair_publish(&t->a, i % 3 ? topic : EVENTS, "", 0, 0);
        run(t);
        assert_string_equal(properties_of(last_record(t)), i % 3 ? topic + strlen(EVENTS) : "");
    }
    bench_free(t);
}

/* conformance: mqtt.md 23 */
/* conformance: mqtt.md 24 */
static void test_model_id_and_module(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    mqtt_login login = {.device = "d1",
                        .module = "m1",
                        .user_name =
                            FAKE_HUB_NAME "/d1/m1/?api-version=2020-09-30&model-id=dtmi%3Acom%3Aexample%3Bt%3B1"};
    open_as(t, &t->a, &login);
    mqtt_pair_publish(&t->a, "devices/d1/modules/m1/messages/events/$.on=out&$.cdid=evil", "p", 1, 1);
    expect(t, &t->a, "40020001");
    nv_stamp stamp;
    assert_int_equal(nv_stamp_decode(last_record(t)->stamp, &stamp), NV_OK);
    assert_true(nv_span_eq_str(stamp.device_id, "d1") && nv_span_eq_str(stamp.module_id, "m1"));
    assert_true(nv_span_eq_str(stamp.model_id, "dtmi:com:example;t;1"));
    assert_int_equal(stamp.scope, NV_AUTH_SCOPE_MODULE);
    assert_string_equal(properties_of(last_record(t)), "iothub-outputname=out");
    assert_int_equal(nv_devices_connected(t->core.hub), 0); /* modules are not counted */
    bench_free(t);
}

/* conformance: mqtt.md 18 */
static void test_retain_and_dup(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    mqtt_pair_send_hex(&t->a, "33 1f 001b 646576696365732f64312f6d657373616765732f6576656e74732f 0001");
    expect(t, &t->a, "40020001");
    assert_string_equal(properties_of(last_record(t)), "mqtt-retain=true");
    mqtt_pair_send_hex(&t->a, "3b 1f 001b 646576696365732f64312f6d657373616765732f6576656e74732f 0002");
    expect(t, &t->a, "40020002");
    assert_string_equal(properties_of(last_record(t)), "mqtt-dup=true;mqtt-retain=true");
    mqtt_pair_send_hex(&t->a, "32 1f 001b 646576696365732f64312f6d657373616765732f6576656e74732f 0003");
    expect(t, &t->a, "40020003");
    assert_string_equal(properties_of(last_record(t)), "");
    assert_int_equal(last_record(t)->body.len, 0); /* empty bodies are legal */
    bench_free(t);
}

/* conformance: mqtt.md 4 */
/* conformance: mqtt.md 17 */
/* conformance: mqtt.md 42 */
static void test_publishes_that_close(void **state)
{
    (void)state;
    static const struct {
        const char *user; /* NULL: with api-version */
        const char *topic;
        uint8_t qos;
        nv_refusal why;
    } rows[] = {
        {NULL, "devices/d2/messages/events/", 1, NV_REFUSAL_FOREIGN_TOPIC},
        {NULL, "devices/d1/modules/m1/messages/events/", 1, NV_REFUSAL_FOREIGN_TOPIC},
        {NULL, "devices/d1/messages/devicebound/", 0, NV_REFUSAL_TOPIC},
        {NULL, "home/kitchen", 0, NV_REFUSAL_TOPIC},
        {NULL, "$iothub/twin/DELETE/?$rid=1", 0, NV_REFUSAL_TOPIC},
        {NULL, EVENTS, 2, NV_REFUSAL_QOS2},
        {FAKE_HUB_NAME "/d1", "$iothub/twin/GET/?$rid=1", 0, NV_REFUSAL_API_VERSION},
        {FAKE_HUB_NAME "/d1", "$iothub/twin/PATCH/properties/reported/?$rid=1", 1, NV_REFUSAL_API_VERSION},
        {FAKE_HUB_NAME "/d1", "$iothub/methods/res/200/?$rid=1", 0, NV_REFUSAL_API_VERSION},
        {FAKE_HUB_NAME "/d1", EVENTS, 0, NV_REFUSAL_NONE},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_login login = {.device = "d1", .user_name = rows[i].user};
        open_as(t, &t->a, &login);
        int64_t closed = nv_metric_get(NV_M_MQTT_CLOSED_BAD);
        mqtt_pair_publish(&t->a, rows[i].topic, "p", rows[i].qos, 9);
        expect(t, &t->a, "");
        assert_int_equal(last_refusal(t, "d1", ""), rows[i].why);
        assert_int_equal(mqtt_pair_gone(&t->a), rows[i].why != NV_REFUSAL_NONE);
        assert_int_equal(nv_metric_get(NV_M_MQTT_CLOSED_BAD) - closed, rows[i].why != NV_REFUSAL_NONE);
        assert_int_equal(fake_log_count(&t->core), rows[i].why == NV_REFUSAL_NONE);
        bench_free(t);
    }
}

/* What came before the offence is stored, acknowledged and then the connection goes. */
static void test_promises_are_kept_when_closing(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    open_as(t, &t->a, &d1);
    mqtt_put_publish(&t->a.in, EVENTS, nv_span_str("a"), 1, 1);
    mqtt_put_publish(&t->a.in, EVENTS, nv_span_str("b"), 1, 2);
    mqtt_put_publish(&t->a.in, "home/kitchen", nv_span_str("c"), 1, 3);
    mqtt_put_publish(&t->a.in, EVENTS, nv_span_str("d"), 1, 4);
    mqtt_pair_service(&t->a);
    expect(t, &t->a, "");
    assert_false(t->a.closed);
    fake_log_complete(&t->core, NV_OK);
    expect(t, &t->a, "4002000140020002");
    assert_true(t->a.closed && mqtt_pair_gone(&t->a));
    assert_int_equal(fake_log_count(&t->core), 2);
    bench_free(t);
}

/* conformance: mqtt.md 20 */
static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        size_t body;
        const char *bag;
        bool fits;
    } rows[] = {
        {262144, "", true},         {262145, "", false},         {262140, "ab=cd", true}, {262141, "ab=cd", false},
        {262142, "$.mid=cd", true}, {262143, "$.mid=cd", false}, {262142, "a=%41", true}, {400000, "", false},
    };
    uint8_t *body = calloc(1, 400000);
    assert_non_null(body);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        for (size_t piece = 0; piece <= 65536; piece += 65536) {
            bench *t = bench_new(&nv_limits_open);
            char topic[64];
            (void)snprintf(topic, sizeof(topic), EVENTS "%s", rows[i].bag);
            open_as(t, &t->a, &d1);
            t->a.piece = piece;
            mqtt_put_publish(&t->a.in, topic, nv_span_of(body, rows[i].body), 1, 1);
            mqtt_pair_service(&t->a);
            expect(t, &t->a, rows[i].fits ? "40020001" : "");
            assert_int_equal(mqtt_pair_gone(&t->a), !rows[i].fits);
            assert_int_equal(last_refusal(t, "d1", ""), rows[i].fits ? NV_REFUSAL_NONE : NV_REFUSAL_TOO_BIG);
            assert_int_equal(fake_log_count(&t->core), rows[i].fits);
            bench_free(t);
        }
    }
    free(body);
}

static void test_too_many_properties(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    char topic[8192];
    size_t n = (size_t)snprintf(topic, sizeof(topic), EVENTS);
    for (int i = 0; i < 300; i++) {
        n += (size_t)snprintf(topic + n, sizeof(topic) - n, "k%d=%d&", i, i);
    }
    mqtt_pair_publish(&t->a, topic, "p", 1, 1);
    expect(t, &t->a, "");
    assert_true(mqtt_pair_gone(&t->a));
    assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_TOO_BIG);
    bench_free(t);
}

/* ---- the log ----------------------------------------------------------------------------------------------------- */

/* A failing log acknowledges nothing, and what follows a failure is not acknowledged either. */
static void test_log_failures(void **state)
{
    (void)state;
    static const struct {
        nv_err submit;
        nv_err store;
    } rows[] = {{NV_E_NO_SPACE, NV_OK}, {NV_E_IO, NV_OK}, {NV_OK, NV_E_IO}, {NV_OK, NV_E_NO_SPACE}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        open_as(t, &t->a, &d1);
        fake_log_set_submit_status(&t->core, rows[i].submit);
        fake_log_set_store_status(&t->core, rows[i].store);
        int64_t failed = nv_metric_get(NV_M_TELEMETRY_FAILED);
        mqtt_pair_publish(&t->a, EVENTS, "a", 1, 1);
        mqtt_pair_publish(&t->a, EVENTS, "b", 1, 2);
        expect(t, &t->a, "");
        assert_true(mqtt_pair_gone(&t->a));
        assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_STORAGE);
        assert_int_equal(fake_log_count(&t->core), 0);
        assert_int_equal(nv_metric_get(NV_M_TELEMETRY_FAILED) - failed, 2);
        fake_log_set_submit_status(&t->core, NV_OK); /* room again */
        fake_log_set_store_status(&t->core, NV_OK);
        open_as(t, &t->b, &d1);
        mqtt_pair_publish(&t->b, EVENTS, "c", 1, 3);
        expect(t, &t->b, "40020003");
        bench_free(t);
    }
}

static void test_nothing_is_acknowledged_behind_a_failure(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    fake_log_set_batch_records(&t->core, 1); /* each message its own batch */
    open_as(t, &t->a, &d1);
    mqtt_pair_publish(&t->a, EVENTS, "a", 1, 1);
    mqtt_pair_publish(&t->a, EVENTS, "b", 1, 2);
    mqtt_pair_publish(&t->a, EVENTS, "c", 1, 3);
    fake_core_run(&t->core);
    assert_int_equal(fake_log_held(&t->core), 2); /* the third is collected */
    fake_log_complete(&t->core, NV_OK);
    expect(t, &t->a, "40020001");
    fake_log_complete(&t->core, NV_E_IO);
    run(t);
    while (fake_log_complete(&t->core, NV_OK)) {
        run(t);
    }
    expect(t, &t->a, "");
    assert_true(mqtt_pair_gone(&t->a));
    assert_int_equal(fake_log_count(&t->core), 2); /* a and c: c is stored, but nobody was told */
    bench_free(t);
}

/* The bounds on what is in flight stop the reading; nothing is lost and nothing is refused. */
static void test_in_flight_bounds(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_azure); /* 16 messages */
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    open_as(t, &t->a, &d1);
    for (uint16_t i = 1; i <= 40; i++) {
        mqtt_pair_publish(&t->a, EVENTS, "p", 1, i);
    }
    run(t);
    assert_false(t->a.session->reading);
    assert_true(nv_buf_len(&t->a.in) > 0);
    size_t acknowledged = 0;
    while (fake_log_complete(&t->core, NV_OK)) {
        run(t);
        size_t acks = nv_buf_len(&t->a.out) / 4;
        assert_true(acks - acknowledged <= 16);
        acknowledged = acks;
    }
    assert_int_equal(acknowledged, 40);
    for (size_t i = 0; i < 40; i++) { /* in order of receipt */
        assert_int_equal(nv_buf_span(&t->a.out).ptr[4 * i + 3], i + 1);
    }
    assert_true(t->a.session->reading);
    bench_free(t);
}

static void test_in_flight_bytes(void **state)
{
    (void)state;
    nv_limits limits = nv_limits_open;
    limits.inflight_bytes = 4096;
    bench *t = bench_new(&limits);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    open_as(t, &t->a, &d1);
    uint8_t body[1000] = {0};
    for (uint16_t i = 1; i <= 10; i++) {
        mqtt_put_publish(&t->a.in, EVENTS, nv_span_of(body, sizeof(body)), 1, i);
    }
    mqtt_pair_service(&t->a);
    run(t);
    assert_false(t->a.session->reading);
    fake_log_complete(&t->core, NV_OK);
    run(t);
    assert_int_equal(nv_buf_len(&t->a.out), 4 * 4);
    bench_free(t);
}

/* When every batch is in flight, senders wait and are told when there is room, whoever filled them. */
static void test_full_batches(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    fake_log_set_batch_records(&t->core, 3);
    mqtt_login d2 = {.device = "d2"};
    open_as(t, &t->a, &d1);
    open_as(t, &t->b, &d2);
    for (uint16_t i = 1; i <= 20; i++) {
        mqtt_pair_publish(&t->a, EVENTS, "p", 1, i);
    }
    assert_false(t->a.session->reading);
    mqtt_pair_publish(&t->b, "devices/d2/messages/events/", "q", 1, 99);
    assert_false(t->b.session->reading); /* it has nothing in flight, and still must be told */
    run(t);
    while (fake_log_complete(&t->core, NV_OK)) {
        run(t);
    }
    assert_int_equal(nv_buf_len(&t->a.out), 4 * 20);
    expect(t, &t->b, "40020063");
    assert_int_equal(fake_log_count(&t->core), 21);
    bench_free(t);
}

/* Kill at each byte: whatever arrived whole is stored, nothing else, and everything is freed. */
static void test_cut_at_each_byte(void **state)
{
    (void)state;
    nv_buf bytes;
    nv_buf_init(&bytes, 65536);
    mqtt_login login = {.device = "d1", .persistent = true, .will_topic = EVENTS, .will_payload = "bye"};
    mqtt_put_connect(&bytes, &login, FAKE_NOW_US / NV_US_PER_S);
    size_t connect = nv_buf_len(&bytes);
    mqtt_put_publish(&bytes, EVENTS "a=1", nv_span_str("one"), 1, 1);
    size_t first = nv_buf_len(&bytes);
    mqtt_put_publish(&bytes, EVENTS "a=2", nv_span_str("two"), 1, 2);
    size_t all = nv_buf_len(&bytes);
    for (size_t cut = 0; cut <= all; cut++) {
        for (int hold = 0; hold < 2; hold++) {
            bench *t = bench_new(&nv_limits_open);
            fake_log_set_mode(&t->core, hold ? FAKE_LOG_HOLD : FAKE_LOG_AUTO);
            mqtt_pair_send(&t->a, nv_span_first(nv_buf_span(&bytes), cut < connect ? cut : connect));
            if (cut > connect) {
                run(t);
                mqtt_pair_send(&t->a, nv_span_of(nv_buf_span(&bytes).ptr + connect, cut - connect));
            }
            mqtt_pair_cut(&t->a);
            run(t);
            while (fake_log_complete(&t->core, NV_OK)) {
                run(t);
            }
            size_t telemetry = (size_t)(cut >= first) + (size_t)(cut >= all);
            size_t wills = cut > connect; /* at exactly CONNECT the peer goes before it was accepted */
            assert_int_equal(fake_log_count(&t->core), telemetry + wills);
            assert_true(mqtt_pair_gone(&t->a));
            bench_free(t);
        }
    }
    nv_buf_deinit(&bytes);
}

/* ---- wills ---------------------------------------------------------------------------------------------------------
 */

/* conformance: mqtt.md 19 */
static void test_will(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    mqtt_login login = {.device = "d1", .will_topic = EVENTS "$.ct=text%2Fplain&a=1", .will_payload = "gone"};
    open_as(t, &t->a, &login);
    mqtt_pair_publish(&t->a, EVENTS, "last", 1, 1);
    mqtt_pair_cut(&t->a);
    run(t);
    assert_true(mqtt_pair_gone(&t->a));
    assert_int_equal(fake_log_count(&t->core), 2);
    assert_memory_equal(last_record(t)->body.ptr, "gone", 4);
    assert_string_equal(properties_of(last_record(t)), "content-type=text/plain;a=1;iothub-MessageType=Will");
    login.will_retain = true;
    open_as(t, &t->b, &login);
    mqtt_pair_send_hex(&t->b, "e000"); /* DISCONNECT */
    run(t);
    assert_true(mqtt_pair_gone(&t->b));
    assert_int_equal(fake_log_count(&t->core), 2);
    bench_free(t);
}

static void test_will_on_each_end(void **state)
{
    (void)state;
    for (int way = 0; way < 6; way++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_login login = {.device = "d1",
                            .will_topic = EVENTS,
                            .will_payload = "gone",
                            .will_retain = true,
                            .keep_alive_s = 10,
                            .ttl_s = way == 3 ? 5 : 3600};
        open_as(t, &t->a, &login);
        switch (way) {
        case 0: /* protocol error */
            mqtt_pair_send_hex(&t->a, "f000");
            break;
        case 1: /* take-over */
            mqtt_pair_connect(&t->b, &d1);
            break;
        case 2: /* keep-alive */
            nv_manual_clock_advance(&t->core.clock, 15 * NV_US_PER_S);
            mqtt_pair_tick(&t->a);
            break;
        case 3: /* the token expires */
            nv_manual_clock_advance(&t->core.clock, 5 * NV_US_PER_S);
            mqtt_pair_tick(&t->a);
            break;
        case 4: /* the device is deleted */
            fake_unregister(&t->core, "d1", "");
            break;
        default: /* the hub stops */
            t->a.session->ops->drain(t->a.session, nv_mono_us(t->a.clock));
            break;
        }
        run(t);
        assert_true(t->a.closed && mqtt_pair_gone(&t->a));
        assert_int_equal(fake_log_count(&t->core), 1);
        assert_string_equal(properties_of(last_record(t)), "iothub-MessageType=Will;mqtt-retain=true");
        bench_free(t);
    }
}

static void test_will_must_be_telemetry(void **state)
{
    (void)state;
    static const char *const topics[] = {"home/kitchen", "devices/d2/messages/events/", "$iothub/twin/GET/?$rid=1"};
    for (size_t i = 0; i < NV_COUNT_OF(topics); i++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_login login = {.device = "d1", .will_topic = topics[i], .will_payload = "gone"};
        mqtt_pair_connect(&t->a, &login);
        expect(t, &t->a, "20020005");
        assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_TOPIC);
        assert_int_equal(fake_log_count(&t->core), 0);
        bench_free(t);
    }
}

static void test_will_waits_for_room(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    fake_log_set_batch_records(&t->core, 1);
    mqtt_login login = {.device = "d1", .will_topic = EVENTS, .will_payload = "gone"};
    open_as(t, &t->a, &login);
    for (uint16_t i = 1; i <= 10; i++) {
        mqtt_pair_publish(&t->a, EVENTS, "p", 1, i);
    }
    mqtt_pair_cut(&t->a);
    run(t);
    assert_false(mqtt_pair_gone(&t->a));
    while (fake_log_complete(&t->core, NV_OK)) {
        run(t);
    }
    assert_true(mqtt_pair_gone(&t->a));
    assert_memory_equal(last_record(t)->body.ptr, "gone", 4);
    bench_free(t);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

static void advance(bench *t, int64_t us)
{
    nv_manual_clock_advance(&t->core.clock, us);
    mqtt_pair_tick(&t->a);
    run(t);
}

/* conformance: mqtt.md 15 */
static void test_keep_alive(void **state)
{
    (void)state;
    static const struct {
        uint16_t keep_alive_s;
        int64_t closes_after_s;
    } rows[] = {{10, 15}, {60, 90}, {1177, 1765}, {1178, 1767}, {65535, 1767}, {0, 1767}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_login login = {.device = "d1", .keep_alive_s = rows[i].keep_alive_s, .ttl_s = 100000};
        open_as(t, &t->a, &login);
        for (int ping = 0; ping < 5; ping++) { /* a sign of life in time */
            advance(t, rows[i].closes_after_s * NV_US_PER_S * 9 / 10);
            assert_false(mqtt_pair_gone(&t->a));
            mqtt_pair_send_hex(&t->a, "c000");
            expect(t, &t->a, "d000");
        }
        advance(t, rows[i].closes_after_s * NV_US_PER_S - 1);
        assert_false(mqtt_pair_gone(&t->a));
        advance(t, NV_US_PER_S);
        assert_true(mqtt_pair_gone(&t->a));
        assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_KEEP_ALIVE);
        bench_free(t);
    }
}

static void test_silence_while_the_hub_does_not_read(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_azure);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    mqtt_login login = {.device = "d1", .keep_alive_s = 10};
    open_as(t, &t->a, &login);
    for (uint16_t i = 1; i <= 20; i++) {
        mqtt_pair_publish(&t->a, EVENTS, "p", 1, i);
    }
    advance(t, 60 * NV_US_PER_S);
    assert_false(mqtt_pair_gone(&t->a));
    fake_log_complete(&t->core, NV_OK);
    run(t);
    assert_true(t->a.session->reading);
    bench_free(t);
}

/* conformance: mqtt.md 43 */
static void test_expiry(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    mqtt_login login = {.device = "d1", .ttl_s = 30, .persistent = true};
    open_as(t, &t->a, &login);
    mqtt_pair_subscribe(&t->a, 1, "$iothub/twin/res/#", 0);
    expect(t, &t->a, "9003000100");
    for (int s = 0; s < 29; s++) {
        advance(t, NV_US_PER_S);
        assert_false(mqtt_pair_gone(&t->a));
    }
    advance(t, NV_US_PER_S);
    assert_true(t->a.closed && mqtt_pair_gone(&t->a));
    assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_SESSION_EXPIRED);
    mqtt_pair_connect(&t->b, &login); /* a fresh token resumes the session */
    expect(t, &t->b, "20020100");
    bench_free(t);
}

static void test_connect_deadline(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    mqtt_pair_send_hex(&t->a, "10 20 0004");
    advance(t, 29 * NV_US_PER_S);
    assert_false(mqtt_pair_gone(&t->a));
    advance(t, NV_US_PER_S);
    assert_true(mqtt_pair_gone(&t->a));
    bench_free(t);
}

static void test_idle_buffers_are_given_back(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    int64_t keep_alive = t->a.session->deadline_us;
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 1);
    run(t);
    assert_true(t->a.session->deadline_us < keep_alive); /* somebody will look */
    advance(t, 10 * NV_US_PER_S);                        /* used since: kept once more */
    advance(t, 10 * NV_US_PER_S);
    assert_true(t->a.session->deadline_us >= keep_alive);
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 2);
    expect(t, &t->a, "4002000140020002");
    bench_free(t);
}

/* ---- subscriptions and sessions ------------------------------------------------------------------------------------
 */

/* conformance: mqtt.md 17 */
/* conformance: mqtt.md 40 */
/* conformance: mqtt.md 41 */
static void test_subscribe(void **state)
{
    (void)state;
    static const struct {
        const char *module;
        const char *filter;
        uint8_t qos;
        const char *suback;
    } rows[] = {
        {"", "devices/d1/messages/devicebound/#", 1, "9003000701"},
        {"", "devices/+/messages/devicebound/#", 1, "9003000701"},
        {"", "devices/d1/messages/devicebound/#", 2, "9003000701"},
        {"", "$iothub/twin/res/#", 0, "9003000700"},
        {"", "$iothub/twin/PATCH/properties/desired/#", 2, "9003000701"},
        {"", "$iothub/methods/POST/#", 0, "9003000700"},
        {"", "#", 0, "9003000780"},
        {"", "devices/#", 0, "9003000780"},
        {"", "devices/d2/messages/devicebound/#", 1, "9003000780"},
        {"", "$iothub/nothing/#", 1, "9003000780"},
        {"m1", "devices/d1/modules/m1/#", 1, "9003000701"},
        {"m1", "devices/d1/modules/m1/inputs/#", 1, "9003000701"},
        {"m1", "devices/d1/modules/m1/messages/devicebound/#", 1, "9003000701"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_login login = {.device = "d1", .module = rows[i].module};
        open_as(t, &t->a, &login);
        mqtt_pair_subscribe(&t->a, 7, rows[i].filter, rows[i].qos);
        run(t);
        const char *got = mqtt_pair_take_hex(&t->a);
        if (strcmp(got, rows[i].suback) != 0) {
            fail_msg("%s: %s, not %s", rows[i].filter, got, rows[i].suback);
        }
        assert_false(mqtt_pair_gone(&t->a));
        bench_free(t);
    }
}

/* conformance: mqtt.md 41 */
static void test_subscribe_five(void **state)
{
    (void)state;
    static const nv_mqtt_filter filters[] = {{NV_SPAN_LIT("$iothub/twin/res/#"), 0},
                                             {NV_SPAN_LIT("devices/d1/messages/devicebound/#"), 2},
                                             {NV_SPAN_LIT("no/such/topic"), 1},
                                             {NV_SPAN_LIT("$iothub/methods/POST/#"), 0},
                                             {NV_SPAN_LIT("$iothub/twin/PATCH/properties/desired/#"), 1}};
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1_persistent);
    uint8_t packet[512];
    nv_writer w = nv_writer_of(packet, sizeof(packet));
    nv_mqtt_write_subscribe(&w, 0x1234, filters, NV_COUNT_OF(filters));
    mqtt_pair_send(&t->a, nv_writer_span(&w));
    expect(t, &t->a,
           "9007"
           "1234"
           "00"
           "01"
           "80"
           "00"
           "01");
    bench_free(t);
}

/* SUBACK of a persistent session leaves once its subscriptions are durable; telemetry goes on meanwhile. */
static void test_suback_after_durable(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1_persistent);
    fake_state_set_hold(&t->core, true);
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 1);
    mqtt_pair_subscribe(&t->a, 2, "$iothub/twin/res/#", 0);
    mqtt_pair_subscribe(&t->a, 3, "$iothub/methods/POST/#", 0);
    expect(t, &t->a, "40020001");
    assert_true(fake_state_complete(&t->core));
    expect(t, &t->a, "9003000200");
    assert_true(fake_state_complete(&t->core));
    expect(t, &t->a, "9003000300");
    mqtt_pair_send_hex(&t->a, "a2 16 0004 0012 24696f746875622f7477696e2f7265732f23"); /* UNSUBSCRIBE */
    expect(t, &t->a, "");
    assert_true(fake_state_complete(&t->core));
    expect(t, &t->a, "b0020004");
    mqtt_pair_send_hex(&t->a, "a2 16 0005 0012 24696f746875622f7477696e2f7265732f23"); /* not subscribed: at once */
    expect(t, &t->a, "b0020005");
    bench_free(t);
}

static void test_subscriptions_that_cannot_be_stored(void **state)
{
    (void)state;
    static const nv_err errors[] = {NV_E_IO, NV_E_AGAIN, NV_E_NOT_FOUND};
    for (size_t i = 0; i < NV_COUNT_OF(errors); i++) {
        bench *t = bench_new(&nv_limits_open);
        open_as(t, &t->a, &d1_persistent);
        fake_state_set_status(&t->core, errors[i]);
        mqtt_pair_subscribe(&t->a, 2, "$iothub/twin/res/#", 0);
        expect(t, &t->a, "");
        assert_true(mqtt_pair_gone(&t->a));
        assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_STORAGE);
        bench_free(t);
    }
}

static void test_subscribe_needs_api_version(void **state)
{
    (void)state;
    static const char *const filters[] = {"$iothub/twin/res/#", "$iothub/methods/POST/#"};
    for (size_t i = 0; i < NV_COUNT_OF(filters); i++) {
        bench *t = bench_new(&nv_limits_open);
        mqtt_login login = {.device = "d1", .user_name = FAKE_HUB_NAME "/d1"};
        open_as(t, &t->a, &login);
        mqtt_pair_subscribe(&t->a, 1, "devices/d1/messages/devicebound/#", 1);
        expect(t, &t->a, "9003000101");
        mqtt_pair_subscribe(&t->a, 2, filters[i], 0);
        expect(t, &t->a, "");
        assert_true(mqtt_pair_gone(&t->a));
        assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_API_VERSION);
        bench_free(t);
    }
}

static const char twin_get[] = "30 1b 0019 24696f746875622f7477696e2f4745542f3f247269643d3432"; /* rid 42 */

/* conformance: mqtt.md 12 */
/* conformance: mqtt.md 13 */
static void test_persistent_session(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1_persistent);
    mqtt_pair_subscribe(&t->a, 1, "$iothub/twin/res/#", 0);
    expect(t, &t->a, "9003000100");
    mqtt_pair_cut(&t->a);
    run(t);
    mqtt_pair_connect(&t->b, &d1_persistent);
    expect(t, &t->b, "20020100");
    mqtt_pair_send_hex(&t->b, twin_get); /* answered without SUBSCRIBE */
    run(t);
    assert_non_null(strstr(mqtt_pair_take_hex(&t->b), "24696f746875622f7477696e2f7265732f3530312f3f247269643d3432"));
    mqtt_pair_send_hex(&t->b, "e000");
    run(t);
    mqtt_pair_deinit(&t->b);
    mqtt_pair_open(&t->b, &t->core.hub->loops[0], 3);
    open_as(t, &t->b, &d1); /* clean: forgets */
    mqtt_pair_send_hex(&t->b, twin_get);
    expect(t, &t->b, "");
    assert_int_equal(fake_state_sessions(&t->core), 0);
    mqtt_pair_cut(&t->b);
    run(t);
    mqtt_pair_deinit(&t->b);
    mqtt_pair_open(&t->b, &t->core.hub->loops[0], 4);
    open_as(t, &t->b, &d1_persistent); /* nothing there any more */
    mqtt_pair_cut(&t->b);
    run(t);
    mqtt_pair_deinit(&t->b);
    mqtt_pair_open(&t->b, &t->core.hub->loops[0], 5);
    mqtt_pair_connect(&t->b, &d1_persistent); /* a session without subscriptions is one */
    expect(t, &t->b, "20020100");
    bench_free(t);
}

static void test_twin_answers(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    open_as(t, &t->a, &d1);
    mqtt_pair_subscribe(&t->a, 1, "$iothub/twin/res/#", 0);
    expect(t, &t->a, "9003000100");
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 1);
    mqtt_pair_publish(&t->a, "$iothub/twin/PATCH/properties/reported/?$rid=abc-1", "{}", 1, 2);
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 3);
    mqtt_pair_publish(&t->a, "$iothub/methods/res/200/?$rid=1", "{}", 1, 4);
    run(t);
    nv_mqtt_packet packet;
    size_t consumed = 0;
    const char *why = "";
    assert_int_equal(nv_mqtt_decode(nv_buf_span(&t->a.out), 4096, &packet, &consumed, &why), NV_OK);
    assert_int_equal(consumed, nv_buf_len(&t->a.out)); /* no PUBACK before the telemetry's */
    assert_true(nv_span_eq_str(packet.u.publish.topic, "$iothub/twin/res/501/?$rid=abc-1"));
    assert_int_equal(packet.u.publish.qos, 0);
    assert_true(nv_span_starts_with(packet.u.publish.payload, nv_span_str("{\"errorCode\":501000,\"message\":\"")));
    nv_buf_clear(&t->a.out);
    fake_log_complete(&t->core, NV_OK);
    run(t);
    while (fake_log_complete(&t->core, NV_OK)) {
        run(t);
    }
    expect(t, &t->a,
           "40020001"
           "40020002"
           "40020003"
           "40020004");
    bench_free(t);
}

/* ---- take-over and eviction -----------------------------------------------------------------------------------------
 */

/* conformance: mqtt.md 14 */
static void test_take_over(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    open_as(t, &t->a, &d1);
    mqtt_pair_publish(&t->a, EVENTS, "old", 1, 1);
    run(t);
    int64_t takeovers = nv_metric_get(NV_M_MQTT_TAKEOVERS);
    mqtt_pair_connect(&t->b, &d1);
    expect(t, &t->b, ""); /* the old one still has an append that nobody confirmed */
    assert_false(t->a.closed);
    assert_false(t->a.session->reading);
    fake_log_complete(&t->core, NV_OK);
    expect(t, &t->b, "20020000");
    assert_string_equal(mqtt_pair_take_hex(&t->a), "40020001");
    assert_true(t->a.closed && mqtt_pair_gone(&t->a));
    assert_int_equal(nv_metric_get(NV_M_MQTT_TAKEOVERS) - takeovers, 1);
    assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_TAKEN_OVER);
    mqtt_pair_publish(&t->b, EVENTS, "new", 1, 2);
    run(t);
    fake_log_complete(&t->core, NV_OK);
    expect(t, &t->b, "40020002");
    assert_int_equal(nv_devices_connected(t->core.hub), 1);
    bench_free(t);
}

/* A peer that does not read cannot hold up the one that takes over. */
static void test_take_over_from_a_stuck_peer(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    t->a.stuck = true;
    open_as(t, &t->b, &d1);
    assert_false(mqtt_pair_gone(&t->a));
    assert_true(t->a.session->closing);
    bench_free(t);
}

/* A claim with bad credentials takes nothing over. */
static void test_a_refused_connect_takes_nothing_over(void **state)
{
    (void)state;
    static const nv_key wrong = {"wrong-key-wrong-key-wrong-key-wr", 32};
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    mqtt_login login = {.device = "d1", .key = &wrong};
    mqtt_pair_connect(&t->b, &login);
    expect(t, &t->b, "20020005");
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 1);
    expect(t, &t->a, "40020001");
    bench_free(t);
}

static void rekey(nv_identity *identity)
{
    memset(identity->primary_key.bytes, 7, identity->primary_key.len);
}

static void swap_keys(nv_identity *identity)
{
    identity->primary_key = fake_secondary_key;
    identity->secondary_key = fake_device_key;
}

static void rekey_secondary(nv_identity *identity)
{
    memset(identity->secondary_key.bytes, 7, identity->secondary_key.len);
}

static void new_generation(nv_identity *identity)
{
    identity->generation_id = nv_span_str("638000000000000001");
}

static void new_etag(nv_identity *identity)
{
    identity->etag = 99;
}

/* conformance: mqtt.md 44 */
static void test_eviction(void **state)
{
    (void)state;
    static const struct {
        void (*change)(nv_identity *identity); /* NULL: delete */
        mqtt_login login;
        bool evicted;
    } rows[] = {
        {NULL, {.device = "d1"}, true},
        {make_disabled, {.device = "d1"}, true},
        {make_disabled, {.device = "d1", .policy = "device"}, true},
        {rekey, {.device = "d1"}, true},
        {rekey, {.device = "d1", .key = &fake_secondary_key}, false},
        {rekey, {.device = "d1", .policy = "device"}, false},
        {rekey_secondary, {.device = "d1"}, false},
        {rekey_secondary, {.device = "d1", .key = &fake_secondary_key}, true},
        {swap_keys, {.device = "d1"}, false},
        {new_generation, {.device = "d1"}, true},
        {new_etag, {.device = "d1"}, false},
        {make_x509_sha1, {.device = "d1"}, true},
        {NULL, {.device = "d1", .module = "m1"}, true},
        {make_disabled, {.device = "d1", .module = "m1"}, true},
        {rekey, {.device = "d1", .module = "m1"}, false}, /* the device's key is not the module's */
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        open_as(t, &t->a, &rows[i].login);
        if (rows[i].change) {
            fake_register(&t->core, "d1", "", rows[i].change);
        } else {
            fake_unregister(&t->core, "d1", "");
        }
        expect(t, &t->a, "");
        if (mqtt_pair_gone(&t->a) != rows[i].evicted) {
            fail_msg("row %zu: evicted %d", i, !rows[i].evicted);
        }
        const char *module = rows[i].login.module ? rows[i].login.module : "";
        assert_int_equal(last_refusal(t, "d1", module), rows[i].evicted ? NV_REFUSAL_REVOKED : NV_REFUSAL_NONE);
        bench_free(t);
    }
}

/* Changed between authentication and claim: seen before CONNACK. */
static void test_revoked_while_connecting(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    mqtt_pair_connect(&t->a, &d1); /* authenticated against the old keys, nothing has run yet */
    fake_register(&t->core, "d1", "", rekey);
    expect(t, &t->a, "20020005");
    assert_true(mqtt_pair_gone(&t->a));
    bench_free(t);
}

static void test_drain(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    open_as(t, &t->a, &d1);
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 1);
    run(t);
    t->a.session->ops->drain(t->a.session, 0);
    t->b.session->ops->drain(t->b.session, 0);
    run(t);
    assert_true(mqtt_pair_gone(&t->b)); /* it never connected */
    assert_false(t->a.closed);
    fake_log_complete(&t->core, NV_OK);
    expect(t, &t->a, "40020001");
    assert_true(t->a.closed && mqtt_pair_gone(&t->a));
    bench_free(t);
}

static void test_slow_reader(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    open_as(t, &t->a, &d1);
    t->a.out.max = 8;
    t->a.stuck = true;
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 1);
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 2);
    mqtt_pair_publish(&t->a, EVENTS, "p", 1, 3);
    run(t);
    assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_SLOW_READER);
    assert_true(t->a.session->closing);
    assert_int_equal(fake_log_count(&t->core), 3);
    bench_free(t);
}

/* conformance: mqtt.md 16 */
static void test_ping_under_load(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    fake_log_set_mode(&t->core, FAKE_LOG_HOLD);
    open_as(t, &t->a, &d1);
    for (uint16_t i = 1; i <= 100; i++) {
        mqtt_put_publish(&t->a.in, EVENTS, nv_span_str("p"), 1, i);
    }
    mqtt_pair_send_hex(&t->a, "c000");
    assert_string_equal(mqtt_pair_take_hex(&t->a), "d000"); /* before anything is stored */
    bench_free(t);
}

static void test_packets_a_client_must_not_send(void **state)
{
    (void)state;
    static const char *const rows[] = {"20020000", "50020001", "62020001", "70020001", "9003000100",
                                       "b0020001", "d000",     "0000",     "f000"};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        bench *t = bench_new(&nv_limits_open);
        open_as(t, &t->a, &d1);
        mqtt_pair_send_hex(&t->a, rows[i]);
        expect(t, &t->a, "");
        assert_true(mqtt_pair_gone(&t->a));
        assert_int_equal(last_refusal(t, "d1", ""), NV_REFUSAL_MALFORMED);
        bench_free(t);
    }
}

static void test_presence(void **state)
{
    (void)state;
    bench *t = bench_new(&nv_limits_open);
    nv_presence_request request = {.device_id = nv_span_str("d1"), .done = NULL};
    open_as(t, &t->a, &d1);
    mqtt_pair_publish(&t->a, EVENTS, "p", 0, 0);
    mqtt_pair_cut(&t->a);
    run(t);
    assert_int_equal(fake_state_seen(&t->core), 1);
    (void)request;
    bench_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_connect_publish_puback),
        cmocka_unit_test(test_user_names),
        cmocka_unit_test(test_credentials),
        cmocka_unit_test(test_refusals_explain),
        cmocka_unit_test(test_connack_of_failures),
        cmocka_unit_test(test_first_packets),
        cmocka_unit_test(test_second_connect_closes),
        cmocka_unit_test(test_certificates),
        cmocka_unit_test(test_bags),
        cmocka_unit_test(test_topics_alternate),
        cmocka_unit_test(test_model_id_and_module),
        cmocka_unit_test(test_retain_and_dup),
        cmocka_unit_test(test_publishes_that_close),
        cmocka_unit_test(test_promises_are_kept_when_closing),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_too_many_properties),
        cmocka_unit_test(test_log_failures),
        cmocka_unit_test(test_nothing_is_acknowledged_behind_a_failure),
        cmocka_unit_test(test_in_flight_bounds),
        cmocka_unit_test(test_in_flight_bytes),
        cmocka_unit_test(test_full_batches),
        cmocka_unit_test(test_cut_at_each_byte),
        cmocka_unit_test(test_will),
        cmocka_unit_test(test_will_on_each_end),
        cmocka_unit_test(test_will_must_be_telemetry),
        cmocka_unit_test(test_will_waits_for_room),
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_silence_while_the_hub_does_not_read),
        cmocka_unit_test(test_expiry),
        cmocka_unit_test(test_connect_deadline),
        cmocka_unit_test(test_idle_buffers_are_given_back),
        cmocka_unit_test(test_subscribe),
        cmocka_unit_test(test_subscribe_five),
        cmocka_unit_test(test_suback_after_durable),
        cmocka_unit_test(test_subscriptions_that_cannot_be_stored),
        cmocka_unit_test(test_subscribe_needs_api_version),
        cmocka_unit_test(test_persistent_session),
        cmocka_unit_test(test_twin_answers),
        cmocka_unit_test(test_take_over),
        cmocka_unit_test(test_take_over_from_a_stuck_peer),
        cmocka_unit_test(test_a_refused_connect_takes_nothing_over),
        cmocka_unit_test(test_eviction),
        cmocka_unit_test(test_revoked_while_connecting),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_ping_under_load),
        cmocka_unit_test(test_packets_a_client_must_not_send),
        cmocka_unit_test(test_presence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
