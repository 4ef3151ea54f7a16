#include "session/http_conn.h"

#include "base/diag.h"
#include "base/metrics.h"
#include "base/rng.h"
#include "codec/hex.h"

#include <stdio.h>
#include <time.h>

#define JSON_TYPE "application/json; charset=utf-8"
/* Of an answer: a continuation is the longest that stands in one. */
#define HEAD_MAX (16u << 10)

/** What makes one answer findable in logs: the tracking id is the request id without hyphens. */
typedef struct stamp {
    char request_id[37];
    char tracking_id[33];
    int64_t wall_us;
} stamp;

static nv_hub *hub_of(const nv_http_conn *conn)
{
    return conn->session.carrier->loop->hub;
}

static void stamp_make(const nv_http_conn *conn, stamp *out)
{
    uint8_t bytes[16];
    nv_rng_fill(hub_of(conn)->rng, bytes, sizeof(bytes));
    bytes[6] = (uint8_t)((bytes[6] & 0x0f) | 0x40); /* RFC 4122: version 4 */
    bytes[8] = (uint8_t)((bytes[8] & 0x3f) | 0x80);
    nv_writer hex = nv_writer_of(out->tracking_id, 32);
    nv_hex_encode(nv_span_of(bytes, sizeof(bytes)), &hex);
    out->tracking_id[32] = '\0';
    const char *t = out->tracking_id;
    (void)snprintf(out->request_id, sizeof(out->request_id), "%.8s-%.4s-%.4s-%.4s-%.12s", t, t + 8, t + 12, t + 16,
                   t + 20);
    out->wall_us = nv_wall_us(hub_of(conn)->clock);
}

