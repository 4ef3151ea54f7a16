#include "store/state_db.h"

#include "base/diag.h"

#include <assert.h>
#include <stdio.h>

/* "Nave" in the header of the file: what else is an SQLite database is not ours. */
#define APPLICATION_ID 0x4e617665

static const char *const sql_texts[NV_SQL_COUNT] = {
#define X(id, text) [NV_SQL_##id] = (text),
    NV_SQL_TABLE(X)
#undef X
};

/*
 * The schema, one step per version: step n leads from version n to n + 1, is never changed once released, and runs in
 * one transaction with the number. A device is the row with an empty module_id.
 */
static const char *const migrations[] = {
    "CREATE TABLE schema_migrations (version INTEGER NOT NULL PRIMARY KEY, applied_us BIGINT NOT NULL);"
    "CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value BYTEA NOT NULL);"
    "CREATE TABLE totals (id SMALLINT NOT NULL PRIMARY KEY, generation BIGINT NOT NULL, devices BIGINT NOT NULL,"
    " devices_enabled BIGINT NOT NULL, modules BIGINT NOT NULL);"
    "INSERT INTO totals (id, generation, devices, devices_enabled, modules) VALUES (1, 0, 0, 0, 0);"
    "CREATE TABLE identities (device_id TEXT NOT NULL, module_id TEXT NOT NULL, generation BIGINT NOT NULL,"
    " etag BIGINT NOT NULL, enabled SMALLINT NOT NULL, status_reason TEXT NOT NULL, status_updated_us BIGINT NOT NULL,"
    " auth SMALLINT NOT NULL, primary_key BYTEA NOT NULL, secondary_key BYTEA NOT NULL,"
    " primary_thumbprint TEXT NOT NULL, secondary_thumbprint TEXT NOT NULL, iot_edge SMALLINT NOT NULL,"
    " device_scope TEXT NOT NULL, parent_scopes TEXT NOT NULL, managed_by TEXT NOT NULL, attributes TEXT NOT NULL,"
    " connection_updated_us BIGINT NOT NULL, last_activity_us BIGINT NOT NULL, PRIMARY KEY (device_id, module_id));"
    "CREATE TABLE stored_sessions (device_id TEXT NOT NULL, module_id TEXT NOT NULL, generation BIGINT NOT NULL,"
    " content BYTEA NOT NULL, PRIMARY KEY (device_id, module_id));"
    "CREATE TABLE policies (name TEXT NOT NULL PRIMARY KEY, rights INTEGER NOT NULL, primary_key BYTEA NOT NULL,"
    " secondary_key BYTEA NOT NULL);",
    NV_SQL_TWIN_SCHEMA NV_SQL_C2D_SCHEMA NV_SQL_OUTBOX_SCHEMA,
    NV_SQL_GROUPS_SCHEMA,
};
#define SCHEMA_VERSION ((int64_t)NV_COUNT_OF(migrations))

static nv_err map_error(int rc, int system_errno)
{
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_DONE:
    case SQLITE_ROW:
        return NV_OK;
    case SQLITE_FULL:
        return NV_E_NO_SPACE;
    case SQLITE_NOMEM:
        return NV_E_NO_MEMORY;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return NV_E_CORRUPT;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return NV_E_IN_USE;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_AUTH:
        return NV_E_PERMISSION;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN: {
        nv_err err = nv_err_from_errno(system_errno);
        return err == NV_E_NO_SPACE || err == NV_E_PERMISSION ? err : NV_E_IO;
    }
    default:
        return NV_E_IO;
    }
}

nv_err nv_db_error(const nv_db *db)
{
    nv_err err = map_error(sqlite3_extended_errcode(db->handle), sqlite3_system_errno(db->handle));
    return err == NV_OK ? NV_E_IO : err;
}

bool nv_db_in_transaction(const nv_db *db)
{
    return sqlite3_get_autocommit(db->handle) == 0;
}

/* ---- open ---- */

static nv_err explain(const nv_db *db, const char *path, nv_buf *why)
{
    nv_err err = nv_db_error(db);
    if (err == NV_E_CORRUPT) {
        nv_ignore(nv_buf_printf(why, "%s is not a state file of Nave, or it is damaged: %s", path,
                                sqlite3_errmsg(db->handle)));
    } else if (err == NV_E_IN_USE) {
        nv_ignore(nv_buf_printf(why, "another program has %s open for writing", path));
    } else {
        nv_ignore(nv_buf_printf(why, "cannot use %s: %s (%s)", path, sqlite3_errmsg(db->handle), nv_err_text(err)));
    }
    return err;
}

static nv_err execute(nv_db *db, const char *sql)
{
    return sqlite3_exec(db->handle, sql, NULL, NULL, NULL) == SQLITE_OK ? NV_OK : nv_db_error(db);
}

