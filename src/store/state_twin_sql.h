/** The tables and statements of twins. Internal to the state store; the rules of state_db.h hold. */
#ifndef NV_STORE_STATE_TWIN_SQL_H
#define NV_STORE_STATE_TWIN_SQL_H

/*
 * Part of the schema's second step. Metadata stands apart: a query over many twins does not drag it along. The small
 * columns of a twin come first, so that they are found without reading over the sections.
 */
#define NV_SQL_TWIN_SCHEMA                                                                                             \
    "CREATE TABLE twins (device_id TEXT NOT NULL, module_id TEXT NOT NULL, generation BIGINT NOT NULL,"                \
    " version BIGINT NOT NULL, etag BIGINT NOT NULL, desired_version BIGINT NOT NULL,"                                 \
    " reported_version BIGINT NOT NULL, model_id TEXT NOT NULL, tags TEXT NOT NULL, desired TEXT NOT NULL,"            \
    " reported TEXT NOT NULL, PRIMARY KEY (device_id, module_id));"                                                    \
    "CREATE TABLE twin_metadata (device_id TEXT NOT NULL, module_id TEXT NOT NULL, desired BYTEA NOT NULL,"            \
    " reported BYTEA NOT NULL, PRIMARY KEY (device_id, module_id));"                                                   \
    "CREATE TABLE twin_index (path TEXT NOT NULL, value TEXT NOT NULL, device_id TEXT NOT NULL,"                       \
    " module_id TEXT NOT NULL, PRIMARY KEY (path, value, device_id, module_id));"                                      \
    "CREATE INDEX twin_index_owner ON twin_index (device_id, module_id);"                                              \
    "CREATE INDEX identities_by_module ON identities (module_id, device_id) WHERE module_id > '';"

#define NV_SQL_TWIN_COLUMNS                                                                                            \
    "t.generation, t.version, t.etag, t.desired_version, t.reported_version, t.model_id, t.tags, t.desired, "          \
    "t.reported"

#define NV_SQL_TWIN_TABLE(X)                                                                                           \
    X(TWIN_GET, "SELECT " NV_SQL_TWIN_COLUMNS ", x.desired, x.reported FROM twins t JOIN twin_metadata x "             \
                "ON x.device_id = t.device_id AND x.module_id = t.module_id "                                          \
                "WHERE t.device_id = $1 AND t.module_id = $2")                                                         \
    X(TWIN_INSERT, "INSERT INTO twins (device_id, module_id, generation, version, etag, desired_version, "             \
                   "reported_version, model_id, tags, desired, reported) "                                             \
                   "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)")                                            \
    X(TWIN_UPDATE, "UPDATE twins SET version = $1, etag = $2, desired_version = $3, reported_version = $4, "           \
                   "model_id = $5, tags = $6, desired = $7, reported = $8 "                                            \
                   "WHERE device_id = $9 AND module_id = $10")                                                         \
    X(TWIN_METADATA_INSERT,                                                                                            \
      "INSERT INTO twin_metadata (device_id, module_id, desired, reported) VALUES ($1, $2, $3, $4)")                   \
    X(TWIN_METADATA_UPDATE,                                                                                            \
      "UPDATE twin_metadata SET desired = $1, reported = $2 WHERE device_id = $3 AND module_id = $4")                  \
    X(TWIN_DELETE, "DELETE FROM twins WHERE device_id = $1 AND module_id = $2")                                        \
    X(TWIN_METADATA_DELETE, "DELETE FROM twin_metadata WHERE device_id = $1 AND module_id = $2")                       \
    X(TWIN_TAGS_DELETE, "DELETE FROM twin_index WHERE device_id = $1 AND module_id = $2")                              \
    X(DEVICE_TWINS_DELETE, "DELETE FROM twins WHERE device_id = $1")                                                   \
    X(DEVICE_TWIN_METADATA_DELETE, "DELETE FROM twin_metadata WHERE device_id = $1")                                   \
    X(DEVICE_TWIN_TAGS_DELETE, "DELETE FROM twin_index WHERE device_id = $1")                                          \
    X(TWIN_TAG_PUT, "INSERT INTO twin_index (path, value, device_id, module_id) VALUES ($1, $2, $3, $4) "              \
                    "ON CONFLICT (path, value, device_id, module_id) DO NOTHING")                                      \
    X(TWIN_TAG_DELETE, "DELETE FROM twin_index "                                                                       \
                       "WHERE path = $1 AND value = $2 AND device_id = $3 AND module_id = $4")                         \
    X(TWINS_OF_DEVICES, "SELECT " NV_SQL_IDENTITY_COLUMNS ", m.enabled, " NV_SQL_TWIN_COLUMNS " FROM identities m "    \
                        "LEFT JOIN twins t ON t.device_id = m.device_id AND t.module_id = m.module_id "                \
                        "WHERE m.module_id = '' AND m.device_id > $1 ORDER BY m.device_id LIMIT $2")                   \
    X(TWINS_OF_MODULES, "SELECT " NV_SQL_IDENTITY_COLUMNS ", d.enabled, " NV_SQL_TWIN_COLUMNS " FROM identities m "    \
                        "JOIN identities d ON d.device_id = m.device_id AND d.module_id = '' "                         \
                        "LEFT JOIN twins t ON t.device_id = m.device_id AND t.module_id = m.module_id "                \
                        "WHERE m.module_id > '' AND (m.device_id, m.module_id) > ($1, $2) "                            \
                        "ORDER BY m.device_id, m.module_id LIMIT $3")                                                  \
    X(TWINS_OF_MODULE, "SELECT " NV_SQL_IDENTITY_COLUMNS ", d.enabled, " NV_SQL_TWIN_COLUMNS " FROM identities m "     \
                       "JOIN identities d ON d.device_id = m.device_id AND d.module_id = '' "                          \
                       "LEFT JOIN twins t ON t.device_id = m.device_id AND t.module_id = m.module_id "                 \
                       "WHERE m.module_id = $1 AND m.module_id > '' AND m.device_id > $2 "                             \
                       "ORDER BY m.device_id LIMIT $3")                                                                \
    X(TAGGED_DEVICES, "SELECT " NV_SQL_IDENTITY_COLUMNS ", m.enabled, " NV_SQL_TWIN_COLUMNS " FROM twin_index i "      \
                      "JOIN identities m ON m.device_id = i.device_id AND m.module_id = i.module_id "                  \
                      "LEFT JOIN twins t ON t.device_id = i.device_id AND t.module_id = i.module_id "                  \
                      "WHERE i.path = $1 AND i.value = $2 AND i.module_id = '' AND i.device_id > $3 "                  \
                      "ORDER BY i.device_id LIMIT $4")                                                                 \
    X(TAGGED_MODULES,                                                                                                  \
      "SELECT " NV_SQL_IDENTITY_COLUMNS ", d.enabled, " NV_SQL_TWIN_COLUMNS " FROM twin_index i "                      \
      "JOIN identities m ON m.device_id = i.device_id AND m.module_id = i.module_id "                                  \
      "JOIN identities d ON d.device_id = i.device_id AND d.module_id = '' "                                           \
      "LEFT JOIN twins t ON t.device_id = i.device_id AND t.module_id = i.module_id "                                  \
      "WHERE i.path = $1 AND i.value = $2 AND i.module_id > '' AND (i.device_id, i.module_id) > ($3, $4) "             \
      "ORDER BY i.device_id, i.module_id LIMIT $5")

#endif
