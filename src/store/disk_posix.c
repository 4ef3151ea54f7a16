/** The disk of the operating system: thin over the system calls, EINTR repeated, errno mapped. */
#include "base/alloc.h"
#include "store/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

typedef struct posix_file {
    nv_file file; /* first member */
    int fd;
} posix_file;

static int fd_of(const nv_file *file)
{
    return ((const posix_file *)(const void *)file)->fd;
}

static nv_err result(long rc)
{
    return rc < 0 ? nv_err_from_errno(errno) : NV_OK;
}

static nv_file *wrap(nv_disk *disk, int fd)
{
    posix_file *file = nv_malloc(sizeof(*file));
    *file = (posix_file){{disk}, fd};
    return &file->file;
}

static int posix_flags(unsigned flags)
{
    int out = O_CLOEXEC;
    out |= flags & NV_OPEN_WRITE ? (flags & NV_OPEN_READ ? O_RDWR : O_WRONLY) : O_RDONLY;
    out |= flags & NV_OPEN_CREATE ? O_CREAT : 0;
    out |= flags & NV_OPEN_EXCLUSIVE ? O_EXCL : 0;
    out |= flags & NV_OPEN_TRUNCATE ? O_TRUNC : 0;
    out |= flags & NV_OPEN_DSYNC ? O_DSYNC : 0;
#ifdef O_DIRECT
    out |= flags & NV_OPEN_DIRECT ? O_DIRECT : 0;
#endif
    return out;
}

static nv_err posix_open(nv_disk *disk, const char *path, unsigned flags, nv_file **out)
{
#ifndef O_DIRECT
    if (flags & NV_OPEN_DIRECT) {
        return NV_E_UNSUPPORTED;
    }
#endif
    int fd;
    do {
        fd = open(path, posix_flags(flags), 0600);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        return nv_err_from_errno(errno);
    }
    *out = wrap(disk, fd);
    return NV_OK;
}

static nv_err posix_lock(nv_disk *disk, const char *path, nv_file **out)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        return nv_err_from_errno(errno);
    }
    /* flock and not fcntl: it also keeps a second holder in the same process out, and dies with the process. */
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        nv_err err = errno == EWOULDBLOCK ? NV_E_IN_USE : nv_err_from_errno(errno);
        close(fd);
        return err;
    }
    *out = wrap(disk, fd);
    return NV_OK;
}

static nv_err posix_remove(nv_disk *disk, const char *path)
{
    (void)disk;
    return result(unlink(path));
}

static nv_err posix_rename(nv_disk *disk, const char *from, const char *to)
{
    (void)disk;
    return result(rename(from, to));
}

static nv_err posix_link(nv_disk *disk, const char *from, const char *to)
{
    (void)disk;
    return result(link(from, to));
}

static nv_err posix_make_dir(nv_disk *disk, const char *path)
{
    (void)disk;
    if (mkdir(path, 0700) == 0) {
        return NV_OK;
    }
    struct stat st;
    if (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        return NV_OK;
    }
    return nv_err_from_errno(errno);
}

static nv_err posix_sync_dir(nv_disk *disk, const char *path)
{
    (void)disk;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return nv_err_from_errno(errno);
    }
    nv_err err = result(fsync(fd));
    close(fd);
    return err;
}

static nv_err posix_list(nv_disk *disk, const char *path, nv_disk_entry_fn each, void *arg)
{
    (void)disk;
    DIR *dir = opendir(path);
    if (!dir) {
        return nv_err_from_errno(errno);
    }
    errno = 0;
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            each(arg, entry->d_name);
        }
        errno = 0;
    }
    nv_err err = nv_err_from_errno(errno);
    closedir(dir);
    return err;
}

static nv_err posix_free_space(nv_disk *disk, const char *path, uint64_t *out)
{
    (void)disk;
    struct statvfs st;
    if (statvfs(path, &st) != 0) {
        return nv_err_from_errno(errno);
    }
    *out = (uint64_t)st.f_bavail * st.f_frsize;
    return NV_OK;
}

static bool posix_exists(nv_disk *disk, const char *path)
{
    (void)disk;
    return access(path, F_OK) == 0;
}

static nv_err posix_pwritev(nv_file *file, const struct iovec *parts, int count, uint64_t position, size_t *written)
{
    ssize_t n;
    do {
        n = pwritev(fd_of(file), parts, count, (off_t)position);
    } while (n < 0 && errno == EINTR);
    *written = n < 0 ? 0 : (size_t)n;
    return result(n);
}

static nv_err posix_pread(nv_file *file, void *out, size_t len, uint64_t position, size_t *got)
{
    ssize_t n;
    do {
        n = pread(fd_of(file), out, len, (off_t)position);
    } while (n < 0 && errno == EINTR);
    *got = n < 0 ? 0 : (size_t)n;
    return result(n);
}

static nv_err posix_sync(nv_file *file)
{
    return result(fdatasync(fd_of(file)));
}

static nv_err posix_truncate(nv_file *file, uint64_t size)
{
    return result(ftruncate(fd_of(file), (off_t)size));
}

static nv_err posix_allocate(nv_file *file, uint64_t size)
{
    /* Not posix_fallocate: its emulation writes a byte per block, which is slower than asking the caller to choose. */
    int rc;
    do {
        rc = fallocate(fd_of(file), 0, 0, (off_t)size);
    } while (rc < 0 && errno == EINTR);
    return result(rc);
}

static nv_err posix_size(nv_file *file, uint64_t *out)
{
    struct stat st;
    if (fstat(fd_of(file), &st) != 0) {
        return nv_err_from_errno(errno);
    }
    *out = (uint64_t)st.st_size;
    return NV_OK;
}

static nv_err posix_drop_cache(nv_file *file)
{
    return nv_err_from_errno(posix_fadvise(fd_of(file), 0, 0, POSIX_FADV_DONTNEED));
}

static void posix_advise(nv_file *file, nv_disk_advice advice)
{
    (void)posix_fadvise(fd_of(file), 0, 0, advice == NV_ADVICE_SEQUENTIAL ? POSIX_FADV_SEQUENTIAL : POSIX_FADV_RANDOM);
}

static void posix_prefetch(nv_file *file, uint64_t position, size_t len)
{
    (void)posix_fadvise(fd_of(file), (off_t)position, (off_t)len, POSIX_FADV_WILLNEED);
}

static void posix_close(nv_file *file)
{
    close(fd_of(file));
    free(file);
}

nv_disk *nv_disk_posix(void)
{
    static const nv_disk_ops ops = {
        .open = posix_open,
        .lock = posix_lock,
        .remove = posix_remove,
        .rename = posix_rename,
        .link = posix_link,
        .make_dir = posix_make_dir,
        .sync_dir = posix_sync_dir,
        .list = posix_list,
        .free_space = posix_free_space,
        .exists = posix_exists,
        .pwritev = posix_pwritev,
        .pread = posix_pread,
        .sync = posix_sync,
        .truncate = posix_truncate,
        .allocate = posix_allocate,
        .size = posix_size,
        .drop_cache = posix_drop_cache,
        .advise = posix_advise,
        .prefetch = posix_prefetch,
        .close = posix_close,
    };
    static nv_disk disk = {&ops};
    return &disk;
}
