#include "codec/http.h"

#include "base/alloc.h"

#include <stdlib.h>

#if NV_HAVE_LLHTTP
#include <llhttp.h>
typedef llhttp_t engine;
typedef llhttp_settings_t engine_settings;
#else
#include <http_parser.h>
typedef http_parser engine;
typedef http_parser_settings engine_settings;
#endif

struct nv_http_parser {
    engine engine; /* first member: callbacks get it and cast back */
    size_t max_head_bytes;
    size_t max_body_bytes;
    size_t body_bytes;
    nv_http_request *request;
    nv_http_event event; /* what stopped the engine; MORE: nothing yet */
    const char *wrong;   /* static: why, if the engine did not find it; or NULL */
    bool discard;
    bool in_value; /* the last header callback was for a value */
    bool head_done;
};

static nv_http_parser *parser_of(engine *e)
{
    return (nv_http_parser *)(void *)e;
}

static nv_http_method method_of(unsigned method)
{
    switch (method) {
    case HTTP_GET:
        return NV_HTTP_GET;
    case HTTP_HEAD:
        return NV_HTTP_HEAD;
    case HTTP_PUT:
        return NV_HTTP_PUT;
    case HTTP_POST:
        return NV_HTTP_POST;
    case HTTP_PATCH:
        return NV_HTTP_PATCH;
    case HTTP_DELETE:
        return NV_HTTP_DELETE;
    case HTTP_OPTIONS:
        return NV_HTTP_OPTIONS;
    default:
        return NV_HTTP_OTHER;
    }
}

const char *nv_http_method_name(nv_http_method method)
{
    static const char *const names[] = {"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "?"};
    return names[method];
}

/* ---- engine callbacks: 0 goes on, anything else stops ------------------------------------------------------ */

static int stop(nv_http_parser *p, nv_http_event event)
{
    p->event = event;
    return -1;
}

/** Stop between two units; feeding goes on from there. */
static int pause_at(nv_http_parser *p, nv_http_event event)
{
    p->event = event;
#if NV_HAVE_LLHTTP
    return HPE_PAUSED;
#else
    http_parser_pause(&p->engine, 1);
    return 0;
#endif
}

static int on_begin(engine *e)
{
    nv_http_parser *p = parser_of(e);
    p->request = nv_calloc(1, sizeof(*p->request));
    nv_buf_init(&p->request->text, p->max_head_bytes);
    nv_buf_init(&p->request->body, p->max_body_bytes);
    p->body_bytes = 0;
    p->discard = false;
    p->in_value = false;
    p->head_done = false;
    return 0;
}

static int append_text(nv_http_parser *p, const char *at, size_t len)
{
    return nv_buf_append(&p->request->text, nv_span_of(at, len)) == NV_OK ? 0 : stop(p, NV_HTTP_HEAD_BIG);
}

static int on_url(engine *e, const char *at, size_t len)
{
    nv_http_parser *p = parser_of(e);
    p->request->target_len += (uint32_t)len;
    return append_text(p, at, len);
}

/* token = 1*tchar (RFC 9110 5.6.2) */
static bool is_token(const char *at, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = at[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!letter && (c == '\0' || !strchr("!#$%&'*+-.^_`|~", c))) {
            return false;
        }
    }
    return true;
}

static int on_header_field(engine *e, const char *at, size_t len)
{
    nv_http_parser *p = parser_of(e);
    nv_http_request *r = p->request;
    /* http-parser lets "Transfer-Encoding : chunked" pass as a header that it does not know; who stands before us may
     * know it, and see another end of the request than we do (RFC 9112 5.1). */
    if (!is_token(at, len)) {
        p->wrong = "a header name with a space or another character that no name may have";
        return stop(p, NV_HTTP_BAD);
    }
    if (p->head_done) {
        return 0; /* trailers of a chunked body say nothing to us */
    }
    if (p->in_value || r->header_count == 0) {
        if (r->header_count == NV_HTTP_MAX_HEADERS) {
            return stop(p, NV_HTTP_HEAD_BIG);
        }
        r->headers[r->header_count++] = (nv_http_header){.name = (uint32_t)nv_buf_len(&r->text)};
        p->in_value = false;
    }
    r->headers[r->header_count - 1].name_len += (uint32_t)len;
    return append_text(p, at, len);
}

