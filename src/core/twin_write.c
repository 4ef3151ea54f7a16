/* Twins as documents. */
#include "core/twin_update.h"

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "codec/base64.h"
#include "codec/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- snapshots ---- */

nv_twin *nv_twin_new(const nv_identity_row *identity, const nv_twin_row *row)
{
    nv_identity *snapshot = nv_rules_snapshot(identity);
    if (!snapshot) {
        return NULL;
    }
    const nv_span from[] = {row->model_id,         row->tags, row->desired, row->reported, row->desired_metadata,
                            row->reported_metadata};
    size_t size = sizeof(nv_twin);
    for (size_t i = 0; i < NV_COUNT_OF(from); i++) {
        size += from[i].len;
    }
    nv_twin *twin = nv_malloc(size);
    *twin = (nv_twin){.identity = snapshot,
                      .etag = row->etag,
                      .version = row->version,
                      .desired_version = row->desired_version,
                      .reported_version = row->reported_version};
    atomic_init(&twin->_refs, 1);
    nv_span *const to[] = {&twin->model_id,         &twin->tags,
                           &twin->desired,          &twin->reported,
                           &twin->desired_metadata, &twin->reported_metadata};
    uint8_t *at = (uint8_t *)(twin + 1);
    for (size_t i = 0; i < NV_COUNT_OF(from); i++) {
        if (from[i].len) {
            memcpy(at, from[i].ptr, from[i].len);
        }
        *to[i] = nv_span_of(at, from[i].len);
        at += from[i].len;
    }
    return twin;
}

void nv_twin_ref(nv_twin *twin)
{
    atomic_fetch_add_explicit(&twin->_refs, 1, memory_order_relaxed);
}

void nv_twin_unref(nv_twin *twin)
{
    if (twin && atomic_fetch_sub_explicit(&twin->_refs, 1, memory_order_acq_rel) == 1) {
        nv_identity_unref(twin->identity);
        free(twin);
    }
}

/* ---- entity tags ---- */

void nv_twin_etag_text(uint64_t etag, char out[NV_TWIN_ETAG_SIZE])
{
    uint8_t bytes[8];
    nv_store_u64_be(bytes, etag);
    nv_writer w = nv_writer_of(out, NV_TWIN_ETAG_SIZE - 1);
    nv_base64_encode(nv_span_of(bytes, sizeof(bytes)), &w);
    out[NV_TWIN_ETAG_SIZE - 1] = '\0';
}

bool nv_twin_etag_parse(nv_span text, uint64_t *etag)
{
    uint8_t bytes[8];
    size_t len = 0;
    if (text.len != NV_TWIN_ETAG_SIZE - 1 || nv_base64_decode(text, bytes, sizeof(bytes), &len) != NV_OK ||
        len != sizeof(bytes)) {
        return false;
    }
    *etag = nv_load_u64_be(bytes);
    return true;
}

/* ---- sections ---- */

void nv_twin_open_object(nv_json_writer *w, nv_span text)
{
    nv_json_raw(w, text.len ? nv_span_first(text, text.len - 1) : nv_span_str("{"));
    w->comma = text.len > 2;
}

void nv_twin_write_section(nv_json_writer *w, const char *name, nv_span text, nv_span metadata, bool versions,
                           int64_t created_us, uint64_t version)
{
    nv_json_key(w, name);
    nv_twin_open_object(w, text);
    nv_json_key(w, "$metadata");
    nv_twin_metadata_write(w, text, metadata, versions, created_us);
    nv_json_key(w, "$version");
    nv_json_uint(w, version);
    nv_json_end_object(w);
}

static void write_device_section(nv_json_writer *w, const char *name, nv_span text, uint64_t version)
{
    nv_json_key(w, name);
    nv_twin_open_object(w, text);
    nv_json_key(w, "$version");
    nv_json_uint(w, version);
    nv_json_end_object(w);
}

void nv_twin_write_device(const nv_twin *twin, nv_json_writer *w)
{
    nv_json_begin_object(w);
    write_device_section(w, "desired", twin->desired, twin->desired_version);
    write_device_section(w, "reported", twin->reported, twin->reported_version);
    nv_json_end_object(w);
}

/* ---- the whole ---- */

static void write_string(nv_json_writer *w, const char *name, nv_span text)
{
    nv_json_key(w, name);
    nv_json_string(w, text);
}

static void write_if_set(nv_json_writer *w, const char *name, nv_span text)
{
    if (text.len) {
        write_string(w, name, text);
    }
}

static void write_time(nv_json_writer *w, const char *name, int64_t wall_us)
{
    char text[NV_TIME_TEXT_SIZE];
    nv_identity_time(wall_us, text);
    nv_json_key(w, name);
    nv_json_str(w, text);
}

static void write_thumbprint(nv_json_writer *w, const char *name, nv_span text)
{
    nv_json_key(w, name);
    nv_json_string_or_null(w, text);
}

