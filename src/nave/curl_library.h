/**
 * libcurl, loaded when the first request needs it. Most of what `nave` does is not a request: the hub itself would
 * carry libcurl and the thirty libraries behind it (Kerberos, LDAP, GnuTLS, ...) through its whole life, a quarter of
 * its resident size and a third of its start, for nothing.
 */
#ifndef NV_NAVE_CURL_LIBRARY_H
#define NV_NAVE_CURL_LIBRARY_H

#include "base/attrs.h"

#include <curl/curl.h>

/* Functions in use: the name behind curl_. */
#define NV_CURL_FUNCTIONS(X)                                                                                           \
    X(global_init)                                                                                                     \
    X(easy_init)                                                                                                       \
    X(easy_reset)                                                                                                      \
    X(easy_setopt)                                                                                                     \
    X(easy_perform)                                                                                                    \
    X(easy_getinfo)                                                                                                    \
    X(easy_strerror)                                                                                                   \
    X(easy_cleanup)                                                                                                    \
    X(slist_append)                                                                                                    \
    X(slist_free_all)                                                                                                  \
    X(getdate)

typedef struct nv_curl {
#define NV_X(name) __typeof__(curl_##name) *name;
    NV_CURL_FUNCTIONS(NV_X)
#undef NV_X
} nv_curl;

/**
 * The library, initialised; it stays until the process ends.
 *
 * Thread: one, the same always.  Blocks: while it loads.
 * @param why  on failure what the system says; it lives until the next call
 * @return NULL when it is not there or lacks a function
 */
const nv_curl *nv_curl_load(const char **why);

#endif
