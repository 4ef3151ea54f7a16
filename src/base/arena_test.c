#include "base/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static void blocks_are_distinct_and_aligned(void **state)
{
    (void)state;
    nv_arena arena = {0};
    uint8_t *blocks[300];
    for (size_t i = 0; i < 300; i++) {
        blocks[i] = nv_arena_alloc(&arena, i);
        assert_int_equal((uintptr_t)blocks[i] % _Alignof(max_align_t), 0);
        memset(blocks[i], (int)(i & 0xff), i);
    }
    for (size_t i = 0; i < 300; i++) {
        for (size_t k = 0; k < i; k++) {
            assert_int_equal(blocks[i][k], i & 0xff);
        }
    }
    nv_arena_deinit(&arena);
}

static void reset_wipes_and_reuses(void **state)
{
    (void)state;
    nv_arena arena = {0};
    nv_span first = nv_arena_copy(&arena, nv_span_str("secret"));
    assert_true(nv_span_eq_str(first, "secret"));
    nv_arena_reset(&arena);
    for (size_t i = 0; i < first.len; i++) {
        assert_int_equal(first.ptr[i], 0); /* the chunk is kept, so this memory is still ours */
    }
    nv_span second = nv_arena_copy(&arena, nv_span_str("again"));
    assert_ptr_equal(second.ptr, first.ptr);
    assert_int_equal(nv_arena_copy(&arena, NV_SPAN_EMPTY).len, 0);
    /* larger than a chunk */
    uint8_t *big = nv_arena_alloc(&arena, 100000);
    memset(big, 1, 100000);
    nv_arena_reset(&arena);
    nv_arena_reset(&arena);
    nv_arena_deinit(&arena);
    nv_arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_distinct_and_aligned),
        cmocka_unit_test(reset_wipes_and_reuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
