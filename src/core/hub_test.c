/* Names of the hub, refusals, policies' tokens, presence: the parts of the core that need no session. */
#include "base/alloc.h"
#include "base/diag.h"
#include "codec/base64.h"
#include "codec/sas.h"
#include "core/event_hub.h"
#include "core/method.h"
#include "support/fake_core.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_aliases(void **state)
{
    (void)state;
    static const struct {
        const char *host;
        bool is;
    } rows[] = {
        {FAKE_HUB_NAME, true},
        {"HUB.EXAMPLE.NET", true},
        {FAKE_HUB_NAME ":8883", true},
        {FAKE_ALIAS, true},
        {FAKE_ALIAS ":1", true},
        {"", false},
        {":8883", false},
        {"hub", false},
        {"hub.example.net.", false},
        {"xhub.example.net", false},
        {"[::1]", false},
        {"::1", false},
        {"[", false},
        {"hub.example.net:1:2", false},
    };
    fake_core core;
    fake_core_init(&core, 1, &nv_limits_open);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        if (nv_hub_is_alias(core.hub, nv_span_str(rows[i].host)) != rows[i].is) {
            fail_msg("\"%s\"", rows[i].host);
        }
    }
    fake_core_deinit(&core);
}

static size_t refusal_lines;
static size_t unsaid;

static void count_lines(void *arg, nv_level level, const char *line, size_t len)
{
    (void)arg;
    (void)level;
    char text[1024];
    (void)snprintf(text, sizeof(text), "%.*s", (int)len, line);
    const char *more = strstr(text, " more refusals were not written");
    refusal_lines += more == NULL;
    if (more) {
        const char *number = strstr(text, "hub: ");
        unsaid += number ? strtoul(number + 5, NULL, 10) : 0;
    }
}

static void test_refusals_do_not_fill_the_disk(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 1, &nv_limits_open);
    nv_peer peer = {.address = nv_span_str("192.0.2.1:1")};
    nv_diag_set_sink(count_lines, NULL);
    nv_diag_setup(NV_LEVEL_WARN, false, 2);
    for (size_t i = 0; i < 3 * NV_HUB_REFUSALS_PER_SECOND; i++) {
        nv_hub_refuse(core.hub, "mqtt", &peer, nv_span_str("d"), NV_SPAN_EMPTY, NV_REFUSAL_MALFORMED, "");
    }
    assert_int_equal(refusal_lines, NV_HUB_REFUSALS_PER_SECOND);
    assert_int_equal(unsaid, 0);
    nv_refusal_entry entry;
    assert_int_equal(nv_refusals_list(core.hub->refusals, nv_span_str("d"), NV_SPAN_EMPTY, &entry, 1), 1);
    assert_int_equal(entry.count, 3 * NV_HUB_REFUSALS_PER_SECOND); /* for whom it concerns nothing is lost */
    nv_manual_clock_advance(&core.clock, NV_US_PER_S);
    nv_hub_refuse(core.hub, "mqtt", &peer, nv_span_str("d"), NV_SPAN_EMPTY, NV_REFUSAL_MALFORMED, "");
    assert_int_equal(refusal_lines, NV_HUB_REFUSALS_PER_SECOND + 1);
    assert_int_equal(unsaid, 2 * NV_HUB_REFUSALS_PER_SECOND);
    nv_diag_set_sink(NULL, NULL);
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    fake_core_deinit(&core);
}

static void test_shards_cover_the_loops(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    size_t on_loop[2] = {0};
    for (int i = 0; i < 1000; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "d%d", i);
        nv_hub_loop *loop = nv_hub_shard_loop(core.hub, nv_span_str(id));
        assert_ptr_equal(loop, nv_hub_shard_loop(core.hub, nv_span_str(id)));
        on_loop[loop->index]++;
    }
    assert_true(on_loop[0] > 400 && on_loop[1] > 400);
    fake_core_deinit(&core);
}

/* ---- refusals ------------------------------------------------------------------------------------------------- */

