/**
 * What the files of the hub's AMQP server share.
 *
 *   server.c         the connection: SASL, OPEN, dispatch of ATTACH, expiry, the end
 *   server_sasl.c    mechanisms, user names of PLAIN
 *   server_auth.c    principals: tokens, which of them covers an address
 *   address.c        link addresses and CBS audiences
 *   device.c         a device or module on this connection: authentication, claim, its links, take-over
 *   link_*.c         one file per kind of node
 *   record.c         AMQP messages to records of the log and back
 *
 * An ATTACH passes: address parsed -> a principal that covers it -> (device: claim held) -> the node's open(). Anything
 * else is refused with the condition of amqp.md sections 3.10 and 4.1, and a sentence.
 *
 * Memory: the connection lives until it has ended, its devices are released and amqp_server.operations is 0; a device
 * until its links are gone, its appends are confirmed and amqp_device.operations is 0.
 */
#ifndef NV_SESSION_AMQP_SERVER_INTERNAL_H
#define NV_SESSION_AMQP_SERVER_INTERNAL_H

#include "base/diag.h"
#include "base/list.h"
#include "base/map.h"
#include "core/auth.h"
#include "core/devices.h"
#include "core/fault.h"
#include "core/telemetry.h"
#include "session/amqp/engine.h"
#include "session/amqp/server.h"

/* ---- addresses (address.c) ----------------------------------------------------------------------------------------
 */

/* X(id, who may, opener): the nodes of amqp.md sections 2.1, 3.1, 4 and 5.3. `peer sends` / `peer receives` is the role
 * of the client. WHO: NOBODY before authentication too, DEVICE the device itself, SERVICE a policy with ServiceConnect
 */
#define AMQP_NODE_TABLE(X)                                                                                             \
    X(CBS, NOBODY, amqp_open_cbs)                         /* $cbs, both roles */                                       \
    X(TELEMETRY, DEVICE, amqp_open_telemetry)             /* .../messages/events, peer sends; modules: outputs too */  \
    X(MODULE_INPUT, DEVICE, amqp_open_module_input)       /* .../modules/m/messages/events, peer receives */           \
    X(DEVICEBOUND, DEVICE, amqp_open_devicebound)         /* .../messages/devicebound, peer receives */                \
    X(TWIN, DEVICE, amqp_open_twin)                       /* .../twin, both roles */                                   \
    X(METHODS, DEVICE, amqp_open_methods)                 /* .../methods/devicebound, both roles */                    \
    X(DEVICE_FEEDBACK, DEVICE, amqp_open_device_feedback) /* /messages/serviceBound/feedback, peer sends: any device   \
                                                             of the connection, its `device` is NULL */                \
    X(SERVICE_SEND, SERVICE, amqp_open_service_send)      /* /messages/devicebound, peer sends */                      \
    X(FEEDBACK, SERVICE, amqp_open_feedback)              /* /messages/serviceBound/feedback, peer receives */         \
    X(FILE_NOTIFICATIONS, SERVICE, amqp_open_file_notifications)                                                       \
    X(EVENTS_REDIRECT, SERVICE, amqp_open_redirect) /* /messages/events..., both roles */                              \
    X(EVENTS, SERVICE, amqp_open_events)            /* {entity}/ConsumerGroups/{g}/Partitions/{p}, receives */         \
    X(EVENTS_SEND, SERVICE, amqp_open_events_send)  /* {entity}[/Partitions/p|/Publishers/n], peer sends */            \
    X(MANAGEMENT, SERVICE, amqp_open_management)    /* [{entity}/]$management, both roles */

typedef enum amqp_node {
    AMQP_NODE_UNKNOWN,
#define X(id, who, open) AMQP_NODE_##id,
    AMQP_NODE_TABLE(X)
#undef X
        AMQP_NODE_COUNT
} amqp_node;

