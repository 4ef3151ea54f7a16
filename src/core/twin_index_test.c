/* Tags find twins: keys of values, and the index that follows the changes. */
#include "core/twin_index.h"
#include "core/twin_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static int setup(void **state)
{
    twin_rig_clear();
    int rc = rig_setup(state);
    rig *w = *state;
    w->hub.loops = &w->loop;
    nv_identity_unref(rig_create(w, "d1", ""));
    nv_identity_unref(rig_create(w, "d2", ""));
    return rc;
}

/* ---- keys ---- */

static void equal_values_have_equal_keys(void **state)
{
    (void)state;
    static const struct {
        double number;
        const char *key;
    } numbers[] = {{1, "n1"}, {1.0e0, "n1"}, {0.0, "n0"}, {-0.0, "n0"}, {0.1, "n0.10000000000000001"}, {-2.5, "n-2.5"}};
    uint8_t out[NV_TWIN_INDEX_VALUE_MAX];
    for (size_t i = 0; i < NV_COUNT_OF(numbers); i++) {
        nv_span key = nv_span_of(out, nv_twin_index_number(numbers[i].number, out));
        assert_true(nv_span_eq_str(key, numbers[i].key));
    }
    assert_int_equal(nv_twin_index_bool(true, out), 2);
    assert_memory_equal(out, "b1", 2);
    assert_int_equal(nv_twin_index_string(S(""), out), 1);
    assert_int_equal(nv_twin_index_string(S("ab"), out), 3);
    assert_memory_equal(out, "sab", 3);
    assert_int_equal(nv_twin_index_string(nv_span_of("a\0b", 3), out), 2);
    char text[160];
    memset(text, 'x', sizeof(text));
    assert_int_equal(nv_twin_index_string(nv_span_of(text, 160), out), 129);
    memcpy(text + 127, "\xe2\x82\xac", 3); /* not cut through */
    assert_int_equal(nv_twin_index_string(nv_span_of(text, 160), out), 128);
}

/* ---- the index ---- */

typedef struct search {
    nv_state_op op;
    nv_span path;
    nv_span value;
    char found[128];
    bool done;
} search;

static nv_err note(void *arg, const nv_identity_row *identity, const nv_twin_row *twin)
{
    search *self = arg;
    (void)twin;
    size_t len = strlen(self->found);
    (void)snprintf(self->found + len, sizeof(self->found) - len, "%.*s ", NV_SPAN_ARG(identity->device_id));
    return NV_OK;
}

static nv_err run(nv_state_op *op, nv_txn *txn)
{
    search *self = nv_container_of(op, search, op);
    nv_twin_walk walk = {.limit = 100};
    return nv_txn_twins_by_tag(txn, self->path, self->value, &walk, note, self);
}

static void search_done(nv_state_op *op)
{
    nv_container_of(op, search, op)->done = true;
}

static void find_key(rig *w, const char *path, const uint8_t *key, size_t len, const char *want)
{
    search self = {.op = {.exec = &w->queue.exec, .run = run, .done = search_done},
                   .path = S(path),
                   .value = nv_span_of(key, len)};
    assert_int_equal(nv_state_read(w->state, &self.op), NV_OK);
    while (!self.done) {
        nv_exec_queue_run_wait(&w->queue);
    }
    assert_int_equal(self.op.status, NV_OK);
    if (strcmp(self.found, want) != 0) {
        fail_msg("%s: found \"%s\", not \"%s\"", path, self.found, want);
    }
}

static void find_string(rig *w, const char *path, const char *value, const char *want)
{
    uint8_t key[NV_TWIN_INDEX_VALUE_MAX];
    find_key(w, path, key, nv_twin_index_string(S(value), key), want);
}

static void find_number(rig *w, const char *path, double value, const char *want)
{
    uint8_t key[NV_TWIN_INDEX_VALUE_MAX];
    find_key(w, path, key, nv_twin_index_number(value, key), want);
}

static void find_bool(rig *w, const char *path, bool value, const char *want)
{
    uint8_t key[NV_TWIN_INDEX_VALUE_MAX];
    find_key(w, path, key, nv_twin_index_bool(value, key), want);
}

static void succeed(rig *w, nv_twin_verb verb, const char *device, const char *body)
{
    assert_int_equal(twin_rig_do(w, verb, device, body), NV_HUB_ERROR_NONE);
}

