/* Lists, counts, the registry's memory, saved times and policies. */
#include "base/attrs.h"
#include "core/policies.h"
#include "core/registry_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- lists and counts ---- */

static void set_list_flag(nv_registry_list *list)
{
    *(bool *)list->arg = true;
}

static nv_registry_list list_of(rig *w, const char *device, const char *after, uint32_t top)
{
    bool done = false;
    nv_registry_list list = {
        .device_id = S(device), .after = S(after), .top = top, .done = set_list_flag, .arg = &done};
    nv_registry_list_get(&w->loop, &list);
    while (!done) {
        nv_exec_queue_run_wait(&w->queue);
    }
    return list;
}

static void expect_list(rig *w, const char *device, const char *after, uint32_t top, const char *want)
{
    nv_registry_list list = list_of(w, device, after, top);
    char text[256] = "";
    for (size_t i = 0; i < list.count; i++) {
        size_t len = strlen(text);
        const nv_identity *identity = list.identities[i];
        (void)snprintf(text + len, sizeof(text) - len, "%.*s ",
                       NV_SPAN_ARG(identity->module_id.len ? identity->module_id : identity->device_id));
        nv_identity_unref(list.identities[i]);
    }
    free(list.identities);
    assert_int_equal(list.error, NV_HUB_ERROR_NONE);
    assert_string_equal(text, want);
}

static void set_count_flag(nv_registry_counts *counts)
{
    *(bool *)counts->arg = true;
}

/* conformance: http-hub.md 14 */
/* conformance: http-hub.md 18 */
/* conformance: http-hub.md 20 */
static void lists_and_counts(void **state)
{
    rig *w = *state;
    expect_list(w, "", "", 0, "");
    const char *const ids[] = {"c", "a", "b"};
    for (size_t i = 0; i < NV_COUNT_OF(ids); i++) {
        nv_registry_request request = rig_request(NV_REGISTRY_PUT, ids[i], "");
        request.spec.enabled = i != 0;
        request.spec.iot_edge = i == 1;
        assert_int_equal(rig_do(request, w), NV_HUB_ERROR_NONE);
    }
    nv_identity_unref(rig_create(w, "a", "m"));
    expect_list(w, "", "", 0, "a b c ");
    expect_list(w, "", "", 5000, "a b c ");
    expect_list(w, "", "", 2, "a b ");
    expect_list(w, "", "a", 1, "b ");
    expect_list(w, "a", "", 1000, "$edgeAgent $edgeHub m ");
    expect_list(w, "b", "", 1000, "");
    nv_registry_list none = list_of(w, "none", "", 10);
    assert_int_equal(none.error, NV_HUB_ERROR_IotHubUnauthorizedAccess);
    assert_null(none.identities);
    bool done = false;
    nv_registry_counts counts = {.done = set_count_flag, .arg = &done};
    nv_registry_count(&w->loop, &counts);
    while (!done) {
        nv_exec_queue_run_wait(&w->queue);
    }
    assert_true(counts.devices == 3 && counts.enabled == 2);
}

/* ---- memory ---- */

static void lookups_come_from_memory_and_are_current(void **state)
{
    rig *w = *state;
    uint64_t etag = 0;
    assert_false(rig_look(w, "d", "", NV_E_NOT_FOUND, &etag));
    nv_identity *first = rig_create(w, "d", "");
    assert_true(rig_look(w, "d", "", NV_OK, &etag)); /* the write left it there */
    assert_true(etag == first->etag);
    nv_identity_unref(rig_put(w, rig_update(first), NV_HUB_ERROR_NONE));
    assert_true(rig_look(w, "d", "", NV_OK, &etag));
    assert_true(etag == first->etag + 1);
    rig_close(w);
    rig_open(w, NV_REGISTRY_CACHE_BYTES);
    assert_false(rig_look(w, "d", "", NV_OK, &etag));
    assert_true(rig_look(w, "d", "", NV_OK, &etag)); /* the first read left it there */
    nv_registry_request request = rig_request(NV_REGISTRY_DELETE, "d", "");
    request.precondition = NV_IF_ANY;
    assert_int_equal(rig_do(request, w), NV_HUB_ERROR_NONE);
    assert_false(rig_look(w, "d", "", NV_E_NOT_FOUND, &etag));
    nv_identity_unref(first);
    /* longer than any id */
    char longest[200];
    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_false(rig_look(w, longest, longest, NV_E_NOT_FOUND, &etag));
}

