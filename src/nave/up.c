/**
 * `nave up`: the hub from its first to its last breath. The table below is the order of start; the end goes through it
 * backwards, so that whoever uses something is gone before it. One knot: the hub of core/ uses log and state while it
 * lives, but its memory may only go when the loops have run what log and state posted last; so its row frees early in
 * the table, which is late at the end.
 */
#include "nave/up.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "core/events.h"
#include "nave/commands.h"
#include "nave/data_dir.h"
#include "net/signal.h"
#include "session/http.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* The sentence may have been cut to fit; what matters is that there is one. */
static int failed(nv_up *up, nv_err err, const char *what)
{
    if (nv_buf_len(&up->why) == 0) {
        nv_err ignored = nv_buf_printf(&up->why, "%s: %s", what, nv_err_text(err));
        (void)ignored;
    }
    return NV_EXIT_REFUSED;
}

static int failed_with(nv_up *up, const char *why)
{
    nv_err ignored = nv_buf_append_str(&up->why, why);
    (void)ignored;
    return NV_EXIT_REFUSED;
}

/* ---- process and data folder --------------------------------------------------------------------------------- */

static void mask_signals(int how)
{
    sigset_t ours;
    (void)sigemptyset(&ours);
    (void)sigaddset(&ours, SIGINT);
    (void)sigaddset(&ours, SIGTERM);
    (void)sigaddset(&ours, SIGHUP);
    (void)pthread_sigmask(how, &ours, NULL);
}

static int prepare_process(nv_up *up)
{
    (void)up;
    (void)umask(077);
    /* Every thread inherits this; loop 0 alone takes signals, once it knows what to do with them. One that comes
     * earlier waits, so that no moment of the start, and none after the ready line, dies of SIGHUP. */
    mask_signals(SIG_BLOCK);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max; /* a connection is a file */
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    return NV_EXIT_OK;
}

static int make_data_dir(nv_up *up)
{
    nv_err err = up->data ? nv_data_dir_make(up->data, &up->why) : nv_data_dir_temporary(&up->data, &up->why);
    return err == NV_OK ? NV_EXIT_OK : failed(up, err, "the data folder");
}

static void remove_data_dir(nv_up *up)
{
    if (up->temporary) {
        nv_data_dir_remove(up->data);
    }
}

static int take_lock(nv_up *up)
{
    char *path = nv_path_join(up->data, "lock");
    nv_err err = nv_disk_lock(nv_disk_posix(), path, &up->lock);
    if (err == NV_E_IN_USE) {
        nv_err ignored = nv_buf_printf(&up->why,
                                       "another hub runs on the data folder %s; stop it, or give this one a folder of "
                                       "its own by --data",
                                       up->data);
        (void)ignored;
    } else if (err != NV_OK) {
        nv_err ignored = nv_buf_printf(&up->why, "%s: cannot be locked: %s", path, nv_err_text(err));
        (void)ignored;
    }
    free(path);
    return err == NV_OK ? NV_EXIT_OK : NV_EXIT_REFUSED;
}

static void drop_lock(nv_up *up)
{
    nv_file_close(up->lock);
}

/* ---- certificates and names ---------------------------------------------------------------------------------- */

/* The hub's own name: the first one configured, else localhost where the certificate has it, else the certificate's
 * first. All others are aliases. */
static void collect_names(nv_up *up)
{
    const nv_text_list *wanted = &up->config->net_host_names;
    up->names = nv_calloc(wanted->count + up->pki.name_count + 1, sizeof(char *));
    for (size_t i = 0; i < wanted->count; i++) {
        up->names[up->name_count++] = wanted->items[i];
    }
    for (size_t i = 0; wanted->count == 0 && i < up->pki.name_count; i++) {
        if (strcmp(up->pki.names[i], "localhost") == 0) {
            up->names[up->name_count++] = up->pki.names[i];
        }
    }
    for (size_t i = 0; i < up->pki.name_count; i++) {
        bool known = false;
        for (size_t j = 0; j < up->name_count; j++) {
            known = known || nv_span_eq_nocase(nv_span_str(up->names[j]), nv_span_str(up->pki.names[i]));
        }
        if (!known) {
            up->names[up->name_count++] = up->pki.names[i];
        }
    }
}

