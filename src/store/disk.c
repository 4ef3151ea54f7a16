#include "store/disk.h"

/*
 * A test builds this file with NV_TEST_NO_SYNC to prove that the power-cut suite notices missing syncs: nothing else
 * in the stores makes bytes durable.
 */
#ifdef NV_TEST_NO_SYNC
static const bool no_sync = true;
#else
static const bool no_sync = false;
#endif

nv_err nv_disk_open(nv_disk *disk, const char *path, unsigned flags, nv_file **out)
{
    return disk->ops->open(disk, path, no_sync ? flags & ~(unsigned)NV_OPEN_DSYNC : flags, out);
}

nv_err nv_disk_lock(nv_disk *disk, const char *path, nv_file **out)
{
    return disk->ops->lock(disk, path, out);
}

nv_err nv_disk_remove(nv_disk *disk, const char *path)
{
    return disk->ops->remove(disk, path);
}

nv_err nv_disk_rename(nv_disk *disk, const char *from, const char *to)
{
    return disk->ops->rename(disk, from, to);
}

nv_err nv_disk_link(nv_disk *disk, const char *from, const char *to)
{
    return disk->ops->link(disk, from, to);
}

nv_err nv_disk_make_dir(nv_disk *disk, const char *path)
{
    return disk->ops->make_dir(disk, path);
}

nv_err nv_disk_sync_dir(nv_disk *disk, const char *path)
{
    return no_sync ? NV_OK : disk->ops->sync_dir(disk, path);
}

nv_err nv_disk_list(nv_disk *disk, const char *path, nv_disk_entry_fn each, void *arg)
{
    return disk->ops->list(disk, path, each, arg);
}

nv_err nv_disk_free_space(nv_disk *disk, const char *path, uint64_t *out)
{
    return disk->ops->free_space(disk, path, out);
}

bool nv_disk_exists(nv_disk *disk, const char *path)
{
    return disk->ops->exists(disk, path);
}

nv_err nv_file_writev(nv_file *file, struct iovec *parts, int count, uint64_t position)
{
    while (count > 0) {
        size_t written = 0;
        nv_err err = file->disk->ops->pwritev(file, parts, count, position, &written);
        if (err != NV_OK) {
            return err;
        }
        if (written == 0) {
            return NV_E_NO_SPACE; /* a regular file that takes nothing and names no cause */
        }
        position += written;
        while (count > 0 && written >= parts->iov_len) {
            written -= parts->iov_len;
            parts++;
            count--;
        }
        if (count > 0) {
            parts->iov_base = (uint8_t *)parts->iov_base + written;
            parts->iov_len -= written;
        }
    }
    return NV_OK;
}

nv_err nv_file_write(nv_file *file, const void *bytes, size_t len, uint64_t position)
{
    struct iovec part = {(void *)(uintptr_t)bytes, len};
    return nv_file_writev(file, &part, len ? 1 : 0, position);
}

nv_err nv_file_read(nv_file *file, void *out, size_t len, uint64_t position, size_t *got)
{
    *got = 0;
    while (*got < len) {
        size_t n = 0;
        nv_err err = file->disk->ops->pread(file, (uint8_t *)out + *got, len - *got, position + *got, &n);
        if (err != NV_OK) {
            return err;
        }
        if (n == 0) {
            break;
        }
        *got += n;
    }
    return NV_OK;
}

nv_err nv_file_sync(nv_file *file)
{
    return no_sync ? NV_OK : file->disk->ops->sync(file);
}

nv_err nv_file_truncate(nv_file *file, uint64_t size)
{
    return file->disk->ops->truncate(file, size);
}

nv_err nv_file_allocate(nv_file *file, uint64_t size)
{
    return file->disk->ops->allocate(file, size);
}

nv_err nv_file_size(nv_file *file, uint64_t *out)
{
    return file->disk->ops->size(file, out);
}

nv_err nv_file_drop_cache(nv_file *file)
{
    return file->disk->ops->drop_cache(file);
}

void nv_file_advise(nv_file *file, nv_disk_advice advice)
{
    file->disk->ops->advise(file, advice);
}

void nv_file_prefetch(nv_file *file, uint64_t position, size_t len)
{
    file->disk->ops->prefetch(file, position, len);
}

void nv_file_close(nv_file *file)
{
    if (file) {
        file->disk->ops->close(file);
    }
}
