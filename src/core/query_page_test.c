/* Pages of queries, what they cost, and how rows are found. */
#include "base/attrs.h"
#include "base/metrics.h"
#include "codec/json.h"
#include "core/query_kept.h"
#include "support/query_rig.h"

#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static int setup(void **state)
{
    *state = real_core_new(NULL, NV_DURABILITY_OS);
    return 0;
}

static int teardown(void **state)
{
    real_core_free(*state);
    return 0;
}

/* ---- pages -------------------------------------------------------------------------------------------------- */

static void add_numbered(real_core *core, uint32_t from, uint32_t to, uint32_t step)
{
    for (uint32_t i = from; i < to; i += step) {
        char id[16];
        (void)snprintf(id, sizeof(id), "d%03u", i);
        rig_device(core, id, "");
    }
}

/* conformance: http-hub.md 28 */
static void pages_of_a_hundred(void **state)
{
    real_core *core = *state;
    add_numbered(core, 0, 250, 1);
    static const size_t sizes[] = {100, 100, 50};
    char *continuation = nv_span_dup(NV_SPAN_EMPTY);
    for (size_t i = 0; i < NV_COUNT_OF(sizes); i++) {
        rig_page page = rig_query_page(core, "SELECT * FROM devices", 100, continuation);
        struct json_object *tree = json_tokener_parse(page.rows);
        assert_int_equal(json_object_array_length(tree), sizes[i]);
        assert_int_equal(page.next[0] == '\0', i == 2);
        json_object_put(tree);
        free(continuation);
        continuation = nv_span_dup(nv_span_str(page.next));
        rig_page_free(&page);
    }
    free(continuation);
    /* exactly full: there is no page behind it, or an empty one where its slice of time ended with it */
    static const char below[] = "SELECT deviceId FROM devices WHERE deviceId < 'd100'";
    rig_page page = rig_query_page(core, below, 100, "");
    while (page.next[0] != '\0') {
        rig_page next = rig_query_page(core, below, 100, page.next);
        assert_string_equal(next.rows, "[]");
        rig_page_free(&page);
        page = next;
    }
    rig_page_free(&page);
    /* sizes: none is a hundred, too many is a thousand */
    page = rig_query_page(core, "SELECT deviceId FROM devices", 0, "");
    assert_string_not_equal(page.next, "");
    rig_page_free(&page);
    page = rig_query_page(core, "SELECT deviceId FROM devices", 5000, "");
    assert_string_equal(page.next, "");
    rig_page_free(&page);
    /* ids that begin alike, page by page */
    char *alike = rig_query(core, "SELECT deviceId FROM devices WHERE startswith(deviceId, 'd10')", 3);
    char ids[128];
    rig_ids(alike, ids, sizeof(ids));
    assert_string_equal(ids, "d100 d101 d102 d103 d104 d105 d106 d107 d108 d109");
    free(alike);
    /* TOP counts over all pages */
    char *rows = rig_query(core, "SELECT TOP 7 deviceId FROM devices WHERE deviceId > 'd100'", 3);
    char got[128];
    rig_ids(rows, got, sizeof(got));
    assert_string_equal(got, "d101 d102 d103 d104 d105 d106 d107");
    free(rows);
    rows = rig_query(core, "SELECT TOP 0 * FROM devices", 0);
    assert_string_equal(rows, "[]");
    free(rows);
    page = rig_query_page(core, "SELECT TOP 3 deviceId FROM devices", 3, "");
    assert_string_equal(page.next, "");
    rig_page_free(&page);
}