static int on_header_value(engine *e, const char *at, size_t len)
{
    nv_http_parser *p = parser_of(e);
    nv_http_request *r = p->request;
    if (p->head_done || r->header_count == 0) {
        return 0;
    }
    nv_http_header *header = &r->headers[r->header_count - 1];
    if (!p->in_value) {
        p->in_value = true;
        header->value = (uint32_t)nv_buf_len(&r->text);
    }
    header->value_len += (uint32_t)len;
    return append_text(p, at, len);
}

static bool is_chunked(const engine *e)
{
    return e->flags & F_CHUNKED;
}

static bool has_length(const engine *e)
{
#if NV_HAVE_LLHTTP
    return e->flags & F_CONTENT_LENGTH;
#else
    return e->flags & F_CONTENTLENGTH;
#endif
}

static int on_headers_complete(engine *e)
{
    nv_http_parser *p = parser_of(e);
    nv_http_request *r = p->request;
    p->head_done = true;
    r->method = method_of(e->method);
    r->http_1_0 = e->http_major == 1 && e->http_minor == 0;
#if NV_HAVE_LLHTTP
    r->keep_alive = llhttp_should_keep_alive(e);
#else
    r->keep_alive = http_should_keep_alive(e);
#endif
    r->upgrade = e->upgrade;
    /* An upgrade that nobody here speaks (h2c) must not hide the request's body; a CONNECT has none anyway. */
    if (e->method != HTTP_CONNECT) {
        e->upgrade = 0;
    }
    nv_span expect;
    r->expect_continue = !r->http_1_0 && nv_http_find_header(r, "expect", &expect) &&
                         nv_span_eq_nocase(expect, nv_span_str("100-continue"));
    r->has_body = is_chunked(e) || (has_length(e) && e->content_length > 0);
    if (e->http_major != 1 || e->http_minor > 1) {
        p->wrong = "this hub speaks HTTP/1.1";
        return stop(p, NV_HTTP_BAD);
    }
    if (!is_chunked(e) && has_length(e) && e->content_length > p->max_body_bytes) {
        return stop(p, NV_HTTP_BODY_BIG);
    }
    return pause_at(p, NV_HTTP_HEAD_END);
}

static int on_body(engine *e, const char *at, size_t len)
{
    nv_http_parser *p = parser_of(e);
    if (len > p->max_body_bytes - p->body_bytes) {
        return stop(p, NV_HTTP_BODY_BIG);
    }
    p->body_bytes += len;
    if (!p->discard && nv_buf_append(&p->request->body, nv_span_of(at, len)) != NV_OK) {
        return stop(p, NV_HTTP_BODY_BIG);
    }
    return 0;
}

static int on_complete(engine *e)
{
    return pause_at(parser_of(e), NV_HTTP_END);
}

/* ---- feeding ----------------------------------------------------------------------------------------------- */

static const engine_settings settings = {.on_message_begin = on_begin,
                                         .on_url = on_url,
                                         .on_header_field = on_header_field,
                                         .on_header_value = on_header_value,
                                         .on_headers_complete = on_headers_complete,
                                         .on_body = on_body,
                                         .on_message_complete = on_complete};

#if NV_HAVE_LLHTTP

static void engine_init(nv_http_parser *p)
{
    llhttp_init(&p->engine, HTTP_REQUEST, &settings);
}

/** @return NULL or what is wrong */
static const char *engine_run(nv_http_parser *p, nv_span bytes, size_t *taken)
{
    if (llhttp_get_errno(&p->engine) == HPE_PAUSED) {
        llhttp_resume(&p->engine);
    }
    llhttp_errno_t err = llhttp_execute(&p->engine, (const char *)bytes.ptr, bytes.len);
    const char *at = err == HPE_OK ? NULL : llhttp_get_error_pos(&p->engine);
    *taken = at ? (size_t)((const uint8_t *)at - bytes.ptr) : bytes.len;
    return err == HPE_OK || err == HPE_PAUSED ? NULL : llhttp_errno_name(err);
}

#else

static void engine_init(nv_http_parser *p)
{
    http_parser_init(&p->engine, HTTP_REQUEST);
}

