/**
 * For tests: a hub over real stores in a temporary folder, with a manual clock, and AMQP clients (the client half of
 * the engine) joined in memory to its AMQP sessions. One process, one loop.
 *
 *   amqp_rig *rig = amqp_rig_new(NULL);
 *   amqp_rig_add(rig, "d1", NULL);
 *   amqp_client *c = amqp_client_device(rig, "d1", NULL);          // SASL PLAIN, opened, one session begun
 *   amqp_client_link *l = amqp_client_attach(c, true, "/devices/d1/messages/events", NULL);
 *   amqp_client_send(l, message, false);  amqp_rig_settle(rig);    // -> l->outcomes
 *   amqp_client_free(c);  amqp_rig_free(rig);
 *
 * What fails in here fails the test (cmocka). Nothing returns before the hub is quiet.
 */
#ifndef NV_SESSION_AMQP_RIG_H
#define NV_SESSION_AMQP_RIG_H

#include "core/devices.h"
#include "core/hub.h"
#include "core/identity.h"
#include "core/registry.h"
#include "session/amqp/engine.h"
#include "session/amqp/server.h"
#include "store/state.h"

#define AMQP_RIG_HOST      "hub.test"    /* short name "hub" */
#define AMQP_RIG_NAMESPACE "hub-ns.test" /* another alias */
#define AMQP_RIG_WALL_US   (INT64_C(1795228000) * NV_US_PER_S)

/** Primary key of every device and module; the secondary differs in its first byte. */
extern const nv_key amqp_rig_key;
extern const nv_key amqp_rig_secondary_key;

typedef struct amqp_rig_options {
    const nv_limits *limits; /* NULL: nv_limits_open */
    bool fault_injection;
} amqp_rig_options;

typedef struct amqp_rig {
    nv_exec_queue queue;
    nv_manual_clock clock;
    nv_seeded_rng rng;
    char dir[64];
    nv_state *state;
    nv_log *log;
    nv_hub *hub;
    nv_list clients; /* amqp_client.node */
    uint64_t connections;
    bool registered;     /* the registry has answered */
    char last_line[512]; /* of the log, at INFO or above */
} amqp_rig;

/** @p options may be NULL. */
amqp_rig *amqp_rig_new(const amqp_rig_options *options);
/** All clients are freed. */
void amqp_rig_free(amqp_rig *rig);
static inline nv_hub_loop *amqp_rig_loop(const amqp_rig *rig)
{
    return &rig->hub->loops[0];
}

/** Everything that follows from what was done: bytes, tasks, what the stores were asked for. */
void amqp_rig_settle(amqp_rig *rig);
/** Time passes, then what is due runs, in steps of at most a second. */
void amqp_rig_advance(amqp_rig *rig, int64_t us);

/* ---- identities ------------------------------------------------------------------------------------------------ */

/** Register with SAS keys. @p module may be NULL. */
void amqp_rig_add(amqp_rig *rig, const char *device, const char *module);
/** Register with the thumbprint of amqp_rig_certificate(). */
void amqp_rig_add_x509(amqp_rig *rig, const char *device);
const nv_peer_certificate *amqp_rig_certificate(void);
/** Change it, or register one that is not there yet; done when it has been said to everybody. */
void amqp_rig_put(amqp_rig *rig, const nv_identity_spec *spec);
void amqp_rig_delete(amqp_rig *rig, const char *device, const char *module);
/** The spec of amqp_rig_add(), to be changed. */
nv_identity_spec amqp_rig_spec(const char *device, const char *module);

/* ---- tokens ---------------------------------------------------------------------------------------------------- */

typedef struct amqp_token {
    const char *resource; /* not encoded, e.g. "hub.test/devices/d1" */
    const char *policy;   /* signed with its key; NULL: with @p key */
    const nv_key *key;    /* NULL: amqp_rig_key */
    bool as_text;         /* the key's base64 text signs */
    int64_t ttl_s;        /* 0: an hour */
} amqp_token;
/** Static storage until the fourth call from now. */
const char *amqp_rig_token(amqp_rig *rig, const amqp_token *token);

/* ---- clients --------------------------------------------------------------------------------------------------- */

typedef struct amqp_client_options {
    const char *mechanism; /* NULL: no SASL */
    const char *user;      /* PLAIN */
    const char *password;
    const char *hostname; /* NULL: AMQP_RIG_HOST */
    const nv_peer_certificate *certificate;
    uint32_t max_frame_size;   /* 0: 65536 */
    uint32_t idle_time_out_ms; /* 0: none */
} amqp_client_options;

