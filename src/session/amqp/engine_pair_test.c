/** Both halves of the engine against each other in memory. */
#include "support/amqp_pair.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

typedef struct pair {
    nv_manual_clock clock;
    amqp_owner server;
    amqp_owner client;
} pair;

static void open_pair(pair *p, const nv_amqp_config *server, const nv_amqp_config *client)
{
    nv_manual_clock_init(&p->clock, 0);
    amqp_owner_server(&p->server, &p->clock.clock, server);
    amqp_owner_client(&p->client, &p->clock.clock, client);
}

static void run(pair *p)
{
    amqp_pair_run(&p->client.end, &p->server.end);
}

static void close_pair(pair *p)
{
    amqp_owner_deinit(&p->client);
    amqp_owner_deinit(&p->server);
}

static void test_first(void **state)
{
    (void)state;
    static pair p;
    open_pair(&p, NULL, NULL);
    run(&p);
    assert_true(p.client.opened && p.server.opened);
    nv_amqp_link *out = amqp_owner_attach(&p.client, "events", true, 0);
    nv_amqp_link *in = amqp_owner_attach(&p.client, "devicebound", false, 10);
    assert_non_null(out);
    assert_non_null(in);
    run(&p);
    assert_int_equal(out->credit, 100);
    p.client.to_send = 3;
    amqp_owner_send(&p.client, out);
    p.server.to_send = 2;
    amqp_owner_send(&p.server, p.server.links[1]);
    run(&p);
    printf("%s\n--\n%s\n", amqp_owner_log(&p.client), amqp_owner_log(&p.server));
    assert_int_equal(p.server.deliveries, 3);
    assert_int_equal(p.client.deliveries, 2);
    assert_int_equal(p.client.outcomes[NV_AMQP_OUT_ACCEPTED], 3);
    assert_int_equal(p.server.outcomes[NV_AMQP_OUT_ACCEPTED], 2);
    nv_amqp_link_detach(out, NV_AMQP_ERR_NONE, NULL);
    nv_amqp_session_end(p.client.session, NV_AMQP_ERR_NONE, NULL);
    run(&p);
    nv_amqp_conn_close(&p.client.conn, NV_AMQP_ERR_NONE, NULL);
    run(&p);
    printf("%s\n--\n%s\n", amqp_owner_log(&p.client), amqp_owner_log(&p.server));
    assert_true(p.client.ended && p.server.ended);
    close_pair(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_first)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
