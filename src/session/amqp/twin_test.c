/* Twins over AMQP (amqp.md section 3.6). */
#include "core/devices.h"
#include "support/amqp_device_rig.h"

#define TWIN    "/devices/d1/twin"
#define DESIRED "/notifications/twin/properties/desired"

typedef struct twin_links {
    amqp_rig *rig;
    rig_link *in;  /* the device sends */
    rig_link *out; /* the device receives */
} twin_links;

static twin_links open_twin(const nv_limits *limits, uint32_t credit)
{
    twin_links t = {.rig = rig_new(limits)};
    rig_open(t.rig, &t.rig->a, "d1");
    t.in = rig_attach_link(
        t.rig, &t.rig->a, &(rig_attach){.address = TWIN, .sends = true, .snd_settle_mode = 1, .correlation = "twin:1"});
    t.out =
        rig_attach_link(t.rig, &t.rig->a, &(rig_attach){.address = TWIN, .credit = credit, .correlation = "twin:1"});
    assert_true(t.in->link && t.out->link && t.in->link->credit > 0);
    assert_int_equal(t.out->snd_settle_mode, 1);
    return t;
}

/* @p correlation NULL: none. @p resource NULL: a null, "": absent */
static nv_span request(const char *operation, const char *resource, const char *correlation, const char *body)
{
    static uint8_t bytes[1 << 20];
    uint8_t id[128];
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    nv_writer i = nv_writer_of(id, sizeof(id));
    uint32_t count = 1;
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_MESSAGE_ANNOTATIONS);
    nv_amqp_put_symbol_of(&w, "operation");
    nv_amqp_put_string_of(&w, operation);
    if (!resource || *resource) {
        nv_amqp_put_symbol_of(&w, "resource");
        if (resource) {
            nv_amqp_put_string_of(&w, resource);
        } else {
            nv_amqp_put_null(&w);
        }
        count++;
    }
    nv_amqp_end_map(&w, mark, 2 * count);
    if (correlation) {
        nv_amqp_put_string_of(&i, correlation);
        nv_amqp_properties p = {.correlation_id = nv_writer_span(&i)};
        nv_amqp_put_properties_section(&w, &p);
    }
    nv_amqp_put_data_head(&w, strlen(body));
    nv_write_span(&w, nv_span_str(body));
    assert_int_equal(w.err, NV_OK);
    return nv_writer_span(&w);
}

static void ask(twin_links *t, const char *operation, const char *resource, const char *correlation, const char *body)
{
    rig_send(t->in, request(operation, resource, correlation, body), 0, true);
    rig_run(t->rig);
}

/* conformance: amqp.md 34 */
static void get(void **state)
{
    (void)state;
    twin_links t = open_twin(&nv_limits_open, 10);
    fake_twin_set_sections("{\"a\":1.0}", 7, "{\"b\":{\"c\":null}}");
    ask(&t, "GET", "", "8a7b", " ");
    assert_true(t.out->messages[0].settled);
    char want[512];
    (void)snprintf(want, sizeof(want),
                   "annotations{status=int:200} properties{correlation-id=string:8a7b;} "
                   "data:{\"desired\":{\"a\":1.0,\"$version\":7},\"reported\":{\"b\":{\"c\":null},\"$version\":%llu}}",
                   (unsigned long long)fake_twin_reported_version());
    assert_string_equal(rig_last_text(t.out), want);
    ask(&t, "get", NULL, "NODE-2", ""); /* .NET: a null resource, no body */
    assert_int_equal(t.out->message_count, 2);
    assert_non_null(strstr(rig_last_text(t.out), "correlation-id=string:NODE-2"));
    rig_free(t.rig);
}

