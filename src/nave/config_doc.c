#include "nave/config.h"

#include <inttypes.h>

static void write_default(FILE *out, const nv_option *option)
{
    if (option->fallback) {
        fprintf(out, "%s", option->fallback[0] ? option->fallback : "(empty)");
        return;
    }
#define X(member, unit, open, azure, beyond)                                                                           \
    if (strcmp(option->name, #member) == 0) {                                                                          \
        fprintf(out, "%lld / %lld", (long long)(open), (long long)(azure));                                            \
    }
    NV_LIMIT_TABLE(X)
#undef X
}

static void write_range(FILE *out, const nv_option *option)
{
    switch (option->type) {
    case NV_OPTION_INT:
        fprintf(out, "%" PRId64 " to %" PRId64 " %s", option->min, option->max, option->unit);
        break;
    case NV_OPTION_BOOL:
        fprintf(out, "true, false");
        break;
    case NV_OPTION_CHOICE:
        for (const char *c = option->choices; *c; c++) {
            if (*c == '|') {
                fputs(", ", out);
            } else {
                fputc(*c, out);
            }
        }
        break;
    case NV_OPTION_TEXT:
        fprintf(out, "%s", option->unit);
        break;
    case NV_OPTION_LIST:
        fprintf(out, "list of %" PRId64 " to %" PRId64 " %s", option->min, option->max, option->unit);
        break;
    }
}

static void write_section(FILE *out, const char *section, const char *purpose)
{
    fprintf(out, "\n## %s\n\n%s.\n\n| option | default%s | values | reload | |\n|---|---|---|---|---|\n", section,
            purpose, strcmp(section, "limits") == 0 ? " (open / azure)" : "");
    for (size_t i = 0; i < nv_option_count; i++) {
        const nv_option *option = &nv_options[i];
        if (strcmp(option->section, section) != 0) {
            continue;
        }
        fprintf(out, "| `%s.%s` | ", option->section, option->name);
        write_default(out, option);
        fputs(" | ", out);
        write_range(out, option);
        fprintf(out, " | %s | %s%s |\n", option->reloadable ? "yes" : "",
                option->fallback ? "" : "beyond: ", option->help);
    }
}

void nv_config_write_reference(FILE *out)
{
    fputs(
        "# Configuration\n\n"
        "Written by `nave up --print-options` from the table of options; do not edit.\n\n"
        "One YAML file, sections as below: `nave up --config FILE`, else `NAVE_CONFIG`, else `nave.yaml` in the data\n"
        "folder when there is one. A variable `NAVE_SECTION_NAME` overrides the file (`NAVE_MQTT_PORT=18883`, lists\n"
        "separated by commas), `nave up --set section.name=value` overrides both. `nave up --check` says whether all "
        "of\n"
        "it is right, without starting. SIGHUP reads it again and applies the options marked reload; the others wait\n"
        "for the next start, and the log names those that changed.\n\n"
        "```yaml\nnet:\n  host_names: [hub.example]\nmqtt:\n  plain_port: 1883\nlog:\n  durability: commit\n"
        "  retention_hours: 72\n```\n",
        out);
#define X(section, purpose) write_section(out, #section, purpose);
    NV_SECTION_TABLE(X)
#undef X
}

typedef struct changes {
    FILE *out;
    const nv_config *config;
} changes;

static void write_change(void *arg, const nv_option *option)
{
    changes *c = arg;
    nv_buf text;
    nv_buf_init(&text, 65536);
    if (nv_option_text(c->config, option, &text)) {
        fprintf(c->out, "%s.%s: %.*s\n", option->section, option->name, NV_SPAN_ARG(nv_buf_span(&text)));
    }
    nv_buf_deinit(&text);
}

void nv_config_write_changes(FILE *out, const nv_config *config)
{
    nv_config_source none = {0};
    nv_config *defaults = NULL;
    nv_buf why;
    nv_buf_init(&why, 4096);
    if (nv_config_load(&defaults, &none, &why) == NV_OK) {
        changes c = {out, config};
        nv_config_compare(config, defaults, write_change, &c);
        nv_config_free(defaults);
    }
    nv_buf_deinit(&why);
}
