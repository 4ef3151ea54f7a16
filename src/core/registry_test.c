/* The registry's rules, over a real state store on a temporary folder. */
#include "base/attrs.h"
#include "core/registry_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- preconditions ---- */

/* conformance: http-hub.md 7 */
/* conformance: http-hub.md 8 */
/* conformance: http-hub.md 9 */
static void preconditions(void **state)
{
    rig *w = *state;
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
        nv_identity *now = rig_get(w, steps[i].device, steps[i].module);
        nv_registry_request request = rig_request(steps[i].verb, steps[i].device, steps[i].module);
        request.precondition = steps[i].precondition;
        request.regenerate = NV_REGENERATE_PRIMARY;
        request.etag = (now ? now->etag : 7) + (steps[i].etag == STALE ? 1 : 0);
        nv_hub_error got = rig_ask(w, &request);
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
    rig *w = *state;
    nv_identity *first = rig_create(w, "d", "");
    nv_registry_request request = rig_request(NV_REGISTRY_DELETE, "d", "");
    request.precondition = NV_IF_ANY;
    assert_int_equal(rig_do(request, w), NV_HUB_ERROR_NONE);
    nv_identity *second = rig_create(w, "d", "");
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
    rig *w = *state;
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
        nv_registry_request request = rig_request(NV_REGISTRY_PUT, rows[i].device, rows[i].module);
        rows[i].edit(&request.spec);
        nv_hub_error got = rig_ask(w, &request);
        if (got != rows[i].want || !strstr(request.detail, rows[i].detail)) {
            fail_msg("row %zu: %s, %s", i, nv_hub_error_info_of(got)->name, request.detail);
        }
        if (request.identity && request.identity->auth == NV_AUTH_SAS && !request.spec.has_keys) {
            assert_int_equal(request.identity->primary_key.len, 32);
            assert_int_equal(request.identity->secondary_key.len, 32);
            assert_false(rig_key_eq(&request.identity->primary_key, &request.identity->secondary_key));
        }
        nv_identity_unref(request.identity);
    }
}

static void credentials_follow_the_type(void **state)
{
    rig *w = *state;
    const char *const sha256 = "00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff";
    nv_registry_request request = rig_request(NV_REGISTRY_PUT, "d", "");
    keys_of(&request.spec, 16, 64);
    nv_identity *first = rig_put(w, request, NV_HUB_ERROR_NONE);
    assert_true(rig_key_eq(&first->primary_key, &request.spec.primary_key));
    assert_true(rig_key_eq(&first->secondary_key, &request.spec.secondary_key));
    /* a full replace without keys makes new ones */
    nv_identity *second = rig_put(w, rig_update(first), NV_HUB_ERROR_NONE);
    assert_false(rig_key_eq(&first->primary_key, &second->primary_key));
    /* to a certificate: no keys */
    nv_registry_request x509 = rig_update(second);
    x509.spec.auth = NV_AUTH_SELF_SIGNED;
    x509.spec.primary_thumbprint = S(sha256);
    nv_identity *third = rig_put(w, x509, NV_HUB_ERROR_NONE);
    assert_true(third->primary_key.len == 0 && third->secondary_key.len == 0);
    assert_true(nv_span_eq_str(third->primary_thumbprint, sha256)); /* case kept */
    nv_registry_request regenerate = rig_request(NV_REGISTRY_REGENERATE, "d", "");
    regenerate.regenerate = NV_REGENERATE_PRIMARY;
    assert_int_equal(rig_ask(w, &regenerate), NV_HUB_ERROR_InvalidOperation);
    /* to a CA: neither */
    nv_registry_request ca = rig_update(third);
    ca.spec.auth = NV_AUTH_CA;
    ca.spec.primary_thumbprint = S(sha256);
    nv_identity *fourth = rig_put(w, ca, NV_HUB_ERROR_NONE);
    assert_true(fourth->primary_key.len == 0 && fourth->primary_thumbprint.len == 0);
    nv_identity *const all[] = {first, second, third, fourth};
    for (size_t i = 0; i < NV_COUNT_OF(all); i++) {
        nv_identity_unref(all[i]);
    }
}

static void keys_are_regenerated_one_by_one(void **state)
{
    rig *w = *state;
    nv_identity *before = rig_create(w, "d", "");
    const uint32_t which[] = {NV_REGENERATE_PRIMARY, NV_REGENERATE_SECONDARY,
                              NV_REGENERATE_PRIMARY | NV_REGENERATE_SECONDARY};
    for (size_t i = 0; i < NV_COUNT_OF(which); i++) {
        nv_registry_request request = rig_request(NV_REGISTRY_REGENERATE, "d", "");
        request.regenerate = which[i];
        nv_identity *after = rig_put(w, request, NV_HUB_ERROR_NONE);
        assert_true(after->etag == before->etag + 1);
        assert_int_equal(!rig_key_eq(&after->primary_key, &before->primary_key), which[i] & NV_REGENERATE_PRIMARY);
        assert_int_equal(!rig_key_eq(&after->secondary_key, &before->secondary_key) ? NV_REGENERATE_SECONDARY : 0,
                         which[i] & NV_REGENERATE_SECONDARY);
        nv_identity_unref(before);
        before = after;
    }
    nv_identity_unref(before);
    nv_registry_request none = rig_request(NV_REGISTRY_REGENERATE, "d", "");
    assert_int_equal(rig_ask(w, &none), NV_HUB_ERROR_ArgumentInvalid);
}

