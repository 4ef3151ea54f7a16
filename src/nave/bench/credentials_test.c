/* What the generator presents is what the hub's own verifier accepts. */
#include "nave/bench/credentials.h"

#include "base/clock.h"
#include "codec/base64.h"
#include "codec/mqtt.h"
#include "codec/sas.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define KEY "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

static nv_bench_mqtt_options options_of(const char *hub, const char *policy, const char *key)
{
    return (nv_bench_mqtt_options){.hub = hub, .policy = policy, .key = key, .prefix = "bench", .devices = 3};
}

static void check_device(nv_span bytes, const char *id, const char *user, const char *policy)
{
    nv_mqtt_packet packet;
    const char *why = NULL;
    size_t used = 0;
    nv_sas sas;
    uint8_t key[NV_SAS_KEY_MAX_BYTES];
    size_t key_len = 0;
    nv_span host = NV_SPAN_LIT("hub.example");
    assert_int_equal(nv_mqtt_decode(bytes, bytes.len, &packet, &used, &why), NV_OK);
    assert_int_equal(used, bytes.len);
    assert_int_equal(packet.type, NV_MQTT_CONNECT);
    assert_true(packet.u.connect.supported && packet.u.connect.clean);
    assert_true(nv_span_eq_str(packet.u.connect.client_id, id));
    assert_true(nv_span_eq_str(packet.u.connect.username, user));
    assert_int_equal(nv_sas_parse(packet.u.connect.password, &sas), NV_SAS_NONE);
    assert_int_equal(nv_sas_check_expiry(&sas, nv_wall_us(nv_clock_system()) / NV_US_PER_S, 0), NV_SAS_NONE);
    assert_int_equal(nv_sas_check_entity(&sas, (nv_sas_hosts){&host, 1}, nv_span_str(id), NV_SPAN_EMPTY), NV_SAS_NONE);
    assert_true(nv_span_eq_str(sas.policy, policy));
    assert_int_equal(nv_base64_decode(nv_span_str(KEY), key, sizeof(key), &key_len), NV_OK);
    assert_int_equal(nv_sas_verify(&sas, nv_span_of(key, key_len)), NV_SAS_NONE);
}

static void tokens_verify(void **state)
{
    (void)state;
    static const struct {
        const char *hub;
        const char *policy;
        const char *key;
        const char *signer;
    } rows[] = {
        {"hub.example", NULL, KEY, ""},
        {"hub.example", "device", KEY, "device"},
        {"HostName=hub.example;SharedAccessKeyName=device;SharedAccessKey=" KEY, NULL, NULL, "device"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_bench_mqtt_options o = options_of(rows[i].hub, rows[i].policy, rows[i].key);
        nv_bench_credentials c;
        assert_int_equal(nv_bench_credentials_init(&c, &o), NV_OK);
        assert_int_equal(c.count, 3);
        check_device(c.connects[0], "bench-0", "hub.example/bench-0/?api-version=2021-04-12", rows[i].signer);
        check_device(c.connects[2], "bench-2", "hub.example/bench-2/?api-version=2021-04-12", rows[i].signer);
        nv_bench_credentials_deinit(&c);
    }
}

static void anonymous_carries_only_a_client_id(void **state)
{
    (void)state;
    nv_bench_mqtt_options o = options_of(NULL, NULL, NULL);
    nv_bench_credentials c;
    nv_mqtt_packet packet;
    const char *why = NULL;
    size_t used = 0;
    o.anonymous = true;
    assert_int_equal(nv_bench_credentials_init(&c, &o), NV_OK);
    assert_int_equal(nv_mqtt_decode(c.connects[1], c.connects[1].len, &packet, &used, &why), NV_OK);
    assert_true(nv_span_eq_str(packet.u.connect.client_id, "bench-1"));
    assert_false(packet.u.connect.has_username || packet.u.connect.has_password);
    nv_bench_credentials_deinit(&c);
}

static void without_a_usable_key_it_refuses(void **state)
{
    (void)state;
    static const nv_bench_mqtt_options rows[] = {
        {.hub = "hub.example", .prefix = "bench", .devices = 1},
        {.hub = "hub.example", .prefix = "bench", .devices = 1, .key = "no base64!"},
        {.hub = "HostName=hub.example;DeviceId=d;SharedAccessKey=" KEY, .prefix = "bench", .devices = 1},
        {.hub = "HostName=hub.example", .prefix = "bench", .devices = 1, .key = KEY},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_bench_credentials c;
        assert_int_equal(nv_bench_credentials_init(&c, &rows[i]), NV_E_INVALID);
        nv_bench_credentials_deinit(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_verify),
        cmocka_unit_test(anonymous_carries_only_a_client_id),
        cmocka_unit_test(without_a_usable_key_it_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
