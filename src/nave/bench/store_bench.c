#include "nave/bench/store_bench.h"

#include "base/err.h"
#include "nave/bench/options.h"
#include "nave/bench/report.h"
#include "store/log_bench.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WHY_BYTES 1024u

typedef struct store_options {
    const char *dir;
    uint64_t writes;
    unsigned durability; /* 0 commit, 1 os */
    uint64_t records;
    uint64_t size;
    uint64_t batch;
    uint64_t run;
    uint64_t in_flight;
    bool follow;
    unsigned json;
} store_options;

#define AT(member) offsetof(store_options, member)

static const nv_bench_opt disk_rows[] = {
    {"--dir", NV_BENCH_OPT_TEXT, AT(dir), 0, 0, NULL, "a folder on the disk in question; default: here"},
    {"--writes", NV_BENCH_OPT_UINT, AT(writes), 10, 1000000, NULL, "synced writes of each size; default 2000"},
    {"-o", NV_BENCH_OPT_CHOICE, AT(json), 0, 0, "table|json", "output"},
};
static const nv_bench_opts disk_opts = {disk_rows, NV_COUNT_OF(disk_rows), NULL};

static const nv_bench_opt log_rows[] = {
    {"--dir", NV_BENCH_OPT_TEXT, AT(dir), 0, 0, NULL, "a folder on the disk in question; default: here"},
    {"--durability", NV_BENCH_OPT_CHOICE, AT(durability), 0, 0, "commit|os", "when a record counts as stored"},
    {"--records", NV_BENCH_OPT_UINT, AT(records), 1, UINT64_C(1) << 32, NULL, "default 2000000"},
    {"--size", NV_BENCH_OPT_UINT, AT(size), 0, 262144, NULL, "body of a record in bytes; default 256"},
    {"--batch", NV_BENCH_OPT_UINT, AT(batch), 1, 100000, NULL, "records in a commit; default 1000"},
    {"--run", NV_BENCH_OPT_UINT, AT(run), 1, 100000, NULL, "consecutive records of one device; default 16"},
    {"--in-flight", NV_BENCH_OPT_UINT, AT(in_flight), 1, 16, NULL, "commits at the same time; default 2"},
    {"--follow", NV_BENCH_OPT_FLAG, AT(follow), 0, 0, NULL, "with a reader that follows"},
    {"-o", NV_BENCH_OPT_CHOICE, AT(json), 0, 0, "table|json", "output"},
};
static const nv_bench_opts log_opts = {log_rows, NV_COUNT_OF(log_rows), NULL};

void nv_bench_disk_usage(FILE *to)
{
    fprintf(to, "usage: nave bench disk [options]\n");
    nv_bench_opts_print(&disk_opts, to);
}

void nv_bench_log_usage(FILE *to)
{
    fprintf(to, "usage: nave bench log [options]\n");
    nv_bench_opts_print(&log_opts, to);
}

static store_options defaults(void)
{
    return (store_options){
        .dir = ".", .writes = 2000, .records = 2000000, .size = 256, .batch = 1000, .run = 16, .in_flight = 2};
}

static void report_latency(nv_report *report, const char *prefix, const nv_bench_latency *latency)
{
    char name[64];
    (void)snprintf(name, sizeof(name), "%s_p50_us", prefix);
    nv_report_int(report, name, latency->p50_us);
    (void)snprintf(name, sizeof(name), "%s_p99_us", prefix);
    nv_report_int(report, name, latency->p99_us);
    (void)snprintf(name, sizeof(name), "%s_max_us", prefix);
    nv_report_int(report, name, latency->max_us);
}

static void report_disk(const store_options *o, const nv_disk_bench *found)
{
    nv_report report;
    nv_report_begin(&report, stdout, o->json == 1);
    nv_report_text(&report, "disk_mode", found->mode);
    for (size_t i = 0; i < NV_DISK_BENCH_ROWS; i++) {
        const nv_disk_bench_row *row = &found->rows[i];
        char prefix[32];
        char name[64];
        (void)snprintf(prefix, sizeof(prefix), "write_%zu", row->bytes);
        report_latency(&report, prefix, &row->latency);
        (void)snprintf(name, sizeof(name), "%s_per_s", prefix);
        nv_report_real(&report, name, row->writes_per_s, 1);
        (void)snprintf(name, sizeof(name), "%s_mbytes_per_s", prefix);
        nv_report_real(&report, name, row->mb_per_s, 1);
    }
    nv_report_end(&report);
}

