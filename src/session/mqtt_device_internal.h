/**
 * What the files of the MQTT device session share.
 *
 *   WAITING --CONNECT--> CHECKING --authentic--> CLAIMING --granted--> OPEN
 *      |                     |                       |                   |
 *      +---------------------+-------- refused ------+--- any end -------+--> ENDING --promises kept--> CLOSED
 *
 * ENDING takes no input; it lasts until every append is confirmed (and acknowledged, if it is stored), what was asked
 * of the core has come back, and the will is in the log. CLOSED tells the carrier to flush and close, and gives the
 * claim back; then the session is done.
 */
#ifndef NV_SESSION_MQTT_DEVICE_INTERNAL_H
#define NV_SESSION_MQTT_DEVICE_INTERNAL_H

#include "base/diag.h"
#include "codec/mqtt.h"
#include "codec/topic.h"
#include "codec/username.h"
#include "core/auth.h"
#include "core/devices.h"
#include "core/fault.h"
#include "core/telemetry.h"
#include "session/mqtt_device.h"

typedef enum mqtt_state { MQTT_WAITING, MQTT_CHECKING, MQTT_CLAIMING, MQTT_OPEN, MQTT_ENDING, MQTT_CLOSED } mqtt_state;

/* What exists between CONNECT and its answer only. */
typedef struct mqtt_connecting {
    nv_auth_request auth;
    struct mqtt_device *owner;
    nv_mqtt_connect connect; /* spans into packet */
    nv_username username;    /* spans into packet and scratch */
    uint8_t *scratch;
    size_t packet_len;
    uint8_t packet[]; /* holds the password: wiped */
} mqtt_connecting;

/* The last telemetry topic and what its bag says in the log's words. */
typedef struct mqtt_topic_cache {
    nv_buf properties; /* encoded section */
    size_t counted;    /* what the properties add to the size of a message */
    uint32_t len;
    uint32_t capacity;
    uint8_t topic[];
} mqtt_topic_cache;

typedef struct mqtt_will {
    size_t topic_len;
    size_t payload_len;
    bool retain;
    uint8_t bytes[]; /* topic, payload */
} mqtt_will;

/* A SUBACK or UNSUBACK that waits for the subscriptions to be durable. */
typedef struct mqtt_pending_ack {
    size_t len;
    uint8_t packet[];
} mqtt_pending_ack;

/*
 * Received and not yet acknowledged messages, oldest first. An entry is the packet id in the upper half (0: QoS 0, no
 * acknowledgement) and the packet's size in the lower, in units. Size 0: nothing of it is in the log, its PUBACK only
 * waits for its turn.
 */
typedef struct mqtt_ring {
    uint32_t *entries;
    uint32_t capacity; /* power of two, or 0 */
    uint32_t first;
    uint32_t count;
    uint32_t units; /* sum */
} mqtt_ring;

#define MQTT_RING_UNIT 16u /* bytes */

/* More than this in the output, and the session starts nothing that would add to it: no twin is read and no message of
 * the queue written until the peer has read some of it. */
#define MQTT_OUTPUT_MARK (256u << 10)

/* What receives cloud-to-device messages; mqtt_device_c2d.c. */
typedef struct mqtt_c2d mqtt_c2d;

/* A fault that the device asked for (core/fault.h). */
typedef struct mqtt_fault {
    nv_fault_order order;
    int64_t at_us; /* monotonic: when it begins or, once active, when it ends */
    bool active;   /* it holds messages back, or refuses them */
} mqtt_fault;

/* Buffers of a session that has not published for this long are given back. */
#define MQTT_IDLE_US (10 * NV_US_PER_S)

