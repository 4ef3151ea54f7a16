/** The tables and statements of cloud-to-device messages and their feedback. Internal to the state store; the rules of
 * state_db.h hold. */
#ifndef NV_STORE_STATE_C2D_SQL_H
#define NV_STORE_STATE_C2D_SQL_H

/* Part of the schema's second step. */
#define NV_SQL_C2D_SCHEMA ""

#define NV_SQL_C2D_TABLE(X)

#endif
