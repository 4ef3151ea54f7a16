/**
 * The disk seam: every file that the stores write goes through one nv_disk, so that a test can fail the nth write, fill
 * the disk, or cut the power and forget whatever was not synced. The real one is nv_disk_posix(); tests use
 * tests/support/fault_disk.h.
 *
 * Paths are absolute or relative to the working directory, NUL-terminated, '/' between parts.
 * Thread: any, for different files; one file may be read and written by several threads at once.
 * Blocks: every function here, unless it says otherwise; none belongs on a loop.
 */
#ifndef NV_STORE_DISK_H
#define NV_STORE_DISK_H

#include "base/attrs.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/** Alignment that NV_OPEN_DIRECT asks of memory, position and length, in bytes. */
#define NV_DISK_BLOCK 4096u

typedef enum nv_open_flags {
    NV_OPEN_READ = 1,
    NV_OPEN_WRITE = 2,
    NV_OPEN_CREATE = 4,    /* mode 0600 */
    NV_OPEN_EXCLUSIVE = 8, /* with CREATE: NV_E_EXISTS when it is there */
    NV_OPEN_TRUNCATE = 16,
    NV_OPEN_DIRECT = 32, /* past the page cache; NV_E_INVALID or NV_E_UNSUPPORTED where the file system cannot */
    NV_OPEN_DSYNC = 64   /* a write is durable when it returns */
} nv_open_flags;

typedef enum nv_disk_advice { NV_ADVICE_SEQUENTIAL, NV_ADVICE_RANDOM } nv_disk_advice;

typedef struct nv_disk nv_disk;
typedef struct nv_file nv_file;
typedef void (*nv_disk_entry_fn)(void *arg, const char *name);

typedef struct nv_disk_ops {
    nv_err (*open)(nv_disk *disk, const char *path, unsigned flags, nv_file **out);
    nv_err (*lock)(nv_disk *disk, const char *path, nv_file **out);
    nv_err (*remove)(nv_disk *disk, const char *path);
    nv_err (*rename)(nv_disk *disk, const char *from, const char *to);
    nv_err (*link)(nv_disk *disk, const char *from, const char *to);
    nv_err (*make_dir)(nv_disk *disk, const char *path);
    nv_err (*sync_dir)(nv_disk *disk, const char *path);
    nv_err (*list)(nv_disk *disk, const char *path, nv_disk_entry_fn each, void *arg);
    nv_err (*free_space)(nv_disk *disk, const char *path, uint64_t *out);
    bool (*exists)(nv_disk *disk, const char *path);

    nv_err (*pwritev)(nv_file *file, const struct iovec *parts, int count, uint64_t position, size_t *written);
    nv_err (*pread)(nv_file *file, void *out, size_t len, uint64_t position, size_t *got);
    nv_err (*sync)(nv_file *file);
    nv_err (*truncate)(nv_file *file, uint64_t size);
    nv_err (*allocate)(nv_file *file, uint64_t size);
    nv_err (*size)(nv_file *file, uint64_t *out);
    nv_err (*drop_cache)(nv_file *file);
    void (*advise)(nv_file *file, nv_disk_advice advice);
    void (*prefetch)(nv_file *file, uint64_t position, size_t len);
    void (*close)(nv_file *file);
} nv_disk_ops;

/** First member of every implementation. */
struct nv_disk {
    const nv_disk_ops *ops;
};

/** First member of every implementation's file. */
struct nv_file {
    nv_disk *disk;
};

/** The disk of the operating system. Static storage. */
nv_disk *nv_disk_posix(void);

/** @param flags  nv_open_flags. @return NV_E_NOT_FOUND, NV_E_EXISTS, NV_E_PERMISSION, NV_E_NO_SPACE, NV_E_IO, ... */
NV_NODISCARD nv_err nv_disk_open(nv_disk *disk, const char *path, unsigned flags, nv_file **out);
/** Create the file when absent and hold it against every other holder, in this process or another, until closed.
 * @return NV_E_IN_USE */
NV_NODISCARD nv_err nv_disk_lock(nv_disk *disk, const char *path, nv_file **out);
/** Unlink. An open file keeps its content until it is closed. @return NV_E_NOT_FOUND */
NV_NODISCARD nv_err nv_disk_remove(nv_disk *disk, const char *path);
/** Replaces @p to. Durable after nv_disk_sync_dir() of the folder. */
NV_NODISCARD nv_err nv_disk_rename(nv_disk *disk, const char *from, const char *to);
/** A second name for a file. @return NV_E_EXISTS; NV_E_UNSUPPORTED, NV_E_PERMISSION where there is no such thing */
NV_NODISCARD nv_err nv_disk_link(nv_disk *disk, const char *from, const char *to);
/** Mode 0700. NV_OK when it is there already. */
NV_NODISCARD nv_err nv_disk_make_dir(nv_disk *disk, const char *path);
/** Make creations, renames and removals in the folder durable. */
NV_NODISCARD nv_err nv_disk_sync_dir(nv_disk *disk, const char *path);
/** Call @p each for every name in the folder but "." and "..", in no order. The folder is not changed meanwhile. */
NV_NODISCARD nv_err nv_disk_list(nv_disk *disk, const char *path, nv_disk_entry_fn each, void *arg);
/** Bytes this process may still write on the file system of @p path. */
NV_NODISCARD nv_err nv_disk_free_space(nv_disk *disk, const char *path, uint64_t *out);
bool nv_disk_exists(nv_disk *disk, const char *path);

/** Write everything, in as many steps as the disk takes. @p parts is changed. On an error some bytes may be there. */
NV_NODISCARD nv_err nv_file_writev(nv_file *file, struct iovec *parts, int count, uint64_t position);
NV_NODISCARD nv_err nv_file_write(nv_file *file, const void *bytes, size_t len, uint64_t position);
/** Read up to @p len bytes; @p got is less only at the end of the file. */
NV_NODISCARD nv_err nv_file_read(nv_file *file, void *out, size_t len, uint64_t position, size_t *got);
/** fdatasync: content and size durable. After an error nobody knows what is: trust only what was synced before. */
NV_NODISCARD nv_err nv_file_sync(nv_file *file);
NV_NODISCARD nv_err nv_file_truncate(nv_file *file, uint64_t size);
/** Reserve space and extend to @p size with zeros. @return NV_E_NO_SPACE; NV_E_UNSUPPORTED */
NV_NODISCARD nv_err nv_file_allocate(nv_file *file, uint64_t size);
NV_NODISCARD nv_err nv_file_size(nv_file *file, uint64_t *out);
/** Forget clean cached pages, so that the next read shows what the disk has. Best effort. */
NV_NODISCARD nv_err nv_file_drop_cache(nv_file *file);
void nv_file_advise(nv_file *file, nv_disk_advice advice);
/** Start reading ahead into the cache, without waiting for it. */
void nv_file_prefetch(nv_file *file, uint64_t position, size_t len);
/** NULL is fine. */
void nv_file_close(nv_file *file);

#endif
