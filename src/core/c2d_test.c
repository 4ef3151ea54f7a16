/*
 * Every row of the state table of semantics.md section 7, under a manual clock, over a real store. Of rule 55 the
 * ruling holds: a lock that is lost to time counts as a delivery, too.
 *
 * conformance: semantics.md 55, 56, 57, 58, 61
 */
#include "base/attrs.h"
#include "core/c2d_rig.h"
#include "store/state_c2d.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define LOCK_US   (60 * NV_US_PER_S)
#define MINUTE_US (60 * NV_US_PER_S)
#define HOUR_US   (60 * MINUTE_US)

static int setup(void **state)
{
    c2d_rig *rig = calloc(1, sizeof(*rig));
    c2d_rig_init(rig, 7, NULL);
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

static void must_send(c2d_rig *rig, const char *id, nv_c2d_ack ack)
{
    assert_int_equal(c2d_rig_send(rig, "d", id, ack, 0, NULL), NV_HUB_ERROR_NONE);
}

static void restart(c2d_rig *rig)
{
    c2d_rig_close(rig);
    assert_true(c2d_rig_open(rig));
}

/* Take the message called @p id; its token stays in @p token. */
static void must_take(c2d_rig *rig, const char *id, uint32_t deliveries, char token[37])
{
    nv_c2d_message *message = c2d_rig_take(rig, "d", NV_HUB_ERROR_NONE);
    assert_non_null(message);
    assert_string_equal(c2d_rig_id(message), id);
    assert_int_equal(message->delivery_count, deliveries);
    memcpy(token, message->lock_token, 37);
    nv_c2d_message_unref(message);
}

static void must_be_empty(c2d_rig *rig)
{
    assert_null(c2d_rig_take(rig, "d", NV_HUB_ERROR_NONE));
}

static void must_settle(c2d_rig *rig, const char *token, nv_c2d_outcome outcome, nv_hub_error want)
{
    assert_int_equal(c2d_rig_settle_one(rig, "d", token, outcome), want);
}

/* ---- the ways of one message ---- */

static void completes(void **state)
{
    c2d_rig *rig = *state;
    char token[37];
    char second[37];
    must_send(rig, "a", NV_ACK_FULL);
    must_send(rig, "b", NV_ACK_NONE);
    assert_int_equal(c2d_rig_depth(rig, "d"), 2);
    must_take(rig, "a", 1, token);
    must_take(rig, "b", 1, second);
    must_be_empty(rig); /* both are invisible */
    must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_NONE);
    must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_DeviceMessageLockLost);
    assert_int_equal(c2d_rig_depth(rig, "d"), 1);
    must_settle(rig, second, NV_C2D_COMPLETE, NV_HUB_ERROR_NONE);
    assert_int_equal(c2d_rig_depth(rig, "d"), 0);
    assert_string_equal(c2d_rig_feedback(rig), "a=Success ");
    assert_string_equal(c2d_rig_feedback(rig), "");
    restart(rig);
    must_be_empty(rig);
    assert_string_equal(c2d_rig_feedback(rig), "");
}

static void rejects(void **state)
{
    c2d_rig *rig = *state;
    char token[37];
    must_send(rig, "a", NV_ACK_NEGATIVE);
    must_take(rig, "a", 1, token);
    must_settle(rig, token, NV_C2D_REJECT, NV_HUB_ERROR_NONE);
    must_be_empty(rig);
    assert_string_equal(c2d_rig_feedback(rig), "a=Rejected ");
}

static void feedback_is_what_was_asked_for(void **state)
{
    c2d_rig *rig = *state;
    static const nv_c2d_ack acks[] = {NV_ACK_NONE, NV_ACK_POSITIVE, NV_ACK_NEGATIVE, NV_ACK_FULL};
    char token[37];
    for (int reject = 0; reject < 2; reject++) {
        for (size_t i = 0; i < NV_COUNT_OF(acks); i++) {
            must_send(rig, nv_c2d_ack_name(acks[i]), acks[i]);
            must_take(rig, nv_c2d_ack_name(acks[i]), 1, token);
            must_settle(rig, token, reject ? NV_C2D_REJECT : NV_C2D_COMPLETE, NV_HUB_ERROR_NONE);
        }
    }
    assert_string_equal(c2d_rig_feedback(rig), "positive=Success full=Success negative=Rejected full=Rejected ");
}

