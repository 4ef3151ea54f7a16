/* `nave bench amqp` against servers that misbehave: what went wrong must be counted under its own name, and only that.
 */
#include "base/attrs.h"
#include "nave/bench/bench.h"
#include "session/amqp/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 40 /* in the scripted log, per partition */

typedef enum behaviour {
    SERVE,
    REJECT_EACH,
    NEVER_SETTLE,
    REFUSE_LOGIN,
    REFUSE_TOKENS,
    REFUSE_LINKS,
    DETACH_LATER,
    CLOSE_LATER,
    EMPTY_EVENTS /* without annotations */
} behaviour;

/* One client after the other; the engine's server half on a blocking socket. */
typedef struct scripted {
    nv_amqp_conn conn; /* first member */
    behaviour how;
    int listener;
    unsigned port;
    pthread_t thread;
    nv_carrier carrier;
    nv_buf out;
    uint32_t taken;
    nv_amqp_link *replies; /* of $cbs */
    bool freed;
} scripted;

static nv_span as_map(uint8_t *out, size_t size, const char *key, int64_t value)
{
    nv_writer w = nv_writer_of(out, size);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_DELIVERY_ANNOTATIONS);
    nv_amqp_put_symbol_of(&w, "last_enqueued_sequence_number");
    nv_amqp_put_long(&w, EVENTS - 1);
    nv_amqp_end_map(&w, mark, 2);
    mark = nv_amqp_begin_map_section(&w, NV_AMQP_MESSAGE_ANNOTATIONS);
    nv_amqp_put_symbol_of(&w, key);
    nv_amqp_put_long(&w, value);
    nv_amqp_end_map(&w, mark, 2);
    return nv_writer_span(&w);
}

/* A stretch of the log, as often as it is asked for. */
static void send_events(nv_amqp_link *link)
{
    scripted *s = (scripted *)link->conn;
    uintptr_t sent = (uintptr_t)link->owner;
    for (; sent < EVENTS && nv_amqp_link_room(link); sent++) {
        uint8_t head[256];
        uint32_t id;
        nv_span annotations = as_map(head, 200, "x-opt-sequence-number", (int64_t)sent);
        size_t skip = s->how == EMPTY_EVENTS ? annotations.len : 0;
        nv_writer w = nv_writer_of(head + annotations.len, sizeof(head) - annotations.len);
        nv_amqp_put_data_head(&w, 5);
        nv_amqp_send send = {.track = true,
                             .head = nv_span_of(head + skip, annotations.len - skip + nv_writer_len(&w)),
                             .body = nv_span_str("hello")};
        if (nv_amqp_link_send(link, &send, &id) != NV_OK) {
            break;
        }
    }
    link->owner = (void *)sent; /* a number */
}

static void reply(scripted *s, nv_span request)
{
    uint8_t bytes[256];
    uint32_t id;
    nv_amqp_message message;
    nv_writer w = nv_writer_of(bytes, sizeof(bytes));
    if (nv_amqp_message_read(request, &message) != NV_OK || !s->replies) {
        return;
    }
    nv_amqp_properties properties = {.correlation_id = message.properties.message_id};
    nv_amqp_put_properties_section(&w, &properties);
    size_t mark = nv_amqp_begin_map_section(&w, NV_AMQP_APPLICATION_PROPERTIES);
    nv_amqp_put_string_of(&w, "status-code");
    nv_amqp_put_int(&w, s->how == REFUSE_TOKENS ? 401 : 200);
    nv_amqp_end_map(&w, mark, 2);
    nv_amqp_put_value_head(&w);
    nv_amqp_put_null(&w);
    nv_amqp_send send = {.settled = true, .body = nv_writer_span(&w)};
    if (nv_amqp_link_send(s->replies, &send, &id) != NV_OK) {
        nv_amqp_conn_abort(&s->conn);
    }
}

