/**
 * The inside of core/c2d.h, shared by its files: c2d_message.c (messages), c2d_queue.c (what of a queue is in memory,
 * and handing out), c2d_end.c (what becomes of a message that was handed out), c2d.c (what sessions ask),
 * c2d_receiver.c and c2d_purge.c (two parts of that), c2d_expiry.c (ends without a device), c2d_feedback.c (what
 * services hear).
 *
 * A queue is in memory while something of it waits or is in flight, and a little longer if messages were sent to it. Of
 * its messages a window is there, the oldest, and only while somebody receives. All of it belongs to the device's
 * shard.
 *
 * Most devices receive and get nothing for hours. An empty queue with one receiver is at rest: it is not in memory, and
 * the receiver stands with the entry of its device (core/device_table.h) until something asks for the queue.
 *
 *   stored:     | 3 | 4 | 5 | 6 | 7 | 8 | 9 |         the queue as committed
 *   in memory:  |LOCKED|ENDING|QUEUED|                sequences up to loaded_to; behind it only the store knows
 *
 * The store's operations of a queue complete in the order in which they were submitted, so a message that is put while
 * the window reaches up to the newest one joins the window when its commit is told.
 */
#ifndef NV_CORE_C2D_QUEUE_H
#define NV_CORE_C2D_QUEUE_H

#include "base/guid.h"
#include "base/map.h"
#include "core/c2d.h"
#include "store/state.h"
#include "store/state_c2d.h"

/* Of one queue in memory beside what is locked. */
#define NV_C2D_WINDOW_ROWS  128u
#define NV_C2D_WINDOW_BYTES (256u << 10)
/* Queues without anybody, kept so that a device which is sent to again and again is not asked for each time. */
#define NV_C2D_IDLE_QUEUES 1024u
/* When the store failed: not at once again. */
#define NV_C2D_RETRY_US NV_US_PER_S

typedef struct nv_c2d_queue nv_c2d_queue;
typedef struct nv_c2d_sweep nv_c2d_sweep;
typedef struct nv_feedback nv_feedback;

typedef enum nv_c2d_state {
    NV_C2D_QUEUED,    /* Enqueued */
    NV_C2D_LOCKED,    /* Invisible */
    NV_C2D_RETURNING, /* back to Enqueued once its delivery count is stored; what is behind it waits */
    NV_C2D_ENDING,    /* gone once that is stored */
    NV_C2D_RESTING    /* its end could not be stored: again in a moment */
} nv_c2d_state;

/** A message of the window. */
typedef struct nv_c2d_entry {
    nv_list link;
    nv_c2d_queue *queue;
    nv_c2d_message *message; /* a reference */
    nv_c2d_state state;
    uint32_t deliveries; /* as stored: how often it came back */
    nv_timer timer;      /* LOCKED, RESTING */
    int64_t locked_until_us;
    nv_c2d_receiver *receiver; /* LOCKED, ENDING: NULL for a take, or when the receiver went */
    char lock_token[NV_GUID_TEXT_SIZE];
} nv_c2d_entry;

struct nv_c2d_queue {
    nv_c2d *c2d;
    nv_list idle;           /* in nv_c2d.idle while nobody needs it */
    bool known;             /* the head was read */
    bool used;              /* something was sent to it since it is in memory */
    bool gone;              /* the device is: nothing of it counts any more; in no map */
    bool reading;           /* head or window, in flight */
    bool stale;             /* what is being read may have ended meanwhile: read it again */
    uint32_t holds;         /* ends in flight of what is not in the window: nothing is handed out or loaded meanwhile */
    uint32_t ops;           /* in flight, of any kind */
    uint64_t generation;    /* of the device */
    uint64_t next_sequence; /* for the next put */
    uint64_t newest;        /* the largest that was committed */
    uint64_t loaded_to;     /* up to here everything that is stored is in the window */
    uint64_t depth;         /* stored or about to be */
    nv_list entries;        /* by sequence */
    size_t queued;          /* of them QUEUED */
    size_t queued_bytes;
    nv_list receivers;
    nv_list takes;   /* c2d_take ops, waiting for a message or for its absence */
    nv_list waiting; /* nv_c2d_waiter, for the head */
    nv_timer retry;  /* the store failed while somebody receives */
    size_t id_len;
    char id[];
};

/** Something that needs the head of the queue. */
typedef struct nv_c2d_waiter {
    nv_list link;
    /** Called once; @p error NONE: queue->known. */
    void (*ready)(struct nv_c2d_waiter *waiter, nv_c2d_queue *queue, nv_hub_error error);
} nv_c2d_waiter;

struct nv_c2d {
    nv_hub_loop *loop;
    nv_map queues; /* device id */
    nv_map locks;  /* lock token -> nv_c2d_entry */
    nv_list idle;  /* nv_c2d_queue, the longest idle first */
    size_t idle_count;
    uint32_t ops; /* in flight */
    bool closed;  /* the hub stops */
    /* the first loop's only */
    nv_c2d_sweep *sweep;
    nv_feedback *feedback;
};

static inline nv_span nv_c2d_queue_id(const nv_c2d_queue *queue)
{
    return nv_span_of(queue->id, queue->id_len);
}

/* ---- c2d_message.c ---- */

