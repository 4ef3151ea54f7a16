/*
 * How fast one reader gets events: from the log through the hub's AMQP server into the output of its connection, which
 * is thrown away. What is left out is TLS and the socket. The log is one journal: who reads one partition passes over
 * the events of those that were filled before. Prints; judges nothing.
 *
 *   amqp_events_bench [events] [slow readers]
 */
#include "base/diag.h"
#include "session/amqp/engine_impl.h"
#include "support/amqp_reader_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define BODY    256u
#define DEVICES 50u
#define READER  "hub/ConsumerGroups/$Default/Partitions/0"

static double now_of(clockid_t clock)
{
    struct timespec t;
    (void)clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- events --------------------------------------------------------------------------------------------------- */

static void on_stored(nv_log_batch *batch, nv_err status, void *arg)
{
    (void)batch;
    assert_int_equal(status, NV_OK);
    *(bool *)arg = true;
}

static void put(nv_buf *out, nv_system_property id, const char *name, const char *text)
{
    nv_property property = {.id = (uint8_t)id, .name = nv_span_str(name), .value = nv_value_string(nv_span_str(text))};
    assert_int_equal(nv_property_put(out, &property), NV_OK);
}

/* Properties as a device's SDK sends them; each message has an id of its own. */
static void make_properties(nv_buf *out, unsigned number)
{
    char id[40];
    (void)snprintf(id, sizeof(id), "message-%u", number);
    nv_buf_clear(out);
    put(out, NV_PROP_MESSAGE_ID, "", id);
    put(out, NV_PROP_CONTENT_TYPE, "", "application/json");
    put(out, NV_PROP_CONTENT_ENCODING, "", "utf-8");
    put(out, NV_PROP_APPLICATION, "alert", "false");
}

/** @p run  events of one device one behind the other */
static void fill(nv_rig_hub *on, uint32_t partition, unsigned count, unsigned run, bool properties)
{
    static char body[BODY];
    nv_buf stamps[DEVICES];
    nv_log_stamp names[DEVICES];
    nv_buf section;
    bool stored = false;
    nv_buf_init(&section, 1024);
    for (unsigned d = 0; d < DEVICES; d++) {
        char id[24];
        (void)snprintf(id, sizeof(id), "device-%u", d);
        nv_buf_init(&stamps[d], 1024);
        nv_stamp stamp = {.device_id = nv_span_str(id), .generation_id = nv_span_str("638000000000000000")};
        assert_int_equal(nv_stamp_encode(&stamps[d], &stamp), NV_OK);
        names[d] = (nv_log_stamp){.id = nv_hub_next_stamp_id(on->hub), .bytes = nv_buf_span(&stamps[d])};
    }
    nv_log_batch *batch = nv_log_batch_new(on->log, &on->queue.exec, on_stored, &stored);
    for (unsigned i = 0; i < count;) {
        nv_log_batch_clear(batch);
        for (unsigned n = 0; n < 1000 && i < count; n++, i++) {
            if (properties) {
                make_properties(&section, i);
            }
            assert_int_equal(nv_log_batch_add(batch, partition, &names[i / run % DEVICES], NV_SOURCE_TELEMETRY,
                                              NV_BODY_DATA, nv_buf_span(&section), nv_span_of(body, sizeof(body))),
                             NV_OK);
        }
        stored = false;
        assert_int_equal(nv_log_submit(batch), NV_OK);
        nv_rig_hub_run(on, &stored);
    }
    nv_log_batch_free(batch);
    for (unsigned d = 0; d < DEVICES; d++) {
        nv_buf_deinit(&stamps[d]);
    }
    nv_buf_deinit(&section);
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

/** The hub's half of a link: where it stands is the count of what was sent. */
static engine_link *server_link(const rig_client *c)
{
    nv_amqp_conn *conn = (nv_amqp_conn *)(void *)c->line.session;
    nv_amqp_session *session = nv_container_of(conn->sessions.next, nv_amqp_session, _node);
    return engine_link_of(nv_container_of(session->links.next, nv_amqp_link, _node));
}

/** What the client would do: read all, open the window again. */
static size_t swallow(rig_client *c, engine_link *link)
{
    size_t bytes = nv_buf_len(&c->line.out);
    engine_link_session(link)->remote_window = UINT32_MAX / 2;
    link->pub.credit = UINT32_MAX / 2;
    if (bytes > 0) {
        nv_buf_consume(&c->line.out, bytes);
        c->line.session->ops->sent(c->line.session, nv_mono_us(&c->line.on->clock.clock));
    } else if (c->line.session->deadline_us <= nv_mono_us(&c->line.on->clock.clock)) {
        c->line.session->ops->tick(c->line.session, nv_mono_us(&c->line.on->clock.clock));
    }
    return bytes;
}

static void measure(nv_rig_hub *on, const char *name, unsigned partition, unsigned events, unsigned slow_readers)
{
    char address[64];
    rig_client *slow[64];
    (void)snprintf(address, sizeof(address), "hub/ConsumerGroups/$Default/Partitions/%u", partition);
    for (unsigned i = 0; i < slow_readers; i++) { /* each takes a few and then reads no more */
        char their[64];
        (void)snprintf(their, sizeof(their), "hub/ConsumerGroups/$Default/Partitions/%u", i % 3);
        slow[i] = rig_connect(on, "service", NV_RIG_HOST);
        rig_link *link = rig_attach_link(slow[i], &(rig_attach){.address = their, .credit = 10, .keep = true});
        RIG_UNTIL(slow[i], link->count == 10);
    }
    rig_client *c = rig_connect(on, "service", NV_RIG_HOST);
    rig_link *link = rig_attach_link(c, &(rig_attach){.address = address, .keep = true});
    assert_true(link->attached && !link->refused);
    engine_link *server = server_link(c);
    rig_credit(c, link, 1); /* begins */
    RIG_UNTIL(c, server->delivery_count > 0);
    uint32_t before = server->delivery_count;
    double cpu = now_of(CLOCK_PROCESS_CPUTIME_ID);
    double loop = now_of(CLOCK_THREAD_CPUTIME_ID);
    double wall = now_of(CLOCK_MONOTONIC);
    uint64_t bytes = 0;
    engine_link_session(server)->remote_window = server->pub.credit = UINT32_MAX / 2;
    server->pub.ops->room(&server->pub);
    while (server->delivery_count < events) {
        bool ran = nv_exec_queue_run(&on->queue) > 0;
        size_t took = swallow(c, server);
        bytes += took;
        if (!ran && took == 0) {
            assert_true(nv_exec_queue_run_wait(&on->queue));
        }
    }
    bytes += swallow(c, server);
    double count = (double)(server->delivery_count - before);
    wall = now_of(CLOCK_MONOTONIC) - wall;
    cpu = now_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    loop = now_of(CLOCK_THREAD_CPUTIME_ID) - loop;
    (void)printf("%-34s %8.0f events: %9.0f /s by the clock, %9.0f per CPU second of all threads, %9.0f of the loop; "
                 "%.0f bytes each\n",
                 name, count, count / wall, count / cpu, count / loop, (double)bytes / count);
    rig_disconnect(c);
    for (unsigned i = 0; i < slow_readers; i++) {
        rig_disconnect(slow[i]);
    }
}

int main(int argc, char **argv)
{
    unsigned events = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 300000;
    unsigned slow = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 12;
    slow = slow < 12 ? slow : 12; /* with the one that is measured, five of a partition and group */
    nv_rig_hub on;
    nv_rig_hub_init(&on);
    nv_diag_setup(NV_LEVEL_ERROR, false, STDERR_FILENO);
    fill(&on, 0, events, 16, false);
    fill(&on, 1, events, 1, false);
    fill(&on, 2, events, 16, true);
    measure(&on, "16 of a device in a row", 0, events, 0);
    measure(&on, "... again", 0, events, 0);
    measure(&on, "another device each time", 1, events, 0);
    measure(&on, "with four properties", 2, events, 0);
    measure(&on, "beside slow readers", 0, events, slow);
    nv_rig_hub_deinit(&on);
    return 0;
}
