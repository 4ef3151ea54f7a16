/** The engine against Qpid Proton, an independent one, in memory: Proton as the client of our server half and as the
 * server of our client half. */
#include "support/amqp_pair.h"

#include "base/alloc.h"

#include <proton/connection.h>
#include <proton/connection_driver.h>
#include <proton/delivery.h>
#include <proton/link.h>
#include <proton/sasl.h>
#include <proton/session.h>
#include <proton/transport.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- an application on Proton -------------------------------------------------------------------------------- */

typedef struct proton_app {
    pn_connection_driver_t driver;
    pn_session_t *session;
    pn_link_t *sender;
    pn_link_t *receiver;
    int credit;       /* given to each receiver */
    int top_up;       /* after each delivery */
    uint64_t answer;  /* outcome for what arrives */
    bool unsettled;   /* answer without settling, and wait for the other side to settle */
    bool pre_settled; /* what it sends */
    uint32_t to_send;
    size_t send_size;
    uint64_t sent;
    uint64_t deliveries;
    uint64_t settled_deliveries;
    uint64_t body_sum;
    uint64_t outcomes[PN_MODIFIED + 1];
    uint64_t settled_back;
    char error[128]; /* condition of the last remote error */
    bool remote_closed;
} proton_app;

static void proton_init(proton_app *app, bool server)
{
    *app = (proton_app){.credit = 100, .top_up = 1, .answer = PN_ACCEPTED, .body_sum = UINT64_C(14695981039346656037)};
    assert_int_equal(pn_connection_driver_init(&app->driver, NULL, NULL), 0);
    pn_connection_set_container(app->driver.connection, "proton");
    if (server) {
        pn_transport_set_server(app->driver.transport);
        pn_transport_require_auth(app->driver.transport, false);
        pn_sasl_t *sasl = pn_sasl(app->driver.transport);
        pn_sasl_allowed_mechs(sasl, "ANONYMOUS");
    }
}

static void proton_open(proton_app *app)
{
    pn_connection_open(app->driver.connection);
    app->session = pn_session(app->driver.connection);
    pn_session_open(app->session);
}

static pn_link_t *proton_attach(proton_app *app, const char *name, bool sender)
{
    pn_link_t *link = sender ? pn_sender(app->session, name) : pn_receiver(app->session, name);
    pn_terminus_set_address(sender ? pn_link_target(link) : pn_link_source(link), "/devices/d1/x");
    if (sender) {
        app->sender = link;
        if (app->pre_settled) {
            pn_link_set_snd_settle_mode(link, PN_SND_SETTLED);
        }
    } else {
        app->receiver = link;
        if (app->unsettled) {
            pn_link_set_rcv_settle_mode(link, PN_RCV_SECOND);
        }
    }
    pn_link_open(link);
    if (!sender && app->credit > 0) {
        pn_link_flow(link, app->credit);
    }
    return link;
}

static void send_some(proton_app *app, pn_link_t *link)
{
    char *body = nv_malloc(app->send_size + 1);
    while (app->to_send > 0 && pn_link_credit(link) > 0) {
        uint32_t tag = (uint32_t)app->sent;
        for (size_t i = 0; i < app->send_size; i++) {
            body[i] = (char)amqp_test_byte(app->sent, i);
        }
        pn_delivery_t *delivery = pn_delivery(link, pn_dtag((const char *)&tag, sizeof(tag)));
        assert_int_equal(pn_link_send(link, body, app->send_size), (ssize_t)app->send_size);
        if (app->pre_settled) {
            pn_delivery_settle(delivery); /* advances */
        } else {
            assert_true(pn_link_advance(link));
        }
        app->sent++;
        app->to_send--;
    }
    free(body);
}

