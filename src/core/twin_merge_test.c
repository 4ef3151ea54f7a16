/* Merging, metadata and size, over text alone. */
#include "core/twin_merge.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/rng.h"
#include "codec/json.h"
#include "core/twin_json.h"

#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define S(text) nv_span_str(text)

static const nv_twin_stamp stamp_now = {.us = INT64_C(1700000000000000), .versions = true, .version = 7};
static const nv_twin_stamp stamp_old = {.us = INT64_C(1600000000000000), .versions = true, .version = 3};

static char *text_of(const nv_buf *buf)
{
    return nv_span_dup(nv_buf_span(buf));
}

static void assert_text(const nv_buf *got, const char *want)
{
    char *text = text_of(got);
    assert_string_equal(text, want);
    free(text);
}

static nv_twin_patch *patch_of(nv_span body)
{
    nv_verdict verdict = {.error = NV_HUB_ERROR_NONE};
    nv_twin_patch *patch = nv_malloc(sizeof(*patch));
    if (!nv_twin_patch_init(patch, body, NV_TWIN_FORM_REPORTED, &verdict)) {
        print_error("%.*s: %s\n", NV_SPAN_ARG(body), verdict.detail);
        fail();
    }
    return patch;
}

static void patch_free(nv_twin_patch *patch)
{
    nv_twin_patch_deinit(patch);
    free(patch);
}

/* A section as if written at once by @p stamp. */
static void write_section(nv_twin_section *section, const char *json, const nv_twin_stamp *stamp)
{
    nv_twin_patch *patch = patch_of(S(json));
    nv_twin_section_init(section);
    assert_int_equal(nv_twin_replace(patch, patch->reported, stamp, section), NV_OK);
    patch_free(patch);
}

static void merge_section(const nv_twin_section *base, const char *json, nv_twin_section *out)
{
    nv_twin_patch *patch = patch_of(S(json));
    nv_twin_section_init(out);
    nv_err err =
        nv_twin_merge(patch, patch->reported, nv_buf_span(&base->text), nv_buf_span(&base->metadata), &stamp_now, out);
    assert_int_equal(err, NV_OK);
    patch_free(patch);
}

/* ---- merging ---- */

