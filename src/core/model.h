/**
 * The model-based test of twins, methods and cloud-to-device messages, shared by its files.
 *
 * A real hub on the real state store, whose disk is in memory, runs on two loops, all in one thread: the test decides
 * which loop runs next, how many of its tasks, when the store commits and what it commits together. Beside it stands a
 * reference: JSON trees and lists, written from the protocol's text. Operations are thrown at the hub, many before any
 * is answered; when everything is quiet, every answer, document, notification and queue is compared.
 *
 * Everything follows one seed, so `model_test SEED STEPS` repeats a run exactly.
 *
 *   model_test.c   what happens next; the command line
 *   model_hub.c    the hub, its loops, its store and disk; restarts
 *   model_json.c   random documents; merging and comparing them
 *   model_twin.c   registry and twins
 *   model_conn.c   connections: who is connected, who hears of desired properties
 *   model_call.c   direct methods
 *   model_c2d.c    messages and what is done with them; model_c2d_check.c what should have come of it
 *   model_feedback.c  a service that reads feedback
 */
#ifndef NV_CORE_MODEL_H
#define NV_CORE_MODEL_H

#include "base/attrs.h"
#include "base/list.h"
#include "core/devices.h"
#include "core/hub.h"
#include "core/registry.h"
#include "store/state.h"
#include "support/fault_disk.h"
#include "support/fault_vfs.h"

#include <json-c/json.h>
#include <stdio.h>

#define MODEL_LOOPS      2u
#define MODEL_SLOTS      7u
#define MODEL_DEVICES    5u /* of the slots, the first; modules follow */
#define MODEL_DEPTH      6
#define MODEL_DELIVERIES 3u
#define MODEL_SECTION    260 /* bytes of a twin's section: small, so that documents hit it */

/** An identity that comes and goes, and the twin that the reference holds of it. */
typedef struct model_slot {
    const char *device;
    const char *module;
    uint32_t parent; /* modules: the device's slot; devices: themselves */
    bool exists;
    bool enabled; /* devices */
    uint64_t generation;
    uint64_t etag;
    uint64_t version;
    uint64_t desired_version;
    uint64_t reported_version;
    json_object *tags;
    json_object *desired;
    json_object *reported;
    bool stirred; /* this batch: the registry was asked to change it (its device too) */
    /* of this batch */
    struct model_shot *shots; /* what the twin was, from the beginning of the batch */
    size_t shot_count;
    struct model_news *news; /* what its connections are to hear */
    size_t news_count;
} model_slot;

/** A loop's queue. The store posts to it from this thread only: see model_hub.c. */
typedef struct model_exec {
    nv_exec exec;
    pthread_mutex_t lock;
    nv_task *head;
    nv_task *tail;
} model_exec;

typedef struct model_held model_held;

typedef struct model {
    uint64_t seed;
    uint64_t random;
    uint32_t step;
    bool verbose;
    char *trace; /* of this batch */
    size_t trace_len;
    FILE *trace_file;
    /* the hub */
    nv_fault_disk *disk;
    nv_fault_disk *log_disk;
    nv_fault_vfs *vfs;
    nv_manual_clock clock;
    nv_seeded_rng rng;
    nv_state *state;
    nv_log *log;
    nv_hub *hub;
    model_exec loops[MODEL_LOOPS];
    nv_exec *execs[MODEL_LOOPS];
    nv_exec_queue store; /* where the real store's completions come to */
    bool holding;        /* the store's operations wait until the test lets them go */
    model_held *writes;
    model_held *reads;
    /* of this batch */
    uint64_t stamp;   /* counts calls and answers, so that their order is known */
    int64_t batch_us; /* monotonic time at its beginning */
    bool injected;    /* a commit failed */
    bool restarting;  /* the hub is being stopped */
    /* the reference */
    model_slot slots[MODEL_SLOTS];
    struct model_entry **entries; /* of this batch, in the order of their calls */
    size_t entry_count;
    nv_list conns;
    nv_list calls;
    uint64_t conn_count;
    uint64_t call_count;
    struct model_queues *c2d;
    uint64_t done[32]; /* how often what happened, for the summary */
} model;

enum {
    DID_WRITES,
    DID_REFUSED,
    DID_GETS,
    DID_STALE,
    DID_NEWS,
    DID_REGISTRY,
    DID_CONNECTS,
    DID_TAKEOVERS,
    DID_CALLS,
    DID_CALLS_OK,
    DID_CALLS_LATE,
    DID_CALLS_LOST,
    DID_CALLS_NONE,
    DID_SENDS,
    DID_FULL,
    DID_HANDOUTS,
    DID_SETTLED,
    DID_LOCK_LOST,
    DID_EXPIRED,
    DID_PURGED,
    DID_DEAD,
    DID_FEEDBACK,
    DID_FAILED,
    DID_RESTARTS
};

/* ---- model_test.c ---- */

