/** What `nave bench mqtt` was asked to do, and what `nave bench amqp` shares of it. */
#ifndef NV_NAVE_BENCH_MQTT_OPTIONS_H
#define NV_NAVE_BENCH_MQTT_OPTIONS_H

#include "nave/bench/options.h"
#include "nave/bench/report.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum nv_bench_mode {
    NV_BENCH_PUBLISH,
    NV_BENCH_IDLE,
    NV_BENCH_STORM,
    NV_BENCH_TWIN,
    NV_BENCH_METHOD,
    NV_BENCH_DESIRED,
    NV_BENCH_C2D
} nv_bench_mode;
typedef enum nv_bench_subscribe { NV_BENCH_SUBSCRIBE_AUTO, NV_BENCH_SUBSCRIBE_YES, NV_BENCH_SUBSCRIBE_NO } nv_bench_sub;

typedef struct nv_bench_mqtt_options {
    const char *host;
    uint64_t port; /* 0 = 8883 with TLS, 1883 without */
    uint64_t https_port;
    uint64_t requests; /* HTTPS connections of the service side */
    bool tls;
    const char *ca;
    unsigned tls_version; /* 0 = 1.3, 1 = 1.2 */
    bool resume;
    unsigned mode; /* nv_bench_mode */
    uint64_t connections;
    uint64_t devices; /* 0 = as many as connections */
    uint64_t window;
    uint64_t size; /* of a body, bytes */
    uint64_t qos;
    double duration_s;
    double warmup_s;
    double setup_s; /* limit for opening all connections, and for the last acknowledgements */
    uint64_t rate;  /* messages a second over all connections; 0 = closed loop */
    bool spin;      /* look for answers all the time instead of sleeping until they come */
    const char *hub;
    const char *policy;
    const char *key;
    const char *prefix;
    bool anonymous;
    unsigned subscribe; /* nv_bench_sub */
    uint64_t pid;
    unsigned json; /* 0 table, 1 json */
} nv_bench_mqtt_options;

void nv_bench_mqtt_usage(FILE *to);
/** @return false after one sentence on stderr */
bool nv_bench_mqtt_options_parse(nv_bench_mqtt_options *out, int argc, char **argv);
/** Every parameter of the run, as figures. Keys are left out. */
void nv_bench_mqtt_options_report(const nv_bench_mqtt_options *o, nv_report *report);

/* ---- what the protocols share, for options that begin with nv_bench_mqtt_options ------------------------- */

extern const nv_bench_opts nv_bench_common_opts;
nv_bench_mqtt_options nv_bench_common_defaults(void);
/** The last check of all. @param wrong  what the protocol's own found, or NULL
 * @return false after one sentence on stderr */
NV_NODISCARD bool nv_bench_common_check(const nv_bench_mqtt_options *o, bool idle, const char *wrong);
/** The figures that every run begins with, and those that say how fast it was to be. */
void nv_bench_report_peer(const nv_bench_mqtt_options *o, const char *mode, nv_report *report);
void nv_bench_report_pace(const nv_bench_mqtt_options *o, nv_report *report);

#endif
