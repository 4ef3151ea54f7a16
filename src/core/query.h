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

#define NV_QUERY_TEXT_MAX     8192u
#define NV_QUERY_PAGE_DEFAULT 100u
#define NV_QUERY_PAGE_MAX     1000u

typedef enum nv_query_item { NV_QUERY_TWIN, NV_QUERY_RAW } nv_query_item;

/** Owned by the caller, alive until done. */
typedef struct nv_query_request {
    /* in; spans stay valid until done */
    nv_span text;
    uint32_t page;        /* rows at most; 0: the default; larger than the maximum: the maximum */
    nv_span continuation; /* of the page before; empty: the first page */
    void (*done)(struct nv_query_request *request); /* on the loop that asked, never from within the call */
    void *arg;
    /* out */
    nv_hub_error error; /* ArgumentInvalid: "The query is invalid: <what>, line L, column C" */
    char detail[200];
    nv_query_item item;
    nv_buf rows; /* a JSON array; the caller deinits it */
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
