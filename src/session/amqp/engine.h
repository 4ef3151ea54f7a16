/**
 * AMQP 1.0 as state machines without a socket (part 2, transport): one connection with its sessions and links, for
 * either end. The hub's server and the client of `nave` and the bench are owners of it; the engine knows no device, no
 * address and no right.
 *
 *   carrier --input/sent/tick/lost--> nv_amqp_conn --ops--> owner
 *                                        |  sessions, links
 *           <-- frames in out ---        <--nv_amqp_*()-- owner
 *
 * Order on the wire is the order of the calls: what is settled before something is sent stands before it (clients take
 * a reply that overtakes the disposition of its request for a failure, amqp.md section 2.2). Settlements of consecutive
 * deliveries become one DISPOSITION; they are written at the latest at the end of the turn.
 *
 * Thread: the loop of the carrier, for everything here. Nothing blocks. Callbacks may call anything in this file.
 */
#ifndef NV_SESSION_AMQP_ENGINE_H
#define NV_SESSION_AMQP_ENGINE_H

#include "base/list.h"
#include "codec/amqp/frame.h"
#include "codec/amqp/message.h"
#include "session/session.h"

typedef struct nv_amqp_conn nv_amqp_conn;
typedef struct nv_amqp_session nv_amqp_session;
typedef struct nv_amqp_link nv_amqp_link;

/* ---- errors -------------------------------------------------------------------------------------------------------
 */

/** Conditions on the wire, X(id, symbol): part 2 section 2.8.15 and on, and those of the service (amqp.md
 * section 3.10). */
#define NV_AMQP_CONDITION_TABLE(X)                                                                                     \
    X(NONE, "")                                                                                                        \
    X(INTERNAL_ERROR, "amqp:internal-error")                                                                           \
    X(NOT_FOUND, "amqp:not-found")                                                                                     \
    X(UNAUTHORIZED_ACCESS, "amqp:unauthorized-access")                                                                 \
    X(DECODE_ERROR, "amqp:decode-error")                                                                               \
    X(RESOURCE_LIMIT_EXCEEDED, "amqp:resource-limit-exceeded")                                                         \
    X(NOT_ALLOWED, "amqp:not-allowed")                                                                                 \
    X(INVALID_FIELD, "amqp:invalid-field")                                                                             \
    X(NOT_IMPLEMENTED, "amqp:not-implemented")                                                                         \
    X(RESOURCE_LOCKED, "amqp:resource-locked")                                                                         \
    X(PRECONDITION_FAILED, "amqp:precondition-failed")                                                                 \
    X(RESOURCE_DELETED, "amqp:resource-deleted")                                                                       \
    X(ILLEGAL_STATE, "amqp:illegal-state")                                                                             \
    X(FRAME_SIZE_TOO_SMALL, "amqp:frame-size-too-small")                                                               \
    X(CONNECTION_FORCED, "amqp:connection:forced")                                                                     \
    X(FRAMING_ERROR, "amqp:connection:framing-error")                                                                  \
    X(CONNECTION_REDIRECT, "amqp:connection:redirect")                                                                 \
    X(WINDOW_VIOLATION, "amqp:session:window-violation")                                                               \
    X(ERRANT_LINK, "amqp:session:errant-link")                                                                         \
    X(HANDLE_IN_USE, "amqp:session:handle-in-use")                                                                     \
    X(UNATTACHED_HANDLE, "amqp:session:unattached-handle")                                                             \
    X(DETACH_FORCED, "amqp:link:detach-forced")                                                                        \
    X(TRANSFER_LIMIT_EXCEEDED, "amqp:link:transfer-limit-exceeded")                                                    \
    X(MESSAGE_SIZE_EXCEEDED, "amqp:link:message-size-exceeded")                                                        \
    X(LINK_REDIRECT, "amqp:link:redirect")                                                                             \
    X(STOLEN, "amqp:link:stolen")                                                                                      \
    X(DEVICE_CONTAINER_THROTTLED, "com.microsoft:device-container-throttled")                                          \
    X(QUOTA_EXCEEDED, "com.microsoft:quota-exceeded")                                                                  \
    X(ARGUMENT_ERROR, "com.microsoft:argument-error")                                                                  \
    X(ARGUMENT_OUT_OF_RANGE, "com.microsoft:argument-out-of-range")                                                    \
    X(MESSAGE_LOCK_LOST, "com.microsoft:message-lock-lost")                                                            \
    X(TIMEOUT, "com.microsoft:timeout")                                                                                \
    X(LINK_CREATION_CONFLICT, "com.microsoft:link-creation-conflict")