static void abandoned_comes_first_again(void **state)
{
    c2d_rig *rig = *state;
    char token[37];
    char other[37];
    must_send(rig, "a", NV_ACK_FULL);
    must_send(rig, "b", NV_ACK_FULL);
    must_take(rig, "a", 1, token);
    must_settle(rig, token, NV_C2D_ABANDON, NV_HUB_ERROR_NONE);
    must_settle(rig, token, NV_C2D_ABANDON, NV_HUB_ERROR_DeviceMessageLockLost);
    must_take(rig, "a", 2, token);
    must_take(rig, "b", 1, other);
}

/* README: the count is that of the hand-outs; the tenth that comes back is the last. */
static void poison(c2d_rig *rig, bool by_time, bool with_restarts)
{
    char token[37];
    must_send(rig, "p", NV_ACK_NEGATIVE);
    must_send(rig, "q", NV_ACK_NONE);
    for (uint32_t i = 1; i <= 10; i++) {
        must_take(rig, "p", i, token);
        if (by_time) {
            c2d_rig_advance(rig, LOCK_US - 1);
            c2d_rig_advance(rig, 1);
            must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_DeviceMessageLockLost);
        } else {
            must_settle(rig, token, NV_C2D_ABANDON, NV_HUB_ERROR_NONE);
        }
        if (with_restarts) {
            restart(rig);
        }
    }
    must_take(rig, "q", 1, token);
    must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_NONE);
    must_be_empty(rig);
    assert_string_equal(c2d_rig_feedback(rig), "p=DeliveryCountExceeded ");
}

static void tenth_abandon_is_the_last(void **state)
{
    poison(*state, false, false);
}

static void tenth_lost_lock_is_the_last(void **state)
{
    poison(*state, true, false);
}

static void counts_survive_restarts(void **state)
{
    poison(*state, false, true);
    poison(*state, true, true);
}

static void lock_holds_to_its_end(void **state)
{
    c2d_rig *rig = *state;
    char token[37];
    must_send(rig, "a", NV_ACK_NONE);
    must_take(rig, "a", 1, token);
    c2d_rig_advance(rig, LOCK_US - 1);
    must_be_empty(rig);
    must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_NONE);
    c2d_rig_advance(rig, LOCK_US);
    must_be_empty(rig);
}

static void restart_gives_back_what_was_invisible(void **state)
{
    c2d_rig *rig = *state;
    char token[37];
    must_send(rig, "a", NV_ACK_NONE);
    must_take(rig, "a", 1, token);
    restart(rig);
    must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_DeviceMessageLockLost);
    must_take(rig, "a", 1, token); /* no delivery was counted: it did not come back */
    must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_NONE);
}

/* ---- time ---- */

static void expires_wherever_it_is(void **state)
{
    c2d_rig *rig = *state;
    char token[37];
    assert_int_equal(c2d_rig_send(rig, "d", "stored", NV_ACK_FULL, 30 * NV_US_PER_S, NULL), NV_HUB_ERROR_NONE);
    assert_int_equal(c2d_rig_send(rig, "d", "locked", NV_ACK_NEGATIVE, 40 * NV_US_PER_S, NULL), NV_HUB_ERROR_NONE);
    c2d_rig_advance(rig, 30 * NV_US_PER_S - 1);
    assert_int_equal(c2d_rig_depth(rig, "d"), 2);
    c2d_rig_advance(rig, 1);
    assert_int_equal(c2d_rig_depth(rig, "d"), 1);
    must_take(rig, "locked", 1, token);
    c2d_rig_advance(rig, 12 * NV_US_PER_S);
    must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_DeviceMessageLockLost);
    assert_int_equal(c2d_rig_depth(rig, "d"), 0);
    assert_string_equal(c2d_rig_feedback(rig), "stored=Expired locked=Expired ");
}

