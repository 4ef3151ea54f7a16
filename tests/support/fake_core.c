#include "support/fake_core.h"

#include "base/alloc.h"
#include "base/list.h"
#include "base/map.h"
#include "store/state_groups.h"
#include "support/fake_cloud.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

static void *copy_bytes(nv_span bytes)
{
    uint8_t *copy = nv_malloc(bytes.len + 1);
    if (bytes.len > 0) {
        memcpy(copy, bytes.ptr, bytes.len);
    }
    copy[bytes.len] = 0;
    return copy;
}

static nv_span own(nv_span bytes)
{
    return nv_span_of(copy_bytes(bytes), bytes.len);
}

static void disown(nv_span bytes)
{
    free((void *)(size_t)bytes.ptr);
}

/* ---- the log ------------------------------------------------------------------------------------------------- */

struct nv_log_batch {
    nv_list link;
    nv_task task;
    nv_log *log;
    nv_exec *exec;
    nv_log_done done;
    void *arg;
    fake_record *records;
    uint32_t count;
    uint32_t kept;
    uint32_t capacity;
    nv_err status;
    bool submitted;
};

struct nv_log {
    fake_log_mode mode;
    nv_err submit_status;
    nv_err store_status;
    nv_log_health health;
    uint32_t batch_records;
    bool discard;
    nv_list held;
    fake_record *records;
    size_t count;
    size_t capacity;
};

uint32_t nv_log_partitions(const nv_log *log)
{
    (void)log;
    return 4;
}

uint32_t nv_log_partition_of(const nv_log *log, nv_span device_id)
{
    (void)log;
    return device_id.len > 0 ? device_id.ptr[device_id.len - 1] % 4u : 0;
}

void nv_log_get_status(nv_log *log, nv_log_status *out)
{
    *out = (nv_log_status){.health = log->health, .reason = "the fake log fails", .mode = "fake"};
}

nv_log_batch *nv_log_batch_new(nv_log *log, nv_exec *exec, nv_log_done done, void *arg)
{
    nv_log_batch *batch = nv_calloc(1, sizeof(*batch));
    batch->log = log;
    batch->exec = exec;
    batch->done = done;
    batch->arg = arg;
    nv_list_init(&batch->link);
    return batch;
}

static void record_free(fake_record *record)
{
    disown(record->stamp);
    disown(record->properties);
    disown(record->body);
}

void nv_log_batch_clear(nv_log_batch *batch)
{
    assert(!batch->submitted);
    for (uint32_t i = 0; i < batch->kept; i++) {
        record_free(&batch->records[i]);
    }
    batch->count = batch->kept = 0;
}

void nv_log_batch_free(nv_log_batch *batch)
{
    if (batch) {
        batch->submitted = false;
        nv_log_batch_clear(batch);
        free(batch->records);
        free(batch);
    }
}

nv_err nv_log_batch_add(nv_log_batch *batch, uint32_t partition, const nv_log_stamp *stamp, nv_source source,
                        nv_body_kind body_kind, nv_span properties, nv_span body)
{
    assert(!batch->submitted && source == NV_SOURCE_TELEMETRY && stamp->id != 0);
    if (batch->count >= batch->log->batch_records) {
        return NV_E_AGAIN;
    }
    batch->count++;
    if (batch->log->discard) {
        return NV_OK;
    }
    if (batch->kept == batch->capacity) {
        batch->capacity = batch->capacity ? batch->capacity * 2 : 16;
        batch->records = nv_realloc(batch->records, batch->capacity * sizeof(*batch->records));
    }
    batch->records[batch->kept++] = (fake_record){partition, own(stamp->bytes), own(properties), own(body), body_kind};
    return NV_OK;
}

uint32_t nv_log_batch_count(const nv_log_batch *batch)
{
    return batch->count;
}

size_t nv_log_batch_bytes(const nv_log_batch *batch)
{
    return batch->count;
}

void nv_log_batch_set_outbox_row(nv_log_batch *batch, uint64_t row)
{
    (void)batch;
    (void)row;
}

static void batch_done(nv_task *task)
{
    nv_log_batch *batch = nv_container_of(task, nv_log_batch, task);
    batch->submitted = false;
    batch->done(batch, batch->status, batch->arg);
}

