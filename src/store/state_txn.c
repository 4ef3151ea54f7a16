/* What an operation can do within its transaction. */
#include "store/state_db.h"

#include <assert.h>

/* .NET ticks count 100 ns from 0001-01-01. */
#define TICKS_AT_UNIX_EPOCH UINT64_C(621355968000000000)
#define TICKS_PER_US        UINT64_C(10)

/* Operations that only look need no savepoint. */
nv_err nv_txn_begin_write(nv_txn *txn)
{
    assert(txn->writes);
    if (txn->savepoint) {
        return NV_OK;
    }
    nv_err err = nv_db_run(txn->db, NV_SQL_SAVEPOINT);
    txn->savepoint = err == NV_OK;
    return err;
}

void nv_query_ids(nv_query *query, nv_span device_id, nv_span module_id)
{
    nv_query_text(query, device_id);
    nv_query_text(query, module_id);
}

/* ---- identities ---- */

nv_identity_row nv_query_identity(const nv_query *query)
{
    return (nv_identity_row){
        .device_id = nv_query_column_span(query, 0),
        .module_id = nv_query_column_span(query, 1),
        .generation = nv_query_column_u64(query, 2),
        .etag = nv_query_column_u64(query, 3),
        .status_reason = nv_query_column_span(query, 4),
        .status_updated_us = nv_query_column_int(query, 5),
        .auth = (uint8_t)nv_query_column_int(query, 6),
        .primary_key = nv_query_column_span(query, 7),
        .secondary_key = nv_query_column_span(query, 8),
        .primary_thumbprint = nv_query_column_span(query, 9),
        .secondary_thumbprint = nv_query_column_span(query, 10),
        .iot_edge = nv_query_column_int(query, 11) != 0,
        .device_scope = nv_query_column_span(query, 12),
        .parent_scopes = nv_query_column_span(query, 13),
        .managed_by = nv_query_column_span(query, 14),
        .attributes = nv_query_column_span(query, 15),
        .connection_updated_us = nv_query_column_int(query, 16),
        .last_activity_us = nv_query_column_int(query, 17),
        .enabled = nv_query_column_int(query, 18) != 0,
    };
}

static nv_identity_row copy_row(nv_arena *arena, nv_identity_row row)
{
    nv_span *const spans[] = {
        &row.device_id,     &row.module_id,          &row.status_reason,        &row.primary_key,
        &row.secondary_key, &row.primary_thumbprint, &row.secondary_thumbprint, &row.device_scope,
        &row.parent_scopes, &row.managed_by,         &row.attributes,
    };
    for (size_t i = 0; i < NV_COUNT_OF(spans); i++) {
        *spans[i] = nv_arena_copy(arena, *spans[i]);
    }
    return row;
}

nv_err nv_txn_identity_get(nv_txn *txn, nv_span device_id, nv_span module_id, nv_identity_row *row)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_IDENTITY_GET);
    nv_query_ids(&query, device_id, module_id);
    nv_err err = nv_query_step(&query);
    if (err == NV_OK) {
        *row = copy_row(&txn->arena, nv_query_identity(&query));
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_E_NOT_FOUND : err;
}

typedef struct probe {
    bool present;
    uint64_t generation;
    bool enabled;
} probe;

static nv_err probe_identity(nv_txn *txn, nv_span device_id, nv_span module_id, probe *out)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_IDENTITY_PROBE);
    nv_query_ids(&query, device_id, module_id);
    nv_err err = nv_query_step(&query);
    *out = (probe){.present = err == NV_OK};
    if (err == NV_OK) {
        out->generation = nv_query_column_u64(&query, 0);
        out->enabled = nv_query_column_int(&query, 1) != 0;
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_OK : err;
}

static nv_err insert_row(nv_txn *txn, const nv_identity_row *row)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_IDENTITY_PUT);
    nv_query_ids(&query, row->device_id, row->module_id);
    nv_query_u64(&query, row->generation);
    nv_query_u64(&query, row->etag);
    nv_query_int(&query, row->module_id.len ? 1 : row->enabled);
    nv_query_text(&query, row->status_reason);
    nv_query_int(&query, row->status_updated_us);
    nv_query_int(&query, row->auth);
    nv_query_bytes(&query, row->primary_key);
    nv_query_bytes(&query, row->secondary_key);
    nv_query_text(&query, row->primary_thumbprint);
    nv_query_text(&query, row->secondary_thumbprint);
    nv_query_int(&query, row->iot_edge);
    nv_query_text(&query, row->device_scope);
    nv_query_text(&query, row->parent_scopes);
    nv_query_text(&query, row->managed_by);
    nv_query_text(&query, row->attributes);
    nv_query_int(&query, row->connection_updated_us);
    nv_query_int(&query, row->last_activity_us);
    return nv_query_finish(&query);
}

