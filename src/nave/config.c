#include "nave/config.h"

#include "base/alloc.h"
#include "codec/ids.h"
#include "store/log.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/stat.h>

const nv_option nv_options[] = {
#define X(section, name, type, min, max, fallback, unit, reloadable, choices, help)                                    \
    {#section,                                                                                                         \
     #name,                                                                                                            \
     NV_OPTION_##type,                                                                                                 \
     (min),                                                                                                            \
     (max),                                                                                                            \
     fallback,                                                                                                         \
     unit,                                                                                                             \
     (reloadable),                                                                                                     \
     choices,                                                                                                          \
     help,                                                                                                             \
     offsetof(nv_config, section##_##name)},
    NV_OPTION_TABLE(X)
#undef X
#define X(member, unit, open, azure, beyond)                                                                           \
    {"limits",                                                                                                         \
     #member,                                                                                                          \
     NV_OPTION_INT,                                                                                                    \
     NV_LIMIT_MIN(open, azure),                                                                                        \
     NV_LIMIT_MAX_OF(member),                                                                                          \
     NULL,                                                                                                             \
     unit,                                                                                                             \
     false,                                                                                                            \
     "",                                                                                                               \
     beyond,                                                                                                           \
     offsetof(nv_config, limits) + offsetof(nv_limits, member)},
        NV_LIMIT_TABLE(X)
#undef X
};
const size_t nv_option_count = NV_COUNT_OF(nv_options);

/* A message has room for a path and a few words; when it has not, it is cut rather than lost. */
static void say(nv_buf *why, const char *fmt, ...) NV_PRINTF(2, 3);
static void say(nv_buf *why, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    nv_err ignored = nv_buf_append_str(why, text);
    (void)ignored;
}

static void *member_of(nv_config *config, const nv_option *option)
{
    return (char *)config + option->offset;
}

static const void *const_member_of(const nv_config *config, const nv_option *option)
{
    return (const char *)config + option->offset;
}

const nv_option *nv_option_find(nv_span section, nv_span name)
{
    for (size_t i = 0; i < nv_option_count; i++) {
        if (nv_span_eq_str(section, nv_options[i].section) && nv_span_eq_str(name, nv_options[i].name)) {
            return &nv_options[i];
        }
    }
    return NULL;
}

void nv_option_variable(const nv_option *option, char out[64])
{
    (void)snprintf(out, 64, "NAVE_%s_%s", option->section, option->name);
    for (char *c = out; *c; c++) {
        *c = (char)toupper((unsigned char)*c);
    }
}

/* ---- text to values ---------------------------------------------------------------------------------------- */

static int64_t suffix_factor(const char *suffix, bool bytes)
{
    static const struct {
        const char *text;
        int shift;
    } suffixes[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
    if (!*suffix) {
        return 1;
    }
    for (size_t i = 0; bytes && i < NV_COUNT_OF(suffixes); i++) {
        if (strcmp(suffix, suffixes[i].text) == 0) {
            return INT64_C(1) << suffixes[i].shift;
        }
    }
    return 0;
}

static bool parse_int(const char *text, bool bytes, int64_t *out)
{
    const char *digits = *text == '-' ? text + 1 : text;
    if (!isdigit((unsigned char)*digits)) {
        return false; /* strtoll would take blanks and signs */
    }
    char *end = NULL;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    int64_t factor = suffix_factor(end, bytes);
    return errno == 0 && factor != 0 && !__builtin_mul_overflow((int64_t)number, factor, out);
}

static bool parse_bool(const char *text, bool *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < NV_COUNT_OF(words); i++) {
        if (strcmp(text, words[i]) == 0) {
            *out = i % 2 == 1;
            return true;
        }
    }
    return false;
}

static bool parse_choice(const char *choices, const char *text, int *out)
{
    nv_span rest = nv_span_str(choices);
    for (int index = 0; rest.len > 0; index++) {
        size_t len = nv_span_find(rest, '|');
        if (nv_span_eq_str(nv_span_first(rest, len), text)) {
            *out = index;
            return true;
        }
        rest = nv_span_skip(rest, len + 1);
    }
    return false;
}

static void list_free(nv_text_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i]);
    }
    free(list->items);
    *list = (nv_text_list){NULL, 0};
}

