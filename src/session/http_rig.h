/**
 * For tests: an HTTP session joined to a client in memory, over a real hub with a real registry, and a telemetry log
 * whose reader the test controls.
 */
#ifndef NV_SESSION_HTTP_RIG_H
#define NV_SESSION_HTTP_RIG_H

#include "core/hub.h"
#include "core/policies.h"
#include "session/http.h"
#include "store/state.h"

#define NV_RIG_HOST "hub.test"

/** The hub and what it stands on. */
typedef struct nv_rig_hub {
    nv_exec_queue queue;
    nv_manual_clock clock;
    nv_seeded_rng rng;
    char dir[64];
    nv_state *state;
    nv_log *log;
    nv_hub *hub;
} nv_rig_hub;

void nv_rig_hub_init(nv_rig_hub *rig);
void nv_rig_hub_deinit(nv_rig_hub *rig);
/** Run tasks until nothing is queued and, when @p done is given, *done is true. */
void nv_rig_hub_run(nv_rig_hub *rig, const bool *done);

/** One connection. */
typedef struct nv_rig {
    nv_carrier carrier; /* first member */
    nv_rig_hub *on;
    nv_peer peer;
    nv_session *session;
    nv_buf out;
    nv_buf in;       /* from the client, not taken by the session yet */
    nv_buf received; /* by the client */
    size_t step;     /* input arrives in pieces of this size; 0: all at once */
    size_t window;   /* the client reads at most this many bytes a turn; SIZE_MAX: all */
    size_t most_queued;
    nv_upgrade upgrade; /* what the session handed the connection over to; make is NULL: it did not */
    bool woken;
    bool lost;
} nv_rig;

void nv_rig_init(nv_rig *rig, nv_rig_hub *on, nv_session *(*make)(nv_carrier *));
/** Loses the connection if it is still there, waits for the session and frees it. */
void nv_rig_deinit(nv_rig *rig);
void nv_rig_send(nv_rig *rig, nv_span bytes);
/** Move bytes both ways until nothing moves. */
void nv_rig_pump(nv_rig *rig);
/** Advance both clocks, run the core's timers that are due, then call tick if the deadline is due. */
void nv_rig_advance(nv_rig *rig, int64_t delta_us);
void nv_rig_lose(nv_rig *rig);

/** An answer, cut from the front of what was received; body points into own memory until the next. */
typedef struct nv_answer {
    unsigned status;
    char head[4096];
    char body[1 << 20];
    size_t body_len;
} nv_answer;

/** @return false: it is not complete yet */
bool nv_rig_take_answer(nv_rig *rig, bool to_head, nv_answer *out);
/** Wait for one. */
void nv_rig_wait_answer(nv_rig *rig, bool to_head, nv_answer *out);
/** The value of a header, or NULL. Static storage until the next call. */
const char *nv_answer_header(const nv_answer *answer, const char *name);

/** A token of a policy for the whole hub, or for @p resource ("hub.test/devices/d"). Static storage. */
const char *nv_rig_policy_token(nv_rig_hub *on, const char *policy, const char *resource);
/** A token signed with the base64 key of a device. Static storage. */
const char *nv_rig_key_token(nv_rig_hub *on, const char *resource, const char *key_base64);

/** What the hub's log is: the double below, or what a test that leaves it out defines. */
nv_log *nv_rig_log_new(nv_rig_hub *rig);
void nv_rig_log_free(nv_log *log);

/** The log's double: records that the test adds, a reader that answers when asked. */
void nv_rig_log_add(nv_log *log, const nv_record *record);
/** The next request of any reader is answered with this, once. */
void nv_rig_log_fail_next(nv_log *log, nv_err status);
void nv_rig_log_set_health(nv_log *log, nv_log_health health, const char *reason);
/** Options of the reader opened last. */
const nv_log_read_options *nv_rig_log_options(nv_log *log);

#endif