/* @p dir may be NULL where nothing is opened. */
static nv_pki_config pki_config(const nv_up *up, const char *dir)
{
    bool own = up->config->tls_certificate_file[0] == 0;
    return (nv_pki_config){
        .dir = dir,
        .hostnames = (const char *const *)up->config->net_host_names.items,
        .hostname_count = up->config->net_host_names.count,
        .cert_file = own ? NULL : up->config->tls_certificate_file,
        .key_file = own ? NULL : up->config->tls_key_file,
        .clock = up->clock,
    };
}

static nv_err open_pki(nv_up *up, nv_pki *pki, char why[NV_PKI_WHY_SIZE])
{
    char *dir = nv_path_join(up->data, "tls");
    nv_pki_config config = pki_config(up, dir);
    nv_err err = nv_pki_open(&config, pki, why);
    free(dir);
    return err;
}

static int open_certificates(nv_up *up)
{
    char why[NV_PKI_WHY_SIZE] = "";
    if (open_pki(up, &up->pki, why) != NV_OK) {
        return failed_with(up, why);
    }
    up->first_start = up->pki.made_ca;
    collect_names(up);
    return NV_EXIT_OK;
}

static void close_certificates(nv_up *up)
{
    free(up->names);
    nv_pki_deinit(&up->pki);
}

static int open_tls(nv_up *up)
{
    static const nv_tls_version versions[] = {NV_TLS_1_2, NV_TLS_1_3};
    char why[NV_NET_WHY_SIZE] = "";
    nv_tls_server_config config = {
        .cert_file = up->pki.cert_file,
        .key_file = up->pki.key_file,
        .ca_file = up->pki.ca_file,
        .ciphers = up->config->tls_ciphers[0] ? up->config->tls_ciphers : NULL,
        .lowest = versions[up->config->tls_min_version],
        .clock = up->clock,
    };
    return nv_tls_server_new(&config, &up->tls, why) == NV_OK ? NV_EXIT_OK : failed_with(up, why);
}

static void close_tls(nv_up *up)
{
    nv_tls_server_free(up->tls);
}

/* ---- stores -------------------------------------------------------------------------------------------------- */

static int open_state(nv_up *up)
{
    char *dir = nv_path_join(up->data, "state");
    nv_state_config config = {.dir = dir, .clock = up->clock, .rng = nv_rng_system()};
    nv_err err = nv_state_open(&up->state, &config, &up->why);
    free(dir);
    return err == NV_OK ? NV_EXIT_OK : failed(up, err, "the state store cannot be opened");
}

static void close_state(nv_up *up)
{
    nv_state_close(up->state);
}

static int open_log(nv_up *up)
{
    const nv_config *c = up->config;
    char *dir = nv_path_join(up->data, "log");
    nv_log_config config = {
        .dir = dir,
        .partitions = (uint32_t)c->log_partitions,
        .durability = c->log_durability == 0 ? NV_DURABILITY_COMMIT : NV_DURABILITY_OS,
        .segment_bytes = (uint64_t)c->log_segment_bytes,
        .retention_us = c->log_retention_hours * 3600 * NV_US_PER_S,
        .retention_bytes = (uint64_t)c->log_retention_bytes,
        .disk = nv_disk_posix(),
        .clock = up->clock,
        .rng = nv_rng_system(),
    };
    nv_err err = nv_log_open(&up->log, &config, &up->why);
    free(dir);
    if (err == NV_OK && nv_log_partitions(up->log) != config.partitions) {
        nv_diag(NV_LEVEL_WARN, "log", NULL,
                "the log was created with %u partitions and keeps them; log.partitions (%u) is not used",
                nv_log_partitions(up->log), config.partitions);
    }
    return err == NV_OK ? NV_EXIT_OK : failed(up, err, "the telemetry log cannot be opened");
}

