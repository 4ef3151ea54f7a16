/* Direct methods between two loops under a clock that the test moves (semantics.md section 7.2, mqtt.md section 9). */
#include "core/method.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "support/fake_core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define S(text)   nv_span_str(text)
#define ASKED_MAX 1100u

/* A device with one connection. It remembers what it was asked. */
typedef struct device {
    nv_claim claim;
    nv_identity *identity;
    bool subscribes; /* as soon as it is granted */
    int done;
    size_t asked;
    uint64_t calls[ASKED_MAX];
    char name[NV_METHOD_NAME_MAX + 1];
    char body[64];
} device;

static void on_granted(nv_claim *claim)
{
    if (nv_container_of(claim, device, claim)->subscribes) {
        nv_claim_want(claim, NV_WANTS_METHODS);
    }
}

static void on_evict(nv_claim *claim, nv_refusal why)
{
    (void)claim;
    (void)why;
}

static void on_released(nv_claim *claim)
{
    nv_container_of(claim, device, claim)->done++;
}

static void on_deliver(nv_claim *claim, const nv_delivery *delivery)
{
    device *d = nv_container_of(claim, device, claim);
    assert_int_equal(delivery->kind, NV_DELIVER_METHOD);
    assert_true(d->asked < ASKED_MAX);
    d->calls[d->asked++] = delivery->call;
    (void)snprintf(d->name, sizeof(d->name), "%.*s", NV_SPAN_ARG(delivery->name));
    (void)snprintf(d->body, sizeof(d->body), "%.*s", NV_SPAN_ARG(delivery->body));
}

static void device_connect(fake_core *core, device *d, nv_identity *identity, size_t loop, bool subscribes)
{
    d->claim = (nv_claim){.identity = identity, .granted = on_granted, .evict = on_evict, .deliver = on_deliver};
    d->identity = identity;
    d->subscribes = subscribes;
    d->done = 0;
    nv_claim_ask(&core->hub->loops[loop], &d->claim);
    fake_core_run(core);
}

static void device_leave(fake_core *core, device *d)
{
    nv_claim_release(&d->claim, on_released);
    fake_core_run(core);
    assert_int_equal(d->done, 1);
}

static void device_answer(device *d, size_t which, int64_t status, const char *payload)
{
    nv_method_answer(&d->claim, d->calls[which], status, S(payload));
}

/* A caller. */
typedef struct caller {
    nv_method_call call;
    int done;
} caller;

static void on_done(nv_method_call *call)
{
    nv_container_of(call, caller, call)->done++;
}

#define SECONDS(n) ((n)*NV_US_PER_S)

static void invoke(fake_core *core, caller *c, size_t loop, const char *id, const char *payload)
{
    nv_method_call call = c->call; /* what the test set */
    *c = (caller){.call = {.device_id = S(id),
                           .module_id = call.module_id,
                           .name = call.name.len ? call.name : S("reboot"),
                           .payload = S(payload),
                           .response_timeout_us = call.response_timeout_us ? call.response_timeout_us : SECONDS(30),
                           .connect_timeout_us = call.connect_timeout_us,
                           .done = on_done}};
    nv_method_invoke(&core->hub->loops[loop], &c->call);
    assert_int_equal(c->done, 0); /* never from within the call */
    fake_core_run(core);
}

static void expect(caller *c, nv_hub_error error, int64_t status, const char *answer)
{
    assert_int_equal(c->done, 1);
    if (c->call.error != error) {
        fail_msg("error %d, not %d: %s", (int)c->call.error, (int)error, c->call.detail);
    }
    nv_span got = nv_buf_span(&c->call.answer);
    if (error == NV_HUB_ERROR_NONE) {
        assert_int_equal(c->call.status, status);
        assert_true(nv_span_eq_str(got, answer));
    } else {
        assert_int_equal(got.len, 0);
    }
    nv_buf_deinit(&c->call.answer);
    c->done = 0;
}

static void advance(fake_core *core, int64_t us)
{
    nv_manual_clock_advance(&core->clock, us);
    for (size_t i = 0; i < core->hub->loop_count; i++) {
        nv_hub_loop_tick(&core->hub->loops[i], nv_mono_us(&core->clock.clock));
    }
    fake_core_run(core);
}

static device *device_new(void)
{
    return nv_calloc(1, sizeof(device));
}

