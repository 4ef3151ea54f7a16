/*
 * Standing receivers: order, places, what comes back when they go; feedback for those who wait; a store that fails.
 *
 * conformance: semantics.md 58
 */
#include "base/attrs.h"
#include "base/diag.h"
#include "core/c2d_queue.h"
#include "core/c2d_rig.h"
#include "support/fault_disk.h"
#include "support/fault_vfs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define LOCK_US (60 * NV_US_PER_S)
#define GOT_MAX 2000u

/* A session in miniature: it keeps what it was handed. */
typedef struct receiver {
    union { /* first member */
        nv_c2d_receiver core;
        nv_c2d_puller puller;
    };
    c2d_rig *rig;
    nv_identity *identity;
    size_t loop;
    size_t count;
    uint64_t sequences[GOT_MAX];
    uint32_t deliveries[GOT_MAX];
    char tokens[GOT_MAX][37];
    bool detached;
} receiver;

static void on_message(nv_c2d_receiver *core, nv_c2d_message *message)
{
    receiver *r = (receiver *)(void *)core;
    assert_false(r->detached);
    assert_true(r->count < GOT_MAX);
    r->sequences[r->count] = message->sequence;
    r->deliveries[r->count] = message->delivery_count;
    memcpy(r->tokens[r->count++], message->lock_token, 37);
}

static receiver *attach_as(c2d_rig *rig, const char *device, uint32_t credit, size_t loop, bool pulls)
{
    receiver *r = calloc(1, sizeof(*r));
    nv_identity from = {.device_id = nv_span_str(device)};
    r->rig = rig;
    r->loop = loop;
    r->identity = nv_identity_new(&from);
    r->core = (nv_c2d_receiver){.identity = r->identity, .credit = credit, .pulls = pulls, .message = on_message};
    nv_c2d_attach(&rig->hub->loops[loop], &r->core);
    c2d_rig_settle(rig);
    return r;
}

static receiver *attach(c2d_rig *rig, const char *device, uint32_t credit, size_t loop)
{
    return attach_as(rig, device, credit, loop, false);
}

static void on_detached(nv_c2d_receiver *core)
{
    ((receiver *)(void *)core)->detached = true;
}

static void detach(receiver *r)
{
    nv_c2d_detach(&r->core, on_detached);
    c2d_rig_settle(r->rig);
    assert_true(r->detached);
    nv_identity_unref(r->identity);
    free(r);
}

static void send_many(c2d_rig *rig, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(c2d_rig_send(rig, "d", "m", NV_ACK_FULL, 0, NULL), NV_HUB_ERROR_NONE);
    }
}

static void complete(c2d_rig *rig, const char *token)
{
    assert_int_equal(c2d_rig_settle_one(rig, "d", token, NV_C2D_COMPLETE), NV_HUB_ERROR_NONE);
}

static int setup(void **state)
{
    c2d_rig *rig = calloc(1, sizeof(*rig));
    c2d_rig_init(rig, 11, NULL);
    rig->limits = nv_limits_open;
    assert_true(c2d_rig_open(rig));
    assert_true(c2d_rig_add(rig, "d"));
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    c2d_rig_deinit(*state);
    free(*state);
    return 0;
}

/* ---- receivers ------------------------------------------------------------------------------------------------- */

static void in_order_by_places(void **state)
{
    c2d_rig *rig = *state;
    receiver *r = attach(rig, "d", 3, 0);
    send_many(rig, 5);
    assert_int_equal(r->count, 3);
    complete(rig, r->tokens[1]);
    assert_int_equal(r->count, 4);
    nv_c2d_credit(&r->core, 1);
    c2d_rig_settle(rig);
    assert_int_equal(r->count, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(r->sequences[i], i + 1);
    }
    detach(r);
}

static void pull(receiver *r, uint32_t limit)
{
    nv_c2d_pull(&r->puller, limit);
    c2d_rig_settle(r->rig);
}

