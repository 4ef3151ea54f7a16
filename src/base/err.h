/**
 * One error type for the whole program. Zero is success, errors are negative and grouped by who must act:
 * the peer is wrong, we refuse, or the world failed. "We are wrong" is an assertion, never a code.
 */
#ifndef NV_BASE_ERR_H
#define NV_BASE_ERR_H

/* name, value, text */
#define NV_ERR_TABLE(X)                                                                                                \
    X(OK, 0, "success")                                                                                                \
    /* not failures: come back later */                                                                                \
    X(E_MORE, -1, "more bytes are needed")                                                                             \
    X(E_AGAIN, -2, "queue is full, try again later")                                                                   \
    X(E_EOF, -3, "end of data")                                                                                        \
    /* the peer is wrong */                                                                                            \
    X(E_SYNTAX, -10, "malformed input")                                                                                \
    X(E_RANGE, -11, "value out of range")                                                                              \
    X(E_TOO_BIG, -12, "larger than the limit")                                                                         \
    X(E_UNSUPPORTED, -13, "not supported")                                                                             \
    /* we refuse */                                                                                                    \
    X(E_NOT_FOUND, -20, "not found")                                                                                   \
    X(E_EXISTS, -21, "already exists")                                                                                 \
    X(E_PRECONDITION, -22, "precondition failed")                                                                      \
    X(E_UNAUTHORIZED, -23, "unauthorized")                                                                             \
    X(E_EXPIRED, -24, "expired")                                                                                       \
    X(E_LIMIT, -25, "limit reached")                                                                                   \
    X(E_GONE, -26, "no longer available")                                                                              \
    X(E_INVALID, -27, "invalid argument")                                                                              \
    X(E_CLOSED, -28, "closed")                                                                                         \
    X(E_IN_USE, -29, "in use")                                                                                         \
    /* the world failed */                                                                                             \
    X(E_IO, -40, "input/output error")                                                                                 \
    X(E_NO_SPACE, -41, "no space left on the device")                                                                  \
    X(E_NO_MEMORY, -42, "out of memory")                                                                               \
    X(E_CORRUPT, -43, "stored data is damaged")                                                                        \
    X(E_CANCELED, -44, "canceled")                                                                                     \
    X(E_PERMISSION, -45, "permission denied")

typedef enum nv_err {
#define X(name, value, text) NV_##name = (value),
    NV_ERR_TABLE(X)
#undef X
} nv_err;

/** The symbolic name, for example "E_NO_SPACE". Static storage, never NULL. */
const char *nv_err_name(nv_err err);

/** A short English text without a final period. Static storage, never NULL. */
const char *nv_err_text(nv_err err);

/** For a result that changes nothing, such as that of a sentence about an earlier error. */
static inline void nv_ignore(nv_err err)
{
    (void)err;
}

/** Map an errno value of the C library to the nearest nv_err. */
nv_err nv_err_from_errno(int errno_value);

#endif
