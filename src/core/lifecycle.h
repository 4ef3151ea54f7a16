/** Events of identities that come and go (semantics.md section 4.1). Internal to the registry. */
#ifndef NV_CORE_LIFECYCLE_H
#define NV_CORE_LIFECYCLE_H

#include "core/hub.h"
#include "store/state.h"

/**
 * Within the transaction: after an identity was put for the first time, or before it is deleted (its modules are told
 * of by themselves, in front of their device). Nothing when nobody wants such events.
 * @param told  set to true when something was put: nv_events_committed() after the commit
 */
NV_NODISCARD nv_err nv_lifecycle_put(const nv_hub *hub, nv_txn *txn, const nv_identity_row *row, bool created,
                                     bool *told);

#endif
