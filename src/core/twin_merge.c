#include "core/twin_merge.h"

#include "codec/json.h"
#include "core/twin_json.h"

/* More than any section and its metadata can take: a bound against runaway, not a rule. */
#define SECTION_BYTES_MAX (64u << 20)

void nv_twin_section_init(nv_twin_section *section)
{
    nv_buf_init(&section->text, SECTION_BYTES_MAX);
    nv_buf_init(&section->metadata, SECTION_BYTES_MAX);
}

void nv_twin_section_deinit(nv_twin_section *section)
{
    nv_buf_deinit(&section->text);
    nv_buf_deinit(&section->metadata);
}

/* ---- writing a node ---- */

typedef struct emitter {
    const nv_twin_patch *patch;
    nv_buf *text;
    nv_buf *metadata;           /* NULL: none is kept */
    const nv_twin_stamp *stamp; /* with metadata */
    bool nulls;                 /* written too */
    nv_err err;                 /* sticky */
} emitter;

static void put(emitter *e, nv_span bytes)
{
    if (e->err == NV_OK) {
        e->err = nv_buf_append(e->text, bytes);
    }
}

static void put_char(emitter *e, char c)
{
    put(e, nv_span_of(&c, 1));
}

static void put_entry(emitter *e)
{
    if (e->err == NV_OK && e->metadata) {
        e->err = nv_twin_entry_put(e->metadata, e->stamp);
    }
}

static bool shows(const emitter *e, const nv_twin_node *node)
{
    return !node->dropped && (e->nulls || node->kind != NV_TWIN_NULL);
}

/* Whether its text stands for it as it is. */
static bool is_plain(const emitter *e, const nv_twin_node *node)
{
    return !node->gaps && (e->nulls || !node->nulls);
}

/* Entries of everything below an object whose text was copied in one piece. */
static void put_entries_below(emitter *e, const nv_twin_node *object)
{
    for (uint32_t i = e->metadata ? object->first : 0; i; i = e->patch->nodes[i].next) {
        const nv_twin_node *child = &e->patch->nodes[i];
        put_entry(e);
        if (child->kind == NV_TWIN_OBJECT) {
            put_entries_below(e, child);
        }
    }
}

static void put_value(emitter *e, uint32_t index);

static void put_children(emitter *e, const nv_twin_node *node)
{
    bool object = node->kind == NV_TWIN_OBJECT;
    bool comma = false;
    put_char(e, object ? '{' : '[');
    for (uint32_t i = node->first; i; i = e->patch->nodes[i].next) {
        const nv_twin_node *child = &e->patch->nodes[i];
        if (!shows(e, child)) {
            continue;
        }
        if (comma) {
            put_char(e, ',');
        }
        comma = true;
        if (object) {
            put(e, nv_twin_node_key(e->patch, child));
            put_char(e, ':');
            put_entry(e);
        }
        put_value(e, i);
    }
    put_char(e, object ? '}' : ']');
}

/* The value, and the entries below it; its own entry is there already. */
static void put_value(emitter *e, uint32_t index)
{
    const nv_twin_node *node = &e->patch->nodes[index];
    if (is_plain(e, node)) {
        put(e, nv_twin_node_text(e->patch, node));
        if (node->kind == NV_TWIN_OBJECT) {
            put_entries_below(e, node);
        }
    } else if (node->kind == NV_TWIN_ARRAY) {
        nv_buf *metadata = e->metadata; /* an array has one entry */
        e->metadata = NULL;
        put_children(e, node);
        e->metadata = metadata;
    } else {
        put_children(e, node);
    }
}

nv_err nv_twin_node_write(const nv_twin_patch *patch, uint32_t index, nv_buf *out)
{
    emitter e = {.patch = patch, .text = out, .nulls = true};
    put_value(&e, index);
    return e.err;
}

nv_err nv_twin_replace(const nv_twin_patch *patch, uint32_t index, const nv_twin_stamp *stamp, nv_twin_section *out)
{
    emitter e = {.patch = patch, .text = &out->text, .metadata = stamp ? &out->metadata : NULL, .stamp = stamp};
    nv_buf_clear(&out->text);
    nv_buf_clear(&out->metadata);
    put_entry(&e);
    if (index && patch->nodes[index].kind == NV_TWIN_OBJECT) {
        put_value(&e, index);
    } else {
        put(&e, nv_span_str("{}"));
    }
    return e.err;
}

void nv_twin_node_metadata_write(const nv_twin_patch *patch, uint32_t index, const nv_twin_stamp *stamp,
                                 nv_json_writer *w)
{
    const nv_twin_node *node = &patch->nodes[index];
    nv_twin_stamp_begin(w, stamp);
    for (uint32_t i = node->kind == NV_TWIN_OBJECT ? node->first : 0; i; i = patch->nodes[i].next) {
        const nv_twin_node *child = &patch->nodes[i];
        if (!child->dropped && child->kind != NV_TWIN_NULL) {
            nv_twin_name_write(w, nv_twin_node_key(patch, child));
            nv_twin_node_metadata_write(patch, i, stamp, w);
        }
    }
    nv_json_end_object(w);
}

