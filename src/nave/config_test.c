#include "nave/config.h"

#include "base/attrs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static nv_buf why;

static int setup(void **state)
{
    (void)state;
    nv_buf_init(&why, 65536);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    nv_buf_deinit(&why);
    return 0;
}

static const char *why_text(void)
{
    static char text[2048];
    (void)snprintf(text, sizeof(text), "%.*s", NV_SPAN_ARG(nv_buf_span(&why)));
    return text;
}

static nv_err load_yaml(const char *yaml, nv_config **out)
{
    char path[] = "/tmp/nave-config-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, yaml, strlen(yaml)), (ssize_t)strlen(yaml));
    close(fd);
    nv_buf_clear(&why);
    nv_config_source source = {.file = path};
    nv_err err = nv_config_load(out, &source, &why);
    unlink(path);
    return err;
}

static void test_defaults(void **state)
{
    (void)state;
    nv_config *config = NULL;
    nv_config_source none = {0};
    assert_int_equal(nv_config_load(&config, &none, &why), NV_OK);
    assert_int_equal(config->mqtt_port, 8883);
    assert_int_equal(config->mqtt_plain_port, 0);
    assert_int_equal(config->https_port, 443);
    assert_int_equal(config->amqp_port, 5671);
    assert_int_equal(config->amqp_plain_port, 0);
    assert_string_equal(config->amqp_plain_bind.items[0], "localhost");
    assert_string_equal(config->events_entity, "");
    assert_int_equal(config->admin_port, 9600);
    assert_int_equal(config->log_durability, 0);
    assert_int_equal(config->log_partitions, 4);
    assert_int_equal(config->log_retention_bytes, INT64_C(10) << 30);
    assert_int_equal(config->net_bind.count, 0);
    assert_string_equal(config->admin_bind.items[0], "localhost");
    assert_int_equal(config->limits.inflight_messages, 1024);
    nv_config_free(config);
}