static bool on_delivery(nv_amqp_link *link, const nv_amqp_delivery *delivery)
{
    scripted *s = (scripted *)link->conn;
    if (link->owner) { /* $cbs */
        nv_amqp_link_accept_delivery(link, delivery->id);
        reply(s, delivery->bytes);
        return true;
    }
    s->taken++;
    nv_amqp_outcome outcome = {.kind = s->how == REJECT_EACH ? NV_AMQP_OUT_REJECTED : NV_AMQP_OUT_ACCEPTED,
                               .problem.condition = NV_AMQP_ERR_RESOURCE_LIMIT_EXCEEDED,
                               .problem.description = nv_span_str("full")};
    if (s->how == DETACH_LATER && s->taken == 20) {
        nv_amqp_link_detach(link, NV_AMQP_ERR_UNAUTHORIZED_ACCESS, "expired");
    } else if (s->how == CLOSE_LATER && s->taken == 20) {
        nv_amqp_conn_close(link->conn, NV_AMQP_ERR_CONNECTION_FORCED, "going down");
    } else if (s->how != NEVER_SETTLE) {
        nv_amqp_link_settle(link, delivery->id, &outcome);
    }
    return true;
}

static void on_detached(nv_amqp_link *link, const nv_amqp_problem *problem)
{
    (void)problem;
    scripted *s = (scripted *)link->conn;
    s->replies = s->replies == link ? NULL : s->replies;
}

static void on_attach(nv_amqp_conn *conn, nv_amqp_link *link)
{
    static const nv_amqp_link_ops in = {.delivery = on_delivery, .detached = on_detached};
    static const nv_amqp_link_ops out = {.room = send_events, .detached = on_detached};
    static const nv_amqp_link_ops replies = {.detached = on_detached};
    scripted *s = (scripted *)conn;
    nv_span address = nv_amqp_text_of(link->sender ? link->source->address : link->target->address);
    bool cbs = nv_span_eq(address, nv_span_str("$cbs"));
    if (!cbs && s->how == REFUSE_LINKS) {
        nv_amqp_link_refuse(link, NV_AMQP_ERR_NOT_FOUND, "no such node", (nv_span){0});
        return;
    }
    s->replies = cbs && link->sender ? link : s->replies;
    nv_amqp_accept accept = {.ops = !link->sender ? &in
                                    : cbs         ? &replies
                                                  : &out,
                             .owner = cbs && !link->sender ? s : NULL,
                             .credit = 100};
    nv_amqp_link_accept(link, &accept);
}

static void on_sasl(nv_amqp_conn *conn, nv_span mechanism, nv_span response, nv_span hostname)
{
    (void)mechanism, (void)response, (void)hostname;
    nv_amqp_sasl_done(conn, ((scripted *)conn)->how == REFUSE_LOGIN ? 1 : 0);
}

static void on_opened(nv_amqp_conn *conn, const nv_amqp_open *open)
{
    (void)open;
    nv_amqp_conn_authenticated(conn);
}

static void on_ended(nv_amqp_conn *conn, const nv_amqp_problem *problem)
{
    (void)problem;
    nv_amqp_conn_done(conn);
}

static void on_free(nv_amqp_conn *conn)
{
    nv_amqp_conn_deinit(conn);
    ((scripted *)conn)->freed = true;
}

static void on_wake(nv_carrier *carrier)
{
    (void)carrier; /* everything is looked at after each read */
}

static bool put_out(scripted *s, int fd)
{
    while (nv_buf_len(&s->out)) {
        nv_span bytes = nv_buf_span(&s->out);
        ssize_t put = send(fd, bytes.ptr, bytes.len, MSG_NOSIGNAL);
        if (put <= 0) {
            return false;
        }
        nv_buf_consume(&s->out, (size_t)put);
        if (s->conn.session.ops->sent) {
            s->conn.session.ops->sent(&s->conn.session, 0);
        }
    }
    return !s->conn.session.closing;
}

