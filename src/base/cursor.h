/**
 * Bounded cursors with a sticky error: read or write all fields, then check once. After the first
 * failure every read yields zero, every write is dropped, and the error stays.
 * The suffix gives the byte order: _be (network protocols) or _le (our files).
 */
#ifndef NV_BASE_CURSOR_H
#define NV_BASE_CURSOR_H

#include "base/bytes.h"
#include "base/err.h"
#include "base/span.h"

typedef struct nv_reader {
    const uint8_t *at;
    const uint8_t *end;
    nv_err err;
} nv_reader;

static inline nv_reader nv_reader_of(nv_span bytes)
{
    return (nv_reader){bytes.ptr, bytes.ptr ? bytes.ptr + bytes.len : NULL, NV_OK};
}

static inline size_t nv_reader_left(const nv_reader *r)
{
    return (size_t)(r->end - r->at);
}

static inline bool nv_reader_has(nv_reader *r, size_t len)
{
    if (r->err != NV_OK || nv_reader_left(r) < len) {
        r->err = r->err == NV_OK ? NV_E_SYNTAX : r->err;
        return false;
    }
    return true;
}

/** Borrow the next @p len bytes of the input. */
static inline nv_span nv_read_span(nv_reader *r, size_t len)
{
    if (!nv_reader_has(r, len)) {
        return NV_SPAN_EMPTY;
    }
    nv_span out = nv_span_of(r->at, len);
    r->at += len;
    return out;
}

static inline uint8_t nv_read_u8(nv_reader *r)
{
    return nv_reader_has(r, 1) ? *r->at++ : 0;
}

typedef struct nv_writer {
    uint8_t *start;
    uint8_t *at;
    uint8_t *end;
    nv_err err; /* NV_E_TOO_BIG once something did not fit */
} nv_writer;

static inline nv_writer nv_writer_of(void *memory, size_t capacity)
{
    return (nv_writer){memory, memory, (uint8_t *)memory + capacity, NV_OK};
}

static inline size_t nv_writer_len(const nv_writer *w)
{
    return (size_t)(w->at - w->start);
}

static inline nv_span nv_writer_span(const nv_writer *w)
{
    return nv_span_of(w->start, nv_writer_len(w));
}

static inline bool nv_writer_has(nv_writer *w, size_t len)
{
    if (w->err != NV_OK || (size_t)(w->end - w->at) < len) {
        w->err = w->err == NV_OK ? NV_E_TOO_BIG : w->err;
        return false;
    }
    return true;
}

static inline void nv_write_span(nv_writer *w, nv_span bytes)
{
    if (nv_writer_has(w, bytes.len) && bytes.len) {
        memcpy(w->at, bytes.ptr, bytes.len);
        w->at += bytes.len;
    }
}

static inline void nv_write_u8(nv_writer *w, uint8_t value)
{
    if (nv_writer_has(w, 1)) {
        *w->at++ = value;
    }
}

#define NV_CURSOR_INT(bits, order)                                                                                     \
    static inline uint##bits##_t nv_read_u##bits##_##order(nv_reader *r)                                               \
    {                                                                                                                  \
        nv_span s = nv_read_span(r, (bits) / 8);                                                                       \
        return s.len ? nv_load_u##bits##_##order(s.ptr) : 0;                                                           \
    }                                                                                                                  \
                                                                                                                       \
    static inline void nv_write_u##bits##_##order(nv_writer *w, uint##bits##_t value)                                  \
    {                                                                                                                  \
        if (nv_writer_has(w, (bits) / 8)) {                                                                            \
            nv_store_u##bits##_##order(w->at, value);                                                                  \
            w->at += (bits) / 8;                                                                                       \
        }                                                                                                              \
    }
NV_CURSOR_INT(16, be)
NV_CURSOR_INT(32, be)
NV_CURSOR_INT(64, be)
NV_CURSOR_INT(16, le)
NV_CURSOR_INT(32, le)
NV_CURSOR_INT(64, le)
#undef NV_CURSOR_INT

#endif