typedef enum nv_amqp_condition {
#define X(id, symbol) NV_AMQP_ERR_##id,
    NV_AMQP_CONDITION_TABLE(X)
#undef X
} nv_amqp_condition;

/** Static storage. */
const char *nv_amqp_condition_name(nv_amqp_condition condition);

/**
 * An error as it is given to the engine or came from the peer. On the wire all three fields are always there; an empty
 * info becomes a map with com.microsoft:tracking-id (amqp.md section 7.6).
 */
typedef struct nv_amqp_problem {
    nv_amqp_condition condition; /* from the peer: NONE when the symbol is not in the table */
    nv_span symbol;              /* from the peer: as sent; empty: there was no error */
    nv_span description;
    nv_span info; /* an encoded map, or empty */
} nv_amqp_problem;

/* ---- connection -----------------------------------------------------------------------------------------------------
 */

typedef struct nv_amqp_conn_ops {
    /**
     * Server: the peer chose a mechanism of those offered. Answer with nv_amqp_sasl_done(), now or later; nothing is
     * read meanwhile. Spans are valid during the call. A mechanism that was not offered never gets here.
     */
    void (*sasl)(nv_amqp_conn *conn, nv_span mechanism, nv_span initial_response, nv_span hostname);
    /** The peer's OPEN. The server's own was sent or is sent when this returns, unless it closes here. */
    void (*opened)(nv_amqp_conn *conn, const nv_amqp_open *open);
    /**
     * The peer attached a link: answer with nv_amqp_link_accept() or _refuse(), now or later; link->attach is valid
     * until then. Transfers that arrive before are kept waiting (nothing is read). Who answers later sets link->ops
     * and link->owner at once: detached() tells when the link is over before that, and no answer is due. Who does not
     * must answer: what would end the link waits, or the link lives on, dead, until then. NULL: all are refused.
     */
    void (*attach)(nv_amqp_conn *conn, nv_amqp_link *link);
    /** The connection is over: CLOSE from the peer, an error of ours, or the transport is gone. Each link was told
     * before (detached). Nothing more is called but free. Call nv_amqp_conn_done() when nothing holds the memory any
     * more, here or later. */
    void (*ended)(nv_amqp_conn *conn, const nv_amqp_problem *problem);
    /** The peer broke a rule, for which the engine ends one link or session (@p what): for the log. The spans are valid
     * during the call, which calls nothing of the engine. NULL is fine. */
    void (*broken)(nv_amqp_conn *conn, const char *what, const nv_amqp_problem *problem);
    /** The peer begins one session more than config.sessions. True: those were raised; false, or NULL: it may not. */
    bool (*crowded)(nv_amqp_conn *conn);
    /** An owner's deadline (nv_amqp_conn_set_deadline) is due. NULL is fine. */
    void (*tick)(nv_amqp_conn *conn, int64_t now_us);
    /** The hub stops: nv_amqp_conn_close() after what was promised. */
    void (*drain)(nv_amqp_conn *conn);
    /** After done: free the memory that conn is in; nv_amqp_conn_deinit() first. */
    void (*free)(nv_amqp_conn *conn);
} nv_amqp_conn_ops;

