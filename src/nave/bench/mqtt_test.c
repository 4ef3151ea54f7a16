/* The generator against servers that misbehave: what went wrong must be counted under its own name, and only that. */
#include "base/alloc.h"
#include "base/attrs.h"
#include "codec/mqtt.h"
#include "nave/bench/bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

typedef enum behaviour {
    ACK_EACH,
    ACK_BYTE_BY_BYTE,
    ACK_PAIRS_REVERSED,
    ACK_TWICE,
    ACK_OTHER_ID,
    ACK_AFTER_A_PUBLISH, /* of its own, which the generator has to pass over */
    ACK_NEVER,
    REFUSE,
    CLOSE_EARLY,
    CLOSE_LATER,
    TALK_NONSENSE,
} behaviour;

typedef struct scripted {
    behaviour how;
    int listener;
    unsigned port;
    pthread_t thread;
} scripted;

static void put(int fd, const uint8_t *bytes, size_t len, size_t step)
{
    for (size_t at = 0; at < len; at += step) {
        size_t n = len - at < step ? len - at : step;
        if (send(fd, bytes + at, n, MSG_NOSIGNAL) < 0) {
            return;
        }
    }
}

static void put_ack(int fd, uint16_t id, size_t step)
{
    uint8_t ack[NV_MQTT_ACK_SIZE];
    (void)nv_mqtt_put_puback(ack, id);
    put(fd, ack, sizeof(ack), step);
}

/* @return false when the connection is to be closed */
static bool on_publish(behaviour how, int fd, uint16_t id, uint16_t *held)
{
    static const uint8_t own[200] = {NV_MQTT_PUBLISH << 4, 0xc5, 0x01, 0, 1, 't'};
    switch (how) {
    case ACK_PAIRS_REVERSED:
        if (*held) {
            put_ack(fd, id, 4);
            put_ack(fd, *held, 4);
        }
        *held = *held ? 0 : id;
        return true;
    case ACK_TWICE:
        put_ack(fd, id, 4);
        put_ack(fd, id, 4);
        return true;
    case ACK_OTHER_ID:
        put_ack(fd, (uint16_t)(id + 1000), 4);
        return true;
    case ACK_AFTER_A_PUBLISH:
        put(fd, own, sizeof(own), 77);
        put_ack(fd, id, 4);
        return true;
    case ACK_NEVER:
        return true;
    case CLOSE_LATER:
        put_ack(fd, id, 4);
        return id < 10;
    case TALK_NONSENSE:
        put(fd, (const uint8_t *)"HTTP/1.1 200 OK\r\n", 17, 17);
        return true;
    case ACK_EACH:
    case ACK_BYTE_BY_BYTE:
    case REFUSE:
    case CLOSE_EARLY:
        put_ack(fd, id, how == ACK_BYTE_BY_BYTE ? 1 : 4);
        return true;
    }
    return false;
}

/* @return false when the connection is to be closed */
static bool on_packet(behaviour how, int fd, const nv_mqtt_packet *packet, uint16_t *held)
{
    uint8_t connack[] = {NV_MQTT_CONNACK << 4, 2, 0, how == REFUSE ? 5 : 0};
    uint8_t pingresp[] = {NV_MQTT_PINGRESP << 4, 0};
    if (packet->type == NV_MQTT_PUBLISH) {
        return packet->u.publish.qos == 0 || on_publish(how, fd, packet->u.publish.packet_id, held);
    }
    if (packet->type == NV_MQTT_PINGREQ) {
        put(fd, pingresp, sizeof(pingresp), 2);
        return true;
    }
    if (packet->type != NV_MQTT_CONNECT || how == CLOSE_EARLY) {
        return false;
    }
    put(fd, connack, sizeof(connack), how == ACK_BYTE_BY_BYTE ? 1 : 4);
    return how != REFUSE;
}

static void serve(behaviour how, int fd)
{
    uint8_t in[8192];
    size_t len = 0;
    uint16_t held = 0;
    for (bool open = true; open;) {
        ssize_t got = recv(fd, in + len, sizeof(in) - len, 0);
        if (got <= 0) {
            return;
        }
        len += (size_t)got;
        nv_mqtt_packet packet;
        const char *why = NULL;
        size_t at = 0;
        size_t used = 0;
        while (open && nv_mqtt_decode(nv_span_of(in + at, len - at), sizeof(in), &packet, &used, &why) == NV_OK) {
            open = on_packet(how, fd, &packet, &held);
            at += used;
        }
        memmove(in, in + at, len - at);
        len -= at;
    }
}

