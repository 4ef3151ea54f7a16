/*
 * What the network layer alone costs, with a session that does nothing:
 *
 *   net_bench echo|echo-tls [connections] [window] [seconds]   256-byte messages back and forth, the server's loop on
 *                                                              core 0, the clients' on core 1
 *   net_bench idle|idle-tls [connections]                      resident bytes per idle connection
 *   net_bench connect-tls|resume-tls [connections]             connections per second of the server's CPU time
 */
#include "base/alloc.h"
#include "base/diag.h"
#include "net/client.h"
#include "net/echo_session.h"
#include "net/net.h"
#include "net/pki.h"
#include "net/tls.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE 256

static void die(const char *why)
{
    (void)fprintf(stderr, "net_bench: %s\n", why);
    exit(1);
}

/* ---- the server ---- */

typedef struct server {
    char root[64];
    char dir[96];
    nv_pki pki;
    nv_tls_server *tls;
    nv_net *net;
    nv_listener *listener;
    echo_config echo;
} server;

static void server_start(server *s, bool tls)
{
    char why[NV_NET_WHY_SIZE] = "";
    nv_net_config config = {.loops = 1, .limits = nv_net_limits_default()};
    if (tls) {
        (void)snprintf(s->root, sizeof(s->root), "/tmp/nave-bench-XXXXXX");
        (void)snprintf(s->dir, sizeof(s->dir), "%s/tls", mkdtemp(s->root));
        nv_tls_server_config files = {0};
        if (nv_pki_open(&(nv_pki_config){.dir = s->dir}, &s->pki, why) != NV_OK) {
            die(why);
        }
        files.cert_file = s->pki.cert_file;
        files.key_file = s->pki.key_file;
        if (nv_tls_server_new(&files, &s->tls, why) != NV_OK) {
            die(why);
        }
    }
    config.limits.max_unauthenticated = 100000;
    s->echo.bulk = true;
    nv_acceptor acceptor = {NULL, echo_accept, &s->echo};
    nv_listener_config listener = {.address = "127.0.0.1", .tls = s->tls, .acceptors = &acceptor, .acceptor_count = 1};
    if (nv_net_new(&config, &s->net, why) != NV_OK || nv_net_start(s->net, why) != NV_OK ||
        nv_net_listen(s->net, &listener, &s->listener, why) != NV_OK) {
        die(why);
    }
}

static void server_stop(server *s)
{
    static const char *const names[] = {"ca.pem", "ca.key", "server.pem", "server.key"};
    nv_net_stop(s->net, 0);
    (void)nv_net_wait(s->net);
    nv_net_free(s->net);
    nv_tls_server_free(s->tls);
    nv_pki_deinit(&s->pki);
    for (size_t i = 0; i < NV_COUNT_OF(names) && s->root[0]; i++) {
        char path[128];
        (void)snprintf(path, sizeof(path), "%s/%s", s->dir, names[i]);
        (void)unlink(path);
    }
    (void)rmdir(s->dir);
    (void)rmdir(s->root);
}

/* ---- running something on a loop and waiting for it ---- */

typedef struct on_loop {
    nv_task task;
    int core;
    double cpu_s;
    _Atomic int done;
} on_loop;

static void run_on_loop(nv_task *task)
{
    on_loop *o = nv_container_of(task, on_loop, task);
    if (o->core >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)o->core, &set);
        (void)sched_setaffinity(0, sizeof(set), &set);
    }
    struct rusage usage;
    (void)getrusage(RUSAGE_THREAD, &usage);
    o->cpu_s = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
               (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    atomic_store(&o->done, 1);
}

/* @return CPU seconds of the loop's thread so far */
static double cpu_of(nv_net *net, int pin_to_core)
{
    on_loop o = {.task.run = run_on_loop, .core = pin_to_core};
    nv_post(nv_loop_exec(nv_net_loop(net, 0)), &o.task);
    while (!atomic_load(&o.done)) {
        struct timespec ms = {.tv_nsec = 1000000};
        (void)nanosleep(&ms, NULL);
    }
    return o.cpu_s;
}

/* ---- echo ---- */

typedef struct client {
    nv_session session;
    struct clients *all;
} client;

typedef struct clients {
    int window;
    int64_t received; /* the loop's */
    _Atomic int64_t shown;
    _Atomic int connected;
} clients;

