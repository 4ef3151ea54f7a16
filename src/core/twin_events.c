/* Events of twin changes (semantics.md sections 4.2 and 4.3), within the transaction of the change. */
#include "core/twin_update.h"

#include "codec/json.h"
#include "core/events.h"

#define BODY_BYTES_MAX (64u << 20)

/* A property section of an updateTwin: what changed, and only its metadata. */
static void write_changed(nv_json_writer *w, const char *name, const nv_twin_patch *patch, uint32_t node, nv_span text,
                          const nv_twin_stamp *stamp, uint64_t version)
{
    nv_json_key(w, name);
    nv_twin_open_object(w, text);
    nv_json_key(w, "$metadata");
    nv_twin_node_metadata_write(patch, node, stamp, w);
    nv_json_key(w, "$version");
    nv_json_uint(w, version);
    nv_json_end_object(w);
}

static nv_err write_patched(nv_json_writer *w, const char *name, const nv_twin_patch *patch, uint32_t node,
                            const nv_twin_stamp *stamp, uint64_t version)
{
    nv_buf text;
    nv_buf_init(&text, BODY_BYTES_MAX);
    nv_err err = nv_twin_node_write(patch, node, &text);
    if (err == NV_OK && stamp) {
        write_changed(w, name, patch, node, nv_buf_span(&text), stamp, version);
    } else if (err == NV_OK) {
        nv_json_key(w, name);
        nv_json_raw(w, nv_buf_span(&text));
    }
    nv_buf_deinit(&text);
    return err;
}

static nv_err write_update(nv_json_writer *w, const nv_twin_update *update, int64_t now_us)
{
    const nv_twin_patch *patch = update->patch;
    const nv_twin_row *row = &update->row;
    nv_twin_stamp stamp = {.us = now_us};
    nv_err err = NV_OK;
    nv_json_begin_object(w);
    nv_json_key(w, "version");
    nv_json_uint(w, row->version);
    if (patch->tags) {
        err = write_patched(w, "tags", patch, patch->tags, NULL, 0);
    }
    if (err == NV_OK && (patch->desired || patch->reported)) {
        nv_json_key(w, "properties");
        nv_json_begin_object(w);
        if (patch->desired) {
            nv_twin_stamp desired = {.us = now_us, .versions = true, .version = row->desired_version};
            write_changed(w, "desired", patch, patch->desired, nv_buf_span(&update->desired_news), &desired,
                          row->desired_version);
        }
        if (patch->reported) {
            err = write_patched(w, "reported", patch, patch->reported, &stamp, row->reported_version);
        }
        nv_json_end_object(w);
    }
    nv_json_end_object(w);
    return err == NV_OK ? w->err : err;
}

static nv_err put_event(nv_twin_update *update, nv_source source, const char *schema, const char *operation,
                        int64_t now_us, nv_span body, nv_txn *txn)
{
    nv_event event = {.source = source,
                      .schema = schema,
                      .operation = operation,
                      .device_id = update->device_id,
                      .module_id = update->module_id,
                      .generation = update->row.generation,
                      .operation_us = now_us,
                      .body = body};
    nv_err err = nv_events_put(update->hub, txn, &event);
    update->event = update->event || err == NV_OK;
    return err;
}

static nv_err put_change(nv_twin_update *update, int64_t now_us, nv_txn *txn, nv_buf *body)
{
    bool whole = update->verb == NV_TWIN_REPLACE;
    nv_json_writer w = nv_json_writer_of(body);
    nv_err err = NV_OK;
    if (whole) {
        nv_twin_write_row(&w, update->device_id, update->module_id, &update->row);
        err = w.err;
    } else {
        err = write_update(&w, update, now_us);
    }
    return err == NV_OK ? put_event(update, NV_SOURCE_TWIN_CHANGE, "twinChangeNotification",
                                    whole ? "replaceTwin" : "updateTwin", now_us, nv_buf_span(body), txn)
                        : err;
}

static nv_err put_digital(nv_twin_update *update, const nv_twin_row *before, int64_t now_us, nv_txn *txn, nv_buf *body)
{
    nv_buf_clear(body);
    nv_json_writer w = nv_json_writer_of(body);
    if (!nv_twin_pnp_write(before, &update->row, &w) || w.err != NV_OK) {
        return w.err;
    }
    return put_event(update, NV_SOURCE_DIGITAL_TWIN_CHANGE, "digitalTwinChangeNotification", "updateTwin", now_us,
                     nv_buf_span(body), txn);
}

nv_err nv_twin_events_put(nv_twin_update *update, const nv_twin_row *before, int64_t now_us, nv_txn *txn)
{
    const nv_twin_patch *patch = update->patch;
    bool changes = update->verb == NV_TWIN_REPLACE || patch->tags || patch->desired || patch->reported;
    nv_err err = NV_OK;
    nv_buf body;
    nv_buf_init(&body, BODY_BYTES_MAX);
    if (changes && nv_events_wanted(update->hub, NV_SOURCE_TWIN_CHANGE)) {
        err = put_change(update, now_us, txn, &body);
    }
    if (err == NV_OK && before->model_id.len && nv_events_wanted(update->hub, NV_SOURCE_DIGITAL_TWIN_CHANGE)) {
        err = put_digital(update, before, now_us, txn, &body);
    }
    nv_buf_deinit(&body);
    return err;
}
