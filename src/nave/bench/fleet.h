/**
 * The connections of a run on one epoll: opening them up to CONNACK (and SUBACK), reading, writing, and counting what
 * went wrong. What is done with a ready connection is the mode's affair, told through hooks.
 *
 *   closed -> connecting (TCP, TLS) -> greeting (CONNACK) [-> subscribing (SUBACK)] -> ready -> closed
 *
 * Thread: one.
 */
#ifndef NV_NAVE_BENCH_FLEET_H
#define NV_NAVE_BENCH_FLEET_H

#include "codec/mqtt.h"
#include "nave/bench/credentials.h"
#include "nave/bench/failures.h"
#include "nave/bench/link.h"
#include "nave/bench/mqtt_options.h"

#include <sys/epoll.h>

/** id, name in the figures */
#define NV_FLEET_FAILURES(X)                                                                                           \
    X(TCP, "tcp")                                                                                                      \
    X(TLS, "tls")                                                                                                      \
    X(CONNACK_1, "connack_1")                                                                                          \
    X(CONNACK_2, "connack_2")                                                                                          \
    X(CONNACK_3, "connack_3")                                                                                          \
    X(CONNACK_4, "connack_4")                                                                                          \
    X(CONNACK_5, "connack_5")                                                                                          \
    X(CONNACK_OTHER, "connack_other")                                                                                  \
    X(CLOSED_EARLY, "closed_before_connack")                                                                           \
    X(SUBSCRIBE, "subscribe_refused")                                                                                  \
    X(CLOSED, "closed_by_server")                                                                                      \
    X(PROTOCOL, "protocol_error")                                                                                      \
    X(PUBACK, "puback_not_expected")                                                                                   \
    X(SETUP, "not_open_in_time")                                                                                       \
    X(UNACKED, "never_acknowledged")                                                                                   \
    X(HTTP, "https")                                                                                                   \
    X(STATUS, "https_status")

typedef enum nv_fleet_failure {
#define X(id, name) NV_FLEET_##id,
    NV_FLEET_FAILURES(X)
#undef X
        NV_FLEET_FAILURE_COUNT
} nv_fleet_failure;

enum {
    NV_FLEET_FILTER_DEVICEBOUND = 1, /* with QoS 1 where messages are wanted */
    NV_FLEET_FILTER_METHODS = 2,
    NV_FLEET_FILTER_TWIN = 4,
    NV_FLEET_FILTER_DESIRED = 8,
    NV_FLEET_FILTER_ALL = 15
};

typedef enum nv_client_state {
    NV_CLIENT_CLOSED,
    NV_CLIENT_CONNECTING,
    NV_CLIENT_GREETING,
    NV_CLIENT_SUBSCRIBING,
    NV_CLIENT_READY,
} nv_client_state;

#define NV_CLIENT_PART_MAX 32u   /* no packet that is kept in parts is longer, */
#define NV_CLIENT_HELD_MAX 8192u /* unless the mode wants to see messages */

typedef struct nv_fleet nv_fleet;

/** Who waits on the fleet's epoll: first member of a client or of a mode's own connection. */
typedef struct nv_source {
    void (*event)(nv_fleet *fleet, struct nv_source *source, uint32_t events);
} nv_source;

typedef struct nv_client {
    nv_source source; /* first member */
    nv_link link;
    nv_client_state state;
    uint32_t index;
    uint32_t device;
    uint32_t generation; /* counts starts; tells a restarted connection from the one a handler began with */
    bool watching_write;
    bool resumed;
    int64_t started_ns;
    uint8_t part_len; /* the incomplete packet at the end of the last read */
    uint8_t part[NV_CLIENT_PART_MAX];
    uint8_t *held; /* the incomplete packet where the mode wants messages; owned */
    size_t held_len;
    size_t skip;          /* bytes of an uninteresting packet still to come */
    uint8_t *rest;        /* what a short write left; owned */
    size_t rest_at;       /* first unwritten byte */
    size_t rest_len;      /* 0 = nothing is left */
    SSL_SESSION *session; /* the newest ticket; owned */
} nv_client;

typedef struct nv_fleet_hooks {
    void (*ready)(nv_fleet *fleet, nv_client *client);
    /** @p count PUBACKs of four bytes each. NULL: none is expected. */
    void (*acked)(nv_fleet *fleet, nv_client *client, const uint8_t *acks, size_t count);
    void (*pong)(nv_fleet *fleet, nv_client *client);
    /** A PUBLISH from the server; its spans live during the call. NULL: messages are passed over. */
    void (*message)(nv_fleet *fleet, nv_client *client, const nv_mqtt_publish *publish);
    /** All that arrived in this wake is handled, or what a short write left is gone: write now. */
    void (*turn)(nv_fleet *fleet, nv_client *client);
    /** The connection is closed and counted. */
    void (*failed)(nv_fleet *fleet, nv_client *client);
} nv_fleet_hooks;

struct nv_fleet {
    const nv_bench_mqtt_options *o;
    const nv_fleet_hooks *hooks;
    void *mode; /* the mode's own state */
    nv_bench_credentials credentials;
    struct sockaddr_storage to;
    socklen_t to_len;
    SSL_CTX *tls; /* NULL = plain */
    int epoll;
    nv_client *clients; /* o->connections of them */
    unsigned filters;   /* NV_FLEET_FILTER_ bits to subscribe to; 0 = none */
    bool keep_sessions; /* resume from client->session */
    uint32_t opening;   /* connecting, greeting or subscribing */
    uint32_t ready;
    int64_t now_ns; /* read after each wake and each read */
    uint8_t *in;    /* shared by all reads */
    uint64_t starts;
    nv_bench_failures failures; /* nv_fleet_failure */
    char cipher[96];            /* of the last handshake */
};

/** Credentials, address, TLS, epoll; opens nothing. @return false after one sentence on stderr */
NV_NODISCARD bool nv_fleet_init(nv_fleet *fleet, const nv_bench_mqtt_options *o, const nv_fleet_hooks *hooks,
                                void *mode);
/** DISCONNECT and close what is open, free everything. */
void nv_fleet_deinit(nv_fleet *fleet);

/** Begin one connection of a closed client. */
void nv_fleet_start(nv_fleet *fleet, nv_client *client, uint32_t device);
/** Open all, some at a time. What is not ready after o->setup_s counts as a failure. @return true when all are ready */
bool nv_fleet_open_all(nv_fleet *fleet);
/** Wait for events up to @p timeout_ns (0: look only) and handle them. */
void nv_fleet_poll(nv_fleet *fleet, int64_t timeout_ns);
/** Write; what does not fit now is kept and sent first. @return true when all of it went out */
bool nv_fleet_write(nv_fleet *fleet, nv_client *client, const uint8_t *bytes, size_t len);
/** Send DISCONNECT and close. */
void nv_fleet_stop(nv_fleet *fleet, nv_client *client);
/** Count, remember the first in words, close. @p words NULL: what the link says */
void nv_fleet_fail(nv_fleet *fleet, nv_client *client, nv_fleet_failure failure, const char *words);

#endif