/* conformance: mqtt.md 37 */
static void test_answers(void **state)
{
    (void)state;
    static const struct {
        const char *payload;
        const char *seen;
        int64_t status;
        const char *answer;
        const char *got;
    } rows[] = {
        {"", "null", 200, "", "null"},
        {" { \"a\" : 1.50 } ", "{\"a\":1.50}", 404, "[1, 2]", "[1,2]"},
        {"\"text\"", "\"text\"", -7, "true", "true"},
        {"null", "null", INT64_MAX, "\"\"", "\"\""},
    };
    for (size_t i = 0; i < 2 * NV_COUNT_OF(rows); i++) {
        size_t row = i / 2;
        fake_core core;
        fake_core_init(&core, 2, &nv_limits_open);
        const char *module = row == 2 ? "m" : "";
        (void)fake_register(&core, "d", "", NULL);
        nv_identity *identity = nv_identity_ref(fake_register(&core, "d", module, NULL));
        device *d = device_new();
        device_connect(&core, d, identity, i % 2, true);
        caller c = {.call.module_id = S(module)};
        invoke(&core, &c, (i + 1) % 2, "d", rows[row].payload);
        assert_int_equal(d->asked, 1);
        assert_string_equal(d->name, "reboot");
        assert_string_equal(d->body, rows[row].seen);
        assert_int_equal(c.done, 0);
        device_answer(d, 0, rows[row].status, rows[row].answer);
        fake_core_run(&core);
        expect(&c, NV_HUB_ERROR_NONE, rows[row].status, rows[row].got);
        device_answer(d, 0, 500, ""); /* once more, and one that nobody asked for */
        nv_method_answer(&d->claim, UINT64_MAX, 1, NV_SPAN_EMPTY);
        advance(&core, SECONDS(600));
        assert_int_equal(c.done, 0);
        device_leave(&core, d);
        free(d);
        nv_identity_unref(identity);
        fake_core_deinit(&core);
    }
}

static void test_arguments(void **state)
{
    (void)state;
    static const char long_name[] = "aaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbb"
                                    "aaaaaaaaaabbbbbbbbbbx";
    static const struct {
        const char *name;
        const char *payload;
        int64_t response_s;
        int64_t connect_s;
        bool azure;
        nv_hub_error error;
    } rows[] = {
        {"a", "", 5, 0, false, NV_HUB_ERROR_DeviceNotOnline},
        {long_name + 1, "", 300, 0, false, NV_HUB_ERROR_DeviceNotOnline},
        {"c*m-d_1.x", "1", 30, 0, true, NV_HUB_ERROR_DeviceNotOnline},
        {long_name, "", 30, 0, false, NV_HUB_ERROR_ArgumentInvalid},
        {"a b", "", 30, 0, false, NV_HUB_ERROR_ArgumentInvalid},
        {"a/b", "", 30, 0, false, NV_HUB_ERROR_ArgumentInvalid},
        {"a", "", 4, 0, false, NV_HUB_ERROR_ArgumentInvalid},
        {"a", "", 301, 0, false, NV_HUB_ERROR_ArgumentInvalid},
        {"a", "", 30, -1, false, NV_HUB_ERROR_ArgumentInvalid},
        {"a", "", 300, 301, false, NV_HUB_ERROR_ArgumentInvalid},
        {"a", "", 30, 31, true, NV_HUB_ERROR_ArgumentInvalid},
        {"a", "{", 30, 0, false, NV_HUB_ERROR_ArgumentInvalid},
        {"a", "{} {}", 30, 0, false, NV_HUB_ERROR_ArgumentInvalid},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        fake_core core;
        fake_core_init(&core, 2, &nv_limits_open);
        core.hub->azure = rows[i].azure;
        (void)fake_register(&core, "d", "", NULL);
        caller c = {.call = {.name = S(rows[i].name),
                             .response_timeout_us = SECONDS(rows[i].response_s),
                             .connect_timeout_us = SECONDS(rows[i].connect_s)}};
        invoke(&core, &c, 0, "d", rows[i].payload);
        if (c.call.error != rows[i].error) {
            fail_msg("row %zu: error %d", i, (int)c.call.error);
        }
        expect(&c, rows[i].error, 0, NULL);
        fake_core_deinit(&core);
    }
}

