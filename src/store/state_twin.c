/* Twins within a transaction. */
#include "store/state_twin.h"

#include "store/state_db.h"

/* Where the columns of the twin stand behind those of the identity and its `enabled`. */
#define TWIN_COLUMNS_AT 19

/* The row of NV_SQL_TWIN_COLUMNS from column @p at on; spans are the statement's. */
static nv_twin_row borrow_twin(const nv_query *query, int at)
{
    return (nv_twin_row){
        .stored = true,
        .generation = nv_query_column_u64(query, at),
        .version = nv_query_column_u64(query, at + 1),
        .etag = nv_query_column_u64(query, at + 2),
        .desired_version = nv_query_column_u64(query, at + 3),
        .reported_version = nv_query_column_u64(query, at + 4),
        .model_id = nv_query_column_span(query, at + 5),
        .tags = nv_query_column_span(query, at + 6),
        .desired = nv_query_column_span(query, at + 7),
        .reported = nv_query_column_span(query, at + 8),
    };
}

static nv_twin_row copy_twin(nv_arena *arena, nv_twin_row row)
{
    nv_span *const spans[] = {
        &row.model_id, &row.tags, &row.desired, &row.reported, &row.desired_metadata, &row.reported_metadata,
    };
    for (size_t i = 0; i < NV_COUNT_OF(spans); i++) {
        *spans[i] = nv_arena_copy(arena, *spans[i]);
    }
    return row;
}

static nv_err initial_twin(nv_txn *txn, nv_span device_id, nv_span module_id, nv_twin_row *row)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_IDENTITY_PROBE);
    nv_query_ids(&query, device_id, module_id);
    nv_err err = nv_query_step(&query);
    if (err == NV_OK) {
        *row = nv_twin_row_initial(nv_query_column_u64(&query, 0));
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_E_NOT_FOUND : err;
}

nv_err nv_txn_twin_get(nv_txn *txn, nv_span device_id, nv_span module_id, nv_twin_row *row)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_TWIN_GET);
    nv_query_ids(&query, device_id, module_id);
    nv_err err = nv_query_step(&query);
    if (err == NV_OK) {
        nv_twin_row borrowed = borrow_twin(&query, 0);
        borrowed.desired_metadata = nv_query_column_span(&query, 9);
        borrowed.reported_metadata = nv_query_column_span(&query, 10);
        *row = copy_twin(&txn->arena, borrowed);
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? initial_twin(txn, device_id, module_id, row) : err;
}

static nv_err insert_twin(nv_txn *txn, nv_span device_id, nv_span module_id, const nv_twin_row *row)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_TWIN_INSERT);
    nv_query_ids(&query, device_id, module_id);
    nv_query_u64(&query, row->generation);
    nv_query_u64(&query, row->version);
    nv_query_u64(&query, row->etag);
    nv_query_u64(&query, row->desired_version);
    nv_query_u64(&query, row->reported_version);
    nv_query_text(&query, row->model_id);
    nv_query_text(&query, row->tags);
    nv_query_text(&query, row->desired);
    nv_query_text(&query, row->reported);
    nv_err err = nv_query_finish(&query);
    if (err != NV_OK) {
        return err;
    }
    query = nv_query_start(txn->db, NV_SQL_TWIN_METADATA_INSERT);
    nv_query_ids(&query, device_id, module_id);
    nv_query_bytes(&query, row->desired_metadata);
    nv_query_bytes(&query, row->reported_metadata);
    return nv_query_finish(&query);
}

static nv_err update_twin(nv_txn *txn, nv_span device_id, nv_span module_id, const nv_twin_row *row, bool metadata)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_TWIN_UPDATE);
    nv_query_u64(&query, row->version);
    nv_query_u64(&query, row->etag);
    nv_query_u64(&query, row->desired_version);
    nv_query_u64(&query, row->reported_version);
    nv_query_text(&query, row->model_id);
    nv_query_text(&query, row->tags);
    nv_query_text(&query, row->desired);
    nv_query_text(&query, row->reported);
    nv_query_ids(&query, device_id, module_id);
    nv_err err = nv_query_finish(&query);
    if (err != NV_OK || !metadata) {
        return err;
    }
    query = nv_query_start(txn->db, NV_SQL_TWIN_METADATA_UPDATE);
    nv_query_bytes(&query, row->desired_metadata);
    nv_query_bytes(&query, row->reported_metadata);
    nv_query_ids(&query, device_id, module_id);
    return nv_query_finish(&query);
}