static void close_log(nv_up *up)
{
    nv_log_close(up->log);
}

/* ---- loops and hub ------------------------------------------------------------------------------------------- */

/* Files that are no connections: loops, listeners, segments of the log, the state store. */
#define OTHER_FILES          128u
#define OTHER_FILES_PER_LOOP 8u
/* Below this a newcomer should hear of it too. */
#define FEW_CONNECTIONS 2000u

/* A connection is a file. Peers must never take the last one: the log and the state store open some as they go. */
static size_t connections_allowed(const nv_limits *limits, int64_t loops)
{
    size_t allowed = (size_t)limits->connections;
    long cores = loops > 0 ? (long)loops : sysconf(_SC_NPROCESSORS_ONLN);
    size_t others = OTHER_FILES + OTHER_FILES_PER_LOOP * (size_t)(cores > 0 ? cores : 1);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur == RLIM_INFINITY ||
        files.rlim_cur >= allowed + others) {
        return allowed;
    }
    size_t most = (size_t)files.rlim_cur > 2 * others ? (size_t)files.rlim_cur - others : (size_t)files.rlim_cur / 2;
    nv_diag(most < FEW_CONNECTIONS ? NV_LEVEL_WARN : NV_LEVEL_DEBUG, "net", NULL,
            "at most %zu connections, not the %zu of limits.connections: this process may open %zu files (ulimit -n, "
            "LimitNOFILE)",
            most, allowed, (size_t)files.rlim_cur);
    return most;
}

static int make_net(nv_up *up)
{
    const nv_limits *limits = &up->config->limits;
    nv_net_config config = {
        .loops = (unsigned)up->config->net_loops, .clock = up->clock, .limits = nv_net_limits_default()};
    config.limits.max_connections = connections_allowed(limits, config.loops);
    config.limits.max_unauthenticated = (size_t)limits->unauthenticated_connections;
    if (config.limits.max_unauthenticated > config.limits.max_connections / 2) {
        config.limits.max_unauthenticated = config.limits.max_connections / 2; /* room for those who have a key */
    }
    config.limits.max_output_bytes = (size_t)limits->output_bytes;
    config.limits.handshake_us = limits->connect_deadline_s * NV_US_PER_S;
    /* A moment that stands still has no end to see. */
    config.limits.spin_us = up->time ? 0 : up->config->net_spin_microseconds;
    char why[NV_NET_WHY_SIZE] = "";
    return nv_net_new(&config, &up->net, why) == NV_OK ? NV_EXIT_OK : failed_with(up, why);
}

static void free_net(nv_up *up)
{
    nv_net_free(up->net);
}

static void end_turn(nv_turn_hook *hook, int64_t now_us)
{
    nv_up_hook *self = (nv_up_hook *)hook;
    (void)now_us;
    nv_hub_loop_turn_end(self->loop);
    int64_t due_us = nv_hub_loop_due(self->loop);
    if (due_us != self->core.due_us) {
        nv_timer_set(nv_loop_current(), &self->core, due_us);
    }
}

static void run_core_timers(nv_timer *timer, int64_t now_us)
{
    nv_hub_loop_tick(nv_container_of(timer, nv_up_hook, core)->loop, now_us);
}

/* A turn now and then on an idle loop too, for what the hub keeps for leisure. */
static void idle_turn(nv_timer *timer, int64_t now_us)
{
    nv_timer_set(nv_loop_current(), timer, now_us + NV_US_PER_S);
}

