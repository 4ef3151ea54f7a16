/** The CONNECT packet of every device of a run, with its shared access signature, computed before the clock starts. */
#ifndef NV_NAVE_BENCH_CREDENTIALS_H
#define NV_NAVE_BENCH_CREDENTIALS_H

#include "base/attrs.h"
#include "base/err.h"
#include "base/span.h"
#include "nave/bench/mqtt_options.h"

/** A zeroed structure is valid for deinit. */
typedef struct nv_bench_credentials {
    size_t count;
    nv_span *connects; /* one CONNECT packet per device; owned, as are the bytes */
    char **ids;        /* client id of each device; owned */
    char **tokens;     /* shared access signature of each device, NULL when anonymous; owned */
    char *policy;      /* that signs; NULL without one; owned */
    char *service;     /* token of the policy for the whole hub, for REST; NULL without a policy; owned */
    char *host;        /* the hub's name; NULL when anonymous; owned */
} nv_bench_credentials;

/** @return NV_E_INVALID after one sentence on stderr: no usable key, or a connection string that is none */
NV_NODISCARD nv_err nv_bench_credentials_init(nv_bench_credentials *out, const nv_bench_mqtt_options *o);
void nv_bench_credentials_deinit(nv_bench_credentials *credentials);

#endif