static void keep_records(nv_log *log, nv_log_batch *batch)
{
    for (uint32_t i = 0; i < batch->kept; i++) {
        if (log->count == log->capacity) {
            log->capacity = log->capacity ? log->capacity * 2 : 64;
            log->records = nv_realloc(log->records, log->capacity * sizeof(*log->records));
        }
        log->records[log->count++] = batch->records[i];
    }
    batch->kept = 0;
}

static void complete(nv_log *log, nv_log_batch *batch, nv_err status)
{
    nv_list_remove(&batch->link);
    batch->status = status;
    if (status == NV_OK) {
        keep_records(log, batch);
    }
    batch->task.run = batch_done;
    nv_post(batch->exec, &batch->task);
}

nv_err nv_log_submit(nv_log_batch *batch)
{
    nv_log *log = batch->log;
    assert(!batch->submitted);
    if (log->submit_status != NV_OK) {
        return log->submit_status;
    }
    batch->submitted = true;
    nv_list_push_back(&log->held, &batch->link);
    if (log->mode == FAKE_LOG_AUTO) {
        complete(log, batch, log->store_status);
    }
    return NV_OK;
}

void fake_log_set_mode(fake_core *core, fake_log_mode mode)
{
    core->log->mode = mode;
}

void fake_log_set_submit_status(fake_core *core, nv_err status)
{
    core->log->submit_status = status;
}

void fake_log_set_store_status(fake_core *core, nv_err status)
{
    core->log->store_status = status;
}

void fake_log_set_health(fake_core *core, nv_log_health health)
{
    core->log->health = health;
}

void fake_log_set_batch_records(fake_core *core, uint32_t records)
{
    core->log->batch_records = records;
}

void fake_log_set_discard(fake_core *core, bool discard)
{
    core->log->discard = discard;
}

bool fake_log_complete(fake_core *core, nv_err status)
{
    if (nv_list_empty(&core->log->held)) {
        return false;
    }
    complete(core->log, nv_container_of(core->log->held.next, nv_log_batch, link), status);
    return true;
}

size_t fake_log_held(const fake_core *core)
{
    size_t n = 0;
    for (const nv_list *node = core->log->held.next; node != &core->log->held; node = node->next) {
        n++;
    }
    return n;
}

size_t fake_log_count(const fake_core *core)
{
    return core->log->count;
}

const fake_record *fake_log_at(const fake_core *core, size_t index)
{
    assert(index < core->log->count);
    return &core->log->records[index];
}

/* ---- the registry -------------------------------------------------------------------------------------------- */

struct nv_registry {
    nv_map identities; /* key -> fake_row */
    nv_err mode;
    size_t seen;
};

typedef struct fake_row {
    nv_identity *identity;
    size_t key_len;
    char key[];
} fake_row;

nv_registry *nv_registry_new(size_t cache_bytes, uint64_t seed)
{
    (void)cache_bytes;
    nv_registry *registry = nv_calloc(1, sizeof(*registry));
    nv_map_init(&registry->identities, seed);
    return registry;
}

void nv_registry_free(nv_registry *registry)
{
    size_t pos = 0;
    for (fake_row *row = nv_map_next(&registry->identities, &pos); row;
         row = nv_map_next(&registry->identities, &pos)) {
        nv_identity_unref(row->identity);
        free(row);
    }
    nv_map_deinit(&registry->identities);
    free(registry);
}

static fake_row *row_of(nv_registry *registry, nv_span device_id, nv_span module_id)
{
    char key[2 * NV_ID_MAX + 2];
    size_t len = nv_identity_key(device_id, module_id, key);
    return nv_map_get(&registry->identities, nv_span_of(key, len));
}

static void resolve(nv_registry *registry, nv_registry_find *find)
{
    const fake_row *row = row_of(registry, find->device_id, find->module_id);
    find->status = row ? NV_OK : NV_E_NOT_FOUND;
    find->identity = row ? nv_identity_ref(row->identity) : NULL;
}

typedef struct fake_lookup {
    nv_task task;
    nv_registry *registry;
    nv_registry_find *find;
    nv_err status;
} fake_lookup;

static void lookup_later(nv_task *task)
{
    fake_lookup *lookup = nv_container_of(task, fake_lookup, task);
    nv_registry_find *find = lookup->find;
    if (lookup->status == NV_E_MORE) {
        resolve(lookup->registry, find);
    } else {
        find->status = lookup->status;
        find->identity = NULL;
    }
    free(lookup);
    find->done(find);
}

