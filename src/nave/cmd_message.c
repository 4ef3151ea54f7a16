/** `nave method`, `nave send` and `nave feedback`: to one device, now or when it comes, and what became of it. */
#include "base/guid.h"
#include "base/rng.h"
#include "codec/base64.h"
#include "codec/json.h"
#include "codec/utf8.h"
#include "nave/amqp_client.h"
#include "nave/amqp_service.h"
#include "nave/client.h"
#include "nave/commands.h"
#include "nave/input.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

static int usage(const char *text)
{
    fprintf(stderr, "nave: %s\n", text);
    return NV_EXIT_USAGE;
}

/* @return false: no number from @p min to @p max */
static bool seconds(const nv_args *args, const char *flag, uint64_t min, uint64_t max, uint64_t *out)
{
    const char *text = nv_args_get(args, flag);
    return !text || (nv_span_to_u64(nv_span_str(text), out) && *out >= min && *out <= max);
}

/* ---- method -------------------------------------------------------------------------------------------------- */

typedef struct method {
    uint64_t response_s;
    uint64_t connect_s;
    nv_buf payload; /* JSON, NUL-terminated */
} method;

static nv_err method_body(const nv_args *args, const method *m, nv_buf *out)
{
    nv_json_writer w = nv_json_writer_of(out);
    nv_json_begin_object(&w);
    nv_json_key(&w, "methodName");
    nv_json_str(&w, args->operands[1]);
    nv_json_key(&w, "payload");
    nv_json_raw(&w, nv_span_str(nv_input_text(&m->payload)));
    nv_json_key(&w, "responseTimeoutInSeconds");
    nv_json_uint(&w, m->response_s);
    nv_json_key(&w, "connectTimeoutInSeconds");
    nv_json_uint(&w, m->connect_s);
    nv_json_end_object(&w);
    return w.err == NV_OK ? nv_buf_append(out, nv_span_of("", 1)) : w.err;
}

static void print_answer(const nv_args *args, struct json_object *answer)
{
    const char *output = nv_args_get(args, "output");
    if (output && strcmp(output, "table") == 0) {
        nv_print_members(answer);
    } else {
        nv_print_json(answer);
    }
}

static int invoke(const nv_args *args, const method *m)
{
    nv_client client = {0};
    nv_answer answer = {0};
    nv_buf body;
    nv_buf_init(&body, NV_INPUT_MAX + 4096);
    char *path = nv_path_of("twins", args->operands[0], nv_args_get(args, "module"), "/methods");
    int code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK && method_body(args, m, &body) != NV_OK) {
        code = usage("the payload is too large");
    }
    if (code == NV_EXIT_OK) {
        nv_call call = {.method = "POST",
                        .path = path,
                        .body = nv_input_text(&body),
                        .timeout_s = (long)(m->response_s + m->connect_s + 60)};
        code = nv_client_must(&client, &call, &answer);
    }
    if (code == NV_EXIT_OK) {
        print_answer(args, answer.body);
    }
    free(path);
    nv_buf_deinit(&body);
    nv_answer_deinit(&answer);
    nv_client_close(&client);
    return code;
}

int nv_cmd_method(const nv_args *args)
{
    method m = {.response_s = 30};
    if (!seconds(args, "timeout", 5, 300, &m.response_s)) {
        return usage("--timeout is 5 to 300 seconds");
    }
    if (!seconds(args, "connect-timeout", 0, 300, &m.connect_s)) {
        return usage("--connect-timeout is 0 to 300 seconds");
    }
    int code = nv_input_read_json(args->operand_count > 2 ? args->operands[2] : "null", &m.payload);
    if (code == NV_EXIT_OK) {
        code = invoke(args, &m);
    }
    nv_buf_deinit(&m.payload);
    return code;
}

/* ---- send ---------------------------------------------------------------------------------------------------- */

static void put_text(nv_json_writer *w, const char *name, const char *text)
{
    if (text) {
        nv_json_key(w, name);
        nv_json_str(w, text);
    }
}

static void put_body(nv_json_writer *w, nv_span body)
{
    bool text = nv_utf8_valid(body, true);
    nv_json_key(w, text ? "body" : "bodyBase64");
    if (text) {
        nv_json_string(w, body);
    } else {
        nv_json_base64(w, body);
    }
}

/* -p k=v, each once or more. @return false: one has no "=" */
static bool put_properties(nv_json_writer *w, const nv_args *args)
{
    size_t at = 0;
    nv_json_key(w, "properties");
    nv_json_begin_object(w);
    for (const char *word = NULL; (word = nv_args_next(args, "property", &at)) != NULL;) {
        nv_span pair = nv_span_str(word);
        size_t equals = nv_span_find(pair, '=');
        if (equals == 0 || equals == pair.len) {
            return false;
        }
        nv_json_name(w, nv_span_first(pair, equals));
        nv_json_string(w, nv_span_skip(pair, equals + 1));
    }
    nv_json_end_object(w);
    return true;
}

