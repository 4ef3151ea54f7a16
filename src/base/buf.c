#include "base/buf.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void nv_buf_init(nv_buf *buf, size_t max_bytes)
{
    *buf = (nv_buf){0};
    nv_buf_set_max(buf, max_bytes);
}

void nv_buf_set_max(nv_buf *buf, size_t max_bytes)
{
    buf->max = max_bytes < UINT32_MAX ? (uint32_t)max_bytes : UINT32_MAX;
}

void nv_buf_deinit(nv_buf *buf)
{
    free(buf->data);
    nv_buf_init(buf, buf->max);
}

uint8_t *nv_buf_reserve(nv_buf *buf, size_t len)
{
    size_t used = nv_buf_len(buf);
    if (len > buf->max || used > buf->max - len) {
        return NULL;
    }
    if (NV_LIKELY(buf->data && buf->capacity - buf->end >= len)) {
        return buf->data + buf->end;
    }
    if (buf->start > 0 && buf->capacity - used >= len) {
        memmove(buf->data, buf->data + buf->start, used);
        buf->start = 0;
        buf->end = (uint32_t)used;
        return buf->data + buf->end;
    }
    size_t capacity = buf->capacity ? buf->capacity : 64;
    while (capacity < used + len) {
        capacity *= 2;
    }
    if (capacity > buf->max) {
        capacity = buf->max;
    }
    uint8_t *data = malloc(capacity);
    if (!data) {
        return NULL;
    }
    if (used) {
        memcpy(data, buf->data + buf->start, used);
    }
    free(buf->data);
    buf->data = data;
    buf->start = 0;
    buf->end = (uint32_t)used;
    buf->capacity = (uint32_t)capacity;
    return data + used;
}

nv_err nv_buf_append(nv_buf *buf, nv_span bytes)
{
    if (bytes.len == 0) {
        return NV_OK;
    }
    uint8_t *to = nv_buf_reserve(buf, bytes.len);
    if (!to) {
        return NV_E_TOO_BIG;
    }
    memcpy(to, bytes.ptr, bytes.len);
    nv_buf_commit(buf, bytes.len);
    return NV_OK;
}

nv_err nv_buf_append_str(nv_buf *buf, const char *text)
{
    return nv_buf_append(buf, nv_span_str(text));
}

nv_err nv_buf_printf(nv_buf *buf, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    nv_err err = NV_E_INVALID;
    if (len >= 0) {
        uint8_t *to = nv_buf_reserve(buf, (size_t)len + 1);
        err = NV_E_TOO_BIG;
        if (to) {
            (void)vsnprintf((char *)to, (size_t)len + 1, fmt, again);
            nv_buf_commit(buf, (size_t)len);
            err = NV_OK;
        }
    }
    va_end(again);
    return err;
}

void nv_buf_consume(nv_buf *buf, size_t len)
{
    assert(len <= nv_buf_len(buf));
    buf->start += (uint32_t)len;
    if (buf->start == buf->end) {
        buf->start = buf->end = 0;
    }
}

void nv_buf_clear(nv_buf *buf)
{
    buf->start = buf->end = 0;
}

void nv_buf_truncate(nv_buf *buf, size_t len)
{
    assert(len <= nv_buf_len(buf));
    buf->end = buf->start + (uint32_t)len;
}