static void on_received(proton_app *app, pn_link_t *link, pn_delivery_t *delivery)
{
    char bytes[4096];
    ssize_t len;
    while ((len = pn_link_recv(link, bytes, sizeof(bytes))) > 0) {
        for (ssize_t i = 0; i < len; i++) {
            app->body_sum = (app->body_sum ^ (uint8_t)bytes[i]) * UINT64_C(1099511628211);
        }
    }
    if (pn_delivery_partial(delivery)) {
        return;
    }
    app->deliveries++;
    app->settled_deliveries += pn_delivery_settled(delivery);
    pn_link_advance(link);
    pn_delivery_update(delivery, app->answer);
    if (!app->unsettled) {
        pn_delivery_settle(delivery);
    }
    if (app->top_up > 0) {
        pn_link_flow(link, app->top_up);
    }
}

static void on_delivery(proton_app *app, pn_delivery_t *delivery)
{
    pn_link_t *link = pn_delivery_link(delivery);
    if (pn_link_is_receiver(link)) {
        if (pn_delivery_readable(delivery)) {
            on_received(app, link, delivery);
        } else if (pn_delivery_updated(delivery) && pn_delivery_settled(delivery)) {
            app->settled_back++;
            pn_delivery_settle(delivery);
        }
        return;
    }
    if (pn_delivery_updated(delivery)) {
        uint64_t state = pn_delivery_remote_state(delivery);
        if (state <= PN_MODIFIED) {
            app->outcomes[state]++;
        }
        if (state == PN_REJECTED) {
            const char *name = pn_condition_get_name(pn_disposition_condition(pn_delivery_remote(delivery)));
            (void)snprintf(app->error, sizeof(app->error), "%s", name ? name : "");
        }
        pn_delivery_settle(delivery);
    }
}

static void note_error(proton_app *app, pn_condition_t *condition)
{
    if (pn_condition_is_set(condition)) {
        (void)snprintf(app->error, sizeof(app->error), "%s", pn_condition_get_name(condition));
    }
}

static void on_link_open(proton_app *app, pn_link_t *link)
{
    if (pn_link_state(link) & PN_LOCAL_UNINIT) {
        pn_terminus_copy(pn_link_source(link), pn_link_remote_source(link));
        pn_terminus_copy(pn_link_target(link), pn_link_remote_target(link));
        pn_link_set_rcv_settle_mode(link, pn_link_remote_rcv_settle_mode(link));
        pn_link_set_snd_settle_mode(link, pn_link_remote_snd_settle_mode(link));
        pn_link_set_max_message_size(link, 4u << 20);
        pn_link_open(link);
        if (pn_link_is_receiver(link)) {
            app->receiver = link;
            pn_link_flow(link, app->credit);
        } else {
            app->sender = link;
        }
    }
}

static void on_event(proton_app *app, pn_event_t *event)
{
    switch ((int)pn_event_type(event)) {
    case PN_CONNECTION_REMOTE_OPEN:
        pn_connection_open(app->driver.connection);
        break;
    case PN_SESSION_REMOTE_OPEN:
        app->session = pn_event_session(event);
        pn_session_open(app->session);
        break;
    case PN_LINK_REMOTE_OPEN:
        on_link_open(app, pn_event_link(event));
        break;
    case PN_LINK_FLOW:
        if (pn_link_is_sender(pn_event_link(event))) {
            send_some(app, pn_event_link(event));
            if (pn_link_get_drain(pn_event_link(event))) {
                pn_link_drained(pn_event_link(event));
            }
        }
        break;
    case PN_DELIVERY:
        on_delivery(app, pn_event_delivery(event));
        break;
    case PN_LINK_REMOTE_CLOSE:
        note_error(app, pn_link_remote_condition(pn_event_link(event)));
        pn_link_close(pn_event_link(event));
        break;
    case PN_SESSION_REMOTE_CLOSE:
        note_error(app, pn_session_remote_condition(pn_event_session(event)));
        pn_session_close(pn_event_session(event));
        break;
    case PN_CONNECTION_REMOTE_CLOSE:
        note_error(app, pn_connection_remote_condition(app->driver.connection));
        pn_connection_close(app->driver.connection);
        app->remote_closed = true;
        break;
    case PN_TRANSPORT_ERROR:
        (void)snprintf(app->error, sizeof(app->error), "transport %s: %s",
                       pn_condition_get_name(pn_transport_condition(app->driver.transport)),
                       pn_condition_get_description(pn_transport_condition(app->driver.transport)));
        break;
    default:
        break;
    }
}

