/** A log that nobody reads: who writes does not wait, lines stay whole, and what is missing is counted. */
#include "base/diag.h"

#include "base/attrs.h"
#include "base/clock.h"
#include "base/metrics.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define THREADS 4
#define LINES   20000

static void *write_lines(void *arg)
{
    int number = (int)(intptr_t)arg;
    for (int i = 0; i < LINES; i++) {
        nv_diag(NV_LEVEL_INFO, "test", NULL, "line %d of %d%.*s.", i, number, i % 500,
                "                              ");
    }
    return NULL;
}

static void write_from_all(void)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, (void *)(intptr_t)i), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        (void)pthread_join(threads[i], NULL);
    }
}

typedef struct seen {
    char text[1 << 20]; /* a line that has begun */
    size_t len;
    size_t lines;
    size_t dropped;
    bool last; /* "the last line" came */
} seen;

static void see_line(seen *s, char *line)
{
    unsigned long long count = 0;
    const char *text = strstr(line, ": ");
    assert_non_null(text);
    assert_int_equal(line[0], '2'); /* the year: lines begin where they should */
    if (sscanf(text, ": %llu line", &count) == 1) {
        s->dropped += count;
    } else if (strcmp(text, ": the last line") == 0) {
        s->last = true;
    } else {
        assert_int_equal(strncmp(text, ": line ", 7), 0);
        assert_int_equal(line[strlen(line) - 1], '.'); /* whole */
        s->lines++;
    }
}

/* Everything that is there now. */
static void read_now(seen *s, int fd)
{
    for (ssize_t n = 0; (n = read(fd, s->text + s->len, sizeof(s->text) - 1 - s->len)) > 0;) {
        s->len += (size_t)n;
        s->text[s->len] = '\0';
        char *line = s->text;
        for (char *end = strchr(line, '\n'); end; end = strchr(line, '\n')) {
            *end = '\0';
            see_line(s, line);
            line = end + 1;
        }
        s->len = strlen(line);
        memmove(s->text, line, s->len + 1);
    }
}

static void check_unread(int reader, int writer)
{
    static seen s;
    s = (seen){.len = 0};
    assert_int_equal(fcntl(reader, F_SETFL, O_NONBLOCK), 0);
    int64_t before = nv_metric_get(NV_M_DIAG_DROPPED);
    (void)alarm(300); /* a write that waits would wait for ever */
    nv_diag_setup(NV_LEVEL_INFO, false, writer);
    write_from_all();
    assert_int_equal(fcntl(writer, F_GETFL) & O_NONBLOCK, 0); /* what others share with us is as it was */
    assert_true(nv_metric_get(NV_M_DIAG_DROPPED) > before);
    while (!s.last) {
        read_now(&s, reader);
        nv_diag(NV_LEVEL_INFO, "test", NULL, "the last line");
        read_now(&s, reader);
    }
    (void)alarm(0);
    assert_int_equal(s.len, 0);
    assert_true(s.lines > 0 && s.dropped > 0);
    assert_int_equal(s.lines + s.dropped, THREADS * LINES);
    nv_diag_setup(NV_LEVEL_INFO, false, STDERR_FILENO);
    (void)close(reader);
    (void)close(writer);
}

static void a_pipe(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    check_unread(ends[0], ends[1]);
}

static void a_socket(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    check_unread(ends[0], ends[1]);
}

static void a_terminal(void **state)
{
    (void)state;
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) {
        skip();
    }
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    assert_true(slave >= 0);
    (void)alarm(300);
    nv_diag_setup(NV_LEVEL_INFO, false, slave);
    write_from_all();
    (void)alarm(0);
    nv_diag_setup(NV_LEVEL_INFO, false, STDERR_FILENO);
    nv_diag(NV_LEVEL_INFO, "test", NULL, "what the terminal did not take is said here");
    (void)close(slave);
    (void)close(master);
}

/** Where it cannot be opened a second time, because there is no descriptor left for it. */
static void a_pipe_that_is_asked_for_room(void **state)
{
    (void)state;
    int ends[2];
    struct rlimit before;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    struct rlimit none = {.rlim_cur = 0, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    nv_diag_setup(NV_LEVEL_INFO, false, ends[1]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    check_unread(ends[0], ends[1]);
}

static void nobody_at_the_other_end(void **state)
{
    (void)state;
    int ends[2];
    (void)signal(SIGPIPE, SIG_IGN);
    assert_int_equal(pipe(ends), 0);
    nv_diag_setup(NV_LEVEL_INFO, false, ends[1]);
    (void)close(ends[0]);
    int64_t before = nv_metric_get(NV_M_DIAG_DROPPED);
    write_from_all();
    assert_int_equal(nv_metric_get(NV_M_DIAG_DROPPED) - before, THREADS * LINES);
    nv_diag_setup(NV_LEVEL_INFO, false, STDERR_FILENO);
    (void)close(ends[1]);
}

static void a_file_gets_everything(void **state)
{
    (void)state;
    static seen s;
    s = (seen){.len = 0};
    char path[] = "/tmp/nave-diag-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)unlink(path);
    assert_int_equal(fcntl(fd, F_SETFL, O_APPEND), 0);
    (void)alarm(300);
    nv_diag_setup(NV_LEVEL_INFO, false, fd);
    write_from_all();
    (void)alarm(0);
    nv_diag_setup(NV_LEVEL_INFO, false, STDERR_FILENO);
    (void)lseek(fd, 0, SEEK_SET);
    read_now(&s, fd);
    assert_true(s.lines >= THREADS * LINES);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pipe),
        cmocka_unit_test(a_socket),
        cmocka_unit_test(a_terminal),
        cmocka_unit_test(a_pipe_that_is_asked_for_room),
        cmocka_unit_test(nobody_at_the_other_end),
        cmocka_unit_test(a_file_gets_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
