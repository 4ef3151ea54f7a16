#include "core/query_row.h"

#include "base/clock.h"
#include "codec/base64.h"
#include "codec/json.h"
#include "core/twin_update.h"
#include "store/state_c2d.h"

#include <stdio.h>

#define NAMES_MAX 3u

static const char *const field_names[][NAMES_MAX] = {
#define X(id, first, second, third) [NV_FIELD_##id] = {first, second, third},
    NV_QUERY_FIELD_TABLE(X)
#undef X
};

/* ---- binding ------------------------------------------------------------------------------------------------ */

/* How many names a field has, when the path begins with them; else 0. */
static uint32_t match(const nv_expr_path *path, const char *const names[NAMES_MAX])
{
    uint32_t count = 0;
    while (count < NAMES_MAX && names[count]) {
        if (count >= path->count || !path->steps[count].name.ptr ||
            !nv_span_eq_nocase(path->steps[count].name, nv_span_str(names[count]))) {
            return 0;
        }
        count++;
    }
    return count;
}

void nv_query_bind(nv_expr_path *path)
{
    path->binding = NV_FIELD_UNKNOWN;
    path->bound_steps = 0;
    for (uint32_t field = 0; field < NV_COUNT_OF(field_names); field++) {
        uint32_t count = match(path, field_names[field]);
        if (count > path->bound_steps) {
            path->binding = field;
            path->bound_steps = count;
        }
    }
}

nv_span nv_query_path_name(const nv_expr_path *path)
{
    if (path->bound_steps == path->count) {
        return nv_span_str(field_names[path->binding][path->bound_steps - 1]);
    }
    uint32_t last = path->count - 1;
    while (last > 0 && !path->steps[last].name.ptr) { /* the element of an array is called like the array */
        last--;
    }
    if (last < path->bound_steps) {
        return nv_span_str(field_names[path->binding][path->bound_steps - 1]);
    }
    return path->steps[last].name;
}

bool nv_query_same_path(const nv_expr_path *a, const nv_expr_path *b)
{
    if (a->binding != b->binding || a->bound_steps != b->bound_steps || a->count != b->count) {
        return false;
    }
    for (uint32_t i = a->bound_steps; i < a->count; i++) {
        if (a->steps[i].index != b->steps[i].index || !a->steps[i].name.ptr != !b->steps[i].name.ptr ||
            !nv_span_eq(a->steps[i].name, b->steps[i].name)) {
            return false;
        }
    }
    return true;
}

/* ---- texts -------------------------------------------------------------------------------------------------- */

static nv_datum text_or_nothing(nv_span text)
{
    return text.len ? nv_datum_of_string(text) : NV_DATUM_OF_NOTHING;
}

static nv_datum copied(const nv_query_row *row, const char *text)
{
    return nv_datum_of_string(nv_arena_copy(row->scratch, nv_span_str(text)));
}

static nv_datum time_value(const nv_query_row *row, int64_t wall_us)
{
    char text[NV_TIME_TEXT_SIZE];
    nv_identity_time(wall_us, text);
    return copied(row, text);
}

static nv_datum etag_value(const nv_query_row *row)
{
    char text[NV_TWIN_ETAG_SIZE];
    nv_twin_etag_text(row->twin->etag, text);
    return copied(row, text);
}

/* Base64 of the decimal counter. */
static nv_datum device_etag_value(const nv_query_row *row)
{
    char decimal[24];
    int len = snprintf(decimal, sizeof(decimal), "%llu", (unsigned long long)row->identity->etag);
    char text[NV_BASE64_LEN(sizeof(decimal)) + 1] = "";
    nv_writer w = nv_writer_of(text, sizeof(text) - 1);
    nv_base64_encode(nv_span_of(decimal, (size_t)len), &w);
    return copied(row, text);
}

static nv_datum thumbprint_value(nv_span thumbprint)
{
    return thumbprint.len ? nv_datum_of_string(thumbprint) : (nv_datum){.kind = NV_DATUM_NULL};
}

uint64_t nv_query_c2d_count(nv_txn *txn, const nv_identity_row *identity)
{
    uint64_t count = 0;
    if (!txn || identity->module_id.len || nv_txn_c2d_depth(txn, identity->device_id, &count) != NV_OK) {
        return 0;
    }
    return count;
}

static nv_presence presence_of(const nv_query_row *row)
{
    return row->hub ? nv_presence_now(row->hub, row->identity->device_id, row->identity->module_id) : (nv_presence){0};
}

static nv_datum connection_value(const nv_query_row *row)
{
    return nv_datum_of_string(nv_span_str(presence_of(row).connected ? "Connected" : "Disconnected"));
}

