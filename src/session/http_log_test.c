/** Events over HTTP from the real telemetry log: order, selections, following, and a slow reader beside a writer. */
#include "session/http_rig_ask.h"

#include "base/metrics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { DEVICES = 5 };

static int teardown(void **state)
{
    (void)nv_rig_teardown(state);
    /* A reader that was at work when it was closed goes with the log at the latest. */
    assert_int_equal(nv_metric_get(NV_M_READERS_OPEN), 0);
    return 0;
}

/* ---- writing ------------------------------------------------------------------------------------------------- */

static void stored(nv_log_batch *batch, nv_err status, void *arg)
{
    (void)batch;
    assert_int_equal(status, NV_OK);
    *(bool *)arg = true;
}

/** One batch of @p count messages of all devices in turn, waited for. Bodies are numbered on from @p first. */
static void append(size_t first, size_t count, size_t bytes)
{
    bool done = false;
    nv_log_batch *batch = nv_log_batch_new(nv_rig_on.log, &nv_rig_on.queue.exec, stored, &done);
    nv_buf stamps[DEVICES];
    for (size_t i = 0; i < DEVICES; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "dev%zu", i);
        nv_buf_init(&stamps[i], 1000);
        nv_stamp stamp = {.device_id = nv_span_str(id), .generation_id = nv_span_str("1")};
        assert_int_equal(nv_stamp_encode(&stamps[i], &stamp), NV_OK);
    }
    static char body[8192];
    memset(body, 'x', sizeof(body));
    for (size_t i = first; i < first + count; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "dev%zu", i % DEVICES);
        int len = snprintf(body, sizeof(body), "n%zu.", i);
        body[len] = 'x'; /* over the NUL: the body is text */
        nv_log_stamp stamp = {.id = 1 + i % DEVICES, .bytes = nv_buf_span(&stamps[i % DEVICES])};
        nv_span text = nv_span_of(body, bytes > (size_t)len ? bytes : (size_t)len);
        assert_int_equal(nv_log_batch_add(batch, nv_log_partition_of(nv_rig_on.log, nv_span_str(id)), &stamp,
                                          NV_SOURCE_TELEMETRY, NV_BODY_DATA, NV_SPAN_EMPTY, text),
                         NV_OK);
    }
    assert_int_equal(nv_log_submit(batch), NV_OK);
    nv_rig_hub_run(&nv_rig_on, &done);
    nv_log_batch_free(batch);
    for (size_t i = 0; i < DEVICES; i++) {
        nv_buf_deinit(&stamps[i]);
    }
}

/* ---- reading ------------------------------------------------------------------------------------------------- */

static void request(const char *query)
{
    char text[2048];
    (void)snprintf(text, sizeof(text), "GET /nave/v1/events%s HTTP/1.1\r\nAuthorization: %s\r\n\r\n", query,
                   nv_rig_policy_token(&nv_rig_on, "service", NULL));
    nv_rig_send(&nv_rig_line, nv_span_str(text));
}

/** What came of the events: how many, and whether each partition's sequences have no hole. */
typedef struct tally {
    size_t events;
    uint64_t next[4];
    bool begun[4];
} tally;

static void count_events(nv_span text, tally *t)
{
    static const char mark[] = "{\"partition\":";
    const uint8_t *end = text.ptr + text.len;
    for (const uint8_t *at = text.ptr; (at = memmem(at, (size_t)(end - at), mark, sizeof(mark) - 1)); at++) {
        char line[80];
        size_t len = (size_t)(end - at) < sizeof(line) - 1 ? (size_t)(end - at) : sizeof(line) - 1;
        memcpy(line, at, len);
        line[len] = '\0';
        unsigned partition = 0;
        unsigned long long sequence = 0;
        assert_int_equal(sscanf(line, "{\"partition\":%u,\"sequence\":%llu,", &partition, &sequence), 2);
        assert_true(partition < 4);
        assert_true(!t->begun[partition] || t->next[partition] == sequence);
        t->begun[partition] = true;
        t->next[partition] = sequence + 1;
        t->events++;
    }
}

static bool ends_with(nv_span text, const char *tail)
{
    size_t len = strlen(tail);
    return text.len >= len && memcmp(text.ptr + text.len - len, tail, len) == 0;
}