/* conformance: amqp.md 35 */
static void patch(void **state)
{
    (void)state;
    char want[256];
    twin_links t = open_twin(&nv_limits_open, 10);
    ask(&t, "PATCH", "/properties/reported", "p1", "{\"x\":21.7}");
    assert_string_equal(fake_twin_last_patch(), "{\"x\":21.7}");
    (void)snprintf(want, sizeof(want),
                   "annotations{status=int:200;version=long:%llu} properties{correlation-id=string:p1;} data:",
                   (unsigned long long)fake_twin_reported_version());
    assert_string_equal(rig_last_text(t.out), want);
    rig_free(t.rig);
}

static void expect_status(twin_links *t, int status, const char *word)
{
    char want[64];
    (void)snprintf(want, sizeof(want), "annotations{status=int:%d} ", status);
    if (!strstr(rig_last_text(t->out), want) || !strstr(rig_last_text(t->out), word)) {
        fail_msg("%s: not %d with \"%s\"", rig_last_text(t->out), status, word);
    }
}

static void errors_have_status_and_json(void **state)
{
    (void)state;
    twin_links t = open_twin(&nv_limits_open, 100);
    fake_twin_set_error(NV_HUB_ERROR_ArgumentInvalid, "properties.reported.x: too long");
    ask(&t, "PATCH", "/properties/reported", "p1", "{\"x\":1}");
    expect_status(&t, 400, "\"message\":\"properties.reported.x: too long\"");
    fake_twin_set_error(NV_HUB_ERROR_ServiceUnavailable, "");
    ask(&t, "GET", "", "p2", "");
    expect_status(&t, 503, "\"errorCode\":503001,\"message\":\"The hub cannot store now\"");
    fake_log_set_health(&t.rig->core, NV_LOG_FULL);
    ask(&t, "GET", "", "p2", "");
    expect_status(&t, 503, "\"message\":\"The hub cannot store now: the fake log fails\"");
    fake_log_set_health(&t.rig->core, NV_LOG_OK);
    fake_twin_set_error(NV_HUB_ERROR_NONE, "");
    ask(&t, "PATCH", "/properties/desired", "p3", "{\"x\":1}");
    expect_status(&t, 400, "/properties/reported");
    ask(&t, "PUT", "/elsewhere", "p4", "");
    expect_status(&t, 400, DESIRED);
    ask(&t, "POST", "", "p5", "");
    expect_status(&t, 400, "GET, PATCH, PUT or DELETE");
    static char large[300000];
    memset(large, ' ', sizeof(large) - 1);
    ask(&t, "PATCH", "/properties/reported", "p6", large);
    expect_status(&t, 400, "299999 bytes");
    assert_int_equal(t.out->message_count, 7);
    ask(&t, "GET", "", NULL, ""); /* nobody can tell whose answer it is, but there is one */
    assert_int_equal(t.out->message_count, 8);
    assert_null(strstr(rig_last_text(t.out), "properties{"));
    rig_send(t.in, nv_span_str("no message"), 0, true);
    rig_run(t.rig);
    assert_non_null(t.in->link);
    rig_free(t.rig);
}

static bool change_desired(twin_links *t, const char *module, uint64_t version, const char *body)
{
    nv_delivery *delivery = nv_delivery_new(NV_DELIVER_DESIRED, NV_SPAN_EMPTY, nv_span_str(body));
    delivery->version = version;
    bool told = nv_devices_deliver(nv_hub_shard_loop(t->rig->core.hub, nv_span_str("d1")), nv_span_str("d1"),
                                   nv_span_str(module), delivery);
    rig_run(t->rig);
    return told;
}