static nv_datum activity_value(const nv_query_row *row)
{
    int64_t live_us = presence_of(row).last_activity_us;
    return time_value(row, live_us ? live_us : row->identity->last_activity_us);
}

/* ---- composed values: JSON made in the scratch memory -------------------------------------------------------- */

/* Bounded by what an identity and a twin may hold. */
#define COMPOSED_MAX ((size_t)16 << 20)

static nv_datum finish(const nv_query_row *row, nv_buf *json, nv_err err)
{
    nv_datum value = NV_DATUM_OF_NOTHING;
    if (err == NV_OK && nv_buf_len(json) > 0) {
        value = nv_datum_of_json(nv_arena_copy(row->scratch, nv_buf_span(json)), row->scratch);
    }
    nv_buf_deinit(json);
    return value;
}

static void write_member(nv_json_writer *w, const char *name, nv_datum value)
{
    nv_json_key(w, name);
    nv_datum_write(&value, w);
}

static nv_datum thumbprints_value(const nv_query_row *row)
{
    nv_buf json;
    nv_buf_init(&json, COMPOSED_MAX);
    nv_json_writer w = nv_json_writer_of(&json);
    nv_json_begin_object(&w);
    write_member(&w, "primaryThumbprint", thumbprint_value(row->identity->primary_thumbprint));
    write_member(&w, "secondaryThumbprint", thumbprint_value(row->identity->secondary_thumbprint));
    nv_json_end_object(&w);
    return finish(row, &json, w.err);
}

static nv_datum capabilities_value(const nv_query_row *row)
{
    if (row->identity->module_id.len) {
        return NV_DATUM_OF_NOTHING;
    }
    nv_span json = nv_span_str(row->identity->iot_edge ? "{\"iotEdge\":true}" : "{\"iotEdge\":false}");
    return (nv_datum){.kind = NV_DATUM_OBJECT, .text = json};
}

/* With its metadata, which walks leave out. */
static nv_twin_row full_twin(nv_query_row *row)
{
    nv_twin_row full = *row->twin;
    if (row->txn && row->twin->stored &&
        nv_txn_twin_get(row->txn, row->identity->device_id, row->identity->module_id, &full) != NV_OK) {
        full = *row->twin;
    }
    row->fetched +=
        full.tags.len + full.desired.len + full.reported.len + full.desired_metadata.len + full.reported_metadata.len;
    return full;
}

static nv_datum metadata_value(nv_query_row *row, bool desired)
{
    nv_twin_row twin = full_twin(row);
    nv_buf json;
    nv_buf_init(&json, COMPOSED_MAX);
    nv_json_writer w = nv_json_writer_of(&json);
    nv_twin_metadata_write(&w, desired ? twin.desired : twin.reported,
                           desired ? twin.desired_metadata : twin.reported_metadata, desired,
                           nv_twin_created_us(row->identity->generation));
    return finish(row, &json, w.err);
}

static void write_section(nv_json_writer *w, const nv_twin_row *twin, uint64_t generation, bool desired)
{
    nv_twin_write_section(w, desired ? "desired" : "reported", desired ? twin->desired : twin->reported,
                          desired ? twin->desired_metadata : twin->reported_metadata, desired,
                          nv_twin_created_us(generation), desired ? twin->desired_version : twin->reported_version);
}

static nv_datum properties_value(nv_query_row *row)
{
    nv_twin_row twin = full_twin(row);
    nv_buf json;
    nv_buf_init(&json, COMPOSED_MAX);
    nv_json_writer w = nv_json_writer_of(&json);
    nv_json_begin_object(&w);
    write_section(&w, &twin, row->identity->generation, true);
    write_section(&w, &twin, row->identity->generation, false);
    nv_json_end_object(&w);
    return finish(row, &json, w.err);
}

static nv_datum section_value(nv_query_row *row, bool desired)
{
    static const nv_json_step steps[] = {{.name = NV_SPAN_LIT("reported")}, {.name = NV_SPAN_LIT("desired")}};
    nv_datum properties = properties_value(row);
    return nv_datum_of_json(nv_json_find(properties.text, &steps[desired ? 1 : 0], 1), row->scratch);
}

/* ---- values ------------------------------------------------------------------------------------------------- */

static nv_datum json_or_nothing(nv_span json, nv_arena *scratch)
{
    return json.len > 2 ? nv_datum_of_json(json, scratch) : NV_DATUM_OF_NOTHING; /* {} and [] are left out */
}

