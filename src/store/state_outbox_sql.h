/** The tables and statements of the outbox of events. Internal to the state store; the rules of state_db.h hold. */
#ifndef NV_STORE_STATE_OUTBOX_SQL_H
#define NV_STORE_STATE_OUTBOX_SQL_H

/* Part of the schema's second step. */
#define NV_SQL_OUTBOX_SCHEMA ""

#define NV_SQL_OUTBOX_TABLE(X)

#endif
