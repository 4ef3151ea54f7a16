/*
 * The power goes, again and again, while messages are sent, handed out, settled, purged and expire: nothing
 * acknowledged is lost, nothing that ended comes back, the order holds, and of each end there is exactly one feedback
 * record. The disk forgets or tears whatever was not synced; with "lying" it reports syncs that it does not do, and
 * then this program must find a loss.
 *
 *   c2d_crash_test honest|lying CUTS
 */
#include "core/c2d_rig.h"

#include "base/alloc.h"
#include "base/diag.h"
#include "store/state_c2d.h"
#include "support/fault_disk.h"
#include "support/fault_vfs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define MESSAGES_MAX  4096u
#define CUTS_PER_DISK 5u
#define ROUNDS        60u
#define BATCH_MAX     8u
#define FILLER_MAX    3000u

typedef enum fate { NOTHING, ASKED, SENT, ENDING, ENDED } fate;

typedef struct world world;

typedef struct message {
    fate fate;
    uint64_t sequence;  /* SENT and later */
    uint32_t came_back; /* returns that were acknowledged */
    bool locked;
    char token[37];
    nv_c2d_send send;
    nv_c2d_settle settle;
    nv_c2d_outcome outcome;
    nv_buf properties;
    world *w;
    char id[16];
    bool fed; /* seen in the feedback by the check */
} message;

struct world {
    c2d_rig rig;
    nv_fault_disk *disk;
    nv_seeded_rng dice;
    message messages[MESSAGES_MAX];
    uint32_t count;
    uint32_t pending;
    uint64_t newest; /* sequence acknowledged */
    uint64_t total;
    char fault[200];
};

static uint64_t roll(world *w, uint64_t below)
{
    return nv_rng_u64(&w->dice.rng) % below;
}

static void complain(world *w, const char *what, const message *m)
{
    if (w->fault[0] == '\0') {
        (void)snprintf(w->fault, sizeof(w->fault), "%s: %s", m ? m->id : "-", what);
    }
}