typedef struct nv_amqp_config {
    const char *container_id;    /* borrowed for the life of the connection */
    const char *hostname;        /* client: OPEN.hostname and SASL hostname; server: NULL */
    const char *sasl_mechanisms; /* server: offered, separated by spaces. Client: the one to use, NULL: no SASL layer */
    nv_span sasl_response;       /* client: initial response; copied, wiped after use */
    uint32_t max_frame_size;     /* what we take; at least 512 */
    uint16_t channel_max;
    uint32_t handle_max;
    uint32_t idle_time_out_ms;    /* told to the peer; silence for as long as it ends the connection. 0: none */
    uint32_t min_peer_idle_ms;    /* a peer that asks for less is refused; 0: any */
    int64_t open_deadline_us;     /* from the start to OPEN; 0: none */
    size_t max_unsettled_bytes;   /* deliveries handed to owners and not settled, and parts of incomplete ones, over the
                                     whole   connection: beyond it session windows close and nothing is read */
    size_t unauthenticated_frame; /* largest frame until nv_amqp_conn_authenticated(); 0: max_frame_size */
    size_t output_mark;           /* links are told to wait while more than this stands in the output */
    uint32_t sessions;            /* the most the peer may have; beyond: connection error */
    uint32_t links;               /* the most of the connection; beyond: the link is refused */
} nv_amqp_config;

typedef enum nv_amqp_conn_state {
    NV_AMQP_CONN_HEADER,  /* waiting for a protocol header */
    NV_AMQP_CONN_SASL,    /* mechanisms, init, outcome */
    NV_AMQP_CONN_OPENING, /* one OPEN is missing */
    NV_AMQP_CONN_OPENED,
    NV_AMQP_CONN_CLOSING, /* our CLOSE is out */
    NV_AMQP_CONN_CLOSED
} nv_amqp_conn_state;

/** First member of the owner's struct. */
struct nv_amqp_conn {
    nv_session session; /* first member: what the carrier carries */
    const nv_amqp_conn_ops *ops;
    nv_amqp_config config;
    nv_amqp_conn_state state;
    bool server;
    bool sasl_done;          /* a SASL layer was there and ended well */
    uint32_t peer_max_frame; /* from its OPEN */
    uint32_t link_count;
    nv_list sessions;                /* nv_amqp_session._node */
    struct nv_amqp_conn_private *_p; /* what else the engine keeps; engine_impl.h */
};

/** @p config is copied. The server waits for the peer; the client writes at once. */
void nv_amqp_server_init(nv_amqp_conn *conn, nv_carrier *carrier, const nv_amqp_conn_ops *ops,
                         const nv_amqp_config *config);
void nv_amqp_client_init(nv_amqp_conn *conn, nv_carrier *carrier, const nv_amqp_conn_ops *ops,
                         const nv_amqp_config *config);
void nv_amqp_conn_deinit(nv_amqp_conn *conn);

/** @param code  0: authenticated; 1: not (the connection closes) */
void nv_amqp_sasl_done(nv_amqp_conn *conn, uint8_t code);
/** The peer is known: it leaves the caps on strangers. */
void nv_amqp_conn_authenticated(nv_amqp_conn *conn);
/** Send CLOSE and end once the peer answers or 5 s have passed. Links are told at once. Harmless when already closing.
 * @p condition NONE: without an error */
void nv_amqp_conn_close(nv_amqp_conn *conn, nv_amqp_condition condition, const char *description);
/** Cut without a word (fault injection). */
void nv_amqp_conn_abort(nv_amqp_conn *conn);
void nv_amqp_conn_done(nv_amqp_conn *conn);
/** Monotonic; INT64_MAX: none. One per connection. */
void nv_amqp_conn_set_deadline(nv_amqp_conn *conn, int64_t at_us);
/** A delivery() that said false may be offered again. */
void nv_amqp_conn_resume(nv_amqp_conn *conn);

/* ---- sessions ------------------------------------------------------------------------------------------------------
 */

struct nv_amqp_session {
    nv_amqp_conn *conn;
    nv_list links; /* nv_amqp_link._node, in the order of their ATTACH */
    nv_list _node;
    uint16_t channel; /* ours */
    /* the rest is in engine_impl.h, behind this */
};

/** Client: BEGIN; from opened() on. A session that the peer ends is gone once its links were told. Server sessions
 * begin by themselves. @return NULL: the connection is not open, or no channel is free */
