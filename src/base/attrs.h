/** Compiler attributes and the few macros that functions cannot express. */
#ifndef NV_BASE_ATTRS_H
#define NV_BASE_ATTRS_H

#include <stddef.h>

#define NV_NODISCARD        __attribute__((warn_unused_result))
#define NV_PRINTF(fmt, arg) __attribute__((format(printf, fmt, arg)))
#define NV_LIKELY(x)        __builtin_expect(!!(x), 1)
#define NV_UNLIKELY(x)      __builtin_expect(!!(x), 0)

/** The structure of @p type whose @p member is at @p ptr. */
#define nv_container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/** A fact that holds and that the static analyzer cannot see from here: it is told, the compiler is not. */
#ifdef __clang_analyzer__
#define NV_KNOWN(fact) ((fact) ? (void)0 : __builtin_unreachable())
#else
#define NV_KNOWN(fact) ((void)0)
#endif

#define NV_COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#endif
