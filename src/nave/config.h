/**
 * The configuration: an immutable snapshot made of the defaults, a YAML file, `NAVE_SECTION_NAME` variables and the
 * command line, later ones winning. Rows and checks: nave/options.h.
 */
#ifndef NV_NAVE_CONFIG_H
#define NV_NAVE_CONFIG_H

#include "base/buf.h"
#include "nave/options.h"

#include <stdio.h>

typedef struct nv_text_list {
    char **items; /* owned */
    size_t count;
} nv_text_list;

typedef enum nv_option_type {
    NV_OPTION_INT,
    NV_OPTION_BOOL,
    NV_OPTION_CHOICE,
    NV_OPTION_TEXT,
    NV_OPTION_LIST
} nv_option_type;

/* How each type stands in nv_config. */
typedef int64_t nv_option_value_INT;
typedef bool nv_option_value_BOOL;
typedef int nv_option_value_CHOICE; /* index into the choices */
typedef char *nv_option_value_TEXT; /* owned, never NULL */
typedef nv_text_list nv_option_value_LIST;

/** Members are named section_name. */
typedef struct nv_config {
#define X(section, name, type, ...) nv_option_value_##type section##_##name;
    NV_OPTION_TABLE(X)
#undef X
    nv_limits limits; /* of the profile, with the overrides */
} nv_config;

/** A row of the table at run time. */
typedef struct nv_option {
    const char *section;
    const char *name;
    nv_option_type type;
    int64_t min;
    int64_t max;
    const char *fallback; /* default as text; NULL: that of the limits profile */
    const char *unit;
    bool reloadable;
    const char *choices; /* "a|b" */
    const char *help;
    size_t offset; /* in nv_config */
} nv_option;

extern const nv_option nv_options[];
extern const size_t nv_option_count;

/** An override from the command line: "section.name" and its value as text. */
typedef struct nv_override {
    const char *name;
    const char *value;
} nv_override;

typedef struct nv_config_source {
    const char *file;         /* NULL: none */
    char *const *environment; /* "NAME=value", NULL-terminated; NULL: none */
    const nv_override *overrides;
    size_t override_count;
    const char *const *host_names; /* put in front of net.host_names */
    size_t host_name_count;
} nv_config_source;

#define NV_CONFIG_MAX_BYTES (1u << 20)

/**
 * Load and check. Blocks on the file.
 * @param why  one sentence: where (file and line, variable, or argument), cause, cure. Also set on success when a
 *             NAVE_ variable of a known section names no option: a warning
 * @return NV_E_INVALID, or the error of the file (NV_E_NOT_FOUND, NV_E_PERMISSION, NV_E_IO)
 */
NV_NODISCARD nv_err nv_config_load(nv_config **out, const nv_config_source *source, nv_buf *why);
/** NULL is fine. */
void nv_config_free(nv_config *config);

/** Compare two snapshots: @p changed is called for each row that differs. */
void nv_config_compare(const nv_config *a, const nv_config *b, void (*changed)(void *arg, const nv_option *option),
                       void *arg);

/** The row "section.name", or NULL. */
const nv_option *nv_option_find(nv_span section, nv_span name);
/** The environment variable of a row, in @p out. */
void nv_option_variable(const nv_option *option, char out[64]);
/** The value as text, as it would stand in YAML. @return false when it did not fit */
bool nv_option_text(const nv_config *config, const nv_option *option, nv_buf *out);

/** docs/configuration.md, in Markdown. */
void nv_config_write_reference(FILE *out);
/** Options that differ from their defaults, one "section.name: value" a line. */
void nv_config_write_changes(FILE *out, const nv_config *config);

/* ---- between config.c and config_yaml.c -------------------------------------------------------------------- */

/** Set one option from text. @param where  for the message, e.g. "nave.yaml line 3" or "NAVE_MQTT_PORT" */
NV_NODISCARD nv_err nv_config_set(nv_config *config, const nv_option *option, const char *const *values, size_t count,
                                  const char *where, nv_buf *why);
/** Apply a YAML document. @param file  its name, for messages */
NV_NODISCARD nv_err nv_config_apply_yaml(nv_config *config, nv_span text, const char *file, nv_buf *why);

#endif
