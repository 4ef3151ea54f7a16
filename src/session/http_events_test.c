/** Events over HTTP: their JSON, what may be asked for, following, back-pressure, resuming, and failures. */
#include "session/http_event_json.h"
#include "session/http_rig_ask.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const int64_t start_us = INT64_C(1714558830123456);

/* ---- records ------------------------------------------------------------------------------------------------- */

typedef struct builder {
    nv_buf stamp;
    nv_buf properties;
    nv_record record;
} builder;

static void begin(builder *b, const char *device, const char *module)
{
    nv_buf_init(&b->stamp, 1000);
    nv_buf_init(&b->properties, 100000);
    nv_stamp stamp = {.device_id = nv_span_str(device),
                      .module_id = nv_span_str(module),
                      .generation_id = nv_span_str("637345907161634714"),
                      .scope = module ? NV_AUTH_SCOPE_MODULE : NV_AUTH_SCOPE_DEVICE};
    assert_int_equal(nv_stamp_encode(&b->stamp, &stamp), NV_OK);
    b->record = (nv_record){.enqueued_us = start_us, .source = NV_SOURCE_TELEMETRY};
}

static void put(builder *b, uint8_t id, const char *name, nv_value value)
{
    nv_property property = {.id = id, .name = nv_span_str(name), .value = value};
    assert_int_equal(nv_property_put(&b->properties, &property), NV_OK);
}

static void put_text(builder *b, uint8_t id, const char *name, const char *value)
{
    put(b, id, name, nv_value_string(nv_span_str(value)));
}

static const nv_record *built(builder *b)
{
    b->record.stamp = nv_buf_span(&b->stamp);
    b->record.properties = nv_buf_span(&b->properties);
    return &b->record;
}

static void end(builder *b)
{
    nv_buf_deinit(&b->stamp);
    nv_buf_deinit(&b->properties);
}

static void add(uint32_t partition, uint64_t sequence, const char *device, const char *body)
{
    builder b;
    begin(&b, device, NULL);
    b.record.partition = partition;
    b.record.sequence = sequence;
    b.record.offset = sequence * 100;
    b.record.enqueued_us = start_us + (int64_t)sequence * NV_US_PER_S;
    b.record.body = nv_span_str(body);
    nv_rig_log_add(nv_rig_on.log, built(&b));
    end(&b);
}

/* ---- JSON of one event ---------------------------------------------------------------------------------------- */

static void assert_json(const nv_record *record, const char *want)
{
    nv_buf out;
    nv_buf_init(&out, 1 << 20);
    nv_json_writer w = nv_json_writer_of(&out);
    nv_event_write_json(&w, record);
    assert_int_equal(w.err, NV_OK);
    if (!nv_span_eq_str(nv_buf_span(&out), want)) {
        fail_msg("got  %.*s\nwant %s", NV_SPAN_ARG(nv_buf_span(&out)), want);
    }
    assert_int_equal(nv_json_check(nv_buf_span(&out), 16, 1000), NV_OK);
    nv_buf_deinit(&out);
}

#define STAMP(module, scope)                                                                                           \
    "\"iothub-connection-device-id\":\"d\"," module "\"iothub-connection-auth-generation-id\":\"637345907161634714\"," \
    "\"iothub-connection-auth-method\":\"{\\\"scope\\\":\\\"" scope "\\\",\\\"type\\\":\\\"sas\\\","                   \
    "\\\"issuer\\\":\\\"iothub\\\",\\\"acceptingIpFilterRule\\\":null}\","                                             \
    "\"iothub-enqueuedtime\":1714558830123,\"iothub-message-source\":\"Telemetry\"}"

