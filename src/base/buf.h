/**
 * A growable byte queue that is born with its maximum: append at the end, consume at the start.
 * Growth past the maximum is refused with NV_E_TOO_BIG and leaves the content as it was. No buffer holds more than
 * 4 GB - 1: half the size of the structure, of which every connection has some.
 */
#ifndef NV_BASE_BUF_H
#define NV_BASE_BUF_H

#include "base/attrs.h"
#include "base/err.h"
#include "base/span.h"

typedef struct nv_buf {
    uint8_t *data;     /* owned; NULL while empty and never used */
    uint32_t start;    /* first unread byte */
    uint32_t end;      /* one past the last byte */
    uint32_t capacity; /* allocated bytes */
    uint32_t max;      /* content never grows past this */
} nv_buf;

/** Allocates nothing. A zeroed nv_buf is valid for deinit, not for appending. A maximum above 4 GB - 1 becomes that. */
void nv_buf_init(nv_buf *buf, size_t max_bytes);
/** Free the memory; the buffer may be used again with the same maximum. */
void nv_buf_deinit(nv_buf *buf);

static inline size_t nv_buf_len(const nv_buf *buf)
{
    return (size_t)buf->end - buf->start;
}

static inline nv_span nv_buf_span(const nv_buf *buf)
{
    NV_KNOWN(buf->data || nv_buf_len(buf) == 0);
    return nv_span_of(buf->data ? buf->data + buf->start : NULL, nv_buf_len(buf));
}

/**
 * Make room for @p len bytes behind the content and lend it: write there, then nv_buf_commit().
 * The pointer dies with the next call on the buffer. @return NULL past the maximum or out of memory
 */
uint8_t *nv_buf_reserve(nv_buf *buf, size_t len);
static inline void nv_buf_commit(nv_buf *buf, size_t len)
{
    buf->end += (uint32_t)len;
}

NV_NODISCARD nv_err nv_buf_append(nv_buf *buf, nv_span bytes);
NV_NODISCARD nv_err nv_buf_append_str(nv_buf *buf, const char *text);
NV_NODISCARD nv_err nv_buf_printf(nv_buf *buf, const char *fmt, ...) NV_PRINTF(2, 3);

/** Drop @p len bytes from the front. @p len is at most nv_buf_len(). */
void nv_buf_consume(nv_buf *buf, size_t len);
/** Drop the content, keep the memory. */
void nv_buf_clear(nv_buf *buf);
/** Keep the first @p len bytes, of which there are at least so many. */
void nv_buf_truncate(nv_buf *buf, size_t len);
/** Another maximum, which may be below what is there: then nothing can be appended until enough was consumed. */
void nv_buf_set_max(nv_buf *buf, size_t max_bytes);

#endif
