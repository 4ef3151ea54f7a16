#include "base/err.h"

#include <errno.h>

const char *nv_err_name(nv_err err)
{
    switch (err) {
#define X(name, value, text)                                                                                           \
    case NV_##name:                                                                                                    \
        return #name;
        NV_ERR_TABLE(X)
#undef X
    }
    return "E_UNKNOWN";
}

const char *nv_err_text(nv_err err)
{
    switch (err) {
#define X(name, value, text)                                                                                           \
    case NV_##name:                                                                                                    \
        return text;
        NV_ERR_TABLE(X)
#undef X
    }
    return "unknown error";
}

nv_err nv_err_from_errno(int errno_value)
{
    switch (errno_value) {
    case 0:
        return NV_OK;
    case ENOENT:
        return NV_E_NOT_FOUND;
    case EEXIST:
        return NV_E_EXISTS;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NV_E_NO_SPACE;
    case ENOMEM:
        return NV_E_NO_MEMORY;
    case EACCES:
    case EPERM:
    case EROFS:
        return NV_E_PERMISSION;
    case EADDRINUSE:
    case EBUSY:
        return NV_E_IN_USE;
    case EAGAIN:
        return NV_E_AGAIN;
    case EINVAL:
        return NV_E_INVALID;
    case EOPNOTSUPP:
        return NV_E_UNSUPPORTED;
    default:
        return NV_E_IO;
    }
}
