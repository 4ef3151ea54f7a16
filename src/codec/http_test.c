/** Unit tests of the HTTP request parser: requests in pieces of every size. */
#include "codec/http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/** Feed @p text in pieces of @p step bytes, keeping what was not taken, until an end or an error. */
static nv_http_event run(nv_http_parser *p, nv_span text, size_t step, size_t *used, unsigned *heads)
{
    size_t at = 0;
    size_t shown = 0;
    while (true) {
        shown = shown + step < text.len ? shown + step : text.len;
        nv_http_event event = NV_HTTP_MORE;
        do {
            size_t taken = 0;
            const char *why = NULL;
            event = nv_http_parser_feed(p, nv_span_of(text.ptr + at, shown - at), &taken, &why);
            at += taken;
            *heads += event == NV_HTTP_HEAD_END;
        } while (event == NV_HTTP_HEAD_END);
        if (event != NV_HTTP_MORE || shown == text.len) {
            *used = at;
            return event;
        }
    }
}

static void requests_in_pieces(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        nv_http_method method;
        const char *target;
        const char *body;
        bool keep_alive;
        bool has_body;
    } rows[] = {
        {"GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n", NV_HTTP_GET, "/a?b=c", "", true, false},
        {"\r\nGET / HTTP/1.1\r\n\r\n", NV_HTTP_GET, "/", "", true, false},
        {"HEAD / HTTP/1.0\r\n\r\n", NV_HTTP_HEAD, "/", "", false, false},
        {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", NV_HTTP_GET, "/", "", true, false},
        {"DELETE /x HTTP/1.1\r\nConnection: close\r\n\r\n", NV_HTTP_DELETE, "/x", "", false, false},
        {"PUT /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", NV_HTTP_PUT, "/x", "hello", true, true},
        {"PUT /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", NV_HTTP_PUT, "/x", "", true, false},
        {"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\nT: v\r\n\r\n",
         NV_HTTP_POST, "/x", "hello", true, true},
        {"PATCH /x HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhi", NV_HTTP_PATCH, "/x",
         "hi", true, true},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        /* Twice in a row on one parser, so that the second finds a clean state. */
        char twice[1024];
        (void)snprintf(twice, sizeof(twice), "%s%s", rows[i].text, rows[i].text);
        size_t one = strlen(rows[i].text);
        for (size_t step = 1; step <= 2 * one; step++) {
            nv_http_parser *p = nv_http_parser_new(1000, 100);
            for (size_t start = 0; start < (rows[i].keep_alive ? 2 * one : one); start += one) {
                size_t used = 0;
                unsigned heads = 0;
                assert_int_equal(run(p, nv_span_str(twice + start), step, &used, &heads), NV_HTTP_END);
                assert_int_equal(used, one);
                assert_int_equal(heads, 1);
                const nv_http_request *r = nv_http_parser_request(p);
                assert_int_equal(r->method, rows[i].method);
                assert_true(nv_span_eq_str(nv_http_target(r), rows[i].target));
                assert_true(nv_span_eq_str(nv_buf_span(&r->body), rows[i].body));
                assert_int_equal(r->keep_alive, rows[i].keep_alive);
                assert_int_equal(r->has_body, rows[i].has_body);
                nv_http_parser_done(p);
                assert_null(nv_http_parser_request(p));
            }
            nv_http_parser_free(p);
        }
    }
}

static void headers_are_found(void **state)
{
    (void)state;
    nv_http_parser *p = nv_http_parser_new(1000, 100);
    size_t used = 0;
    unsigned heads = 0;
    nv_span text = nv_span_str(
        "PUT / HTTP/1.1\r\nIf-Match:  \"abc\" \t\r\nEMPTY:\r\nExpect: 100-Continue\r\nx: 1\r\nX: 2\r\n\r\n");
    assert_int_equal(run(p, text, 3, &used, &heads), NV_HTTP_END);
    const nv_http_request *r = nv_http_parser_request(p);
    nv_span value;
    assert_true(nv_http_find_header(r, "if-match", &value));
    assert_true(nv_span_eq_str(value, "\"abc\""));
    assert_true(nv_http_find_header(r, "Empty", &value));
    assert_int_equal(value.len, 0);
    assert_true(nv_http_find_header(r, "X", &value));
    assert_true(nv_span_eq_str(value, "1"));
    assert_false(nv_http_find_header(r, "xx", &value));
    assert_true(r->expect_continue);
    nv_http_parser_free(p);
}