static nv_err put_device(nv_txn *txn, const nv_identity_row *row)
{
    probe old;
    nv_err err = probe_identity(txn, row->device_id, NV_SPAN_EMPTY, &old);
    err = err == NV_OK ? insert_row(txn, row) : err;
    if (err == NV_OK) {
        nv_state_counts *counts = &txn->totals.counts;
        counts->devices += old.present ? 0 : 1;
        counts->devices_enabled += row->enabled ? 1 : 0;
        counts->devices_enabled -= old.enabled ? 1 : 0;
    }
    return err;
}

static nv_err put_module(nv_txn *txn, const nv_identity_row *row)
{
    probe device;
    probe old = {0};
    nv_err err = probe_identity(txn, row->device_id, NV_SPAN_EMPTY, &device);
    if (err == NV_OK && !device.present) {
        return NV_E_NOT_FOUND;
    }
    err = err == NV_OK ? probe_identity(txn, row->device_id, row->module_id, &old) : err;
    err = err == NV_OK ? insert_row(txn, row) : err;
    if (err == NV_OK && !old.present) {
        txn->totals.counts.modules++;
    }
    return err;
}

nv_err nv_txn_identity_put(nv_txn *txn, const nv_identity_row *row)
{
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    return row->module_id.len ? put_module(txn, row) : put_device(txn, row);
}

static nv_err delete_device(nv_txn *txn, nv_span device_id, bool enabled)
{
    uint64_t modules = 0;
    nv_err err = nv_txn_module_count(txn, device_id, &modules);
    if (err == NV_OK) {
        nv_query query = nv_query_start(txn->db, NV_SQL_DEVICE_SESSIONS_DELETE);
        nv_query_text(&query, device_id);
        err = nv_query_finish(&query);
    }
    err = err == NV_OK ? nv_txn_twin_delete(txn, device_id, NV_SPAN_EMPTY) : err;
    err = err == NV_OK ? nv_txn_c2d_drop(txn, device_id) : err;
    if (err == NV_OK) {
        nv_query query = nv_query_start(txn->db, NV_SQL_DEVICE_DELETE);
        nv_query_text(&query, device_id);
        err = nv_query_finish(&query);
    }
    if (err == NV_OK) {
        txn->totals.counts.devices--;
        txn->totals.counts.devices_enabled -= enabled ? 1 : 0;
        txn->totals.counts.modules -= modules;
    }
    return err;
}

static nv_err delete_module(nv_txn *txn, nv_span device_id, nv_span module_id)
{
    nv_err err = nv_txn_session_delete(txn, device_id, module_id);
    err = err == NV_OK ? nv_txn_twin_delete(txn, device_id, module_id) : err;
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_MODULE_DELETE);
    nv_query_ids(&query, device_id, module_id);
    err = nv_query_finish(&query);
    if (err == NV_OK) {
        txn->totals.counts.modules--;
    }
    return err;
}

nv_err nv_txn_identity_delete(nv_txn *txn, nv_span device_id, nv_span module_id)
{
    probe old;
    nv_err err = probe_identity(txn, device_id, module_id, &old);
    if (err != NV_OK || !old.present) {
        return err;
    }
    err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    return module_id.len ? delete_module(txn, device_id, module_id) : delete_device(txn, device_id, old.enabled);
}

static nv_err walk(nv_query *query, nv_identity_visit visit, void *arg)
{
    nv_err err = NV_OK;
    while (err == NV_OK) {
        err = nv_query_step(query);
        if (err == NV_OK) {
            nv_identity_row row = nv_query_identity(query);
            err = visit(arg, &row);
        }
    }
    nv_query_end(query);
    return err == NV_E_EOF ? NV_OK : err;
}

nv_err nv_txn_devices(nv_txn *txn, nv_span after, uint32_t top, nv_identity_visit visit, void *arg)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_DEVICES);
    nv_query_text(&query, after);
    nv_query_int(&query, top);
    return walk(&query, visit, arg);
}

nv_err nv_txn_modules(nv_txn *txn, nv_span device_id, nv_span after, uint32_t top, nv_identity_visit visit, void *arg)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_MODULES);
    nv_query_text(&query, device_id);
    nv_query_text(&query, after);
    nv_query_int(&query, top);
    return walk(&query, visit, arg);
}

nv_err nv_txn_module_count(nv_txn *txn, nv_span device_id, uint64_t *out)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_MODULE_COUNT);
    nv_query_text(&query, device_id);
    nv_err err = nv_query_step(&query);
    if (err == NV_OK) {
        *out = nv_query_column_u64(&query, 0);
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_E_CORRUPT : err;
}