static void an_event_with_everything(void **state)
{
    (void)state;
    builder b;
    begin(&b, "d", "m");
    b.record.partition = 3;
    b.record.sequence = 17;
    b.record.offset = UINT64_MAX;
    put_text(&b, NV_PROP_MESSAGE_ID, NULL, "id\n1");
    put_text(&b, NV_PROP_CONTENT_TYPE, NULL, "Application/JSON; charset=utf-8");
    put_text(&b, NV_PROP_CONTENT_ENCODING, NULL, "UTF-8");
    put_text(&b, 0, "k\"ey", "v\xff");
    put(&b, 0, "null", (nv_value){.type = NV_VALUE_NULL});
    put(&b, 0, "bool", (nv_value){.type = NV_VALUE_BOOL, .boolean = true});
    put(&b, 0, "ulong", (nv_value){.type = NV_VALUE_ULONG, .u = UINT64_MAX});
    put(&b, 0, "long", (nv_value){.type = NV_VALUE_LONG, .i = INT64_MIN});
    put(&b, 0, "double", (nv_value){.type = NV_VALUE_DOUBLE, .u = UINT64_C(0x3FE0000000000000)});
    put(&b, 0, "float", (nv_value){.type = NV_VALUE_FLOAT, .u = 0x7f800000});
    put(&b, 0, "char", (nv_value){.type = NV_VALUE_CHAR, .u = 0x20ac});
    put(&b, 0, "time", (nv_value){.type = NV_VALUE_TIMESTAMP, .i = 1714558830123});
    put(&b, 0, "far", (nv_value){.type = NV_VALUE_TIMESTAMP, .i = INT64_MAX});
    put(&b, 0, "uuid", (nv_value){.type = NV_VALUE_UUID, .bytes = nv_span_str("0123456789abcdef")});
    put(&b, 0, "bin", (nv_value){.type = NV_VALUE_BINARY, .bytes = nv_span_str("\x01\x02")});
    b.record.body = nv_span_str("{ \"t\" : 21.70,\n \"a\" : [ 1e3 ] }");
    assert_json(
        built(&b),
        "{\"partition\":3,\"sequence\":17,\"offset\":\"18446744073709551615\","
        "\"enqueuedTime\":\"2024-05-01T10:20:30.1234560Z\",\"deviceId\":\"d\",\"moduleId\":\"m\","
        "\"systemProperties\":{\"message-id\":\"id\\n1\",\"content-type\":\"Application/JSON; charset=utf-8\","
        "\"content-encoding\":\"UTF-8\"," STAMP(
            "\"iothub-connection-module-id\":\"m\",",
            "module") ",\"properties\":{\"k\\\"ey\":\"v\xef\xbf\xbd\",\"null\":null,\"bool\":true,"
                      "\"ulong\":18446744073709551615,\"long\":-9223372036854775808,\"double\":0.5,\"float\":"
                      "\"Infinity\","
                      "\"char\":\"\xe2\x82\xac\",\"time\":\"2024-05-01T10:20:30.1230000Z\",\"far\":9223372036854775807,"
                      "\"uuid\":\"30313233-3435-3637-3839-616263646566\",\"bin\":\"AQI=\"},"
                      "\"body\":{\"t\":21.70,\"a\":[1e3]}}");
    end(&b);
}

