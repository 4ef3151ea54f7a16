/**
 * An MQTT client and the hub's session of it, joined without a socket: what the client writes is fed to the session as
 * a carrier does, what the session writes is kept for the test to look at.
 */
#ifndef NV_TESTS_MQTT_PAIR_H
#define NV_TESTS_MQTT_PAIR_H

#include "codec/mqtt.h"
#include "core/hub.h"
#include "core/identity.h"
#include "session/session.h"

typedef struct mqtt_pair {
    nv_carrier carrier; /* first member */
    nv_peer peer;
    nv_session *session; /* NULL once freed */
    nv_buf in;           /* what the session has not taken yet */
    nv_buf out;          /* what it sent */
    const nv_clock *clock;
    size_t piece;  /* feed so many bytes at a time; 0: all at once */
    size_t unread; /* bytes of out when the session was last told of room */
    bool woken;
    bool closed; /* the carrier closed because the session wanted it */
    bool lost;   /* lost() was called */
    bool stuck;  /* the client does not read: closing never completes */
} mqtt_pair;

/** A connection on @p loop. The pair must not move. */
void mqtt_pair_open(mqtt_pair *pair, nv_hub_loop *loop, uint64_t connection_id);
/** The same with any session: what is said in bytes works with it. */
void mqtt_pair_open_with(mqtt_pair *pair, nv_hub_loop *loop, uint64_t connection_id,
                         nv_session *(*make)(nv_carrier *carrier));
/** Append to what the client sends, and let the session eat. */
void mqtt_pair_send(mqtt_pair *pair, nv_span bytes);
/** Let the carrier do its work: input that may go on, closing, freeing. Call it after running the executors. */
void mqtt_pair_service(mqtt_pair *pair);
/** The client's side goes away without a word. */
void mqtt_pair_cut(mqtt_pair *pair);
/** The deadline, if it is due. */
void mqtt_pair_tick(mqtt_pair *pair);
/** Free what is left; the session is done. */
void mqtt_pair_deinit(mqtt_pair *pair);
/** Nothing more can come of this connection. */
bool mqtt_pair_gone(const mqtt_pair *pair);

/* ---- what a client says ---- */

typedef struct mqtt_login {
    const char *client_id; /* NULL: device, or device/module */
    const char *user_name; /* NULL: hub.example.net/device[/module]/?api-version=2021-04-12 */
    const char *password;  /* NULL: a good token of the device's key; "": present and empty */
    const char *host;      /* of the token; NULL: hub.example.net */
    const char *device;
    const char *module; /* NULL or "": a device */
    bool no_password;
    bool persistent;
    uint16_t keep_alive_s;
    int64_t ttl_s;      /* of the token, 0: an hour */
    const nv_key *key;  /* NULL: the device's primary */
    const char *policy; /* NULL: none */
    const char *will_topic;
    const char *will_payload;
    bool will_retain;
} mqtt_login;

void mqtt_put_connect(nv_buf *out, const mqtt_login *login, int64_t now_s);
void mqtt_put_publish(nv_buf *out, const char *topic, nv_span payload, uint8_t qos, uint16_t packet_id);
void mqtt_pair_connect(mqtt_pair *pair, const mqtt_login *login);
void mqtt_pair_publish(mqtt_pair *pair, const char *topic, const char *payload, uint8_t qos, uint16_t packet_id);
void mqtt_pair_subscribe(mqtt_pair *pair, uint16_t packet_id, const char *filter, uint8_t qos);
void mqtt_pair_send_hex(mqtt_pair *pair, const char *hex);
/** What the session sent since the last call, as lower-case hex in static memory. */
const char *mqtt_pair_take_hex(mqtt_pair *pair);

/**
 * The same as text, one packet a line, in static memory: "PUBLISH q1 id=1 dup topic | payload", "PUBACK 7". Stops with
 * "?" where the bytes are no packet.
 */
const char *mqtt_pair_take_text(mqtt_pair *pair);

#endif
