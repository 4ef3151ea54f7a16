/**
 * Preloaded into a hub: while the file that NAVE_FAIL_SYNC names exists, whatever is written and synced below a folder
 * "log" fails with EIO, though the bytes are there. That is how a dying disk looks from above.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t position);
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t position);
int fdatasync(int fd);

static bool fails(int fd)
{
    const char *trigger = getenv("NAVE_FAIL_SYNC"); /* nobody sets an environment here */
    char link[64];
    char path[512];
    if (!trigger || access(trigger, F_OK) != 0) {
        return false;
    }
    (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof(path) - 1);
    path[len > 0 ? len : 0] = '\0';
    return strstr(path, "/log/") != NULL;
}

/** What stands behind ours. */
static void *behind(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static ssize_t write_and_fail(const char *name, int fd, const struct iovec *parts, int count, off_t position)
{
    ssize_t (*next)(int, const struct iovec *, int, off_t);
    void *found = behind(name);
    memcpy(&next, &found, sizeof(next));
    ssize_t written = next(fd, parts, count, position);
    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    return written;
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t position)
{
    return write_and_fail("pwritev", fd, parts, count, position);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t position)
{
    return write_and_fail("pwritev64", fd, parts, count, position);
}

int fdatasync(int fd)
{
    int (*next)(int);
    void *found = behind("fdatasync");
    memcpy(&next, &found, sizeof(next));
    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    return next(fd);
}