static void status_changes_are_dated(void **state)
{
    rig *w = *state;
    nv_identity *created = rig_create(w, "d", "");
    assert_int_equal(created->status_updated_us, 0);
    nv_manual_clock_advance(&w->clock, 5 * NV_US_PER_S);
    nv_registry_request request = rig_update(created);
    request.spec.enabled = false;
    request.spec.status_reason = S("stolen");
    nv_identity *disabled = rig_put(w, request, NV_HUB_ERROR_NONE);
    assert_int_equal(disabled->status_updated_us, INT64_C(1700000005) * NV_US_PER_S);
    nv_manual_clock_advance(&w->clock, 5 * NV_US_PER_S);
    nv_identity *still = rig_put(w, rig_update(disabled), NV_HUB_ERROR_NONE);
    assert_int_equal(still->status_updated_us, disabled->status_updated_us);
    assert_int_equal(still->status_reason.len, 0); /* replaced in full */
    nv_identity_unref(created);
    nv_identity_unref(disabled);
    nv_identity_unref(still);
}

/* ---- modules and edge ---- */

static void a_disabled_device_closes_its_modules(void **state)
{
    rig *w = *state;
    nv_identity *device = rig_create(w, "d", "");
    nv_identity_unref(rig_create(w, "d", "m"));
    bool enabled = false;
    assert_true(rig_look_enabled(w, "d", "m", &enabled) && enabled);
    rig_told[0] = '\0';
    nv_registry_request request = rig_update(device);
    request.spec.enabled = false;
    nv_identity_unref(rig_put(w, request, NV_HUB_ERROR_NONE));
    assert_string_equal(rig_told, "d/! ");
    nv_registry_request module = rig_request(NV_REGISTRY_GET, "d", "m");
    assert_int_equal(rig_ask(w, &module), NV_HUB_ERROR_IotHubUnauthorizedAccess);
    assert_false(rig_look_enabled(w, "d", "m", &enabled)); /* the old snapshot is not handed out */
    assert_false(enabled);
    nv_identity_unref(device);
}

static void an_edge_device_has_its_modules(void **state)
{
    rig *w = *state;
    nv_registry_request request = rig_request(NV_REGISTRY_PUT, "e", "");
    request.spec.iot_edge = true;
    request.spec.device_scope = S("ms-azure-iot-edge://other-1"); /* ignored on create */
    request.spec.parent_scopes = S(" [ \"ms-azure-iot-edge:\\/\\/p-77\" ] ");
    nv_identity *edge = rig_put(w, request, NV_HUB_ERROR_NONE);
    char scope[256];
    (void)snprintf(scope, sizeof(scope), "ms-azure-iot-edge://e-%.*s", NV_SPAN_ARG(edge->generation_id));
    assert_true(nv_span_eq_str(edge->device_scope, scope));
    assert_true(nv_span_eq_str(edge->parent_scopes, "[\"ms-azure-iot-edge://p-77\"]"));
    const char *const modules[] = {"$edgeAgent", "$edgeHub"};
    for (size_t i = 0; i < NV_COUNT_OF(modules); i++) {
        nv_identity *module = rig_get(w, "e", modules[i]);
        assert_non_null(module);
        assert_int_equal(module->auth, NV_AUTH_NONE);
        assert_true(nv_span_eq_str(module->managed_by, "iotEdge"));
        assert_int_equal(module->primary_key.len, 0);
        assert_false(nv_span_eq(module->generation_id, edge->generation_id));
        /* a service may not touch them, the device itself may give them keys */
        nv_registry_request change = rig_update(module);
        assert_int_equal(rig_ask(w, &change), NV_HUB_ERROR_ArgumentInvalid);
        change = rig_update(module);
        change.own_device = true;
        nv_identity *keyed = rig_put(w, change, NV_HUB_ERROR_NONE);
        assert_int_equal(keyed->auth, NV_AUTH_SAS);
        assert_int_equal(keyed->primary_key.len, 32);
        assert_true(nv_span_eq_str(keyed->managed_by, "iotEdge"));
        change = rig_update(keyed);
        change.own_device = true;
        change.verb = NV_REGISTRY_DELETE;
        assert_int_equal(rig_ask(w, &change), NV_HUB_ERROR_ArgumentInvalid);
        nv_identity_unref(module);
        nv_identity_unref(keyed);
    }
    /* its scope is echoed, or the update fails */
    nv_registry_request echo = rig_update(edge);
    echo.spec.parent_scopes = S("[]");
    nv_identity *detached = rig_put(w, echo, NV_HUB_ERROR_NONE);
    assert_int_equal(detached->parent_scopes.len, 0);
    nv_registry_request silent = rig_update(detached);
    silent.spec.device_scope = NV_SPAN_EMPTY;
    assert_int_equal(rig_ask(w, &silent), NV_HUB_ERROR_ArgumentInvalid);
    assert_string_equal(silent.detail, "Device scope is immutable");
    nv_registry_request own = rig_update(detached);
    char parents[300];
    (void)snprintf(parents, sizeof(parents), "[\"%s\"]", scope);
    own.spec.parent_scopes = S(parents);
    assert_int_equal(rig_ask(w, &own), NV_HUB_ERROR_ArgumentInvalid);
    /* edge to leaf: no scope, no system modules */
    rig_told[0] = '\0';
    nv_registry_request leaf = rig_update(detached);
    leaf.spec.iot_edge = false;
    nv_identity *plain = rig_put(w, leaf, NV_HUB_ERROR_NONE);
    assert_true(plain->device_scope.len == 0 && plain->parent_scopes.len == 0);
    assert_string_equal(rig_told, "e/+ e/$edgeAgent- e/$edgeHub- ");
    assert_null(rig_get(w, "e", "$edgeHub"));
    /* and back */
    nv_registry_request back = rig_update(plain);
    back.spec.iot_edge = true;
    nv_identity *again = rig_put(w, back, NV_HUB_ERROR_NONE);
    assert_true(nv_span_eq_str(again->device_scope, scope));
    nv_identity *agent = rig_get(w, "e", "$edgeAgent");
    assert_non_null(agent);
    nv_identity *const all[] = {edge, detached, plain, again, agent};
    for (size_t i = 0; i < NV_COUNT_OF(all); i++) {
        nv_identity_unref(all[i]);
    }
}