static size_t client_input(nv_session *session, nv_span bytes, int64_t now_us)
{
    (void)now_us;
    clients *all = nv_container_of(session, client, session)->all;
    all->received += (int64_t)bytes.len;
    atomic_store_explicit(&all->shown, all->received, memory_order_relaxed);
    if (nv_buf_append(session->out, bytes) != NV_OK) {
        die("the client's output is full");
    }
    return bytes.len;
}

static void client_tick(nv_session *session, int64_t now_us)
{
    (void)session;
    (void)now_us;
}

static void client_lost(nv_session *session, const char *why, int64_t now_us)
{
    (void)why;
    (void)now_us;
    session->done = true;
}

static void client_drain(nv_session *session, int64_t now_us)
{
    (void)now_us;
    session->closing = true;
}

static void client_free(nv_session *session)
{
    free(nv_container_of(session, client, session));
}

static const nv_session_ops client_ops = {
    .input = client_input, .tick = client_tick, .lost = client_lost, .drain = client_drain, .free = client_free};

static nv_session *client_connected(void *arg, nv_carrier *carrier)
{
    static const uint8_t message[MESSAGE];
    clients *all = arg;
    client *c = nv_calloc(1, sizeof(*c));
    c->all = all;
    c->session = (nv_session){.ops = &client_ops, .deadline_us = INT64_MAX, .max_pending = 1, .reading = true};
    c->session.authenticated = true;
    for (int i = 0; i < all->window; i++) {
        nv_err err = nv_buf_append(carrier->out, nv_span_of(message, sizeof(message)));
        (void)err;
    }
    atomic_fetch_add(&all->connected, 1);
    return &c->session;
}

static void client_failed(void *arg, nv_err err, const char *why)
{
    (void)arg;
    (void)err;
    die(why);
}

static void echo_bench(bool tls, int connections, int window, int seconds)
{
    char why[NV_NET_WHY_SIZE] = "";
    server s = {0};
    server_start(&s, tls);
    nv_net_config config = {.loops = 1, .limits = nv_net_limits_default()};
    nv_net *net = NULL;
    nv_tls_client *trust = NULL;
    if (nv_net_new(&config, &net, why) != NV_OK || nv_net_start(net, why) != NV_OK ||
        (tls && nv_tls_client_new(&(nv_tls_client_config){.ca_file = s.pki.ca_file}, &trust, why) != NV_OK)) {
        die(why);
    }
    clients all = {.window = window};
    nv_client_config connect = {.host = "127.0.0.1",
                                .port = nv_listener_port(s.listener),
                                .tls = trust,
                                .connected = client_connected,
                                .failed = client_failed,
                                .arg = &all};
    (void)cpu_of(s.net, 0);
    (void)cpu_of(net, 1);
    for (int i = 0; i < connections; i++) {
        nv_client_connect(nv_net_loop(net, 0), &connect);
    }
    while (atomic_load(&all.connected) < connections) {
        (void)usleep(1000);
    }
    (void)sleep(1);
    double cpu = cpu_of(s.net, -1);
    int64_t before_us = nv_mono_us(nv_clock_system());
    int64_t before = atomic_load(&all.shown);
    (void)sleep((unsigned)seconds);
    double messages = (double)(atomic_load(&all.shown) - before) / MESSAGE;
    double wall = (double)(nv_mono_us(nv_clock_system()) - before_us) / 1e6;
    cpu = cpu_of(s.net, -1) - cpu;
    (void)printf("%s %d x %d x %d B: %.0f messages/s, server %.3f CPU s per million (%.0f %% busy)\n",
                 tls ? "TLS" : "plain", connections, window, MESSAGE, messages / wall, cpu / messages * 1e6,
                 cpu / wall * 100);
    nv_net_stop(net, 0);
    (void)nv_net_wait(net);
    nv_net_free(net);
    nv_tls_client_free(trust);
    server_stop(&s);
}

/* ---- connections, from a process of their own ---- */

static int connect_to(uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0) {
        die("cannot connect");
    }
    return fd;
}

static void handshake(SSL *ssl, int fd)
{
    char byte = 'x';
    (void)SSL_set_fd(ssl, fd);
    if (SSL_connect(ssl) != 1 || SSL_write(ssl, &byte, 1) != 1 || SSL_read(ssl, &byte, 1) != 1) {
        die("TLS handshake failed");
    }
}

