/*
 * Thousands of random operations on the queues of two devices beside a naive model of semantics.md section 7: sends,
 * takes, settlements with good and stale locks, receivers that come and go, time, purges, deletions, restarts. Every
 * answer, every hand-out and all feedback must be the model's.
 *
 *   c2d_model_test [SEED [STEPS]]    a failure prints the seed
 */
#include "core/c2d_rig.h"
#include "support/fault_disk.h"
#include "support/fault_vfs.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define DEVICES    2u
#define ALIVE_MAX  16u
#define TOKENS_MAX 64u
#define GOT_MAX    4096u
#define NEWS_MAX   4096u
#define DELIVERIES 3u
#define LOCK_US    (60 * NV_US_PER_S)

typedef enum where { QUEUED, LOCKED } where;

typedef struct model_message {
    uint64_t sequence;
    char id[16];
    nv_c2d_ack ack;
    int64_t expires_us;
    uint32_t deliveries;
    where where;
    int64_t until_us;
    bool by_receiver;
    char token[37];
} model_message;

typedef struct world world;

typedef struct model_device {
    char name[8];
    world *w;
    bool registered;
    uint64_t next_sequence;
    model_message alive[ALIVE_MAX];
    size_t count;
    /* the receiver */
    bool attached;
    uint32_t credit;
    nv_c2d_receiver core;
    nv_identity *identity;
    bool detached;
    size_t got;
    size_t seen; /* of what it got, in the model */
    uint64_t sequences[GOT_MAX];
    uint32_t counts[GOT_MAX];
    char tokens[GOT_MAX][37];
} model_device;

typedef struct news {
    char text[40];
    int64_t expires_us;
    size_t device;
} news;

struct world {
    c2d_rig rig;
    model_device devices[DEVICES];
    news news[NEWS_MAX];
    size_t news_count;
    char stale[TOKENS_MAX][37]; /* locks that were, or never were */
    size_t stale_next;
    uint32_t sent;
    uint64_t seed;
    uint32_t step;
};

static uint64_t roll(world *w, uint64_t below)
{
    return nv_rng_u64(&w->rig.rng.rng) % below;
}

static void expect(world *w, bool good, const char *what)
{
    if (!good) {
        (void)printf("seed %" PRIu64 ", step %u: %s\n", w->seed, w->step, what);
        exit(1);
    }
}

/* ---- the model -------------------------------------------------------------------------------------------------- */

static void tell(world *w, model_device *d, const model_message *m, const char *status)
{
    bool success = strcmp(status, "Success") == 0;
    if (m->ack == NV_ACK_FULL || m->ack == (success ? NV_ACK_POSITIVE : NV_ACK_NEGATIVE)) {
        expect(w, w->news_count < NEWS_MAX, "the test is too small");
        news *n = &w->news[w->news_count++];
        (void)snprintf(n->text, sizeof(n->text), "%s=%s", m->id, status);
        n->expires_us = nv_wall_us(&w->rig.clock.clock) + w->rig.limits.feedback_ttl_s * NV_US_PER_S;
        n->device = (size_t)(d - w->devices);
    }
}

static void remember_stale(world *w, const char *token)
{
    memcpy(w->stale[w->stale_next++ % TOKENS_MAX], token, 37);
}

static void model_end(world *w, model_device *d, size_t at, const char *status)
{
    model_message m = d->alive[at];
    if (m.where == LOCKED) {
        remember_stale(w, m.token);
    }
    memmove(&d->alive[at], &d->alive[at + 1], (d->count - at - 1) * sizeof(m));
    d->count--;
    tell(w, d, &m, status);
}

/* @return true: the message is gone */
static bool model_return(world *w, model_device *d, size_t at)
{
    model_message *m = &d->alive[at];
    if (m->deliveries + 1 >= DELIVERIES) {
        model_end(w, d, at, "DeliveryCountExceeded");
        return true;
    }
    remember_stale(w, m->token);
    m->deliveries++;
    m->where = QUEUED;
    m->by_receiver = false;
    return false;
}

static size_t locked_by_receiver(const model_device *d)
{
    size_t count = 0;
    for (size_t i = 0; i < d->count; i++) {
        count += d->alive[i].where == LOCKED && d->alive[i].by_receiver;
    }
    return count;
}

static model_message *first_queued(model_device *d)
{
    for (size_t i = 0; i < d->count; i++) {
        if (d->alive[i].where == QUEUED) {
            return &d->alive[i];
        }
    }
    return NULL;
}