static void settle_all(world *w)
{
    c2d_rig_settle(&w->rig);
    while (w->pending > 0) { /* a take that waits for what could not be stored: it is tried again */
        c2d_rig_advance(&w->rig, NV_US_PER_S);
    }
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

static nv_span body_of(const message *m, char out[FILLER_MAX + 16])
{
    uint64_t number = (uint64_t)(m - m->w->messages);
    size_t len = (size_t)(number * 7919u % FILLER_MAX);
    size_t start = (size_t)snprintf(out, 16, "m%u:", (unsigned)number % 1000000);
    memset(out + start, 'a' + (int)(number % 26), len);
    return nv_span_of(out, start + len);
}

static char bodies[MESSAGES_MAX][FILLER_MAX + 16];

static void sent(nv_c2d_send *send)
{
    message *m = send->arg;
    m->w->pending--;
    nv_buf_deinit(&m->properties);
    if (send->error == NV_HUB_ERROR_NONE) {
        m->fate = SENT;
        m->sequence = send->sequence;
        m->w->total++;
        if (send->sequence <= m->w->newest) {
            complain(m->w, "a sequence was given twice", m);
        }
        m->w->newest = send->sequence;
    }
}

static void start_send(world *w)
{
    if (w->count + 1 >= MESSAGES_MAX) {
        return;
    }
    message *m = &w->messages[w->count];
    *m = (message){.fate = ASKED, .w = w};
    (void)snprintf(m->id, sizeof(m->id), "m%u", w->count);
    nv_buf_init(&m->properties, 200);
    nv_property id = {.id = NV_PROP_MESSAGE_ID, .value = nv_value_string(nv_span_str(m->id))};
    nv_ignore(nv_property_put(&m->properties, &id));
    m->send = (nv_c2d_send){.device_id = nv_span_str("d"),
                            .ack = NV_ACK_FULL,
                            .properties = nv_buf_span(&m->properties),
                            .body = body_of(m, bodies[w->count]),
                            .done = sent,
                            .arg = m};
    w->count++;
    w->pending++;
    nv_c2d_send_do(&w->rig.hub->loops[roll(w, C2D_LOOPS)], &m->send);
}

static void settled(nv_c2d_settle *settle)
{
    message *m = settle->arg;
    m->w->pending--;
    m->locked = false;
    if (settle->error != NV_HUB_ERROR_NONE) {
        return; /* it may have happened or not: ENDING stays */
    }
    if (m->outcome == NV_C2D_ABANDON) {
        m->came_back++;
    } else {
        m->fate = ENDED;
        m->w->total++;
    }
}

static void start_settle(world *w, message *m)
{
    uint64_t dice = roll(w, 4);
    m->outcome = dice == 0 ? NV_C2D_ABANDON : dice == 1 ? NV_C2D_REJECT : NV_C2D_COMPLETE;
    bool may_end = m->outcome != NV_C2D_ABANDON || m->came_back + 1 >= (uint32_t)w->rig.limits.c2d_max_deliveries;
    if (m->outcome == NV_C2D_ABANDON && may_end) {
        m->outcome = NV_C2D_COMPLETE;
    }
    m->fate = may_end ? ENDING : m->fate;
    m->settle = (nv_c2d_settle){.device_id = nv_span_str("d"),
                                .lock_token = nv_span_of(m->token, 36),
                                .outcome = m->outcome,
                                .done = settled,
                                .arg = m};
    w->pending++;
    nv_c2d_settle_do(&w->rig.hub->loops[roll(w, C2D_LOOPS)], &m->settle);
}

typedef struct taking {
    nv_c2d_take take;
    world *w;
} taking;

static void taken(nv_c2d_take *take)
{
    taking *t = take->arg;
    world *w = t->w;
    w->pending--;
    if (take->message) {
        nv_span body = take->message->body;
        uint64_t number = 0;
        nv_span id = nv_span_first(body, nv_span_find(body, ':'));
        bool known = nv_span_to_u64(nv_span_skip(id, 1), &number) && number < w->count;
        message *m = known ? &w->messages[number] : NULL;
        if (!m || m->fate == NOTHING || m->fate == ENDED) {
            complain(w, "what never was, or ended, was handed out", m);
        } else {
            m->locked = true;
            m->fate = m->fate == ASKED ? SENT : m->fate; /* its send failed and yet it is there: allowed after a cut */
            m->sequence = take->message->sequence;
            memcpy(m->token, take->message->lock_token, sizeof(m->token));
        }
        nv_c2d_message_unref(take->message);
    }
    free(t);
}

static void start_take(world *w)
{
    taking *t = nv_calloc(1, sizeof(*t));
    t->w = w;
    t->take = (nv_c2d_take){.device_id = nv_span_str("d"), .done = taken, .arg = t};
    w->pending++;
    nv_c2d_take_do(&w->rig.hub->loops[roll(w, C2D_LOOPS)], &t->take);
}

static void one_round(world *w)
{
    for (uint64_t left = 1 + roll(w, BATCH_MAX); left > 0; left--) {
        start_send(w);
    }
    for (uint64_t left = roll(w, BATCH_MAX); left > 0; left--) {
        start_take(w);
    }
    for (uint32_t i = 0; i < w->count; i++) {
        if (w->messages[i].locked && w->messages[i].fate == SENT && roll(w, 2) == 0) {
            start_settle(w, &w->messages[i]);
        }
    }
    settle_all(w);
}

/* ---- what must be there ------------------------------------------------------------------------------------------ */

typedef struct check {
    nv_state_op op;
    world *w;
    uint64_t last;
    bool present[MESSAGES_MAX];
    bool done;
} check;

static message *message_of(world *w, nv_span id)
{
    uint64_t number = 0;
    bool known = id.len > 1 && nv_span_to_u64(nv_span_skip(id, 1), &number) && number < w->count;
    return known ? &w->messages[number] : NULL;
}

static nv_err see_message(void *arg, const nv_c2d_row *row)
{
    check *self = arg;
    world *w = self->w;
    message *m = message_of(w, nv_span_first(row->body, nv_span_find(row->body, ':')));
    char body[FILLER_MAX + 16];
    if (!m || m->fate == NOTHING || !nv_span_eq(row->body, body_of(m, body))) {
        complain(w, "a message that nobody sent is there", m);
        return NV_OK;
    }
    if (m->fate == ENDED) {
        complain(w, "what ended is there", m);
    }
    if (row->sequence <= self->last || (m->sequence && m->sequence != row->sequence)) {
        complain(w, "the order is another", m);
    }
    if (row->deliveries < m->came_back) {
        complain(w, "an acknowledged return is not counted", m);
    }
    m->came_back = row->deliveries;
    self->last = row->sequence;
    self->present[m - w->messages] = true;
    return NV_OK;
}

static nv_err see_feedback(void *arg, const nv_feedback_row *row)
{
    check *self = arg;
    message *m = message_of(self->w, row->message_id);
    if (!m || m->fed || (m->fate != ENDING && m->fate != ENDED)) {
        complain(self->w, "feedback twice, or of what did not end", m);
    } else {
        m->fed = true;
    }
    return NV_OK;
}

static nv_err run_check(nv_state_op *op, nv_txn *txn)
{
    check *self = nv_container_of(op, check, op);
    nv_err err = nv_txn_c2d_load(txn, nv_span_str("d"), 0, MESSAGES_MAX, see_message, self);
    return err == NV_OK ? nv_txn_feedback_walk(txn, see_feedback, self) : err;
}

static void check_done(nv_state_op *op)
{
    nv_container_of(op, check, op)->done = true;
}

/* What was in flight at the cut happened or not; from here on it is known. */
static void judge(world *w, const check *seen)
{
    for (uint32_t i = 0; i < w->count; i++) {
        message *m = &w->messages[i];
        bool there = seen->present[i];
        if (m->fate == SENT && !there) {
            complain(w, "an acknowledged message is lost", m);
        }
        if ((m->fate == ENDED || (m->fate == ENDING && !there)) != m->fed) {
            complain(w, "an end and its feedback are not one", m);
        }
        m->fate = m->fate == ASKED ? (there ? SENT : NOTHING) : m->fate == ENDING ? (there ? SENT : ENDED) : m->fate;
        m->locked = false;
        m->fed = false;
    }
}

static void do_check(world *w)
{
    check *look = nv_calloc(1, sizeof(*look));
    *look = (check){.op = {.exec = &w->rig.queue.exec, .run = run_check, .done = check_done}, .w = w};
    if (nv_state_read(w->rig.state, &look->op) != NV_OK) {
        abort();
    }
    while (!look->done) {
        nv_exec_queue_run_wait(&w->rig.queue);
    }
    if (look->op.status != NV_OK) {
        complain(w, nv_err_name(look->op.status), NULL);
    }
    judge(w, look);
    w->newest = look->last > w->newest ? look->last : w->newest;
    free(look);
}

/* ---- cutting ------------------------------------------------------------------------------------------------------
 */

static void one_cut(world *w)
{
    nv_fault_disk_cut_after(w->disk, 1 + roll(w, roll(w, 4) == 0 ? 60 : 2500));
    if (c2d_rig_open(&w->rig)) {
        for (uint32_t round = 0; round < ROUNDS && !nv_fault_disk_is_cut(w->disk); round++) {
            one_round(w);
        }
    }
    if (!nv_fault_disk_is_cut(w->disk)) {
        nv_fault_disk_cut(w->disk);
    }
    c2d_rig_close(&w->rig);
    nv_fault_disk_power_on(w->disk);
    nv_fault_disk_cut_after(w->disk, 0);
    if (c2d_rig_open(&w->rig)) {
        do_check(w);
        c2d_rig_close(&w->rig);
    } else {
        complain(w, "it does not open", NULL);
    }
}

/* @return cuts made */
static uint32_t one_disk(world *w, uint64_t seed, bool lying, uint32_t cuts)
{
    uint32_t made = 0;
    w->disk = nv_fault_disk_new(seed);
    nv_disk *disk = nv_fault_disk_disk(w->disk);
    nv_fault_vfs *vfs = nv_fault_vfs_new(disk, "nave-c2d-crash");
    nv_ignore(nv_disk_make_dir(disk, "/data"));
    nv_ignore(nv_disk_sync_dir(disk, "/"));
    nv_seeded_rng_init(&w->dice, seed * 2 + 1);
    c2d_rig_init(&w->rig, seed, "nave-c2d-crash");
    w->rig.limits = nv_limits_open;
    w->count = 0;
    w->newest = 0;
    if (!c2d_rig_open(&w->rig) || !c2d_rig_add(&w->rig, "d")) {
        complain(w, "it does not start", NULL);
    }
    c2d_rig_close(&w->rig);
    nv_fault_disk_set_ignore_syncs(w->disk, lying);
    for (; made < cuts && made < CUTS_PER_DISK && w->fault[0] == '\0'; made++) {
        one_cut(w);
    }
    c2d_rig_deinit(&w->rig);
    nv_fault_vfs_free(vfs);
    nv_fault_disk_free(w->disk);
    return made;
}

static void swallow(void *arg, nv_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    (void)line;
    (void)len;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        (void)fprintf(stderr, "usage: c2d_crash_test honest|lying CUTS\n");
        return 2;
    }
    world *w = nv_calloc(1, sizeof(*w));
    bool lying = strcmp(argv[1], "lying") == 0;
    uint32_t cuts = (uint32_t)strtoul(argv[2], NULL, 10);
    nv_diag_set_sink(swallow, NULL); /* each cut is a failed commit */
    uint32_t made = 0;
    uint64_t seed = 0;
    while (made < cuts && w->fault[0] == '\0') {
        made += one_disk(w, ++seed, lying, cuts - made);
    }
    bool failed = w->fault[0] != '\0';
    if (failed) {
        (void)printf("seed %" PRIu64 ": %s\n", seed, w->fault);
    }
    (void)printf("%u cuts, %" PRIu64 " acknowledged, %s\n", made, w->total, failed ? "FAILED" : "lost 0");
    free(w);
    return failed ? 1 : 0;
}
