#include "session/http_rig_ask.h"

#include "codec/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <json-c/json.h>

nv_rig_hub nv_rig_on;
nv_rig nv_rig_line;
nv_answer nv_rig_said;
char nv_rig_token[1024];
static char if_match[200];
static char headers[4096];

int nv_rig_setup_hub(void **state)
{
    (void)state;
    nv_rig_hub_init(&nv_rig_on);
    return 0;
}

int nv_rig_teardown_hub(void **state)
{
    (void)state;
    nv_rig_hub_deinit(&nv_rig_on);
    return 0;
}

int nv_rig_setup(void **state)
{
    (void)nv_rig_setup_hub(state);
    nv_rig_init(&nv_rig_line, &nv_rig_on, nv_http_service_new);
    return 0;
}

int nv_rig_teardown(void **state)
{
    nv_rig_deinit(&nv_rig_line);
    return nv_rig_teardown_hub(state);
}

int nv_rig_setup_device(void **state)
{
    (void)nv_rig_setup(state);
    nv_make_device("d", NULL);
    nv_use_policy("service");
    return 0;
}

void nv_use_token(const char *text)
{
    (void)snprintf(nv_rig_token, sizeof(nv_rig_token), "%s", text);
}

void nv_use_policy(const char *policy)
{
    nv_use_token(nv_rig_policy_token(&nv_rig_on, policy, NULL));
}

void nv_use_if_match(const char *value)
{
    (void)snprintf(if_match, sizeof(if_match), "If-Match: %s\r\n", value);
}

void nv_use_headers(const char *lines)
{
    (void)snprintf(headers, sizeof(headers), "%s", lines);
}

void nv_ask_only(const char *method, const char *target, const char *body)
{
    static char text[1 << 19];
    int len = snprintf(text, sizeof(text),
                       "%s %s HTTP/1.1\r\nHost: hub.test\r\nAuthorization: %s\r\n%s%sContent-Length: %zu\r\n\r\n%s",
                       method, target, nv_rig_token, if_match, headers, body ? strlen(body) : 0, body ? body : "");
    assert_true(len > 0 && (size_t)len < sizeof(text));
    if_match[0] = headers[0] = '\0';
    nv_rig_send(&nv_rig_line, nv_span_of(text, (size_t)len));
    nv_rig_pump(&nv_rig_line);
}

unsigned nv_hear(void)
{
    const nv_answer *said = &nv_rig_said;
    nv_rig_wait_answer(&nv_rig_line, false, &nv_rig_said);
    if (said->status == 202 || said->status == 204) {
        assert_int_equal(said->body_len, 0);
        assert_null(nv_answer_header(said, "Content-Type"));
    } else {
        assert_int_equal(nv_json_check(nv_span_of(said->body, said->body_len), NV_JSON_MAX_DEPTH, 100000), NV_OK);
        assert_string_equal(nv_answer_header(said, "Content-Type"), "application/json; charset=utf-8");
    }
    /* Each error has its code, and nothing else has one: number 40 of http-hub.md, proved by the tests that ask. */
    assert_true((said->status >= 400) == (nv_answer_header(said, "iothub-errorcode") != NULL));
    return said->status;
}

unsigned nv_ask(const char *method, const char *target, const char *body)
{
    nv_ask_only(method, target, body);
    return nv_hear();
}

void nv_expect(const char *method, const char *target, const char *body, unsigned status)
{
    if (nv_ask(method, target, body) != status) {
        fail_msg("%s %s: %u %s", method, target, nv_rig_said.status, nv_rig_said.body);
    }
}

void nv_expect_error(const char *method, const char *target, const char *body, unsigned status, const char *name)
{
    nv_expect(method, target, body, status);
    assert_string_equal(nv_answer_header(&nv_rig_said, "iothub-errorcode"), name);
    char start[120];
    (void)snprintf(start, sizeof(start), "{\"Message\":\"ErrorCode:%s;", name);
    if (strncmp(nv_rig_said.body, start, strlen(start)) != 0) {
        fail_msg("%s", nv_rig_said.body);
    }
    assert_non_null(strstr(nv_rig_said.body, "\"ExceptionMessage\":\"Tracking ID:"));
}

void nv_said_e3(unsigned status, const char *name, unsigned number)
{
    if (nv_rig_said.status != status) {
        fail_msg("%u %s", nv_rig_said.status, nv_rig_said.body);
    }
    assert_string_equal(nv_answer_header(&nv_rig_said, "iothub-errorcode"), name);
    assert_string_equal(nv_said_at("ExceptionMessage"), "");
    struct json_object *inner = NULL;
    assert_int_equal(nv_json_parse(nv_span_str(nv_said_at("Message")), 4, 20, &inner), NV_OK);
    assert_int_equal(json_object_get_int64(nv_json_member(inner, "errorCode")), number);
    static const char *const members[] = {"errorCode", "trackingId", "message", "info", "timestampUtc"};
    for (size_t i = 0; i < NV_COUNT_OF(members); i++) {
        assert_true(json_object_object_get_ex(inner, members[i], NULL));
    }
    json_object_put(inner);
}

const char *nv_said_at(const char *path)
{
    static char results[4][2000];
    static unsigned turn;
    char *result = results[turn++ % 4];
    struct json_object *tree = NULL;
    assert_int_equal(
        nv_json_parse(nv_span_of(nv_rig_said.body, nv_rig_said.body_len), NV_JSON_MAX_DEPTH, 100000, &tree), NV_OK);
    struct json_object *at = tree;
    char copy[200];
    (void)snprintf(copy, sizeof(copy), "%s", path);
    char *save = NULL;
    for (char *part = strtok_r(copy, ".", &save); part; part = strtok_r(NULL, ".", &save)) {
        at = json_object_is_type(at, json_type_array) ? json_object_array_get_idx(at, strtoul(part, NULL, 10))
                                                      : nv_json_member(at, part);
    }
    bool text = json_object_is_type(at, json_type_string);
    (void)snprintf(result, sizeof(results[0]), "%s",
                   !at    ? "(null)"
                   : text ? json_object_get_string(at)
                          : json_object_to_json_string_ext(at, JSON_C_TO_STRING_PLAIN));
    json_object_put(tree);
    return result;
}

void nv_settle(void)
{
    static nv_answer answer;
    nv_rig other;
    char text[2048];
    (void)snprintf(text, sizeof(text), "GET /devices/nobody" NV_RIG_V " HTTP/1.1\r\nAuthorization: %s\r\n\r\n",
                   nv_rig_policy_token(&nv_rig_on, "iothubowner", NULL));
    nv_rig_init(&other, &nv_rig_on, nv_http_service_new);
    nv_rig_send(&other, nv_span_str(text));
    nv_rig_wait_answer(&other, false, &answer);
    assert_int_equal(answer.status, 404);
    nv_rig_deinit(&other);
}

void nv_make_device(const char *id, const char *body)
{
    char target[300];
    nv_use_policy("iothubowner");
    (void)snprintf(target, sizeof(target), "/devices/%s" NV_RIG_V, id);
    nv_expect("PUT", target, body ? body : "{}", 200);
}

void nv_make_module(const char *device, const char *module)
{
    char target[600];
    nv_use_policy("iothubowner");
    (void)snprintf(target, sizeof(target), "/devices/%s/modules/%s" NV_RIG_V, device, module);
    nv_expect("PUT", target, "{}", 200);
}