typedef struct amqp_address {
    amqp_node node;
    nv_span device_id; /* percent-decoded, into _text */
    nv_span module_id;
    nv_span entity;    /* EVENTS*, MANAGEMENT: percent-decoded, else as given; empty: none */
    nv_span group;     /* EVENTS: the same */
    nv_span partition; /* EVENTS: decimal text as given; EVENTS_SEND: or empty */
    nv_span rest;      /* EVENTS_REDIRECT: what follows /messages/events, with its '/', as given; may be empty */
    char _text[1024];
} amqp_address;

/**
 * Parse (amqp.md section 3.1: amqps://user:pw@host:port prefix or not, leading '/' or not, literal parts in any case,
 * ids percent-decoded after splitting). @p peer_sends: the client attached as sender.
 * @return NV_E_NOT_FOUND no such node; NV_E_UNSUPPORTED a path of the hub that is no node, or not in this role;
 *         NV_E_SYNTAX bad escapes or an id that can be none; NV_E_TOO_BIG longer than any node's
 */
NV_NODISCARD nv_err amqp_address_parse(nv_span text, bool peer_sends, amqp_address *out);

/** The path of an address, without scheme, user info (it may hold a password), host and port: for logs. */
nv_span amqp_address_path(nv_span text);

/**
 * A CBS audience or a token's sr (amqp.md section 2.3), normalised: percent-decoded once, scheme, user info and port
 * cut, host in lower case, no trailing '/'. @p out has room for 1024. @return its length, 0: not one
 */
size_t amqp_audience(nv_span text, char out[1024]);

/** The host of "[user@]host[:port]", an IPv6 address without its brackets. */
nv_span amqp_host_of(nv_span authority);

/* ---- principals (server_auth.c) ------------------------------------------------------------------------------------
 */

/**
 * What a token (put on $cbs, or as the password of PLAIN) lets the connection do. It was verified when it was kept. A
 * client certificate is no principal of its own: whether it opens a device is seen at the device (amqp_server
 * .certificate).
 */
typedef struct amqp_principal {
    nv_list link;                /* amqp_server.principals */
    struct amqp_principal *next; /* of another policy, with the same path */
    nv_span path;    /* what it covers, by whole segments and without host: "" all, "devices/d", "hub/$management"; in
                        lower case but for ids */
    nv_span policy;  /* empty: a device's or module's own, for exactly that */
    nv_span token;   /* devices are checked with it when they first attach; wiped */
    uint32_t rights; /* of the policy, NV_RIGHT_* */
    int64_t expires_wall_us; /* INT64_MAX: does not */
    uint8_t _bytes[];
} amqp_principal;

typedef struct amqp_server amqp_server;
typedef struct amqp_device amqp_device;

/** SASL: answers nv_amqp_sasl_done(), later when a device must be looked up (server_sasl.c). */
void amqp_auth_sasl(amqp_server *s, nv_span mechanism, nv_span initial_response);
/** Its parts: verify and keep the token that PLAIN gave as a password, or refuse with a reason; then answer. */
void amqp_auth_login_policy(amqp_server *s, nv_span policy, nv_span token);
/** The policy's key itself as the password. */
void amqp_auth_login_key(amqp_server *s, nv_span policy, nv_span key);
void amqp_auth_login_device(amqp_server *s, nv_span device_id, nv_span module_id, nv_span token);
void amqp_auth_refuse_sasl(amqp_server *s, nv_span device_id, nv_span module_id, nv_refusal refusal,
                           const char *detail);
/**
 * put-token (amqp.md section 2): verify and keep, or replace what has the same audience. @p done is called later, or at
 * once, with 200, 400, 401, 403 or 503 and a sentence; not after @p owner was forgotten (amqp_auth_forget).
 */
typedef void (*amqp_put_token_done)(void *owner, uint64_t cookie, int status, const char *description);
void amqp_auth_put_token(amqp_server *s, nv_span name, nv_span token, amqp_put_token_done done, void *owner,
                         uint64_t cookie);
/** A $cbs link went: its answers are not wanted any more. */
void amqp_auth_forget(amqp_server *s, const void *owner);
/** What a credential must cover so that a link of this node, no single device's, may be there. @return its length */
size_t amqp_auth_path(const amqp_address *address, char out[1024]);
/** Does a credential with the right cover that path now? @return false: *why says why not */
bool amqp_auth_covers(amqp_server *s, nv_span path, const char **why);
/** The token (or certificate: empty token) that a device would be checked with; it did not expire. @return false: none
 * covers it */