/* A value that came from the file, as text of the option. */
static void test_values(void **state)
{
    (void)state;
    static const struct {
        const char *yaml;
        const char *section;
        const char *name;
        const char *text;
    } rows[] = {
        {"mqtt:\n  port: 18883\n", "mqtt", "port", "18883"},
        {"mqtt: {port: -1}\n", "mqtt", "port", "-1"},
        {"mqtt:\n  port: '18883'\n", "mqtt", "port", "18883"},
        {"mqtt:\n", "mqtt", "port", "8883"},
        {"mqtt:\n  port:\n", "mqtt", "port", "8883"},
        {"# nothing\n\n", "mqtt", "port", "8883"},
        {"---\nlog:\n  durability: os\n", "log", "durability", "os"},
        {"log:\n  retention_bytes: 2GiB\n", "log", "retention_bytes", "2147483648"},
        {"log:\n  retention_bytes: 0\n", "log", "retention_bytes", "0"},
        {"net:\n  host_names: [a.example, b.example]\n", "net", "host_names", "[\"a.example\", \"b.example\"]"},
        {"net:\n  host_names:\n    - a.example\n", "net", "host_names", "[\"a.example\"]"},
        {"net:\n  host_names: []\n", "net", "host_names", "[]"},
        {"limits:\n  profile: azure\n", "limits", "inflight_messages", "16"},
        {"limits:\n  profile: azure\n  inflight_messages: 99\n", "limits", "inflight_messages", "99"},
        {"limits:\n  devices: 0\n", "limits", "devices", "0"},
        {"diag:\n  format: json\n", "diag", "format", "json"},
        {"tls:\n  certificate_file: /a b/c.pem\n  key_file: k\n", "tls", "certificate_file", "\"/a b/c.pem\""},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_config *config = NULL;
        nv_err err = load_yaml(rows[i].yaml, &config);
        if (err != NV_OK) {
            fail_msg("%s: %s", rows[i].yaml, why_text());
        }
        nv_buf text;
        nv_buf_init(&text, 4096);
        const nv_option *option = nv_option_find(nv_span_str(rows[i].section), nv_span_str(rows[i].name));
        assert_non_null(option);
        assert_true(nv_option_text(config, option, &text));
        if (!nv_span_eq_str(nv_buf_span(&text), rows[i].text)) {
            fail_msg("%s gives %.*s", rows[i].yaml, NV_SPAN_ARG(nv_buf_span(&text)));
        }
        nv_buf_deinit(&text);
        nv_config_free(config);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *yaml;
        const char *says; /* each part, separated by '|', is in the sentence */
    } rows[] = {
        {"mqtt:\n  port: 65536\n", "line 2|mqtt.port|\"65536\"|-1 to 65535"},
        {"mqtt:\n  port: -2\n", "mqtt.port|\"-2\""},
        {"mqtt:\n  port: 1e3\n", "mqtt.port|\"1e3\"|whole number"},
        {"mqtt:\n  port: 99999999999999999999\n", "mqtt.port"},
        {"mqtt:\n  port: 1KiB\n", "mqtt.port"},
        {"mqtt:\n  port: [1]\n", "port|line: 2"},
        {"mqtt:\n  prot: 1\n", "Unexpected key: prot|line: "},
        {"mqqt:\n  port: 1\n", "Unexpected key: mqqt"},
        {"mqtt: 5\n", "mqtt|line: 1"},
        {"- a\n", ": "},
        {"mqtt:\n  port: 1\n  port: 2\n", "port"},
        {"mqtt: {port: 1\n", "libyaml"},
        {"\tmqtt:\n", "libyaml"},
        {"net:\n  host_names: a.example\n", "host_names|line: 2"},
        {"net:\n  host_names: ['a b']\n", "net.host_names|\"a b\""},
        {"net:\n  bind: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]\n", "net.bind|0 to 16"},
        {"mqtt:\n  plain_bind: []\n", "plain_bind|Insufficient|line: 2"},
        {"log:\n  durability: maybe\n", "line 2|log.durability|commit|os"},
        {"log:\n  segment_bytes: 1048577\n", "log.segment_bytes|1 MiB"},
        {"log:\n  retention_bytes: 1MiB\n", "log.retention_bytes"},
        {"log:\n  retention_bytes: 9999999TiB\n", "log.retention_bytes"},
        {"limits:\n  message_bytes: 0\n", "limits.message_bytes"},
        {"limits:\n  message_bytes: 1048577\n", "limits.message_bytes|1048577|1048576"},
        {"tls:\n  key_file: k\n", "tls.certificate_file"},
        {"events:\n  entity: a/b\n", "events.entity|\"a/b\"|letters"},
        {"events:\n  entity: Messages\n", "events.entity|\"Messages\"|not `devices`"},
        {"a: &x [1]\nb: *x\n", ": "},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_config *config = NULL;
        if (load_yaml(rows[i].yaml, &config) != NV_E_INVALID) {
            fail_msg("accepted: %s", rows[i].yaml);
        }
        nv_span parts = nv_span_str(rows[i].says);
        while (parts.len > 0) {
            size_t len = nv_span_find(parts, '|');
            char part[64];
            (void)snprintf(part, sizeof(part), "%.*s", NV_SPAN_ARG(nv_span_first(parts, len)));
            if (!strstr(why_text(), part)) {
                fail_msg("%s: \"%s\" is not in: %s", rows[i].yaml, part, why_text());
            }
            parts = nv_span_skip(parts, len + 1);
        }
    }
}

