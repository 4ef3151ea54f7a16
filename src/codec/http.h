/**
 * HTTP/1.1 requests: bytes in, requests out (RFC 9112), one at a time. The grammar is that of llhttp, or of its
 * predecessor http-parser where llhttp is not packaged; this wrapper collects a request within bounds, stops behind its
 * head and behind its end, and keeps no memory between requests.
 */
#ifndef NV_CODEC_HTTP_H
#define NV_CODEC_HTTP_H

#include "base/buf.h"

#define NV_HTTP_MAX_HEADERS 100u

typedef enum nv_http_method {
    NV_HTTP_GET,
    NV_HTTP_HEAD,
    NV_HTTP_PUT,
    NV_HTTP_POST,
    NV_HTTP_PATCH,
    NV_HTTP_DELETE,
    NV_HTTP_OPTIONS,
    NV_HTTP_OTHER
} nv_http_method;

/** "GET", ...; OTHER: "?". Static storage. */
const char *nv_http_method_name(nv_http_method method);

/** Offsets into the request's text, which may move while it grows. */
typedef struct nv_http_header {
    uint32_t name;
    uint32_t name_len;
    uint32_t value;
    uint32_t value_len;
} nv_http_header;

/** One request. Its memory is the parser's until nv_http_parser_done(). */
typedef struct nv_http_request {
    nv_http_method method;
    bool http_1_0;
    bool keep_alive;      /* the peer's wish */
    bool expect_continue; /* it waits for 100 before it sends the body */
    bool upgrade;         /* Connection: upgrade with an Upgrade header */
    bool has_body;        /* one is announced, possibly of no bytes */
    nv_buf text;          /* target and headers */
    uint32_t target_len;  /* the target is the first bytes of text */
    nv_http_header headers[NV_HTTP_MAX_HEADERS];
    uint32_t header_count;
    nv_buf body;
} nv_http_request;

static inline nv_span nv_http_target(const nv_http_request *request)
{
    return nv_span_first(nv_buf_span(&request->text), request->target_len);
}

/** Optional white space around values [RFC 9110 5.6.3]. */
#define NV_HTTP_SPACES " \t"

/** The first header called @p name, ignoring case, without white space around it. @return false: absent */
bool nv_http_find_header(const nv_http_request *request, const char *name, nv_span *value);

/**
 * The next element of a list such as `keep-alive, Upgrade` that is not empty, without white space around it.
 * @param list  what is left of it; moved on
 * @return false: there is none
 */
bool nv_http_next_element(nv_span *list, nv_span *element);

/** The elements of a list such as `Connection: keep-alive, Upgrade`, over all headers of that name. */
typedef struct nv_http_tokens {
    const nv_http_request *request;
    const char *name; /* of the header, in any case */
    uint32_t _next;   /* header */
    nv_span _rest;    /* of the present one */
} nv_http_tokens;

/** The next element that is not empty. @return false: there is none */
bool nv_http_next_token(nv_http_tokens *tokens, nv_span *token);
/** True when one of the elements is @p token, ignoring case. */
bool nv_http_has_token(const nv_http_request *request, const char *name, const char *token);

typedef struct nv_http_parser nv_http_parser;

/** @return never NULL */
nv_http_parser *nv_http_parser_new(size_t max_head_bytes, size_t max_body_bytes);
/** NULL is fine. */
void nv_http_parser_free(nv_http_parser *parser);

typedef enum nv_http_event {
    NV_HTTP_MORE,     /* all was taken, the request goes on */
    NV_HTTP_HEAD_END, /* the head is complete: look at it, then feed the rest */
    NV_HTTP_END,      /* the request is complete */
    NV_HTTP_BAD,      /* not HTTP: *why */
    NV_HTTP_HEAD_BIG, /* head beyond its bound */
    NV_HTTP_BODY_BIG  /* body beyond its bound, announced or sent */
} nv_http_event;

/**
 * Take bytes from the front of @p bytes up to the next event. After one of the last three the parser is finished.
 * @param taken  how many were taken; those behind belong to what follows
 * @param why    static text for NV_HTTP_BAD
 */
nv_http_event nv_http_parser_feed(nv_http_parser *parser, nv_span bytes, size_t *taken, const char **why);

/** The request that has begun, or NULL between requests. */
nv_http_request *nv_http_parser_request(nv_http_parser *parser);
/** From now on the body of this request is read and thrown away (still counted). */
void nv_http_parser_discard_body(nv_http_parser *parser);
/** The body of the complete request was used: give its memory back before the rest of the request. */
void nv_http_parser_drop_body(nv_http_parser *parser);
/** Release the request, ready for the next. */
void nv_http_parser_done(nv_http_parser *parser);

#endif
