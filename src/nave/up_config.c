/** Configuration of a running hub: where it comes from, and what SIGHUP may change. */
#include "base/alloc.h"
#include "base/diag.h"
#include "nave/data_dir.h"
#include "nave/up.h"

#include <assert.h>
#include <stdlib.h>
#include <unistd.h>

#define OVERRIDES_MAX     (NV_ARGS_MAX + 2)
#define RENEWAL_PERIOD_US (INT64_C(12) * 3600 * NV_US_PER_S)

extern char **environ;

void nv_up_apply_diag(const nv_config *config)
{
    static const nv_level levels[] = {NV_LEVEL_DEBUG, NV_LEVEL_INFO, NV_LEVEL_WARN, NV_LEVEL_ERROR};
    nv_diag_setup(levels[config->diag_level], config->diag_format == 1, STDERR_FILENO);
}

/* --config, NAVE_CONFIG, or nave.yaml in the data folder when it is there. */
static void choose_file(nv_up *up)
{
    const char *flag = nv_args_get(up->args, "config");
    const char *variable = getenv("NAVE_CONFIG");
    if (up->config_file) {
        return;
    }
    if (flag || (variable && variable[0])) {
        up->config_file = nv_strdup(flag ? flag : variable);
    } else if (up->data) {
        up->config_file = nv_path_join(up->data, "nave.yaml");
        if (access(up->config_file, F_OK) != 0) {
            free(up->config_file);
            up->config_file = NULL;
        }
    }
}

typedef struct overrides {
    nv_override rows[OVERRIDES_MAX];
    char *owned[OVERRIDES_MAX];
    size_t count;
    const char *host_names[NV_ARGS_MAX];
    size_t host_name_count;
} overrides;

/* "section.name=value" from --set. */
static bool add_setting(overrides *o, const char *text, nv_buf *why)
{
    const char *equals = strchr(text, '=');
    if (!equals) {
        nv_err ignored = nv_buf_printf(why, "--set wants OPTION=VALUE, not \"%.80s\"", text);
        (void)ignored;
        return false;
    }
    char *name = nv_span_dup(nv_span_of(text, (size_t)(equals - text)));
    o->owned[o->count] = name;
    o->rows[o->count++] = (nv_override){name, equals + 1};
    return true;
}

static bool collect_overrides(const nv_up *up, overrides *o, nv_buf *why)
{
    const char *bind = nv_args_get(up->args, "bind");
    if (bind || up->dev) {
        o->rows[o->count++] = (nv_override){"net.bind", bind ? bind : "localhost"};
    }
    size_t at = 0;
    bool ok = true;
    for (const char *text = nv_args_next(up->args, "set", &at); ok && text; text = nv_args_next(up->args, "set", &at)) {
        ok = add_setting(o, text, why);
    }
    at = 0;
    for (const char *name = nv_args_next(up->args, "hostname", &at); name;
         name = nv_args_next(up->args, "hostname", &at)) {
        o->host_names[o->host_name_count++] = name;
    }
    return ok;
}

int nv_up_config_load(nv_up *up, nv_config **out)
{
    overrides o = {.count = 0};
    nv_err err = NV_E_INVALID;
    if (collect_overrides(up, &o, &up->why)) {
        nv_config_source source = {
            .file = up->config_file,
            .environment = environ,
            .overrides = o.rows,
            .override_count = o.count,
            .host_names = o.host_names,
            .host_name_count = o.host_name_count,
        };
        err = nv_config_load(out, &source, &up->why);
    }
    for (size_t i = 0; i < o.count; i++) {
        free(o.owned[i]);
    }
    return err == NV_OK ? NV_EXIT_OK : NV_EXIT_USAGE;
}

int nv_up_config(nv_up *up)
{
    choose_file(up);
    int code = nv_up_config_load(up, &up->config);
    if (code == NV_EXIT_OK) {
        nv_up_apply_diag(up->config);
        if (nv_buf_len(&up->why) > 0) {
            nv_diag(NV_LEVEL_WARN, "config", NULL, "%.*s", NV_SPAN_ARG(nv_buf_span(&up->why)));
            nv_buf_clear(&up->why);
        }
    }
    return code;
}

