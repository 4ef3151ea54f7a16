/**
 * Allocation for small, fixed sizes: these abort with a message when memory is out, because there is
 * no sensible way on. Whatever a peer can size is bounded first and uses malloc and an error instead.
 */
#ifndef NV_BASE_ALLOC_H
#define NV_BASE_ALLOC_H

#include <stddef.h>

void *nv_malloc(size_t size) __attribute__((malloc, returns_nonnull));
void *nv_calloc(size_t count, size_t size) __attribute__((malloc, returns_nonnull));
void *nv_realloc(void *ptr, size_t size) __attribute__((returns_nonnull));
char *nv_strdup(const char *text) __attribute__((malloc, returns_nonnull));

#endif