typedef struct mqtt_device {
    nv_session session;         /* first member */
    nv_telemetry_client client; /* its stamp is owned; no bytes: nothing was published yet, and there is no model id */
    nv_claim claim;
    nv_identity *identity; /* a reference, from authentication on */
    mqtt_connecting *connecting;
    mqtt_ring ring;
    mqtt_topic_cache *topic;
    mqtt_will *will;
    mqtt_pending_ack *pending_ack;
    mqtt_c2d *c2d;           /* NULL: no subscription asks for messages */
    mqtt_fault *fault;       /* NULL: none was asked for */
    int64_t heard_us;        /* monotonic: last sign of life */
    int64_t silence_us;      /* how long the peer may be silent */
    int64_t expires_wall_us; /* of the token */
    int64_t idle_us;         /* when to look whether buffers are idle; INT64_MAX: there are none */
    uint32_t operations;     /* asked of the core and not come back; the session lives until they have */
    uint32_t twin_requests;
    size_t twin_bytes; /* what these hold, and what their answers may become */
    mqtt_state state;
    bool persistent : 1;          /* clean=0 */
    bool has_api_version : 1;     /* twins and methods may be touched */
    bool busy : 1;                /* published since the last look at idle buffers */
    bool blocked : 1;             /* the log had no room; stored() tells */
    bool broken : 1;              /* an append failed: nothing is acknowledged any more */
    bool lost : 1;                /* the transport is gone */
    bool claimed : 1;             /* the claim was asked for and not given back */
    bool releasing : 1;           /* the claim is on its way back */
    bool operated : 1;            /* something was sent, received or subscribed to */
    bool resumed : 1;             /* of an earlier connection's session */
    uint8_t wants : 2;            /* what the claim was told */
    nv_auth_scope auth_scope : 2; /* for the stamp */
    nv_auth_type auth_type : 2;
} mqtt_device;

static inline nv_hub *mqtt_hub(const mqtt_device *m)
{
    return m->session.carrier->loop->hub;
}

static inline nv_subject mqtt_subject(const mqtt_device *m)
{
    return (nv_subject){.connection = m->session.carrier->peer->connection_id,
                        .device = m->identity ? m->identity->device_id : NV_SPAN_EMPTY,
                        .module = m->identity ? m->identity->module_id : NV_SPAN_EMPTY};
}

static inline bool mqtt_has_stamp(const mqtt_device *m)
{
    return m->client.stamp.bytes.ptr != NULL;
}

static inline nv_topic_owner mqtt_owner(const mqtt_device *m)
{
    return (nv_topic_owner){m->identity->device_id, m->identity->module_id};
}

/* ---- mqtt_device.c: the life of a session ---- */

/** The only writer of m->state. */
void mqtt_set_state(mqtt_device *m, mqtt_state state);
/** Stop for a reason of the table: log, count, and end. @p detail may be "". */
void mqtt_end_for(mqtt_device *m, nv_refusal why, const char *detail);
/** Stop without anybody's fault (DISCONNECT, drain, the transport is gone). */
void mqtt_end(mqtt_device *m);
/** Go on with an end that waits for something. Harmless in other states. */
void mqtt_settle(mqtt_device *m);
/** Set session.reading from what holds it back, session.deadline_us from what comes first. */
void mqtt_update_reading(mqtt_device *m);
void mqtt_update_deadline(mqtt_device *m, int64_t now_us);
/** Room in the output, or NULL: then the session has ended because the peer does not read. */
uint8_t *mqtt_reserve(mqtt_device *m, size_t len);

/**
 * Append a PUBLISH with QoS 0, or do nothing where nothing can be sent any more.
 * @param topic  at most NV_MQTT_MAX_STRING bytes
 */
void mqtt_send(mqtt_device *m, nv_span topic, nv_span payload);
/** True while the peer leaves too much unread. */
bool mqtt_output_full(const mqtt_device *m);
/** Something that was asked of the core has come back. The session may be done after this. */
void mqtt_operation_done(mqtt_device *m);
/** Tell the core that the connection is used (a message sent, something received or subscribed to). */
static inline void mqtt_operated(mqtt_device *m)
{
    if (NV_UNLIKELY(!m->operated)) {
        m->operated = true;
        nv_claim_operated(&m->claim);
    }
}

/* ---- mqtt_device_connect.c ---- */