/* conformance: amqp.md 36 */
static void desired_between_put_and_delete(void **state)
{
    (void)state;
    twin_links t = open_twin(&nv_limits_open, 10);
    assert_false(change_desired(&t, "", 2, "{\"a\":1}")); /* before PUT */
    ask(&t, "PUT", DESIRED, "s1", " ");
    assert_string_equal(rig_last_text(t.out),
                        "annotations{status=int:200} properties{correlation-id=string:s1;} data:");
    assert_true(change_desired(&t, "", 3, "{\"a\":{\"b\":null}}"));
    assert_true(t.out->messages[1].settled);
    assert_string_equal(rig_last_text(t.out), "annotations{resource=string:/properties/desired;version=long:3} "
                                              "data:{\"a\":{\"b\":null},\"$version\":3}");
    assert_true(change_desired(&t, "", 4, "{}"));
    assert_non_null(strstr(rig_last_text(t.out), "data:{\"$version\":4}"));
    ask(&t, "DELETE", DESIRED, "s2", "");
    assert_non_null(strstr(rig_last_text(t.out), "status=int:200"));
    assert_false(change_desired(&t, "", 5, "{\"a\":1}"));
    assert_int_equal(t.out->message_count, 4);
    /* the link that would carry them goes */
    ask(&t, "PUT", DESIRED, "s3", "");
    nv_amqp_link_detach(t.out->link, NV_AMQP_ERR_NONE, NULL);
    rig_run(t.rig);
    assert_false(change_desired(&t, "", 6, "{\"a\":1}"));
    rig_free(t.rig);
}

/* uamqp begins with credit 0; what is to be told waits, within bounds. */
static void answers_wait_for_credit(void **state)
{
    (void)state;
    twin_links t = open_twin(&nv_limits_open, 0);
    ask(&t, "PUT", DESIRED, "1", "");
    ask(&t, "GET", "", "2", "");
    assert_true(change_desired(&t, "", 3, "{\"a\":1}"));
    assert_int_equal(t.out->message_count, 0);
    nv_amqp_link_set_credit(t.out->link, 10);
    rig_run(t.rig);
    assert_int_equal(t.out->message_count, 3);
    assert_non_null(strstr(rig_text(&t.out->messages[0]), "correlation-id=string:1;"));
    assert_non_null(strstr(rig_text(&t.out->messages[1]), "correlation-id=string:2;"));
    assert_non_null(strstr(rig_text(&t.out->messages[2]), "version=long:3"));
    rig_free(t.rig);
}

static void who_gives_no_credit_loses_the_pair(void **state)
{
    (void)state;
    twin_links t = open_twin(&nv_limits_open, 0);
    ask(&t, "PUT", DESIRED, "1", "");
    for (uint64_t i = 0; i < 300 && !t.out->detached; i++) {
        (void)change_desired(&t, "", 3 + i, "{\"a\":1}");
    }
    assert_true(t.in->detached && t.out->detached);
    assert_string_equal(t.out->condition, "amqp:resource-limit-exceeded");
    rig_run(t.rig);
    assert_false(t.rig->a.ended);
    rig_free(t.rig);
}

static void requests_in_flight_are_bounded(void **state)
{
    (void)state;
    nv_limits limits = nv_limits_open;
    limits.twin_inflight = 3;
    twin_links t = open_twin(&limits, 100);
    fake_twin_set_hold(true);
    for (int i = 0; i < 10; i++) {
        char id[8];
        (void)snprintf(id, sizeof(id), "%d", i);
        rig_send(t.in, request("GET", "", id, ""), 0, true);
    }
    rig_run(t.rig);
    assert_int_equal(fake_twin_held(), 3);
    for (int i = 0; i < 10; i++) {
        assert_true(fake_twin_complete());
        rig_run(t.rig);
        assert_int_equal(t.out->message_count, i + 1);
        assert_true(fake_twin_held() <= 3);
    }
    assert_false(fake_twin_complete());
    rig_free(t.rig);
}

static void unsettled_requests_are_accepted_first(void **state)
{
    (void)state;
    twin_links t = {.rig = rig_new(&nv_limits_open)};
    rig_open(t.rig, &t.rig->a, "d1");
    t.in = rig_sender(t.rig, &t.rig->a, TWIN);
    t.out = rig_receiver(t.rig, &t.rig->a, TWIN, 10);
    fake_twin_set_hold(true);
    uint32_t id = rig_send(t.in, request("GET", "", "1", ""), 0, false);
    rig_expect_accepted(t.rig, t.in, id);
    assert_int_equal(t.out->message_count, 0);
    fake_twin_set_hold(false);
    (void)fake_twin_complete();
    rig_run(t.rig);
    assert_int_equal(t.out->message_count, 1);
    rig_expect_rejected(t.rig, t.in, rig_send(t.in, nv_span_str("rubbish"), 0, false), "amqp:decode-error");
    rig_free(t.rig);
}

