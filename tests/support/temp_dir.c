#include "support/temp_dir.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

void temp_dir_make(char *path, size_t size, const char *parent)
{
    int len = snprintf(path, size, "%s/nave-test-XXXXXX", parent ? parent : "/tmp");
    if (len < 0 || (size_t)len >= size || !mkdtemp(path)) {
        perror("a folder for the test");
        abort();
    }
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void temp_dir_remove(const char *path)
{
    if (nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS) != 0) {
        perror(path);
    }
}