static void *scripted_main(void *arg)
{
    scripted *s = arg;
    for (int fd; (fd = accept(s->listener, NULL, NULL)) >= 0; close(fd)) {
        int on = 1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        serve(s->how, fd);
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

static int listen_somewhere(unsigned *port)
{
    int fd = bind_somewhere(port);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

static void scripted_start(scripted *s, behaviour how)
{
    s->how = how;
    s->listener = listen_somewhere(&s->port);
    assert_int_equal(pthread_create(&s->thread, NULL, scripted_main, s), 0);
}

static void scripted_stop(scripted *s)
{
    (void)shutdown(s->listener, SHUT_RDWR);
    (void)pthread_join(s->thread, NULL);
    close(s->listener);
}

/* Run `bench LINE` with what it prints in @p out. @return its exit code */
static int run_bench(char *line, char *out, size_t size)
{
    char *argv[40] = {"bench"};
    int argc = 1;
    char *save = NULL;
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

/* A busy machine may do little in a moment: what must happen has more time at each try. */
static const char *const patience[] = {"", "--duration 2 --setup 20", "--duration 15 --setup 60"};

/* Run `bench mqtt ARGS -o json`. */
static int run_mqtt(unsigned port, const char *args, char *out, size_t size)
{
    char line[512];
    (void)snprintf(line, sizeof(line), "mqtt --anonymous --port %u --warmup 0 --duration 0.1 --setup 1 -o json %s",
                   port, args);
    return run_bench(line, out, size);
}

/* The integer figure @p name, -1 when absent. */
static long long figure(const char *json, const char *name)
{
    char key[64];
    (void)snprintf(key, sizeof(key), "\"%s\": ", name);
    const char *at = strstr(json, key);
    return at ? strtoll(at + strlen(key), NULL, 10) : -1;
}

typedef struct fault_row {
    behaviour how;
    const char *args;
    const char *failure; /* NULL = none */
} fault_row;

static bool fault_is_named(const fault_row *row, const char *more, char *json, size_t size, int *code)
{
    scripted s;
    char args[256];
    /* a failure needs its packets to get through before the end */
    (void)snprintf(args, sizeof(args), "--connections 1 %s %s %s", row->failure ? "--duration 0.5" : "", row->args,
                   more);
    scripted_start(&s, row->how);
    *code = run_mqtt(s.port, args, json, size);
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
        {ACK_EACH, "--window 8", NULL},
        {ACK_EACH, "--window 3 --size 3000", NULL},
        {ACK_EACH, "--qos 0 --window 8", NULL},
        {ACK_EACH, "--rate 500 --window 64", NULL},
        {ACK_BYTE_BY_BYTE, "--window 8", NULL},
        {ACK_AFTER_A_PUBLISH, "--window 8", NULL},
        {ACK_TWICE, "--window 8", "puback_not_expected"},
        {ACK_OTHER_ID, "--window 8", "puback_not_expected"},
        {ACK_NEVER, "--window 8", "never_acknowledged"},
        {REFUSE, "", "connack_5"},
        {CLOSE_EARLY, "", "closed_before_connack"},
        {CLOSE_LATER, "--window 8", "closed_by_server"},
        {TALK_NONSENSE, "--window 8", "protocol_error"},
        {REFUSE, "--mode storm", "connack_5"},
        {ACK_EACH, "--mode storm", NULL},
        {ACK_EACH, "--mode idle", NULL},
        {REFUSE, "--mode idle", "connack_5"},
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

static void acknowledgements_in_another_order_are_counted_not_refused(void **state)
{
    (void)state;
    char json[4096] = "";
    int code = 0;
    for (size_t t = 0; figure(json, "pubacks_out_of_order") <= 10 && t < NV_COUNT_OF(patience); t++) {
        scripted s;
        char args[128];
        (void)snprintf(args, sizeof(args), "--connections 1 --window 8 %s", patience[t]);
        scripted_start(&s, ACK_PAIRS_REVERSED);
        code = run_mqtt(s.port, args, json, sizeof(json));
        scripted_stop(&s);
    }
    /* An odd number sent leaves the last one held back for ever; anything else is a fault. */
    assert_true(figure(json, "pubacks_out_of_order") > 10);
    assert_true(figure(json, "failures_total") <= 1);
    assert_int_equal(code, figure(json, "failures_total") ? 1 : 0);
}

static void an_open_loop_sends_what_was_asked(void **state)
{
    (void)state;
    char json[4096] = "";
    for (int t = 0; figure(json, "messages") < 300 && t < 10;
         t++) { /* a busy machine may acknowledge the last ones late */
        scripted s;
        scripted_start(&s, ACK_EACH);
        (void)run_mqtt(s.port, "--connections 1 --rate 1000 --window 64 --duration 0.5 --setup 20", json, sizeof(json));
        scripted_stop(&s);
    }
    assert_int_equal(figure(json, "failures_total"), 0);
    assert_in_range(figure(json, "messages"), 300, 510);
}

/* ---- a storm of two clients, one of which waits long for its answer ---- */

#define WAIT_LONG 20 /* connections of the other one: several times round its devices */

typedef struct slow_start {
    int listener;
    unsigned rounds;
    unsigned clashes; /* connections as the device that was waiting */
} slow_start;

/* Read a CONNECT and keep its client id. @return the socket, -1 at the end */
static int take_connect(int listener, char id[32])
{
    uint8_t in[512];
    size_t len = 0;
    size_t used = 0;
    nv_mqtt_packet packet = {0};
    const char *why = NULL;
    int fd = accept(listener, NULL, NULL);
    while (fd >= 0) {
        ssize_t got = recv(fd, in + len, sizeof(in) - len, 0);
        if (got <= 0) {
            close(fd);
            return -1;
        }
        len += (size_t)got;
        if (nv_mqtt_decode(nv_span_of(in, len), sizeof(in), &packet, &used, &why) == NV_OK) {
            nv_span name = nv_span_first(packet.u.connect.client_id, 31);
            (void)snprintf(id, 32, "%.*s", NV_SPAN_ARG(name));
            break;
        }
    }
    return fd;
}

static void accept_and_await_end(int fd)
{
    uint8_t rest[64];
    put(fd, (const uint8_t[]){NV_MQTT_CONNACK << 4, 2, 0, 0}, 4, 4);
    while (recv(fd, rest, sizeof(rest), 0) > 0) {
    }
    close(fd);
}

static void *slow_start_main(void *arg)
{
    slow_start *s = arg;
    char waiting[32];
    char other[32];
    int held = take_connect(s->listener, waiting);
    for (; held >= 0 && s->rounds < WAIT_LONG; s->rounds++) {
        int fd = take_connect(s->listener, other);
        if (fd < 0) {
            break;
        }
        s->clashes += strcmp(waiting, other) == 0;
        accept_and_await_end(fd);
    }
    if (held >= 0) {
        accept_and_await_end(held);
    }
    for (int fd; (fd = take_connect(s->listener, other)) >= 0;) {
        accept_and_await_end(fd);
    }
    return NULL;
}

static void no_two_clients_of_a_storm_are_one_device(void **state)
{
    (void)state;
    slow_start s = {0};
    int code = 0;
    for (size_t t = 0; s.rounds < WAIT_LONG && t < NV_COUNT_OF(patience); t++) {
        char json[4096];
        char args[128];
        unsigned port = 0;
        s = (slow_start){.listener = listen_somewhere(&port)};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, slow_start_main, &s), 0);
        (void)snprintf(args, sizeof(args), "--mode storm --connections 2 --devices 3 --duration 0.3 %s", patience[t]);
        code = run_mqtt(port, args, json, sizeof(json));
        (void)shutdown(s.listener, SHUT_RDWR);
        (void)pthread_join(thread, NULL);
        close(s.listener);
        assert_int_equal(s.clashes, 0);
    }
    assert_int_equal(code, 0);
    assert_int_equal(s.rounds, WAIT_LONG);
}

static void nobody_listening_is_a_failure_of_tcp(void **state)
{
    (void)state;
    char json[4096];
    unsigned port = 0;
    int fd = bind_somewhere(&port);
    assert_int_equal(run_mqtt(port, "--connections 3 --setup 5", json, sizeof(json)), 1);
    close(fd);
    assert_int_equal(figure(json, "tcp"), 3);
    assert_int_equal(figure(json, "failures_total"), 3);
}

/* Load for a sink until @p least messages went in one go. */
static void load_sink(unsigned port, const char *load, long long least)
{
    char json[4096] = "";
    int code = 0;
    for (size_t t = 0; figure(json, "messages") < least && t < NV_COUNT_OF(patience); t++) {
        char args[128];
        (void)snprintf(args, sizeof(args), "%s %s", load, patience[t]);
        code = run_mqtt(port, args, json, sizeof(json));
    }
    assert_int_equal(code, 0);
    assert_true(figure(json, "messages") >= least);
}

static void the_sink_serves_many_connections(void **state)
{
    (void)state;
    int pipes[2];
    char line[64] = "";
    char json[4096];
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
        char *argv[] = {"bench", "sink"};
        (void)dup2(pipes[1], STDOUT_FILENO);
        close(pipes[0]);
        _exit(nv_bench_main(2, argv));
    }
    close(pipes[1]);
    FILE *from = fdopen(pipes[0], "r");
    assert_non_null(fgets(line, sizeof(line), from));
    unsigned port = (unsigned)strtoul(line + strlen("listening "), NULL, 10);
    load_sink(port, "--connections 100 --window 16", 1000);
    load_sink(port, "--connections 4 --window 8 --size 200000", 10);
    assert_int_equal(run_mqtt(port, "--connections 20 --mode idle --subscribe yes --setup 60", json, sizeof(json)), 0);
    assert_int_equal(figure(json, "open"), 20);
    int status = 0;
    (void)kill(child, SIGTERM);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    fclose(from);
}

static void disk_and_log_are_measured(void **state)
{
    (void)state;
    char folder[] = "bench-test-XXXXXX";
    char line[256];
    char json[4096];
    assert_non_null(mkdtemp(folder));
    (void)snprintf(line, sizeof(line), "disk --dir %s --writes 20 -o json", folder);
    assert_int_equal(run_bench(line, json, sizeof(json)), 0);
    assert_true(figure(json, "write_4096_p99_us") > 0);
    (void)snprintf(line, sizeof(line), "log --dir %s --records 20000 -o json", folder);
    assert_int_equal(run_bench(line, json, sizeof(json)), 0);
    assert_true(figure(json, "append_per_s") > 0 && figure(json, "read_per_s") > 0);
    assert_int_equal(rmdir(folder), 0); /* nothing is left behind */
    (void)snprintf(line, sizeof(line), "disk --dir %s -o json", folder);
    assert_int_equal(run_bench(line, json, sizeof(json)), 1);
    (void)snprintf(line, sizeof(line), "log --dir %s -o json", folder);
    assert_int_equal(run_bench(line, json, sizeof(json)), 1);
}

static void bad_usage_is_code_2(void **state)
{
    (void)state;
    static const char *const rows[] = {"--window 0",
                                       "--window x",
                                       "--size -1",
                                       "--mode fly",
                                       "--nothing",
                                       "--window",
                                       "--hub h",
                                       "--rate 5 --qos 0",
                                       "--resume",
                                       "--port 65536",
                                       "--duration 0",
                                       "--duration nan",
                                       "--connections 19001",
                                       "--mode storm --connections 3 --devices 2"};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char json[4096];
        if (run_mqtt(1, rows[i], json, sizeof(json)) != 2) {
            fail_msg("%s", rows[i]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fault_has_its_name),
        cmocka_unit_test(acknowledgements_in_another_order_are_counted_not_refused),
        cmocka_unit_test(an_open_loop_sends_what_was_asked),
        cmocka_unit_test(no_two_clients_of_a_storm_are_one_device),
        cmocka_unit_test(nobody_listening_is_a_failure_of_tcp),
        cmocka_unit_test(the_sink_serves_many_connections),
        cmocka_unit_test(disk_and_log_are_measured),
        cmocka_unit_test(bad_usage_is_code_2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