static nv_err refuse(const nv_option *option, const char *where, const char *text, nv_buf *why, const char *fmt, ...)
    NV_PRINTF(5, 6);
static nv_err refuse(const nv_option *option, const char *where, const char *text, nv_buf *why, const char *fmt, ...)
{
    char cure[256];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(cure, sizeof(cure), fmt, args);
    va_end(args);
    say(why, "%s: %s.%s cannot be \"%.80s\"; %s", where, option->section, option->name, text, cure);
    return NV_E_INVALID;
}

static nv_err set_int(void *member, const nv_option *option, const char *text, const char *where, nv_buf *why)
{
    bool bytes = strcmp(option->unit, "bytes") == 0;
    int64_t value = 0;
    if (!parse_int(text, bytes, &value) || value < option->min || value > option->max) {
        return refuse(option, where, text, why, "give a whole number from %" PRId64 " to %" PRId64 " (%s)%s",
                      option->min, option->max, option->unit,
                      bytes ? ", with KiB, MiB or GiB behind it if you like" : "");
    }
    *(int64_t *)member = value;
    return NV_OK;
}

static nv_err set_text(char **member, const nv_option *option, const char *text, const char *where, nv_buf *why)
{
    if (strlen(text) > (size_t)option->max) {
        return refuse(option, where, text, why, "it is longer than %" PRId64 " bytes", option->max);
    }
    char *copy = nv_strdup(text);
    free(*member);
    *member = copy;
    return NV_OK;
}

static nv_err set_list(nv_text_list *member, const nv_option *option, const char *const *values, size_t count,
                       const char *where, nv_buf *why)
{
    if (count < (size_t)option->min || count > (size_t)option->max) {
        return refuse(option, where, count ? values[0] : "", why, "give %" PRId64 " to %" PRId64 " %s, not %zu",
                      option->min, option->max, option->unit, count);
    }
    for (size_t i = 0; i < count; i++) {
        if (!values[i] || !values[i][0] || strlen(values[i]) > 255 || strpbrk(values[i], " \t\r\n,")) {
            return refuse(option, where, values[i] ? values[i] : "", why,
                          "an entry has 1 to 255 bytes without blanks and commas");
        }
    }
    nv_text_list copy = {nv_calloc(count + 1, sizeof(char *)), count};
    for (size_t i = 0; i < count; i++) {
        copy.items[i] = nv_strdup(values[i]);
    }
    list_free(member);
    *member = copy;
    return NV_OK;
}

nv_err nv_config_set(nv_config *config, const nv_option *option, const char *const *values, size_t count,
                     const char *where, nv_buf *why)
{
    void *member = member_of(config, option);
    const char *text = count ? values[0] : "";
    switch (option->type) {
    case NV_OPTION_INT:
        return set_int(member, option, text, where, why);
    case NV_OPTION_BOOL:
        return parse_bool(text, member) ? NV_OK : refuse(option, where, text, why, "say true or false");
    case NV_OPTION_CHOICE:
        return parse_choice(option->choices, text, member)
                   ? NV_OK
                   : refuse(option, where, text, why, "choose one of %s", option->choices);
    case NV_OPTION_TEXT:
        return set_text(member, option, text, where, why);
    case NV_OPTION_LIST:
        return set_list(member, option, values, count, where, why);
    }
    return NV_E_INVALID;
}

/* One text for any type; a list is separated by commas. */
static nv_err set_from_text(nv_config *config, const nv_option *option, const char *text, const char *where,
                            nv_buf *why)
{
    if (option->type != NV_OPTION_LIST) {
        return nv_config_set(config, option, &text, 1, where, why);
    }
    char *items[64] = {NULL};
    size_t count = 0;
    nv_span rest = nv_span_str(text);
    while (rest.len > 0 && count < NV_COUNT_OF(items)) {
        size_t len = nv_span_find(rest, ',');
        items[count++] = nv_span_dup(nv_span_first(rest, len));
        rest = nv_span_skip(rest, len + 1);
    }
    const char *values[NV_COUNT_OF(items)] = {NULL};
    memcpy(values, items, count * sizeof(items[0]));
    nv_err err = nv_config_set(config, option, values, count, where, why);
    for (size_t i = 0; i < count; i++) {
        free(items[i]);
    }
    return err;
}

