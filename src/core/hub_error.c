#include "core/registry.h"

#include "store/state.h"

#include <stdio.h>

static const nv_hub_error_info error_infos[] = {
#define X(id, number, status, text) [NV_HUB_ERROR_##id] = {#id, number, status, text},
    NV_HUB_ERROR_TABLE(X)
#undef X
};

const nv_hub_error_info *nv_hub_error_info_of(nv_hub_error error)
{
    return &error_infos[(size_t)error < NV_COUNT_OF(error_infos) ? error : NV_HUB_ERROR_ServerError];
}

nv_hub_error nv_hub_error_of(nv_err err)
{
    switch ((int)err) {
    case NV_OK:
        return NV_HUB_ERROR_NONE;
    case NV_E_AGAIN:
        return NV_HUB_ERROR_ThrottlingException;
    case NV_E_NO_SPACE:
    case NV_E_IO:
    case NV_E_IN_USE:
    case NV_E_PERMISSION:
        return NV_HUB_ERROR_ServiceUnavailable;
    default:
        return NV_HUB_ERROR_ServerError;
    }
}

void nv_hub_storage_reason(const nv_hub *hub, char out[NV_HUB_REASON])
{
    nv_log_status log;
    nv_err state = nv_state_health(hub->state);
    nv_log_get_status(hub->log, &log);
    out[0] = '\0';
    if (log.health != NV_LOG_OK) {
        (void)snprintf(out, NV_HUB_REASON, "%s", log.reason);
    } else if (state != NV_OK) {
        (void)snprintf(out, NV_HUB_REASON, "the state store: %s; %s", nv_err_text(state),
                       state == NV_E_NO_SPACE ? "free space on the volume"
                                              : "check the disk and the kernel's messages; retried with each change");
    }
}

const char *nv_hub_error_sentence(const nv_hub *hub, nv_hub_error error, const char *detail,
                                  char scratch[NV_HUB_SENTENCE])
{
    const char *text = nv_hub_error_info_of(error)->text;
    char reason[NV_HUB_REASON];
    if (detail && detail[0]) {
        return detail;
    }
    if (error != NV_HUB_ERROR_ServiceUnavailable) {
        return text;
    }
    nv_hub_storage_reason(hub, reason);
    if (!reason[0]) {
        return text;
    }
    (void)snprintf(scratch, NV_HUB_SENTENCE, "%s: %s", text, reason);
    return scratch;
}
