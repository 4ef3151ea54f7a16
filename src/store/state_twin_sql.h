/** The tables and statements of twins. Internal to the state store; the rules of state_db.h hold. */
#ifndef NV_STORE_STATE_TWIN_SQL_H
#define NV_STORE_STATE_TWIN_SQL_H

/* Part of the schema's second step. */
#define NV_SQL_TWIN_SCHEMA ""

#define NV_SQL_TWIN_TABLE(X)

#endif