/* conformance: semantics.md 20 */
static void rows_once_while_the_fleet_changes(void **state)
{
    real_core *core = *state;
    add_numbered(core, 10, 60, 2); /* d010 d012 ... d058 */
    static char seen[1000];
    memset(seen, 0, sizeof(seen));
    char *continuation = nv_span_dup(NV_SPAN_EMPTY);
    uint32_t pages = 0;
    do {
        rig_page page = rig_query_page(core, "SELECT deviceId FROM devices", 1, continuation);
        assert_int_equal(page.error, NV_HUB_ERROR_NONE);
        uint32_t number = 0;
        assert_int_equal(sscanf(page.rows, "[{\"deviceId\":\"d%u\"}]", &number), 1);
        assert_int_equal(seen[number]++, 0);
        free(continuation);
        continuation = nv_span_dup(nv_span_str(page.next));
        rig_page_free(&page);
        pages++;
        if (pages == 5) {
            rig_delete(core, "d018", ""); /* the row the continuation stands at */
            rig_delete(core, "d030", "");
            rig_device(core, "d009", ""); /* behind: not seen any more */
            rig_device(core, "d041", "");
        }
    } while (continuation[0]);
    free(continuation);
    for (uint32_t i = 10; i < 60; i += 2) {
        assert_int_equal(seen[i], i == 30 ? 0 : 1);
    }
    assert_int_equal(seen[9], 0);
    assert_int_equal(seen[41], 1);
    assert_int_equal(pages, 25);
}

static void continuations_of_others(void **state)
{
    real_core *core = *state;
    rig_device(core, "a", "");
    rig_device(core, "b", "");
    rig_device(core, "c", "");
    rig_page page = rig_query_page(core, "SELECT deviceId FROM devices", 1, "");
    char token[500];
    assert_true(strlen(page.next) > 0 && strlen(page.next) <= NV_QUERY_TOKEN_MAX);
    (void)snprintf(token, sizeof(token), "%s", page.next);
    for (const char *c = token; *c; c++) {
        assert_true(*c > ' ' && *c < 0x7f); /* fit for a header */
    }
    rig_page_free(&page);
    page = rig_query_page(core, "SELECT deviceId  FROM devices", 1, token);
    assert_int_equal(page.error, NV_HUB_ERROR_ArgumentInvalid);
    assert_string_equal(page.detail, "The continuation token is not one of this query");
    rig_page_free(&page);
    for (size_t i = 0; token[i] && token[i] != '='; i++) {
        char damaged[500];
        memcpy(damaged, token, sizeof(damaged));
        damaged[i] = damaged[i] == 'A' ? 'Q' : 'A';
        page = rig_query_page(core, "SELECT deviceId FROM devices", 1, damaged);
        assert_int_equal(page.error, NV_HUB_ERROR_ArgumentInvalid);
        rig_page_free(&page);
    }
    page = rig_query_page(core, "SELECT deviceId FROM devices", 1, "not base64!");
    assert_int_equal(page.error, NV_HUB_ERROR_ArgumentInvalid);
    rig_page_free(&page);
    page = rig_query_page(core, "SELECT deviceId FROM devices", 1, token);
    assert_string_equal(page.rows, "[{\"deviceId\":\"b\"}]");
    rig_page_free(&page);
}

/* A page ends before it gets too long for an answer. */
static void pages_are_bounded_in_bytes(void **state)
{
    real_core *core = *state;
    static char json[33000];
    size_t len = (size_t)snprintf(json, sizeof(json), "{\"properties\":{\"desired\":{");
    for (int i = 0; i < 7; i++) {
        len += (size_t)snprintf(json + len, sizeof(json) - len, "%s\"k%d\":\"", i ? "," : "", i);
        memset(json + len, 'x', 4000);
        len += 4000;
        len += (size_t)snprintf(json + len, sizeof(json) - len, "\"");
    }
    (void)snprintf(json + len, sizeof(json) - len, "}}}");
    add_numbered(core, 0, 60, 1);
    for (uint32_t i = 0; i < 60; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "d%03u", i);
        rig_patch(core, id, "", json);
    }
    rig_page page = rig_query_page(core, "SELECT * FROM devices", 1000, "");
    assert_true(strlen(page.rows) >= NV_QUERY_PAGE_BYTES && strlen(page.rows) < NV_QUERY_PAGE_BYTES + 40000);
    assert_string_not_equal(page.next, "");
    rig_page_free(&page);
    char *rows = rig_query(core, "SELECT * FROM devices", 1000);
    struct json_object *tree = json_tokener_parse(rows);
    assert_int_equal(json_object_array_length(tree), 60);
    json_object_put(tree);
    free(rows);
}

