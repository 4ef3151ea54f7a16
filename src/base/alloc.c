#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *check(void *ptr, size_t size)
{
    if (!ptr) {
        fprintf(stderr, "nave: out of memory (%zu bytes)\n", size);
        abort();
    }
    return ptr;
}

void *nv_malloc(size_t size)
{
    return check(malloc(size ? size : 1), size);
}

void *nv_calloc(size_t count, size_t size)
{
    return check(calloc(count ? count : 1, size ? size : 1), count * size);
}

void *nv_realloc(void *ptr, size_t size)
{
    return check(realloc(ptr, size ? size : 1), size);
}

char *nv_strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    return memcpy(nv_malloc(size), text, size);
}
