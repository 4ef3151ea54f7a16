/** The messages of the reference; shared by model_c2d.c (what is done) and model_c2d_check.c (what came of it). */
#ifndef NV_CORE_MODEL_C2D_H
#define NV_CORE_MODEL_C2D_H

#include "base/alloc.h"
#include "base/guid.h"
#include "core/c2d.h"
#include "core/model.h"

typedef enum message_state {
    MESSAGE_SENDING, /* not stored, as far as is known */
    MESSAGE_QUEUED,
    MESSAGE_LOCKED,
    MESSAGE_UNKNOWN, /* queued or locked: the store failed on it */
    MESSAGE_GONE
} message_state;

/** Its body is its number: its place in the list, from 1. */
typedef struct message {
    uint32_t slot;
    nv_c2d_ack ack;
    bool sent; /* the send was answered so */
    uint64_t sequence;
    int64_t expires_us;    /* at the earliest, wall */
    int64_t expires_to_us; /* at the latest; 0: not known yet */
    message_state state;
    message_state before; /* this batch */
    uint32_t deliveries;
    bool loose;      /* the last hand-out may not be counted: a restart, a failing store */
    uint32_t unseen; /* hand-outs there may have been to receivers that had gone */
    /* the last hand-out */
    char lock[NV_GUID_TEXT_SIZE];
    char old_lock[NV_GUID_TEXT_SIZE];
    uint64_t conn; /* 0: a take */
    int64_t lock_us;
    int64_t locked_from_us; /* monotonic: handed out then, at the earliest and at the latest */
    int64_t locked_to_us;
    int64_t unknown_us; /* since */
    /* of this batch */
    bool handed;
    bool freed;   /* may be Enqueued again since the last hand-out */
    bool settled; /* was tried with its present lock */
    bool abandoned;
    bool lost; /* its lock is, says an answer */
    bool stored;
    uint32_t ends;   /* bits by nv_feedback_status: answered so */
    uint32_t causes; /* bits: may have ended so */
    uint32_t later_causes;
} message;

typedef enum request_kind { REQUEST_SEND, REQUEST_TAKE, REQUEST_SETTLE, REQUEST_PURGE } request_kind;

typedef struct request {
    model *w;
    request_kind kind;
    uint32_t slot;
    uint64_t number; /* of the message */
    bool bad;        /* SEND: to be refused */
    bool certain;    /* SETTLE: the lock was held */
    bool lost;       /* SETTLE: it was not */
    bool done;
    nv_hub_error error;
    char text[NV_GUID_TEXT_SIZE];
    nv_buf properties;
    nv_c2d_send send;
    nv_c2d_take take;
    nv_c2d_settle settle;
    nv_c2d_purge purge;
} request;

typedef struct model_receiver {
    nv_c2d_receiver receiver;
    model_conn *conn;
    uint32_t credit;
    bool attached;
    bool leaves; /* the connection goes with it */
} model_receiver;

/** Feedback that a service is to get. */
typedef struct record {
    uint64_t number; /* of the message */
    uint32_t slot;
    nv_feedback_status status;
    int64_t expires_us;    /* wall, at the earliest */
    int64_t expires_to_us; /* at the latest: the hub reads the clock again after the commit */
    int64_t locked_until_us;
    int64_t doubtful_until_us; /* its lock was to end, and that may have failed */
    uint64_t taken;            /* by which take */
    uint32_t deliveries;
    bool gone;
    bool seen;
} record;

typedef struct model_queues {
    message *messages;
    size_t count;
    record *records; /* in their order */
    size_t record_count;
    uint64_t takes;
    int64_t failing_until_us; /* the store failed: some things are tried again then */
    /* of this batch */
    request **requests;
    size_t request_count;
    bool purging[MODEL_SLOTS];
    uint64_t purged[MODEL_SLOTS];
    uint32_t sends[MODEL_SLOTS];
    int64_t from_us;
} model_queues;

static inline message *message_numbered(const model *w, uint64_t number)
{
    return number >= 1 && number <= w->c2d->count ? &w->c2d->messages[number - 1] : NULL;
}

#endif