static void test_payload_limit(void **state)
{
    (void)state;
    nv_limits limits = nv_limits_open;
    limits.method_bytes = 16;
    fake_core core;
    fake_core_init(&core, 2, &limits);
    nv_identity *identity = nv_identity_ref(fake_register(&core, "d", "", NULL));
    device *d = device_new();
    device_connect(&core, d, identity, 0, true);
    caller c = {0};
    invoke(&core, &c, 0, "d", "\"123456789012345\""); /* 17 bytes */
    expect(&c, NV_HUB_ERROR_MessageTooLarge, 0, NULL);
    invoke(&core, &c, 0, "d", "\"12345678901234\"");
    assert_int_equal(d->asked, 1);
    device_answer(d, 0, 200, "\"123456789012345\"");
    fake_core_run(&core);
    expect(&c, NV_HUB_ERROR_BadDeviceResponse, 0, NULL);
    invoke(&core, &c, 0, "d", "");
    device_answer(d, 1, 200, "nonsense");
    fake_core_run(&core);
    expect(&c, NV_HUB_ERROR_BadDeviceResponse, 0, NULL);
    device_leave(&core, d);
    free(d);
    nv_identity_unref(identity);
    fake_core_deinit(&core);
}

/* ---- who is not there ------------------------------------------------------------------------------------------ */

static void disable(nv_identity *identity)
{
    identity->enabled = false;
}

/* conformance: mqtt.md 38 */
/* conformance: http-hub.md 26 */
static void test_not_online(void **state)
{
    (void)state;
    static const nv_err modes[] = {NV_OK, NV_E_MORE};
    for (size_t i = 0; i < NV_COUNT_OF(modes); i++) {
        fake_core core;
        fake_core_init(&core, 2, &nv_limits_open);
        fake_registry_set_mode(&core, modes[i]);
        nv_identity *identity = nv_identity_ref(fake_register(&core, "d", "", NULL));
        (void)fake_register(&core, "off", "", disable);
        caller c = {0};
        invoke(&core, &c, 1, "nobody", "");
        assert_string_equal(c.call.detail, "nobody");
        expect(&c, NV_HUB_ERROR_DeviceNotFound, 0, NULL);
        c.call.module_id = S("m");
        invoke(&core, &c, 1, "d", "");
        expect(&c, NV_HUB_ERROR_DeviceNotFound, 0, NULL);
        c.call.module_id = NV_SPAN_EMPTY;
        invoke(&core, &c, 1, "d", "");
        expect(&c, NV_HUB_ERROR_DeviceNotOnline, 0, NULL);
        invoke(&core, &c, 1, "off", "");
        expect(&c, NV_HUB_ERROR_DeviceNotOnline, 0, NULL);
        device *d = device_new();
        device_connect(&core, d, identity, 0, false); /* it is there, and takes no methods */
        invoke(&core, &c, 1, "d", "");
        expect(&c, NV_HUB_ERROR_DeviceNotOnline, 0, NULL);
        assert_int_equal(d->asked, 0);
        device_leave(&core, d);
        free(d);
        nv_identity_unref(identity);
        fake_core_deinit(&core);
    }
}

static void test_registry_fails(void **state)
{
    (void)state;
    static const nv_err modes[] = {NV_E_AGAIN, NV_E_IO};
    for (size_t i = 0; i < NV_COUNT_OF(modes); i++) {
        fake_core core;
        fake_core_init(&core, 2, &nv_limits_open);
        fake_registry_set_mode(&core, modes[i]);
        caller c = {0};
        invoke(&core, &c, 0, "d", "");
        expect(&c, NV_HUB_ERROR_ServiceUnavailable, 0, NULL);
        fake_core_deinit(&core);
    }
}

