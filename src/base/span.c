#include "base/span.h"

#include "base/alloc.h"

static uint8_t lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c;
}

static bool is_one_of(uint8_t c, const char *set)
{
    return c && strchr(set, c);
}

nv_span nv_span_trim(nv_span text, const char *spaces)
{
    NV_KNOWN(text.len == 0 || text.ptr);
    while (text.len && is_one_of(text.ptr[0], spaces)) {
        text = nv_span_skip(text, 1);
    }
    while (text.len && is_one_of(text.ptr[text.len - 1], spaces)) {
        text.len--;
    }
    return text;
}

bool nv_span_eq_nocase(nv_span a, nv_span b)
{
    if (a.len != b.len) {
        return false;
    }
    for (size_t i = 0; i < a.len; i++) {
        if (lower(a.ptr[i]) != lower(b.ptr[i])) {
            return false;
        }
    }
    return true;
}

char *nv_span_dup(nv_span a)
{
    char *text = nv_malloc(a.len + 1);
    if (a.len) {
        memcpy(text, a.ptr, a.len);
    }
    text[a.len] = '\0';
    return text;
}

int nv_span_cmp(nv_span a, nv_span b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int order = n ? memcmp(a.ptr, b.ptr, n) : 0;
    if (order) {
        return order;
    }
    return (a.len > b.len) - (a.len < b.len);
}

bool nv_span_eq_secret(nv_span a, nv_span b)
{
    if (a.len != b.len) {
        return false;
    }
    volatile uint8_t diff = 0;
    for (size_t i = 0; i < a.len; i++) {
        diff = (uint8_t)(diff | (a.ptr[i] ^ b.ptr[i]));
    }
    return diff == 0;
}

bool nv_span_to_u64(nv_span a, uint64_t *out)
{
    uint64_t value = 0;
    if (a.len == 0) {
        return false;
    }
    for (size_t i = 0; i < a.len; i++) {
        if (a.ptr[i] < '0' || a.ptr[i] > '9') {
            return false;
        }
        uint64_t digit = (uint64_t)(a.ptr[i] - '0');
        if (value > (UINT64_MAX - digit) / 10) {
            return false;
        }
        value = value * 10 + digit;
    }
    *out = value;
    return true;
}

void nv_wipe(void *ptr, size_t len)
{
    if (len) {
        memset(ptr, 0, len);
        __asm__ __volatile__("" : : "r"(ptr) : "memory");
    }
}