nv_err nv_registry_lookup(nv_hub_loop *loop, nv_registry_find *find)
{
    nv_registry *registry = loop->hub->registry;
    if (registry->mode == NV_E_AGAIN) {
        return NV_E_AGAIN;
    }
    if (registry->mode == NV_OK) {
        resolve(registry, find);
        return find->status;
    }
    fake_lookup *lookup = nv_calloc(1, sizeof(*lookup));
    *lookup = (fake_lookup){{NULL, lookup_later}, registry, find, registry->mode};
    nv_post(loop->exec, &lookup->task);
    return NV_E_MORE;
}

typedef struct fake_seen {
    nv_task task;
    void (*done)(void *arg, nv_err status);
    void *arg;
} fake_seen;

static void seen_later(nv_task *task)
{
    fake_seen *seen = nv_container_of(task, fake_seen, task);
    seen->done(seen->arg, NV_OK);
    free(seen);
}

void nv_registry_save_seen(nv_hub_loop *loop, const nv_registry_seen *seen, size_t count,
                           void (*done)(void *arg, nv_err status), void *arg)
{
    loop->hub->registry->seen += count;
    for (size_t i = 0; i < count; i++) {
        nv_identity_unref(seen[i].identity);
    }
    fake_seen *later = nv_calloc(1, sizeof(*later));
    *later = (fake_seen){{NULL, seen_later}, done, arg};
    nv_post(loop->exec, &later->task);
}

void fake_registry_set_mode(fake_core *core, nv_err mode)
{
    core->hub->registry->mode = mode;
}

size_t fake_state_seen(const fake_core *core)
{
    return core->hub->registry->seen;
}

nv_identity *fake_register(fake_core *core, const char *device, const char *module, void (*set)(nv_identity *identity))
{
    nv_identity draft = {.device_id = nv_span_str(device),
                         .module_id = nv_span_str(module),
                         .generation_id = nv_span_str("638000000000000000"),
                         .enabled = true,
                         .primary_key = fake_device_key,
                         .secondary_key = fake_secondary_key};
    if (set) {
        set(&draft);
    }
    nv_registry *registry = core->hub->registry;
    fake_row *row = row_of(registry, draft.device_id, draft.module_id);
    if (!row) {
        char key[2 * NV_ID_MAX + 2];
        size_t len = nv_identity_key(draft.device_id, draft.module_id, key);
        row = nv_calloc(1, sizeof(*row) + len);
        row->key_len = len;
        memcpy(row->key, key, len);
        nv_map_put(&registry->identities, nv_span_of(row->key, len), row);
    }
    nv_identity_unref(row->identity);
    row->identity = nv_identity_new(&draft);
    nv_devices_changed(core->hub, row->identity->device_id, row->identity->module_id, row->identity);
    return row->identity;
}

void fake_unregister(fake_core *core, const char *device, const char *module)
{
    fake_row *row = row_of(core->hub->registry, nv_span_str(device), nv_span_str(module));
    assert(row);
    nv_map_remove(&core->hub->registry->identities, nv_span_of(row->key, row->key_len));
    nv_devices_changed(core->hub, nv_span_str(device), nv_span_str(module), NULL);
    nv_identity_unref(row->identity);
    free(row);
}

/* ---- policies ------------------------------------------------------------------------------------------------- */

struct nv_policies {
    nv_policy items[3];
};

nv_err nv_policies_load(nv_policies **out, struct nv_state *state, nv_rng *rng, bool known_keys)
{
    (void)state;
    (void)rng;
    (void)known_keys;
    static const nv_policy items[3] = {
        {.name = "iothubowner", .rights = 15}, {.name = "device", .rights = 8}, {.name = "service", .rights = 4}};
    *out = nv_calloc(1, sizeof(**out));
    for (size_t i = 0; i < 3; i++) {
        (*out)->items[i] = items[i];
        (*out)->items[i].primary_key = (*out)->items[i].secondary_key = fake_policy_key;
    }
    return NV_OK;
}

void nv_policies_free(nv_policies *policies)
{
    free(policies);
}

const nv_policy *nv_policies_find(const nv_policies *policies, nv_span name)
{
    for (size_t i = 0; i < 3; i++) {
        if (nv_span_eq_str(name, policies->items[i].name)) {
            return &policies->items[i];
        }
    }
    return NULL;
}