static void note(nv_refusals *refusals, const char *device, nv_refusal why, int64_t wall_us)
{
    nv_refusal_entry entry = {.wall_us = wall_us, .refusal = why, .protocol = "mqtt"};
    (void)snprintf(entry.detail, sizeof(entry.detail), "at %lld", (long long)wall_us);
    nv_refusals_note(refusals, nv_span_str(device), NV_SPAN_EMPTY, &entry);
}

static size_t list(nv_refusals *refusals, const char *device, nv_refusal_entry *out, size_t max)
{
    return nv_refusals_list(refusals, nv_span_str(device), NV_SPAN_EMPTY, out, max);
}

static void test_refusals_of_one(void **state)
{
    (void)state;
    nv_refusals *refusals = nv_refusals_new(4, 3, 1);
    nv_refusal_entry out[8];
    assert_int_equal(list(refusals, "d", out, 8), 0);
    note(refusals, "d", NV_REFUSAL_TOKEN_EXPIRED, 1);
    note(refusals, "d", NV_REFUSAL_TOKEN_EXPIRED, 2);
    assert_int_equal(list(refusals, "d", out, 8), 1);
    assert_int_equal(out[0].count, 2);
    assert_int_equal(out[0].wall_us, 2);
    assert_string_equal(out[0].detail, "at 2");
    note(refusals, "d", NV_REFUSAL_DISABLED, 3);
    note(refusals, "d", NV_REFUSAL_TOKEN_EXPIRED, 4);
    note(refusals, "d", NV_REFUSAL_DISABLED, 5);
    note(refusals, "d", NV_REFUSAL_TOKEN_EXPIRED, 6);
    assert_int_equal(list(refusals, "d", out, 8), 3); /* the oldest two are gone */
    assert_int_equal(out[0].wall_us, 6);
    assert_int_equal(out[1].wall_us, 5);
    assert_int_equal(out[2].wall_us, 4);
    assert_int_equal(list(refusals, "d", out, 2), 2);
    assert_int_equal(out[1].wall_us, 5);
    nv_refusals_free(refusals);
}

static void test_refusals_of_many(void **state)
{
    (void)state;
    nv_refusals *refusals = nv_refusals_new(4, 3, 1);
    nv_refusal_entry out[8];
    static const char *const ids[] = {"a", "b", "c", "d"};
    for (size_t i = 0; i < 4; i++) {
        note(refusals, ids[i], NV_REFUSAL_DISABLED, (int64_t)i);
    }
    note(refusals, "a", NV_REFUSAL_DISABLED, 9); /* b is the oldest now */
    note(refusals, "e", NV_REFUSAL_DISABLED, 10);
    assert_int_equal(list(refusals, "b", out, 8), 0);
    assert_int_equal(list(refusals, "a", out, 8), 1);
    char huge[1000];
    memset(huge, 'x', sizeof(huge));
    nv_refusal_entry entry = {.refusal = NV_REFUSAL_UNKNOWN_DEVICE};
    nv_refusals_note(refusals, nv_span_of(huge, sizeof(huge)), nv_span_of(huge, sizeof(huge)), &entry);
    assert_int_equal(nv_refusals_list(refusals, nv_span_of(huge, sizeof(huge)), nv_span_of(huge, 500), out, 8), 1);
    nv_refusals_free(refusals);
    nv_refusals_free(NULL);
}

static void test_every_refusal_explains_itself(void **state)
{
    (void)state;
    for (int i = NV_REFUSAL_NONE + 1; i < NV_REFUSAL_COUNT; i++) {
        const nv_refusal_info *info = nv_refusal_info_of((nv_refusal)i);
        assert_true(strlen(info->name) > 0 && strlen(info->cause) > 0 && strlen(info->cure) > 0);
    }
}

/* ---- service tokens ------------------------------------------------------------------------------------------- */

static size_t service_token(char *out, size_t size, const char *resource, const char *policy, const nv_key *key,
                            int64_t ttl_s)
{
    nv_writer w = nv_writer_of(out, size);
    nv_sas_write(&w, nv_span_str(resource), FAKE_NOW_US / NV_US_PER_S + ttl_s, nv_span_str(policy),
                 nv_span_of(key->bytes, key->len));
    assert_int_equal(w.err, NV_OK);
    return nv_writer_len(&w);
}

