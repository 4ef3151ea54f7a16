/**
 * The AMQP connections of a run on one epoll: opening them (TCP, TLS, SASL, OPEN, a token for each device where several
 * share a connection), reading, writing, and counting what went wrong. Links are the mode's affair. The engine is the
 * hub's own, its client half.
 *
 *   closed -> connecting (TCP, TLS) -> opening (SASL, OPEN) [-> claims ($cbs)] -> ready -> closed
 *
 * Thread: one.
 */
#ifndef NV_NAVE_BENCH_AMQP_FLEET_H
#define NV_NAVE_BENCH_AMQP_FLEET_H

#include "nave/bench/amqp_options.h"
#include "nave/bench/credentials.h"
#include "nave/bench/failures.h"
#include "nave/bench/histogram.h"
#include "nave/bench/link.h"
#include "nave/bench/usage.h"
#include "session/amqp/engine.h"

/** id, name in the figures */
#define NV_AMQP_FLEET_FAILURES(X)                                                                                      \
    X(TCP, "tcp")                                                                                                      \
    X(TLS, "tls")                                                                                                      \
    X(REFUSED, "connection_refused")                                                                                   \
    X(TOKEN, "token_refused")                                                                                          \
    X(LINK, "link_refused_or_detached")                                                                                \
    X(CLOSED, "closed_by_server")                                                                                      \
    X(REJECTED, "message_refused")                                                                                     \
    X(CONTENT, "unexpected_message")                                                                                   \
    X(SETUP, "not_open_in_time")                                                                                       \
    X(UNACKED, "never_acknowledged")

typedef enum nv_amqp_fleet_failure {
#define X(id, name) NV_AMQP_FLEET_##id,
    NV_AMQP_FLEET_FAILURES(X)
#undef X
        NV_AMQP_FLEET_FAILURE_COUNT
} nv_amqp_fleet_failure;

typedef enum nv_amqp_peer_state {
    NV_AMQP_PEER_CLOSED,
    NV_AMQP_PEER_CONNECTING,
    NV_AMQP_PEER_OPENING,
    NV_AMQP_PEER_CLAIMS,
    NV_AMQP_PEER_READY
} nv_amqp_peer_state;

/** Who a connection is. */
typedef enum nv_amqp_role {
    NV_AMQP_ROLE_DEVICES, /* one device by PLAIN, or several by tokens; a queue's user */
    NV_AMQP_ROLE_READER   /* the policy, or a queue's user */
} nv_amqp_role;

typedef struct nv_amqp_fleet nv_amqp_fleet;

typedef struct nv_amqp_peer {
    nv_amqp_conn conn; /* first member */
    nv_amqp_fleet *fleet;
    nv_amqp_role role;
    uint32_t index; /* within its role */
    nv_amqp_peer_state state;
    bool alive; /* conn is initialised */
    bool watching_write;
    nv_list dirty_link; /* in fleet->dirty */
    nv_link link;
    nv_carrier carrier;
    nv_buf out;
    nv_buf rest;                /* bytes the engine did not take yet */
    nv_amqp_session *session;   /* where links are attached now */
    uint32_t session_links;     /* in it */
    nv_amqp_link *claim_sender; /* $cbs */
    uint32_t claims_sent;       /* devices of this connection, in turn */
    uint32_t claims_done;
} nv_amqp_peer;

struct nv_amqp_fleet {
    const nv_bench_amqp_options *o;
    void *mode; /* the mode's own state */
    /** The connection may attach links. */
    void (*ready)(nv_amqp_fleet *fleet, nv_amqp_peer *peer);
    nv_bench_credentials credentials;
    struct sockaddr_storage to;
    socklen_t to_len;
    SSL_CTX *tls; /* NULL = plain */
    int epoll;
    nv_amqp_peer *peers; /* devices first, then readers */
    uint32_t peer_count;
    uint32_t device_peers;
    nv_list dirty; /* nv_amqp_peer.dirty_link: something may be to be written */
    uint32_t opening;
    uint32_t open;
    uint32_t links_wanted; /* by those that are ready */
    uint32_t links_ready;
    int64_t now_ns; /* read after each wake and each read */
    int64_t ticked_ns;
    uint8_t *in;                /* shared by all reads */
    nv_bench_failures failures; /* nv_amqp_fleet_failure */
    char cipher[96];            /* of the last handshake */
};

/** Credentials, address, TLS, epoll; opens nothing. @return false after one sentence on stderr */
NV_NODISCARD bool nv_amqp_fleet_init(nv_amqp_fleet *fleet, const nv_bench_amqp_options *o, uint32_t device_peers,
                                     uint32_t readers, void (*ready)(nv_amqp_fleet *fleet, nv_amqp_peer *peer),
                                     void *mode);
/** Close what is open, free everything. */
void nv_amqp_fleet_deinit(nv_amqp_fleet *fleet);

/** Open the connections from @p first on and wait for them and for the links they attach. What is not there after
 * o->base.setup_s counts as a failure. @return true when all are */
bool nv_amqp_fleet_open(nv_amqp_fleet *fleet, uint32_t first, uint32_t count);
/** Wait for events up to @p timeout_ns (0: look only), handle them, write what came of them. */
void nv_amqp_fleet_poll(nv_amqp_fleet *fleet, int64_t timeout_ns);
void nv_amqp_fleet_fail(nv_amqp_fleet *fleet, nv_amqp_peer *peer, nv_amqp_fleet_failure failure, const char *words);
/** The same, with what the other side said of it. */
void nv_amqp_fleet_fail_problem(nv_amqp_fleet *fleet, nv_amqp_peer *peer, nv_amqp_fleet_failure failure,
                                const nv_amqp_problem *problem);

/** Attach one link more. The members that name sessions and credit of links are filled in here. */
nv_amqp_link *nv_amqp_peer_attach(nv_amqp_peer *peer, const nv_amqp_attach_options *options);
/** The number of devices on a connection, and the number of its n-th one. */
uint32_t nv_amqp_peer_devices(const nv_amqp_peer *peer);
static inline uint32_t nv_amqp_peer_device(const nv_amqp_peer *peer, uint32_t n)
{
    return peer->index + n * peer->fleet->device_peers;
}

/** A link ended, and not by us: a failure, unless it ends because its connection does, which is counted there. */
void nv_amqp_peer_lost_link(nv_amqp_peer *peer, const nv_amqp_problem *problem);

/** Parameters of the run and the cipher: the head of every report. */
void nv_amqp_report_begin(nv_report *report, const nv_amqp_fleet *fleet);

/* ---- amqp_claims.c -------------------------------------------------------------------------------------------- */

/** Put a token for each device of the connection; it is ready when all are accepted. */
void nv_amqp_claims_begin(nv_amqp_peer *peer);
/** Internal: the connection may be used. */
void nv_amqp_peer_ready(nv_amqp_peer *peer);

#endif
