/** What the tests of net/ share: a hub with echo sessions, blocking sockets, an outgoing probe. */
#ifndef NV_NET_NET_TEST_UTIL_H
#define NV_NET_NET_TEST_UTIL_H

#include "net/client.h"
#include "net/echo_session.h"
#include "net/net.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include <cmocka.h>

typedef struct hub {
    nv_net *net;
    nv_listener *listener;
    nv_net_limits limits;
    echo_config echo;
    const char *address; /* NULL: 127.0.0.1 */
    size_t listener_cap;
    const nv_acceptor *acceptors; /* NULL: echo alone */
    size_t acceptor_count;
} hub;

/** Defaults, to be changed before hub_start(). */
void hub_init(hub *h);
void hub_start(hub *h, unsigned loops, const nv_clock *clock, nv_tls_server *tls);
uint16_t hub_port(const hub *h);
/** echo_release() on the session made last. */
void hub_release_last(hub *h);
/** Wait until every loop has finished the turn it is in and one more, closed handles included. */
void hub_settle(hub *h);
/** Stop with a short grace, wait, free. */
void hub_stop(hub *h);

/* Waiting polls an atomic with a deadline: there is no event to hang on in another thread's counter. */
void await_count(_Atomic int *count, int least);
void await_no_connections(const nv_net *net);

int dial_tcp(const char *address, uint16_t port);
int try_dial_tcp(const char *address, uint16_t port);
void connect_tcp(int fd, const char *address, uint16_t port);
uint16_t bind_free_port(int fd);
void say(int fd, const char *text);
void say_bytes(int fd, const void *bytes, size_t len);
void expect(int fd, const char *text);
void expect_bytes(int fd, const void *bytes, size_t len);
void expect_end(int fd);
void expect_silence(int fd);
/** @return how many bytes came before the end */
size_t skip_to_end(int fd);
/** The same, at most @p most. */
size_t skip_bytes(int fd, size_t most);
/** Send until the peer takes nothing for a while. @return how many bytes it took */
size_t send_until_stuck(int fd);
void close_with_reset(int fd);

/** An outgoing connection of the library itself, driven from the test's thread. */
typedef struct probe {
    nv_session session;
    nv_loop *loop;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    nv_buf got;
    bool connected, failed, ended;
    nv_err err;
    char why[NV_NET_WHY_SIZE];
    char alpn[16];
} probe;

/** Connect and wait until it stands or has failed. */
void probe_connect(probe *p, hub *h, const char *host, uint16_t port, nv_tls_client *tls);
void probe_connect_config(probe *p, hub *h, nv_client_config config);
void probe_await_failed(probe *p);
void probe_say(probe *p, const char *text);
void probe_expect(probe *p, const char *text);
/** Close from this side, wait for the end, free. */
void probe_close(probe *p);
/** Wait until the other side has closed. */
void probe_await_end(probe *p);
void probe_deinit(probe *p);

#endif