static void test_service_tokens(void **state)
{
    (void)state;
    static const struct {
        const char *resource;
        const char *policy;
        bool wrong_key;
        int64_t ttl_s;
        const char *path;
        uint32_t rights;
        nv_refusal why;
    } rows[] = {
        {FAKE_HUB_NAME, "iothubowner", false, 60, "/devices/d1", NV_RIGHT_REGISTRY_READ, NV_REFUSAL_NONE},
        {FAKE_HUB_NAME, "iothubowner", false, 60, "", NV_RIGHT_REGISTRY_WRITE, NV_REFUSAL_NONE},
        {FAKE_ALIAS, "service", false, 60, "", NV_RIGHT_SERVICE_CONNECT, NV_REFUSAL_NONE},
        {FAKE_HUB_NAME, "service", false, 60, "", NV_RIGHT_REGISTRY_READ, NV_REFUSAL_POLICY_RIGHT},
        {FAKE_HUB_NAME, "nobody", false, 60, "", NV_RIGHT_SERVICE_CONNECT, NV_REFUSAL_POLICY_UNKNOWN},
        {FAKE_HUB_NAME, "", false, 60, "", NV_RIGHT_SERVICE_CONNECT, NV_REFUSAL_POLICY_RIGHT},
        {FAKE_HUB_NAME, "service", true, 60, "", NV_RIGHT_SERVICE_CONNECT, NV_REFUSAL_TOKEN_SIGNATURE},
        {FAKE_HUB_NAME, "service", false, -60, "", NV_RIGHT_SERVICE_CONNECT, NV_REFUSAL_TOKEN_EXPIRED},
        {"elsewhere", "service", false, 60, "", NV_RIGHT_SERVICE_CONNECT, NV_REFUSAL_HOST},
        {FAKE_HUB_NAME "/devices/d2", "iothubowner", false, 60, "/devices/d1", NV_RIGHT_REGISTRY_READ,
         NV_REFUSAL_TOKEN_AUDIENCE},
    };
    fake_core core;
    fake_core_init(&core, 1, &nv_limits_open);
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char token[600];
        char detail[NV_REFUSAL_DETAIL];
        nv_refusal why = NV_REFUSAL_COUNT;
        size_t len = service_token(token, sizeof(token), rows[i].resource, rows[i].policy,
                                   rows[i].wrong_key ? &fake_device_key : &fake_policy_key, rows[i].ttl_s);
        nv_err err =
            nv_auth_service(core.hub, nv_span_of(token, len), nv_span_str(rows[i].path), rows[i].rights, &why, detail);
        if (why != rows[i].why || err != (why == NV_REFUSAL_NONE ? NV_OK : NV_E_UNAUTHORIZED)) {
            fail_msg("row %zu: %s (%s)", i, nv_refusal_info_of(why)->name, detail);
        }
        assert_int_equal(nv_auth_token_is_policy(nv_span_of(token, len)), strlen(rows[i].policy) > 0);
    }
    nv_refusal why = NV_REFUSAL_NONE;
    char detail[NV_REFUSAL_DETAIL];
    assert_int_equal(nv_auth_service(core.hub, NV_SPAN_EMPTY, NV_SPAN_EMPTY, 0, &why, detail), NV_E_UNAUTHORIZED);
    assert_int_equal(why, NV_REFUSAL_NO_CREDENTIAL);
    assert_false(nv_auth_token_is_policy(nv_span_str("x")));
    fake_core_deinit(&core);
}

