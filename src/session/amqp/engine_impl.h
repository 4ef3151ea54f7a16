/**
 * What the files of the AMQP engine share.
 *
 *   engine.c           the connection: the verbs of a session, frames to handlers, OPEN, CLOSE, time
 *   engine_sasl.c      protocol headers and the SASL layer
 *   engine_write.c     frames into the output, errors as lists
 *   engine_session.c   BEGIN, END, FLOW
 *   engine_link.c      ATTACH, DETACH
 *   engine_receive.c   TRANSFER from the peer, credit given
 *   engine_send.c      TRANSFER to the peer, credit used
 *   engine_settle.c    DISPOSITION both ways
 *   engine_index.c     small sorted tables, rings of unsettled deliveries
 *
 * Every function of engine.h and every verb of the carrier runs between engine_enter() and engine_leave(). Callbacks
 * may detach any link and end any session: what is over is unlinked at once, marked DEAD and freed by the outermost
 * leave.
 */
#ifndef NV_SESSION_AMQP_ENGINE_IMPL_H
#define NV_SESSION_AMQP_ENGINE_IMPL_H

#include "base/map.h"
#include "session/amqp/engine.h"

#define ENGINE_CLOSE_US     (5 * NV_US_PER_S) /* for the answer to our CLOSE */
#define ENGINE_SASL_FRAME   8192u             /* PLAIN with a token and long ids (amqp.md section 1.2) */
#define ENGINE_WINDOW       8192u             /* transfers a session lets come at once */
#define ENGINE_OUTGOING     0x7fffffffu       /* our outgoing-window: the output bounds itself */
#define ENGINE_TAG_MAX      32u               /* part 2 section 2.8.7 */
#define ENGINE_DESCRIPTION  300u              /* bytes of an error's description that are sent */
#define ENGINE_ERROR_ROOM   2048u
#define ENGINE_MAX_MESSAGE  (UINT64_C(1) << 20)
#define ENGINE_MESSAGE_MASK 0x7fffffffu /* no message is larger */
#define ENGINE_TRACKED_MAX  16384u      /* unsettled deliveries a sender keeps; then it has no room */
#define ENGINE_LOOKUP_LINKS 16u         /* up to here names are found by looking at each link */
#define ENGINE_OUTPUT_SLACK 262144u     /* a message that has begun may go so far beyond the mark */

/* ---- tables (engine_index.c) -------------------------------------------------------------------------------- */

typedef struct engine_item {
    uint32_t key;
    void *value;
} engine_item;

/** Sorted by key. Keys are dense as a rule: then a look-up is one comparison. */
typedef struct engine_index {
    engine_item *items;
    uint32_t count;
    uint32_t capacity;
} engine_index;

void *engine_index_get(const engine_index *index, uint32_t key);
/** The key is not there yet. */
void engine_index_put(engine_index *index, uint32_t key, void *value);
void engine_index_remove(engine_index *index, uint32_t key);
/** The smallest key that is free. */
uint32_t engine_index_gap(const engine_index *index);
void engine_index_deinit(engine_index *index);

/** An unsettled delivery. */
typedef struct engine_entry {
    uint32_t id;
    uint32_t settled : 1;
    uint32_t size : 31; /* received: bytes */
    uint64_t cookie;    /* sent: the owner's */
} engine_entry;

/** In the order of their ids, which grow. Settled ones in the middle go when they are at the front, or all together
 * when the ring would have to grow. */
typedef struct engine_ring {
    engine_entry *entries;
    uint32_t head;
    uint32_t count; /* with the settled ones */
    uint32_t live;  /* without */
    uint32_t capacity;
} engine_ring;

/** @return false: out of memory */
bool engine_ring_push(engine_ring *ring, const engine_entry *entry);
engine_entry *engine_ring_find(const engine_ring *ring, uint32_t id);
/** The first unsettled one whose id is not before @p id. */
engine_entry *engine_ring_from(const engine_ring *ring, uint32_t id);
/** Mark it and drop what is settled in front. */
void engine_ring_settle(engine_ring *ring, engine_entry *entry);
/** Take back the push of @p id, when it is the last one. @return false: it was settled already */
bool engine_ring_unpush(engine_ring *ring, uint32_t id);
void engine_ring_deinit(engine_ring *ring);
/** Give memory back that a quiet link does not need. */
void engine_ring_trim(engine_ring *ring);

