/** Command line options of the bench subcommands, from tables of rows. */
#ifndef NV_NAVE_BENCH_OPTIONS_H
#define NV_NAVE_BENCH_OPTIONS_H

#include "base/attrs.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum nv_bench_opt_kind {
    NV_BENCH_OPT_FLAG,   /* bool, takes no value */
    NV_BENCH_OPT_TEXT,   /* const char *, borrowed from argv */
    NV_BENCH_OPT_UINT,   /* uint64_t between min and max */
    NV_BENCH_OPT_NUMBER, /* double between min and max */
    NV_BENCH_OPT_CHOICE, /* unsigned: index into choices, a list separated by '|' */
} nv_bench_opt_kind;

typedef struct nv_bench_opt {
    const char *name; /* "--window" */
    nv_bench_opt_kind kind;
    size_t offset; /* of the member in the options structure */
    uint64_t min;
    uint64_t max;
    const char *choices;
    const char *help;
} nv_bench_opt;

/** Rows, and those of another table behind them. Their offsets are in one and the same structure. */
typedef struct nv_bench_opts {
    const nv_bench_opt *rows;
    size_t count;
    const struct nv_bench_opts *more; /* or NULL */
} nv_bench_opts;

/**
 * Fill @p out from argv[first..]. Members keep their value when their option is absent.
 * @return false on an unknown option or a bad value, after one sentence on stderr
 */
NV_NODISCARD bool nv_bench_opts_parse(const nv_bench_opts *opts, void *out, int argc, char **argv, int first);
/** One line per option. */
void nv_bench_opts_print(const nv_bench_opts *opts, FILE *to);

#endif