/* The UTF-8 bytes of a policy key's base64 text sign, too, where that is asked for. */
static void test_text_keys(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 1, &nv_limits_open);
    nv_key text = {.len = 0};
    nv_writer w = nv_writer_of(text.bytes, sizeof(text.bytes));
    nv_base64_encode(nv_span_of(fake_policy_key.bytes, fake_policy_key.len), &w);
    text.len = (uint8_t)nv_writer_len(&w);
    assert_int_equal(text.len, 44);
    for (int i = 0; i < 8; i++) {
        bool as_text = i & 1;
        bool allowed = i & 2;
        bool wrong = i & 4;
        char token[600];
        nv_key key = as_text ? text : fake_policy_key;
        key.bytes[0] = (uint8_t)(key.bytes[0] ^ (wrong ? 1 : 0));
        size_t len = service_token(token, sizeof(token), FAKE_HUB_NAME, "service", &key, 60);
        nv_auth_policy check = {.token = nv_span_of(token, len), .text_keys = allowed};
        nv_err err = nv_auth_check_policy(core.hub, &check);
        bool good = !wrong && (!as_text || allowed);
        assert_int_equal(err, good ? NV_OK : NV_E_UNAUTHORIZED);
        assert_int_equal(check.refusal, good ? NV_REFUSAL_NONE : NV_REFUSAL_TOKEN_SIGNATURE);
        assert_int_equal(check.granted, good ? NV_RIGHT_SERVICE_CONNECT : 0);
        if (good) {
            assert_int_equal(check.expires_wall_us, FAKE_NOW_US + 60 * NV_US_PER_S);
        }
    }
    fake_core_deinit(&core);
}

/* ---- presence -------------------------------------------------------------------------------------------------- */

typedef struct holder {
    nv_claim claim;
    int granted;
    int evicted;
    int done;
} holder;

static void on_granted(nv_claim *claim)
{
    nv_container_of(claim, holder, claim)->granted++;
}

static void on_evict(nv_claim *claim, nv_refusal why)
{
    (void)why;
    nv_container_of(claim, holder, claim)->evicted++;
}

static void on_done(nv_claim *claim)
{
    nv_container_of(claim, holder, claim)->done++;
}

static bool presence_told;

static void on_presence(nv_presence_request *request)
{
    (void)request;
    presence_told = true;
}

static nv_presence presence_of(fake_core *core, const char *device)
{
    nv_presence_request request = {.device_id = nv_span_str(device), .done = on_presence};
    presence_told = false;
    nv_presence_get(&core->hub->loops[0], &request);
    assert_false(presence_told);
    fake_core_run(core);
    assert_true(presence_told);
    return request.presence;
}

static void hold(fake_core *core, holder *h, nv_identity *identity, size_t loop)
{
    *h = (holder){.claim = {.identity = identity, .granted = on_granted, .evict = on_evict}};
    nv_claim_ask(&core->hub->loops[loop], &h->claim);
}

static void test_presence(void **state)
{
    (void)state;
    for (size_t loop = 0; loop < 2; loop++) {
        fake_core core;
        fake_core_init(&core, 2, &nv_limits_open);
        nv_identity *d = nv_identity_ref(fake_register(&core, "d", "", NULL));
        assert_false(presence_of(&core, "d").connected);
        holder h;
        hold(&core, &h, d, loop);
        fake_core_run(&core);
        assert_int_equal(h.granted, 1);
        nv_presence p = presence_of(&core, "d");
        assert_true(p.connected && p.connection_updated_us == FAKE_NOW_US && p.last_activity_us == FAKE_NOW_US);
        nv_manual_clock_advance(&core.clock, 5 * NV_US_PER_S);
        nv_claim_touch(&h.claim, nv_mono_us(&core.clock.clock));
        nv_manual_clock_advance(&core.clock, 2 * NV_US_PER_S);
        p = presence_of(&core, "d");
        assert_int_equal(p.last_activity_us, FAKE_NOW_US + 5 * NV_US_PER_S);
        assert_int_equal(p.connection_updated_us, FAKE_NOW_US);
        assert_int_equal(nv_devices_connected(core.hub), 1);
        nv_claim_release(&h.claim, on_done);
        fake_core_run(&core);
        assert_int_equal(h.done, 1);
        assert_int_equal(fake_state_seen(&core), 1);
        assert_int_equal(nv_devices_connected(core.hub), 0);
        nv_identity_unref(d);
        fake_core_deinit(&core);
    }
}