static inline engine_entry *engine_ring_at(const engine_ring *ring, uint32_t i)
{
    return &ring->entries[(ring->head + i) & (ring->capacity - 1)];
}

/** Serial numbers (RFC 1982): a before b. */
static inline bool engine_before(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) < 0;
}

/* ---- structs ------------------------------------------------------------------------------------------------ */

enum {
    ENGINE_STOP_SASL = 1,     /* the owner looks at credentials */
    ENGINE_STOP_DELIVERY = 2, /* an owner said not now */
    ENGINE_STOP_ATTACH = 4,   /* something came for a link that is not answered yet, or too many wait */
    ENGINE_STOP_BUDGET = 8,
    ENGINE_STOP_END = 16
};

typedef struct nv_amqp_conn_private {
    const nv_clock *clock;
    nv_list waiting; /* engine_link.wait: senders that wait for room in the output */
    nv_list dead_links;
    nv_list dead_sessions;
    nv_list owed;           /* links that ended before their owner answered: they wait for the answer */
    engine_index by_remote; /* sessions by the peer's channel */
    engine_index by_local;
    nv_map names; /* links by role and name, once there are more than ENGINE_LOOKUP_LINKS */
    bool named;
    uint8_t stops;
    bool header_sent;
    bool open_sent;
    bool open_seen;
    bool told;     /* ended() was called */
    bool overflow; /* the output is full: the connection ends at the next verb */
    bool pump;     /* something waits for the next verb, which is asked for by a deadline that is due */
    bool authenticated;
    bool silent; /* abort: nothing more is written */
    uint16_t peer_channel_max;
    uint32_t depth;
    uint32_t session_count;
    uint32_t unanswered;
    uint32_t unsettled; /* received, by everybody */
    uint32_t tracking;
    size_t unsettled_bytes;
    size_t partial_bytes;
    size_t attach_bytes; /* of ATTACHes whose answer is awaited */
    uint64_t written;    /* bytes put into the output */
    int64_t heard_us;
    int64_t open_by_us;
    int64_t close_by_us;
    int64_t idle_us; /* when to look at heard_us again */
    int64_t owner_us;
    int64_t beat_us; /* when to look whether a heartbeat is due */
    int64_t beat_every_us;
    uint64_t beat_written;
    uint8_t *sasl_response; /* client; owned, wiped */
    size_t sasl_response_len;
    /* the DISPOSITION at the end of the output, which the next settlement may extend */
    struct {
        uint64_t at; /* .written behind it */
        const nv_amqp_session *session;
        uint32_t first;
        uint32_t last;
        uint32_t size;
        uint8_t role;
        uint8_t state;
    } tail;
} nv_amqp_conn_private;

typedef enum engine_session_state {
    ENGINE_SESSION_BEGUN,
    ENGINE_SESSION_ENDING, /* our END is out */
    ENGINE_SESSION_DEAD
} engine_session_state;

typedef struct engine_session {
    nv_amqp_session pub; /* first member */
    engine_session_state state;
    bool has_remote;     /* the peer's BEGIN came */
    uint32_t asked;      /* links whose ATTACH of ours is not answered */
    uint32_t unanswered; /* links whose ATTACH the owner has not answered */
    bool has_delivery;
    uint16_t remote_channel;
    uint32_t owed;          /* links of it in conn.owed */
    nv_list gone;           /* engine_link.pub._node: our DETACH is out */
    nv_list waiting;        /* engine_link.wait: senders that wait for the window */
    nv_list pending;        /* engine_link.pending: senders with unsettled deliveries */
    nv_list receiving;      /* the same: receivers with unsettled deliveries */
    engine_index by_handle; /* the peer's */
    engine_index by_local;
    uint32_t peer_handle_max;
    uint32_t next_incoming_id; /* transfers */
    uint32_t incoming_left;    /* that the peer may still send */
    uint32_t next_outgoing_id;
    uint32_t remote_window; /* that we may still send */
    uint32_t next_delivery; /* ours */
    uint32_t last_delivery; /* the peer's */
} engine_session;

typedef enum engine_link_state {
    ENGINE_LINK_ATTACHING, /* one ATTACH is missing: server: ours, client: the peer's */
    ENGINE_LINK_ATTACHED,
    ENGINE_LINK_GONE, /* our DETACH is out, the peer's is not here */
    ENGINE_LINK_DEAD
} engine_link_state;