static void dispatch(proton_app *app)
{
    pn_event_t *event;
    while ((event = pn_connection_driver_next_event(&app->driver)) != NULL) {
        on_event(app, event);
    }
}

/* Move bytes until nothing moves. @p piece: so many at a time into Proton */
static void run(proton_app *app, amqp_owner *owner, size_t piece)
{
    bool moved;
    do {
        moved = false;
        dispatch(app);
        pn_bytes_t out = pn_connection_driver_write_buffer(&app->driver);
        if (out.size > 0) {
            moved = true;
            if (owner->end.lost) {
                pn_connection_driver_write_done(&app->driver, out.size);
            } else {
                nv_ignore(nv_buf_append(&owner->end.in, nv_span_of(out.start, out.size)));
                pn_connection_driver_write_done(&app->driver, out.size);
            }
        }
        amqp_end_serve(&owner->end);
        pn_rwbytes_t in = pn_connection_driver_read_buffer(&app->driver);
        nv_span bytes = nv_buf_span(&owner->end.out);
        size_t len = bytes.len < in.size ? bytes.len : in.size;
        len = len < piece ? len : piece;
        if (len > 0) {
            memcpy(in.start, bytes.ptr, len);
            pn_connection_driver_read_done(&app->driver, len);
            nv_buf_consume(&owner->end.out, len);
            moved = true;
        } else if (bytes.len > 0 && pn_connection_driver_read_closed(&app->driver)) {
            nv_buf_clear(&owner->end.out);
        }
        amqp_end_serve(&owner->end);
    } while (moved);
}

static void finish(proton_app *app, amqp_owner *owner)
{
    pn_connection_close(app->driver.connection);
    run(app, owner, SIZE_MAX);
    assert_string_equal(app->error, "");
    assert_true(owner->ended);
    pn_connection_driver_destroy(&app->driver);
    amqp_owner_deinit(owner);
}

static uint64_t sum_of(uint32_t count, size_t size)
{
    uint64_t sum = UINT64_C(14695981039346656037);
    for (uint64_t n = 0; n < count; n++) {
        for (size_t i = 0; i < size; i++) {
            sum = (sum ^ amqp_test_byte(n, i)) * UINT64_C(1099511628211);
        }
    }
    return sum;
}

static amqp_owner owner;
static proton_app app;

/* ---- Proton as the client --------------------------------------------------------------------------------------- */

typedef struct exchange {
    const char *name;
    const char *mechanism; /* NULL: no SASL layer */
    uint32_t count;
    size_t size;
    uint32_t our_frame; /* what we take */
    uint32_t proton_frame;
    bool pre_settled;
    bool rcv_second;
    uint64_t answer; /* Proton's */
    nv_amqp_outcome_kind expected;
} exchange;

static const exchange exchanges[] = {
    {"plain", "PLAIN", 1000, 256, 65536, 65536, false, false, PN_ACCEPTED, NV_AMQP_OUT_ACCEPTED},
    {"anonymous", "ANONYMOUS", 10, 256, 65536, 65536, false, false, PN_ACCEPTED, NV_AMQP_OUT_ACCEPTED},
    {"no SASL", NULL, 1000, 256, 65536, 65536, false, false, PN_RELEASED, NV_AMQP_OUT_RELEASED},
    {"rejected", NULL, 50, 1, 65536, 65536, false, false, PN_REJECTED, NV_AMQP_OUT_REJECTED},
    {"modified", NULL, 50, 0, 65536, 65536, false, false, PN_MODIFIED, NV_AMQP_OUT_MODIFIED},
    {"settled", NULL, 1000, 256, 65536, 65536, true, false, PN_ACCEPTED, NV_AMQP_OUT_ACCEPTED},
    {"receiver settles second", NULL, 300, 256, 65536, 65536, false, true, PN_ACCEPTED, NV_AMQP_OUT_ACCEPTED},
    {"1 MB in 512 bytes", NULL, 3, 1000000, 512, 512, false, false, PN_ACCEPTED, NV_AMQP_OUT_ACCEPTED},
    {"300 KB in 4096 bytes", NULL, 20, 300000, 4096, 4096, false, false, PN_ACCEPTED, NV_AMQP_OUT_ACCEPTED},
};