nv_err nv_txn_twin_put(nv_txn *txn, nv_span device_id, nv_span module_id, const nv_twin_row *row, bool metadata)
{
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    return row->stored ? update_twin(txn, device_id, module_id, row, metadata)
                       : insert_twin(txn, device_id, module_id, row);
}

static nv_err change_tag(nv_txn *txn, nv_sql sql, nv_span device_id, nv_span module_id, nv_span path, nv_span value)
{
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, sql);
    nv_query_text(&query, path);
    nv_query_text(&query, value);
    nv_query_ids(&query, device_id, module_id);
    return nv_query_finish(&query);
}

nv_err nv_txn_twin_tag_put(nv_txn *txn, nv_span device_id, nv_span module_id, nv_span path, nv_span value)
{
    return change_tag(txn, NV_SQL_TWIN_TAG_PUT, device_id, module_id, path, value);
}

nv_err nv_txn_twin_tag_delete(nv_txn *txn, nv_span device_id, nv_span module_id, nv_span path, nv_span value)
{
    return change_tag(txn, NV_SQL_TWIN_TAG_DELETE, device_id, module_id, path, value);
}

nv_err nv_txn_twin_delete(nv_txn *txn, nv_span device_id, nv_span module_id)
{
    static const nv_sql of_device[] = {NV_SQL_DEVICE_TWINS_DELETE, NV_SQL_DEVICE_TWIN_METADATA_DELETE,
                                       NV_SQL_DEVICE_TWIN_TAGS_DELETE};
    static const nv_sql of_module[] = {NV_SQL_TWIN_DELETE, NV_SQL_TWIN_METADATA_DELETE, NV_SQL_TWIN_TAGS_DELETE};
    nv_err err = nv_txn_begin_write(txn);
    for (size_t i = 0; err == NV_OK && i < NV_COUNT_OF(of_device); i++) {
        nv_query query = nv_query_start(txn->db, module_id.len ? of_module[i] : of_device[i]);
        nv_query_text(&query, device_id);
        if (module_id.len) {
            nv_query_text(&query, module_id);
        }
        err = nv_query_finish(&query);
    }
    return err;
}

/* ---- walks ---- */

static nv_err visit_all(nv_query *query, nv_twin_visit visit, void *arg)
{
    nv_err err = NV_OK;
    while (err == NV_OK) {
        err = nv_query_step(query);
        if (err == NV_OK) {
            nv_identity_row identity = nv_query_identity(query);
            nv_twin_row twin = nv_query_column_u64(query, TWIN_COLUMNS_AT) ? borrow_twin(query, TWIN_COLUMNS_AT)
                                                                           : nv_twin_row_initial(identity.generation);
            err = visit(arg, &identity, &twin);
        }
    }
    nv_query_end(query);
    return err == NV_E_EOF ? NV_OK : err;
}

static void bind_position(nv_query *query, const nv_twin_walk *walk)
{
    nv_query_text(query, walk->after_device);
    if (walk->modules) {
        nv_query_text(query, walk->after_module);
    }
    nv_query_int(query, walk->limit);
}

nv_err nv_txn_twins_walk(nv_txn *txn, const nv_twin_walk *walk, nv_twin_visit visit, void *arg)
{
    nv_query query = nv_query_start(txn->db, walk->modules ? NV_SQL_TWINS_OF_MODULES : NV_SQL_TWINS_OF_DEVICES);
    bind_position(&query, walk);
    return visit_all(&query, visit, arg);
}

nv_err nv_txn_twins_of_module(nv_txn *txn, nv_span module_id, nv_span after_device, uint32_t limit, nv_twin_visit visit,
                              void *arg)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_TWINS_OF_MODULE);
    nv_query_text(&query, module_id);
    nv_query_text(&query, after_device);
    nv_query_int(&query, limit);
    return visit_all(&query, visit, arg);
}

nv_err nv_txn_twins_by_tag(nv_txn *txn, nv_span path, nv_span value, const nv_twin_walk *walk, nv_twin_visit visit,
                           void *arg)
{
    nv_query query = nv_query_start(txn->db, walk->modules ? NV_SQL_TAGGED_MODULES : NV_SQL_TAGGED_DEVICES);
    nv_query_text(&query, path);
    nv_query_text(&query, value);
    bind_position(&query, walk);
    return visit_all(&query, visit, arg);
}