static void serve(scripted *s, int fd)
{
    static const nv_amqp_conn_ops ops = {
        .sasl = on_sasl, .opened = on_opened, .attach = on_attach, .ended = on_ended, .free = on_free};
    static const nv_peer nobody = {.connection_id = 1};
    static const nv_amqp_config config = {.container_id = "scripted",
                                          .sasl_mechanisms = "PLAIN ANONYMOUS",
                                          .max_frame_size = 65536,
                                          .channel_max = 100,
                                          .handle_max = 1000,
                                          .max_unsettled_bytes = 1 << 20,
                                          .output_mark = 1 << 20,
                                          .sessions = 100,
                                          .links = 1000};
    static uint8_t in[1 << 18];
    size_t len = 0;
    nv_buf_init(&s->out, 1 << 24);
    s->carrier = (nv_carrier){.peer = &nobody, .out = &s->out, .wake = on_wake};
    s->taken = 0;
    s->replies = NULL;
    s->freed = false;
    nv_amqp_server_init(&s->conn, &s->carrier, &ops, &config);
    nv_session *session = &s->conn.session;
    while (put_out(s, fd)) {
        ssize_t got = recv(fd, in + len, sizeof(in) - len, 0);
        if (got <= 0) {
            break;
        }
        len += (size_t)got;
        size_t used = session->ops->input(session, nv_span_of(in, len), 0);
        memmove(in, in + used, len - used);
        len -= used;
    }
    session->ops->lost(session, "over", 0);
    if (session->done) {
        session->ops->free(session);
    }
    assert_true(s->freed);
    nv_buf_deinit(&s->out);
}

static void *scripted_main(void *arg)
{
    scripted *s = arg;
    for (int fd; (fd = accept(s->listener, NULL, NULL)) >= 0; close(fd)) {
        serve(s, fd);
    }
    return NULL;
}

/* A port that is nobody else's while the socket is open; nobody listens there. */
static int bind_somewhere(unsigned *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    *port = ntohs(at.sin_port);
    return fd;
}

static void scripted_start(scripted *s, behaviour how)
{
    s->how = how;
    s->listener = bind_somewhere(&s->port);
    assert_int_equal(listen(s->listener, 16), 0);
    assert_int_equal(pthread_create(&s->thread, NULL, scripted_main, s), 0);
}

static void scripted_stop(scripted *s)
{
    (void)shutdown(s->listener, SHUT_RDWR);
    (void)pthread_join(s->thread, NULL);
    close(s->listener);
}

/* A busy machine may do little in a moment: what must happen has more time at each try. */
static const char *const patience[] = {"", "--duration 2 --setup 20", "--duration 15 --setup 60"};

/* Run `bench amqp ARGS -o json` with what it prints in @p out. @return its exit code */
static int run_amqp(unsigned port, const char *args, char *out, size_t size)
{
    char line[512];
    char *argv[40] = {"bench"};
    int argc = 1;
    char *save = NULL;
    (void)snprintf(line, sizeof(line), "amqp --port %u --warmup 0 --duration 0.2 --setup 2 -o json %s", port, args);
    for (char *word = strtok_r(line, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
        argv[argc++] = word;
    }
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stdout);
    int kept = dup(STDOUT_FILENO);
    (void)dup2(fileno(file), STDOUT_FILENO);
    int code = nv_bench_main(argc, argv);
    fflush(stdout);
    (void)dup2(kept, STDOUT_FILENO);
    close(kept);
    rewind(file);
    out[fread(out, 1, size - 1, file)] = '\0';
    fclose(file);
    return code;
}

/* The integer figure @p name, -1 when absent. */
static long long figure(const char *json, const char *name)
{
    char key[64];
    (void)snprintf(key, sizeof(key), "\"%s\": ", name);
    const char *at = strstr(json, key);
    return at ? strtoll(at + strlen(key), NULL, 10) : -1;
}

#define DEVICES "--hub localhost --policy device --key a2V5a2V5a2V5 --connections 1 "
#define SHARED  DEVICES "--devices 5 "
#define QUEUE   "--queue /amq/queue/q --connections 1 "

typedef struct fault_row {
    behaviour how;
    const char *args;
    const char *failure; /* NULL = none */
} fault_row;

static bool fault_is_named(const fault_row *row, const char *more, char *json, size_t size, int *code)
{
    static scripted s;
    char args[256];
    (void)snprintf(args, sizeof(args), "%s %s", row->args, more);
    scripted_start(&s, row->how);
    *code = run_amqp(s.port, args, json, size);
    scripted_stop(&s);
    if (!row->failure) {
        return *code == 0 && figure(json, "failures_total") == 0;
    }
    long long count = figure(json, row->failure);
    return *code == 1 && count > 0 && figure(json, "failures_total") == count;
}