/* Nobody comes; or one comes without interest, goes, and the next one takes methods in the last moment. */
static void test_connect_timeout(void **state)
{
    (void)state;
    for (size_t loop = 0; loop < 2; loop++) {
        fake_core core;
        fake_core_init(&core, 2, &nv_limits_open);
        nv_identity *identity = nv_identity_ref(fake_register(&core, "d", "", NULL));
        caller c = {.call = {.connect_timeout_us = SECONDS(10), .response_timeout_us = SECONDS(20)}};
        invoke(&core, &c, loop, "d", "");
        advance(&core, SECONDS(10) - 1);
        assert_int_equal(c.done, 0);
        advance(&core, 1);
        assert_string_equal(c.call.detail, "Timed out waiting for device to connect.");
        expect(&c, NV_HUB_ERROR_DeviceNotOnline, 0, NULL);

        invoke(&core, &c, loop, "d", "");
        advance(&core, SECONDS(5));
        device *d = device_new();
        device_connect(&core, d, identity, 1 - loop, false);
        device_leave(&core, d);
        device_connect(&core, d, identity, loop, false);
        advance(&core, SECONDS(5) - 1);
        assert_int_equal(c.done, 0);
        nv_claim_want(&d->claim, NV_WANTS_METHODS);
        fake_core_run(&core);
        assert_int_equal(d->asked, 1);
        advance(&core, SECONDS(20) - 1); /* the response timeout began when it was asked */
        assert_int_equal(c.done, 0);
        device_answer(d, 0, 1, "");
        fake_core_run(&core);
        expect(&c, NV_HUB_ERROR_NONE, 1, "null");
        device_leave(&core, d);
        free(d);
        nv_identity_unref(identity);
        fake_core_deinit(&core);
    }
}

/* The C service SDK sends 60 s whatever the response timeout is. */
static void test_connect_longer_than_response(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    (void)fake_register(&core, "d", "", NULL);
    caller c = {.call = {.connect_timeout_us = SECONDS(60), .response_timeout_us = SECONDS(7)}};
    invoke(&core, &c, 0, "d", "");
    advance(&core, SECONDS(7) - 1);
    assert_int_equal(c.done, 0);
    advance(&core, 1);
    expect(&c, NV_HUB_ERROR_DeviceNotOnline, 0, NULL);
    fake_core_deinit(&core);
}

/* ---- who does not answer ---------------------------------------------------------------------------------------- */

static void test_response_timeout(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    nv_identity *identity = nv_identity_ref(fake_register(&core, "d", "", NULL));
    device *d = device_new();
    device_connect(&core, d, identity, 0, true);
    caller c = {.call.response_timeout_us = SECONDS(5)};
    for (size_t loop = 0; loop < 2; loop++) {
        invoke(&core, &c, loop, "d", "");
        advance(&core, SECONDS(5) - 1);
        assert_int_equal(c.done, 0);
        advance(&core, 1);
        expect(&c, NV_HUB_ERROR_GatewayTimeout, 0, NULL);
        device_answer(d, loop, 200, "\"late\"");
        fake_core_run(&core);
        assert_int_equal(c.done, 0);
    }
    device_leave(&core, d);
    free(d);
    nv_identity_unref(identity);
    fake_core_deinit(&core);
}

/* Answer and timeout in the same moment, in both orders: one end, never two. */
static void test_answer_meets_timeout(void **state)
{
    (void)state;
    for (size_t order = 0; order < 2; order++) {
        fake_core core;
        fake_core_init(&core, 2, &nv_limits_open);
        nv_identity *identity = nv_identity_ref(fake_register(&core, "d", "", NULL));
        device *d = device_new();
        device_connect(&core, d, identity, 0, true);
        caller c = {.call.response_timeout_us = SECONDS(5)};
        invoke(&core, &c, 1, "d", "");
        nv_manual_clock_advance(&core.clock, SECONDS(5));
        device_answer(d, 0, 200, "1"); /* on its way to the shard */
        if (order == 0) {
            fake_core_run(&core);
        }
        advance(&core, 0);
        expect(&c, order == 0 ? NV_HUB_ERROR_NONE : NV_HUB_ERROR_GatewayTimeout, 200, "1");
        device_leave(&core, d);
        free(d);
        nv_identity_unref(identity);
        fake_core_deinit(&core);
    }
}

static void test_connection_ends(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    nv_identity *identity = nv_identity_ref(fake_register(&core, "d", "", NULL));
    device *d = device_new();
    device_connect(&core, d, identity, 0, true);
    caller c[2] = {0};
    invoke(&core, &c[0], 0, "d", "");
    invoke(&core, &c[1], 1, "d", "");
    assert_int_equal(d->asked, 2);
    device_leave(&core, d);
    for (size_t i = 0; i < 2; i++) {
        expect(&c[i], NV_HUB_ERROR_DeviceConnectionClosedRemotely, 0, NULL);
    }
    /* The request is still on its way to the session when that lets go. */
    d->asked = 0;
    device_connect(&core, d, identity, 1, true);
    c[0] = (caller){.call = {.device_id = S("d"), .name = S("x"), .response_timeout_us = SECONDS(5), .done = on_done}};
    nv_method_invoke(&core.hub->loops[0], &c[0].call);
    device_leave(&core, d);
    expect(&c[0], NV_HUB_ERROR_DeviceConnectionClosedRemotely, 0, NULL);
    assert_int_equal(d->asked, 0);
    free(d);
    nv_identity_unref(identity);
    fake_core_deinit(&core);
}