static void write_identity(nv_json_writer *w, const nv_twin *twin)
{
    const nv_identity *identity = twin->identity;
    int64_t active_us = twin->presence.last_activity_us;
    char decimal[24];
    int len = snprintf(decimal, sizeof(decimal), "%" PRIu64, identity->etag);
    nv_json_key(w, "deviceEtag");
    nv_json_base64(w, nv_span_of(decimal, (size_t)len));
    nv_json_key(w, "status");
    nv_json_str(w, identity->enabled ? "enabled" : "disabled");
    write_if_set(w, "statusReason", identity->status_reason);
    write_time(w, "statusUpdateTime", identity->status_updated_us);
    nv_json_key(w, "connectionState");
    nv_json_str(w, twin->presence.connected ? "Connected" : "Disconnected");
    write_time(w, "lastActivityTime", active_us > identity->last_activity_us ? active_us : identity->last_activity_us);
    nv_json_key(w, "cloudToDeviceMessageCount");
    nv_json_uint(w, twin->c2d_count);
    nv_json_key(w, "authenticationType");
    nv_json_str(w, nv_auth_kind_name(identity->auth));
    nv_json_key(w, "x509Thumbprint");
    nv_json_begin_object(w);
    write_thumbprint(w, "primaryThumbprint", identity->primary_thumbprint);
    write_thumbprint(w, "secondaryThumbprint", identity->secondary_thumbprint);
    nv_json_end_object(w);
}

static void write_device_tail(nv_json_writer *w, const nv_identity *identity)
{
    nv_json_key(w, "capabilities");
    nv_json_begin_object(w);
    nv_json_key(w, "iotEdge");
    nv_json_bool(w, identity->iot_edge);
    nv_json_end_object(w);
    write_if_set(w, "deviceScope", identity->device_scope);
    if (identity->parent_scopes.len) {
        nv_json_key(w, "parentScopes");
        nv_json_raw(w, identity->parent_scopes);
    }
}

static void write_ids(nv_json_writer *w, nv_span device_id, nv_span module_id, uint64_t etag)
{
    char text[NV_TWIN_ETAG_SIZE];
    nv_twin_etag_text(etag, text);
    write_string(w, "deviceId", device_id);
    write_if_set(w, "moduleId", module_id);
    nv_json_key(w, "etag");
    nv_json_str(w, text);
}

static void write_version(nv_json_writer *w, uint64_t version)
{
    nv_json_key(w, "version");
    nv_json_uint(w, version);
}

static void write_tags(nv_json_writer *w, nv_span tags)
{
    if (tags.len > 2) {
        nv_json_key(w, "tags");
        nv_json_raw(w, tags);
    }
}

static void write_properties(nv_json_writer *w, const nv_twin_row *row)
{
    int64_t created_us = nv_twin_created_us(row->generation);
    nv_json_key(w, "properties");
    nv_json_begin_object(w);
    nv_twin_write_section(w, "desired", row->desired, row->desired_metadata, true, created_us, row->desired_version);
    nv_twin_write_section(w, "reported", row->reported, row->reported_metadata, false, created_us,
                          row->reported_version);
    nv_json_end_object(w);
}

void nv_twin_write_service(const nv_twin *twin, nv_json_writer *w)
{
    const nv_identity *identity = twin->identity;
    uint64_t generation = 0;
    (void)nv_span_to_u64(identity->generation_id, &generation);
    nv_twin_row row = {.generation = generation,
                       .desired_version = twin->desired_version,
                       .reported_version = twin->reported_version,
                       .desired = twin->desired,
                       .reported = twin->reported,
                       .desired_metadata = twin->desired_metadata,
                       .reported_metadata = twin->reported_metadata};
    nv_json_begin_object(w);
    write_ids(w, identity->device_id, identity->module_id, twin->etag);
    write_identity(w, twin);
    write_string(w, "modelId", twin->model_id);
    write_version(w, twin->version);
    write_tags(w, twin->tags);
    write_properties(w, &row);
    if (identity->module_id.len == 0) {
        write_device_tail(w, identity);
    }
    nv_json_end_object(w);
}

void nv_twin_write_row(nv_json_writer *w, nv_span device_id, nv_span module_id, const nv_twin_row *row)
{
    nv_json_begin_object(w);
    write_ids(w, device_id, module_id, row->etag);
    write_version(w, row->version);
    write_tags(w, row->tags);
    write_properties(w, row);
    nv_json_end_object(w);
}

nv_err nv_twin_lifecycle_body(nv_txn *txn, nv_span device_id, nv_span module_id, nv_buf *out)
{
    nv_twin_row row;
    nv_err err = nv_txn_twin_get(txn, device_id, module_id, &row);
    nv_json_writer w = nv_json_writer_of(out);
    if (err == NV_OK) {
        nv_twin_write_row(&w, device_id, module_id, &row);
        err = w.err;
    }
    return err;
}
