/**
 * What the tests of devices' links over AMQP share: a hub in memory with the devices d1 (module m1) and d2, and
 * connections to it by the client half of the engine, joined without sockets.
 */
#ifndef NV_TESTS_AMQP_DEVICE_RIG_H
#define NV_TESTS_AMQP_DEVICE_RIG_H

#include "session/amqp/server.h"
#include "support/amqp_pair.h"
#include "support/fake_cloud.h"
#include "support/fake_core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define RIG_LINKS    8
#define RIG_MESSAGES 128

/** A message or an outcome that a link of the client got. */
typedef struct rig_message {
    uint32_t id;
    bool settled;
    uint8_t tag[32];
    size_t tag_len;
    uint8_t *bytes; /* owned */
    size_t len;
} rig_message;

typedef struct rig_outcome {
    uint32_t id;
    nv_amqp_outcome_kind kind;
    char condition[64];
    char description[256];
} rig_outcome;

typedef struct rig_link {
    nv_amqp_link *link; /* NULL: gone */
    struct rig_peer *peer;
    bool attached;
    bool detached;
    char condition[64]; /* of the DETACH */
    char description[256];
    uint64_t max_message_size;
    uint8_t snd_settle_mode; /* as answered */
    uint8_t rcv_settle_mode;
    bool has_properties;
    rig_message messages[RIG_MESSAGES];
    size_t message_count;
    rig_outcome outcomes[RIG_MESSAGES];
    size_t outcome_count;
} rig_link;

/** One connection. */
typedef struct rig_peer {
    nv_amqp_conn conn; /* first member: the client */
    amqp_end end;      /* of the client */
    amqp_end hub_end;
    nv_amqp_session *session;
    rig_link links[RIG_LINKS];
    size_t link_count;
    bool opened;
    bool ended;
    bool used;
    char condition[64]; /* of the CLOSE */
} rig_peer;

typedef struct amqp_rig {
    fake_core core;
    rig_peer a;
    rig_peer b;
    rig_peer *more; /* the caller's */
    size_t more_count;
} amqp_rig;

amqp_rig *rig_new(const nv_limits *limits);
/** With testing.fault_injection. */
amqp_rig *rig_new_faulty(void);
/** What the stores hold back is done, and nothing is held any more. */
void rig_release(amqp_rig *rig);
/** Everybody leaves; checks that nothing remains. */
void rig_free(amqp_rig *rig);
/** Until nothing happens any more. */
void rig_run(amqp_rig *rig);
/** Time passes. */
void rig_advance(amqp_rig *rig, int64_t us);
/** The client goes without a word. */
void rig_cut(amqp_rig *rig, rig_peer *peer);

/** Connect by SASL PLAIN as a device or module ("d1", "d1/modules/m1"), and begin a session. */
void rig_open(amqp_rig *rig, rig_peer *peer, const char *who);

typedef struct rig_attach {
    const char *address;
    bool sends; /* the client */
    uint32_t credit;
    uint8_t snd_settle_mode;
    uint8_t rcv_settle_mode;
    const char *correlation; /* com.microsoft:channel-correlation-id */
    const char *model;       /* com.microsoft:model-id */
    const char *name;        /* NULL: made up */
} rig_attach;
/** Attach and run. The link is there even if it was refused. */
rig_link *rig_attach_link(amqp_rig *rig, rig_peer *peer, const rig_attach *options);
rig_link *rig_sender(amqp_rig *rig, rig_peer *peer, const char *address);
rig_link *rig_receiver(amqp_rig *rig, rig_peer *peer, const char *address, uint32_t credit);

/** Send, without running. @return the delivery's id */
uint32_t rig_send(rig_link *l, nv_span bytes, uint32_t format, bool settled);
/** A message with a data section. */
nv_span rig_data(const char *body);
/** What the hub said of a delivery; NONE: nothing yet. */
const rig_outcome *rig_outcome_of(const rig_link *l, uint32_t id);
/** Run, then check: accepted. */
void rig_expect_accepted(amqp_rig *rig, const rig_link *l, uint32_t id);
/** Run, then check: rejected with this condition. */
void rig_expect_rejected(amqp_rig *rig, const rig_link *l, uint32_t id, const char *condition);

/** The device's word on a message it received; settled. */
void rig_settle(rig_link *l, size_t message, nv_amqp_outcome_kind kind);
/** The same unsettled, as a receiver of mode second says it first. */
void rig_dispose(amqp_rig *rig, rig_link *l, size_t message, uint8_t state_code);

/** Deliveries that the client's end of a link has not settled. */
size_t rig_unsettled(const rig_link *l);
/** The hub's end of the first link of the connection that has this direction. */
nv_amqp_link *rig_hub_link(rig_peer *peer, bool hub_sends);

/**
 * A message as text with the types of its values, in static memory:
 * "annotations{status=int:200} properties{correlation-id=string:x} application{a=string:b} data:..."; what is absent is
 * left out.
 */
const char *rig_text(const rig_message *message);
/** The last one that the link got. */
const char *rig_last_text(const rig_link *l);

#endif