static void bodies(void **state)
{
    (void)state;
    static const struct {
        const char *type;
        const char *encoding;
        const char *body;
        size_t len;
        nv_body_kind kind;
        const char *json;
    } rows[] = {
        {"application/json", "utf-8", "{}", 2, NV_BODY_DATA, "\"body\":{}"},
        {"application/json", "utf-8", " 5 ", 3, NV_BODY_DATA, "\"body\":5"},
        {"application/json", "utf-8", "{oops", 5, NV_BODY_DATA, "\"body\":\"{oops\""},
        {"application/json", "utf-8", "\"\xff\"", 3, NV_BODY_DATA, "\"body\":null,\"bodyBase64\":\"Iv8i\""},
        {"application/json", "utf-16", "{}", 2, NV_BODY_DATA, "\"body\":\"{}\""},
        {"application/json", NULL, "{}", 2, NV_BODY_DATA, "\"body\":\"{}\""},
        {"text/plain", "utf-8", "{}", 2, NV_BODY_DATA, "\"body\":\"{}\""},
        {NULL, NULL, "a\tb\r\n\xc3\xa9", 7, NV_BODY_DATA, "\"body\":\"a\\tb\\r\\n\xc3\xa9\""},
        {NULL, NULL, "", 0, NV_BODY_DATA, "\"body\":\"\""},
        {NULL, NULL, "a\0b", 3, NV_BODY_DATA, "\"body\":null,\"bodyBase64\":\"YQBi\""},
        {NULL, NULL, "\xff\xfe", 2, NV_BODY_DATA, "\"body\":null,\"bodyBase64\":\"//4=\""},
        {"application/json", "utf-8", "{}", 2, NV_BODY_AMQP_VALUE, "\"body\":null,\"bodyBase64\":\"e30=\""},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        builder b;
        begin(&b, "d", NULL);
        if (rows[i].type) {
            put_text(&b, NV_PROP_CONTENT_TYPE, NULL, rows[i].type);
        }
        if (rows[i].encoding) {
            put_text(&b, NV_PROP_CONTENT_ENCODING, NULL, rows[i].encoding);
        }
        b.record.body = nv_span_of(rows[i].body, rows[i].len);
        b.record.body_kind = rows[i].kind;
        nv_buf out;
        nv_buf_init(&out, 1 << 20);
        nv_json_writer w = nv_json_writer_of(&out);
        nv_event_write_json(&w, built(&b));
        assert_int_equal(nv_json_check(nv_buf_span(&out), 16, 1000), NV_OK);
        if (!memmem(nv_buf_span(&out).ptr, nv_buf_len(&out), rows[i].json, strlen(rows[i].json))) {
            fail_msg("row %zu: %.*s", i, NV_SPAN_ARG(nv_buf_span(&out)));
        }
        nv_buf_deinit(&out);
        end(&b);
    }
}

static void a_full_buffer_is_told(void **state)
{
    (void)state;
    builder b;
    begin(&b, "d", NULL);
    put_text(&b, NV_PROP_CONTENT_TYPE, NULL, "application/json");
    put_text(&b, NV_PROP_CONTENT_ENCODING, NULL, "utf-8");
    b.record.body = nv_span_str("[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]");
    for (size_t max = 0; max < 600; max++) {
        nv_buf out;
        nv_buf_init(&out, max);
        nv_json_writer w = nv_json_writer_of(&out);
        nv_event_write_json(&w, built(&b));
        /* Either it says so or it is whole. */
        assert_true(w.err == NV_E_TOO_BIG || nv_json_check(nv_buf_span(&out), 16, 1000) == NV_OK);
        nv_buf_deinit(&out);
    }
    end(&b);
}

/* ---- streams --------------------------------------------------------------------------------------------------- */

static void request(const char *query, const char *headers)
{
    char text[2048];
    (void)snprintf(text, sizeof(text), "GET /nave/v1/events%s HTTP/1.1\r\nAuthorization: %s\r\n%s\r\n", query,
                   nv_rig_policy_token(&nv_rig_on, "service", NULL), headers);
    nv_rig_send(&nv_rig_line, nv_span_str(text));
}

/** "partition:sequence" of each event in @p text, joined by spaces. */
static const char *events_in(const char *text)
{
    static char list[1 << 14];
    size_t len = 0;
    list[0] = '\0';
    const char mark[] = "{\"partition\":";
    for (const char *at = strstr(text, mark); at; at = strstr(at + 1, mark)) {
        unsigned partition = 0;
        unsigned long long sequence = 0;
        assert_int_equal(sscanf(at, "{\"partition\":%u,\"sequence\":%llu,", &partition, &sequence), 2);
        len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%u:%llu", len ? " " : "", partition, sequence);
    }
    return list;
}

