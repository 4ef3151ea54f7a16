/**
 * A patch on a section of a twin. The first byte chooses the form; the base, a reported patch itself, ends at the first
 * NUL, the rest is the body. What is accepted leaves valid JSON in normal form behind, with as many entries of metadata
 * as members; the same patch again changes nothing.
 */
#include "codec/json.h"
#include "core/twin_index.h"
#include "core/twin_json.h"
#include "core/twin_merge.h"

#include <stdlib.h>

#define MAX_BYTES (8u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const nv_twin_stamp stamp = {.us = 1700000000000000, .versions = true, .version = 9};

static void check(bool ok)
{
    if (!ok) {
        abort();
    }
}

static bool is_json(nv_span text)
{
    return nv_json_check(text, NV_JSON_MAX_DEPTH, UINT32_MAX) == NV_OK;
}

static void check_section(const nv_twin_section *section)
{
    nv_span text = nv_buf_span(&section->text);
    size_t members = 0;
    nv_twin_cursor c = nv_twin_cursor_of(text);
    check(is_json(text));
    check(nv_span_eq(nv_twin_take_value(&c, &members), text) && c.at == c.limit);
    check(nv_buf_len(&section->metadata) == (1 + members) * nv_twin_entry_size(true));
    check(nv_twin_size(text) <= 8 * text.len);
    nv_buf out;
    nv_buf_init(&out, MAX_BYTES);
    nv_json_writer w = nv_json_writer_of(&out);
    nv_twin_metadata_write(&w, text, nv_buf_span(&section->metadata), true, 0);
    check(w.err != NV_OK || is_json(nv_buf_span(&out)));
    nv_buf_deinit(&out);
}

/* What is stored is accepted again as it stands. */
static void check_normal(const nv_twin_section *section)
{
    static nv_twin_patch patch;
    nv_verdict verdict = {.error = NV_HUB_ERROR_NONE};
    nv_twin_section again;
    nv_twin_section_init(&again);
    if (nv_twin_patch_init(&patch, nv_buf_span(&section->text), NV_TWIN_FORM_REPORTED, &verdict)) {
        check(nv_twin_replace(&patch, patch.reported, &stamp, &again) == NV_OK);
        check(nv_span_eq(nv_buf_span(&again.text), nv_buf_span(&section->text)));
    }
    nv_twin_patch_deinit(&patch);
    nv_twin_section_deinit(&again);
}

static void check_news(const nv_twin_patch *patch, uint32_t node)
{
    nv_buf out;
    nv_buf_init(&out, MAX_BYTES);
    check(nv_twin_node_write(patch, node, &out) == NV_OK);
    check(is_json(nv_buf_span(&out)));
    nv_buf_clear(&out);
    nv_json_writer w = nv_json_writer_of(&out);
    nv_twin_node_metadata_write(patch, node, &stamp, &w);
    check(w.err != NV_OK || is_json(nv_buf_span(&out)));
    nv_buf_deinit(&out);
}

static void apply(nv_twin_patch *patch, uint32_t node, const nv_twin_section *base)
{
    nv_twin_section once;
    nv_twin_section twice;
    nv_twin_section_init(&once);
    nv_twin_section_init(&twice);
    check_news(patch, node);
    if (patch->nodes[node].kind == NV_TWIN_OBJECT) {
        check(nv_twin_merge(patch, node, nv_buf_span(&base->text), nv_buf_span(&base->metadata), &stamp, &once) ==
              NV_OK);
        check(nv_twin_merge(patch, node, nv_buf_span(&once.text), nv_buf_span(&once.metadata), &stamp, &twice) ==
              NV_OK);
        check(nv_span_eq(nv_buf_span(&once.text), nv_buf_span(&twice.text)));
    } else {
        check(nv_twin_replace(patch, node, &stamp, &once) == NV_OK);
    }
    check_section(&once);
    check_normal(&once);
    nv_twin_section_deinit(&once);
    nv_twin_section_deinit(&twice);
}

static void make_base(nv_span text, nv_twin_section *base)
{
    static nv_twin_patch patch;
    nv_verdict verdict = {.error = NV_HUB_ERROR_NONE};
    bool good = nv_twin_patch_init(&patch, text, NV_TWIN_FORM_REPORTED, &verdict);
    check(good || verdict.detail[0]);
    check(nv_twin_replace(&patch, good ? patch.reported : 0, &stamp, base) == NV_OK);
    check_section(base);
    check_normal(base);
    nv_twin_patch_deinit(&patch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static nv_twin_patch patch;
    if (size < 2) {
        return 0;
    }
    nv_twin_form form = data[0] % 3 == 0   ? NV_TWIN_FORM_REPORTED
                        : data[0] % 3 == 1 ? NV_TWIN_FORM_PATCH
                                           : NV_TWIN_FORM_REPLACE;
    nv_span rest = nv_span_of(data + 1, size - 1);
    size_t base_len = nv_span_find(rest, '\0');
    nv_twin_section base;
    nv_twin_section_init(&base);
    make_base(nv_span_first(rest, base_len), &base);
    nv_verdict verdict = {.error = NV_HUB_ERROR_NONE};
    if (nv_twin_patch_init(&patch, nv_span_skip(rest, base_len + 1), form, &verdict)) {
        const uint32_t nodes[] = {patch.tags, patch.desired, patch.reported};
        for (size_t i = 0; i < NV_COUNT_OF(nodes); i++) {
            if (nodes[i]) {
                apply(&patch, nodes[i], &base);
            }
        }
    } else {
        check(verdict.error != NV_HUB_ERROR_NONE && verdict.detail[0]);
    }
    nv_twin_patch_deinit(&patch);
    nv_twin_section_deinit(&base);
    return 0;
}