/* Three claims in a row: only the newest is granted, the others are told once, whatever their phase. */
static void test_newest_claim_wins(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    nv_identity *d = nv_identity_ref(fake_register(&core, "d", "", NULL));
    fake_core_run(&core);
    holder h[3];
    for (size_t i = 0; i < 3; i++) {
        hold(&core, &h[i], d, i % 2);
    }
    fake_core_run(&core);
    assert_int_equal(h[0].granted + h[1].granted + h[2].granted, 0); /* the first is opening, but was overtaken */
    assert_int_equal(h[0].evicted + h[1].evicted, 2);
    nv_claim_release(&h[0].claim, on_done);
    nv_claim_release(&h[1].claim, on_done);
    fake_core_run(&core);
    assert_int_equal(h[0].done + h[1].done, 2);
    assert_int_equal(h[2].granted, 1);
    assert_int_equal(h[2].evicted, 0);
    nv_claim_release(&h[2].claim, on_done);
    fake_core_run(&core);
    assert_int_equal(h[2].done, 1);
    nv_identity_unref(d);
    fake_core_deinit(&core);
}

/* Released before the grant: granted() never fires. */
static void test_release_before_grant(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    nv_identity *d = nv_identity_ref(fake_register(&core, "d", "", NULL));
    for (size_t loop = 0; loop < 2; loop++) {
        holder h;
        hold(&core, &h, d, loop);
        nv_claim_release(&h.claim, on_done);
        fake_core_run(&core);
        assert_int_equal(h.granted, 0);
        assert_int_equal(h.done, 1);
        assert_int_equal(nv_devices_connected(core.hub), 0);
    }
    nv_identity_unref(d);
    fake_core_deinit(&core);
}

/* ---- the end --------------------------------------------------------------------------------------------------- */

typedef struct settler {
    nv_hub *hub;
    _Atomic bool settled;
} settler;

static void *settle(void *arg)
{
    settler *self = arg;
    nv_hub_settle(self->hub);
    atomic_store(&self->settled, true);
    return NULL;
}

static void method_done(nv_method_call *call)
{
    *(int *)call->arg += 1;
}

/* What the loops kept for leisure is stored, who waits is answered, and from then on nothing is asked of the stores. */
static void test_settle(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    nv_identity *d = nv_identity_ref(fake_register(&core, "d", "", NULL));
    char other[2] = "e"; /* lives on the other loop */
    while (nv_hub_shard_loop(core.hub, nv_span_str(other)) == nv_hub_shard_loop(core.hub, d->device_id)) {
        other[0]++;
    }
    nv_identity *e = nv_identity_ref(fake_register(&core, other, "", NULL));
    holder h[3];
    hold(&core, &h[0], d, 0);
    hold(&core, &h[1], e, 0);
    fake_core_run(&core);
    nv_claim_release(&h[0].claim, on_done); /* the first is saved at once, the next within the second is not */
    nv_claim_release(&h[1].claim, on_done);
    fake_core_run(&core);
    assert_int_equal(fake_state_seen(&core), 2);
    hold(&core, &h[0], d, 0);
    hold(&core, &h[1], e, 1);
    fake_core_run(&core);
    nv_claim_release(&h[0].claim, on_done);
    nv_claim_release(&h[1].claim, on_done);
    fake_core_run(&core);
    assert_int_equal(fake_state_seen(&core), 2);
    int answered = 0;
    nv_method_call call = {.device_id = d->device_id,
                           .name = nv_span_str("x"),
                           .response_timeout_us = 30 * NV_US_PER_S,
                           .connect_timeout_us = 30 * NV_US_PER_S,
                           .done = method_done,
                           .arg = &answered};
    nv_method_invoke(&core.hub->loops[0], &call);
    fake_core_run(&core);
    assert_int_equal(answered, 0);
    nv_hub_stop(core.hub);
    settler s = {.hub = core.hub};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, settle, &s), 0);
    while (!atomic_load(&s.settled)) {
        fake_core_run(&core);
    }
    pthread_join(thread, NULL);
    assert_int_equal(answered, 1);
    assert_int_equal(call.error, NV_HUB_ERROR_ServiceUnavailable);
    assert_int_equal(fake_state_seen(&core), 4);
    hold(&core, &h[2], d, 0); /* none should come; if one does, nothing is saved of it */
    fake_core_run(&core);
    nv_claim_release(&h[2].claim, on_done);
    fake_core_run(&core);
    assert_int_equal(fake_state_seen(&core), 4);
    nv_identity_unref(d);
    nv_identity_unref(e);
    fake_core_deinit(&core);
}

