/** The log as its callers see it: what goes in comes out, by every start position, across restarts and failures. */
#include "store/log_testkit.h"

#include "base/alloc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static log_kit kit;

static int set_up(void **state)
{
    (void)state;
    kit_init(&kit, 42);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    kit_deinit(&kit);
    return 0;
}

static void first_steps(void **state)
{
    (void)state;
    kit_open(&kit);
    assert_int_equal(kit_count(&kit), 0);
    assert_int_equal(kit_append(&kit, 0, "dev1", "one"), NV_OK);
    nv_manual_clock_advance(&kit.clock, 1000);
    assert_int_equal(kit_append(&kit, 1, "dev2", "two"), NV_OK);
    assert_int_equal(kit_append(&kit, 0, "dev1", "three"), NV_OK);
    nv_log_read_options options = {.from = NV_LOG_FROM_BEGINNING};
    log_kit_records got = kit_read(&kit, &options);
    assert_int_equal(got.count, 3);
    assert_string_equal(got.rows[0].body, "one");
    assert_string_equal(got.rows[1].device, "dev2");
    assert_string_equal(got.rows[2].body, "three");
    assert_int_equal(got.rows[2].sequence, 1);
    assert_int_equal(got.rows[2].offset, 11);
    free(got.rows);
    kit_close(&kit);
    kit_open(&kit);
    assert_int_equal(kit_count(&kit), 3);
    assert_int_equal(kit_append(&kit, 0, "dev1", "four"), NV_OK);
    assert_int_equal(kit_count(&kit), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(first_steps, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
