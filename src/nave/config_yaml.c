/**
 * YAML by libcyaml, with a schema built from the option rows. Every scalar is read as text and then goes through the
 * same checks as environment and command line, so that all three say the same about a wrong value; libcyaml finds what
 * is not YAML, unknown keys and values of the wrong shape.
 */
#include "base/alloc.h"
#include "nave/config.h"

#include <cyaml/cyaml.h>
#include <stdarg.h>
#include <stdlib.h>

enum {
#define X(section, purpose) SECTION_##section,
    NV_SECTION_TABLE(X)
#undef X
        SECTION_COUNT
};

static const char *const section_names[SECTION_COUNT] = {
#define X(section, purpose) #section,
    NV_SECTION_TABLE(X)
#undef X
};

/* What libcyaml fills for one option: a string, or an array of strings. NULL: not in the file. */
typedef struct raw_value {
    void *data;
    uint32_t count; /* LIST */
} raw_value;

typedef struct schema {
    cyaml_schema_value_t entry; /* of a list */
    cyaml_schema_value_t top;
    cyaml_schema_field_t sections[SECTION_COUNT + 1];
    cyaml_schema_field_t *fields[SECTION_COUNT]; /* owned; ends with a NULL key */
} schema;

static cyaml_schema_field_t field_of(const nv_option *option, const cyaml_schema_value_t *entry)
{
    uint32_t index = (uint32_t)(option - nv_options);
    cyaml_schema_field_t field = {
        .key = option->name,
        .data_offset = (uint32_t)(index * sizeof(raw_value)),
    };
    if (option->type == NV_OPTION_LIST) {
        field.count_offset = (uint32_t)(index * sizeof(raw_value) + offsetof(raw_value, count));
        field.count_size = sizeof(uint32_t);
        field.value.type = CYAML_SEQUENCE;
        field.value.flags = (enum cyaml_flag)(CYAML_FLAG_OPTIONAL | CYAML_FLAG_POINTER);
        field.value.data_size = sizeof(char *);
        field.value.sequence.entry = entry;
        /* An empty list leaves nothing to see; where one is allowed the default is empty too. */
        field.value.sequence.min = (uint32_t)option->min;
        field.value.sequence.max = 256;
    } else {
        field.value.type = CYAML_STRING;
        field.value.flags = (enum cyaml_flag)(CYAML_FLAG_OPTIONAL | CYAML_FLAG_POINTER_NULL);
        field.value.data_size = sizeof(char);
        field.value.string.max = 65536;
    }
    return field;
}

static void schema_init(schema *s)
{
    memset(s, 0, sizeof(*s));
    s->entry.type = CYAML_STRING;
    s->entry.flags = CYAML_FLAG_POINTER;
    s->entry.data_size = sizeof(char);
    s->entry.string.max = 65536;
    for (size_t section = 0; section < SECTION_COUNT; section++) {
        s->fields[section] = nv_calloc(nv_option_count + 1, sizeof(cyaml_schema_field_t));
        size_t count = 0;
        for (size_t i = 0; i < nv_option_count; i++) {
            if (strcmp(nv_options[i].section, section_names[section]) == 0) {
                s->fields[section][count++] = field_of(&nv_options[i], &s->entry);
            }
        }
        cyaml_schema_field_t *field = &s->sections[section];
        field->key = section_names[section];
        field->data_offset = (uint32_t)(section * sizeof(void *));
        field->value.type = CYAML_MAPPING;
        field->value.flags = (enum cyaml_flag)(CYAML_FLAG_OPTIONAL | CYAML_FLAG_POINTER_NULL);
        /* Each section gets an array of all options; it uses its own. Simple, and small. */
        field->value.data_size = (uint32_t)(nv_option_count * sizeof(raw_value));
        field->value.mapping.fields = s->fields[section];
    }
    s->top.type = CYAML_MAPPING;
    s->top.flags = CYAML_FLAG_POINTER_NULL;
    s->top.data_size = SECTION_COUNT * sizeof(void *);
    s->top.mapping.fields = s->sections;
}

static void schema_deinit(schema *s)
{
    for (size_t section = 0; section < SECTION_COUNT; section++) {
        free(s->fields[section]);
    }
}

/* The first complaint says what, the first place of the backtrace where. */
typedef struct complaint {
    char what[200];
    char where[200];
} complaint;

static void trim_end(char *text)
{
    size_t len = strlen(text);
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '.')) {
        text[--len] = 0;
    }
}

static void take_complaint(cyaml_log_t level, void *ctx, const char *fmt, va_list args)
    __attribute__((format(printf, 3, 0)));