/** Say what differs, with the seed and what was done, and end the program. */
_Noreturn void model_fail(model *w, const char *fmt, ...) NV_PRINTF(2, 3);
/** Write down what was done. */
void model_note(model *w, const char *fmt, ...) NV_PRINTF(2, 3);
uint64_t model_random(model *w);
/** 0 to @p n - 1 */
static inline uint32_t model_below(model *w, uint32_t n)
{
    return (uint32_t)(model_random(w) % n);
}
static inline bool model_one_in(model *w, uint32_t n)
{
    return model_below(w, n) == 0;
}

/* ---- model_hub.c ---- */

void model_open(model *w);
void model_close(model *w);
/** @param cut  the power goes after the hub stopped: only what was synced is there again */
void model_restart(model *w, bool cut);
/** One random thing of what can happen. @return false: there is nothing to do */
bool model_turn(model *w);
/** Until there is nothing to do. */
void model_quiet(model *w);
void model_advance(model *w, int64_t us);
nv_hub_loop *model_loop(model *w);
static inline int64_t model_now(const model *w)
{
    return nv_mono_us(&w->clock.clock);
}
static inline int64_t model_wall(const model *w)
{
    return nv_wall_us(&w->clock.clock);
}
/** An answer that says that the store failed: only while the test made it fail. */
bool model_store_failed(model *w, nv_hub_error error);

/* ---- model_json.c ---- */

/** A random object as text; the caller frees. @param nulls  members may be null, to delete */
char *model_json_random(model *w, bool nulls);
/** An object that may not stand in a twin; the caller frees. */
char *model_json_bad(model *w);
json_object *model_json_parse(const char *text, size_t len);
bool model_json_eq(const json_object *a, const json_object *b);
/** merge patch, in place: semantics.md 1.5 */
void model_json_merge(json_object *base, const json_object *patch);
json_object *model_json_copy(const json_object *from);
/** Every name of @p from, null. */
json_object *model_json_nulls(const json_object *from);
/** Fits by the service's formula, or as text. */
bool model_json_fits(const json_object *value, size_t limit);
const char *model_json_text(const json_object *value);

/* ---- model_twin.c ---- */

/** What a connection hears. */
typedef struct model_news {
    uint64_t version;
    json_object *body;
} model_news;

void model_twin_open(model *w);
void model_twin_close(model *w);
void model_twin_begin(model *w);
/** Ask something random. */
void model_twin_patch(model *w);
void model_twin_get(model *w);
void model_registry_change(model *w);
/** Compare the batch's answers; the reference is then what the hub should be. */
void model_twin_check(model *w);
/** Read all twins and compare everything. Asks itself, when all is quiet. */
void model_twin_verify(model *w);

/* ---- model_conn.c ---- */

typedef enum model_conn_state { CONN_LOOKING, CONN_ASKED, CONN_HELD, CONN_LEAVING, CONN_GONE } model_conn_state;

typedef struct model_conn {
    nv_list link;
    model *w;
    uint64_t number;
    uint32_t slot;
    nv_hub_loop *loop;
    model_conn_state state;
    nv_registry_find find;
    nv_claim claim;
    nv_identity *identity;
    uint64_t generation;
    uint64_t asked; /* stamp: of two, the one that asked later wins */
    bool evicted;
    bool asked_to_leave;
    bool released;
    uint32_t wants;
    bool steady; /* the whole batch it was there and changed nothing */
    struct model_receiver *receiver;
    model_news *heard;
    size_t heard_count;
} model_conn;

void model_conn_begin(model *w);
void model_conn_open(model *w);
void model_conn_close(model *w);
void model_conn_want(model *w);
void model_conn_leave(model_conn *conn);
/** Nothing holds it back any more (a receiver that is detached). */
void model_conn_release(model_conn *conn);
/** One that holds its claim; NULL: none. */
model_conn *model_conn_any(model *w);
/** The one that holds the slot's identity, NULL: none. */
model_conn *model_conn_of(model *w, uint32_t slot);
/** Who was told to go and took its time goes, until all is quiet. */
void model_conn_settle(model *w);
void model_conn_check(model *w);
void model_conn_leave_all(model *w);
void model_conn_free_gone(model *w);

/* ---- model_call.c ---- */

void model_call_invoke(model *w);
void model_call_delivered(model_conn *conn, const nv_delivery *delivery);
/** A device answers one of what it was asked, or what it was not. */
void model_call_answer(model *w);
void model_call_check(model *w);
void model_call_close(model *w);

/* ---- model_c2d.c ---- */

void model_c2d_open(model *w);
void model_c2d_close(model *w);
void model_c2d_begin(model *w);
void model_c2d_do(model *w);
/** The connection leaves. @return false: model_conn_release() follows later */
bool model_c2d_leave(model_conn *conn);
void model_c2d_slot_gone(model *w, uint32_t slot);
/** Time passes until no lock is in doubt. */
void model_c2d_settle(model *w);
void model_c2d_check(model *w);
/** A service takes feedback, and settles it or not. When all is quiet. */
void model_feedback(model *w);
void model_c2d_restarted(model *w);
/** A commit is about to fail. */
void model_c2d_failed(model *w);
/** When the batch began some messages waited for what had failed to be tried again. */
bool model_c2d_resting(const model *w);
uint64_t model_c2d_depth(model *w, uint32_t slot);

#endif