/** A connection. */
typedef struct amqp_client {
    nv_amqp_conn conn; /* first member: the client's half */
    nv_list node;
    amqp_rig *rig;
    nv_amqp_session *session; /* the first one; NULL: the connection did not open */
    nv_list links;            /* amqp_client_link.node, all that were ever attached */
    bool opened;
    bool ended; /* by whoever; then condition ("" for none) and description of the hub's CLOSE */
    char condition[64];
    char description[256];
    nv_buf from_hub; /* all bytes the hub has sent, for tests of the wire */
    uint8_t *open;   /* of the hub's OPEN: container id, ...; decoded in hub_open */
    nv_amqp_open hub_open;
    /* private */
    nv_carrier carrier;
    nv_buf out;
    nv_peer peer;
    nv_carrier hub_carrier; /* of the hub's session */
    nv_session *hub;        /* NULL: freed */
    nv_buf hub_out;
    bool cut;
    bool stuck; /* the client reads nothing */
    bool mute;  /* what it says does not arrive */
    size_t step;
} amqp_client;

/** Joins it and waits until it is open or over. */
amqp_client *amqp_client_new(amqp_rig *rig, const amqp_client_options *options);
/** PLAIN as device or module (@p module may be NULL), with a token of an hour. Opened, or the test fails. */
amqp_client *amqp_client_device(amqp_rig *rig, const char *device, const char *module);
/** PLAIN as policy. */
amqp_client *amqp_client_policy(amqp_rig *rig, const char *policy);
/** ANONYMOUS: nothing but $cbs is allowed. */
amqp_client *amqp_client_anonymous(amqp_rig *rig);
/** Says CLOSE and waits. */
void amqp_client_close(amqp_client *client);
/** The transport is gone. */
void amqp_client_cut(amqp_client *client);
/** Cuts it when it is still there; waits until the hub has let go. */
void amqp_client_free(amqp_client *client);

/** put-token on a $cbs pair of the first session, attached when it is not there. @return status-code, 0: no answer */
int amqp_client_put_token(amqp_client *client, const char *name, const char *token);

/** A message that came. */
typedef struct amqp_client_message {
    nv_list node;
    nv_amqp_message message; /* decoded; spans into bytes */
    uint32_t id;
    uint32_t format;
    bool settled;
    nv_span tag;
    nv_span bytes;
    uint8_t _memory[];
} amqp_client_message;

typedef struct amqp_client_link {
    nv_list node;
    amqp_client *client;
    nv_amqp_link *link; /* NULL: it is over */
    bool attached;      /* the hub accepted, or was about to */
    bool ended;         /* then condition and description of the hub's DETACH or what ended it */
    char condition[64];
    char description[256];
    nv_buf info;      /* of the DETACH's error: an encoded map */
    nv_buf answer;    /* the hub's ATTACH, encoded anew; amqp_client_answer() reads it */
    nv_list messages; /* amqp_client_message.node, oldest first */
    size_t received;
    /* what the hub said of what was sent */
    uint32_t accepted;
    uint32_t rejected;
    uint32_t other;
    char reject_condition[64]; /* of the last one */
    char reject_description[256];
    bool auto_accept; /* accept what comes; set by default */
    bool keep;        /* say nothing of what comes */
} amqp_client_link;

typedef struct amqp_client_attach_options {
    nv_amqp_session *session; /* NULL: the first */
    const char *name;         /* NULL: a unique one */
    uint8_t snd_settle_mode;
    uint8_t rcv_settle_mode;
    nv_span properties; /* encoded map, or empty */
    nv_span terminus;   /* encoded source (the hub sends) or target with its address; empty: made of the address */
    nv_span desired_capabilities;
    uint32_t credit; /* the client receives; 0: 100, UINT32_MAX: none */
    bool keep;       /* amqp_client_link.keep */
} amqp_client_attach_options;

/** Attach and wait. @p sender: the client sends. @p options may be NULL. */
amqp_client_link *amqp_client_attach(amqp_client *client, bool sender, const char *address,
                                     const amqp_client_attach_options *options);
/** ATTACH of the hub; spans live as long as the link. */
nv_amqp_attach amqp_client_answer(const amqp_client_link *link);
/** Another session. */
nv_amqp_session *amqp_client_session(amqp_client *client);
void amqp_client_detach(amqp_client_link *link);
/** Send an encoded message; not waited for. @p format 0 or NV_AMQP_FORMAT_BATCH. @return NV_E_AGAIN no credit */
nv_err amqp_client_send(amqp_client_link *link, nv_span message, uint32_t format, bool settled);
/** The same with a body and nothing else: settled by the hub before this returns, or the test fails. */
void amqp_client_send_body(amqp_client_link *link, const char *body);
/** The oldest message, taken off; NULL: there is none. free() it. */
amqp_client_message *amqp_client_take(amqp_client_link *link);
/** Say what becomes of a message that came. */
void amqp_client_settle(amqp_client_link *link, const amqp_client_message *message, nv_amqp_outcome_kind kind);

/** Fail unless the link is over with this condition. */
void amqp_client_expect_end(const amqp_client_link *link, const char *condition);
/** Text of a message's annotation or application property, whatever its type (decimal for numbers). Static storage;
 * NULL: absent. */
const char *amqp_message_text(const nv_amqp_value *map, const char *key);

#endif
