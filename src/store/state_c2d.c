/*
 * Cloud-to-device messages within a transaction. The ways of every message (put, delete) are one statement each where
 * that is possible: a statement undoes itself when it fails, so they need no savepoint.
 */
#include "store/state_c2d.h"

#include "store/state_db.h"

#include <assert.h>

/* One number of the first row, @p absent when there is none or it is NULL. */
static nv_err one_number(nv_query *query, int64_t absent, int64_t *out)
{
    nv_err err = nv_query_step(query);
    bool null = err != NV_OK || sqlite3_column_type(query->statement, 0) == SQLITE_NULL;
    *out = null ? absent : nv_query_column_int(query, 0);
    nv_query_end(query);
    return err == NV_E_EOF ? NV_OK : err;
}

static nv_err count_rows(nv_query *query, int *changed)
{
    sqlite3 *handle = query->db->handle;
    nv_err err = nv_query_finish(query);
    *changed = err == NV_OK ? sqlite3_changes(handle) : 0;
    return err;
}

/* ---- queues ---- */

static nv_err next_sequence(nv_txn *txn, nv_span device_id, uint64_t generation, uint64_t *out)
{
    int64_t remembered = 0;
    int64_t newest = 0;
    nv_query query = nv_query_start(txn->db, NV_SQL_C2D_NEXT);
    nv_query_text(&query, device_id);
    nv_query_u64(&query, generation);
    nv_err err = one_number(&query, 1, &remembered);
    if (err == NV_OK) {
        query = nv_query_start(txn->db, NV_SQL_C2D_LAST);
        nv_query_text(&query, device_id);
        err = one_number(&query, 0, &newest);
    }
    *out = (uint64_t)(newest >= remembered ? newest + 1 : remembered);
    return err;
}

nv_err nv_txn_c2d_head(nv_txn *txn, nv_span device_id, nv_c2d_head *head)
{
    int64_t generation = 0;
    nv_query query = nv_query_start(txn->db, NV_SQL_IDENTITY_PROBE);
    nv_query_ids(&query, device_id, NV_SPAN_EMPTY);
    nv_err err = one_number(&query, -1, &generation);
    if (err == NV_OK && generation < 0) {
        return NV_E_NOT_FOUND;
    }
    head->generation = (uint64_t)generation;
    err = err == NV_OK ? next_sequence(txn, device_id, head->generation, &head->next_sequence) : err;
    return err == NV_OK ? nv_txn_c2d_depth(txn, device_id, &head->depth) : err;
}

nv_err nv_txn_c2d_depth(nv_txn *txn, nv_span device_id, uint64_t *out)
{
    int64_t depth = 0;
    nv_query query = nv_query_start(txn->db, NV_SQL_C2D_DEPTH);
    nv_query_text(&query, device_id);
    nv_err err = one_number(&query, 0, &depth);
    *out = (uint64_t)depth;
    return err;
}

/* ---- messages ---- */

nv_err nv_txn_c2d_put(nv_txn *txn, nv_span device_id, const nv_c2d_row *row)
{
    assert(txn->writes);
    int changed = 0;
    nv_query query = nv_query_start(txn->db, NV_SQL_C2D_PUT);
    nv_query_u64(&query, row->sequence);
    nv_query_int(&query, row->enqueued_us);
    nv_query_int(&query, row->expires_us);
    nv_query_int(&query, row->ack);
    nv_query_int(&query, row->body_kind);
    nv_query_bytes(&query, row->properties);
    nv_query_bytes(&query, row->body);
    nv_query_text(&query, device_id);
    nv_query_u64(&query, row->generation);
    nv_err err = count_rows(&query, &changed);
    return err == NV_OK && changed == 0 ? NV_E_NOT_FOUND : err;
}

/* The row of NV_SQL_C2D_COLUMNS; spans are the statement's. */
static nv_c2d_row borrow_message(const nv_query *query)
{
    return (nv_c2d_row){
        .sequence = nv_query_column_u64(query, 0),
        .generation = nv_query_column_u64(query, 1),
        .enqueued_us = nv_query_column_int(query, 2),
        .expires_us = nv_query_column_int(query, 3),
        .deliveries = (uint32_t)nv_query_column_u64(query, 4),
        .ack = (uint8_t)nv_query_column_int(query, 5),
        .body_kind = (uint8_t)nv_query_column_int(query, 6),
        .properties = nv_query_column_span(query, 7),
    };
}

nv_err nv_txn_c2d_load(nv_txn *txn, nv_span device_id, uint64_t after, uint32_t top, nv_c2d_visit visit, void *arg)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_C2D_LOAD);
    nv_query_text(&query, device_id);
    nv_query_u64(&query, after);
    nv_query_int(&query, top);
    nv_err err = NV_OK;
    nv_err told = NV_OK;
    while (err == NV_OK && told == NV_OK) {
        err = nv_query_step(&query);
        if (err == NV_OK) {
            nv_c2d_row row = borrow_message(&query);
            row.body = nv_query_column_span(&query, 8);
            told = visit(arg, &row);
        }
    }
    nv_query_end(&query);
    return told != NV_OK ? told : err == NV_E_EOF ? NV_OK : err;
}

nv_err nv_txn_c2d_get(nv_txn *txn, nv_span device_id, uint64_t sequence, nv_c2d_row *row)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_C2D_GET);
    nv_query_text(&query, device_id);
    nv_query_u64(&query, sequence);
    nv_err err = nv_query_step(&query);
    if (err == NV_OK) {
        *row = borrow_message(&query);
        row->properties = nv_arena_copy(&txn->arena, row->properties);
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_E_NOT_FOUND : err;
}