static void idle_clients(uint16_t port, bool tls, int connections, int ready, int go)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    char byte = 'x';
    for (int i = 0; i < connections; i++) {
        int fd = connect_to(port);
        if (tls) {
            handshake(SSL_new(ctx), fd);
        } else if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) {
            die("no echo");
        }
    }
    (void)!write(ready, &byte, 1);
    (void)!read(go, &byte, 1);
    _exit(0);
}

static void storm_clients(uint16_t port, bool resume, int connections, int ready, int go)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL_SESSION *session = NULL;
    char byte = 'x';
    for (int i = 0; i < connections; i++) {
        int fd = connect_to(port);
        SSL *ssl = SSL_new(ctx);
        if (session) {
            (void)SSL_set_session(ssl, session);
        }
        handshake(ssl, fd);
        if (resume) {
            SSL_SESSION_free(session);
            session = SSL_get1_session(ssl);
        }
        (void)SSL_shutdown(ssl);
        SSL_free(ssl);
        (void)close(fd);
    }
    (void)!write(ready, &byte, 1);
    (void)!read(go, &byte, 1);
    _exit(0);
}

static long resident_bytes(void)
{
    long total = 0;
    long resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file || fscanf(file, "%ld %ld", &total, &resident) != 2) {
        die("cannot read /proc/self/statm");
    }
    (void)fclose(file);
    return resident * sysconf(_SC_PAGESIZE);
}

typedef void (*client_main)(uint16_t port, bool flag, int connections, int ready, int go);

/* Fork the clients before the server has threads; they learn the port through a pipe. */
static void with_clients(bool tls, bool flag, int connections, client_main run, server *s, double *cpu_s, long *bytes)
{
    int port_pipe[2];
    int ready[2];
    int go[2];
    if (pipe(port_pipe) != 0 || pipe(ready) != 0 || pipe(go) != 0) {
        die("no pipe");
    }
    uint16_t port = 0;
    pid_t child = fork();
    if (child == 0) {
        (void)close(go[1]);
        if (read(port_pipe[0], &port, sizeof(port)) != (ssize_t)sizeof(port)) {
            _exit(1);
        }
        run(port, flag, connections, ready[1], go[0]);
    }
    (void)close(ready[1]);
    server_start(s, tls);
    *cpu_s = cpu_of(s->net, -1);
    *bytes = resident_bytes();
    port = nv_listener_port(s->listener);
    char byte;
    if (write(port_pipe[1], &port, sizeof(port)) != (ssize_t)sizeof(port) || read(ready[0], &byte, 1) != 1) {
        die("the clients failed");
    }
    *cpu_s = cpu_of(s->net, -1) - *cpu_s;
    *bytes = resident_bytes() - *bytes;
    (void)close(go[1]);
    (void)waitpid(child, NULL, 0);
}

static void idle_bench(bool tls, int connections)
{
    server s = {0};
    double cpu_s = 0;
    long bytes = 0;
    with_clients(tls, tls, connections, idle_clients, &s, &cpu_s, &bytes);
    (void)printf("%s: %ld resident bytes per idle connection (%d connections)\n", tls ? "TLS" : "plain",
                 bytes / connections, connections);
    server_stop(&s);
}

static void storm_bench(bool resume, int connections)
{
    server s = {0};
    double cpu_s = 0;
    long bytes = 0;
    with_clients(true, resume, connections, storm_clients, &s, &cpu_s, &bytes);
    (void)printf("TLS 1.3 %s: %.0f connections per second of server CPU\n", resume ? "resumed" : "full",
                 connections / cpu_s);
    server_stop(&s);
}

static int number(int argc, char **argv, int at, int otherwise)
{
    return argc > at ? (int)strtol(argv[at], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    bool tls = strstr(what, "-tls") != NULL;
    nv_diag_setup(NV_LEVEL_WARN, false, STDERR_FILENO);
    if (strncmp(what, "echo", 4) == 0) {
        echo_bench(tls, number(argc, argv, 2, 50), number(argc, argv, 3, 16), number(argc, argv, 4, 3));
    } else if (strncmp(what, "idle", 4) == 0) {
        idle_bench(tls, number(argc, argv, 2, 5000));
    } else if (strcmp(what, "connect-tls") == 0 || strcmp(what, "resume-tls") == 0) {
        storm_bench(what[0] == 'r', number(argc, argv, 2, 2000));
    } else {
        (void)fprintf(stderr, "usage: net_bench echo|echo-tls|idle|idle-tls|connect-tls|resume-tls [numbers]\n");
        return 2;
    }
    return 0;
}
