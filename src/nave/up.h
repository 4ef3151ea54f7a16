/** The running hub, as the files of `nave up` share it. Order of life: the table in up.c. */
#ifndef NV_NAVE_UP_H
#define NV_NAVE_UP_H

#include "core/hub.h"
#include "nave/args.h"
#include "nave/config.h"
#include "net/net.h"
#include "net/pki.h"
#include "net/tls.h"
#include "store/disk.h"
#include "store/state.h"

/** What is listened on. */
typedef enum nv_port {
    NV_PORT_MQTTS,
    NV_PORT_AMQPS,
    NV_PORT_HTTPS,
    NV_PORT_MQTT,
    NV_PORT_AMQP,
    NV_PORT_ADMIN,
    NV_PORT_COUNT
} nv_port;

typedef struct nv_up_hook {
    nv_turn_hook hook; /* first member */
    nv_timer idle;
    nv_timer core; /* rings when the first of the hub's own timers is due */
    nv_hub_loop *loop;
} nv_up_hook;

struct nv_up_time;

typedef struct nv_up {
    const nv_args *args;
    const nv_clock *clock;   /* of everything in this process that lives longer than a command */
    struct nv_up_time *time; /* with testing.clock: manual; else NULL */
    int64_t started_us;
    char *data;
    char *config_file; /* or NULL */
    bool dev;
    bool temporary; /* data is removed at the end */
    bool first_start;
    nv_config *config; /* replaced on reload, by loop 0 */
    nv_file *lock;
    nv_pki pki;
    char **names; /* of the hub, its own first; borrowed from config and pki */
    size_t name_count;
    nv_state *state;
    nv_log *log;
    nv_net *net;
    nv_tls_server *tls;
    nv_hub *hub;
    nv_exec **execs;
    nv_up_hook *hooks;
    nv_timer renewal;
    nv_task take_signals;
    uint16_t ports[NV_PORT_COUNT]; /* in use; 0: off */
    bool https_fallback;
    int stops;  /* signals to stop so far; loop 0 */
    nv_buf why; /* one sentence when a step fails */
} nv_up;

/* Steps. Each returns an exit code; when it is not NV_EXIT_OK, up->why says it. */
int nv_up_config(nv_up *up);
void nv_up_config_free(nv_up *up);
/** Which clock the hub goes by. After nv_up_config(), before anything that is given a clock. */
int nv_up_clock(nv_up *up);
void nv_up_clock_free(nv_up *up);
/** The thread that moves simulated time: between the start of the loops and their end. */
int nv_up_clock_start(nv_up *up);
void nv_up_clock_stop(nv_up *up);
/** What POST /testing/clock reaches; NULL: time is the system's. */
const struct nv_http_testing *nv_up_clock_testing(const nv_up *up);
/** Bind every port. Nobody is served before the loops start. */
int nv_up_listen(nv_up *up);
/** hub.json, and what GET /nave/v1/hub says. After nv_up_listen(), before the loops start. */
int nv_up_publish(nv_up *up);
/** Warnings, first words to a newcomer, the ready line. */
int nv_up_announce(nv_up *up);

/** Load the configuration as `nave up` was told to. @return exit code, with up->why */
int nv_up_config_load(nv_up *up, nv_config **out);
/** The address by which programs on this machine reach listeners of net.bind. */
const char *nv_up_local_address(const nv_up *up);
/** Tell nv_diag about level and format. */
void nv_up_apply_diag(const nv_config *config);

/** SIGHUP: configuration and certificates again. Thread: loop 0. */
void nv_up_reload(void *arg);
/** Look after the certificate's age from now on. Before the loops start. */
void nv_up_renewal_start(nv_up *up);

#endif
