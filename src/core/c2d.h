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
#include "base/guid.h"
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
    nv_c2d_ack ack;
    int64_t expires_us; /* wall; 0: the hub's default. At most 2 days ahead */
    nv_body_kind body_kind;
    nv_span properties; /* encoded section; `to` is stamped here, and a message id where feedback is to name one */
    nv_span body;
    void (*done)(struct nv_c2d_send *send); /* on the loop that asked, never from within the call; after the commit */
    void *arg;
    /* out */
    nv_hub_error error; /* DeviceNotFound, DeviceMaximumQueueDepthExceeded, MessageTooLarge, ArgumentInvalid, ... */
    char detail[200];
    uint64_t sequence;
    char message_id[NV_GUID_TEXT_SIZE]; /* made here, since feedback is wanted and none was given; else empty */
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
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
    uint32_t credit;       /* how many may be locked by it at the same time */
    /* private: the shard's loop */
    uint32_t _window;
    uint32_t _locked;
    /* private: the session's loop */
    bool _detached;
    /* in */
    bool pulls; /* it is the first member of a nv_c2d_puller */
    /** A message, locked for 60 s. The session keeps a reference if it needs it longer than the call. */
    void (*message)(struct nv_c2d_receiver *receiver, nv_c2d_message *message);
    /* private: the session's loop */
    nv_hub_loop *_loop;
    /* private: the shard's loop */
    nv_list _link;
    void *_queue; /* nv_c2d_queue; NULL: the queue is at rest, or the device is gone */
} nv_c2d_receiver;
/** A receiver that gets no more than it asks for, beside its credit: AMQP. */
typedef struct nv_c2d_puller {
    nv_c2d_receiver receiver; /* first member */
    /* private: the shard's loop */
    uint32_t _handed; /* since it was attached; wraps */
    uint32_t _limit;
} nv_c2d_puller;
void nv_c2d_attach(nv_hub_loop *loop, nv_c2d_receiver *receiver);
/**
 * Room for @p more messages at the same time. A place becomes free by itself when a message is settled and when its
 * lock is lost, be it to time, to its expiry or to the end of the device: the session hears of a lost lock when it
 * settles, or when the same message (the same sequence) is handed to it again with a new token.
 */
void nv_c2d_credit(nv_c2d_receiver *receiver, uint32_t more);
/**
 * It may have been handed up to @p limit messages since it was attached, modulo 2^32 and less than 2^31 more than it
 * was; at first 0. The limit may go down: what is on its way arrives still.
 */
void nv_c2d_pull(nv_c2d_puller *puller, uint32_t limit);
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
} nv_c2d_take;
void nv_c2d_take_do(nv_hub_loop *loop, nv_c2d_take *take);

typedef enum nv_c2d_outcome { NV_C2D_COMPLETE, NV_C2D_ABANDON, NV_C2D_REJECT } nv_c2d_outcome;

/** Settle what was handed out. Owned by the caller, alive until done. */
typedef struct nv_c2d_settle {
    /* in; spans stay valid until done */
    nv_span device_id;
    nv_span lock_token;
    nv_c2d_receiver *receiver; /* whom it was handed to, for the caller's own use: the lock knows its receiver */
    nv_c2d_outcome outcome;
    void (*done)(struct nv_c2d_settle *settle); /* after the commit */
    void *arg;
    /* out */
    nv_hub_error error; /* NONE, DeviceMessageLockLost, ServiceUnavailable */
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
} nv_c2d_settle;
void nv_c2d_settle_do(nv_hub_loop *loop, nv_c2d_settle *settle);

/** Remove what is Enqueued (locked ones stay their receiver's). Owned by the caller, alive until done. */
typedef struct nv_c2d_purge {
    /* in */
    nv_span device_id;
    void (*done)(struct nv_c2d_purge *purge); /* after the commit */
    void *arg;
    /* out */
    nv_hub_error error; /* NONE, DeviceNotFound, ServiceUnavailable */
    uint64_t purged;
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
} nv_c2d_purge;
void nv_c2d_purge_do(nv_hub_loop *loop, nv_c2d_purge *purge);

/** How many messages wait for each of some devices (cloudToDeviceMessageCount). Owned by the caller, alive until done.
 */
typedef struct nv_c2d_depths {
    /* in */
    const nv_span *device_ids; /* valid until done */
    size_t count;
    void (*done)(struct nv_c2d_depths *depths);
    void *arg;
    /* out */
    uint64_t *depths; /* room for count, the caller's; all 0 when the store fails */
    nv_err status;
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
} nv_c2d_depths;
void nv_c2d_depths_get(nv_hub_loop *loop, nv_c2d_depths *depths);

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

/** What the AMQP link calls a batch; HTTP says application/json, as for all its bodies. */
#define NV_FEEDBACK_CONTENT_TYPE "application/vnd.microsoft.iothub.feedback.json"
#define NV_FEEDBACK_BATCH        64u
#define NV_FEEDBACK_WAIT_US      (15 * NV_US_PER_S)

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
    uint64_t _number;
} nv_feedback_take;
void nv_feedback_take_do(nv_hub_loop *loop, nv_feedback_take *take);
/** Stop waiting; done is called, later, with nothing unless a batch was on its way. Thread: that of the take. */
void nv_feedback_take_cancel(nv_feedback_take *take);

typedef struct nv_feedback_settle {
    nv_span lock_token;
    bool complete; /* false: abandon */
    void (*done)(struct nv_feedback_settle *settle);
    void *arg;
    nv_hub_error error; /* NONE, DeviceMessageLockLost, ServiceUnavailable */
    nv_hub_loop *_loop;
    nv_task _task;
} nv_feedback_settle;
void nv_feedback_settle_do(nv_hub_loop *loop, nv_feedback_settle *settle);

/* ---- for the hub ------------------------------------------------------------------------------------------- */

nv_c2d *nv_c2d_new(nv_hub_loop *loop);
/** Every receiver is detached, nothing is in flight. NULL is fine. */
void nv_c2d_free(nv_c2d *c2d);
/** Find what expired while the hub was down, and wait for what expires next. Once, before the loops run. */
void nv_c2d_start(nv_hub *hub);
/** The hub stops: locks and expiries wait for the next start. Thread: the loop's. */
void nv_c2d_turn_end(nv_c2d *c2d);
/** Nothing of it is on its way to the store. Thread: the loop's. */
bool nv_c2d_idle(const nv_c2d *c2d);
/** A device is gone, and its messages with it (core/devices.h tells). Thread: the shard's loop. */
void nv_c2d_device_gone(nv_hub_loop *shard, nv_span device_id);

#endif
