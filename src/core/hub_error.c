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