static void exchange_with_client(const exchange *x, size_t piece)
{
    nv_manual_clock clock;
    nv_manual_clock_init(&clock, 0);
    nv_amqp_config config = amqp_server_config;
    config.max_frame_size = x->our_frame;
    amqp_owner_server(&owner, &clock.clock, &config);
    owner.quiet = true;
    owner.pre_settled = x->pre_settled;
    owner.end.piece = piece == SIZE_MAX ? 0 : piece;
    proton_init(&app, false);
    app.pre_settled = x->pre_settled;
    app.unsettled = x->rcv_second;
    app.answer = x->answer;
    if (x->mechanism) {
        pn_connection_set_user(app.driver.connection, "user");
        pn_connection_set_password(app.driver.connection, "password");
        pn_sasl_allowed_mechs(pn_sasl(app.driver.transport), x->mechanism);
        pn_sasl_set_allow_insecure_mechs(pn_sasl(app.driver.transport), true);
    }
    pn_transport_set_max_frame(app.driver.transport, x->proton_frame);
    proton_open(&app);
    app.to_send = x->count;
    app.send_size = x->size;
    (void)proton_attach(&app, "out", true);
    (void)proton_attach(&app, "in", false);
    run(&app, &owner, piece);
    assert_int_equal(owner.link_count, 2);
    owner.to_send = x->count;
    owner.send_size = x->size;
    amqp_owner_send(&owner, owner.links[1]);
    run(&app, &owner, piece);
    assert_string_equal(app.error, "");
    assert_int_equal(owner.deliveries, x->count);
    assert_int_equal(app.deliveries, x->count);
    assert_true(owner.body_sum == sum_of(x->count, x->size) && app.body_sum == owner.body_sum);
    assert_int_equal(app.outcomes[PN_ACCEPTED], x->pre_settled ? 0 : x->count);
    assert_int_equal(owner.outcomes[x->expected], x->pre_settled ? 0 : x->count);
    assert_int_equal(app.settled_deliveries, x->pre_settled ? x->count : 0);
    assert_int_equal(app.settled_back, x->rcv_second ? x->count : 0);
    finish(&app, &owner);
}

static void test_proton_client(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(exchanges); i++) {
        print_message("%s\n", exchanges[i].name);
        exchange_with_client(&exchanges[i], SIZE_MAX);
    }
}

static void test_proton_client_in_pieces(void **state)
{
    (void)state;
    exchange x = exchanges[0];
    x.count = 40;
    for (size_t piece = 1; piece < 70; piece += 6) {
        exchange_with_client(&x, piece);
    }
}

static void begin_client(nv_manual_clock *clock)
{
    nv_manual_clock_init(clock, 0);
    amqp_owner_server(&owner, &clock->clock, NULL);
    proton_init(&app, false);
    proton_open(&app);
}

