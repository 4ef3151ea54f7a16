#include "store/state_groups.h"

#include "store/state_db.h"

/* The key of a row: ASCII in lower case. @return empty: too long */
static nv_span fold(nv_span name, char out[NV_STATE_GROUP_NAME_MAX])
{
    if (name.len > NV_STATE_GROUP_NAME_MAX) {
        return NV_SPAN_EMPTY;
    }
    for (size_t i = 0; i < name.len; i++) {
        char c = (char)name.ptr[i];
        out[i] = (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    }
    return nv_span_of(out, name.len);
}

nv_err nv_txn_groups(nv_txn *txn, nv_group_visit visit, void *arg)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_GROUPS);
    nv_err err = NV_OK;
    while (err == NV_OK && (err = nv_query_step(&query)) == NV_OK) {
        nv_group_row row = {nv_query_column_span(&query, 0), nv_query_column_int(&query, 1)};
        err = visit(arg, &row);
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_OK : err;
}

nv_err nv_txn_group_count(nv_txn *txn, uint64_t *out)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_GROUPS_COUNT);
    nv_err err = nv_query_step(&query);
    *out = err == NV_OK ? nv_query_column_u64(&query, 0) : 0;
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_E_CORRUPT : err;
}

nv_err nv_txn_group_get(nv_txn *txn, nv_span name, nv_group_row *row)
{
    char id[NV_STATE_GROUP_NAME_MAX];
    nv_query query = nv_query_start(txn->db, NV_SQL_GROUP_GET);
    nv_query_text(&query, fold(name, id));
    nv_err err = nv_query_step(&query);
    if (err == NV_OK) {
        row->name = nv_arena_copy(&txn->arena, nv_query_column_span(&query, 0));
        row->created_us = nv_query_column_int(&query, 1);
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_E_NOT_FOUND : err;
}

nv_err nv_txn_group_put(nv_txn *txn, const nv_group_row *row)
{
    char id[NV_STATE_GROUP_NAME_MAX];
    if (row->name.len > sizeof(id)) {
        return NV_E_TOO_BIG;
    }
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_GROUP_PUT);
    nv_query_text(&query, fold(row->name, id));
    nv_query_text(&query, row->name);
    nv_query_int(&query, row->created_us);
    return nv_query_finish(&query);
}

nv_err nv_txn_group_delete(nv_txn *txn, nv_span name)
{
    char id[NV_STATE_GROUP_NAME_MAX];
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_GROUP_DELETE);
    nv_query_text(&query, fold(name, id));
    return nv_query_finish(&query);
}

/* ---- ready-made ------------------------------------------------------------------------------------------------ */

static nv_err run_load(nv_state_op *op, nv_txn *txn)
{
    nv_state_groups *self = nv_container_of(op, nv_state_groups, op);
    self->begin(self->arg);
    return nv_txn_groups(txn, self->visit, self->arg);
}

nv_err nv_state_groups_load(nv_state *state, nv_state_groups *groups)
{
    groups->op.run = run_load;
    return nv_state_read(state, &groups->op);
}

static nv_err create(nv_state_group_change *self, nv_txn *txn)
{
    uint64_t count = 0;
    nv_err err = self->max ? nv_txn_group_count(txn, &count) : NV_OK;
    if (err != NV_OK) {
        return err;
    }
    nv_group_row row = {self->name, self->now_us};
    return self->max && count >= self->max ? NV_E_LIMIT : nv_txn_group_put(txn, &row);
}

static nv_err run_change(nv_state_op *op, nv_txn *txn)
{
    nv_state_group_change *self = nv_container_of(op, nv_state_group_change, op);
    nv_group_row old;
    nv_err err = nv_txn_group_get(txn, self->name, &old);
    self->existed = err == NV_OK;
    self->created_us = self->existed ? old.created_us : self->now_us;
    if (err != NV_OK && err != NV_E_NOT_FOUND) {
        return err;
    }
    if (self->create) {
        return self->existed ? NV_OK : create(self, txn);
    }
    return self->existed ? nv_txn_group_delete(txn, self->name) : NV_OK;
}

nv_err nv_state_group_change_do(nv_state *state, nv_state_group_change *change)
{
    change->op.run = run_change;
    return nv_state_write(state, &change->op);
}
