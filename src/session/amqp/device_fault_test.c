/* Faults that the SDKs' own tests ask for by properties of a message, over AMQP. */
#include "core/devices.h"
#include "core/fault.h"
#include "support/amqp_device_rig.h"

#define EVENTS  "/devices/d1/messages/events"
#define BOUND   "/devices/d1/messages/devicebound"
#define TWIN    "/devices/d1/twin"
#define METHODS "/devices/d1/methods/devicebound"

/* As the Node SDK has it: numbers where MQTT has text. */
static nv_span order(const char *kind, int delay_s, int duration_s)
{
    static uint8_t bytes[1024];
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&w, "AzIoTHub_FaultOperationType");
    nv_amqp_put_string_of(&w, kind);
    nv_amqp_put_string_of(&w, "AzIoTHub_FaultOperationCloseReason");
    nv_amqp_put_string_of(&w, "byebye");
    nv_amqp_put_string_of(&w, "AzIoTHub_FaultOperationDelayInSecs");
    nv_amqp_put_int(&w, delay_s);
    nv_amqp_put_string_of(&w, "AzIoTHub_FaultOperationDurationInSecs");
    char text[16];
    (void)snprintf(text, sizeof(text), "%d", duration_s);
    nv_amqp_put_string_of(&w, text);
    nv_amqp_end_map(&w, mark, 8);
    nv_amqp_put_data_head(&w, 1);
    nv_write_u8(&w, 'f');
    return nv_writer_span(&w);
}

typedef struct faulty {
    amqp_rig *rig;
    rig_link *events;
    rig_link *bound;
    rig_link *twin_in;
    rig_link *twin_out;
    rig_link *methods_in;
    rig_link *methods_out;
} faulty;

static faulty open_faulty(void)
{
    faulty f = {.rig = rig_new_faulty()};
    rig_open(f.rig, &f.rig->a, "d1");
    f.events = rig_sender(f.rig, &f.rig->a, EVENTS);
    f.bound = rig_receiver(f.rig, &f.rig->a, BOUND, 10);
    f.twin_in = rig_sender(f.rig, &f.rig->a, TWIN);
    f.twin_out = rig_receiver(f.rig, &f.rig->a, TWIN, 10);
    f.methods_in = rig_sender(f.rig, &f.rig->a, METHODS);
    f.methods_out = rig_receiver(f.rig, &f.rig->a, METHODS, 10);
    return f;
}

/* The service acknowledges the message, waits, then misbehaves. */
static void ask(faulty *f, const char *kind, int delay_s, int duration_s)
{
    rig_expect_accepted(f->rig, f->events, rig_send(f->events, order(kind, delay_s, duration_s), 0, false));
}

static void one_link_is_detached(void **state)
{
    (void)state;
    static const struct {
        const char *kind;
        size_t offset;
    } rows[] = {
        {"KillAmqpD2CLink", offsetof(faulty, events)},
        {"KillAmqpC2DLink", offsetof(faulty, bound)},
        {"KillAmqpTwinLinkReq", offsetof(faulty, twin_in)},
        {"KillAmqpTwinLinkResp", offsetof(faulty, twin_out)},
        {"KillAmqpMethodReqLink", offsetof(faulty, methods_out)},
        {"KillAmqpMethodRespLink", offsetof(faulty, methods_in)},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        faulty f = open_faulty();
        ask(&f, rows[i].kind, 2, 5);
        rig_link *target = NULL;
        memcpy(&target, (const char *)&f + rows[i].offset, sizeof(target));
        rig_advance(f.rig, 2 * NV_US_PER_S - 1);
        assert_false(target->detached);
        rig_advance(f.rig, 1);
        assert_true(target->detached);
        assert_string_equal(target->condition, "amqp:link:detach-forced");
        assert_non_null(strstr(target->description, "byebye"));
        rig_link *const all[] = {f.events, f.bound, f.twin_in, f.twin_out, f.methods_in, f.methods_out};
        for (size_t l = 0; l < NV_COUNT_OF(all); l++) {
            assert_true(all[l] == target || all[l]->link);
        }
        assert_false(f.rig->a.ended);
        if (target != f.events) { /* it may come again at once */
            rig_expect_accepted(f.rig, f.events, rig_send(f.events, rig_data("x"), 0, false));
        } else {
            rig_link *again = rig_sender(f.rig, &f.rig->a, EVENTS);
            rig_expect_accepted(f.rig, again, rig_send(again, rig_data("x"), 0, false));
        }
        rig_free(f.rig);
    }
}

static void the_session_ends(void **state)
{
    (void)state;
    faulty f = open_faulty();
    ask(&f, "KillAmqpSession", 0, 5);
    rig_advance(f.rig, 1);
    assert_true(f.events->detached && f.bound->detached && f.twin_in->detached && f.methods_out->detached);
    assert_false(f.rig->a.ended);
    f.rig->a.session = nv_amqp_session_begin(&f.rig->a.conn);
    rig_link *again = rig_sender(f.rig, &f.rig->a, EVENTS);
    rig_expect_accepted(f.rig, again, rig_send(again, rig_data("x"), 0, false));
    rig_free(f.rig);
}

