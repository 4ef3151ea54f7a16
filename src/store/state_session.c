/* Ready-made operations: the stored session of one identity. */
#include "store/state.h"

#include "base/attrs.h"

static nv_err run_session_load(nv_state_op *op, nv_txn *txn)
{
    nv_state_session *session = nv_container_of(op, nv_state_session, op);
    nv_span blob = NV_SPAN_EMPTY;
    nv_err err = nv_txn_session_get(txn, session->device_id, session->module_id, session->generation, &blob);
    session->present = err == NV_OK;
    session->len = blob.len <= sizeof(session->blob) ? blob.len : 0;
    if (session->len) {
        memcpy(session->blob, blob.ptr, session->len);
    }
    if (err != NV_OK && err != NV_E_NOT_FOUND) {
        return err;
    }
    return session->clear ? nv_txn_session_delete(txn, session->device_id, session->module_id) : NV_OK;
}

static nv_err run_session_store(nv_state_op *op, nv_txn *txn)
{
    nv_state_session *session = nv_container_of(op, nv_state_session, op);
    return nv_txn_session_put(txn, session->device_id, session->module_id, session->generation,
                              nv_span_of(session->blob, session->len));
}

nv_err nv_state_session_load(nv_state *state, nv_state_session *session)
{
    session->op.run = run_session_load;
    return session->clear ? nv_state_write(state, &session->op) : nv_state_read(state, &session->op);
}

nv_err nv_state_session_store(nv_state *state, nv_state_session *session)
{
    if (session->len > sizeof(session->blob)) {
        return NV_E_TOO_BIG;
    }
    session->op.run = run_session_store;
    return nv_state_write(state, &session->op);
}
