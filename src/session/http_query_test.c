/** Queries over REST (http-hub.md section 11): pages, headers, errors, and a peer that goes. */
#include "session/http_rig_ask.h"

#include "core/query.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define V       NV_RIG_V
#define QUERY   "/devices/query" V
#define DEVICES 250u

/** 250 devices, of which every tenth is in the north. */
static int setup(void **state)
{
    (void)nv_rig_setup(state);
    nv_use_policy("iothubowner");
    for (size_t at = 0; at < DEVICES;) {
        static char body[1 << 15];
        size_t len = (size_t)snprintf(body, sizeof(body), "[");
        for (size_t i = 0; i < 100 && at < DEVICES; i++, at++) {
            len += (size_t)snprintf(body + len, sizeof(body) - len,
                                    "%s{\"id\":\"dev%03zu\",\"importMode\":\"create\",\"status\":\"%s\"}", i ? "," : "",
                                    at, at % 5 ? "enabled" : "disabled");
        }
        (void)snprintf(body + len, sizeof(body) - len, "]");
        nv_expect("POST", "/devices" V, body, 200);
    }
    nv_use_policy("service");
    for (size_t i = 0; i < DEVICES; i += 10) {
        char target[60];
        char body[100];
        (void)snprintf(target, sizeof(target), "/twins/dev%03zu" V, i);
        (void)snprintf(body, sizeof(body), "{\"tags\":{\"site\":\"north\",\"n\":%zu}}", i);
        nv_expect("PATCH", target, body, 200);
    }
    return 0;
}

/** One page. @param page  NULL: no header; @param after NULL or the continuation of the page before. @return rows */
static size_t page_of(const char *query, const char *page, const char *after)
{
    char headers[2000];
    char body[600];
    (void)snprintf(headers, sizeof(headers), "%s%s%s%s%s%s", page ? "x-ms-max-item-count: " : "", page ? page : "",
                   page ? "\r\n" : "", after ? "x-ms-continuation: " : "", after ? after : "", after ? "\r\n" : "");
    nv_use_headers(headers);
    (void)snprintf(body, sizeof(body), "{\"query\":\"%s\"}", query);
    nv_expect("POST", QUERY, body, 200);
    size_t rows = 0;
    char path[20] = "0";
    while (strcmp(nv_said_at(path), "(null)") != 0) {
        (void)snprintf(path, sizeof(path), "%zu", ++rows);
    }
    return rows;
}

/** Static storage; NULL: this was the last page. */
static const char *continuation(void)
{
    static char text[1000];
    const char *value = nv_answer_header(&nv_rig_said, "x-ms-continuation");
    if (value) {
        (void)snprintf(text, sizeof(text), "%s", value);
        assert_true(text[0] != '\0'); /* an empty one makes Node ask for ever */
    }
    return value ? text : NULL;
}

/* conformance: http-hub.md 28 */
static void pages(void **state)
{
    (void)state;
    static const struct {
        const char *page;
        size_t rows[4];
    } rows[] = {
        {"100", {100, 100, 50, 0}}, {NULL, {100, 100, 50, 0}}, {"200", {200, 50, 0, 0}},
        {"1000", {250, 0, 0, 0}},   {"5000", {250, 0, 0, 0}},  {"-1", {100, 100, 50, 0}},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        static char seen[DEVICES + 1];
        const char *next = NULL;
        memset(seen, '-', DEVICES);
        for (size_t turn = 0; turn == 0 || next; turn++) {
            size_t count = page_of("SELECT deviceId FROM devices", rows[i].page, next);
            assert_true(turn < 4);
            assert_int_equal(count, rows[i].rows[turn]);
            for (size_t row = 0; row < count; row++) {
                char path[40];
                (void)snprintf(path, sizeof(path), "%zu.deviceId", row);
                size_t number = strtoul(nv_said_at(path) + 3, NULL, 10);
                assert_true(number < DEVICES && seen[number] == '-');
                seen[number] = '+';
            }
            next = continuation();
        }
        assert_null(memchr(seen, '-', DEVICES));
    }
}