/* One number from a query without parameters. */
static nv_err number(nv_db *db, const char *sql, int64_t *out)
{
    sqlite3_stmt *statement = NULL;
    nv_err err = NV_OK;
    if (sqlite3_prepare_v2(db->handle, sql, -1, &statement, NULL) != SQLITE_OK ||
        sqlite3_step(statement) != SQLITE_ROW) {
        err = nv_db_error(db);
    } else {
        *out = sqlite3_column_int64(statement, 0);
    }
    sqlite3_finalize(statement);
    return err;
}

static bool is_wal(nv_db *db)
{
    sqlite3_stmt *statement = NULL;
    bool wal = false;
    if (sqlite3_prepare_v2(db->handle, "PRAGMA journal_mode = WAL", -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW) {
        wal = sqlite3_stricmp((const char *)sqlite3_column_text(statement, 0), "wal") == 0;
    }
    sqlite3_finalize(statement);
    return wal;
}

static bool is_wal_reader(nv_db *db)
{
    int64_t ignored = 0;
    return number(db, "SELECT COUNT(*) FROM meta", &ignored) == NV_OK;
}

nv_err nv_db_open(nv_db *db, const char *path, const char *vfs, bool writer, nv_buf *why)
{
    *db = (nv_db){0};
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    if (sqlite3_open_v2(path, &db->handle, flags, vfs) != SQLITE_OK) {
        nv_err err = explain(db, path, why);
        nv_db_close(db);
        return err;
    }
    sqlite3_busy_timeout(db->handle, 2000);
    /* The undo log of a savepoint stays in memory: its content is never needed after a crash. */
    nv_err err = execute(db, "PRAGMA temp_store = MEMORY; PRAGMA cache_size = -2048; PRAGMA trusted_schema = OFF");
    if (err == NV_OK) {
        err = writer ? execute(db, "PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 16777216")
                     : execute(db, "PRAGMA query_only = ON");
    }
    if (err != NV_OK || !(writer ? is_wal(db) : is_wal_reader(db))) {
        err = explain(db, path, why);
        nv_db_close(db);
    }
    return err;
}

void nv_db_close(nv_db *db)
{
    for (size_t i = 0; i < NV_SQL_COUNT; i++) {
        sqlite3_finalize(db->statements[i]);
    }
    int rc = sqlite3_close(db->handle);
    assert(rc == SQLITE_OK);
    (void)rc;
    *db = (nv_db){0};
}

/* So many times longer than it should be, the log is behind. */
#define BEHIND_FACTOR 4

/* After each commit, with the pages that the log has now. What cannot be folded now is next time: no error. */
static int on_commit(void *arg, sqlite3 *handle, const char *name, int pages)
{
    nv_db *db = arg;
    db->log_behind = false;
    if (pages >= (int)db->checkpoint_pages) {
        int log = 0;
        int folded = 0;
        (void)sqlite3_wal_checkpoint_v2(handle, name, SQLITE_CHECKPOINT_PASSIVE, &log, &folded);
        db->log_behind = folded < log && log / BEHIND_FACTOR >= (int)db->checkpoint_pages;
    }
    return SQLITE_OK;
}

void nv_db_set_checkpoint(nv_db *db, uint32_t pages)
{
    db->checkpoint_pages = pages < INT32_MAX ? pages : INT32_MAX;
    (void)sqlite3_wal_hook(db->handle, on_commit, db);
}

/* ---- schema ---- */

static nv_err apply(nv_db *db, int64_t version, int64_t now_us)
{
    char mark[192];
    (void)snprintf(mark, sizeof(mark),
                   "INSERT INTO schema_migrations (version, applied_us) VALUES (%lld, %lld);"
                   "PRAGMA user_version = %lld;",
                   (long long)version + 1, (long long)now_us, (long long)version + 1);
    nv_err err = execute(db, migrations[version]);
    return err == NV_OK ? execute(db, mark) : err;
}

static nv_err put_id(nv_db *db, nv_span id)
{
    nv_query query = nv_query_start(db, NV_SQL_META_PUT);
    nv_query_text(&query, nv_span_str("id"));
    nv_query_bytes(&query, id);
    return nv_query_finish(&query);
}

static nv_err migrate_in_transaction(nv_db *db, int64_t from, nv_span created_id, int64_t now_us)
{
    nv_err err = NV_OK;
    for (int64_t version = from; err == NV_OK && version < SCHEMA_VERSION; version++) {
        err = apply(db, version, now_us);
    }
    if (err == NV_OK && from == 0) {
        char mark[64];
        (void)snprintf(mark, sizeof(mark), "PRAGMA application_id = %d", APPLICATION_ID);
        err = execute(db, mark);
        err = err == NV_OK ? put_id(db, created_id) : err;
    }
    return err;
}

nv_err nv_db_migrate(nv_db *db, const char *path, nv_span created_id, int64_t now_us, nv_buf *why)
{
    int64_t version = 0;
    int64_t application = 0;
    int64_t objects = 0;
    nv_err err = number(db, "PRAGMA user_version", &version);
    err = err == NV_OK ? number(db, "PRAGMA application_id", &application) : err;
    err = err == NV_OK ? number(db, "SELECT COUNT(*) FROM sqlite_master", &objects) : err;
    if (err != NV_OK) {
        return explain(db, path, why);
    }
    if (objects > 0 && application != APPLICATION_ID) {
        nv_ignore(nv_buf_printf(why, "%s is a database of another program; choose another data folder", path));
        return NV_E_CORRUPT;
    }
    if (version > SCHEMA_VERSION) {
        nv_ignore(nv_buf_printf(
            why, "%s was written by a newer version of Nave (schema %lld, this one knows %lld); use that version", path,
            (long long)version, (long long)SCHEMA_VERSION));
        return NV_E_UNSUPPORTED;
    }
    if (version == SCHEMA_VERSION) {
        return NV_OK;
    }
    err = nv_db_run(db, NV_SQL_BEGIN);
    err = err == NV_OK ? migrate_in_transaction(db, version, created_id, now_us) : err;
    err = err == NV_OK ? nv_db_run(db, NV_SQL_COMMIT) : err;
    if (err != NV_OK) {
        nv_ignore(explain(db, path, why));
        if (nv_db_in_transaction(db)) {
            nv_ignore(nv_db_run(db, NV_SQL_ROLLBACK));
        }
    }
    return err;
}

/* ---- statements ---- */

nv_query nv_query_start(nv_db *db, nv_sql sql)
{
    nv_query query = {.db = db, .rc = SQLITE_OK};
    if (!db->statements[sql]) {
        query.rc =
            sqlite3_prepare_v3(db->handle, sql_texts[sql], -1, SQLITE_PREPARE_PERSISTENT, &db->statements[sql], NULL);
    }
    query.statement = db->statements[sql];
    return query;
}

static void keep(nv_query *query, int rc)
{
    if (query->rc == SQLITE_OK) {
        query->rc = rc;
    }
}

/* SQLite takes a NULL pointer for NULL; ours mean empty. */
static const void *address(nv_span span)
{
    return span.ptr ? (const void *)span.ptr : "";
}

void nv_query_text(nv_query *query, nv_span text)
{
    query->bound++;
    if (query->rc == SQLITE_OK) {
        keep(query,
             sqlite3_bind_text64(query->statement, query->bound, address(text), text.len, SQLITE_STATIC, SQLITE_UTF8));
    }
}

void nv_query_bytes(nv_query *query, nv_span bytes)
{
    query->bound++;
    if (query->rc == SQLITE_OK) {
        keep(query, sqlite3_bind_blob64(query->statement, query->bound, address(bytes), bytes.len, SQLITE_STATIC));
    }
}

void nv_query_int(nv_query *query, int64_t value)
{
    query->bound++;
    if (query->rc == SQLITE_OK) {
        keep(query, sqlite3_bind_int64(query->statement, query->bound, value));
    }
}

void nv_query_u64(nv_query *query, uint64_t value)
{
    assert(value <= INT64_MAX);
    nv_query_int(query, (int64_t)value);
}

nv_err nv_query_step(nv_query *query)
{
    if (query->rc == SQLITE_OK || query->rc == SQLITE_ROW) {
        query->rc = sqlite3_step(query->statement);
    }
    if (query->rc == SQLITE_ROW) {
        return NV_OK;
    }
    return query->rc == SQLITE_DONE ? NV_E_EOF : nv_db_error(query->db);
}

nv_span nv_query_column_span(const nv_query *query, int column)
{
    const void *bytes = sqlite3_column_blob(query->statement, column);
    int len = sqlite3_column_bytes(query->statement, column);
    return bytes && len > 0 ? nv_span_of(bytes, (size_t)len) : NV_SPAN_EMPTY;
}

int64_t nv_query_column_int(const nv_query *query, int column)
{
    return sqlite3_column_int64(query->statement, column);
}

uint64_t nv_query_column_u64(const nv_query *query, int column)
{
    int64_t value = sqlite3_column_int64(query->statement, column);
    return value > 0 ? (uint64_t)value : 0;
}

void nv_query_end(nv_query *query)
{
    if (query->statement) {
        (void)sqlite3_reset(query->statement); /* repeats the error of step */
        (void)sqlite3_clear_bindings(query->statement);
    }
}

nv_err nv_query_finish(nv_query *query)
{
    nv_err err = nv_query_step(query);
    nv_query_end(query);
    return err == NV_E_EOF ? NV_OK : err;
}

nv_err nv_db_run(nv_db *db, nv_sql sql)
{
    nv_query query = nv_query_start(db, sql);
    return nv_query_finish(&query);
}
