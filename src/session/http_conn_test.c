/** The HTTP connection: framing, pipelining, bounds, deadlines, errors; and the admin endpoints. */
#include "session/http_rig_ask.h"

#include "base/metrics.h"
#include "codec/json.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static nv_answer answer;

/** Send @p text on a fresh connection in pieces of @p step and take one answer. @return the connection closes after it
 */
static bool ask(const char *text, size_t step, bool to_head)
{
    nv_rig rig;
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    rig.step = step;
    nv_rig_send(&rig, nv_span_str(text));
    nv_rig_wait_answer(&rig, to_head, &answer);
    bool closing = rig.session->closing;
    nv_rig_deinit(&rig);
    return closing;
}

static const char *authorized(const char *head)
{
    static char text[4096];
    const char *end = strstr(head, "\r\n");
    (void)snprintf(text, sizeof(text), "%.*s\r\nAuthorization: %s%s", (int)(end - head), head,
                   nv_rig_policy_token(&nv_rig_on, "iothubowner", NULL), end);
    return text;
}

/* Every error: name in a header, JSON with a JSON content type. conformance: http-hub.md 40 */
static void errors_have_their_form(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        unsigned status;
        const char *name;
        bool closes;
    } rows[] = {
        {"GET /nothing?api-version=2021-04-12 HTTP/1.1\r\n\r\n", 404, "ResourceNotFound", false},
        {"GET / HTTP/1.1\r\n\r\n", 404, "ResourceNotFound", false},
        {"GET /devices/a/b/c/d/e/f/g/h/i/j/k HTTP/1.1\r\n\r\n", 404, "ResourceNotFound", false},
        {"PATCH /devices/d HTTP/1.1\r\n\r\n", 405, "MethodNotAllowed", false},
        {"OPTIONS /devices HTTP/1.1\r\n\r\n", 405, "MethodNotAllowed", false},
        {"GET /devices/%zz HTTP/1.1\r\n\r\n", 400, "ArgumentInvalid", false},
        {"GET * HTTP/1.1\r\n\r\n", 400, "ArgumentInvalid", false},
        {"GET /devices/d HTTP/1.1\r\n\r\n", 400, "InvalidProtocolVersion", false},
        {"GET /devices?api-version=2021-04-12 HTTP/1.1\r\n\r\n", 401, "IotHubUnauthorizedAccess", false},
        {"GET /devices?api-version=2021-04-12 HTTP/1.0\r\n\r\n", 401, "IotHubUnauthorizedAccess", true},
        {"GET /devices?api-version=2021-04-12 HTTP/1.1\r\nConnection: close\r\n\r\n", 401, "IotHubUnauthorizedAccess",
         true},
        {"\x16\x03\x01 hello", 400, "IotHubFormatError", true},
        {"GET / HTTP/3.0\r\n\r\n", 400, "IotHubFormatError", true},
        {"PUT /devices/d HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413, "MessageTooLarge", true},
        {"GET /$iothub/websocket HTTP/1.1\r\n\r\n", 426, "UpgradeRequired", false},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        for (size_t step = 0; step < 8; step++) {
            bool closes = ask(rows[i].text, step, false);
            if (answer.status != rows[i].status) {
                fail_msg("%s: %u", rows[i].text, answer.status);
            }
            assert_string_equal(nv_answer_header(&answer, "iothub-errorcode"), rows[i].name);
            assert_string_equal(nv_answer_header(&answer, "Content-Type"), "application/json; charset=utf-8");
            assert_string_equal(nv_answer_header(&answer, "Vary"), "Origin");
            assert_int_equal(strlen(nv_answer_header(&answer, "x-ms-request-id")), 36);
            assert_string_equal(nv_answer_header(&answer, "Date"), "Sat, 21 Nov 2026 02:26:40 GMT");
            assert_int_equal(nv_json_check(nv_span_of(answer.body, answer.body_len), 8, 100), NV_OK);
            assert_int_equal(closes, rows[i].closes);
            const char *connection = nv_answer_header(&answer, "Connection");
            assert_true(!rows[i].closes || (connection && strcmp(connection, "close") == 0));
        }
    }
    (void)ask("PUT /devices/d HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 0, false);
    assert_non_null(strstr(answer.body, " bytes (limits.http_body_bytes)"));
    (void)ask("DELETE /devices HTTP/1.1\r\n\r\n", 0, false);
    assert_string_equal(nv_answer_header(&answer, "Allow"), "GET, HEAD, POST");
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    (void)state;
    char all[8192] = "";
    size_t len = 0;
    for (unsigned i = 0; i < 8; i++) {
        /* Waiting, refused, and immediate ones in turn. */
        const char *text = i % 3 == 0   ? authorized("GET /devices/x?api-version=2021-04-12 HTTP/1.1\r\n\r\n")
                           : i % 3 == 1 ? "PUT /none HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
                                        : authorized("GET /statistics/service?api-version=2021-04-12 HTTP/1.1\r\n\r\n");
        len += (size_t)snprintf(all + len, sizeof(all) - len, "%s", text);
    }
    static const char *const names[] = {"DeviceNotFound", "ResourceNotFound", NULL};
    for (size_t step = 0; step < 2 * len; step = step * 2 + 1) {
        nv_rig rig;
        nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
        rig.step = step;
        nv_rig_send(&rig, nv_span_of(all, len));
        for (unsigned i = 0; i < 8; i++) {
            nv_rig_wait_answer(&rig, false, &answer);
            const char *name = nv_answer_header(&answer, "iothub-errorcode");
            if (names[i % 3]) {
                assert_string_equal(name, names[i % 3]);
            } else {
                assert_null(name);
                assert_string_equal(answer.body, "{\"connectedDeviceCount\":0}");
            }
        }
        assert_false(rig.session->closing);
        assert_int_equal(nv_buf_len(&rig.in), 0);
        nv_rig_deinit(&rig);
    }
}

static void a_head_request_gets_no_body(void **state)
{
    (void)state;
    (void)ask(authorized("HEAD /statistics/service?api-version=2021-04-12 HTTP/1.1\r\n\r\n"), 0, true);
    assert_int_equal(answer.status, 200);
    assert_string_equal(nv_answer_header(&answer, "Content-Length"), "26");
    nv_rig rig;
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    nv_rig_send(&rig, nv_span_str("HEAD /none HTTP/1.1\r\n\r\n"));
    nv_rig_wait_answer(&rig, true, &answer);
    assert_int_equal(answer.status, 404);
    nv_rig_pump(&rig);
    assert_int_equal(nv_buf_len(&rig.received), 0);
    nv_rig_deinit(&rig);
}

/** What anybody may ask for proves nothing about who asks. */
static void open_paths_do_not_authenticate(void **state)
{
    (void)state;
    nv_rig rig;
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    nv_rig_send(&rig, nv_span_str("GET /$iothub/websocket HTTP/1.1\r\n\r\n"));
    nv_rig_wait_answer(&rig, false, &answer);
    assert_false(rig.session->authenticated);
    nv_rig_send(&rig, nv_span_str(authorized("GET /devices/a?api-version=2021-04-12 HTTP/1.1\r\n\r\n")));
    nv_rig_wait_answer(&rig, false, &answer);
    assert_true(rig.session->authenticated);
    nv_rig_deinit(&rig);
}

static void keep_alive_of_http_1_0(void **state)
{
    (void)state;
    assert_false(ask("GET /none HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 0, false));
    assert_string_equal(nv_answer_header(&answer, "Connection"), "keep-alive");
}

static void expect_100_continue(void **state)
{
    (void)state;
    nv_rig rig;
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    nv_rig_send(&rig, nv_span_str(authorized("PUT /devices/d?api-version=2021-04-12 HTTP/1.1\r\n"
                                             "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")));
    nv_rig_wait_answer(&rig, false, &answer);
    assert_int_equal(answer.status, 100);
    nv_rig_send(&rig, nv_span_str("{}"));
    nv_rig_wait_answer(&rig, false, &answer);
    assert_int_equal(answer.status, 200);
    nv_rig_deinit(&rig);
    /* Whoever may not is told so at once, and the body is not waited for. */
    assert_true(ask("PUT /devices/d?api-version=2021-04-12 HTTP/1.1\r\nExpect: 100-continue\r\n"
                    "Content-Length: 2\r\n\r\n",
                    0, false));
    assert_int_equal(answer.status, 401);
}

static void heads_and_bodies_are_bounded(void **state)
{
    (void)state;
    nv_rig rig;
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    nv_rig_send(&rig, nv_span_str("GET / HTTP/1.1\r\na: "));
    char block[1000];
    memset(block, 'x', sizeof(block));
    for (int i = 0; i < 17; i++) {
        nv_rig_send(&rig, nv_span_of(block, sizeof(block)));
        nv_rig_pump(&rig);
    }
    nv_rig_wait_answer(&rig, false, &answer);
    assert_int_equal(answer.status, 431);
    assert_true(rig.session->closing);
    nv_rig_deinit(&rig);
    /* A chunked body that never says how long it is, from somebody nobody knows: not a byte of it is kept. */
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    nv_rig_send(&rig,
                nv_span_str("PUT /devices/d?api-version=2021-04-12 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"));
    for (int i = 0; i < 4195 && !rig.session->closing; i++) {
        nv_rig_send(&rig, nv_span_str("3e8\r\n"));
        nv_rig_send(&rig, nv_span_of(block, sizeof(block)));
        nv_rig_send(&rig, nv_span_str("\r\n"));
        nv_rig_pump(&rig);
    }
    nv_rig_wait_answer(&rig, false, &answer);
    assert_int_equal(answer.status, 413);
    nv_rig_deinit(&rig);
}

static void silence_has_deadlines(void **state)
{
    (void)state;
    const nv_limits *limits = &nv_rig_on.hub->limits;
    nv_rig rig;
    /* Nothing at all. */
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    nv_rig_advance(&rig, limits->connect_deadline_s * NV_US_PER_S - 1);
    assert_false(rig.session->closing);
    nv_rig_advance(&rig, 1);
    assert_true(rig.session->closing);
    assert_int_equal(nv_buf_len(&rig.received), 0);
    nv_rig_deinit(&rig);
    /* A head, byte by byte. */
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    for (int64_t s = 0; s < limits->http_request_s; s++) {
        assert_false(rig.session->closing);
        nv_rig_send(&rig, nv_span_str(s == 0 ? "GET /" : "a"));
        nv_rig_pump(&rig);
        nv_rig_advance(&rig, NV_US_PER_S);
    }
    nv_rig_wait_answer(&rig, false, &answer);
    assert_int_equal(answer.status, 408);
    assert_true(rig.session->closing);
    nv_rig_deinit(&rig);
    /* A body that stops, on a known client. */
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    nv_rig_send(
        &rig, nv_span_str(authorized("PUT /devices/d?api-version=2021-04-12 HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")));
    nv_rig_pump(&rig);
    nv_rig_advance(&rig, limits->http_request_s * NV_US_PER_S);
    nv_rig_wait_answer(&rig, false, &answer);
    assert_int_equal(answer.status, 408);
    nv_rig_deinit(&rig);
    /* Refused requests win a stranger no time. */
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    for (int64_t s = 1; s < limits->connect_deadline_s; s++) {
        nv_rig_send(&rig, nv_span_str("GET /none HTTP/1.1\r\n\r\n"));
        nv_rig_wait_answer(&rig, false, &answer);
        assert_int_equal(answer.status, 404);
        nv_rig_advance(&rig, NV_US_PER_S);
    }
    assert_false(rig.session->closing);
    nv_rig_advance(&rig, NV_US_PER_S);
    assert_true(rig.session->closing);
    nv_rig_deinit(&rig);
    /* Between the requests of somebody known. */
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    nv_rig_send(&rig, nv_span_str(authorized("GET /devices?api-version=2021-04-12 HTTP/1.1\r\n\r\n")));
    nv_rig_wait_answer(&rig, false, &answer);
    nv_rig_advance(&rig, limits->http_idle_s * NV_US_PER_S - 1);
    assert_false(rig.session->closing);
    nv_rig_advance(&rig, 1);
    assert_true(rig.session->closing);
    nv_rig_deinit(&rig);
}

static int64_t answers_in(nv_span text)
{
    int64_t count = 0;
    const char mark[] = "HTTP/1.1 ";
    while (text.len > 0) {
        count += nv_span_starts_with(text, nv_span_str(mark));
        text = nv_span_skip(text, 1);
    }
    return count;
}

/** A peer that sends requests and reads no answer is not read from either. */
static void a_peer_that_does_not_read_stops_being_read(void **state)
{
    (void)state;
    nv_rig rig;
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    rig.window = 0;
    nv_span request = nv_span_str("GET /none HTTP/1.1\r\n\r\n");
    for (int i = 0; i < 5000; i++) {
        nv_rig_send(&rig, request);
    }
    nv_rig_pump(&rig);
    assert_false(rig.session->reading);
    assert_false(rig.session->closing);
    assert_int_equal(answers_in(nv_buf_span(&rig.out)), nv_rig_on.hub->limits.http_requests_per_connection);
    assert_true(nv_buf_len(&rig.in) > 0);
    rig.window = 1000;
    nv_rig_pump(&rig);
    for (int i = 0; i < 5000; i++) {
        nv_rig_wait_answer(&rig, false, &answer);
        assert_int_equal(answer.status, 404);
    }
    nv_rig_deinit(&rig);
}

static void the_hub_stops(void **state)
{
    (void)state;
    nv_rig rig;
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    rig.session->ops->drain(rig.session, 0);
    assert_true(rig.session->closing);
    nv_rig_deinit(&rig);
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    nv_rig_send(&rig, nv_span_str(authorized("GET /devices?api-version=2021-04-12 HTTP/1.1\r\n\r\n")));
    nv_span bytes = nv_buf_span(&rig.in);
    assert_int_equal(rig.session->ops->input(rig.session, bytes, 0), bytes.len);
    rig.session->ops->drain(rig.session, 0);
    assert_false(rig.session->closing);
    nv_buf_clear(&rig.in);
    nv_rig_wait_answer(&rig, false, &answer);
    assert_int_equal(answer.status, 200);
    assert_true(rig.session->closing);
    nv_rig_deinit(&rig);
}

/** The transport may go at any byte and at any moment of the work behind it. */
static void a_peer_that_goes(void **state)
{
    (void)state;
    char text[4096];
    (void)snprintf(text, sizeof(text), "%s",
                   authorized("PUT /devices/gone?api-version=2021-04-12 HTTP/1.1\r\nIf-Match: *\r\n"
                              "Content-Length: 20\r\n\r\n{\"deviceId\":\"gone\"  }"));
    for (size_t cut = 0; cut <= strlen(text); cut++) {
        nv_rig rig;
        nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
        nv_rig_send(&rig, nv_span_first(nv_span_str(text), cut));
        (void)rig.session->ops->input(rig.session, nv_buf_span(&rig.in), 0);
        nv_rig_lose(&rig);
        nv_rig_deinit(&rig); /* waits until the session is done */
    }
}

/** What a request took is given back: between requests a connection is its structures and nothing else. */
static void idle_connections_are_small(void **state)
{
    (void)state;
    enum { CONNECTIONS = 50 };
    static nv_rig rigs[CONNECTIONS];
    char text[4096];
    (void)snprintf(text, sizeof(text), "%s",
                   authorized("GET /statistics/service?api-version=2021-04-12 HTTP/1.1\r\n\r\n"));
    size_t before = mallinfo2().uordblks;
    for (size_t i = 0; i < CONNECTIONS; i++) {
        nv_rig_init(&rigs[i], &nv_rig_on, nv_http_service_new);
        nv_rig_send(&rigs[i], nv_span_str(text));
        nv_rig_wait_answer(&rigs[i], false, &answer);
        assert_int_equal(answer.status, 200);
        assert_true(rigs[i].session->authenticated);
        assert_true(rigs[i].session->reading);
        nv_buf_deinit(&rigs[i].in);
        nv_buf_deinit(&rigs[i].out);
        nv_buf_deinit(&rigs[i].received);
    }
    size_t each = (mallinfo2().uordblks - before) / CONNECTIONS; /* 0 under a sanitizer's allocator */
    assert_true(each < 512);
    for (size_t i = 0; i < CONNECTIONS; i++) {
        nv_rig_deinit(&rigs[i]);
    }
}

/* ---- admin -------------------------------------------------------------------------------------------------- */

static void get_admin(const char *path)
{
    char text[200];
    nv_rig rig;
    nv_rig_init(&rig, &nv_rig_on, nv_http_admin_new);
    (void)snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\n\r\n", path);
    nv_rig_send(&rig, nv_span_str(text));
    nv_rig_wait_answer(&rig, false, &answer);
    nv_rig_deinit(&rig);
}

static void admin_endpoints(void **state)
{
    (void)state;
    get_admin("/healthz");
    assert_int_equal(answer.status, 200);
    assert_non_null(strstr(answer.body, "\"status\":\"ok\""));
    nv_rig_log_set_health(nv_rig_on.log, NV_LOG_FULL, "no space left in /data: make room");
    get_admin("/healthz");
    assert_int_equal(answer.status, 503);
    assert_non_null(strstr(answer.body, "\"status\":\"log-full\""));
    assert_non_null(strstr(answer.body, "no space left in /data: make room"));
    nv_rig_log_set_health(nv_rig_on.log, NV_LOG_OK, "");
    get_admin("/readyz");
    assert_int_equal(answer.status, 200);
    nv_http_set_ready(false);
    get_admin("/readyz");
    assert_int_equal(answer.status, 503);
    nv_http_set_ready(true);
    nv_metric_set(NV_M_CONNECTIONS_OPEN, 12);
    get_admin("/metrics");
    assert_int_equal(answer.status, 200);
    assert_string_equal(nv_answer_header(&answer, "Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
    assert_non_null(strstr(answer.body, "# HELP nave_net_connections_open open connections\n"
                                        "# TYPE nave_net_connections_open gauge\n"
                                        "nave_net_connections_open 12\n"));
    assert_non_null(strstr(answer.body, "nave_build_info{version=\"" NV_VERSION "\"} 1\n"));
    for (size_t i = 0; i < NV_METRIC_COUNT; i++) {
        assert_non_null(strstr(answer.body, nv_metric_infos[i].name));
    }
    get_admin("/devices?api-version=2021-04-12");
    assert_int_equal(answer.status, 404);
}

/* ---- simulated time ----------------------------------------------------------------------------------------- */

/* In place of the thread that settles everything: it only moves the clock. */
static void advance(void *arg, nv_http_advance *request)
{
    int64_t *sum = arg;
    *sum += request->delta_us;
    nv_manual_clock_advance(&nv_rig_on.clock, request->delta_us);
    nv_post(request->exec, &request->done);
}

static void ask_clock(const char *method, const char *body)
{
    char text[400];
    nv_rig rig;
    nv_rig_init(&rig, &nv_rig_on, nv_http_admin_new);
    (void)snprintf(text, sizeof(text), "%s /testing/clock HTTP/1.1\r\nContent-Length: %zu\r\n\r\n%s", method,
                   strlen(body), body);
    nv_rig_send(&rig, nv_span_str(text));
    nv_rig_wait_answer(&rig, false, &answer);
    nv_rig_deinit(&rig);
}

static void time_is_moved_only_where_it_may(void **state)
{
    (void)state;
    ask_clock("GET", "");
    assert_int_equal(answer.status, 404);
    ask_clock("POST", "{\"advance\":\"48h\"}");
    assert_int_equal(answer.status, 404);
    int64_t sum = 0;
    nv_http_testing testing = {advance, &sum};
    nv_http_config config = {NULL, 0, &testing};
    nv_http_setup(&config);
    char before[NV_TIME_TEXT_SIZE];
    char after[NV_TIME_TEXT_SIZE];
    nv_time_format(nv_wall_us(&nv_rig_on.clock.clock), before);
    nv_time_format(nv_wall_us(&nv_rig_on.clock.clock) + 172890 * NV_US_PER_S, after);
    ask_clock("GET", "");
    assert_int_equal(answer.status, 200);
    assert_non_null(strstr(answer.body, before));
    ask_clock("POST", "{\"advance\":\"48h\"}");
    assert_int_equal(answer.status, 200);
    ask_clock("POST", "{\"advance\":\"PT90S\"}");
    assert_int_equal(answer.status, 200);
    assert_non_null(strstr(answer.body, after));
    assert_int_equal(sum, 172890 * NV_US_PER_S);
    static const char *const wrong[] = {
        "", "48h", "{}", "{\"advance\":48}", "{\"advance\":\"-1s\"}", "{\"advance\":\"3651d\"}", "[\"48h\"]"};
    for (size_t i = 0; i < NV_COUNT_OF(wrong); i++) {
        ask_clock("POST", wrong[i]);
        assert_int_equal(answer.status, 400);
    }
    assert_int_equal(sum, 172890 * NV_US_PER_S);
    nv_http_setup(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_have_their_form),
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(a_head_request_gets_no_body),
        cmocka_unit_test(open_paths_do_not_authenticate),
        cmocka_unit_test(keep_alive_of_http_1_0),
        cmocka_unit_test(expect_100_continue),
        cmocka_unit_test(heads_and_bodies_are_bounded),
        cmocka_unit_test(silence_has_deadlines),
        cmocka_unit_test(a_peer_that_does_not_read_stops_being_read),
        cmocka_unit_test(the_hub_stops),
        cmocka_unit_test(a_peer_that_goes),
        cmocka_unit_test(idle_connections_are_small),
        cmocka_unit_test(admin_endpoints),
        cmocka_unit_test(time_is_moved_only_where_it_may),
    };
    return cmocka_run_group_tests(tests, nv_rig_setup_hub, nv_rig_teardown_hub);
}
