/**
 * The measuring helper over the real disk. Without arguments a short run that must succeed; with "full" it prints the
 * figures: log_bench_test full DIR
 */
#include "store/log_bench.h"

#include "base/attrs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static void print(const char *name, const nv_log_bench_options *o)
{
    nv_log_bench r = {.mode = ""};
    nv_buf why;
    nv_buf_init(&why, 1024);
    nv_err err = nv_bench_log(nv_disk_posix(), o, &r, &why);
    nv_buf_deinit(&why);
    printf("%-22s %-9s %s: add %.0f ns, %.0f/s, %.2f CPU s/M, commit p50 %lld p99 %lld max %lld us, read %.2f then "
           "%.2f M/s, %.1f B each, packed %.1f B\n",
           name, r.mode, nv_err_name(err), r.add_ns, r.append_per_s, r.append_cpu_s, (long long)r.commit.p50_us,
           (long long)r.commit.p99_us, (long long)r.commit.max_us, r.read_per_s / 1e6, r.read_again_per_s / 1e6,
           r.bytes_per_record, r.packed_bytes_per_record);
}

static int full(const char *dir)
{
    nv_disk_bench disk;
    nv_err err = nv_bench_disk(nv_disk_posix(), dir, 2000, &disk);
    for (size_t i = 0; err == NV_OK && i < NV_DISK_BENCH_ROWS; i++) {
        const nv_disk_bench_row *r = &disk.rows[i];
        printf("disk %s %zu B: %.0f/s %.0f MB/s p50 %lld p99 %lld max %lld us\n", disk.mode, r->bytes, r->writes_per_s,
               r->mb_per_s, (long long)r->latency.p50_us, (long long)r->latency.p99_us, (long long)r->latency.max_us);
    }
    char path[400];
    (void)snprintf(path, sizeof(path), "%s/log", dir);
    static const struct {
        const char *name;
        nv_log_bench_options o;
    } rows[] = {
        {"commit 1x1", {.records = 10000, .body_bytes = 256, .batch_records = 1, .run_records = 1, .in_flight = 1}},
        {"commit 1000 r16 x1",
         {.records = 2000000, .body_bytes = 256, .batch_records = 1000, .run_records = 16, .in_flight = 1}},
        {"commit 1000 r16 x4",
         {.records = 4000000, .body_bytes = 256, .batch_records = 1000, .run_records = 16, .in_flight = 4}},
        {"commit 1000 r16 x4 foll",
         {.records = 4000000,
          .body_bytes = 256,
          .batch_records = 1000,
          .run_records = 16,
          .in_flight = 4,
          .follow = true}},
        {"commit 1x1 foll",
         {.records = 10000, .body_bytes = 256, .batch_records = 1, .run_records = 1, .in_flight = 1, .follow = true}},
        {"os 1x1",
         {.records = 200000,
          .body_bytes = 256,
          .batch_records = 1,
          .run_records = 1,
          .in_flight = 1,
          .durability = NV_DURABILITY_OS}},
        {"os 1000 r16 x1",
         {.records = 4000000,
          .body_bytes = 256,
          .batch_records = 1000,
          .run_records = 16,
          .in_flight = 1,
          .durability = NV_DURABILITY_OS}},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_log_bench_options o = rows[i].o;
        o.dir = path;
        print(rows[i].name, &o);
    }
    return 0;
}

static void short_run(void **state)
{
    (void)state;
    char dir[] = "log-bench-XXXXXX";
    assert_non_null(mkdtemp(dir));
    for (int i = 0; i < 4; i++) {
        nv_log_bench_options o = {.dir = dir,
                                  .durability = i % 2 ? NV_DURABILITY_OS : NV_DURABILITY_COMMIT,
                                  .follow = i / 2,
                                  .records = 20000,
                                  .body_bytes = 256,
                                  .batch_records = 500,
                                  .run_records = 16,
                                  .in_flight = 2};
        nv_log_bench out;
        nv_buf why;
        nv_buf_init(&why, 1024);
        assert_int_equal(nv_bench_log(nv_disk_posix(), &o, &out, &why), NV_OK);
        nv_buf_deinit(&why);
        assert_true(out.append_per_s > 0 && out.read_per_s > 0);
        assert_true(out.packed_bytes_per_record > 256 && out.packed_bytes_per_record < 290);
    }
    nv_disk_bench disk;
    assert_int_equal(nv_bench_disk(nv_disk_posix(), dir, 5, &disk), NV_OK);
    assert_true(disk.rows[0].bytes == 4096 && disk.rows[0].latency.p50_us > 0);
    assert_int_equal(rmdir(dir), 0);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "full") == 0) {
        return full(argv[2]);
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(short_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