static void two_days_in_a_moment(void **state)
{
    c2d_rig *rig = *state;
    int64_t two_days = 48 * HOUR_US;
    rig->limits.feedback_ttl_s = 4 * 86400;
    restart(rig);
    assert_int_equal(c2d_rig_send(rig, "d", "long", NV_ACK_FULL, two_days, NULL), NV_HUB_ERROR_NONE);
    assert_int_equal(c2d_rig_send(rig, "d", "longer", NV_ACK_FULL, two_days + 1, NULL), NV_HUB_ERROR_ArgumentInvalid);
    must_send(rig, "default", NV_ACK_FULL);
    c2d_rig_advance(rig, HOUR_US - 1);
    assert_int_equal(c2d_rig_depth(rig, "d"), 2);
    c2d_rig_advance(rig, 1);
    assert_int_equal(c2d_rig_depth(rig, "d"), 1);
    c2d_rig_advance(rig, 47 * HOUR_US - 1);
    assert_int_equal(c2d_rig_depth(rig, "d"), 1);
    c2d_rig_advance(rig, 1);
    assert_int_equal(c2d_rig_depth(rig, "d"), 0);
    assert_string_equal(c2d_rig_feedback(rig), "default=Expired long=Expired ");
}

static void expires_while_the_hub_is_down(void **state)
{
    c2d_rig *rig = *state;
    for (int i = 0; i < 40; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "m%d", i);
        must_send(rig, id, NV_ACK_NONE);
    }
    must_send(rig, "told", NV_ACK_FULL);
    c2d_rig_close(rig);
    nv_manual_clock_advance(&rig->clock, 2 * HOUR_US);
    assert_true(c2d_rig_open(rig));
    assert_int_equal(c2d_rig_depth(rig, "d"), 0);
    assert_string_equal(c2d_rig_feedback(rig), "told=Expired ");
}

/* ---- bounds ---- */

static void queue_is_bounded(void **state)
{
    c2d_rig *rig = *state;
    char token[37];
    for (int i = 0; i < 50; i++) {
        must_send(rig, "m", NV_ACK_NONE);
    }
    assert_int_equal(c2d_rig_send(rig, "d", "m", NV_ACK_NONE, 0, NULL), NV_HUB_ERROR_DeviceMaximumQueueDepthExceeded);
    must_take(rig, "m", 1, token); /* invisible ones count */
    assert_int_equal(c2d_rig_send(rig, "d", "m", NV_ACK_NONE, 0, NULL), NV_HUB_ERROR_DeviceMaximumQueueDepthExceeded);
    must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_NONE);
    must_send(rig, "m", NV_ACK_NONE);
    restart(rig);
    assert_int_equal(c2d_rig_send(rig, "d", "m", NV_ACK_NONE, 0, NULL), NV_HUB_ERROR_DeviceMaximumQueueDepthExceeded);
    assert_int_equal(c2d_rig_purge(rig, "d", NV_HUB_ERROR_NONE), 50);
    must_send(rig, "m", NV_ACK_NONE);
}

/* The rig sends the id as a system property and as the body: both count. */
static nv_hub_error send_twice(c2d_rig *rig, size_t bytes)
{
    char *text = calloc(1, bytes + 1);
    (void)memset(text, 'x', bytes);
    nv_hub_error error = c2d_rig_send(rig, "d", text, NV_ACK_NONE, 0, NULL);
    free(text);
    return error;
}

static void size_is_bounded(void **state)
{
    c2d_rig *rig = *state;
    assert_int_equal(send_twice(rig, 32768), NV_HUB_ERROR_NONE);
    assert_int_equal(send_twice(rig, 32769), NV_HUB_ERROR_MessageTooLarge);
}

