/**
 * Two AMQP engines, or one and a script of bytes, joined in memory: carriers without sockets, and an owner that does as
 * it is told and writes down what it is told.
 */
#ifndef NV_TESTS_SUPPORT_AMQP_PAIR_H
#define NV_TESTS_SUPPORT_AMQP_PAIR_H

#include "core/hub.h"
#include "session/amqp/engine.h"

/** The carrier of one end. */
typedef struct amqp_end {
    nv_carrier carrier; /* first member */
    nv_hub_loop loop;
    nv_hub hub;
    nv_peer peer;
    nv_buf out;
    nv_buf in;
    nv_session *session;
    size_t unread;
    size_t stuck; /* so many bytes were shown in vain: it wants more */
    size_t piece; /* 0: all that is there; else at most so many bytes more at a time */
    bool lost;
    bool freed;
} amqp_end;

void amqp_end_init(amqp_end *end, const nv_clock *clock, size_t max_bytes);
void amqp_end_deinit(amqp_end *end);
/** Bytes for it, and all that follows from them. */
void amqp_end_give(amqp_end *end, nv_span bytes);
/** Feed what waits, tell it that its output went (when it did), tick when due, free when done. */
void amqp_end_serve(amqp_end *end);
/** The transport is gone. */
void amqp_end_cut(amqp_end *end);

#define AMQP_OWNER_LINKS 32
#define AMQP_OWNER_LOG   (64u * 1024u)

typedef struct amqp_owner {
    nv_amqp_conn conn; /* first member */
    amqp_end end;
    nv_buf log; /* a line for each thing that it was told */

    /* what it does */
    uint8_t sasl_code;
    bool sasl_later;
    bool close_in_opened;
    bool attach_later; /* keep the link in `waiting` */
    nv_amqp_condition refuse;
    uint32_t credit;
    uint64_t max_message;
    bool pre_settled;
    bool rcv_first;
    bool keep;          /* settle nothing */
    bool keep_outcomes; /* do not settle outcomes back */
    uint32_t not_now;   /* say false to so many deliveries */
    bool quiet;         /* no lines for deliveries and outcomes */
    bool echo_body;     /* a line with the body of each delivery */
    uint32_t to_send;   /* when there is room: so many messages ... */
    size_t send_size;   /* ... of this size */
    bool send_settled;
    bool stay_undrained;

    /* what it has */
    nv_amqp_session *session;
    nv_amqp_link *links[AMQP_OWNER_LINKS]; /* in the order they came; NULL: detached */
    size_t link_count;
    nv_amqp_link *waiting;
    uint32_t ids[1024]; /* of the deliveries that were kept */
    uint32_t kept;
    uint64_t deliveries;
    uint64_t delivered_bytes;
    uint64_t body_sum; /* of all bytes of bodies, in order: fnv-1a */
    uint64_t sent;
    uint64_t outcomes[NV_AMQP_OUT_OTHER + 1];
    bool ended;
    bool opened;
} amqp_owner;

extern const nv_amqp_config amqp_server_config;
extern const nv_amqp_config amqp_client_config;

/** @p config NULL: the one above */
void amqp_owner_server(amqp_owner *owner, const nv_clock *clock, const nv_amqp_config *config);
void amqp_owner_client(amqp_owner *owner, const nv_clock *clock, const nv_amqp_config *config);
/** Cuts the connection when it is still there. */
void amqp_owner_deinit(amqp_owner *owner);
extern const nv_amqp_link_ops amqp_owner_link_ops;
nv_amqp_link *amqp_owner_attach(amqp_owner *owner, const char *name, bool sender, uint32_t credit);
/** Send what owner->to_send asks for on this link as far as there is room. */
void amqp_owner_send(amqp_owner *owner, nv_amqp_link *link);
const char *amqp_owner_log(amqp_owner *owner);

/** Move bytes both ways until nothing moves. */
void amqp_pair_run(amqp_end *a, amqp_end *b);
/** Move at most @p bytes from one to the other. @return how many */
size_t amqp_pair_move(amqp_end *from, amqp_end *to, size_t bytes);

/** The n-th byte of every test message that is @p size long and the @p number-th. */
uint8_t amqp_test_byte(uint64_t number, size_t at);

#endif