/* ---- stored sessions ------------------------------------------------------------------------------------------ */

typedef struct fake_session {
    uint8_t blob[NV_STATE_SESSION_MAX];
    size_t len;
    size_t key_len;
    char key[];
} fake_session;

#define FAKE_GROUPS 8u

struct nv_state {
    size_t loads;
    nv_map sessions;
    nv_err status;
    bool hold;
    nv_state_op *held; /* newest first */
    struct {
        char name[NV_STATE_GROUP_NAME_MAX];
        size_t len;
    } groups[FAKE_GROUPS]; /* len 0: none */
};

static nv_span session_key(const nv_state_session *session, char *key)
{
    return nv_span_of(key, nv_identity_key(session->device_id, session->module_id, key));
}

static void op_done(nv_task *task)
{
    nv_state_op *op = nv_container_of(task, nv_state_op, _task);
    op->done(op);
}

static void finish_op(nv_state_op *op, nv_err status)
{
    op->status = status;
    op->_task.run = op_done;
    nv_post(op->exec, &op->_task);
}

nv_err nv_state_session_load(nv_state *state, nv_state_session *session)
{
    if (state->status == NV_E_AGAIN) {
        return NV_E_AGAIN;
    }
    state->loads++;
    char key[2 * NV_ID_MAX + 2];
    nv_span k = session_key(session, key);
    const fake_session *found = nv_map_get(&state->sessions, k);
    session->present = found != NULL;
    if (found) {
        session->len = found->len;
        memcpy(session->blob, found->blob, found->len);
        if (session->clear) {
            free(nv_map_remove(&state->sessions, k));
        }
    }
    finish_op(&session->op, state->status);
    return NV_OK;
}

nv_err nv_state_session_store(nv_state *state, nv_state_session *session)
{
    if (state->status == NV_E_AGAIN) {
        return NV_E_AGAIN;
    }
    char key[2 * NV_ID_MAX + 2];
    nv_span k = session_key(session, key);
    fake_session *found = nv_map_get(&state->sessions, k);
    if (!found) {
        found = nv_calloc(1, sizeof(*found) + k.len);
        found->key_len = k.len;
        memcpy(found->key, key, k.len);
        nv_map_put(&state->sessions, nv_span_of(found->key, k.len), found);
    }
    found->len = session->len;
    memcpy(found->blob, session->blob, session->len);
    if (state->hold) {
        session->op._next = state->held;
        state->held = &session->op;
    } else {
        finish_op(&session->op, state->status);
    }
    return NV_OK;
}

/* Consumer groups, all of them as old as the fake clock's start. */
nv_err nv_state_groups_load(nv_state *state, nv_state_groups *groups)
{
    nv_group_row row = {nv_span_str("$Default"), FAKE_NOW_US};
    groups->begin(groups->arg);
    nv_err err = groups->visit(groups->arg, &row);
    for (size_t i = 0; err == NV_OK && i < FAKE_GROUPS; i++) {
        row.name = nv_span_of(state->groups[i].name, state->groups[i].len);
        err = row.name.len ? groups->visit(groups->arg, &row) : NV_OK;
    }
    finish_op(&groups->op, err);
    return NV_OK;
}

nv_err nv_state_group_change_do(nv_state *state, nv_state_group_change *change)
{
    size_t at = FAKE_GROUPS;
    size_t empty = FAKE_GROUPS;
    for (size_t i = 0; i < FAKE_GROUPS; i++) {
        nv_span name = nv_span_of(state->groups[i].name, state->groups[i].len);
        at = name.len && nv_span_eq_nocase(name, change->name) ? i : at;
        empty = name.len == 0 ? i : empty;
    }
    change->existed = at < FAKE_GROUPS;
    change->created_us = FAKE_NOW_US;
    nv_err status = state->status;
    if (status == NV_OK && change->create && !change->existed) {
        assert(empty < FAKE_GROUPS && change->name.len <= NV_STATE_GROUP_NAME_MAX);
        memcpy(state->groups[empty].name, change->name.ptr, change->name.len);
        state->groups[empty].len = change->name.len;
    } else if (status == NV_OK && !change->create && change->existed) {
        state->groups[at].len = 0;
    }
    finish_op(&change->op, status);
    return NV_OK;
}

