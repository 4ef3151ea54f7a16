/** The table and statements of consumer groups. Internal to the state store; the rules of state_db.h hold. */
#ifndef NV_STORE_STATE_GROUPS_SQL_H
#define NV_STORE_STATE_GROUPS_SQL_H

/*
 * consumer_groups: readers of the built-in endpoint; id is the name in lower case. $Default is a row from the start, as
 * old as the store. The schema's third step.
 */
#define NV_SQL_GROUPS_SCHEMA                                                                                           \
    "CREATE TABLE consumer_groups (id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, created_us BIGINT NOT NULL);"     \
    "INSERT INTO consumer_groups (id, name, created_us) "                                                              \
    "SELECT '$default', '$Default', applied_us FROM schema_migrations WHERE version = 1;"

#define NV_SQL_GROUPS_TABLE(X)                                                                                         \
    X(GROUPS, "SELECT name, created_us FROM consumer_groups ORDER BY id")                                              \
    X(GROUPS_COUNT, "SELECT COUNT(*) FROM consumer_groups")                                                            \
    X(GROUP_GET, "SELECT name, created_us FROM consumer_groups WHERE id = $1")                                         \
    X(GROUP_PUT, "INSERT INTO consumer_groups (id, name, created_us) VALUES ($1, $2, $3)")                             \
    X(GROUP_DELETE, "DELETE FROM consumer_groups WHERE id = $1")

#endif