/* A newer connection of the device does not answer for the older one, whatever it claims. */
static void test_takeover(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    nv_identity *identity = nv_identity_ref(fake_register(&core, "d", "", NULL));
    device *old = device_new();
    device *new = device_new();
    device_connect(&core, old, identity, 0, true);
    caller first = {0};
    caller second = {.call.connect_timeout_us = SECONDS(30)};
    invoke(&core, &first, 1, "d", "");
    device_connect(&core, new, identity, 1, true);
    invoke(&core, &second, 1, "d", ""); /* the old one is told nothing any more, the new one is not there yet */
    assert_int_equal(old->asked, 1);
    assert_int_equal(first.done + second.done, 0);
    device_leave(&core, old);
    expect(&first, NV_HUB_ERROR_DeviceConnectionClosedRemotely, 0, NULL);
    assert_int_equal(new->asked, 1);
    nv_method_answer(&new->claim, old->calls[0], 200, S("\"not yours\""));
    fake_core_run(&core);
    assert_int_equal(second.done, 0);
    nv_method_answer(&old->claim, new->calls[0], 200, S("\"not yours\"")); /* a claim that is long given back */
    fake_core_run(&core);
    assert_int_equal(second.done, 0);
    device_answer(new, 0, 201, "{}");
    fake_core_run(&core);
    expect(&second, NV_HUB_ERROR_NONE, 201, "{}");
    device_leave(&core, new);
    free(old);
    free(new);
    nv_identity_unref(identity);
    fake_core_deinit(&core);
}

/* Another device that guesses the number of a call does not answer it. */
static void test_guessed_number(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 1, &nv_limits_open);
    nv_identity *identity = nv_identity_ref(fake_register(&core, "d", "", NULL));
    nv_identity *other = nv_identity_ref(fake_register(&core, "e", "", NULL));
    device *d = device_new();
    device *e = device_new();
    device_connect(&core, d, identity, 0, true);
    device_connect(&core, e, other, 0, true);
    caller c = {0};
    invoke(&core, &c, 0, "d", "");
    nv_method_answer(&e->claim, d->calls[0], 200, S("1"));
    fake_core_run(&core);
    assert_int_equal(c.done, 0);
    device_answer(d, 0, 200, "2");
    fake_core_run(&core);
    expect(&c, NV_HUB_ERROR_NONE, 200, "2");
    device_leave(&core, d);
    device_leave(&core, e);
    free(d);
    free(e);
    nv_identity_unref(identity);
    nv_identity_unref(other);
    fake_core_deinit(&core);
}

/* ---- many -------------------------------------------------------------------------------------------------------- */

static void test_many_in_flight(void **state)
{
    (void)state;
    enum { MANY = 1000 };
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    nv_identity *identity = nv_identity_ref(fake_register(&core, "d", "", NULL));
    device *d = device_new();
    device_connect(&core, d, identity, 0, true);
    caller *c = nv_calloc(MANY, sizeof(*c));
    for (size_t i = 0; i < MANY; i++) {
        invoke(&core, &c[i], i % 2, "d", "");
    }
    assert_int_equal(d->asked, MANY);
    for (size_t i = MANY; i-- > 0;) {
        char text[16];
        (void)snprintf(text, sizeof(text), "%zu", i);
        device_answer(d, i, (int64_t)i, text);
    }
    fake_core_run(&core);
    for (size_t i = 0; i < MANY; i++) {
        char text[16];
        (void)snprintf(text, sizeof(text), "%zu", i);
        expect(&c[i], NV_HUB_ERROR_NONE, (int64_t)i, text);
    }
    assert_int_equal(nv_hub_loop_due(&core.hub->loops[0]), INT64_MAX);
    assert_int_equal(nv_hub_loop_due(&core.hub->loops[1]), INT64_MAX);
    free(c);
    device_leave(&core, d);
    free(d);
    nv_identity_unref(identity);
    fake_core_deinit(&core);
}