static const char *engine_run(nv_http_parser *p, nv_span bytes, size_t *taken)
{
    if (HTTP_PARSER_ERRNO(&p->engine) == HPE_PAUSED) {
        http_parser_pause(&p->engine, 0);
    }
    *taken = http_parser_execute(&p->engine, &settings, (const char *)bytes.ptr, bytes.len);
    enum http_errno err = HTTP_PARSER_ERRNO(&p->engine);
    return err == HPE_OK || err == HPE_PAUSED ? NULL : http_errno_description(err);
}

#endif

nv_http_parser *nv_http_parser_new(size_t max_head_bytes, size_t max_body_bytes)
{
    nv_http_parser *p = nv_calloc(1, sizeof(*p));
    engine_init(p);
    p->max_head_bytes = max_head_bytes;
    p->max_body_bytes = max_body_bytes;
    return p;
}

void nv_http_parser_free(nv_http_parser *parser)
{
    if (parser) {
        nv_http_parser_done(parser);
        free(parser);
    }
}

nv_http_event nv_http_parser_feed(nv_http_parser *parser, nv_span bytes, size_t *taken, const char **why)
{
    *taken = 0;
    *why = "";
    if (bytes.len == 0) {
        return NV_HTTP_MORE; /* to the engine no bytes mean the end of the connection */
    }
    parser->event = NV_HTTP_MORE;
    const char *wrong = engine_run(parser, bytes, taken);
    if (wrong && parser->event == NV_HTTP_MORE) {
        parser->event = NV_HTTP_BAD;
    }
    if (parser->event == NV_HTTP_BAD) {
        *why = parser->wrong ? parser->wrong : wrong ? wrong : "unknown HTTP version";
    }
    return parser->event;
}

nv_http_request *nv_http_parser_request(nv_http_parser *parser)
{
    return parser->request;
}

void nv_http_parser_discard_body(nv_http_parser *parser)
{
    parser->discard = true;
    nv_buf_deinit(&parser->request->body);
}

static void wipe_and_free(nv_buf *buf)
{
    if (buf->data) {
        nv_wipe(buf->data, buf->capacity);
    }
    nv_buf_deinit(buf);
}

void nv_http_parser_drop_body(nv_http_parser *parser)
{
    wipe_and_free(&parser->request->body); /* it may hold keys */
}

void nv_http_parser_done(nv_http_parser *parser)
{
    nv_http_request *r = parser->request;
    if (r) {
        nv_http_parser_drop_body(parser);
        wipe_and_free(&r->text); /* it holds a token */
        free(r);
        parser->request = NULL;
    }
}

/* From header *at on, which then is the one behind what was found. */
static bool find_from(const nv_http_request *request, const char *name, uint32_t *at, nv_span *value)
{
    nv_span text = nv_buf_span(&request->text);
    nv_span wanted = nv_span_str(name);
    while (*at < request->header_count) {
        const nv_http_header *h = &request->headers[(*at)++];
        if (nv_span_eq_nocase(nv_span_first(nv_span_skip(text, h->name), h->name_len), wanted)) {
            *value = nv_span_trim(nv_span_first(nv_span_skip(text, h->value), h->value_len), NV_HTTP_SPACES);
            return true;
        }
    }
    return false;
}

bool nv_http_find_header(const nv_http_request *request, const char *name, nv_span *value)
{
    uint32_t at = 0;
    return find_from(request, name, &at, value);
}

bool nv_http_next_element(nv_span *list, nv_span *element)
{
    while (list->len > 0) {
        size_t comma = nv_span_find(*list, ',');
        *element = nv_span_trim(nv_span_first(*list, comma), NV_HTTP_SPACES);
        *list = nv_span_skip(*list, comma + 1);
        if (element->len > 0) {
            return true;
        }
    }
    return false;
}

bool nv_http_next_token(nv_http_tokens *tokens, nv_span *token)
{
    do {
        if (nv_http_next_element(&tokens->_rest, token)) {
            return true;
        }
    } while (find_from(tokens->request, tokens->name, &tokens->_next, &tokens->_rest));
    return false;
}

bool nv_http_has_token(const nv_http_request *request, const char *name, const char *token)
{
    nv_http_tokens tokens = {.request = request, .name = name};
    nv_span one;
    while (nv_http_next_token(&tokens, &one)) {
        if (nv_span_eq_nocase(one, nv_span_str(token))) {
            return true;
        }
    }
    return false;
}
