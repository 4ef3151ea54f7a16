/**
 * Runs a fuzz target over files and folders of inputs, so that a corpus is a regression test with any compiler.
 * Usage: fuzz_x PATH... ; a folder is read one level deep. Exit code 1 when nothing was found.
 */
#include "base/alloc.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    struct stat st;
    if (fstat(fileno(file), &st) != 0) {
        perror(path);
        exit(1);
    }
    size_t size = (size_t)st.st_size;
    uint8_t *data = nv_malloc(size); /* exactly as large as the input, so that ASan sees one byte too far */
    if (fread(data, 1, size, file) != size) {
        perror(path);
        exit(1);
    }
    fclose(file);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 1;
}

static size_t replay_path(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir) {
        return replay_file(path);
    }
    size_t count = 0;
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        char child[4096];
        struct stat st;
        (void)snprintf(child, sizeof(child), "%s/%s", path, entry->d_name);
        if (stat(child, &st) == 0 && S_ISREG(st.st_mode)) {
            count += replay_file(child);
        }
    }
    closedir(dir);
    return count;
}

int main(int argc, char **argv)
{
    size_t count = 0;
    for (int i = 1; i < argc; i++) {
        count += replay_path(argv[i]);
    }
    printf("%zu inputs replayed\n", count);
    return count > 0 ? 0 : 1;
}
