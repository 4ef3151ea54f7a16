/* Direct methods over AMQP (amqp.md section 3.7). */
#include "core/devices.h"
#include "core/method.h"
#include "support/amqp_device_rig.h"

#define METHODS "/devices/d1/methods/devicebound"

typedef struct invocation {
    nv_method_call call;
    bool done;
} invocation;

static void on_done(nv_method_call *call)
{
    ((invocation *)call->arg)->done = true;
}

static void invoke(amqp_rig *rig, invocation *i, const char *name, const char *payload)
{
    *i = (invocation){.call = {.device_id = nv_span_str("d1"),
                               .name = nv_span_str(name),
                               .payload = nv_span_str(payload),
                               .response_timeout_us = 30 * NV_US_PER_S,
                               .done = on_done}};
    i->call.arg = i;
    nv_method_invoke(&rig->core.hub->loops[0], &i->call);
    rig_run(rig);
}

static void expect_answer(invocation *i, nv_hub_error error, int64_t status, const char *payload)
{
    assert_true(i->done);
    assert_int_equal(i->call.error, error);
    if (error == NV_HUB_ERROR_NONE) {
        assert_int_equal(i->call.status, status);
        assert_true(nv_span_eq_str(nv_buf_span(&i->call.answer), payload));
    }
    nv_buf_deinit(&i->call.answer);
}

/* The correlation-id of a request: 16 bytes behind its type. */
static nv_span correlation_of(const rig_message *message)
{
    static uint8_t id[16];
    nv_amqp_message m;
    assert_int_equal(nv_amqp_message_read(nv_span_of(message->bytes, message->len), &m), NV_OK);
    assert_int_equal(m.properties.correlation_id.len, 17);
    assert_int_equal(m.properties.correlation_id.ptr[0], 0x98); /* the C SDK takes nothing else */
    memcpy(id, m.properties.correlation_id.ptr + 1, sizeof(id));
    return nv_span_of(id, sizeof(id));
}

typedef enum id_form { AS_UUID, AS_STRING, AS_UPPER_STRING, AS_BINARY, AS_NONE, AS_LONG } id_form;

static nv_span answer(nv_span id, id_form form, int64_t status, const char *status_name, const char *payload)
{
    static uint8_t bytes[4096];
    uint8_t encoded[64];
    char text[64];
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    nv_writer e = nv_writer_of(encoded, sizeof(encoded));
    size_t n = 0;
    for (size_t i = 0; i < 16; i++) {
        n += (size_t)snprintf(text + n, sizeof(text) - n, form == AS_UPPER_STRING ? "%02X%s" : "%02x%s", id.ptr[i],
                              i == 3 || i == 5 || i == 7 || i == 9 ? "-" : "");
    }
    if (form == AS_UUID) {
        nv_amqp_put_uuid(&e, id.ptr);
    } else if (form == AS_BINARY) {
        nv_amqp_put_binary(&e, id);
    } else if (form == AS_LONG) {
        nv_amqp_put_long(&e, 5);
    } else if (form != AS_NONE) {
        nv_amqp_put_string_of(&e, text);
    }
    nv_amqp_properties p = {.correlation_id = form == AS_NONE ? NV_SPAN_EMPTY : nv_writer_span(&e)};
    nv_amqp_put_properties_section(&w, &p);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&w, status_name);
    nv_amqp_put_int(&w, (int32_t)status);
    nv_amqp_end_map(&w, mark, 2);
    nv_amqp_put_data_head(&w, strlen(payload));
    nv_write_span(&w, nv_span_str(payload));
    assert_int_equal(w.err, NV_OK);
    return nv_writer_span(&w);
}

typedef struct method_links {
    amqp_rig *rig;
    rig_link *in;
    rig_link *out;
} method_links;

static method_links open_methods(uint32_t credit)
{
    method_links t = {.rig = rig_new(&nv_limits_open)};
    rig_open(t.rig, &t.rig->a, "d1");
    t.in =
        rig_attach_link(t.rig, &t.rig->a, &(rig_attach){.address = METHODS, .sends = true, .correlation = "methods:1"});
    t.out = rig_attach_link(t.rig, &t.rig->a,
                            &(rig_attach){.address = METHODS, .credit = credit, .correlation = "methods:1"});
    assert_true(t.in->link && t.out->link);
    return t;
}