static void add_some(void)
{
    add(0, 0, "a", "one");
    add(1, 0, "b", "two");
    add(0, 1, "a", "three");
    add(1, 1, "c", "four");
    add(0, 2, "a", "five");
    add(1, 2, "b", "six");
    add(0, 3, "a", "seven");
}

static void selections(void **state)
{
    (void)state;
    static const struct {
        const char *query;
        const char *events;
    } rows[] = {
        {"", "0:0 1:0 0:1 1:1 0:2 1:2 0:3"},
        {"?from=beginning", "0:0 1:0 0:1 1:1 0:2 1:2 0:3"},
        {"?api-version=2021-04-12&From=Beginning&follow=false", "0:0 1:0 0:1 1:1 0:2 1:2 0:3"},
        {"?partition=1", "1:0 1:1 1:2"},
        {"?partition=3", ""},
        {"?device=a", "0:0 0:1 0:2 0:3"},
        {"?device=b&max=1", "1:0"},
        {"?max=4", "0:0 1:0 0:1 1:1"},
        {"?max=7", "0:0 1:0 0:1 1:1 0:2 1:2 0:3"},
        {"?from=2&partition=0", "0:2 0:3"},
        {"?partition=0&from=99", ""},
        {"?from=now", ""},
        {"?from=2024-05-01T10:20:32Z", "0:2 1:2 0:3"},
        {"?from=2024-05-01T10%3A20%3A32.2", "0:3"},
        {"?from=2024-05-01T10:20:32.1234567Z", "0:3"},
    };
    add_some();
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        request(rows[i].query, "");
        nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
        assert_int_equal(nv_rig_said.status, 200);
        assert_string_equal(nv_answer_header(&nv_rig_said, "Content-Type"), "application/x-ndjson");
        if (strcmp(events_in(nv_rig_said.body), rows[i].events) != 0) {
            fail_msg("%s: %s", rows[i].query, events_in(nv_rig_said.body));
        }
        size_t lines = 0;
        for (const char *c = nv_rig_said.body; (c = strchr(c, '\n')); c++) {
            lines++;
        }
        assert_int_equal(lines, rows[i].events[0] ? strlen(rows[i].events) / 4 + 1 : 0);
    }
}

static void wrong_selections(void **state)
{
    (void)state;
    static const char *const rows[] = {"?partition=4",
                                       "?partition=-1",
                                       "?partition=",
                                       "?from=5",
                                       "?from=yesterday",
                                       "?from=",
                                       "?from=2024-05-01T25Z",
                                       "?device=a%20b",
                                       "?device=",
                                       "?max=0",
                                       "?max=x",
                                       "?follow=perhaps",
                                       "?from=%zz",
                                       "?max=%",
                                       "?from=2024-05-01T10:20:30Zjunk",
                                       "?partition=0&from=18446744073709551616",
                                       "?partition=99999999999999999999"};
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        request(rows[i], "");
        nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
        if (nv_rig_said.status != 400) {
            fail_msg("%s: %u", rows[i], nv_rig_said.status);
        }
        assert_string_equal(nv_answer_header(&nv_rig_said, "iothub-errorcode"), "ArgumentInvalid");
        assert_int_equal(strncmp(nv_rig_said.body, "{\"errorCode\":400004,\"message\":\"", 30), 0); /* shape E2 */
    }
    request("", "Accept: text/event-stream\r\nLast-Event-ID: 9:1\r\n");
    nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
    assert_int_equal(nv_rig_said.status, 400);
    request("?partition=1", "Last-Event-ID: 0:1\r\n");
    nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
    assert_int_equal(nv_rig_said.status, 400);
}

/** What the client has received since the last call, without the chunk framing checked; NUL-terminated. */
static const char *received(void)
{
    static char text[1 << 16];
    nv_rig_pump(&nv_rig_line);
    nv_span all = nv_buf_span(&nv_rig_line.received);
    assert_true(all.len < sizeof(text));
    if (all.len) {
        memcpy(text, all.ptr, all.len);
    }
    text[all.len] = '\0';
    nv_buf_clear(&nv_rig_line.received);
    return text;
}