static void the_connection_ends(void **state)
{
    (void)state;
    static const struct {
        const char *kind;
        const char *condition; /* of CLOSE; "": cut without a word */
        bool lasts;
    } rows[] = {
        {"KillTcp", "", true},
        {"ShutDownAmqp", "amqp:connection:forced", true},
        {"KillAmqpConnection", "amqp:connection:forced", false},
        {"InvokeAuthError", "amqp:unauthorized-access", true},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        faulty f = open_faulty();
        ask(&f, rows[i].kind, 1, 5);
        rig_advance(f.rig, NV_US_PER_S);
        assert_true(f.rig->a.ended);
        assert_string_equal(f.rig->a.condition, rows[i].condition);
        assert_int_equal(nv_devices_connected(f.rig->core.hub), 0);
        rig_open(f.rig, &f.rig->b, "d1");
        rig_link *again = rig_attach_link(f.rig, &f.rig->b, &(rig_attach){.address = EVENTS, .sends = true});
        assert_int_equal(again->link == NULL, rows[i].lasts);
        rig_cut(f.rig, &f.rig->b);
        rig_advance(f.rig, 5 * NV_US_PER_S);
        rig_open(f.rig, &f.rig->b, "d1");
        again = rig_attach_link(f.rig, &f.rig->b, &(rig_attach){.address = EVENTS, .sends = true});
        assert_non_null(again->link);
        rig_free(f.rig);
    }
}

/* conformance: amqp.md 29 */
static void messages_are_refused_for_a_while(void **state)
{
    (void)state;
    static const struct {
        const char *kind;
        const char *condition;
    } rows[] = {
        {"InvokeMaxMessageQuota", "amqp:resource-limit-exceeded"},
        {"InvokeThrottling", "com.microsoft:device-container-throttled"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        faulty f = open_faulty();
        ask(&f, rows[i].kind, 1, 5);
        rig_expect_accepted(f.rig, f.events, rig_send(f.events, rig_data("x"), 0, false));
        rig_advance(f.rig, NV_US_PER_S);
        rig_expect_rejected(f.rig, f.events, rig_send(f.events, rig_data("x"), 0, false), rows[i].condition);
        /* whoever connects again is in it still */
        rig_cut(f.rig, &f.rig->a);
        rig_open(f.rig, &f.rig->a, "d1");
        f.events = rig_sender(f.rig, &f.rig->a, EVENTS);
        rig_expect_rejected(f.rig, f.events, rig_send(f.events, rig_data("x"), 0, false), rows[i].condition);
        rig_advance(f.rig, 5 * NV_US_PER_S);
        rig_expect_accepted(f.rig, f.events, rig_send(f.events, rig_data("x"), 0, false));
        assert_int_equal(fake_log_count(&f.rig->core), 3);
        rig_free(f.rig);
    }
}

static void off_means_off(void **state)
{
    (void)state;
    faulty f = {.rig = rig_new(&nv_limits_open)};
    rig_open(f.rig, &f.rig->a, "d1");
    f.events = rig_sender(f.rig, &f.rig->a, EVENTS);
    ask(&f, "KillTcp", 0, 5);
    rig_advance(f.rig, NV_US_PER_S);
    assert_false(f.rig->a.ended);
    rig_free(f.rig);
}

/* The connection goes before the fault does, and the device with it. */
static void lost_before_the_fault(void **state)
{
    (void)state;
    faulty f = open_faulty();
    ask(&f, "KillTcp", 5, 5);
    rig_cut(f.rig, &f.rig->a);
    rig_advance(f.rig, 6 * NV_US_PER_S);
    rig_open(f.rig, &f.rig->a, "d1");
    (void)rig_sender(f.rig, &f.rig->a, EVENTS);
    rig_free(f.rig);
}

static void faults_of_the_other_protocol_are_ignored(void **state)
{
    (void)state;
    faulty f = open_faulty();
    ask(&f, "ShutDownMqtt", 0, 5);
    rig_advance(f.rig, NV_US_PER_S);
    assert_false(f.rig->a.ended);
    assert_false(nv_fault_is_amqp(NV_FAULT_SHUT_DOWN_MQTT) || nv_fault_is_amqp(NV_FAULT_AUTH) ||
                 nv_fault_is_amqp(NV_FAULT_KILL_TCP) || nv_fault_is_amqp(NV_FAULT_QUOTA));
    assert_true(nv_fault_is_amqp(NV_FAULT_SHUT_DOWN_AMQP) && nv_fault_is_amqp(NV_FAULT_AMQP_METHOD_RESPONSE) &&
                nv_fault_is_amqp(NV_FAULT_AMQP_CBS_REQUEST));
    rig_free(f.rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_link_is_detached),
        cmocka_unit_test(the_session_ends),
        cmocka_unit_test(the_connection_ends),
        cmocka_unit_test(messages_are_refused_for_a_while),
        cmocka_unit_test(off_means_off),
        cmocka_unit_test(lost_before_the_fault),
        cmocka_unit_test(faults_of_the_other_protocol_are_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