static void refusals(void **state)
{
    c2d_rig *rig = *state;
    char long_id[200];
    (void)memset(long_id, 'd', sizeof(long_id) - 1);
    long_id[sizeof(long_id) - 1] = '\0';
    assert_int_equal(c2d_rig_send(rig, "nobody", "m", NV_ACK_NONE, 0, NULL), NV_HUB_ERROR_DeviceNotFound);
    assert_int_equal(c2d_rig_send(rig, long_id, "m", NV_ACK_NONE, 0, NULL), NV_HUB_ERROR_DeviceNotFound);
    assert_int_equal(c2d_rig_send(rig, "d", "", NV_ACK_FULL, 0, NULL), NV_HUB_ERROR_ArgumentInvalid);
    assert_null(c2d_rig_take(rig, "nobody", NV_HUB_ERROR_DeviceNotFound));
    assert_int_equal(c2d_rig_purge(rig, "nobody", NV_HUB_ERROR_DeviceNotFound), 0);
    must_settle(rig, "", NV_C2D_COMPLETE, NV_HUB_ERROR_DeviceMessageLockLost);
    must_settle(rig, "no-such-lock", NV_C2D_REJECT, NV_HUB_ERROR_DeviceMessageLockLost);
}

static void lock_of_another_device(void **state)
{
    c2d_rig *rig = *state;
    char token[37];
    assert_true(c2d_rig_add(rig, "e"));
    must_send(rig, "a", NV_ACK_NONE);
    must_take(rig, "a", 1, token);
    assert_int_equal(c2d_rig_settle_one(rig, "e", token, NV_C2D_COMPLETE), NV_HUB_ERROR_DeviceMessageLockLost);
    must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_NONE);
}

/* ---- purge and deletion ---- */

static void purge_spares_the_locked(void **state)
{
    c2d_rig *rig = *state;
    char token[37];
    must_send(rig, "a", NV_ACK_FULL);
    must_send(rig, "b", NV_ACK_NEGATIVE);
    must_send(rig, "c", NV_ACK_POSITIVE);
    must_take(rig, "a", 1, token);
    assert_int_equal(c2d_rig_purge(rig, "d", NV_HUB_ERROR_NONE), 2);
    must_be_empty(rig);
    assert_int_equal(c2d_rig_depth(rig, "d"), 1);
    must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_NONE);
    assert_string_equal(c2d_rig_feedback(rig), "b=Purged a=Success ");
    assert_int_equal(c2d_rig_purge(rig, "d", NV_HUB_ERROR_NONE), 0);
    must_send(rig, "after", NV_ACK_NONE);
    must_take(rig, "after", 1, token);
}

static void sequence_never_goes_back(void **state)
{
    c2d_rig *rig = *state;
    char token[37];
    uint64_t sequence = 0;
    for (uint64_t i = 1; i <= 6; i++) {
        assert_int_equal(c2d_rig_send(rig, "d", "m", NV_ACK_NONE, i == 5 ? NV_US_PER_S : 0, &sequence),
                         NV_HUB_ERROR_NONE);
        assert_int_equal(sequence, i);
        switch (i) {
        case 1:
        case 2:
            must_take(rig, "m", 1, token);
            must_settle(rig, token, i == 1 ? NV_C2D_COMPLETE : NV_C2D_REJECT, NV_HUB_ERROR_NONE);
            break;
        case 3:
            assert_int_equal(c2d_rig_purge(rig, "d", NV_HUB_ERROR_NONE), 1);
            break;
        case 5:
            c2d_rig_advance(rig, NV_US_PER_S);
            break;
        default:
            break;
        }
        restart(rig);
    }
}

