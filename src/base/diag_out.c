#include "base/diag_out.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define REST_MAX 16384u

typedef enum out_kind {
    OUT_PLAIN,  /* a file; and whatever a command writes to before anybody calls open */
    OUT_OWN,    /* a pipe or terminal: opened once more, so that being non-blocking is ours alone */
    OUT_SOCKET, /* asked not to wait at each call */
    OUT_POLLED  /* a pipe or terminal that cannot be opened again: asked for room first */
} out_kind;

static struct {
    pthread_mutex_t lock; /* what follows, but PLAIN's descriptor */
    _Atomic int fd;
    _Atomic int kind;
    int own; /* OWN: our descriptor; else -1 */
    size_t rest_len;
    uint8_t rest[REST_MAX]; /* the end of the last line */
} out = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = STDERR_FILENO, .kind = OUT_PLAIN, .own = -1};

/* A non-blocking file description of our own: the flag on the one we inherited would be seen by everybody who has it,
 * such as the shell behind the same terminal. */
static int open_again(int fd)
{
    char path[40];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

static out_kind kind_of(int fd, int *own)
{
    struct stat st;
    *own = -1;
    if (fstat(fd, &st) != 0 || S_ISREG(st.st_mode)) {
        return OUT_PLAIN;
    }
    if (S_ISSOCK(st.st_mode)) {
        return OUT_SOCKET;
    }
    *own = open_again(fd);
    return *own >= 0 ? OUT_OWN : OUT_POLLED;
}

void nv_diag_out_open(int fd)
{
    pthread_mutex_lock(&out.lock);
    if (fd != out.fd || out.kind == OUT_PLAIN) {
        if (out.own >= 0) {
            (void)close(out.own);
        }
        out.kind = (int)kind_of(fd, &out.own);
        out.fd = fd;
        out.rest_len = 0;
    }
    pthread_mutex_unlock(&out.lock);
}

static ssize_t write_polled(nv_span bytes)
{
    struct pollfd room = {.fd = out.fd, .events = POLLOUT};
    /* So much a pipe takes at once if it takes anything. */
    return poll(&room, 1, 0) == 1 ? write(out.fd, bytes.ptr, nv_span_first(bytes, PIPE_BUF).len) : -1;
}

/* @return how many bytes it took; 0: none */
static size_t write_some(nv_span bytes)
{
    ssize_t n = -1;
    switch ((out_kind)out.kind) {
    case OUT_PLAIN:
        n = write(out.fd, bytes.ptr, bytes.len);
        break;
    case OUT_OWN:
        n = write(out.own, bytes.ptr, bytes.len);
        break;
    case OUT_SOCKET:
        n = send(out.fd, bytes.ptr, bytes.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
    case OUT_POLLED:
        n = write_polled(bytes);
        break;
    }
    return n > 0 ? (size_t)n : 0;
}

/* As far as there is room. */
static nv_span write_on(nv_span bytes)
{
    for (size_t n = 1; n > 0 && bytes.len > 0; bytes = nv_span_skip(bytes, n)) {
        n = write_some(bytes);
    }
    return bytes;
}

static bool finish_last(void)
{
    nv_span left = write_on(nv_span_of(out.rest, out.rest_len));
    if (left.len > 0) {
        memmove(out.rest, left.ptr, left.len);
    }
    out.rest_len = left.len;
    return left.len == 0;
}

bool nv_diag_out_write(nv_span line)
{
    if (out.kind == OUT_PLAIN) { /* a file takes a line whole or fails: nothing to remember, nobody to keep waiting */
        return write_some(line) == line.len;
    }
    pthread_mutex_lock(&out.lock);
    bool written = false;
    if (finish_last()) {
        nv_span left = write_on(line);
        written = left.len < line.len;
        if (written && left.len > 0 && left.len <= REST_MAX) {
            memcpy(out.rest, left.ptr, left.len);
            out.rest_len = left.len;
        }
    }
    pthread_mutex_unlock(&out.lock);
    return written;
}
