/* The rules for what may stand in a twin, and the reading of what clients send. */
#include "core/twin_patch.h"

#include "base/alloc.h"
#include "base/hash.h"
#include "base/rng.h"
#include "codec/json.h"
#include "core/twin_json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Up to here siblings are compared with each other; above, names are found by a table. */
#define FEW_NODES 16u

/*
 * The text is checked as JSON and freed of white space first (nv_json_compact), so that this reader meets no syntax
 * error. It rewrites the text in place: normal form is never longer.
 */
typedef struct reader {
    nv_twin_patch *patch;
    nv_verdict *verdict;
    const uint8_t *at;
    const uint8_t *limit;
    uint8_t *to; /* never in front of at */
    const char *section;
    bool null_deletes;
    uint32_t arrays; /* open around here */
    uint32_t depth;  /* nodes on the path */
    uint32_t path[NV_TWIN_DEPTH_MAX + 2];
} reader;

/* ---- refusing ---- */

/* "properties.desired.a.b" of what is being read; long names are cut. */
static void print_path(const reader *r, char *out, size_t size)
{
    size_t len = (size_t)snprintf(out, size, "%s", r->section);
    for (uint32_t i = 0; i < r->depth && len + 1 < size; i++) {
        const nv_twin_node *node = &r->patch->nodes[r->path[i]];
        if (node->key_len < 2) {
            continue;
        }
        nv_span key = nv_twin_node_key(r->patch, node);
        key = nv_span_first(nv_span_of(key.ptr + 1, key.len - 2), 48);
        int added = snprintf(out + len, size - len, ".%.*s", NV_SPAN_ARG(key));
        len += added > 0 ? (size_t)added : 0;
    }
}

static bool refuse(const reader *r, const char *what)
{
    char path[160];
    print_path(r, path, sizeof(path));
    return nv_verdict_refuse(r->verdict, NV_HUB_ERROR_ArgumentInvalid, "%s: %s", path, what);
}

/* ---- nodes ---- */

static nv_twin_node *node_of(const reader *r, uint32_t index)
{
    return &r->patch->nodes[index];
}

static uint32_t position(const reader *r)
{
    return (uint32_t)(r->to - r->patch->text.data);
}

static uint32_t add_node(reader *r, uint32_t parent)
{
    nv_twin_patch *patch = r->patch;
    if (patch->count == patch->capacity) {
        bool few = patch->nodes == patch->_few;
        patch->capacity *= 2;
        patch->nodes = nv_realloc(few ? NULL : patch->nodes, patch->capacity * sizeof(*patch->nodes));
        if (few) {
            memcpy(patch->nodes, patch->_few, sizeof(patch->_few));
        }
    }
    patch->nodes[patch->count] = (nv_twin_node){.parent = parent};
    return patch->count++;
}

/* What is inside of a node shows outside. */
static void inherit(nv_twin_node *parent, const nv_twin_node *child)
{
    parent->gaps |= child->gaps | child->dropped;
    parent->nulls |= child->nulls | (child->kind == NV_TWIN_NULL);
}

/* ---- strings ---- */

static uint32_t hex4(const uint8_t *at)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t c = at[i];
        value = value << 4 | (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return value;
}

static void put_code_point(reader *r, uint32_t c)
{
    static const char hex[] = "0123456789abcdef";
    static const char from[] = "\b\f\n\r\t\"\\";
    static const char to[] = "bfnrt\"\\";
    const char *known = c && c < 0x80 ? strchr(from, (int)c) : NULL;
    if (known) {
        *r->to++ = '\\';
        *r->to++ = (uint8_t)to[known - from];
    } else if (c < 0x20) {
        memcpy(r->to, "\\u00", 4);
        r->to[4] = (uint8_t)hex[c >> 4];
        r->to[5] = (uint8_t)hex[c & 15];
        r->to += 6;
    } else if (c < 0x80) {
        *r->to++ = (uint8_t)c;
    } else if (c < 0x800) {
        *r->to++ = (uint8_t)(0xc0 | c >> 6);
        *r->to++ = (uint8_t)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *r->to++ = (uint8_t)(0xe0 | c >> 12);
        *r->to++ = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        *r->to++ = (uint8_t)(0x80 | (c & 0x3f));
    } else {
        *r->to++ = (uint8_t)(0xf0 | c >> 18);
        *r->to++ = (uint8_t)(0x80 | (c >> 12 & 0x3f));
        *r->to++ = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        *r->to++ = (uint8_t)(0x80 | (c & 0x3f));
    }
}