int nv_bench_disk_main(int argc, char **argv)
{
    store_options o = defaults();
    nv_disk_bench found;
    if (!nv_bench_opts_parse(&disk_opts, &o, argc, argv, 2)) {
        fprintf(stderr, "see: nave bench disk --help\n");
        return 2;
    }
    nv_err err = nv_bench_disk(nv_disk_posix(), o.dir, (uint32_t)o.writes, &found);
    if (err != NV_OK) {
        fprintf(stderr, "nave bench: %s: %s\n", o.dir, nv_err_text(err));
        return 1;
    }
    report_disk(&o, &found);
    return 0;
}

static void report_log(const store_options *o, const nv_log_bench *found)
{
    nv_report report;
    nv_report_begin(&report, stdout, o->json == 1);
    nv_report_text(&report, "durability", o->durability ? "os" : "commit");
    nv_report_text(&report, "log_mode", found->mode);
    nv_report_int(&report, "records", (int64_t)o->records);
    nv_report_int(&report, "size_bytes", (int64_t)o->size);
    nv_report_int(&report, "batch_records", (int64_t)o->batch);
    nv_report_int(&report, "run_records", (int64_t)o->run);
    nv_report_int(&report, "in_flight", (int64_t)o->in_flight);
    nv_report_real(&report, "add_ns", found->add_ns, 1);
    nv_report_real(&report, "append_per_s", found->append_per_s, 1);
    nv_report_real(&report, "append_cpu_s_per_million", found->append_cpu_s, 3);
    report_latency(&report, "commit", &found->commit);
    nv_report_real(&report, "read_per_s", found->read_per_s, 1);
    nv_report_real(&report, "read_again_per_s", found->read_again_per_s, 1);
    nv_report_real(&report, "bytes_per_record", found->bytes_per_record, 1);
    nv_report_real(&report, "packed_bytes_per_record", found->packed_bytes_per_record, 1);
    nv_report_end(&report);
}

/* The log wants a folder of its own; it empties it, the folder itself is ours. */
static char *make_folder(const char *parent)
{
    size_t size = strlen(parent) + sizeof("/nave-bench-XXXXXX");
    char *path = malloc(size);
    if (path) {
        (void)snprintf(path, size, "%s/nave-bench-XXXXXX", parent);
    }
    if (!path || !mkdtemp(path)) {
        perror(parent);
        free(path);
        return NULL;
    }
    return path;
}

int nv_bench_log_main(int argc, char **argv)
{
    store_options o = defaults();
    if (!nv_bench_opts_parse(&log_opts, &o, argc, argv, 2)) {
        fprintf(stderr, "see: nave bench log --help\n");
        return 2;
    }
    char *folder = make_folder(o.dir);
    if (!folder) {
        return 1;
    }
    nv_log_bench_options options = {.dir = folder,
                                    .durability = o.durability ? NV_DURABILITY_OS : NV_DURABILITY_COMMIT,
                                    .records = o.records,
                                    .body_bytes = o.size,
                                    .batch_records = (uint32_t)o.batch,
                                    .run_records = (uint32_t)o.run,
                                    .in_flight = (uint32_t)o.in_flight,
                                    .follow = o.follow};
    nv_log_bench found;
    nv_buf why;
    nv_buf_init(&why, WHY_BYTES);
    nv_err err = nv_bench_log(nv_disk_posix(), &options, &found, &why);
    if (err == NV_OK) {
        report_log(&o, &found);
    } else {
        fprintf(stderr, "nave bench: %s: %s %.*s\n", o.dir, nv_err_text(err), NV_SPAN_ARG(nv_buf_span(&why)));
    }
    nv_buf_deinit(&why);
    (void)rmdir(folder);
    free(folder);
    return err == NV_OK ? 0 : 1;
}
