/**
 * Cloud-to-device messages: one durable queue per device, first in first out (semantics.md section 7, mqtt.md section
 * 7, http-hub.md sections 15 and 18), and the feedback that services get for them.
 *
 *   Enqueued --handed out--> Invisible --complete--> gone (positive feedback)
 *      ^                        | reject, too many deliveries --> dead-lettered (negative feedback)
 *      +-- abandon, lock lost --+        expiry, in any state --> dead-lettered (Expired)
 *
 * Locks live in memory on the device's shard: a restart returns what was Invisible to Enqueued. The delivery count is
 * the number of times a message was handed out (protocol/README.md) and is stored before the message is handed out
 * again. Every answer comes after the commit.
 */
#ifndef NV_CORE_C2D_H
#define NV_CORE_C2D_H

#include "base/buf.h"
#include "base/list.h"
#include "core/hub.h"
#include "core/identity.h"
#include "core/registry.h"
#include "store/record.h"

typedef struct nv_c2d nv_c2d;

/** iothub-ack */
typedef enum nv_c2d_ack { NV_ACK_NONE, NV_ACK_POSITIVE, NV_ACK_NEGATIVE, NV_ACK_FULL } nv_c2d_ack;
/** "none", ... */
const char *nv_c2d_ack_name(nv_c2d_ack ack);
/** @return false: no such word; case does not count */
bool nv_c2d_ack_parse(nv_span text, nv_c2d_ack *ack);

/** One message in the queue; immutable, reference-counted; spans point into its own memory. Protocol-neutral, as
 * telemetry records are: values keep AMQP's types. */
typedef struct nv_c2d_message {
    _Atomic uint32_t _refs;
    uint64_t sequence;       /* of the queue, from 1 */
    int64_t enqueued_us;     /* wall */
    int64_t expires_us;      /* wall */
    uint32_t delivery_count; /* this hand-out included */
    nv_c2d_ack ack;
    nv_body_kind body_kind;
    nv_span properties; /* encoded section (store/record.h): system and application properties, `to` included */
    nv_span body;
    char lock_token[37]; /* of this hand-out; a GUID */
} nv_c2d_message;

void nv_c2d_message_ref(nv_c2d_message *message);
/** Thread: any. NULL is fine. */
void nv_c2d_message_unref(nv_c2d_message *message);

/* ---- sending ------------------------------------------------------------------------------------------------ */

/** Owned by the caller, alive until done. */
typedef struct nv_c2d_send {
    /* in; spans stay valid until done */
    nv_span device_id;
    nv_c2d_ack ack;     /* other than none needs a message id */
    int64_t expires_us; /* wall; 0: the hub's default. At most 2 days ahead */
    nv_body_kind body_kind;
    nv_span properties; /* encoded section; `to` is stamped here */
    nv_span body;
    void (*done)(struct nv_c2d_send *send); /* on the loop that asked, never from within the call; after the commit */
    void *arg;
    /* out */
    nv_hub_error error; /* DeviceNotFound, DeviceMaximumQueueDepthExceeded, MessageTooLarge, ArgumentInvalid, ... */
    char detail[200];
    uint64_t sequence;
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
    void *_op;
} nv_c2d_send;
void nv_c2d_send_do(nv_hub_loop *loop, nv_c2d_send *send);

/* ---- receiving ---------------------------------------------------------------------------------------------- */

/**
 * A standing receiver: an MQTT subscription or an AMQP link, embedded in its session. Messages come in order as long as
 * there is credit. Thread: the session's loop.
 */
typedef struct nv_c2d_receiver {
    /* in */
    nv_identity *identity; /* borrowed from the session; a device */
    uint32_t credit;       /* how many may be handed out and not settled at first */
    /** A message, locked for 60 s. The session keeps a reference if it needs it longer than the call. */
    void (*message)(struct nv_c2d_receiver *receiver, nv_c2d_message *message);
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
    void (*_done)(struct nv_c2d_receiver *receiver);
    nv_list _link;
    void *_queue;
} nv_c2d_receiver;
void nv_c2d_attach(nv_hub_loop *loop, nv_c2d_receiver *receiver);
/** Room for @p more messages; settling a message by this receiver gives one back by itself. */
void nv_c2d_credit(nv_c2d_receiver *receiver, uint32_t more);
/**
 * End it. What it had and did not settle returns to the queue, in its place. @p done on the session's loop; only then
 * may the memory go; message() is not called after this returns.
 */