static void every_fault_has_its_name(void **state)
{
    (void)state;
    static const fault_row rows[] = {
        {SERVE, DEVICES "--window 8", NULL},
        {SERVE, SHARED "--window 8", NULL},
        {SERVE, DEVICES "--window 3 --size 100000", NULL},
        {SERVE, DEVICES "--rate 500 --window 64", NULL},
        {SERVE, QUEUE "--window 8", NULL},
        {SERVE, DEVICES "--mode read --partitions 2 --credit 7", NULL},
        {SERVE, DEVICES "--mode idle", NULL},
        {SERVE, SHARED "--mode idle --subscribe yes", NULL},
        {REJECT_EACH, DEVICES, "message_refused"},
        {NEVER_SETTLE, DEVICES, "never_acknowledged"},
        {REFUSE_LOGIN, DEVICES, "connection_refused"},
        {REFUSE_LOGIN, DEVICES "--mode idle", "connection_refused"},
        {REFUSE_LOGIN, DEVICES "--mode read", "connection_refused"},
        {REFUSE_TOKENS, SHARED, "token_refused"},
        {REFUSE_LINKS, DEVICES, "link_refused_or_detached"},
        {REFUSE_LINKS, DEVICES "--mode read --partitions 1", "link_refused_or_detached"},
        {DETACH_LATER, DEVICES, "link_refused_or_detached"},
        {CLOSE_LATER, DEVICES, "closed_by_server"},
        {EMPTY_EVENTS, DEVICES "--mode read --partitions 1", "unexpected_message"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char json[4096];
        int code = 0;
        bool named = false;
        for (size_t t = 0; !named && t < NV_COUNT_OF(patience); t++) {
            named = fault_is_named(&rows[i], patience[t], json, sizeof(json), &code);
        }
        if (!named) {
            fail_msg("row %zu (%s): exit code %d, %s", i, rows[i].args, code, json);
        }
    }
}

static void a_log_is_read_again_and_again(void **state)
{
    (void)state;
    char json[4096] = "";
    int code = 0;
    for (size_t t = 0; figure(json, "partitions_read_again") < 2 && t < NV_COUNT_OF(patience); t++) {
        static scripted s;
        char args[256];
        (void)snprintf(args, sizeof(args), "%s %s", DEVICES "--mode read --partitions 1 --credit 7", patience[t]);
        scripted_start(&s, SERVE);
        code = run_amqp(s.port, args, json, sizeof(json));
        scripted_stop(&s);
    }
    assert_int_equal(code, 0);
    assert_true(figure(json, "messages") > 2 * EVENTS);
    assert_true(figure(json, "partitions_read_again") >= 2);
}

static void nobody_listening_is_a_failure_of_tcp(void **state)
{
    (void)state;
    char json[4096];
    unsigned port = 0;
    int fd = bind_somewhere(&port);
    assert_int_equal(run_amqp(port, DEVICES "--setup 5", json, sizeof(json)), 1);
    close(fd);
    assert_int_equal(figure(json, "tcp"), 1);
    assert_int_equal(figure(json, "failures_total"), 1);
}

static void bad_usage_is_code_2(void **state)
{
    (void)state;
    static const char *const rows[] = {"",
                                       "--hub h --queue q",
                                       "--hub h --key !",
                                       QUEUE "--mode idle",
                                       DEVICES "--mode read --rate 5",
                                       DEVICES "--mode through",
                                       DEVICES "--mode through --rate 5 --size 3",
                                       "--hub h --key a2V5 --mode read",
                                       DEVICES "--window 0",
                                       "--hub h --key a2V5 --connections 4 --devices 3"};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char json[4096];
        if (run_amqp(1, rows[i], json, sizeof(json)) != 2) {
            fail_msg("%s", rows[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fault_has_its_name),
        cmocka_unit_test(a_log_is_read_again_and_again),
        cmocka_unit_test(nobody_listening_is_a_failure_of_tcp),
        cmocka_unit_test(bad_usage_is_code_2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