/* conformance: amqp.md 53 */
static void test_drain(void **state)
{
    (void)state;
    nv_manual_clock clock;
    begin_client(&clock);
    app.credit = 0;
    app.top_up = 0;
    pn_link_t *in = proton_attach(&app, "in", false);
    run(&app, &owner, SIZE_MAX);
    owner.to_send = 7;
    pn_link_drain(in, 10);
    run(&app, &owner, SIZE_MAX);
    assert_int_equal(app.deliveries, 7);
    assert_false(pn_link_draining(in));
    assert_int_equal(pn_link_credit(in), 0);
    assert_int_equal(pn_link_drained(in), 3);
    pn_link_flow(in, 2); /* and it goes on */
    owner.to_send = 5;
    run(&app, &owner, SIZE_MAX);
    assert_int_equal(app.deliveries, 9);
    pn_link_set_drain(in, true); /* nothing is left of the credit */
    run(&app, &owner, SIZE_MAX);
    assert_int_equal(app.deliveries, 9);
    finish(&app, &owner);
}

/* What Proton drains of us as the sender's side: our receiver never asks, so its credit stays as given. */
static void test_refusal(void **state)
{
    (void)state;
    nv_manual_clock clock;
    begin_client(&clock);
    owner.refuse = NV_AMQP_ERR_NOT_FOUND;
    (void)proton_attach(&app, "in", false);
    (void)proton_attach(&app, "out", true);
    run(&app, &owner, SIZE_MAX);
    assert_string_equal(app.error, "amqp:not-found");
    assert_int_equal(pn_terminus_get_type(pn_link_remote_source(app.receiver)), PN_UNSPECIFIED);
    app.error[0] = '\0';
    owner.refuse = NV_AMQP_ERR_NONE;
    pn_link_free(app.receiver);
    (void)proton_attach(&app, "in", false); /* the same name again */
    run(&app, &owner, SIZE_MAX);
    assert_int_equal(owner.link_count, 1);
    finish(&app, &owner);
}

static void test_rejected_by_us(void **state)
{
    (void)state;
    nv_manual_clock clock;
    begin_client(&clock);
    owner.keep = true;
    (void)proton_attach(&app, "out", true);
    app.to_send = 6;
    app.send_size = 10;
    run(&app, &owner, SIZE_MAX);
    assert_int_equal(owner.kept, 6);
    nv_amqp_outcome rejected = {
        .kind = NV_AMQP_OUT_REJECTED,
        .problem = {.condition = NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED, .description = nv_span_str("quota")}};
    nv_amqp_outcome released = {.kind = NV_AMQP_OUT_RELEASED};
    nv_amqp_outcome modified = {.kind = NV_AMQP_OUT_MODIFIED, .delivery_failed = true};
    nv_amqp_link_settle(owner.links[0], owner.ids[5], &modified);
    nv_amqp_link_settle(owner.links[0], owner.ids[3], &rejected);
    nv_amqp_link_settle(owner.links[0], owner.ids[1], &released);
    nv_amqp_link_settle_oldest(owner.links[0], 10, &(nv_amqp_outcome){.kind = NV_AMQP_OUT_ACCEPTED});
    run(&app, &owner, SIZE_MAX);
    assert_int_equal(app.outcomes[PN_ACCEPTED], 3);
    assert_int_equal(app.outcomes[PN_REJECTED], 1);
    assert_int_equal(app.outcomes[PN_RELEASED], 1);
    assert_int_equal(app.outcomes[PN_MODIFIED], 1);
    assert_string_equal(app.error, "amqp:resource-limit-exceeded");
    app.error[0] = '\0';
    finish(&app, &owner);
}

static void test_wrong_password(void **state)
{
    (void)state;
    nv_manual_clock clock;
    nv_manual_clock_init(&clock, 0);
    amqp_owner_server(&owner, &clock.clock, NULL);
    owner.sasl_code = 1;
    proton_init(&app, false);
    pn_connection_set_user(app.driver.connection, "user");
    pn_connection_set_password(app.driver.connection, "wrong");
    pn_sasl_allowed_mechs(pn_sasl(app.driver.transport), "PLAIN");
    pn_sasl_set_allow_insecure_mechs(pn_sasl(app.driver.transport), true);
    proton_open(&app);
    run(&app, &owner, SIZE_MAX);
    pn_connection_driver_read_close(&app.driver);
    dispatch(&app);
    print_message("%s\n", app.error);
    assert_non_null(strstr(app.error, "amqp:unauthorized-access"));
    pn_connection_driver_destroy(&app.driver);
    amqp_owner_deinit(&owner);
}

