#include "codec/duration.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_durations(void **state)
{
    (void)state;
    static const int64_t day = 86400 * NV_US_PER_S;
    const struct {
        const char *text;
        nv_err err;
        int64_t us;
    } rows[] = {
        {"90s", NV_OK, 90 * NV_US_PER_S},
        {"15m", NV_OK, 900 * NV_US_PER_S},
        {"48h", NV_OK, 2 * day},
        {"2d", NV_OK, 2 * day},
        {"1w", NV_OK, 7 * day},
        {"250ms", NV_OK, 250000},
        {"0s", NV_OK, 0},
        {"1.5s", NV_OK, 1500000},
        {"0.0000019s", NV_OK, 1},
        {"1h30m", NV_OK, 5400 * NV_US_PER_S},
        {"1d2h3m4s5ms", NV_OK, day + 7384005000},
        {"PT48H", NV_OK, 2 * day},
        {"P2D", NV_OK, 2 * day},
        {"P1W", NV_OK, 7 * day},
        {"P2DT12H", NV_OK, 2 * day + day / 2},
        {"PT1H2M3.5S", NV_OK, 3723500000},
        {"PT0,25S", NV_OK, 250000},
        {"PT0S", NV_OK, 0},
        {"", NV_E_SYNTAX, 0},
        {"h", NV_E_SYNTAX, 0},
        {"5", NV_E_SYNTAX, 0},
        {"-5s", NV_E_SYNTAX, 0},
        {"5 s", NV_E_SYNTAX, 0},
        {" 5s", NV_E_SYNTAX, 0},
        {"5s ", NV_E_SYNTAX, 0},
        {"5S", NV_E_SYNTAX, 0},
        {"5y", NV_E_SYNTAX, 0},
        {"1m1h", NV_E_SYNTAX, 0},
        {"1h1h", NV_E_SYNTAX, 0},
        {"1.5h", NV_E_SYNTAX, 0},
        {"1.s", NV_E_SYNTAX, 0},
        {".5s", NV_E_SYNTAX, 0},
        {"1hPT1H", NV_E_SYNTAX, 0},
        {"P", NV_E_SYNTAX, 0},
        {"PT", NV_E_SYNTAX, 0},
        {"P1H", NV_E_SYNTAX, 0},
        {"PT1D", NV_E_SYNTAX, 0},
        {"P1M", NV_E_SYNTAX, 0},
        {"P1Y", NV_E_SYNTAX, 0},
        {"P1DT", NV_E_SYNTAX, 0},
        {"pt1h", NV_E_SYNTAX, 0},
        {"PT1h", NV_E_SYNTAX, 0},
        {"106751991d", NV_OK, 106751991 * day},
        {"106751992d", NV_E_RANGE, 0},
        {"99999999999999999999s", NV_E_RANGE, 0},
        {"106751991d24h", NV_E_RANGE, 0},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        int64_t us = -1;
        nv_err err = nv_duration_parse(nv_span_str(rows[i].text), &us);
        if (err != rows[i].err || (err == NV_OK && us != rows[i].us)) {
            fail_msg("%s: %s, %lld", rows[i].text, nv_err_name(err), (long long)us);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_durations)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