static void memory_is_bounded_and_keeps_the_recent(void **state)
{
    rig *w = *state;
    rig_close(w);
    rig_open(w, 4096);
    char id[16];
    for (int i = 0; i < 50; i++) {
        (void)snprintf(id, sizeof(id), "d%d", i);
        nv_identity_unref(rig_create(w, id, ""));
        uint64_t etag;
        (void)rig_look(w, "d0", "", NV_OK, &etag); /* used all the time: it stays */
    }
    uint64_t etag;
    assert_true(rig_look(w, "d0", "", NV_OK, &etag));
    assert_true(rig_look(w, "d49", "", NV_OK, &etag));
    assert_false(rig_look(w, "d1", "", NV_OK, &etag));
    rig_close(w);
    rig_open(w, 0); /* none at all */
    assert_false(rig_look(w, "d0", "", NV_OK, &etag));
    assert_false(rig_look(w, "d0", "", NV_OK, &etag));
}

static void note_saved(void *arg, nv_err status)
{
    *(int *)arg = status == NV_OK ? 1 : -1;
}

static void times_are_saved_and_seen(void **state)
{
    rig *w = *state;
    nv_identity *a = rig_create(w, "a", "");
    nv_identity *m = rig_create(w, "a", "m");
    nv_registry_seen seen[] = {{nv_identity_ref(a), 100, 200}, {nv_identity_ref(m), 300, 400}};
    int saved = 0;
    nv_registry_save_seen(&w->loop, seen, 2, note_saved, &saved);
    assert_int_equal(saved, 0);
    while (!saved) {
        nv_exec_queue_run_wait(&w->queue);
    }
    assert_int_equal(saved, 1);
    nv_identity *now = rig_get(w, "a", "");
    assert_true(now->connection_updated_us == 100 && now->last_activity_us == 200 && now->etag == a->etag);
    /* an update keeps them */
    nv_identity *later = rig_put(w, rig_update(now), NV_HUB_ERROR_NONE);
    assert_true(later->connection_updated_us == 100 && later->last_activity_us == 200);
    nv_identity *const all[] = {a, m, now, later};
    for (size_t i = 0; i < NV_COUNT_OF(all); i++) {
        nv_identity_unref(all[i]);
    }
}

/* ---- policies ---- */

static void policies_are_made_once(void **state)
{
    rig *w = *state;
    const struct {
        const char *name;
        uint32_t rights;
    } want[] = {{"device", NV_RIGHT_DEVICE_CONNECT},
                {"iothubowner", 15},
                {"registryRead", NV_RIGHT_REGISTRY_READ},
                {"registryReadWrite", NV_RIGHT_REGISTRY_READ | NV_RIGHT_REGISTRY_WRITE},
                {"service", NV_RIGHT_SERVICE_CONNECT}};
    nv_policies *first = NULL;
    nv_policies *second = NULL;
    assert_int_equal(nv_policies_load(&first, w->state, nv_rng_system(), false), NV_OK);
    assert_int_equal(nv_policies_load(&second, w->state, nv_rng_system(), true), NV_OK); /* stored ones stay */
    for (size_t i = 0; i < NV_COUNT_OF(want); i++) {
        const nv_policy *policy = nv_policies_at(first, i);
        assert_string_equal(policy->name, want[i].name);
        assert_int_equal(policy->rights, want[i].rights);
        assert_int_equal(policy->primary_key.len, 32);
        assert_false(rig_key_eq(&policy->primary_key, &policy->secondary_key));
        const nv_policy *same = nv_policies_find(second, S(want[i].name));
        assert_true(rig_key_eq(&policy->primary_key, &same->primary_key));
        assert_true(rig_key_eq(&policy->secondary_key, &same->secondary_key));
    }
    assert_null(nv_policies_at(first, NV_COUNT_OF(want)));
    assert_null(nv_policies_find(first, S("IotHubOwner")));
    nv_policies_free(first);
    nv_policies_free(second);
}

static void known_keys_are_the_same_everywhere(void **state)
{
    rig *w = *state;
    nv_policies *policies = NULL;
    assert_int_equal(nv_policies_load(&policies, w->state, nv_rng_system(), true), NV_OK);
    const nv_policy *owner = nv_policies_find(policies, S("iothubowner"));
    assert_memory_equal(owner->primary_key.bytes, "iothubowner primary known to all", 32);
    assert_memory_equal(owner->secondary_key.bytes, "iothubowner secondary known to a", 32);
    for (size_t i = 0; nv_policies_at(policies, i); i++) {
        for (size_t k = 0; k < i; k++) {
            assert_false(
                rig_key_eq(&nv_policies_at(policies, i)->primary_key, &nv_policies_at(policies, k)->primary_key));
        }
    }
    nv_policies_free(policies);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(lists_and_counts),
        TEST(lookups_come_from_memory_and_are_current),
        TEST(memory_is_bounded_and_keeps_the_recent),
        TEST(times_are_saved_and_seen),
        TEST(policies_are_made_once),
        TEST(known_keys_are_the_same_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
