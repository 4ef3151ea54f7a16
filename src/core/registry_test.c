/* The registry's rules, over a real state store on a temporary folder. */
#include "core/registry.h"

#include "base/attrs.h"
#include "core/devices.h"
#include "core/policies.h"
#include "store/state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define S(text) nv_span_str(text)

typedef struct world {
    char dir[64];
    nv_manual_clock clock;
    nv_state *state;
    nv_exec_queue queue;
    nv_hub hub;
    nv_hub_loop loop;
} world;

/* What the registry told the live devices; takes the place of core/devices.c in this program. */
static char told[512];

void nv_devices_changed(nv_hub *hub, nv_span device_id, nv_span module_id, nv_identity *identity)
{
    (void)hub;
    size_t len = strlen(told);
    (void)snprintf(told + len, sizeof(told) - len, "%.*s/%.*s%s ", NV_SPAN_ARG(device_id), NV_SPAN_ARG(module_id),
                   !identity           ? "-"
                   : identity->enabled ? "+"
                                       : "!");
}

static void open_world(world *w, size_t cache_bytes)
{
    nv_buf why;
    nv_buf_init(&why, 512);
    nv_state_config config = {.dir = w->dir, .clock = &w->clock.clock, .rng = nv_rng_system()};
    assert_int_equal(nv_state_open(&w->state, &config, &why), NV_OK);
    nv_buf_deinit(&why);
    w->hub = (nv_hub){.state = w->state,
                      .registry = nv_registry_new(cache_bytes, 1),
                      .clock = &w->clock.clock,
                      .rng = nv_rng_system(),
                      .limits = nv_limits_open};
    w->loop = (nv_hub_loop){.hub = &w->hub, .exec = &w->queue.exec};
}

static void close_world(world *w)
{
    nv_registry_free(w->hub.registry);
    nv_state_close(w->state);
}