/* ---- the layers -------------------------------------------------------------------------------------------- */

static nv_err apply_defaults(nv_config *config, nv_buf *why)
{
    for (size_t i = 0; i < nv_option_count; i++) {
        nv_err err = nv_options[i].fallback
                         ? set_from_text(config, &nv_options[i], nv_options[i].fallback, "default", why)
                         : NV_OK;
        if (err != NV_OK) {
            return err;
        }
    }
    return NV_OK;
}

/* A limit that nobody set has -1 until the profile is known. */
static void limits_unset(nv_config *config)
{
#define X(member, unit, open, azure, beyond) config->limits.member = -1;
    NV_LIMIT_TABLE(X)
#undef X
}

static void limits_resolve(nv_config *config)
{
    bool azure_profile = config->limits_profile == 1;
#define X(member, unit, open, azure, beyond)                                                                           \
    if (config->limits.member < 0) {                                                                                   \
        const int64_t profiles[] = {(open), (azure)};                                                                  \
        config->limits.member = profiles[azure_profile];                                                               \
    }
    NV_LIMIT_TABLE(X)
#undef X
}

static nv_err read_file(const char *path, nv_buf *text, nv_buf *why)
{
    FILE *file = fopen(path, "re");
    if (!file) {
        int error = errno;
        say(why, "%s: the configuration cannot be read: %s", path, strerror(error));
        return nv_err_from_errno(error);
    }
    nv_err err = NV_OK;
    for (;;) {
        uint8_t *room = nv_buf_reserve(text, 4096);
        if (!room) {
            say(why, "%s: the configuration is larger than 1 MiB", path);
            err = NV_E_INVALID;
            break;
        }
        size_t got = fread(room, 1, 4096, file);
        nv_buf_commit(text, got);
        if (got == 0) {
            break;
        }
    }
    if (ferror(file) && err == NV_OK) {
        say(why, "%s: the configuration cannot be read: %s", path, strerror(errno));
        err = NV_E_IO;
    }
    (void)fclose(file);
    return err;
}

static nv_err apply_file(nv_config *config, const char *path, nv_buf *why)
{
    nv_buf text;
    nv_buf_init(&text, NV_CONFIG_MAX_BYTES);
    nv_err err = read_file(path, &text, why);
    if (err == NV_OK) {
        err = nv_config_apply_yaml(config, nv_buf_span(&text), path, why);
    }
    nv_buf_deinit(&text);
    return err;
}

static bool is_section_variable(const char *variable)
{
    bool found = false;
#define X(section, purpose) found = found || (strncasecmp(variable + 5, #section "_", sizeof(#section)) == 0);
    NV_SECTION_TABLE(X)
#undef X
    return found;
}

static nv_err apply_variable(nv_config *config, const char *variable, nv_buf *why)
{
    size_t len = strcspn(variable, "=");
    for (size_t i = 0; i < nv_option_count; i++) {
        char name[64];
        nv_option_variable(&nv_options[i], name);
        if (strlen(name) == len && strncmp(name, variable, len) == 0) {
            return set_from_text(config, &nv_options[i], variable + len + 1, name, why);
        }
    }
    if (is_section_variable(variable)) {
        say(why, "%.*s in the environment names no option and is ignored", (int)len, variable);
    }
    return NV_OK;
}

static nv_err apply_environment(nv_config *config, char *const *environment, nv_buf *why)
{
    nv_err err = NV_OK;
    for (size_t i = 0; err == NV_OK && environment && environment[i]; i++) {
        if (strncmp(environment[i], "NAVE_", 5) == 0 && strchr(environment[i], '=')) {
            err = apply_variable(config, environment[i], why);
        }
    }
    return err;
}