static void test_limits(void **state)
{
    (void)state;
    nv_limits limits = nv_limits_open;
    limits.methods_per_device = 2;
    limits.methods = 3;
    fake_core core;
    fake_core_init(&core, 1, &limits);
    (void)fake_register(&core, "a", "", NULL);
    (void)fake_register(&core, "b", "", NULL);
    caller c[5];
    static const char *const ids[] = {"a", "a", "a", "b", "b"};
    static const bool taken[] = {true, true, false, true, false};
    for (size_t i = 0; i < 5; i++) {
        c[i] = (caller){.call.connect_timeout_us = SECONDS(30)};
        invoke(&core, &c[i], 0, ids[i], "");
        if (!taken[i]) {
            expect(&c[i], NV_HUB_ERROR_ThrottlingException, 0, NULL);
        }
    }
    advance(&core, SECONDS(30));
    for (size_t i = 0; i < 5; i++) {
        if (taken[i]) {
            expect(&c[i], NV_HUB_ERROR_DeviceNotOnline, 0, NULL);
        }
    }
    invoke(&core, &c[2], 0, "a", ""); /* there is room again */
    assert_int_equal(c[2].done, 0);
    advance(&core, SECONDS(30));
    expect(&c[2], NV_HUB_ERROR_DeviceNotOnline, 0, NULL);
    fake_core_deinit(&core);
}

/* A hub that stops leaves nobody waiting: asked, expecting, and looking for the identity. */
static void test_hub_stops(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    nv_identity *identity = nv_identity_ref(fake_register(&core, "d", "", NULL));
    (void)fake_register(&core, "e", "", NULL);
    device *d = device_new();
    device_connect(&core, d, identity, 0, true);
    caller c[4] = {0};
    c[1].call.connect_timeout_us = SECONDS(30);
    invoke(&core, &c[0], 1, "d", "");
    invoke(&core, &c[1], 1, "e", "");
    fake_registry_set_mode(&core, NV_E_MORE);
    c[2].call = (nv_method_call){.device_id = S("e"),
                                 .name = S("x"),
                                 .response_timeout_us = SECONDS(30),
                                 .connect_timeout_us = SECONDS(30),
                                 .done = on_done};
    nv_method_invoke(&core.hub->loops[0], &c[2].call);
    nv_hub_stop(core.hub);
    nv_hub_stop(core.hub); /* twice is once */
    fake_core_run(&core);
    for (size_t i = 0; i < 3; i++) {
        expect(&c[i], NV_HUB_ERROR_ServiceUnavailable, 0, NULL);
    }
    invoke(&core, &c[3], 1, "d", "");
    expect(&c[3], NV_HUB_ERROR_ServiceUnavailable, 0, NULL);
    device_answer(d, 0, 200, "1");
    device_leave(&core, d);
    free(d);
    nv_identity_unref(identity);
    fake_core_deinit(&core);
}

/* Who waits for it to connect hears at once that it is deleted; the modules of a device go with it. */
static void test_deleted_while_awaited(void **state)
{
    (void)state;
    static const struct {
        const char *module;  /* that is called */
        const char *deleted; /* module that is, "" the device */
        bool ends;
    } rows[] = {{"", "", true}, {"m", "m", true}, {"m", "", true}, {"", "m", false}, {"m", "other", false}};
    static const nv_err modes[] = {NV_OK, NV_E_MORE};
    for (size_t i = 0; i < NV_COUNT_OF(rows) * NV_COUNT_OF(modes); i++) {
        size_t row = i / NV_COUNT_OF(modes);
        fake_core core;
        fake_core_init(&core, 2, &nv_limits_open);
        fake_registry_set_mode(&core, modes[i % NV_COUNT_OF(modes)]);
        (void)fake_register(&core, "d", "", NULL);
        (void)fake_register(&core, "d", "m", NULL);
        (void)fake_register(&core, "d", "other", NULL);
        caller c[2] = {0};
        for (size_t k = 0; k < NV_COUNT_OF(c); k++) {
            c[k].call.module_id = S(rows[row].module);
            c[k].call.connect_timeout_us = SECONDS(10);
            invoke(&core, &c[k], k, "d", "7");
        }
        advance(&core, SECONDS(4));
        static const char *const modules[] = {"m", "other", ""};
        for (size_t k = 0; k < NV_COUNT_OF(modules); k++) {
            if (!*rows[row].deleted || strcmp(rows[row].deleted, modules[k]) == 0) {
                fake_unregister(&core, "d", modules[k]);
            }
        }
        fake_core_run(&core);
        if (rows[row].ends) {
            expect(&c[0], NV_HUB_ERROR_DeviceNotFound, 0, NULL);
            expect(&c[1], NV_HUB_ERROR_DeviceNotFound, 0, NULL);
        } else {
            fake_registry_set_mode(&core, NV_E_IO); /* a registry that cannot say ends no wait */
            nv_devices_changed(core.hub, S("d"), S(rows[row].module), NULL);
            fake_core_run(&core);
            advance(&core, SECONDS(6) - 1); /* of ten in all */
            assert_int_equal(c[0].done + c[1].done, 0);
            advance(&core, 1);
            expect(&c[0], NV_HUB_ERROR_DeviceNotOnline, 0, NULL);
            expect(&c[1], NV_HUB_ERROR_DeviceNotOnline, 0, NULL);
        }
        fake_core_deinit(&core);
    }
}