static void the_index_follows(void **state)
{
    rig *w = *state;
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"a\":\"x\",\"o\":{\"n\":1.0,\"t\":true},\"arr\":[\"x\"],\"e\":{}}}");
    succeed(w, NV_TWIN_PATCH, "d2", "{\"tags\":{\"a\":\"x\",\"o\":{\"n\":1e0,\"t\":false}}}");
    find_string(w, "a", "x", "d1 d2 ");
    find_number(w, "o.n", 1, "d1 d2 ");
    find_bool(w, "o.t", true, "d1 ");
    find_bool(w, "o.t", false, "d2 ");
    find_string(w, "arr", "x", "");
    find_string(w, "o.n", "1", "");
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"a\":\"y\",\"o\":{\"n\":null}}}");
    find_string(w, "a", "x", "d2 ");
    find_string(w, "a", "y", "d1 ");
    find_number(w, "o.n", 1, "d2 ");
    find_bool(w, "o.t", true, "d1 ");
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"o\":5}}");
    find_bool(w, "o.t", true, "");
    find_number(w, "o", 5, "d1 ");
    succeed(w, NV_TWIN_REPLACE, "d2", "{\"tags\":{\"a\":\"y\"}}");
    find_string(w, "a", "y", "d1 d2 ");
    find_number(w, "o.n", 1, "");
    succeed(w, NV_TWIN_PATCH, "d2", "{\"tags\":null}");
    find_string(w, "a", "y", "d1 ");
    nv_registry_request delete = rig_request(NV_REGISTRY_DELETE, "d1", "");
    delete.precondition = NV_IF_ANY;
    assert_int_equal(rig_do(delete, w), NV_HUB_ERROR_NONE);
    find_string(w, "a", "y", "");
}

/* A refused update leaves it alone. */
static void refused_updates_are_not_indexed(void **state)
{
    rig *w = *state;
    succeed(w, NV_TWIN_PATCH, "d1", "{\"tags\":{\"a\":\"x\"}}");
    nv_twin_request request = twin_rig_request(NV_TWIN_PATCH, "d1", "", "{\"tags\":{\"a\":\"y\"}}");
    request.precondition = NV_IF_ETAG;
    request.etag = 77;
    assert_int_equal(twin_rig_ask(w, &request), NV_HUB_ERROR_PreconditionFailed);
    find_string(w, "a", "x", "d1 ");
    find_string(w, "a", "y", "");
}

static void odd_names_and_long_values(void **state)
{
    rig *w = *state;
    char value[NV_TWIN_INDEX_TEXT_MAX + 20];
    char body[1200];
    memset(value, 'v', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    (void)snprintf(body, sizeof(body), "{\"tags\":{\"q\\\"\":\"a\\n\\u00e9\",\"long\":\"%s\",\"\":{\"\":1}}}", value);
    succeed(w, NV_TWIN_PATCH, "d1", body);
    find_string(w, "q\"", "a\n\xc3\xa9", "d1 ");
    find_string(w, "long", value, "d1 ");
    find_number(w, ".", 1, "d1 ");
    /* a path longer than the index takes is left out, and what stands beside it is not */
    char name[300];
    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    (void)snprintf(body, sizeof(body), "{\"tags\":{\"%s\":{\"x\":1},\"z\":1}}", name);
    succeed(w, NV_TWIN_PATCH, "d2", body);
    find_number(w, "z", 1, "d2 ");
    find_number(w, name, 1, "");
    succeed(w, NV_TWIN_PATCH, "d2", "{\"tags\":null}");
    find_number(w, "z", 1, "");
    /* bytes of the path itself count, not those of its escapes */
    for (size_t len = NV_TWIN_INDEX_PATH_MAX; len <= NV_TWIN_INDEX_PATH_MAX + 1; len++) {
        name[len] = '\0';
        name[0] = '"';
        (void)snprintf(body, sizeof(body), "{\"tags\":{\"\\%s\":1}}", name);
        succeed(w, NV_TWIN_REPLACE, "d2", body);
        find_number(w, name, 1, len == NV_TWIN_INDEX_PATH_MAX ? "d2 " : "");
        name[len] = 'n';
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_values_have_equal_keys),
        cmocka_unit_test_setup_teardown(the_index_follows, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(refused_updates_are_not_indexed, setup, rig_teardown),
        cmocka_unit_test_setup_teardown(odd_names_and_long_values, setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
