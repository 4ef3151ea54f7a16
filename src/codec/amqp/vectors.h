/** Vectors in hex, for the tests of this folder. */
#ifndef NV_CODEC_AMQP_VECTORS_H
#define NV_CODEC_AMQP_VECTORS_H

#include "codec/amqp/message.h"
#include "codec/hex.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define MAX_VECTOR 4096u

/** Decode hex text with blanks into an allocation of exactly that size, so that ASan sees one byte too far. */
static inline nv_span bytes_of(const char *hex)
{
    char digits[2 * MAX_VECTOR];
    size_t n = 0;
    for (const char *c = hex; *c; c++) {
        if (*c != ' ') {
            assert_true(n < sizeof(digits));
            digits[n++] = *c;
        }
    }
    uint8_t *bytes = malloc(n / 2 ? n / 2 : 1);
    assert_non_null(bytes);
    assert_int_equal(nv_hex_decode(nv_span_of(digits, n), bytes, n / 2), NV_OK);
    return nv_span_of(bytes, n / 2);
}

static inline nv_span copy_of(nv_span bytes)
{
    uint8_t *copy = malloc(bytes.len ? bytes.len : 1);
    assert_non_null(copy);
    if (bytes.len) {
        memcpy(copy, bytes.ptr, bytes.len);
    }
    return nv_span_of(copy, bytes.len);
}

static inline void release(nv_span bytes)
{
    free((void *)(uintptr_t)bytes.ptr);
}

static inline void assert_bytes(const char *name, nv_span found, nv_span expected)
{
    if (nv_span_eq(found, expected)) {
        return;
    }
    char text[2][2 * MAX_VECTOR + 1] = {"", ""};
    const nv_span both[2] = {found, expected};
    for (size_t i = 0; i < 2; i++) {
        nv_writer w = nv_writer_of(text[i], 2 * MAX_VECTOR);
        nv_hex_encode(both[i], &w);
        *w.at = 0;
    }
    fail_msg("%s:\n  %s\nexpected\n  %s", name, text[0], text[1]);
}

static inline void assert_hex(const char *name, nv_span found, const char *hex)
{
    nv_span expected = bytes_of(hex);
    assert_bytes(name, found, expected);
    release(expected);
}

#endif