static int setup(void **state)
{
    world *w = calloc(1, sizeof(*w));
    (void)snprintf(w->dir, sizeof(w->dir), "/tmp/nave-registry-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    nv_manual_clock_init(&w->clock, INT64_C(1700000000) * NV_US_PER_S);
    nv_exec_queue_init(&w->queue);
    open_world(w, NV_REGISTRY_CACHE_BYTES);
    told[0] = '\0';
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    close_world(w);
    nv_exec_queue_deinit(&w->queue);
    const char *const names[] = {"state.db", "state.db-wal", "state.db-shm", "state.lock"};
    for (size_t i = 0; i < NV_COUNT_OF(names); i++) {
        char path[128];
        (void)snprintf(path, sizeof(path), "%s/%s", w->dir, names[i]);
        (void)unlink(path);
    }
    assert_int_equal(rmdir(w->dir), 0);
    free(w);
    return 0;
}

/* ---- asking ---- */

static void set_flag(nv_registry_request *request)
{
    *(bool *)request->arg = true;
}

static nv_hub_error ask(world *w, nv_registry_request *request)
{
    bool done = false;
    request->done = set_flag;
    request->arg = &done;
    nv_registry_do(&w->loop, request);
    assert_false(done); /* never from within the call */
    while (!done) {
        nv_exec_queue_run_wait(&w->queue);
    }
    if (request->error != NV_HUB_ERROR_NONE) {
        assert_null(request->identity);
    }
    return request->error;
}

static nv_registry_request request_of(nv_registry_verb verb, const char *device, const char *module)
{
    return (nv_registry_request){.verb = verb,
                                 .spec = {.device_id = S(device), .module_id = S(module), .enabled = true}};
}

/* The identity afterwards: of the answer, or NULL. The caller unrefs. */
static nv_identity *put(world *w, nv_registry_request request, nv_hub_error want)
{
    nv_hub_error got = ask(w, &request);
    if (got != want) {
        print_error("%s: %s\n", nv_hub_error_info_of(got)->name, request.detail);
    }
    assert_int_equal(got, want);
    return request.identity;
}

static nv_hub_error drop(nv_registry_request request, world *w)
{
    nv_hub_error error = ask(w, &request);
    nv_identity_unref(request.identity);
    return error;
}

static nv_identity *create(world *w, const char *device, const char *module)
{
    return put(w, request_of(NV_REGISTRY_PUT, device, module), NV_HUB_ERROR_NONE);
}

static nv_identity *get(world *w, const char *device, const char *module)
{
    nv_registry_request request = request_of(NV_REGISTRY_GET, device, module);
    return ask(w, &request) == NV_HUB_ERROR_NONE ? request.identity : NULL;
}

static nv_registry_request update_of(const nv_identity *identity)
{
    return (nv_registry_request){.verb = NV_REGISTRY_PUT,
                                 .spec = {.device_id = identity->device_id,
                                          .module_id = identity->module_id,
                                          .enabled = identity->enabled,
                                          .iot_edge = identity->iot_edge,
                                          .device_scope = identity->device_scope,
                                          .parent_scopes = identity->parent_scopes,
                                          .auth = identity->auth},
                                 .precondition = NV_IF_ETAG,
                                 .etag = identity->etag};
}

static bool key_eq(const nv_key *a, const nv_key *b)
{
    return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

/* ---- preconditions ---- */

/* conformance: http-hub.md 7 */
/* conformance: http-hub.md 8 */
/* conformance: http-hub.md 9 */
static void preconditions(void **state)
{
    world *w = *state;
    enum { SAME, STALE };
    const struct {
        nv_registry_verb verb;
        const char *device;
        const char *module;
        nv_precondition precondition;
        int etag;
        nv_hub_error want;
        const char *detail;
    } steps[] = {
        {NV_REGISTRY_GET, "d", "", NV_IF_NONE, 0, NV_HUB_ERROR_DeviceNotFound, "d"},
        {NV_REGISTRY_PUT, "d", "", NV_IF_ANY, 0, NV_HUB_ERROR_DeviceNotFound, "d"},
        {NV_REGISTRY_PUT, "d", "", NV_IF_ETAG, SAME, NV_HUB_ERROR_DeviceNotFound, "d"},
        {NV_REGISTRY_PUT, "d", "", NV_IF_NONE, 0, NV_HUB_ERROR_NONE, ""},
        {NV_REGISTRY_PUT, "d", "", NV_IF_NONE, SAME, NV_HUB_ERROR_DeviceAlreadyExists,
         "A device with ID 'd' is already registered."},
        {NV_REGISTRY_PUT, "d", "", NV_IF_ETAG, STALE, NV_HUB_ERROR_PreconditionFailed, ""},
        {NV_REGISTRY_PUT, "d", "", NV_IF_ETAG, SAME, NV_HUB_ERROR_NONE, ""},
        {NV_REGISTRY_PUT, "d", "", NV_IF_ANY, 0, NV_HUB_ERROR_NONE, ""},
        {NV_REGISTRY_UPSERT, "d", "", NV_IF_ETAG, STALE, NV_HUB_ERROR_PreconditionFailed, ""},
        {NV_REGISTRY_UPSERT, "d", "", NV_IF_NONE, 0, NV_HUB_ERROR_NONE, ""},
        {NV_REGISTRY_UPSERT, "e", "", NV_IF_NONE, 0, NV_HUB_ERROR_NONE, ""},
        {NV_REGISTRY_PUT, "D", "", NV_IF_NONE, 0, NV_HUB_ERROR_NONE, ""}, /* ids are case-sensitive */
        {NV_REGISTRY_GET, "d", "m", NV_IF_NONE, 0, NV_HUB_ERROR_ModuleNotFound, "d/m"},
        {NV_REGISTRY_PUT, "d", "m", NV_IF_ANY, 0, NV_HUB_ERROR_ModuleNotFound, "d/m"},
        {NV_REGISTRY_PUT, "d", "m", NV_IF_NONE, 0, NV_HUB_ERROR_NONE, ""},
        {NV_REGISTRY_PUT, "d", "m", NV_IF_NONE, 0, NV_HUB_ERROR_ModuleAlreadyExistsOnDevice, "'m'"},
        {NV_REGISTRY_PUT, "d", "m", NV_IF_ETAG, STALE, NV_HUB_ERROR_PreconditionFailed, ""},
        {NV_REGISTRY_PUT, "d", "m", NV_IF_ETAG, SAME, NV_HUB_ERROR_NONE, ""},
        {NV_REGISTRY_PUT, "d", "$x", NV_IF_NONE, 0, NV_HUB_ERROR_ArgumentInvalid, "$"},
        {NV_REGISTRY_PUT, "none", "m", NV_IF_NONE, 0, NV_HUB_ERROR_IotHubUnauthorizedAccess, ""},
        {NV_REGISTRY_GET, "none", "m", NV_IF_NONE, 0, NV_HUB_ERROR_IotHubUnauthorizedAccess, ""},
        {NV_REGISTRY_DELETE, "d", "m", NV_IF_NONE, 0, NV_HUB_ERROR_PreconditionFailed, "Etag missing"},
        {NV_REGISTRY_DELETE, "d", "m", NV_IF_ETAG, STALE, NV_HUB_ERROR_PreconditionFailed, ""},
        {NV_REGISTRY_DELETE, "d", "m", NV_IF_ETAG, SAME, NV_HUB_ERROR_NONE, ""},
        {NV_REGISTRY_DELETE, "d", "m", NV_IF_ANY, 0, NV_HUB_ERROR_ModuleNotFound, "d/m"},
        {NV_REGISTRY_DELETE, "d", "", NV_IF_NONE, 0, NV_HUB_ERROR_PreconditionFailed, "Etag missing"},
        {NV_REGISTRY_DELETE, "d", "", NV_IF_ETAG, STALE, NV_HUB_ERROR_PreconditionFailed, ""},
        {NV_REGISTRY_DELETE, "d", "", NV_IF_ANY, 0, NV_HUB_ERROR_NONE, ""},
        {NV_REGISTRY_DELETE, "d", "", NV_IF_ANY, 0, NV_HUB_ERROR_DeviceNotFound, "d"},
        {NV_REGISTRY_GET, "d", "", NV_IF_NONE, 0, NV_HUB_ERROR_DeviceNotFound, "d"},
        {NV_REGISTRY_REGENERATE, "d", "", NV_IF_NONE, 0, NV_HUB_ERROR_DeviceNotFound, "d"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(steps); i++) {
        nv_identity *now = get(w, steps[i].device, steps[i].module);
        nv_registry_request request = request_of(steps[i].verb, steps[i].device, steps[i].module);
        request.precondition = steps[i].precondition;
        request.regenerate = NV_REGENERATE_PRIMARY;
        request.etag = (now ? now->etag : 7) + (steps[i].etag == STALE ? 1 : 0);
        nv_hub_error got = ask(w, &request);
        if (got != steps[i].want || !strstr(request.detail, steps[i].detail)) {
            fail_msg("step %zu: %s, %s", i, nv_hub_error_info_of(got)->name, request.detail);
        }
        if (got == NV_HUB_ERROR_NONE && now && request.identity) {
            assert_true(request.identity->etag == now->etag + 1);
            assert_true(nv_span_eq(request.identity->generation_id, now->generation_id));
        }
        nv_identity_unref(request.identity);
        nv_identity_unref(now);
    }
}

/* conformance: http-hub.md 12 */
static void generations_differ_after_delete_and_create(void **state)
{
    world *w = *state;
    nv_identity *first = create(w, "d", "");
    nv_registry_request request = request_of(NV_REGISTRY_DELETE, "d", "");
    request.precondition = NV_IF_ANY;
    assert_int_equal(drop(request, w), NV_HUB_ERROR_NONE);
    nv_identity *second = create(w, "d", "");
    assert_false(nv_span_eq(first->generation_id, second->generation_id)); /* although the clock stood still */
    assert_true(nv_span_eq_str(first->generation_id, "638355968000000000"));
    assert_true(first->etag >= 100000000 && first->etag < 1000000000);
    nv_identity_unref(first);
    nv_identity_unref(second);
}

/* ---- what may be put ---- */

typedef void (*spec_edit)(nv_identity_spec *spec);

static void set_key(nv_key *key, uint8_t len, uint8_t fill)
{
    key->len = len;
    memset(key->bytes, fill, len <= NV_KEY_MAX ? len : NV_KEY_MAX);
}

static void keys_of(nv_identity_spec *spec, uint8_t primary, uint8_t secondary)
{
    spec->has_keys = true;
    set_key(&spec->primary_key, primary, 1);
    set_key(&spec->secondary_key, secondary, 2);
}

static void edit_nothing(nv_identity_spec *spec)
{
    (void)spec;
}
static void edit_one_key(nv_identity_spec *spec)
{
    keys_of(spec, 32, 0);
}
static void edit_other_key(nv_identity_spec *spec)
{
    keys_of(spec, 0, 32);
}
static void edit_short_keys(nv_identity_spec *spec)
{
    keys_of(spec, 15, 32);
}
static void edit_eight(nv_identity_spec *spec)
{
    keys_of(spec, 8, 8);
}
static void edit_long_key(nv_identity_spec *spec)
{
    keys_of(spec, 64, 65);
}
static void edit_key_bounds(nv_identity_spec *spec)
{
    keys_of(spec, 16, 64);
}
static void edit_none(nv_identity_spec *spec)
{
    spec->auth = NV_AUTH_NONE;
}
static void edit_colons(nv_identity_spec *spec)
{
    spec->auth = NV_AUTH_SELF_SIGNED;
    spec->primary_thumbprint = S("AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD");
}
static void edit_39(nv_identity_spec *spec)
{
    spec->auth = NV_AUTH_SELF_SIGNED;
    spec->primary_thumbprint = S("0123456789abcdef0123456789abcdef0123456");
}
static void edit_not_hex(nv_identity_spec *spec)
{
    spec->auth = NV_AUTH_SELF_SIGNED;
    spec->secondary_thumbprint = S("0123456789abcdef0123456789abcdef0123456g");
}
static void edit_self_signed_empty(nv_identity_spec *spec)
{
    spec->auth = NV_AUTH_SELF_SIGNED;
}
static void edit_long_reason(nv_identity_spec *spec)
{
    static char text[2 * 129 + 1];
    for (size_t i = 0; i < 129; i++) {
        memcpy(text + 2 * i, "\xc3\xa9", 2);
    }
    spec->status_reason = S(text);
}
static void edit_reason_128(nv_identity_spec *spec)
{
    static char text[2 * 128 + 1];
    for (size_t i = 0; i < 128; i++) {
        memcpy(text + 2 * i, "\xc3\xa9", 2);
    }
    spec->status_reason = S(text);
}
static void edit_reason_not_utf8(nv_identity_spec *spec)
{
    spec->status_reason = S("\xff");
}
static void edit_bad_scope(nv_identity_spec *spec)
{
    spec->device_scope = S("ms-azure-iot-edge://e");
}
static void edit_two_parents(nv_identity_spec *spec)
{
    spec->iot_edge = true;
    spec->parent_scopes = S("[\"ms-azure-iot-edge://a-1\",\"ms-azure-iot-edge://b-1\"]");
}
static void edit_parents_no_array(nv_identity_spec *spec)
{
    spec->iot_edge = true;
    spec->parent_scopes = S("\"ms-azure-iot-edge://a-1\"");
}
static void edit_parents_torn(nv_identity_spec *spec)
{
    spec->iot_edge = true;
    spec->parent_scopes = S("[\"ms-azure-iot-edge://a-1");
}
static void edit_parent_huge(nv_identity_spec *spec)
{
    static char text[400];
    memset(text, 'a', sizeof(text) - 1);
    memcpy(text, "[\"ms-azure-iot-edge://", 22);
    spec->iot_edge = true;
    spec->parent_scopes = S(text);
}

#define A_16   "aaaaaaaaaaaaaaaa"
#define ID_128 A_16 A_16 A_16 A_16 A_16 A_16 A_16 A_16

/* conformance: http-hub.md 10 */
/* conformance: http-hub.md 13 */
/* conformance: http-hub.md 15 */
/* conformance: http-hub.md 18 */
static void what_may_be_put(void **state)
{
    world *w = *state;
    const struct {
        const char *device;
        const char *module;
        spec_edit edit;
        nv_hub_error want;
        const char *detail;
    } rows[] = {
        {"a", "", edit_nothing, NV_HUB_ERROR_NONE, ""},
        {"-:.+%_#*?!(),=@;$'", "", edit_nothing, NV_HUB_ERROR_NONE, ""},
        {ID_128, "", edit_nothing, NV_HUB_ERROR_NONE, ""},
        {ID_128 "a", "", edit_nothing, NV_HUB_ERROR_ArgumentInvalid, "device id"},
        {"", "", edit_nothing, NV_HUB_ERROR_ArgumentInvalid, "device id"},
        {"a b", "", edit_nothing, NV_HUB_ERROR_ArgumentInvalid, "device id"},
        {"a/b", "", edit_nothing, NV_HUB_ERROR_ArgumentInvalid, "device id"},
        {"a\xc3\xa9", "", edit_nothing, NV_HUB_ERROR_ArgumentInvalid, "device id"},
        {"a", "m/n", edit_nothing, NV_HUB_ERROR_ArgumentInvalid, "module id"},
        {"a", "$edgeHub", edit_nothing, NV_HUB_ERROR_ArgumentInvalid, "$"},
        {"a", "m", edit_nothing, NV_HUB_ERROR_NONE, ""},
        {"a", "none", edit_none, NV_HUB_ERROR_NONE, ""}, /* becomes sas */
        {"k", "", edit_one_key, NV_HUB_ERROR_ArgumentInvalid, "Either no keys or both"},
        {"k", "", edit_other_key, NV_HUB_ERROR_ArgumentInvalid, "Either no keys or both"},
        {"k", "", edit_short_keys, NV_HUB_ERROR_ArgumentInvalid, "Invalid device key length"},
        {"k", "", edit_eight, NV_HUB_ERROR_ArgumentInvalid, "Invalid device key length"},
        {"k", "", edit_long_key, NV_HUB_ERROR_ArgumentInvalid, "Invalid device key length"},
        {"k", "", edit_key_bounds, NV_HUB_ERROR_NONE, ""},
        {"n", "", edit_none, NV_HUB_ERROR_DeviceAuthenticationTypeIsMissing, ""},
        {"t", "", edit_colons, NV_HUB_ERROR_StringIsNotThumbprint, ""},
        {"t", "", edit_39, NV_HUB_ERROR_StringIsNotThumbprint, ""},
        {"t", "", edit_not_hex, NV_HUB_ERROR_StringIsNotThumbprint, ""},
        {"t", "", edit_self_signed_empty, NV_HUB_ERROR_NONE, ""},
        {"r", "", edit_long_reason, NV_HUB_ERROR_ArgumentInvalid, "128"},
        {"r", "", edit_reason_not_utf8, NV_HUB_ERROR_ArgumentInvalid, "status reason"},
        {"r", "", edit_reason_128, NV_HUB_ERROR_NONE, ""},
        {"s", "", edit_bad_scope, NV_HUB_ERROR_ArgumentInvalid, "scope"},
        {"s", "", edit_two_parents, NV_HUB_ERROR_ArgumentInvalid, "parentScopes"},
        {"s", "", edit_parents_no_array, NV_HUB_ERROR_ArgumentInvalid, "parentScopes"},
        {"s", "", edit_parents_torn, NV_HUB_ERROR_ArgumentInvalid, "parentScopes"},
        {"s", "", edit_parent_huge, NV_HUB_ERROR_ArgumentInvalid, "parentScopes"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_registry_request request = request_of(NV_REGISTRY_PUT, rows[i].device, rows[i].module);
        rows[i].edit(&request.spec);
        nv_hub_error got = ask(w, &request);
        if (got != rows[i].want || !strstr(request.detail, rows[i].detail)) {
            fail_msg("row %zu: %s, %s", i, nv_hub_error_info_of(got)->name, request.detail);
        }
        if (request.identity && request.identity->auth == NV_AUTH_SAS && !request.spec.has_keys) {
            assert_int_equal(request.identity->primary_key.len, 32);
            assert_int_equal(request.identity->secondary_key.len, 32);
            assert_false(key_eq(&request.identity->primary_key, &request.identity->secondary_key));
        }
        nv_identity_unref(request.identity);
    }
}

static void credentials_follow_the_type(void **state)
{
    world *w = *state;
    const char *const sha256 = "00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff";
    nv_registry_request request = request_of(NV_REGISTRY_PUT, "d", "");
    keys_of(&request.spec, 16, 64);
    nv_identity *first = put(w, request, NV_HUB_ERROR_NONE);
    assert_true(key_eq(&first->primary_key, &request.spec.primary_key));
    assert_true(key_eq(&first->secondary_key, &request.spec.secondary_key));
    /* a full replace without keys makes new ones */
    nv_identity *second = put(w, update_of(first), NV_HUB_ERROR_NONE);
    assert_false(key_eq(&first->primary_key, &second->primary_key));
    /* to a certificate: no keys */
    nv_registry_request x509 = update_of(second);
    x509.spec.auth = NV_AUTH_SELF_SIGNED;
    x509.spec.primary_thumbprint = S(sha256);
    nv_identity *third = put(w, x509, NV_HUB_ERROR_NONE);
    assert_true(third->primary_key.len == 0 && third->secondary_key.len == 0);
    assert_true(nv_span_eq_str(third->primary_thumbprint, sha256)); /* case kept */
    nv_registry_request regenerate = request_of(NV_REGISTRY_REGENERATE, "d", "");
    regenerate.regenerate = NV_REGENERATE_PRIMARY;
    assert_int_equal(ask(w, &regenerate), NV_HUB_ERROR_InvalidOperation);
    /* to a CA: neither */
    nv_registry_request ca = update_of(third);
    ca.spec.auth = NV_AUTH_CA;
    ca.spec.primary_thumbprint = S(sha256);
    nv_identity *fourth = put(w, ca, NV_HUB_ERROR_NONE);
    assert_true(fourth->primary_key.len == 0 && fourth->primary_thumbprint.len == 0);
    nv_identity *const all[] = {first, second, third, fourth};
    for (size_t i = 0; i < NV_COUNT_OF(all); i++) {
        nv_identity_unref(all[i]);
    }
}

static void keys_are_regenerated_one_by_one(void **state)
{
    world *w = *state;
    nv_identity *before = create(w, "d", "");
    const uint32_t which[] = {NV_REGENERATE_PRIMARY, NV_REGENERATE_SECONDARY,
                              NV_REGENERATE_PRIMARY | NV_REGENERATE_SECONDARY};
    for (size_t i = 0; i < NV_COUNT_OF(which); i++) {
        nv_registry_request request = request_of(NV_REGISTRY_REGENERATE, "d", "");
        request.regenerate = which[i];
        nv_identity *after = put(w, request, NV_HUB_ERROR_NONE);
        assert_true(after->etag == before->etag + 1);
        assert_int_equal(!key_eq(&after->primary_key, &before->primary_key), which[i] & NV_REGENERATE_PRIMARY);
        assert_int_equal(!key_eq(&after->secondary_key, &before->secondary_key) ? NV_REGENERATE_SECONDARY : 0,
                         which[i] & NV_REGENERATE_SECONDARY);
        nv_identity_unref(before);
        before = after;
    }
    nv_identity_unref(before);
    nv_registry_request none = request_of(NV_REGISTRY_REGENERATE, "d", "");
    assert_int_equal(ask(w, &none), NV_HUB_ERROR_ArgumentInvalid);
}

static void status_changes_are_dated(void **state)
{
    world *w = *state;
    nv_identity *created = create(w, "d", "");
    assert_int_equal(created->status_updated_us, 0);
    nv_manual_clock_advance(&w->clock, 5 * NV_US_PER_S);
    nv_registry_request request = update_of(created);
    request.spec.enabled = false;
    request.spec.status_reason = S("stolen");
    nv_identity *disabled = put(w, request, NV_HUB_ERROR_NONE);
    assert_int_equal(disabled->status_updated_us, INT64_C(1700000005) * NV_US_PER_S);
    nv_manual_clock_advance(&w->clock, 5 * NV_US_PER_S);
    nv_identity *still = put(w, update_of(disabled), NV_HUB_ERROR_NONE);
    assert_int_equal(still->status_updated_us, disabled->status_updated_us);
    assert_int_equal(still->status_reason.len, 0); /* replaced in full */
    nv_identity_unref(created);
    nv_identity_unref(disabled);
    nv_identity_unref(still);
}

/* ---- lookups ---- */

static void find_flag(nv_registry_find *find)
{
    *(bool *)find->arg = true;
}

/* @return whether it came from memory. *identity is the caller's */
static bool find_identity(world *w, const char *device, const char *module, nv_err want, nv_identity **identity)
{
    bool done = false;
    nv_registry_find find = {.device_id = S(device), .module_id = S(module), .done = find_flag, .arg = &done};
    nv_err err = nv_registry_lookup(&w->loop, &find);
    assert_true(err == NV_OK || err == NV_E_MORE);
    while (err == NV_E_MORE && !done) {
        nv_exec_queue_run_wait(&w->queue);
    }
    assert_int_equal(find.status, want);
    *identity = find.identity;
    return err == NV_OK;
}

static bool look(world *w, const char *device, const char *module, nv_err want, uint64_t *etag)
{
    nv_identity *identity;
    bool from_memory = find_identity(w, device, module, want, &identity);
    *etag = identity ? identity->etag : 0;
    nv_identity_unref(identity);
    return from_memory;
}

static bool look_enabled(world *w, const char *device, const char *module, bool *enabled)
{
    nv_identity *identity;
    bool from_memory = find_identity(w, device, module, NV_OK, &identity);
    *enabled = identity->enabled;
    nv_identity_unref(identity);
    return from_memory;
}

/* ---- modules and edge ---- */

static void a_disabled_device_closes_its_modules(void **state)
{
    world *w = *state;
    nv_identity *device = create(w, "d", "");
    nv_identity_unref(create(w, "d", "m"));
    bool enabled = false;
    assert_true(look_enabled(w, "d", "m", &enabled) && enabled);
    told[0] = '\0';
    nv_registry_request request = update_of(device);
    request.spec.enabled = false;
    nv_identity_unref(put(w, request, NV_HUB_ERROR_NONE));
    assert_string_equal(told, "d/! ");
    nv_registry_request module = request_of(NV_REGISTRY_GET, "d", "m");
    assert_int_equal(ask(w, &module), NV_HUB_ERROR_IotHubUnauthorizedAccess);
    assert_false(look_enabled(w, "d", "m", &enabled)); /* the old snapshot is not handed out */
    assert_false(enabled);
    nv_identity_unref(device);
}

static void an_edge_device_has_its_modules(void **state)
{
    world *w = *state;
    nv_registry_request request = request_of(NV_REGISTRY_PUT, "e", "");
    request.spec.iot_edge = true;
    request.spec.device_scope = S("ms-azure-iot-edge://other-1"); /* ignored on create */
    request.spec.parent_scopes = S(" [ \"ms-azure-iot-edge:\\/\\/p-77\" ] ");
    nv_identity *edge = put(w, request, NV_HUB_ERROR_NONE);
    char scope[256];
    (void)snprintf(scope, sizeof(scope), "ms-azure-iot-edge://e-%.*s", NV_SPAN_ARG(edge->generation_id));
    assert_true(nv_span_eq_str(edge->device_scope, scope));
    assert_true(nv_span_eq_str(edge->parent_scopes, "[\"ms-azure-iot-edge://p-77\"]"));
    const char *const modules[] = {"$edgeAgent", "$edgeHub"};
    for (size_t i = 0; i < NV_COUNT_OF(modules); i++) {
        nv_identity *module = get(w, "e", modules[i]);
        assert_non_null(module);
        assert_int_equal(module->auth, NV_AUTH_NONE);
        assert_true(nv_span_eq_str(module->managed_by, "iotEdge"));
        assert_int_equal(module->primary_key.len, 0);
        assert_false(nv_span_eq(module->generation_id, edge->generation_id));
        /* a service may not touch them, the device itself may give them keys */
        nv_registry_request change = update_of(module);
        assert_int_equal(ask(w, &change), NV_HUB_ERROR_ArgumentInvalid);
        change = update_of(module);
        change.own_device = true;
        nv_identity *keyed = put(w, change, NV_HUB_ERROR_NONE);
        assert_int_equal(keyed->auth, NV_AUTH_SAS);
        assert_int_equal(keyed->primary_key.len, 32);
        assert_true(nv_span_eq_str(keyed->managed_by, "iotEdge"));
        change = update_of(keyed);
        change.own_device = true;
        change.verb = NV_REGISTRY_DELETE;
        assert_int_equal(ask(w, &change), NV_HUB_ERROR_ArgumentInvalid);
        nv_identity_unref(module);
        nv_identity_unref(keyed);
    }
    /* its scope is echoed, or the update fails */
    nv_registry_request echo = update_of(edge);
    echo.spec.parent_scopes = S("[]");
    nv_identity *detached = put(w, echo, NV_HUB_ERROR_NONE);
    assert_int_equal(detached->parent_scopes.len, 0);
    nv_registry_request silent = update_of(detached);
    silent.spec.device_scope = NV_SPAN_EMPTY;
    assert_int_equal(ask(w, &silent), NV_HUB_ERROR_ArgumentInvalid);
    assert_string_equal(silent.detail, "Device scope is immutable");
    nv_registry_request own = update_of(detached);
    char parents[300];
    (void)snprintf(parents, sizeof(parents), "[\"%s\"]", scope);
    own.spec.parent_scopes = S(parents);
    assert_int_equal(ask(w, &own), NV_HUB_ERROR_ArgumentInvalid);
    /* edge to leaf: no scope, no system modules */
    told[0] = '\0';
    nv_registry_request leaf = update_of(detached);
    leaf.spec.iot_edge = false;
    nv_identity *plain = put(w, leaf, NV_HUB_ERROR_NONE);
    assert_true(plain->device_scope.len == 0 && plain->parent_scopes.len == 0);
    assert_string_equal(told, "e/+ e/$edgeAgent- e/$edgeHub- ");
    assert_null(get(w, "e", "$edgeHub"));
    /* and back */
    nv_registry_request back = update_of(plain);
    back.spec.iot_edge = true;
    nv_identity *again = put(w, back, NV_HUB_ERROR_NONE);
    assert_true(nv_span_eq_str(again->device_scope, scope));
    nv_identity *agent = get(w, "e", "$edgeAgent");
    assert_non_null(agent);
    nv_identity *const all[] = {edge, detached, plain, again, agent};
    for (size_t i = 0; i < NV_COUNT_OF(all); i++) {
        nv_identity_unref(all[i]);
    }
}

static void a_leaf_names_its_parent_by_scope(void **state)
{
    world *w = *state;
    nv_registry_request request = request_of(NV_REGISTRY_PUT, "l", "");
    request.spec.device_scope = S("ms-azure-iot-edge://e-5-6");
    request.spec.parent_scopes = S("garbage, which is ignored");
    nv_identity *leaf = put(w, request, NV_HUB_ERROR_NONE);
    assert_true(nv_span_eq_str(leaf->parent_scopes, "[\"ms-azure-iot-edge://e-5-6\"]"));
    nv_registry_request detach = update_of(leaf);
    detach.spec.device_scope = NV_SPAN_EMPTY;
    nv_identity *free_leaf = put(w, detach, NV_HUB_ERROR_NONE);
    assert_true(free_leaf->device_scope.len == 0 && free_leaf->parent_scopes.len == 0);
    nv_identity_unref(leaf);
    nv_identity_unref(free_leaf);
}

/* ---- limits ---- */

static void limits_hold(void **state)
{
    world *w = *state;
    w->hub.limits.modules_per_device = 3;
    w->hub.limits.devices = 6;
    nv_identity_unref(create(w, "d", ""));
    const char *const modules[] = {"1", "2", "3"};
    for (size_t i = 0; i < NV_COUNT_OF(modules); i++) {
        nv_identity_unref(create(w, "d", modules[i]));
    }
    assert_int_equal(drop(request_of(NV_REGISTRY_PUT, "d", "4"), w), NV_HUB_ERROR_TooManyModulesOnDevice);
    nv_registry_request edge = request_of(NV_REGISTRY_PUT, "e", "");
    edge.spec.iot_edge = true;
    assert_int_equal(drop(edge, w), NV_HUB_ERROR_TooManyDevices); /* it would be three */
    nv_identity_unref(create(w, "e", ""));
    nv_identity_unref(create(w, "f", ""));
    assert_int_equal(drop(request_of(NV_REGISTRY_PUT, "g", ""), w), NV_HUB_ERROR_TooManyDevices);
    assert_int_equal(drop(request_of(NV_REGISTRY_PUT, "f", "m"), w), NV_HUB_ERROR_TooManyDevices);
    nv_registry_request request = request_of(NV_REGISTRY_UPSERT, "f", "");
    assert_int_equal(drop(request, w), NV_HUB_ERROR_NONE); /* it is there already */
    request = request_of(NV_REGISTRY_DELETE, "d", "");
    request.precondition = NV_IF_ANY;
    assert_int_equal(drop(request, w), NV_HUB_ERROR_NONE); /* four less */
    nv_identity_unref(create(w, "g", ""));
}

/* ---- lists and counts ---- */

static void set_list_flag(nv_registry_list *list)
{
    *(bool *)list->arg = true;
}

static nv_registry_list list_of(world *w, const char *device, const char *after, uint32_t top)
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

static void expect_list(world *w, const char *device, const char *after, uint32_t top, const char *want)
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
    world *w = *state;
    expect_list(w, "", "", 0, "");
    const char *const ids[] = {"c", "a", "b"};
    for (size_t i = 0; i < NV_COUNT_OF(ids); i++) {
        nv_registry_request request = request_of(NV_REGISTRY_PUT, ids[i], "");
        request.spec.enabled = i != 0;
        request.spec.iot_edge = i == 1;
        assert_int_equal(drop(request, w), NV_HUB_ERROR_NONE);
    }
    nv_identity_unref(create(w, "a", "m"));
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
    world *w = *state;
    uint64_t etag = 0;
    assert_false(look(w, "d", "", NV_E_NOT_FOUND, &etag));
    nv_identity *first = create(w, "d", "");
    assert_true(look(w, "d", "", NV_OK, &etag)); /* the write left it there */
    assert_true(etag == first->etag);
    nv_identity_unref(put(w, update_of(first), NV_HUB_ERROR_NONE));
    assert_true(look(w, "d", "", NV_OK, &etag));
    assert_true(etag == first->etag + 1);
    close_world(w);
    open_world(w, NV_REGISTRY_CACHE_BYTES);
    assert_false(look(w, "d", "", NV_OK, &etag));
    assert_true(look(w, "d", "", NV_OK, &etag)); /* the first read left it there */
    nv_registry_request request = request_of(NV_REGISTRY_DELETE, "d", "");
    request.precondition = NV_IF_ANY;
    assert_int_equal(drop(request, w), NV_HUB_ERROR_NONE);
    assert_false(look(w, "d", "", NV_E_NOT_FOUND, &etag));
    nv_identity_unref(first);
    /* longer than any id */
    char longest[200];
    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_false(look(w, longest, longest, NV_E_NOT_FOUND, &etag));
}

static void memory_is_bounded_and_keeps_the_recent(void **state)
{
    world *w = *state;
    close_world(w);
    open_world(w, 4096);
    char id[16];
    for (int i = 0; i < 50; i++) {
        (void)snprintf(id, sizeof(id), "d%d", i);
        nv_identity_unref(create(w, id, ""));
        uint64_t etag;
        (void)look(w, "d0", "", NV_OK, &etag); /* used all the time: it stays */
    }
    uint64_t etag;
    assert_true(look(w, "d0", "", NV_OK, &etag));
    assert_true(look(w, "d49", "", NV_OK, &etag));
    assert_false(look(w, "d1", "", NV_OK, &etag));
    close_world(w);
    open_world(w, 0); /* none at all */
    assert_false(look(w, "d0", "", NV_OK, &etag));
    assert_false(look(w, "d0", "", NV_OK, &etag));
}

static void note_saved(void *arg, nv_err status)
{
    *(int *)arg = status == NV_OK ? 1 : -1;
}

static void times_are_saved_and_seen(void **state)
{
    world *w = *state;
    nv_identity *a = create(w, "a", "");
    nv_identity *m = create(w, "a", "m");
    nv_registry_seen seen[] = {{nv_identity_ref(a), 100, 200}, {nv_identity_ref(m), 300, 400}};
    int saved = 0;
    nv_registry_save_seen(&w->loop, seen, 2, note_saved, &saved);
    assert_int_equal(saved, 0);
    while (!saved) {
        nv_exec_queue_run_wait(&w->queue);
    }
    assert_int_equal(saved, 1);
    nv_identity *now = get(w, "a", "");
    assert_true(now->connection_updated_us == 100 && now->last_activity_us == 200 && now->etag == a->etag);
    /* an update keeps them */
    nv_identity *later = put(w, update_of(now), NV_HUB_ERROR_NONE);
    assert_true(later->connection_updated_us == 100 && later->last_activity_us == 200);
    nv_identity *const all[] = {a, m, now, later};
    for (size_t i = 0; i < NV_COUNT_OF(all); i++) {
        nv_identity_unref(all[i]);
    }
}

/* ---- policies ---- */

static void policies_are_made_once(void **state)
{
    world *w = *state;
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
        assert_false(key_eq(&policy->primary_key, &policy->secondary_key));
        const nv_policy *same = nv_policies_find(second, S(want[i].name));
        assert_true(key_eq(&policy->primary_key, &same->primary_key));
        assert_true(key_eq(&policy->secondary_key, &same->secondary_key));
    }
    assert_null(nv_policies_at(first, NV_COUNT_OF(want)));
    assert_null(nv_policies_find(first, S("IotHubOwner")));
    nv_policies_free(first);
    nv_policies_free(second);
}

static void known_keys_are_the_same_everywhere(void **state)
{
    world *w = *state;
    nv_policies *policies = NULL;
    assert_int_equal(nv_policies_load(&policies, w->state, nv_rng_system(), true), NV_OK);
    const nv_policy *owner = nv_policies_find(policies, S("iothubowner"));
    assert_memory_equal(owner->primary_key.bytes, "iothubowner primary known to all", 32);
    assert_memory_equal(owner->secondary_key.bytes, "iothubowner secondary known to a", 32);
    for (size_t i = 0; nv_policies_at(policies, i); i++) {
        for (size_t k = 0; k < i; k++) {
            assert_false(key_eq(&nv_policies_at(policies, i)->primary_key, &nv_policies_at(policies, k)->primary_key));
        }
    }
    nv_policies_free(policies);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(preconditions),
        TEST(generations_differ_after_delete_and_create),
        TEST(what_may_be_put),
        TEST(credentials_follow_the_type),
        TEST(keys_are_regenerated_one_by_one),
        TEST(status_changes_are_dated),
        TEST(a_disabled_device_closes_its_modules),
        TEST(an_edge_device_has_its_modules),
        TEST(a_leaf_names_its_parent_by_scope),
        TEST(limits_hold),
        TEST(lists_and_counts),
        TEST(lookups_come_from_memory_and_are_current),
        TEST(memory_is_bounded_and_keeps_the_recent),
        TEST(times_are_saved_and_seen),
        TEST(policies_are_made_once),
        TEST(known_keys_are_the_same_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