/* Heartbeats of ours keep Proton content for as long as nothing else is said. */
static void test_idle(void **state)
{
    (void)state;
    nv_manual_clock clock;
    nv_manual_clock_init(&clock, 0);
    amqp_owner_server(&owner, &clock.clock, NULL);
    proton_init(&app, false);
    pn_transport_set_idle_timeout(app.driver.transport, 20000); /* it asks for 10 s of it */
    proton_open(&app);
    run(&app, &owner, SIZE_MAX);
    for (int64_t ms = 0; ms < 1800000; ms += 500) {
        nv_manual_clock_advance(&clock, 500 * NV_US_PER_MS);
        (void)pn_transport_tick(app.driver.transport, 1000 + ms);
        run(&app, &owner, SIZE_MAX);
    }
    assert_string_equal(app.error, "");
    assert_false(owner.ended);
    finish(&app, &owner);
}

/* ---- Proton as the server ---------------------------------------------------------------------------------------- */

static void exchange_with_server(const exchange *x)
{
    nv_manual_clock clock;
    nv_manual_clock_init(&clock, 0);
    nv_amqp_config config = amqp_client_config;
    config.sasl_mechanisms = x->mechanism ? "ANONYMOUS" : NULL;
    config.max_frame_size = x->our_frame;
    amqp_owner_client(&owner, &clock.clock, &config);
    owner.quiet = true;
    owner.send_settled = x->pre_settled;
    proton_init(&app, true);
    app.pre_settled = x->pre_settled;
    app.answer = x->answer;
    app.to_send = x->count;
    app.send_size = x->size;
    pn_transport_set_max_frame(app.driver.transport, x->proton_frame);
    run(&app, &owner, SIZE_MAX);
    assert_true(owner.opened);
    assert_int_equal(owner.conn.sasl_done, x->mechanism != NULL);
    nv_amqp_link *out = amqp_owner_attach(&owner, "out", true, 0);
    assert_non_null(amqp_owner_attach(&owner, "in", false, 64));
    owner.to_send = x->count;
    owner.send_size = x->size;
    (void)nv_amqp_link_room(out);
    run(&app, &owner, SIZE_MAX);
    assert_string_equal(app.error, "");
    assert_int_equal(owner.deliveries, x->count);
    assert_int_equal(app.deliveries, x->count);
    assert_true(owner.body_sum == sum_of(x->count, x->size) && app.body_sum == owner.body_sum);
    assert_int_equal(app.outcomes[PN_ACCEPTED], x->pre_settled ? 0 : x->count);
    assert_int_equal(owner.outcomes[x->expected], x->pre_settled ? 0 : x->count);
    nv_amqp_link_detach(out, NV_AMQP_ERR_NONE, NULL);
    nv_amqp_session_end(owner.session, NV_AMQP_ERR_NONE, NULL);
    nv_amqp_conn_close(&owner.conn, NV_AMQP_ERR_NONE, NULL);
    run(&app, &owner, SIZE_MAX);
    assert_true(app.remote_closed && owner.ended);
    finish(&app, &owner);
}

static void test_proton_server(void **state)
{
    (void)state;
    for (size_t i = 0; i < NV_COUNT_OF(exchanges); i++) {
        if (!exchanges[i].rcv_second) {
            print_message("%s\n", exchanges[i].name);
            exchange_with_server(&exchanges[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_proton_client),  cmocka_unit_test(test_proton_client_in_pieces),
        cmocka_unit_test(test_drain),          cmocka_unit_test(test_refusal),
        cmocka_unit_test(test_rejected_by_us), cmocka_unit_test(test_wrong_password),
        cmocka_unit_test(test_idle),           cmocka_unit_test(test_proton_server),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
