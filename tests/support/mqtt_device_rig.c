#include "support/mqtt_device_rig.h"

char last_log[4096];

static void keep_line(void *arg, nv_level level, const char *line, size_t len)
{
    (void)arg;
    if (level >= NV_LEVEL_WARN) {
        size_t n = len < sizeof(last_log) - 1 ? len : sizeof(last_log) - 1;
        memcpy(last_log, line, n);
        last_log[n] = '\0';
    }
}

bench *bench_new(const nv_limits *limits)
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
void run(bench *t)
{
    for (int i = 0; i < 8; i++) {
        fake_core_run(&t->core);
        mqtt_pair_service(&t->a);
        mqtt_pair_service(&t->b);
    }
}

void bench_free(bench *t)
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

const mqtt_login d1 = {.device = "d1"};
const mqtt_login d1_persistent = {.device = "d1", .persistent = true};

void expect(bench *t, mqtt_pair *pair, const char *hex)
{
    run(t);
    assert_string_equal(mqtt_pair_take_hex(pair), hex);
}

void expect_text(bench *t, mqtt_pair *pair, const char *text)
{
    run(t);
    assert_string_equal(mqtt_pair_take_text(pair), text);
    mqtt_pair_service(pair);
}

void open_as(bench *t, mqtt_pair *pair, const mqtt_login *login)
{
    mqtt_pair_connect(pair, login);
    expect(t, pair, "20020000");
    assert_false(mqtt_pair_gone(pair));
}

/* "name=value;..." of a stored record: system properties by their logical names, nulls as "name". */
const char *properties_of(const fake_record *record)
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

const fake_record *last_record(const bench *t)
{
    assert_true(fake_log_count(&t->core) > 0);
    return fake_log_at(&t->core, fake_log_count(&t->core) - 1);
}

nv_refusal last_refusal(bench *t, const char *device, const char *module)
{
    nv_refusal_entry entry;
    size_t n = nv_refusals_list(t->core.hub->refusals, nv_span_str(device), nv_span_str(module), &entry, 1);
    return n ? entry.refusal : NV_REFUSAL_NONE;
}

void make_disabled(nv_identity *identity)
{
    identity->enabled = false;
    identity->status_reason = nv_span_str("stolen");
}

static const char thumbprint_sha1[] = "00112233445566778899AABBCCDDEEFF00112233";

void make_x509_sha1(nv_identity *identity)
{
    identity->auth = NV_AUTH_SELF_SIGNED;
    identity->primary_thumbprint = nv_span_str("ffffffffffffffffffffffffffffffffffffffff");
    identity->secondary_thumbprint = nv_span_str(thumbprint_sha1);
}

void advance(bench *t, int64_t us)
{
    nv_manual_clock_advance(&t->core.clock, us);
    mqtt_pair_tick(&t->a);
    run(t);
}