/* Other operations on tables: this hub has none. */
static nv_err refuse_op(nv_state_op *op)
{
    finish_op(op, NV_E_UNSUPPORTED);
    return NV_OK;
}

nv_err nv_state_health(const nv_state *state)
{
    return state->status == NV_E_NO_SPACE || state->status == NV_E_IO ? state->status : NV_OK;
}

nv_err nv_state_read(nv_state *state, nv_state_op *op)
{
    (void)state;
    return refuse_op(op);
}

nv_err nv_state_write(nv_state *state, nv_state_op *op)
{
    (void)state;
    return refuse_op(op);
}

nv_err nv_state_scan(nv_state *state, nv_state_op *op)
{
    (void)state;
    return refuse_op(op);
}

nv_span nv_state_id(const nv_state *state)
{
    (void)state;
    return nv_span_str("00000000000000000000000000000000");
}

void fake_state_set_status(fake_core *core, nv_err status)
{
    core->state->status = status;
}

void fake_state_set_hold(fake_core *core, bool hold)
{
    core->state->hold = hold;
}

bool fake_state_complete(fake_core *core)
{
    nv_state_op **last = &core->state->held;
    if (!*last) {
        return false;
    }
    while ((*last)->_next) {
        last = &(*last)->_next;
    }
    nv_state_op *op = *last;
    *last = NULL;
    finish_op(op, core->state->status);
    return true;
}

size_t fake_state_loads(const fake_core *core)
{
    return core->state->loads;
}

size_t fake_state_sessions(const fake_core *core)
{
    return core->state->sessions.count;
}

/* ---- all of it ------------------------------------------------------------------------------------------------- */

bool fake_fault_injection;

void fake_core_init(fake_core *core, size_t loops, const nv_limits *limits)
{
    static const char *const names[] = {FAKE_HUB_NAME, FAKE_ALIAS};
    assert(loops >= 1 && loops <= 2);
    *core = (fake_core){.limits = *limits};
    nv_manual_clock_init(&core->clock, FAKE_NOW_US);
    nv_seeded_rng_init(&core->rng, 1);
    for (size_t i = 0; i < loops; i++) {
        nv_exec_queue_init(&core->loops[i]);
        core->execs[i] = &core->loops[i].exec;
    }
    core->log = nv_calloc(1, sizeof(*core->log));
    core->log->batch_records = 4096;
    nv_list_init(&core->log->held);
    core->state = nv_calloc(1, sizeof(*core->state));
    nv_map_init(&core->state->sessions, 7);
    nv_hub_config config = {.host_names = names,
                            .host_name_count = 2,
                            .limits = &core->limits,
                            .log = core->log,
                            .state = core->state,
                            .clock = &core->clock.clock,
                            .rng = &core->rng.rng,
                            .loops = core->execs,
                            .loop_count = loops,
                            .fault_injection = fake_fault_injection};
    nv_buf why;
    nv_buf_init(&why, 256);
    nv_err err = nv_hub_new(&core->hub, &config, &why);
    assert(err == NV_OK);
    (void)err;
    nv_buf_deinit(&why);
}

void fake_core_run(fake_core *core)
{
    size_t ran = 1;
    while (ran > 0) {
        ran = 0;
        for (size_t i = 0; i < core->hub->loop_count; i++) {
            nv_exec_queue_adopt(&core->loops[i]);
            ran += nv_exec_queue_run(&core->loops[i]);
            nv_hub_loop_turn_end(&core->hub->loops[i]);
        }
        for (size_t i = 0; i < core->hub->loop_count; i++) {
            ran += !nv_exec_queue_empty(&core->loops[i]);
        }
    }
}

void fake_core_deinit(fake_core *core)
{
    fake_core_run(core);
    size_t loops = core->hub->loop_count;
    nv_hub_free(core->hub);
    fake_cloud_reset();
    for (size_t i = 0; i < core->log->count; i++) {
        record_free(&core->log->records[i]);
    }
    free(core->log->records);
    free(core->log);
    size_t pos = 0;
    for (fake_session *s = nv_map_next(&core->state->sessions, &pos); s;
         s = nv_map_next(&core->state->sessions, &pos)) {
        free(s);
    }
    nv_map_deinit(&core->state->sessions);
    free(core->state);
    for (size_t i = 0; i < loops; i++) {
        nv_exec_queue_deinit(&core->loops[i]);
    }
}
