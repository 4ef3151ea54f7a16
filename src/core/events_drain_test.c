/* Events that nobody wants, that the log does not take, and what is left of those that it took. */
#include "support/events_rig.h"

#include "base/diag.h"
#include "base/metrics.h"
#include "store/state_outbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define S(text) nv_span_str(text)

static void test_off(void **state)
{
    (void)state;
    nv_events_config none = {0};
    events_rig *w = events_rig_new(&none, false);
    events_rig_create(w, "d", "");
    events_peer p;
    events_rig_connect(w, &p, "d", ""); /* the first one stores its session */
    events_rig_leave(&p);
    events_rig_create(w, "behind", ""); /* what was written before is counted by now */
    int64_t before = nv_metric_get(NV_M_STATE_OPS);
    events_rig_connect(w, &p, "d", "");
    events_rig_operate(&p);
    events_rig_create(w, "after", "");
    assert_int_equal(nv_metric_get(NV_M_STATE_OPS), before + 1); /* a connection costs the state store nothing more */
    events_rig_leave(&p);
    events_rig_change_twin(w, NV_TWIN_PATCH, "d", "", "{\"tags\":{\"a\":1}}");
    (void)events_rig_ask(w, NV_REGISTRY_DELETE, "d", "", false);
    events_rig_close(w, true);
    events_rig_open(w, &events_rig_all, false); /* and nothing waited for somebody to want it */
    events_rig_create(w, "e", "");
    events_rig_expect_count(w, 1);
    events_rig_expect_row(w, 0, NV_SOURCE_LIFECYCLE, "e", "createDeviceIdentity");
    events_rig_free(w);
}

/* The log is full, for long: changes go on, their events come when there is room, each once and in order. */
/* What is accepted is told; what could not be told of is refused, so that the outbox stays small. */
static void test_full_log(void **state)
{
    (void)state;
    events_rig *w = events_rig_new(&events_rig_all, false);
    events_rig_create(w, "d", "");
    events_rig_expect_count(w, 1);
    nv_fault_disk_fail_writes(w->log_disk, 1, UINT64_MAX / 2, NV_E_NO_SPACE);
    size_t accepted = 0;
    for (bool refused = false; !refused;) {
        char device[32]; /* not a module: of these a device has 50, which is soon reached where the log answers late */
        nv_identity *identity = NULL;
        (void)snprintf(device, sizeof(device), "d%03zu", accepted);
        nv_hub_error error = events_rig_try(w, NV_REGISTRY_PUT, device, "", false, &identity);
        refused = error != NV_HUB_ERROR_NONE;
        accepted += refused ? 0 : 1;
        assert_true(!refused || error == NV_HUB_ERROR_ServiceUnavailable);
        assert_true(accepted < 1000);
        nv_identity_unref(identity);
        events_rig_advance(w, NV_US_PER_S);
    }
    assert_true(accepted > 0);
    assert_int_equal(events_rig_stored(w), 1);
    nv_fault_disk_fail_writes(w->log_disk, 1, 0, NV_OK);
    while (events_rig_stored(w) < 1 + accepted) {
        events_rig_advance(w, NV_US_PER_S); /* the hub tries once a second */
    }
    nv_identity *after = NULL;
    while (events_rig_try(w, NV_REGISTRY_PUT, "after", "", false, &after) != NV_HUB_ERROR_NONE) {
        events_rig_advance(w, NV_US_PER_S); /* readers may see the rows before the drainer hears that they are stored */
    }
    nv_identity_unref(after);
    events_rig_expect_count(w, 2 + accepted);
    events_rig_expect_row(w, 1 + accepted, NV_SOURCE_LIFECYCLE, "after", "createDeviceIdentity");
    for (size_t i = 1; i < 1 + accepted; i++) {
        char who[32];
        (void)snprintf(who, sizeof(who), "d%03zu", i - 1);
        events_rig_expect_row(w, i, NV_SOURCE_LIFECYCLE, who, "createDeviceIdentity");
    }
    events_rig_free(w);
}

typedef struct large {
    nv_state_op op;
    events_rig *w;
    nv_span body;
    bool done;
} large;

static nv_err run_large(nv_state_op *op, nv_txn *txn)
{
    large *self = nv_container_of(op, large, op);
    const nv_event event = {
        .source = NV_SOURCE_TWIN_CHANGE, .schema = "s", .operation = "o", .device_id = S("d"), .body = self->body};
    return nv_events_put(self->w->on.hub, txn, &event);
}

static void large_done(nv_state_op *op)
{
    large *self = nv_container_of(op, large, op);
    self->done = true;
    nv_events_committed(self->w->on.hub);
}

/* What the log cannot take does not hold up what stands behind it, and is told all the same. */
static void test_large_bodies(void **state)
{
    (void)state;
    events_rig *w = events_rig_new(&events_rig_all, false);
    static char body[NV_LOG_MESSAGE_MAX + 1];
    memset(body, ' ', sizeof(body));
    for (size_t i = 0; i < 4; i++) {
        large l = {.op = {.exec = &w->on.queue.exec, .run = run_large, .done = large_done},
                   .w = w,
                   .body = nv_span_of(body, i == 1 ? sizeof(body) : sizeof(body) - 1)};
        assert_int_equal(nv_state_write(w->on.state, &l.op), NV_OK);
        while (!l.done) {
            events_hub_wait(&w->on);
        }
    }
    events_rig_create(w, "d", "");
    events_rig_expect_count(w, 5);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(strcmp(w->rows[i].body, "{}") == 0, i == 1);
    }
    events_rig_free(w);
}

/* Drained rows do not stay: the outbox of a hub that lives long is empty. */
static nv_err count_rows(void *arg, const nv_outbox_row *r)
{
    (void)r;
    *(size_t *)arg += 1;
    return NV_OK;
}

typedef struct counting {
    nv_state_op op;
    size_t rows;
    bool done;
} counting;

static nv_err run_count(nv_state_op *op, nv_txn *txn)
{
    counting *c = nv_container_of(op, counting, op);
    c->rows = 0;
    return nv_txn_outbox_read(txn, 0, count_rows, &c->rows);
}

static void counted(nv_state_op *op)
{
    nv_container_of(op, counting, op)->done = true;
}

static size_t outbox_rows(events_rig *w)
{
    counting c = {.op = {.exec = &w->on.queue.exec, .run = run_count, .done = counted}};
    assert_int_equal(nv_state_read(w->on.state, &c.op), NV_OK);
    while (!c.done) {
        events_hub_wait(&w->on);
    }
    return c.rows;
}

static void test_outbox_is_emptied(void **state)
{
    (void)state;
    events_rig *w = events_rig_new(&events_rig_all, false);
    events_rig_create(w, "d", "");
    events_rig_create(w, "e", "");
    events_rig_expect_count(w, 2);
    assert_int_equal(outbox_rows(w), 2); /* later, many at once */
    events_rig_advance(w, 6 * NV_US_PER_S);
    while (outbox_rows(w) > 0) {
        events_hub_turn(&w->on);
    }
    events_rig_create(w, "f", "");
    events_rig_expect_count(w, 3);
    events_rig_close(w, true); /* a clean end leaves none */
    events_rig_open(w, &events_rig_all, false);
    assert_int_equal(outbox_rows(w), 0);
    events_rig_expect_count(w, 3);
    events_rig_free(w);
}

int main(void)
{
    nv_diag_setup(NV_LEVEL_ERROR + 1, false, 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_off),
        cmocka_unit_test(test_full_log),
        cmocka_unit_test(test_outbox_is_emptied),
        cmocka_unit_test(test_large_bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