/* What is not asked for is not handed out, and costs no delivery; the places bound it as well. */
static void no_more_than_is_pulled(void **state)
{
    c2d_rig *rig = *state;
    for (size_t loop = 0; loop < C2D_LOOPS; loop++) {
        receiver *r = attach_as(rig, "d", 3, loop, true); /* the queue is empty, and may rest */
        pull(r, 1);
        send_many(rig, 8);
        assert_int_equal(r->count, 1);
        complete(rig, r->tokens[0]);
        assert_int_equal(r->count, 1); /* a place is free, but nothing was asked for */
        pull(r, 3);
        assert_int_equal(r->count, 3);
        pull(r, 10);
        assert_int_equal(r->count, 4); /* three at the same time */
        complete(rig, r->tokens[1]);
        complete(rig, r->tokens[2]);
        assert_int_equal(r->count, 6);
        pull(r, 6); /* less than before */
        complete(rig, r->tokens[3]);
        assert_int_equal(r->count, 6);
        pull(r, 7);
        assert_int_equal(r->count, 7);
        assert_int_equal(c2d_rig_settle_one(rig, "d", r->tokens[6], NV_C2D_ABANDON), NV_HUB_ERROR_NONE);
        assert_int_equal(r->count, 7);
        for (size_t i = 0; i < r->count; i++) {
            assert_int_equal(r->deliveries[i], 1);
        }
        detach(r);
        r = attach(rig, "d", 10, loop);
        assert_int_equal(r->count, 4);
        assert_int_equal(r->deliveries[3], 1); /* the last was never handed out */
        for (size_t i = 0; i < 4; i++) {
            complete(rig, r->tokens[i]);
        }
        detach(r);
    }
}

/* The limit wraps with the number of messages. */
static void the_limit_wraps(void **state)
{
    c2d_rig *rig = *state;
    receiver *r = attach_as(rig, "d", 100, 0, true);
    r->puller._handed = UINT32_MAX - 1; /* as after that many */
    pull(r, UINT32_MAX);
    send_many(rig, 5);
    assert_int_equal(r->count, 1);
    pull(r, 2);
    assert_int_equal(r->count, 4);
    detach(r);
}

/* More than the window: what does not fit waits in the store, and nothing is passed over. */
static void deep_queue(void **state)
{
    c2d_rig *rig = *state;
    send_many(rig, 700);
    receiver *r = attach(rig, "d", 10, 1);
    for (size_t i = 0; i < 700; i++) {
        assert_true(r->count > i);
        assert_int_equal(r->sequences[i], i + 1);
        if (i == 300) {
            send_many(rig, 50);
        }
        complete(rig, r->tokens[i]);
    }
    assert_int_equal(r->count, 710);
    detach(r);
    assert_int_equal(c2d_rig_depth(rig, "d"), 50);
}

static void what_it_had_comes_back_in_its_place(void **state)
{
    c2d_rig *rig = *state;
    send_many(rig, 6);
    receiver *first = attach(rig, "d", 4, 0);
    complete(rig, first->tokens[1]); /* 2; so 5 comes */
    assert_int_equal(first->count, 5);
    receiver *second = attach(rig, "d", 64, 1); /* a take-over: the newer comes before the older has gone */
    assert_int_equal(second->count, 1);
    assert_int_equal(second->sequences[0], 6);
    detach(first);
    static const uint64_t order[] = {6, 1, 3, 4, 5};
    assert_int_equal(second->count, 5);
    for (size_t i = 0; i < NV_COUNT_OF(order); i++) {
        assert_int_equal(second->sequences[i], order[i]);
        assert_int_equal(second->deliveries[i], i == 0 ? 1 : 2);
    }
    detach(second);
}

static void lock_over_hands_out_again(void **state)
{
    c2d_rig *rig = *state;
    receiver *r = attach(rig, "d", 1, 0);
    send_many(rig, 2);
    c2d_rig_advance(rig, LOCK_US);
    assert_int_equal(r->count, 2);
    assert_int_equal(r->sequences[1], 1);
    assert_int_equal(r->deliveries[1], 2);
    assert_int_equal(c2d_rig_settle_one(rig, "d", r->tokens[0], NV_C2D_COMPLETE), NV_HUB_ERROR_DeviceMessageLockLost);
    complete(rig, r->tokens[1]);
    assert_int_equal(r->sequences[2], 2);
    detach(r);
}

/* A device that never acknowledges: each message is tried as often as allowed, then the next ones come. */
static void poison_does_not_block(void **state)
{
    c2d_rig *rig = *state;
    receiver *r = attach(rig, "d", 1, 0);
    send_many(rig, 2);
    c2d_rig_advance(rig, 10 * LOCK_US);
    assert_int_equal(r->count, 11);
    assert_int_equal(r->sequences[9], 1);
    assert_int_equal(r->deliveries[9], 10);
    assert_int_equal(r->sequences[10], 2);
    assert_string_equal(c2d_rig_feedback(rig), "m=DeliveryCountExceeded ");
    detach(r);
}