/* conformance: amqp.md 37 */
static void called_and_answered(void **state)
{
    (void)state;
    static const id_form forms[] = {AS_UUID, AS_STRING, AS_UPPER_STRING, AS_BINARY};
    method_links t = open_methods(10);
    for (size_t i = 0; i < NV_COUNT_OF(forms); i++) {
        invocation call;
        invoke(t.rig, &call, "Reboot.now", "{\"in\":5}");
        assert_int_equal(t.out->message_count, i + 1);
        assert_true(t.out->messages[i].settled);
        const char *text = rig_last_text(t.out);
        assert_non_null(strstr(text, "correlation-id=uuid:"));
        assert_non_null(strstr(text, " application{IoThub-methodname=string:Reboot.now} data:{\"in\":5}"));
        nv_span id = correlation_of(&t.out->messages[i]);
        rig_expect_accepted(t.rig, t.in,
                            rig_send(t.in, answer(id, forms[i], 201, "IoThub-status", "{\"ok\":true}"), 0, false));
        expect_answer(&call, NV_HUB_ERROR_NONE, 201, "{\"ok\":true}");
    }
    invocation call;
    invoke(t.rig, &call, "m", "");
    assert_non_null(strstr(rig_last_text(t.out), "data:null"));
    nv_span id = correlation_of(&t.out->messages[t.out->message_count - 1]);
    rig_expect_accepted(t.rig, t.in, rig_send(t.in, answer(id, AS_UUID, -1, "IoThub-status", ""), 0, false));
    expect_answer(&call, NV_HUB_ERROR_NONE, -1, "null");
    rig_free(t.rig);
}

static void answers_that_are_none(void **state)
{
    (void)state;
    static const uint8_t stranger[16] = {1};
    method_links t = open_methods(10);
    invocation call;
    invoke(t.rig, &call, "m", "1");
    nv_span id = correlation_of(&t.out->messages[0]);
    rig_expect_rejected(t.rig, t.in, rig_send(t.in, nv_span_str("rubbish"), 0, false), "amqp:decode-error");
    rig_expect_rejected(t.rig, t.in, rig_send(t.in, answer(id, AS_UUID, 200, "status", "1"), 0, false),
                        "com.microsoft:argument-error");
    nv_span other = nv_span_of(stranger, sizeof(stranger));
    rig_expect_accepted(t.rig, t.in, rig_send(t.in, answer(other, AS_UUID, 200, "IoThub-status", "1"), 0, false));
    rig_expect_accepted(t.rig, t.in, rig_send(t.in, answer(id, AS_NONE, 200, "IoThub-status", "1"), 0, false));
    rig_expect_accepted(t.rig, t.in, rig_send(t.in, answer(id, AS_LONG, 200, "IoThub-status", "1"), 0, false));
    assert_false(call.done);
    rig_expect_accepted(t.rig, t.in, rig_send(t.in, answer(id, AS_UUID, 200, "IoThub-status", "no json"), 0, false));
    expect_answer(&call, NV_HUB_ERROR_BadDeviceResponse, 0, "");
    /* said twice */
    rig_expect_accepted(t.rig, t.in, rig_send(t.in, answer(id, AS_UUID, 200, "IoThub-status", "1"), 0, false));
    rig_free(t.rig);
}

/* A device listens while its receiver is open with credit. */
static void listens_with_credit(void **state)
{
    (void)state;
    method_links t = open_methods(0);
    invocation call;
    invoke(t.rig, &call, "m", "1");
    expect_answer(&call, NV_HUB_ERROR_DeviceNotOnline, 0, "");
    nv_amqp_link_set_credit(t.out->link, 2);
    rig_run(t.rig);
    invoke(t.rig, &call, "m", "2");
    assert_int_equal(t.out->message_count, 1);
    nv_span id = correlation_of(&t.out->messages[0]);
    rig_send(t.in, answer(id, AS_UUID, 200, "IoThub-status", "2"), 0, false);
    rig_run(t.rig);
    expect_answer(&call, NV_HUB_ERROR_NONE, 200, "2");
    nv_amqp_link_detach(t.out->link, NV_AMQP_ERR_NONE, NULL);
    rig_run(t.rig);
    invoke(t.rig, &call, "m", "3");
    expect_answer(&call, NV_HUB_ERROR_DeviceNotOnline, 0, "");
    rig_free(t.rig);
}

static void the_connection_goes_before_the_answer(void **state)
{
    (void)state;
    method_links t = open_methods(10);
    invocation call;
    invoke(t.rig, &call, "m", "1");
    rig_cut(t.rig, &t.rig->a);
    expect_answer(&call, NV_HUB_ERROR_DeviceConnectionClosedRemotely, 0, "");
    rig_free(t.rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(called_and_answered),
        cmocka_unit_test(answers_that_are_none),
        cmocka_unit_test(listens_with_credit),
        cmocka_unit_test(the_connection_goes_before_the_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
