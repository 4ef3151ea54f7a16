/**
 * What every protocol's session is to the connection that carries it: a state machine without a socket.
 * Five verbs, the same for MQTT, HTTP and AMQP: bytes arrived, bytes to send, a deadline passed, the peer is gone,
 * goodbye.
 *
 *   net/ (or a test) ---- input, tick, lost ---> session
 *                    <--- out, deadline, reading, closing (members it reads after each call)
 *                    <--- wake (when something happened between calls: an append was confirmed, ...)
 *
 * Thread: a session lives and dies on one loop; every function here is called on it. Time is an argument.
 */
#ifndef NV_SESSION_SESSION_H
#define NV_SESSION_SESSION_H

#include "base/buf.h"
#include "base/clock.h"
#include "base/task.h"
#include "core/peer.h"

typedef struct nv_session nv_session;
typedef struct nv_carrier nv_carrier;
struct nv_hub_loop;

/** What comes after the session that now speaks: a WebSocket whose binary messages carry another one's bytes. */
typedef struct nv_upgrade {
    /** Makes the successor; as at the begin of a connection it may write to carrier->out at once. NULL: refused. */
    nv_session *(*make)(void *arg, nv_carrier *carrier);
    /** Instead of make(), when the connection ended before. NULL: nobody asks. */
    void (*dropped)(void *arg);
    void *arg;
    size_t max_message_bytes; /* of a WebSocket message; a longer one closes the connection */
    bool client;              /* we have connected to the peer, and asked for this */
} nv_upgrade;

/** The connection as its session sees it. */
struct nv_carrier {
    const nv_peer *peer;
    struct nv_hub_loop *loop; /* the core's context of this loop */
    nv_buf *out;              /* what nv_session.out becomes; whoever makes the session may write to it at once */
    /** Something changed between calls: look at the session's members at the end of this turn. Idempotent, never
     * reenters. */
    void (*wake)(nv_carrier *carrier);
    /**
     * Hand the connection over (@p to is copied). What the session has written goes out as it is; the bytes behind
     * those that it has taken are the first of the WebSocket. It must not read or write from here on: at the end of
     * the turn it gets lost(), is done then, and is freed; the peer stays the same. Once per connection.
     */
    void (*upgrade)(nv_carrier *carrier, const nv_upgrade *to);
};

typedef struct nv_session_ops {
    /**
     * @p bytes arrived. Consume whole units from the front and return how many bytes were taken; the rest is presented
     * again with more behind it. Not called while !reading or closing. A unit that can never be accepted closes the
     * session; the carrier's buffer for the rest is bounded by nv_session.max_pending.
     */
    size_t (*input)(nv_session *session, nv_span bytes, int64_t now_us);
    /**
     * Bytes of out went to the peer: there is room for more. Called once per turn in which out became shorter, also
     * while !reading, never after lost(). NULL: the session never waits for room.
     */
    void (*sent)(nv_session *session, int64_t now_us);
    /** The deadline is due. It may have been moved meanwhile: compare. */
    void (*tick)(nv_session *session, int64_t now_us);
    /** The transport ended, in order or not (@p why is static text). Called once; input and tick never after it. */
    void (*lost)(nv_session *session, const char *why, int64_t now_us);
    /** The hub stops: finish what was promised (acknowledgements in flight), then close. */
    void (*drain)(nv_session *session, int64_t now_us);
    /**
     * Free. The carrier calls it after lost(), once session.done is true: a session with appends in flight stays
     * until they are confirmed, and sets done and wakes then.
     */
    void (*free)(nv_session *session);
} nv_session_ops;

struct nv_session {
    const nv_session_ops *ops;
    nv_carrier *carrier;
    nv_buf *out; /* the carrier's, valid as long as the session: append what goes to the peer. Bounded; when it is full
                    the peer does not read, and the session closes */
    int64_t deadline_us; /* monotonic; INT64_MAX = none */
    size_t max_pending;  /* the longest incomplete unit the carrier must buffer, in bytes */
    bool reading;        /* false: stop reading from the peer (back-pressure) */
    bool closing;        /* send what is in out, then close the transport */
    bool done;           /* may be freed once lost() was called */
    bool authenticated;  /* the session knows who the peer is: it leaves the cap on those it does not know, and may send
                            more at once. Never goes back */
    uint32_t guests;     /* identities that came over it beside its own: how much memory ends with it */
};

#endif