static nv_err apply_override(nv_config *config, const nv_override *override, nv_buf *why)
{
    nv_span name = nv_span_str(override->name);
    size_t dot = nv_span_find(name, '.');
    const nv_option *option = nv_option_find(nv_span_first(name, dot), nv_span_skip(name, dot + 1));
    if (!option) {
        say(why, "there is no option %.80s; `nave up --print-options` lists them", override->name);
        return NV_E_INVALID;
    }
    return set_from_text(config, option, override->value, "command line", why);
}

static nv_err add_host_names(nv_config *config, const nv_config_source *source, nv_buf *why)
{
    if (source->host_name_count == 0) {
        return NV_OK;
    }
    nv_text_list *list = &config->net_host_names;
    size_t count = source->host_name_count + list->count;
    const char **names = nv_calloc(count, sizeof(*names));
    memcpy(names, source->host_names, source->host_name_count * sizeof(*names));
    for (size_t i = 0; i < list->count; i++) {
        names[source->host_name_count + i] = list->items[i];
    }
    const nv_option *option = nv_option_find(nv_span_str("net"), nv_span_str("host_names"));
    nv_err err = nv_config_set(config, option, names, count, "--hostname", why);
    free(names);
    return err;
}

static bool is_everywhere(const nv_text_list *addresses)
{
    return addresses->count == 0 || strcmp(addresses->items[0], "*") == 0 || strcmp(addresses->items[0], "::") == 0 ||
           strcmp(addresses->items[0], "0.0.0.0") == 0;
}

static bool share_address(const nv_text_list *a, const nv_text_list *b)
{
    bool shared = is_everywhere(a) || is_everywhere(b);
    for (size_t i = 0; i < a->count && !shared; i++) {
        for (size_t j = 0; j < b->count && !shared; j++) {
            shared = strcmp(a->items[i], b->items[j]) == 0;
        }
    }
    return shared;
}

/* Else the second listener would call the first "another program". */
static nv_err check_ports(const nv_config *c, nv_buf *why)
{
    const struct {
        const char *name;
        int64_t port;
        const nv_text_list *addresses;
    } rows[] = {{"mqtt.port", c->mqtt_port, &c->net_bind},
                {"amqp.port", c->amqp_port, &c->net_bind},
                {"https.port", c->https_port, &c->net_bind},
                {"mqtt.plain_port", c->mqtt_plain_port, &c->mqtt_plain_bind},
                {"amqp.plain_port", c->amqp_plain_port, &c->amqp_plain_bind},
                {"admin.port", c->admin_port, &c->admin_bind}};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        for (size_t j = 0; j < i; j++) {
            if (rows[i].port > 0 && rows[i].port == rows[j].port &&
                share_address(rows[i].addresses, rows[j].addresses)) {
                say(why, "%s and %s are both %" PRId64 "; give each a port of its own", rows[j].name, rows[i].name,
                    rows[i].port);
                return NV_E_INVALID;
            }
        }
    }
    return NV_OK;
}

static nv_err check_together(const nv_config *config, nv_buf *why)
{
    if ((config->tls_certificate_file[0] == 0) != (config->tls_key_file[0] == 0)) {
        say(why, "tls.certificate_file and tls.key_file belong together: set both or none");
        return NV_E_INVALID;
    }
    if (config->log_segment_bytes % (1 << 20) != 0) {
        say(why, "log.segment_bytes cannot be %" PRId64 "; give a multiple of 1 MiB", config->log_segment_bytes);
        return NV_E_INVALID;
    }
    if (config->log_retention_bytes != 0 && config->log_retention_bytes < 2 * config->log_segment_bytes) {
        say(why,
            "log.retention_bytes (%" PRId64 ") holds less than two files of log.segment_bytes (%" PRId64
            "): raise it, or make the files smaller",
            config->log_retention_bytes, config->log_segment_bytes);
        return NV_E_INVALID;
    }
    if (config->events_entity[0] && !nv_event_hub_name_valid(nv_span_str(config->events_entity))) {
        say(why,
            "events.entity cannot be \"%.80s\"; give letters, digits, '-', '_' and '.', the first and the last a "
            "letter or digit, but not `devices` or `messages`",
            config->events_entity);
        return NV_E_INVALID;
    }
    return check_ports(config, why);
}