/* ---- the core's timers on its loops ---- */

typedef struct bell {
    nv_timer timer;
    nv_hub_loop *loop;
    int64_t rang_us;
    int rings;
} bell;

static void ring(nv_timer *timer, int64_t now_us)
{
    bell *b = nv_container_of(timer, bell, timer);
    b->rings++;
    b->rang_us = now_us;
    if (b->rings < 3) {
        nv_timers_set(&b->loop->timers, timer, now_us + 60 * NV_US_PER_S);
    }
}

/** Who drives a loop learns when it is due, and 48 hours pass in a moment: each timer at its own time. */
static void test_ticks(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    bell bells[2] = {{.loop = &core.hub->loops[0]}, {.loop = &core.hub->loops[1]}};
    int64_t start_us = nv_mono_us(&core.clock.clock);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(nv_hub_loop_due(bells[i].loop), INT64_MAX);
        nv_timer_init(&bells[i].timer, ring);
        nv_timers_set(&bells[i].loop->timers, &bells[i].timer, start_us + (int64_t)(i + 1) * 3600 * NV_US_PER_S);
        assert_int_equal(nv_hub_loop_due(bells[i].loop), bells[i].timer.due_us);
    }
    nv_hub_loop_tick(bells[0].loop, start_us + 3600 * NV_US_PER_S - 1);
    assert_int_equal(bells[0].rings, 0);
    int64_t end_us = start_us + INT64_C(48) * 3600 * NV_US_PER_S;
    for (size_t i = 0; i < 2; i++) {
        int64_t due_us = 0;
        while ((due_us = nv_hub_loop_due(bells[i].loop)) <= end_us) {
            nv_hub_loop_tick(bells[i].loop, due_us);
        }
        assert_int_equal(bells[i].rings, 3);
        assert_int_equal(bells[i].rang_us, start_us + ((int64_t)(i + 1) * 3600 + 120) * NV_US_PER_S);
        assert_int_equal(nv_hub_loop_due(bells[i].loop), INT64_MAX);
    }
    fake_core_deinit(&core);
}

/* ---- consumer groups that cannot be stored ---------------------------------------------------------------------- */

static void note_change(nv_group_change *change)
{
    *(bool *)change->arg = true;
}

static nv_hub_error change_group(fake_core *core, bool create)
{
    bool done = false;
    nv_group_change change = {.name = nv_span_str("web"), .create = create, .done = note_change, .arg = &done};
    nv_group_change_do(&core->hub->loops[1], &change);
    fake_core_run(core);
    assert_true(done);
    return change.error;
}

/* Who is refused because of it hears what is wrong and what helps, and only then. */
static void test_storage_reasons(void **state)
{
    (void)state;
    static const struct {
        nv_log_health log;
        nv_err state;
        nv_hub_error error;
        const char *detail;
        const char *sentence;
    } rows[] = {
        {NV_LOG_OK, NV_OK, NV_HUB_ERROR_ServiceUnavailable, NULL, "The hub cannot store now"},
        {NV_LOG_FULL, NV_OK, NV_HUB_ERROR_ServiceUnavailable, "", "The hub cannot store now: the fake log fails"},
        {NV_LOG_FAILED, NV_E_IO, NV_HUB_ERROR_ServiceUnavailable, NULL, "The hub cannot store now: the fake log fails"},
        {NV_LOG_OK, NV_E_NO_SPACE, NV_HUB_ERROR_ServiceUnavailable, "",
         "The hub cannot store now: the state store: no space left on the device; free space on the volume"},
        {NV_LOG_OK, NV_E_IO, NV_HUB_ERROR_ServiceUnavailable, "",
         "The hub cannot store now: the state store: input/output error; check the disk and the kernel's messages; "
         "retried with each change"},
        {NV_LOG_FULL, NV_OK, NV_HUB_ERROR_ServiceUnavailable, "The hub is stopping", "The hub is stopping"},
        {NV_LOG_FULL, NV_E_IO, NV_HUB_ERROR_ThrottlingException, "", "Too many requests"},
        {NV_LOG_FULL, NV_OK, NV_HUB_ERROR_DeviceNotFound, NULL, ""},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        fake_core core;
        char scratch[NV_HUB_SENTENCE];
        fake_core_init(&core, 1, &nv_limits_open);
        fake_log_set_health(&core, rows[i].log);
        fake_state_set_status(&core, rows[i].state);
        assert_string_equal(nv_hub_error_sentence(core.hub, rows[i].error, rows[i].detail, scratch), rows[i].sentence);
        fake_state_set_status(&core, NV_OK);
        fake_core_deinit(&core);
    }
}