nv_amqp_session *nv_amqp_session_begin(nv_amqp_conn *conn);
/** END; its links are told. */
void nv_amqp_session_end(nv_amqp_session *session, nv_amqp_condition condition, const char *description);

/* ---- links ------------------------------------------------------------------------------------------------------- */

/** A message that arrived whole. */
typedef struct nv_amqp_delivery {
    uint32_t id;     /* names it in nv_amqp_link_settle() */
    nv_span tag;     /* at most 32 bytes */
    uint32_t format; /* message-format: 0, or NV_AMQP_FORMAT_BATCH */
    bool settled;    /* by the sender: nothing is settled back */
    nv_span bytes;   /* valid during the call; in place where it came in one frame */
} nv_amqp_delivery;

typedef enum nv_amqp_outcome_kind {
    NV_AMQP_OUT_NONE, /* settled without a state */
    NV_AMQP_OUT_ACCEPTED,
    NV_AMQP_OUT_REJECTED,
    NV_AMQP_OUT_RELEASED,
    NV_AMQP_OUT_MODIFIED,
    NV_AMQP_OUT_OTHER /* a state that ends nothing (received, transactional): only if settled */
} nv_amqp_outcome_kind;

typedef struct nv_amqp_outcome {
    nv_amqp_outcome_kind kind;
    bool settled;            /* from the peer: it is done; false: it waits for our settled DISPOSITION */
    bool undeliverable_here; /* MODIFIED */
    bool delivery_failed;    /* MODIFIED */
    nv_amqp_problem problem; /* REJECTED */
} nv_amqp_outcome;

typedef struct nv_amqp_link_ops {
    /** Client: the peer answered ATTACH (@p attach valid during the call); a refusal follows as detached(). */
    void (*attached)(nv_amqp_link *link, const nv_amqp_attach *attach);
    /** We receive. @return false: not now; offered again after nv_amqp_conn_resume(), nothing is read meanwhile */
    bool (*delivery)(nv_amqp_link *link, const nv_amqp_delivery *delivery);
    /** We send: nv_amqp_link_room() may have become true (credit came, the window opened, the output was read), or the
     * peer wants its credit used up (link->drain): send what there is, then nv_amqp_link_drained(). */
    void (*room)(nv_amqp_link *link);
    /** We send: what the peer said of a delivery that was sent unsettled with `track`. If !outcome->settled, answer
     * with nv_amqp_link_settle() once what it asks for is done. NULL: settled back at once. */
    void (*outcome)(nv_amqp_link *link, uint32_t id, uint64_t cookie, const nv_amqp_outcome *outcome);
    /** The link is over, by the peer's DETACH or because its session or connection is: release what it holds; the
     * memory of the link goes when this returns. Not called after nv_amqp_link_detach() and _refuse().
     * @p problem symbol empty: without an error */
    void (*detached)(nv_amqp_link *link, const nv_amqp_problem *problem);
} nv_amqp_link_ops;

struct nv_amqp_link {
    nv_amqp_session *session;
    nv_amqp_conn *conn;
    const nv_amqp_link_ops *ops;
    void *owner; /* of the ops */
    nv_list _node;
    nv_span name;
    bool sender;                  /* we send on it; the peer is the receiver */
    bool drain;                   /* the peer asked for it */
    uint8_t snd_settle_mode;      /* as agreed: 0 unsettled, 1 settled, 2 mixed */
    uint8_t rcv_settle_mode;      /* 0 first, 1 second */
    uint32_t credit;              /* sender: deliveries the peer has room for; receiver: what we gave and is not used */
    uint64_t peer_max_message;    /* 0: none */
    const nv_amqp_attach *attach; /* server: the peer's, with source and target decoded below; NULL once answered */
    const nv_amqp_source *source;
    const nv_amqp_target *target;
    /* the rest is in engine_impl.h, behind this */
};

