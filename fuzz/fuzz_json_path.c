/**
 * Finding values in JSON text: the first line of the input is a path (names and [indices] joined by dots), the rest the
 * text. Of text that is JSON the value found is the one that walking finds, and JSON itself; of any other text nothing
 * outside of it is read.
 */
#include "codec/json.h"
#include "codec/json_path.h"

#include <stdlib.h>

#define STEPS_MAX 8u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) {
        abort();
    }
}

static size_t read_steps(nv_span path, nv_json_step steps[STEPS_MAX])
{
    size_t count = 0;
    while (path.len && count < STEPS_MAX) {
        size_t len = nv_span_find(path, '.');
        nv_span name = nv_span_first(path, len);
        uint64_t index = 0;
        bool number =
            name.len > 2 && name.ptr[0] == '[' && nv_span_to_u64(nv_span_of(name.ptr + 1, name.len - 2), &index);
        steps[count++] = number ? (nv_json_step){.index = (uint32_t)index} : (nv_json_step){.name = name};
        path = nv_span_skip(path, len + 1);
    }
    return count;
}

static bool name_is(nv_span inner, nv_span name)
{
    uint8_t *out = malloc(inner.len + 1);
    check(out != NULL);
    size_t len = nv_json_unescape(inner, out);
    check(len <= inner.len);
    bool same = nv_span_eq(nv_span_of(out, len), name);
    free(out);
    return same;
}

/* One step at a time, decoding every name. */
static nv_span walk_to(nv_span value, const nv_json_step *steps, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        nv_json_kind kind = nv_json_kind_of(value);
        nv_json_walk walk = nv_json_walk_of(value);
        uint32_t index = 0;
        value = NV_SPAN_EMPTY;
        while (nv_json_walk_next(&walk)) {
            if (steps[i].name.ptr ? kind == NV_JSON_OBJECT && name_is(walk.name, steps[i].name)
                                  : kind == NV_JSON_ARRAY && index++ == steps[i].index) {
                value = walk.value;
                break;
            }
        }
    }
    return value;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nv_span input = nv_span_of(data, size);
    size_t line = nv_span_find(input, '\n');
    nv_json_step steps[STEPS_MAX];
    size_t count = read_steps(nv_span_first(input, line), steps);
    nv_span json = nv_span_skip(input, line + 1);
    nv_span found = nv_json_find(json, steps, count);
    check(found.len == 0 || (found.ptr >= json.ptr && found.ptr + found.len <= json.ptr + json.len));
    double number;
    (void)nv_json_number(found, &number);
    if (json.len && nv_json_check(json, NV_JSON_MAX_DEPTH, UINT32_MAX) == NV_OK) {
        nv_span whole = nv_json_find(json, NULL, 0);
        nv_span walked = walk_to(whole, steps, count);
        check(found.len == walked.len && (found.len == 0 || found.ptr == walked.ptr));
        check(found.len == 0 || nv_json_check(found, NV_JSON_MAX_DEPTH, UINT32_MAX) == NV_OK);
        check(nv_json_kind_of(found) != NV_JSON_NUMBER || nv_json_number(found, &number));
    }
    return 0;
}
