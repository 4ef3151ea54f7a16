/* Twins in the store: what is there for whom, walks from a position, finding by tags, going with the identity. */
#include "store/state_twin.h"

#include "base/attrs.h"
#include "support/temp_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define S(text) nv_span_str(text)

typedef struct world {
    char dir[64];
    nv_state *state;
    nv_exec_queue queue;
    nv_manual_clock clock;
} world;

static int setup(void **state)
{
    world *w = calloc(1, sizeof(*w));
    temp_dir_make(w->dir, sizeof(w->dir), NULL);
    nv_manual_clock_init(&w->clock, INT64_C(1700000000) * NV_US_PER_S);
    nv_exec_queue_init(&w->queue);
    nv_buf why;
    nv_buf_init(&why, 512);
    nv_state_config config = {.dir = w->dir, .clock = &w->clock.clock, .rng = nv_rng_system()};
    assert_int_equal(nv_state_open(&w->state, &config, &why), NV_OK);
    nv_buf_deinit(&why);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    nv_state_close(w->state);
    nv_exec_queue_deinit(&w->queue);
    temp_dir_remove(w->dir);
    free(w);
    return 0;
}

/* ---- a function within a transaction ---- */

typedef nv_err (*work)(nv_txn *txn, void *arg);

typedef struct job {
    nv_state_op op;
    work run;
    void *arg;
    bool done;
} job;

static nv_err job_run(nv_state_op *op, nv_txn *txn)
{
    job *self = nv_container_of(op, job, op);
    return self->run(txn, self->arg);
}

static void job_done(nv_state_op *op)
{
    nv_container_of(op, job, op)->done = true;
}

static nv_err in_transaction(world *w, bool writes, work run, void *arg)
{
    job one = {.op = {.exec = &w->queue.exec, .run = job_run, .done = job_done}, .run = run, .arg = arg};
    assert_int_equal(writes ? nv_state_write(w->state, &one.op) : nv_state_read(w->state, &one.op), NV_OK);
    while (!one.done) {
        nv_exec_queue_run_wait(&w->queue);
    }
    return one.op.status;
}

/* ---- what the tests do within ---- */

typedef struct named {
    const char *device;
    const char *module;
    const char *text; /* put: the tags; get: receives nothing */
    nv_twin_row row;  /* get: its spans are gone */
    char tags[64];
} named;

static nv_err create(nv_txn *txn, void *arg)
{
    const named *self = arg;
    nv_identity_row row = {.device_id = S(self->device),
                           .module_id = S(self->module),
                           .generation = nv_txn_generation(txn),
                           .enabled = true};
    return nv_txn_identity_put(txn, &row);
}

static nv_err delete_identity(nv_txn *txn, void *arg)
{
    const named *self = arg;
    return nv_txn_identity_delete(txn, S(self->device), S(self->module));
}

static nv_err put(nv_txn *txn, void *arg)
{
    const named *self = arg;
    nv_twin_row row;
    nv_err err = nv_txn_twin_get(txn, S(self->device), S(self->module), &row);
    row.version++;
    row.tags = S(self->text);
    row.desired_metadata = S("meta");
    return err == NV_OK ? nv_txn_twin_put(txn, S(self->device), S(self->module), &row, row.version > 3) : err;
}

static nv_err get(nv_txn *txn, void *arg)
{
    named *self = arg;
    nv_err err = nv_txn_twin_get(txn, S(self->device), S(self->module), &self->row);
    if (err == NV_OK) {
        (void)snprintf(self->tags, sizeof(self->tags), "%.*s|%.*s", NV_SPAN_ARG(self->row.tags),
                       NV_SPAN_ARG(self->row.desired_metadata));
    }
    return err;
}

typedef struct tag {
    const char *device;
    const char *module;
    const char *path;
    const char *value;
} tag;

static nv_err put_tag(nv_txn *txn, void *arg)
{
    const tag *self = arg;
    return nv_txn_twin_tag_put(txn, S(self->device), S(self->module), S(self->path), S(self->value));
}

static nv_err delete_tag(nv_txn *txn, void *arg)
{
    const tag *self = arg;
    return nv_txn_twin_tag_delete(txn, S(self->device), S(self->module), S(self->path), S(self->value));
}

typedef struct tour {
    nv_twin_walk walk;
    const char *path; /* NULL: all */
    const char *value;
    uint32_t stop_after; /* rows; 0: never */
    uint32_t rows;
    char text[512];
} tour;

static nv_err note_row(void *arg, const nv_identity_row *identity, const nv_twin_row *twin)
{
    tour *self = arg;
    assert_int_equal(twin->generation, identity->generation);
    assert_int_equal(twin->desired_metadata.len, 0);
    size_t len = strlen(self->text);
    (void)snprintf(self->text + len, sizeof(self->text) - len, "%.*s/%.*s%s%s%.*s ", NV_SPAN_ARG(identity->device_id),
                   NV_SPAN_ARG(identity->module_id), twin->stored ? "+" : "-", identity->enabled ? "" : "!",
                   NV_SPAN_ARG(twin->tags));
    return ++self->rows == self->stop_after ? NV_E_LIMIT : NV_OK;
}

static nv_err take_tour(nv_txn *txn, void *arg)
{
    tour *self = arg;
    return self->path ? nv_txn_twins_by_tag(txn, S(self->path), S(self->value), &self->walk, note_row, self)
                      : nv_txn_twins_walk(txn, &self->walk, note_row, self);
}

static void expect_tour(world *w, tour t, nv_err err, const char *want)
{
    t.walk.limit = t.walk.limit ? t.walk.limit : 100;
    assert_int_equal(in_transaction(w, false, take_tour, &t), err);
    assert_string_equal(t.text, want);
}