static void bad_requests_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        nv_http_event event;
    } rows[] = {
        {"\x16\x03\x01\x02\x00\x01", NV_HTTP_BAD},
        {"GET\r\n\r\n", NV_HTTP_BAD},
        {"GET / HTTP/2.0\r\n\r\n", NV_HTTP_BAD},
        {"GET / HTTP/1.1\r\nbad header\r\n\r\n", NV_HTTP_BAD},
        {"PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n", NV_HTTP_BAD},
        {"PUT / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", NV_HTTP_BAD},
        {"PUT / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", NV_HTTP_BAD},
        {"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", NV_HTTP_BAD},
        {"PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", NV_HTTP_BAD},
        {"PUT / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n", NV_HTTP_BAD}, /* RFC 9112 5.1 */
        {"GET / HTTP/1.1\r\na b: c\r\n\r\n", NV_HTTP_BAD},
        {"PUT / HTTP/1.1\r\nContent-Length: 11\r\n\r\n", NV_HTTP_BODY_BIG},
        {"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n8\r\n12345678\r\n", NV_HTTP_BODY_BIG},
        {"GET /0123456789012345678901234567890123456789012345678901234567890123456789 HTTP/1.1\r\n\r\n",
         NV_HTTP_HEAD_BIG},
        {"GET / HTTP/1.1\r\na: 0123456789012345678901234567890123456789012345678901234567890123\r\n\r\n",
         NV_HTTP_HEAD_BIG},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_span text = nv_span_str(rows[i].text);
        text.len = i == 0 ? 6 : text.len;
        for (size_t step = 1; step <= text.len; step++) {
            nv_http_parser *p = nv_http_parser_new(64, 10);
            size_t used = 0;
            unsigned heads = 0;
            nv_http_event event = run(p, text, step, &used, &heads);
            if (event != rows[i].event) {
                fail_msg("row %zu step %zu: event %d", i, step, event);
            }
            nv_http_parser_free(p);
        }
    }
}

static void headers_are_bounded_in_number(void **state)
{
    (void)state;
    nv_buf text;
    nv_buf_init(&text, 10000);
    assert_int_equal(nv_buf_append_str(&text, "GET / HTTP/1.1\r\n"), NV_OK);
    for (unsigned i = 0; i <= NV_HTTP_MAX_HEADERS; i++) {
        assert_int_equal(nv_buf_append_str(&text, "a: b\r\n"), NV_OK);
    }
    assert_int_equal(nv_buf_append_str(&text, "\r\n"), NV_OK);
    nv_http_parser *p = nv_http_parser_new(10000, 10);
    size_t used = 0;
    unsigned heads = 0;
    assert_int_equal(run(p, nv_buf_span(&text), 7, &used, &heads), NV_HTTP_HEAD_BIG);
    nv_http_parser_free(p);
    nv_buf_deinit(&text);
}

static void a_discarded_body_is_counted_but_not_kept(void **state)
{
    (void)state;
    nv_http_parser *p = nv_http_parser_new(100, 10);
    nv_span text = nv_span_str("PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello");
    size_t taken = 0;
    const char *why = NULL;
    assert_int_equal(nv_http_parser_feed(p, text, &taken, &why), NV_HTTP_HEAD_END);
    nv_http_parser_discard_body(p);
    size_t more = 0;
    assert_int_equal(nv_http_parser_feed(p, nv_span_skip(text, taken), &more, &why), NV_HTTP_END);
    assert_int_equal(taken + more, text.len);
    assert_int_equal(nv_buf_len(&nv_http_parser_request(p)->body), 0);
    nv_http_parser_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_in_pieces),
        cmocka_unit_test(headers_are_found),
        cmocka_unit_test(bad_requests_are_named),
        cmocka_unit_test(headers_are_bounded_in_number),
        cmocka_unit_test(a_discarded_body_is_counted_but_not_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
