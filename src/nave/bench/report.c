#include "nave/bench/report.h"

#include <inttypes.h>
#include <math.h>

static void put_string(FILE *to, const char *text)
{
    fputc('"', to);
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (*at == '"' || *at == '\\') {
            fprintf(to, "\\%c", *at);
        } else if (*at < 0x20) {
            fprintf(to, "\\u%04x", *at);
        } else {
            fputc(*at, to);
        }
    }
    fputc('"', to);
}

static void put_name(nv_report *report, const char *name)
{
    if (!report->json) {
        fprintf(report->to, "%-30s ", name);
        return;
    }
    fputs(report->_comma ? ", " : "", report->to);
    put_string(report->to, name);
    fputs(": ", report->to);
    report->_comma = true;
}

static void put_end(nv_report *report)
{
    if (!report->json) {
        fputc('\n', report->to);
    }
}

void nv_report_begin(nv_report *report, FILE *to, bool json)
{
    *report = (nv_report){.to = to, .json = json};
    fputs(json ? "{" : "", to);
}

void nv_report_end(nv_report *report)
{
    fputs(report->json ? "}\n" : "", report->to);
    fflush(report->to);
}

void nv_report_int(nv_report *report, const char *name, int64_t value)
{
    put_name(report, name);
    fprintf(report->to, "%" PRId64, value);
    put_end(report);
}

void nv_report_real(nv_report *report, const char *name, double value, int decimals)
{
    put_name(report, name);
    if (isfinite(value)) {
        fprintf(report->to, "%.*f", decimals, value);
    } else {
        fputs(report->json ? "null" : "-", report->to);
    }
    put_end(report);
}

void nv_report_text(nv_report *report, const char *name, const char *value)
{
    put_name(report, name);
    if (report->json) {
        put_string(report->to, value);
    } else {
        fputs(value, report->to);
    }
    put_end(report);
}

void nv_report_bool(nv_report *report, const char *name, bool value)
{
    put_name(report, name);
    fputs(value ? "true" : "false", report->to);
    put_end(report);
}

void nv_report_open(nv_report *report, const char *name)
{
    put_name(report, name);
    fputs(report->json ? "{" : "", report->to);
    put_end(report);
    report->_comma = false;
}

void nv_report_close(nv_report *report)
{
    fputs(report->json ? "}" : "", report->to);
    report->_comma = true;
}