bool amqp_auth_device(amqp_server *s, nv_span device_id, nv_span module_id, nv_span *token);
/** The device's own token is worth nothing any more (disabled, deleted, other keys): forget it. */
void amqp_auth_revoke(amqp_server *s, nv_span device_id, nv_span module_id);
/** Forget what has expired. @return true: something had; *next_us is when to look again, wall, or INT64_MAX */
bool amqp_auth_expire(amqp_server *s, int64_t wall_us, int64_t *next_us);
void amqp_auth_deinit(amqp_server *s);

/* ---- the connection (server.c) --------------------------------------------------------------------------------------
 */

struct amqp_server {
    nv_amqp_conn conn; /* first member */
    nv_list principals;
    nv_map by_path;   /* of them */
    nv_list checks;   /* tokens that are being looked at; server_auth.c */
    nv_list devices;  /* amqp_device.link */
    nv_map by_key;    /* live ones by "device" or "device/module" */
    nv_list services; /* links of service nodes; server.c */
    nv_map by_link;   /* of them */
    nv_list cbs;      /* links of $cbs; link_cbs.c */
    char *host;       /* OPEN.hostname, or the hub's own: what redirects name; owned */
    char container_id[64];
    char product[64]; /* of OPEN.properties, for the log */
    uint32_t principal_count;
    uint32_t device_count;    /* live ones */
    uint32_t operations;      /* asked of the core and not come back: the memory lives until they have */
    uint32_t put_failures;    /* of a stranger */
    uint32_t cbs_requests;    /* being looked at; link_cbs.c */
    uint32_t cbs_replies;     /* waiting for credit or a receiver */
    uint32_t answers_waiting; /* of $management; link_management.c */
    int64_t expires_wall_us;  /* when to look what has expired; never later than it is due */
    int64_t authorize_by_us;  /* monotonic: a stranger is closed then */
    int64_t drain_by_us;
    int64_t leave_by_us; /* nobody is left on it: closed then, with the two below, if it did not go by itself */
    nv_amqp_condition leave_condition;
    const char *leave_text; /* static */
    bool certificate;       /* EXTERNAL or no SASL: the client certificate opens devices */
    bool cbs_full;          /* a request was put off */
    bool many_sessions;     /* counted in nv_hub_loop.many_sessions */
    bool draining;          /* the hub stops: take no more messages (delivery() says false) */
    bool ended;
};

static inline nv_hub_loop *amqp_loop(const amqp_server *s)
{
    return s->conn.session.carrier->loop;
}

static inline nv_hub *amqp_hub(const amqp_server *s)
{
    return amqp_loop(s)->hub;
}

static inline amqp_server *amqp_server_of(const nv_amqp_link *link)
{
    return (amqp_server *)link->conn;
}

/** Something was asked of the core for this connection, or came back. The memory of the server lives in between. */
void amqp_operation_begin(amqp_server *s);
void amqp_operation_end(amqp_server *s);

/** The connection knows who the peer is: a token or certificate opened something. */
void amqp_server_known(amqp_server *s);
/** A principal came, whose life may have been the shorter: when to look again may have changed. */
void amqp_server_update_deadline(amqp_server *s);
/** Go on with an end, or a drain, that waits. Harmless otherwise. */
void amqp_server_settle(amqp_server *s);
/** Nobody is left on the connection: CLOSE with why the last one went (@p description is static), after a while: a
 * client that was told by its links closes it itself, and is confused by a CLOSE in the middle of that. */
void amqp_server_close_if_empty(amqp_server *s, nv_amqp_condition condition, const char *description);
nv_subject amqp_subject(const amqp_server *s, nv_span device_id, nv_span module_id);

/** Every link of a service node is registered here, so that it ends when its principal does: called by server.c before
 * open(). The link kinds keep their own object in link->owner and free it in detached(): server.c calls that too (if
 * link->ops is set) before it detaches a link whose principal is no more. */
