/** The tables and statements of cloud-to-device messages and their feedback. Internal to the state store; the rules of
 * state_db.h hold. */
#ifndef NV_STORE_STATE_C2D_SQL_H
#define NV_STORE_STATE_C2D_SQL_H

/*
 * Part of the schema's second step. A queue has a row of its own only to remember how far its sequence went once its
 * newest message is gone; as long as that is there, it tells.
 */
#define NV_SQL_C2D_SCHEMA                                                                                              \
    "CREATE TABLE c2d_queues (device_id TEXT NOT NULL PRIMARY KEY, generation BIGINT NOT NULL,"                        \
    " next_sequence BIGINT NOT NULL);"                                                                                 \
    "CREATE TABLE c2d_messages (device_id TEXT NOT NULL, sequence BIGINT NOT NULL, generation BIGINT NOT NULL,"        \
    " enqueued_us BIGINT NOT NULL, expires_us BIGINT NOT NULL, deliveries INTEGER NOT NULL, ack SMALLINT NOT NULL,"    \
    " body_kind SMALLINT NOT NULL, properties BYTEA NOT NULL, body BYTEA NOT NULL,"                                    \
    " PRIMARY KEY (device_id, sequence));"                                                                             \
    "CREATE INDEX c2d_messages_expiry ON c2d_messages (expires_us);"                                                   \
    "CREATE TABLE c2d_feedback (id BIGINT NOT NULL PRIMARY KEY, enqueued_us BIGINT NOT NULL,"                          \
    " expires_us BIGINT NOT NULL, deliveries INTEGER NOT NULL, status SMALLINT NOT NULL, device_id TEXT NOT NULL,"     \
    " generation BIGINT NOT NULL, message_id TEXT NOT NULL);"                                                          \
    "CREATE INDEX c2d_feedback_expiry ON c2d_feedback (expires_us);"                                                   \
    "CREATE INDEX c2d_feedback_device ON c2d_feedback (device_id);"

#define NV_SQL_C2D_COLUMNS "sequence, generation, enqueued_us, expires_us, deliveries, ack, body_kind, properties"

#define NV_SQL_C2D_TABLE(X)                                                                                            \
    X(C2D_PUT, "INSERT INTO c2d_messages (device_id, sequence, generation, enqueued_us, expires_us, deliveries, ack, " \
               "body_kind, properties, body) SELECT device_id, $1, generation, $2, $3, 0, $4, $5, $6, $7 "             \
               "FROM identities WHERE device_id = $8 AND module_id = '' AND generation = $9")                          \
    X(C2D_NEXT, "SELECT next_sequence FROM c2d_queues WHERE device_id = $1 AND generation = $2")                       \
    X(C2D_NEXT_PUT, "INSERT INTO c2d_queues (device_id, generation, next_sequence) "                                   \
                    "SELECT device_id, generation, $1 FROM identities "                                                \
                    "WHERE device_id = $2 AND module_id = '' AND generation = $3 ON CONFLICT (device_id) "             \
                    "DO UPDATE SET generation = excluded.generation, next_sequence = excluded.next_sequence")          \
    X(C2D_LAST, "SELECT MAX(sequence) FROM c2d_messages WHERE device_id = $1")                                         \
    X(C2D_DEPTH, "SELECT COUNT(*) FROM c2d_messages WHERE device_id = $1")                                             \
    X(C2D_LOAD, "SELECT " NV_SQL_C2D_COLUMNS ", body FROM c2d_messages "                                               \
                "WHERE device_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3")                                   \
    X(C2D_GET, "SELECT " NV_SQL_C2D_COLUMNS " FROM c2d_messages WHERE device_id = $1 AND sequence = $2")               \
    X(C2D_DELIVERIES_PUT, "UPDATE c2d_messages SET deliveries = $1 "                                                   \
                          "WHERE device_id = $2 AND sequence = $3 AND generation = $4")                                \
    X(C2D_DELETE, "DELETE FROM c2d_messages WHERE device_id = $1 AND sequence = $2 AND generation = $3")               \
    X(C2D_DUE, "SELECT device_id, sequence, generation FROM c2d_messages "                                             \
               "WHERE expires_us <= $1 ORDER BY expires_us LIMIT $2")                                                  \
    X(C2D_NEXT_EXPIRY, "SELECT MIN(expires_us) FROM c2d_messages WHERE expires_us > $1")                               \
    X(DEVICE_C2D_DELETE, "DELETE FROM c2d_messages WHERE device_id = $1")                                              \
    X(DEVICE_C2D_QUEUE_DELETE, "DELETE FROM c2d_queues WHERE device_id = $1")                                          \
    X(DEVICE_FEEDBACK_DELETE, "DELETE FROM c2d_feedback WHERE device_id = $1")                                         \
    X(FEEDBACK_PUT, "INSERT INTO c2d_feedback (id, enqueued_us, expires_us, deliveries, status, device_id, "           \
                    "generation, message_id) VALUES ($1, $2, $3, 0, $4, $5, $6, $7)")                                  \
    X(FEEDBACK_WALK, "SELECT id, enqueued_us, expires_us, deliveries, status, device_id, generation, message_id "      \
                     "FROM c2d_feedback ORDER BY id")                                                                  \
    X(FEEDBACK_DELETE, "DELETE FROM c2d_feedback WHERE id = $1")                                                       \
    X(FEEDBACK_RETURN, "UPDATE c2d_feedback SET deliveries = deliveries + 1 WHERE id = $1")                            \
    X(FEEDBACK_TIRED, "DELETE FROM c2d_feedback WHERE id = $1 AND deliveries >= $2")                                   \
    X(FEEDBACK_EXPIRE, "DELETE FROM c2d_feedback WHERE expires_us <= $1")                                              \
    X(FEEDBACK_NEXT_EXPIRY, "SELECT MIN(expires_us) FROM c2d_feedback")

#endif