static void test_layers(void **state)
{
    (void)state;
    char *environment[] = {(char[]){"NAVE_MQTT_PORT=2"},  (char[]){"NAVE_NET_HOST_NAMES=x.example,y.example"},
                           (char[]){"NAVE_DATA=/tmp"},    (char[]){"PATH=/bin"},
                           (char[]){"NAVE_ADMIN_PORT=7"}, NULL};
    nv_override overrides[] = {{"mqtt.port", "3"}};
    nv_config_source source = {.environment = environment, .overrides = overrides, .override_count = 1};
    nv_config *config = NULL;
    assert_int_equal(nv_config_load(&config, &source, &why), NV_OK);
    assert_int_equal(nv_buf_len(&why), 0);
    assert_int_equal(config->mqtt_port, 3);
    assert_int_equal(config->admin_port, 7);
    assert_int_equal(config->net_host_names.count, 2);
    assert_string_equal(config->net_host_names.items[1], "y.example");
    nv_config_free(config);
}

static void test_environment_refused(void **state)
{
    (void)state;
    char *bad[] = {(char[]){"NAVE_MQTT_PORT=x"}, NULL};
    nv_config_source source = {.environment = bad};
    nv_config *config = NULL;
    assert_int_equal(nv_config_load(&config, &source, &why), NV_E_INVALID);
    assert_non_null(strstr(why_text(), "NAVE_MQTT_PORT"));

    nv_buf_clear(&why);
    char *unknown[] = {(char[]){"NAVE_MQTT_PROT=1"}, NULL};
    source.environment = unknown;
    assert_int_equal(nv_config_load(&config, &source, &why), NV_OK);
    assert_non_null(strstr(why_text(), "NAVE_MQTT_PROT"));
    nv_config_free(config);

    nv_override overrides[] = {{"mqtt.prot", "1"}};
    nv_config_source line = {.overrides = overrides, .override_count = 1};
    assert_int_equal(nv_config_load(&config, &line, &why), NV_E_INVALID);
}

static void test_every_variable(void **state)
{
    (void)state;
    for (size_t i = 0; i < nv_option_count; i++) {
        char variable[64];
        nv_option_variable(&nv_options[i], variable);
        for (size_t j = 0; j < i; j++) { /* no two options share a variable */
            char other[64];
            nv_option_variable(&nv_options[j], other);
            assert_string_not_equal(variable, other);
        }
        if (nv_options[i].type == NV_OPTION_INT) { /* the bounds are reachable and tight */
            char at[128];
            char beyond[128];
            (void)snprintf(at, sizeof(at), "%s=%lld", variable, (long long)nv_options[i].max);
            (void)snprintf(beyond, sizeof(beyond), "%s=%lld", variable, (long long)nv_options[i].max + 1);
            char *environment[] = {at, NULL};
            nv_config_source source = {.environment = environment};
            nv_config *config = NULL;
            nv_err err = nv_config_load(&config, &source, &why);
            if (err == NV_OK) {
                nv_config_free(config);
            } else { /* two options that must fit each other */
                assert_string_equal(variable, "NAVE_LOG_SEGMENT_BYTES");
            }
            environment[0] = beyond;
            assert_int_equal(nv_config_load(&config, &source, &why), NV_E_INVALID);
        }
    }
}

static void count_change(void *arg, const nv_option *option)
{
    int *count = arg;
    *count += strcmp(option->section, "diag") == 0 && option->reloadable ? 1 : 100;
}

static void test_compare(void **state)
{
    (void)state;
    nv_config *a = NULL;
    nv_config *b = NULL;
    assert_int_equal(load_yaml("diag:\n  level: warn\n", &a), NV_OK);
    assert_int_equal(load_yaml("diag:\n  level: info\n  format: json\n", &b), NV_OK);
    int changes = 0;
    nv_config_compare(a, b, count_change, &changes);
    assert_int_equal(changes, 2);
    nv_config_free(a);
    nv_config_free(b);
}

static void test_absent_file(void **state)
{
    (void)state;
    nv_config *config = NULL;
    nv_config_source source = {.file = "/nonexistent/nave.yaml"};
    assert_int_equal(nv_config_load(&config, &source, &why), NV_E_NOT_FOUND);
    assert_non_null(strstr(why_text(), "/nonexistent/nave.yaml"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_layers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_environment_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_variable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_compare, setup, teardown),
        cmocka_unit_test_setup_teardown(test_absent_file, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