/* What a sender is, once: a model id that is too long costs it nothing else. */
static void test_sender_stamps(void **state)
{
    (void)state;
    static char long_text[70000];
    static const struct {
        size_t model_len;
        bool kept;
    } rows[] = {{0, true}, {1, true}, {300, true}, {65000, true}, {65530, false}, {65536, false}, {70000, false}};
    nv_identity who = {.device_id = NV_SPAN_LIT("d1"),
                       .module_id = NV_SPAN_LIT("m1"),
                       .generation_id = NV_SPAN_LIT("638000000000000000")};
    memset(long_text, 'x', sizeof(long_text));
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_span model_id = nv_span_of(long_text, rows[i].model_len);
        size_t len = 0;
        uint8_t *bytes = nv_telemetry_stamp_new(&who, model_id, NV_AUTH_SCOPE_MODULE, NV_AUTH_TYPE_X509, &len);
        nv_stamp stamp;
        assert_int_equal(nv_stamp_decode(nv_span_of(bytes, len), &stamp), NV_OK);
        assert_true(nv_span_eq(stamp.device_id, who.device_id));
        assert_true(nv_span_eq(stamp.module_id, who.module_id));
        assert_true(nv_span_eq(stamp.generation_id, who.generation_id));
        assert_int_equal(stamp.scope, NV_AUTH_SCOPE_MODULE);
        assert_int_equal(stamp.type, NV_AUTH_TYPE_X509);
        assert_true(nv_span_eq(stamp.model_id, rows[i].kept ? model_id : NV_SPAN_EMPTY));
        free(bytes);
    }
}

static void test_groups_follow_the_store(void **state)
{
    (void)state;
    fake_core core;
    fake_core_init(&core, 2, &nv_limits_open);
    fake_state_set_status(&core, NV_E_NO_SPACE);
    assert_int_equal(change_group(&core, true), NV_HUB_ERROR_ServiceUnavailable);
    assert_false(nv_group_exists(core.hub, nv_span_str("web")));
    fake_state_set_status(&core, NV_OK);
    assert_int_equal(change_group(&core, true), NV_HUB_ERROR_NONE);
    assert_true(nv_group_exists(core.hub, nv_span_str("web")));
    fake_state_set_status(&core, NV_E_IO);
    assert_int_equal(change_group(&core, false), NV_HUB_ERROR_ServiceUnavailable);
    assert_true(nv_group_exists(core.hub, nv_span_str("web")));
    fake_state_set_status(&core, NV_OK);
    assert_int_equal(change_group(&core, false), NV_HUB_ERROR_NONE);
    assert_false(nv_group_exists(core.hub, nv_span_str("web")));
    fake_core_deinit(&core);
}

int main(void)
{
    nv_diag_setup(NV_LEVEL_ERROR, false, 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_aliases),
        cmocka_unit_test(test_refusals_do_not_fill_the_disk),
        cmocka_unit_test(test_shards_cover_the_loops),
        cmocka_unit_test(test_refusals_of_one),
        cmocka_unit_test(test_refusals_of_many),
        cmocka_unit_test(test_every_refusal_explains_itself),
        cmocka_unit_test(test_service_tokens),
        cmocka_unit_test(test_text_keys),
        cmocka_unit_test(test_presence),
        cmocka_unit_test(test_newest_claim_wins),
        cmocka_unit_test(test_release_before_grant),
        cmocka_unit_test(test_settle),
        cmocka_unit_test(test_ticks),
        cmocka_unit_test(test_groups_follow_the_store),
        cmocka_unit_test(test_storage_reasons),
        cmocka_unit_test(test_sender_stamps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