/* What both ways to send need to be right. */
static int check_message(const nv_args *args, uint64_t *ttl_s)
{
    const char *ack = nv_args_get(args, "ack");
    if (!seconds(args, "ttl", 1, 172800, ttl_s)) {
        return usage("--ttl is 1 to 172800 seconds");
    }
    if (ack && strcmp(ack, "none") != 0 && strcmp(ack, "positive") != 0 && strcmp(ack, "negative") != 0 &&
        strcmp(ack, "full") != 0) {
        return usage("--ack is none, positive, negative or full");
    }
    return NV_EXIT_OK;
}

/* Feedback is found by the message's id, so one that wants feedback has one. @return @p made, the option's, or NULL */
static const char *message_id(const nv_args *args, char made[NV_GUID_TEXT_SIZE])
{
    const char *id = nv_args_get(args, "message-id");
    const char *ack = nv_args_get(args, "ack");
    if (id || !ack || strcmp(ack, "none") == 0) {
        return id;
    }
    nv_guid_make(nv_rng_system(), made);
    return made;
}

static int message_of(const nv_args *args, const char *id, nv_span body, uint64_t ttl_s, nv_buf *out)
{
    nv_json_writer w = nv_json_writer_of(out);
    nv_json_begin_object(&w);
    put_body(&w, body);
    if (!put_properties(&w, args)) {
        return usage("-p is NAME=VALUE");
    }
    put_text(&w, "messageId", id);
    put_text(&w, "correlationId", nv_args_get(args, "correlation-id"));
    put_text(&w, "contentType", nv_args_get(args, "content-type"));
    put_text(&w, "contentEncoding", nv_args_get(args, "content-encoding"));
    put_text(&w, "ack", nv_args_get(args, "ack"));
    if (ttl_s > 0) {
        nv_json_key(&w, "ttlSeconds");
        nv_json_uint(&w, ttl_s);
    }
    nv_json_end_object(&w);
    bool good = w.err == NV_OK && nv_buf_append(out, nv_span_of("", 1)) == NV_OK;
    return good ? NV_EXIT_OK : usage("the message is too large");
}

static int send_http(nv_client *client, const nv_args *args, const char *body)
{
    nv_answer answer = {0};
    char *path = nv_path_of("nave/v1/devices", args->operands[0], NULL, "/messages");
    int code = nv_client_do(client, "POST", path, body, NULL, &answer);
    if (code == NV_EXIT_OK && client->json) {
        nv_print_json(answer.body);
    } else if (code == NV_EXIT_OK) {
        const char *id = nv_json_text(answer.body, "messageId");
        fprintf(stderr, "queued for %s as number %s%s%s\n", args->operands[0],
                nv_json_text(answer.body, "sequenceNumber"), id[0] ? ", message id " : "", id);
    }
    free(path);
    nv_answer_deinit(&answer);
    return code;
}

/* A hub of ours takes messages over HTTPS, and tells the number; others only by AMQP. */
static int send_message(const nv_args *args, const char *http_body, const nv_amqp_message_to *message)
{
    const char *over = nv_args_get(args, "over");
    bool http = over && strcmp(over, "http") == 0;
    nv_client client = {0};
    int code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK && !over && !client.amqp_port) {
        code = nv_amqp_rather_http(&client, &http);
    }
    if (code == NV_EXIT_OK) {
        code = http ? send_http(&client, args, http_body) : nv_amqp_send_to(&client, message);
    }
    nv_client_close(&client);
    return code;
}

int nv_cmd_send(const nv_args *args)
{
    nv_buf body;
    nv_buf http_body;
    uint64_t ttl_s = 0;
    char made[NV_GUID_TEXT_SIZE];
    const char *id = message_id(args, made);
    nv_buf_init(&http_body, (size_t)2 * NV_INPUT_MAX);
    int code = nv_input_read(args->operands[1], &body);
    if (code == NV_EXIT_OK) {
        code = check_message(args, &ttl_s);
    }
    if (code == NV_EXIT_OK) {
        code = message_of(args, id, nv_buf_span(&body), ttl_s, &http_body);
    }
    if (code == NV_EXIT_OK) {
        nv_amqp_message_to message = {.device = args->operands[0],
                                      .body = nv_buf_span(&body),
                                      .args = args,
                                      .id = id,
                                      .ack = nv_args_get(args, "ack"),
                                      .ttl_s = ttl_s};
        code = send_message(args, nv_input_text(&http_body), &message);
    }
    nv_buf_deinit(&body);
    nv_buf_deinit(&http_body);
    return code;
}

/* ---- feedback ------------------------------------------------------------------------------------------------ */

int nv_cmd_feedback(const nv_args *args)
{
    const char *count = nv_args_get(args, "count");
    uint64_t left = UINT64_MAX;
    if (count && (!nv_span_to_u64(nv_span_str(count), &left) || left == 0 || left == UINT64_MAX)) {
        return usage("--count is a number of records, at least 1");
    }
    const char *over = nv_args_get(args, "over");
    if (over && strcmp(over, "http") == 0) {
        return usage("--over is amqp or amqp-ws: over HTTP there is no feedback");
    }
    nv_client client = {0};
    int code = nv_client_open(&client, args);
    if (code == NV_EXIT_OK) {
        code = nv_amqp_feedback(&client, args, left);
    }
    nv_client_close(&client);
    return code;
}