static void following(void **state)
{
    (void)state;
    add(0, 0, "a", "old");
    request("?follow=true&from=now", "");
    assert_non_null(strstr(received(), "HTTP/1.1 200 OK\r\n"));
    add(0, 1, "a", "new");
    assert_string_equal(events_in(received()), "0:1");
    /* Nothing new: a blank line now and then keeps middle boxes and the client content. */
    nv_rig_advance(&nv_rig_line, 29 * NV_US_PER_S);
    assert_string_equal(received(), "");
    nv_rig_advance(&nv_rig_line, NV_US_PER_S);
    assert_string_equal(received(), "1\r\n\n\r\n");
    nv_rig_advance(&nv_rig_line, 30 * NV_US_PER_S);
    assert_string_equal(received(), "1\r\n\n\r\n");
    add(1, 0, "b", "newer");
    assert_string_equal(events_in(received()), "1:0");
    assert_true(nv_rig_line.session->reading); /* to hear when the client goes */
    nv_rig_lose(&nv_rig_line);
    assert_true(nv_rig_line.session->done);
}

static void a_follower_when_the_hub_stops(void **state)
{
    (void)state;
    request("?follow=true", "");
    (void)received();
    nv_rig_line.session->ops->drain(nv_rig_line.session, 0);
    assert_string_equal(received(), "0\r\n\r\n");
    assert_true(nv_rig_line.session->closing);
}

static void max_ends_a_follower(void **state)
{
    (void)state;
    add(0, 0, "a", "x");
    request("?follow=true&max=2", "");
    nv_rig_pump(&nv_rig_line);
    assert_false(nv_rig_take_answer(&nv_rig_line, false, &nv_rig_said));
    add(0, 1, "a", "y");
    add(0, 2, "a", "z");
    nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
    assert_string_equal(events_in(nv_rig_said.body), "0:0 0:1");
    /* The connection serves on. */
    request("?partition=2", "");
    nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
    assert_int_equal(nv_rig_said.status, 200);
}

static void server_sent_events(void **state)
{
    (void)state;
    add_some();
    request("?partition=1&follow=false", "Accept: text/html, text/event-stream\r\n");
    nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
    assert_string_equal(nv_answer_header(&nv_rig_said, "Content-Type"), "text/event-stream");
    assert_int_equal(strncmp(nv_rig_said.body, "id: 1:0\ndata: {\"partition\":1,\"sequence\":0,", 41), 0);
    assert_non_null(strstr(nv_rig_said.body, "}\n\nid: 1:1\ndata: {"));
    /* An EventSource follows unless told otherwise, and resumes behind what it has seen. */
    request("?partition=1", "Accept: text/event-stream\r\nLast-Event-ID: 1:1\r\n");
    assert_string_equal(events_in(received()), "1:2");
    assert_true(nv_rig_log_options(nv_rig_on.log)->follow);
    nv_rig_advance(&nv_rig_line, 30 * NV_US_PER_S);
    assert_non_null(strstr(received(), ": nothing new\n\n"));
}

static void resuming_over_partitions(void **state)
{
    (void)state;
    static const struct {
        const char *id;
        const char *events;
    } rows[] = {
        {"1:1", "0:2 1:2 0:3"},
        {"0:2", "1:2 0:3"},
        {"0:3", ""},
        {"0:0", "1:0 0:1 1:1 0:2 1:2 0:3"},
        {"2:5", "0:0 1:0 0:1 1:1 0:2 1:2 0:3"}, /* gone: everything there is */
    };
    add_some();
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        char header[100];
        (void)snprintf(header, sizeof(header), "Accept: text/event-stream\r\nLast-Event-ID: %s\r\n", rows[i].id);
        request("?follow=false", header);
        nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
        if (strcmp(events_in(nv_rig_said.body), rows[i].events) != 0) {
            fail_msg("%s: %s", rows[i].id, events_in(nv_rig_said.body));
        }
    }
}

