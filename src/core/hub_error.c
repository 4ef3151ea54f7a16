#include "core/registry.h"

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