typedef void (*amqp_open_fn)(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address);
#define X(id, who, open)                                                                                               \
    void open(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address);
AMQP_NODE_TABLE(X)
#undef X

/**
 * What a fault does when its delay is over (core/fault.h): KillTcp cuts the connection, ShutDownAmqp and
 * InvokeAuthError close it. Other kinds do nothing here. While nv_faults has one of these for the identity, device.c
 * refuses its links. The device and its links are gone or going afterwards; the memory of the server stays until the
 * loop's next turn.
 */
void amqp_server_fault(amqp_server *s, nv_fault_kind kind, const char *reason);

/** Open a link that may be there; @p device is NULL for nodes that are no single device's. */
void amqp_server_open(amqp_server *s, amqp_device *device, nv_amqp_link *link, const amqp_address *address);
/** Detach the $cbs links of one role, as a fault wants it; link_cbs.c. */
void amqp_cbs_detach(amqp_server *s, bool peer_sends, nv_amqp_condition condition, const char *description);

/** Refuse a link and log it (device or address, condition, sentence). */
void amqp_refuse(amqp_server *s, nv_amqp_link *link, nv_amqp_condition condition, const char *description);
/** An error of the hub as the condition and text of amqp.md sections 3.10 and 4.1. */
nv_amqp_condition amqp_condition_of(nv_hub_error error);
#define AMQP_DESCRIPTION 320
/** "ErrorCode:DeviceNotFound;..." into @p out, with nv_hub_error_sentence() behind it. */
void amqp_describe(const amqp_server *s, nv_hub_error error, const char *detail, char out[AMQP_DESCRIPTION]);

/* ---- devices (device.c) -------------------------------------------------------------------------------------------
 */

/** A device or module on this connection. Made by its first link, released after its last, or evicted. */
struct amqp_device {
    nv_list link; /* amqp_server.devices */
    amqp_server *server;
    nv_identity *identity; /* from authentication on */
    nv_claim claim;
    nv_telemetry_client client;       /* initialised by the first telemetry link */
    struct amqp_telemetry *telemetry; /* what the kinds keep; each NULL until its first link */
    struct amqp_pair *twin;
    struct amqp_pair *methods;
    struct amqp_devicebound *devicebound;
    nv_list links;       /* amqp_device_link.node: all of them, for eviction */
    nv_list waiting;     /* ATTACHes until the claim is held */
    uint8_t *stamp;      /* of client; device.c frees it */
    uint32_t operations; /* of this device asked of the core and not come back */
    uint32_t wants;      /* NV_WANTS_*, kept by amqp_device_want */
    nv_auth_scope scope;
    nv_auth_type type;
    /* private to device.c */
    uint8_t _state;
    bool _claimed;
    struct amqp_device_check *_check;
    nv_span _device_id; /* into _key; identity is there only after authentication */
    nv_span _module_id;
    size_t _key_len;
    char _key[];
};

/**
 * A kind's object for one link has this: device.c ends it when the device is evicted, its token expires or a second
 * link of the kind comes.
 */
typedef struct amqp_device_link {
    nv_list node;
    amqp_device *device;
    nv_amqp_link *link;
    /**
     * The link is over: release what is held and free the kind's object, as in nv_amqp_link_ops.detached(), which is
     * not called then. device.c has taken it off its list and detaches the engine's link right after, if it is not gone
     * already. Kinds are told apart by this function.
     */
    void (*end)(struct amqp_device_link *self);
} amqp_device_link;

/**
 * nv_amqp_link_ops.detached of every kind: forget the link and end it. The owner of the engine's link begins with its
 * amqp_device_link. The last one lets the device go.
 */
void amqp_device_link_detached(nv_amqp_link *link, const nv_amqp_problem *problem);