void nv_c2d_detach(nv_c2d_receiver *receiver, void (*done)(nv_c2d_receiver *receiver));

/** Take one message (HTTP): it is locked for @p lock_us. Owned by the caller, alive until done. */
typedef struct nv_c2d_take {
    /* in */
    nv_span device_id;
    int64_t lock_us; /* 0: the hub's 60 s; at most 300 s */
    void (*done)(struct nv_c2d_take *take);
    void *arg;
    /* out */
    nv_hub_error error;
    nv_c2d_message *message; /* a reference for the caller; NULL: the queue is empty */
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
    void *_op;
} nv_c2d_take;
void nv_c2d_take_do(nv_hub_loop *loop, nv_c2d_take *take);

typedef enum nv_c2d_outcome { NV_C2D_COMPLETE, NV_C2D_ABANDON, NV_C2D_REJECT } nv_c2d_outcome;

/** Settle what was handed out. Owned by the caller, alive until done. */
typedef struct nv_c2d_settle {
    /* in; spans stay valid until done */
    nv_span device_id;
    nv_span lock_token;
    nv_c2d_receiver *receiver; /* gets its credit back; NULL: none */
    nv_c2d_outcome outcome;
    void (*done)(struct nv_c2d_settle *settle); /* after the commit */
    void *arg;
    /* out */
    nv_hub_error error; /* NONE, DeviceMessageLockLost, ServiceUnavailable */
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
    void *_op;
} nv_c2d_settle;
void nv_c2d_settle_do(nv_hub_loop *loop, nv_c2d_settle *settle);

/** Remove what is Enqueued (locked ones stay their receiver's). */
typedef struct nv_c2d_purge {
    nv_span device_id;
    void (*done)(struct nv_c2d_purge *purge);
    void *arg;
    nv_hub_error error;
    uint64_t purged;
    nv_hub_loop *_loop;
    nv_task _task;
    void *_op;
} nv_c2d_purge;
void nv_c2d_purge_do(nv_hub_loop *loop, nv_c2d_purge *purge);

/* ---- feedback ----------------------------------------------------------------------------------------------- */

/** X(id, name on the wire, description) */
#define NV_FEEDBACK_TABLE(X)                                                                                           \
    X(SUCCESS, "Success", "Success")                                                                                   \
    X(EXPIRED, "Expired", "Message expired")                                                                           \
    X(DELIVERY_COUNT_EXCEEDED, "DeliveryCountExceeded", "Message exceeded its maximum delivery count")                 \
    X(REJECTED, "Rejected", "Message rejected by the device")                                                          \
    X(PURGED, "Purged", "Message purged")

typedef enum nv_feedback_status {
#define X(id, name, description) NV_FEEDBACK_##id,
    NV_FEEDBACK_TABLE(X)
#undef X
} nv_feedback_status;

/**
 * A batch of feedback records, as JSON array text, at most 64 records, locked for 60 s; durable; oldest first. Owned by
 * the whole hub: its locks live on one shard. Also used by the AMQP link, which waits (core calls done when a batch is
 * full or its first record is 15 s old); HTTP takes what is there.
 */
typedef struct nv_feedback_take {
    /* in */
    bool wait; /* false: answer at once, also with nothing */
    void (*done)(struct nv_feedback_take *take);
    void *arg;
    /* out */
    nv_hub_error error;
    nv_buf records; /* empty: none; the caller deinits it */
    char lock_token[37];
    int64_t enqueued_us; /* of the first record */
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
    nv_list _link;
    void *_op;
} nv_feedback_take;
void nv_feedback_take_do(nv_hub_loop *loop, nv_feedback_take *take);
/** Stop waiting; done is called with nothing, later. */
void nv_feedback_take_cancel(nv_feedback_take *take);

typedef struct nv_feedback_settle {
    nv_span lock_token;
    bool complete; /* false: abandon */
    void (*done)(struct nv_feedback_settle *settle);
    void *arg;
    nv_hub_error error; /* NONE, DeviceMessageLockLost, ServiceUnavailable */
    nv_hub_loop *_loop;
    nv_task _task;
    void *_op;
} nv_feedback_settle;
void nv_feedback_settle_do(nv_hub_loop *loop, nv_feedback_settle *settle);

/* ---- for the hub ------------------------------------------------------------------------------------------- */

nv_c2d *nv_c2d_new(nv_hub_loop *loop);
/** Every receiver is detached, nothing is in flight. NULL is fine. */
void nv_c2d_free(nv_c2d *c2d);

#endif