/* Behind a backslash. @return false: half of a surrogate pair, which no text can hold */
static bool read_escape(reader *r)
{
    static const char from[] = "bfnrt\"\\/";
    static const char to[] = "\b\f\n\r\t\"\\/";
    uint8_t letter = *r->at++;
    if (letter != 'u') {
        const char *known = strchr(from, letter);
        put_code_point(r, known && letter ? (uint32_t)to[known - from] : letter);
        return true;
    }
    uint32_t c = hex4(r->at);
    r->at += 4;
    if (c >= 0xd800 && c <= 0xdfff) {
        bool pair = c < 0xdc00 && r->limit - r->at >= 6 && r->at[0] == '\\' && r->at[1] == 'u';
        uint32_t low = pair ? hex4(r->at + 2) : 0;
        if (low < 0xdc00 || low > 0xdfff) {
            return refuse(r, "a string holds half of a surrogate pair");
        }
        r->at += 6;
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    put_code_point(r, c);
    return true;
}

/* Bring a string into normal form. @p bytes  of its content without escapes. @return false: refused */
static bool read_string(reader *r, nv_span *quoted, size_t *bytes)
{
    uint8_t *start = r->to;
    size_t escapes = 0; /* bytes that are there only to escape */
    *r->to++ = *r->at++;
    while (*r->at != '"') {
        if (*r->at != '\\') {
            *r->to++ = *r->at++;
            continue;
        }
        uint8_t *before = r->to;
        r->at++;
        if (!read_escape(r)) {
            return false;
        }
        escapes += *before == '\\' ? (size_t)(r->to - before) - 1 : 0;
    }
    *r->to++ = *r->at++;
    *quoted = nv_span_of(start, (size_t)(r->to - start));
    *bytes = quoted->len - 2 - escapes;
    return true;
}

/* White space of Unicode beyond ASCII and the controls. */
static bool is_wide_space(const uint8_t *at, size_t left)
{
    if (at[0] == 0xc2) {
        return left > 1 && at[1] == 0xa0;
    }
    if (left < 3) {
        return false;
    }
    uint32_t c = (uint32_t)(at[0] & 0x0f) << 12 | (uint32_t)(at[1] & 0x3f) << 6 | (at[2] & 0x3f);
    return at[0] >= 0xe1 && at[0] <= 0xe3 &&
           (c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
            c == 0x3000);
}

/* The content of a key in normal form: a control shows as an escape, or as DEL or C1. */
static const char *key_fault(nv_span content)
{
    for (size_t i = 0; i < content.len; i++) {
        const uint8_t *at = content.ptr + i;
        size_t left = content.len - i;
        if (*at == '\\' && left > 1 && at[1] != '"' && at[1] != '\\') {
            return "a name holds a control character";
        }
        if (*at == '\\') {
            i++;
        } else if (*at == 0x7f || (*at == 0xc2 && left > 1 && at[1] < 0xa0)) {
            return "a name holds a control character";
        } else if (*at == '.' || *at == '$' || *at == '#') {
            return "a name holds one of . $ #";
        } else if (*at == ' ' || (*at >= 0xc2 && *at <= 0xe3 && is_wide_space(at, left))) {
            return "a name holds white space";
        }
    }
    return NULL;
}

/* The node is on the path while it is judged, so that the sentence names it. */
static bool check_key(reader *r, uint32_t index, nv_span quoted, size_t bytes)
{
    r->path[r->depth++] = index;
    const char *fault = bytes > NV_TWIN_KEY_MAX ? "a name has at most 1024 bytes"
                                                : key_fault(nv_span_of(quoted.ptr + 1, quoted.len - 2));
    bool good = !fault || refuse(r, fault);
    r->depth--;
    return good;
}

/* ---- numbers ---- */

static bool check_integer(const reader *r, nv_span text)
{
    bool negative = text.ptr[0] == '-';
    uint64_t value;
    nv_span digits = nv_span_skip(text, negative ? 1 : 0);
    uint64_t most = negative ? (uint64_t)-NV_TWIN_INT_MIN : (uint64_t)NV_TWIN_INT_MAX;
    if (!nv_span_to_u64(digits, &value) || value > most) {
        return refuse(r, "an integer is from -4503599627370496 to 4503599627370495");
    }
    return true;
}

static bool check_number(const reader *r, nv_span text)
{
    if (text.len > NV_TWIN_NUMBER_MAX) {
        return refuse(r, "a number has at most 128 characters");
    }
    bool integer = true;
    for (size_t i = 0; i < text.len; i++) {
        integer = integer && text.ptr[i] != '.' && (text.ptr[i] | 0x20) != 'e';
    }
    if (integer) {
        return check_integer(r, text);
    }
    char copy[NV_TWIN_NUMBER_MAX + 1];
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = '\0';
    return isfinite(strtod(copy, NULL)) || refuse(r, "a number is larger than a double can be");
}

/* ---- values ---- */

static bool read_value(reader *r, uint32_t index);

static bool enter(reader *r, uint32_t index)
{
    r->path[r->depth++] = index;
    return r->depth <= NV_TWIN_DEPTH_MAX + 1 || refuse(r, "objects and arrays are nested deeper than 10 levels");
}

static void leave(reader *r, uint32_t index, uint32_t start)
{
    r->depth--;
    node_of(r, index)->text_len = position(r) - start;
}

static bool is_dropped_name(const reader *r, nv_span key)
{
    return r->depth == 1 && r->arrays == 0 &&
           (nv_span_eq_str(key, "\"$metadata\"") || nv_span_eq_str(key, "\"$version\""));
}

/* @p last  the child before, or 0; set to the new one when there is one */
static bool read_member(reader *r, uint32_t index, uint32_t *last)
{
    nv_span key;
    size_t bytes;
    uint8_t *start = r->to;
    if (!read_string(r, &key, &bytes)) {
        return false;
    }
    *r->to++ = *r->at++; /* colon */
    bool service = strcmp(r->section, "properties.reported") != 0;
    if (is_dropped_name(r, key) && (service || nv_span_eq_str(key, "\"$version\""))) {
        nv_twin_cursor skip = {r->at, r->limit};
        (void)nv_twin_take_value(&skip, NULL);
        NV_KNOWN(skip.at); /* it is JSON */
        r->at = skip.at;
        r->to = start;
        node_of(r, index)->gaps = true;
        return true;
    }
    uint32_t child = add_node(r, index);
    node_of(r, child)->key = (uint32_t)(key.ptr - r->patch->text.data);
    node_of(r, child)->key_len = (uint32_t)key.len;
    if (!check_key(r, child, key, bytes) || !read_value(r, child)) {
        return false;
    }
    *(*last ? &node_of(r, *last)->next : &node_of(r, index)->first) = child;
    *last = child;
    inherit(node_of(r, index), node_of(r, child));
    return true;
}

static bool read_object(reader *r, uint32_t index)
{
    uint32_t start = position(r);
    uint32_t last = 0;
    if (!enter(r, index)) {
        return false;
    }
    *r->to++ = *r->at++;
    while (*r->at != '}') {
        if (*r->at == ',') {
            *r->to++ = *r->at++;
        }
        if (!read_member(r, index, &last)) {
            return false;
        }
    }
    *r->to++ = *r->at++;
    leave(r, index, start);
    return true;
}

static bool read_array(reader *r, uint32_t index)
{
    uint32_t start = position(r);
    uint32_t last = 0;
    if (!enter(r, index)) {
        return false;
    }
    r->arrays++;
    *r->to++ = *r->at++;
    while (*r->at != ']') {
        if (*r->at == ',') {
            *r->to++ = *r->at++;
        }
        uint32_t child = add_node(r, index);
        if (!read_value(r, child)) {
            return false;
        }
        *(last ? &node_of(r, last)->next : &node_of(r, index)->first) = child;
        last = child;
        inherit(node_of(r, index), node_of(r, child));
    }
    *r->to++ = *r->at++;
    r->arrays--;
    leave(r, index, start);
    return true;
}

static bool read_null(reader *r)
{
    if (r->arrays) {
        return refuse(r, "null cannot stand in an array");
    }
    return r->null_deletes || refuse(r, "null deletes in a patch; in a replacement it has no place");
}

static bool read_text_value(reader *r, uint32_t index)
{
    nv_span quoted;
    size_t bytes;
    if (!read_string(r, &quoted, &bytes)) {
        return false;
    }
    node_of(r, index)->text_len = (uint32_t)quoted.len;
    return bytes <= NV_TWIN_STRING_MAX || refuse(r, "a string has at most 4096 bytes");
}

/* A number or a word. */
static bool read_plain(reader *r, uint32_t index)
{
    nv_twin_cursor c = {r->at, r->limit};
    nv_span text = nv_twin_take_value(&c, NULL);
    text = text.len ? text : nv_span_of(r->at, (size_t)(r->limit - r->at)); /* the whole text */
    r->at += text.len;
    memmove(r->to, text.ptr, text.len);
    text.ptr = r->to;
    r->to += text.len;
    nv_twin_node *node = node_of(r, index);
    node->text_len = (uint32_t)text.len;
    if (text.ptr[0] == 'n') {
        node->kind = NV_TWIN_NULL;
        return read_null(r);
    }
    return text.ptr[0] == 't' || text.ptr[0] == 'f' || check_number(r, text);
}

static bool read_scalar(reader *r, uint32_t index)
{
    r->path[r->depth++] = index;
    bool good = *r->at == '"' ? read_text_value(r, index) : read_plain(r, index);
    r->depth--;
    return good;
}

static bool read_value(reader *r, uint32_t index)
{
    nv_twin_node *node = node_of(r, index);
    node->text = position(r);
    switch (*r->at) {
    case '{':
        node->kind = NV_TWIN_OBJECT;
        return read_object(r, index);
    case '[':
        node->kind = NV_TWIN_ARRAY;
        return read_array(r, index);
    default:
        node->kind = NV_TWIN_SCALAR;
        return read_scalar(r, index);
    }
}

/* ---- names that come twice: the last counts ---- */

/* The seed goes in before the final multiplication, so that clients cannot choose collisions. */
static uint32_t slot_of(const nv_twin_patch *patch, uint32_t parent, nv_span key)
{
    uint64_t h = (nv_hash_stable(key) ^ (patch->seed + parent)) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(h >> 32) & patch->mask;
}

static bool is_member(const nv_twin_patch *patch, uint32_t index, uint32_t object, nv_span key)
{
    const nv_twin_node *node = &patch->nodes[index];
    return node->parent == object && nv_span_eq(nv_twin_node_key(patch, node), key);
}

uint32_t nv_twin_patch_member(const nv_twin_patch *patch, uint32_t object, nv_span key)
{
    if (patch->table) {
        uint32_t at = slot_of(patch, object, key);
        while (patch->table[at] && !is_member(patch, patch->table[at], object, key)) {
            at = (at + 1) & patch->mask;
        }
        return patch->table[at];
    }
    uint32_t child = patch->nodes[object].first;
    while (child && (patch->nodes[child].dropped || !is_member(patch, child, object, key))) {
        child = patch->nodes[child].next;
    }
    return child;
}

static void drop(nv_twin_patch *patch, uint32_t index)
{
    patch->nodes[index].dropped = true;
    for (uint32_t at = patch->nodes[index].parent; at && !patch->nodes[at].gaps; at = patch->nodes[at].parent) {
        patch->nodes[at].gaps = true;
    }
}

/* Nodes are numbered in the order of the text. */
static void drop_repeated_few(nv_twin_patch *patch)
{
    for (uint32_t i = patch->count - 1; i > 1; i--) {
        const nv_twin_node *node = &patch->nodes[i];
        for (uint32_t before = node->key_len ? i - 1 : 0; before > 0; before--) {
            if (is_member(patch, before, node->parent, nv_twin_node_key(patch, node))) {
                drop(patch, before);
            }
        }
    }
}

static void build_table(nv_twin_patch *patch)
{
    uint32_t size = 64;
    while (size < 2 * patch->count) {
        size *= 2;
    }
    patch->table = nv_calloc(size, sizeof(*patch->table));
    patch->mask = size - 1;
    patch->seed = nv_rng_u64(nv_rng_system()); /* of no effect on the result */
    for (uint32_t i = 1; i < patch->count; i++) {
        const nv_twin_node *node = &patch->nodes[i];
        if (!node->key_len) {
            continue;
        }
        nv_span key = nv_twin_node_key(patch, node);
        uint32_t at = slot_of(patch, node->parent, key);
        while (patch->table[at] && !is_member(patch, patch->table[at], node->parent, key)) {
            at = (at + 1) & patch->mask;
        }
        if (patch->table[at]) {
            drop(patch, patch->table[at]);
        }
        patch->table[at] = i;
    }
}

/* ---- the body ---- */

static bool read_section(reader *r, const char *section, bool may_be_null, uint32_t *out)
{
    bool is_null = *r->at == 'n';
    bool null_deletes = r->null_deletes;
    r->section = section;
    r->depth = 0;
    if (*r->at != '{' && !(is_null && may_be_null)) {
        return refuse(r, "it is an object");
    }
    *out = add_node(r, 0);
    r->null_deletes = null_deletes || is_null;
    bool good = read_value(r, *out);
    r->null_deletes = null_deletes;
    return good;
}

typedef struct known_member {
    const char *name; /* NULL ends the list */
    bool (*read)(reader *r);
} known_member;

static bool skip_member(reader *r)
{
    nv_twin_cursor c = {r->at, r->limit};
    (void)nv_twin_take_value(&c, NULL);
    NV_KNOWN(c.at); /* it is JSON */
    r->at = c.at;
    return true;
}

static const known_member *find_known(const known_member *known, nv_span quoted)
{
    nv_span name = nv_span_of(quoted.ptr + 1, quoted.len - 2);
    while (known->name && !nv_span_eq_nocase(name, nv_span_str(known->name))) {
        known++;
    }
    return known;
}

/* An object of which few members count; case does not (http-hub.md section 1), and of several the last does. */
static bool read_members(reader *r, const known_member *known)
{
    r->at++;
    while (*r->at != '}') {
        nv_span name;
        size_t bytes;
        r->at += *r->at == ',' ? 1 : 0;
        if (!read_string(r, &name, &bytes)) {
            return false;
        }
        r->at++;
        const known_member *member = find_known(known, name);
        if (!(member->name ? member->read(r) : skip_member(r))) {
            return false;
        }
    }
    r->at++;
    return true;
}

static bool read_tags(reader *r)
{
    return read_section(r, "tags", true, &r->patch->tags);
}

static bool read_desired(reader *r)
{
    return read_section(r, "properties.desired", true, &r->patch->desired);
}

static bool read_properties(reader *r)
{
    static const known_member known[] = {{"desired", read_desired}, {NULL, NULL}};
    r->patch->desired = 0;
    r->section = "properties";
    if (*r->at == 'n') {
        return skip_member(r);
    }
    return *r->at == '{' ? read_members(r, known) : refuse(r, "it is an object");
}

static bool read_twin(reader *r)
{
    static const known_member known[] = {{"tags", read_tags}, {"properties", read_properties}, {NULL, NULL}};
    return *r->at == '{' ? read_members(r, known) : refuse(r, "it is an object");
}

static bool refuse_text(nv_verdict *verdict, nv_err err)
{
    return err == NV_E_TOO_BIG
               ? nv_verdict_refuse(verdict, NV_HUB_ERROR_ArgumentInvalid,
                                   "The body is nested too deeply or holds more than %u values", NV_TWIN_VALUES_MAX)
               : nv_verdict_refuse(verdict, NV_HUB_ERROR_IotHubFormatError, "The body is not JSON");
}

bool nv_twin_patch_init(nv_twin_patch *patch, nv_span body, nv_twin_form form, nv_verdict *verdict)
{
    nv_buf_init(&patch->text, body.len);
    patch->nodes = patch->_few;
    patch->nodes[0] = (nv_twin_node){0};
    patch->count = 1;
    patch->capacity = NV_TWIN_FEW_NODES;
    patch->table = NULL;
    patch->seed = 0;
    patch->mask = patch->tags = patch->desired = patch->reported = 0;
    nv_err err = body.len > INT32_MAX ? NV_E_TOO_BIG
                                      : nv_json_compact(body, NV_JSON_MAX_DEPTH, NV_TWIN_VALUES_MAX, &patch->text);
    if (err != NV_OK) {
        return refuse_text(verdict, err);
    }
    nv_span text = nv_buf_span(&patch->text);
    NV_KNOWN(text.ptr); /* no JSON is empty */
    reader r = {.patch = patch,
                .verdict = verdict,
                .at = text.ptr,
                .limit = text.ptr + text.len,
                .to = patch->text.data,
                .section = "The body",
                .null_deletes = form != NV_TWIN_FORM_REPLACE};
    bool good = form == NV_TWIN_FORM_REPORTED ? read_section(&r, "properties.reported", false, &patch->reported)
                                              : read_twin(&r);
    if (good && patch->count > FEW_NODES) {
        build_table(patch);
    } else if (good) {
        drop_repeated_few(patch);
    }
    return good;
}

void nv_twin_patch_deinit(nv_twin_patch *patch)
{
    nv_buf_deinit(&patch->text);
    free(patch->table);
    if (patch->nodes != patch->_few) {
        free(patch->nodes);
    }
    patch->nodes = NULL;
    patch->table = NULL;
}
