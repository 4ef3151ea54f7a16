/** Property bags: whatever was read, written again for clients and read once more, is the same. */
#include "codec/bag.h"

#include "codec/percent.h"

#include <stdlib.h>

#define MAX_PROPERTIES 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) {
        abort();
    }
}

static void write_again(const nv_bag_property *properties, size_t count, size_t size)
{
    static nv_bag_property again[MAX_PROPERTIES];
    size_t room = 3 * size + 2 * count + 1;
    uint8_t *out = malloc(room);
    uint8_t *scratch = malloc(room);
    check(out && scratch);
    nv_writer w = nv_writer_of(out, room);
    nv_bag_writer bag = nv_bag_writer_of(&w);
    for (size_t i = 0; i < count; i++) {
        if (properties[i].has_value) {
            nv_bag_put(&bag, properties[i].name, properties[i].value);
        } else {
            nv_bag_put_null(&bag, properties[i].name);
        }
    }
    check(w.err == NV_OK);
    size_t again_count = 0;
    check(nv_bag_decode(nv_writer_span(&w), scratch, room, again, MAX_PROPERTIES, &again_count) == NV_OK);
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        if (properties[i].name.len == 0) {
            continue; /* never written */
        }
        check(at < again_count && nv_span_eq(again[at].name, properties[i].name) &&
              nv_span_eq(again[at].value, properties[i].value) && again[at].has_value == properties[i].has_value);
        at++;
    }
    check(at == again_count);
    free(scratch);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static nv_bag_property properties[MAX_PROPERTIES];
    nv_span raw = nv_span_of(data, size);
    uint8_t *scratch = malloc(size ? size : 1);
    size_t count = 0;
    check(scratch != NULL);
    nv_err err = nv_bag_decode(raw, scratch, size, properties, MAX_PROPERTIES, &count);
    check(err == NV_OK || err == NV_E_LIMIT); /* the promised size of the scratch memory always suffices */
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < i; j++) {
            check(!nv_span_eq(properties[i].name, properties[j].name));
        }
    }
    if (err == NV_OK) {
        write_again(properties, count, size);
    }
    free(scratch);
    return 0;
}