static void links_of_another_pair_end_the_older(void **state)
{
    (void)state;
    twin_links t = open_twin(&nv_limits_open, 10);
    rig_link *in =
        rig_attach_link(t.rig, &t.rig->a, &(rig_attach){.address = TWIN, .sends = true, .correlation = "twin:2"});
    assert_true(t.in->detached && t.out->detached); /* replaced, and its partner with it */
    assert_true(in->link != NULL);
    rig_link *out =
        rig_attach_link(t.rig, &t.rig->a, &(rig_attach){.address = TWIN, .credit = 10, .correlation = "twin:2"});
    assert_true(in->link && out->link);
    rig_send(in, request("GET", "", "1", ""), 0, false);
    rig_run(t.rig);
    assert_int_equal(out->message_count, 1);
    rig_free(t.rig);
}

/* Links, connection and identity go while a request is in flight. */
static void lost_while_a_request_is_in_flight(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        twin_links t = open_twin(&nv_limits_open, 10);
        fake_twin_set_hold(true);
        rig_send(t.in, request("PATCH", "/properties/reported", "1", "{\"a\":1}"), 0, true);
        rig_send(t.in, request("GET", "", "2", ""), 0, true);
        rig_run(t.rig);
        if (how == 0) {
            nv_amqp_link_detach(t.in->link, NV_AMQP_ERR_NONE, NULL);
            nv_amqp_link_detach(t.out->link, NV_AMQP_ERR_NONE, NULL);
        } else if (how == 1) {
            amqp_end_cut(&t.rig->a.hub_end);
        } else {
            fake_unregister(&t.rig->core, "d1", "");
        }
        rig_run(t.rig);
        assert_int_equal(nv_devices_connected(t.rig->core.hub), 1); /* it lasts as long as its requests */
        fake_twin_set_hold(false);
        while (fake_twin_complete()) {
            rig_run(t.rig);
        }
        rig_run(t.rig);
        assert_int_equal(nv_devices_connected(t.rig->core.hub), 0);
        rig_free(t.rig);
    }
}

static void modules_have_twins(void **state)
{
    (void)state;
    twin_links t = {.rig = rig_new(&nv_limits_open)};
    rig_open(t.rig, &t.rig->a, "d1/modules/m1");
    t.in = rig_sender(t.rig, &t.rig->a, "/devices/d1/modules/m1/twin");
    t.out = rig_receiver(t.rig, &t.rig->a, "/devices/d1/modules/m1/twin", 10);
    rig_send(t.in, request("PUT", DESIRED, "1", ""), 0, false);
    rig_send(t.in, request("GET", "", "2", ""), 0, false);
    rig_run(t.rig);
    assert_int_equal(t.out->message_count, 2);
    assert_true(nv_span_eq_str(fake_twin_last()->module_id, "m1"));
    assert_true(change_desired(&t, "m1", 3, "{\"a\":1}"));
    assert_int_equal(t.out->message_count, 3);
    rig_free(t.rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(get),
        cmocka_unit_test(patch),
        cmocka_unit_test(errors_have_status_and_json),
        cmocka_unit_test(desired_between_put_and_delete),
        cmocka_unit_test(answers_wait_for_credit),
        cmocka_unit_test(who_gives_no_credit_loses_the_pair),
        cmocka_unit_test(requests_in_flight_are_bounded),
        cmocka_unit_test(unsettled_requests_are_accepted_first),
        cmocka_unit_test(links_of_another_pair_end_the_older),
        cmocka_unit_test(lost_while_a_request_is_in_flight),
        cmocka_unit_test(modules_have_twins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
