#include "session/http_digital_twin.h"

#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define OPERATIONS_MAX 1000u
#define NAME_MAX_BYTES 1024u

static struct json_object *member(struct json_object *object, const char *name)
{
    struct json_object *value = NULL;
    bool there =
        json_object_is_type(object, json_type_object) && json_object_object_get_ex(object, name, &value) && value;
    return there ? value : NULL;
}

static bool text_is(struct json_object *value, const char *text)
{
    nv_span span;
    return nv_json_as_string(value, &span) && nv_span_eq_str(span, text);
}

static bool is_component(struct json_object *value)
{
    return text_is(member(value, "__t"), "c");
}

/** $metadata, $version and the marker of a component are not properties. */
static bool is_reserved(const char *name)
{
    return name[0] == '$' || strcmp(name, "__t") == 0;
}

/* ---- the view ------------------------------------------------------------------------------------------------ */

/** The same place in both sections of a twin. */
typedef struct place {
    struct json_object *desired;
    struct json_object *reported;
    struct json_object *desired_metadata;
    struct json_object *reported_metadata;
} place;

static place below(const place *at, const char *name)
{
    return (place){member(at->desired, name), member(at->reported, name), member(at->desired_metadata, name),
                   member(at->reported_metadata, name)};
}

static void write_value(nv_json_writer *w, struct json_object *value)
{
    nv_json_raw(
        w, nv_span_str(json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)));
}

static void write_if(nv_json_writer *w, const char *name, struct json_object *value)
{
    if (value) {
        nv_json_key(w, name);
        write_value(w, value);
    }
}

/** `{"value":v,"ac":200,"av":3,"ad":"text"}`: a device's answer to a desired property. */
static bool is_acknowledgement(struct json_object *reported)
{
    return member(reported, "ac") && member(reported, "av") && json_object_object_get_ex(reported, "value", NULL);
}

static void write_property_metadata(nv_json_writer *w, const place *p)
{
    nv_json_begin_object(w);
    if (p->desired) {
        write_if(w, "desiredValue", p->desired);
        write_if(w, "desiredVersion", member(p->desired_metadata, "$lastUpdatedVersion"));
    }
    if (is_acknowledgement(p->reported)) {
        write_if(w, "ackVersion", member(p->reported, "av"));
        write_if(w, "ackCode", member(p->reported, "ac"));
        write_if(w, "ackDescription", member(p->reported, "ad"));
    }
    write_if(w, "lastUpdateTime", member(p->reported ? p->reported_metadata : p->desired_metadata, "$lastUpdated"));
    nv_json_end_object(w);
}

typedef void (*write_child)(nv_json_writer *w, const char *name, const place *p);

/** Reported ones first, then those that are only desired. */
static void each_child(nv_json_writer *w, const place *at, write_child write)
{
    if (json_object_is_type(at->reported, json_type_object)) {
        json_object_object_foreach(at->reported, name, value)
        {
            place p = below(at, name);
            if (value && !is_reserved(name)) {
                write(w, name, &p);
            }
        }
    }
    if (json_object_is_type(at->desired, json_type_object)) {
        json_object_object_foreach(at->desired, name, value)
        {
            place p = below(at, name);
            if (value && !is_reserved(name) && !p.reported) {
                write(w, name, &p);
            }
        }
    }
}

static void write_metadata_of_property(nv_json_writer *w, const char *name, const place *p)
{
    nv_json_key(w, name);
    write_property_metadata(w, p);
}

static void write_property(nv_json_writer *w, const char *name, const place *p)
{
    if (p->reported) {
        nv_json_key(w, name);
        write_value(w, is_acknowledgement(p->reported) ? member(p->reported, "value") : p->reported);
    }
}

static void write_component(nv_json_writer *w, const char *name, const place *p)
{
    nv_json_key(w, name);
    nv_json_begin_object(w);
    nv_json_key(w, "$metadata");
    nv_json_begin_object(w);
    each_child(w, p, write_metadata_of_property);
    nv_json_end_object(w);
    each_child(w, p, write_property);
    nv_json_end_object(w);
}

static bool holds_component(const place *p)
{
    return is_component(p->reported) || is_component(p->desired);
}

static void write_root_metadata(nv_json_writer *w, const char *name, const place *p)
{
    if (!holds_component(p)) {
        write_metadata_of_property(w, name, p);
    }
}

static void write_root(nv_json_writer *w, const char *name, const place *p)
{
    if (holds_component(p)) {
        write_component(w, name, p);
    } else {
        write_property(w, name, p);
    }
}

void nv_digital_twin_write(nv_json_writer *w, struct json_object *twin)
{
    struct json_object *properties = member(twin, "properties");
    place root = {.desired = member(properties, "desired"), .reported = member(properties, "reported")};
    root.desired_metadata = member(root.desired, "$metadata");
    root.reported_metadata = member(root.reported, "$metadata");
    struct json_object *model = member(twin, "modelId");
    nv_json_begin_object(w);
    write_if(w, "$dtId", member(twin, "deviceId"));
    nv_json_key(w, "$metadata");
    nv_json_begin_object(w);
    nv_json_key(w, "$model");
    nv_json_str(w, model ? json_object_get_string(model) : "");
    each_child(w, &root, write_root_metadata);
    nv_json_end_object(w);
    each_child(w, &root, write_root);
    nv_json_end_object(w);
}

