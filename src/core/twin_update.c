#include "core/twin_update.h"

#include "core/twin_index.h"
#include "core/twin_json.h"

#include <inttypes.h>

/* .NET ticks count 100 ns from 0001-01-01. */
#define TICKS_AT_UNIX_EPOCH UINT64_C(621355968000000000)
#define TICKS_PER_US        UINT64_C(10)

/* What the device is told is at most a section, and the names in it as nulls. */
#define NEWS_BYTES_MAX (64u << 20)

int64_t nv_twin_created_us(uint64_t generation)
{
    return generation > TICKS_AT_UNIX_EPOCH ? (int64_t)((generation - TICKS_AT_UNIX_EPOCH) / TICKS_PER_US) : 0;
}

void nv_twin_update_init(nv_twin_update *update)
{
    update->verdict = (nv_verdict){.error = NV_HUB_ERROR_NONE};
    update->row = (nv_twin_row){0};
    update->desired_changed = update->event = false;
    nv_buf_init(&update->desired_news, NEWS_BYTES_MAX);
    nv_twin_section_init(&update->_tags);
    nv_twin_section_init(&update->_desired);
    nv_twin_section_init(&update->_reported);
}

void nv_twin_update_deinit(nv_twin_update *update)
{
    nv_buf_deinit(&update->desired_news);
    nv_twin_section_deinit(&update->_tags);
    nv_twin_section_deinit(&update->_desired);
    nv_twin_section_deinit(&update->_reported);
}

/* ---- against what is stored ---- */

static nv_err refuse_absent(nv_twin_update *self, nv_txn *txn)
{
    nv_identity_row device;
    nv_err err =
        self->module_id.len ? nv_txn_identity_get(txn, self->device_id, NV_SPAN_EMPTY, &device) : NV_E_NOT_FOUND;
    if (err == NV_OK) {
        (void)nv_verdict_refuse(&self->verdict, NV_HUB_ERROR_ModuleNotFound, "%.*s/%.*s", NV_SPAN_ARG(self->device_id),
                                NV_SPAN_ARG(self->module_id));
    } else if (err == NV_E_NOT_FOUND) {
        (void)nv_verdict_refuse(&self->verdict, NV_HUB_ERROR_DeviceNotFound, "%.*s", NV_SPAN_ARG(self->device_id));
    }
    return err == NV_OK || err == NV_E_NOT_FOUND ? NV_TWIN_REFUSED : err;
}

static nv_err check_precondition(nv_twin_update *self, const nv_twin_row *row)
{
    if (self->precondition == NV_IF_ETAG && self->etag != row->etag) {
        (void)nv_verdict_refuse(&self->verdict, NV_HUB_ERROR_PreconditionFailed, "%s", "");
        return NV_TWIN_REFUSED;
    }
    if (self->has_version && self->version != row->reported_version) {
        (void)nv_verdict_refuse(&self->verdict, NV_HUB_ERROR_PreconditionFailed,
                                "The reported properties are at version %" PRIu64 ", not %" PRIu64,
                                row->reported_version, self->version);
        return NV_TWIN_REFUSED;
    }
    return NV_OK;
}

/* ---- sections ---- */

static nv_err check_size(nv_twin_update *self, const char *section, nv_span text, int64_t limit)
{
    size_t most = limit > 0 ? (size_t)limit : 0;
    if (text.len <= most) {
        return NV_OK; /* as text it fits: the service's edge variant accepts that */
    }
    size_t size = nv_twin_size(text);
    if (size > most) {
        (void)nv_verdict_refuse(&self->verdict, NV_HUB_ERROR_ArgumentInvalid,
                                "%s: the size is %zu, %zu more than the limit of %zu", section, size, size - most,
                                most);
        return NV_TWIN_REFUSED;
    }
    if (text.len / NV_TWIN_TEXT_FACTOR > most) {
        (void)nv_verdict_refuse(&self->verdict, NV_HUB_ERROR_ArgumentInvalid,
                                "%s: takes %zu bytes as text, more than %zu", section, text.len,
                                most * NV_TWIN_TEXT_FACTOR);
        return NV_TWIN_REFUSED;
    }
    return NV_OK;
}

/* Merge, or replace when the whole is given or the section is cleared. */
static nv_err change_section(const nv_twin_update *self, uint32_t node, nv_span text, nv_span metadata,
                             const nv_twin_stamp *stamp, nv_twin_section *out)
{
    bool merges = self->verb != NV_TWIN_REPLACE && self->patch->nodes[node].kind == NV_TWIN_OBJECT;
    return merges ? nv_twin_merge(self->patch, node, text, metadata, stamp, out)
                  : nv_twin_replace(self->patch, node, stamp, out);
}

static nv_err change_tags(nv_twin_update *self, nv_twin_row *row)
{
    nv_err err = change_section(self, self->patch->tags, row->tags, NV_SPAN_EMPTY, NULL, &self->_tags);
    row->tags = nv_buf_span(&self->_tags.text);
    return err == NV_OK ? check_size(self, "tags", row->tags, self->hub->limits.twin_tags_bytes) : err;
}

static nv_err change_reported(nv_twin_update *self, nv_twin_row *row, int64_t now_us)
{
    nv_twin_stamp stamp = {.us = now_us};
    row->reported_version++;
    nv_err err =
        change_section(self, self->patch->reported, row->reported, row->reported_metadata, &stamp, &self->_reported);
    row->reported = nv_buf_span(&self->_reported.text);
    row->reported_metadata = nv_buf_span(&self->_reported.metadata);
    return err == NV_OK ? check_size(self, "properties.reported", row->reported, self->hub->limits.twin_reported_bytes)
                        : err;
}