/** A client that reads slowly, or not at all, is waited for: memory stays bounded and nothing is lost. */
static void back_pressure(void **state)
{
    (void)state;
    enum { EVENTS = 400, BODY = 20000 };
    static char body[BODY + 1];
    memset(body, 'x', BODY);
    for (uint64_t i = 0; i < EVENTS; i++) {
        add(0, i, "a", body);
    }
    nv_rig_line.window = 0;
    request("", "");
    nv_rig_pump(&nv_rig_line);
    assert_true(nv_rig_line.most_queued > 100000);
    assert_true(nv_rig_line.most_queued <= (size_t)nv_rig_on.hub->limits.reader_queue_bytes);
    nv_rig_line.window = 7777;
    size_t seen = 0;
    size_t total = 0;
    nv_span all = NV_SPAN_EMPTY;
    while (!(all.len >= 5 && memcmp(all.ptr + all.len - 5, "0\r\n\r\n", 5) == 0)) {
        nv_rig_pump(&nv_rig_line);
        all = nv_buf_span(&nv_rig_line.received);
        assert_true(all.len > total);
        total = all.len;
    }
    char mark[60];
    for (const uint8_t *at = all.ptr; seen < EVENTS; at++, seen++) {
        int len = snprintf(mark, sizeof(mark), "{\"partition\":0,\"sequence\":%zu,", seen);
        at = memmem(at, (size_t)(all.ptr + all.len - at), mark, (size_t)len);
        assert_non_null(at);
    }
    assert_true(nv_rig_line.most_queued <= (size_t)nv_rig_on.hub->limits.reader_queue_bytes);
}

/** Events that are larger than the queue's bound as JSON go alone. */
static void huge_events(void **state)
{
    (void)state;
    enum { BODY = 262144 };
    static char body[BODY + 1];
    memset(body, '\t', BODY); /* twice as long in JSON */
    for (uint64_t i = 0; i < 8; i++) {
        add(0, i, "a", body);
    }
    nv_rig_line.window = 10000;
    request("", "");
    nv_span all = NV_SPAN_EMPTY;
    while (!(all.len >= 5 && memcmp(all.ptr + all.len - 5, "0\r\n\r\n", 5) == 0)) {
        nv_rig_pump(&nv_rig_line);
        all = nv_buf_span(&nv_rig_line.received);
    }
    assert_true(all.len > (size_t)8 * 2 * BODY);
    assert_true(nv_rig_line.most_queued <= (size_t)nv_rig_on.hub->limits.reader_queue_bytes);
}

static void failures_of_the_log(void **state)
{
    (void)state;
    add(0, 5, "a", "x");
    /* Retention was faster than the reader: go on with what there is. */
    request("", "");
    nv_rig_log_fail_next(nv_rig_on.log, NV_E_GONE);
    nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
    assert_string_equal(events_in(nv_rig_said.body), "0:5");
    /* The log is broken: the answer has no end, so that nobody takes it for whole. */
    request("?follow=true", "");
    nv_rig_pump(&nv_rig_line);
    nv_rig_log_fail_next(nv_rig_on.log, NV_E_IO);
    const char *text = received();
    assert_string_equal(events_in(text), "0:5");
    assert_null(strstr(text, "\r\n0\r\n\r\n"));
    assert_true(nv_rig_line.session->closing);
}

