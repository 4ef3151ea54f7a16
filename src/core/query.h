/**
 * Queries over twins: semantics.md section 2, http-hub.md section 11. The text is parsed and checked on the caller's
 * loop; rows are read and evaluated on the state store's reader thread, in pieces, so that other reads get their turn.
 *
 * The expression engine (core/expr.h) is apart: message routing will share its types, values and functions.
 */
#ifndef NV_CORE_QUERY_H
#define NV_CORE_QUERY_H

#include "core/hub.h"
#include "core/registry.h"

#define NV_QUERY_TEXT_MAX     8192u /* characters */
#define NV_QUERY_PAGE_DEFAULT 100u
#define NV_QUERY_PAGE_MAX     1000u
/** A page ends early, with a continuation, when its rows have so many bytes. */
#define NV_QUERY_PAGE_BYTES (1u << 20)
/** No continuation is longer. Characters, of base64url. */
#define NV_QUERY_TOKEN_MAX 420u

/** x-ms-item-type of the answer. */
typedef enum nv_query_item { NV_QUERY_TWIN, NV_QUERY_RAW, NV_QUERY_DEVICE_JOB } nv_query_item;

/** Owned by the caller, alive until done. */
typedef struct nv_query_request {
    /* in; spans stay valid until done */
    nv_span text;
    uint32_t page;        /* rows at most; 0: the default; larger than the maximum: the maximum */
    nv_span continuation; /* of the page before; empty: the first page */
    void (*done)(struct nv_query_request *request); /* on the loop that asked, never from within the call */
    void *arg;
    /* out */
    /**
     * ArgumentInvalid: "The query is invalid: <what>, line L, column C", or the continuation is none of this query;
     * ThrottlingException: too many queries run; ServiceUnavailable, ServerError: the store
     */
    nv_hub_error error;
    char detail[200];
    nv_query_item item;
    nv_buf rows; /* a JSON array; the caller deinits both, also after an error */
    nv_buf next; /* continuation of the next page, header-safe; empty: this is the last */
    /* private */
    nv_hub_loop *_loop;
    nv_task _task;
    void *_op;
} nv_query_request;

/** Thread: the loop's. Blocks: never. */
void nv_query_do(nv_hub_loop *loop, nv_query_request *request);
/** The caller is not interested any more: the work ends early; done is called nevertheless. */
void nv_query_cancel(nv_query_request *request);

#endif
