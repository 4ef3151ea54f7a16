#include "nave/data_dir.h"

#include "base/alloc.h"
#include "codec/json.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUB_FILE_MAX (1u << 20)

static nv_err explain(nv_buf *why, int error, const char *path, const char *what)
{
    nv_err ignored = nv_buf_printf(
        why, "%s: %s: %s%s", path, what, strerror(error),
        error == EACCES || error == EPERM ? "; run as the user it belongs to, or give another folder by --data" : "");
    (void)ignored;
    return nv_err_from_errno(error);
}

char *nv_path_join(const char *dir, const char *name)
{
    size_t size = strlen(dir) + strlen(name) + 2;
    char *path = nv_malloc(size);
    (void)snprintf(path, size, "%s/%s", dir, name);
    return path;
}

char *nv_data_dir_choose(const char *wanted)
{
    const char *variable = getenv("NAVE_DATA");
    if (wanted && wanted[0]) {
        return nv_strdup(wanted);
    }
    if (variable && variable[0]) {
        return nv_strdup(variable);
    }
    if (geteuid() == 0) {
        return nv_strdup("/var/lib/nave");
    }
    const char *home = getenv("HOME");
    return home && home[0] ? nv_path_join(home, ".local/share/nave") : NULL;
}

/* mkdir -p; what is there already is fine. */
static int make_parents(char *path)
{
    for (char *at = path + 1; *at; at++) {
        if (*at != '/') {
            continue;
        }
        *at = 0;
        int failed = mkdir(path, 0700) != 0 && errno != EEXIST;
        *at = '/';
        if (failed) {
            return -1;
        }
    }
    return mkdir(path, 0700) != 0 && errno != EEXIST ? -1 : 0;
}

nv_err nv_data_dir_make(const char *dir, nv_buf *why)
{
    char *path = nv_strdup(dir);
    int failed = make_parents(path);
    int error = errno;
    free(path);
    if (failed) {
        return explain(why, error, dir, "the data folder cannot be created");
    }
    struct stat st;
    if (stat(dir, &st) == 0 && !S_ISDIR(st.st_mode)) {
        return explain(why, ENOTDIR, dir, "the data folder cannot be used");
    }
    if (access(dir, R_OK | W_OK | X_OK) != 0) {
        return explain(why, errno, dir, "the data folder cannot be used");
    }
    return NV_OK;
}

nv_err nv_data_dir_temporary(char **out, nv_buf *why)
{
    const char *base = getenv("TMPDIR");
    char *path = nv_path_join(base && base[0] ? base : "/tmp", "nave-dev-XXXXXX");
    if (!mkdtemp(path)) {
        nv_err err = explain(why, errno, path, "no temporary folder can be made");
        free(path);
        return err;
    }
    *out = path;
    return NV_OK;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    (void)remove(path); /* best effort: it is a temporary folder */
    return 0;
}

void nv_data_dir_remove(const char *dir)
{
    (void)nftw(dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static nv_err write_all(int fd, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, text, len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return NV_E_IO;
        }
        text += n;
        len -= (size_t)n;
    }
    return fsync(fd) == 0 ? NV_OK : NV_E_IO;
}

nv_err nv_hub_file_write(const char *dir, struct json_object *content, nv_buf *why)
{
    const char *text =
        json_object_to_json_string_ext(content, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
    char *path = nv_path_join(dir, "hub.json");
    char *temporary = nv_path_join(dir, "hub.json.new");
    nv_err err = NV_OK;
    (void)unlink(temporary); /* of an earlier crash; O_EXCL then sees to the mode */
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || write_all(fd, text, strlen(text)) != NV_OK || rename(temporary, path) != 0) {
        err = explain(why, errno, path, "cannot be written");
    }
    if (fd >= 0) {
        close(fd);
    }
    free(temporary);
    free(path);
    return err;
}

static nv_err read_text(const char *path, nv_buf *text)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return nv_err_from_errno(errno);
    }
    nv_err err = NV_OK;
    for (;;) {
        uint8_t *room = nv_buf_reserve(text, 4096);
        ssize_t got = room ? read(fd, room, 4096) : -1;
        if (got <= 0) {
            err = got < 0 ? NV_E_IO : NV_OK;
            break;
        }
        nv_buf_commit(text, (size_t)got);
    }
    close(fd);
    return err;
}

nv_err nv_hub_file_read(const char *dir, struct json_object **out, nv_buf *why)
{
    char *path = nv_path_join(dir, "hub.json");
    nv_buf text;
    nv_buf_init(&text, HUB_FILE_MAX);
    nv_err err = read_text(path, &text);
    if (err == NV_OK) {
        err = nv_json_parse(nv_buf_span(&text), 16, 10000, out);
        err = err == NV_OK && !json_object_is_type(*out, json_type_object) ? NV_E_CORRUPT : err;
    }
    nv_err ignored = NV_OK;
    if (err == NV_E_NOT_FOUND) {
        ignored = nv_buf_printf(
            why, "%s: no hub was ever started on this data folder; start one by `nave up --data %s`", path, dir);
    } else if (err != NV_OK) {
        ignored = nv_buf_printf(why, "%s: cannot be read: %s", path, nv_err_text(err));
    }
    (void)ignored;
    nv_buf_deinit(&text);
    free(path);
    return err;
}