static void model_lock(world *w, model_message *m, const char *token, bool by_receiver)
{
    m->where = LOCKED;
    m->by_receiver = by_receiver;
    m->until_us = nv_mono_us(&w->rig.clock.clock) + LOCK_US;
    memcpy(m->token, token, 37);
}

/* What the receiver must have been handed by now. */
static void model_pump(world *w)
{
    for (size_t i = 0; i < DEVICES; i++) {
        model_device *d = &w->devices[i];
        model_message *m;
        while (d->attached && locked_by_receiver(d) < d->credit && (m = first_queued(d))) {
            expect(w, d->seen < d->got, "a message was not handed to the receiver");
            expect(w, d->sequences[d->seen] == m->sequence, "another message was handed to the receiver");
            expect(w, d->counts[d->seen] == m->deliveries + 1, "the delivery count is another");
            model_lock(w, m, d->tokens[d->seen++], true);
        }
        expect(w, d->seen == d->got, "the receiver was handed too much");
    }
}

static int64_t next_event(const world *w, int64_t until_us)
{
    int64_t mono_us = nv_mono_us(&w->rig.clock.clock);
    int64_t wall_us = nv_wall_us(&w->rig.clock.clock);
    int64_t next_us = until_us;
    for (size_t i = 0; i < DEVICES; i++) {
        const model_device *d = &w->devices[i];
        for (size_t k = 0; k < d->count; k++) {
            int64_t expires_us = mono_us + d->alive[k].expires_us - wall_us;
            next_us = expires_us < next_us ? expires_us : next_us;
            if (d->alive[k].where == LOCKED && d->alive[k].until_us < next_us) {
                next_us = d->alive[k].until_us;
            }
        }
    }
    return next_us;
}