/** An ATTACH of a node whose WHO is DEVICE: authenticated, claimed, then opened; or refused. */
void amqp_device_attach(amqp_server *s, nv_amqp_link *link, const amqp_address *address);
/** A token for it was verified anew: with what it was signed may have changed. NULL: there is none such. */
amqp_device *amqp_device_find(const amqp_server *s, nv_span device_id, nv_span module_id);
void amqp_device_renewed(amqp_device *device, const nv_identity *identity, nv_credential credential);
/** Those that no principal covers any more go. */
void amqp_devices_expire(amqp_server *s);
/** The connection is over, its links were told. */
void amqp_devices_end(amqp_server *s);

/** Register a link (set ->end before) and forget it (in detached(); the last one lets the device go). A second one of
 * the same kind and role ends the older (amqp.md section 3.2). */
void amqp_device_link_add(amqp_device *device, amqp_device_link *self, nv_amqp_link *link);
void amqp_device_link_remove(amqp_device_link *self);
/** Say what the device wants of deliveries (nv_claim_want), bit by bit. */
void amqp_device_want(amqp_device *device, uint32_t bit, bool on);
/** The device did something: activity and connection event. */
void amqp_device_active(amqp_device *device);
/** An operation of the device begins or ends: its memory and its claim last in between. */
void amqp_device_operation_begin(amqp_device *device);
void amqp_device_operation_end(amqp_device *device);
/** Appends are confirmed (client.pending), operations back: go on with a release that waits. The device may be gone
 * afterwards. Harmless otherwise. */
void amqp_device_settle(amqp_device *device);
/** Detach all its links. The device may be gone afterwards. */
void amqp_device_detach(amqp_device *device, nv_amqp_condition condition, const char *description);
/** nv_claim.deliver by kind, implemented in link_twin.c and link_methods.c. */
void amqp_twin_deliver(amqp_device *device, const nv_delivery *delivery);
void amqp_method_deliver(amqp_device *device, const nv_delivery *delivery);
/** The device ends: what the kinds keep goes; implemented in the kinds' files. Each is fine with NULL. */
void amqp_telemetry_free(struct amqp_telemetry *telemetry);
void amqp_pair_free(struct amqp_pair *pair);
void amqp_devicebound_free(struct amqp_devicebound *devicebound);

/* ---- messages and records (record.c) -------------------------------------------------------------------------------
 */

/**
 * Properties and body of a message as a record has them: system properties by amqp.md section 3.4 (ids normalised to
 * text: uuid with dashes, ulong decimal), application properties with their types, annotations that are system
 * properties. Annotations that are not known are left out, values that are no primitive are refused.
 * @param properties  appended to; keeps what was put before an error
 * @param scratch     joins a body of several sections; the body may point into it
 * @return NV_E_SYNTAX, NV_E_LIMIT more than 256 properties, NV_E_TOO_BIG, NV_E_UNSUPPORTED a value that is no primitive
 */
NV_NODISCARD nv_err amqp_record_of_message(const nv_amqp_message *message, nv_buf *properties, nv_buf *scratch,
                                           nv_body_kind *kind, nv_span *body);
/** The two halves of it. @p kind DATA: the bytes; VALUE: the encoded value; SEQUENCE: its sections as they stand. */
NV_NODISCARD nv_err amqp_properties_of_message(const nv_amqp_message *message, nv_buf *properties);
NV_NODISCARD nv_err amqp_body_of_message(const nv_amqp_message *message, nv_buf *scratch, nv_body_kind *kind,
                                         nv_span *body);
/**
 * Write the properties section and the application-properties section of a record, each only if there is something to
 * say. @p strings_only: application properties as text (amqp.md section 3.5). Annotations are the callers'. Takes at
 * most amqp_record_properties_max() bytes.
 */
void amqp_put_record_properties(nv_writer *w, nv_span properties, bool strings_only);
static inline size_t amqp_record_properties_max(size_t properties_len)
{
    return 128 + 4 * properties_len;
}
/** The head of the body section (data, value or sequence), at most 8 bytes; the record's body follows. */
void amqp_put_body_head(nv_writer *w, nv_body_kind kind, size_t len);
/** The value of a system property that stands in the annotations of an event (amqp.md section 5.7), or of any other,
 * in its type; what is no valid text becomes binary. */
void amqp_put_record_value(nv_writer *w, const nv_value *value);

#endif