/* ---- cost --------------------------------------------------------------------------------------------------- */

static int64_t rows_looked_at(real_core *core, const char *text)
{
    int64_t before = nv_metric_get(NV_M_QUERY_ROWS);
    free(rig_query(core, text, NV_QUERY_PAGE_MAX));
    return nv_metric_get(NV_M_QUERY_ROWS) - before;
}

/* Equality finds its rows by an index: the number of rows looked at is that of the answer. */
static void equality_uses_an_index(void **state)
{
    real_core *core = *state;
    add_numbered(core, 0, 300, 1);
    rig_device(core, "d007", "m");
    rig_patch(core, "d005", "", "{\"tags\":{\"a\":{\"b\":\"x\"},\"n\":1.50,\"f\":true}}");
    rig_patch(core, "d006", "", "{\"tags\":{\"a\":{\"b\":\"x\"},\"n\":1.5,\"f\":false}}");
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices"), 300);
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices WHERE deviceId = 'd003'"), 1);
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices WHERE deviceId IN ['d003', 'd004', 'zzz']"), 2);
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices WHERE status = 'enabled' AND deviceId = 'd003'"), 1);
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices WHERE tags.a.b = 'x'"), 2);
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices WHERE 1.5 = tags.n AND tags.f = true"), 2);
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices WHERE tags.f = true AND is_defined(tags.n)"), 1);
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices WHERE tags.a.b = 'nothing'"), 0);
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices.modules WHERE moduleId = 'm'"), 1);
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices.modules WHERE deviceId = 'd007'"), 1);
    assert_int_equal(rows_looked_at(core, "SELECT COUNT() FROM devices WHERE tags.a.b = 'x'"), 2);
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices WHERE startswith(deviceId, 'd00')"), 10);
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices WHERE startswith(deviceId, 'd007')"), 1);
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices WHERE startswith(deviceId, 'e')"), 0);
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices.modules WHERE startswith(deviceId, 'd00')"), 1);
    /* an alternative needs all rows */
    assert_int_equal(rows_looked_at(core, "SELECT * FROM devices WHERE tags.a.b = 'x' OR status = 'disabled'"), 300);
}

