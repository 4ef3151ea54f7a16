#include "nave/bench/histogram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static const uint64_t edges[] = {0,
                                 1,
                                 127,
                                 128,
                                 129,
                                 255,
                                 256,
                                 1000,
                                 4095,
                                 4096,
                                 65535,
                                 1u << 20,
                                 UINT64_C(1) << 40,
                                 UINT64_MAX / 2,
                                 UINT64_MAX - 1,
                                 UINT64_MAX};

static void cells_cover_all_values_in_order(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(edges) / sizeof(edges[0]); i++) {
        unsigned cell = nv_histogram_cell(edges[i]);
        assert_true(cell < NV_HISTOGRAM_CELLS);
        assert_true(nv_histogram_cell_top(cell) >= edges[i]);
        assert_true(nv_histogram_cell_top(cell) - edges[i] <= edges[i] / 64);
    }
    for (unsigned cell = 0; cell + 1 < NV_HISTOGRAM_CELLS; cell++) {
        assert_int_equal(nv_histogram_cell(nv_histogram_cell_top(cell)), cell);
        assert_int_equal(nv_histogram_cell(nv_histogram_cell_top(cell) + 1), cell + 1);
    }
    assert_true(nv_histogram_cell_top(NV_HISTOGRAM_CELLS - 1) == UINT64_MAX);
}

static void percentiles_are_those_of_a_sorted_list(void **state)
{
    nv_histogram *h = *state;
    nv_histogram_clear(h);
    assert_int_equal(nv_histogram_at(h, 0.5), 0);
    for (uint64_t value = 100; value >= 1; value--) {
        nv_histogram_add(h, value, 1);
    }
    assert_int_equal(nv_histogram_at(h, 0.5), 50);
    assert_int_equal(nv_histogram_at(h, 0.99), 99);
    assert_int_equal(nv_histogram_at(h, 0.999), 100);
    assert_int_equal(nv_histogram_at(h, 0), 1);
    assert_int_equal(nv_histogram_at(h, 1), 100);
    nv_histogram_add(h, 5, 900);
    assert_int_equal(nv_histogram_at(h, 0.5), 5);
    assert_int_equal(h->total, 1000);
}

static void the_maximum_is_exact_and_bounds_every_percentile(void **state)
{
    nv_histogram *h = *state;
    nv_histogram_clear(h);
    nv_histogram_add(h, 1000003, 1);
    assert_int_equal(h->max, 1000003);
    assert_int_equal(nv_histogram_at(h, 0.5), 1000003);
}

static int setup(void **state)
{
    *state = calloc(1, sizeof(nv_histogram));
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cells_cover_all_values_in_order),
        cmocka_unit_test(percentiles_are_those_of_a_sorted_list),
        cmocka_unit_test(the_maximum_is_exact_and_bounds_every_percentile),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