/* conformance: http-hub.md 28 */
static void items(void **state)
{
    (void)state;
    static const struct {
        const char *query;
        const char *item;
        size_t rows;
        const char *path;
        const char *want;
    } rows[] = {
        {"SELECT * FROM devices WHERE deviceId = 'dev010'", "Twin", 1, "0.tags.site", "north"},
        {"select * from devices where tags.site = 'north'", "Twin", 25, "0.deviceId", "dev000"},
        {"SELECT * FROM devices WHERE status = 'disabled'", "Twin", 50, "0.properties.desired.$version", "1"},
        {"SELECT * FROM devices WHERE tags.n >= 200 AND tags.n < 230", "Twin", 3, "0.version", "3"},
        {"SELECT * FROM devices.modules", "Twin", 0, "0", "(null)"},
        {"SELECT deviceId, tags.n AS n FROM devices WHERE tags.n = 30", "Raw", 1, "0",
         "{\"deviceId\":\"dev030\",\"n\":30}"},
        {"SELECT COUNT() AS n FROM devices", "Raw", 1, "0.n", "250"},
        {"SELECT TOP 3 deviceId FROM devices", "Raw", 3, "2.deviceId", "dev002"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        size_t count = page_of(rows[i].query, NULL, NULL);
        if (count != rows[i].rows) {
            fail_msg("%s: %zu rows", rows[i].query, count);
        }
        assert_string_equal(nv_answer_header(&nv_rig_said, "x-ms-item-type"), rows[i].item);
        assert_string_equal(nv_said_at(rows[i].path), rows[i].want);
        assert_null(continuation());
    }
    assert_int_equal(nv_ask("POST", "/Devices/Query/" V, "{\"Query\":\"SELECT deviceId FROM devices\"}"), 200);
}

static void errors(void **state)
{
    (void)state;
    static char text[9000];
    static const struct {
        const char *body;
        const char *name;
    } rows[] = {
        {"", "IotHubFormatError"},
        {"{", "IotHubFormatError"},
        {"[]", "ArgumentInvalid"},
        {"{}", "ArgumentInvalid"},
        {"{\"query\":7}", "ArgumentInvalid"},
        {"{\"query\":\"\"}", "ArgumentInvalid"},
        {"{\"query\":\"SELECT\"}", "ArgumentInvalid"},
        {"{\"query\":\"SELECT * FROM nowhere\"}", "ArgumentInvalid"},
        {"{\"query\":\"SELECT * FROM devices WHERE\"}", "ArgumentInvalid"},
        {"{\"query\":\"SELECT * FROM devices ORDER BY deviceId\"}", "ArgumentInvalid"},
        {text, "ArgumentInvalid"},
    };
    int len = snprintf(text, sizeof(text), "{\"query\":\"SELECT * FROM devices ");
    memset(text + len, ' ', 8200);
    (void)snprintf(text + len + 8200, 10, "\"}");
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_expect_error("POST", QUERY, rows[i].body, 400, rows[i].name);
        bool invalid = strncmp(nv_said_at("Message"), "ErrorCode:ArgumentInvalid;The query is invalid: ", 48) == 0;
        assert_int_equal(invalid, strcmp(rows[i].name, "ArgumentInvalid") == 0);
    }
    nv_use_headers("x-ms-continuation: bogus\r\n");
    nv_expect_error("POST", QUERY, "{\"query\":\"SELECT * FROM devices\"}", 400, "ArgumentInvalid");
    nv_use_headers("x-ms-max-item-count: many\r\n");
    nv_expect_error("POST", QUERY, "{\"query\":\"SELECT * FROM devices\"}", 400, "ArgumentInvalid");
    nv_expect_error("POST", "/devices/query", "{\"query\":\"SELECT * FROM devices\"}", 400, "InvalidProtocolVersion");
    nv_use_policy("registryReadWrite");
    nv_expect_error("POST", QUERY, "{\"query\":\"SELECT * FROM devices\"}", 401, "IotHubUnauthorizedAccess");
    nv_use_policy("service");
}

/** A peer that goes while its query runs: the work ends early, nothing is left behind, the hub serves on. */
static void a_peer_that_goes(void **state)
{
    (void)state;
    char text[2048];
    static const char body[] = "{\"query\":\"SELECT * FROM devices WHERE tags.n > 1 OR NOT IS_DEFINED(tags.n)\"}";
    (void)snprintf(text, sizeof(text), "POST " QUERY " HTTP/1.1\r\nAuthorization: %s\r\nContent-Length: %zu\r\n\r\n%s",
                   nv_rig_token, strlen(body), body);
    for (int i = 0; i < 20; i++) {
        nv_rig rig;
        nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
        nv_rig_send(&rig, nv_span_str(text));
        nv_span bytes = nv_buf_span(&rig.in);
        assert_int_equal(rig.session->ops->input(rig.session, bytes, 0), bytes.len);
        assert_true(rig.session->reading); /* to hear that the peer is gone */
        for (int turn = 0; turn < i; turn++) {
            (void)nv_exec_queue_run(&nv_rig_on.queue);
        }
        if (!rig.session->closing) {
            nv_rig_lose(&rig);
        }
        nv_rig_deinit(&rig); /* waits until the session is done */
    }
    /* A request behind it waits, and the watch ends with it. */
    nv_rig rig;
    nv_rig_init(&rig, &nv_rig_on, nv_http_service_new);
    nv_rig_send(&rig, nv_span_str(text));
    nv_rig_send(&rig, nv_span_str(text));
    for (int i = 0; i < 2; i++) {
        nv_rig_wait_answer(&rig, false, &nv_rig_said);
        assert_int_equal(nv_rig_said.status, 200);
    }
    nv_rig_deinit(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages),
        cmocka_unit_test(items),
        cmocka_unit_test(errors),
        cmocka_unit_test(a_peer_that_goes),
    };
    return cmocka_run_group_tests(tests, setup, nv_rig_teardown);
}