/** A delivery that comes in several frames. */
typedef struct engine_partial {
    nv_buf bytes;
    uint32_t id;
    uint32_t format;
    bool settled;
    uint8_t tag_len;
    uint8_t tag[ENGINE_TAG_MAX];
} engine_partial;

/** What is the same in every frame of a delivery that is sent. */
typedef struct engine_head {
    uint32_t id;
    uint32_t format;
    bool settled;
    uint8_t tag_len;
    uint8_t tag[ENGINE_TAG_MAX];
} engine_head;

/** The rest of a message for which window or output ran out. */
typedef struct engine_rest {
    engine_head head;
    size_t at;
    size_t len;
    uint8_t bytes[];
} engine_rest;

/** An ATTACH until it is answered. */
typedef struct engine_attach {
    size_t size; /* of all of it, in bytes */
    nv_amqp_performative attach;
    nv_amqp_performative source;
    nv_amqp_performative target;
    uint8_t bytes[];
} engine_attach;

typedef struct engine_link {
    nv_amqp_link pub; /* first member */
    nv_list wait;     /* conn.waiting or session.waiting */
    nv_list pending;
    engine_link_state state;
    bool has_handle; /* the peer's is known */
    bool wants_room; /* the owner was told that there is none */
    uint32_t handle; /* ours */
    uint32_t peer_handle;
    uint32_t delivery_count;
    uint32_t limit;  /* receiver: the furthest delivery_count that was ever granted */
    uint32_t window; /* receiver: credit as the owner wants it */
    uint64_t max_message;
    engine_ring ring;
    engine_partial *partial;
    engine_rest *rest;
    engine_attach *held;
    uint8_t key[]; /* of conn.names: role and channel (NAME_HEAD), then the name */
} engine_link;

static inline engine_link *engine_link_of(nv_amqp_link *link)
{
    return (engine_link *)(void *)link;
}

static inline engine_session *engine_session_of(nv_amqp_session *session)
{
    return (engine_session *)(void *)session;
}

static inline engine_session *engine_link_session(const engine_link *l)
{
    return (engine_session *)(void *)l->pub.session;
}

static inline bool engine_is_open(const nv_amqp_conn *conn)
{
    return conn->state == NV_AMQP_CONN_OPENED;
}

/* ---- engine.c ----------------------------------------------------------------------------------------------- */

static inline void engine_enter(nv_amqp_conn *conn)
{
    conn->_p->depth++;
}
void engine_leave(nv_amqp_conn *conn);
void engine_set_state(nv_amqp_conn *conn, nv_amqp_conn_state state);
int64_t engine_now(const nv_amqp_conn *conn);
/** An error of the peer's: everybody is told, CLOSE with the condition, the transport closes. */
void engine_fail(nv_amqp_conn *conn, nv_amqp_condition condition, const char *fmt, ...) NV_PRINTF(3, 4);
/** It is over: links and the owner are told, the transport closes when the output is out. */
void engine_finish(nv_amqp_conn *conn, const nv_amqp_problem *problem);
void engine_send_open(nv_amqp_conn *conn);
/** Frames larger than this are refused. */
uint32_t engine_max_frame(const nv_amqp_conn *conn);
void engine_stop(nv_amqp_conn *conn, uint8_t why);
void engine_go(nv_amqp_conn *conn, uint8_t why);
nv_amqp_problem engine_problem(nv_amqp_condition condition, const char *description);
/** Read an error field. */
nv_amqp_problem engine_problem_of(nv_span any);

/* ---- engine_sasl.c ------------------------------------------------------------------------------------------ */

/** Bytes taken of the input; 0: more are needed. */
size_t engine_on_header(nv_amqp_conn *conn, nv_span bytes);
void engine_on_sasl(nv_amqp_conn *conn, nv_span body);
void engine_client_start(nv_amqp_conn *conn);

/* ---- engine_write.c ----------------------------------------------------------------------------------------- */

/** A frame in the making. */
typedef struct engine_frame {
    nv_amqp_conn *conn;
    nv_writer w;
    size_t mark;
} engine_frame;

/** Room for @p len bytes in the output. @return NULL: the connection is over, or the output full */
uint8_t *engine_reserve(nv_amqp_conn *conn, size_t len);
void engine_commit(nv_amqp_conn *conn, size_t len);
bool engine_frame_begin(engine_frame *f, nv_amqp_conn *conn, nv_amqp_frame_type type, uint16_t channel, size_t room);
/** @return false: it did not fit and was not written */
bool engine_frame_end(engine_frame *f);
/** One performative as a frame. @p room  bytes its variable fields may need */
bool engine_write(nv_amqp_conn *conn, nv_amqp_frame_type type, uint16_t channel, const nv_amqp_performative *p,
                  size_t room);
