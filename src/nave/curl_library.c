#include "nave/curl_library.h"

#include <dlfcn.h>
#include <stdbool.h>

/* Its interface has been the same since 2006. */
#ifdef __APPLE__
#define FILE_NAME "libcurl.4.dylib"
#else
#define FILE_NAME "libcurl.so.4"
#endif

typedef struct symbol {
    const char *name;
    size_t offset;
} symbol;

static const symbol symbols[] = {
#define NV_X(name) {"curl_" #name, offsetof(nv_curl, name)},
    NV_CURL_FUNCTIONS(NV_X)
#undef NV_X
};

static const char *fill(nv_curl *curl, void *library)
{
    for (size_t i = 0; i < NV_COUNT_OF(symbols); i++) {
        void *found = dlsym(library, symbols[i].name);
        if (!found) {
            return dlerror();
        }
        *(void **)((char *)curl + symbols[i].offset) = found;
    }
    return curl->global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? NULL : "it cannot be initialised";
}

const nv_curl *nv_curl_load(const char **why)
{
    static nv_curl curl;
    static bool loaded;
    if (!loaded) {
        void *library = dlopen(FILE_NAME, RTLD_NOW | RTLD_LOCAL);
        const char *wrong = library ? fill(&curl, library) : dlerror();
        if (wrong) {
            *why = wrong;
            return NULL;
        }
        loaded = true;
    }
    return &curl;
}