static const char *reason_of(unsigned status)
{
    static const struct {
        unsigned status;
        const char *text;
    } rows[] = {
        {101, "Switching Protocols"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {207, "Multi-Status"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {426, "Upgrade Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        if (rows[i].status == status) {
            return rows[i].text;
        }
    }
    return "Status";
}

/** "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110 section 5.6.7), whatever the locale. */
static void http_date(int64_t wall_us, char out[30])
{
    static const char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    time_t seconds = (time_t)(wall_us / NV_US_PER_S);
    struct tm tm;
    if (!gmtime_r(&seconds, &tm)) {
        tm = (struct tm){.tm_mday = 1, .tm_year = 70, .tm_wday = 4};
    }
    (void)snprintf(out, 30, "%.3s, %02u %.3s %04u %02u:%02u:%02u GMT", days[tm.tm_wday], (unsigned)tm.tm_mday % 100,
                   months[tm.tm_mon], (unsigned)(tm.tm_year + 1900) % 10000, (unsigned)tm.tm_hour % 100,
                   (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100);
}

/** "11/21/2026 02:46:40", as E1 has it. */
static void tracking_time(int64_t wall_us, char out[20])
{
    time_t seconds = (time_t)(wall_us / NV_US_PER_S);
    struct tm tm;
    if (!gmtime_r(&seconds, &tm)) {
        tm = (struct tm){.tm_mday = 1, .tm_year = 70};
    }
    (void)snprintf(out, 20, "%02u/%02u/%04u %02u:%02u:%02u", (unsigned)(tm.tm_mon + 1) % 100,
                   (unsigned)tm.tm_mday % 100, (unsigned)(tm.tm_year + 1900) % 10000, (unsigned)tm.tm_hour % 100,
                   (unsigned)tm.tm_min % 100, (unsigned)tm.tm_sec % 100);
}

/* ---- heads -------------------------------------------------------------------------------------------------- */

typedef struct head {
    unsigned status;
    const char *content_type; /* NULL: no body */
    const char *error_name;
    nv_span etag;
    const char *headers;
    const char *framing; /* one line with CRLF, or "" */
} head;

/** For --log-level debug: what was asked, without the query, and how it ended. */
static void log_answer(const nv_http_conn *conn, unsigned status)
{
    const nv_http_request *request = nv_http_parser_request(conn->parser);
    if (!request || !nv_diag_on(NV_LEVEL_DEBUG)) {
        return;
    }
    nv_subject who = {.connection = conn->session.carrier->peer->connection_id,
                      .peer = conn->session.carrier->peer->address};
    nv_span path = nv_http_target(request);
    path = nv_span_first(nv_span_first(path, nv_span_find(path, '?')), 200);
    nv_diag(NV_LEVEL_DEBUG, "http", &who, "%s %.*s: %u", nv_http_method_name(request->method), NV_SPAN_ARG(path),
            status);
}

static void write_head(nv_http_conn *conn, const head *h, const stamp *s)
{
    char date[30];
    http_date(s->wall_us, date);
    nv_buf text;
    nv_buf_init(&text, HEAD_MAX);
    nv_err err =
        nv_buf_printf(&text,
                      "HTTP/1.1 %u %s\r\nDate: %s\r\nServer: Nave/" NV_VERSION
                      "\r\nVary: Origin\r\nx-ms-request-id: %s\r\n%s%s%s%s%s%s%s%.*s%s%s%s\r\n",
                      h->status, reason_of(h->status), date, s->request_id, h->content_type ? "Content-Type: " : "",
                      h->content_type ? h->content_type : "", h->content_type ? "\r\n" : "",
                      h->error_name ? "iothub-errorcode: " : "", h->error_name ? h->error_name : "",
                      h->error_name ? "\r\n" : "", h->etag.len ? "ETag: \"" : "", NV_SPAN_ARG(h->etag),
                      h->etag.len ? "\"\r\n" : "", h->headers ? h->headers : "", h->framing);
    if (err == NV_OK) {
        nv_http_conn_write(conn, nv_buf_span(&text));
    } else {
        conn->close_after = true; /* no header is that long; a reply without a head would be worse than none */
    }
    nv_buf_deinit(&text);
    log_answer(conn, h->status);
    nv_metric_add(NV_M_HTTP_REQUESTS, 1);
    if (h->status >= 400) {
        nv_metric_add(NV_M_HTTP_ERRORS, 1);
    }
}

static const char *connection_line(const nv_http_conn *conn)
{
    const nv_http_request *request = nv_http_parser_request(conn->parser);
    if (conn->close_after) {
        return "Connection: close\r\n";
    }
    return request && request->http_1_0 ? "Connection: keep-alive\r\n" : "";
}

static void write_reply(nv_http_conn *conn, const nv_http_reply *reply, const stamp *s)
{
    char framing[80];
    bool bodiless = reply->status == 204;
    bool typeless = bodiless || (reply->body.len == 0 && !reply->content_type);
    if (bodiless) {
        (void)snprintf(framing, sizeof(framing), "%s", connection_line(conn));
    } else {
        (void)snprintf(framing, sizeof(framing), "Content-Length: %zu\r\n%s", reply->body.len, connection_line(conn));
    }
    head h = {.status = reply->status,
              .content_type = typeless              ? NULL
                              : reply->content_type ? reply->content_type
                                                    : JSON_TYPE,
              .error_name = reply->error_name,
              .etag = reply->etag,
              .headers = reply->headers,
              .framing = framing};
    write_head(conn, &h, s);
    if (!bodiless && !conn->head_only) {
        nv_http_conn_write(conn, reply->body);
    }
}

void nv_http_write_reply(nv_http_conn *conn, const nv_http_reply *reply)
{
    stamp s;
    stamp_make(conn, &s);
    write_reply(conn, reply, &s);
}

/* ---- errors (http-hub.md section 4.1) ----------------------------------------------------------------------- */

static void write_e1(nv_json_writer *w, const nv_hub_error_info *info, const char *text, const stamp *s)
{
    char line[400];
    char when[20];
    tracking_time(s->wall_us, when);
    nv_json_begin_object(w);
    nv_json_key(w, "Message");
    (void)snprintf(line, sizeof(line), "ErrorCode:%s;%s", info->name, text);
    nv_json_str(w, line);
    nv_json_key(w, "ExceptionMessage");
    (void)snprintf(line, sizeof(line), "Tracking ID:%s-G:0-TimeStamp:%s", s->tracking_id, when);
    nv_json_str(w, line);
    nv_json_end_object(w);
}

static void write_e2(nv_json_writer *w, const nv_hub_error_info *info, const char *text, const stamp *s)
{
    char when[NV_TIME_TEXT_SIZE];
    nv_time_format(s->wall_us, when);
    nv_json_begin_object(w);
    nv_json_key(w, "errorCode");
    nv_json_uint(w, info->number);
    nv_json_key(w, "message");
    nv_json_str(w, text);
    nv_json_key(w, "trackingId");
    nv_json_str(w, s->tracking_id);
    nv_json_key(w, "timestampUtc");
    nv_json_str(w, when);
    nv_json_end_object(w);
}

static void write_e3(nv_json_writer *w, const nv_hub_error_info *info, const char *text, const char *more,
                     const stamp *s)
{
    char when[NV_TIME_TEXT_SIZE];
    nv_time_format(s->wall_us, when);
    nv_buf inner;
    nv_buf_init(&inner, 4096);
    nv_json_writer iw = nv_json_writer_of(&inner);
    nv_json_begin_object(&iw);
    nv_json_key(&iw, "errorCode");
    nv_json_uint(&iw, info->number);
    nv_json_key(&iw, "trackingId");
    nv_json_str(&iw, s->tracking_id);
    nv_json_key(&iw, "message");
    nv_json_str(&iw, text);
    nv_json_key(&iw, "info");
    nv_json_raw(&iw, nv_span_str(more ? more : "null"));
    nv_json_key(&iw, "timestampUtc");
    nv_json_str(&iw, when);
    nv_json_end_object(&iw);
    nv_json_begin_object(w);
    nv_json_key(w, "Message");
    nv_json_string(w, nv_buf_span(&inner));
    nv_json_key(w, "ExceptionMessage");
    nv_json_str(w, "");
    nv_json_end_object(w);
    nv_buf_deinit(&inner);
}

void nv_http_write_error(nv_http_conn *conn, const nv_http_error *e)
{
    const nv_hub_error_info *info = nv_hub_error_info_of(e->error);
    const char *text = e->detail && e->detail[0] ? e->detail : info->text;
    stamp s;
    stamp_make(conn, &s);
    nv_buf body;
    nv_buf_init(&body, 8192);
    nv_json_writer w = nv_json_writer_of(&body);
    switch (e->shape) {
    case NV_HTTP_E1:
        write_e1(&w, info, text, &s);
        break;
    case NV_HTTP_E2:
        write_e2(&w, info, text, &s);
        break;
    case NV_HTTP_E3:
        write_e3(&w, info, text, e->info, &s);
        break;
    }
    nv_http_reply reply = {
        .status = info->http_status, .error_name = info->name, .headers = e->headers, .body = nv_buf_span(&body)};
    write_reply(conn, &reply, &s);
    nv_buf_deinit(&body);
}

/* ---- what handlers call ------------------------------------------------------------------------------------- */

void nv_http_send(nv_http_exchange *x, const nv_http_reply *reply)
{
    nv_http_write_reply(x->conn, reply);
    nv_http_conn_finish(x->conn);
}

void nv_http_send_json(nv_http_exchange *x, const nv_json_writer *w, nv_span etag)
{
    if (w->err != NV_OK) {
        nv_http_fail(x, NV_HUB_ERROR_ServerError, "the answer is larger than the limit");
        return;
    }
    nv_http_send(x, &(nv_http_reply){.status = 200, .etag = etag, .body = nv_buf_span(w->out)});
}

void nv_http_fail_info(nv_http_exchange *x, nv_http_shape shape, nv_hub_error error, const char *detail,
                       const char *info)
{
    char id[NV_ID_MAX + 1];
    char sentence[NV_HUB_SENTENCE];
    detail = nv_hub_error_sentence(x->hub, error, detail, sentence);
    if (!detail[0]) {
        (void)snprintf(id, sizeof(id), "%.*s", NV_SPAN_ARG(x->device_id)); /* "DeviceNotFound;d1" says it all */
        detail = id;
    }
    nv_http_error e = {.shape = shape,
                       .error = error,
                       .detail = detail,
                       .headers = x->refused_headers[0] ? x->refused_headers : NULL,
                       .info = info};
    nv_http_write_error(x->conn, &e);
    nv_http_conn_finish(x->conn);
}

void nv_http_fail_as(nv_http_exchange *x, nv_http_shape shape, nv_hub_error error, const char *detail)
{
    nv_http_fail_info(x, shape, error, detail, NULL);
}

void nv_http_fail(nv_http_exchange *x, nv_hub_error error, const char *detail)
{
    nv_http_fail_as(x, x->route && x->route->flags & NV_HTTP_OURS ? NV_HTTP_E2 : NV_HTTP_E1, error, detail);
}

void nv_http_refuse(nv_http_exchange *x, nv_http_shape shape, nv_hub_error error, const char *detail)
{
    if (x->refused == NV_HUB_ERROR_NONE) {
        x->refused = error;
        x->refused_shape = shape;
        (void)snprintf(x->refused_detail, sizeof(x->refused_detail), "%s", detail ? detail : "");
    }
}

void nv_http_cut(nv_http_exchange *x)
{
    nv_http_conn_cut(x->conn);
}

bool nv_http_body_json(nv_http_exchange *x, struct json_object **tree)
{
    nv_err err = nv_json_parse(nv_buf_span(&x->request->body), NV_HTTP_JSON_DEPTH, NV_HTTP_JSON_VALUES, tree);
    if (err == NV_OK && *tree) {
        return true;
    }
    nv_http_fail(x, NV_HUB_ERROR_IotHubFormatError,
                 err == NV_E_TOO_BIG ? "The request body is nested too deeply or holds too many values" : NULL);
    return false;
}

void nv_http_switch(nv_http_exchange *x, const char *headers, const nv_upgrade *to)
{
    stamp s;
    stamp_make(x->conn, &s);
    write_head(x->conn, &(head){.status = 101, .headers = headers, .framing = "Connection: Upgrade\r\n"}, &s);
    nv_http_conn_upgrade(x->conn, to);
}

void nv_http_watch_peer(nv_http_exchange *x, void (*peer_gone)(nv_http_exchange *x))
{
    x->peer_gone = peer_gone;
    nv_http_conn_watch(x->conn);
}

/* ---- streams ------------------------------------------------------------------------------------------------ */

void nv_http_stream_begin(nv_http_exchange *x, const char *content_type)
{
    nv_http_conn *conn = x->conn;
    conn->chunked = !x->request->http_1_0;
    conn->close_after = conn->close_after || !conn->chunked;
    char framing[80];
    (void)snprintf(framing, sizeof(framing), "Cache-Control: no-store\r\n%s%s",
                   conn->chunked ? "Transfer-Encoding: chunked\r\n" : "", connection_line(conn));
    stamp s;
    stamp_make(conn, &s);
    write_head(conn, &(head){.status = 200, .content_type = content_type, .framing = framing}, &s);
    nv_http_conn_stream(conn);
}

void nv_http_stream_write(nv_http_exchange *x, nv_span bytes)
{
    nv_http_conn *conn = x->conn;
    if (bytes.len == 0) {
        return; /* an empty chunk would end the answer */
    }
    if (conn->chunked) {
        char size[20];
        int len = snprintf(size, sizeof(size), "%zx\r\n", bytes.len);
        nv_http_conn_write(conn, nv_span_of(size, (size_t)len));
    }
    nv_http_conn_write(conn, bytes);
    if (conn->chunked) {
        nv_http_conn_write(conn, nv_span_str("\r\n"));
    }
    conn->session.carrier->wake(conn->session.carrier);
}

size_t nv_http_stream_queued(const nv_http_exchange *x)
{
    return nv_http_conn_queued(x->conn);
}

void nv_http_stream_set_deadline(nv_http_exchange *x, int64_t deadline_us)
{
    x->conn->session.deadline_us = deadline_us;
}

void nv_http_stream_end(nv_http_exchange *x, bool whole)
{
    nv_http_conn *conn = x->conn;
    if (!whole) {
        conn->close_after = true;
    } else if (conn->chunked) {
        nv_http_conn_write(conn, nv_span_str("0\r\n\r\n"));
    }
    nv_http_conn_finish(conn);
}
