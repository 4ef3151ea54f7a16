/**
 * The client's side of AMQP for the program and the load generator: one connection with its credentials, and the
 * request-response nodes `$cbs` and `$management`. Links are the engine's own (engine.h); they are attached from
 * ready() on.
 *
 *   PLAIN: user and token in the SASL exchange; what the principal may, the connection may, until the token ends.
 *   CBS:   ANONYMOUS, then a token is put on $cbs, and again before it ends; the connection goes on for ever.
 *
 * Thread: the loop of the carrier, for everything here. Nothing blocks.
 */
#ifndef NV_SESSION_AMQP_CLIENT_H
#define NV_SESSION_AMQP_CLIENT_H

#include "session/amqp/engine.h"

typedef struct nv_amqp_client nv_amqp_client;

typedef struct nv_amqp_client_config {
    /* texts are copied */
    const char *hostname;     /* OPEN.hostname and that of SASL */
    const char *container_id; /* unique among the connections of the peer */
    const char *user;         /* SASL PLAIN with password; NULL: ANONYMOUS */
    const char *password;
    const char *audience; /* what tokens are put for, such as sb://host/entity; NULL: none are */
    /** A token for the audience, and how long it lasts; the caller of malloc is here, the client wipes and frees. NULL:
     * there is none, which ends the connection. */
    char *(*make_token)(void *arg, const char *audience, int64_t *life_s);
    size_t max_unsettled_bytes; /* 0: 16 MiB */
    uint32_t max_frame_size;    /* 0: 64 KiB */
    uint32_t idle_time_out_ms;  /* of the peer's silence; 0: 2 minutes */
    const nv_clock *clock;      /* NULL: the system's */
    /** Open and authorised. At most once. */
    void (*ready)(nv_amqp_client *client, void *arg);
    /**
     * Over: refused, closed by the peer, lost, or nv_amqp_client_close(). Links were told before. Exactly once, the
     * last call; the client is not to be used any more. @p why one clause without a period, valid during the call
     */
    void (*ended)(nv_amqp_client *client, void *arg, nv_amqp_condition condition, const char *why);
    void *arg;
} nv_amqp_client_config;

/** For nv_client_config.connected: a session that has begun to speak. It frees itself after ended(). */
nv_session *nv_amqp_client_new(nv_carrier *carrier, const nv_amqp_client_config *config, nv_amqp_client **out);
nv_amqp_conn *nv_amqp_client_conn(nv_amqp_client *client);
/** CLOSE in order; ended() follows. */
void nv_amqp_client_close(nv_amqp_client *client);

/* ---- requests and answers ------------------------------------------------------------------------------------------
 */

typedef struct nv_amqp_node nv_amqp_node;

/** One request. The caller's memory, from ask to done. */
typedef struct nv_amqp_ask {
    /* in; valid until done */
    const char *const *properties; /* application properties in turn, name and text; ends with NULL */
    const char *body;              /* amqp-value string; NULL: null */
    /** Once. @p reply valid during the call; NULL: there is none, because the node or the connection ended or the
     * request was refused: status is 0 then, and description says why. */
    void (*done)(struct nv_amqp_ask *ask, int status, nv_span description, const nv_amqp_message *reply);
    void *arg;
    /* private */
    nv_list _link;
    uint64_t _id;
    bool _sent;
} nv_amqp_ask;

/** The pair of links of a node such as "$management", on a session of its own. Lives until the connection ends. */
nv_amqp_node *nv_amqp_node_open(nv_amqp_client *client, const char *address);
/** Sent when there is credit. done() may be called from within when the node has ended. */
void nv_amqp_node_ask(nv_amqp_node *node, nv_amqp_ask *ask);

/* ---- links ------------------------------------------------------------------------------------------------------- */

/** An encoded source: @p address with @p filter, the text of a selector (amqp.md section 5.5); NULL: without one. */
void nv_amqp_put_source(nv_writer *w, const char *address, const char *filter);
/** In words: the description, else the condition. */
void nv_amqp_explain(const nv_amqp_problem *problem, char *out, size_t size);

#endif