static void deletion_takes_everything(void **state)
{
    c2d_rig *rig = *state;
    char token[37];
    uint64_t sequence = 0;
    must_send(rig, "a", NV_ACK_FULL);
    must_send(rig, "b", NV_ACK_FULL);
    must_take(rig, "a", 1, token);
    must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_NONE);
    must_take(rig, "b", 1, token);
    c2d_rig_remove(rig, "d");
    must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_DeviceMessageLockLost);
    assert_int_equal(c2d_rig_depth(rig, "d"), 0);
    assert_string_equal(c2d_rig_feedback(rig), ""); /* what nobody fetched is lost */
    assert_int_equal(c2d_rig_send(rig, "d", "c", NV_ACK_NONE, 0, NULL), NV_HUB_ERROR_DeviceNotFound);
    assert_true(c2d_rig_add(rig, "d"));
    must_be_empty(rig);
    assert_int_equal(c2d_rig_send(rig, "d", "c", NV_ACK_NONE, 0, &sequence), NV_HUB_ERROR_NONE);
    assert_int_equal(sequence, 1); /* another device of the same name */
    c2d_rig_advance(rig, 2 * LOCK_US);
    must_take(rig, "c", 1, token);
}

/* ---- what a message says ---- */

static void message_is_stamped(void **state)
{
    c2d_rig *rig = *state;
    int64_t now_us = nv_wall_us(&rig->clock.clock);
    assert_int_equal(c2d_rig_send(rig, "d", "a", NV_ACK_POSITIVE, MINUTE_US, NULL), NV_HUB_ERROR_NONE);
    nv_c2d_message *message = c2d_rig_take(rig, "d", NV_HUB_ERROR_NONE);
    nv_value value;
    assert_true(nv_property_find(message->properties, NV_PROP_TO, &value));
    assert_true(nv_span_eq_str(value.bytes, "/devices/d/messages/deviceBound"));
    assert_true(nv_property_find(message->properties, NV_PROP_MESSAGE_ID, &value));
    assert_true(nv_span_eq_str(value.bytes, "a"));
    assert_int_equal(message->enqueued_us, now_us);
    assert_int_equal(message->expires_us, now_us + MINUTE_US);
    assert_int_equal(message->ack, NV_ACK_POSITIVE);
    assert_int_equal(message->sequence, 1);
    assert_int_equal(strlen(message->lock_token), 36);
    nv_c2d_message_unref(message);
}

/* What a device has can still be settled; nothing new begins, and the rest is there at the next start. */
static void stopping_hub(void **state)
{
    c2d_rig *rig = *state;
    char token[37];
    must_send(rig, "a", NV_ACK_NONE);
    must_send(rig, "b", NV_ACK_NONE);
    must_send(rig, "c", NV_ACK_NONE);
    must_take(rig, "a", 1, token);
    nv_hub_stop(rig->hub);
    for (size_t i = 0; i < C2D_LOOPS; i++) {
        nv_hub_loop_turn_end(&rig->hub->loops[i]);
    }
    must_settle(rig, token, NV_C2D_COMPLETE, NV_HUB_ERROR_NONE);
    assert_null(c2d_rig_take(rig, "d", NV_HUB_ERROR_ServiceUnavailable));
    assert_int_equal(c2d_rig_send(rig, "d", "x", NV_ACK_NONE, 0, NULL), NV_HUB_ERROR_ServiceUnavailable);
    assert_int_equal(c2d_rig_purge(rig, "d", NV_HUB_ERROR_ServiceUnavailable), 0);
    c2d_rig_advance(rig, 2 * HOUR_US); /* nothing expires now */
    assert_int_equal(c2d_rig_depth(rig, "d"), 2);
    restart(rig);
    assert_int_equal(c2d_rig_depth(rig, "d"), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(completes),
        TEST(rejects),
        TEST(feedback_is_what_was_asked_for),
        TEST(abandoned_comes_first_again),
        TEST(tenth_abandon_is_the_last),
        TEST(tenth_lost_lock_is_the_last),
        TEST(counts_survive_restarts),
        TEST(lock_holds_to_its_end),
        TEST(restart_gives_back_what_was_invisible),
        TEST(expires_wherever_it_is),
        TEST(two_days_in_a_moment),
        TEST(expires_while_the_hub_is_down),
        TEST(queue_is_bounded),
        TEST(size_is_bounded),
        TEST(refusals),
        TEST(lock_of_another_device),
        TEST(purge_spares_the_locked),
        TEST(sequence_never_goes_back),
        TEST(deletion_takes_everything),
        TEST(message_is_stamped),
        TEST(stopping_hub),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