static void expiry_frees_the_place(void **state)
{
    c2d_rig *rig = *state;
    receiver *r = attach(rig, "d", 1, 0);
    assert_int_equal(c2d_rig_send(rig, "d", "short", NV_ACK_FULL, 5 * NV_US_PER_S, NULL), NV_HUB_ERROR_NONE);
    send_many(rig, 1);
    assert_int_equal(r->count, 1);
    c2d_rig_advance(rig, 5 * NV_US_PER_S);
    assert_int_equal(r->count, 2);
    assert_int_equal(r->sequences[1], 2);
    detach(r);
}

static void device_goes_under_it(void **state)
{
    c2d_rig *rig = *state;
    receiver *r = attach(rig, "d", 2, 0);
    send_many(rig, 5);
    c2d_rig_remove(rig, "d");
    assert_true(c2d_rig_add(rig, "d"));
    send_many(rig, 1);
    assert_int_equal(r->count, 2); /* it belongs to the device that was */
    detach(r);
    receiver *next = attach(rig, "d", 2, 0);
    assert_int_equal(next->count, 1);
    assert_int_equal(next->sequences[0], 1);
    detach(next);
}

/* ---- feedback for those who wait ------------------------------------------------------------------------------- */

typedef struct waiter {
    nv_feedback_take take;
    bool done;
} waiter;

static void waiter_done(nv_feedback_take *take)
{
    ((waiter *)take->arg)->done = true;
}

static void wait_for_feedback(c2d_rig *rig, waiter *w)
{
    *w = (waiter){.take = {.wait = true, .done = waiter_done, .arg = w}};
    nv_feedback_take_do(&rig->hub->loops[1], &w->take);
    c2d_rig_settle(rig);
}

static void end_messages(c2d_rig *rig, size_t count)
{
    send_many(rig, count);
    for (size_t i = 0; i < count; i++) {
        nv_c2d_message *message = c2d_rig_take(rig, "d", NV_HUB_ERROR_NONE);
        complete(rig, message->lock_token);
        nv_c2d_message_unref(message);
    }
}

static size_t records_of(const waiter *w)
{
    size_t count = 0;
    nv_span text = nv_buf_span(&w->take.records);
    for (size_t i = 0; i < text.len; i++) {
        count += text.ptr[i] == '{';
    }
    return count;
}

static void batch_closes_at_64(void **state)
{
    c2d_rig *rig = *state;
    waiter w;
    wait_for_feedback(rig, &w);
    end_messages(rig, 63);
    assert_false(w.done);
    end_messages(rig, 7);
    assert_true(w.done);
    assert_int_equal(records_of(&w), 64);
    nv_buf_deinit(&w.take.records);
    assert_string_equal(c2d_rig_feedback(rig), "m=Success m=Success m=Success m=Success m=Success m=Success ");
}

static void batch_closes_at_15_s(void **state)
{
    c2d_rig *rig = *state;
    waiter w;
    wait_for_feedback(rig, &w);
    end_messages(rig, 2);
    c2d_rig_advance(rig, NV_FEEDBACK_WAIT_US - 1);
    assert_false(w.done);
    c2d_rig_advance(rig, 1);
    assert_true(w.done);
    assert_int_equal(records_of(&w), 2);
    nv_buf_deinit(&w.take.records);
    c2d_rig_advance(rig, LOCK_US); /* nobody settled: it comes again */
    assert_string_equal(c2d_rig_feedback(rig), "m=Success m=Success ");
}

static void waiting_is_cancelled(void **state)
{
    c2d_rig *rig = *state;
    waiter w;
    wait_for_feedback(rig, &w);
    nv_feedback_take_cancel(&w.take);
    c2d_rig_settle(rig);
    assert_true(w.done);
    assert_int_equal(w.take.error, NV_HUB_ERROR_NONE);
    assert_int_equal(nv_buf_len(&w.take.records), 0);
}

static void feedback_grows_old(void **state)
{
    c2d_rig *rig = *state;
    waiter w;
    end_messages(rig, 1);
    for (int i = 0; i < 10; i++) { /* handed out ten times and never settled: gone */
        wait_for_feedback(rig, &w);
        c2d_rig_advance(rig, NV_FEEDBACK_WAIT_US);
        assert_true(w.done);
        assert_int_equal(records_of(&w), 1);
        nv_buf_deinit(&w.take.records);
        c2d_rig_advance(rig, LOCK_US);
    }
    assert_string_equal(c2d_rig_feedback(rig), "");
    end_messages(rig, 1);
    c2d_rig_advance(rig, 3600 * NV_US_PER_S); /* its time to live */
    assert_string_equal(c2d_rig_feedback(rig), "");
}