static void model_time(world *w)
{
    int64_t mono_us = nv_mono_us(&w->rig.clock.clock);
    int64_t wall_us = nv_wall_us(&w->rig.clock.clock);
    for (size_t i = 0; i < DEVICES; i++) {
        model_device *d = &w->devices[i];
        for (size_t k = 0; k < d->count;) {
            if (d->alive[k].expires_us <= wall_us) {
                model_end(w, d, k, "Expired");
            } else if (d->alive[k].where == LOCKED && d->alive[k].until_us <= mono_us) {
                k += model_return(w, d, k) ? 0 : 1;
            } else {
                k++;
            }
        }
    }
    model_pump(w);
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

static void do_send(world *w, model_device *d)
{
    char id[16];
    uint64_t sequence = 0;
    nv_c2d_ack ack = (nv_c2d_ack)roll(w, 4);
    int64_t ttl_us = (int64_t)(1 + roll(w, 200)) * NV_US_PER_S;
    (void)snprintf(id, sizeof(id), "m%u", w->sent++);
    nv_hub_error error = c2d_rig_send(&w->rig, d->name, id, ack, ttl_us, &sequence);
    if (!d->registered) {
        expect(w, error == NV_HUB_ERROR_DeviceNotFound, "a message for nobody");
        return;
    }
    if (d->count == (size_t)w->rig.limits.c2d_depth) {
        expect(w, error == NV_HUB_ERROR_DeviceMaximumQueueDepthExceeded, "a full queue took a message");
        return;
    }
    expect(w, error == NV_HUB_ERROR_NONE, "a message was refused");
    expect(w, sequence == d->next_sequence, "the sequence is another");
    model_message *m = &d->alive[d->count++];
    *m = (model_message){
        .sequence = d->next_sequence++, .ack = ack, .expires_us = nv_wall_us(&w->rig.clock.clock) + ttl_us};
    memcpy(m->id, id, sizeof(id));
    model_pump(w);
}

static void do_take(world *w, model_device *d)
{
    nv_c2d_message *got =
        c2d_rig_take(&w->rig, d->name, d->registered ? NV_HUB_ERROR_NONE : NV_HUB_ERROR_DeviceNotFound);
    model_message *m = first_queued(d);
    expect(w, (got != NULL) == (m != NULL), "a take found too much or too little");
    if (got) {
        expect(w, got->sequence == m->sequence && strcmp(c2d_rig_id(got), m->id) == 0, "a take found another message");
        expect(w, got->delivery_count == m->deliveries + 1, "the delivery count is another");
        model_lock(w, m, got->lock_token, false);
        nv_c2d_message_unref(got);
    }
}

static void do_settle(world *w, model_device *d)
{
    size_t at = d->count ? (size_t)roll(w, d->count) : 0;
    bool good = d->count > 0 && d->alive[at].where == LOCKED && roll(w, 4) > 0;
    nv_c2d_outcome outcome = (nv_c2d_outcome)roll(w, 3);
    char token[37];
    memcpy(token, good ? d->alive[at].token : w->stale[roll(w, TOKENS_MAX)], sizeof(token));
    nv_hub_error error = c2d_rig_settle_one(&w->rig, d->name, token, outcome);
    if (!good) {
        expect(w, error == NV_HUB_ERROR_DeviceMessageLockLost, "a stale lock opens");
        return;
    }
    expect(w, error == NV_HUB_ERROR_NONE, "a good lock does not open");
    if (outcome == NV_C2D_ABANDON) {
        (void)model_return(w, d, at);
    } else {
        model_end(w, d, at, outcome == NV_C2D_COMPLETE ? "Success" : "Rejected");
    }
    model_pump(w);
}

static void do_time(world *w)
{
    int64_t until_us = nv_mono_us(&w->rig.clock.clock) + (int64_t)roll(w, 100) * NV_US_PER_S;
    int64_t next_us;
    while ((next_us = next_event(w, until_us)) < until_us) {
        c2d_rig_advance(&w->rig, next_us - nv_mono_us(&w->rig.clock.clock));
        model_time(w);
    }
    c2d_rig_advance(&w->rig, until_us - nv_mono_us(&w->rig.clock.clock));
    model_time(w);
}

static void do_purge(world *w, model_device *d)
{
    uint64_t purged = c2d_rig_purge(&w->rig, d->name, d->registered ? NV_HUB_ERROR_NONE : NV_HUB_ERROR_DeviceNotFound);
    uint64_t want = 0;
    for (size_t i = 0; i < d->count;) {
        if (d->alive[i].where == QUEUED) {
            model_end(w, d, i, "Purged");
            want++;
        } else {
            i++;
        }
    }
    expect(w, purged == want, "the purge took another number");
}

static void on_message(nv_c2d_receiver *core, nv_c2d_message *message)
{
    model_device *d = nv_container_of(core, model_device, core);
    expect(d->w, d->got < GOT_MAX, "the test is too small");
    d->sequences[d->got] = message->sequence;
    d->counts[d->got] = message->delivery_count;
    memcpy(d->tokens[d->got++], message->lock_token, 37);
}

static void on_detached(nv_c2d_receiver *core)
{
    nv_container_of(core, model_device, core)->detached = true;
}

static void attach(world *w, model_device *d)
{
    nv_identity from = {.device_id = nv_span_str(d->name)};
    d->identity = nv_identity_new(&from);
    d->credit = (uint32_t)(1 + roll(w, 4));
    d->got = d->seen = 0;
    d->detached = false;
    d->core = (nv_c2d_receiver){.identity = d->identity, .credit = d->credit, .message = on_message};
    nv_c2d_attach(&w->rig.hub->loops[roll(w, C2D_LOOPS)], &d->core);
    c2d_rig_settle(&w->rig);
    d->attached = true;
    model_pump(w);
}

static void detach(world *w, model_device *d)
{
    if (!d->attached) {
        return;
    }
    nv_c2d_detach(&d->core, on_detached);
    c2d_rig_settle(&w->rig);
    expect(w, d->detached, "the receiver was not let go");
    nv_identity_unref(d->identity);
    d->attached = false;
    for (size_t i = 0; i < d->count;) {
        bool had = d->alive[i].where == LOCKED && d->alive[i].by_receiver;
        i += had && model_return(w, d, i) ? 0 : 1;
    }
    model_pump(w);
}

static void do_receiver(world *w, model_device *d)
{
    if (d->attached) {
        detach(w, d);
    } else if (d->registered) {
        attach(w, d);
    }
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(((const news *)a)->text, ((const news *)b)->text);
}

static void do_feedback(world *w)
{
    static news got[NEWS_MAX];
    size_t count = 0;
    for (const char *text = c2d_rig_feedback(&w->rig); *text; text = c2d_rig_feedback(&w->rig)) {
        while (*text) {
            size_t len = strcspn(text, " ");
            expect(w, count < NEWS_MAX, "feedback without end");
            (void)snprintf(got[count++].text, sizeof(got[0].text), "%.*s", (int)len, text);
            text += len + (text[len] ? 1 : 0);
        }
    }
    size_t want = 0;
    for (size_t i = 0; i < w->news_count; i++) {
        if (w->news[i].expires_us > nv_wall_us(&w->rig.clock.clock)) {
            w->news[want++] = w->news[i];
        }
    }
    qsort(got, count, sizeof(got[0]), compare_texts);
    qsort(w->news, want, sizeof(w->news[0]), compare_texts);
    expect(w, count == want, "another number of feedback records");
    for (size_t i = 0; i < count; i++) {
        expect(w, strcmp(got[i].text, w->news[i].text) == 0, "another feedback record");
    }
    w->news_count = 0;
}

static void do_restart(world *w)
{
    for (size_t i = 0; i < DEVICES; i++) {
        detach(w, &w->devices[i]); /* sessions end before the hub does */
    }
    c2d_rig_close(&w->rig);
    int64_t down_us = (int64_t)roll(w, 50) * NV_US_PER_S;
    nv_manual_clock_advance(&w->rig.clock, down_us);
    expect(w, c2d_rig_open(&w->rig), "it does not open");
    for (size_t i = 0; i < DEVICES; i++) {
        model_device *d = &w->devices[i];
        for (size_t k = 0; k < d->count; k++) {
            if (d->alive[k].where == LOCKED) {
                remember_stale(w, d->alive[k].token);
                d->alive[k].where = QUEUED; /* not counted */
            }
        }
    }
    model_time(w);
}

static void do_device(world *w, model_device *d)
{
    detach(w, d);
    if (!d->registered) {
        expect(w, c2d_rig_add(&w->rig, d->name), "a device was refused");
        d->registered = true;
        d->next_sequence = 1;
        return;
    }
    c2d_rig_remove(&w->rig, d->name);
    d->registered = false;
    for (size_t i = 0; i < d->count; i++) {
        if (d->alive[i].where == LOCKED) {
            remember_stale(w, d->alive[i].token);
        }
    }
    d->count = 0;
    size_t kept = 0;
    for (size_t i = 0; i < w->news_count; i++) {
        if (w->news[i].device != (size_t)(d - w->devices)) {
            w->news[kept++] = w->news[i];
        }
    }
    w->news_count = kept;
}

static void one_step(world *w)
{
    model_device *d = &w->devices[roll(w, DEVICES)];
    uint64_t dice = roll(w, 100);
    if (dice < 35) {
        do_send(w, d);
    } else if (dice < 50) {
        do_take(w, d);
    } else if (dice < 75) {
        do_settle(w, d);
    } else if (dice < 85) {
        do_time(w);
    } else if (dice < 90) {
        do_receiver(w, d);
    } else if (dice < 92) {
        do_purge(w, d);
    } else if (dice < 96) {
        do_feedback(w);
    } else if (dice < 99) {
        do_restart(w);
    } else {
        do_device(w, d);
    }
    for (size_t i = 0; i < DEVICES; i++) {
        expect(w, c2d_rig_depth(&w->rig, w->devices[i].name) == w->devices[i].count, "the depth is another");
    }
}

int main(int argc, char **argv)
{
    uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    uint64_t last = argc > 1 ? first : 12;
    uint32_t steps = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 600;
    for (uint64_t seed = first; seed <= last; seed++) {
        world *w = calloc(1, sizeof(*w));
        w->seed = seed;
        nv_fault_disk *disk = nv_fault_disk_new(seed); /* in memory, and the same each time */
        nv_fault_vfs *vfs = nv_fault_vfs_new(nv_fault_disk_disk(disk), "nave-model");
        nv_ignore(nv_disk_make_dir(nv_fault_disk_disk(disk), "/data"));
        c2d_rig_init(&w->rig, seed, "nave-model");
        w->rig.limits.c2d_depth = 12;
        w->rig.limits.c2d_max_deliveries = DELIVERIES;
        expect(w, c2d_rig_open(&w->rig), "it does not open");
        for (size_t i = 0; i < DEVICES; i++) {
            w->devices[i].w = w;
            (void)snprintf(w->devices[i].name, sizeof(w->devices[i].name), "d%zu", i);
            do_device(w, &w->devices[i]);
        }
        for (w->step = 1; w->step <= steps; w->step++) {
            one_step(w);
        }
        for (size_t i = 0; i < DEVICES; i++) {
            detach(w, &w->devices[i]);
        }
        do_feedback(w);
        c2d_rig_deinit(&w->rig);
        nv_fault_vfs_free(vfs);
        nv_fault_disk_free(disk);
        free(w);
    }
    (void)printf("seeds %" PRIu64 " to %" PRIu64 ", %u steps each: as the model\n", first, last, steps);
    return 0;
}