/** A row's message, as it was stamped when it came; one reference, the sections are copied. */
nv_c2d_message *nv_c2d_message_of(const nv_c2d_row *row);
/** A new message: `to` is stamped, and @p message_id unless it is empty. NULL: the properties are malformed. */
nv_c2d_message *nv_c2d_message_new(nv_span device_id, nv_span message_id, const nv_c2d_row *row);
/** For a hand-out: @p message itself if nobody else has it, else a copy that takes its place. */
nv_c2d_message *nv_c2d_message_own(nv_c2d_message *message);

/* ---- c2d_queue.c ---- */

/** Found or made; with the receiver that stands for one at rest. nv_c2d_queue_need() is to follow. */
nv_c2d_queue *nv_c2d_queue_of(nv_c2d *c2d, nv_span device_id);
void nv_c2d_queue_add_receiver(nv_c2d_queue *queue, nv_c2d_receiver *receiver);
/** Call ready() when the head is known: at once, or later. */
void nv_c2d_queue_need(nv_c2d_queue *queue, nv_c2d_waiter *waiter);
/** Hand out what can be. Keeps the queue: nv_c2d_queue_settle() at the end. */
void nv_c2d_queue_pump(nv_c2d_queue *queue);
/** The queue was worked on: hand out, then forget it if nobody needs it. It may be gone afterwards. */
void nv_c2d_queue_settle(nv_c2d_queue *queue);
/** Something in the store ends that is not in the window; release it in the done() of that. */
void nv_c2d_queue_hold(nv_c2d_queue *queue);
void nv_c2d_queue_release(nv_c2d_queue *queue);
/** A put is committed. */
void nv_c2d_queue_stored(nv_c2d_queue *queue, nv_c2d_message *message);
/** Of the window; NULL: not there. */
nv_c2d_entry *nv_c2d_queue_find(nv_c2d_queue *queue, uint64_t sequence);
/** Take the lock off an entry (LOCKED to @p state). */
void nv_c2d_entry_unlock(nv_c2d_entry *entry, nv_c2d_state state);
/** Out of the window and of memory; in any state, with its lock. */
void nv_c2d_entry_free(nv_c2d_entry *entry);
/** The window counts what is QUEUED: when an entry becomes so, and before it is so no longer. */
void nv_c2d_entry_set_queued(nv_c2d_entry *entry);
void nv_c2d_entry_unset_queued(nv_c2d_entry *entry);
/* ---- c2d_end.c ---- */

/** What is locked comes back, counted, or is dead-lettered; @p settle hears of it, or NULL. LOCKED entries only. */
void nv_c2d_entry_return(nv_c2d_entry *entry, nv_c2d_settle *settle);
/** The message ends as @p status. QUEUED, LOCKED or RESTING entries. */
void nv_c2d_entry_end(nv_c2d_entry *entry, nv_feedback_status status, nv_c2d_settle *settle);

/* ---- c2d_queue.c again ---- */

/** Submit a write of @p queue and count it. @return false: done() was not called and will not be */
bool nv_c2d_write(nv_c2d_queue *queue, nv_state_op *op);
/** In done() of each. */
void nv_c2d_written(nv_c2d_queue *queue);

nv_hub_error nv_c2d_error_of(nv_err err);
/** The takes that wait get no message. */
void nv_c2d_queue_answer_takes(nv_c2d_queue *queue, nv_hub_error error);
/** @p take waits for a message or for its absence. */
void nv_c2d_queue_take(nv_c2d_queue *queue, nv_c2d_take *take);

/* ---- c2d.c ---- */

/** What the shard of a device keeps. */
nv_c2d *nv_c2d_of(nv_hub *hub, nv_span device_id);
/** @p run on the shard of the device. */
void nv_c2d_post_to_shard(nv_hub_loop *loop, nv_span device_id, nv_task *task, void (*run)(nv_task *task));
/** Of what can be no id nothing is asked. */
bool nv_c2d_id_possible(nv_span device_id);
/** Back to the loop that asked. */
void nv_c2d_post_take(nv_c2d_take *take);
void nv_c2d_post_settle(nv_c2d_settle *settle, nv_hub_error error);

/* ---- c2d_expiry.c ---- */

nv_c2d_sweep *nv_c2d_sweep_new(nv_hub_loop *loop);
void nv_c2d_sweep_free(nv_c2d_sweep *sweep);
void nv_c2d_sweep_start(nv_c2d_sweep *sweep);
bool nv_c2d_sweep_idle(const nv_c2d_sweep *sweep);
/** Something that expires then was stored. Thread: any. */
void nv_c2d_sweep_expect(nv_hub *hub, int64_t expires_us);

/**
 * Within a transaction: one message ends; its feedback is put as its ack wants it.
 * @param newest  nv_txn_c2d_delete
 * @param told    set when feedback was put
 * @return NV_E_NOT_FOUND it is not there
 */
NV_NODISCARD nv_err nv_c2d_end_in_txn(nv_txn *txn, nv_hub *hub, nv_span device_id, uint64_t generation,
                                      uint64_t sequence, nv_feedback_status status, bool newest, bool *told);
/** Does @p ack ask for feedback of @p status? */
bool nv_c2d_ack_wants(nv_c2d_ack ack, nv_feedback_status status);

/* ---- c2d_feedback.c ---- */

nv_feedback *nv_feedback_new(nv_hub_loop *loop);
void nv_feedback_free(nv_feedback *feedback);
bool nv_feedback_idle(const nv_feedback *feedback);
/** The hub stops: who waits is told. */
void nv_feedback_turn_end(nv_feedback *feedback);
/** Records were committed. Thread: any. */
void nv_feedback_added(nv_hub *hub);

#endif