/* The caller goes: before the call is there, while the registry is asked, while a connection or an answer is awaited,
 * and when the answer is on its way to it. It is done once, soon, and what comes later is for nobody. */
static void test_cancel(void **state)
{
    (void)state;
    enum { AT_ONCE, LOOKING, EXPECTING, ASKED, ANSWERED, REFUSED, MOMENTS };
    for (size_t i = 0; i < 2 * (size_t)MOMENTS; i++) {
        size_t moment = i / 2;
        fake_core core;
        fake_core_init(&core, 2, &nv_limits_open);
        nv_identity *identity = nv_identity_ref(fake_register(&core, "d", "", NULL));
        device *d = device_new();
        if (moment != LOOKING && moment != EXPECTING) {
            device_connect(&core, d, identity, 0, true);
        }
        if (moment == LOOKING) {
            fake_registry_set_mode(&core, NV_E_MORE);
        }
        caller c = {.call = {.device_id = S("d"),
                             .name = S(moment == REFUSED ? "?" : "x"),
                             .response_timeout_us = SECONDS(30),
                             .connect_timeout_us = SECONDS(20),
                             .done = on_done}};
        nv_method_invoke(&core.hub->loops[i % 2], &c.call);
        if (moment == EXPECTING || moment == ASKED || moment == ANSWERED) {
            fake_core_run(&core); /* LOOKING: the cancel comes behind the beginning, before the registry's answer */
        }
        if (moment == ANSWERED) {
            device_answer(d, 0, 7, "1");
        }
        nv_method_cancel(&c.call);
        nv_method_cancel(&c.call);
        assert_int_equal(c.done, 0);
        fake_core_run(&core);
        assert_int_equal(c.done, 1);
        expect(&c,
               moment == REFUSED    ? NV_HUB_ERROR_ArgumentInvalid
               : moment == ANSWERED ? NV_HUB_ERROR_NONE
                                    : NV_HUB_ERROR_ServiceUnavailable,
               7, "1");
        fake_registry_set_mode(&core, NV_OK);
        if (moment == LOOKING || moment == EXPECTING) {
            device_connect(&core, d, identity, 0, true);
            assert_int_equal(d->asked, 0);
        } else if (d->asked > 0) {
            device_answer(d, 0, 1, "2"); /* too late */
            fake_core_run(&core);
        }
        advance(&core, SECONDS(60));
        assert_int_equal(c.done, 0);
        device_leave(&core, d);
        free(d);
        nv_identity_unref(identity);
        fake_core_deinit(&core);
    }
}

int main(void)
{
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_payload_limit),
        cmocka_unit_test(test_not_online),
        cmocka_unit_test(test_registry_fails),
        cmocka_unit_test(test_connect_timeout),
        cmocka_unit_test(test_connect_longer_than_response),
        cmocka_unit_test(test_response_timeout),
        cmocka_unit_test(test_answer_meets_timeout),
        cmocka_unit_test(test_connection_ends),
        cmocka_unit_test(test_takeover),
        cmocka_unit_test(test_guessed_number),
        cmocka_unit_test(test_many_in_flight),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_hub_stops),
        cmocka_unit_test(test_deleted_while_awaited),
        cmocka_unit_test(test_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