/* ---- merging ---- */

typedef struct merger {
    emitter out;
    nv_twin_patch *patch;
    nv_twin_cursor base;
    nv_span entries; /* of the base, what is not read yet */
    /* members in a row that the patch does not touch, not copied yet */
    const uint8_t *run;
    const uint8_t *run_end;
    size_t run_members;
    bool comma; /* something was written to the object at hand */
} merger;

static void skip_entries(merger *m, size_t count)
{
    size_t bytes = m->out.metadata ? count * nv_twin_entry_size(m->out.stamp->versions) : 0;
    if (bytes > m->entries.len) {
        m->out.err = NV_E_CORRUPT;
    }
    m->entries = nv_span_skip(m->entries, bytes);
}

static void copy_entries(merger *m, size_t count)
{
    size_t bytes = m->out.metadata ? count * nv_twin_entry_size(m->out.stamp->versions) : 0;
    nv_span entries = nv_span_first(m->entries, bytes);
    skip_entries(m, count);
    if (m->out.err == NV_OK && bytes) {
        m->out.err = nv_buf_append(m->out.metadata, entries);
    }
}

static void separate(merger *m)
{
    if (m->comma) {
        put_char(&m->out, ',');
    }
    m->comma = true;
}

static void end_run(merger *m)
{
    if (m->run) {
        separate(m);
        put(&m->out, nv_span_of(m->run, (size_t)(m->run_end - m->run)));
        copy_entries(m, m->run_members);
        m->run = NULL;
        m->run_members = 0;
    }
}

/* A member that the patch does not name; @p start  of its name. */
static void keep_member(merger *m, const uint8_t *start)
{
    size_t below = 0;
    (void)nv_twin_take_value(&m->base, &below);
    m->run = m->run ? m->run : start;
    m->run_end = m->base.at;
    m->run_members += 1 + below;
}

static void put_member(merger *m, uint32_t index)
{
    separate(m);
    put(&m->out, nv_twin_node_key(m->patch, &m->patch->nodes[index]));
    put_char(&m->out, ':');
    put_entry(&m->out);
}

static void merge_object(merger *m, uint32_t index);

static void change_member(merger *m, uint32_t index)
{
    nv_twin_node *node = &m->patch->nodes[index];
    node->seen = true;
    end_run(m);
    if (node->kind == NV_TWIN_OBJECT && nv_twin_peek(&m->base) == '{') {
        put_member(m, index);
        skip_entries(m, 1);
        merge_object(m, index);
        m->comma = true;
        return;
    }
    size_t below = 0;
    (void)nv_twin_take_value(&m->base, &below);
    skip_entries(m, 1 + below);
    if (node->kind != NV_TWIN_NULL) {
        put_member(m, index);
        put_value(&m->out, index);
    }
}

/* The base stands at the object; its own entry is dealt with. */
static void merge_object(merger *m, uint32_t index)
{
    nv_span key;
    m->comma = false;
    put_char(&m->out, '{');
    (void)nv_twin_take(&m->base, '{');
    for (const uint8_t *start = m->base.at; m->out.err == NV_OK && nv_twin_next_member(&m->base, &key);
         start = m->base.at) {
        uint32_t named = nv_twin_patch_member(m->patch, index, key);
        if (named) {
            change_member(m, named);
        } else {
            keep_member(m, nv_twin_peek(&(nv_twin_cursor){start, m->base.limit}) == ',' ? start + 1 : start);
        }
        if (!m->base.at) {
            break;
        }
    }
    if (!m->base.at) {
        m->out.err = NV_E_CORRUPT;
        return;
    }
    end_run(m);
    for (uint32_t i = m->patch->nodes[index].first; i; i = m->patch->nodes[i].next) {
        const nv_twin_node *node = &m->patch->nodes[i];
        if (!node->seen && shows(&m->out, node)) {
            put_member(m, i);
            put_value(&m->out, i);
        }
    }
    put_char(&m->out, '}');
}

nv_err nv_twin_merge(nv_twin_patch *patch, uint32_t index, nv_span text, nv_span metadata, const nv_twin_stamp *stamp,
                     nv_twin_section *out)
{
    nv_buf_clear(&out->text);
    nv_buf_clear(&out->metadata);
    for (uint32_t i = 0; i < patch->count; i++) {
        patch->nodes[i].seen = false;
    }
    merger m = {.out = {.patch = patch, .text = &out->text, .metadata = stamp ? &out->metadata : NULL, .stamp = stamp},
                .patch = patch,
                .base = nv_twin_cursor_of(text),
                .entries = metadata};
    put_entry(&m.out);
    skip_entries(&m, metadata.len ? 1 : 0);
    merge_object(&m, index);
    bool whole = m.base.at == m.base.limit && m.entries.len == 0;
    return m.out.err != NV_OK ? m.out.err : whole ? NV_OK : NV_E_CORRUPT;
}