/* Of the field itself. */
static nv_datum field_value(nv_query_row *row, nv_query_field field)
{
    const nv_identity_row *identity = row->identity;
    switch (field) {
    case NV_FIELD_UNKNOWN:
        break;
    case NV_FIELD_DEVICE_ID:
        return nv_datum_of_string(identity->device_id);
    case NV_FIELD_MODULE_ID:
        return text_or_nothing(identity->module_id);
    case NV_FIELD_ETAG:
        return etag_value(row);
    case NV_FIELD_DEVICE_ETAG:
        return device_etag_value(row);
    case NV_FIELD_VERSION:
        return nv_datum_of_number((double)row->twin->version);
    case NV_FIELD_STATUS:
        return nv_datum_of_string(nv_span_str(identity->enabled ? "enabled" : "disabled"));
    case NV_FIELD_STATUS_REASON:
        return text_or_nothing(identity->status_reason);
    case NV_FIELD_STATUS_UPDATE_TIME:
        return time_value(row, identity->status_updated_us);
    case NV_FIELD_CONNECTION_STATE:
        return connection_value(row);
    case NV_FIELD_LAST_ACTIVITY_TIME:
        return activity_value(row);
    case NV_FIELD_C2D_COUNT:
        return nv_datum_of_number((double)nv_query_c2d_count(row->txn, identity));
    case NV_FIELD_AUTHENTICATION_TYPE:
        return nv_datum_of_string(nv_span_str(nv_auth_kind_name((nv_auth_kind)identity->auth)));
    case NV_FIELD_THUMBPRINTS:
        return thumbprints_value(row);
    case NV_FIELD_PRIMARY_THUMBPRINT:
        return thumbprint_value(identity->primary_thumbprint);
    case NV_FIELD_SECONDARY_THUMBPRINT:
        return thumbprint_value(identity->secondary_thumbprint);
    case NV_FIELD_CAPABILITIES:
        return capabilities_value(row);
    case NV_FIELD_IOT_EDGE:
        return identity->module_id.len ? NV_DATUM_OF_NOTHING : nv_datum_of_bool(identity->iot_edge);
    case NV_FIELD_DEVICE_SCOPE:
        return text_or_nothing(identity->device_scope);
    case NV_FIELD_PARENT_SCOPES:
        return json_or_nothing(identity->parent_scopes, row->scratch);
    case NV_FIELD_MODEL_ID:
        return nv_datum_of_string(row->twin->model_id);
    case NV_FIELD_CONFIGURATIONS:
        return json_or_nothing(row->configurations, row->scratch);
    case NV_FIELD_TAGS:
        return json_or_nothing(row->twin->tags, row->scratch);
    case NV_FIELD_PROPERTIES:
        return properties_value(row);
    case NV_FIELD_DESIRED:
        return section_value(row, true);
    case NV_FIELD_REPORTED:
        return section_value(row, false);
    case NV_FIELD_DESIRED_VERSION:
        return nv_datum_of_number((double)row->twin->desired_version);
    case NV_FIELD_REPORTED_VERSION:
        return nv_datum_of_number((double)row->twin->reported_version);
    case NV_FIELD_DESIRED_METADATA:
        return metadata_value(row, true);
    case NV_FIELD_REPORTED_METADATA:
        return metadata_value(row, false);
    }
    return NV_DATUM_OF_NOTHING;
}

/* JSON in which the steps behind the field are looked for; stored text directly, without making the field's value. */
static nv_span field_json(nv_query_row *row, nv_query_field field)
{
    switch ((int)field) {
    case NV_FIELD_TAGS:
        return row->twin->tags;
    case NV_FIELD_DESIRED:
        return row->twin->desired;
    case NV_FIELD_REPORTED:
        return row->twin->reported;
    case NV_FIELD_CONFIGURATIONS:
        return row->configurations;
    case NV_FIELD_PARENT_SCOPES:
        return row->identity->parent_scopes;
    case NV_FIELD_DESIRED_METADATA:
        return metadata_value(row, true).text;
    case NV_FIELD_REPORTED_METADATA:
        return metadata_value(row, false).text;
    default:
        return NV_SPAN_EMPTY; /* nothing is inside of it */
    }
}

static nv_datum read_value(nv_query_row *row, const nv_expr_path *path)
{
    uint32_t left = path->count - path->bound_steps;
    nv_query_field field = (nv_query_field)path->binding;
    if (left == 0) {
        return field_value(row, field);
    }
    return nv_datum_of_json(nv_json_find(field_json(row, field), path->steps + path->bound_steps, left), row->scratch);
}

nv_datum nv_query_row_value(void *arg, const nv_expr_path *path)
{
    nv_query_row *row = arg;
    if (!row->_slots) {
        return read_value(row, path);
    }
    if (row->_filled[path->index] != row->_row) {
        row->_slots[path->index] = read_value(row, path);
        row->_filled[path->index] = row->_row;
    }
    return row->_slots[path->index];
}
