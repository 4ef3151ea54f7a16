#include "base/metrics.h"

const nv_metric_info nv_metric_infos[NV_METRIC_COUNT] = {
#define X(id, kind, name, help) {#kind, name, help},
    NV_METRIC_TABLE(X)
#undef X
};

_Atomic int64_t nv_metric_values[NV_METRIC_COUNT];
