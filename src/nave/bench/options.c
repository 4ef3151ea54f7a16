#include "nave/bench/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const nv_bench_opt *find(const nv_bench_opts *opts, const char *name)
{
    for (; opts; opts = opts->more) {
        for (size_t i = 0; i < opts->count; i++) {
            if (strcmp(opts->rows[i].name, name) == 0) {
                return &opts->rows[i];
            }
        }
    }
    return NULL;
}

static bool parse_uint(const nv_bench_opt *opt, const char *text, uint64_t *out)
{
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || *end || text[0] == '-' || value < opt->min || value > opt->max) {
        fprintf(stderr, "nave bench: %s takes a number from %llu to %llu, not \"%s\"\n", opt->name,
                (unsigned long long)opt->min, (unsigned long long)opt->max, text);
        return false;
    }
    *out = value;
    return true;
}

static bool parse_number(const nv_bench_opt *opt, const char *text, double *out)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value < (double)opt->min || value > (double)opt->max) {
        fprintf(stderr, "nave bench: %s takes a number from %llu to %llu, not \"%s\"\n", opt->name,
                (unsigned long long)opt->min, (unsigned long long)opt->max, text);
        return false;
    }
    *out = value;
    return true;
}

static bool parse_choice(const nv_bench_opt *opt, const char *text, unsigned *out)
{
    size_t len = strlen(text);
    unsigned index = 0;
    for (const char *at = opt->choices; at; index++) {
        const char *bar = strchr(at, '|');
        size_t n = bar ? (size_t)(bar - at) : strlen(at);
        if (n == len && memcmp(at, text, n) == 0) {
            *out = index;
            return true;
        }
        at = bar ? bar + 1 : NULL;
    }
    fprintf(stderr, "nave bench: %s takes %s, not \"%s\"\n", opt->name, opt->choices, text);
    return false;
}

static bool parse_value(const nv_bench_opt *opt, void *member, const char *text)
{
    switch (opt->kind) {
    case NV_BENCH_OPT_FLAG:
        *(bool *)member = true;
        return true;
    case NV_BENCH_OPT_TEXT:
        *(const char **)member = text;
        return true;
    case NV_BENCH_OPT_UINT:
        return parse_uint(opt, text, member);
    case NV_BENCH_OPT_NUMBER:
        return parse_number(opt, text, member);
    case NV_BENCH_OPT_CHOICE:
        return parse_choice(opt, text, member);
    }
    return false;
}

bool nv_bench_opts_parse(const nv_bench_opts *opts, void *out, int argc, char **argv, int first)
{
    for (int i = first; i < argc; i++) {
        const nv_bench_opt *opt = find(opts, argv[i]);
        if (!opt) {
            fprintf(stderr, "nave bench: unknown option \"%s\"\n", argv[i]);
            return false;
        }
        const char *value = NULL;
        if (opt->kind != NV_BENCH_OPT_FLAG) {
            if (i + 1 >= argc) {
                fprintf(stderr, "nave bench: %s needs a value\n", opt->name);
                return false;
            }
            value = argv[++i];
        }
        if (!parse_value(opt, (char *)out + opt->offset, value)) {
            return false;
        }
    }
    return true;
}

void nv_bench_opts_print(const nv_bench_opts *opts, FILE *to)
{
    for (; opts; opts = opts->more) {
        for (size_t i = 0; i < opts->count; i++) {
            const nv_bench_opt *opt = &opts->rows[i];
            fprintf(to, "  %-18s %s%s%s%s\n", opt->name, opt->help, opt->choices ? " (" : "",
                    opt->choices ? opt->choices : "", opt->choices ? ")" : "");
        }
    }
}
