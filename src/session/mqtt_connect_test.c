/* From CONNECT to CONNACK: names, credentials, versions, failures. */
#include "support/mqtt_device_rig.h"

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
        {NV_OK, NV_OK, NV_LOG_FAILED, "20020003"},    {NV_OK, NV_OK, NV_LOG_FULL, "20020003"},
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
static void make_x509_sha256(nv_identity *identity)
{
    identity->auth = NV_AUTH_SELF_SIGNED;
    identity->primary_thumbprint = nv_span_str(thumbprint_sha256);
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
        nv_peer_certificate certificate = {.not_before_us = FAKE_NOW_US + rows[i].valid_from_s * NV_US_PER_S,
                                           .not_after_us = FAKE_NOW_US + rows[i].valid_to_s * NV_US_PER_S};
        memcpy(certificate.sha1, bytes, sizeof(certificate.sha1));
        memcpy(certificate.sha256, bytes, sizeof(certificate.sha256));
        certificate.sha1[0] = certificate.sha256[0] = rows[i].first_byte;
        t->a.peer.certificate = rows[i].present ? &certificate : NULL;
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