/* What the index finds is what looking at all rows finds, for values that are hard to have as a key. */
static void the_index_finds_what_a_scan_finds(void **state)
{
    real_core *core = *state;
    static char longs[3][300];
    for (size_t i = 0; i < NV_COUNT_OF(longs); i++) { /* alike in the first 128 bytes; one ends in the key's cut */
        memset(longs[i], 'x', 127);
        (void)snprintf(longs[i] + 127, 100, "%s", i == 0 ? "" : i == 1 ? "\xc3\xa9tail" : "\xc3\xa8tail");
    }
    const char *const values[] = {"1",     "1.0",          "1e0",        "10e-1",        "-0",    "0",        "0.1",
                                  "1e-1",  "true",         "false",      "\"true\"",     "\"1\"", "\"\"",     "\"A\"",
                                  "\"a\"", "\"a\\u0062\"", "\"a\\\"b\"", "\"\xc3\xa9\"", "[1]",   "{\"y\":1}"};
    char text[900];
    char id[16];
    for (size_t i = 0; i < NV_COUNT_OF(values) + NV_COUNT_OF(longs); i++) {
        (void)snprintf(id, sizeof(id), "d%03zu", i);
        rig_device(core, id, "");
        if (i < NV_COUNT_OF(values)) {
            (void)snprintf(text, sizeof(text), "{\"tags\":{\"x\":%s,\"deep\":{\"er\":{\"x\":%s}}}}", values[i],
                           values[i]);
        } else {
            (void)snprintf(text, sizeof(text), "{\"tags\":{\"x\":\"%s\"}}", longs[i - NV_COUNT_OF(values)]);
        }
        rig_patch(core, id, "", text);
    }
    rig_patch(core, "d000", "", "{\"tags\":{\"x\":7}}"); /* changed and removed: no longer found */
    rig_patch(core, "d001", "", "{\"tags\":{\"x\":null}}");
    const char *const constants[] = {"1",          "7",    "0",   "-0",   "0.1",    "true",   "false",
                                     "'true'",     "'1'",  "''",  "'a'",  "'ab'",   "'a\"b'", "'\\u00e9'",
                                     "'\xc3\xa9'", "null", "[1]", "'zz'", longs[0], longs[1], longs[2]};
    size_t found = 0;
    for (size_t i = 0; i < NV_COUNT_OF(constants); i++) {
        for (int deep = 0; deep < 2; deep++) {
            const char *quote = constants[i][0] == 'x' ? "'" : "";
            const char *path = deep ? "tags.deep.er.x" : "tags.x";
            (void)snprintf(text, sizeof(text), "SELECT deviceId FROM devices WHERE %s = %s%s%s", path, quote,
                           constants[i], quote);
            char *indexed = rig_query(core, text, 2);
            (void)snprintf(text, sizeof(text), "SELECT deviceId FROM devices WHERE %s = %s%s%s OR false", path, quote,
                           constants[i], quote);
            char *scanned = rig_query(core, text, 2);
            assert_string_equal(indexed, scanned);
            found += strlen(indexed) > 2 ? 1 : 0;
            free(indexed);
            free(scanned);
        }
    }
    assert_true(found > NV_COUNT_OF(constants));
}

/* ---- groups without a store --------------------------------------------------------------------------------- */

static nv_datum resolve_number(void *arg, const nv_expr_path *path)
{
    (void)path;
    return nv_datum_of_number(*(const double *)arg);
}

static void groups_are_bounded_and_paged(void **state)
{
    (void)state;
    nv_arena arena = {0};
    nv_query_tree tree;
    char detail[NV_QUERY_DETAIL_SIZE];
    assert_true(
        nv_query_parse(nv_span_str("SELECT version, COUNT() FROM devices GROUP BY version"), &arena, &tree, detail));
    double number = 0;
    nv_expr_env env = {.resolve = resolve_number, .arg = &number};
    nv_query_groups groups;
    nv_query_groups_init(&groups, &tree);
    for (uint32_t i = 0; i < NV_QUERY_GROUPS_MAX; i++) {
        number = i;
        assert_int_equal(nv_query_groups_add(&groups, &env), NV_OK);
    }
    number = NV_QUERY_GROUPS_MAX;
    assert_int_equal(nv_query_groups_add(&groups, &env), NV_E_LIMIT);
    number = 5; /* a group that is there takes more */
    assert_int_equal(nv_query_groups_add(&groups, &env), NV_OK);
    uint64_t after = 0;
    bool more = true;
    uint32_t written = 0;
    double sum = 0;
    while (more && written < 2 * NV_QUERY_GROUPS_MAX) {
        nv_buf out;
        nv_buf_init(&out, 1u << 20);
        nv_json_writer w = nv_json_writer_of(&out);
        nv_json_begin_array(&w);
        uint32_t page = nv_query_groups_write(&groups, written ? &after : NULL, 7, &w, &after, &more);
        nv_json_end_array(&w);
        struct json_object *rows = NULL;
        assert_int_equal(nv_json_parse(nv_buf_span(&out), 4, 1000, &rows), NV_OK);
        assert_int_equal(json_object_array_length(rows), page);
        for (size_t i = 0; i < page; i++) {
            sum += json_object_get_double(json_object_object_get(json_object_array_get_idx(rows, i), "version"));
        }
        json_object_put(rows);
        nv_buf_deinit(&out);
        written += page;
    }
    assert_int_equal(written, NV_QUERY_GROUPS_MAX);
    assert_true(sum == (double)NV_QUERY_GROUPS_MAX * (NV_QUERY_GROUPS_MAX - 1) / 2); /* each once */
    nv_query_groups_deinit(&groups);
    nv_arena_deinit(&arena);
}