nv_err nv_txn_c2d_deliveries_put(nv_txn *txn, nv_span device_id, uint64_t generation, uint64_t sequence,
                                 uint32_t deliveries)
{
    assert(txn->writes);
    nv_query query = nv_query_start(txn->db, NV_SQL_C2D_DELIVERIES_PUT);
    nv_query_int(&query, deliveries);
    nv_query_text(&query, device_id);
    nv_query_u64(&query, sequence);
    nv_query_u64(&query, generation);
    return nv_query_finish(&query);
}

/* Remembered first: should the deletion fail, a sequence remembered too early does no harm. */
nv_err nv_txn_c2d_delete(nv_txn *txn, nv_span device_id, uint64_t generation, uint64_t sequence, bool newest)
{
    assert(txn->writes);
    nv_err err = NV_OK;
    if (newest) {
        nv_query query = nv_query_start(txn->db, NV_SQL_C2D_NEXT_PUT);
        nv_query_u64(&query, sequence + 1);
        nv_query_text(&query, device_id);
        nv_query_u64(&query, generation);
        err = nv_query_finish(&query);
    }
    if (err == NV_OK) {
        nv_query query = nv_query_start(txn->db, NV_SQL_C2D_DELETE);
        nv_query_text(&query, device_id);
        nv_query_u64(&query, sequence);
        nv_query_u64(&query, generation);
        err = nv_query_finish(&query);
    }
    return err;
}

nv_err nv_txn_c2d_due(nv_txn *txn, int64_t now_us, uint32_t top, nv_c2d_due_visit visit, void *arg, int64_t *next_us)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_C2D_DUE);
    nv_query_int(&query, now_us);
    nv_query_int(&query, top);
    nv_err err = NV_OK;
    while (err == NV_OK) {
        err = nv_query_step(&query);
        if (err == NV_OK) {
            err = visit(arg, nv_query_column_span(&query, 0), nv_query_column_u64(&query, 2),
                        nv_query_column_u64(&query, 1));
        }
    }
    nv_query_end(&query);
    if (err != NV_E_EOF) {
        return err;
    }
    query = nv_query_start(txn->db, NV_SQL_C2D_NEXT_EXPIRY);
    nv_query_int(&query, now_us);
    return one_number(&query, INT64_MAX, next_us);
}

static nv_err delete_of_device(nv_txn *txn, nv_sql sql, nv_span device_id)
{
    nv_query query = nv_query_start(txn->db, sql);
    nv_query_text(&query, device_id);
    return nv_query_finish(&query);
}

nv_err nv_txn_c2d_drop(nv_txn *txn, nv_span device_id)
{
    nv_err err = delete_of_device(txn, NV_SQL_DEVICE_C2D_DELETE, device_id);
    err = err == NV_OK ? delete_of_device(txn, NV_SQL_DEVICE_C2D_QUEUE_DELETE, device_id) : err;
    return err == NV_OK ? delete_of_device(txn, NV_SQL_DEVICE_FEEDBACK_DELETE, device_id) : err;
}

/* ---- feedback ---- */

nv_err nv_txn_feedback_put(nv_txn *txn, const nv_feedback_row *row)
{
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_FEEDBACK_PUT);
    nv_query_u64(&query, nv_txn_generation(txn));
    nv_query_int(&query, row->enqueued_us);
    nv_query_int(&query, row->expires_us);
    nv_query_int(&query, row->status);
    nv_query_text(&query, row->device_id);
    nv_query_u64(&query, row->generation);
    nv_query_text(&query, row->message_id);
    return nv_query_finish(&query);
}

nv_err nv_txn_feedback_walk(nv_txn *txn, nv_feedback_visit visit, void *arg)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_FEEDBACK_WALK);
    nv_err err = NV_OK;
    while (err == NV_OK) {
        err = nv_query_step(&query);
        if (err == NV_OK) {
            nv_feedback_row row = {
                .id = nv_query_column_u64(&query, 0),
                .enqueued_us = nv_query_column_int(&query, 1),
                .expires_us = nv_query_column_int(&query, 2),
                .deliveries = (uint32_t)nv_query_column_u64(&query, 3),
                .status = (uint8_t)nv_query_column_int(&query, 4),
                .device_id = nv_query_column_span(&query, 5),
                .generation = nv_query_column_u64(&query, 6),
                .message_id = nv_query_column_span(&query, 7),
            };
            err = visit(arg, &row);
        }
    }
    nv_query_end(&query);
    return err == NV_E_EOF ? NV_OK : err;
}

static nv_err change_feedback(nv_txn *txn, nv_sql sql, uint64_t id)
{
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, sql);
    nv_query_u64(&query, id);
    return nv_query_finish(&query);
}

nv_err nv_txn_feedback_delete(nv_txn *txn, uint64_t id)
{
    return change_feedback(txn, NV_SQL_FEEDBACK_DELETE, id);
}

nv_err nv_txn_feedback_return(nv_txn *txn, uint64_t id, uint32_t max_deliveries)
{
    nv_err err = change_feedback(txn, NV_SQL_FEEDBACK_RETURN, id);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_FEEDBACK_TIRED);
    nv_query_u64(&query, id);
    nv_query_int(&query, max_deliveries);
    return nv_query_finish(&query);
}

nv_err nv_txn_feedback_expire(nv_txn *txn, int64_t now_us)
{
    nv_err err = nv_txn_begin_write(txn);
    if (err != NV_OK) {
        return err;
    }
    nv_query query = nv_query_start(txn->db, NV_SQL_FEEDBACK_EXPIRE);
    nv_query_int(&query, now_us);
    return nv_query_finish(&query);
}

nv_err nv_txn_feedback_next_expiry(nv_txn *txn, int64_t *out)
{
    nv_query query = nv_query_start(txn->db, NV_SQL_FEEDBACK_NEXT_EXPIRY);
    return one_number(&query, INT64_MAX, out);
}