/* A section that was cleared by null, as a patch: every name it had, null. */
static nv_err write_nulls(nv_span text, nv_buf *out)
{
    nv_twin_cursor c = nv_twin_cursor_of(text);
    nv_span name;
    nv_err err = nv_buf_append_str(out, "{");
    (void)nv_twin_take(&c, '{');
    for (bool first = true; err == NV_OK && c.at && nv_twin_next_member(&c, &name); first = false) {
        (void)nv_twin_take_value(&c, NULL);
        err = first ? NV_OK : nv_buf_append_str(out, ",");
        err = err == NV_OK ? nv_buf_append(out, name) : err;
        err = err == NV_OK ? nv_buf_append_str(out, ":null") : err;
    }
    return err == NV_OK ? nv_buf_append_str(out, "}") : err;
}

static nv_err tell_desired(nv_twin_update *self, const nv_twin_row *before, const nv_twin_row *row)
{
    uint32_t node = self->patch->desired;
    nv_buf_clear(&self->desired_news);
    if (self->verb == NV_TWIN_REPLACE) {
        return nv_buf_append(&self->desired_news, row->desired);
    }
    return self->patch->nodes[node].kind == NV_TWIN_OBJECT ? nv_twin_node_write(self->patch, node, &self->desired_news)
                                                           : write_nulls(before->desired, &self->desired_news);
}

static nv_err change_desired(nv_twin_update *self, nv_twin_row *row, int64_t now_us)
{
    nv_twin_row before = *row;
    row->desired_version += self->creates ? 0 : 1;
    nv_twin_stamp stamp = {.us = now_us, .versions = true, .version = row->desired_version};
    self->desired_changed = true;
    nv_err err =
        change_section(self, self->patch->desired, row->desired, row->desired_metadata, &stamp, &self->_desired);
    row->desired = nv_buf_span(&self->_desired.text);
    row->desired_metadata = nv_buf_span(&self->_desired.metadata);
    err =
        err == NV_OK ? check_size(self, "properties.desired", row->desired, self->hub->limits.twin_desired_bytes) : err;
    return err == NV_OK ? tell_desired(self, &before, row) : err;
}

static nv_err change_sections(nv_twin_update *self, nv_twin_row *row, int64_t now_us)
{
    bool whole = self->verb == NV_TWIN_REPLACE;
    nv_err err = NV_OK;
    row->version += self->creates ? 0 : 1;
    row->etag += self->creates || self->verb == NV_TWIN_REPORTED ? 0 : 1;
    if (self->patch->tags || whole) {
        err = change_tags(self, row);
    }
    if (err == NV_OK && (self->patch->desired || whole)) {
        err = change_desired(self, row, now_us);
    }
    if (err == NV_OK && self->patch->reported) {
        err = change_reported(self, row, now_us);
    }
    return err;
}

nv_err nv_twin_update_find(nv_twin_update *update, nv_txn *txn, nv_twin_row *row)
{
    update->verdict = (nv_verdict){.error = NV_HUB_ERROR_NONE};
    nv_err err = nv_txn_twin_get(txn, update->device_id, update->module_id, row);
    bool other = err == NV_OK && update->generation && update->generation != row->generation;
    return other || err == NV_E_NOT_FOUND ? refuse_absent(update, txn) : err;
}

nv_err nv_twin_update_run(nv_twin_update *update, nv_txn *txn)
{
    nv_twin_row before;
    update->desired_changed = update->event = false;
    nv_err err = nv_twin_update_find(update, txn, &before);
    err = err == NV_OK ? check_precondition(update, &before) : err;
    if (err != NV_OK) {
        return err;
    }
    int64_t now_us = nv_wall_us(update->hub->clock);
    update->row = before;
    err = change_sections(update, &update->row, now_us);
    if (err == NV_OK) {
        bool metadata = update->desired_changed || update->patch->reported;
        err = nv_txn_twin_put(txn, update->device_id, update->module_id, &update->row, metadata);
    }
    if (err == NV_OK) {
        err = nv_twin_index_update(txn, update->device_id, update->module_id, before.tags, update->row.tags);
    }
    update->row.stored = true;
    return err == NV_OK && !update->creates ? nv_twin_events_put(update, &before, now_us, txn) : err;
}

nv_err nv_twin_create(nv_hub *hub, nv_txn *txn, nv_span device_id, nv_span module_id, nv_span body, nv_hub_error *error,
                      char detail[200])
{
    nv_twin_patch patch;
    nv_twin_update update = {.hub = hub,
                             .verb = NV_TWIN_PATCH,
                             .device_id = device_id,
                             .module_id = module_id,
                             .patch = &patch,
                             .creates = true};
    nv_twin_update_init(&update);
    bool good = nv_twin_patch_init(&patch, body, NV_TWIN_FORM_PATCH, &update.verdict);
    nv_err err = good ? nv_twin_update_run(&update, txn) : NV_TWIN_REFUSED;
    *error = update.verdict.error;
    memcpy(detail, update.verdict.detail, sizeof(update.verdict.detail));
    nv_twin_patch_deinit(&patch);
    nv_twin_update_deinit(&update);
    return err;
}