/* ---- the patch ----------------------------------------------------------------------------------------------- */

/** A path of one or two names. */
typedef struct target {
    char first[NAME_MAX_BYTES + 1];
    char second[NAME_MAX_BYTES + 1]; /* "" with !nested */
    bool nested;
} target;

/** One document being patched. */
typedef struct patching {
    struct json_object *before;   /* desired properties as they are */
    struct json_object *reported; /* borrowed */
    struct json_object *now;      /* ... as the operations make them */
    struct json_object *merge;    /* the merge patch that leads from one to the other; members may be null */
    char *detail;
    size_t at; /* number of the operation, from 1 */
} patching;

static bool refuse(const patching *p, const char *fmt, ...) NV_PRINTF(2, 3);
static bool refuse(const patching *p, const char *fmt, ...)
{
    char text[160];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    (void)snprintf(p->detail, 200, "Operation %zu of the patch: %s", p->at, text);
    return false;
}

/** One name of a JSON Pointer, up to the next slash: ~1 is a slash, ~0 a tilde (RFC 6901). @return false: none such */
static bool take_name(nv_span *rest, char out[NAME_MAX_BYTES + 1])
{
    size_t len = 0;
    *rest = nv_span_skip(*rest, 1); /* the slash */
    while (rest->len > 0 && rest->ptr[0] != '/') {
        uint8_t c = rest->ptr[0];
        *rest = nv_span_skip(*rest, 1);
        if (c == '~') {
            if (rest->len == 0 || (rest->ptr[0] != '0' && rest->ptr[0] != '1')) {
                return false;
            }
            c = rest->ptr[0] == '0' ? '~' : '/';
            *rest = nv_span_skip(*rest, 1);
        }
        if (len == NAME_MAX_BYTES || c == '\0') {
            return false;
        }
        out[len++] = (char)c;
    }
    out[len] = '\0';
    return len > 0;
}

static bool read_path(const patching *p, struct json_object *operation, target *out)
{
    nv_span rest;
    if (!nv_json_as_string(nv_json_member(operation, "path"), &rest) || rest.len == 0 || rest.ptr[0] != '/') {
        return refuse(p, "path is \"/\" and a property or component");
    }
    if (!take_name(&rest, out->first)) {
        return refuse(p, "path is not a JSON Pointer");
    }
    out->second[0] = '\0';
    out->nested = rest.len > 0;
    if (out->nested && (!take_name(&rest, out->second) || rest.len > 0)) {
        return refuse(p, "path names a property, a component or a property of a component, nothing deeper");
    }
    if (is_reserved(out->first) || (out->nested && is_reserved(out->second))) {
        return refuse(p, "\"%.100s\" cannot be written", out->nested ? out->second : out->first);
    }
    return true;
}

/** The member, made an object when it is none. Borrowed. */
static struct json_object *object_in(struct json_object *parent, const char *name)
{
    struct json_object *child = member(parent, name);
    if (!json_object_is_type(child, json_type_object)) {
        child = json_object_new_object();
        json_object_object_add(parent, name, child);
    }
    return child;
}

/** A copy, or NULL. The caller's. */
static struct json_object *copy_of(struct json_object *value)
{
    struct json_object *copy = NULL;
    return value && json_object_deep_copy(value, &copy, NULL) == 0 ? copy : NULL;
}

/**
 * What merged into @p before gives exactly @p after: members that are no longer there become null. The caller's. The
 * depth is that of the parsed documents, which is bounded.
 */
static struct json_object *replacement(struct json_object *before, struct json_object *after)
{
    if (!json_object_is_type(before, json_type_object) || !json_object_is_type(after, json_type_object)) {
        return copy_of(after);
    }
    struct json_object *patch = json_object_new_object();
    json_object_object_foreach(before, gone, old)
    {
        (void)old;
        if (!is_reserved(gone) && !member(after, gone)) {
            json_object_object_add(patch, gone, NULL);
        }
    }
    json_object_object_foreach(after, name, value)
    {
        json_object_object_add(patch, name, replacement(member(before, name), value));
    }
    return patch;
}

/** A component is written with "$metadata":{} in it, or is one already. */
static bool means_component(const patching *p, const char *name, struct json_object *value)
{
    return json_object_object_get_ex(value, "$metadata", NULL) || is_component(member(p->before, name)) ||
           is_component(member(p->reported, name));
}

/** What the value becomes under desired. The caller's; NULL: it cannot be written. */
static struct json_object *stored_value(const patching *p, const target *t, struct json_object *value)
{
    struct json_object *copy = copy_of(value);
    if (!t->nested && json_object_is_type(copy, json_type_object) && means_component(p, t->first, value)) {
        json_object_object_del(copy, "$metadata");
        json_object_object_add(copy, "__t", json_object_new_string("c"));
    }
    return copy;
}