static void do_it(world *w, work run, const char *device, const char *module, const char *text)
{
    named one = {.device = device, .module = module, .text = text};
    assert_int_equal(in_transaction(w, true, run, &one), NV_OK);
}

/* ---- tests ---- */

static void what_nobody_wrote_is_there(void **state)
{
    world *w = *state;
    named one = {.device = "d", .module = ""};
    assert_int_equal(in_transaction(w, false, get, &one), NV_E_NOT_FOUND);
    do_it(w, create, "d", "", NULL);
    assert_int_equal(in_transaction(w, false, get, &one), NV_OK);
    assert_false(one.row.stored);
    assert_true(one.row.generation > 0);
    assert_int_equal(one.row.version, 2);
    assert_string_equal(one.tags, "{}|");
    do_it(w, put, "d", "", "{\"a\":1}");
    assert_int_equal(in_transaction(w, false, get, &one), NV_OK);
    assert_true(one.row.stored);
    assert_int_equal(one.row.version, 3);
    assert_string_equal(one.tags, "{\"a\":1}|meta");
    do_it(w, put, "d", "", "{}");
    assert_int_equal(in_transaction(w, false, get, &one), NV_OK);
    assert_int_equal(one.row.version, 4);
    assert_string_equal(one.tags, "{}|meta");
}

static void make_fleet(world *w)
{
    static const char *const devices[] = {"a", "b", "c", "d"};
    for (size_t i = 0; i < NV_COUNT_OF(devices); i++) {
        do_it(w, create, devices[i], "", NULL);
    }
    do_it(w, create, "b", "x", NULL);
    do_it(w, create, "b", "y", NULL);
    do_it(w, create, "c", "x", NULL);
    do_it(w, put, "b", "", "B");
    do_it(w, put, "b", "y", "BY");
    do_it(w, put, "d", "", "D");
}

static void walks_go_in_order_from_anywhere(void **state)
{
    world *w = *state;
    make_fleet(w);
    expect_tour(w, (tour){0}, NV_OK, "a/-{} b/+B c/-{} d/+D ");
    expect_tour(w, (tour){.walk = {.after_device = S("a"), .limit = 2}}, NV_OK, "b/+B c/-{} ");
    expect_tour(w, (tour){.walk = {.after_device = S("bb")}}, NV_OK, "c/-{} d/+D ");
    expect_tour(w, (tour){.walk = {.after_device = S("d")}}, NV_OK, "");
    expect_tour(w, (tour){.stop_after = 2}, NV_E_LIMIT, "a/-{} b/+B ");
    expect_tour(w, (tour){.walk = {.modules = true}}, NV_OK, "b/x-{} b/y+BY c/x-{} ");
    expect_tour(w, (tour){.walk = {.modules = true, .after_device = S("b"), .after_module = S("x"), .limit = 1}}, NV_OK,
                "b/y+BY ");
    expect_tour(w, (tour){.walk = {.modules = true, .after_device = S("b"), .after_module = S("z")}}, NV_OK, "c/x-{} ");
}

static void tags_find_twins(void **state)
{
    world *w = *state;
    make_fleet(w);
    static const tag tags[] = {{"d", "", "p", "1"},  {"b", "", "p", "1"},  {"a", "", "p", "2"}, {"b", "", "q", "1"},
                               {"b", "y", "p", "1"}, {"c", "x", "p", "1"}, {"b", "", "p", "1"}};
    for (size_t i = 0; i < NV_COUNT_OF(tags); i++) {
        tag one = tags[i];
        assert_int_equal(in_transaction(w, true, put_tag, &one), NV_OK);
    }
    expect_tour(w, (tour){.path = "p", .value = "1"}, NV_OK, "b/+B d/+D ");
    expect_tour(w, (tour){.path = "p", .value = "2"}, NV_OK, "a/-{} ");
    expect_tour(w, (tour){.path = "p", .value = "3"}, NV_OK, "");
    expect_tour(w, (tour){.path = "p", .value = "1", .walk = {.limit = 1}}, NV_OK, "b/+B ");
    expect_tour(w, (tour){.path = "p", .value = "1", .walk = {.after_device = S("b")}}, NV_OK, "d/+D ");
    expect_tour(w, (tour){.path = "p", .value = "1", .walk = {.modules = true}}, NV_OK, "b/y+BY c/x-{} ");
    expect_tour(
        w, (tour){.path = "p", .value = "1", .walk = {.modules = true, .after_device = S("b"), .after_module = S("y")}},
        NV_OK, "c/x-{} ");
    tag gone = tags[0];
    assert_int_equal(in_transaction(w, true, delete_tag, &gone), NV_OK);
    expect_tour(w, (tour){.path = "p", .value = "1"}, NV_OK, "b/+B ");
    /* with the device go its modules, their twins and their tags; a new one of that name has none of them */
    do_it(w, delete_identity, "b", "", NULL);
    do_it(w, create, "b", "", NULL);
    do_it(w, create, "b", "y", NULL);
    expect_tour(w, (tour){.path = "p", .value = "1"}, NV_OK, "");
    expect_tour(w, (tour){.path = "p", .value = "1", .walk = {.modules = true}}, NV_OK, "c/x-{} ");
    expect_tour(w, (tour){0}, NV_OK, "a/-{} b/-{} c/-{} d/+D ");
    expect_tour(w, (tour){.walk = {.modules = true}}, NV_OK, "b/y-{} c/x-{} ");
    do_it(w, delete_identity, "c", "x", NULL);
    expect_tour(w, (tour){.path = "p", .value = "1", .walk = {.modules = true}}, NV_OK, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_nobody_wrote_is_there, setup, teardown),
        cmocka_unit_test_setup_teardown(walks_go_in_order_from_anywhere, setup, teardown),
        cmocka_unit_test_setup_teardown(tags_find_twins, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