nv_err nv_config_load(nv_config **out, const nv_config_source *source, nv_buf *why)
{
    nv_config *config = nv_calloc(1, sizeof(*config));
    limits_unset(config);
    nv_err err = apply_defaults(config, why);
    if (err == NV_OK && source->file) {
        err = apply_file(config, source->file, why);
    }
    if (err == NV_OK) {
        err = apply_environment(config, source->environment, why);
    }
    for (size_t i = 0; err == NV_OK && i < source->override_count; i++) {
        err = apply_override(config, &source->overrides[i], why);
    }
    if (err == NV_OK) {
        err = add_host_names(config, source, why);
    }
    if (err == NV_OK) {
        err = check_together(config, why);
    }
    if (err != NV_OK) {
        nv_config_free(config);
        return err;
    }
    limits_resolve(config);
    *out = config;
    return NV_OK;
}

void nv_config_free(nv_config *config)
{
    if (!config) {
        return;
    }
    for (size_t i = 0; i < nv_option_count; i++) {
        void *member = member_of(config, &nv_options[i]);
        if (nv_options[i].type == NV_OPTION_TEXT) {
            free(*(char **)member);
        } else if (nv_options[i].type == NV_OPTION_LIST) {
            list_free(member);
        }
    }
    free(config);
}

/* ---- values to text ---------------------------------------------------------------------------------------- */

static nv_err list_text(const nv_text_list *list, nv_buf *out)
{
    nv_err err = nv_buf_append_str(out, "[");
    for (size_t i = 0; err == NV_OK && i < list->count; i++) {
        err = nv_buf_printf(out, "%s\"%s\"", i ? ", " : "", list->items[i]);
    }
    return err == NV_OK ? nv_buf_append_str(out, "]") : err;
}

static nv_err choice_text(const char *choices, int index, nv_buf *out)
{
    nv_span rest = nv_span_str(choices);
    for (; index > 0; index--) {
        rest = nv_span_skip(rest, nv_span_find(rest, '|') + 1);
    }
    return nv_buf_append(out, nv_span_first(rest, nv_span_find(rest, '|')));
}

bool nv_option_text(const nv_config *config, const nv_option *option, nv_buf *out)
{
    const void *member = const_member_of(config, option);
    switch (option->type) {
    case NV_OPTION_INT:
        return nv_buf_printf(out, "%" PRId64, *(const int64_t *)member) == NV_OK;
    case NV_OPTION_BOOL:
        return nv_buf_append_str(out, *(const bool *)member ? "true" : "false") == NV_OK;
    case NV_OPTION_CHOICE:
        return choice_text(option->choices, *(const int *)member, out) == NV_OK;
    case NV_OPTION_TEXT:
        return nv_buf_printf(out, "\"%s\"", *(char *const *)member) == NV_OK;
    case NV_OPTION_LIST:
        return list_text(member, out) == NV_OK;
    }
    return false;
}

void nv_config_compare(const nv_config *a, const nv_config *b, void (*changed)(void *arg, const nv_option *option),
                       void *arg)
{
    nv_buf left;
    nv_buf right;
    nv_buf_init(&left, 65536);
    nv_buf_init(&right, 65536);
    for (size_t i = 0; i < nv_option_count; i++) {
        nv_buf_clear(&left);
        nv_buf_clear(&right);
        if (nv_option_text(a, &nv_options[i], &left) != nv_option_text(b, &nv_options[i], &right) ||
            !nv_span_eq(nv_buf_span(&left), nv_buf_span(&right))) {
            changed(arg, &nv_options[i]);
        }
    }
    nv_buf_deinit(&left);
    nv_buf_deinit(&right);
}
