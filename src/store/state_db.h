/** One SQLite connection with its prepared statements: the only code that knows SQL. Internal to the state store. */
#ifndef NV_STORE_STATE_DB_H
#define NV_STORE_STATE_DB_H

#include "base/arena.h"
#include "store/state.h"
#include "store/state_c2d_sql.h"
#include "store/state_groups_sql.h"
#include "store/state_outbox_sql.h"
#include "store/state_twin_sql.h"

#include <sqlite3.h>

/*
 * The SQL is what SQLite and PostgreSQL both understand: numbered parameters in the order of their first use, ON
 * CONFLICT with named columns, no rowid, no type that one of them lacks. A database of PostgreSQL is created with the C
 * collation, so that texts compare by bytes there too.
 */
#define NV_SQL_IDENTITY_COLUMNS                                                                                        \
    "m.device_id, m.module_id, m.generation, m.etag, m.status_reason, m.status_updated_us, m.auth, m.primary_key, "    \
    "m.secondary_key, m.primary_thumbprint, m.secondary_thumbprint, m.iot_edge, m.device_scope, m.parent_scopes, "     \
    "m.managed_by, m.attributes, m.connection_updated_us, m.last_activity_us"

#define NV_SQL_TABLE(X)                                                                                                \
    X(BEGIN, "BEGIN")                                                                                                  \
    X(COMMIT, "COMMIT")                                                                                                \
    X(ROLLBACK, "ROLLBACK")                                                                                            \
    X(SAVEPOINT, "SAVEPOINT operation")                                                                                \
    X(UNDO, "ROLLBACK TO SAVEPOINT operation")                                                                         \
    X(RELEASE, "RELEASE SAVEPOINT operation")                                                                          \
    X(TOTALS_GET, "SELECT generation, devices, devices_enabled, modules FROM totals WHERE id = 1")                     \
    X(TOTALS_PUT, "UPDATE totals SET generation = $1, devices = $2, devices_enabled = $3, modules = $4 WHERE id = 1")  \
    X(IDENTITY_GET, "SELECT " NV_SQL_IDENTITY_COLUMNS ", d.enabled FROM identities m JOIN identities d "               \
                    "ON d.device_id = m.device_id AND d.module_id = '' WHERE m.device_id = $1 AND m.module_id = $2")   \
    X(DEVICES, "SELECT " NV_SQL_IDENTITY_COLUMNS ", m.enabled FROM identities m "                                      \
               "WHERE m.module_id = '' AND m.device_id > $1 ORDER BY m.device_id LIMIT $2")                            \
    X(MODULES, "SELECT " NV_SQL_IDENTITY_COLUMNS ", d.enabled FROM identities m JOIN identities d "                    \
               "ON d.device_id = m.device_id AND d.module_id = '' "                                                    \
               "WHERE m.device_id = $1 AND m.module_id > $2 ORDER BY m.module_id LIMIT $3")                            \
    X(MODULE_COUNT, "SELECT COUNT(*) FROM identities WHERE device_id = $1 AND module_id > ''")                         \
    X(IDENTITY_PROBE, "SELECT generation, enabled FROM identities WHERE device_id = $1 AND module_id = $2")            \
    X(IDENTITY_PUT,                                                                                                    \
      "INSERT INTO identities (device_id, module_id, generation, etag, enabled, status_reason, status_updated_us, "    \
      "auth, primary_key, secondary_key, primary_thumbprint, secondary_thumbprint, iot_edge, device_scope, "           \
      "parent_scopes, managed_by, attributes, connection_updated_us, last_activity_us) "                               \
      "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19) "                 \
      "ON CONFLICT (device_id, module_id) DO UPDATE SET generation = excluded.generation, etag = excluded.etag, "      \
      "enabled = excluded.enabled, status_reason = excluded.status_reason, "                                           \
      "status_updated_us = excluded.status_updated_us, auth = excluded.auth, primary_key = excluded.primary_key, "     \
      "secondary_key = excluded.secondary_key, primary_thumbprint = excluded.primary_thumbprint, "                     \
      "secondary_thumbprint = excluded.secondary_thumbprint, iot_edge = excluded.iot_edge, "                           \
      "device_scope = excluded.device_scope, parent_scopes = excluded.parent_scopes, "                                 \
      "managed_by = excluded.managed_by, attributes = excluded.attributes")                                            \
    X(DEVICE_DELETE, "DELETE FROM identities WHERE device_id = $1")                                                    \
    X(MODULE_DELETE, "DELETE FROM identities WHERE device_id = $1 AND module_id = $2")                                 \
    X(SEEN_PUT, "UPDATE identities SET connection_updated_us = $1, last_activity_us = $2 "                             \
                "WHERE device_id = $3 AND module_id = $4 AND generation = $5")                                         \
    X(SESSION_GET, "SELECT content FROM stored_sessions WHERE device_id = $1 AND module_id = $2 AND generation = $3")  \
    X(SESSION_PUT, "INSERT INTO stored_sessions (device_id, module_id, generation, content) "                          \
                   "VALUES ($1, $2, $3, $4) ON CONFLICT (device_id, module_id) "                                       \
                   "DO UPDATE SET generation = excluded.generation, content = excluded.content")                       \
    X(SESSION_PROBE, "SELECT generation FROM stored_sessions WHERE device_id = $1 AND module_id = $2")                 \
    X(SESSION_DELETE, "DELETE FROM stored_sessions WHERE device_id = $1 AND module_id = $2")                           \
    X(DEVICE_SESSIONS_DELETE, "DELETE FROM stored_sessions WHERE device_id = $1")                                      \
    X(POLICIES, "SELECT name, rights, primary_key, secondary_key FROM policies ORDER BY name")                         \
    X(POLICY_PUT, "INSERT INTO policies (name, rights, primary_key, secondary_key) VALUES ($1, $2, $3, $4) "           \
                  "ON CONFLICT (name) DO UPDATE SET rights = excluded.rights, primary_key = excluded.primary_key, "    \
                  "secondary_key = excluded.secondary_key")                                                            \
    X(META_GET, "SELECT value FROM meta WHERE name = $1")                                                              \
    X(META_PUT, "INSERT INTO meta (name, value) VALUES ($1, $2) "                                                      \
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value")                                             \
    NV_SQL_TWIN_TABLE(X)                                                                                               \
    NV_SQL_C2D_TABLE(X)                                                                                                \
    NV_SQL_OUTBOX_TABLE(X)                                                                                             \
    NV_SQL_GROUPS_TABLE(X)

typedef enum nv_sql {
#define X(id, text) NV_SQL_##id,
    NV_SQL_TABLE(X)
#undef X
        NV_SQL_COUNT
} nv_sql;

typedef struct nv_db {
    sqlite3 *handle;
    sqlite3_stmt *statements[NV_SQL_COUNT]; /* prepared on first use */
    uint32_t checkpoint_pages;
    /* The write-ahead log is long and could not be folded whole: somebody reads a state that is in it. */
    bool log_behind;
} nv_db;

/** What is committed besides the rows: the last generation given and the counts. */
typedef struct nv_totals {
    uint64_t generation;
    nv_state_counts counts;
} nv_totals;

/** Open one connection to the file and set it up. @p why gets a sentence on failure. */
NV_NODISCARD nv_err nv_db_open(nv_db *db, const char *path, const char *vfs, bool writer, nv_buf *why);
void nv_db_close(nv_db *db);
/**
 * Fold the write-ahead log into the file whenever a commit leaves it with at least @p pages. The writer's connection,
 * which stays where it is.
 */
void nv_db_set_checkpoint(nv_db *db, uint32_t pages);
/** Create or migrate the schema. Writer's connection only. @p created_id goes into a store that is created now. */
NV_NODISCARD nv_err nv_db_migrate(nv_db *db, const char *path, nv_span created_id, int64_t now_us, nv_buf *why);

/** The error of the last call on the connection. */
nv_err nv_db_error(const nv_db *db);
/** Run a statement without parameters or rows. */
NV_NODISCARD nv_err nv_db_run(nv_db *db, nv_sql sql);
/** True while a transaction is open: some errors end it on their own. */
bool nv_db_in_transaction(const nv_db *db);

/* ---- one execution of a statement: bind in order, step, read, end ---- */

typedef struct nv_query {
    nv_db *db;
    sqlite3_stmt *statement; /* NULL: it could not be prepared */
    int bound;
    int rc; /* sticky */
} nv_query;

nv_query nv_query_start(nv_db *db, nv_sql sql);
/** Bytes stay the caller's until nv_query_end. */
void nv_query_text(nv_query *query, nv_span text);
void nv_query_bytes(nv_query *query, nv_span bytes);
void nv_query_int(nv_query *query, int64_t value);
void nv_query_u64(nv_query *query, uint64_t value);
/** @return NV_OK a row; NV_E_EOF no more; otherwise an error */
NV_NODISCARD nv_err nv_query_step(nv_query *query);
/** Valid until the next step. */
nv_span nv_query_column_span(const nv_query *query, int column);
int64_t nv_query_column_int(const nv_query *query, int column);
uint64_t nv_query_column_u64(const nv_query *query, int column);
void nv_query_end(nv_query *query);
/** Step a statement that yields no rows, and end it. */
NV_NODISCARD nv_err nv_query_finish(nv_query *query);

/* ---- the transaction that run() sees ---- */

struct nv_txn {
    nv_db *db;
    const nv_clock *clock;
    nv_arena arena; /* what was handed out in this run */
    nv_totals totals;
    bool writes;    /* the writer's */
    bool savepoint; /* this operation wrote something */
};

/** In front of each write of an operation: sets its savepoint at the first one. */
NV_NODISCARD nv_err nv_txn_begin_write(nv_txn *txn);
/** Bind both ids. */
void nv_query_ids(nv_query *query, nv_span device_id, nv_span module_id);
/** The columns of NV_SQL_IDENTITY_COLUMNS and the effective `enabled` behind them; spans are the statement's. */
nv_identity_row nv_query_identity(const nv_query *query);

/** Everything of the twin of a module, or of a device and its modules; absent is fine. */
NV_NODISCARD nv_err nv_txn_twin_delete(nv_txn *txn, nv_span device_id, nv_span module_id);
/** Messages of a device, and feedback of them that nobody fetched; absent is fine. */
NV_NODISCARD nv_err nv_txn_c2d_drop(nv_txn *txn, nv_span device_id);

#endif
