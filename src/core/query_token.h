/** Continuations of queries: where the next page begins, as text. Internal to core/query*.c; pure. */
#ifndef NV_CORE_QUERY_TOKEN_H
#define NV_CORE_QUERY_TOKEN_H

#include "base/buf.h"
#include "core/identity.h"

typedef struct nv_query_position {
    uint32_t top_left; /* rows that TOP leaves for the pages to come */
    bool in_groups;    /* behind group @p group; else behind the row of these ids */
    uint64_t group;
    uint8_t device[NV_ID_MAX];
    uint8_t device_len; /* 0: at the start */
    uint8_t module[NV_ID_MAX];
    uint8_t module_len;
} nv_query_position;

/** Base64. @param query  names text and hub (a hash): the token is for no other */
NV_NODISCARD nv_err nv_query_token_write(const nv_query_position *position, uint64_t query, nv_buf *out);
/** @return false: damaged, or of another query */
bool nv_query_token_read(nv_span token, uint64_t query, nv_query_position *position);

#endif