static int make_hub(nv_up *up)
{
    unsigned count = nv_net_loops(up->net);
    up->execs = nv_calloc(count, sizeof(nv_exec *));
    up->hooks = nv_calloc(count, sizeof(nv_up_hook));
    for (unsigned i = 0; i < count; i++) {
        up->execs[i] = nv_loop_exec(nv_net_loop(up->net, i));
    }
    const nv_events_config events = {
        .connection_state = up->config->events_connection_state,
        .lifecycle = up->config->events_lifecycle,
        .twin_change = up->config->events_twin_change,
        .digital_twin_change = up->config->events_digital_twin_change,
    };
    nv_hub_config config = {
        .host_names = (const char *const *)up->names,
        .host_name_count = up->name_count,
        .limits = &up->config->limits,
        .log = up->log,
        .state = up->state,
        .clock = up->clock,
        .rng = nv_rng_system(),
        .loops = up->execs,
        .loop_count = count,
        .known_keys = nv_args_has(up->args, "dev-known-keys"),
        .fault_injection = up->config->testing_fault_injection,
        .time_stands = up->config->testing_clock != 0,
        .events = &events,
        .entity = up->config->events_entity,
        .azure = up->config->limits_profile == 1,
    };
    nv_err err = nv_hub_new(&up->hub, &config, &up->why);
    for (unsigned i = 0; err == NV_OK && i < count; i++) {
        up->hooks[i] = (nv_up_hook){.hook.run = end_turn, .loop = &up->hub->loops[i]};
        nv_loop_set_hub(nv_net_loop(up->net, i), up->hooks[i].loop);
        nv_loop_add_turn_hook(nv_net_loop(up->net, i), &up->hooks[i].hook);
        nv_timer_init(&up->hooks[i].core, run_core_timers);
        nv_timer_init(&up->hooks[i].idle, idle_turn);
        if (!up->time) { /* simulated time would stop at each of them, and gives every loop a turn anyway */
            nv_timer_set(nv_net_loop(up->net, i), &up->hooks[i].idle, nv_mono_us(up->clock) + NV_US_PER_S);
        }
    }
    return err == NV_OK ? NV_EXIT_OK : failed(up, err, "the hub cannot start");
}

static void free_hub(nv_up *up)
{
    nv_hub_free(up->hub);
    free(up->hooks);
    free(up->execs);
}

/* ---- running ------------------------------------------------------------------------------------------------- */

static void stop(void *arg, int signal_number)
{
    nv_up *up = arg;
    (void)signal_number;
    nv_http_set_ready(false);
    nv_hub_stop(up->hub);
    int64_t grace_us = up->stops++ == 0 ? up->config->net_drain_seconds * NV_US_PER_S : 0;
    nv_diag(NV_LEVEL_INFO, "hub", NULL, grace_us ? "stopping; a second signal stops at once" : "stopping at once");
    nv_net_stop(up->net, grace_us);
}

static void take_signals(nv_task *task)
{
    (void)task;
    mask_signals(SIG_UNBLOCK);
}

static int start_loops(nv_up *up)
{
    char why[NV_NET_WHY_SIZE] = "";
    nv_http_set_ready(true); /* /readyz is answered from the start of the loops on, and then it is true */
    nv_up_renewal_start(up);
    if (nv_net_start(up->net, why) != NV_OK) {
        return failed_with(up, why);
    }
    nv_signal_config signals = {stop, nv_up_reload, up};
    nv_signals_start(nv_net_loop(up->net, 0), &signals);
    return NV_EXIT_OK;
}

static void stop_loops(nv_up *up)
{
    nv_net_stop(up->net, 0); /* nothing new when a signal stopped it; otherwise a later step failed */
    size_t left = nv_net_wait(up->net);
    if (left > 0) {
        nv_diag(NV_LEVEL_WARN, "hub", NULL, "%zu connections ended without confirmation of their last messages", left);
    }
    nv_hub_stop(up->hub);
    nv_hub_settle(up->hub);
}

/* From here on the configuration belongs to loop 0, which may replace it on SIGHUP. */
static int run(nv_up *up)
{
    up->take_signals.run = take_signals; /* tasks run in the order posted: the watchers stand by then */
    nv_post(nv_loop_exec(nv_net_loop(up->net, 0)), &up->take_signals);
    (void)nv_net_wait(up->net);
    return NV_EXIT_OK;
}

