/* Connections, credentials and devices of the hub's AMQP server. */
#include "session/amqp/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_device_by_plain(void **state)
{
    (void)state;
    amqp_rig *rig = amqp_rig_new(NULL);
    amqp_rig_add(rig, "d1", NULL);
    amqp_client *c = amqp_client_device(rig, "d1", NULL);
    amqp_client_link *l = amqp_client_attach(c, true, "/devices/d1/messages/events", NULL);
    assert_true(l->attached && !l->ended);
    assert_int_equal(l->link->credit > 0, true);
    amqp_client_send_body(l, "hello");
    amqp_client_free(c);
    amqp_rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device_by_plain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