/* ---- a store that fails ---------------------------------------------------------------------------------------- */

static void swallow(void *arg, nv_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    (void)line;
    (void)len;
}

static void failing_commits(void **state)
{
    (void)state;
    nv_fault_disk *disk = nv_fault_disk_new(3);
    nv_fault_vfs *vfs = nv_fault_vfs_new(nv_fault_disk_disk(disk), "nave-c2d");
    nv_ignore(nv_disk_make_dir(nv_fault_disk_disk(disk), "/data"));
    nv_diag_set_sink(swallow, NULL);
    c2d_rig rig;
    c2d_rig_init(&rig, 5, "nave-c2d");
    assert_true(c2d_rig_open(&rig));
    assert_true(c2d_rig_add(&rig, "d"));
    send_many(&rig, 2);
    nv_c2d_message *message = c2d_rig_take(&rig, "d", NV_HUB_ERROR_NONE);
    nv_fault_disk_fail_writes(disk, 1, UINT32_MAX, NV_E_IO);
    assert_int_equal(c2d_rig_send(&rig, "d", "x", NV_ACK_NONE, 0, NULL), NV_HUB_ERROR_ServiceUnavailable);
    assert_int_equal(c2d_rig_settle_one(&rig, "d", message->lock_token, NV_C2D_COMPLETE),
                     NV_HUB_ERROR_ServiceUnavailable);
    assert_int_equal(c2d_rig_purge(&rig, "d", NV_HUB_ERROR_ServiceUnavailable), 0);
    c2d_rig_advance(&rig, 3 * NV_US_PER_S);
    nv_fault_disk_fail_writes(disk, 1, 0, NV_OK);
    /* The lock holds still, and can be used. */
    assert_int_equal(c2d_rig_settle_one(&rig, "d", message->lock_token, NV_C2D_COMPLETE), NV_HUB_ERROR_NONE);
    nv_c2d_message_unref(message);
    message = c2d_rig_take(&rig, "d", NV_HUB_ERROR_NONE);
    nv_fault_disk_fail_writes(disk, 1, UINT32_MAX, NV_E_IO);
    assert_int_equal(c2d_rig_settle_one(&rig, "d", message->lock_token, NV_C2D_ABANDON),
                     NV_HUB_ERROR_ServiceUnavailable);
    nv_c2d_message_unref(message);
    nv_fault_disk_fail_writes(disk, 1, 0, NV_OK);
    c2d_rig_advance(&rig, 2 * NV_US_PER_S); /* its return is tried again */
    message = c2d_rig_take(&rig, "d", NV_HUB_ERROR_NONE);
    assert_int_equal(message->sequence, 2);
    assert_int_equal(message->delivery_count, 2);
    nv_c2d_message_unref(message);
    c2d_rig_deinit(&rig);
    nv_diag_set_sink(NULL, NULL);
    nv_fault_vfs_free(vfs);
    nv_fault_disk_free(disk);
}

/* ---- queues at rest -------------------------------------------------------------------------------------------- */

static size_t queues_in_memory(const c2d_rig *rig)
{
    size_t count = 0;
    for (size_t i = 0; i < C2D_LOOPS; i++) {
        count += rig->hub->loops[i].c2d->queues.count;
    }
    return count;
}

static void waiting_costs_no_queue(void **state)
{
    c2d_rig *rig = *state;
    receiver *r = attach(rig, "d", 1, 0);
    assert_int_equal(queues_in_memory(rig), 0);
    nv_c2d_credit(&r->core, 1); /* of a queue at rest */
    c2d_rig_settle(rig);
    assert_int_equal(queues_in_memory(rig), 0);
    send_many(rig, 3);
    assert_int_equal(r->count, 2);
    for (size_t i = 0; i < 3; i++) {
        complete(rig, r->tokens[i]);
    }
    assert_int_equal(r->count, 3);
    assert_int_equal(queues_in_memory(rig), 1); /* the next message is likely to be for it */
    detach(r);
    r = attach(rig, "d", 1, 1); /* another connection, of which nothing but its order is known */
    send_many(rig, 1);
    assert_int_equal(r->sequences[0], 4);
    detach(r);
}

