/** Connection strings: what was read, written and read again, is the same. */
#include "codec/connstr.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nv_connstr parts;
    nv_connstr again;
    nv_connstr_kind kind;
    nv_connstr_kind kind_again;
    const char *why = NULL;
    nv_err err = nv_connstr_parse(nv_span_of(data, size), &parts, &kind, &why);
    if (err != NV_OK) {
        if (!why) {
            abort();
        }
        return 0;
    }
    uint8_t *out = malloc(size);
    if (!out) {
        abort();
    }
    (void)nv_connstr_host(&parts);
    nv_writer w = nv_writer_of(out, size);
    nv_connstr_write(&parts, &w);
    if (w.err != NV_OK || nv_connstr_parse(nv_writer_span(&w), &again, &kind_again, &why) != NV_OK ||
        kind != kind_again) {
        abort();
    }
#define X(member, name)                                                                                                \
    if (!nv_span_eq(parts.member, again.member)) {                                                                     \
        abort();                                                                                                       \
    }
    NV_CONNSTR_TABLE(X)
#undef X
    free(out);
    return 0;
}