static void set_now(patching *p, const target *t, struct json_object *value)
{
    struct json_object *parent = t->nested ? object_in(p->now, t->first) : p->now;
    if (value) {
        json_object_object_add(parent, t->nested ? t->second : t->first, value);
    } else {
        json_object_object_del(parent, t->nested ? t->second : t->first);
    }
}

/** Is @p name an object property of the root, as opposed to a component? Without a model only the twin can tell. */
static bool is_plain_object(const patching *p, const char *name)
{
    struct json_object *desired = member(p->now, name);
    struct json_object *reported = member(p->reported, name);
    return !is_component(desired) && !is_component(reported) && (desired || reported);
}

/** Put into the merge patch what leads to the target's new value. */
static void set_merge(patching *p, const target *t)
{
    struct json_object *before = member(p->before, t->first);
    struct json_object *now = member(p->now, t->first);
    bool emptied = json_object_object_get_ex(p->merge, t->first, NULL) && !member(p->merge, t->first);
    if (!t->nested || emptied || !json_object_is_type(before, json_type_object)) {
        json_object_object_add(p->merge, t->first, replacement(before, now));
        return;
    }
    struct json_object *component = object_in(p->merge, t->first);
    if (is_component(now)) {
        json_object_object_add(component, "__t", json_object_new_string("c"));
    }
    json_object_object_add(component, t->second, replacement(member(before, t->second), member(now, t->second)));
}

static bool apply_value(patching *p, const target *t, struct json_object *value)
{
    if (!value) {
        return refuse(p, "a property has no null; use \"remove\"");
    }
    if (t->nested && is_plain_object(p, t->first) && !json_object_is_type(member(p->now, t->first), json_type_object)) {
        return refuse(p, "\"%.100s\" is a property without members", t->first);
    }
    bool plain = t->nested && is_plain_object(p, t->first);
    set_now(p, t, stored_value(p, t, value));
    if (t->nested && !plain) {
        json_object_object_add(object_in(p->now, t->first), "__t", json_object_new_string("c"));
    }
    return true;
}

static bool apply_removal(patching *p, const target *t)
{
    struct json_object *desired = member(p->now, t->first);
    struct json_object *reported = member(p->reported, t->first);
    bool there = t->nested ? member(desired, t->second) || member(reported, t->second) : desired || reported;
    if (!there) {
        return refuse(p, "there is nothing to remove at \"/%.60s%s%.60s\"", t->first, t->nested ? "/" : "", t->second);
    }
    if (!t->nested || json_object_is_type(desired, json_type_object)) {
        set_now(p, t, NULL);
    }
    return true;
}

static bool apply(patching *p, struct json_object *operation)
{
    static const char *const others[] = {"test", "move", "copy"};
    target t;
    nv_span op = NV_SPAN_EMPTY;
    struct json_object *value = NULL;
    if (!json_object_is_type(operation, json_type_object) || !nv_json_as_string(nv_json_member(operation, "op"), &op)) {
        return refuse(p, "it is an object with op, path and value");
    }
    for (size_t i = 0; i < NV_COUNT_OF(others); i++) {
        if (nv_span_eq_str(op, others[i])) {
            return refuse(p, "\"%s\" is not supported; use add, replace and remove", others[i]);
        }
    }
    bool remove = nv_span_eq_str(op, "remove");
    if (!remove && !nv_span_eq_str(op, "add") && !nv_span_eq_str(op, "replace")) {
        return refuse(p, "op is add, replace or remove");
    }
    if (!read_path(p, operation, &t)) {
        return false;
    }
    if (!remove && !json_object_object_get_ex(operation, "value", &value)) {
        return refuse(p, "value is missing");
    }
    if (remove ? !apply_removal(p, &t) : !apply_value(p, &t, value)) {
        return false;
    }
    set_merge(p, &t);
    return true;
}

struct json_object *nv_digital_twin_patch(struct json_object *patch, struct json_object *twin, char detail[200])
{
    size_t count = json_object_is_type(patch, json_type_array) ? json_object_array_length(patch) : 0;
    if (count == 0 || count > OPERATIONS_MAX) {
        (void)snprintf(detail, 200, "The request body is a JSON Patch: an array of 1 to %u operations", OPERATIONS_MAX);
        return NULL;
    }
    struct json_object *properties = member(twin, "properties");
    patching p = {.before = member(properties, "desired"),
                  .reported = member(properties, "reported"),
                  .merge = json_object_new_object(),
                  .detail = detail};
    p.now = copy_of(p.before);
    p.now = p.now ? p.now : json_object_new_object();
    bool good = true;
    for (size_t i = 0; good && i < count; i++) {
        p.at = i + 1;
        good = apply(&p, json_object_array_get_idx(patch, i));
    }
    json_object_put(p.now);
    if (!good) {
        json_object_put(p.merge);
        return NULL;
    }
    struct json_object *out = json_object_new_object();
    struct json_object *section = json_object_new_object();
    json_object_object_add(section, "desired", p.merge);
    json_object_object_add(out, "properties", section);
    return out;
}