#define BY_ID "SELECT deviceId, COUNT() AS n FROM devices GROUP BY deviceId"

/* The fleet is looked at once for all pages, which are of that moment; each page can be had again. */
static void pages_of_groups_cost_one_scan(void **state)
{
    real_core *core = *state;
    add_numbered(core, 0, 40, 1);
    char *continuation = nv_span_dup(NV_SPAN_EMPTY);
    int64_t before = nv_metric_get(NV_M_QUERY_ROWS);
    size_t rows = 0;
    size_t pages = 0;
    do {
        rig_page page = rig_query_page(core, BY_ID, 3, continuation);
        rig_page again = rig_query_page(core, BY_ID, 3, continuation);
        assert_int_equal(page.error, NV_HUB_ERROR_NONE);
        if (pages > 0) {
            assert_string_equal(page.rows, again.rows);
            assert_string_equal(page.next, again.next);
        }
        assert_null(strstr(page.rows, "d999"));
        struct json_object *tree = json_tokener_parse(page.rows);
        rows += json_object_array_length(tree);
        json_object_put(tree);
        free(continuation);
        continuation = nv_span_dup(nv_span_str(page.next));
        rig_page_free(&page);
        rig_page_free(&again);
        if (pages++ == 0) {
            assert_int_equal(nv_metric_get(NV_M_QUERY_ROWS) - before, 80); /* the first page was asked for twice */
            rig_device(core, "d999", "");
        }
    } while (continuation[0]);
    free(continuation);
    assert_int_equal(rows, 40);
    assert_int_equal(pages, 14);
    assert_int_equal(nv_metric_get(NV_M_QUERY_ROWS) - before, 80);
    char *now = rig_query(core, BY_ID, 1000); /* what begins now sees what is there now */
    assert_non_null(strstr(now, "d999"));
    free(now);
}

/* Without what was kept (a restart) the next page continues all the same. */
static void pages_of_groups_survive_a_restart(void **state)
{
    real_core *core = *state;
    add_numbered(core, 0, 10, 1);
    rig_page first = rig_query_page(core, BY_ID, 4, "");
    real_core_restart(core, NV_DURABILITY_OS);
    int64_t before = nv_metric_get(NV_M_QUERY_ROWS);
    rig_page second = rig_query_page(core, BY_ID, 4, first.next);
    rig_page third = rig_query_page(core, BY_ID, 4, second.next);
    assert_int_equal(nv_metric_get(NV_M_QUERY_ROWS) - before, 10); /* anew, and kept again */
    char ids[3][64];
    rig_ids(first.rows, ids[0], sizeof(ids[0]));
    rig_ids(second.rows, ids[1], sizeof(ids[1]));
    rig_ids(third.rows, ids[2], sizeof(ids[2]));
    for (int i = 0; i < 10; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "d%03d", i);
        int found = 0;
        for (size_t k = 0; k < NV_COUNT_OF(ids); k++) {
            found += strstr(ids[k], id) != NULL ? 1 : 0;
        }
        assert_int_equal(found, 1);
    }
    assert_string_equal(third.next, "");
    rig_page_free(&first);
    rig_page_free(&second);
    rig_page_free(&third);
}

static nv_datum resolve_text(void *arg, const nv_expr_path *path)
{
    (void)path;
    return (nv_datum){.kind = NV_DATUM_STRING, .text = *(nv_span *)arg};
}