/** A whole CONNECT; @p bytes begins with it. */
void mqtt_on_connect(mqtt_device *m, const nv_mqtt_packet *packet, nv_span bytes);
void mqtt_connecting_free(mqtt_connecting *connecting);
/** What the log keeps of the sender; from then on m->client may send. Once. */
void mqtt_make_stamp(mqtt_device *m, nv_span model_id);
/** Answer CONNECT with a refusal and close. */
void mqtt_refuse_connect(mqtt_device *m, uint8_t code);

/* ---- mqtt_device_publish.c ---- */

/** @return false: not taken now, it is to be presented again */
bool mqtt_on_publish(mqtt_device *m, const nv_mqtt_packet *packet);
/** nv_telemetry_client.stored */
void mqtt_on_stored(nv_telemetry_client *client, uint32_t count, nv_err status);
/** @return false when it must be tried again after stored() */
bool mqtt_send_will(mqtt_device *m);
/** Give back the memory that only publishing needs. */
void mqtt_release_buffers(mqtt_device *m);
/** True when the bounds on what is in flight are reached. */
bool mqtt_ring_full(const mqtt_device *m);

/* ---- mqtt_device_properties.c ---- */

/**
 * Encode the bag of a telemetry topic as properties of a record (mqtt.md section 6).
 * @param out      the section is appended
 * @param counted  what it adds to the size of the message
 * @return NV_E_LIMIT too many properties; NV_E_TOO_BIG
 */
NV_NODISCARD nv_err mqtt_encode_bag(nv_span bag, nv_buf *out, size_t *counted);
/** Append an application property with a text value. */
NV_NODISCARD nv_err mqtt_put_property(nv_buf *out, const char *name, const char *value);

/* ---- mqtt_device_subscribe.c ---- */

void mqtt_on_subscribe(mqtt_device *m, const nv_mqtt_subscribe *subscribe);
void mqtt_on_unsubscribe(mqtt_device *m, const nv_mqtt_subscribe *unsubscribe);
/** The granted QoS of a kind of subscription, or -1 when there is none. */
int mqtt_subscription_qos(const mqtt_device *m, nv_filter_kind kind);

/** Make the core's view what the subscriptions say: after they changed, and once the claim is granted. */
void mqtt_follow_subscriptions(mqtt_device *m);

/* ---- mqtt_device_twin.c ---- */

/** A publish on a topic of twins, methods or credentials, parsed. */
void mqtt_on_request(mqtt_device *m, const nv_topic *topic, nv_span payload);
/** nv_claim.deliver */
void mqtt_on_delivery(nv_claim *claim, const nv_delivery *delivery);
/** True when the bounds on twin requests in flight are reached. */
bool mqtt_twins_full(const mqtt_device *m);

/* ---- mqtt_device_method.c ---- */

void mqtt_send_method(mqtt_device *m, const nv_delivery *delivery);
void mqtt_on_method_answer(mqtt_device *m, const nv_topic *topic, nv_span payload);

/* ---- mqtt_device_c2d.c ---- */

/** Begin or stop to receive messages; harmless when that is so already. */
void mqtt_c2d_set(mqtt_device *m, bool wanted);
/** The peer has read something: go on with what waited for room. */
void mqtt_c2d_room(mqtt_device *m);
void mqtt_on_puback(mqtt_device *m, uint16_t packet_id);

/* ---- mqtt_device_fault.c ---- */

/** @p properties are those of a message that is about to be sent: note the fault they may ask for. */
void mqtt_fault_order(mqtt_device *m, nv_span properties);
/**
 * May a message be taken now? @return false: it is held back (m->blocked), or the session has ended; only called while
 * m->fault is there
 */
bool mqtt_fault_allows(mqtt_device *m);
/** A fault begins or ends. @return false: the session has ended */
bool mqtt_fault_tick(mqtt_device *m, int64_t now_us);
/** A fault of the identity outlives its connection. @return true: CONNECT is refused, and was */
bool mqtt_fault_refuses(mqtt_device *m);
/** The claim is granted: a fault that lets it connect goes on. */
void mqtt_fault_resume(mqtt_device *m);

#endif