/** An error list with all three fields into @p out. Empty when there is no error. */
nv_span engine_put_problem(nv_amqp_conn *conn, const nv_amqp_problem *problem, uint8_t out[ENGINE_ERROR_ROOM]);
/** A map with com.microsoft:tracking-id into @p out. */
nv_span engine_put_tracking(nv_amqp_conn *conn, uint8_t out[128]);
void engine_send_heartbeat(nv_amqp_conn *conn);

/* ---- engine_session.c --------------------------------------------------------------------------------------- */

void engine_on_begin(nv_amqp_conn *conn, uint16_t channel, const nv_amqp_begin *begin);
void engine_on_end(nv_amqp_conn *conn, engine_session *s, const nv_amqp_end *end);
void engine_on_flow(nv_amqp_conn *conn, engine_session *s, const nv_amqp_flow *flow);
engine_session *engine_session_find(const nv_amqp_conn *conn, uint16_t channel);
/** An error of the peer's that only its session pays for. */
void engine_session_fail(engine_session *s, nv_amqp_condition condition, const char *fmt, ...) NV_PRINTF(3, 4);
/** FLOW of the session, with the fields of @p link when there is one. */
void engine_send_flow(engine_session *s, engine_link *link, bool drain);
/** Its links are told, it is taken out of the tables. */
void engine_session_kill(engine_session *s, const nv_amqp_problem *problem);
/** Before CLOSE: there are clients that believe the end of the connection only once each link or each session has ended
 * (azure-iot-amqp-base otherwise waits for 45 s). */
void engine_end_sessions(nv_amqp_conn *conn, const nv_amqp_problem *problem);
void engine_bury(nv_amqp_conn *conn);

/* ---- engine_link.c ------------------------------------------------------------------------------------------ */

/** @return false: not now, the frame stays */
bool engine_on_attach(nv_amqp_conn *conn, engine_session *s, const nv_amqp_attach *attach, nv_span body);
bool engine_on_detach(nv_amqp_conn *conn, engine_session *s, const nv_amqp_detach *detach);
/** A link of it waits for an answer of its owner, who does not hear of its end otherwise. */
bool engine_must_wait(const engine_session *s);
/** The owner is told, then the memory goes at the end of the call. */
void engine_link_kill(engine_link *l, const nv_amqp_problem *problem);
/** An error of the peer's that only its link pays for: DETACH with the condition. */
void engine_link_fail(engine_link *l, nv_amqp_condition condition, const char *fmt, ...) NV_PRINTF(3, 4);
void engine_link_free(engine_link *l);
/** Links that were accepted too late: their owners are told, now that callbacks are expected. @p all  also those that
 * nobody answered: the connection goes */
void engine_tell_late(nv_amqp_conn *conn, bool all);

/* ---- engine_receive.c --------------------------------------------------------------------------------------- */

/** @return false: not now, the frame stays */
bool engine_on_transfer(nv_amqp_conn *conn, engine_session *s, const nv_amqp_transfer *transfer, nv_span payload);
/** Give credit back when half of the window is used. */
void engine_top_up(engine_link *l);
/** FLOW with the credit as it should be now. */
void engine_give_credit(engine_link *l);
/** The sender's FLOW. */
void engine_on_sender_flow(engine_link *l, const nv_amqp_flow *flow);
void engine_partial_drop(engine_link *l);
/** Bytes of a delivery are free again. */
void engine_release(nv_amqp_conn *conn, const engine_entry *entry);
/** Read or do not read by the budget. */
void engine_look_at_budget(nv_amqp_conn *conn);

/* ---- engine_send.c ------------------------------------------------------------------------------------------ */

/** The receiver's FLOW. */
void engine_on_receiver_flow(engine_link *l, const nv_amqp_flow *flow);
/** The session's window opened: those who wait for it are told. */
void engine_session_room(engine_session *s);
/** The output became shorter: those who wait for it are told. */
void engine_output_room(nv_amqp_conn *conn);
/** Tell a sender that there may be room, at the next verb. */
void engine_room_later(engine_link *l);

/* ---- engine_settle.c ---------------------------------------------------------------------------------------- */

void engine_on_disposition(nv_amqp_conn *conn, engine_session *s, const nv_amqp_disposition *disposition);

#endif