/* The groups of an answer with one value of @p bytes. */
static nv_query_result result_of_size(size_t bytes)
{
    nv_query_result result = {0};
    char detail[NV_QUERY_DETAIL_SIZE];
    assert_true(nv_query_parse(nv_span_str("SELECT version FROM devices GROUP BY version"), &result.arena, &result.tree,
                               detail));
    nv_query_groups_init(&result.groups, &result.tree);
    uint8_t *value = calloc(1, bytes);
    nv_span text = nv_span_of(value, bytes);
    nv_expr_env env = {.resolve = resolve_text, .arg = &text};
    assert_int_equal(nv_query_groups_add(&result.groups, &env), NV_OK);
    free(value);
    return result;
}

static nv_span numbered(char text[16], size_t number)
{
    (void)snprintf(text, 16, "query %zu", number);
    return nv_span_str(text);
}

static void what_is_kept_is_bounded(void **state)
{
    (void)state;
    nv_manual_clock clock;
    nv_manual_clock_init(&clock, 0);
    nv_hub hub = {.clock = &clock.clock};
    nv_hub_loop loop = {.hub = &hub};
    nv_query_kept *kept = nv_query_kept_new(&loop);
    char text[16];
    for (size_t i = 0; i <= NV_QUERY_KEPT_COUNT; i++) { /* so many answers, the newest */
        nv_query_result result = result_of_size(10);
        nv_query_kept_put(kept, numbered(text, i), &result);
        nv_manual_clock_advance(&clock, 1);
    }
    assert_null(nv_query_kept_get(kept, numbered(text, 0)));
    assert_non_null(nv_query_kept_get(kept, numbered(text, 1)));
    for (size_t i = 20; i < 24; i++) { /* so many bytes: a value stands twice, as key and as column */
        nv_query_result result = result_of_size(NV_QUERY_KEPT_BYTES / 7);
        nv_query_kept_put(kept, numbered(text, i), &result);
    }
    assert_null(nv_query_kept_get(kept, numbered(text, NV_QUERY_KEPT_COUNT)));
    assert_null(nv_query_kept_get(kept, numbered(text, 20)));
    assert_non_null(nv_query_kept_get(kept, numbered(text, 21)));
    nv_query_result large = result_of_size(NV_QUERY_KEPT_BYTES / 2 - 100); /* never, and what there was is old now */
    nv_query_kept_put(kept, numbered(text, 23), &large);
    assert_null(nv_query_kept_get(kept, numbered(text, 23)));
    assert_non_null(nv_query_kept_get(kept, numbered(text, 22)));
    nv_manual_clock_advance(&clock, NV_QUERY_KEPT_US - 1); /* so long */
    nv_timers_run(&loop.timers, nv_mono_us(&clock.clock));
    assert_non_null(nv_query_kept_get(kept, numbered(text, 22)));
    nv_manual_clock_advance(&clock, 1);
    assert_null(nv_query_kept_get(kept, numbered(text, 22)));
    nv_timers_run(&loop.timers, nv_mono_us(&clock.clock));
    assert_true(nv_timers_due(&loop.timers) == INT64_MAX); /* nothing is left to be freed */
    nv_query_result last = result_of_size(10);
    nv_query_kept_put(kept, numbered(text, 22), &last);
    nv_query_kept_free(kept);
    nv_timers_deinit(&loop.timers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pages_of_a_hundred, setup, teardown),
        cmocka_unit_test_setup_teardown(rows_once_while_the_fleet_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(continuations_of_others, setup, teardown),
        cmocka_unit_test_setup_teardown(pages_are_bounded_in_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(equality_uses_an_index, setup, teardown),
        cmocka_unit_test_setup_teardown(the_index_finds_what_a_scan_finds, setup, teardown),
        cmocka_unit_test_setup_teardown(pages_of_groups_cost_one_scan, setup, teardown),
        cmocka_unit_test_setup_teardown(pages_of_groups_survive_a_restart, setup, teardown),
        cmocka_unit_test(groups_are_bounded_and_paged),
        cmocka_unit_test(what_is_kept_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
