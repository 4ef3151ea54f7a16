/**
 * HTTPS connections of the generator's service side, on the fleet's epoll: each carries one request at a time, kept
 * alive. Thread: one.
 */
#ifndef NV_NAVE_BENCH_HTTP_LANE_H
#define NV_NAVE_BENCH_HTTP_LANE_H

#include "nave/bench/fleet.h"

#define NV_HTTP_LANE_BYTES ((size_t)32 * 1024) /* of a request, and of an answer */

typedef struct nv_http_lanes nv_http_lanes;

typedef struct nv_http_lane {
    nv_source source; /* first member */
    nv_http_lanes *lanes;
    nv_link link;
    uint32_t index;
    bool open;    /* the handshake is through */
    bool busy;    /* a request waits for its answer */
    uint64_t tag; /* of the request, the mode's own */
    int64_t since_ns;
    size_t out_at;
    size_t out_len;
    size_t in_len;
    char *out; /* NV_HTTP_LANE_BYTES; owned */
    char *in;  /* NV_HTTP_LANE_BYTES; owned */
} nv_http_lane;

struct nv_http_lanes {
    nv_fleet *fleet;
    nv_http_lane *lanes;
    uint32_t count;
    uint32_t open;
    SSL_CTX *tls;
    struct sockaddr_storage to;
    /** The answer to lane->tag; the lane is free again. */
    void (*answered)(nv_http_lane *lane, unsigned status, nv_span body);
};

/** Open all; blocks until they stand or the setup time is over. @return false with a failure counted in the fleet */
NV_NODISCARD bool nv_http_lanes_init(nv_http_lanes *lanes, nv_fleet *fleet,
                                     void (*answered)(nv_http_lane *lane, unsigned status, nv_span body));
void nv_http_lanes_deinit(nv_http_lanes *lanes);
/** Send a JSON request on a free lane. @p since_ns when it was due: latency counts from there */
void nv_http_lane_send(nv_http_lane *lane, uint64_t tag, int64_t since_ns, const char *method, const char *path,
                       const char *body);

#endif