nv_state_counts nv_txn_counts(const nv_txn *txn)
{
    return txn->totals.counts;
}

uint64_t nv_txn_generation(nv_txn *txn)
{
    assert(txn->writes);
    int64_t wall_us = nv_wall_us(txn->clock);
    uint64_t now = TICKS_AT_UNIX_EPOCH + (wall_us > 0 ? (uint64_t)wall_us * TICKS_PER_US : 0);
    uint64_t *last = &txn->totals.generation;
    *last = now > *last ? now : *last + 1;
    return *last;
}

nv_err nv_txn_seen_put(nv_txn *txn, nv_span device_id, nv_span module_id, uint64_t generation,
                       int64_t connection_updated_us, int64_t last_activity_us)
{
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_SEEN_PUT);
    nv_query_int(&query, connection_updated_us);
    nv_query_int(&query, last_activity_us);
    nv_query_ids(&query, device_id, module_id);
    nv_query_u64(&query, generation);
    return nv_query_finish(&query);
}

/* ---- stored sessions ---- */

nv_err nv_txn_session_get(nv_txn *txn, nv_span device_id, nv_span module_id, uint64_t generation, nv_span *blob)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_SESSION_GET);
    nv_query_ids(&query, device_id, module_id);
    nv_query_u64(&query, generation);
    nv_err err = nv_query_step(&query);
    if (err == NV_OK) {
        *blob = nv_arena_copy(&txn->arena, nv_query_column_span(&query, 0));
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_E_NOT_FOUND : err;
}

nv_err nv_txn_session_put(nv_txn *txn, nv_span device_id, nv_span module_id, uint64_t generation, nv_span blob)
{
    if (blob.len > NV_STATE_SESSION_MAX) {
        return NV_E_TOO_BIG;
    }
    probe identity;
    nv_err err = probe_identity(txn, device_id, module_id, &identity);
    if (err != NV_OK || !identity.present || identity.generation != generation) {
        return err != NV_OK ? err : NV_E_NOT_FOUND;
    }
    err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_SESSION_PUT);
    nv_query_ids(&query, device_id, module_id);
    nv_query_u64(&query, generation);
    nv_query_bytes(&query, blob);
    return nv_query_finish(&query);
}

nv_err nv_txn_session_delete(nv_txn *txn, nv_span device_id, nv_span module_id)
{
    /* Most clean connections find nothing to forget: look first, so that they cost no write and no sync. */
    nv_query probe_query = nv_query_start(txn->db, NV_SQL_SESSION_PROBE);
    nv_query_ids(&probe_query, device_id, module_id);
    nv_err err = nv_query_step(&probe_query);
    nv_query_end(&probe_query);
    if (err != NV_OK) {
        return err == NV_E_EOF ? NV_OK : err;
    }
    err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_SESSION_DELETE);
    nv_query_ids(&query, device_id, module_id);
    return nv_query_finish(&query);
}

/* ---- policies and facts ---- */

nv_err nv_txn_policies(nv_txn *txn, nv_policy_visit visit, void *arg)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_POLICIES);
    nv_err err = NV_OK;
    while (err == NV_OK) {
        err = nv_query_step(&query);
        if (err == NV_OK) {
            nv_policy_row row = {
                .name = nv_query_column_span(&query, 0),
                .rights = (uint32_t)nv_query_column_u64(&query, 1),
                .primary_key = nv_query_column_span(&query, 2),
                .secondary_key = nv_query_column_span(&query, 3),
            };
            err = visit(arg, &row);
        }
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_OK : err;
}

nv_err nv_txn_policy_put(nv_txn *txn, const nv_policy_row *row)
{
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_POLICY_PUT);
    nv_query_text(&query, row->name);
    nv_query_int(&query, row->rights);
    nv_query_bytes(&query, row->primary_key);
    nv_query_bytes(&query, row->secondary_key);
    return nv_query_finish(&query);
}

nv_err nv_txn_meta_get(nv_txn *txn, nv_span name, nv_span *value)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_META_GET);
    nv_query_text(&query, name);
    nv_err err = nv_query_step(&query);
    if (err == NV_OK) {
        *value = nv_arena_copy(&txn->arena, nv_query_column_span(&query, 0));
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_E_NOT_FOUND : err;
}

nv_err nv_txn_meta_put(nv_txn *txn, nv_span name, nv_span value)
{
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_META_PUT);
    nv_query_text(&query, name);
    nv_query_bytes(&query, value);
    return nv_query_finish(&query);
}