/* What was in the queue before it is read, then it rests; what comes then is handed out, in order. */
static void rests_when_it_is_empty(void **state)
{
    c2d_rig *rig = *state;
    send_many(rig, 2);
    c2d_rig_close(rig);
    assert_true(c2d_rig_open(rig));
    receiver *none = attach(rig, "d", 0, 0); /* it can take nothing: the queue is not empty, and stays */
    assert_int_equal(none->count, 0);
    assert_int_equal(queues_in_memory(rig), 1);
    nv_c2d_credit(&none->core, 1);
    c2d_rig_settle(rig);
    complete(rig, none->tokens[0]);
    complete(rig, none->tokens[1]);
    assert_int_equal(queues_in_memory(rig), 0);
    send_many(rig, 1);
    assert_int_equal(none->count, 3);
    assert_int_equal(none->sequences[2], 3);
    detach(none);
    assert_int_equal(c2d_rig_depth(rig, "d"), 1);
}

static void others_at_the_queue_of_one_that_rests(void **state)
{
    c2d_rig *rig = *state;
    receiver *first = attach(rig, "d", 1, 0);
    assert_null(c2d_rig_take(rig, "d", NV_HUB_ERROR_NONE)); /* over HTTP: there is nothing */
    assert_int_equal(c2d_rig_purge(rig, "d", NV_HUB_ERROR_NONE), 0);
    assert_int_equal(queues_in_memory(rig), 0);
    receiver *second = attach(rig, "d", 1, 1);
    send_many(rig, 2);
    assert_int_equal(first->count, 1);
    assert_int_equal(second->count, 1);
    complete(rig, first->tokens[0]);
    complete(rig, second->tokens[0]);
    detach(first);
    send_many(rig, 1);
    assert_int_equal(second->count, 2);
    detach(second);
}

static void device_goes_while_it_rests(void **state)
{
    c2d_rig *rig = *state;
    receiver *old = attach(rig, "d", 1, 0);
    c2d_rig_remove(rig, "d");
    nv_c2d_credit(&old->core, 1);
    c2d_rig_settle(rig);
    assert_true(c2d_rig_add(rig, "d"));
    receiver *now = attach(rig, "d", 2, 0);
    send_many(rig, 2);
    assert_int_equal(old->count, 0); /* it is another device's */
    assert_int_equal(now->count, 2);
    complete(rig, now->tokens[0]);
    complete(rig, now->tokens[1]);
    detach(old);
    send_many(rig, 1);
    assert_int_equal(now->count, 3);
    detach(now);
}

/* Of the queues that were used so many stay; the oldest of them rests, and wakes again. */
static void the_least_used_rest(void **state)
{
    enum { DEVICES = NV_C2D_IDLE_QUEUES * C2D_LOOPS + 200 };
    c2d_rig *rig = *state;
    receiver **receivers = calloc(DEVICES, sizeof(*receivers));
    char id[32];
    for (size_t i = 0; i < DEVICES; i++) {
        (void)snprintf(id, sizeof(id), "fleet-%zu", i);
        assert_true(c2d_rig_add(rig, id));
        receivers[i] = attach(rig, id, 1, i % C2D_LOOPS);
    }
    assert_int_equal(queues_in_memory(rig), 0);
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < DEVICES; i++) {
            (void)snprintf(id, sizeof(id), "fleet-%zu", i);
            assert_int_equal(c2d_rig_send(rig, id, "m", NV_ACK_NONE, 0, NULL), NV_HUB_ERROR_NONE);
            assert_int_equal(receivers[i]->count, round + 1);
            assert_int_equal(c2d_rig_settle_one(rig, id, receivers[i]->tokens[round], NV_C2D_COMPLETE),
                             NV_HUB_ERROR_NONE);
        }
        assert_int_equal(queues_in_memory(rig), NV_C2D_IDLE_QUEUES * C2D_LOOPS);
    }
    for (size_t i = 0; i < DEVICES; i++) {
        detach(receivers[i]);
    }
    free(receivers);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(in_order_by_places),
        TEST(no_more_than_is_pulled),
        TEST(the_limit_wraps),
        TEST(deep_queue),
        TEST(what_it_had_comes_back_in_its_place),
        TEST(lock_over_hands_out_again),
        TEST(poison_does_not_block),
        TEST(expiry_frees_the_place),
        TEST(device_goes_under_it),
        TEST(batch_closes_at_64),
        TEST(batch_closes_at_15_s),
        TEST(waiting_is_cancelled),
        TEST(feedback_grows_old),
        TEST(waiting_costs_no_queue),
        TEST(rests_when_it_is_empty),
        TEST(others_at_the_queue_of_one_that_rests),
        TEST(device_goes_while_it_rests),
        TEST(the_least_used_rest),
        cmocka_unit_test(failing_commits),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