static void readers_are_counted(void **state)
{
    (void)state;
    enum { MANY = 256 };
    static nv_rig rigs[MANY];
    char text[2048];
    (void)snprintf(text, sizeof(text), "GET /nave/v1/events?follow=true HTTP/1.1\r\nAuthorization: %s\r\n\r\n",
                   nv_rig_policy_token(&nv_rig_on, "service", NULL));
    for (size_t i = 0; i < MANY; i++) {
        nv_rig_init(&rigs[i], &nv_rig_on, nv_http_service_new);
        nv_rig_send(&rigs[i], nv_span_str(text));
        nv_rig_pump(&rigs[i]);
    }
    request("", "");
    nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
    assert_int_equal(nv_rig_said.status, 429);
    assert_string_equal(nv_answer_header(&nv_rig_said, "iothub-errorcode"), "ThrottlingException");
    for (size_t i = 0; i < MANY; i++) {
        nv_rig_deinit(&rigs[i]);
    }
    request("", "");
    nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
    assert_int_equal(nv_rig_said.status, 200);
}

static void http_1_0_and_head(void **state)
{
    (void)state;
    add_some();
    char text[2048];
    (void)snprintf(text, sizeof(text), "GET /nave/v1/events?max=2 HTTP/1.0\r\nAuthorization: %s\r\n\r\n",
                   nv_rig_policy_token(&nv_rig_on, "service", NULL));
    nv_rig other;
    nv_rig_init(&other, &nv_rig_on, nv_http_service_new);
    nv_rig_send(&other, nv_span_str(text));
    nv_rig_pump(&other);
    assert_true(other.session->closing);
    nv_span all = nv_buf_span(&other.received);
    assert_null(memmem(all.ptr, all.len, "chunked", 7));
    assert_int_equal(all.ptr[all.len - 1], '\n');
    nv_rig_deinit(&other);
    (void)snprintf(text, sizeof(text), "HEAD /nave/v1/events?follow=true HTTP/1.1\r\nAuthorization: %s\r\n\r\n",
                   nv_rig_policy_token(&nv_rig_on, "service", NULL));
    nv_rig_send(&nv_rig_line, nv_span_str(text));
    nv_rig_wait_answer(&nv_rig_line, true, &nv_rig_said);
    assert_int_equal(nv_rig_said.status, 200);
}

/** A request behind a stream waits unread, and is answered when the stream ends. */
static void pipelined_behind_a_stream(void **state)
{
    (void)state;
    request("?follow=true&max=1", "");
    request("?partition=2", "");
    nv_rig_pump(&nv_rig_line);
    assert_false(nv_rig_line.session->reading);
    add(0, 0, "a", "x");
    nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
    assert_string_equal(events_in(nv_rig_said.body), "0:0");
    nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
    assert_int_equal(nv_rig_said.status, 200);
    assert_int_equal(nv_rig_said.body_len, 0);
}

/** Whoever follows needs a token all the time: the answer ends in order when it expires. */
static void following_ends_with_the_token(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) {
        const char *headers = round == 0 ? "" : "Accept: text/event-stream\r\n";
        request("?follow=true&from=beginning", headers);
        nv_rig_pump(&nv_rig_line);
        for (int s = 0; s < 3590; s += 10) {
            nv_rig_advance(&nv_rig_line, 10 * NV_US_PER_S);
        }
        assert_false(nv_rig_take_answer(&nv_rig_line, false, &nv_rig_said));
        nv_rig_advance(&nv_rig_line, 10 * NV_US_PER_S - 1);
        assert_false(nv_rig_take_answer(&nv_rig_line, false, &nv_rig_said));
        nv_rig_advance(&nv_rig_line, 1);
        assert_true(nv_rig_take_answer(&nv_rig_line, false, &nv_rig_said));
        assert_int_equal(nv_rig_said.status, 200);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, nv_rig_setup, nv_rig_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_event_with_everything),
        cmocka_unit_test(bodies),
        cmocka_unit_test(a_full_buffer_is_told),
        T(following_ends_with_the_token),
        T(selections),
        T(wrong_selections),
        T(following),
        T(a_follower_when_the_hub_stops),
        T(max_ends_a_follower),
        T(server_sent_events),
        T(resuming_over_partitions),
        T(back_pressure),
        T(huge_events),
        T(failures_of_the_log),
        T(readers_are_counted),
        T(http_1_0_and_head),
        T(pipelined_behind_a_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
