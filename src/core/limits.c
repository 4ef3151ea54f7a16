#include "core/limits.h"

const nv_limits nv_limits_open = {
#define X(member, unit, open, azure, beyond) .member = (open),
    NV_LIMIT_TABLE(X)
#undef X
};

const nv_limits nv_limits_azure = {
#define X(member, unit, open, azure, beyond) .member = (azure),
    NV_LIMIT_TABLE(X)
#undef X
};