static void take_complaint(cyaml_log_t level, void *ctx, const char *fmt, va_list args)
{
    complaint *c = ctx;
    char line[200];
    (void)level;
    (void)vsnprintf(line, sizeof(line), fmt, args);
    trim_end(line);
    if (strncmp(line, "  in ", 5) == 0) {
        if (!c->where[0] || strncmp(c->where, "in sequence", 11) == 0) { /* the key says more than the entry */
            (void)snprintf(c->where, sizeof(c->where), "%s", line + 2);
        }
    } else if (!c->what[0] && strncmp(line, "Load: ", 6) == 0) {
        (void)snprintf(c->what, sizeof(c->what), "%s", line + 6);
    }
}

static nv_err complain(cyaml_err_t err, const complaint *c, const char *file, nv_buf *why)
{
    const char *what = c->what[0] ? c->what : cyaml_strerror(err);
    nv_err ignored = nv_buf_printf(why, "%s: %s%s%s; `nave up --print-options` shows what may stand there", file, what,
                                   c->where[0] ? " " : "", c->where);
    (void)ignored;
    return err == CYAML_ERR_OOM ? NV_E_NO_MEMORY : NV_E_INVALID;
}

/* Line of "name:" below "section:", for messages about values that YAML allows and we do not. 0: written otherwise. */
static unsigned line_of(nv_span text, const nv_option *option)
{
    unsigned line = 0;
    bool inside = false;
    while (text.len > 0) {
        size_t len = nv_span_find(text, '\n');
        nv_span row = nv_span_first(text, len);
        text = nv_span_skip(text, len + 1);
        line++;
        size_t indent = 0;
        while (indent < row.len && row.ptr[indent] == ' ') {
            indent++;
        }
        nv_span key = nv_span_first(nv_span_skip(row, indent), nv_span_find(nv_span_skip(row, indent), ':'));
        if (indent == 0 && row.len > 0 && row.ptr[0] != '#') {
            inside = nv_span_eq_str(key, option->section);
        } else if (inside && indent > 0 && nv_span_eq_str(key, option->name)) {
            return line;
        }
    }
    return 0;
}

static nv_err apply_value(nv_config *config, const nv_option *option, const raw_value *raw, nv_span text,
                          const char *file, nv_buf *why)
{
    unsigned line = line_of(text, option);
    char where[4200];
    if (line > 0) {
        (void)snprintf(where, sizeof(where), "%s line %u", file, line);
    } else {
        (void)snprintf(where, sizeof(where), "%s", file);
    }
    if (option->type == NV_OPTION_LIST) {
        return nv_config_set(config, option, raw->data, raw->count, where, why);
    }
    const char *value = raw->data;
    return nv_config_set(config, option, &value, 1, where, why);
}

static nv_err apply_loaded(nv_config *config, raw_value *const *sections, nv_span text, const char *file, nv_buf *why)
{
    nv_err err = NV_OK;
    for (size_t section = 0; section < SECTION_COUNT; section++) {
        for (size_t i = 0; sections[section] && err == NV_OK && i < nv_option_count; i++) {
            if (sections[section][i].data) {
                err = apply_value(config, &nv_options[i], &sections[section][i], text, file, why);
            }
        }
    }
    return err;
}

/* libcyaml wants a document; a file of comments has none. */
static bool is_blank(nv_span text)
{
    while (text.len > 0) {
        size_t len = nv_span_find(text, '\n');
        nv_span row = nv_span_first(text, len);
        text = nv_span_skip(text, len + 1);
        size_t i = 0;
        while (i < row.len && (row.ptr[i] == ' ' || row.ptr[i] == '\t' || row.ptr[i] == '\r')) {
            i++;
        }
        if (i < row.len && row.ptr[i] != '#') {
            return false;
        }
    }
    return true;
}

nv_err nv_config_apply_yaml(nv_config *config, nv_span text, const char *file, nv_buf *why)
{
    if (is_blank(text)) {
        return NV_OK;
    }
    complaint c = {"", ""};
    cyaml_config_t settings = {
        .log_fn = take_complaint,
        .log_ctx = &c,
        .mem_fn = cyaml_mem,
        .log_level = CYAML_LOG_ERROR,
        .flags = CYAML_CFG_NO_ALIAS, /* no anchors: they multiply, and nobody needs them here */
    };
    schema s;
    schema_init(&s);
    cyaml_data_t *loaded = NULL;
    cyaml_err_t result = cyaml_load_data(text.ptr, text.len, &settings, &s.top, &loaded, NULL);
    nv_err err = NV_OK;
    if (result != CYAML_OK) {
        err = complain(result, &c, file, why);
    } else if (loaded) {
        err = apply_loaded(config, (raw_value *const *)loaded, text, file, why);
        (void)cyaml_free(&settings, &s.top, loaded, 0);
    }
    schema_deinit(&s);
    return err;
}