void nv_up_config_free(nv_up *up)
{
    nv_config_free(up->config);
    up->config = NULL;
}

/* ---- reload -------------------------------------------------------------------------------------------------- */

static void tell_change(void *arg, const nv_option *option)
{
    (void)arg;
    nv_diag(option->reloadable ? NV_LEVEL_INFO : NV_LEVEL_WARN, "config", NULL,
            option->reloadable ? "%s.%s is changed" : "%s.%s is changed in the configuration; that waits for a restart",
            option->section, option->name);
}

/* Values that wait for a restart are taken from the old snapshot, so that what the snapshot says is what runs. */
static void keep_fixed(nv_config *fresh, nv_config *old)
{
    for (size_t i = 0; i < nv_option_count; i++) {
        static const size_t sizes[] = {sizeof(int64_t), sizeof(bool), sizeof(int), sizeof(char *),
                                       sizeof(nv_text_list)};
        const nv_option *option = &nv_options[i];
        if (option->reloadable) {
            continue;
        }
        char swapped[sizeof(nv_text_list)];
        char *a = (char *)fresh + option->offset;
        char *b = (char *)old + option->offset;
        memcpy(swapped, a, sizes[option->type]);
        memcpy(a, b, sizes[option->type]);
        memcpy(b, swapped, sizes[option->type]);
    }
}

static void reload_config(nv_up *up)
{
    nv_config *fresh = NULL;
    nv_buf_clear(&up->why);
    choose_file(up); /* nave.yaml may be new in the data folder */
    if (nv_up_config_load(up, &fresh) != NV_EXIT_OK) {
        nv_diag(NV_LEVEL_ERROR, "config", NULL, "%.*s; the former configuration stays in force",
                NV_SPAN_ARG(nv_buf_span(&up->why)));
        return;
    }
    nv_config_compare(up->config, fresh, tell_change, NULL);
    keep_fixed(fresh, up->config);
    nv_config_free(up->config);
    up->config = fresh;
    nv_up_apply_diag(fresh);
}

/* The hub's own certificate is renewed when it nears its end; a user's is only read again. */
static void renew_certificate(nv_up *up, bool always_reload)
{
    static_assert(NV_PKI_WHY_SIZE == NV_NET_WHY_SIZE, "both explain into the same text");
    char why[NV_PKI_WHY_SIZE] = "";
    bool own = up->config->tls_certificate_file[0] == 0;
    char *dir = nv_path_join(up->data, "tls");
    nv_pki_config config = {
        .dir = dir,
        .hostnames = (const char *const *)up->config->net_host_names.items,
        .hostname_count = up->config->net_host_names.count,
        .clock = up->clock,
    };
    nv_pki pki = {0};
    nv_err err = own ? nv_pki_open(&config, &pki, why) : NV_OK;
    if (err == NV_OK && (pki.made_cert || always_reload)) {
        err = nv_tls_server_reload(up->tls, why);
        nv_diag(NV_LEVEL_INFO, "tls", NULL, "%s", err == NV_OK ? "the certificate is read again" : "");
    }
    if (err != NV_OK) {
        nv_diag(NV_LEVEL_ERROR, "tls", NULL, "%s; the former certificate stays in use", why);
    }
    nv_pki_deinit(&pki);
    free(dir);
}

void nv_up_reload(void *arg)
{
    nv_up *up = arg;
    reload_config(up);
    renew_certificate(up, true);
}

static void look_after_certificate(nv_timer *timer, int64_t now_us)
{
    nv_up *up = nv_container_of(timer, nv_up, renewal);
    renew_certificate(up, false);
    nv_timer_set(nv_net_loop(up->net, 0), timer, now_us + RENEWAL_PERIOD_US);
}

void nv_up_renewal_start(nv_up *up)
{
    nv_timer_init(&up->renewal, look_after_certificate);
    nv_timer_set(nv_net_loop(up->net, 0), &up->renewal, nv_mono_us(up->clock) + RENEWAL_PERIOD_US);
}
