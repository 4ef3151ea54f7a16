/** The tables and statements of the outbox of events. Internal to the state store; the rules of state_db.h hold. */
#ifndef NV_STORE_STATE_OUTBOX_SQL_H
#define NV_STORE_STATE_OUTBOX_SQL_H

/*
 * outbox: events on their way to the log; row ids only grow, also after deletions (nv_txn_generation).
 * open_connections: whose connection was told of as open and not yet as closed; `run` names the life of the hub that
 * told it. Part of the schema's second step.
 */
#define NV_SQL_OUTBOX_SCHEMA                                                                                           \
    "CREATE TABLE outbox (row_id BIGINT NOT NULL PRIMARY KEY, device_id TEXT NOT NULL, module_id TEXT NOT NULL,"       \
    " generation BIGINT NOT NULL, source SMALLINT NOT NULL, properties BYTEA NOT NULL, body BYTEA NOT NULL);"          \
    "CREATE TABLE open_connections (device_id TEXT NOT NULL, module_id TEXT NOT NULL, generation BIGINT NOT NULL,"     \
    " run BIGINT NOT NULL, PRIMARY KEY (device_id, module_id));"

#define NV_SQL_OUTBOX_TABLE(X)                                                                                         \
    X(OUTBOX_PUT, "INSERT INTO outbox (row_id, device_id, module_id, generation, source, properties, body) "           \
                  "VALUES ($1, $2, $3, $4, $5, $6, $7)")                                                               \
    X(OUTBOX_READ, "SELECT row_id, device_id, module_id, generation, source, properties, body FROM outbox "            \
                   "WHERE row_id > $1 ORDER BY row_id")                                                                \
    X(OUTBOX_DELETE, "DELETE FROM outbox WHERE row_id <= $1")                                                          \
    X(OPEN_PUT, "INSERT INTO open_connections (device_id, module_id, generation, run) VALUES ($1, $2, $3, $4) "        \
                "ON CONFLICT (device_id, module_id) DO UPDATE SET generation = excluded.generation, "                  \
                "run = excluded.run")                                                                                  \
    X(OPEN_GET, "SELECT generation, run FROM open_connections WHERE device_id = $1 AND module_id = $2")                \
    X(OPEN_DELETE, "DELETE FROM open_connections WHERE device_id = $1 AND module_id = $2")                             \
    X(OPEN_OTHERS, "SELECT device_id, module_id, generation, run FROM open_connections WHERE run <> $1 "               \
                   "ORDER BY device_id, module_id LIMIT $2")

#endif