/** Pump until what was received ends in @p tail. */
static nv_span wait_for(const char *tail)
{
    nv_rig_pump(&nv_rig_line);
    while (!ends_with(nv_buf_span(&nv_rig_line.received), tail)) {
        assert_true(nv_exec_queue_run_wait(&nv_rig_on.queue));
        nv_rig_pump(&nv_rig_line);
    }
    return nv_buf_span(&nv_rig_line.received);
}

static tally read_all(const char *query)
{
    tally t = {0};
    request(query);
    count_events(wait_for("\r\n0\r\n\r\n"), &t);
    nv_buf_clear(&nv_rig_line.received);
    return t;
}

static void everything_in_order(void **state)
{
    (void)state;
    append(0, 3000, 20);
    append(3000, 2000, 200);
    assert_int_equal(read_all("").events, 5000);
    assert_int_equal(read_all("?max=1234").events, 1234);
    assert_int_equal(read_all("?from=now").events, 0);
    size_t sum = 0;
    for (unsigned p = 0; p < 4; p++) {
        char query[60];
        (void)snprintf(query, sizeof(query), "?partition=%u", p);
        tally t = read_all(query);
        sum += t.events;
        if (t.events > 10) {
            (void)snprintf(query, sizeof(query), "?partition=%u&from=%zu", p, t.events - 10);
            assert_int_equal(read_all(query).events, 10);
        }
    }
    assert_int_equal(sum, 5000);
    request("?device=dev3");
    nv_span text = wait_for("\r\n0\r\n\r\n");
    size_t seen = 0;
    for (const uint8_t *at = text.ptr; (at = memmem(at, (size_t)(text.ptr + text.len - at), "\"body\":\"n", 9)); at++) {
        unsigned long number = strtoul((const char *)at + 9, NULL, 10);
        assert_int_equal(number, seen * DEVICES + 3);
        seen++;
    }
    assert_int_equal(seen, 1000);
    nv_buf_clear(&nv_rig_line.received);
}

static void following_a_writer(void **state)
{
    (void)state;
    tally t = {0};
    append(0, 10, 10);
    request("?follow=true&from=now&max=50");
    nv_rig_pump(&nv_rig_line);
    /* The reader has to stand at the end before something new comes. */
    assert_int_equal(nv_metric_get(NV_M_READERS_OPEN), 1);
    for (size_t i = 0; i < 50; i += 5) {
        append(10 + i, 5, 10);
        nv_rig_pump(&nv_rig_line);
    }
    count_events(wait_for("\r\n0\r\n\r\n"), &t);
    assert_int_equal(t.events, 50);
}

/** Nobody reads for a while: the hub keeps little, the writer never waits, and in the end nothing is missing. */
static void a_slow_reader_beside_a_writer(void **state)
{
    (void)state;
    tally t = {0};
    append(0, 500, 1000);
    nv_rig_line.window = 0;
    request("?follow=true&max=5000");
    nv_rig_pump(&nv_rig_line);
    for (size_t i = 500; i < 5000; i += 500) {
        append(i, 500, 1000); /* returns when it is stored */
        nv_rig_pump(&nv_rig_line);
    }
    assert_true(nv_rig_line.most_queued > 0);
    assert_true(nv_rig_line.most_queued <= (size_t)nv_rig_on.hub->limits.reader_queue_bytes);
    nv_rig_line.window = 50000;
    count_events(wait_for("\r\n0\r\n\r\n"), &t);
    assert_int_equal(t.events, 5000);
    assert_true(nv_rig_line.most_queued <= (size_t)nv_rig_on.hub->limits.reader_queue_bytes);
}

/** The peer goes at any moment: the reader is closed with it. */
static void readers_go_with_their_peers(void **state)
{
    (void)state;
    append(0, 2000, 500);
    for (int i = 0; i < 50; i++) {
        nv_rig other;
        char text[2048];
        nv_rig_init(&other, &nv_rig_on, nv_http_service_new);
        (void)snprintf(text, sizeof(text), "GET /nave/v1/events?follow=true HTTP/1.1\r\nAuthorization: %s\r\n\r\n",
                       nv_rig_policy_token(&nv_rig_on, "service", NULL));
        nv_rig_send(&other, nv_span_str(text));
        for (int turn = 0; turn < i; turn++) {
            nv_rig_pump(&other);
        }
        nv_rig_deinit(&other);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, nv_rig_setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(everything_in_order),
        T(following_a_writer),
        T(a_slow_reader_beside_a_writer),
        T(readers_go_with_their_peers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