static void a_leaf_names_its_parent_by_scope(void **state)
{
    rig *w = *state;
    nv_registry_request request = rig_request(NV_REGISTRY_PUT, "l", "");
    request.spec.device_scope = S("ms-azure-iot-edge://e-5-6");
    request.spec.parent_scopes = S("garbage, which is ignored");
    nv_identity *leaf = rig_put(w, request, NV_HUB_ERROR_NONE);
    assert_true(nv_span_eq_str(leaf->parent_scopes, "[\"ms-azure-iot-edge://e-5-6\"]"));
    nv_registry_request detach = rig_update(leaf);
    detach.spec.device_scope = NV_SPAN_EMPTY;
    nv_identity *free_leaf = rig_put(w, detach, NV_HUB_ERROR_NONE);
    assert_true(free_leaf->device_scope.len == 0 && free_leaf->parent_scopes.len == 0);
    nv_identity_unref(leaf);
    nv_identity_unref(free_leaf);
}

/* ---- limits ---- */

static void limits_hold(void **state)
{
    rig *w = *state;
    w->hub.limits.modules_per_device = 3;
    w->hub.limits.devices = 6;
    nv_identity_unref(rig_create(w, "d", ""));
    const char *const modules[] = {"1", "2", "3"};
    for (size_t i = 0; i < NV_COUNT_OF(modules); i++) {
        nv_identity_unref(rig_create(w, "d", modules[i]));
    }
    assert_int_equal(rig_do(rig_request(NV_REGISTRY_PUT, "d", "4"), w), NV_HUB_ERROR_TooManyModulesOnDevice);
    nv_registry_request edge = rig_request(NV_REGISTRY_PUT, "e", "");
    edge.spec.iot_edge = true;
    assert_int_equal(rig_do(edge, w), NV_HUB_ERROR_TooManyDevices); /* it would be three */
    nv_identity_unref(rig_create(w, "e", ""));
    nv_identity_unref(rig_create(w, "f", ""));
    assert_int_equal(rig_do(rig_request(NV_REGISTRY_PUT, "g", ""), w), NV_HUB_ERROR_TooManyDevices);
    assert_int_equal(rig_do(rig_request(NV_REGISTRY_PUT, "f", "m"), w), NV_HUB_ERROR_TooManyDevices);
    nv_registry_request request = rig_request(NV_REGISTRY_UPSERT, "f", "");
    assert_int_equal(rig_do(request, w), NV_HUB_ERROR_NONE); /* it is there already */
    request = rig_request(NV_REGISTRY_DELETE, "d", "");
    request.precondition = NV_IF_ANY;
    assert_int_equal(rig_do(request, w), NV_HUB_ERROR_NONE); /* four less */
    nv_identity_unref(rig_create(w, "g", ""));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
