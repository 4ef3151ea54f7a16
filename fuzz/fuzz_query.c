/**
 * Query texts: parsed, planned, evaluated against sample rows and written as an answer, which is JSON. A text that is
 * refused says where.
 */
#include "codec/json.h"
#include "core/query_groups.h"
#include "core/query_plan.h"
#include "core/query_row.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) {
        abort();
    }
}

static const struct {
    const char *device;
    const char *module;
    const char *scopes;
    const char *tags;
    const char *desired;
    const char *reported;
} samples[] = {
    {"d1", "", "", "{}", "{}", "{}"},
    {"a", "m", "[\"ms-azure-iot-edge://e-1\",2,[3]]", "{\"a\":{\"b\":[1,\"x\",{\"c\":null}]},\"x\":1.50}",
     "{\"t\":21.70,\"s\":\"a\\\"b\\u00e9\"}",
     "{\"n\":-3e2,\"big\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\",\"ok\":"
     "true}"},
};

static void run(const nv_query_tree *tree, nv_buf *out)
{
    nv_arena scratch = {0};
    nv_query_row row = {.scratch = &scratch, .configurations = nv_span_str("{\"c-1\":{\"status\":\"Applied\"}}")};
    nv_expr_env env = {nv_query_row_value, &row, &scratch};
    nv_query_groups groups;
    nv_json_writer w = nv_json_writer_of(out);
    nv_query_groups_init(&groups, tree);
    nv_json_begin_array(&w);
    for (size_t i = 0; i < NV_COUNT_OF(samples); i++) {
        nv_identity_row identity = {.device_id = nv_span_str(samples[i].device),
                                    .module_id = nv_span_str(samples[i].module),
                                    .generation = UINT64_C(638000000000000000) + i,
                                    .parent_scopes = nv_span_str(samples[i].scopes)};
        nv_twin_row twin = nv_twin_row_initial(identity.generation);
        twin.tags = nv_span_str(samples[i].tags);
        twin.desired = nv_span_str(samples[i].desired);
        twin.reported = nv_span_str(samples[i].reported);
        row.identity = &identity;
        row.twin = &twin;
        nv_arena_reset(&scratch);
        bool selected = !tree->where || nv_expr_selects(tree->where, &env);
        if (selected && tree->grouped) {
            check(nv_query_groups_add(&groups, &env) == NV_OK);
        } else if (selected && !tree->all) {
            nv_query_columns_write(tree, &env, &w);
        }
    }
    uint64_t last;
    bool more;
    if (tree->grouped) {
        (void)nv_query_groups_write(&groups, NULL, 100, &w, &last, &more);
    }
    nv_json_end_array(&w);
    check(w.err == NV_OK);
    nv_query_groups_deinit(&groups);
    nv_arena_deinit(&scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 8192) {
        return 0;
    }
    nv_arena arena = {0};
    nv_query_tree tree;
    char detail[NV_QUERY_DETAIL_SIZE] = "";
    if (nv_query_parse(nv_span_of(data, size), &arena, &tree, detail)) {
        nv_query_plan plan;
        nv_query_plan_make(&plan, &tree, &arena);
        nv_buf out;
        nv_buf_init(&out, 64u << 20);
        run(&tree, &out);
        check(nv_json_check(nv_buf_span(&out), NV_JSON_MAX_DEPTH, UINT32_MAX) == NV_OK);
        nv_buf_deinit(&out);
    } else {
        check(nv_span_starts_with(nv_span_str(detail), nv_span_str("The query is invalid: ")));
        check(strstr(detail, ", line ") != NULL);
    }
    nv_arena_deinit(&arena);
    return 0;
}
