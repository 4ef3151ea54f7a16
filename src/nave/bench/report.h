/** Ordered figures, printed as one JSON object or as a table of two columns. */
#ifndef NV_NAVE_BENCH_REPORT_H
#define NV_NAVE_BENCH_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct nv_report {
    FILE *to;
    bool json;
    bool _comma;
} nv_report;

void nv_report_begin(nv_report *report, FILE *to, bool json);
void nv_report_end(nv_report *report);
void nv_report_int(nv_report *report, const char *name, int64_t value);
/** @p decimals digits after the point; not a number becomes null. */
void nv_report_real(nv_report *report, const char *name, double value, int decimals);
void nv_report_text(nv_report *report, const char *name, const char *value);
void nv_report_bool(nv_report *report, const char *name, bool value);
/** Figures up to the matching close belong to the object @p name. One level only. */
void nv_report_open(nv_report *report, const char *name);
void nv_report_close(nv_report *report);

#endif