/* conformance: semantics.md 4, 5; http-hub.md 23 */
static void patches_merge(void **state)
{
    (void)state;
    static const struct {
        const char *base;
        const char *patch;
        const char *want;
    } rows[] = {
        {"{}", "{}", "{}"},
        {"{}", "{\"a\":1}", "{\"a\":1}"},
        {"{\"a\":1}", "{}", "{\"a\":1}"},
        {"{\"a\":1}", "{\"a\":2}", "{\"a\":2}"},
        {"{\"a\":1}", "{\"b\":2}", "{\"a\":1,\"b\":2}"},
        {"{\"a\":1}", "{\"a\":null}", "{}"},
        {"{\"a\":1}", "{\"b\":null}", "{\"a\":1}"},
        {"{\"a\":1,\"b\":2,\"c\":3}", "{\"b\":null}", "{\"a\":1,\"c\":3}"},
        {"{\"a\":1,\"b\":2,\"c\":3}", "{\"a\":null}", "{\"b\":2,\"c\":3}"},
        {"{\"a\":1,\"b\":2,\"c\":3}", "{\"c\":null}", "{\"a\":1,\"b\":2}"},
        {"{\"a\":1,\"b\":2,\"c\":3}", "{\"c\":9,\"a\":8}", "{\"a\":8,\"b\":2,\"c\":9}"},
        {"{\"a\":1,\"b\":2,\"c\":3}", "{\"a\":null,\"b\":null,\"c\":null}", "{}"},
        /* objects merge, the last child leaves {} */
        {"{\"o\":{\"x\":1,\"y\":2}}", "{\"o\":{\"x\":null}}", "{\"o\":{\"y\":2}}"},
        {"{\"o\":{\"x\":1}}", "{\"o\":{\"x\":null}}", "{\"o\":{}}"},
        {"{\"o\":{\"x\":1}}", "{\"o\":{}}", "{\"o\":{\"x\":1}}"},
        {"{\"o\":{\"x\":1}}", "{\"o\":5}", "{\"o\":5}"},
        {"{\"o\":5}", "{\"o\":{\"x\":1}}", "{\"o\":{\"x\":1}}"},
        {"{\"o\":[1]}", "{\"o\":{\"x\":1}}", "{\"o\":{\"x\":1}}"},
        {"{\"o\":{\"p\":{\"q\":1,\"r\":2}},\"z\":0}", "{\"o\":{\"p\":{\"q\":3},\"n\":{\"m\":1}}}",
         "{\"o\":{\"p\":{\"q\":3,\"r\":2},\"n\":{\"m\":1}},\"z\":0}"},
        /* new objects lose their nulls */
        {"{}", "{\"o\":{\"x\":null,\"y\":1,\"z\":null}}", "{\"o\":{\"y\":1}}"},
        {"{}", "{\"o\":{\"x\":null}}", "{\"o\":{}}"},
        {"{\"o\":1}", "{\"o\":{\"p\":{\"x\":null}}}", "{\"o\":{\"p\":{}}}"},
        /* arrays replace */
        {"{\"a\":[1,2,3]}", "{\"a\":[4]}", "{\"a\":[4]}"},
        {"{\"a\":[1,{\"b\":2}],\"c\":1}", "{\"a\":[]}", "{\"a\":[],\"c\":1}"},
        {"{}", "{\"a\":[ { \"x\" : [ 1 , 2 ] } , \"]\" ]}", "{\"a\":[{\"x\":[1,2]},\"]\"]}"},
        /* numbers stay as written, white space goes */
        {"{}", " {\t\"a\" : 1.0 ,\r\n \"b\":1e3, \"c\":0.10, \"d\":-0 } ", "{\"a\":1.0,\"b\":1e3,\"c\":0.10,\"d\":-0}"},
        {"{\"a\":21.7,\"b\":1E+2}", "{\"b\":1}", "{\"a\":21.7,\"b\":1}"},
        /* strings have one form, so keys compare however they are escaped */
        {"{\"ab\":1}", "{\"a\\u0062\":2}", "{\"ab\":2}"},
        {"{\"\\u00e9\":1}", "{\"\xc3\xa9\":null}", "{}"},
        {"{}", "{\"a\":\"\\u0041\\/\\n\\u000a\\u001f\\\"\\\\\\ud83d\\ude00\"}",
         "{\"a\":\"A/\\n\\n\\u001f\\\"\\\\\xf0\x9f\x98\x80\"}"},
        {"{\"a\\\"b\":1,\"a\":2}", "{\"a\":null}", "{\"a\\\"b\":1}"},
        {"{\"a\":\"}\\\"{\",\"b\":\"\\\\\"}", "{\"b\":1}", "{\"a\":\"}\\\"{\",\"b\":1}"},
        /* of a name that comes twice the last counts */
        {"{}", "{\"a\":1,\"a\":2}", "{\"a\":2}"},
        {"{\"a\":{\"x\":1}}", "{\"a\":null,\"a\":{\"y\":2}}", "{\"a\":{\"x\":1,\"y\":2}}"},
        {"{\"a\":1}", "{\"a\":2,\"\\u0061\":null}", "{}"},
        {"{}", "{\"o\":{\"a\":1,\"b\":2,\"a\":3}}", "{\"o\":{\"b\":2,\"a\":3}}"},
        {"{}", "{\"o\":[{\"a\":1,\"a\":2}]}", "{\"o\":[{\"a\":2}]}"},
        {"{}", "{\"\":1}", "{\"\":1}"},
        {"{\"\":1,\"a\":2}", "{\"\":null}", "{\"a\":2}"},
        /* $version of a device is not its own to set */
        {"{}", "{\"$version\":5,\"a\":1}", "{\"a\":1}"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_twin_section base;
        nv_twin_section result;
        write_section(&base, rows[i].base, &stamp_old);
        merge_section(&base, rows[i].patch, &result);
        assert_text(&result.text, rows[i].want);
        nv_twin_section_deinit(&base);
        nv_twin_section_deinit(&result);
    }
}

static void what_the_device_is_told(void **state)
{
    (void)state;
    static const struct {
        const char *patch;
        const char *want;
    } rows[] = {
        {"{ \"a\" : null, \"b\":{\"c\":null, \"d\":1} }", "{\"a\":null,\"b\":{\"c\":null,\"d\":1}}"},
        {"{\"a\":1,\"b\":2,\"a\":null}", "{\"b\":2,\"a\":null}"},
        {"{\"$version\":1,\"a\":[{\"x\":1,\"x\":2}]}", "{\"a\":[{\"x\":2}]}"},
        {"{\"$version\":1}", "{}"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_buf out;
        nv_buf_init(&out, 1024);
        nv_twin_patch *patch = patch_of(S(rows[i].patch));
        assert_int_equal(nv_twin_node_write(patch, patch->reported, &out), NV_OK);
        assert_text(&out, rows[i].want);
        patch_free(patch);
        nv_buf_deinit(&out);
    }
}

static void damaged_sections_are_told(void **state)
{
    (void)state;
    static const char *const texts[] = {"",
                                        "{",
                                        "[]",
                                        "{\"a\"}",
                                        "{\"a\":",
                                        "{\"a\":1",
                                        "{\"a\":1,",
                                        "{\"a\":\"x",
                                        "{\"a\":[1}",
                                        "{\"a\":1}}",
                                        "{\"b\":{\"c\"}}",
                                        "null",
                                        "{\"a\\",
                                        "{\"a\":1}{}",
                                        "{\"b\":{\"c\":"};
    nv_twin_section out;
    nv_twin_section_init(&out);
    nv_twin_patch *patch = patch_of(S("{\"z\":1,\"b\":{\"d\":1}}"));
    for (size_t i = 0; i < NV_COUNT_OF(texts); i++) {
        char *exact = nv_span_dup(S(texts[i])); /* so that a sanitizer sees one byte too far */
        assert_int_equal(
            nv_twin_merge(patch, patch->reported, nv_span_of(exact, strlen(exact)), NV_SPAN_EMPTY, NULL, &out),
            NV_E_CORRUPT);
        free(exact);
    }
    /* metadata that does not fit the text */
    uint8_t entries[64] = {0};
    for (size_t len = 0; len < sizeof(entries); len += 8) {
        nv_err err = nv_twin_merge(patch, patch->reported, S("{\"a\":1}"), nv_span_of(entries, len), &stamp_now, &out);
        assert_int_equal(err, len == 32 ? NV_OK : NV_E_CORRUPT);
    }
    patch_free(patch);
    nv_twin_section_deinit(&out);
}

/* ---- metadata ---- */

static void assert_metadata(const nv_twin_section *section, const char *want)
{
    nv_buf out;
    nv_buf_init(&out, 4096);
    nv_json_writer w = nv_json_writer_of(&out);
    nv_twin_metadata_write(&w, nv_buf_span(&section->text), nv_buf_span(&section->metadata), true, 0);
    assert_int_equal(w.err, NV_OK);
    assert_text(&out, want);
    nv_buf_deinit(&out);
}

#define OLD "{\"$lastUpdated\":\"2020-09-13T12:26:40.0000000Z\",\"$lastUpdatedVersion\":3"
#define NEW "{\"$lastUpdated\":\"2023-11-14T22:13:20.0000000Z\",\"$lastUpdatedVersion\":7"

/* conformance: semantics.md 13 */
static void what_is_touched_is_stamped(void **state)
{
    (void)state;
    static const struct {
        const char *base;
        const char *patch;
        const char *want;
    } rows[] = {
        {"{}", "{}", NEW "}"},
        {"{\"a\":1,\"b\":2}", "{\"b\":3}", NEW ",\"a\":" OLD "},\"b\":" NEW "}}"},
        {"{\"a\":1,\"b\":2}", "{\"a\":null}", NEW ",\"b\":" OLD "}}"},
        {"{\"a\":1,\"b\":2}", "{\"c\":1}", NEW ",\"a\":" OLD "},\"b\":" OLD "},\"c\":" NEW "}}"},
        {"{\"o\":{\"x\":1,\"y\":{\"z\":1}},\"p\":1}", "{\"o\":{\"x\":2}}",
         NEW ",\"o\":" NEW ",\"x\":" NEW "},\"y\":" OLD ",\"z\":" OLD "}}},\"p\":" OLD "}}"},
        {"{\"o\":{\"x\":1,\"y\":{\"z\":1}},\"p\":1}", "{\"o\":{\"y\":{\"w\":{\"v\":1}}}}",
         NEW ",\"o\":" NEW ",\"x\":" OLD "},\"y\":" NEW ",\"z\":" OLD "},\"w\":" NEW ",\"v\":" NEW "}}}},\"p\":" OLD
             "}}"},
        {"{\"o\":{\"x\":1,\"y\":{\"z\":1}},\"p\":1}", "{\"o\":{\"y\":null}}",
         NEW ",\"o\":" NEW ",\"x\":" OLD "}},\"p\":" OLD "}}"},
        {"{\"o\":{\"x\":1,\"y\":{\"z\":1}},\"p\":1}", "{\"o\":1}", NEW ",\"o\":" NEW "},\"p\":" OLD "}}"},
        {"{\"o\":1,\"p\":1}", "{\"o\":{\"x\":1,\"y\":{\"z\":1},\"n\":null}}",
         NEW ",\"o\":" NEW ",\"x\":" NEW "},\"y\":" NEW ",\"z\":" NEW "}}},\"p\":" OLD "}}"},
        /* an array has one entry, whatever is in it */
        {"{\"a\":[{\"x\":{\"y\":1}},{\"z\":[{\"q\":2}]}],\"b\":1}", "{\"c\":[{\"x\":1}]}",
         NEW ",\"a\":" OLD "},\"b\":" OLD "},\"c\":" NEW "}}"},
        {"{\"a\":[{\"x\":{\"y\":1}}],\"b\":1}", "{\"a\":null}", NEW ",\"b\":" OLD "}}"},
        {"{\"b\":1}", "{\"a\":[{\"x\":1,\"x\":{\"y\":3}}]}", NEW ",\"b\":" OLD "},\"a\":" NEW "}}"},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        nv_twin_section base;
        nv_twin_section result;
        write_section(&base, rows[i].base, &stamp_old);
        merge_section(&base, rows[i].patch, &result);
        assert_metadata(&result, rows[i].want);
        nv_twin_section_deinit(&base);
        nv_twin_section_deinit(&result);
    }
}

/* ---- size ---- */

static void size_by_the_formula(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t want;
    } rows[] = {
        {"{}", 0},
        {"{\"a\":1}", 9},
        {"{\"abc\":\"hello\"}", 8},
        {"{\"a\":true,\"b\":false}", 10},
        {"{\"a\":[1,2,3]}", 25},
        {"{\"o\":{\"p\":{\"q\":\"\"}}}", 3},
        {"{\"\":{},\"b\":[]}", 1},
        /* characters, not bytes; controls are free, in whatever form they stand */
        {"{\"\xc3\xa9\":\"\xe2\x82\xac\xf0\x9f\x98\x80\"}", 3},
        {"{\"a\":\"x\\n\\u0001y\\\"\\\\\"}", 5},
        {"{\"a\":\"\x7f\xc2\x85\xc2\xa0\"}", 2},
        {"{\"a\":-1.5e300}", 9},
    };
    for (size_t i = 0; i < NV_COUNT_OF(rows); i++) {
        assert_int_equal(nv_twin_size(S(rows[i].text)), rows[i].want);
    }
}

static void strings_lose_their_escapes(void **state)
{
    (void)state;
    uint8_t out[16];
    assert_int_equal(nv_twin_unescape(S("\"a\\n\\u001f\\\"\\\\b\""), out, sizeof(out)), 6);
    assert_memory_equal(out, "a\n\x1f\"\\b", 6);
    assert_int_equal(nv_twin_unescape(S("\"ab\xe2\x82\xac\""), out, 4), 2); /* never half a character */
    assert_int_equal(nv_twin_unescape(S("\"\""), out, sizeof(out)), 0);
}

/* ---- against a model ---- */

static struct json_object *random_value(nv_rng *rng, int depth, bool nulls);

static struct json_object *random_object(nv_rng *rng, int depth, bool nulls)
{
    static const char *const names[] = {"a", "b", "cc", "\xc3\xa9", "q\"", "b\\", "long-name-number-one", ""};
    struct json_object *object = json_object_new_object();
    uint64_t count = nv_rng_u64(rng) % 6;
    for (uint64_t i = 0; i < count; i++) {
        const char *name = names[nv_rng_u64(rng) % NV_COUNT_OF(names)];
        json_object_object_add(object, name, random_value(rng, depth + 1, nulls));
    }
    return object;
}

static struct json_object *random_value(nv_rng *rng, int depth, bool nulls)
{
    switch (nv_rng_u64(rng) % (nulls ? 7 : 6)) {
    case 0:
        return json_object_new_int((int)(nv_rng_u64(rng) % 100));
    case 1:
        return json_object_new_string(nv_rng_u64(rng) % 2 ? "te\nxt{}[]:,\"" : "");
    case 2:
        return json_object_new_boolean(nv_rng_u64(rng) % 2 == 0);
    case 3: {
        struct json_object *array = json_object_new_array();
        for (uint64_t i = nv_rng_u64(rng) % 3; i > 0; i--) {
            json_object_array_add(array, random_value(rng, depth < 4 ? 4 : depth, false));
        }
        return depth < 5 ? array : (json_object_put(array), json_object_new_int(1));
    }
    case 6:
        return NULL;
    default:
        return depth < 5 ? random_object(rng, depth, nulls) : json_object_new_string("leaf");
    }
}

/* What of @p patch is stored where nothing was. */
static struct json_object *without_nulls(struct json_object *value)
{
    if (!json_object_is_type(value, json_type_object)) {
        return json_object_get(value);
    }
    struct json_object *copy = json_object_new_object();
    json_object_object_foreach(value, name, member)
    {
        if (member) {
            json_object_object_add(copy, name, without_nulls(member));
        }
    }
    return copy;
}

static void model_merge(struct json_object *base, struct json_object *patch)
{
    json_object_object_foreach(patch, name, member)
    {
        struct json_object *old = NULL;
        bool present = json_object_object_get_ex(base, name, &old);
        if (!member) {
            json_object_object_del(base, name);
        } else if (present && json_object_is_type(member, json_type_object) &&
                   json_object_is_type(old, json_type_object)) {
            model_merge(old, member);
        } else {
            json_object_object_add(base, name, without_nulls(member));
        }
    }
}

static size_t count_members(struct json_object *value)
{
    size_t count = 0;
    if (json_object_is_type(value, json_type_object)) {
        json_object_object_foreach(value, name, member)
        {
            (void)name;
            count += 1 + count_members(member);
        }
    }
    return count;
}

static void check_against(const nv_twin_section *section, struct json_object *model)
{
    struct json_object *tree = NULL;
    assert_int_equal(nv_json_parse(nv_buf_span(&section->text), 64, 100000, &tree), NV_OK);
    if (!json_object_equal(tree, model)) {
        print_error("have %s\nwant %s\n", json_object_to_json_string(tree), json_object_to_json_string(model));
        fail();
    }
    assert_int_equal(nv_buf_len(&section->metadata), 16 * (1 + count_members(model)));
    json_object_put(tree);
}

/* Thousands of patches on one document, compared with trees of json-c after each. */
static void random_patches_do_as_the_model(void **state)
{
    (void)state;
    const char *given = getenv("NAVE_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : nv_rng_u64(nv_rng_system());
    print_message("NAVE_SEED=%llu\n", (unsigned long long)seed);
    nv_seeded_rng seeded;
    nv_seeded_rng_init(&seeded, seed);
    struct json_object *model = json_object_new_object();
    nv_twin_section now;
    write_section(&now, "{}", &stamp_old);
    for (int i = 0; i < 5000; i++) {
        struct json_object *patch = random_object(&seeded.rng, 0, true);
        nv_twin_section next;
        int flags = i % 2 ? JSON_C_TO_STRING_PLAIN : JSON_C_TO_STRING_SPACED;
        merge_section(&now, json_object_to_json_string_ext(patch, flags), &next);
        model_merge(model, patch);
        check_against(&next, model);
        nv_twin_section_deinit(&now);
        now = next;
        json_object_put(patch);
    }
    nv_twin_section_deinit(&now);
    json_object_put(model);
}

/* Many names: found by a table, and twice the same patch changes nothing more. */
static void large_patches_merge(void **state)
{
    (void)state;
    nv_buf body;
    nv_buf_init(&body, 1u << 20);
    assert_int_equal(nv_buf_append_str(&body, "{\"k0\":\"first\""), NV_OK);
    for (int i = 0; i < 3000; i++) {
        assert_int_equal(nv_buf_printf(&body, ",\"k%d\":%d", i, i), NV_OK);
    }
    assert_int_equal(nv_buf_printf(&body, ",\"k7\":null}%c", 0), NV_OK);
    nv_twin_section base;
    nv_twin_section once;
    nv_twin_section twice;
    write_section(&base, "{\"k7\":1,\"k2999\":{\"x\":1},\"other\":1}", &stamp_old);
    merge_section(&base, (const char *)nv_buf_span(&body).ptr, &once);
    merge_section(&once, (const char *)nv_buf_span(&body).ptr, &twice);
    assert_true(nv_span_eq(nv_buf_span(&once.text), nv_buf_span(&twice.text)));
    assert_true(nv_span_starts_with(nv_buf_span(&once.text), S("{\"k2999\":2999,\"other\":1,\"k0\":0,\"k1\":1,")));
    nv_twin_section_deinit(&base);
    nv_twin_section_deinit(&once);
    nv_twin_section_deinit(&twice);
    nv_buf_deinit(&body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patches_merge),
        cmocka_unit_test(what_the_device_is_told),
        cmocka_unit_test(damaged_sections_are_told),
        cmocka_unit_test(what_is_touched_is_stamped),
        cmocka_unit_test(size_by_the_formula),
        cmocka_unit_test(strings_lose_their_escapes),
        cmocka_unit_test(random_patches_do_as_the_model),
        cmocka_unit_test(large_patches_merge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