typedef struct nv_amqp_accept {
    const nv_amqp_link_ops *ops;
    void *owner;
    uint32_t credit; /* we receive: how many may be unsettled or on their way; topped up at half by the engine */
    uint64_t max_message_size; /* we receive; 0: 1 MiB */
    bool pre_settled;          /* we send: all settled (snd-settle-mode 1) */
    bool rcv_first;            /* answer rcv-settle-mode 0 whatever was asked */
    nv_span properties;        /* an encoded map; empty: one with com.microsoft:tracking-id */
} nv_amqp_accept;

/** ATTACH with source, target and filter echoed; then FLOW with the credit. */
void nv_amqp_link_accept(nv_amqp_link *link, const nv_amqp_accept *accept);
/** ATTACH with null termini, then DETACH closed with the error; no FLOW. The link is gone when this returns.
 * @p info  an encoded map, or empty */
void nv_amqp_link_refuse(nv_amqp_link *link, nv_amqp_condition condition, const char *description, nv_span info);
/** DETACH closed; nothing of the link is called any more and the pointer is not to be used. */
void nv_amqp_link_detach(nv_amqp_link *link, nv_amqp_condition condition, const char *description);
/** The same with an error whose info is @p info, an encoded map. */
void nv_amqp_link_detach_with(nv_amqp_link *link, nv_amqp_condition condition, const char *description, nv_span info);

typedef struct nv_amqp_attach_options {
    const char *name;
    bool sender;
    nv_span source; /* encoded source and target; empty: one with the address alone */
    nv_span target;
    const char *address; /* of the peer's node, used where source (receiver) or target (sender) is empty */
    uint8_t snd_settle_mode;
    uint8_t rcv_settle_mode;
    nv_span properties;           /* encoded map, or empty */
    nv_span desired_capabilities; /* encoded, or empty */
    const nv_amqp_link_ops *ops;
    void *owner;
    uint32_t credit; /* we receive */
} nv_amqp_attach_options;
/** Client. Nothing need be waited for after nv_amqp_session_begin(). @return NULL: the session has ended, a link of
 * this name and role is attached, or the ATTACH does not fit a frame of the peer's */
nv_amqp_link *nv_amqp_link_attach(nv_amqp_session *session, const nv_amqp_attach_options *options);

/** We receive: settle one delivery. Consecutive ones with the same outcome share a DISPOSITION. Also answers outcomes
 * of a receiver in mode second (we send). Harmless for an id that is settled already. */
void nv_amqp_link_settle(nv_amqp_link *link, uint32_t id, const nv_amqp_outcome *outcome);
static inline void nv_amqp_link_accept_delivery(nv_amqp_link *link, uint32_t id)
{
    nv_amqp_link_settle(link, id, &(nv_amqp_outcome){.kind = NV_AMQP_OUT_ACCEPTED});
}
/** Settle the @p count oldest unsettled deliveries of the link (they were taken in this order): for telemetry. */
void nv_amqp_link_settle_oldest(nv_amqp_link *link, uint32_t count, const nv_amqp_outcome *outcome);
/** We receive: change the credit window; 0 stops the peer. */
void nv_amqp_link_set_credit(nv_amqp_link *link, uint32_t credit);

typedef struct nv_amqp_send {
    nv_span tag; /* at most 32 bytes; empty: the delivery's number */
    uint32_t format;
    bool settled;
    bool track;      /* unsettled: outcome() wants to hear; false: outcomes are ignored */
    uint64_t cookie; /* the owner's, given back by outcome() */
    nv_span head;    /* the message is head and body one behind the other; both are copied into the output */
    nv_span body;
} nv_amqp_send;

/** True when a message can be sent now: credit, window, and output below the mark. When false room() follows. */
bool nv_amqp_link_room(nv_amqp_link *link);
/** Send one message, in as many frames as the peer needs. @return NV_OK, *id is the delivery's; NV_E_AGAIN no room;
 * NV_E_TOO_BIG beyond the peer's max-message-size */
NV_NODISCARD nv_err nv_amqp_link_send(nv_amqp_link *link, const nv_amqp_send *send, uint32_t *id);
/** Nothing more to send in answer to drain: the credit is given back by a FLOW. */
void nv_amqp_link_drained(nv_amqp_link *link);

#endif
