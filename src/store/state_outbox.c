#include "store/state_outbox.h"

#include "store/state_db.h"

#include <assert.h>

nv_err nv_txn_outbox_put(nv_txn *txn, nv_outbox_row *row)
{
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    row->row = nv_txn_generation(txn);
    nv_query query = nv_query_start(txn->db, NV_SQL_OUTBOX_PUT);
    nv_query_u64(&query, row->row);
    nv_query_text(&query, row->device_id);
    nv_query_text(&query, row->module_id);
    nv_query_u64(&query, row->generation);
    nv_query_int(&query, row->source);
    nv_query_bytes(&query, row->properties);
    nv_query_bytes(&query, row->body);
    return nv_query_finish(&query);
}

nv_err nv_txn_outbox_read(nv_txn *txn, uint64_t after, nv_outbox_visit visit, void *arg)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_OUTBOX_READ);
    nv_query_u64(&query, after);
    nv_err err;
    while ((err = nv_query_step(&query)) == NV_OK) {
        nv_outbox_row row = {.row = nv_query_column_u64(&query, 0),
                             .device_id = nv_query_column_span(&query, 1),
                             .module_id = nv_query_column_span(&query, 2),
                             .generation = nv_query_column_u64(&query, 3),
                             .source = (uint8_t)nv_query_column_int(&query, 4),
                             .properties = nv_query_column_span(&query, 5),
                             .body = nv_query_column_span(&query, 6)};
        err = visit(arg, &row);
        if (err != NV_OK) {
            break;
        }
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_OK : err;
}

nv_err nv_txn_outbox_delete(nv_txn *txn, uint64_t row)
{
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_OUTBOX_DELETE);
    nv_query_u64(&query, row);
    return nv_query_finish(&query);
}

nv_err nv_txn_open_put(nv_txn *txn, const nv_open_row *row)
{
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_OPEN_PUT);
    nv_query_text(&query, row->device_id);
    nv_query_text(&query, row->module_id);
    nv_query_u64(&query, row->generation);
    nv_query_u64(&query, row->run);
    return nv_query_finish(&query);
}

nv_err nv_txn_open_get(nv_txn *txn, nv_open_row *row)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_OPEN_GET);
    nv_query_text(&query, row->device_id);
    nv_query_text(&query, row->module_id);
    nv_err err = nv_query_step(&query);
    if (err == NV_OK) {
        row->generation = nv_query_column_u64(&query, 0);
        row->run = nv_query_column_u64(&query, 1);
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_E_NOT_FOUND : err;
}

nv_err nv_txn_open_delete(nv_txn *txn, nv_span device_id, nv_span module_id)
{
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_OPEN_DELETE);
    nv_query_text(&query, device_id);
    nv_query_text(&query, module_id);
    return nv_query_finish(&query);
}

nv_err nv_txn_open_others(nv_txn *txn, uint64_t run, nv_open_row *rows, size_t max, size_t *count)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_OPEN_OTHERS);
    nv_query_u64(&query, run);
    nv_query_u64(&query, max);
    nv_err err = NV_OK;
    for (*count = 0; *count < max && (err = nv_query_step(&query)) == NV_OK; ++*count) {
        rows[*count] = (nv_open_row){.device_id = nv_arena_copy(&txn->arena, nv_query_column_span(&query, 0)),
                                     .module_id = nv_arena_copy(&txn->arena, nv_query_column_span(&query, 1)),
                                     .generation = nv_query_column_u64(&query, 2),
                                     .run = nv_query_column_u64(&query, 3)};
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_OK : err;
}