typedef struct step {
    int (*start)(nv_up *up); /* NULL: nothing */
    void (*stop)(nv_up *up); /* NULL: nothing */
} step;

static const step steps[] = {
    {prepare_process, NULL},
    {nv_up_config, nv_up_config_free},
    {nv_up_clock, nv_up_clock_free},
    {make_data_dir, remove_data_dir},
    {take_lock, drop_lock},
    {open_certificates, close_certificates},
    {open_tls, close_tls},
    {NULL, free_hub},
    {make_net, free_net},
    {open_state, close_state},
    {open_log, close_log},
    {make_hub, NULL},
    {nv_up_listen, NULL},
    {nv_up_publish, NULL}, /* what connections read without a lock is there before the first is served */
    {start_loops, stop_loops},
    {nv_up_clock_start, nv_up_clock_stop},
    {nv_up_announce, NULL},
    {run, NULL},
};

static int live(nv_up *up)
{
    int code = NV_EXIT_OK;
    size_t count = 0;
    while (code == NV_EXIT_OK && count < NV_COUNT_OF(steps)) {
        code = steps[count].start ? steps[count].start(up) : NV_EXIT_OK;
        count += code == NV_EXIT_OK ? 1 : 0;
    }
    if (code != NV_EXIT_OK) {
        fprintf(stderr, "nave: %.*s\n", NV_SPAN_ARG(nv_buf_span(&up->why)));
    }
    while (count > 0) {
        count--;
        if (steps[count].stop) {
            steps[count].stop(up);
        }
    }
    if (code == NV_EXIT_OK) {
        nv_diag(NV_LEVEL_INFO, "hub", NULL, "stopped");
    }
    return code;
}

/* ---- the command --------------------------------------------------------------------------------------------- */

static int check(nv_up *up)
{
    int code = nv_up_config(up);
    if (code != NV_EXIT_OK) {
        fprintf(stderr, "nave: %.*s\n", NV_SPAN_ARG(nv_buf_span(&up->why)));
        return code;
    }
    char why[NV_PKI_WHY_SIZE] = "";
    nv_pki_config pki = pki_config(up, NULL);
    if (nv_pki_check(&pki, why) != NV_OK) {
        fprintf(stderr, "nave: %s\n", why);
        nv_up_config_free(up);
        return NV_EXIT_USAGE;
    }
    nv_config_write_changes(stdout, up->config);
    fprintf(stderr, "the configuration%s%s is right\n", up->config_file ? " " : "",
            up->config_file ? up->config_file : "");
    nv_up_config_free(up);
    return NV_EXIT_OK;
}

int nv_cmd_up(const nv_args *args)
{
    if (nv_args_has(args, "print-options")) {
        nv_config_write_reference(stdout);
        return NV_EXIT_OK;
    }
    nv_up up = {.args = args,
                .clock = nv_clock_system(),
                .started_us = nv_mono_us(nv_clock_system()),
                .dev = nv_args_has(args, "dev")};
    nv_buf_init(&up.why, 8192);
    if (nv_args_has(args, "dev-known-keys") && !up.dev) {
        fputs("nave: --dev-known-keys is for --dev only: everybody knows these keys\n", stderr);
        return NV_EXIT_USAGE;
    }
    up.temporary = up.dev && !nv_args_has(args, "data");
    up.data = up.temporary ? NULL : nv_data_dir_choose(nv_args_get(args, "data"));
    if (!up.data && !up.temporary) {
        fputs("nave: no data folder: HOME is not set; give one by --data\n", stderr);
        return NV_EXIT_USAGE;
    }
    int code = nv_args_has(args, "check") ? check(&up) : live(&up);
    free(up.data);
    free(up.config_file);
    nv_buf_deinit(&up.why);
    return code;
}
